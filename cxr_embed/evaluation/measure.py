"""All figures of one finding on one set of cases, each with its interval."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial

import numpy as np

from cxr_embed.metrics import (
    Calibration,
    Estimate,
    Flags,
    Ranking,
    auroc,
    carried,
    delong_interval,
    draws,
    error_from_draws,
    from_draws,
    is_end,
    mixed,
    net_benefit,
    npv,
    ppv,
    strata_of,
)
from cxr_embed.metrics.intervals import Scale

RANKED = ("auroc", "average_precision")
FLAGGED = Flags.NAMES
CALIBRATED = ("brier", "calibration_error")
FIGURES = (*RANKED, *FLAGGED, *CALIBRATED)
_SCALES: dict[str, Scale] = {"net_benefit": "plain"}
_MIX = 1  # makes a seed of its own for the part of positives
BOOTSTRAP, DELONG = "bootstrap over patients", "DeLong"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Cases of one finding whose label is known.

    Attributes:
        positive: `(N,)` bool.
        scores: `(N,)` float64.
        patients: `(N,)` numbers 0..count-1.
        count: patients that draws are made of; some may have no case here.
        threshold: scores from here on are flagged; None for none.
        probabilities: `(N,)` in 0..1; None where scores are not probabilities.
        probability: the threshold as a probability, where there is such.
        prevalence: stated part of cases with the finding where the scores are to be used; None where not stated.
        unflagged: why there is no threshold.
        improbable: why there are not probabilities.
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
    improbable: str = "the scores are not probabilities: not all in 0..1"

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

    def figures(self, weights: np.ndarray, mix: np.ndarray) -> dict[str, np.ndarray]:
        """`(R,)` figures by name for weights `(count, R)`, those that can be had of these cases.

        Args:
            weights: for figures of positives and negatives apart, or at a stated prevalence.
            mix: for those that hang on the part of positives, which varies in it (`mixed`).
        """
        found: dict[str, np.ndarray] = {}
        flags, calibration = self._parts
        if self.both:
            found["auroc"], found["average_precision"] = self.ranking.aurocs(weights), self.ranking.precisions(mix)
        if flags is not None:
            found |= flags.figures(weights, self.prevalence, self.probability)
            own = flags.figures(mix, None, self.probability)
            found["f1"] = own["f1"]
            if self.prevalence is None and "net_benefit" in own:
                found["net_benefit"] = own["net_benefit"]
        if calibration is not None:
            found["brier"], found["calibration_error"] = calibration.both(mix)
        return found

    def moved(self, mix: np.ndarray) -> np.ndarray:
        """`(R,)` how far the calibration's bins moved; nothing where scores are not probabilities."""
        calibration = self._parts[1]
        return calibration.moved(mix) if calibration is not None else np.empty(0)

    def values(self) -> dict[str, float]:
        """The figures of the cases as they are. AUROC and average precision are scikit-learn's, to the last digit."""
        once = np.ones((self.count, 1))
        found = {name: float(value[0]) for name, value in self.figures(once, once).items()}
        if self.both:
            from sklearn.metrics import average_precision_score, roc_auc_score

            found["auroc"] = float(roc_auc_score(self.positive, self.scores))
            found["average_precision"] = float(average_precision_score(self.positive, self.scores))
        return found

    def units(self, name: str) -> int:
        """Patients that a figure's spread hangs on."""
        if not self.both:
            return len(np.unique(self.patients))
        positives = len(np.unique(self.patients[self.positive]))
        negatives = len(np.unique(self.patients[~self.positive]))
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
            return self.improbable
        if name == "net_benefit":
            return "the threshold is not a probability under 1"
        return auroc(self.positive, self.scores).reason or "nothing is flagged, or everything"


