"""The process that decodes what a browser sends and what a manifest names; a hostile file can end no more than this.

It reads no file: bytes come in through its socket, and pictures go out. It may neither write files nor dump core.
"""

from __future__ import annotations

import io
import resource
import sys
from dataclasses import asdict
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_embed.errors import ImageError
from cxr_embed.io.processes import end_with_peer, stderr_silenced
from cxr_embed.regions import Box
from cxr_embed.web import wire

if TYPE_CHECKING:
    from cxr_embed.types import CxrImage

MEMORY = 6 << 30  # bytes of address space: 100 megapixels of 16 bits, several times over, beside the libraries
_QUALITY = 84  # of JPEG and WebP: finer steps than these are not seen at a preview's size


def answer(head: dict[str, Any], data: bytes) -> tuple[dict[str, Any], list[bytes | memoryview]]:
    """Decodes a file.

    Args:
        head: `sides`, of the previews that are wanted, and `coding` of them, JPEG or WEBP; `box`, of the region that
            they show, blank for the whole; `pixels`, whether all of them are wanted; `colour`, see `decode_image`.
        data: the file.

    Returns:
        What is known of the picture, and the parts: a preview for each side, then the pixels, little endian.
    """
    from cxr_embed.images import crop_image, decode_image, machine_fault

    try:
        with stderr_silenced():
            image = decode_image(data, colour=head["colour"])
        shown = crop_image(image, Box.parse(head["box"])) if head["box"] else image
        parts: list[bytes | memoryview] = [preview(shown, side, head["coding"]) for side in head["sides"]]
    except ImageError as error:
        return {"fault": error.kind, "why": str(error)}, []
    except Exception as error:
        fault = machine_fault(error) or ImageError("corrupt", f"the image cannot be decoded ({type(error).__name__})")
        return {"fault": fault.kind, "why": str(fault)}, []
    height, width = image.pixels.shape
    known = {"height": height, "width": width, "bits": image.bits, "content": image.content_id}
    known |= {"source": image.source, "notes": list(image.notes), "fields": asdict(image.fields)}
    known["identifying"] = image.identifying
    if head["pixels"]:
        plain = np.ascontiguousarray(image.pixels, image.pixels.dtype.newbyteorder("<"))
        known["depth"] = plain.dtype.itemsize
        parts.append(plain.tobytes())
    return known, parts


def preview(image: CxrImage, side: int, coding: str = "JPEG") -> bytes:
    """A grey picture whose longer side has at most so many pixels; one of little contrast is spread first."""
    from PIL import Image

    from cxr_embed.images import stretch

    shown = stretch(image) if "range" in image.notes else image
    grey = np.multiply(shown.pixels, np.float32(255.0 / shown.max_value), dtype=np.float32)
    grey += np.float32(0.5)
    small = Image.fromarray(grey.astype(np.uint8))
    # Means of whole boxes first, down to twice the size that is wanted: the rest is quick.
    small.thumbnail((side, side), Image.Resampling.LANCZOS, reducing_gap=2.0)
    out = io.BytesIO()
    small.save(out, coding, quality=_QUALITY)
    return out.getvalue()


def _confine() -> None:
    """Takes from this process what decoding needs not."""
    for what, most in ((resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_AS, MEMORY)):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))


def main() -> None:
    """Answers the server at the other end of the socket whose descriptor is the first argument, until it closes."""
    connection = Connection(int(sys.argv[1]))
    end_with_peer(connection.fileno())
    _confine()
    try:
        import PIL.JpegImagePlugin

        import cxr_embed.images  # noqa: F401  (the first file need not wait for it)

        PIL.Image.preinit()
        wire.send(connection, {"ready": True})
        while True:
            head, parts = wire.receive(connection)
            wire.send(connection, *answer(head, bytes(parts[0])))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the server is gone
