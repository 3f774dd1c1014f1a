"""An index on disk: what is built, added and removed; what is refused; what damage looks like."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers import SPEC, fill, run_cli
from index_world import make_index, make_manifest, make_store, thorough, toy_spec

from cxr_embed import CaseIndex, open_store, read_manifest
from cxr_embed.cli import main
from cxr_embed.cli.index import as_bytes
from cxr_embed.errors import CaseIndexError
from cxr_embed.index.case_table import write_table
from cxr_embed.index.faiss import kinds
from cxr_embed.index.faiss.build import add_cases, build_index, remove_cases
from cxr_embed.index.faiss.layout import CANDIDATES, CASES, VECTORS, IndexRecord
from cxr_embed.index.faiss.verify import verify_index
from cxr_embed.io.digests import file_record
from cxr_embed.store import Row, StoreWriter

KINDS = ["flat", "hnsw", "ivf-fp16", "ivf-sq8", "ivf-pq"]


def random_vectors(count: int, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def contents(root: Path) -> dict[str, bytes]:
    """Every file of an index."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_what_is_built_can_be_opened(tmp_path: Path) -> None:
    vectors = random_vectors(30)
    patients = [f"p{number // 3}" for number in range(30)]
    columns = {
        "view": ["PA", "", "AP"] * 10,
        "age": ["40", "60.5", ""] * 10,
        "study_date": ["2020-01-31", "", ""] * 10,
        "Effusion": ["1", "0.0", "-1"] * 10,
    }
    index = make_index(tmp_path, vectors, patients, columns)
    assert index.ids.tolist() == [f"c{number}" for number in range(30)]
    assert index.patient_ids.tolist() == patients
    assert index.spec == toy_spec(8)
    assert (index.output, index.pool, len(index)) == ("features", "none", 30)
    np.testing.assert_allclose(index.vectors, vectors / np.linalg.norm(vectors, axis=1)[:, None], atol=1e-6)
    assert index.vectors.dtype == np.float32
    assert index.cases([0, 1, 2], ["view", "age", "study_date", "Effusion"]) == [
        {"view": "PA", "age": 40.0, "study_date": "2020-01-31", "Effusion": 1},
        {"view": None, "age": 60.5, "study_date": None, "Effusion": 0},
        {"view": "AP", "age": None, "study_date": None, "Effusion": None},
    ]
    assert index.rows_of(["c29", "c0"]).tolist() == [29, 0]
    assert index.rows_of_patient("p9").tolist() == [27, 28, 29]
    assert verify_index(index.path) == []


def test_days_are_an_order_too_and_no_index_mixes_them_with_dates(tmp_path: Path) -> None:
    vectors, patients = random_vectors(4), ["p"] * 4
    index = make_index(tmp_path, vectors, patients, {"study_date": ["-10", "0", "17", ""]})
    assert index.cases([0, 3], ["study_date"]) == [{"study_date": -10}, {"study_date": None}]
    assert sorted(index.search(vectors[:1], 4, before=17).ids[0]) == ["", "", "c0", "c1"]
    assert index.count(before="1") == index.count("study_date < 1") == 2
    with pytest.raises(CaseIndexError, match="study_date holds numbers of days here, and '2020-01-01' is none"):
        index.search(vectors[:1], 4, before="2020-01-01")
    store = make_store(tmp_path / "more", random_vectors(2), patients[:2], first=4)
    dated = make_manifest(2, patients[:2], {"study_date": ["2020-01-01", ""]}, first=4)
    with pytest.raises(CaseIndexError, match="study_date is a number of days in the index and a date in the manifest"):
        add_cases(index.path, open_store(store), manifest=dated)
    undated = make_manifest(2, patients[:2], {"study_date": ["", ""]}, first=4)
    assert add_cases(index.path, open_store(store), manifest=undated).changed == 2
    assert CaseIndex(index.path).count(before=17) == 2
    blank = make_index(tmp_path / "blank", vectors, patients, {"study_date": [""] * 4})
    days = make_manifest(2, patients[:2], {"study_date": ["5", "6"]}, first=4)
    add_cases(blank.path, open_store(store), manifest=days)
    assert CaseIndex(blank.path).count(before=6) == 1


