"""A `.npy` array of vectors, and the ids of its rows in a file beside it; or a folder of such files, one an image."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from cxr_embed.errors import CxrEmbedError
from cxr_embed.imports.sources import ImportSource, Shape, Vector, fit, require_file, unreadable
from cxr_embed.io.files import load_npy
from cxr_embed.manifest.rows import NotATable, csv_lines
from cxr_embed.types import counted

_SUFFIX = ".npy"
_NAMED = 5  # files that a message names


def open_npy(path: Path, ids: Path) -> ImportSource:
    """Row i of the array is the vector of the i-th id; the array is memory-mapped.

    Args:
        path: `(N, ...)` numbers, saved with `numpy.save`.
        ids: N ids; text with one a line, or CSV with the column `image_id` and perhaps `patient_id`.

    Raises:
        CxrEmbedError: for another kind of file, blank ids, or another number of ids than of vectors.
    """
    array = _mapped(path)
    if array.ndim < 2:
        raise CxrEmbedError(f"{path}: shape {array.shape}; expected (N, ...), one row a vector")
    rows = _read_ids(ids)
    if len(rows) != len(array):
        raise CxrEmbedError(
            f"{path} has {counted(len(array), 'vector')}, {ids} has {counted(len(rows), 'id')}; they pair up row by row"
        )

    def read(shape: Shape | None) -> Iterator[Vector]:
        for number, ((image_id, patient_id), vector) in enumerate(zip(rows, array, strict=True)):
            where = f"{path}: {image_id!r} (row {number})"
            yield Vector(image_id, patient_id, fit(vector, shape, where), where)

    return ImportSource((path,), len(rows), read)


def open_npy_folder(folder: Path) -> ImportSource:
    """Each `.npy` file of a folder is the vector of one image, whose id is the file's path in the folder, less `.npy`.

    Hidden files and folders are passed over.

    Raises:
        CxrEmbedError: where there is no such file, or some are of another shape or dtype than most, or no arrays;
            naming them.
    """
    files = sorted(_below(folder))
    if not files:
        raise CxrEmbedError(f"{folder}: no .npy file in this folder")
    bad: dict[Path, str] = {}
    kinds: dict[tuple[Shape, np.dtype], list[Path]] = {}
    for file in files:
        try:
            array = _mapped(file)
            kinds.setdefault((array.shape, array.dtype), []).append(file)
        except CxrEmbedError as error:
            bad[file] = str(error).removeprefix(f"{file}: ")
    (shape, dtype), most = max(kinds.items(), key=lambda kind: len(kind[1]), default=(((), None), []))
    for (other, its), named in kinds.items():
        if named is not most:
            bad |= dict.fromkeys(
                named, f"{other} {its}, while {counted(len(most), 'file has', 'files have')} {shape} {dtype}"
            )
    if bad:
        shown = "; ".join(f"{file.relative_to(folder)}: {bad[file]}" for file in sorted(bad)[:_NAMED])
        more = f"; and {len(bad) - _NAMED:,} more" if len(bad) > _NAMED else ""
        raise CxrEmbedError(f"{folder}: {len(bad):,} of {len(files):,} files cannot be imported: {shown}{more}")

    def read(shape: Shape | None) -> Iterator[Vector]:
        for file in files:
            image_id = file.relative_to(folder).as_posix().removesuffix(_SUFFIX)
            yield Vector(image_id, "", fit(_mapped(file), shape, str(file)), str(file))

    return ImportSource(tuple(files), len(files), read, folder.resolve().name)


def _below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise unreadable(Path(error.filename), error)

    for where, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(where, name) for name in names if name.endswith(_SUFFIX) and not name.startswith("."))


def _mapped(path: Path) -> np.ndarray:
    """The array of a `.npy` file, memory-mapped.

    Raises:
        CxrEmbedError: where it is no such file.
    """
    require_file(path)
    try:
        return load_npy(path, "r")
    except OSError as error:
        raise unreadable(path, error) from None
    except ValueError as error:
        if "objects" in str(error):
            raise CxrEmbedError(f"{path}: holds Python objects (a pickle), which are never loaded") from None
        raise CxrEmbedError(f"{path}: no .npy array, or cut short; save it with numpy.save") from None


def _read_ids(path: Path) -> list[tuple[str, str]]:
    """Image id and patient id (blank where unknown) of each row."""
    require_file(path)
    try:
        if path.suffix.lower() != ".csv":
            with open(path, encoding="utf-8-sig", newline="") as file:
                rows = [(line.strip(), "") for line in file]
        else:
            with csv_lines(path) as (lines, delimiter):
                table = csv.DictReader(lines, strict=True, delimiter=delimiter)
                if "image_id" not in (table.fieldnames or ()):
                    raise CxrEmbedError(f"{path}: no column image_id; it has {', '.join(table.fieldnames or ())}")
                rows = [((row["image_id"] or "").strip(), (row.get("patient_id") or "").strip()) for row in table]
    except OSError as error:
        raise unreadable(path, error) from None
    except (UnicodeDecodeError, csv.Error, pa.ArrowException, NotATable) as error:
        raise CxrEmbedError(f"{path}: not a list of ids in UTF-8 ({error})") from None
    blank = [number for number, (image_id, _) in enumerate(rows, 1) if not image_id]
    if blank:
        raise CxrEmbedError(f"{path}: no id in row {blank[0]:,} of {len(rows):,}")
    return rows
