"""A store on this machine to an address: what is missing there is copied, and nobody whom it forgot comes back."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_embed.errors import RemoteError, StoreError
from cxr_embed.io.digests import sha256_hex, short_digest
from cxr_embed.io.objects import delete_object, each_at_once, holds, write_object
from cxr_embed.store.added import ADDED, added_checksums
from cxr_embed.store.forgotten import FORGOTTEN, Forgotten, carry_forgotten, gather_forgotten
from cxr_embed.store.image_index import ImageIndex, ShardRows
from cxr_embed.store.layout import HEADER, SHARD_JSON, SHARDS, Header, Row, ShardInfo, shard_paths
from cxr_embed.store.prompts import PROMPTS
from cxr_embed.store.remote import COMPLETE, Complete, RemoteStore
from cxr_embed.store.rewrite import read_rows, states
from cxr_embed.types import counted

Progress = Callable[[int, int], None]
_NAMED = 5


@dataclass(frozen=True, kw_only=True)
class PushedStore:
    """What a push did.

    Attributes:
        address: where the store is now too.
        shards: that it has there.
        copied: of them, those that were not there before.
        bytes: that were sent.
        deleted: objects there that do not count any more, such as shards with images that were forgotten.
    """

    address: str
    shards: int
    copied: int
    bytes: int
    deleted: int

    def to_json(self) -> dict[str, Any]:
        """What `store push --json` prints."""
        return dict(vars(self))


def push_store(
    path: str | os.PathLike[str],
    address: str,
    *,
    key_file: Path | None = None,
    progress: Progress | None = None,
) -> PushedStore:
    """Copies a store to an address: shards that are missing there, and then the record that makes them count.

    What was forgotten, here or there, is on the list there afterwards, and shards that still hold it are deleted there.

    Args:
        path: the store.
        address: `s3://bucket/folder`, `gs://...` or `az://...`: empty, or an earlier state of the same store.
        key_file: the key of the patient ids, where patients were forgotten; the user's own by default.
        progress: called with the shards done and their number.

    Raises:
        StoreError: where another store is there, or images that are not here; where images here were forgotten there;
            where something is damaged, changes meanwhile, or cannot be read or written.
    """
    root = Path(path)
    header, shards = Header.read(root), shard_paths(root)
    remote = RemoteStore(address, writes=True)
    _check_target(root, remote)
    with tempfile.TemporaryDirectory() as folder:
        aside = Path(folder)
        if FORGOTTEN in remote.files:
            (aside / FORGOTTEN).write_bytes(remote.read(FORGOTTEN))
        forgotten = gather_forgotten(root, aside, key_file=key_file)
        _refuse_forgotten(root, header, forgotten, remote.address)
        _refuse_lost(shards, header, forgotten, remote)
        sent = _Sender(remote)
        copied = [shard for shard in shards if shard.name not in remote.complete.shards]
        for done, shard in enumerate(copied, 1):
            sent.shard(shard)
            if progress is not None:
                progress(done, len(copied))
        complete = _rest(root, shards, sent)
        _check_unchanged(root, shards, remote)
        if carry_forgotten([root, aside], aside / "both", forgotten):
            sent.file(FORGOTTEN, (aside / "both").read_bytes())
        sent.file(COMPLETE, complete.to_bytes())
    deleted = _delete_stale(remote, complete)
    return PushedStore(
        address=remote.address, shards=len(shards), copied=len(copied), bytes=sent.bytes, deleted=deleted
    )


class _Sender:
    """Writes files that are not there yet, and counts their bytes."""

    def __init__(self, remote: RemoteStore) -> None:
        self.remote, self.bytes = remote, 0

    def shard(self, shard: Path) -> None:
        """A shard's files, which are held against its record first; the record comes last."""
        info = ShardInfo.read(shard)

        def send(name: str) -> None:
            data, record = (shard / name).read_bytes(), info.files[name]
            if len(data) != record["bytes"] or sha256_hex(data) != record["sha256"]:
                raise StoreError(
                    f"{shard / name}: damaged, its bytes have changed; `cxr-embed store verify` tells more"
                )
            self.file(f"{SHARDS}/{shard.name}/{name}", data)

        try:
            each_at_once(send, info.files)
            self.file(f"{SHARDS}/{shard.name}/{SHARD_JSON}", (shard / SHARD_JSON).read_bytes())
        except OSError as error:
            raise StoreError(
                f"{shard}: cannot be read ({error.strerror}); the store was changed meanwhile? Push it again"
            ) from None

    def file(self, path: str, data: bytes) -> None:
        """A file, unless these bytes are there."""
        stamp = self.remote.files.get(path)
        if stamp is not None and stamp.size == len(data) and holds(stamp, data):
            return
        try:
            write_object(self.remote.at(path), data)
        except RemoteError as error:
            raise StoreError(
                f"{self.remote.at(path)}: {error}; what was there before is as it was, push again to go on"
            ) from None
        self.bytes += len(data)


