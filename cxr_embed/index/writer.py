"""Building an index from a store, adding cases to it, taking cases out of it."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
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
    Wish,
    publish,
    writing,
)
from cxr_embed.index.search import CaseIndex
from cxr_embed.index.table import IMAGE, case_table, join, keep, write_table
from cxr_embed.index.vectors import PooledVectors, pooled, unit
from cxr_embed.manifest import Manifest
from cxr_embed.store import Store
from cxr_embed.store.prompts import PROMPTS as STORE_PROMPTS
from cxr_embed.store.writer import describe, utc_now

POOLS = ("mean",)
_NAMED = 3
_ROWS = 4096  # vectors at a time

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
        if not len(kept):
            raise CaseIndexError(f"{store.path}: none of the vectors has a direction, so there is nothing to index")
        write_table(folder / CASES, case_table(store.ids[kept], *_owners(store, kept), manifest))
        _copy_prompts(store, folder)
        record = Record(
            spec=store.spec,
            output=output,
            pool="none" if len(shape) == 1 else "mean",
            cases=len(kept),
            shape=shape[-1:],
            wish=Wish(kind, memory),
            kind=Kind("flat"),
            measured=Measured(),
            stores=(identity(store),),
            generation=folder.name,
            created=utc_now(),
            software=__version__,
        )
        wanted = kinds.choose(len(kept), shape[-1], kind, memory)
        record, doubts = _with_candidates(record, folder, wanted, progress)
        return Written(publish(root, record), len(kept), (*notes, *zero, *doubts))


def add_cases(
    path: str | os.PathLike[str],
    store: Store,
    *,
    manifest: Manifest | None = None,
    progress: Progress | None = None,
) -> Written:
    """Adds the cases that the index does not have yet; nothing is learned anew.

    Only a flat index that has outgrown its size, where the kind was left to us, becomes one of another kind.

    Args:
        path: the index's folder.
        store: of the same encoder.
        manifest: as for `build_index`; a column that only one of old and new cases has is unknown for the others.
        progress: as for `build_index`.

    Raises:
        CaseIndexError: for another encoder's store, columns of another type, or an index that is damaged or cannot be
            written.
    """
    root = Path(path)
    Record.read(root)
    with writing(root) as folder:
        old = CaseIndex(root)
        record = old.record
        if store.spec.fingerprint != record.spec.fingerprint:
            raise CaseIndexError(
                f"{root} holds vectors of {describe(record.spec)}, {store.path} of {describe(store.spec)}; "
                "build another index for this encoder"
            )
        chosen, notes = chosen_images(store, manifest)
        chosen &= ~np.asarray(pc.is_in(_arrow(store.ids), value_set=old.table[IMAGE].combine_chunks()))
        kept, zero = _write_vectors(folder / VECTORS, store, record.output, chosen, progress, old.vectors)
        if not len(kept):
            return Written(record, 0, (*notes, *zero))
        new = case_table(store.ids[kept], *_owners(store, kept), manifest)
        write_table(folder / CASES, join(old.table, new))
        if PROMPTS in record.files:
            shutil.copyfile(old.folder / PROMPTS, folder / PROMPTS)
        _copy_prompts(store, folder)
        count = record.cases + len(kept)
        record = replace(
            record, cases=count, stores=(*record.stores, identity(store)), generation=folder.name, created=utc_now()
        )
        wanted, index = record.kind, None
        if wanted.factory:
            index = kinds.read(old.folder / CANDIDATES)
            kinds.add(index, _mapped(folder)[len(old) :], progress)
            if kinds.lists(count) > 2 * getattr(index, "nlist", count):
                notes += ("the index has grown fourfold since its lists were learned; built anew, it would be faster",)
        else:
            wanted = kinds.choose(count, record.shape[-1], record.wish.kind, record.wish.memory)
        record, doubts = _with_candidates(record, folder, wanted, progress, index)
        return Written(publish(root, record), len(kept), (*notes, *zero, *doubts))


def remove_cases(
    path: str | os.PathLike[str],
    ids: Sequence[str] = (),
    patients: Sequence[str] = (),
    *,
    progress: Progress | None = None,
) -> Written:
    """Takes cases out: afterwards no file of the index holds their vectors, their ids or what was known of them.

    Args:
        path: the index's folder.
        ids: image ids.
        patients: patients, all of whose cases go.
        progress: as for `build_index`.

    Raises:
        CaseIndexError: for ids or patients that are not here, or an index that is damaged or cannot be written.
    """
    root = Path(path)
    Record.read(root)
    if not len(ids) and not len(patients):
        raise CaseIndexError("name the cases to remove: image ids, or --patient ID")
    with writing(root) as folder:
        old = CaseIndex(root)
        gone = np.zeros(len(old), bool)
        gone[old.rows_of(ids)] = True
        for patient in patients:
            rows = old.rows_of_patient(patient)
            if not len(rows):
                raise CaseIndexError(f"{root} has no case of the patient {patient}")
            gone[rows] = True
        kept = np.flatnonzero(~gone)
        with open(folder / VECTORS, "wb") as file:
            _header(file, len(kept), old.vectors.shape[1])
            for start in range(0, len(kept), _ROWS):
                file.write(np.ascontiguousarray(old.vectors[kept[start : start + _ROWS]]).data)
        write_table(folder / CASES, keep(old.table, kept))
        if PROMPTS in old.record.files:
            shutil.copyfile(old.folder / PROMPTS, folder / PROMPTS)
        record = replace(old.record, cases=len(kept), generation=folder.name, created=utc_now())
        wanted, index = record.kind, None
        if not len(kept):
            wanted = Kind("flat")
        elif wanted.factory:
            index = kinds.read(old.folder / CANDIDATES)
            if not kinds.without(index, ~gone, old.vectors[gone]):
                index, wanted = None, kinds.choose(len(kept), record.shape[-1], wanted.name)
        record, doubts = _with_candidates(record, folder, wanted, progress, index)
        return Written(publish(root, record), int(gone.sum()), doubts)


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
    path: Path,
    store: Store,
    output: str,
    chosen: np.ndarray,
    progress: Progress | None,
    before: np.ndarray | None = None,
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Writes the chosen images' unit vectors, behind those of `before`.

    Returns:
        Their positions in the store, without images whose vectors have no direction, and notes on these.
    """
    shape = store.spec.outputs[output]
    old = before if before is not None else np.empty((0, shape[-1]), np.float32)
    parts, dropped, start = [], [], 0
    with open(path, "wb") as file:
        length = _header(file, len(old) + int(chosen.sum()), shape[-1])
        for first in range(0, len(old), _ROWS):
            file.write(np.ascontiguousarray(old[first : first + _ROWS]).data)
        for batch in store.batches(_ROWS, output):
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
        kept = np.concatenate(parts) if parts else np.empty(0, np.int64)
        file.seek(0)
        if _header(file, len(old) + len(kept), shape[-1]) != length:
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


