"""`cxr-embed encoders` and `cxr-embed weights ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cxr_embed.cli import terminal
from cxr_embed.cli.common import plural, print_json

EXAMPLE = "Example: `cxr-embed encoders --json`"
weights_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Convert published weights, or make random ones for tests."
)


def _rows() -> list[dict[str, Any]]:
    from cxr_embed.encoders import ENCODERS

    return [
        {
            "name": card.name,
            "outputs": {name: list(shape) for name, shape in card.outputs.items()},
            "default_outputs": list(card.default_outputs or card.outputs),
            "pixels": list(card.pixels),
            "text": card.text,
            "licence": card.licence,
            "gated": card.gated,
            "installed": card.installed,
            "install": f"pip install 'cxr-embed[{card.extra}]'" if card.extra else "pip install cxr-embed",
            "has_weights": card.has_weights,
            "weights_here": card.weights_here,
            "trained_on": card.trained_on,
        }
        for card in ENCODERS.values()
    ]


def _cells(row: dict[str, Any]) -> list[str]:
    """A row as the table shows it."""
    shapes = [" x ".join(map(str, row["outputs"][name])) for name in row["default_outputs"] if row["outputs"][name]]
    weights = {True: "here", False: "no"}.get(row["weights_here"], "named" if row["has_weights"] else "none")
    return [
        row["name"] + (" *" if row["text"] else ""),
        ", ".join(shapes) or "the model's",
        row["licence"] + (", gated" if row["gated"] else ""),
        "yes" if row["installed"] else "no",
        weights,
        row["trained_on"],
    ]


def encoders(as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False) -> None:
    """List the encoders: vectors, licence, and whether each can run here."""
    rows = _rows()
    if as_json:
        print_json(rows)
        return
    from rich.table import Table

    from cxr_embed.encoders.weights import weights_folder

    console = terminal.console()
    columns = ["encoder", "vectors", "licence", "installed", "weights", "trained on"]
    shown = len(columns) if console.width >= 120 else len(columns) - 1
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns[:shown]:
        table.add_column(column, no_wrap=column != "trained on", overflow="fold")
    for row in rows:
        table.add_row(*_cells(row)[:shown])
    console.print(table)
    folder = str(weights_folder()).replace(str(Path.home()), "~", 1)
    typer.echo("\n* embeds prompts too. Weights: `no` = not on this machine, `named` = the checkpoint that you name.")
    extras = sorted({row["install"] for row in rows if not row["installed"]})
    if extras:
        typer.echo(f"What is not installed comes with {' or '.join(extras)}.")
    typer.echo(f"Converted weights are looked for in {folder}; those of the Hub in its own cache.")


@weights_app.command("convert", epilog="Example: `cxr-embed weights convert densenet121 ~/Downloads/FILE.pt`")
def convert(
    encoder: Annotated[str, typer.Argument(help="The encoder that the weights are for.")],
    pickle: Annotated[Path, typer.Argument(help="The published file, as downloaded.")],
    out: Annotated[
        Path | None, typer.Option(help="Safetensors file to write; the weights folder by default.", show_default=False)
    ] = None,
    sha256: Annotated[str | None, typer.Option(help="The publisher's digest, where none is pinned here.")] = None,
) -> None:
    """Make a safetensors file from TorchXRayVision's published pickle, after checking its SHA-256.

    No code in the pickle is run. Needs torch.
    """
    from cxr_embed.encoders.torchxrayvision import published_weights
    from cxr_embed.encoders.weights import convert as convert_pickle
    from cxr_embed.encoders.weights import save_weights, weights_path

    published, network = published_weights(encoder)
    weights = convert_pickle(published, network, pickle, sha256)
    target = out or weights_path(encoder)
    save_weights(target, weights, f"{published.url} (SHA-256 {published.sha256 or sha256})")
    typer.echo(f"{target}: {plural(len(weights), 'tensor')} for {encoder}")


@weights_app.command("random", epilog="Example: `cxr-embed weights random densenet121 --out random.safetensors`")
def random(
    encoder: Annotated[str, typer.Argument(help="The encoder whose shapes to fill.")],
    out: Annotated[Path, typer.Option(help="Safetensors file to write.")],
    seed: Annotated[int, typer.Option(help="Of the random numbers.")] = 0,
) -> None:
    """Make random weights, for tests and timings only: their vectors mean nothing, and stores made with them say so."""
    from cxr_embed.encoders.torchxrayvision import published_weights
    from cxr_embed.encoders.weights import random_weights, save_weights

    _, network = published_weights(encoder)
    weights = random_weights(network, seed)
    save_weights(out, weights, f"random numbers (seed {seed}): not a trained model")
    typer.echo(f"{out}: {plural(len(weights), 'tensor')} of random numbers; not a trained model")
