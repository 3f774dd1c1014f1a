"""A folder and a recipe to a manifest."""

from __future__ import annotations

import contextlib
import csv
import os
import re
import secrets
import stat
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cxr_embed.datasets.recipe import Recipe, Source
from cxr_embed.errors import ImageError, ManifestError
from cxr_embed.images import SUFFIXES, read_dicom_header, sniff
from cxr_embed.images.dicom import keyed_hash, tells_name
from cxr_embed.manifest import CONTROL, check_columns, leaves_root
from cxr_embed.types import DicomFields

# A hospital's unique identifier: numbers joined by dots (PS3.5, 9.1), also the short form that is made from a UUID
# (B.2). As a file name it would carry into every store.
_UID = re.compile(r"\d+(\.\d+){4,}|2\.25\.\d+")
_LONG_ID = 5  # characters of a patient's id that are no accident inside a word
_GLOB = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass
class ScanResult:
    """A manifest's columns and what happened on the way.

    Attributes:
        columns: name to `N` values.
        skipped: files that were no radiograph, with the reason.
        without_patient: images whose patient is unknown: each was taken as a patient of its own.
        not_found: rows of the data set's table whose file is not there.
        problems: why the columns make no valid manifest, where the data set's own tables are at fault.
    """

    columns: dict[str, list[str]]
    skipped: list[tuple[str, str]] = field(default_factory=list)
    without_patient: int = 0
    not_found: int = 0
    problems: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.columns["image_id"])


class _Skipped(Exception):
    """Why a file is left out."""


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
    if not os.path.isdir(root):
        raise ManifestError(f"{root}: {'a file, not a folder' if os.path.exists(root) else 'no such folder'}")
    pattern = _patient_pattern(patient_pattern)
    table = _table(root, recipe)
    splits = _splits(root, recipe)
    names = ["image_id", "path", *(n for n in recipe.columns if n != "image_id")]
    names += ["split"] if recipe.split else []
    names += recipe.findings.names if recipe.findings else []
    result = ScanResult({name: [] for name in names})
    seen: set[str] = set()
    long_ids: list[str] = []
    for relative in _files(root, recipe.images, result.skipped):
        name = relative.rpartition("/")[2]
        try:
            _check_name(relative)
            row = table.get(name, {})
            if recipe.table and (not row or name in seen):
                raise _Skipped("a second file of its name" if name in seen else "not in the data set's table")
            values, patient, named = _values(root / relative, relative, recipe, row, patient_key)
        except (ImageError, _Skipped) as error:
            result.skipped.append((_printable(relative), str(error)))
            continue
        seen.add(name)
        if pattern and (match := pattern.search(relative)) and (told := (match[1] or "").strip()):
            patient = told
            values["patient_id"] = _hashed(patient, patient_key)
        values["image_id"] = _anonymous(values["image_id"], patient, patient_key, named)
        long_ids.append(_anonymous(relative, patient, patient_key, named))
        values["path"] = relative
        if recipe.split:
            values["split"] = splits.get(name, "")
        for column in names:
            result.columns[column].append(values[column])
    if not len(result):
        first = (
            f" (the first of {len(result.skipped)} skipped: {': '.join(result.skipped[0])})" if result.skipped else ""
        )
        raise ManifestError(f"{root}: no radiograph found{first}")
    result.not_found = len(table.keys() - seen)
    ids = result.columns["image_id"] = _distinct(result.columns["image_id"], long_ids)
    patients = result.columns["patient_id"]
    result.without_patient = patients.count("")
    result.columns["patient_id"] = [told or f"unknown-{own}" for told, own in zip(patients, ids, strict=True)]
    result.problems = check_columns(result.columns)
    return result


def _printable(path: str) -> str:
    """A path that a terminal takes: a name on disk may not be UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")


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


def _anonymous(image_id: str, patient: str, key: bytes | None, named: bool) -> str:
    """An image id, which every store holds, without a UID and, if ids are hashed, without the patient's id and name."""
    if named or _UID.search(image_id):
        return "img-" + keyed_hash(image_id, key or b"")
    if not key or not patient:
        return image_id
    word = re.escape(patient)
    if (
        len(patient) < _LONG_ID
    ):  # only as a word of its own: patient 1 is not in IMG_0001, but P123456 is patient 123456
        word = rf"(?<![0-9A-Za-z]){word}(?![0-9A-Za-z])"
    return re.sub(word, keyed_hash(patient, key), image_id, flags=re.IGNORECASE)


