"""CRC-32C of vectors: what was written, and whether it is still there."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

_RUN_ROWS, _RUN_BYTES = 64, 1 << 17  # checked by one call: they stay in the processor's cache


def row_checksums(array: np.ndarray) -> np.ndarray:
    """CRC-32C of each row's bytes: `(M, ...)` to `(M,)` uint32."""
    from google_crc32c import value

    rows = np.ascontiguousarray(array)
    return np.fromiter(map(value, rows), np.uint32, len(rows))


def changed_rows(array: np.ndarray, sums: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """The rows whose bytes are not those that were written.

    A call a row costs several times what its bytes cost. So a run of rows is checked by one, against what follows from
    the checksums of its rows, and row by row only where that differs. One changed row of a run is found as surely as by
    its own checksum; several are, but for a chance of 1 in 2^32.

    Args:
        array: `(N, ...)`.
        sums: `(N,)` uint32 as they were written.
        rows: those to check, `(M,)`; None for all.

    Returns:
        Of `rows`, in their order.
    """
    from google_crc32c import value

    array = np.asarray(array)  # numpy.memmap costs microseconds with every slice
    size = array.itemsize * math.prod(array.shape[1:])
    run = max(1, min(_RUN_ROWS, _RUN_BYTES // max(1, size)))
    count, written = (len(array), sums) if rows is None else (len(rows), sums[rows])
    expected = joined_checksums(written, size, run)
    bad = [np.empty(0, np.intp)]
    for number, stop in enumerate(range((count - 1) % run + 1, count + 1, run)):
        here = slice(max(0, stop - run), stop)
        held = np.ascontiguousarray(array[here if rows is None else rows[here]])
        if value(held) != expected[number]:
            differ = here.start + np.flatnonzero(row_checksums(held) != written[here])
            bad.append(differ if rows is None else rows[differ])
    return np.concatenate(bad)


def joined_checksums(sums: np.ndarray, size: int, run: int) -> np.ndarray:
    """CRC-32C of runs of rows from those of the rows, whose bytes are not looked at.

    Args:
        sums: `(M,)` uint32, of rows in a line.
        size: bytes of a row.
        run: rows of a run; the first one has what is left over.

    Returns:
        `(ceil(M / run),)` uint32.
    """
    # No bytes have the checksum 0, and more of them leave it so: empty rows before the first change nothing.
    padded = np.concatenate([np.zeros(-len(sums) % run, np.uint32), sums])
    return _looked_up(_shares(size, run), padded, run)


def _looked_up(table: np.ndarray, sums: np.ndarray, run: int) -> np.ndarray:
    """`table` `(run * 4 * 256,)` at each byte of each of `run` checksums, joined: `(K * run,)` uint32 to `(K,)`."""
    parts = sums.astype("<u4").view(np.uint8).reshape(-1, 4 * run)
    return np.asarray(np.bitwise_xor.reduce(table.take(parts + np.arange(0, len(table), 256)), axis=1))


@lru_cache(maxsize=16)
def _shares(size: int, run: int) -> np.ndarray:
    """What a row's checksum adds to that of its run, `(run * 4 * 256,)` uint32: by row, its byte, that byte's value."""
    from google_crc32c import extend, value

    # The checksum of A and then B is B's, and A's moved by B's length. Zeros as B show where each bit of A's moves to.
    zeros = bytes(size)
    bits = np.array([[extend(1 << bit, zeros) ^ value(zeros)] for bit in range(32)], np.uint32)  # (32, 1)
    last = (np.arange(256, dtype=np.uint32) << np.arange(0, 32, 8, dtype=np.uint32)[:, None]).ravel()
    move = np.bitwise_xor.reduce((last >> np.arange(32, dtype=np.uint32)[:, None] & 1) * bits)
    shares = [last]
    for _ in range(run - 1):
        shares.append(_looked_up(move, shares[-1], 1))
    return np.concatenate(shares[::-1])


class RowCheck:
    """Holds the rows of a mapped array against their checksums, each when it is first needed.

    Args:
        array: `(N, ...)`.
        sums: `(N,)` uint32 as they were written; None where nobody wrote any, and nothing is checked then.
        changed: makes the error of a row that has changed.
    """

    def __init__(self, array: np.ndarray, sums: np.ndarray | None, changed: Callable[[int], Exception]) -> None:
        self._array, self._sums, self._changed = array, sums, changed
        self._unseen = np.full(0 if sums is None else len(array), True)
        self._left = len(self._unseen)

    def __call__(self, rows: np.ndarray | None = None) -> None:
        """Checks rows `(M,)`, all by default.

        Raises:
            Exception: what `changed` makes, of the first row that has changed.
        """
        if not self._left or self._sums is None:
            return
        new = np.flatnonzero(self._unseen) if rows is None else np.unique(rows[self._unseen[rows]])
        everything = len(new) == len(self._array)  # no copy then
        bad = changed_rows(self._array, self._sums, None if everything else new)
        if len(bad):
            raise self._changed(int(bad[0]))
        self._unseen[new] = False
        self._left -= len(new)


def unchecked(rows: np.ndarray | None = None) -> None:
    """A `RowCheck` of an array that was just written, or is in memory."""
    del rows
