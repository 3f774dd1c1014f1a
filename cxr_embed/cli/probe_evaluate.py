"""`cxr-embed probe evaluate`."""

from __future__ import annotations

from typing import Annotated

import typer

from cxr_embed.cli.evaluate import show
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
    ProbePath,
    Seed,
    StorePath,
    Threshold,
    ThresholdsSplit,
    Uncertain,
    listed,
    prevalences,
)

EXAMPLE = "Example: `cxr-embed probe evaluate probes/hog vectors/hog data/manifest.csv --by sex,view`"


def evaluate(
    probe: ProbePath,
    store: StorePath,
    labels: LabelFile,
    findings: Findings = None,
    extra: Extra = None,
    split: Annotated[
        str | None,
        typer.Option(help="Look at this split; test by default, where there are splits.", show_default=False),
    ] = None,
    uncertain: Uncertain = "unknown",
    blank: Blank = None,
    prevalence: Prevalence = None,
    threshold: Threshold = None,
    thresholds_split: ThresholdsSplit = None,
    calibrate: Calibrate = None,
    by: By = None,
    count_no_finding: CountNoFinding = False,
    bootstraps: Bootstraps = 1000,
    seed: Seed = 0,
    as_json: AsJson = False,
) -> None:
    """Predict and compare with labels: `probe predict` and `evaluate` in one.

    A patient that the probe learned from is refused, in the tested part as in the one that thresholds are chosen on.
    Thresholds that the probe keeps are used where no other ones are asked for, on other patients than they come from.
    """
    from cxr_embed.api.probe import load_probe
    from cxr_embed.api.unseen import tested_split
    from cxr_embed.manifest import read_labels

    table = read_labels(labels, extra=extra or ())
    part = tested_split(table, split)
    found = load_probe(probe).evaluate(
        store,
        table,
        findings=findings,
        split=part,
        uncertain=uncertain,
        blank=blank,
        prevalence=prevalences(prevalence),
        threshold=threshold,
        thresholds_split=thresholds_split,
        calibrate=calibrate,
        by=listed(by) or (),
        count_no_finding=count_no_finding,
        bootstraps=bootstraps,
        seed=seed,
    )
    about = {"probe": str(probe), "store": str(store), "labels": str(labels), "split": part}
    show(found, about, str(probe), as_json)
