"""`store compact`: fewer shards, the same vectors, and alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import SPEC, content, fill, row, run_cli, vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from test_store_writers import assert_the_rule, by_the_rule
from test_upgrade import old_store

from cxr_embed import open_store
from cxr_embed.errors import StoreError
from cxr_embed.store import StoreWriter, compact, layout, upgrade_store, verify_store
from cxr_embed.store.compact import compact_store

HERE = Path(__file__).parent


def state(root: Path) -> tuple[dict[str, list[float]], list[Any], dict[str, str], list[str]]:
    """All that a user can see of a store's images."""
    store = open_store(root)
    read = {output: store.read(output=output) for output in store.spec.outputs}
    joined = {
        image_id: np.concatenate([read[output].vectors[at].ravel() for output in read]).tolist()
        for at, image_id in enumerate(store.ids.tolist())
    }
    patients = dict(zip(store.ids.tolist(), store.patient_ids.tolist(), strict=True))
    return joined, store.failures, patients, sorted(store.ids[store.unlike_chest].tolist())


def names(root: Path) -> list[str]:
    return [path.name for path in layout.shard_paths(root)]


def test_small_shards_become_one(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(30), shard=2)
    before = state(tmp_path / "s")
    done = compact_store(tmp_path / "s")
    assert (done.before, done.after, done.repeated) == (15, 1, 0)
    assert state(tmp_path / "s") == before
    assert [name[:8] for name in names(tmp_path / "s")] == ["00000000"]
    assert len(open_store(tmp_path / "s")) == 30
    assert_the_rule(tmp_path / "s")
    once = names(tmp_path / "s")
    assert compact_store(tmp_path / "s").after == 1
    assert names(tmp_path / "s") == once
    fill(tmp_path / "s", range(30, 33))
    assert len(open_store(tmp_path / "s")) == 33


_ROWS = st.tuples(
    st.integers(0, 5), st.integers(0, 5), st.sampled_from(["vector", "broken", "away"]), st.booleans()
)  # image, file, what, whether its picture is unlike a chest
_SHARDS = st.lists(st.lists(_ROWS, max_size=6, unique_by=lambda each: each[0]), max_size=6)


@settings(max_examples=40, deadline=None)
@given(shards=_SHARDS, most=st.integers(1, 12), blind=st.lists(st.booleans(), min_size=6, max_size=6))
def test_any_store_is_the_same_after_it(
    tmp_path_factory: pytest.TempPathFactory, shards: list[list[Any]], most: int, blind: list[bool]
) -> None:
    """Whatever images shared and became, in shards by one writer or by some that did not see each other's."""
    root = tmp_path_factory.mktemp("compact") / "s"
    StoreWriter(root, SPEC).close()
    for rows, alone in zip(shards, blind, strict=False):
        with StoreWriter(root, SPEC) as writer, pytest.MonkeyPatch.context() as patch:
            known = {content(n) for n in range(6) if not alone and writer.index.find_content(content(n))}
            for image, file, what, unlike in rows:
                made = replace(row(file), image_id=f"i{image}", patient_id=f"p{image}")
                if what == "vector" and made.content not in known:
                    salt = len(list((root / "shards").iterdir()))
                    known.add(made.content or b"")
                    values = {name: value + salt for name, value in vectors(file).items()}
                    writer.add_vector(replace(made, unlike_chest=unlike), values)
                elif what == "vector":
                    writer.add_row(made)
                else:
                    held = content(60 + file) if what == "broken" else None
                    writer.add_row(replace(made, content=held, error_kind="corrupt", error="bad"))
            if alone:
                patch.setattr(StoreWriter, "_refresh", lambda _: None)
                writer._last = max(-1, writer._last - 1)
            writer.flush("toy")
    before, plain = state(root), by_the_rule(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compact, "MOST_ROWS", most)
        compact_store(root)
    assert state(root) == before
    assert by_the_rule(root).keys() == plain.keys()
    assert_the_rule(root)
    assert len({name[:8] for name in names(root)}) == len(names(root))


def test_a_content_of_two_writers_is_kept_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "s"
    with StoreWriter(root, SPEC) as one, StoreWriter(root, SPEC) as two:
        for number in range(4):
            one.add_vector(row(number), vectors(number))
            two.add_vector(row(number), vectors(number))
        monkeypatch.setattr(StoreWriter, "_refresh", lambda _: None)
        one.flush("one")
        two.flush("two")
    monkeypatch.undo()
    done = run_cli("store", "compact", str(root), "--json")
    assert json.loads(done.stdout) == {"shards_before": 2, "shards": 1, "repeated_vectors": 4}
    (shard,) = layout.shard_paths(root)
    assert len(np.load(shard / "features.npy")) == 4
    assert "1 shard before, 1 now" in run_cli("store", "compact", str(root)).stdout


@pytest.mark.parametrize("upgraded", [True, False])
@pytest.mark.parametrize("most", [1, 1000])
def test_stores_of_earlier_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upgraded: bool, most: int) -> None:
    root = old_store(tmp_path / "s")
    if upgraded:
        upgrade_store(root)
    before, unchecked = state(root), open_store(root).unchecked
    monkeypatch.setattr(compact, "MOST_ROWS", most)
    compact_store(root)
    assert state(root) == before
    assert open_store(root).unchecked == (unchecked if most == 1 else 0)
    assert verify_store(root) == []


def test_a_damaged_shard_stops_it(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(30))
    file = sorted((tmp_path / "s" / "shards").glob("*/features.npy"))[1]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    before = names(tmp_path / "s")
    with pytest.raises(StoreError, match=r"features\.npy: damaged"):
        compact_store(tmp_path / "s")
    assert names(tmp_path / "s") == before
    done = run_cli("store", "compact", str(tmp_path / "s"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1


def test_it_waits_for_no_writer_and_a_reader_keeps_what_it_has(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(30))
    with StoreWriter(tmp_path / "s", SPEC), pytest.raises(StoreError, match="another process is writing"):
        compact_store(tmp_path / "s")
    reader = open_store(tmp_path / "s")
    held = reader.read().vectors.copy()
    compact_store(tmp_path / "s")
    np.testing.assert_array_equal(reader.read().vectors, held)


KILLED = """
import os, signal, sys
from pathlib import Path
from cxr_embed.store import compact, rewrite
at = int(sys.argv[2])
def counted(step):
    def counting(*args, **options):
        global at
        at -= 1
        if at < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return step(*args, **options)
    return counting
compact.MOST_ROWS = 10
rewrite.write_whole = counted(rewrite.write_whole)
os.rename = counted(os.rename)
os.unlink = counted(os.unlink)
compact.compact_store(sys.argv[1])
print("done")
"""


def test_killed_at_any_step_the_store_is_as_it_was_or_done(tmp_path: Path) -> None:
    for step in range(60):
        root = tmp_path / f"s{step}"
        fill(root, range(12), shard=3)
        before, old = state(root), names(root)
        command = [sys.executable, "-c", KILLED, str(root), str(step)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        assert state(root) == before
        assert names(root) == old or len(names(root)) == 2
        fill(root, range(12, 14))  # a writer clears up
        assert not (root / "unread.json").exists()
        assert verify_store(root) == []
        assert compact_store(root).after == 1
        assert len(state(root)[0]) == 14
        if "done" in done.stdout:
            break
    assert step > 5
    assert os.listdir(root / "writers") == []
