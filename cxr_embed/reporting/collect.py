"""All that a report says, as plain JSON values; page, Markdown and CSV are made of nothing else."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.cases import some
from cxr_embed.evaluation import ScoredCases, ScoresError, compare, evaluate, read_scores
from cxr_embed.evaluation.groups import groups_of
from cxr_embed.evaluation.scored import join_scores
from cxr_embed.io.digests import digest_fits
from cxr_embed.io.times import utc_now
from cxr_embed.manifest import Companion, Manifest, read_labels
from cxr_embed.probe.persistence import TrainedProbe, load_probe
from cxr_embed.reporting.cards import origins, probe_card, store_card, store_names, without_places
from cxr_embed.reporting.curves import curves_of
from cxr_embed.reporting.data import describe_labels
from cxr_embed.reporting.examples import Explain, explained
from cxr_embed.reporting.few_label_plot import with_sizes
from cxr_embed.reporting.inputs import MOST, Inputs, ReportError, input_record, names_of
from cxr_embed.reporting.published import published_for
from cxr_embed.reporting.shortcuts import audit
from cxr_embed.reporting.words import summary, warnings
from cxr_embed.store import Store, open_store
from cxr_embed.types import RESEARCH, counted, in_means
from cxr_embed.version import __version__

FORMAT, VERSION = "cxr_embed.report", 1
_GROUPS = ("sex", "age", "view", "site")
_ANY_FOLDER = "folder"  # the recipe of a folder of pictures: no data set's
_CURVE_FORMAT = "cxr_embed.curve"

Progress = Callable[[str, int, int], None]


def collect(inputs: Inputs, progress: Progress | None = None, explain: Explain | None = None) -> dict[str, Any]:
    """Evaluates, compares and describes everything that was given.

    Args:
        inputs: files and settings.
        progress: called with a word for the step, what is done and how much there is.
        explain: how cases of the first scores are shown with heat maps; None for none.

    Returns:
        The report; `report.json` holds it, without the radiographs of explained cases.

    Raises:
        ReportError: for inputs that do not fit together.
        ManifestError, ScoresError, StoreError, ProbeError: for files that cannot be used.
    """
    if not 1 <= len(inputs.scores) <= MOST:
        raise ReportError(f"a report is of one to {MOST} score files, not of {len(inputs.scores)}")
    names = names_of(inputs.scores, "score files")
    labels = read_labels(inputs.labels, extra=inputs.extra)
    stores = [open_store(path) for path in inputs.stores]
    encoders = store_names(stores)
    probes = [
        (load_probe(path), name) for path, name in zip(inputs.probes, names_of(inputs.probes, "probes"), strict=True)
    ]
    curve = _read_curve(inputs.curve) if inputs.curve is not None else None
    steps = _Steps(progress, len(names) + len(names) - 1 + len(stores))
    scored, cases = _scored(inputs, names, labels, steps)
    comparisons = _comparisons(inputs, names, labels, steps)
    shortcuts = []
    for store, encoder in zip(stores, encoders, strict=True):
        steps(f"probing {encoder} for shortcuts")
        shortcuts += _shortcuts(store, encoder, inputs, labels, cases[0].ids)
    columns = tuple(dict.fromkeys(column for joined in cases for column in joined.columns))
    data = origins(labels, inputs.labels.name)
    findings = [found["finding"] for found in scored[0]["evaluation"]["findings"]]
    report: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "title": inputs.title,
        "created": inputs.created or utc_now(),
        "note": RESEARCH,
        "settings": _settings(inputs, labels),
        "labels": input_record(inputs.labels),
        "data": {**describe_labels(labels, columns, inputs.uncertain, inputs.blank), "origins": data},
        "scores": scored,
        "comparisons": comparisons,
        "published": _published(findings, data, labels.companion),
        "explained": None,
        "few_labels": curve,
        "shortcuts": shortcuts,
        "encoders": [store_card(store, name) for store, name in zip(stores, encoders, strict=True)],
        "probes": [probe_card(trained, name) for trained, name in probes],
        "software": _software(),
    }
    if explain is not None:
        shown = explained(cases[0], scored[0]["evaluation"]["findings"], explain)
        report["explained"] = {**shown, "scores": names[0], "note": RESEARCH}
    report["warnings"] = warnings(report, _leaks(probes, stores, cases[0], labels, inputs.split))
    report["summary"] = summary(report)
    return report


def _published(findings: Sequence[str], data: Sequence[str], companion: Companion | None) -> dict[str, Any] | None:
    """Published figures for the recipe of the labels' companion, else for what the labels give away.

    Images of the NIH carry labels of others too (RSNA's, SIIM's): that alone does not say which data set it is.
    """
    recipe = companion.recipe if companion is not None else ""
    if recipe and recipe != _ANY_FOLDER:
        return published_for(findings, recipe)
    return published_for(findings, None if list(data) in ([], ["NIH"]) else " and ".join(data))


class _Steps:
    """Tells the progress of a known number of steps."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def __call__(self, word: str) -> None:
        if self._progress is not None:
            self._progress(word, self._done, self._total)
        self._done += 1


