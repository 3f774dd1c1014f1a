"""The table of cases: what is read, what is refused, and that every problem is told at once."""

from __future__ import annotations

import csv
import datetime
import decimal
import gzip
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxr_embed.cases import match_names
from cxr_embed.errors import ManifestError
from cxr_embed.manifest import leaves_root, missing_files, read_manifest, write_manifest

HEADER = "image_id,path,patient_id"


def manifest(tmp_path: Path, text: str | bytes, name: str = "m.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def problems(path: Path, **options: object) -> tuple[str, ...]:
    with pytest.raises(ManifestError) as caught:
        read_manifest(path, **options)  # type: ignore[arg-type]
    assert caught.value.problems, "every refusal of a manifest names its problems"
    assert all(problem in str(caught.value) for problem in caught.value.problems)
    return caught.value.problems


def parquet(tmp_path: Path, **columns: object) -> Path:
    base = {"image_id": ["a", "b"], "path": ["a.png", "b.png"], "patient_id": ["p", "q"]}
    pq.write_table(pa.table({**base, **columns}), tmp_path / "m.parquet")
    return tmp_path / "m.parquet"


# What is read


def test_leading_zeros_and_spellings_stay(tmp_path: Path) -> None:
    table = read_manifest(manifest(tmp_path, f"{HEADER},age\n0012,00/1e5.png,007,077\n12,true,null,45.5\n"))
    assert table.ids.tolist() == ["0012", "12"]
    assert table.column("path").tolist() == ["00/1e5.png", "true"]
    assert table.column("patient_id").tolist() == ["007", "null"]
    assert table.column("age").tolist() == ["77", "45.5"]  # a number, which is told in one way
    assert list(table.rows()) == [("0012", "00/1e5.png", "007"), ("12", "true", "null")]


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbfimage_id,path,patient_id\na,a.png,p\n",
        b"image_id,path,patient_id\r\na,a.png,p\r\n",
        b"image_id,path,patient_id\ra,a.png,p\r",
        b'"image_id","path","patient_id"\n"a","a.png","p"',
        b" image_id , path,patient_id \n a , a.png ,p \n",
        b"\nimage_id,path,patient_id\n\na,a.png,p\n\n  \n",
        b"image_id;path;patient_id\na;a.png;p\n",
        b"image_id\tpath\tpatient_id\r\na\ta.png\tp\r\n",
        b"sep=;\nimage_id;path;patient_id\na;a.png;p\n",
        b'"sep=,"\r\nimage_id,path,patient_id\r\na,a.png,p\r\n',
        "image_id\tpath\tpatient_id\na\ta.png\tp\n".encode("utf-16"),
        b"\xfe\xff" + "image_id,path,patient_id\na,a.png,p\n".encode("utf-16-be"),
    ],
    ids=[
        *("bom", "crlf", "cr", "quotes", "spaces", "blank lines", "semicolons", "tabs", "hint", "quoted hint"),
        *("utf-16", "utf-16-be"),
    ],
)
def test_csv_dialects(tmp_path: Path, data: bytes) -> None:
    assert list(read_manifest(manifest(tmp_path, data)).rows()) == [("a", "a.png", "p")]


def test_quoted_commas_and_line_breaks(tmp_path: Path) -> None:
    text = f'{HEADER},report,x\na,"one, two.png",p,"line\nline, ""word""",7\nb,b.png,p,,7\n'
    assert problems(manifest(tmp_path, text), extra=["report"])[0].startswith(
        "finding x is not 0, 1, -1 or blank: '7' in line 2, '7' in line 4"
    )
    table = read_manifest(manifest(tmp_path, text), extra=["report", "x"])
    assert table.column("path")[0] == "one, two.png"
    assert table.column("report")[0] == 'line\nline, "word"'
    assert table.findings == ()


def test_compressed_csv(tmp_path: Path) -> None:
    data = gzip.compress(f"{HEADER}\na,a.png,p\n".encode())
    assert len(read_manifest(manifest(tmp_path, data, "m.csv.gz"))) == 1
    told = problems(manifest(tmp_path, data[:-9], "m.csv.gz"))
    assert "cannot be read" in told[0]
    assert "cannot be read" in problems(manifest(tmp_path, "image_id,path\n", "n.csv.gz"))[0]


