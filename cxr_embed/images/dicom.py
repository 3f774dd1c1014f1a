"""DICOM radiographs: files to pixels, and the few header fields that may leave the file."""

from __future__ import annotations

import datetime
import hashlib
import hmac
import io
import logging
import os
import re
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

from cxr_embed.errors import ImageError
from cxr_embed.images.checks import MAX_FILE_BYTES, check_size, to_grey
from cxr_embed.images.codestream import SYNTAXES, decode_frame
from cxr_embed.images.display import display_table
from cxr_embed.types import DicomFields

if TYPE_CHECKING:
    from pydicom import Dataset

# Modalities whose pictures are slices, sound or another organ's projection; everything else is taken as a radiograph.
NOT_RADIOGRAPHS = {
    "CT": "a CT slice",
    "MR": "an MR slice",
    "PT": "a PET slice",
    "NM": "a nuclear medicine image",
    "US": "an ultrasound image",
    "MG": "a mammogram",
    "IVUS": "an ultrasound image",
    "OCT": "an OCT slice",
    "SM": "a microscopy slide",
    "XA": "an angiography run",
    "ES": "an endoscopy image",
    "SR": "a report",
    "SEG": "a segmentation",
    "KO": "a key object note",
    "PR": "a presentation state",
    "DOC": "a document",
    "RTPLAN": "a treatment plan",
    "RTSTRUCT": "a set of contours",
    "RTDOSE": "a dose distribution",
}
# SOP classes of the slices above, for files whose Modality is missing.
_SLICE_CLASSES = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "CT",
    "1.2.840.10008.5.1.4.1.1.4": "MR",
    "1.2.840.10008.5.1.4.1.1.4.1": "MR",
    "1.2.840.10008.5.1.4.1.1.128": "PT",
}
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_HEAD = 1 << 16  # bytes in which the deflated syntax would be named
# What may leave a header as modality, as view and as sex: the standard's terms and those that large data sets show.
_MODALITIES = frozenset(("CR", "DX", "DR", "RG", "RF", "XR", "OT", "SC", "HC"))
_VIEWS = frozenset(
    (
        *("PA", "AP", "LL", "RL", "LLD", "RLD", "LLO", "RLO", "LPO", "RPO", "LAO", "RAO", "LAT", "LATERAL"),
        *("AP AXIAL", "AP LLD", "AP RLD", "PA LLD", "PA RLD", "XTABLE LATERAL", "SWIMMERS"),
    )
)
_SEXES = {"M": "M", "F": "F", "O": "O", "MALE": "M", "FEMALE": "F", "OTHER": "O"}
_HEADER_TAGS = ["Modality", "SOPClassUID", "ViewPosition", "StudyDate", "PatientAge", "PatientSex", "PatientID", "Rows"]


def decode_dicom(data: bytes) -> tuple[np.ndarray, int, DicomFields]:
    """DICOM bytes to `(H, W)` uint8 or uint16 (brighter = denser), its bits, and the allowed header fields.

    With a VOI LUT or a window the pixels fill 16 bits; without one they are the stored values, shifted to start at 0,
    with `bits` = BitsStored. Padding pixels become 0 (black).

    Raises:
        ImageError: of a kind for each fault; its text never holds a value from the header.
    """
    with _quietly():
        dataset = _parse(data)
        try:
            _check_kind(dataset)
            fields = dicom_fields(dataset)
            stored, low, high = _stored_values(dataset)
            if _text(dataset, "PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2", ""):
                return *_grey(stored, dataset), fields
            if stored.ndim != 2:
                raise ImageError("corrupt", "the DICOM pixels have several channels but are said to be grey")
            table, bits = display_table(dataset, low, high)
            padding = _padding(dataset, low, high)
        except ImageError:
            raise
        except MemoryError:
            raise ImageError("too-large", "not enough memory to decode the DICOM image") from None
        except Exception as error:  # pydicom and its plugins raise many types on damaged files
            raise ImageError("corrupt", f"the DICOM image is damaged ({type(error).__name__})") from None
        if padding is not None:
            table[padding] = 0
        # Values outside the declared bits are clipped, as a viewer does.
        index = np.clip(stored, low, high).astype(np.int32) - low if low or stored.max() > high else stored
        return table[index], bits, fields


