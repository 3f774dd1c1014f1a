"""The language of `--where`: what it says, against a plain evaluation row by row; what it refuses."""

from __future__ import annotations

import datetime
import itertools
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cxr_embed.errors import CaseIndexError
from cxr_embed.index.case_table import DAYS, FINDING, TEXT
from cxr_embed.index.where import (
    And,
    Between,
    Compare,
    Condition,
    IsKnown,
    Not,
    OneOf,
    Or,
    absent_words,
    check_column,
    mask,
    negation,
    parse,
    taken_before,
)

VIEWS, DATES = ["PA", "AP", "it's"], ["2019-12-31", "2020-01-01", "2021-05-06"]
ROW = st.fixed_dictionaries(
    {
        "view": st.sampled_from([*VIEWS, None]),
        "age": st.sampled_from([None, 0.0, 17.5, 40.0, 60.0, 61.0]),
        "study_date": st.sampled_from([*DATES, None]),
        "No Finding": st.sampled_from([0, 1, None]),
    }
)
ORDERED = st.sampled_from(["=", "!=", "<", "<=", ">", ">="])


def compares() -> st.SearchStrategy[Condition]:
    ages, dates = st.sampled_from(["0", "17.5", "40", "60", "-1"]), st.sampled_from(DATES)
    return st.one_of(
        st.builds(Compare, st.just("view"), st.sampled_from(["=", "!="]), st.sampled_from([*VIEWS, "LL"])),
        st.builds(Compare, st.just("age"), ORDERED, ages),
        st.builds(Compare, st.just("study_date"), ORDERED, dates),
        st.builds(Compare, st.just("No Finding"), ORDERED, st.sampled_from(["0", "1"])),
        st.builds(Between, st.just("age"), ages, ages),
        st.builds(Between, st.just("study_date"), dates, dates),
        st.builds(OneOf, st.just("view"), st.lists(st.sampled_from(VIEWS), min_size=1).map(tuple)),
        st.builds(IsKnown, st.sampled_from(["view", "age", "study_date", "No Finding"])),
    )


