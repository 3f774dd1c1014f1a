"""DICOM images of three channels, or of a palette, that are grey all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cxr_embed.choices import Colour
from cxr_embed.errors import ImageError
from cxr_embed.images.checks import Picture, to_grey
from cxr_embed.images.fields import kind_of, numbers, value_of
from cxr_embed.images.stored import stored_values

if TYPE_CHECKING:
    from pydicom import Dataset

_PALETTE = [
    f"{colour}PaletteColorLookupTable{part}" for colour in ("Red", "Green", "Blue") for part in ("Descriptor", "Data")
]


def grey_of_channels(dataset: Dataset, photometric: str, colour: Colour) -> Picture:
    """Colour pixels that are really grey. LUTs and windows are for monochrome images only (PS3.3, C.11).

    A grey picture under the wrong one of two labels is in colour, RGB values read as YBR as well as YBR values read as
    RGB. So what is grey under the other label is read so.
    """
    other = {"RGB": "YBR_FULL", "YBR_FULL": "RGB", "YBR_FULL_422": "RGB"}.get(photometric)
    try:
        return _grey_as_labelled(dataset, photometric, "refuse" if other else colour)
    except ImageError as error:
        if error.kind != "colour" or other is None:
            raise
        try:
            return _grey_as_labelled(dataset, other, "refuse")
        except ImageError:
            if colour == "refuse":
                raise error from None
    return _grey_as_labelled(dataset, photometric, colour)


def _grey_as_labelled(dataset: Dataset, photometric: str, colour: Colour) -> Picture:
    from pydicom.pixels import apply_color_lut

    stored = stored_values(dataset, photometric)
    values, bits = stored.values, stored.bits
    if photometric == "PALETTE COLOR":
        for keyword in _PALETTE:
            found = value_of(dataset, keyword)
            if not (isinstance(found, bytes) and found) and len(numbers(dataset, keyword)) != 3:
                raise ImageError("corrupt", f"the DICOM field {keyword} {kind_of(dataset, keyword)}, not a palette")
        try:
            values = apply_color_lut(values, dataset)
        except (LookupError, TypeError, ValueError):
            problem = "the DICOM fields RedPaletteColorLookupTableDescriptor and the like hold numbers of no palette"
            raise ImageError("corrupt", problem) from None
        bits = 8 * values.dtype.itemsize
    if values.dtype not in (np.uint8, np.uint16):
        raise ImageError("unsupported", "the DICOM colour channels are signed")
    pixels, notes = to_grey(np.minimum(values, 2**bits - 1), bits, colour)
    return Picture(pixels, bits, notes)
