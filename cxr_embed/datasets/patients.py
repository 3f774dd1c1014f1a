"""What a scan tells of patients: ids that are hashed with the user's key, and image ids that give nobody away."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from cxr_embed.errors import ManifestError
from cxr_embed.images.dicom import keyed_hash
from cxr_embed.images.identifiers import Identifiers, telling_parts

# A hospital's unique identifier: numbers joined by dots (PS3.5, 9.1), also the short form that is made from a UUID
# (B.2). As a file name it would carry into every store.
_UID = re.compile(r"\d+(\.\d+){4,}|2\.25\.\d+")


@dataclass
class Telling:
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

    def told(self, relative: str, end: int) -> None:
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
    """What `--patient-pattern` says.

    Raises:
        ManifestError: for no regular expression, or one without a group.
    """
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ManifestError(f"--patient-pattern is no regular expression: {error}") from None
    if compiled.groups < 1:
        raise ManifestError("--patient-pattern needs one group (...), which is the patient's id")
    return compiled


def patient_key(key_file: Path | None) -> tuple[bytes, Path]:
    """The secret that patient ids are hashed with, and where it is kept.

    Without a file of the user's, a key is made once and kept for this user only, so that later scans give the same
    patient the same hash. Share the key file between machines that scan one hospital's data; never with the data.

    Raises:
        ManifestError: where the named file is missing or nearly empty.
    """
    try:
        config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
        path = key_file or Path(config).expanduser() / "cxr-embed" / "patient-id.key"
    except RuntimeError:  # a user without a home, as containers have
        raise ManifestError("no home folder to keep the key for the patient ids in; give --key-file FILE") from None
    try:
        if key_file is None and not path.exists():
            _make_key(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise ManifestError(f"{path}: no key for the patient ids ({error.strerror}); give --key-file FILE") from None
    if len(key) < 16:
        raise ManifestError(f"{path}: a key of at least 16 characters is needed for the patient ids")
    return key, path


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
        # A link, unlike a rename, never replaces the key of a scan that started at the same moment.
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
