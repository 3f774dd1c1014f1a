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
from cxr_embed.arguments import checked_arguments
from cxr_embed.choices import Blank, CalibrationKind, Uncertain
from cxr_embed.errors import CxrEmbedError
from cxr_embed.evaluation import Comparison, Difference, Evaluation, ScoreSource
from cxr_embed.evaluation import compare as run_compare
from cxr_embed.evaluation import evaluate as run
from cxr_embed.evaluation.evaluate import Prevalence
from cxr_embed.evaluation.thresholds import Rule
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
            if figure == "auroc" or any(row.get(figure) is not None for row in rows):
                names += [figure, f"{figure}_low", f"{figure}_high"]
        return pa.table({name: pa.array([row.get(name) for row in rows]) for name in names})

    @checked_arguments
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


class ComparisonResult(Comparison, Tabular):
    """A comparison that prints well and gives tables."""

    def __repr__(self) -> str:
        lines = [f"{finding.name}: {_apart(finding.auroc)}" for finding in self.findings]
        covered = f"mean of {self.covered} of {counted(len(self.findings), 'finding')}"
        return self._as_text(["AUROC of the first minus the second", *lines, f"{covered}: {_apart(self.mean_auroc)}"])

    def to_arrow(self) -> pa.Table:
        """A row a finding, `(mean)` the last: both AUROCs, their difference with its interval, p and p after Holm."""
        rows = [("(mean)", self.mean_auroc)]
        rows[:0] = [(finding.name, finding.auroc) for finding in self.findings]
        return pa.Table.from_pylist(
            [
                {
                    "finding": name,
                    "first": auroc.first,
                    "second": auroc.second,
                    "difference": auroc.difference.value,
                    "difference_low": auroc.difference.low,
                    "difference_high": auroc.difference.high,
                    "p": auroc.p,
                    "p_holm": auroc.p_holm,
                }
                for name, auroc in rows
            ]
        )

    def _remarks(self) -> Sequence[str]:
        return self.warnings


def _apart(auroc: Difference) -> str:
    p = f", p {PLAIN.p(auroc.p_holm if auroc.p_holm is not None else auroc.p)}" if auroc.p is not None else ""
    return PLAIN.estimate(auroc.difference, between=" to ") + p


@checked_arguments
def evaluate(
    scores: ScoreSource | Table | np.ndarray,
    labels: LabelSource | Table | np.ndarray,
    *,
    findings: Sequence[str] | None = None,
    extra: Sequence[str] = (),
    patients: Mapping[str, str] | Sequence[str] | np.ndarray | None = None,
    split: str | None = None,
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
    prevalence: Prevalence | None = None,
    threshold: Rule | None = None,
    thresholds_from: ScoreSource | Table | None = None,
    thresholds_split: str | None = None,
    calibrate: CalibrationKind | None = None,
    by: Sequence[str] = (),
    count_no_finding: bool = False,
    bootstraps: int = 1000,
    seed: int = 0,
) -> EvaluationResult:
    """Compares scores with labels, joined by image id and by the findings' names.

    Intervals hold 95% and are by patient; where no patient has two cases, an AUROC's is DeLong's.

    Args:
        scores: what `predict` or `screen` gives, a file, a table of pandas or pyarrow, a dict of columns; any of them
            with `image_id` and a column a finding. Or an array `(N,)` or `(N, F)`, beside labels of its shape.
        labels: a manifest, or a table of `image_id` and findings of 1, 0 and blank, of any of these kinds.
        findings: that are looked at, all by default; `common`: those that both have and the vocabulary of findings
            knows, under their common names. Of arrays, the names of the columns.
        extra: columns of the labels that are not findings.
        patients: image to patient, where neither says; of arrays, one id a row.
        split: evaluate on the labels of this split only.
        uncertain: what a label of -1 counts as.
        blank: what a blank label counts as; what the labels' companion says by default, else `unknown`.
        prevalence: part of cases with the finding where the scores are to be used, for all findings or by finding (`*`
            is for all others): predictive values and net benefit are for it.
        threshold: `youden`, `f1`, `sensitivity=0.9`, `specificity=0.9` or `flag-rate=0.1`, chosen on the validation
            part; or a number that was known before, for all findings or by finding.
        thresholds_from: scores of the validation part; those of `scores` by default.
        thresholds_split: the labels' split that is the validation part.
        calibrate: makes probabilities of scores, fitted on the validation part, for Brier score, calibration error and
            net benefit.
        by: columns of the labels to make groups of: `sex`, `age` (in bands), `view`, or any other.
        count_no_finding: whether 'No Finding' has a part in means over findings.
        bootstraps, seed: draws of patients for an interval, and their seed.

    Raises:
        ManifestError: for tables that cannot be used, and labels that do not fit the scores.
        ScoresError: for scores that are not finite numbers, and options that do not fit.
    """
    if isinstance(scores, np.ndarray) or isinstance(labels, np.ndarray):
        scores, labels, patients = _of_arrays(scores, labels, findings, patients)
        findings = None
    elif patients is not None and not isinstance(patients, Mapping):
        raise CxrEmbedError("`patients` is a dict of image id to patient, beside tables")
    found = run(
        scores_of(scores),
        labels_or_values(labels, extra),
        findings=findings,
        patients=patients,
        split=split,
        uncertain=uncertain,
        blank=blank,
        prevalence=prevalence,
        threshold=threshold,
        thresholds_from=scores_of(thresholds_from, "thresholds_from") if thresholds_from is not None else None,
        thresholds_split=thresholds_split,
        calibrate=calibrate,
        by=by,
        count_no_finding=count_no_finding,
        bootstraps=bootstraps,
        seed=seed,
    )
    return EvaluationResult(**vars(found))