def measure(sample: Sample, bootstraps: int, seed: tuple[int, ...]) -> tuple[dict[str, Estimate], str]:
    """All figures of a sample with their intervals, and how the AUROC's was made."""
    values = sample.values()
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in values}
    rows = sample.ranking.steps if sample.both else 0
    moved, rng = [np.empty(0)], np.random.default_rng((*seed, _MIX))
    for weights in draws(sample.strata, bootstraps, seed, rows):
        mix = mixed(weights, sample.strata, rng)
        for name, part in sample.figures(weights, mix).items():
            drawn[name].append(part)
        moved.append(sample.moved(mix))
    found = {}
    for name in FIGURES:
        value = values.get(name)
        if value is None or not np.isfinite(value):
            found[name] = Estimate(None, reason=sample.reason(name))
        else:
            every = np.concatenate(drawn[name]) if drawn[name] else np.empty(0)
            if name == "calibration_error":
                patients = len(np.unique(sample.patients))
                found[name] = error_from_draws(value, every, np.concatenate(moved), sample.units(name), patients)
            else:
                found[name] = from_draws(value, every, sample.units(name), _SCALES.get(name, "part"))
    found |= _at_ends(sample, found)
    if not sample.independent or found["auroc"].value is None:
        return found, BOOTSTRAP
    found["auroc"] = delong_interval(sample.positive, sample.scores, values["auroc"])
    return found, DELONG


def measure_flags(sample: Sample, bootstraps: int, seed: tuple[int, ...]) -> dict[str, Estimate]:
    """Sensitivity, specificity and predictive values of a sample's threshold, as `measure` has them.

    Without what no threshold changes, so that a threshold that moves can be followed.
    """
    names = ("sensitivity", "specificity", "ppv", "npv")
    found = {name: Estimate(None, reason=sample.reason(name)) for name in names}
    if sample.threshold is None or not len(sample.positive):
        return found
    flags = Flags(sample.positive, sample.scores >= sample.threshold, sample.patients, sample.count)
    values = flags.figures(np.ones((sample.count, 1)), sample.prevalence)
    rows = sample.ranking.steps if sample.both else 0  # so that the draws are those of `measure`
    drawn = [flags.figures(weights, sample.prevalence) for weights in draws(sample.strata, bootstraps, seed, rows)]
    for name in names:
        if name in values and np.isfinite(values[name][0]):
            every = np.concatenate([part[name] for part in drawn] or [np.empty(0)])
            found[name] = from_draws(float(values[name][0]), every, sample.units(name))
    at_ends = _at_ends(sample, {**found, "net_benefit": Estimate(None)})
    return found | {name: at_ends[name] for name in names if name in at_ends}


def has_end(found: Mapping[str, Estimate]) -> bool:
    """Whether nobody, or everybody, is flagged of the positives or of the negatives: no draw shows any spread there."""
    parts = (found[name].value for name in ("sensitivity", "specificity"))
    return any(value is not None and is_end(value) for value in parts)


def _at_ends(sample: Sample, found: Mapping[str, Estimate]) -> dict[str, Estimate]:
    """Predictive values and net benefit from the intervals of sensitivity and specificity, where these are 0 or 1."""
    parts = found["sensitivity"], found["specificity"]
    if not has_end(found) or any(part.value is None for part in parts):
        return {}
    share = sample.prevalence if sample.prevalence is not None else float(sample.positive.mean())
    result = {}
    for name, figure in (
        ("ppv", ppv),
        ("npv", npv),
        ("net_benefit", partial(net_benefit, probability=sample.probability or 0.0)),
    ):
        value = found[name].value
        if value is not None:
            with np.errstate(invalid="ignore", divide="ignore"):
                made = carried(value, parts, lambda one, other, of=figure: float(of(one, other, share)))
            result[name] = made if name == "net_benefit" else inside(made)
    return result


def inside(estimate: Estimate, lowest: float = 0.0) -> Estimate:
    """With its interval cut to what the figure can be."""
    if estimate.low is None or estimate.high is None:
        return estimate
    return replace(estimate, low=max(estimate.low, lowest), high=min(estimate.high, 1.0))


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
    # The same cases have the same part of positives, and different ones each their own.
    apart = 0 if np.array_equal(first.strata, second.strata) else 1
    rngs = [np.random.default_rng((*seed, _MIX + number)) for number in (0, apart)]
    for weights in draws(strata, bootstraps, seed, rows):
        one, other = (
            sample.figures(weights, mixed(weights, sample.strata, rng))
            for sample, rng in zip((first, second), rngs, strict=True)
        )
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
