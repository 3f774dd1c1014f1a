"""The images that several indexes and the labels share: the queries, what is searched, what is known of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cxr_embed.cases import Cases, PatientsOf, Side, chosen_findings, in_split, join, shown_names
from cxr_embed.errors import CaseIndexError
from cxr_embed.index import CaseIndex
from cxr_embed.index.case_table import FINDING, IMAGE
from cxr_embed.manifest import Manifest
from cxr_embed.types import counted


@dataclass(frozen=True, kw_only=True)
class SharedCases:
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
) -> SharedCases:
    """What the indexes and the labels share.

    Args:
        indexes: at least one.
        labels: the first index's own columns by default.
        findings: names of those that are looked at, or `common`; all by default.
        split_queries, split_cases: the split that queries and searched cases are of; all images by default.

    Raises:
        CaseIndexError: where the indexes have no image in common, or know no patient.
        CasesError: where the labels do not have the findings, splits or images, or name other patients.
    """
    first = indexes[0]
    rows, notes = _rows_in_all(indexes)
    source = "the labels" if labels is not None else str(first.path)
    own = _own_labels(first)
    table = labels if labels is not None else own
    columns = chosen_findings(findings, table.findings, source)
    joined = join(
        table,
        Side(first.ids[rows], str(first.path), "case"),
        columns=columns,
        names=shown_names(findings, columns),
        source=source,
        patients=[PatientsOf("the index", first.patient_ids[rows])],
    )
    known = {
        name: _spread(joined, joined.table[name], len(rows), "") if name in joined.table else own.column(name)[rows]
        for name in ("view", "split")
    }
    if not joined.names:
        notes.append(f"{source}: no finding is known; `labels` gives some, or an index built with a manifest")
    if unlabelled := len(rows) - len(joined):
        notes.append(
            f"{counted(unlabelled, 'image has', 'images have')} no labels in {source}: neighbours of no finding"
        )
    return SharedCases(
        ids=first.ids[rows],
        patients=first.patient_ids[rows],
        names=joined.names,
        labels=_spread(joined, joined.labels, len(rows), np.nan),
        views=known["view"],
        queries=in_split(known["split"], split_queries, source),
        searched=in_split(known["split"], split_cases, source),
        notes=(*notes, *(joined.notes if labels is not None else ())),
    )


def _rows_in_all(indexes: Sequence[CaseIndex]) -> tuple[np.ndarray, list[str]]:
    """Rows of the first index's images that all have and whose patient is known; and what is left out.

    Raises:
        CaseIndexError: where that is nothing.
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
    return np.flatnonzero(kept), notes


def _own_labels(index: CaseIndex) -> Manifest:
    """What an index knows of its cases' findings, views and splits, as a table of labels."""
    findings = tuple(field.name for field in index.table.schema if field.type == FINDING)
    wanted = [name for name in (IMAGE, "view", "split", *findings) if name in index.table.column_names]
    table = pa.table({name: index.table[name].cast(pa.string()).fill_null("") for name in wanted})
    return Manifest(table, index.path, findings)


def _spread(joined: Cases, values: np.ndarray, count: int, missing: object) -> np.ndarray:
    """Values of the joined cases `(N, ...)` at their places among `count`, the others missing."""
    found = np.full((count, *values.shape[1:]), missing, values.dtype)
    found[joined.places] = values
    return found
