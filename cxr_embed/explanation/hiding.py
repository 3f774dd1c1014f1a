"""Pictures of which a part is hidden: by a blurred copy of the picture, or by grey."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from cxr_embed.choices import Fill
from cxr_embed.errors import MapError
from cxr_embed.types import CxrImage

CELLS = 14
_WIDTH = 14  # of a blurred picture's cells on a side: about a rib and its gap, and more than a small nodule


@dataclass(frozen=True)
class Hiding:
    """How parts of a picture are hidden.

    Attributes:
        cells: of `occlusion`, on a side; even, from 4 to 64.
        fill: what hides a part: `blur`, what the picture looks like from afar, or `grey`, its mean.
    """

    cells: int = CELLS
    fill: Fill = "blur"

    def __post_init__(self) -> None:
        if not 4 <= self.cells <= 64 or self.cells % 2:
            raise MapError(f"`cells` is an even number from 4 to 64, not {self.cells}")


class Hidden:
    """One picture, and copies of it with parts hidden.

    Args:
        image: the picture.
        fill: `blur`, what it looks like from afar, or `grey`, its mean.
    """

    def __init__(self, image: CxrImage, fill: Fill) -> None:
        self._image, pixels = image, image.pixels
        if fill == "grey":
            self._filled = np.full_like(pixels, round(float(pixels.mean())))
        else:
            self._filled = _from_afar(pixels)

    def without(self, mask: np.ndarray) -> CxrImage:
        """The picture with the pixels of a mask `(H, W)` bool hidden."""
        return replace(self._image, pixels=np.where(mask, self._filled, self._image.pixels))

    def without_box(self, rows: slice, columns: slice) -> CxrImage:
        """The picture with a box hidden."""
        pixels = self._image.pixels.copy()
        pixels[rows, columns] = self._filled[rows, columns]
        return replace(self._image, pixels=pixels)


def _from_afar(pixels: np.ndarray) -> np.ndarray:
    """Means of large cells, smoothly enlarged again; of the picture's dtype."""
    height, width = pixels.shape
    rows, columns = min(_WIDTH, height), min(_WIDTH, width)
    tops = np.linspace(0, height, rows + 1).astype(int)[:-1]
    lefts = np.linspace(0, width, columns + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(pixels, tops, axis=0, dtype=np.float64), lefts, axis=1)
    sizes = np.outer(np.diff([*tops, height]), np.diff([*lefts, width]))
    small = ndimage.gaussian_filter((sums / sizes).astype(np.float32), 0.7, mode="nearest")
    down = (np.arange(height) + 0.5) * rows / height - 0.5
    across = (np.arange(width) + 0.5) * columns / width - 0.5
    return _linear(_linear(small, down).T, across).T.round().astype(pixels.dtype)


def _linear(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """Rows of values `(N, M)` at places between them; beyond the ends, the last ones."""
    before = np.clip(np.floor(places).astype(int), 0, len(values) - 1)
    after = np.minimum(before + 1, len(values) - 1)
    share = np.clip(places - before, 0, 1).astype(np.float32)[:, None]
    return np.asarray(values[before] * (1 - share) + values[after] * share)
