"""What a scan finds out of patients: ids that are hashed with the user's key, and image ids that give nobody away."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from cxr_embed.errors import ManifestError
from cxr_embed.images.identifiers import Identifiers, telling_parts
from cxr_embed.io.digests import keyed_hash

# A hospital's unique identifier: numbers joined by dots (PS3.5, 9.1), also the short form that is made from a UUID
# (B.2). As a file name it would carry into every store.
_UID = re.compile(r"\d+(\.\d+){4,}|2\.25\.\d+")


@dataclass
class RevealingPaths:
    """Paths of a scan that give a person or an order away: their image ids become a keyed hash.

    A header speaks for its neighbours too: where it shows that a folder's name, or its file's without the suffix, gives
    somebody away, so does every other path that has it.
    """

    _folders: set[str] = field(default_factory=set)
    _stems: set[str] = field(default_factory=set)

    def look(self, relative: str, identifiers: Identifiers) -> None:
        """Learns from one file's header."""
        if count := telling_parts(relative, identifiers):
            self._add(relative, count)

    def add(self, relative: str, end: int) -> None:
        """Learns that a path has a patient's id up to a position."""
        self._add(relative, 1 + relative[:end].count("/"))

    def _add(self, relative: str, count: int) -> None:
        parts = relative.split("/")
        if count < len(parts):
            self._folders.add("/".join(parts[:count]))
        else:
            self._stems.add(_stem(relative))

    def __contains__(self, relative: str) -> bool:
        folders = {parent.as_posix() for parent in PurePosixPath(relative).parents}
        return bool(_UID.search(relative)) or _stem(relative) in self._stems or not folders.isdisjoint(self._folders)


def _stem(relative: str) -> str:
    """A path without its suffixes."""
    folder, _, name = relative.rpartition("/")
    return f"{folder}/{name.split('.', 1)[0]}"


def neutral(image_id: str, key: bytes) -> str:
    """An image id, which every store holds, that gives nobody away."""
    return "img-" + keyed_hash(image_id, key)


def hashed(patient: str, key: bytes | None) -> str:
    """A patient's id, hashed where there is a key."""
    return keyed_hash(patient, key) if key and patient else patient


def compiled_pattern(pattern: str | None) -> re.Pattern[str] | None:
    """What `patient_pattern` says.

    Raises:
        ManifestError: for no regular expression, or one without a group.
    """
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ManifestError(f"`patient_pattern` is not a regular expression: {error}") from None
    if compiled.groups < 1:
        raise ManifestError("`patient_pattern` needs one group (...), which is the patient's id")
    return compiled
