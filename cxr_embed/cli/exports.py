"""`cxr-embed export ...`: cases for other programs, and until 0.4 earlier spellings of `cxr-embed store export`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from cxr_embed.choices import ExportFormat
from cxr_embed.cli import store as store_verbs
from cxr_embed.cli.common import RESEARCH, fail, print_json, progress_bar
from cxr_embed.cli.options import AsJson, IndexPath, Root, StorePath
from cxr_embed.types import counted

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Cases of an index for other programs; vectors alone are `cxr-embed store export`.",
)
Target = Annotated[Path, typer.Argument(help="A file that ends in .npz.")]


@app.command("atlas", epilog="Example: `cxr-embed export atlas index/mini cases.parquet --manifest cases/manifest.csv`")
def atlas(
    index: IndexPath,
    file: Annotated[Path, typer.Argument(help="The file; it ends in .parquet.", show_default=False)],
    neighbors: Annotated[
        int, typer.Option(min=0, help="Nearest cases that are named with each, for its list of neighbours; 0: none.")
    ] = 10,
    vectors: Annotated[
        bool, typer.Option("--vectors", help="The vectors too, of which it can make a UMAP by itself.")
    ] = False,
    thumbnails: Annotated[
        bool,
        typer.Option(
            "--thumbnails",
            help="Small pictures in the file; not of files whose header says that text is burnt in. Needs --manifest.",
        ),
    ] = False,
    manifest: Annotated[
        Path | None, typer.Option(help="Where each case's radiograph is, for --thumbnails.", show_default=False)
    ] = None,
    root: Root = None,
    as_json: AsJson = False,
) -> None:
    """Write an index's cases as Parquet for Embedding Atlas: what may be shown of each, a map, pictures.

    The map is the one of `index map`, where there is one, else by principal components. Of the manifest's columns those
    go that the case browser shows too, and no path or file name. Whoever gets the file
    has the cases' labels, and with --thumbnails their pictures.
    """
    from cxr_embed.index import CaseIndex
    from cxr_embed.index.atlas import IMAGE, NEIGHBORS, X, Y, check_atlas, export_atlas
    from cxr_embed.web.columns import columns_of
    from cxr_embed.web.keeping import inlined_pictures

    if thumbnails and manifest is None:
        fail("--thumbnails needs --manifest: the table that says where each case's radiograph is", 2)
    if not thumbnails and (manifest is not None or root is not None):
        fail("--manifest and --root are for --thumbnails: nothing else is read from radiographs", 2)
    opened = CaseIndex(index)
    columns = columns_of(opened).names
    check_atlas(opened, file, columns)
    write = partial(export_atlas, opened, file, columns, neighbors=neighbors, vectors=vectors)
    left_out: dict[str, int] = {}
    with progress_bar() as progress:
        if thumbnails and manifest is not None:
            with inlined_pictures(opened, manifest, root, left_out) as picture:
                write(picture=picture, progress=progress)
        else:
            write(progress=progress)
    options = ["--x", X, "--y", Y, *(["--neighbors", NEIGHBORS] if neighbors else [])]
    options += ["--image", IMAGE] if thumbnails else []
    if as_json:
        body = {"file": str(file), "cases": len(opened), "columns": list(columns), "left_out": left_out}
        print_json({**body, "options": options})
        return
    for why, number in left_out.items():
        typer.echo(f"note: {counted(number, 'case')} without a picture: {why}")
    typer.echo(f"{file}: {counted(len(opened), 'case')}; opened by: embedding-atlas {file} {' '.join(options)}")
    typer.echo(RESEARCH)


@app.command(
    "npz", hidden=True, epilog="Example: `cxr-embed store export vectors/cxr vectors.npz --format npz-by-image`"
)
def npz(store: StorePath, file: Target, output: Annotated[str | None, typer.Option()] = None) -> None:
    """Write one array an image: `cxr-embed store export --format npz-by-image`."""
    _export("npz", store, file, "npz-by-image", output)


@app.command(
    "prompts", hidden=True, epilog="Example: `cxr-embed store export vectors/cxr prompts.npz --format npz-by-prompt`"
)
def prompts(store: StorePath, file: Target) -> None:
    """Write one array a prompt: `cxr-embed store export --format npz-by-prompt`."""
    _export("prompts", store, file, "npz-by-prompt", None)


def _export(name: str, store: Path, file: Path, format: ExportFormat, output: str | None) -> None:
    typer.echo(f"note: `export {name}` is `store export --format {format}` now, and goes in 0.4", err=True)
    store_verbs.export(store, file, format=format, output=output)
