"""DICOM radiographs: stored values to display values, and the few header fields that may leave the file.

Every stage between the stored value and the displayed one (modality LUT, VOI LUT or window, inversion) is a function of
the stored value alone. So the stages run once, on all 2**BitsStored values, and the image is one table look-up.
"""

from __future__ import annotations

import hashlib
import hmac
import io
import os
import re
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_embed.errors import ImageError
from cxr_embed.images.checks import MAX_FILE_BYTES, check_size, to_grey
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
_HEADER_TAGS = ["Modality", "SOPClassUID", "ViewPosition", "StudyDate", "PatientAge", "PatientSex", "PatientID"]


def decode_dicom(data: bytes) -> tuple[np.ndarray, int, DicomFields]:
    """DICOM bytes to `(H, W)` uint8 or uint16 (brighter = denser), its bits, and the allowed header fields.

    With a VOI LUT or a window the pixels fill 16 bits; without one they are the stored values, shifted to start at 0,
    with `bits` = BitsStored. Padding pixels become 0 (black).

    Raises:
        ImageError: of a kind for each fault; its text never holds a value from the header.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's warnings quote header values
        dataset = _parse(data)
        _check_kind(dataset)
        try:
            stored, low, high = _stored_values(dataset)
            table, bits = _display_table(dataset, low, high)
            padding = _padding(dataset, low, high)
        except ImageError:
            raise
        except MemoryError:
            raise ImageError("too-large", "not enough memory to decode the DICOM image") from None
        except Exception as error:  # pydicom and its plugins raise many types on damaged files
            raise ImageError("corrupt", f"the DICOM pixel data is damaged ({type(error).__name__})") from None
        if stored.ndim == 3:
            return to_grey(stored, bits), bits, dicom_fields(dataset)
        if padding is not None:
            table[padding] = 0
        # Values outside the declared bits are clipped, as a viewer does.
        index = np.clip(stored, low, high).astype(np.int64) - low if low or stored.max() > high else stored
        return table[index], bits, dicom_fields(dataset)


def read_dicom_header(path: str | os.PathLike[str], patient_key: bytes | None) -> tuple[DicomFields, str]:
    """The allowed fields and the patient's id, without decoding pixels.

    Args:
        path: a DICOM file.
        patient_key: secret for the keyed hash of the patient's id; None returns the id as it stands in the file.

    Returns:
        The fields and the (hashed) patient id; an empty id where the file has none.

    Raises:
        ImageError: where the file cannot be parsed.
    """
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_HEADER_TAGS), force=True)
            patient = str(dataset.get("PatientID") or "").strip()
            fields = dicom_fields(dataset)
        except OSError as error:
            raise ImageError("unreadable", f"the file cannot be read ({error.strerror})") from None
        except Exception as error:
            raise ImageError("corrupt", f"the DICOM header is damaged ({type(error).__name__})") from None
    if patient and patient_key is not None:
        patient = keyed_hash(patient, patient_key)
    return fields, patient


def keyed_hash(identifier: str, key: bytes) -> str:
    """HMAC-SHA-256 of an identifier, 16 hexadecimal digits: the same id and key give the same result everywhere."""
    return hmac.new(key, identifier.encode(), hashlib.sha256).hexdigest()[:16]


def dicom_fields(dataset: Dataset) -> DicomFields:
    """Copies the allow-list, each value parsed into a closed form, so that free text cannot pass."""
    date = re.fullmatch(r"(\d{4})(\d{2})(\d{2})", _text(dataset, "StudyDate"))
    sex = _text(dataset, "PatientSex").upper()[:1]
    view = _text(dataset, "ViewPosition").upper()
    modality = _text(dataset, "Modality").upper()
    return DicomFields(
        modality=modality if re.fullmatch(r"[A-Z]{2,4}", modality) else "",
        view=view if re.fullmatch(r"[A-Z]{1,4}", view) else "",
        study_date="-".join(date.groups()) if date else "",
        age=_age_in_years(_text(dataset, "PatientAge")),
        sex=sex if sex in ("M", "F", "O") else "",
    )


def _text(dataset: Dataset, keyword: str) -> str:
    return str(dataset.get(keyword) or "").strip()


def _age_in_years(text: str) -> int | None:
    # An age string is 'nnnY', 'nnnM', 'nnnW' or 'nnnD' (PS3.5, 6.2); a bare number is taken as years.
    match = re.fullmatch(r"(\d{1,3})([YMWD]?)", text.upper())
    if not match:
        return None
    per_year = {"": 1, "Y": 1, "M": 12, "W": 52, "D": 365}[match[2]]
    return int(match[1]) // per_year


def _parse(data: bytes) -> Dataset:
    import pydicom

    if _DEFLATED in data[:1024]:
        _check_inflated(data)
    try:
        return pydicom.dcmread(io.BytesIO(data), force=data[128:132] != b"DICM")
    except EOFError:
        raise ImageError("truncated", "the DICOM file ends early") from None
    except Exception as error:
        raise ImageError("corrupt", f"the DICOM file cannot be parsed ({type(error).__name__})") from None


def _check_inflated(data: bytes) -> None:
    """A deflated data set is inflated by pydicom without a bound, so its size is checked first."""
    start = 144 + struct.unpack("<I", data[140:144])[0]
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


def _check_kind(dataset: Dataset) -> None:
    modality = _text(dataset, "Modality").upper() or _SLICE_CLASSES.get(_text(dataset, "SOPClassUID"), "")
    modality = _SLICE_CLASSES.get(_text(dataset, "SOPClassUID"), modality)
    if modality in NOT_RADIOGRAPHS:
        raise ImageError("not-a-radiograph", f"{NOT_RADIOGRAPHS[modality]} (modality {modality}), not a radiograph")
    if "PixelData" not in dataset:
        if "FloatPixelData" in dataset or "DoubleFloatPixelData" in dataset:
            raise ImageError("unsupported", "the DICOM pixels are floating point; a radiograph stores integers")
        raise ImageError("truncated", "the DICOM file has no pixel data: it ends early or is no image")
    try:
        frames = int(dataset.get("NumberOfFrames") or 1)
        height, width = int(dataset.Rows), int(dataset.Columns)
        stored, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    except Exception as error:
        raise ImageError("corrupt", f"the DICOM header lacks the image's size ({type(error).__name__})") from None
    if frames > 1:
        raise ImageError("multi-frame", f"a run of {frames} frames; a radiograph has one")
    check_size(height, width)
    if not 1 <= stored <= allocated or allocated not in (8, 16) or stored > 16:
        raise ImageError("unsupported", f"{stored} bits stored in {allocated}; 1 to 16 bits in 8 or 16 are read")


def _stored_values(dataset: Dataset) -> tuple[np.ndarray, int, int]:
    """The stored values, `(H, W)` or `(H, W, 3)`, with the lowest and highest value that the header allows."""
    from pydicom.pixels import apply_color_lut
    from pydicom.uid import RLELossless

    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    if syntax is not None and syntax.is_compressed and syntax != RLELossless and syntax.is_encapsulated:
        _check_codestream(dataset)
    try:
        stored = dataset.pixel_array
    except (RuntimeError, NotImplementedError) as error:
        if "missing dependencies" in str(error) or "plugin" in str(error):
            name = syntax.name if syntax is not None and not syntax.is_private else "private"
            raise ImageError(
                "no-decoder", f"no decoder here for {name}; `pip install pylibjpeg-libjpeg` (GPL) reads 12-bit JPEG"
            ) from None
        raise
    except (ValueError, AttributeError) as error:
        if "less than expected" in str(error) or "bytes of pixel data" in str(error):
            raise ImageError("truncated", "the DICOM pixel data ends early") from None
        raise
    bits, allocated = int(dataset.BitsStored), int(dataset.BitsAllocated)
    photometric = _text(dataset, "PhotometricInterpretation")
    if photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        return to_grey(stored, 8 * stored.dtype.itemsize), 0, 2 ** (8 * stored.dtype.itemsize) - 1
    if stored.ndim == 3 and stored.shape[-1] in (3, 4):
        return to_grey(stored, bits), 0, 2**bits - 1
    if stored.ndim == 3 and stored.shape[0] == 1:
        stored = stored[0]
    signed = int(dataset.get("PixelRepresentation") or 0) == 1
    if bits < allocated and (syntax is None or not syntax.is_compressed or syntax == RLELossless):
        # Unused high bits may hold overlays or rubbish: push the value to the top, then back down with its sign.
        top = int(dataset.get("HighBit", bits - 1))
        stored = (stored << (allocated - 1 - top)) >> (allocated - bits)
    return (stored, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (stored, 0, 2**bits - 1)


def _check_codestream(dataset: Dataset) -> None:
    """The compressed stream has a size of its own; one that differs from the header is a fault or a bomb."""
    from pydicom.encaps import get_frame

    try:
        frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    except Exception as error:
        raise ImageError("corrupt", f"the DICOM pixel data is not well formed ({type(error).__name__})") from None
    size = _codestream_size(frame)
    if size is not None and size != (int(dataset.Rows), int(dataset.Columns)):
        raise ImageError("corrupt", "the compressed image has another size than the DICOM header says")


def _codestream_size(frame: bytes) -> tuple[int, int] | None:
    """Height and width from a JPEG, JPEG-LS or JPEG 2000 stream's own header; None where it has another form."""
    if frame[:4] == b"\xff\x4f\xff\x51" and len(frame) >= 24:
        x1, y1, x0, y0 = struct.unpack(">IIII", frame[8:24])
        return y1 - y0, x1 - x0
    if frame[:2] != b"\xff\xd8":
        return None
    position = 2
    while position + 9 <= len(frame) and frame[position] == 0xFF:
        marker = frame[position + 1]
        if marker == 0xFF:  # fill byte
            position += 1
            continue
        # Start of frame: C0..CF but for the tables C4, C8, CC; F7 is JPEG-LS's.
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width = struct.unpack(">HH", frame[position + 5 : position + 9])
            return height, width
        position += 2 + struct.unpack(">H", frame[position + 2 : position + 4])[0]
    return None


