"""Other people's tables: what `manifest convert` makes of them, what it refuses, the command that a message names."""

from __future__ import annotations

import csv
import io
import json
import shlex
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pyarrow as pa
import pytest
from helpers import run_cli
from hypothesis import given, settings
from hypothesis import strategies as st

import cxr_embed as cx
from cxr_embed.cli.manifest_convert import mapped
from cxr_embed.errors import ManifestError
from cxr_embed.manifest import read_labels, read_manifest

THEIRS = """Image Index,File,Patient ID,Gender,Age,Effusion,Mass,Reader's notes
a,x/a.png,p1,Female,058Y,positive,1.00,"seen, twice"
b,x/b.png,p2,M,34,negative,True,
c,x/c.png,p2,M,,Unknown,no,NaN
"""


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def theirs(tmp_path: Path) -> Path:
    path = tmp_path / "their table.csv"
    path.write_text(THEIRS)
    return path


def test_a_table_becomes_a_manifest_that_every_reader_takes(theirs: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.csv"
    made = cx.convert_manifest(
        theirs,
        out=out,
        id="Image Index",
        path="File",
        patient="Patient ID",
        rename={"Gender": "sex", "Age": "age", "Mass": "Tumour"},
        map={"POSITIVE": 1, "negative": 0, "unknown": None},
        not_findings=["Reader's notes"],
        blank="negative",
    )
    assert rows_of(out) == [
        {
            **{"image_id": "a", "path": "x/a.png", "patient_id": "p1", "sex": "F", "age": "58"},
            **{"Effusion": "1", "Tumour": "1", "Reader's notes": "seen, twice"},
        },
        {
            **{"image_id": "b", "path": "x/b.png", "patient_id": "p2", "sex": "M", "age": "34"},
            **{"Effusion": "0", "Tumour": "1", "Reader's notes": ""},
        },
        {
            **{"image_id": "c", "path": "x/c.png", "patient_id": "p2", "sex": "M", "age": ""},
            **{"Effusion": "", "Tumour": "0", "Reader's notes": "NaN"},
        },
    ]
    assert next(iter(rows_of(out)[0])) == "image_id"
    read = read_manifest(out)
    assert read.findings == made.manifest.findings == ("Effusion", "Tumour")
    assert read.blank == "negative"
    assert read.labels().values.tolist() == [[1, 1], [0, 1], [0, 0]]
    text = repr(made)
    assert "image_id is the column Image Index" in text
    assert "Unknown is blank in 1 cell of Effusion" in text
    assert "not findings: Reader's notes" in text
    body = made.to_json()
    assert {"column": "Effusion", "value": "positive", "to": "1", "cells": 1} in body["changes"]
    assert json.loads(json.dumps(body)) == body


def test_the_same_again_changes_nothing_and_another_table_is_never_replaced(theirs: Path, tmp_path: Path) -> None:
    out = tmp_path / "ours.csv"
    how = {"id": "Image Index", "drop": ["File", "Patient ID", "Gender", "Age", "Reader's notes"]}
    words = {"positive": 1, "negative": 0}
    with pytest.raises(ManifestError, match="Effusion: 'Unknown' could mean anything: say what with `map`"):
        cx.convert_manifest(theirs, out=out, map=words, **how)
    assert not out.exists()
    cx.convert_manifest(theirs, out=out, map={**words, "Unknown": -1}, **how)
    before = out.read_bytes(), out.with_suffix(".json").read_bytes()
    cx.convert_manifest(theirs, out=out, map={**words, "Unknown": -1}, **how)
    assert (out.read_bytes(), out.with_suffix(".json").read_bytes()) == before
    with pytest.raises(ManifestError, match="there already, with other rows than this manifest has"):
        cx.convert_manifest(theirs, out=out, map={**words, "Unknown": None}, **how)
    assert out.read_bytes() == before[0]
    labels = read_labels(out)
    assert labels.table.column_names == ["image_id", "Effusion", "Mass"]


@pytest.mark.parametrize(
    ("how", "problem"),
    [
        ({"id": "Image index"}, "Image index: the table has no such column; did you mean Image Index?"),
        ({"id": "Image Index", "path": "File"}, "no column says whose the radiographs are: name it with `patient`"),
        ({"id": "Image Index", "drop": ["Image Index"]}, "Image Index is left out with `drop`, and used all the same"),
        ({"id": "Image Index", "rename": {"Mass": "Effusion"}}, "Mass: Effusion is a column already"),
        (
            {"id": "Image Index", "rename": {"Mass": "image_id"}},
            "`rename` Mass=image_id: image_id is made of Image Index",
        ),
        ({"id": "Image Index", "map": {"positive": 2}}, "`map` positive=2: a finding is 1, 0, -1 or blank"),
        ({"id": "Image Index", "map": {"": 0}}, "`map` of a blank: say what blanks count as with `blank`"),
        ({"id": "Image Index", "map": {"Mas": {"no": 0}}}, "Mas: the table has no such column; did you mean Mass?"),
        ({"id": "Image Index", "not_findings": ["Notes"]}, "Notes: the table has no such column"),
        ({"id": "Image Index", "drop": ["File"]}, "Patient ID: 'p1', 'p2' could mean anything"),
        ({}, "column image_id is missing"),
        ({"id": "Image Index", "root": "nowhere"}, "nowhere: no such folder"),
        ({"id": "Image Index", "rename": {"Mass": ""}}, "`rename` is OLD=NEW, two columns' names"),
        ({"id": 3}, "`id` is text, not 3"),
    ],
)
def test_what_is_unclear_is_refused_by_its_name(theirs: Path, how: dict, problem: str) -> None:
    with pytest.raises(cx.CxrEmbedError) as error:
        cx.convert_manifest(theirs, **how)
    assert problem in str(error.value)


def test_odd_names_and_row_numbers(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(",image_id,Mass\n0,a,1\n1,b,0\n")
    made = cx.convert_manifest(path)
    assert made.to_arrow().column_names == ["image_id", "Mass"]
    assert made.converted.dropped == ("column 1, row numbers without a name",)
    path.write_text(",image_id,Mass\n7,a,1\n1,b,0\n")
    with pytest.raises(ManifestError, match="column 1 has no name; give it one"):
        cx.convert_manifest(path)
    path.write_text("image_id,Mass,Mass\na,1,0\n")
    with pytest.raises(ManifestError, match="column Mass stands twice"):
        cx.convert_manifest(path)
    path.write_text("image_id,Mass\na\n")
    with pytest.raises(ManifestError, match="another number of values"):
        cx.convert_manifest(path)


def test_tables_in_memory_and_absolute_paths(tmp_path: Path) -> None:
    files = [str(tmp_path / "images" / name) for name in ("a.png", "b.png")]
    (tmp_path / "images").mkdir()
    table = pa.table({"file": files, "Mass": [1.0, None], "who": ["p", "q"]})
    with pytest.raises(ManifestError, match="path must be relative"):
        cx.convert_manifest(table, id="file", path="file", patient="who")
    made = cx.convert_manifest(
        table, id="file", path="file", patient="who", root=tmp_path / "images", out=tmp_path / "x" / "m.csv"
    )
    assert made.manifest.table["path"].to_pylist() == ["a.png", "b.png"]
    assert made.manifest.table["image_id"].to_pylist() == files
    assert read_manifest(tmp_path / "x" / "m.csv").root.resolve() == (tmp_path / "images").resolve()
    own = cx.convert_manifest(
        table, id="file", path="file", patient="file", rename={"Mass": "M"}, drop=["who"], root=tmp_path
    )
    assert own.to_arrow().column_names == ["image_id", "path", "patient_id", "M"]


def test_values_of_one_column_and_words_that_no_cell_has(theirs: Path) -> None:
    made = cx.convert_manifest(
        theirs,
        id="Image Index",
        rename={"Gender": "sex"},
        map={"positive": 1, "negative": 0, "Unknown": -1, "sometimes": -1, "Gender": {"FEMALE": "O"}},
        drop=["File", "Patient ID", "Age", "Reader's notes"],
    )
    assert made.to_arrow()["sex"].to_pylist() == ["O", "M", "M"]
    assert made.to_arrow()["Effusion"].to_pylist() == ["1", "0", "-1"]
    assert made.converted.notes == ("no finding has the value 'sometimes' (`map`)",)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from(["Yes", "no", "pos", "", "-1", "1.0", "unsure", "0"]), min_size=1), st.data())
