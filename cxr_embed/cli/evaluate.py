"""`cxr-embed evaluate`, and the comparison of two score files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_embed.cli.common import RESEARCH, fail, plural, prevalences, print_json
from cxr_embed.cli.terminal import console
from cxr_embed.present.console import print_sentence, print_tables

if TYPE_CHECKING:
    from cxr_embed.evaluation import Evaluation

EXAMPLE = "Example: `cxr-embed evaluate scores.csv data/manifest.csv --split test --thresholds-split validate`"
COMPARE_EXAMPLE = "Example: `cxr-embed probe compare hog.csv densenet.csv data/manifest.csv --split test`"

Scores = Annotated[
    Path, typer.Argument(help="Scores: image_id and a column for each finding (.csv, .csv.gz, .parquet).")
]
LabelFile = Annotated[Path, typer.Argument(help="Manifest, or a table of image_id and findings.")]
Extra = Annotated[
    list[str] | None, typer.Option(help="A column of the labels that is no finding (repeatable).", show_default=False)
]
Split = Annotated[str | None, typer.Option(help="Look at this split of the labels only, e.g. test.")]
Uncertain = Annotated[str, typer.Option(help="What a label of -1 counts as: unknown, positive or negative.")]
Bootstraps = Annotated[int, typer.Option(min=0, max=100_000, help="Draws of patients for the intervals.")]
Seed = Annotated[int, typer.Option(min=0, help="Of the draws.")]
Prevalence = Annotated[
    list[str] | None,
    typer.Option(
        help="Part of cases with the finding where the scores are to be used, for predictive values and net "
        "benefit: 0.02, or Pneumothorax=0.02 (repeatable).",
        show_default=False,
    ),
]
Threshold = Annotated[
    str | None,
    typer.Option(
        help="youden, f1, sensitivity=0.9 or specificity=0.9, chosen on the validation part (there, youden by "
        "default); or a number that was known before.",
        show_default=False,
    ),
]
ThresholdsSplit = Annotated[
    str | None, typer.Option(help="The labels' split that is the validation part, e.g. validate.")
]
Calibrate = Annotated[
    str | None, typer.Option(help="platt or isotonic: make probabilities of the scores, fitted on the validation part.")
]
By = Annotated[
    str | None,
    typer.Option(help="The same by groups of the labels' columns, and differences between them: sex,age,view."),
]
CountNoFinding = Annotated[
    bool,
    typer.Option("--count-no-finding", help="Give 'No Finding' a part in means; beside others it has none by default."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


def evaluate(
    scores: Scores,
    labels: LabelFile,
    extra: Extra = None,
    split: Split = None,
    uncertain: Uncertain = "unknown",
    prevalence: Prevalence = None,
    threshold: Threshold = None,
    thresholds_from: Annotated[
        Path | None, typer.Option(help="Scores of the validation part; the labels hold its labels too.")
    ] = None,
    thresholds_split: ThresholdsSplit = None,
    calibrate: Calibrate = None,
    by: By = None,
    count_no_finding: CountNoFinding = False,
    bootstraps: Bootstraps = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare scores of any origin with labels: figures with 95% intervals by patient.

    Rows are joined by `image_id`, findings by name, whatever the order. A column `patient_id` in either file makes the
    intervals clustered: patients are drawn again, not images. Scores may be any real numbers, higher = more likely.
    What is not defined is said to be so, and is no part of the mean.
    """
    from cxr_embed.evaluation import evaluate as run
    from cxr_embed.evaluation import read_scores
    from cxr_embed.manifest import read_labels

    check_uncertain(uncertain)
    table = read_scores(scores)
    found = run(
        table,
        read_labels(labels, extra=extra or ()),
        split=split,
        uncertain=uncertain,  # type: ignore[arg-type]
        prevalence=prevalences(prevalence, list(table.names), "the scores have") if prevalence else None,
        threshold=threshold,
        thresholds_from=thresholds_from,
        thresholds_split=thresholds_split,
        calibrate=calibrate,  # type: ignore[arg-type]
        by=words(by),
        count_no_finding=count_no_finding,
        bootstraps=bootstraps,
        seed=seed,
    )
    show(found, {"scores": str(scores), "labels": str(labels), "split": split}, str(scores), as_json)


def show(found: Evaluation, about: dict[str, str | None], source: str, as_json: bool) -> None:
    """Prints an evaluation: as JSON with what it is about, or as tables and notes for people."""
    from cxr_embed.evaluation.evaluation_tables import about_intervals, finding_tables, group_tables

    if as_json:
        print_json({**about, **found.to_json(), "note": RESEARCH})
        return
    screen = console()
    print_tables(screen, finding_tables(found), side_by_side=True)
    print_tables(screen, group_tables(found))
    rules = dict.fromkeys(finding.threshold_rule for finding in found.findings if finding.threshold_rule)
    if rules:
        print_sentence(screen, "thresholds", "; ".join(rules))
    print_sentence(screen, "intervals", about_intervals(found))
    for warning in found.warnings:
        print_sentence(screen, "note", warning)
    of = f" of the split {about['split']}" if about["split"] is not None else ""
    print_sentence(screen, source, f"{plural(found.images, 'image')}{of}, {plural(len(found.findings), 'finding')}")
    typer.echo(RESEARCH)


def words(by: str | None) -> list[str]:
    """The columns that `--by` names."""
    return [name.strip() for name in by.split(",") if name.strip()] if by else []


def compare(
    first: Scores,
    second: Scores,
    labels: LabelFile,
    extra: Extra = None,
    split: Split = None,
    uncertain: Uncertain = "unknown",
    count_no_finding: CountNoFinding = False,
    bootstraps: Bootstraps = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare two scores of the same cases: differences with 95% intervals by patient, and tests.

    Every draw of patients serves both. p is corrected for the number of findings by Holm's method; it says nothing
    about how large a difference is.
    """
    from cxr_embed.evaluation import compare as run
    from cxr_embed.evaluation.evaluation_tables import about_intervals, comparison_table
    from cxr_embed.manifest import read_labels

    check_uncertain(uncertain)
    found = run(
        first,
        second,
        read_labels(labels, extra=extra or ()),
        split=split,
        uncertain=uncertain,  # type: ignore[arg-type]
        count_no_finding=count_no_finding,
        bootstraps=bootstraps,
        seed=seed,
    )
    if as_json:
        about = {"first": str(first), "second": str(second), "labels": str(labels), "split": split}
        print_json({**about, **found.to_json(), "note": RESEARCH})
        return
    screen = console()
    print_tables(screen, [comparison_table(found)])
    print_sentence(screen, "first", str(first))
    print_sentence(screen, "second", str(second))
    print_sentence(screen, "intervals", about_intervals(found))
    for warning in found.warnings:
        print_sentence(screen, "note", warning)
    typer.echo(RESEARCH)


def check_uncertain(uncertain: str) -> None:
    """Refuses another word for what -1 counts as."""
    if uncertain not in ("unknown", "positive", "negative"):
        fail(f"--uncertain is unknown, positive or negative, not {uncertain!r}", 2)
