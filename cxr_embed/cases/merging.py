"""Several manifests as one: one vocabulary of findings, and ids, patients and images that two of them have."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cxr_embed.cases.errors import CasesError
from cxr_embed.cases.merged_columns import Columns, merged_columns
from cxr_embed.cases.overlaps import Overlaps, Row
from cxr_embed.choices import SameImageIds, SameImages, SamePatients
from cxr_embed.manifest import DAY_OFFSET, Manifest
from cxr_embed.types import counted

_SHOWN = 3


@dataclass(frozen=True)
class Part:
    """A manifest that is merged, and the name of its data set."""

    manifest: Manifest
    name: str


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What becomes of what two data sets have.

    Attributes:
        image_ids: an id of two different images: `refuse`, or `prefix` every id with its data set's name.
        patients: a patient's id in two data sets: `refuse`, `same` (one person) or `prefix`.
        overlap: an image of two data sets: `refuse`, or keep the `first` one's row.
        common: whether only findings stay that every data set labels.
        drop: columns that are left out.
    """

    image_ids: SameImageIds = "refuse"
    patients: SamePatients = "refuse"
    overlap: SameImages = "refuse"
    common: bool = False
    drop: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Merged:
    """Manifests as one table, not yet checked as a manifest.

    Attributes:
        table: columns of text.
        root: that paths are relative to.
        columns: how its columns come from the parts'.
        images: of each part, by its name, that are in it.
        notes: what to know of it, in sentences.
    """

    table: pa.Table
    root: Path
    columns: Columns
    images: dict[str, int]
    notes: tuple[str, ...]


def merge(parts: Sequence[Part], rules: Rules, root: Path, overlaps: Overlaps | None) -> Merged:
    """The parts as one table.

    Args:
        parts: at least two, of different names.
        rules: for what two of them have.
        root: a folder above all of theirs.
        overlaps: images that two of them have; None where nobody looked.

    Raises:
        CasesError: for what the rules refuse, an image in two splits, dates of two kinds, or columns that are a finding
            here and none there.
    """
    columns = merged_columns([(part.name, part.manifest) for part in parts], rules.common, rules.drop)
    _check_dates(parts, rules.drop)
    groups = overlaps.groups if overlaps is not None else ()
    notes = list(columns.notes)
    left_out = _left_out(parts, groups, rules)
    kept = [[r for r in range(len(part.manifest)) if (n, r) not in left_out] for n, part in enumerate(parts)]
    for number, count in Counter(number for number, _ in left_out).items():
        verb = "is an image" if count == 1 else "are images"
        notes.append(f"{counted(count, 'image')} of {parts[number].name} {verb} of a data set before it, and left out")
    if overlaps is not None:
        notes += [
            f"of {part.name} {counted(unread, 'file that cannot be read is', 'files that cannot be read are')} not "
            "compared with others"
            for part, unread in zip(parts, overlaps.unread, strict=True)
            if unread
        ]
    ids = _image_ids(parts, kept, rules.image_ids)
    patients, linked = _patients(parts, kept, groups, rules.patients)
    table = columns.table(kept)
    made = {
        "image_id": [i for part in ids for i in part],
        "path": [path for part, rows in zip(parts, kept, strict=True) for path in _paths(part.manifest, rows, root)],
        "patient_id": [p for part in patients for p in part],
    }
    table = pa.table({**{name: pa.array(values, pa.string()) for name, values in made.items()}, **table})
    return Merged(
        table=table,
        root=root,
        columns=columns,
        images={part.name: len(rows) for part, rows in zip(parts, kept, strict=True)},
        notes=(*notes, *linked, *_split_notes(parts)),
    )


def common_root(manifests: Sequence[Manifest]) -> Path:
    """The deepest folder that all of the manifests' radiographs are below."""
    return Path(os.path.commonpath([os.path.abspath(manifest.root) for manifest in manifests]))


def _paths(manifest: Manifest, rows: Sequence[int], root: Path) -> list[str]:
    below = Path(os.path.relpath(os.path.abspath(manifest.root), os.path.abspath(root))).as_posix()
    paths = manifest.table["path"].to_pylist()
    return [paths[row] if below == "." else f"{below}/{paths[row]}" for row in rows]


def _check_dates(parts: Sequence[Part], drop: Sequence[str]) -> None:
    """Refuses dates beside numbers of days: they have no order."""
    kinds: dict[bool, list[str]] = {}
    for part in parts:
        for value in set(part.manifest.column("study_date").tolist()) - {""}:
            names = kinds.setdefault(DAY_OFFSET.fullmatch(value) is not None, [])
            if part.name not in names:
                names.append(part.name)
    if len(kinds) == 2 and "study_date" not in drop:
        raise CasesError(
            f"study_date is a date in {' and '.join(kinds[False])}, and a number of days in "
            f"{' and '.join(kinds[True])}: the two have no order; leave it out with `drop='study_date'`"
        )


