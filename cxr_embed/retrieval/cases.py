"""The images that several indexes and the labels share: who is asked for, who is searched, what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cxr_embed.errors import CaseIndexError
from cxr_embed.evaluation import match_names
from cxr_embed.index import CaseIndex
from cxr_embed.index.case_table import FINDING
from cxr_embed.manifest import Manifest
from cxr_embed.types import counted


@dataclass(frozen=True)
class Cases:
    """Images in the order of the first index.

    Attributes:
        ids: `(N,)` strings.
        patients: `(N,)` ids.
        names: the F findings.
        labels: `(N, F)` float32 in {0, 1, NaN}; NaN = unknown.
        views: `(N,)` strings, blank where not known.
        queries, searched: `(N,)` bool.
        notes: what is left out, in words.
    """

    ids: np.ndarray
    patients: np.ndarray
    names: tuple[str, ...]
    labels: np.ndarray
    views: np.ndarray
    queries: np.ndarray
    searched: np.ndarray
    notes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)


def gather(
    indexes: Sequence[CaseIndex],
    labels: Manifest | None,
    findings: Sequence[str],
    split_queries: str | None,
    split_cases: str | None,
) -> Cases:
    """What the indexes and the labels share.

    Args:
        indexes: at least one.
        labels: the first index's own columns by default.
        findings: names of those that are looked at; all by default.
        split_queries, split_cases: the split that queries and searched cases are of; all images by default.

    Raises:
        CaseIndexError: where they have no image, no patient, finding or split in common with what is asked for.
    """
    first = indexes[0]
    kept = np.ones(len(first), bool)
    for other in indexes[1:]:
        kept &= np.isin(first.ids, other.ids)
    notes = []
    if not kept.all() or any(len(other) != int(kept.sum()) for other in indexes):
        notes.append(f"only what all indexes have takes part: {counted(int(kept.sum()), 'image')}")
    owned = first.patient_ids != ""
    if lost := int((kept & ~owned).sum()):
        left = counted(lost, "image without a patient is", "images without a patient are")
        notes.append(f"{left} left out: they might be the query's own")
    kept &= owned
    if not kept.any():
        why = "they have no image in common" if len(indexes) > 1 else "it knows the patient of no image"
        raise CaseIndexError(f"{', '.join(str(index.path) for index in indexes)}: {why}; build from one manifest")
    rows = np.flatnonzero(kept)
    about = _About(first, rows) if labels is None else _About(first, rows, labels)
    names = _chosen(about.findings, findings, about.source)
    splits = about.text("split")
    masks = [_in_split(splits, split, about.source) for split in (split_queries, split_cases)]
    values = np.array([about.finding(name) for name in names], np.float32).reshape(len(names), len(rows)).T
    if not names:
        notes.append(f"{about.source}: no finding is known; `labels` gives some, or an index built with a manifest")
    if labels is not None and (unlabelled := int((about.places < 0).sum())):
        notes.append(
            f"{counted(unlabelled, 'image has', 'images have')} no labels in {about.source}: neighbours of no finding"
        )
    return Cases(
        first.ids[rows], first.patient_ids[rows], names, values, about.text("view"), masks[0], masks[1], tuple(notes)
    )


class _About:
    """Columns of some rows of an index, from its own table or from a table of labels."""

    def __init__(self, index: CaseIndex, rows: np.ndarray, labels: Manifest | None = None) -> None:
        self.source = str(index.path) if labels is None else "the labels"
        self._labels, self._table, self._rows, self.places = labels, index.table, rows, rows
        if labels is not None:
            listed = {image_id: place for place, image_id in enumerate(labels.ids.tolist())}
            ids = index.ids[rows].tolist()
            self.places = np.array([listed.get(image_id, -1) for image_id in ids], dtype=np.int64)
            if (self.places < 0).all():
                raise CaseIndexError(f"the labels have none of the images of {index.path}: '{ids[0]}' for one")

    @property
    def findings(self) -> tuple[str, ...]:
        if self._labels is not None:
            return self._labels.findings
        return tuple(field.name for field in self._table.schema if field.type == FINDING)

    def finding(self, name: str) -> np.ndarray:
        """`(N,)` float32 in {0, 1, NaN}."""
        if self._labels is not None:
            known = self._labels.labels()
            values = np.append(known.values[:, known.names.index(name)], np.nan)
            return np.asarray(values[self.places], np.float32)
        column = self._table[name].cast(pa.float32()).fill_null(np.nan)
        return np.asarray(column.to_numpy()[self.places], np.float32)

    def text(self, name: str) -> np.ndarray:
        """`(N,)` strings, blank where not known; the index's own where the labels do not have the column."""
        if self._labels is not None and name in self._labels.table.column_names:
            return np.asarray(np.append(self._labels.column(name), "")[self.places])
        if name not in self._table.column_names:
            return np.full(len(self._rows), "", dtype=np.str_)
        values = [value or "" for value in self._table[name].cast(pa.string()).to_pylist()]
        return np.asarray(np.array(values, dtype=np.str_)[self._rows])


def _chosen(known: tuple[str, ...], wanted: Sequence[str], source: str) -> tuple[str, ...]:
    matched = match_names(tuple(wanted), known, "`finding`") if wanted else known
    missing = [name for name, found in zip(wanted, matched, strict=True) if found is None] if wanted else []
    if missing:
        raise CaseIndexError(f"`finding` {missing[0]}: not in {source}, which has {', '.join(known)}")
    return tuple(dict.fromkeys(name for name in matched if name is not None))


def _in_split(splits: np.ndarray, split: str | None, source: str) -> np.ndarray:
    if split is None:
        return np.ones(len(splits), bool)
    inside = np.asarray(splits == split)
    if not inside.any():
        known = ", ".join(sorted(set(splits.tolist()) - {""})) or "none"
        raise CaseIndexError(f"{source}: no image is in the split {split!r}; the splits are: {known}")
    return inside
