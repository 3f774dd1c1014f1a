"""Figures of every query in one index: arrays, before they become means with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxr_embed.index import CaseIndex
from cxr_embed.metrics.retrieval import chance, ndcg_at, precision_at, recall_at, votes
from cxr_embed.retrieval.neighbours import Mark, Pool, nearest
from cxr_embed.retrieval.shared import SharedCases


@dataclass(frozen=True)
class Part:
    """Figures of some queries.

    Attributes:
        rows: `(Q,)` of the cases.
        values: `(Q, M)` float64; NaN where a query has no such figure.
        chance: `(Q, M)`, what they would be if neighbours were drawn blindly.
    """

    rows: np.ndarray
    values: np.ndarray
    chance: np.ndarray

    @property
    def defined(self) -> bool:
        """Whether each figure has a query."""
        return len(self.rows) > 0 and not bool(np.isnan(self.values).all(axis=0).any())

    def of(self, chosen: np.ndarray) -> Part:
        """Those of its queries that are among the cases `(N,)` bool."""
        kept = chosen[self.rows]
        return Part(self.rows[kept], self.values[kept], self.chance[kept])


@dataclass(frozen=True)
class Measured:
    """One index.

    Attributes:
        findings: for each, precision at each k and then nDCG at each k, of the queries that show it.
        in_view: for each, `(Q,)`: what precision would be if neighbours were drawn blindly among the images of the
            query's view; NaN where that is not known.
        votes: `(Q, F)` of all queries; NaN without a neighbour.
        same_patient: recall at each k, of the queries whose patient has another image to be found.
        same_view: precision at each k, of the queries whose view is known.
    """

    findings: tuple[Part, ...]
    in_view: tuple[np.ndarray, ...]
    votes: np.ndarray
    same_patient: Part
    same_view: Part


def measure(index: CaseIndex, cases: SharedCases, patients: np.ndarray, ks: Sequence[int]) -> Measured:
    """All figures of one index.

    Neighbours are the true ones: every case is compared, whatever the index's structure. Equally similar ones count by
    what to expect over their orders; those that vote are drawn.

    Args:
        index: has all of the cases.
        cases: queries and searched images.
        patients: `(N,)` numbers of the cases' patients.
        ks: neighbours looked at, ascending.
    """
    queries = np.flatnonzero(cases.queries)
    known = [cases.searched & ~np.isnan(cases.labels[:, number]) for number in range(len(cases.names))]
    seen = cases.searched & (cases.views != "")
    # Most findings are known of the same images: one pool serves them all.
    masks = {mask.tobytes(): mask for mask in [*known, seen]}
    pools = [Pool(mask, others_only=True) for mask in masks.values()]
    own = Pool(cases.searched, others_only=False)
    marks: dict[bytes, list[Mark]] = {key: [] for key in masks}
    for number, mask in enumerate(known):
        marks[mask.tobytes()].append(_mark_finding(cases.labels[:, number]))
    marks[seen.tobytes()].append(lambda query, case: cases.views[query] == cases.views[case])
    of_patient: list[Mark] = [lambda query, case: patients[query] == patients[case]]
    found = nearest(
        index, index.rows_of(cases.ids), queries, patients, [*pools, own], ks[-1], [*marks.values(), of_patient]
    )
    place = {key: number for number, key in enumerate(masks)}
    marks_found = [iter(of_pool.marks) for of_pool in found]
    parts, blind, ballots = [], [], []
    for number, mask in enumerate(known):
        at = place[mask.tobytes()]
        hits = next(marks_found[at])
        # An AUROC is of what single queries see: the mean over orders of equals would tell what the query is from what
        # the others are without it.
        drawn = np.where(found[at].rows >= 0, cases.labels[found[at].rows, number], np.nan)
        ballots.append(votes(drawn, found[at].similarity))
        shows = cases.labels[queries, number] == 1
        rows = queries[shows]
        relevant = pools[at].sizes(cases.labels[:, number] == 1, rows, patients)
        blind.append(_in_view(cases, patients, rows, number, pools[at]))
        parts.append(_figures(rows, hits[shows], relevant, pools[at].sizes(mask, rows, patients), ks))
    at = place[seen.tobytes()]
    return Measured(
        tuple(parts),
        tuple(blind),
        np.stack(ballots, axis=1) if ballots else np.empty((len(queries), 0)),
        _same_patient(cases, patients, queries, found[-1].marks[0], own, ks),
        _same_view(cases, patients, queries, found[at].marks[-1], pools[at], ks),
    )


def _mark_finding(labels: np.ndarray) -> Mark:
    return lambda _, case: labels[case]


def _figures(rows: np.ndarray, hits: np.ndarray, relevant: np.ndarray, cases: np.ndarray, ks: Sequence[int]) -> Part:
    # Where there is nothing to find, finding nothing says nothing: neither figure is defined.
    able = np.where(relevant > 0, 0, np.nan)
    values = [precision_at(hits, k) + able for k in ks] + [ndcg_at(hits, relevant, k) for k in ks]
    blind = [chance(relevant, cases, k) for k in ks]
    expected = [by["precision"] for by in blind] + [by["ndcg"] for by in blind]
    return Part(rows, np.stack(values, axis=1), np.stack(expected, axis=1))


def _in_view(cases: SharedCases, patients: np.ndarray, rows: np.ndarray, number: int, pool: Pool) -> np.ndarray:
    base = np.full(len(rows), np.nan)
    for view in set(cases.views[rows].tolist()) - {""}:
        here, inside = cases.views[rows] == view, cases.views == view
        relevant = pool.sizes(inside & (cases.labels[:, number] == 1), rows[here], patients)
        with np.errstate(invalid="ignore"):
            base[here] = relevant / pool.sizes(inside, rows[here], patients)
    return base


def _same_patient(
    cases: SharedCases, patients: np.ndarray, queries: np.ndarray, hits: np.ndarray, pool: Pool, ks: Sequence[int]
) -> Part:
    others = np.bincount(patients, cases.searched)[patients[queries]].astype(np.int64) - cases.searched[queries]
    able = others > 0
    rows, hits = queries[able], hits[able]
    values = np.stack([recall_at(hits, others[able], k) for k in ks], axis=1)
    size = pool.sizes(cases.searched, rows, patients)
    return Part(rows, values, np.stack([chance(others[able], size, k)["recall"] for k in ks], axis=1))


def _same_view(
    cases: SharedCases, patients: np.ndarray, queries: np.ndarray, hits: np.ndarray, pool: Pool, ks: Sequence[int]
) -> Part:
    able = cases.views[queries] != ""
    rows, hits = queries[able], hits[able]
    relevant = np.zeros(len(rows), np.int64)
    for view in np.unique(cases.views[rows]).tolist():
        here = cases.views[rows] == view
        relevant[here] = pool.sizes(cases.views == view, rows[here], patients)
    size = pool.sizes(cases.searched, rows, patients)
    blind = np.stack([chance(relevant, size, k)["precision"] for k in ks], axis=1)
    return Part(rows, np.stack([precision_at(hits, k) for k in ks], axis=1), blind)
