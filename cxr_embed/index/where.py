"""The language of `where`: conditions on the columns of the case table.

    view = PA and age between 40 and 60
    not (Effusion = 1 or "No Finding" = 1) and site in (A, 'St. Mary')
    study_date >= 2018-06-30 and sex is known

A column that the manifest carries along has an order where all of its values are numbers, or all dates.
Names and words stand bare or in quotes (`'` or `"`, doubled inside). A value that is unknown (blank) is neither equal
nor unequal to anything: as in SQL, a case passes only where the condition is known to hold. `is known` asks for that.
"""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.case_table import CONTENT, DATE, DAYS, FINDING, TEXT
from cxr_embed.index.ordering import ordered
from cxr_embed.manifest import DAY_OFFSET

if TYPE_CHECKING:
    import lark

Op = Literal["=", "!=", "<", "<=", ">", ">="]
_LONGEST = 4000  # characters; deeper nesting than fits would overrun Python's stack
_NAMED = 5  # words of a column that a message names
_GRAMMAR = r"""
?start: either
?either: both (OR both)*
?both: negated (AND negated)*
?negated: NOT negated -> negation
        | "(" either ")"
        | word OP word -> compare
        | word BETWEEN word AND word -> between
        | word IN "(" word ("," word)* ")" -> one_of
        | word NOT IN "(" word ("," word)* ")" -> none_of
        | word IS KNOWN -> known
        | word IS NOT KNOWN -> unknown
word: QUOTED | BARE
OP: "<=" | ">=" | "!=" | "<>" | "==" | "=" | "<" | ">"
QUOTED: /'(?:[^']|'')*'|"(?:[^"]|"")*"/
BARE: /[^\s()<>=!,'"]+/
OR.2: /or(?![^\s()<>=!,'"])/i
AND.2: /and(?![^\s()<>=!,'"])/i
NOT.2: /not(?![^\s()<>=!,'"])/i
BETWEEN.2: /between(?![^\s()<>=!,'"])/i
IN.2: /in(?![^\s()<>=!,'"])/i
IS.2: /is(?![^\s()<>=!,'"])/i
KNOWN.2: /known(?![^\s()<>=!,'"])/i
%ignore /\s+/
"""


@dataclass(frozen=True)
class Compare:
    """`column op value`."""

    column: str
    op: Op
    value: str


@dataclass(frozen=True)
class Between:
    """`column between low and high`, both included."""

    column: str
    low: str
    high: str


@dataclass(frozen=True)
class OneOf:
    """`column in (a, b, ...)`."""

    column: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class IsKnown:
    """`column is known`."""

    column: str