@contextmanager
def _quietly() -> Iterator[None]:
    """Neither warnings nor log records leave pydicom: they quote header values, and a program may log to a file."""
    logger = logging.getLogger("pydicom")
    propagate = logger.propagate
    logger.propagate = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.propagate = propagate


def _grey(stored: np.ndarray, dataset: Dataset) -> tuple[np.ndarray, int]:
    """Colour pixels that are really grey. LUTs and windows are for monochrome images only (PS3.3, C.11)."""
    from pydicom.pixels import apply_color_lut

    bits = int(dataset.BitsStored)
    if _text(dataset, "PhotometricInterpretation") == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        bits = 8 * stored.dtype.itemsize
    if stored.dtype not in (np.uint8, np.uint16):
        raise ImageError("unsupported", "the DICOM colour channels are signed")
    return to_grey(np.minimum(stored, 2**bits - 1), bits), bits


def read_dicom_header(path: str | os.PathLike[str], patient_key: bytes | None) -> tuple[DicomFields, str]:
    """The allowed fields and the patient's id, without decoding pixels.

    Args:
        path: a DICOM file.
        patient_key: secret for the keyed hash of the patient's id; None returns the id as it stands in the file.

    Returns:
        The fields and the (hashed) patient id; an empty id where the file has none.

    Raises:
        ImageError: where the file cannot be parsed, or is a slice, a report or the like.
    """
    dataset = _read_header(path, _HEADER_TAGS)
    with _quietly():
        try:
            _check_modality(dataset)
            if "Rows" not in dataset:
                raise ImageError("not-an-image", "a DICOM file without an image")
            patient = str(dataset.get("PatientID") or "").strip()
            fields = dicom_fields(dataset)
        except ImageError:
            raise
        except Exception as error:
            raise ImageError("corrupt", f"the DICOM header is damaged ({type(error).__name__})") from None
    if patient and patient_key is not None:
        patient = keyed_hash(patient, patient_key)
    return fields, patient


def _read_header(path: str | os.PathLike[str], tags: list[str] | None) -> Dataset:
    """Some elements of the header; all of them without `tags`.

    Raises:
        ImageError: where the file cannot be read or parsed.
    """
    import pydicom

    with _quietly():
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):
                raise ImageError("unreadable", "not a regular file")  # opening a pipe would wait for ever
            with open(path, "rb") as file:
                head = file.read(_HEAD)
                if _DEFLATED in head:
                    _check_inflated(head + file.read(MAX_FILE_BYTES))
                file.seek(0)
                return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=tags and list(tags), force=True)
        except ImageError:
            raise
        except OSError as error:
            raise ImageError("unreadable", f"the file cannot be read ({error.strerror})") from None
        except Exception as error:
            raise ImageError("corrupt", f"the DICOM header is damaged ({type(error).__name__})") from None


def keyed_hash(identifier: str, key: bytes) -> str:
    """HMAC-SHA-256 of an identifier, 16 hexadecimal digits: the same id and key give the same result everywhere."""
    return hmac.new(key, identifier.encode(), hashlib.sha256).hexdigest()[:16]


def dicom_fields(dataset: Dataset) -> DicomFields:
    """Copies the allow-list. Each value must be one of a closed set: free text cannot pass, whatever field it is in."""
    sex = _text(dataset, "PatientSex").upper()
    modality = _text(dataset, "Modality").upper()
    view = " ".join(_text(dataset, "ViewPosition").upper().split())
    return DicomFields(
        modality=modality if modality in _MODALITIES else "",
        view=view if view in _VIEWS else "",
        study_date=_iso_date(_text(dataset, "StudyDate")),
        age=_age_in_years(_text(dataset, "PatientAge")),
        sex=_SEXES.get(sex, ""),
    )


def _text(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip()


def _iso_date(text: str) -> str:
    match = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})", text, re.ASCII)  # with dots before 1993 (PS3.5, 6.2)
    try:
        return datetime.date(*map(int, match.groups())).isoformat() if match else ""
    except ValueError:
        return ""


