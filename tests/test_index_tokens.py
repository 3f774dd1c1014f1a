"""Tokens in an index: max-sim against plain loops, candidates against brute force, and what comes and goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import run_cli
from index_world import make_manifest
from token_world import TokenWorld, brute_force, unit

from cxr_embed import CaseIndex, open_store
from cxr_embed.errors import CaseIndexError
from cxr_embed.index import Query
from cxr_embed.index.faiss import kinds, token_candidates, tokens
from cxr_embed.index.faiss.build import add_cases, build_index, remove_cases
from cxr_embed.index.faiss.layout import CANDIDATES, TOKENS, Kind
from cxr_embed.index.faiss.tokens import TokenVectors, unit_tokens
from cxr_embed.index.faiss.verify import verify_index
from cxr_embed.index.maxsim import MaxSim
from cxr_embed.index.queries import Examples, QueryBuilder
from cxr_embed.store import Row, Store, StoreWriter, add_prompts
from cxr_embed.types import EncoderSpec, TextRule

SHAPE = (6, 16)
TEXTS = ("small pneumothorax", "no pneumothorax")


def spec(shape: tuple[int, int] = SHAPE) -> EncoderSpec:
    return EncoderSpec(
        name="toy-elixr",
        revision="1",
        preprocessing="none",
        outputs={"tokens": shape},
        text=TextRule("tokens", "elixr"),
    )


def make_store(path: Path, values: np.ndarray, first: int = 0, texts: np.ndarray | None = None) -> Store:
    """A store of `(N, T, D)`; ids are `c0`, `c1`, ..., two of each patient."""
    with StoreWriter(path, spec(values.shape[1:]), dtype="float32") as writer:
        for number, vectors in enumerate(values.astype(np.float32), start=first):
            writer.add_vector(
                Row(image_id=f"c{number}", patient_id=f"p{number // 2}", content=number.to_bytes(32, "big")),
                {"tokens": vectors},
            )
        writer.flush("toy engine")
    if texts is not None:
        add_prompts(path, TEXTS, texts, "toy engine")
    return open_store(path)


@pytest.fixture
def always_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAISS is asked from 251 cases on, for so many candidates that none of the few nearest can be missing."""
    monkeypatch.setattr(tokens, "EXACT_VALUES", 250 * SHAPE[0] * SHAPE[1])
    monkeypatch.setattr(token_candidates, "_LADDER", (20,))


def world(count: int, structure: bool = True) -> tuple[np.ndarray, np.ndarray]:
    made = TokenWorld(*SHAPE, structure=structure)
    return made.images(count), made.texts(2)


def nearest(values: np.ndarray, query: np.ndarray, k: int, allowed: Sequence[bool] | None = None) -> list[str]:
    """The ids that a search must give, looking at every case."""
    similarity = brute_force(values.astype(np.float16), query[None])[:, 0]
    if allowed is not None:
        similarity[~np.asarray(allowed)] = -np.inf
    return [f"c{row}" for row in np.argsort(-similarity, kind="stable")[:k]]


@pytest.mark.parametrize("length", [1, 6])
def test_max_sim_is_the_mean_of_the_largest_cosines(length: int) -> None:
    values, _ = world(700)
    queries = TokenWorld(length, SHAPE[1], seed=2).images(3).astype(np.float32)
    found = MaxSim(SHAPE, 3, length)(values, unit(queries))
    np.testing.assert_allclose(found, brute_force(values, queries), atol=2e-6)


def test_a_row_s_similarity_does_not_depend_on_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxr_embed.index.maxsim._BLOCK_VALUES", 64 * SHAPE[0] * SHAPE[1])
    values, texts = world(200)
    values[150:] = values[3]
    similar = TokenVectors(values, unit_tokens(values, SHAPE)[1], Kind("flat"))
    rows = np.array([199, 3, 77, 160])
    for query in (unit(texts[0]), unit(values[5].astype(np.float32))):
        everything = similar.exact(query, None)
        assert len(set(everything[150:].tolist()) | {everything[3]}) == 1
        np.testing.assert_array_equal(similar.exact(query, rows), everything[rows])


