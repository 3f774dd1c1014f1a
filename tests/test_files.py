"""Files that are there whole or not at all, whatever ends their writer; and nobody else's files."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_embed.io import files
from cxr_embed.io.files import load_npy, partial_of, stays_below, write_together, written_aside

HALF = """
import sys
from pathlib import Path
from cxr_embed.io.files import load_npy, partial_of
with partial_of(Path(sys.argv[1]), folder=len(sys.argv) > 2) as partial:
    (partial / "x" if partial.is_dir() else partial).write_text("half")
    print("half", flush=True)
    sys.stdin.read()
"""


def half_written(target: Path, *folder: str) -> subprocess.Popen[str]:
    """A writer that is at it until its input closes."""
    command = [sys.executable, "-c", HALF, str(target), *folder]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    return process


@pytest.mark.parametrize("folder", [(), ("folder",)])
def test_what_a_killed_writer_left_is_gone_with_the_next_and_a_living_one_is_left_alone(
    tmp_path: Path, folder: tuple[str, ...]
) -> None:
    target = tmp_path / "a.csv"
    killed, living = half_written(target, *folder), half_written(target, *folder)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    other = half_written(tmp_path / "b.csv", *folder)
    assert len(list(tmp_path.iterdir())) == 3
    with written_aside(target) as partial:
        partial.write_text("whole")
    assert target.read_text() == "whole"
    assert sorted(path.name[:7] for path in tmp_path.iterdir()) == [".a.csv.", ".b.csv.", "a.csv"]
    for process in (living, other):
        process.communicate()
        assert process.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["a.csv"]


def test_an_error_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "a.csv"
    target.write_text("old")
    with pytest.raises(NotADirectoryError), written_aside(target) as partial:
        (partial / "no folder").write_text("new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.csv", "old")]


def test_files_that_belong_together_come_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair = {tmp_path / "a.json": b"1", tmp_path / "a.csv": b"2"}
    write_together(pair)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == pair

    def full(path: Path) -> None:
        if path.name.startswith(".a.csv"):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "sync", full)
    with pytest.raises(OSError, match="No space"):
        write_together(dict.fromkeys(pair, b"new"))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == pair


def test_names_cannot_be_guessed_and_never_clash(tmp_path: Path) -> None:
    with partial_of(tmp_path / "a") as one, partial_of(tmp_path / "a") as two:
        assert one != two
        assert str(os.getpid()) not in one.name.split(".")
        assert one.exists()
        assert two.exists()


def test_what_lies_below_a_folder_is_told_as_by_following_every_link(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "a" / "b").mkdir(parents=True)
    outside.mkdir()
    (outside / "x").touch()
    (root / "x").touch()
    (root / "a" / "in").symlink_to("../x")
    (root / "a" / "out").symlink_to(outside / "x")
    (root / "a" / "far").symlink_to(outside)
    (root / "a" / "chain").symlink_to("far")
    (root / "loop").symlink_to("loop")
    (outside / "back").symlink_to(root)
    (tmp_path / "link").symlink_to(root)
    (tmp_path / "rootless").mkdir()  # begins as the root does
    paths = [
        "x",
        "a/in",
        "a/out",
        "a/far/x",
        "a/chain/x",
        "a/far/back/x",
        "a/far/back/a/out",
        "none",
        "loop",
        "a/none/x",
    ]
    paths += ["../outside/x", "a/../x", "a/b/../../..", "..", ".", "a/b/..", "a/far/..", "../rootless/x", "a/far/none"]
    for top in (root, tmp_path / "link"):
        below = stays_below(top)
        for path in paths:
            assert below(f"{top}/{path}") == Path(os.path.realpath(f"{top}/{path}")).is_relative_to(root), path
    assert stays_below("/")("/etc/x")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 127), st.integers(0, 255))
def test_a_damaged_header_of_an_array_is_one_kind_of_error(place: int, byte: int) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.arange(6, dtype=np.float32).reshape(2, 3))
    data = bytearray(buffer.getvalue())
    data[place] = byte
    with contextlib.suppress(ValueError):
        assert isinstance(load_npy(io.BytesIO(data)), np.ndarray)


def test_numpys_words_for_a_damaged_header_are_one(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((2, 3), np.float32))
    whole = (tmp_path / "a.npy").read_bytes()
    for before, after in ((b"(2, 3)", b"(2, 3("), (b"(2, 3)", b"9" * 6), (b"{", b"#"), (b"'descr'", b"{descr'")):
        (tmp_path / "a.npy").write_bytes(whole.replace(before, after))
        for mode in ("r", None):
            with pytest.raises(ValueError, match=r"."):
                load_npy(tmp_path / "a.npy", mode)  # type: ignore[arg-type]
