"""A forest plot for each data set and task."""

from __future__ import annotations

from collections.abc import Sequence

from cxr_embed.reporting.leaderboard.forest import Forest, Lane, Scale, axis, scale_of, sign, strip
from cxr_embed.reporting.leaderboard.grids import figure_cell
from cxr_embed.reporting.leaderboard.headlines import by_encoder, figure_name, headline_figure, size_name
from cxr_embed.reporting.leaderboard.records import DONE, MEAN, Row, distinct, shots_in, sizes_first, task_of
from cxr_embed.reporting.leaderboard.verdicts import verdicts


def forest_of(key: str, task: str, rows: Sequence[Row], encoders: Sequence[str]) -> Forest | None:
    """The plot of a task's headline: means with their figures first, then a strip for each finding, or each size.

    Args:
        key: of the task, within the page.
        task: its name.
        rows: of the task on the data set.
        encoders: of the data set, in the order that gives them their signs.

    Returns:
        None where no encoder has a figure.
    """
    done = [row for row in rows if row.status == DONE and row.value is not None]
    figure = headline_figure(task, done)
    part = [row for row in done if row.figure == figure and (task != "curve" or row.finding == MEAN)]
    scale = scale_of(part, task_of(task).chance if figure == "auroc" else None)
    if figure is None or scale is None:
        return None
    shown = [(number, name) for number, name in enumerate(encoders) if any(row.encoder == name for row in part)]
    chance = " The heavier line is chance." if scale.chance is not None else ""
    return Forest(
        key=f"{key}-forest",
        title=f"{figure_name(figure)}: {_what(task, part)}",
        means=_means(task, part, shown, scale),
        lanes=tuple(_lane(name, group, shown, scale, figure) for name, group in _groups(task, part)),
        axis=axis(scale),
        caption=f"Points are figures, lines their 95% intervals.{chance}",
    )


def _what(task: str, rows: Sequence[Row]) -> str:
    if task == "shortcuts":
        return "each attribute"
    if task == "curve":
        return f"mean over findings with {size_name(sizes_first(rows)[-1])}, then with more and fewer"
    return "mean over findings, then each finding"


def _means(task: str, rows: Sequence[Row], shown: Sequence[tuple[int, str]], scale: Scale) -> tuple[Lane, ...]:
    """A row an encoder: its sign, and its mean, of few labels with the most."""
    most = sizes_first(rows)[-1]
    means = [row for row in rows if row.finding == MEAN and row.shots == most and task != "shortcuts"]
    marks, known = verdicts(means), by_encoder(means)
    lanes = []
    for number, name in shown:
        row = known.get(name)
        drawn = strip([(number, row)], scale, name) if row is not None else ""
        note = figure_cell(row).plain() if row is not None else ""
        lanes.append(Lane(name=name, strip=drawn, note=note, sign=sign(number), mark=marks.get(name, "")))
    return tuple(lanes)


def _groups(task: str, rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Rows of one strip each: of a finding, or of the means with so many labels."""
    if task == "curve":
        others = [size for size in reversed(shots_in(rows)) if size != sizes_first(rows)[-1]]
        return [(size_name(size), [row for row in rows if row.shots == size]) for size in others]
    names = [name for name in distinct(rows, lambda row: row.finding) if name not in (MEAN, "")]
    return [(name, [row for row in rows if row.finding == name]) for name in names]


def _lane(name: str, rows: Sequence[Row], shown: Sequence[tuple[int, str]], scale: Scale, figure: str) -> Lane:
    known = by_encoder(rows)
    positives = next((row.positives for row in rows if row.positives is not None), None)
    drawn = strip([(number, known.get(encoder)) for number, encoder in shown], scale, f"{name}: {figure_name(figure)}")
    return Lane(name=name, strip=drawn, note=f"{positives:,} positive" if positives is not None else "")
