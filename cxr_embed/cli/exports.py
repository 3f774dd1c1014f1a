"""`cxr-embed export ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cxr_embed.cli.common import plural, progress_bar

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Write vectors as Google publishes them: one array an image, or a prompt. The inverse of `import`.",
)
StorePath = Annotated[Path, typer.Argument(help="The store's folder.")]
Target = Annotated[Path, typer.Argument(help="A file that ends in .npz.")]


@app.command("npz", epilog="Example: `cxr-embed export npz vectors/cxr vectors.npz`")
def npz(
    store: StorePath,
    file: Target,
    output: Annotated[str | None, typer.Option(help="One of the encoder's outputs; its first by default.")] = None,
) -> None:
    """Write one flat float32 array an image, its key the image's id.

    Patients are not in this layout; `cxr-embed store export` writes them, and one array of all vectors.
    """
    from cxr_embed.store import open_store
    from cxr_embed.store.export import export_npz

    with progress_bar() as show:
        told = (lambda done, total: show("exporting", done, total)) if show else None
        count = export_npz(open_store(store), file, output, told)
    typer.echo(f"{file}: {plural(count, 'image')}")


@app.command("prompts", epilog="Example: `cxr-embed export prompts vectors/cxr prompts.npz`")
def prompts(store: StorePath, file: Target) -> None:
    """Write one float32 array a prompt, its key the prompt."""
    from cxr_embed.store import open_store
    from cxr_embed.store.export import export_prompts

    typer.echo(f"{file}: {plural(export_prompts(open_store(store), file), 'prompt')}")
