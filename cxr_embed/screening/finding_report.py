"""How well a prompt set screens: figures a finding, and what limits them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from cxr_embed.evaluation import Evaluation, ScoredCases, ScoresError
from cxr_embed.evaluation.evaluate import Prevalence, evaluate_cases, stated_for
from cxr_embed.evaluation.thresholds import ThresholdRule
from cxr_embed.metrics import (
    Estimate,
    OperatingPoint,
    auroc,
    operating_point,
    per_thousand,
    rank_agreement,
)
from cxr_embed.screening.matched_labels import MatchedLabels
from cxr_embed.screening.scoring import Screening
from cxr_embed.types import counted

DEFAULT_SENSITIVITY = 0.95


@dataclass(frozen=True)
class PairReport:
    """One pair of prompts by itself.

    Attributes:
        positive, negative: the prompts; no negative where the score does not look at one.
        auroc: of the pair's score; None without labels.
        agreement: Spearman's correlation of its score with the finding's.
        negative_higher: part of the labelled positives on which the negative prompt scores higher; None where there
            are none.
    """

    positive: str
    negative: str | None
    auroc: float | None
    agreement: float | None
    negative_higher: float | None


@dataclass(frozen=True, kw_only=True)
class FindingReport:
    """One finding's figures.

    Attributes:
        name: as in the prompt file.
        label: the labels' column; None without labels.
        images, positives: that have a label, and of which it is 1.
        auroc: with its interval by patient, or the reason why it is undefined.
        pairs: the ensemble's prompts, each pair by itself.
        polarity: faults of it, in words that name the prompts.
        point: the threshold and what it does; None where none can be chosen.
        prevalence: that the counts per 1,000 are for.
        prevalence_stated: whether the user stated it; else it is the labels' own.
        flags_per_1000, missed_per_1000: expected among 1,000 images at that prevalence.
    """

    name: str
    label: str | None
    images: int
    positives: int
    auroc: Estimate
    pairs: tuple[PairReport, ...]
    polarity: tuple[str, ...]
    point: OperatingPoint | None
    prevalence: float | None
    prevalence_stated: bool
    flags_per_1000: float | None
    missed_per_1000: float | None

    def spread(self, figure: Literal["auroc", "agreement"]) -> tuple[float, float] | None:
        """Lowest and highest of a figure over the single pairs."""
        values = [value for pair in self.pairs if (value := getattr(pair, figure)) is not None]
        return (min(values), max(values)) if values else None


@dataclass(frozen=True, kw_only=True)
class Report:
    """All findings' figures.

    Attributes:
        findings: in the order of the prompt file.
        mean_auroc: over the findings whose AUROC is defined, with its interval; None without labels.
        covered: how many those are.
        rule: that thresholds were chosen by; None where none were.
        images: that were scored.
        labels: counts of the join with them; None without labels.
        warnings: what limits the figures, in words.
    """

    findings: tuple[FindingReport, ...]
    mean_auroc: Estimate | None
    covered: int
    rule: ThresholdRule | None
    images: int
    labels: Mapping[str, Any] | None
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values; what is undefined is null, with its reason."""
        findings = []
        for finding in self.findings:
            value = asdict(finding)
            value |= _flat("auroc", finding.auroc)
            value["auroc_undefined"] = finding.auroc.reason or None
            value["doubts"] = value.pop("polarity")
            findings.append(value)
        return {
            "images": self.images,
            "labels": dict(self.labels) if self.labels is not None else None,
            "goal": {"kind": self.rule.kind, "value": self.rule.target} if self.rule is not None else None,
            **_flat("mean_auroc", self.mean_auroc or Estimate(None)),
            "mean_auroc_findings": self.covered,
            "findings": findings,
            "warnings": list(self.warnings),
        }


def _flat(name: str, figure: Estimate) -> dict[str, float | None]:
    return {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}


