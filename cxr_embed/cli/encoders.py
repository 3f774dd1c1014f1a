"""`cxr-embed encoders` and `cxr-embed weights ...`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_embed.cli import terminal
from cxr_embed.cli.common import print_json
from cxr_embed.cli.options import AsJson, Device, Weights
from cxr_embed.present.console import columns_of, print_columns, print_facts
from cxr_embed.present.tables import Table
from cxr_embed.types import DEMONSTRATES, counted, note_stand_in

if TYPE_CHECKING:
    from cxr_embed.types import CxrImage

EXAMPLE = "Example: `cxr-embed encoders --json`; `cxr-embed encoders check mini` runs one"
CHECK_EXAMPLE = "Example: `cxr-embed encoders check cxr-foundation`"
app = typer.Typer(rich_markup_mode="markdown")
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
            "stand_in": DEMONSTRATES.format(card.name) if card.bundled else "",
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


@app.callback(invoke_without_command=True, epilog=EXAMPLE)
def encoders(
    context: typer.Context,
    as_json: AsJson = False,
) -> None:
    """List the encoders: vectors, licence, and whether each can run here."""
    if context.invoked_subcommand is not None:
        return
    rows = _rows()
    if as_json:
        print_json(rows)
        return
    from cxr_embed.encoders.weights import weights_folder

    console = terminal.console()
    columns = ["encoder", "vectors", "licence", "installed", "weights", "trained on"]
    shown = len(columns) if console.width >= 120 else len(columns) - 1
    cells = [_cells(row)[:shown] for row in rows]
    print_columns(console, columns_of(Table(heads=columns[:shown], rows=cells, words=range(shown))))
    folder = str(weights_folder()).replace(str(Path.home()), "~", 1)
    typer.echo("\n* embeds prompts too. Weights: `no` = not on this machine, `named` = the checkpoint that you name.")
    extras = sorted({row["install"] for row in rows if not row["installed"]})
    if extras:
        typer.echo(f"What is not installed comes with {' or '.join(extras)}.")
    for row in rows:
        if row["stand_in"]:
            typer.echo(f"stand-in: {row['stand_in']}")
    typer.echo(f"Converted weights are looked for in {folder}; those of the Hub in its own cache.")


@app.command("check", epilog=CHECK_EXAMPLE)
def check(
    encoder: Annotated[str, typer.Argument(help="A name from `cxr-embed encoders`, or package.module:function.")],
    weights: Weights = None,
    pixels: Annotated[str | None, typer.Option(help="Which of the encoder's pixel recipes to use.")] = None,
    device: Device = "auto",
    count: Annotated[
        int, typer.Option("--count", "--images", min=2, max=64, help="Synthetic radiographs to run it on.")
    ] = 8,
    as_json: AsJson = False,
) -> None:
    """Load an encoder, run it on a few synthetic radiographs, and report what a maintainer would ask for.

    Files and digests, versions, device, time an image; for cxr-foundation what its graphs are and whether they run in
    batches. Exit status 1 where it does not load, or gives radiographs that differ one vector.
    """
    from cxr_embed.encoders import load_encoder
    from cxr_embed.encoders.check import check_encoder

    loaded = load_encoder(encoder, weights=weights, pixels=pixels, device=device)
    try:
        note_stand_in(loaded.spec)
        checked = check_encoder(loaded, _phantoms(count))
    finally:
        loaded.close()
    if as_json:
        print_json(checked)
    else:
        print_facts(terminal.console(), list(_checked_lines(checked)), 14)
    if not checked["vectors"]["different"]:
        if not as_json:
            typer.echo("error: radiographs that differ have the same vector", err=True)
        raise typer.Exit(1)


def _phantoms(count: int) -> list[CxrImage]:
    """Synthetic radiographs of both depths that files have."""
    from cxr_embed.phantom import render_study, sample_studies
    from cxr_embed.types import CxrImage

    pixels = [render_study(study).pixels for study in sample_studies(count)]
    return [
        CxrImage(pixels=shot, bits=12, content_id="", source="png")
        if number % 2
        else CxrImage(pixels=(shot >> 4).astype("uint8"), bits=8, content_id="", source="png")
        for number, shot in enumerate(pixels)
    ]


def _checked_lines(checked: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The check as label and text."""
    spec, own, seconds = checked["spec"], checked["own"], checked["seconds_an_image"]
    yield "encoder", f"{spec['name']}, revision {spec['revision']} [{checked['fingerprint'][:12]}]"
    if spec["weights"]:
        yield "weights", f"{spec['weights_source']} [{spec['weights'][:12]}]"
    for file in checked["files"]:
        yield "file", f"{file['file']}, {file['bytes']:,} bytes, SHA-256 {file['sha256'][:16]}"
    if "models" not in own:  # an encoder's own words
        yield from ((str(name), str(value)) for name, value in own.items())
    else:
        yield "versions", ", ".join(f"{name} {version}" for name, version in own["versions"].items())
        for model, label in (("elixr_c", "ELIXR-C"), ("qformer", "Q-Former")):
            facts = own["models"][model]
            yield label, _model_line(facts)
            for what in ("inputs", "outputs"):
                yield f"  {what}", "; ".join(f"{name}: {kind}" for name, kind in facts[what].items())
        depth = own["decode_depth"]
        yield "decodes to", f"{depth} bits" if depth else "a depth that is not plain from the graph"
        yield "batches", _batches_line(own["batches"], checked["images"])
    yield "engine", checked["engine"]
    for note in checked["notes"]:
        yield "note", note
    yield (
        "time an image",
        f"{1000 * seconds['alone']:.0f} ms alone, {1000 * seconds['in_a_batch']:.0f} ms of "
        + counted(checked["images"], "image"),
    )
    yield "vectors", "differ" if checked["vectors"]["different"] else "the same for radiographs that differ"


