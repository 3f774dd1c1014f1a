"""What stands for a task where there is room for a figure or two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from cxr_embed.reporting.leaderboard.records import DONE, MEAN, Row, distinct, sizes_first, task_of

_NAMES = {
    "auroc": "AUROC", "average_precision": "average precision", "images_per_second": "images a second",
    "precision": "precision", "ndcg": "nDCG", "chance": "chance",
}  # fmt: skip
Headline = tuple[str, list[Row]]  # a title, and one row an encoder


def headlines(task: str, rows: Sequence[Row]) -> list[Headline]:
    """What stands for a task on a data set.

    The mean over findings: of few labels with the fewest and the most, not all, which is the full probe.
    Of shortcuts what leaks most, of speed a figure a device.

    Args:
        task: its name.
        rows: of the task on the data set.

    Returns:
        At least one; without rows where nothing was done.
    """
    done = [row for row in rows if row.status == DONE]
    if task == "speed":
        devices = distinct([row for row in done if row.value is not None] or done, device_of)
        found = [(device, [row for row in done if device_of(row) == device]) for device in devices]
    elif task == "shortcuts":
        found = [("leaks most, AUROC", leaks_most(done))]
    else:
        found = _mean_headlines(task, [row for row in done if row.finding == MEAN])
    return found or [(figure_name(task_of(task).headline[0]), [])]


def _mean_headlines(task: str, means: Sequence[Row]) -> list[Headline]:
    figure = headline_figure(task, means)
    if figure is None:
        return []
    own = [row for row in means if row.figure == figure]
    if task != "curve":
        return [(figure_name(figure), own)]
    sizes = sizes_first(own)
    ends = dict.fromkeys((sizes[0], sizes[-1]))
    return [(f"{figure_name(figure)}, {size_name(size)}", [row for row in own if row.shots == size]) for size in ends]


def headline_figure(task: str, rows: Iterable[Row]) -> str | None:
    """The figure that stands for a task, of those that there are."""
    figures = {row.figure for row in rows}
    return next((name for name in task_of(task).headline if name in figures), None)


def leaks_most(rows: Sequence[Row]) -> list[Row]:
    """Of each encoder the attribute that its vectors show best; an AUROC of 0.2 shows as much as one of 0.8."""
    known = [row for row in rows if row.value is not None and row.figure == "auroc" and row.finding not in (MEAN, "")]
    return [
        max((row for row in known if row.encoder == name), key=lambda row: abs((row.value or 0.0) - 0.5))
        for name in distinct(known, encoder_name)
    ]


def figure_name(figure: str) -> str:
    """A figure for people: `precision@10` is precision at 10."""
    name, at, depth = figure.partition("@")
    return _NAMES.get(name, name.replace("_", " ")) + (f" at {depth}" if at else "")


def size_name(shots: int | None) -> str:
    """How many labelled positives were learned from."""
    return "all labels" if shots is None else f"{shots:,} labelled"


def device_of(row: Row) -> str:
    """The device of a speed: `cpu` of `cpu: OpenVINO, batches of 8`."""
    return row.output.partition(":")[0]


def encoder_name(row: Row) -> str:
    """Whose row it is."""
    return row.encoder


def by_encoder(rows: Iterable[Row]) -> dict[str, Row]:
    """Rows of one figure by their encoder."""
    return {row.encoder: row for row in rows}


def of_figure(figure: str) -> Callable[[Row], bool]:
    """Whether a row is of a figure."""
    return lambda row: row.figure == figure
