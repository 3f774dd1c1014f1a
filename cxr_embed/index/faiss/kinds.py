"""FAISS: which structure proposes candidates, how it is built, and how well it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.faiss.layout import Kind, Measured
from cxr_embed.io.digests import file_record
from cxr_embed.types import counted

KINDS = ("flat", "hnsw", "ivf-fp16", "ivf-sq8", "ivf-pq")
MEMORY = 4_000_000_000  # bytes that the structure may take unless chosen otherwise
RECALL = 0.99  # aimed at with the sample, so that 0.98 holds beyond it
NEIGHBOURS = 10
# Up to so many values all cases are compared: a few milliseconds, and nothing to build or to keep.
_FLAT_VALUES = 1 << 23
_HNSW_CASES = 200_000  # beyond, a graph takes longer to build than lists, and more memory
_LINKS = 32  # of a node in HNSW
_TRAINING = 40  # cases for each list: FAISS itself asks for 39
_SAMPLE = 128  # queries that recall is measured with: 1,280 neighbours
_BLOCK = 1 << 16
_SAME = 1 - 1e-5  # a cosine that means one and the same vector, in half precision too
_CHECKED_BYTES = 1 << 27  # up to so many, a file's digest is compared before FAISS sees it: 0.15 s

Progress = Callable[[str, int, int], None]


def library() -> Any:
    """FAISS, loaded when it is needed; its stubs know half of it, so it is not typed."""
    import faiss

    return faiss


def choose(count: int, width: int, name: str = "auto", memory: int = MEMORY) -> Kind:
    """The structure for so many cases: the first that fits the memory, of those that suit the size.

    Args:
        count: cases.
        width: numbers of a vector.
        name: `auto`, or one of `KINDS` to have that one.
        memory: bytes that the structure may take; vectors themselves stay in a mapped file.

    Raises:
        CaseIndexError: for an unknown name, or where nothing fits.
    """
    if name not in ("auto", *KINDS):
        raise CaseIndexError(f"`kind` is auto, {', '.join(KINDS)}, not {name!r}")
    if name == "auto":
        if count * width <= _FLAT_VALUES:
            name = "flat"
        else:
            suited = KINDS[1:] if count <= _HNSW_CASES else KINDS[2:]
            fitting = [kind for kind in suited if nbytes(kind, count, width) <= memory]
            if not fitting:
                least = min(nbytes(kind, count, width) for kind in suited)
                raise CaseIndexError(
                    f"{counted(count, 'case')} of {width} need {least / 1e6:,.0f} MB of memory at least; "
                    "raise `memory`, or take `kind='flat'`"
                )
            name = fitting[0]
    if name == "flat" or count == 0:
        return Kind("flat")
    if name == "hnsw":
        return Kind(name, f"HNSW{_LINKS},SQfp16", 32)
    coder = {"ivf-fp16": "SQfp16", "ivf-sq8": "SQ8", "ivf-pq": f"PQ{_parts(width)}x8"}[name]
    return Kind(name, f"IVF{lists(count)},{coder}", 1, 8 if name == "ivf-pq" else 1)


def lists(count: int) -> int:
    """Lists of an IVF: the power of two next to four times the root of the number of cases, if all can be learned."""
    return int(2 ** max(0, math.floor(math.log2(max(1, min(4 * math.sqrt(2 * count), count / _TRAINING))))))


def nbytes(name: str, count: int, width: int) -> int:
    """About what a structure takes in memory."""
    if name == "flat":
        return 0
    if name == "hnsw":
        return int(count * (2 * width + 2 * 4 * _LINKS * 1.1))
    code = {"ivf-fp16": 2 * width, "ivf-sq8": width, "ivf-pq": _parts(width)}[name]
    return count * (code + 8) + lists(count) * width * 4


def _parts(width: int) -> int:
    """Bytes of a product-quantised vector: the largest divisor of the width up to a quarter of it."""
    return max(part for part in range(1, max(1, width // 4) + 1) if width % part == 0)


def build(vectors: np.ndarray, kind: Kind, progress: Progress | None = None) -> Any:
    """A FAISS index of `(N, D)` unit vectors: trained on a sample, filled in blocks."""
    faiss = library()
    index = faiss.index_factory(vectors.shape[1], kind.factory, faiss.METRIC_INNER_PRODUCT)
    if not index.is_trained:
        rng = np.random.default_rng(0)
        wanted = max(_TRAINING * getattr(index, "nlist", 0), 256 * 64)
        rows = rng.choice(len(vectors), min(len(vectors), wanted), replace=False)
        if kind.name == "ivf-pq" and len(rows) < 256:
            raise CaseIndexError(f"`kind` ivf-pq needs 256 cases to learn its code from, there are {len(rows)}")
        if progress is not None:
            progress("training", 0, 1)
        _thrifty(index)
        index.train(vectors[np.sort(rows)])
    add(index, vectors, progress)
    return index


def add(index: Any, vectors: np.ndarray, progress: Progress | None = None) -> None:
    """Adds `(N, D)` unit vectors behind those that the index has."""
    for start in range(0, len(vectors), _BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + _BLOCK]))
        if progress is not None:
            progress("indexing", min(start + _BLOCK, len(vectors)), len(vectors))


def _thrifty(index: Any) -> None:
    """Limits what codes are learned from: FAISS's own 65,536 cases and 25 rounds take minutes and gain nothing here."""
    if hasattr(index, "pq"):
        index.pq.cp.max_points_per_centroid = _TRAINING
        index.pq.cp.niter = 8
        index.pq.cp.min_points_per_centroid = 1  # it warns on stderr of fewer than 39 a code, and a list
    if hasattr(index, "cp"):
        index.cp.min_points_per_centroid = 1


