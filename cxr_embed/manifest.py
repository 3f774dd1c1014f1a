"""The table of cases: one row a radiograph, checked as a whole before anything runs."""

from __future__ import annotations

import csv
import datetime
import io
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from cxr_embed.errors import ManifestError
from cxr_embed.types import Labels

REQUIRED = ("image_id", "path", "patient_id")
OPTIONAL = ("study_date", "view", "age", "sex", "split")
# Columns that describe a case and are no findings; `read_manifest(extra=...)` adds more.
DESCRIPTIVE = ("study_id", "follow_up", "site", "source")
UNKNOWN = ("", "-1", "-1.0")
_FINDING_VALUES = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "": np.nan, "-1": -1.0, "-1.0": -1.0}
_SEXES = ("", "M", "F", "O")
_EXAMPLES = 5  # rows that one kind of problem names before it only counts

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
    path = Path(path)
    table = _normalise(_read_table(path))
    names = table.column_names
    problems = [f"column {name} is missing" for name in REQUIRED if name not in names]
    problems += [f"column {name} stands twice" for name in sorted({n for n in names if names.count(n) > 1})]
    problems += [f"a column has no name (number {number})" for number, name in enumerate(names, 1) if not name]
    problems += [f"--extra {name}: the manifest has no such column" for name in extra if name not in names]
    if not problems:
        findings = tuple(n for n in names if n not in (*REQUIRED, *OPTIONAL, *DESCRIPTIVE, *extra))
        problems = [problem for check in _CHECKS for problem in check(table)]
        problems += [problem for name in findings for problem in _check_finding(table, name)]
        if not len(table):
            problems.append("the manifest has no rows")
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise ManifestError(f"{path}: {count}\n" + "\n".join(f"  {p}" for p in problems), tuple(problems))
    return Manifest(table, Path(root) if root is not None else path.parent, findings)


def missing_files(manifest: Manifest) -> list[str]:
    """The paths in the manifest that are no files under its root."""
    return [path for _, path, _ in manifest.rows() if not (manifest.root / path).is_file()]