def make_report(
    screening: Screening,
    matched: MatchedLabels | None = None,
    *,
    threshold: str | float | None = None,
    prevalence: Prevalence | None = None,
    duplicates: int = 0,
    count_no_finding: bool = False,
    bootstraps: int = 1000,
    seed: int = 0,
) -> Report:
    """Compares scores with labels; without labels, the single prompts with the whole.

    Args:
        screening: scores; with labels, its kept images are the labelled ones.
        matched: labels of the same images and findings.
        threshold: as `ThresholdRule.parse` takes it, chosen on these very images unless it is a number; without
            labels, `flag-rate=0.1` or a number. With labels, `sensitivity=0.95` by default.
        prevalence: part of images with the finding where the screening is meant to be used: of each finding, or one
            for all. The labels' own where it is not stated.
        duplicates: labelled images whose file is another labelled image's too.
        count_no_finding: whether 'No Finding' has a part in means over findings; it is left out by default.
        bootstraps, seed: of the AUROCs' intervals, as `evaluate` takes them.
    """
    rule = threshold_rule(threshold, matched is not None)
    evaluation = None
    if matched is not None:
        evaluation = evaluate_cases(
            scored_cases(screening, matched),
            ranking_only=True,
            count_no_finding=count_no_finding,
            bootstraps=bootstraps,
            seed=seed,
        )
    findings = tuple(
        _finding_report(screening, matched, evaluation, number, rule, prevalence)
        for number in range(len(screening.scores.names))
    )
    return Report(
        findings=findings,
        mean_auroc=evaluation.mean_auroc if evaluation is not None else None,
        covered=evaluation.covered if evaluation is not None else 0,
        rule=rule,
        images=len(screening.scores.ids),
        labels=matched.counts() if matched is not None else None,
        warnings=_warnings(findings, matched, evaluation, duplicates, rule),
    )


def threshold_rule(threshold: str | float | None, labelled: bool) -> ThresholdRule | None:
    """The rule that a user's words ask for; with labels, a sensitivity of 0.95 by default.

    Raises:
        ScoresError: for other words, or a rule that needs labels where there are none.
    """
    if threshold is None:
        return ThresholdRule("sensitivity", DEFAULT_SENSITIVITY) if labelled else None
    rule = ThresholdRule.parse(threshold)
    if not labelled and rule.kind not in ("flag rate", "stated"):
        raise ScoresError(f"`threshold` {threshold} needs `labels`, which say what is to be found")
    return rule


def scored_cases(screening: Screening, matched: MatchedLabels) -> ScoredCases:
    """The labelled images with their scores."""
    columns = [screening.scores.names.index(name) for name in matched.cases.names]
    values = screening.scores.values[matched.cases.places][:, columns].astype(np.float64)
    return ScoredCases(**vars(matched.cases), scores=values)


def _finding_report(
    screening: Screening,
    matched: MatchedLabels | None,
    evaluation: Evaluation | None,
    number: int,
    rule: ThresholdRule | None,
    prevalence: Prevalence | None,
) -> FindingReport:
    name, scores = screening.scores.names[number], screening.scores.values[:, number]
    labels = np.full(len(screening.kept), np.nan, np.float32)
    figure, column = Estimate(None), None
    if matched is not None and evaluation is not None:
        scores, column = scores[matched.cases.places], matched.columns[number]
        figure = Estimate(None, reason="the labels do not have it")
        if column is not None:
            labels = matched.cases.labels[:, matched.cases.names.index(name)]
            figure = evaluation.finding(name).figures["auroc"]
    known = ~np.isnan(labels)
    positives = int((labels == 1).sum())
    pairs = _pair_reports(screening, number, labels)
    point = _operating_point(rule, labels, scores)
    stated = stated_for(prevalence, name)
    part = stated if stated is not None else positives / int(known.sum()) if known.any() else None
    flags = missed = None
    if point is not None and part is not None and point.sensitivity is not None and point.specificity is not None:
        flags, missed = per_thousand(point.sensitivity, point.specificity, part)
    return FindingReport(
        name=name,
        label=column,
        images=int(known.sum()),
        positives=positives,
        auroc=figure,
        pairs=pairs,
        polarity=tuple(_polarity(figure, pairs)),
        point=point,
        prevalence=part,
        prevalence_stated=stated is not None,
        flags_per_1000=flags,
        missed_per_1000=missed,
    )


