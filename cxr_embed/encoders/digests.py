"""The identity of weights that lie in several or in large files: a SHA-256 that is read once, then remembered."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from cxr_embed.encoders.weights import weights_folder
from cxr_embed.errors import EncoderError
from cxr_embed.io.digests import file_sha256, sha256_hex
from cxr_embed.io.files import written_aside

_MEMORY = "digests.json"
# Smaller files are hashed each time: that is faster than looking them up.
_WORTH_REMEMBERING = 16 << 20


def folder_digest(folder: Path, files: Iterable[Path]) -> str:
    """SHA-256 over the files' names relative to the folder and their contents, in the order of the names.

    Args:
        folder: what the names are relative to, so that a copy elsewhere has the same digest.
        files: the files that make the vectors what they are.

    Raises:
        OSError: where a file cannot be read.
        EncoderError: where the Hub's cache holds other bytes than the Hub announced.
    """
    lines = []
    for name, path in sorted((path.relative_to(folder).as_posix(), path) for path in files):
        digest = remembered_sha256(path)
        announced = announced_sha256(path)
        if announced not in ("", digest):
            raise EncoderError(
                f"{path}: its bytes are not those that the Hub announced (half a download?); delete "
                f"{os.path.realpath(path)} and get it again"
            )
        lines.append(f"{name} {digest}\n")
    return sha256_hex("".join(lines).encode())


def announced_sha256(path: Path) -> str:
    """The SHA-256 that the Hub announced for a file of its cache, where it names the bytes; blank for other files."""
    blob = Path(os.path.realpath(path))
    return blob.name if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name) else ""


def remembered_sha256(path: Path) -> str:
    """SHA-256 of a file, remembered for large ones by size, times and inode: gigabytes are read once, not every run."""
    status = os.stat(path)
    if status.st_size < _WORTH_REMEMBERING:
        return file_sha256(path)
    key = os.path.realpath(path)
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    memory = _read_memory()
    if key in memory and memory[key][:-1] == stamp:
        return str(memory[key][-1])
    digest = file_sha256(path)
    with contextlib.suppress(OSError):  # a cache that cannot be written only costs time
        _write_memory({**_read_memory(), key: [*stamp, digest]})
    return digest


def _read_memory() -> dict[str, list[int | str]]:
    try:
        memory = json.loads((weights_folder() / _MEMORY).read_text())
    except (OSError, ValueError):
        return {}
    return memory if isinstance(memory, dict) else {}


def _write_memory(memory: dict[str, list[int | str]]) -> None:
    folder = weights_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with written_aside(folder / _MEMORY) as partial:
        partial.write_text(json.dumps(memory))