def test_lengths_of_tokens_do_not_matter_and_those_of_no_direction_are_told() -> None:
    values, _ = world(5)
    longer = values.astype(np.float32) * np.array([1e-30, 1, 3, 1e30, 2], np.float32)[:, None, None]
    longer[2, 4], longer[4, 0, 0] = 0, np.inf
    kept, means = unit_tokens(longer, SHAPE)
    assert np.isnan(means).any(axis=1).tolist() == np.isnan(kept).any(axis=(1, 2)).tolist() == [0, 0, 1, 0, 1]
    np.testing.assert_allclose(
        kept[[0, 1, 3]].astype(np.float32), unit(values[[0, 1, 3]].astype(np.float32)), atol=1e-3
    )


@pytest.mark.parametrize("structure", [True, False])
def test_candidates_hold_the_nearest(structure: bool, tmp_path: Path) -> None:
    made = TokenWorld(8, 32, structure=structure)
    values, texts = made.images(4000), made.texts(20)
    many = np.concatenate([texts, made.texts(60)])
    _, means = unit_tokens(values, (8, 32))
    kind = Kind("tokens-pq", "IVF1,PQ16x4fs", 1)
    index = token_candidates.build(values, kind)
    kind, measured = token_candidates.tune(index, values, means, kind, many)
    assert measured.queries == 64 + 64 + 16
    assert measured.recall is not None
    assert measured.recall >= 0.99
    kinds.write(tmp_path / CANDIDATES, index)
    similar = TokenVectors(values, means, kind, tmp_path / CANDIDATES, "")
    similar.faiss = index
    truth = brute_force(values, texts)
    half = np.arange(len(values)) % 2 == 0
    for number, text in enumerate(texts):
        for selector in (None, half):
            rows = similar.candidates(unit(text), 16 * kind.fetch, selector)
            assert len(rows) == len(set(rows.tolist())) == 16 * kind.fetch
            assert selector is None or selector[rows].all()
        everything = similar.candidates(unit(text), 4000, half)
        assert sorted(everything.tolist()) == np.flatnonzero(half).tolist()
        found = similar.candidates(unit(text), 16 * kind.fetch, None)
        assert np.isin(np.argsort(-truth[:, number])[:10], found).mean() >= 0.7
    picture = unit(values[7].astype(np.float32))
    # Means of tokens that have nothing in common say nothing: then every case is compared.
    assert (kind.effort > 0) == structure
    assert len(similar.candidates(picture, 16 * kind.fetch, None)) >= min(4000, 16 * kind.fetch)
    assert half[similar.candidates(picture, 16 * kind.fetch, half)].all()


@pytest.mark.usefixtures("always_candidates")
def test_an_index_of_tokens_is_searched_by_words_and_by_images(tmp_path: Path) -> None:
    values, texts = world(600)
    store = make_store(tmp_path / "store", values, texts=texts)
    columns = {"view": ["PA" if number % 3 else "AP" for number in range(600)]}
    manifest = make_manifest(600, [f"p{number // 2}" for number in range(600)], columns)
    written = build_index(store, tmp_path / "index", manifest=manifest)
    index = CaseIndex(tmp_path / "index")
    assert (index.pool, index.record.kind.name) == ("tokens", "tokens-pq")
    assert (index.tokens.shape, index.vectors.shape) == ((600, *SHAPE), (600, SHAPE[1]))
    assert written.record.measured.recall is not None
    assert verify_index(tmp_path / "index") == []
    words = QueryBuilder(index).query(Examples(texts=[TEXTS[0]]))
    assert index.search(words, 5).ids[0].tolist() == nearest(values, texts[0], 5)
    views = np.arange(600) % 3 == 0
    assert index.search(words, 5, where="view = AP").ids[0].tolist() == nearest(values, texts[0], 5, views)
    picture = index.query_of("c10")
    others = np.arange(600) // 2 != 5
    found = index.search(picture, 5, exclude_same_patient=True)
    assert found.ids[0].tolist() == nearest(values, values[10], 5, others)
    truth = brute_force(values, values[10][None])
    np.testing.assert_allclose(found.similarity[0], truth[index.rows_of(found.ids[0]), 0], atol=1e-5)
    assert index.search(picture, 1).ids[0, 0] != "c10"
    assert index.search(picture, 1, only_same_patient=True).ids[0].tolist() == ["c11"]
    assert index.search(texts, 4).ids.tolist() == [nearest(values, text, 4) for text in texts]
    assert index.search(values[:2].astype(np.float32), 1).ids.tolist() == [["c0"], ["c1"]]


