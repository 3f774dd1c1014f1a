"""Does a picture look like a frontal chest radiograph? A small check of its own, whatever the encoder.

A thumbnail of 32 x 32 means goes through a network of one hidden layer, in NumPy. `examples/train_mini/train_check.py`
trained it on chest radiographs and phantoms against what a program drew: radiographs turned, inverted, cut up or
enlarged, slices, shapes, noise, gradients, lines of text. MODEL_CARD.md of `mini` has its errors.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from cxr_embed.errors import CxrEmbedError
from cxr_embed.images.prepare import LITTLE_USED, used_share

SIDE = 32
WEIGHTS = Path(__file__).with_name("likeness.safetensors")
_SAMPLES = 4  # of each block and axis: means of all pixels would look the same, and cost more than decoding
_DEVIATION_FLOOR = 0.025  # of 0..1: a blank picture stays blank


def thumbnail(pixels: np.ndarray, max_value: int) -> np.ndarray:
    """The centred square as means of 32 x 32 blocks, of mean 0 and deviation 1.

    Args:
        pixels: `(H, W)`, at least 32 pixels a side.
        max_value: the largest value that a pixel can have.

    Returns:
        `(1024,)` float32.
    """
    height, width = pixels.shape
    side = min(height, width)
    step = max(1, side // (SIDE * _SAMPLES))
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side : step, left : left + side : step].astype(np.float32) / max_value
    edges = np.arange(SIDE) * len(square) // SIDE
    counts = np.diff(np.append(edges, len(square))).astype(np.float32)
    sums = np.add.reduceat(np.add.reduceat(square, edges, axis=0), edges, axis=1)  # (32, 32)
    means = sums / np.outer(counts, counts)
    small: np.ndarray = (means - means.mean()) / max(float(means.std()), _DEVIATION_FLOOR)
    return small.ravel().astype(np.float32)


def looks_like_chest(pixels: np.ndarray, max_value: int) -> bool:
    """Whether the picture looks like an upright frontal chest radiograph, of more than nearly one shade.

    The network sees contrast without its scale, encoders see the scale: so it is not run on a picture that uses
    under a tenth of its range.

    Args:
        pixels: `(H, W)`, brighter = denser.
        max_value: the largest value that a pixel can have.
    """
    if min(pixels.shape) < SIDE or used_share(pixels, max_value) < LITTLE_USED:
        return False
    w = check_weights()
    hidden = np.maximum(w["hidden.weight"] @ thumbnail(pixels, max_value) + w["hidden.bias"], 0)
    return bool(w["out.weight"] @ hidden + w["out.bias"][0] > w["threshold"][0])


@lru_cache(maxsize=1)
def check_weights() -> dict[str, np.ndarray]:
    """The network's arrays, which come with the package; read once.

    Raises:
        CxrEmbedError: where the installation lacks them.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return {name: values.astype(np.float32) for name, values in load(WEIGHTS.read_bytes()).items()}
    except (OSError, SafetensorError) as error:
        raise CxrEmbedError(f"{WEIGHTS.name} of cxr-embed is damaged ({error}); install it again") from None
