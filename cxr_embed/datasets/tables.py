"""The tables that come with a public data set: found, read, and looked up by image, study or patient."""

from __future__ import annotations

import bisect
import csv
import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import pyarrow as pa

from cxr_embed.datasets.recipe import Recipe
from cxr_embed.datasets.recipe_parts import TableFile
from cxr_embed.datasets.table_formats import header_of, records
from cxr_embed.errors import ManifestError
from cxr_embed.manifest.rows import NotATable, reason
from cxr_embed.types import counted

_NAMED = 10  # problems that a message names


@dataclass(kw_only=True)
class DataTable:
    """One table: the columns that are used, and the rows of each key.

    Attributes:
        name: in the recipe.
        spec: what the recipe says of it.
        files: that it was read from, relative; none where an optional table is absent.
        columns: name to `N` cells.
        rows: key to its row, or its rows where they repeat.
    """

    name: str
    spec: TableFile
    files: list[str] = field(default_factory=list)
    columns: dict[str, list[str]] = field(default_factory=dict)
    rows: dict[str, int | list[int]] = field(default_factory=dict)
    _sorted: list[str] = field(default_factory=list)

    def of(self, key: str) -> Sequence[int]:
        """The rows of a key."""
        found = self.rows.get(key, ())
        return (found,) if isinstance(found, int) else found

    def nearest(self, key: str) -> str:
        """The key that is most like one that is not there; blank where the table has none."""
        self._sorted = self._sorted or sorted(self.rows)
        # A folder in front, or a suffix behind, is what keys differ in most often.
        last = _last(key)
        pool = list(islice((other for other in self._sorted if last and _last(other) == last), 50))
        if not pool:
            place = bisect.bisect(self._sorted, key)
            pool = self._sorted[max(place - 50, 0) : place + 50]
        near = difflib.get_close_matches(key, pool, 1, 0)
        return near[0] if near else ""


def _last(key: str) -> str:
    """A key without folders and suffix."""
    return key.rpartition("/")[2].partition(".")[0]


def read_tables(root: Path, recipe: Recipe, labels: str | None) -> dict[str, DataTable]:
    """The tables of a recipe, with the columns that it uses.

    Args:
        root: the data set's folder.
        recipe: says which.
        labels: the chosen labels: a table that only others need may be absent.

    Raises:
        ManifestError: where tables are missing, or are not as the recipe expects them.
    """
    tables = {
        name: DataTable(name=name, spec=spec, files=table_files(root, spec)) for name, spec in recipe.tables.items()
    }
    optional = _optional(recipe, labels)
    if missing := [table for table in tables.values() if not table.files and table.name not in optional]:
        raise ManifestError(_missing(root, recipe, missing, len(tables)), tuple(table.name for table in missing))
    used = recipe.used(labels)
    for table in tables.values():
        wanted = {name for where, names in used if where in (None, table.name) for name in names}
        _read(root, table, {*wanted, table.spec.key.column})
    problems = list(_lacking(tables, used))
    if problems:
        raise _not_as_expected(root, recipe, problems)
    for table in tables.values():
        if twice := _index(table):
            raise _not_as_expected(root / table.files[0], recipe, twice)
    return tables


def _optional(recipe: Recipe, labels: str | None) -> set[str]:
    """Tables that may be absent: those that are said to, and those of labels that are not taken."""
    needed = recipe.labels[labels].tables() if labels else set()
    needed |= {table for table, _ in recipe.always_used() if table}
    needed |= {next(iter(recipe.tables), "")}  # the list of the images
    of_labels = {table for source in recipe.labels.values() for table in source.tables()} - needed
    return of_labels | {name for name, table in recipe.tables.items() if table.optional}


def table_files(root: Path, spec: TableFile) -> list[str]:
    """The files of a table, relative to the data set's folder: of the first glob that matches, or of all."""
    found: list[str] = []
    for pattern in spec.files:
        if any(sign in pattern for sign in "*?["):
            paths = sorted(path for path in root.glob(pattern) if path.is_file())
        else:
            paths = [path for path in [root / pattern] if path.is_file()]
        found += [name for path in paths if (name := path.relative_to(root).as_posix()) not in found]
        if found and not spec.all:
            break
    return found


def _missing(root: Path, recipe: Recipe, missing: Sequence[DataTable], known: int) -> str:
    if known == 1:
        return f"{root}: no {' or '.join(missing[0].spec.files)} is there; {recipe.title} comes with it"
    named = "; ".join(f"{table.name}: {' or '.join(table.spec.files)}" for table in missing)
    verb = "is" if len(missing) == 1 else "are"
    return (
        f"{root}: {len(missing)} of the {known} tables of {recipe.title} {verb} missing ({named}); "
        "half a download, or another data set?"
    )


