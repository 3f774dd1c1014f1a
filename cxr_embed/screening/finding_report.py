"""How well a prompt set screens: figures a finding, and what should make its user doubt them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from cxr_embed.metrics import (
    Figure,
    OperatingPoint,
    auroc,
    operating_point,
    per_thousand,
    rank_agreement,
    threshold_for_flag_rate,
    threshold_for_sensitivity,
)
from cxr_embed.screening.matched_labels import Truth
from cxr_embed.screening.scoring import Screening
from cxr_embed.types import counted, in_means, left_out_of_means


@dataclass(frozen=True)
class Goal:
    """What a threshold is chosen for: at least this sensitivity, or at most this part of all images flagged."""

    kind: Literal["sensitivity", "flag rate"]
    value: float


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


@dataclass(frozen=True)
class FindingReport:
    """One finding's figures.

    Attributes:
        name: as in the prompt file.
        label: the labels' column; None without labels.
        images, positives: that have a label, and of which it is 1.
        auroc: with the reason where it is undefined.
        pairs: the ensemble's prompts, each pair by itself.
        doubts: faults of polarity, in words that name the prompts.
        point: the threshold and what it does; None where none can be chosen.
        prevalence: that the counts per 1,000 are for.
        prevalence_stated: whether the user stated it; else it is the labels' own.
        flags_per_1000, missed_per_1000: expected among 1,000 images at that prevalence.
    """

    name: str
    label: str | None
    images: int
    positives: int
    auroc: Figure
    pairs: tuple[PairReport, ...]
    doubts: tuple[str, ...]
    point: OperatingPoint | None
    prevalence: float | None
    prevalence_stated: bool
    flags_per_1000: float | None
    missed_per_1000: float | None

    def spread(self, figure: Literal["auroc", "agreement"]) -> tuple[float, float] | None:
        """Lowest and highest of a figure over the single pairs."""
        values = [value for pair in self.pairs if (value := getattr(pair, figure)) is not None]
        return (min(values), max(values)) if values else None


@dataclass(frozen=True)
class Report:
    """All findings' figures.

    Attributes:
        findings: in the order of the prompt file.
        mean_auroc: over the findings whose AUROC is defined.
        covered: how many those are.
        goal: what thresholds were chosen for; None where none were.
        images: that were scored.
        truth: counts of the join with labels; None without labels.
        warnings: what limits the figures, in words.
    """

    findings: tuple[FindingReport, ...]
    mean_auroc: float | None
    covered: int
    goal: Goal | None
    images: int
    truth: Mapping[str, Any] | None
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The report as plain JSON values; what is undefined is null, with its reason."""
        findings = []
        for finding in self.findings:
            value = asdict(finding)
            value["auroc"], value["auroc_undefined"] = finding.auroc.value, finding.auroc.reason or None
            findings.append(value)
        return {
            "images": self.images,
            "labels": dict(self.truth) if self.truth is not None else None,
            "goal": asdict(self.goal) if self.goal is not None else None,
            "mean_auroc": self.mean_auroc,
            "mean_auroc_findings": self.covered,
            "findings": findings,
            "warnings": list(self.warnings),
        }


def make_report(
    screening: Screening,
    truth: Truth | None = None,
    *,
    goal: Goal | None = None,
    prevalence: Mapping[str, float] | float | None = None,
    duplicates: int = 0,
    count_no_finding: bool = False,
) -> Report:
    """Compares scores with labels; without labels, the single prompts with the whole.

    Args:
        screening: scores; with labels, its kept images are the labelled ones.
        truth: labels of the same images and findings.
        goal: what thresholds are chosen for. A sensitivity needs labels.
        prevalence: part of images with the finding where the screening is meant to be used: of each finding, or one
            for all. The labels' own where it is not stated.
        duplicates: labelled images whose file is another labelled image's too.
        count_no_finding: whether 'No Finding' has a part in means over findings; it is left out by default.
    """
    findings = tuple(
        _finding_report(screening, truth, number, goal, prevalence) for number in range(len(screening.scores.names))
    )
    meant = in_means(screening.scores.names, count_no_finding)
    defined = [
        finding.auroc.value
        for finding, counted in zip(findings, meant, strict=True)
        if counted and finding.auroc.value is not None
    ]
    left_out = left_out_of_means(screening.scores.names, count_no_finding) if truth is not None else []
    return Report(
        findings,
        float(np.mean(defined)) if defined else None,
        len(defined),
        goal,
        len(screening.scores.ids),
        truth.counts() if truth is not None else None,
        (*left_out, *_warnings(findings, truth, duplicates)),
    )


