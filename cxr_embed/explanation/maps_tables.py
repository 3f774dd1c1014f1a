"""An evaluation of heat maps for people: a table a figure, each within 100 columns."""

from __future__ import annotations

from cxr_embed.explanation.result import CENTRE, FIGURES, MAP, RANDOM, UNTRAINED, MapEvaluation, PlaceFigures
from cxr_embed.present.numbers import PLAIN
from cxr_embed.present.tables import Table

_HEADS = {MAP: "map (95%)", CENTRE: "centre (95%)", RANDOM: "random (95%)", UNTRAINED: "untrained (95%)"}
_WIDEST = 26  # letters of a finding


def figure_table(report: MapEvaluation, figure: str) -> Table:
    """One figure of every finding, its mean, and all images together: the map beside what it is held against."""
    rows = [_row(finding, figure) for finding in report.findings]
    if len(report.findings) > 1:
        rows += [_row(report.mean, figure), _row(report.pooled, figure)]
    sources = report.pooled.figures
    return Table(heads=[FIGURES[figure], "n", *(_HEADS[name] for name in sources)], rows=rows)


def _row(finding: PlaceFigures, figure: str) -> list[str]:
    name = finding.name if len(finding.name) <= _WIDEST else f"{finding.name[: _WIDEST - 3]}..."
    cells = [PLAIN.estimate(values[figure], 2) for values in finding.figures.values()]
    return [name, f"{finding.images:,}", *cells]
