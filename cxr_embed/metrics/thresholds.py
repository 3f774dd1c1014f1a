"""Thresholds chosen on labelled scores. Choose them on a validation part: on test cases they flatter.

Labels are 1 and 0 and known, scores any finite numbers. A threshold lies halfway between two scores where it can, so
that no image changes sides when scores are rounded on their way through a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

_ROUNDING = 1e-9


def threshold_for_sensitivity(labels: np.ndarray, scores: np.ndarray, sensitivity: float) -> float | None:
    """The highest threshold that flags at least this part of the positives; None where there is no positive."""
    scores = np.asarray(scores, np.float64)
    positive = np.sort(scores[np.asarray(labels) == 1])
    if not len(positive):
        return None
    needed = max(1, math.ceil(sensitivity * len(positive) - _ROUNDING))
    return _below(scores, positive[len(positive) - needed])


def threshold_for_flag_rate(scores: np.ndarray, rate: float) -> float:
    """The lowest threshold that flags at most this part of `(N,)` scores; equal scores are flagged together or not.

    Above every score, where more than that part ties for the highest.
    """
    scores = np.asarray(scores, np.float64)
    values, counts = np.unique(scores, return_counts=True)
    flagged = np.cumsum(counts[::-1])[::-1]  # images at or above each value
    allowed = np.flatnonzero(flagged <= rate * len(scores) + _ROUNDING)
    if not len(allowed):
        return _beyond(values[-1], np.inf)
    return _below(scores, values[allowed[0]])


def threshold_for_specificity(labels: np.ndarray, scores: np.ndarray, specificity: float) -> float | None:
    """The lowest threshold that leaves at least this part of the negatives unflagged; None without a negative."""
    scores = np.asarray(scores, np.float64)
    negative = np.sort(scores[np.asarray(labels) != 1])
    if not len(negative):
        return None
    allowed = math.floor((1 - specificity) * len(negative) + _ROUNDING)  # negatives that may be flagged
    above = scores[scores > negative[len(negative) - allowed - 1]] if allowed < len(negative) else scores
    if not len(above):
        return _beyond(scores.max(), np.inf)
    return _below(scores, above.min())


def thresholds_by_flags(scores: np.ndarray, most: int = 800) -> tuple[np.ndarray, np.ndarray]:
    """Thresholds that flag more and more of `(N,)` scores, from none to all, for a slider.

    Every number of flags that the scores allow, where these are few; of many, steps grow with the number of flags, so
    that those which flag few lie close together.

    Returns:
        `(M,)` float64 thresholds, falling, each halfway between two scores where it can be, and `(M,)` int64 scores at
        or above each. M is at most `most` + 1; 0 for no scores.
    """
    values, counts = np.unique(np.asarray(scores, np.float64), return_counts=True)
    if not len(values):
        return np.empty(0), np.empty(0, np.int64)
    values, flagged = values[::-1], np.concatenate([[0], np.cumsum(counts[::-1])])
    wanted = np.rint(np.linspace(0, 1, most + 1) ** 2 * flagged[-1])
    chosen = np.unique(np.searchsorted(flagged, wanted))
    between = values[:-1] / 2 + values[1:] / 2
    between = np.where(between > values[1:], between, values[:-1])
    every = np.concatenate([[_beyond(values[0], np.inf)], between, [_beyond(values[-1], -np.inf)]])
    return every[chosen], flagged[chosen]


def threshold_by_youden(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """The threshold with the largest sensitivity + specificity - 1 (Youden, 1950), the highest of equals.

    None where a class is empty.
    """
    curve = _Curve.of(labels, scores)
    # Times both counts: whole numbers, so that equals are equal.
    return None if curve is None else curve.best(curve.hits * curve.negatives - curve.alarms * curve.positives)


def threshold_by_f1(labels: np.ndarray, scores: np.ndarray) -> float | None:
    """The threshold with the largest F1, the highest of equals. None where a class is empty."""
    curve = _Curve.of(labels, scores)
    return None if curve is None else curve.best(2 * curve.hits / (curve.hits + curve.alarms + curve.positives))


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """Positives (hits) and negatives (alarms) at or above each distinct score, from the highest down."""

    scores: np.ndarray
    steps: np.ndarray
    hits: np.ndarray
    alarms: np.ndarray
    positives: int
    negatives: int

    @classmethod
    def of(cls, labels: np.ndarray, scores: np.ndarray) -> _Curve | None:
        positive, scores = np.asarray(labels) == 1, np.asarray(scores, np.float64)
        if not positive.any() or positive.all():
            return None
        steps, places = np.unique(-scores, return_inverse=True)
        hits, alarms = (np.cumsum(np.bincount(places, kind)).astype(np.int64) for kind in (positive, ~positive))
        return cls(
            scores=scores,
            steps=-steps,
            hits=hits,
            alarms=alarms,
            positives=int(positive.sum()),
            negatives=int((~positive).sum()),
        )

    def best(self, merit: np.ndarray) -> float:
        return _below(self.scores, float(self.steps[int(np.argmax(merit))]))


def _below(scores: np.ndarray, lowest: float) -> float:
    """A threshold between the lowest score to flag and the next lower one.

    Halfway, so that no image changes sides when scores are rounded on their way through a file.
    """
    rest = scores[scores < lowest]
    if not len(rest):
        return _beyond(lowest, -np.inf)
    halfway = float(lowest / 2 + rest.max() / 2)
    return halfway if halfway > rest.max() else float(lowest)


def _beyond(score: float, way: float) -> float:
    """The next number above or below a score that is another one in float32 too, where float32 goes so far."""
    if abs(score) < float(np.finfo(np.float32).max):
        return float(np.nextafter(np.float32(score), np.float32(way)))
    return float(np.nextafter(score, way))
