"""A manifest and its radiographs as a Croissant file: what is where, what the columns are, each file's digest."""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cxr_embed.errors import ManifestError
from cxr_embed.io.digests import file_sha256
from cxr_embed.io.files import write_whole
from cxr_embed.manifest.checks import DAY_OFFSET
from cxr_embed.manifest.companion import companion_path, root_of
from cxr_embed.manifest.croissant import CHECKSUMS, is_croissant, mlcroissant
from cxr_embed.manifest.manifest import Manifest, linked_away, missing_files, read_manifest
from cxr_embed.manifest.rows import csv_lines, reason
from cxr_embed.types import counted

_VERSION = "http://mlcommons.org/croissant/1.0"
_FORMATS = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".tif": "image/tiff",
    ".tiff": "image/tiff",
    ".dcm": "image/dicom",
}
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class WrittenCroissant:
    """What a Croissant file describes.

    Attributes:
        images: with a digest each.
        fields: of the table.
        joined: whether readers get the picture with each row, as they do where all lie in one folder; else they get
            all pictures with their paths beside the rows.
    """

    images: int
    fields: int
    joined: bool


def write_croissant(
    manifest: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    root: str | os.PathLike[str] | None = None,
    extra: Sequence[str] = (),
    progress: Progress | None = None,
) -> WrittenCroissant:
    """Describes a manifest, its companion and its radiographs in a Croissant file (1.0), which mlcroissant checks.

    Args:
        manifest: CSV.
        out: the file, in the folder of the manifest and of the radiographs or above both; a file with other content
            is never replaced.
        root, extra: as `read_manifest` takes them.
        progress: called with a word, what is done and how much there is: every file is read.

    Raises:
        ManifestError: for a manifest that cannot be described so, or a file that is there already.
    """
    manifest, out = Path(manifest), Path(out)
    if out.suffix.lower() not in (".json", ".jsonld"):
        raise ManifestError(f"{out}: a Croissant file is one whose name ends in .json; give another `out`")
    if is_croissant(manifest) or companion_path(manifest).absolute() == out.absolute():
        raise ManifestError(f"{out}: give a manifest, and an `out` of another name than its companion's")
    table = read_manifest(manifest, root=root, extra=extra)
    if not os.path.samefile(table.root, root_of(table.companion, manifest)):
        # Whoever reads the Croissant file knows the folder by the companion.
        raise ManifestError(
            f"{manifest}: paths are relative to {table.root}, and its companion does not say so; "
            f"`cxr-embed manifest describe` says it"
        )
    _check_files(manifest, table)
    description = _Description(manifest, table, out)
    digests = []
    for done, (_, path, _) in enumerate(table.rows(), 1):
        digests.append({"checksums/path": path, "checksums/sha256": file_sha256(table.root / path)})
        if progress is not None:
            progress("reading", done, len(table))
    text = description.text(digests)
    _write(out, text)
    return WrittenCroissant(len(table), len(table.table.column_names), description.joined)


def _check_files(manifest: Path, table: Manifest) -> None:
    if missing := missing_files(table):
        raise ManifestError(
            f"{manifest}: {len(missing):,} of {counted(len(table), 'file')} are missing below {table.root}, "
            f"first {missing[0]}"
        )
    if away := linked_away(table):
        raise ManifestError(
            f"{manifest}: {away[0]} leads out of {table.root} through a link; give files of that folder"
        )
    if manifest.suffix.lower() == ".parquet":
        # Its columns are text, of which other readers make no numbers.
        raise ManifestError(f"{manifest}: a Croissant file describes a CSV; write the manifest as one")
    with csv_lines(manifest) as (_, delimiter):
        if delimiter != ",":
            raise ManifestError(f"{manifest}: separated by {delimiter!r}; a Croissant file describes one with commas")


def _write(out: Path, text: bytes) -> None:
    try:
        if os.path.lexists(out):
            if out.is_file() and out.read_bytes() == text:
                return
            raise ManifestError(
                f"{out}: there already, with other content; give another `out`, or remove the file first"
            )
        out.parent.mkdir(parents=True, exist_ok=True)
        write_whole(out, text)
    except OSError as error:
        raise ManifestError(f"{out}: cannot be written ({reason(error)}); give another `out`") from None


