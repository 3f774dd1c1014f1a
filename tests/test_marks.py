"""Readers' marks: nothing is lost, every undo is exact, and `forget` reaches all of it."""

from __future__ import annotations

import csv
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_world import make_index, make_store
from typer.testing import CliRunner

import cxr_embed
from cxr_embed import open_store
from cxr_embed.cli import app
from cxr_embed.errors import MarksError
from cxr_embed.forget import forget
from cxr_embed.index.faiss.build import build_index
from cxr_embed.manifest import read_labels
from cxr_embed.marks import Act, CaseMarks, MarkedCase, ReaderMarks, check_marks, file, marks_path, readers_of

ROOT = Path(__file__).parents[1]
ONE, TWO = (MarkedCase(f"c{number}", f"{number:02x}" * 32, f"p{number}") for number in (1, 2))
YES, NO = Act.label("Effusion", "yes"), Act.label("Effusion", "no")


@pytest.fixture(autouse=True)
def _no_power_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here is about what is on the disk when the machine stops, and flushing takes its time."""
    monkeypatch.setattr(file, "_FLUSH", "OFF")


@pytest.fixture
def mine(tmp_path: Path) -> ReaderMarks:
    return ReaderMarks(tmp_path / "index.marks.sqlite", "mine")


# The journal


def test_marks_are_read_back(mine: ReaderMarks) -> None:
    assert mine.every() == []
    assert mine.last() == (None, None)
    assert not mine.path.exists()  # a look makes no file
    mine.mark([ONE, TWO], YES)
    mine.mark([ONE], Act.label("Mass", "unsure"))
    mine.mark([ONE], Act.listing("for Monday"))
    mine.mark([TWO], Act.note(" first line\r\nsecond "))
    assert mine.of([ONE, TWO]) == {
        "c1": CaseMarks({"Effusion": "yes", "Mass": "unsure"}, ("for Monday",)),
        "c2": CaseMarks({"Effusion": "yes"}, note="first line\nsecond"),
    }
    assert {case for case, _ in mine.every()} == {ONE, TWO}
    assert mine.used_last() == {"label": "Mass", "list": "for Monday"}
    mine.mark([TWO], NO)
    mine.mark([TWO], Act.note(""))
    assert mine.of([TWO]) == {"c2": CaseMarks({"Effusion": "no"})}
    assert mine.mark([TWO], NO) is None  # changes nothing, so there is nothing to undo
    assert str(mine.last()[0]) == "c2, note deleted"


def test_a_step_is_undone_as_it_was_made(mine: ReaderMarks) -> None:
    mine.mark([ONE], NO)
    step = mine.mark([ONE, TWO], YES)
    undone = mine.undo()
    assert undone is not None
    assert (undone.number, undone.cases, str(undone)) == (step, ("c1", "c2"), "2 cases, Effusion: yes")
    assert mine.of([ONE, TWO]) == {"c1": CaseMarks({"Effusion": "no"})}
    assert mine.redo() == undone
    assert mine.of([ONE, TWO])["c2"].labels == {"Effusion": "yes"}
    assert mine.redo() is None


def test_two_tabs_undo_what_each_of_them_shows(mine: ReaderMarks) -> None:
    first = mine.mark([ONE], YES)
    mine.mark([TWO], YES)  # in the other tab
    assert mine.undo(first) is not None
    assert mine.of([ONE, TWO]) == {"c2": CaseMarks({"Effusion": "yes"})}
    assert mine.undo(first) is None  # once is enough


def test_readers_do_not_see_or_undo_each_other(mine: ReaderMarks) -> None:
    other = ReaderMarks(mine.path, "other")
    step = mine.mark([ONE], YES)
    assert other.of([ONE]) == {}
    assert other.undo() is None
    assert other.undo(step) is None
    other.mark([ONE], NO)
    mine.undo()
    assert other.redo() is None
    assert (mine.of([ONE]), other.of([ONE])["c1"].labels) == ({}, {"Effusion": "no"})
    assert readers_of(mine.path) == ["mine", "other"]


def test_another_picture_under_the_same_id_has_none_of_the_marks(mine: ReaderMarks) -> None:
    mine.mark([ONE], YES)
    other = ONE._replace(content="ff" * 32)
    assert mine.of([other]) == {}
    mine.mark([other], NO)
    assert mine.of([ONE])["c1"].labels == {"Effusion": "yes"}
    assert mine.of([other])["c1"].labels == {"Effusion": "no"}


@dataclass
class Reference:
    """An editor's two stacks, each state kept whole."""

    now: dict[tuple[str, str, str], str] = field(default_factory=dict)
    before: list[dict[tuple[str, str, str], str]] = field(default_factory=list)
    after: list[dict[tuple[str, str, str], str]] = field(default_factory=list)

    def mark(self, cases: Sequence[str], act: Act) -> None:
        changed = {**self.now, **{(case, act.kind, act.name): act.value for case in cases}}
        changed = {key: value for key, value in changed.items() if value}
        if changed != self.now:
            self.before.append(self.now)
            self.now, self.after = changed, []

    def undo(self) -> None:
        if self.before:
            self.after.append(self.now)
            self.now = self.before.pop()

    def redo(self) -> None:
        if self.after:
            self.before.append(self.now)
            self.now = self.after.pop()


