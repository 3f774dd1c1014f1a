"""A folder and a recipe to a manifest."""

from __future__ import annotations

import csv
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from fnmatch import translate
from pathlib import Path

from cxr_embed.datasets.recipe import Recipe, Source
from cxr_embed.errors import ImageError, ManifestError
from cxr_embed.images import SUFFIXES, read_dicom_header, sniff
from cxr_embed.images.dicom import keyed_hash
from cxr_embed.types import DicomFields

# A hospital's unique identifier: numbers joined by dots (PS3.5, 9.1). As a file name it would carry into every store.
_UID = re.compile(r"\d+(\.\d+){4,}")


@dataclass
class ScanResult:
    """A manifest's columns and what happened on the way.

    Attributes:
        columns: name to `N` values.
        skipped: files that were no radiograph, with the reason.
        without_patient: images whose patient is unknown: each was taken as a patient of its own.
        not_found: rows of the data set's table whose file is not there.
    """

    columns: dict[str, list[str]]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    without_patient: int = 0
    not_found: int = 0

    def __len__(self) -> int:
        return len(self.columns["image_id"])


def scan(root: Path, recipe: Recipe, *, patient_key: bytes | None, patient_pattern: str | None = None) -> ScanResult:
    """Makes a manifest's columns from a folder.

    Args:
        root: the data set's folder; paths in the result are relative to it.
        recipe: how the data set is laid out.
        patient_key: key of the hash that replaces patient ids from DICOM headers and from `patient_pattern`; None keeps
            them in clear. Ids from a public data set's own table stay as published.
        patient_pattern: regular expression searched in the relative path; its first group is the patient's id.

    Raises:
        ManifestError: where the folder, its table or its lists are missing, or no radiograph is found.
    """
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder")
    pattern = _patient_pattern(patient_pattern)
    table = _table(root, recipe)
    splits = _splits(root, recipe)
    names = ["image_id", "path", *(n for n in recipe.columns if n not in ("image_id", "path"))]
    names += ["split"] if splits else []
    names += recipe.findings.names if recipe.findings else []
    result = ScanResult({name: [] for name in names})
    seen_in_table = 0
    taken: set[str] = set()
    for path in _files(root, recipe.images):
        relative = path.relative_to(root).as_posix()
        row = table.get(path.name) if recipe.table else {}
        if row is None:
            continue  # a file that the data set's table does not know is not part of the data set
        seen_in_table += 1
        values = _values(path, relative, recipe, row, patient_key, result)
        if values is None:
            continue
        if pattern and (match := pattern.search(relative)):
            values["patient_id"] = keyed_hash(match[1], patient_key) if patient_key else match[1]
        if not values["patient_id"]:
            values["patient_id"] = f"unknown-{values['image_id']}"
            result.without_patient += 1
        if values["image_id"] in taken:
            values["image_id"] = relative  # a.png beside a.dcm
        taken.add(values["image_id"])
        values["path"] = relative
        values["split"] = splits.get(path.name, "")
        for name in names:
            result.columns[name].append(values[name])
    result.not_found = len(table) - seen_in_table if recipe.table else 0
    if not len(result):
        reason = f" (the first of {len(result.skipped)} skipped: {': '.join(result.skipped[0])})" if result.skipped else ""
        raise ManifestError(f"{root}: no radiograph found{reason}")
    return result


def _values(
    path: Path, relative: str, recipe: Recipe, row: dict[str, str], key: bytes | None, result: ScanResult
) -> dict[str, str] | None:
    """A row's columns but for `path` and `split`; None, with a note in the result, for a file that is no radiograph."""
    fields, patient = DicomFields(), ""
    is_dicom = False
    try:
        kind = _kind(path)
        is_dicom = kind == "dicom"
        if is_dicom and any(source.dicom for source in recipe.columns.values()):
            fields, patient = read_dicom_header(path, key)
    except ImageError as error:
        result.skipped.append((relative, str(error)))
        return None
    header = {
        "patient_id": patient,
        "study_date": fields.study_date,
        "view": fields.view,
        "age": "" if fields.age is None else str(fields.age),
        "sex": fields.sex,
    }
    values = {name: _value(source, relative, header, row) for name, source in recipe.columns.items()}
    if not values["image_id"]:
        result.skipped.append((relative, "its path does not match the recipe's image_id"))
        return None
    if is_dicom and _UID.search(values["image_id"]):
        values["image_id"] = "img-" + keyed_hash(values["image_id"], key or b"")
    if recipe.findings:
        told = {name for name in _first(row, recipe.findings.table).split(recipe.findings.separator) if name}
        if not told <= set(recipe.findings.names):
            strange = ", ".join(sorted(told - set(recipe.findings.names)))
            raise ManifestError(f"{relative}: the table names a finding that the recipe does not know: {strange}")
        values.update({name: str(int(name in told)) for name in recipe.findings.names})
    return values


