"""What a run, its bridge to Ray and its actors say to each other. No message holds a vector or pixels.

::

    run     -> bridge   Start, then Launch, Step and Kill for an actor by its number, LookForNodes
    bridge  -> run      Nodes, or Unusable: there is no Ray to be had
    actor   -> run      (number, Joined), or Refused; for each Step a Report, or Refused
    bridge  -> run      (number, Lost): the actor died, or could not start
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from cxr_embed.choices import Colour
from cxr_embed.pipeline.messages import Became, Fault, Setup
from cxr_embed.pipeline.tasks import Task
from cxr_embed.types import ImageNote


class Start(NamedTuple):
    """`address` of a cluster to join, `auto` for the one that this machine knows; None starts one for this run.

    `folder` is for the files of one of our own, `cores` what it has.
    """

    address: str | None
    folder: str
    cores: int


class Node(NamedTuple):
    """A machine of the cluster, or what stands for one: its id, address, name, and what it lends."""

    id: str
    address: str
    name: str
    cpus: int
    gpus: int


class Nodes(NamedTuple):
    """The nodes that are alive."""

    nodes: list[Node]


class LookForNodes(NamedTuple):
    """Asks for `Nodes` again."""


class Launch(NamedTuple):
    """Starts an actor on a node, and has it join the run."""

    number: int
    node: str
    cpus: int
    gpus: int
    setup: ActorSetup


class Step(NamedTuple):
    """More images for an actor, `(key, image)`; or, as `last`, nothing: publish, once all is done.

    `again` says that another had them before. `stop` drops those that are not begun.
    """

    images: list[tuple[int, Task]]
    again: bool = False
    last: bool = False
    stop: bool = False


class ForActor(NamedTuple):
    """A step for the actor of that number."""

    number: int
    step: Step


class Kill(NamedTuple):
    """Ends an actor, whatever it is at."""

    number: int


@dataclass(frozen=True, kw_only=True)
class ActorSetup:
    """How an actor opens the store and makes its workers.

    Attributes:
        store: its path, which must lead to the same folder on each node.
        header: `store.json`, by which an actor knows the folder again.
        release, software: of this package, and what is recorded with faults.
        setup: of its workers.
        images: that it may be given.
        cores: that it may use.
        batch_size, workers: the user's choice.
        key_file: of the patient ids.
    """

    store: str
    header: bytes
    release: str
    software: str
    setup: Setup
    colour: Colour
    images: int
    cores: int
    batch_size: int | Literal["auto"]
    workers: int | Literal["auto"]
    key_file: str | None


class Joined(NamedTuple):
    """The actor has its encoder and the store; `appetite` is how many images it should have waiting."""

    appetite: int
    batch_size: int


class Refused(NamedTuple):
    """Why an actor cannot work, or go on; `by` says what is to blame: its encoder or node, or the store for all."""

    reason: str
    by: Literal["encoder", "store"] = "encoder"


class Lost(NamedTuple):
    """The actor is gone."""

    reason: str


class Outcome(NamedTuple):
    """What became of an image: its content id where it was embedded now or before, or why it was not.

    `unlike`: its picture does not look like a chest radiograph.
    """

    key: int
    what: Became
    content: bytes | None = None
    fault: Fault | None = None
    unlike: bool = False


@dataclass(frozen=True, kw_only=True)
class Report:
    """What an actor has published since its last report, and how it goes.

    Attributes:
        outcomes: of images whose rows and vectors are in the store.
        odd: what is odd about files, to the ids of images.
        waiting: images that it has not begun.
        unpublished: images that are done, and not yet in the store.
        idle: whether it has nothing in hand.
    """

    outcomes: list[Outcome]
    odd: dict[ImageNote, list[str]]
    waiting: int
    unpublished: int
    idle: bool
    engine: str
    batch_size: int
    notes: list[str]