ACTS = st.one_of(
    st.builds(Act.label, st.sampled_from(["Effusion", "Mass"]), st.sampled_from(["yes", "no", "unsure", ""])),
    st.builds(Act.listing, st.sampled_from(["a", "b"]), st.booleans()),
    st.builds(Act.note, st.sampled_from(["", "x", "y"])),
)
WORDS = st.one_of(
    st.tuples(st.lists(st.sampled_from(["c1", "c2", "c3"]), min_size=1, unique=True), ACTS),
    st.sampled_from(["undo", "redo", "undo", "redo"]),
)


@settings(max_examples=15)
@given(st.lists(st.tuples(st.sampled_from(["one", "other"]), WORDS), max_size=16))
def test_the_journal_is_two_stacks_a_reader(tmp_path_factory: pytest.TempPathFactory, words: list) -> None:  # type: ignore[type-arg]
    path = tmp_path_factory.mktemp("journal") / "x.marks.sqlite"
    readers = {name: (ReaderMarks(path, name), Reference()) for name in ("one", "other")}
    for name, word in words:
        marks, reference = readers[name]
        if isinstance(word, str):
            getattr(marks, word)()
            getattr(reference, word)()
        else:
            marks.mark([MarkedCase(case, "") for case in word[0]], word[1])
            reference.mark(*word)
    for marks, reference in readers.values():
        found = {}
        for case, made in marks.every():
            found |= {(case.image_id, "label", key): value for key, value in made.labels.items()}
            found |= {(case.image_id, "list", key): "in" for key in made.lists}
            found |= {(case.image_id, "note", ""): made.note} if made.note else {}
        assert found == reference.now
        undo, redo = marks.last()
        assert (undo is not None, redo is not None) == (bool(reference.before), bool(reference.after))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Act.label("Effusion", "maybe"), "is not a label"),
        (lambda: Act.label(" ", "yes"), "the finding has no name"),
        (lambda: Act.label("Patient_ID", "yes"), "means something else"),
        (lambda: Act.label("note", "yes"), "means something else"),
        (lambda: Act.label("x" * 121, "yes"), "may have 120"),
        (lambda: Act.listing("a\nb"), "not text"),
        (lambda: Act.listing("\ud800"), "not text"),
        (lambda: Act.note("x" * 2001), "may have 2000"),
        (lambda: Act.note("a\x00b"), "not text"),
        (lambda: ReaderMarks(Path("x"), " "), "the reader has no name"),
    ],
)
def test_what_cannot_be_a_mark_is_refused(make, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(MarksError, match=said):
        make()


# The file


def test_the_file_is_the_reader_s_alone_and_beside_the_index(mine: ReaderMarks, tmp_path: Path) -> None:
    mine.mark([ONE], YES)
    assert mine.path.stat().st_mode & 0o777 == 0o600
    (tmp_path / "link").symlink_to(tmp_path / "index")
    assert marks_path(tmp_path / "link") == mine.path == marks_path(f"{tmp_path}/index/")
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ""] == ["index.marks.sqlite"]  # no journal


