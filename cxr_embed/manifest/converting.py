"""Other people's tables to manifests: columns renamed or left out, values mapped; what is unclear is refused."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

import pyarrow as pa

from cxr_embed.errors import ManifestError
from cxr_embed.manifest.checking import KNOWN, checked, refuse
from cxr_embed.manifest.checks import FINDING_VALUES, REQUIRED
from cxr_embed.manifest.rows import EXAMPLES, Rows
from cxr_embed.manifest.spellings import plain_finding
from cxr_embed.types import counted


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """What to make of a table.

    Attributes:
        columns: a manifest's column to the table's column that it is made of; one column may make several.
        values: a finding's value, in any case, to `1`, `0`, `-1` or blank.
        column_values: the same for the values of one column, by its name in the table; to any text where it is not a
            finding.
        not_findings: columns that are kept and are not findings, by either name.
        drop: the table's columns that are left out.
        root: the folder below which absolute paths are made relative.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, str] = field(default_factory=dict)
    column_values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    not_findings: Sequence[str] = ()
    drop: Sequence[str] = ()
    root: str | None = None


@dataclass(frozen=True, kw_only=True)
class Change:
    """A value that is written otherwise: in which column of the manifest, from what to what, in how many cells."""

    column: str
    value: str
    to: str
    cells: int


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A table that is a manifest now, or one of labels.

    Attributes:
        table: columns of text; `image_id`, `path` and `patient_id` first.
        findings, not_findings: its columns that are findings, and those that were declared not to be.
        renamed: the manifest's name of a column to the table's.
        dropped: the table's columns that were left out.
        changes: of values.
        notes: what else to know, in sentences.
    """

    table: pa.Table
    findings: tuple[str, ...]
    not_findings: tuple[str, ...]
    renamed: Mapping[str, str]
    dropped: tuple[str, ...]
    changes: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def is_manifest(self) -> bool:
        """Whether it says where the radiographs are, and whose."""
        return set(REQUIRED) <= set(self.table.column_names)

    def steps(self) -> list[str]:
        """What was done, in sentences."""
        said = [f"{name} is the column {old}" for name, old in self.renamed.items()]
        if self.dropped:
            said.append(f"left out: {', '.join(self.dropped)}")
        if self.not_findings:
            said.append(f"not findings: {', '.join(self.not_findings)}")
        cells: dict[tuple[str, str], Counter[str]] = {}
        for change in self.changes:
            cells.setdefault((change.value, change.to or "blank"), Counter())[change.column] += change.cells
        for (value, to), by_column in cells.items():
            columns = ", ".join(list(by_column)[:EXAMPLES]) + (", ..." if len(by_column) > EXAMPLES else "")
            said.append(f"{value or 'blank'} is {to} in {counted(by_column.total(), 'cell')} of {columns}")
        return said


def convert(rows: Rows, how: Conversion, source: str) -> Converted:
    """A table as a manifest.

    Args:
        rows: the table as it was read.
        how: what to make of it.
        source: its name, for messages.

    Raises:
        ManifestError: with all that is unclear or wrong in `problems`.
    """
    shaped, dropped, problems = _shaped(rows, how)
    refuse(source, problems)
    names = shaped.table.column_names
    declared = {how_name(how, name) for name in how.not_findings}
    findings = [name for name in names if name not in (*KNOWN, *declared)]
    written, changes, notes = _written(shaped, how, findings)
    required = REQUIRED if "path" in names else ("image_id",)
    problems = [] if "image_id" in names else ["column image_id is missing: say which one names an image with `id`"]
    problems += [problem for name in findings for problem in _unclear(written, name)]
    if required == REQUIRED and "patient_id" not in names:
        problems.append(
            "no column says whose the radiographs are: name it with `patient`, or say `patient='image_id'` where each "
            "is of a patient of its own"
        )
    refuse(source, problems)
    extra = [name for name in names if name in declared]
    table, found = checked(written, [], source, required, extra)
    first = [name for name in REQUIRED if name in names]
    table = table.select([*first, *(name for name in names if name not in first)])
    return Converted(
        table=table,
        findings=found,
        not_findings=tuple(extra),
        renamed={new: old for new, old in how.columns.items() if new != old},
        dropped=dropped,
        changes=(*changes, *_changes(written, table)),
        notes=tuple(notes),
    )


def how_name(how: Conversion, name: str) -> str:
    """What a column of the table is called in the manifest."""
    return next((new for new, old in how.columns.items() if old == name), name)


def _shaped(rows: Rows, how: Conversion) -> tuple[Rows, tuple[str, ...], list[str]]:
    """The columns that stay, by their new names; the names of the others; and problems of names."""
    names = rows.table.column_names
    wanted = [*how.columns.values(), *how.drop, *how.column_values]
    wanted += [name for name in how.not_findings if name not in how.columns]
    problems = [f"{name}: {_no_column(name, names)}" for name in dict.fromkeys(wanted) if name not in names]
    problems += [f"column {name} stands twice" for name, count in Counter(names).items() if name and count > 1]
    numbers, nameless = [n for n, name in enumerate(names) if not name], []
    for number in numbers:
        if _counts(rows.table.column(number).to_pylist()):
            nameless.append(f"column {number + 1}, row numbers without a name")
        else:
            problems.append(f"column {number + 1} has no name; give it one")
    used = set(how.columns.values())
    kept = {name: n for n, name in enumerate(names) if name and name not in used and name not in how.drop}
    problems += [
        f"{old}: {new} is a column already; leave that out with `drop` or name it otherwise"
        for new, old in how.columns.items()
        if new in kept and old != new
    ]
    problems += [f"{name} is left out with `drop`, and used all the same" for name in how.drop if name in used]
    if problems:
        return rows, (), problems
    made = {new: names.index(old) for new, old in how.columns.items()}
    # Columns keep their order; what is made of one stands where that one stood.
    order = sorted({**kept, **made}.items(), key=lambda pair: pair[1])
    return rows.select(dict(order)), (*nameless, *how.drop), []


def _no_column(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, [other for other in names if other], n=1, cutoff=0.5)
    known = f"did you mean {near[0]}?" if near else f"the columns are {', '.join(names)}"
    return f"the table has no such column; {known}"


def _counts(values: Sequence[str]) -> bool:
    """Whether values are the numbers of rows, from 0 or 1."""
    return any(list(values) == [str(n) for n in range(first, first + len(values))] for first in (0, 1))


def _written(rows: Rows, how: Conversion, findings: Sequence[str]) -> tuple[Rows, list[Change], list[str]]:
    """The rows with their values mapped, what changed, and values of the map that no cell has."""
    names, columns = rows.table.column_names, []
    changes: list[Change] = []
    for name in names:
        old = how.columns.get(name, name)
        column = rows.table[name]
        table = _spelled(how.values) if name in findings else {}
        table |= _spelled(how.column_values.get(old, {}))
        below = how.root if name == "path" else None
        written = {value: _below(table.get(value.casefold(), value), below) for value in column.unique().to_pylist()}
        columns.append(pa.chunked_array([pa.array([written[value] for value in column.to_pylist()], pa.string())]))
        if table:
            counts = Counter(column.to_pylist())
            changes += [
                Change(column=name, value=value, to=to, cells=counts[value])
                for value, to in written.items()
                if value != to
            ]
    met = {change.value.casefold() for change in changes}
    unmet = [value for value, to in how.values.items() if value.casefold() not in met and value != to]
    notes = [f"no finding has the value {value!r} (`map`)" for value in unmet]
    return replace(rows, table=pa.table(columns, names=names)), changes, notes


def _spelled(values: Mapping[str, str]) -> dict[str, str]:
    return {value.casefold(): to for value, to in values.items()}


def _below(path: str, root: str | None) -> str:
    """An absolute path from the root, where it is below it."""
    if root is None or not PurePath(path).is_absolute():
        return path
    try:
        return PurePath(path).relative_to(root).as_posix()
    except ValueError:
        return path


def _unclear(rows: Rows, name: str) -> list[str]:
    """The problem of a finding with values that could mean anything."""
    values = [value for value in rows.table[name].unique().to_pylist() if plain_finding(value) not in FINDING_VALUES]
    if not values:
        return []
    shown = ", ".join(map(repr, values[:EXAMPLES]))
    more = f" and {counted(len(values) - EXAMPLES, 'other value')}" if len(values) > EXAMPLES else ""
    return [
        f"{name}: {shown}{more} could mean anything: say what with `map`, as in '{values[0]}=1'; or name the column "
        "with `not_findings` or `drop`"
    ]


def _changes(before: Rows, after: pa.Table) -> list[Change]:
    """Values in a manifest's own spelling that the table spelled otherwise."""
    found: Counter[tuple[str, str, str]] = Counter()
    for name in before.table.column_names:
        pairs = zip(before.table[name].to_pylist(), after[name].to_pylist(), strict=True)
        found.update((name, old, new) for old, new in pairs if old != new)
    kinds = Counter(name for name, _, _ in found)
    # A date of every day is one change, not thousands.
    many = {name for name, kind in kinds.items() if kind > 2 * EXAMPLES}
    listed = [
        Change(column=n, value=old, to=new, cells=cells) for (n, old, new), cells in found.items() if n not in many
    ]
    for name in many:
        of = [(old, new, cells) for (n, old, new), cells in found.items() if n == name]
        total = sum(cells for _, _, cells in of)
        listed.append(Change(column=name, value=f"{of[0][0]} and the like", to=f"{of[0][1]} and the like", cells=total))
    return listed


