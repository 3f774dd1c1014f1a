"""`cxr-embed explain`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_embed.choices import ExplainMethod, Fill
from cxr_embed.cli.common import RESEARCH, print_json, progress_bar
from cxr_embed.cli.options import AsJson, Device, KeyFile, Root, Weights
from cxr_embed.cli.terminal import console
from cxr_embed.present.console import Column, print_columns
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.api.explain import Explanation

EXAMPLE = (
    "Example: `cxr-embed explain new.png --probe probes/mini --finding Effusion --out why`, then look at `why/overlays`"
)
_SHOWN = 20


def explain(
    out: Annotated[Path, typer.Option(help="Folder to write, new or empty: explain.json, maps and overlays.")],
    images: Annotated[
        list[str] | None,
        typer.Argument(help="Radiographs; with --manifest, its image ids, all by default.", show_default=False),
    ] = None,
    probe: Annotated[Path | None, typer.Option(help="Explain what this probe finds.")] = None,
    finding: Annotated[
        list[str] | None, typer.Option(help="Of the probe (repeatable); all by default.", show_default=False)
    ] = None,
    prompt: Annotated[
        list[str] | None,
        typer.Option(
            help="Explain the likeness to words, where the encoder reads them (repeatable).", show_default=False
        ),
    ] = None,
    like: Annotated[
        str | None, typer.Option(help="Explain the likeness to a case: a file, or an image id of the manifest.")
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="The table that the image ids are of.")] = None,
    root: Root = None,
    method: Annotated[
        ExplainMethod,
        typer.Option(
            help="cam: exact, where the vector is a mean of a map. patch: what each patch answers, where patches share "
            "a space with the vector. gradcam: by torch's gradients. occlusion: of any encoder, by hiding squares. "
            "auto: the first that can be had; patch for prompts and likeness alone."
        ),
    ] = "auto",
    cells: Annotated[int, typer.Option(min=4, max=64, help="Of occlusion: squares on a side, an even number.")] = 14,
    fill: Annotated[
        Fill, typer.Option(help="What is put over a hidden part: blur, the picture as from afar, or grey, its mean.")
    ] = "blur",
    maps_only: Annotated[
        bool, typer.Option("--maps-only", help="Neither draw overlays nor compute scores without the region.")
    ] = False,
    measured: Annotated[
        Path | None,
        typer.Option(help="What `explain evaluate --json` printed of such maps: said under each map."),
    ] = None,
    random_weights: Annotated[
        bool,
        typer.Option(
            "--random-weights",
            help="Draw the encoder's weights at random: maps that `explain evaluate --untrained` holds others against.",
        ),
    ] = False,
    encoder: Annotated[
        str | None,
        typer.Option(help="For --prompt and --like: see `cxr-embed encoders`; mini by default. A probe knows its own."),
    ] = None,
    weights: Weights = None,
    device: Device = "auto",
    key_file: KeyFile = None,
    as_json: AsJson = False,
) -> None:
    """Show where a score comes from: heat maps, each checked by hiding what it points at.

    Each map gets an overlay (PNG), its numbers (float32, .npy) and an entry in explain.json: the score, its value (log
    odds, or the cosine), and the value without the outlined region and with as much hidden elsewhere. A map says what
    moved this encoder, not that a finding is there; `cxr-embed explain evaluate` measures whether maps hit findings.
    """
    from cxr_embed.api.explain import explain as run

    with progress_bar() as bar:
        made = run(
            images or (),
            out=out,
            probe=probe,
            findings=finding,
            prompt=prompt,
            like=like,
            manifest=manifest,
            root=root,
            method=method,
            cells=cells,
            fill=fill,
            maps_only=maps_only,
            measured=measured,
            random_weights=random_weights,
            encoder=encoder,
            weights=weights,
            device=device,
            key_file=key_file,
            announce=lambda line: typer.echo(line, err=True),
            progress=bar,
        )
    _print(made, out, as_json)
    if made.failed:
        raise typer.Exit(1)


def _print(made: Explanation, out: Path, as_json: bool) -> None:
    for image_id, why in made.failed.items():
        typer.echo(f"failed: {image_id}: {why}", err=True)
    rows = made.to_arrow().to_pylist()
    if as_json:
        body = {"out": str(out), **made.folder.about, "maps": rows, "failed": dict(made.failed)}
        print_json({**body, "notes": list(made.notes), "note": RESEARCH})
        return
    shown = rows[:_SHOWN]
    unit = made.folder.about["unit"]
    figures = {"score": "score", unit: "value", "without": "without_region", "elsewhere": "without_elsewhere"}
    if unit == "cosine":
        del figures["score"]
    columns = [
        Column("image_id", [row["image_id"] for row in shown], "id"),
        Column("finding", [row["finding"] for row in shown], "words"),
        *(
            Column(title, ["" if row[name] is None else f"{row[name]:.3f}" for row in shown])
            for title, name in figures.items()
            if any(row[name] is not None for row in shown)
        ),
    ]
    print_columns(console(), columns, ())
    if len(rows) > len(shown):
        typer.echo(f"{len(rows) - len(shown):,} more in {out / 'explain.json'}")
    for note in made.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"{made.folder.about['line']}")
    typer.echo(f"{out}: {counted(len(made), 'heat map')}")
    typer.echo(RESEARCH)
