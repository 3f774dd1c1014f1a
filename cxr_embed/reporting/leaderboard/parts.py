"""A task on a data set: its plot, the means over findings with their tests, and each finding."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from urllib.parse import quote

from cxr_embed.present.numbers import PAGE
from cxr_embed.reporting.leaderboard.forest import Forest
from cxr_embed.reporting.leaderboard.grids import (
    Cell,
    Encoder,
    Grid,
    count_cell,
    difference_cell,
    figure_cell,
    gap_row,
    p_cell,
)
from cxr_embed.reporting.leaderboard.headlines import by_encoder, figure_name, headline_figure, of_figure, size_name
from cxr_embed.reporting.leaderboard.plots import forest_of
from cxr_embed.reporting.leaderboard.records import DONE, MEAN, Row, distinct, shots_in, task_of
from cxr_embed.reporting.leaderboard.verdicts import verdicts
from cxr_embed.types import in_means

_Kind = tuple[str, int | None]  # a figure and a size
_ALL = 1e12  # sorts all labels after every number of them


@dataclass(frozen=True, kw_only=True)
class Part:
    """A task on a data set.

    Attributes:
        key: its address within the page.
        title: of the task.
        about: what its figures say.
        plot: a forest plot; None where there is no figure.
        grids: tables.
    """

    key: str
    title: str
    about: str
    plot: Forest | None
    grids: tuple[Grid, ...]


def part_of(
    key: str, task: str, rows: Sequence[Row], encoders: Sequence[Encoder], *, count_no_finding: bool = False
) -> Part:
    """All that a page has of a task.

    Args:
        key: its address within the page.
        task: its name.
        rows: of the task on the data set.
        encoders: of the data set.
        count_no_finding: whether 'No Finding' has a part in means over findings.
    """
    facts = task_of(task)
    if task == "speed":
        return Part(key=key, title=facts.title, about=facts.about, plot=None, grids=(_speeds(key, rows, encoders),))
    means = (_means(key, task, rows, encoders, count_no_finding),) if task != "shortcuts" else ()
    plot = forest_of(key, task, rows, [encoder.name for encoder in encoders])
    grids = (*means, *_findings(key, task, rows, encoders))
    return Part(key=key, title=facts.title, about=facts.about, plot=plot, grids=grids)


def _means(key: str, task: str, rows: Sequence[Row], encoders: Sequence[Encoder], count_no_finding: bool) -> Grid:
    """Means over findings with the differences from the reference; a row an encoder, and a size or figure."""
    means = [row for row in rows if row.finding == MEAN and row.status == DONE]
    kinds = _kinds(means)
    covered = _Covered(rows, count_no_finding)
    several, tested = len(kinds) > 1, any(row.reference and row.difference is not None for row in means)
    lines = []
    for number, kind in enumerate(kinds or [("", None)]):
        part = [row for row in means if (row.figure, row.shots) == kind]
        marks, known = verdicts(part), by_encoder(part)
        for encoder in encoders:
            row = known.get(encoder.name) or gap_row([r for r in rows if r.encoder == encoder.name])
            if row is None or (row.status != DONE and number):
                continue  # a gap is said once
            cells = [encoder.cell(), *([_kind_cell(task, kind)] if several else [])]
            cells.append(figure_cell(row, marks.get(encoder.name, "")))
            cells += [difference_cell(row), p_cell(row.p_holm)] if tested else []
            lines.append((*cells, covered.cell(row), count_cell(row.n), count_cell(row.patients), _link(row)))
    reference = next((row.reference for row in means if row.reference), "")
    heads = ["encoder", *(["labels" if task == "curve" else "figure"] if several else [])]
    heads.append(figure_name(kinds[0][0]) if len({figure for figure, _ in kinds}) == 1 else "mean")
    heads += [f"minus {reference}", "p, Holm"] if tested else []
    heads += ["findings", "cases", "patients", "report"]
    notes = (*covered.notes(means), *_chances(rows))
    return Grid(key=f"{key}-means", title="Means over findings", heads=tuple(heads), rows=tuple(lines), notes=notes)


def _kinds(means: Sequence[Row]) -> list[_Kind]:
    """Figures and sizes that a table of means shows; chance is no encoder's."""
    figures = [name for name in distinct(means, lambda row: row.figure) if not name.startswith("chance")]
    return [(figure, size) for figure in figures for size in shots_in(list(filter(of_figure(figure), means)))]


def _kind_cell(task: str, kind: _Kind) -> Cell:
    figure, size = kind
    if task == "curve":
        return Cell(text=size_name(size), sort=_ALL if size is None else size)
    return Cell(text=figure_name(figure))


