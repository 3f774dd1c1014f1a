"""Vectors as a probe reads them: pooled, standardised, block by block, from memory or from a store's files."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Protocol, TypeVar

import numpy as np
from threadpoolctl import ThreadpoolController

from cxr_embed.cases import find_ids
from cxr_embed.choices import Pooling
from cxr_embed.errors import CxrEmbedError
from cxr_embed.metrics.spread import collapsed_by
from cxr_embed.store import Store
from cxr_embed.store.reader import neighbours

POOLS: tuple[Pooling, ...] = ("mean", "max", "flatten")
_BLOCK = 1024  # vectors at a time: 4 MiB of 1,024 float32 each stay in a core's cache
_BLOCK_VALUES = 1 << 24  # numbers at a time, where an image has many tokens
_KEPT_BYTES = 1 << 28  # of pooled tokens, which are read once
_DENSE_BYTES = 1 << 30  # of standardised float32 that are kept in memory; beyond, each pass reads the vectors anew
_NAMED = 5

T = TypeVar("T")
Block = tuple[slice | np.ndarray, np.ndarray]


class ProbeError(CxrEmbedError):
    """A probe that cannot be trained, read or used on these vectors."""


class VectorSource(Protocol):
    """Pooled vectors in some order, as often as they are read."""

    count: int
    width: int

    def blocks(self) -> Iterator[Block]:
        """Rows, and their vectors `(B, width)` in any float dtype; each row once, in any order."""
        ...


def pool_vectors(vectors: np.ndarray, pool: str) -> np.ndarray:
    """`(N, ..., D)` to `(N, D)`: over the tokens of an image, or all of them in a row for `flatten`.

    Raises:
        ProbeError: for another pool.
    """
    if pool not in POOLS:
        raise ProbeError(f"pool is {', '.join(POOLS)}, not {pool!r}")
    if vectors.ndim <= 2 or pool == "flatten":
        return vectors.reshape(len(vectors), -1)
    tokens = vectors.reshape(len(vectors), -1, vectors.shape[-1])
    return np.asarray(tokens.max(axis=1) if pool == "max" else tokens.mean(axis=1, dtype=np.float32))


def pooled_width(shape: Sequence[int], pool: str) -> int:
    """Numbers of one image after pooling vectors of this shape."""
    return int(pool_vectors(np.empty((1, *shape), np.float16), pool).shape[1])


class ArraySource:
    """Vectors of an array `(N, D)` or `(N, ..., D)`, which may be mapped from a file."""

    def __init__(self, vectors: np.ndarray, pool: str) -> None:
        self._vectors, self._pool = vectors, pool
        self.count, self.width = len(vectors), pooled_width(vectors.shape[1:], pool)

    def blocks(self) -> Iterator[Block]:
        size = max(1, min(_BLOCK, _BLOCK_VALUES // max(1, math.prod(self._vectors.shape[1:]))))
        for start in range(0, self.count, size):
            rows = slice(start, min(start + size, self.count))
            yield rows, pool_vectors(self._vectors[rows], self._pool)


class StoreSource:
    """Vectors of some of a store's images, read shard by shard, so that memory stays flat.

    Tokens that are pooled to few numbers are kept so after the first reading: a reading of all takes long.

    Args:
        store: an open store.
        ids: `(N,)` image ids that have a vector, each once.
        output: one of the encoder's outputs.
        pool: how tokens become one vector.
    """

    def __init__(self, store: Store, ids: np.ndarray, output: str, pool: str) -> None:
        self._store, self._output, self._pool = store, output, pool
        self._row = find_ids(store.ids, ids)
        shape = store.spec.outputs[output]
        self.count, self.width = len(ids), pooled_width(shape, pool)
        self._keeps = self.width < math.prod(shape) and 4 * self.count * self.width <= _KEPT_BYTES
        self._kept: np.ndarray | None = None

    def blocks(self) -> Iterator[Block]:
        if self._kept is not None:
            yield from ArraySource(self._kept, self._pool).blocks()
            return
        kept = np.empty((self.count, self.width), np.float32) if self._keeps else None
        for rows, vectors in self._read():
            if kept is not None:
                kept[rows] = vectors
            yield rows, vectors
        self._kept = kept

    def _read(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for rows, places, vectors in self._store.mapped(self._output):
            mine = self._row[rows]
            chosen = np.flatnonzero(mine >= 0)
            for start in range(0, len(chosen), _BLOCK):
                part = chosen[start : start + _BLOCK]
                yield mine[part], pool_vectors(vectors[neighbours(places[part])], self._pool)


def read_pooled(store: Store, ids: np.ndarray, output: str, pool: str) -> np.ndarray:
    """Pooled vectors `(N, width)` of image ids `(N,)` in any order, repeats allowed; a few are read at a time."""
    size = max(1, _BLOCK_VALUES // math.prod(store.spec.outputs[output]))
    starts = range(0, max(1, len(ids)), size)
    return np.concatenate([pool_vectors(store.read(ids[at : at + size], output).vectors, pool) for at in starts])


@dataclass(frozen=True)
class Standard:
    """What vectors are standardised by: `(x - mean) / scale`, per dimension, float64.

    Attributes:
        mean, scale: `(D,)`.
        alike: a sentence where the vectors that these were found on are all but equal; empty otherwise.
    """

    mean: np.ndarray
    scale: np.ndarray
    alike: str = ""

    def __call__(self, vectors: np.ndarray, dtype: type[np.floating] = np.float32) -> np.ndarray:
        """Vectors `(N, D)` in their standard form; a copy."""
        result = vectors.astype(dtype)
        result -= self.mean.astype(dtype)
        result *= (1 / self.scale).astype(dtype)
        return result


def fit_standard(source: VectorSource) -> Standard:
    """Mean and standard deviation over all vectors; a dimension that is constant keeps its scale.

    Raises:
        ProbeError: for no vectors, or vectors that are not finite.
    """
    if not source.count:
        raise ProbeError("there are no vectors to learn from")
    count, mean, squares = 0, np.zeros(source.width), np.zeros(source.width)

    def part(block: Block) -> tuple[Block, np.ndarray, np.ndarray]:
        vectors = block[1].astype(np.float32)
        middle = vectors.mean(axis=0, dtype=np.float64)
        vectors -= middle.astype(np.float32)
        rest = vectors.mean(axis=0, dtype=np.float64)
        # What float32 rounded off the middle comes back through the rest.
        return block, middle, np.einsum("ij,ij->j", vectors, vectors).astype(np.float64) - len(vectors) * rest**2

    for (rows, block), middle, spread in in_threads(part, source.blocks()):
        if not np.isfinite(middle).all():
            check_finite(rows, block.astype(np.float32), source.count)
        # Chan, Golub and LeVeque, 1983: sums of squares of two parts.
        both = count + len(block)
        away = middle - mean
        mean += away * len(block) / both
        squares += np.maximum(spread, 0) + away**2 * count * len(block) / both
        count = both
    deviation = np.sqrt(squares / count)
    constant = deviation <= 1e-6 * np.maximum(np.abs(mean), 1e-6)
    return Standard(mean, np.where(constant, 1.0, deviation), collapsed_by(count, mean, deviation**2))


def check_finite(rows: slice | np.ndarray, vectors: np.ndarray, count: int) -> None:
    """Refuses vectors `(B, D)` of some rows of `count` where one is not finite.

    Raises:
        ProbeError: naming the first rows.
    """
    wrong = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(wrong):
        numbers = np.arange(count)[rows][wrong]
        raise ProbeError(f"vectors that are not finite in rows {', '.join(map(str, numbers[:_NAMED]))}")


class Matrix:
    """Standardised float32 vectors: kept in memory where they fit, else made anew in each pass.

    Args:
        source: the vectors.
        standard: what they are standardised by.
    """

    def __init__(self, source: VectorSource, standard: Standard) -> None:
        self.count, self.width = source.count, source.width
        self._source, self._standard = source, standard
        self._dense: np.ndarray | None = None
        if 4 * self.count * self.width <= _DENSE_BYTES:
            dense = np.empty((self.count, self.width), np.float32)

            def fill(block: Block) -> None:
                dense[block[0]] = standard(block[1])

            for _ in in_threads(fill, source.blocks()):
                pass
            self._dense = dense

    def map(self, work: Callable[[slice | np.ndarray, np.ndarray], T]) -> Iterator[T]:
        """`work(rows, vectors (B, width) float32)` of each block, on all cores, in the order of the blocks."""
        if self._dense is not None:
            dense = self._dense
            size = min(_BLOCK, -(-self.count // threads()))
            slices = (slice(start, min(start + size, self.count)) for start in range(0, self.count, size))
            return in_threads(lambda rows: work(rows, dense[rows]), slices)
        return in_threads(lambda block: work(block[0], self._standard(block[1])), self._source.blocks())

    def rows(self, wanted: np.ndarray) -> np.ndarray:
        """The vectors of some rows `(M,)`, rising: `(M, width)` float32."""
        if self._dense is not None:
            return np.asarray(self._dense[wanted])
        place = np.full(self.count, -1)
        place[wanted] = np.arange(len(wanted))
        result = np.empty((len(wanted), self.width), np.float32)

        def fill(rows: slice | np.ndarray, vectors: np.ndarray) -> None:
            here = place[rows]
            result[here[here >= 0]] = vectors[here >= 0]

        for _ in self.map(fill):
            pass
        return result


S = TypeVar("S")


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), thread_name_prefix="probe")


if hasattr(os, "register_at_fork"):
    # A fork has the pool's name but none of its threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)


@cache
def _linear_algebra() -> ThreadpoolController:
    # Looking for the libraries takes as long as a pass over few vectors.
    return ThreadpoolController()


def single_threaded() -> AbstractContextManager[object]:
    """Linear algebra on one core each, while it lasts."""
    return _linear_algebra().limit(limits=1)  # type: ignore[no-any-return]


def threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_threads(work: Callable[[S], T], items: Iterable[S]) -> Iterator[T]:
    """`work` of each item on all cores, results in order; items are taken only a few ahead, so that memory stays flat.

    Each thread does its own linear algebra: one block on all cores would mean waiting for each other in each product.
    """
    waiting: deque[Future[T]] = deque()
    with single_threaded():
        for item in items:
            waiting.append(_pool().submit(work, item))
            if len(waiting) > 2 * threads():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
