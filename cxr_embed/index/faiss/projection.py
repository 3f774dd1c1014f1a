"""Vectors to positions in a plane: principal components at once, UMAP where its package is installed."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.faiss.layout import IndexRecord, writing
from cxr_embed.index.faiss.map_file import KeptMap, map_path, write_map
from cxr_embed.index.faiss.search import CaseIndex
from cxr_embed.io.times import utc_now
from cxr_embed.types import counted

FIT = 50_000  # cases that a map is learned from, at most
NEIGHBOURS = 15
_BLOCK = 1 << 16  # rows at a time
_PLACED = 5000  # by UMAP at a time, so that there is progress to show
_SHARED = ("umap.parametric_umap",)  # imports TensorFlow, which may not share a process with torch

Progress = Callable[[str, int, int], None]


def principal_components(vectors: np.ndarray, most: int = FIT, seed: int = 0) -> np.ndarray:
    """Positions on the two directions in which the vectors differ most.

    The directions are learned from at most `most` rows, drawn at random; then all rows are gone through once.

    Args:
        vectors: `(N, D)` float32, usually mapped.
        most: rows to learn from.
        seed: of the draw.

    Returns:
        `(N, 2)` float32; of each direction, the largest part points up, as scikit-learn has it.
    """
    count, width = vectors.shape
    places = np.zeros((count, 2), np.float32)
    if count < 2:
        return places
    sample = vectors[sampled(count, most, seed)].astype(np.float64)
    middle = sample.mean(axis=0)
    sample -= middle
    _, directions = np.linalg.eigh(sample.T @ sample)  # the least comes first
    axes = directions[:, : -3 if width > 1 else None : -1]
    axes *= np.where(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])] < 0, -1.0, 1.0)
    for start in range(0, count, _BLOCK):
        block = vectors[start : start + _BLOCK].astype(np.float64)
        places[start : start + len(block), : axes.shape[1]] = (block - middle) @ axes
    return places


def sampled(count: int, most: int, seed: int) -> np.ndarray:
    """`(M,)` rows in their order, all of them where there are not more than `most`."""
    if count <= most:
        return np.arange(count)
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def make_map(root: Path, *, seed: int = 0, fit: int = FIT, progress: Progress | None = None) -> KeptMap:
    """Learns a map by UMAP and keeps it beside the index.

    Args:
        root: the index's folder.
        seed: of the draw of cases, and of UMAP: the same one gives the same map.
        fit: cases that it is learned from, at most; the others are placed among these.
        progress: called with a word for the step, what is done and how much there is.

    Raises:
        CaseIndexError: where umap-learn is not installed, for too few cases, or an index that is damaged, was changed
            meanwhile or whose neighbourhood cannot be written.
    """
    index = CaseIndex(root)
    if len(index) <= NEIGHBOURS or fit <= NEIGHBOURS:
        few = "`fit`" if fit <= NEIGHBOURS else str(root)
        raise CaseIndexError(f"{few}: UMAP needs more than {counted(NEIGHBOURS, 'case')} to learn a map from")
    umap = _umap()
    key = index.record.vectors_digest
    positions, fitted = _positions(umap, index.vectors, seed, fit, progress)
    made = KeptMap(
        positions=positions,
        key=key,
        seed=seed,
        fitted=fitted,
        neighbours=NEIGHBOURS,
        created=utc_now(),
        made_by=f"umap-learn {umap.__version__}",
    )
    with writing(root):  # nobody takes a case out while its position is written
        if IndexRecord.read(root).vectors_digest != key:
            raise CaseIndexError(f"{root}: the index was changed while its map was made; make it again")
        write_map(map_path(root), made)
    return made


def _umap() -> ModuleType:
    hidden = [name for name in _SHARED if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]  # an ImportError, which the package expects
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import umap
    except ImportError:
        raise CaseIndexError("UMAP needs umap-learn: pip install 'cxr-embed[map]'") from None
    finally:
        for name in hidden:
            sys.modules.pop(name, None)
    found: ModuleType = umap
    return found


def _positions(
    umap: Any, vectors: np.ndarray, seed: int, fit: int, progress: Progress | None
) -> tuple[np.ndarray, int]:
    """`(N, 2)` float32, and the number of cases that UMAP learned from."""
    count = len(vectors)
    rows = sampled(count, fit, seed)
    if progress is not None:
        progress(f"UMAP learns from {counted(len(rows), 'case')}", 0, count)
    learner = umap.UMAP(n_neighbors=NEIGHBOURS, metric="cosine", random_state=seed, n_jobs=1)
    positions = np.zeros((count, 2), np.float32)
    with warnings.catch_warnings():  # that a seed takes one processor, and that some cases have no near ones
        warnings.simplefilter("ignore")
        positions[rows] = learner.fit_transform(np.ascontiguousarray(vectors[rows]))
        others = np.setdiff1d(np.arange(count), rows, assume_unique=True)
        for start in range(0, len(others), _PLACED):
            if progress is not None:
                progress("placing the others", len(rows) + start, count)
            block = others[start : start + _PLACED]
            positions[block] = learner.transform(np.ascontiguousarray(vectors[block]))
    lost = ~np.isfinite(positions).all(axis=1)  # UMAP leaves a case without neighbours out
    if lost.any():
        positions[lost] = positions[~lost].mean(axis=0) if not lost.all() else 0.0
    return positions, len(rows)
