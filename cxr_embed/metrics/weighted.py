"""Figures of one finding for many draws of patients at once: weights `(P, R)` in, `(R,)` figures out.

`weights[p, r]` says how often patient p counts in draw r, so a column of ones gives the figure of the cases as they
are. A figure that a draw leaves undefined is NaN there. All sums are sparse products: most patients have a case in few
places, and a dense product would wait for the threads of BLAS, which suffer from whatever else runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.sparse import csr_array

BINS = 10  # of equal width, in the calibration error
_NOBODY = 1e-9  # below any weight


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
        self.steps = len(steps)
        self._at = _counts(of_positives, patients[positive], len(steps), count)
        self._below = _counts(enters, owners, len(steps) + 1, count)  # the last row lies above all steps
        self._tied = _counts(place[tied], owners[tied], len(steps), count) if tied.any() else None

    def aurocs(self, weights: np.ndarray) -> np.ndarray:
        """`(R,)`: the chance that a positive scores above a negative, ties half."""
        at, below, positives, negatives = self._weighted(weights)
        above = np.einsum("sr,sr->r", at, below)
        if self._tied is not None:
            above += np.einsum("sr,sr->r", at, self._tied @ weights) / 2
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(above / (positives * negatives))

    def precisions(self, weights: np.ndarray) -> np.ndarray:
        """`(R,)` average precision: the precision at every positive, averaged (scikit-learn's, not interpolated)."""
        at, below, positives, negatives = self._weighted(weights)
        hits = np.cumsum(at[::-1], axis=0)[::-1]
        flagged = np.subtract(negatives, below, out=below)
        flagged += hits
        # A step at which nobody was drawn has no hits of its own, and counts nothing.
        np.maximum(flagged, _NOBODY, out=flagged)
        hits /= flagged
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(np.einsum("sr,sr->r", at, hits) / positives)

    def _weighted(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Positives at and negatives below each step, `(steps, R)`, and all positives and negatives, `(R,)`."""
        at, below = self._at @ weights, self._below @ weights
        np.cumsum(below, axis=0, out=below)
        return at, below[:-1], at.sum(axis=0), below[-1]


class Flags:
    """What becomes of cases that are flagged: sensitivity, specificity, F1, predictive values, net benefit.

    Args:
        positive, flagged: `(N,)` bool.
        patients, count: as in `Ranking`.
    """

    NAMES = ("sensitivity", "specificity", "f1", "ppv", "npv", "net_benefit")

    def __init__(self, positive: np.ndarray, flagged: np.ndarray, patients: np.ndarray, count: int) -> None:
        kinds = (positive & flagged, positive & ~flagged, ~positive & flagged, ~positive & ~flagged)
        self._cases = csr_array(np.stack([np.bincount(patients, kind, count) for kind in kinds]))  # (4, P)

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
            parts = found["sensitivity"], found["specificity"], share
            if prevalence is not None:
                found |= {"ppv": ppv(*parts), "npv": npv(*parts)}
            if probability is not None and 0 <= probability < 1:
                found["net_benefit"] = net_benefit(*parts, probability)
        return found


def ppv(sensitivity: Any, specificity: Any, prevalence: Any) -> Any:
    """Part of the flagged that have the finding, of numbers or arrays; NaN where nobody is flagged."""
    true = sensitivity * prevalence
    return true / np.asarray(true + (1 - specificity) * (1 - prevalence))


def npv(sensitivity: Any, specificity: Any, prevalence: Any) -> Any:
    """Part of the unflagged that do not have the finding; NaN where everybody is flagged."""
    return ppv(specificity, sensitivity, 1 - prevalence)


def net_benefit(sensitivity: Any, specificity: Any, prevalence: Any, probability: float) -> Any:
    """Hits less false alarms, these at the odds of the threshold's probability (Vickers and Elkin, 2006)."""
    false = (1 - specificity) * (1 - prevalence)
    return sensitivity * prevalence - false * probability / (1 - probability)


class Calibration:
    """How far probabilities are from what happens: Brier score and expected calibration error.

    Args:
        positive: `(N,)` bool.
        probabilities: `(N,)` in 0..1.
        patients, count: as in `Ranking`.
    """

    def __init__(self, positive: np.ndarray, probabilities: np.ndarray, patients: np.ndarray, count: int) -> None:
        gaps = probabilities - positive
        sums = np.zeros((BINS + 2, count))  # promised minus seen by bin, squares of it, cases
        np.add.at(sums, (bin_of(probabilities), patients), gaps)
        sums[BINS] = np.bincount(patients, gaps**2, count)
        sums[BINS + 1] = np.bincount(patients, minlength=count)
        self._sums = csr_array(sums)

    def both(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """`(R,)` Brier scores and `(R,)` expected calibration errors.

        The first is the mean squared difference between probability and outcome (Brier, 1950). The second looks at ten
        bins of equal width, and weighs the difference between mean probability and part of positives of each by its
        cases (Naeini et al., 2015).
        """
        sums = self._sums @ weights
        with np.errstate(invalid="ignore", divide="ignore"):
            return sums[BINS] / sums[BINS + 1], np.abs(sums[:BINS]).sum(axis=0) / sums[BINS + 1]

    def moved(self, weights: np.ndarray) -> np.ndarray:
        """`(R,)`: how far the bins' differences lie from those of the cases as they are, all together."""
        sums, whole = self._sums @ weights, np.asarray(self._sums.sum(axis=1))
        with np.errstate(invalid="ignore", divide="ignore"):
            gaps = sums[:BINS] / sums[BINS + 1]
        return np.asarray(np.abs(gaps - (whole[:BINS] / whole[BINS + 1])[:, None]).sum(axis=0))


def bin_of(probabilities: np.ndarray) -> np.ndarray:
    """`(N,)` numbers of the bins: ten of equal width, each with its lower end, the last with both."""
    return np.minimum((np.asarray(probabilities) * BINS).astype(np.int64), BINS - 1)


def _counts(rows: np.ndarray, columns: np.ndarray, height: int, width: int) -> csr_array:
    # Cases of one patient at one place are added up.
    return csr_array((np.ones(len(rows)), (rows, columns)), shape=(height, width))
