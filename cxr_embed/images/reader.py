"""One door for every format: a file's first bytes say what it is."""

from __future__ import annotations

import os
import stat
from importlib.metadata import version
from pathlib import Path

from cxr_embed.choices import Colour
from cxr_embed.errors import ImageError
from cxr_embed.images.checks import MAX_FILE_BYTES
from cxr_embed.images.dicom import decode_dicom
from cxr_embed.images.prepare import LITTLE_USED, used_share
from cxr_embed.images.raster import decode_jpeg, decode_png, decode_tiff
from cxr_embed.images.raw import decode_raw, is_raw, raw_fault
from cxr_embed.images.remote import read_remote
from cxr_embed.io.addresses import address_of
from cxr_embed.io.digests import sha256_hex
from cxr_embed.types import CxrImage

SUFFIXES = {
    ".png": "png",
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jpe": "jpeg",
    ".jfif": "jpeg",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".ima": "dicom",
}
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\0": "tiff",
    b"MM\0*": "tiff",
    b"GIF8": "GIF",
    b"BM": "BMP",
    b"%PDF": "PDF",
    b"PK\x03\x04": "zip archive",
    b"\x1f\x8b": "gzip file",
    b"RIFF": "WebP",
    b"\x00\x00\x00\x0cjP  ": "JPEG 2000 file",
}
# Not `.img` among the suffixes: hospitals name DICOM files so too.
READABLE = frozenset({*SUFFIXES.values(), "raw"})
# Old DICOM files have no preamble: they start with an element of group 0002 or 0008, little endian.
_BARE_DICOM = (
    *(b"\x02\x00\x00\x00", b"\x08\x00\x00\x00", b"\x08\x00\x01\x00", b"\x08\x00\x05\x00"),
    *(b"\x08\x00\x08\x00", b"\x08\x00\x16\x00"),
)


def decoders() -> str:
    """The libraries that decode here, with their versions: another one may read what this one could not."""
    names = ("imagecodecs", "kornia-rs", "pillow", "pydicom", "simplejpeg")
    return ", ".join(f"{name} {version(name)}" for name in names)


def sniff(head: bytes, size: int) -> str | None:
    """Names the format of a file: `png`, `dicom`, `raw`, ... or None where it is unknown.

    Args:
        head: its first 132 bytes.
        size: of the whole file, in bytes.
    """
    if is_raw(head, size):
        return "raw"
    if head[128:132] == b"DICM":
        return "dicom"
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return name
    return "dicom" if head[:4] in _BARE_DICOM else None


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The file's bytes; an address's too.

    Raises:
        ImageError: `missing`, `unreadable`, `unreachable`, `empty` or `too-large`.
    """
    if (address := address_of(path)) is not None:
        return read_remote(address)[0]
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError("unreadable", "not a regular file")  # opening a pipe would wait for ever
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > MAX_FILE_BYTES:
                raise ImageError("too-large", f"the file has more than {MAX_FILE_BYTES >> 30} GiB")
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        raise ImageError("missing", "the file does not exist") from None
    except ValueError:
        raise ImageError("missing", "the path holds a zero byte, so no file has it") from None
    except OSError as error:
        raise ImageError("unreadable", f"the file cannot be read ({error.strerror})") from None
    if not data:
        raise ImageError("empty", "the file is empty")
    return data


def check_name(data: bytes, suffix: str) -> None:
    """Refuses a name whose suffix stands for another format than the contents have.

    Raises:
        ImageError: `wrong-suffix`; `truncated` or `not-an-image` for a name of raw images over other contents.
    """
    actual, expected = sniff(data[:132], len(data)), SUFFIXES.get(suffix.lower())
    if actual is None and (fault := raw_fault(data[:132], len(data), suffix)) is not None:
        raise fault
    if expected is not None and actual in READABLE and actual != expected:
        raise ImageError("wrong-suffix", f"named {suffix} but the contents are {actual.upper()}; rename the file")


def decode_image(data: bytes, suffix: str = "", content_id: str = "", colour: Colour = "refuse") -> CxrImage:
    """File contents to a radiograph.

    Args:
        data: the whole file.
        suffix: of its name, e.g. `.png`; a known suffix that contradicts the contents is an error.
        content_id: SHA-256 of `data` where the caller has it already.
        colour: `grey` reads tinted films and coloured marks by their luma, instead of refusing them.

    Raises:
        ImageError: with a `kind` for each way in which a file can be no usable radiograph.
    """
    check_name(data, suffix)
    actual = sniff(data[:132], len(data))
    if actual is None or actual not in READABLE:
        what = f"a {actual}" if actual else "no image that is known here"
        raise ImageError("not-an-image", f"the contents are {what}; PNG, JPEG, TIFF and DICOM are read")
    content_id = content_id or sha256_hex(data)
    decode = {"png": decode_png, "jpeg": decode_jpeg, "tiff": decode_tiff, "dicom": decode_dicom}
    picture = decode_raw(data) if actual == "raw" else decode[actual](data, colour)
    notes = picture.notes
    if used_share(picture.pixels, 2**picture.bits - 1) < LITTLE_USED:
        notes = (*notes, "range")
    return CxrImage(
        pixels=picture.pixels,
        bits=picture.bits,
        content_id=content_id,
        source=actual,
        fields=picture.fields,
        notes=notes,
        identifying=picture.identifying,
    )


def read_image(path: str | os.PathLike[str], colour: Colour = "refuse") -> CxrImage:
    """Reads a PNG, JPEG, TIFF or DICOM radiograph, or one of JSRT's raw ones.

    Args:
        path: the file.
        colour: as in `decode_image`.

    Raises:
        ImageError: see `decode_image`.
    """
    return decode_image(read_bytes(path), Path(path).suffix, colour=colour)
