"""Other people's tables to manifests."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from cxr_embed.api.inputs import StrPath, Table, arrow_of
from cxr_embed.api.tabular import Tabular
from cxr_embed.arguments import checked_arguments
from cxr_embed.choices import Blank
from cxr_embed.errors import ManifestError
from cxr_embed.manifest import (
    Companion,
    Converted,
    Manifest,
    Rows,
    check_new,
    check_new_companion,
    conversion_of,
    convert,
    moved,
    read_companion,
    read_table,
    relative_root,
    root_of,
    rows_in_memory,
    write_companion,
    write_new_manifest,
)
from cxr_embed.types import counted


@dataclass(frozen=True, kw_only=True, repr=False)
class ConvertedTable(Tabular):
    """A table that is a manifest now, or one of labels, and what was done to it.

    Attributes:
        manifest: it, as `embed` and `evaluate` take it; a table of labels has no paths.
        converted: what was renamed, left out and written otherwise.
        out: the file that was written, if one was.
    """

    manifest: Manifest
    converted: Converted
    out: Path | None

    def __len__(self) -> int:
        return len(self.manifest)

    def __repr__(self) -> str:
        what = "a manifest" if self.converted.is_manifest else "a table of labels"
        lines = [
            f"{self.out or what}: {counted(len(self), 'image')}, {counted(len(self.manifest.findings), 'finding')}"
        ]
        return self._as_text([*lines, *self.converted.steps()])

    def to_arrow(self) -> pa.Table:
        """The manifest, a row an image, all of it text."""
        return self.manifest.table

    def to_json(self) -> dict[str, Any]:
        """What was done, as plain JSON values."""
        made = self.converted
        return {
            "out": str(self.out) if self.out is not None else None,
            "is_manifest": made.is_manifest,
            "images": len(self),
            "findings": list(made.findings),
            "not_findings": list(made.not_findings),
            "renamed": dict(made.renamed),
            "dropped": list(made.dropped),
            "changes": [vars(change) for change in made.changes],
            "blank": self.manifest.blank,
            "notes": list(made.notes),
        }

    def _remarks(self) -> Sequence[str]:
        return self.converted.notes


@checked_arguments
def convert_manifest(
    table: StrPath | Table,
    *,
    out: StrPath | None = None,
    map: Mapping[str, Any] | None = None,
    id: str | None = None,
    path: str | None = None,
    patient: str | None = None,
    rename: Mapping[str, str] | None = None,
    not_findings: Sequence[str] = (),
    drop: Sequence[str] = (),
    blank: Blank | None = None,
    root: StrPath | None = None,
) -> ConvertedTable:
    """Makes a manifest of somebody's table, or a table of labels where it has no paths.

    What it does is listed; what could mean two things is refused, by column and value. Yes, True, 1.00, NaN, female,
    058Y and 20200131 need no word: every reader of a manifest knows them.

    Args:
        table: a file (CSV, CSV.GZ or Parquet), or a table in memory.
        out: CSV or Parquet to write, with its companion beside it; nothing is written without it, and no other file
            replaced.
        map: values of findings to 1, 0, -1 or None (blank), in any case: `{"positive": 1, "Unknown": None}`; of one
            column, by its name: `{"Gender": {"w": "F"}}`.
        id, path, patient: the table's columns that become `image_id`, `path` and `patient_id`. One may become several.
        rename: other columns: `{"Gender": "sex"}`.
        not_findings: columns that are kept and are not findings; the companion declares them.
        drop: columns that are left out.
        blank: what a blank label counts as, as the companion will say: `unknown`, or `negative`.
        root: the folder that paths are relative to, or below which absolute ones lie; the table's own by default.

    Raises:
        ManifestError: with all that is unclear in `problems`; for a file that cannot be read or written.
    """
    root = os.path.abspath(root) if root is not None else None
    if root is not None and not os.path.isdir(root):
        raise ManifestError(f"{root}: no such folder (`root`)")
    rows, known, source = _read(table)
    declared = [*not_findings, *(n for n in known.not_findings if n not in (*not_findings, *drop))]
    how = conversion_of(
        {"id": id, "path": path, "patient": patient, "rename": rename, "map": map, "drop": drop, "root": root}
        | {"not_findings": declared}
    )
    made = convert(rows, how, str(source or "the table"))
    target = Path(out) if out is not None else None
    folder = Path(root) if root is not None else root_of(known, source) if source is not None else Path()
    known = replace(known, not_findings=made.not_findings, blank=blank or known.blank)
    if target is not None:
        _write(made, target, known, folder, source)
    manifest = Manifest(made.table, folder, made.findings, known)
    return ConvertedTable(manifest=manifest, converted=made, out=target)


def _read(table: Any) -> tuple[Rows, Companion, Path | None]:
    """A table as rows, what its companion says, and its file."""
    if isinstance(table, str | os.PathLike):
        path = Path(table)
        rows = read_table(path)
        return rows, read_companion(path)[0] or Companion(), path
    return rows_in_memory(arrow_of(table, "table"), "the table"), Companion(), None


def _write(made: Converted, out: Path, known: Companion, folder: Path, source: Path | None) -> None:
    """The manifest, and its companion."""
    companion = moved(known, source, out) if source is not None else known
    companion = replace(companion, root=relative_root(folder, out) if "path" in made.table.column_names else None)
    columns = made.table.to_pydict()
    check_new(out, list(columns))
    check_new_companion(out, companion)
    write_new_manifest(out, columns)
    write_companion(out, companion)
