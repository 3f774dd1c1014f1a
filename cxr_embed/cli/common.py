"""What the verbs share: output, errors, the progress bar."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from cxr_embed.cli.terminal import clean_json, console
from cxr_embed.notebook import in_notebook, notebook_bar
from cxr_embed.types import RESEARCH as RESEARCH
from cxr_embed.types import counted, stand_ins_read

KeyFile = Annotated[Path | None, typer.Option(help="Key of the patient ids, if not your own: for what was forgotten.")]


_PRINTED: list[bool] = []  # JSON values


class Failed(SystemExit):
    """The end of the program after an error that was told."""

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


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 shard, 2 shards."""
    return counted(count, noun)


def prevalences(given: list[str], findings: list[str], owner: str) -> dict[str, float]:
    """`--prevalence`: `0.02` for all findings, or `NAME=0.02`; a later word wins.

    Args:
        given: the words.
        findings: that there are.
        owner: who says so, for the message: `the prompts ask for`.
    """
    rates: dict[str, float] = {}
    for word in given:
        name, _, number = word.rpartition("=")
        try:
            rate = float(number)
        except ValueError:
            rate = -1.0
        if not 0 <= rate <= 1:
            fail(f"--prevalence is a part of 1, such as 0.02 or Pneumothorax=0.02, not {word!r}", 2)
        if name and name not in findings:
            fail(f"--prevalence {word}: {owner} {', '.join(findings)}", 2)
        rates.update(dict.fromkeys([name] if name else findings, rate))
    return rates
