"""Several data sets as one manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cxr_embed.api.inputs import Progress, StrPath, progress_or_bar
from cxr_embed.api.tabular import Tabular
from cxr_embed.arguments import checked_arguments
from cxr_embed.cases.merging import Merged, Part, Rules, common_root, merge
from cxr_embed.cases.overlaps import find_overlaps
from cxr_embed.choices import SameImageIds, SameImages, SamePatients
from cxr_embed.errors import ManifestError
from cxr_embed.io.addresses import address_of, joined
from cxr_embed.manifest import (
    REQUIRED,
    Companion,
    Manifest,
    check_new,
    check_new_companion,
    checked_table,
    read_manifest,
    read_table,
    relative_root,
    write_companion,
    write_new_manifest,
)
from cxr_embed.types import counted


@dataclass(frozen=True, kw_only=True, repr=False)
class MergedManifests(Tabular):
    """One manifest of several, and what was done to make it.

    Attributes:
        manifest: as `embed` takes it; its column `source` names the data set of each image.
        images: of each data set that are in it.
        notes: what was renamed, is blank, was left out, in sentences.
        out: the file that was written, if one was.
    """

    manifest: Manifest
    images: dict[str, int]
    notes: tuple[str, ...]
    out: Path | None

    def __len__(self) -> int:
        return len(self.manifest)

    def __repr__(self) -> str:
        parts = ", ".join(f"{name} {count:,}" for name, count in self.images.items())
        patients = counted(len(set(self.manifest.column("patient_id").tolist())), "patient")
        where = f"{self.out}: " if self.out is not None else ""
        return self._as_text(
            [
                f"{where}{counted(len(self), 'image')} of {patients}: {parts}",
                f"findings: {', '.join(self.manifest.findings) or 'none'}",
            ]
        )

    def to_arrow(self) -> pa.Table:
        """The manifest, a row an image, all of it text."""
        return self.manifest.table

    def to_json(self) -> dict[str, Any]:
        """What was done, as plain JSON values."""
        return {
            "out": str(self.out) if self.out is not None else None,
            "root": str(self.manifest.root),
            "images": len(self),
            "patients": len(set(self.manifest.column("patient_id").tolist())),
            "sources": self.images,
            "findings": list(self.manifest.findings),
            "notes": list(self.notes),
        }

    def _remarks(self) -> Sequence[str]:
        return self.notes


@checked_arguments
def merge_manifests(
    manifests: Sequence[Manifest | StrPath],
    *,
    out: StrPath | None = None,
    source: Sequence[str] = (),
    common: bool = False,
    image_ids: SameImageIds = "refuse",
    patients: SamePatients = "refuse",
    overlap: SameImages = "refuse",
    check_content: bool = True,
    drop: Sequence[str] = (),
    extra: Sequence[str] = (),
    root: StrPath | None = None,
    progress: Progress | None = None,
) -> MergedManifests:
    """Joins data sets to one manifest, whose column `source` says which is which.

    Findings that are one by the vocabulary of findings are one column under its name; one that a data set does not
    label is blank there. What could mix up people or tests is refused until it is decided: an id of two images, a
    patient's id in two data sets, an image (by its bytes) in two. An image or a patient in two splits is refused
    always.

    Args:
        manifests: at least two, files or open.
        out: CSV or Parquet to write, with its companion; nothing is written without it, and no other file replaced.
        source: the data sets' names, one for each; those of their recipes or files by default.
        common: keep only the findings of the vocabulary that every data set labels.
        image_ids: an id of two different images: `refuse`, or `prefix` all ids with their data set's name.
        patients: a patient's id in two data sets: `refuse`, `same` (it is one person) or `prefix`.
        overlap: an image of two data sets: `refuse`, or keep the row of the `first`; patients of the others that have
            such an image then get the first one's id.
        check_content: whether files are compared by their bytes.
        drop: columns that are left out.
        extra: columns that are not findings, beside those of the companions.
        root: the folder that paths are to be relative to, above all of the data sets' own; the deepest by default.
        progress: hears of files that are compared; a bar in notebooks by default.

    Raises:
        ManifestError: for manifests that cannot be used, what is refused, or what cannot be written.
    """
    if len(manifests) < 2:
        raise ManifestError("`manifests` are two or more to merge")
    opened = _opened(manifests, extra)
    parts = [Part(m, name) for m, name in zip(opened, _names(manifests, opened, source), strict=True)]
    folder = _root(opened, root)
    overlaps = find_overlaps(opened, progress_or_bar(progress)) if check_content else None
    rules = Rules(image_ids=image_ids, patients=patients, overlap=overlap, common=common, drop=drop)
    made = merge(parts, rules, folder, overlaps)
    target = Path(out) if out is not None else None
    table, findings = checked_table(made.table, "the merged manifest", REQUIRED, made.columns.not_findings)
    companion = _companion(parts, made, folder, target)
    if target is not None:
        columns = table.to_pydict()
        check_new(target, list(columns))
        check_new_companion(target, companion)
        write_new_manifest(target, columns)
        write_companion(target, companion)
    boxes = [
        f"the boxes of {p.name} are not merged" for p in parts if p.manifest.companion and p.manifest.companion.boxes
    ]
    unchecked = [] if check_content else ["whether data sets have images in common was not looked at"]
    return MergedManifests(
        manifest=Manifest(table, folder, findings, companion),
        images=made.images,
        notes=(*made.notes, *boxes, *unchecked, *_same_pictures(parts)),
        out=target,
    )


def _opened(manifests: Sequence[Manifest | StrPath], extra: Sequence[str]) -> list[Manifest]:
    """All of them open; each with those `extra` columns that it has."""
    found, met = [], set()
    for given in manifests:
        if isinstance(given, Manifest):
            found.append(given)
            continue
        own = [name for name in extra if name in read_table(given).table.column_names] if extra else []
        met.update(own)
        found.append(read_manifest(given, extra=own))
    if lacking := [name for name in extra if name not in met]:
        raise ManifestError(f"`extra` {lacking[0]}: no manifest has such a column")
    return found


def _names(
    manifests: Sequence[Manifest | StrPath], opened: Sequence[Manifest], source: Sequence[str]
) -> tuple[str, ...]:
    """The data sets' names.

    Raises:
        ManifestError: where two are the same, or another number of names is given.
    """
    if source:
        names = [name.strip() for name in source]
        if len(names) != len(manifests):
            raise ManifestError(f"`source` names {len(names)}, and {len(manifests)} are merged; name each, or none")
    else:
        recipes = [manifest.companion.recipe if manifest.companion is not None else "" for manifest in opened]
        stems = [_stem(given) for given in manifests]
        own = [recipe if recipe not in ("", "folder") else stem for recipe, stem in zip(recipes, stems, strict=True)]
        names = own if len(set(own)) == len(own) else stems
    if "" in names or len({name.casefold() for name in names}) < len(names):
        raise ManifestError("two data sets have one name, or one has none; name each with `source`")
    return tuple(names)


def _stem(given: Manifest | StrPath) -> str:
    if isinstance(given, Manifest):
        return ""
    name = Path(given).name
    return next((name[: -len(end)] for end in (".csv.gz", ".csv", ".parquet") if name.lower().endswith(end)), name)


def _root(opened: Sequence[Manifest], root: StrPath | None) -> Path:
    """The folder that paths are relative to."""
    for manifest in opened:
        if any(address_of(joined(manifest.root, path)) is not None for path in manifest.column("path").tolist()):
            raise ManifestError("radiographs at addresses (s3://, ...) are not merged; copy or mount them")
    if root is None:
        return common_root(opened)
    folder = Path(os.path.abspath(root))
    for manifest in opened:
        if not Path(os.path.abspath(manifest.root)).is_relative_to(folder):
            raise ManifestError(f"{manifest.root}: not below {folder} (`root`); name a folder above all radiographs")
    return folder


def _same_pictures(parts: Sequence[Part]) -> list[str]:
    """Data sets that are made of one collection of radiographs, each with files of its own: bytes do not tell that."""
    from cxr_embed.encoders.seen import SAME_PICTURES

    families: dict[str, list[str]] = {}
    for part in parts:
        companion = part.manifest.companion
        recipe = ((companion.recipe if companion is not None else "") or part.name).removesuffix("-sample")
        families.setdefault(SAME_PICTURES.get(recipe, (recipe, ""))[0], []).append(part.name)
    return [
        f"{' and '.join(names)} are made of the radiographs of {origin}: one may be in several as another file, which "
        "its bytes do not tell, in several splits, and its patient under several ids"
        for origin, names in families.items()
        if len(names) > 1
    ]


def _companion(parts: Sequence[Part], made: Merged, root: Path, out: Path | None) -> Companion:
    """What the parts' companions say, each beside its data set's name."""

    def said(field: str) -> str:
        values = [(p.name, getattr(p.manifest.companion, field, "")) for p in parts]
        return "; ".join(f"{name}: {value}" for name, value in values if value)

    return Companion(
        title=", ".join(p.name for p in parts),
        not_findings=made.columns.not_findings,
        root=relative_root(root, out) if out is not None else None,
        labels=said("labels"),
        blank_words=said("blank_words"),
        uncertain_words=said("uncertain_words"),
        terms=said("terms"),
        licence=said("licence"),
        source=said("source"),
        citation=said("citation"),
    )
