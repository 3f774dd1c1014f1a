"""Figures that say how well scores tell images with a finding from those without. Arrays in, numbers out.

Labels are 1 and 0 and known; who has unknown ones leaves them out first. A figure that is not defined is not a number.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from cxr_embed.metrics.intervals import Estimate, carried
from cxr_embed.types import counted


@dataclass(frozen=True)
class Figure:
    """A number, or None and the reason why there is none."""

    value: float | None
    reason: str = ""


@dataclass(frozen=True)
class OperatingPoint:
    """What becomes of the images when those at or above a threshold are flagged.

    Attributes:
        threshold: scores from here on are flagged.
        flag_rate: part of the images that is flagged.
        sensitivity: part of the images with the finding that is flagged; None where there are none.
        specificity: part of the images without it that is not flagged; None where there are none.
    """

    threshold: float
    flag_rate: float
    sensitivity: float | None = None
    specificity: float | None = None


def auroc(labels: np.ndarray, scores: np.ndarray) -> Figure:
    """Area under the receiver operating characteristic: the chance that a positive scores above a negative.

    Ties count half (Hanley and McNeil, 1982), so it equals scikit-learn's `roc_auc_score`.

    Args:
        labels: `(N,)` of 0 and 1.
        scores: `(N,)`, higher = more likely.
    """
    labels = np.asarray(labels) == 1
    positives, negatives = int(labels.sum()), int((~labels).sum())
    if not len(labels):
        return Figure(None, "no image has a label")
    if not positives or not negatives:
        kind = "positive" if positives else "negative"
        every = f"all {counted(len(labels), 'label')} are" if len(labels) > 1 else "the only label is"
        return Figure(None, f"{every} {kind}")
    ranks = rankdata(np.asarray(scores, np.float64))
    above = ranks[labels].sum() - positives * (positives + 1) / 2
    return Figure(float(above / (positives * negatives)))


def rank_agreement(first: np.ndarray, second: np.ndarray) -> Figure:
    """Spearman's correlation of two scores `(N,)` of the same images: 1 where they rank alike."""
    if len(first) < 3:
        return Figure(None, "fewer than three images")
    ranks = [rankdata(np.asarray(values, np.float64)) for values in (first, second)]
    if any(np.ptp(rank) == 0 for rank in ranks):
        return Figure(None, "all scores are the same")
    return Figure(float(np.corrcoef(*ranks)[0, 1]))


def operating_point(labels: np.ndarray, scores: np.ndarray, threshold: float) -> OperatingPoint:
    """What a threshold does to labelled images: `labels` and `scores` `(N,)`, N at least 1."""
    positive, flagged = np.asarray(labels) == 1, np.asarray(scores, np.float64) >= threshold
    hit, passed = flagged[positive], ~flagged[~positive]
    return OperatingPoint(
        threshold,
        float(flagged.mean()),
        float(hit.mean()) if len(hit) else None,
        float(passed.mean()) if len(passed) else None,
    )


def per_thousand(sensitivity: float, specificity: float, prevalence: float) -> tuple[float, float]:
    """Flags, and cases that are missed, per 1,000 images of which a part `prevalence` has the finding."""
    flags = 1000 * (prevalence * sensitivity + (1 - prevalence) * (1 - specificity))
    return flags, 1000 * prevalence * (1 - sensitivity)


def per_thousand_spread(sensitivity: Estimate, specificity: Estimate, prevalence: float) -> tuple[Estimate, Estimate]:
    """`per_thousand` with intervals, made of those of both parts; the prevalence is stated and does not vary."""
    if sensitivity.value is None or specificity.value is None:
        reason = sensitivity.reason or specificity.reason
        return Estimate(None, reason=reason), Estimate(None, reason=reason)
    flags, missed = per_thousand(sensitivity.value, specificity.value, prevalence)
    alarms = _complement(specificity)
    of_flags = carried(flags, (sensitivity, alarms), lambda one, other: per_thousand(one, 1 - other, prevalence)[0])
    of_missed = carried(missed, (_complement(sensitivity),), lambda part: per_thousand(1 - part, 1, prevalence)[1])
    return of_flags, of_missed


def _complement(part: Estimate) -> Estimate:
    """What is left of 1."""
    value, low, high = (None if number is None else 1 - number for number in (part.value, part.high, part.low))
    return Estimate(value, low, high, part.reason)
