"""What runs on a node of a Ray cluster: a session whose images come in leases, with its own workers and writer.

It is given paths and gives back digests: files are read, and vectors written, where it is.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pyarrow as pa

from cxr_embed.encoders import CheckedEncoder
from cxr_embed.errors import CxrEmbedError, EncoderError, StoreError
from cxr_embed.manifest import Manifest
from cxr_embed.pipeline.messages import Became
from cxr_embed.pipeline.pool import WorkerPool
from cxr_embed.pipeline.ray_messages import ActorSetup, Joined, Outcome, Refused, Report, Step
from cxr_embed.pipeline.session import Session
from cxr_embed.pipeline.stop import StopSignals
from cxr_embed.pipeline.tasks import Task
from cxr_embed.pipeline.worker import make_encoder
from cxr_embed.pipeline.worker_plan import plan_workers
from cxr_embed.store.layout import HEADER
from cxr_embed.store.writer import StoreWriter
from cxr_embed.types import ImageNote
from cxr_embed.version import __version__

# An actor answers at least so often: whoever is silent for much longer hangs.
STEP_SECONDS = 1.0
# Chunks a worker that wait in an actor while its answer is on its way.
_CHUNKS_AHEAD = 2


class LeasedSession(Session):
    """A session whose images come in leases, which says what became of each once it is published."""

    def __init__(self, writer: StoreWriter, setup: ActorSetup, encoder: CheckedEncoder, stack: ExitStack) -> None:
        nobody = Manifest(pa.table({"image_id": pa.array([], pa.string())}), Path(), ())
        super().__init__(nobody, writer, None, None, StopSignals(), setup.software, setup.colour)
        plan = plan_workers(setup.setup, encoder, setup.images, setup.batch_size, setup.workers, setup.cores)
        self.summary.batch_size, self.chunk, self.arena = plan.batch_size, plan.chunk, plan.arena
        if plan.arena is not None:
            stack.callback(plan.arena.close)
        self._pool = stack.enter_context(WorkerPool(plan.setups, plan.arena))
        self.appetite = _CHUNKS_AHEAD * plan.chunk * sum(each.kind != "device" for each in plan.setups)
        self._queue: deque[tuple[int, Task]] = deque()
        self._settled: list[Outcome] = []  # not yet published
        self._published: list[Outcome] = []

    def step(self, step: Step) -> Report:
        """Works for a second, or until it could do with more images.

        Raises:
            EncoderError, StoreError: where it cannot go on.
        """
        if step.again:
            self.writer.refresh()  # what the one before has published is not embedded again
        if step.stop:
            self._queue.clear()
        self._queue.extend(step.images)
        until = time.monotonic() + STEP_SECONDS
        while self._queue or self.in_flight or self.retries:
            self.exhausted = not self._queue
            self._turn(self._pool, self._taken())
            hungry = len(self._queue) < self.appetite // 2 and not step.last and not step.stop
            if hungry or time.monotonic() > until:
                break
        if (step.last or step.stop) and not (self._queue or self.in_flight or self.retries):
            self._publish()
        return self._reported()

    def _taken(self) -> Iterator[tuple[int, Task]]:
        while self._queue:
            yield self._queue.popleft()

    def _became(self, key: int, what: Became, **more: Any) -> None:
        self._settled.append(Outcome(key, what, **more))

    def _publish(self) -> None:
        super()._publish()
        self._published += self._settled
        self._settled = []

    def _reported(self) -> Report:
        outcomes, self._published = self._published, []
        odd: dict[ImageNote, list[str]] = {}
        if outcomes:
            odd, self.summary.odd_files = self.summary.odd_files, {}
        summary = self.summary
        report = Report(
            outcomes=outcomes,
            odd=odd,
            waiting=len(self._queue),
            unpublished=len(self._settled),
            idle=not (self._queue or self.in_flight or self.retries or self._settled),
            engine=summary.engine,
            batch_size=summary.batch_size,
            notes=list(summary.notes),
        )
        summary.failed, summary.unlike_chest = [], []  # the run has them; a long one would keep them twice
        self.new.clear()
        return report


class Actor:
    """The actor itself: one a device. It never raises what it can say."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._session: LeasedSession | None = None

    def join(self, setup: ActorSetup) -> Joined | Refused:
        """Opens the store and starts the workers, if this node has the run's encoder and the run's store."""
        try:
            encoder = _same_encoder(setup)
            _check_store(setup)
            key_file = Path(setup.key_file) if setup.key_file is not None else None
            writer = StoreWriter(setup.store, encoder.spec, software=setup.release, key_file=key_file)
            self._stack.enter_context(writer)
            self._session = LeasedSession(writer, setup, encoder, self._stack)
        except CxrEmbedError as error:
            self._stack.close()
            return Refused(str(error))
        return Joined(self._session.appetite, self._session.summary.batch_size)

    def step(self, step: Step) -> Report | Refused:
        """Does a part of the work (`LeasedSession.step`)."""
        assert self._session is not None
        try:
            return self._session.step(step)
        except CxrEmbedError as error:
            self._stack.close()
            return Refused(str(error), "store" if isinstance(error, StoreError) else "encoder")

    def leave(self) -> None:
        """Ends the workers and closes the store."""
        self._stack.close()


def _same_encoder(setup: ActorSetup) -> CheckedEncoder:
    """The encoder as far as its spec and `preprocess` need it.

    Raises:
        EncoderError: where this node has another one, or none.
    """
    from dataclasses import replace

    if setup.release != __version__:
        raise EncoderError(f"cxr-embed {__version__} is installed there, the run is of {setup.release}")
    try:
        return make_encoder(replace(setup.setup, kind="decoder"))
    except EncoderError:
        raise
    except CxrEmbedError:
        name = setup.setup.encoder
        raise EncoderError(f"{name} has other weights there: its fingerprint is not the run's") from None


def _check_store(setup: ActorSetup) -> None:
    """Raises StoreError where the path leads to another folder on this node."""
    header = Path(setup.store) / HEADER
    try:
        same = header.read_bytes() == setup.header
    except OSError:
        same = False
    if not same:
        raise StoreError(f"{setup.store} is not the run's store there; it must be on a disk that all nodes share")
