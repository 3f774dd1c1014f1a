"""The parts of a leaderboard in their order: a data set each, and in it what stands for every task, then the tasks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cxr_embed.present.tables import Table
from cxr_embed.reporting.figure_tables import published_table, published_tests_table
from cxr_embed.reporting.leaderboard.about import About, DataFacts
from cxr_embed.reporting.leaderboard.grids import Cell, Encoder, Grid, encoder_of, figure_cell, gap_row
from cxr_embed.reporting.leaderboard.headlines import by_encoder, encoder_name, headlines
from cxr_embed.reporting.leaderboard.parts import Part, part_of
from cxr_embed.reporting.leaderboard.records import DONE, MEAN, Row, distinct, task_of, tasks_in
from cxr_embed.reporting.leaderboard.verdicts import RULE, verdicts
from cxr_embed.reporting.published import published_for

_OWN = ("probe", "scores", "prompts")  # whose AUROCs published ones may stand beside


@dataclass(frozen=True, kw_only=True)
class Section:
    """A data set.

    Attributes:
        key: its address within the page.
        title: its name.
        about: what was tested on, in a sentence; blank where nobody says.
        glance: a row an encoder, a column for what stands for each task.
        parts: the tasks.
        missing: cells that failed or do not apply, with the reason; None where there are none.
        published: figures of others, and what each was tested on.
        caveat: on these.
    """

    key: str
    title: str
    about: str
    glance: Grid
    parts: tuple[Part, ...]
    missing: Grid | None
    published: tuple[Table, ...] = ()
    caveat: str = ""


def sections(rows: Sequence[Row], about: About) -> list[Section]:
    """A section for each data set, in the order of the rows."""
    return [
        _section(f"d{number}", name, [row for row in rows if row.data == name], about)
        for number, name in enumerate(distinct(rows, lambda row: row.data), 1)
    ]


def _section(key: str, data: str, rows: list[Row], about: About) -> Section:
    encoders = [encoder_of(rows, name) for name in distinct(rows, encoder_name)]
    facts = about.of(data)
    caveat, published = _published(rows, facts) if about.published else ("", ())
    tasks = [(task, [row for row in rows if row.task == task]) for task in tasks_in(rows)]
    return Section(
        key=key,
        title=data,
        about=facts.about,
        glance=_glance(key, tasks, encoders),
        parts=tuple(
            part_of(f"{key}-{n}", task, own, encoders, count_no_finding=about.count_no_finding)
            for n, (task, own) in enumerate(tasks, 1)
        ),
        missing=_missing(key, tasks, encoders),
        published=published,
        caveat=caveat,
    )


def _glance(key: str, tasks: Sequence[tuple[str, list[Row]]], encoders: Sequence[Encoder]) -> Grid:
    """One row an encoder, the best of the first task first."""
    columns = [(task, own, title, part) for task, own in tasks for title, part in headlines(task, own)]
    marks = [verdicts(part) for *_, part in columns]
    lines = []
    for encoder in encoders:
        cells = [encoder.cell()]
        for (task, own, _, part), mark in zip(columns, marks, strict=True):
            row = by_encoder(part).get(encoder.name) or gap_row([r for r in own if r.encoder == encoder.name])
            cell = figure_cell(row, mark.get(encoder.name, ""))
            cells.append(_named(cell, row.finding) if task == "shortcuts" and row is not None else cell)
        lines.append(tuple(cells))
    lines.sort(key=lambda cells: [(cell.sort is None, -(cell.sort or 0.0)) for cell in cells[1:2]])
    above = [(task_of(task).title, sum(other == task for other, *_ in columns)) for task, _ in tasks]
    return Grid(
        key=f"{key}-glance",
        title="At a glance",
        heads=("encoder", *(title for _, _, title, _ in columns)),
        above=(("", 1), *above),
        rows=tuple(lines),
        notes=tuple(_glance_notes([row for _, own in tasks for row in own], encoders)),
    )


def _named(cell: Cell, finding: str) -> Cell:
    """A figure that says of what it is."""
    if cell.kind == "gap":
        return cell
    return Cell(text=cell.text, small=", ".join(filter(None, (finding, cell.small))), sort=cell.sort, kind=cell.kind)


def _glance_notes(rows: Sequence[Row], encoders: Sequence[Encoder]) -> Iterable[str]:
    reference = next((row.reference for row in rows if row.reference and task_of(row.task).ranked), "")
    if reference:
        yield f"▲ and ▼: above and below the reference, {reference}; ≈: no clear difference from it. {RULE}"
    else:
        yield "No reference was named: nothing is tested, and nothing is marked best."
    for encoder in encoders:
        for badge in encoder.badges:
            yield f"{encoder.name}, {badge.text}: {badge.about}."


def _missing(key: str, tasks: Sequence[tuple[str, list[Row]]], encoders: Sequence[Encoder]) -> Grid | None:
    lines = []
    for encoder in encoders:
        for task, own in tasks:
            row = gap_row([row for row in own if row.encoder == encoder.name])
            if row is not None:
                texts = (encoder.name, task_of(task).title, row.status, row.reason or "no reason is known")
                lines.append(tuple(Cell(text=text) for text in texts))
    if not lines:
        return None
    heads = ("encoder", "task", "what", "why")
    return Grid(key=f"{key}-missing", title="Not there, and why", heads=heads, rows=tuple(lines))


def _published(rows: Sequence[Row], facts: DataFacts) -> tuple[str, tuple[Table, ...]]:
    """Published AUROCs beside ours; of data sets whose recipe is known alone."""
    aurocs = [row for row in rows if row.task in _OWN and row.figure == "auroc" and row.status == DONE]
    findings = [name for name in distinct(aurocs, lambda row: row.finding) if name not in (MEAN, "")]
    found = published_for(findings, facts.recipe) if facts.recipe and findings else None
    if found is None:
        return "", ()
    scores = []
    for task in _OWN:
        own = [row for row in aurocs if row.task == task]
        names = distinct(own, encoder_name)
        scores += [_as_scores(task, name, [row for row in own if row.encoder == name]) for name in names]
    tests = published_tests_table(scores, found, facts.split or None)
    return found["caveat"], (published_table(scores, found), tests)


def _as_scores(task: str, encoder: str, rows: Sequence[Row]) -> dict[str, Any]:
    """AUROCs as a report's tables take them."""
    mean = next((row for row in rows if row.finding == MEAN), rows[0])
    figures = [{"finding": row.finding, "auroc": row.value} for row in rows if row.finding not in (MEAN, "")]
    name = f"{encoder}, {task_of(task).title.lower()}"
    return {"name": name, "evaluation": {"findings": figures, "images": mean.n, "patients": mean.patients}}
