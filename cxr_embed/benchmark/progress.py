"""How far a benchmark is, and about how long it will take."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

Progress = Callable[[str, int, int], None]  # a word for the step, what is done, how much there is
UNITS = 100  # a step is so many: a bar moves within it


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
        """Adds the work of a step that is to come."""
        self.total += work

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