def test_root_and_missing_files(tmp_path: Path) -> None:
    path = manifest(tmp_path, f"{HEADER}\na,a.png,p\nb,./sub/b.png,p\nc,{'c' * 400}.png,p\n")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.png").touch()
    assert read_manifest(path).root == tmp_path
    assert missing_files(read_manifest(path)) == ["a.png", f"{'c' * 400}.png"]
    assert read_manifest(path, root=tmp_path / "sub").root == tmp_path / "sub"


def test_findings_are_the_columns_that_nothing_else_explains(tmp_path: Path) -> None:
    known = f"{HEADER},study_date,view,age,sex,split,study_id,follow_up,site,source"
    row = "a,a.png,p,2020-02-29,PA,77,M,train,s1,3,A,x"
    table = read_manifest(manifest(tmp_path, f"{known},Mass,scanner\n{row},1,GE\n"), extra=["scanner"])
    assert table.findings == ("Mass",)
    assert table.column("scanner").tolist() == ["GE"]
    assert table.column("absent").tolist() == [""]


def test_uncertain_policies(tmp_path: Path) -> None:
    table = read_manifest(manifest(tmp_path, f"{HEADER},F,G\na,a,p,1,-1\nb,b,p,0,\nc,c,p,-1.0,1.0\nd,d,p, 0.0 ,-1\n"))
    nan = np.nan
    for policy, u in {"unknown": nan, "positive": 1.0, "negative": 0.0}.items():
        labels = table.labels(policy)  # type: ignore[arg-type]
        np.testing.assert_array_equal(labels.values, np.array([[1, u], [0, nan], [u, 1], [0, u]], np.float32))
        assert labels.names == ("F", "G")
        assert labels.ids.tolist() == ["a", "b", "c", "d"]
    np.testing.assert_array_equal(table.labels().values, table.labels("unknown").values)
    with pytest.raises(ManifestError, match="unknown, positive, negative"):
        table.labels("maybe")  # type: ignore[arg-type]


# What is refused


def test_every_problem_at_once(tmp_path: Path) -> None:
    text = (
        f"{HEADER},study_date,age,sex,split,F,G\n"
        "a,a.png,p,2020-13-01,200,X,train,2,1\n"
        "a,../b.png,p,2020-01-01,x,M,test,1,none\n"
        ",c.png,,,,,,x,\n"
        "d,d.png,q\n"
    )
    assert problems(manifest(tmp_path, text)) == (
        "rows with another number of values than the 9 columns: 3 in line 5",
        "image_id is blank: '' in line 4",
        "patient_id is blank: '' in line 4",
        "image_id is not unique: 'a' in line 3",
        "path must be relative and stay below the manifest's folder (or `root`): '../b.png' in line 3",
        "a patient is in two splits: p in test, train",
        "study_date is neither a date (YYYY-MM-DD) nor a number of days: '2020-13-01' in line 2",
        "age is not a number of years from 0 to 130: '200' in line 2, 'x' in line 3",
        "sex is not M, F, O or blank: 'X' in line 2",
        "finding F is not 0, 1, -1 or blank: '2' in line 2, 'x' in line 4 "
        "(if F is not a finding, name it with `extra`)",
        "finding G is not 0, 1, -1 or blank: 'none' in line 3 (if G is not a finding, name it with `extra`)",
    )


def test_a_missing_column_hides_nothing(tmp_path: Path) -> None:
    told = "\n".join(
        problems(manifest(tmp_path, "image_id,patient_id,split,F\na,p,train,9\na,p,test,0\n"), extra=["zz"])
    )
    for part in ("column path is missing", "not unique", "two splits", "finding F", "`extra` zz"):
        assert part in told
    assert problems(manifest(tmp_path, "path,split,F\n/a,x,3\n"))[:2] == (
        "column image_id is missing",
        "column patient_id is missing",
    )
    assert len(problems(manifest(tmp_path, "path,split,F\n/a,x,3\n"))) == 4


