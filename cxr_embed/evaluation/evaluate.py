"""Scores compared with labels: `cxr_embed.evaluate`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real
from typing import Any

import numpy as np

from cxr_embed.cases import check_apart, wants_common
from cxr_embed.choices import Blank, CalibrationKind, Uncertain
from cxr_embed.evaluation.diagnostics import caveats, ranking_caveats
from cxr_embed.evaluation.groups import measure_groups
from cxr_embed.evaluation.measure import Sample, compact, measure, seed_of
from cxr_embed.evaluation.result import Evaluation, FindingResult
from cxr_embed.evaluation.scored import LabelSource, ScoredCases, join_scores
from cxr_embed.evaluation.scores import ScoresError, ScoreSource, read_scores
from cxr_embed.evaluation.thresholds import Choice, Rule, choose
from cxr_embed.metrics import Estimate, ReliabilityBin, draws, fewest_positive, from_draws, rarest_strata, reliability
from cxr_embed.types import in_means, left_out_of_means

_NOT_CHOSEN_ON = (
    "{:,} images of the validation part are of patients that the probe learned from: nothing is chosen on them"
)
OTHERS = "*"  # of a prevalence by finding: for all that it does not name
Prevalence = float | Mapping[str, float]


def evaluate(
    scores: ScoreSource,
    labels: LabelSource,
    *,
    findings: Sequence[str] | None = None,
    patients: Mapping[str, str] | None = None,
    split: str | None = None,
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
    prevalence: Prevalence | None = None,
    threshold: Rule | None = None,
    thresholds_from: ScoreSource | None = None,
    thresholds_split: str | None = None,
    calibrate: CalibrationKind | None = None,
    by: Sequence[str] = (),
    count_no_finding: bool = False,
    bootstraps: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Compares scores with labels, joined by image id and by the findings' names.

    Intervals hold 95% and are by patient: patients are drawn again, those with a positive and those without apart.
    Where no patient has two cases, an AUROC's interval is DeLong's. For average precision, F1, Brier score, calibration
    error, and net benefit where no prevalence is stated, draws also vary how many patients have a positive, as samples
    do. What is not defined has no number, its reason, and no part in the mean.

    Args:
        scores: a file (CSV, CSV.GZ or Parquet) with `image_id` and a column for each finding, or values in memory:
            anything with `ids`, `names` and `values`. Any real numbers, higher = more likely.
        labels: a table of `image_id` and findings of 1, 0 and blank, a manifest, or `Labels`.
        findings: of the scores; all by default.
        patients: image to patient, where neither says.
        split: evaluate on the labels of this split only.
        uncertain: what a label of -1 counts as: `unknown`, `positive` or `negative`.
        blank: what a blank label counts as: `unknown` or `negative`; what the labels' companion says by default, else
            `unknown`.
        prevalence: part of cases with the finding where the scores are to be used, for all findings or by finding
            (`*` is for all others); predictive values and net benefit are for it.
        threshold: `youden`, `f1`, `sensitivity=0.9`, `specificity=0.9` or `flag-rate=0.1`, chosen on the validation
            part; or a number that was known before, for all findings or by finding.
        thresholds_from: scores of the validation part; those of `scores` by default.
        thresholds_split: the labels' split that is the validation part.
        calibrate: `platt` or `isotonic`: makes probabilities of scores, fitted on the validation part, for Brier score,
            calibration error and net benefit. Everything else looks at the scores themselves.
        by: columns of the labels to make groups of: `sex`, `age` (in bands), `view`, or any other.
        count_no_finding: whether 'No Finding' has a part in means over findings; it is left out by default.
        bootstraps: draws of patients for an interval.
        seed: of the draws.

    Raises:
        ManifestError: for a file that is not a table of unique ids.
        CasesError: for labels that do not fit the scores, or a validation part that has tested patients.
        ScoresError: for scores that are not finite numbers, or options that do not fit.
    """
    if bootstraps < 0:
        raise ScoresError(f"`bootstraps` is a count, not {bootstraps}")
    given = read_scores(scores)
    cases = join_scores(
        given, labels, findings=findings, patients=patients, split=split, uncertain=uncertain, blank=blank
    )
    validation = None
    if thresholds_from is not None or thresholds_split is not None:
        other = given if thresholds_from is None else read_scores(thresholds_from)
        validation = join_scores(
            other,
            labels,
            findings=findings,
            patients=patients,
            split=thresholds_split,
            uncertain=uncertain,
            blank=blank,
        )
        check_apart(cases, validation, ("tested", "in the validation part"))
        # Other scores may call a finding otherwise; the label tells which it is.
        called = dict(zip(cases.columns, cases.names, strict=True))
        pairs = zip(validation.columns, validation.names, strict=True)
        validation = replace(validation, names=tuple(called.get(column, name) for column, name in pairs))
    names = cases.names if wants_common(findings) else given.names
    check_prevalence(prevalence, names)
    _check_thresholds(threshold, names)
    return evaluate_cases(
        cases,
        validation,
        prevalence=prevalence,
        threshold=threshold,
        calibrate=calibrate,
        by=by,
        count_no_finding=count_no_finding,
        bootstraps=bootstraps,
        seed=seed,
    )


