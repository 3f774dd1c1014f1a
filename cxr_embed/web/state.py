"""What a server has open: one generation of the index at a time, its encoders, and what else was named at its start."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from cxr_embed.api.search import SearchIndex
from cxr_embed.choices import ScoreKind
from cxr_embed.errors import CaseIndexError, CxrEmbedError
from cxr_embed.index import CaseIndex, Query
from cxr_embed.index.faiss.layout import HEADER
from cxr_embed.probe.persistence import TrainedProbe
from cxr_embed.prompts import PromptSet
from cxr_embed.store import Store
from cxr_embed.web.columns import Columns, columns_of
from cxr_embed.web.encoders import ServerEncoders

T = TypeVar("T")


class OtherGeneration(CxrEmbedError):
    """A page that shows an index as it no longer is."""


@dataclass(frozen=True)
class Generation:
    """An index as it was written once; a request works with one of these from its beginning to its end.

    Attributes:
        index: the cases.
        stamp: of its index.json.
    """

    index: CaseIndex
    stamp: tuple[int, ...]

    @property
    def name(self) -> str:
        """Another one for every time that the index was written."""
        return self.index.record.generation

    def is_current(self) -> bool:
        """Whether the index was not written since."""
        return _stamp(self.index.path) == self.stamp

    def check(self, name: str) -> None:
        """Refuses a page of another generation: its rows are other cases.

        Raises:
            OtherGeneration: for one.
        """
        if name != self.name:
            raise OtherGeneration("the index was built again since this page was opened: reload the page")

    @cached_property
    def search(self) -> SearchIndex:
        """The use case."""
        return SearchIndex(self.index)

    @cached_property
    def columns(self) -> Columns:
        """What may be shown."""
        return columns_of(self.index)


@dataclass(kw_only=True)
class State:
    """What requests share.

    Attributes:
        path: the index's folder.
        encoders: of radiographs and words.
        store, probe, prompts: what pages of scores work with; None where none was named.
        score: of the prompts, as `Scorer` takes it.
        words: held while words are embedded: Python's warnings, in which an encoder names what it does not know, are
            of the whole process.
    """

    path: Path = field(kw_only=False)
    encoders: ServerEncoders = field(default_factory=ServerEncoders)
    store: Store | None = None
    probe: TrainedProbe | None = None
    prompts: PromptSet | None = None
    score: ScoreKind | None = None
    words: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._opening = threading.Lock()
        self._current = self._open()

    def current(self) -> Generation:
        """The index as it is now; opened anew where it was built again.

        Raises:
            CaseIndexError: where it is gone or damaged.
        """
        current = self._current
        if _stamp(self.path) == current.stamp:
            return current
        with self._opening:
            if _stamp(self.path) != self._current.stamp:
                self._current = self._open()
            return self._current

    def answer(self, request: Callable[[Generation], T]) -> T:
        """What a request comes to, of one generation; begun anew where its files went away under it."""
        generation = self.current()
        try:
            return request(generation)
        except CaseIndexError:
            after = self.current()
            if after.name == generation.name:
                raise
            return request(after)

    def _open(self) -> Generation:
        generation = open_generation(self.path)
        _touch(generation.index)
        _ = generation.columns
        return generation


def open_generation(path: Path) -> Generation:
    """The index as it is now.

    Raises:
        CaseIndexError: where there is none, or it is damaged.
    """
    stamp = _stamp(path)
    return Generation(CaseIndex(path), stamp)


def _stamp(path: Path) -> tuple[int, ...]:
    """Changes with index.json; zeros where there is none, of which opening it says more."""
    try:
        status = os.stat(path / HEADER)
    except OSError:
        return (0, 0, 0)
    return status.st_ino, status.st_size, status.st_mtime_ns


def _touch(index: CaseIndex) -> None:
    """Maps what the first search would map, while its files are there."""
    if not len(index):
        return
    vector = np.zeros(index.record.shape, np.float32)
    vector[..., 0] = 1
    index.search_rows([Query(vector)], 1, where=None)
