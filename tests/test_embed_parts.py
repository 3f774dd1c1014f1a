"""`embed --part 3/16`: parts at once, in any order, twice; several engines; a line a minute."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import IN_CI, run_cli
from hypothesis import given
from hypothesis import strategies as st
from test_survival import assert_same_vectors

from cxr_embed import open_store, read_manifest
from cxr_embed.cli.embed_progress import MinuteLines
from cxr_embed.errors import CxrEmbedError, EncoderError
from cxr_embed.pipeline import devices, worker_plan
from cxr_embed.pipeline.embedding import embed, plan_embedding
from cxr_embed.pipeline.messages import Setup
from cxr_embed.pipeline.parts import Part, part_of
from cxr_embed.pipeline.summary import EmbedSummary
from cxr_embed.store import verify_store
from cxr_embed.store.reader import Failure

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
MEAN = "helpers:make_mean"
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def _reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)


# Which image is in which part


@given(image_id=st.text(min_size=1), of=st.integers(1, 10_000))
def test_every_image_is_in_one_part(image_id: str, of: int) -> None:
    assert 1 <= part_of(image_id, of) <= of
    assert part_of(image_id, of) == part_of(image_id, of)


def test_the_hash_is_the_documented_one() -> None:
    """These numbers may never change: a part that runs again must have the same images."""
    for image_id in ("a", "i7", "\u00e9tude", "p/1.dcm"):
        number = int(hashlib.sha256(image_id.encode()).hexdigest()[:16], 16)
        assert part_of(image_id, 16) == number % 16 + 1
    assert [part_of(f"i{n}", 16) for n in range(6)] == [9, 9, 1, 14, 1, 4]
    assert part_of("7#1", 9) == part_of("7#2", 9) == part_of("7", 9)
    sizes = np.bincount([part_of(f"image-{n:05d}", 16) for n in range(16_000)], minlength=17)[1:]
    assert sizes.min() > 850
    assert sizes.max() < 1150


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("17/16", "parts of 16 go from 1 to 16"),
        ("0/16", "from 1 to 16"),
        ("0/0", "from 1 to 0"),
        ("3", "such as 3/16, or env, not '3'"),
        ("-1/16", "not '-1/16'"),
        ("3/16/2", "not '3/16/2'"),
        ("\u0663/16", "such as 3/16"),
        ("", "not ''"),
    ],
)
def test_other_parts_are_refused_in_a_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(CxrEmbedError, match=re.escape(words)):
        Part.parse(text)
    (tmp_path / "m.csv").write_text("image_id,path,patient_id\na,a.png,p\n")
    done = run_cli("embed", "m.csv", "--encoder", "hog", "--store", "s", f"--part={text}", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: --part ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "s").exists()


SLURM = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_COUNT")


@pytest.mark.parametrize("values", [("3", "1", "16"), ("2", "0", "16"), ("12", "10", "16")])
def test_a_slurm_task_knows_its_part(values: tuple[str, ...]) -> None:
    assert Part.parse("env", dict(zip(SLURM, values, strict=True))) == Part(3, 16)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((), "SLURM_ARRAY_TASK_ID is not set; run it as a Slurm array"),
        (("3",), "SLURM_ARRAY_TASK_MIN is not set"),
        (("3", "1", "many"), "SLURM_ARRAY_TASK_COUNT is 'many', not a number"),
        (("20", "1", "4"), "an array with gaps or steps"),
        (("0", "1", "4"), "an array with gaps or steps"),
    ],
)
def test_an_environment_without_a_part_says_what_is_missing(values: tuple[str, ...], words: str) -> None:
    with pytest.raises(CxrEmbedError, match=words):
        Part.parse("env", dict(zip(SLURM, values, strict=False)))


# Runs


def test_parts_at_once_and_twice_make_the_store_of_one_run(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(40)
    embed(manifest, encoder=MEAN, store=tmp_path / "whole", dtype="float32")
    words = ["--encoder", MEAN, "--dtype", "float32", "--workers", "1", "--json"]
    command = [sys.executable, "-m", "cxr_embed", "embed", str(manifest), "--store", str(tmp_path / "s"), *words]
    parts = ["3/3", "1/3", "2/3", "2/3"]
    runs = [subprocess.Popen([*command, "--part", part], stdout=subprocess.PIPE, text=True) for part in parts]
    said = [json.loads(run.communicate()[0]) for run in runs]
    assert [run.returncode for run in runs] == [0] * 4
    assert [body["part"] for body in said] == parts
    assert sum(body["images"] for body in said[:3]) == 40
    assert_same_vectors(tmp_path / "s", tmp_path / "whole")
    assert open_store(tmp_path / "s").describe()["vectors"] == 40
    assert verify_store(tmp_path / "s") == []
    assert [path.name for path in (tmp_path / "s" / "writers").glob("writer-*")] == []


def test_a_part_of_the_first_rows_and_what_it_would_do(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(30)
    ids = read_manifest(manifest).ids[:20].tolist()
    mine = [image_id for image_id in ids if part_of(image_id, 2) == 1]
    plan = plan_embedding(manifest, encoder=MEAN, store=tmp_path / "s", limit=20, part="1/2")
    assert (plan.images, plan.to_read) == (len(mine), len(mine))
    summary = embed(manifest, encoder=MEAN, store=tmp_path / "s", limit=20, part="1/2")
    assert open_store(tmp_path / "s").ids.tolist() == mine
    assert summary.counts.startswith(f"part 1/2: {len(mine)} images: {len(mine)} embedded")


def test_a_part_without_an_image_is_done_at_once(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(1)
    empty = next(n for n in range(1, 5) if part_of(read_manifest(manifest).ids[0], 4) != n)
    assert embed(manifest, encoder=MEAN, store=tmp_path / "s", part=f"{empty}/4").images == 0


def test_failures_of_a_part_are_recorded(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(8)
    ids = read_manifest(manifest).ids.tolist()
    (manifest.parent / f"{ids[3]}.png").write_bytes(b"no picture")
    runs = [embed(manifest, encoder=MEAN, store=tmp_path / "s", part=f"{n}/2") for n in (1, 2)]
    assert [failure.image_id for run in runs for failure in run.failed] == [ids[3]]
    assert [failure.image_id for failure in open_store(tmp_path / "s").failures] == [ids[3]]


def test_the_slurm_line_of_the_readme(make_images: Make, tmp_path: Path) -> None:
    """Under a stand-in of the scheduler: every task with its variables, as `sbatch` runs them."""
    (line,) = re.findall(r"^sbatch (?:.*\\\n)*.*", README.read_text(), re.MULTILINE)
    first, last = map(int, re.findall(r"--array=(\d+)-(\d+)", line)[0])
    make_images(40)
    (tmp_path / "sbatch").write_text(
        '#!/bin/bash\nset -e\nlast=0\nfor word in "$@"; do case $word in --array=*) span=${word#--array=};;\n'
        "--wrap=*) wrapped=${word#--wrap=};; esac; done\nfirst=${span%-*}; last=${span#*-}\n"
        "for task in $(seq $first $last); do SLURM_ARRAY_TASK_ID=$task SLURM_ARRAY_TASK_MIN=$first "
        'SLURM_ARRAY_TASK_COUNT=$((last - first + 1)) bash -c "$wrapped" >> log 2>&1; done\n'
    )
    (tmp_path / "cxr-embed").write_text(f'#!/bin/bash\nexec {sys.executable} -m cxr_embed "$@"\n')
    for name in ("sbatch", "cxr-embed"):
        (tmp_path / name).chmod(0o755)
    manifest = re.findall(r"embed (\S+\.csv)", line)[0]
    small = line.replace(manifest, str(tmp_path / "images" / "manifest.csv"))
    small = small.replace(f"{first}-{last}", f"{first}-{first + 2}")
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(HERE.parent)}
    if not (tmp_path / "images" / "manifest.csv").exists():
        small = small.replace(str(tmp_path / "images" / "manifest.csv"), str(next(tmp_path.rglob("*.csv"))))
    done = subprocess.run(["bash", "-c", small], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, (done.stderr, (tmp_path / "log").read_text())
    store = tmp_path / re.findall(r"--store (\S+?)['\"]?(?:\s|$)", line)[0]
    assert len(open_store(store)) == 40
    assert "part 3/3" in (tmp_path / "log").read_text()


RUN = """
import sys
sys.path.insert(0, sys.argv[4])
import cxr_embed.store.writer as writer
writer.SHARD_ROWS = 4
from cxr_embed.pipeline import worker_plan
worker_plan.CHUNK = 2
from cxr_embed.pipeline.embedding import embed
embed(sys.argv[1], encoder="helpers:make_mean", store=sys.argv[2], workers=1, dtype="float32", part=sys.argv[3])
"""


def kill_parts(make_images: Make, tmp_path: Path, rounds: int, images: int) -> None:
    """Two parts at once, killed at moments that nobody chose, until all is embedded; then once more from the start."""
    manifest, rng = make_images(images), np.random.default_rng(rounds)
    embed(manifest, encoder=MEAN, store=tmp_path / "whole", dtype="float32")
    store, held = tmp_path / "s0", set[str]()
    for number in range(rounds):
        commands = [[sys.executable, "-c", RUN, str(manifest), str(store), f"{n}/2", str(HERE)] for n in (1, 2)]
        runs = [subprocess.Popen(command, start_new_session=True) for command in commands]
        for run in runs:
            try:
                run.wait(timeout=float(rng.uniform(0.5, 3.0)))
            except subprocess.TimeoutExpired:
                os.killpg(run.pid, signal.SIGKILL)
                run.wait()
        if not (store / "store.json").exists():
            continue
        now = set(open_store(store).ids.tolist())
        assert held <= now, "what was published is lost"
        assert verify_store(store) == []
        held = now
        if len(now) == images:
            assert_same_vectors(store, tmp_path / "whole")
            assert open_store(store).describe()["vectors"] == images
            store, held = tmp_path / f"s{number + 1}", set()
    for part in ("1/2", "2/2"):
        embed(manifest, encoder=MEAN, store=store, dtype="float32", part=part)
    assert_same_vectors(store, tmp_path / "whole")
    assert open_store(store).describe()["vectors"] == images


def test_parts_that_are_killed_a_few_times(make_images: Make, tmp_path: Path) -> None:
    kill_parts(make_images, tmp_path, rounds=2, images=30)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_parts_that_are_killed_many_times(make_images: Make, tmp_path: Path) -> None:
    kill_parts(make_images, tmp_path, rounds=10 if IN_CI else 110, images=200)


# Several engines


def test_a_list_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "resolve_device", lambda device, _: "cuda" if device != "cpu" else "cpu")
    monkeypatch.setattr(devices, "gpu_count", lambda: 2)
    assert devices.resolve_devices("cuda:0,cuda:1", "densenet121") == ("cuda", (0, 1))
    assert devices.resolve_devices("cuda:1", "densenet121") == ("cuda", (1,))
    assert devices.resolve_devices("cuda", "densenet121") == ("cuda", ())
    with pytest.raises(EncoderError, match="cuda:2: torch sees cuda:0 to cuda:1 here"):
        devices.resolve_devices("cuda:0,cuda:2", "densenet121")
    for wrong in ("cpu,cpu", "cuda:0,", "cuda:x", "cuda,cuda", ","):
        with pytest.raises(EncoderError, match="GPUs such as cuda:0,cuda:1, not"):
            devices.resolve_devices(wrong, "densenet121")
    with pytest.raises(EncoderError, match="on a CPU `workers` says how many"):
        devices.resolve_devices("cpu,cpu", "densenet121")


def test_a_worker_sees_its_own_gpu_alone() -> None:
    assert devices.environment_of(1, {"A": "b"}) == {"A": "b", devices.VISIBLE: "1"}
    assert devices.environment_of(1, {devices.VISIBLE: "4,7"})[devices.VISIBLE] == "7"
    assert devices.environment_of(0, {devices.VISIBLE: "GPU-aa"})[devices.VISIBLE] == "GPU-aa"


def test_two_engines_of_one_run_give_the_same_vectors(
    make_images: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the CPU in the place of the GPUs."""
    manifest = make_images(60)
    embed(manifest, encoder=MEAN, store=tmp_path / "whole", workers=1, precision="float32")
    monkeypatch.setattr("cxr_embed.pipeline.embedding.resolve_devices", lambda *_, **__: ("cuda", (0, 1)))
    monkeypatch.setattr("cxr_embed.pipeline.worker_plan.CHUNK", 4)
    split, plans = worker_plan.split_workers, []

    def on_the_cpu(setup: Setup, *rest: int) -> object:
        plans.append(split(replace(setup, device="cpu"), *rest))  # type: ignore[arg-type]
        return plans[-1]

    monkeypatch.setattr(worker_plan, "split_workers", on_the_cpu)
    summary = embed(
        manifest, encoder=MEAN, store=tmp_path / "two", workers=2, precision="float32", batch_size=4, device="auto"
    )
    assert summary.embedded == 60
    kinds = [(setup.kind, setup.gpus) for setup in plans[0][0]]
    assert kinds[:2] == [("device", (0,)), ("device", (1,))]
    assert {kind for kind, _ in kinds[2:]} == {"decoder"}
    one, two = open_store(tmp_path / "whole"), open_store(tmp_path / "two")
    np.testing.assert_array_equal(two.read(one.ids, "means").vectors, one.read(output="means").vectors)


# The log of a batch job


def test_a_batch_log_gets_a_line_a_minute() -> None:
    said: list[str] = []
    now = [100.0]
    lines = MinuteLines(said.append, lambda: now[0])
    summary = EmbedSummary(images=1000, engine="toy", part="3/16")
    for second in range(0, 150):
        now[0] = 100.0 + second
        summary.embedded = 2 * second
        lines(summary)
    assert said == ["part 3/16: embedding: 120 of 1,000 (12%), 2.0 images/s, about 7 min left",
                    "part 3/16: embedding: 240 of 1,000 (24%), 2.0 images/s, about 6 min left"]  # fmt: skip
    summary.failed = [Failure("a", "empty", "")]
    now[0] = 1e4
    lines(summary)
    assert said[-1].endswith("images/s, about 1.0 days left, 1 failed") or said[-1].endswith("1 failed")
