"""Where the cells of a grid of vectors lie on the picture that they were computed from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Fit = Literal["whole", "inside", "around"]
Box = tuple[float, float, float, float]

_WORDS: dict[Fit, str] = {
    "whole": "the whole picture",
    "inside": "the square in the picture's middle, as wide as its shorter side",
    "around": "the square around the picture, as wide as its longer side",
}


@dataclass(frozen=True)
class Grid:
    """What part of a picture the cells of an output `(H, W, D)` share out evenly among them.

    Cells come row by row from the top left: token t is that of row `t // W` and column `t % W`. What a cell knows of
    reaches further than its own place.

    Attributes:
        fit: the frame that an encoder sees: the `whole` picture, each side scaled by itself; the square `inside` it, in
            its middle and as wide as its shorter side; or the one `around` it, with the picture in the middle.
        box: top, left, bottom and right of the cells, as parts of the frame's height and width.
    """

    fit: Fit
    box: Box = (0.0, 0.0, 1.0, 1.0)

    def on(self, height: int, width: int) -> Box:
        """Top, left, bottom and right of the cells on a picture of so many pixels, exact to a pixel that the encoder
        sees. Below 0, or beyond the picture, where an encoder adds something around it."""
        rows, columns = float(height), float(width)
        if self.fit != "whole":
            rows = columns = float(min(height, width) if self.fit == "inside" else max(height, width))
        above, before = (height - rows) / 2, (width - columns) / 2
        top, left, bottom, right = self.box
        return above + top * rows, before + left * columns, above + bottom * rows, before + right * columns

    @property
    def words(self) -> str:
        """The part, for people."""
        if self.box == (0.0, 0.0, 1.0, 1.0):
            return _WORDS[self.fit]
        top, left, bottom, right = (f"{100 * side:.3g}%" for side in self.box)
        return f"of {_WORDS[self.fit]}, {top} to {bottom} from the top and {left} to {right} from the left"

    def to_json(self) -> dict[str, Any]:
        """The grid as plain JSON values."""
        return {"fit": self.fit, "box": list(self.box)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Grid:
        """The inverse of `to_json`."""
        top, left, bottom, right = value["box"]
        return cls(value["fit"], (top, left, bottom, right))


def middle(part: float, other: float | None = None) -> Box:
    """The box in a frame's middle that is `part` of its height, and `other` of its width (the same by default)."""
    down, across = part, part if other is None else other
    return (1 - down) / 2, (1 - across) / 2, (1 + down) / 2, (1 + across) / 2


def within(outer: Box, down: float, across: float) -> Box:
    """The box from the top left of another that is `down` of its height and `across` of its width."""
    top, left, bottom, right = outer
    return top, left, top + down * (bottom - top), left + across * (right - left)
