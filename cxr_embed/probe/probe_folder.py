"""A probe's folder: one writer at a time, and nobody else's files are touched."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from cxr_embed.io.digests import short_digest
from cxr_embed.io.files import written_aside
from cxr_embed.probe.features import ProbeError

FORMAT = "cxr_embed.probe"
PROBE_JSON, LOCK = "probe.json", "writer.lock"
WAIT = 10.0  # seconds for another writer, who needs a moment
# Numbers are named by their digest; a killed writer's files have more around it.
_TENSORS = re.compile(r"[0-9a-f]{16}\.safetensors")


def replace_probe(path: Path, tensors: str, data: bytes, text: bytes) -> None:
    """Writes a probe's numbers and its JSON, and deletes the numbers of the probe that was there before.

    Args:
        path: the folder; made where it is missing.
        tensors: the file of the numbers, `DIGEST.safetensors`.
        data: the numbers.
        text: the JSON, which names `tensors`.

    Raises:
        ProbeError: where the folder holds something else.
        filelock.Timeout: where another process writes a probe there.
        OSError: where it cannot be written.
    """
    if path.is_dir() and _is_foreign(path):
        raise ProbeError(f"{path}: a folder with other files in it; give a new folder for the probe")
    with _writing(path):
        # The numbers first: the JSON names them, and its rename is what makes them the probe.
        for name, content in ((tensors, data), (PROBE_JSON, text)):
            with written_aside(path / name) as partial:
                partial.write_bytes(content)
        for old in path.iterdir():
            if _TENSORS.fullmatch(old.name) and old.name != tensors and _is_ours(old):
                old.unlink()


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Holds the lock of the one writer; a folder that no probe came into is gone again."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)  # it names the patients that it learned from
    with filelock.FileLock(path / LOCK, timeout=WAIT):
        try:
            yield
        finally:
            if not (path / PROBE_JSON).exists():
                with contextlib.suppress(OSError):
                    (path / LOCK).unlink()
                    path.rmdir()


def _is_foreign(path: Path) -> bool:
    """Whether a folder holds what no probe of this project left there, a killed writer's files included."""
    if (path / PROBE_JSON).exists():
        return FORMAT.encode() not in (path / PROBE_JSON).read_bytes()
    ours = (LOCK, f".{PROBE_JSON}.")
    return not all(entry.name.startswith(ours) or _TENSORS.search(entry.name) for entry in os.scandir(path))


def _is_ours(file: Path) -> bool:
    """Whether a file holds an older probe's numbers: they are named by their digest. Any other is somebody else's."""
    return short_digest(file.read_bytes()) == file.stem
