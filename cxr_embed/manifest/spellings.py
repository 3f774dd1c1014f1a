"""Other spellings of a value that can mean one thing only: yes for 1, female for F, NA for blank."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Sequence

import pyarrow as pa

from cxr_embed.manifest.checks import FINDING_VALUES
from cxr_embed.manifest.rows import Rows
from cxr_embed.types import age_in_years

_BLANK = frozenset(("na", "n/a", "nan", "null", "<na>"))
_FINDING = {"true": "1", "yes": "1", "false": "0", "no": "0"}
_SEX = {"m": "M", "male": "M", "f": "F", "female": "F", "o": "O", "other": "O"}
_NUMBER = re.compile(r"(-?1|-?0)\.0*")
_DIGITS = 20  # of a number that is looked at
_WHOLE = re.compile(r"([+-]?\d+)(\.0*)?", re.ASCII)


def plain_column(name: str) -> Callable[[str], str] | None:
    """What spells a known column's values plainly; None where they stay as they are."""
    return {"sex": _sex, "age": plain_age, "study_date": _day}.get(name)


def plain_values(rows: Rows, findings: Sequence[str]) -> Rows:
    """The same rows with findings, sex, age and study_date in the manifest's own spelling; what is unclear stays."""
    spellings = {name: plain_finding if name in findings else plain_column(name) for name in rows.table.column_names}
    columns = [
        _mapped(rows.table[name], spelling) if spelling is not None else rows.table[name]
        for name, spelling in spellings.items()
    ]
    return Rows(pa.table(columns, names=rows.table.column_names), rows.places, rows.unit)


def _mapped(column: pa.ChunkedArray, spelling: Callable[[str], str]) -> pa.ChunkedArray:
    """Each distinct value is looked at once."""
    table = {value: spelling(value) for value in column.unique().to_pylist()}
    if all(value == plain for value, plain in table.items()):
        return column
    return pa.chunked_array([pa.array([table[value] for value in column.to_pylist()], pa.string())])


def _known(value: str) -> str:
    return "" if value.lower() in _BLANK else value


def _day(value: str) -> str:
    """A date of eight digits with its hyphens; a number of days without a point or a plus."""
    if not (whole := _WHOLE.fullmatch(value)):
        return _known(value)
    digits = whole[1]
    if len(digits) == 8 and digits.isdigit():
        try:
            return datetime.date.fromisoformat(digits).isoformat()
        except ValueError:
            return value
    return str(int(digits)) if len(digits) <= _DIGITS else value


def plain_age(value: str) -> str:
    """An age as `48`: of 48, 048Y and 48.0; what is no such thing stays."""
    years = age_in_years(re.sub(r"(?<=[0-9])\.0+$", "", value))
    return str(years) if years is not None else _known(value)


def _sex(value: str) -> str:
    return _SEX.get(value.lower(), _known(value))


def plain_finding(value: str) -> str:
    """A finding as 1, 0, -1 or blank: of yes, True, 1.00; what is unclear stays."""
    if value in FINDING_VALUES:
        return value
    if _NUMBER.fullmatch(value):
        return str(int(float(value)))
    return _FINDING.get(value.lower(), _known(value))