def _mapped(folder: Path) -> np.ndarray:
    return np.asarray(np.load(folder / VECTORS, mmap_mode="r", allow_pickle=False))


def _with_candidates(
    record: Record, folder: Path, kind: Kind, progress: Progress | None, index: Any = None
) -> tuple[Record, tuple[str, ...]]:
    """Builds (or takes) the FAISS index, tunes, measures and writes it.

    Returns:
        The record with kind and figures, and notes.
    """
    if not record.cases:
        return replace(record, kind=kind, measured=Measured()), ()
    vectors = _mapped(folder)
    if kind.name == "flat":
        milliseconds = kinds.timed(PooledVectors(vectors, kind))
        return replace(record, kind=kind, measured=Measured(1.0, 0, milliseconds)), ()
    index = index if index is not None else kinds.build(vectors, kind, progress)
    if progress is not None:
        progress("measuring recall", 0, 1)
    kind, measured = kinds.tune(index, vectors, kind)
    kinds.write(folder / CANDIDATES, index)
    similar = PooledVectors(vectors, kind, folder / CANDIDATES)
    similar.faiss = index  # what was just written
    measured = replace(measured, milliseconds=kinds.timed(similar))
    notes: tuple[str, ...] = ()
    if measured.recall is not None and measured.recall < kinds.RECALL:
        notes = (f"recall {measured.recall:.3f} is below {kinds.RECALL}: --kind flat finds every neighbour",)
    return replace(record, kind=kind, measured=measured), notes
