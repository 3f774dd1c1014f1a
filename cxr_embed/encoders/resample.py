"""TorchXRayVision's crop and resize, as two sparse matrix products.

`skimage.transform.resize` (order 1, anti-aliasing, mode `constant`) is linear and separable: a Gaussian of
sigma = (factor - 1) / 2, cut off at 4 sigma, then linear interpolation at pixel centres, both with zeros outside the
image. One matrix per axis holds all of it, and each row has only some twenty entries.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from scipy import sparse


def center_square(pixels: np.ndarray) -> np.ndarray:
    """`(H, W)` to the centred `(S, S)` view, S = the shorter side; odd rests are cut as TorchXRayVision cuts them."""
    height, width = pixels.shape
    side = min(height, width)
    top, left = height // 2 - side // 2, width // 2 - side // 2
    return pixels[top : top + side, left : left + side]


@lru_cache(maxsize=64)
def resize_matrix(source: int, target: int) -> sparse.csr_matrix:
    """The `(target, source)` float32 matrix that resizes one axis as `skimage.transform.resize` does."""
    factor = source / target
    sigma = max(0.0, (factor - 1) / 2)
    radius = int(4 * sigma + 0.5)
    taps = np.arange(-radius, radius + 1)
    kernel = np.exp(-0.5 * (taps / sigma) ** 2) if sigma > 0 else np.ones(1)
    kernel /= kernel.sum()
    centers = (np.arange(target) + 0.5) * factor - 0.5
    left = np.floor(centers).astype(int)
    share = centers - left
    rows, columns, values = [], [], []
    for neighbour, weight in ((left, 1 - share), (left + 1, share)):
        column = neighbour[:, None] + taps
        value = weight[:, None] * kernel
        inside = (column >= 0) & (column < source) & (value != 0)
        rows.append(np.broadcast_to(np.arange(target)[:, None], column.shape)[inside])
        columns.append(column[inside])
        values.append(value[inside])
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_matrix(entries, shape=(target, source), dtype=np.float32)


@lru_cache(maxsize=64)
def _zero_level(source: int, target: int) -> np.ndarray:
    """What an image of ones becomes: below 1 near the border, where the zeros outside shine in. `(target, target)`."""
    ones = np.asarray(resize_matrix(source, target).sum(axis=1)).ravel()
    return np.outer(ones, ones).astype(np.float32)


def crop_and_resize(pixels: np.ndarray, max_value: int, target: int) -> np.ndarray:
    """Grey pixels to TorchXRayVision's model input.

    Args:
        pixels: `(H, W)` uint8 or uint16.
        max_value: the value that becomes 1024; 0 becomes -1024.
        target: side of the result.

    Returns:
        `(target, target)` float32; equal to XRayCenterCrop and XRayResizer within 1e-3.
    """
    square = center_square(pixels)
    side = square.shape[0]
    matrix = resize_matrix(side, target)
    rows = matrix @ square.astype(np.float32)  # (target, side)
    resized = (matrix @ np.ascontiguousarray(rows.T)).T  # (target, target)
    result: np.ndarray = resized * np.float32(2048 / max_value) - 1024 * _zero_level(side, target)
    return np.ascontiguousarray(result, dtype=np.float32)