def test_columns_that_clash_or_have_no_name(tmp_path: Path) -> None:
    told = problems(manifest(tmp_path, f",{HEADER},Mass, Mass,mass,path\n0,a,a.png,p,5,1,0,/x\n"))
    assert "column Mass stands twice" in told
    assert "column path stands twice" in told
    assert "columns Mass and mass differ only in case" in told
    assert any(t.startswith("column 1 has no name") and "index=False" in t for t in told)
    assert any("finding Mass" in t and "'5' in line 2" in t for t in told)


def test_known_columns_in_other_letters_are_no_findings(tmp_path: Path) -> None:
    path = manifest(tmp_path, "image_id,path,patient_id,Split\na,a.png,p,0\nb,b.png,p,1\n")
    assert problems(path) == ("column Split: write it split (or name it with `extra`)",)
    assert read_manifest(path, extra=["Split"]).findings == ()


@pytest.mark.parametrize("value", ["None", "ja", "y", "positive", "2", "-2", "0.5", "1.01", "+1", "01", "1 0", "١"])
def test_findings_outside_the_closed_set(tmp_path: Path, value: str) -> None:
    (told,) = problems(manifest(tmp_path, f"{HEADER},F\na,a.png,p,1\nb,b.png,p,{value}\n"))
    assert told.startswith(f"finding F is not 0, 1, -1 or blank: {value!r} in line 3")


@pytest.mark.parametrize(
    "path",
    [
        "..",
        "../a.png",
        "a/../../b.png",
        "a/../b.png",
        "/a.png",
        "//h/a",
        "C:/a.png",
        "c:a.png",
        "..\\a.png",
        "\\a.png",
        "\\\\h\\a",
    ],
)
def test_paths_that_leave_the_root(tmp_path: Path, path: str) -> None:
    assert leaves_root(path)
    (told,) = problems(manifest(tmp_path, f"{HEADER}\na,{path},p\n"))
    assert "stay below" in told
    assert "line 2" in told


@pytest.mark.parametrize(
    "path", ["a.png", "./a.png", "a..png", "..a/b.png", "a/b/c.dcm", "a b.png", "ä/…/胸.png", "~/a.png"]
)
def test_paths_that_stay(tmp_path: Path, path: str) -> None:
    assert not leaves_root(path)
    assert read_manifest(manifest(tmp_path, f"{HEADER}\na,{path},p\n")).column("path")[0] == path


@pytest.mark.parametrize("column", ["image_id", "path", "patient_id", "split", "view"])
@pytest.mark.parametrize("bad", ["x\0", "x\0y", "x\ny", "x\ry", "x\x1by", "x\x7fy"])
def test_control_characters(tmp_path: Path, column: str, bad: str) -> None:
    row = {"image_id": "a", "path": "a.png", "patient_id": "p", "split": "", "view": "", column: f'"{bad}"'}
    (told,) = problems(manifest(tmp_path, ",".join(row) + "\n" + ",".join(row.values()) + "\n"))
    assert told.startswith(f"{column} holds a control character")
    assert "\n" not in told


def test_two_ids_that_numpy_would_take_for_one(tmp_path: Path) -> None:
    assert any("control" in t for t in problems(manifest(tmp_path, f"{HEADER}\na,a,p\na\0,b,p\n")))
    assert problems(manifest(tmp_path, f"{HEADER}\na,a,p\n a ,b,p\n")) == ("image_id is not unique: 'a' in line 3",)


@pytest.mark.parametrize(
    ("value", "label"),
    [
        *((each, 1) for each in ("True", "true", "TRUE", "yes", "Yes", "1.000", "1.")),
        *((each, 0) for each in ("False", "no", "NO", "0.00", "-0.0")),
        *((each, np.nan) for each in ("NA", "NaN", "nan", "n/a", "NULL", "<NA>", "-1.000")),
    ],
)
def test_spellings_that_can_mean_one_thing_only(tmp_path: Path, value: str, label: float) -> None:
    for extra in ("1", "1.0"):
        table = read_manifest(manifest(tmp_path, f"{HEADER},F\na,a.png,p,{extra}\nb,b.png,q,{value}\n"))
        np.testing.assert_array_equal(table.labels().values[:, 0], [1, label])
    assert table.table["F"].to_pylist()[0] == "1.0", "what a manifest may say anyway stays as it is"


