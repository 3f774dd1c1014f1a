"""Labels joined with a store's vectors: what a probe learns from, and what could not be used."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cxr_embed.cases import (
    Cases,
    PatientsOf,
    Side,
    check_known,
    chosen_findings,
    join,
    own_patients_note,
    shown_names,
    some,
)
from cxr_embed.choices import Blank, Uncertain
from cxr_embed.manifest import Manifest
from cxr_embed.probe.features import ProbeError
from cxr_embed.probe.shots import draw_order, hashes
from cxr_embed.store import Store
from cxr_embed.types import counted


def labelled_cases(
    store: Store,
    labels: Manifest,
    *,
    split: str | None = None,
    findings: Sequence[str] | None = None,
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
    known: bool = True,
) -> Cases:
    """Joins labels with the images of a store.

    Args:
        store: an open store.
        labels: a table of `image_id` and findings; patients come from its `patient_id`, or from the store.
        split: rows of this split only.
        findings: all of the table by default. `common`: those that the vocabulary knows, under their common names.
        uncertain: what a label of -1 counts as.
        blank: what a blank label counts as; what the labels' companion says by default, else `unknown`.
        known: whether some label has to be; else the table may hold no finding at all.

    Raises:
        CasesError: for a split or findings that the table does not have, no image in common, patients that store and
            table name differently, or labels that are all unknown.
    """
    if known and not labels.findings:
        raise ProbeError("the labels have no finding: add a column of 0 and 1 for each")
    columns = chosen_findings(findings, labels.findings, "the labels")
    cases = join(
        labels,
        Side(store.ids, str(store.path), "vector"),
        columns=columns,
        names=shown_names(findings, columns),
        split=split,
        uncertain=uncertain,
        blank=blank,
        patients=[PatientsOf("the store", store.patient_ids)],
    )
    if known:
        check_known(cases, "the labels", "vector")
    notes = list(cases.notes)
    unlabelled = np.setdiff1d(store.ids, labels.ids)
    if len(unlabelled):
        count = counted(len(unlabelled), "stored id has", "stored ids have")
        notes.append(f"{count} no label ({some(unlabelled)})")
    if not cases.clustered:
        notes.append(own_patients_note(cases.ids))
    return replace(cases, notes=tuple(notes))


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
    labels, notes = np.full_like(cases.labels, np.nan), list(cases.notes)
    for column, finding in enumerate(cases.names):
        order = draw_order(images, patients, cases.labels[:, column], finding, seed)
        lacking = order.lacking(shots)
        if lacking:
            notes.append(f"{finding} is left out: {lacking}")
            continue
        drawn = order.shots(shots)
        labels[drawn, column] = cases.labels[drawn, column]
    kept = ~np.isnan(labels).all(axis=1)
    if not kept.any():
        raise ProbeError(
            f"no finding has {counted(shots, 'positive')} and {counted(shots, 'negative')} to draw; choose fewer"
        )
    return replace(cases, labels=labels, notes=tuple(notes)).keep(kept)
