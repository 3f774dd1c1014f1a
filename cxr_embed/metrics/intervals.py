"""Intervals: patients are drawn again, with replacement, within strata; or DeLong's, where cases are independent.

A draw is a whole number for every patient, how often it was drawn, and every figure can be had from such weights at
once for all draws (`weighted`). Nothing loops over draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.special import expit, logit, stdtrit

Scale = Literal["part", "difference", "plain"]

LEVEL = 0.95
NO_SPREAD = "no interval: these cases show no spread"
# Values of one block of weights, 2 MiB: it stays in the processor's cache, and a million patients still fit.
_BLOCK = 1 << 18
# Below this part of draws in which a figure is defined, the others would no longer stand for all.
_DEFINED = 0.9
_ROUNDING = 1e-9
_NARROWEST = 0.1  # of what one patient weighs: an interval that draws of patients could give is wider


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


def fewest_positive(positive: np.ndarray, patients: np.ndarray) -> int:
    """Patients who have the rarest of some findings.

    Args:
        positive: `(N, F)` bool.
        patients: `(N,)` numbers 0..P-1.
    """
    return min(len(np.unique(patients[column])) for column in positive.T)


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


def mixed(weights: np.ndarray, strata: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draws `(P, R)` in which the part of positive patients varies as it does between data sets.

    For figures that hang on that part. Draws that keep it made their intervals too narrow: those of Brier scores held
    the truth in 5 to 8 of 10 simulated data sets. A stratum weighs more or less as a whole, so that a draw never loses
    its last positive.

    Args:
        weights: of `draws`.
        strata: `(P,)`, 1 for patients with a positive, 0 for those without, -1 for those that do not count.
        rng: of the parts.
    """
    positive, count = strata == 1, int((strata >= 0).sum())
    here = int(positive.sum())
    if not 0 < here < count:
        return weights
    drawn = np.clip(rng.binomial(count, here / count, weights.shape[1]), 1, count - 1)
    return np.asarray(weights * np.where(positive[:, None], drawn / here, (count - drawn) / (count - here)))


def from_draws(
    value: float | None, drawn: np.ndarray, units: int, scale: Scale = "part", fewest: int | None = None
) -> Estimate:
    """A figure with an interval from its values in draws.

    Its width comes from their standard deviation, by Student's t: percentiles of draws miss too often where a finding
    is rare. `benchmarks/evaluate.py` counts how often each holds the truth.

    Args:
        value: of the cases as they are; None or NaN where it is not defined.
        drawn: `(R,)` its values in draws; NaN where it was not defined.
        units: patients that the figure hangs on: the positive ones for a sensitivity, the fewer ones for an AUROC.
        scale: `part` of 1, whose interval is even on the scale of its logit and so stays inside 0..1 (`at_the_end`
            for 0 and 1); `difference` of two parts, even as it is, inside -1..1; `plain`, even as it is.
        fewest: of a mean over findings, the patients that the figure of the rarest one hangs on. That of a single
            patient would be the same in every draw, and the mean's interval too narrow.
    """
    if value is None or not math.isfinite(value):
        return Estimate(None, reason="not defined")
    defined = drawn[np.isfinite(drawn)]
    reason = _lacking(drawn, defined, units)
    if not reason and fewest is not None and fewest < 2:
        reason = "no interval: a finding of a single patient is in the mean, and shows no spread"
    if reason:
        return Estimate(value, reason=reason)
    if scale == "part" and is_end(value):
        return at_the_end(value, units)
    half = float(stdtrit(units - 1, (1 + LEVEL) / 2)) * spread_of(defined, units)
    if half < _ROUNDING:
        return Estimate(value, reason=NO_SPREAD)
    if scale == "plain":
        return Estimate(value, value - half, value + half)
    if scale == "difference":
        return Estimate(value, max(value - half, -1.0), min(value + half, 1.0))
    half /= value * (1 - value)
    return Estimate(value, float(expit(logit(value) - half)), float(expit(logit(value) + half)))


