"""What `forget` must survive: kill -9 at every thing that it does to the file system."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import IN_CI
from test_forget import GONE, KEY, NAMES, World, fill, holding, name, needles, others_of, owner, write_table

from cxr_embed import CaseIndex, open_store
from cxr_embed.forget import forget
from cxr_embed.index.faiss.build import build_index
from cxr_embed.index.faiss.verify import verify_index
from cxr_embed.manifest import read_labels
from cxr_embed.store import verify_store
from cxr_embed.store.export import export_store
from cxr_embed.store.forgotten import FORGOTTEN

# As in test_index_survival: a fork that kills itself at the n-th step, for one n after another, each on a fresh copy.
DRIVER = """
import json, os, shutil, signal, sys
from pathlib import Path
import faiss, lark, numpy, pyarrow.parquet, google_crc32c
from cxr_embed.forget import forget
target, patient, every = json.loads(sys.argv[1])
faiss.omp_set_num_threads(1)
STEPS = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree", "os.truncate")

def fork(folder, last):
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    done = 0
    def watch(event, arguments):
        nonlocal done
        writes = event != "open" or (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if event in STEPS and writes and str(folder) in str(arguments[0]):
            done += 1
            if done == last:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(watch)
    try:
        forget([folder / "project"], patients=[patient], key_file=folder / "key", delete_rows=True)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)

step = 1
while True:
    folder = Path(f"{target}-{step}")
    shutil.copytree(target, folder)
    code = fork(folder, step)
    print(json.dumps([str(folder), code]), flush=True)
    if code == 0:
        break
    step += every
"""


def make(folder: Path) -> World:
    root = folder / "project"
    root.mkdir(parents=True)
    (folder / "key").write_bytes(KEY)
    fill(root / "store")
    write_table(root / "manifest.csv", "patient_id", "path", "Effusion")
    write_table(root / "scores.csv", "score")
    store = open_store(root / "store")
    build_index(store, root / "index", manifest=read_labels(root / "manifest.csv"))
    build_index(store, root / "every" / "index", output="tokens", pool="tokens")
    export_store(store, root / "vectors.parquet")
    return World(root, folder / "key")


def check_survival(tmp_path: Path, every: int) -> None:
    world = make(tmp_path / "world")
    wanted, others = needles(world), others_of(world.root / "store")
    sizes = {place: len(CaseIndex(world.root / place)) for place in ("index", "every/index")}
    given = json.dumps([str(tmp_path / "world"), owner(3), every])
    done = subprocess.run([sys.executable, "-c", DRIVER, given], capture_output=True, text=True, check=True)
    assert not done.stderr, done.stderr
    ended = [json.loads(line) for line in done.stdout.splitlines()]
    assert [code for _, code in ended[:-1]] == [-9] * (len(ended) - 1)
    assert len(ended) > 100 // every
    states = set()
    for folder, _ in ended:
        root = Path(folder) / "project"
        assert verify_store(root / "store") == []
        assert others_of(root / "store") == others
        ids = set(open_store(root / "store").ids.tolist())
        held = {name(number) for number in GONE} | {"second-name-of-3"}
        assert ids & set(NAMES) in (set(), held)
        gone = [not ids & held]
        for place, count in sizes.items():
            assert verify_index(root / place) == []
            left = CaseIndex(root / place).ids.tolist()
            assert (len(left) == count) == bool(held & set(left))
            gone.append(len(left) < count)
        if any(gone):  # nothing is taken out before everything says who is to stay out
            assert all((root / place / FORGOTTEN).exists() for place in ("store", "index", "every/index"))
        states.add(tuple(gone))
        result = forget([root], patients=[owner(3)], key_file=Path(folder) / "key", delete_rows=True)
        assert (result.left, result.problems) == ([], [])
        assert holding(Path(folder), wanted) == []
        assert verify_store(root / "store") == []
        assert others_of(root / "store") == others
    assert len(states) > 1


def test_kill_nine_at_some_steps(tmp_path: Path) -> None:
    check_survival(tmp_path, every=53)


@pytest.mark.soak
def test_kill_nine_at_every_step(tmp_path: Path) -> None:
    check_survival(tmp_path, every=8 if IN_CI else 1)