def _finding_report(
    screening: Screening,
    truth: Truth | None,
    number: int,
    goal: Goal | None,
    prevalence: Mapping[str, float] | float | None,
) -> FindingReport:
    name, scores = screening.scores.names[number], screening.scores.values[:, number]
    labels = truth.values[:, number] if truth is not None else np.full(len(scores), np.nan, np.float32)
    known = ~np.isnan(labels)
    positives = int((labels == 1).sum())
    label = truth.columns[number] if truth is not None else None
    figure = auroc(labels[known], scores[known])
    if truth is not None and label is None:
        figure = Figure(None, "the labels do not have it")
    pairs = _pair_reports(screening, number, labels)
    threshold = None
    if goal is not None and goal.kind == "flag rate":
        scope = scores if truth is None else scores[truth.labelled]
        threshold = threshold_for_flag_rate(scope, goal.value)
    elif goal is not None:
        threshold = threshold_for_sensitivity(labels[known], scores[known], goal.value)
    point = None
    if threshold is not None:
        if known.any():
            point = operating_point(labels[known], scores[known], threshold)
        else:
            point = OperatingPoint(threshold, float((scores.astype(np.float64) >= threshold).mean()))
    stated = prevalence.get(name) if isinstance(prevalence, Mapping) else prevalence
    part = stated if stated is not None else positives / int(known.sum()) if known.any() else None
    flags = missed = None
    if point is not None and part is not None and point.sensitivity is not None and point.specificity is not None:
        flags, missed = per_thousand(point.sensitivity, point.specificity, part)
    return FindingReport(
        name,
        label,
        int(known.sum()),
        positives,
        figure,
        pairs,
        tuple(_doubts(figure, pairs)),
        point,
        part,
        stated is not None,
        flags,
        missed,
    )


def _pair_reports(screening: Screening, number: int, labels: np.ndarray) -> tuple[PairReport, ...]:
    """Each pair of a finding's prompts on the kept images."""
    single = screening.scorer.pair_scores(screening.cosines, number)
    whole, labels = screening.scores.values[screening.kept, number], labels[screening.kept]
    known, neutral = ~np.isnan(labels), 0.5 if screening.scorer.kind == "softmax" else 0.0
    reports = []
    for (positive, negative), scores in zip(screening.scorer.pairs(number), single.T, strict=True):
        of_positives = scores[labels == 1]
        higher = float((of_positives < neutral).mean()) if negative is not None and len(of_positives) else None
        value = auroc(labels[known], scores[known]).value
        reports.append(PairReport(positive, negative, value, rank_agreement(scores, whole).value, higher))
    return tuple(reports)


def _doubts(figure: Figure, pairs: tuple[PairReport, ...]) -> list[str]:
    doubts = []
    if figure.value is not None and figure.value < 0.5:
        doubts.append(f"AUROC {figure.value:.3f}, under 0.5")
    below = [pair for pair in pairs if pair.auroc is not None and pair.auroc < 0.5]
    if below and len(pairs) > 1:
        worst = min(below, key=lambda pair: pair.auroc or 0)
        doubts.append(f"{len(below)} of {len(pairs)} prompt pairs under 0.5, lowest {_named(worst)} {worst.auroc:.3f}")
    higher = [pair for pair in pairs if pair.negative_higher is not None and pair.negative_higher > 0.5]
    if higher:
        worst = max(higher, key=lambda pair: pair.negative_higher or 0)
        doubts.append(
            f"the negative scores higher on most positives in {len(higher)} of {len(pairs)} prompt pairs, most in "
            f"{_named(worst)} ({round(100 * (worst.negative_higher or 0))}%)"
        )
    return doubts


def _named(pair: PairReport) -> str:
    return f"'{pair.positive}' / '{pair.negative}'" if pair.negative is not None else f"'{pair.positive}'"


def _warnings(findings: tuple[FindingReport, ...], truth: Truth | None, duplicates: int) -> list[str]:
    if truth is None:
        return []
    warnings = []
    undefined = [f"{finding.name} ({finding.auroc.reason})" for finding in findings if finding.auroc.value is None]
    if undefined:
        warnings.append(f"no AUROC, and no part in the mean: {'; '.join(undefined)}")
    if truth.unused:
        warnings.append(f"labels that no prompt asks for: {', '.join(truth.unused)}")
    renamed = [f"{f.name} = {f.label}" for f in findings if f.label is not None and f.label != f.name]
    if renamed:
        warnings.append(f"labels matched by a like name: {', '.join(renamed)}")
    if any(truth.splits):
        warnings.append(f"no `split` is named: judged are the images of {', '.join(s or 'none' for s in truth.splits)}")
    if truth.unknown_ids:
        warnings.append(
            counted(
                truth.unknown_ids,
                "labelled id has no vector in the store and is left out",
                "labelled ids have no vector in the store and are left out",
            )
        )
    if truth.unlabelled:
        warnings.append(
            f"{counted(truth.unlabelled, 'image has', 'images have')} no label"
            f"{' in this split' if truth.split else ''}: scored only"
        )
    if truth.uncertain:
        warnings.append(
            f"{counted(truth.uncertain, 'label is', 'labels are')} uncertain (-1); `uncertain` says what that counts as"
        )
    if duplicates:
        warnings.append(
            counted(
                duplicates,
                "labelled image has the same file as another one, and counts by itself",
                "labelled images have the same file as another one, and count each",
            )
        )
    if any(finding.point is not None for finding in findings):
        warnings.append("thresholds were chosen on these very images; check them on others")
    if any(f.flags_per_1000 is not None and not f.prevalence_stated for f in findings):
        warnings.append(
            "prevalence is the labels' own; where images were chosen for their findings, counts per 1,000 are wrong: "
            "state `prevalence`"
        )
    return warnings
