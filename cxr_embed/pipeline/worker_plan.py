"""The workers of a run: how many there are, what each of them does, and how much at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cxr_embed.encoders.registry import encoder_card, is_own
from cxr_embed.pipeline.messages import Setup
from cxr_embed.pipeline.pool import Arena
from cxr_embed.types import CxrImage, Encoder

# Files a worker takes at a time: large enough to hide the messages, small enough to share the work evenly.
CHUNK = 16
# The same where model inputs are encoded files or prepared pictures of several MB, of which a slot holds some.
FILE_CHUNK = 8
BATCH_SIZE = (2, 64)  # on a CPU and on a GPU, for an encoder of the user's
SLOTS_PER_DECODER = 3
# Of those: a chunk of large ones may not fit, what does not is decoded again.
FILE_SLOT_BYTES = 64 << 20


@dataclass(frozen=True)
class WorkerPlan:
    """What a pool of workers is made from.

    Attributes:
        setups: one for each worker.
        arena: where decoders leave model inputs for the worker that infers; None where every worker does both. Whoever
            takes the plan closes it.
        batch_size: images that are inferred at once.
        chunk: files that a worker takes at a time.
    """

    setups: list[Setup]
    arena: Arena | None
    batch_size: int
    chunk: int


def plan_workers(
    setup: Setup,
    encoder: Encoder,
    images: int,
    batch_size: int | Literal["auto"],
    workers: int | Literal["auto"],
    cores: int | None = None,
) -> WorkerPlan:
    """The workers for some images on this machine.

    Args:
        setup: what all of them have in common.
        encoder: theirs, here only for its `preprocess`.
        images: how many there are: no more workers start than find work.
        batch_size, workers: the user's choice.
        cores: that they share; this machine's by default.
    """
    from joblib import cpu_count

    cores = cores or cpu_count()
    card = None if is_own(setup.encoder) else encoder_card(setup.encoder)
    split = setup.device == "cuda" or (card is not None and card.one_model_a_machine)
    batch = batch_size
    if batch == "auto":
        batch = (card.batch_size if card is not None else BATCH_SIZE)[setup.device == "cuda"]
    files = split and gives_files(encoder)
    chunk = FILE_CHUNK if files else CHUNK if split else max(CHUNK, batch)  # a worker that infers takes whole batches
    most = -(-images // chunk)
    count = min(max(1, cores - 1 if split else cores) if workers == "auto" else workers, most)
    if split:
        slot_bytes = FILE_SLOT_BYTES if files else chunk * -(-_blank(encoder, 64).nbytes // 64) * 64
        parts = split_workers(replace(setup, threads=cores, slot_bytes=slot_bytes), count, batch, chunk)
        return WorkerPlan(*parts, batch, chunk)
    return WorkerPlan(whole_workers(setup, count, max(1, cores // count), batch), None, batch, chunk)


def gives_files(encoder: Encoder) -> bool:
    """Whether model inputs differ in size: encoded files, not pictures of one shape."""
    return _blank(encoder, 64).shape != _blank(encoder, 80).shape


def _blank(encoder: Encoder, width: int) -> np.ndarray:
    return encoder.preprocess(CxrImage(pixels=np.zeros((64, width), np.uint8), bits=8, content_id="", source="png"))


def whole_workers(setup: Setup, count: int, threads: int, batch: int) -> list[Setup]:
    """CPU: each worker decodes and infers. A decoding thread beside it was measured slower."""
    return [replace(setup, threads=threads, batch_size=batch)] * count


def split_workers(setup: Setup, decoders: int, batch: int, chunk: int) -> tuple[list[Setup], Arena]:
    """GPU, or a large model: decoders fill slots of an arena, one worker a machine, or a GPU, empties them."""
    shared = replace(setup, batch_size=batch)
    devices = [replace(shared, kind="device", gpus=(gpu,)) for gpu in setup.gpus] or [replace(shared, kind="device")]
    slots = SLOTS_PER_DECODER * decoders + len(devices) * 2 * -(-batch // chunk)
    kinds = devices + [replace(shared, kind="decoder", threads=1)] * decoders
    return kinds, Arena(slots, setup.slot_bytes)
