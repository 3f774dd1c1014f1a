"""A store at an address: the files of a store on disk, and `complete.json`, which says which of them count.

`complete.json` is written last, so a push that was killed leaves what was there before. Shards, checksums and prompts
have digests in their names and are never changed; what `complete.json` does not name may be deleted by the next push.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from cxr_embed.errors import RemoteError, StoreError
from cxr_embed.io.addresses import STORES, address_of, address_problem, shown_address
from cxr_embed.io.digests import digest_fits, sha256_hex, short_digest, with_digest
from cxr_embed.io.objects import ObjectStamp, list_below, read_object
from cxr_embed.store.added import ADDED
from cxr_embed.store.forgotten import FORGOTTEN
from cxr_embed.store.layout import (
    CHECKSUMS,
    HEADER,
    ROWS,
    SHARD_JSON,
    SHARD_NAME,
    SHARDS,
    VERSION,
    Header,
    Row,
    ShardInfo,
    output_file,
)

COMPLETE = "complete.json"
_FORMAT = "cxr_embed.store.complete"
_PROMPTS = re.compile(r"prompts-([0-9a-f]{16})\.arrow")
_ADDED = re.compile(r"\d{8}-[0-9a-f]{16}-[0-9a-f]{16}\.npy")
_OURS = re.compile(
    rf"{SHARDS}/{SHARD_NAME.pattern}/[^/]+|{ADDED}/{_ADDED.pattern}|{_PROMPTS.pattern}"
    rf"|{re.escape(HEADER)}|{re.escape(COMPLETE)}|{re.escape(FORGOTTEN)}"
)
_SMALL, _LARGE = 64 << 20, 4 << 30  # bytes of a record, and of a file of vectors


@dataclass(frozen=True)
class Complete:
    """Which files of a store at an address count: names of shards, of added checksums and of prompts (or blank)."""

    shards: tuple[str, ...]
    checksums: tuple[str, ...] = ()
    prompts: str = ""

    def to_bytes(self) -> bytes:
        """JSON with a digest over all of it."""
        body = {"format": _FORMAT, "version": VERSION, **asdict(self)}
        return json.dumps(with_digest(body), indent=1).encode() + b"\n"

    @classmethod
    def of(cls, data: bytes, address: str) -> Complete:
        """Reads and checks the record: its names become paths on this machine.

        Raises:
            StoreError: for one that is damaged or of a newer release.
        """
        try:
            body = json.loads(data)
            if body["format"] == _FORMAT and body["version"] != VERSION:
                raise StoreError(f"{address}: written by a newer release; update cxr-embed")
            found = cls(tuple(body["shards"]), tuple(body["checksums"]), body["prompts"])
            sound = body["format"] == _FORMAT and "digest" in body and digest_fits(body)
            sound = sound and all(SHARD_NAME.fullmatch(name) for name in found.shards)
            sound = sound and all(_ADDED.fullmatch(name) for name in found.checksums)
            sound = sound and (not found.prompts or _PROMPTS.fullmatch(found.prompts) is not None)
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise StoreError(f"{address}: {COMPLETE} is damaged; push the store again from where it is whole")
        return found

    def paths(self) -> set[str]:
        """Of all files that count, but for those of shards."""
        found = {*(f"{ADDED}/{name}" for name in self.checksums), HEADER, COMPLETE, FORGOTTEN}
        return found | ({self.prompts} if self.prompts else set())


class RemoteStore:
    """A store at an address, as one listing shows it.

    Attributes:
        address: of its folder.
        files: path below it to stamp.
        seen: the bytes of `complete.json`; none where there is none.
        complete: what they say.
    """

    def __init__(self, address: str, *, writes: bool) -> None:
        found = address_of(address)
        problem = address_problem(found) if found is not None else None
        if problem is not None:
            raise StoreError(problem)
        if found is None or (found.partition("://")[0] not in STORES):
            verb = "pushed to" if writes else "pulled from"
            raise StoreError(f"{shown_address(address)}: stores are {verb} s3://, gs:// or az://bucket/folder")
        self.address = found.rstrip("/")
        if "/" not in self.address.partition("://")[2]:
            raise StoreError(f"{self.address}: name a folder in the bucket, such as {self.address}/store")
        self.files = self._listed()
        self.seen = self.read(COMPLETE) if COMPLETE in self.files else b""
        self.complete = Complete.of(self.seen, self.address) if self.seen else Complete(())

    def _listed(self) -> dict[str, ObjectStamp]:
        try:
            return list_below(self.address)
        except RemoteError as error:
            raise StoreError(f"{self.address}: {error}") from None

    def at(self, path: str) -> str:
        """The address of a file."""
        return f"{self.address}/{path}"

    def read(self, path: str, most: int = _SMALL) -> bytes:
        """A file's bytes.

        Raises:
            StoreError: where it cannot be read.
        """
        try:
            return read_object(self.at(path), most)[0]
        except RemoteError as error:
            raise StoreError(f"{self.at(path)}: {error}") from None

    def foreign(self) -> list[str]:
        """Paths of objects that are not a store's."""
        return [path for path in self.files if not _OURS.fullmatch(path)]

    def info(self, shard: str, header: Header) -> tuple[ShardInfo, bytes]:
        """A shard's record, of which every name is one that a shard has, and its bytes.

        Raises:
            StoreError: for one that is damaged or another encoder's.
        """
        data = self.read(f"{SHARDS}/{shard}/{SHARD_JSON}")
        where = self.at(f"{SHARDS}/{shard}")
        if short_digest(data) != shard[9:]:
            raise StoreError(f"{where}: {SHARD_JSON} is damaged, its digest does not match the shard's name")
        known = {ROWS, CHECKSUMS, *map(output_file, header.spec.outputs)}
        try:
            body = json.loads(data)
            if body.pop("version") != VERSION:
                raise StoreError(f"{where}: written by a newer release")
            info = ShardInfo(**body)
            sound = set(info.files) <= known and all("/" not in name for name in info.files)
            sound = sound and all(0 <= int(each["bytes"]) <= _LARGE for each in info.files.values())
        except (ValueError, KeyError, TypeError, AttributeError):
            sound = False
        if not sound:
            raise StoreError(f"{where}: {SHARD_JSON} is not a shard's record")
        if info.fingerprint != header.spec.fingerprint:
            raise StoreError(f"{where}: another encoder's shard ({info.fingerprint[:12]})")
        return info, data

    def file(self, shard: str, name: str, record: Mapping[str, Any]) -> bytes:
        """A shard's file, held against its record.

        Raises:
            StoreError: where it is another one.
        """
        path = f"{SHARDS}/{shard}/{name}"
        data = self.read(path, int(record["bytes"]))
        if len(data) != record["bytes"] or sha256_hex(data) != record["sha256"]:
            raise StoreError(f"{self.at(path)}: damaged, its checksum differs; push the store again from a whole one")
        return data

    def rows(self, shard: str, header: Header) -> list[Row]:
        """What a shard says of its images."""
        info, _ = self.info(shard, header)
        data = self.file(shard, ROWS, info.files[ROWS])
        try:
            table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
            table.validate(full=True)
            return [_row(values) for values in table.to_pylist()]
        except (pa.ArrowException, TypeError, KeyError) as error:
            raise StoreError(f"{self.at(shard)}: {ROWS} cannot be read ({type(error).__name__})") from None


def _row(values: dict[str, Any]) -> Row:
    return Row(**{name: value for name, value in values.items() if name not in ("size", "mtime_ns", "ctime_ns")})
