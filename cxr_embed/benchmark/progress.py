"""How far a benchmark is, and about how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from cxr_embed.benchmark.plan import Plan, Task
from cxr_embed.benchmark.vectors import BenchEncoder
from cxr_embed.encoders import encoder_card
from cxr_embed.encoders.registry import is_own

Progress = Callable[[str, int, int], None]  # a word for the step, what is done, how much there is
UNITS = 100  # a second of expected work: a bar moves within a step
# Expected seconds, of which only the proportions matter: of a cell, a comparison with the reference, a report.
_CELL: Mapping[Task, float] = {
    "probe": 3,
    "curve": 12,
    "prompts": 2,
    "neighbours": 3,
    "shortcuts": 2,
    "scores": 1,
    "speed": 20,
}
COMPARISON, REPORT = 2.0, 7.0
_IMAGE = {"numpy": 0.02, "engines": 0.02, "torch": 0.05, "tensorflow": 0.5}  # by what runs the encoder
_PHANTOM = 0.05


@dataclass(kw_only=True)
class Clock:
    """Counts what is done in units of expected work; a step that was done in an earlier run counts for nothing.

    Attributes:
        total: expected seconds of all steps, by rough guesses that only their proportions matter of.
        show: called with the step in words, what is done and how much there is.
    """

    show: Progress | None
    total: float = 0.0
    done: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def expect(self, work: float) -> None:
        """Says how much work is to come, in place of what was thought before."""
        self.total = self.done + work

    def at(self, step: str, work: float = 0.0, part: float = 0.0) -> None:
        """Says what is going on: a part of a step of so much work."""
        if self.show is None:
            return
        done = min(self.done + work * part, self.total)
        left = self.left(done)
        words = f"{step} ({left})" if left else step
        self.show(words, round(UNITS * done), max(1, round(UNITS * self.total)))

    def finish(self, work: float) -> None:
        """A step is done."""
        self.done += work

    def left(self, done: float) -> str:
        """How long it will take, in words; blank as long as nobody can say."""
        passed = time.monotonic() - self.started
        if done <= 0 or passed < 2:
            return ""
        seconds = passed * (self.total - done) / done
        return f"about {seconds / 60:.0f} min left" if seconds >= 90 else f"about {max(1, round(seconds))} s left"


def cell_work(task: Task) -> float:
    """Expected work of a cell."""
    return _CELL[task]


def embedding_work(encoder: BenchEncoder, images: int) -> float:
    """Expected work of embedding images."""
    own = is_own(encoder.encoder)
    return images * _IMAGE["numpy" if own else encoder_card(encoder.encoder).framework]


def drawing_work(phantoms: int) -> float:
    """Expected work of drawing phantoms."""
    return phantoms * _PHANTOM


def plan_work(plan: Plan) -> float:
    """Expected work of a plan, as far as it is known before its data sets are read."""
    each = sum(cell_work(task) + COMPARISON for task in plan.tasks.names) + (REPORT if plan.reports else 0)
    cells = each * len(plan.encoders) * len(plan.data)
    phantoms = sum(data.phantoms or 0 for data in plan.data.values())
    return cells + drawing_work(phantoms) + len(plan.encoders) * phantoms * _IMAGE["engines"]
