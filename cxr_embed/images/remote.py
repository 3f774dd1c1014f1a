"""Radiographs at addresses: their bytes with a stamp, and what went wrong as a fault of an image."""

from __future__ import annotations

from collections.abc import Mapping

from cxr_embed.errors import ImageError, ImageFault, RemoteError, RemoteKind
from cxr_embed.images.checks import MAX_FILE_BYTES
from cxr_embed.io.objects import ObjectStamp, read_object
from cxr_embed.types import Stamp

_FAULTS: Mapping[RemoteKind, ImageFault] = {
    "missing": "missing",
    "no-bucket": "missing",
    "unreachable": "unreachable",
    "too-large": "too-large",
}


def read_remote(address: str) -> tuple[bytes, Stamp]:
    """An object's bytes, and its stamp.

    Raises:
        ImageError: `missing`, `unreadable`, `unreachable`, `empty` or `too-large`.
    """
    try:
        data, stamp = read_object(address, MAX_FILE_BYTES)
    except RemoteError as error:
        raise ImageError(_FAULTS.get(error.kind, "unreadable"), str(error)) from None
    if not data:
        raise ImageError("empty", "the object is empty")
    return data, stamp_of(stamp)


def stamp_of(found: ObjectStamp | None) -> Stamp:
    """An object's stamp in the place of a file's: its ETag is where a file has the time of its last change.

    Zeros where there is no object, or the service says nothing that would change with it.
    """
    if found is None or found.size < 0:
        return Stamp()
    return Stamp(found.size, found.mtime_ns, found.mark or found.mtime_ns)
