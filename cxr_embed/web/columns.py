"""Which columns of an index a page may show or filter by: no other value of a case leaves the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cxr_embed.index import CaseIndex
from cxr_embed.index.case_table import AGE, DATE, FINDING, IMAGE, LOOKS, PATIENT, TEXT
from cxr_embed.index.where import And, Condition, Not, Or, check_column, parse

# The nouns of a manifest that say nothing of who a person is; `patient_id` is hashed by `manifest scan`.
SHOWN = (IMAGE, PATIENT, DATE, "view", AGE, "sex", "split", "site", "source", LOOKS)
CHOSEN = ("view", "sex", "split", "site", "source")  # of few values: each is a box to tick
_MOST = 12  # boxes of a column
_MANY = 60  # findings that are offered


@dataclass(frozen=True)
class Choice:
    """A column of few values.

    Attributes:
        column: its name.
        values: each with its number of cases, the most frequent first.
    """

    column: str
    values: tuple[tuple[str, int], ...]


@dataclass(frozen=True, kw_only=True)
class Columns:
    """What may be shown of an index's cases.

    Attributes:
        names: of the columns, findings last.
        findings: those that are findings.
        choices: columns of few values.
        positives: finding to the number of cases that are known to show it, the most frequent first.
        ages: the youngest and the oldest; None where nobody's age is known.
        dates: the first and the last `study_date`, as text; None where none is known.
        counts_days: whether `study_date` is a number of days.
    """

    names: tuple[str, ...]
    findings: tuple[str, ...]
    choices: tuple[Choice, ...]
    positives: tuple[tuple[str, int], ...]
    ages: tuple[int, int] | None
    dates: tuple[str, str] | None
    counts_days: bool

    def of_case(self, case: Mapping[str, Any]) -> dict[str, Any]:
        """What may be shown of a case, and its similarity where it has one."""
        return {name: value for name, value in case.items() if name == "similarity" or name in self.names}

    def check(self, where: str) -> None:
        """Refuses a condition on another column: its answer would say what may not be shown.

        Raises:
            CaseIndexError: naming those that may be asked for; also for what is not a condition.
        """
        for name in _named(parse(where)):
            check_column(name, self.names)


def columns_of(index: CaseIndex) -> Columns:
    """Looks through an index's table, once."""
    table = index.table
    findings = tuple(field.name for field in table.schema if field.type == FINDING)
    known = tuple(name for name in SHOWN if name in table.column_names)
    dates = _range(table, DATE)
    ages = _range(table, AGE)
    positives = {name: int(pc.sum(table[name]).as_py() or 0) for name in findings}
    ranked = sorted(positives.items(), key=lambda pair: -pair[1])
    return Columns(
        names=(*known, *findings),
        findings=findings,
        choices=tuple(choice for name in CHOSEN if name in known and (choice := _choice(table, name)) is not None),
        positives=tuple((name, count) for name, count in ranked[:_MANY] if count),
        ages=(int(ages[0]), int(ages[1])) if ages is not None else None,
        dates=(str(dates[0]), str(dates[1])) if dates is not None else None,
        counts_days=DATE in known and table.schema.field(DATE).type == pa.int32(),
    )


def _choice(table: pa.Table, name: str) -> Choice | None:
    column = table[name].combine_chunks()
    if column.type != TEXT:
        return None
    counted = [(each["values"], each["counts"]) for each in pc.value_counts(column).to_pylist()]
    values = sorted(((str(value), count) for value, count in counted if value is not None), key=lambda pair: -pair[1])
    return Choice(name, tuple(values)) if 1 < len(values) <= _MOST else None


def _range(table: pa.Table, name: str) -> tuple[Any, Any] | None:
    if name not in table.column_names or table[name].type == TEXT:
        return None
    both = pc.min_max(table[name]).as_py()
    return (both["min"], both["max"]) if both["min"] is not None else None


def _named(condition: Condition) -> list[str]:
    """The columns that a condition asks for."""
    if isinstance(condition, And | Or):
        return [name for part in condition.parts for name in _named(part)]
    if isinstance(condition, Not):
        return _named(condition.part)
    return [condition.column]
