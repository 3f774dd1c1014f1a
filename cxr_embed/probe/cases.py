"""Labels joined with a store's vectors, by image id: what a probe learns from, and what could not be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxr_embed.manifest import Manifest, Uncertain
from cxr_embed.probe.features import ProbeError, find_ids
from cxr_embed.probe.shots import draw_order, hashes
from cxr_embed.store import Store
from cxr_embed.types import counted

_NAMED = 5


@dataclass(frozen=True)
class Cases:
    """Images that have a vector and a row of labels, in the order of the labels.

    Attributes:
        ids: `(N,)` image ids.
        patients: `(N,)` patient ids; an image whose patient nobody knows has one of its own.
        findings: the `C` names.
        values: `(N, C)` float32 of 1, 0 and NaN.
        notes: what was left out, in words.
    """

    ids: np.ndarray
    patients: np.ndarray
    findings: tuple[str, ...]
    values: np.ndarray
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    def pick(self, rows: np.ndarray) -> Cases:
        """Some of the images, without the notes."""
        return Cases(self.ids[rows], self.patients[rows], self.findings, self.values[rows])


def match_cases(
    store: Store,
    labels: Manifest,
    *,
    split: str | None = None,
    findings: Sequence[str] | None = None,
    uncertain: Uncertain = "unknown",
    known: bool = True,
) -> Cases:
    """Joins labels with the images of a store.

    Args:
        store: an open store.
        labels: a table of `image_id` and findings; patients come from its `patient_id`, else from the store.
        split: rows of this split only.
        findings: all of the table by default.
        uncertain: what a label of -1 counts as.
        known: whether some label has to be; else the table may hold no finding at all.

    Raises:
        ProbeError: for a split or findings that the table does not have, no image in common, patients that store and
            table name differently, or labels that are all unknown.
    """
    if known and not labels.findings:
        raise ProbeError("the labels have no finding: add a column of 0 and 1 for each")
    unknown = [name for name in findings or () if name not in labels.findings]
    if unknown:
        raise ProbeError(f"the labels have no finding {', '.join(unknown)}; they have {', '.join(labels.findings)}")
    chosen = tuple(dict.fromkeys(findings)) if findings else labels.findings
    rows = split_rows(labels, split)
    places = find_ids(labels.ids[rows], store.ids)
    lost, rows, places = rows[places < 0], rows[places >= 0], places[places >= 0]
    if not len(rows):
        theirs = f"'{store.ids[0]}' in the store" if len(store) else "the store is empty"
        raise ProbeError(
            f"{store.path}: none of the {len(lost):,} labelled images has a vector ('{labels.ids[lost[0]]}' in the "
            f"labels, {theirs}); label images by the ids that the store knows"
        )
    notes = []
    if len(lost):
        notes.append(
            f"{len(lost):,} of {len(lost) + len(rows):,} labelled images have no vector in {store.path} and are left "
            f"out: {_named(labels.ids[lost])}"
        )
    unlabelled = np.setdiff1d(store.ids, labels.ids)
    if len(unlabelled):
        notes.append(
            f"{counted(len(unlabelled), 'image', 'images')} of {store.path} "
            f"{'has' if len(unlabelled) == 1 else 'have'} no row of labels: {_named(unlabelled)}"
        )
    patients, note = _patients(store, labels, rows, places)
    columns = [labels.findings.index(name) for name in chosen]
    values = labels.labels(uncertain).values[rows][:, columns]
    if known and np.isnan(values).all():
        raise ProbeError(f"all labels of the {len(rows):,} images are missing (blank or -1): nothing to learn from")
    return Cases(labels.ids[rows], patients, chosen, values, (*notes, *note))


def few_cases(cases: Cases, shots: int, seed: int) -> Cases:
    """As many positives and negatives of each finding, drawn by patient as few-label curves draw them.

    A finding that has too few is noted, and all its labels become unknown.

    Args:
        cases: to draw from.
        shots: positives, and negatives, of each finding.
        seed: another one gives another draw.

    Raises:
        ProbeError: where no finding has so many.
    """
    images, patients = hashes(cases.ids), hashes(cases.patients)
    values, notes = np.full_like(cases.values, np.nan), list(cases.notes)
    for column, finding in enumerate(cases.findings):
        order = draw_order(images, patients, cases.values[:, column], finding, seed)
        lacking = order.lacking(shots)
        if lacking:
            notes.append(f"{finding} is left out: {lacking}")
            continue
        drawn = order.shots(shots)
        values[drawn, column] = cases.values[drawn, column]
    kept = ~np.isnan(values).all(axis=1)
    if not kept.any():
        raise ProbeError(
            f"no finding has {counted(shots, 'positive')} and {counted(shots, 'negative')} to draw; ask for fewer"
        )
    return Cases(cases.ids[kept], cases.patients[kept], cases.findings, values[kept], tuple(notes))


def split_rows(labels: Manifest, split: str | None) -> np.ndarray:
    """The rows of a split; all of them for None.

    Raises:
        ProbeError: for a split that is not there.
    """
    if split is None:
        return np.arange(len(labels))
    names = labels.column("split")
    rows = np.flatnonzero(names == split)
    if not len(rows):
        known = ", ".join(sorted(set(names.tolist()) - {""})) or "none: the labels have no column split"
        raise ProbeError(f"no row of the labels is in the split {split!r}; the splits are {known}")
    return rows


def check_disjoint(train: Cases, test: Cases) -> None:
    """Refuses a patient on both sides.

    Raises:
        ProbeError: naming the first few.
    """
    both = np.intersect1d(train.patients, test.patients)
    if len(both):
        raise ProbeError(
            f"{counted(len(both), 'patient is', 'patients are')} "
            f"in the training and in the test part ({_named(both)}); give each patient one "
            "split, and name two different ones"
        )


def _patients(
    store: Store, labels: Manifest, rows: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, tuple[str, ...]]:
    told, known = labels.column("patient_id")[rows], store.patient_ids[places]
    differ = np.flatnonzero((told != known) & (told != "") & (known != ""))
    if len(differ):
        first = differ[0]
        raise ProbeError(
            f"{store.path} and the labels name different patients for {counted(len(differ), 'image', 'images')}: "
            f"'{known[first]}' and '{told[first]}' for {labels.ids[rows[first]]}; correct the one that is wrong"
        )
    patients = np.where(told != "", told, known)
    nobody = labels.ids[rows][patients == ""]
    notes = (
        (
            f"{counted(len(nobody), 'image has', 'images have')} "
            f"no patient_id; each counts as a patient of its own: {_named(nobody)}",
        )
        if len(nobody)
        else ()
    )
    return own_patients(labels.ids[rows], patients), notes


def own_patients(ids: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """Patients `(N,)` of images, with one of its own for an image whose patient is blank.

    Its name begins with a line feed, which no patient id can hold.
    """
    return np.where(patients == "", np.char.add("\n", ids), patients)


def _named(ids: np.ndarray) -> str:
    return ", ".join(ids[:_NAMED].tolist()) + (", ..." if len(ids) > _NAMED else "")
