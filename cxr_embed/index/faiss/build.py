"""Building an index from a store, adding cases to it, taking cases out of it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.case_table import IMAGE, case_table, image_ids, join, keep, thumbnail_keys, write_table
from cxr_embed.index.faiss import kinds, token_candidates
from cxr_embed.index.faiss.arrays import array_file
from cxr_embed.index.faiss.from_store import changed_files, chosen_images, copy_prompts, forgotten_of, identity
from cxr_embed.index.faiss.generation import choose_kind, mapped, write_arrays, write_candidates, write_checksums
from cxr_embed.index.faiss.layout import (
    CANDIDATES,
    CASES,
    PROMPTS,
    TOKENS,
    BuildOptions,
    IndexRecord,
    Kind,
    MeasuredRecall,
    publish,
    writing,
)
from cxr_embed.index.faiss.map_file import drop_other, map_path
from cxr_embed.index.faiss.search import CaseIndex
from cxr_embed.index.faiss.tokens import token_shape
from cxr_embed.io.times import utc_now
from cxr_embed.manifest import Manifest
from cxr_embed.metrics.spread import collapsed
from cxr_embed.store import Store
from cxr_embed.store.forgotten import FORGOTTEN
from cxr_embed.store.writer import describe
from cxr_embed.thumbnails import thumbnails_path, without
from cxr_embed.types import EncoderSpec, counted
from cxr_embed.version import __version__

POOLS = ("mean", "tokens")


@dataclass(frozen=True)
class Written:
    """What a writer did.

    Attributes:
        record: of the index as it is now.
        changed: cases that were built, added or removed.
        notes: what the user should know of it.
    """

    record: IndexRecord
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
    key_file: Path | None = None,
    progress: kinds.Progress | None = None,
) -> Written:
    """Builds an index, or replaces the one that is there.

    Args:
        store: whose vectors are indexed.
        path: the index's folder.
        manifest: the cases, and what is known of them; all images of the store, by patient alone, without one.
        output: one of the encoder's outputs; the one that words are compared with by default, else the first.
        pool: for vectors `(T, D)` or `(H, W, D)`: `mean` makes one of them, `tokens` keeps them to be compared by
            max-sim, the default where the encoder compares them with words so.
        kind, memory: see `kinds.choose`, and `token_candidates.choose` for tokens.
        key_file: the key of the patient ids, where patients were forgotten; the user's own by default.
        progress: called with a word for the step, what is done and how much there is.

    Raises:
        CaseIndexError: for a store without a case to index, unknown words, or a folder that cannot be written.
        StoreError: where patients were forgotten and the key is not theirs.
    """
    output, pool = _vectors_of(store, output, pool)
    root = Path(path)
    forgotten = forgotten_of(store, root, key_file)
    chosen, notes = chosen_images(store, manifest, forgotten)
    with writing(root) as folder:
        kept, zero = write_arrays(folder, store, (output, pool), chosen, progress)
        if not len(kept):
            raise CaseIndexError(f"{store.path}: none of the vectors has a direction, so there is nothing to index")
        table = case_table(store, kept, manifest)
        write_table(folder / CASES, table)
        copy_prompts(store, folder)
        if forgotten:  # what is added later, of another store, is to know it too
            forgotten.save(root / FORGOTTEN)
        record = _new_record(store, output, pool, len(kept), BuildOptions(kind, memory), folder)
        chosen_kind = choose_kind(record, kind)
        if kind not in ("auto", chosen_kind.name):
            few = f"among {counted(record.cases, 'case')} {kind} would be the slower way"
            notes += (f"built {chosen_kind.name}, not {kind}: {few}; `index add` changes to it once there are enough",)
        record, warnings = write_candidates(record, folder, chosen_kind, progress)
        alike = _alike(folder)
        with without(thumbnails_path(root), _others(table)):
            return _published(root, record, len(kept), (*notes, *zero, *alike, *warnings))


def _vectors_of(store: Store, output: str | None, pool: str | None) -> tuple[str, str]:
    """The output, and how tokens are compared; `none` where there are none."""
    output = output or store.spec.search_output
    if output not in store.spec.outputs:
        raise CaseIndexError(f"{store.path} has no output {output!r}; it has {', '.join(store.spec.outputs)}")
    shape = store.spec.outputs[output]
    if pool is not None and (pool not in POOLS or len(shape) == 1):
        raise CaseIndexError(f"`pool` {pool}: {output} is {shape}; `pool` is {' or '.join(POOLS)}, for several vectors")
    return output, pool or _default_pool(store.spec, output)


def _new_record(store: Store, output: str, pool: str, cases: int, options: BuildOptions, folder: Path) -> IndexRecord:
    """Of an index before the kind of its candidates is chosen."""
    shape = store.spec.outputs[output]
    return IndexRecord(
        spec=store.spec,
        output=output,
        pool=pool,
        cases=cases,
        shape=token_shape(shape) if pool == "tokens" else shape[-1:],
        options=options,
        kind=Kind("flat"),
        measured=MeasuredRecall(),
        stores=(identity(store),),
        generation=folder.name,
        created=utc_now(),
        software=__version__,
    )


def add_cases(
    path: str | os.PathLike[str],
    store: Store,
    *,
    manifest: Manifest | None = None,
    key_file: Path | None = None,
    progress: kinds.Progress | None = None,
) -> Written:
    """Adds the cases that the index does not have yet; nothing is learned anew.

    Only a flat index that has outgrown its size, where the kind was left to us, becomes one of another kind.

    Args:
        path: the index's folder.
        store: of the same encoder.
        manifest: as for `build_index`; a column that only one of old and new cases has is unknown for the others.
        key_file, progress: as for `build_index`.

    Raises:
        StoreError: as for `build_index`.
        CaseIndexError: for another encoder's store, columns of another type, or an index that is damaged or cannot be
            written.
    """
    root = Path(path)
    IndexRecord.read(root)
    with writing(root) as folder:
        old = CaseIndex(root)
        record = old.record
        if store.spec.fingerprint != record.spec.fingerprint:
            raise CaseIndexError(
                f"{root} holds vectors of {describe(record.spec)}, {store.path} of {describe(store.spec)}; "
                "build another index for this encoder"
            )
        forgotten = forgotten_of(store, root, key_file)
        chosen, notes = chosen_images(store, manifest, forgotten)
        places = pc.index_in(image_ids(store), value_set=old.table[IMAGE].combine_chunks())
        notes += changed_files(store, chosen, places, old.table)
        chosen &= ~np.asarray(places.is_valid())
        kept, zero = write_arrays(folder, store, (record.output, record.pool), chosen, progress, old.arrays)
        if not len(kept):
            return Written(record, 0, (*notes, *zero))
        if forgotten:
            forgotten.save(root / FORGOTTEN)
        new = case_table(store, kept, manifest)
        write_table(folder / CASES, join(old.table, new))
        _keep_prompts(old, folder)
        copy_prompts(store, folder)
        count = record.cases + len(kept)
        record = replace(
            record, cases=count, stores=(*record.stores, identity(store)), generation=folder.name, created=utc_now()
        )
        wanted, index = record.kind, None
        if wanted.factory:
            index = _grown(old, record, folder, progress)
            if record.pool != "tokens" and kinds.lists(count) > 2 * getattr(index, "nlist", count):
                notes += ("the index has grown fourfold since its lists were learned; built anew, it would be faster",)
        else:
            wanted = choose_kind(record, record.options.kind)
        record, warnings = write_candidates(record, folder, wanted, progress, index)
        alike = _alike(folder)
        return _published(root, record, len(kept), (*notes, *zero, *alike, *warnings))


def _grown(old: CaseIndex, record: IndexRecord, folder: Path, progress: kinds.Progress | None) -> Any:
    """The candidates' structure of the old index with the new cases in it."""
    index = kinds.read(old.folder / CANDIDATES, record.files[CANDIDATES]["sha256"])
    if record.pool == "tokens":
        token_candidates.add(index, mapped(folder, TOKENS)[len(old) :], progress)
    else:
        kinds.add(index, mapped(folder)[len(old) :], progress)
    return index


