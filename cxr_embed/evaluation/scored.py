"""Scores joined with labels: the cases that all figures are of."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from cxr_embed.cases import (
    Cases,
    PatientsOf,
    Side,
    check_known,
    check_not_common,
    chosen_findings,
    common_findings,
    join,
    patients_in,
    shown_names,
    some,
    splits_note,
    uncertain_note,
    wants_common,
)
from cxr_embed.choices import Blank, Uncertain
from cxr_embed.evaluation.learned import learned_from
from cxr_embed.evaluation.scores import ScoresError, ScoreTable, check_ids
from cxr_embed.manifest import Manifest, read_labels
from cxr_embed.types import Labels, counted

LabelSource = Manifest | Labels | str | os.PathLike[str]


@dataclass(frozen=True, kw_only=True)
class ScoredCases(Cases):
    """Images with scores and labels, in the order of their ids: what comes of them hangs on no file's order.

    Attributes:
        scores: `(N, F)` float64.
        seen: images that are left out because a probe learned from their patients.
    """

    scores: np.ndarray
    seen: int = 0

    @property
    def flat(self) -> list[str]:
        """The findings of which every case has the same score."""
        return [name for name, column in zip(self.names, self.scores.T, strict=True) if np.ptp(column) == 0]

    def keep(self, rows: np.ndarray, names: tuple[str, ...] | None = None) -> Self:
        """These rows, and of these findings all or some."""
        chosen = [self.names.index(name) for name in (self.names if names is None else names)]
        return replace(super().keep(rows, names), scores=self.scores[rows][:, chosen])


def join_scores(
    scores: ScoreTable,
    labels: LabelSource,
    *,
    findings: Sequence[str] | None = None,
    patients: Mapping[str, str] | None = None,
    split: str | None = None,
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
) -> ScoredCases:
    """Joins scores and labels. Images of patients that a probe learned from are left out, where the scores say so.

    Args:
        scores: what `read_scores` gives.
        labels: a table of `image_id` and findings, a manifest, or labels in memory.
        findings: of the scores; all by default. `common`: those that both have and the vocabulary knows, under their
            common names.
        patients: image to patient, where neither file says.
        split: labels of this split only.
        uncertain: what a label of -1 counts as.
        blank: what a blank label counts as; what the labels' companion says by default, else `unknown`.

    Raises:
        ManifestError: for labels that cannot be read.
        CasesError: where scores and labels have no image, finding or split in common, or name different patients for
            one image, or no label is known.
        ScoresError: for scores that are not finite numbers, or whose probe learned from the patients of all images.
    """
    source = str(labels) if isinstance(labels, str | os.PathLike) else "the labels"
    table = read_labels(labels) if isinstance(labels, str | os.PathLike) else labels
    if isinstance(table, Labels):
        check_ids(np.asarray(table.ids, dtype=np.str_), source)
    known = table.findings if isinstance(table, Manifest) else tuple(table.names)
    if wants_common(findings):
        check_not_common(known, source)
    given = chosen_findings(findings, scores.names, scores.source)
    columns, names, renamed = common_findings(given, known, "the scores", source)
    side = Side(scores.ids, scores.source, "score")
    cases = join(
        table,
        side,
        columns=columns,
        names=shown_names(findings, names),
        source=source,
        split=split,
        uncertain=uncertain,
        blank=blank,
        patients=[
            PatientsOf(name, patients_in(who, scores.ids), complete=True)
            for name, who in (("the scores", scores.patients), ("`patients`", patients or {}))
            if who
        ],
    )
    notes = [f"{scores.source}: scores of stand-in weights; their figures mean nothing"] if scores.stand_in else []
    notes += _findings_left_out(given, names, () if findings else known, columns)
    notes += [*renamed, *cases.notes, *_unlabelled_note(scores.ids, cases.places, split)]
    cases = cases.keep(np.argsort(cases.ids, kind="stable"))
    unseen = ~learned_from(scores, table, cases, patients)
    notes += _learned_notes(scores, cases, unseen, split)
    cases = cases.keep(unseen)
    check_known(cases, source, "score")
    notes += splits_note(cases) if split is None else []
    notes += uncertain_note(cases.uncertain)
    joined = replace(cases, notes=tuple(notes))
    return ScoredCases(**vars(joined), scores=scores.values(names)[cases.places], seen=int(len(unseen) - unseen.sum()))


def _findings_left_out(
    scored: tuple[str, ...], both: tuple[str, ...], labelled: tuple[str, ...], columns: tuple[str, ...]
) -> list[str]:
    unlabelled = [name for name in scored if name not in both]
    unscored = [name for name in labelled if name not in columns]
    notes = [f"scores without labels, left out: {', '.join(unlabelled)}"] if unlabelled else []
    return notes + ([f"labels without scores, left out: {', '.join(unscored)}"] if unscored else [])


def _unlabelled_note(ids: np.ndarray, places: np.ndarray, split: str | None) -> list[str]:
    unlabelled = np.delete(ids, places)
    if not len(unlabelled):
        return []
    where = f" in the split {split}" if split is not None else ""
    ids_have, out = ("scored id has", "is") if len(unlabelled) == 1 else ("scored ids have", "are")
    return [f"{len(unlabelled):,} {ids_have} no label{where} ({some(unlabelled)}) and {out} left out"]


def _learned_notes(scores: ScoreTable, cases: Cases, unseen: np.ndarray, split: str | None) -> list[str]:
    """What is left out because a probe learned from its patients.

    Raises:
        ScoresError: where that is everything.
    """
    if unseen.all():
        return []
    if not unseen.any():
        where = f" in the split {split}" if split is not None else ""
        raise ScoresError(
            f"{scores.source}: the probe learned from the patients of all {counted(len(cases), 'image')} "
            f"with labels{where}: no test of it; give labels of others, or another `split`"
        )
    left = cases.ids[~unseen]
    return [
        f"{counted(len(left), 'image')} of {scores.source} {'is' if len(left) == 1 else 'are'} of patients "
        f"that the probe learned from ({some(left)}), and left out"
    ]
