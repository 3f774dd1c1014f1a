"""Writes docs/command-line.md from what the verbs say of themselves: `python docs/command_line.py`, or `make docs`."""

from __future__ import annotations

import enum
import inspect
import sys
import types
import typing
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from cxr_embed.cli import app

PAGE = Path(__file__).with_name("command-line.md")
HEAD = """# Command line

<!-- Written by docs/command_line.py from the verbs' own help: `make docs`. Do not edit. -->

Every verb prints its help with `--help`. What goes wrong ends in one or two lines and an exit status other than 0.

## Verbs

{verbs}

## Options that verbs share

What each takes; where that is another kind of value on another verb, both stand here.

{shared}
"""


@dataclass(frozen=True)
class Option:
    """An option or argument of a verb: its spellings, the kind of its value, its default and its help."""

    spellings: tuple[str, ...]
    value: str
    default: str
    help: str
    required: bool
    argument: bool

    @property
    def name(self) -> str:
        """The first long spelling: an old one stands behind the new."""
        return next((spelling for spelling in self.spellings if spelling.startswith("--")), self.spellings[0])


@dataclass(frozen=True)
class Verb:
    """A command with its options."""

    name: str
    help: str
    epilog: str
    options: tuple[Option, ...]


def verbs() -> list[Verb]:
    """Every command of the command line, in the order of its help."""
    found: list[Verb] = []

    def walk(command: Any, words: tuple[str, ...]) -> None:
        if command.hidden:  # an old spelling
            return
        for name, below in getattr(command, "commands", {}).items():
            walk(below, (*words, name))
        if command.callback is None or (hasattr(command, "commands") and not command.invoke_without_command):
            return
        found.append(_verb(command, " ".join(words)))

    walk(typer.main.get_command(app), ("cxr-embed",))
    return found


def _verb(command: Any, name: str) -> Verb:
    hints = typing.get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    shown = (each for each in command.params if not each.hidden and each.name in hints)
    text = inspect.cleandoc(command.help or "").split("\f")[0].strip()
    return Verb(name, text, (command.epilog or "").strip(), tuple(_option(each, hints[each.name]) for each in shown))


def _option(parameter: Any, hint: Any) -> Option:
    annotation, *told = typing.get_args(hint) if typing.get_origin(hint) is typing.Annotated else (hint,)
    info = next((each for each in told if hasattr(each, "min")), None)
    argument = not parameter.opts[0].startswith("-")
    default = parameter.default
    if default in (None, False, [], ()) or callable(default) or parameter.required:
        default = ""
    if isinstance(default, enum.Enum):
        default = default.value
    return Option(
        spellings=(*parameter.opts, *parameter.secondary_opts),
        value=_kind(annotation, getattr(info, "min", None), getattr(info, "max", None)),
        default=str(default),
        help=" ".join((parameter.help or "").split()),
        required=parameter.required,
        argument=argument,
    )


def _kind(annotation: Any, low: Any, high: Any) -> str:
    """The kind of a value in words; "" for a flag."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        annotation = next(each for each in typing.get_args(annotation) if each is not type(None))
    if typing.get_origin(annotation) in (list, tuple):
        return f"{_kind(typing.get_args(annotation)[0], low, high)}, repeatable"
    if typing.get_origin(annotation) is typing.Literal:
        return " or ".join(map(str, typing.get_args(annotation)))
    if inspect.isclass(annotation) and issubclass(annotation, enum.Enum):
        return " or ".join(str(each.value) for each in annotation)
    kind = {bool: "", Path: "path", int: "integer", float: "number"}.get(annotation, "text")
    if low is None and high is None:
        return kind
    if high is None:
        return f"{kind}, {low:,} or more"
    return f"{kind}, at most {high:,}" if low is None else f"{kind}, {low:,} to {high:,}"


def shared_options(among: list[Verb]) -> dict[str, dict[str, list[str]]]:
    """Options on two verbs or more: the kinds of value that each has, and the verbs that take it so."""
    found: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for verb in among:
        for option in verb.options:
            if not option.argument:
                found[option.name][option.value].append(verb.name.removeprefix("cxr-embed "))
    return {name: dict(kinds) for name, kinds in sorted(found.items()) if sum(map(len, kinds.values())) > 1}


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _anchor(name: str) -> str:
    return f"[{name.removeprefix('cxr-embed ')}](#{name.replace(' ', '-')})"


def page() -> str:
    """The page's Markdown."""
    every = verbs()
    summary = [
        "| verb | what it does |",
        "|---|---|",
        *(f"| {_anchor(verb.name)} | {_cell(_first(verb.help))} |" for verb in every),
    ]
    shared = ["| option | value | verbs |", "|---|---|---|"]
    for name, kinds in shared_options(every).items():
        takers = [_anchor(f"cxr-embed {verb}") for verbs_of in kinds.values() for verb in verbs_of]
        shared.append(f"| `{name}` | {_cell('; '.join(kinds))} | {', '.join(takers)} |")
    parts = [HEAD.format(verbs="\n".join(summary), shared="\n".join(shared)), *map(_section, every)]
    return "\n".join(part.rstrip() + "\n" for part in parts)


def _first(text: str) -> str:
    """The first paragraph, on one line."""
    return " ".join(text.split("\n\n")[0].split())


def _section(verb: Verb) -> str:
    arguments = [option for option in verb.options if option.argument]
    options = [option for option in verb.options if not option.argument]
    words = [name.upper() if each.required else f"[{name.upper()}]" for each in arguments for name in each.spellings]
    usage = " ".join([verb.name, *(["[OPTIONS]"] if options else []), *words])
    lines = [f"## {verb.name}", "", verb.help, "", "```sh", usage, "```", ""]
    if verb.options:
        lines += ["| option | value | what it says |", "|---|---|---|"]
    for option in (*arguments, *options):
        name = option.spellings[0].upper() if option.argument else ", ".join(option.spellings)
        told = [option.help, *(["Required."] if option.required and not option.argument else [])]
        told += [f"Default: `{option.default}`."] if option.default else []
        lines.append(f"| `{name}` | {_cell(option.value)} | {_cell(' '.join(told))} |")
    return "\n".join([*lines, "", verb.epilog])


if __name__ == "__main__":
    if page() != (PAGE.read_text() if PAGE.is_file() else ""):
        PAGE.write_text(page())
        print(f"{PAGE.name}: written", file=sys.stderr)
