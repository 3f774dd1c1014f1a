"""The files of a public data set's tables, row by row: CSV, JSON, COCO, XML, text."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa

from cxr_embed.datasets.recipe_parts import TableFile
from cxr_embed.manifest.rows import NotATable, csv_lines

FILE = "@file"  # a column that every table has: the name of the file that the row is in
KEY = "@key"  # of JSON whose rows are a mapping: their keys; of a text or an XML file: its name without the suffix
_LARGEST_CELL = 1 << 16  # characters of a written list
_LARGEST_TEXT = 64 << 20  # bytes of a JSON, XML or text file, but for COCO's and other lists
_LARGEST_JSON = 1 << 30


def records(path: Path, spec: TableFile, wanted: set[str]) -> Iterator[dict[str, str]]:
    """The rows of a file, of the columns that are wanted and that it has.

    Raises:
        NotATable, OSError, UnicodeDecodeError, csv.Error, pa.ArrowException, ValueError: where it is no such table.
    """
    for record in _records(path, spec, wanted):
        yield {**record, FILE: path.name} if FILE in wanted else record


def _records(path: Path, spec: TableFile, wanted: set[str]) -> Iterator[dict[str, str]]:
    match spec.format:
        case "csv":
            return _csv(path, spec, wanted)
        case "json":
            return _json(path, spec, wanted)
        case "coco":
            return _coco(path)
        case "xml":
            return _xml(path, spec)
        case "text":
            return iter([{**_matched(spec, _read_text(path)), KEY: path.name.split(".")[0]}])
        case "lines":
            return (
                _matched(spec, line) for each in io.StringIO(_read_text(path), newline=None) if (line := each.strip())
            )


def header_of(path: Path, spec: TableFile | None = None) -> list[str]:
    """The columns of a CSV, by its first line, or as a recipe calls them; none of an empty file.

    Raises:
        As `records`.
    """
    with csv_lines(path) as (lines, delimiter):
        separator = (spec and spec.separator) or delimiter
        return _header(csv.reader(lines, delimiter=separator, skipinitialspace=separator == " "), spec)


def _header(reader: Iterator[list[str]], spec: TableFile | None) -> list[str]:
    """The columns' names; takes the first row where it has them."""
    header = (spec and spec.header) or [name.strip() for name in next(reader, [])]
    return [spec.rename.get(name, name) for name in header] if spec else header


def _csv(path: Path, spec: TableFile, wanted: set[str]) -> Iterator[dict[str, str]]:
    with csv_lines(path) as (lines, delimiter):
        sign = spec.separator or delimiter
        reader = csv.reader(lines, delimiter=sign, skipinitialspace=sign == " ")
        header = _header(reader, spec)
        places = [(number, name) for number, name in enumerate(header) if name in wanted]
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if not spec.header:  # where the recipe names the columns, it knows of rows that have fewer
                _check_width(row, header, max((number + 1 for number, _ in places), default=0), reader.line_num)
            yield {name: row[number].strip() if number < len(row) else "" for number, name in places}


def _check_width(row: list[str], header: list[str], needed: int, line: int) -> None:
    """Refuses a row that was cut off, or that has a comma too many: its cells would be another column's, or blank."""
    if len(row) < needed or any(cell.strip() for cell in row[len(header) :]):
        why = "a download that broke off?" if len(row) < needed else "a separator in a cell without quotes?"
        raise NotATable(f"line {line} has another number of values ({len(row)}) than the header ({len(header)}): {why}")


def _read_text(path: Path, limit: int = _LARGEST_TEXT) -> str:
    with pa.input_stream(str(path), compression="detect") as raw:
        data = raw.read(limit + 1)
    if len(data) > limit:
        raise NotATable(f"larger than {limit >> 20} MiB")
    try:
        return bytes(data).decode("utf-8-sig")
    except UnicodeDecodeError:
        return bytes(data).decode("cp1252", "replace")  # what older data sets are written in


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value.strip() if isinstance(value, str) else json.dumps(value)


def _loaded(path: Path) -> Any:
    try:
        return json.loads(_read_text(path, _LARGEST_JSON))
    except RecursionError:
        raise NotATable("JSON that is nested too deeply") from None


