"""Whom the probe that made scores learned from: these are no test of it, whatever split is evaluated."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from cxr_embed.cases import Cases
from cxr_embed.evaluation.scores import ScoreTable
from cxr_embed.manifest import Manifest
from cxr_embed.types import Labels


def learned_from(
    scores: ScoreTable,
    labels: Manifest | Labels,
    cases: Cases,
    patients: Mapping[str, str] | None,
) -> np.ndarray:
    """`(N,)` bool: the images that the scores mark, and all others whose patient a marked image is of.

    Args:
        scores: that may mark images.
        labels: of more images than `cases` perhaps, whose patients they know.
        cases: the images, and their patients.
        patients: image to patient, where neither scores nor labels say.
    """
    if scores.learned is None:
        return np.zeros(len(cases), bool)
    taught = scores.ids[scores.learned]
    found = np.isin(cases.ids, taught)
    if not cases.clustered:
        return found
    known = [who[image_id] for who in (scores.patients, patients or {}) for image_id in taught if image_id in who]
    if isinstance(labels, Manifest) and "patient_id" in labels.table.column_names:
        known += labels.column("patient_id")[np.isin(labels.ids, taught)].tolist()
    return np.asarray(found | np.isin(cases.patients, [patient for patient in known if patient]))
