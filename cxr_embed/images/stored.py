"""Stored values of a DICOM image: the pixel data without unused bits, and the range that the values may use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cxr_embed.errors import ImageError
from cxr_embed.images.checks import machine_fault
from cxr_embed.images.codestream import JPEG_LOSSY, LOSSLESS, SYNTAXES, decode_frame
from cxr_embed.images.fields import kind_of, number, numbers, text, whole_number

if TYPE_CHECKING:
    from pydicom import Dataset

_PHOTOMETRIC = frozenset(
    (
        *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR", "RGB"),
        *("YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_420", "YBR_PARTIAL_422", "YBR_ICT", "YBR_RCT"),
    )
)
# How far a lossy stream may overshoot the brightest value, as a share of the range; what is higher has other bits set.
_OVERSHOOT = 1 / 4


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Stored values.

    Attributes:
        values: `(H, W)` or `(H, W, 3)` integers; a single channel lies in `low .. high`.
        bits: of a value: BitsStored, or the precision of the compressed stream where that is smaller.
        signed: whether values below 0 may occur.
    """

    values: np.ndarray
    bits: int
    signed: bool

    @property
    def low(self) -> int:
        """The lowest value that the bits allow."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The highest value that the bits allow."""
        return self.low + (1 << self.bits) - 1


def stored_values(dataset: Dataset, photometric: str) -> Stored:
    """The stored values.

    Args:
        dataset: with the fields of the image pixel module that `complete` has seen to.
        photometric: how the channels of a colour image are to be read, `RGB` or `YBR_FULL` and the like.

    Raises:
        ImageError: `truncated`, `corrupt` or `no-decoder`.
    """
    from pydicom.uid import RLELossless

    syntax = dataset.file_meta.TransferSyntaxUID
    bits, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    signed = dataset.PixelRepresentation == 1
    if syntax in SYNTAXES:
        return _compressed(dataset, str(syntax), photometric)
    if syntax.is_private or not syntax.is_transfer_syntax:
        raise ImageError("unsupported", "the DICOM field TransferSyntaxUID names a syntax that is not known here")
    if syntax.is_encapsulated and syntax != RLELossless:
        raise ImageError("no-decoder", f"no decoder here for {syntax.name}")
    if photometric.startswith("MONOCHROME") and dataset.SamplesPerPixel == 3:
        photometric = "RGB"  # grey in three channels
    if photometric.startswith("YBR") and dataset.BitsAllocated > 8:
        raise ImageError("unsupported", "the DICOM colour channels are YBR of more than 8 bits")
    stored = _uncompressed(dataset, photometric)
    if bits < allocated and stored.ndim == 2:
        # Unused high bits may hold overlays or rubbish: push the value to the top, then back down with its sign.
        top = whole_number(dataset, "HighBit", bits - 1)
        if not bits - 1 <= top < allocated:
            raise ImageError("corrupt", "the DICOM header's HighBit lies outside the pixel")
        stored = (stored << (allocated - 1 - top)) >> (allocated - bits)
    return Stored(values=stored, bits=bits, signed=signed)


def _uncompressed(dataset: Dataset, photometric: str) -> np.ndarray:
    """Pixels that lie as they are, or run-length coded; unused bits are still in them."""
    # pydicom's own correction of the unused bits takes the value from the lowest ones, whatever HighBit says.
    dataset.pixel_array_options(correct_unused_bits=False)
    dataset.PhotometricInterpretation = photometric
    try:
        stored: np.ndarray = dataset.pixel_array
    except (ValueError, AttributeError) as error:
        if "less than expected" in str(error) or "bytes of pixel data" in str(error):
            raise ImageError(
                "truncated", "the DICOM pixel data ends early: it is shorter than Rows and Columns say"
            ) from None
        raise
    except RuntimeError:
        raise ImageError("corrupt", "the run-length coded pixels in the DICOM file are damaged") from None
    return stored[0] if stored.ndim == 3 and stored.shape[0] == 1 else stored


def complete(dataset: Dataset) -> str:
    """Puts in what the image pixel module lacks and one value follows for, in place.

    Returns:
        The photometric interpretation in capitals, `MONOCHROME2` where the file names none.

    Raises:
        ImageError: `corrupt`, for a field that nothing follows from.
    """
    from pydicom.tag import Tag

    photometric = text(dataset, "PhotometricInterpretation").upper()
    samples = _one_of(dataset, "SamplesPerPixel", (1, 3), 3 if photometric.startswith(("RGB", "YBR")) else 1)
    photometric = photometric or ("MONOCHROME2" if samples == 1 else "RGB")
    if photometric not in _PHOTOMETRIC:
        kind = kind_of(dataset, "PhotometricInterpretation")
        raise ImageError("unsupported", f"the DICOM field PhotometricInterpretation {kind} that is not known here")
    allocated = whole_number(dataset, "BitsAllocated")
    values = {
        "PhotometricInterpretation": photometric,
        "SamplesPerPixel": samples,
        "BitsAllocated": allocated,
        "BitsStored": whole_number(dataset, "BitsStored", allocated),
        "PixelRepresentation": _one_of(dataset, "PixelRepresentation", (0, 1), 0),
        "Rows": whole_number(dataset, "Rows"),
        "Columns": whole_number(dataset, "Columns"),
        "NumberOfFrames": 1,
    }
    if samples > 1:
        values["PlanarConfiguration"] = _one_of(dataset, "PlanarConfiguration", (0, 1), 0)
    for keyword, value in values.items():
        if keyword in dataset:
            del dataset[Tag(keyword)]  # its type may be another one
        setattr(dataset, keyword, value)
    return photometric


