"""Names, records and atomic steps of the on-disk format."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cxr_embed.choices import Dtype
from cxr_embed.errors import StoreError
from cxr_embed.io.digests import canonical_json, file_record, json_digest, short_digest
from cxr_embed.io.files import sync
from cxr_embed.regions import picture_of
from cxr_embed.store.checksums import row_checksums
from cxr_embed.types import EncoderSpec, Precision, Stamp

FORMAT = "cxr_embed.store"
VERSION = 1
HEADER, LOCK, SHARDS, WRITERS = "store.json", "writer.lock", "shards", "writers"
INCOMING = "incoming"  # where earlier releases wrote shards
UNREAD = "unread.json"  # while shards are replaced
PULLING = "pulling"  # what `store pull` has fetched so far
SHARD_JSON, ROWS, CHECKSUMS = "shard.json", "rows.arrow", "checksums.npy"
SHARD_NAME = re.compile(r"(\d{8})-([0-9a-f]{16})")
PARTIAL_NAME = re.compile(r"\.([0-9a-f]{32})-[0-9a-f]{32}\.partial")  # whose it is


ROW_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("patient_id", pa.string(), nullable=False),
        pa.field("content", pa.binary(32)),  # SHA-256 of the file; null where it could not be read
        pa.field("size", pa.int64(), nullable=False),
        pa.field("mtime_ns", pa.int64(), nullable=False),
        pa.field("ctime_ns", pa.int64(), nullable=False),
        pa.field("error_kind", pa.string()),
        pa.field("error", pa.string()),
        pa.field("software", pa.string()),  # versions that met the error: others may know better
        pa.field("unlike_chest", pa.bool_()),  # of a row that owns a vector; null where nobody looked
    ]
)
# What shards held before somebody looked.
OLDER_ROW_SCHEMA = ROW_SCHEMA.remove(ROW_SCHEMA.get_field_index("unlike_chest"))
# Of regions: `content` is of the file and the box, `file` is the SHA-256 of the file alone.
REGION_FIELDS = (pa.field("box", pa.string()), pa.field("file", pa.binary(32)))
REGION_SCHEMA = pa.schema([*ROW_SCHEMA, *REGION_FIELDS])


@dataclass(frozen=True, kw_only=True)
class Row:
    """One image's state: its content, or the reason why it has no vector; of a region, its box and file too."""

    image_id: str
    patient_id: str
    content: bytes | None
    stamp: Stamp = field(default_factory=Stamp)
    error_kind: str | None = None
    error: str | None = None
    software: str | None = None
    unlike_chest: bool | None = None
    box: str | None = None
    file: bytes | None = None

    @property
    def file_digest(self) -> bytes | None:
        """SHA-256 of the file; None where it could not be read."""
        return self.content if self.file is None else self.file

    @property
    def names(self) -> tuple[str, ...]:
        """The image's id, and of a region its picture's."""
        return (self.image_id,) if self.box is None else (self.image_id, picture_of(self.image_id))


@dataclass(frozen=True)
class Header:
    """`store.json`: what every shard of the store has in common."""

    spec: EncoderSpec
    dtype: Dtype
    precision: Precision
    created: str
    software: str

    def to_bytes(self) -> bytes:
        """Canonical JSON with a digest over all of it."""
        body = {
            "format": FORMAT,
            "version": VERSION,
            "spec": self.spec.to_json(),
            "fingerprint": self.spec.fingerprint,
            "dtype": self.dtype,
            "precision": self.precision,
            "created": self.created,
            "software": self.software,
        }
        body["digest"] = json_digest(body)
        return json.dumps(body, indent=1, sort_keys=True, ensure_ascii=False).encode() + b"\n"

    @classmethod
    def read(cls, root: Path) -> Header:
        """Reads and checks `store.json`.

        Raises:
            StoreError: where it is missing, of another format or version, or damaged.
        """
        path = root / HEADER
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise StoreError(f"{root}: no store here ({HEADER} is missing)") from None
        except OSError as error:
            raise StoreError(f"{path}: cannot be read ({error.strerror})") from None
        try:
            body = json.loads(data)
            if body.get("format") != FORMAT:
                raise StoreError(f"{path}: not a store of this project (format {body.get('format')!r})")
            if body["version"] != VERSION:
                raise StoreError(f"{path}: format version {body['version']}; this release reads {VERSION}")
            spec = EncoderSpec.from_json(body["spec"])
            header = cls(spec, body["dtype"], body["precision"], body["created"], body["software"])
        except (ValueError, KeyError, TypeError, AttributeError):
            raise StoreError(f"{path}: damaged; restore it from a copy") from None
        if header.to_bytes() != data:
            raise StoreError(f"{path}: damaged, its digest does not match; restore it from a copy")
        return header