def _age_in_years(text: str) -> int | None:
    # An age string is 'nnnY', 'nnnM', 'nnnW' or 'nnnD' (PS3.5, 6.2); a bare number is taken as years.
    match = re.fullmatch(r"(\d{1,3})([YMWD]?)", text.upper(), re.ASCII)
    if not match:
        return None
    per_year = {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[match[2]]
    years = int(match[1]) // per_year
    return years if years <= 130 else None  # a manifest refuses more


def _parse(data: bytes) -> Dataset:
    import pydicom

    if _DEFLATED in data[:_HEAD]:
        _check_inflated(data)
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=data[128:132] != b"DICM")
        if not dataset.file_meta:  # old files have no group 0002: the parser told how it read
            implicit, _ = dataset.original_encoding
            dataset.file_meta.TransferSyntaxUID = (
                pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
            )
        return dataset
    except EOFError:
        raise ImageError("truncated", "the DICOM file ends early") from None
    except MemoryError:
        raise ImageError("too-large", "not enough memory to read the DICOM file") from None
    except Exception as error:
        if isinstance(error, zlib.error) and "incomplete" in str(error):
            raise ImageError("truncated", "the deflated DICOM file ends early") from None
        raise ImageError("corrupt", f"the DICOM file cannot be parsed ({type(error).__name__})") from None


def _check_inflated(data: bytes) -> None:
    """A deflated data set is inflated by pydicom without a bound, so its size is checked first."""
    start = _end_of_meta(data)
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    size, rest = 0, data[start:]
    try:
        while rest and not inflate.eof:
            size += len(inflate.decompress(rest, 1 << 24))
            rest = inflate.unconsumed_tail
            if size > MAX_FILE_BYTES:
                raise ImageError("too-large", "the deflated DICOM file inflates beyond 1 GiB (a decompression bomb?)")
    except zlib.error:
        raise ImageError("corrupt", "the deflated DICOM file cannot be inflated") from None


def _end_of_meta(data: bytes) -> int:
    """Where group 0002 ends, found element by element: its length field may lie. It is explicit little endian."""
    position = 132 if data[128:132] == b"DICM" else 0
    while data[position : position + 2] == b"\x02\0" and position + 12 <= len(data):
        if data[position + 4 : position + 6] in (b"OB", b"OW", b"OF", b"UN", b"UT", b"SQ"):
            position += 12 + struct.unpack_from("<I", data, position + 8)[0]
        elif data[position + 4 : position + 6].isalpha():
            position += 8 + struct.unpack_from("<H", data, position + 6)[0]
        else:
            raise ImageError("corrupt", "the deflated DICOM file's first group is damaged")
    return position


def _class_name(dataset: Dataset) -> str:
    """The standard's name of what a file holds; blank where it has none, or a maker's own. A directory is one too."""
    from pydicom.uid import UID, UID_dictionary

    meta = getattr(dataset, "file_meta", None)
    told = _text(dataset, "SOPClassUID") or (_text(meta, "MediaStorageSOPClassUID") if meta is not None else "")
    return UID(told).name if told in UID_dictionary else ""


def _check_modality(dataset: Dataset) -> None:
    name = _class_name(dataset)
    if name and "Image Storage" not in name:
        raise ImageError("not-a-radiograph", f"a DICOM file of the class {name}, not an image")
    modality = _SLICE_CLASSES.get(_text(dataset, "SOPClassUID"), _text(dataset, "Modality").upper())
    if modality in NOT_RADIOGRAPHS:
        raise ImageError("not-a-radiograph", f"{NOT_RADIOGRAPHS[modality]} (modality {modality}), not a radiograph")


def _check_kind(dataset: Dataset) -> None:
    _check_modality(dataset)
    if "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise ImageError("unsupported", "the DICOM pixels are floating point; a radiograph stores integers")
        raise ImageError("truncated", "the DICOM file has no pixel data: it ends early or is no image")
    if int(dataset.get("NumberOfFrames") or 1) > 1:
        raise ImageError("multi-frame", "a run of several frames; a radiograph has one")
    height, width = _number(dataset, "Rows"), _number(dataset, "Columns")
    stored, allocated = _number(dataset, "BitsStored"), _number(dataset, "BitsAllocated")
    check_size(height, width)
    if not 1 <= stored <= allocated or allocated not in (8, 16):
        raise ImageError("unsupported", f"{stored} bits stored in {allocated}; 1 to 16 bits in 8 or 16 are read")


