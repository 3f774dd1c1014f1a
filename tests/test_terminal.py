"""Text from files can't do anything to a terminal, a spreadsheet or a shell; what it makes is for its maker alone."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from helpers import fill, run_cli
from hypothesis import given
from hypothesis import strategies as st

from cxr_embed import open_store
from cxr_embed.cli.terminal import clean, clean_json
from cxr_embed.index.answers import write_neighbors
from cxr_embed.index.faiss.build import build_index
from cxr_embed.present.tables import plain_cell

HOSTILE = "Bad\x1b]0;owned\x07\x1b[31m\u202ereversed\x9b2J"
UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u200e\u200f]")


@given(st.text())
def test_text_is_clean_and_plain_text_stays(text: str) -> None:
    assert not UNSAFE.search(clean(text))
    clean(text).encode()
    if text.isascii() and text.isprintable():
        assert clean(text) == text


@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_says_the_same(text: str) -> None:
    written = clean_json(json.dumps([text], ensure_ascii=False))
    assert not UNSAFE.search(written)
    assert json.loads(written) == [text]


def tables(folder: Path) -> None:
    ids = [f"i{number}" for number in range(40)]
    rows = [f"{image_id},{image_id}.png,{image_id},{number % 2},{number % 2}" for number, image_id in enumerate(ids)]
    (folder / "labels.csv").write_text("\n".join([f"image_id,path,patient_id,{HOSTILE},Mass", *rows]) + "\n")
    scores = [f"{image_id},{number % 2},{number % 2}" for number, image_id in enumerate(ids)]
    (folder / "scores.csv").write_text("\n".join([f"image_id,{HOSTILE},Mass", *scores]) + "\n")


def through_a_terminal(*arguments: str, cwd: Path) -> str:
    """What a person's terminal is sent."""
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "cxr_embed", *arguments], cwd=cwd, stdout=follower, stderr=follower, stdin=follower
    )
    os.close(follower)
    told = b""
    while True:
        try:
            part = os.read(leader, 1 << 16)
        except OSError:  # Linux's end of file
            break
        if not part:
            break
        told += part
    os.close(leader)
    child.wait()
    return told.decode()


@pytest.mark.parametrize(
    "verb", [("evaluate", "scores.csv", "labels.csv", "--bootstraps", "0"), ("manifest", "validate", "labels.csv")]
)
def test_names_do_nothing_to_a_terminal(tmp_path: Path, verb: tuple[str, ...]) -> None:
    tables(tmp_path)
    for told in (through_a_terminal(*verb, cwd=tmp_path), "".join(run_of(tmp_path, verb))):
        assert "Bad" in told, told
        # What is left of escapes is rich's own: bold and its end.
        left = re.sub(r"\x1b\[[01]m", "", told.replace("\r\n", "\n"))
        assert not UNSAFE.search(left), repr(left)


def run_of(folder: Path, verb: tuple[str, ...]) -> tuple[str, str]:
    done = run_cli(*verb, cwd=folder)
    return done.stdout, done.stderr


def test_a_terminal_without_accents_gets_codes(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image_id,path,patient_id,\u00c9panchement\na,a.png,p,1\n", encoding="utf-8")
    plain = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = run_cli("manifest", "validate", "m.csv", cwd=tmp_path, env=plain)
    assert "findings: \\xc9panchement" in done.stdout
    assert "Traceback" not in done.stderr


def test_json_keeps_the_name(tmp_path: Path) -> None:
    tables(tmp_path)
    done = run_cli("evaluate", "scores.csv", "labels.csv", "--bootstraps", "0", "--json", cwd=tmp_path)
    assert not UNSAFE.search(done.stdout)
    assert HOSTILE in [finding["finding"] for finding in json.loads(done.stdout)["findings"]]


def test_the_hostile_tables(real_data: Path) -> None:
    hostile = real_data / "cases" / "hostile"
    if not hostile.is_dir():
        pytest.skip("no cases here")
    told = through_a_terminal("manifest", "validate", "manifest-with-escapes.csv", cwd=hostile)
    assert "Bad" in told
    assert "\x1b[31m" not in told


@pytest.mark.parametrize("cell", ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1"])
def test_no_cell_for_people_is_a_formula(tmp_path: Path, cell: str) -> None:
    assert plain_cell(cell) == "'" + cell
    write_neighbors(tmp_path / "n.csv", [{"image_id": cell, "similarity": -0.5, "site": "a"}], ["site"])
    assert (tmp_path / "n.csv").read_text().splitlines()[1].lstrip('"').startswith("'")
    assert ",-0.5,a" in (tmp_path / "n.csv").read_text()


@pytest.mark.parametrize("cell", ["-1", "-0.5", "+3e-05", "img-7", "", -1.0, None])
def test_numbers_and_names_stay(cell: object) -> None:
    assert plain_cell(cell) == cell


def test_an_index_is_for_its_maker(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(3))
    before = os.umask(0o022)
    try:
        build_index(open_store(tmp_path / "s"), tmp_path / "i")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "i").stat().st_mode) == 0o700


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
@pytest.mark.parametrize("images", ["$(shell touch owned)", "$$(touch owned)", "`touch owned`", '"; touch owned; "'])
def test_a_folder_that_is_named_like_a_command_is_a_name(tmp_path: Path, images: str) -> None:
    for name in ("bin/python", ".core", "bin/cxr-embed"):
        path = tmp_path / "venv" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
        path.chmod(0o755)
    os.utime(tmp_path / "venv" / ".core", (2**32, 2**32))
    (tmp_path / "pyproject.toml").touch()
    done = subprocess.run(
        ["make", "-s", "-f", ROOT / "Makefile", "demo", f"VENV={tmp_path / 'venv'}", f"IMAGES={images}"],
        cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ, "MAKEFLAGS": ""},
    )  # fmt: skip
    assert not (tmp_path / "owned").exists(), done
    assert done.stdout.splitlines() == ["demo", "--images", images]
