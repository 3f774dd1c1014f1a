"""A picture of a search: the query, and its neighbours with what is known of them."""

from __future__ import annotations

import json
import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.answers import check_target
from cxr_embed.index.queries import Examples
from cxr_embed.io.files import written_aside
from cxr_embed.present.numbers import format_threshold
from cxr_embed.reporting.drawing import INK, NORMAL, RULE, SETTINGS, SMALL, SOFT, STYLES, new_figure, short
from cxr_embed.reporting.panels import (
    LETTERS,
    Likeness,
    Mapped,
    Panel,
    Places,
    case_panel,
    describe_case,
    file_panel,
    name_end,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".pdf")
_ACROSS, _DPI = 5, 150  # neighbours in a row, dots an inch
_CELL, _WORDS, _GAP, _FOOT = 2.1, 0.8, 0.06, 0.2  # inches of a panel, its words, its margin, and below the last line
_MAP_WORDS = 0.72  # inches, of the words below a map
_LINE, _ACROSS_INCH = 0.15, 15  # inches of a line at the bottom, and letters in an inch of it
_CORNER = (0.68, 0.68, 0.32, 0.32)  # of a panel, where the whole picture of a region is


def check_montage(path: Path) -> None:
    """Refuses a file that `write_montage` could not write.

    Raises:
        CaseIndexError: for another suffix, a folder, or a place that is none.
    """
    check_target(path, SUFFIXES, "a montage is", "`montage`")


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
        examples += [file_panel(file, sign, [name_end(file.name)], box=given.box) for file in given.files]
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
    lines = [short(line, LETTERS + 2) for line in panel.lines]
    axes.text(
        0,
        -0.03,
        short(panel.title, LETTERS),
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
