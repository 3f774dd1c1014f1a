"""Heat maps of any grid laid over the picture: bilinear, each cell's value at its centre."""

from __future__ import annotations

import numpy as np

from cxr_embed.grids import Grid
from cxr_embed.types import CxrImage, EncoderSpec

Area = tuple[float, float, float, float]  # left and upper edge, width and height in pixels of the picture


def whole_area(image: CxrImage) -> Area:
    """All of a picture."""
    height, width = image.pixels.shape
    return 0.0, 0.0, float(width), float(height)


def area_of(image: CxrImage, spec: EncoderSpec, output: str) -> Area:
    """The part of a picture that the cells of an encoder's output cover."""
    return area_on(image, spec.grids[output])


def area_on(image: CxrImage, grid: Grid) -> Area:
    """The part of a picture that a grid covers."""
    top, left, bottom, right = grid.on(*image.pixels.shape)
    return left, top, right - left, bottom - top


def placed(grid: np.ndarray, area: Area, shape: tuple[int, int]) -> np.ndarray:
    """A map's value at each pixel of the picture, as `interpolate(..., align_corners=False)` of torch has it.

    Args:
        grid: `(rows, columns)` float32.
        area: part of the picture that the grid covers: left edge, upper edge, width and height, in its pixels.
        shape: rows and columns of the picture.

    Returns:
        `shape` float32. Pixels whose centre is outside the area have the map's lowest value: nothing is claimed there.
    """
    left, upper, width, height = area
    first, second, share, down = _between(grid.shape[0], upper, height, shape[0])
    west, east, part, across = _between(grid.shape[1], left, width, shape[1])
    wide = grid[:, west] * (np.float32(1) - part) + grid[:, east] * part  # (rows of the grid, columns of the picture)
    values = wide[first] * (np.float32(1) - share)[:, None] + wide[second] * share[:, None]
    if not (down.all() and across.all()):
        values[~(down[:, None] & across)] = grid.min()
    return np.asarray(values)


def _between(
    cells: int, edge: float, size: float, pixels: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each pixel of one side: the cells before and after its centre, the latter's share, whether it is inside."""
    scale = np.float32(cells / size)
    centre = np.maximum(scale * (np.arange(pixels, dtype=np.float32) + np.float32(0.5 - edge)) - np.float32(0.5), 0)
    before = np.minimum(centre.astype(np.int64), cells - 1)
    after = np.minimum(before + 1, cells - 1)
    share = np.clip(centre - before.astype(np.float32), 0, 1)
    middle = np.arange(pixels) + 0.5
    return before, after, share, (middle >= edge) & (middle <= edge + size)