@dataclass(frozen=True, kw_only=True)
class ShardInfo:
    """`shard.json`: what a shard holds and what its files must look like.

    Attributes:
        fingerprint: of the encoder, as in the store's header.
        vectors: rows 0 to vectors - 1 own the vectors, in order.
        rows: of `rows.arrow`.
        live: images with a vector in the store once this shard is published, as far as its writer knew: exact while
            no two shards of the store have one number.
        engine: what computed the vectors.
        created: UTC, ISO 8601.
        files: name to size and SHA-256.
    """

    fingerprint: str
    vectors: int
    rows: int
    live: int
    engine: str
    created: str
    files: Mapping[str, Mapping[str, Any]]

    def to_bytes(self) -> bytes:
        return canonical_json({"version": VERSION, **asdict(self)}) + b"\n"

    @classmethod
    def read(cls, shard: Path) -> ShardInfo:
        """Reads `shard.json` and checks it against the digest in the shard's name.

        Raises:
            StoreError: naming the shard.
        """
        try:
            data = (shard / SHARD_JSON).read_bytes()
        except OSError as error:
            raise StoreError(f"{shard}: {SHARD_JSON} cannot be read ({error.strerror}); {remedy(shard)}") from None
        match = SHARD_NAME.fullmatch(shard.name)
        if match is None or short_digest(data) != match[2]:
            raise StoreError(f"{shard}: {SHARD_JSON} is damaged, its digest does not match the shard's name")
        body = json.loads(data)
        if body.pop("version") != VERSION:
            raise StoreError(f"{shard}: written by a newer release")
        return cls(**body)


def shard_paths(root: Path) -> list[Path]:
    """The published shards, oldest first; while shards are replaced (`rewrite`), the old ones or the new ones."""
    try:
        # What was true twice in a row was true in between: a whole replacement may pass between two looks.
        seen = _listed(root)
        while (again := _listed(root)) != seen:
            seen = again
    except FileNotFoundError:
        raise StoreError(f"{root}: damaged, the folder {SHARDS} is missing") from None
    except OSError as error:
        raise StoreError(f"{root / SHARDS}: cannot be read ({error.strerror})") from None
    unread, names = seen
    return [root / SHARDS / name for name in names if SHARD_NAME.fullmatch(name) and name not in unread]


def _listed(root: Path) -> tuple[set[str], list[str]]:
    return unread_shards(root), sorted(os.listdir(root / SHARDS))


def remedy(shard: Path) -> str:
    """What to do about a file that is gone from a shard."""
    others = shard.parent.glob(f"{shard.name[:9]}*")
    if not shard.exists() and any(other.name != shard.name for other in others):
        return "the store was written anew since it was opened: open it again"
    return "restore it from a copy"


def unreadable(path: Path, error: Exception) -> StoreError:
    """The error for a shard's file that cannot be read."""
    return StoreError(f"{path.parent}: {path.name} cannot be read ({type(error).__name__}); {remedy(path.parent)}")


def unread_shards(root: Path) -> set[str]:
    """Names of shards that do not count: they are not complete yet, or others have taken their place.

    Raises:
        StoreError: where the file that says so is damaged.
    """
    try:
        return set(json.loads((root / UNREAD).read_bytes()))
    except FileNotFoundError:
        return set()
    except (OSError, ValueError, TypeError):
        raise StoreError(f"{root / UNREAD}: damaged; restore the store from a copy") from None


