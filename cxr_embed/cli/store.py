"""`cxr-embed store ...`."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer

from cxr_embed.choices import ExportFormat
from cxr_embed.cli.common import RESEARCH, print_json, progress_bar
from cxr_embed.cli.options import AsJson, StorePath
from cxr_embed.cli.terminal import console
from cxr_embed.present.console import print_facts
from cxr_embed.present.numbers import format_bytes
from cxr_embed.regions import is_region_id
from cxr_embed.types import counted

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Look into, check and export stores of vectors."
)
_SHOWN = 5


@app.command("info", epilog="Example: `cxr-embed store info vectors/hog`")
def info(
    store: StorePath,
    failures: Annotated[
        bool, typer.Option("--failures", help="List every image that failed, with the reason.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what a store holds: encoder, images, failures, size."""
    from cxr_embed.store import open_store
    from cxr_embed.store.prompts import load_prompts

    opened = open_store(store)
    kept = load_prompts(opened.path, opened.header) if opened.spec.text else None
    prompts = len(kept) if kept is not None else 0
    unused = len(kept.left_out) if kept is not None else 0
    body = {**opened.describe(), "prompts": prompts, "prompts_left_out": unused}
    if as_json:
        if failures:
            body["failed"] = [vars(failure) for failure in opened.failures]
        print_json(body)
        return
    spec, unlike = opened.spec, body["unlike_chest"]
    shapes = ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in spec.outputs.items())
    patients = counted(body["patients"], "patient") if body["patients"] or not body["images"] else "unknown patients"
    lines = {
        "encoder": f"{spec.name}, revision {spec.revision} [{spec.fingerprint[:12]}]",
        "weights": f"{spec.weights_source} [{spec.weights[:12]}]"
        if spec.weights
        else spec.weights_source or "none: computed, not learned",
        "pixels": spec.preprocessing,
        "vectors": f"{shapes}, {opened.header.dtype}",
        "cells": "; ".join(f"{name}: row by row over {grid.words}" for name, grid in spec.grids.items()),
        "computed by": ", ".join(f"{engine} ({count:,})" for engine, count in opened.engines.items()) or "nothing yet",
        "images": f"{body['images']:,} of {patients} ({body['vectors']:,} different)",
        "prompts": f"{prompts:,}"
        + (f" (and {unused:,} with capitals, of an earlier release: {spec.name} reads lower case)" if unused else ""),
        "failures": f"{body['failures']:,}" + (" (--failures lists them)" if body["failures"] and not failures else ""),
        "not a chest": f"{len(unlike):,} by the look of them: {', '.join(unlike[:_SHOWN])}"
        + (", ... (--json lists them)" if len(unlike) > _SHOWN else ""),
        "equal": equal_line(body["equal_vectors"], body["unchecked_vectors"]),
        "on disk": f"{format_bytes(body['bytes'])} in {counted(body['shards'], 'shard')}, created {body['created']}",
    }
    if spec.text is None:
        del lines["prompts"]
    if not spec.grids:
        del lines["cells"]
    if not unlike:
        del lines["not a chest"]
    if not lines["equal"]:
        del lines["equal"]
    print_facts(console(), lines, 12)
    if failures:
        for failure in opened.failures:
            typer.echo(f"{failure.image_id}\t{failure.kind}\t{failure.reason}")
    typer.echo(RESEARCH)


def equal_line(groups: list[list[str]], unchecked: int = 0) -> str:
    """Images of different files with one vector, in words; blank where there are none."""
    parts = []
    if groups:
        count = sum(map(len, groups))
        named = ", ".join(
            " = ".join(group[:_SHOWN]) + (" = ..." if len(group) > _SHOWN else "") for group in groups[:2]
        )
        more = ", ..." if len(groups) > 2 else ""
        what = "files or boxes" if any(map(is_region_id, itertools.chain(*groups))) else "files"
        parts.append(
            f"{counted(count, 'image')} share {counted(len(groups), 'vector')} though their {what} differ "
            f"({named}{more}): "
            "copies saved anew, or the encoder sees no difference"
        )
    if unchecked:
        parts.append(f"not looked for among {counted(unchecked, 'vector')} of an earlier release")
    return "; ".join(parts)


@app.command("verify", epilog="Example: `cxr-embed store verify vectors/hog`")
def verify(
    store: StorePath,
    upgrade: Annotated[
        bool, typer.Option(help="Add the checksums that shards of earlier releases lack, where all is sound.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read every byte and compare checksums; exit status 1 and the shard's name where one differs."""
    from cxr_embed.store import open_store, upgrade_store, verify_store

    with progress_bar() as show:
        damage = verify_store(store, (lambda done, total: show("verifying", done, total)) if show else None)
        added = upgrade_store(store) if upgrade and not damage else 0
    unchecked = open_store(store).unchecked if not damage else 0
    if as_json:
        body = {"sound": not damage, "damage": [vars(fault) for fault in damage]}
        print_json(body if damage else {**body, "unchecked_vectors": unchecked, "upgraded_shards": added})
    elif not damage:
        opened = open_store(store)
        typer.echo(
            f"{store}: sound; {counted(len(opened), 'image')} in {counted(opened.shards, 'shard')}, every "
            "checksum matches"
        )
        if added:
            typer.echo(f"{counted(added, 'shard')} got checksums: from now on every vector is checked when it is read")
        if unchecked:
            typer.echo(
                f"note: {counted(unchecked, 'vector')} of an earlier release, not checked when read; --upgrade adds "
                "what is missing",
                err=True,
            )
    for fault in damage if not as_json else ():
        typer.echo(f"damaged: {fault.where}: {fault.what}", err=True)
    if damage:
        if not as_json:
            typer.echo(
                "restore what is damaged from a copy, or delete it (a shard: the whole store) and embed again", err=True
            )
        raise typer.Exit(1)


@app.command("export", epilog="Example: `cxr-embed store export vectors/hog hog.parquet`")
def export(
    store: StorePath,
    target: Annotated[Path, typer.Argument(help="The file, .parquet or .npz.")],
    format: Annotated[
        ExportFormat | None,
        typer.Option(
            help="npz-by-image and npz-by-prompt have one array an image, or a prompt, as Google publishes vectors: "
            "the inverse of `import`. By the file's suffix by default.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[str | None, typer.Option(help="One of the encoder's outputs; its first by default.")] = None,
    as_json: AsJson = False,
) -> None:
    """Write ids and vectors, or the prompts' vectors, to one file for other programs."""
    from cxr_embed.store import open_store
    from cxr_embed.store.export import export_store

    with progress_bar() as show:
        step = (lambda done, total: show("exporting", done, total)) if show else None
        count = export_store(open_store(store), target, output, format=format, progress=step)
    what = "prompt" if format == "npz-by-prompt" else "image"
    if as_json:
        print_json({"file": str(target), f"{what}s": count})
    else:
        typer.echo(f"{target}: {counted(count, what)}")