def test_marks_outlive_the_index(tmp_path: Path) -> None:
    index = make_index(tmp_path, np.eye(4, dtype=np.float32))
    marks = ReaderMarks(marks_path(index.path), "mine")
    marks.mark([ONE], YES)
    build_index(open_store(tmp_path / "store"), tmp_path / "index")
    assert marks.of([ONE])["c1"].labels == {"Effusion": "yes"}


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.write_bytes(b"not a file of SQLite at all"), "damaged, or not a file of marks"),
        (lambda path: path.write_bytes(path.read_bytes()[:5000]), "damaged"),
        (lambda path: change(path, "PRAGMA user_version=2"), "format version 2; this release reads 1"),
        (lambda path: change(path, "PRAGMA application_id=7"), "not a file of marks"),
        (lambda path: change(path, "DROP TABLE acts"), "damaged"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_in_a_line(mine: ReaderMarks, spoil, said: str) -> None:  # type: ignore[no-untyped-def]
    mine.mark([ONE], YES)
    spoil(mine.path)
    before = mine.path.read_bytes() if mine.path.is_file() else b""
    for use in (lambda: mine.mark([ONE], NO), lambda: mine.of([ONE]), lambda: (check_marks(mine.path), mine.every())):
        with pytest.raises(MarksError, match=said) as error:
            use()
        assert "\n" not in str(error.value)
        assert str(mine.path) in str(error.value)
    assert (mine.path.read_bytes() if mine.path.is_file() else b"") == before


def change(path: Path, statement: str) -> None:
    database = sqlite3.connect(path)
    database.execute(statement)
    database.commit()
    database.close()


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(MarksError, match="cannot be written"):
        ReaderMarks(tmp_path / "nowhere" / "x.marks.sqlite", "mine").mark([ONE], YES)


WRITER = """
import sys
from pathlib import Path
from cxr_embed.marks import Act, MarkedCase, ReaderMarks, file
file._FLUSH = "OFF"
marks = ReaderMarks(Path(sys.argv[1]), sys.argv[2])
for number in range(int(sys.argv[3])):
    marks.mark([MarkedCase(f"{sys.argv[2]}{number}-{part}", "") for part in range(40)], Act.label("Effusion", "yes"))
    print(number, flush=True)
"""


def writer(path: Path, reader: str, count: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", WRITER, str(path), reader, str(count)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)


def test_two_processes_at_once_lose_nothing(mine: ReaderMarks) -> None:
    others = [writer(mine.path, reader, 12) for reader in ("mine", "other")]
    threads = [
        Thread(target=lambda at=at: [mine.mark([MarkedCase(f"t{at}-{n}", "")], YES) for n in range(10)]) for at in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.communicate() and other.returncode for other in others] == [0, 0]
    assert len(mine.every()) == 12 * 40 + 20
    assert len(ReaderMarks(mine.path, "other").every()) == 12 * 40


def test_a_kill_leaves_whole_steps(mine: ReaderMarks) -> None:
    for turn in range(2):
        with writer(mine.path, f"r{turn}", 10_000) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(0.013 * turn)
            process.send_signal(signal.SIGKILL)
            said = 1 + len(process.stdout.read().splitlines())
        check_marks(mine.path)
        kept = [case.image_id for case, _ in ReaderMarks(mine.path, f"r{turn}").every()]
        assert len(kept) in (said * 40, said * 40 + 40)  # what was said to be done is, and nothing is in part
    mine.mark([ONE], YES)
    assert mine.of([ONE])


# Taking the labels along


@pytest.fixture
def marked(tmp_path: Path) -> Path:
    """An index of six cases, of which some are marked."""
    index = make_index(
        tmp_path, np.eye(6, dtype=np.float32), ["a", "a", "b", "b", "c", "c"], {"Mass": ["0", "1"] * 3}
    ).path
    marks = ReaderMarks(marks_path(index), "mine")
    cases = [MarkedCase(f"c{number}", number.to_bytes(32, "big").hex(), "aabbcc"[number]) for number in range(6)]
    marks.mark(cases[3:5], YES)
    marks.mark(cases[:1], NO)
    marks.mark(cases[:1], Act.label("Mass", "unsure"))
    marks.mark(cases[4:], Act.listing("for Monday"))
    marks.mark(cases[:1], Act.note("=1+1"))
    marks.mark([cases[2]._replace(content="ff" * 32), MarkedCase("gone", "")], YES)
    return index


def test_labels_are_a_table_that_the_rest_reads(marked: Path, tmp_path: Path) -> None:
    labels = cxr_embed.export_marks(marked)
    labels.save(tmp_path / "labels.csv")
    with open(tmp_path / "labels.csv", newline="") as file:
        assert list(csv.reader(file)) == [
            ["image_id", "patient_id", "Effusion", "Mass"],
            ["c0", "a", "0", "-1"],
            ["c3", "b", "1", ""],
            ["c4", "c", "1", ""],
        ]
    read = read_labels(tmp_path / "labels.csv")
    assert read.findings == ("Effusion", "Mass")
    assert "2 cases that are marked are not in the index as they were" in str(labels)
    assert "For research; not a medical device." in str(labels)
    cxr_embed.export_marks(marked, listed="for Monday", notes=True).save(tmp_path / "list.parquet")
    assert pq.read_table(tmp_path / "list.parquet").to_pylist() == [
        {"image_id": "c4", "patient_id": "c", "Effusion": "1", "note": ""},  # a manifest is text
        {"image_id": "c5", "patient_id": "c", "Effusion": "", "note": ""},
    ]


def test_a_manifest_of_what_was_marked(marked: Path, tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image_id,path,patient_id,Mass\nc4,x/4.png,c,1\nc0,x/0.png,a,1\nc1,x/1.png,a,0\n")
    made = cxr_embed.export_marks(marked, manifest=tmp_path / "m.csv")
    made.save(tmp_path / "out.csv")
    assert (tmp_path / "out.csv").read_text() == (
        "image_id,path,patient_id,Mass,Effusion\nc4,x/4.png,c,,1\nc0,x/0.png,a,-1,0\n"
    )
    assert "1 case that is marked is not in the manifest" in str(made)


def test_whose_marks_are_meant_is_said(marked: Path, tmp_path: Path) -> None:
    other = ReaderMarks(marks_path(marked), "other")
    other.mark([MarkedCase("c1", (1).to_bytes(32, "big").hex())], YES)
    with pytest.raises(MarksError, match="marks of mine, other; name one with `reader`"):
        cxr_embed.export_marks(marked)
    assert cxr_embed.export_marks(marked, reader="other").to_arrow()["image_id"].to_pylist() == ["c1"]
    with pytest.raises(MarksError, match="no marks of nobody"):
        cxr_embed.export_marks(marked, reader="nobody")
    with pytest.raises(MarksError, match="no list Tuesday; there is for Monday"):
        cxr_embed.export_marks(marked, reader="mine", listed="Tuesday")
    with pytest.raises(MarksError, match="nobody has marked"):
        cxr_embed.export_marks(make_index(tmp_path / "more", np.eye(2, dtype=np.float32)).path)


def test_the_verbs(marked: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "labels.csv")
    done = CliRunner().invoke(app, ["marks", "export", str(marked), "--out", out])
    assert done.exit_code == 0, done.output
    assert f"{out}: 3 cases, 2 findings" in done.output
    written = json.loads(CliRunner().invoke(app, ["marks", "export", str(marked), "--out", out, "--json"]).stdout)
    assert (written["cases"], written["findings"], written["reader"]) == (3, ["Effusion", "Mass"], "mine")
    known = json.loads(CliRunner().invoke(app, ["marks", "info", str(marked), "--json"]).stdout)
    assert known["readers"] == [
        {
            "reader": "mine",
            "cases": 4,
            "labels": {"Effusion": {"yes": 2, "no": 1, "unsure": 0}, "Mass": {"yes": 0, "no": 0, "unsure": 1}},
            "lists": {"for Monday": 2},
            "notes": 1,
            "left_out": 2,
        }
    ]
    shown = CliRunner().invoke(app, ["marks", "info", str(marked)]).stdout
    assert "=1+1" not in shown + json.dumps(known)
    for words in (["--out", str(tmp_path / "x.txt")], ["--out", out, "--list", "x"], ["--out", out, "--reader", " "]):
        done = CliRunner().invoke(app, ["marks", "export", str(marked), *words])
        assert done.exit_code != 0
        assert "Traceback" not in done.output


# A withdrawn consent


def test_forget_reaches_marks_and_whatever_names_somebody(tmp_path: Path) -> None:
    patients = ["nih-4711", "nih-4711", "nih-0815", "nih-0815"]
    index = make_index(tmp_path / "project", np.eye(4, dtype=np.float32), patients).path
    (tmp_path / "key").write_bytes(b"k" * 32)
    path = marks_path(index)
    cases = [MarkedCase(f"c{n}", n.to_bytes(32, "big").hex(), patients[n]) for n in range(4)]
    for reader in ("mine", "other"):
        marks = ReaderMarks(path, reader)
        marks.mark(cases, YES)
        marks.mark(cases[:1], Act.note("much to be said of it"))
        marks.mark(cases[2:3], Act.note("as in nih-4711, but smaller"))
        marks.mark(cases[2:3], Act.note("smaller"))
        marks.mark(cases[3:], Act.listing("like nih-4711"))
        marks.undo()
    looked = forget([index], patients=["nih-4711"], key_file=tmp_path / "key", dry_run=True)
    assert looked.marks == [{"path": str(path), "marks": 10}]
    assert b"much to be said" in path.read_bytes()
    done = forget([index], patients=["nih-4711"], key_file=tmp_path / "key")
    assert done.marks == looked.marks
    assert done.to_json()["complete"]
    left = path.read_bytes()
    for word in (b"nih-4711", b"much to be said", b"c0", b"c1", cases[0].content.encode()):
        assert word not in left
    mine = ReaderMarks(path, "mine")
    assert mine.of(cases) == {
        "c2": CaseMarks({"Effusion": "yes"}, note="smaller"),
        "c3": CaseMarks({"Effusion": "yes"}),
    }
    mine.undo()
    undone = mine.undo()
    assert undone is not None
    assert undone.cases == ("c2", "c3")
    assert mine.every() == []
    again = forget([tmp_path / "project"], patients=["nih-4711"], key_file=tmp_path / "key")
    assert again.marks == [{"path": str(path), "marks": 0}]


def test_forget_reaches_marks_whose_index_is_gone(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(b"k" * 32)
    mine = ReaderMarks(tmp_path / "old.marks.sqlite", "mine")
    mine.mark([ONE, TWO, MarkedCase("c2#1", "aa" * 32)], YES)
    done = forget([mine.path], patients=["p1"], images=["c2"], key_file=tmp_path / "key")
    assert done.marks == [{"path": str(mine.path), "marks": 3}]
    assert mine.every() == []
    mine.path.write_bytes(b"no marks")
    store = make_store(tmp_path / "store", np.eye(2, dtype=np.float32), ["p1", "p2"])
    done = forget([store, mine.path], patients=["p1"], key_file=tmp_path / "key")
    assert "damaged, or not a file of marks" in done.problems[0]
    assert not done.to_json()["complete"]
