"""`embed --engine ray --address`: a real cluster of two nodes on loopback, and addresses where there is none."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from helpers import run_cli
from ray_nodes import RayNodes

from cxr_embed import open_store
from cxr_embed.encoders import engines
from cxr_embed.errors import EncoderError
from cxr_embed.pipeline.devices import resolve_devices
from cxr_embed.pipeline.embedding import embed
from cxr_embed.pipeline.ray_cluster import check_address
from cxr_embed.store import verify_store

HERE = Path(__file__).parent
MEAN, SLOW = "helpers:make_mean", "helpers:make_slow"
Make = Callable[..., Path]

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed (extra `ray`)")


@pytest.fixture(autouse=True)
def _reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayNodes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
        with RayNodes(2) as nodes:
            yield nodes


def vectors_are(store: Path, plain: Path) -> None:
    got, want = open_store(store), open_store(plain)
    assert sorted(got.ids.tolist()) == sorted(want.ids.tolist())
    np.testing.assert_array_equal(got.read(want.ids).vectors, want.read().vectors)
    assert verify_store(store) == []


@needs_ray
def test_two_nodes_of_a_cluster_do_what_one_process_does(make_images: Make, tmp_path: Path, cluster: RayNodes) -> None:
    manifest = make_images(60)
    words = ["embed", str(manifest), "--encoder", SLOW, "--workers", "1", "--dtype", "float32", "--json"]
    done = run_cli(
        *words,
        "--store",
        str(tmp_path / "s"),
        "--engine",
        "ray",
        "--address",
        cluster.address,
        env={**os.environ, **cluster.environment},
    )
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["embedded"] == summary["stored"] == 60
    assert run_cli(*words, "--store", str(tmp_path / "plain")).returncode == 0
    vectors_are(tmp_path / "s", tmp_path / "plain")


@needs_ray
def test_gpus_that_no_node_has(make_images: Make, tmp_path: Path, cluster: RayNodes) -> None:
    words = ["embed", str(make_images(2)), "--encoder", MEAN, "--store", str(tmp_path / "s"), "--device", "cuda"]
    environment = {**os.environ, **cluster.environment}
    done = run_cli(*words, "--engine", "ray", "--address", cluster.address, env=environment)
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "error: no node of the cluster has a GPU to lend; the same command goes on once one has"
    ]


@needs_ray
@pytest.mark.soak
def test_a_cluster_whose_token_is_another(make_images: Make, tmp_path: Path, cluster: RayNodes) -> None:
    words = ["embed", str(make_images(2)), "--encoder", MEAN, "--store", str(tmp_path / "s")]
    environment = {**os.environ, **cluster.environment, "RAY_AUTH_TOKEN": "0" * 64}
    done = run_cli(*words, "--engine", "ray", "--address", cluster.address, env=environment)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "is its token set here" in done.stderr


def test_gpus_of_other_machines_are_not_looked_for_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)  # nor is torch here
    with pytest.raises(EncoderError, match="a GPU needs torch"):
        resolve_devices("cuda", "densenet121")
    assert resolve_devices("cuda", "densenet121", far=True) == ("cuda", ())
    assert engines.available_precisions("cuda") == ("float32",)


@pytest.mark.parametrize("manner", ["says nothing", "hangs up", "speaks otherwise"])
def test_who_takes_connections_and_is_no_cluster(manner: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxr_embed.pipeline.ray_cluster._REACH_SECONDS", 0.5)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: "there")
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            taken, _ = server.accept()
            with taken, contextlib.suppress(ConnectionResetError):
                if manner == "speaks otherwise":
                    taken.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                if manner != "hangs up":
                    while taken.recv(4096):
                        pass

        threading.Thread(target=serve, daemon=True).start()
        with pytest.raises(EncoderError, match=r"no Ray cluster listens at 127[^\n]*$"):
            check_address(f"127.0.0.1:{server.getsockname()[1]}")


# Random deaths


def below(process: psutil.Process, what: str) -> list[psutil.Process]:
    found = []
    with contextlib.suppress(psutil.Error):
        for each in process.children(recursive=True):
            with contextlib.suppress(psutil.Error):
                found += [each] if each.cmdline()[:1] and each.cmdline()[0].startswith(what) else []
    return found


def until(true: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if true():
            return True
        threading.Event().wait(0.02)
    return False


def published(store: Path) -> dict[str, Any]:
    """What a reader finds: the vectors by the ids of their images."""
    if not (store / "store.json").exists():
        return {}
    opened = open_store(store)
    ids = opened.ids
    return dict(zip(ids.tolist(), opened.read(ids).vectors, strict=True))


@needs_ray
@pytest.mark.soak
def test_random_deaths_lose_nothing_and_double_nothing(make_images: Make, tmp_path: Path) -> None:
    rng = np.random.default_rng(19)
    manifest, store = make_images(1200), tmp_path / "s"
    killed = dict.fromkeys(("actor", "raylet", "driver"), 0)
    before: dict[str, Any] = {}
    deck: list[str] = []
    with RayNodes(2) as nodes:
        command = [sys.executable, "-m", "cxr_embed", "embed", str(manifest), "--encoder", SLOW, "--dtype", "float32"]
        command += ["--store", str(store), "--workers", "1", "--engine", "ray", "--address", nodes.address]
        ends = time.monotonic() + 150
        code = None
        while code != 0:
            with subprocess.Popen(
                command,
                env={**os.environ, **nodes.environment},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
                start_new_session=True,
            ) as driver:
                while driver.poll() is None and time.monotonic() < ends:
                    had = len(list(store.glob("shards/0*")))
                    aim = had + int(rng.integers(1, 4))
                    until(lambda aim=aim: driver.poll() is not None or len(list(store.glob("shards/0*"))) >= aim, 20)
                    deck = deck or rng.permutation(["actor", "actor", "actor", "raylet", "driver"]).tolist()
                    what = deck.pop()
                    before |= published(store)
                    victims: list[Any]
                    if what == "actor":
                        victims = [actor for raylet in nodes.raylets for actor in below(raylet, "ray::Actor")]
                    else:
                        victims = nodes.raylets[1:] if what == "raylet" else [driver]
                    if victims and driver.poll() is None:
                        with contextlib.suppress(psutil.NoSuchProcess):
                            victims[int(rng.integers(len(victims)))].send_signal(signal.SIGKILL)
                            killed[what] += 1
                        if what == "raylet":
                            nodes.add_node()
                assert driver.stderr is not None
                said = driver.communicate()[1]
                code = driver.returncode
            assert code in (0, -signal.SIGKILL), said
    print(killed)
    assert min(killed.values()) > 0, killed
    after = published(store)
    for image_id, vector in before.items():
        np.testing.assert_array_equal(after[image_id], vector)
    assert len(open_store(store).ids) == len(set(open_store(store).ids.tolist())) == 1200
    embed(manifest, SLOW, tmp_path / "plain", dtype="float32")
    vectors_are(store, tmp_path / "plain")
