"""Numbers from DICOM fields, as files have them: with a decimal comma, twice, as text, or not at all.

No value of a field may come into a message: errors name the field and say what kind of value it holds.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import TYPE_CHECKING, Any

from cxr_embed.errors import ImageError

if TYPE_CHECKING:
    from pydicom import Dataset

# '2000,5' is written where the decimal sign is a comma; '2,000' may be a thousand separator and is taken for neither.
_DECIMAL_COMMA = re.compile(r"[+-]?(\d*),\d+(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
_AMBIGUOUS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)


class Unreadable:
    """What stands for a value that pydicom cannot convert."""


def value_of(dataset: Dataset, keyword: str) -> Any:
    """The value as pydicom converts it; None where it is missing, an `Unreadable` where it cannot be converted."""
    try:
        return dataset.get(keyword)
    except MemoryError:
        raise
    except Exception:  # its conversions raise many types, and quote the value
        return Unreadable()


def text(dataset: Dataset, keyword: str) -> str:
    """The field's text, the first of several; empty where it is missing or unreadable."""
    value = value_of(dataset, keyword)
    if _is_several(value):
        value = value[0] if len(value) else None
    return str("" if value is None or isinstance(value, Unreadable) else value).strip()


def numbers(dataset: Dataset, keyword: str) -> list[float]:
    """The field's values, NaN for each that is not a number; `[]` where it is missing or empty."""
    value = value_of(dataset, keyword)
    if _is_empty(value):
        return []
    return [_number(item) for item in (value if _is_several(value) else [value])]


def number(dataset: Dataset, keyword: str, default: float | None = None) -> float:
    """The field's value, the first of several.

    Args:
        dataset: a DICOM data set.
        keyword: of the field.
        default: what a missing or empty field stands for; None where there has to be one.

    Raises:
        ImageError: `corrupt`, for a field that holds no finite number, or is missing without a default.
    """
    found = numbers(dataset, keyword)
    if not found and default is not None:
        return default
    if not found or not math.isfinite(found[0]):
        raise ImageError("corrupt", f"the DICOM field {keyword} {kind_of(dataset, keyword)}; it should hold a number")
    return found[0]


def whole_number(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """A field of 16 bits without a sign: as `number`, and between 0 and 65535."""
    value = number(dataset, keyword, default)
    if value != int(value) or not 0 <= value < 1 << 16:
        raise ImageError("corrupt", f"the DICOM field {keyword} holds a number outside 0 to 65535, or a fraction")
    return int(value)


def first_item(dataset: Dataset, keyword: str) -> Dataset | None:
    """The first data set of a sequence; None where it is missing or empty.

    Raises:
        ImageError: `corrupt`, for a field that is not a sequence.
    """
    from pydicom import Dataset

    value = value_of(dataset, keyword)
    if _is_empty(value):
        return None
    if not _is_several(value) or not isinstance(value[0], Dataset):
        raise ImageError("corrupt", f"the DICOM field {keyword} {kind_of(dataset, keyword)}; it should hold a sequence")
    item: Dataset = value[0]
    return item


def kind_of(dataset: Dataset, keyword: str) -> str:
    """What a field holds, without its value: 'is missing', 'holds text', ..."""
    value = value_of(dataset, keyword)
    if value is None and keyword not in dataset:
        return "is missing"
    if _is_empty(value):
        return "is empty"
    if isinstance(value, Unreadable):
        return "cannot be read"
    if _is_several(value):
        return "holds a list"
    if isinstance(value, Real | Decimal):
        return "holds a number" if math.isfinite(value) else "holds a number that is not finite"
    return "holds bytes" if isinstance(value, bytes) else "holds text"


def _is_several(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _is_empty(value: Any) -> bool:
    return value is None or (isinstance(value, Sequence) and len(value) == 0)


def _number(value: Any) -> float:
    if isinstance(value, Real | Decimal):
        return float(value)
    if not isinstance(value, str):
        return math.nan
    plain = value.strip().strip("\0")
    if _DECIMAL_COMMA.fullmatch(plain) and not _AMBIGUOUS.fullmatch(plain):
        plain = plain.replace(",", ".")
    try:
        return float(plain) if plain.isascii() and "_" not in plain else math.nan
    except ValueError:
        return math.nan
