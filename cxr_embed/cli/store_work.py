"""`cxr-embed store status` and `cxr-embed store compact`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_embed.cli.common import fail, print_json, progress_bar
from cxr_embed.cli.options import AsJson, Extra, KeyFile, StorePath
from cxr_embed.cli.terminal import console
from cxr_embed.present.console import print_facts
from cxr_embed.present.numbers import format_duration
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.pipeline.status import PartsStatus, StoreStatus
    from cxr_embed.store.presence import Seen

STATUS_EXAMPLE = "Example: `cxr-embed store status vectors/hog --manifest data/manifest.csv`"
COMPACT_EXAMPLE = "Example: `cxr-embed store compact vectors/hog`"
_SHOWN = 20
_LOOK_AGAIN = 5.0  # seconds


def status(
    store: StorePath,
    manifest: Annotated[Path, typer.Option(help="CSV or Parquet: what is to be in the store.")],
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again every few seconds, until nothing is missing or Ctrl-C.")
    ] = False,
    extra: Extra = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Say how much of a manifest is embedded, what failed, what is missing, and who is at work on it.

    Counts by image id, from the store alone: no radiograph is opened. With --watch and --json, a line of JSON a look.
    """
    from cxr_embed.manifest import read_manifest
    from cxr_embed.pipeline.status import store_status

    if not store.is_dir() and store.exists():
        fail(f"{store}: not a folder")
    table = read_manifest(manifest, extra=extra or ())
    while True:
        found = store_status(store, table, key_file)
        if not as_json:
            _print_status(found)
        elif watch:
            typer.echo(json.dumps(found.to_json()))
        else:
            print_json(found.to_json())
        if not watch or not found.missing:
            return
        try:
            time.sleep(_LOOK_AGAIN)
        except KeyboardInterrupt:
            return


def _print_status(found: StoreStatus) -> None:
    whole = max(1, found.images)
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in found.failed.items())
    lines = {
        "images": f"{found.images:,} in the manifest",
        "embedded": f"{found.embedded:,} ({found.embedded / whole:.0%})",
        "failed": f"{sum(found.failed.values()):,}" + (f" ({kinds})" if kinds else ""),
        "forgotten": f"{found.forgotten:,}",
        "missing": f"{found.missing:,}",
    }
    if not found.forgotten:
        del lines["forgotten"]
    if found.parts is not None:
        lines["parts"] = _parts_line(found.parts)
    lines["at work"] = "; ".join(map(_at_work, found.writers[:_SHOWN])) or "nobody"
    if (more := len(found.writers) - _SHOWN) > 0:
        lines["at work"] += f"; and {more:,} more"
    if found.seconds_left is not None:
        lines["rate"] = f"{found.rate:,.1f} images/s, about {format_duration(found.seconds_left)} left"
    print_facts(console(), lines, 9)


def _parts_line(parts: PartsStatus) -> str:
    line = f"of {parts.of:,}: {len(parts.done):,} done"
    for what, numbers in (("at work", parts.at_work), ("missing", parts.missing)):
        if numbers:
            named = ", ".join(map(str, numbers[:_SHOWN])) + (", ..." if len(numbers) > _SHOWN else "")
            line += f"; {len(numbers):,} {what} ({named})"
    return line


def _at_work(seen: Seen) -> str:
    body = seen.body
    part = f", part {body['part']}" if body.get("part") else ""
    done = f": {body['done']:,} of {body['images']:,}" if "images" in body else ""
    rate = f", {body['rate']:,.1f} images/s" if body.get("rate") else ""
    return f"{seen.who}{part}{done}{rate}"


def compact(store: StorePath, as_json: AsJson = False) -> None:
    """Write small shards together, and vectors that several writers made of one content once.

    Every image keeps its vector, and the store opens faster. Nobody may write meanwhile; readers may read. The disk
    holds both, the old shards and the new ones, until it is done. Killed, it leaves the store as it was, or done.
    """
    from cxr_embed.store.compact import compact_store

    with progress_bar() as show:
        done = compact_store(store, (lambda at, total: show("compacting", at, total)) if show else None)
    if as_json:
        print_json({"shards_before": done.before, "shards": done.after, "repeated_vectors": done.repeated})
        return
    out = f"; {counted(done.repeated, 'vector')} of known content left out" if done.repeated else ""
    typer.echo(f"{store}: {counted(done.before, 'shard')} before, {done.after:,} now{out}")
