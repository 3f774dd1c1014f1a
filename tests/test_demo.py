"""`cxr-embed demo`: every step runs with what is installed, and says what a user would type."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import socket
from pathlib import Path

import numpy as np
import pytest
import synthetic_chests
from helpers import run_cli
from PIL import Image
from typer.testing import CliRunner

from cxr_embed.cli import app, demo
from cxr_embed.cli.demo import FEWEST
from cxr_embed.phantom import FINDINGS, sample_studies


def typed(output: str) -> list[list[str]]:
    return [shlex.split(line) for line in re.findall(r"^\$ cxr-embed (.*)$", output, re.MULTILINE)]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder = tmp_path_factory.mktemp("demo")
    done = run_cli("demo", "--count", str(FEWEST), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done.stdout


def test_the_whole_way(shown: tuple[Path, str]) -> None:
    folder, output = shown
    verbs = [words[0] for words in typed(output)]
    assert verbs == ["phantom", "embed", "probe", "probe", "zeroshot", "index", "search", "search", "report"]
    assert "For research; not a medical device." in output
    made = folder / "demo" / "phantoms"
    assert "<svg" in (made / "report.html").read_text()
    report = json.loads((made / "report.json").read_text())
    assert report["data"]["origins"] == ["phantoms"]
    assert report["published"] is None  # figures of patients are no measure of phantoms
    for picture in ("similar.png", "words.png"):
        assert Image.open(made / picture).size[0] > 500


def test_every_finding_gets_its_16_labels(shown: tuple[Path, str]) -> None:
    _, output = shown
    assert "probe: linear probe of 8 findings" in output
    assert "left out" not in output
    ill = [study for study in sample_studies(FEWEST) if study.split == "train"]
    for name in FINDINGS:
        patients = {s.patient.patient_id for s in ill if name in {finding.name for finding in s.findings}}
        assert len(patients) >= 16, name


def test_too_few_phantoms_are_refused_before_any_is_drawn(tmp_path: Path) -> None:
    done = run_cli("demo", "--count", str(FEWEST - 1), cwd=tmp_path)
    assert done.returncode == 2
    assert f"greater than or equal to {FEWEST}" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_printed_is_what_was_done(shown: tuple[Path, str]) -> None:
    folder, output = shown
    again = next(words for words in typed(output) if words[0] == "search" and "--text" in words)
    done = run_cli(*again, cwd=folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in output


def test_its_page_is_one_command_away(shown: tuple[Path, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="needs cxr-embed[web]")
    folder, output = shown
    monkeypatch.chdir(folder)
    (line,) = re.findall(r"^Its cases in a web page: cxr-embed (.*)$", output, re.MULTILINE)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = CliRunner().invoke(app, [*shlex.split(line), "--port", str(taken.getsockname()[1])])
    assert "cannot be listened on" in str(done.exception)  # all else was there and belonged together


def test_serve_opens_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi", reason="needs cxr-embed[web]")
    images = tmp_path / "my images"
    images.mkdir()
    ran = list[tuple[str, ...]]()
    monkeypatch.setattr(demo, "_own", lambda _, folder: (folder / "made").write_text("1"))
    monkeypatch.setattr(demo, "_run", lambda *words: ran.append(words))
    done = CliRunner().invoke(app, ["demo", "--images", str(images), "--out", str(tmp_path / "o"), "--serve"])
    made = tmp_path / "o" / "own" / "my images"
    index, manifest = str(made / "index"), str(made / "manifest.csv")
    scores = ("--store", str(made / "vectors"), "--prompts", "nih14")
    assert ran == [("serve", index, "--manifest", manifest, "--root", str(images), *scores)]
    assert done.exit_code == 1


def test_serve_without_its_packages_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    done = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "o"), "--serve"])
    assert done.exit_code == 2
    assert "pip install 'cxr-embed[web]'" in done.output
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_demo_is_not_touched(shown: tuple[Path, str]) -> None:
    folder, _ = shown
    before = (folder / "demo" / "phantoms" / "report.html").read_bytes()
    done = run_cli("demo", cwd=folder)
    assert done.returncode == 2
    assert "remove it, or give another --out" in done.stderr
    assert (folder / "demo" / "phantoms" / "report.html").read_bytes() == before


def test_own_radiographs_with_a_broken_one(tmp_path: Path) -> None:
    images = tmp_path / "my images"
    images.mkdir()
    for number in range(6):
        pixels = (synthetic_chests.chest(number, 256) >> 4).astype(np.uint8)
        Image.fromarray(pixels).save(images / f"c{number}.png")
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = run_cli("demo", "--images", str(images), cwd=tmp_path)
    assert done.returncode == 1  # a broken file among one's own is told in the status
    assert "Traceback" not in done.stderr
    assert [words[0] for words in typed(done.stdout)] == ["manifest", "embed", "zeroshot", "index", "search", "search"]
    assert (tmp_path / "demo" / "own" / "my images" / "similar.png").is_file()


def test_own_files_of_which_none_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    done = run_cli("demo", "--images", "images", cwd=tmp_path)
    assert done.returncode == 1
    assert [words[0] for words in typed(done.stdout)] == ["manifest", "embed"]
    assert "1 image: 0 embedded, 0 unchanged, 1 failed" in done.stdout
    assert done.stderr.splitlines()[-1] == (
        "error: images: none of its files could be read, for the reasons above; "
        "remove demo/own/images, and give --images a folder of radiographs"
    )


def test_a_folder_that_is_named_like_an_option(tmp_path: Path) -> None:
    (tmp_path / "-images").mkdir()
    Image.fromarray((synthetic_chests.chest(0, 256) >> 4).astype(np.uint8)).save(tmp_path / "-images" / "c.png")
    done = run_cli("demo", "--images", "./-images", "--out", "-out", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "-out" / "own" / "-images" / "words.png").is_file()


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    done = run_cli("demo", "--images", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: nowhere: no such folder (--images)\n"


def test_a_count_of_your_own_images_is_refused(tmp_path: Path) -> None:
    done = run_cli("demo", "--images", str(tmp_path), "--count", "300", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "error: --count is of phantoms, and --images takes all of your own; leave one out\n"


def test_a_demo_that_made_nothing_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for _ in range(2):
        done = run_cli("demo", "--images", "images", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr == "error: images: no radiograph found; folder reads **/*, and no file is here\n"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = run_cli("demo", "--out", "file", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "error: file/phantoms: cannot be made (Not a directory); give another --out\n"
