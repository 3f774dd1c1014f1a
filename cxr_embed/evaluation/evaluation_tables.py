"""An evaluation or a comparison for people: tables as text cells. Each fits into 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cxr_embed.evaluation.comparison import Comparison
from cxr_embed.evaluation.measure import DELONG
from cxr_embed.evaluation.result import Evaluation, FindingResult, GroupResult
from cxr_embed.metrics import Estimate
from cxr_embed.present.numbers import PLAIN
from cxr_embed.present.tables import Table
from cxr_embed.types import counted


def finding_tables(evaluation: Evaluation) -> list[Table]:
    """Ranking, calibration, thresholds and predictive values, those that there are, with the same rows."""
    findings = evaluation.findings
    mean = f"mean of {evaluation.covered} of {len(findings)}"
    tables = [
        _table(
            ["finding", "n", "positive", "AUROC (95%)", "av. precision (95%)"],
            findings,
            lambda f: [f"{f.n:,}", f"{f.positives:,}", *_figures(f, "auroc", "average_precision")],
            [mean, "", "", PLAIN.estimate(evaluation.mean_auroc), ""],
        )
    ]
    if _any(findings, "brier"):
        tables.append(
            _table(
                ["finding", "Brier (95%)", "calib. error (95%)"],
                findings,
                lambda f: _figures(f, "brier", "calibration_error"),
            )
        )
    if any(finding.threshold is not None for finding in findings):
        tables.append(
            _table(
                ["finding", "threshold", "sens. (95%)", "spec. (95%)", "F1 (95%)"],
                findings,
                lambda f: [
                    f"{f.threshold:.4g}" if f.threshold is not None else "-",
                    *(PLAIN.percent_estimate(f.figures[name], 0) for name in ("sensitivity", "specificity")),
                    PLAIN.estimate(f.figures["f1"], 2),
                ],
            )
        )
    if _any(findings, "ppv") or _any(findings, "npv") or _any(findings, "net_benefit"):
        tables.append(
            _table(
                ["finding", "prev.", "PPV (95%)", "NPV (95%)", "net benefit\n/1000 (95%)"],
                findings,
                lambda f: [
                    f"{f.stated_prevalence:.1%}" if f.stated_prevalence is not None else "own",
                    *(PLAIN.percent_estimate(f.figures[name], 1) for name in ("ppv", "npv")),
                    PLAIN.estimate(_per_thousand(f.figures["net_benefit"]), 0, between=" to "),
                ],
            )
        )
    return tables


def group_tables(evaluation: Evaluation) -> list[Table]:
    """A table for each attribute: AUROC in each group, and what it differs by from the largest group."""
    tables = []
    for attribute in dict.fromkeys(group.attribute for group in evaluation.groups):
        groups = [group for group in evaluation.groups if group.attribute == attribute]
        heads = [f"AUROC by {attribute}", "positive / n", "AUROC (95%)", f"minus {groups[0].reference} (95%)"]
        rows: list[list[str]] = []
        for finding in dict.fromkeys(group.finding for group in groups):
            rows.append([finding, "", "", ""])
            rows += [_group_row(group) for group in groups if group.finding == finding]
        tables.append(Table(heads=heads, rows=rows))
    return tables


def comparison_table(comparison: Comparison) -> Table:
    """AUROC of both, the difference, and p after Holm's correction."""
    rows = []
    named = [(f.name, f"{f.positives:,}", f.auroc, f.auroc.p_holm) for f in comparison.findings]
    total = f"mean of {comparison.covered} of {len(comparison.findings)}"
    for name, positives, found, p in [*named, (total, "", comparison.mean_auroc, comparison.mean_auroc.p)]:
        figures = map(PLAIN.number, (found.first, found.second))
        rows.append([name, positives, *figures, PLAIN.estimate(found.difference, between=" to "), PLAIN.p(p)])
    return Table(heads=["finding", "positive", "first", "second", "AUROC difference (95%)", "p (Holm)"], rows=rows)


def about_intervals(evaluation: Evaluation | Comparison) -> str:
    """How intervals were made, in words."""
    if isinstance(evaluation, Evaluation):
        delong = any(finding.auroc_interval == DELONG for finding in evaluation.findings)
    else:
        delong = any(finding.test == DELONG for finding in evaluation.findings)
    people, images = evaluation.patients, evaluation.images
    of = counted(people, "patient", "patients") if people is not None else counted(images, "image", "images")
    draws = f"{counted(evaluation.bootstraps, 'draw', 'draws')} of {of}, seed {evaluation.seed}"
    return f"{draws}; AUROC by DeLong, one image a patient" if delong else draws


def _table(
    heads: list[str],
    findings: Sequence[FindingResult],
    cells: Callable[[FindingResult], list[str]],
    last: list[str] | None = None,
) -> Table:
    rows = [[finding.name, *cells(finding)] for finding in findings]
    return Table(heads=heads, rows=[*rows, last] if last is not None else rows)


def _figures(finding: FindingResult, *names: str) -> list[str]:
    return [PLAIN.estimate(finding.figures[name]) for name in names]


def _per_thousand(figure: Estimate) -> Estimate:
    value, low, high = (None if n is None else 1000 * n for n in (figure.value, figure.low, figure.high))
    return Estimate(value, low, high, figure.reason)


def _any(findings: Sequence[FindingResult], name: str) -> bool:
    return any(finding.figures[name].value is not None for finding in findings)


def _group_row(group: GroupResult) -> list[str]:
    apart = group.differences.get("auroc")
    return [
        f"  {group.group}",
        f"{group.positives:,} / {group.n:,}",
        PLAIN.estimate(group.figures["auroc"]),
        "" if group.group == group.reference else PLAIN.estimate(apart or Estimate(None), between=" to "),
    ]