def remove_cases(
    path: str | os.PathLike[str],
    ids: Sequence[str] = (),
    patients: Sequence[str] = (),
    *,
    thumbnails: Path | None = None,
    progress: kinds.Progress | None = None,
) -> Written:
    """Takes cases out: afterwards no file of the index holds their vectors, their ids or what was known of them.

    The thumbnails beside the index go with them. Nothing keeps cases from being added again; `forget` does.

    Args:
        path: the index's folder.
        ids: image ids.
        patients: patients, all of whose cases go.
        thumbnails: another folder of thumbnails, out of which theirs are taken too.
        progress: as for `build_index`.

    Raises:
        CaseIndexError: for ids or patients that are not here, or an index that is damaged or cannot be written.
    """
    root = Path(path)
    if not len(ids) and not len(patients):
        raise CaseIndexError("name the cases to remove: image ids, or `patient`")

    def choose(old: CaseIndex) -> np.ndarray:
        gone = np.zeros(len(old), bool)
        gone[old.rows_of(ids)] = True
        for patient in patients:
            rows = old.rows_of_patient(patient)
            if not len(rows):
                raise CaseIndexError(f"{root} has no case of the patient {patient}")
            gone[rows] = True
        return gone

    return remove_rows(root, choose, progress, thumbnails)


