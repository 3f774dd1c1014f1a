"""Rows of tables: who is in them, and the table without."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from cxr_embed.errors import CxrEmbedError
from cxr_embed.forget.mentions import NUMBER, Marks
from cxr_embed.io.files import written_aside
from cxr_embed.regions import is_box, picture_of

_LONGEST = 16 << 20  # characters of a line
_HINT = re.compile(r'\ufeff?"?sep=([,;\t])"?\s*', re.IGNORECASE)
_IMAGE, _PATIENT, _BOX = "image_id", "patient_id", "box"


class _Rule:
    """Which rows of a table go.

    Args:
        names: of its columns.
        marks: whom they speak of.
    """

    def __init__(self, names: Sequence[str], marks: Marks) -> None:
        folded = [name.strip().lower() for name in names]
        self.marks = marks
        self.image = folded.index(_IMAGE) if _IMAGE in folded else None
        self.patient = folded.index(_PATIENT) if _PATIENT in folded else None
        self.box = folded.index(_BOX) if _BOX in folded else None
        self.own = {self.image, self.patient}
        self.ids = {at for at, name in enumerate(folded) if "image" in name or "patient" in name or name == "id"}

    def goes(self, cells: Sequence[str]) -> bool:
        """Whether a row goes: by its ids, or by a name in another of its cells."""
        image_id, patient = (
            cells[at].strip() if at is not None and at < len(cells) else "" for at in (self.image, self.patient)
        )
        if self.marks.is_case(patient, image_id):
            return True
        box = cells[self.box] if self.box is not None and self.box < len(cells) else ""
        if is_box(box) and self.marks.is_case(patient, picture_of(image_id)):  # a part of a picture
            return True
        return any(self._names(at, cell.strip()) for at, cell in enumerate(cells) if at not in self.own)

    def _names(self, at: int, cell: str) -> bool:
        # A number in a column of something else is that, whatever ids look like.
        return self.marks.is_id(cell) if at in self.ids else not NUMBER.fullmatch(cell) and self.marks.is_name(cell)


def count_rows(path: Path, marks: Marks) -> int:
    """How many rows of a table speak of somebody.

    Raises:
        CxrEmbedError: where it cannot be read.
    """
    with _as_error(path):
        if path.suffix.lower() == ".parquet":
            with pq.ParquetFile(path) as file:
                rule = _Rule(file.schema_arrow.names, marks)
                return sum(sum(_mask(batch, rule)) for batch in file.iter_batches())
        with _opened(path) as text:
            return sum(goes for _, goes in _records(text, marks))


def drop_rows(path: Path, marks: Marks) -> int:
    """Writes a table anew without the rows that speak of somebody; the others keep their bytes in a CSV.

    Returns:
        How many rows are gone.

    Raises:
        CxrEmbedError: where it cannot be read or written.
    """
    target = path.resolve()
    with _as_error(path), written_aside(target) as partial:
        if path.suffix.lower() == ".parquet":
            gone = _drop_from_parquet(target, partial, marks)
        else:
            gone = 0
            encoding = _encoding(target)
            with _opened(target) as text, _created(partial, target.suffix.lower() == ".gz") as out:
                encoder = codecs.getincrementalencoder(encoding)("surrogateescape")
                for raw, goes in _records(text, marks):
                    gone += goes
                    if not goes:
                        out.write(encoder.encode(raw))
        shutil.copymode(target, partial)
    return gone


def _drop_from_parquet(path: Path, partial: Path, marks: Marks) -> int:
    gone = 0
    with pq.ParquetFile(path) as file:
        rule = _Rule(file.schema_arrow.names, marks)
        with pq.ParquetWriter(str(partial), file.schema_arrow) as writer:
            for batch in file.iter_batches():
                mask = _mask(batch, rule)
                gone += sum(mask)
                writer.write_batch(batch.filter(pa.array([not goes for goes in mask], pa.bool_())))
    return gone


def _mask(batch: pa.RecordBatch, rule: _Rule) -> list[bool]:
    columns = []
    for number, column in enumerate(batch.columns):
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind) or number in rule.own:
            columns.append(["" if value is None else str(value) for value in column.to_pylist()])
        elif pa.types.is_fixed_size_binary(kind) or pa.types.is_binary(kind):
            columns.append(["" if value is None else value.hex() for value in column.to_pylist()])
        else:
            columns.append([""] * len(column))
    return [rule.goes(cells) for cells in zip(*columns, strict=True)]


class _Recorder:
    """Lines of a text, remembered until they are taken: a quoted cell may have several."""

    def __init__(self, text: IO[str]) -> None:
        self._text, self._lines = text, list[str]()

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(_LONGEST + 1):
            if len(line) > _LONGEST:
                raise ValueError("a line is too long")
            self._lines.append(line)
            yield line

    def take(self) -> str:
        raw, self._lines = "".join(self._lines), []
        return raw


def _records(text: IO[str], marks: Marks) -> Iterator[tuple[str, bool]]:
    """Each record of a CSV as it stands there, and whether it goes; the header stays."""
    recorder = _Recorder(text)
    lines = iter(recorder)
    first = next(lines, "")
    separator = max(",;\t", key=first.count)
    if hint := _HINT.fullmatch(first):
        separator = hint[1]
        yield recorder.take(), False
        first = next(lines, "")
    header: list[str] = []

    def from_first() -> Iterator[str]:
        yield first
        yield from lines

    rule: _Rule | None = None
    for cells in csv.reader(from_first(), delimiter=separator):
        raw = recorder.take()
        if rule is None:
            header = [name.lstrip("\ufeff") for name in cells]
            rule = _Rule(header, marks)
            yield raw, False
        else:
            yield raw, rule.goes(cells)
    if rest := recorder.take():
        yield rest, False


def _encoding(path: Path) -> str:
    with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
        start = file.read(2)
    # The mark at the beginning is a character of the first cell, and stays.
    return {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}.get(start, "utf-8")


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
        yield io.TextIOWrapper(file, _encoding(path), "surrogateescape", newline="")


@contextmanager
def _created(path: Path, packed: bool) -> Iterator[IO[bytes]]:
    with open(path, "wb") as file:
        if packed:
            with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as archive:
                yield archive  # type: ignore[misc]
        else:
            yield file


@contextmanager
def _as_error(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, EOFError, ValueError, csv.Error, pa.ArrowException) as error:
        why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
        raise CxrEmbedError(f"{path}: cannot be read or written ({why})") from None