CONDITION = st.recursive(
    compares(),
    lambda inner: st.one_of(
        st.builds(And, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        st.builds(Or, st.lists(inner, min_size=2, max_size=3).map(tuple)),
        inner.map(negation),
    ),
    max_leaves=6,
)


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    def column(name: str) -> list[Any]:
        return [row[name] for row in rows]

    dates = [value and datetime.date.fromisoformat(value) for value in column("study_date")]
    return pa.table(
        {
            "view": pa.array(column("view"), pa.string()).dictionary_encode().cast(TEXT),
            "age": pa.array(column("age"), pa.float64()),
            "study_date": pa.array(dates, pa.date32()),
            "No Finding": pa.array(column("No Finding"), FINDING),
        }
    )


def holds(condition: Condition, row: dict[str, Any]) -> bool | None:
    """Three-valued logic as Kleene wrote it down: None is unknown."""
    if isinstance(condition, Not):
        inner = holds(condition.part, row)
        return None if inner is None else not inner
    if isinstance(condition, And | Or):
        parts = [holds(part, row) for part in condition.parts]
        deciding = isinstance(condition, Or)
        if deciding in parts:
            return deciding
        return None if None in parts else not deciding
    value = row[condition.column]
    if isinstance(condition, IsKnown):
        return value is not None
    if value is None:
        return None

    def typed(text: str) -> Any:
        return text if isinstance(value, str) else float(text)

    if isinstance(condition, Between):
        return bool(typed(condition.low) <= value <= typed(condition.high))
    if isinstance(condition, OneOf):
        return value in [typed(text) for text in condition.values]
    other = typed(condition.value)
    return bool(
        {
            "=": value == other,
            "!=": value != other,
            "<": value < other,
            "<=": value <= other,
            ">": value > other,
            ">=": value >= other,
        }[condition.op]
    )


def written(condition: Condition, quote: str = "'") -> str:
    """A condition as a user could type it."""

    def word(text: str) -> str:
        return quote + text.replace(quote, quote * 2) + quote

    if isinstance(condition, Not):
        return f"not ({written(condition.part, quote)})"
    if isinstance(condition, And | Or):
        joint = " AND " if isinstance(condition, And) else " or "
        return joint.join(f"({written(part, quote)})" for part in condition.parts)
    name = word(condition.column)
    if isinstance(condition, IsKnown):
        return f"{name} is known"
    if isinstance(condition, Between):
        return f"{name} between {word(condition.low)} and {word(condition.high)}"
    if isinstance(condition, OneOf):
        return f"{name} in ({','.join(map(word, condition.values))})"
    return f"{name}{condition.op}{word(condition.value)}"


@settings(deadline=None, max_examples=60)
@given(st.lists(ROW, min_size=1, max_size=20), CONDITION)
def test_mask_is_what_row_by_row_gives(rows: list[dict[str, Any]], condition: Condition) -> None:
    expected = [holds(condition, row) is True for row in rows]
    assert mask(condition, table_of(rows)).tolist() == expected


EVERY_ROW = [
    dict(zip(("view", "age", "study_date", "No Finding"), values, strict=True))
    for values in itertools.product([*VIEWS, None], [None, 0.0, 17.5, 40.0, 60.0, 61.0], [*DATES, None], [0, 1, None])
]


@settings(deadline=None, max_examples=60)
@given(CONDITION)
@example(OneOf("view", ("LL", "AP")))
@example(OneOf("view", ("PA", "AP", "it's")))
@example(OneOf("age", ("40", "60")))
@example(Not(OneOf("No Finding", ("0", "1"))))
def test_mask_is_right_of_every_row_there_can_be(condition: Condition) -> None:
    expected = [holds(condition, row) is True for row in EVERY_ROW]
    assert mask(condition, table_of(EVERY_ROW)).tolist() == expected


def test_the_digests_of_files_are_no_column_to_ask_for() -> None:
    with pytest.raises(CaseIndexError, match=r"no column 'content'; there are view, age$"):
        check_column("content", ["view", "content", "age"])
    with pytest.raises(CaseIndexError, match="did you mean View"):
        check_column("veiw", ["View", "content", "age"])


@settings(deadline=None, max_examples=60)
@given(CONDITION, st.sampled_from(["'", '"']))
def test_what_is_written_is_read(condition: Condition, quote: str) -> None:
    rows = [
        {"view": view, "age": age, "study_date": date, "No Finding": finding}
        for view in (*VIEWS, None)
        for age in (None, 17.5, 60.0)
        for date in (None, "2020-01-01")
        for finding in (0, 1, None)
    ]
    table = table_of(rows)
    assert mask(parse(written(condition, quote)), table).tolist() == mask(condition, table).tolist()


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("view=PA", Compare("view", "=", "PA")),
        ("view == PA", Compare("view", "=", "PA")),
        ("view<>PA", Compare("view", "!=", "PA")),
        ("age >= 60.5", Compare("age", ">=", "60.5")),
        ("study_date<2020-01-01", Compare("study_date", "<", "2020-01-01")),
        ("view = PA and age > 60", And((Compare("view", "=", "PA"), Compare("age", ">", "60")))),
        (
            "view = PA and age between 40 and 60 or sex = F",
            Or((And((Compare("view", "=", "PA"), Between("age", "40", "60"))), Compare("sex", "=", "F"))),
        ),
        ("NOT view = PA", Not(Compare("view", "=", "PA"))),
        ("not not view = PA", Compare("view", "=", "PA")),
        ("view not in (PA, AP)", Not(OneOf("view", ("PA", "AP")))),
        ("sex is not known", Not(IsKnown("sex"))),
        ("site = 'St. Mary''s'", Compare("site", "=", "St. Mary's")),
        ('"No Finding" = 1', Compare("No Finding", "=", "1")),
        ("origin = android", Compare("origin", "=", "android")),
        ("origin = and and sex = in", And((Compare("origin", "=", "and"), Compare("sex", "=", "in")))),
        ("(view = PA)", Compare("view", "=", "PA")),
    ],
)
def test_grammar(text: str, condition: Condition) -> None:
    assert parse(text) == condition


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "empty"),
        ("view", "stops too early"),
        ("view =", "stops too early"),
        ("view = PA and", "stops too early"),
        ("(view = PA", "stops too early"),
        ("view = PA)", "from ')' on"),
        ("view = PA age > 3", "from 'age > 3' on"),
        ("view = 'PA", 'from "\'PA" on'),
        ("view in ()", "from ')' on"),
        ("x" * 5000, "more than 4000"),
    ],
)
def test_what_is_no_condition(text: str, told: str) -> None:
    with pytest.raises(CaseIndexError, match=r"^`where`: ") as caught:
        parse(text)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("vieww = PA", "no column 'vieww'; did you mean view?"),
        ("VIEW = PA", "did you mean view?"),
        ("No_Finding = 1", "did you mean No Finding?"),
        ("zzz = 1", "there are view, age, study_date, No Finding"),
        ("age > old", "age is compared with numbers, 'old' is none"),
        ("age > nan", "'nan' is none"),
        ("age > 1_0", "'1_0' is none"),
        ("study_date < 2020-13-01", "'2020-13-01' is not a date"),
        ("study_date < 20200101", "'20200101' is not a date"),
        ("view > PA", "view is text"),
        ('"No Finding" = 2', "finding No Finding is 0, 1 or unknown"),
    ],
)
def test_what_the_table_cannot_answer(text: str, told: str) -> None:
    with pytest.raises(CaseIndexError) as caught:
        mask(parse(text), table_of([{"view": "PA", "age": 1.0, "study_date": None, "No Finding": 0}]))
    assert told in str(caught.value)


def test_unknown_values_meet_no_comparison() -> None:
    table = table_of([{"view": None, "age": None, "study_date": None, "No Finding": None}])
    for text in ("view = PA", "view != PA", "not (view = PA)", "age > 0", "not (age > 0)", '"No Finding" != 1'):
        assert not mask(parse(text), table).any()
    assert mask(parse("view is not known"), table).all()


