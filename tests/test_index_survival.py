"""What an index must survive: kill -9 at every step of a build, an add and a remove."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import IN_CI
from index_world import make_store

from cxr_embed import CaseIndex, open_store
from cxr_embed.index.faiss.build import add_cases, build_index, remove_cases
from cxr_embed.index.faiss.verify import verify_index

# Runs a writer in a fork that kills itself at the n-th thing that it does to the file system, for one n after another,
# each on a fresh copy of the folder; says how each ended. Forks, because starting Python takes longer than the work.
DRIVER = """
import json, os, shutil, signal, sys
from cxr_embed import open_store
from cxr_embed.index.faiss import kinds
from cxr_embed.index.faiss import verify
from cxr_embed.index.faiss import build as writer
from cxr_embed.store import upgrade_store
import faiss, lark
work, store, target, every, kind = json.loads(sys.argv[1])
faiss.omp_set_num_threads(1)
STEPS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.truncate", "os.link")

def run(folder):
    if work == "upgrade":
        verify.upgrade_index(folder)
    elif work == "upgrade store":
        upgrade_store(folder)
    elif work == "build":
        writer.build_index(open_store(store), folder, kind=kind)
    elif work == "add":
        writer.add_cases(folder, open_store(store))
    else:
        writer.remove_cases(folder, ["c3"], ["p5"])

def fork(folder, last):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done = 0
    def watch(event, arguments):
        nonlocal done
        if event in STEPS and str(folder) in str(arguments[0]):
            done += 1
            if done == last:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
    try:
        run(folder)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)

step = 1
while True:
    folder = f"{target}-{step}"
    if work != "build":
        shutil.copytree(target, folder)
    code = fork(folder, step)
    print(json.dumps([folder, code]), flush=True)
    if code == 0:
        break
    step += every
"""


def kill_at_every_step(work: str, store: Path, target: Path, every: int, kind: str) -> list[tuple[Path, int]]:
    """The folders that killed writers left behind; the last one's writer was not killed any more."""
    given = json.dumps([work, str(store), str(target), every, kind])
    done = subprocess.run([sys.executable, "-c", DRIVER, given], capture_output=True, text=True, check=True)
    assert not done.stderr, done.stderr
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert [code for _, code in ended[:-1]] == [-9] * (len(ended) - 1)
    assert ended[-1][1] == 0
    assert len(ended) > 3
    return [(Path(folder), code) for folder, code in ended]


def vectors_of(path: Path) -> dict[str, bytes]:
    index = CaseIndex(path)
    return {name: vector.tobytes() for name, vector in zip(index.ids.tolist(), index.vectors, strict=True)}


def check_survival(tmp_path: Path, work: str, every: int, kind: str) -> None:
    vectors = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    patients = [f"p{number // 2}" for number in range(60)]
    store = make_store(tmp_path / "store", vectors[:50], patients[:50])
    before = build_index(open_store(store), tmp_path / "before", kind=kind).record
    old = vectors_of(tmp_path / "before")
    make_store(store, vectors[50:], patients[50:], first=50)
    build_index(open_store(store), tmp_path / "all", kind=kind)
    everything = vectors_of(tmp_path / "all")
    gone = {"c3", "c10", "c11"}
    new = {name: vector for name, vector in old.items() if name not in gone} if work == "remove" else everything
    target = tmp_path / ("fresh" if work == "build" else "before")
    was_old = was_new = 0
    for folder, code in kill_at_every_step(work, store, target, every, kind):
        if not (folder / "index.json").exists():
            assert work == "build"
            build_index(open_store(store), folder, kind=kind)
            assert vectors_of(folder) == new
            assert verify_index(folder) == []
            was_old += 1
            continue
        held = vectors_of(folder)
        assert held in (old, new)
        was_new += held == new
        was_old += held != new
        # What the killed writer could not delete any more is no damage; the next one does.
        assert verify_index(folder) == []
        if work == "remove":
            remove_cases(folder, [name for name in gone if name in held] or ["c0"])
            left = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
            assert not any(old[name] in left for name in gone)
        elif held == old or code:
            add_cases(folder, open_store(store))
            assert vectors_of(folder) == everything
        assert verify_index(folder) == []
    assert was_old
    assert was_new
    assert before.cases == 50


@pytest.mark.parametrize("work", ["build", "add", "remove"])
def test_kill_nine_at_some_steps(tmp_path: Path, work: str) -> None:
    check_survival(tmp_path, work, every=5, kind="flat")


@pytest.mark.soak
@pytest.mark.parametrize("kind", ["flat", "ivf-fp16", "hnsw"])
@pytest.mark.parametrize("work", ["build", "add", "remove"])
def test_kill_nine_at_every_step(tmp_path: Path, work: str, kind: str) -> None:
    check_survival(tmp_path, work, every=4 if IN_CI else 1, kind=kind)
