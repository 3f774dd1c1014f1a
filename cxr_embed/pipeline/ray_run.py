"""A run on Ray: which actors there are and where, which images they get, and what their reports come to."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from cxr_embed.choices import EmbedEngine
from cxr_embed.errors import CxrEmbedError, EncoderError, StoreError
from cxr_embed.io.addresses import address_of
from cxr_embed.pipeline.leases import Leases
from cxr_embed.pipeline.messages import Setup
from cxr_embed.pipeline.ray_cluster import OPEN_CLUSTER, BridgeLost, Cluster, check_address
from cxr_embed.pipeline.ray_messages import (
    ActorSetup,
    ForActor,
    Joined,
    Kill,
    Launch,
    LookForNodes,
    Lost,
    Node,
    Outcome,
    Refused,
    Report,
    Step,
)
from cxr_embed.pipeline.session import MAX_DEATHS, Session
from cxr_embed.pipeline.tasks import Task
from cxr_embed.store.layout import HEADER
from cxr_embed.store.reader import Failure
from cxr_embed.types import Encoder, counted
from cxr_embed.version import __version__

# An actor answers every second or two; one that was silent for so long hangs, and others get its images.
SILENT_SECONDS = 30.0
# The same while it loads its encoder, whose weights may lie on a slow disk.
JOIN_SECONDS = 600.0
# Without a node that can work the run ends after so long: one that died may be started again.
ALONE_SECONDS = 60.0
_LOOK_SECONDS = 5.0  # between looks for nodes that came or went
_POLL_SECONDS = 0.5


@dataclass(kw_only=True)
class _Actor:
    """One actor, as the run sees it.

    Attributes:
        since: since when an answer is due; None while none is.
        silent: whether its images are with others by now.
        published: whether all that it has done is in the store.
    """

    number: int
    node: Node
    since: float | None
    appetite: int = 0
    waiting: int = 0
    unpublished: int = 0
    joined: bool = False
    silent: bool = False
    published: bool = True


class OnRay(NamedTuple):
    """Where a run on Ray is: the `address` of a cluster, or None for one of its own; and how many actors, if said."""

    address: str | None
    actors: int | None


def on_ray(
    encoder: str | Encoder, engine: EmbedEngine, address: str | None, actors: int | None, device: str, part: str | None
) -> OnRay | None:
    """Where on Ray the run is; None for this machine's own processes.

    Raises:
        CxrEmbedError: for options that do not go together.
    """
    if engine not in get_args(EmbedEngine):
        raise CxrEmbedError(f"`engine` is local or ray, not {engine!r}")
    if engine == "local":
        if address is not None or actors is not None:
            raise CxrEmbedError("`address` and `actors` go with `engine='ray'`")
        return None
    if part is not None:
        raise CxrEmbedError("`part` does not go with `engine='ray'`, which shares the images out itself")
    if not isinstance(encoder, str):
        raise EncoderError("`engine='ray'` takes an encoder's name: an object stays in this process")
    if actors is not None and (not isinstance(actors, int) or actors < 1):
        raise CxrEmbedError(f"`actors` must be 1 or more, not {actors!r}")
    if device not in ("auto", "cpu", "cuda"):
        raise EncoderError(f"`device` is auto, cpu or cuda where Ray deals the GPUs out, not {device!r}")
    check_address(address)
    return OnRay(address, actors)


def work_on_ray(
    run: Session,
    tasks: Iterator[Task],
    setup: Setup,
    batch_size: int | Literal["auto"],
    workers: int | Literal["auto"],
    ray: OnRay,
    key_file: Path | None,
) -> None:
    """Sends the tasks of a session through actors on Ray; what `Session.work` does with processes of this machine.

    Raises:
        EncoderError, StoreError: as `RayRun.work`; StoreError where actors wrote elsewhere.
    """
    store = run.writer.path.absolute()
    job = ActorSetup(
        store=str(store),
        header=(store / HEADER).read_bytes(),
        release=__version__,
        software=run.software,
        setup=replace(
            setup,
            weights=os.path.abspath(setup.weights) if setup.weights is not None else None,
            root=_whole(setup.root) if setup.root is not None else None,
        ),
        colour=run.colour,
        images=run.summary.images,
        cores=1,
        batch_size=batch_size,
        workers=workers,
        key_file=str(key_file.absolute()) if key_file is not None else None,
    )
    whole = (replace(task, path=_whole(task.path)) for task in tasks)
    RayRun(run, job, *ray).work(whole)
    run.writer.refresh()
    index = run.writer.index
    if gone := [image_id for image_id in run.new if image_id not in index.latest]:
        are = counted(len(gone), "image that actors embedded is", "images that actors embedded are")
        raise StoreError(f"{store}: {are} not here; the path must lead to one disk on all nodes")


def _whole(path: str) -> str:
    """The path from wherever it is taken; an address is the same everywhere."""
    return path if address_of(path) is not None else os.path.abspath(path)


class RayRun:
    """Sends a session's images through actors.

    Args:
        run: whose tasks, summary and stop signals these are; it opens the store but writes nothing.
        setup: for every actor; its `cores` are each node's own.
        address: of a cluster; None starts one here.
        actors: how many; None is one a device.
    """

    def __init__(self, run: Session, setup: ActorSetup, address: str | None, actors: int | None) -> None:
        self.run, self.setup, self.address, self.wanted = run, setup, address, actors
        self.known: set[bytes] = set()  # content that this run has embedded
        self.actors: dict[int, _Actor] = {}
        self.refused: dict[str, str] = {}  # node to why
        self.failures = 0  # deaths in a row
        self.lost: Counter[str] = Counter()
        self._number = 0
        self._looked = 0.0
        self._alone: float | None = None  # since when no node could work
        self._rests: dict[str, float] = {}  # nodes on which an actor did not come to life, to when one is tried again

    def work(self, tasks: Iterator[Task]) -> None:
        """Works until all is done, or a signal came.

        Raises:
            EncoderError: where no actor can work.
            StoreError: where the store cannot be written.
        """
        leases = Leases(tasks)
        while leases.open:
            try:
                with Cluster(self.address) as cluster:
                    if cluster.is_open and self.address is not None:
                        self._note(OPEN_CLUSTER)
                    self._serve(cluster, leases)
                break
            except BridgeLost as lost:
                if self.run.stop.requested:
                    break
                self._died(f"Ray's process {lost.reason}", leases, *self.actors)
        if self.lost["images"]:
            self._note(
                f"{counted(self.lost['died'], 'actor')} died and {self.lost['silent']:,} fell silent: "
                f"{counted(self.lost['images'], 'image')} went to others, and nothing that was published is lost"
            )

    def _serve(self, cluster: Cluster, leases: Leases) -> None:
        while True:
            self._place(cluster)
            for actor in list(self.actors.values()):
                self._feed(cluster, actor, leases)
            if self._finished(leases):
                return
            for number, message in cluster.messages(_POLL_SECONDS):
                self._take(cluster, number, message, leases)
            self._look_at_clocks(cluster, leases)
            self.run.summary.underway = sum(actor.unpublished for actor in self.actors.values() if not actor.silent)
            self.run._report()

    def _finished(self, leases: Leases) -> bool:
        if not leases.open:
            return True
        busy = any(not actor.silent and not (actor.published and actor.since is None) for actor in self.actors.values())
        return self.run.stop.requested and not busy

    # Actors

    def _place(self, cluster: Cluster) -> None:
        """Starts actors where a device has none."""
        if self.run.stop.requested:
            return
        now = time.monotonic()
        if now - self._looked > _LOOK_SECONDS:
            self._looked = now
            cluster.send(LookForNodes())
        nodes = [node for node in cluster.nodes if node.id not in self.refused]
        shares = _shares(nodes, self.setup.setup.device, self.wanted, begun=self._number > 0)
        here = Counter(actor.node.id for actor in self.actors.values() if not actor.silent)
        for node in nodes:
            if self._rests.get(node.id, 0.0) > now:
                continue
            for _ in range(shares[node.id] - here[node.id]):
                self._launch(cluster, node, shares[node.id])
        if not self.actors and self.refused:
            raise EncoderError("; ".join(self.refused.values()))
        self._alone = None if self.actors else self._alone or now
        if self._alone is not None and (now - self._alone > ALONE_SECONDS or not self._number):
            kind = "a GPU" if self.setup.setup.device == "cuda" else "processors"
            raise EncoderError(f"no node of the cluster has {kind} to lend; the same command goes on once one has")

    def _launch(self, cluster: Cluster, node: Node, share: int) -> None:
        self._number += 1
        gpus = 0 if self.setup.setup.device == "cpu" else min(1, node.gpus)
        cores = max(1, node.cpus // share)
        cluster.send(Launch(self._number, node.id, min(cores, node.cpus), gpus, replace(self.setup, cores=cores)))
        self.actors[self._number] = _Actor(number=self._number, node=node, since=time.monotonic())

    def _look_at_clocks(self, cluster: Cluster, leases: Leases) -> None:
        now = time.monotonic()
        for actor in list(self.actors.values()):
            allowed = SILENT_SECONDS if actor.joined else JOIN_SECONDS
            if actor.silent or actor.since is None or now - actor.since < allowed:
                continue
            if not actor.joined:
                cluster.send(Kill(actor.number))
                self._refuse(actor, Refused(f"no answer within {allowed:.0f} s; are its cores free?"), leases)
                continue
            actor.silent = True
            self.lost["silent"] += 1
            self.lost["images"] += leases.take_back(actor.number)
            cluster.send(Kill(actor.number))  # what it still publishes counts once, if it can be ended or not

    def _died(self, reason: str, leases: Leases, *numbers: int) -> None:
        """Takes back what dead actors had.

        Raises:
            EncoderError: after too many deaths with nothing done between them.
        """
        for number in numbers:
            actor = self.actors.pop(number, None)
            if actor is not None and not actor.joined:
                # Ray lists a node that died for some seconds more, and what is started there ends at once.
                self._rests[actor.node.id] = time.monotonic() + _LOOK_SECONDS
            if actor is not None and not actor.silent:
                self.lost["died"] += 1
                self.lost["images"] += leases.take_back(number)
        self.failures += 1
        if self.failures > MAX_DEATHS:
            raise EncoderError(f"actors end one after the other, the last: {reason}")

    def _refuse(self, actor: _Actor, refused: Refused, leases: Leases) -> None:
        """Leaves a node alone that cannot work, and says why."""
        if refused.by == "store":
            raise StoreError(refused.reason)
        del self.actors[actor.number]
        self.lost["images"] += leases.take_back(actor.number)
        named = f"node {actor.node.name} ({actor.node.address}) is left out: " if self.address is not None else ""
        self.refused[actor.node.id] = named + refused.reason
        if named:
            self._note(self.refused[actor.node.id])

    # Images

    def _feed(self, cluster: Cluster, actor: _Actor, leases: Leases) -> None:
        """Asks an idle actor for its next step, with more images where it has room for them."""
        if actor.since is not None or actor.silent or not actor.joined:
            return
        stop = self.run.stop.requested
        images: list[tuple[int, Task]] = []
        again = False
        if not stop and actor.waiting < actor.appetite and leases.waiting:
            images, again = leases.take(actor.number, actor.appetite - actor.waiting)
        if images:
            actor.published = False
        if actor.published:
            return
        last = not leases.waiting
        actor.since = time.monotonic()
        cluster.send(ForActor(actor.number, Step(images, again, last, stop)))

    def _take(self, cluster: Cluster, number: int, message: Any, leases: Leases) -> None:
        actor = self.actors.get(number)
        if isinstance(message, Lost):
            self._died(message.reason, leases, number)
        elif isinstance(message, Report):
            self._merge(actor, message, leases)
        elif actor is None:
            return
        elif isinstance(message, Joined):
            actor.appetite, actor.joined, actor.since = message.appetite, True, None
            self._take_batch_size(message.batch_size)
        elif isinstance(message, Refused):
            self._refuse(actor, message, leases)

    def _merge(self, actor: _Actor | None, report: Report, leases: Leases) -> None:
        """Adds what was published to the summary: what another has published before counts once."""
        settled = {}
        for outcome in report.outcomes:
            task = leases.settle(outcome.key)
            if task is not None:
                settled[task.image_id] = outcome
                self._count(task, outcome)
        summary = self.run.summary
        for note, ids in report.odd.items():
            summary.odd_files.setdefault(note, []).extend(image_id for image_id in ids if image_id in settled)
        summary.odd_files = {odd: ids for odd, ids in summary.odd_files.items() if ids}
        summary.engine = report.engine or summary.engine
        for said in report.notes:
            self._note(said)
        self._take_batch_size(report.batch_size)
        if settled:
            self.failures = 0
        if actor is not None:
            actor.since, actor.waiting, actor.unpublished = None, report.waiting, report.unpublished
            actor.published = leases.held_by(actor.number) == 0 or (self.run.stop.requested and report.idle)

    def _count(self, task: Task, outcome: Outcome) -> None:
        summary, index = self.run.summary, self.run.writer.index
        if outcome.fault is not None:
            summary.failed.append(Failure(task.image_id, *outcome.fault))
        elif outcome.content is None:
            summary.forgotten += 1
        else:
            before = index.find_content(outcome.content) is not None
            new = not before and outcome.content not in self.known
            self.known.add(outcome.content)
            summary.embedded += new
            summary.reused += not new
            self.run.new.update([task.image_id] if new else [])
            known = index.find_image(task.image_id) if outcome.unlike else None
            if outcome.unlike and (new or known is None or known.content != outcome.content):
                summary.unlike_chest.append(task.image_id)

    def _take_batch_size(self, batch_size: int) -> None:
        summary = self.run.summary
        summary.batch_size = min(summary.batch_size or batch_size, batch_size)

    def _note(self, note: str) -> None:
        if note not in self.run.summary.notes:
            self.run.summary.notes.append(note)


def _shares(nodes: list[Node], device: str, wanted: int | None, *, begun: bool = False) -> Counter[str]:
    """How many actors each node should have: one a device, or `wanted` in turn.

    Once a run has `begun`, a node that is gone leaves fewer devices, and the others go on.

    Raises:
        EncoderError: where there are not so many devices.
    """
    devices = Counter({node.id: 1 if device == "cpu" else node.gpus for node in nodes})
    if device != "cuda":
        devices = Counter({node.id: max(1, devices[node.id]) for node in nodes})
    if wanted is None:
        return devices
    if device == "cuda" and wanted > devices.total():
        if begun:
            return devices
        raise EncoderError(f"`actors` is {wanted}, and the cluster has {counted(devices.total(), 'GPU')}")
    shares: Counter[str] = Counter()
    while shares.total() < wanted and nodes:
        for node in nodes:
            if shares.total() < wanted and (device != "cuda" or shares[node.id] < devices[node.id]):
                shares[node.id] += 1
    return shares
