"""Conditions of `where` in Milvus's language: what passes there is what passes here.

Milvus's null has changed its meaning from release to release (`not`, `not in` and rewritten `or` have let unknown
values pass), so nothing that we keep there is null: an unknown text or date is blank, an unknown number -1 (of days:
far below any), and every comparison says that its value is known. `not` is carried down to the comparisons, so that a
condition and its opposite both fail where a value is unknown, as SQL and `cxr_embed.index.where` have it.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from cxr_embed.index.case_table import DAYS, FINDING, TEXT
from cxr_embed.index.where import (
    And,
    Between,
    Compare,
    Condition,
    IsKnown,
    Not,
    OneOf,
    Op,
    Or,
    check_column,
    check_ordered,
    value_of,
)

KEY = "image_id"
ALL, NOTHING = f'{KEY} != ""', f'{KEY} == ""'
UNKNOWN_NUMBER = -1.0  # ages and findings are never negative
_FAR = 1e9  # nothing that we keep is larger; Milvus has no word for infinity
_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_OPPOSITE: dict[Op, Op] = {"=": "!=", "!=": "=", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}

_NO_DAYS = -1e8  # an unknown number of days, which may be negative
ColumnKind = Literal["text", "date", "days", "number", "finding", "bytes"]
_TYPES: dict[str, pa.DataType] = {
    "text": TEXT,
    "date": pa.date32(),
    "days": DAYS,
    "number": pa.float64(),
    "finding": FINDING,
}


@dataclass(frozen=True)
class Field:
    """Where Milvus keeps a column of the case table.

    Attributes:
        name: of the field.
        kind: of the column's values.
    """

    name: str
    kind: ColumnKind

    @property
    def numeric(self) -> bool:
        """Whether Milvus keeps numbers."""
        return self.kind in ("days", "number", "finding")

    @property
    def type(self) -> pa.DataType:
        """Of the column's values in the case table."""
        return _TYPES[self.kind]

    @property
    def _unknown(self) -> float:
        return _NO_DAYS if self.kind == "days" else UNKNOWN_NUMBER

    def known(self, wanted: bool = True) -> str:
        """The expression that the value is known, or that it is not."""
        if self.numeric:
            return f"{self.name} {'>' if wanted else '<='} {literal(self._unknown)}"
        return f'{self.name} {"!=" if wanted else "=="} ""'

    def encode(self, value: Any) -> str | float:
        """A value of the case table as Milvus keeps it."""
        if value is None:
            return self._unknown if self.numeric else ""
        if self.numeric:
            return float(value)
        if isinstance(value, bytes):
            return value.hex()
        return value.isoformat() if isinstance(value, datetime.date) else str(value)

    def decode(self, value: Any) -> str | float | bytes | None:
        """The inverse of `encode`, with dates as text and None for what is unknown."""
        if self.numeric:
            number = float(value)
            known = int(number) if self.kind in ("finding", "days") else number
            return None if number <= self._unknown else known
        return (bytes.fromhex(value) if self.kind == "bytes" else value) or None


def fields_of(schema: pa.Schema) -> dict[str, Field]:
    """The fields that hold the columns of a case table; names that Milvus does not allow are respelt."""
    kinds: dict[pa.DataType, ColumnKind] = {
        pa.date32(): "date",
        pa.float64(): "number",
        FINDING: "finding",
        DAYS: "days",
        pa.binary(32): "bytes",
    }
    fields: dict[str, Field] = {}
    for column in schema:
        name = spelt = "c_" + re.sub(r"[^A-Za-z0-9_]", "_", column.name)[:200]
        used = {field.name for field in fields.values()}
        number = 2
        while name in used:
            name, number = f"{spelt}_{number}", number + 1
        fields[column.name] = Field(KEY if column.name == KEY else name, kinds.get(column.type, "text"))
    return fields


def literal(value: str | float) -> str:
    """A text or number as Milvus reads it; no text can end its own quotes."""
    if isinstance(value, str):
        return f'"{value.translate(_ESCAPES)}"'
    return np.format_float_positional(min(max(value, -_FAR), _FAR), trim="0")


def among(field: str, values: Iterable[str | float]) -> str:
    """`field in [...]`."""
    listed = ", ".join(literal(value) for value in values)
    return f"{field} in [{listed}]" if listed else NOTHING


def no_one_of(field: str, values: Iterable[str | float]) -> str:
    """`field not in [...]`."""
    listed = ", ".join(literal(value) for value in values)
    return f"{field} not in [{listed}]" if listed else ALL


def both(*expressions: str) -> str:
    """All of some expressions; blank ones ask for nothing."""
    return " and ".join(f"({expression})" for expression in expressions if expression)


def expression(condition: Condition, fields: Mapping[str, Field]) -> str:
    """A condition as an expression that is true for the cases that are known to meet it, and false for all others.

    Args:
        condition: see `cxr_embed.index.where`.
        fields: column to field.

    Raises:
        CaseIndexError: for a column that is not there, or a value that is none of its type.
    """
    return _expression(condition, True, fields)


def _expression(condition: Condition, wanted: bool, fields: Mapping[str, Field]) -> str:
    """That the condition is known to be `wanted`."""
    if isinstance(condition, Not):
        return _expression(condition.part, not wanted, fields)
    if isinstance(condition, And | Or):
        join = " and " if isinstance(condition, And) == wanted else " or "
        return join.join(f"({_expression(part, wanted, fields)})" for part in condition.parts)
    field = fields[check_column(condition.column, list(fields))]
    if isinstance(condition, IsKnown):
        return field.known(wanted)
    if isinstance(condition, Between):
        low, high = Compare(condition.column, ">=", condition.low), Compare(condition.column, "<=", condition.high)
        return _expression(And((low, high)), wanted, fields)
    if isinstance(condition, OneOf):
        values = [_value(condition.column, field, value) for value in condition.values]
        return both(field.known(), (among if wanted else no_one_of)(field.name, values))
    return _comparison(condition, wanted, field)


def _comparison(condition: Compare, wanted: bool, field: Field) -> str:
    check_ordered(condition.column, condition.op, field.type)
    op = condition.op if wanted else _OPPOSITE[condition.op]
    value = literal(_value(condition.column, field, condition.value))
    return both(field.known(), f"{field.name} {'==' if op == '=' else op} {value}")


def _value(column: str, field: Field, value: str) -> str | float:
    return field.encode(value_of(column, value, field.type))
