"""The pixels that `mini` sees, in training and here."""

from __future__ import annotations

import numpy as np

from cxr_embed.encoders.resample import crop_and_resize
from cxr_embed.types import CxrImage

SIDE = 224
DEVIATION_FLOOR = 0.05  # of -1..1: a blank image stays blank instead of becoming amplified noise
RECIPE = (
    f"grey; 0..max to -1..1; centre crop to the shorter side; resize to {SIDE} (order 1, Gaussian anti-aliasing, "
    f"zeros outside); every image to mean 0 and deviation 1 (at least {DEVIATION_FLOOR} of -1..1 counts as one)"
)


def shrink(image: CxrImage, side: int = SIDE) -> np.ndarray:
    """Centre crop to the shorter side and resize: `(side, side)` float32, 0..max as -1..1."""
    return crop_and_resize(image.pixels, image.max_value, side) / np.float32(1024)


def standardise(pixels: np.ndarray) -> np.ndarray:
    """Every image of `(..., SIDE, SIDE)` float32 to mean 0 and deviation 1: exposure and window say nothing then."""
    mean = pixels.mean(axis=(-2, -1), keepdims=True)
    deviation = pixels.std(axis=(-2, -1), keepdims=True)
    return np.ascontiguousarray((pixels - mean) / np.maximum(deviation, DEVIATION_FLOOR), dtype=np.float32)
