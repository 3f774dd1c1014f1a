"""Two scores of the same cases: how much they differ, with intervals and tests, corrected for the findings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from scipy.stats import rankdata

from cxr_embed.choices import Blank, Uncertain
from cxr_embed.evaluation.diagnostics import FEW
from cxr_embed.evaluation.measure import (
    BOOTSTRAP,
    DELONG,
    RANKED,
    Sample,
    compact,
    differences,
    seed_of,
)
from cxr_embed.evaluation.scored import LabelSource, ScoredCases, join_scores
from cxr_embed.evaluation.scores import ScoresError, ScoreSource, read_scores
from cxr_embed.metrics import (
    Estimate,
    delong_difference,
    draws,
    fewest_positive,
    from_draws,
    holm,
    p_value,
    rarest_strata,
    spread_of,
)
from cxr_embed.types import in_means, left_out_of_means


@dataclass(frozen=True)
class Difference:
    """One figure of two scores.

    Attributes:
        first, second: the figure of each; None where not defined.
        difference: first minus second, with its interval by patient.
        p: of there being no difference, two-sided; None where there is no test.
        p_holm: the same, corrected for the number of findings (Holm, 1979).
    """

    first: float | None
    second: float | None
    difference: Estimate
    p: float | None
    p_holm: float | None = None


@dataclass(frozen=True, kw_only=True)
class FindingDifference:
    """One finding's figures of two scores on the same cases.

    Attributes:
        name: as the first scores name it.
        n, positives, patients: as in `FindingResult`.
        auroc, average_precision: their differences.
        test: how the AUROCs were compared: `bootstrap over patients` or `DeLong`.
    """

    name: str
    n: int
    positives: int
    patients: int | None
    auroc: Difference
    average_precision: Difference
    test: str


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Two scores of the same cases.

    Attributes:
        findings: that both have, in the order of the first.
        mean_auroc: over the findings where both are defined.
        covered: how many these are.
        images, patients: compared; patients None where none is known.
        bootstraps, seed: of the intervals.
        blank: what a blank label counted as.
        warnings: what limits it, in words.
    """

    findings: tuple[FindingDifference, ...]
    mean_auroc: Difference
    covered: int
    images: int
    patients: int | None
    bootstraps: int
    seed: int
    blank: Blank = "unknown"
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        value = asdict(self)
        value["findings"] = [
            {"finding": found.pop("name"), **found} for found in ({**finding} for finding in value["findings"])
        ]
        value["findings_in_mean"] = value.pop("covered")
        value["warnings"] = list(self.warnings)
        return value


