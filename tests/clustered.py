"""Data sets of patients with several images, whose true figures are known; how often intervals hold them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import expit, logit
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


_THRESHOLD = 0.5

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
    truth = true_figures(setting)
    held = dict.fromkeys(truth, 0)
    for seed in range(sets):
        figures, _ = measure(_sample(setting, seed), draws, (seed,))
        for name, true in truth.items():
            held[name] += holds(figures[name], true)
    return {name: count / sets for name, count in held.items()}


def true_figures(setting: Setting) -> dict[str, float]:
    """Those of all cases that there could be: by formula, or counted on a million patients.

    The probabilities are those that the cases were made with, so there is no calibration error.
    """
    many = _sample(replace(setting, patients=1_000_000), 0).values()
    exact = {
        "auroc": setting.auroc,
        "sensitivity": float(norm.sf(_THRESHOLD - setting.effect)),
        "specificity": float(norm.cdf(_THRESHOLD)),
        "calibration_error": 0.0,
    }
    return {**many, **exact}


def _sample(setting: Setting, seed: int) -> Sample:
    """A data set with a threshold, probabilities and a stated prevalence, half of its own."""
    positive, scores, patients = make(setting, seed)

    def probable(values: np.ndarray) -> np.ndarray:
        # Bayes for two normal distributions.
        return np.asarray(expit(logit(setting.prevalence) + setting.effect * (values - setting.effect / 2)))

    return Sample(
        positive=positive,
        scores=scores[0],
        patients=patients,
        count=setting.patients,
        threshold=_THRESHOLD,
        probabilities=probable(scores[0]),
        probability=float(probable(np.array(_THRESHOLD))),
        prevalence=setting.prevalence / 2,
    )


def difference_coverage(setting: Setting, sets: int, draws: int) -> tuple[float, float]:
    """Of two scores of equal worth: how often the interval holds no difference, and how often p is under 0.05."""
    held = rejected = 0
    for seed in range(sets):
        positive, scores, patients = make(setting, seed, 2)
        one, other = (
            Sample(positive=positive, scores=row, patients=patients, count=setting.patients) for row in scores
        )
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
