"""Files to rows of text: CSV and Parquet, with the place of each row, so that a message can name it."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from cxr_embed.errors import ManifestError

NO_MANIFEST = "no such manifest; `cxr-embed manifest scan DIR --out FILE` makes one"
EXAMPLES = 5  # rows that one kind of problem names before it only counts
_CHUNK = 8192  # rows of a CSV that are Python objects at one time
_LONGEST_LINE = 16 << 20  # characters
# A packed table may grow to so many characters, or to so many times its bytes; real ones grow to ten or twenty times.
_ROOM, _PACKED = 1 << 28, 200
_HINT = re.compile(r'"?sep=([,;\t])"?\s*', re.IGNORECASE)
_TEXT = ("image_id", "path", "patient_id")  # columns in which a comma between digits is not a decimal sign
# pandas keeps a table's row numbers in such a column of a Parquet file; it is not a finding.
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")


@dataclass(frozen=True)
class Rows:
    """Text columns, and where each row stands in the file: `unit` is what `places` count."""

    table: pa.Table
    places: Sequence[int]
    unit: Literal["line", "row"]

    def select(self, columns: dict[str, int]) -> Rows:
        table = pa.table([self.table.column(number) for number in columns.values()], names=list(columns))
        return Rows(table, self.places, self.unit)

    def has(self, *names: str) -> bool:
        return set(names) <= set(self.table.column_names)

    def where(self, column: str, bad: Callable[[str], bool], what: str) -> list[str]:
        """The problem `what` with the rows whose value is bad; each distinct value is looked at once."""
        wrong = {value for value in self.table[column].unique().to_pylist() if bad(value)}
        if not wrong:
            return []
        values = self.table[column].to_pylist()
        return self.problem(what, [number for number, value in enumerate(values) if value in wrong], values)

    def problem(self, what: str, numbers: list[int], values: Sequence[str]) -> list[str]:
        """The problem `what`, with the place and value of the first few rows that have it."""
        shown = (f"{values[n]!r} in {self.unit} {self.places[n]}" for n in numbers[:EXAMPLES])
        more = f" and {len(numbers) - EXAMPLES} more" if len(numbers) > EXAMPLES else ""
        return [f"{what}: {', '.join(shown)}{more}"] if numbers else []


def read_rows(path: Path, missing: str = NO_MANIFEST) -> tuple[Rows, list[str]]:
    """The file as trimmed text, and the problems of rows that are none.

    A type that is guessed would turn id 0012 into 12, so a CSV's values are never anything but text.

    Args:
        path: the file.
        missing: what to say where there is none.

    Raises:
        ManifestError: for what is not a table, or cannot be read.
    """
    message = ""
    try:
        if os.path.isdir(path):
            message = "a folder; `cxr-embed manifest scan FOLDER --out FILE` makes a manifest of it"
        elif path.suffix.lower() == ".parquet":
            return _read_parquet(path)
        else:
            return _read_csv(path)
    except FileNotFoundError:
        message = missing
    except UnicodeDecodeError:
        message = "cannot be read as a table (not UTF-8 text); save it as CSV in UTF-8"
    except (pa.ArrowException, NotATable) as error:
        message = f"cannot be read as a table ({reason(error)})"
    except OSError as error:
        message = f"cannot be read ({reason(error)})"
    raise ManifestError(f"{path}: {message}", (message,))


def _name(column: object) -> str:
    """A column's name: an accent is one letter or two by the system that wrote it, and means the same."""
    return unicodedata.normalize("NFC", str(column).strip())


def _encoding(path: Path) -> str:
    """UTF-8, or what its first bytes say.

    Raises:
        NotATable: for a workbook of Excel's.
    """
    with pa.input_stream(str(path), compression="detect") as raw:
        head = raw.read(8)
    if head.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise NotATable("a workbook of Excel or the like; save its sheet as CSV in UTF-8")
    return "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"


def _delimiter(header: str) -> str:
    """What stands between the columns: a semicolon or a tab only where no comma could."""
    if hint := _HINT.fullmatch(header):
        return hint[1]
    others = [sign for sign in ";\t" if sign in header]
    return others[0] if len(others) == 1 and "," not in header else ","


class NotATable(Exception):
    """Why a file is not a table, in words."""


def reason(error: Exception) -> str:
    """An error's text in one line, without Python's number of it."""
    named = error.errno is not None and os.strerror(error.errno) if isinstance(error, OSError) else None
    return named or (str(error).splitlines() or [type(error).__name__])[0][:200]


def _read_parquet(path: Path) -> tuple[Rows, list[str]]:
    # Not read_table: it takes `site=A` in a folder's name for one more column.
    with pa.parquet.ParquetFile(path, page_checksum_verification=True) as file:  # where its writer left any
        table = file.read()
    table.validate(full=True)
    return rows_of_table(table), []


def rows_of_table(table: pa.Table) -> Rows:
    """A typed table as trimmed text.

    Raises:
        NotATable: for columns that are not text, numbers or dates.
    """
    names = [_name(name) for name in table.column_names]
    kept = [number for number, name in enumerate(names) if not _PANDAS_INDEX.fullmatch(name)]
    columns = [_as_text(table.column(number), names[number]) for number in kept]
    return Rows(pa.table(columns, names=[names[n] for n in kept]), range(1, len(table) + 1), "row")


