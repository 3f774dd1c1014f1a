"""What was made last, kept in memory up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Values by key; the one that was not used for the longest time goes first.

    Args:
        most: bytes that they may take.
        size: of a value.
    """

    def __init__(self, most: int, size: Callable[[T], int]) -> None:
        self._most, self._size, self._bytes = most, size, 0
        self._kept: OrderedDict[Hashable, T] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable) -> T | None:
        """The value, if it is here."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Hashable, value: T) -> None:
        """Keeps a value; one that is larger than all of the room is not kept."""
        with self._lock:
            self._drop(key)
            self._kept[key] = value
            self._bytes += self._size(value)
            while self._bytes > self._most:
                self._drop(next(iter(self._kept)))

    def drop(self, key: Hashable) -> None:
        """Lets go of a value."""
        with self._lock:
            self._drop(key)

    def _drop(self, key: Hashable) -> None:
        if key in self._kept:
            self._bytes -= self._size(self._kept.pop(key))
