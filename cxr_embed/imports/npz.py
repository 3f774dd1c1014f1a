"""`.npz` archives: Google's layout (one array an image) and that of `store export`."""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, NamedTuple

import numpy as np

from cxr_embed.errors import CxrEmbedError
from cxr_embed.imports.sources import (
    LARGEST_VECTOR,
    LONGEST_ID,
    ImportSource,
    Shape,
    Vector,
    byte_limit,
    fit,
    format_shape,
    require_file,
    unreadable,
)
from cxr_embed.io.files import ODD_HEADER
from cxr_embed.types import counted

_SUFFIX = ".npy"
_OWN = ("image_id.npy", "patient_id.npy", "vectors.npy")
_READ_AT_ONCE = 16 << 20  # bytes of one large array
# What zipfile, zlib and NumPy's parser of headers raise for bytes that are not what they should be.
_FAULTS = (zipfile.BadZipFile, zlib.error, ValueError, RuntimeError, *ODD_HEADER)


def open_npz(path: Path) -> ImportSource:
    """Vectors by image id.

    Two layouts are known: one array an image whose key is the image's id (as Google publishes them), and the arrays
    `image_id`, `patient_id` and `vectors` of `store export`. Entries are read one by one; nothing is unpickled.

    Raises:
        CxrEmbedError: where it is no such archive.
    """
    with _archive(path) as archive:
        members = _members(path, archive)
        if {_OWN[0], _OWN[2]} <= {member.filename for member in members}:
            with _open(archive, _OWN[2], f"{path}: vectors") as file:
                shape = _read_header(file, f"{path}: vectors").shape
            return ImportSource((path,), shape[0] if shape else 0, lambda expected: _read_own(path, expected))
        return ImportSource((path,), len(members), lambda expected: read_arrays(path, expected))


def read_arrays(path: Path, shape: Shape | None) -> Iterator[Vector]:
    """Each array of an archive with its key as the id.

    Args:
        path: an `.npz` file.
        shape: of every array; None takes what comes.

    Raises:
        CxrEmbedError: for a key that stands twice, a member that is larger than such an array can be (it is not
            read), objects, wrong shapes or damage; naming the key.
    """
    limit = byte_limit(shape)
    header, head = None, b""
    with _archive(path) as archive:
        for member in _members(path, archive):
            key = member.filename.removesuffix(_SUFFIX)
            where = f"{path}: {key!r}"
            if member.file_size > limit:
                with _open(archive, member.filename, where) as large:
                    got = _read_header(large, where).shape
                expected = "more than any vector has" if shape is None else f"expected {format_shape(shape)}"
                raise CxrEmbedError(f"{where}: shape {got}, {expected}")
            with _named(where):
                data = archive.read(member)
            if header is None or not data.startswith(head):  # all members of an archive mostly start alike
                file = io.BytesIO(data)
                header = _read_header(file, where)
                head = data[: file.tell()]
            if len(data) - len(head) != header.nbytes:
                raise CxrEmbedError(f"{where}: not as many bytes as shape {header.shape} takes")
            array = np.frombuffer(data, header.dtype, offset=len(head))
            yield Vector(key, "", fit(array.reshape(header.shape, order=header.order), shape, where), where)


