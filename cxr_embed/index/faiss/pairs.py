"""Pairs of vectors that are one radiograph: how alike unrelated images are, the threshold, and what lies beyond it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cxr_embed.errors import CaseIndexError

EXACT_UP_TO = 100_000  # images of which all pairs are looked at
FALSE_PAIRS = 0.1  # pairs of different patients' images that an estimated threshold lets expect in the whole index
FEWEST = 200  # images that an estimate needs
QUANTILES = (0.5, 0.9, 0.99, 1.0)
_TAIL = 0.2  # part of the images, those with the nearest unrelated ones, that the estimate is made of
_SAMPLE = 5000  # images whose nearest unrelated ones are looked for
_NEAREST = 5  # of them
_FAR = 0.8  # quantile of nearest over fifth nearest that copies leave alone
_RARE = 0.01  # part of genuine images that are taken for copies
_SAME = 1e-6  # vectors nearer than this are one vector, up to rounding
_BLOCK = 2048  # rows of one product
_MOST_PAIRS = 5_000_000
_CELLS_LOOKED_AT = 32  # of an inverted file


@dataclass(frozen=True)
class Scale:
    """How alike different patients' images are in an index.

    Attributes:
        images: that were looked at.
        quantiles: similarity of an image to its nearest one of another patient, at `QUANTILES` of the images.
        threshold: the similarity beyond which `FALSE_PAIRS` pairs of different patients' images are expected in the
            whole index; None where there are too few images to tell.
    """

    images: int
    quantiles: tuple[float, ...]
    threshold: float | None


@dataclass(frozen=True)
class Pairs:
    """Pairs of rows, each once, in descending similarity.

    Attributes:
        first, second: `(M,)` rows, first < second.
        similarity: `(M,)` float32 cosine.
        same_file: `(M,)` bool, whether both are one file.
    """

    first: np.ndarray
    second: np.ndarray
    similarity: np.ndarray
    same_file: np.ndarray

    def __len__(self) -> int:
        return len(self.first)

    def where(self, kept: np.ndarray) -> Pairs:
        """Those of a mask `(M,)`."""
        return Pairs(self.first[kept], self.second[kept], self.similarity[kept], self.same_file[kept])


def scale_of(vectors: np.ndarray, patients: np.ndarray) -> Scale:
    """How alike different patients' images are, and the threshold that follows.

    The number of points within a distance `1 - cosine`, where that is small, grows like a power of it. Distances of
    images to their nearest unrelated one give the power by Hill's estimator (1975), and so the distance within which
    next to nobody is to be expected. A copy under another patient's id is not unrelated: images whose nearest is much
    nearer than their fifth nearest are left out of the estimate.

    Args:
        vectors: `(N, D)` float32 unit rows.
        patients: `(N,)` ids; a blank one is a patient of its own.
    """
    distances = _unrelated(vectors, _numbered(patients))
    if not len(distances):
        return Scale(0, (), None)
    quantiles = tuple(float(value) for value in np.quantile(1 - distances[:, 0], QUANTILES))
    genuine = np.sort(distances[distances[:, 0] > _near_for_unrelated(distances) * distances[:, -1], 0])
    tail = genuine[: int(_TAIL * len(genuine)) + 1]
    if len(distances) < FEWEST or len(genuine) < FEWEST / 2 or tail[0] == tail[-1]:
        return Scale(len(distances), quantiles, None)
    power = 1 / np.mean(np.log(tail[-1] / tail[:-1]))
    # A pair is the nearest one of two images.
    nearer = 2 * FALSE_PAIRS / (_TAIL * len(vectors))
    return Scale(len(distances), quantiles, float(1 - tail[-1] * nearer ** (1 / power)))


def _near_for_unrelated(distances: np.ndarray) -> float:
    """The part of the fifth nearest's distance below which a nearest one is unrelated in one of a hundred images.

    Raised to the power, the distances of the nearest, below the fifth, are those of four evenly spread numbers.

    Args:
        distances: `(S, 5)`.
    """
    others = distances.shape[1] - 1
    ratio = float(np.quantile(distances[:, 0] / distances[:, -1], _FAR))
    if ratio >= 1:
        return 1.0
    power = np.log(1 - (1 - _FAR) ** (1 / others)) / np.log(ratio)
    return float((1 - (1 - _RARE) ** (1 / others)) ** (1 / power))


def _unrelated(vectors: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """`(S, 5)` float64 distances of some images to their nearest ones of other patients, nearest first."""
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), _SAMPLE)).astype(np.int64))
    found = []
    for start in range(0, len(rows), _BLOCK):
        part = rows[start : start + _BLOCK]
        nearest = np.full((len(part), _NEAREST), -np.inf, np.float32)
        for other in range(0, len(vectors), _BLOCK):
            cosines = vectors[part] @ vectors[other : other + _BLOCK].T
            cosines[owners[part][:, None] == owners[None, other : other + _BLOCK]] = -np.inf
            # One file under two patients says nothing about unrelated ones.
            cosines[cosines > 1 - _SAME] = -np.inf
            both = np.concatenate([nearest, cosines], axis=1)
            nearest = np.partition(both, both.shape[1] - _NEAREST, axis=1)[:, -_NEAREST:]
        found.append(1 - np.sort(nearest.astype(np.float64), axis=1)[:, ::-1])
    distances = np.concatenate(found) if found else np.empty((0, _NEAREST))
    return np.asarray(distances[np.isfinite(distances).all(axis=1)])


def find_pairs(vectors: np.ndarray, contents: np.ndarray, threshold: float | None) -> Pairs:
    """All pairs of one file, and all pairs of a similarity of at least the threshold.

    Up to `EXACT_UP_TO` images every pair is looked at; beyond, FAISS looks at those that lie in near cells, and a pair
    at the edge of two far ones can be missed.

    Args:
        vectors: `(N, D)` float32 unit rows.
        contents: `(N,)` hashes of the files; blank where not known.
        threshold: None for pairs of one file alone.

    Raises:
        CaseIndexError: where there are too many pairs to be copies.
    """
    first, second = _same_file(contents)
    similarity, same = np.ones(len(first), np.float32), np.ones(len(first), bool)
    if threshold is not None and len(vectors) > 1:
        search = _by_products if len(vectors) <= EXACT_UP_TO else _by_cells
        near, other, cosines = search(vectors, np.float32(threshold))
        fresh = (contents[near] != contents[other]) | (contents[near] == "")
        first, second = np.append(first, near[fresh]), np.append(second, other[fresh])
        similarity = np.append(similarity, np.minimum(cosines[fresh], 1))
        same = np.append(same, np.zeros(int(fresh.sum()), bool))
    order = np.lexsort((second, first, ~same, -similarity))
    return Pairs(first[order], second[order], similarity[order], same[order])


def _numbered(patients: np.ndarray) -> np.ndarray:
    """`(N,)` numbers of patients, the blank ones each with their own."""
    _, numbers = np.unique(patients, return_inverse=True)
    blank = np.flatnonzero(patients == "")
    numbers[blank] = len(patients) + np.arange(len(blank))
    return numbers


def _same_file(contents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each further row of a file, paired with the file's first row."""
    _, start, number = np.unique(contents, return_index=True, return_inverse=True)
    second = np.flatnonzero((start[number] != np.arange(len(contents))) & (contents != ""))
    return start[number[second]], second


