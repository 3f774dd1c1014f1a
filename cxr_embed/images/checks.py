"""What every format shares: the picture that comes out, limits and checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cxr_embed.choices import Colour
from cxr_embed.errors import ImageError
from cxr_embed.types import DicomFields, ImageNote

# The largest detectors give about 20 megapixels; a header that claims more than five times that is not a radiograph.
MAX_PIXELS = 100_000_000
MIN_SIDE = 64
MAX_FILE_BYTES = 1 << 30

# A channel spread above this share of full scale counts as colour where more than COLOUR_PIXELS of the image has it:
# JPEG rounding stays far below the first, a small coloured marker below the second.
COLOUR_SPREAD = 8 / 255
COLOUR_PIXELS = 0.001

_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue
# How far a pixel may be from square before a note says so.
ASPECT_TOLERANCE = 0.01


@dataclass(frozen=True)
class Picture:
    """A decoded file: the part of a `CxrImage` that the file's format knows."""

    pixels: np.ndarray
    bits: int
    notes: tuple[ImageNote, ...] = ()
    fields: DicomFields = field(default_factory=DicomFields)
    identifying: bool = False


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


def machine_fault(error: BaseException) -> ImageError | None:
    """What a decoder raised, as a fault of this machine; None where the file is to blame.

    A file's own faults are remembered with its content, so that nothing of the machine may look like one.
    """
    if isinstance(error, MemoryError):
        return ImageError("out-of-memory", "not enough memory to decode the image")
    if isinstance(error, ImportError):
        return ImageError("no-decoder", f"a library that decodes it does not load here ({error.name or error})")
    if isinstance(error, OSError) and error.errno:  # decoders raise OSError without a number for damage
        return ImageError("unreadable", f"the image cannot be decoded here ({error.strerror})")
    return None


def aspect_notes(across: Any, down: Any) -> tuple[ImageNote, ...]:
    """Says so where pixels are not square: their sizes or densities in the two directions differ by over 1%.

    A value that is missing, not a number or not above 0 says nothing.
    """
    try:
        ratio = float(across) / float(down)
    except (TypeError, ValueError, ZeroDivisionError):
        return ()
    return ("aspect",) if ratio > 0 and max(ratio, 1 / ratio) > 1 + ASPECT_TOLERANCE else ()


def to_grey(pixels: np.ndarray, bits: int, colour: Colour) -> tuple[np.ndarray, tuple[ImageNote, ...]]:
    """`(H, W)`, `(H, W, 1..4)` to `(H, W)` of the same dtype; the last of 2 or 4 channels is opacity.

    Args:
        pixels: with channels in the order red, green, blue.
        bits: of a value.
        colour: whether a picture in colour is refused, or becomes grey by its luma (ITU-R BT.601) and is noted.

    Raises:
        ImageError: `colour` where the image is partly transparent, or the channels differ and that is not wanted.
    """
    if pixels.ndim == 2:
        return pixels, ()
    full = 2**bits - 1
    if pixels.shape[2] in (2, 4):
        if pixels[..., -1].min() < full:
            raise ImageError("colour", "the image has transparent pixels; export it as plain grey")
        pixels = pixels[..., :-1]
    if pixels.shape[2] == 1:
        return np.ascontiguousarray(pixels[..., 0]), ()
    high, low = pixels.max(axis=2), pixels.min(axis=2)
    if np.array_equal(high, low):
        return high, ()
    coloured = np.mean((high - low) > COLOUR_SPREAD * full)
    if coloured <= COLOUR_PIXELS:
        return np.rint(pixels.mean(axis=2, dtype=np.float32)).astype(pixels.dtype), ()
    if colour == "refuse":
        raise ImageError("colour", f"a colour image ({coloured:.1%} of its pixels); a radiograph is grey")
    return np.rint(pixels @ _LUMA).astype(pixels.dtype), ("colour",)
