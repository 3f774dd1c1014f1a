"""`cxr-embed evaluate`, and the comparison of two score files."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cxr_embed.cli.common import RESEARCH, print_json
from cxr_embed.cli.options import (
    AsJson,
    Blank,
    Bootstraps,
    By,
    Calibrate,
    CountNoFinding,
    Extra,
    Findings,
    LabelFile,
    Prevalence,
    Scores,
    Seed,
    Split,
    Threshold,
    ThresholdsSplit,
    Uncertain,
    listed,
    prevalences,
)
from cxr_embed.cli.terminal import console
from cxr_embed.present.console import print_sentence, print_tables
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.evaluation import Evaluation

EXAMPLE = "Example: `cxr-embed evaluate scores.csv data/manifest.csv --split test --thresholds-split validate`"
COMPARE_EXAMPLE = "Example: `cxr-embed probe compare hog.csv densenet.csv data/manifest.csv --split test`"


def evaluate(
    scores: Scores,
    labels: LabelFile,
    findings: Findings = None,
    extra: Extra = None,
    split: Split = None,
    uncertain: Uncertain = "unknown",
    blank: Blank = None,
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
    from cxr_embed.api.evaluate import evaluate as run

    found = run(
        scores,
        labels,
        findings=findings,
        extra=extra or (),
        split=split,
        uncertain=uncertain,
        blank=blank,
        prevalence=prevalences(prevalence),
        threshold=threshold,
        thresholds_from=thresholds_from,
        thresholds_split=thresholds_split,
        calibrate=calibrate,
        by=listed(by) or (),
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
    print_sentence(screen, source, f"{counted(found.images, 'image')}{of}, {counted(len(found.findings), 'finding')}")
    typer.echo(RESEARCH)


def compare(
    first: Scores,
    second: Scores,
    labels: LabelFile,
    findings: Findings = None,
    extra: Extra = None,
    split: Split = None,
    uncertain: Uncertain = "unknown",
    blank: Blank = None,
    count_no_finding: CountNoFinding = False,
    bootstraps: Bootstraps = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Compare two scores of the same cases: differences with 95% intervals by patient, and tests.

    Every draw of patients serves both. p is corrected for the number of findings by Holm's method; it says nothing
    about how large a difference is.
    """
    from cxr_embed.api.evaluate import compare as run
    from cxr_embed.evaluation.evaluation_tables import about_intervals, comparison_table

    found = run(
        first,
        second,
        labels,
        findings=findings,
        extra=extra or (),
        split=split,
        uncertain=uncertain,
        blank=blank,
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
