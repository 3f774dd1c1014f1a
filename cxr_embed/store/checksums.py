"""CRC-32C of vectors: what was written, and whether it is still there."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def row_checksums(array: np.ndarray) -> np.ndarray:
    """CRC-32C of each row's bytes: `(M, ...)` to `(M,)` uint32."""
    from google_crc32c import value

    rows = np.ascontiguousarray(array)
    return np.fromiter(map(value, rows), np.uint32, len(rows))


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
        from google_crc32c import value

        new = np.flatnonzero(self._unseen) if rows is None else np.unique(rows[self._unseen[rows]])
        found = np.fromiter(map(value, map(self._array.__getitem__, new.tolist())), np.uint32, len(new))
        bad = new[found != self._sums[new]]
        if len(bad):
            raise self._changed(int(bad[0]))
        self._unseen[new] = False
        self._left -= len(new)


def unchecked(rows: np.ndarray | None = None) -> None:
    """A `RowCheck` of an array that was just written, or is in memory."""
    del rows
