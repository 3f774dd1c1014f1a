"""Taking images out of a store: shards are replaced by others without them, all of them by one rename.

While that lasts, `unread.json` names the shards that do not count: first the new ones, which are on their way into
`shards/`, then, from the one rename that publishes them, the old ones, which are deleted next. Whoever is alone at the
store after a kill deletes what the file names, and has the old store or the new one.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pyarrow as pa

from cxr_embed.errors import StoreError
from cxr_embed.io.digests import file_record, short_digest
from cxr_embed.io.files import load_npy, sync, write_whole
from cxr_embed.store.added import added_checksums, read_added, remove_stale, write_added
from cxr_embed.store.image_index import ImageIndex, ShardRows
from cxr_embed.store.layout import (
    INCOMING,
    LOCK,
    PARTIAL_NAME,
    ROW_SCHEMA,
    SHARD_JSON,
    SHARDS,
    UNREAD,
    WRITERS,
    Header,
    Row,
    ShardInfo,
    output_file,
    partial_shard,
    shard_paths,
    unread_shards,
    write_npy,
    write_shard,
)
from cxr_embed.store.presence import Presence, look
from cxr_embed.types import Stamp

_ADDED = "added.npy"  # in a folder that is not published yet: checksums that a shard of an earlier release got later
Covers = Callable[[str, str, bytes | None], bool]


@dataclass(frozen=True)
class TakenOut:
    """What was taken out of a store.

    Attributes:
        images: that were in it, those without a vector included.
        vectors: that are deleted.
        shards: that were written anew.
    """

    images: int
    vectors: int
    shards: int


@dataclass(kw_only=True)
class _Shard:
    """A shard, and what is to become of it: `rows`, of which the first are the owners of the vectors at `kept`."""

    path: Path
    info: ShardInfo
    table: ShardRows
    rows: list[Row]
    kept: np.ndarray
    changed: bool


def states(shards: list[list[Row]]) -> dict[str, Row]:
    """What each image is: the last row that states its content, or its first where none does."""
    state: dict[str, Row] = {}
    for rows in shards:
        for row in rows:
            if row.content is not None or row.image_id not in state:
                state[row.image_id] = row
    return state


def read_rows(root: Path, header: Header) -> Iterator[tuple[Path, ShardInfo, ShardRows, list[Row]]]:
    """Each shard with its rows.

    Raises:
        StoreError: where one is damaged.
    """
    for path in shard_paths(root):
        info = ShardInfo.read(path)
        if info.fingerprint != header.spec.fingerprint:
            raise StoreError(f"{path}: another encoder's shard ({info.fingerprint[:12]})")
        table = ShardRows.open(path, info)
        names = table.table.column_names
        columns = [table.table[name].to_pylist() for name in names]
        yield path, info, table, [_row(dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]


def _row(values: dict[str, Any]) -> Row:
    stamp = Stamp(values.pop("size"), values.pop("mtime_ns"), values.pop("ctime_ns"))
    return Row(stamp=stamp, **values)


def take_out(root: Path, covers: Covers) -> TakenOut:
    """Takes images out: afterwards no file of the store holds their rows, or vectors that are theirs alone.

    Shards that hold none of them keep their bytes; where the number of images that they state is another now, they get
    another name. A reader that is open keeps what it has mapped.

    Args:
        root: the store; the caller is alone there (`presence`).
        covers: whether an image goes: by patient, image id and file (None where it was never read).

    Raises:
        StoreError: where it is damaged. It is then as it was.
        OSError: where it cannot be written; it is then as it was, or done but for the clearing up.
    """
    finish(root)
    header = Header.read(root)
    read = list(read_rows(root, header))
    state = states([rows for *_, rows in read])
    gone = {
        image_id
        for image_id, row in state.items()
        if any(covers(row.patient_id, name, row.file_digest) for name in row.names)
    }
    heirs: dict[bytes, Row] = {}
    for *_, rows in read:
        for row in rows:
            if row.content is not None and row.error_kind is None and row.image_id not in gone:
                heirs.setdefault(row.content, replace(row, patient_id=state[row.image_id].patient_id))
    shards = []
    for path, info, table, rows in read:
        after = [_after(row, n < info.vectors, state, gone, heirs, covers) for n, row in enumerate(rows)]
        kept = np.array([n for n, row in enumerate(after[: info.vectors]) if row is not None], np.int64)
        left = [row for row in after if row is not None]
        shards.append(_Shard(path=path, info=info, table=table, rows=left, kept=kept, changed=left != rows))
    written = _write(root, header, shards)
    if written:
        replace_shards(root, list(written.values()), list(written))
    vectors = sum(shard.info.vectors - len(shard.kept) for shard in shards)
    return TakenOut(len(gone), vectors, sum(shard.changed for shard in shards))


def _after(
    row: Row, owner: bool, state: dict[str, Row], gone: set[str], heirs: dict[bytes, Row], covers: Covers
) -> Row | None:
    """What becomes of a row; None for nothing."""
    if row.image_id in gone:
        # A vector that others have too goes over to one of them.
        heir = heirs.get(row.content) if owner and row.content is not None else None
        if heir is None or covers("", "", row.file_digest):
            return None
        return replace(heir, stamp=Stamp(), unlike_chest=row.unlike_chest)
    if covers("", "", row.file_digest):
        return None  # what the image was before
    if covers(row.patient_id, "", None):
        return replace(row, patient_id=state[row.image_id].patient_id)  # it was taken for another patient's once
    return row


def _write(root: Path, header: Header, shards: list[_Shard]) -> dict[str, tuple[Path, str]]:
    """Writes what replaces shards beside them: old name to folder and new name."""
    index, written = ImageIndex(), {}
    for shard in shards:
        table = shard.table
        if shard.changed:
            table = folded(table, shard.rows, len(shard.kept))
        index.fold(table)
        live, number = len(index), shard.path.name[:8]
        if shard.changed:
            folder, digest = _rewritten(root, header, shard, live)
        elif live != shard.info.live:
            folder, digest = linked(root, shard.path, shard.info, live)
        else:
            continue
        written[shard.path.name] = (folder, f"{number}-{digest}")
    return written


def folded(shard: ShardRows, rows: list[Row], vectors: int) -> ShardRows:
    """What `ImageIndex.fold` looks at, of other rows, the first `vectors` of which own one."""
    columns = {
        "image_id": [row.image_id for row in rows],
        "content": [row.content for row in rows],
        "error_kind": [row.error_kind for row in rows],
        "error": [row.error for row in rows],
    }
    table = pa.table({name: pa.array(values, ROW_SCHEMA.field(name).type) for name, values in columns.items()})
    return replace(shard, vectors=vectors, table=table)


def _rewritten(root: Path, header: Header, shard: _Shard, live: int) -> tuple[Path, str]:
    """A shard with the rows that are left."""
    arrays = {output: array[shard.kept] for output, array in checked_arrays(shard.path, shard.info, header).items()}
    return write_shard(
        root,
        shard.rows,
        arrays,
        fingerprint=shard.info.fingerprint,
        live=live,
        engine=shard.info.engine,
        created=shard.info.created,
    )


def checked_arrays(shard: Path, info: ShardInfo, header: Header) -> dict[str, np.ndarray]:
    """A shard's vectors by output, mapped, their files held against the shard's record.

    Raises:
        StoreError: where one is damaged.
    """
    arrays = {}
    for output, shape in header.spec.outputs.items():
        file = shard / output_file(output)
        if file_record(file) != info.files.get(file.name):
            raise StoreError(f"{file}: damaged, its bytes have changed; `cxr-embed store verify` tells more")
        array = load_npy(file, "r" if info.vectors else None)
        if array.shape != (info.vectors, *shape) or array.dtype != header.dtype:
            raise StoreError(f"{file}: {array.dtype} {array.shape}, not what was declared")
        arrays[output] = array
    return arrays


def linked(root: Path, shard: Path, info: ShardInfo, live: int) -> tuple[Path, str]:
    """The same shard with another number of images; its files are the same ones, where the file system has links."""
    folder = partial_shard(root)
    for name in info.files:
        try:
            os.link(shard / name, folder / name)
        except OSError:
            shutil.copyfile(shard / name, folder / name)
            sync(folder / name)
    body = replace(info, live=live).to_bytes()
    (folder / SHARD_JSON).write_bytes(body)
    sync(folder / SHARD_JSON)
    sync(folder)
    digest = short_digest(body)
    if (added := added_checksums(root).get(shard.name)) is not None:
        # They go by the name of the shard, of which the digest is known and the number is the caller's.
        write_npy(folder / _ADDED, read_added(added))
    return folder, digest


def replace_shards(root: Path, new: list[tuple[Path, str]], old: list[str]) -> None:
    """Puts new shards in the place of old ones; the second writing of `unread.json` is what publishes them.

    Args:
        root: the store; the caller is alone there.
        new: folders that are written, and the names that they get.
        old: names of those that go.
    """
    write_whole(root / UNREAD, json.dumps([name for _, name in new]).encode())
    for folder, name in new:
        if (folder / _ADDED).exists():
            write_added(root / SHARDS / name, load_npy(folder / _ADDED))
            (folder / _ADDED).unlink()
        os.rename(folder, root / SHARDS / name)
    sync(root / SHARDS)
    write_whole(root / UNREAD, json.dumps(old).encode())
    finish(root)


def finish(root: Path) -> None:
    """Deletes what killed writers and a killed replacement have left. Only who is alone at the store may call it.

    Raises:
        OSError: where that cannot be done.
    """
    shutil.rmtree(root / INCOMING, ignore_errors=True)
    for partial in _partials(root):
        shutil.rmtree(partial, ignore_errors=True)
    _end_replacement(root)


def _end_replacement(root: Path) -> None:
    for leftover in root.glob(f".{UNREAD}.*"):
        leftover.unlink(missing_ok=True)
    unread = unread_shards(root)
    for name in sorted(unread):
        if (root / SHARDS / name).exists():
            shutil.rmtree(root / SHARDS / name)
    if unread:
        sync(root / SHARDS)
        remove_stale(root)
    if (root / UNREAD).exists():
        (root / UNREAD).unlink()
        sync(root)


def _partials(root: Path) -> list[Path]:
    with contextlib.suppress(FileNotFoundError):
        return [root / SHARDS / name for name in os.listdir(root / SHARDS) if PARTIAL_NAME.fullmatch(name)]
    return []


def clear_up(root: Path, ours: Presence) -> None:
    """Deletes what the dead have left: their shards that were not published; all of it where nobody else is here.

    Args:
        root: the store.
        ours: the announcement of the writer that does it; it stays.
    """
    others = look(root, ours)
    for dead in (seen for seen in others if not seen.alive):
        (root / WRITERS / dead.name).unlink(missing_ok=True)
    living = {ours.ident, *(seen.ident for seen in others if seen.alive)}
    for partial in _partials(root):
        match = PARTIAL_NAME.fullmatch(partial.name)
        if match and match[1] not in living:
            shutil.rmtree(partial, ignore_errors=True)
    if len(living) > 1:
        return
    with contextlib.suppress(OSError, filelock.Timeout):
        if (root / INCOMING).exists():
            with filelock.FileLock(root / LOCK, timeout=0):  # or a writer of an earlier release is at it
                shutil.rmtree(root / INCOMING, ignore_errors=True)
        # Nobody replaces shards while this writer is here; others that come now only read.
        _end_replacement(root)
        remove_stale(root)
