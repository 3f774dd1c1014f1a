"""A withdrawn consent: marks of somebody's pictures, and whatever names somebody, out of a file of marks."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from cxr_embed.marks.file import reading, vacuum, writing
from cxr_embed.marks.records import MarkedCase

Goes = Callable[[MarkedCase, str], bool]  # by the case, or by what was written of it


def cases_of_marks(path: Path) -> list[MarkedCase]:
    """Each case that any reader ever marked.

    Raises:
        MarksError: where the file cannot be read, is damaged, or of another version.
    """
    with reading(path) as database:
        query = "SELECT DISTINCT image_id, content, patient_id FROM acts ORDER BY number"
        return [MarkedCase(*row) for row in database.execute(query)] if database is not None else []


def forget_marks(path: Path, goes: Goes, dry_run: bool = False) -> int:
    """Deletes what readers did to some cases, and that it was undone; deleted rows are overwritten.

    Args:
        path: of the file.
        goes: whether what was done to a case goes, from the case and the names and notes that were written.
        dry_run: whether to count only.

    Returns:
        How many acts are gone.

    Raises:
        MarksError: where the file cannot be written, is damaged, or of another version.
    """
    with reading(path) as database:
        if database is None:
            return 0
        going = _going(database, goes)
    if dry_run or not going:
        return len(going)
    with writing(path) as database:
        going = _going(database, goes)  # what was marked in between too
        database.executemany("DELETE FROM acts WHERE number = ?", [(number,) for number in going])
        database.execute("DELETE FROM journal WHERE turns IS NULL AND number NOT IN (SELECT step FROM acts)")
        database.execute("DELETE FROM journal WHERE turns NOT IN (SELECT number FROM journal WHERE turns IS NULL)")
    vacuum(path)
    return len(going)


def _going(database: sqlite3.Connection, goes: Goes) -> list[int]:
    """Numbers of the acts that go."""
    rows = database.execute("SELECT number, image_id, content, patient_id, name, value FROM acts").fetchall()
    return [number for number, *case, name, value in rows if goes(MarkedCase(*case), f"{name}\n{value}")]
