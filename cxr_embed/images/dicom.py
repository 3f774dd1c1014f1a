"""DICOM radiographs: files to pixels, and the few header fields that may leave the file."""

from __future__ import annotations

import datetime
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
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from cxr_embed.choices import Colour
from cxr_embed.errors import ImageError
from cxr_embed.images.checks import MAX_FILE_BYTES, Picture, aspect_notes, check_size, machine_fault, to_grey
from cxr_embed.images.colour import grey_of_channels
from cxr_embed.images.display import display_table
from cxr_embed.images.fields import Unreadable, kind_of, number, numbers, value_of, whole_number
from cxr_embed.images.stored import complete, padding, stored_values
from cxr_embed.images.views import VIEW_TAGS, view_of
from cxr_embed.io.digests import keyed_hash
from cxr_embed.types import DicomFields, ImageNote, age_in_years, is_lateral

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
_ENCAPSULATED = re.compile(rb"\xe0\x7f\x10\x00O[BW]\0\0\xff\xff\xff\xff")  # PixelData of undefined length
_PIXEL_DATA = 0x7FE00010
_SEQUENCE_END = b"\xfe\xff\xdd\xe0\0\0\0\0"
_HEAD = 1 << 16  # bytes in which the deflated syntax would be named
# What may leave a header as modality and as sex: the standard's terms and those that large data sets show.
_MODALITIES = frozenset(("CR", "DX", "DR", "RG", "RF", "XR", "OT", "SC", "HC"))
_SEXES = {"M": "M", "F": "F", "O": "O", "MALE": "M", "FEMALE": "F", "OTHER": "O"}
_HEADER_TAGS = ["Modality", "SOPClassUID", *VIEW_TAGS, "StudyDate", "PatientAge", "PatientSex", "PatientID", "Rows"]


def decode_dicom(data: bytes, colour: Colour) -> Picture:
    """DICOM bytes to a picture with the allowed header fields.

    With a VOI LUT or a window the pixels fill 16 bits; without one they are the stored values, shifted to start at 0,
    with `bits` = BitsStored, or the compressed stream's own precision where that is smaller. Padding pixels become 0
    (black).

    Raises:
        ImageError: of a kind for each fault; its text never holds a value from the header.
    """
    with _quietly():
        dataset = _parse(data)
        try:
            _check_kind(dataset)
            fields, identifying = dicom_fields(dataset), is_identifying(dataset)
            lateral: tuple[ImageNote, ...] = ("lateral",) if is_lateral(fields.view) else ()
            photometric = complete(dataset)
            if not photometric.startswith("MONOCHROME"):
                grey = grey_of_channels(dataset, photometric, colour)
                notes = (*grey.notes, *_aspect(dataset), *lateral)
                return replace(grey, notes=notes, fields=fields, identifying=identifying)
            stored = stored_values(dataset, photometric)
            if stored.values.ndim != 2:  # grey in a colour stream
                stored = replace(stored, values=to_grey(stored.values, stored.bits, "refuse")[0])
            display = display_table(dataset, stored.low, stored.high, stored.bits)
            table = display.table
            table[padding(dataset, stored)] = 0
            aspect = _aspect(dataset)
        except ImageError:
            raise
        except Exception as error:  # pydicom and its plugins raise many types on damaged files
            problem = f"the DICOM image is damaged ({type(error).__name__})"
            raise machine_fault(error) or ImageError("corrupt", problem) from None
        # Values outside the declared bits are clipped, as a viewer does.
        index, low = stored.values, stored.low
        if low or (stored.high < np.iinfo(index.dtype).max and index.max() > stored.high):
            index = np.clip(index, low, stored.high).astype(np.int32) - low
        return Picture(table[index], display.bits, (*display.notes, *aspect, *lateral), fields, identifying)


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


