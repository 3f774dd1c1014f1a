"""Files and folders that are there whole or not at all: written beside, flushed, made visible by a rename."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import secrets
import shutil
import tokenize
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from cxr_embed.io.addresses import shown_address

# What numpy raises besides ValueError for a header whose bytes have changed: it reads it as Python's words.
ODD_HEADER = (EOFError, SyntaxError, tokenize.TokenError, MemoryError, OverflowError, RecursionError, TypeError)


def load_npy(file: Path | BinaryIO, mmap_mode: Literal["r", "c"] | None = None) -> np.ndarray:
    """The array of an `.npy` file; in memory, or mapped. Pickles are never loaded.

    Raises:
        OSError: where it cannot be read.
        ValueError: where it is damaged, or no array.
    """
    try:
        found: np.ndarray = np.load(file, mmap_mode=mmap_mode, allow_pickle=False)
    except (*ODD_HEADER, zipfile.BadZipFile) as error:  # what begins as an archive does is taken for one
        raise ValueError(f"a damaged header ({type(error).__name__})") from None
    if not isinstance(found, np.ndarray):  # an archive of arrays
        raise ValueError("no array")
    return found


def not_local(path: str | os.PathLike[str]) -> str | None:
    """Why no file or folder can have such a path, in words; None where it can. Nothing is looked for."""
    text = os.fspath(path)
    # A Path has made one slash of two.
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", text):
        return f"{shown_address(text)}: an address, not a place on this machine; copy or mount it, and name that"
    if text.encode(errors="ignore").decode() != text:
        shown = text.encode(errors="backslashreplace").decode()
        return f"{shown}: the name is not in UTF-8, which libraries that open it need; rename it"
    if "\0" in text:
        return f"{text!r}: a name with a NUL character"
    return None


def stays_below(root: str | os.PathLike[str]) -> Callable[[str | os.PathLike[str]], bool]:
    """A question to ask of paths below a folder: whether the file is there too, once every link is followed.

    The folder may be a link itself.
    """
    top = os.path.realpath(root)
    real = lru_cache(maxsize=4096)(os.path.realpath)  # of folders, which many files share

    def below(path: str | os.PathLike[str]) -> bool:
        folder, name = os.path.split(path)
        try:
            file = os.path.join(real(folder), name)
            whole = os.path.realpath(file) if os.path.islink(file) or name == ".." else file
        except ValueError:  # a zero byte: no file has such a name
            return True
        return os.path.commonpath((top, whole)) == top

    return below


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A new file beside the target, which takes the target's name when the block has ended without an error.

    Raises:
        OSError: where it cannot be written.
    """
    with partial_of(path) as partial:
        yield partial
        sync(partial)
        os.replace(partial, path)
        sync(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is there whole or as it was before.

    Raises:
        OSError: where it cannot be written.
    """
    with written_aside(path) as partial:
        partial.write_bytes(data)


def write_new(path: Path, data: bytes) -> bool:
    """Writes a file that is there whole or not at all, and never replaces one; whether this call made it.

    Raises:
        OSError: where it cannot be written.
    """
    with partial_of(path) as partial:
        partial.write_bytes(data)
        sync(partial)
        try:
            os.link(partial, path)  # unlike a rename it fails where another process was first
        except FileExistsError:
            return False
        except OSError:  # a file system without links
            os.replace(partial, path)
    sync(path.parent)
    return True


def write_together(files: Mapping[Path, bytes]) -> None:
    """Writes files that belong together: all are on the disk before the first takes its name, the last one last.

    A disk that is full, or a kill at any moment but that of the renames, leaves none of them, or the old ones.

    Raises:
        OSError: where one cannot be written.
    """
    with ExitStack() as stack:
        partials = [stack.enter_context(partial_of(path)) for path in files]
        for partial, data in zip(partials, files.values(), strict=True):
            partial.write_bytes(data)
            sync(partial)
        for partial, path in zip(partials, files, strict=True):
            os.replace(partial, path)
        for folder in {path.parent for path in files}:
            sync(folder)


@contextmanager
def partial_of(path: Path, within: Path | None = None, folder: bool = False) -> Iterator[Path]:
    """An empty file or folder of an unguessable name, gone at the end unless it was renamed.

    What a killed writer of the same target left there goes first. A lock of the kernel, which a dead process does not
    keep, tells it from what another writer is at.

    Args:
        path: the target.
        within: where it is made, if not beside the target.
        folder: whether it is one.
    """
    if path.exists() and not path.is_file() and not folder:
        # A rename would put a file in the place of a folder or, for the superuser, of a device.
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    place = within or path.parent
    sweep(path, place)
    partial, descriptor = _claim(path, place, folder)
    try:
        yield partial
    finally:
        _delete(partial)
        os.close(descriptor)


@contextmanager
def new_folder(out: Path, error: type[Exception]) -> Iterator[Path]:
    """A folder that takes the target's place when the block has ended, or fills it where it is there and empty.

    A folder that is there stays the same one: a shell may stand in it, a disk may be mounted there.

    Args:
        out: the target.
        error: raised for a target with something in it, or one that cannot be written.
    """
    if (why := not_local(out)) is not None:
        raise error(why)
    whole = Path(os.path.realpath(out))  # `.` has no name of its own, and a link stays one
    fresh = not whole.exists()
    place = whole.parent if fresh else whole
    try:
        sweep(whole, place)
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise error(f"{out}: not an empty folder; name a new one")
        place.mkdir(parents=True, exist_ok=True)
        with partial_of(whole, place, folder=True) as partial:
            yield partial
            if fresh:
                os.rename(partial, whole)
            else:
                for path in sorted(partial.iterdir(), key=lambda path: path.suffix):  # folders before what lists them
                    os.rename(path, whole / path.name)
    except OSError as fault:
        raise error(f"{out}: cannot be written ({fault.strerror}); name another folder") from None


def sweep(path: Path, place: Path) -> None:
    """Deletes what killed writers of a target left in a folder."""
    ours = re.compile(re.escape(f".{path.name}.") + r"[0-9a-f]{32}\.partial")
    try:
        left = [Path(entry.path) for entry in os.scandir(place) if ours.fullmatch(entry.name)]
    except OSError:
        return
    for partial in left:
        with contextlib.suppress(OSError):
            descriptor = os.open(partial, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _delete(partial)
            finally:
                os.close(descriptor)


def _claim(path: Path, place: Path, folder: bool) -> tuple[Path, int]:
    """Makes it and locks it; again where another writer took it for a leftover in between."""
    while True:
        partial = place / f".{path.name}.{secrets.token_hex(16)}.partial"
        if folder:
            partial.mkdir()
        else:
            partial.touch(exist_ok=False)
        try:
            descriptor = os.open(partial, os.O_RDONLY)
        except FileNotFoundError:
            continue
        # Where the file system has no locks, nobody can take it for a leftover either.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if partial.exists():
            return partial, descriptor
        os.close(descriptor)


def _delete(partial: Path) -> None:
    with contextlib.suppress(OSError):
        if partial.is_dir():
            shutil.rmtree(partial)
        else:
            partial.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flushes a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