def evaluate_cases(
    cases: ScoredCases,
    validation: ScoredCases | None = None,
    *,
    prevalence: Prevalence | None = None,
    threshold: Rule | None = None,
    calibrate: CalibrationKind | None = None,
    by: Sequence[str] = (),
    ranking_only: bool = False,
    count_no_finding: bool = False,
    bootstraps: int = 1000,
    seed: int = 0,
) -> Evaluation:
    """Figures of scores that are joined with labels already.

    Args:
        cases: that are evaluated.
        validation: that thresholds and calibrations are chosen on; None for none.
        ranking_only: AUROC and average precision alone; scores are then not probabilities.
        prevalence, threshold, calibrate, by, count_no_finding, bootstraps, seed: as `evaluate` takes them.

    Raises:
        ScoresError: for options that do not fit.
    """
    choices, warnings = choose(cases.names, threshold, validation, calibrate)
    in_range = not ranking_only and bool(((cases.scores >= 0) & (cases.scores <= 1)).all())
    samples = _Samples(cases, choices, prevalence, in_range)
    findings = []
    for number, name in enumerate(cases.names):
        sample = samples.of(number)
        figures, made = measure(sample, bootstraps, seed_of(seed, name))
        findings.append(_result(cases, number, sample, choices[name], figures, made))
    counted = in_means(cases.names, count_no_finding)
    aurocs = {number: finding.figures["auroc"] for number, finding in enumerate(findings) if counted[number]}
    mean, covered = _mean(samples, aurocs, bootstraps, seed)
    groups = measure_groups(cases, tuple(dict.fromkeys(by)), samples.of, bootstraps, seed)
    warnings = [
        *ranking_caveats(findings, cases.clustered),
        *([] if ranking_only else caveats(findings, groups, samples.probable)),
        *left_out_of_means(cases.names, count_no_finding),
        *([_NOT_CHOSEN_ON.format(validation.seen)] if validation is not None and validation.seen else []),
        *cases.notes,
        *warnings,
        *([f"every case has the same score: {', '.join(cases.flat)}"] if cases.flat else []),
    ]
    people = len(np.unique(cases.patients)) if cases.clustered else None
    return Evaluation(
        findings=tuple(findings),
        mean_auroc=mean,
        covered=covered,
        images=len(cases),
        patients=people,
        bootstraps=bootstraps,
        seed=seed,
        blank=cases.blank,
        groups=groups,
        warnings=tuple(dict.fromkeys(warnings)),
    )