def test_values_become_what_a_plain_loop_makes_of_them(cells: list[str], data: st.DataObject) -> None:
    words = {"pos": "1", "unsure": data.draw(st.sampled_from(["", "-1"]))}
    known = {"yes": "1", "no": "0", "": "", "-1": "-1", "1.0": ("1", "1.0"), "0": "0"}
    table = pa.table({"image_id": [f"i{n}" for n in range(len(cells))], "X": cells})
    made = cx.convert_manifest(table, map=words).to_arrow()["X"].to_pylist()
    for cell, to in zip(cells, made, strict=True):
        wanted = words.get(cell, known.get(cell.lower()))
        assert to in wanted if isinstance(wanted, tuple) else to == wanted


def test_the_command_in_a_message_makes_the_manifest(theirs: Path) -> None:
    with pytest.raises(ManifestError) as error:
        read_manifest(theirs)
    cure = error.value.cure
    assert str(error.value).endswith(f"\na manifest can be made of it: {cure}")
    words = shlex.split(cure)
    assert words[:3] == ["cxr-embed", "manifest", "convert"]
    result = run_cli(*words[1:])
    assert result.returncode == 0, result.stderr
    made = read_manifest(theirs.with_name("their table-manifest.csv"))
    assert made.findings == ("Effusion", "Mass")
    assert made.column("sex").tolist() == ["", "", ""]  # Gender is nobody's known name: it is kept beside
    assert made.companion is not None
    assert made.companion.not_findings == ("Gender", "Reader's notes")
    validated = run_cli("manifest", "validate", str(theirs), "--json")
    assert json.loads(validated.stdout)["convert"] == cure