def _operating_point(rule: ThresholdRule | None, labels: np.ndarray, scores: np.ndarray) -> OperatingPoint | None:
    """The threshold by a rule, and what it does.

    Args:
        rule: None for none.
        labels: of the labelled images; all unknown where there are no labels.
        scores: of the same images; of all of them without labels.
    """
    if rule is None:
        return None
    known = ~np.isnan(labels)
    # A flag rate is of all images that were scored here, whatever their labels.
    threshold = rule.find(labels, scores) if rule.kind == "flag rate" else rule.find(labels[known], scores[known])
    if threshold is None:
        return None
    if known.any():
        return operating_point(labels[known], scores[known], threshold)
    return OperatingPoint(threshold, float((scores.astype(np.float64) >= threshold).mean()))


def _pair_reports(screening: Screening, number: int, labels: np.ndarray) -> tuple[PairReport, ...]:
    """Each pair of a finding's prompts on the kept images, whose labels are given."""
    single = screening.scorer.pair_scores(screening.cosines, number)
    whole = screening.scores.values[screening.kept, number]
    known, neutral = ~np.isnan(labels), 0.5 if screening.scorer.kind == "softmax" else 0.0
    reports = []
    for (positive, negative), scores in zip(screening.scorer.pairs(number), single.T, strict=True):
        of_positives = scores[labels == 1]
        higher = float((of_positives < neutral).mean()) if negative is not None and len(of_positives) else None
        value = auroc(labels[known], scores[known]).value
        reports.append(PairReport(positive, negative, value, rank_agreement(scores, whole).value, higher))
    return tuple(reports)


def _polarity(figure: Estimate, pairs: tuple[PairReport, ...]) -> list[str]:
    faults = []
    if figure.value is not None and figure.value < 0.5:
        faults.append(f"AUROC {figure.value:.3f}, under 0.5")
    below = [pair for pair in pairs if pair.auroc is not None and pair.auroc < 0.5]
    if below and len(pairs) > 1:
        worst = min(below, key=lambda pair: pair.auroc or 0)
        faults.append(f"{len(below)} of {len(pairs)} prompt pairs under 0.5, lowest {_named(worst)} {worst.auroc:.3f}")
    higher = [pair for pair in pairs if pair.negative_higher is not None and pair.negative_higher > 0.5]
    if higher:
        worst = max(higher, key=lambda pair: pair.negative_higher or 0)
        faults.append(
            f"the negative scores higher on most positives in {len(higher)} of {len(pairs)} prompt pairs, most in "
            f"{_named(worst)} ({round(100 * (worst.negative_higher or 0))}%)"
        )
    return faults


def _named(pair: PairReport) -> str:
    return f"'{pair.positive}' / '{pair.negative}'" if pair.negative is not None else f"'{pair.positive}'"


def _warnings(
    findings: tuple[FindingReport, ...],
    matched: MatchedLabels | None,
    evaluation: Evaluation | None,
    duplicates: int,
    rule: ThresholdRule | None,
) -> tuple[str, ...]:
    if matched is None or evaluation is None:
        return ()
    lacking = [name for name, column in zip((f.name for f in findings), matched.columns, strict=True) if column is None]
    warnings = [f"the labels do not have {', '.join(lacking)}: no AUROC, and no part in the mean"] if lacking else []
    warnings += [*evaluation.warnings, *matched.notes]
    if duplicates:
        warnings.append(
            counted(
                duplicates,
                "labelled image has the same file as another one, and counts by itself",
                "labelled images have the same file as another one, and count each",
            )
        )
    if rule is not None and rule.kind != "stated" and any(finding.point is not None for finding in findings):
        warnings.append("thresholds were chosen on these very images; check them on others")
    if any(f.flags_per_1000 is not None and not f.prevalence_stated for f in findings):
        warnings.append(
            "prevalence is the labels' own; where images were chosen for their findings, counts per 1,000 are wrong: "
            "state `prevalence`"
        )
    return tuple(dict.fromkeys(warnings))
