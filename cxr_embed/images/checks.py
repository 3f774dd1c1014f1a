"""Limits and checks that every format shares."""

from __future__ import annotations

import numpy as np

from cxr_embed.errors import ImageError

# The largest detectors give about 20 megapixels; a header that claims more than five times that is no radiograph.
MAX_PIXELS = 100_000_000
MIN_SIDE = 64
MAX_FILE_BYTES = 1 << 30

# A channel spread above this share of full scale counts as colour where more than COLOUR_PIXELS of the image has it:
# JPEG rounding stays far below the first, a small coloured marker below the second.
COLOUR_SPREAD = 8 / 255
COLOUR_PIXELS = 0.001


def check_size(height: int, width: int) -> None:
    """Refuses images that are too large to decode safely or too small to be a radiograph.

    Raises:
        ImageError: `too-large` above 100 megapixels, `too-small` under 64 pixels on a side.
    """
    if height * width > MAX_PIXELS:
        raise ImageError(
            "too-large", f"{width} x {height} pixels; at most {MAX_PIXELS:,} are decoded (a decompression bomb?)"
        )
    if min(height, width) < MIN_SIDE:
        raise ImageError("too-small", f"{width} x {height} pixels; a radiograph has at least {MIN_SIDE} on each side")


def to_grey(pixels: np.ndarray, bits: int) -> np.ndarray:
    """`(H, W)`, `(H, W, 1..4)` to `(H, W)` of the same dtype; the last of 2 or 4 channels is opacity.

    Raises:
        ImageError: `colour` where the channels differ or the image is partly transparent.
    """
    if pixels.ndim == 2:
        return pixels
    channels = pixels.shape[2]
    full = 2**bits - 1
    if channels in (2, 4):
        if pixels[..., -1].min() < full:
            raise ImageError("colour", "the image has transparent pixels; export it as plain grey")
        pixels = pixels[..., :-1]
    if pixels.shape[2] == 1:
        return np.ascontiguousarray(pixels[..., 0])
    high, low = pixels.max(axis=2), pixels.min(axis=2)
    if np.array_equal(high, low):
        whole: np.ndarray = high
        return whole
    coloured = np.mean((high - low) > COLOUR_SPREAD * full)
    if coloured > COLOUR_PIXELS:
        raise ImageError("colour", f"a colour image ({coloured:.1%} of its pixels); a radiograph is grey")
    grey: np.ndarray = np.rint(pixels.mean(axis=2, dtype=np.float32)).astype(pixels.dtype)
    return grey
