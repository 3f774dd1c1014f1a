"""One map of one picture, in memory: what a page shows of it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_embed.choices import ExplainMethod
from cxr_embed.encoders import CheckedEncoder
from cxr_embed.explanation.answers import answers_of
from cxr_embed.explanation.explainer import Claim, Explainer
from cxr_embed.explanation.hiding import Hiding
from cxr_embed.explanation.methods import chosen_method
from cxr_embed.explanation.overlay import layers, shown_size
from cxr_embed.explanation.placing import Area, placed
from cxr_embed.explanation.targets import Targets
from cxr_embed.types import CxrImage


@dataclass(frozen=True, kw_only=True)
class SingleMap:
    """A map, and what is said of it.

    Attributes:
        grid: `(h, w)` float32, on the method's own grid.
        area: the part of the picture that it covers, in the picture's pixels.
        shape: rows and columns of the picture.
        value: of the target, log odds or a cosine.
        score: as scores are shown: the probability, or the cosine.
        intercept: what the grid's sum lacks to be the value; None where the sum means nothing.
        claim: what the map points at, and the values without it.
        line: the value and its check, in words.
        about: how the map was made, as `explain.json` has it.
        refused: why `auto` did not take the methods before this one.
    """

    grid: np.ndarray
    area: Area
    shape: tuple[int, int]
    value: float
    score: float
    intercept: float | None
    claim: Claim
    line: str
    about: dict[str, Any]
    refused: tuple[str, ...]

    def pictures(self) -> tuple[bytes, bytes]:
        """PNGs to lay over the picture: the colours, and the outline of the region."""
        size = shown_size(*self.shape)
        heat, outline = layers(placed(self.grid, self.area, self.shape), self.claim.region, size)
        return _png(heat), _png(outline)


def single_map(encoder: CheckedEncoder, targets: Targets, image: CxrImage, method: ExplainMethod) -> SingleMap:
    """The map of the first target, as `explain` makes it.

    Raises:
        MapError: where the method cannot be had.
    """
    hiding = Hiding()
    how, refused = chosen_method(method, encoder, targets, hiding)
    explainer = Explainer(encoder=encoder, targets=targets, method=how, fill=hiding.fill)
    answer = {output: rows[0] for output, rows in answers_of(encoder, [image]).items()}
    whole, grids, area = explainer.maps(image, answer, _unheard)
    shape, value = (image.pixels.shape[0], image.pixels.shape[1]), float(whole[0])
    claim = explainer.claim(image, 0, placed(grids[0], area, shape))
    return SingleMap(
        grid=grids[0],
        area=area,
        shape=shape,
        value=value,
        score=float(targets.scores(np.array(value))),
        intercept=float(how.intercept[0]) if how.intercept is not None else None,
        claim=claim,
        line=explainer.line(0, value, claim),
        about=explainer.about,
        refused=tuple(str(each).partition("; ")[0] for each in refused),  # without what to use instead
    )


def _unheard(pictures: int) -> None:
    del pictures


def _png(pixels: np.ndarray) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", compress_level=4)
    return file.getvalue()
