"""`cxr-embed encoders check`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cxr_embed.cli import terminal
from cxr_embed.cli.common import fail, print_json
from cxr_embed.cli.options import AsJson, Device, Weights
from cxr_embed.present.console import print_facts
from cxr_embed.types import EncoderSpec, counted, note_stand_in

if TYPE_CHECKING:
    from cxr_embed.types import CxrImage

EXAMPLE = "Example: `cxr-embed encoders check cxr-foundation`"


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
    """Load an encoder, run it on a few synthetic radiographs, and say what it is or what is missing.

    Licence, files and what is known of their digests, pixels, time an image, a test picture's vector against the one
    that was measured where that is known; for cxr-foundation what its graphs are. Nothing is downloaded: what is
    missing is listed, with how to get it. Exit status 1 where something is missing or differs.
    """
    from cxr_embed.encoders.check import check_encoder

    checked = check_encoder(encoder, _phantoms(count), weights=weights, pixels=pixels, device=device)
    if "spec" in checked:
        note_stand_in(EncoderSpec.from_json(checked["spec"]))
    if as_json:
        print_json(checked)
    else:
        print_facts(terminal.console(), list(_lines(checked)), 14)
    if not checked["ok"]:
        fail("; ".join(checked["problems"]))


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


def _lines(checked: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The check as label and text."""
    found = "spec" in checked
    version = f", revision {checked['spec']['revision']} [{checked['fingerprint'][:12]}]" if found else ""
    yield "encoder", checked["name"] + version
    if checked["tasks"]:
        yield "for", ", ".join(checked["tasks"])
        yield "licence", checked["licence"] + (", gated" if checked["gated"] else "")
        terms = checked.get("spec", {}).get("licence") or checked["terms"]
        if terms:
            yield "terms", terms
    if checked["trained_on"]:
        yield "learned from", checked["trained_on"]
    for part in checked["missing"]:
        yield "missing", part["what"]
        yield "  get it", part["get"]
        yield "  offline", part["offline"]
    if found:
        yield from _what_it_is(checked)
        yield from _own_lines(checked)
        yield from _what_it_did(checked)


def _what_it_is(checked: dict[str, Any]) -> Iterator[tuple[str, str]]:
    spec = checked["spec"]
    if spec["weights"]:
        yield "weights", f"{spec['weights_source']} [{spec['weights'][:12]}]"
    for file in checked["files"]:
        yield "file", f"{file['file']}, {file['bytes']:,} bytes, SHA-256 {file['sha256'][:16]}, {file['digest']}"
    yield "pixels", spec["preprocessing"]
    yield "outputs", ", ".join(f"{name} {' x '.join(map(str, shape))}" for name, shape in spec["outputs"])
    if "classes" in spec:
        yield "classes", ", ".join(spec["classes"]["names"])


def _what_it_did(checked: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield "engine", checked["engine"]
    for note in checked["notes"]:
        yield "note", note
    alone, batch, pixels = (1000 * checked["seconds_an_image"][name] for name in ("alone", "in_a_batch", "pixels"))
    together = counted(checked["images"], "image")
    yield "time an image", f"{_ms(alone)} alone, {_ms(batch)} of {together}, {_ms(pixels)} for its pixels; medians"
    yield "machine", checked["machine"]
    for output, result in checked["picture"].items():
        if result["apart"] is not None:
            far = f"{result['apart']:.1e} from what was measured, {result['allowed']:.0e} is allowed"
            yield "test picture", f"{output}: {far}"
    if all(result["apart"] is None for result in checked["picture"].values()):
        yield "test picture", "nothing measured to compare with, by these weights; --json has what they give here"
    if checked["prompts"] is not None:
        yield (
            "prompts",
            "another vector for another sentence" if checked["prompts"]["different"] else checked["prompts"]["problem"],
        )
    yield (
        "vectors",
        "another for another radiograph" if checked["vectors"]["different"] else "the same for radiographs that differ",
    )


def _ms(value: float) -> str:
    return f"{value:.0f} ms" if value >= 10 else f"{value:.1f} ms"


def _own_lines(checked: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """What only this kind of encoder knows."""
    own = checked["own"]
    if "models" not in own:  # an encoder's own words
        yield from ((str(name), str(value)) for name, value in own.items())
        return
    yield "versions", ", ".join(f"{name} {version}" for name, version in own["versions"].items())
    for model, label in (("elixr_c", "ELIXR-C"), ("qformer", "Q-Former")):
        facts = own["models"][model]
        yield label, _model_line(facts)
        for what in ("inputs", "outputs"):
            yield f"  {what}", "; ".join(f"{name}: {kind}" for name, kind in facts[what].items())
    depth = own["decode_depth"]
    yield "decodes to", f"{depth} bits" if depth else "a depth that is not plain from the graph"
    yield "batches", _batches_line(own["batches"], checked["images"])


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
