"""TFRecord files of precomputed embeddings, read without TensorFlow.

A record is its length (uint64), the length's checksum, the data, the data's checksum; all little-endian. The checksums
are CRC-32C, rotated and shifted ("masked"; tensorflow.org, "TFRecord and tf.train.Example"). The data is a
`tf.train.Example` in the protocol buffer wire format (protobuf.dev, "Encoding"), of which two features matter.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import google_crc32c
import numpy as np

from cxr_embed.errors import CxrEmbedError
from cxr_embed.imports.sources import (
    LARGEST_VECTOR,
    ImportSource,
    Shape,
    Vector,
    byte_limit,
    fit,
    require_file,
    unreadable,
)
from cxr_embed.types import counted

ID, EMBEDDING = "image/id", "embedding"
_SUFFIXES = (".tfrecord", ".tfrecords", ".tfrecord.gz", ".tfrecords.gz")
# Google's service writes the image's address as its id; what the image is called is the last part of it.
_IMAGE_SUFFIXES = (".png", ".dcm", ".dicom", ".jpg", ".jpeg", ".tif", ".tiff")
_GZIP = b"\x1f\x8b"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


def open_tfrecord(paths: list[Path]) -> ImportSource:
    """Vectors as Google's CXR Foundation service writes them, plain or with gzip.

    Each record is an Example with the floats `embedding` and the bytes `image/id`. An id that is an image's address
    (`gs://bucket/00000001_000.png`) is shortened to its name (`00000001_000`). A record without an id is named by its
    file if it is the only one there.

    Args:
        paths: files, or folders that are searched for `*.tfrecord` and `*.tfrecord.gz`.

    Raises:
        CxrEmbedError: for files that are not there.
    """
    files = [file for path in paths for file in (_below(path) if path.is_dir() else [path])]
    for file in files:
        require_file(file)
    return ImportSource(
        tuple(files), None, lambda shape: (vector for file in files for vector in _read_file(file, shape))
    )


def _below(folder: Path) -> list[Path]:
    found = sorted(
        Path(root) / name for root, _, names in os.walk(folder) for name in names if name.endswith(_SUFFIXES)
    )
    if not found:
        raise CxrEmbedError(f"{folder}: no file in this folder ends in {' or '.join(_SUFFIXES)}")
    return found


def _read_file(path: Path, shape: Shape | None) -> Iterator[Vector]:
    nameless = 0
    for number, data in enumerate(read_records(path), 1):
        where = f"{path}: record {number}"
        try:
            features = _features(memoryview(data))
            values = _floats(features.get(EMBEDDING, memoryview(b"")))
            image_id = _first_bytes(features.get(ID, memoryview(b""))).decode()
        except (_NotAnExample, UnicodeDecodeError):
            raise CxrEmbedError(f"{where}: no tf.train.Example, though its checksum is right") from None
        if not len(values):
            raise CxrEmbedError(f"{where}: no floats {EMBEDDING!r}; its features: {', '.join(features) or 'none'}")
        nameless += not image_id
        if nameless and number > 1:
            raise CxrEmbedError(f"{path}: {counted(number, 'record')}, one of them without {ID!r}; it must have one")
        name = _image_name(image_id) if image_id else _stem(path)
        where = f"{where} ({name!r})"
        if values.nbytes > byte_limit(shape):
            raise CxrEmbedError(
                f"{where}: {counted(len(values), 'float is', 'floats are')} more than any vector has here"
            )
        yield Vector(name, "", fit(values, shape, where), where)


def read_records(path: Path) -> Iterator[bytes]:
    """The data of each record, its checksums compared.

    Raises:
        CxrEmbedError: naming file and record, where the file is cut short or its bytes have changed.
    """
    number = 1
    try:
        with open(path, "rb") as plain:
            start = plain.read(12)
            plain.seek(0)
            # A record of the right length starts like a gzip file; its checksum tells the two apart.
            packed = start.startswith(_GZIP) and not _matches(start[:8], start[8:])
            file: IO[bytes] = gzip.GzipFile(fileobj=plain) if packed else plain  # type: ignore[assignment]
            while head := file.read(12):
                yield _read_record(file, head, f"{path}: record {number}")
                number += 1
    except (EOFError, gzip.BadGzipFile, zlib.error):
        raise CxrEmbedError(f"{path}: record {number}: the gzip data is damaged or cut short") from None
    except OSError as error:
        raise unreadable(path, error) from None


def _read_record(file: IO[bytes], head: bytes, where: str) -> bytes:
    if len(head) < 12:
        raise CxrEmbedError(f"{where}: the file ends in its header; it is cut short, or no TFRecord file")
    if not _matches(head[:8], head[8:]):
        raise CxrEmbedError(f"{where}: its header's checksum differs; the file is damaged, or no TFRecord file")
    (length,) = struct.unpack("<Q", head[:8])
    if length > LARGEST_VECTOR:
        raise CxrEmbedError(f"{where}: declares {counted(length, 'byte')}, more than any vector has")
    body = file.read(length + 4)
    if len(body) < length + 4:
        raise CxrEmbedError(f"{where}: the file ends in it, {len(body):,} of {length + 4:,} bytes are there")
    if not _matches(body[:-4], body[-4:]):
        raise CxrEmbedError(f"{where}: its checksum differs, its bytes have changed")
    return body[:-4]


def _matches(data: bytes, checksum: bytes) -> bool:
    crc: int = google_crc32c.value(data)
    masked = ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF
    return checksum == struct.pack("<I", masked)


class _NotAnExample(Exception):
    pass


def _fields(data: memoryview) -> Iterator[tuple[int, int, memoryview]]:
    """Number, wire type and value of each field of a message; a varint's value is empty (none is needed)."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            _, at = _varint(data, at)
            yield number, wire, data[:0]
            continue
        if wire == _BYTES:
            size, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise _NotAnExample
        if at + size > len(data):
            raise _NotAnExample
        yield number, wire, data[at : at + size]
        at += size


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            raise _NotAnExample
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise _NotAnExample