def _as_text(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A typed column as trimmed text: null is blank, a whole number has no point, midnight no time."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    try:
        text = column.cast(pa.string())
    except pa.ArrowException:
        raise NotATable(f"column {name} is of the type {kind}") from None
    if pa.types.is_floating(kind):
        # Arrow writes an id as 1e+10 where pandas made it a float, which it does when one value is null.
        pairs = zip(column.to_pylist(), text.to_pylist(), strict=True)
        values = [None if n is None or n != n else str(int(n)) if n.is_integer() else original for n, original in pairs]
        text = pa.chunked_array([pa.array(values, pa.string())])
    elif pa.types.is_decimal(kind):
        text = pa.compute.replace_substring_regex(text, r"\.0+$", "")
    elif pa.types.is_timestamp(kind):
        text = pa.compute.replace_substring_regex(text, r" 00:00:00(\.0+)?(Z|[+-]\d{4})?$", "")
    return pa.compute.utf8_trim_whitespace(text.fill_null(""))


def _lines(text: io.TextIOBase, size: int) -> Iterator[str]:
    """The lines of a text, as far as memory is safe from what was packed or made to fill it.

    Args:
        text: the file, unpacked as it is read.
        size: bytes of the file.
    """
    room = max(_ROOM, _PACKED * size)
    while line := text.readline(_LONGEST_LINE):
        room -= len(line)
        if len(line) == _LONGEST_LINE and not line.endswith(("\n", "\r")):
            raise NotATable(f"a line of more than {_LONGEST_LINE >> 20} MiB; is it a table?")
        if room < 0:
            raise NotATable(f"it unpacks to more than {_PACKED} times its size; unpack it yourself if it should")
        yield line


@contextmanager
def csv_lines(path: Path) -> Iterator[tuple[Iterator[str], str]]:
    """The lines of a CSV, unpacked, and what stands between its columns; Excel's own hint of that is not a line.

    Raises:
        NotATable: for a workbook, or what is made to fill the memory.
        OSError, UnicodeDecodeError, pa.ArrowException: where it cannot be read.
    """
    with (
        pa.input_stream(str(path), compression="detect") as raw,
        io.TextIOWrapper(raw, _encoding(path), newline="") as text,
    ):
        lines = _lines(text, os.stat(path).st_size)
        first = next(lines, "")
        yield lines if _HINT.fullmatch(first) else itertools.chain([first], lines), _delimiter(first)


class _CsvRows:
    """Rows of a CSV file: whole ones go into columns, a chunk at a time; others are noted by line."""

    def __init__(self) -> None:
        self.header: list[str] = []
        self.places: list[int] = []
        self.ragged: list[tuple[int, int]] = []
        self._chunks: list[list[pa.Array]] = []
        self._batch: list[list[str]] = []

    def read(self, lines: Iterator[str], delimiter: str) -> str:
        """Reads as far as it goes; why not further, or blank."""
        reader = csv.reader(lines, strict=True, delimiter=delimiter)
        try:
            self.header = [_name(name) for name in next((row for row in reader if row), [])]
            line, width, batch, places = reader.line_num, len(self.header), self._batch, self.places
            for row in reader:
                # A quoted value may hold line breaks: a row is named by its first line.
                line, first = reader.line_num, line + 1
                if len(row) == width:
                    batch.append(row)
                    places.append(first)
                elif row and (len(row) > 1 or row[0].strip()):
                    self.ragged.append((first, len(row)))
                if len(batch) == _CHUNK:
                    self._pack()
        except csv.Error as error:
            return f"the file cannot be read beyond line {reader.line_num} ({error}); is a quote left open?"
        return ""

    def _pack(self) -> None:
        self._chunks.append([pa.array(values, pa.string()) for values in zip(*self._batch, strict=True)])
        self._batch.clear()

    def columns(self) -> list[pa.ChunkedArray]:
        """Values without the space around them."""
        if self._batch:
            self._pack()
        columns = (pa.chunked_array([chunk[n] for chunk in self._chunks], pa.string()) for n in range(len(self.header)))
        return [pa.compute.utf8_trim_whitespace(column) for column in columns]


def _read_csv(path: Path) -> tuple[Rows, list[str]]:
    rows = _CsvRows()
    with csv_lines(path) as (lines, delimiter):
        problem = rows.read(lines, delimiter)
        columns = rows.columns()
    header, ragged = rows.header, rows.ragged
    if not header:
        raise NotATable(problem or "the file is empty")
    if len(header) == 1 and re.search(r"[;\t|:]", header[0]):
        raise NotATable(f"one column only, {header[0][:60]!r}; separate the columns by commas")
    problems = [problem] if problem else []
    if ragged:
        shown = ", ".join(f"{count} in line {line}" for line, count in ragged[:EXAMPLES])
        more = f" and {len(ragged) - EXAMPLES} more" if len(ragged) > EXAMPLES else ""
        problems.insert(0, f"rows with another number of values than the {len(header)} columns: {shown}{more}")
    if delimiter != ",":  # where commas are the decimal signs
        columns = [
            column if name in _TEXT else pa.compute.replace_substring_regex(column, r"^([+-]?\d+),(\d+)$", r"\1.\2")
            for name, column in zip(header, columns, strict=True)
        ]
    return Rows(pa.table(columns, names=header), rows.places, "line"), problems
