"""The table of cases: one row a radiograph, checked as a whole before anything runs."""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from cxr_embed.errors import ManifestError
from cxr_embed.types import Labels

REQUIRED = ("image_id", "path", "patient_id")
OPTIONAL = ("study_date", "view", "age", "sex", "split")
# Columns that describe a case and are no findings; `read_manifest(extra=...)` adds more.
DESCRIPTIVE = ("study_id", "follow_up", "site", "source")
_FINDING_VALUES = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "": np.nan, "-1": -1.0, "-1.0": -1.0}
_SEXES = ("", "M", "F", "O")
_EXAMPLES = 5  # rows that one kind of problem names before it only counts
_NO_MANIFEST = "no such manifest; `cxr-embed manifest scan DIR` makes one"
_CHUNK = 8192  # rows of a CSV that are Python objects at one time
# A newline or NUL in an id tears up logs, and NumPy drops a NUL at a string's end: two ids would become one.
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# pandas keeps a table's row numbers in such a column of a Parquet file; it is no finding.
_PANDAS_INDEX = re.compile(r"__index_level_\d+__")

Uncertain = Literal["unknown", "positive", "negative"]


@dataclass(frozen=True)
class Manifest:
    """A validated table of radiographs.

    Attributes:
        table: all columns as text, one row an image; blank = unknown.
        root: the folder that `path` is relative to.
        findings: names of the finding columns.
    """

    table: pa.Table
    root: Path
    findings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.table)

    @cached_property
    def ids(self) -> np.ndarray:
        """`(N,)` image ids in the order of the rows."""
        return self.column("image_id")

    def column(self, name: str) -> np.ndarray:
        """`(N,)` strings of a column; blank where the manifest does not have it."""
        if name not in self.table.column_names:
            return np.full(len(self), "", dtype=np.str_)
        return np.array(self.table[name].to_pylist(), dtype=np.str_)

    def rows(self) -> Iterable[tuple[str, str, str]]:
        """`(image_id, path, patient_id)` of each row, read in small steps."""
        for batch in self.table.select(list(REQUIRED)).to_batches(max_chunksize=1024):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def labels(self, uncertain: Uncertain = "unknown") -> Labels:
        """The findings as numbers.

        Args:
            uncertain: what -1 becomes: `unknown` (NaN, the default), `positive` (1) or `negative` (0). CheXpert's
                authors call these U-Ignore, U-Ones and U-Zeros (Irvin et al., 2019).

        Raises:
            ManifestError: for another policy.
        """
        policies = {"unknown": np.nan, "positive": 1.0, "negative": 0.0}
        if uncertain not in policies:
            raise ManifestError(f"uncertain is one of {', '.join(policies)}, not {uncertain!r}")
        values = np.empty((len(self), len(self.findings)), dtype=np.float32)
        for number, name in enumerate(self.findings):
            values[:, number] = [_FINDING_VALUES[value] for value in self.table[name].to_pylist()]
        values[values == -1] = policies[uncertain]
        return Labels(self.ids, self.findings, values)


def read_manifest(
    path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None, extra: Sequence[str] = ()
) -> Manifest:
    """Reads and validates a manifest (CSV, CSV.GZ or Parquet).

    Args:
        path: the file.
        root: the folder that the column `path` is relative to; the manifest's own by default.
        extra: columns that are neither known nor findings, carried along as they are.

    Raises:
        ManifestError: with all problems at once in `problems`.
    """
    if root is not None and not os.path.isdir(root):
        raise ManifestError(f"{root}: no such folder (--root)", (f"{root}: no such folder",))
    table, findings = _read_checked(Path(path), REQUIRED, extra, _NO_MANIFEST)
    return Manifest(table, Path(root) if root is not None else Path(path).parent, findings)


def read_labels(path: str | os.PathLike[str], *, extra: Sequence[str] = ()) -> Manifest:
    """Reads a table of labels (CSV, CSV.GZ or Parquet) for images that are known by their ids alone.

    It is checked like a manifest, and a manifest is such a table. Only `image_id` must be there: without `patient_id`
    or `path`, `Manifest.column` gives blanks for it, and `Manifest.rows` is not to be called.

    Raises:
        ManifestError: with all problems at once in `problems`.
    """
    table, findings = _read_checked(Path(path), ("image_id",), extra, "no such file")
    return Manifest(table, Path(path).parent, findings)


def read_values(path: str | os.PathLike[str]) -> Rows:
    """Reads a table of `image_id` and any other columns (CSV, CSV.GZ or Parquet), as text; scores, say.

    Names of columns and ids are checked, and nothing else.

    Raises:
        ManifestError: with all problems at once in `problems`.
    """
    rows, problems = _read_rows(Path(path), "no such file")
    names = rows.table.column_names
    problems = _check_names(names, ("image_id",), ()) + problems
    rows = rows.select({name: names.index(name) for name in names if name})
    problems += _check_ids(rows)
    if not len(rows.table) and not problems:
        problems.append("the table has no rows")
    _refuse(Path(path), problems)
    return rows


