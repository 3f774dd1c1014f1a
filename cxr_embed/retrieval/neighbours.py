"""The true neighbours of many cases at once, in one pass over the similarities for every choice of cases."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cxr_embed.index import CaseIndex

_BLOCK_VALUES = 1 << 23  # similarities at a time, 32 MiB
_ROUNDING = 4e-6  # a cosine in a product of matrices is off by less
_DIGITS = 6  # of a similarity that mean something
# Of cases `(M,)` that are neighbours of queries `(M,)`, both rows: a number of each pair.
Mark = Callable[[np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Pool:
    """The cases that are searched.

    Attributes:
        cases: `(N,)` bool.
        others_only: whether the query's own patient is left out; the query itself always is.
    """

    cases: np.ndarray
    others_only: bool

    def sizes(self, among: np.ndarray, queries: np.ndarray, patients: np.ndarray) -> np.ndarray:
        """`(Q,)`: how many of some cases each query can find in this pool.

        Args:
            among: `(N,)` bool.
            queries: `(Q,)` rows.
            patients: `(N,)` numbers.
        """
        inside = self.cases & among
        own = np.bincount(patients, inside)[patients[queries]] if self.others_only else inside[queries]
        return np.asarray(int(inside.sum()) - own, np.int64)


@dataclass(frozen=True)
class Nearest:
    """Neighbours of queries, nearest first.

    Attributes:
        rows: `(Q, k)` int64; -1 where there are fewer. Equals stand in an order that is drawn for each query, always
            the same: in the rows' own order, which labels may be sorted by, all queries would find the same few.
        similarity: `(Q, k)` float32; NaN there.
        marks: for each mark `(Q, k)` float64, NaN there: its mean over all cases that are as similar as the one in this
            place, be they among the k or not, which is what to expect over the orders of equals.
    """

    rows: np.ndarray
    similarity: np.ndarray
    marks: tuple[np.ndarray, ...] = ()


def nearest(
    index: CaseIndex,
    cases: np.ndarray,
    queries: np.ndarray,
    patients: np.ndarray,
    pools: Sequence[Pool],
    k: int,
    marks: Sequence[Sequence[Mark]] = (),
) -> list[Nearest]:
    """The k nearest of every query in every pool.

    Args:
        index: whose vectors are compared.
        cases: `(N,)` rows of the index that take part; all other rows here count in this list.
        queries: `(Q,)` rows.
        patients: `(N,)` numbers.
        pools: what is searched.
        k: neighbours.
        marks: of each pool, what of its neighbours is wanted.
    """
    shape = (len(queries), k)
    marks = marks or [()] * len(pools)
    found = [
        Nearest(
            np.full(shape, -1, np.int64),
            np.full(shape, np.nan, np.float32),
            tuple(np.full(shape, np.nan) for _ in wanted),
        )
        for wanted in marks
    ]
    similar = _Similar(index, cases)
    step = max(1, _BLOCK_VALUES // max(1, len(cases)))
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        block = similar.block(part)
        block[np.arange(len(part)), part] = -np.inf
        own = patients[part][:, None] == patients[None, :]
        for pool, wanted, into in zip(pools, marks, found, strict=True):
            out = ~pool.cases[None, :] | own if pool.others_only else ~pool.cases[None, :]
            owner, column = _candidates(np.where(out, -np.inf, block), k)
            values = similar.exact(part, owner, column)
            # Similarities that differ in the last digits are equal: their order would be that of rounding.
            level = np.round(values, _DIGITS)
            order = np.lexsort((_drawn(part[owner], column), -level, owner))
            owner, column, values, level = owner[order], column[order], values[order], level[order]
            rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
            kept = rank < k
            for mark, into_mark in zip(wanted, into.marks, strict=True):
                marked = _of_equals(owner, level, mark(part[owner], column))
                into_mark[owner[kept] + start, rank[kept]] = marked[kept]
            owner, column, values, rank = owner[kept] + start, column[kept], values[kept], rank[kept]
            into.rows[owner, rank], into.similarity[owner, rank] = column, values
    return found


def _of_equals(owner: np.ndarray, values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """`(M,)` float64: the mean number of each one's equals, which stand together: same owner, same value."""
    if not len(owner):
        return np.empty(0)
    first = np.r_[True, (owner[1:] != owner[:-1]) | (values[1:] != values[:-1])]
    group = np.cumsum(first) - 1
    return np.asarray((np.bincount(group, numbers) / np.bincount(group))[group])


def _drawn(query: np.ndarray, case: np.ndarray) -> np.ndarray:
    """`(M,)` uint64 that look random, of pairs of rows: their bits mixed (Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        mixed = (query.astype(np.uint64) << np.uint64(32)) + case.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


class _Similar:
    """Similarities among some rows of an index, which are numbered by their place among these."""

    def __init__(self, index: CaseIndex, cases: np.ndarray) -> None:
        self._index, self._cases = index, cases
        self._vectors = None
        if index.pool != "tokens":
            whole = np.array_equal(cases, np.arange(len(index)))
            self._vectors = index.vectors if whole else index.vectors[cases]

    def block(self, queries: np.ndarray) -> np.ndarray:
        """`(B, N)` float32, up to rounding."""
        if self._vectors is not None:
            return np.asarray(self._vectors[queries] @ self._vectors.T)
        return np.stack([self._of_tokens(query, self._cases) for query in queries.tolist()])

    def exact(self, queries: np.ndarray, owner: np.ndarray, column: np.ndarray) -> np.ndarray:
        """`(M,)` float32 of pairs: copies of a vector are equally similar, wherever they lie."""
        if self._vectors is not None:
            return np.asarray(np.vecdot(self._vectors[queries[owner]], self._vectors[column]))
        parts = [self._of_tokens(query, self._cases[column[owner == n]]) for n, query in enumerate(queries.tolist())]
        return np.concatenate(parts)

    def _of_tokens(self, query: int, rows: np.ndarray) -> np.ndarray:
        return self._index.similar.exact(self._index.tokens[self._cases[query]], rows)


def _candidates(block: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of all that may be among the k largest of their row `(B, N)`, row by row."""
    count = block.shape[1]
    k = min(k, count)
    least = np.partition(block, count - k, axis=1)[:, count - k]
    owner, column = np.nonzero((block >= (least - _ROUNDING)[:, None]) & (block > -np.inf))
    return owner, column
