"""Checksums of shards that were written without them: a file each beside the shards, which stay as they are."""

from __future__ import annotations

import contextlib
import io
import os
import re
from pathlib import Path

import numpy as np

from cxr_embed.errors import StoreError
from cxr_embed.io.digests import short_digest
from cxr_embed.io.files import load_npy, write_whole
from cxr_embed.store.layout import SHARDS

ADDED = "checksums"
_NAME = re.compile(r"(\d{8}-[0-9a-f]{16})-([0-9a-f]{16})\.npy")


def added_checksums(root: Path) -> dict[str, Path]:
    """Shard's name to the file of its checksums, for shards that got them later."""
    try:
        names = sorted(os.listdir(root / ADDED))
    except OSError:
        return {}
    return {match[1]: root / ADDED / match[0] for name in names if (match := _NAME.fullmatch(name))}


def read_added(path: Path) -> np.ndarray:
    """`(outputs, M)` uint32, held against the digest in the file's name.

    Raises:
        StoreError: where it is damaged.
    """
    match = _NAME.fullmatch(path.name)
    try:
        data = path.read_bytes()
        if match is None or short_digest(data) != match[2]:
            raise ValueError
        return np.asarray(load_npy(io.BytesIO(data)))
    except (OSError, ValueError):
        raise StoreError(f"{path}: damaged; delete it, and `cxr-embed store verify --upgrade` makes it anew") from None


def write_added(shard: Path, sums: np.ndarray) -> None:
    """Publishes a shard's checksums `(outputs, M)`. Only the holder of the writer's lock may call it.

    Raises:
        OSError: where they cannot be written.
    """
    root, buffer = shard.parent.parent, io.BytesIO()
    np.save(buffer, sums, allow_pickle=False)
    (root / ADDED).mkdir(exist_ok=True)
    digest = short_digest(buffer.getvalue())
    write_whole(root / ADDED / f"{shard.name}-{digest}.npy", buffer.getvalue())


def remove_stale(root: Path) -> None:
    """Deletes checksums of shards that are gone. Only the holder of the writer's lock may call it."""
    for name, path in added_checksums(root).items():
        if not (root / SHARDS / name).exists():
            with contextlib.suppress(OSError):
                path.unlink()
