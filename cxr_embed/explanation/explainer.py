"""What is explained and how: one method's maps of a picture, each checked by hiding what it points at."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cxr_embed.choices import Fill
from cxr_embed.encoders import CheckedEncoder
from cxr_embed.explanation.answers import answers_of
from cxr_embed.explanation.hiding import Hidden
from cxr_embed.explanation.measured import NOT_MEASURED
from cxr_embed.explanation.methods import Method
from cxr_embed.explanation.placing import Area
from cxr_embed.explanation.targets import Targets
from cxr_embed.types import RESEARCH, CxrImage
from cxr_embed.version import __version__

REGION = 0.5  # of the map's highest value: what is outlined, and hidden to see whether the score falls


@dataclass(frozen=True)
class Claim:
    """The region that a map points at, and the values without it and with as much hidden elsewhere.

    Attributes:
        region: `(H, W)` bool; nowhere where nothing in the picture speaks for the value.
        without, elsewhere: the values; None where the region is nowhere.
    """

    region: np.ndarray
    without: float | None
    elsewhere: float | None


@dataclass(frozen=True, kw_only=True)
class Explainer:
    """What is explained, and how.

    Attributes:
        encoder: loaded.
        targets: of its answers.
        method: of the maps.
        fill: what hides the region of a map.
        measured: finding to how well such maps hit it, in words.
    """

    encoder: CheckedEncoder
    targets: Targets
    method: Method
    fill: Fill
    measured: Mapping[str, str] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Any]:
        """How the maps are made, for `explain.json`."""
        spec = self.encoder.spec
        return {
            "encoder": spec.name,
            "fingerprint": spec.fingerprint,
            "engine": self.encoder.engine,
            "method": self.method.name,
            "layer": self.method.layer,
            "words": self.method.words,
            "output": self.targets.output,
            "unit": self.targets.unit,
            "region": REGION,
            "fill": self.fill,
            "measured": dict(self.measured),
            "line": f"{spec.name}: {self.method.words}; {'see each map' if self.measured else NOT_MEASURED}",
            "spec": spec.to_json(),
            "stand_in": spec.stand_in,
            "version": __version__,
            "note": RESEARCH,
        }

    def maps(
        self, image: CxrImage, answer: Mapping[str, np.ndarray], done: Callable[[int], object]
    ) -> tuple[np.ndarray, np.ndarray, Area]:
        """The maps of a picture.

        Args:
            image: the picture.
            answer: the encoder's, of this one: output to vectors `(*shape)`.
            done: called with the number of further pictures embedded.

        Returns:
            `(T,)` float64, the targets' values; `(T, h, w)` float32, their maps; the part of the picture that they
            cover.
        """
        whole = self.targets.values(answer[self.targets.output][None])[0]
        grids, area = self.method.maps(image, answer, whole, done)
        return whole, grids.astype(np.float32), area

    def values(self, images: Iterable[CxrImage]) -> np.ndarray:
        """The targets' values of some pictures, `(B, T)`."""
        output = self.targets.output
        return self.targets.values(answers_of(self.encoder, images, (output,))[output])

    def claim(self, image: CxrImage, target: int, values: np.ndarray) -> Claim:
        """What a map claims, checked; see `claims`."""
        return self.claims(image, [(target, values)])[0]

    def claims(self, image: CxrImage, maps: Iterable[tuple[int, np.ndarray]]) -> list[Claim]:
        """What maps of a picture claim, checked: the values without the regions that they point at.

        Elsewhere is a region moved by half the picture: to the side, down, and both.

        Args:
            image: the picture.
            maps: of each the number of its target, and `(H, W)`, the map at each pixel.
        """
        hidden, (height, width) = Hidden(image, self.fill), image.pixels.shape
        moves = ((0, width // 2), (height // 2, 0), (height // 2, width // 2))
        regions: list[tuple[int, np.ndarray]] = []

        def pictures() -> Iterator[CxrImage]:
            for target, values in maps:
                region = region_of(values)
                regions.append((target, region))
                if region.any():
                    yield hidden.without(region)
                    for move in moves:
                        yield hidden.without(np.roll(region, move, axis=(0, 1)) & ~region)

        first = next(given := pictures(), None)
        found = iter(()) if first is None else iter(self.values(itertools.chain([first], given)))
        claims = []
        for target, region in regions:
            if region.any():
                inside, *elsewhere = (float(values[target]) for values in itertools.islice(found, 1 + len(moves)))
                claims.append(Claim(region, inside, float(np.mean(elsewhere))))
            else:
                claims.append(Claim(region, None, None))
        return claims

    def line(self, target: int, value: float, claim: Claim) -> str:
        """What a map says of a value, in words."""
        targets = self.targets
        line = f"{targets.shown[target]}: {targets.unit} {value:.3f}"
        if targets.unit == "log odds":
            line += f" (probability {targets.scores(np.array(value)):.3f})"
        if claim.without is None or claim.elsewhere is None:
            return f"{line}; nothing in the picture speaks for it"
        without, elsewhere = f"{claim.without:.3f} without the outlined region", f"{claim.elsewhere:.3f}"
        return f"{line}; {without}, {elsewhere} with as much hidden elsewhere"

    def below(self, target: int) -> str:
        """Method, layer and how well such maps hit the finding, for the line under a map."""
        return f"{self.method.words}; {self.measured.get(self.targets.names[target], NOT_MEASURED)}"


def region_of(values: np.ndarray) -> np.ndarray:
    """What is outlined and hidden of a map's values at each pixel `(H, W)`, bool: nothing where none is above 0."""
    highest = float(values.max())
    return values >= REGION * highest if highest > 0 else np.zeros(values.shape, bool)
