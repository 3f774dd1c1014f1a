"""A store at an address to this machine: what is missing here is copied, verified, and published at once.

Shards are fetched into `pulling/` inside the store, where a pull that was killed goes on; there whoever is to stay out
is taken out of them. `pulling/` is a store of its own while it is there, so that `forget` reaches it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_embed.errors import StoreError
from cxr_embed.io.digests import file_record, short_digest
from cxr_embed.io.files import not_local, sync, write_whole
from cxr_embed.io.objects import each_at_once
from cxr_embed.store.added import ADDED, added_checksums, read_added, write_added
from cxr_embed.store.forgotten import FORGOTTEN, Forgotten, carry_forgotten, gather_forgotten
from cxr_embed.store.image_index import ImageIndex, ShardRows
from cxr_embed.store.layout import (
    HEADER,
    INCOMING,
    LOCK,
    PULLING,
    SHARD_JSON,
    SHARDS,
    UNREAD,
    WRITERS,
    Header,
    ShardInfo,
    partial_shard,
    shard_paths,
)
from cxr_embed.store.presence import alone
from cxr_embed.store.prompts import PROMPTS, Prompts, join_prompts, load_prompts
from cxr_embed.store.push import lost_images
from cxr_embed.store.remote import COMPLETE, RemoteStore
from cxr_embed.store.rewrite import finish, read_rows, replace_shards, take_out
from cxr_embed.types import counted

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class PulledStore:
    """What a pull did.

    Attributes:
        path: the store.
        shards: that it has now.
        copied: that came from there.
        bytes: that were received.
        images: with a vector.
        left_out: images that were there, or here before, and are to stay out.
    """

    path: str
    shards: int
    copied: int
    bytes: int
    images: int
    left_out: int

    def to_json(self) -> dict[str, Any]:
        """What `store pull --json` prints."""
        return dict(vars(self))


def pull_store(
    address: str,
    path: str | os.PathLike[str],
    *,
    key_file: Path | None = None,
    progress: Progress | None = None,
) -> PulledStore:
    """Copies a store from an address, or what an earlier copy of it lacks.

    Images that were forgotten there, here or by this user stay out of it; so does whoever was in the earlier copy.

    Args:
        address: `s3://bucket/folder`, `gs://...` or `az://...`.
        path: the store's folder; made where it is missing.
        key_file: the key of the patient ids, where patients were forgotten; the user's own by default.
        progress: called with the shards done and their number.

    Raises:
        StoreError: where no whole store is there, another one is here, or one with images that are not there; where
            something is damaged, or cannot be read or written.
    """
    root = Path(path)
    if (why := not_local(root)) is not None:
        raise StoreError(why)
    remote = RemoteStore(address, writes=False)
    if not remote.seen or HEADER not in remote.files:
        raise StoreError(f"{remote.address}: no whole store there ({COMPLETE} is missing: was it pushed to the end?)")
    data = remote.read(HEADER)
    _check_folder(root, data, remote.address)
    gather_forgotten(root, key_file=key_file)  # refuses before there is a folder
    try:
        with alone(root, "store pull") as ours:
            pull = _Pull(root, remote, data, key_file)
            pull.fetch(progress)
            if ours.lost:
                raise StoreError(f"{root}: this process stood still for too long, and others came; pull again")
            left_out = pull.publish()
            prompts = pull.prompts()
            shutil.rmtree(pull.aside)
    except OSError as error:
        raise StoreError(
            f"{root}: cannot be written ({error.strerror}); what was there is as it was, pull again to go on"
        ) from None
    if prompts is not None:
        join_prompts(root, prompts)
    shards = shard_paths(root)
    return PulledStore(
        path=str(root),
        shards=len(shards),
        copied=pull.copied,
        bytes=pull.bytes,
        images=len(_index(shards)),
        left_out=left_out,
    )


def _check_folder(root: Path, header: bytes, address: str) -> None:
    """Refuses a folder with something else in it."""
    if (root / HEADER).is_file():
        if (root / HEADER).read_bytes() != header:
            raise StoreError(
                f"{root}: another store than that at {address} (their {HEADER} differ); pull into a new folder, "
                "and `cxr-embed store merge` both"
            )
    elif root.exists():
        ours = {LOCK, SHARDS, INCOMING, WRITERS, ADDED, FORGOTTEN, PULLING, UNREAD, PROMPTS}
        others = [name for name in sorted(os.listdir(root)) if name not in ours] if root.is_dir() else [root.name]
        if others:
            raise StoreError(f"{root}: a folder with other files in it ({others[0]}); give a new one")


class _Pull:
    """A pull while it lasts, alone at the store."""

    def __init__(self, root: Path, remote: RemoteStore, header: bytes, key_file: Path | None) -> None:
        self.root, self.remote, self.aside, self._key_file = root, remote, root / PULLING, key_file
        self.copied = self.bytes = 0
        (self.aside / SHARDS).mkdir(parents=True, exist_ok=True)
        (root / SHARDS).mkdir(exist_ok=True)
        finish(root)
        finish(self.aside)
        (self.aside / HEADER).write_bytes(header)
        self.header = Header.read(self.aside)
        (self.aside / FORGOTTEN).unlink(missing_ok=True)
        if FORGOTTEN in remote.files:
            (self.aside / FORGOTTEN).write_bytes(remote.read(FORGOTTEN))
        self.forgotten = self._gather()

    def _gather(self) -> Forgotten:
        return gather_forgotten(self.root, self.aside, key_file=self._key_file)

    def fetch(self, progress: Progress | None) -> None:
        """Brings all shards that count into `pulling/`, those that are here by links."""
        here = {shard.name: shard for shard in shard_paths(self.root)}
        wanted = self.remote.complete.shards
        for shard in shard_paths(self.aside):  # of a pull that was killed
            if shard.name not in wanted:
                shutil.rmtree(shard)
        for done, name in enumerate(wanted, 1):
            target = self.aside / SHARDS / name
            if name in here:
                if not target.exists():
                    _link(here[name], partial_shard(self.aside), target)
            elif not _is_whole(target):
                self._fetch(name, target)
            if progress is not None:
                progress(done, len(wanted))
        self._fetch_rest()

    def _fetch_rest(self) -> None:
        """Brings what lies beside the shards."""
        (self.aside / ADDED).mkdir(exist_ok=True)
        for name in self.remote.complete.checksums:
            path = self.aside / ADDED / name
            path.write_bytes(self.remote.read(f"{ADDED}/{name}"))
            read_added(path)
        if name := self.remote.complete.prompts:
            data = self.remote.read(name)
            if short_digest(data) not in name:
                raise StoreError(f"{self.remote.at(name)}: damaged, its digest does not match its name; push it again")
            (self.aside / PROMPTS).write_bytes(data)

    def _fetch(self, name: str, target: Path) -> None:
        """A shard, each file held against the record; it gets its name when it is whole and on the disk."""
        shutil.rmtree(target, ignore_errors=True)
        partial = partial_shard(self.aside)
        info, record = self.remote.info(name, self.header)

        def fetch(file: str) -> int:
            data = self.remote.file(name, file, info.files[file])
            (partial / file).write_bytes(data)
            sync(partial / file)
            return len(data)

        self.bytes += sum(each_at_once(fetch, info.files)) + len(record)
        (partial / SHARD_JSON).write_bytes(record)
        sync(partial / SHARD_JSON)
        os.rename(partial, target)
        sync(target.parent)
        self.copied += 1

    def publish(self) -> int:
        """Puts what was fetched in the place of what was here, by one rename; how many images stay out."""
        before = shard_paths(self.root)
        left_out = 0
        self.forgotten = self._gather()  # fetching may take hours
        if self.forgotten:
            left_out = take_out(self.aside, self.forgotten.covers).images
        shards = shard_paths(self.aside)
        index = _index(shards)
        index.places()  # no row refers to what is not there
        names = {shard.name for shard in shards}
        stale = [shard for shard in before if shard.name not in names]
        self._refuse_lost(stale, index)
        carry_forgotten([self.aside], self.root / FORGOTTEN, self.forgotten)
        here = {shard.name for shard in before}
        new = [(shard, shard.name) for shard in shards if shard.name not in here]
        added = added_checksums(self.aside)
        if new or stale:
            replace_shards(self.root, new, [shard.name for shard in stale])
        for name in added.keys() & names - added_checksums(self.root).keys():
            write_added(self.root / SHARDS / name, read_added(added[name]))
        if not (self.root / HEADER).exists():
            write_whole(self.root / HEADER, (self.aside / HEADER).read_bytes())
        return left_out

    def _refuse_lost(self, stale: list[Path], index: ImageIndex) -> None:
        """Refuses to replace shards here that hold vectors which are not there."""
        if not stale or not (self.root / HEADER).exists():
            return
        rows = [row for path, *_, rows in read_rows(self.root, self.header) if path in stale for row in rows]
        if lost := lost_images(rows, index, self.forgotten):
            raise StoreError(
                f"{self.root}: has {counted(len(lost), 'image')} that are not at {self.remote.address} "
                f"({lost[0]}); push it first, or pull into a new folder and `cxr-embed store merge` both"
            )

    def prompts(self) -> Prompts | None:
        """The prompts that were there; None where there are none."""
        return load_prompts(self.aside, self.header) if self.remote.complete.prompts else None


def _index(shards: list[Path]) -> ImageIndex:
    index = ImageIndex()
    for shard in shards:
        index.fold(ShardRows.open(shard, ShardInfo.read(shard)))
    return index


def _is_whole(shard: Path) -> bool:
    """Whether an earlier pull fetched a shard, byte by byte."""
    try:
        info = ShardInfo.read(shard)
        return all(file_record(shard / name) == record for name, record in info.files.items())
    except (OSError, StoreError, ValueError, TypeError):
        return False


def _link(shard: Path, partial: Path, target: Path) -> None:
    """The same shard at another place, without its bytes twice where the file system has links."""
    for file in shard.iterdir():
        try:
            os.link(file, partial / file.name)
        except OSError:
            shutil.copyfile(file, partial / file.name)
    os.rename(partial, target)
