"""All figures of one finding on one set of cases, each with its interval."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cxr_embed.metrics import (
    Calibration,
    Estimate,
    Flags,
    Ranking,
    auroc,
    delong_interval,
    draws,
    from_draws,
    strata_of,
)
from cxr_embed.metrics.intervals import Scale

RANKED = ("auroc", "average_precision")
FLAGGED = Flags.NAMES
CALIBRATED = ("brier", "calibration_error")
FIGURES = (*RANKED, *FLAGGED, *CALIBRATED)
_SCALES: dict[str, Scale] = {"net_benefit": "plain", "calibration_error": "error"}
BOOTSTRAP, DELONG = "bootstrap over patients", "DeLong"


@dataclass(frozen=True)
class Sample:
    """Cases of one finding whose label is known.

    Attributes:
        positive: `(N,)` bool.
        scores: `(N,)` float64.
        patients: `(N,)` numbers 0..count-1.
        count: patients that draws are made of; some may have no case here.
        threshold: scores from here on are flagged; None for none.
        probabilities: `(N,)` in 0..1; None where scores are no probabilities.
        probability: the threshold as a probability, where there is such.
        prevalence: stated part of cases with the finding where the scores are to be used; None where not stated.
        unflagged: why there is no threshold.
    """

    positive: np.ndarray
    scores: np.ndarray
    patients: np.ndarray
    count: int
    threshold: float | None = None
    probabilities: np.ndarray | None = None
    probability: float | None = None
    prevalence: float | None = None
    unflagged: str = "no threshold is given"

    @cached_property
    def ranking(self) -> Ranking:
        """Its cases, ready to be weighted."""
        return Ranking(self.positive, self.scores, self.patients, self.count)

    @cached_property
    def strata(self) -> np.ndarray:
        """`(count,)`: patients with a positive, with none, and (-1) without a case."""
        strata = np.full(self.count, -1)
        found = strata_of(self.positive, np.ones(len(self.positive), bool), self.patients)
        strata[: len(found)] = found
        return strata

    @cached_property
    def both(self) -> bool:
        """Whether there are positives and negatives."""
        return bool(self.positive.any()) and not self.positive.all()

    @cached_property
    def independent(self) -> bool:
        """Whether no patient has two cases."""
        return len(np.unique(self.patients)) == len(self.patients)

    @cached_property
    def _parts(self) -> tuple[Flags | None, Calibration | None]:
        flags = calibration = None
        if self.threshold is not None:
            flags = Flags(self.positive, self.scores >= self.threshold, self.patients, self.count)
        if self.probabilities is not None and len(self.positive):
            calibration = Calibration(self.positive, self.probabilities, self.patients, self.count)
        return flags, calibration

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """`(R,)` figures by name for weights `(count, R)`, those that can be had of these cases."""
        found: dict[str, np.ndarray] = {}
        flags, calibration = self._parts
        if self.both:
            found["auroc"], found["average_precision"] = self.ranking.both(weights)
        if flags is not None:
            found |= flags.figures(weights, self.prevalence, self.probability)
        if calibration is not None:
            found["brier"], found["calibration_error"] = calibration.both(weights)
        return found

    def values(self) -> dict[str, float]:
        """The figures of the cases as they are. AUROC and average precision are scikit-learn's, to the last digit."""
        found = {name: float(value[0]) for name, value in self.figures(np.ones((self.count, 1))).items()}
        if self.both:
            from sklearn.metrics import average_precision_score, roc_auc_score

            found["auroc"] = float(roc_auc_score(self.positive, self.scores))
            found["average_precision"] = float(average_precision_score(self.positive, self.scores))
        return found

    def units(self, name: str) -> int:
        """Patients that a figure's spread hangs on."""
        positives = len(np.unique(self.patients[self.positive]))
        negatives = len(np.unique(self.patients[~self.positive]))
        if name in CALIBRATED:
            return len(np.unique(self.patients))
        return {"sensitivity": positives, "specificity": negatives}.get(name, min(positives, negatives))

    def reason(self, name: str) -> str:
        """Why a figure is not defined on these cases."""
        if not len(self.positive):
            return "no image has a label"
        if name in FLAGGED and self.threshold is None:
            return self.unflagged
        if name in ("ppv", "npv") and self.prevalence is None:
            return "no prevalence is stated"
        if name in (*CALIBRATED, "net_benefit") and self.probabilities is None:
            return "the scores are no probabilities: not all in 0..1"
        return auroc(self.positive, self.scores).reason or "nothing is flagged, or everything"


def measure(sample: Sample, bootstraps: int, seed: tuple[int, ...]) -> tuple[dict[str, Estimate], str]:
    """All figures of a sample with their intervals, and how the AUROC's was made."""
    values = sample.values()
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in values}
    rows = sample.ranking.steps if sample.both else 0
    for weights in draws(sample.strata, bootstraps, seed, rows):
        for name, part in sample.figures(weights).items():
            drawn[name].append(part)
    found = {}
    for name in FIGURES:
        value = values.get(name)
        if value is None or not np.isfinite(value):
            found[name] = Estimate(None, reason=sample.reason(name))
        else:
            every = np.concatenate(drawn[name]) if drawn[name] else np.empty(0)
            found[name] = from_draws(value, every, sample.units(name), _SCALES.get(name, "part"))
    if not sample.independent or found["auroc"].value is None:
        return found, BOOTSTRAP
    found["auroc"] = delong_interval(sample.positive, sample.scores, values["auroc"])
    return found, DELONG


def differences(
    first: Sample, second: Sample, bootstraps: int, seed: tuple[int, ...]
) -> dict[str, tuple[float, np.ndarray, int]]:
    """First minus second where patients may be in both: the value, its draws and the patients it hangs on.

    Both samples number the same patients. Draws keep how many patients have a positive, or only negatives, in each.
    """
    of_first, of_second = first.values(), second.values()
    names = [name for name in of_first if name in of_second and np.isfinite(of_first[name] - of_second[name])]
    strata = (first.strata + 1) * 3 + second.strata + 1
    strata = np.where(strata == 0, -1, strata)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in names}
    rows = max(sample.ranking.steps if sample.both else 0 for sample in (first, second))
    for weights in draws(strata, bootstraps, seed, rows):
        one, other = first.figures(weights), second.figures(weights)
        for name in names:
            drawn[name].append(one[name] - other[name])
    return {
        name: (
            of_first[name] - of_second[name],
            np.concatenate(drawn[name]) if drawn[name] else np.empty(0),
            min(first.units(name), second.units(name)),
        )
        for name in names
    }


def seed_of(seed: int, *words: str) -> tuple[int, ...]:
    """A seed of its own for each finding and group, whatever else is in the table."""
    return (seed, *(zlib.crc32(word.encode()) for word in words))


def compact(patients: np.ndarray) -> tuple[np.ndarray, int]:
    """Patient ids `(N,)` as numbers in the order of the ids, and how many there are."""
    known, numbers = np.unique(patients, return_inverse=True)
    return numbers, len(known)


def flatten(figures: Mapping[str, Estimate]) -> dict[str, float | str | None]:
    """Figures as JSON values: `auroc`, `auroc_low`, `auroc_high`, and so on."""
    flat: dict[str, float | str | None] = {}
    for name, figure in figures.items():
        flat |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
    return flat


def reasons(figures: Mapping[str, Estimate]) -> dict[str, str]:
    """Why numbers are missing, by figure."""
    return {name: figure.reason for name, figure in figures.items() if figure.reason}
