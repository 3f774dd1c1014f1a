"""`cxr-embed report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cxr_embed.cli.common import RESEARCH, plural, prevalences, print_json, progress_bar
from cxr_embed.cli.evaluate import (
    Bootstraps,
    Calibrate,
    CountNoFinding,
    Extra,
    LabelFile,
    Prevalence,
    Scores,
    Seed,
    Split,
    Threshold,
    ThresholdsSplit,
    Uncertain,
    check_uncertain,
)

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
Probes = Annotated[list[Path] | None, typer.Option(help="Probe for the model card (repeatable).", show_default=False)]
CurveFile = Annotated[Path | None, typer.Option(help="The curve.json of `cxr-embed probe curve`.")]
By = Annotated[
    str | None,
    typer.Option(
        help="Columns of the labels to make groups of; sex,age,view,site by default, where they are there.",
        show_default=False,
    ),
]
Output = Annotated[str | None, typer.Option(help="Which of an encoder's outputs to probe; its first by default.")]
Pool = Annotated[str, typer.Option(help="Tokens to one vector there: mean, max or flatten.")]
Title = Annotated[str, typer.Option(help="Of the page.")]
Created = Annotated[str, typer.Option(help="Date for the page, so that equal inputs give equal files; now by default.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print summary, warnings and files as JSON.")]


def report(
    scores: Scores,
    labels: LabelFile,
    out: Out,
    against: Against = None,
    store: StorePaths = None,
    probe: Probes = None,
    curve: CurveFile = None,
    extra: Extra = None,
    split: Split = None,
    uncertain: Uncertain = "unknown",
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
    as_json: AsJson = False,
) -> None:
    """Write one page on scores and the vectors behind them, for readers who were not there.

    It loads nothing from anywhere and prints on A4: data and splits, figures with 95% intervals by patient, curves,
    reliability, few-label curves, groups, shortcuts, published figures beside yours, a model card, and warnings first.
    The same content is written as JSON, Markdown and CSV beside it.
    """
    from cxr_embed.evaluation import read_scores
    from cxr_embed.reporting import Inputs, check_target, collect, write_report

    check_uncertain(uncertain)
    check_target(out, scores, labels, *(against or ()), *([curve] if curve is not None else []))
    stated = prevalences(prevalence, list(read_scores(scores).names), "the scores have") if prevalence else None
    inputs = Inputs(
        scores=(scores, *(against or ())),
        labels=labels,
        extra=tuple(extra or ()),
        stores=tuple(store or ()),
        output=output,
        pool=pool,
        probes=tuple(probe or ()),
        curve=curve,
        split=split,
        uncertain=uncertain,  # type: ignore[arg-type]
        prevalence=stated,
        threshold=threshold,
        thresholds_split=thresholds_split,
        calibrate=calibrate,  # type: ignore[arg-type]
        by=tuple(name.strip() for name in by.split(",") if name.strip()) if by is not None else None,
        count_no_finding=count_no_finding,
        bootstraps=bootstraps,
        seed=seed,
        title=title,
        created=created,
    )
    with progress_bar() as progress:
        made = collect(inputs, progress)
    files = write_report(out, made)
    if as_json:
        told = {name: made[name] for name in ("summary", "warnings", "note")}
        print_json({"files": [str(path) for path in files], **told})
    else:
        _print(made, files)


def _print(made: dict[str, Any], files: tuple[Path, ...]) -> None:
    for text in made["summary"]:
        typer.echo(text)
    if made["warnings"]:
        typer.echo(f"{plural(len(made['warnings']), 'warning')}, at the top of the page")
    typer.echo(f"{files[0]}: the page; beside it {', '.join(path.name for path in files[1:])}")
    typer.echo(RESEARCH)
