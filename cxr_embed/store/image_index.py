"""Which image has which vector: the fold of all rows of all shards, oldest first."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxr_embed.errors import StoreError
from cxr_embed.io.digests import file_record
from cxr_embed.store.layout import OLDER_ROW_SCHEMA, REGION_SCHEMA, ROW_SCHEMA, ROWS, ShardInfo, remedy
from cxr_embed.types import Stamp

_MIX = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63], np.uint64)


@dataclass(frozen=True)
class ShardRows:
    """One shard's rows, mapped from its file; the first `vectors` rows own the shard's vectors."""

    path: Path
    vectors: int
    table: pa.Table

    def owners(self) -> list[bytes]:
        """Contents of the shard's vectors, in their order."""
        contents: list[bytes] = self.table["content"].slice(0, self.vectors).to_pylist()
        return contents

    @classmethod
    def open(cls, path: Path, info: ShardInfo) -> ShardRows:
        """Maps a shard's rows.

        Raises:
            StoreError: naming the shard, where the file is missing, damaged or of another layout.
        """
        rows = path / ROWS
        for name, declared in info.files.items():  # an image whose vectors are gone has none
            try:
                size = os.stat(path / name).st_size
            except OSError as error:
                raise StoreError(f"{path}: {name} cannot be read ({error.strerror}); {remedy(path)}") from None
            if size != declared["bytes"]:
                raise StoreError(f"{path}: {name} has another size than when it was written; restore it from a copy")
        try:
            # Arrow trusts its files: a flipped bit in an offset would end the process, one in an id go unseen.
            if file_record(rows) != info.files[ROWS]:
                raise StoreError(
                    f"{path}: {ROWS} is damaged, its checksum differs; `cxr-embed store verify` tells more"
                )
            with pa.memory_map(str(rows)) as source:
                table = pa.ipc.open_file(source).read_all()
        except (OSError, pa.ArrowInvalid, KeyError) as error:
            raise StoreError(f"{path}: {ROWS} cannot be read ({type(error).__name__})") from None
        if table.schema == OLDER_ROW_SCHEMA:
            table = table.append_column(ROW_SCHEMA.field("unlike_chest"), pa.nulls(len(table), pa.bool_()))
        if table.schema not in (ROW_SCHEMA, REGION_SCHEMA) or len(table) != info.rows or info.vectors > info.rows:
            raise StoreError(f"{path}: {ROWS} is not what shard.json declares")
        return cls(path, info.vectors, table)


@dataclass(frozen=True, kw_only=True)
class KnownImage:
    """What the store last recorded of an image."""

    content: bytes
    patient_id: str
    stamp: Stamp
    error_kind: str | None
    error: str | None
    software: str | None


