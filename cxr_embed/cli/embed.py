"""`cxr-embed embed`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

import typer

from cxr_embed.choices import Colour, Crop, Dtype, EmbedEngine, PrecisionChoice, Preparation
from cxr_embed.cli.common import fail, print_json
from cxr_embed.cli.embed_progress import embedding_bar
from cxr_embed.cli.options import AsJson, Device, Extra, KeyFile, Root, Weights, listed, picture_size
from cxr_embed.present.numbers import format_bytes
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.api.crop import CroppedManifest
    from cxr_embed.pipeline.embedding import Plan
    from cxr_embed.pipeline.summary import EmbedSummary

EXAMPLE = "Example: `cxr-embed embed data/manifest.csv --store vectors/mini`"
_SHOWN_FAILURES = 10
_SHOWN_UNLIKE = 5


def embed(
    manifest: Annotated[Path, typer.Argument(help="CSV or Parquet; one row a radiograph.")],
    store: Annotated[Path, typer.Option(help="Folder of the vectors; made where it is missing.")],
    encoder: Annotated[
        str, typer.Option(help="A name from `cxr-embed encoders`, or package.module:function.")
    ] = "mini",
    weights: Weights = None,
    outputs: Annotated[
        str | None, typer.Option(help="Which of the encoder's outputs to store, e.g. features,map.")
    ] = None,
    pixels: Annotated[str | None, typer.Option(help="Which of the encoder's pixel recipes to use.")] = None,
    prepare: Annotated[
        Preparation | None, typer.Option(help="stretch: values fill their range first (own store).")
    ] = None,
    crop: Annotated[
        Crop | None,
        typer.Option(
            help="boxes: embed what is inside boxes, a row a box, image_id#1, #2, ...; a manifest of them is written "
            "beside the store."
        ),
    ] = None,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="For --crop: boxes (.csv, .parquet), COCO's or CheXlocalize's JSON, or a folder of masks "
            "FINDING/IMAGE_ID.png; what the manifest's companion names by default.",
            show_default=False,
        ),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option(help="For --crop: boxes of a detector that it scored at least so high.")
    ] = None,
    drawn_on: Annotated[
        str | None,
        typer.Option(
            help="For --crop: width and height of the pictures that boxes or masks were drawn on, e.g. 1024x1024, if "
            "these are not the manifest's."
        ),
    ] = None,
    colour: Annotated[Colour, typer.Option(help="grey: read tinted or marked films as grey.")] = "refuse",
    device: Device = "auto",
    precision: Annotated[PrecisionChoice, typer.Option(help="auto takes the fastest that is native here.")] = "auto",
    dtype: Annotated[Dtype | None, typer.Option(help="float16 by default.", show_default=False)] = None,
    batch_size: Annotated[str, typer.Option(help="Images at once; halved when memory runs out.")] = "auto",
    workers: Annotated[str, typer.Option(help="Processes; auto takes one a core.")] = "auto",
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many rows.")] = None,
    part: Annotated[
        str | None,
        typer.Option(
            help="Only one part of so many, such as 3/16, by a hash of the image id: processes may do the others at "
            "the same time, into the same store. env: which one a Slurm array says.",
            show_default=False,
        ),
    ] = None,
    root: Root = None,
    follow_links: Annotated[
        bool, typer.Option("--follow-links", help="Also read files outside the root that links lead to.")
    ] = False,
    extra: Extra = None,
    key_file: KeyFile = None,
    engine: Annotated[EmbedEngine, typer.Option(help="ray: actors of a Ray cluster, which share the store.")] = "local",
    address: Annotated[
        str | None,
        typer.Option(help="For --engine ray: HOST:PORT of a cluster's head, or auto; without it Ray runs here alone."),
    ] = None,
    actors: Annotated[
        int | None, typer.Option(min=1, help="For --engine ray: how many; one a device by default.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    as_json: AsJson = False,
) -> None:
    """Embed every radiograph of a manifest that the store does not hold yet.

    Files are known by their content: run it again and only new ones are read. A broken file never stops the run: it
    is named at the end, and the exit status is 1. Ctrl-C keeps what is done; the next run goes on from there.
    Any number of runs may write to one store at once. --device cuda:0,cuda:1 has an engine on each of several GPUs.
    """
    recipe: dict[str, Any] = {"weights": weights, "outputs": listed(outputs), "pixels": pixels, "prepare": prepare}
    recipe["dtype"] = dtype
    where: dict[str, Any] = {"engine": engine, "address": address, "actors": actors}
    drawn = _Drawn(boxes, min_score, picture_size(drawn_on))
    cropped = _cropped(manifest, root, extra or (), crop, drawn, None if dry_run else store)
    if dry_run:
        from cxr_embed.manifest import read_manifest
        from cxr_embed.pipeline.embedding import plan_embedding

        table = cropped.manifest if cropped is not None else read_manifest(manifest, root=root, extra=extra or ())
        plan = plan_embedding(table, encoder=encoder, store=store, limit=limit, part=part, key_file=key_file, **recipe)
        print_json(vars(plan)) if as_json else _print_plan(plan)
        return
    from cxr_embed.api.embed import embed as run

    with embedding_bar() as progress:
        opened = run(
            cropped.manifest if cropped is not None else manifest,
            encoder,
            store,
            root=root,
            extra=extra or (),
            device=device,
            precision=precision,
            **recipe,
            colour=colour,
            follow_links=follow_links,
            batch_size=_count("--batch-size", batch_size),
            workers=_count("--workers", workers),
            limit=limit,
            part=part,
            key_file=key_file,
            **where,
            progress=progress,
        )
    summary = opened.summary
    if as_json:
        regions = {"regions": cropped.to_json()} if cropped is not None else {}
        print_json({**summary.to_json(), "weights": opened.spec.weights_source, **regions})
    else:
        if cropped is not None:
            _print_regions(cropped)
        _print_summary(summary, store, opened.spec.weights_source)
    if summary.interrupted or summary.failed:
        raise typer.Exit(130 if summary.interrupted else 1)


class _Drawn(NamedTuple):
    """Where the boxes of `--crop` are."""

    boxes: Path | None
    min_score: float | None
    drawn_on: tuple[int, int] | None


def _cropped(
    manifest: Path, root: Path | None, extra: Sequence[str], crop: Crop | None, drawn: _Drawn, store: Path | None
) -> CroppedManifest | None:
    """The manifest of regions, written beside the store; None for whole pictures, or for regions that it has itself."""
    if crop is None:
        if drawn != (None, None, None):
            fail("--boxes, --min-score and --drawn-on go with --crop boxes", 2)
        return None
    from cxr_embed.api.crop import crop_manifest
    from cxr_embed.images import is_cropped
    from cxr_embed.manifest import read_manifest
    from cxr_embed.store import Store
    from cxr_embed.store.layout import HEADER

    table = read_manifest(manifest, root=root, extra=extra)
    if drawn == (None, None, None) and table.has_regions:
        return None
    if drawn.boxes is None and (table.companion is None or table.companion.boxes is None):
        fail("--crop boxes needs --boxes, a table of boxes: the manifest's companion names none", 2)
    options: dict[str, Any] = {"root": root, "extra": extra, **drawn._asdict()}
    # `embed` refuses a store of whole pictures: no table may be left beside it.
    other = store is not None and (store / HEADER).exists() and not is_cropped(Store(store).spec)
    out = store.with_name(f"{store.name}.csv") if store is not None and not other else None
    return crop_manifest(manifest, out=out, **options)


def _print_regions(cropped: CroppedManifest) -> None:
    typer.echo(cropped.line)
    for note in cropped.notes:
        typer.echo(f"note: {note}")


def _print_plan(plan: Plan) -> None:
    out = f", {plan.forgotten:,} forgotten" if plan.forgotten else ""
    size = f" (about {format_bytes(plan.bytes_ahead)} of vectors)" if plan.to_read else ""
    typer.echo(
        f"{counted(plan.images, 'image')}: {plan.unchanged:,} unchanged, {plan.to_read:,} to read{size}, "
        f"{plan.missing:,} missing{out}. Nothing was done."
    )


def _count(option: str, text: str) -> int | Literal["auto"]:
    if text == "auto":
        return "auto"
    if text.isascii() and text.isdigit() and int(text) > 0:
        return int(text)
    return fail(f"{option} is auto or a whole number from 1, not {text!r}", 2)


def _print_summary(summary: EmbedSummary, store: Path, weights: str) -> None:
    from cxr_embed.cli.store import equal_line
    from cxr_embed.images import NOTES

    typer.echo(summary.counts)
    if summary.engine:
        typer.echo(f"engine: {summary.engine}, batches of {summary.batch_size}")
    if weights:
        typer.echo(f"weights: {weights}")
    typer.echo(f"{store}: {counted(summary.stored, 'image')} with a vector")
    if unlike := sorted(summary.unlike_chest):
        named = ", ".join(unlike[:_SHOWN_UNLIKE]) + (", ..." if len(unlike) > _SHOWN_UNLIKE else "")
        verb = "does not look like a chest radiograph" if len(unlike) == 1 else "do not look like chest radiographs"
        typer.echo(f"note: {counted(len(unlike), 'image')} {verb} ({named}); embedded all the same")
    if summary.equal_vectors:
        typer.echo(f"note: {equal_line(summary.equal_vectors)}")
    for note in summary.notes:
        typer.echo(f"note: {note}")
    for note, ids in sorted(summary.odd_files.items()):
        named = ", ".join(sorted(ids)[:_SHOWN_UNLIKE]) + (", ..." if len(ids) > _SHOWN_UNLIKE else "")
        typer.echo(f"note: {counted(len(ids), 'image')} {NOTES[note]} ({named})")
    for failure in summary.failed[:_SHOWN_FAILURES]:
        typer.echo(f"failed: {failure.image_id} [{failure.kind}] {failure.reason}", err=True)
    if len(summary.failed) > _SHOWN_FAILURES:
        more = len(summary.failed) - _SHOWN_FAILURES
        typer.echo(f"failed: {more:,} more; `cxr-embed store info {store} --failures` lists them", err=True)
    if summary.interrupted:
        typer.echo("interrupted: what is done is stored; run the same command to go on", err=True)
