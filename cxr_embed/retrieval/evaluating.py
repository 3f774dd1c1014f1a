"""Indexes compared with labels, with chance and with each other: `cxr-embed index evaluate`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cxr_embed.errors import CaseIndexError
from cxr_embed.evaluation import Comparison, Evaluation, compare, evaluate
from cxr_embed.index import CaseIndex
from cxr_embed.index.case_table import BOX
from cxr_embed.manifest import Manifest
from cxr_embed.metrics import Estimate
from cxr_embed.metrics.retrieval import means_by_patient
from cxr_embed.metrics.spread import collapsed
from cxr_embed.retrieval.measure import Measured, Part, measure
from cxr_embed.retrieval.result import (
    AtK,
    Figures,
    FindingRetrieval,
    IndexDifference,
    IndexRetrieval,
    Recall,
    RetrievalReport,
)
from cxr_embed.retrieval.shared import SharedCases, gather
from cxr_embed.types import Labels, counted, in_means, left_out_of_means

FEW = 10  # queries that show a finding


def evaluate_retrieval(
    indexes: Sequence[CaseIndex],
    labels: Manifest | None = None,
    *,
    findings: Sequence[str] = (),
    ks: Sequence[int] = (5, 10),
    split_queries: str | None = None,
    split_cases: str | None = None,
    count_no_finding: bool = False,
    bootstraps: int = 1000,
    seed: int = 0,
) -> RetrievalReport:
    """Says whether the nearest cases are of the same kind.

    Whether neighbours are of the same patient and view needs no finding. For a finding, every image that shows it asks
    for its neighbours among the images of other patients whose label is known. Intervals hold 95% and are by patient:
    the queries' patients are drawn again, what is searched stays. What is not defined has no number, its reason, and no
    part in a mean.

    Args:
        indexes: one or several, whose common images are compared; the last is the floor of the others.
        labels: a table of image_id and findings; the first index's own columns by default.
        findings: that are looked at; all by default.
        ks: neighbours looked at.
        split_queries, split_cases: the splits that queries and searched images are of; all images by default.
        count_no_finding: whether 'No Finding' has a part in means over findings; it is left out by default.
        bootstraps, seed: of the intervals.

    Raises:
        CaseIndexError: for indexes that have nothing in common, or options that do not fit.
        CasesError: for labels that do not fit the indexes.
    """
    if not indexes:
        raise CaseIndexError("`indexes` are at least one")
    if not ks or min(ks) < 1:
        raise CaseIndexError(f"`k` is a number of neighbours, at least 1, not {min(ks, default=0)}")
    cases = gather(indexes, labels, findings, split_queries, split_cases)
    if cases.names and not (cases.queries[:, None] & ~np.isnan(cases.labels)).any():
        raise CaseIndexError("no label of the queries is known; give other `labels`, `findings` or `split_queries`")
    patients = np.unique(cases.patients, return_inverse=True)[1]
    run = _Run(
        cases=cases,
        patients=patients,
        ks=tuple(sorted(set(ks))),
        count_no_finding=count_no_finding,
        bootstraps=bootstraps,
        seed=seed,
    )
    measured = [measure(index, cases, patients, run.ks) for index in indexes]
    if not cases.names and not len(measured[0].same_patient.rows) and not len(measured[0].same_view.rows):
        raise CaseIndexError("no finding, no view and no second image of a patient is known; give `labels`")
    if cases.names and np.isnan(measured[0].votes[~np.isnan(cases.labels[cases.queries])]).all():
        raise CaseIndexError("no query has a labelled image of another patient to find; give other labels or splits")
    found = [run.index(index, of) for index, of in zip(indexes, measured, strict=True)]
    floor = len(indexes) - 1
    differences = [
        run.difference(indexes[number], indexes[floor], measured[number], measured[floor]) for number in range(floor)
    ]
    taking_part = cases.queries | cases.searched
    return RetrievalReport(
        ks=run.ks,
        queries=int(cases.queries.sum()),
        cases=int(cases.searched.sum()),
        patients=len(np.unique(patients[taking_part])),
        indexes=tuple(found),
        differences=tuple(differences),
        bootstraps=bootstraps,
        seed=seed,
        notes=(
            *cases.notes,
            *_alike(indexes),
            *_of_regions(indexes),
            *left_out_of_means(cases.names, count_no_finding),
            *_caveats(found[0], cases),
        ),
    )


@dataclass(frozen=True)
class _Votes:
    """Scores of the queries for `evaluate`."""

    ids: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray


@dataclass(frozen=True, kw_only=True)
class _Run:
    cases: SharedCases
    patients: np.ndarray
    ks: tuple[int, ...]
    count_no_finding: bool
    bootstraps: int
    seed: int

    def index(self, index: CaseIndex, measured: Measured) -> IndexRetrieval:
        """All figures of one index."""
        cases = self.cases
        votes = self._evaluate(measured) if cases.names else None
        views = self._views()
        findings = []
        for number, (name, part) in enumerate(zip(cases.names, measured.findings, strict=True)):
            assert votes is not None
            ballot = votes.finding(name)
            known = cases.searched & ~np.isnan(cases.labels[:, number])
            findings.append(
                FindingRetrieval(
                    name=name,
                    cases=int(known.sum()),
                    positives=int((known & (cases.labels[:, number] == 1)).sum()),
                    figures=self._figures([part]),
                    by_view={view: self._of_view(view, [part], [measured.in_view[number]]) for view in views},
                    vote=ballot.figures["auroc"],
                    voters=ballot.n,
                    voter_positives=ballot.positives,
                )
            )
        meant = in_means(cases.names, self.count_no_finding)
        whole = [part for part, counted in zip(measured.findings, meant, strict=True) if counted and part.defined]
        means, covered = {}, {"": len(whole)}
        for view in views:
            kept = [
                number
                for number, part in enumerate(measured.findings)
                if meant[number] and part.of(cases.views == view).defined
            ]
            parts = [measured.findings[number] for number in kept]
            means[view] = self._of_view(view, parts, [measured.in_view[number] for number in kept])
            covered[view] = len(kept)
        return IndexRetrieval(
            name=str(index.path),
            encoder=index.spec.name,
            findings=tuple(findings),
            mean=self._figures(whole),
            by_view=means,
            covered=covered,
            mean_vote=votes.mean_auroc if votes is not None else Estimate(None, reason="no finding is known"),
            votes_covered=votes.covered if votes is not None else 0,
            same_patient=self._recall(
                measured.same_patient, "no query has another image of its patient among the cases"
            ),
            same_view=self._recall(measured.same_view, "no view is known"),
        )

    def difference(self, one: CaseIndex, floor: CaseIndex, first: Measured, second: Measured) -> IndexDifference:
        """First minus second, query by query."""
        apart = [_apart(a, b) for a, b in zip(first.findings, second.findings, strict=True)]
        by_finding = [self._means([part], "difference") for part in apart]
        count, names = len(self.ks), self.cases.names
        meant = in_means(names, self.count_no_finding)
        whole = [part for part, counted in zip(apart, meant, strict=True) if counted and part.defined]
        mean = self._means(whole, "difference")
        return IndexDifference(
            name=str(one.path),
            floor=str(floor.path),
            precision={name: tuple(values[:count]) for name, values in zip(names, by_finding, strict=True)},
            ndcg={name: tuple(values[count:]) for name, values in zip(names, by_finding, strict=True)},
            mean_precision=tuple(mean[:count]),
            mean_ndcg=tuple(mean[count:]),
            same_patient=tuple(self._means([_apart(first.same_patient, second.same_patient)], "difference")),
            votes=self._compare(first, second) if names else None,
        )

    def _views(self) -> list[str]:
        views = sorted(set(self.cases.views[self.cases.queries].tolist()) - {""})
        return views if len(views) > 1 else []

    def _means(self, parts: Sequence[Part], scale: str = "part") -> list[Estimate]:
        width = 2 * len(self.ks)
        if not parts:
            return [Estimate(None, reason="no finding has this figure")] * width
        owners = [self.patients[part.rows] for part in parts]
        found = means_by_patient(
            [part.values for part in parts],
            owners,
            "difference" if scale == "difference" else "part",
            self.bootstraps,
            (self.seed,),
        )
        if not sum(len(part.rows) for part in parts):
            return [Estimate(None, reason="no query")] * len(found)
        return [
            value if value.value is not None else replace(value, reason=self._lacking(parts, number))
            for number, value in enumerate(found)
        ]

    def _lacking(self, parts: Sequence[Part], number: int) -> str:
        """Why no query has the figure of a column."""
        k = self.ks[number % len(self.ks)]
        first = number - number % len(self.ks)
        if any(not np.isnan(part.values[:, first]).all() for part in parts):
            return f"fewer than {k} images can be found"
        return f"nothing can be found, or fewer than {k} images"

    def _at(self, parts: Sequence[Part]) -> list[AtK]:
        """Means of each column, beside chance in the same queries."""
        found = []
        for number, figure in enumerate(self._means(parts)):
            blind = None
            if figure.value is not None:
                values = [part.chance[~np.isnan(part.values[:, number]), number] for part in parts]
                blind = float(np.mean([value.mean() for value in values]))
            found.append(AtK(self.ks[number % len(self.ks)], figure, blind))
        return found

    def _figures(self, parts: Sequence[Part]) -> Figures:
        rows = np.unique(np.concatenate([np.empty(0, np.int64), *(part.rows for part in parts)]))
        found = self._at(parts)
        count = len(self.ks)
        counted = len(np.unique(self.patients[rows]))
        return Figures(len(rows), counted, tuple(found[:count]), tuple(found[count:]))

    def _of_view(self, view: str, parts: Sequence[Part], in_view: Sequence[np.ndarray]) -> Figures:
        chosen = self.cases.views == view
        found = self._figures([part.of(chosen) for part in parts])
        if found.precision[0].figure.value is None:
            return found
        blind = [base[chosen[part.rows]] for part, base in zip(parts, in_view, strict=True)]
        known = [float(np.nanmean(base)) for base in blind if not np.isnan(base).all()]
        return replace(found, in_view=float(np.mean(known)) if len(known) == len(parts) else None)

    def _recall(self, part: Part, reason: str) -> Recall:
        found = self._at([part])
        if not len(part.rows):
            found = [replace(at, figure=Estimate(None, reason=reason)) for at in found]
        return Recall(len(part.rows), len(np.unique(self.patients[part.rows])), tuple(found))

    def _votes(self, measured: Measured) -> tuple[_Votes, Labels, dict[str, str]]:
        cases = self.cases
        ids, labels = cases.ids[cases.queries], cases.labels[cases.queries]
        labels = np.where(np.isnan(measured.votes), np.nan, labels).astype(np.float32)
        owners = dict(zip(ids.tolist(), cases.patients[cases.queries].tolist(), strict=True))
        return _Votes(ids, cases.names, np.nan_to_num(measured.votes)), Labels(ids, cases.names, labels), owners

    def _evaluate(self, measured: Measured) -> Evaluation:
        scores, labels, owners = self._votes(measured)
        return evaluate(scores, labels, patients=owners, **self._settings)

    def _compare(self, first: Measured, second: Measured) -> Comparison:
        scores, labels, owners = self._votes(first)
        other, _, _ = self._votes(second)
        return compare(scores, other, labels, patients=owners, **self._settings)

    @property
    def _settings(self) -> dict[str, Any]:
        return {"count_no_finding": self.count_no_finding, "bootstraps": self.bootstraps, "seed": self.seed}


def _apart(first: Part, second: Part) -> Part:
    return Part(first.rows, first.values - second.values, first.chance - second.chance)


def _alike(indexes: Sequence[CaseIndex]) -> list[str]:
    return [f"{index.path}: {note}" for index in indexes if (note := collapsed(index.vectors))]


def _of_regions(indexes: Sequence[CaseIndex]) -> list[str]:
    if not any(BOX in index.columns for index in indexes):
        return []
    return ["regions of one picture are found as images of the same patient: that recall says little here"]


def _caveats(found: IndexRetrieval, cases: SharedCases) -> list[str]:
    """What limits the figures, in sentences; the same for every index."""
    sentences = []
    undefined: dict[str, list[str]] = {}
    for finding in found.findings:
        for at in (*finding.figures.precision, *finding.figures.ndcg):
            if at.figure.value is None and finding.name not in undefined.setdefault(at.figure.reason, []):
                undefined[at.figure.reason].append(finding.name)
    if undefined:
        shown = "; ".join(f"{', '.join(names)} ({reason})" for reason, names in undefined.items())
        sentences.append(f"not defined, and no part in the mean: {shown}")
    if not found.same_patient.queries:
        sentences.append(f"no recall of the same patient: {found.same_patient.at[0].figure.reason}")
    few = [f"{f.name} ({f.figures.queries})" for f in found.findings if 0 < f.figures.queries < FEW]
    if few:
        sentences.append(f"fewer than {FEW} queries, too few to judge by: {', '.join(few)}")
    if unknown := int(np.isnan(cases.labels[cases.queries | cases.searched]).sum()):
        sentences.append(
            f"{counted(unknown, 'label is', 'labels are')} unknown: such images neither ask nor answer for that finding"
        )
    return sentences