def _value(source: Source, relative: str, header: dict[str, str], row: dict[str, str]) -> str:
    if source.path is not None:
        match = re.fullmatch(source.path, relative)
        value = match[1] if match else ""
    elif source.dicom is not None:
        value = header[source.dicom]
    else:
        value = _first(row, source.table or [])
    if source.number is not None:
        match = re.fullmatch(source.number, value)
        value = match[1] if match else ""
    return source.prefix + value if value else ""


def _first(row: dict[str, str], names: Iterable[str]) -> str:
    return next((row[name].strip() for name in names if name in row), "")


def _kind(path: Path) -> str:
    """The format of a candidate file.

    Raises:
        ImageError: where it is none that is read here.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError as error:
        raise ImageError("unreadable", f"cannot be read ({error.strerror})") from None
    kind = sniff(head)
    if kind not in SUFFIXES.values():
        raise ImageError("not-an-image", "no PNG, JPEG, TIFF or DICOM file")
    return kind


def _files(root: Path, patterns: list[str]) -> Iterator[Path]:
    """Files below `root` that match a pattern, sorted, without hidden ones; folders that are stores are left out."""
    # `**/` also stands for no folder at all.
    expressions = [re.compile(translate(p.removeprefix("**/"))) if p.startswith("**/") else None for p in patterns]
    wanted = list(zip(patterns, expressions, strict=True))
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if "store.json" in names:
            folders.clear()
            continue
        for name in sorted(names):
            path = Path(folder) / name
            relative = path.relative_to(root).as_posix()
            if name.startswith(".") or name == "DICOMDIR":
                continue
            if any(e.fullmatch(name) if e else re.fullmatch(translate(p), relative) for p, e in wanted):
                yield path


def _table(root: Path, recipe: Recipe) -> dict[str, dict[str, str]]:
    if recipe.table is None:
        return {}
    path = next((root / name for name in recipe.table.files if (root / name).is_file()), None)
    if path is None:
        raise ManifestError(f"{root}: none of {', '.join(recipe.table.files)} is there; {recipe.title} comes with it")
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        if recipe.table.file_name not in (reader.fieldnames or []):
            raise ManifestError(f"{path}: no column {recipe.table.file_name!r}; is this the table of {recipe.title}?")
        needed = [source.table for source in recipe.columns.values() if source.table]
        needed += [recipe.findings.table] if recipe.findings else []
        for names in needed:
            if not set(names) & set(reader.fieldnames or []):
                raise ManifestError(f"{path}: no column {' or '.join(map(repr, names))}")
        return {row[recipe.table.file_name]: row for row in reader}


def _splits(root: Path, recipe: Recipe) -> dict[str, str]:
    splits: dict[str, str] = {}
    for split, name in recipe.split.items():
        try:
            lines = (root / name).read_text(encoding="utf-8").split()
        except OSError:
            raise ManifestError(f"{root}: the list {name} is missing; {recipe.title} comes with it") from None
        splits.update(dict.fromkeys(lines, split))
    return splits


def _patient_pattern(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ManifestError(f"--patient-pattern is no regular expression: {error}") from None
    if compiled.groups < 1:
        raise ManifestError("--patient-pattern needs one group (...), which is the patient's id")
    return compiled


def patient_key(key_file: Path | None) -> tuple[bytes, Path]:
    """The secret that patient ids are hashed with, and where it is kept.

    Without a file of the user's, a key is made once and kept for this user only, so that later scans give the same
    patient the same hash. Share the key file between machines that scan one hospital's data; never with the data.

    Raises:
        ManifestError: where the named file is missing or nearly empty.
    """
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    path = key_file or Path(config).expanduser() / "cxr-embed" / "patient-id.key"
    try:
        if key_file is None and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(secrets.token_hex(32) + "\n")
        key = path.read_bytes().strip()
    except OSError as error:
        raise ManifestError(f"{path}: no key for the patient ids ({error.strerror}); give --key-file FILE") from None
    if len(key) < 16:
        raise ManifestError(f"{path}: a key of at least 16 characters is needed for the patient ids")
    return key, path
