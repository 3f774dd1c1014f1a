"""Where a data set says that its findings are: boxes, and masks in run lengths."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np

from cxr_embed.datasets.image_rows import ImageRows, mapped
from cxr_embed.datasets.recipe_parts import Boxes, Outlines, Runs, Source
from cxr_embed.datasets.table_formats import transposed, written_list
from cxr_embed.datasets.tables import DataTable
from cxr_embed.types import counted

COLUMNS = ("image_id", "finding", "x", "y", "width", "height")
_MORE = ("reader", "mask")  # columns that only some data sets have
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e-?\d+)?", re.IGNORECASE)
_MASK = re.compile(r"(\d+) x (\d+): (\d+(?: \d+)*)")


def boxes_path(manifest: Path) -> Path:
    """The file of boxes beside a manifest."""
    return manifest.with_suffix(".boxes.csv")


class BoxTable:
    """The boxes of a data set, a row each, while they are gathered.

    `x` and `y` are the left and upper edge, in pixels of the image as published, from 0; `mask` is `rows x columns: `
    and run lengths down the columns, first of what is not marked (COCO's uncompressed run lengths).
    """

    def __init__(self, boxes: Sequence[Boxes]) -> None:
        self._boxes = boxes
        self._rows: dict[str, list[dict[str, str]]] = {}
        self.problems: list[str] = []

    def add(self, path: str, image: ImageRows) -> None:
        """The boxes of one image, which goes by its path until the ids are final."""
        for boxes in self._boxes:
            table = image.tables[boxes.in_]
            for row in image.rows.get(boxes.in_, ()):
                try:
                    self._rows.setdefault(path, []).extend(_boxes(boxes, table, row))
                except ValueError as error:
                    self.problems.append(f"{path}: {error}")

    def columns(self, paths: Sequence[str], ids: Sequence[str]) -> dict[str, list[str]]:
        """The table, in the order of the images; no columns where there is no box."""
        rows = [
            {"image_id": own, **row} for path, own in zip(paths, ids, strict=True) for row in self._rows.get(path, ())
        ]
        there = [name for name in _MORE if any(row.get(name) for row in rows)]
        return {name: [row.get(name, "") for row in rows] for name in (*COLUMNS, *there)} if rows else {}


def _boxes(boxes: Boxes, table: DataTable, row: int) -> Iterator[dict[str, str]]:
    """The boxes of one row of a table."""
    shared = {"reader": _value(boxes.reader, table, row) if boxes.reader else ""}
    finding = boxes.finding if isinstance(boxes.finding, str) else _value(boxes.finding, table, row)
    if boxes.runs is not None:
        if runs := _cell(table, boxes.runs.column, row):
            yield from ({"finding": finding, **box, **shared} for box in _of_runs(runs, boxes.runs))
        return
    edges = list(_edges(boxes, table, row))
    named = [finding] * len(edges)
    if boxes.lists and isinstance(boxes.finding, Source):
        named = [mapped(name, boxes.finding.map) for name in written_list(_raw(boxes.finding, table, row))]
        if len(named) != len(edges):
            these = counted(len(named), "finding"), counted(len(edges), "box", "boxes")
            raise ValueError(f"{these[0]} and {these[1]} in one row")
    masks = _masks(boxes.outlines, table, row, len(edges))
    for name, mask, (left, upper, third, fourth) in zip(named, masks, edges, strict=True):
        corners = boxes.corners is not None or boxes.corner_list
        width, height = (third - left, fourth - upper) if corners else (third, fourth)
        if width < 0 or height < 0:
            raise ValueError(f"a box of {width} x {height} pixels")
        sides = {"x": _plain(left), "y": _plain(upper), "width": _plain(width), "height": _plain(height)}
        yield {"finding": name, **sides, **({"mask": mask} if mask else {}), **shared}


def _masks(outlines: Outlines | None, table: DataTable, row: int, count: int) -> list[str]:
    """A mask for each box of a row; blank where the data set has none."""
    cells = written_list(_cell(table, outlines.column, row)) if outlines is not None else []
    if outlines is None or not cells:
        return [""] * count
    if len(cells) != count:
        raise ValueError(f"{counted(len(cells), 'outline')} and {counted(count, 'box', 'boxes')} in one row")
    return [_of_outline(cell, outlines) for cell in cells]


def _of_outline(cell: str, outlines: Outlines) -> str:
    """The mask of what lies inside an outline, or on it."""
    from PIL import Image, ImageDraw

    numbers = [[_number(number) for number in written_list(point)] for point in written_list(cell)]
    points = [(int(point[0]), int(point[1])) for point in numbers if len(point) == 2]
    if len(points) != len(numbers) or len(points) < 3:
        raise ValueError(f"an outline that is no list of three points or more: {cell[:40]!r}")
    if any(not (0 <= x < outlines.columns and 0 <= y < outlines.rows) for x, y in points):
        raise ValueError(f"an outline that does not fit {outlines.rows} x {outlines.columns} pixels")
    left, upper = min(x for x, _ in points), min(y for _, y in points)
    # Only what is around it: data sets have thousands.
    picture = Image.new("L", (max(x for x, _ in points) - left + 1, max(y for _, y in points) - upper + 1))
    ImageDraw.Draw(picture).polygon([(x - left, y - upper) for x, y in points], fill=1, outline=1)
    columns, rows = np.nonzero(np.asarray(picture).T)
    marked = (columns + left) * outlines.rows + rows + upper  # down the columns of the whole
    first = np.diff(marked, prepend=-2) != 1  # of a run
    starts, ends = marked[first], marked[np.roll(first, -1)] + 1
    edges = np.stack([starts, ends], axis=1).ravel()
    runs = np.diff(edges, prepend=0, append=outlines.rows * outlines.columns)
    return mask_text(runs, outlines.rows, outlines.columns)


def _edges(boxes: Boxes, table: DataTable, row: int) -> Iterator[list[Decimal]]:
    """Four numbers a box."""
    if boxes.one is not None:
        cell = _cell(table, boxes.one, row)
        cells = [" ".join(map(str, written_list(item))) for item in written_list(cell)] if boxes.lists else [cell]
        if not boxes.lists and cell.startswith("["):
            cells = [" ".join(written_list(cell))]
        rows: Iterator[Sequence[str]] = (re.split(r"[\s,;]+", each.strip("[]{}() ")) for each in cells if each)
    else:
        columns = [_cell(table, name, row) for name in boxes.corners or boxes.size or []]
        rows = transposed([written_list(cell) for cell in columns]) if boxes.lists else iter([columns])
    for each in rows:
        if any(each):
            yield [_number(cell) for cell in _four(each)]


def _four(cells: Sequence[str]) -> Sequence[str]:
    if len(cells) != 4:
        raise ValueError(f"a box of {counted(len(cells), 'number')}: {' '.join(cells)[:60]!r}")
    return cells


def _number(cell: str) -> Decimal:
    if not _NUMBER.fullmatch(cell):
        raise ValueError(f"a box with {cell[:40]!r} for a number")
    try:
        return Decimal(cell)
    except InvalidOperation:
        raise ValueError(f"a box with {cell[:40]!r} for a number") from None


def _plain(number: Decimal) -> str:
    """A number as it was written, without a point where it is whole."""
    return str(int(number)) if number == number.to_integral_value() else format(number.normalize(), "f")


def _of_runs(cell: str, runs: Runs) -> Iterator[dict[str, str]]:
    """The mask of a row, and the box around it."""
    if cell.strip() == "-1":
        return
    try:
        counts = [int(word) for word in cell.split()]
    except ValueError:
        raise ValueError(f"run lengths with {cell[:40]!r}") from None
    if len(counts) % 2 or min(counts) < 0 or sum(counts) > runs.rows * runs.columns:
        raise ValueError(f"run lengths that do not fit {runs.rows} x {runs.columns} pixels")
    mask = mask_text(np.array([*counts, runs.rows * runs.columns - sum(counts)]), runs.rows, runs.columns)
    marked = read_mask(mask)
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    if not len(rows):
        return
    sides = (columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1)
    yield {**dict(zip(("x", "y", "width", "height"), map(str, sides), strict=True)), "mask": mask}


def mask_text(counts: np.ndarray, rows: int, columns: int) -> str:
    """Run lengths as a cell of a table of boxes."""
    return f"{rows} x {columns}: {' '.join(map(str, counts.tolist()))}"


def read_mask(text: str) -> np.ndarray:
    """The mask of a cell in a table of boxes.

    Args:
        text: `rows x columns: ` and run lengths down the columns, first of what is not marked.

    Returns:
        `(rows, columns)` bool; True is marked.

    Raises:
        ValueError: for another text, or run lengths that do not add up.
    """
    match = _MASK.fullmatch(text)
    if not match:
        raise ValueError(f"no mask in run lengths: {text[:60]!r}")
    rows, columns = int(match[1]), int(match[2])
    counts = np.array(match[3].split(), dtype=np.int64)
    if counts.sum() != rows * columns or rows * columns > 1 << 28:
        raise ValueError(f"run lengths that do not fit {rows} x {columns} pixels: {text[:60]!r}")
    marked = np.zeros(len(counts), bool)
    marked[1::2] = True
    return np.repeat(marked, counts).reshape(columns, rows).T


def _cell(table: DataTable, column: str, row: int) -> str:
    return table.columns[column][row] if column in table.columns else ""


def _raw(source: Source, table: DataTable, row: int) -> str:
    return next((_cell(table, name, row) for name in source.table or [] if name in table.columns), "")


def _value(source: Source, table: DataTable, row: int) -> str:
    return mapped(_raw(source, table, row), source.map)
