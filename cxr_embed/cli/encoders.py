"""`cxr-embed encoders` and `cxr-embed weights ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cxr_embed.cli import terminal
from cxr_embed.cli.common import print_json
from cxr_embed.cli.encoders_check import EXAMPLE as CHECK_EXAMPLE
from cxr_embed.cli.encoders_check import check
from cxr_embed.cli.options import AsJson, Weights
from cxr_embed.present.console import columns_of, print_columns
from cxr_embed.present.tables import Table
from cxr_embed.types import counted

EXAMPLE = "Example: `cxr-embed encoders --json`; `cxr-embed encoders check mini` runs one"
LEGEND = {
    "words": "compares images with prompts",
    "classes": "findings that it answers by itself (`scores`)",
    "maps": "a vector a place, where asked for",
    "needs": "what is not on this machine; `cxr-embed encoders check NAME` says how to get it, offline too",
}
app = typer.Typer(rich_markup_mode="markdown")
weights_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Convert published weights, or make random ones for tests."
)


def _cells(row: dict[str, Any]) -> list[str]:
    """A row as the table shows it."""
    shapes = [" x ".join(map(str, row["outputs"][name])) for name in row["default_outputs"] if row["outputs"][name]]
    return [
        row["name"],
        "yes" if row["text"] else "",
        "" if row["classes"] is None else str(row["classes"]),
        "yes" if row["maps"] else "",
        ", ".join(shapes) or "its own",
        row["needs"][0] if row["needs"] else "nothing",
        row["licence"] + (", gated" if row["gated"] else ""),
        row["trained_on"],
    ]


@app.callback(invoke_without_command=True, epilog=EXAMPLE)
def encoders(
    context: typer.Context,
    as_json: AsJson = False,
) -> None:
    """List the encoders by what they can do, with what each still needs here and its licence."""
    if context.invoked_subcommand is not None:
        return
    from cxr_embed.encoders.listing import encoder_rows

    rows = encoder_rows()
    if as_json:
        print_json(rows)
        return
    from cxr_embed.encoders.weights import weights_folder

    console = terminal.console()
    columns = ["encoder", "words", "classes", "maps", "vectors", "needs", "licence", "trained on"]
    shown = len(columns) if console.width >= 140 else len(columns) - 1
    cells = [_cells(row)[:shown] for row in rows]
    print_columns(console, columns_of(Table(heads=columns[:shown], rows=cells, words=range(shown))))
    folder = str(weights_folder()).replace(str(Path.home()), "~", 1)
    typer.echo("")
    for name, sentence in LEGEND.items():
        typer.echo(f"{name}: {sentence}")
    for row in rows:
        if row["stand_in"]:
            typer.echo(f"stand-in: {row['stand_in']}")
    typer.echo(f"Converted weights are looked for in {folder}; those of the Hub in its own cache.")


app.command("check", epilog=CHECK_EXAMPLE)(check)


@weights_app.command("convert", epilog="Example: `cxr-embed weights convert densenet121 ~/Downloads/FILE.pt`")
def convert(
    encoder: Annotated[str, typer.Argument(help="The encoder that the weights are for.")],
    pickle: Annotated[Path, typer.Argument(help="The published file, as downloaded.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="Safetensors file to write, of open_clip's a folder; in the weights folder by default.",
            show_default=False,
        ),
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="The publisher's digest, where none is pinned here.")] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="For chexnet: what its classifier answers on, in its order: Atelectasis,Effusion."),
    ] = None,
) -> None:
    """Make a safetensors file from a published pickle, in which nothing is run.

    TorchXRayVision's, whose SHA-256 is checked first; for `chexnet` the checkpoints of CheXNet's reimplementations and
    any other DenseNet-121 of torchvision's; CheXzero's, EVA-X's and Ark+'s; BioViL-T's image weights; for `biomedclip`
    and `open_clip:ORG/NAME` open_clip's, with settings and tokenizer beside them; for `timm:tf_efficientnet_lite0` and
    its siblings EfficientNet-Lite's, if timm's network then gives the published one's answers. Needs torch.
    """
    from cxr_embed.encoders.conversion import save_converted
    from cxr_embed.encoders.converters import convert_weights

    names = [name.strip() for name in classes.split(",")] if classes else None
    converted = convert_weights(encoder, pickle, sha256, names)
    target = save_converted(encoder, converted, out)
    typer.echo(f"{target}: {counted(len(converted.tensors), 'tensor')} for {encoder}")
    typer.echo(f"source: {converted.source}")


@weights_app.command("random", epilog="Example: `cxr-embed weights random densenet121 --out random.safetensors`")
def random(
    encoder: Annotated[str, typer.Argument(help="The encoder whose shapes to fill.")],
    out: Annotated[Path, typer.Option(help="Safetensors file to write, or folder where the encoder's is one.")],
    weights: Weights = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers.")] = 0,
) -> None:
    """Make random weights, for tests, timings and untrained baselines: stores made with them say what they are.

    TorchXRayVision's need no others; for another encoder its own are here, and lend their shapes.
    """
    from cxr_embed.encoders.redrawn import save_redrawn
    from cxr_embed.encoders.torchxrayvision import WEIGHTS, head_shapes, published_weights
    from cxr_embed.encoders.weights import random_weights, save_weights

    if encoder in WEIGHTS and weights is None:
        _, network = published_weights(encoder)
        drawn = random_weights(network, seed, head_shapes(encoder))
        save_weights(out, drawn, f"random numbers (seed {seed}): not a trained model")
        place, count = out, len(drawn)
    else:
        place, count = save_redrawn(encoder, weights, out, seed)
    typer.echo(f"{place}: {counted(count, 'tensor')} of random numbers; not a trained model")
