"""A Croissant file in a manifest's place: MLCommons' description of a data set, read by `mlcroissant`, files local.

Only the description is mlcroissant's to read. The table is read as any manifest is, so that an id such as 0012 stays
text, and no picture is decoded. Nothing is fetched: neither files nor vocabularies.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import translate
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

from cxr_embed.errors import ManifestError
from cxr_embed.io.files import stays_below
from cxr_embed.manifest.checks import DESCRIPTIVE, OPTIONAL, REQUIRED, leaves_root
from cxr_embed.manifest.companion import FORMAT, Companion, companion_path, read_companion, relative_root, root_of
from cxr_embed.manifest.patterns import match_bounded
from cxr_embed.manifest.rows import Rows, read_rows, reason

_LARGEST = 1 << 28  # bytes: a line for each of a million images
_NUMERIC = re.compile(r"(Integer|Float|Number|Boolean|U?Int\d+|Float\d+)$")
_KNOWN = (*REQUIRED, *OPTIONAL, *DESCRIPTIVE)
CHECKSUMS = "checksums"  # the record set that we write of the images' digests
_FAULTS = (ValueError, KeyError, TypeError, AttributeError, AssertionError, IndexError, RecursionError, LookupError)


@dataclass(frozen=True, kw_only=True)
class CroissantTable:
    """What a Croissant file says of radiographs.

    Attributes:
        rows: the table, its columns named as the fields are.
        problems: of rows that could not be read.
        companion: what it says of the data set, and the companion of its table, if that has one.
        notes: what was left out, in sentences.
        root: the folder that `path` is relative to.
        checksums: path to SHA-256, where it has them.
    """

    rows: Rows
    problems: list[str]
    companion: Companion
    notes: tuple[str, ...]
    root: Path
    checksums: Mapping[str, str] = field(default_factory=dict)


def is_croissant(path: str | os.PathLike[str]) -> bool:
    """Whether a file's name is that of a Croissant file and not of a table."""
    return Path(path).suffix.lower() in (".json", ".jsonld")


def mlcroissant() -> Any:
    """The library.

    Raises:
        ManifestError: where it is not installed.
    """
    try:
        import mlcroissant as library
    except ImportError as error:
        raise ManifestError(
            f"Croissant files need {error.name}, which is not installed; run pip install 'cxr-embed[croissant]'"
        ) from None
    return library


def read_croissant(path: str | os.PathLike[str], root: str | os.PathLike[str] | None = None) -> CroissantTable:
    """Reads a Croissant file that describes a table of radiographs.

    The record set is the one whose fields are a manifest's columns: `image_id` (else the file's name), `patient_id`,
    and `path`, or a field that refers to the files of a file set. Fields of numbers are findings, fields of text are
    not.

    Args:
        path: the file.
        root: the folder that the radiographs are in; by default what the table's companion says, else the Croissant
            file's own.

    Raises:
        ManifestError: for another file, one that mlcroissant finds faults in, files that are elsewhere than below its
            folder, changed, or not there.
    """
    path = Path(path)
    found = _Croissant(path, _metadata(path, _body(path)))
    return found.table(Path(root) if root is not None else None)


def _body(path: Path) -> dict[str, Any]:
    """The file's JSON, with no address in it that a reader would fetch."""
    try:
        with open(path, "rb") as file:
            data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ValueError(f"more than {_LARGEST >> 20} MiB")
        body = json.loads(data)
    except FileNotFoundError:
        raise ManifestError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{path}: cannot be read as JSON ({reason(error)})") from None
    if isinstance(body, dict) and body.get("format") == FORMAT:
        raise ManifestError(f"{path}: a manifest's companion; give the manifest itself, {body.get('manifest')}")
    if not isinstance(body, dict) or not isinstance(body.get("@context"), dict):
        raise ManifestError(f"{path}: not a Croissant file (it has no @context of its own), and no other JSON is read")
    if _has_address(body):
        raise ManifestError(f"{path}: its @context is an address, and nothing is fetched; write the vocabulary into it")
    return body


