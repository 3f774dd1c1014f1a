"""Data sets of patients with several images, whose true figures are known; how often intervals hold them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from cxr_embed.evaluation.measure import Sample, differences, measure
from cxr_embed.metrics import Estimate, delong_difference, from_draws, p_value, spread_of


@dataclass(frozen=True)
class Setting:
    """How data sets are made.

    Attributes:
        patients: in each.
        images: of a patient, on average; 1 makes independent cases.
        prevalence: of the finding.
        effect: by how many standard deviations positives score higher.
        alike: correlation between images of one patient, of labels and of scores.
    """

    patients: int
    images: float
    prevalence: float
    effect: float
    alike: float

    @property
    def auroc(self) -> float:
        """The true one: of a positive and a negative of different patients."""
        return float(norm.cdf(self.effect / np.sqrt(2)))


# From a small hospital set to a large test set; the second has some 27 positive patients.
SETTINGS = (
    Setting(400, 2.5, 0.10, 1.2, 0.5),
    Setting(400, 2.5, 0.03, 1.2, 0.5),
    Setting(150, 3.0, 0.10, 1.2, 0.5),
    Setting(600, 2.0, 0.05, 2.0, 0.7),
)


def make(setting: Setting, seed: int, scores: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positives `(N,)`, scores `(scores, N)` of equal worth and patients `(N,)` of one data set."""
    rng = np.random.default_rng(seed)
    count = 1 + rng.poisson(setting.images - 1, setting.patients)
    patients = np.repeat(np.arange(setting.patients), count)
    shared, own = np.sqrt(setting.alike), np.sqrt(1 - setting.alike)

    def noise() -> np.ndarray:
        return shared * rng.standard_normal(setting.patients)[patients] + own * rng.standard_normal(len(patients))

    positive = noise() > norm.ppf(1 - setting.prevalence)
    common = noise()
    rows = [setting.effect * positive + np.sqrt(0.5) * common + np.sqrt(0.5) * noise() for _ in range(scores)]
    return positive, np.stack(rows), patients


def coverage(setting: Setting, sets: int, draws: int) -> dict[str, float]:
    """Part of data sets whose 95% interval holds the truth, by figure."""
    threshold = 0.5
    truth = {
        "auroc": setting.auroc,
        "sensitivity": float(norm.sf(threshold - setting.effect)),
        "specificity": float(norm.cdf(threshold)),
    }
    held = dict.fromkeys(truth, 0)
    for seed in range(sets):
        positive, scores, patients = make(setting, seed)
        sample = Sample(positive, scores[0], patients, setting.patients, threshold)
        figures, _ = measure(sample, draws, (seed,))
        for name, true in truth.items():
            held[name] += holds(figures[name], true)
    return {name: count / sets for name, count in held.items()}


def difference_coverage(setting: Setting, sets: int, draws: int) -> tuple[float, float]:
    """Of two scores of equal worth: how often the interval holds no difference, and how often p is under 0.05."""
    held = rejected = 0
    for seed in range(sets):
        positive, scores, patients = make(setting, seed, 2)
        one, other = (Sample(positive, row, patients, setting.patients) for row in scores)
        if one.independent:
            estimate, p = delong_difference(positive, *scores)
        else:
            value, drawn, units = differences(one, other, draws, (seed,))["auroc"]
            estimate = from_draws(value, drawn, units, "difference")
            p = p_value(value, spread_of(drawn, units), units)
        held += holds(estimate, 0.0)
        rejected += p is not None and p < 0.05
    return held / sets, rejected / sets


def holds(estimate: Estimate, truth: float) -> bool:
    """Whether the interval does; without one it does not."""
    return estimate.low is not None and estimate.high is not None and estimate.low <= truth <= estimate.high
