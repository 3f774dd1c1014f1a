"""Milvus against `CaseIndex`: what one finds, the other finds, bit for bit; pushes that are killed; what goes wrong.

The engine is milvus-lite, once as a file and once behind an address on the loopback, as a cluster is reached.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SPEC, fill, run_cli
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr_embed.errors import CaseIndexError
from cxr_embed.forget import forget
from cxr_embed.index import CaseIndex, Query
from cxr_embed.index.faiss.build import build_index
from cxr_embed.index.where import And, Between, Compare, Condition, IsKnown, Not, OneOf, Or, mask
from cxr_embed.manifest import read_manifest
from cxr_embed.store import Row, StoreWriter, open_store
from cxr_embed.types import EncoderSpec

pytest.importorskip("pymilvus", reason="Milvus is an extra: pip install 'cxr-embed[milvus]'")
pytest.importorskip("milvus_lite", reason="the embedded Milvus does not run on this system")

from cxr_embed.index.milvus import client as milvus_client
from cxr_embed.index.milvus import push as milvus_push
from cxr_embed.index.milvus import remove as milvus_remove
from cxr_embed.index.milvus import search as milvus
from cxr_embed.index.milvus.filter import KEY
from cxr_embed.index.milvus.push import push
from cxr_embed.index.milvus.search import MilvusIndex

CASES, WIDTH = 150, 6
DATES, VIEWS = ["2019-12-31", "2020-01-01", "2021-05-06"], ["PA", "AP", 'L "lateral"', "it's \\ a view"]
AGES, RULES = ["0", "17.5", "40", "61"], ["exclude_same_patient", "only_same_patient", "one_per_patient"]


@pytest.fixture(scope="module", autouse=True)
def _servers_end() -> Iterator[None]:
    yield
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_all()


def write_store(path: Path, vectors: np.ndarray, patients: list[str], spec: EncoderSpec | None = None) -> None:
    spec = spec or EncoderSpec(
        name="toy", revision="1", preprocessing="none", outputs={"features": (vectors.shape[1],)}
    )
    output = next(iter(spec.outputs))
    with StoreWriter(path, spec, dtype="float32") as writer:
        for number, vector in enumerate(vectors):
            row = Row(image_id=f"i{number}", patient_id=patients[number], content=number.to_bytes(32, "big"))
            writer.add_vector(row, {output: vector})
        writer.flush("toy engine")


def write_manifest(path: Path, count: int, **changed: str) -> None:
    """A table with every kind of column, a third of it unknown; `changed` says another site of some images."""
    rng = np.random.default_rng(7)

    def some(values: list[str]) -> str:
        value = str(rng.choice(["", *values, *values[:1]]))
        return '"' + value.replace('"', '""') + '"'

    lines = ["image_id,path,patient_id,study_date,view,age,site,No Finding,No-Finding"]
    for number in range(count):
        cells = [some(DATES), some(VIEWS), some(AGES), changed.get(f"i{number}", some(["A", "B"]))]
        findings = [some(["0", "1", "-1"]), some(["1", "0"])]
        lines.append(",".join([f"i{number}", f"i{number}.png", f"p{number % 40}", *cells, *findings]))
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with copies among its vectors, its manifest, an index of it, and the same in Milvus."""
    folder = tmp_path_factory.mktemp("milvus")
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((CASES, WIDTH)).astype(np.float32)
    vectors[100:130] = vectors[rng.integers(0, 10, 30)]
    patients = [f"p{number % 40}" for number in range(CASES)]
    write_store(folder / "store", vectors, patients)
    write_manifest(folder / "manifest.csv", CASES)
    store, manifest = open_store(folder / "store"), read_manifest(folder / "manifest.csv")
    build_index(store, folder / "index", manifest=manifest)
    push(store, manifest, str(folder / "cases.db"), "cases")
    return folder


