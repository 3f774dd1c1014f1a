"""What a data set's tables say of one image: rows by its keys, and values of sources."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from cxr_embed.datasets.recipe import Recipe
from cxr_embed.datasets.recipe_parts import Source
from cxr_embed.datasets.tables import DataTable
from cxr_embed.manifest import CONTROL
from cxr_embed.manifest.patterns import match_bounded

Hide = Callable[[Source, str], str]
_YEAR = re.compile(r"\d{4}")


@dataclass
class ImageRows:
    """One image as the tables know it.

    Attributes:
        relative: its path below the data set's folder.
        tables: the data set's tables.
        header: fields of its DICOM header, by their names in a recipe.
        rows: table to its rows there.
        key: what the tables call it.
    """

    relative: str
    tables: Mapping[str, DataTable]
    header: Mapping[str, str] = field(default_factory=dict)
    rows: dict[str, Sequence[int]] = field(default_factory=dict)
    key: str = ""

    def look_up(self, recipe: Recipe) -> None:
        """Finds its rows: by image first, since a study's or a patient's id may stand there."""
        sources = recipe.keys.get("image")
        self.key = self.value(sources) if sources else self.relative.rpartition("/")[2]
        for by in ("image", "study", "patient"):
            chosen = [table for table in self.tables.values() if table.spec.by == by]
            if not chosen:
                continue
            key = self.key if by == "image" else self.value(recipe.keys[by])
            self.rows |= {table.name: table.of(key) for table in chosen}

    def value(self, sources: Iterable[Source], hide: Hide | None = None) -> str:
        """The first value of some sources that is not blank; `hide` makes of it what may be shown."""
        return next((value for source in sources if (value := self._one(source, hide))), "")

    def _one(self, source: Source, hide: Hide | None) -> str:
        if source.path is not None:
            value = group(source.path, self.relative)
        elif source.dicom is not None:
            value = self.header.get(source.dicom, "")
        else:
            value = self.first(source.table or [], source.in_)
        value = mapped(value, source.map)
        if source.years_since:
            value = years_between(self.first(source.years_since, source.in_), value)
        if source.number is not None:
            value = group(source.number, value)
        value = " ".join(CONTROL.sub(" ", value).split())
        if not value:
            return ""
        return source.prefix + (hide(source, value) if hide is not None else value)

    def first(self, names: Sequence[str], table: str | None) -> str:
        """The cell of the first of some columns, in the image's first row of the first table that has it."""
        return next(self.cells(names, table), "")

    def cells(self, names: Sequence[str], table: str | None) -> Iterator[str]:
        """The cells of a column in the image's rows of the first table that has the column and any row of it."""
        for each in self.tables.values() if table is None else (self.tables[table],):
            column = next((each.columns[name] for name in names if name in each.columns), None)
            if column is not None and (rows := self.rows.get(each.name, ())):
                yield from (column[row] for row in rows)
                return


def mapped(value: str, cells: Mapping[str, str]) -> str:
    """A cell as a recipe's map has it; `*` stands for every other that is not blank."""
    if not cells:
        return value
    return cells.get(value, cells.get("*", value) if value else value)


def years_between(since: str, until: str) -> str:
    """Whole years from one year or date to another; blank where either is missing."""
    years = [_YEAR.match(text.strip()) for text in (since, until)]
    if years[0] is None or years[1] is None:
        return ""
    difference = int(years[1][0]) - int(years[0][0])
    return str(difference) if 0 <= difference <= 130 else ""


@lru_cache(1 << 12)  # few ages are different
def group(pattern: str, text: str) -> str:
    """The first group of a pattern that matches a whole text; blank where it does not."""
    match = match_bounded(re.compile(pattern), text, whole=True)
    return str(match[1] or "") if match else ""
