"""Where findings are, as people mark it: boxes, outlines and masks, from the files that data sets and detectors write.

All of them become `Places`: for an image and a finding, boxes and masks in pixels of the picture.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cxr_embed.datasets.boxes import read_mask
from cxr_embed.errors import ManifestError, MapError
from cxr_embed.explanation.coco import coco_places, mask_of_segmentation
from cxr_embed.manifest.rows import Rows, read_rows
from cxr_embed.regions import Box as RegionBox

Box = tuple[float, float, float, float]
_IMAGES = ("image_id", "Image Index", "patientId", "file_name", "image")
_FINDINGS = ("finding", "class_name", "Finding Label", "category", "label")
_SIZES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("Bbox [x", "y", "w", "h]"))
_CORNERS = (("x_min", "y_min", "x_max", "y_max"), ("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"))
_SUFFIXES = (".png", ".jpg", ".jpeg", ".dcm", ".dicom")
_OVER = 1.0  # pixels that a box may reach beyond the picture: rounding
_MISSING = "no such file or folder of boxes or masks"


@dataclass(frozen=True)
class Place:
    """One mark of one reader.

    Attributes:
        box: left and upper edge, width and height in pixels; None where there is a mask.
        mask: what `mask_of` makes an array of: a cell of a table of boxes, an entry of COCO's kind, or a PNG file.
    """

    box: Box | None = None
    mask: Any = None


@dataclass(frozen=True)
class Places:
    """Where findings are.

    Attributes:
        source: of the file, for messages.
        marks: by image and finding.
        scored: whether marks have scores, as a detector's do.
        drawn_on: rows and columns of the pictures that they were drawn on; None for those that are explained.
    """

    source: str
    marks: Mapping[tuple[str, str], list[Place]] = field(default_factory=dict)
    scored: bool = False
    drawn_on: tuple[int, int] | None = None

    @property
    def findings(self) -> tuple[str, ...]:
        """Names, in the file's order."""
        return tuple(dict.fromkeys(finding for _, finding in self.marks))

    def mask(self, image: str, finding: str, shape: tuple[int, int]) -> np.ndarray:
        """Where a finding is in a picture, all marks of it together.

        Args:
            image, finding: as they are named in `marks`.
            shape: rows and columns of the picture.

        Returns:
            `shape` bool.

        Raises:
            MapError: for a box that is not inside the picture, or a mask of another size.
        """
        whole = np.zeros(shape, bool)
        where = f"{self.source}: {finding} in {image}"
        drawn = self.drawn_on or shape
        for place in self.marks[image, finding]:
            if place.mask is not None:
                marked = _mask_of(place.mask, drawn, where)
                if marked.shape != drawn:
                    sizes = f"{marked.shape[1]} x {marked.shape[0]} pixels, the picture {drawn[1]} x {drawn[0]}"
                    raise MapError(f"{where}: the mask has {sizes}; say with `drawn_on` what it was drawn on")
                whole |= marked if drawn == shape else _resized(marked, shape)
            elif place.box is not None:
                rows, columns = _pixels(place.box, drawn, shape, where)
                whole[rows, columns] = True
        return whole


class Mark(NamedTuple):
    """One mark, as a row or an entry of a file has it: `score` is a detector's."""

    image: str
    finding: str
    place: Place
    score: float | None


def read_places(path: Path, min_score: float | None = None, drawn_on: tuple[int, int] | None = None) -> Places:
    """Reads boxes or masks.

    Args:
        path, min_score: as `read_marks` takes them.
        drawn_on: rows and columns of the pictures that the marks were drawn on, if not those that are explained.

    Raises:
        MapError: for anything else, or a damaged file.
    """
    marks: dict[tuple[str, str], list[Place]] = {}
    found = read_marks(path, min_score)
    for mark in found:
        marks.setdefault((mark.image, mark.finding), []).append(mark.place)
    return Places(str(path), marks, any(mark.score is not None for mark in found), drawn_on)


