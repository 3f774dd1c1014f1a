"""Few-label curves as a figure."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_embed.reporting.drawing import (
    NORMAL,
    RULE,
    SMALL,
    SOFT,
    STYLES,
    Drawing,
    Style,
    above,
    make_figure,
    name_series,
    save_figure,
    short,
    to_svg,
)
from cxr_embed.reporting.inputs import ReportError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLUMNS = 4
_APART = 0.09  # encoders of one size, in sizes


def few_label_plot(curve: dict[str, Any], names: list[str]) -> Drawing:
    """AUROC over the number of labels: the mean of all findings large, each finding small.

    Args:
        curve: as the report holds it.
        names: of the score files; an encoder of the same name looks as its scores do.
    """
    height, draw = _figure(curve, names)
    title = "Few labels"
    bars = "95% interval of that mean (Student's t)" if _has_intervals(curve) else "standard deviation between them"
    caption = (
        f"AUROC on one fixed test part: mean over the draws, and the {bars}. All encoders get "
        "the same draws. Sizes that a finding has too few positives for are left out; in brackets, how many findings a "
        "mean covers: means over different findings do not compare, and no line joins them."
    )
    return Drawing("few", to_svg("few", height, draw, title), title, caption)


def few_labels_figure(curve: dict[str, Any], path: Path | None = None) -> Figure:
    """The same as a figure of matplotlib's, written to a PNG, SVG or PDF file as well where one is named.

    Args:
        curve: as `curve.json` holds it.
        path: of the file.

    Raises:
        ReportError: for more encoders than a reader can distinguish, or a file that cannot be written.
    """
    count = len({row["encoder"] for row in curve["summary"]})
    if count > len(STYLES):
        raise ReportError(f"a figure shows up to {len(STYLES)} encoders, not {count}; leave some out")
    drawing = _figure(with_sizes(curve), [], stand_ins_of(curve))
    return make_figure(*drawing) if path is None else save_figure(path, *drawing)


def stand_ins_of(curve: dict[str, Any]) -> list[str]:
    """A sentence for each encoder of a curve whose weights stand in for others."""
    return list(dict.fromkeys(about["stand_in"] for about in curve.get("encoders", ()) if about.get("stand_in")))


def with_sizes(curve: dict[str, Any]) -> dict[str, Any]:
    """A curve by parts of the patients with percentages in the place of shots; others as they are."""
    protocol = curve["protocol"]
    if "fractions" not in protocol:
        return curve

    def percent(part: float) -> str:
        return f"{100 * part:g}%"

    sized = {
        name: [{**row, "shots": percent(row["fraction"])} for row in curve[name]] for name in ("summary", "differences")
    }
    sizes = {"size": "training patients", "shots": list(map(percent, protocol["fractions"]))}
    return {**curve, **sized, "protocol": {**protocol, **sizes}}


def _has_intervals(curve: dict[str, Any]) -> bool:
    return any(row.get("ci_low") is not None for row in curve["summary"])


def _bars_note(curve: dict[str, Any]) -> str:
    if all(row["sd"] is None for row in curve["summary"]):
        return "one draw"
    return f"bars: {'95% interval' if _has_intervals(curve) else 'standard deviation'} over draws"


def _bar(row: dict[str, Any]) -> tuple[float, float]:
    """Ends of a mean's bar: its interval, or in curves of earlier releases a standard deviation each way."""
    if row.get("ci_low") is not None:
        return row["ci_low"], row["ci_high"]
    return row["mean"] - (row["sd"] or 0), row["mean"] + (row["sd"] or 0)


def _figure(
    curve: dict[str, Any], names: list[str], remarks: Sequence[str] = ()
) -> tuple[float, Callable[[Figure], None]]:
    """The figure's height in inches, and what draws it; remarks stand below."""
    encoders = list(dict.fromkeys(row["encoder"] for row in curve["summary"]))[: len(STYLES)]
    styles = [STYLES[names.index(e)] for e in encoders] if set(encoders) <= set(names) else list(STYLES)
    lines_below = [line for remark in remarks for line in textwrap.wrap(remark, 110)]
    plot = _Plot(curve, encoders, styles, lines_below)
    return plot.height, plot.draw