def _display_table(dataset: Dataset, low: int, high: int) -> tuple[np.ndarray, int]:
    """What each stored value from `low` to `high` is shown as: `(high - low + 1,)` and the bits of the result."""
    from pydicom.pixels import apply_modality_lut, apply_voi, apply_windowing

    bits = int(dataset.BitsStored)
    domain = np.arange(low, high + 1, dtype=np.int32)
    values = np.asarray(apply_modality_lut(domain, dataset))
    inverted = _text(dataset, "PhotometricInterpretation") == "MONOCHROME1"
    inverted = inverted or _text(dataset, "PresentationLUTShape") == "INVERSE"
    if dataset.get("VOILUTSequence"):
        shown = apply_voi(np.rint(values).astype(np.int32), dataset, index=0).astype(np.float64)
        bottom, top = 0.0, float(2 ** _lut_bits(dataset.VOILUTSequence[0]) - 1)
    elif _has_window(dataset):
        shown = apply_windowing(values.astype(np.float64), dataset, index=0)
        # What pydicom maps the ends to depends on the rescale; two values far outside any window tell.
        bottom, top = apply_windowing(np.array([-1e12, 1e12]), dataset, index=0)
    elif dataset.get("ModalityLUTSequence"):
        shown = values.astype(np.float64)
        bottom, top = 0.0, float(2 ** _lut_bits(dataset.ModalityLUTSequence[0]) - 1)
    else:
        # Only a linear rescale: it changes the order of values where its slope is negative, nothing else.
        if values[-1] < values[0]:
            inverted = not inverted
        table = (domain - low).astype(np.uint8 if bits <= 8 else np.uint16)
        return (table[::-1].copy() if inverted else table), max(bits, 1)
    share = np.clip((shown - bottom) / (top - bottom), 0, 1)
    table = np.rint(65535 * (1 - share if inverted else share)).astype(np.uint16)
    return table, 16


def _has_window(dataset: Dataset) -> bool:
    center, width = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    return center not in (None, "", []) and width not in (None, "", [])


def _lut_bits(item: Any) -> int:
    """Bits of a LUT's entries. Some writers put 0 or 8 for a table of 16-bit entries; the data settles it."""
    declared = int(item.LUTDescriptor[2])
    entries = np.asarray(item.LUTData if not isinstance(item.LUTData, bytes) else np.frombuffer(item.LUTData, "<u2"))
    return max(declared, int(entries.max()).bit_length(), 1)


def _padding(dataset: Dataset, low: int, high: int) -> slice | None:
    """The table positions of the padding values (PixelPaddingValue to PixelPaddingRangeLimit), if there are any."""
    value = dataset.get("PixelPaddingValue")
    if value is None or value == "":
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    first, last = sorted((int(value), int(value if limit in (None, "") else limit)))
    if last < low or first > high:
        return None
    return slice(max(first, low) - low, min(last, high) - low + 1)
