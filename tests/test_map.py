"""Positions of cases in a plane: principal components, UMAP, and the file that keeps a map beside its index."""

from __future__ import annotations

import importlib.util
import os
import sys
import types
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_world import make_index, make_manifest, make_store
from sklearn.decomposition import PCA
from typer.testing import CliRunner

from cxr_embed import open_store
from cxr_embed.cli import app
from cxr_embed.errors import CaseIndexError
from cxr_embed.forget import forget
from cxr_embed.index import CaseIndex
from cxr_embed.index.faiss import projection
from cxr_embed.index.faiss.build import add_cases, build_index, remove_cases
from cxr_embed.index.faiss.map_file import KeptMap, map_path, read_map, write_map
from cxr_embed.index.faiss.projection import make_map, principal_components, sampled

CASES = 40


def vectors(count: int = CASES, width: int = 8, seed: int = 0) -> np.ndarray:
    made = np.random.default_rng(seed).standard_normal((count, width)) * np.linspace(3, 1, width)
    return made.astype(np.float32)


def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """A package `umap` whose positions are two numbers of the vector, so that each row can be found again."""

    class Umap:
        def __init__(self, **options: object) -> None:
            assert options["random_state"] == 3
            assert options["n_jobs"] == 1

        def fit_transform(self, given: np.ndarray) -> np.ndarray:
            return given[:, :2]

        transform = fit_transform

    made = types.ModuleType("umap")
    made.UMAP, made.__version__ = Umap, "0"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "umap", made)


def kept(index: CaseIndex) -> KeptMap:
    return KeptMap(
        positions=np.asarray(index.vectors[:, :2]),
        key=index.record.vectors_digest,
        seed=3,
        fitted=len(index),
        neighbours=15,
        created="2026-01-01T00:00:00Z",
        made_by="nobody",
    )


@given(st.integers(2, 60), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_components_are_scikit_learn_s(count: int, width: int, seed: int) -> None:
    values = vectors(count, width, seed)
    found = principal_components(values)
    reference = PCA(min(2, width, count), svd_solver="full").fit_transform(values.astype(np.float64))
    # A direction in which nothing differs may be any; signs are compared where they are not a matter of rounding.
    for axis in range(reference.shape[1]):
        assert np.allclose(
            np.abs(found[:, axis]), np.abs(reference[:, axis]), atol=1e-3 * np.abs(reference).max() + 1e-5
        )


def test_components_of_a_sample_are_of_all_rows_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    values = vectors(500)
    monkeypatch.setattr(projection, "_BLOCK", 64)
    found = principal_components(values, most=100)
    learned = PCA(2, svd_solver="full").fit(values[sampled(500, 100, 0)].astype(np.float64))
    assert np.allclose(found, learned.transform(values.astype(np.float64)), atol=1e-4)
    assert np.array_equal(found, principal_components(values, most=100))


def test_few_vectors_have_a_place_too() -> None:
    assert principal_components(np.ones((1, 4), np.float32)).tolist() == [[0, 0]]
    assert principal_components(np.ones((0, 4), np.float32)).shape == (0, 2)
    assert np.isfinite(principal_components(np.ones((5, 4), np.float32))).all()
    assert principal_components(vectors(9, 1))[:, 1].tolist() == [0.0] * 9


def test_a_map_is_learned_from_some_and_has_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    index = make_index(tmp_path, vectors())
    steps: list[tuple[str, int, int]] = []
    made = make_map(index.path, seed=3, fit=20, progress=lambda *step: steps.append(step))
    assert made.fitted == 20
    assert [step[1:] for step in steps] == [(0, CASES), (20, CASES)]
    path = map_path(index.path)
    found = read_map(path)
    assert found is not None
    assert np.array_equal(found.positions, index.vectors[:, :2])
    assert path.stat().st_mode & 0o777 == 0o600
    assert (found.key, found.seed, found.made_by) == (index.record.vectors_digest, 3, "umap-learn 0")
    assert "umap.parametric_umap" not in sys.modules


def test_the_verb_makes_a_map_and_says_what_it_is_not_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    index = make_index(tmp_path, vectors())
    done = CliRunner().invoke(app, ["index", "map", str(index.path), "--seed", "3"])
    assert done.exit_code == 0, done.output
    assert "40 cases, learned from 40, seed 3" in done.output
    assert "Distances" in done.output
    monkeypatch.setitem(sys.modules, "umap", None)
    done = CliRunner().invoke(app, ["index", "map", str(index.path)])
    assert done.exit_code != 0
    assert "pip install" in str(done.exception)


def test_too_few_cases_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    index = make_index(tmp_path, vectors(15))
    with pytest.raises(CaseIndexError, match="more than 15 cases"):
        make_map(index.path)
    with pytest.raises(CaseIndexError, match="`fit`"):
        make_map(index.path, fit=9)


def test_a_map_of_an_index_that_changed_meanwhile_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch)
    index = make_index(tmp_path, vectors())
    with pytest.raises(CaseIndexError, match="changed while"):
        make_map(index.path, seed=3, progress=lambda *_: remove_cases(index.path, ["c0"]) and None)
    assert not map_path(index.path).exists()


