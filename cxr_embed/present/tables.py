"""Tables as cells of text, and how they look as Markdown, CSV and HTML."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

INTERVAL = "95% interval"
_FORMULA = frozenset("=+-@\t\r\n")  # what a formula begins with
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Cells for people.

    Attributes:
        title: what the rows are.
        heads: of the columns; a head `95% interval` belongs to the column before.
        rows: as many cells each; the first one names the row.
        words: places of the columns that are words; the others are numbers.
        groups: heads above the heads, each with how many columns it spans; none where empty.
        total: whether the last row sums up the others.
        notes: what the cells leave out.
    """

    title: str = ""
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[int] = (0,)
    groups: Sequence[tuple[str, int]] = ()
    total: bool = False
    notes: Sequence[str] = ()


def beside(left: Table, right: Table) -> Table:
    """One table of two whose rows are the same; the left one may have more of them, a mean say."""
    rows = [*right.rows, *[[""] * len(right.heads)] * (len(left.rows) - len(right.rows))]
    return Table(
        heads=[*left.heads, *right.heads[1:]],
        rows=[[*row, *more[1:]] for row, more in zip(left.rows, rows, strict=True)],
        words=left.words,
    )


def markdown_text(text: str) -> str:
    """Text as Markdown shows it: no emphasis, no link, no tag and no column of its own."""
    plain = re.sub(r"\s+", " ", text)
    return "".join(f"\\{letter}" if letter in "\\`*_|<>[]#&" else letter for letter in plain)


def markdown_table(table: Table) -> list[str]:
    """The lines of a table with its title and notes; numbers stand to the right."""
    above = [title for title, span in table.groups for _ in range(span)] or [""] * len(table.heads)
    plain = table.heads if any(table.heads) else ("fact", "value")
    heads = [f"{title}: {head}" if title else head for title, head in zip(above, plain, strict=True)]
    marks = ["---" if n in table.words or head.endswith(INTERVAL) else "---:" for n, head in enumerate(heads)]
    lines = [f"**{markdown_text(table.title)}**", ""] if table.title else []
    lines += [_markdown_row(heads), "|" + "|".join(marks) + "|", *map(_markdown_row, table.rows)]
    return lines + (["", *(f"- {markdown_text(note)}" for note in table.notes)] if table.notes else [])


def _markdown_row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(map(markdown_text, cells)) + " |"


def plain_cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula, for tables that people open; numbers stay as they are."""
    text = value if isinstance(value, str) else ""
    return "'" + text if text[:1] in _FORMULA and not _NUMBER.fullmatch(text) else value


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A table that people open in a spreadsheet, blank where a row has no value, and without what is not a column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(map(plain_cell, columns))
    writer.writerows([plain_cell(row.get(name)) for name in columns] for row in rows)
    return file.getvalue()


def html_table(heads: Sequence[str], rows: Sequence[Sequence[Any]], remarks: Sequence[str]) -> str:
    """A table of values with sentences below it; all text is escaped."""
    above = "".join(f"<th>{html.escape(str(head))}</th>" for head in heads)
    body = "".join("<tr>" + "".join(map(_html_cell, row)) + "</tr>" for row in rows)
    below = "".join(f"<p><small>{html.escape(remark)}</small></p>" for remark in remarks)
    return f"<table><thead><tr>{above}</tr></thead><tbody>{body}</tbody></table>{below}"


def _html_cell(value: Any) -> str:
    """A value as a cell; numbers stand to the right."""
    side = ' style="text-align: right"' if isinstance(value, int | float) else ""
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"<td{side}>{html.escape(text)}</td>"
