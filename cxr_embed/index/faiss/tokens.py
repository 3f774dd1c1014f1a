"""Several vectors a case, compared by max-sim: text and images against the tokens of every image."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.faiss import kinds
from cxr_embed.index.faiss.layout import Kind
from cxr_embed.index.faiss.vectors import Check, unit
from cxr_embed.index.maxsim import MaxSim
from cxr_embed.store.checksums import unchecked

# Values that are compared rather than searched: 4,096 images of 32 x 128 take some 10 ms.
EXACT_VALUES = 1 << 24
_TOKENS_EACH = 4  # tokens that are looked for per image wanted: those of one image are often found together


class TokenVectors:
    """`(T, D)` unit vectors a case; see `Vectors`. A query is `(D,)`, a text's, or `(T, D)`, an image's.

    A text's candidates are the images of the tokens nearest to it, found by FAISS in codes of every token. All codes
    are looked at: a text lies far from every image, so that lists of near tokens would leave out the nearest. The
    candidates of an image are those with the nearest mean.

    Args:
        tokens: `(N, T, D)` float16 of unit length, usually mapped.
        means: `(N, D)` float32, the unit means of the tokens.
        kind: how candidates are found: `fetch` for a text; `effort` candidates for each neighbour of an image, 0 where
            means show too little and every case is compared.
        candidates: the FAISS index's file; None where every case is compared.
        sha256: of that file.
        checks: of tokens and of means; see `PooledVectors`.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        means: np.ndarray,
        kind: Kind,
        candidates: Path | None = None,
        sha256: str = "",
        *,
        checks: tuple[Check, Check] = (unchecked, unchecked),
    ) -> None:
        self.tokens: np.ndarray = np.asarray(tokens)
        self.means: np.ndarray = np.asarray(means)
        self.kind, self.path, self._sha256 = kind, candidates, sha256
        self._check, self._check_means = checks
        self.count, self.length, self.width = tokens.shape
        self.exact_below = self.count if candidates is None else exact_below(self.length, self.width)
        self._engines: dict[int, MaxSim] = {}

    def exact(self, query: np.ndarray, rows: np.ndarray | None) -> np.ndarray:
        """Max-sim with one query of unit vectors, `(D,)` or `(T, D)`; see `Vectors.exact`."""
        self._check(rows)
        vectors = query.reshape(1, -1, self.width)
        length = vectors.shape[1]
        if length not in self._engines:
            self._engines[length] = MaxSim((self.length, self.width), 1, length)
        return np.asarray(self._engines[length](self.tokens, vectors, rows)[:, 0])

    def candidates(self, query: np.ndarray, count: int, selector: np.ndarray | None) -> np.ndarray:
        """See `Vectors.candidates`."""
        if self.path is None:
            rows = np.arange(self.count) if selector is None else np.flatnonzero(selector)
            similarity = self.exact(query, rows)
            return np.asarray(rows[np.lexsort((rows, -similarity))[:count]])
        if query.ndim == 1:
            return self.of_text(query, count, selector)
        # The search wants as many as a text needs.
        return self._of_image(query, max(count, count // self.kind.fetch * self.kind.effort), selector)

    def of_text(self, query: np.ndarray, count: int, selector: np.ndarray | None = None) -> np.ndarray:
        """Rows of the images of the tokens nearest to one unit vector `(D,)`, at most `count`, best first."""
        faiss = kinds.library()
        parameters, total = None, self.count * self.length
        if selector is not None:
            bits = np.packbits(np.repeat(selector, self.length), bitorder="little")
            parameters = faiss.SearchParametersIVF(sel=faiss.IDSelectorBitmap(bits), nprobe=1)
            total = int(np.count_nonzero(selector)) * self.length
        wanted = count * _TOKENS_EACH
        while True:
            wanted = min(wanted, total)
            rows = self.faiss.search(query[None], wanted, params=parameters)[1][0] // self.length
            rows = rows[np.sort(np.unique(rows, return_index=True)[1])]
            if len(rows) >= count or wanted == total:
                break
            wanted *= 4
        rows = rows[rows >= 0][:count]
        if len(rows) and rows.max() >= self.count:
            raise CaseIndexError(f"{self.path}: names rows that the index does not have; build it again")
        return np.asarray(rows)

    def _of_image(self, query: np.ndarray, count: int, selector: np.ndarray | None) -> np.ndarray:
        rows = None if selector is None else np.flatnonzero(selector)
        if not self.kind.effort:
            return np.arange(self.count) if rows is None else rows
        self._check_means(rows)
        return nearest_means(self.means if rows is None else self.means[rows], query, count, rows)

    @cached_property
    def faiss(self) -> Any:
        """The FAISS index of all tokens, mapped at the first search of a text."""
        assert self.path is not None
        one_list = replace(self.kind, effort=1)
        return kinds.load(self.path, one_list, self.count * self.length, self.width, self._sha256)


def exact_below(length: int, width: int) -> int:
    """Images up to which comparing all costs less than asking for candidates."""
    return max(1, EXACT_VALUES // (length * width))


def nearest_means(means: np.ndarray, query: np.ndarray, count: int, rows: np.ndarray | None = None) -> np.ndarray:
    """`(min(count, N),)` positions in the means `(N, D)`, or their rows, nearest to the mean of a query `(T, D)`."""
    similarity = means @ unit(query.mean(axis=0))
    count = min(count, len(means))
    at = np.argpartition(-similarity, count - 1)[:count] if count < len(means) else np.arange(len(means))
    at = at[np.lexsort((at, -similarity[at]))]
    return np.asarray(at if rows is None else rows[at])


def token_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """`(T, D)` of an output `(T, D)` or `(H, W, D)`, whose cells are tokens row by row."""
    return math.prod(shape[:-1]), shape[-1]


def unit_tokens(vectors: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors `(B, *shape)`, of a shape `(T, D)` or `(H, W, D)`, to what an index keeps of them.

    Returns:
        `(B, T, D)` float16 unit tokens and `(B, D)` float32 unit means of them. Both are NaN for an image of whose
        tokens one has no direction, or all cancel each other.
    """
    tokens = unit(vectors.reshape(len(vectors), *token_shape(shape))).astype(np.float16)
    means = unit(tokens.mean(axis=1, dtype=np.float32))
    return np.where(np.isnan(means[:, :1, None]), np.float16(np.nan), tokens), means
