"""Neighbours as a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.case_table import AGE, DATE
from cxr_embed.io.files import written_aside
from cxr_embed.present.tables import csv_text

SUFFIXES = (".csv", ".parquet")


def shown_findings(case: Mapping[str, Any]) -> list[str]:
    """The findings that a case is known to show: columns of 1 that are neither its day nor its age."""
    return [name for name, value in case.items() if type(value) is int and value == 1 and name not in (DATE, AGE)]


def check_target(
    path: Path, suffixes: Sequence[str] = SUFFIXES, what: str = "neighbours are", option: str = "`out`"
) -> None:
    """Refuses a file that could not be written.

    Args:
        path: of the file.
        suffixes: that it may have.
        what: would be in it, for the message.
        option: that named it.

    Raises:
        CaseIndexError: for another suffix, a folder, or a place that is none.
    """
    if path.suffix.lower() not in suffixes or path.is_dir():
        raise CaseIndexError(f"{path}: {what} a file whose name ends in {' or '.join(suffixes)}")
    if not path.absolute().parent.is_dir():
        raise CaseIndexError(f"{path}: cannot be written ({path.parent} is not a folder); give another {option}")


def whole_ages(case: dict[str, Any]) -> dict[str, Any]:
    """The case with an age of whole years as 48, not 48.0; not for `describe_case`, to which a 1 is a finding."""
    age = case.get(AGE)
    return {**case, AGE: int(age)} if isinstance(age, float) and age.is_integer() else case


def write_neighbors(path: Path, neighbors: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """Writes one row a neighbour, nearest first, by atomic rename.

    Args:
        path: ends in .csv or .parquet.
        neighbors: column to value, None where it is unknown.
        columns: of the file, after `image_id` and `similarity`.

    Raises:
        CaseIndexError: where it cannot be written.
    """
    check_target(path)
    names = ["image_id", "similarity", *(name for name in columns if name not in ("image_id", "content"))]
    try:
        with written_aside(path) as partial:
            if path.suffix.lower() == ".parquet":
                table = pa.table({name: pa.array([case[name] for case in neighbors]) for name in names})
                pa.parquet.write_table(table, partial)
            else:
                partial.write_text(csv_text(names, map(whole_ages, neighbors)), encoding="utf-8", newline="")
    except OSError as error:
        raise CaseIndexError(f"{path}: cannot be written ({error.strerror or error}); give another `out`") from None
