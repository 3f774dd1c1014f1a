"""Writing a store: one writer at a time, rows buffered into shards, each published by one rename."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import get_args

import filelock
import numpy as np

from cxr_embed.choices import Dtype
from cxr_embed.errors import StoreError
from cxr_embed.io.files import not_local, write_whole
from cxr_embed.io.times import utc_now
from cxr_embed.regions import CROPPED
from cxr_embed.store.added import ADDED, remove_stale
from cxr_embed.store.forgotten import FORGOTTEN, gather_forgotten
from cxr_embed.store.image_index import ImageIndex, ShardRows
from cxr_embed.store.layout import (
    HEADER,
    INCOMING,
    LOCK,
    SHARDS,
    Header,
    Row,
    ShardInfo,
    publish_shard,
    shard_paths,
    write_shard,
)
from cxr_embed.store.rewrite import finish
from cxr_embed.types import EncoderSpec, Precision

SHARD_ROWS = 4096
SHARD_BYTES = 64 << 20


class StoreWriter:
    """Opens or creates a store for writing, and holds its lock until `close`.

    Args:
        path: the store's folder; made where it is missing.
        spec: the encoder whose vectors come; an existing store must hold the same fingerprint.
        dtype: of the vectors; None keeps an existing store's, and is float16 for a new one.
        precision: of the arithmetic; None keeps an existing store's, and is float32 for a new one.
        software: version to record.
        key_file: the key of the patient ids, where patients were forgotten here; the user's own by default.

    Raises:
        StoreError: where another process writes, another encoder's vectors are in the store, dtype or precision
            are unknown or differ from the store's, or patients were forgotten and the key is not theirs.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        spec: EncoderSpec,
        *,
        dtype: Dtype | None = None,
        precision: Precision | None = None,
        software: str = "",
        key_file: Path | None = None,
    ) -> None:
        self.path = Path(path)
        if (why := not_local(path)) is not None:
            raise StoreError(why)
        self._created = False
        for name, value, known in (("dtype", dtype, get_args(Dtype)), ("precision", precision, get_args(Precision))):
            if value is not None and value not in known:
                raise StoreError(f"{name} is {' or '.join(known)}, not {value!r}")
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / HEADER).is_file():
            names = {entry.name for entry in self.path.iterdir()}
            if not names <= {LOCK, SHARDS, INCOMING, ADDED, FORGOTTEN} and not all(
                name.startswith(f".{HEADER}") for name in names
            ):
                raise StoreError(f"{self.path}: a folder with other files in it; give a new folder for the store")
        gather_forgotten(self.path, key_file=key_file)  # refuses before there is a folder
        self._lock = acquire_lock(self.path)
        try:
            self.forgotten = gather_forgotten(self.path, key_file=key_file)
            self.header = self._header(spec, dtype, precision, software)
            self.index = ImageIndex()
            for shard in shard_paths(self.path):
                info = ShardInfo.read(shard)
                if info.fingerprint != spec.fingerprint:
                    raise StoreError(f"{shard}: another encoder's shard ({info.fingerprint[:12]}), not the header's")
                self.index.fold(ShardRows.open(shard, info))
        except BaseException:
            self._lock.release()
            raise
        self._owners: list[Row] = []
        self._others: list[Row] = []
        self._vectors: dict[str, list[np.ndarray]] = {output: [] for output in spec.outputs}
        self._bytes = 0

    def _header(self, spec: EncoderSpec, dtype: Dtype | None, precision: Precision | None, software: str) -> Header:
        if not (self.path / HEADER).is_file():
            if (self.path / SHARDS).is_dir() and shard_paths(self.path):
                raise StoreError(
                    f"{self.path}: {HEADER} is missing, so nobody can say whose vectors these are; restore it, "
                    f"or take the {HEADER} of another store of the same encoder, dtype and precision"
                )
            header = Header(spec, dtype or "float16", precision or "float32", utc_now(), software)
            try:
                (self.path / SHARDS).mkdir(exist_ok=True)
                write_whole(self.path / HEADER, header.to_bytes())
            except OSError as error:
                raise self._failed(error) from None
            self._created = True
            return header
        header = Header.read(self.path)
        if header.spec.fingerprint != spec.fingerprint:
            raise StoreError(
                f"{self.path} holds vectors of {describe(header.spec)}, not of {describe(spec)}; "
                "give another `store` for this encoder"
            )
        for name, want, have in (("dtype", dtype, header.dtype), ("precision", precision, header.precision)):
            if want is not None and want != have:
                raise StoreError(f"{self.path} holds {have} vectors; use `{name}` {have}, or another `store`")
        # What a killed writer left behind was never published. The lock says that nobody is at it.
        finish(self.path)
        remove_stale(self.path)
        return header

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._created and not shard_paths(self.path):
            self._remove()  # nothing came of it: no empty store is left to explain
        self.close()

    def _remove(self) -> None:
        """Takes back what making the store has put into its folder."""
        with contextlib.suppress(OSError):
            shutil.rmtree(self.path / INCOMING, ignore_errors=True)
            (self.path / HEADER).unlink()
            (self.path / SHARDS).rmdir()
            (self.path / LOCK).unlink()
            self.path.rmdir()

    def add_vector(self, row: Row, vectors: Mapping[str, np.ndarray]) -> None:
        """Buffers a new content's vectors, `{output: shape of the spec}`.

        Raises:
            StoreError: where a vector has another shape, or is not finite in the store's dtype, or the image is to
                stay out.
        """
        self._check_known(row)
        converted = {}
        for output, shape in self.header.spec.outputs.items():
            with np.errstate(over="ignore"):
                array = np.asarray(vectors[output]).astype(self.header.dtype)
            if array.shape != shape:
                raise StoreError(f"output {output} has shape {array.shape}, the store holds {shape}")
            if not np.isfinite(array).all():
                raise StoreError(f"output {output} is not finite in {self.header.dtype}{_remedy(vectors[output])}")
            converted[output] = array
        for output, array in converted.items():
            self._vectors[output].append(array)
            self._bytes += array.nbytes
        self._owners.append(row)

    def add_row(self, row: Row) -> None:
        """Buffers a row without a vector of its own: known content under another id, a new stamp, or an error.

        Raises:
            StoreError: where the image is to stay out.
        """
        self._check_known(row)
        self._others.append(row)

    def _check_known(self, row: Row) -> None:
        if any(self.forgotten.covers(row.patient_id, name, row.file_digest) for name in row.names):
            raise StoreError(f"{self.path}: an image that `cxr-embed forget` took out is to stay out")

    @property
    def pending(self) -> int:
        """Rows that are not yet on disk."""
        return len(self._owners) + len(self._others)

    @property
    def full(self) -> bool:
        """Whether the buffered rows fill a shard."""
        return self.pending >= SHARD_ROWS or self._bytes >= SHARD_BYTES

    def flush(self, engine: str) -> int:
        """Publishes the buffered rows as one shard.

        Args:
            engine: what computed the vectors.

        Returns:
            The number of rows that are now on disk.

        Raises:
            StoreError: where the disk is full or cannot be written; what was published before stays as it is.
        """
        if not self.pending:
            return 0
        rows = [*self._owners, *self._others]
        arrays = {
            output: np.stack(parts) if parts else np.empty((0, *shape), self.header.dtype)
            for (output, shape), parts in zip(self.header.spec.outputs.items(), self._vectors.values(), strict=True)
        }
        try:
            folder, digest = write_shard(
                self.path,
                rows,
                arrays,
                fingerprint=self.header.spec.fingerprint,
                live=self._live_after(rows),
                engine=engine,
                created=utc_now(),
            )
            shard = publish_shard(self.path, folder, digest)
        except OSError as error:
            raise self._failed(error) from None
        self._owners, self._others, self._bytes = [], [], 0
        self._vectors = {output: [] for output in self._vectors}
        self.index.fold(ShardRows.open(shard, ShardInfo.read(shard)))
        return len(rows)

    def _live_after(self, rows: list[Row]) -> int:
        state = {row.image_id: row.error_kind is None for row in rows if row.content is not None}
        live = len(self.index)
        for image_id, has_vector in state.items():
            had = image_id in self.index.latest and image_id not in self.index.broken
            live += has_vector - had
        return live

    def _failed(self, error: OSError) -> StoreError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return StoreError(
                f"{self.path}: the disk is full; what was stored before is safe. Free some space and run again"
            )
        return StoreError(f"{self.path}: cannot be written ({error.strerror}); what was stored before is safe")

    def close(self) -> None:
        """Releases the lock. Rows that were not flushed are dropped."""
        shutil.rmtree(self.path / INCOMING, ignore_errors=True)
        self._lock.release()


def acquire_lock(root: Path) -> filelock.BaseFileLock:
    """Takes the lock of a store's one writer; the folder is made where it is missing.

    Raises:
        StoreError: where another process has it, or the folder cannot be written.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)  # it names images and patients
        lock = filelock.FileLock(root / LOCK)
        lock.acquire(blocking=False)
    except filelock.Timeout:
        raise StoreError(
            f"{root}: another process is writing to this store; wait for it, or give another `store`"
        ) from None
    except OSError as error:
        raise StoreError(f"{root}: cannot be written ({error.strerror})") from None
    return lock


def _remedy(vectors: np.ndarray) -> str:
    """What to do about vectors that are too large for a dtype; blank where they are not finite in any."""
    largest = np.abs(vectors).max()
    return f": its largest value is {largest:.3g}; use `dtype` float32, in another `store`" if largest < np.inf else ""


def describe(spec: EncoderSpec) -> str:
    """An encoder in a message: name, whether it is of regions, and the start of its fingerprint."""
    regions = " (regions)" if CROPPED in spec.preprocessing else ""
    return f"{spec.name}{regions} [{spec.fingerprint[:12]}]"