@dataclass(frozen=True)
class _Plot:
    """A curve, how its encoders look, and the lines below it."""

    curve: dict[str, Any]
    encoders: list[str]
    styles: list[Style]
    lines_below: list[str]

    @cached_property
    def height(self) -> float:
        """In inches."""
        return 2.85 + 1.45 * self._rows + self._head + self._foot

    @property
    def _head(self) -> float:
        return above(self.encoders)

    @property
    def _foot(self) -> float:
        return 0.15 * len(self.lines_below)

    @property
    def _rows(self) -> int:
        return -(-len(self.curve["findings"]) // _COLUMNS)

    @property
    def _shots(self) -> list[Any]:
        return list(self.curve["protocol"]["shots"])

    @cached_property
    def _by_key(self) -> dict[tuple[str, str | None, Any], dict[str, Any]]:
        return {(row["encoder"], row["finding"], row["shots"]): row for row in self.curve["summary"]}

    def draw(self, figure: Figure) -> None:
        height, foot = self.height, self._foot
        outer = figure.add_gridspec(
            2, 1, height_ratios=(1.6, 1.3 * self._rows), left=0.075, right=0.99, top=1 - (0.52 + self._head) / height,
            bottom=(0.42 + foot) / height, hspace=1.45 / height,
        )  # fmt: skip
        self._draw_mean(figure.add_subplot(outer[0]))
        inner = outer[1].subgridspec(self._rows, _COLUMNS, wspace=0.14, hspace=0.5)
        for number, finding in enumerate(self.curve["findings"]):
            axes = figure.add_subplot(inner[number // _COLUMNS, number % _COLUMNS])
            self._draw_finding(axes, finding)
            axes.tick_params(labelleft=number % _COLUMNS == 0, labelsize=SMALL - 0.5)
        by_case = "positives that were labelled, and as many negatives"
        by_patient = "part of the training patients whose images were labelled"
        unit = by_patient if "fractions" in self.curve["protocol"] else by_case
        figure.supxlabel(unit, fontsize=NORMAL, y=(0.06 + foot) / height)
        figure.supylabel("AUROC", fontsize=NORMAL, x=0.008)
        name_series(figure, self.encoders, self.styles)
        below = "\n".join(self.lines_below)
        figure.text(0.008, 0.04 / height, below, fontsize=SMALL, color=SOFT, va="bottom", linespacing=1.3)

    def _draw_mean(self, axes: Axes) -> None:
        """The mean over findings, large."""
        self._draw_lines(axes, None, 4.4)
        means = [row for row in self.curve["summary"] if row["finding"] is None and row["mean"] is not None]
        top = max([0.7, *(_bar(row)[1] for row in means)])
        least = min([0.45, *(_bar(row)[0] for row in means)])
        axes.set_ylim(int(least * 20) / 20, min(1.0, int(top * 20 + 2) / 20))
        shots = self._shots
        covered = [(self._by_key.get((self.encoders[0], None, s)) or {}).get("findings_in_mean", 0) for s in shots]
        axes.set_xticks(range(len(shots)), [f"{size}\n({count})" for size, count in zip(shots, covered, strict=True)])
        axes.set_title("mean over findings", loc="left", pad=4, fontweight="bold")
        bars = f"in brackets: findings in the mean; {_bars_note(self.curve)}"
        axes.set_title(bars, loc="right", pad=4, fontsize=SMALL, color=SOFT)
        last = len(shots) - 1 + (len(self.encoders) - 1) / 2 * _APART
        _name_ends(axes, [self._by_key.get((e, None, shots[-1])) for e in self.encoders], self.styles, last)

    def _draw_finding(self, axes: Axes, finding: str) -> None:
        self._draw_lines(axes, finding, 2.8)
        axes.set_title(short(finding), loc="left", pad=3)
        found = [self._by_key.get((encoder, finding, size)) for encoder in self.encoders for size in self._shots]
        if all((row or {}).get("mean") is None for row in found):
            axes.text(0.5, 0.4, "undefined", transform=axes.transAxes, ha="center", color=SOFT)

    def _draw_lines(self, axes: Axes, finding: str | None, size: float) -> None:
        """A line an encoder, over the sizes; `size` is that of the marks."""
        axes.axhline(0.5, color=SOFT, lw=0.7, zorder=1)
        shots = self._shots
        for number, encoder in enumerate(self.encoders):
            rows = [(place, self._by_key.get((encoder, finding, shot))) for place, shot in enumerate(shots)]
            known = [(place, row) for place, row in rows if row is not None and row["mean"] is not None]
            away = (number - (len(self.encoders) - 1) / 2) * _APART
            _draw_line(axes, [place + away for place, _ in known], [row for _, row in known], self.styles[number], size)
        lows = [_bar(row)[0] for row in self.curve["summary"] if row["mean"] is not None]
        low = max(0.0, min([0.45, *(int(value * 20) / 20 for value in lows)]))
        axes.set(xlim=(-0.35, len(shots) - 0.65), ylim=(low, 1.0))
        axes.set_xticks(range(len(shots)), [str(shot) for shot in shots])
        axes.grid(axis="y", color=RULE, lw=0.5)
        axes.set_axisbelow(True)


def _draw_line(axes: Axes, x: list[float], rows: list[dict[str, Any]], style: Style, size: float) -> None:
    """Means with their bars; no line joins means over different findings."""
    y = [row["mean"] for row in rows]
    for start, (one, other) in enumerate(pairwise(rows)):
        if one.get("findings_in_mean") == other.get("findings_in_mean"):
            part = slice(start, start + 2)
            axes.plot(x[part], y[part], color=style.colour, linestyle=style.line, lw=1.3, zorder=2)
    for place, row in zip(x, rows, strict=True):
        if row["sd"] is not None:
            axes.plot([place, place], _bar(row), color=style.colour, lw=0.9, zorder=2)
    axes.plot(x, y, style.marker, color=style.colour, mfc=style.face, ms=size, mew=0.9, zorder=3)


def _name_ends(axes: Axes, rows: list[dict[str, Any] | None], styles: list[Style], place: float) -> None:
    """The last values, beside their points and apart from each other."""
    known = [(row["mean"], n) for n, row in enumerate(rows) if row is not None and row["mean"] is not None]
    low, high = axes.get_ylim()
    last = low
    for value, number in sorted(known):
        last = max(value, last + 0.11 * (high - low))
        axes.annotate(
            f"{value:.3f}", (place, last), xytext=(14, 0), textcoords="offset points", color=styles[number].colour,
            fontsize=NORMAL, fontweight="bold", va="center", annotation_clip=False,
        )  # fmt: skip
    axes.set_xlim(-0.35, place + 0.75)