@dataclass(kw_only=True)
class ImageIndex:
    """The state of every image.

    Rows of all shards are numbered in one sequence. A row that states an image's content replaces the image's earlier
    one; a row without content (the file was away) only records a failure and leaves an earlier vector in place.

    The order is that of the shards' names, a row's place in its shard next. Of a content that several shards hold a
    vector of (two writers embedded it at one moment), the first one counts, for every image of that content.

    Attributes:
        latest: image id to the number of the row that states its content.
        broken: images whose content has no vector: it is not a readable radiograph.
        failures: image id to kind and reason, for every image whose last try failed.
    """

    latest: dict[str, int] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    failures: dict[str, tuple[str, str]] = field(default_factory=dict)
    _shards: list[ShardRows] = field(default_factory=list)
    _starts: list[int] = field(default_factory=lambda: [0])
    _contents: dict[bytes, int] = field(default_factory=dict)
    _contents_of: int = 0  # shards that `_contents` covers already
    _mapped: list[pa.Table] = field(default_factory=list)
    _table: pa.Table | None = None

    def __len__(self) -> int:
        """Images with a vector."""
        return len(self.latest) - len(self.broken)

    def fold(self, shard: ShardRows) -> None:
        """Adds the rows of the next shard."""
        ids: list[str] = shard.table["image_id"].to_pylist()
        start = self._starts[-1]
        numbers = range(start, start + len(ids))
        self._shards.append(shard)
        self._starts.append(numbers.stop)
        if shard.table["error_kind"].null_count == len(ids):
            self.latest.update(zip(ids, numbers, strict=True))
            self.broken.difference_update(ids)
            for image_id in self.failures.keys() & set(ids):
                del self.failures[image_id]
            return
        contents, kinds, reasons = (shard.table[name].to_pylist() for name in ("content", "error_kind", "error"))
        for image_id, number, content, kind, reason in zip(ids, numbers, contents, kinds, reasons, strict=True):
            if content is not None:
                self.latest[image_id] = number
                (self.broken.discard if kind is None else self.broken.add)(image_id)
            if kind is None:
                self.failures.pop(image_id, None)
            else:
                self.failures[image_id] = (kind, reason)

    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The images with a vector: ids `(N,)`, shard numbers `(N,)` and positions in the shards' arrays `(N,)`.

        Raises:
            StoreError: where a row refers to content that no shard holds.
        """
        live = [image_id for image_id in self.latest if image_id not in self.broken] if self.broken else self.latest
        rows = np.fromiter((self.latest[image_id] for image_id in live), dtype=np.int64, count=len(live))
        shard, vector = self._locate(rows)
        vectors = np.array([rows.vectors for rows in self._shards], dtype=np.int64)
        elsewhere = vector >= vectors[shard] if len(rows) else np.zeros(0, bool)
        if len(rows) and self._repeats_content():
            first = np.fromiter(self._known_contents().values(), np.int64, len(self._contents))
            elsewhere |= ~np.isin(rows, first)
        for at in np.flatnonzero(elsewhere):
            content = self._shards[shard[at]].table["content"][int(vector[at])].as_py()
            place = self.find_content(content)
            if place is None:
                raise StoreError(f"{self._shards[shard[at]].path}: a row refers to content that no shard holds")
            shard[at], vector[at] = place
        return np.array(list(live), dtype=np.str_), shard, vector

    def _repeats_content(self) -> bool:
        """Whether some content has several vectors. Without a table of all contents, which takes longer."""
        words = [_words(shard.table["content"].slice(0, shard.vectors)) for shard in self._shards]
        keys = np.concatenate([np.empty(0, np.uint64), *words])
        return len(np.unique(keys)) < len(keys)

    def _known_contents(self) -> dict[bytes, int]:
        """Each content that has a vector, to the number of the row that owns the first one."""
        for new, start in zip(self._shards[self._contents_of :], self._starts[self._contents_of :], strict=False):
            owners = new.owners()
            found = dict(zip(reversed(owners), range(start + len(owners) - 1, start - 1, -1), strict=True))
            for content in self._contents.keys() & found.keys():
                del found[content]
            self._contents.update(found)
        self._contents_of = len(self._shards)
        return self._contents

    @property
    def vectors(self) -> int:
        """Different contents that have one."""
        return len(self._known_contents())

    def find_content(self, content: bytes) -> tuple[int, int] | None:
        """Shard number and position of a content's vector; None where it was never embedded."""
        row = self._known_contents().get(content)
        if row is None:
            return None
        shard, position = self._locate(np.array([row]))
        return int(shard[0]), int(position[0])

    @property
    def has_regions(self) -> bool:
        """Whether the images are parts of pictures."""
        return any("box" in shard.table.column_names for shard in self._shards)

    def unchanged(
        self, image_ids: list[str], patient_ids: list[str], stamps: list[Stamp], boxes: list[str]
    ) -> list[bool]:
        """Which images are as the store last recorded them: the same patient and box, and the file untouched since.

        Args:
            image_ids, patient_ids, stamps: of each image.
            boxes: of each region; blank for a whole picture.
        """
        rows = [self.latest.get(image_id, -1) for image_id in image_ids]
        known = [row for row in rows if row >= 0]
        if not known:
            return [False] * len(rows)
        regions, names = self.has_regions, ["patient_id", "size", "mtime_ns", "ctime_ns"]
        recorded = self._rows([*names, "box"] if regions else names, known)
        states = zip(*(recorded[name].to_pylist() for name in recorded.column_names), strict=True)
        result = []
        for row, patient, stamp, box in zip(rows, patient_ids, stamps, boxes, strict=True):
            state = next(states) if row >= 0 else None
            now = (patient, stamp.size, stamp.mtime_ns, stamp.ctime_ns, *([box or None] if regions else []))
            result.append(stamp.ctime_ns != 0 and state == now)
        return result

    def find_image(self, image_id: str) -> KnownImage | None:
        """The row that states the image's content; None for an image that was never read."""
        number = self.latest.get(image_id)
        if number is None:
            return None
        row = self._rows(ROW_SCHEMA.names, [number]).to_pylist()[0]
        stamp = Stamp(row["size"], row["mtime_ns"], row["ctime_ns"])
        return KnownImage(
            content=row["content"],
            patient_id=row["patient_id"],
            stamp=stamp,
            error_kind=row["error_kind"],
            error=row["error"],
            software=row["software"],
        )

    def column(self, name: str) -> list[Any]:
        """A column of the rows of all images with a vector, in the order of `places`."""
        rows = [number for image_id, number in self.latest.items() if image_id not in self.broken]
        values: list[Any] = self._rows([name], rows)[name].to_pylist() if rows else []
        return values

    def files(self) -> list[bytes]:
        """SHA-256 of the files of all images with a vector, in the order of `places`."""
        return self.column("file" if self.has_regions else "content")

    def is_unlike_chest(self, content: bytes) -> bool:
        """Whether a content's picture was seen not to look like a chest; no for content that is not here."""
        place = self.find_content(content)
        return place is not None and bool(self._shards[place[0]].table["unlike_chest"][place[1]].as_py())

    def unlike_chest(self, shard: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """Of vectors at the given `places`: whether their picture was seen not to look like a chest. `(N,)` bool."""
        result = np.zeros(len(shard), bool)
        for number in np.unique(shard):
            owners = self._shards[number].table["unlike_chest"].slice(0, self._shards[number].vectors)
            if owners.null_count < len(owners):
                here = shard == number
                result[here] = owners.fill_null(False).to_numpy()[vector[here]]
        return result

    def _rows(self, columns: list[str], numbers: list[int]) -> pa.Table:
        """The given columns of the given rows, in their order."""
        if len(self._mapped) != len(self._shards):
            # Concatenating mapped tables copies nothing.
            self._mapped[:] = [shard.table for shard in self._shards]
            self._table = pa.concat_tables(self._mapped, promote_options="default")
        assert self._table is not None
        return self._table.select(columns).take(pa.array(numbers, pa.int64()))

    def _locate(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers to shard numbers and positions in them."""
        starts = np.array(self._starts)
        shard = np.searchsorted(starts, rows, side="right") - 1
        return shard, rows - starts[shard]


def count_images(shards: Sequence[ShardRows]) -> int:
    """Images with a vector, as the length of an `ImageIndex` of the same shards, in a fraction of its time."""
    if not shards:
        return 0
    columns = ["image_id", "content", "error_kind"]
    table = pa.concat_tables([shard.table.select(columns) for shard in shards])
    table = table.filter(pc.is_valid(table["content"]))
    if table["error_kind"].null_count == len(table):
        return int(pc.count_distinct(table["image_id"]).as_py())
    numbered = table.select(["image_id"]).append_column("number", pa.array(np.arange(len(table))))
    last = numbered.group_by("image_id").aggregate([("number", "max")])["number_max"]
    return int(table["error_kind"].take(last).null_count)


def by_shard(shard: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Shard numbers `(N,)` to each shard's number and the positions that have it, in their order."""
    order = np.argsort(shard, kind="stable")
    edges = np.flatnonzero(np.diff(shard[order])) + 1
    for part in np.split(order, edges) if len(order) else ():
        yield int(shard[part[0]]), part


def _words(contents: pa.ChunkedArray) -> np.ndarray:
    """A number for each of N digests of 32 bytes, `(N,)` uint64; different ones share one by a rare chance."""
    keys = [np.empty(0, np.uint64)]
    for chunk in contents.chunks:
        data = np.frombuffer(chunk.buffers()[1], np.uint8)[chunk.offset * 32 : (chunk.offset + len(chunk)) * 32]
        four = np.ascontiguousarray(data).view(np.uint64).reshape(-1, 4)
        keys.append((four * _MIX).sum(axis=1, dtype=np.uint64))
    return np.concatenate(keys)
