"""COCO's files: a data set with its categories, a detector's list of results, and its three kinds of masks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cxr_embed.datasets.boxes import mask_text, read_mask

Found = tuple[str, str, Sequence[float], Any, float | None]


def coco_places(body: Any) -> Iterator[Found]:
    """Image, finding, box, segmentation and score of each annotation.

    Args:
        body: a data set (`images`, `categories`, `annotations`), or a list of results that name image and category.

    Raises:
        ValueError, KeyError, TypeError: for other values.
    """
    if isinstance(body, list):
        images: dict[Any, str] = {}
        categories: dict[Any, str] = {}
        annotations = body
    else:
        images = {image["id"]: str(image["file_name"]) for image in body.get("images", [])}
        categories = {category["id"]: str(category["name"]) for category in body.get("categories", [])}
        annotations = body["annotations"]
    for annotation in annotations:
        image = images.get(annotation["image_id"], annotation["image_id"])
        finding = annotation.get("category") or categories.get(annotation.get("category_id"))
        if not isinstance(image, str) or not isinstance(finding, str):
            raise ValueError(
                "its numbers of images and categories are not named: put its list as `annotations` into the data "
                "set's own COCO file"
            )
        score = annotation.get("score")
        segmentation = annotation.get("segmentation")
        outlines = {"coco": segmentation} if isinstance(segmentation, list) and segmentation else segmentation
        yield image, finding, annotation["bbox"], outlines, None if score is None else float(score)


def mask_of_segmentation(segmentation: dict[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """The mask of an entry.

    Args:
        segmentation: `{size, counts}`, run lengths as a list or as COCO writes them; `{outlines, size}`, lists of
            points; or `{coco}`, lists of x, y, x, y, ...
        shape: rows and columns of the picture, which COCO's outlines are drawn into.

    Returns:
        `(rows, columns)` bool.

    Raises:
        ValueError, KeyError, TypeError: for other values.
    """
    if "coco" in segmentation:
        flat = [np.asarray(outline, np.float64).reshape(-1, 2) for outline in segmentation["coco"]]
        return _drawn(flat, shape)
    rows, columns = (int(side) for side in segmentation["size"])
    if min(rows, columns) < 1 or rows * columns > 1 << 28:
        raise ValueError(f"a mask of {columns} x {rows} pixels")
    if "outlines" in segmentation:
        return _drawn([np.asarray(outline, np.float64) for outline in segmentation["outlines"]], (rows, columns))
    counts = segmentation["counts"]
    runs = _runs(counts) if isinstance(counts, str) else [int(count) for count in counts]
    return read_mask(mask_text(np.array(runs, np.int64), rows, columns))


def _drawn(outlines: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """What is inside outlines `(P, 2)` of x and y, or on them."""
    from PIL import Image, ImageDraw

    picture = Image.new("1", (shape[1], shape[0]))
    for points in outlines:
        if points.ndim != 2 or points.shape[1] != 2 or len(points) < 3 or not np.isfinite(points).all():
            raise ValueError("an outline that is no list of three points or more")
        if points.min() < -1 or points[:, 0].max() > shape[1] + 1 or points[:, 1].max() > shape[0] + 1:
            raise ValueError(f"an outline that is not inside {shape[1]} x {shape[0]} pixels")
        ImageDraw.Draw(picture).polygon([(x, y) for x, y in points.tolist()], fill=1, outline=1)
    return np.asarray(picture)


def _runs(text: str) -> list[int]:
    """Run lengths of COCO's text: five bits a letter, lowest first; from the fourth on, less the one two before."""
    runs: list[int] = []
    value = shift = 0
    for letter in text.encode("ascii"):
        bits = letter - 48
        if not 0 <= bits < 64 or shift > 40:
            raise ValueError("run lengths that are not COCO's")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
        value = shift = 0
    if shift or min(runs, default=0) < 0:
        raise ValueError("run lengths that are not COCO's")
    return runs
