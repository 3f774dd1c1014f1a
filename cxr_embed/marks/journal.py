"""One reader's marks: acts that are added to the journal, undone and done again."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from cxr_embed.io.times import utc_now
from cxr_embed.marks.file import reading, writing
from cxr_embed.marks.records import Act, CaseMarks, MarkedCase, Step, check_reader

# The last word on each step that was ever undone; SQLite takes `undone` from the row of the greatest number.
_TURNED = "SELECT turns, undone, max(number) AS turn FROM journal WHERE turns IS NOT NULL GROUP BY turns"
_LIVE = (
    "SELECT number FROM journal WHERE turns IS NULL AND reader = :reader "
    f"AND number NOT IN (SELECT turns FROM ({_TURNED}) WHERE undone)"
)
# What an act said last holds, of those whose steps are not undone.
_STATE = (
    "SELECT image_id, content, patient_id, kind, name, value, max(number) FROM acts "
    f"WHERE step IN ({_LIVE}) {{}} GROUP BY image_id, content, kind, name ORDER BY 7"
)
_UNDOABLE = f"SELECT max(number) FROM ({_LIVE})"
# As in an editor: whoever has marked since does nothing again.
_REDOABLE = (
    f"SELECT turns FROM ({_TURNED}) WHERE undone AND turn > coalesce((SELECT max(number) FROM journal "
    "WHERE turns IS NULL AND reader = :reader), 0) "
    "AND turns IN (SELECT number FROM journal WHERE turns IS NULL AND reader = :reader) ORDER BY turn DESC LIMIT 1"
)
_MANY = 500  # ids of one question


@dataclass(frozen=True)
class ReaderMarks:
    """A reader's marks in a file, which is made with the first one. Others' are not seen.

    Args:
        path: of the file; `marks_path` gives an index's.
        reader: whose.

    Every method raises MarksError where the file cannot be read or written, is damaged or of another version.
    """

    path: Path
    reader: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reader", check_reader(self.reader))

    def mark(self, cases: Sequence[MarkedCase], act: Act) -> int | None:
        """Does something to cases, as one step.

        Returns:
            The step's number; None where it changes nothing.
        """
        with writing(self.path) as database:
            now = self._values(database, [case.image_id for case in cases], act)
            changed = [case for case in dict.fromkeys(cases) if now.get(case[:2], "") != act.value]
            if not changed:
                return None
            step = self._add(database)
            database.executemany(
                "INSERT INTO acts (step, image_id, content, patient_id, kind, name, value) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                [(step, *case, act.kind, act.name, act.value) for case in changed],
            )
            return step

    def undo(self, step: int | None = None) -> Step | None:
        """Takes back a step, the last one by default.

        Returns:
            What was undone; None where there is nothing to undo, or the step is undone or not this reader's.
        """
        with writing(self.path) as database:
            live = _LIVE if step is None else f"{_LIVE} AND number = :step"
            found = database.execute(f"SELECT max(number) FROM ({live})", self._named(step=step)).fetchone()[0]
            return self._turn(database, found, True)

    def redo(self) -> Step | None:
        """Does again what was undone last.

        Returns:
            What was done again; None where there is nothing, or something was marked since.
        """
        with writing(self.path) as database:
            found = database.execute(_REDOABLE, self._named()).fetchone()
            return self._turn(database, found[0] if found is not None else None, False)

    def last(self) -> tuple[Step | None, Step | None]:
        """What `undo` would take back, and what `redo` would do again."""
        with reading(self.path) as database:
            if database is None:
                return None, None
            undo, redo = (database.execute(query, self._named()).fetchone() for query in (_UNDOABLE, _REDOABLE))
            return _step(database, undo[0]), _step(database, redo[0] if redo is not None else None)

    def of(self, cases: Sequence[MarkedCase]) -> dict[str, CaseMarks]:
        """What is marked of each of some cases that has a mark, by image id."""
        wanted = {case[:2] for case in cases}
        with reading(self.path) as database:
            ids = sorted({key[0] for key in wanted})
            rows = list(_rows_of(database, _STATE, self._named(), ids)) if database is not None else []
        return {case.image_id: marks for case, marks in _gathered(rows) if case[:2] in wanted}

    def every(self) -> list[tuple[MarkedCase, CaseMarks]]:
        """All cases that have a mark, oldest mark first."""
        with reading(self.path) as database:
            rows = database.execute(_STATE.format(""), self._named()).fetchall() if database is not None else []
        return list(_gathered(rows))

    def used_last(self) -> Mapping[str, str]:
        """The finding and the list that were marked last, by kind."""
        with reading(self.path) as database:
            if database is None:
                return {}
            query = f"SELECT kind, name, max(number) FROM acts WHERE step IN ({_LIVE}) AND name <> '' GROUP BY kind"
            return {kind: name for kind, name, _ in database.execute(query, self._named())}

    def _named(self, **more: object) -> dict[str, object]:
        return {"reader": self.reader, **more}

    def _values(self, database: sqlite3.Connection, ids: Sequence[str], act: Act) -> dict[tuple[str, str], str]:
        """The values that cases have now, of one kind and name."""
        query = _STATE.replace("{}", "AND kind = :kind AND name = :name {}")
        rows = _rows_of(database, query, self._named(kind=act.kind, name=act.name), ids)
        return {(row[0], row[1]): row[5] for row in rows}

    def _add(self, database: sqlite3.Connection, turns: int | None = None, undone: bool | None = None) -> int:
        query = "INSERT INTO journal (time, reader, turns, undone) VALUES (?, ?, ?, ?)"
        number = database.execute(query, (utc_now(), self.reader, turns, undone)).lastrowid
        assert number is not None
        return number

    def _turn(self, database: sqlite3.Connection, number: int | None, undone: bool) -> Step | None:
        if number is not None:
            self._add(database, number, undone)
        return _step(database, number)


@dataclass
class _Gathering:
    """The marks of one case, while its rows are read."""

    labels: dict[str, str] = field(default_factory=dict)
    lists: list[str] = field(default_factory=list)
    note: str = ""


def readers_of(path: Path) -> list[str]:
    """Whose marks a file has, in the order of their first one.

    Raises:
        MarksError: where it cannot be read, is damaged, or of another version.
    """
    with reading(path) as database:
        query = "SELECT reader FROM journal WHERE turns IS NULL GROUP BY reader ORDER BY min(number)"
        return [row[0] for row in database.execute(query)] if database is not None else []


def _rows_of(
    database: sqlite3.Connection, query: str, named: Mapping[str, object], ids: Sequence[str]
) -> Iterator[tuple[str, ...]]:
    """The rows of some images; `{}` of the query takes the condition."""
    for first in range(0, len(ids), _MANY):
        chosen = {f"id{number}": image_id for number, image_id in enumerate(ids[first : first + _MANY])}
        condition = f"AND image_id IN ({', '.join(f':{name}' for name in chosen)})"
        yield from database.execute(query.format(condition), {**named, **chosen})


def _gathered(rows: Sequence[tuple[str, ...]]) -> Iterator[tuple[MarkedCase, CaseMarks]]:
    """Rows by case; nothing of cases whose marks were all taken away."""
    found: dict[tuple[str, str], tuple[MarkedCase, _Gathering]] = {}
    for image_id, content, patient, kind, name, value, *_ in rows:
        _, made = found.setdefault((image_id, content), (MarkedCase(image_id, content, patient), _Gathering()))
        if value and kind == "label":
            made.labels[name] = value
        elif value and kind == "list":
            made.lists.append(name)
        elif kind == "note":
            made.note = value
    for case, made in found.values():
        if marks := CaseMarks(made.labels, tuple(made.lists), made.note):
            yield case, marks


def _step(database: sqlite3.Connection, number: int | None) -> Step | None:
    if number is None:
        return None
    (time,) = database.execute("SELECT time FROM journal WHERE number = ?", (number,)).fetchone()
    query = "SELECT kind, name, value, image_id FROM acts WHERE step = ? ORDER BY number"
    rows = database.execute(query, (number,)).fetchall()
    acts = [(Act(*key), tuple(row[3] for row in of)) for key, of in groupby(rows, key=lambda row: row[:3])]
    (act, cases) = acts[0]  # a step does one thing
    return Step(number, time, cases, act)