def read_marks(path: Path, min_score: float | None = None) -> list[Mark]:
    """Reads boxes or masks, in the file's order.

    Args:
        path: a CSV or Parquet file of boxes (`image_id`, `finding`, `x`, `y`, `width`, `height`, perhaps `mask`, as
            `manifest scan` writes it; corners, as VinDr-CXR has them, are read too), a JSON file (COCO's, or
            CheXlocalize's annotations or segmentations), or a folder of masks, `FINDING/IMAGE_ID.png`.
        min_score: boxes of a detector that count: those that it scored at least so high; all by default.

    Raises:
        MapError: for anything else, a damaged file, or one without any mark that counts.
    """
    try:
        if path.is_dir():
            found = list(_of_folder(path))
        elif path.suffix.lower() == ".json":
            found = list(_of_json(path))
        else:
            found = list(_of_table(path))
    except OSError as error:
        raise MapError(f"{path}: cannot be read ({error.strerror})") from None
    if min_score is not None and all(mark.score is None for mark in found):
        raise MapError(f"{path}: no box has a score, so `min_score` leaves nothing to choose")
    kept = [mark for mark in found if min_score is None or (mark.score is not None and mark.score >= min_score)]
    if not kept:
        more = f" with a score of {min_score:g} or more" if min_score is not None and found else ""
        raise MapError(f"{path}: no box and no mask of a finding{more}")
    return kept


def picture_shape(drawn_on: tuple[int, int] | None) -> tuple[int, int] | None:
    """Rows and columns of a picture of a width and height.

    Raises:
        MapError: for numbers that cannot be those of a picture.
    """
    if drawn_on is None:
        return None
    width, height = drawn_on
    if min(width, height) < 1 or width * height > 1 << 28:
        raise MapError(f"`drawn_on` is the width and height of a picture, not {width} x {height}")
    return height, width


def box_of(mark: Mark, source: str, drawn_on: tuple[int, int] | None) -> RegionBox:
    """The box of a mark; of a mask or outlines, the box around what is marked.

    Args:
        mark: of the file.
        source: the file, for messages.
        drawn_on: rows and columns of the picture that it was drawn on, if not the file's own; a mask says it itself.

    Raises:
        MapError: for a mask that cannot be read, or in which nothing is marked.
    """
    size = None if drawn_on is None else (drawn_on[1], drawn_on[0])
    if mark.place.box is not None:
        return RegionBox(*mark.place.box, size)
    where = f"{source}: {mark.finding} in {mark.image}"
    outlines = mark.place.mask.get("coco") if isinstance(mark.place.mask, dict) else None
    if outlines:  # in a picture whose size they do not say
        points = np.concatenate([np.asarray(outline, np.float64).reshape(-1, 2) for outline in outlines])
        low, high = points.min(axis=0), points.max(axis=0)
        width, height = np.maximum(high - low, 1).tolist()
        return RegionBox(float(low[0]), float(low[1]), width, height, size)
    marked = _mask_of(mark.place.mask, drawn_on or (0, 0), where)
    rows, columns = (np.flatnonzero(marked.any(axis=axis)) for axis in (1, 0))
    if not len(rows):
        raise MapError(f"{where}: nothing is marked in its mask")
    left, upper, width, height = columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    return RegionBox(float(left), float(upper), float(width), float(height), (marked.shape[1], marked.shape[0]))


def _of_folder(path: Path) -> Iterator[Mark]:
    """`FINDING/IMAGE_ID.png`: what is not 0 is marked."""
    for file in sorted(path.glob("*/*.png")):
        yield Mark(file.stem, file.parent.name, Place(mask=file), None)


def _of_table(path: Path) -> Iterator[Mark]:
    try:
        rows, problems = read_rows(path, _MISSING)
    except ManifestError as error:
        raise MapError(str(error)) from None
    if problems:
        raise MapError(f"{path}: {problems[0]}")
    image, finding = _column(path, rows, _IMAGES), _column(path, rows, _FINDINGS)
    names = next((names for names in (*_SIZES, *_CORNERS) if rows.has(*names)), None)
    if names is None and not rows.has("mask"):
        raise MapError(f"{path}: no columns of boxes; name them x, y, width, height or x_min, y_min, x_max, y_max")
    cells = [rows.table[name].to_pylist() for name in names or ()]
    blank = [""] * len(rows.table)
    masks = rows.table["mask"].to_pylist() if rows.has("mask") else blank
    scores = rows.table["score"].to_pylist() if rows.has("score") else blank
    for number, (name, what) in enumerate(zip(image, finding, strict=True)):
        edges = [column[number] for column in cells]
        where = f"{path}: {rows.unit} {rows.places[number]}"
        if masks[number]:
            place = Place(mask=masks[number])
        elif any(edges):
            place = Place(box=_box([_number(cell, where) for cell in edges], names in _CORNERS, where))
        else:
            continue  # a row that says that nothing is there
        yield Mark(image_name(name), what, place, _number(scores[number], where) if scores[number] else None)


