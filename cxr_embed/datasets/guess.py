"""Which public data set a folder or a table is of, by its files and columns."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from itertools import islice
from pathlib import Path

import pyarrow as pa

from cxr_embed.datasets.recipe import Recipe, load_recipe, recipe_names
from cxr_embed.datasets.recipe_parts import TableFile
from cxr_embed.datasets.table_formats import FILE, KEY, header_of, records
from cxr_embed.datasets.tables import table_files
from cxr_embed.manifest import REQUIRED
from cxr_embed.manifest.rows import NotATable

_NEAR = 50  # folders that are looked into around one
_SURE = 3  # columns of a table that no other data set's has, where its file has another name


@dataclass(frozen=True)
class Guess:
    """A data set that a folder seems to be.

    Attributes:
        recipe: its recipe.
        files: by which it is known, relative to the folder.
    """

    recipe: Recipe
    files: tuple[str, ...]


def guess_recipe(root: Path) -> Guess | None:
    """The data set that a folder is, by its tables and by files that the recipe names; None where it is none of them.

    The recipe with the most of its own files there is taken, and of those that are equal the one with fewest missing.
    """
    found = [(own, -missing, recipe) for recipe in known_recipes() for own, missing in [_files_of(root, recipe)] if own]
    if not found:
        return None
    own, _, recipe = max(found, key=lambda each: (len(each[0]), each[1]))
    return Guess(recipe, tuple(own))


def guess_near(root: Path, wanted: str | None = None) -> tuple[Path, Guess] | None:
    """A folder one or two levels below or above that has the tables of a data set; None where there is none.

    Args:
        root: a folder that is not known itself.
        wanted: the recipe of the data set; any by default.
    """
    around = [(folder, False) for folder in islice(_below(root), _NEAR)]
    around += [(folder, True) for folder in list(root.resolve().parents)[:2]]
    for folder, above in around:
        guess = guess_recipe(folder)
        if guess is not None and wanted in (None, guess.recipe.name) and _has_list(folder, guess.recipe, above):
            return folder, guess
    return None


def _has_list(folder: Path, recipe: Recipe, above: bool) -> bool:
    """Whether a folder has a recipe's first table: one of images alone is known too, and is not where the tables are.

    Args:
        folder: that was guessed.
        recipe: of the guess.
        above: whether tables in any folder below it do not count: they may be a neighbour's.
    """
    first = next(iter(recipe.tables.values()), None)
    if first is None:
        return True
    files = [pattern for pattern in first.files if not (above and pattern.startswith("*"))]
    return bool(table_files(folder, first.model_copy(update={"files": files})))


def _below(root: Path) -> Iterator[Path]:
    """The folders below, and then those below them, without hidden ones."""
    level = [root]
    for _ in range(2):
        level = [folder for above in level for folder in _subfolders(above)]
        yield from level


def _subfolders(folder: Path) -> list[Path]:
    try:
        found = sorted(Path(entry) for entry in os.scandir(folder) if not entry.name.startswith(".") and entry.is_dir())
    except OSError:
        return []
    return found[:_NEAR]


def _files_of(root: Path, recipe: Recipe) -> tuple[list[str], int]:
    """The files of a recipe's tables that are there and have its columns, and how many of its tables are missing."""
    own: list[str] = []
    missing = 0
    for name, table in recipe.tables.items():
        files = table_files(root, table)
        fits = [file for file in files if _fits(root / file, table, _columns(recipe, name))]
        own += fits[:5]
        missing += not fits and not table.optional
    for pattern in recipe.recognise:
        own += [path.relative_to(root).as_posix() for path in _first(root, pattern)]
    return own, missing


def _first(root: Path, pattern: str) -> Iterator[Path]:
    """The first file of a glob, if there is one: a data set may have very many."""
    if (path := next(iter(root.glob(pattern)), None)) is not None:
        yield path


def _fits(path: Path, table: TableFile, columns: Sequence[Sequence[str]]) -> bool:
    """Whether a file has the columns that a recipe reads there, of a CSV that names them, or lines as it reads them."""
    if table.format == "lines":
        return _has_lines(path, table)
    if table.format != "csv" or table.header:
        return True
    try:
        header = set(header_of(path, table))
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException, NotATable):
        return False
    return table.key.column in header and any(header.intersection(names) for names in columns)


def _has_lines(path: Path, table: TableFile) -> bool:
    """Whether one of a file's first lines names an image as the table's do: many files are called train.txt."""
    try:
        return any(line[table.key.column] for line in islice(records(path, table, set()), _SURE))
    except (OSError, UnicodeDecodeError, pa.ArrowException, NotATable):
        return False


def _columns(recipe: Recipe, table: str) -> list[list[str]]:
    """Names of columns that a recipe reads, or may read, in a table; not its key alone, nor what every table has."""
    labels = [pair for source in recipe.labels.values() for pair in source.used()]
    pairs = [*recipe.always_used(), *labels, *(pair for boxes in recipe.boxes or [] for pair in boxes.used())]
    return [names for name, names in pairs if name in (None, table) and not {FILE, KEY}.intersection(names)]


def which_recipe(columns: Sequence[str], file_name: str) -> str | None:
    """The recipe whose data set a table comes from; None where it is of none.

    Args:
        columns: of the table.
        file_name: its name, without folders.
    """
    best: tuple[int, str] | None = None
    if set(REQUIRED) <= set(columns):
        return None  # a manifest, whatever its findings are called
    for recipe in known_recipes():
        for name, table in recipe.tables.items():
            there = {table.rename.get(column, column) for column in columns}
            if table.format != "csv" or table.header or table.key.column not in there:
                continue
            shared = sum(not there.isdisjoint(names) for names in _columns(recipe, name))
            named = any(fnmatchcase(file_name, pattern.rpartition("/")[2]) for pattern in table.files)
            if (named and shared) or shared >= _SURE:
                # Of equals the first, so that a sample's table is that of the whole.
                best = max(best or (0, ""), (shared + 100 * named, recipe.name), key=lambda each: each[0])
    return best[1] if best else None


@cache
def known_recipes() -> tuple[Recipe, ...]:
    """The recipes of public data sets that come with the package."""
    return tuple(recipe for name in recipe_names() if (recipe := load_recipe(name)).tables or recipe.recognise)