class _Description:
    """A Croissant file while it is made."""

    def __init__(self, manifest: Path, table: Manifest, out: Path) -> None:
        self._manifest, self._table = manifest, table
        self._library = mlcroissant()
        folder = os.path.realpath(out.parent)
        self._csv = os.path.relpath(os.path.realpath(manifest.parent), folder)
        self._root = os.path.relpath(os.path.realpath(table.root), folder)
        if any(place.split(os.sep)[0] == ".." for place in (self._csv, self._root)):
            both = os.path.commonpath([os.path.realpath(manifest.parent), os.path.realpath(table.root)])
            raise ManifestError(f"{out}: a Croissant file names files below its own folder; give an `out` in {both}")
        # mlcroissant 1.1.1 compares a column with files' names; with their whole paths, which it knows too, in vain.
        self.joined = not any("/" in path for path in table.column("path").tolist())

    def text(self, digests: list[dict[str, str]]) -> bytes:
        """The file, checked by mlcroissant.

        Raises:
            ManifestError: where it finds a fault.
        """
        library, table = self._library, self._table
        says = table.companion
        try:
            made = library.Metadata(
                name=says.title if says is not None and says.title else self._manifest.stem,
                description=self._words(),
                conforms_to=_VERSION,
                license=[says.licence] if says is not None and says.licence else None,
                url=says.source if says is not None and says.source else None,
                cite_as=says.citation if says is not None and says.citation else None,
                distribution=self._files(),
                record_sets=[self._radiographs(), *([] if self.joined else [self._images()]), self._checksums(digests)],
            )
            body = json.loads(json.dumps(made.to_json(), default=str))
            library.Metadata.from_json(ctx=library.Context(), json_=body)
        except library.ValidationError as error:
            raise ManifestError(
                f"{self._manifest}: mlcroissant refuses it ({' '.join(str(error).split())[:400]})"
            ) from None
        return json.dumps(body, indent=1, ensure_ascii=False).encode() + b"\n"

    def _words(self) -> str:
        """What it is, for people."""
        table, says = self._table, self._table.companion
        patients = len(set(table.column("patient_id").tolist()))
        words = [f"{counted(len(table), 'chest radiograph')} of {counted(patients, 'patient')}."]
        if says is not None:
            facts = (("Labels", says.labels), ("-1", says.uncertain_words), ("Terms", says.terms))
            words += [f"{name}: {fact}." for name, fact in facts if fact]
            words.append(f"A blank label: {says.blank_words or says.blank}.")
        return " ".join(words)

    def _below(self, place: str, name: str) -> str:
        return name if place == "." else f"{PurePosixPath(place).as_posix()}/{name}"

    def _files(self) -> list[Any]:
        library = self._library
        kinds = [(self._manifest, "manifest", "text/csv")]
        if self._table.companion is not None:
            kinds.append((companion_path(self._manifest), "companion", "application/json"))
        files = [
            library.FileObject(
                id=own,
                name=path.name,
                content_url=self._below(self._csv, path.name),
                encoding_formats=[kind],
                sha256=file_sha256(path),
            )
            for path, own, kind in kinds
        ]
        suffixes = sorted({PurePosixPath(path).suffix for path in self._table.column("path").tolist()})
        images = library.FileSet(
            id="images",
            name="images",
            encoding_formats=sorted({_FORMATS.get(each.lower(), "application/octet-stream") for each in suffixes}),
            includes=[self._below(glob.escape(self._root), f"*{each}") for each in suffixes],
        )
        return [*files, images]

    def _radiographs(self) -> Any:
        library, fields, ids = self._library, [], set[str]()
        for name in self._table.table.column_names:
            slug = re.sub(r"[^A-Za-z0-9_.-]+", "_", name)  # an id may not hold spaces
            while slug in ids:
                slug += "_"
            ids.add(slug)
            fields.append(self._field(f"radiographs/{slug}", name, name, self._kind(name)))
        if self.joined:
            place = next(each for each in fields if each.name == "path")
            name = library.Extract(file_property=library.FileProperty.filename)
            place.references = library.Source(file_set="images", extract=name)
            fields.append(self._of_images("radiographs/image_", "content", library.DataType.IMAGE_OBJECT))
        return library.RecordSet(id="radiographs", name="radiographs", fields=fields)

    def _images(self) -> Any:
        """Every picture with its path, for readers to whom rows are not joined with pictures."""
        kinds = self._library.DataType
        fields = [self._of_images("pictures/file", "fullpath", kinds.TEXT)]
        fields.append(self._of_images("pictures/image", "content", kinds.IMAGE_OBJECT))
        return self._library.RecordSet(id="pictures", name="pictures", fields=fields)

    def _of_images(self, own: str, wanted: str, kind: Any) -> Any:
        library = self._library
        extract = library.Extract(file_property=library.FileProperty[wanted])
        source = library.Source(file_set="images", extract=extract)
        return library.Field(id=own, name=own.rsplit("/", 1)[1], data_types=[kind], source=source)

    def _field(self, own: str, name: str, column: str, kind: Any) -> Any:
        library = self._library
        source = library.Source(file_object="manifest", extract=library.Extract(column=column))
        return library.Field(id=own, name=name, data_types=[kind], source=source)

    def _kind(self, name: str) -> Any:
        """A column's data type: numbers are findings where a Croissant file is read as a manifest."""
        kinds = self._library.DataType
        if name in self._table.findings:
            return kinds.INTEGER
        if name == "age":
            return kinds.FLOAT
        if name == "study_date":
            values = filter(None, self._table.column(name).tolist())
            return kinds.INTEGER if any(map(DAY_OFFSET.fullmatch, values)) else kinds.DATE
        return kinds.TEXT

    def _checksums(self, digests: list[dict[str, str]]) -> Any:
        library = self._library
        fields = [
            library.Field(id=f"{CHECKSUMS}/{name}", name=name, data_types=[library.DataType.TEXT])
            for name in ("path", "sha256")
        ]
        return library.RecordSet(id=CHECKSUMS, name=CHECKSUMS, fields=fields, data=digests)
