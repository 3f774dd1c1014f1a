"""Files to pictures, in worker processes that are replaced when one dies or takes too long."""

from __future__ import annotations

import queue
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from cxr_embed.choices import Colour
from cxr_embed.errors import ImageError, ImageFault
from cxr_embed.types import CxrImage, DicomFields, ImageNote
from cxr_embed.web.workers import Worker, WorkerEnded

SECONDS = 20.0  # of one file: a radiograph of 20 megapixels takes under one
_WAITING = 60.0  # seconds until a worker is free
_PROGRAM = "cxr_embed.web.decoder"


@dataclass(frozen=True)
class Decoded:
    """What came of a file.

    Attributes:
        image: the radiograph, where its pixels were wanted.
        previews: a picture for each side that was wanted.
        content: SHA-256 of the file, 64 hexadecimal digits.
        notes: what is odd about it.
        identifying: as of a `CxrImage`.
    """

    image: CxrImage | None
    previews: tuple[bytes, ...]
    content: str
    notes: tuple[str, ...]
    identifying: bool


class Decoders:
    """Worker processes that decode; as many files at a time as there are workers.

    Args:
        count: workers; each is started when it is first needed.
        seconds: that one file may take.
    """

    def __init__(self, count: int = 2, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._free: queue.LifoQueue[Worker] = queue.LifoQueue()
        self._workers = [Worker(_PROGRAM, "decoding") for _ in range(count)]
        for worker in self._workers:
            self._free.put(worker)

    def start(self) -> None:
        """Starts one worker, so that the first file need not wait for it."""
        worker = self._free.get()
        try:
            worker.start()
        except WorkerEnded as error:
            raise ImageError("worker-died", str(error)) from None
        finally:
            self._free.put(worker)

    def decode(
        self,
        data: bytes,
        sides: Sequence[int] = (),
        pixels: bool = False,
        colour: Colour = "grey",
        *,
        box: str = "",
        coding: Literal["JPEG", "WEBP"] = "JPEG",
    ) -> Decoded:
        """Decodes a file.

        Args:
            data: the whole of it.
            sides: longer sides of the previews that are wanted.
            pixels: whether the radiograph itself is.
            colour: see `decode_image`.
            box: of the region that the previews show; blank for the whole picture.
            coding: of the previews.

        Raises:
            ImageError: for what is not a radiograph; `worker-died` for a file that ends or holds up its worker.
        """
        try:
            worker = self._free.get(timeout=_WAITING)
        except queue.Empty:
            raise ImageError("worker-died", "the server is busy with other pictures; try again") from None
        try:
            head = {"sides": list(sides), "pixels": pixels, "colour": colour, "box": box, "coding": coding}
            known, parts = worker.ask(head, [data], self._seconds)
        except WorkerEnded as error:
            raise ImageError("worker-died", str(error)) from None
        finally:
            self._free.put(worker)
        if "fault" in known:
            kind: Any = known["fault"] if known["fault"] in get_args(ImageFault) else "corrupt"
            raise ImageError(kind, str(known["why"]))
        try:
            return _decoded(known, parts, len(sides), pixels)
        except (KeyError, TypeError, ValueError):
            raise ImageError("worker-died", "the decoding process gave no picture") from None

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            worker.stop()


def _decoded(known: dict[str, Any], parts: list[memoryview], previews: int, pixels: bool) -> Decoded:
    image = None
    if pixels:
        shape = (known["height"], known["width"])
        plain = np.frombuffer(parts[previews], np.uint8 if known["depth"] == 1 else np.dtype("<u2")).reshape(shape)
        image = CxrImage(
            pixels=plain,
            bits=known["bits"],
            content_id=known["content"],
            source=known["source"],
            fields=DicomFields(**known["fields"]),
            notes=tuple(note for note in known["notes"] if note in get_args(ImageNote)),
            identifying=bool(known["identifying"]),
        )
    small = tuple(bytes(part) for part in parts[:previews])
    return Decoded(image, small, str(known["content"]), tuple(map(str, known["notes"])), bool(known["identifying"]))
