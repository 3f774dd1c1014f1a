"""Our side of the TensorFlow process: starting it, handing it batches, noticing that it died.

TensorFlow and torch in one process end it (both bring their own LLVM and CUDA libraries), so TensorFlow gets a process
of its own, which may be another environment's interpreter: `$CXR_EMBED_TF_PYTHON`.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cxr_embed.errors import EncoderError, EncoderUnusable
from cxr_embed.io.processes import ending, grow, shared_file, signals_blocked

PYTHON_VARIABLE = "CXR_EMBED_TF_PYTHON"
_SERVER = Path(__file__).parent / "tensorflow_server" / "server.py"
_TOKENS = 128
_MEMORY_BYTES = 256 << 20
# Pictures that the network takes at once: on a GPU what public scripts use; on a CPU two at once gain next to nothing
# (EfficientNet-B0 on 2 cores: 0.33 s an image, one by one 0.34), and EfficientNet-L2 needs GBs for each.
_AT_ONCE = {"gpu": 8, "cpu": 1}
# A call that ends the process is tried once more in a new one; after so many deaths without an answer between them,
# trying again is no use.
_MAX_DEATHS = 6


@dataclass(frozen=True)
class Loaded:
    """What the process loaded.

    Attributes:
        engine: TensorFlow's version and device.
        notes: what a user should know of it.
        facts: versions, signatures, devices and what was found in the graphs; plain JSON values.
    """

    engine: str
    notes: tuple[str, ...]
    facts: Mapping[str, Any]


class BatchComparison(NamedTuple):
    """How far two ways lie apart, over the largest value, who ran the network, the seconds an image that each took."""

    apart: float
    network_by: str
    signature_seconds: float
    network_seconds: float


class TensorFlowProcess:
    """ELIXR-C and the Q-Former in a process of their own. It starts with the first call.

    Args:
        elixr_c, qformer: folders of the two SavedModels.
        device: `auto`, `cpu` or `cuda`.
        threads: CPU threads; None for all.
        outputs: what is made of images, output to shape.
    """

    def __init__(
        self, elixr_c: Path, qformer: Path, device: str, threads: int | None, outputs: Mapping[str, tuple[int, ...]]
    ) -> None:
        self._outputs = dict(outputs)
        self._load = {
            "do": "load",
            "elixr_c": str(elixr_c.absolute()),
            "qformer": str(qformer.absolute()),
            "device": device,
            "threads": threads,
            "outputs": list(outputs),
            "at_once": _AT_ONCE,
        }
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._deaths = 0
        self._loaded: Loaded | None = None

    @property
    def loaded(self) -> Loaded:
        """What was loaded; starts the process, the first time.

        Raises:
            EncoderError: where it cannot start.
        """
        with self._lock:
            if self._loaded is None:
                self._start()
            assert self._loaded is not None
            return self._loaded

    def images(self, files: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """B PNG files (1-D uint8 each) by the model's signature, to `{output: (B, *shape) float32}`.

        Raises:
            EncoderError: where the model fails; TensorFlow's reason is in it.
            EncoderUnusable: where the process dies again and again.
        """
        return self._in_groups(files, lambda group: {"do": "images", "files": _places(group)})

    def pictures(self, pictures: Sequence[np.ndarray], by: str) -> dict[str, np.ndarray]:
        """B prepared pictures, `(1280, 1280)` float32 each, in batches by the network itself; otherwise as `images`.

        Args:
            pictures: as said.
            by: who runs the network, as `compare` found.
        """
        return self._in_groups(pictures, lambda group: {"do": "pictures", "pictures": [len(group), 0], "by": by})

    def compare(self, files: Sequence[np.ndarray], pictures: Sequence[np.ndarray], allowed: float) -> BatchComparison:
        """The same B radiographs both ways: as PNG files by the signature, prepared by the network.

        Where more than one library can run the network, the fastest that is no farther apart than is allowed is named
        of, or else TensorFlow.

        Raises:
            EncoderError, EncoderUnusable: as `images`; the network may not take such batches.
        """
        after = sum(file.nbytes for file in files)
        padding = np.zeros(-after % 4, np.uint8)  # floats lie at multiples of their size
        places = {"files": _places(files), "pictures": [len(pictures), after + padding.nbytes]}
        answer, _ = self._call({"do": "compare", "allowed": allowed, **places}, [*files, padding, *pictures], 0)
        return BatchComparison(answer["apart"], answer["by"], *answer["seconds"])

    def _in_groups(
        self, inputs: Sequence[np.ndarray], request: Callable[[list[np.ndarray]], dict[str, Any]]
    ) -> dict[str, np.ndarray]:
        parts = []
        for group in _groups(inputs):
            result_bytes = sum(len(group) * _bytes(shape) for shape in self._outputs.values())
            parts.append(self._call(request(group), group, result_bytes)[1])
        return {name: np.concatenate([part[name] for part in parts]) for name in self._outputs}

    def prompts(self, ids: np.ndarray, paddings: np.ndarray) -> np.ndarray:
        """`(P, 128)` int32 token ids and `(P, 128)` float32 paddings to `(P, 128)` float32.

        Raises:
            EncoderError, EncoderUnusable: as `images`.
        """
        request = {"do": "prompts", "prompts": len(ids)}
        return self._call(request, [ids, paddings], len(ids) * _bytes((_TOKENS,)))[1]["text"]

    def close(self) -> None:
        """Ends the process; the next call would start another."""
        with self._lock:
            self._stop()

    def _call(
        self, request: dict[str, Any], arrays: list[np.ndarray], result_bytes: int
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        with self._lock:
            for last in (False, True):
                running = self._start()
                try:
                    answer = running.ask(request, arrays, result_bytes)
                except _Died as died:
                    self._stop()
                    self._deaths += 1
                    problem = f"the TensorFlow process {died}"
                    if self._deaths >= _MAX_DEATHS:
                        raise EncoderUnusable(f"{problem}, {self._deaths} times; try a smaller `batch_size`") from None
                    if last:
                        raise EncoderError(problem) from None
                    continue
                self._deaths = 0
                return answer
        raise AssertionError

    def _start(self) -> _Running:
        if self._running is None:
            self._running = _Running()
            try:
                loaded = self._running.request(self._load)
                self._loaded = Loaded(loaded["engine"], tuple(loaded["notes"]), loaded["facts"])
            except _Died as died:
                self._stop()
                raise EncoderUnusable(f"the TensorFlow process could not start: it {died}") from None
            except BaseException:
                self._stop()
                raise
        return self._running

    def _stop(self) -> None:
        if self._running is not None:
            self._running.end()
            self._running = None


class _Died(Exception):
    """The process is gone; the text says how."""


class _Running:
    """One process, its socket and the memory that it shares with us."""

    def __init__(self) -> None:
        other = os.environ.get(PYTHON_VARIABLE)
        python = other or sys.executable
        environment = dict(os.environ)
        environment.pop("PYTHONSAFEPATH", None)  # the server imports the file beside it
        for name in ("PYTHONPATH", "PYTHONHOME") if other else ():
            environment.pop(name, None)  # ours would mislead another environment
        memory = shared_file(mmap.PAGESIZE)
        if memory is None:
            raise EncoderError("no room for memory to share with TensorFlow; free some in /dev/shm or the temp folder")
        self._memory = memory
        # What TensorFlow logs would litter a terminal; its last line matters if it dies.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        ours, theirs = socket.socketpair()
        descriptors = (theirs.fileno(), memory.fileno())
        try:
            with theirs, signals_blocked():
                self._process = subprocess.Popen(
                    [python, str(_SERVER), *map(str, descriptors)],
                    pass_fds=descriptors,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                )
        except OSError as error:
            ours.close()
            raise EncoderError(f"{python} cannot be started ({error.strerror}); check {PYTHON_VARIABLE}") from None
        self._connection = Connection(ours.detach())
        self._finalizer = weakref.finalize(self, _end, self._process, self._connection)

    def end(self) -> None:
        """Ends the process, now."""
        self._finalizer()
        self._memory.close()
        self._log.close()

    def request(self, message: dict[str, Any]) -> dict[str, Any]:
        """Sends a message and returns the answer.

        Raises:
            _Died: where there is none.
            EncoderError: where it is an error.
        """
        try:
            self._connection.send_bytes(json.dumps(message).encode())
            answer: dict[str, Any] = json.loads(self._connection.recv_bytes())
        except (EOFError, OSError):
            raise _Died(f"{ending(self._process)}{self._last_line()}") from None
        if "unfit" in answer:
            raise EncoderUnusable(answer["unfit"])
        if "error" in answer:
            raise EncoderError(f"TensorFlow failed: {answer['error']}")
        return answer

    def ask(
        self, message: dict[str, Any], arrays: list[np.ndarray], result_bytes: int
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Puts arrays into the shared memory, one after the other, and gets an answer and arrays out of it."""
        start = -(-sum(array.nbytes for array in arrays) // 64) * 64
        try:
            grow(self._memory, start + result_bytes)
        except OSError as error:
            raise EncoderError(
                f"out of memory: no room for a batch of {start + result_bytes:,} bytes ({error})"
            ) from None
        with mmap.mmap(self._memory.fileno(), 0) as memory:
            at = 0
            for array in arrays:
                memory[at : at + array.nbytes] = np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
                at += array.nbytes
            answer = self.request({**message, "results": start})
            results = {
                name: np.frombuffer(memory[at : at + _bytes(tuple(shape))], np.float32).reshape(shape)
                for name, (at, shape) in answer.pop("results").items()
            }
            return answer, results

    def _last_line(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            self._log.seek(max(0, self._log.seek(0, os.SEEK_END) - 4096))
            lines = self._log.read().decode(errors="replace").strip().splitlines()
            return f" ({lines[-1][:200]})" if lines else ""
        return ""


def _places(files: Sequence[np.ndarray]) -> list[list[int]]:
    """Where files lie that follow one another: `[start, size]` each."""
    sizes = [file.nbytes for file in files]
    return [[start, size] for start, size in zip(np.cumsum([0, *sizes]).tolist(), sizes, strict=False)]


def _groups(files: Sequence[np.ndarray], limit: int = _MEMORY_BYTES) -> list[list[np.ndarray]]:
    """The files in order, in groups that fit the shared memory; a larger one goes alone."""
    groups: list[list[np.ndarray]] = []
    size = 0
    for file in files:
        if not groups or size + file.nbytes > limit:
            groups.append([])
            size = 0
        groups[-1].append(file)
        size += file.nbytes
    return groups


def _end(process: subprocess.Popen[bytes], connection: Connection) -> None:
    connection.close()
    if process.poll() is None:
        process.kill()
    process.wait()


def _bytes(shape: tuple[int, ...]) -> int:
    return 4 * int(np.prod(shape))