def compare(
    first: ScoreSource,
    second: ScoreSource,
    labels: LabelSource,
    *,
    findings: Sequence[str] | None = None,
    patients: Mapping[str, str] | None = None,
    split: str | None = None,
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
    count_no_finding: bool = False,
    bootstraps: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compares two scores on the images and findings that both and the labels have.

    Each draw of patients serves both, so that what makes a case hard for both does not count as difference. Where no
    patient has two cases, AUROCs are compared by DeLong's test.

    Args:
        first, second, labels, findings, patients, split, uncertain, blank, count_no_finding, bootstraps, seed: as
            `evaluate` takes them.

    Raises:
        ManifestError, ScoresError: as `evaluate` does, and where the scores have no image or finding in common.
    """
    one, other = (
        join_scores(
            read_scores(scores),
            labels,
            findings=findings,
            patients=patients,
            split=split,
            uncertain=uncertain,
            blank=blank,
        )
        for scores in (first, second)
    )
    one, other, warnings = _in_common(one, other)
    numbers, count = compact(one.patients)
    pairs = [
        (_sample(one, number, numbers, count), _sample(other, number, numbers, count))
        for number in range(len(one.names))
    ]
    compared = [
        _difference(one, number, *pair, bootstraps, seed_of(seed, one.names[number]))
        for number, pair in enumerate(pairs)
    ]
    compared = _corrected(compared)
    warnings += [*_caveats(compared, one, other), *left_out_of_means(one.names, count_no_finding)]
    meant = in_means(one.names, count_no_finding)
    defined = [n for n, f in enumerate(compared) if f.auroc.difference.value is not None and meant[n]]
    mean = _mean(
        one.keep(np.arange(len(one)), tuple(one.names[n] for n in defined)),
        [pairs[n] for n in defined],
        [compared[n].auroc for n in defined],
        bootstraps,
        seed,
    )
    return Comparison(
        findings=tuple(compared),
        mean_auroc=mean,
        covered=len(defined),
        images=len(one),
        patients=count if one.clustered else None,
        bootstraps=bootstraps,
        seed=seed,
        blank=one.blank,
        warnings=tuple(dict.fromkeys([*warnings, *one.notes, *other.notes])),
    )


def _caveats(compared: Sequence[FindingDifference], one: ScoredCases, other: ScoredCases) -> list[str]:
    """What limits the comparison, in sentences."""
    sentences = []
    undefined = [f"{f.name} ({f.auroc.difference.reason})" for f in compared if f.auroc.difference.value is None]
    if undefined:
        sentences.append(f"no difference, and no part in the mean: {'; '.join(undefined)}")
    for which, cases in (("first", one), ("second", other)):
        if flat := cases.flat:
            sentences.append(f"every case has the same score in {which}: {', '.join(flat)}")
    few = [f"{f.name} ({f.positives})" for f in compared if 0 < f.positives < FEW]
    if few:
        sentences.append(f"fewer than {FEW} positives, too few to judge by: {', '.join(few)}")
    if not one.clustered:
        sentences.append("no patient_id in any file: every image counts as a patient, and p is too small where not so")
    return sentences


def _in_common(one: ScoredCases, other: ScoredCases) -> tuple[ScoredCases, ScoredCases, list[str]]:
    """Both with the same images and findings, in one order."""
    # Scores may spell a finding differently: the labels' column says which are the same.
    columns = [column for column in one.columns if column in other.columns]
    ids, first, second = np.intersect1d(one.ids, other.ids, return_indices=True)
    if not columns or not len(ids):
        what = "image with a label" if not len(ids) else "finding"
        raise ScoresError(f"the two scores have no {what} in common; compare scores of the same cases")
    warnings = []
    lost = (len(one) - len(ids), len(other) - len(ids))
    if any(lost):
        warnings.append(
            f"images that only one of the scores has are left out: {lost[0]:,} of first, {lost[1]:,} of second"
        )
    alone = [name for name, column in zip(one.names, one.columns, strict=True) if column not in columns]
    alone += [name for name, column in zip(other.names, other.columns, strict=True) if column not in columns]
    if alone:
        warnings.append(f"findings that only one of the scores has are left out: {', '.join(alone)}")
    kept_one = one.keep(first, tuple(one.names[one.columns.index(column)] for column in columns))
    kept_other = other.keep(second, tuple(other.names[other.columns.index(column)] for column in columns))
    if one.clustered != other.clustered:
        owners = kept_one.patients if one.clustered else kept_other.patients
        kept_one, kept_other = (replace(kept, patients=owners, clustered=True) for kept in (kept_one, kept_other))
    return kept_one, kept_other, warnings


def _sample(cases: ScoredCases, number: int, patients: np.ndarray, count: int) -> Sample:
    known = ~np.isnan(cases.labels[:, number])
    return Sample(
        positive=cases.labels[known, number] == 1,
        scores=cases.scores[known, number],
        patients=patients[known],
        count=count,
    )


def _difference(
    cases: ScoredCases, number: int, one: Sample, other: Sample, bootstraps: int, seed: tuple[int, ...]
) -> FindingDifference:
    drawn = differences(one, other, bootstraps, seed)
    found = {}
    values = one.values(), other.values()
    same = np.array_equal(rankdata(one.scores), rankdata(other.scores))
    for name in RANKED:
        if name not in drawn:
            found[name] = Difference(None, None, Estimate(None, reason=one.reason(name)), None)
            continue
        value, every, units = drawn[name]
        estimate, p = _tested(value, every, units, same)
        found[name] = Difference(values[0][name], values[1][name], estimate, p)
    test = BOOTSTRAP
    if one.independent and found["auroc"].first is not None:
        test = DELONG
        estimate, p = delong_difference(one.positive, one.scores, other.scores)
        found["auroc"] = replace(found["auroc"], difference=estimate, p=p)
    patients = len(np.unique(one.patients)) if cases.clustered else None
    return FindingDifference(
        name=cases.names[number],
        n=len(one.positive),
        positives=int(one.positive.sum()),
        patients=patients,
        auroc=found["auroc"],
        average_precision=found["average_precision"],
        test=test,
    )


def _corrected(findings: list[FindingDifference]) -> list[FindingDifference]:
    auroc = holm([finding.auroc.p for finding in findings])
    precision = holm([finding.average_precision.p for finding in findings])
    return [
        replace(
            finding,
            auroc=replace(finding.auroc, p_holm=auroc[number]),
            average_precision=replace(finding.average_precision, p_holm=precision[number]),
        )
        for number, finding in enumerate(findings)
    ]


def _mean(
    cases: ScoredCases, pairs: list[tuple[Sample, Sample]], found: list[Difference], bootstraps: int, seed: int
) -> Difference:
    if not pairs:
        return Difference(None, None, Estimate(None, reason="no finding has an AUROC"), None)
    numbers, _ = compact(cases.patients)
    strata = rarest_strata(cases.labels == 1, numbers)
    drawn = [np.empty(0)]
    for weights in draws(strata, bootstraps, seed, max(one.ranking.steps for one, _ in pairs)):
        apart = [one.ranking.aurocs(weights) - other.ranking.aurocs(weights) for one, other in pairs]
        drawn.append(np.mean(apart, axis=0))
    every, units = np.concatenate(drawn), int((strata < cases.labels.shape[1]).sum())
    first, second = (float(np.mean([getattr(value, side) for value in found])) for side in ("first", "second"))
    fewest = fewest_positive(cases.labels == 1, numbers)
    same = all(np.array_equal(rankdata(one.scores), rankdata(other.scores)) for one, other in pairs)
    return Difference(first, second, *_tested(first - second, every, units, same, fewest))


def _tested(
    value: float, drawn: np.ndarray, units: int, same: bool, fewest: int | None = None
) -> tuple[Estimate, float | None]:
    """A difference with its interval, and p of there being none; `same` scores rank every case alike."""
    if same:
        return Estimate(0.0, 0.0, 0.0), 1.0
    estimate = from_draws(value, drawn, units, "difference", fewest)
    return estimate, p_value(value, spread_of(drawn, units), units) if estimate.low is not None else None
