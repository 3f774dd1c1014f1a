"""Labels joined with scores, vectors or cases: by image id, never by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np

from cxr_embed.cases.errors import CasesError, NothingKnown
from cxr_embed.cases.ids import find_ids, some
from cxr_embed.cases.patients import PatientsOf, own_patients, patients_of
from cxr_embed.cases.splits import in_split
from cxr_embed.choices import Blank, Uncertain
from cxr_embed.manifest import Manifest
from cxr_embed.types import Labels, counted


@dataclass(frozen=True)
class Side:
    """What labels are joined with.

    Attributes:
        ids: `(M,)` image ids, each once.
        name: where they are, for messages: a path, or `the scores`.
        kind: what an image has there.
    """

    ids: np.ndarray
    name: str
    kind: Literal["score", "vector", "case"]

    @property
    def place(self) -> str:
        """Words for it beside the labels."""
        return {"score": "the scores", "vector": "the store", "case": "the index"}[self.kind]


@dataclass(frozen=True, kw_only=True)
class Cases:
    """Images that have labels, and what they are joined with.

    Attributes:
        ids: `(N,)` image ids, in the order of the labels.
        names: the `F` findings, as the use names them.
        columns: the labels' names of them.
        labels: `(N, F)` float32 in {0, 1, NaN}; NaN = unknown.
        patients: `(N,)` patient ids; one of its own for an image whose patient nobody knows.
        clustered: whether any patient is known.
        table: columns of the labels by name, each `(N,)` strings: sex, age, view and the like.
        places: `(N,)` rows of the other side.
        lost: labelled images (of the split) that the other side does not have.
        blank: what a blank label counted as.
        notes: what was left out, in sentences.
    """

    ids: np.ndarray
    names: tuple[str, ...]
    columns: tuple[str, ...]
    labels: np.ndarray
    patients: np.ndarray
    clustered: bool
    table: Mapping[str, np.ndarray]
    places: np.ndarray
    lost: int = 0
    blank: Blank = "unknown"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def uncertain(self) -> int:
        """Labels of -1 among those that are used."""
        columns = (self.table[name] for name in self.columns if name in self.table)
        return sum(int(np.isin(column, ("-1", "-1.0")).sum()) for column in columns)

    def keep(self, rows: np.ndarray, names: tuple[str, ...] | None = None) -> Self:
        """These rows, and of these findings all or some; rows are numbers or `(N,)` bool."""
        chosen = [self.names.index(name) for name in (self.names if names is None else names)]
        return replace(
            self,
            ids=self.ids[rows],
            names=tuple(self.names[number] for number in chosen),
            columns=tuple(self.columns[number] for number in chosen),
            labels=self.labels[rows][:, chosen],
            patients=self.patients[rows],
            table={name: column[rows] for name, column in self.table.items()},
            places=self.places[rows],
        )


def join(
    labels: Manifest | Labels,
    side: Side,
    *,
    columns: Sequence[str],
    names: Sequence[str] | None = None,
    source: str = "the labels",
    split: str | None = None,
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
    patients: Sequence[PatientsOf] = (),
) -> Cases:
    """Joins labels with scores, a store's vectors or an index's cases.

    Args:
        labels: a manifest, a table of `image_id` and findings, or labels in memory.
        side: what they are joined with.
        columns: the labels' findings that are looked at; `common_findings` and `chosen_findings` find them.
        names: what the use calls them; as the labels do by default.
        source: of the labels, for messages.
        split: labels of this split only.
        uncertain: what a label of -1 counts as.
        blank: what a blank label counts as; what the labels' companion says by default, else `unknown`.
        patients: whose the side's `(M,)` images are, by others than the labels.

    Raises:
        CasesError: for a split that is not there, no image in common, patients named differently, or `blank` of
            labels that have none.
    """
    ids = np.asarray(labels.ids, dtype=np.str_)
    rows = np.flatnonzero(in_split(_column(labels, "split", split), split, source))
    places = find_ids(ids[rows], side.ids)
    lost, rows, places = ids[rows[places < 0]], rows[places >= 0], places[places >= 0]
    if not len(rows):
        there = f"'{side.ids[0]}' in {side.place}" if len(side.ids) else f"{side.place} is empty"
        wanted = f"'{lost[0]}' in the labels" if len(lost) else "the labels are empty"
        raise CasesError(f"{side.name} and {source} have no image_id in common: {there}, {wanted}; write the ids alike")
    listed = _column(labels, "patient_id")[rows]
    others = [replace(who, ids=who.ids[places]) for who in patients]
    owners = patients_of(ids[rows], [PatientsOf(source, listed), *others])
    notes = []
    if len(lost):
        words = ("labelled id has", "is") if len(lost) == 1 else ("labelled ids have", "are")
        notes.append(f"{len(lost):,} {words[0]} no {side.kind} ({some(lost)}) and {words[1]} left out")
    nobody = ids[rows][owners == ""]
    if 0 < len(nobody) < len(rows):
        notes.append(own_patients_note(nobody))
    meant = _meaning_of_blank(labels, blank)
    if isinstance(labels, Manifest):
        notes += [*labels.notes, *(_blank_note(labels, columns, rows) if meant == "negative" else ())]
    return Cases(
        ids=ids[rows],
        names=tuple(names if names is not None else columns),
        columns=tuple(columns),
        labels=_values(labels, columns, uncertain, meant, source)[rows],
        patients=own_patients(ids[rows], owners),
        clustered=len(nobody) < len(rows),
        table={name: labels.column(name)[rows] for name in labels.table.column_names}
        if isinstance(labels, Manifest)
        else {},
        places=places,
        lost=len(lost),
        blank=meant,
        notes=tuple(notes),
    )


def check_apart(one: Cases, other: Cases, parts: tuple[str, str]) -> None:
    """Refuses an image or a patient that two parts share.

    Args:
        one, other: both parts.
        parts: their names, for the message: `tested`, `in the validation part`.

    Raises:
        CasesError: naming the first few.
    """
    both, what = np.intersect1d(one.ids, other.ids), "image"
    if not len(both) and one.clustered and other.clustered:
        both, what = np.intersect1d(one.patients, other.patients), "patient"
    if len(both):
        raise CasesError(
            f"{counted(len(both), f'{what} is', f'{what}s are')} {parts[0]} and {parts[1]} ({some(both)}); "
            "give each patient one split, and name two different ones"
        )


def own_patients_note(ids: np.ndarray) -> str:
    """Says that nobody knows the patients of these images."""
    return (
        f"{counted(len(ids), 'image has', 'images have')} no patient_id; each counts as a patient of its own: "
        f"{some(ids)}"
    )


def splits_note(cases: Cases) -> list[str]:
    """Which splits the cases are of, for a use that nobody named one to."""
    names, counts = np.unique(cases.table.get("split", np.empty(0, np.str_)), return_counts=True)
    if names.tolist() in ([], [""]):
        return []
    parts = [f"{name or 'none'} ({count:,})" for name, count in zip(names.tolist(), counts.tolist(), strict=True)]
    return [f"no `split` is named: evaluated are the images of {', '.join(parts)}"]


def uncertain_note(count: int) -> list[str]:
    """How many labels are -1."""
    labels_are = counted(count, "label is", "labels are")
    return [f"{labels_are} uncertain (-1); `uncertain` says what that counts as"] if count else []


def check_known(cases: Cases, source: str, part: str) -> None:
    """Refuses cases of which no label is known.

    Raises:
        NothingKnown: saying so.
    """
    if np.isnan(cases.labels).all():
        images = counted(len(cases), "image")
        raise NothingKnown(f"{source}: every label of the {images} with {part}s is unknown (blank or -1)")


def _column(labels: Manifest | Labels, name: str, wanted: str | None = "") -> np.ndarray:
    """`(N,)` strings, blank where the labels do not have the column."""
    if isinstance(labels, Manifest):
        return labels.column(name)
    if name == "split" and wanted is not None:
        raise CasesError(f"the labels have no splits, and {wanted!r} is asked for; give a manifest")
    return np.full(len(labels.ids), "", dtype=np.str_)


def _meaning_of_blank(labels: Manifest | Labels, blank: Blank | None) -> Blank:
    """What a blank label counts as: what the user says, else what the labels' companion says."""
    if isinstance(labels, Manifest):
        return blank or labels.blank
    if blank == "negative":
        raise CasesError("`blank`: labels in memory have no blanks, NaN is unknown; write 0 where it is negative")
    return "unknown"


