"""Differences between groups as a figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cxr_embed.reporting.drawing import (
    NORMAL,
    RULE,
    SMALL,
    SOFT,
    STYLES,
    Drawing,
    above,
    name_series,
    panels,
    short,
    to_svg,
)
from cxr_embed.reporting.plots import Scores, findings_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_REACH = 0.62
_COLUMNS = 4
Panel = tuple[str, str, str]  # attribute, group, reference


def groups_plots(scores: Scores) -> list[Drawing]:
    """Differences of the AUROC: attributes of two groups share a figure, others have one each."""
    found: dict[str, list[Panel]] = {}
    for part in scores:
        for group in part["evaluation"]["groups"]:
            panel = (group["attribute"], group["group"], group["reference"])
            known = found.setdefault(group["attribute"], [])
            if "auroc" in group["differences"] and panel not in known:
                known.append(panel)
    single = [panel for known in found.values() if len(known) == 1 for panel in known]
    sets = [single[start : start + _COLUMNS] for start in range(0, len(single), _COLUMNS)]
    sets += [known for known in found.values() if len(known) > 1]
    return [_draw(scores, part, f"groups{number}") for number, part in enumerate(sets)]


def _draw(scores: Scores, shown: list[Panel], key: str) -> Drawing:
    findings = findings_of(scores)
    columns = min(len(shown), _COLUMNS)
    deep = -(-len(shown) // columns)
    step = 0.1 * len(scores) + 0.09
    names = [s["name"] for s in scores]
    height = deep * (step * len(findings) + 0.42) + 0.72 + above(names)
    tables = [{(g["finding"], g["attribute"], g["group"]): g for g in s["evaluation"]["groups"]} for s in scores]

    def panel(axes: Axes, attribute: str, group: str, reference: str) -> None:
        axes.axvline(0, color=SOFT, lw=0.7, zorder=1)
        for number, table in enumerate(tables):
            style = STYLES[number]
            for place, finding in enumerate(findings):
                apart = table.get((finding, attribute, group), {"differences": {}})["differences"].get("auroc")
                if apart is None or apart["value"] is None:
                    continue
                y = place + (number - (len(tables) - 1) / 2) * 0.66 / len(tables)
                if apart["low"] is not None:
                    axes.plot([apart["low"], apart["high"]], [y, y], color=style.colour, lw=1.1, zorder=2)
                face = style.face
                axes.plot(apart["value"], y, style.marker, color=style.colour, mfc=face, ms=3.6, mew=0.9, zorder=3)
        ticks = [-0.5, -0.25, 0, 0.25, 0.5] if columns < 3 else [-0.5, 0, 0.5]
        axes.set(xlim=(-_REACH, _REACH), ylim=(len(findings) - 0.4, -0.6))
        axes.set_xticks(ticks, [f"{x:+g}".replace("-", "\N{MINUS SIGN}") if x else "0" for x in ticks])
        title = f"{short(group, 12)} minus {short(reference, 12)}"
        axes.set_title(f"{attribute}: {title}" if columns < 3 else title, loc="left", pad=3)
        axes.grid(axis="x", color=RULE, lw=0.5)
        axes.grid(axis="y", color=RULE, lw=0.4, ls=(0, (1, 2)))
        axes.set_axisbelow(True)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)

    def draw(figure: Figure) -> None:
        gap = 0.5 / (step * len(findings))
        figure.subplots_adjust(0.2, 0.4 / height, 0.985, 1 - (0.55 + above(names)) / height, wspace=0.08, hspace=gap)
        for axes, part in zip(panels(figure, len(shown), columns, sharey=True), shown, strict=True):
            panel(axes, *part)
            axes.set_yticks(range(len(findings)), [short(f) for f in findings], fontsize=SMALL + 0.5)
        figure.supxlabel("difference of the AUROC", fontsize=NORMAL, x=0.6, y=0.05 / height)
        name_series(figure, names)

    attributes = list(dict.fromkeys(attribute for attribute, _, _ in shown))
    title = f"Differences by {' and '.join(attributes)}"
    caption = (
        "AUROC of each group minus that of the largest, with 95% intervals by patient. An interval that holds 0 shows "
        "no difference; one that leaves the panel comes of too few cases, as does a point without an interval. Rows "
        "without a point are undefined in a group."
    )
    return Drawing(key, to_svg(key, height, draw, title), title, caption)
