"""What a server and its decoding worker say to each other: one JSON object and some bytes, never a pickle."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any

_LENGTH = struct.Struct("!I")


def packed(head: dict[str, Any], parts: Sequence[bytes | memoryview] = ()) -> bytes:
    """A message: the length of the head, the head as JSON, then the parts; the head's `parts` are their lengths."""
    return b"".join((opening(head, [memoryview(part).nbytes for part in parts]), *parts))


def opening(head: dict[str, Any], lengths: Sequence[int]) -> bytes:
    """What a message begins with, before its parts of such lengths."""
    text = json.dumps({**head, "parts": list(lengths)}).encode()
    return _LENGTH.pack(len(text)) + text


def unpacked(message: bytes) -> tuple[dict[str, Any], list[memoryview]]:
    """The head and the parts of a message.

    Raises:
        ValueError: for bytes that are not one.
    """
    view = memoryview(message)
    if len(view) < _LENGTH.size:
        raise ValueError("a message without a head")
    start = _LENGTH.size + _LENGTH.unpack(view[: _LENGTH.size])[0]
    head = json.loads(bytes(view[_LENGTH.size : start]))
    if not isinstance(head, dict) or not isinstance(lengths := head.get("parts"), list):
        raise ValueError("a message whose head is not an object with parts")
    parts = []
    for length in lengths:
        if type(length) is not int or not 0 <= length <= len(view) - start:
            raise ValueError("a message that is shorter than it says")
        parts.append(view[start : start + length])
        start += length
    return head, parts


def send(connection: Connection, head: dict[str, Any], parts: Sequence[bytes | memoryview] = ()) -> None:
    """Sends a message."""
    connection.send_bytes(packed(head, parts))


def receive(connection: Connection) -> tuple[dict[str, Any], list[memoryview]]:
    """The next message. Raises as `unpacked` does, and EOFError where there will be none."""
    return unpacked(connection.recv_bytes())