def _read(root: Path, table: DataTable, wanted: set[str]) -> None:
    """Reads a table's files into columns of cells, each different text once."""
    shared: dict[str, str] = {}
    for name in table.files:
        path = root / name
        try:
            before = len(next(iter(table.columns.values()), []))
            if table.spec.format == "csv":  # a table without rows has columns all the same
                header = header_of(path, table.spec)
                table.columns |= {column: [""] * before for column in header if column in wanted - table.columns.keys()}
            for count, record in enumerate(records(path, table.spec, wanted), before):
                for column, value in record.items():
                    if column not in table.columns:
                        table.columns[column] = [""] * count
                    table.columns[column].append(shared.setdefault(value, value))
                for column in table.columns.keys() - record.keys():
                    table.columns[column].append("")
        except OSError as error:
            raise ManifestError(f"{path}: cannot be read ({reason(error)})") from None
        except (UnicodeDecodeError, csv.Error, pa.ArrowException, NotATable, ValueError) as error:
            raise ManifestError(f"{path}: cannot be read as a table ({reason(error)})") from None


def _lacking(tables: Mapping[str, DataTable], used: Iterable[tuple[str | None, list[str]]]) -> Iterator[str]:
    """Columns that are read and that no table has."""
    present = [table for table in tables.values() if table.files]
    absent = len(present) < len(tables)
    lacking: dict[str, list[str]] = {}
    for table in present:
        if table.spec.key.column not in table.columns:
            lacking.setdefault(table.files[0], []).append(repr(table.spec.key.column))
    for name, names in used:
        where = [table for table in present if name in (None, table.name)]
        if not where or any(column in table.columns for table in where for column in names):
            continue
        if name is None and absent:
            continue  # it may be a column of an optional table that is not there
        files = " or ".join(file for table in where for file in table.files[:2])
        lacking.setdefault(files, []).append(" or ".join(map(repr, names)))
    for files, columns in lacking.items():
        yield f"no column {' and none '.join(dict.fromkeys(columns))} in {files}: another version?"


def _index(table: DataTable) -> list[str]:
    """Which rows a key has; the problems of keys that stand twice and do not agree."""
    if not table.files:
        return []
    keys = table.columns[table.spec.key.column]
    if table.spec.key.pattern:
        pattern = re.compile(table.spec.key.pattern)
        found = {key: match[1] if (match := pattern.fullmatch(key)) else "" for key in set(keys)}
        keys = [found[key] for key in keys]
    # Two names of one key, two views of a study say, are not two values; two files of a list are, where they say
    # something: of a split.
    columns = [cells for name, cells in table.columns.items() if name != table.spec.key.column]
    problems = []
    for row, key in enumerate(keys):
        if not key:
            continue
        first = table.rows.setdefault(key, row)
        if table.spec.repeats == "keep":
            if isinstance(first, list):
                first.append(row)
            elif first != row:
                table.rows[key] = [first, row]
        elif isinstance(first, int) and first != row and any(cells[first] != cells[row] for cells in columns):
            problems.append(f"{key} stands twice, with different values")
    return problems


def _not_as_expected(path: Path, recipe: Recipe, problems: Sequence[str]) -> ManifestError:
    shown = "".join(f"\n  {problem}" for problem in problems[:_NAMED])
    more = f"\n  and {len(problems) - _NAMED} more" if len(problems) > _NAMED else ""
    return ManifestError(f"{path}: not as the recipe {recipe.name} expects it{shown}{more}", tuple(problems))


def read_splits(root: Path, recipe: Recipe) -> dict[str, str]:
    """File name to split, of a recipe with lists of files.

    Raises:
        ManifestError: where a list is missing, or a file is in two.
    """
    splits: dict[str, str] = {}
    for split, name in recipe.split.items():
        try:
            lines = {line.strip() for line in (root / name).read_text(encoding="utf-8-sig").splitlines()} - {""}
        except FileNotFoundError:
            raise ManifestError(f"{root}: the list {name} is missing; {recipe.title} comes with it") from None
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ManifestError(f"{root / name}: cannot be read ({why})") from None
        names = {os.path.basename(line) for line in lines}
        if both := sorted(names & splits.keys()):
            raise ManifestError(
                f"{root / name}: {counted(len(both), 'of its files is', 'of its files are')} in another "
                f"list too, first {both[0]}"
            )
        splits.update(dict.fromkeys(names, split))
    return splits