@dataclass(frozen=True)
class And:
    """All of the parts."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Or:
    """Any of the parts."""

    parts: tuple[Condition, ...]


@dataclass(frozen=True)
class Not:
    """Not the part."""

    part: Condition


Condition = Compare | Between | OneOf | IsKnown | And | Or | Not


@lru_cache(maxsize=256)  # a page of cases reads its condition several times
def parse(text: str) -> Condition:
    """Reads a condition.

    Raises:
        CaseIndexError: showing where the text stops to be one.
    """
    import lark  # most of those who search give no condition

    if not text.strip():
        raise CaseIndexError("`where`: the condition is empty; e.g. `where` 'view = PA and age > 60'")
    if len(text) > _LONGEST:
        raise CaseIndexError(f"`where`: a condition of more than {_LONGEST} characters")
    try:
        return _build(_parser().parse(text))
    except (lark.UnexpectedToken, lark.UnexpectedCharacters) as error:
        if isinstance(error, lark.UnexpectedToken) and error.token.type == "$END":
            raise CaseIndexError(f"`where`: {text!r} stops too early; a condition is e.g. 'view = PA'") from None
        at = error.pos_in_stream or 0
        raise CaseIndexError(
            f"`where`: not understood from {text[at : at + 30]!r} on; conditions are e.g. 'view = PA', "
            "'age between 40 and 60', 'site in (A, B)', 'sex is known', joined by and, or, not"
        ) from None


@cache
def _parser() -> lark.Lark:
    import lark

    return lark.Lark(_GRAMMAR, parser="lalr")


def _word(tree: Any) -> str:
    token = tree.children[0]
    text = str(token)
    if token.type != "QUOTED":
        return text
    return text[1:-1].replace(text[0] * 2, text[0])


def _build(tree: Any) -> Condition:
    import lark

    kept = [child for child in tree.children if isinstance(child, lark.Tree)]
    if tree.data in ("either", "both"):
        parts = tuple(_build(child) for child in kept)
        return Or(parts) if tree.data == "either" else And(parts)
    if tree.data == "negation":
        return negation(_build(kept[0]))
    column, *values = (_word(child) for child in kept)
    if tree.data == "compare":
        op = str(next(child for child in tree.children if isinstance(child, lark.Token)))
        known: dict[str, Op] = {"==": "=", "<>": "!=", "=": "=", "!=": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
        return Compare(column, known[op], values[0])
    if tree.data == "between":
        return Between(column, values[0], values[1])
    if tree.data in ("known", "unknown"):
        return IsKnown(column) if tree.data == "known" else Not(IsKnown(column))
    return OneOf(column, tuple(values)) if tree.data == "one_of" else Not(OneOf(column, tuple(values)))


def negation(part: Condition) -> Condition:
    """The opposite; twice not is not nested, so that no text makes a tall tree of it."""
    return part.part if isinstance(part, Not) else Not(part)


def taken_before(date: str | int | datetime.date, kind: pa.DataType) -> Condition:
    """`study_date < date`, of a column of dates or of days.

    Raises:
        CaseIndexError: for a date that is none, or a number of days where there are dates, and the other way round.
    """
    text = date.isoformat() if isinstance(date, datetime.date) else str(date)
    if kind == DAYS:
        as_days(text, "`before`")
    else:
        as_date(text, "`before`")
    return Compare(DATE, "<", text)


def mask(condition: Condition, table: pa.Table) -> np.ndarray:
    """`(N,)` bool: the rows that are known to meet the condition.

    Raises:
        CaseIndexError: for a column that the table does not have, or a value that is none of its type.
    """
    matches = _evaluate(condition, table)
    return np.asarray(matches.fill_null(False)).astype(bool)


def absent_words(condition: Condition, table: pa.Table) -> tuple[str, ...]:
    """Sentences on what no case can have, words as `pa` where views are `PA` or an empty range: often a slip."""
    if isinstance(condition, And | Or):
        return tuple(dict.fromkeys(note for part in condition.parts for note in absent_words(part, table)))
    if isinstance(condition, Not):
        return absent_words(condition.part, table)
    if isinstance(condition, Between):
        column = table[condition.column].combine_chunks()
        kind = ordered(condition.column, column).type if column.type == TEXT else column.type
        if value_of(condition.column, condition.low, kind) <= value_of(condition.column, condition.high, kind):
            return ()
        return (f"nothing is between {condition.low} and {condition.high}: the lower one comes first",)
    values = condition.values if isinstance(condition, OneOf) else ()
    values = (condition.value,) if isinstance(condition, Compare) and condition.op in ("=", "!=") else values
    column = table[condition.column].combine_chunks()
    if column.type != TEXT:
        return ()
    known = column.dictionary.to_pylist()
    return tuple(
        f"no case has the {condition.column} {value!r}; there are {', '.join(known[:_NAMED])}"
        + (", ..." if len(known) > _NAMED else "")
        for value in values
        if value not in known
    )


def value_of(column: str, value: str, kind: pa.DataType) -> Any:
    """A written value in its column's type: text, a `float`, an `int` (findings, days) or a `date`.

    Raises:
        CaseIndexError: where it is no such value.
    """
    if kind == pa.date32():
        return as_date(value, f"`where`: {column}")
    if kind == DAYS:
        return as_days(value, f"`where`: {column}")
    if kind not in (FINDING, pa.float64()):
        return value
    try:
        number = float(value)
    except ValueError:
        number = float("nan")
    if number != number or "_" in value:
        raise CaseIndexError(f"`where`: {column} is compared with numbers, {value!r} is none")
    if kind == FINDING and number not in (0, 1):
        raise CaseIndexError(f"`where`: finding {column} is 0, 1 or unknown (`is not known`), never {value}")
    return int(number) if kind == FINDING else number


def as_date(text: str, where: str) -> datetime.date:
    """An ISO date.

    Raises:
        CaseIndexError: for a date that is none.
    """
    try:
        date = datetime.date.fromisoformat(text)
        if date.isoformat() == text:
            return date
    except ValueError:
        pass
    offset = f"; {DATE} holds dates here, not days" if DAY_OFFSET.fullmatch(text) else ""
    raise CaseIndexError(f"{where}: {text!r} is not a date (YYYY-MM-DD){offset}")


def as_days(text: str, where: str) -> int:
    """A number of days, in a data set that counts them.

    Raises:
        CaseIndexError: for anything but a whole number.
    """
    if DAY_OFFSET.fullmatch(text):
        return int(text)
    raise CaseIndexError(f"{where}: {DATE} holds numbers of days here, and {text!r} is none; e.g. 365")


def check_column(column: str, names: Sequence[str]) -> str:
    """The column, if it is one of those that a condition may ask for.

    Raises:
        CaseIndexError: naming the nearest one.
    """
    known = [name for name in names if name != CONTENT]
    if column in known:
        return column
    folded = {name.casefold(): name for name in known}
    near = difflib.get_close_matches(column.casefold(), folded, 1, 0.5)
    hint = f"did you mean {folded[near[0]]}?" if near else f"there are {', '.join(known)}"
    raise CaseIndexError(f"`where`: no column {column!r}; {hint}")


def check_ordered(column: str, op: str, kind: pa.DataType) -> None:
    """Refuses `<` and its like for text.

    Raises:
        CaseIndexError: naming the column.
    """
    if op not in ("=", "!=") and kind not in (FINDING, DAYS, pa.float64(), pa.date32()):
        raise CaseIndexError(f"`where`: {column} is text, which has no order here; use =, != or in")


def _evaluate(condition: Condition, table: pa.Table) -> Any:
    """True, false or null of every row."""
    if isinstance(condition, And | Or):
        join = pc.and_kleene if isinstance(condition, And) else pc.or_kleene
        matches = _evaluate(condition.parts[0], table)
        for part in condition.parts[1:]:
            matches = join(matches, _evaluate(part, table))
        return matches
    if isinstance(condition, Not):
        return pc.invert(_evaluate(condition.part, table))
    name = check_column(condition.column, table.column_names)
    column = table[name].combine_chunks()
    if isinstance(condition, IsKnown):
        return column.is_valid()
    if isinstance(condition, Compare):
        return _compare(name, column, condition.op, condition.value)
    if isinstance(condition, Between):
        return pc.and_kleene(_compare(name, column, ">=", condition.low), _compare(name, column, "<=", condition.high))
    matches = _compare(name, column, "=", condition.values[0])
    for value in condition.values[1:]:
        matches = pc.or_kleene(matches, _compare(name, column, "=", value))
    return matches


_COMPARE = {
    "=": pc.equal,
    "!=": pc.not_equal,
    "<": pc.less,
    "<=": pc.less_equal,
    ">": pc.greater,
    ">=": pc.greater_equal,
}


def _compare(name: str, column: Any, op: Op, text: str) -> Any:
    if op not in ("=", "!=") and column.type == TEXT:
        column = ordered(name, column)
    check_ordered(name, op, column.type)
    value = value_of(name, text, column.type)
    if column.type == TEXT:
        # Codes, not strings: the value's code is looked up once; -1 is no row's.
        return _COMPARE[op](column.indices, pc.index(column.dictionary, value).as_py())
    return _COMPARE[op](column, pa.scalar(value, column.type))
