"""Thumbnails out of a folder: of cases that were taken out of an index, or forgotten."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from cxr_embed.errors import ThumbnailError
from cxr_embed.thumbnails.folder import FOLDER, NAME, PARTIAL, Thumbnails, is_thumbnails, locked


def drop_thumbnails(path: Path, goes: Callable[[str], bool], dry_run: bool = False) -> int:
    """Deletes thumbnails, with what killed writers left of them.

    Args:
        path: the folder.
        goes: whether one goes, by its key.
        dry_run: whether to count only.

    Returns:
        How many thumbnails are gone.

    Raises:
        ThumbnailError: where the folder is damaged, of another version, or cannot be written.
    """
    Thumbnails(path)
    gone = 0
    try:
        with contextlib.nullcontext() if dry_run else locked(path, alone=True):
            for file, key, whole in _files(path):
                if goes(key):
                    gone += whole
                    if not dry_run:
                        file.unlink(missing_ok=True)
    except OSError as error:
        raise ThumbnailError(f"{path}: cannot be written ({error.strerror})") from None
    return gone


@contextlib.contextmanager
def without(path: Path, goes: Callable[[], Callable[[str], bool]]) -> Iterator[None]:
    """Deletes thumbnails of a folder, if there is one, before and after the block, which takes their cases out.

    Before: a kill in the block leaves none of those that were to go. After: a server may have made one once more.

    Args:
        path: the folder.
        goes: gives what `drop_thumbnails` asks of each key; called where there is a folder only.

    Raises:
        ThumbnailError: as `drop_thumbnails`.
    """

    def drop() -> None:
        if is_thumbnails(path):
            drop_thumbnails(path, goes())

    drop()
    yield
    drop()


def sound_thumbnails(path: Path) -> tuple[int, int]:
    """How many thumbnails of a folder are sound, and how many are damaged; every byte is read.

    Raises:
        ThumbnailError: where the folder is damaged, of another version, or cannot be read.
    """
    opened = Thumbnails(path)
    try:
        found = [opened.get(key) is not None for _, key, whole in _files(path) if whole]
    except OSError as error:
        raise ThumbnailError(f"{path}: cannot be read ({error.strerror})") from None
    return sum(found), len(found) - sum(found)


def _files(path: Path) -> Iterator[tuple[Path, str, bool]]:
    """Each file of a thumbnail, its key, and whether it is whole; other files are not ours."""
    for folder in os.scandir(path):
        if not FOLDER.fullmatch(folder.name) or not folder.is_dir(follow_symlinks=False):
            continue
        for entry in os.scandir(folder.path):
            if match := NAME.fullmatch(entry.name):
                yield Path(entry.path), match[1], True
            elif match := PARTIAL.fullmatch(entry.name):
                yield Path(entry.path), match[1], False