@pytest.mark.parametrize(
    "text",
    [
        "image_id,path,patient_id,Mass\na,a.png,p,maybe\nb,b.png,p,1\n",  # what maybe is, somebody must say
        "image_id,path,patient_id,Mass\na,a.png,p,1\na,b.png,p,1\n",  # an id twice
        "thing,Mass\na,1\n",  # nothing says which image
        "image_id,path,patient_id,split,Mass\na,a.png,p,x,1\nb,b.png,p,y,no idea\n",  # a patient in two splits
        "image_id,Mass,Mass\na,1,yep\n",
        "image_id,path,patient_id,Mass\na,a.png,p,1\nb,b.png\n",  # a row that is none
    ],
)
def test_no_command_is_named_that_would_not_help(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(ManifestError) as error:
        read_manifest(path)
    assert error.value.cure == ""
    assert "convert" not in str(error.value)


def test_names_with_every_sign_survive_the_shell(tmp_path: Path) -> None:
    folder = tmp_path / "a b $(x)"
    folder.mkdir()
    path = folder / "it's.csv"
    path.write_text(
        "Image Index,Path,Patient ID,\"odd, 'name' `x`\",Mass\na,a.png,p,text,Positive\nb,b.png,p,,negative\n"
    )
    with pytest.raises(ManifestError) as error:
        read_manifest(path)
    result = run_cli(*shlex.split(error.value.cure)[1:])
    assert result.returncode == 0, result.stderr
    assert read_manifest(folder / "it's-manifest.csv").findings == ("Mass",)


def test_a_publisher_s_own_table_names_its_recipe(tmp_path: Path) -> None:
    path = tmp_path / "Data_Entry_2017_v2020.csv"
    path.write_text(
        "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n"
        "a.png,Mass,0,1,34,M,PA\n"
    )
    result = run_cli("manifest", "validate", str(path))
    assert result.returncode == 1
    assert "this is NIH ChestX-ray14's own table" in result.stderr
    assert f"manifest scan {tmp_path} --recipe nih-chestxray14" in result.stderr
    assert json.loads(run_cli("manifest", "validate", str(path), "--json").stdout)["recipe"] == "nih-chestxray14"


def test_words_of_map() -> None:
    assert mapped(["Yes=1,No=0", "Unknown="], []) == {"Yes": "1", "No": "0", "Unknown": ""}
    assert mapped(['"a,b=1", a=b=0'], []) == {"a,b": "1", "a=b": "0"}
    assert mapped(["Gender:w=F,Gender:m=M,12:30=0"], ["Gender", ""]) == {"Gender": {"w": "F", "m": "M"}, "12:30": "0"}
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said, pytest.raises(SystemExit):
        mapped(["Yes"], [])
    assert "--map 'Yes': write it as two words around a =" in said.getvalue()


def test_the_verb_says_what_it_did_and_writes_nothing_unasked(theirs: Path) -> None:
    words = ["--id", "Image Index", "--path", "File", "--patient", "Patient ID", "--not-finding", "Reader's notes"]
    words += ["--rename", "Gender=sex", "--rename", "Age=age", "--map", "positive=1,negative=0,Unknown="]
    result = run_cli("manifest", "convert", str(theirs), *words)
    assert result.returncode == 0, result.stderr
    assert "a manifest of 3 images and 2 findings" in result.stdout
    assert "  positive is 1 in 1 cell of Effusion\n" in result.stdout
    assert "nothing written" in result.stdout
    assert [path.name for path in theirs.parent.iterdir()] == [theirs.name]
    same = run_cli("manifest", "convert", str(theirs), *words, "--out", str(theirs))
    assert same.returncode == 2
    as_json = run_cli("manifest", "convert", str(theirs), *words, "--json")
    assert json.loads(as_json.stdout)["findings"] == ["Effusion", "Mass"]
    bad = run_cli("manifest", "convert", str(theirs), *words[:-1], "positive=1")
    assert bad.returncode == 1
    assert "Effusion: 'negative', 'Unknown' could mean anything: say what with --map, as in 'negative=1'" in bad.stderr
    assert "--not-finding or --drop" in bad.stderr
