"""Boxes and a manifest to a manifest of regions."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from cxr_embed.api.inputs import StrPath
from cxr_embed.api.tabular import Tabular
from cxr_embed.arguments import checked_arguments
from cxr_embed.cases.cropping import Marked, regions_of
from cxr_embed.errors import ManifestError
from cxr_embed.explanation.places import box_of, image_name, picture_shape, read_marks
from cxr_embed.manifest import (
    REQUIRED,
    Companion,
    Manifest,
    check_new,
    check_target,
    checked_table,
    read_manifest,
    relative_root,
    write_companion,
    write_manifest,
)
from cxr_embed.types import counted


@dataclass(frozen=True, kw_only=True, repr=False)
class CroppedManifest(Tabular):
    """A manifest of regions, a row a box.

    Attributes:
        manifest: as `embed` takes it, which cuts out the boxes, and as probes and indexes take it.
        pictures: radiographs that have a region.
        notes: what was left out or matched, in sentences.
        out: the file that was written, if one was.
    """

    manifest: Manifest
    pictures: int
    notes: tuple[str, ...]
    out: Path | None

    def __len__(self) -> int:
        return len(self.manifest)

    def __repr__(self) -> str:
        return self._as_text([self.line])

    @property
    def line(self) -> str:
        """What it is, in a line."""
        where = f"{self.out}: " if self.out is not None else ""
        labels = ", ".join(
            f"{name} {self.manifest.column(name).tolist().count('1')}" for name in self.manifest.findings
        )
        return f"{where}{counted(len(self), 'region')} of {counted(self.pictures, 'image')}: {labels}"

    def to_arrow(self) -> pa.Table:
        """The manifest, a row a region, all of it text."""
        return self.manifest.table

    def to_json(self) -> dict[str, Any]:
        """What was done, as plain JSON values."""
        return {
            "out": str(self.out) if self.out is not None else None,
            "regions": len(self),
            "images": self.pictures,
            "findings": list(self.manifest.findings),
            "notes": list(self.notes),
        }

    def _remarks(self) -> Sequence[str]:
        return self.notes


@checked_arguments
def crop_manifest(
    manifest: Manifest | StrPath,
    boxes: StrPath | None = None,
    *,
    out: StrPath | None = None,
    min_score: float | None = None,
    drawn_on: tuple[int, int] | None = None,
    root: StrPath | None = None,
    extra: Sequence[str] = (),
) -> CroppedManifest:
    """Joins a table of boxes with a manifest: each box becomes a row, `image_id#1`, `image_id#2`, ...

    `embed` of such a manifest embeds what is inside the boxes and a margin around it (`regions.RULE` has the rule).
    Path, patient and split are the image's. A finding of a region is 1 where the box is of it; blank where another box
    of it overlaps, or where the image shows it and nobody marked where; else 0.

    Args:
        manifest: of whole radiographs, a file or open.
        boxes: a table, COCO or CheXlocalize's JSON, or a folder of masks, as `evaluate_maps` reads them; what the
            manifest's companion names by default.
        out: CSV or Parquet to write, with its companion. It may replace an earlier table of regions, and nothing else.
        min_score: boxes of a detector that count: those that it scored at least so high.
        drawn_on: width and height of the pictures that the boxes were drawn on, if not those of the manifest.
        root: the folder that the manifest's paths are relative to, if not its own.
        extra: columns of the manifest that are not findings, beside those of its companion.

    Raises:
        ManifestError: for a manifest that cannot be used, or that has none of the boxes' images; for a file that cannot
            be written.
        MapError: for boxes that cannot be read.
    """
    table = read_manifest(manifest, root=root, extra=extra) if isinstance(manifest, str | os.PathLike) else manifest
    path = _boxes_of(manifest, table) if boxes is None else Path(boxes)
    shape = picture_shape(drawn_on)
    marks = [Marked(mark.image, mark.finding, box_of(mark, str(path), shape)) for mark in read_marks(path, min_score)]
    ids = table.ids.tolist()
    names = {image_name(each): each for each in ids} | {each: each for each in ids}
    found = regions_of(table, marks, names, str(path))
    said = table.companion or Companion()
    others = tuple(name for name in said.not_findings if name in found.columns)
    others += tuple(name for name in extra if name in found.columns and name not in others)
    known = replace(said, not_findings=others, blank="unknown", blank_words="", boxes=None, labels="", alternatives=())
    checked, findings = checked_table(pa.table(found.columns), "regions", REQUIRED, others)
    made = Manifest(checked, table.root, findings, known, table.notes)
    if out is not None:
        _write(Path(out), found.columns, known, table.root)
    return CroppedManifest(
        manifest=made,
        pictures=found.pictures,
        notes=(*table.notes, *found.notes),
        out=Path(out) if out is not None else None,
    )


def _boxes_of(manifest: Manifest | StrPath, table: Manifest) -> Path:
    """The file of boxes that a manifest's companion names."""
    if isinstance(manifest, Manifest) or table.companion is None or table.companion.boxes is None:
        raise ManifestError("`boxes` is a table of boxes: the manifest's companion names none")
    return Path(manifest).parent / table.companion.boxes


def _write(out: Path, columns: dict[str, list[str]], companion: Companion, root: Path) -> None:
    """Writes the table and its companion; an earlier table of regions is replaced.

    Raises:
        ManifestError: for another file of that name.
    """
    check_target(out)
    try:
        check_new(out, list(columns))
    except ManifestError:
        if not _is_of_regions(out):
            raise
    write_manifest(out, columns)
    write_companion(out, replace(companion, root=relative_root(root, out)), replaces=True)


def _is_of_regions(path: Path) -> bool:
    try:
        return read_manifest(path).has_regions
    except ManifestError:
        return False