def write(path: Path, index: Any) -> None:
    """Writes a FAISS index.

    Raises:
        OSError: where it cannot be written.
    """
    faiss = library()
    try:
        faiss.write_index(index, str(path))
    except RuntimeError as error:
        raise OSError(None, f"FAISS could not write {path.name}: {str(error).splitlines()[-1][:200]}") from None


def load(path: Path, kind: Kind, count: int, width: int, sha256: str) -> Any:
    """Maps a FAISS index.

    Raises:
        CaseIndexError: where it is damaged, or not what the record says.
    """
    faiss = library()
    try:
        # FAISS trusts its files as Arrow does: a wrong link in a graph would end the process. Large lists, which can at
        # worst propose wrong rows, are checked by `index verify` alone.
        unchecked = kind.name.startswith("ivf") and path.stat().st_size > _CHECKED_BYTES
        sound = unchecked or file_record(path)["sha256"] == sha256
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC) if sound else None
    except FileNotFoundError:
        raise CaseIndexError(f"{path}: gone; the index was written anew since it was opened: open it again") from None
    except (RuntimeError, OSError):
        index = None
    if index is None or (index.ntotal, index.d) != (count, width) or index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise CaseIndexError(f"{path}: damaged, or of other vectors; build the index again")
    set_effort(index, kind)
    return index


def read(path: Path, sha256: str) -> Any:
    """A FAISS index in memory, to be changed.

    Raises:
        CaseIndexError: where it is damaged or cannot be read.
    """
    try:
        if file_record(path)["sha256"] != sha256:
            raise RuntimeError
        return library().read_index(str(path))
    except (RuntimeError, OSError):
        raise CaseIndexError(f"{path}: damaged; build the index again") from None


