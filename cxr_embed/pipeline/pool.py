"""Worker processes: starting them, talking to them, noticing that one died."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from types import TracebackType

from cxr_embed.encoders.checked import CheckedEncoder
from cxr_embed.errors import EncoderError
from cxr_embed.io.processes import ending, shared_file, signals_blocked
from cxr_embed.pipeline.devices import environment_of
from cxr_embed.pipeline.messages import Message, Ready, Setup, Unusable
from cxr_embed.pipeline.worker import Worker

# A chunk that takes longer than this is stuck in a decoder; a cold network drive is far faster.
CHUNK_SECONDS = 600.0
_POLL_SECONDS = 1.0
_SERVE = "from cxr_embed.pipeline.worker import main; main()"


class WorkerDied(Exception):
    """A worker's process ended or hung. `reason` says how."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class WorkerProcess:
    """One worker and what it is at.

    Attributes:
        busy: whether an answer is due.
        keys: the files that are lost if it dies now.
        slot: the arena's slot that it fills (a decoder).
        slots: those that it empties (a device worker).
    """

    def __init__(self, setup: Setup, descriptors: tuple[int, ...] = ()) -> None:
        ours, theirs = socket.socketpair()
        self.kind = setup.kind
        self.ready = self.busy = False
        self.keys: list[int] = []
        self.slot: int | None = None
        self.slots: list[int] = []
        self.since = time.monotonic()
        with theirs, signals_blocked():
            self.process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(theirs.fileno())],
                pass_fds=(theirs.fileno(), *descriptors),
                stdin=subprocess.DEVNULL,
                env=environment_of(setup.gpus[0]) if setup.kind == "device" and setup.gpus else None,
            )
        self.connection = Connection(ours.detach())
        self.send(setup)

    def send(self, message: Message) -> None:
        """Sends a message; a worker that is gone is noticed when its answer is read."""
        self.since, self.busy = time.monotonic(), True
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.connection.send(message)

    def receive(self) -> Message:
        """The worker's next message.

        Raises:
            WorkerDied: where there will be none.
            EncoderError: where the worker could not load its encoder.
        """
        try:
            message = self.connection.recv()
        except (EOFError, ConnectionResetError):
            raise WorkerDied(ending(self.process)) from None
        if isinstance(message, Unusable):
            raise EncoderError(message.message)
        if isinstance(message, Ready):
            self.ready = True
        return message

    def stop(self) -> None:
        """Ends the process, now."""
        self.connection.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class WorkerPool:
    """The run's workers, all started at once."""

    def __init__(self, setups: list[Setup], arena: Arena | None = None) -> None:
        self._arena = arena
        self.workers: list[WorkerProcess] = []
        try:
            for setup in setups:
                self.workers.append(self._start(setup))
        except BaseException:
            self.close()
            raise
        self._setups = dict(zip(map(id, self.workers), setups, strict=True))

    def _start(self, setup: Setup) -> WorkerProcess:
        descriptors = () if self._arena is None else (self._arena.descriptor,)
        if self._arena is not None:
            setup = replace(setup, arena=self._arena.descriptor)
        return WorkerProcess(setup, descriptors)

    def messages(self) -> Iterator[tuple[WorkerProcess, Message | WorkerDied]]:
        """What has arrived; waits at most a second. A dead or stuck worker arrives as `WorkerDied`."""
        by_connection = {worker.connection: worker for worker in self.workers}
        for connection in wait(list(by_connection), timeout=_POLL_SECONDS):
            worker = by_connection[connection]  # type: ignore[index]
            try:
                yield worker, worker.receive()
            except WorkerDied as died:
                yield worker, died
        now = time.monotonic()
        for worker in list(self.workers):
            if worker.busy and worker.ready and now - worker.since > CHUNK_SECONDS:
                worker.process.kill()
                yield worker, WorkerDied(f"took longer than {CHUNK_SECONDS:.0f} s")

    def replace(self, worker: WorkerProcess) -> WorkerProcess:
        """Starts another worker in the place of a dead one."""
        setup = self._setups.pop(id(worker))
        worker.stop()
        successor = self._start(setup)
        self.workers[self.workers.index(worker)] = successor
        self._setups[id(successor)] = setup
        return successor

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all workers."""
        for worker in self.workers:
            worker.stop()


class OwnWorker:
    """The worker of a run whose encoder is an object in this process: it answers at once."""

    def __init__(self, setup: Setup, encoder: CheckedEncoder) -> None:
        self.kind, self.ready, self.busy = setup.kind, True, False
        self.keys: list[int] = []
        self.slot: int | None = None
        self.slots: list[int] = []
        self._worker = Worker(setup, encoder)
        self.answers: list[Message] = []

    def send(self, message: Message) -> None:
        """Does the work, and keeps the answer until it is read."""
        self.busy = True
        self.answers.append(self._worker.answer(message))


class OwnPool:
    """A pool of the one worker in this process."""

    def __init__(self, worker: OwnWorker) -> None:
        self._worker = worker
        self.workers: list[OwnWorker] = [worker]

    def messages(self) -> Iterator[tuple[OwnWorker, Message]]:
        """The answers since the last call."""
        answers, self._worker.answers = self._worker.answers, []
        for answer in answers:
            yield self._worker, answer


class Arena:
    """Memory that decoders and the device worker share: an unlinked file, so that nothing is left behind."""

    def __init__(self, slots: int, slot_bytes: int) -> None:
        file = shared_file(slots * slot_bytes)
        if file is None:
            raise EncoderError(f"no room for {slots * slot_bytes >> 20} MiB of shared pixels; use fewer `workers`")
        self._file = file
        self.free = list(range(slots))

    @property
    def descriptor(self) -> int:
        """The file's descriptor, which workers inherit."""
        return self._file.fileno()

    def close(self) -> None:
        """Gives the memory back once the last worker is gone."""
        self._file.close()
