"""Which images and files are meant: what stores and indexes know of a patient."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cxr_embed.datasets.patients import neutral
from cxr_embed.imports.importing import content_id
from cxr_embed.index import CaseIndex
from cxr_embed.index.case_table import BOX, CONTENT
from cxr_embed.io.digests import keyed_hash
from cxr_embed.marks import MarkedCase, cases_of_marks
from cxr_embed.regions import picture_of
from cxr_embed.store import Header, Row, Store
from cxr_embed.store.forgotten import Forgotten
from cxr_embed.store.rewrite import read_rows, states
from cxr_embed.types import spellings


class Case(NamedTuple):
    """An image as a store or an index knows it.

    Attributes:
        image_id: its id.
        patient: blank where nobody knows.
        content: SHA-256 of its file; None where that is not known.
        picture: id of the picture that it is a region of; blank for a whole one.
    """

    image_id: str
    patient: str
    content: bytes | None
    picture: str = ""

    def is_covered(self, forgotten: Forgotten) -> bool:
        """Whether it is to stay out."""
        whole = bool(self.picture) and forgotten.has_image(self.patient, self.picture)
        return whole or forgotten.covers(self.patient, self.image_id, self.content)


_IMPORTED = "imported from "  # begins the engine of vectors that have no image file


@dataclass(frozen=True)
class Words:
    """Whom the user named: a hospital's own ids, or ids as they stand in a store.

    Args:
        patients, images: as they were given.
        key: that a scan hashes ids with.
    """

    patients: Sequence[str]
    images: Sequence[str]
    key: bytes

    def patient(self, text: str) -> list[str]:
        """The words that an id of a patient, as it stands somewhere, is meant by."""
        same = {*spellings(text), keyed_hash(text, self.key)}  # whoever names the hash means the hospital's id too
        return [word for word in self.patients if word in same or text.endswith(tuple(self._hashed[word]))]

    def image(self, text: str) -> list[str]:
        """The words that an id of an image is meant by."""
        same = spellings(text)
        return [word for word in self.images if word in same or text in self._hashed[word]]

    @cached_property
    def _hashed(self) -> dict[str, set[str]]:
        """What a scan makes of each word; a recipe may put a prefix before a patient's."""
        hashed = {word: {keyed_hash(each, self.key) for each in spellings(word)} for word in self.patients}
        for word in self.images:
            hashed.setdefault(word, set()).update(neutral(each, self.key) for each in spellings(word))
        return hashed


@dataclass(kw_only=True)
class Known:
    """What is meant, in clear: it is looked for in files, and nothing of it is written.

    Attributes:
        forgotten: the same as hashes, with all that was forgotten before.
        patients, images, contents: ids as they stand in stores, indexes and files, and SHA-256 of files.
        met: the words of the user that were met.
        copies: images of others that have the same file.
    """

    forgotten: Forgotten
    patients: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    contents: set[bytes] = field(default_factory=set)
    met: set[str] = field(default_factory=set)
    copies: set[str] = field(default_factory=set)

    def add_patient(self, patient: str) -> None:
        """A patient, by the id as it stands somewhere."""
        self.patients.add(patient)
        self.forgotten.add_patient(patient)

    def add_image(self, image_id: str, patient: str, content: bytes | None) -> None:
        """An image, with its file."""
        self.images.add(image_id)
        self.forgotten.add_image(patient, image_id)
        if content is not None:
            self.contents.add(content)
            self.forgotten.add_content(content)


def learn(known: Known, words: Words, sources: Iterable[Callable[[], Iterator[Case]]]) -> None:
    """Learns whom the words mean in each source: first by ids, then by what these have in common with others."""
    every = list(sources)
    for source in every:
        for case in source():
            _learn_by_ids(known, words, case)
    for source in every:
        for case in source():
            _learn_by_content(known, case)


def _learn_by_ids(known: Known, words: Words, case: Case) -> None:
    image_id, patient, content, picture = case
    by_patient, by_image, by_picture = words.patient(patient), words.image(image_id), words.image(picture)
    known.met.update(by_patient, by_image, by_picture)
    if by_patient:
        known.add_patient(patient)
    if picture and (by_patient or by_picture):
        known.add_image(picture, patient, content)
    if image_id and (by_patient or by_picture):
        known.add_image(image_id, patient, content)
    elif image_id and by_image:  # of a region's file, other regions may stay
        known.add_image(image_id, patient, None if picture else content)