def _of_json(path: Path) -> Iterator[Mark]:
    try:
        body = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise MapError(f"{path}: damaged, not JSON") from None
    try:
        if isinstance(body, list) or (isinstance(body, dict) and "annotations" in body):
            for image, finding, box, segmentation, score in coco_places(body):
                where = f"{path}: {finding} in {image}"
                place = Place(mask=segmentation) if segmentation else Place(box=_box(box, False, where))
                yield Mark(image_name(image), finding, place, score)
        elif isinstance(body, dict) and all(isinstance(entry, dict) for entry in body.values()):
            yield from _of_chexlocalize(body)
        else:
            raise ValueError("neither COCO's nor CheXlocalize's")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise MapError(f"{path}: not a file of boxes or masks that is known here ({error})") from None


def _of_chexlocalize(body: dict[str, dict[str, Any]]) -> Iterator[Mark]:
    """`{image: {finding: {size, counts}}}`, or `{image: {img_size, finding: outlines}}`."""
    for image, entry in body.items():
        size = entry.get("img_size")
        for finding, marks in entry.items():
            if isinstance(marks, dict):
                yield Mark(image, finding, Place(mask=marks), None)
            elif finding != "img_size" and marks:
                yield Mark(image, finding, Place(mask={"outlines": marks, "size": size}), None)


def _column(path: Path, rows: Rows, names: Iterable[str]) -> list[str]:
    for name in names:
        if rows.has(name):
            return [str(cell) for cell in rows.table[name].to_pylist()]
    raise MapError(f"{path}: no column {' or '.join(names)}")


def image_name(name: str) -> str:
    """An image's id: its file's name without what says the format."""
    for suffix in _SUFFIXES:
        if name.lower().endswith(suffix):
            return name[: -len(suffix)].rpartition("/")[2]
    return name


def _number(cell: str, where: str) -> float:
    try:
        value = float(cell)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise MapError(f"{where}: {cell[:40]!r} is not a number")
    return value


def _box(edges: Iterable[float], corners: bool, where: str) -> Box:
    left, upper, third, fourth = (float(edge) for edge in edges)
    box = (left, upper, third - left, fourth - upper) if corners else (left, upper, third, fourth)
    if not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
        raise MapError(f"{where}: a box of {box[2]:g} x {box[3]:g} pixels")
    return box


def _pixels(box: Box, drawn: tuple[int, int], shape: tuple[int, int], where: str) -> tuple[slice, slice]:
    """The pixels of a picture of `shape` whose centres a box holds, one at least; the box is of one of `drawn`."""
    left, upper, width, height = box
    rows, columns = drawn
    if min(left, upper) < -_OVER or left + width > columns + _OVER or upper + height > rows + _OVER:
        raise MapError(
            f"{where}: a box of {width:g} x {height:g} at {left:g}, {upper:g} is not inside the picture of {columns} x "
            f"{rows} pixels; boxes of another scale? Say with `drawn_on` what size of picture they were drawn on"
        )
    down, across = shape[0] / rows, shape[1] / columns
    return _span(upper * down, height * down, shape[0]), _span(left * across, width * across, shape[1])


def _resized(mask: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """A mask as it is in a picture of another size: each pixel is what its centre is."""
    rows, columns = (
        ((np.arange(side) + 0.5) * of / side).astype(np.int64) for side, of in zip(shape, mask.shape, strict=True)
    )
    return np.asarray(mask[rows[:, None], columns])


def _span(edge: float, size: float, pixels: int) -> slice:
    first, last = math.ceil(edge - 0.5), math.ceil(edge + size - 0.5)
    first = min(max(first, 0), pixels - 1)
    return slice(first, min(max(last, first + 1), pixels))


def _mask_of(mask: Any, shape: tuple[int, int], where: str) -> np.ndarray:
    try:
        if isinstance(mask, Path):
            from PIL import Image

            with Image.open(mask) as picture:
                return np.asarray(picture.convert("L")) > 0
        return read_mask(mask) if isinstance(mask, str) else mask_of_segmentation(mask, shape)
    except (ValueError, TypeError, KeyError, IndexError, OSError) as error:
        raise MapError(f"{where}: no mask ({error})") from None