def _one_of(dataset: Dataset, keyword: str, known: tuple[int, int], default: int) -> int:
    value = whole_number(dataset, keyword, default)
    if value not in known:
        raise ImageError(
            "corrupt", f"the DICOM field {keyword} holds a number that is neither {known[0]} nor {known[1]}"
        )
    return value


def padding(dataset: Dataset, stored: Stored) -> np.ndarray:
    """Where padding lies in `low .. high`, from PixelPaddingValue to PixelPaddingRangeLimit: `(N,)`, counted from 0.

    Several padding values, which the standard does not know, stand for each of them.

    Raises:
        ImageError: `corrupt`, for a field that holds no number.
    """
    values = numbers(dataset, "PixelPaddingValue")
    first = int(number(dataset, "PixelPaddingValue", 0))  # refuses what is not a number
    ranges = [(int(value), int(value)) for value in values if np.isfinite(value)]
    if len(values) == 1:
        limit = int(number(dataset, "PixelPaddingRangeLimit", first))
        ranges = [(min(first, limit), max(first, limit))]
    places = [np.empty(0, np.intp)]
    for start, stop in ranges:
        if stored.low < 0 and start >= 1 << 15:
            start, stop = start - (1 << 16), stop - (1 << 16)  # signed values that were written with an unsigned type
        if start <= stored.high and stop >= stored.low:
            places.append(np.arange(max(start, stored.low), min(stop, stored.high) + 1) - stored.low)
    return np.concatenate(places)


def _compressed(dataset: Dataset, syntax: str, photometric: str) -> Stored:
    from pydicom.encaps import get_frame
    from pydicom.pixels import convert_color_space

    bits, signed = int(dataset.BitsStored), dataset.PixelRepresentation == 1
    try:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    except Exception as error:
        problem = f"the DICOM pixel data is not well formed ({type(error).__name__})"
        raise machine_fault(error) or ImageError("corrupt", problem) from None
    values, precision = decode_frame(frame, syntax, int(dataset.Rows), int(dataset.Columns), rgb=photometric == "RGB")
    if values.ndim == 3:
        # JPEG's own decoder has converted the colours; in the other formats they are as the header says.
        if photometric == "YBR_FULL" and syntax not in JPEG_LOSSY and values.dtype == np.uint8:
            values = np.asarray(convert_color_space(values, "YBR_FULL", "RGB"))
        return Stored(values=values, bits=min(bits, precision), signed=signed)
    if _has_more(values, bits):
        top = whole_number(dataset, "HighBit", bits - 1)
        top = top if bits - 1 <= top < precision else bits - 1
        values = _clear_other_bits(values, bits, signed, precision, top, lossless=syntax in LOSSLESS)
    elif signed and values.dtype.kind == "u":
        values = _with_sign(values.astype(np.int32), bits)  # two's complement in a stream of unsigned values
    elif not signed and values.dtype.kind == "i":
        values = values.astype(np.int32) & (2**bits - 1)
    elif precision < bits:
        bits = precision
    return Stored(values=values, bits=bits, signed=signed)


def _has_more(values: np.ndarray, bits: int) -> bool:
    """Whether some value needs more than so many bits."""
    if bits >= 8 * values.dtype.itemsize:
        return False
    below = values.dtype.kind == "i" and values.min() < -(2 ** (bits - 1))
    return bool(below or values.max() >= 2**bits)


def _clear_other_bits(
    values: np.ndarray, bits: int, signed: bool, precision: int, top: int, *, lossless: bool
) -> np.ndarray:
    """The stored bits, up to `top`, of values of `precision` bits whose other bits hold an overlay or rubbish."""
    values = values.astype(np.int32)
    values = (_with_sign(values, precision) if signed else values) >> (top - bits + 1)
    if not lossless:
        margin = int(2**bits * _OVERSHOOT)
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        overshoots = ((values > high) & (values <= high + margin)) | ((values < low) & (values >= low - margin))
        values = np.where(overshoots, np.clip(values, low, high), values)
    return _with_sign(values, bits) if signed else values & (2**bits - 1)


def _with_sign(values: np.ndarray, bits: int) -> np.ndarray:
    """The lowest bits of int32 values, read as two's complement."""
    plain: np.ndarray = values & (2**bits - 1)
    signed: np.ndarray = plain - ((plain >> (bits - 1)) << bits)
    return signed
