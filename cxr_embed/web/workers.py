"""Processes that work for the server: one answer at a time, and another process where one dies or takes too long."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any, cast

from cxr_embed.io.processes import ending, signals_blocked
from cxr_embed.web import wire

Message = tuple[dict[str, Any], Sequence[bytes | memoryview]]  # the head and the parts, as `wire` has them
_STARTING = 60.0  # seconds


class WorkerEnded(Exception):
    """A process that gave no answer; the message says why."""


class Worker:
    """One process, started when it is needed and after it has ended.

    Args:
        program: a module of this package, whose `main` says that it is ready and then answers each message.
        what: it does, for messages: `decoding`.
        greeting: the first message, which the process does not answer; none by default.
    """

    def __init__(self, program: str, what: str, greeting: Callable[[], Message] | None = None) -> None:
        self._program, self._what, self._greeting = program, what, greeting
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def start(self) -> Connection:
        """The way to the process, which runs.

        Raises:
            WorkerEnded: where it cannot be started.
        """
        if self._connection is not None and self._process is not None and self._process.poll() is None:
            return self._connection
        self.stop()
        ours, theirs = socket.socketpair()
        with theirs, signals_blocked():
            self._process = subprocess.Popen(
                [sys.executable, "-c", f"from {self._program} import main; main()", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
            )
        self._connection = Connection(ours.detach())
        if not self._connection.poll(_STARTING):
            self.stop()
            raise WorkerEnded(f"the {self._what} process does not start")
        try:
            wire.receive(self._connection)
            if self._greeting is not None:
                wire.send(self._connection, *self._greeting())
        except (EOFError, OSError, ValueError):
            raise WorkerEnded(f"the {self._what} process {ending(self._process)}") from None
        return self._connection

    def ask(
        self, head: dict[str, Any], parts: Sequence[bytes | memoryview], seconds: float
    ) -> tuple[dict[str, Any], list[memoryview]]:
        """What the process answers.

        Args:
            head, parts: of the message.
            seconds: that it may take; a process that takes longer is ended.

        Raises:
            WorkerEnded: whatever it does to itself.
        """
        with self._lock:
            connection = self.start()
            try:
                wire.send(connection, head, parts)
                if not connection.poll(seconds):
                    self.stop()
                    raise WorkerEnded(f"{self._what} took longer than {seconds:.0f} s")
                return wire.receive(connection)
            except (EOFError, OSError):
                how = ending(cast("subprocess.Popen[bytes]", self._process))
                self.stop()
                raise WorkerEnded(f"the {self._what} process {how}") from None
            except ValueError:
                self.stop()
                raise WorkerEnded(f"the {self._what} process did not answer in order") from None

    def stop(self) -> None:
        """Ends the process, now."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._process.wait()
        self._process = self._connection = None
