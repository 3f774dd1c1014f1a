"""Rows of results: a figure of a finding, of an encoder on a data set in a task, beside the reference's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from cxr_embed.metrics import Estimate, holm

MEAN = "(mean)"
DONE, FAILED, NOT_APPLICABLE = "done", "failed", "not applicable"
SCHEMA = pa.schema(
    [
        ("data", pa.string()),
        ("encoder", pa.string()),
        ("task", pa.string()),
        ("output", pa.string()),
        ("finding", pa.string()),
        ("shots", pa.int64()),
        ("figure", pa.string()),
        ("value", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("n", pa.int64()),
        ("positives", pa.int64()),
        ("patients", pa.int64()),
        ("reference", pa.string()),
        ("difference", pa.float64()),
        ("difference_low", pa.float64()),
        ("difference_high", pa.float64()),
        ("p", pa.float64()),
        ("p_holm", pa.float64()),
        ("saw_data", pa.string()),
        ("stand_in", pa.string()),
        ("status", pa.string()),
        ("reason", pa.string()),
        ("report", pa.string()),
        ("fingerprint", pa.string()),
    ]
)
_WORDS = {name for name in SCHEMA.names if SCHEMA.field(name).type == pa.string()} - {"reference"}
Row = dict[str, Any]
Key = tuple[str, int | None, str]


def figure_row(
    finding: str,
    figure: str,
    estimate: Estimate,
    *,
    shots: int | None = None,
    n: int | None = None,
    positives: int | None = None,
    patients: int | None = None,
    output: str = "",
) -> Row:
    """A figure with its interval, or the reason why there is none."""
    return {
        "finding": finding,
        "figure": figure,
        "shots": shots,
        "value": _finite(estimate.value),
        "low": _finite(estimate.low),
        "high": _finite(estimate.high),
        "n": n,
        "positives": positives,
        "patients": patients,
        "reason": estimate.reason,
        "output": output,
    }


def difference_row(finding: str, figure: str, estimate: Estimate, p: float | None, shots: int | None = None) -> Row:
    """A figure minus the reference's, with its interval and test."""
    return {
        "finding": finding,
        "figure": figure,
        "shots": shots,
        "difference": _finite(estimate.value),
        "difference_low": _finite(estimate.low),
        "difference_high": _finite(estimate.high),
        "p": _finite(p),
    }


def key_of(row: Mapping[str, Any]) -> Key:
    """What a figure and its difference have in common."""
    return row["finding"], row["shots"], row["figure"]


def with_differences(rows: Iterable[Row], differences: Iterable[Row]) -> list[Row]:
    """The rows of a cell with the differences from the reference that are known."""
    known = {key_of(row): row for row in differences}
    return [{**row, **known.get(key_of(row), {})} for row in rows]


def corrected(rows: Sequence[Row]) -> list[Row]:
    """The rows with `p_holm`: over all comparisons of a data set and task, whichever encoder, finding and size."""
    families: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(rows):
        families.setdefault((row["data"], row["task"]), []).append(number)
    result = list(rows)
    for members in families.values():
        for number, p in zip(members, holm([rows[member].get("p") for member in members]), strict=True):
            result[number] = {**rows[number], "p_holm": p}
    return result


def as_table(rows: Sequence[Row]) -> pa.Table:
    """The results as a table; words that are not there are blank, numbers null."""
    columns = {
        name: pa.array(
            [("" if name in _WORDS else None) if row.get(name) is None else row[name] for row in rows],
            SCHEMA.field(name).type,
        )
        for name in SCHEMA.names
    }
    return pa.table(columns, schema=SCHEMA)


def _finite(value: float | None) -> float | None:
    return float(value) if value is not None and math.isfinite(value) else None
