"""The order of columns that are kept as text, but hold numbers or days: a follow-up, a day offset, a date of birth."""

from __future__ import annotations

import datetime
import re
from typing import Any

import pyarrow as pa

from cxr_embed.errors import CaseIndexError

_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def ordered(name: str, column: Any) -> Any:
    """Dictionary-encoded text as float64 or date32, row by row, where every value is a number, or a date.

    Raises:
        CaseIndexError: naming a value that is neither.
    """
    known = column.dictionary.to_pylist()
    odd = [value for value in known if not _NUMBER.fullmatch(value)]
    if not odd:
        return pa.array(map(float, known), pa.float64()).take(column.indices)
    days = [_day(value) for value in known]
    if None not in days:
        return pa.array(days, pa.date32()).take(column.indices)
    raise CaseIndexError(
        f"`where`: {name} is text ({odd[0]!r} for one) and only numbers and dates (YYYY-MM-DD) have an order; "
        "use =, != or in"
    )


def _day(text: str) -> datetime.date | None:
    try:
        day = datetime.date.fromisoformat(text)
    except ValueError:
        return None
    return day if day.isoformat() == text else None
