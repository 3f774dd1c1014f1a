"""A report for people: its tables as text cells, and the whole of it as Markdown."""

from __future__ import annotations

from cxr_embed.evaluation.tables import told as estimate_text
from cxr_embed.metrics import Estimate
from cxr_embed.screening.finding_report import FindingReport, PairReport, Report
from cxr_embed.types import counted, format_threshold

Table = tuple[list[str], list[list[str]]]


def ranking_table(report: Report) -> Table:
    """Headings and rows: how well scores rank images, and how much that hangs on single prompts."""
    if report.labels is None:
        rows = [[f.name, str(len(f.pairs)), _range(f.spread("agreement")), _least_agreeing(f)] for f in report.findings]
        return ["finding", "pairs", "agreement", "agrees least with the whole"], rows
    rows = [
        [f.name, f"{f.images:,}", f"{f.positives:,}", estimate_text(f.auroc) + _mark(f), _range(f.spread("auroc"))]
        for f in report.findings
    ]
    mean = estimate_text(report.mean_auroc or Estimate(None)) + "  "
    rows.append([f"mean of {report.covered} of {len(report.findings)}", "", "", mean, ""])
    return ["finding", "images", "positive", "AUROC (95%)", "single pairs"], rows


def threshold_table(report: Report) -> Table | None:
    """Headings and rows: thresholds and what they do; None where none were chosen."""
    if report.rule is None:
        return None
    if report.labels is None:
        rows = [
            [f.name, format_threshold(f.point.threshold), f"{f.point.flag_rate:.1%}"]
            for f in report.findings
            if f.point
        ]
        return ["finding", "threshold", "flagged"], rows
    rows = []
    for f in report.findings:
        point = f.point
        rows.append(
            [
                f.name,
                format_threshold(point.threshold) if point else "-",
                _percent(point.sensitivity if point else None),
                _percent(point.specificity if point else None),
                _percent(f.prevalence) + ("" if f.prevalence_stated or f.prevalence is None else "*"),
                _number(f.flags_per_1000),
                _number(f.missed_per_1000),
            ]
        )
    return ["finding", "threshold", "sens.", "spec.", "prev.", "flags\n/1000", "missed\n/1000"], rows


def polarity(report: Report, most: int | None = None) -> list[str]:
    """Faults of polarity, a sentence a finding, and what they mean.

    Args:
        report: what to tell.
        most: findings that are told in full, those of the lowest AUROC first; the others are only counted.
    """
    faulty = [finding for finding in report.findings if finding.polarity]
    if most is not None and len(faulty) > most:
        faulty.sort(key=lambda finding: 1.0 if finding.auroc.value is None else finding.auroc.value)
    told = [f"{finding.name}: {'; '.join(finding.polarity)}" for finding in faulty[:most]]
    if len(faulty) > len(told):
        told.append(f"{counted(len(faulty) - len(told), 'more finding')}, marked !; `report` tells all")
    under = any(f.auroc.value is not None and f.auroc.value < 0.5 for f in report.findings)
    pairs = [pair for finding in report.findings for pair in finding.pairs]
    under |= any(pair.auroc is not None and pair.auroc < 0.5 for pair in pairs)
    higher = any(pair.negative_higher is not None and pair.negative_higher > 0.5 for pair in pairs)
    meaning = [
        "under 0.5, images with the finding score lower than those without: are the prompts swapped?" if under else "",
        "a negative that scores higher on positives makes zero, or 0.5, a useless threshold" if higher else "",
    ]
    return [*told, *filter(None, meaning)] if told else []


def to_markdown(report: Report, about: dict[str, str], research: str) -> str:
    """The report as a Markdown file.

    Args:
        report: what to tell.
        about: what was scored with what, a line each.
        research: the sentence on what it is not for.
    """
    lines = ["# Zero-shot report", "", research, ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", "## Ranking", "", *_markdown(ranking_table(report))]
    thresholds = threshold_table(report)
    if thresholds is not None and report.rule is not None:
        lines += ["", f"## Thresholds: {report.rule.words}", "", *_markdown(thresholds)]
    for title, sentences in (("Polarity", polarity(report)), ("Limits", report.warnings)):
        if sentences:
            lines += ["", f"## {title}", "", *(f"- {_escape(sentence)}" for sentence in sentences)]
    lines += ["", "## Single prompt pairs", ""]
    heads = ["finding", "positive", "negative", "AUROC", "agreement", "negative higher on positives"]
    rows = [_pair_row(finding.name, pair) for finding in report.findings for pair in finding.pairs]
    return "\n".join([*lines, *_markdown((heads, rows))]) + "\n"


def _pair_row(name: str, pair: PairReport) -> list[str]:
    figures = [f"{value:.3f}" if value is not None else "-" for value in (pair.auroc, pair.agreement)]
    return [name, pair.positive, pair.negative or "-", *figures, _percent(pair.negative_higher)]


def _markdown(table: Table) -> list[str]:
    heads, rows = table
    lines = ["| " + " | ".join(heads).replace("\n", "") + " |", "|" + "---|" * len(heads)]
    return lines + ["| " + " | ".join(map(_escape, row)) + " |" for row in rows]


def _escape(text: str) -> str:
    # A star or underscore in a prompt would turn into emphasis, a bar into a column.
    return "".join(f"\\{letter}" if letter in "\\`*_|<>[]#" else letter for letter in text)


def _mark(finding: FindingReport) -> str:
    return " !" if finding.polarity else "  "


def _range(spread: tuple[float, float] | None) -> str:
    return f"{spread[0]:.3f} - {spread[1]:.3f}" if spread is not None else "-"


def _percent(part: float | None) -> str:
    return f"{part:.1%}" if part is not None else "-"


def _number(value: float | None) -> str:
    return f"{value:.1f}" if value is not None else "-"


def _least_agreeing(finding: FindingReport) -> str:
    known = [pair for pair in finding.pairs if pair.agreement is not None]
    if len(known) < 2:
        return "-"
    pair = min(known, key=lambda pair: pair.agreement or 0)
    return f"{pair.positive} / {pair.negative}" if pair.negative is not None else pair.positive
