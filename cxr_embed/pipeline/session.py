"""A run while it lasts: which images are settled, in flight or waiting, and what each worker does next."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from cxr_embed.choices import Colour
from cxr_embed.encoders.checked import CheckedEncoder
from cxr_embed.errors import TRANSIENT_FAULTS, EncoderError, StoreError
from cxr_embed.manifest import Manifest
from cxr_embed.pipeline.messages import (
    Became,
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
)
from cxr_embed.pipeline.pool import Arena, OwnPool, OwnWorker, WorkerDied, WorkerPool, WorkerProcess
from cxr_embed.pipeline.stamps import Stamps
from cxr_embed.pipeline.stop import StopSignals
from cxr_embed.pipeline.summary import EmbedSummary, Progress
from cxr_embed.pipeline.tasks import Task, left_of, remembered_fault, task_chunks, unchanged_tasks
from cxr_embed.pipeline.worker_plan import BATCH_SIZE, CHUNK, plan_workers
from cxr_embed.store.layout import Row
from cxr_embed.store.reader import Failure
from cxr_embed.store.writer import StoreWriter
from cxr_embed.types import ImageNote, Stamp

# Buffered rows are published at least this often, so that a slow encoder loses at most a minute to a power cut.
PUBLISH_SECONDS = 60.0
# A file that changed this shortly before it was read may change again within its clock's step and keep its stamp.
RACY_NS = 2_000_000_000
# Workers that may die in a row before the run gives up: a file that kills its worker costs two.
MAX_DEATHS = 20


AnyWorker = WorkerProcess | OwnWorker


class Session:
    """One run's state: what is planned, in flight and done. It alone writes."""

    def __init__(
        self,
        manifest: Manifest,
        writer: StoreWriter,
        limit: int | None,
        progress: Progress | None,
        stop: StopSignals,
        software: str,
        colour: Colour = "refuse",
        stamps: Stamps | None = None,
    ) -> None:
        self.manifest, self.writer, self.limit = manifest, writer, limit
        self.progress, self.stop, self.software = progress, stop, software
        self.colour, self.stamps = colour, stamps or Stamps()
        self.summary = EmbedSummary(images=min(len(manifest), limit or len(manifest)), notes=list(manifest.notes))
        self.published = time.monotonic()
        self.in_flight: dict[int, Task] = {}
        self.read: dict[int, HashedFile] = {}
        self.claimed: dict[bytes, list[int]] = {}  # content that is being embedded: the keys that wait for it
        self.buffered: set[bytes] = set()  # content whose vector is not yet published
        self.broken: dict[bytes, Fault] = {}  # content that failed in this run
        self.retries: list[int] = []  # keys whose worker died: each goes alone to the next
        self.unlike: set[int] = set()  # keys whose picture does not look like a chest radiograph
        self.odd: dict[int, tuple[ImageNote, ...]] = {}  # by key: what is odd about a file that has no vector yet
        self.strange: set[bytes] = set()  # content of this run that does not
        self.suspects: set[int] = set()
        self.new: set[str] = set()  # images whose content was embedded in this run
        self.deaths = 0
        self.exhausted = False  # whether no more tasks will come
        self.chunk = 0  # files that a worker takes at a time
        self.arena: Arena | None = None
        self.filled: dict[int, dict[int, InSlot]] = {}  # slots that wait for the device, with the files in them
        self.input_form = ""  # how the device's encoder takes its inputs best by now

    # Planning

    def tasks(self) -> Iterator[Task]:
        """The images to read; settles all others on the way."""
        index = self.writer.index
        for every in task_chunks(self.manifest, self.limit):
            tasks = left_of(every, self.writer.forgotten)
            self.summary.forgotten += len(every) - len(tasks)
            known = unchanged_tasks(index, tasks, self.stamps.of([task.path for task in tasks]))
            for task, same in zip(tasks, known, strict=True):
                if self.stop.requested:
                    return
                if same and task.image_id not in index.failures:
                    self.summary.unchanged += 1
                elif same and (fault := self._remembered(task.image_id, None)) is not None:
                    self.summary.failed.append(Failure(task.image_id, *fault))
                else:
                    yield task

    def _remembered(self, image_id: str, content: bytes | None) -> Fault | None:
        return remembered_fault(self.writer.index, image_id, content, self.software, self.colour)

    # Working

    def work(
        self,
        tasks: Iterator[Task],
        encoder: CheckedEncoder,
        setup: Setup,
        batch_size: int | Literal["auto"],
        workers: int | Literal["auto"],
    ) -> None:
        """Sends every task through the workers."""
        plan = plan_workers(setup, encoder, self.summary.images, batch_size, workers)
        self.summary.batch_size, self.chunk, self.arena = plan.batch_size, plan.chunk, plan.arena
        with ExitStack() as stack:
            if plan.arena is not None:
                stack.callback(plan.arena.close)
            self._loop(stack.enter_context(WorkerPool(plan.setups, plan.arena)), enumerate(tasks))

    def work_here(
        self, tasks: Iterator[Task], encoder: CheckedEncoder, setup: Setup, batch_size: int | Literal["auto"]
    ) -> None:
        """Sends every task through an encoder in this process."""
        batch = BATCH_SIZE[0] if batch_size == "auto" else batch_size
        self.summary.batch_size, self.summary.engine = batch, encoder.engine
        self.chunk = max(CHUNK, batch)
        self._loop(OwnPool(OwnWorker(replace(setup, batch_size=batch), encoder)), enumerate(tasks))

    def _loop(self, pool: WorkerPool | OwnPool, numbered: Iterator[tuple[int, Task]]) -> None:
        while self.in_flight or self.retries or not (self.exhausted or self.stop.requested):
            self._turn(pool, numbered)
            self._report()

    def _turn(self, pool: WorkerPool | OwnPool, numbered: Iterator[tuple[int, Task]]) -> None:
        """Hears what the workers have to say, for a second at most, and gives those that are idle their next files."""
        for worker, message in pool.messages():
            if isinstance(message, WorkerDied):
                assert isinstance(pool, WorkerPool)
                assert isinstance(worker, WorkerProcess)
                self._died(pool, worker, message)
            else:
                self._handle(worker, message)
        for worker in pool.workers:
            if not worker.ready or worker.busy:
                continue
            if worker.kind == "device":
                self._run_slots(worker, decoding=self._decoding(pool, self.exhausted))
            elif not self.exhausted or self.retries:
                self.exhausted = not self._dispatch(worker, numbered) or self.exhausted
        if time.monotonic() - self.published > PUBLISH_SECONDS:
            self._publish()

    def _dispatch(self, worker: AnyWorker, numbered: Iterator[tuple[int, Task]]) -> bool:
        """Gives the worker its next files; False where there are none left."""
        if self.arena is not None and not self.arena.free:
            return True
        if self.retries:
            keys = [self.retries.pop()]
        elif self.stop.requested:
            return False
        else:
            new = list(itertools.islice(numbered, self.chunk))
            if not new:
                return False
            self.in_flight.update(new)
            keys = [key for key, _ in new]
        worker.keys = keys
        if self.arena is not None:
            worker.slot = self.arena.free.pop()
        worker.send(ReadFiles([(key, self.in_flight[key].path, self.in_flight[key].box) for key in keys]))
        return True

    def _handle(self, worker: AnyWorker, message: Any) -> None:
        if isinstance(message, Ready):
            worker.busy = False
            self.summary.engine = message.engine or self.summary.engine
        elif isinstance(message, Hashed):
            self._take_hashed(worker, message)
        elif isinstance(message, Decoded):
            self._take_decoded(worker, message)
        elif isinstance(message, Embedded):
            self._take_embedded(worker, message)

    def _take_hashed(self, worker: AnyWorker, message: Hashed) -> None:
        for key, fault in message.faults.items():
            self._fail(key, fault, None, Stamp())
        worker.keys = [file.key for file in message.files if self._settle(file)]
        if worker.keys:
            worker.send(EmbedFiles(worker.keys, worker.slot, self.input_form))
        else:
            self._idle(worker)

    def _take_decoded(self, worker: AnyWorker, message: Decoded) -> None:
        self.unlike |= message.unlike
        self.odd |= message.odd
        self._fail_all(message.faults)
        for key in message.unfit:
            self._again(key)
        if message.keys:
            self.filled[message.slot], worker.slot = dict(zip(message.keys, message.inputs, strict=True)), None
        self._idle(worker)

    def _take_embedded(self, worker: AnyWorker, message: Embedded) -> None:
        self._idle(worker)
        self.deaths = 0
        self.unlike |= message.unlike
        self.summary.engine, self.input_form = message.engine or self.summary.engine, message.input_form
        self.summary.notes = list(dict.fromkeys([*self.summary.notes, *message.notes]))
        self.odd |= message.odd or {}
        self.summary.batch_size = min(self.summary.batch_size, message.batch_size)
        self._fail_all(message.faults)
        for position, key in enumerate(message.keys):
            self._store(key, {output: array[position] for output, array in message.vectors.items()})
        if self.writer.full:
            self._publish()

    def _settle(self, file: HashedFile) -> bool:
        """Whether the file's content must be embedded; settles it otherwise."""
        task = self.in_flight[file.key]
        if file.read_ns - file.stamp.ctime_ns < RACY_NS:
            file = replace(file, stamp=Stamp())
        if self.writer.forgotten.has_content(file.content if file.file is None else file.file):
            del self.in_flight[file.key]
            self.summary.forgotten += 1
            self._became(file.key, "forgotten")
            return False
        self.read[file.key] = file
        if file.misnamed is not None:
            self._fail(file.key, file.misnamed, file.content, file.stamp)
            return False
        if file.content in self.buffered or self.writer.index.find_content(file.content) is not None:
            self._reuse(file.key)
            return False
        fault = self.broken.get(file.content) or self._remembered(task.image_id, file.content)
        if fault is not None:
            self._fail(file.key, fault, file.content, file.stamp)
            return False
        if file.content in self.claimed:
            self.claimed[file.content].append(file.key)
            return False
        self.claimed[file.content] = []
        return True

    def _row(self, key: int, **more: Any) -> Row:
        """The row of a file that was read."""
        task, file = self.in_flight[key], self.read[key]
        known = {"content": file.content, "stamp": file.stamp, "box": task.box or None, "file": file.file, **more}
        return Row(image_id=task.image_id, patient_id=task.patient_id, **known)

    def _done(self, key: int) -> None:
        del self.in_flight[key], self.read[key]

    def _became(self, key: int, what: Became, **more: Any) -> None:
        """Called with what became of a file; a run's own summary has it already."""

    def _reuse(self, key: int) -> None:
        content, row = self.read[key].content, self._row(key)
        self._done(key)
        self.writer.add_row(row)
        self.summary.reused += 1
        index = self.writer.index
        unlike = content in self.strange or index.is_unlike_chest(content)
        self._became(key, "embedded", content=content, unlike=unlike)
        if unlike:
            known = index.find_image(row.image_id)
            if known is None or known.content != content:  # a file that was only read again is not news
                self.summary.unlike_chest.append(row.image_id)

    def _store(self, key: int, vectors: dict[str, np.ndarray]) -> None:
        file = self.read[key]
        task = self.in_flight[key]
        unlike = key in self.unlike
        try:
            self.writer.add_vector(self._row(key, unlike_chest=unlike), vectors)
        except StoreError as error:
            self._fail_all({key: Fault("encoder", str(error))})
            return
        self._done(key)
        self._became(key, "embedded", content=file.content, unlike=unlike)
        self.summary.embedded += 1
        self.new.add(task.image_id)
        self.buffered.add(file.content)
        waiting = self.claimed.pop(file.content)
        for note in self.odd.pop(key, ()):
            self.summary.odd_files.setdefault(note, []).append(task.image_id)
        if unlike:
            self.unlike.discard(key)
            self.strange.add(file.content)
            self.summary.unlike_chest.append(task.image_id)
        for copy in waiting:
            self._reuse(copy)

    def _fail_all(self, faults: dict[int, Fault]) -> None:
        """Records faults of files that were read, and of the copies that waited for them."""
        for key, fault in faults.items():
            file = self.read[key]
            self.broken[file.content] = fault
            self._fail(key, fault, file.content, file.stamp)
            for waiting in self.claimed.pop(file.content, []):
                self._fail(waiting, fault, file.content, self.read[waiting].stamp)

    def _fail(self, key: int, fault: Fault, content: bytes | None, stamp: Stamp) -> None:
        task = self.in_flight.pop(key)
        file = self.read.pop(key, None)
        self.summary.failed.append(Failure(task.image_id, *fault))
        self._became(key, "failed", fault=fault)
        if fault.kind in TRANSIENT_FAULTS:
            stamp = Stamp()  # the next run looks again
            if self.writer.index.failures.get(task.image_id) == tuple(fault):
                return  # nothing new to record
        self.writer.add_row(
            Row(
                image_id=task.image_id,
                patient_id=task.patient_id,
                content=content,
                stamp=stamp,
                error_kind=fault.kind,
                error=fault.reason,
                software=self.software,
                box=task.box or None,
                file=file.file if file is not None else None,
            )
        )

    # The device workers of a GPU run

    def _decoding(self, pool: WorkerPool | OwnPool, exhausted: bool) -> bool:
        """Whether more filled slots will come without the device emptying any."""
        assert self.arena is not None
        at_work = any(worker.busy for worker in pool.workers if worker.kind == "decoder")
        return at_work or (bool(self.arena.free) and (not exhausted or bool(self.retries)))

    def _run_slots(self, worker: AnyWorker, decoding: bool) -> None:
        """Gives a device what is decoded; less than a batch only when nothing else can come first."""
        if not self.filled or (decoding and sum(map(len, self.filled.values())) < self.summary.batch_size):
            return
        slots: dict[int, dict[int, InSlot]] = {}
        while self.filled and sum(map(len, slots.values())) < self.summary.batch_size:  # the rest is another GPU's
            slot = next(iter(self.filled))
            slots[slot] = self.filled.pop(slot)
        worker.slots = list(slots)
        worker.keys = [key for keys in slots.values() for key in keys]
        worker.send(RunSlots([(slot, list(inputs.values())) for slot, inputs in slots.items()], worker.keys))

    def _idle(self, worker: AnyWorker) -> None:
        """The worker has answered: it can have other files, and its slots go back."""
        worker.busy, worker.keys = False, []
        if self.arena is not None:
            self.arena.free += worker.slots if worker.slot is None else [worker.slot]
        worker.slot, worker.slots = None, []

    # Trouble

    def _died(self, pool: WorkerPool, worker: WorkerProcess, died: WorkerDied) -> None:
        """A worker's files are tried again, each alone; a file whose worker dies twice is the culprit."""
        self.deaths += 1
        if not worker.ready or worker.kind == "device" or self.deaths > MAX_DEATHS:
            raise EncoderError(
                f"a {worker.kind} worker {died.reason}; see its output above, or try a smaller `batch_size`"
            )
        lost = worker.keys
        for key in lost:
            file = self.read.get(key)
            if len(lost) == 1 and key in self.suspects:
                if file is not None:
                    self.retries += self.claimed.pop(file.content, [])
                fault = Fault("worker-died", f"the process that decoded it {died.reason}")
                if file is not None:
                    self.broken[file.content] = fault  # its copies need not try
                self._fail(key, fault, file.content if file is not None else None, Stamp())
            else:
                self.suspects.add(key)
                self._again(key)
        self._idle(worker)
        pool.replace(worker)

    def _again(self, key: int) -> None:
        """The file is read once more, alone; copies that waited for its vector are too, in case it fails."""
        file = self.read.get(key)
        if file is not None:
            self.retries += self.claimed.pop(file.content, [])
        self.retries.append(key)

    # Publishing

    def _publish(self) -> None:
        self.writer.flush(self.summary.engine)
        self.buffered.clear()
        self.published = time.monotonic()

    def _report(self) -> None:
        self.summary.interrupted = self.stop.requested
        if self.progress is not None:
            self.progress(self.summary)

    def finish(self) -> None:
        """Publishes what is buffered."""
        self._publish()
        self._report()
