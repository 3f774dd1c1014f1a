"""Checksums of vectors: runs of rows are checked at once, and what is found is what a check row by row finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from google_crc32c import value
from helpers import row
from hypothesis import given, settings
from hypothesis import strategies as st
from test_equal_vectors import without_checksums

from cxr_embed import open_store
from cxr_embed.errors import StoreError
from cxr_embed.store import StoreWriter
from cxr_embed.store.checksums import changed_rows, joined_checksums, row_checksums
from cxr_embed.types import EncoderSpec

COUNT = 300  # several runs, and a part of one
SPEC = EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"features": (16,)})
ARRAYS = st.builds(
    lambda rows, width, seed: np.random.default_rng(seed).integers(0, 256, (rows, width), np.uint8),
    st.integers(0, 200),
    st.sampled_from([1, 2, 3, 64, 257, 5000, 70_000]),
    st.integers(0, 1000),
)


def stored(path: Path, numbers: range) -> np.ndarray:
    """Adds one shard, and gives its vectors."""
    vectors = np.random.default_rng(numbers.start).standard_normal((len(numbers), 16)).astype(np.float16)
    with StoreWriter(path, SPEC) as writer:
        for number, vector in zip(numbers, vectors, strict=True):
            writer.add_vector(row(number), {"features": vector})
        writer.flush("toy engine")
    return vectors


def flip(path: Path, shard: int, at: int, bit: int) -> None:
    """Flips a bit of a stored vector."""
    file = sorted((path / "shards").iterdir())[shard] / "features.npy"
    array = np.load(file, mmap_mode="r+")
    array.view(np.uint8)[at, bit // 8] ^= 1 << bit % 8
    array.flush()


@settings(max_examples=60, deadline=None)
@given(array=ARRAYS, run=st.integers(1, 70))
def test_the_checksum_of_a_run_follows_from_those_of_its_rows(array: np.ndarray, run: int) -> None:
    parts = [array[max(0, stop - run) : stop] for stop in range(len(array), 0, -run)][::-1]
    found = joined_checksums(row_checksums(array), array.shape[1], run)
    assert found.tolist() == [value(part.tobytes()) for part in parts]


@settings(max_examples=60, deadline=None)
@given(array=ARRAYS, data=st.data())
def test_changed_rows_are_those_that_a_check_row_by_row_finds(array: np.ndarray, data: st.DataObject) -> None:
    sums = row_checksums(array)
    places = st.integers(0, max(0, array.size - 1))
    for place in data.draw(st.lists(places, max_size=4)) if array.size else ():
        array.flat[place] ^= 1 << data.draw(st.integers(0, 7))
    bad = [at for at in range(len(array)) if value(array[at].tobytes()) != sums[at]]
    assert changed_rows(array, sums).tolist() == bad
    rows = np.array(data.draw(st.lists(st.integers(0, len(array) - 1)) if len(array) else st.just([])), np.int64)
    assert changed_rows(array, sums, rows).tolist() == [at for at in rows if at in bad]


@pytest.mark.parametrize("at", [0, 1, COUNT % 64 - 1, COUNT % 64, 107, COUNT - 1])
@pytest.mark.parametrize("bit", [0, 255])
def test_a_flipped_bit_names_its_image(tmp_path: Path, at: int, bit: int) -> None:
    stored(tmp_path / "s", range(1000, 1010))
    stored(tmp_path / "s", range(COUNT))
    flip(tmp_path / "s", 1, at, bit)
    store = open_store(tmp_path / "s")
    named = rf"features\.npy: the vector of i{at} has changed"
    with pytest.raises(StoreError, match=named):
        store.read()
    stream = store.mapped()
    next(stream)  # the shard before it is sound
    with pytest.raises(StoreError, match=named):
        next(stream)
    others = [image_id for image_id in store.ids if image_id != f"i{at}"]
    assert len(store.read(others).ids) == COUNT + 9


def test_shards_of_earlier_releases_pass_beside_those_that_are_checked(tmp_path: Path) -> None:
    old = stored(tmp_path / "s", range(COUNT))
    without_checksums(tmp_path / "s")
    new = stored(tmp_path / "s", range(COUNT, 2 * COUNT))
    flip(tmp_path / "s", 0, 5, 3)  # nobody can tell
    store = open_store(tmp_path / "s")
    mixed = store.read([f"i{number}" for number in range(6, 2 * COUNT)])
    assert (mixed.vectors == np.concatenate([old[6:], new])).all()
    assert sum(len(vectors) for _, _, vectors in store.mapped()) == 2 * COUNT
    flip(tmp_path / "s", 1, 5, 3)
    with pytest.raises(StoreError, match=rf"the vector of i{COUNT + 5} has changed"):
        open_store(tmp_path / "s").read()