def test_spellings_of_known_columns(tmp_path: Path) -> None:
    sexes = ["m", "Male", "MALE", "f", "Female", "other", "NA", "M"]
    rows = [f"i{n},a,p,{sex},NaN,NA" for n, sex in enumerate(sexes)]
    table = read_manifest(manifest(tmp_path, "\n".join([f"{HEADER},sex,age,study_date", *rows])))
    assert table.column("sex").tolist() == ["M", "M", "M", "F", "F", "O", "", "M"]
    assert set(table.column("age")) == set(table.column("study_date")) == {""}


def test_decimal_commas_where_commas_separate_nothing(tmp_path: Path) -> None:
    text = f"{HEADER.replace(',', ';')};age;F\n1,5;a.png;2,5;48,5;1,0\n"
    table = read_manifest(manifest(tmp_path, text))
    assert list(table.rows()) == [("1,5", "a.png", "2,5")], "an id is text"
    assert table.column("age").tolist() == ["48.5"]
    assert table.labels().values.tolist() == [[1]]


def test_a_finding_has_one_name_in_every_unicode_form(tmp_path: Path) -> None:
    composed, apart = "\u00c9panchement", "E\u0301panchement"
    for name in (composed, apart):
        assert read_manifest(manifest(tmp_path, f"{HEADER},{name}\na,a,p,1\n")).findings == (composed,)
    assert match_names((apart,), (composed,), "scores'") == (composed,)
    (told,) = problems(manifest(tmp_path, f"{HEADER},{composed},{apart}\na,a,p,1,1\n"))
    assert told == f"column {composed} stands twice"


@pytest.mark.parametrize(
    ("column", "good", "bad"),
    [
        ("age", ["", "0", "77", "0.5", "130"], ["-1", "131", "131Y", "inf", "1e1", "1_0", "58 Y", "٧", "0x1"]),
        ("sex", ["", "M", "F", "O"], ["mal", "Unknown", "U", "1"]),
        (
            "study_date",
            ["", "2020-02-29", "0", "17", "-365", "1234567"],
            ["2021-02-29", "20210229", "123456789", "29.02.2020", "2020-02-29 10:00", "2020-W01-1", "1.5", "1e3"],
        ),
    ],
)
def test_values_of_known_columns(tmp_path: Path, column: str, good: list[str], bad: list[str]) -> None:
    for value in good:
        assert read_manifest(manifest(tmp_path, f"{HEADER},{column}\na,a,p,{value}\n")).column(column)[0] == value
    for value in bad:
        (told,) = problems(manifest(tmp_path, f"{HEADER},{column}\na,a,p,{value}\n"))
        assert told.startswith((f"{column} is not ", f"{column} is neither "))
        assert f"{value!r} in line 2" in told


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("20200229", "2020-02-29"),
        ("20200229.0", "2020-02-29"),
        ("17.0", "17"),
        ("+17", "17"),
        ("007", "7"),
        ("-0", "0"),
    ],
)
def test_days_and_dates_as_other_programs_write_them(tmp_path: Path, written: str, read: str) -> None:
    path = manifest(tmp_path, f"{HEADER},study_date\na,a,p,{written}\nb,b,p,\n")
    assert read_manifest(path).column("study_date").tolist() == [read, ""]


@pytest.mark.parametrize(
    ("dates", "told"),
    [
        (
            ["2020-01-01", "2020-01-02", "17", ""],
            "study_date is a number of days here, elsewhere a date: '17' in line 4",
        ),
        (["3", "5", "", "20200101"], "study_date is a date here, elsewhere a number of days: '2020-01-01' in line 5"),
    ],
)
def test_dates_and_days_together_have_no_order(tmp_path: Path, dates: list[str], told: str) -> None:
    rows = "".join(f"i{number},a,p,{date}\n" for number, date in enumerate(dates))
    assert problems(manifest(tmp_path, f"{HEADER},study_date\n{rows}")) == (told,)


