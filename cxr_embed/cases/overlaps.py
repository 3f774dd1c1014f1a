"""Images that stand in several manifests: found by the bytes of their files, whatever they are called there."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cxr_embed.io.digests import file_sha256, sha256_hex
from cxr_embed.manifest import Manifest

Row = tuple[int, int]  # the manifest's number, and the row in it
_BEGINNING = 8192  # bytes that tell most files of one size apart


@dataclass(frozen=True)
class Overlaps:
    """Rows of several manifests whose files are the same, and how many files could not be read.

    Attributes:
        groups: each in the order of the manifests; all of one group have one content.
        unread: files of each manifest that are not there, or cannot be read.
    """

    groups: tuple[tuple[Row, ...], ...]
    unread: tuple[int, ...]


def find_overlaps(manifests: Sequence[Manifest], progress: Callable[[str, int, int], None] | None = None) -> Overlaps:
    """Images that two or more of the manifests have, by the SHA-256 of their files.

    Only files of which another manifest has one of the same size are read, and only those whole that begin alike.

    Args:
        manifests: whose images are compared with each other's; not with others of the same.
        progress: called with a word, what is done and how much there is.
    """
    unread: list[set[int]] = [set() for _ in manifests]
    rows = [(number, row) for number, manifest in enumerate(manifests) for row in range(len(manifest))]
    paths = [[os.path.join(m.root, path) for path in m.column("path").tolist()] for m in manifests]

    def apart(groups: Iterable[Sequence[Row]], what: Callable[[str], object], step: str) -> list[list[Row]]:
        """Groups by what their files are alike in, without those of one manifest only."""
        found: list[list[Row]] = []
        groups = list(groups)
        done, total = 0, sum(map(len, groups))
        for group in groups:
            alike: dict[object, list[Row]] = defaultdict(list)
            for number, row in group:
                done += 1
                if progress is not None and (done % 64 == 0 or done == total):
                    progress(step, done, total)
                try:
                    alike[what(paths[number][row])].append((number, row))
                except (OSError, ValueError):  # a zero byte in a path
                    unread[number].add(row)
            found += [rows for rows in alike.values() if len({number for number, _ in rows}) > 1]
        return found

    sized = apart([rows], os.path.getsize, "looking at files")
    begun = apart(sized, _beginning, "comparing beginnings")
    same = apart(begun, file_sha256, "comparing files")
    return Overlaps(tuple(tuple(sorted(group)) for group in sorted(map(sorted, same))), tuple(map(len, unread)))


def _beginning(path: str) -> str:
    with open(path, "rb") as file:
        return sha256_hex(file.read(_BEGINNING))
