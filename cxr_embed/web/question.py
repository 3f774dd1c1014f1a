"""What a search page is asked, as it stands in its address: a stable one, which a reader may keep or send on."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any
from urllib.parse import urlencode

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from cxr_embed.index.case_table import AGE, DATE, PATIENT
from cxr_embed.index.where import as_date, as_days
from cxr_embed.web.columns import CHOSEN, Columns

STEP, MOST = 24, 480  # cases of a page, and at most
_LONGEST = 500  # characters of a value


def _filled(given: Any) -> Any:
    """A form sends its empty fields too."""
    return [value for value in given if value.strip()] if isinstance(given, list) else given


def _or_none(given: Any) -> Any:
    return None if isinstance(given, str) and not given.strip() else given


Text = Annotated[str, Field(max_length=_LONGEST)]
Several = Annotated[list[Text], BeforeValidator(_filled), Field(max_length=16)]
Years = Annotated[Annotated[int, Field(ge=0, le=130)] | None, BeforeValidator(_or_none)]


class Question(BaseModel):
    """A search or, without an example, the cases that pass the filters, in the order of the index."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    case: Several = Field([], description="A case of the index to find the like of.")
    words: Several = Field([], description="Words to find the like of, where the encoder reads them.")
    upload: Several = Field([], description="The token of a picture that was sent to /api/upload.")
    not_case: Several = Field([], description="A case to stay away from.")
    not_words: Several = Field([], description="Words to stay away from.")
    not_upload: Several = Field([], description="The token of a picture to stay away from.")
    where: Annotated[str, Field(max_length=2000)] = Field("", description="A condition: `view = PA and age > 60`.")
    view: Several = Field([], description="One of these views.")
    sex: Several = Field([], description="One of these.")
    split: Several = Field([], description="One of these splits.")
    site: Several = Field([], description="One of these sites.")
    source: Several = Field([], description="One of these sources.")
    finding: Several = Field([], description="A finding that the case is known to show.")
    age_from: Years = Field(None, description="Youngest, in years.")
    age_to: Years = Field(None, description="Oldest, in years.")
    date_from: Text = Field("", description="First study_date.")
    date_to: Text = Field("", description="Last study_date.")
    before: Text = Field("", description="Only cases of an earlier study_date.")
    patient: Text = Field("", description="Only cases of this patient.")
    one_per_patient: bool = Field(False, description="Only the nearest case of each patient.")
    exclude_same_patient: bool = Field(False, description="No case of the example's patient.")
    k: int = Field(STEP, ge=1, le=MOST, description="Cases wanted.")

    @property
    def has_example(self) -> bool:
        """Whether there is something to find the like of."""
        return bool(self.case or self.words or self.upload)

    def given(self) -> dict[str, Any]:
        """What differs from an empty question."""
        return {
            name: value for name, value in self.model_dump().items() if value != type(self).model_fields[name].default
        }

    def address(self, **changed: Any) -> str:
        """The address of this question, or of one that differs in some fields."""
        parts = [_written(name, changed[name]) if name in changed else part for name, part in self._parts.items()]
        return f"/?{query}" if (query := "&".join(filter(None, parts))) else "/"

    @cached_property
    def _parts(self) -> dict[str, str]:
        """Each field as it stands in the address: a page has three addresses a case."""
        return {name: _written(name, getattr(self, name)) for name in type(self).model_fields}

    def without(self, name: str, value: str | None = None) -> str:
        """The address without a field, or without one of its values."""
        kept = getattr(self, name)
        if value is None:
            return self.address(**{name: type(self).model_fields[name].default})
        return self.address(**{name: [each for each in kept if each != value]})

    def like(self, name: str, value: str) -> str:
        """The address with one more example: `case`, `not_case`, ...; it is no example of the other sign any more."""
        other = name.removeprefix("not_") if name.startswith("not_") else f"not_{name}"
        kept = [each for each in getattr(self, other) if each != value]
        mine = [*(each for each in getattr(self, name) if each != value), value]
        return self.address(**{name: mine, other: kept, "k": STEP})

    def condition(self, columns: Columns) -> str | None:
        """The filters as one condition; None where there are none.

        Raises:
            CaseIndexError: for a condition that is none, or asks for a column that may not be shown.
        """
        parts = []
        if self.where.strip():
            columns.check(self.where)  # by itself: no bracket of it may close one of ours
            parts.append(f"({self.where})")
        parts += [f"{name} in ({', '.join(map(quoted, values))})" for name, values in self._chosen() if values]
        parts += [f"{quoted(name)} = 1" for name in self.finding]
        bounds: Sequence[tuple[str, str, object]] = (
            (AGE, ">=", self.age_from),
            (AGE, "<=", self.age_to),
            (DATE, ">=", self.date_from.strip()),
            (DATE, "<=", self.date_to.strip()),
        )
        parts += [f"{name} {op} {quoted(str(value))}" for name, op, value in bounds if value not in (None, "")]
        if self.patient:
            parts.append(f"{PATIENT} = {quoted(self.patient)}")
        if not parts:
            return None
        condition = " and ".join(parts)
        columns.check(condition)
        return condition

    def day(self, columns: Columns) -> str | int | datetime.date | None:
        """`before` in the kind of day that the index has.

        Raises:
            CaseIndexError: for what is none.
        """
        text = self.before.strip()
        if not text:
            return None
        return as_days(text, "`before`") if columns.counts_days else as_date(text, "`before`")

    def _chosen(self) -> list[tuple[str, list[str]]]:
        values: Mapping[str, list[str]] = self.model_dump(include=set(CHOSEN))
        return [(name, values[name]) for name in CHOSEN]


def _written(name: str, value: Any) -> str:
    """A field in an address; blank where it is as in an empty question."""
    if value == Question.model_fields[name].default:
        return ""
    return urlencode(
        [(name, "true" if each is True else each) for each in (value if isinstance(value, list) else [value])]
    )


def quoted(text: str) -> str:
    """A value in a condition, whatever letters it has."""
    return "'" + text.replace("'", "''") + "'"