@pytest.mark.usefixtures("always_candidates")
def test_more_than_there_is_and_ties(tmp_path: Path) -> None:
    values, texts = world(330)
    values[300:] = values[50]
    build_index(make_store(tmp_path / "store", values), tmp_path / "index")
    index = CaseIndex(tmp_path / "index")
    found = index.search(texts[0], 340)
    assert sorted(found.ids[0, :330].tolist()) == sorted(f"c{row}" for row in range(330))
    assert (found.ids[0, 330:] == "").all()
    for k in (3, 30):
        assert index.search(index.query_of("c50"), k).ids[0].tolist() == [f"c{row}" for row in range(300, 300 + k)]


@pytest.mark.usefixtures("always_candidates")
def test_threads_search_one_index(tmp_path: Path) -> None:
    values, _ = world(300)
    build_index(make_store(tmp_path / "store", values), tmp_path / "index")
    index = CaseIndex(tmp_path / "index")
    queries = TokenWorld(*SHAPE, seed=4).texts(24)
    alone = [index.search(query, 5).ids.tolist() for query in queries]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda query: index.search(query, 5).ids.tolist(), queries)) == alone


@pytest.mark.usefixtures("always_candidates")
def test_what_is_removed_is_in_no_file(tmp_path: Path) -> None:
    values, texts = world(300)
    store = make_store(tmp_path / "store", values, texts=texts)
    root = tmp_path / "index"
    build_index(store, root)
    before = CaseIndex(root)
    token, mean = before.tokens[4, 2].tobytes(), before.vectors[4].tobytes()
    rows = [row for row in range(300) if row not in (4, 20, 21)]
    kept_tokens = before.tokens[rows].copy()
    remove_cases(root, ["c4"], ["p10"])
    index = CaseIndex(root)
    np.testing.assert_array_equal(index.tokens, kept_tokens)
    assert verify_index(root) == []
    for path in root.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert token not in data
            assert mean not in data
    similar = index.similar
    assert isinstance(similar, TokenVectors)
    digest = index.record.files[CANDIDATES]["sha256"]
    codes = kinds.read(similar.path, digest)
    anew = kinds.read(similar.path, digest)
    anew.reset()
    token_candidates.add(anew, index.tokens)
    faiss = kinds.library()
    np.testing.assert_array_equal(faiss.serialize_index(codes), faiss.serialize_index(anew))
    allowed = np.isin(np.arange(300), rows)
    assert index.search(texts[1], 5).ids[0].tolist() == nearest(values, texts[1], 5, allowed)


@pytest.mark.usefixtures("always_candidates")
def test_cases_that_are_added_are_found(tmp_path: Path) -> None:
    values, texts = world(300)
    root = tmp_path / "index"
    build_index(make_store(tmp_path / "first", values[:80]), root)
    assert CaseIndex(root).record.kind.name == "flat"
    for start, stop in ((80, 260), (260, 300)):
        written = add_cases(root, make_store(tmp_path / f"from {start}", values[start:stop], start))
        assert (written.changed, written.record.kind.name) == (stop - start, "tokens-pq")
        index = CaseIndex(root)
        for text in texts:
            assert index.search(text, 5).ids[0].tolist() == nearest(values[:stop], text, 5)
        assert verify_index(root) == []
    remove_cases(root, [f"c{row}" for row in range(60, 300)])
    assert CaseIndex(root).record.kind.name == "flat"


def test_all_cases_can_go_and_come_back(tmp_path: Path) -> None:
    values, texts = world(8)
    store, root = make_store(tmp_path / "store", values), tmp_path / "index"
    build_index(store, root)
    remove_cases(root, patients=["p0", "p1", "p2", "p3"])
    assert CaseIndex(root).search(texts[0], 2).ids.tolist() == [["", ""]]
    assert verify_index(root) == []
    add_cases(root, store)
    assert CaseIndex(root).search(texts[0], 2).ids[0].tolist() == nearest(values, texts[0], 2)