def _number(dataset: Dataset, keyword: str) -> int:
    """A 16-bit number. Nothing longer may come into a message: with a wrong type it could be anything, say a date."""
    value = dataset.get(keyword)
    if not isinstance(value, int) or not 0 <= value < 1 << 16:
        raise ImageError("corrupt", "the DICOM header does not tell the image's size")
    return int(value)


def _stored_values(dataset: Dataset) -> tuple[np.ndarray, int, int]:
    """The stored values, `(H, W)` or `(H, W, 3)`, with the lowest and highest value that the header allows."""
    from pydicom.uid import RLELossless

    meta = getattr(dataset, "file_meta", None)
    syntax = meta.get("TransferSyntaxUID") if meta is not None else None
    bits, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    signed = int(dataset.get("PixelRepresentation") or 0) == 1
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    if syntax in SYNTAXES:
        return _signed(_compressed_values(dataset, str(syntax)), signed, bits), low, high
    if syntax is not None and not syntax.is_private and syntax.is_encapsulated and syntax != RLELossless:
        raise ImageError("no-decoder", f"no decoder here for {syntax.name}")
    # pydicom's own correction of the unused bits takes the value from the lowest ones, whatever HighBit says.
    dataset.pixel_array_options(correct_unused_bits=False)
    try:
        stored = dataset.pixel_array
    except (ValueError, AttributeError) as error:
        if "less than expected" in str(error) or "bytes of pixel data" in str(error):
            raise ImageError("truncated", "the DICOM pixel data ends early") from None
        raise
    if stored.ndim == 3 and stored.shape[0] == 1:
        stored = stored[0]
    if bits < allocated and stored.ndim == 2:
        # Unused high bits may hold overlays or rubbish: push the value to the top, then back down with its sign.
        top = int(dataset.get("HighBit", bits - 1))
        if not bits - 1 <= top < allocated:
            raise ImageError("corrupt", "the DICOM header's HighBit lies outside the pixel")
        stored = (stored << (allocated - 1 - top)) >> (allocated - bits)
    return stored, low, high


def _compressed_values(dataset: Dataset, syntax: str) -> np.ndarray:
    from pydicom.encaps import get_frame
    from pydicom.pixels import convert_color_space

    try:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    except Exception as error:
        raise ImageError("corrupt", f"the DICOM pixel data is not well formed ({type(error).__name__})") from None
    photometric = _text(dataset, "PhotometricInterpretation")
    stored = decode_frame(frame, syntax, int(dataset.Rows), int(dataset.Columns), rgb=photometric == "RGB")
    # JPEG's own decoder has converted the colours; in the other formats they are as the header says.
    if stored.ndim == 3 and photometric == "YBR_FULL" and not syntax.startswith("1.2.840.10008.1.2.4.5"):
        stored = np.asarray(convert_color_space(stored, "YBR_FULL", "RGB"))
    return stored


def _signed(stored: np.ndarray, signed: bool, bits: int) -> np.ndarray:
    """A codestream may hold negative values as such, sign-extended to 16 bits, or as plain two's complement."""
    if signed and stored.dtype.kind == "u":
        values = stored.astype(np.int32)
        width = bits if values.max() < 2**bits else 8 * stored.dtype.itemsize
        plain: np.ndarray = np.where(values >= 2 ** (width - 1), values - 2**width, values)
        return plain
    if not signed and stored.dtype.kind == "i":
        stored = stored.astype(np.int32) & (2**bits - 1)
    return stored


def _padding(dataset: Dataset, low: int, high: int) -> slice | None:
    """The table positions of the padding values (PixelPaddingValue to PixelPaddingRangeLimit), if there are any."""
    value = dataset.get("PixelPaddingValue")
    if value is None or value == "":
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    first, last = sorted((int(value), int(value if limit in (None, "") else limit)))
    if low < 0 and first >= 1 << 15:
        first, last = first - (1 << 16), last - (1 << 16)  # signed values that were written with an unsigned type
    if last < low or first > high:
        return None
    return slice(max(first, low) - low, min(last, high) - low + 1)
