"""The figures of a report, each drawn from its JSON values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cxr_embed.reporting.drawing import (
    INK,
    NORMAL,
    RULE,
    SMALL,
    SOFT,
    STYLES,
    Drawing,
    above,
    make_figure,
    name_series,
    panels,
    save_figure,
    short,
    to_svg,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Scores = list[dict[str, Any]]
_COLUMNS = 4
_BIN_CASES = 10  # below, a tenth of probability shows chance
_PUBLISHED = ("|", "x", "+", "1", "2")


def findings_of(scores: Scores) -> list[str]:
    """All findings, in the order of the first score file, then of the others."""
    return list(dict.fromkeys(f["finding"] for found in scores for f in found["evaluation"]["findings"]))


def figures_by_finding(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A score file's figures by finding."""
    return {f["finding"]: f for f in found["evaluation"]["findings"]}


def auroc_plot(scores: Scores, published: dict[str, Any] | None) -> Drawing:
    """AUROC of every finding with its interval, score files beside each other."""
    height, draw = _aurocs(scores, published)
    caption = "AUROC with 95% intervals by patient. 0.5 is chance."
    if published is not None and published["results"]:
        caption += " Small signs in the lowest lane: published figures, of other test sets."
    return Drawing("auroc", to_svg("auroc", height, draw, "AUROC by finding"), "AUROC by finding", caption)


def auroc_figure(scores: Scores, path: Path | None = None) -> Figure:
    """The same as a figure of matplotlib's, written to a file as well where one is named.

    Raises:
        ReportError: where it cannot be written.
    """
    drawing = _aurocs(scores, None)
    return make_figure(*drawing) if path is None else save_figure(path, *drawing)


def _aurocs(scores: Scores, published: dict[str, Any] | None) -> tuple[float, Callable[[Figure], None]]:
    """Its height in inches, and what fills it."""
    names, findings = [s["name"] for s in scores], findings_of(scores)
    others = published["results"] if published is not None else []
    lanes = len(scores) + bool(others)
    step = 0.13 * lanes + 0.09
    head = above(names)
    height = step * len(findings) + 0.85 + head

    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        figure.subplots_adjust(0.2, 0.42 / height, 0.985, 1 - (0.4 + head) / height)
        lows = [0.45]
        for number, found in enumerate(scores):
            style, rows = STYLES[number], figures_by_finding(found)
            for place, finding in enumerate(findings):
                f = rows.get(finding)
                if f is None or f["auroc"] is None:
                    continue
                y = place + (number - (lanes - 1) / 2) * 0.72 / lanes
                if f["auroc_low"] is not None:
                    axes.plot([f["auroc_low"], f["auroc_high"]], [y, y], color=style.colour, lw=1.3, zorder=2)
                    lows.append(f["auroc_low"])
                axes.plot(
                    f["auroc"],
                    y,
                    style.marker,
                    color=style.colour,
                    mfc=style.face,
                    ms=4.4,
                    mew=1,
                    zorder=3,
                    clip_on=False,
                )
                lows.append(f["auroc"])
        for number, result in enumerate(others):
            lane = [place + (lanes - 1) / 2 * 0.72 / lanes for place, f in enumerate(findings) if f in result["auroc"]]
            x = [result["auroc"][f] for f in findings if f in result["auroc"]]
            axes.plot(x, lane, _PUBLISHED[number], color=INK, ms=5, mew=1, ls="none", label=result["name"], zorder=3)
        for place in range(len(findings)):
            if not any((figures_by_finding(s).get(findings[place]) or {}).get("auroc") is not None for s in scores):
                axes.text(0.5, place, " undefined", va="center", color=SOFT, fontsize=SMALL)
        low = max(0.0, int(min(lows) * 20) / 20)
        axes.set_xlim(low, 1.0)
        axes.set_ylim(len(findings) - 0.4, -0.6)
        axes.set_yticks(range(len(findings)), [short(f) for f in findings], fontsize=NORMAL)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.axvline(0.5, color=SOFT, lw=0.7, zorder=1)
        axes.grid(axis="x", color=RULE, lw=0.5)
        axes.set_axisbelow(True)
        axes.set_xlabel("AUROC")
        name_series(figure, names)
        if others:
            axes.legend(
                loc="lower right", bbox_to_anchor=(1, 1), frameon=False, fontsize=SMALL, ncols=len(others),
                borderaxespad=0.2, handletextpad=0.1, columnspacing=1.2,
            )  # fmt: skip

    return height, draw


def roc_plot(scores: Scores) -> Drawing:
    """Small multiples of ROC curves."""

    def panel(axes: Axes, finding: str) -> None:
        axes.plot([0, 1], [0, 1], color=RULE, lw=0.8, zorder=1)
        _curves(axes, scores, finding, "roc", "auroc", (0.97, 0.05), "bottom")

    return _multiples(
        "roc",
        scores,
        panel,
        ("1 \N{MINUS SIGN} specificity", "sensitivity"),
        "ROC curves",
        "Numbers are AUROCs, in the order of the names above. The grey diagonal is chance.",
    )