def without(index: Any, kept: np.ndarray, removed: np.ndarray) -> bool:
    """Takes rows out of an IVF and numbers the others anew; False where it must be built anew instead.

    Args:
        index: in memory; changed.
        kept: `(N,)` bool over its rows.
        removed: `(R, D)` the vectors that go. A list that was learned from one case alone is that case's vector: then
            the lists are learned again.
    """
    faiss = library()
    if not hasattr(index, "invlists"):
        return False  # a graph: whoever was its neighbour leads through it
    centroids = index.quantizer.reconstruct_n(0, index.nlist)
    directions = centroids / np.maximum(np.linalg.norm(centroids, axis=1, keepdims=True), 1e-12)
    for start in range(0, len(removed), _BLOCK >> 4):
        if (removed[start : start + (_BLOCK >> 4)] @ directions.T).max() > _SAME:
            return False
    index.remove_ids(faiss.IDSelectorBitmap(np.packbits(~kept, bitorder="little")))
    number = np.cumsum(kept) - 1
    for part in range(index.nlist):
        size = index.invlists.list_size(part)
        if size:
            ids = faiss.rev_swig_ptr(index.invlists.get_ids(part), size)
            ids[:] = number[ids]
    return True


def set_effort(index: Any, kind: Kind) -> None:
    """How far searches without a filter look."""
    if kind.name == "hnsw":
        index.hnsw.efSearch = kind.effort
    else:
        index.nprobe = kind.effort


def candidates(index: Any, kind: Kind, query: np.ndarray, count: int, selector: np.ndarray | None) -> np.ndarray:
    """`Vectors.candidates`, of a FAISS index."""
    if selector is None:
        rows = index.search(query[None], count)[1][0]
        return np.asarray(rows[rows >= 0])
    faiss = library()
    chosen = faiss.IDSelectorBitmap(np.packbits(selector, bitorder="little"))
    # As many passing cases are looked at as without a filter.
    effort = math.ceil(kind.effort * len(selector) / max(1, int(np.count_nonzero(selector))))
    if kind.name == "hnsw":
        parameters = faiss.SearchParametersHNSW(sel=chosen, efSearch=max(effort, count))
    else:
        parameters = faiss.SearchParametersIVF(sel=chosen, nprobe=min(effort, index.nlist))
    rows = index.search(query[None], count, params=parameters)[1][0]
    return np.asarray(rows[rows >= 0])


def tune(index: Any, vectors: np.ndarray, kind: Kind) -> tuple[Kind, Measured]:
    """The least effort that finds enough of the true neighbours of a sample of cases.

    Returns:
        The kind with that effort (the largest one tried, where none is enough), and the recall measured with it.
    """
    faiss = library()
    sample = np.sort(np.random.default_rng(1).choice(len(vectors), min(_SAMPLE, len(vectors)), replace=False))
    queries, near = vectors[sample], min(NEIGHBOURS + 1, len(vectors))
    true, _ = faiss.knn(queries, vectors, near, metric=faiss.METRIC_INNER_PRODUCT)
    # The query is its own nearest; another one as similar as the last true neighbour is as good.
    least = true[:, -1] - 1e-6
    recall = 0.0
    for tried in _efforts(kind, getattr(index, "nlist", 1 << 12)):
        kind = tried
        set_effort(index, kind)
        wanted = min(len(vectors), near * kind.fetch + 6)
        rows = index.search(queries, wanted)[1]
        similarity = np.where(rows >= 0, np.vecdot(vectors[np.maximum(rows, 0)], queries[:, None]), -np.inf)
        hits = (similarity >= least[:, None]).sum(axis=1).clip(max=near)
        recall = float(hits.mean() / near)
        # The query itself is found for nothing.
        recall = (recall * near - 1) / (near - 1) if near > 1 else recall
        if recall >= RECALL:
            break
    return kind, Measured(round(recall, 4), len(sample))


def _efforts(kind: Kind, most: int) -> Iterator[Kind]:
    for fetch in (kind.fetch, 4 * kind.fetch):
        effort = kind.effort
        while True:
            yield replace(kind, effort=effort, fetch=fetch)
            if effort >= most:
                break
            effort = min(most, max(effort + 1, effort * 3 // 2))