def _hashed(patient: str, key: bytes | None) -> str:
    return keyed_hash(patient, key) if key and patient else patient


def _values(
    path: Path, relative: str, recipe: Recipe, row: dict[str, str], key: bytes | None
) -> tuple[dict[str, str], str, bool]:
    """A row's columns but for `path` and `split`, the patient's id in clear where a header has it, and whether the path
    holds the patient's name, which matters only if ids are hashed.

    Raises:
        ImageError, _Skipped: for a file that is no radiograph.
    """
    fields, patient, named = DicomFields(), "", False
    if _kind(path) == "dicom" and any(source.dicom for source in recipe.columns.values()):
        fields, patient = read_dicom_header(path, None)
        named = key is not None and tells_name(path, relative)
    header = {
        "patient_id": _hashed(patient, key),
        "study_date": fields.study_date,
        "view": fields.view,
        "age": "" if fields.age is None else str(fields.age),
        "sex": fields.sex,
    }
    values = {name: _value(source, relative, header, row) for name, source in recipe.columns.items()}
    if not values["image_id"]:
        raise _Skipped("its path does not match the recipe's image_id")
    if recipe.findings:
        told = _findings(row, recipe)
        values.update({name: str(int(name in told)) if told else "" for name in recipe.findings.names})
    return values, patient, named


def _value(source: Source, relative: str, header: dict[str, str], row: dict[str, str]) -> str:
    if source.path is not None:
        value = _group(source.path, relative)
    elif source.dicom is not None:
        value = header[source.dicom]
    else:
        value = _first(row, source.table or [])
    if source.number is not None:
        value = _group(source.number, value)
    value = " ".join(CONTROL.sub(" ", value).split())
    return source.prefix + value if value else ""


def _group(pattern: str, text: str) -> str:
    match = re.fullmatch(pattern, text)
    return str(match[1] or "") if match else ""


def _first(row: dict[str, str], names: Iterable[str]) -> str:
    return next((row[name].strip() for name in names if name in row), "")


def _findings(row: dict[str, str], recipe: Recipe) -> set[str]:
    assert recipe.findings
    cell = _first(row, recipe.findings.table)
    return {name.strip() for name in cell.split(recipe.findings.separator)} - {""}