def _chances(rows: Sequence[Row]) -> Iterable[str]:
    """What precision an encoder that knows nothing would have: as often as the finding is among the training images."""
    of_depth = {r.figure: r.value for r in rows if r.figure.startswith("chance@") and r.finding == MEAN}
    found = [f"{figure.removeprefix('chance@')}: {PAGE.number(value)}" for figure, value in of_depth.items() if value]
    if found:
        yield f"Precision by chance, at {', at '.join(found)}."


@dataclass(frozen=True)
class _Covered:
    """Which findings means are over."""

    rows: Sequence[Row]
    count_no_finding: bool

    def of(self, row: Row) -> frozenset[str]:
        """Those with a figure of a mean's kind, of its encoder."""
        kind = (row.encoder, row.figure, row.shots)
        own = [r for r in self.rows if (r.encoder, r.figure, r.shots) == kind and r.finding != MEAN]
        names = [r.finding for r in own if r.value is not None]
        return frozenset(compress(names, in_means(names, self.count_no_finding)))

    def cell(self, row: Row) -> Cell:
        """How many."""
        return count_cell(len(self.of(row)) if row.finding == MEAN else None)

    def notes(self, means: Sequence[Row]) -> Iterable[str]:
        """Whether all encoders' are the same."""
        covers: dict[_Kind, set[frozenset[str]]] = {}
        for row in means:
            covers.setdefault((row.figure, row.shots), set()).add(self.of(row))
        if any(len(found) > 1 for found in covers.values()):
            yield "Some of these means are over other findings than others: they do not compare, differences do."


def _findings(key: str, task: str, rows: Sequence[Row], encoders: Sequence[Encoder]) -> Iterable[Grid]:
    """A row a finding, a column an encoder, for each size of a curve; other figures stand in the CSV alone."""
    done = [row for row in rows if row.finding not in (MEAN, "") and row.status == DONE]
    figure = headline_figure(task, done)
    if figure is None:
        return
    own = [row for row in done if row.figure == figure]
    shown = [encoder for encoder in encoders if any(row.encoder == encoder.name for row in own)]
    what = "attribute" if task == "shortcuts" else "finding"
    for number, size in enumerate(shots_in(own)):
        sized = [row for row in own if row.shots == size]
        names = distinct(sized, lambda row: row.finding)
        lines = [_finding([row for row in sized if row.finding == name], shown) for name in names]
        yield Grid(
            key=f"{key}-each-{number}",
            title=f"Each {what}: {figure_name(figure)}" + (f", {size_name(size)}" if task == "curve" else ""),
            heads=(what, *(encoder.name for encoder in shown), "positive"),
            rows=tuple(lines),
            notes=tuple(_undefined(sized)),
            folded=True,
        )


def _undefined(rows: Sequence[Row]) -> Iterable[str]:
    """Why figures are missing, findings and encoders of one reason together."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.value is None and row.reason:
            reasons.setdefault((row.finding, row.reason), []).append(row.encoder)
    for (finding, reason), encoders in reasons.items():
        yield f"{finding}: {reason} ({', '.join(encoders)})."


def _finding(rows: Sequence[Row], shown: Sequence[Encoder]) -> tuple[Cell, ...]:
    marks, known = verdicts(rows), by_encoder(rows)
    figures = [figure_cell(known.get(e.name), marks.get(e.name, "")) for e in shown]
    positives = next((row.positives for row in rows if row.positives is not None), None)
    return (Cell(text=rows[0].finding), *figures, count_cell(positives))


def _speeds(key: str, rows: Sequence[Row], encoders: Sequence[Encoder]) -> Grid:
    lines = [
        (encoder.cell(), Cell(text=row.output), figure_cell(row), count_cell(row.n), _link(row))
        for encoder in encoders
        for row in rows
        if row.encoder == encoder.name
    ]
    heads = ("encoder", "on", "images a second", "images", "report")
    reasons = dict.fromkeys((row.output, row.reason) for row in rows if row.status == DONE and row.reason)
    notes = tuple(": ".join(filter(None, (output, reason))) + "." for output, reason in reasons)
    return Grid(key=f"{key}-speed", title="Images a second", heads=heads, rows=tuple(lines), notes=notes)


def _link(row: Row) -> Cell:
    """A link to the report, if it is a place beside the page: `javascript:` and the like become names of files."""
    if not row.report or row.report.startswith(("/", "\\")):
        return Cell(text="")
    return Cell(text="report", link=quote(row.report))
