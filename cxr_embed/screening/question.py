"""Single questions to a store: the images that score highest, and, with labels, how far that ranking can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cxr_embed.cases import NothingKnown, check_known, match_names
from cxr_embed.choices import Blank, Uncertain
from cxr_embed.evaluation.evaluate import evaluate_cases
from cxr_embed.index.answers import whole_ages
from cxr_embed.index.case_table import CONTENT, IMAGE, case_table
from cxr_embed.manifest import Manifest
from cxr_embed.metrics import Estimate
from cxr_embed.prompts import Finding
from cxr_embed.prompts.questions import sets_with
from cxr_embed.screening.finding_report import scored_cases
from cxr_embed.screening.matched_labels import match_store_labels
from cxr_embed.screening.scoring import Screening
from cxr_embed.store import Store
from cxr_embed.types import counted


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a store answers to one question.

    Attributes:
        question: its name, and the prompt and denial that were compared.
        cases: the highest scores, highest first: `image_id`, `score`, and what is known of each.
        contents: SHA-256 of each case's file, 32 bytes each.
        label: the labels' finding of its name; None where there is none.
        auroc: against that label, with its 95% interval; None without one.
        images, positives: that the AUROC is over.
    """

    question: Finding
    cases: tuple[dict[str, Any], ...]
    contents: tuple[bytes, ...]
    label: str | None = None
    auroc: Estimate | None = None
    images: int = 0
    positives: int = 0

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        figure = self.auroc
        auroc = {
            "value": figure.value,
            "low": figure.low,
            "high": figure.high,
            "undefined": figure.reason or None,
            "label": self.label,
            "images": self.images,
            "positives": self.positives,
        } if figure is not None else None  # fmt: skip
        return {
            "name": self.question.name,
            "prompt": self.question.positive[0],
            "against": self.question.negative[0],
            "auroc": auroc,
            "images": list(map(whole_ages, self.cases)),
        }


def highest(values: np.ndarray, ids: np.ndarray, k: int) -> np.ndarray:
    """Rows of the k highest of `(N,)` values, highest first; equal values in the order of their ids."""
    k = min(k, len(values))
    least = np.partition(values, len(values) - k)[len(values) - k]
    rows = np.flatnonzero(values >= least)
    return rows[np.lexsort((ids[rows], -values[rows]))][:k]


def answer(
    store: Store,
    screening: Screening,
    k: int,
    *,
    known: Manifest | None = None,
    labels: Manifest | None = None,
    split: str | None = None,
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
    bootstraps: int = 1000,
    seed: int = 0,
) -> tuple[list[Answer], list[str]]:
    """The answers to questions that were scored, and notes.

    Args:
        store: whose images were scored.
        screening: the scores; every finding has one prompt, and one denial.
        k: images wanted of each, at least 1.
        known: what is known of the cases.
        labels: to hold the ranking of all scored images against, where they have a finding of the question's name.
        split: of the labels.
        uncertain: what a label of -1 counts as.
        blank: what a blank label counts as; what the labels' companion says by default, else `unknown`.
        bootstraps, seed: of the AUROC's interval, as `evaluate` takes them.

    Raises:
        ManifestError, ScoresError: as `evaluate` does.
    """
    scores = screening.scores
    found, notes = [], list(screening.notes)
    for number, question in enumerate(screening.scorer.findings):
        values = scores.values[:, number]
        rows = highest(values, scores.ids, k)
        beyond = int((values == values[rows[-1]]).sum() - (values[rows] == values[rows[-1]]).sum())
        if beyond:
            equal = counted(beyond, "more image has", "more images have")
            notes.append(f"{question.name}: {equal} the score of the last one; shown by their ids")
        cases, contents = _cases(store, rows, values, known)
        found.append(Answer(question=question, cases=cases, contents=contents))
    if labels is not None:
        found, more = _with_aurocs(found, store, screening, labels, split, uncertain, blank, bootstraps, seed)
        notes += more
    sets = dict.fromkeys(name for question in screening.scorer.findings for name in sets_with(question))
    if sets:
        notes.append(f"asked with these words alone; sets that ask with more: {', '.join(sets)} (`prompts`)")
    return found, list(dict.fromkeys(notes))


def _cases(
    store: Store, rows: np.ndarray, values: np.ndarray, known: Manifest | None
) -> tuple[tuple[dict[str, Any], ...], tuple[bytes, ...]]:
    table = case_table(store, rows, known)
    contents = tuple(table[CONTENT].to_pylist())
    cases = []
    for case, value in zip(table.drop_columns([CONTENT]).to_pylist(), values[rows].tolist(), strict=True):
        plain = {name: each.isoformat() if hasattr(each, "isoformat") else each for name, each in case.items()}
        cases.append({IMAGE: plain.pop(IMAGE), "score": value, **plain})
    return tuple(cases), contents


def _with_aurocs(
    answers: Sequence[Answer],
    store: Store,
    screening: Screening,
    labels: Manifest,
    split: str | None,
    uncertain: Uncertain,
    blank: Blank | None,
    bootstraps: int,
    seed: int,
) -> tuple[list[Answer], list[str]]:
    """The answers with the AUROC of each question that the labels have, and notes."""
    names = screening.scores.names
    columns = match_names(names, labels.findings, "questions")
    lacking = [name for name, column in zip(names, columns, strict=True) if column is None]
    notes = []
    if lacking:
        known = ", ".join(labels.findings) or "none"
        notes.append(f"no AUROC of {', '.join(lacking)}: the labels' findings are {known}; `ask` NAME=WORDS names one")
    if len(lacking) == len(names):
        return list(answers), notes
    # Only the findings that are asked for: the others need no warning.
    wanted = replace(labels, findings=tuple(dict.fromkeys(column for column in columns if column is not None)))
    matched = match_store_labels(wanted, store, names, split=split, uncertain=uncertain, blank=blank)
    try:
        check_known(matched.cases, "the labels", "vector")
    except NothingKnown as error:  # as good as no labels: the list does not need them
        return list(answers), [*notes, f"no AUROC of {', '.join(matched.cases.names)}: {error}"]
    made = evaluate_cases(scored_cases(screening, matched), ranking_only=True, bootstraps=bootstraps, seed=seed)
    by_name = {finding.name: finding for finding in made.findings}
    found = []
    for each in answers:
        result = by_name.get(each.question.name)
        if result is not None:
            figure = result.figures["auroc"]
            each = replace(each, label=result.label, auroc=figure, images=result.n, positives=result.positives)
        found.append(each)
    return found, [*notes, *made.warnings, *matched.notes]