def _by_products(vectors: np.ndarray, threshold: np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    count = 0
    for start in range(0, len(vectors), _BLOCK):
        block = np.asarray(vectors[start : start + _BLOCK])
        for other in range(start, len(vectors), _BLOCK):
            cosines = block @ vectors[other : other + _BLOCK].T
            alike = cosines >= threshold
            if not alike.any():
                continue
            near, far = np.nonzero(alike)
            once = near + start < far + other
            near, far = near[once], far[once]
            found.append((near + start, far + other, cosines[near, far]))
            count += len(near)
            _check(count, threshold)
    return _joined(found)


def _by_cells(vectors: np.ndarray, threshold: np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    import faiss

    count, width = vectors.shape
    cells = int(4 * np.sqrt(count))
    index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
    index.cp.min_points_per_centroid = 1
    index.train(np.ascontiguousarray(vectors[:: max(1, count // (64 * cells))]))
    for start in range(0, count, _BLOCK):
        index.add(np.ascontiguousarray(vectors[start : start + _BLOCK]))
    index.nprobe = min(_CELLS_LOOKED_AT, cells)
    found, total = [], 0
    for start in range(0, count, _BLOCK):
        # FAISS takes what is above its radius, not what is at it.
        radius = float(np.nextafter(threshold, np.float32(-2)))
        limits, cosines, far = index.range_search(np.ascontiguousarray(vectors[start : start + _BLOCK]), radius)
        near = np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64))) + start
        once = near < far
        found.append((near[once], far[once], cosines[once]))
        total += int(once.sum())
        _check(total, threshold)
    return _joined(found)


def _joined(found: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    nothing = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.float32))
    near, far, cosines = (np.concatenate(part) for part in zip(nothing, *found, strict=True))
    return near, far, cosines


def _check(count: int, threshold: np.float32) -> None:
    if count > _MOST_PAIRS:
        raise CaseIndexError(
            f"more than {_MOST_PAIRS:,} pairs are at least {threshold:.4g} alike, which copies are not; raise "
            "`threshold`"
        )
