"""DICOM's stages from a stored value to a displayed one: modality LUT, VOI LUT or window, inversion (PS3.3, C.11).

Each stage is a function of the stored value alone. So they run once, on all 2**BitsStored values, and an image is one
table look-up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_embed.errors import ImageError

if TYPE_CHECKING:
    from pydicom import Dataset


def display_table(dataset: Dataset, low: int, high: int) -> tuple[np.ndarray, int]:
    """What each stored value from `low` to `high` is shown as: `(high - low + 1,)` and the bits of the result.

    Raises:
        ImageError: `corrupt` or `unsupported`, for values that no display follows from.
    """
    _raise_functional_groups(dataset)
    bits = int(dataset.BitsStored)
    stored = np.arange(low, high + 1, dtype=np.int64)
    values = stored.astype(np.float64)
    full = 0  # the largest value of the last LUT
    if dataset.get("ModalityLUTSequence"):
        values, full = _apply_lut(values, dataset, dataset.ModalityLUTSequence[0])
    elif dataset.get("RescaleSlope") is not None and dataset.get("RescaleIntercept") is not None:
        values = values * float(dataset.RescaleSlope) + float(dataset.RescaleIntercept)
    inverted = str(dataset.get("PhotometricInterpretation") or "").strip() == "MONOCHROME1"
    inverted = inverted or str(dataset.get("PresentationLUTShape") or "").strip() == "INVERSE"
    if not np.isfinite(values).all():
        raise ImageError("corrupt", "the DICOM rescale slope or intercept is no finite number")
    if dataset.get("VOILUTSequence"):
        values, full = _apply_lut(values, dataset, dataset.VOILUTSequence[0])
        share = values / full
    elif _has_window(dataset):
        share = _window(values, dataset)
    elif full:
        share = values / full
    else:
        # Only a linear rescale: it changes the order of values where its slope is negative, nothing else.
        if values[-1] < values[0]:
            inverted = not inverted
        table = (stored - low).astype(np.uint8 if bits <= 8 else np.uint16)
        return (table[::-1].copy() if inverted else table), bits
    return np.rint(65535 * (1 - share if inverted else share)).astype(np.uint16), 16


def _raise_functional_groups(dataset: Dataset) -> None:
    """Multi-frame classes keep the rescale and the window of a frame in functional groups: lifts the first frame's."""
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        for macro in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            found = dataset[groups].value[0].get(macro) if dataset.get(groups) else None
            for element in found[0] if found else ():
                if element.tag not in dataset:
                    dataset.add(element)


def _has_window(dataset: Dataset) -> bool:
    center, width = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    return center not in (None, "", []) and width not in (None, "", [])


def _window(values: np.ndarray, dataset: Dataset) -> np.ndarray:
    """The first window (PS3.3, C.11.2.1.2 and C.11.2.1.3): 0 below, 1 above."""
    center, width = (
        float(value if isinstance(value, int | float) else value[0])
        for value in (dataset.WindowCenter, dataset.WindowWidth)
    )
    function = str(dataset.get("VOILUTFunction") or "").strip().upper() or "LINEAR"
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise ImageError("unsupported", "the DICOM file names a VOI LUT function that the standard does not know")
    if not np.isfinite([center, width]).all() or width < (1 if function == "LINEAR" else 1e-9):
        raise ImageError("corrupt", "the DICOM window's width or centre is no usable number")
    if function == "SIGMOID":
        return 1 / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    if width == 0:
        return (values > center).astype(np.float64)
    return np.clip((values - center) / width + 0.5, 0, 1)


def _apply_lut(values: np.ndarray, dataset: Dataset, item: Any) -> tuple[np.ndarray, int]:
    """Values through a LUT, and the largest value that the LUT can give.

    pydicom's own functions are not used: they index tables of 8-bit entries modulo 256 and refuse odd entry depths.
    """
    count, first, depth = (int(value) for value in item.LUTDescriptor)
    count = count & 0xFFFF or 1 << 16
    if first >= 1 << 15 and values.min() < 0:
        first -= 1 << 16  # a signed value that was written with an unsigned type
    data = item.LUTData
    if isinstance(data, bytes):
        little = not hasattr(dataset, "file_meta") or dataset.file_meta.TransferSyntaxUID.is_little_endian
        kind = "u1" if len(data) < 2 * count else "<u2" if little else ">u2"
        entries = np.frombuffer(data, kind)
    else:
        entries = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
    entries = entries[:count].astype(np.float64)
    # Some writers declare 0 or 8 bits for a table of 16-bit entries; the data settles it.
    bits = max(depth if 1 <= depth <= 16 else 1, int(entries.max()).bit_length())
    return entries[np.clip(np.rint(values) - first, 0, len(entries) - 1).astype(np.int64)], 2**bits - 1