@pytest.fixture(scope="module", name="both")
def _both(folder: Path) -> tuple[CaseIndex, MilvusIndex]:
    return CaseIndex(folder / "index"), MilvusIndex(str(folder / "cases.db"), "cases")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of a server of our own."""
    from milvus_lite.adapter.grpc.server import start_server_in_thread

    running, database, port = start_server_in_thread(str(tmp_path / "server"), host="127.0.0.1", port=0)
    yield f"http://127.0.0.1:{port}"
    running.stop(grace=0).wait()
    database.close()


def assert_same(index: CaseIndex, other: MilvusIndex, queries: list[Query], k: int, **options: Any) -> None:
    here, there = index.search(queries, k, **options), other.search(queries, k, **options)
    np.testing.assert_array_equal(there.ids, here.ids)
    np.testing.assert_array_equal(there.similarity, here.similarity)
    np.testing.assert_array_equal(there.query_ids, here.query_ids)


def conditions() -> st.SearchStrategy[Condition]:
    order = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])
    same, ages, dates = (
        st.sampled_from(["=", "!="]),
        st.sampled_from([*AGES, "-1", "inf", "1e-9"]),
        st.sampled_from(DATES),
    )
    texts = st.sampled_from([*VIEWS, "", "nothing", '" or image_id != "'])
    findings = st.sampled_from(["No Finding", "No-Finding"])
    simple = st.one_of(
        st.builds(Compare, st.sampled_from(["view", "site", "image_id"]), same, texts),
        st.builds(Compare, st.just("age"), order, ages),
        st.builds(Compare, st.just("study_date"), order, dates),
        st.builds(Compare, findings, order, st.sampled_from(["0", "1"])),
        st.builds(Between, st.just("age"), ages, ages),
        st.builds(OneOf, st.just("view"), st.lists(texts, min_size=1, max_size=3).map(tuple)),
        st.builds(OneOf, st.just("age"), st.lists(ages, min_size=1, max_size=3).map(tuple)),
        st.builds(IsKnown, st.sampled_from(["view", "age", "study_date", "No Finding", "patient_id", "image_id"])),
    )
    parts = lambda inner: st.lists(inner, min_size=2, max_size=3).map(tuple)  # noqa: E731
    return st.recursive(
        simple,
        lambda inner: st.one_of(st.builds(And, parts(inner)), st.builds(Or, parts(inner)), st.builds(Not, inner)),
        max_leaves=6,
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    condition=conditions(),
    before=st.sampled_from([None, *DATES]),
    row=st.integers(0, CASES - 1),
    k=st.sampled_from([1, 3, 10, CASES + 5]),
    rules=st.lists(st.sampled_from(RULES), unique=True).filter(lambda chosen: set(RULES[:2]) - set(chosen)),
)
def test_finds_what_the_index_finds(
    both: tuple[CaseIndex, MilvusIndex], condition: Condition, before: str | None, row: int, k: int, rules: list[str]
) -> None:
    index, other = both
    assert other.count(condition) == mask(condition, index.table).sum()
    query = index.query_of(f"i{row}")
    assert_same(index, other, [query], k, where=condition, before=before, **dict.fromkeys(rules, True))


def test_days_are_filtered_as_the_index_does(tmp_path: Path) -> None:
    write_store(tmp_path / "store", np.eye(6, WIDTH, dtype=np.float32), [f"p{number}" for number in range(6)])
    days = ["-400", "-1", "0", "17", "", "9999999"]
    rows = [f"i{number},i{number}.png,p{number},{day}" for number, day in enumerate(days)]
    (tmp_path / "m.csv").write_text("\n".join(["image_id,path,patient_id,study_date", *rows]) + "\n")
    store, manifest = open_store(tmp_path / "store"), read_manifest(tmp_path / "m.csv")
    build_index(store, tmp_path / "index", manifest=manifest)
    push(store, manifest, str(tmp_path / "cases.db"), "cases")
    index, other = CaseIndex(tmp_path / "index"), MilvusIndex(str(tmp_path / "cases.db"), "cases")
    for before in (-400, -1, 0, "1", 9999999):
        assert other.count(before=before) == index.count(before=before)
        assert_same(index, other, [index.query_of("i4")], 6, before=before)
    for where in (
        "study_date = -1",
        "study_date != -1",
        "not study_date < 0",
        "study_date is known",
        "study_date >= 0",
    ):
        assert other.count(where) == index.count(where)
    assert [other.cases([other.rows_of([f"i{n}"])[0]], ["study_date"])[0]["study_date"] for n in (0, 4)] == [-400, None]
    with pytest.raises(CaseIndexError, match="study_date holds numbers of days here"):
        other.count(before="2020-01-01")


def test_copies_are_told_in_the_order_of_the_store_and_vectors_are_queries_too(
    both: tuple[CaseIndex, MilvusIndex],
) -> None:
    index, other = both
    for k in (1, 5, 20, CASES):
        assert_same(index, other, index.vectors[:12], k)  # type: ignore[arg-type]
    assert_same(index, other, index.vectors[3], 4)  # type: ignore[arg-type]
    several = Query(index.vectors[1] - index.vectors[2], "difference", ("p1", "p2"), ("i1", "i2"))
    assert_same(index, other, [several], 30, exclude_same_patient=True, one_per_patient=True)


def test_short_answers_are_asked_again_until_all_neighbours_are_known(
    both: tuple[CaseIndex, MilvusIndex], monkeypatch: pytest.MonkeyPatch
) -> None:
    # As if Milvus told 30 rows at most: patients have 4 images each, and some vectors stand there five times.
    monkeypatch.setattr(milvus, "LARGEST", 30)
    index, other = both
    for number in range(0, 40, 3):
        assert_same(index, other, [index.query_of(f"i{number}")], 14)
        assert_same(index, other, [index.query_of(f"i{number}")], 14, one_per_patient=True)


def test_what_is_known_of_a_case_comes_back_as_it_was(both: tuple[CaseIndex, MilvusIndex]) -> None:
    index, other = both
    ids = index.ids[[5, 3, 149]]
    told = other.cases(other.rows_of(ids))
    assert told == index.cases(index.rows_of(ids))
    assert other.cases(other.rows_of(ids), ["content"]) == index.cases(index.rows_of(ids), ["content"])
    assert {type(case["No Finding"]) for case in other.cases(other.rows_of(index.ids))} == {int, type(None)}
    assert (len(other), other.columns) == (CASES, index.columns)
    query, same = other.query_of("i7"), index.query_of("i7")
    assert [each.ids_of_content((7).to_bytes(32, "big")) for each in (index, other)] == [["i7"], ["i7"]]
    np.testing.assert_array_equal(query.vector, same.vector)
    assert (query.name, query.patients, query.images) == (same.name, same.patients, same.images)


@pytest.mark.parametrize("text", ['PA" or image_id != "', "PA' or '1'='1", "\\", '\\"', "PA\n", '"', "{x}", "é \u2028"])
def test_no_text_ends_its_own_quotes(tmp_path: Path, text: str) -> None:
    write_store(tmp_path / "store", np.eye(4, dtype=np.float32), ["p0", "p1", "p2", "p3"])
    quoted = text.replace('"', '""')
    lines = ["image_id,path,patient_id,site", f'i0,a.png,p0,"x{quoted}x"', f'i1,b.png,p1,"x{quoted}"', "i2,c.png,p2,PA"]
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    manifest = read_manifest(tmp_path / "manifest.csv", extra=["site"])
    push(open_store(tmp_path / "store"), manifest, str(tmp_path / "q.db"), "quotes")
    index = MilvusIndex(str(tmp_path / "q.db"), "quotes")
    assert index.count(Compare("site", "=", f"x{text}x")) == 1
    assert index.count(Compare("site", "=", text)) == 0
    assert index.count(Not(OneOf("site", (text, f"x{text}x")))) == 2
    with pytest.raises(CaseIndexError, match="has no case"):
        index.query_of(text)


PUSH = """
import os, signal, sys
from cxr_embed.index.milvus import push as milvus_push
from cxr_embed.manifest import read_manifest
from cxr_embed.store import open_store

