"""An evaluation or a comparison for people: tables as text cells. Each fits into 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cxr_embed.evaluation.comparison import Comparison
from cxr_embed.evaluation.measure import DELONG
from cxr_embed.evaluation.result import Evaluation, FindingResult, GroupResult
from cxr_embed.metrics import Estimate
from cxr_embed.types import counted, digits_for


@dataclass(frozen=True)
class Table:
    """Text cells; the first column names the rows."""

    heads: list[str]
    rows: list[list[str]]


def finding_tables(evaluation: Evaluation) -> list[Table]:
    """Ranking, calibration, thresholds and predictive values, those that there are, with the same rows."""
    findings = evaluation.findings
    mean = f"mean of {evaluation.covered} of {len(findings)}"
    tables = [
        _table(
            ["finding", "n", "positive", "AUROC (95%)", "av. precision (95%)"],
            findings,
            lambda f: [f"{f.n:,}", f"{f.positives:,}", *_told(f, "auroc", "average_precision")],
            [mean, "", "", told(evaluation.mean_auroc), ""],
        )
    ]
    if _any(findings, "brier"):
        tables.append(
            _table(
                ["finding", "Brier (95%)", "calib. error (95%)"],
                findings,
                lambda f: _told(f, "brier", "calibration_error"),
            )
        )
    if any(finding.threshold is not None for finding in findings):
        tables.append(
            _table(
                ["finding", "threshold", "sens. (95%)", "spec. (95%)", "F1 (95%)"],
                findings,
                lambda f: [
                    f"{f.threshold:.4g}" if f.threshold is not None else "-",
                    *(percent(f.figures[name], 0) for name in ("sensitivity", "specificity")),
                    told(f.figures["f1"], 2),
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
                    *(percent(f.figures[name], 1) for name in ("ppv", "npv")),
                    told(f.figures["net_benefit"], 0, " to ", 1000),
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
        tables.append(Table(heads, rows))
    return tables


def comparison_table(comparison: Comparison) -> Table:
    """AUROC of both, the difference, and p after Holm's correction."""
    rows = []
    named = [(f.name, f"{f.positives:,}", f.auroc, f.auroc.p_holm) for f in comparison.findings]
    total = f"mean of {comparison.covered} of {len(comparison.findings)}"
    for name, positives, found, p in [*named, (total, "", comparison.mean_auroc, comparison.mean_auroc.p)]:
        figures = [f"{value:.3f}" if value is not None else "-" for value in (found.first, found.second)]
        rows.append([name, positives, *figures, told(found.difference, 3, " to "), p_told(p)])
    return Table(["finding", "positive", "first", "second", "AUROC difference (95%)", "p (Holm)"], rows)


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


def told(figure: Estimate, digits: int = 3, dash: str = "-", times: float = 1) -> str:
    """A figure with its interval: `0.818 (0.807-0.828)`; more digits where all of it would round to zero."""
    if figure.value is None:
        return "undefined"
    ends = (figure.value, figure.low, figure.high)
    digits = digits_for((None if value is None else value * times for value in ends), digits)

    def number(value: float) -> str:
        # Adding zero takes the sign off what was rounded to it.
        return f"{round(value * times, digits) + 0.0:.{digits}f}"

    if figure.low is None or figure.high is None:
        return number(figure.value)
    return f"{number(figure.value)} ({number(figure.low)}{dash}{number(figure.high)})"


def percent(figure: Estimate, digits: int) -> str:
    """A part of 1 with its interval, in percent: `82% (76-87)`."""
    if figure.value is None:
        return "-"
    value = f"{figure.value:.{digits}%}"
    if figure.low is None or figure.high is None:
        return value
    return f"{value} ({100 * figure.low:.{digits}f}-{100 * figure.high:.{digits}f})"


def p_told(p: float | None) -> str:
    """p with as many digits as mean something."""
    if p is None:
        return "-"
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _table(
    heads: list[str],
    findings: Sequence[FindingResult],
    cells: Callable[[FindingResult], list[str]],
    last: list[str] | None = None,
) -> Table:
    rows = [[finding.name, *cells(finding)] for finding in findings]
    return Table(heads, [*rows, last] if last is not None else rows)


def _told(finding: FindingResult, *names: str) -> list[str]:
    return [told(finding.figures[name]) for name in names]


def _any(findings: Sequence[FindingResult], name: str) -> bool:
    return any(finding.figures[name].value is not None for finding in findings)


def _group_row(group: GroupResult) -> list[str]:
    apart = group.differences.get("auroc")
    return [
        f"  {group.group}",
        f"{group.positives:,} / {group.n:,}",
        told(group.figures["auroc"]),
        "" if group.group == group.reference else told(apart, 3, " to ") if apart is not None else "undefined",
    ]