def _check_target(root: Path, remote: RemoteStore) -> None:
    """Refuses an address with something else at it."""
    if HEADER in remote.files:
        if remote.read(HEADER) != (root / HEADER).read_bytes():
            raise StoreError(
                f"{remote.address}: another store is there (its {HEADER} differs); push to another address, or pull "
                "that one and `cxr-embed store merge` both"
            )
    elif remote.files and (foreign := remote.foreign()):
        raise StoreError(f"{remote.address}: has other objects in it ({foreign[0]}); give another folder")


def _refuse_forgotten(root: Path, header: Header, forgotten: Forgotten, address: str) -> None:
    """Refuses a store with images that are to stay out: they were forgotten there, or by this user."""
    if not forgotten:
        return
    state = states([rows for *_, rows in read_rows(root, header)])
    found = [image_id for image_id, row in state.items() if stays_out(row, forgotten)]
    if found:
        shown = ", ".join(found[:_NAMED]) + (", ..." if len(found) > _NAMED else "")
        raise StoreError(
            f"{root}: holds {counted(len(found), 'image')} that were forgotten there or elsewhere ({shown}); "
            f"`cxr-embed store pull {address} {root}` takes them out, or `cxr-embed forget` does"
        )


def stays_out(row: Row, forgotten: Forgotten) -> bool:
    """Whether an image is to stay out, by any of its names or its file."""
    return any(forgotten.covers(row.patient_id, name, row.file_digest) for name in row.names)


def _refuse_lost(shards: list[Path], header: Header, forgotten: Forgotten, remote: RemoteStore) -> None:
    """Refuses to replace shards there that hold vectors which are not here."""
    stale = [name for name in remote.complete.shards if name not in {shard.name for shard in shards}]
    if not stale:
        return
    index = ImageIndex()
    for shard in shards:
        index.fold(ShardRows.open(shard, ShardInfo.read(shard)))
    rows = [row for name in stale for row in remote.rows(name, header)]
    lost = lost_images(rows, index, forgotten)
    if lost:
        raise StoreError(
            f"{remote.address}: has {counted(len(lost), 'image')} that are not in this store ({lost[0]}); pull it "
            "first, into this store or beside it, and `cxr-embed store merge` both"
        )


def lost_images(rows: list[Row], index: ImageIndex, forgotten: Forgotten) -> list[str]:
    """Images with a vector that a store does not have, other than those that are to stay out of it."""
    return [
        row.image_id
        for row in rows
        if row.content is not None
        and row.error_kind is None
        and index.find_content(row.content) is None
        and not stays_out(row, forgotten)
    ]


def _rest(root: Path, shards: list[Path], sent: _Sender) -> Complete:
    """Sends what lies beside the shards; gives what counts afterwards."""
    names, prompts = {shard.name for shard in shards}, ""
    added = {path.name: path for shard, path in added_checksums(root).items() if shard in names}
    for name, path in added.items():
        sent.file(f"{ADDED}/{name}", path.read_bytes())
    if (root / PROMPTS).exists():
        data = (root / PROMPTS).read_bytes()
        prompts = f"prompts-{short_digest(data)}.arrow"
        sent.file(prompts, data)
    sent.file(HEADER, (root / HEADER).read_bytes())
    return Complete(tuple(shard.name for shard in shards), tuple(sorted(added)), prompts)


def _check_unchanged(root: Path, shards: list[Path], remote: RemoteStore) -> None:
    """Refuses to finish where somebody forgot, or pushed, in the meantime."""
    now = RemoteStore(remote.address, writes=True)
    theirs = now.seen != remote.seen or now.files.get(FORGOTTEN) != remote.files.get(FORGOTTEN)
    if theirs or not set(shards) <= set(shard_paths(root)):
        raise StoreError(
            f"{remote.address}: the store was changed, here or there, while it was pushed; what was there before "
            "still counts, push again"
        )


def _delete_stale(remote: RemoteStore, complete: Complete) -> int:
    """Deletes what does not count any more, after the record is there; only what a store has written."""
    kept = {*complete.paths(), *remote.foreign()}
    shards = {f"{SHARDS}/{name}" for name in complete.shards}
    stale = [path for path in remote.files if path not in kept and path.rpartition("/")[0] not in shards]
    try:
        each_at_once(lambda path: delete_object(remote.at(path)), stale)
    except RemoteError as error:
        raise StoreError(
            f"{remote.address}: pushed, but what does not count any more cannot be deleted ({error}); images that "
            "were forgotten may still lie there: push again"
        ) from None
    return len(stale)