def _json(path: Path, spec: TableFile, wanted: set[str]) -> Iterator[dict[str, str]]:
    value = _loaded(path)
    for part in filter(None, spec.rows.strip("./").split(".")):
        value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, dict):
        value = [{KEY: key, **row} for key, row in value.items() if isinstance(row, dict)]
    if not isinstance(value, list):
        raise NotATable(f"no list of rows at {spec.rows or 'the top'}")
    for row in value:
        if not isinstance(row, dict):
            raise NotATable("a row that is no mapping")
        yield {name: _cell(row[name]) for name in wanted if name in row}


def _coco(path: Path) -> Iterator[dict[str, str]]:
    """Images with a row for each annotation, or one without: `file_name`, `category`, `x`, `y`, `width`, `height`."""
    value = _loaded(path)
    if not isinstance(value, dict) or not isinstance(value.get("images"), list):
        raise NotATable("no COCO file: it has no list of images")
    try:
        names = {category["id"]: str(category["name"]) for category in value.get("categories", [])}
        found: dict[Any, list[dict[str, Any]]] = {}
        for annotation in value.get("annotations", []):
            found.setdefault(annotation["image_id"], []).append(annotation)
        for image in value["images"]:
            name = str(image["file_name"])
            annotations = found.get(image["id"], [])
            for annotation in annotations:
                box = zip(("x", "y", "width", "height"), map(_cell, annotation["bbox"]), strict=True)
                yield {"file_name": name, "category": names[annotation["category_id"]], **dict(box)}
            if not annotations:
                yield {"file_name": name, "category": "", "x": "", "y": "", "width": "", "height": ""}
    except (KeyError, TypeError, ValueError) as error:
        raise NotATable(f"no COCO file ({type(error).__name__}: {error})") from None


def _xml(path: Path, spec: TableFile) -> Iterator[dict[str, str]]:
    text = _read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise NotATable("an XML file with a document type or entities of its own, which are not read")
    try:
        # No entity is left that could grow, and nothing outside the file is opened.
        document = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise NotATable(f"not XML: {error}") from None
    for element in document.iterfind(spec.rows) if spec.rows else [document]:
        row = {name: _texts(element, document, where) for name, where in spec.fields.items()}
        yield {**row, KEY: path.name.split(".")[0]}


def _texts(element: ElementTree.Element, document: ElementTree.Element, where: str) -> str:
    """The texts at a path, or the attribute that `@name` at its end says; several are joined by `|`."""
    if where.startswith("/"):
        element, where = document, "." + where
    # The last part alone: `image[@id='1']` is a condition.
    folder, _, last = where.rpartition("/")
    place, attribute = (folder, last[1:]) if last.startswith("@") else (where, "")
    place = place or "."
    found = [element] if place == "." else element.findall(place)
    texts = [(each.get(attribute, "") if attribute else "".join(each.itertext())) for each in found]
    return "|".join(text for each in texts if (text := " ".join(each.split())))


def _matched(spec: TableFile, text: str) -> dict[str, str]:
    found = ((name, re.search(pattern, text)) for name, pattern in spec.fields.items())
    return {name: (match[1] or "").strip() if match else "" for name, match in found}


def written_list(cell: str) -> list[str]:
    """The items of a list that is written as Python or JSON has it, nested lists as text; blank is no item.

    Raises:
        ValueError: where it is none.
    """
    if not cell:
        return []
    if len(cell) > _LARGEST_CELL:
        raise ValueError("a list of more than 65,536 characters")
    try:
        value = json.loads(cell)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError, TypeError):
            raise ValueError(f"not a list: {cell[:60]!r}") from None
    if isinstance(value, float) and value != value:
        return []  # what pandas writes for a blank
    if not isinstance(value, (list, tuple)):
        raise ValueError(f"not a list: {cell[:60]!r}")
    return [_cell(item) for item in value]


def transposed(columns: Iterable[list[str]]) -> Iterator[tuple[str, ...]]:
    """The rows of columns of lists; a shorter list gives blanks."""
    return zip_longest(*columns, fillvalue="")