def _learn_by_content(known: Known, case: Case) -> None:
    image_id, patient, content, picture = case
    if not image_id:
        return
    if image_id not in known.images and case.is_covered(known.forgotten):
        if patient and not known.forgotten.has_patient(patient) and picture not in known.images:
            known.copies.add(image_id)
        known.add_image(image_id, patient, None if picture else content)
    elif known.forgotten.covers(patient, image_id) and not picture:
        known.add_image(image_id, patient, content)


def cases_of_store(root: Path) -> Iterator[Case]:
    """Each image as it is now, then what it was before, without files that another image has now.

    An image that was once taken for another patient's comes with the patient alone. The content of an imported vector
    is none where several images have it: it is not a file, and equal vectors do not make equal people.

    Raises:
        StoreError: where the store is damaged.
    """
    read = list(read_rows(root, Header.read(root)))
    state = states([rows for *_, rows in read])
    holders: dict[bytes, set[str]] = {}
    for row in state.values():
        if row.file_digest is not None:
            holders.setdefault(row.file_digest, set()).add(row.image_id)
    imported = {
        row.content for _, info, _, rows in read if info.engine.startswith(_IMPORTED) for row in rows[: info.vectors]
    }
    shared = {content for content in imported if content is not None and len(holders.get(content, ())) > 1}
    for row in state.values():
        yield Case(row.image_id, row.patient_id, None if row.content in shared else row.file_digest, _picture(row))
    for *_, rows in read:
        for row in rows:
            now = state[row.image_id]
            if row is now or (row.patient_id, row.file_digest) == (now.patient_id, now.file_digest):
                continue
            yield from _before(row, now, holders)


def _before(row: Row, now: Row, holders: dict[bytes, set[str]]) -> Iterator[Case]:
    if row.patient_id != now.patient_id:
        yield Case("", row.patient_id, None)
    elif row.file_digest is not None and not holders.get(row.file_digest, set()) - {row.image_id}:
        yield Case(row.image_id, row.patient_id, row.file_digest, _picture(row))


def _picture(row: Row) -> str:
    return "" if row.box is None else picture_of(row.image_id)


def cases_of_index(root: Path) -> Iterator[Case]:
    """Each case of an index.

    Raises:
        CaseIndexError: where it is damaged.
    """
    yield from cases_in(CaseIndex(root))


def cases_in(index: CaseIndex) -> Iterator[Case]:
    """Each case of an open index, in the order of its rows."""
    ids, contents = index.ids.tolist(), index.table[CONTENT].to_pylist()
    pictures = map(picture_of, ids) if BOX in index.table.column_names else itertools.repeat("")
    yield from map(Case, ids, index.patient_ids.tolist(), contents, pictures)


def cases_of_readers(path: Path) -> Iterator[Case]:
    """Each case that a reader has marked.

    Raises:
        MarksError: where the file is damaged.
    """
    yield from map(marked_case, cases_of_marks(path))


def marked_case(case: MarkedCase) -> Case:
    """A case of a file of marks, which does not know whether it is a region of a picture."""
    picture = picture_of(case.image_id) if case.image_id.rpartition("#")[2].isdecimal() else ""
    return Case(case.image_id, case.patient_id, bytes.fromhex(case.content) if case.content else None, picture)


def learn_vectors(known: Known, root: Path) -> None:
    """Learns what a store's vectors are called when they are imported, so that an export does not bring them back.

    Raises:
        StoreError: where the store is damaged.
    """
    store = Store(root)
    every = list(zip(store.ids.tolist(), store.patient_ids.tolist(), store.content_ids.tolist(), strict=True))
    going = {image_id: file for image_id, patient, file in every if known.forgotten.covers(patient, image_id)}
    if not going:
        return
    # What others have too, by its bytes or since the encoder cannot tell them apart, is not one person's.
    common = {image_id for group in store.equal_vectors() if set(group) - set(going) for image_id in group}
    files = {file for image_id, _, file in every if image_id not in going}
    own = [image_id for image_id, file in going.items() if image_id not in common and file not in files]
    for output in store.spec.outputs if own else ():
        for vector in store.read(own, output).vectors:
            for dtype in (np.float16, np.float32):
                with np.errstate(over="ignore"):
                    known.forgotten.add_content(content_id(vector.astype(dtype)))
