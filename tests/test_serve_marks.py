"""Marks in the case browser, in this process: what a reader marks is shown, undone and taken along."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_world import ADDRESS, HOSTILE, SECRET, Visitor, make_hostile, visitor
from typer.testing import CliRunner

from cxr_embed.cli import app
from cxr_embed.errors import MarksError
from cxr_embed.marks import Act, MarkedCase, ReaderMarks, file, marks_path
from cxr_embed.web.serving import open_site

FINDING = f"Effusion{HOSTILE}"
PART = {"x-part-of-a-page": "1", "content-type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hostile(tmp_path_factory.mktemp("marked"))


@pytest.fixture(autouse=True)
def _no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """See test_marks."""
    monkeypatch.setattr(file, "_FLUSH", "OFF")


@pytest.fixture
def reading(folder: Path) -> Iterator[Visitor]:
    """A reader whose file of marks is new."""
    yield visitor(folder)
    marks_path(folder / "index").unlink(missing_ok=True)


def post(reading: Visitor, status: int = 200, **fields: Any) -> Any:
    answer = reading.client.post("/api/marks", json=fields)
    assert answer.status_code == status, answer.text
    return answer.json()


def form(reading: Visitor, **fields: str) -> Any:
    return reading.client.post("/marks", data=fields, headers=PART)


def test_marks_are_made_shown_and_undone(reading: Visitor) -> None:
    made = post(reading, case=["c1", "c2"], do="yes", finding="Effusion")
    assert made["cases"][0] == {"image_id": "c1", "labels": {"Effusion": "yes"}, "lists": [], "note": ""}
    post(reading, case=["c2"], do="list", list="for Monday")
    post(reading, case=["c2"], do="note", note="small")
    known = reading.client.get("/api/marks").json()
    assert known["reader"] == "reader"
    assert known["cases"][1] == {
        "image_id": "c2",
        "labels": {"Effusion": "yes"},
        "lists": ["for Monday"],
        "note": "small",
    }
    for page in (reading.client.get("/").text, reading.client.get("/marks?list=for+Monday").text):
        assert page.count("<b>yes</b>") == (2 if "Search similar" in page else 1)
        assert '<p class="noted">small</p>' in page
    assert post(reading, do="undo")["cases"] == [{**known["cases"][1], "note": ""}]
    assert post(reading, do="undo", step=made["step"])["cases"][0]["labels"] == {}
    assert post(reading, do="undo", step=made["step"]) == {"step": None, "cases": []}
    assert post(reading, do="redo")["cases"][0]["labels"] == {"Effusion": "yes"}
    post(reading, case=["c1"], do="unlabel", finding="Effusion")
    assert [case["image_id"] for case in reading.client.get("/api/marks").json()["cases"]] == ["c2"]


def test_marks_are_read_anew_only_when_they_or_the_index_changed(
    reading: Visitor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = list[int]()
    every = ReaderMarks.every
    monkeypatch.setattr(ReaderMarks, "every", lambda marks: (read.append(1), every(marks))[1])

    def marked() -> list[str]:
        return [case["image_id"] for case in reading.client.get("/api/marks").json()["cases"]]

    assert marked() == []
    other = ReaderMarks(marks_path(folder / "index"), "reader")  # another server
    other.mark([MarkedCase("c5", content_of(reading, "c5"))], Act.listing("for Monday"))
    assert marked() == ["c5"]
    assert [marked() for _ in range(3)] == [["c5"]] * 3
    assert "c5" in reading.client.get("/marks").text
    assert "c5" in reading.client.get("/api/marks/labels.csv?list=for+Monday").text
    assert len(read) == 2
    other.undo()
    assert marked() == []
    other.redo()
    assert marked() == ["c5"]
    assert len(read) == 4
    make_hostile(folder, 12, 0)
    assert marked() == ["c5"]
    assert len(read) == 5


def content_of(reading: Visitor, image_id: str) -> str:
    index = reading.site.state.current().index
    (case,) = index.cases(index.rows_of([image_id]), ["content"])
    return str(case["content"].hex())


def test_a_form_brings_its_parts_of_the_page(reading: Visitor) -> None:
    answer = form(reading, case="c3", do="unsure", finding="Effusion", list="")
    assert answer.status_code == 200
    assert "<b>unsure</b>" in answer.text
    assert "c3, Effusion: unsure" in answer.text
    assert "<html" not in answer.text
    undone = form(reading, do="undo", step=str(reading.client.get("/api/marks").json()["undo"]))
    assert "<b>unsure</b>" not in undone.text
    plain = reading.client.post("/marks", data={"case": "c3", "do": "yes", "finding": "x"}, follow_redirects=False)
    assert (plain.status_code, plain.headers["location"]) == (303, "/marks")  # a browser without scripts


def test_labels_are_downloaded(reading: Visitor) -> None:
    post(reading, case=["c4"], do="no", finding="Effusion")
    post(reading, case=["c2"], do="yes", finding="Effusion")
    post(reading, case=["c2", "c5"], do="list", list="a")
    post(reading, case=["c2"], do="note", note="=1+1")
    answer = reading.client.get("/api/marks/labels.csv")
    assert "attachment" in answer.headers["content-disposition"]
    assert list(csv.reader(io.StringIO(answer.text))) == [
        ["image_id", "patient_id", "Effusion"],
        ["c2", "p1", "1"],
        ["c4", "p2", "0"],
    ]
    listed = reading.client.get("/api/marks/labels.csv?list=a&notes=true").text
    assert list(csv.reader(io.StringIO(listed)))[1:] == [["c2", "p1", "1", "'=1+1"], ["c5", "p2", "", ""]]
    assert reading.client.get("/api/marks/labels.csv?list=b").status_code == 400


def test_hostile_texts_are_text(reading: Visitor) -> None:
    post(reading, case=["c1"], do="yes", finding=FINDING)
    post(reading, case=["c1"], do="list", list=HOSTILE)
    post(reading, case=["c1"], do="note", note=HOSTILE)
    asked = ("/", "/marks", f"/marks?list={HOSTILE}", f"/marks?finding={HOSTILE}")
    pages = [reading.client.get(each).text for each in asked]
    pages.append(form(reading, case="c1", do="no", finding=FINDING).text)
    for page in pages:
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert SECRET not in page
    assert "&lt;script&gt;alert" in pages[1]


def test_the_log_and_errors_have_no_notes(reading: Visitor) -> None:
    reading.lines.clear()
    post(reading, case=["c1"], do="note", note="Doe Jane")
    post(reading, 400, case=["c1"], do="note", note="Doe Jane" * 400)
    form(reading, case="Doe Jane", do="note", note="Doe Jane")
    assert len(reading.lines) == 3
    assert not any("Doe" in line for line in reading.lines)


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"do": "yes", "finding": "x"}, 400, "Name a case"),
        ({"do": "yes", "case": ["nobody"], "finding": "x"}, 400, "has no case nobody"),
        ({"do": "yes", "case": ["c1"], "finding": " "}, 400, "has no name"),
        ({"do": "yes", "case": ["c1"], "finding": "path"}, 400, "means something else"),
        ({"do": "delete"}, 422, "do: Input should be"),
        ({"do": "undo", "step": 1 << 63}, 422, "step: Input should be less"),
        ({"do": "undo", "step": -1}, 422, "step: Input should be greater"),
        ({"do": "yes", "case": ["c1"] * 5001, "finding": "x"}, 422, "at most 5000"),
        ({"do": "note", "case": ["c1"], "note": "x" * (300 << 10)}, 413, "more than"),
    ],
)
def test_what_cannot_be_marked_is_said(reading: Visitor, fields: dict[str, Any], status: int, said: str) -> None:
    assert said in post(reading, status, **fields)["error"]
    assert not marks_path(reading.site.state.path).exists()


def test_other_sites_mark_nothing(reading: Visitor) -> None:
    fields = {"case": "c1", "do": "yes", "finding": "x"}
    for headers in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}):
        assert reading.client.post("/marks", data=fields, headers=headers).status_code == 403
        assert reading.client.post("/api/marks", json=fields, headers=headers).status_code == 403
    assert reading.client.post("/api/marks", content=b"\xff", headers={"origin": ADDRESS}).status_code == 400
    assert reading.client.get("/api/marks").json()["cases"] == []


def test_each_reader_has_marks_of_their_own(reading: Visitor, folder: Path) -> None:
    post(reading, case=["c1"], do="yes", finding="Effusion")
    other = visitor(folder, reader="Dr. B")
    assert other.client.get("/api/marks").json()["cases"] == []
    assert "Marks of Dr. B" in other.client.get("/").text
    assert post(other, do="undo")["step"] is None
    with pytest.raises(MarksError, match="no name"):
        open_site(folder / "index", reader=" ")


def test_a_mark_of_another_picture_is_not_believed(reading: Visitor, folder: Path) -> None:
    post(reading, case=["c1"], do="yes", finding="Effusion")
    ((case, _),) = reading.site.marks.every()
    other = case._replace(content="ff" * 32)
    ReaderMarks(marks_path(folder / "index"), "reader").mark([other], Act.label("Mass", "yes"))
    known = reading.client.get("/api/marks").json()
    assert known["cases"][0]["labels"] == {"Effusion": "yes"}
    assert known["left_out"] == 1
    assert "1 more: the index does not have the case" in reading.client.get("/marks").text


def test_a_damaged_file_is_said_and_searches_go_on(reading: Visitor, folder: Path) -> None:
    path = marks_path(folder / "index")
    path.write_bytes(b"no marks at all")
    page = reading.client.get("/")
    assert page.status_code == 200
    assert "damaged, or not a file of marks" in page.text
    for answer in (reading.client.get("/marks"), form(reading, case="c1", do="yes", finding="x")):
        assert answer.status_code == 400
        assert str(folder) not in answer.text
    done = CliRunner().invoke(app, ["serve", str(folder / "index")])
    message = done.output + str(done.exception)
    assert done.exit_code == 1
    assert "damaged, or not a file of marks" in message