def _kind(path: Path) -> str:
    """The format of a candidate file.

    Raises:
        ImageError: where it is none that is read here.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise ImageError("unreadable", "not a regular file")  # opening a pipe would wait for ever
        with open(path, "rb") as file:
            head = file.read(132)
    except OSError as error:
        raise ImageError("unreadable", f"cannot be read ({error.strerror})") from None
    kind = sniff(head)
    if kind is None or kind not in SUFFIXES.values():
        raise ImageError("not-an-image", "no PNG, JPEG, TIFF or DICOM file")
    return kind


def _files(root: Path, patterns: list[str], skipped: list[tuple[str, str]]) -> list[str]:
    """Paths below `root` that match a pattern, sorted, without hidden files, a DICOMDIR and stores."""
    parts = (re.sub(r"\*\*/|\*\*|\*|\?|[^*?]+", lambda m: _GLOB.get(m[0]) or re.escape(m[0]), p) for p in patterns)
    wanted = re.compile("|".join(f"(?:{part})" for part in parts), re.DOTALL)
    found = []
    for folder, names in _folders(root, skipped):
        prefix = "" if folder == root else folder.relative_to(root).as_posix() + "/"
        visible = (name for name in names if not name.startswith(".") and name != "DICOMDIR")
        found += [prefix + name for name in visible if wanted.fullmatch(prefix + name)]
    return sorted(found)


def _folders(root: Path, skipped: list[tuple[str, str]]) -> Iterator[tuple[Path, list[str]]]:
    """Every folder below `root` once, with the names of its files; links to folders come last, so that loops end."""

    def cannot_read(error: OSError) -> None:
        where = _printable(os.path.relpath(error.filename, root))
        skipped.append((where, f"the folder cannot be read ({error.strerror})"))

    starts, seen = [root], set()
    for start in starts:  # grows below
        for folder, folders, names in os.walk(start, onerror=cannot_read):
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in seen or "store.json" in names:
                folders.clear()
                continue
            seen.add((status.st_dev, status.st_ino))
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            starts += [link for name in folders if (link := Path(folder, name)).is_symlink()]
            yield Path(folder), names


def _table(root: Path, recipe: Recipe) -> dict[str, dict[str, str]]:
    """The columns of the data set's table that the recipe uses, by the name of the image's file."""
    if recipe.table is None:
        return {}
    path = next((root / name for name in recipe.table.files if (root / name).is_file()), None)
    if path is None:
        raise ManifestError(f"{root}: none of {', '.join(recipe.table.files)} is there; {recipe.title} comes with it")
    used = [[recipe.table.file_name], *(source.table for source in recipe.columns.values() if source.table)]
    used += [recipe.findings.table] if recipe.findings else []
    rows: dict[str, dict[str, str]] = {}
    twice: list[str] = []
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, restval="")
            header = set(reader.fieldnames or [])
            if lacking := [" or ".join(map(repr, names)) for names in used if not header & set(names)]:
                is_it = f"is this the table of {recipe.title}?"
                raise ManifestError(f"{path}: no column {' and none '.join(lacking)}; {is_it}", tuple(lacking))
            kept = header & {name for names in used for name in names}
            for line in reader:
                row = {name: line[name] for name in kept}
                if rows.setdefault(row[recipe.table.file_name], row) != row:
                    twice.append(row[recipe.table.file_name])
    except OSError as error:
        raise ManifestError(f"{path}: cannot be read ({error.strerror})") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(f"{path}: cannot be read as a table ({error})") from None
    problems = [f"{name} stands twice, with different values" for name in twice]
    if recipe.findings:
        # One table has few distinct cells, so this looks at each once.
        cells = {_first(row, recipe.findings.table): row for row in rows.values()}
        strange = {name for row in cells.values() for name in _findings(row, recipe)} - set(recipe.findings.names)
        problems += [f"the recipe does not know the finding {name!r}" for name in sorted(strange)]
    if problems:
        shown = "".join(f"\n  {problem}" for problem in problems[:10])
        more = f"\n  and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ManifestError(f"{path}: not as the recipe {recipe.name} expects it{shown}{more}", tuple(problems))
    return rows


def _splits(root: Path, recipe: Recipe) -> dict[str, str]:
    """File name to split.

    Raises:
        ManifestError: where a list is missing, or a file is in two.
    """
    splits: dict[str, str] = {}
    for split, name in recipe.split.items():
        try:
            lines = {line.strip() for line in (root / name).read_text(encoding="utf-8-sig").splitlines()} - {""}
        except FileNotFoundError:
            raise ManifestError(f"{root}: the list {name} is missing; {recipe.title} comes with it") from None
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ManifestError(f"{root / name}: cannot be read ({reason})") from None
        if both := sorted(lines & splits.keys()):
            raise ManifestError(f"{root / name}: {len(both):,} of its files are in another list too, first {both[0]}")
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
    try:
        config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
        path = key_file or Path(config).expanduser() / "cxr-embed" / "patient-id.key"
    except RuntimeError:  # a user without a home, as containers have
        raise ManifestError("no home folder to keep the key for the patient ids in; give --key-file FILE") from None
    try:
        if key_file is None and not path.exists():
            _make_key(path)
        key = path.read_bytes().strip()
    except OSError as error:
        raise ManifestError(f"{path}: no key for the patient ids ({error.strerror}); give --key-file FILE") from None
    if len(key) < 16:
        raise ManifestError(f"{path}: a key of at least 16 characters is needed for the patient ids")
    return key, path


def _make_key(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_hex(32) + "\n")
        # A link, unlike a rename, never replaces the key of a scan that started at the same moment.
        with contextlib.suppress(FileExistsError):
            os.link(partial, path)
    finally:
        partial.unlink(missing_ok=True)
