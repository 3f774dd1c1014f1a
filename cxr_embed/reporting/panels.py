"""What a montage is made of: radiographs, their regions and maps, each with what is known of it."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.errors import ImageError
from cxr_embed.images import read_image
from cxr_embed.index.answers import shown_findings
from cxr_embed.index.case_table import BOX, LOOKS
from cxr_embed.io.files import stays_below
from cxr_embed.manifest import leaves_root
from cxr_embed.regions import Box, is_box
from cxr_embed.types import CxrImage, counted

_SIDE, _SMALL_SIDE = 640, 200  # pixels: more than a panel shows, and the small picture in one
LETTERS, _NAME = 36, 28  # of a line under a panel, of a name in it: names are often digits, which are broad

Mapped = tuple[np.ndarray | str, tuple[str, ...]]


@dataclass(frozen=True)
class Part:
    """A panel's picture is a part of another one.

    Attributes:
        box: that was drawn, in the panel's picture: left and upper edge, width and height.
        whole: `(H, W)`, the other one.
        place: of the panel's picture in it.
    """

    box: tuple[float, ...]
    whole: np.ndarray
    place: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One radiograph of the picture, or words in its place.

    Attributes:
        title: in bold below it, or for words inside it.
        lines: what is known, below the title.
        pixels: `(H, W)`, brighter = denser, or `(H, W, 3)` uint8 in colour; None where there is no picture.
        why: there is no picture.
        image_id: of the case, for the file's metadata; blank for no case.
        part: of a region, what it is a part of.
    """

    title: str = field(kw_only=False)
    lines: tuple[str, ...] = field(default=(), kw_only=False)
    pixels: np.ndarray | None = field(default=None, kw_only=False)
    why: str = ""
    image_id: str = ""
    part: Part | None = None


@dataclass(frozen=True)
class Places:
    """Where radiographs are.

    Attributes:
        root: the folder that paths are relative to.
        paths: image id to path.
    """

    root: Path
    paths: Mapping[str, str]


@dataclass(frozen=True)
class Likeness:
    """What made a query and its cases alike, for a montage.

    Attributes:
        query: for each case the map of what of the query is like it, `(h, w, 3)` uint8, or why there is none, and the
            lines below it; None where the query is not one picture.
        cases: for each case the map of what of it is like the query, likewise.
        bar: `(h, w, 3)` uint8, the maps' colours from 0 to the highest value.
        notes: below all of it.
    """

    query: Sequence[Mapped] | None
    cases: Sequence[Mapped]
    bar: np.ndarray
    notes: Sequence[str]


def file_panel(path: Path, title: str, lines: Sequence[str] = (), content: str = "", box: Box | None = None) -> Panel:
    """A radiograph's panel; a file that is missing, broken or another one than was embedded is said so in its place.

    Args:
        path: of the radiograph.
        title, lines: below it.
        content: SHA-256 of the file that was embedded, as hexadecimal digits; blank where any will do.
        box: of a region: what is cut out is shown, the box outlined, beside a small picture of the whole.
    """
    return _panel(file_image(path, content), Panel(title, tuple(lines)), box)


def _panel(image: CxrImage | str, panel: Panel, box: Box | None) -> Panel:
    """A panel with a radiograph or its region in it, or with why there is none."""
    if isinstance(image, str):
        return replace(panel, why=image)
    if box is not None:
        return _region_panel(panel, image.pixels, box)
    return replace(panel, pixels=_shown(image.pixels))


def file_image(path: Path, content: str = "") -> CxrImage | str:
    """A radiograph, or why there is none; see `file_panel`."""
    try:
        image = read_image(path)
    except ImageError as error:
        return f"no picture: {error.kind}"
    return image if not content or image.content_id == content else "another file than was embedded"


def _shown(pixels: np.ndarray, side: int = _SIDE) -> np.ndarray:
    step = max(1, min(pixels.shape) // side)
    return pixels[::step, ::step]


def _region_panel(panel: Panel, pixels: np.ndarray, box: Box) -> Panel:
    """A panel with the region of a box in it, or with why there is none."""
    shape = (pixels.shape[0], pixels.shape[1])
    try:
        rows, columns = box.cut(shape)
        left, upper, width, height = box.on(shape)
    except ImageError:
        return replace(panel, why="its box is not inside the picture")
    part, small = _shown(pixels[rows, columns]), _shown(pixels, _SMALL_SIDE)
    across, down = columns.stop - columns.start, rows.stop - rows.start
    inside = np.array([left - columns.start, upper - rows.start, width, height]) * (part.shape[1] / across)
    place = np.array([columns.start, rows.start, across, down]) * (small.shape[1] / shape[1])
    return replace(panel, pixels=part, part=Part(tuple(inside.tolist()), small, tuple(place.tolist())))


def case_panel(case: dict[str, Any], places: Places, title: str, lines: Sequence[str]) -> Panel:
    """The panel of a case of an index; its path stays below the root.

    Args:
        case: with `image_id`, and `content`, the digest of the file in bytes.
        places: where the radiographs are.
        title, lines: below it.
    """
    box = Box.parse(case[BOX]) if is_box(str(case.get(BOX) or "")) else None
    return _panel(case_image(case, places), Panel(title, tuple(lines), image_id=case["image_id"]), box)


def case_image(case: dict[str, Any], places: Places) -> CxrImage | str:
    """The radiograph of a case, below the root, or why there is none: no path or file name is in the words.

    Args:
        case: with `image_id`, and `content` where it is known, the digest of the file in bytes.
        places: where the radiographs are.
    """
    path, content = places.paths.get(case["image_id"]), case.get("content")
    if not path:
        return "no path is known"
    if leaves_root(path):
        return "its path leaves the folder"
    # A file of known content was embedded, wherever it lies.
    if not content and not stays_below(places.root)(places.root / path):
        return "its path leaves the folder through a link"
    return file_image(places.root / path, content.hex() if content else "")


def describe_case(case: dict[str, Any]) -> list[str]:
    """The lines below a case's picture.

    Args:
        case: column to value, None where it is unknown.
    """
    age, date = case.get("age"), case.get("study_date")
    years = counted(int(age), "year") if isinstance(age, int | float) else None
    findings = shown_findings(case)
    # A data set that hides its dates counts days.
    shown = (f"day {date}" if type(case.get("study_date")) is int else date, case.get("view"), case.get("sex"), years)
    lines = [
        name_end(str(case["image_id"])),
        f"patient {name_end(str(case['patient_id']), _NAME - 6)}" if case.get("patient_id") else "",
        " \N{MIDDLE DOT} ".join(str(value) for value in shown if value not in (None, "")),
        case.get(LOOKS) or "",
    ]
    # Two lines of findings fit, one where a picture looks like something else.
    more, room = " \N{HORIZONTAL ELLIPSIS}", 1 if lines[-1] else 2
    return [line for line in lines if line] + textwrap.wrap(
        ", ".join(findings), LETTERS, max_lines=room, placeholder=more
    )


def name_end(name: str, most: int = _NAME) -> str:
    """Long names, such as UIDs, differ at their end."""
    return name if len(name) <= most else "\N{HORIZONTAL ELLIPSIS}" + name[1 - most :]