def precision_recall_plot(scores: Scores) -> Drawing:
    """Small multiples of precision-recall curves."""

    def panel(axes: Axes, finding: str) -> None:
        f = next((rows[finding] for rows in map(figures_by_finding, scores) if finding in rows), None)
        if f is not None and f["prevalence"] is not None:
            axes.axhline(f["prevalence"], color=SOFT, lw=0.7, zorder=1)
        _curves(axes, scores, finding, "precision_recall", "average_precision", (0.97, 0.97), "top")

    return _multiples(
        "pr",
        scores,
        panel,
        ("sensitivity (recall)", "precision"),
        "Precision-recall curves",
        "Numbers are average precisions, in the order of the names above. The grey line is chance: the part of "
        "positives among these cases.",
    )


def _curves(
    axes: Axes, scores: Scores, finding: str, curve: str, figure: str, corner: tuple[float, float], side: str
) -> None:
    values = []
    for number, found in enumerate(scores):
        style, points = STYLES[number], found["curves"].get(finding, {}).get(curve)
        if points:
            x, y = zip(*points, strict=True)
            axes.plot(x, y, color=style.colour, linestyle=style.line, lw=1.2, zorder=2)
        value = figures_by_finding(found).get(finding, {}).get(figure)
        values.append((style.colour, f"{value:.2f}" if value is not None else "undefined"))
    lines = values if side == "top" else values[::-1]
    for place, (colour, text) in enumerate(lines):
        away = 0.115 * place * (-1 if side == "top" else 1)
        axes.text(
            corner[0], corner[1] + away, text, color=colour, fontsize=SMALL + 0.5, fontweight="bold", ha="right",
            va=side, transform=axes.transAxes, zorder=4,
        )  # fmt: skip


def _multiples(key: str, scores: Scores, panel: Any, labels: tuple[str, str], title: str, caption: str) -> Drawing:
    findings = findings_of(scores)
    rows = -(-len(findings) // _COLUMNS)
    names = [s["name"] for s in scores]
    height = 1.72 * rows + 0.62 + above(names)

    def draw(figure: Figure) -> None:
        figure.subplots_adjust(0.075, 0.42 / height, 0.99, 1 - (0.52 + above(names)) / height, wspace=0.16, hspace=0.3)
        every = panels(figure, len(findings), _COLUMNS, sharex=True, sharey=True)
        for number, (axes, finding) in enumerate(zip(every, findings, strict=True)):
            panel(axes, finding)
            axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1], aspect="equal")
            axes.set_xticklabels(["0", "0.5", "1"])
            axes.set_yticklabels(["0", "0.5", "1"])
            axes.set_title(short(finding), loc="left", pad=3)
            # The lowest panel of every column carries the scale.
            axes.tick_params(labelbottom=number + _COLUMNS >= len(findings))
        figure.supxlabel(labels[0], fontsize=NORMAL, y=0.06 / height)
        figure.supylabel(labels[1], fontsize=NORMAL, x=0.008)
        name_series(figure, names)

    return Drawing(key, to_svg(key, height, draw, title), title, caption)


def reliability_plot(scores: Scores) -> Drawing | None:
    """Small multiples of promised and seen probability; None where no score is a probability."""
    findings = [
        name
        for name in findings_of(scores)
        if any(figures_by_finding(s).get(name, {}).get("reliability") for s in scores)
    ]
    if not findings:
        return None
    rows = -(-len(findings) // _COLUMNS)
    names = [s["name"] for s in scores]
    height = 1.72 * rows + 0.62 + above(names)

    def draw(figure: Figure) -> None:
        figure.subplots_adjust(0.075, 0.42 / height, 0.99, 1 - (0.52 + above(names)) / height, wspace=0.25, hspace=0.42)
        for axes, finding in zip(panels(figure, len(findings), _COLUMNS), findings, strict=True):
            axes.plot([0, 1], [0, 1], color=RULE, lw=0.8, zorder=1)
            reach = [0.0]
            for number, found in enumerate(scores):
                style, bins = STYLES[number], figures_by_finding(found).get(finding, {}).get("reliability") or []
                shown = [part for part in bins if part["n"] >= _BIN_CASES]
                x = [part["promised"] for part in shown]
                axes.plot(x, [part["seen"] for part in shown], color=style.colour, linestyle=style.line, lw=0.9)
                for part in shown:
                    at = [part["promised"]] * 2
                    axes.plot(at, [part["seen_low"], part["seen_high"]], color=style.colour, lw=0.9)
                    axes.plot(at[0], part["seen"], style.marker, color=style.colour, mfc=style.face, ms=3.4, mew=0.9)
                reach += x + [part["seen_high"] for part in shown]
            end = next(step for step in (0.1, 0.2, 0.5, 1.0) if max(reach) <= step)
            ticks, words = [0, end / 2, end], ["0", f"{end / 2:g}", f"{end:g}"]
            axes.set(xlim=(-0.02 * end, 1.02 * end), ylim=(-0.02 * end, 1.02 * end), aspect="equal")
            axes.set_xticks(ticks, words)
            axes.set_yticks(ticks, words)
            axes.set_title(short(finding), loc="left", pad=3)
        figure.supxlabel("mean probability that was given", fontsize=NORMAL, y=0.06 / height)
        figure.supylabel("part of cases with the finding", fontsize=NORMAL, x=0.008)
        name_series(figure, names)

    title = "Reliability"
    caption = (
        "Cases in tenths of probability: what was promised and what was seen, with 95% intervals. On the grey diagonal "
        f"a probability keeps its word. Tenths of fewer than {_BIN_CASES} cases are left out. Scales differ between "
        "panels."
    )
    return Drawing("reliability", to_svg("reliability", height, draw, title), title, caption)