def _model_line(facts: dict[str, Any]) -> str:
    said = [facts[name] or "any" for name in ("input_batch", "output_batch")]
    driven = f"{facts['driven_by']} a call" if facts["driven_by"] else "any batch"
    ops = ", ".join(facts["ops_to_register"]) or "none"
    return (
        f"on {facts['device']}; {driven} (its input says {said[0]}, its output {said[1]}); ops of other packages: {ops}"
    )


def _batches_line(batches: dict[str, Any], images: int) -> str:
    if "apart" not in batches:
        return f"no: {batches['why']}"
    times = f"{1000 * batches['signature_seconds']:.0f} ms an image by the signature, "
    times += f"{1000 * batches['network_seconds']:.0f} ms in batches by {batches['network_by']}"
    apart = f"{batches['apart']:.1e} apart, {batches['allowed']:.0e} is allowed"
    return f"{'yes' if batches['proven'] else 'no'}: {counted(images, 'image')} both ways are {apart}; {times}"


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
) -> None:
    """Make a safetensors file from a published pickle, in which nothing is run.

    TorchXRayVision's, whose SHA-256 is checked first; for `chexnet` the checkpoints of CheXNet's reimplementations and
    any other DenseNet-121 of torchvision's; CheXzero's, EVA-X's and Ark+'s; BioViL-T's image weights; for `biomedclip`
    and `open_clip:ORG/NAME` open_clip's, with settings and tokenizer beside them; for `timm:tf_efficientnet_lite0` and
    its siblings EfficientNet-Lite's, if timm's network then gives the published one's answers. Needs torch.
    """
    from cxr_embed.encoders.conversion import convert_weights, save_converted

    converted = convert_weights(encoder, pickle, sha256)
    target = save_converted(encoder, converted, out)
    typer.echo(f"{target}: {counted(len(converted.tensors), 'tensor')} for {encoder}")
    typer.echo(f"source: {converted.source}")


@weights_app.command("random", epilog="Example: `cxr-embed weights random densenet121 --out random.safetensors`")
def random(
    encoder: Annotated[str, typer.Argument(help="The encoder whose shapes to fill.")],
    out: Annotated[Path, typer.Option(help="Safetensors file to write.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the random numbers.")] = 0,
) -> None:
    """Make random weights, for tests and timings only: their vectors mean nothing, and stores made with them say so."""
    from cxr_embed.encoders.torchxrayvision import head_shapes, published_weights
    from cxr_embed.encoders.weights import random_weights, save_weights

    _, network = published_weights(encoder)
    weights = random_weights(network, seed, head_shapes(encoder))
    save_weights(out, weights, f"random numbers (seed {seed}): not a trained model")
    typer.echo(f"{out}: {counted(len(weights), 'tensor')} of random numbers; not a trained model")