def _scored(
    inputs: Inputs, names: Sequence[str], labels: Manifest, steps: _Steps
) -> tuple[list[dict[str, Any]], list[ScoredCases]]:
    """Each score file's figures and curves, and its cases."""
    scored, cases = [], []
    for name, path in zip(names, inputs.scores, strict=True):
        steps(f"evaluating {name}")
        joined = join_scores(
            read_scores(path),
            labels,
            findings=inputs.findings,
            split=inputs.split,
            uncertain=inputs.uncertain,
            blank=inputs.blank,
        )
        made = _evaluated(inputs, path, labels, joined)
        scored.append({"name": name, **input_record(path), "evaluation": made, "curves": curves_of(joined)})
        cases.append(joined)
    return scored, cases


def _comparisons(inputs: Inputs, names: Sequence[str], labels: Manifest, steps: _Steps) -> list[dict[str, Any]]:
    """The first score file against each other one."""
    found = []
    for name, path in islice(zip(names, inputs.scores, strict=True), 1, None):
        steps(f"comparing {names[0]} and {name}")
        found.append({"first": names[0], "second": name, **_compared(inputs, path, labels)})
    return found


def _evaluated(inputs: Inputs, path: Path, labels: Manifest, cases: ScoredCases) -> dict[str, Any]:
    by, notes = _attributes(inputs.by, cases)
    made = evaluate(
        path,
        labels,
        findings=inputs.findings,
        split=inputs.split,
        uncertain=inputs.uncertain,
        blank=inputs.blank,
        prevalence=inputs.prevalence,
        threshold=inputs.threshold,
        thresholds_split=inputs.thresholds_split,
        calibrate=inputs.calibrate,
        by=by,
        count_no_finding=inputs.count_no_finding,
        bootstraps=inputs.bootstraps,
        seed=inputs.seed,
    )
    body = made.to_json()
    return _without_places(body, notes)


def _without_places(body: dict[str, Any], notes: Sequence[str] = ()) -> dict[str, Any]:
    """Figures whose warnings, and notes after them, name files without this machine's folders."""
    return {**body, "warnings": [without_places(text) for text in [*body["warnings"], *notes]]}


def _compared(inputs: Inputs, path: Path, labels: Manifest) -> dict[str, Any]:
    made = compare(
        inputs.scores[0],
        path,
        labels,
        findings=inputs.findings,
        split=inputs.split,
        uncertain=inputs.uncertain,
        blank=inputs.blank,
        count_no_finding=inputs.count_no_finding,
        bootstraps=inputs.bootstraps,
        seed=inputs.seed,
    )
    return _without_places(made.to_json())