@checked_arguments
def compare(
    first: ScoreSource | Table,
    second: ScoreSource | Table,
    labels: LabelSource | Table,
    *,
    findings: Sequence[str] | None = None,
    extra: Sequence[str] = (),
    patients: Mapping[str, str] | None = None,
    split: str | None = None,
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
    count_no_finding: bool = False,
    bootstraps: int = 1000,
    seed: int = 0,
) -> ComparisonResult:
    """Compares two scores of the same cases: differences with 95% intervals by patient, and tests.

    Args:
        first, second: scores, as `evaluate` takes them; no arrays.
        labels, findings, extra, patients, split, uncertain, blank, count_no_finding, bootstraps, seed: as `evaluate`
            takes them.

    Raises:
        ManifestError, ScoresError: as `evaluate` does, and where the scores have no image or finding in common.
    """
    found = run_compare(
        scores_of(first, "first"),
        scores_of(second, "second"),
        labels_or_values(labels, extra),
        findings=findings,
        patients=patients,
        split=split,
        uncertain=uncertain,
        blank=blank,
        count_no_finding=count_no_finding,
        bootstraps=bootstraps,
        seed=seed,
    )
    return ComparisonResult(**vars(found))


def scores_of(scores: Any, what: str = "scores") -> Any:
    """Scores as `read_scores` takes them; `what` is the argument's name, for messages."""
    # A table may have a column of that name.
    known = all(hasattr(scores, name) for name in ("ids", "names", "values"))
    return scores if known or isinstance(scores, str | os.PathLike) else arrow_of(scores, what)


def labels_or_values(labels: Any, extra: Sequence[str] = ()) -> Manifest | Labels:
    """Labels with or without a table around them."""
    return labels if isinstance(labels, Labels) else labels_of(labels, extra)


def _of_arrays(
    scores: Any, labels: Any, findings: Sequence[str] | None, patients: Any
) -> tuple[Scores, Labels, dict[str, str] | None]:
    try:
        values, known = (np.asarray(given, np.float64) for given in (scores, labels))
    except (TypeError, ValueError):
        raise CxrEmbedError("`scores` and `labels` are both arrays of numbers, or both tables") from None
    if not values.size:
        raise CxrEmbedError("`scores` is an array without rows")
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