def _features(example: memoryview) -> dict[str, memoryview]:
    """Example { Features features = 1 }, Features { map<string, Feature> feature = 1 }: name to encoded Feature."""
    found = {}
    for features in _submessages(example, 1):
        for entry in _submessages(features, 1):
            name, feature = b"", memoryview(b"")
            for number, wire, value in _fields(entry):
                if wire == _BYTES and number == 1:
                    name = bytes(value)
                elif wire == _BYTES and number == 2:
                    feature = value
            found[name.decode()] = feature
    return found


def _first_bytes(feature: memoryview) -> bytes:
    """Feature { BytesList bytes_list = 1 }, BytesList { repeated bytes value = 1 }."""
    for texts in _submessages(feature, 1):
        for text in _submessages(texts, 1):
            return bytes(text)
    return b""


def _floats(feature: memoryview) -> np.ndarray:
    """Feature { FloatList float_list = 2 }, FloatList { repeated float value = 1 }, packed or one by one."""
    parts = []
    for floats in _submessages(feature, 2):
        for number, wire, value in _fields(floats):
            if number == 1 and wire in (_BYTES, _FIXED32):
                if len(value) % 4:
                    raise _NotAnExample
                parts.append(value)
    return np.frombuffer(b"".join(parts), "<f4")


def _submessages(message: memoryview, field: int) -> Iterator[memoryview]:
    return (value for number, wire, value in _fields(message) if number == field and wire == _BYTES)


def _image_name(image_id: str) -> str:
    """The image's name where the id is its file's address; else the id. A DICOM UID's dots are not a suffix."""
    for suffix in _IMAGE_SUFFIXES:
        if image_id.lower().endswith(suffix) and len(image_id) > len(suffix):
            return image_id[: -len(suffix)].rpartition("/")[2] or image_id
    return image_id


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".tfrecords").removesuffix(".tfrecord")
