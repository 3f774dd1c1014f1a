"""A leaderboard's files: a page, and beside it the same as Markdown, LaTeX and CSV."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from cxr_embed.io.files import write_together
from cxr_embed.present.latex import escape, latex_row, latex_table
from cxr_embed.present.numbers import LATEX
from cxr_embed.present.tables import csv_text, markdown_table, markdown_text
from cxr_embed.reporting.inputs import ReportError
from cxr_embed.reporting.leaderboard.about import About, read_about
from cxr_embed.reporting.leaderboard.grids import Cell, Encoder, difference_cell, encoder_of, figure_cell, gap_row
from cxr_embed.reporting.leaderboard.headlines import by_encoder, encoder_name, headlines
from cxr_embed.reporting.leaderboard.page import to_html
from cxr_embed.reporting.leaderboard.records import COLUMNS, Row, distinct, rows_of, task_of, tasks_in
from cxr_embed.reporting.leaderboard.sections import Section, sections
from cxr_embed.reporting.leaderboard.verdicts import Verdict, verdicts
from cxr_embed.reporting.leaderboard.words import how_marked, summary, warnings
from cxr_embed.types import RESEARCH

FILES = ("leaderboard.html", "leaderboard.md", "leaderboard.tex", "leaderboard.csv")


def write_leaderboard(results: pa.Table, about: Mapping[str, Any], folder: Path) -> tuple[Path, ...]:
    """Writes `leaderboard.html`, `.md`, `.tex` and `.csv`: all of them, or none.

    Args:
        results: a row a figure, with the columns `COLUMNS` (see `records.Row`).
        about: what the rows do not say, all of it optional:

            * `title`; `created`, a date and time; `software`, the version of what made them; `plan`, its file;
            * `protocol`, sentences; else they are made of `reference`, `seed`, `bootstraps`, `count_no_finding` and
              `tasks` (a mapping of settings each);
            * `notes` and `warnings`, sentences;
            * `data`, a mapping for each data set: `about`, a sentence; else `train` and `test` (`images` and
              `patients` each) and `split` (in words); `recipe`, for published figures;
            * `encoders`, a mapping for each: `encoder`, `weights`, `trained_on`, `licence`, `fingerprint`;
            * `published`, whether published figures are shown, true by default.
        folder: for the files; made where it is not there.

    Returns:
        The files, the page first.

    Raises:
        ReportError: for results without some column or row, or a folder that cannot be written to.
        CasesError: for two findings of one data set that are equally like a published one.
    """
    rows = rows_of(results)
    if not rows:
        raise ReportError("there is no result to show")
    said = read_about(about)
    shown = sections(rows, said)
    texts = (to_html(rows, said, shown, FILES[1:]), _markdown(rows, said, shown), _latex(rows), _csv(rows))
    files = [folder / name for name in FILES]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The page last: whoever sees it finds the others.
        write_together({path: text.encode() for path, text in reversed(list(zip(files, texts, strict=True)))})
    except OSError as error:
        raise ReportError(f"{folder}: cannot be written to ({error.strerror}); give another folder") from None
    return tuple(files)


def _csv(rows: Sequence[Row]) -> str:
    return csv_text(COLUMNS, map(asdict, rows))


def _markdown(rows: Sequence[Row], about: About, shown: Sequence[Section]) -> str:
    """The words and tables; plots are in the page."""
    lines = [f"# {markdown_text(about.title)}", "", RESEARCH, ""]
    said = tuple(dict.fromkeys([*about.warnings, *warnings(rows)]))
    for title, stated in (("Read this first", said), ("Protocol", about.protocol)):
        lines += [f"## {title}", "", *(f"- {markdown_text(text)}" for text in stated), ""] if stated else []
    lines += ["## In short", "", how_marked(rows), ""] if shown else []
    for data, sentences in summary(rows):
        lines += [markdown_text(data), "", *(f"- {markdown_text(text)}" for text in sentences), ""]
    for section in shown:
        lines += [f"## {markdown_text(section.title)}", ""]
        lines += [markdown_text(section.about), ""] if section.about else []
        lines += [*markdown_table(section.glance.table()), ""]
        for part in section.parts:
            lines += [f"### {markdown_text(part.title)}", "", markdown_text(part.about), ""]
            for grid in part.grids:
                lines += [*markdown_table(grid.table()), ""]
        if section.published:
            lines += ["### Published figures", "", markdown_text(section.caveat), ""]
            for table in section.published:
                lines += [*markdown_table(table), ""]
        if section.missing is not None:
            lines += [*markdown_table(section.missing.table()), ""]
    lines += ["## Encoders", "", *markdown_table(about.encoders.table())] if about.encoders is not None else []
    return "\n".join(lines).rstrip() + "\n"


def _latex(rows: Sequence[Row]) -> str:
    """A table for each data set: what stands for each task, then differences from the reference."""
    lines = ["% \\usepackage{booktabs}"]
    for number, data in enumerate(distinct(rows, lambda row: row.data), 1):
        lines += _latex_of([row for row in rows if row.data == data], data, f"leaderboard-{number}")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def _latex_of(rows: Sequence[Row], data: str, label: str) -> list[str]:
    encoders = [encoder_of(rows, name) for name in distinct(rows, encoder_name)]
    columns = [
        (task, title, part)
        for task in tasks_in(rows)
        for title, part in headlines(task, [row for row in rows if row.task == task])
    ]
    marks = [verdicts(part) for *_, part in columns]
    figures, apart = [], []
    for encoder in encoders:
        cells, differences = [], []
        for (task, _, part), mark in zip(columns, marks, strict=True):
            row = by_encoder(part).get(encoder.name)
            gap = gap_row([r for r in rows if (r.task, r.encoder) == (task, encoder.name)])
            cells.append(_latex_cell(figure_cell(row or gap, spelling=LATEX), mark.get(encoder.name, "")))
            tested = row is not None and row.difference is not None and task_of(task).ranked
            differences.append(_latex_cell(difference_cell(row, LATEX)) if tested else "--")
        figures.append(latex_row(_latex_name(encoder), cells))
        if any(cell != "--" for cell in differences):
            reference = next((row.reference for row in rows if row.reference), "")
            apart.append(latex_row(f"{escape(encoder.name)} $-$ {escape(reference)}", differences))
    heads = ["", *(f"{task_of(task).title}: {title}" for task, title, _ in columns)]
    parts = [figures, apart] if apart else [figures]
    return latex_table(heads, parts, caption=_caption(data, encoders, apart), label=label, between="\\midrule")


def _caption(data: str, encoders: Sequence[Encoder], apart: Sequence[str]) -> str:
    text = f"{escape(data)}: figures with 95\\% intervals."
    if apart:
        text += " Bold: best by paired tests against the reference ($p < 0.05$ after Holm's correction)."
        text += " Below: differences from the reference."
    kinds = {badge.kind for encoder in encoders for badge in encoder.badges}
    text += " $^\\dagger$ learned from these data." if "saw" in kinds else ""
    text += " $^\\ddagger$ stand-in or random weights: figures mean nothing of their own." if kinds - {"saw"} else ""
    return f"{text} {escape(RESEARCH)}"


def _latex_name(encoder: Encoder) -> str:
    kinds = {badge.kind for badge in encoder.badges}
    signs = ("\\dagger" if "saw" in kinds else "") + ("\\ddagger" if kinds - {"saw"} else "")
    return escape(encoder.name) + (f"$^{{{signs}}}$" if signs else "")


def _latex_cell(cell: Cell, mark: Verdict = "") -> str:
    """A cell that is escaped already where it is a number; a status is a word."""
    if cell.kind != "number":
        return cell.text if cell.text == LATEX.none else escape(cell.text)
    text = f"\\textbf{{{cell.text}}}" if mark == "best" else cell.text
    # Ends with a sign stand between dollars already.
    between = ", " if "$" in cell.small else "--"
    return f"{text} ({cell.small.replace(' to ', between)})" if cell.small else text
