"""Who is at a store: a record of each process in `writers/`, renewed while it lives.

Writers may be many at once. What must be alone (`store compact`, `forget`, prompts, `verify --upgrade`) is alone by
announcing: everybody first puts a record into `writers/`, then lists the folder, and goes back where a living record of
the other kind is there. Of two who come at the same moment at least one sees the other. Nothing depends on a lock that
a machine which is gone could keep:

* A record is alive while its file is renewed. Its age is the file system's own: the time of a record that was written
  just now, less its time. No two clocks are compared.
* On the machine that wrote it a record ends with its process: the kernel's lock on the file is free then.
* Whoever must be alone deletes the records of the dead. A process that was taken for dead (stopped, or cut off) sees
  that its record is gone, and announces itself anew before anything else of it counts (`Presence.lost`).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import filelock

from cxr_embed.errors import StoreError
from cxr_embed.io.times import utc_now
from cxr_embed.store.layout import LOCK, WRITERS

Role = Literal["writer", "alone"]
RENEWED = 10.0  # seconds
EXPIRES = 60.0  # of silence, after which somebody is taken for dead
PATIENCE = 3.0  # seconds that a writer waits for what is alone: most of it takes milliseconds
_STEP = 0.05
_NAME = re.compile(r"(writer|alone)-([0-9a-f]{32})\.json")
_OURS: set[str] = set()  # of this process, whose locks tell it nothing


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Somebody's record.

    Attributes:
        name: of the file.
        role: `writer`, or `alone` for what must be.
        age: seconds since it was renewed.
        alive: whether its process is taken to be at work.
        body: what it says: `host`, `pid`, `started`, `at` (what it does), and what a run says of itself.
    """

    name: str
    role: Role
    age: float
    alive: bool
    body: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ident(self) -> str:
        """What its partial shards are named by."""
        match = _NAME.fullmatch(self.name)
        return match[2] if match else ""

    @property
    def who(self) -> str:
        """For a message."""
        return (
            f"{self.body.get('at', 'a process')}, process {self.body.get('pid', '?')} on {self.body.get('host', '?')}"
        )


class Presence:
    """A record of this process, renewed by a thread until `close`.

    Args:
        root: the store.
        role: `writer`, or `alone`.
        at: what it does, in a word or two.

    Raises:
        OSError: where it cannot be written.
    """

    def __init__(self, root: Path, role: Role, at: str) -> None:
        self.ident = uuid.uuid4().hex
        self.path = root / WRITERS / f"{role}-{self.ident}.json"
        self._facts: dict[str, Any] = {}
        self._base = {"host": socket.gethostname(), "pid": os.getpid(), "started": utc_now(), "at": at}
        self._guard, self._ended = threading.Lock(), threading.Event()
        self.path.parent.mkdir(exist_ok=True, mode=0o700)
        _OURS.add(self.ident)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with contextlib.suppress(OSError):  # where there are no locks, age alone decides
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._base["machine"] = _machine()
            self.renew()
        except BaseException:
            self.close()
            raise
        threading.Thread(target=self._keep, daemon=True).start()

    def say(self, **facts: Any) -> None:
        """Sets what the record says beside who it is, from its next renewal on."""
        self._facts = facts

    def renew(self) -> None:
        """Writes the record anew, in its place: a record that somebody deleted stays deleted.

        Raises:
            OSError: where it cannot be written.
        """
        with self._guard:
            if self._ended.is_set():
                return
            data = json.dumps({**self._base, **self._facts}).encode()
            os.pwrite(self._descriptor, data.ljust(os.fstat(self._descriptor).st_size), 0)
            os.fsync(self._descriptor)  # a network file system shows it to others then

    def _keep(self) -> None:
        while not self._ended.wait(RENEWED):
            try:
                self.renew()
            except OSError:  # a full disk: its time needs no room
                with contextlib.suppress(OSError):
                    os.utime(self.path)

    @property
    def lost(self) -> bool:
        """Whether somebody took this process for dead."""
        return not self.path.exists()

    def close(self) -> None:
        """Takes the record away."""
        with self._guard:
            if self._ended.is_set():
                return
            self._ended.set()
            self.path.unlink(missing_ok=True)
            os.close(self._descriptor)
        _OURS.discard(self.ident)


