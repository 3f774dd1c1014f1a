"""The true neighbours of many cases at once, in one pass over the similarities for every choice of cases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxr_embed.index import CaseIndex

_BLOCK_VALUES = 1 << 23  # similarities at a time, 32 MiB
_ROUNDING = 4e-6  # a cosine in a product of matrices is off by less


@dataclass(frozen=True)
class Pool:
    """The cases that are searched.

    Attributes:
        cases: `(N,)` bool.
        strangers: whether the query's own patient is left out; the query itself always is.
    """

    cases: np.ndarray
    strangers: bool

    def sizes(self, among: np.ndarray, queries: np.ndarray, patients: np.ndarray) -> np.ndarray:
        """`(Q,)`: how many of some cases each query can find in this pool.

        Args:
            among: `(N,)` bool.
            queries: `(Q,)` rows.
            patients: `(N,)` numbers.
        """
        inside = self.cases & among
        own = np.bincount(patients, inside)[patients[queries]] if self.strangers else inside[queries]
        return np.asarray(int(inside.sum()) - own, np.int64)


@dataclass(frozen=True)
class Nearest:
    """Neighbours of queries, nearest first.

    Attributes:
        rows: `(Q, k)` int64; -1 where there are fewer.
        similarity: `(Q, k)` float32; NaN there.
    """

    rows: np.ndarray
    similarity: np.ndarray

    def values(self, of_cases: np.ndarray) -> np.ndarray:
        """`(Q, k)` float64: a number of each neighbour, NaN where there is none; `of_cases` is `(N,)`."""
        return np.where(self.rows >= 0, of_cases[self.rows], np.nan)


def nearest(
    index: CaseIndex, cases: np.ndarray, queries: np.ndarray, patients: np.ndarray, pools: Sequence[Pool], k: int
) -> list[Nearest]:
    """The k nearest of every query in every pool; ties go to the earlier row.

    Args:
        index: whose vectors are compared.
        cases: `(N,)` rows of the index that take part; all other rows here count in this list.
        queries: `(Q,)` rows.
        patients: `(N,)` numbers.
        pools: what is searched.
        k: neighbours.
    """
    shape = (len(queries), k)
    found = [Nearest(np.full(shape, -1, np.int64), np.full(shape, np.nan, np.float32)) for _ in pools]
    similar = _Similar(index, cases)
    step = max(1, _BLOCK_VALUES // max(1, len(cases)))
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        block = similar.block(part)
        block[np.arange(len(part)), part] = -np.inf
        own = patients[part][:, None] == patients[None, :]
        for pool, into in zip(pools, found, strict=True):
            out = ~pool.cases[None, :] | own if pool.strangers else ~pool.cases[None, :]
            owner, column = _candidates(np.where(out, -np.inf, block), k)
            values = similar.exact(part, owner, column)
            order = np.lexsort((column, -values, owner))
            owner, column, values = owner[order], column[order], values[order]
            rank = np.arange(len(owner)) - np.searchsorted(owner, owner)
            kept = rank < k
            owner, column, values, rank = owner[kept] + start, column[kept], values[kept], rank[kept]
            into.rows[owner, rank], into.similarity[owner, rank] = column, values
    return found


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
