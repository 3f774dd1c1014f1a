"""`cxr-embed probe evaluate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from cxr_embed.cli.common import plural, prevalences
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
    from cxr_embed.manifest import Manifest
    from cxr_embed.probe.persistence import TrainedProbe
    from cxr_embed.store import Store
    from cxr_embed.zeroshot import Scores

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
    from cxr_embed.evaluation import evaluate as run
    from cxr_embed.manifest import read_labels
    from cxr_embed.probe.persistence import load_probe
    from cxr_embed.store import open_store

    check_uncertain(uncertain)
    table = read_labels(labels, extra=extra or ())
    part = split or ("test" if "split" in table.table.column_names else None)
    trained = load_probe(probe)
    parts = [part] if thresholds_split is None else [part, thresholds_split]
    predicted = _predict(trained, open_store(store), table, parts)
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


@dataclass(frozen=True)
class _Predicted:
    """A probe's scores, whose the images are (`patients` is None where nobody knows), and what was left out."""

    scores: Scores
    owners: np.ndarray
    patients: Mapping[str, str] | None
    notes: tuple[str, ...]


def _check_kept(trained: TrainedProbe, tested: _Predicted) -> None:
    """Refuses to test kept thresholds on patients that they were chosen on.

    Raises:
        ProbeError: naming the first few.
    """
    from cxr_embed.probe.features import ProbeError

    both = np.intersect1d(tested.owners, trained.chosen_on)
    if len(both):
        named = ", ".join(both[:3].tolist()).replace("\n", "")
        raise ProbeError(
            f"{_among(len(both), len(tested.owners))} that the probe's thresholds were chosen on ({named}); "
            "evaluate on others, by --split, or state a --threshold"
        )


def _among(patients: int, images: int) -> str:
    """Words for patients who should not be tested."""
    return (
        f"{plural(patients, 'patient')} of these {plural(images, 'image')} "
        f"{'is' if patients == 1 else 'are'} among those"
    )


def _predict(trained: TrainedProbe, store: Store, labels: Manifest, parts: list[str | None]) -> _Predicted:
    """Scores of the images of some splits.

    Raises:
        ProbeError: for another encoder's store, a split that is not there, or patients that the probe learned from.
    """
    from cxr_embed.probe.cases import match_cases
    from cxr_embed.probe.features import ProbeError
    from cxr_embed.zeroshot import Scores

    trained.check_store(store)
    matched = [match_cases(store, labels, split=part, known=False) for part in dict.fromkeys(parts)]
    ids, places = np.unique(np.concatenate([cases.ids for cases in matched]), return_index=True)
    patients = np.concatenate([cases.patients for cases in matched])[places]
    seen = np.flatnonzero(trained.seen(patients, ids))
    if len(seen):
        named = ", ".join(np.unique(patients[seen])[:3].tolist()).replace("\n", "")
        raise ProbeError(
            f"{_among(len(np.unique(patients[seen])), len(ids))} that the probe learned from ({named}); "
            "evaluate on others, by --split"
        )
    learned = [number for number in range(len(trained.findings)) if number not in trained.probe.undefined_]
    names = tuple(trained.findings[number] for number in learned)
    notes = [note for cases in matched for note in cases.notes]
    notes += [f"{name} was not learned: {reason}" for name, reason in trained.undefined.items()]
    known = not any(patient.startswith("\n") for patient in patients.tolist())
    return _Predicted(
        Scores(ids, names, trained.predict(store, ids)[:, learned], "probability"),
        patients,
        dict(zip(ids.tolist(), patients.tolist(), strict=True)) if known else None,
        tuple(dict.fromkeys(notes)),
    )


def thresholds_on(
    trained: TrainedProbe, store: Store, labels: Manifest, split: str, rule: str | None, uncertain: str
) -> tuple[TrainedProbe, list[str]]:
    """The probe with a threshold for each finding, chosen on a split that it did not learn from, and what to know.

    Raises:
        ProbeError: where the probe learned from a patient of the split.
        ScoresError: for an unknown rule.
    """
    from cxr_embed.evaluation.cases import join
    from cxr_embed.evaluation.scores import read_scores
    from cxr_embed.evaluation.thresholds import choose
    from cxr_embed.probe.persistence import ThresholdRecord

    predicted = _predict(trained, store, labels, [split])
    cases = join(
        read_scores(predicted.scores),
        labels,
        patients=predicted.patients,
        split=split,
        uncertain=uncertain,  # type: ignore[arg-type]
    )
    choices, notes = choose(cases.names, rule, cases, None)
    thresholds = {name: choice.threshold for name, choice in choices.items() if choice.threshold is not None}
    if not thresholds:
        return trained, notes
    how = next(choice.rule for choice in choices.values() if choice.threshold is not None)
    patients = np.unique(predicted.owners)
    chosen = ThresholdRecord(split, how.replace("the validation part", f"the split {split}"), len(patients))
    return replace(trained, thresholds=thresholds, chosen=chosen, chosen_on=patients), notes
