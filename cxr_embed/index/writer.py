"""Building an index from a store, adding cases to it, taking cases out of it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc

from cxr_embed import __version__
from cxr_embed.errors import CaseIndexError
from cxr_embed.index import kinds
from cxr_embed.index.layout import (
    CANDIDATES,
    CASES,
    PROMPTS,
    VECTORS,
    Kind,
    Measured,
    Record,
    publish,
    writing,
)
from cxr_embed.index.table import IMAGE, case_table, write_table
from cxr_embed.index.vectors import PooledVectors, pooled, unit
from cxr_embed.manifest import Manifest
from cxr_embed.store import Store
from cxr_embed.store.prompts import PROMPTS as STORE_PROMPTS
from cxr_embed.store.writer import utc_now

POOLS = ("mean",)
_NAMED = 3
_COPIED = 1 << 24  # bytes at a time

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Written:
    """What a writer did.

    Attributes:
        record: of the index as it is now.
        changed: cases that were built, added or removed.
        notes: what the user should know of it.
    """

    record: Record
    changed: int
    notes: tuple[str, ...]


def build_index(
    store: Store,
    path: str | os.PathLike[str],
    *,
    manifest: Manifest | None = None,
    output: str | None = None,
    pool: str | None = None,
    kind: str = "auto",
    memory: int = kinds.MEMORY,
    progress: Progress | None = None,
) -> Written:
    """Builds an index, or replaces the one that is there.

    Args:
        store: whose vectors are indexed.
        path: the index's folder.
        manifest: the cases, and what is known of them; all images of the store, by patient alone, without one.
        output: one of the encoder's outputs; its first by default.
        pool: `mean` makes one vector of `(T, D)`, and is the default for them.
        kind, memory: see `kinds.choose`.
        progress: called with a word for the step, what is done and how much there is.

    Raises:
        CaseIndexError: for a store without a case to index, unknown words, or a folder that cannot be written.
    """
    output = output or next(iter(store.spec.outputs))
    if output not in store.spec.outputs:
        raise CaseIndexError(f"{store.path} has no output {output!r}; it has {', '.join(store.spec.outputs)}")
    shape = store.spec.outputs[output]
    if pool is not None and (pool not in POOLS or len(shape) == 1):
        raise CaseIndexError(f"--pool {pool}: {output} is {shape}; --pool is {' or '.join(POOLS)}, for (T, D) vectors")
    chosen, notes = chosen_images(store, manifest)
    root = Path(path)
    with writing(root) as folder:
        kept, zero = _write_vectors(folder / VECTORS, store, output, chosen, progress)
        notes += zero
        if not len(kept):
            raise CaseIndexError(f"{store.path}: none of the vectors has a direction, so there is nothing to index")
        write_table(folder / CASES, case_table(store.ids[kept], *_owners(store, kept), manifest))
        _copy_prompts(store, folder)
        vectors = np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False)
        wanted = kinds.choose(len(kept), shape[-1], kind, memory)
        made, measured = _write_candidates(folder, vectors, wanted, progress)
        if measured.recall is not None and measured.recall < kinds.RECALL:
            notes += (f"recall {measured.recall:.3f} is below {kinds.RECALL}: --kind flat finds every neighbour",)
        record = Record(
            spec=store.spec,
            output=output,
            pool="none" if len(shape) == 1 else "mean",
            cases=len(kept),
            shape=shape[-1:],
            kind=made,
            measured=measured,
            stores=(identity(store),),
            generation=folder.name,
            created=utc_now(),
            software=__version__,
        )
        return Written(publish(root, record), len(kept), notes)


def identity(store: Store) -> dict[str, Any]:
    """What tells one state of a store from every other: digests of its header and of its last shard."""
    last = max((path.name for path in (store.path / "shards").iterdir()), default="")
    header = hashlib.sha256(store.header.to_bytes()).hexdigest()
    return {"header": header, "created": store.header.created, "shards": store.shards, "last_shard": last}


def chosen_images(store: Store, manifest: Manifest | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """`(N,)` bool, the store's images that the manifest lists (all without one), and notes for the user.

    Raises:
        CaseIndexError: where none is left.
    """
    if not len(store):
        raise CaseIndexError(f"{store.path}: holds no image with a vector; embed some first")
    if manifest is None:
        return np.ones(len(store), bool), ()
    stored = pc.index_in(_arrow(store.ids), value_set=manifest.table[IMAGE].combine_chunks())
    chosen = np.asarray(stored.is_valid())
    if not chosen.any():
        raise CaseIndexError(f"{store.path}: none of the manifest's {len(manifest):,} images has a vector here")
    notes = []
    if missing := len(manifest) - int(chosen.sum()):
        notes.append(f"{missing:,} images of the manifest have no vector in {store.path}: not indexed")
    if more := int((~chosen).sum()):
        notes.append(f"{more:,} images of {store.path} are not in the manifest: not indexed")
    recorded = store.patient_ids[chosen]
    told = np.asarray(manifest.table["patient_id"].to_pylist())[np.asarray(stored.drop_null())]
    if differing := int(((recorded != told) & (recorded != "")).sum()):
        notes.append(
            f"{differing:,} images have another patient in the manifest than in the store: the manifest's counts"
        )
    return chosen, tuple(notes)


def _arrow(ids: np.ndarray) -> Any:
    import pyarrow as pa

    return pa.array(ids.tolist(), pa.string())


def _owners(store: Store, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return store.patient_ids[rows], store.content_ids[rows]


def _write_vectors(
    path: Path, store: Store, output: str, chosen: np.ndarray, progress: Progress | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Writes the chosen images' unit vectors; gives their positions in the store, without those of no direction."""
    shape, count = store.spec.outputs[output], int(chosen.sum())
    parts, dropped, start = [], [], 0
    with open(path, "wb") as file:
        length = _header(file, count, shape[-1])
        for batch in store.batches(4096, output):
            rows = np.arange(start, start + len(batch))
            here = chosen[rows]
            vectors = unit(pooled(batch.vectors[here], shape))
            sound = ~np.isnan(vectors[:, 0])
            file.write(np.ascontiguousarray(vectors[sound], "<f4").data)
            parts.append(rows[here][sound])
            dropped += batch.ids[here][~sound].tolist()
            start += len(batch)
            if progress is not None:
                progress("normalising", start, len(chosen))
        kept = np.concatenate(parts)
        file.seek(0)
        if _header(file, len(kept), shape[-1]) != length:
            raise OSError(None, f"the header of {path.name} has no room for its shape")
    if not dropped:
        return kept, ()
    named = ", ".join(dropped[:_NAMED]) + (", ..." if len(dropped) > _NAMED else "")
    return kept, (f"{len(dropped):,} images have a vector that is zero: it has no direction ({named}): not indexed",)


def _header(file: Any, count: int, width: int) -> int:
    # NumPy leaves room for a longer first number, so that it can be set right at the end.
    described = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
    np.lib.format.write_array_header_1_0(file, described)
    return int(file.tell())


def _copy_prompts(store: Store, folder: Path) -> None:
    source = store.path / STORE_PROMPTS
    if source.exists():
        shutil.copyfile(source, folder / PROMPTS)


def _write_candidates(
    folder: Path, vectors: np.ndarray, kind: Kind, progress: Progress | None, index: Any = None
) -> tuple[Kind, Measured]:
    """Builds (or takes) the FAISS index, tunes, measures and writes it."""
    if kind.name == "flat":
        similar = PooledVectors(vectors, kind)
        return kind, Measured(1.0 if len(vectors) else None, 0, kinds.timed(similar) if len(vectors) else None)
    index = index if index is not None else kinds.build(vectors, kind, progress)
    if progress is not None:
        progress("measuring recall", 0, 1)
    kind, measured = kinds.tune(index, vectors, kind)
    kinds.write(folder / CANDIDATES, index)
    similar = PooledVectors(vectors, kind, folder / CANDIDATES)
    similar.faiss = index  # what was just written
    return kind, replace(measured, milliseconds=kinds.timed(similar))
