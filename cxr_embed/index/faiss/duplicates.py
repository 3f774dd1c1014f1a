"""Near-duplicates in an index: the same file under two names, and re-exports of one radiograph.

Every encoder has a scale of its own: 0.95 is a copy to one and another chest to the next. So the threshold comes from
the index itself, from how near the nearest images of different patients are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cxr_embed.index.case_table import BOX, CONTENT
from cxr_embed.index.faiss.pairs import EXACT_UP_TO, FALSE_PAIRS, FEWEST, Pairs, Scale, find_pairs, scale_of
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.index.faiss.search import CaseIndex

# For an index that is too small for an estimate: between re-exports and other images of real radiographs, as measured
# by `benchmarks/duplicates.py`.
MEASURED = {"hog": 0.95}


@dataclass(frozen=True, kw_only=True)
class DuplicateGroup:
    """Images that pairs link to one another.

    Attributes:
        rows: of the group, in the order of the manifest.
        similarity: the lowest of the pairs that link them.
        same_file: whether all are one file.
        splits, patients: the different ones of its images, known ones only.
        kept: the row that stays where copies are left out.
    """

    rows: tuple[int, ...]
    similarity: float
    same_file: bool
    splits: tuple[str, ...]
    patients: tuple[str, ...]
    kept: int


@dataclass(frozen=True)
class Duplicates:
    """What was found in an index.

    Attributes:
        groups: those across splits first, then those across patients, then by similarity.
        threshold: that pairs of different files had to reach; None where only the same file counts.
        rule: where the threshold comes from: `given`, `estimated`, `measured` or `none`.
        scale: how alike different patients' images are.
        notes: what limits the answer, in words.
    """

    groups: tuple[DuplicateGroup, ...]
    threshold: float | None
    rule: str
    scale: Scale
    notes: tuple[str, ...]


def find_duplicates(
    index: CaseIndex,
    patients: np.ndarray,
    splits: np.ndarray,
    threshold: float | None = None,
    order: np.ndarray | None = None,
) -> Duplicates:
    """Finds the copies in an index.

    Args:
        index: of tokens, their mean is compared.
        patients, splits: `(N,)` strings, blank where not known.
        threshold: cosine from which two images are copies; estimated by default (`scale_of`).
        order: `(N,)` numbers, the lower the sooner an image stays; the index's order by default.

    Raises:
        CaseIndexError: where there are too many pairs to be copies.
    """
    vectors = index.vectors
    scale = scale_of(vectors, patients)
    rule, notes = "given", []
    if threshold is None:
        threshold, rule = scale.threshold, "estimated"
        if threshold is None:
            threshold = MEASURED.get(index.spec.name)
            rule = "measured" if threshold is not None else "none"
        notes.append(_threshold_note(rule, threshold, index.spec.name, scale))
    if scale.quantiles:
        shown = ", ".join(f"{value:.4f}" for value in scale.quantiles)
        notes.append(f"an image's nearest one of another patient: {shown} (median, 90%, 99%, highest)")
    if len(vectors) > EXACT_UP_TO and threshold is not None:
        notes.append(f"more than {EXACT_UP_TO:,} images: pairs were looked for in near cells, and a few can be missed")
    files = np.array([value.hex() if value else "" for value in index.table[CONTENT].to_pylist()], dtype=np.str_)
    if BOX in index.table.column_names:
        boxes = np.array(index.table[BOX].to_pylist(), dtype=np.str_)
        pairs = find_pairs(vectors, np.strings.add(np.strings.add(files, " "), boxes), threshold)
        # Of one file, other parts are other images; a picture's own are never copies of each other.
        other = (files[pairs.first] != files[pairs.second]) | (files[pairs.first] == "")
        pairs = pairs.where(other | pairs.same_file)
        notes.append("regions are compared with those of other files, and with the same part of the same file")
    else:
        pairs = find_pairs(vectors, files, threshold)
    groups = group(pairs, patients, splits, order if order is not None else np.arange(len(vectors)))
    return Duplicates(groups, threshold, rule, scale, (*notes, *_one_person(groups, patients, splits)))


def _one_person(groups: tuple[DuplicateGroup, ...], patients: np.ndarray, splits: np.ndarray) -> list[str]:
    """A word on images that leak although no copy does: those of a patient who is in another split by another id."""
    leaking: set[int] = set()
    for found in groups:
        if len(found.splits) > 1 and len(found.patients) > 1:
            theirs = np.isin(patients, found.patients) & (splits != splits[found.kept])
            leaking |= set(np.flatnonzero(theirs).tolist()) - set(found.rows)
    if not leaking:
        return []
    return [
        f"{counted(len(leaking), 'more image is', 'more images are')} of patients who share a radiograph "
        "with a patient of another split; no "
        "copies, so they stay, but are these patients two people?"
    ]


def _threshold_note(rule: str, threshold: float | None, encoder: str, scale: Scale) -> str:
    if rule == "estimated":
        return (
            f"threshold {threshold:.6g}, from this index: beyond it, {FALSE_PAIRS:g} pairs of different patients' "
            "images are expected in all"
        )
    few = f"too few images to know {encoder}'s scale ({scale.images:,} with others to compare, {FEWEST:,} are needed)"
    if rule == "measured":
        return f"threshold {threshold:g}: {few}; measured on other radiographs"
    return f"only the same file counts: {few}; give `threshold`"


def group(pairs: Pairs, patients: np.ndarray, splits: np.ndarray, order: np.ndarray) -> tuple[DuplicateGroup, ...]:
    """Pairs linked to groups, in the order of `Duplicates.groups`.

    Of each group one image stays: of its test split if it has one, else of any but the training split, else of that;
    there, the first one. What a model is evaluated on stays as it was published, and training can spare an image.

    Args:
        pairs: of rows below N.
        patients, splits: `(N,)` strings, blank where not known.
        order: `(N,)` numbers that say which is first.
    """
    count = len(patients)
    links = coo_array((np.ones(len(pairs), bool), (pairs.first, pairs.second)), shape=(count, count))
    _, number = connected_components(links, directed=False)
    lowest, all_same = np.full(count, np.inf), np.ones(count, bool)
    np.minimum.at(lowest, number[pairs.first], pairs.similarity)
    np.logical_and.at(all_same, number[pairs.first], pairs.same_file)
    linked = np.unique(np.concatenate([pairs.first, pairs.second]))
    linked = linked[np.lexsort((order[linked], number[linked]))]
    found = []
    for rows in np.split(linked, np.flatnonzero(np.diff(number[linked])) + 1) if len(linked) else ():
        owner = number[rows[0]]
        kept = min(rows.tolist(), key=lambda row: _rank(str(splits[row])))
        found.append(
            DuplicateGroup(
                rows=tuple(rows.tolist()),
                similarity=float(lowest[owner]),
                same_file=bool(all_same[owner]),
                splits=_known(splits[rows]),
                patients=_known(patients[rows]),
                kept=kept,
            )
        )
    found.sort(key=lambda g: (len(g.splits) < 2, len(g.patients) < 2, not g.same_file, -g.similarity, g.rows))
    return tuple(found)


def _rank(split: str) -> int:
    name = split.casefold()
    return 0 if name.startswith("test") else 2 if name.startswith("train") or not name else 1


def _known(values: np.ndarray) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values.tolist() if value))
