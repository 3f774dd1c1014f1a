"""A picture of a search: the query, and its neighbours with what is known of them."""

from __future__ import annotations

import json
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_embed.errors import CaseIndexError, ImageError
from cxr_embed.images import read_image
from cxr_embed.index.answers import check_target, shown_findings
from cxr_embed.index.case_table import BOX, LOOKS
from cxr_embed.index.queries import Examples
from cxr_embed.io.files import stays_below, written_aside
from cxr_embed.manifest import leaves_root
from cxr_embed.present.numbers import format_threshold
from cxr_embed.regions import Box, is_box
from cxr_embed.reporting.drawing import INK, NORMAL, RULE, SETTINGS, SMALL, SOFT, STYLES, new_figure, short
from cxr_embed.types import CxrImage, counted

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf")
_ACROSS, _DPI = 5, 150  # neighbours in a row, dots an inch
_CELL, _WORDS, _GAP, _FOOT = 2.1, 0.8, 0.06, 0.2  # inches of a panel, its words, its margin, and below the last line
_MAP_WORDS = 0.72  # inches, of the words below a map
_LINE, _ACROSS_INCH = 0.15, 15  # inches of a line at the bottom, and letters in an inch of it
_SIDE, _SMALL_SIDE = 640, 200  # pixels: more than a panel shows, and the small picture in one
_CORNER = (0.68, 0.68, 0.32, 0.32)  # of a panel, where the whole picture of a region is
_LETTERS, _NAME = 36, 28  # of a line under a panel, of a name in it: names are often digits, which are broad


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


def check_montage(path: Path) -> None:
    """Refuses a file that `write_montage` could not write.

    Raises:
        CaseIndexError: for another suffix, a folder, or a place that is none.
    """
    check_target(path, SUFFIXES, "a montage is", "`montage`")


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
        _end(str(case["image_id"])),
        f"patient {_end(str(case['patient_id']), _NAME - 6)}" if case.get("patient_id") else "",
        " \N{MIDDLE DOT} ".join(str(value) for value in shown if value not in (None, "")),
        case.get(LOOKS) or "",
    ]
    # Two lines of findings fit, one where a picture looks like something else.
    more, room = " \N{HORIZONTAL ELLIPSIS}", 1 if lines[-1] else 2
    return [line for line in lines if line] + textwrap.wrap(
        ", ".join(findings), _LETTERS, max_lines=room, placeholder=more
    )


def _end(name: str, most: int = _NAME) -> str:
    """Long names, such as UIDs, differ at their end."""
    return name if len(name) <= most else "\N{HORIZONTAL ELLIPSIS}" + name[1 - most :]


def draw_search(
    path: Path | None,
    places: Places,
    like: Examples,
    unlike: Examples,
    examples_by_id: Mapping[str, dict[str, Any]],
    neighbors: Sequence[dict[str, Any]],
    rules: str,
    notes: Sequence[str],
    likeness: Likeness | None = None,
) -> Figure:
    """Draws a search: every example with its sign, then the neighbours with their similarity.

    With maps, below each row of neighbours one of what of the query is like them, and one of what of them is like it.

    Args:
        path: of the picture; None where no file is wanted.
        places: where the cases' radiographs are.
        like, unlike: the examples.
        examples_by_id: the cases among the examples.
        neighbors: cases, nearest first, with `similarity`; `content` (the file's digest, 32 bytes) where it is known.
        rules, notes: see `write_montage`.
        likeness: maps; None for none.

    Raises:
        CaseIndexError: where it cannot be written.
    """
    examples = []
    for sign, given in (("like", like), ("not like", unlike)):
        examples += [file_panel(file, sign, [_end(file.name)], box=given.box) for file in given.files]
        examples += [
            case_panel(examples_by_id[name], places, sign, describe_case(examples_by_id[name])) for name in given.ids
        ]
        examples += [Panel(f"{sign} these words", why=text) for text in given.texts]
    answers = []
    for place, case in enumerate(neighbors, start=1):
        known = {name: value for name, value in case.items() if name not in ("similarity", "content")}
        answers.append(case_panel(case, places, f"{place}   {case['similarity']:.3f}", describe_case(known)))
    if likeness is not None and answers:
        rows = _map_rows(likeness)
        maps = [(Panel("", why=words, pixels=likeness.bar), list(map(_map_panel, row))) for words, row in rows]
        return _write(path, [(examples, answers)], [rules, *likeness.notes, *notes], maps)
    return write_montage(path, examples, answers, rules=rules, notes=notes)


