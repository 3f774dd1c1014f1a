"""A Ray cluster of several nodes on this machine, for tests: each node a raylet of its own, all on loopback.

A program of its own, since Ray reads its settings when it is imported: `python tests/ray_nodes.py NODES FOLDER`. It
prints one line of JSON, `{"address": ..., "raylets": [pid, ...]}`, the head's first; for each further line of its
input one more node and the same line again. The cluster ends with its input.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

# A node that is gone is noticed within seconds.
QUICK = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
CLOSED = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",
}


class RayNodes:
    """The cluster, as a test sees it: `address` for `--address`, `environment` for who may join, `raylets` by pid."""

    def __init__(self, nodes: int) -> None:
        self._folder = tempfile.mkdtemp(
            prefix="ray-nodes-", dir="/tmp"
        )  # a socket below it has a path of 107 bytes at most
        (Path(self._folder) / "ray").mkdir()  # where the "current cluster" is written down
        self.token = secrets.token_hex(32)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        self.environment = {**kept, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": self.token}
        self._process = subprocess.Popen(
            [sys.executable, __file__, str(nodes), self._folder],
            env={**self.environment, **CLOSED, **QUICK, "RAY_TMPDIR": self._folder},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )
        self._below: list[psutil.Process] = []
        self._hear()

    def _hear(self) -> None:
        assert self._process.stdout is not None
        said = json.loads(self._process.stdout.readline())
        self.address: str = said["address"]
        here = {each.pid: each for each in psutil.process_iter()}  # but for those that a test has killed
        alive = [here[pid] for pid in said["raylets"] if pid in here]
        self.raylets = [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]
        self._below += psutil.Process(self._process.pid).children(recursive=True)

    def add_node(self) -> None:
        """One more raylet."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._hear()

    def __enter__(self) -> RayNodes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        below = [*self._below, *psutil.Process(self._process.pid).children(recursive=True)]
        for raylet in self.raylets:
            if raylet.is_running():
                below += raylet.children(recursive=True)
        for each in below:
            if each.is_running():
                each.kill()
        self._process.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)


def _serve(nodes: int, folder: str) -> None:
    from ray.cluster_utils import Cluster

    said, sys.stdout = sys.stdout, sys.stderr
    own: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20, "plasma_directory": folder}
    own |= {"node_ip_address": "127.0.0.1", "include_dashboard": False}
    head = {**own, "temp_dir": folder}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(nodes - 1):
        cluster.add_node(**own)
    while True:
        alive = [node for node in cluster.list_all_nodes() if node.all_processes.get("raylet")]
        raylets = [node.all_processes["raylet"][0].process.pid for node in alive]
        print(json.dumps({"address": cluster.address, "raylets": raylets}), file=said, flush=True)
        if not sys.stdin.readline():
            break
        cluster.add_node(**own)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2])
