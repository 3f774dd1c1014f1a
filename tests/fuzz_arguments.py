"""Every verb with odd values for each of its arguments, read from its own help: errors are lines, not tracebacks.

python tests/fuzz_arguments.py FOLDER EVERY [VERB ...]    the folder is one that tests/every_verb.py made; of the odd
                                                          values each EVERYth is tried, 1 for all
"""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch
from zlib import crc32

import every_verb

HUGE = str(10**18)
NUMBERS = ["0", "-1", HUGE, "1" * 400, "nan", "inf", "1e308", "", "x", "2147483648"]
TEXTS = ["", " ", "\0", "-", "é\u202e\x1b[31m", "a=b", "=", ",", "*", "((", "x" * 5000, "../../x", "\udcff"]
PATHS = ["", ".", "nothing", "nothing/x.csv", "s3://b/x", "\udcff", "x" * 300, "store", "scores.csv"]
SECONDS, BYTES = 20, 6 << 30


class Slow(BaseException):
    """A verb took longer than it may; no handler takes it for an error."""


def odd_values(parameter: Any) -> list[str]:
    """Values for a parameter of the command line, by what its help says that it takes."""
    kind = str(parameter.type_descriptor.annotation)
    if "Path" in kind:
        return PATHS
    return NUMBERS if "int" in kind or "float" in kind else [*TEXTS, *NUMBERS[:4]]


def commands(verb: str, words: list[str]) -> Iterator[list[str]]:
    """The words of a sound command with one of its parameters changed."""
    import typer

    from cxr_embed.cli import app

    command: Any = typer.main.get_command(app)
    for part in [verb] if verb in command.commands else verb.split():  # `explain evaluate` is a verb beside `explain`
        command = command.commands[part]
    start, places = len(verb.split()), [n for n, p in enumerate(command.params) if p.param_type_name == "argument"]
    for number, parameter in enumerate(command.params):
        if getattr(parameter, "is_flag", False) or parameter.opts[0] == "--help":
            continue
        for value in odd_values(parameter):
            if number in places:
                at = start + places.index(number)
                yield [*words[:at], value, *words[at + 1 :]]
            elif given := [at for at, word in enumerate(words) if word in parameter.opts]:
                yield [*words[: given[0] + 1], value, *words[given[0] + 2 :]]  # an option is given once
            else:
                yield [*words, parameter.opts[-1], value]


def ends_well(words: list[str]) -> str:
    """What is wrong with the end of a command; blank where nothing is."""
    from cxr_embed.cli import app
    from cxr_embed.cli.ending import run

    def slow(*_: object) -> None:
        raise Slow

    out, err, status = io.StringIO(), io.StringIO(), 0
    signal.signal(signal.SIGALRM, slow)
    signal.alarm(SECONDS)
    try:
        argv = patch.object(sys, "argv", ["cxr-embed", *words])
        with argv, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            run(app)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except Slow:
        return f"takes longer than {SECONDS} s"
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]
    finally:
        signal.alarm(0)
    if status and not out.getvalue() and not err.getvalue():
        return f"status {status} and not a word"
    return ""


def main(folder: Path, every: int, wanted: list[str]) -> int:
    """Prints the commands that end badly; their number."""
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    known, bad, count, seen = every_verb.verbs(), 0, 0, set()
    for words in [*every_verb.cohort(), *every_verb.others()]:
        verb = next(name for name in (" ".join(words[:length]) for length in (2, 1)) if name in known)
        if verb in seen or verb == "demo" or (wanted and verb not in wanted):
            continue
        seen.add(verb)
        for odd in islice(commands(verb, words), crc32(verb.encode()) % every, None, every):
            count += 1
            if wrong := ends_well(odd):
                bad += 1
                print(f"{[word[:40] for word in odd]}: {wrong}", flush=True)
    print(f"{count:,} commands of {len(seen)} verbs, {bad} ended badly")
    return bad


if __name__ == "__main__":
    raise SystemExit(min(1, main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])))
