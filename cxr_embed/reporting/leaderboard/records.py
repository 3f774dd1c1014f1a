"""Results as rows: what a table of them must have, and the tasks that rows can be of."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import pyarrow as pa

from cxr_embed.reporting.inputs import ReportError

MEAN = "(mean)"
DONE, FAILED = "done", "failed"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A figure of a finding, of an encoder on a data set in a task.

    Attributes:
        data, encoder, task: which cell.
        output: of the encoder; the device, for its speed.
        finding: `(mean)` for a mean over findings.
        shots: labelled positives that were learned from; None for all.
        figure: `auroc`, `precision@10`, `images_per_second`, ...
        value, low, high: the figure and its 95% interval; None where it is not defined.
        n, positives, patients: what it was measured on.
        reference: the encoder that it is compared with.
        difference, difference_low, difference_high: this value minus the reference's, paired.
        p, p_holm: of there being no difference; corrected for all comparisons of a data set and task.
        saw_data: how the encoder learned from this data set, in words; blank where it did not, as far as is known.
        stand_in: what its weights stand in for, in words; blank for weights that are what they are named after.
        status: `done`, `failed` or `not applicable`.
        reason: why there is no figure.
        report: path of the cell's report or folder, from the leaderboard's folder.
        fingerprint: of all that decides the cell.
    """

    data: str
    encoder: str
    task: str
    output: str
    finding: str
    shots: int | None
    figure: str
    value: float | None
    low: float | None
    high: float | None
    n: int | None
    positives: int | None
    patients: int | None
    reference: str
    difference: float | None
    difference_low: float | None
    difference_high: float | None
    p: float | None
    p_holm: float | None
    saw_data: str
    stand_in: str
    status: str
    reason: str
    report: str
    fingerprint: str


COLUMNS = tuple(field.name for field in fields(Row))
_WHOLE = frozenset(("shots", "n", "positives", "patients"))
_WORDS = frozenset(field.name for field in fields(Row) if field.type == "str")


@dataclass(frozen=True, kw_only=True)
class Task:
    """What a task is.

    Attributes:
        title: for people.
        about: what its figures say.
        ranked: whether a higher figure is a better encoder.
        headline: of its figures, the first one of which there are rows stands for it.
        chance: the figure of an encoder that knows nothing; None where there is none.
    """

    title: str
    about: str
    ranked: bool = True
    headline: tuple[str, ...] = ("auroc",)
    chance: float | None = 0.5


TASKS = {
    "probe": Task(
        title="Full probe",
        about="A linear probe that learned from all labels of the training part. AUROC; 0.5 is chance.",
    ),
    "curve": Task(
        title="Few labels",
        about="Linear probes that learned from few labelled cases, the same draws for every encoder. AUROC by the "
        "number of labelled positives (and as many negatives); intervals are of the mean over draws (Student's t).",
    ),
    "prompts": Task(
        title="Prompts",
        about="Words alone: the likeness of an image and of prompts that say yes and no. No label was learned from.",
    ),
    "neighbours": Task(
        title="Neighbours",
        about="The nearest training images of every test image: how well their vote shows the finding (AUROC; 0.5 is "
        "chance), what part of them has it (precision), and whether those nearer have it more often (nDCG).",
        headline=("auroc", "precision@10", "precision@5", "precision@1"),
    ),
    "scores": Task(title="Own scores", about="A model's own scores, as its authors' classifier gives them."),
    "shortcuts": Task(
        title="Shortcuts",
        about="What else a linear probe reads from the vectors: sex, age, view, site. No merit: what is separated "
        "well can be leaned on in place of a finding. 0.5 says that it is not there. Not ranked.",
        ranked=False,
    ),
    "speed": Task(
        title="Speed",
        about="Images a second of the whole way from files to vectors on the machine of this run. Not tested, not "
        "ranked: other machines give other figures.",
        ranked=False,
        headline=("images_per_second",),
        chance=None,
    ),
}
_ALSO = {"full probe": "probe", "few-label curve": "curve", "few labels": "curve", "own scores": "scores"}


def task_of(name: str) -> Task:
    """What is known of a task; of another one its name, and nothing that is ranked."""
    return TASKS.get(name) or Task(title=name, about="", ranked=False, chance=None)


def rows_of(results: pa.Table) -> list[Row]:
    """The rows of a table of results; numbers that are not finite are none, and control characters are spaces.

    Raises:
        ReportError: for a table without some column, or with values of another kind.
    """
    missing = [name for name in COLUMNS if name not in results.column_names]
    if missing:
        raise ReportError(f"the results have no column {', '.join(missing)}; they need {', '.join(COLUMNS)}")
    try:
        rows = [Row(**{name: _value(name, given[name]) for name in COLUMNS}) for given in results.to_pylist()]
    except (TypeError, ValueError) as error:
        raise ReportError(f"the results hold a value of another kind: {error}") from None
    twice = _twice(rows)
    if twice is not None:
        what = ", ".join(filter(None, (twice.data, twice.encoder, twice.task, twice.finding, twice.figure)))
        raise ReportError(f"the results have two rows of {what}: which one counts?")
    return rows


def _value(name: str, value: Any) -> Any:
    if name in _WORDS:
        text = "" if value is None else str(value)
        text = "".join(letter if letter.isprintable() else " " for letter in text)
        return _ALSO.get(text, text) if name == "task" else text
    if value is None or not math.isfinite(float(value)):
        return None
    return int(value) if name in _WHOLE else float(value)


def _twice(rows: Iterable[Row]) -> Row | None:
    seen = set()
    for row in rows:
        key = (row.data, row.encoder, row.task, row.finding, row.shots, row.figure, _place(row))
        if key in seen:
            return row
        seen.add(key)
    return None


def _place(row: Row) -> str:
    """The device of a speed; other figures are of one output an encoder."""
    return row.output if row.task == "speed" else ""


def distinct(rows: Sequence[Row], of: Callable[[Row], Any]) -> list[Any]:
    """Distinct values of rows in the order of their first one."""
    return list(dict.fromkeys(map(of, rows)))


def tasks_in(rows: Sequence[Row]) -> list[str]:
    """The tasks of rows: known ones in the order of a page, then others."""
    found = distinct(rows, lambda row: row.task)
    return [name for name in TASKS if name in found] + [name for name in found if name not in TASKS]


def sizes_first(rows: Sequence[Row]) -> list[int | None]:
    """Sizes that stand for a curve, in their order: those that were drawn several times, not all labels."""
    found = shots_in(rows)
    return [size for size in found if size is not None] or found


def shots_in(rows: Sequence[Row]) -> list[int | None]:
    """Sizes in their order; all labels last."""
    found: set[int | None] = {row.shots for row in rows}
    return [*sorted(size for size in found if size is not None), *([None] if None in found else [])]
