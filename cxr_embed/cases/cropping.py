"""A table of boxes joined with a manifest: a row a box, as a manifest of regions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from cxr_embed.cases.findings import match_names
from cxr_embed.errors import ManifestError
from cxr_embed.manifest import REQUIRED, Manifest
from cxr_embed.regions import Box, picture_of, region_id
from cxr_embed.types import counted

_NAMED = 3
_TINY = 8  # pixels of a side, under which what lies around a box is most of its region


class Marked(NamedTuple):
    """A box, as somebody drew it; `image` as its file names it."""

    image: str
    finding: str
    box: Box


@dataclass(frozen=True)
class Regions:
    """A manifest of regions.

    Attributes:
        columns: of the table, all text.
        findings: those of its columns that are.
        pictures: that have a region.
        notes: what was left out or matched, in sentences.
    """

    columns: dict[str, list[str]]
    findings: tuple[str, ...]
    pictures: int
    notes: tuple[str, ...]


@dataclass
class _Region:
    """A part of a picture, and what was marked there."""

    box: Box
    findings: set[str] = field(default_factory=set)


def regions_of(manifest: Manifest, marks: Sequence[Marked], names: Mapping[str, str], source: str) -> Regions:
    """Boxes as rows of a manifest: `image_id#1`, `image_id#2`, ... in the order of the boxes.

    Path, patient, split and whatever else is not a finding are the image's. Findings are those that boxes have: 1 where
    the box is of it; blank where another box of it overlaps this one, or where the image shows it, or may, and nobody
    marked where; else 0. Boxes of an image that are alike are one region.

    Args:
        manifest: of whole pictures.
        marks: the boxes.
        names: what the boxes call an image, to its id.
        source: of the boxes, for messages.

    Raises:
        ManifestError: for a manifest of regions, boxes of no image of it, a finding named like another column, or an
            image named like a region.
        CasesError: where two findings of the manifest are one of the boxes'.
    """
    if manifest.has_regions:
        raise ManifestError("the manifest's rows are regions already: its column box says where; leave out `boxes`")
    called = dict.fromkeys(mark.finding for mark in marks)
    found = match_names(list(called), manifest.findings, "boxes")
    columns = {name: column or name for name, column in zip(called, found, strict=True)}
    others = [name for name in manifest.table.column_names if name not in (*REQUIRED, *manifest.findings)]
    if clash := [name for name in columns.values() if name in (*REQUIRED, *others, "box")]:
        raise ManifestError(
            f"{source}: the finding {clash[0]} has the name of a column that is not a finding; rename it"
        )
    pictures, missing, alike = _by_picture(marks, names, columns)
    if not pictures:
        raise ManifestError(
            f"{source}: none of its {counted(len(missing), 'image')} is in the manifest ({_some(missing)}); are these "
            "the manifest's ids?"
        )
    other = [f"{name} = {column}" for name, column in columns.items() if name != column]
    notes = [f"boxes matched by a like name or the vocabulary of findings: {', '.join(other)}"] if other else []
    if missing:
        notes.append(f"{counted(len(missing), 'image')} of {source} not in the manifest: left out ({_some(missing)})")
    if alike:
        notes.append(f"{counted(alike, 'box is', 'boxes are')} drawn twice: one region of each")
    tiny = sum(min(r.box.width, r.box.height) < _TINY for regions in pictures.values() for r in regions)
    if tiny:
        are = counted(tiny, "box is", "boxes are")
        notes.append(f"{are} under {_TINY} pixels: what lies around is most of the region")
    findings = tuple(dict.fromkeys(columns.values()))
    table = _table(manifest, pictures, [*REQUIRED[1:], *others], findings)
    if both := set(table["image_id"]) & set(manifest.ids.tolist()):
        name = min(both)
        raise ManifestError(f"the image {name} has the name of a region of {picture_of(name)}: rename one")
    return Regions(table, findings, len(pictures), tuple(notes))


def _by_picture(
    marks: Sequence[Marked], names: Mapping[str, str], columns: Mapping[str, str]
) -> tuple[dict[str, list[_Region]], list[str], int]:
    """The regions of each image, the images that nobody knows, and how many boxes are another's copies."""
    found: dict[str, dict[str, _Region]] = defaultdict(dict)
    missing: dict[str, None] = {}
    alike = 0
    for mark in marks:
        if mark.image not in names:
            missing[mark.image] = None
            continue
        here = found[names[mark.image]]
        region = here.setdefault(str(mark.box), _Region(mark.box))
        alike += columns[mark.finding] in region.findings
        region.findings.add(columns[mark.finding])
    return {image: list(here.values()) for image, here in found.items()}, list(missing), alike


def _table(
    manifest: Manifest, pictures: Mapping[str, list[_Region]], kept: Sequence[str], findings: Sequence[str]
) -> dict[str, list[str]]:
    """The columns, in the order of the manifest's images."""
    own = {name: manifest.column(name).tolist() for name in (*kept, *manifest.findings)}
    columns: dict[str, list[str]] = {name: [] for name in ("image_id", *kept, "box", *findings)}
    for row, image in enumerate(manifest.ids.tolist()):
        regions = pictures.get(image, [])
        for number, region in enumerate(regions, start=1):
            columns["image_id"].append(region_id(image, number))
            columns["box"].append(str(region.box))
            for name in kept:
                columns[name].append(own[name][row])
            for name in findings:
                whole = own[name][row] if name in own else "0"
                if not whole and manifest.blank == "negative":
                    whole = "0"
                columns[name].append(_label(name, region, regions, whole))
    return columns


def _label(finding: str, region: _Region, regions: Iterable[_Region], whole: str) -> str:
    """Whether a region shows a finding: 1, 0 or blank; `whole` is what the image's label says."""
    if finding in region.findings:
        return "1"
    marked = [other for other in regions if finding in other.findings]
    if any(_overlap(region.box, other.box) for other in marked):
        return ""
    return "0" if marked or whole in ("0", "0.0") else ""


def _overlap(one: Box, other: Box) -> bool:
    """Whether two boxes share a place; where they are of pictures of different size, they may."""
    if one.drawn_on != other.drawn_on:
        return True
    across = min(one.x + one.width, other.x + other.width) - max(one.x, other.x)
    down = min(one.y + one.height, other.y + other.height) - max(one.y, other.y)
    return min(across, down) > 0


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