def test_a_split_leak_needs_a_patient_and_two_names(tmp_path: Path) -> None:
    rows = "a,a,p,train\nb,b,p,\nc,c,p,train\nd,d,q,test\n"
    assert len(read_manifest(manifest(tmp_path, f"{HEADER},split\n{rows}"))) == 4
    leaks = "".join(f"a{n},a,p{n},train\nb{n},b,p{n},test\n" for n in range(7))
    (told,) = problems(manifest(tmp_path, f"{HEADER},split\n{rows}{leaks}"))
    assert told.count("test, train") == 5
    assert told.endswith("and 2 more")


def test_many_rows_of_one_problem_are_counted(tmp_path: Path) -> None:
    rows = "".join(f"a,{n}.png,p\n" for n in range(20_000))
    (told,) = problems(manifest(tmp_path, f"{HEADER}\n{rows}"))
    assert told == "image_id is not unique: " + ", ".join(f"'a' in line {n}" for n in range(3, 8)) + " and 19994 more"


def test_ragged_rows_are_all_told(tmp_path: Path) -> None:
    rows = "a,a\nb,b,p,1\n" + "c,c,p\n" + "d\n" * 9
    (told,) = problems(manifest(tmp_path, f"{HEADER}\n{rows}"))
    assert told.startswith(
        "rows with another number of values than the 3 columns: 2 in line 2, 4 in line 3, 1 in line 5"
    )
    assert told.endswith("and 6 more")


def test_an_open_quote_is_told_with_the_problems_before_it(tmp_path: Path) -> None:
    told = problems(manifest(tmp_path, f'{HEADER},F\na,a.png,p,7\nb,"b.png,p,0\nc,c.png,p,0\n'))
    assert "quote left open" in told[0]
    assert "finding F" in told[1]
    assert "quote" in problems(manifest(tmp_path, f'{HEADER}\na,"{"x" * 200_000}",p\n'))[0]


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "the file is empty"),
        (b"\n \n\n", "missing"),
        (b"\xef\xbb\xbf", "the file is empty"),
        (b"image_id,path,patient_id\n", "no rows"),
        (b"image_id|path|patient_id\na|a.png|p\n", "by commas"),
        (b"image_id;path\tpatient_id\na;a.png\tp\n", "by commas"),
        ("image_id,path,patient_id\nä,a,p\n".encode("latin-1"), "not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\0\0\xff\xfe", "not UTF-8"),
        (b"PK\x03\x04 not a table", "save its sheet as CSV"),
    ],
)
def test_files_that_are_no_manifest(tmp_path: Path, data: bytes, part: str) -> None:
    assert part in "\n".join(problems(manifest(tmp_path, data)))


def test_binary_rubbish_is_refused_in_a_line(tmp_path: Path) -> None:
    for seed in range(40):
        data = np.random.default_rng(seed).bytes(3000)
        for name in ("m.csv", "m.csv.gz", "m.parquet"):
            assert all("\n" not in told for told in problems(manifest(tmp_path, data, name)))
    assert "cannot be read" in problems(manifest(tmp_path, b"PAR1" + b"x" * 90 + b"PAR1", "m.parquet"))[0]
    assert "cannot be read" in problems(manifest(tmp_path, b"", "m.parquet"))[0]


def test_no_file_and_a_folder(tmp_path: Path) -> None:
    for name in ("absent.csv", "absent.parquet", "absent.csv.gz"):
        assert "no such manifest" in problems(tmp_path / name)[0]
    for name in ("d", "d.parquet"):
        (tmp_path / name).mkdir()
        assert "a folder" in problems(tmp_path / name)[0]
    assert "cannot be read" in problems(tmp_path / ("x" * 300 + ".csv"))[0]


# Parquet


def test_parquet_keeps_ids_and_reads_typed_columns(tmp_path: Path) -> None:
    path = parquet(
        tmp_path,
        image_id=pa.array(["001", "002"]).dictionary_encode(),
        patient_id=pa.array([12345678901.0, 12345678902.0]),
        study_id=pa.array([7, None], pa.int64()),
        study_date=pa.array([datetime.date(2020, 1, 2), None]),
        age=pa.array([77.0, None]),
        follow_up=pa.array([decimal.Decimal("3.00"), None]),
        F=pa.array([True, None]),
        G=pa.array([-1.0, float("nan")]),
        H=pa.array([0, 1], pa.int8()).dictionary_encode(),
        J=pa.array([None, None]),
        K=pa.array([1.0, 0.0]).dictionary_encode(),
        L=pa.array([b"1", b""]),
    )
    table = read_manifest(path)
    expected = {
        "image_id": ["001", "002"],
        "patient_id": ["12345678901", "12345678902"],
        "study_id": ["7", ""],
        "study_date": ["2020-01-02", ""],
        "age": ["77", ""],
        "follow_up": ["3", ""],
        "F": ["1", ""],
        "G": ["-1", ""],
        "H": ["0", "1"],
        "J": ["", ""],
        "K": ["1", "0"],
        "L": ["1", ""],
    }
    assert {name: table.column(name).tolist() for name in expected} == expected
    assert table.findings == tuple("FGHJKL")


