"""Codes of tokens in FAISS: built, and how many candidates it takes to find what brute force finds."""

from __future__ import annotations

import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.faiss import kinds
from cxr_embed.index.faiss.layout import CANDIDATES, PROMPTS, IndexRecord, Kind, MeasuredRecall
from cxr_embed.index.faiss.tokens import TokenVectors, exact_below, nearest_means
from cxr_embed.index.faiss.vectors import unit
from cxr_embed.index.maxsim import MaxSim
from cxr_embed.store import Header
from cxr_embed.store.prompts import load_prompts
from cxr_embed.types import counted

KINDS = ("flat", "tokens-pq")
_TRAINING = 32_768  # tokens that the codes are learnt from
_ITERATIONS = 10  # of k-means over them
_BLOCK_VALUES = 1 << 23
_TEXTS, _IMAGES = 64, 16  # cases that recall is measured with
_WANTED = kinds.NEIGHBOURS + 6  # candidates of a search for 10, before they are multiplied
_LADDER = (4, 8, 16, 32, 64, 128)  # candidates for each neighbour that are tried
_TIMED = 25


def choose(count: int, shape: tuple[int, ...], name: str = "auto", memory: int = kinds.MEMORY) -> Kind:
    """Few images are all compared, of many every token has a code of half a byte for two numbers.

    Raises:
        CaseIndexError: for an unknown name, or where the codes do not fit the memory.
    """
    if name not in ("auto", *KINDS):
        raise CaseIndexError(f"`kind` of an index of tokens is auto, {', '.join(KINDS)}, not {name!r}")
    if name == "flat" or count <= exact_below(shape[0], shape[1]):
        return Kind("flat")
    if nbytes(count, shape) > memory:
        raise CaseIndexError(
            f"{counted(count, 'case')} of {shape[0]} tokens need {nbytes(count, shape) / 1e6:,.0f} MB of memory; "
            "raise `memory`, or take `pool='mean'`"
        )
    return Kind("tokens-pq", f"IVF1,PQ{_parts(shape[1])}x4fs", 1)


def nbytes(count: int, shape: tuple[int, ...]) -> int:
    """About what the codes take in memory; each token has a number of 8 bytes besides."""
    return count * shape[0] * (math.ceil(_parts(shape[1]) / 2) + 8)


