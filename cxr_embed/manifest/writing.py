"""Manifests that we write ourselves."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from cxr_embed.errors import ManifestError
from cxr_embed.io.files import written_aside
from cxr_embed.manifest.rows import read_rows, reason

_FREE = "give another `out`, or remove the file first"


def check_target(path: Path) -> None:
    """Refuses a file that `write_manifest` could not write.

    Raises:
        ManifestError: for another suffix than .csv or .parquet, or a folder.
    """
    if path.suffix.lower() not in (".csv", ".parquet") or os.path.isdir(path):
        raise ManifestError(f"{path}: a manifest is a file whose name ends in .csv or .parquet; give another `out`")


def check_new(path: Path, names: Sequence[str]) -> None:
    """Refuses a file that `write_new_manifest` could not write, by its name or by what is there already.

    Args:
        path: to write.
        names: of the columns that are to be written.

    Raises:
        ManifestError: as `check_target`; for a file that is not a table, or one of other columns.
    """
    check_target(path)
    if (there := _table_of(path)) is None:
        return
    if there.column_names != list(names):
        more = [name for name in there.column_names if name not in names]
        raise _is_there(path, f"columns ({', '.join(more[:5])})" if more else "columns")


def write_new_manifest(path: Path, columns: dict[str, list[str]]) -> None:
    """Writes a manifest where there is none; one that says the same already stays as it is.

    Raises:
        ManifestError: where another file has its name, or it cannot be written.
    """
    check_new(path, list(columns))
    if (there := _table_of(path)) is None:
        write_manifest(path, columns)
    elif there.to_pydict() != columns:
        raise _is_there(path, "rows")


def _table_of(path: Path) -> pa.Table | None:
    """A file as text columns; None where there is none."""
    if not os.path.lexists(path):
        return None
    try:
        rows, problems = read_rows(path)
    except ManifestError as error:
        problems = list(error.problems)
    if problems:
        raise ManifestError(f"{path}: there already, and no manifest ({problems[0]}); {_FREE}")
    return rows.table


def _is_there(path: Path, what: str) -> ManifestError:
    return ManifestError(f"{path}: there already, with other {what} than this manifest has; {_FREE}")


def write_manifest(path: Path, columns: dict[str, list[str]]) -> None:
    """Writes a manifest as CSV or Parquet (by its suffix), by atomic rename.

    Raises:
        ManifestError: where it cannot be written.
    """
    check_target(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with written_aside(path) as partial:
            _write(partial, path.suffix.lower(), columns)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be written ({reason(error)}); give another `out`") from None


def _write(partial: Path, suffix: str, columns: dict[str, list[str]]) -> None:
    if suffix == ".parquet":
        table = pa.table({name: pa.array(v, pa.string()) for name, v in columns.items()})
        pa.parquet.write_table(table, partial, write_page_checksum=True)
    else:
        careful = any("\r" in value for values in columns.values() for value in values)
        write_csv(partial, list(columns), zip(*columns.values(), strict=True), careful=careful)


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[object]], *, careful: bool) -> None:
    """Writes a CSV that reads back as it is. Tables for spreadsheets are `present.tables.csv_text`.

    Args:
        path: of the file.
        names: of the columns.
        rows: their values.
        careful: whether a value may hold a carriage return.

    Raises:
        OSError: where it cannot be written.
    """
    # Before Python 3.13 the writer leaves a lone \r without quotes, and it would read back as a new row.
    with open(path, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if careful else csv.QUOTE_MINIMAL)
        writer.writerow(names)
        writer.writerows(rows)