@pytest.mark.parametrize("zone", [None, "UTC"])
@pytest.mark.parametrize("unit", ["s", "us", "ns"])
def test_parquet_timestamps_at_midnight_are_dates(tmp_path: Path, unit: str, zone: str | None) -> None:
    kind = pa.timestamp(unit, zone)
    path = parquet(tmp_path, study_date=pa.array([datetime.datetime(2020, 1, 2), None], kind))
    assert read_manifest(path).column("study_date").tolist() == ["2020-01-02", ""]
    path = parquet(tmp_path, study_date=pa.array([datetime.datetime(2020, 1, 2, 3), None], kind))
    assert problems(path)[0].startswith("study_date is neither a date")
    assert "in row 1" in problems(path)[0]


def test_parquet_index_folder_and_repeated_columns(tmp_path: Path) -> None:
    folder = tmp_path / "site=A"
    folder.mkdir()
    path = parquet(folder, __index_level_0__=[5, 6], F=[0, 1])
    table = read_manifest(path)
    assert table.findings == ("F",)
    assert "site" not in table.table.column_names
    columns = [pa.array([name]) for name in ("a", "a.png", "p", "1", "0")]
    pq.write_table(pa.table(columns, names=["image_id", "path", "patient_id", "F", "F"]), path)
    assert problems(path) == ("column F stands twice",)


def test_parquet_columns_that_are_no_text(tmp_path: Path) -> None:
    assert "column F is of the type list" in problems(parquet(tmp_path, F=[[1], [0]]))[0]
    assert "cannot be read" in problems(parquet(tmp_path, F=pa.array([b"\xff", b"1"])))[0]
    broken = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff")])
    pq.write_table(pa.table([broken] * 3, names=HEADER.split(",")), tmp_path / "b.parquet")
    assert "UTF8" in problems(tmp_path / "b.parquet")[0]


# Writing, and properties

# Categories Cc and Cs cannot be in a manifest; Z at an end would be trimmed.
WORD = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters=":\\/"), min_size=1, max_size=8)
CELL = st.sampled_from(["", "0", "1", "-1"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(WORD, WORD, WORD, CELL, CELL, st.text("a\r\n\",;'x", max_size=6)),
        min_size=1,
        unique_by=lambda r: r[0],
    ),
    suffix=st.sampled_from([".csv", ".parquet", ".CSV"]),
)
def test_round_trip(tmp_path: Path, rows: list[tuple[str, ...]], suffix: str) -> None:
    names = ("image_id", "path", "patient_id", "F", "Ärzte, 'x'", "site")
    columns = {name: [f"i{row[n]}" if n < 3 else row[n] for row in rows] for n, name in enumerate(names)}
    path = tmp_path / f"m{suffix}"
    write_manifest(path, columns)
    table = read_manifest(path)
    assert table.table.column_names == list(columns)
    for name, values in columns.items():
        assert table.table[name].to_pylist() == [value.strip() for value in values]
    assert [entry.name for entry in tmp_path.iterdir() if entry.name.startswith(".")] == []


