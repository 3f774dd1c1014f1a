"""What a generation's folder is filled with: the unit vectors of a store, and FAISS's structure over them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.index.faiss import kinds, token_candidates
from cxr_embed.index.faiss.arrays import ROWS, array_file
from cxr_embed.index.faiss.layout import CANDIDATES, CHECKSUMS, TOKENS, VECTORS, IndexRecord, Kind, MeasuredRecall
from cxr_embed.index.faiss.tokens import unit_tokens
from cxr_embed.index.faiss.vectors import PooledVectors, pooled, timed, unit
from cxr_embed.io.files import load_npy
from cxr_embed.store import Store
from cxr_embed.store.layout import write_npy
from cxr_embed.types import counted

_NAMED = 3


def write_arrays(
    folder: Path,
    store: Store,
    what: tuple[str, str],
    chosen: np.ndarray,
    progress: kinds.Progress | None,
    before: Mapping[str, np.ndarray] | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Writes the chosen images' unit vectors of an output and a pool, behind those of `before`.

    Returns:
        Their positions in the store, without images whose vectors have no direction, and notes on these.
    """
    output, pool = what
    shape = store.spec.outputs[output]
    parts, dropped, start = [], [], 0
    empty = _arrays(pool, np.empty((0, *shape), np.float32), shape)
    with contextlib.ExitStack() as stack:
        files = {
            name: stack.enter_context(array_file(folder / name, array.shape[1:], array.dtype))
            for name, array in empty.items()
        }
        for name, array in (before or {}).items():
            files[name].copy(array)
        for batch in store.batches(ROWS, output):
            rows = np.arange(start, start + len(batch))
            here = chosen[rows]
            arrays = _arrays(pool, batch.vectors[here], shape)
            sound = ~np.isnan(arrays[VECTORS][:, 0])
            for name, array in arrays.items():
                files[name].append(array[sound])
            parts.append(rows[here][sound])
            dropped += batch.ids[here][~sound].tolist()
            start += len(batch)
            if progress is not None:
                progress("normalising", start, len(chosen))
        write_checksums(folder, (file.checksums for file in files.values()))
    kept = np.concatenate(parts) if parts else np.empty(0, np.int64)
    if not dropped:
        return kept, ()
    named = ", ".join(dropped[:_NAMED]) + (", ..." if len(dropped) > _NAMED else "")
    return kept, (
        f"{counted(len(dropped), 'image has', 'images have')} a vector that is zero: it has no direction "
        f"({named}): not indexed",
    )


def write_checksums(folder: Path, sums: Iterable[np.ndarray]) -> None:
    """Writes the checksums `(N,)` of each array, in the order in which `CaseIndex.arrays` names them."""
    write_npy(folder / CHECKSUMS, np.stack(list(sums)))


def mapped(folder: Path, name: str = VECTORS) -> np.ndarray:
    """`(N, ...)`, an array that was just written, from its file."""
    return np.asarray(load_npy(folder / name, mmap_mode="r"))


def choose_kind(record: IndexRecord, kind: str) -> Kind:
    """How candidates are found among a record's cases, and in the memory that was wished for; see `kinds.choose`."""
    if record.pool == "tokens":
        return token_candidates.choose(record.cases, record.shape, kind, record.options.memory)
    return kinds.choose(record.cases, record.shape[-1], kind, record.options.memory)


def write_candidates(
    record: IndexRecord, folder: Path, kind: Kind, progress: kinds.Progress | None, index: Any = None
) -> tuple[IndexRecord, tuple[str, ...]]:
    """Builds the FAISS index, or takes the one that is given, tunes, measures and writes it.

    Returns:
        The record with kind and figures, and notes.
    """
    if not record.cases:
        return replace(record, kind=kind, measured=MeasuredRecall()), ()
    vectors = mapped(folder)
    if record.pool == "tokens":
        return token_candidates.write(folder, record, kind, mapped(folder, TOKENS), vectors, progress, index)
    if kind.name == "flat":
        milliseconds = timed(PooledVectors(vectors, kind))
        return replace(record, kind=kind, measured=MeasuredRecall(1.0, 0, milliseconds)), ()
    index = index if index is not None else kinds.build(vectors, kind, progress)
    if progress is not None:
        progress("measuring recall", 0, 1)
    kind, measured = kinds.tune(index, vectors, kind)
    kinds.write(folder / CANDIDATES, index)
    similar = PooledVectors(vectors, kind, folder / CANDIDATES)
    similar.faiss = index  # what was just written
    measured = replace(measured, milliseconds=timed(similar))
    notes: tuple[str, ...] = ()
    if measured.recall is not None and measured.recall < kinds.RECALL:
        notes = (f"recall {measured.recall:.3f} is below {kinds.RECALL}: `kind='flat'` finds every neighbour",)
    return replace(record, kind=kind, measured=measured), notes


def _arrays(pool: str, vectors: np.ndarray, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """File to what it holds of vectors `(B, *shape)`; NaN where these have no direction."""
    if pool != "tokens":
        return {VECTORS: unit(pooled(vectors, shape))}
    tokens, means = unit_tokens(vectors, shape)
    return {VECTORS: means, TOKENS: tokens}
