"""Scores against labels: figures with 95% intervals by patient, comparisons."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cxr_embed.api.inputs import Table, arrow_of, labels_of
from cxr_embed.api.tabular import Tabular
from cxr_embed.errors import CxrEmbedError
from cxr_embed.evaluation import Comparison, Evaluation, ScoreSource
from cxr_embed.evaluation import compare as run_compare
from cxr_embed.evaluation import evaluate as run
from cxr_embed.manifest import Manifest
from cxr_embed.present.numbers import PLAIN
from cxr_embed.types import Labels, counted
from cxr_embed.zeroshot import Scores

if TYPE_CHECKING:
    from cxr_embed.evaluation import LabelSource

_FIGURES = ("auroc", "average_precision", "sensitivity", "specificity", "ppv", "npv", "f1", "brier")


class EvaluationResult(Evaluation, Tabular):
    """An evaluation that prints well and gives tables."""

    def __repr__(self) -> str:
        lines = [f"{finding.name}: AUROC {PLAIN.estimate(finding.figures['auroc'])}" for finding in self.findings]
        covered = f"mean of {self.covered} of {counted(len(self.findings), 'finding')}"
        return self._as_text([*lines, f"{covered}: AUROC {PLAIN.estimate(self.mean_auroc)}"])

    def to_arrow(self) -> pa.Table:
        """A row a finding; `figure`, `figure_low` and `figure_high` for each figure that some finding has.

        With groups, a row a finding and group, after those of all cases (whose `attribute` and `group` are null).
        """
        rows = [{**finding.to_json(), "attribute": None, "group": None} for finding in self.findings]
        rows += [group.to_json() for group in self.groups]
        names = ["finding", *(["attribute", "group"] if self.groups else []), "n", "positives", "patients"]
        names += ["threshold"] if any(row.get("threshold") is not None for row in rows) else []
        for figure in _FIGURES:
            if any(row.get(figure) is not None for row in rows):
                names += [figure, f"{figure}_low", f"{figure}_high"]
        return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})

    def plot(self, path: str | os.PathLike[str] | None = None) -> Any:
        """AUROC of every finding with its interval.

        Args:
            path: to write it to as well: .png, .svg or .pdf.

        Returns:
            A `matplotlib.figure.Figure`, which a notebook shows.

        Raises:
            ReportError: where it cannot be written.
        """
        from cxr_embed.reporting.plots import auroc_figure

        return auroc_figure(
            [{"name": "scores", "evaluation": self.to_json()}], Path(path) if path is not None else None
        )

    def _remarks(self) -> Sequence[str]:
        return self.warnings


def evaluate(
    scores: ScoreSource | Table | np.ndarray,
    labels: LabelSource | Table | np.ndarray,
    *,
    findings: Sequence[str] | None = None,
    extra: Sequence[str] = (),
    patients: Mapping[str, str] | Sequence[str] | np.ndarray | None = None,
    **options: Any,
) -> EvaluationResult:
    """Compares scores with labels, joined by image id and by the findings' names.

    Args:
        scores: what `predict` or `screen` gives, a file, a table of pandas or pyarrow, a dict of columns; any of them
            with `image_id` and a column a finding. Or an array `(N,)` or `(N, F)`, beside labels of its shape.
        labels: a manifest, or a table of `image_id` and findings of 1, 0 and blank, of any of these kinds.
        findings: names of the columns of arrays.
        extra: columns of the labels that are not findings.
        patients: image to patient, where neither says; of arrays, one id a row.
        options: as `cxr_embed.evaluation.evaluate` takes them: split, by, threshold, thresholds_from,
            thresholds_split, calibrate, prevalence, uncertain, count_no_finding, bootstraps, seed.

    Raises:
        ManifestError, ScoresError: as `cxr_embed.evaluation.evaluate` does.
    """
    if isinstance(scores, np.ndarray) or isinstance(labels, np.ndarray):
        scores, labels, patients = _of_arrays(scores, labels, findings, patients)
    elif findings is not None:
        raise CxrEmbedError("`findings` names the columns of arrays; tables have names of their own")
    elif patients is not None and not isinstance(patients, Mapping):
        raise CxrEmbedError("`patients` is a dict of image id to patient, beside tables")
    if options.get("thresholds_from") is not None:
        options["thresholds_from"] = scores_of(options["thresholds_from"])
    found = run(scores_of(scores), labels_or_values(labels, extra), patients=patients, **options)
    return EvaluationResult(**vars(found))


def compare(
    first: ScoreSource | Table, second: ScoreSource | Table, labels: LabelSource | Table, *, extra: Sequence[str] = (),
    **options: Any,
) -> Comparison:  # fmt: skip
    """Compares two scores of the same cases: differences with 95% intervals by patient, and tests.

    Args:
        first, second, labels, extra: as `evaluate` takes them; no arrays.
        options: as `cxr_embed.evaluation.compare` takes them: split, uncertain, count_no_finding, bootstraps, seed.

    Raises:
        ManifestError, ScoresError: as `cxr_embed.evaluation.compare` does.
    """
    return run_compare(scores_of(first), scores_of(second), labels_or_values(labels, extra), **options)


def scores_of(scores: Any) -> Any:
    """Scores as `read_scores` takes them."""
    # A table may have a column of that name.
    known = all(hasattr(scores, name) for name in ("ids", "names", "values"))
    return scores if known or isinstance(scores, str | os.PathLike) else arrow_of(scores, "scores")


def labels_or_values(labels: Any, extra: Sequence[str] = ()) -> Manifest | Labels:
    """Labels with or without a table around them."""
    return labels if isinstance(labels, Labels) else labels_of(labels, extra)


def _of_arrays(
    scores: Any, labels: Any, findings: Sequence[str] | None, patients: Any
) -> tuple[Scores, Labels, dict[str, str] | None]:
    values, known = np.asarray(scores), np.asarray(labels)
    if values.ndim not in (1, 2) or values.shape != known.shape:
        raise CxrEmbedError(
            f"`scores` and `labels` are arrays of one shape, (N,) or (N, F), not {values.shape} and {known.shape}"
        )
    values, known = (array.reshape(len(array), -1) for array in (values, known))
    count = values.shape[1]
    names = tuple(findings or (["finding"] if count == 1 else [f"finding {number + 1}" for number in range(count)]))
    if len(names) != count:
        raise CxrEmbedError(f"`findings` names {len(names)}, the arrays have {counted(count, 'column')}")
    ids = np.array([f"row {number:09d}" for number in range(len(values))], np.str_)
    if patients is not None and not isinstance(patients, Mapping):
        if len(patients) != len(ids):
            raise CxrEmbedError(
                f"`patients` has {counted(len(patients), 'id')}, the arrays have {counted(len(ids), 'row')}"
            )
        owners = ["" if one is None or one != one else str(one).strip() for one in patients]
        if "" in owners:
            raise CxrEmbedError(f"`patients` is blank in row {owners.index('')}; name a patient in every row")
        patients = dict(zip(ids.tolist(), owners, strict=True))
    return (
        Scores(ids=ids, names=names, values=values, kind="probability"),
        Labels(ids, names, known.astype(np.float32)),
        patients,
    )
