"""A fork of the tests' launcher does what a new process does."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import helpers
import pytest
from launcher import Launcher

if sys.platform != "linux":
    pytest.skip("forks are used on Linux alone", allow_module_level=True)

BROKEN = "def make(name, **options):\n    raise RuntimeError('a fault of ours')\n"


@pytest.fixture(scope="module")
def launcher() -> Launcher:
    return helpers.shared_launcher()


def new_process(words: list[str], cwd: Path) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "cxr_embed", *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, stdin=subprocess.DEVNULL)
    return done.returncode, done.stdout, done.stderr


def forked(launcher: Launcher, words: list[str], cwd: Path) -> tuple[int, str, str]:
    done = launcher.run(words, cwd, os.environ)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["--version"], 0),
        (["prompts", "nih14"], 0),
        (["embed", "nowhere.csv", "--store", "s"], 1),
        (["evaluate", "--no-such-flag"], 2),
        (["search", "nowhere", "--text", "é\u202e", "--json"], 1),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_fork_ends_as_a_new_process_does(launcher: Launcher, tmp_path: Path, words: list[str], status: int) -> None:
    done = forked(launcher, words, tmp_path)
    assert done[0] == status
    assert done == new_process(words, tmp_path)


def test_modules_are_found_in_the_callers_folder_and_faults_are_told(
    launcher: Launcher, make_images: Callable[..., Path], tmp_path: Path
) -> None:
    make_images(1)
    (tmp_path / "images" / "broken_encoder.py").write_text(BROKEN)
    words = ["embed", "manifest.csv", "--encoder", "broken_encoder:make", "--store", "s"]
    done = forked(launcher, words, tmp_path / "images")
    real = new_process(words, tmp_path / "images")
    assert done[:2] == real[:2] == (1, "")
    assert done[2].endswith("RuntimeError: a fault of ours\n")
    inside = "cxr_embed/__main__.py"  # above it is whoever started the program
    assert done[2].partition(inside)[2] == real[2].partition(inside)[2]


def test_each_call_has_its_own_folder_variables_and_umask(launcher: Launcher, tmp_path: Path) -> None:
    words = ["phantom", "cases", "--count", "1", "--size", "64"]
    before = os.umask(0o077)
    try:
        launcher.run(words, tmp_path, os.environ)
    finally:
        os.umask(before)
    assert (tmp_path / "cases" / "manifest.csv").stat().st_mode & 0o077 == 0
    (tmp_path / "later").mkdir()
    launcher.run(words, tmp_path / "later", os.environ)
    assert (tmp_path / "later" / "cases" / "manifest.csv").stat().st_mode & 0o077 == 0o044
    homes = [tmp_path / "one", tmp_path / "two"]
    for home in homes:
        home.mkdir()
        launcher.run(
            ["manifest", "scan", "cases", "--recipe", "folder", "--out", str(home / "m.csv")],
            tmp_path,
            {**os.environ, "HOME": str(home)},
        )
    assert all((home / ".config" / "cxr-embed" / "patient-id.key").is_file() for home in homes)


def test_what_is_read_at_a_start_needs_a_new_process(launcher: Launcher) -> None:
    assert launcher.can_fork({**os.environ, "HOME": "/", "CXR_EMBED_WEIGHTS": "/w"})
    for name in ("PYTHONPATH", "LC_ALL", "OMP_NUM_THREADS"):
        assert not launcher.can_fork({**os.environ, name: "other"})
    assert not launcher.can_fork({name: value for name, value in os.environ.items() if name != "PATH"})
