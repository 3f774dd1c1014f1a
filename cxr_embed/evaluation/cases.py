"""Scores joined with labels: by image id and by the findings' names, never by position."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from cxr_embed.errors import ManifestError
from cxr_embed.evaluation.learned import learned_from
from cxr_embed.evaluation.names import match_names, nearest
from cxr_embed.evaluation.scores import NothingKnown, ScoresError, ScoreTable, check_ids
from cxr_embed.manifest import Manifest, Uncertain, read_labels
from cxr_embed.types import Labels, counted

LabelSource = Manifest | Labels | str | os.PathLike[str]
_NAMED = 5


@dataclass(frozen=True)
class Cases:
    """Images with scores and labels, in the order of their ids: what comes of them hangs on no file's order.

    Attributes:
        ids: `(N,)` strings.
        names: the `F` findings that both have, named and ordered as the scores do.
        columns: the labels' names of them.
        scores: `(N, F)` float64.
        labels: `(N, F)` float32 in {0, 1, NaN}.
        patients: `(N,)` patient ids; the image's own where no patient is known.
        clustered: whether patients are known.
        table: columns of the labels by name, each `(N,)` strings: sex, age, view and the like.
        warnings: what did not find its counterpart, in words.
        seen: images that are left out because a probe learned from their patients.
    """

    ids: np.ndarray
    names: tuple[str, ...]
    columns: tuple[str, ...]
    scores: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    clustered: bool
    table: Mapping[str, np.ndarray]
    warnings: tuple[str, ...] = ()
    seen: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def flat(self) -> list[str]:
        """The findings of which every case has the same score."""
        return [name for name, column in zip(self.names, self.scores.T, strict=True) if np.ptp(column) == 0]

    def keep(self, rows: np.ndarray, names: tuple[str, ...]) -> Cases:
        """These rows and findings alone."""
        chosen = [self.names.index(name) for name in names]
        return replace(
            self,
            ids=self.ids[rows],
            names=names,
            columns=tuple(self.columns[number] for number in chosen),
            scores=self.scores[rows][:, chosen],
            labels=self.labels[rows][:, chosen],
            patients=self.patients[rows],
            table={name: column[rows] for name, column in self.table.items()},
        )


def join(
    scores: ScoreTable,
    labels: LabelSource,
    *,
    patients: Mapping[str, str] | None = None,
    split: str | None = None,
    uncertain: Uncertain = "unknown",
) -> Cases:
    """Joins scores and labels. Images of patients that a probe learned from are left out, where the scores say so.

    Args:
        scores: what `read_scores` gives.
        labels: a table of `image_id` and findings, a manifest, or labels in memory.
        patients: image to patient, where neither file says.
        split: labels of this split only.
        uncertain: what a label of -1 counts as.

    Raises:
        ManifestError: for labels that cannot be read, or a split that is not there.
        ScoresError: where scores and labels have no image or no finding in common, name different patients for one
            image, or no label is known; where a probe learned from the patients of all images.
    """
    source = str(labels) if isinstance(labels, str | os.PathLike) else "the labels"
    table = read_labels(labels) if isinstance(labels, str | os.PathLike) else labels
    warnings = [f"{scores.source}: scores of stand-in weights; their figures mean nothing"] if scores.stand_in else []
    ids, rows = _labelled(table, split, source)
    columns, names = _findings(scores, _names_of(table), source, warnings)
    place = {image_id: number for number, image_id in enumerate(scores.ids.tolist())}
    places = np.array([place.get(image_id, -1) for image_id in ids.tolist()], dtype=np.int64)
    here = np.flatnonzero(places >= 0)
    if not len(here):
        raise ScoresError(
            f"{scores.source} and {source} have no image_id in common: '{scores.ids[0]}' in the scores, '{ids[0]}' in "
            "the labels; write the ids alike"
        )
    here = here[np.argsort(ids[here], kind="stable")]
    _tell_missing(scores, ids, len(here), split, warnings)
    owners = _owners(scores, table, ids[here], rows[here], patients)
    unseen = ~learned_from(scores, table, ids[here], owners, patients)
    if not unseen.any():
        where = f" in the split {split}" if split is not None else ""
        raise ScoresError(
            f"{scores.source}: the probe learned from the patients of all {counted(len(here), 'image')} "
            f"with labels{where}: no test of it; give labels of others, or another `split`"
        )
    if not unseen.all():
        left = ids[here[~unseen]]
        warnings.append(
            f"{counted(len(left), 'image')} of {scores.source} {'is' if len(left) == 1 else 'are'} of patients "
            f"that the probe learned from ({_some(left)}), and left out"
        )
    here, owners = here[unseen], owners[unseen] if owners is not None else None
    if split is None:
        _tell_splits(table, rows[here], warnings)
    truth = table.labels(uncertain) if isinstance(table, Manifest) else table
    chosen = np.array([truth.names.index(name) for name in columns], dtype=np.int64)
    found = np.asarray(truth.values, np.float32)[rows[here]][:, chosen]
    if not (np.isnan(found) | (found == 0) | (found == 1)).all():
        raise ScoresError(f"{source}: a label is neither 0, 1 nor unknown (NaN)")
    if np.isnan(found).all():
        raise NothingKnown(
            f"{source}: every label of the {counted(len(here), 'image', 'images')} with scores is unknown; nothing to "
            "compare with"
        )
    _tell_uncertain(table, columns, rows[here], warnings)
    described = {}
    if isinstance(table, Manifest):
        described = {name: table.column(name)[rows[here]] for name in table.table.column_names}
    return Cases(
        ids[here],
        names,
        columns,
        scores.values(names)[places[here]],
        found,
        owners if owners is not None else ids[here],
        owners is not None,
        described,
        tuple(warnings),
        int((~unseen).sum()),
    )


def _tell_splits(table: Manifest | Labels, rows: np.ndarray, warnings: list[str]) -> None:
    """Which splits are judged, where none is named."""
    if not isinstance(table, Manifest) or "split" not in table.table.column_names:
        return
    names, counts = np.unique(table.column("split")[rows], return_counts=True)
    if names.tolist() != [""]:
        told = [f"{name or 'none'} ({count:,})" for name, count in zip(names.tolist(), counts.tolist(), strict=True)]
        warnings.append(f"no `split` is named: judged are the images of {', '.join(told)}")


def _names_of(table: Manifest | Labels) -> tuple[str, ...]:
    return table.findings if isinstance(table, Manifest) else tuple(table.names)


def _labelled(table: Manifest | Labels, split: str | None, source: str) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the labels that count, and their rows."""
    ids = np.asarray(table.ids, dtype=np.str_)
    if isinstance(table, Labels):
        check_ids(ids, source)
    rows = np.arange(len(ids))
    if split is not None:
        if not isinstance(table, Manifest):
            raise ScoresError(f"{source} have no splits, and {split!r} is asked for; give a manifest")
        splits = table.column("split")
        rows = np.flatnonzero(splits == split)
        if not len(rows):
            known = ", ".join(sorted(set(splits.tolist()) - {""})) or "none"
            raise ManifestError(f"{source}: no label is in the split {split!r}; the splits are: {known}")
    return ids[rows], rows


