"""Intervals: patients are drawn again, with replacement, within strata; or DeLong's, where cases are independent.

A draw is a whole number for every patient, how often it was drawn, and every figure can be had from such weights at
once for all draws (`weighted`). Nothing loops over draws.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit, logit, stdtrit

Scale = Literal["part", "difference", "plain", "error"]

LEVEL = 0.95
# Values of one block of weights, 2 MiB: it stays in the processor's cache, and a million patients still fit.
_BLOCK = 1 << 18
# Below this part of draws in which a figure is defined, the others would no longer stand for all.
_DEFINED = 0.9


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval.

    Attributes:
        value: the figure; None where it is not defined.
        low, high: the interval; None where there is none.
        reason: why a number is missing; empty where none is.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str = ""


def strata_of(positive: np.ndarray, known: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """`(P,)` strata of one finding: 1 a patient with any positive, 0 one with none, -1 one without a known label.

    Args:
        positive, known: `(N,)` bool, by case.
        patients: `(N,)` numbers 0..P-1, each of them at least once.
    """
    count = int(patients.max()) + 1 if len(patients) else 0
    any_known = np.bincount(patients, known, count) > 0
    any_positive = np.bincount(patients, positive & known, count) > 0
    strata: np.ndarray = np.where(any_known, any_positive.astype(np.int64), -1)
    return strata


def rarest_strata(positive: np.ndarray, patients: np.ndarray) -> np.ndarray:
    """`(P,)` strata for all findings together: a patient's rarest positive finding, or the last one for none.

    So that a draw seldom loses the last positive of a rare finding, which would leave a mean undefined.

    Args:
        positive: `(N, F)` bool.
        patients: `(N,)` numbers 0..P-1.
    """
    count, findings = int(patients.max()) + 1, positive.shape[1]
    any_positive = np.zeros((count, findings + 1), bool)
    for number in range(findings):
        any_positive[:, number] = np.bincount(patients, positive[:, number], count) > 0
    any_positive[:, findings] = True
    order = np.append(np.argsort(any_positive[:, :findings].sum(axis=0), kind="stable"), findings)
    strata: np.ndarray = order[np.argmax(any_positive[:, order], axis=1)]
    return strata


def draws(strata: np.ndarray, count: int, seed: int | Sequence[int], rows: int = 0) -> Iterator[np.ndarray]:
    """`count` draws of patients in blocks `(P, draws)` float64: how often each patient was drawn.

    Every stratum keeps its size. Patients of the stratum -1 are never drawn. Equal arguments give equal draws.

    Args:
        strata: `(P,)` whole numbers.
        count: of draws.
        seed: of the random numbers.
        rows: values that whoever uses the draws makes of each, where these are more than the patients.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(strata == stratum) for stratum in np.unique(strata[strata >= 0])]
    size = max(8, _BLOCK // max(len(strata), rows, 1))
    for start in range(0, count, size):
        width = min(size, count - start)
        weights = np.zeros((len(strata), width))
        for rows_of in members:
            drawn = rng.integers(0, len(rows_of), (width, len(rows_of)))
            drawn *= width
            drawn += np.arange(width)[:, None]
            weights[rows_of] = np.bincount(drawn.ravel(), minlength=len(rows_of) * width).reshape(-1, width)
        yield weights


def from_draws(value: float | None, drawn: np.ndarray, units: int, scale: Scale = "part") -> Estimate:
    """A figure with an interval from its values in draws.

    Its width comes from their standard deviation, by Student's t: percentiles of draws miss too often where a finding
    is rare. `benchmarks/evaluate.py` counts how often each holds the truth.

    Args:
        value: of the cases as they are; None or NaN where it is not defined.
        drawn: `(R,)` its values in draws; NaN where it was not defined.
        units: patients that the figure hangs on: the positive ones for a sensitivity, the fewer ones for an AUROC.
        scale: `part` of 1, whose interval is even on the scale of its logit and so stays inside 0..1 (`at_the_end`
            for 0 and 1); `difference` of two parts, even as it is, inside -1..1; `plain`, even as it is; `error`, for a
            calibration error, which chance alone makes larger, in draws once more: they are moved by the difference
            between their mean and the value, and end at 0.
    """
    if value is None or not math.isfinite(value):
        return Estimate(None, reason="not defined")
    if units < 2:
        return Estimate(value, reason="no interval: a single patient shows no spread")
    if not len(drawn):
        return Estimate(value, reason="no interval: no draws were asked for")
    defined = drawn[np.isfinite(drawn)]
    if len(defined) < max(2, _DEFINED * len(drawn)):
        lost = len(drawn) - len(defined)
        return Estimate(value, reason=f"no interval: not defined in {lost:,} of {len(drawn):,} draws of patients")
    if scale == "error":
        low, high = np.quantile(np.maximum(defined - (defined.mean() - value), 0), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return Estimate(value, float(low), float(high))
    half = float(stdtrit(units - 1, (1 + LEVEL) / 2)) * spread_of(defined, units)
    if scale == "plain":
        return Estimate(value, value - half, value + half)
    if scale == "difference":
        return Estimate(value, max(value - half, -1.0), min(value + half, 1.0))
    if not 0 < value < 1:
        return at_the_end(value, units)
    half /= value * (1 - value)
    return Estimate(value, float(expit(logit(value) - half)), float(expit(logit(value) + half)))


def at_the_end(value: float, units: int) -> Estimate:
    """A part that is 0 or 1, with the exact binomial interval of as many patients that all went the same way.

    No draw of them shows any spread. For an AUROC of 1 it bounds the chance that a positive scores above all of these
    negatives, which is no more than the AUROC.
    """
    bound = ((1 - LEVEL) / 2) ** (1 / units)
    return Estimate(value, bound, 1.0) if value >= 1 else Estimate(value, 0.0, 1 - bound)


def spread_of(drawn: np.ndarray, units: int) -> float:
    """Standard error from draws `(R,)`: n patients drawn from n vary by (n - 1) / n of what they stand for."""
    return float(np.nanstd(drawn)) * math.sqrt(units / (units - 1))