def look(root: Path, ours: Presence | None = None) -> list[Seen]:
    """The records of others, living or not, oldest first.

    Args:
        root: the store.
        ours: a record of this process, which is left out; it gives the file system's time. Without one the time of
            this machine must do: a caller that only shows what it sees.
    """
    if ours is not None:
        with contextlib.suppress(OSError):
            ours.renew()
    try:
        now = ours.path.stat().st_mtime if ours is not None else time.time()
    except OSError:
        now = time.time()
    found = []
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(root / WRITERS):
            match = _NAME.fullmatch(name)
            if match and (ours is None or match[2] != ours.ident):
                seen = _seen(root / WRITERS / name, match[2], now)
                found += [seen] if seen is not None else []
    return sorted(found, key=lambda seen: (str(seen.body.get("started", "")), seen.name))


def _seen(path: Path, ident: str, now: float) -> Seen | None:
    """Somebody's record; None where it is gone by now."""
    role: Role = "writer" if path.name.startswith("writer") else "alone"
    try:
        with open(path, "rb") as file:
            try:
                body = json.loads(file.read())
            except ValueError:
                body = None
            body = body if isinstance(body, dict) else {}  # it is being written
            age = now - os.fstat(file.fileno()).st_mtime
            alive = age <= EXPIRES and not (ident not in _OURS and _is_free(file.fileno(), body))
            return Seen(name=path.name, role=role, age=max(0.0, age), alive=alive, body=body) if path.exists() else None
    except OSError:
        return None


def _is_free(descriptor: int, body: Mapping[str, Any]) -> bool:
    """Whether the process of a record of this machine has ended."""
    if body.get("machine") != _machine():
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _machine() -> str:
    """What tells this running kernel from every other one."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return socket.gethostname()


def join(root: Path, at: str) -> Presence:
    """Announces a writer.

    Raises:
        StoreError: where something is at the store that must be alone.
        OSError: where the store cannot be written.
    """
    until = time.monotonic() + PATIENCE
    while True:
        presence = Presence(root, "writer", at)
        busy = [seen for seen in look(root, presence) if seen.alive and seen.role == "alone"]
        if not busy:
            return presence
        presence.close()
        if time.monotonic() > until:
            raise StoreError(f"{root}: another process is writing to this store alone ({busy[0].who}); wait for it")
        time.sleep(_STEP)


@contextlib.contextmanager
def alone(root: Path, at: str) -> Iterator[Presence]:
    """While entered, no writer of the store is at work, and none begins; records of dead ones are deleted.

    Args:
        root: the store; the folder is made where it is missing.
        at: what is done, in a word or two, for others' messages.

    Raises:
        StoreError: where another process is at the store, or its folder cannot be written.
    """
    lock = _keep_out_earlier_releases(root)
    try:
        try:
            presence = Presence(root, "alone", at)
        except OSError as error:
            raise StoreError(f"{root}: cannot be written ({error.strerror})") from None
        try:
            others = look(root, presence)
            if busy := [seen for seen in others if seen.alive]:
                raise StoreError(
                    f"{root}: another process is writing to this store ({busy[0].who}); wait for it, or give another "
                    "`store`"
                )
            for dead in others:
                (root / WRITERS / dead.name).unlink(missing_ok=True)
            yield presence
        finally:
            presence.close()
    finally:
        lock.release()


def _keep_out_earlier_releases(root: Path) -> filelock.BaseFileLock:
    """Takes the lock that earlier releases' one writer holds; among processes of this one the records decide."""
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)  # it names images and patients
        lock = filelock.FileLock(root / LOCK)
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise StoreError(
            f"{root}: another process is writing to this store; wait for it, or give another `store`. If the machine "
            f"that held {LOCK} is gone, delete that file"
        ) from None
    except OSError as error:
        raise StoreError(f"{root}: cannot be written ({error.strerror})") from None
    return lock
