"""Reading every byte of an index and comparing it with what was written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxr_embed.errors import CaseIndexError, CxrEmbedError
from cxr_embed.index.case_table import IMAGE
from cxr_embed.index.faiss.arrays import rows_at_a_time
from cxr_embed.index.faiss.generation import mapped, write_checksums
from cxr_embed.index.faiss.layout import CANDIDATES, CASES, CHECKSUMS, TOKENS, VECTORS, IndexRecord, publish, writing
from cxr_embed.index.faiss.search import CaseIndex
from cxr_embed.io.digests import file_record
from cxr_embed.store import Damage
from cxr_embed.store.checksums import row_checksums

_BLOCK = 1 << 16


def verify_index(path: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> list[Damage]:
    """Checks digests, sizes and what the parts say of each other; an empty list means that the index is sound.

    What a killed writer left beside the index (`layout.leftovers`) is not damage: it was never part of it.

    Args:
        path: the index's folder.
        progress: called with the files done and their number.

    Raises:
        CaseIndexError: where there is no index, or index.json is damaged.
    """
    root = Path(path)
    record = IndexRecord.read(root)
    folder = root / record.generation
    damage = []
    present = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    damage += [Damage(name, "does not belong here") for name in sorted(present - set(record.files))]
    sound = True
    for done, (name, entry) in enumerate(record.files.items(), start=1):
        try:
            if file_record(folder / name) != entry:
                damage.append(Damage(name, "checksum differs, its bytes have changed"))
                sound = False
        except OSError as error:
            damage.append(Damage(name, f"cannot be read ({error.strerror})"))
            sound = False
        if progress is not None:
            progress(done, len(record.files))
    return damage + (_contents(root, record, folder) if sound else [])


def upgrade_index(path: str | os.PathLike[str]) -> bool:
    """Gives an index of an earlier release the checksums that searches hold vectors against; whether it had none.

    The same files become a new generation: readers may be at the old one, and a kill at any moment leaves one of both.

    Raises:
        CaseIndexError: where there is no index, it is damaged or cannot be written.
    """
    root = Path(path)
    IndexRecord.read(root)
    with writing(root) as folder:
        record = IndexRecord.read(root)
        if CHECKSUMS in record.files:
            return False
        sums = []
        for name, entry in record.files.items():
            try:
                os.link(root / record.generation / name, folder / name)
            except OSError:
                shutil.copyfile(root / record.generation / name, folder / name)
            if name in (VECTORS, TOKENS):
                sums.append((name, row_checksums(mapped(folder, name))))
            # After they were taken: what changes from here on is found by them.
            if file_record(folder / name) != entry:
                raise CaseIndexError(f"{root / record.generation / name}: damaged; build the index again")
        write_checksums(folder, (found for _, found in sorted(sums, key=lambda each: each[0] != VECTORS)))
        publish(root, replace(record, generation=folder.name))
    return True


def _contents(root: Path, record: IndexRecord, folder: Path) -> list[Damage]:
    """Faults of files that are as they were written: a writer's mistakes."""
    try:
        index = CaseIndex(root)
        index.table.validate(full=True)
    except CxrEmbedError as error:
        return [Damage(record.generation, str(error).removeprefix(f"{root}: "))]
    except pa.ArrowException as error:
        return [Damage(CASES, str(error).splitlines()[0][:200])]
    damage = []
    if pc.count_distinct(index.table[IMAGE]).as_py() != len(index):
        damage.append(Damage(CASES, "an image_id stands twice"))
    if not _of_length_1(index.vectors, _BLOCK, 1e-4):
        damage.append(Damage(VECTORS, "has vectors that are not of length 1"))
    if record.pool == "tokens" and not _of_length_1(index.tokens, rows_at_a_time(index.tokens), 1e-2):
        damage.append(Damage(TOKENS, "has vectors that are not of length 1"))
    if CANDIDATES in record.files:
        try:
            _ = index.similar.faiss
        except CxrEmbedError as error:
            damage.append(Damage(CANDIDATES, str(error).removeprefix(f"{folder / CANDIDATES}: ")))
    return damage


def _of_length_1(array: np.ndarray, block: int, tolerance: float) -> bool:
    """Whether all vectors `(N, ..., D)` are, read a block of rows at a time."""
    for start in range(0, len(array), block):
        part = array[start : start + block].astype(np.float32, copy=False)
        if not (np.abs(np.vecdot(part, part) - 1) < tolerance).all():
            return False
    return True