def error_from_draws(
    value: float, drawn: np.ndarray, moved: np.ndarray, units: int, patients: int | None = None
) -> Estimate:
    """A calibration error with an interval. Chance alone makes it larger, in draws once more.

    It can't have grown by more than all bins moved together, which is what its lower end allows for: it is 0 where
    perfect probabilities might have given the value too. The upper end is that of the draws, less what they added.
    Where every patient went as was foretold, draws show nothing of what another one might do: an error of 0 has the
    interval of `at_the_end` then, and a larger one none.

    Args:
        value: of the cases as they are.
        drawn: `(R,)` its values in draws.
        moved: `(R,)` how far all bins moved in them.
        units: as `from_draws` takes them.
        patients: all that there are, those with and those without a positive; `units` by default.
    """
    reason = _lacking(drawn, drawn[np.isfinite(drawn)], units)
    if reason:
        return Estimate(value, reason=reason)
    low = value - float(np.nanquantile(moved, LEVEL))
    high = value + float(np.nanquantile(drawn, (1 + LEVEL) / 2) - np.nanmean(drawn))
    low, high = max(low, 0.0), min(max(high, value), 1.0)
    if high - low < _NARROWEST / (patients or units):
        return at_the_end(value, units) if is_end(value) else Estimate(value, reason=NO_SPREAD)
    return Estimate(value, low, high)


def _lacking(drawn: np.ndarray, defined: np.ndarray, units: int) -> str:
    """Why draws make no interval; empty where they do."""
    if units < 2:
        return "no interval: a single patient shows no spread"
    if len(drawn) < 2:
        return "no interval: no draws were made" if not len(drawn) else "no interval: one draw shows no spread"
    if len(defined) < max(2, _DEFINED * len(drawn)):
        return f"no interval: not defined in {len(drawn) - len(defined):,} of {len(drawn):,} draws of patients"
    return ""


def is_end(value: float) -> bool:
    """Whether a part is 0 or 1, but for rounding."""
    return not _ROUNDING < value < 1 - _ROUNDING


def at_the_end(value: float, units: int) -> Estimate:
    """A part that is 0 or 1, with the exact binomial interval of as many patients that all went the same way.

    No draw of them shows any spread. For an AUROC of 1 it bounds the chance that a positive scores above all of these
    negatives, which is no more than the AUROC.
    """
    bound = ((1 - LEVEL) / 2) ** (1 / units)
    return Estimate(value, bound, 1.0) if value > 0.5 else Estimate(value, 0.0, 1 - bound)


def between(first: Estimate, second: Estimate) -> Estimate:
    """First minus second of different patients, its interval made of theirs (Zou and Donner, 2008).

    For figures whose draws know too little: a part that is 0 or 1 in all of them, or an error that chance made larger.
    """
    if first.value is None or second.value is None:
        return Estimate(None, reason=first.reason or second.reason)
    value = first.value - second.value
    if first.low is None or first.high is None or second.low is None or second.high is None:
        return Estimate(value, reason=first.reason or second.reason)
    below = math.hypot(first.value - first.low, second.high - second.value)
    above = math.hypot(first.high - first.value, second.value - second.low)
    return Estimate(value, value - below, value + above)


def carried(value: float, parts: Sequence[Estimate], figure: Callable[..., float]) -> Estimate:
    """A figure that rises with each of some independent parts, its interval made of theirs (Zou and Donner, 2008).

    Args:
        value: of the figure.
        parts: with their intervals.
        figure: of the parts' values.
    """
    below = above = 0.0
    for number, part in enumerate(parts):
        if part.low is None or part.high is None:
            return Estimate(value, reason=part.reason)
        values = [other.value for other in parts]
        low, high = (figure(*values[:number], end, *values[number + 1 :]) for end in (part.low, part.high))
        below, above = math.hypot(below, value - low), math.hypot(above, high - value)
    if not math.isfinite(below + above):
        return Estimate(value, reason=NO_SPREAD)
    return Estimate(value, value - below, value + above)


def spread_of(drawn: np.ndarray, units: int) -> float:
    """Standard error from draws `(R,)`: n patients drawn from n vary by (n - 1) / n of what they stand for."""
    return float(np.nanstd(drawn)) * math.sqrt(units / (units - 1))
