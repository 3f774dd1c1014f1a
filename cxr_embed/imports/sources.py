"""What every kind of file is read as, and the checks that they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cxr_embed.errors import CxrEmbedError
from cxr_embed.io.digests import file_sha256, sha256_hex

Shape = tuple[int, ...]

# Far above any encoder's vector (the largest of the table has 350 kB): what declares more is refused unread.
LARGEST_VECTOR = 64 << 20
# Characters. Arrays of ids take as much room for every id as for the longest.
LONGEST_ID = 1024


class Vector(NamedTuple):
    """One entry of a source: `patient_id` is blank where the file does not have it; `where` names it in messages."""

    image_id: str
    patient_id: str
    array: np.ndarray
    where: str


@dataclass(frozen=True)
class Source:
    """Files of vectors that can be read more than once, one vector at a time.

    Attributes:
        paths: the files.
        count: vectors in them; None where only reading shows.
        read: from the expected shape (None = as the file has it) to its vectors, floating-point and of that shape.
        folder: name of the folder that they are all of, where that is what the user gave.
    """

    paths: tuple[Path, ...]
    count: int | None
    read: Callable[[Shape | None], Iterator[Vector]]
    folder: str = ""

    @property
    def name(self) -> str:
        """The files in a few words, without their folders: `a.npz`, `a.tfrecord and 3 more`; or the folder itself."""
        if self.folder:
            return self.folder
        more = f" and {len(self.paths) - 1:,} more" if len(self.paths) > 1 else ""
        return f"{self.paths[0].name}{more}"

    def digest(self) -> str:
        """SHA-256 of the file; of several, over their names and SHA-256.

        Raises:
            CxrEmbedError: where one cannot be read.
        """
        digests = []
        for path in self.paths:
            try:
                digests.append(file_sha256(path))
            except OSError as error:
                raise unreadable(path, error) from None
        if len(digests) == 1:
            return digests[0]
        lines = (f"{path.name} {digest}\n" for path, digest in zip(self.paths, digests, strict=True))
        return sha256_hex("".join(lines).encode(errors="surrogateescape"))


def fit(array: np.ndarray, shape: Shape | None, where: str) -> np.ndarray:
    """One image's vector in the shape of the encoder's output.

    Args:
        array: of that shape, flat, or either with leading axes of length 1 (a batch of one).
        shape: what is expected; None takes what comes.
        where: names the vector in messages.

    Raises:
        CxrEmbedError: for other sizes, or for anything but floating-point numbers.
    """
    if array.dtype.kind != "f":
        raise CxrEmbedError(f"{where}: holds {array.dtype}, not floating-point numbers")
    got = array.shape
    while len(got) > 1 and got[0] == 1:
        got = got[1:]
    if shape is None:
        if not got or 0 in got:
            raise CxrEmbedError(f"{where}: shape {array.shape} is not a vector")
        return array.reshape(got)
    if got != shape and got != (math.prod(shape),):
        raise CxrEmbedError(f"{where}: shape {array.shape}, expected {format_shape(shape)}")
    return array.reshape(shape)


def format_shape(shape: Shape) -> str:
    """A shape in a message: `32 x 128 (or 4096 numbers in a row)`."""
    numbers = " x ".join(map(str, shape))
    return f"{numbers} (or {math.prod(shape)} numbers in a row)" if len(shape) > 1 else f"{numbers} numbers"


def byte_limit(shape: Shape | None) -> int:
    """Bytes that one vector may take in a file: the widest number NumPy has, and room for a header."""
    return LARGEST_VECTOR if shape is None else math.prod(shape) * np.dtype(np.longdouble).itemsize + 4096


def require_file(path: Path) -> None:
    """Refuses what is not a file with something in it.

    Raises:
        CxrEmbedError: saying which.
    """
    try:
        if path.is_dir():
            raise CxrEmbedError(f"{path}: a folder, not a file")
        if path.stat().st_size == 0:
            raise CxrEmbedError(f"{path}: the file is empty")
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: Path, error: OSError) -> CxrEmbedError:
    """The error of a file that the system does not give."""
    return CxrEmbedError(f"{path}: cannot be read ({error.strerror or error})")
