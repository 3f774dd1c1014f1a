"""Small shards together: a store of many writers opens as fast as one of a single one again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cxr_embed.errors import StoreError
from cxr_embed.io.times import utc_now
from cxr_embed.store.image_index import ImageIndex, ShardRows
from cxr_embed.store.layout import Header, Row, ShardInfo, number_of, shard_paths, write_shard
from cxr_embed.store.presence import alone
from cxr_embed.store.rewrite import checked_arrays, finish, folded, linked, read_rows, replace_shards

MOST_ROWS = 1 << 18
MOST_BYTES = 256 << 20  # of a shard's vectors; twice that is in memory while it is written

_Read = tuple[Path, ShardInfo, ShardRows, list[Row]]


@dataclass(frozen=True)
class Compacted:
    """What `compact_store` did.

    Attributes:
        before, after: shards.
        repeated: vectors that were left out, of content that has another one.
    """

    before: int
    after: int
    repeated: int


def compact_store(path: str | os.PathLike[str], progress: Callable[[int, int], None] | None = None) -> Compacted:
    """Writes small shards together and vectors of one content once. Every image keeps the vector that it had.

    Readers that are open keep what they have mapped. The store is there as it was or as it will be, whenever this is
    killed. While it runs, the disk holds both.

    Args:
        path: the store.
        progress: called with the shards done and their number.

    Raises:
        StoreError: for a shard that is damaged, or where another process writes, or the store cannot be written.
    """
    root = Path(path)
    header = Header.read(root)
    try:
        with alone(root, "store compact") as ours:
            finish(root)  # what was left, also by this when it failed
            old = [shard.name for shard in shard_paths(root)]
            new: list[tuple[Path, str]] = []
            kept, index, seen, repeated, done = set[str](), ImageIndex(), set[bytes](), 0, 0
            for number, group in enumerate(_groups(root, header)):
                owners, others = _merged(group, seen)
                repeated += sum(info.vectors for _, info, *_ in group) - sum(map(len, owners))
                rows = [row for part in owners for _, row in part] + others
                index.fold(folded(group[0][2], rows, sum(map(len, owners))))
                folder, name = _written(root, header, group, owners, others, number, len(index))
                if folder is not None and name not in old:
                    new.append((folder, name))
                else:
                    kept.add(name)  # another folder of that name would have the very same bytes
                done += len(group)
                if progress is not None:
                    progress(done, len(old))
            if ours.lost:
                raise StoreError(f"{root}: this process stood still for too long, and others came; run it again")
            # A group may come to one of its own shards, and the others go without a new one.
            if gone := [name for name in old if name not in kept]:
                replace_shards(root, new, gone)
            finish(root)
    except OSError as error:
        raise StoreError(f"{root}: cannot be written ({error.strerror}); what was stored is safe") from None
    return Compacted(len(old), len(shard_paths(root)), repeated)


def _groups(root: Path, header: Header) -> Iterator[list[_Read]]:
    """Shards that follow each other and fit into one."""
    group: list[_Read] = []
    rows = size = 0
    for shard in read_rows(root, header):
        count, nbytes = len(shard[3]), sum(entry["bytes"] for entry in shard[1].files.values())
        if group and (rows + count > MOST_ROWS or size + nbytes > MOST_BYTES):
            yield group
            group, rows, size = [], 0, 0
        group.append(shard)
        rows, size = rows + count, size + nbytes
    if group:
        yield group


def _merged(group: list[_Read], seen: set[bytes]) -> tuple[list[list[tuple[int, Row]]], list[Row]]:
    """The rows of a group without those that others have replaced.

    Args:
        group: its shards.
        seen: contents that have a vector already; those of the group are added.

    Returns:
        For each shard, the places of the vectors that are kept with their rows; and the other rows. What an image was
        last comes last of its rows.
    """
    owners: list[list[tuple[int, Row]]] = []
    last: dict[str, list[Row]] = {}
    for _, info, _, rows in group:
        mine = []
        for place, row in enumerate(rows):
            if place < info.vectors and row.content is not None and row.content not in seen:
                seen.add(row.content)
                mine.append((place, row))
                last[row.image_id] = []
                continue
            plain = replace(row, unlike_chest=None) if place < info.vectors else row
            if row.content is not None:
                last[row.image_id] = [plain]  # it replaces what the image was
            else:
                last[row.image_id] = [each for each in last.get(row.image_id, []) if each.content is not None] + [plain]
        owners.append(mine)
    return owners, [row for rows in last.values() for row in rows]


def _written(
    root: Path,
    header: Header,
    group: list[_Read],
    owners: list[list[tuple[int, Row]]],
    others: list[Row],
    number: int,
    live: int,
) -> tuple[Path | None, str]:
    """Writes a group's shard: its folder and the name that it gets. No folder where one shard stays as it is."""
    path, info, _, rows = group[0]
    if len(group) == 1 and [row for _, row in owners[0]] + others == rows:
        if live == info.live and number == number_of(path):
            return None, path.name
        folder, digest = linked(root, path, info, live)
    else:
        parts: dict[str, list[np.ndarray]] = {output: [] for output in header.spec.outputs}
        for (shard, its, _, _), mine in zip(group, owners, strict=True):
            for output, array in checked_arrays(shard, its, header).items():
                parts[output].append(array[[place for place, _ in mine]])
        folder, digest = write_shard(
            root,
            [row for part in owners for _, row in part] + others,
            {output: np.concatenate(arrays) for output, arrays in parts.items()},
            fingerprint=info.fingerprint,
            live=live,
            engine=" and ".join(dict.fromkeys(each.engine for _, each, *_ in group if each.vectors)),
            created=utc_now(),
        )
    return folder, f"{number:08d}-{digest}"
