"""A folder and a recipe to a manifest."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cxr_embed.datasets.discovery import candidates, file_kind, printable
from cxr_embed.datasets.metadata import findings_of, first_of, read_splits, read_table
from cxr_embed.datasets.patients import RevealingPaths, compiled_pattern, hashed, neutral
from cxr_embed.datasets.recipe import ColumnSource, Recipe, load_recipe
from cxr_embed.errors import ImageError, ManifestError
from cxr_embed.images import read_dicom_header
from cxr_embed.images.identifiers import Identifiers, read_identifiers
from cxr_embed.manifest import CONTROL, check_columns, leaves_root
from cxr_embed.manifest.patterns import match_bounded
from cxr_embed.manifest.spellings import plain_age
from cxr_embed.types import DicomFields, counted

_NAMED = 3


@dataclass(kw_only=True)
class ScanResult:
    """A manifest's columns and what happened on the way.

    Attributes:
        columns: name to `N` values.
        skipped: files that were not radiographs, with the reason.
        without_patient: images whose patient is unknown: each was taken as a patient of its own.
        not_found: rows of the data set's table whose file is not there.
        neutral: images whose id is a keyed hash, because their path gives a person or an order away.
        problems: why the columns make no valid manifest, where the data set's own tables are at fault.
    """

    columns: dict[str, list[str]]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    without_patient: int = 0
    not_found: int = 0
    neutral: int = 0
    problems: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.columns["image_id"])


class _Skipped(Exception):
    """Why a file is left out."""


def scan(root: Path, recipe: Recipe, *, patient_key: bytes | None, patient_pattern: str | None = None) -> ScanResult:
    """Makes a manifest's columns from a folder.

    With a key, patient ids become a keyed hash, wherever they come from but a public data set's own table; and so do
    the image ids of paths that hold a UID, that patient's id, or what a DICOM header says of a person or an order:
    names, birth date, accession number and other ids, in any spelling. Without a key, all of it stays as it is.

    Args:
        root: the data set's folder; paths in the result are relative to it.
        recipe: how the data set is laid out.
        patient_key: key of the hash; None keeps ids in clear.
        patient_pattern: regular expression searched in the relative path; its first group is the patient's id.

    Raises:
        ManifestError: where the folder, its table or its lists are missing, or no radiograph is found.
    """
    if not os.path.isdir(root):
        raise ManifestError(f"{root}: {'a file, not a folder' if os.path.exists(root) else 'no such folder'}")
    run = _Scan(root, recipe, patient_key, compiled_pattern(patient_pattern))
    for relative in candidates(root, recipe.images, run.result.skipped):
        run.add(relative)
    return run.finish()


def scan_files(files: Sequence[Path], root: Path, *, patient_key: bytes | None) -> ScanResult:
    """Makes a manifest's columns of some files, as the recipe `folder` reads them; all else is as `scan` has it.

    Args:
        files: radiographs below `root`.
        root: that paths in the result are relative to.
        patient_key: key of the hash; None keeps ids in clear.

    Raises:
        ManifestError: naming the files that are not radiographs.
    """
    run = _Scan(root, load_recipe("folder"), patient_key, None)
    for path in files:
        run.add(path.relative_to(root).as_posix())
    if run.result.skipped:
        faults = "; ".join(f"{path}: {reason}" for path, reason in run.result.skipped[:_NAMED])
        more = counted(len(run.result.skipped), "file cannot be used", "files cannot be used")
        raise ManifestError(f"`images`: {more} ({faults}); leave them out")
    return run.finish()


class _Scan:
    """A scan while it lasts."""

    def __init__(self, root: Path, recipe: Recipe, key: bytes | None, pattern: re.Pattern[str] | None) -> None:
        self._root, self._recipe, self._key, self._pattern = root, recipe, key, pattern
        self._table, self._splits = read_table(root, recipe), read_splits(root, recipe)
        self.result = ScanResult(columns={name: [] for name in recipe.manifest_columns})
        self._seen: set[str] = set()
        self._revealing = RevealingPaths()

    def add(self, relative: str) -> None:
        """A file to a row, or among the skipped ones."""
        name = relative.rpartition("/")[2]
        try:
            values, identifiers = self._read(relative, name)
        except (ImageError, _Skipped) as error:
            self.result.skipped.append((printable(relative), str(error)))
            return
        self._seen.add(name)
        if self._pattern and (match := match_bounded(self._pattern, relative)) and (match[1] or "").strip():
            values["patient_id"] = hashed(match[1].strip(), self._key)
            self._revealing.add(relative, match.end(1))
        if self._key is not None:
            self._look(relative, identifiers)
            values |= _revealing_columns(values, self._recipe, identifiers, self._key)
        values["path"] = relative
        if self._recipe.split:
            values["split"] = self._splits.get(name, "")
        for column, cells in self.result.columns.items():
            cells.append(values[column])

    def _read(self, relative: str, name: str) -> tuple[dict[str, str], Identifiers | None]:
        _check_name(relative)
        row = self._table.get(name, {})
        if self._recipe.table and (not row or name in self._seen):
            raise _Skipped("a second file of its name" if name in self._seen else "not in the data set's table")
        return _values(self._root / relative, relative, self._recipe, row, self._key)

    def _look(self, relative: str, identifiers: Identifiers | None) -> None:
        """What a path gives away by the recipe's own patient pattern, and by the file's header."""
        patient = self._recipe.columns["patient_id"]
        if patient.path is not None and (match := re.fullmatch(patient.path, relative)) and match[1]:
            self._revealing.add(relative, match.end(1))
        if identifiers is not None:
            self._revealing.look(relative, identifiers)

    def finish(self) -> ScanResult:
        """The result, with ids that are neutral where they have to be, and distinct.

        Raises:
            ManifestError: where no radiograph was found.
        """
        result = self.result
        if not len(result):
            skipped = result.skipped
            first = f" (the first of {len(skipped)} skipped: {': '.join(skipped[0])})" if skipped else ""
            raise ManifestError(f"{self._root}: no radiograph found{first}")
        result.not_found = len(self._table.keys() - self._seen)
        ids = result.columns["image_id"] = self._image_ids()
        patients = result.columns["patient_id"]
        result.without_patient = patients.count("")
        result.columns["patient_id"] = [known or f"unknown-{own}" for known, own in zip(patients, ids, strict=True)]
        result.problems = check_columns(result.columns)
        return result

    def _image_ids(self) -> list[str]:
        ids, paths = self.result.columns["image_id"], self.result.columns["path"]
        key = self._key
        if key is None:
            return _distinct(ids, paths)
        away = [path in self._revealing for path in paths]
        self.result.neutral = sum(away)
        short, long = (
            [neutral(own, key) if reveals else own for own, reveals in zip(names, away, strict=True)]
            for names in (ids, paths)
        )
        return _distinct(short, long)


def _revealing_columns(
    values: dict[str, str], recipe: Recipe, identifiers: Identifiers | None, key: bytes
) -> dict[str, str]:
    """Columns that a recipe takes from the path, a study's id say, hashed where the header gives them away."""
    taken = [n for n, source in recipe.columns.items() if source.path and n not in ("image_id", "patient_id")]
    return {n: hashed(values[n], key) for n in taken if identifiers is not None and identifiers.in_text(values[n])}


