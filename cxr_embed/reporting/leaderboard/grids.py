"""Tables whose cells know their interval, their mark and what they sort by; for the page, Markdown and LaTeX alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from cxr_embed.present.numbers import PAGE, Spelling, digits_for
from cxr_embed.present.tables import Table
from cxr_embed.reporting.leaderboard.records import DONE, FAILED, Row
from cxr_embed.reporting.leaderboard.verdicts import SIGNS, Verdict


@dataclass(frozen=True, kw_only=True)
class Badge:
    """A word that an encoder's name must not go without.

    Attributes:
        kind: for its colour.
        text: the word.
        about: what it means here.
    """

    kind: Literal["saw", "stand-in", "random"]
    text: str
    about: str


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell.

    Attributes:
        text: what it says.
        small: its interval, or another remark.
        sort: what its column sorts by; None goes last.
        kind: a number stands to the right; `gap` where a figure is missing.
        mark: what the tests say of it.
        why: the reason for a gap.
        badges: of an encoder's name.
        link: of a report, relative.
    """

    text: str
    small: str = ""
    sort: float | None = None
    kind: Literal["words", "number", "gap"] = "words"
    mark: Verdict = ""
    why: str = ""
    badges: tuple[Badge, ...] = ()
    link: str = ""

    def plain(self, *, marked: bool = True) -> str:
        """All of it in a line."""
        text = f"{self.text} ({self.small})" if self.small and self.kind == "number" else self.text
        mark = {"best": " best"}.get(self.mark, f" {SIGNS[self.mark]}" if self.mark in SIGNS else "") if marked else ""
        badges = f" [{', '.join(badge.text for badge in self.badges)}]" if self.badges else ""
        return f"{text}{mark}{badges}"


@dataclass(frozen=True, kw_only=True)
class Grid:
    """A table of cells; the first of a row names it.

    Attributes:
        key: its address within the page.
        title: what it shows.
        heads: of the columns.
        above: heads above the heads, each with how many columns it spans; none where empty.
        rows: as many cells each.
        notes: below.
        folded: whether a reader opens it first.
    """

    key: str
    title: str
    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    above: tuple[tuple[str, int], ...] = ()
    notes: tuple[str, ...] = ()
    folded: bool = False

    @property
    def words(self) -> tuple[int, ...]:
        """Places of the columns that are words."""
        return tuple(n for n in range(len(self.heads)) if all(row[n].kind == "words" for row in self.rows))

    def table(self) -> Table:
        """The same in plain text."""
        rows = tuple(tuple(cell.plain() for cell in row) for row in self.rows)
        return Table(
            title=self.title, heads=self.heads, rows=rows, words=self.words, groups=self.above, notes=self.notes
        )


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """An encoder on a data set, with all that its name must not go without."""

    name: str
    badges: tuple[Badge, ...] = field(default=())

    def cell(self) -> Cell:
        """Its name."""
        return Cell(text=self.name, badges=self.badges)


def encoder_of(rows: Sequence[Row], name: str) -> Encoder:
    """An encoder, by its rows of a data set."""
    own = [row for row in rows if row.encoder == name]
    saw = dict.fromkeys(row.saw_data for row in own if row.saw_data)
    stands = dict.fromkeys(row.stand_in for row in own if row.stand_in)
    badges = [Badge(kind="saw", text="saw this data", about=words) for words in list(saw)[:1]]
    for words in list(stands)[:1]:
        random = "random" in f"{words} {name}".casefold()
        badges.append(
            Badge(kind="random", text="random weights", about=words)
            if random
            else Badge(kind="stand-in", text="stand-in", about=words)
        )
    return Encoder(name=name, badges=tuple(badges))


def figure_cell(row: Row | None, mark: Verdict = "", spelling: Spelling = PAGE) -> Cell:
    """A figure with its interval; a gap says why there is none."""
    if row is None:
        return Cell(text=spelling.none, kind="gap", why="not in the plan, or not measured")
    if row.status != DONE:
        return Cell(text=row.status if row.status == FAILED else "n/a", kind="gap", why=row.reason or row.status)
    if row.value is None:
        return Cell(text=spelling.none, kind="gap", why=row.reason or "not defined")
    digits = _digits(row)
    small = spelling.interval(row.low, row.high, digits, between=" to ")
    return Cell(text=spelling.number(row.value, digits), small=small, sort=row.value, kind="number", mark=mark)


def difference_cell(row: Row | None, spelling: Spelling = PAGE) -> Cell:
    """A difference from the reference with its interval."""
    if row is None or row.difference is None:
        return Cell(text=spelling.none, kind="gap", why="the reference" if row and row.encoder == row.reference else "")
    ends = (row.difference, row.difference_low, row.difference_high)
    digits = digits_for(ends)
    small = spelling.interval(row.difference_low, row.difference_high, digits, between=" to ", signed=True)
    return Cell(text=spelling.signed(row.difference, digits), small=small, sort=row.difference, kind="number")


def p_cell(value: float | None, spelling: Spelling = PAGE) -> Cell:
    """A p."""
    return number_cell(spelling.p(value), value)


def count_cell(value: int | None, spelling: Spelling = PAGE) -> Cell:
    """A count."""
    return number_cell(spelling.count(value), value)


def number_cell(text: str, value: float | None) -> Cell:
    """A number that is spelled already."""
    return Cell(text=text, sort=None if value is None else float(value), kind="gap" if value is None else "number")


def gap_row(rows: Sequence[Row]) -> Row | None:
    """The row that says why a cell has no figure; None where it was done."""
    missing = [row for row in rows if row.status != DONE]
    return next((row for row in missing if row.status == FAILED), missing[0] if missing else None)


def _digits(row: Row) -> int:
    if row.value is not None and row.figure == "images_per_second":
        return 0 if row.value >= 100 else 1 if row.value >= 10 else 2
    return digits_for((row.value, row.low, row.high))
