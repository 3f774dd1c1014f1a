"""Tables of all verbs, laid out for the terminal's width by one rule.

Numbers and ids are never broken or cut. Words wrap at spaces; what does not fit beside the other columns goes below, as
a table of its own with the same first column. A single word of more than `NAME` characters loses its middle, the last
thing of all, unless two names would then look the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rich.cells import cell_len, set_cell_size

from cxr_embed.present.tables import Table, beside

if TYPE_CHECKING:
    from rich.console import Console

NAME = 20  # characters of a word that are always shown
_GAP = 2  # between columns


@dataclass(frozen=True)
class Column:
    """A column of text cells.

    Attributes:
        head: above it.
        cells: one a row.
        kind: `number` (to the right, whole), `id` (to the left, whole) or `words` (to the left, may wrap).
    """

    head: str
    cells: Sequence[str]
    kind: Literal["number", "id", "words"] = "number"


def columns_of(table: Table) -> list[Column]:
    """The columns of a table."""
    cells = list(zip(*table.rows, strict=True)) or [()] * len(table.heads)
    return [Column(head, cells[n], "words" if n in table.words else "number") for n, head in enumerate(table.heads)]


def print_tables(screen: Console, tables: Sequence[Table], *, side_by_side: bool = False) -> None:
    """Prints tables with a blank line after each.

    Args:
        screen: to print to.
        tables: to print.
        side_by_side: whether their rows are the same: then they stand beside each other where the terminal is wide
            enough.
    """
    placed: list[Table] = []
    for table in tables:
        if side_by_side and placed:
            both = beside(placed[-1], table)
            if natural_width(columns_of(both)) <= screen.width:
                placed[-1] = both
                continue
        placed.append(table)
    for table in placed:
        print_columns(screen, columns_of(table))
        screen.print()


def print_columns(screen: Console, columns: Sequence[Column], spare: Sequence[str] = ()) -> list[str]:
    """Prints columns, in several tables one below the other where they have no room side by side.

    Args:
        screen: to print to.
        columns: the first one names the rows.
        spare: heads of columns to do without where there is no room, the first one first.

    Returns:
        The heads of the columns that were left out.
    """
    shown, left_out = list(columns), []
    for head in spare:
        if _least_together(shown) <= screen.width:
            break
        if any(column.head == head for column in shown):
            shown = [column for column in shown if column.head != head]
            left_out.append(head)
    for number, part in enumerate(_parts(shown, screen.width)):
        if number:
            screen.print()
        _print_part(screen, part)
    return left_out


def natural_width(columns: Sequence[Column]) -> int:
    """Characters of a line of the columns side by side, with nothing wrapped."""
    return _together(map(_natural, columns))


def print_facts(screen: Console, facts: Mapping[str, str] | Sequence[tuple[str, str]], width: int) -> None:
    """Prints a line a fact, its name `width` characters wide; a person's terminal wraps the fact beside its name."""
    from rich.table import Table

    pairs = list(facts.items() if isinstance(facts, Mapping) else facts)
    if not screen.is_terminal:
        for name, fact in pairs:
            screen.print(f"{name:<{width}} {fact}", soft_wrap=True)
        return
    table = Table.grid(padding=(0, 1, 0, 0), pad_edge=False)
    table.add_column(min_width=width, no_wrap=True)
    table.add_column(overflow="fold")
    for name, fact in pairs:
        table.add_row(name, fact)
    screen.print(table)


def print_sentence(screen: Console, title: str, sentence: str) -> None:
    """Prints a sentence under a title."""
    from rich.text import Text

    # Lines are broken for people only: a file or another program gets each sentence whole.
    screen.print(Text.assemble((f"{title}: ", "bold"), sentence), soft_wrap=not screen.is_terminal)


def _parts(columns: Sequence[Column], room: int) -> Iterator[list[Column]]:
    """Columns in their order, as many in each part as fit; every part begins with the first one."""
    first, *others = columns
    part = [first]
    for column in others:
        if len(part) > 1 and _least_together([*part, column]) > room:
            yield part
            part = [first]
        part.append(column)
    yield part


def _print_part(screen: Console, columns: Sequence[Column]) -> None:
    from rich.table import Table

    widths = _widths(columns, screen.width)
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, width in zip(columns, widths, strict=True):
        justify: Literal["left", "right"] = "right" if column.kind == "number" else "left"
        table.add_column(column.head, justify=justify, width=width, overflow="fold")
    for row in zip(*(_fitted(column, width) for column, width in zip(columns, widths, strict=True)), strict=True):
        table.add_row(*row)
    room = screen.width
    screen.width = max(room, _together(widths))  # a number or an id that is wider than the terminal stays whole
    screen.print(table)
    screen.width = room


def _widths(columns: Sequence[Column], room: int) -> list[int]:
    """A width for each column: its least one, then what is left over, words first."""
    widths = [_least(column) for column in columns]
    left = room - _together(widths)
    for place in sorted(range(len(columns)), key=lambda place: columns[place].kind != "words"):
        more = max(0, min(left, _natural(columns[place]) - widths[place]))
        widths[place] += more
        left -= more
    return widths


def _together(widths: Iterator[int] | Sequence[int]) -> int:
    found = list(widths)
    return sum(found) + _GAP * (len(found) - 1)


def _least_together(columns: Sequence[Column]) -> int:
    return _together(map(_least, columns))


def _natural(column: Column) -> int:
    return max(cell_len(line) for text in (column.head, *column.cells) for line in text.split("\n"))


def _least(column: Column) -> int:
    """Characters without which a number or an id would break, or a word would be cut too short."""
    head = max((cell_len(word) for word in column.head.split()), default=0)
    if column.kind != "words":
        return max(head, max(map(cell_len, column.cells), default=0))
    longest = max((cell_len(word) for cell in column.cells for word in cell.split()), default=0)
    least = max(head, min(longest, NAME))
    alike = len(set(_fitted(column, least))) < len(set(column.cells))
    return max(head, longest) if alike else least


def _fitted(column: Column, width: int) -> list[str]:
    """The cells, the middle taken out of each word that is too long for the width."""
    if column.kind != "words":
        return list(column.cells)
    return [" ".join(_cut(word, width) for word in cell.split(" ")) for cell in column.cells]


def _cut(word: str, width: int) -> str:
    if cell_len(word) <= width:
        return word
    end = (width - 1) // 2
    return f"{set_cell_size(word, width - 1 - end)}\N{HORIZONTAL ELLIPSIS}{set_cell_size(word[::-1], end)[::-1]}"