def _aspect(dataset: Dataset) -> tuple[ImageNote, ...]:
    """Whether the pixels are square, by the first field that says."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio"):
        found = numbers(dataset, keyword)
        if len(found) == 2:
            return aspect_notes(*found)
    return ()


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
            problem = f"the DICOM header is damaged ({type(error).__name__})"
            raise machine_fault(error) or ImageError("corrupt", problem) from None
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
            problem = f"the DICOM header is damaged ({type(error).__name__})"
            raise machine_fault(error) or ImageError("corrupt", problem) from None


def dicom_fields(dataset: Dataset) -> DicomFields:
    """Copies the allow-list. Each value must be one of a closed set: free text cannot pass, whatever field it is in."""
    sex = _text(dataset, "PatientSex").upper()
    modality = _text(dataset, "Modality").upper()
    return DicomFields(
        modality=modality if modality in _MODALITIES else "",
        view=view_of(dataset),
        study_date=_iso_date(_text(dataset, "StudyDate")),
        age=age_in_years(_text(dataset, "PatientAge")),
        sex=_SEXES.get(sex, ""),
    )


def is_identifying(dataset: Dataset) -> bool:
    """Whether the header says that the pixels show who it is: BurnedInAnnotation or RecognizableVisualFeatures is YES.

    Whatever else the two may hold but NO is taken for a YES: these are files that nobody wrote by the standard.
    """
    said = (value_of(dataset, keyword) for keyword in ("BurnedInAnnotation", "RecognizableVisualFeatures"))
    return any(value is not None and str(value).strip(" \0").upper() not in ("", "NO") for value in said)


def _text(dataset: Dataset, keyword: str) -> str:
    value = value_of(dataset, keyword)
    return "" if isinstance(value, Unreadable) else str(value or "").strip()


def _iso_date(text: str) -> str:
    match = re.fullmatch(r"(\d{4})\.?(\d{2})\.?(\d{2})", text, re.ASCII)  # with dots before 1993 (PS3.5, 6.2)
    try:
        return datetime.date(*map(int, match.groups())).isoformat() if match else ""
    except ValueError:
        return ""


def _parse(data: bytes) -> Dataset:
    import pydicom

    if _DEFLATED in data[:_HEAD]:
        _check_inflated(data)
    try:
        dataset = _read_with_pixels(data)
        if "TransferSyntaxUID" not in dataset.file_meta:  # old files have no group 0002: the parser says how it read
            implicit, _ = dataset.original_encoding
            dataset.file_meta.TransferSyntaxUID = (
                pydicom.uid.ImplicitVRLittleEndian if implicit else pydicom.uid.ExplicitVRLittleEndian
            )
        return dataset
    except EOFError:
        raise ImageError("truncated", "the DICOM file ends early") from None
    except Exception as error:
        if isinstance(error, zlib.error) and "incomplete" in str(error):
            raise ImageError("truncated", "the deflated DICOM file ends early") from None
        problem = f"the DICOM file cannot be parsed ({type(error).__name__})"
        raise machine_fault(error) or ImageError("corrupt", problem) from None


def _read_with_pixels(data: bytes) -> Dataset:
    """Parses the file; where pydicom finds no pixels, once more without what may follow them."""
    import pydicom

    force = data[128:132] != b"DICM"
    failure: Exception | None = None
    try:
        dataset = pydicom.dcmread(io.BytesIO(data), force=force)
        if "PixelData" in dataset:
            return dataset
    except MemoryError:
        raise
    except Exception as error:
        failure = error
    # pydicom drops encapsulated pixels that lack the mark after the last fragment, and all pixels before fill bytes.
    open_end = _ENCAPSULATED.search(data) is not None
    source = io.BytesIO(data + _SEQUENCE_END if open_end else data)
    try:
        found = pydicom.filereader.read_partial(source, lambda tag, *_: tag > _PIXEL_DATA, force=force)
        if "PixelData" in found and (not open_end or _whole_fragments(found.PixelData)):
            return found
    except MemoryError:
        raise
    except Exception as error:
        failure = failure or error
    if failure is not None:
        raise failure
    return dataset


def _whole_fragments(value: bytes | None) -> bool:
    """Whether encapsulated pixel data ends where its last fragment ends."""
    position, size = 0, len(value or b"")
    while value and value[position : position + 4] == b"\xfe\xff\x00\xe0" and position + 8 <= size:
        position += 8 + struct.unpack_from("<I", value, position + 4)[0]
    return 0 < position == size


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
    uid = _text(dataset, "SOPClassUID") or (_text(meta, "MediaStorageSOPClassUID") if meta is not None else "")
    return UID(uid).name if uid in UID_dictionary else ""


def _check_modality(dataset: Dataset) -> None:
    name = _class_name(dataset)
    if name and "Image Storage" not in name:
        raise ImageError("not-a-radiograph", f"a DICOM file of the class {name}, not an image")
    modality = _SLICE_CLASSES.get(_text(dataset, "SOPClassUID"), _text(dataset, "Modality").upper())
    if modality in NOT_RADIOGRAPHS:
        raise ImageError("not-a-radiograph", f"{NOT_RADIOGRAPHS[modality]} (modality {modality}), not a radiograph")


def _check_kind(dataset: Dataset) -> None:
    _check_modality(dataset)
    pixels = value_of(dataset, "PixelData")
    if pixels and not isinstance(pixels, bytes):
        raise ImageError("corrupt", f"the DICOM field PixelData {kind_of(dataset, 'PixelData')}; it should hold bytes")
    if not pixels:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise ImageError("unsupported", "the DICOM pixels are floating point; a radiograph stores integers")
        raise ImageError("truncated", "the DICOM file has no pixel data: it ends early or is not an image")
    if number(dataset, "NumberOfFrames", 1) > 1:
        raise ImageError("multi-frame", "a run of several frames; a radiograph has one")
    height, width = whole_number(dataset, "Rows"), whole_number(dataset, "Columns")
    allocated = whole_number(dataset, "BitsAllocated")
    stored = whole_number(dataset, "BitsStored", allocated)
    check_size(height, width)
    if allocated not in (8, 16):
        raise ImageError("unsupported", "the DICOM field BitsAllocated is neither 8 nor 16")
    if not 1 <= stored <= allocated:
        raise ImageError("unsupported", "the DICOM field BitsStored is not between 1 and BitsAllocated")
