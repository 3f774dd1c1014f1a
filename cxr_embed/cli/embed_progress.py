"""What `cxr-embed embed` shows while it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import typer

from cxr_embed.cli.common import is_terminal
from cxr_embed.cli.terminal import console
from cxr_embed.notebook import in_notebook
from cxr_embed.present.numbers import format_duration

if TYPE_CHECKING:
    from cxr_embed.pipeline.summary import EmbedSummary

_A_MINUTE = 60.0


class SizeFirst:
    """Says once what a run will write, before it does, where that is much."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say: Callable[[str], None] | None = say

    def __call__(self, summary: EmbedSummary) -> None:
        if self._say is not None and summary.size_ahead:
            self._say(summary.size_ahead)
        self._say = None


class MinuteLines:
    """A line a minute, for the log of a batch job; first what a long run will write.

    Args:
        say: prints a line.
        clock: seconds, from any moment on.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._clock, self._first = say, clock, SizeFirst(say)
        self._last = clock()
        self._before: int | None = None

    def __call__(self, summary: EmbedSummary) -> None:
        self._first(summary)
        if self._before is None:
            self._before = summary.done
        now = self._clock()
        if now - self._last < _A_MINUTE:
            return
        rate = (summary.done - self._before) / (now - self._last)
        self._say(progress_line(summary, rate))
        self._last, self._before = now, summary.done


def progress_line(summary: EmbedSummary, rate: float) -> str:
    """How far a run is, at so many images a second."""
    what = "stopping" if summary.interrupted else "embedding" if summary.engine else "starting"
    part = f"part {summary.part}: " if summary.part else ""
    done = f"{summary.done:,} of {summary.images:,} ({summary.done / max(1, summary.images):.0%})"
    left = f", about {format_duration((summary.images - summary.done) / rate)} left" if rate > 0 else ""
    failed = f", {len(summary.failed):,} failed" if summary.failed else ""
    return f"{part}{what}: {done}, {rate:,.1f} images/s{left}{failed}"


@contextmanager
def embedding_bar() -> Iterator[Callable[[EmbedSummary], None] | None]:
    """A bar with images/s, time left and failures, on stderr, and first what a long run will write.

    A line a minute where there is no terminal; None where the run has a bar of its own.
    """
    if in_notebook():
        yield None
        return
    if not is_terminal():
        yield MinuteLines(partial(typer.echo, err=True))
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
    )
    with Progress(*columns, console=console(stderr=True)) as bar:
        task = bar.add_task("starting", total=None, rate="", failed="")
        say_size = SizeFirst(bar.console.print)

        def show(summary: EmbedSummary) -> None:
            say_size(summary)
            speed = bar.tasks[0].speed
            bar.update(
                task,
                description="stopping" if summary.interrupted else "embedding" if summary.engine else "starting",
                total=summary.images,
                completed=summary.done,
                rate=f"{speed:,.1f} images/s" if speed else "",
                failed=f"[red]{len(summary.failed):,} failed" if summary.failed else "",
            )

        yield show
