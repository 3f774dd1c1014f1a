"""Is a search any good: the neighbours of each case against labels, chance and another index."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyarrow as pa

from cxr_embed.api.inputs import StrPath, Table, labels_of, several
from cxr_embed.api.search import SearchIndex
from cxr_embed.api.tabular import Tabular
from cxr_embed.arguments import checked_arguments
from cxr_embed.errors import CaseIndexError
from cxr_embed.index import CaseIndex
from cxr_embed.index.milvus.search import MilvusIndex
from cxr_embed.manifest import Manifest
from cxr_embed.present.numbers import PLAIN
from cxr_embed.retrieval import RetrievalReport, evaluate_retrieval
from cxr_embed.retrieval.result import Figures, IndexRetrieval

Index = SearchIndex | CaseIndex | StrPath


class IndexEvaluation(RetrievalReport, Tabular):
    """An evaluation of indexes that prints well and gives tables."""

    def __repr__(self) -> str:
        k, lines = self.ks[-1], []
        for index in self.indexes:
            for name, figures in _figures_of(index):
                at = figures.precision[-1]
                base = f", {PLAIN.number(at.chance)} by chance" if at.chance is not None else ""
                lines.append(f"{index.name}, {name}: precision@{k} {PLAIN.estimate(at.figure)}{base}")
        return self._as_text(lines)

    def to_arrow(self) -> pa.Table:
        """A row for each index, finding (`(mean)` over the findings) and k.

        Columns: `index`, `finding`, `k`, `queries`, `precision` and `ndcg` with their intervals (`_low`, `_high`), and
        `chance`, the precision of blind draws.
        """
        rows = []
        for index in self.indexes:
            for name, figures in _figures_of(index):
                for place, k in enumerate(self.ks):
                    row = {"index": index.name, "finding": name, "k": k, "queries": figures.queries}
                    row["chance"] = figures.precision[place].chance
                    for figure, at in (("precision", figures.precision[place]), ("ndcg", figures.ndcg[place])):
                        row |= {
                            figure: at.figure.value,
                            f"{figure}_low": at.figure.low,
                            f"{figure}_high": at.figure.high,
                        }
                    rows.append(row)
        return pa.Table.from_pylist(rows)

    def _remarks(self) -> Sequence[str]:
        return self.notes


def _figures_of(index: IndexRetrieval) -> list[tuple[str, Figures]]:
    return [*((finding.name, finding.figures) for finding in index.findings), ("(mean)", index.mean)]


@checked_arguments
def evaluate_index(
    indexes: Sequence[Index] | Index,
    labels: Manifest | StrPath | Table | None = None,
    *,
    findings: Sequence[str] | None = None,
    extra: Sequence[str] = (),
    k: Sequence[int] | int = (5, 10),
    split_queries: str | None = None,
    split_cases: str | None = None,
    count_no_finding: bool = False,
    bootstraps: int = 1000,
    seed: int = 0,
) -> IndexEvaluation:
    """Says whether the nearest cases are of the same kind: against labels, chance, and another index.

    Args:
        indexes: one, or several whose common images are compared; the last is the floor of the others.
        labels: a table of labels; what the first index knows of its cases by default.
        findings: that are looked at; all by default. `common`: those that the vocabulary of findings has, under their
            common names.
        extra: columns of the labels that are not findings.
        k: neighbours looked at; as many as the largest vote.
        split_queries, split_cases: the splits that queries and searched images are of; all images by default.
        count_no_finding, bootstraps, seed: as `evaluate` takes them.

    Raises:
        CaseIndexError, ManifestError: for indexes and labels that have nothing in common, or options that do not fit.
    """
    found = evaluate_retrieval(
        [_case_index(index) for index in several(indexes)],
        labels_of(labels, extra) if labels is not None else None,
        findings=findings or (),
        ks=(k,) if isinstance(k, int) else k,
        split_queries=split_queries,
        split_cases=split_cases,
        count_no_finding=count_no_finding,
        bootstraps=bootstraps,
        seed=seed,
    )
    return IndexEvaluation(**vars(found))


def _case_index(index: Index) -> CaseIndex:
    opened: object = index.index if isinstance(index, SearchIndex) else index
    if isinstance(opened, MilvusIndex):
        raise CaseIndexError("`indexes` are folders; a collection in Milvus is not evaluated")
    if isinstance(opened, CaseIndex):
        return opened
    if not isinstance(opened, str | os.PathLike):
        raise CaseIndexError(f"`indexes` are open indexes or their folders, not {type(opened).__name__}")
    return CaseIndex(opened)