def test_a_map_goes_where_a_case_comes_or_goes_and_stays_where_none_does(tmp_path: Path) -> None:
    values = vectors()
    index = make_index(tmp_path, values)
    path = map_path(index.path)
    write_map(path, kept(index))
    build_index(
        open_store(tmp_path / "store"),
        index.path,
        manifest=make_manifest(CASES, ["p"] * CASES, {"Effusion": ["1"] * CASES}),
    )
    assert path.exists(), "the same vectors, with other labels"
    written = remove_cases(index.path, ["c3"])
    assert not path.exists()
    assert "deleted" in written.notes[-1]
    write_map(path, kept(CaseIndex(index.path)))
    written = add_cases(index.path, open_store(make_store(tmp_path / "other", values[:1], ["q"], 3)))
    assert "deleted" in written.notes[-1]
    assert not path.exists()


def test_forgetting_takes_the_map(tmp_path: Path) -> None:
    index = make_index(tmp_path, vectors())
    path = map_path(index.path)
    write_map(path, kept(index))
    dry = forget([tmp_path], patients=["p1"], dry_run=True)
    assert path.exists()
    assert dry.problems == []
    done = forget([tmp_path], patients=["p1"])
    assert not path.exists()
    assert any(".map.arrow: deleted" in note for note in done.notes)
    write_map(path, kept(index))  # from a backup: of vectors that are gone
    forget([index.path], patients=["p1"])
    assert not path.exists()
    alone = tmp_path / "gone.map.arrow"
    write_map(alone, kept(index))
    assert any("whose index is not here" in each for each in forget([tmp_path], patients=["p2"]).problems)


def test_a_damaged_map_is_said_so(tmp_path: Path) -> None:
    index = make_index(tmp_path, vectors())
    path = map_path(index.path)
    assert read_map(path) is None
    write_map(path, kept(index))
    data = path.read_bytes()
    refused = 0
    for at in range(0, len(data), 7):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        try:
            found = read_map(path)
        except CaseIndexError:
            refused += 1
        else:
            assert found is not None
            assert np.array_equal(found.positions, index.vectors[:, :2])
    assert refused > len(data) // 7 // 3
    for damaged in (b"", data[: len(data) // 2], b"x" * 100):
        path.write_bytes(damaged)
        with pytest.raises(CaseIndexError, match="damaged"):
            read_map(path)
    table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
    other = table.replace_schema_metadata({**table.schema.metadata, b"version": b"9"})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, other.schema) as writer:
        writer.write_table(other)
    with pytest.raises(CaseIndexError, match="version 9"):
        read_map(path)


@pytest.mark.skipif(os.getuid() == 0, reason="the superuser reads everything")
def test_a_map_that_cannot_be_read_is_said_so(tmp_path: Path) -> None:
    index = make_index(tmp_path, vectors())
    write_map(map_path(index.path), kept(index))
    map_path(index.path).chmod(0)
    with pytest.raises(CaseIndexError, match="cannot be read"):
        read_map(map_path(index.path))


@pytest.mark.skipif(importlib.util.find_spec("umap") is None, reason="needs cxr-embed[map]")
def test_umap_itself_gives_the_same_map_for_a_seed(tmp_path: Path) -> None:
    centres = np.eye(8, dtype=np.float32)[:3] * 9
    values = np.concatenate([vectors(30, 8, seed) + centre for seed, centre in enumerate(centres)])
    index = make_index(tmp_path, values)
    first, again = (make_map(index.path, seed=1, fit=60).positions for _ in range(2))
    assert np.array_equal(first, again)
    assert np.isfinite(first).all()
    assert not np.array_equal(first, make_map(index.path, seed=2, fit=60).positions)
