"""`cxr-embed manifest merge`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from cxr_embed.choices import SameImageIds, SameImages, SamePatients
from cxr_embed.cli.common import print_json, progress_bar
from cxr_embed.cli.options import AsJson, Extra
from cxr_embed.types import counted

EXAMPLE = "Example: `cxr-embed manifest merge nih.csv chexpert.csv --out both.csv --common`"


def merge(
    manifests: Annotated[list[Path], typer.Argument(help="Two manifests or more.", show_default=False)],
    out: Annotated[
        Path | None, typer.Option(help="CSV or Parquet to write; nothing is written without it.", show_default=False)
    ] = None,
    source: Annotated[
        list[str] | None,
        typer.Option(
            help="Name of a data set, once for each in their order; their recipes' or files' by default.",
            show_default=False,
        ),
    ] = None,
    common: Annotated[
        bool, typer.Option("--common", help="Keep only findings of the vocabulary that every data set labels.")
    ] = False,
    image_ids: Annotated[
        SameImageIds, typer.Option(help="An id of two different images; prefix: the data set's name before every id.")
    ] = "refuse",
    patients: Annotated[
        SamePatients,
        typer.Option(help="A patient's id in two data sets; same: one person, prefix: the data set's name before all."),
    ] = "refuse",
    overlap: Annotated[
        SameImages, typer.Option(help="An image of two data sets, by its bytes; first: only the first one's row stays.")
    ] = "refuse",
    check_content: Annotated[
        bool, typer.Option("--check-content/--no-check-content", help="Compare the files of the data sets.")
    ] = True,
    drop: Annotated[
        list[str] | None, typer.Option(help="A column to leave out (repeatable).", show_default=False)
    ] = None,
    extra: Extra = None,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder that paths are to be relative to; the deepest above all data sets by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Join data sets to one manifest, whose column source says which is which.

    Findings that are one by the vocabulary of findings become one column under its name; one that a data set does not
    label is blank there. What could mix up people or tests is refused until it is decided: an id of two images, a
    patient's id in two data sets, an image in two. An image or a patient in two splits is always refused.
    """
    from cxr_embed.api.merge import merge_manifests
    from cxr_embed.manifest import companion_path

    with progress_bar() as bar:
        made = merge_manifests(
            manifests,
            out=out,
            source=source or (),
            common=common,
            image_ids=image_ids,
            patients=patients,
            overlap=overlap,
            check_content=check_content,
            drop=drop or (),
            extra=extra or (),
            root=root,
            progress=bar,
        )
    if as_json:
        print_json(made.to_json())
        return
    body = made.to_json()
    parts = ", ".join(f"{name} {count:,}" for name, count in made.images.items())
    typer.echo(f"{counted(len(made), 'image')} of {counted(body['patients'], 'patient')}: {parts}")
    typer.echo(f"findings: {', '.join(made.manifest.findings) or 'none'}")
    for note in made.notes:
        typer.echo(f"note: {note}", err=True)
    if out is None:
        typer.echo("nothing written; `--out FILE` writes it")
        return
    typer.echo(f"written: {out}, {companion_path(out)}; paths are relative to {os.path.relpath(made.manifest.root)}")
