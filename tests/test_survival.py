"""What a run must survive: kill -9, signals, a full disk, two runs at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import IN_CI, fill, run_cli

from cxr_embed import open_store
from cxr_embed.errors import StoreError
from cxr_embed.pipeline.embedding import embed
from cxr_embed.store import verify_store

HERE = Path(__file__).parent
MEAN = "helpers:make_mean"
Make = Callable[..., Path]

# A run that publishes every eight rows and says so, so that a test knows what was reported done and when.
RUN = """
import os, sys
sys.path.insert(0, sys.argv[3])
import cxr_embed.store.writer as writer
writer.SHARD_ROWS = 8
flush = writer.StoreWriter.flush
def loud(self, engine):
    rows = [row.image_id for row in [*self._owners, *self._others]]
    count = flush(self, engine)
    if count:
        print("published", *rows, flush=True)
    return count
writer.StoreWriter.flush = loud
from cxr_embed.pipeline.embedding import embed
from cxr_embed.pipeline import worker_plan as crew
crew.CHUNK = 4
summary = embed(sys.argv[1], encoder="helpers:make_mean", store=sys.argv[2], workers=2, dtype="float32")
print("interrupted" if summary.interrupted else "finished", flush=True)
"""


@pytest.fixture(autouse=True)
def _reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)


def start(manifest: Path, store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(manifest), str(store), str(HERE)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def published(line: str) -> set[str]:
    words = line.split()
    return set(words[1:]) if words[:1] == ["published"] else set()


def lines_until(process: subprocess.Popen[str], wanted: int) -> Iterator[str]:
    """The first so many lines of the process, fewer where it ends before."""
    assert process.stdout is not None
    for _ in range(wanted):
        line = process.stdout.readline()
        if not line:
            return
        yield line


def assert_same_vectors(store: Path, reference: Path) -> None:
    got, want = open_store(store), open_store(reference)
    assert sorted(got.ids.tolist()) == sorted(want.ids.tolist())
    for output in want.spec.outputs:
        np.testing.assert_array_equal(got.read(want.ids, output).vectors, want.read(output=output).vectors)
    assert dict(zip(got.ids, got.content_ids, strict=True)) == dict(zip(want.ids, want.content_ids, strict=True))


def kill_and_check(make_images: Make, tmp_path: Path, kills: int, images: int) -> None:
    rng = np.random.default_rng(kills)
    manifest = make_images(images)
    reference = tmp_path / "reference"
    embed(manifest, encoder=MEAN, store=reference, dtype="float32")
    reported: set[str] = set()
    store = tmp_path / "killed"
    ended = 0
    for _ in range(kills):
        process = start(manifest, store)
        # Between two published shards, at a point that no one chose: after a number of lines, then of pipe polls.
        for line in lines_until(process, int(rng.integers(0, 4))):
            reported |= published(line)
        for _ in range(int(rng.integers(0, 3000))):
            os.stat(manifest)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.stdout is not None
        for line in process.stdout.read().splitlines():
            reported |= published(line)
            ended += line == "finished"
        process.stdout.close()
        process.wait()
        if not (store / "store.json").exists():
            assert not reported
            continue
        assert verify_store(store) == []
        held = set(open_store(store).ids.tolist())
        assert reported <= held, "an image was reported done and is lost"
        if len(held) == images:  # begin anew, or the later kills would hit idle runs
            assert_same_vectors(store, reference)
            store = tmp_path / f"killed-{len(list(tmp_path.iterdir()))}"
            reported = set()
    embed(manifest, encoder=MEAN, store=store, dtype="float32")
    assert verify_store(store) == []
    assert_same_vectors(store, reference)


def test_kill_nine_a_few_times(make_images: Make, tmp_path: Path) -> None:
    kill_and_check(make_images, tmp_path, kills=5, images=60)


def test_workers_end_with_a_killed_run_whatever_they_are_at(make_images: Make, tmp_path: Path) -> None:
    words = ["embed", str(make_images(4)), "--encoder", "helpers:make_stuck", "--store", "s", "--workers", "2"]
    command = [sys.executable, "-m", "cxr_embed", *words]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"at it\n"
    process.kill()
    process.communicate(timeout=60)  # until the last worker has closed it too, which none would do by itself


@pytest.mark.soak
def test_kill_nine_fifty_times(make_images: Make, tmp_path: Path) -> None:
    kill_and_check(make_images, tmp_path, kills=15 if IN_CI else 50, images=150)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_publishes_what_is_in_hand(make_images: Make, tmp_path: Path, number: signal.Signals) -> None:
    manifest = make_images(400)
    process = start(manifest, tmp_path / "s")
    reported = set().union(*map(published, lines_until(process, 2)))
    os.kill(process.pid, number)
    assert process.stdout is not None
    rest = process.stdout.read().splitlines()
    assert process.wait() == 0
    process.stdout.close()
    assert rest[-1] == "interrupted"
    reported |= set().union(*map(published, rest))
    store = open_store(tmp_path / "s")
    assert reported == set(store.ids.tolist())
    assert len(reported) < 400
    assert verify_store(tmp_path / "s") == []
    summary = embed(manifest, encoder=MEAN, store=tmp_path / "s")
    assert summary.embedded == 400 - len(reported)
    assert len(open_store(tmp_path / "s")) == 400


def test_ctrl_c_in_a_terminal_reaches_the_workers_too_and_harms_nothing(make_images: Make, tmp_path: Path) -> None:
    process = start(make_images(400), tmp_path / "s")
    list(lines_until(process, 2))
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole group
    assert process.stdout is not None
    assert process.stdout.read().splitlines()[-1] == "interrupted"
    assert process.wait() == 0
    process.stdout.close()
    assert verify_store(tmp_path / "s") == []


def test_the_command_line_ends_with_130_when_interrupted(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(1500, side=64)
    command = [sys.executable, "-m", "cxr_embed", "embed", str(manifest), "--encoder", "hog", "--workers", "1"]
    with subprocess.Popen(
        [*command, "--store", str(tmp_path / "s")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        while not (tmp_path / "s" / "store.json").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert process.returncode == 130, (out, err)
    assert "run the same command to go on" in err
    assert "Traceback" not in err
    assert verify_store(tmp_path / "s") == []


def test_two_runs_on_one_store(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(300)
    process = start(manifest, tmp_path / "s")
    list(lines_until(process, 1))
    os.kill(process.pid, signal.SIGSTOP)  # or it might be done before the second one has started
    done = run_cli("embed", str(manifest), "--encoder", MEAN, "--store", str(tmp_path / "s"))
    assert done.returncode == 0
    assert len(open_store(tmp_path / "s")) == 300
    os.kill(process.pid, signal.SIGCONT)
    assert process.stdout is not None
    assert process.stdout.read().splitlines()[-1] == "finished"
    process.stdout.close()
    assert process.wait() == 0
    embed(manifest, encoder=MEAN, store=tmp_path / "one", dtype="float32")
    assert_same_vectors(tmp_path / "s", tmp_path / "one")
    assert open_store(tmp_path / "s").describe()["vectors"] == 300
    assert verify_store(tmp_path / "s") == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 300 kB; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small tmpfs cannot be mounted here: it takes root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_loses_nothing_that_was_stored(make_images: Make, small_disk: Path) -> None:
    manifest = make_images(40)
    store = small_disk / "s"
    embed(manifest, encoder="hog", store=store, limit=10)
    held = open_store(store).read()
    ballast = small_disk / "ballast"
    space = os.statvfs(small_disk)
    ballast.write_bytes(b"x" * (space.f_bavail * space.f_frsize - 20_000))
    with pytest.raises(StoreError, match="the disk is full; what was stored before is safe"):
        embed(manifest, encoder="hog", store=store)
    assert verify_store(store) == []
    assert list((store / "incoming").glob("*")) == []
    done = run_cli("embed", str(manifest), "--encoder", "hog", "--store", str(store))
    assert done.returncode == 1
    assert "disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    again = open_store(store).read()
    np.testing.assert_array_equal(again.vectors, held.vectors)
    ballast.unlink()
    assert embed(manifest, encoder="hog", store=store).embedded == 30
    assert len(open_store(store)) == 40


def test_a_full_disk_at_the_very_start(make_images: Make, small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    space = os.statvfs(small_disk)
    ballast.write_bytes(b"x" * (space.f_bavail * space.f_frsize))
    with pytest.raises(StoreError, match=r"disk is full|cannot be written"):
        embed(make_images(3), encoder=MEAN, store=small_disk / "s")
    ballast.unlink()
    assert embed(make_images(3), encoder=MEAN, store=small_disk / "s").embedded == 3


def test_a_store_that_cannot_be_written_to_can_be_read(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(5))
    for folder in (tmp_path / "s", tmp_path / "s" / "shards"):
        folder.chmod(0o555)
    try:
        assert len(open_store(tmp_path / "s").read()) == 5
        assert verify_store(tmp_path / "s") == []
    finally:
        for folder in (tmp_path / "s", tmp_path / "s" / "shards"):
            folder.chmod(0o755)