class _Header(NamedTuple):
    """What an array in the `.npy` format declares."""

    shape: Shape
    order: Literal["C", "F"]
    dtype: np.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def _read_header(file: IO[bytes], where: str) -> _Header:
    with _named(where):
        version = np.lib.format.read_magic(file)
        if version != (1, 0):  # NumPy writes others only for records of many fields
            raise ValueError(f"version {version} of the .npy format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.hasobject:
        raise CxrEmbedError(f"{where}: holds Python objects (a pickle), which are never loaded; save plain numbers")
    return _Header(shape, "F" if fortran else "C", dtype)


def _read_own(path: Path, shape: Shape | None) -> Iterator[Vector]:
    where = f"{path}: vectors"
    with _archive(path) as archive, _open(archive, _OWN[2], where) as file:
        header = _read_header(file, where)
        if not header.shape or header.order == "F":
            raise CxrEmbedError(f"{where}: shape {header.shape}, order {header.order}; expected (N, ...) in C order")
        count, size = header.shape[0], math.prod(header.shape[1:]) * header.dtype.itemsize
        if not 0 < size <= byte_limit(shape):
            raise CxrEmbedError(
                f"{where}: {counted(size, 'byte')} a vector; one has at most {byte_limit(shape):,} here"
            )
        if archive.getinfo(_OWN[2]).file_size != file.tell() + header.nbytes:
            raise CxrEmbedError(f"{where}: not as many bytes as shape {header.shape} takes")
        ids = _read_texts(path, archive, _OWN[0], count)
        has_patients = _OWN[1] in archive.namelist()
        patients = _read_texts(path, archive, _OWN[1], count) if has_patients else [""] * count
        step = max(1, _READ_AT_ONCE // size)
        for start in range(0, count, step):
            rows = min(step, count - start)
            with _named(where):
                part = np.frombuffer(file.read(rows * size), header.dtype).reshape(rows, *header.shape[1:])
            for number, array in enumerate(part, start):
                name = f"{path}: {ids[number]!r}"
                yield Vector(ids[number], patients[number], fit(array, shape, name), name)
        with _named(where):
            file.read(1)  # at its end, zipfile compares the checksum


def _read_texts(path: Path, archive: zipfile.ZipFile, member: str, count: int) -> list[str]:
    """`(count,)` strings: the ids or patients of `store export`."""
    where = f"{path}: {member.removesuffix(_SUFFIX)}"
    with _open(archive, member, where) as file:
        header = _read_header(file, where)
        if header.dtype.kind != "U" or header.shape != (count,):
            raise CxrEmbedError(f"{where}: {header.dtype} {header.shape}, expected {counted(count, 'string')}")
        room = 100 * path.stat().st_size  # ids of a real archive pack worse than that
        if header.dtype.itemsize > LONGEST_ID * 4 or header.nbytes > max(LARGEST_VECTOR, room):
            raise CxrEmbedError(
                f"{where}: {counted(count, 'string')} of {header.dtype.itemsize // 4:,} characters are not ids"
            )
        with _named(where):
            data = file.read(header.nbytes + 1)
    if len(data) != header.nbytes:
        raise CxrEmbedError(f"{where}: another number of bytes than its header declares")
    with _named(where):
        texts: list[str] = np.frombuffer(data, header.dtype).tolist()
    return texts


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    require_file(path)
    try:
        archive = zipfile.ZipFile(path)
    except _FAULTS:
        raise CxrEmbedError(f"{path}: not an .npz archive, or cut short; save it with numpy.savez") from None
    except OSError as error:
        raise unreadable(path, error) from None
    with archive:
        yield archive


def _members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The arrays of an archive; each key stands once."""
    members = archive.infolist()
    if not members:
        raise CxrEmbedError(f"{path}: the archive is empty")
    seen: set[str] = set()
    for member in members:
        if not member.filename.endswith(_SUFFIX):
            raise CxrEmbedError(f"{path}: {member.filename!r} is not an array; an .npz archive holds .npy members only")
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise CxrEmbedError(f"{path}: {member.filename!r} is packed in a way that NumPy does not write")
        if member.filename in seen:
            raise CxrEmbedError(f"{path}: {member.filename.removesuffix(_SUFFIX)!r} stands there twice")
        seen.add(member.filename)
    return members


def _open(archive: zipfile.ZipFile, member: str, where: str) -> IO[bytes]:
    with _named(where):
        return archive.open(member)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Damage that zipfile, zlib or NumPy meet, as an error that names the array."""
    try:
        yield
    except _FAULTS as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:120]
        raise CxrEmbedError(f"{where}: damaged, or no array ({reason})") from None
    except OSError as error:
        raise CxrEmbedError(f"{where}: cannot be read ({error.strerror or error})") from None