def reference(rows: list[dict[str, str]]) -> set[str]:
    """The rules of a manifest, one by one and slowly; the kinds of problem that the rows have."""
    found = set()
    ids = [row["image_id"] for row in rows if row["image_id"]]
    if len(ids) != len(set(ids)):
        found.add("image_id is not unique")
    for name in ("image_id", "path", "patient_id"):
        if any(row[name] == "" for row in rows):
            found.add(f"{name} is blank")
    if any(row["path"].startswith("/") or ".." in row["path"].split("/") for row in rows):
        found.add("path must be relative")
    splits = {(row["patient_id"], row["split"]) for row in rows if row["patient_id"] and row["split"]}
    if len(splits) > len({patient for patient, _ in splits}):
        found.add("a patient is in two splits")
    if any(row["F"] not in ("", "0", "1", "-1") for row in rows):
        found.add("finding F is not")
    if any(row["sex"] not in ("", "M", "F", "O") for row in rows):
        found.add("sex is not")
    return found


ROW = st.fixed_dictionaries(
    {
        "image_id": st.sampled_from(["a", "b", "c", "d", "e", ""]),
        "path": st.sampled_from(["a.png", "b/c.png", "b/..c", "../a", "a/..", "/a", ""]),
        "patient_id": st.sampled_from(["p", "q", "r", ""]),
        "split": st.sampled_from(["train", "train", "test", ""]),
        "F": st.sampled_from(["0", "1", "-1", "", "2", "x"]),
        "sex": st.sampled_from(["M", "F", "O", "", "x"]),
    }
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(ROW, min_size=1, max_size=5),
    drop=st.sampled_from([None, "split", "sex"]),
    name=st.sampled_from(["r.csv", "r.parquet"]),
)
def test_validation_agrees_with_the_plain_rules(
    tmp_path: Path, rows: list[dict[str, str]], drop: str | None, name: str
) -> None:
    columns = {column: [row[column] for row in rows] for column in rows[0] if column != drop}
    write_manifest(tmp_path / name, columns)
    expected = reference([{**row, **({drop: ""} if drop else {})} for row in rows])
    try:
        read_manifest(tmp_path / name)
        told: tuple[str, ...] = ()
    except ManifestError as error:
        told = error.problems
    assert len(told) == len(expected), (told, expected)
    assert all(any(problem.startswith(kind) for problem in told) for kind in expected), (told, expected)


def test_a_hundred_thousand_rows(tmp_path: Path) -> None:
    path = tmp_path / "big.csv"
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*HEADER.split(","), "split", *(f"F{n}" for n in range(14))])
        writer.writerows([f"{n:08d}", f"{n:08d}.png", f"p{n // 4}", "train", *"01" * 7] for n in range(100_000))
    table = read_manifest(path)
    assert len(table) == 100_000
    assert table.labels().values.sum() == 700_000
    # The rows stay one compact table: text of 8 + 12 + 6 + 5 + 14 characters, and 4 bytes of offset a value.
    assert table.table.nbytes < 100_000 * (45 + 18 * 4) * 1.2


def test_write_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    columns = {"image_id": ["a"], "path": ["a"], "patient_id": ["p"]}
    (tmp_path / "file").write_text("kept")
    (tmp_path / "d.csv").mkdir()
    for name in ("file/m.csv", "file/x/m.csv", "d.csv", "m.xlsx", "m", "x" * 300 + ".csv", "m.csv.gz"):
        with pytest.raises(ManifestError, match="another `out`"):
            write_manifest(tmp_path / name, columns)
    for name in (".", "/", ".."):
        with pytest.raises(ManifestError, match="another `out`"):
            write_manifest(Path(name), columns)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["d.csv", "file"]


def test_write_replaces_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"image_id": ["a"], "path": ["a"], "patient_id": ["p"]}
    path = tmp_path / "new" / "m.csv"
    write_manifest(path, columns)
    before = path.read_bytes()

    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(ManifestError, match="No space left"):
        write_manifest(path, {**columns, "F": ["1"]})
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["m.csv"]


def test_real_manifest(real_data: Path) -> None:
    table = read_manifest(real_data / "nih" / "manifest.csv")
    assert len(table) == 1187
    assert len(set(table.column("patient_id").tolist())) == 959
    assert len(table.findings) == 15
    assert missing_files(table) == []
    labels = table.labels()
    assert labels.values.shape == (1187, 15)
    assert not np.isnan(labels.values).any()
    # 'No Finding' is set exactly where no other finding is.
    none = labels.values[:, labels.names.index("No Finding")]
    np.testing.assert_array_equal(none == 1, labels.values.sum(axis=1) - none == 0)
