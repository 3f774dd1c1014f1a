"""What limits an evaluation, in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from cxr_embed.evaluation.result import FindingResult, GroupResult

FEW = 10  # positives
_ENRICHED = 2.0  # times the stated prevalence
_MANY = 0.3  # part of positives that no screening meets


def ranking_caveats(findings: Sequence[FindingResult], clustered: bool) -> list[str]:
    """Sentences on findings that are undefined, rare or below chance, and on patients that nobody knows.

    Args:
        findings: what was found.
        clustered: whether patients are known.
    """
    sentences = []
    undefined = [f"{f.name} ({f.figures['auroc'].reason})" for f in findings if f.figures["auroc"].value is None]
    if undefined:
        sentences.append(f"no AUROC, and no part in the mean: {'; '.join(undefined)}")
    few = [f"{f.name} ({f.positives})" for f in findings if 0 < f.positives < FEW]
    if few:
        sentences.append(f"fewer than {FEW} positives, too few to judge by: {', '.join(few)}")
    aurocs = [(f.name, f.figures["auroc"].value) for f in findings]
    below = [f"{name} ({value:.3f})" for name, value in aurocs if value is not None and value < 0.5]
    if below:
        sentences.append(f"AUROC under 0.5, negatives score higher: {', '.join(below)}")
    if not clustered:
        sentences.append(
            "no patient_id in either file: every image counts as a patient, and intervals are too narrow where "
            "patients have several"
        )
    return sentences


def caveats(findings: Sequence[FindingResult], groups: Sequence[GroupResult], probabilities: bool) -> list[str]:
    """Sentences on small groups, enriched cases, and figures that are left out.

    Args:
        findings, groups: what was found.
        probabilities: whether scores were taken as such.
    """
    sentences = []
    small = sum(group.positives < FEW for group in groups)
    if small:
        sentences.append(
            f"{small} of {len(groups)} rows of groups have fewer than {FEW} positives, too few to judge by"
        )
    sentences += _enriched(findings)
    if not probabilities:
        sentences.append(
            "scores are not all in 0..1: Brier score, calibration error and net benefit are left out (`calibrate` "
            "makes probabilities of them)"
        )
    return sentences


def _enriched(findings: Sequence[FindingResult]) -> list[str]:
    sentences = []
    stated = [
        f"{f.name} ({f.prevalence:.1%} here, {f.stated_prevalence:.1%} stated)"
        for f in findings
        if f.stated_prevalence is not None and f.prevalence and f.prevalence >= _ENRICHED * f.stated_prevalence
    ]
    if stated:
        sentences.append(
            f"enriched prevalence: {', '.join(stated)}; average precision, F1 and calibration are those of these "
            "cases, and better than they will be in use"
        )
    many = [
        f"{f.name} ({f.prevalence:.0%})"
        for f in findings
        if f.stated_prevalence is None and f.prevalence and f.prevalence >= _MANY
    ]
    if many:
        sentences.append(
            f"enriched prevalence? Many cases are positive: {', '.join(many)}; where cases were chosen for it, average "
            "precision, F1 and calibration do not carry over: state `prevalence`"
        )
    return sentences
