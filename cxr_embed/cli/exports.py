"""`cxr-embed export ...`: until 0.4, earlier spellings of `cxr-embed store export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_embed.choices import ExportFormat
from cxr_embed.cli import store as store_verbs
from cxr_embed.cli.options import StorePath

app = typer.Typer(no_args_is_help=True, help="Earlier spellings of `cxr-embed store export`.")
Target = Annotated[Path, typer.Argument(help="A file that ends in .npz.")]


@app.command("npz", epilog="Example: `cxr-embed store export vectors/cxr vectors.npz --format npz-by-image`")
def npz(store: StorePath, file: Target, output: Annotated[str | None, typer.Option()] = None) -> None:
    """Write one array an image: `cxr-embed store export --format npz-by-image`."""
    _export("npz", store, file, "npz-by-image", output)


@app.command("prompts", epilog="Example: `cxr-embed store export vectors/cxr prompts.npz --format npz-by-prompt`")
def prompts(store: StorePath, file: Target) -> None:
    """Write one array a prompt: `cxr-embed store export --format npz-by-prompt`."""
    _export("prompts", store, file, "npz-by-prompt", None)


def _export(name: str, store: Path, file: Path, format: ExportFormat, output: str | None) -> None:
    typer.echo(f"note: `export {name}` is `store export --format {format}` now, and goes in 0.4", err=True)
    store_verbs.export(store, file, format=format, output=output)