def _has_address(value: Any) -> bool:
    """Whether a vocabulary is to be loaded from elsewhere: a `@context` that is text, or an `@import`."""
    stack = [value]
    while stack:
        each = stack.pop()
        if isinstance(each, list):
            stack += each
        elif isinstance(each, dict):
            context = each.get("@context")
            texts = context if isinstance(context, list) else [context]
            if "@import" in each or any(isinstance(text, str) for text in texts):
                return True
            stack += each.values()
    return False


def _metadata(path: Path, body: dict[str, Any]) -> Any:
    library = mlcroissant()
    logger = logging.getLogger("absl")  # it would print what is only recommended
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        context = library.Context(folder=path.parent.absolute())
        return library.Metadata.from_json(ctx=context, json_=body)
    except library.ValidationError as error:
        faults = [line.strip(" -") for line in str(error).splitlines()[1:] if line.strip(" -")]
        more = f" and {len(faults) - 1} more" if len(faults) > 1 else ""
        raise ManifestError(f"{path}: not a valid Croissant file ({(faults or ['?'])[0][:300]}{more})") from None
    except _FAULTS as error:
        raise ManifestError(f"{path}: not a valid Croissant file ({reason(error)})") from None
    finally:
        logger.setLevel(level)


class _Croissant:
    """A Croissant file while its table is looked for."""

    def __init__(self, path: Path, metadata: Any) -> None:
        self.path, self.folder, self.metadata = path, path.parent, metadata
        self.files = {each.id: each for each in metadata.distribution}
        self.notes: list[str] = []

    def table(self, root: Path | None) -> CroissantTable:
        """Raises: ManifestError."""
        record_set = self._record_set()
        columns, references = self._fields(record_set)
        file = self._one_file(record_set, columns.values())
        source = self._local(file)
        rows, problems = read_rows(source, "no such file")
        lacking = [column for _, column in columns.values() if column not in rows.table.column_names]
        if lacking:
            raise self._error(f"{file.name or file.id} has no column {', '.join(lacking)}")
        known, notes = read_companion(source)
        self._check_companion(source)
        given = {name: rows.table[column] for name, (_, column) in columns.items()}
        at = root or self.folder
        if "path" in given:
            # Its own field for the names of the pictures' files says nothing more.
            given = {name: column for name, column in given.items() if name not in references or name in _KNOWN}
            ours = known is not None or bool(self._checksums())  # Croissant's own paths begin at its file's folder
            at = root or (root_of(known, source) if ours else self.folder)
        elif references:
            given = self._with_paths(given, references, at)
        if "path" not in given:
            raise self._error(f"{record_set.id} has no field path, and none that refers to a set of image files")
        given = {"image_id": given["image_id"] if "image_id" in given else given["path"], **given}
        if root is None and not stays_below(self.folder)(at / "any"):
            raise self._error(f"the radiographs would be in {at}, which is not below this file's folder; give `root`")
        companion = self._companion(record_set, list(given), known, source, at)
        return CroissantTable(
            rows=Rows(pa.table(given), rows.places, rows.unit),
            problems=problems,
            companion=companion,
            notes=(*notes, *self.notes),
            root=at,
            checksums=self._checksums(),
        )

    def _error(self, what: str) -> ManifestError:
        return ManifestError(f"{self.path}: {what}")

    def _record_set(self) -> Any:
        """The one whose fields have a manifest's columns."""
        described = []
        for record_set in self.metadata.record_sets:
            if record_set.data is not None:
                continue
            names = {_name_of(each) for each in record_set.fields}
            if "patient_id" in names and ("path" in names or any(map(self._images_of, record_set.fields))):
                return record_set
            described.append(f"{record_set.id} ({', '.join(sorted(names))[:200]})")
        what = "no record set has a field patient_id, and path or a reference to a set of image files"
        raise self._error(f"{what}; there are: {'; '.join(described)[:600] or 'none'}")

    def _fields(self, record_set: Any) -> tuple[dict[str, tuple[str, str]], dict[str, Any]]:
        """Field's name to file and column; and to the reference of those that name files of a file set."""
        columns: dict[str, tuple[str, str]] = {}
        references, left = {}, []
        for each in record_set.fields:
            name, source = _name_of(each), each.source
            if source is None or source.extract.column is None or source.file_object is None:
                if source is None or source.file_set is None:
                    left.append(name)
                continue
            if source.transforms and self._images_of(each) is None:
                raise self._error(f"field {name} is made by a transform, which is not read here; give a plain column")
            if name in columns:
                raise self._error(f"two fields are named {name}; rename one")
            columns[name] = (source.file_object, source.extract.column)
            if (images := self._images_of(each)) is not None:
                references[name] = each, images
        if left:
            self.notes.append(f"fields that are not columns of the table, left out: {', '.join(left)}")
        return columns, references

    def _images_of(self, each: Any) -> Any:
        """The source that names files of a set, where a field refers to one: itself, or through another record set."""
        found = each.references
        if found is not None and found.field is not None:
            fields = [one for record_set in self.metadata.record_sets for one in record_set.fields]
            found = next((one.source for one in fields if one.id == found.field), None)
        return found if found is not None and found.file_set is not None else None

    def _one_file(self, record_set: Any, columns: Iterable[tuple[str, str]]) -> Any:
        used = list(dict.fromkeys(file for file, _ in columns))
        if len(used) != 1:
            raise self._error(f"{record_set.id} has fields of {len(used)} tables ({', '.join(used)}); join them to one")
        return self.files[used[0]]

    def _local(self, file: Any) -> Path:
        """The file on this machine, checked."""
        url, name = str(file.content_url or ""), file.name or file.id
        if file.contained_in:
            raise self._error(f"{name} is inside an archive; unpack it, and give its own contentUrl")
        if re.match(r"[A-Za-z][A-Za-z0-9+.-]*:", url):
            beside = self.folder / PurePosixPath(url.split("?")[0].split("#")[0]).name
            if not beside.is_file():
                raise self._error(f"{name} is at {url[:200]}, and nothing is fetched; put the file beside this one")
            local = beside
        elif not url or leaves_root(url):
            raise self._error(f"{name}: its contentUrl {url!r} does not stay below the Croissant file's folder")
        else:
            local = self.folder / url
        if not stays_below(self.folder)(local):
            raise self._error(f"{name}: {local} leads out of the Croissant file's folder through a link")
        for kind in ("sha256", "md5"):
            wanted = getattr(file, kind)
            if wanted and local.is_file() and _digest(local, kind) != str(wanted).lower():
                raise self._error(f"{local} has changed: its {kind} is another; write the Croissant file anew")
        return local

    def _check_companion(self, source: Path) -> None:
        """Refuses a companion that has changed, or is missing, where the file names it."""
        name = companion_path(source).name
        for each in self.files.values():
            if (
                PurePosixPath(str(getattr(each, "content_url", None) or "")).name == name
                and not self._local(each).is_file()
            ):
                raise self._error(f"{name} is missing: it says what the table's columns are")

    def _with_paths(self, given: dict[str, Any], references: Mapping[str, Any], root: Path) -> dict[str, Any]:
        """The columns with `path`, of a column that names files of a set."""
        name, (each, images) = next(iter(references.items()))
        found_paths = _by_property(root, self._includes(images.file_set), _property_of(images.extract))
        paths: dict[str, list[str]] = {}
        for key, places in found_paths.items():
            paths.setdefault(_transformed(key, self._patterns(each, images)), []).extend(places)
        transforms = self._patterns(each, each.source)
        values = [_transformed(value, transforms) for value in given[name].to_pylist()]
        twice = [value for value in dict.fromkeys(values) if len(paths.get(value, ())) > 1]
        if twice:
            raise self._error(f"{name} {twice[0]!r} is the name of several files: {', '.join(paths[twice[0]][:3])}")
        found = [paths[value][0] if value in paths else value for value in values]
        kept = {own: column for own, column in given.items() if own != name or own in _KNOWN}
        kept.setdefault("image_id", given[name])
        return {**kept, "path": pa.chunked_array([pa.array(found, pa.string())])}

    def _patterns(self, each: Any, source: Any) -> list[re.Pattern[str]]:
        """What makes a file's name of a cell: patterns whose first group it is, from the cell's beginning."""
        try:
            return [re.compile(rf"\A(?:{t.regex})") for t in source.transforms or [] if t.regex]
        except re.error as error:
            raise self._error(f"field {_name_of(each)}: its transform is not a regular expression ({error})") from None

    def _includes(self, file_set: str) -> list[str]:
        files = self.files.get(file_set)
        if files is None or not hasattr(files, "includes"):
            raise self._error(f"there is no set of files {file_set}")
        if files.contained_in:
            raise self._error(f"the images of {file_set} are inside an archive; unpack it below this folder")
        return [str(pattern) for pattern in files.includes or []]

    def _companion(
        self, record_set: Any, names: Sequence[str], known: Companion | None, source: Path, root: Path
    ) -> Companion:
        text = {_name_of(each) for each in record_set.fields if not _is_numeric(each)}
        others = tuple(name for name in names if name in text and name not in _KNOWN)
        said = known or Companion()
        declared = tuple(name for name in said.not_findings if name in names and name not in others)
        about = self.metadata
        boxes = relative_root(source.parent / said.boxes, self.path) if said.boxes is not None else None
        return replace(
            said,
            root=relative_root(root, self.path),
            boxes=boxes,
            title=said.title or _text(about.name),
            not_findings=(*others, *declared),
            licence=said.licence or _text(about.license),
            source=said.source or _text(about.url),
            citation=said.citation or _text(about.cite_as),
        )

    def _checksums(self) -> dict[str, str]:
        """Path to SHA-256, as `write_croissant` has them."""
        for record_set in self.metadata.record_sets:
            if record_set.id == CHECKSUMS and isinstance(record_set.data, list):
                pairs = [(row.get("checksums/path"), row.get("checksums/sha256")) for row in record_set.data]
                return {path: digest for path, digest in pairs if isinstance(path, str) and isinstance(digest, str)}
        return {}


