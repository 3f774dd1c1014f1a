"""`cxr-embed explain curves`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_embed.cli.common import RESEARCH, print_json, progress_bar
from cxr_embed.cli.options import AsJson, Bootstraps, Device, Findings, Root, Seed, Weights
from cxr_embed.cli.terminal import console
from cxr_embed.present.console import print_sentence, print_tables
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.explanation.curve_result import CurveEvaluation

EXAMPLE = "Example: `cxr-embed explain curves maps --manifest manifest.csv --root images --probe probes/mini`"


def curves(
    maps: Annotated[Path, typer.Argument(help="Folder that `explain` wrote.", show_default=False)],
    images: Annotated[
        list[str] | None,
        typer.Argument(
            help="The radiographs that the maps are of; with --manifest, its image ids, all by default.",
            show_default=False,
        ),
    ] = None,
    probe: Annotated[Path | None, typer.Option(help="Whose findings the maps explain.")] = None,
    like: Annotated[
        str | None, typer.Option(help="The case that they are like: a file, or an image id of the manifest.")
    ] = None,
    manifest: Annotated[Path | None, typer.Option(help="The table that the image ids are of.")] = None,
    root: Root = None,
    untrained: Annotated[
        Path | None, typer.Option(help="The same maps as `explain --random-weights` makes them, to be held beside.")
    ] = None,
    findings: Findings = None,
    sample: Annotated[
        int, typer.Option(min=1, help="Images that take part, drawn by the seed where there are more.")
    ] = 100,
    weights: Weights = None,
    device: Device = "auto",
    bootstraps: Bootstraps = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say whether a score hangs on what its heat map shows: insertion and deletion, with intervals by patient.

    Nobody need have marked anything. Pixels are hidden from the map's highest value on (deletion), or shown in a
    picture of which all is hidden (insertion), in 16 steps, and the encoder scores each step. Beside each area under
    the curve stands what orders of pixels reach that know nothing of the picture: from the centre outwards, random, and
    an untrained encoder's where one is given.
    """
    from cxr_embed.api.map_curves import evaluate_curves

    with progress_bar() as bar:
        report = evaluate_curves(
            maps,
            images or (),
            probe=probe,
            like=like,
            manifest=manifest,
            root=root,
            untrained=untrained,
            findings=findings,
            sample=sample,
            weights=weights,
            device=device,
            bootstraps=bootstraps,
            seed=seed,
            announce=lambda line: typer.echo(line, err=True),
            progress=bar,
        )
    for image_id, why in report.failed.items():
        typer.echo(f"failed: {image_id}: {why}", err=True)
    if as_json:
        print_json({"maps": str(maps), **report.to_json(), "note": RESEARCH})
    else:
        _show(report, maps)
    if report.failed:
        raise typer.Exit(1)


def _show(report: CurveEvaluation, maps: Path) -> None:
    from cxr_embed.explanation.curve_result import AREAS
    from cxr_embed.explanation.maps_tables import curve_table
    from cxr_embed.explanation.result import BASELINES, CENTRE, MAP

    screen = console()
    made = ", ".join(str(report.about[key]) for key in ("encoder", "method", "layer") if report.about.get(key))
    print_sentence(screen, str(maps), f"{made or 'method not known'}; curves of the {report.score}")
    for curve in AREAS:
        print_tables(screen, [curve_table(report, curve)])
    for curve, words in AREAS.items():
        print_sentence(screen, curve, words)
    for curve in AREAS:
        better = [finding.name for finding in report.findings if finding.better(curve)]
        print_sentence(screen, f"{curve} better than by any other order", ", ".join(better) or "no finding")
    for name in report.pooled.figures:
        if name != MAP:
            print_sentence(screen, name, "from the centre outwards" if name == CENTRE else BASELINES[name])
    print_sentence(screen, "hidden by", "a blurred picture" if report.fill == "blur" else "grey")
    print_sentence(screen, "intervals", f"95%, {counted(report.bootstraps, 'draw')} of patients, seed {report.seed}")
    print_sentence(screen, "better", "0 is outside the interval of each difference (--json)")
    for note in report.notes:
        print_sentence(screen, "note", note)
    typer.echo(f"{counted(len(report.images), 'map')}, {counted(report.pooled.patients, 'patient')}")
    typer.echo(RESEARCH)
