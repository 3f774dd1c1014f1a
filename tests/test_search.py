"""The search against brute force: filters, dates, patients, ties, more than there is; by Python and by command line."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import MeanEncoder, fill, run_cli
from hypothesis import given, settings
from hypothesis import strategies as st
from index_world import Asked, brute_force, make_index, thorough

from cxr_embed import CaseIndex, open_store, read_manifest
from cxr_embed.cli import main
from cxr_embed.cli.search import print_cases
from cxr_embed.errors import CaseIndexError, EncoderError, UnknownWordsWarning
from cxr_embed.index import Query, queries
from cxr_embed.index.faiss.build import build_index
from cxr_embed.index.queries import Examples, QueryBuilder
from cxr_embed.index.query import best
from cxr_embed.pipeline.embedding import embed
from cxr_embed.store import Row, StoreWriter, add_prompts
from cxr_embed.store.prompts import prompt_source
from cxr_embed.types import EncoderSpec, TextRule

WHERE = [None, "view = PA", "not (view = PA) or Effusion = 1", "view is not known"]
VIEWS, DATES = ["PA", "AP", ""], ["2019-01-01", "2020-06-01", "2021-01-01", ""]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[np.ndarray, list[str], dict[str, list[str]]]:
    """Vectors of few values, so that many are equal; patients and columns with unknowns among them."""
    count = draw(st.integers(1, 70))

    def column(values: list[str]) -> list[str]:
        return draw(st.lists(st.sampled_from(values), min_size=count, max_size=count))

    numbers = draw(st.lists(st.integers(-1, 2), min_size=3 * count, max_size=3 * count))
    vectors = np.array(numbers, np.float32).reshape(count, 3)
    vectors[~vectors.any(axis=1)] = 1
    columns = {"view": column(VIEWS), "study_date": column(DATES), "Effusion": column(["0", "1", "-1", ""])}
    return vectors, column(["p0", "p1", "p2", "p3", ""]), columns


@settings(deadline=None, max_examples=40)
@given(worlds(), st.data(), st.sampled_from(["flat", "ivf-fp16"]))
def test_search_is_brute_force(
    world: tuple[np.ndarray, list[str], dict[str, list[str]]], data: st.DataObject, kind: str
) -> None:
    vectors, patients, columns = world
    filters = {
        "where": data.draw(
            st.sampled_from([None, "view = PA", "not (view = PA) or Effusion = 1", "view is not known"])
        ),
        "before": data.draw(st.sampled_from([None, "2020-06-01", "2021-06-01", "2000-01-01"])),
    }
    rule = data.draw(st.sampled_from(["", "exclude_same_patient", "only_same_patient"]))
    rules = {name: True for name in (rule, data.draw(st.sampled_from(["", "one_per_patient"]))) if name}
    k = data.draw(st.integers(1, 50))
    own = data.draw(st.integers(0, len(vectors) - 1))
    with tempfile.TemporaryDirectory() as folder:
        index = make_index(Path(folder), vectors, patients, columns, kind=kind)
        if kind != "flat":
            index = thorough(index)
        query = index.query_of(f"c{own}")
        if rule and not query.patients:
            with pytest.raises(CaseIndexError, match="its patient is not known"):
                index.search(query, k, **filters, **rules)
            return
        found = index.search(query, k, **filters, **rules)
        passing = []
        for view, date, effusion in zip(columns["view"], columns["study_date"], columns["Effusion"], strict=True):
            in_view = {
                None: True,
                "view = PA": view == "PA",
                "not (view = PA) or Effusion = 1": (view not in ("PA", "")) or effusion == "1",
                "view is not known": view == "",
            }[filters["where"]]
            passing.append(in_view and (filters["before"] is None or "" < date < filters["before"]))
        asked = Asked(query.vector, k, query.images, query.patients, **rules)
        expected = brute_force(index, asked, passing)
        assert found.ids[0].tolist() == expected + [""] * (k - len(expected))
        similarity = found.similarity[0]
        assert np.isnan(similarity[len(expected) :]).all()
        assert (np.diff(similarity[: len(expected)]) <= 0).all()
        wide = index.vectors[index.rows_of(expected)].astype(np.float64) @ query.vector.astype(np.float64)
        np.testing.assert_allclose(similarity[: len(expected)], wide, atol=1e-6)


def test_ties_go_to_the_earlier_row_however_they_are_found(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((400, 8)).astype(np.float32)
    vectors[50:350:3] = vectors[7]  # a hundred copies: more than any search asks candidates for at first
    expected = ["c7", *(f"c{row}" for row in range(50, 350, 3))]
    for kind in ("flat", "ivf-fp16", "ivf-sq8"):
        index = make_index(tmp_path / kind, vectors, kind=kind)
        asked = [index] if kind == "flat" else [index, thorough(CaseIndex(index.path))]
        for each in asked:
            found = each.search(3 * vectors[7], 5)
            assert found.ids[0].tolist() == expected[:5]
            assert len(set(found.similarity[0].tolist())) == 1
            assert each.search(vectors[7], 101).ids[0].tolist() == expected


@given(
    st.lists(st.tuples(st.integers(-3, 3), st.integers(-1, 3)), min_size=1, max_size=30),
    st.integers(1, 35),
    st.booleans(),
)
def test_best_is_a_sorted_list(values: list[tuple[int, int]], k: int, one_per_patient: bool) -> None:
    similarity = np.array([value for value, _ in values], np.float32)
    patients = np.array([patient for _, patient in values], np.int32)
    rows = np.arange(len(values)) * 3
    expected, seen = [], set()
    for at in sorted(range(len(values)), key=lambda at: (-values[at][0], at)):
        patient = values[at][1]
        if one_per_patient and patient >= 0 and patient in seen:
            continue
        seen.add(patient)
        expected.append(at)
    assert best(similarity, rows, k, patients if one_per_patient else None).tolist() == expected[:k]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """FAISS on one thread: on a busy machine, threads of small steps only wait for each other."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", ["hnsw", "ivf-fp16", "ivf-sq8", "ivf-pq"])
