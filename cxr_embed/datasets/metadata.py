"""The tables and lists that come with a public data set."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

from cxr_embed.datasets.recipe import Recipe
from cxr_embed.errors import ManifestError
from cxr_embed.manifest.rows import NotATable, csv_lines
from cxr_embed.types import counted


def read_table(root: Path, recipe: Recipe) -> dict[str, dict[str, str]]:
    """The columns of the data set's table that the recipe uses, by the name of the image's file.

    Raises:
        ManifestError: where the table is missing, or not as the recipe expects it.
    """
    if recipe.table is None:
        return {}
    path = next((root / name for name in recipe.table.files if (root / name).is_file()), None)
    if path is None:
        raise ManifestError(f"{root}: none of {', '.join(recipe.table.files)} is there; {recipe.title} comes with it")
    used = [[recipe.table.file_name], *(source.table for source in recipe.columns.values() if source.table)]
    used += [recipe.findings.table] if recipe.findings else []
    rows: dict[str, dict[str, str]] = {}
    twice: list[str] = []
    try:
        with csv_lines(path) as (lines, delimiter):
            reader = csv.DictReader(lines, restval="", delimiter=delimiter)
            header = set(reader.fieldnames or [])
            if lacking := [" or ".join(map(repr, names)) for names in used if not header & set(names)]:
                is_it = f"is this the table of {recipe.title}?"
                raise ManifestError(f"{path}: no column {' and none '.join(lacking)}; {is_it}", tuple(lacking))
            kept = header & {name for names in used for name in names}
            for line in reader:
                row = {name: line[name] for name in kept}
                if rows.setdefault(row[recipe.table.file_name], row) != row:
                    twice.append(row[recipe.table.file_name])
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error, pa.ArrowException, NotATable) as error:
        raise ManifestError(f"{path}: cannot be read as a table ({error})") from None
    problems = [f"{name} stands twice, with different values" for name in twice]
    if recipe.findings:
        # One table has few distinct cells, so this looks at each once.
        cells = {first_of(row, recipe.findings.table): row for row in rows.values()}
        unknown = {name for row in cells.values() for name in findings_of(row, recipe)} - set(recipe.findings.names)
        problems += [f"the recipe does not know the finding {name!r}" for name in sorted(unknown)]
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:10])
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ManifestError(f"{path}: not as the recipe {recipe.name} expects it{shown}{more}", tuple(problems))
    return rows


def read_splits(root: Path, recipe: Recipe) -> dict[str, str]:
    """File name to split.

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
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ManifestError(f"{root / name}: cannot be read ({reason})") from None
        if both := sorted(lines & splits.keys()):
            raise ManifestError(
                f"{root / name}: {counted(len(both), 'of its files is', 'of its files are')} in another "
                f"list too, first {both[0]}"
            )
        splits.update(dict.fromkeys(lines, split))
    return splits


def first_of(row: dict[str, str], names: Iterable[str]) -> str:
    """The value of the first of some columns that the row has; blank where it has none."""
    return next((row[name].strip() for name in names if name in row), "")


def findings_of(row: dict[str, str], recipe: Recipe) -> set[str]:
    """The findings that a row names."""
    assert recipe.findings
    cell = first_of(row, recipe.findings.table)
    return {name.strip() for name in cell.split(recipe.findings.separator)} - {""}
