"""A worker process; its first argument is the descriptor of its end of a socket to the run.

It is started as a program of its own, not forked: a script or notebook that calls `embed` is not imported again, and
the interpreter may be another environment's.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_embed.errors import CxrEmbedError, EncoderUnusable, ImageError
from cxr_embed.io.addresses import address_of
from cxr_embed.io.digests import sha256_hex
from cxr_embed.io.files import stays_below
from cxr_embed.io.processes import end_with_peer, stderr_silenced
from cxr_embed.pipeline.messages import (
    Decoded,
    Embedded,
    EmbedFiles,
    Fault,
    Hashed,
    HashedFile,
    InSlot,
    ReadFiles,
    Ready,
    RunSlots,
    Setup,
    Unusable,
)
from cxr_embed.regions import Box, region_content
from cxr_embed.types import Stamp

if TYPE_CHECKING:
    from cxr_embed.encoders.checked import CheckedEncoder
    from cxr_embed.types import CxrImage, ImageNote


LINKED_AWAY = "its path leads out of the manifest's folder (or `root`) through a link; `follow_links` reads it"
FETCHED_AT_ONCE = 8  # objects that a worker reads at one time
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Where a model input begins in a slot: a multiple of a cache line.
_ALIGNMENT = 64


class Worker:
    """Reads, decodes and infers for one run: in a process of its own, or for an encoder object in the run's."""

    def __init__(self, setup: Setup, encoder: CheckedEncoder) -> None:
        from cxr_embed.images.likeness import check_weights

        check_weights()  # where our own data is missing, no radiograph is to blame
        self.setup, self.encoder = setup, encoder
        self.batch_size = setup.batch_size
        self.unlike: set[int] = set()  # keys of the chunk whose picture does not look like a chest
        self.odd: dict[int, tuple[ImageNote, ...]] = {}  # by key: what is odd about a file of the chunk
        self.contents: dict[int, tuple[bytes, str, str]] = {}  # key to bytes, the file's SHA-256 and a region's box
        self.decoded: tuple[str, CxrImage] | None = None  # the picture that the last region was cut out of
        self.below = stays_below(setup.root) if setup.root is not None else None
        self.arena = mmap.mmap(setup.arena, 0) if setup.arena is not None else None

    def answer(self, message: ReadFiles | EmbedFiles | RunSlots) -> Hashed | Embedded | Decoded:
        """Does what the message asks for."""
        if isinstance(message, ReadFiles):
            return self.read(message)
        if isinstance(message, EmbedFiles):
            return self.embed_files(message)
        return self.run_slots(message)

    def read(self, message: ReadFiles) -> Hashed:
        """Reads and hashes the files and keeps their bytes."""
        self.contents.clear()
        hashed, faults = [], {}
        fetched = self.fetch(message)
        last: tuple[str, bytes, HashedFile] | None = None  # regions of a picture follow each other
        for key, path, box in message.files:
            if last is None or last[0] != path or not box:
                try:
                    last = path, *(fetched[path].result() if path in fetched else self.read_file(path))
                except ImageError as error:
                    faults[key] = Fault(error.kind, str(error))
                    continue
            _, data, file = last
            self.contents[key] = data, file.content.hex(), box
            if box:
                file = replace(file, content=region_content(file.content, box), file=file.content)
            hashed.append(replace(file, key=key))
        return Hashed(hashed, faults)

    def fetch(self, message: ReadFiles) -> dict[str, Future[tuple[bytes, HashedFile]]]:
        """Starts to read the objects among the files, several at one time: a server far away is waited for."""
        paths = dict.fromkeys(path for _, path, _ in message.files if address_of(path) is not None)
        if not paths:
            return {}
        with ThreadPoolExecutor(FETCHED_AT_ONCE) as threads:
            return {path: threads.submit(self.read_file, path) for path in paths}

    def read_file(self, path: str) -> tuple[bytes, HashedFile]:
        """A file's bytes, and what is known of them.

        Raises:
            ImageError: where it cannot be read, or may not be.
        """
        from cxr_embed.images import check_name, read_bytes, read_remote

        read_ns = time.time_ns()
        if (address := address_of(path)) is not None:
            data, stamp = read_remote(address)
        else:
            if self.below is not None and not self.below(path):
                raise ImageError("linked-away", LINKED_AWAY)
            before, read_ns = file_stamp(path), time.time_ns()
            data = read_bytes(path)
            stamp = before if file_stamp(path) == before else Stamp()
        misnamed = None
        try:
            check_name(data, PurePath(path).suffix)
        except ImageError as error:
            misnamed = Fault(error.kind, str(error))
        content = bytes.fromhex(sha256_hex(data))
        return data, HashedFile(key=0, content=content, stamp=stamp, read_ns=read_ns, misnamed=misnamed)

    def embed_files(self, message: EmbedFiles) -> Embedded | Decoded:
        """Decodes the wanted files of the chunk, then infers them or leaves their pixels in the slot."""
        faults: dict[int, Fault] = {}
        keys, inputs = [], []
        self.unlike.clear()
        if message.slot is not None:
            self.encoder.input_form = message.input_form
        self.odd.clear()
        for key in message.keys:
            try:
                inputs.append(self.decode(key))
                keys.append(key)
            except ImageError as error:
                faults[key] = Fault(error.kind, str(error))
        self.contents.clear()
        self.decoded = None
        if message.slot is None:
            return replace(self.infer(keys, inputs, faults), unlike=frozenset(self.unlike), odd=dict(self.odd))
        return self.fill(message.slot, keys, inputs, faults)

    def fill(self, slot: int, keys: list[int], inputs: list[np.ndarray], faults: dict[int, Fault]) -> Decoded:
        """Puts model inputs into a slot, as many as it has room for."""
        assert self.arena is not None
        places: list[InSlot] = []
        fitting, unfit, offset = [], [], 0
        for key, array in zip(keys, inputs, strict=True):
            if array.nbytes > self.setup.slot_bytes:
                problem = (
                    f"its model input of {array.nbytes >> 20} MiB is larger than {self.setup.slot_bytes >> 20} MiB"
                )
                faults[key] = Fault("too-large", problem)
            elif offset + array.nbytes > self.setup.slot_bytes:
                unfit.append(key)
            else:
                place = InSlot(offset, array.shape, array.dtype.str)
                self.view(slot, place)[...] = array
                places.append(place)
                fitting.append(key)
                offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
        return Decoded(
            slot=slot,
            keys=fitting,
            inputs=places,
            faults=faults,
            unfit=unfit,
            unlike=frozenset(self.unlike),
            odd=dict(self.odd),
        )

    def decode(self, key: int) -> np.ndarray:
        """A file's model input.

        Raises:
            ImageError: also for what a decoder was not expected to raise: one file never stops a run.
        """
        from cxr_embed.images import crop_image, decode_image, looks_like_chest, machine_fault, prepare_image

        data, file, box = self.contents[key]
        # libtiff tells of damage on stderr, across the progress bar and without the file's name; the error has both.
        quiet = stderr_silenced() if data[:4] in _TIFF else contextlib.nullcontext()
        try:
            if self.decoded is not None and self.decoded[0] == file:
                image = self.decoded[1]
            else:
                with quiet:
                    image = decode_image(data, content_id=file, colour=self.setup.colour)
            self.decoded = (file, image) if box else None
            seen = prepare_image(image, self.setup.prepare)
            if not looks_like_chest(seen.pixels, seen.max_value):
                self.unlike.add(key)
            if seen.notes:
                self.odd[key] = seen.notes
            if box:
                image = crop_image(image, Box.parse(box))
        except ImageError:
            raise
        except Exception as error:
            problem = f"the image cannot be decoded ({type(error).__name__})"
            raise machine_fault(error) or ImageError("corrupt", problem) from None
        try:
            return self.encoder.preprocess(image)
        except (ImageError, EncoderUnusable):
            raise
        except Exception as error:  # of the encoder's code, which may be mended by the next run
            raise encoder_fault(error) from None

    def view(self, slot: int, place: InSlot) -> np.ndarray:
        """A model input in a slot."""
        assert self.arena is not None
        count = int(np.prod(place.shape))
        start = slot * self.setup.slot_bytes + place.offset
        return np.frombuffer(self.arena, place.dtype, count, start).reshape(place.shape)

    def run_slots(self, message: RunSlots) -> Embedded:
        """Infers the model inputs that decoders left in the arena."""
        inputs = [self.view(slot, place) for slot, places in message.slots for place in places]
        return self.infer(message.keys, inputs, {})

    def infer(self, keys: list[int], inputs: list[np.ndarray], faults: dict[int, Fault]) -> Embedded:
        """Vectors of the inputs. Batches are halved when memory runs out; a failing batch is tried image by image."""
        done: list[int] = []
        parts: list[dict[str, np.ndarray]] = []
        start = 0
        while start < len(keys):
            stop = min(start + self.batch_size, len(keys))
            try:
                parts.append(self._embed(inputs[start:stop]))
                done += keys[start:stop]
                start = stop
            except EncoderUnusable:
                raise
            except Exception as error:
                if is_out_of_memory(error) and self.batch_size > 1:
                    self.batch_size = max(1, min(self.batch_size, stop - start) // 2)
                    continue
                for at in range(start, stop):
                    try:
                        parts.append(self._embed(inputs[at : at + 1]))
                        done.append(keys[at])
                    except EncoderUnusable:
                        raise
                    except Exception as reason:
                        fault = encoder_fault(reason)
                        faults[keys[at]] = Fault(fault.kind, str(fault))
                start = stop
        vectors = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]} if parts else {}
        encoder = self.encoder
        return Embedded(
            keys=done,
            vectors=vectors,
            faults=faults,
            batch_size=self.batch_size,
            engine=encoder.engine,
            notes=encoder.notes,
            input_form=encoder.input_form,
        )

    def _embed(self, inputs: list[np.ndarray]) -> dict[str, np.ndarray]:
        alike = all(array.shape == inputs[0].shape for array in inputs)
        # Encoded files, and large pictures in a form that the encoder prefers, are handed on without a copy.
        files = inputs[0].ndim == 1 and inputs[0].dtype == np.uint8
        return self.encoder.embed(np.stack(inputs) if alike and not files and not self.encoder.input_form else inputs)


