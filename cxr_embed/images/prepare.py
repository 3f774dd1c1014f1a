"""How much of its range of values a picture uses, and the preparation that spreads them over all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from cxr_embed.types import CxrImage

# A picture that uses less of its range is nearly one shade: 12 bits of values in a file that states 16 use 6%.
LITTLE_USED = 0.1
# The darkest and the brightest pixels that do not count, of each a share: markers, labels and dead pixels.
_OUTLIERS = 0.005
_SAMPLES = 64  # of each axis: enough for the shares above, at a few hundredths of a millisecond


def used_share(pixels: np.ndarray, max_value: int) -> float:
    """The share of `0 .. max_value` that lies between the darkest and the brightest pixels, without outliers.

    Args:
        pixels: `(H, W)` uint8 or uint16.
        max_value: the largest value that a pixel can have.
    """
    step = max(1, min(pixels.shape) // _SAMPLES)
    sample = pixels[::step, ::step].ravel()
    first = int(len(sample) * _OUTLIERS)
    last = len(sample) - 1 - first
    ranked = np.partition(sample, (first, last))
    return (int(ranked[last]) - int(ranked[first])) / max_value


def stretch(image: CxrImage) -> CxrImage:
    """The picture with its values spread over the whole range, linearly; half a percent at each end is cut off.

    The bits stay. A picture of one shade stays as it is.
    """
    counts = np.bincount(image.pixels.ravel(), minlength=image.max_value + 1)
    below = np.cumsum(counts)
    low, high = (int(np.searchsorted(below, share * below[-1], "right")) for share in (_OUTLIERS, 1 - _OUTLIERS))
    if low >= min(high, image.max_value):
        return image
    values = (np.arange(image.max_value + 1) - low) * (image.max_value / (high - low))
    table = np.rint(np.clip(values, 0, image.max_value)).astype(image.pixels.dtype)
    notes = tuple(note for note in image.notes if note != "range")
    return replace(image, pixels=table[image.pixels], notes=notes)


@dataclass(frozen=True)
class Preparation:
    """What may be done to a picture before an encoder sees it.

    Attributes:
        run: the picture to another one.
        words: what it does, precise enough to tell it from another one: they become part of an encoder's fingerprint.
    """

    run: Callable[[CxrImage], CxrImage]
    words: str


PREPARATIONS: Mapping[str, Preparation] = {
    "stretch": Preparation(stretch, "pixel quantiles 0.005 to 0.995 to the whole range, linear, cut off")
}


def prepare_image(image: CxrImage, name: str | None) -> CxrImage:
    """The picture after a preparation of `PREPARATIONS`; as it is for None."""
    return image if name is None else PREPARATIONS[name].run(image)
