"""Scores to probabilities, fitted on a validation part, and how well probabilities are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from cxr_embed.choices import CalibrationKind
from cxr_embed.metrics.intervals import LEVEL
from cxr_embed.metrics.weighted import BINS, bin_of

CALIBRATIONS: tuple[str, ...] = get_args(CalibrationKind)


@dataclass(frozen=True)
class Calibrator:
    """Turns scores into probabilities; neither way ever ranks two cases the other way round.

    Attributes:
        kind: `platt`, a logistic curve (Platt, 1999), or `isotonic`, steps (Zadrozny and Elkan, 2002).
        scores: `(K,)` ascending: where the steps are; for `platt`, the two numbers slope and intercept.
        values: `(K,)` probabilities there; empty for `platt`.
    """

    kind: CalibrationKind
    scores: tuple[float, ...]
    values: tuple[float, ...] = ()

    def __call__(self, scores: np.ndarray) -> np.ndarray:
        """`(N,)` scores to `(N,)` probabilities; outside of what was seen, `isotonic` keeps its ends."""
        scores = np.asarray(scores, np.float64)
        if self.kind == "platt":
            slope, intercept = self.scores
            return np.asarray(expit(slope * scores + intercept))
        return np.asarray(np.interp(scores, self.scores, self.values))

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        if self.kind == "platt":
            return {"kind": self.kind, "slope": self.scores[0], "intercept": self.scores[1]}
        return {"kind": self.kind, "scores": list(self.scores), "probabilities": list(self.values)}


def calibrate(labels: np.ndarray, scores: np.ndarray, kind: CalibrationKind) -> Calibrator | None:
    """Fits a calibration on `(N,)` labels of 0 and 1 and scores; None where a class is empty.

    Platt's targets are drawn in by his prior, so that separated classes do not make it a step. A slope below zero
    would turn the ranking round: it is held at zero, and every case has the prevalence.
    """
    positive, scores = np.asarray(labels) == 1, np.asarray(scores, np.float64)
    if not positive.any() or positive.all():
        return None
    if kind == "platt":
        return _platt(positive, scores)
    from sklearn.isotonic import IsotonicRegression

    steps = IsotonicRegression(y_min=0, y_max=1, out_of_bounds="clip").fit(scores, positive)
    return Calibrator(kind, tuple(steps.X_thresholds_.tolist()), tuple(steps.y_thresholds_.tolist()))


def _platt(positive: np.ndarray, scores: np.ndarray) -> Calibrator:
    from sklearn.linear_model import LogisticRegression

    # In parts of the largest: squares of scores such as 1e200 are not numbers.
    largest = float(np.abs(scores).max()) or 1.0
    centre, spread = float((scores / largest).mean()) * largest, float((scores / largest).std()) * largest or 1.0
    count = int(positive.sum()), int((~positive).sum())
    targets = np.where(positive, (count[0] + 1) / (count[0] + 2), 1 / (count[1] + 2))
    # A target between 0 and 1 is a case of both kinds, each with its part of the weight.
    both = np.concatenate([scores, scores])[:, None]
    kinds = np.repeat([1, 0], len(scores))
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    model.fit((both - centre) / spread, kinds, sample_weight=np.concatenate([targets, 1 - targets]))
    slope = float(model.coef_[0, 0]) / spread
    if slope <= 0:
        return Calibrator("platt", (0.0, float(logit(positive.mean()))))
    return Calibrator("platt", (slope, float(model.intercept_[0]) - slope * centre))


@dataclass(frozen=True, kw_only=True)
class ReliabilityBin:
    """Cases whose probability lies in one tenth.

    Attributes:
        low, high: ends of the bin.
        n, positives: cases in it.
        promised: their mean probability.
        seen: part of positives.
        seen_low, seen_high: 95% interval of it (Wilson, 1927), with patients for cases, as though the images of one
            patient held nothing new.
    """

    low: float
    high: float
    n: int
    positives: int
    promised: float
    seen: float
    seen_low: float
    seen_high: float


def reliability(positive: np.ndarray, probabilities: np.ndarray, patients: np.ndarray) -> tuple[ReliabilityBin, ...]:
    """The bins of the calibration error that hold a case: `(N,)` bool, 0..1 and patients' numbers."""
    bins = bin_of(probabilities)
    found = []
    for number in np.unique(bins).tolist():
        here = bins == number
        seen = float(positive[here].mean())
        seen_low, seen_high = _wilson(seen, len(np.unique(patients[here])))
        n, positives, promised = int(here.sum()), int(positive[here].sum()), float(probabilities[here].mean())
        found.append(
            ReliabilityBin(
                low=number / BINS,
                high=(number + 1) / BINS,
                n=n,
                positives=positives,
                promised=promised,
                seen=seen,
                seen_low=seen_low,
                seen_high=seen_high,
            )
        )
    return tuple(found)


def _wilson(part: float, count: int) -> tuple[float, float]:
    z = float(norm.ppf((1 + LEVEL) / 2)) ** 2 / count
    middle = (part + z / 2) / (1 + z)
    half = float(np.sqrt(z * part * (1 - part) + z * z / 4)) / (1 + z)
    return max(0.0, middle - half), min(1.0, middle + half)