def test_float16_and_tokens_become_unit_vectors(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(20))
    store = open_store(tmp_path / "s")
    build_index(store, tmp_path / "mean", output="tokens")
    tokens = store.read(output="tokens").vectors.astype(np.float64).mean(axis=1)
    index = CaseIndex(tmp_path / "mean")
    assert index.pool == "mean"
    np.testing.assert_allclose(index.vectors, tokens / np.linalg.norm(tokens, axis=1)[:, None], atol=1e-6)


def test_only_the_manifests_images_are_indexed_and_what_is_left_out_is_told(tmp_path: Path) -> None:
    store = open_store(make_store(tmp_path / "s", random_vectors(6), ["p0", "p0", "p1", "", "p2", "p3"]))
    manifest = make_manifest(5, ["other", "p0", "p1", "p9", "p2"], {}, first=2)
    written = build_index(store, tmp_path / "i", manifest=manifest)
    index = CaseIndex(tmp_path / "i")
    assert index.ids.tolist() == ["c2", "c3", "c4", "c5"]
    assert index.patient_ids.tolist() == ["other", "p0", "p1", "p9"]
    assert [note.split(" image")[0] for note in written.notes] == ["1", "2", "3"]
    assert "no vector in" in written.notes[0]
    assert "are not in the manifest" in written.notes[1]
    assert "another patient" in written.notes[2]


