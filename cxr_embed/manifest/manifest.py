"""The table of cases, read and checked as a whole."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa

from cxr_embed.arguments import checked_arguments
from cxr_embed.choices import Blank, Uncertain
from cxr_embed.errors import ManifestError
from cxr_embed.io.addresses import address_of, address_problem, is_below, joined, shown_address
from cxr_embed.io.files import stays_below
from cxr_embed.manifest.checking import checked, refuse
from cxr_embed.manifest.checks import FINDING_VALUES, REQUIRED, check_ids, check_names
from cxr_embed.manifest.companion import (
    Companion,
    companion_path,
    read_companion,
    relative_root,
    root_of,
    unknown_columns,
    write_companion,
)
from cxr_embed.manifest.croissant import is_croissant, read_croissant
from cxr_embed.manifest.curing import cure_of
from cxr_embed.manifest.rows import NO_MANIFEST, NotATable, Rows, read_rows, rows_of_table
from cxr_embed.regions import Box, are_regions
from cxr_embed.types import Labels


@dataclass(frozen=True)
class Manifest:
    """A validated table of radiographs.

    Attributes:
        table: all columns as text, one row an image; blank = unknown.
        root: the folder that `path` is relative to, or its address.
        findings: names of the finding columns.
        companion: what the file beside the manifest says of it; None where there is none.
        notes: whether that still holds, in sentences.
    """

    table: pa.Table
    root: Path
    findings: tuple[str, ...]
    companion: Companion | None = None
    notes: tuple[str, ...] = ()

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

    @cached_property
    def has_regions(self) -> bool:
        """Whether the rows are parts of pictures: each has a box, and a name such as `7#2`."""
        return "box" in self.table.column_names and are_regions(self.ids.tolist(), self.column("box").tolist())

    @cached_property
    def boxes(self) -> np.ndarray:
        """`(N,)` strings, where each region lies, in their one spelling (`regions.Box`); blank for whole pictures."""
        texts = self.column("box").tolist() if self.has_regions else [""] * len(self)
        return np.array([str(Box.parse(text)) if text else "" for text in texts], dtype=np.str_)

    def rows(self) -> Iterable[tuple[str, str, str]]:
        """`(image_id, path, patient_id)` of each row, read in small steps."""
        for batch in self.table.select(list(REQUIRED)).to_batches(max_chunksize=1024):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    @property
    def blank(self) -> Blank:
        """What a blank label counts as where nobody says otherwise: what the companion says, else `unknown`."""
        return self.companion.blank if self.companion is not None else "unknown"

    def labels(self, uncertain: Uncertain = "unknown", blank: Blank | None = None) -> Labels:
        """The findings as numbers.

        Args:
            uncertain: what -1 becomes: `unknown` (NaN, the default), `positive` (1) or `negative` (0). CheXpert's
                authors call these U-Ignore, U-Ones and U-Zeros (Irvin et al., 2019).
            blank: what a blank becomes: `unknown` (NaN) or `negative` (0); by default what the manifest's companion
                says, else `unknown`.

        Raises:
            ManifestError: for another policy.
        """
        if blank not in (None, *get_args(Blank)):
            raise ManifestError(f"`blank` is one of {', '.join(get_args(Blank))}, not {blank!r}")
        policies = {"unknown": np.nan, "positive": 1.0, "negative": 0.0}
        if uncertain not in policies:
            raise ManifestError(f"uncertain is one of {', '.join(policies)}, not {uncertain!r}")
        values = np.empty((len(self), len(self.findings)), dtype=np.float32)
        for number, name in enumerate(self.findings):
            values[:, number] = [FINDING_VALUES[value] for value in self.table[name].to_pylist()]
        if (blank or self.blank) == "negative":
            values[np.isnan(values)] = 0
        values[values == -1] = policies[uncertain]
        return Labels(self.ids, self.findings, values)


@checked_arguments
def read_manifest(
    path: str | os.PathLike[str], *, root: str | os.PathLike[str] | None = None, extra: Sequence[str] = ()
) -> Manifest:
    """Reads and validates a manifest (CSV, CSV.GZ, Parquet, Croissant), with what its companion (`nih.json`) says.

    Args:
        path: the file.
        root: the folder that the column `path` is relative to, or its address (`s3://bucket/folder`); what the
            companion says by default, else the manifest's own.
        extra: columns that are neither known nor findings, carried along as they are, beside those of the companion.

    Raises:
        ManifestError: with all problems at once in `problems`.
    """
    if root is not None:
        _check_root(root)
    found = _read(path, NO_MANIFEST, REQUIRED, extra, root if root is not None and address_of(root) is None else None)
    if root is not None:
        _check_below(found, root)
        return replace(found, root=Path(root))
    if found.companion is not None and found.companion.root is not None and not os.path.isdir(found.root):
        problem = f"{found.root}: no such folder, and {companion_path(path)} says that the radiographs are there"
        raise ManifestError(f"{problem}; give `root`", (problem,))
    return found


def _check_root(root: str | os.PathLike[str]) -> None:
    """Refuses a folder that is not there, and an address that is not one to read from; nothing is asked of a server.

    Raises:
        ManifestError: saying why.
    """
    address = address_of(root)
    problem = address_problem(address) if address is not None else None
    if address is None and not os.path.isdir(root):
        problem = f"{root}: no such folder"
    if problem is not None:
        raise ManifestError(f"{problem} (`root`)", (problem,))


def _check_below(table: Manifest, root: str | os.PathLike[str]) -> None:
    """Refuses addresses that are not below the root that was given.

    Raises:
        ManifestError: naming some.
    """
    away = [path for _, path, _ in table.rows() if address_of(path) is not None and not is_below(root, path)]
    if away:
        shown = shown_address(root)
        problem = f"path is an address that is not below {shown}: {', '.join(away[:3])}"
        raise ManifestError(f"{problem}; leave out `root`, or give the addresses' own", (problem,))


@checked_arguments
def describe_manifest(
    path: str | os.PathLike[str],
    *,
    extra: Sequence[str] = (),
    root: str | os.PathLike[str] | None = None,
    blank: Blank | None = None,
) -> Manifest:
    """Writes the companion of a manifest, or of a table of labels, that was made by hand or has changed since.

    What an earlier companion says stays, but for columns that are gone.

    Args:
        path: the file.
        extra: columns that are not findings, beside those of an earlier companion.
        root: the folder that the column `path` is relative to.
        blank: what a blank label counts as.

    Raises:
        ManifestError: with all problems of the manifest at once; for a companion that is another table's or cannot be
            written.
    """
    rows, problems = read_rows(Path(path))
    companion, notes = read_companion(path)
    if companion is None and notes:
        raise ManifestError(f"{companion_path(path)}: {notes[0]}; rename one of the tables")
    if root is not None:
        _check_root(root)
    said = companion or Companion()
    others = [name for name in said.not_findings if name in rows.table.column_names]
    said = replace(
        said,
        not_findings=tuple(dict.fromkeys([*others, *extra])),
        blank=blank or said.blank,
        root=relative_root(root, path) if root is not None else said.root,
    )
    table, findings = checked(rows, problems, path, ("image_id",), said.not_findings)
    write_companion(path, said, replaces=True)
    return Manifest(table, root_of(said, path), findings, *read_companion(path))


def read_labels(path: str | os.PathLike[str], *, extra: Sequence[str] = ()) -> Manifest:
    """Reads a table of labels (CSV, CSV.GZ or Parquet) for images that are known by their ids alone.

    It is checked like a manifest, and a manifest is such a table. Only `image_id` must be there: without `patient_id`
    or `path`, `Manifest.column` gives blanks for it, and `Manifest.rows` is not to be called.

    Raises:
        ManifestError: with all problems at once in `problems`.
    """
    return _read(path, "no such file", ("image_id",), extra)


def _read(
    path: str | os.PathLike[str],
    missing: str,
    required: Sequence[str],
    extra: Sequence[str],
    root: str | os.PathLike[str] | None = None,
) -> Manifest:
    if is_croissant(path):
        known = read_croissant(path, root)
        others = [name for name in known.companion.not_findings if name not in extra]
        table, findings = checked(known.rows, known.problems, path, required, [*extra, *others])
        return Manifest(table, known.root, findings, known.companion, known.notes)
    rows, problems = read_rows(Path(path), missing)
    companion, notes = read_companion(path)
    if companion is None:
        try:
            table, findings = checked(rows, problems, path, required, extra)
        except ManifestError as error:
            refuse(path, error.problems, "" if problems else cure_of(path, rows, required, extra))
            raise
        return Manifest(table, Path(path).parent, findings, notes=notes)
    problems = unknown_columns(companion, rows.table.column_names, path) + problems
    others = [name for name in companion.not_findings if name in rows.table.column_names and name not in extra]
    table, findings = checked(rows, problems, path, required, [*extra, *others])
    return Manifest(table, root_of(companion, path), findings, companion, notes)


def labels_of_table(table: pa.Table, *, extra: Sequence[str] = ()) -> Manifest:
    """Labels in memory, checked as `read_labels` checks a file.

    Raises:
        ManifestError: with all problems at once in `problems`.
    """
    found, findings = checked(rows_in_memory(table, "labels"), [], "labels", ("image_id",), extra)
    return Manifest(found, Path(), findings)


def checked_table(
    table: pa.Table, source: str, required: Sequence[str], extra: Sequence[str] = ()
) -> tuple[pa.Table, tuple[str, ...]]:
    """A table in memory in plain spelling, checked as a manifest's, and the names of its findings.

    Args:
        table: in memory.
        source: its name, for messages.
        required: columns that must be there.
        extra: columns that are neither known nor findings.

    Raises:
        ManifestError: with all problems at once in `problems`.
    """
    return checked(rows_in_memory(table, source), [], source, required, extra)


def values_of_table(table: pa.Table, source: str) -> Rows:
    """A table in memory, checked as `read_values` checks a file.

    Raises:
        ManifestError: with all problems at once in `problems`.
    """
    return _checked_values(rows_in_memory(table, source), [], source)


def rows_in_memory(table: pa.Table, source: str) -> Rows:
    """A table in memory as text, unchecked; `source` is its name, for messages.

    Raises:
        ManifestError: for columns that are not text, numbers or dates.
    """
    try:
        return rows_of_table(table)
    except NotATable as error:
        refuse(source, [str(error)])
        raise


def read_table(path: str | os.PathLike[str]) -> Rows:
    """Reads any table (CSV, CSV.GZ or Parquet) as text, unchecked.

    Raises:
        ManifestError: where it cannot be read, or not all of its rows.
    """
    rows, problems = read_rows(Path(path), "no such file")
    refuse(path, problems)
    return rows


def read_values(path: str | os.PathLike[str]) -> Rows:
    """Reads a table of `image_id` and any other columns (CSV, CSV.GZ or Parquet), as text; scores, say.

    Names of columns and ids are checked, and nothing else.

    Raises:
        ManifestError: with all problems at once in `problems`.
    """
    if is_croissant(path):
        known = read_croissant(path)
        return _checked_values(known.rows, known.problems, path)
    return _checked_values(*read_rows(Path(path), "no such file"), path)


def read_root(path: str | os.PathLike[str]) -> Path:
    """The folder that a manifest's paths are relative to.

    Raises:
        ManifestError: for a companion or a Croissant file that cannot be read.
    """
    return root_of(companion_of(path), path)


def companion_of(path: str | os.PathLike[str]) -> Companion | None:
    """What is said of a manifest: by its companion, or by the Croissant file that it is.

    Raises:
        ManifestError: where that cannot be read.
    """
    return read_croissant(path).companion if is_croissant(path) else read_companion(path)[0]


def _checked_values(rows: Rows, problems: list[str], source: str | os.PathLike[str]) -> Rows:
    names = rows.table.column_names
    problems = check_names(names, ("image_id",), ()) + problems
    rows = rows.select({name: names.index(name) for name in names if name})
    problems += check_ids(rows)
    if not len(rows.table) and not problems:
        problems.append("the table has no rows")
    refuse(source, problems)
    return rows


def read_paths(path: str | os.PathLike[str]) -> dict[str, str]:
    """Image id to path of a manifest, of which nothing else is looked at.

    Raises:
        ManifestError: with all problems at once in `problems`.
    """
    rows = read_values(path)
    if not rows.has("path"):
        refuse(Path(path), ["column path is missing"])
    return dict(zip(rows.table["image_id"].to_pylist(), rows.table["path"].to_pylist(), strict=True))


def missing_files(manifest: Manifest) -> list[str]:
    """The paths in the manifest that are not files under its root. Addresses are not looked at."""
    return [
        path
        for _, path, _ in manifest.rows()
        if address_of(joined(manifest.root, path)) is None and not os.path.isfile(manifest.root / path)
    ]


def linked_away(manifest: Manifest) -> list[str]:
    """The paths in the manifest that lead to files outside its root, through a link."""
    below = stays_below(manifest.root)
    local = [path for _, path, _ in manifest.rows() if address_of(joined(manifest.root, path)) is None]
    return [path for path in local if not below(manifest.root / path)]
