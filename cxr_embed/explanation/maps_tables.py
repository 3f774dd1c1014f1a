"""An evaluation of heat maps for people: a table a figure, each within 100 columns."""

from __future__ import annotations

from cxr_embed.explanation.curve_result import CurveEvaluation, CurveFigures
from cxr_embed.explanation.result import CENTRE, FIGURES, MAP, RANDOM, UNTRAINED, MapEvaluation, PlaceFigures
from cxr_embed.present.numbers import PLAIN
from cxr_embed.present.tables import Table

_HEADS = {MAP: "map (95%)", CENTRE: "centre (95%)", RANDOM: "random (95%)", UNTRAINED: "untrained (95%)"}
_WIDEST = 26  # letters of a finding


def figure_table(report: MapEvaluation, figure: str) -> Table:
    """One figure of every finding, its mean, and all images together: the map beside what it is held against."""
    return _table(report, FIGURES[figure], figure)


def curve_table(report: CurveEvaluation, curve: str) -> Table:
    """The area under one curve, of every finding, its mean, and all images together."""
    return _table(report, curve, curve, 3)


def _table(report: MapEvaluation | CurveEvaluation, head: str, figure: str, digits: int = 2) -> Table:
    rows = [_row(finding, figure, digits) for finding in report.findings]
    if len(report.findings) > 1:
        rows += [_row(each, figure, digits) for each in (report.mean, report.pooled)]
    return Table(heads=[head, "n", *(_HEADS[name] for name in report.pooled.figures)], rows=rows)


def _row(finding: PlaceFigures | CurveFigures, figure: str, digits: int) -> list[str]:
    name = finding.name if len(finding.name) <= _WIDEST else f"{finding.name[: _WIDEST - 3]}..."
    cells = [PLAIN.estimate(values[figure], digits) for values in finding.figures.values()]
    return [name, f"{finding.images:,}", *cells]