def test_pools_and_tokens_without_direction(tmp_path: Path) -> None:
    values, texts = world(30)
    values[3, 1] = 0
    store = make_store(tmp_path / "store", values)
    written = build_index(store, tmp_path / "index")
    assert written.notes == ("1 image has a vector that is zero: it has no direction (c3): not indexed",)
    assert "c3" not in CaseIndex(tmp_path / "index").ids
    build_index(store, tmp_path / "index", pool="mean")
    index = CaseIndex(tmp_path / "index")
    assert (index.pool, index.record.shape, TOKENS in index.record.files) == ("mean", SHAPE[1:], False)
    assert index.search(texts[0], 1).ids.shape == (1, 1)


def test_codes_that_were_asked_for_are_built_or_it_is_said_why_not(tmp_path: Path) -> None:
    values, _ = world(120)
    store = make_store(tmp_path / "store", values)
    written = build_index(store, tmp_path / "index", kind="tokens-pq")
    assert written.record.kind.name == "flat"
    assert any(note.startswith("built flat, not tokens-pq: among 120 cases") for note in written.notes)
    assert not any("built" in note for note in build_index(store, tmp_path / "other", kind="flat").notes)


@pytest.mark.usefixtures("always_candidates")
def test_codes_are_built_where_there_are_enough_cases(tmp_path: Path) -> None:
    values, _ = world(300)
    written = build_index(make_store(tmp_path / "store", values), tmp_path / "index", kind="tokens-pq")
    assert written.record.kind.name == "tokens-pq"
    assert not any("built" in note for note in written.notes)


def test_bad_requests_are_told(tmp_path: Path) -> None:
    values, texts = world(120)
    store = make_store(tmp_path / "store", values, texts=texts)
    root = tmp_path / "index"
    with pytest.raises(CaseIndexError, match="`pool` max: tokens is"):
        build_index(store, root, pool="max")
    with pytest.raises(CaseIndexError, match="of tokens is auto, flat, tokens-pq, not 'hnsw'"):
        build_index(store, root, kind="hnsw")
    with pytest.raises(CaseIndexError, match="200,000 cases of 32 tokens need 256 MB"):
        token_candidates.choose(200_000, (32, 128), memory=1000)
    build_index(store, root)
    index = CaseIndex(root)
    with pytest.raises(CaseIndexError, match=r"of shape \(5, 16\), the cases' have \(16,\) or \(6, 16\)"):
        index.search(Query(np.ones((5, 16), np.float32)))
    with pytest.raises(CaseIndexError, match="no direction"):
        index.search(Query(np.zeros((6, 16), np.float32)))
    with pytest.raises(CaseIndexError, match="one example a search"):
        QueryBuilder(index).query(Examples(texts=TEXTS))
    path = index.folder / TOKENS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert [(damage.where, damage.what) for damage in verify_index(root)] == [
        (TOKENS, "checksum differs, its bytes have changed")
    ]
    path.write_bytes(data[:-2])
    with pytest.raises(CaseIndexError, match=r"tokens\.npy: .* do not belong together"):
        CaseIndex(root)


def test_by_command_line(tmp_path: Path) -> None:
    values, texts = world(40)
    make_store(tmp_path / "store", values, texts=texts)
    done = run_cli("index", "build", "store", "--out", "index", cwd=tmp_path)
    assert "index: 40 cases, flat, every case is compared" in done.stdout, done.stderr
    assert "tokens 6 x 16, compared by max-sim, float16" in run_cli("index", "info", "index", cwd=tmp_path).stdout
    done = run_cli("search", "index", "--text", TEXTS[0], "-k", "3", "--json", cwd=tmp_path)
    found = json.loads(done.stdout)["neighbors"]
    assert [case["image_id"] for case in found] == nearest(values, texts[0], 3)
    done = run_cli("search", "index", "--image-id", "c1", "-k", "1", "--only-same-patient", "--json", cwd=tmp_path)
    assert [case["image_id"] for case in json.loads(done.stdout)["neighbors"]] == ["c0"]
