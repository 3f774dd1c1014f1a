"""The process that speaks with Ray for a run; its first argument is the descriptor of its end of a socket to the run.

It is a program of its own, so that Ray neither prints into the run's output, nor hangs it, nor finds its settings in
the environment of a user's notebook. Whatever becomes of the run, a Ray that was started for it ends with this process.
"""

from __future__ import annotations

import logging
import shutil
import sys
import threading
from concurrent.futures import Future
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from cxr_embed.pipeline.messages import Unusable
from cxr_embed.pipeline.ray_messages import (
    ForActor,
    Kill,
    Launch,
    LookForNodes,
    Lost,
    Node,
    Nodes,
    Start,
)

# Nothing large passes through Ray's object store; this is the least that it accepts, with a margin.
_OBJECT_BYTES = 80 << 20


class Bridge:
    """Actors by their numbers, and what they answer."""

    def __init__(self, connection: Connection, start: Start) -> None:
        import ray

        self._ray, self._connection, self._sending = ray, connection, threading.Lock()
        self._actors: dict[int, Any] = {}
        shared: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if start.address is None:
            # "local" by name: without it Ray joins whatever cluster this machine knows.
            ray.init(
                "local",
                num_cpus=start.cores,
                include_dashboard=False,
                object_store_memory=_OBJECT_BYTES,
                _temp_dir=start.folder,
                _plasma_directory=start.folder,
                **shared,
            )
        else:
            ray.init(start.address, **shared)

    def send(self, message: Any) -> None:
        """Sends to the run, from any thread."""
        with self._sending:
            self._connection.send(message)

    def serve(self) -> None:
        """Does what the run says, until its end of the socket closes."""
        self.send(self._nodes())
        while True:
            message = self._connection.recv()
            if isinstance(message, Launch):
                self._launch(message)
            elif isinstance(message, ForActor):
                self._answers(message.number, self._actors[message.number].step.remote(message.step))
            elif isinstance(message, Kill):
                self._ray.kill(self._actors.pop(message.number), no_restart=True)
            elif isinstance(message, LookForNodes):
                self.send(self._nodes())

    def _nodes(self) -> Nodes:

        alive = [
            Node(
                node["NodeID"],
                node["NodeManagerAddress"],
                node["NodeManagerHostname"],
                int(node["Resources"].get("CPU", 0)),
                int(node["Resources"].get("GPU", 0)),
            )
            for node in self._ray.nodes()
            if node["Alive"]
        ]
        return Nodes(alive)

    def _launch(self, launch: Launch) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        from cxr_embed.pipeline.ray_actor import Actor

        there = NodeAffinitySchedulingStrategy(launch.node, soft=False)
        options = {"num_cpus": launch.cpus, "num_gpus": launch.gpus, "scheduling_strategy": there, "max_restarts": 0}
        actor = self._ray.remote(Actor).options(**options).remote()
        self._actors[launch.number] = actor
        self._answers(launch.number, actor.join.remote(launch.setup))

    def _answers(self, number: int, reference: Any) -> None:
        reference.future().add_done_callback(partial(self._pass_on, number))

    def _pass_on(self, number: int, future: Future[Any]) -> None:
        error = future.exception()
        self.send((number, future.result() if error is None else Lost(_line(error))))


def _line(error: BaseException) -> str:
    """A message of Ray's in one line: its first, and what kind of error it is."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def main() -> None:
    """Serves the run at the other end of the socket whose descriptor is the first argument, until it closes."""
    connection = Connection(int(sys.argv[1]))
    start: Start = connection.recv()
    try:
        bridge = Bridge(connection, start)
    except Exception as error:
        connection.send(Unusable(_line(error)))
        return
    try:
        bridge.serve()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the run is over, or was killed
    finally:
        import ray

        ray.shutdown()
        if start.address is None:
            shutil.rmtree(start.folder, ignore_errors=True)
