"""Arrays that grow in a file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from cxr_embed.store.checksums import row_checksums

ROWS = 4096  # copied at a time, fewer where they are large
_COPIED_BYTES = 64 << 20


def rows_at_a_time(array: np.ndarray) -> int:
    """How many rows of an array are in memory at once while all of it is looked at."""
    return max(1, min(ROWS, _COPIED_BYTES // max(1, array.itemsize * math.prod(array.shape[1:]))))


class ArrayFile:
    """Rows that are appended to an `.npy` file, see `array_file`."""

    def __init__(self, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._file, self._shape, self._dtype = file, shape, dtype.newbyteorder("<")
        self.rows = 0
        self._sums: list[np.ndarray] = []
        self._length = self.header()

    def append(self, rows: np.ndarray) -> None:
        """Writes `(B, *shape)`."""
        written = np.ascontiguousarray(rows, self._dtype)
        self._file.write(written.data)
        self._sums.append(row_checksums(written))
        self.rows += len(rows)

    @property
    def checksums(self) -> np.ndarray:
        """`(N,)` uint32, CRC-32C of each row."""
        return np.concatenate([np.empty(0, np.uint32), *self._sums])

    def copy(self, array: np.ndarray, rows: np.ndarray | None = None) -> None:
        """Appends `(N, *shape)`, or the rows `(M,)` of it, without having all in memory."""
        count = len(array) if rows is None else len(rows)
        size = rows_at_a_time(array)
        for start in range(0, count, size):
            part = slice(start, start + size)
            self.append(array[part] if rows is None else array[rows[part]])

    def header(self) -> int:
        """Writes at the beginning how many rows there are; gives its length.

        Raises:
            OSError: where the number has outgrown its room.
        """
        # NumPy leaves room for a longer first number, so that it can be set right at the end.
        described = {"descr": self._dtype.str, "fortran_order": False, "shape": (self.rows, *self._shape)}
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, described)
        length = self._file.tell()
        if self.rows and length != self._length:
            raise OSError(None, "the header of an array has no room for its shape")
        return length


@contextmanager
def array_file(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> Iterator[ArrayFile]:
    """A new `.npy` file of rows of a shape and dtype; at the end it says how many there are."""
    with open(path, "wb") as file:
        array = ArrayFile(file, shape, dtype)
        yield array
        array.header()
