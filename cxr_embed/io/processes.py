"""Child processes: memory to share with them, signals they must not see, how they ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO


def shared_file(size: int) -> IO[bytes] | None:
    """An unlinked file of `size` bytes in memory (else on disk) to map in several processes; None without room.

    Its blocks are reserved: a full disk is met here, not as a crash on first touch.
    """
    return _reserve(Path("/dev/shm"), size) or _reserve(None, size)


def _reserve(folder: Path | None, size: int) -> IO[bytes] | None:
    if folder is not None and not os.access(folder, os.W_OK):
        return None
    file: IO[bytes] = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    try:
        grow(file, size)
    except OSError:
        file.close()
        return None
    return file


def grow(file: IO[bytes], size: int) -> None:
    """Makes the file at least `size` bytes long, with its blocks reserved.

    Raises:
        OSError: where there is no room.
    """
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        os.ftruncate(file.fileno(), max(size, os.fstat(file.fileno()).st_size))


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Children started inside never see Ctrl-C or SIGTERM: whoever started them ends them in order."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def end_with_peer(descriptor: int) -> None:
    """Ends this process once the other end of its socket is closed, whatever it is at: its parent was killed, say."""

    def wait() -> None:
        poll = select.poll()
        poll.register(descriptor, 0)  # hang-ups alone, which need no asking for
        poll.poll()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def stderr_silenced() -> Iterator[None]:
    """What C libraries print to stderr inside goes nowhere; for processes with one thread only."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def ending(process: subprocess.Popen[bytes]) -> str:
    """How a process ended, in words."""
    try:
        code = process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        return "closed its connection"
    if code >= 0:
        return f"ended with status {code}"
    name = signal.Signals(-code).name if -code in {s.value for s in signal.Signals} else str(-code)
    return f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
