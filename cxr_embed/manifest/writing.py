"""Manifests that we write ourselves."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from cxr_embed.errors import ManifestError
from cxr_embed.io.files import written_aside
from cxr_embed.manifest.rows import read_rows, reason

_FORMULA = frozenset("=+-@\t\r\n")  # what a formula begins with
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def check_target(path: Path) -> None:
    """Refuses a file that `write_manifest` could not write.

    Raises:
        ManifestError: for another suffix than .csv or .parquet, or a folder.
    """
    if path.suffix.lower() not in (".csv", ".parquet") or os.path.isdir(path):
        raise ManifestError(f"{path}: a manifest is a file whose name ends in .csv or .parquet; give another `out`")


def check_overwrite(path: Path, columns: Sequence[str]) -> None:
    """Refuses to replace a table that holds more than the new one: labels or splits that someone added.

    Raises:
        ManifestError: naming the columns that would be lost.
    """
    if not path.exists():
        return
    lost = [name for name in read_rows(path)[0].table.column_names if name not in columns]
    if lost:
        raise ManifestError(
            f"{path}: not replaced, it has columns that would be lost ({', '.join(lost[:5])}); use `out`"
        )


def plain_cell(value: object) -> object:
    """A cell that no spreadsheet takes for a formula, for tables that people open; numbers stay as they are."""
    text = value if isinstance(value, str) else ""
    return "'" + text if text[:1] in _FORMULA and not _NUMBER.fullmatch(text) else value


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
        # Before Python 3.13 the writer leaves a lone \r without quotes, and it would read back as a new row.
        careful = any("\r" in value for values in columns.values() for value in values)
        with open(partial, "w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if careful else csv.QUOTE_MINIMAL)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
