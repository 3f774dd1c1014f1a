"""`cxr-embed probe evaluate`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from cxr_embed.cli.common import prevalences
from cxr_embed.cli.evaluate import (
    AsJson,
    Bootstraps,
    By,
    Calibrate,
    CountNoFinding,
    Extra,
    LabelFile,
    Prevalence,
    Seed,
    Threshold,
    ThresholdsSplit,
    Uncertain,
    check_uncertain,
    show,
    words,
)

if TYPE_CHECKING:
    from cxr_embed.api.probe import Predicted
    from cxr_embed.probe.persistence import TrainedProbe

EXAMPLE = "Example: `cxr-embed probe evaluate probes/hog vectors/hog data/manifest.csv --by sex,view`"


def evaluate(
    probe: Annotated[Path, typer.Argument(help="The probe's folder.")],
    store: Annotated[Path, typer.Argument(help="The store's folder.")],
    labels: LabelFile,
    extra: Extra = None,
    split: Annotated[
        str | None,
        typer.Option(help="Look at this split; test by default, where there are splits.", show_default=False),
    ] = None,
    uncertain: Uncertain = "unknown",
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
    from cxr_embed.api.probe import predict_untaught
    from cxr_embed.evaluation import evaluate as run
    from cxr_embed.manifest import read_labels
    from cxr_embed.probe.persistence import load_probe
    from cxr_embed.store import open_store

    check_uncertain(uncertain)
    table = read_labels(labels, extra=extra or ())
    part = split or ("test" if "split" in table.table.column_names else None)
    trained = load_probe(probe)
    parts = [part] if thresholds_split is None else [part, thresholds_split]
    predicted = predict_untaught(trained, open_store(store), table, parts)
    kept = trained.thresholds if threshold is None and thresholds_split is None else {}
    if kept:
        _check_kept(trained, predicted)
    found = run(
        predicted.scores,
        table,
        patients=predicted.patients,
        split=part,
        uncertain=uncertain,  # type: ignore[arg-type]
        prevalence=prevalences(prevalence, list(predicted.scores.names), "the probe has") if prevalence else None,
        threshold=kept or threshold,
        thresholds_split=thresholds_split,
        calibrate=calibrate,  # type: ignore[arg-type]
        by=words(by),
        count_no_finding=count_no_finding,
        bootstraps=bootstraps,
        seed=seed,
    )
    findings = found.findings
    if kept and trained.chosen is not None:
        rule = f"{trained.chosen.rule}, kept in the probe"
        findings = tuple(replace(f, threshold_rule=rule) if f.threshold is not None else f for f in findings)
    found = replace(found, findings=findings, warnings=(*found.warnings, *predicted.notes))
    about = {"probe": str(probe), "store": str(store), "labels": str(labels), "split": part}
    show(found, about, str(probe), as_json)


def _check_kept(trained: TrainedProbe, tested: Predicted) -> None:
    """Refuses to test kept thresholds on patients that they were chosen on.

    Raises:
        ProbeError: naming the first few.
    """
    from cxr_embed.api.probe import among
    from cxr_embed.probe.features import ProbeError

    both = np.intersect1d(tested.owners, trained.chosen_on)
    if len(both):
        named = ", ".join(both[:3].tolist()).replace("\n", "")
        raise ProbeError(
            f"{among(len(both), len(tested.owners))} that the probe's thresholds were chosen on ({named}); "
            "evaluate on others, by --split, or state a --threshold"
        )