def _findings(
    scores: ScoreTable, labels: tuple[str, ...], source: str, warnings: list[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The labels' and the scores' names of the findings that both have."""
    matched = match_names(scores.names, labels, "scores")
    pairs = [(column, name) for column, name in zip(matched, scores.names, strict=True) if column is not None]
    if not pairs:
        near = nearest(scores.names, labels)
        raise ScoresError(
            f"{scores.source} and {source} have no finding in common: {', '.join(scores.names) or 'none'} in the "
            f"scores, {', '.join(labels) or 'none'} in the labels; {near or 'name them alike'}"
        )
    twice = [column for column, _ in pairs if sum(other == column for other, _ in pairs) > 1]
    if twice:
        both = " and ".join(name for column, name in pairs if column == twice[0])
        raise ScoresError(f"{scores.source}: {both} are both scores of the label {twice[0]}; rename one")
    unlabelled = [name for column, name in zip(matched, scores.names, strict=True) if column is None]
    unscored = [name for name in labels if name not in matched]
    if unlabelled:
        warnings.append(f"scores without labels, left out: {', '.join(unlabelled)}")
    if unscored:
        warnings.append(f"labels without scores, left out: {', '.join(unscored)}")
    renamed = [f"{name} = {column}" for column, name in pairs if column != name]
    if renamed:
        warnings.append(f"labels matched by a like name: {', '.join(renamed)}")
    return tuple(column for column, _ in pairs), tuple(name for _, name in pairs)


def _tell_missing(scores: ScoreTable, ids: np.ndarray, common: int, split: str | None, warnings: list[str]) -> None:
    unscored = ids[~np.isin(ids, scores.ids)]
    if len(unscored):
        told, out = ("labelled id has", "is") if len(unscored) == 1 else ("labelled ids have", "are")
        warnings.append(f"{len(unscored):,} {told} no score ({_some(unscored)}) and {out} left out")
    lacking = len(scores.ids) - common
    if lacking:
        unlabelled = scores.ids[~np.isin(scores.ids, ids)]
        where = f" in the split {split}" if split is not None else ""
        told, out = ("scored id has", "is") if lacking == 1 else ("scored ids have", "are")
        warnings.append(f"{lacking:,} {told} no label{where} ({_some(unlabelled)}) and {out} left out")


def _some(ids: np.ndarray) -> str:
    # The first by name: a store's order hangs on which of its workers was faster.
    return ", ".join(np.sort(ids)[:3].tolist()) + (", ..." if len(ids) > 3 else "")


def _tell_uncertain(table: Manifest | Labels, columns: tuple[str, ...], rows: np.ndarray, warnings: list[str]) -> None:
    if not isinstance(table, Manifest):
        return
    count = sum(int(np.isin(table.column(name)[rows], ("-1", "-1.0")).sum()) for name in columns)
    if count:
        warnings.append(
            f"{counted(count, 'label is', 'labels are')} uncertain (-1); `uncertain` says what that counts as"
        )


def _owners(
    scores: ScoreTable,
    table: Manifest | Labels,
    ids: np.ndarray,
    rows: np.ndarray,
    patients: Mapping[str, str] | None,
) -> np.ndarray | None:
    """`(N,)` patient ids; None where nobody says."""
    told: list[np.ndarray] = []
    if isinstance(table, Manifest) and "patient_id" in table.table.column_names:
        told.append(table.column("patient_id")[rows])
    for known in (scores.patients, patients or {}):
        if known:
            lacking = [image_id for image_id in ids.tolist() if image_id not in known]
            if lacking:
                raise ScoresError(f"no patient is given for {', '.join(lacking[:_NAMED])}; name one for every image")
            told.append(np.array([known[image_id] for image_id in ids.tolist()], dtype=np.str_))
    for other in told[1:]:
        wrong = np.flatnonzero(other != told[0])
        if len(wrong):
            first = wrong[0]
            raise ScoresError(
                f"{counted(len(wrong), 'image has', 'images have')} "
                f"one patient in the labels and another in the scores, such as "
                f"{ids[first]}: {told[0][first]} and {other[first]}; correct patient_id"
            )
    return told[0] if told else None
