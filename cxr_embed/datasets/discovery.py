"""The files of a folder that may be radiographs."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from cxr_embed.errors import ImageError
from cxr_embed.images import READABLE, raw_fault, sniff

_LOOKED_AT = 10_000  # files, where none is a radiograph
_GLOB = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def candidates(
    root: Path, patterns: Sequence[str], skipped: list[tuple[str, str]], without: Sequence[str] = ()
) -> list[str]:
    """Paths below `root` that match a pattern, sorted, without hidden files, a DICOMDIR and stores.

    Args:
        root: the folder.
        patterns: globs, `**` for any number of folders.
        skipped: grows by the folders that cannot be read.
        without: globs of paths that are left out.
    """
    wanted, unwanted = _globs(patterns), _globs(without)
    found = []
    for folder, names in _folders(root, skipped):
        prefix = "" if folder == root else folder.relative_to(root).as_posix() + "/"
        visible = (name for name in names if not name.startswith(".") and name != "DICOMDIR")
        found += [prefix + name for name in visible if wanted.fullmatch(prefix + name)]
    return sorted(name for name in found if not (without and unwanted.fullmatch(name)))


def _globs(patterns: Sequence[str]) -> re.Pattern[str]:
    """A pattern of the paths that match one of some globs."""
    parts = (re.sub(r"\*\*/|\*\*|\*|\?|[^*?]+", lambda m: _GLOB.get(m[0]) or re.escape(m[0]), p) for p in patterns)
    return re.compile("|".join(f"(?:{part})" for part in parts), re.DOTALL)


def _folders(root: Path, skipped: list[tuple[str, str]]) -> Iterator[tuple[Path, list[str]]]:
    """Every folder below `root` once, with the names of its files; links to folders come last, so that loops end."""

    def cannot_read(error: OSError) -> None:
        where = printable(os.path.relpath(error.filename, root))
        skipped.append((where, f"the folder cannot be read ({error.strerror})"))

    starts, seen = [root], set()
    for start in starts:  # grows below
        for folder, folders, names in os.walk(start, onerror=cannot_read):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen or "store.json" in names:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            starts += [link for name in folders if (link := Path(folder, name)).is_symlink()]
            yield Path(folder), names


def other_files(root: Path) -> str:
    """What a folder has where nothing of what is looked for is there: its first files' suffixes, as an ending."""
    names = (name for _, names in _folders(root, []) for name in names if not name.startswith("."))
    suffixes = Counter(Path(name).suffix for name in islice(names, _LOOKED_AT))
    shown = ", ".join(f"*{suffix}" for suffix, _ in suffixes.most_common(3))
    return f", and here are {printable(shown)}" if shown else ", and no file is here"


def file_kind(path: Path) -> str:
    """The format of a candidate file.

    Raises:
        ImageError: where it is none that is read here.
    """
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise ImageError("unreadable", "not a regular file")  # opening a pipe would wait for ever
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError as error:
        raise ImageError("unreadable", f"cannot be read ({error.strerror})") from None
    kind = sniff(head, status.st_size)
    if kind is None and (fault := raw_fault(head, status.st_size, path.suffix)) is not None:
        raise fault
    if kind is None or kind not in READABLE:
        raise ImageError("not-an-image", "no PNG, JPEG, TIFF or DICOM file")
    return kind


def printable(path: str) -> str:
    """A path that a terminal takes: a name on disk may not be UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")
