"""A report for people: its tables as text cells, and the whole of it as Markdown."""

from __future__ import annotations

from cxr_embed.metrics import Estimate
from cxr_embed.present.numbers import PLAIN, format_threshold
from cxr_embed.present.tables import Table, markdown_table, markdown_text
from cxr_embed.screening.finding_report import FindingReport, PairReport, Report
from cxr_embed.types import counted


def ranking_table(report: Report) -> Table:
    """Headings and rows: how well scores rank images, and how much that hangs on single prompts."""
    if report.labels is None:
        rows = [[f.name, str(len(f.pairs)), _range(f.spread("agreement")), _least_agreeing(f)] for f in report.findings]
        return Table(heads=["finding", "pairs", "agreement", "agrees least with the whole"], rows=rows, words=(0, 3))
    rows = [
        [f.name, f"{f.images:,}", f"{f.positives:,}", PLAIN.estimate(f.auroc) + _mark(f), _range(f.spread("auroc"))]
        for f in report.findings
    ]
    mean = PLAIN.estimate(report.mean_auroc or Estimate(None)) + "  "
    rows.append([f"mean of {report.covered} of {len(report.findings)}", "", "", mean, ""])
    return Table(heads=["finding", "images", "positive", "AUROC (95%)", "single pairs"], rows=rows)


def threshold_table(report: Report) -> Table | None:
    """Headings and rows: thresholds and what they do; None where none were chosen."""
    if report.rule is None:
        return None
    if report.labels is None:
        points = [(f.name, f.point) for f in report.findings if f.point]
        rows = [[name, format_threshold(point.threshold), PLAIN.percent(point.flag_rate)] for name, point in points]
        return Table(heads=["finding", "threshold", "flagged"], rows=rows)
    rows = []
    for f in report.findings:
        point = f.point
        rows.append(
            [
                f.name,
                format_threshold(point.threshold) if point else PLAIN.none,
                PLAIN.percent(point.sensitivity if point else None),
                PLAIN.percent(point.specificity if point else None),
                PLAIN.percent(f.prevalence) + ("" if f.prevalence_stated or f.prevalence is None else "*"),
                PLAIN.number(f.flags_per_1000, 1),
                PLAIN.number(f.missed_per_1000, 1),
            ]
        )
    return Table(heads=["finding", "threshold", "sens.", "spec.", "prev.", "flags\n/1000", "missed\n/1000"], rows=rows)


def polarity(report: Report, most: int | None = None) -> list[str]:
    """Faults of polarity, a sentence a finding, and what they mean.

    Args:
        report: what to say.
        most: findings that are shown in full, those of the lowest AUROC first; the others are only counted.
    """
    faulty = [finding for finding in report.findings if finding.polarity]
    if most is not None and len(faulty) > most:
        faulty.sort(key=lambda finding: 1.0 if finding.auroc.value is None else finding.auroc.value)
    sentences = [f"{finding.name}: {'; '.join(finding.polarity)}" for finding in faulty[:most]]
    if len(faulty) > len(sentences):
        sentences.append(f"{counted(len(faulty) - len(sentences), 'more finding')}, marked !; `report` names all")
    under = any(f.auroc.value is not None and f.auroc.value < 0.5 for f in report.findings)
    pairs = [pair for finding in report.findings for pair in finding.pairs]
    under |= any(pair.auroc is not None and pair.auroc < 0.5 for pair in pairs)
    higher = any(pair.negative_higher is not None and pair.negative_higher > 0.5 for pair in pairs)
    meaning = [
        "under 0.5, images with the finding score lower than those without: are the prompts swapped?" if under else "",
        "a negative that scores higher on positives makes zero, or 0.5, a useless threshold" if higher else "",
    ]
    return [*sentences, *filter(None, meaning)] if sentences else []


def to_markdown(report: Report, about: dict[str, str], research: str) -> str:
    """The report as a Markdown file.

    Args:
        report: what to say.
        about: what was scored with what, a line each.
        research: the sentence on what it is not for.
    """
    lines = ["# Zero-shot report", "", research, ""]
    lines += [f"- {name}: {value}" for name, value in about.items()]
    lines += ["", "## Ranking", "", *markdown_table(ranking_table(report))]
    thresholds = threshold_table(report)
    if thresholds is not None and report.rule is not None:
        lines += ["", f"## Thresholds: {report.rule.words}", "", *markdown_table(thresholds)]
    for title, sentences in (("Polarity", polarity(report)), ("Limits", report.warnings)):
        if sentences:
            lines += ["", f"## {title}", "", *(f"- {markdown_text(sentence)}" for sentence in sentences)]
    lines += ["", "## Single prompt pairs", ""]
    heads = ["finding", "positive", "negative", "AUROC", "agreement", "negative higher on positives"]
    rows = [_pair_row(finding.name, pair) for finding in report.findings for pair in finding.pairs]
    return "\n".join([*lines, *markdown_table(Table(heads=heads, rows=rows, words=(0, 1, 2)))]) + "\n"


def _pair_row(name: str, pair: PairReport) -> list[str]:
    figures = map(PLAIN.number, (pair.auroc, pair.agreement))
    return [name, pair.positive, pair.negative or "-", *figures, PLAIN.percent(pair.negative_higher)]


def _mark(finding: FindingReport) -> str:
    return " !" if finding.polarity else "  "


def _range(spread: tuple[float, float] | None) -> str:
    return PLAIN.interval(*spread, between=" - ") if spread is not None else PLAIN.none


def _least_agreeing(finding: FindingReport) -> str:
    known = [pair for pair in finding.pairs if pair.agreement is not None]
    if len(known) < 2:
        return "-"
    pair = min(known, key=lambda pair: pair.agreement or 0)
    return f"{pair.positive} / {pair.negative}" if pair.negative is not None else pair.positive