def remove_rows(
    root: Path,
    choose: Callable[[CaseIndex], np.ndarray],
    progress: kinds.Progress | None = None,
    thumbnails: Path | None = None,
) -> Written:
    """Takes out the rows that are chosen; where none is, the index stays as it is, and what a kill left is deleted.

    Args:
        root: the index's folder.
        choose: from the index to `(N,)` bool; called while no other process can write.
        progress: as for `build_index`.
        thumbnails: as for `remove_cases`.

    Raises:
        CaseIndexError: for an index that is damaged or cannot be written.
    """
    IndexRecord.read(root)
    with writing(root) as folder:
        old = CaseIndex(root)
        gone = choose(old)
        if not gone.any():
            drop_other(root, old.record.vectors_digest)
            with without(thumbnails_path(root), _others(old.table)):
                return Written(old.record, 0, ())
        kept = np.flatnonzero(~gone)
        with contextlib.ExitStack() as stack:
            files = {
                name: stack.enter_context(array_file(folder / name, array.shape[1:], array.dtype))
                for name, array in old.arrays.items()
            }
            for name, array in old.arrays.items():
                files[name].copy(array, kept)
            write_checksums(folder, (file.checksums for file in files.values()))
        table = keep(old.table, kept)
        write_table(folder / CASES, table)
        _keep_prompts(old, folder)
        record = replace(old.record, cases=len(kept), generation=folder.name, created=utc_now())
        wanted, index = record.kind, None
        if not len(kept):
            wanted = Kind("flat")
        elif wanted.factory:
            index = kinds.read(old.folder / CANDIDATES, record.files[CANDIDATES]["sha256"])
            if record.pool == "tokens":
                # Their codes are written anew: FAISS would leave some of those removed behind its last block.
                index.reset()
                token_candidates.add(index, mapped(folder, TOKENS), progress)
            elif not kinds.without(index, ~gone, old.vectors[gone]):
                index, wanted = None, kinds.choose(len(kept), record.shape[-1], wanted.name)
        record, warnings = write_candidates(record, folder, wanted, progress, index)
        with contextlib.ExitStack() as stack:
            stack.enter_context(without(thumbnails_path(root), _others(table)))
            if thumbnails is not None:
                leaving = set(thumbnail_keys(old.table.filter(pa.array(gone)))) - set(thumbnail_keys(table))
                stack.enter_context(without(thumbnails, lambda: leaving.__contains__))
            return _published(root, record, int(gone.sum()), warnings)


def _published(root: Path, record: IndexRecord, changed: int, notes: tuple[str, ...]) -> Written:
    """What was written, made the index; a map of the cases as they were is gone then."""
    had = map_path(root).exists()
    complete = publish(root, record)
    if had and not map_path(root).exists():
        notes += ("its map was of other cases and is deleted; `cxr-embed index map` makes it again",)
    return Written(complete, changed, notes)


def _others(table: pa.Table) -> Callable[[], Callable[[str], bool]]:
    """Which thumbnails are of no case of a table: they go as the table becomes the index's."""

    def goes() -> Callable[[str], bool]:
        stay = set(thumbnail_keys(table))
        return lambda key: key not in stay

    return goes


def _keep_prompts(old: CaseIndex, folder: Path) -> None:
    if PROMPTS in old.record.files:
        _ = old.prompts  # damaged ones are an error, not copied
        shutil.copyfile(old.folder / PROMPTS, folder / PROMPTS)


def _alike(folder: Path) -> list[str]:
    note = collapsed(mapped(folder))
    return [note] if note else []


def _default_pool(spec: EncoderSpec, output: str) -> str:
    if len(spec.outputs[output]) == 1:
        return "none"
    return "tokens" if spec.text is not None and (spec.text.output, spec.text.kind) == (output, "elixr") else "mean"