def _blank_note(labels: Manifest, columns: Sequence[str], rows: np.ndarray) -> list[str]:
    """How many labels are blank and count as negative, and of how many images every label is blank."""
    count = sum(int((labels.column(name)[rows] == "").sum()) for name in columns)
    if not count:
        return []
    empty = np.ones(len(rows), bool)
    for name in labels.findings:
        empty &= labels.column(name)[rows] == ""
    words = f"{counted(count, 'blank label counts', 'blank labels count')} as negative (`blank`)"
    if bare := int(empty.sum()):
        words += f"; {counted(bare, 'image has', 'images have')} no label at all, and is negative for every finding"
        words = words.replace("and is", "and are") if bare > 1 else words
    return [words]


def _values(
    labels: Manifest | Labels, columns: Sequence[str], uncertain: Uncertain, blank: Blank, source: str
) -> np.ndarray:
    """`(N, F)` float32 in {0, 1, NaN}."""
    known = labels.labels(uncertain, blank) if isinstance(labels, Manifest) else labels
    chosen = np.array([known.names.index(name) for name in columns], dtype=np.int64)
    values = np.asarray(known.values, np.float32)[:, chosen]
    if not (np.isnan(values) | (values == 0) | (values == 1)).all():
        raise CasesError(f"{source}: a label is neither 0, 1 nor unknown (NaN)")
    return values
