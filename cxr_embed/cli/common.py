"""What the verbs share: output, errors, the progress bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from cxr_embed.cli.terminal import clean_json, console
from cxr_embed.notebook import in_notebook, notebook_bar
from cxr_embed.types import RESEARCH as RESEARCH
from cxr_embed.types import stand_ins_read

_PRINTED: list[bool] = []  # JSON values


class Failed(SystemExit):
    """The end of the program after an error that was printed."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(status)
        self.message, self.status = message, status


def fail(message: str, status: int = 1) -> NoReturn:
    """Prints an error to stderr and ends the program."""
    typer.echo(f"error: {message}", err=True)
    raise Failed(message, status)


def print_json(value: Any) -> None:
    """Prints a value for a program to read."""
    _PRINTED.append(True)
    if isinstance(value, dict) and (read := stand_ins_read()):
        value = {**value, "stand_ins": read}
    typer.echo(clean_json(json.dumps(value, indent=2, ensure_ascii=False)))


def printed_json() -> bool:
    """Whether a value was printed for a program to read."""
    return bool(_PRINTED)


def is_terminal() -> bool:
    """Whether progress and colours make sense: only a person at a terminal sees them."""
    return sys.stderr.isatty()


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None] | None]:
    """A bar on stderr, or in a notebook's cell; None where nobody would see it."""
    if in_notebook():
        yield notebook_bar()
        return
    if not is_terminal():
        yield None
        return
    from rich.progress import Progress

    with Progress(console=console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda step, done, total: bar.update(task, description=step, completed=done, total=total)
