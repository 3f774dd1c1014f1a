"""Figures of one finding for many draws of patients at once: weights `(P, R)` in, `(R,)` figures out.

`weights[p, r]` says how often patient p counts in draw r, so a column of ones gives the figure of the cases as they
are. A figure that a draw leaves undefined is NaN there.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

BINS = 10  # of equal width, in the calibration error


class Ranking:
    """AUROC and average precision: how well scores rank positives above negatives.

    Only the places of the distinct scores of positives matter. Sparse counts say how many cases of each patient lie
    between two of them, and one sparse product gives these counts for all draws; no score is sorted again.

    Args:
        positive: `(N,)` bool.
        scores: `(N,)` float64.
        patients: `(N,)` numbers 0..P-1.
        count: P.
    """

    def __init__(self, positive: np.ndarray, scores: np.ndarray, patients: np.ndarray, count: int) -> None:
        steps, of_positives = np.unique(scores[positive], return_inverse=True)
        negatives, owners = scores[~positive], patients[~positive]
        place = np.searchsorted(steps, negatives)
        tied = np.zeros(len(negatives), bool)
        inside = place < len(steps)
        tied[inside] = steps[place[inside]] == negatives[inside]
        enters = place + tied  # the first step that lies above the negative
        below = enters < len(steps)
        self.steps = len(steps)
        self._at = _counts(of_positives, patients[positive], len(steps), count)
        self._below = _counts(enters[below], owners[below], len(steps), count)
        self._tied = _counts(place[tied], owners[tied], len(steps), count) if tied.any() else None
        self._negatives = np.bincount(owners, minlength=count).astype(np.float64)

    def aurocs(self, weights: np.ndarray) -> np.ndarray:
        """`(R,)`: the chance that a positive scores above a negative, ties half."""
        at, below = self._at @ weights, np.cumsum(self._below @ weights, axis=0)
        return self._auroc(at, below, weights)

    def both(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(R,)` AUROC and `(R,)` average precision.

        Average precision is the precision at every positive, averaged (scikit-learn's, without interpolation).
        """
        at, below = self._at @ weights, np.cumsum(self._below @ weights, axis=0)
        aurocs = self._auroc(at, below, weights)
        positives, negatives = at.sum(axis=0), self._negatives @ weights
        hits = positives - np.cumsum(at, axis=0) + at
        flagged = hits + (negatives - below)
        with np.errstate(invalid="ignore", divide="ignore"):
            # A step that nobody was drawn for has no hits of its own, and counts nothing.
            precision = np.divide(hits, flagged, out=np.zeros_like(hits), where=flagged > 0)
            return aurocs, np.einsum("sr,sr->r", at, precision) / positives

    def _auroc(self, at: np.ndarray, below: np.ndarray, weights: np.ndarray) -> np.ndarray:
        above = np.einsum("sr,sr->r", at, below)
        if self._tied is not None:
            above += np.einsum("sr,sr->r", at, self._tied @ weights) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            pairs = at.sum(axis=0) * (self._negatives @ weights)
            return np.asarray(above / pairs)


class Flags:
    """What becomes of cases that are flagged: sensitivity, specificity, F1, predictive values, net benefit.

    Args:
        positive, flagged: `(N,)` bool.
        patients, count: as in `Ranking`.
    """

    NAMES = ("sensitivity", "specificity", "f1", "ppv", "npv", "net_benefit")

    def __init__(self, positive: np.ndarray, flagged: np.ndarray, patients: np.ndarray, count: int) -> None:
        kinds = (positive & flagged, positive & ~flagged, ~positive & flagged, ~positive & ~flagged)
        self._cases = np.stack([np.bincount(patients, kind, count) for kind in kinds])  # (4, P)

    def figures(
        self, weights: np.ndarray, prevalence: float | None = None, probability: float | None = None
    ) -> dict[str, np.ndarray]:
        """`(R,)` figures by name.

        Args:
            weights: `(P, R)`.
            prevalence: part of cases with the finding that predictive values and net benefit are for. Without it there
                are no predictive values, and net benefit is that of the cases as they are.
            probability: the threshold as a probability, which says how many false alarms a hit is worth (Vickers and
                Elkin, 2006); without it there is no net benefit.
        """
        hits, misses, alarms, passed = self._cases @ weights
        with np.errstate(invalid="ignore", divide="ignore"):
            found = {
                "sensitivity": hits / (hits + misses),
                "specificity": passed / (alarms + passed),
                "f1": 2 * hits / (2 * hits + misses + alarms),
            }
            share = prevalence if prevalence is not None else (hits + misses) / (hits + misses + alarms + passed)
            true = found["sensitivity"] * share
            false = (1 - found["specificity"]) * (1 - share)
            if prevalence is not None:
                missed, clear = (1 - found["sensitivity"]) * share, found["specificity"] * (1 - share)
                found |= {"ppv": true / (true + false), "npv": clear / (clear + missed)}
            if probability is not None and 0 <= probability < 1:
                found["net_benefit"] = true - false * probability / (1 - probability)
        return found


class Calibration:
    """How far probabilities are from what happens: Brier score and expected calibration error.

    Args:
        positive: `(N,)` bool.
        probabilities: `(N,)` in 0..1.
        patients, count: as in `Ranking`.
    """

    def __init__(self, positive: np.ndarray, probabilities: np.ndarray, patients: np.ndarray, count: int) -> None:
        self._cases = np.bincount(patients, minlength=count).astype(np.float64)
        self._squares = np.bincount(patients, (probabilities - positive) ** 2, count)
        bins = bin_of(probabilities)
        # Promised minus seen, by bin and patient: bins of a draw are sums of it.
        self._gaps = csr_array((probabilities - positive, (bins, patients)), shape=(BINS, count))

    def brier(self, weights: np.ndarray) -> np.ndarray:
        """`(R,)`: mean squared difference between probability and outcome (Brier, 1950)."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(self._squares @ weights / (self._cases @ weights))

    def error(self, weights: np.ndarray) -> np.ndarray:
        """`(R,)`: expected calibration error (Naeini et al., 2015) over ten bins of equal width.

        In each bin the difference between mean probability and part of positives, weighted by the bin's cases.
        """
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.abs(self._gaps @ weights).sum(axis=0) / (self._cases @ weights))


def bin_of(probabilities: np.ndarray) -> np.ndarray:
    """`(N,)` numbers of the bins: ten of equal width, each with its lower end, the last with both."""
    return np.minimum((np.asarray(probabilities) * BINS).astype(np.int64), BINS - 1)


def _counts(rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> csr_array:
    # Cases of one patient at one place are added up.
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(height, width))
