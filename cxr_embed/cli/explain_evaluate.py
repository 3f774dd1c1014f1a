"""`cxr-embed explain evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_embed.cli.common import RESEARCH, print_json, progress_bar
from cxr_embed.cli.options import AsJson, Bootstraps, Findings, Seed, picture_size
from cxr_embed.cli.terminal import console
from cxr_embed.present.console import print_sentence, print_tables
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.explanation.result import MapEvaluation

EXAMPLE = "Example: `cxr-embed explain evaluate maps boxes.csv --untrained maps-untrained`"


def evaluate(
    maps: Annotated[
        Path,
        typer.Argument(help="Folder that `explain` wrote, or of CheXlocalize's *_map.pkl.", show_default=False),
    ],
    places: Annotated[
        Path,
        typer.Argument(
            help="Where the findings are: boxes (.csv, .parquet), COCO's or CheXlocalize's JSON, or a folder of masks "
            "FINDING/IMAGE_ID.png.",
            show_default=False,
        ),
    ],
    untrained: Annotated[
        Path | None,
        typer.Option(help="The same maps as `explain --random-weights` makes them, to be held beside."),
    ] = None,
    findings: Findings = None,
    threshold: Annotated[
        str,
        typer.Option(
            help="Of the IoU: other-patients (chosen on the patients of other folds), otsu (each map's own), a part of "
            "the highest value such as 0.5, or a CSV of finding and threshold."
        ),
    ] = "other-patients",
    min_score: Annotated[
        float | None, typer.Option(help="Count boxes of a detector that it scored at least so high.")
    ] = None,
    drawn_on: Annotated[
        str | None,
        typer.Option(
            help="Width and height of the pictures that boxes or masks were drawn on, e.g. 1024x1024, if these are not "
            "the explained ones."
        ),
    ] = None,
    bootstraps: Bootstraps = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Say whether heat maps are where the findings are, with intervals by patient.

    For each finding, over the images in which somebody marked it: how often the highest value is inside (pointing
    game), the overlap with what the map marks (IoU), the part of the map's sum that is inside (energy), and how well
    its values tell pixels inside from those outside (AUROC). Beside each stands what maps reach that know nothing of
    the picture: a bell at the centre, random numbers, and an untrained encoder's where one is given.
    """
    from cxr_embed.api.maps import evaluate_maps

    with progress_bar() as progress:
        report = evaluate_maps(
            maps,
            places,
            untrained=untrained,
            findings=findings,
            threshold=_number_or_word(threshold),
            min_score=min_score,
            drawn_on=picture_size(drawn_on),
            bootstraps=bootstraps,
            seed=seed,
            progress=progress,
        )
    if as_json:
        print_json({"maps": str(maps), **report.to_json(), "note": RESEARCH})
        return
    _show(report, maps)


def _number_or_word(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _show(report: MapEvaluation, maps: Path) -> None:
    from cxr_embed.explanation.maps_tables import figure_table
    from cxr_embed.explanation.result import BASELINES, FIGURES, MAP

    screen = console()
    made = ", ".join(str(report.about[key]) for key in ("encoder", "method", "layer") if report.about.get(key))
    print_sentence(screen, str(maps), f"{made or 'method not known'}; against {report.places}")
    for figure in FIGURES:
        print_tables(screen, [figure_table(report, figure)])
    above = [finding.name for finding in report.findings if finding.above("hit_rate")]
    below = [finding.name for finding in report.findings if not finding.above("hit_rate")]
    print_sentence(screen, "hit rate above all others, intervals apart", ", ".join(above) or "no finding")
    if below:
        print_sentence(screen, "not so", ", ".join(below))
    print_sentence(screen, "n", "images that show the finding, in which somebody marked it")
    for name in report.pooled.figures:
        if name != MAP:
            print_sentence(screen, name, BASELINES[name])
    print_sentence(screen, "IoU", f"threshold {_rule(report)}")
    print_sentence(screen, "mean IoU", f"over thresholds of {report.thresholds[0]} to {report.thresholds[-1]}")
    print_sentence(screen, "intervals", f"{counted(report.bootstraps, 'draw')} of patients, seed {report.seed}")
    for note in report.notes:
        print_sentence(screen, "note", note)
    typer.echo(f"{counted(report.pooled.images, 'map')}, {counted(report.pooled.patients, 'patient')}")
    typer.echo(RESEARCH)


def _rule(report: MapEvaluation) -> str:
    if report.rule == "given":
        taken = {finding.name: finding.thresholds["map"][0] for finding in report.findings}
        return f"as given: {', '.join(f'{name} {value:g}' for name, value in taken.items())}"
    return {"otsu": "by Otsu's method, each map's own"}.get(report.rule, "chosen on patients of other folds")
