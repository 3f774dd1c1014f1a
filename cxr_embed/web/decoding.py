"""Files to pictures, in worker processes that are replaced when one dies or takes too long."""

from __future__ import annotations

import queue
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Literal, cast, get_args

import numpy as np

from cxr_embed.choices import Colour
from cxr_embed.errors import ImageError, ImageFault
from cxr_embed.io.processes import ending, signals_blocked
from cxr_embed.types import CxrImage, DicomFields, ImageNote
from cxr_embed.web import wire

SECONDS = 20.0  # of one file: a radiograph of 20 megapixels takes under one
_WAITING = 60.0  # seconds until a worker is free
_SERVE = "from cxr_embed.web.decoder import main; main()"


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
        self._free: queue.LifoQueue[_Worker] = queue.LifoQueue()
        self._workers = [_Worker() for _ in range(count)]
        for worker in self._workers:
            self._free.put(worker)

    def start(self) -> None:
        """Starts one worker, so that the first file need not wait for it."""
        worker = self._free.get()
        try:
            worker.start()
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
            known, parts = worker.ask(head, data, self._seconds)
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


class _Worker:
    """One process, started when it is needed and after it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def start(self) -> Connection:
        """The way to the process, which runs."""
        if self._connection is not None and self._process is not None and self._process.poll() is None:
            return self._connection
        self.stop()
        ours, theirs = socket.socketpair()
        with theirs, signals_blocked():
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        if not self._connection.poll(_WAITING):
            self.stop()
            raise ImageError("worker-died", "the decoding process does not start")
        try:
            wire.receive(self._connection)
        except (EOFError, OSError, ValueError):
            raise ImageError("worker-died", f"the decoding process {ending(self._process)}") from None
        return self._connection

    def ask(self, head: dict[str, Any], data: bytes, seconds: float) -> tuple[dict[str, Any], list[memoryview]]:
        """What the process answers; whatever it does to itself is an `ImageError`."""
        with self._lock:
            connection = self.start()
            try:
                wire.send(connection, head, [data])
                if not connection.poll(seconds):
                    self.stop()
                    raise ImageError("worker-died", f"decoding took longer than {seconds:.0f} s")
                known, parts = wire.receive(connection)
            except (EOFError, OSError):
                how = ending(cast("subprocess.Popen[bytes]", self._process))
                self.stop()
                raise ImageError("worker-died", f"the process that decoded it {how}") from None
            except ValueError:
                self.stop()
                raise ImageError("worker-died", "the process that decoded it did not answer in order") from None
            return known, parts

    def stop(self) -> None:
        """Ends the process, now."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
        self._process = self._connection = None