def bytes_an_image(spec: EncoderSpec, dtype: Dtype) -> int:
    """Bytes of one image's vectors, all outputs together."""
    return np.dtype(dtype).itemsize * sum(math.prod(shape) for shape in spec.outputs.values())


def output_file(output: str) -> str:
    """The file of an output's vectors inside a shard."""
    return f"{output}.npy"


def write_shard(
    root: Path,
    rows: Sequence[Row],
    vectors: Mapping[str, np.ndarray],
    *,
    fingerprint: str,
    live: int,
    engine: str,
    created: str,
    owner: str = "",
) -> tuple[Path, str]:
    """Writes a complete, flushed shard beside the published ones; nothing refers to it yet.

    Args:
        root: the store.
        rows: those that own the vectors first, in order.
        vectors: output to `(M, ...)` in the store's dtype.
        fingerprint: of the encoder.
        live: images with a vector once the shard is published.
        engine: what computed the vectors.
        created: UTC time.
        owner: who writes it (`Presence.ident`): others leave it alone while the owner is at the store.

    Returns:
        The folder and the digest that its published name will carry.
    """
    folder = partial_shard(root, owner)
    try:
        for output, array in vectors.items():
            write_npy(folder / output_file(output), array)
        if vectors:
            write_npy(folder / CHECKSUMS, np.stack([row_checksums(array) for array in vectors.values()]))
        _write_rows(folder / ROWS, rows)
        files = {path.name: file_record(path) for path in sorted(folder.iterdir())}
        owners = len(next(iter(vectors.values()))) if vectors else 0
        info = ShardInfo(
            fingerprint=fingerprint,
            vectors=owners,
            rows=len(rows),
            live=live,
            engine=engine,
            created=created,
            files=files,
        ).to_bytes()
        (folder / SHARD_JSON).write_bytes(info)
        for path in folder.iterdir():
            sync(path)
        sync(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder, short_digest(info)


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    schema = REGION_SCHEMA if any(row.box is not None for row in rows) else ROW_SCHEMA
    table = pa.Table.from_pydict(
        {
            "image_id": [row.image_id for row in rows],
            "patient_id": [row.patient_id for row in rows],
            "content": [row.content for row in rows],
            "size": [row.stamp.size for row in rows],
            "mtime_ns": [row.stamp.mtime_ns for row in rows],
            "ctime_ns": [row.stamp.ctime_ns for row in rows],
            "error_kind": [row.error_kind for row in rows],
            "error": [row.error for row in rows],
            "software": [row.software for row in rows],
            "unlike_chest": [row.unlike_chest for row in rows],
            "box": [row.box for row in rows],
            "file": [row.file for row in rows],
        },
        schema=schema,
    )
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        writer.write_table(table.combine_chunks())


def write_npy(path: Path, array: np.ndarray) -> None:
    """`numpy.save` without its shortcut through C stdio, which forgets why a write failed (a full disk)."""
    array = np.ascontiguousarray(array)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(array.data)


def partial_shard(root: Path, owner: str = "") -> Path:
    """A new folder for a shard that is being written. It lies among the shards, so that a rename stays inside it."""
    folder = root / SHARDS / f".{owner or uuid.uuid4().hex}-{uuid.uuid4().hex}.partial"
    folder.mkdir(parents=True)
    return folder


def number_of(shard: Path) -> int:
    """A shard's place in the order. Writers that publish at one moment may take the same number."""
    return int(shard.name[:8])


def publish_shard(root: Path, folder: Path, digest: str, number: int) -> Path:
    """Makes a written shard part of the store: one rename.

    Raises:
        OSError: where the rename fails; it names the shard.
    """
    target = root / SHARDS / f"{number:08d}-{digest}"
    try:
        os.rename(folder, target)
    except OSError:
        # The name says what is in it: it is there already. A network's second try of a rename ends so too.
        if not target.is_dir():
            raise
        shutil.rmtree(folder, ignore_errors=True)
    sync(target.parent)
    return target
