"""Figures that say whether a heat map is where the finding is. One picture's arrays in, numbers out.

Maps are `(H, W)` float32 of one value a pixel, masks `(H, W)` bool with at least one pixel that is marked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

_STEPS = 1 << 16  # of values that the area by pixel distinguishes
_GREYS = 255


def normalised(values: np.ndarray) -> np.ndarray:
    """`(H, W)` float32 from 0 for the lowest value to 1 for the highest; 0 everywhere where all are the same."""
    low = values - values.min()
    high = low.max()
    return np.asarray(low / high if high > 0 else low)


def pointing_hit(values: np.ndarray, mask: np.ndarray) -> float:
    """1 where the highest value is inside the mask, else 0: the pointing game (Zhang et al., 2016) without tolerance.

    Of several highest values the first counts, by rows.
    """
    return float(mask.ravel()[values.argmax()])


def iou(marked: np.ndarray, mask: np.ndarray) -> float:
    """Intersection over union of what a map marks, `(H, W)` bool, and the mask."""
    both = int(np.count_nonzero(marked & mask))
    return both / (int(np.count_nonzero(marked)) + int(np.count_nonzero(mask)) - both)


def ious_above(values: np.ndarray, mask: np.ndarray, thresholds: Sequence[float]) -> np.ndarray:
    """`(T,)` float64: intersection over union of what lies above each threshold and the mask.

    Args:
        values: of `normalised`.
        mask: the mask.
        thresholds: T parts of the highest value.
    """
    inside, size = values[mask], int(np.count_nonzero(mask))
    found = []
    for threshold in thresholds:
        both = int(np.count_nonzero(inside > threshold))
        found.append(both / (int(np.count_nonzero(values > threshold)) + size - both))
    return np.array(found)


def energy_inside(values: np.ndarray, mask: np.ndarray) -> float:
    """The part of a map's sum that is inside the mask (Wang et al., 2020, Score-CAM); 0 for a map of zeros.

    Args:
        values: of `normalised`.
        mask: the mask.
    """
    total = float(values.sum(dtype=np.float64))
    return float(values[mask].sum(dtype=np.float64)) / total if total > 0 else 0.0


def pixel_auroc(values: np.ndarray, mask: np.ndarray) -> float:
    """The chance that a pixel inside the mask has a higher value than one outside; ties count half.

    Values are rounded to 65,536 steps. Not a number where the mask is the whole picture.

    Args:
        values: of `normalised`.
        mask: the mask.
    """
    levels = np.rint(values * np.float32(_STEPS - 1)).astype(np.uint16)
    every = np.bincount(levels.ravel(), minlength=_STEPS).astype(np.float64)
    inside = np.bincount(levels[mask], minlength=_STEPS).astype(np.float64)
    outside = every - inside
    pairs = inside.sum() * outside.sum()
    below = np.cumsum(outside) - outside
    return float((inside * (below + outside / 2)).sum() / pairs) if pairs else float("nan")


def otsu_mask(values: np.ndarray) -> np.ndarray:
    """What a map marks by Otsu's threshold (1979), as CheXlocalize's evaluation has it.

    Values become 256 greys. What is above the threshold is marked, but for single pixels; holes are filled.

    Args:
        values: of `normalised`.

    Returns:
        `(H, W)` bool.
    """
    greys = (np.float32(_GREYS) * values).astype(np.uint8)
    above = greys > _otsu(np.bincount(greys.ravel(), minlength=_GREYS + 1))
    around = np.ones((3, 3), bool)
    pieces, count = ndimage.label(above, around)
    if count:
        above &= np.append(False, np.bincount(pieces.ravel())[1:] > 1)[pieces]
    return np.asarray(ndimage.binary_fill_holes(above))


def _otsu(counts: np.ndarray) -> int:
    """The grey up to which pixels are the background: the first that sets the classes' means furthest apart.

    Args:
        counts: `(256,)` pixels of each grey.
    """
    share = counts / counts.sum()
    grey = np.arange(len(counts))
    weight, first = np.cumsum(share), np.cumsum(share * grey)
    whole = first[-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        spread = (whole * weight - first) ** 2 / (weight * (1 - weight))
    # A class without a pixel is none, whatever rounding says.
    inner = (np.cumsum(counts) > 0) & (np.cumsum(counts) < counts.sum())
    return int(np.argmax(np.where(inner, spread, -1))) if inner.any() else _GREYS
