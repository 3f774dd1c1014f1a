"""Grey pixels as image models take them: 8 bits, and TensorFlow's bilinear resize without TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

# Of red, green and blue, on the scale of 0 to 1.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_DEVIATION = (0.229, 0.224, 0.225)


def centre_of(grey: np.ndarray, shorter: int, side: int, resample: Literal["bilinear", "bicubic"]) -> np.ndarray:
    """torchvision's `Resize(shorter)` and `CenterCrop(side)` of a PIL picture.

    Args:
        grey: `(H, W)` uint8.
        shorter: what the shorter side becomes; at least `side`.
        side: of the result.
        resample: Pillow's filter.

    Returns:
        `(side, side)` uint8.
    """
    from PIL import Image

    height, width = grey.shape
    least = min(height, width)
    size = (shorter * width // least, shorter * height // least)
    left, top = (round((length - side) / 2) for length in size)
    resized = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling[resample.upper()]))
    centre: np.ndarray = resized[top : top + side, left : left + side]
    return centre


def normalised(grey: np.ndarray, mean: Sequence[float], deviation: Sequence[float]) -> np.ndarray:
    """`(H, W)` uint8 to `(3, H, W)` float32: 0..255 to 0..1, then less the mean, by the deviation, of each channel."""
    means, deviations = (np.array(values, np.float32)[:, None, None] for values in (mean, deviation))
    pixels: np.ndarray = (grey.astype(np.float32) / np.float32(255) - means) / deviations
    return pixels


@lru_cache(maxsize=16)
def _levels(max_value: int) -> np.ndarray:
    """The 8-bit level of every 16-bit value: half up, those above the largest as the largest."""
    levels: np.ndarray = np.minimum(np.floor(np.arange(1 << 16) * (255 / max_value) + 0.5), 255).astype(np.uint8)
    return levels


def as_uint8(pixels: np.ndarray, max_value: int) -> np.ndarray:
    """`(H, W)` values `0 .. max_value` to uint8 `0 .. 255`; 8-bit pixels stay as they are."""
    if max_value == 255 and pixels.dtype == np.uint8:
        return pixels
    eight: np.ndarray = _levels(max_value)[pixels]
    return eight


def pad_to_square(pixels: np.ndarray) -> np.ndarray:
    """`(H, W)` to `(L, L)`, L = the longer side: zeros on both sides, an odd one at the bottom or right."""
    height, width = pixels.shape
    side = max(height, width)
    square = np.zeros((side, side), pixels.dtype)
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = pixels
    return square


@lru_cache(maxsize=64)
def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one axis: the lower and upper neighbour of each target pixel's centre, and the upper one's share.

    In float32 step by step as `tf.image.resize` computes them: a rounded share decides which level a pixel gets.
    """
    scale = np.float32(source) / np.float32(target)
    centers = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floors = np.floor(centers)
    lower = np.maximum(floors, 0).astype(np.intp)
    upper = np.minimum(np.ceil(centers), source - 1).astype(np.intp)
    return lower, upper, centers - floors


def tf_resize(pixels: np.ndarray, side: int) -> np.ndarray:
    """`tf.image.resize(pixels, (side, side), "bilinear", antialias=False)`: half-pixel centres, two taps an axis.

    Args:
        pixels: `(H, W)`, any number type.
        side: of the result.

    Returns:
        `(side, side)` float32.
    """
    top, bottom, down = _taps(pixels.shape[0], side)
    left, right, across = _taps(pixels.shape[1], side)
    rows = []
    for neighbour in (top, bottom):
        line = pixels[neighbour]  # (side, W)
        start, stop = line[:, left].astype(np.float32), line[:, right].astype(np.float32)
        rows.append(start + (stop - start) * across)
    resized: np.ndarray = rows[0] + (rows[1] - rows[0]) * down[:, None]
    return resized
