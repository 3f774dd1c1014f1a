"""What goes wrong with the machine or an argument ends in one or two lines, never in a traceback; --json gets JSON."""

from __future__ import annotations

import gzip
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import every_verb
import numpy as np
import pytest
from helpers import IN_CI, fill, run_cli
from index_world import make_index

import cxr_embed
from cxr_embed.datasets import load_recipe
from cxr_embed.errors import CxrEmbedError, EncoderError, ManifestError
from cxr_embed.io.files import not_local
from cxr_embed.manifest import rows
from cxr_embed.prompts import load_prompt_set

ROOT = Path(__file__).parents[1]
RUN = [sys.executable, "-m", "cxr_embed"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every verb of the core was run."""
    folder = tmp_path_factory.mktemp("every") / "world"
    subprocess.run([sys.executable, str(ROOT / "tests" / "every_verb.py"), str(folder)], check=True)
    return folder


def one_error(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The error that a command ended in."""
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("\n") <= 2
    return done.stderr


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        (["store", "info", "nothing"], 1, "no store here"),
        (["search", "nothing", "-k", "many"], 2, "valid integer"),
        (["embed"], 2, "Missing"),
        (["embed", "no.csv", "--store", "s3://bucket/store"], 2, "s3://bucket/store: an address"),
        (["index", "evaluate", "nothing", "--no-such-option"], 2, "No such option"),
    ],
)
def test_an_error_is_an_object_where_json_is_asked_for(
    tmp_path: Path, words: list[str], status: int, told: str
) -> None:
    done = run_cli(*words, "--json", cwd=tmp_path)
    assert done.returncode == status
    body = json.loads(done.stdout)
    assert body["status"] == status
    assert told in body["error"]
    assert list(tmp_path.iterdir()) == []
    assert run_cli(*words, cwd=tmp_path).stdout == ""