def write_manifest(path: Path, columns: dict[str, list[str]]) -> None:
    """Writes a manifest as CSV or Parquet (by its suffix), by atomic rename.

    Raises:
        ManifestError: where it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pa.parquet.write_table(pa.table({name: pa.array(v, pa.string()) for name, v in columns.items()}), partial)
        else:
            text = io.StringIO(newline="")
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
            partial.write_text(text.getvalue(), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:
        raise ManifestError(f"{path}: cannot be written ({error.strerror}); give another --out") from None
    finally:
        partial.unlink(missing_ok=True)


def _read_table(path: Path) -> pa.Table:
    """The file as text columns: a type that is guessed would turn id 0012 into 12."""
    try:
        if path.suffix == ".parquet":
            return pa.parquet.read_table(path)
        with pa.input_stream(str(path), compression="detect") as stream:
            data = stream.read().removeprefix(b"\xef\xbb\xbf")
        header = next(csv.reader([data.split(b"\n", 1)[0].decode()]), [])
        names = [name.strip() for name in header]
        if len(names) == 1 and re.search(r"[;\t|]", names[0]):
            raise ManifestError(f"{path}: one column only, {names[0][:60]!r}; separate the columns by commas")
        convert = pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in header}, strings_can_be_null=False, quoted_strings_can_be_null=False
        )
        parse = pa.csv.ParseOptions(newlines_in_values=True)
        if not data.strip():
            raise ManifestError(f"{path}: the file is empty")
        table = pa.csv.read_csv(io.BytesIO(data), parse_options=parse, convert_options=convert)
        return table.rename_columns(names)
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such manifest; `cxr-embed manifest scan DIR` makes one") from None
    except IsADirectoryError:
        raise ManifestError(f"{path}: a folder; `cxr-embed manifest scan {path}` makes a manifest of it") from None
    except OSError as error:
        if isinstance(error, pa.ArrowInvalid) or error.strerror is None:
            raise ManifestError(f"{path}: cannot be read as a table ({error})") from None
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from None
    except (pa.ArrowInvalid, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read as a table ({_first_line(error)})") from None


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200]


def _normalise(table: pa.Table) -> pa.Table:
    """Every column as trimmed text; whole numbers without a decimal point, null as blank."""
    columns = []
    for column in table.columns:
        if pa.types.is_floating(column.type):
            values = ["" if v is None or v != v else f"{v:g}" for v in column.to_pylist()]
        elif pa.types.is_boolean(column.type):
            values = ["" if v is None else str(int(v)) for v in column.to_pylist()]
        else:
            values = ["" if v is None else str(v).strip() for v in column.to_pylist()]
        columns.append(pa.array(values, pa.string()))
    return pa.table(columns, names=[str(name) for name in table.column_names])


def _rows_where(table: pa.Table, column: str, bad: Callable[[str], bool]) -> list[tuple[int, str]]:
    values = table[column].to_pylist()
    wrong = {value for value in set(values) if bad(value)}
    # Line 1 of the file is the header.
    return [(line, value) for line, value in enumerate(values, start=2) if value in wrong] if wrong else []


def _problem(rows: list[tuple[int, str]], what: str) -> list[str]:
    if not rows:
        return []
    shown = ", ".join(f"{value!r} in line {line}" for line, value in rows[:_EXAMPLES])
    more = f" and {len(rows) - _EXAMPLES} more" if len(rows) > _EXAMPLES else ""
    return [f"{what}: {shown}{more}"]


def _check_ids(table: pa.Table) -> list[str]:
    problems = []
    for name in REQUIRED:
        blank = _rows_where(table, name, lambda value: not value)
        problems += _problem(blank, f"{name} is blank")
    seen: dict[str, int] = {}
    twice = []
    for line, image_id in enumerate(table["image_id"].to_pylist(), start=2):
        if image_id and image_id in seen:
            twice.append((line, image_id))
        seen.setdefault(image_id, line)
    return problems + _problem(twice, "image_id is not unique")


def _check_paths(table: pa.Table) -> list[str]:
    def escapes(value: str) -> bool:
        path = PurePosixPath(value.replace("\\", "/"))
        return path.is_absolute() or ".." in path.parts or bool(re.match(r"[A-Za-z]:", value)) or "\0" in value

    wrong = _rows_where(table, "path", escapes)
    return _problem(wrong, "path must be relative and stay below the manifest's folder (or --root)")


def _check_split(table: pa.Table) -> list[str]:
    if "split" not in table.column_names:
        return []
    splits: dict[str, set[str]] = {}
    for patient, split in zip(table["patient_id"].to_pylist(), table["split"].to_pylist(), strict=True):
        if split:
            splits.setdefault(patient, set()).add(split)
    both = [(patient, names) for patient, names in splits.items() if len(names) > 1]
    if not both:
        return []
    shown = "; ".join(f"{patient} in {', '.join(sorted(names))}" for patient, names in both[:_EXAMPLES])
    more = f" and {len(both) - _EXAMPLES} more" if len(both) > _EXAMPLES else ""
    return [f"a patient is in two splits: {shown}{more}"]


def _check_values(table: pa.Table) -> list[str]:
    def no_date(value: str) -> bool:
        try:
            return bool(value) and datetime.date.fromisoformat(value).isoformat() != value
        except ValueError:
            return True

    def no_age(value: str) -> bool:
        try:
            return bool(value) and not 0 <= float(value) <= 130
        except ValueError:
            return True

    checks = {
        "study_date": (no_date, "study_date is no date (YYYY-MM-DD)"),
        "age": (no_age, "age is no number of years from 0 to 130"),
        "sex": (lambda value: value not in _SEXES, "sex is not M, F, O or blank"),
    }
    problems = []
    for name, (bad, what) in checks.items():
        if name in table.column_names:
            problems += _problem(_rows_where(table, name, bad), what)
    return problems


def _check_finding(table: pa.Table, name: str) -> list[str]:
    wrong = _rows_where(table, name, lambda value: value not in _FINDING_VALUES)
    found = _problem(wrong, f"finding {name} is not 0, 1, -1 or blank")
    return [f"{found[0]} (if {name} is no finding, name it with --extra)"] if found else []


_CHECKS: tuple[Callable[[pa.Table], list[str]], ...] = (_check_ids, _check_paths, _check_split, _check_values)