def _left_out(parts: Sequence[Part], groups: Sequence[tuple[Row, ...]], rules: Rules) -> set[Row]:
    """The rows of images that a data set before has too.

    Raises:
        CasesError: where these are refused, or one of them is in two splits.
    """
    if not groups:
        return set()
    splits = [part.manifest.column("split").tolist() for part in parts]
    ids = [part.manifest.ids.tolist() for part in parts]
    apart = [group for group in groups if len({splits[n][row] for n, row in group} - {""}) > 1]
    if apart and "split" not in rules.drop:
        shown = [_some([f"{ids[n][r]} ({parts[n].name}, {splits[n][r]})" for n, r in g], " and ") for g in apart]
        raise CasesError(
            f"{counted(len(apart), 'image is', 'images are')} in two splits, of two data sets: {_some(shown, '; ')}; "
            "give each one split, or leave the splits out with `drop='split'`"
        )
    if rules.overlap == "refuse":
        shown = [_some([f"{ids[n][r]} ({parts[n].name})" for n, r in group], " and ") for group in groups]
        raise CasesError(
            f"{counted(len(groups), 'image is', 'images are')} in two data sets, by the bytes: {_some(shown, '; ')}; "
            "`overlap='first'` keeps the row of the first"
        )
    return {(n, row) for group in groups for n, row in group if n != group[0][0]}


def _image_ids(parts: Sequence[Part], kept: Sequence[Sequence[int]], rule: SameImageIds) -> list[list[str]]:
    """The ids of each part's rows."""
    ids = [part.manifest.ids[list(rows)].tolist() for part, rows in zip(parts, kept, strict=True)]
    if rule == "prefix":
        return [[f"{part.name}/{image_id}" for image_id in own] for part, own in zip(parts, ids, strict=True)]
    if twice := _of_two(ids):
        raise CasesError(
            f"{counted(len(twice), 'image_id is', 'image_ids are')} in two data sets: {_some(twice)}; "
            "`image_ids='prefix'` puts the data set's name before every id"
        )
    return ids


def _patients(
    parts: Sequence[Part], kept: Sequence[Sequence[int]], groups: Sequence[tuple[Row, ...]], rule: SamePatients
) -> tuple[list[list[str]], list[str]]:
    """The patients of each part's rows, and a note on those that images show to be one.

    Raises:
        CasesError: for an id of two data sets where that is refused, or images that make one patient two.
    """
    every = [part.manifest.column("patient_id").tolist() for part in parts]
    if rule == "refuse" and (twice := _of_two(every)):
        raise CasesError(
            f"{counted(len(twice), 'patient_id is', 'patient_ids are')} in two data sets: {_some(twice)}; are they the "
            "same people? `patients='same'` says so, `patients='prefix'` puts the data set's name before every one"
        )
    if rule == "prefix":
        every = [[f"{part.name}/{who}" for who in own] for part, own in zip(parts, every, strict=True)]
    one: dict[tuple[int, str], str] = {}
    for group in groups:
        first = every[group[0][0]][group[0][1]]
        first = one.get((group[0][0], first), first)
        for number, row in group[1:]:
            who = every[number][row]
            if number != group[0][0] and one.setdefault((number, who), first) != first:
                raise CasesError(
                    f"patient {who} of {parts[number].name} has images of two patients of other data sets, "
                    f"{one[number, who]} and {first}; correct patient_id"
                )
    changed = Counter(number for (number, who), first in one.items() if who != first)
    notes = [
        f"of {parts[number].name} {counted(count, 'patient has', 'patients have')} an image of a data set before it, "
        "and the id from there"
        for number, count in changed.items()
    ]
    owners = [[one.get((n, who), who) for who in own] for n, own in enumerate(every)]
    return [[owners[n][row] for row in rows] for n, rows in enumerate(kept)], notes


def _split_notes(parts: Sequence[Part]) -> list[str]:
    """Which splits each part has, where these are not the same."""
    found = {part.name: sorted(set(part.manifest.column("split").tolist()) - {""}) for part in parts}
    if len({tuple(names) for names in found.values()}) == 1:
        return []
    return ["; ".join(f"the splits of {name} are: {', '.join(names) or 'none'}" for name, names in found.items())]


def _of_two(ids: Sequence[Sequence[str]]) -> list[str]:
    """Ids that two of the lists have, sorted."""
    seen: Counter[str] = Counter()
    for own in ids:
        seen.update(set(own))
    return sorted(name for name, count in seen.items() if count > 1)


def _some(shown: Sequence[str], sign: str = ", ") -> str:
    return sign.join(shown[:_SHOWN]) + (f"{sign}..." if len(shown) > _SHOWN else "")