def test_words_that_no_case_has_are_told() -> None:
    rows = [{"view": view, "age": 1.0, "study_date": None, "No Finding": 0} for view in ("PA", "AP", None)]
    told = absent_words(parse("not (view = pa or view in (PA, LL, pa)) and age > 3"), table_of(rows))
    assert told == ("no case has the view 'pa'; there are PA, AP", "no case has the view 'LL'; there are PA, AP")
    assert absent_words(parse("view != PA and view is known"), table_of(rows)) == ()
    assert absent_words(parse("age between 40 and 60"), table_of(rows)) == ()
    empty = absent_words(parse("age between 60 and 40"), table_of(rows))
    assert empty == ("nothing is between 60 and 40: the lower one comes first",)


def test_a_case_is_not_before_its_own_day() -> None:
    table = table_of(
        [{"view": None, "age": None, "study_date": date, "No Finding": None} for date in ("2019-12-31", "2020-01-01")]
    )
    assert mask(taken_before("2020-01-01", pa.date32()), table).tolist() == [True, False]
    assert mask(taken_before(datetime.date(2020, 1, 1), pa.date32()), table).tolist() == [True, False]
    for wrong in ("2020", "01.02.2020", "2020-02-30", ""):
        with pytest.raises(CaseIndexError, match=r"`before`: .* is not a date"):
            taken_before(wrong, pa.date32())


def test_deep_nesting_is_read_or_refused_but_never_overruns_the_stack() -> None:
    deep = "not (view = PA or " * 200 + "view = AP" + ")" * 200
    assert mask(parse(deep), table_of([{"view": "PA", "age": None, "study_date": None, "No Finding": 1}])).shape == (1,)
    with pytest.raises(CaseIndexError, match="more than"):
        parse("(" * 3000 + "view = PA" + ")" * 3000)


@pytest.mark.parametrize(
    ("values", "text", "expected"),
    [
        (["5", "10", None, "-3.5"], "extra > 4", [True, True, False, False]),
        (["5", "10", None, "-3.5"], "extra between -4 and 5.0", [True, False, False, True]),
        (["5", "10", None, "5"], "extra <= 5", [True, False, False, True]),
        (["2020-01-02", "2019-12-31", None, "2020-01-02"], "extra < 2020-01-01", [False, True, False, False]),
        (["007", "70", None, "7"], "extra = 7", [False, False, False, True]),
        ([None, None, None, None], "extra > 4", [False] * 4),
    ],
)
def test_numbers_and_dates_in_a_column_of_text_have_an_order(
    values: list[str | None], text: str, expected: list[bool]
) -> None:
    table = pa.table({"extra": pa.array(values, pa.string()).dictionary_encode().cast(TEXT)})
    assert mask(parse(text), table).tolist() == expected
    if "=" not in text:
        assert absent_words(parse(text), table) == ()


def test_what_has_no_order_is_named() -> None:
    table = pa.table({"extra": pa.array(["5", "later"], pa.string()).dictionary_encode().cast(TEXT)})
    with pytest.raises(CaseIndexError, match=r"extra is text \('later' for one\)"):
        mask(parse("extra < 6"), table)
    with pytest.raises(CaseIndexError, match="is compared with numbers, 'x' is none"):
        mask(parse("extra < x"), pa.table({"extra": pa.array(["5"]).dictionary_encode().cast(TEXT)}))
    with pytest.raises(CaseIndexError, match="study_date holds dates here, not days"):
        taken_before("365", pa.date32())


def test_days_are_counted_where_the_data_set_counts_them() -> None:
    table = pa.table({"study_date": pa.array([-3, 0, 17, None], DAYS)})
    for before, passing in ((0, [True, False, False, False]), ("18", [True, True, True, False])):
        assert mask(taken_before(before, DAYS), table).tolist() == passing
    for text, passing in (
        ("study_date between -3 and 0", [True, True, False, False]),
        ("study_date != 17", [True, True, False, False]),
        ("study_date in (17, 18)", [False, False, True, False]),
        ("study_date is not known", [False, False, False, True]),
    ):
        assert mask(parse(text), table).tolist() == passing
    assert absent_words(parse("study_date between 3 and 1"), table) != ()
    for wrong in ("2020-01-01", datetime.date(2020, 1, 1), "1.5", "x", "20200101", ""):
        with pytest.raises(CaseIndexError, match="`before`: study_date holds numbers of days here"):
            taken_before(wrong, DAYS)
    with pytest.raises(CaseIndexError, match="`where`: study_date: study_date holds numbers of days here"):
        mask(parse("study_date < 2020-01-01"), table)


def test_a_table_of_no_rows() -> None:
    assert mask(parse("view = PA or age > 3"), table_of([])).tolist() == []
    assert mask(parse("view = PA"), table_of([])).dtype == np.bool_