def _check_name(relative: str) -> None:
    """Refuses a file that a manifest could not name."""
    try:
        relative.encode()
    except UnicodeEncodeError:
        raise _Skipped("its name is not UTF-8") from None
    if CONTROL.search(relative) or relative != relative.strip():
        raise _Skipped("its name holds a control character, or a space at its end")
    if leaves_root(relative):
        raise _Skipped("its name would lead out of the folder on another system")


def _distinct(ids: list[str], long_ids: list[str]) -> list[str]:
    """Gives all of a.png, a.dcm and a.jpg, which have one id, their long ids instead.

    Not the first of them its short id: that id would pass to another image when a file is added.
    """
    before: list[str] = []
    while ids != before:  # a long id can be the short id of another file
        clashing = {image_id for image_id, count in Counter(ids).items() if count > 1}
        before, ids = ids, [long if own in clashing else own for own, long in zip(ids, long_ids, strict=True)]
    return ids


def _values(
    path: Path, relative: str, recipe: Recipe, row: dict[str, str], key: bytes | None
) -> tuple[dict[str, str], Identifiers | None]:
    """A row's columns but for `path` and `split`, and what a DICOM header says of people where there is a key.

    Raises:
        ImageError, _Skipped: for a file that is not a radiograph.
    """
    fields, patient, identifiers = DicomFields(), "", None
    if file_kind(path) == "dicom":
        if any(source.dicom for source in recipe.columns.values()):
            fields, patient = read_dicom_header(path, None)
        identifiers = read_identifiers(path) if key is not None else None
    header = {
        "patient_id": patient,
        "study_date": fields.study_date,
        "view": fields.view,
        "age": "" if fields.age is None else str(fields.age),
        "sex": fields.sex,
    }
    values = {}
    for name, source in recipe.columns.items():
        whose = source.dicom == "patient_id" or (name == "patient_id" and source.path is not None)
        values[name] = _value(source, relative, header, row, key if whose else None)
    if "age" in values:
        values["age"] = plain_age(values["age"])
    if not values["image_id"]:
        raise _Skipped("its path does not match the recipe's image_id")
    if recipe.findings:
        named = findings_of(row, recipe)
        values.update({name: str(int(name in named)) if named else "" for name in recipe.findings.names})
    return values, identifiers


def _value(source: ColumnSource, relative: str, header: dict[str, str], row: dict[str, str], key: bytes | None) -> str:
    """A column's value; hashed where there is a key."""
    if source.path is not None:
        value = _group(source.path, relative)
    elif source.dicom is not None:
        value = header[source.dicom]
    else:
        value = first_of(row, source.table or [])
    if source.number is not None:
        value = _group(source.number, value)
    value = " ".join(CONTROL.sub(" ", value).split())
    return source.prefix + hashed(value, key) if value else ""


def _group(pattern: str, text: str) -> str:
    match = match_bounded(re.compile(pattern), text, whole=True)
    return str(match[1] or "") if match else ""
