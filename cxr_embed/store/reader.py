"""Reading a store: open in milliseconds, gather rows from memory-mapped shards."""

from __future__ import annotations

import itertools
import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cxr_embed.arguments import checked_arguments
from cxr_embed.errors import StoreError
from cxr_embed.io.digests import file_record
from cxr_embed.io.files import load_npy
from cxr_embed.store.added import added_checksums, read_added
from cxr_embed.store.checksums import changed_rows
from cxr_embed.store.image_index import ImageIndex, ShardRows, by_shard, count_images
from cxr_embed.store.layout import (
    CHECKSUMS,
    SHARD_JSON,
    Header,
    ShardInfo,
    number_of,
    output_file,
    remedy,
    shard_paths,
    unreadable,
)
from cxr_embed.types import Embeddings, EncoderSpec, counted

_NAMED = 5  # ids that an error message names before it only counts
_STREAMED_VALUES = 1 << 21  # of a block of a stream: 8 MiB of float32, as much as an engine takes at once
_NO_CHANCE = 64  # so many different vectors never have one checksum by chance


@dataclass(frozen=True)
class Failure:
    """An image without a vector, or whose last try failed: `kind` is a stable word, `reason` a sentence."""

    image_id: str
    kind: str
    reason: str


class Store:
    """The vectors of one encoder, as they were published when the store was opened. Any number may be open at once.

    Nothing is read from a shard before it is needed, and vectors stay in the files until rows are gathered.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.header = Header.read(self.path)
        self._shard_paths = shard_paths(self.path)
        self._present = False  # whether somebody looked
        self._added = added_checksums(self.path)
        self._infos: dict[int, ShardInfo] = {}
        self._arrays: dict[tuple[int, str], np.ndarray] = {}
        self._checksums: dict[int, np.ndarray | None] = {}
        self._streamed: set[tuple[int, str, int]] = set()  # blocks that a stream found to be sound

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {self.spec.name}, {counted(len(self), 'image')})"

    def __len__(self) -> int:
        """Images with a vector.

        Raises:
            StoreError: naming a shard whose vectors are gone.
        """
        if not self._present:
            for path, output in itertools.product(self._shard_paths, self.spec.outputs):
                if not os.path.isfile(path / output_file(output)):
                    raise StoreError(f"{path}: {output_file(output)} is gone; {remedy(path)}")
            self._present = True
        if len(set(map(number_of, self._shard_paths))) < self.shards:  # several writers: none of them knew all
            return count_images(self._rows_of_shards)
        return self._info(self.shards - 1).live if self.shards else 0

    @property
    def spec(self) -> EncoderSpec:
        """The encoder that made the vectors."""
        return self.header.spec

    @property
    def shards(self) -> int:
        """Published shards."""
        return len(self._shard_paths)

    @property
    def nbytes(self) -> int:
        """Bytes of all published files."""
        total = sum((path / SHARD_JSON).stat().st_size for path in self._shard_paths)
        files = itertools.chain(*(self._info(number).files.values() for number in range(self.shards)))
        return total + sum(int(entry["bytes"]) for entry in files)

    @property
    def engines(self) -> dict[str, int]:
        """What computed the vectors: engine to number of vectors."""
        engines: Counter[str] = Counter()
        for number in range(self.shards):
            engines[self._info(number).engine] += self._info(number).vectors
        return dict(+engines)

    @cached_property
    def index(self) -> ImageIndex:
        """The state of every image, failures included."""
        index = ImageIndex()
        for shard in self._rows_of_shards:
            index.fold(shard)
        return index

    @cached_property
    def _rows_of_shards(self) -> list[ShardRows]:
        return [ShardRows.open(path, self._info(number)) for number, path in enumerate(self._shard_paths)]

    @cached_property
    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self.index.places()

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {image_id: position for position, image_id in enumerate(self.ids.tolist())}

    @property
    def ids(self) -> np.ndarray:
        """`(N,)` image ids in the order in which they were first stored."""
        return self._places[0]

    @property
    def patient_ids(self) -> np.ndarray:
        """`(N,)` patient ids, in the order of `ids`."""
        return np.array(self.index.column("patient_id"), dtype=np.str_)

    @property
    def content_ids(self) -> np.ndarray:
        """`(N,)` SHA-256 of the files (of regions, of file and box), 64 hexadecimal digits each, as `ids`."""
        return np.array([content.hex() for content in self.index.column("content")], dtype="U64")

    @property
    def unlike_chest(self) -> np.ndarray:
        """`(N,)` bool, in the order of `ids`: pictures that did not look like chest radiographs when embedded."""
        _, shard, vector = self._places
        return self.index.unlike_chest(shard, vector)

    @property
    def failures(self) -> list[Failure]:
        """The images whose last try failed, with the reasons."""
        return [Failure(image_id, *why) for image_id, why in sorted(self.index.failures.items())]

    def checksums(self, number: int) -> np.ndarray | None:
        """CRC-32C of a shard's vectors, `(outputs, M)` uint32; None for a shard of an earlier release.

        Raises:
            StoreError: where the file is damaged.
        """
        if number not in self._checksums:
            path, info = self._shard_paths[number] / CHECKSUMS, self._info(number)
            found = None
            if CHECKSUMS in info.files:
                try:
                    if file_record(path) != info.files[CHECKSUMS]:
                        raise StoreError(f"{path.parent}: {path.name} is damaged, its checksum differs")
                    found = load_npy(path)
                except (OSError, ValueError) as error:
                    raise unreadable(path, error) from None
            elif path.parent.name in self._added:
                found = read_added(self._added[path.parent.name])
            if found is not None and found.shape != (len(self.spec.outputs), info.vectors):
                raise StoreError(f"{path.parent}: its checksums are not of {info.vectors:,} vectors")
            self._checksums[number] = found
        return self._checksums[number]

    def equal_vectors(self) -> list[list[str]]:
        """Images whose files differ and whose vectors are the same in every output: a list of ids each.

        Copies that were saved anew are such images, and so is everything that an encoder cannot tell apart. Vectors of
        earlier releases, which have no checksums, are not looked at (`unchecked`).
        """
        ids, shard, vector = self._places
        sums = np.zeros((len(ids), len(self.spec.outputs)), np.uint64)
        looked = np.zeros(len(ids), bool)
        for number, rows in by_shard(shard):
            found = self.checksums(number)
            if found is not None:
                sums[rows], looked[rows] = found[:, vector[rows]].T, True
        keys = np.zeros(len(ids), np.uint64)
        for column in sums.T:  # one number for all outputs
            keys = keys * np.uint64(0x9E3779B97F4A7C15) + column
        _, group, size = np.unique(keys, return_inverse=True, return_counts=True)
        order = np.flatnonzero(looked & (size[group] > 1))
        order = order[np.argsort(group[order], kind="stable")]
        edges = np.flatnonzero(np.diff(group[order])) + 1
        groups = []
        for part in np.split(order, edges) if len(order) else ():
            places = {(int(shard[row]), int(vector[row])) for row in part}  # images of one file share one
            if len(places) > 1:
                groups += self._equal(part, len(places))
        return [ids[group].tolist() for group in groups]

    def _equal(self, rows: np.ndarray, places: int) -> list[np.ndarray]:
        """Rows of equal checksums, parted by their vectors where chance may have made the checksums equal."""
        if places > _NO_CHANCE:
            return [rows]
        _, shard, vector = self._places
        by_vector: dict[bytes, list[int]] = {}
        for row in rows:
            place = slice(int(row), int(row) + 1)
            parts = [self._gather(shard[place], vector[place], output) for output in self.spec.outputs]
            held = b"".join(part.tobytes() for part in parts)
            by_vector.setdefault(held, []).append(int(row))
        same = [np.array(group) for group in by_vector.values()]
        return [group for group in same if len({(int(shard[row]), int(vector[row])) for row in group}) > 1]

    @property
    def unchecked(self) -> int:
        """Vectors of earlier releases, which have no checksums; `store verify --upgrade` adds them."""
        return sum(
            self._info(number).vectors
            for number, path in enumerate(self._shard_paths)
            if CHECKSUMS not in self._info(number).files and path.name not in self._added
        )

    def read(self, ids: Sequence[str] | np.ndarray | None = None, output: str | None = None) -> Embeddings:
        """Vectors by image id.

        Args:
            ids: `(N,)` image ids in any order, repeats allowed; all images by default.
            output: one of the encoder's outputs; its first by default.

        Returns:
            `vectors` `(N, ...)` in the store's dtype, row i for id i.

        Raises:
            StoreError: for ids that have no vector here, or an output that the encoder does not have.
        """
        output = self._output(output)
        chosen, shard, vector = self._places
        if ids is None:
            return Embeddings(chosen, self._gather(shard, vector, output), self.spec)
        chosen = np.asarray(ids, dtype=np.str_)
        if chosen.ndim != 1:
            raise StoreError(f"ids must be one list of image ids, got an array of shape {chosen.shape}")
        rows = self._rows(chosen.tolist())
        return Embeddings(chosen, self._gather(shard[rows], vector[rows], output), self.spec)

    def batches(self, size: int = 4096, output: str | None = None) -> Iterator[Embeddings]:
        """All vectors in the order of `ids`, `size` at a time, fewer of large ones, so that memory stays flat."""
        output, (known, shard, vector) = self._output(output), self._places
        size = max(1, min(size, 16 * _STREAMED_VALUES // math.prod(self.spec.outputs[output])))
        for start in range(0, len(known), size):
            rows = slice(start, start + size)
            yield Embeddings(known[rows], self._gather(shard[rows], vector[rows], output), self.spec)

    def mapped(self, output: str | None = None) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """All vectors, block by block and without a copy, for work that looks at each of them.

        The first stream of an open store holds each block against its checksums.

        Yields:
            `rows` `(K,)`, `places` `(K,)` and `vectors` `(M, ...)` in the store's dtype: the vector of `ids[rows[k]]`
            is `vectors[places[k]]`. Images of one content share a vector, and a vector may belong to no image any
            more. `vectors` lie in the shard's file; they are let go before the next shard, so that memory stays flat.

        Raises:
            StoreError: naming the file and an image, where a vector has changed since it was written.
        """
        output = self._output(output)
        _, shard, vector = self._places
        size = max(1, _STREAMED_VALUES // math.prod(self.spec.outputs[output]))
        for number, rows in by_shard(shard):
            rows = rows[np.argsort(vector[rows], kind="stable")]
            places = vector[rows]
            # Copy-on-write: engines refuse to borrow an array that they could not write.
            array = self._map(number, output, "c")
            for start in range(0, len(array), size):
                here = slice(*np.searchsorted(places, (start, start + size)))
                block, used = array[start : start + size], places[here] - start
                if len(used):
                    if (number, output, start) not in self._streamed:
                        self._check(number, output, start, block, used)
                        self._streamed.add((number, output, start))
                    yield rows[here], used, block

    def _output(self, output: str | None) -> str:
        if output is None:
            return next(iter(self.spec.outputs))
        if output not in self.spec.outputs:
            raise StoreError(f"{self.path} has no output {output!r}; it has {', '.join(self.spec.outputs)}")
        return output

    def _rows(self, ids: list[str]) -> np.ndarray:
        positions = self._positions
        try:
            return np.fromiter((positions[image_id] for image_id in ids), dtype=np.int64, count=len(ids))
        except KeyError:
            unknown = [image_id for image_id in ids if image_id not in positions]
            named = ", ".join(unknown[:_NAMED]) + (", ..." if len(unknown) > _NAMED else "")
            raise StoreError(f"{self.path} has no vector for {len(unknown)} of {len(ids)} ids: {named}") from None

    def _gather(self, shard: np.ndarray, vector: np.ndarray, output: str) -> np.ndarray:
        shape = (len(shard), *self.spec.outputs[output])
        result: np.ndarray = np.empty(shape, dtype=self.header.dtype)
        column = list(self.spec.outputs).index(output)
        written, known = np.zeros(len(shard), np.uint32), np.ones(len(shard), bool)
        for number, part in by_shard(shard):
            rows = vector[part]
            result[neighbours(part)] = self._vectors(number, output)[neighbours(rows)]
            sums = self.checksums(number)
            if sums is None:
                known[part] = False
            else:
                written[part] = sums[column, rows]
        bad = changed_rows(result, written, None if known.all() else np.flatnonzero(known))
        if len(bad):
            raise self._changed(int(shard[bad[0]]), output, int(vector[bad[0]]))
        return result

    def _check(self, number: int, output: str, start: int, block: np.ndarray, places: np.ndarray) -> None:
        """Refuses a shard's block from row `start` where bytes of `places` `(K,)` in it are not those written."""
        sums = self.checksums(number)
        if sums is None:
            return
        bad = changed_rows(block, sums[list(self.spec.outputs).index(output)][start : start + len(block)])
        bad = bad[np.isin(bad, places)]
        if len(bad):
            raise self._changed(number, output, start + int(bad[0]))

    def _changed(self, number: int, output: str, row: int) -> StoreError:
        ids, shard, vector = self._places
        image_id = ids[np.flatnonzero((shard == number) & (vector == row))[0]]
        file = self._shard_paths[number] / output_file(output)
        return StoreError(
            f"{file}: the vector of {image_id} has changed since it was written; `cxr-embed store verify` tells more"
        )

    def _vectors(self, number: int, output: str) -> np.ndarray:
        key = (number, output)
        if key not in self._arrays:
            self._arrays[key] = self._map(number, output, "r")
        return self._arrays[key]

    def _map(self, number: int, output: str, mode: Literal["r", "c"]) -> np.ndarray:
        path, info = self._shard_paths[number] / output_file(output), self._info(number)
        try:
            if path.stat().st_size != info.files[path.name]["bytes"]:
                raise StoreError(f"{path.parent}: {path.name} has another size than when it was written")
            array: np.ndarray = load_npy(path, mode)
        except (OSError, ValueError, KeyError) as error:
            raise unreadable(path, error) from None
        if array.shape != (info.vectors, *self.spec.outputs[output]) or array.dtype != self.header.dtype:
            raise StoreError(f"{path.parent}: {path.name} is {array.dtype} {array.shape}, not what was declared")
        return array

    def _info(self, number: int) -> ShardInfo:
        if number not in self._infos:
            info = ShardInfo.read(self._shard_paths[number])
            if info.fingerprint != self.spec.fingerprint:
                raise StoreError(f"{self._shard_paths[number]}: another encoder's shard ({info.fingerprint[:12]})")
            self._infos[number] = info
        return self._infos[number]

    def describe(self) -> dict[str, Any]:
        """What `store info --json` prints."""
        return {
            "path": str(self.path),
            "images": len(self),
            "patients": len(set(self.patient_ids.tolist()) - {""}),  # blank: imported, and nobody knows
            "vectors": self.index.vectors,
            "failures": len(self.index.failures),
            "unlike_chest": self.ids[self.unlike_chest].tolist(),
            "equal_vectors": self.equal_vectors(),
            "unchecked_vectors": self.unchecked,
            "shards": self.shards,
            "bytes": self.nbytes,
            "dtype": self.header.dtype,
            "precision": self.header.precision,
            "created": self.header.created,
            "fingerprint": self.spec.fingerprint,
            "spec": self.spec.to_json(),
            "engines": self.engines,
        }


def neighbours(rows: np.ndarray) -> slice | np.ndarray:
    """Rows `(N,)` as a slice, which copies nothing, where each is the next one's neighbour."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


@checked_arguments
def open_store(path: str | os.PathLike[str]) -> Store:
    """Opens a store for reading.

    Raises:
        StoreError: where there is no store or it is damaged.
    """
    return Store(path)
