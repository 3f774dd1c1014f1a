"""The file of marks, `INDEX.marks.sqlite`: beside the index's folder, so that it stays when that is built or deleted.

Two tables to which rows are added, and none is changed (`forget` alone deletes): `journal` has a row a step, and one
each time that a step is undone or done again; `acts` has what a step did to each case.

Every operation opens the file anew, and each one that writes is one transaction that begins with its lock: other tabs,
servers and processes wait, and a kill leaves it whole. Its journal is SQLite's rollback journal, not the write-ahead
log, which needs memory that processes share and so does not work where folders are mounted from a server (NFS). What is
deleted is overwritten with zeros.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cxr_embed.errors import MarksError
from cxr_embed.io.files import not_local

MARKS = ".marks.sqlite"  # ends the name of a file of marks
VERSION = 1
_APPLICATION = 0x43585245  # of the file's header: CXRE
_FLUSH = "EXTRA"  # what was marked outlives a power cut
_SECONDS = 15.0  # that another process is waited for
_SCHEMA = (
    "CREATE TABLE journal (number INTEGER PRIMARY KEY AUTOINCREMENT, time TEXT NOT NULL, reader TEXT NOT NULL, "
    "turns INTEGER, undone INTEGER)",
    "CREATE TABLE acts (number INTEGER PRIMARY KEY AUTOINCREMENT, step INTEGER NOT NULL, image_id TEXT NOT NULL, "
    "content TEXT NOT NULL, patient_id TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, value TEXT NOT NULL)",
    "CREATE INDEX acts_of_image ON acts (image_id)",
    "CREATE INDEX acts_of_step ON acts (step)",
    "CREATE INDEX turns_of_step ON journal (turns)",
)


def marks_path(index: str | os.PathLike[str]) -> Path:
    """Where the marks of an index are, whether there are any or not; of a link, where it leads to."""
    whole = Path(os.path.realpath(index))  # `.` has no name of its own
    return whole.with_name(f"{whole.name}{MARKS}")


def changes(path: Path) -> tuple[int, ...]:
    """Another one after each change of the file; what was read under the same one need not be read again.

    Its header counts the changes, but begins again from the same number after one that a kill cut short; the time of
    the last one tells these apart.
    """
    try:
        with open(path, "rb") as file:
            header, status = file.read(28), os.fstat(file.fileno())
    except OSError:
        return ()
    return int.from_bytes(header[24:], "big"), status.st_ino, status.st_size, status.st_mtime_ns


@contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection | None]:
    """The file, for one look at it; None where there is none.

    Raises:
        MarksError: where it cannot be read, is damaged, or of another version.
    """
    if not path.exists():
        yield None
        return
    with _as_error(path), _connected(path) as database:
        database.execute("BEGIN")
        if _is_new(path, database):
            yield None
        else:
            yield database
        database.execute("ROLLBACK")


@contextmanager
def writing(path: Path) -> Iterator[sqlite3.Connection]:
    """The file, made where it is missing, for one transaction: all of it is there afterwards, or none.

    Raises:
        MarksError: where it cannot be written, is damaged, or of another version.
    """
    if (why := not_local(path)) is not None:
        raise MarksError(why)
    with _as_error(path):
        _create(path)
        with _connected(path) as database:
            database.execute("BEGIN IMMEDIATE")
            try:
                if _is_new(path, database):
                    _fill(database)
                yield database
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise


def check_marks(path: Path) -> None:
    """Looks through the whole file, where there is one.

    Raises:
        MarksError: where it cannot be read, is damaged, or of another version.
    """
    with reading(path) as database:
        if database is not None and database.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise _damaged(path)


def vacuum(path: Path) -> None:
    """Writes the file anew: no page that was once in use is left.

    Raises:
        MarksError: where it cannot be written.
    """
    with _as_error(path), _connected(path) as database:
        database.execute("VACUUM")


@contextmanager
def _connected(path: Path) -> Iterator[sqlite3.Connection]:
    database = sqlite3.connect(path, timeout=_SECONDS, isolation_level=None)
    try:
        # What a sort needs stays in memory: a file of it would be left where everybody reads.
        for name, value in (("trusted_schema", "OFF"), ("secure_delete", "ON"), ("temp_store", "MEMORY")):
            database.execute(f"PRAGMA {name}={value}")
        database.execute(f"PRAGMA synchronous={_FLUSH}")
        yield database
    finally:
        database.close()


def _create(path: Path) -> None:
    """Makes an empty file that nobody else reads; SQLite gives its journal the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        return


def _is_new(path: Path, database: sqlite3.Connection) -> bool:
    """Whether nothing was written to it yet.

    Raises:
        MarksError: for a file of others, or of another version.
    """
    names = ("application_id", "user_version")
    application, version = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in names)
    if application == _APPLICATION and version == VERSION:
        return False
    if application == _APPLICATION:
        raise MarksError(f"{path}: format version {version}; this release reads {VERSION}")
    if application or version or database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise MarksError(f"{path}: not a file of marks; move it away")
    return True


def _fill(database: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        database.execute(statement)
    database.execute(f"PRAGMA application_id={_APPLICATION}")
    database.execute(f"PRAGMA user_version={VERSION}")


def _damaged(path: Path) -> MarksError:
    return MarksError(f"{path}: damaged, or not a file of marks; restore it from a copy, or move it away")


@contextmanager
def _as_error(path: Path) -> Iterator[None]:
    """What SQLite says, in our words; never a value of the file."""
    try:
        yield
    except OSError as error:
        raise MarksError(f"{path}: cannot be written ({error.strerror})") from None
    except sqlite3.Error as error:
        name = getattr(error, "sqlite_errorname", "") or ""
        if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
            raise MarksError(f"{path}: another process is writing it; try again") from None
        if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_FULL", "SQLITE_PERM")):
            raise MarksError(f"{path}: cannot be read or written ({name.removeprefix('SQLITE_').lower()})") from None
        raise _damaged(path) from None
