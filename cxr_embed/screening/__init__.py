"""Screening with words: a store, a prompt set and the scorer; with labels, a report of how well it works."""

from __future__ import annotations

import os

import numpy as np

from cxr_embed.choices import Blank, Ensemble, ScoreKind, Uncertain
from cxr_embed.evaluation import ScoresError
from cxr_embed.evaluation.evaluate import Prevalence, check_prevalence
from cxr_embed.manifest import Manifest, read_labels
from cxr_embed.prompts import PromptSet, load_prompt_set
from cxr_embed.screening.finding_report import FindingReport, Report, make_report, threshold_rule
from cxr_embed.screening.matched_labels import MatchedLabels, match_labels, match_store_labels
from cxr_embed.screening.scoring import Progress, Screening, check_names, check_scores_target, score_store, write_scores
from cxr_embed.store import Store, open_store

__all__ = [
    "FindingReport",
    "MatchedLabels",
    "Report",
    "Screening",
    "check_scores_target",
    "make_report",
    "match_labels",
    "score_store",
    "screen",
    "write_scores",
]


def screen(
    store: Store | str | os.PathLike[str],
    prompts: PromptSet | str,
    *,
    labels: Manifest | str | os.PathLike[str] | None = None,
    split: str | None = None,
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
    threshold: str | float | None = None,
    prevalence: Prevalence | None = None,
    score: ScoreKind | None = None,
    ensemble: Ensemble = "scores",
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    cut_prompts: bool = False,
    count_no_finding: bool = False,
    bootstraps: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Screening, Report]:
    """Scores every image of a store against prompts, and compares the scores with labels where there are any.

    Args:
        store: an open store, or its folder.
        prompts: a prompt set, its name, or a prompt file.
        labels: a table of `image_id` and findings, or a manifest.
        split, uncertain, blank: which labels count, and what -1 and blank count as: as `match_labels` takes them.
        threshold, prevalence, count_no_finding, bootstraps, seed: as `make_report` takes them.
        score, ensemble, weights, device, cut_prompts, progress: as `score_store` takes them.

    Raises:
        PromptError, ManifestError, ScoresError, StoreError, EncoderError: for what cannot be used, before
            anything is scored.
    """
    opened = store if isinstance(store, Store) else open_store(store)
    prompt_set = prompts if isinstance(prompts, PromptSet) else load_prompt_set(prompts)
    check_names(prompt_set)
    names = tuple(finding.name for finding in prompt_set.findings)
    if labels is None and (split is not None or prevalence is not None):
        raise ScoresError("`split` and `prevalence` are for the report on `labels`; give `labels` too")
    threshold_rule(threshold, labels is not None)
    check_prevalence(prevalence, names)
    matched = None
    if labels is not None and len(opened):
        table = labels if isinstance(labels, Manifest) else read_labels(labels)
        matched = match_store_labels(table, opened, names, split=split, uncertain=uncertain, blank=blank)
    screening = score_store(
        opened,
        prompt_set,
        score=score,
        ensemble=ensemble,
        keep=matched.labelled if matched is not None else None,
        weights=weights,
        device=device,
        cut_prompts=cut_prompts,
        progress=progress,
    )
    duplicates = 0
    if matched is not None:
        contents = opened.content_ids[matched.labelled]
        duplicates = len(contents) - len(np.unique(contents))
    return screening, make_report(
        screening,
        matched,
        threshold=threshold,
        prevalence=prevalence,
        duplicates=duplicates,
        count_no_finding=count_no_finding,
        bootstraps=bootstraps,
        seed=seed,
    )
