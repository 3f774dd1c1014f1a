"""What becomes of a radiograph on its way into ELIXR-C: the published pixel recipes, the PNG file that the model's
signature takes, and the graph's own preparation, which stands between that file and the network."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from cxr_embed.errors import EncoderError

SIDE = 1280  # of the square picture that the network takes
RECIPES = {
    "notebook": (
        "notebook recipe: grey; 8 bit: minus the minimum, as 8-bit PNG; deeper: minus the minimum, "
        "maximum to 65535, as 16-bit PNG; the model resizes"
    ),
    "serving": (
        "serving recipe: grey; 8 bit: values kept, in a 16-bit PNG; deeper: minimum to 0 and maximum to 65535, "
        "as 16-bit PNG; the model resizes"
    ),
}
# Rows that are resized at a time: what lies between the steps stays in the processor's cache.
_ROWS = 16


def notebook_pixels(pixels: np.ndarray) -> np.ndarray:
    """The notebooks' recipe: `(H, W)` uint8 stays 8 bit and starts at 0; uint16 is stretched to 0..65535.

    Float32 arithmetic and truncation are the notebooks' own.
    """
    if pixels.dtype == np.uint8:
        result: np.ndarray = pixels - pixels.min()
        return result
    shifted = pixels.astype(np.float32)
    shifted -= shifted.min()
    highest = shifted.max()
    if highest > 0:
        shifted *= 65535 / highest
    return shifted.astype(np.uint16)


def serving_pixels(pixels: np.ndarray) -> np.ndarray:
    """The serving container's recipe: uint8 values are kept, in 16 bits; uint16 is stretched to 0..65535."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint16)
    low, high = int(pixels.min()), int(pixels.max())
    if low == high:
        return np.zeros_like(pixels)
    stretched: np.ndarray = np.interp(pixels, (low, high), (0, 65535)).astype(np.uint16)
    return stretched


def png(pixels: np.ndarray) -> np.ndarray:
    """`(H, W)` uint8 or uint16 to a grey PNG file, `(bytes,)` uint8.

    Uncompressed: it never leaves this machine's memory, and compressing takes longer than decoding a radiograph.
    """
    from imagecodecs import PNG, png_encode

    return np.frombuffer(png_encode(np.ascontiguousarray(pixels), level=0, filter=PNG.FILTER.NONE), np.uint8)


def png_pixels(file: np.ndarray) -> np.ndarray:
    """The inverse of `png`.

    Raises:
        EncoderError: where it is not a grey PNG file.
    """
    from imagecodecs import png_decode

    try:
        pixels: np.ndarray = png_decode(file.tobytes())
    except Exception as error:  # the decoder has no one word for it
        raise EncoderError(f"not a PNG file ({type(error).__name__})") from None
    if pixels.ndim != 2:
        raise EncoderError("a PNG file in colour; `preprocess` gives grey ones")
    return pixels


def decoded_at(pixels: np.ndarray, depth: int) -> np.ndarray:
    """What TensorFlow's `decode_png` makes of a PNG of these pixels: `(H, W)` uint8 (`depth` 8) or uint16 (16).

    8 bits of 16 are the upper ones; 16 of 8 are the value times 257.
    """
    if pixels.dtype.itemsize * 8 == depth:
        return pixels
    if depth == 8:
        return (pixels >> 8).astype(np.uint8)
    return pixels.astype(np.uint16) * np.uint16(257)


def prepared(pixels: np.ndarray, depth: int) -> np.ndarray:
    """The graph's own way from a PNG's pixels to the network: decode, resize, minimum to 0 and maximum to 1.

    Equal to the bit with TensorFlow's operations in float32; a flat picture becomes zeros, as there.

    Args:
        pixels: `(H, W)` uint8 or uint16, as the PNG holds them.
        depth: to which the graph decodes, 8 or 16 bits.

    Returns:
        `(1280, 1280)` float32 in 0..1.
    """
    picture = legacy_bilinear(decoded_at(pixels, depth), SIDE)
    low, high = picture.min(), picture.max()
    picture -= low
    if high > low:
        picture /= high - low
    return picture


def legacy_bilinear(pixels: np.ndarray, side: int) -> np.ndarray:
    """`tf.compat.v1.image.resize_bilinear` of one picture, `align_corners` and `half_pixel_centers` false.

    A target pixel i lies at i * source / side, between two source pixels an axis; across, then down.

    Args:
        pixels: `(H, W)` uint8 or uint16.
        side: of the result.

    Returns:
        `(side, side)` float32, the operation's own values.
    """
    top, bottom, down = _taps(pixels.shape[0], side)
    left, right, across = _taps(pixels.shape[1], side)
    result = np.empty((side, side), np.float32)
    for start in range(0, side, _ROWS):
        rows = slice(start, min(start + _ROWS, side))
        first = top[rows.start]
        source = pixels[first : bottom[rows.stop - 1] + 1]
        # mode="clip" saves the search for indices out of range; there are none.
        near = source.take(left, axis=1, mode="clip").astype(np.float32)
        line = source.take(right, axis=1, mode="clip").astype(np.float32)
        line -= near
        line *= across
        line += near
        above, below = line.take(top[rows] - first, axis=0), result[rows]
        line.take(bottom[rows] - first, axis=0, mode="clip", out=below)
        below -= above
        below *= down[rows, None]
        below += above
    return result


@lru_cache(maxsize=64)
def _taps(source: int, target: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of one axis: each target pixel's lower and upper neighbour, and the upper one's share, in float32 as there."""
    at = np.arange(target, dtype=np.float32) * (np.float32(source) / np.float32(target))
    lower = np.floor(at).astype(np.intp)
    return lower, np.minimum(lower + 1, source - 1), at - np.floor(at)
