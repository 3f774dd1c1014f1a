"""An encoder's answers of pictures that are changed as they are asked for, and the threads that prepare them."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np

from cxr_embed.encoders import CheckedEncoder
from cxr_embed.types import CxrImage

BATCH = 8
_MOST_THREADS = 8
T = TypeVar("T")
R = TypeVar("R")


def answers_of(
    encoder: CheckedEncoder, images: Iterable[CxrImage], outputs: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """An encoder's answer of some pictures, batch by batch: while one is embedded, the next ones are prepared.

    Args:
        encoder: which.
        images: of these at least one; taken a few ahead.
        outputs: that are wanted; all by default.
    """
    return answers_of_inputs(encoder, ahead(encoder.preprocess, images, 2 * BATCH), outputs)


def answers_of_inputs(
    encoder: CheckedEncoder, inputs: Iterable[np.ndarray], outputs: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """The same of model inputs as `preprocess` gives them."""
    parts, given = [], iter(inputs)
    while batch := list(itertools.islice(given, BATCH)):
        alike = len({(each.shape, each.dtype) for each in batch}) == 1
        found = encoder.embed(np.stack(batch) if alike else batch)
        parts.append({output: found[output] for output in outputs or found})
    return {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}


def ahead(work: Callable[[T], R], items: Iterable[T], count: int) -> Iterator[R]:
    """`work` of each item, in order; up to `count` of them are worked on in threads before they are asked for.

    The first one is done alone: what an encoder makes when it is first needed is then there.
    """
    waiting: deque[Future[R]] = deque()
    given = iter(items)
    for first in itertools.islice(given, 1):
        yield work(first)
    for item in given:
        waiting.append(threads().submit(work, item))
        if len(waiting) >= count:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


@cache
def threads() -> ThreadPoolExecutor:
    """Threads, one a core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ThreadPoolExecutor(min(cores, _MOST_THREADS), thread_name_prefix="explain")


if hasattr(os, "register_at_fork"):
    # A fork has the pool's name but none of its threads.
    os.register_at_fork(after_in_child=threads.cache_clear)
