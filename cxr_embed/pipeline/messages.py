"""What the run and its workers say to each other. Everything is a plain tuple over one socket a worker.

A worker is one of three kinds. `whole` (on a CPU) decodes and infers; `decoder` and `device` (for a GPU) each do one
half and pass pixels through a shared arena. For each chunk of files::

    run     -> worker   ReadFiles     paths to read and hash
    worker  -> run      Hashed        content ids, so that the run can tell which contents are new
    run     -> worker   EmbedFiles    the new ones: decode (and infer, or put them into a slot of the arena)
    worker  -> run      Embedded      vectors and faults, or Decoded: the slot is filled
    run     -> device   RunSlots      slots to infer                    -> Embedded
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from cxr_embed.choices import Colour
from cxr_embed.types import ImageNote, Stamp

WorkerKind = Literal["whole", "decoder", "device"]
Became = Literal["embedded", "failed", "forgotten"]  # of an image that is settled


class Fault(NamedTuple):
    """Why a file has no vector: a word from `ImageFault` and a sentence."""

    kind: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Setup:
    """How a worker makes its encoder.

    Attributes:
        arena: file descriptor of the memory that decoders and the device worker share.
        slot_bytes: size of one of its slots.
        gpus: the GPUs of a run's device workers, by number; of a worker its own. None are named by default.
        cropped: whether it embeds regions.
        root: the folder below which files lie, wherever links lead; None where they may lie anywhere.
    """

    kind: WorkerKind
    encoder: str
    fingerprint: str
    device: str
    precision: str
    weights: str | None = None
    threads: int = 1
    batch_size: int = 1
    outputs: tuple[str, ...] | None = None
    pixels: str | None = None
    prepare: str | None = None
    cropped: bool = False
    colour: Colour = "refuse"
    root: str | None = None
    arena: int | None = None
    slot_bytes: int = 0
    gpus: tuple[int, ...] = ()


class Ready(NamedTuple):
    """The encoder is loaded; `engine` says what it runs on."""

    engine: str


class Unusable(NamedTuple):
    """The encoder could not be loaded, or cannot go on."""

    message: str


class ReadFiles(NamedTuple):
    """`(key, path, box)` of each file; a region's box, as text, is blank for a whole picture."""

    files: list[tuple[int, str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HashedFile:
    """A file's content id, its stamp and when it was read (ns since the epoch).

    `misnamed` says that its name stands for another format: no fault of the content, which may have another name too.
    `file` is the file's SHA-256 where `content` is a region's.
    """

    key: int
    content: bytes
    stamp: Stamp
    read_ns: int
    misnamed: Fault | None = None
    file: bytes | None = None


class Hashed(NamedTuple):
    """The chunk's files that were read, and why the others were not."""

    files: list[HashedFile]
    faults: dict[int, Fault]


class EmbedFiles(NamedTuple):
    """Keys of the chunk's files to embed; the rest is dropped. `slot` is where a decoder puts its pixels.

    `input_form` is how the device's encoder takes them best by now (`CheckedEncoder.input_form`).
    """

    keys: list[int]
    slot: int | None
    input_form: str = ""


class InSlot(NamedTuple):
    """Where a model input lies in a slot."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoded:
    """The model inputs of `keys` lie in the slot; `unfit` are files for which it had no room left.

    `unlike` are those of the keys whose picture does not look like a chest radiograph; `odd` is what is odd
    about their files.
    """

    slot: int
    keys: list[int]
    inputs: list[InSlot]
    faults: dict[int, Fault]
    unfit: list[int]
    unlike: frozenset[int]
    odd: dict[int, tuple[ImageNote, ...]]


class RunSlots(NamedTuple):
    """Slots to infer, with what lies in each; `keys` are their files, in order."""

    slots: list[tuple[int, list[InSlot]]]
    keys: list[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """Vectors `{output: (len(keys), ...)}` and faults of a chunk; `unlike` and `odd` as in `Decoded`.

    `engine`, `notes` and `input_form` are the encoder's after it: it may have found something out.
    """

    keys: list[int]
    vectors: dict[str, np.ndarray]
    faults: dict[int, Fault]
    batch_size: int
    engine: str = ""
    notes: tuple[str, ...] = ()
    input_form: str = ""
    unlike: frozenset[int] = frozenset()
    odd: dict[int, tuple[ImageNote, ...]] | None = None


Message = Any
