"""`cxr-embed store push`, `pull` and `merge`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_embed.cli.common import print_json, progress_bar
from cxr_embed.cli.options import AsJson, KeyFile, StorePath
from cxr_embed.present.numbers import format_bytes
from cxr_embed.types import counted

PUSH_EXAMPLE = "Example: `cxr-embed store push vectors/mini s3://bucket/vectors/mini`"
PULL_EXAMPLE = "Example: `cxr-embed store pull s3://bucket/vectors/mini vectors/mini`"
MERGE_EXAMPLE = "Example: `cxr-embed store merge vectors/a vectors/b --out vectors/both`"
Address = Annotated[
    str,
    typer.Argument(help="s3://bucket/folder, gs://bucket/folder or az://container/folder.", show_default=False),
]


def push(store: StorePath, address: Address, key_file: KeyFile = None, as_json: AsJson = False) -> None:
    """Copy a store to a bucket: shards that are missing there, verified; the record that makes them count comes last.

    Run it again after more images were embedded, or after a kill: it goes on. Images that were forgotten here are
    deleted there; a store with images that were forgotten there is refused. Credentials come from where the service's
    own tools have them (environment, ~/.aws, gcloud, az). Needs `cxr-embed[remote]` and s3fs, gcsfs or adlfs.
    """
    from cxr_embed.store.push import push_store

    with progress_bar() as show:
        step = (lambda done, total: show("sending shards", done, total)) if show else None
        done = push_store(store, address, key_file=key_file, progress=step)
    if as_json:
        print_json(done.to_json())
        return
    deleted = f", {counted(done.deleted, 'object')} deleted that did not count any more" if done.deleted else ""
    typer.echo(f"{done.address}: {counted(done.shards, 'shard')}, {_sent(done.copied, done.bytes, 'sent')}{deleted}")


def pull(
    address: Address,
    store: Annotated[Path, typer.Argument(help="The store's folder; made where it is missing.", show_default=False)],
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Copy a store from a bucket, or what an earlier copy of it lacks; every byte is held against its checksum.

    Images that were forgotten there, here or by you stay out, and leave an earlier copy. What is fetched counts at once
    and as a whole; after a kill the same command goes on.
    """
    from cxr_embed.store.pull import pull_store

    with progress_bar() as show:
        step = (lambda done, total: show("fetching shards", done, total)) if show else None
        done = pull_store(address, store, key_file=key_file, progress=step)
    if as_json:
        print_json(done.to_json())
        return
    out = f", {done.left_out:,} left out that were forgotten" if done.left_out else ""
    typer.echo(f"{done.path}: {counted(done.images, 'image')} in {counted(done.shards, 'shard')}{out}")
    typer.echo(_sent(done.copied, done.bytes, "fetched"))


def merge(
    stores: Annotated[list[Path], typer.Argument(help="Two stores or more, of one encoder.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The new store's folder.", show_default=False)],
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Join stores of one encoder, dtype and precision into a new one.

    An image that several have counts once; an id that is another file, or another patient's, in two of them is refused.
    Who was forgotten in one of them stays out, and on the new store's list.
    """
    from cxr_embed.store.merge import merge_stores

    with progress_bar() as show:
        step = (lambda done, total: show("merging shards", done, total)) if show else None
        done = merge_stores(stores, out, key_file=key_file, progress=step)
    if as_json:
        print_json(done.to_json())
        return
    parts = [f"{counted(done.vectors, 'vector')}"]
    parts += [f"{done.same:,} in several of the stores"] if done.same else []
    parts += [f"{done.failures:,} failed"] if done.failures else []
    parts += [f"{done.left_out:,} left out that were forgotten"] if done.left_out else []
    typer.echo(f"{done.path}: {counted(done.images, 'image')} ({', '.join(parts)})")


def _sent(shards: int, size: int, verb: str) -> str:
    return (
        f"{counted(shards, 'shard')} {verb} ({format_bytes(size)})" if shards or size else f"nothing had to be {verb}"
    )
