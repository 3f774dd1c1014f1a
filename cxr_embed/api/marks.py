"""Readers' marks as labels: a table that a probe learns from, or that scores are compared with."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cxr_embed.api.inputs import StrPath
from cxr_embed.api.tabular import Tabular
from cxr_embed.arguments import checked_arguments
from cxr_embed.errors import MarksError
from cxr_embed.index import CaseIndex
from cxr_embed.manifest import Rows, read_values, write_manifest
from cxr_embed.marks import (
    LABELS,
    NOTE,
    CaseMarks,
    MarkedCase,
    ReaderMarks,
    check_marks,
    check_reader,
    marks_path,
    readers_of,
)
from cxr_embed.present.tables import plain_cell
from cxr_embed.types import counted


@dataclass(frozen=True)
class MarkedLabels(Tabular):
    """A reader's labels.

    Attributes:
        columns: of text, a row a case: `image_id`, `patient_id` and the findings (1, 0, -1 for unsure, blank for no
            label), or those of a manifest; `note` where notes were wanted.
        findings: that the reader labelled.
        reader: whose.
        notes: what the table leaves out.
    """

    columns: dict[str, list[str]]
    findings: tuple[str, ...]
    reader: str
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.columns["image_id"])

    def __str__(self) -> str:
        what = f"{counted(len(self), 'case')}, {counted(len(self.findings), 'finding')}"
        return self._as_text([f"{what} marked by {self.reader}"])

    def to_arrow(self) -> pa.Table:
        """A row a case; findings are int8, everything else text; null for no label and for blank."""
        return pa.table({name: pa.array(*self._typed(name)) for name in self.columns})

    def save(self, path: StrPath) -> None:
        """Writes the table, .csv or .parquet, by atomic rename.

        Raises:
            ManifestError: for another suffix, or where it cannot be written.
        """
        write_manifest(Path(path), self._written())

    def as_csv(self) -> str:
        """What `save` writes into a .csv."""
        written, file = self._written(), io.StringIO()
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(written)
        writer.writerows(zip(*written.values(), strict=True))
        return file.getvalue()

    def _written(self) -> dict[str, list[str]]:
        """The columns, with notes that no spreadsheet takes for formulas."""
        return {
            name: [str(plain_cell(each)) for each in values] if name == NOTE else values
            for name, values in self.columns.items()
        }

    def _typed(self, name: str) -> tuple[list[Any], pa.DataType]:
        if name in self.findings:
            return [int(value) if value else None for value in self.columns[name]], pa.int8()
        return [value or None for value in self.columns[name]], pa.string()

    def _remarks(self) -> Sequence[str]:
        return self.notes


@dataclass(frozen=True)
class Believed:
    """A reader's marks of cases that an index has, with the same picture.

    Attributes:
        marks: by image id, in the order of the index.
        patients: by image id.
        left_out: marked cases that the index does not have, or has with another picture.
    """

    marks: dict[str, CaseMarks] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    left_out: int = 0


def marked_cases(index: CaseIndex, ids: Sequence[str]) -> list[MarkedCase]:
    """Cases of an index, as marks are kept of them.

    Raises:
        CaseIndexError: naming ids that the index does not have.
    """
    return marked_rows(index, index.rows_of(ids) if ids else ())


def marked_rows(index: CaseIndex, rows: Sequence[int] | np.ndarray) -> list[MarkedCase]:
    """`marked_cases` of rows of the index."""
    found = index.cases(rows, ["image_id", "content", "patient_id"])
    return [
        MarkedCase(str(case["image_id"]), case["content"].hex() if case["content"] else "", case["patient_id"] or "")
        for case in found
    ]


def believed(index: CaseIndex, marks: ReaderMarks) -> Believed:
    """All of a reader's marks that are of an index's cases.

    Raises:
        MarksError: where the file is damaged.
    """
    every = marks.every()
    row_of = index.known_rows(list(dict.fromkeys(case.image_id for case, _ in every)))
    now = {case.image_id: case for case in marked_rows(index, list(row_of.values()))}
    same = [(case, made) for case, made in every if case.image_id in now and now[case.image_id].content == case.content]
    same.sort(key=lambda pair: row_of[pair[0].image_id])
    patients = {case.image_id: now[case.image_id].patient_id for case, _ in same}
    return Believed({case.image_id: made for case, made in same}, patients, len(every) - len(same))


@checked_arguments
def export_marks(
    index: CaseIndex | StrPath,
    *,
    reader: str | None = None,
    listed: str | None = None,
    manifest: StrPath | None = None,
    notes: bool = False,
) -> MarkedLabels:
    """What a reader has marked in the case browser, as a table of labels or a manifest.

    A mark of another picture than the index has under an id is left out, and so is one of a case that it has not.

    Args:
        index: an open index, or its folder; the marks lie beside it.
        reader: whose marks; may be left out where there is one reader.
        listed: only the cases of this list, labelled or not; otherwise all cases that have a label, or a note where
            notes are wanted.
        manifest: a table with rows of the cases: these are what comes out, with the reader's labels in the place of
            columns of the same findings.
        notes: whether a column `note` has the notes, which may say anything of anybody.

    Raises:
        MarksError: where nobody has marked anything, or it is not clear whose marks are meant; for a damaged file.
        CaseIndexError: where the index cannot be opened.
        ManifestError: for a manifest that cannot be read.
    """
    opened = index if isinstance(index, CaseIndex) else CaseIndex(Path(index))
    marks = ReaderMarks(marks_path(opened.path), reader_of(opened.path, reader))
    known = believed(opened, marks)
    return label_table(known, marks.reader, listed, notes, read_values(manifest) if manifest is not None else None)


def reader_of(index: Path, reader: str | None) -> str:
    """Whose marks of an index are meant.

    Raises:
        MarksError: where that is not clear, or there are none.
    """
    path = marks_path(index)
    check_marks(path)
    readers = readers_of(path)
    if not readers:
        raise _unmarked(index)
    if reader is None and len(readers) > 1:
        raise MarksError(f"{path}: marks of {', '.join(readers)}; name one with `reader`")
    if reader is None:
        return readers[0]
    if (name := check_reader(reader)) not in readers:
        raise MarksError(f"{path}: no marks of {name}; there are those of {', '.join(readers)}")
    return name


def _unmarked(index: Path) -> MarksError:
    return MarksError(
        f"{marks_path(index)}: nobody has marked a case yet; `cxr-embed serve {index}` is where readers do"
    )


def label_table(
    known: Believed, reader: str, listed: str | None = None, notes: bool = False, manifest: Rows | None = None
) -> MarkedLabels:
    """Marks as a table; arguments as of `export_marks`.

    Raises:
        MarksError: for a list that is none.
    """
    lists = sorted({name for made in known.marks.values() for name in made.lists})
    if listed is not None and listed not in lists:
        raise MarksError(f"no list {listed}; there is {', '.join(lists) or 'none'}")
    chosen = {
        image_id: made
        for image_id, made in known.marks.items()
        if (listed in made.lists if listed is not None else made.labels or (notes and made.note))
    }
    remarks = []
    if known.left_out:
        are = counted(known.left_out, "case that is marked is", "cases that are marked are")
        remarks.append(f"{are} not in the index as {'it was' if known.left_out == 1 else 'they were'}: left out")
    columns = {"image_id": list(chosen), "patient_id": [known.patients[image_id] for image_id in chosen]}
    if manifest is not None:
        columns = {name: manifest.table[name].to_pylist() for name in manifest.table.column_names}
        kept = [at for at, image_id in enumerate(columns["image_id"]) if image_id in chosen]
        columns = {name: [values[at] or "" for at in kept] for name, values in columns.items()}
        if missing := len(chosen.keys() - set(columns["image_id"])):
            are = counted(missing, "case that is marked is", "cases that are marked are")
            remarks.append(f"{are} not in the manifest: left out")
    findings = tuple(sorted({name for made in chosen.values() for name in made.labels}))
    rows = [chosen[image_id] for image_id in columns["image_id"]]
    for name in findings:
        columns[name] = [str(LABELS[made.labels[name]]) if name in made.labels else "" for made in rows]
    if notes:
        columns[NOTE] = [made.note for made in rows]
    return MarkedLabels(columns, findings, reader, tuple(remarks))


def marks_info(index: StrPath) -> dict[str, Any]:
    """What `marks info --json` prints: the file, and of each reader the numbers of cases, labels, lists and notes.

    Raises:
        MarksError: where nobody has marked anything, or the file is damaged.
        CaseIndexError: where the index cannot be opened.
    """
    opened = CaseIndex(Path(index))
    path = marks_path(opened.path)
    check_marks(path)
    if not readers_of(path):
        raise _unmarked(opened.path)
    return {"marks": str(path), "readers": [_counts(opened, ReaderMarks(path, each)) for each in readers_of(path)]}


def _counts(index: CaseIndex, marks: ReaderMarks) -> dict[str, Any]:
    known = believed(index, marks)
    labels: dict[str, dict[str, int]] = {}
    lists: dict[str, int] = {}
    for made in known.marks.values():
        for finding, label in made.labels.items():
            labels.setdefault(finding, dict.fromkeys(LABELS, 0))[label] += 1
        for name in made.lists:
            lists[name] = lists.get(name, 0) + 1
    return {
        "reader": marks.reader,
        "cases": len(known.marks),
        "labels": dict(sorted(labels.items())),
        "lists": dict(sorted(lists.items())),
        "notes": sum(bool(made.note) for made in known.marks.values()),
        "left_out": known.left_out,
    }