def _map_rows(likeness: Likeness) -> list[tuple[str, Sequence[Mapped]]]:
    rows: list[tuple[str, Sequence[Mapped]]] = []
    if likeness.query is not None:
        rows.append(("what of the query\nis like each case", likeness.query))
    return [*rows, ("what of each case\nis like the query", likeness.cases)]


def _map_panel(made: Mapped) -> Panel:
    picture, lines = made
    if isinstance(picture, str):
        return Panel("", why=picture)
    return Panel(lines[0], lines[1:], picture)


def draw_answers(
    path: Path, places: Places, answers: Sequence[tuple[Panel, Sequence[dict[str, Any]]]], notes: Sequence[str]
) -> None:
    """Draws single questions to a store, one below the other: each question, then its cases with their scores.

    Args:
        path: of the picture.
        places: where the cases' radiographs are.
        answers: each question's panel, and its cases, highest first, with `score` and `content`.
        notes: see `write_montage`.

    Raises:
        CaseIndexError: where it cannot be written.
    """
    groups = []
    for question, cases in answers:
        panels = []
        for place, case in enumerate(cases, start=1):
            known = {name: value for name, value in case.items() if name not in ("score", "content")}
            title = f"{place}   {format_threshold(case['score'])}"
            panels.append(case_panel(case, places, title, describe_case(known)))
        groups.append(([question], panels))
    _write(path, groups, notes)


def write_montage(
    path: Path | None, examples: Sequence[Panel], neighbors: Sequence[Panel], *, rules: str, notes: Sequence[str]
) -> Figure:
    """Draws the picture: the examples in the first column, then the neighbours, nearest first.

    Args:
        path: ends in .png or .pdf, and is written by atomic rename; None where no file is wanted.
        examples: in the first column.
        neighbors: the answer.
        rules: what the neighbours had to meet; blank for nothing.
        notes: below all of it.

    Raises:
        CaseIndexError: where it cannot be written.
    """
    return _write(path, [(examples, neighbors)], ["" if neighbors else "No case was found", rules, *notes])


