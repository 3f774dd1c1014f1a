"""`verify --upgrade`: what earlier releases wrote gets checksums, whatever ends the upgrade."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers import SPEC, fill, row, run_cli, vectors
from index_world import make_index
from test_equal_vectors import without_checksums as store_without_checksums
from test_index_damage import flip
from test_index_damage import without_checksums as index_without_checksums
from test_index_survival import kill_at_every_step

from cxr_embed import CaseIndex, open_store
from cxr_embed.errors import CaseIndexError, StoreError
from cxr_embed.index import Query
from cxr_embed.index.faiss.layout import CHECKSUMS, VECTORS
from cxr_embed.index.faiss.verify import upgrade_index, verify_index
from cxr_embed.store import StoreWriter, upgrade_store, verify_store


def old_store(path: Path) -> Path:
    """Three shards without checksums, one with."""
    fill(path, range(30))
    store_without_checksums(path)
    with StoreWriter(path, SPEC) as writer:
        writer.add_vector(row(30), vectors(30))
        writer.flush("toy engine")
    return path


def harm(root: Path, shard: int) -> None:
    """Changes a vector of a shard."""
    file = sorted(root.glob("shards/*/features.npy"))[shard]
    data = bytearray(file.read_bytes())
    data[-1] ^= 0x40
    file.write_bytes(data)


def test_a_store_gets_what_it_lacks(tmp_path: Path) -> None:
    root = old_store(tmp_path / "s")
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    reader = open_store(root)
    assert reader.unchecked == 30
    said = run_cli("store", "verify", str(root))
    assert said.returncode == 0
    assert "30 vectors of an earlier release, not checked when read; --upgrade adds" in said.stderr
    done = run_cli("store", "verify", str(root), "--upgrade")
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 shards got checksums" in done.stdout
    assert {path: path.read_bytes() for path in before} == before  # earlier releases read it as before
    assert reader.read().ids.tolist() == open_store(root).ids.tolist()
    told = json.loads(run_cli("store", "verify", str(root), "--upgrade", "--json").stdout)
    assert told == {"sound": True, "damage": [], "unchecked_vectors": 0, "upgraded_shards": 0}
    harm(root, 1)
    with pytest.raises(StoreError, match=r"features.npy: the vector of i19 has changed since it was written"):
        list(open_store(root).mapped())


def test_damage_is_never_given_checksums(tmp_path: Path) -> None:
    root = old_store(tmp_path / "s")
    harm(root, 1)
    assert run_cli("store", "verify", str(root), "--upgrade").returncode == 1
    assert not (root / "checksums").exists()
    with pytest.raises(StoreError, match=r"features.npy: damaged, its checksum differs"):
        upgrade_store(root)
    assert open_store(root).unchecked == 20  # the sound shard before it has some now


def test_checksums_that_were_added_are_checked_and_go_with_their_shard(tmp_path: Path) -> None:
    root = old_store(tmp_path / "s")
    upgrade_store(root)
    added = sorted((root / "checksums").iterdir())
    assert len(added) == 3
    data = bytearray(added[0].read_bytes())
    data[-1] ^= 1
    added[0].write_bytes(data)
    with pytest.raises(StoreError, match=r"delete it, and `cxr-embed store verify --upgrade` makes it anew"):
        open_store(root).read()
    assert [damage.where for damage in verify_store(root)] == ["checksums"]
    added[0].unlink()
    assert upgrade_store(root) == 1
    stale = added[1].with_name("00000077-" + added[1].name[9:])
    stale.write_bytes(added[1].read_bytes())
    StoreWriter(root, SPEC).close()
    assert not stale.exists()
    assert len(list((root / "checksums").iterdir())) == 3


def test_a_store_whose_upgrade_is_killed(tmp_path: Path) -> None:
    target = old_store(tmp_path / "s")
    expected = open_store(target).read()
    for folder, _ in kill_at_every_step("upgrade store", tmp_path, target, 2, "flat"):
        assert verify_store(folder) == []
        np.testing.assert_array_equal(open_store(folder).read().vectors, expected.vectors)
        upgrade_store(folder)
        assert open_store(folder).unchecked == 0
        assert verify_store(folder) == []
        assert not list(folder.rglob("*.partial"))


def test_an_index_gets_what_it_lacks(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    root = make_index(tmp_path, values, kind="hnsw").path
    index_without_checksums(root)
    reader = CaseIndex(root)
    found = reader.search([Query(values[3])], 5)
    said = run_cli("index", "verify", str(root))
    assert said.returncode == 0
    assert "an index of an earlier release: vectors are not checked" in said.stderr
    done = run_cli("index", "verify", str(root), "--upgrade")
    assert (done.returncode, done.stderr) == (0, "")
    assert "its vectors got checksums" in done.stdout
    assert not upgrade_index(root)
    assert verify_index(root) == []
    assert CHECKSUMS in CaseIndex(root).record.files
    for each in (reader, CaseIndex(root)):
        assert each.search([Query(values[3])], 5).ids.tolist() == found.ids.tolist()
    flip(CaseIndex(root).folder / VECTORS, 3, 300)
    with pytest.raises(CaseIndexError, match="the vector of c3 has changed"):
        CaseIndex(root).search([Query(values[3])], 5)


def test_a_damaged_index_is_not_upgraded(tmp_path: Path) -> None:
    root = make_index(tmp_path, np.eye(8, dtype=np.float32)).path
    index_without_checksums(root)
    flip(CaseIndex(root).folder / VECTORS, 3, 8)
    assert run_cli("index", "verify", str(root), "--upgrade").returncode == 1
    with pytest.raises(CaseIndexError, match=r"vectors.npy: damaged"):
        upgrade_index(root)
    assert CHECKSUMS not in CaseIndex(root).record.files


def test_an_index_whose_upgrade_is_killed_at_every_step(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    target = make_index(tmp_path, values, kind="hnsw").path
    index_without_checksums(target)
    for folder, _ in kill_at_every_step("upgrade", tmp_path, target, 1, "flat"):
        assert verify_index(folder) == []
        upgrade_index(folder)
        index = CaseIndex(folder)
        assert CHECKSUMS in index.record.files
        assert index.search([Query(values[5])], 1).ids.tolist() == [["c5"]]
        assert len(list(folder.glob("generation-*"))) == 1