@dataclass(frozen=True)
class _Samples:
    """The cases of each finding, with what was chosen for it."""

    cases: ScoredCases
    choices: Mapping[str, Choice]
    prevalence: Prevalence | None
    in_range: bool

    @cached_property
    def _patients(self) -> tuple[np.ndarray, int]:
        return compact(self.cases.patients)

    @property
    def probable(self) -> bool:
        """Whether any finding has probabilities, or none was to be expected."""
        return self.in_range or any(choice.calibrator is not None for choice in self.choices.values())

    def of(self, number: int, where: np.ndarray | None = None) -> Sample:
        """The cases of a finding whose label is known, all or some; patients are numbered over all cases."""
        numbers, count = self._patients
        labels = self.cases.labels[:, number]
        rows = ~np.isnan(labels) if where is None else ~np.isnan(labels) & where
        scores, name = self.cases.scores[rows, number], self.cases.names[number]
        choice = self.choices[name]
        # A finding that could not be calibrated beside others that were has no probabilities: nobody would expect its
        # raw scores among theirs.
        raw = self.in_range and not choice.uncalibrated
        probabilities = scores if raw else None
        probability = choice.threshold if raw else None
        if choice.calibrator is not None:
            probabilities = choice.calibrator(scores)
            if choice.threshold is not None:
                probability = float(choice.calibrator(np.array([choice.threshold]))[0])
        return Sample(
            positive=labels[rows] == 1,
            scores=scores,
            patients=numbers[rows],
            count=count,
            threshold=choice.threshold,
            probabilities=probabilities,
            probability=probability,
            prevalence=stated_for(self.prevalence, name),
            unflagged=choice.reason,
            **({"improbable": choice.uncalibrated} if choice.uncalibrated else {}),
        )


def stated_for(prevalence: Prevalence | None, name: str) -> float | None:
    """The stated prevalence of one finding."""
    return prevalence.get(name, prevalence.get(OTHERS)) if isinstance(prevalence, Mapping) else prevalence


def _result(
    cases: ScoredCases, number: int, sample: Sample, choice: Choice, figures: Mapping[str, Estimate], made: str
) -> FindingResult:
    bins: tuple[ReliabilityBin, ...] = ()
    if sample.probabilities is not None and len(sample.positive):
        bins = reliability(sample.positive, sample.probabilities, sample.patients)
    return FindingResult(
        name=cases.names[number],
        label=cases.columns[number],
        n=len(sample.positive),
        positives=int(sample.positive.sum()),
        patients=len(np.unique(sample.patients)) if cases.clustered else None,
        stated_prevalence=sample.prevalence,
        threshold=choice.threshold,
        threshold_rule=choice.rule,
        figures=figures,
        auroc_interval=made,
        reliability=bins,
        calibrator=choice.calibrator,
    )


def _mean(samples: _Samples, figures: Mapping[int, Estimate], bootstraps: int, seed: int) -> tuple[Estimate, int]:
    """The mean of the AUROCs that are defined, and of how many; drawn together, since findings share patients."""
    values = {number: figure.value for number, figure in figures.items() if figure.value is not None}
    if not values:
        return Estimate(None, reason="no finding has an AUROC"), 0
    cases = samples.cases
    numbers, _ = compact(cases.patients)
    strata = rarest_strata(cases.labels[:, list(values)] == 1, numbers)
    used = [samples.of(number) for number in values]
    drawn = [
        np.mean([sample.ranking.aurocs(weights) for sample in used], axis=0)
        for weights in draws(strata, bootstraps, seed, max(sample.ranking.steps for sample in used))
    ]
    units = int((strata < len(values)).sum())
    mean = float(np.mean(list(values.values())))
    fewest = fewest_positive(cases.labels[:, list(values)] == 1, numbers)
    return from_draws(mean, np.concatenate(drawn or [np.empty(0)]), units, fewest=fewest), len(values)


def _check_thresholds(threshold: Rule | None, names: tuple[str, ...]) -> None:
    """Refuses a threshold of no finding."""
    wrong = [name for name in threshold if name not in names] if isinstance(threshold, Mapping) else []
    if wrong:
        raise ScoresError(f"`threshold` {wrong[0]}: no such finding; the findings are {', '.join(names)}")


def check_prevalence(prevalence: Prevalence | None, names: tuple[str, ...]) -> None:
    """Refuses a prevalence that is not a part of 1, or is of no finding.

    Raises:
        ScoresError: saying which.
    """
    if prevalence is None:
        return
    stated: Mapping[str, Any] = prevalence if isinstance(prevalence, Mapping) else {OTHERS: prevalence}
    for name, value in stated.items():
        if not isinstance(value, Real):
            raise ScoresError(f"`prevalence` is a part of 1, such as 0.02, or a dict of them, not {value!r}")
        if name != OTHERS and name not in names:
            raise ScoresError(f"`prevalence` {name}={value:g}: no such finding; the findings are {', '.join(names)}")
        if not 0 < float(value) < 1:
            raise ScoresError(f"`prevalence` is a part of 1, such as 0.02, and neither 0 nor 1, not {value:g}")
