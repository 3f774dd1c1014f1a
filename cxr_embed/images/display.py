"""DICOM's stages from a stored value to a displayed one: modality LUT, VOI LUT or window, inversion (PS3.3, C.11).

Each stage is a function of the stored value alone. So they run once, on all 2**BitsStored values, and an image is one
table look-up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cxr_embed.errors import ImageError
from cxr_embed.images.fields import first_item, kind_of, number, numbers, text
from cxr_embed.types import ImageNote

if TYPE_CHECKING:
    from pydicom import Dataset

# A linear window of width w covers w - 1 steps of whole numbers. Where a stored value is a small fraction, a window
# under 2 that covers this many stored values was not written in whole numbers.
_FINE_STEPS = 64


@dataclass(frozen=True, kw_only=True)
class Display:
    """What each stored value from the lowest to the highest is shown as.

    Attributes:
        table: `(high - low + 1,)` uint8 or uint16.
        bits: of a shown value.
        notes: where the header breaks the standard and was read as viewers read it.
    """

    table: np.ndarray
    bits: int
    notes: tuple[ImageNote, ...]


def display_table(dataset: Dataset, low: int, high: int, bits: int) -> Display:
    """The stages of stored values from `low` to `high`, of `bits` bits.

    Raises:
        ImageError: `corrupt` or `unsupported`, for values that no display follows from.
    """
    _raise_functional_groups(dataset)
    stored = np.arange(low, high + 1, dtype=np.int64)
    values = stored.astype(np.float64)
    step = 1.0  # between the values of neighbouring stored values
    full = 0  # the largest value of the last LUT
    notes: list[ImageNote] = []
    modality_lut, voi_lut = first_item(dataset, "ModalityLUTSequence"), first_item(dataset, "VOILUTSequence")
    if modality_lut is not None:
        values, full = _apply_lut(values, dataset, modality_lut)
    elif numbers(dataset, "RescaleSlope") and numbers(dataset, "RescaleIntercept"):
        slope, intercept = number(dataset, "RescaleSlope"), number(dataset, "RescaleIntercept")
        if slope:
            values, step = values * slope + intercept, abs(slope)
        else:
            notes.append("rescale")
    inverted = text(dataset, "PhotometricInterpretation").upper() == "MONOCHROME1"
    inverted = inverted or text(dataset, "PresentationLUTShape").upper() == "INVERSE"
    if not np.isfinite(values).all():
        raise ImageError("corrupt", "the DICOM rescale slope or intercept is not a finite number")
    if voi_lut is not None:
        values, full = _apply_lut(values, dataset, voi_lut)
        share = values / full
    else:
        window, as_written = _first_window(dataset, step)
        if not as_written:
            notes.append("window")
        if window is not None:
            share = _windowed(values, *window)
        elif full:
            share = values / full
        else:
            # Only a linear rescale: it changes the order of values where its slope is negative, nothing else.
            if values[-1] < values[0]:
                inverted = not inverted
            table = (stored - low).astype(np.uint8 if bits <= 8 else np.uint16)
            return Display(table=table[::-1].copy() if inverted else table, bits=bits, notes=tuple(notes))
    table = np.rint(65535 * (1 - share if inverted else share)).astype(np.uint16)
    return Display(table=table, bits=16, notes=tuple(notes))


def _raise_functional_groups(dataset: Dataset) -> None:
    """Multi-frame classes keep the rescale and the window of a frame in functional groups: lifts the first frame's."""
    for keyword in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        groups = first_item(dataset, keyword)
        for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence") if groups is not None else ():
            found = first_item(groups, macro)
            for element in found if found is not None else ():
                if element.tag not in dataset:
                    dataset.add(element)


def _first_window(dataset: Dataset, step: float) -> tuple[tuple[float, float, str] | None, bool]:
    """The first window that can be used: centre, width and function.

    Args:
        dataset: with or without windows.
        step: between the values of neighbouring stored values.

    Returns:
        The window, None where there is none, and whether that is what the header says to the letter.
    """
    pairs = list(zip(numbers(dataset, "WindowCenter"), numbers(dataset, "WindowWidth"), strict=False))
    function = text(dataset, "VOILUTFunction").upper() or "LINEAR"
    if pairs and function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ImageError(
            "unsupported", "the DICOM field VOILUTFunction names a function that the standard does not know"
        )
    for center, width in pairs:
        if not np.isfinite([center, width]).all() or width < 1e-9:
            continue
        fraction = width < 1 or (width < 2 and width >= _FINE_STEPS * step)
        if function == "LINEAR" and fraction:
            if width > step:
                return (center, width, "LINEAR_EXACT"), False
            continue
        return (center, width, function), (center, width) == pairs[0]
    return None, not pairs


def _windowed(values: np.ndarray, center: float, width: float, function: str) -> np.ndarray:
    """Values through a window (PS3.3, C.11.2.1.2 and C.11.2.1.3): 0 below, 1 above."""
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _apply_lut(values: np.ndarray, dataset: Dataset, item: Dataset) -> tuple[np.ndarray, int]:
    """Values through a LUT, and the largest value that the LUT can give.

    pydicom's own functions are not used: they index tables of 8-bit entries modulo 256 and refuse odd entry depths.
    """
    descriptor = numbers(item, "LUTDescriptor")
    if len(descriptor) != 3 or not np.isfinite(descriptor).all():
        raise ImageError(
            "corrupt", f"the DICOM field LUTDescriptor {kind_of(item, 'LUTDescriptor')}, not three numbers"
        )
    count, first, depth = (int(value) for value in descriptor)
    count = count & 0xFFFF or 1 << 16
    if first >= 1 << 15 and values.min() < 0:
        first -= 1 << 16  # a signed value that was written with an unsigned type
    entries = _lut_entries(dataset, item, count)
    largest = int(entries.max())
    # Some writers declare 0 or 8 bits for a table of 16-bit entries, others 16 for one of 12: the data settles it.
    depth = max(depth if 1 <= depth <= 16 else 1, largest.bit_length())
    full = largest if 0 < largest < 2 ** (depth - 2) else 2**depth - 1
    return entries[np.clip(np.rint(values) - first, 0, len(entries) - 1).astype(np.int64)], full


def _lut_entries(dataset: Dataset, item: Dataset, count: int) -> np.ndarray:
    """The first `count` entries of a LUT as float64, which have no sign."""
    data = item.get("LUTData")
    if isinstance(data, bytes):
        little = not hasattr(dataset, "file_meta") or dataset.file_meta.TransferSyntaxUID.is_little_endian
        kind = np.dtype("u1" if len(data) < 2 * count else "<u2" if little else ">u2")
        entries = np.frombuffer(data[: len(data) - len(data) % kind.itemsize], kind)
    else:
        try:
            entries = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
        except (TypeError, ValueError):
            entries = np.empty(0)
    if not len(entries):
        raise ImageError("corrupt", f"the DICOM field LUTData {kind_of(item, 'LUTData')}; it should hold numbers")
    return entries[:count].astype(np.float64)
