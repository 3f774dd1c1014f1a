"""What the verbs share: output, errors, the progress bar."""

from __future__ import annotations

import json
import sys
from typing import Any, NoReturn

import typer

RESEARCH = "For research; not a medical device."


def fail(message: str, status: int = 1) -> NoReturn:
    """Prints an error to stderr and ends the program."""
    typer.echo(f"error: {message}", err=True)
    raise SystemExit(status)


def print_json(value: Any) -> None:
    """Prints a value for a program to read."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def is_terminal() -> bool:
    """Whether progress and colours make sense: only a person at a terminal sees them."""
    return sys.stderr.isatty()


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 shard, 2 shards."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def human_bytes(count: int) -> str:
    """A size in the unit that fits: 4.2 MB."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{count} bytes" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    raise AssertionError
