"""`embed --engine ray`: the same as `embed`, from actors that share the store and may die."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers import make_mean, run_cli
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_embed import open_store
from cxr_embed.errors import CxrEmbedError, EncoderError
from cxr_embed.manifest import read_manifest
from cxr_embed.pipeline import ray_run
from cxr_embed.pipeline.embedding import embed
from cxr_embed.pipeline.leases import Leases
from cxr_embed.pipeline.messages import Setup
from cxr_embed.pipeline.ray_actor import Actor
from cxr_embed.pipeline.ray_cluster import Cluster
from cxr_embed.pipeline.ray_messages import ActorSetup, Joined, Node, Refused, Report, Step
from cxr_embed.pipeline.tasks import Task, task_chunks
from cxr_embed.store import StoreWriter, verify_store
from cxr_embed.version import __version__

HERE = Path(__file__).parent
MEAN, SLOW = "helpers:make_mean", "helpers:make_slow"
Make = Callable[..., Path]

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra `ray`)")


@pytest.fixture(autouse=True)
def _reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)


# Leases, without Ray


def images(count: int) -> Iterator[Task]:
    return (Task(f"i{number}", "p", f"{number}.png") for number in range(count))


@given(
    st.integers(0, 40), st.lists(st.tuples(st.sampled_from("tsb"), st.integers(0, 2), st.integers(1, 9)), max_size=60)
)
@settings(deadline=None)
def test_every_image_is_settled_once_whoever_dies(count: int, acts: list[tuple[str, int, int]]) -> None:
    leases = Leases(images(count))
    given_out: dict[int, list[int]] = {0: [], 1: [], 2: []}  # all that a holder ever had: dead ones go on talking
    settled: list[str] = []
    for act, holder, amount in [*acts, *[("t", 0, 9), ("s", 0, 99)] * (count + 9)]:
        if act == "t":
            taken, _ = leases.take(holder, amount)
            given_out[holder] += [key for key, _ in taken]
        elif act == "b":
            leases.take_back(holder)
        else:
            for key in given_out[holder][:amount]:
                task = leases.settle(key)
                settled += [task.image_id] if task is not None else []
            del given_out[holder][:amount]
    for holder in (1, 2):
        leases.take_back(holder)
    while leases.open:
        for key, _ in leases.take(0, 5)[0]:
            task = leases.settle(key)
            assert task is not None
            settled.append(task.image_id)
    assert sorted(settled) == sorted(task.image_id for task in images(count))


def test_what_comes_back_goes_out_first_and_is_said_to() -> None:
    leases = Leases(images(10))
    first, again = leases.take(1, 4)
    assert not again
    assert leases.take_back(1) == 4
    assert leases.take(2, 4) == (first, True)
    assert leases.held_by(2) == 4


# Actors, without Ray


@pytest.fixture
def job(make_images: Make, tmp_path: Path) -> tuple[ActorSetup, list[tuple[int, Task]]]:
    manifest = read_manifest(make_images(12))
    with StoreWriter(tmp_path / "s", make_mean("").spec, dtype="float32") as writer:
        fingerprint, header = writer.header.spec.fingerprint, (tmp_path / "s" / "store.json").read_bytes()
    setup = Setup(kind="whole", encoder=MEAN, fingerprint=fingerprint, device="cpu", precision="float32")
    tasks = [task for chunk in task_chunks(manifest, None) for task in chunk]
    return ActorSetup(
        store=str(tmp_path / "s"),
        header=header,
        release=__version__,
        software="",
        setup=setup,
        colour="refuse",
        images=12,
        cores=1,
        batch_size=4,
        workers=1,
        key_file=None,
    ), list(enumerate(tasks))


def finish(actor: Actor, step: Step) -> list[Report]:
    reports = []
    while True:
        report = actor.step(step)
        assert isinstance(report, Report)
        reports.append(report)
        if report.idle:
            return reports
        step = replace_images(step)


def replace_images(step: Step) -> Step:
    return step._replace(images=[])


def test_a_late_writer_counts_once(job: tuple[ActorSetup, list[tuple[int, Task]]]) -> None:
    setup, tasks = job
    slow, heir = Actor(), Actor()
    assert isinstance(slow.join(setup), Joined)
    assert isinstance(heir.join(setup), Joined)
    leases = Leases(task for _, task in tasks)
    given_out, _ = leases.take(1, 12)
    leases.take_back(1)
    taken_over, again = leases.take(2, 12)
    assert again
    settled = [
        leases.settle(outcome.key)
        for reports in (finish(heir, Step(taken_over, True, True)), finish(slow, Step(given_out, False, True)))
        for report in reports
        for outcome in report.outcomes
    ]
    slow.leave()
    heir.leave()
    assert len(settled) == 24
    assert sum(task is not None for task in settled) == 12
    store = open_store(setup.store)
    assert sorted(store.ids.tolist()) == sorted(task.image_id for _, task in tasks)
    assert verify_store(Path(setup.store)) == []


def test_an_heir_does_not_embed_again_what_was_published(job: tuple[ActorSetup, list[tuple[int, Task]]]) -> None:
    setup, tasks = job
    heir, first = Actor(), Actor()
    heir.join(setup)
    first.join(setup)
    finish(first, Step(tasks, False, True))
    first.leave()
    finish(heir, Step(tasks, True, True))
    heir.leave()
    shards = [json.loads(path.read_text()) for path in Path(setup.store).glob("shards/*/shard.json")]
    assert sum(shard["vectors"] for shard in shards) == 12


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fingerprint": "0" * 64}, "other weights there"),
        ({"encoder": "hog"}, "other weights there"),
        ({"encoder": "missing:make"}, "missing"),
        ({"weights": "nowhere.safetensors"}, "nowhere.safetensors"),
    ],
)
def test_a_node_with_another_encoder_is_refused(
    job: tuple[ActorSetup, list[tuple[int, Task]]], change: dict[str, str], said: str
) -> None:
    setup = job[0]
    if "weights" in change:
        change = {**change, "encoder": "chexnet"}
    refused = Actor().join(replace(setup, setup=replace(setup.setup, **change)))
    assert isinstance(refused, Refused)
    assert said in refused.reason


def test_a_node_with_another_store_or_release_is_refused(job: tuple[ActorSetup, list[tuple[int, Task]]]) -> None:
    setup = job[0]
    for changed, said in (
        (replace(setup, header=b"{}"), "must be on a disk that all nodes share"),
        (replace(setup, store=setup.store + "-nowhere"), "must be on a disk that all nodes share"),
        (replace(setup, release="9.9"), "the run is of 9.9"),
    ):
        refused = Actor().join(changed)
        assert isinstance(refused, Refused)
        assert said in refused.reason


def test_actors_are_shared_out() -> None:
    nodes = [Node("a", "10.0.0.1", "a", 8, 2), Node("b", "10.0.0.2", "b", 4, 1)]
    assert ray_run._shares(nodes, "cpu", None) == {"a": 1, "b": 1}
    assert ray_run._shares(nodes, "cpu", 3) == {"a": 2, "b": 1}
    assert ray_run._shares(nodes, "cuda", None) == {"a": 2, "b": 1}
    assert ray_run._shares(nodes, "cuda", 2) == {"a": 1, "b": 1}
    with pytest.raises(EncoderError, match="the cluster has 3 GPUs"):
        ray_run._shares(nodes, "cuda", 4)
    assert ray_run._shares(nodes[:1], "cuda", 3, begun=True) == {"a": 2}  # the other one died


# On Ray


def said_by(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads(done.stdout)
    for changing in ("seconds", "images_per_second", "bytes_free"):
        del summary[changing]
    summary["unchanged"] += summary.pop("reused")  # a file that had only just been written is read again
    summary["failed"].sort(key=lambda failure: failure["image_id"])
    return summary


@needs_ray
def test_it_is_embed_to_whoever_runs_it(make_images: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_images(40)
    folder = manifest.parent
    (folder / "i3.png").write_bytes(b"")
    (folder / "i4.png").write_bytes((folder / "i5.png").read_bytes())
    (folder / "i6.png").write_bytes((folder / "i7.png").read_bytes()[:200])
    (folder / "i8.png").unlink()
    (folder / "i9.png").rename(folder / "i9.dcm")
    manifest.write_text(manifest.read_text().replace("i9.png", "i9.dcm"))
    monkeypatch.setenv("RAY_ADDRESS", "203.0.113.1:6379")  # somebody's cluster, which is not this run's
    words = ["embed", str(manifest), "--encoder", MEAN, "--json", "--workers", "2"]
    for _ in range(2):  # a first run, and one after it
        plain = run_cli(*words, "--store", str(tmp_path / "plain"))
        on_ray = run_cli(*words, "--store", str(tmp_path / "ray"), "--engine", "ray")
        assert on_ray.returncode == plain.returncode == 1, on_ray.stderr
        assert said_by(on_ray) == said_by(plain)
        assert on_ray.stderr == plain.stderr
    got, want = open_store(tmp_path / "ray"), open_store(tmp_path / "plain")
    np.testing.assert_array_equal(got.read(want.ids).vectors, want.read().vectors)


def listening(process: psutil.Process) -> set[str]:
    """The addresses that a process and those below it listen at."""
    found = set()
    for each in [process, *process.children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            found |= {c.laddr.ip.removeprefix("::ffff:") for c in each.net_connections() if c.status == "LISTEN"}
    return found


@needs_ray
def test_ray_of_our_own_is_on_loopback_and_ends_with_the_run() -> None:
    with Cluster(None) as cluster:
        bridge = psutil.Process(cluster._process.pid)
        below = [bridge, *bridge.children(recursive=True)]
        assert listening(bridge) == {"127.0.0.1"}
        assert cluster.has_token
        assert not cluster.is_open
        assert bridge.environ()["RAY_USAGE_STATS_ENABLED"] == "0"
        assert len(bridge.environ()["RAY_AUTH_TOKEN"]) == 64
    psutil.wait_procs(below, timeout=30)
    assert not [each for each in below if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]
    assert not Path(cluster._folder).exists()


def actors_below(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for each in process.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            found += [each] if each.cmdline()[:1] and each.cmdline()[0].startswith("ray::Actor") else []
    return found


def once_published(store: Path, act: Callable[[], object]) -> threading.Thread:
    """Does something once the store has a shard."""

    def wait() -> None:
        while not list(store.glob("shards/0*")):
            time.sleep(0.05)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def signal_actors(number: signal.Signals) -> None:
    for actor in actors_below(psutil.Process()):
        actor.send_signal(number)


@needs_ray
@pytest.mark.parametrize(
    "number",
    [pytest.param(signal.SIGKILL, id="dies"), pytest.param(signal.SIGSTOP, id="hangs", marks=pytest.mark.soak)],
)
def test_an_actor_that_dies_or_hangs_loses_nothing(
    make_images: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(ray_run, "SILENT_SECONDS", 10.0)
    manifest = make_images(300)
    thread = once_published(tmp_path / "s", lambda: signal_actors(number))
    summary = embed(manifest, SLOW, tmp_path / "s", engine="ray", workers=1, dtype="float32")
    thread.join()
    assert summary.embedded == 300
    assert summary.stored == 300
    # On a machine that is busy with other things an actor may be slow to answer without a signal.
    said = r"[1-9]\d* actors? died" if number == signal.SIGKILL else r"\d+ actors? died and [1-9]\d* fell silent"
    assert any(re.match(said, note) for note in summary.notes), summary.notes
    embed(manifest, SLOW, tmp_path / "plain", dtype="float32")
    assert verify_store(tmp_path / "s") == []
    got, want = open_store(tmp_path / "s"), open_store(tmp_path / "plain")
    np.testing.assert_array_equal(got.read(want.ids).vectors, want.read().vectors)


@needs_ray
def test_ctrl_c_publishes(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(400)
    words = ["embed", str(manifest), "--encoder", SLOW, "--store", str(tmp_path / "s"), "--engine", "ray"]
    with subprocess.Popen(
        [sys.executable, "-m", "cxr_embed", *words, "--workers", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        once_published(tmp_path / "s", lambda: os.killpg(process.pid, signal.SIGINT)).join()
        out, err = process.communicate()
    assert process.returncode == 130, (out, err)
    assert "run the same command to go on" in err
    stored = len(open_store(tmp_path / "s"))
    assert 0 < stored < 400
    assert f"400 images: {stored:,} embedded" in out
    assert verify_store(tmp_path / "s") == []


def test_bad_input(make_images: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = make_images(2)
    with pytest.raises(CxrEmbedError, match="go with `engine='ray'`"):
        embed(manifest, MEAN, tmp_path / "s", actors=2)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(EncoderError, match=r"needs Ray: pip install 'cxr-embed\[ray\]'"):
        embed(manifest, MEAN, tmp_path / "s", engine="ray")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: "there")
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # and does not listen
        with pytest.raises(EncoderError, match="no Ray cluster listens at 127"):
            embed(manifest, MEAN, tmp_path / "s", engine="ray", address=f"127.0.0.1:{nobody.getsockname()[1]}")
    with pytest.raises(EncoderError, match="HOST:PORT"):
        embed(manifest, MEAN, tmp_path / "s", engine="ray", address="ray://head:10001")
    with pytest.raises(EncoderError, match="an object stays in this process"):
        embed(manifest, make_mean(""), tmp_path / "s", engine="ray")
    with pytest.raises(CxrEmbedError, match="`actors` must be 1 or more"):
        embed(manifest, MEAN, tmp_path / "s", engine="ray", actors=0)
    with pytest.raises(CxrEmbedError, match="`part` does not go with"):
        embed(manifest, MEAN, tmp_path / "s", engine="ray", part="1/2")
    with pytest.raises(EncoderError, match="Ray deals the GPUs out"):
        embed(manifest, MEAN, tmp_path / "s", engine="ray", device="cuda:1")
    assert not (tmp_path / "s").exists()