def _read_checked(
    path: Path, required: Sequence[str], extra: Sequence[str], missing: str
) -> tuple[pa.Table, tuple[str, ...]]:
    """The table, and the names of its findings."""
    rows, unreadable = _read_rows(path, missing)
    names = rows.table.column_names
    findings = tuple(n for n in names if n and n not in (*REQUIRED, *OPTIONAL, *DESCRIPTIVE, *extra))
    problems = _check_names(names, required, extra) + unreadable
    # A column that stands twice is checked once, in its first place; the others could not be told apart.
    rows = rows.select({name: names.index(name) for name in names if name})
    problems += [problem for check in _CHECKS for problem in check(rows)]
    problems += [problem for name in dict.fromkeys(findings) for problem in _check_finding(rows, name)]
    if not len(rows.table) and not unreadable:
        problems.append("the manifest has no rows" if missing == _NO_MANIFEST else "the table has no rows")
    _refuse(path, problems)
    return rows.table, findings


def _refuse(path: Path, problems: list[str]) -> None:
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ManifestError(f"{path}: {count}\n" + "\n".join(f"  {p}" for p in problems), tuple(problems))


def check_columns(columns: dict[str, list[str]]) -> list[str]:
    """The problems of columns that are not written yet, without those of findings; rows count from 1."""
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    rows = Rows(table, range(1, len(table) + 1), "row")
    return [problem for check in _CHECKS for problem in check(rows)]


def leaves_root(path: str) -> bool:
    """Whether a relative path could lead out of the folder that it is relative to, on any system."""
    parts = PurePosixPath(path.replace("\\", "/"))
    return parts.is_absolute() or ".." in parts.parts or bool(re.match(r"[A-Za-z]:", path))


def missing_files(manifest: Manifest) -> list[str]:
    """The paths in the manifest that are no files under its root."""
    return [path for _, path, _ in manifest.rows() if not os.path.isfile(manifest.root / path)]


def check_target(path: Path) -> None:
    """Refuses a file that `write_manifest` could not write.

    Raises:
        ManifestError: for another suffix than .csv or .parquet, or a folder.
    """
    if path.suffix.lower() not in (".csv", ".parquet") or os.path.isdir(path):
        raise ManifestError(f"{path}: a manifest is a file whose name ends in .csv or .parquet; give another --out")


def check_overwrite(path: Path, columns: Sequence[str]) -> None:
    """Refuses to replace a table that holds more than the new one: labels or splits that someone added.

    Raises:
        ManifestError: naming the columns that would be lost.
    """
    if not path.exists():
        return
    lost = [name for name in _read_rows(path)[0].table.column_names if name not in columns]
    if lost:
        raise ManifestError(
            f"{path}: not replaced, it has columns that would be lost ({', '.join(lost[:5])}); use --out"
        )