def test_a_zero_vector_is_named_and_left_out(tmp_path: Path) -> None:
    vectors = random_vectors(5)
    vectors[3] = 0
    store = open_store(make_store(tmp_path / "s", vectors, ["p"] * 5))
    written = build_index(store, tmp_path / "i")
    assert CaseIndex(tmp_path / "i").ids.tolist() == ["c0", "c1", "c2", "c4"]
    assert written.notes == ("1 image has a vector that is zero: it has no direction (c3): not indexed",)
    assert verify_index(tmp_path / "i") == []
    nothing = open_store(make_store(tmp_path / "z", np.zeros((2, 8), np.float32), ["p"] * 2))
    with pytest.raises(CaseIndexError, match="none of the vectors has a direction"):
        build_index(nothing, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_cases_come_and_go(tmp_path: Path, kind: str) -> None:
    vectors = random_vectors(500)
    patients = [f"p{number // 2}" for number in range(500)]
    columns = {"view": ["PA", "AP"] * 150, "Effusion": ["0", "1", ""] * 100}
    store = make_store(tmp_path / "s", vectors[:300], patients[:300])
    build_index(open_store(store), tmp_path / "i", manifest=make_manifest(300, patients[:300], columns), kind=kind)
    make_store(store, vectors[300:], patients[300:], first=300)
    more = make_manifest(500, patients, {"view": ["LL"] * 500, "site": ["A"] * 500})
    added = add_cases(tmp_path / "i", open_store(store), manifest=more)
    assert (added.changed, added.record.cases, added.record.kind.name) == (200, 500, kind)
    assert add_cases(tmp_path / "i", open_store(store), manifest=more).changed == 0
    index = thorough(CaseIndex(tmp_path / "i"))
    assert index.cases([299, 300], ["view", "Effusion", "site"]) == [
        {"view": "AP", "Effusion": None, "site": None},
        {"view": "LL", "Effusion": None, "site": "A"},
    ]
    assert index.search(vectors[[7, 450]], 1).ids.tolist() == [["c7"], ["c450"]]

    secret = index.vectors[index.rows_of(["c8", "c9", "c450"])].copy()
    removed = remove_cases(tmp_path / "i", ["c450"], ["p4"])
    assert (removed.changed, removed.record.cases) == (3, 497)
    index = thorough(CaseIndex(tmp_path / "i"))
    kept = [f"c{number}" for number in range(500) if number not in (8, 9, 450)]
    assert index.ids.tolist() == kept
    np.testing.assert_array_equal(index.vectors, index.vectors[index.rows_of(kept)])
    found = index.search(vectors, 1).ids[:, 0].tolist()
    assert [found[int(name[1:])] for name in kept] == kept
    assert not {found[number] for number in (8, 9, 450)} & {"c8", "c9", "c450"}
    assert verify_index(tmp_path / "i") == []
    everything = b"".join(contents(tmp_path / "i").values())
    for vector in secret:
        assert vector.tobytes() not in everything
        assert vector.astype(np.float16).tobytes() not in everything
    everything = re.sub(rb"[0-9a-f]{32,}", b"", everything)  # c450 may stand in a digest by chance
    for trace in (b"c450", b"p4\0", (8).to_bytes(32, "big"), (450).to_bytes(32, "big")):
        assert trace not in everything, trace


def test_cases_whose_file_is_another_now_are_told(tmp_path: Path) -> None:
    make_store(tmp_path / "s", random_vectors(4), list("abcd"))
    build_index(open_store(tmp_path / "s"), tmp_path / "i")
    assert add_cases(tmp_path / "i", open_store(tmp_path / "s")).notes == ()
    with StoreWriter(tmp_path / "later", toy_spec(8), dtype="float32") as writer:
        for number, vector in enumerate(random_vectors(5)):
            content = (100 if number == 2 else number).to_bytes(32, "big")
            writer.add_vector(
                Row(image_id=f"c{number}", patient_id=f"p{number}", content=content), {"features": vector}
            )
        writer.flush("toy")
    added = add_cases(tmp_path / "i", open_store(tmp_path / "later"))
    assert added.changed == 1
    assert len(added.notes) == 1
    assert added.notes[0].startswith("1 image is indexed from another file than ")
    assert "(c2): left as they are; `index remove` them first" in added.notes[0]


@pytest.mark.parametrize("kind", ["ivf-sq8", "ivf-pq"])
def test_faiss_says_nothing_on_stderr(tmp_path: Path, kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    make_store(tmp_path / "s", random_vectors(300), ["p"] * 300)
    build_index(open_store(tmp_path / "s"), tmp_path / "i", kind=kind)
    assert capfd.readouterr().err == ""


def centroids(index: CaseIndex) -> np.ndarray:
    similar = index.similar
    return np.array(similar.faiss.quantizer.reconstruct_n(0, similar.faiss.nlist))


def test_lists_that_were_one_removed_cases_vector_are_learned_anew(tmp_path: Path) -> None:
    vectors = random_vectors(400, 16)
    vectors[:390] = 0.01 * vectors[:390] + random_vectors(1, 16, seed=1)
    index = make_index(tmp_path, vectors, kind="ivf-fp16")
    alone = np.flatnonzero(((index.vectors @ centroids(index).T) > 1 - 1e-5).any(axis=1))
    alone = alone[alone >= 390]
    assert len(alone), "no case has a list of its own: the test's world has changed"
    secret = index.vectors[alone].copy()
    remove_cases(index.path, index.ids[alone].tolist())
    after = CaseIndex(index.path)
    assert (secret @ centroids(after).T < 1 - 1e-5).all()
    assert verify_index(index.path) == []


def test_removing_all_leaves_an_index_of_nothing(tmp_path: Path) -> None:
    index = make_index(tmp_path, random_vectors(3))
    assert remove_cases(index.path, ["c0", "c1", "c2"]).record.cases == 0
    empty = CaseIndex(index.path)
    assert empty.ids.tolist() == []
    assert empty.search(
        np.ones(8, np.float32), 2, where="view is known" if "view" in empty.table.column_names else None
    )
    assert empty.search(np.ones(8, np.float32), 2).ids.tolist() == [["", ""]]
    assert verify_index(index.path) == []
    added = add_cases(index.path, open_store(tmp_path / "store"))
    assert added.record.cases == 3


def test_a_flat_index_that_outgrows_its_size_becomes_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kinds, "_FLAT_VALUES", 8 * 100)
    store = make_store(tmp_path / "s", random_vectors(90), ["p"] * 90)
    for kind in ("auto", "flat"):
        assert build_index(open_store(store), tmp_path / kind, kind=kind).record.kind.name == "flat"
    make_store(store, random_vectors(60, seed=1), ["p"] * 60, first=90)
    for kind, name in (("auto", "hnsw"), ("flat", "flat")):
        assert add_cases(tmp_path / kind, open_store(store)).record.kind.name == name
        assert verify_index(tmp_path / kind) == []


def test_the_kind_follows_size_and_memory() -> None:
    assert kinds.choose(10_000, 128).name == "flat"
    assert kinds.choose(150_000, 128).name == "hnsw"
    assert kinds.choose(150_000, 128, memory=60_000_000).name == "ivf-fp16"
    assert kinds.choose(1_000_000, 128).factory == "IVF4096,SQfp16"
    assert kinds.choose(1_000_000, 128, memory=200_000_000).factory == "IVF4096,SQ8"
    assert kinds.choose(1_000_000, 128, memory=100_000_000).factory == "IVF4096,PQ32x8"
    assert kinds.choose(1_000_000, 128, "flat", memory=1).name == "flat"
    with pytest.raises(CaseIndexError, match="need 42 MB of memory at least; raise `memory`"):
        kinds.choose(1_000_000, 128, memory=1_000_000)
    with pytest.raises(CaseIndexError, match="`kind` is auto, flat, hnsw, ivf-fp16, ivf-sq8, ivf-pq, not 'lsh'"):
        kinds.choose(10, 2, "lsh")
    for width in (1, 7, 128, 1376, 1764):
        assert width % kinds._parts(width) == 0


@pytest.mark.parametrize("kind", ["flat", "ivf-fp16"])
def test_a_folder_can_be_moved_and_names_no_place(tmp_path: Path, kind: str) -> None:
    vectors = random_vectors(200)
    index = make_index(tmp_path / "here", vectors, kind=kind)
    expected = thorough(index).search(vectors[:5], 3).ids
    shutil.move(tmp_path / "here" / "index", tmp_path / "there")
    shutil.rmtree(tmp_path / "here")
    moved = thorough(CaseIndex(tmp_path / "there"))
    np.testing.assert_array_equal(moved.search(vectors[:5], 3).ids, expected)
    assert verify_index(tmp_path / "there") == []
    place = str(tmp_path).encode()
    assert all(place not in data for data in contents(tmp_path / "there").values())


def test_an_open_index_outlives_what_a_writer_does_to_it(tmp_path: Path) -> None:
    vectors = random_vectors(200)
    index = make_index(tmp_path, vectors, kind="ivf-fp16")
    asked, late = thorough(CaseIndex(index.path)), thorough(CaseIndex(index.path))
    assert asked.search(vectors[3], 1).ids.tolist() == [["c3"]]
    remove_cases(index.path, ["c3"])
    assert asked.search(vectors[3], 1).ids.tolist() == [["c3"]]
    with pytest.raises(CaseIndexError, match="written anew since it was opened: open it again"):
        late.search(vectors[3], 1)


def test_opening_is_tried_again_when_a_writer_was_faster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = make_index(tmp_path, random_vectors(5))
    check = IndexRecord.check_sizes

    def late(record: IndexRecord, root: Path) -> None:
        monkeypatch.setattr(IndexRecord, "check_sizes", check)
        remove_cases(root, ["c0"])
        check(record, root)

    monkeypatch.setattr(IndexRecord, "check_sizes", late)
    assert len(CaseIndex(index.path)) == 4


def damaged_at(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x55
    path.write_bytes(data)


@pytest.mark.parametrize("name", [CASES, VECTORS, CANDIDATES])
def test_every_flipped_byte_is_found(tmp_path: Path, name: str) -> None:
    index = make_index(tmp_path, random_vectors(300), kind="hnsw")
    path = index.folder / name
    for place in np.random.default_rng(0).integers(0, path.stat().st_size, 5).tolist():
        damaged_at(path, place)
        assert [fault.where for fault in verify_index(index.path)] == [name]
        if name == CASES:
            with pytest.raises(CaseIndexError, match="checksum differs"):
                CaseIndex(index.path)
        if name == CANDIDATES:
            with pytest.raises(CaseIndexError, match="damaged"):
                thorough(CaseIndex(index.path)).search(np.ones(8, np.float32), 1)
        damaged_at(path, place)
    assert verify_index(index.path) == []


@pytest.mark.parametrize("name", [CASES, VECTORS, CANDIDATES])
def test_parts_that_disagree_are_an_error(tmp_path: Path, name: str) -> None:
    one = make_index(tmp_path / "one", random_vectors(100), kind="ivf-fp16")
    other = make_index(tmp_path / "other", random_vectors(120, seed=1), kind="ivf-fp16")
    shutil.copyfile(other.folder / name, one.folder / name)
    with pytest.raises(CaseIndexError, match="do not belong together"):
        CaseIndex(one.path)
    (one.folder / name).unlink()
    with pytest.raises(CaseIndexError, match="cannot be read"):
        CaseIndex(one.path)
    assert [fault.where for fault in verify_index(one.path)] == [name]


def test_candidates_of_other_cases_are_refused(tmp_path: Path) -> None:
    one = make_index(tmp_path / "one", random_vectors(100), kind="ivf-fp16")
    kinds.write(one.folder / CANDIDATES, kinds.build(random_vectors(90), kinds.choose(90, 8, "ivf-fp16")))
    with pytest.raises(CaseIndexError, match="damaged, or of other vectors"):
        kinds.load(one.folder / CANDIDATES, one.record.kind, 100, 8, "")


@pytest.mark.parametrize("change", ["cut", "word", "version", "format", "gone", "empty"])
def test_a_damaged_record_is_told(tmp_path: Path, change: str) -> None:
    index = make_index(tmp_path, random_vectors(3))
    path = index.path / "index.json"
    text = path.read_text()
    path.write_text(
        {
            "cut": text[: len(text) // 2],
            "word": text.replace('"cases": 3', '"cases": 4'),
            "version": text.replace('"version": 1', '"version": 99'),
            "format": text.replace("cxr_embed.index", "something.else"),
            "gone": "",
            "empty": "{}",
        }[change]
    )
    if change == "gone":
        path.unlink()
    told = {"version": "format version 99; this release reads 1", "gone": "no index here", "format": "not an index"}
    with pytest.raises(CaseIndexError, match=told.get(change, "damaged|not an index")):
        CaseIndex(index.path)


def test_a_record_says_where_the_cases_came_from(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", random_vectors(4), ["p"] * 4)
    build_index(open_store(store), tmp_path / "i")
    make_store(store, random_vectors(4, seed=1), ["p"] * 4, first=4)
    record = add_cases(tmp_path / "i", open_store(store)).record
    assert IndexRecord.read(tmp_path / "i") == record
    first, second = record.stores
    assert first["header"] == second["header"]
    assert first["last_shard"] != second["last_shard"]
    assert record.spec.fingerprint == toy_spec(8).fingerprint


def test_foreign_folders_and_other_encoders_are_refused(tmp_path: Path) -> None:
    store = open_store(make_store(tmp_path / "s", random_vectors(4), ["p"] * 4))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(CaseIndexError, match="a folder with other files in it"):
        build_index(store, tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    build_index(store, tmp_path / "i")
    fill(tmp_path / "toy", range(3))
    with pytest.raises(CaseIndexError, match=r"holds vectors of toy \[.{12}\], .* of toy \[.{12}\]"):
        add_cases(tmp_path / "i", open_store(tmp_path / "toy"))
    with pytest.raises(CaseIndexError, match="no index here"):
        add_cases(tmp_path / "nowhere", store)
    assert not (tmp_path / "nowhere").exists()
    assert verify_index(tmp_path / "i") == []


def test_a_damaged_record_can_be_built_over_but_another_programs_file_cannot(tmp_path: Path) -> None:
    index = make_index(tmp_path, random_vectors(3))
    record = index.path / "index.json"
    record.write_text(record.read_text().replace('"cases": 3', '"cases": 4'))
    store = open_store(tmp_path / "store")
    with pytest.raises(CaseIndexError, match="damaged"):
        add_cases(index.path, store)
    build_index(store, index.path)
    assert verify_index(index.path) == []
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.json").write_text("{}")
    with pytest.raises(CaseIndexError, match="a folder with other files in it"):
        build_index(store, tmp_path / "site")
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["index.json"]


def test_two_writers(tmp_path: Path) -> None:
    from cxr_embed.index.faiss.layout import writing

    index = make_index(tmp_path, random_vectors(4))
    with writing(index.path), pytest.raises(CaseIndexError, match="another process is writing"):
        remove_cases(index.path, ["c0"])
    assert len(CaseIndex(index.path)) == 4
    assert verify_index(index.path) == []


def test_columns_of_two_types_are_refused(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", random_vectors(2), ["p"] * 2)
    build_index(open_store(store), tmp_path / "i", manifest=make_manifest(2, ["p"] * 2, {"score": ["1", "0"]}))
    make_store(store, random_vectors(2), ["p"] * 2, first=2)
    table = make_manifest(2, ["p"] * 2, {"score": ["high", "low"]}, first=2)
    as_text = type(table)(table.table, table.root, ())
    with pytest.raises(CaseIndexError, match="column score is a finding in the index and text in the manifest"):
        add_cases(tmp_path / "i", open_store(store), manifest=as_text)
    assert len(CaseIndex(tmp_path / "i")) == 2
    assert verify_index(tmp_path / "i") == []


def test_building_again_replaces(tmp_path: Path) -> None:
    make_index(tmp_path, random_vectors(4))
    store = open_store(make_store(tmp_path / "s", random_vectors(7), ["p"] * 7))
    build_index(store, tmp_path / "index")
    assert len(CaseIndex(tmp_path / "index")) == 7
    assert len([path for path in (tmp_path / "index").iterdir() if path.is_dir()]) == 1


def test_prompts_come_along(tmp_path: Path) -> None:
    from cxr_embed.store import add_prompts
    from cxr_embed.types import EncoderSpec, TextRule

    spec = EncoderSpec(
        name="toy",
        revision="1",
        preprocessing="none",
        outputs={"features": (8,)},
        weights="w",
        text=TextRule("features", "clip"),
    )
    with StoreWriter(tmp_path / "s", spec) as writer:
        for number, vector in enumerate(random_vectors(3)):
            writer.add_vector(
                Row(image_id=f"c{number}", patient_id="p", content=number.to_bytes(32, "big")), {"features": vector}
            )
        writer.flush("toy")
    add_prompts(tmp_path / "s", ["a chest"], random_vectors(1, seed=5), "made up")
    build_index(open_store(tmp_path / "s"), tmp_path / "i")
    shutil.rmtree(tmp_path / "s")
    from cxr_embed.index.queries import Examples, QueryBuilder

    index = CaseIndex(tmp_path / "i")
    query = QueryBuilder(index).query(Examples(texts=["a chest"]))
    np.testing.assert_array_equal(query.vector, random_vectors(1, seed=5)[0])
    assert (query.name, query.patients, query.images) == ("a chest", (), ())
    remove_cases(tmp_path / "i", ["c0"])
    assert CaseIndex(tmp_path / "i").prompts.prompts == ("a chest",)
    with pytest.raises(CaseIndexError, match="the words are blank"):
        QueryBuilder(index).query(Examples(texts=[" "]))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store, a manifest and an index, in the working folder."""
    fill(tmp_path / "s", range(8))
    lines = ["image_id,path,patient_id,view,Effusion", *(f"i{n},i{n}.png,p{n // 2},PA,{n % 2}" for n in range(6))]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    build_index(open_store(tmp_path / "s"), tmp_path / "ix", manifest=read_manifest(tmp_path / "m.csv"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_no_file_of_an_index_holds_a_path(folder: Path) -> None:
    assert b"images/" not in b"".join(contents(folder / "ix").values())
    assert "path" not in CaseIndex(folder / "ix").columns


def test_an_index_with_paths_of_an_earlier_release_opens_and_loses_them(folder: Path) -> None:
    index = CaseIndex(folder / "ix")
    paths = pa.array([f"SMITH/{image_id}.png" for image_id in index.ids.tolist()], pa.string())
    table = index.table.add_column(3, "path", paths)
    write_table(folder / CASES, table)
    os.replace(folder / CASES, index.folder / CASES)  # the old one stays mapped
    record = replace(index.record, files={**index.record.files, CASES: file_record(index.folder / CASES)})
    (folder / "ix" / "index.json").write_bytes(record.to_bytes())
    old = CaseIndex(folder / "ix")
    assert old.table.equals(index.table)
    assert "path" not in old.cases([0])[0]
    assert not verify_index(folder / "ix")
    assert b"SMITH" in b"".join(contents(folder / "ix").values())
    remove_cases(folder / "ix", [str(index.ids[0])])
    assert b"SMITH" not in b"".join(contents(folder / "ix").values())


def test_a_table_of_ids_is_enough(folder: Path) -> None:
    """Imported vectors have no files, and may have told their patients when they were imported."""
    store = open_store(folder / "s")
    lines = ["image_id,view,Effusion", *(f"{image_id},PA,1" for image_id in store.ids.tolist())]
    (folder / "known.csv").write_text("\n".join(lines) + "\n")
    built = run_cli("index", "build", "s", "--manifest", "known.csv", "--out", "other", cwd=folder)
    assert built.returncode == 0, built.stderr
    index = CaseIndex(folder / "other")
    assert index.patient_ids.tolist() == store.patient_ids.tolist()
    assert index.cases([0], ["view", "Effusion"]) == [{"view": "PA", "Effusion": 1}]
    assert run_cli("index", "add", "ix", "s", "--manifest", "known.csv", cwd=folder).returncode == 0


def test_the_verbs(folder: Path) -> None:
    def run(*arguments: str) -> str:
        done = run_cli(*arguments, cwd=folder)
        assert done.returncode == 0, done.stderr
        return done.stdout

    built = run("index", "build", "s", "--manifest", "m.csv", "--out", "other").splitlines()
    assert built[0] == "note: 2 images of s are not in the manifest: not indexed"
    assert built[1].startswith("other: 6 cases, flat, every case is compared, ")
    assert built[2] == "For research; not a medical device."
    told = json.loads(run("index", "info", "ix", "--json"))
    assert (told["cases"], told["patients"], told["kind"]["name"]) == (6, 3, "flat")
    assert told["fingerprint"] == SPEC.fingerprint
    assert told["known"] == {"patient_id": 6, "view": 6, "Effusion": 6}
    assert "6 of 3 patients" in run("index", "info", "ix")
    assert json.loads(run("index", "add", "ix", "s", "--json"))["added"] == 2
    removed = run("index", "remove", "ix", "i7", "--patient", "p0")
    assert removed.startswith("ix: 3 cases removed, now 5 cases, flat")
    assert run("index", "verify", "ix") == "ix: sound; every checksum matches\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["build", "nowhere", "--out", "x"], "nowhere: no store here"),
        (["build", "s", "--out", "x", "--output", "logits"], "has no output 'logits'; it has features, tokens"),
        (["build", "s", "--out", "x", "--pool", "mean"], "--pool mean: features is (4,)"),
        (["build", "s", "--out", "x", "--kind", "annoy"], "'annoy' is not one of 'auto', 'flat'"),
        (["build", "s", "--out", "."], "a folder with other files in it"),
        (["build", "s", "--out", "x", "--manifest", "none.csv"], "none.csv: no such file"),
        (["add", "x", "s"], "x: no index here"),
        (["remove", "ix"], "name the cases to remove"),
        (["remove", "ix", "i99"], "ix has no case i99"),
        (["remove", "ix", "--patient", "p99"], "ix has no case of the patient p99"),
        (["info", "s"], "s: no index here"),
        (["verify", "m.csv"], "m.csv: no index here"),
    ],
)
def test_bad_input_is_told_in_a_line_or_two(
    folder: Path,
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("sys.argv", ["cxr-embed", "index", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2 if "--kind" in arguments else 1, "")
    assert err.startswith("error: ")
    assert told in err
    assert len(err.splitlines()) <= 2
    assert not (folder / "x").exists()
    assert verify_index(folder / "ix") == []


def test_verify_prints_damage_and_ends_with_one(folder: Path) -> None:
    damaged_at(CaseIndex("ix").folder / VECTORS, 200)
    done = run_cli("index", "verify", "ix", cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "damaged: vectors.npy: checksum differs, its bytes have changed\n"


def test_an_empty_store_is_told(tmp_path: Path) -> None:
    StoreWriter(tmp_path / "s", SPEC).close()
    with pytest.raises(CaseIndexError, match="holds no image with a vector; embed some first"):
        build_index(open_store(tmp_path / "s"), tmp_path / "i")


@pytest.mark.parametrize(
    ("text", "size"), [("500MB", 5 * 10**8), ("4GB", 4 * 10**9), ("1.5g", 15 * 10**8), ("1000", 1000)]
)
def test_sizes(text: str, size: int) -> None:
    assert as_bytes(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1GB", "0", "lots", "nanGB", "infGB"])
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(SystemExit):
        as_bytes(text)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    index = make_index(tmp_path, random_vectors(3))
    index.path.chmod(0o555)
    try:
        with pytest.raises(CaseIndexError, match="cannot be written"):
            remove_cases(index.path, ["c0"])
        assert len(CaseIndex(index.path)) == 3
    finally:
        index.path.chmod(0o755)


def test_importing_the_package_is_cheap() -> None:
    import subprocess
    import sys

    code = "import sys, cxr_embed; print(*sorted({'faiss', 'lark', 'pymilvus', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


def test_the_table_is_one_batch(tmp_path: Path) -> None:
    index = make_index(tmp_path, random_vectors(9), columns={"view": ["PA"] * 9})
    assert all(column.num_chunks == 1 for column in index.table.columns)
    assert index.table.schema.field("view").type == pa.dictionary(pa.int32(), pa.string())