def test_every_kind_finds_what_its_record_promises(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(1)
    centres = rng.standard_normal((60, 16))
    vectors = (centres[rng.integers(0, 60, 4000)] + 0.5 * rng.standard_normal((4000, 16))).astype(np.float16)
    even = {"view": ["PA" if number % 4 == 0 else "AP" for number in range(4000)]}
    index = make_index(tmp_path, vectors, columns=even, kind=kind)
    assert index.record.measured.recall is not None
    assert index.record.measured.recall >= 0.95
    index.similar.exact_below = 400
    queries = (centres[rng.integers(0, 60, 100)] + 0.5 * rng.standard_normal((100, 16))).astype(np.float16)
    for where in (None, "view = PA"):
        passing = index.passing(where, None)
        rows = np.arange(4000) if passing is None else np.flatnonzero(passing)
        found = index.search(queries, 10, where=where)
        truth = index.ids[rows][np.argsort(-(queries @ index.vectors[rows].T), axis=1)[:, :10]]
        hits = [len(set(mine) & set(true)) for mine, true in zip(found.ids.tolist(), truth.tolist(), strict=True)]
        assert np.mean(hits) / 10 >= 0.95, where


def test_batches_give_what_single_queries_give(tmp_path: Path) -> None:
    vectors = np.random.default_rng(2).standard_normal((50, 6)).astype(np.float32)
    index = make_index(tmp_path, vectors)
    together = index.search(vectors[:9], 4)
    assert together.ids.shape == together.similarity.shape == (9, 4)
    assert together.similarity.dtype == np.float32
    for number in range(9):
        alone = index.search(vectors[number], 4)
        np.testing.assert_array_equal(alone.ids[0], together.ids[number])
        np.testing.assert_array_equal(alone.similarity[0], together.similarity[number])


def test_dates_that_nobody_knows_are_told(tmp_path: Path) -> None:
    index = make_index(tmp_path, np.eye(3, dtype=np.float32))
    with pytest.raises(CaseIndexError, match="knows no study_date; build it with a manifest that has one"):
        index.search(np.ones(3, np.float32), 1, before="2020-01-01")


def test_one_case_and_none(tmp_path: Path) -> None:
    index = make_index(tmp_path, np.ones((1, 4), np.float32))
    assert index.search(np.ones(4, np.float32), 3).ids.tolist() == [["c0", "", ""]]
    alone = index.search(index.query_of("c0"), 2)
    assert alone.ids.tolist() == [["", ""]]
    assert np.isnan(alone.similarity).all()
    assert index.search(index.query_of("c0"), 1, exclude_same_patient=True).ids.tolist() == [[""]]


def test_queries_that_are_none(tmp_path: Path) -> None:
    index = make_index(tmp_path, np.eye(4, dtype=np.float32))
    for vector in (np.zeros(4), np.full(4, np.nan), np.array([np.inf, 0, 0, 0])):
        with pytest.raises(CaseIndexError, match="has no direction"):
            index.search(vector.astype(np.float32), 2)
    with pytest.raises(CaseIndexError, match=r"shape \(5,\), the cases' have \(4,\)"):
        index.search(np.ones(5, np.float32), 2)
    with pytest.raises(CaseIndexError, match="`k` is the number of neighbours, at least 1, not 0"):
        index.search(np.ones(4, np.float32), 0)
    with pytest.raises(CaseIndexError, match="give one of them"):
        index.search(index.query_of("c0"), 1, exclude_same_patient=True, only_same_patient=True)
    with pytest.raises(CaseIndexError, match="words: its patient is not known"):
        index.search(Query(np.ones(4, np.float32), "words"), 1, only_same_patient=True)
    with pytest.raises(CaseIndexError, match="has no case c9"):
        index.query_of("c9")
    with pytest.raises(CaseIndexError, match=r"has no case x0, x1, x2, x3, x4, \.\.\."):
        index.rows_of([f"x{number}" for number in range(9)])


def test_lengths_of_vectors_do_not_matter(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((30, 5)).astype(np.float32)
    scaled = vectors * (10.0 ** rng.integers(-30, 30, (30, 1))).astype(np.float32)
    plain, odd = make_index(tmp_path / "a", vectors), make_index(tmp_path / "b", scaled)
    np.testing.assert_array_equal(plain.search(vectors, 5).ids, odd.search(vectors * 1e30, 5).ids)


def test_unknown_patients_are_neither_the_same_nor_others(tmp_path: Path) -> None:
    vectors = np.array([[1, 0], [1, 0.1], [1, 0.2], [1, 0.3]], np.float32)
    index = make_index(tmp_path, vectors, ["a", "", "a", "b"])
    query = index.query_of("c0")
    assert index.search(query, 4, exclude_same_patient=True).ids[0].tolist() == ["c3", "", "", ""]
    assert index.search(query, 4, only_same_patient=True).ids[0].tolist() == ["c2", "", "", ""]
    assert index.search(query, 4, one_per_patient=True).ids[0].tolist() == ["c1", "c2", "c3", ""]
    with pytest.raises(CaseIndexError, match="c1: its patient is not known"):
        index.search(index.query_of("c1"), 1, exclude_same_patient=True)


def test_a_patient_who_is_not_here_has_no_cases(tmp_path: Path) -> None:
    index = make_index(tmp_path, np.eye(3, dtype=np.float32))
    stranger = Query(np.ones(3, np.float32), "file", ("nobody",))
    assert index.search(stranger, 2, only_same_patient=True).ids.tolist() == [["", ""]]
    assert index.search(stranger, 2, exclude_same_patient=True).ids.tolist() == [["c0", "c1"]]


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, chest: Callable[..., np.ndarray]) -> Path:
    """Twelve small radiographs, embedded and indexed: `images/`, `store`, `index`."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("searched")
    (folder / "images").mkdir()
    lines = ["image_id,path,patient_id,study_date,view,age,Effusion"]
    for number in range(12):
        Image.fromarray((chest(number, 96) >> 4).astype(np.uint8)).save(folder / "images" / f"i{number}.png")
        date, view = f"20{10 + number}-01-01", ["PA", "AP"][number % 2]
        lines.append(f"i{number},images/i{number}.png,p{number // 2},{date},{view},{40 + number},{number % 3 % 2}")
    Image.fromarray((chest(1, 96) >> 4).astype(np.uint8)).save(folder / "new.png", compress_level=0)
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    embed(folder / "manifest.csv", encoder="hog", store=folder / "store")
    build_index(open_store(folder / "store"), folder / "index", manifest=read_manifest(folder / "manifest.csv"))
    return folder


def test_the_command_line_prints_neighbours_as_json(searched: Path) -> None:
    done = run_cli(
        *("search", "index", "--image-id", "i4", "-k", "3", "--where", "view = PA and age > 41", "--json"),
        *("--exclude-same-patient", "--before", "2018-06-01"),
        cwd=searched,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["query"]["name"] == "i4"
    assert told["query"]["patients"] == ["p2"]
    assert told["query"]["where"] == "view = PA and age > 41"
    assert [set(case) >= {"image_id", "similarity", "patient_id", "Effusion"} for case in told["neighbors"]] == [
        True
    ] * 3
    assert {case["image_id"] for case in told["neighbors"]} == {"i2", "i6", "i8"}
    values = [case["similarity"] for case in told["neighbors"]]
    assert values == sorted(values, reverse=True)
    assert told["note"] == "For research; not a medical device."


def test_the_first_day_is_no_finding(searched: Path, tmp_path: Path) -> None:
    table = tmp_path / "days.csv"
    lines = ["image_id,path,patient_id,study_date,age,Effusion"]
    table.write_text("\n".join(lines + [f"i{n},images/i{n}.png,p{n // 2},{n},1,{n % 3 % 2}" for n in range(12)]) + "\n")
    build_index(open_store(searched / "store"), tmp_path / "index", manifest=read_manifest(table))
    done = run_cli("search", str(tmp_path / "index"), "--image-id", "i0", "-k", "1", "--where", "study_date = 1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[2].split()[0] == "i1"
    assert done.stdout.splitlines()[2].split()[2:] == ["p0", "1", "1", "Effusion"]  # the day, the age, the finding


def test_a_file_is_found_in_any_format(searched: Path, tmp_path: Path) -> None:
    from PIL import Image

    with Image.open(searched / "images" / "i7.png") as image:
        image.save(tmp_path / "again.tif")
    done = run_cli("search", "index", "--image", str(tmp_path / "again.tif"), "-k", "1", "--json", cwd=searched)
    assert done.returncode == 0, done.stderr
    (nearest,) = json.loads(done.stdout)["neighbors"]
    assert nearest["image_id"] == "i7"
    assert nearest["similarity"] == pytest.approx(1, abs=1e-3)  # the store is float16


def test_a_table_for_people_and_files_for_programs(searched: Path, tmp_path: Path) -> None:
    done = run_cli("search", "index", "--image-id", "i4", "-k", "30", "--out", str(tmp_path / "n.csv"), cwd=searched)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "nearest to i4"
    assert lines[1].split() == ["image_id", "similarity", "patient_id", "study_date", "view", "age", "findings"]
    assert "note: 11 cases of the 30 wanted; 12 of 12 pass the filters" in lines
    assert lines[-1] == "For research; not a medical device."
    slip = run_cli("search", "index", "--image-id", "i4", "--where", "view = pa", cwd=searched).stdout.splitlines()
    assert slip[-3:-1] == [
        "note: 0 cases of the 10 wanted; 0 of 12 pass the filters",
        "note: no case has the view 'pa'; there are PA, AP",
    ]
    written = (tmp_path / "n.csv").read_text().splitlines()
    assert written[0] == "image_id,similarity,patient_id,study_date,view,age,Effusion"
    assert len(written) == 12
    import pyarrow.parquet as pq

    run_cli("search", "index", "--image-id", "i4", "-k", "3", "--out", str(tmp_path / "n.parquet"), cwd=searched)
    assert pq.read_table(tmp_path / "n.parquet")["image_id"].to_pylist() == [
        line.split(",")[0] for line in written[1:4]
    ]


def test_several_examples_and_minus_one(searched: Path) -> None:
    index = CaseIndex(searched / "index")
    vectors = {name: index.query_of(name).vector for name in ("i1", "i3", "i5")}
    done = run_cli(
        *("search", "index", "--image-id", "i1", "--image-id", "i3", "--not-image-id", "i5", "-k", "12", "--json"),
        cwd=searched,
    )
    told = json.loads(done.stdout)
    assert told["query"]["name"] == "i1 + i3 - i5"
    mean = vectors["i1"] + vectors["i3"]
    wanted = mean / np.linalg.norm(mean) - vectors["i5"]
    wanted /= np.linalg.norm(wanted)
    expected = [i for i in index.ids[np.argsort(-(index.vectors @ wanted))].tolist() if i not in vectors]
    assert [case["image_id"] for case in told["neighbors"]] == expected


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "a search needs --image, --image-id or --text"),
        (["--not-image-id", "i1"], "a search needs --image, --image-id or --text"),
        (["--image-id", "i99"], "has no case i99"),
        (["--image-id", "i1", "-k", "0"], "at least 1, not 0"),
        (["--image-id", "i1", "--where", "vieww = PA"], "did you mean view?"),
        (["--image-id", "i1", "--where", "view ="], "stops too early"),
        (["--image-id", "i1", "--before", "yesterday"], "--before: 'yesterday' is not a date"),
        (["--image-id", "i1", "--out", "n.txt"], ".csv or .parquet"),
        (["--image", "missing.png"], "missing.png: no radiograph to search for: the file does not exist"),
        (["--image", "manifest.csv"], "manifest.csv: no radiograph to search for"),
        (
            ["--image", "new.png", "--exclude-same-patient"],
            "new.png: its patient is not known; say --patient",
        ),
        (["--text", "effusion"], "--text: words cannot be compared with the output features of hog"),
        (["--image-id", "i1", "--not-image-id", "i1"], "the examples cancel each other"),
    ],
)
def test_bad_input_is_told_in_a_line_or_two(
    searched: Path,
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(searched)
    monkeypatch.setattr("sys.argv", ["cxr-embed", "search", "index", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == 1
    assert err.startswith("error: ")
    assert told in err
    assert len(err.splitlines()) <= 2
    assert out == ""


def mean_index(tmp_path: Path, revision: str) -> CaseIndex:
    """One case of the encoder `helpers:make_mean`, in some revision of it."""
    spec = replace(MeanEncoder.spec, name="helpers:make_mean", revision=revision)
    with StoreWriter(tmp_path / "store", spec) as writer:
        writer.add_vector(
            Row(image_id="i0", patient_id="p0", content=b"0" * 32), {"means": np.ones(16), "peak": np.ones(1)}
        )
        writer.flush("toy")
    build_index(open_store(tmp_path / "store"), tmp_path / "index")
    return CaseIndex(tmp_path / "index")


def test_a_query_by_another_encoder_names_both(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MeanEncoder, "spec", replace(MeanEncoder.spec, name="helpers:make_mean"))
    file = Examples(files=[searched / "images" / "i1.png"])
    same, other = mean_index(tmp_path / "same", "1"), mean_index(tmp_path / "other", "2")
    found = QueryBuilder(same).query(file)
    assert found.vector.shape == (16,)
    assert same.search(found, 1).ids.tolist() == [["i0"]]
    fingerprints = [spec.fingerprint[:12] for spec in (other.spec, MeanEncoder.spec)]
    with pytest.raises(EncoderError, match=r"the index is of helpers:make_mean \[.*the encoder here is") as caught:
        QueryBuilder(other).query(file)
    assert all(fingerprint in str(caught.value) for fingerprint in fingerprints)


def test_imported_vectors_have_no_encoder_to_ask(searched: Path, tmp_path: Path) -> None:
    spec = EncoderSpec(name="densenet121", revision="imported", preprocessing="imported", outputs={"features": (4,)})
    with StoreWriter(tmp_path / "store", spec) as writer:
        writer.add_vector(Row(image_id="i0", patient_id="p0", content=b"0" * 32), {"features": np.ones(4)})
        writer.flush("toy")
    build_index(open_store(tmp_path / "store"), tmp_path / "index")
    with pytest.raises(EncoderError, match="were imported, so no model here is known to be theirs"):
        QueryBuilder(CaseIndex(tmp_path / "index")).query(Examples(files=[searched / "images" / "i1.png"]))


def test_words_are_embedded_once_and_joined_with_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    toy = EncoderSpec(
        name="toy",
        revision="1",
        preprocessing="none",
        outputs={"features": (4,)},
        weights="w",
        text=TextRule("features", "clip"),
    )

    class Reader:
        spec = toy

        def embed_text(self, prompts: list[str]) -> np.ndarray:
            asked.extend(prompts)
            return np.stack([np.full(4, len(prompt), np.float32) for prompt in prompts])

    with StoreWriter(tmp_path / "store", toy) as writer:
        for number, vector in enumerate(np.eye(4)):
            writer.add_vector(
                Row(image_id=f"i{number}", patient_id=f"p{number}", content=number.to_bytes(32, "big")),
                {"features": vector},
            )
        writer.flush("toy")
    build_index(open_store(tmp_path / "store"), tmp_path / "index")
    monkeypatch.setattr(queries, "load_text_encoder", lambda *_, **__: Reader())
    index = CaseIndex(tmp_path / "index")
    words = QueryBuilder(index).query(Examples(texts=["effusion", "effusion"]))
    assert asked == ["effusion"]
    np.testing.assert_allclose(words.vector, np.full(4, 0.5), atol=1e-6)
    assert (words.name, words.patients) == ("effusion + effusion", ())
    both = QueryBuilder(index).query(Examples(ids=["i2"], texts=["effusion"]))
    assert (both.patients, both.images) == (("p2",), ("i2",))
    assert index.search(both, 4).ids.tolist() == [["i0", "i1", "i3", ""]]
    away = QueryBuilder(index).query(Examples(texts=["effusion"]), Examples(ids=["i0"]))
    assert index.search(away, 4).ids.tolist() == [["i1", "i2", "i3", ""]]
    stated = QueryBuilder(index).query(Examples(texts=["effusion"]), patient="p3")
    assert index.search(stated, 4, only_same_patient=True).ids[0].tolist() == ["i3", "", "", ""]


def test_another_encoder_is_named(searched: Path, tmp_path: Path) -> None:
    fill(tmp_path / "store", range(3))
    build_index(open_store(tmp_path / "store"), tmp_path / "index")
    done = run_cli("search", str(tmp_path / "index"), "--image", "images/i1.png", cwd=searched)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "toy" in done.stderr
    assert len(done.stderr.splitlines()) <= 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-k", "0"], "at least 1, not 0"),
        (["--exclude-same-patient"], "its patient is not known"),
        (["--image-id", "i99"], "has no case i99"),
        (["--not-text", "effusion"], "words cannot be compared"),
        (["--exclude-same-patient", "--only-same-patient"], "give one of them"),
    ],
)
def test_faults_are_told_before_an_encoder_is_loaded(
    searched: Path,
    arguments: list[str],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaded: list[str] = []
    monkeypatch.setattr(queries, "load_encoder", lambda name, **_: loaded.append(name))
    monkeypatch.chdir(searched)
    monkeypatch.setattr("sys.argv", ["cxr-embed", "search", "index", "--image", "new.png", *arguments])
    with pytest.raises(SystemExit):
        main()
    assert told in capsys.readouterr().err
    assert loaded == []


def test_a_patient_is_stated_only_where_the_index_does_not_know(searched: Path, tmp_path: Path) -> None:
    index = CaseIndex(searched / "index")
    owner = index.query_of("i1").patients[0]
    assert QueryBuilder(index).query(Examples(ids=["i1"]), patient=owner).patients == (owner,)
    with pytest.raises(CaseIndexError, match=f"`patient` nobody: the index has i1 as {owner}'s"):
        QueryBuilder(index).query(Examples(ids=["i1"]), patient="nobody")
    spec = EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"features": (4,)})
    with StoreWriter(tmp_path / "store", spec) as writer:
        for number, vector in enumerate(np.eye(4)):
            row = Row(image_id=f"i{number}", patient_id="" if number < 2 else "p", content=number.to_bytes(32, "big"))
            writer.add_vector(row, {"features": vector})
        writer.flush("toy")
    build_index(open_store(tmp_path / "store"), tmp_path / "index")
    query = QueryBuilder(CaseIndex(tmp_path / "index")).query(Examples(ids=["i0"]), patient="p")
    assert (query.patients, query.images) == (("p",), ("i0",))


def test_a_file_that_is_indexed_is_its_case(searched: Path, tmp_path: Path) -> None:
    command = ("search", "index", "-k", "30", "--exclude-same-patient", "--json")
    copy = tmp_path / "under another name.png"
    copy.write_bytes((searched / "images" / "i1.png").read_bytes())
    by_file = json.loads(run_cli(*command, "--image", str(copy), cwd=searched).stdout)
    by_id = json.loads(run_cli(*command, "--image-id", "i1", cwd=searched).stdout)
    assert by_file["query"]["patients"] == by_id["query"]["patients"] == ["p0"]
    assert f"{copy} is indexed, as i1: no answer to itself" in by_file["query"]["notes"]
    assert {case["image_id"] for case in by_file["neighbors"]} == {case["image_id"] for case in by_id["neighbors"]}
    assert {"i0", "i1"}.isdisjoint(case["image_id"] for case in by_file["neighbors"])
    other = run_cli(*command, "--image", str(copy), "--patient", "p5", cwd=searched)
    assert other.returncode == 1
    assert "--patient p5: the index has i1 as p0's; leave --patient out" in other.stderr
    # Of two pictures one is known: the query is anybody's until the other is stated.
    both = run_cli(*command, "--image", str(copy), "--image", "new.png", cwd=searched)
    assert "its patient is not known" in both.stderr


def test_a_patient_without_a_case_is_told(searched: Path) -> None:
    command = ("search", "index", "--image", "new.png", "--patient", "nobody", "-k", "3", "--json")
    told = json.loads(run_cli(*command, "--exclude-same-patient", cwd=searched).stdout)
    assert "no case is of the patient nobody" in told["query"]["notes"]
    assert len(told["neighbors"]) == 3
    told = json.loads(run_cli(*command, "--only-same-patient", cwd=searched).stdout)
    assert told["neighbors"] == []
    few = "0 cases of the 3 wanted; 12 of 12 pass the filters, and fewer meet the rule on patients"
    assert few in told["query"]["notes"]


def test_words_that_were_never_learned_are_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    toy = EncoderSpec(
        name="toy",
        revision="1",
        preprocessing="none",
        outputs={"features": (4,)},
        weights="w",
        text=TextRule("features", "clip"),
    )

    class Reader:
        spec = toy

        def embed_text(self, prompts: list[str]) -> np.ndarray:
            warnings.warn("toy never learned 'zzqx'", UnknownWordsWarning, stacklevel=2)
            return np.ones((len(prompts), 4), np.float32)

    with StoreWriter(tmp_path / "store", toy) as writer:
        writer.add_vector(Row(image_id="i0", patient_id="p0", content=bytes(32)), {"features": np.ones(4)})
        writer.flush("toy")
    build_index(open_store(tmp_path / "store"), tmp_path / "index")
    monkeypatch.setattr(queries, "load_text_encoder", lambda *_, **__: Reader())
    assert QueryBuilder(CaseIndex(tmp_path / "index")).query(Examples(texts=["zzqx"])).notes == (
        "toy never learned 'zzqx'",
    )
    assert not recwarn.list
    # So are those of a prompt whose vector came along with the index.
    source = prompt_source("embedded by toy", ["zzqx"])
    add_prompts(tmp_path / "store", ["zzqx", "heart"], np.ones((2, 4), np.float32), [source, "embedded by toy"])
    build_index(open_store(tmp_path / "store"), tmp_path / "with")
    asker = QueryBuilder(CaseIndex(tmp_path / "with"))
    told = "toy never learned 'zzqx': it guesses by spelling, so don't rely on it"
    assert asker.query(Examples(texts=["zzqx"])).notes == (told,)
    assert asker.query(Examples(texts=["heart"])).notes == ()


UID = "1.2.840.113619.2.30.1.1762295590.1623.978668949.886.7.1.22.333.4444"


@pytest.mark.parametrize(
    ("image_id", "dated", "spared"),
    [
        ("i1", False, ""),
        ("i1", True, "sex"),
        (UID, False, "sex, age, view"),
        ("[/b] :x: [red]", True, "sex"),
    ],
)
def test_no_word_of_the_table_is_cut(
    image_id: str, dated: bool, spared: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    about = {"study_date": "2020-01-01"} if dated else {}
    shown = {"Consolidation": 1, "Pleural_Thickening": 1, "Pneumothorax": 1, "Hernia": 0, "looks": "not like a chest"}
    known = {"patient_id": "nih-12345", **about, "view": "PA", "age": 61.0, "sex": "F", **shown}
    left_out = print_cases([{"image_id": image_id, "similarity": 0.25, **known}] * 2)
    lines = capsys.readouterr().out.splitlines()
    words = " ".join(lines).replace(",", " ").split()
    assert {"Consolidation", "Pleural_Thickening", "Pneumothorax", "like", "chest", "0.2500", "nih-12345"} <= set(words)
    assert any(line.startswith(image_id + " ") for line in lines)
    assert "Hernia" not in words
    assert ("F" in words) == (not spared)
    assert ", ".join(left_out).startswith(spared)
    if image_id != UID:
        assert max(map(len, lines)) <= 80
