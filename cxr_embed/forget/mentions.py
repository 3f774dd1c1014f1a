"""Files that mention somebody: score files, manifests, exports, curves, reports, montages."""

from __future__ import annotations

import gzip
import html
import json
import re
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from cxr_embed.errors import CxrEmbedError
from cxr_embed.forget.known import Known
from cxr_embed.io.files import ODD_HEADER
from cxr_embed.types import spellings

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet")
_TEXT = (".json", ".jsonl", ".html", ".htm", ".svg", ".pdf", ".txt", ".md", ".yaml", ".yml", ".tex", ".log", ".ipynb")
_ARROW, _NPZ, _NPY, _PNG = (".arrow", ".feather"), ".npz", ".npy", ".png"
_QUOTED = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
_BETWEEN_TAGS = re.compile(r">([^<>]+)<")
_WORD = re.compile(r"[^\s\"'<>,;()\[\]{}=|\\]+")
NUMBER = re.compile(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_LARGEST = 1 << 30  # bytes of a text that is looked into


@dataclass
class Marks:
    """What to look for: ids in clear, as far as stores and indexes still know them, and the hashes of all.

    Attributes:
        known: of whom.
    """

    known: Known
    _cells: dict[str, bool] = field(default_factory=dict)

    def is_case(self, patient: str, image_id: str) -> bool:
        """Whether a row that says whose image it is speaks of somebody that is meant."""
        return self.known.forgotten.covers(patient, image_id)

    def is_id(self, text: str) -> bool:
        """Whether a text that is an id is one that is meant."""
        forgotten = self.known.forgotten
        return bool(text) and (text in self._ids or forgotten.has_patient(text) or forgotten.has_image("", text))

    def is_name(self, text: str) -> bool:
        """Whether a text, whatever it may be, is an id or a digest that is meant, letter for letter."""
        if text not in self._cells:
            self._cells[text] = self._is_name(text)
        return self._cells[text]

    def _is_name(self, text: str) -> bool:
        if _DIGEST.fullmatch(text) and self.known.forgotten.has_content(bytes.fromhex(text)):
            return True
        # Of what looks like a number, whole ones alone are looked up as ids: scores are many.
        return distinguishable(text) and (text.isdecimal() or not NUMBER.fullmatch(text)) and self.is_id(text)

    def count_in(self, text: str, raw: bytes = b"") -> int:
        """How many different names a text mentions; `raw` is searched for digests as they are."""
        names = {name for name in set(_names_in(text)) if self.is_name(name)}
        if self._pattern is not None:
            names |= {match[0] for match in self._pattern.finditer(text)}
        names |= {content.hex() for content in self.known.contents if content in raw}
        return len(names)

    def is_named(self, path: Path) -> bool:
        """Whether a file is named after an image or a patient."""
        stem = path.name.split(".", 1)[0]
        whole = path.as_posix().rsplit(".", 1)[0]
        return self.is_name(stem) or any("/" in own and whole.endswith(f"/{own}") for own in self._ids)

    @cached_property
    def _ids(self) -> set[str]:
        return self.known.patients | self.known.images

    @cached_property
    def _pattern(self) -> re.Pattern[str] | None:
        """Any of the ids where no longer word holds it."""
        ids = {each for own in self._ids if distinguishable(own) for each in spellings(own)}
        ids |= {html.escape(own) for own in ids} | {json.dumps(own)[1:-1] for own in ids}
        if not ids:
            return None
        words = "|".join(map(re.escape, sorted(ids, key=len, reverse=True)))
        return re.compile(rf"(?<![\w-])(?:{words})(?![\w-])")


def distinguishable(name: str) -> bool:
    """Whether a name is distinguishable from a number or a letter that means something else."""
    return len(name) > 4 or (len(name) > 1 and not name.isdecimal())


def kind_of(path: Path) -> str:
    """`table`, `text`, `arrays` or `picture`, by its suffix; blank for what is not looked into."""
    name = path.name.lower()
    if name.endswith(TABLES):
        return "table"
    if name.endswith((_NPZ, _NPY, *_ARROW)):
        return "arrays"
    if name.endswith(_PNG):
        return "picture"
    return "text" if name.removesuffix(".gz").endswith(_TEXT) else ""


def count_mentions(path: Path, marks: Marks) -> int:
    """How many different names a file that is not a table mentions.

    Raises:
        CxrEmbedError: where it cannot be looked into.
    """
    kind = kind_of(path)
    try:
        if kind == "text":
            with gzip.open(path) if path.suffix.lower() == ".gz" else open(path, "rb") as file:
                data = file.read(_LARGEST + 1)
            if len(data) > _LARGEST:
                raise CxrEmbedError(f"{path}: too large to be looked into")
            return marks.count_in(data.decode(errors="replace"), data)
        if kind == "picture":
            return marks.count_in("\n".join(_texts_of_picture(path)))
        if kind == "arrays":
            return len({name for name in set(_names_of_arrays(path)) if marks.is_id(name) or marks.is_name(name)})
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, RuntimeError, *ODD_HEADER, pa.ArrowException) as error:
        raise CxrEmbedError(f"{path}: cannot be looked into ({type(error).__name__})") from None
    return 0


def _texts_of_picture(path: Path) -> list[str]:
    """The texts in a picture's metadata; none of what is not a picture, or too large to be a montage of ours."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings(action="ignore"), Image.open(path) as picture:
            return [str(value) for value in picture.info.values() if isinstance(value, str)]
    except (UnidentifiedImageError, Image.DecompressionBombError):
        return []


def _names_in(text: str) -> Iterator[str]:
    """What may be a name in a text: quoted, between tags, or a word."""
    for quoted in _QUOTED.findall(text):
        try:
            yield json.loads(f'"{quoted}"')
        except ValueError:
            yield quoted
    for between in _BETWEEN_TAGS.findall(text):
        yield html.unescape(between).strip()
    for word in _WORD.findall(text):
        yield word
        yield html.unescape(word).strip(".:")


def _names_of_arrays(path: Path) -> Iterator[str]:
    """Keys and texts of an archive, an array or an Arrow file."""
    suffix = path.suffix.lower()
    if suffix in _ARROW:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        table.validate(full=True)
        for column in table.columns:
            if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type):
                yield from (str(value) for value in column.to_pylist() if value is not None)
            elif pa.types.is_fixed_size_binary(column.type):
                yield from (value.hex() for value in column.to_pylist() if value is not None)
        return
    if suffix == _NPY:
        with open(path, "rb") as file:
            yield from _texts_of(file)
        return
    with zipfile.ZipFile(path) as archive:
        for member in archive.namelist():
            yield member.removesuffix(".npy")
            with archive.open(member) as packed:
                yield from _texts_of(packed)


def _texts_of(file: object) -> Iterator[str]:
    """The texts of an `.npy` array; nothing of numbers, which are not read."""
    version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)  # type: ignore[arg-type]
    if dtype.kind in "US":
        data = file.read(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)  # type: ignore[attr-defined]
        values = np.frombuffer(data, dtype)
        yield from (value.decode(errors="replace") if dtype.kind == "S" else str(value) for value in values.tolist())
