"""Maps of single images as small pictures, for a page and a montage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cxr_embed.encoders import CheckedEncoder
from cxr_embed.errors import MapError
from cxr_embed.explanation.explainer import Claim, Explainer
from cxr_embed.explanation.hiding import Hiding
from cxr_embed.explanation.making import cost_of
from cxr_embed.explanation.measured import read_measured
from cxr_embed.explanation.methods import Method, method_of
from cxr_embed.explanation.occlusion import Occlusion
from cxr_embed.explanation.overlay import grey_picture, mixed_picture, size_within
from cxr_embed.explanation.placing import Area, placed
from cxr_embed.explanation.targets import Targets
from cxr_embed.types import CxrImage


@dataclass(frozen=True, kw_only=True)
class SmallMap:
    """One map over its picture.

    Attributes:
        plain: `(h, w)` uint8, the picture alone.
        mixed: `(h, w, 3)` uint8, the map over it, its region outlined.
        value: of the target, log odds or a cosine.
        score: as scores are shown: the probability, or the cosine.
        claim: what the map points at, and the values without it.
        line, below: what is said under it: the value and its check; method, layer and how well such maps hit.
    """

    plain: np.ndarray
    mixed: np.ndarray
    value: float
    score: float
    claim: Claim
    line: str
    below: str


class SmallMaps:
    """Maps by the first method that can be had; an encoder whose vector is no mean of its map gets occlusion.

    Args:
        encoder: loaded.
        targets: of its answers.
        side: pixels of a picture's longer side.
        measured: what `explain evaluate --json` printed of such maps; None for nothing.
        announce: called with a line on what occlusion will cost, before it begins.
        images: how many will come, for that line.

    Raises:
        MapError: where `measured` is of other maps.
    """

    def __init__(
        self,
        encoder: CheckedEncoder,
        targets: Targets,
        *,
        side: int,
        measured: Path | None = None,
        announce: Callable[[str], object] | None = None,
        images: int = 1,
    ) -> None:
        self._encoder, self._targets, self._side, self._measured = encoder, targets, side, measured
        self._announce, self._images, self._hiding = announce, images, Hiding()
        self.explainer = self._by(method_of("auto", encoder, targets, self._hiding))

    def _by(self, method: Method) -> Explainer:
        made = Explainer(encoder=self._encoder, targets=self._targets, method=method, fill=self._hiding.fill)
        return made if self._measured is None else replace(made, measured=read_measured(self._measured, made.about))

    def of(self, image: CxrImage, answer: Mapping[str, np.ndarray], chosen: Sequence[int]) -> list[SmallMap]:
        """The maps of some of the targets, by number.

        Args:
            image: the picture.
            answer: the encoder's, of this one: output to vector.
            chosen: numbers of targets.
        """
        try:
            whole, grids, area = self._maps(image, answer)
        except MapError:  # found by the numbers alone
            if isinstance(self.explainer.method, Occlusion):
                raise
            self.explainer = self._by(Occlusion.of(self._encoder, self._targets, self._hiding))
            whole, grids, area = self._maps(image, answer)
        size, shape = size_within(self._side, image.pixels.shape), (image.pixels.shape[0], image.pixels.shape[1])
        plain = grey_picture(image.pixels, size)
        found = []
        for target in chosen:
            values = placed(grids[target], area, shape)
            claim, value = self.explainer.claim(image, target, values), float(whole[target])
            small = SmallMap(
                plain=plain,
                mixed=mixed_picture(image.pixels, values, claim.region, size),
                value=value,
                score=float(self._targets.scores(np.array(value))),
                claim=claim,
                line=self.explainer.line(target, value, claim),
                below=self.explainer.below(target),
            )
            found.append(small)
        return found

    def _maps(self, image: CxrImage, answer: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, Area]:
        if self.explainer.method.pictures > 1 and self._announce is not None:
            self._announce(cost_of(self.explainer, image, self._images))
            self._announce = None
        return self.explainer.maps(image, answer, _unheard)


def _unheard(pictures: int) -> None:
    del pictures
