"""Taking somebody out of everything under some paths."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.datasets.patients import neutral
from cxr_embed.errors import CxrEmbedError
from cxr_embed.forget.heat_maps import cases_of_maps, count_maps, take_out_maps
from cxr_embed.forget.known import (
    Case,
    Known,
    Words,
    cases_in,
    cases_of_index,
    cases_of_readers,
    cases_of_store,
    learn,
    learn_vectors,
    marked_case,
)
from cxr_embed.forget.mentions import Marks, count_mentions, distinguishable, kind_of
from cxr_embed.forget.places import FoundPaths, find_places, sweep_partials
from cxr_embed.forget.rows import count_rows, drop_rows
from cxr_embed.forget.small_pictures import GoingThumbnails
from cxr_embed.index import CaseIndex
from cxr_embed.index.faiss.build import remove_rows
from cxr_embed.index.faiss.layout import writing
from cxr_embed.index.faiss.map_file import map_path
from cxr_embed.io.digests import keyed_hash
from cxr_embed.manifest import kept_fresh
from cxr_embed.marks import MarkedCase, forget_marks
from cxr_embed.probe.persistence import TrainedProbe, load_probe
from cxr_embed.store.forgotten import FORGOTTEN, Forgotten, gather_forgotten, save_beside
from cxr_embed.store.keys import key_path, patient_key
from cxr_embed.store.presence import alone
from cxr_embed.store.rewrite import take_out
from cxr_embed.types import spellings


@dataclass(kw_only=True)
class Forgetting:
    """What was done, or would be.

    Attributes:
        images: different images that were meant.
        copies: of these, how many are other patients' by name and have the same file: it goes with all its names.
        stores, indexes: a dict each: `path`, and `images`, `vectors` and `shards`, or `cases`, that are gone.
        maps: folders of heat maps: `path`, and `maps` that are gone, with their overlays.
        marks: files of readers' marks: `path`, and `marks` that are gone: what was done to the images, and names and
            notes that mention somebody.
        thumbnails: folders of thumbnails: `path`, and `thumbnails` that are gone.
        milvus: `uri`, `collection`, `cases`; None where none was named.
        probes: that learned from a patient: `path`, `learned` (`yes`, or `perhaps` where they do not say) and `why`.
        files: that mention somebody: `path`, `kind`, `mentions` (rows of a table, else names), `named` (whether the
            file is called so), `deleted` (rows).
        lists: files that say who is to stay out.
        notes: what the user should know.
        problems: what could not be looked into or done.
        dry_run: nothing was done.
    """

    images: int = 0
    copies: int = 0
    stores: list[dict[str, Any]] = field(default_factory=list)
    indexes: list[dict[str, Any]] = field(default_factory=list)
    maps: list[dict[str, Any]] = field(default_factory=list)
    marks: list[dict[str, Any]] = field(default_factory=list)
    thumbnails: list[dict[str, Any]] = field(default_factory=list)
    milvus: dict[str, Any] | None = None
    probes: list[dict[str, Any]] = field(default_factory=list)
    files: list[dict[str, Any]] = field(default_factory=list)
    lists: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    dry_run: bool = False

    @property
    def left(self) -> list[str]:
        """Probes and files that still know of somebody."""
        files = [file["path"] for file in self.files if file["named"] or file["mentions"] > file["deleted"]]
        return [*(probe["path"] for probe in self.probes), *files]

    def to_json(self) -> dict[str, Any]:
        """What `forget --json` prints."""
        return {**vars(self), "left": self.left, "complete": not (self.left or self.problems or self.dry_run)}


def forget(
    paths: Sequence[Path],
    *,
    patients: Sequence[str] = (),
    images: Sequence[str] = (),
    key_file: Path | None = None,
    milvus: tuple[str, str] | None = None,
    delete_rows: bool = False,
    dry_run: bool = False,
) -> Forgetting:
    """Takes patients and images out of every store, index and folder of heat maps under some paths, and keeps them out.

    The lists of who is to stay out are written first. Killed at any moment it has left stores and indexes that open,
    and the next run with the same words does the rest. What was forgotten before goes again, where it came back.

    Args:
        paths: stores, indexes, files, or folders of them.
        patients: ids as they stand in the store, or as the hospital has them (with the key that a scan hashed with).
        images: image ids.
        key_file: the key; the user's own by default, which is made where there is none.
        milvus: address and name of a collection.
        delete_rows: whether rows of tables go too; they are only counted by default.
        dry_run: whether to do nothing.

    Raises:
        CxrEmbedError: for ids that are nowhere (nothing is done then), a missing path, or a key that is not the one
            that others were forgotten with.
    """
    _check_words(patients, images)
    places = find_places([Path(path) for path in paths])
    folders = [*places.stores, *places.indexes]
    key = _key(key_file, dry_run)
    forgotten = Forgotten(key, gather_forgotten(*folders, key_file=key_file).hashes)
    result = Forgetting(problems=list(places.problems), dry_run=dry_run)
    words, known = Words(patients, images, key), Known(forgotten=forgotten)
    before = _forgotten_before(forgotten, patients, images, key)
    _learn(known, words, places, milvus, result)
    result.images, result.copies = len(known.images), len(known.copies)
    for word in (each for patient in patients for each in spellings(patient)):
        known.add_patient(word)  # as the hospital has it, and as a scan will have it again
        known.add_patient(keyed_hash(word, key))
    known.images.update(images)
    _look(result, places, Marks(known), known)
    unmet = [word for word in (*patients, *images) if word not in known.met | before]
    unknown = [word for word in unmet if not _in_a_file(word, result, key)]
    if unknown:
        problem = f" ({result.problems[0]})" if result.problems else ""
        raise CxrEmbedError(
            f"nothing under these paths knows {', '.join(unknown[:5])}; nothing was done{problem}. A hospital's ids "
            f"are known by the key that they were hashed with: here {key_path(key_file)}, `key_file` names another"
        )
    for word in set(images) - known.met:
        known.add_image(word, "", None)
    if not dry_run:
        sweep_partials(places)
        _write_lists(result, forgotten, places, key_path(key_file))
        if delete_rows:
            _delete_rows(result, Marks(known))
    _take_out(result, places, known, milvus)
    return result


def _check_words(patients: Sequence[str], images: Sequence[str]) -> None:
    if not patients and not images:
        raise CxrEmbedError("name whom to forget: `patient`, or `image_id`")
    if blank := [word for word in (*patients, *images) if not word.strip()]:
        raise CxrEmbedError(f"{blank[0]!r} is not an id: everybody whose patient is unknown would be meant")


def _forgotten_before(forgotten: Forgotten, patients: Sequence[str], images: Sequence[str], key: bytes) -> set[str]:
    """Words that an earlier run has forgotten."""
    before = {word for word in patients if forgotten.has_patient(word) or forgotten.has_patient(keyed_hash(word, key))}
    return before | {w for w in images if forgotten.has_image("", w) or forgotten.has_image("", neutral(w, key))}


def _key(key_file: Path | None, dry_run: bool) -> bytes:
    if dry_run and key_file is None and not key_path(None).exists():
        return secrets.token_bytes(32)  # no scan has hashed anything with it
    return patient_key(key_file)[0]


def _learn(known: Known, words: Words, places: FoundPaths, milvus: tuple[str, str] | None, result: Forgetting) -> None:
    """Learns what stores and indexes know, and leaves those out that cannot be read."""
    sources: list[Callable[[], Iterator[Case]]] = []
    kinds = (
        (places.stores, cases_of_store),
        (places.indexes, cases_of_index),
        (places.maps, cases_of_maps),
        (places.marks, cases_of_readers),
    )
    for found, cases in kinds:
        for path in list(found):
            with _problems(result, path) as ok:
                for _ in cases(path):
                    break
                sources.append(partial(cases, path))
            if not ok:
                found.remove(path)
    if milvus is not None:
        from cxr_embed.index.milvus.remove import cases_of

        sources.append(lambda: (Case(*case) for case in cases_of(*milvus)))
    learn(known, words, sources)
    for path in places.stores:
        with _problems(result, path):
            learn_vectors(known, path)
    named = str(Path(milvus[0]).absolute()) if milvus is not None else ""
    result.problems += [
        f"{path}: a file of Milvus, not looked into; name it with `uri` and `collection`"
        for path in places.milvus
        if str(path.absolute()) != named
    ]


def _look(result: Forgetting, places: FoundPaths, marks: Marks, known: Known) -> None:
    """Finds the probes and files that know of somebody."""
    for path in places.probes:
        with _problems(result, path):
            probe = load_probe(path)
            names = [*probe.patients.tolist(), *probe.chosen_on.tolist()]
            if any(known.forgotten.has_patient(name) for name in names):
                result.probes.append(
                    {"path": str(path), "learned": "yes", "why": "the patient is among those it names"}
                )
            elif any(name in known.images or known.forgotten.has_image("", name) for name in probe.images.tolist()):
                result.probes.append({"path": str(path), "learned": "yes", "why": "an image is among those it names"})
            elif not any(names) and not len(probe.images):
                why = "it does not say whom it learned from"
                result.probes.append({"path": str(path), "learned": "perhaps", "why": why})
    for path in places.files:
        kind, mentions = kind_of(path), 0
        with _problems(result, path):
            if kind == "table":
                mentions = count_rows(path, marks)
            elif kind:
                mentions = count_mentions(path, marks)
        named = marks.is_named(path)
        if mentions or named:
            found = {"kind": kind, "mentions": mentions} if mentions else {"kind": "name", "mentions": 1}
            result.files.append({"path": str(path), **found, "named": named, "deleted": 0})
    short = sorted(name for name in known.images | known.patients if not distinguishable(name))
    if short:
        result.notes.append(
            f"{len(short)} of the ids are too short to be distinguished from numbers in texts: look there yourself"
        )


def _in_a_file(word: str, result: Forgetting, key: bytes) -> bool:
    """Whether one of the files that mention somebody mentions this one."""
    alone = Known(forgotten=Forgotten(key))
    for name in spellings(word):
        for each in (name, keyed_hash(name, key), neutral(name, key)):
            alone.add_patient(each)
            alone.add_image(each, "", None)
    marks = Marks(alone)
    for file in result.files:
        path = Path(file["path"])
        count = count_rows if file["kind"] == "table" else count_mentions
        if marks.is_named(path) or count(path, marks):
            return True
    names = {name for probe in result.probes for name in _named_by(load_probe(Path(probe["path"])))}
    return any(marks.is_name(name) for name in names)


def _named_by(probe: TrainedProbe) -> list[str]:
    return [*probe.patients.tolist(), *probe.chosen_on.tolist(), *probe.images.tolist()]


def _write_lists(result: Forgetting, forgotten: Forgotten, places: FoundPaths, key: Path) -> None:
    """Says everywhere who is to stay out, before anything is taken out."""
    result.lists.append(str(save_beside(forgotten, key)))
    for folder in places.stores:
        with _problems(result, folder), alone(folder, "forget"):
            forgotten.save(folder / FORGOTTEN)
            result.lists.append(str(folder / FORGOTTEN))
    for folder in places.indexes:
        with _problems(result, folder), writing(folder):
            forgotten.save(folder / FORGOTTEN)
            result.lists.append(str(folder / FORGOTTEN))


def _delete_rows(result: Forgetting, marks: Marks) -> None:
    for file in result.files:
        if file["kind"] == "table":
            with _problems(result, Path(file["path"])), kept_fresh(file["path"]):  # of a manifest, its companion
                file["deleted"] = drop_rows(Path(file["path"]), marks)


def _take_out(result: Forgetting, places: FoundPaths, known: Known, milvus: tuple[str, str] | None) -> None:
    """Takes everything that is meant out of maps, indexes, Milvus and stores; counts only in a dry run."""
    covers = known.forgotten.covers
    _take_out_maps_and_marks(result, places, known)
    _take_out_cases(result, places, known)
    if milvus is not None:
        from cxr_embed.index.milvus.remove import cases_of, remove_covered

        with _problems(result, milvus[0]):
            if result.dry_run:
                cases = sum(Case(*case).is_covered(known.forgotten) for case in cases_of(*milvus))
            else:
                removed = remove_covered(*milvus, lambda *case: Case(*case).is_covered(known.forgotten))
                cases = removed.removed
                result.notes += removed.notes
            result.milvus = {"uri": milvus[0], "collection": milvus[1], "cases": cases}
    for path in places.stores:
        with _problems(result, path):
            if result.dry_run:
                images = {case[0] for case in cases_of_store(path) if case.is_covered(known.forgotten)} - {""}
                result.stores.append({"path": str(path), "images": len(images)})
                continue
            with alone(path, "forget"):
                result.stores.append({"path": str(path), **vars(take_out(path, covers))})


def _take_out_maps_and_marks(result: Forgetting, places: FoundPaths, known: Known) -> None:
    for path in places.maps:
        with _problems(result, path):
            marks = Marks(known)
            maps = count_maps(path, marks) if result.dry_run else take_out_maps(path, marks)
            result.maps.append({"path": str(path), "maps": maps})
    for path in places.marks:
        with _problems(result, path):
            marks = Marks(known)

            def goes(case: MarkedCase, text: str, marks: Marks = marks) -> bool:
                return marked_case(case).is_covered(known.forgotten) or marks.count_in(text) > 0

            result.marks.append({"path": str(path), "marks": forget_marks(path, goes, result.dry_run)})


def _take_out_cases(result: Forgetting, places: FoundPaths, known: Known) -> None:
    """Out of indexes, and their thumbnails before and after: a server may make one until its case is gone."""

    def rows(index: CaseIndex) -> np.ndarray:
        return np.array([case.is_covered(known.forgotten) for case in cases_in(index)], bool)

    thumbnails = GoingThumbnails(known, places.indexes)
    for path in places.thumbnails:
        with _problems(result, path):
            result.thumbnails.append({"path": str(path), "thumbnails": thumbnails.take_out(path, result.dry_run)})
    for path in places.indexes:
        with _problems(result, path):
            had = map_path(path).exists()
            cases = int(rows(CaseIndex(path)).sum()) if result.dry_run else remove_rows(path, rows).changed
            if had and not map_path(path).exists():
                result.notes.append(f"{map_path(path)}: deleted; `cxr-embed index map` makes it of who is left")
            result.indexes.append({"path": str(path), "cases": cases})
    for path in places.thumbnails if not result.dry_run else ():
        with _problems(result, path):
            thumbnails.take_out(path)


@contextmanager
def _problems(result: Forgetting, where: Path | str) -> Iterator[list[bool]]:
    """Keeps what goes wrong with one place, so that the others are done; the list is emptied then."""
    ok = [True]
    try:
        yield ok
        return
    except CxrEmbedError as error:
        problem = str(error)
    except OSError as error:  # a full disk names no file
        problem = f"{error.filename or where}: cannot be read or written ({error.strerror or error})"
    ok.clear()
    if problem not in result.problems:
        result.problems.append(problem)
