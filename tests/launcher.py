"""The command line in a process of its own, without the second that its imports take: a fork of one that has them.

A server imports the package once and starts nothing of it: no thread pool, no encoder. For each call it forks a
child, which takes the caller's folder, variables, umask and streams, and then runs `cxr_embed` as `python -m` does.
Its end is the interpreter's, without taking all modules apart again. What is read when Python or a library starts
(`PYTHONPATH`, a locale, `OMP_NUM_THREADS`) would come too late for a fork: `can_fork` says so, and the caller starts
a new process.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import re
import runpy
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

_LENGTH = struct.Struct("!q")
_LONGEST = 240  # seconds; a call that hangs ends by SIGALRM, and the calls after it are served
_LATE = re.compile("HOME|XDG_[A-Z_]+|CXR_EMBED_[A-Z_]+|PYTEST_[A-Z_]+")  # variables that are read when they are needed

# What handlers and functions import for themselves; `torch`, `tensorflow` and `pymilvus` start threads.
_LIBRARIES = (
    "faiss",
    "google_crc32c",
    "imagecodecs",
    "jinja2",
    "joblib",
    "kornia_rs",
    "matplotlib.backends.backend_agg",
    "matplotlib.backends.backend_svg",
    "matplotlib.figure",
    "pyarrow.csv",
    "pyarrow.parquet",
    "pydicom.pixels",
    "rich.console",
    "rich.progress",
    "rich.table",
    "safetensors.numpy",
    "simplejpeg",
    "skimage.feature",
    "sklearn.isotonic",
    "sklearn.linear_model",
    "sklearn.metrics",
    "sklearn.neural_network",
)


class Launcher:
    """A server and the way to it; one call at a time.

    Args:
        environment: the variables that the server starts with.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._home = tempfile.TemporaryDirectory()  # for what libraries write when they are imported
        self._environment = {**environment, "HOME": self._home.name}
        self._channel, theirs = socket.socketpair()
        self._lock = threading.Lock()
        with theirs:
            # Its standard output is what a pipe is to Python: no terminal, so written in blocks.
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())],
                env=self._environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        atexit.register(self.close)

    def can_fork(self, environment: Mapping[str, str]) -> bool:
        """Whether a process with these variables differs from the server in nothing that was read at its start."""
        changed = dict(self._environment.items() ^ environment.items())
        return all(_LATE.fullmatch(name) for name in changed)

    def run(
        self, arguments: Sequence[str], cwd: Path | None, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """What `subprocess.run` gives of `python -m cxr_embed ARGUMENTS`, its output captured as text."""
        umask = os.umask(0)
        os.umask(umask)
        request = {
            "arguments": list(arguments),
            "cwd": os.path.abspath(cwd or os.getcwd()),
            "environment": dict(environment),
            "umask": umask,
        }
        body = json.dumps(request).encode()
        with self._lock:
            streams = [os.pipe(), os.pipe()]
            socket.send_fds(self._channel, [_LENGTH.pack(len(body))], [write for _, write in streams])
            for _, write in streams:
                os.close(write)
            self._channel.sendall(body)
            # The server holds no end of these pipes while it waits, so they end with the process and its children.
            output = _read_all([read for read, _ in streams])
            status = _receive(self._channel, _LENGTH.size)
        if not status:
            raise RuntimeError("the server of forked processes has ended")
        return subprocess.CompletedProcess(list(arguments), _LENGTH.unpack(status)[0], *output)

    def close(self) -> None:
        """Ends the server."""
        self._channel.close()
        self._server.wait()
        self._home.cleanup()


def _read_all(descriptors: Sequence[int]) -> list[str]:
    """The text that comes through each of some pipes, all read at once."""
    texts = [""] * len(descriptors)

    def read(place: int) -> None:
        with open(descriptors[place]) as pipe:
            texts[place] = pipe.read()

    threads = [threading.Thread(target=read, args=[place]) for place in range(len(descriptors))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return texts


def _receive(channel: socket.socket, length: int) -> bytes:
    """`length` bytes; none where the other end is gone."""
    parts = b""
    while len(parts) < length:
        part = channel.recv(length - len(parts))
        if not part:
            return b""
        parts += part
    return parts


def _import_all() -> None:
    import importlib
    import pkgutil

    import cxr_embed
    from cxr_embed.telemetry import import_openvino

    for module in pkgutil.walk_packages(cxr_embed.__path__, "cxr_embed."):
        if not module.name.endswith("__main__"):
            with contextlib.suppress(ImportError):  # of an extra that is not installed
                importlib.import_module(module.name)
    for name in _LIBRARIES:
        importlib.import_module(name)
    import_openvino()


def serve(channel: socket.socket) -> bool:
    """Answers calls until the caller is gone; in a child it returns True: the command line is to be run."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the tests, and they end this
    _import_all()
    gc.collect()
    gc.freeze()  # so that a child's collections leave the shared memory alone
    while True:
        header, descriptors, *_ = socket.recv_fds(channel, _LENGTH.size, 2)
        if not header:
            return False
        request = json.loads(_receive(channel, _LENGTH.unpack(header)[0]))
        child = os.fork()
        if child == 0:
            channel.close()
            _become(request, descriptors)
            return True
        for descriptor in descriptors:
            os.close(descriptor)
        _, status = os.waitpid(child, 0)
        channel.sendall(_LENGTH.pack(os.waitstatus_to_exitcode(status)))


def _become(request: dict[str, object], descriptors: Sequence[int]) -> None:
    """Makes this process the one that was asked for."""
    signal.alarm(_LONGEST)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for place, descriptor in enumerate(descriptors, start=1):
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.umask(request["umask"])
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[0] = request["cwd"]  # as `python -m` has it
    sys.argv[1:] = request["arguments"]


def _run_and_exit() -> None:
    """Runs the command line as `python -m` does and ends this process with its status."""
    status = 0
    try:
        runpy.run_module("cxr_embed", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            status = 120  # as Python has it
    os._exit(status)


if __name__ == "__main__" and serve(socket.socket(fileno=int(sys.argv[1]))):
    _run_and_exit()
