"""DeLong's variance of AUROCs (DeLong, DeLong and Clarke-Pearson, 1988), for independent cases; tests and Holm.

By ranks (Sun and Xu, 2014): N log N instead of every positive with every negative.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import expit, logit, stdtr, stdtrit
from scipy.stats import norm, rankdata

from cxr_embed.metrics.figures import auroc
from cxr_embed.metrics.intervals import LEVEL, NO_SPREAD, Estimate, at_the_end, is_end

_NONE = 1e-18  # variance that is rounding alone
_Z = float(norm.ppf((1 + LEVEL) / 2))


def delong(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """AUROCs of K scores of the same independent cases, and their covariance.

    Args:
        positive: `(N,)` bool, at least two of each kind.
        scores: `(K, N)` float64.

    Returns:
        `(K,)` and `(K, K)`.
    """
    count = int(positive.sum()), int((~positive).sum())
    ofpositives, ofnegatives = [], []
    for row in np.atleast_2d(scores):
        ranks = rankdata(row)
        ofpositives.append((ranks[positive] - rankdata(row[positive])) / count[1])
        ofnegatives.append(1 - (ranks[~positive] - rankdata(row[~positive])) / count[0])
    parts = np.atleast_2d(np.cov(ofpositives)) / count[0], np.atleast_2d(np.cov(ofnegatives)) / count[1]
    return np.mean(ofpositives, axis=1), parts[0] + parts[1]


def delong_interval(positive: np.ndarray, scores: np.ndarray, value: float) -> Estimate:
    """An AUROC with an interval from DeLong's variance, on the scale of its logit, where it stays below 1.

    By Student's t of the rarer kind: with the normal one, 15 positives held the truth in 90 of 100 simulated data sets.

    Args:
        positive, scores: `(N,)`, independent cases.
        value: the AUROC.
    """
    fewer = min(int(positive.sum()), int((~positive).sum()))
    if fewer < 2:
        return Estimate(value, reason="no interval: a single case of a kind shows no spread")
    variance = max(float(delong(positive, scores)[1][0, 0]), 0.0)
    if is_end(value):
        return at_the_end(value, fewer)
    if variance < _NONE:
        return Estimate(value, reason=NO_SPREAD)
    width = float(stdtrit(fewer - 1, (1 + LEVEL) / 2)) * math.sqrt(variance) / (value * (1 - value))
    return Estimate(value, float(expit(logit(value) - width)), float(expit(logit(value) + width)))


def delong_difference(positive: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[Estimate, float | None]:
    """First AUROC minus second of the same independent cases `(N,)`, with interval, and p of there being none.

    p is None where no spread can be had.
    """
    if min(int(positive.sum()), int((~positive).sum())) < 2:
        one, other = (auroc(positive, scores) for scores in (first, second))
        if one.value is None or other.value is None:
            return Estimate(None, reason=one.reason), None
        return Estimate(one.value - other.value, reason="no interval: a single case of a kind shows no spread"), None
    aurocs, covariance = delong(positive, np.stack([first, second]))
    value = float(aurocs[0] - aurocs[1])
    spread = math.sqrt(max(float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1]), 0.0))
    if np.array_equal(rankdata(first), rankdata(second)):
        return Estimate(0.0, 0.0, 0.0), 1.0
    if spread**2 < _NONE:
        return Estimate(value, reason=NO_SPREAD), None
    low, high = max(value - _Z * spread, -1.0), min(value + _Z * spread, 1.0)
    return Estimate(value, low, high), p_value(value, spread)


def p_value(value: float, spread: float, units: int | None = None) -> float | None:
    """Two-sided p of a difference with this standard error; 1 for no difference, None for no spread.

    Normal, or Student's t where the spread comes from draws of so many patients.
    """
    if value == 0:
        return 1.0
    if not spread > 1e-12:
        return None
    ratio = abs(value) / spread
    return float(2 * norm.sf(ratio) if units is None else 2 * stdtr(units - 1, -ratio))


def holm(p_values: list[float | None]) -> list[float | None]:
    """p corrected for how many there are (Holm, 1979); what is None is not a test and stays None."""
    known = sorted((p, number) for number, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for place, (p, number) in enumerate(known):
        largest = max(largest, min(1.0, p * (len(known) - place)))
        corrected[number] = largest
    return corrected
