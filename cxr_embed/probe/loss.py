"""The losses of a probe, element by element, as functions of the margin: the logit, negated for a negative case."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_CURVATURE_PART = 0.05  # of the logistic loss's curvature: what focal loss counts as where its own is not positive


class Loss(NamedTuple):
    """Value, slope and curvature of the loss at each margin, in the margins' shape and dtype."""

    value: np.ndarray
    slope: np.ndarray
    curvature: np.ndarray


def loss(margin: np.ndarray, gamma: float = 0.0) -> Loss:
    """Logistic loss, or focal loss where `gamma` is above 0.

    Focal loss multiplies by (1 - p)^gamma, p the probability of the true answer (Lin et al., 2017, arXiv 1708.02002).
    It is not convex: where its curvature is not positive, a small positive one is given, so that steps go downhill.

    Args:
        margin: any shape, float32 or float64.
        gamma: how much less the easy cases count.
    """
    small = np.exp(-np.abs(margin))
    value = np.log1p(small) + np.maximum(-margin, 0)
    miss = np.where(margin > 0, small, 1) / (1 + small)  # 1 - p
    hit = 1 - miss
    if not gamma:
        return Loss(value, -miss, miss * hit)
    part = miss**gamma
    slope = part * (-gamma * hit * value - miss)
    curvature = part * hit * (miss * (1 + 2 * gamma) - gamma * value * (miss - gamma * hit))
    return Loss(part * value, slope, np.maximum(curvature, _CURVATURE_PART * part * miss * hit))


def probability(logit: np.ndarray) -> np.ndarray:
    """Logits to probabilities, without overflow; NaN stays NaN."""
    small = np.exp(-np.abs(logit))
    result: np.ndarray = np.where(logit > 0, 1, small) / (1 + small)
    return np.where(np.isnan(logit), np.nan, result)
