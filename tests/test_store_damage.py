"""A store without its header, with shards of another encoder, or without vectors: refused, never adopted or counted."""

from __future__ import annotations

import os
import shutil
import stat
from dataclasses import replace
from pathlib import Path

import pytest
from helpers import SPEC, fill, row, run_cli, vectors

from cxr_embed import open_store
from cxr_embed.errors import StoreError
from cxr_embed.store import StoreWriter


def test_shards_without_a_header_are_adopted_by_nobody(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(20))
    fill(tmp_path / "same", range(1))
    (tmp_path / "s" / "store.json").unlink()
    for spec in (SPEC, replace(SPEC, name="another")):
        with pytest.raises(
            StoreError, match=r"store.json is missing.*take the store.json of another store of the same"
        ):
            StoreWriter(tmp_path / "s", spec)
    assert not (tmp_path / "s" / "store.json").exists()
    shutil.copy(tmp_path / "same" / "store.json", tmp_path / "s")  # the repair that the message names
    assert len(open_store(tmp_path / "s")) == 20
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.add_vector(row(20), vectors(20))
        writer.flush("toy engine")
    assert len(open_store(tmp_path / "s").read().ids) == 21


def test_shards_of_another_encoder_are_never_written_beside(tmp_path: Path) -> None:
    other = replace(SPEC, revision="2")
    fill(tmp_path / "s", range(5))
    fill(tmp_path / "other", range(1), spec=other)
    shutil.copy(tmp_path / "other" / "store.json", tmp_path / "s")
    with pytest.raises(StoreError, match="another encoder's shard"):
        StoreWriter(tmp_path / "s", other)
    with pytest.raises(StoreError, match="another encoder's shard"):
        open_store(tmp_path / "s").read()
    assert run_cli("store", "verify", str(tmp_path / "s")).returncode == 1


@pytest.mark.parametrize("harm", ["gone", "short", "checksums"])
def test_images_whose_vectors_are_gone_do_not_count(tmp_path: Path, harm: str) -> None:
    fill(tmp_path / "s", range(30))
    shard = sorted((tmp_path / "s" / "shards").iterdir())[1]
    name = "checksums.npy" if harm == "checksums" else "features.npy"
    if harm == "short":
        os.truncate(shard / name, 100)
    else:
        (shard / name).unlink()
    for verb in (["store", "info"], ["store", "verify"], ["store", "export"]):
        done = run_cli(*verb, str(tmp_path / "s"), *(["x.npz"] if verb[1] == "export" else []), cwd=tmp_path)
        assert done.returncode == 1
        assert f"{shard.name}" in done.stderr + done.stdout
        assert name in done.stderr
        assert "Traceback" not in done.stderr
    with pytest.raises(StoreError, match=name):
        StoreWriter(tmp_path / "s", SPEC)
    if harm == "gone":
        with pytest.raises(StoreError, match=rf"{shard.name}: {name} is gone; restore it from a copy"):
            len(open_store(tmp_path / "s"))


def test_a_new_store_is_its_owners_alone(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(3))
    assert stat.S_IMODE((tmp_path / "s").stat().st_mode) == 0o700
    (tmp_path / "shared").mkdir(mode=0o755)  # a folder that was there keeps what it was given
    fill(tmp_path / "shared", range(3))
    assert stat.S_IMODE((tmp_path / "shared").stat().st_mode) == 0o755
