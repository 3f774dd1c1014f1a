"""Writing a store: rows buffered into shards, each published by one rename. Any number of writers may be at one store.

A writer reads what others have published whenever it publishes, so that it repeats little; what two of them do at the
same moment counts once for readers (`image_index`).
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import get_args

import numpy as np

from cxr_embed.choices import Dtype
from cxr_embed.errors import StoreError
from cxr_embed.io.files import not_local, write_new
from cxr_embed.io.times import utc_now
from cxr_embed.regions import CROPPED
from cxr_embed.store.added import ADDED
from cxr_embed.store.forgotten import FORGOTTEN, gather_forgotten
from cxr_embed.store.image_index import ImageIndex, ShardRows
from cxr_embed.store.layout import (
    HEADER,
    INCOMING,
    LOCK,
    SHARDS,
    WRITERS,
    Header,
    Row,
    ShardInfo,
    number_of,
    publish_shard,
    shard_paths,
    write_shard,
)
from cxr_embed.store.presence import Presence, join, look
from cxr_embed.store.rewrite import clear_up
from cxr_embed.types import EncoderSpec, Precision

SHARD_ROWS = 4096
SHARD_BYTES = 64 << 20
# What a file system says that does not rename folders, as some that show an object store do.
_REFUSED = (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class StoreWriter:
    """Opens or creates a store for writing, and is announced there as a writer until `close`.

    Args:
        path: the store's folder; made where it is missing.
        spec: the encoder whose vectors come; an existing store must hold the same fingerprint.
        dtype: of the vectors; None keeps an existing store's, and is float16 for a new one.
        precision: of the arithmetic; None keeps an existing store's, and is float32 for a new one.
        software: version to record.
        key_file: the key of the patient ids, where patients were forgotten here; the user's own by default.
        at: what the process does, in a word or two, for `store status`.

    Attributes:
        presence: the announcement; `presence.say` adds to what others see.

    Raises:
        StoreError: where something is at the store that must be alone, another encoder's vectors are in it, dtype or
            precision are unknown or differ from the store's, or patients were forgotten and the key is not theirs.
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
        at: str = "a writer",
    ) -> None:
        self.path, self._key_file, self._at = Path(path), key_file, at
        if (why := not_local(path)) is not None:
            raise StoreError(why)
        self._created = False
        for name, value, known in (("dtype", dtype, get_args(Dtype)), ("precision", precision, get_args(Precision))):
            if value is not None and value not in known:
                raise StoreError(f"{name} is {' or '.join(known)}, not {value!r}")
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / HEADER).is_file():
            names = {entry.name for entry in self.path.iterdir()}
            ours = {LOCK, SHARDS, INCOMING, WRITERS, ADDED, FORGOTTEN}
            if not all(name in ours or name.startswith(f".{HEADER}") for name in names):
                raise StoreError(f"{self.path}: a folder with other files in it; give a new folder for the store")
        gather_forgotten(self.path, key_file=key_file)  # refuses before there is a folder
        self._owners: list[Row] = []
        self._others: list[Row] = []
        self._vectors: dict[str, list[np.ndarray]] = {output: [] for output in spec.outputs}
        self._bytes = 0
        self._join()
        try:
            self.header = self._header(spec, dtype, precision, software)
            self._read_all()
        except BaseException:
            self.presence.close()
            raise

    def _join(self) -> None:
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)  # it names images and patients
            self.presence: Presence = join(self.path, self._at)
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written ({error.strerror})") from None

    def _read_all(self) -> None:
        """Reads what is in the store and who is to stay out of it."""
        self.forgotten = gather_forgotten(self.path, key_file=self._key_file)
        self.index = ImageIndex()
        self._folded: set[str] = set()  # names of shards
        self._theirs: set[bytes] = set()  # content that others published since
        self._last = -1  # number of the last shard
        self._refresh()
        self._theirs.clear()

    def _refresh(self) -> None:
        """Reads what others have published since."""
        shards = shard_paths(self.path)
        for shard in shards:
            if shard.name in self._folded:
                continue
            info = ShardInfo.read(shard)
            if info.fingerprint != self.header.spec.fingerprint:
                raise StoreError(f"{shard}: another encoder's shard ({info.fingerprint[:12]}), not the header's")
            rows = ShardRows.open(shard, info)
            self.index.fold(rows)
            self._folded.add(shard.name)
            self._theirs.update(rows.owners())
        self._last = number_of(shards[-1]) if shards else -1

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
                self._created = write_new(self.path / HEADER, header.to_bytes())
            except OSError as error:
                raise self._failed(error) from None
        header = Header.read(self.path)  # another writer may have made it at this moment
        if header.spec.fingerprint != spec.fingerprint:
            raise StoreError(
                f"{self.path} holds vectors of {describe(header.spec)}, not of {describe(spec)}; "
                "give another `store` for this encoder"
            )
        for name, want, have in (("dtype", dtype, header.dtype), ("precision", precision, header.precision)):
            if want is not None and want != have:
                raise StoreError(f"{self.path} holds {have} vectors; use `{name}` {have}, or another `store`")
        clear_up(self.path, self.presence)
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
        """Takes back what making the store has put into its folder, unless others have begun to write there."""
        if any(seen.alive for seen in look(self.path, self.presence)):
            return
        with contextlib.suppress(OSError):
            self.presence.close()
            (self.path / SHARDS).rmdir()
            (self.path / HEADER).unlink()
            (self.path / LOCK).unlink(missing_ok=True)
            (self.path / WRITERS).rmdir()
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
        if self._stays_out(row):
            raise StoreError(f"{self.path}: an image that `cxr-embed forget` took out is to stay out")

    def _stays_out(self, row: Row) -> bool:
        return any(self.forgotten.covers(row.patient_id, name, row.file_digest) for name in row.names)

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

        Vectors that another writer has published since are not written again: their rows refer to them.

        Args:
            engine: what computed the vectors.

        Returns:
            The number of rows that are now on disk.

        Raises:
            StoreError: where the disk is full or cannot be written, or something is at the store that must be alone;
                what was published before stays as it is.
        """
        if not self.pending:
            return 0
        try:
            while True:
                if self.presence.lost:
                    self._join_again()
                count, shard = self._publish(engine)
                if not self.presence.lost:
                    break
                # Taken for dead meanwhile: whoever is alone now has read the shard, or must not find it.
                if shard is None or not withdraw(shard):
                    shard = None
                    self._join_again()
                    break
        except OSError as error:
            raise self._failed(error) from None
        self._owners, self._others, self._bytes = [], [], 0
        self._vectors = {output: [] for output in self._vectors}
        if shard is not None:
            self.index.fold(ShardRows.open(shard, ShardInfo.read(shard)))
            self._folded.add(shard.name)
        return count

    def refresh(self) -> None:
        """Reads what other writers have published since.

        Raises:
            StoreError: where that is damaged, or something is at the store that must be alone.
        """
        if self.presence.lost:
            self._join_again()
        self._refresh()

    def _join_again(self) -> None:
        """After this process was taken for dead: the store may be another one now, and has others kept out."""
        self.presence.close()
        self._join()
        if Header.read(self.path).spec.fingerprint != self.header.spec.fingerprint:
            raise StoreError(f"{self.path}: made anew for another encoder while this process stood still")
        self._read_all()
        held = {row.content for row in self._owners}
        kept = [n for n, row in enumerate(self._owners) if not self._stays_out(row)]
        self._keep(kept)
        self._others = [
            row
            for row in self._others
            if not self._stays_out(row)
            and (row.error_kind is not None or row.content in held or self.index.find_content(row.content or b""))
        ]

    def _keep(self, kept: list[int]) -> None:
        """Keeps some of the buffered vectors."""
        self._owners = [self._owners[n] for n in kept]
        for output, parts in self._vectors.items():
            self._vectors[output] = [parts[n] for n in kept]

    def _publish(self, engine: str) -> tuple[int, Path | None]:
        """Writes the buffered rows and renames the shard into its place: how many there are, and the shard."""
        self._refresh()
        if known := [row for row in self._owners if row.content in self._theirs]:
            self._keep([n for n, row in enumerate(self._owners) if row.content not in self._theirs])
            self._others += [replace(row, unlike_chest=None) for row in known]
        rows = [*self._owners, *self._others]
        if not rows:
            return 0, None
        arrays = {
            output: np.stack(parts) if parts else np.empty((0, *shape), self.header.dtype)
            for (output, shape), parts in zip(self.header.spec.outputs.items(), self._vectors.values(), strict=True)
        }
        folder, digest = write_shard(
            self.path,
            rows,
            arrays,
            fingerprint=self.header.spec.fingerprint,
            live=self._live_after(rows),
            engine=engine,
            created=utc_now(),
            owner=self.presence.ident,
        )
        if self.presence.lost:  # and the folder was cleared away perhaps
            shutil.rmtree(folder, ignore_errors=True)
            self._join_again()
            return self._publish(engine)
        try:
            return len(rows), publish_shard(self.path, folder, digest, self._last + 1)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            if error.errno in _REFUSED:
                raise StoreError(
                    f"{self.path}: this file system refuses to rename a folder ({error.strerror}), which publishes "
                    "vectors; put it on another. What was stored before is safe"
                ) from None
            raise

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
        """Takes the announcement back. Rows that were not flushed are dropped."""
        self.presence.close()


def withdraw(shard: Path) -> bool:
    """Takes a published shard back; False where somebody has replaced it, who has read it then."""
    aside = shard.with_name(f".{uuid.uuid4().hex}-{uuid.uuid4().hex}.partial")
    try:
        os.rename(shard, aside)
    except FileNotFoundError:
        return False
    shutil.rmtree(aside, ignore_errors=True)
    return True


def _remedy(vectors: np.ndarray) -> str:
    """What to do about vectors that are too large for a dtype; blank where they are not finite in any."""
    largest = np.abs(vectors).max()
    return f": its largest value is {largest:.3g}; use `dtype` float32, in another `store`" if largest < np.inf else ""


def describe(spec: EncoderSpec) -> str:
    """An encoder in a message: name, whether it is of regions, and the start of its fingerprint."""
    regions = " (regions)" if CROPPED in spec.preprocessing else ""
    return f"{spec.name}{regions} [{spec.fingerprint[:12]}]"
