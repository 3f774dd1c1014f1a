"""A run's end of its bridge to Ray: starting one or joining a cluster, actors by their numbers, what they answer."""

from __future__ import annotations

import contextlib
import importlib.util
import ipaddress
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from joblib import cpu_count

from cxr_embed.errors import EncoderError
from cxr_embed.io.processes import ending
from cxr_embed.pipeline.messages import Unusable
from cxr_embed.pipeline.ray_messages import Node, Nodes, Start

_SERVE = "from cxr_embed.pipeline.ray_bridge import main; main()"
_ADDRESS = re.compile(r"(?P<host>[^\s:/]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")
# Somebody must listen within the first; joining a cluster that is there, or starting one, takes seconds.
_REACH_SECONDS, _START_SECONDS = 5.0, 90.0
_SECONDS_TO_END = 15.0
# The beginning of HTTP/2, which Ray's servers speak: who begins must send it, and is answered with settings too.
_SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _SETTINGS
_KIND_AT, _KIND = 3, 4  # of that answer
# Room for the names of Ray's sockets below the folder: a socket's path has 107 bytes at most.
_LONGEST_FOLDER = 30
# By default Ray listens on every interface, lets anybody in, and reports its use. Of these the first keeps it on
# loopback; the last would end workers for the memory that other programs take.
_OWN = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",
    "RAY_memory_monitor_refresh_ms": "0",
}
_NO_REPORTS = {"RAY_USAGE_STATS_ENABLED": "0"}
OPEN_CLUSTER = (
    "anybody who reaches the cluster's ports can run programs there: it has no token and its addresses are not of a "
    "private network; docs/many-machines.md has both"
)


class BridgeLost(Exception):
    """The process that speaks with Ray ended, and with it what it had started. `reason` says how."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Cluster:
    """Ray, as a run sees it.

    Args:
        address: `HOST:PORT` of a cluster's head, `auto` for the cluster that this machine knows, None to start one
            that ends with the run.

    Attributes:
        nodes: those that were alive when they were last looked for.

    Raises:
        EncoderError: where there is no Ray to be had.
    """

    def __init__(self, address: str | None) -> None:
        self.address = address
        environment = _environment(address)
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS") or address
        self.has_token = environment.get("RAY_AUTH_MODE") == "token"
        self.nodes: list[Node] = []
        self._folder = _own_folder() if address is None else ""
        ours, theirs = socket.socketpair()
        with theirs:
            # In a session of its own: Ctrl-C is the run's to see, which ends the others in order.
            self._process = subprocess.Popen(
                [sys.executable, "-c", _SERVE, str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,
            )
        self._connection = Connection(ours.detach())
        try:
            self.send(Start(address, self._folder, cpu_count()))
            self._wait_for_nodes()
        except BaseException:
            self.close()
            raise

    def _wait_for_nodes(self) -> None:
        until = time.monotonic() + _START_SECONDS
        where = "Ray cannot be started here" if self.address is None else f"no Ray cluster at {self.address}"
        while not self.nodes:
            try:
                for _ in self.messages(max(0.0, until - time.monotonic())):
                    pass
            except BridgeLost as lost:
                raise EncoderError(f"{where}: its process {lost.reason}") from None
            except EncoderError as error:
                known = self.address != "auto"
                hint = (
                    "; somebody listens there: is its token set here, and is it of the same Ray?"
                    if self.address
                    else ""
                )
                raise EncoderError(
                    f"{where} ({error}){hint}" if known else "this machine is in no Ray cluster"
                ) from None
            if time.monotonic() > until:
                raise EncoderError(f"{where}: no answer within {_START_SECONDS:.0f} s")

    @property
    def is_open(self) -> bool:
        """Whether neither a token nor a private network keeps others out."""
        return not self.has_token and not all(ipaddress.ip_address(node.address).is_private for node in self.nodes)

    def send(self, message: Any) -> None:
        """Sends to the bridge; one that is gone is noticed when it is next listened to."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._connection.send(message)

    def messages(self, seconds: float) -> Iterator[tuple[int, Any]]:
        """What actors have answered, each with its number; waits for the first at most so long.

        Raises:
            BridgeLost: where nothing will come any more.
            EncoderError: where Ray could not be had.
        """
        while self._connection.poll(seconds):
            try:
                message = self._connection.recv()
            except (EOFError, ConnectionResetError):
                raise BridgeLost(ending(self._process)) from None
            seconds = 0.0
            if isinstance(message, Unusable):
                raise EncoderError(message.message)
            if isinstance(message, Nodes):
                self.nodes = message.nodes
            else:
                yield message
            if isinstance(message, Nodes):
                return

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the actors, and a Ray that was started for the run."""
        self._connection.close()
        try:
            self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def _environment(address: str | None) -> dict[str, str]:
    """The bridge's: of a Ray of our own nothing is left to what the user has set for another."""
    kept = {name: value for name, value in os.environ.items() if address is not None or not name.startswith("RAY_")}
    if address is None:
        return {**kept, **_OWN, **_NO_REPORTS, "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    if address != "auto":
        kept.pop("RAY_ADDRESS", None)
    if _is_loopback(address):
        kept.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # or Ray asks at this machine's other address
    return {**kept, **_NO_REPORTS}


def _is_loopback(address: str) -> bool:
    return address.rpartition(":")[0] in ("127.0.0.1", "localhost")


def _own_folder() -> str:
    above = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="cxr-ray-", dir=above if len(above) < _LONGEST_FOLDER else "/tmp")


def check_address(address: str | None) -> None:
    """Looks whether Ray is installed, and whether somebody listens at an address: Ray itself would try for minutes.

    Raises:
        EncoderError: where not.
    """
    if importlib.util.find_spec("ray") is None:
        raise EncoderError("`engine='ray'` needs Ray: pip install 'cxr-embed[ray]'")
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS") or address
    if address is None or address == "auto":
        return
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) < 1 << 16:
        raise EncoderError(f"`address` is HOST:PORT of the head of a Ray cluster, or auto, not {address!r}")
    try:
        _greet(match["host"].strip("[]"), int(match["port"]))
    except OSError as error:
        why = "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)
        raise EncoderError(
            f"no Ray cluster listens at {address} ({why}); `ray start --head` prints the address of one"
        ) from None


def _greet(host: str, port: int) -> None:
    """Waits until a server of Ray's kind answers; one that takes connections for another, which is not there, does not.

    Raises:
        OSError: where none does.
    """
    until = time.monotonic() + _REACH_SECONDS
    with socket.create_connection((host, port), _REACH_SECONDS) as server:
        if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
            return  # which would hang up on whoever does not encrypt
        server.sendall(_HELLO)
        answer = b""
        while len(answer) <= _KIND_AT:
            server.settimeout(max(0.01, until - time.monotonic()))
            if not (more := server.recv(len(_SETTINGS))):
                raise OSError("the connection was closed at once")
            answer += more
        if answer[_KIND_AT] != _KIND:
            raise OSError("something else does")
