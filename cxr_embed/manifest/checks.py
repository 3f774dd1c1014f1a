"""What must hold of a table of cases: its columns, and each of their values."""

from __future__ import annotations

import datetime
import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from cxr_embed.io.addresses import address_of, address_problem
from cxr_embed.manifest.rows import EXAMPLES, Rows
from cxr_embed.regions import are_regions, is_box, is_region_id

REQUIRED = ("image_id", "path", "patient_id")
OPTIONAL = ("study_date", "view", "age", "sex", "split")
# Columns that describe a case and are not findings; `read_manifest(extra=...)` adds more.
DESCRIPTIVE = ("study_id", "follow_up", "site", "source", "box")
FINDING_VALUES = {"0": 0.0, "1": 1.0, "0.0": 0.0, "1.0": 1.0, "": np.nan, "-1": -1.0, "-1.0": -1.0}
# A newline or NUL in an id tears up logs, and NumPy drops a NUL at a string's end: two ids would become one.
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# Days from whatever the data set counts from; eight digits are a date.
DAY_OFFSET = re.compile(r"-?[0-9]{1,7}")
_SEXES = ("", "M", "F", "O")


def check_names(names: list[str], required: Sequence[str], extra: Sequence[str]) -> list[str]:
    """The problems of columns' names, as they stand in the file; `extra` are those that are not findings."""
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
        f"column {name}: write it {known[folded]} (or name it with `extra`)"
        for folded, same in spellings.items()
        if folded in known and known[folded] not in same
        for name in same
        if name not in extra
    ]
    return problems + [f"`extra` {name}: the manifest has no such column" for name in extra if name not in names]


def check_ids(rows: Rows) -> list[str]:
    """The problems of ids, and of control characters in any column that is known."""
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
        problems += rows.problem("image_id is not unique", twice, ids)
    return problems


def _check_paths(rows: Rows) -> list[str]:
    if not rows.has("path"):
        return []
    what = "path must be relative and stay below the manifest's folder (or `root`)"
    problems = rows.where("path", lambda path: address_of(path) is None and leaves_root(path), what)
    what = "path is an address that is not read: no user, password, query or '..' in it, and http of this machine alone"
    return problems + rows.where("path", _is_refused, what)


def _is_refused(path: str) -> bool:
    address = address_of(path)
    return address is not None and address_problem(address) is not None


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
    shown = "; ".join(f"{patient} in {', '.join(sorted(names))}" for patient, names in both[:EXAMPLES])
    more = f" and {len(both) - EXAMPLES} more" if len(both) > EXAMPLES else ""
    return [f"a patient is in two splits: {shown}{more}"]


def _no_date(value: str) -> bool:
    if not value or DAY_OFFSET.fullmatch(value):
        return False
    try:
        return datetime.date.fromisoformat(value).isoformat() != value
    except ValueError:
        return True


def _check_values(rows: Rows) -> list[str]:
    def no_age(value: str) -> bool:
        # Not float() alone: it takes 1_0, nan and the digits of every script.
        return bool(value) and not (re.fullmatch(r"[0-9]{1,3}(\.[0-9]+)?", value) and float(value) <= 130)

    checks = {
        "study_date": (_no_date, "study_date is neither a date (YYYY-MM-DD) nor a number of days"),
        "age": (no_age, "age is not a number of years from 0 to 130"),
        "sex": (lambda value: value not in _SEXES, "sex is not M, F, O or blank"),
    }
    return [
        problem for name, (bad, what) in checks.items() if rows.has(name) for problem in rows.where(name, bad, what)
    ]


def _check_dates(rows: Rows) -> list[str]:
    """Dates have an order, and so have days that are counted; the two together have none."""
    if not rows.has("study_date"):
        return []
    values = {value for value in rows.table["study_date"].unique().to_pylist() if value and not _no_date(value)}
    days = {value for value in values if DAY_OFFSET.fullmatch(value)}
    if days in (set(), values):
        return []
    if 2 * len(days) <= len(values):
        return rows.where("study_date", days.__contains__, "study_date is a number of days here, elsewhere a date")
    dates = values - days
    return rows.where("study_date", dates.__contains__, "study_date is a date here, elsewhere a number of days")


def _check_boxes(rows: Rows) -> list[str]:
    """The problems of a table of regions: each has a box, and an id that names its picture."""
    if not rows.has("box", "image_id"):
        return []
    if not are_regions(*(rows.table[name].to_pylist() for name in ("image_id", "box"))):
        return []  # a column of somebody's own
    problems = rows.where("box", lambda value: not is_box(value), "box is not x,y,width,height in pixels")
    named = "image_id of a region is not its picture's, # and a number"
    return problems + rows.where("image_id", lambda value: not is_region_id(value), named)


def check_finding(rows: Rows, name: str) -> list[str]:
    """The problem of a finding's values, if there is one."""
    found = rows.where(name, lambda value: value not in FINDING_VALUES, f"finding {name} is not 0, 1, -1 or blank")
    return [f"{found[0]} (if {name} is not a finding, name it with `extra`)"] if found else []


CHECKS: tuple[Callable[[Rows], list[str]], ...] = (
    check_ids,
    _check_paths,
    _check_split,
    _check_values,
    _check_dates,
    _check_boxes,
)


def check_columns(columns: dict[str, list[str]]) -> list[str]:
    """The problems of columns that are not written yet, without those of findings; rows count from 1."""
    table = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    rows = Rows(table, range(1, len(table) + 1), "row")
    return [problem for check in CHECKS for problem in check(rows)]


def leaves_root(path: str) -> bool:
    """Whether a relative path could lead out of the folder that it is relative to, on any system; an address does."""
    if address_of(path) is not None:
        return True
    plain = path.replace("\\", "/")
    return plain.startswith("/") or ".." in plain.split("/") or bool(re.match(r"[A-Za-z]:", path))
