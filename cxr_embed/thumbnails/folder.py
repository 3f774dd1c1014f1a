"""The folder of thumbnails: `INDEX.thumbnails` beside an index, or one that several servers share.

Layout::

    thumbnails.json        format, version, longer side; a digest of itself
    thumbnails.lock        held shared by whoever writes one, alone by whoever takes some out
    ab/                    the first two digits of the names in it
        <key>.webp         WebP, then 32 bytes: SHA-256 of the key and the WebP

A key is the SHA-256 of the radiograph's file, and for a region `-` and 16 digits of its box. A thumbnail's time is that
of the radiograph's file when it was read: a file that was touched since is read again before the thumbnail is shown.

The folders are the owner's alone (0700, 0600). Nothing is flushed: what a power cut leaves of a thumbnail is noticed by
its digest, and it is made anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from cxr_embed.errors import ThumbnailError
from cxr_embed.io.digests import digest_fits, sha256_hex, short_digest, with_digest
from cxr_embed.io.files import not_local, partial_of, write_whole
from cxr_embed.regions import is_box

FORMAT, VERSION = "cxr_embed.thumbnails", 1
HEADER, LOCK = "thumbnails.json", "thumbnails.lock"
SUFFIX = ".webp"
SIDE = 320  # pixels of the longer side
FOLDER = re.compile(r"[0-9a-f]{2}")
NAME = re.compile(r"([0-9a-f]{64}(?:-[0-9a-f]{16})?)\.webp")
PARTIAL = re.compile(r"\.([0-9a-f]{64}(?:-[0-9a-f]{16})?)\.webp\.[0-9a-f]{32}\.partial")
_BESIDE = ".thumbnails"
_DIGEST = 32  # bytes at the end of a file
_LARGEST = 4 << 20  # bytes of a thumbnail: far more than any has


def thumbnails_path(index: str | os.PathLike[str]) -> Path:
    """Where the thumbnails of an index are, whether there are any or not; of a link, where it leads to."""
    whole = Path(os.path.realpath(index))  # `.` has no name of its own
    return whole.with_name(f"{whole.name}{_BESIDE}")


def is_thumbnails(path: Path) -> bool:
    """Whether there are thumbnails in a folder, or were to be."""
    return (path / HEADER).is_file()


def thumbnail_key(content: bytes | None, box: str | None = None) -> str:
    """What a thumbnail is called; blank for a file that nobody knows.

    Args:
        content: SHA-256 of the radiograph's file.
        box: of a region, as the index has it; another text, or none, for a whole picture.
    """
    if content is None:
        return ""
    return f"{content.hex()}-{short_digest(box.encode())}" if box and is_box(box) else content.hex()


class Thumbnails:
    """A folder of thumbnails; safe to use from several threads and processes.

    Args:
        path: the folder.
        say: is given a sentence when one cannot be kept, once.

    Attributes:
        path: the folder.
        fault: why the last one could not be kept; blank while all could.

    Raises:
        ThumbnailError: where there is none, or it is damaged or of another version.
    """

    def __init__(self, path: Path, say: Callable[[str], None] | None = None) -> None:
        self.path, self.fault, self._say = path, "", say
        _check_header(path)

    @classmethod
    def make(cls, path: Path, say: Callable[[str], None] | None = None) -> Thumbnails:
        """Opens a folder of thumbnails, which is made where there is none.

        Raises:
            ThumbnailError: as above; also for a folder with other files in it, or one that cannot be written.
        """
        if (why := not_local(path)) is not None:
            raise ThumbnailError(why)
        try:
            if not is_thumbnails(path):
                if path.is_dir() and not all(_is_begun(each.name) for each in os.scandir(path)):
                    raise ThumbnailError(f"{path}: a folder with other files in it; give a new one for the thumbnails")
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
                path.chmod(0o700)
                body = with_digest({"format": FORMAT, "version": VERSION, "side": SIDE, "coding": "webp"})
                write_whole(path / HEADER, json.dumps(body, indent=1).encode() + b"\n")
                (path / HEADER).chmod(0o600)
        except OSError as error:
            raise ThumbnailError(f"{path}: cannot be written ({error.strerror}); name another folder") from None
        return cls(path, say)

    def get(self, key: str, stamp: int = 0) -> bytes | None:
        """A thumbnail as WebP; None where there is none, or it is damaged, or older than its radiograph's file.

        Args:
            key: see `thumbnail_key`.
            stamp: time of the radiograph's file, in ns since the epoch; 0 takes a thumbnail of any age.
        """
        try:
            # A pipe or a link in its place is no thumbnail, and opening one waits for nobody.
            descriptor = os.open(self._file(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return None
        with open(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_mtime_ns < stamp:
                return None
            try:
                data = file.read(_LARGEST)
            except OSError:
                return None
        webp = data[:-_DIGEST]
        return webp if data[-_DIGEST:] == _digest(key, webp) else None

    def keep(self, key: str, webp: bytes, stamp: int, still: Callable[[], bool] = lambda: True) -> bool:
        """Keeps a thumbnail, unless there is no room for it.

        Args:
            key: see `thumbnail_key`.
            webp: the picture.
            stamp: time of the radiograph's file, from before it was read.
            still: whether its case is still in the index; asked for while nobody can take thumbnails out.

        Returns:
            Whether it was kept.
        """
        target = self._file(key)
        try:
            with locked(self.path, alone=False):
                if not still():
                    return False
                target.parent.mkdir(mode=0o700, exist_ok=True)
                with partial_of(target) as partial:
                    partial.chmod(0o600)
                    partial.write_bytes(webp + _digest(key, webp))
                    os.utime(partial, ns=(stamp, stamp))
                    os.replace(partial, target)
        except OSError as error:
            first, self.fault = not self.fault, error.strerror or "cannot be written"
            if first and self._say is not None:
                self._say(f"thumbnails are not kept: {self.path} cannot be written ({self.fault})")
            return False
        return True

    def _file(self, key: str) -> Path:
        return self.path / key[:2] / f"{key}{SUFFIX}"


@contextlib.contextmanager
def locked(path: Path, alone: bool) -> Iterator[None]:
    """Holds the folder's lock: with others that hold it so, or alone. A dead process does not keep it.

    Raises:
        OSError: where the folder cannot be written.
    """
    descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with contextlib.suppress(OSError):  # where the file system has no locks
            fcntl.flock(descriptor, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


def _is_begun(name: str) -> bool:
    """Whether a file is what a killed maker of a folder left in it."""
    return name in (LOCK, HEADER) or name.startswith(f".{HEADER}.")


def _digest(key: str, webp: bytes) -> bytes:
    return bytes.fromhex(sha256_hex(key.encode() + webp))


def _check_header(path: Path) -> None:
    file = path / HEADER
    try:
        body = json.loads(file.read_bytes())
        if body["format"] != FORMAT:
            raise ThumbnailError(f"{file}: not of thumbnails of this project (format {body['format']!r})")
        if body["version"] != VERSION:
            raise ThumbnailError(f"{file}: format version {body['version']}; this release reads {VERSION}")
        if not digest_fits(body) or "digest" not in body or body["side"] != SIDE:
            raise ValueError
    except (FileNotFoundError, NotADirectoryError):
        raise ThumbnailError(f"{path}: no thumbnails here ({HEADER} is missing)") from None
    except OSError as error:
        raise ThumbnailError(f"{file}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ThumbnailError(f"{file}: damaged; delete the folder, and the thumbnails are made anew") from None
