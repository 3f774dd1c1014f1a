"""`occlusion`: how much a value falls where a square is hidden, for any encoder. Zeiler and Fergus, 2014.

Coarse to fine: squares of two cells on a side first; those that matter most are then hidden cell by cell. A cell's
value is its quarter of the coarse square's fall, and by how much hiding it alone does more than hiding one of the
square's cells does on average. So the map's sum is that of the coarse squares' falls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cxr_embed.choices import Fill
from cxr_embed.encoders import CheckedEncoder
from cxr_embed.explanation.answers import answers_of
from cxr_embed.explanation.hiding import Hidden, Hiding
from cxr_embed.explanation.placing import Area, whole_area
from cxr_embed.explanation.targets import Targets
from cxr_embed.types import CxrImage

REFINED = 0.5  # of the coarse squares
Values = Callable[[Iterable[CxrImage]], np.ndarray]  # B pictures to (B, T)


@dataclass(frozen=True)
class Occlusion:
    """`occlusion` of any encoder."""

    encoder: CheckedEncoder
    targets: Targets
    hiding: Hiding
    name, layer = "occlusion", "picture"
    intercept = None

    @classmethod
    def of(cls, encoder: CheckedEncoder, targets: Targets, hiding: Hiding) -> Occlusion:
        """The method, which any encoder has."""
        return cls(encoder, targets, hiding)

    @property
    def words(self) -> str:
        """Method and layer, for people."""
        cells = self.hiding.cells
        return f"occlusion, {cells} x {cells} squares of the picture, hidden by {self.hiding.fill}"

    @property
    def pictures(self) -> int:
        """See `pictures_an_image`."""
        return pictures_an_image(self.hiding.cells)

    def maps(
        self, image: CxrImage, answer: Mapping[str, np.ndarray], whole: np.ndarray, done: Callable[[int], object]
    ) -> tuple[np.ndarray, Area]:
        """The maps of a picture: see `Method`."""
        del answer

        def values(pictures: Iterable[CxrImage]) -> np.ndarray:
            output = self.targets.output
            return self.targets.values(answers_of(self.encoder, pictures, (output,))[output])

        grids = occlusion_maps(values, image, whole, self.hiding.cells, self.hiding.fill, done)
        return grids, whole_area(image)


def pictures_an_image(cells: int) -> int:
    """The most pictures that the encoder sees for one map's image, the whole one among them."""
    coarse = (cells // 2) ** 2
    return 1 + coarse + 4 * round(REFINED * coarse)


def occlusion_maps(
    values: Values, image: CxrImage, whole: np.ndarray, cells: int, fill: Fill, done: Callable[[int], object]
) -> np.ndarray:
    """The falls.

    Args:
        values: embeds pictures and reads the values off.
        image: the picture.
        whole: `(T,)`, the values of the whole picture.
        cells: on a side, an even number; they share out the whole picture.
        fill: what a square is hidden by.
        done: called with the number of pictures embedded.

    Returns:
        `(T, cells, cells)` float64, above 0 where hiding lowers the value.
    """
    hidden, half = Hidden(image, fill), cells // 2
    coarse = _falls(values, hidden, image.pixels.shape, half, range(half * half), whole, done)  # (half * half, T)
    # Of several values, a square that matters to one of them is looked at for all.
    weight = (np.abs(coarse) / np.maximum(np.abs(coarse).max(axis=0), 1e-12)).max(axis=1)
    chosen = np.sort(np.argsort(-weight, kind="stable")[: round(REFINED * half * half)])
    rows, columns = chosen // half, chosen % half
    fine = [(2 * r + i) * cells + 2 * c + j for r, c in zip(rows, columns, strict=True) for i in (0, 1) for j in (0, 1)]
    falls = _falls(values, hidden, image.pixels.shape, cells, fine, whole, done).reshape(len(chosen), 4, -1)
    maps = np.repeat(coarse[:, None] / 4, 4, axis=1)  # (half * half, 4, T)
    maps[chosen] += falls - falls.mean(axis=1, keepdims=True)
    placed = maps.reshape(half, half, 2, 2, -1).transpose(4, 0, 2, 1, 3)
    return np.asarray(placed.reshape(-1, cells, cells))


def _falls(
    values: Values,
    hidden: Hidden,
    shape: tuple[int, ...],
    cells: int,
    chosen: Sequence[int],
    whole: np.ndarray,
    done: Callable[[int], object],
) -> np.ndarray:
    """How much the values fall without each of some squares, by number, row by row: `(len(chosen), T)`."""
    down, across = (np.linspace(0, size, cells + 1).round().astype(int) for size in shape)
    result, size = np.empty((len(chosen), len(whole))), 32
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        squares = [(number // cells, number % cells) for number in part]
        seen = (hidden.without_box(slice(*down[r : r + 2]), slice(*across[c : c + 2])) for r, c in squares)
        result[start : start + len(part)] = whole - values(seen)
        done(len(part))
    return result