def write_manifest(path: Path, columns: dict[str, list[str]]) -> None:
    """Writes a manifest as CSV or Parquet (by its suffix), by atomic rename.

    Raises:
        ManifestError: where it cannot be written.
    """
    check_target(path)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() == ".parquet":
            pa.parquet.write_table(pa.table({name: pa.array(v, pa.string()) for name, v in columns.items()}), partial)
        else:
            # Before Python 3.13 the writer leaves a lone \r without quotes, and it would read back as a new row.
            careful = any("\r" in value for values in columns.values() for value in values)
            with open(partial, "w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL if careful else csv.QUOTE_MINIMAL)
                writer.writerow(columns)
                writer.writerows(zip(*columns.values(), strict=True))
        os.replace(partial, path)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be written ({_reason(error)}); give another --out") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@dataclass(frozen=True)
class Rows:
    """Text columns, and where each row stands in the file: `unit` is what `places` count."""

    table: pa.Table
    places: Sequence[int]
    unit: Literal["line", "row"]

    def select(self, columns: dict[str, int]) -> Rows:
        table = pa.table([self.table.column(number) for number in columns.values()], names=list(columns))
        return Rows(table, self.places, self.unit)

    def has(self, *names: str) -> bool:
        return set(names) <= set(self.table.column_names)

    def where(self, column: str, bad: Callable[[str], bool], what: str) -> list[str]:
        """The problem `what` with the rows whose value is bad; each distinct value is looked at once."""
        wrong = {value for value in self.table[column].unique().to_pylist() if bad(value)}
        if not wrong:
            return []
        values = self.table[column].to_pylist()
        return self.told(what, [number for number, value in enumerate(values) if value in wrong], values)

    def told(self, what: str, numbers: list[int], values: Sequence[str]) -> list[str]:
        """The problem `what`, with the place and value of the first few rows that have it."""
        shown = (f"{values[n]!r} in {self.unit} {self.places[n]}" for n in numbers[:_EXAMPLES])
        more = f" and {len(numbers) - _EXAMPLES} more" if len(numbers) > _EXAMPLES else ""
        return [f"{what}: {', '.join(shown)}{more}"] if numbers else []


def _read_rows(path: Path, missing: str = _NO_MANIFEST) -> tuple[Rows, list[str]]:
    """The file as trimmed text, and the problems of rows that are none.

    A type that is guessed would turn id 0012 into 12, so a CSV's values are never anything but text.
    """
    message = ""
    try:
        if os.path.isdir(path):
            message = f"a folder; `cxr-embed manifest scan {path}` makes a manifest of it"
        elif path.suffix.lower() == ".parquet":
            return _read_parquet(path)
        else:
            return _read_csv(path)
    except FileNotFoundError:
        message = missing
    except UnicodeDecodeError:
        message = "cannot be read as a table (not UTF-8 text); save it as CSV in UTF-8"
    except (pa.ArrowException, _NotATable) as error:
        message = f"cannot be read as a table ({_reason(error)})"
    except OSError as error:
        message = f"cannot be read ({_reason(error)})"
    raise ManifestError(f"{path}: {message}", (message,))


class _NotATable(Exception):
    pass


def _reason(error: Exception) -> str:
    """An error's text in one line, without Python's number of it."""
    named = error.errno is not None and os.strerror(error.errno) if isinstance(error, OSError) else None
    return named or (str(error).splitlines() or [type(error).__name__])[0][:200]


def _read_parquet(path: Path) -> tuple[Rows, list[str]]:
    # Not read_table: it takes `site=A` in a folder's name for one more column.
    with pa.parquet.ParquetFile(path) as file:
        table = file.read()
    table.validate(full=True)
    names = [str(name).strip() for name in table.column_names]
    kept = [number for number, name in enumerate(names) if not _PANDAS_INDEX.fullmatch(name)]
    columns = [_as_text(table.column(number), names[number]) for number in kept]
    return Rows(pa.table(columns, names=[names[n] for n in kept]), range(1, len(table) + 1), "row"), []


def _as_text(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """A typed column as trimmed text: null is blank, a whole number has no point, midnight no time."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    try:
        text = column.cast(pa.string())
    except pa.ArrowException:
        raise _NotATable(f"column {name} is of the type {kind}") from None
    if pa.types.is_floating(kind):
        # Arrow writes an id as 1e+10 where pandas made it a float, which it does when one value is null.
        pairs = zip(column.to_pylist(), text.to_pylist(), strict=True)
        values = [None if n is None or n != n else str(int(n)) if n.is_integer() else told for n, told in pairs]
        text = pa.chunked_array([pa.array(values, pa.string())])
    elif pa.types.is_decimal(kind):
        text = pa.compute.replace_substring_regex(text, r"\.0+$", "")
    elif pa.types.is_timestamp(kind):
        text = pa.compute.replace_substring_regex(text, r" 00:00:00(\.0+)?(Z|[+-]\d{4})?$", "")
    return pa.compute.utf8_trim_whitespace(text.fill_null(""))


def _read_csv(path: Path) -> tuple[Rows, list[str]]:
    chunks: list[list[pa.Array]] = []
    places: list[int] = []
    ragged: list[tuple[int, int]] = []
    problems = []
    with (
        pa.input_stream(str(path), compression="detect") as raw,
        io.TextIOWrapper(raw, "utf-8-sig", newline="") as text,
    ):
        reader = csv.reader(text, strict=True)
        header: list[str] = []
        batch: list[list[str]] = []
        try:
            header = [name.strip() for name in next((row for row in reader if row), [])]
            line = reader.line_num
            for row in reader:
                # A quoted value may hold line breaks: a row is named by its first line.
                line, first = reader.line_num, line + 1
                if len(row) == len(header):
                    batch.append(row)
                    places.append(first)
                elif row and (len(row) > 1 or row[0].strip()):
                    ragged.append((first, len(row)))
                if len(batch) == _CHUNK:
                    chunks.append([pa.array(values, pa.string()) for values in zip(*batch, strict=True)])
                    batch = []
        except csv.Error as error:
            problems = [f"the file cannot be read beyond line {reader.line_num} ({error}); is a quote left open?"]
        if batch:
            chunks.append([pa.array(values, pa.string()) for values in zip(*batch, strict=True)])
    if not header:
        raise _NotATable(problems[0] if problems else "the file is empty")
    if len(header) == 1 and re.search(r"[;\t|]", header[0]):
        raise _NotATable(f"one column only, {header[0][:60]!r}; separate the columns by commas")
    if ragged:
        shown = ", ".join(f"{count} in line {line}" for line, count in ragged[:_EXAMPLES])
        more = f" and {len(ragged) - _EXAMPLES} more" if len(ragged) > _EXAMPLES else ""
        problems.insert(0, f"rows with another number of values than the {len(header)} columns: {shown}{more}")
    columns = [pa.chunked_array([chunk[n] for chunk in chunks], pa.string()) for n in range(len(header))]
    table = pa.table([pa.compute.utf8_trim_whitespace(column) for column in columns], names=header)
    return Rows(table, places, "line"), problems


def _check_names(names: list[str], required: Sequence[str], extra: Sequence[str]) -> list[str]:
    problems = [f"column {name} is missing" for name in required if name not in names]
    problems += [f"column {name} stands twice" for name, count in Counter(names).items() if name and count > 1]
    problems += [
        f"column {number} has no name (a table's row numbers? pandas leaves them out with index=False)"
        for number, name in enumerate(names, 1)
        if not name
    ]
    spellings: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        spellings.setdefault(name.casefold(), []).append(name)
    problems += [f"columns {' and '.join(same)} differ only in case" for same in spellings.values() if len(same) > 1]
    known = {name.casefold(): name for name in (*REQUIRED, *OPTIONAL)}
    # As a finding, Split or Sex would go unchecked where its values happen to be 0 and 1.
    problems += [
        f"column {name}: write it {known[folded]} (or name it with --extra)"
        for folded, same in spellings.items()
        if folded in known and known[folded] not in same
        for name in same
        if name not in extra
    ]
    return problems + [f"--extra {name}: the manifest has no such column" for name in extra if name not in names]


def _check_ids(rows: Rows) -> list[str]:
    problems = []
    for name in (*REQUIRED, *OPTIONAL):
        if rows.has(name):
            problems += rows.where(name, lambda value: bool(CONTROL.search(value)), f"{name} holds a control character")
    for name in REQUIRED:
        if rows.has(name):
            problems += rows.where(name, lambda value: not value, f"{name} is blank")
    if rows.has("image_id"):
        ids = rows.table["image_id"].to_pylist()
        first: dict[str, int] = {}
        twice = [n for n, image_id in enumerate(ids) if image_id and first.setdefault(image_id, n) != n]
        problems += rows.told("image_id is not unique", twice, ids)
    return problems


def _check_paths(rows: Rows) -> list[str]:
    what = "path must be relative and stay below the manifest's folder (or --root)"
    return rows.where("path", leaves_root, what) if rows.has("path") else []


def _check_split(rows: Rows) -> list[str]:
    if not rows.has("patient_id", "split"):
        return []
    splits: dict[str, set[str]] = {}
    for patient, split in zip(rows.table["patient_id"].to_pylist(), rows.table["split"].to_pylist(), strict=True):
        if patient and split:
            splits.setdefault(patient, set()).add(split)
    both = [(patient, names) for patient, names in splits.items() if len(names) > 1]
    if not both:
        return []
    shown = "; ".join(f"{patient} in {', '.join(sorted(names))}" for patient, names in both[:_EXAMPLES])
    more = f" and {len(both) - _EXAMPLES} more" if len(both) > _EXAMPLES else ""
    return [f"a patient is in two splits: {shown}{more}"]


def _check_values(rows: Rows) -> list[str]:
    def no_date(value: str) -> bool:
        try:
            return bool(value) and datetime.date.fromisoformat(value).isoformat() != value
        except ValueError:
            return True

    def no_age(value: str) -> bool:
        # Not float() alone: it takes 1_0, nan and the digits of every script.
        return bool(value) and not (re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", value) and float(value) <= 130)

    checks = {
        "study_date": (no_date, "study_date is no date (YYYY-MM-DD)"),
        "age": (no_age, "age is no number of years from 0 to 130"),
        "sex": (lambda value: value not in _SEXES, "sex is not M, F, O or blank"),
    }
    return [told for name, (bad, what) in checks.items() if rows.has(name) for told in rows.where(name, bad, what)]


def _check_finding(rows: Rows, name: str) -> list[str]:
    found = rows.where(name, lambda value: value not in _FINDING_VALUES, f"finding {name} is not 0, 1, -1 or blank")
    return [f"{found[0]} (if {name} is no finding, name it with --extra)"] if found else []


_CHECKS: tuple[Callable[[Rows], list[str]], ...] = (_check_ids, _check_paths, _check_split, _check_values)
