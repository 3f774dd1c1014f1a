"""`cxr-embed index push`."""

from __future__ import annotations

from typing import Annotated

import typer

from cxr_embed.choices import IndexPooling
from cxr_embed.cli.common import RESEARCH, print_json, progress_bar
from cxr_embed.cli.index import ManifestPath
from cxr_embed.cli.options import AsJson, Extra, KeyFile, StorePath
from cxr_embed.types import counted

EXAMPLE = (
    "Example: `cxr-embed index push vectors/hog --manifest data/manifest.csv --uri http://localhost:19530 "
    "--collection cases`"
)


def push(
    store: StorePath,
    uri: Annotated[str, typer.Option(help="http://HOST:PORT, or a file of the embedded Milvus (.db).")],
    collection: Annotated[str, typer.Option(help="Made where it is missing.")],
    manifest: ManifestPath = None,
    extra: Extra = None,
    output: Annotated[
        str | None,
        typer.Option(help="One of the encoder's outputs; the one that words are compared with, else its first."),
    ] = None,
    pool: Annotated[
        IndexPooling | None,
        typer.Option(help="Of several vectors an image: mean makes one of them.", show_default=False),
    ] = None,
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Put cases of a store into Milvus, where `cxr-embed search --engine milvus` finds them.

    A push that was stopped is simply pushed again: what is there as it should be is left alone, and no case is ever
    there twice. A secured server's token is read from the environment variable MILVUS_TOKEN.
    """
    from cxr_embed.index.milvus.push import push as push_cases
    from cxr_embed.manifest import read_labels
    from cxr_embed.store import open_store

    opened = open_store(store)
    cases = read_labels(manifest, extra=extra or ()) if manifest is not None else None
    with progress_bar() as progress:
        pushed = push_cases(
            opened, cases, uri, collection, output=output, pool=pool, key_file=key_file, progress=progress
        )
    if as_json:
        print_json({"uri": uri, "collection": collection, **vars(pushed)})
        return
    for note in pushed.notes:
        typer.echo(f"note: {note}")
    typer.echo(
        f"{counted(pushed.images, 'image')}: {pushed.added:,} added, {pushed.replaced:,} replaced, "
        f"{pushed.unchanged:,} unchanged"
    )
    typer.echo(f"{uri}, {collection}: {counted(pushed.cases, 'case')}, index {pushed.index}")
    typer.echo(RESEARCH)
