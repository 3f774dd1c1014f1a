"""What an evaluation of indexes found, as records to be read and written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cxr_embed.evaluation import Comparison
from cxr_embed.metrics import Estimate


@dataclass(frozen=True)
class AtK:
    """A figure of the k nearest.

    Attributes:
        k: neighbours looked at.
        figure: with its interval by patient, or the reason why there is none.
        chance: what it would be if neighbours were drawn blindly; None where not defined.
    """

    k: int
    figure: Estimate
    chance: float | None

    @property
    def lift(self) -> float | None:
        """How many times chance it is."""
        return self.figure.value / self.chance if self.figure.value is not None and self.chance else None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"k": self.k, **_figure_json(self.figure), "random": self.chance, "lift": self.lift}


@dataclass(frozen=True)
class Figures:
    """Precision and nDCG of some queries at each k.

    Attributes:
        queries, patients: that are positive, and whose they are.
        precision, ndcg: at each k, in its order.
        in_view: for the queries of one view, what precision would be if neighbours were drawn blindly among the images
            of that view: what lies above it is more than the view. None for queries of all views.
    """

    queries: int
    patients: int
    precision: tuple[AtK, ...]
    ndcg: tuple[AtK, ...]
    in_view: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "queries": self.queries,
            "patients": self.patients,
            "precision": [value.to_json() for value in self.precision],
            "ndcg": [value.to_json() for value in self.ndcg],
            "random_in_view": self.in_view,
        }


@dataclass(frozen=True, kw_only=True)
class FindingRetrieval:
    """One finding: do images that show it find others, of other patients, that do?

    Attributes:
        name: of the finding.
        cases, positives: searched images whose label is known, and of which it is 1.
        figures: of the queries that show it.
        by_view: the same for the queries of each view.
        vote: AUROC of the neighbours' votes over all queries whose label is known.
        voters: these queries.
        voter_positives: those of them that show it.
    """

    name: str
    cases: int
    positives: int
    figures: Figures
    by_view: dict[str, Figures]
    vote: Estimate
    voters: int
    voter_positives: int

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "finding": self.name,
            "cases": self.cases,
            "positives": self.positives,
            **self.figures.to_json(),
            "by_view": {view: figures.to_json() for view, figures in self.by_view.items()},
            "vote_auroc": {**_figure_json(self.vote), "queries": self.voters, "positives": self.voter_positives},
        }


@dataclass(frozen=True)
class Recall:
    """Do images find the other ones of their patient? Or others of their view?

    Attributes:
        queries, patients: that have something to find.
        at: each k.
    """

    queries: int
    patients: int
    at: tuple[AtK, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"queries": self.queries, "patients": self.patients, "at": [value.to_json() for value in self.at]}


@dataclass(frozen=True, kw_only=True)
class IndexRetrieval:
    """One index.

    Attributes:
        name: its path.
        encoder: name of what made its vectors.
        findings: in the labels' order.
        mean: over the findings where every figure is defined.
        by_view: the same for the queries of each view.
        covered: findings in `mean`, and in each of `by_view`.
        mean_vote: of the votes' AUROCs.
        votes_covered: findings in `mean_vote`.
        same_patient: part of a patient's other images that are among the k nearest.
        same_view: part of the k nearest, of other patients, that are of the query's view.
    """

    name: str
    encoder: str
    findings: tuple[FindingRetrieval, ...]
    mean: Figures
    by_view: dict[str, Figures]
    covered: dict[str, int]
    mean_vote: Estimate
    votes_covered: int
    same_patient: Recall
    same_view: Recall

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "index": self.name,
            "encoder": self.encoder,
            "findings": [finding.to_json() for finding in self.findings],
            "mean": {**self.mean.to_json(), "findings": self.covered[""]},
            "by_view": {
                view: {**figures.to_json(), "findings": self.covered[view]} for view, figures in self.by_view.items()
            },
            "mean_vote_auroc": {**_figure_json(self.mean_vote), "findings": self.votes_covered},
            "same_patient": self.same_patient.to_json(),
            "same_view": self.same_view.to_json(),
        }


@dataclass(frozen=True, kw_only=True)
class IndexDifference:
    """One index minus the floor, on the same queries and cases: every draw of patients serves both.

    Attributes:
        name, floor: paths of both.
        precision, ndcg: by finding, at each k.
        mean_precision, mean_ndcg: of the means, at each k.
        same_patient: of the recall, at each k.
        votes: AUROCs of the votes compared; None where there are none.
    """

    name: str
    floor: str
    precision: dict[str, tuple[Estimate, ...]]
    ndcg: dict[str, tuple[Estimate, ...]]
    mean_precision: tuple[Estimate, ...]
    mean_ndcg: tuple[Estimate, ...]
    same_patient: tuple[Estimate, ...]
    votes: Comparison | None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "index": self.name,
            "minus": self.floor,
            "findings": [
                {
                    "finding": name,
                    "precision": [_figure_json(value) for value in self.precision[name]],
                    "ndcg": [_figure_json(value) for value in self.ndcg[name]],
                }
                for name in self.precision
            ],
            "mean_precision": [_figure_json(value) for value in self.mean_precision],
            "mean_ndcg": [_figure_json(value) for value in self.mean_ndcg],
            "same_patient": [_figure_json(value) for value in self.same_patient],
            "votes": self.votes.to_json() if self.votes is not None else None,
        }


@dataclass(frozen=True, kw_only=True)
class RetrievalReport:
    """Several indexes on the same images.

    Attributes:
        ks: neighbours looked at, ascending.
        queries, cases, patients: images that are queries, images searched, patients of both.
        indexes: as they were named.
        differences: of each index but the last from the last.
        bootstraps, seed: of the intervals.
        notes: what limits it, in words.
    """

    ks: tuple[int, ...]
    queries: int
    cases: int
    patients: int
    indexes: tuple[IndexRetrieval, ...]
    differences: tuple[IndexDifference, ...]
    bootstraps: int
    seed: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; scripts rely on these names."""
        return {
            "k": list(self.ks),
            "queries": self.queries,
            "cases": self.cases,
            "patients": self.patients,
            "indexes": [index.to_json() for index in self.indexes],
            "differences": [difference.to_json() for difference in self.differences],
            "intervals": {
                "level": 0.95,
                "clustered_by_patient": True,
                "bootstraps": self.bootstraps,
                "seed": self.seed,
            },
            "notes": list(self.notes),
        }


def _figure_json(figure: Estimate) -> dict[str, Any]:
    found: dict[str, Any] = {"value": figure.value, "low": figure.low, "high": figure.high}
    return {**found, "reason": figure.reason} if figure.reason else found
