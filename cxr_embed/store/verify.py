"""Reading every byte of a store and comparing it with what was written."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxr_embed.errors import StoreError
from cxr_embed.io.digests import file_record
from cxr_embed.io.files import load_npy
from cxr_embed.store.added import ADDED, added_checksums, read_added, remove_stale, write_added
from cxr_embed.store.checksums import row_checksums
from cxr_embed.store.image_index import ImageIndex, ShardRows
from cxr_embed.store.layout import (
    CHECKSUMS,
    PARTIAL_NAME,
    ROWS,
    SHARD_JSON,
    SHARD_NAME,
    SHARDS,
    Header,
    ShardInfo,
    number_of,
    output_file,
    shard_paths,
)
from cxr_embed.store.presence import alone
from cxr_embed.store.prompts import PROMPTS, load_prompts
from cxr_embed.types import counted


@dataclass(frozen=True)
class Damage:
    """A fault: the shard's folder name (or `store.json`, `prompts.arrow`) and what is wrong."""

    where: str
    what: str


def verify_store(path: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> list[Damage]:
    """Checks digests, sizes, shapes and references of a whole store; an empty list means that it is sound.

    Args:
        path: the store.
        progress: called with the shards done and their number.

    Raises:
        StoreError: where there is no store, its header is damaged, or its folder of shards cannot be read.
    """
    root = Path(path)
    header, shards = Header.read(root), shard_paths(root)
    damage = [
        Damage(entry.name, "not a shard, yet it lies among them")
        for entry in sorted(os.scandir(root / SHARDS), key=lambda entry: entry.name)
        if not SHARD_NAME.fullmatch(entry.name) and not PARTIAL_NAME.fullmatch(entry.name)
    ]
    damage += [Damage(PROMPTS, what) for what in _verify_prompts(root, header)]
    damage += _verify_added(root)
    index = ImageIndex()
    numbers = list(map(number_of, shards))
    missing = sorted(set(range(max(numbers, default=-1) + 1)) - set(numbers))
    damage += [Damage(f"{number:08d}", "the shard is missing") for number in missing]
    for done, shard in enumerate(shards, start=1):
        found, rows, live = _verify_shard(shard, header)
        damage += [Damage(shard.name, what) for what in found]
        if rows is not None:
            index.fold(rows)
            exact = len(set(numbers[:done])) == done  # else others published at the same moment
            if exact and not damage and len(index) != live:
                damage.append(Damage(shard.name, f"it counts {counted(live, 'image')}, the rows give {len(index)}"))
        if progress is not None:
            progress(done, len(shards))
    if not damage:
        try:
            index.places()
        except StoreError as error:
            damage.append(Damage(SHARDS, str(error)))
    return damage


def upgrade_store(path: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> int:
    """Gives the shards of earlier releases the checksums that those of this one have, and changes nothing else.

    Readers may be at the store, and a kill at any moment leaves the shards that are done.

    Args:
        path: the store.
        progress: called with the shards done and their number.

    Returns:
        How many shards got some.

    Raises:
        StoreError: for a shard that is damaged, or where another process writes, or the store cannot be written.
    """
    root = Path(path)
    header = Header.read(root)
    try:
        with alone(root, "store verify"):
            remove_stale(root)
            shards, added, count = shard_paths(root), added_checksums(root), 0
            for done, shard in enumerate(shards, start=1):
                info = ShardInfo.read(shard)
                if CHECKSUMS not in info.files and shard.name not in added and info.vectors:
                    write_added(shard, _checksums(shard, header, info))
                    count += 1
                if progress is not None:
                    progress(done, len(shards))
    except OSError as error:
        raise StoreError(f"{root}: cannot be written ({error.strerror}); what was there is as it was") from None
    return count


def _checksums(shard: Path, header: Header, info: ShardInfo) -> np.ndarray:
    """Of a shard's vectors, which are first held against the shard's record."""
    sums = []
    for output in header.spec.outputs:
        file = shard / output_file(output)
        try:
            array = load_npy(file, "r")
        except ValueError:
            raise StoreError(f"{file}: damaged, it is not an array any more; restore it from a copy") from None
        sums.append(row_checksums(array))
        # After they were taken: what changes from here on is found by them.
        if file_record(file) != info.files.get(file.name) or len(array) != info.vectors:
            raise StoreError(f"{file}: damaged, its checksum differs; restore it from a copy")
    return np.stack(sums)


def _verify_added(root: Path) -> list[Damage]:
    found = []
    for path in added_checksums(root).values():
        try:
            read_added(path)
        except StoreError as error:
            found.append(Damage(ADDED, str(error).removeprefix(f"{path.parent}/")))
    return found


def _verify_prompts(root: Path, header: Header) -> list[str]:
    if not (root / PROMPTS).exists():
        return []
    try:
        load_prompts(root, header)
    except StoreError as error:
        return [str(error).removeprefix(f"{root / PROMPTS}: ").removeprefix(f"{root}: ")]
    return []


def _verify_shard(shard: Path, header: Header) -> tuple[list[str], ShardRows | None, int]:
    try:
        info = ShardInfo.read(shard)
    except (StoreError, ValueError, TypeError) as error:
        return [str(error).removeprefix(f"{shard}: ")], None, 0
    found = _verify_files(shard, info, header)
    if found:
        return found, None, 0
    found = _verify_vectors(shard, info, header)
    try:
        return found, ShardRows.open(shard, info), info.live
    except StoreError as error:
        return [*found, str(error).removeprefix(f"{shard}: ")], None, 0


def _verify_files(shard: Path, info: ShardInfo, header: Header) -> list[str]:
    """Whether the files are those that the record names, byte by byte."""
    found = []
    if info.fingerprint != header.spec.fingerprint:
        found.append("another encoder's shard")
    expected = {ROWS, *(output_file(output) for output in header.spec.outputs)}
    if CHECKSUMS in info.files:  # earlier releases wrote none
        expected.add(CHECKSUMS)
    present = {entry.name for entry in os.scandir(shard)} - {SHARD_JSON}
    found += [f"{name} is missing" for name in sorted(expected - present)]
    found += [f"{name} does not belong here" for name in sorted(present - expected)]
    for name in sorted(expected & present):
        try:
            if file_record(shard / name) != info.files.get(name):
                found.append(f"{name}: checksum differs, its bytes have changed")
        except OSError as error:  # a failing disk is what this verb is for
            found.append(f"{name} cannot be read ({error.strerror})")
    return found


def _verify_vectors(shard: Path, info: ShardInfo, header: Header) -> list[str]:
    """Whether the arrays are what the header declares, and finite."""
    found = []
    for output, shape in header.spec.outputs.items():
        array = load_npy(shard / output_file(output), mmap_mode="r")
        if array.shape != (info.vectors, *shape) or array.dtype != header.dtype:
            found.append(f"{output_file(output)} is {array.dtype} {array.shape}, not what the header declares")
        elif not all(np.isfinite(part).all() for part in np.array_split(array, max(1, array.nbytes >> 24))):
            found.append(f"{output_file(output)} has values that are not finite")
    return found
