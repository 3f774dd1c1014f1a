"""Every encoder beside the reference: paired, on the same test images."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from cxr_embed.api.evaluate import compare
from cxr_embed.api.index_evaluation import evaluate_index
from cxr_embed.benchmark.cells import CURVE, INDEX, LABELS, SCORES, Cell
from cxr_embed.benchmark.results import MEAN, Row, difference_row
from cxr_embed.benchmark.tasks import SCORED, index_options
from cxr_embed.cases import match_names
from cxr_embed.manifest import Manifest, read_labels
from cxr_embed.metrics import Estimate, p_value
from cxr_embed.metrics.intervals import LEVEL
from cxr_embed.probe.curve_summary import CURVE_JSON
from cxr_embed.types import in_means

Auroc = dict[tuple[str, int | str], dict[int | None, float | None]]


def differences(cell: Cell, reference: Cell) -> list[Row]:
    """A cell minus the reference's cell of the same data set and task; none where nothing can be compared."""
    if cell.task in SCORED:
        return _of_scores(cell, reference)
    if cell.task == "curve":
        return _of_curves(cell, reference)
    return _of_neighbours(cell, reference) if cell.task == "neighbours" else []


def _of_scores(cell: Cell, reference: Cell) -> list[Row]:
    labels = _labels(cell)
    found = compare(
        cell.folder / SCORES,
        reference.folder / SCORES,
        labels,
        split=cell.data.test,
        count_no_finding=cell.plan.count_no_finding,
        bootstraps=cell.plan.bootstraps,
        seed=cell.plan.seed,
    )
    # Figures stand under the labels' names; scores may spell them otherwise.
    columns = match_names([finding.name for finding in found.findings], labels.findings, "scores")
    rows = []
    for finding, column in zip(found.findings, columns, strict=True):
        name = column or finding.name
        rows.append(difference_row(name, "auroc", finding.auroc.difference, finding.auroc.p))
        # Its interval is shown; one test a finding keeps the correction to what is asked.
        rows.append(difference_row(name, "average_precision", finding.average_precision.difference, None))
    mean = found.mean_auroc
    return [*rows, difference_row(MEAN, "auroc", mean.difference, mean.p)]


def _labels(cell: Cell) -> Manifest:
    """The labels that a cell's scores are of."""
    return cell.data.labels if cell.task != "shortcuts" else read_labels(cell.folder / LABELS)


def _of_neighbours(cell: Cell, reference: Cell) -> list[Row]:
    """Votes are tested; precision and nDCG have intervals."""
    made = evaluate_index([cell.folder / INDEX, reference.folder / INDEX], cell.data.labels, **index_options(cell))
    found, rows = made.differences[0], []
    if found.votes is not None:
        rows += [difference_row(f.name, "auroc", f.auroc.difference, f.auroc.p) for f in found.votes.findings]
        rows.append(difference_row(MEAN, "auroc", found.votes.mean_auroc.difference, found.votes.mean_auroc.p))
    for word, by_finding, mean in (
        ("precision", found.precision, found.mean_precision),
        ("ndcg", found.ndcg, found.mean_ndcg),
    ):
        for name, estimates in [*by_finding.items(), (MEAN, mean)]:
            rows += [
                difference_row(name, f"{word}@{k}", estimate, None)
                for k, estimate in zip(made.ks, estimates, strict=True)
            ]
    return rows


def _of_curves(cell: Cell, reference: Cell) -> list[Row]:
    """Draw by draw, with a paired t-test over the draws: both learned from the same draws."""
    (ours, draws), (theirs, others) = _aurocs(cell.folder), _aurocs(reference.folder)
    if draws != others:
        return []
    rows, apart = [], dict[tuple[str, int | str], np.ndarray]()
    for finding, shots in ours:
        one, other = ours[finding, shots], theirs.get((finding, shots), {})
        pairs = [(one[seed], other.get(seed)) for seed in one]
        values = np.array([np.nan if a is None or b is None else a - b for a, b in pairs])
        apart[finding, shots] = values
        rows.append(_difference(finding, shots, values))
    findings = list(dict.fromkeys(finding for finding, _ in ours))
    meant = [name for name, kept in zip(findings, in_means(findings, cell.plan.count_no_finding), strict=True) if kept]
    for shots in dict.fromkeys(shots for _, shots in ours):
        tables = [apart[name, shots] for name in meant if (name, shots) in apart]
        defined = [values for values in tables if not np.isnan(values).any()]
        if defined:
            rows.append(_difference(MEAN, shots, np.mean(defined, axis=0)))
    return rows


def _aurocs(folder: Path) -> tuple[Auroc, list[Any]]:
    """AUROC by finding and size, then by draw; and the draws."""
    body = json.loads((folder / CURVE / CURVE_JSON).read_text())
    found: Auroc = {}
    for row in body["results"]:
        found.setdefault((row["finding"], row["shots"]), {})[row["seed"]] = row["auroc"]
    return found, [body["draws"], body["test_ids"]]


def _difference(finding: str, shots: int | str, values: np.ndarray) -> Row:
    """Mean of the paired differences, its interval by Student's t, and the paired t-test's p."""
    size = shots if isinstance(shots, int) else None
    count = len(values)
    if not count or np.isnan(values).any():
        return difference_row(finding, "auroc", Estimate(None), None, size)
    mean = float(values.mean())
    if count == 1:
        return difference_row(finding, "auroc", Estimate(mean), None, size)
    error = float(values.std(ddof=1)) / math.sqrt(count)
    away = float(stdtrit(count - 1, (1 + LEVEL) / 2)) * error
    estimate = Estimate(mean, max(mean - away, -1.0), min(mean + away, 1.0))
    return difference_row(finding, "auroc", estimate, p_value(mean, error, count), size)