def test_problems_of_a_manifest_are_a_list(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text("image_id,path\na,x.png,too many\na,y.png\n")
    done = run_cli("embed", "m.csv", "--store", "s", "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["problems"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("words", [["store", "info", "s"], ["store", "info", "s", "--json"], ["encoders"], ["--help"]])
def test_an_output_that_is_full(tmp_path: Path, words: list[str]) -> None:
    fill(tmp_path / "s", range(3))
    with open("/dev/full", "w") as full:
        done = subprocess.run([*RUN, *words], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True)
    assert "standard output cannot be written (No space left on device)" in one_error(done)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        ("MemoryError()", "not enough memory"),
        ("RuntimeError('std::bad_alloc')", "not enough memory"),
        ('RuntimeError("can\'t start new thread")', "not enough memory"),
        ("OSError(12, 'Cannot allocate memory')", "not enough memory"),
        ("ImportError('libx.so: failed to map segment')", "libx.so: failed to map segment"),
        ("PermissionError(13, 'Permission denied', 'a.csv')", "a.csv: Permission denied"),
    ],
)
def test_what_the_machine_cannot_give(tmp_path: Path, error: str, told: str) -> None:
    code = f"""
import sys
import cxr_embed.store as store
def lack(*words):
    raise {error}
store.open_store = store.reader.open_store = lack
from cxr_embed.cli import main
sys.argv[1:] = ["store", "info", "s", "--json"]
main()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert told in one_error(done)
    assert told in json.loads(done.stdout)["error"]


def test_names_that_are_not_utf8(tmp_path: Path, make_images) -> None:  # type: ignore[no-untyped-def]
    manifest = make_images(2)
    strange = os.fsencode(tmp_path) + b"/st\xffore"
    command = [*RUN, "embed", str(manifest), "--encoder", "hog", "--store"]
    done = subprocess.run([*map(os.fsencode, command), strange], capture_output=True, text=True)
    assert "not in UTF-8" in one_error(done, 2)
    with pytest.raises(CxrEmbedError, match="not in UTF-8"):
        cxr_embed.embed(manifest, "hog", os.fsdecode(strange))
    with pytest.raises(CxrEmbedError, match="gs://b/s: an address"):
        cxr_embed.embed(manifest, "hog", "gs://b/s")


@pytest.mark.parametrize("path", ["s3://b/x", "s3:/b/x", "https://example.org/a.csv", "gs:///x", "a\0b", "\udcff"])
def test_what_is_no_path_of_this_machine(path: str) -> None:
    assert not_local(path) is not None


@pytest.mark.parametrize("path", ["a:b", "./s3", "C:", "a/b:/c", "/s3:/x", "ä.csv", "-x"])
def test_what_is_one(path: str) -> None:
    assert not_local(path) is None


def test_letters_that_a_terminal_lacks(tmp_path: Path) -> None:
    # A C locale, as cron and many containers have it, where Python is not told to take UTF-8 all the same.
    plain = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = "from cxr_embed.cli.ending import run; from cxr_embed.cli.probe import print_table\n"
    code += "run(lambda **_: print_table(['AUROC'], [['0.520 \\u00b1 0.024']]))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=plain, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "0.520" in done.stdout


def test_more_neighbours_than_cases(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(5))
    table = "".join(f"i{number},i{number}.png,p\n" for number in range(5))
    (tmp_path / "m.csv").write_text("image_id,path,patient_id\n" + table)
    build = run_cli("index", "build", "s", "--manifest", "m.csv", "--out", "i", cwd=tmp_path)
    assert build.returncode == 0, build.stderr
    done = run_cli("search", "i", "--image-id", "i0", "-k", str(10**18), "--json", cwd=tmp_path)
    assert (done.returncode, len(json.loads(done.stdout)["neighbors"])) == (0, 4)


def test_an_index_is_sound_beside_what_a_killed_writer_left(tmp_path: Path) -> None:
    index = make_index(tmp_path, np.eye(3, dtype=np.float32)).path
    left = index / "generation-0123456789ab"
    left.mkdir()
    (left / "vectors.npy").write_bytes(b"half")
    done = run_cli("index", "verify", str(index))
    assert (done.returncode, done.stderr) == (0, "")
    assert "sound; every checksum matches\nnote: generation-0123456789ab: not part of the index" in done.stdout
    told = json.loads(run_cli("index", "verify", str(index), "--json").stdout)
    assert told.items() >= {"sound": True, "damage": [], "leftovers": ["generation-0123456789ab"]}.items()


def test_a_list_is_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(CxrEmbedError, match="not list; files are `images`"):
        cxr_embed.embed(["a.png"], "hog", tmp_path / "s")  # type: ignore[arg-type]


MAKES = [
    "def make(): ",
    "def make(*, weights): ",
    "def make(**o): ",
    "def make(name, **o): ",
    "def make(x=1, threads=2): ",
]


@pytest.mark.parametrize("number", range(len(MAKES)))
def test_an_own_encoder_is_given_what_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    code = f"from helpers import MeanEncoder\n{MAKES[number]}return MeanEncoder()\n"
    (tmp_path / f"own{number}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    assert cxr_embed.load_encoder(f"own{number}:make").spec.name == "mean"


@pytest.mark.parametrize(
    ("module", "code", "told"),
    [
        ("bad1", "def make(folder): return 1", "missing 1 required positional argument: 'folder'"),
        ("bad2", "def make(): return 1", "returned int, which has no spec, engine, preprocess, embed"),
        ("bad3", "make = 3", "3 is not a callable object"),
    ],
)
def test_an_own_encoder_that_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, code: str, told: str
) -> None:
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(EncoderError, match=re.escape(told)):
        cxr_embed.load_encoder(f"{module}:make")


def test_the_own_encoder_of_the_docs_runs(tmp_path: Path, make_images) -> None:  # type: ignore[no-untyped-def]
    text = (ROOT / "docs" / "python.md").read_text().partition("## An encoder of your own")[2]
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    (tmp_path / "mine.py").write_text(code[1])
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    words = ["embed", str(make_images(3)), "--encoder", "mine:make", "--store", "s"]
    done = run_cli(*words, cwd=tmp_path, env={**os.environ, "PYTHONPATH": paths})
    assert (done.returncode, done.stderr) == (0, "")
    assert cxr_embed.open_store(tmp_path / "s").read().vectors.shape == (3, 64)


@pytest.mark.parametrize("packed", [False, True])
def test_a_cell_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool) -> None:
    monkeypatch.setattr(rows, "_LONGEST_LINE", 1 << 12)
    data = b"image_id,path\n" + b"0" * (1 << 13)
    path = tmp_path / ("m.csv.gz" if packed else "m.csv")
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(ManifestError, match="a line of more than"):
        cxr_embed.read_manifest(path)


def test_a_bomb_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_ROOM", 1 << 14)
    (tmp_path / "m.csv.gz").write_bytes(gzip.compress(b"image_id,path\n" + b"0,0\n" * (1 << 20)))
    with pytest.raises(ManifestError, match="unpacks to more than 200 times its size"):
        cxr_embed.read_manifest(tmp_path / "m.csv.gz")


@pytest.mark.parametrize("value", ["9" * 5_000_000, "1" + ":1" * 2000, "9" * 1100, "1." * 600])
def test_numbers_that_yaml_reads_for_hours(tmp_path: Path, value: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"findings:\n  A: {value}\n")
    told = r"larger than 4 MiB|more than 1,000 digits in line 2"
    with pytest.raises(CxrEmbedError, match=told):
        load_prompt_set(str(path))
    with pytest.raises(CxrEmbedError, match=told):
        load_recipe(str(path))


BACKTRACKS = """
import re, signal
from cxr_embed.errors import ManifestError
from cxr_embed.manifest import patterns
patterns.SECONDS = 0.05
endless = re.compile(r"(a+)+$")
try:
    patterns.match_bounded(endless, "a" * 64 + "!")
except ManifestError as error:
    print(error)
assert patterns.match_bounded(endless, "aaa") is not None
assert patterns.match_bounded(endless, "aaab", whole=True) is None
assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0, 0)
assert signal.getsignal(signal.SIGVTALRM) == signal.SIG_DFL
"""


def test_a_pattern_that_backtracks_for_ever() -> None:
    # In a process of its own: what goes wrong with its timer would end this one.
    done = subprocess.run([sys.executable, "-c", BACKTRACKS], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert r"the pattern '(a+)+$' takes longer than 0.05 s for 'aaaa" in done.stdout


NOT_HERE = {"demo", "embed", "index push", "manifest croissant", "weights convert"}


FUZZED = sorted(every_verb.verbs() - NOT_HERE)
EVERY = 7 if IN_CI else 1  # 7 has no factor of the numbers of odd values, so each kind has its turn


@pytest.mark.soak
@pytest.mark.parametrize("first", range(4))
def test_odd_arguments_of_the_verbs(world: Path, first: int) -> None:
    command = [sys.executable, str(ROOT / "tests" / "fuzz_arguments.py"), str(world), str(EVERY), *FUZZED[first::4]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_words_that_are_not_utf8(tmp_path: Path) -> None:
    command = [b"search", b"index", b"--image-id", b"\xff"]
    done = subprocess.run([*map(os.fsencode, RUN), *command], cwd=tmp_path, capture_output=True, text=True)
    assert r"\udcff: not text in UTF-8" in one_error(done, 2)