def _attributes(by: tuple[str, ...] | None, cases: ScoredCases) -> tuple[tuple[str, ...], list[str]]:
    """Columns to make groups of: those asked for, or those that there are; and why one makes none."""
    if by is not None:
        return by, []
    found, notes = [], []
    for attribute in _GROUPS:
        if attribute not in cases.table or len(np.unique(cases.table[attribute])) < 2:
            continue
        try:
            groups_of(cases, attribute)
            found.append(attribute)
        except ScoresError as error:
            notes.append(f"no groups: {error}")
    return tuple(found), notes


def _shortcuts(store: Store, name: str, inputs: Inputs, labels: Manifest, tested: np.ndarray) -> list[dict[str, Any]]:
    output = inputs.output or next(iter(store.spec.outputs))
    if output not in store.spec.outputs:
        raise ReportError(
            f"{store.spec.name} has no output {output!r}, it has {', '.join(store.spec.outputs)}; give another `output`"
        )
    return audit(store, name, output, inputs.pool, labels, tested, bootstraps=inputs.bootstraps, seed=inputs.seed)


def _read_curve(path: Path) -> dict[str, Any]:
    """What a page says of a curve; the draws and single results stay in their file.

    Raises:
        ReportError: for a file that is not a curve.
    """
    record = input_record(path)
    try:
        body = json.loads(path.read_bytes())
        if body["format"] != _CURVE_FORMAT:
            raise ValueError
        if not digest_fits(body):
            raise ReportError(f"{path}: damaged, its digest does not match; restore it, or run `probe curve` again")
        kept = ("protocol", "train", "test", "notes", "summary", "differences", "findings")
        found = with_sizes({**record, **{name: body[name] for name in kept}})
        counted = [name for name, meant in zip(body["findings"], in_means(body["findings"]), strict=True) if not meant]
        if counted and "no_finding_in_means" not in body["protocol"]:
            note = f"its means count '{counted[0]}' as a finding, as releases before did; run `probe curve` again"
            found["notes"] = [*body["notes"], note]
        return found
    except (ValueError, KeyError, TypeError):
        raise ReportError(f"{path}: not the curve.json that `cxr-embed probe curve` writes") from None


def _leaks(
    probes: list[tuple[TrainedProbe, str]], stores: list[Store], cases: ScoredCases, labels: Manifest, split: str | None
) -> list[str]:
    """Test cases that training cases were too, in words."""
    leaks = []
    for trained, name in probes:
        seen = np.unique(cases.patients[trained.seen(cases.patients, cases.ids)])
        if len(seen):
            leaks.append(
                f"{len(seen):,} of the tested patients are among those that the probe {name} learned from "
                f"({some(seen)}): figures of these scores are no test of it"
            )
    if split is None:
        return leaks
    splits = dict(zip(labels.ids.tolist(), labels.column("split").tolist(), strict=True))
    for store in stores[:1]:
        content = list(zip(store.ids.tolist(), store.index.files(), strict=True))
        tested = {digest for image_id, digest in content if splits.get(image_id) == split}
        others = [image_id for image_id, digest in content if digest in tested and splits.get(image_id, split) != split]
        if others:
            leaks.append(
                f"{counted(len(others), 'image of another split is', 'images of other splits are')} the "
                "same file as a tested image, under another id "
                f"({', '.join(others[:3])}{', ...' if len(others) > 3 else ''})"
            )
    return leaks


def _settings(inputs: Inputs, labels: Manifest) -> dict[str, Any]:
    return {
        "split": inputs.split,
        "uncertain": inputs.uncertain,
        "blank": inputs.blank or labels.blank,
        "prevalence": inputs.prevalence,
        "threshold": inputs.threshold,
        "thresholds_split": inputs.thresholds_split,
        "calibrate": inputs.calibrate,
        "bootstraps": inputs.bootstraps,
        "seed": inputs.seed,
        "level": 0.95,
    }


def _software() -> dict[str, str]:
    names = ("numpy", "scipy", "scikit-learn", "matplotlib")
    return {"cxr-embed": __version__, "python": platform.python_version(), **{name: version(name) for name in names}}
