"""Where text goes to the terminal: names that come from files can't move its cursor, colour it or turn words around."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.console import Console

# Control characters but for line feed and tab, marks of the writing direction, line separators, and the halves of
# characters that stand for bytes that are not UTF-8.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", re.DOTALL
)
_STYLE = re.compile(r"\x1b\[[0-9;]*m")  # typer's own colours, in its words on a wrong call

_ARGUMENT = re.compile(r"`([A-Za-z][a-z0-9_]*)(?:=([^`]*))?`")
_flags: Mapping[str, str] = {}  # of the running verb: a parameter's name to what a user types


def name_flags(flags: Mapping[str, str]) -> None:
    """Says how the running verb spells the arguments that the library's messages name."""
    global _flags
    _flags = flags


def with_flags(text: str) -> str:
    """A message of the library in the command line's words: `` `out` `` as --out, `` `kind='flat'` `` as --kind flat.

    Names that are not a parameter of the running verb stay as they are.
    """

    def spelled(match: re.Match[str]) -> str:
        name, value = match[1], match[2]
        if name not in _flags:
            return match[0]
        return _flags[name] if value in (None, "True") else f"{_flags[name]} {value.strip(chr(34) + chr(39))}"

    return _ARGUMENT.sub(spelled, text) if "`" in text else text


def clean(text: str) -> str:
    """Text with every unsafe character written out, as `\\x1b` or `\\u202e`, and arguments as flags."""
    text = with_flags(text)
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode("ascii"), text)


def clean_json(text: str) -> str:
    """JSON that says the same with every unsafe character as `\\u202e`, and arguments as flags."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class _CleanStream(io.TextIOBase):
    """A text stream that writes what is safe; `raw` is the one below it."""

    def __init__(self, raw: TextIO) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        safe = clean(_STYLE.sub("", text) if self.isatty() else text)
        # A plain locale has no accents: better a code than no message.
        self.raw.write(safe.encode(self.encoding, "backslashreplace").decode(self.encoding))
        return len(text)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self.raw.flush()

    def isatty(self) -> bool:
        return self.raw.isatty()

    def fileno(self) -> int:
        return self.raw.fileno()

    def writable(self) -> bool:
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self.raw.encoding or "utf-8"

    @property
    def errors(self) -> str | None:  # type: ignore[override]
        return self.raw.errors


@contextmanager
def clean_output() -> Iterator[None]:
    """Standard output and error take safe text alone; whoever styles text prints through `console`."""
    before = sys.stdout, sys.stderr
    # A stream that the caller has closed (`>&-`) is None.
    sys.stdout, sys.stderr = (cast("TextIO", stream and _CleanStream(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def console(*, stderr: bool = False, **options: Any) -> Console:
    """A console of rich's that prints what it is given as it is: no colours by content, no markup; safe text alone."""
    stream = sys.stderr if stderr else sys.stdout
    return _clean_console()(file=getattr(stream, "raw", stream), highlight=False, markup=False, emoji=False, **options)


@cache
def _clean_console() -> type[Console]:
    from rich.console import Console, RenderableType
    from rich.segment import Segment
    from rich.text import Text

    class CleanConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(clean(text), **options)  # before anybody measures its width

        def render(self, renderable: RenderableType, options: Any = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                yield segment if segment.control else Segment(clean(segment.text), segment.style)

    return CleanConsole