def _name_of(each: Any) -> str:
    """A field's name, as a column has it."""
    return _text(each.name) or str(each.id).rsplit("/", 1)[-1]


def _is_numeric(each: Any) -> bool:
    return any(_NUMERIC.search(str(kind)) for kind in each.data_types or [])


def _text(value: Any) -> str:
    """Text of what may be a list of it, or of other things."""
    values = value if isinstance(value, list) else [value]
    return ", ".join(str(each) for each in values if isinstance(each, str) and each)


def _digest(path: Path, kind: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, kind).hexdigest()


def _property_of(extract: Any) -> str:
    value = extract.file_property
    return str(getattr(value, "name", value) or "")


def _by_property(root: Path, patterns: Sequence[str], wanted: str) -> dict[str, list[str]]:
    """Files below a folder by their name or whole path, whichever a reference is to."""
    matching = re.compile("|".join(f"(?:{translate(pattern)})" for pattern in patterns) or r"(?!)")
    found: dict[str, list[str]] = {}
    for folder, _, names in os.walk(root):
        prefix = Path(folder).relative_to(root).as_posix()
        for name in names:
            path = name if prefix == "." else f"{prefix}/{name}"
            if matching.match(path):
                found.setdefault(name if wanted == "filename" else path, []).append(path)
    return {key: sorted(paths) for key, paths in found.items()}


def _transformed(value: str, patterns: Sequence[re.Pattern[str]]) -> str:
    for pattern in patterns:
        if match := match_bounded(pattern, value):
            value = next((group for group in match.groups() if group is not None), value)
    return value


def changed_files(
    checksums: Mapping[str, str], root: Path, progress: Callable[[str, int, int], None] | None = None
) -> list[str]:
    """The paths whose files are there and are not those that a Croissant file has the digests of.

    Args:
        checksums: path to SHA-256.
        root: the folder that paths are relative to.
        progress: called with a word, what is done and how much there is.
    """
    changed = []
    for done, (path, digest) in enumerate(checksums.items(), 1):
        file = root / path
        if not leaves_root(path) and file.is_file() and _digest(file, "sha256") != digest.lower():
            changed.append(path)
        if progress is not None:
            progress("checking", done, len(checksums))
    return changed