milvus_push._BATCH_CASES = 20
def killed(step, done, total):
    if done >= int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
folder = sys.argv[1]
store, manifest = open_store(folder + "/store"), read_manifest(folder + "/manifest.csv")
milvus_push.push(store, manifest, sys.argv[3], "cases", progress=killed)
"""


def test_a_killed_push_goes_on_where_it_was(folder: Path, both: tuple[CaseIndex, MilvusIndex], tmp_path: Path) -> None:
    uri = str(tmp_path / "killed.db")
    for done in ("40", "100"):
        died = subprocess.run([sys.executable, "-c", PUSH, str(folder), done, uri], capture_output=True, text=True)
        assert died.returncode == -signal.SIGKILL, died.stderr
    store, manifest = open_store(folder / "store"), read_manifest(folder / "manifest.csv")
    pushed = push(store, manifest, uri, "cases")
    assert (pushed.images, pushed.added, pushed.replaced, pushed.cases) == (CASES, 50, 0, CASES)
    assert pushed.unchanged == 100
    index, other = both[0], MilvusIndex(uri, "cases")
    assert_same(index, other, [index.query_of("i11")], 20, where="age > 10")
    again = push(store, manifest, uri, "cases")
    assert (again.added, again.replaced, again.unchanged) == (0, 0, CASES)


def test_only_what_changed_is_replaced(folder: Path, tmp_path: Path) -> None:
    uri, store = str(tmp_path / "changed.db"), open_store(folder / "store")
    push(store, read_manifest(folder / "manifest.csv"), uri, "cases")
    write_manifest(tmp_path / "manifest.csv", CASES, i4="C", i9="C")
    pushed = push(store, read_manifest(tmp_path / "manifest.csv"), uri, "cases")
    assert (pushed.added, pushed.replaced, pushed.unchanged, pushed.cases) == (0, 2, CASES - 2, CASES)
    assert MilvusIndex(uri, "cases").count("site = C") == 2


def test_a_vector_without_direction_is_named_and_left_out(tmp_path: Path) -> None:
    vectors = np.eye(5, 4, dtype=np.float32)  # the last one is zero
    write_store(tmp_path / "store", vectors, ["p0"] * 5)
    pushed = push(open_store(tmp_path / "store"), None, str(tmp_path / "z.db"), "zero")
    assert (pushed.images, pushed.added, pushed.cases) == (4, 4, 4)
    assert pushed.notes == ("1 image has a vector that is zero: it has no direction (i4): not pushed",)


def test_tokens_are_pushed_as_their_mean(tmp_path: Path) -> None:
    fill(tmp_path / "store", range(12))
    store = open_store(tmp_path / "store")
    build_index(store, tmp_path / "index", output="tokens", pool="mean")
    push(store, None, str(tmp_path / "t.db"), "tokens", output="tokens")
    index, other = CaseIndex(tmp_path / "index"), MilvusIndex(str(tmp_path / "t.db"), "tokens")
    assert (other.output, other.pool, other.spec) == ("tokens", "mean", SPEC)
    assert_same(index, other, [index.query_of("i3")], 5, exclude_same_patient=True)


def test_a_large_collection_of_a_server_gets_a_graph_and_narrow_filters_stay_exact(
    folder: Path, both: tuple[CaseIndex, MilvusIndex], server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(milvus_push, "FLAT_CASES", 100)
    monkeypatch.setattr(milvus, "EXACT_CASES", 60)
    store, manifest = open_store(folder / "store"), read_manifest(folder / "manifest.csv")
    assert push(store, manifest, server, "cases").index == "HNSW"
    assert push(store, manifest, server, "cases").unchanged == CASES
    index, other = both[0], MilvusIndex(server, "cases")
    assert other.kind == "HNSW"
    asked: list[dict[str, Any]] = []
    search = other.client.search
    monkeypatch.setattr(other.client, "search", lambda *a, **k: asked.append(k) or search(*a, **k))
    narrow = "view = PA and age > 10"
    assert 0 < other.count(narrow) <= 60
    assert_same(index, other, [index.query_of("i20")], 10, where=narrow)
    assert not asked
    assert_same(index, other, [index.query_of("i20")], 10, where="age is known")
    assert [question["search_params"]["params"]["ef"] for question in asked] == [256]


def test_a_push_that_was_killed_between_two_indexes_is_repaired(
    folder: Path, both: tuple[CaseIndex, MilvusIndex], server: str
) -> None:
    store, manifest = open_store(folder / "store"), read_manifest(folder / "manifest.csv")
    push(store, manifest, server, "cases")
    client = milvus_client.connect(server)
    client.release_collection("cases")
    client.drop_index("cases", "vector")
    with pytest.raises(CaseIndexError, match="has no index, its push was stopped; push again"):
        MilvusIndex(server, "cases")
    assert push(store, manifest, server, "cases").unchanged == CASES
    assert_same(both[0], MilvusIndex(server, "cases"), [both[0].query_of("i1")], 5)


def test_other_vectors_and_other_columns_are_refused(folder: Path, tmp_path: Path) -> None:
    uri, store = str(folder / "cases.db"), open_store(folder / "store")
    manifest = read_manifest(folder / "manifest.csv")
    other = EncoderSpec(name="toy", revision="2", preprocessing="none", outputs={"features": (WIDTH,)})
    write_store(tmp_path / "other", np.ones((CASES, WIDTH), np.float32), ["p"] * CASES, other)
    with pytest.raises(CaseIndexError, match=r"holds vectors of toy \[\w+\], these are of toy \[\w+\]; give another"):
        push(open_store(tmp_path / "other"), manifest, uri, "cases")
    with pytest.raises(CaseIndexError, match="differ in the columns study_date, view, age, site, No Finding; give"):
        push(store, None, uri, "cases")
    fill(tmp_path / "two", range(3))
    push(open_store(tmp_path / "two"), None, str(tmp_path / "two.db"), "two")
    with pytest.raises(CaseIndexError, match=r"holds features .*use `output` features"):
        push(open_store(tmp_path / "two"), None, str(tmp_path / "two.db"), "two", output="tokens")
    with pytest.raises(CaseIndexError, match="no output 'x'"):
        push(store, None, uri, "cases", output="x")
    with pytest.raises(CaseIndexError, match="`pool` mean: features is"):
        push(store, None, uri, "cases", pool="mean")


def test_more_columns_than_a_collection_has_are_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "store", np.eye(2, 4, dtype=np.float32), ["p0", "p1"])
    names = [f"finding{number}" for number in range(70)]
    lines = [",".join(["image_id,path,patient_id", *names]), ",".join(["i0,a.png,p0", *["1"] * 70])]
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(CaseIndexError, match="73 columns, a collection takes 61"):
        push(open_store(tmp_path / "store"), read_manifest(tmp_path / "manifest.csv"), str(tmp_path / "w.db"), "wide")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda index: index.search(np.ones(WIDTH), 0), "`k` is the number of neighbours, 1 to 16,368"),
        (lambda index: index.search(np.ones(WIDTH), 16_369), "1 to 16,368 with Milvus, not 16369"),
        (lambda index: index.search(np.ones(WIDTH + 1), 3), r"a vector of shape \(7,\), the cases' have \(6,\)"),
        (lambda index: index.search(np.zeros(WIDTH), 3), "no direction"),
        (lambda index: index.search(np.ones(WIDTH), 3, where="vieww = PA"), "did you mean view"),
        (lambda index: index.search(np.ones(WIDTH), 3, where="view > PA"), "has no order"),
        (lambda index: index.search(np.ones(WIDTH), 3, where='"No Finding" = 2'), "is 0, 1 or unknown"),
        (lambda index: index.search(np.ones(WIDTH), 3, before="yesterday"), "'yesterday' is not a date"),
        (lambda index: index.search(np.ones(WIDTH), 3, only_same_patient=True), "patient is not known"),
        (lambda index: index.rows_of(["i1", "nobody"]), "has no case nobody"),
    ],
)
def test_what_cannot_be_asked(
    both: tuple[CaseIndex, MilvusIndex], ask: Callable[[MilvusIndex], object], message: str
) -> None:
    with pytest.raises(CaseIndexError, match=message):
        ask(both[1])


def test_places_where_there_is_nothing(folder: Path, tmp_path: Path, server: str) -> None:
    with pytest.raises(CaseIndexError, match=r"no collection 'other' \(there are: cases\); `cxr-embed index push`"):
        MilvusIndex(str(folder / "cases.db"), "other")
    with pytest.raises(CaseIndexError, match="no such file"):
        MilvusIndex(str(tmp_path / "none.db"), "cases")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(CaseIndexError, match=r"ends in \.db"):
        MilvusIndex("localhost:19530", "cases")
    with pytest.raises(CaseIndexError, match=r"127\.0\.0\.1:9: cannot be opened .* is the server running"):
        MilvusIndex("http://127.0.0.1:9", "cases")
    with pytest.raises(CaseIndexError, match="Milvus allows letters"):
        MilvusIndex(server, "my cases")
    client = milvus_client.connect(server)
    client.create_collection("foreign", dimension=4)
    with pytest.raises(CaseIndexError, match="was not made by `cxr-embed index push`"):
        MilvusIndex(server, "foreign")


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is damaged"), ('{"format": "cxr_embed.milvus", "version": 9}', "format version 9"), ("[]", "is damaged")],
)
def test_a_property_that_is_not_ours_is_refused(text: str, message: str) -> None:
    with pytest.raises(CaseIndexError, match=message):
        milvus_client.CollectionRecord.from_text(text, "here")


def test_a_record_whose_fingerprint_is_another_is_refused(both: tuple[CaseIndex, MilvusIndex]) -> None:
    text = both[1].record.to_text()
    assert milvus_client.CollectionRecord.from_text(text, "here") == both[1].record
    changed = json.loads(text)
    changed["spec"]["revision"] = "2"
    with pytest.raises(CaseIndexError, match="is damaged"):
        milvus_client.CollectionRecord.from_text(json.dumps(changed), "here")


@pytest.mark.parametrize("missing", ["pymilvus", "milvus_lite"])
def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, missing: str) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(CaseIndexError, match=rf"needs {missing}, .* pip install 'cxr-embed\[milvus\]'"):
        milvus_client.connect(str(tmp_path / "x.db"), create=True)


@pytest.mark.usefixtures("both")
def test_a_file_that_another_process_has_open(folder: Path) -> None:
    done = run_cli("index", "push", str(folder / "store"), "--uri", str(folder / "cases.db"), "--collection", "cases")
    assert done.returncode == 1
    assert "is another process using it? It serves one at a time" in done.stderr
    assert done.stderr.count("\n") <= 2


def test_a_token_comes_from_the_environment(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import pymilvus

    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(pymilvus, "MilvusClient", lambda uri, **options: seen.append({"uri": uri, **options}))
    monkeypatch.setenv("MILVUS_TOKEN", "user:secret")
    milvus_client.connect(server)
    assert [(call["uri"], call["token"], call["timeout"]) for call in seen] == [
        (server, "user:secret", milvus_client.TIMEOUT)
    ]


def test_the_library_tells_its_tracebacks_to_nobody(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(CaseIndexError):
        MilvusIndex("http://127.0.0.1:9", "cases")
    assert capfd.readouterr() == ("", "")


def test_importing_the_package_imports_no_client() -> None:
    code = "import sys, cxr_embed.index, cxr_embed.cli; print({'pymilvus', 'milvus_lite', 'grpc'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ})
    assert done.stdout.strip() == "set()", done.stderr


def test_the_command_line_answers_alike(folder: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "cli.db")
    options = ["--manifest", str(folder / "manifest.csv"), "--extra", "site", "--uri", uri, "--collection", "cases"]
    pushed = run_cli("index", "push", str(folder / "store"), *options, "--json")
    assert pushed.returncode == 0, pushed.stderr
    told = json.loads(pushed.stdout)
    assert (told["added"], told["cases"], told["index"]) == (CASES, CASES, "FLAT")
    question = ["--image-id", "i3", "--not-image-id", "i5", "-k", "6", "--where", "age is known", "--one-per-patient"]
    question += ["--exclude-same-patient", "--json"]
    here = run_cli("search", str(folder / "index"), *question)
    there = run_cli(
        "search", "cases", "--engine", "milvus", "--uri", uri, *question, "--exclude-same-patient", "--json"
    )
    assert there.returncode == 0, there.stderr
    assert json.loads(here.stdout) == json.loads(there.stdout)
    few = run_cli("search", "cases", "--engine", "milvus", "--uri", uri, "--image-id", "i3", "-k", "999")
    assert f"149 cases of the 999 wanted; {CASES} of {CASES} pass" in few.stdout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "milvus"], "--engine milvus and --uri belong together"),
        (["--uri", "x.db"], "--engine milvus and --uri belong together"),
        (["--engine", "elastic"], "'elastic' is not one of 'faiss', 'milvus'"),
        (["--engine", "milvus", "--uri", "x.db"], "x.db: no such file"),
    ],
)
def test_engines_that_are_none(options: list[str], message: str, tmp_path: Path) -> None:
    done = run_cli("search", "cases", "--image-id", "i1", *options, cwd=tmp_path)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def held(file: Path, vector: bytes, image_ids: set[str]) -> tuple[bool, set[str]]:
    """Whether any file of the embedded Milvus holds the vector, and which of the ids one of its tables holds."""
    import pyarrow.parquet

    tables = [pyarrow.parquet.read_table(path) for path in file.rglob("*.parquet")]
    known = {value for table in tables if KEY in table.column_names for value in table[KEY].to_pylist()}
    return any(vector in path.read_bytes() for path in file.rglob("*") if path.is_file()), known & image_ids


def test_what_is_removed_is_in_no_file_of_the_embedded_milvus(folder: Path, tmp_path: Path) -> None:
    uri = str(tmp_path / "cases.db")
    push(open_store(folder / "store"), read_manifest(folder / "manifest.csv"), uri, "c")
    vector = MilvusIndex(uri, "c").query_of("i50").vector.tobytes()
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_all()
    assert held(Path(uri), vector, {"i50", "i43"}) == (True, {"i50", "i43"})
    command = ("index", "remove", "c", "--engine", "milvus", "--uri", uri)
    refused = run_cli(*command, "i8", "--patient", "nobody")
    assert refused.returncode == 1
    assert refused.stderr.startswith(f"error: {uri}: c has no case of the patient nobody")
    assert "no case i999" in run_cli(*command, "i999").stderr
    assert "name the cases to remove" in run_cli(*command).stderr
    done = run_cli(*command, "i50", "--patient", "p3", "--json")
    patient = [number for number in range(CASES) if number % 40 == 3]
    assert json.loads(done.stdout)["removed"] == 1 + len(patient)
    assert held(Path(uri), vector, {"i50", "i43"}) == (False, set())
    index, other = CaseIndex(folder / "index"), MilvusIndex(uri, "c")
    assert len(other) == CASES - 1 - len(patient)
    left = "image_id not in (i50, " + ", ".join(f"i{number}" for number in patient) + ")"
    mine, there = index.search(index.query_of("i0"), 200, where=left), other.search(other.query_of("i0"), 200)
    assert there.ids.tolist() == mine.ids.tolist()
    assert other.cases(other.rows_of(["i5"])) == index.cases(index.rows_of(["i5"]))


@pytest.mark.parametrize("when", ["copying", "the old one is gone"])
def test_a_killed_removal_is_repaired_by_the_next(folder: Path, tmp_path: Path, when: str) -> None:
    uri = str(tmp_path / "cases.db")
    push(open_store(folder / "store"), read_manifest(folder / "manifest.csv"), uri, "c")
    left = MilvusIndex(uri, "c")
    if when == "copying":
        milvus_push.create(left.client, uri, "c_without", left.record)
    else:
        left.client.rename_collection("c", "c_without")
    assert milvus_remove.remove(uri, "c", ["i7"]) == milvus_remove.Removed(1, CASES - 1, ())
    assert left.client.list_collections() == ["c"]
    with pytest.raises(CaseIndexError, match="has no case i7"):
        MilvusIndex(uri, "c").query_of("i7")


def test_a_server_is_told_to_compact_and_says_when_files_go(folder: Path, server: str) -> None:
    push(open_store(folder / "store"), read_manifest(folder / "manifest.csv"), server, "c")
    removed = milvus_remove.remove(server, "c", ["i7", "i9"])
    assert (removed.removed, removed.cases) == (2, CASES - 2)
    assert "garbage collection" in removed.notes[0]
    with pytest.raises(CaseIndexError, match="has no case i9"):
        MilvusIndex(server, "c").query_of("i9")


@pytest.mark.parametrize("here", [True, False])
def test_forget_takes_a_patient_out_of_a_collection_too(folder: Path, server: str, tmp_path: Path, here: bool) -> None:
    uri = str(tmp_path / "cases.db") if here else server
    store = tmp_path / "s"
    fill(store, range(2))
    push(open_store(folder / "store"), read_manifest(folder / "manifest.csv"), uri, "told")
    (tmp_path / "key").write_bytes(b"a key of some length")
    patient = [f"i{number}" for number in range(CASES) if number % 40 == 3]
    options: dict[str, Any] = {
        "patients": ["p3"],
        "images": ["i50"],
        "key_file": tmp_path / "key",
        "milvus": (uri, "told"),
    }
    for dry_run in (True, False):
        told = forget([store], dry_run=dry_run, **options).milvus
        assert told is not None
        assert told["cases"] == len(patient) + 1
    other = MilvusIndex(uri, "told")
    assert len(other) == CASES - 1 - len(patient)
    again = push(
        open_store(folder / "store"), read_manifest(folder / "manifest.csv"), uri, "told", key_file=tmp_path / "key"
    )
    assert (again.images, again.added) == (CASES - 1 - len(patient), 0)
    assert any("of forgotten patients or files" in note for note in again.notes)