def conversion_of(how: Mapping[str, Any]) -> Conversion:
    """A conversion of the words that a user gave: `id`, `path`, `patient`, `rename`, `map`, `not_findings`, `drop`.

    Raises:
        ManifestError: for words that contradict each other, or a finding's value that is not 1, 0, -1 or blank.
    """
    columns = {name: how[word] for name, word in zip(REQUIRED, ("id", "path", "patient"), strict=True) if how.get(word)}
    for old, new in dict(how.get("rename") or {}).items():
        if not new or not old:
            raise ManifestError(f"`rename` is OLD=NEW, two columns' names, not {old!r} and {new!r}")
        if new in columns:
            raise ManifestError(f"`rename` {old}={new}: {new} is made of {columns[new]} already")
        columns[new] = old
    plain: dict[str, str] = {}
    by_column: dict[str, dict[str, str]] = {}
    for value, to in dict(how.get("map") or {}).items():
        if isinstance(to, Mapping):
            by_column[str(value)] = {str(each): _as_text(target) for each, target in to.items()}
        else:
            plain[str(value)] = _as_text(to)
    for value, to in plain.items():
        if not value:
            raise ManifestError("`map` of a blank: say what blanks count as with `blank`")
        if to not in ("1", "0", "-1", ""):
            raise ManifestError(f"`map` {value}={to}: a finding is 1, 0, -1 or blank ({value}=)")
    return Conversion(
        columns=columns,
        values=plain,
        column_values=by_column,
        not_findings=tuple(how.get("not_findings") or ()),
        drop=tuple(how.get("drop") or ()),
        root=how.get("root"),
    )


def _as_text(value: Any) -> str:
    """A value as a table has it: None and NaN are blank, 1.0 and True are 1."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool | float) and float(value).is_integer():
        return str(int(value))
    return str(value).strip()