def file_stamp(path: str) -> Stamp:
    """The file's stamp; zeros where the file system does not say."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return Stamp()
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def is_out_of_memory(error: Exception) -> bool:
    """Whether the device or the machine ran out of memory, in any framework's words."""
    return isinstance(error, MemoryError) or "out of memory" in str(error).lower()


def encoder_fault(error: Exception) -> ImageError:
    """What became of an image that its encoder failed on."""
    if isinstance(error, ImageError):  # in the words that a decoder has for it
        return error
    reason = str(error) if isinstance(error, CxrEmbedError) else f"{type(error).__name__}: {error}"
    return ImageError("out-of-memory" if is_out_of_memory(error) else "encoder", f"the encoder failed: {reason}")


def make_encoder(setup: Setup) -> CheckedEncoder:
    """The encoder that a worker process needs.

    Raises:
        CxrEmbedError: where it cannot be loaded here.
    """
    from cxr_embed.encoders import CheckedEncoder, load_encoder
    from cxr_embed.images import prepared_encoder

    options: dict[str, Any] = {"device": setup.device, "precision": setup.precision, "threads": setup.threads}
    if setup.kind == "decoder":
        options |= {"device": "cpu", "precision": "float32"}  # its engine never starts
    loaded = load_encoder(setup.encoder, weights=setup.weights, outputs=setup.outputs, pixels=setup.pixels, **options)
    encoder = CheckedEncoder(prepared_encoder(loaded.encoder, setup.prepare, setup.cropped))
    if encoder.spec.fingerprint != setup.fingerprint:
        raise CxrEmbedError("the encoder's weights changed while the run was starting; start it again")
    return encoder


def main() -> None:
    """Serves the run at the other end of the socket whose descriptor is the first argument, until it closes."""
    connection = Connection(int(sys.argv[1]))
    end_with_peer(connection.fileno())
    try:
        setup: Setup = connection.recv()
        try:
            encoder = make_encoder(setup)
            engine = "" if setup.kind == "decoder" else encoder.engine
            worker = Worker(setup, encoder)
        except CxrEmbedError as error:
            connection.send(Unusable(str(error)))
            return
        connection.send(Ready(engine))
        while True:
            try:
                answer: Any = worker.answer(connection.recv())
            except EncoderUnusable as error:
                answer = Unusable(str(error))
            connection.send(answer)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the run is over
