"""Parts of pictures that are images of their own: what they are called, where they lie and what is cut out."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from cxr_embed.errors import ImageError
from cxr_embed.io.digests import sha256_hex

# Around the box, on each side, as a part of its longer side; and the least side of what is cut out, as a part of the
# picture's shorter one. docs/similar-cases.md has what they were chosen by.
MARGIN, LEAST = 0.25, 1 / 8
RULE = (
    f"boxes (a square of the box's longer side with {MARGIN:g} of it more on each side, at least {LEAST:g} of the "
    "picture's shorter side, moved into the picture; no square where the picture is too narrow for the box)"
)
CROPPED = "; cropped: "  # in the preprocessing of an encoder of regions, before the rule
_OVER = 1.0  # pixels that a box may reach beyond the picture: rounding
_REGION = re.compile(r"(.+)#[1-9][0-9]*", re.DOTALL)
_NUMBER = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
_BOX = re.compile(rf"({_NUMBER}),({_NUMBER}),({_NUMBER}),({_NUMBER})(?:of(\d{{1,6}})x(\d{{1,6}}))?", re.IGNORECASE)
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class Box:
    """A part of a picture.

    Attributes:
        x, y: left and upper edge, in pixels from 0.
        width, height: in pixels.
        drawn_on: width and height of the picture that these are pixels of; None for the file's own.
    """

    x: float
    y: float
    width: float
    height: float
    drawn_on: tuple[int, int] | None = None

    @classmethod
    def parse(cls, text: str) -> Box:
        """The box of `x,y,width,height`, or of `x,y,width,height of 1024x1024`.

        Raises:
            ValueError: for another text, or a box without an area.
        """
        found = _BOX.fullmatch(_SPACES.sub("", text))
        if found is None:
            raise ValueError(f"{text[:60]!r} is not a box: x,y,width,height, such as 120,80,64,64")
        numbers = [float(number) for number in found.groups()[:4]]
        drawn_on = (int(found[5]), int(found[6])) if found[5] else None
        if not all(map(math.isfinite, numbers)) or min(numbers[2:]) <= 0 or (drawn_on and min(drawn_on) < 1):
            raise ValueError(f"{text[:60]!r} is a box without an area")
        return cls(numbers[0], numbers[1], numbers[2], numbers[3], drawn_on)

    def __str__(self) -> str:
        """As `parse` reads it; one box has one text, to a thousandth of a pixel."""
        numbers = ",".join(_plain(number) for number in (self.x, self.y, self.width, self.height))
        return numbers if self.drawn_on is None else f"{numbers} of {self.drawn_on[0]}x{self.drawn_on[1]}"

    def on(self, shape: tuple[int, int]) -> tuple[float, float, float, float]:
        """Left and upper edge, width and height, in pixels of a picture of `shape` (rows, columns).

        Raises:
            ImageError: `outside`, where the box is not inside the picture.
        """
        rows, columns = shape
        across, down = self.drawn_on or (columns, rows)
        over_right, over_bottom = self.x + self.width - across, self.y + self.height - down
        if min(self.x, self.y) < -_OVER or max(over_right, over_bottom) > _OVER:
            raise ImageError(
                "outside", f"the box {self} is not inside the picture of {across} x {down} pixels; drawn on another?"
            )
        wide, high = columns / across, rows / down
        return self.x * wide, self.y * high, self.width * wide, self.height * high

    def cut(self, shape: tuple[int, int]) -> tuple[slice, slice]:
        """Rows and columns that are cut out of a picture of `shape`, by `RULE`.

        Raises:
            ImageError: as `on`.
        """
        left, upper, width, height = self.on(shape)
        longer = max(width, height)
        side = max(longer * (1 + 2 * MARGIN), LEAST * min(shape))
        side = max(1, round(min(side, max(longer, min(shape)))))  # a square as long as the picture has room for one
        return _span(upper + height / 2, side, shape[0]), _span(left + width / 2, side, shape[1])


def _span(centre: float, side: int, length: int) -> slice:
    side = min(side, length)
    first = min(max(round(centre - side / 2), 0), length - side)
    return slice(first, first + side)


def _plain(number: float) -> str:
    return f"{round(number, 3) + 0.0:.3f}".rstrip("0").rstrip(".")


def is_box(text: str) -> bool:
    """Whether `Box.parse` reads it."""
    try:
        Box.parse(text)
    except ValueError:
        return False
    return True


def region_id(image_id: str, number: int) -> str:
    """What a picture's region of a number from 1 is called."""
    return f"{image_id}#{number}"


def is_region_id(image_id: str) -> bool:
    """Whether an id has the form of a region's. Without a box it may be a picture's all the same."""
    return _REGION.fullmatch(image_id) is not None


def are_regions(ids: Iterable[str], boxes: Iterable[str]) -> bool:
    """Whether a table with a column `box` is one of regions: an id or a box of it has the form of one."""
    return any(map(is_region_id, ids)) or any(map(is_box, boxes))


def picture_of(region: str) -> str:
    """The id of the picture that a region is a part of."""
    return region.rpartition("#")[0]


def region_content(file: bytes, box: str) -> bytes:
    """What a region is known by: 32 bytes that change with the file or the box.

    Args:
        file: SHA-256 of the file.
        box: as the manifest has it, in its one spelling.
    """
    return bytes.fromhex(sha256_hex(b"cxr_embed region\0" + file + box.encode()))
