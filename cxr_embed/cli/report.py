"""`cxr-embed report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_embed.cli.common import RESEARCH, print_json, progress_bar
from cxr_embed.cli.options import (
    AsJson,
    Blank,
    Bootstraps,
    Calibrate,
    CountNoFinding,
    Device,
    Extra,
    Findings,
    LabelFile,
    Pool,
    Prevalence,
    Root,
    Scores,
    Seed,
    Split,
    Threshold,
    ThresholdsSplit,
    Uncertain,
    Weights,
    listed,
    prevalences,
)
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.api.report import ReportFiles

EXAMPLE = (
    "Example: `cxr-embed report hog.csv data/manifest.csv --split test --against densenet.csv "
    "--store vectors/hog --out report.html`"
)
Out = Annotated[Path, typer.Option(help="The page to write (.html); .json, .md and .csv come beside it.")]
Against = Annotated[
    list[Path] | None,
    typer.Option(help="Other scores of the same cases, compared with the first (repeatable).", show_default=False),
]
StorePaths = Annotated[
    list[Path] | None,
    typer.Option(
        help="Store whose vectors are probed for view, sex and site; for the model card too (repeatable).",
        show_default=False,
    ),
]
Probes = Annotated[
    list[Path] | None,
    typer.Option(
        help="Probe for the model card (repeatable); for --explain, the first made the first scores.",
        show_default=False,
    ),
]
ExplainN = Annotated[
    int | None,
    typer.Option("--explain", help="Show so many true positives, false positives and false negatives of each finding."),
]
ManifestPath = Annotated[
    Path | None, typer.Option(help="For --explain: where the radiographs are, if the labels do not say it.")
]
Measured = Annotated[
    Path | None,
    typer.Option(help="For --explain: what `explain evaluate --json` printed of such maps, said under each."),
]
CurveFile = Annotated[Path | None, typer.Option(help="The curve.json of `cxr-embed probe curve`.")]
By = Annotated[
    str | None,
    typer.Option(
        help="Columns of the labels to make groups of; sex,age,view,site by default, where they are there.",
        show_default=False,
    ),
]
Output = Annotated[str | None, typer.Option(help="Which of an encoder's outputs to probe; its first by default.")]
Title = Annotated[str, typer.Option(help="Of the page.")]
Created = Annotated[str, typer.Option(help="Date for the page, so that equal inputs give equal files; now by default.")]


def report(
    scores: Scores,
    labels: LabelFile,
    out: Out,
    against: Against = None,
    store: StorePaths = None,
    probe: Probes = None,
    curve: CurveFile = None,
    findings: Findings = None,
    extra: Extra = None,
    split: Split = None,
    uncertain: Uncertain = "unknown",
    blank: Blank = None,
    prevalence: Prevalence = None,
    threshold: Threshold = None,
    thresholds_split: ThresholdsSplit = None,
    calibrate: Calibrate = None,
    by: By = None,
    count_no_finding: CountNoFinding = False,
    output: Output = None,
    pool: Pool = "mean",
    bootstraps: Bootstraps = 1000,
    seed: Seed = 0,
    title: Title = "Evaluation report",
    created: Created = "",
    explain: ExplainN = None,
    manifest: ManifestPath = None,
    root: Root = None,
    measured: Measured = None,
    weights: Weights = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Write one page on scores and the vectors behind them, for readers who were not there.

    It loads nothing from anywhere and prints on A4: data and splits, figures with 95% intervals by patient, curves,
    reliability, few-label curves, groups, shortcuts, published figures beside yours, a model card, and warnings first.
    The same content is written as JSON, Markdown and CSV beside it. `--explain 3` shows cases of each finding with
    heat maps: at the threshold, 3 true and 3 false positives (highest scores first) and 3 false negatives (lowest
    first), one image a patient. Then the page holds radiographs.
    """
    from cxr_embed.api.report import report as run

    with progress_bar() as progress:
        made = run(
            scores,
            labels,
            out=out,
            against=against or (),
            stores=store or (),
            probes=probe or (),
            curve=curve,
            findings=findings,
            extra=extra or (),
            split=split,
            uncertain=uncertain,
            blank=blank,
            prevalence=prevalences(prevalence),
            threshold=threshold,
            thresholds_split=thresholds_split,
            calibrate=calibrate,
            by=listed(by),
            count_no_finding=count_no_finding,
            output=output,
            pool=pool,
            bootstraps=bootstraps,
            seed=seed,
            title=title,
            created=created,
            explain=explain,
            manifest=manifest,
            root=root,
            measured=measured,
            weights=weights,
            device=device,
            announce=lambda line: typer.echo(line, err=True),
            progress=progress,
        )
    _print(made, as_json)


def _print(made: ReportFiles, as_json: bool) -> None:
    if as_json:
        about = {"summary": list(made.summary), "warnings": list(made.warnings), "note": RESEARCH}
        print_json({"files": [str(path) for path in made.files], **about})
        return
    for text in made.summary:
        typer.echo(text)
    if made.warnings:
        typer.echo(f"{counted(len(made.warnings), 'warning')}, at the top of the page")
    typer.echo(f"{made.page}: the page; beside it {', '.join(path.name for path in made.files[1:])}")
    typer.echo(RESEARCH)
