"""Vectors that can be searched: the exact ones in a mapped file, and FAISS to propose which rows of it to look at."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.faiss import kinds
from cxr_embed.index.faiss.layout import Kind
from cxr_embed.store.checksums import unchecked

# Values that are compared one by one rather than searched: 65,536 cases of 128 take about 3 ms.
EXACT_VALUES = 1 << 23
_BLOCK_VALUES = 1 << 20  # gathered at a time
_SMALL = np.float32(1e-30)
_TIMED = 25

Check = Callable[[np.ndarray | None], None]


class Vectors(Protocol):
    """What a search needs of vectors, whatever their shape."""

    count: int
    exact_below: int  # up to so many rows, comparing all of them costs less than asking for candidates

    def candidates(self, query: np.ndarray, count: int, selector: np.ndarray | None) -> np.ndarray:
        """Rows that are probably the most similar ones, best first.

        Args:
            query: what is looked for.
            count: rows wanted; fewer come back where the index finds no more.
            selector: `(N,)` bool, the rows to choose from; None for all.

        Returns:
            `(M,)` int64, each row once.
        """
        ...

    def exact(self, query: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        """The similarity of some rows (None: all), `(M,)` float32; a row's value does not depend on the others."""
        ...


class PooledVectors:
    """One unit vector a case, compared by cosine.

    Args:
        vectors: `(N, D)` float32 of unit length, usually mapped.
        kind: how candidates are found.
        candidates: the FAISS index's file; None for a flat index.
        sha256: of that file.
        check: called with the rows that are about to be looked at, and raises where one has changed.
    """

    def __init__(
        self,
        vectors: np.ndarray,
        kind: Kind,
        candidates: Path | None = None,
        sha256: str = "",
        *,
        check: Check = unchecked,
    ) -> None:
        # A plain array of the same memory: numpy.memmap costs microseconds with every slice.
        self.vectors: np.ndarray = np.asarray(vectors)
        self.kind, self._path, self._sha256, self._check = kind, candidates, sha256, check
        self.count, self.width = vectors.shape
        self.exact_below = self.count if candidates is None else max(1, EXACT_VALUES // self.width)

    def exact(self, query: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        """Cosines with one unit query `(D,)`; see `Vectors.exact`."""
        self._check(rows)
        # One dot product a row: in a matrix product, copies of a vector would differ in the last bit by where they lie.
        if rows is None:
            return np.asarray(np.vecdot(self.vectors, query))
        step = max(1, _BLOCK_VALUES // self.width)
        if len(rows) <= step:
            return np.asarray(np.vecdot(self.vectors[rows], query))
        parts = [self.vectors[rows[start : start + step]] for start in range(0, len(rows), step)]
        return np.concatenate([np.vecdot(part, query) for part in parts])

    def candidates(self, query: np.ndarray, count: int, selector: np.ndarray | None) -> np.ndarray:
        """See `Vectors.candidates`."""
        if self._path is None:
            rows = np.arange(self.count) if selector is None else np.flatnonzero(selector)
            similarity = self.exact(query, rows)
            return np.asarray(rows[np.lexsort((rows, -similarity))[:count]])
        found = kinds.candidates(self.faiss, self.kind, query, count, selector)
        if len(found) and found.max() >= self.count:
            raise CaseIndexError(f"{self._path}: names rows that the index does not have; build it again")
        return found

    @cached_property
    def faiss(self) -> Any:
        """The FAISS index, mapped at the first search."""
        assert self._path is not None
        return kinds.load(self._path, self.kind, self.count, self.width, self._sha256)


def timed(similar: PooledVectors) -> float:
    """Milliseconds of one query, the middle one of a few, as a search makes it."""
    taken = []
    for row in np.linspace(0, similar.count - 1, _TIMED).astype(int):
        start = time.perf_counter()
        if similar.count <= similar.exact_below:
            similar.exact(similar.vectors[row], None)
        else:
            rows = similar.candidates(similar.vectors[row], (kinds.NEIGHBOURS + 6) * similar.kind.fetch, None)
            similar.exact(similar.vectors[row], rows)
        taken.append(time.perf_counter() - start)
    return round(float(np.median(taken)) * 1000, 4)


def pooled(vectors: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Vectors `(B, *shape)` to `(B, D)` float32: the mean over the tokens of an image, where it has several."""
    if len(shape) == 1:
        return vectors.astype(np.float32)
    return np.asarray(vectors.mean(axis=tuple(range(1, len(shape))), dtype=np.float32))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors `(..., D)` to the same directions, float32 of length 1; what has no direction becomes NaN."""
    wide = np.asarray(vectors, np.float32)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore", under="ignore"):
        squares = np.vecdot(wide, wide)
        result = np.asarray(wide / np.sqrt(squares)[..., None])
        # The square of a large or small float32 is not a float32: these are scaled first.
        odd = ~((squares > _SMALL) & (squares < 1 / _SMALL))
        if odd.any():
            scaled = wide[odd] / np.abs(wide[odd]).max(axis=-1, keepdims=True)
            scaled /= np.sqrt(np.vecdot(scaled, scaled))[..., None]
            sound = np.isfinite(scaled).all(axis=-1, keepdims=True)
            result[odd] = np.where(sound, scaled, np.float32(np.nan))
    return result
