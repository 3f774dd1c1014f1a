"""A cohort as files: images, a manifest, and a table of what is true of them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from cxr_embed.errors import CxrEmbedError
from cxr_embed.io.files import new_folder
from cxr_embed.phantom.cohort import Study, render_study, sample_studies
from cxr_embed.phantom.findings import FINDINGS, PhantomFinding
from cxr_embed.phantom.physics import BITS
from cxr_embed.phantom.render import Phantom

Format = Literal["png", "dicom"]
MIN_SIZE, MAX_SIZE = 64, 2048
_COLUMNS = ("image_id", "path", "patient_id", "study_date", "view", "age", "sex", "split", "source", *FINDINGS)
_BOX_COLUMNS = (
    *("image_id", "finding", "side", "grade", "severity", "zone", "kind", "diameter_mm", "ctr"),
    *("x", "y", "width", "height"),
)
_PART = 0.08  # of a finding's area from which on a separate piece of it gets a box of its own


def write_phantoms(
    out: str | os.PathLike[str],
    count: int,
    seed: int = 0,
    format: Format = "png",
    size: int = 512,
    progress: Callable[[int], object] | None = None,
    masks: bool = False,
) -> list[Study]:
    """Writes a cohort: `images/`, `manifest.csv` and `truth.csv`.

    `truth.csv` has one row a box: finding, side, severity and the box in pixels, as NIH's table of boxes has them; a
    finding on both sides has two. A run that ends early leaves nothing behind.

    Args:
        out: a folder that does not exist yet, or is empty.
        count: images.
        seed: of the cohort.
        format: `png` (8 bits) or `dicom` (12 bits).
        size: pixels on a side.
        progress: called with the number of images written so far.
        masks: also writes where each finding of an image is seen, `masks/FINDING/IMAGE_ID.png`: 8 bits, 255 there and 0
            elsewhere, of the image's size.

    Returns:
        The studies, in the order of the manifest.

    Raises:
        CxrEmbedError: for a folder with something in it, a number out of range, or a disk that cannot take it.
    """
    target = Path(out)
    if count < 1 or not MIN_SIZE <= size <= MAX_SIZE or seed < 0:
        raise CxrEmbedError(
            f"phantoms: count is 1 or more, size from {MIN_SIZE} to {MAX_SIZE}, seed 0 or more; "
            f"got {count}, {size} and {seed}"
        )
    studies = sample_studies(count, seed)
    with new_folder(target, CxrEmbedError) as partial:
        _write_cohort(partial, studies, format, size, masks, progress)
    return studies


def _write_cohort(
    folder: Path, studies: list[Study], format: Format, size: int, masks: bool, progress: Callable[[int], object] | None
) -> None:
    for name in ("images", "masks") if masks else ("images",):
        (folder / name).mkdir()
    box_rows: list[list[object]] = []
    for number, boxes in enumerate(_write_images(folder, studies, format, size, masks), 1):
        box_rows += boxes
        if progress:
            progress(number)
    _write(folder / "manifest.csv", _table(_COLUMNS, [_row(study, format) for study in studies]))
    _write(folder / "truth.csv", _table(_BOX_COLUMNS, box_rows))


def _write_images(
    folder: Path, studies: list[Study], format: Format, size: int, masks: bool
) -> Iterator[list[list[object]]]:
    """Writes each study's files and gives its rows of boxes, in order; NumPy leaves threads to run side by side."""

    def write_one(study: Study) -> list[list[object]]:
        phantom = render_study(study, size)
        # Data sets of PNG files have 8 bits: the detector's 12 are rounded down.
        data = _dicom(study, phantom) if format == "dicom" else _png(phantom.pixels >> (BITS - 8))
        _write(folder / _path(study, format), data)
        for name, mask in phantom.masks.items() if masks else ():
            (folder / "masks" / name).mkdir(exist_ok=True)
            _write(folder / "masks" / name / f"{study.image_id}.png", _png(mask * np.uint8(255)))
        return [row for finding in phantom.findings for row in _box_rows(study, phantom, finding)]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        yield from pool.map(write_one, studies)


def _png(pixels: np.ndarray) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.png_encode(pixels.astype(np.uint8), level=1))


def _dicom(study: Study, phantom: Phantom) -> bytes:
    # pydicom takes longer to load than many phantoms to draw.
    from cxr_embed.phantom.dicom import dicom_bytes

    return dicom_bytes(study, phantom)


def _path(study: Study, format: Format) -> str:
    return f"images/{study.image_id}.{'dcm' if format == 'dicom' else 'png'}"


def _row(study: Study, format: Format) -> list[object]:
    names = {finding.name for finding in study.findings}
    described = (study.image_id, _path(study, format), study.patient.patient_id, study.date, study.view)
    return [
        *described,
        study.age,
        study.patient.sex,
        study.split,
        "phantom",
        *(int(name in names) for name in FINDINGS),
    ]


def _box_rows(study: Study, phantom: Phantom, finding: PhantomFinding) -> Iterator[list[object]]:
    """One row a box."""
    size = f"{finding.diameter_mm:.0f}" if finding.diameter_mm else ""
    severity = f"{finding.severity:.2f}" if finding.grade else ""
    ctr = f"{phantom.ctr:.2f}" if finding.name == "Cardiomegaly" else ""
    for side, box in boxes(phantom.masks[finding.name], finding.side):
        what = (study.image_id, finding.name, side, finding.grade, severity, finding.zone)
        yield [*what, finding.kind, size, ctr, *box]


def boxes(mask: np.ndarray, side: str) -> Iterator[tuple[str, tuple[int, int, int, int]]]:
    """Where a finding is: its side, and x, y, width and height of the pixels that it covers.

    Args:
        mask: `(S, S)` bool.
        side: of the finding; `both` gives a box for each half of the image.
    """
    middle = mask.shape[1] // 2
    if side != "both":
        yield from ((side, box) for box in _box(mask, 0))
        return
    yield from (("right", box) for box in _box(mask[:, :middle], 0))
    yield from (("left", box) for box in _box(mask[:, middle:], middle))


def _box(mask: np.ndarray, left: int) -> list[tuple[int, int, int, int]]:
    """The box of all pieces that are large enough to matter; none where there are none."""
    pieces, _ = ndimage.label(mask)
    areas = np.bincount(pieces.ravel())[1:]
    rows, columns = np.nonzero(np.isin(pieces, 1 + np.flatnonzero(areas >= _PART * areas.sum())))
    if not len(rows):
        return []
    x, y = int(columns.min()), int(rows.min())
    return [(left + x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1)]


def _table(columns: tuple[str, ...], rows: list[list[object]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode()


def _write(path: Path, data: bytes) -> None:
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