def _places(
    groups: Sequence[tuple[Sequence[Panel], Sequence[Panel]]], maps: Sequence[tuple[Panel, Sequence[Panel]]]
) -> tuple[list[tuple[int, int, Panel, str]], list[float]]:
    """Row, column and edge of each panel, and the inches of each row. A panel without an edge is words alone."""
    rows, places, highs = 0, [], []
    for examples, neighbors in groups:
        places += [(rows + row, 0, panel, STYLES[1].colour) for row, panel in enumerate(examples)]
        each = 1 + len(maps)  # rows that a row of neighbours takes with its maps
        for n, panel in enumerate(neighbors):
            row, column = rows + n // _ACROSS * each, 1 + n % _ACROSS
            places.append((row, column, panel, RULE))
            places += [(row + down, column, row_of[n], RULE) for down, (_, row_of) in enumerate(maps, start=1)]
        beside = -(-len(neighbors) // _ACROSS) * each
        named = [row for row in range(beside) if row % each and row >= len(examples)]  # rows of maps alone
        places += [(rows + row, 0, maps[row % each - 1][0], "") for row in named]
        count = max(len(examples), beside, 1)
        highs += [_CELL + (_MAP_WORDS if row in named else _WORDS) for row in range(count)]
        rows += count
    return places, highs


def _write(
    path: Path | None,
    groups: Sequence[tuple[Sequence[Panel], Sequence[Panel]]],
    notes: Sequence[str],
    maps: Sequence[tuple[Panel, Sequence[Panel]]] = (),
) -> Figure:
    """Groups of examples and neighbours, one below the other, and words below all of it.

    `maps` are rows below each row of neighbours, with what they are.
    """
    import matplotlib

    if path is not None:
        check_montage(path)
    across = 1 + max(2, *(min(_ACROSS, len(neighbors)) for _, neighbors in groups))
    wide = across * _CELL
    places, highs = _places(groups, maps)
    words = [line for text in notes for line in textwrap.wrap(text, int(wide * _ACROSS_INCH))]
    high = sum(highs) + _FOOT + _LINE * len(words)
    with matplotlib.rc_context({**SETTINGS, "text.parse_math": False}):  # a $ in a name is a $
        figure = new_figure(wide, high)
        for row, column, panel, edge in places:
            left, top, size = column * _CELL + _GAP, high - sum(highs[:row]) - _GAP, _CELL - 2 * _GAP
            _draw(figure.add_axes((left / wide, (top - size) / high, size / wide, size / high)), panel, edge)
        figure.text(_GAP / wide, 0.08 / high, "\n".join(words), fontsize=SMALL, color=SOFT, linespacing=1.25)
        if path is not None:
            panels = [panel for _, _, panel, _ in places]
            _save(path, figure, [panel.image_id for panel in panels if panel.image_id])
    return figure


def _save(path: Path, figure: Figure, ids: Sequence[str]) -> None:
    try:
        with written_aside(path) as partial, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Glyph")  # a box stands for a letter that the font lacks
            figure.savefig(partial, format=path.suffix[1:].lower(), dpi=_DPI, metadata=_metadata(path, ids))
    except OSError as error:
        raise CaseIndexError(f"{path}: cannot be written ({error.strerror or error}); give another `montage`") from None


def _metadata(path: Path, ids: Sequence[str]) -> dict[str, str | None]:
    """Whose pictures these are, so that `forget` finds them; no date: the same search gives the same file."""
    listed = json.dumps(list(dict.fromkeys(ids)), ensure_ascii=False)
    if path.suffix.lower() == ".png":
        return {"Software": None, "cxr_embed image_id": listed}
    return {"CreationDate": None, "Keywords": listed}


def _draw_picture(axes: Axes, pixels: np.ndarray) -> None:
    low, high = np.percentile(pixels, (0.5, 99.5))
    axes.imshow(pixels, cmap="gray", vmin=low, vmax=max(high, low + 1), interpolation="antialiased")


def _draw_box(axes: Axes, box: tuple[float, ...]) -> None:
    from matplotlib.patches import Rectangle

    left, upper, width, height = box
    axes.add_patch(Rectangle((left, upper), width, height, fill=False, edgecolor=STYLES[1].colour, linewidth=0.8))


def _draw(axes: Axes, panel: Panel, edge: str) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    if not edge:
        _draw_name(axes, panel)
        return
    for side in axes.spines.values():
        side.set_visible(True)
        side.set_color(edge)
        side.set_linewidth(2.2 if edge != RULE else 0.8)
    if panel.pixels is None:
        words = panel.why or panel.title
        axes.set_facecolor("#F4F4F4")
        axes.text(0.5, 0.5, textwrap.fill(words, 26), ha="center", va="center", transform=axes.transAxes, wrap=True)
    else:
        axes.set_facecolor("black")
        _draw_picture(axes, panel.pixels)
        axes.set_aspect("equal", adjustable="datalim")  # a picture that is not square gets black margins
        if panel.part is not None:
            _draw_box(axes, panel.part.box)
            corner = axes.inset_axes(_CORNER)
            corner.set_axis_off()
            _draw_picture(corner, panel.part.whole)
            _draw_box(corner, panel.part.place)
    lines = [short(line, _LETTERS + 2) for line in panel.lines]
    axes.text(
        0,
        -0.03,
        short(panel.title, _LETTERS),
        transform=axes.transAxes,
        va="top",
        fontsize=NORMAL,
        weight="bold",
        color=INK,
    )
    axes.text(
        0, -0.115, "\n".join(lines), transform=axes.transAxes, va="top", fontsize=SMALL, color=INK, linespacing=1.25
    )


def _draw_name(axes: Axes, panel: Panel) -> None:
    """What a row of maps is, and its colours."""
    axes.set_axis_off()
    axes.text(0.97, 0.6, panel.why, ha="right", va="center", transform=axes.transAxes, fontsize=NORMAL, color=INK)
    if panel.pixels is not None:
        bar = axes.inset_axes((0.35, 0.38, 0.62, 0.035))
        bar.imshow(panel.pixels, aspect="auto")
        bar.set_axis_off()
        for place, side, word in ((0.35, "left", "0"), (0.97, "right", "highest")):
            axes.text(place, 0.36, word, ha=side, va="top", transform=axes.transAxes, fontsize=SMALL, color=SOFT)
