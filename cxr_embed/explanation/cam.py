"""`cam`: of a linear probe on means of a map, each cell's own share of the logit. Exact, and without gradients.

Of a cosine it is each cell's share too: with the length of the image's own vector, a cosine is linear in it.

Class activation maps of Zhou et al., 2016, arXiv 1512.04150, with what the probe does to vectors taken in: its weights
are divided by its deviations, and a cell is compared with the mean of the images that the probe learned from. So the
sum of a map, plus the probe's intercept, is the logit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cxr_embed.encoders import CheckedEncoder
from cxr_embed.errors import MapError
from cxr_embed.explanation.answers import answers_of
from cxr_embed.explanation.hiding import Hiding
from cxr_embed.explanation.placing import Area, area_of
from cxr_embed.explanation.targets import Linear, Targets
from cxr_embed.types import CxrImage, EncoderSpec

MAP = "map"  # the output that `features` are means of, where an encoder has it
# Cells, the deviation of what a maximum's share is spread by: it is one cell's, and that cell has seen its neighbours.
# On 60 phantoms with masks the IoU at half the map's maximum was 0.04 without, 0.16, 0.28 and 0.27 with 1, 2 and 3.
SPREAD = 2.0
_SAME = 1e-4  # relative: that two ways of summing in float32 may differ by
_EXAMPLE = CxrImage(
    pixels=np.add.outer(np.arange(96), np.arange(96) // 24 * 40).astype(np.uint8), bits=8, content_id="", source="png"
)


@dataclass(frozen=True)
class Cam:
    """`cam` of an encoder's grid."""

    spec: EncoderSpec
    maxima: int  # channels of the grid that are in the vector by their maximum
    output: str  # that the values are linear in
    linear: Linear
    layer: str
    name = "cam"
    pictures = 1

    @classmethod
    def of(cls, encoder: CheckedEncoder, targets: Targets, hiding: Hiding) -> Cam:
        """The method, where it can be had.

        Raises:
            MapError: where it cannot; the message says why.
        """
        del hiding
        linear, layer = layer_of(targets, encoder.spec)
        output = _linear_in(linear, targets)
        if layer != output and hasattr(encoder.encoder, "marked"):  # any network of a library: one picture tells
            answer = answers_of(encoder, [_EXAMPLE])
            require_means(answer[layer][0], encoder.maxima, answer[output][0])
        return cls(encoder.spec, encoder.maxima, output, linear, layer)

    @property
    def words(self) -> str:
        """Method and layer, for people."""
        rows, columns, _ = self.spec.outputs[self.layer]
        return f"cam, layer {self.layer} ({rows} x {columns} cells)"

    @property
    def intercept(self) -> np.ndarray | None:
        """`(T,)` of the probe; None where each image has its own, as a cosine has after a projection with a bias."""
        return self.linear.intercept if self.linear.length is None or not self.linear.intercept.any() else None

    def maps(
        self, image: CxrImage, answer: Mapping[str, np.ndarray], whole: np.ndarray, done: Callable[[int], object]
    ) -> tuple[np.ndarray, Area]:
        """The maps of a picture: see `Method`."""
        del whole, done
        grid = answer[self.layer]
        vector = answer[self.output] if self.layer != self.output else None
        linear = self.linear.at(grid.mean(axis=(0, 1), dtype=np.float64) if vector is None else vector)
        return cam_maps(linear, grid, self.maxima, vector), area_of(image, self.spec, self.layer)


def layer_of(targets: Targets, spec: EncoderSpec) -> tuple[Linear, str]:
    """The values, and the grid of the encoder that they are linear in.

    Args:
        targets: what is explained.
        spec: of an encoder that was loaded with its map, where it has one.

    Raises:
        MapError: where there is none; the message says why.
    """
    if targets.linear is None:
        raise MapError(f"`method` cam: {targets.why}; use `method='occlusion'`")
    output = _linear_in(targets.linear, targets)
    if output in spec.grids:
        return targets.linear, output
    if output == "features" and {output, MAP} <= spec.outputs.keys() and MAP in spec.grids:
        return targets.linear, MAP
    raise MapError(
        f"`method` cam: {targets.output} of {spec.name} is not known to be a mean of a map; use `method='occlusion'`"
    )


def _linear_in(linear: Linear, targets: Targets) -> str:
    """The output that the values are linear in."""
    return linear.length.output if linear.length is not None else targets.output


def cam_maps(linear: Linear, grid: np.ndarray, maxima: int = 0, vector: np.ndarray | None = None) -> np.ndarray:
    """Each cell's share of every value.

    Args:
        linear: the values.
        grid: `(H, W, C)` float32, one image's.
        maxima: so many of its last channels are in the vector by their maximum, the others by their mean.
        vector: `(C,)` that the values are computed of, where another output than the grid; it is looked at.

    Returns:
        `(T, H, W)` float64. Its sum plus the intercept is the value.

    Raises:
        MapError: where the vector is not the means and maxima of the grid.
    """
    most = grid.shape[2] - maxima
    if vector is not None:
        require_means(grid, maxima, vector)
        spread = _at_maxima(linear, grid, most)
        return np.asarray(
            _of_means(linear, grid, most) + ndimage.gaussian_filter(spread, (0, SPREAD, SPREAD), mode="reflect")
        )
    if linear.pool == "flatten":
        cells = (grid.astype(np.float64).ravel() - linear.mean) * linear.weights  # (T, H * W * C)
        return np.asarray(cells.reshape(-1, *grid.shape).sum(axis=-1))
    return _at_maxima(linear, grid, 0) if linear.pool == "max" else _of_means(linear, grid, grid.shape[2])


def require_means(grid: np.ndarray, maxima: int, vector: np.ndarray) -> None:
    """Raises MapError where `(C,)` is not the means of a grid, and the maxima of its last `maxima` channels."""
    most = grid.shape[2] - maxima
    found = np.concatenate([grid[..., :most].mean(axis=(0, 1)), grid[..., most:].max(axis=(0, 1))])
    if found.shape != vector.shape or np.abs(found - vector).max() > _SAME * max(1.0, float(np.abs(vector).max())):
        raise MapError("`method` cam: the features are not means of the map here; use `method='occlusion'`")


def _of_means(linear: Linear, grid: np.ndarray, most: int) -> np.ndarray:
    """The first channels' shares, `(T, H, W)`: their means are spread over their cells."""
    rows, columns, _ = grid.shape
    shares = (grid[..., :most].astype(np.float64) - linear.mean[:most]) @ linear.weights[:, :most].T  # (H, W, T)
    return np.asarray(np.moveaxis(shares, -1, 0) / (rows * columns))


def _at_maxima(linear: Linear, grid: np.ndarray, first: int) -> np.ndarray:
    """The other channels' shares, `(T, H, W)`: each at the cell where its maximum stands."""
    rows, columns, channels = grid.shape
    cells = grid[..., first:].reshape(rows * columns, channels - first)
    place = cells.argmax(axis=0)
    highest = cells[place, np.arange(channels - first)].astype(np.float64)
    shares = linear.weights[:, first:] * (highest - linear.mean[first:])  # (T, channels)
    result = np.zeros((len(shares), rows * columns))
    for number, share in enumerate(shares):
        np.add.at(result[number], place, share)
    return result.reshape(-1, rows, columns)
