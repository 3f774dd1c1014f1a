"""What a reader needs before the figures, and what they say, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from cxr_embed.reporting.leaderboard.headlines import headlines
from cxr_embed.reporting.leaderboard.records import DONE, FAILED, Row, distinct, task_of, tasks_in
from cxr_embed.reporting.leaderboard.verdicts import in_words
from cxr_embed.types import counted

_HOW = (
    "Best: by paired tests against the reference, p < 0.05 after Holm's correction, of those that neither learned from "
    "the data nor stand in for others."
)


def warnings(rows: Sequence[Row]) -> list[str]:
    """What limits the figures: who learned from the data, whose weights stand in, what is not there."""
    return [*_stand_ins(rows), *_seen(rows), *_missing(rows)]


def how_marked(rows: Sequence[Row]) -> str:
    """How the summary comes to say that something is best."""
    return _HOW if any(row.reference for row in rows) else "No reference was named: nothing is tested."


def summary(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """For each data set a sentence on each task that is ranked."""
    found = []
    for data in distinct(rows, lambda row: row.data):
        own = [row for row in rows if row.data == data]
        sentences = []
        for task in filter(lambda name: task_of(name).ranked, tasks_in(own)):
            several = headlines(task, [row for row in own if row.task == task])
            title = task_of(task).title
            sentences += [in_words(f"{title}, {name}", part) for name, part in several]
        if sentences:
            found.append((data, sentences))
    return found


def _stand_ins(rows: Iterable[Row]) -> Iterable[str]:
    for words in dict.fromkeys(row.stand_in for row in rows if row.stand_in):
        yield words if words.endswith(".") else f"{words}."


def _seen(rows: Sequence[Row]) -> Iterable[str]:
    for encoder, data, words in dict.fromkeys((r.encoder, r.data, r.saw_data) for r in rows if r.saw_data):
        yield f"{encoder} on {data}: {words}. Its figures there may be too good."


def _missing(rows: Sequence[Row]) -> Iterable[str]:
    cells = dict.fromkeys((r.data, r.encoder, r.task, r.status) for r in rows if r.status != DONE)
    failed = sum(status == FAILED for *_, status in cells)
    if failed:
        yield f"{counted(failed, 'cell')} failed: below each data set stands which, and why."
    unknown = dict.fromkeys(r.task for r in rows if not task_of(r.task).about)
    if unknown:
        yield f"Nothing is known of {', '.join(unknown)}: not ranked."