def _parts(width: int) -> int:
    return next(part for part in range(max(1, width // 2), 0, -1) if width % part == 0)


def build(tokens: np.ndarray, kind: Kind, progress: kinds.Progress | None = None) -> Any:
    """A FAISS index of all tokens of `(N, T, D)`: token t of image n is number n * T + t."""
    faiss = kinds.library()
    index = faiss.index_factory(tokens.shape[2], kind.factory, faiss.METRIC_INNER_PRODUCT)
    flat = tokens.reshape(-1, tokens.shape[2])
    rows = np.random.default_rng(0).choice(len(flat), min(len(flat), _TRAINING), replace=False)
    index.cp.min_points_per_centroid = index.pq.cp.min_points_per_centroid = 1
    index.pq.cp.niter = _ITERATIONS
    if progress is not None:
        progress("training", 0, 1)
    index.train(flat[np.sort(rows)].astype(np.float32))
    add(index, tokens, progress)
    return index


def add(index: Any, tokens: np.ndarray, progress: kinds.Progress | None = None) -> None:
    """Adds the tokens of `(N, T, D)` behind those that the index has."""
    step = max(1, _BLOCK_VALUES // (tokens.shape[1] * tokens.shape[2]))
    for start in range(0, len(tokens), step):
        block = tokens[start : start + step]
        index.add(block.reshape(-1, tokens.shape[2]).astype(np.float32))
        if progress is not None:
            progress("indexing", min(start + step, len(tokens)), len(tokens))


def tune(
    index: Any, tokens: np.ndarray, means: np.ndarray, kind: Kind, texts: np.ndarray | None = None
) -> tuple[Kind, MeasuredRecall]:
    """The fewest candidates that hold enough of the true neighbours, against brute force over every token.

    Queries of one vector are tokens of cases less what all tokens share, since a text lies as far from them, and some
    of the texts, where there are any; those of images are cases.

    Args:
        index: of `build`.
        tokens: `(N, T, D)` float16.
        means: `(N, D)` float32.
        kind: of the index.
        texts: `(P, D)` vectors of prompts, of any length.

    Returns:
        The kind with `fetch` and `effort`, and the recall with them: the lower one of texts and of images.
    """
    rng = np.random.default_rng(1)
    count, length, width = tokens.shape
    rows = np.sort(rng.choice(count, min(_TEXTS, count), replace=False))
    own = tokens[rows, rng.integers(0, length, len(rows))].astype(np.float32)
    words = unit(own - _mean_token(tokens, rng))
    owners = rows
    if texts is not None and len(texts):
        some = unit(rng.choice(texts, min(_TEXTS, len(texts)), replace=False))
        words = np.concatenate([words, some])
        owners = np.concatenate([rows, np.full(len(some), -1)])
    words, owners = words[~np.isnan(words[:, 0])], owners[~np.isnan(words[:, 0])]
    pictures = rows[:: max(1, len(rows) // _IMAGES)][:_IMAGES]
    queries = unit(tokens[pictures])

    similar = TokenVectors(tokens, means, kind)
    similar.faiss = index
    most = min(count, _WANTED * _LADDER[-1])
    fetch, text_recall = _least(
        MaxSim((length, width), len(words))(tokens, words[:, None]),
        [similar.of_text(query, most) for query in words],
        owners,
    )
    effort, image_recall = _least(
        MaxSim((length, width), len(queries), length)(tokens, queries),
        [nearest_means(means, query, most) for query in queries],
        pictures,
    )
    if image_recall < kinds.RECALL:
        effort, image_recall = 0, 1.0
    recall = round(min(text_recall, image_recall), 4)
    return replace(kind, fetch=fetch, effort=effort), MeasuredRecall(recall, len(words) + len(queries))


def _mean_token(tokens: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    some = min(1024, max(16, _BLOCK_VALUES // (tokens.shape[1] * tokens.shape[2])))
    rows = np.sort(rng.choice(len(tokens), min(some, len(tokens)), replace=False))
    return np.asarray(tokens[rows].mean(axis=(0, 1), dtype=np.float32))


def _least(similarity: np.ndarray, candidates: list[np.ndarray], owners: np.ndarray) -> tuple[int, float]:
    """Candidates for each neighbour, and the recall with so many.

    Args:
        similarity: `(N, Q)`, exact.
        candidates: rows of each query, best first.
        owners: `(Q,)`, a query's own row, which is not a neighbour; -1 for none.
    """
    fetch, recall = 1, 0.0
    near = min(kinds.NEIGHBOURS, len(similarity) - 1)
    least = np.empty(len(owners))
    for number, owner in enumerate(owners.tolist()):
        if owner >= 0:
            similarity[owner, number] = -np.inf
        least[number] = np.partition(similarity[:, number], -near)[-near]
    for fetch in _LADDER:
        # Another one as similar as the last true neighbour is as good.
        hits = [
            min(near, int((similarity[rows[: _WANTED * fetch], number] >= least[number] - 1e-6).sum()))
            for number, rows in enumerate(candidates)
        ]
        recall = float(np.mean(hits) / near)
        if recall >= kinds.RECALL:
            break
    return fetch, recall


def timed(similar: TokenVectors) -> float:
    """Milliseconds of a search with one vector, the middle one of a few."""
    taken = []
    for row in np.linspace(0, similar.count - 1, _TIMED).astype(int):
        query = unit(similar.tokens[row, 0])
        start = time.perf_counter()
        rows = None
        if similar.count > similar.exact_below:
            rows = similar.candidates(query, _WANTED * similar.kind.fetch, None)
        similar.exact(query, rows)
        taken.append(time.perf_counter() - start)
    return round(float(np.median(taken)) * 1000, 4)


def write(
    folder: Path,
    record: IndexRecord,
    kind: Kind,
    tokens: np.ndarray,
    means: np.ndarray,
    progress: kinds.Progress | None = None,
    index: Any = None,
) -> tuple[IndexRecord, tuple[str, ...]]:
    """Builds (or takes) the FAISS index of a generation, tunes, measures and writes it.

    Args:
        folder: the generation, where the prompts already lie.
        record: of it.
        kind: of `choose`.
        tokens: `(N, T, D)` float16.
        means: `(N, D)` float32.
        progress: as for `build_index`.
        index: to be taken; None builds one.

    Returns:
        The record with kind and figures, and notes.
    """
    if kind.name == "flat" or len(tokens) <= exact_below(*tokens.shape[1:]):
        kind = Kind("flat")
        measured = MeasuredRecall(1.0, 0, timed(TokenVectors(tokens, means, kind)))
        return replace(record, kind=kind, measured=measured), ()
    index = index if index is not None else build(tokens, kind, progress)
    if progress is not None:
        progress("measuring recall", 0, 1)
    kind, measured = tune(index, tokens, means, kind, _texts(folder, record))
    kinds.write(folder / CANDIDATES, index)
    similar = TokenVectors(tokens, means, kind, folder / CANDIDATES)
    similar.faiss = index  # what was just written
    measured = replace(measured, milliseconds=timed(similar))
    notes = []
    if not kind.effort:
        notes.append("the means of these tokens show too little: a search with an image compares every case")
    if measured.recall is not None and measured.recall < kinds.RECALL:
        notes.append(f"recall {measured.recall:.3f} is below {kinds.RECALL}: `kind='flat'` finds every neighbour")
    return replace(record, kind=kind, measured=measured), tuple(notes)


def _texts(folder: Path, record: IndexRecord) -> np.ndarray | None:
    """Vectors of the store's prompts, where words can be compared with these tokens."""
    spec = record.spec
    if spec.text is None or spec.text.output != record.output or not (folder / PROMPTS).exists():
        return None
    return load_prompts(folder, Header(spec, "float16", "float32", "", "")).vectors
