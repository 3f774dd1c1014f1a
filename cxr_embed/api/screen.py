"""Images scored against words, without labels."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pydantic

from cxr_embed.api.inputs import Progress, StrPath, Table, labels_of, progress_or_bar, store_of
from cxr_embed.api.scores import ScoreFrame
from cxr_embed.arguments import checked_arguments
from cxr_embed.cases import check_not_common, chosen_findings, match_names, shown_names, wants_common
from cxr_embed.choices import Blank, Ensemble, ScoreKind, Uncertain
from cxr_embed.evaluation.evaluate import Prevalence
from cxr_embed.manifest import Manifest
from cxr_embed.prompts import (
    Finding,
    PromptError,
    PromptSet,
    check_entry,
    format_fault,
    load_prompt_set,
    prompt_set_names,
)
from cxr_embed.prompts.questions import prompts_of_questions
from cxr_embed.screening import screen as run
from cxr_embed.store import Store

Pair = tuple[Sequence[str], Sequence[str]]
PromptSource = PromptSet | Mapping[str, Pair] | Sequence[str] | str | Path


@checked_arguments
def screen(
    store: Store | StrPath,
    prompts: PromptSource,
    *,
    findings: Sequence[str] | None = None,
    labels: Manifest | StrPath | Table | None = None,
    extra: Sequence[str] = (),
    split: str | None = None,
    uncertain: Uncertain = "unknown",
    blank: Blank | None = None,
    threshold: str | float | None = None,
    prevalence: Prevalence | None = None,
    score: ScoreKind | None = None,
    ensemble: Ensemble = "scores",
    weights: StrPath | None = None,
    device: str = "auto",
    cut_prompts: bool = False,
    count_no_finding: bool = False,
    bootstraps: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> ScoreFrame:
    """Scores every image of a store against prompts. The images are not read, nor is the image model loaded.

    A score is not a probability, and 0.5 is not a threshold.

    Args:
        store: an open store, or its folder.
        prompts: a dict of finding to (positive prompts, negative prompts); the name of a set of the package; a prompt
            file (.yaml); or a question in words, such as `pneumothorax`, or a list of them: each is compared with its
            denial by `margin`.
        findings: of the prompts; all by default. `common`: those that the vocabulary of findings has, and the labels
            too where there are any, under their common names.
        labels: a table of `image_id` and findings, for `ScoreFrame.report`.
        extra: columns of the labels that are not findings.
        split, uncertain, blank: which labels count, and what -1 and a blank count as.
        threshold: `youden`, `f1`, `sensitivity=0.95` (the default with labels), `specificity=0.9`, `flag-rate=0.1`, or
            a number; chosen on these very images. Without labels, a flag rate or a number.
        prevalence: part of images with the finding where the screening is meant to be used, for all findings or by
            finding (`*` is for all others); the labels' own by default.
        score: `margin` (positive minus negative cosine), `softmax` or `sigmoid`; the encoder's own by default.
        ensemble: average a finding's `scores`, or its prompts' `vectors`.
        weights, device: of the text model, for prompts that the store does not hold yet.
        cut_prompts: read the beginning of a prompt that is longer than the text model reads.
        count_no_finding, bootstraps, seed: as `evaluate` takes them.
        progress: called with a word for the step, what is done and how much there is; a bar in notebooks by default.

    Raises:
        PromptError, ManifestError, ScoresError, StoreError, EncoderError: for what cannot be used, before anything is
            scored.
    """
    opened = store_of(store)
    prompt_set, by_question = prompts_of(prompts)
    labelled = labels_of(labels, extra) if labels is not None else None
    if findings is not None:
        prompt_set = _chosen(prompt_set, findings, labelled)
    screening, report = run(
        opened,
        prompt_set,
        labels=labelled,
        split=split,
        uncertain=uncertain,
        blank=blank,
        threshold=threshold,
        prevalence=prevalence,
        score=score or ("margin" if by_question else None),
        ensemble=ensemble,
        weights=weights,
        device=device,
        cut_prompts=cut_prompts,
        count_no_finding=count_no_finding,
        bootstraps=bootstraps,
        seed=seed,
        progress=progress_or_bar(progress),
    )
    about = {"encoder": opened.spec.name, "fingerprint": opened.spec.fingerprint, "prompts": prompt_set.name}
    about |= {"prompts_digest": prompt_set.digest, "score": screening.scores.kind, "ensemble": ensemble}
    about |= {"stand_in": opened.spec.stand_in} if opened.spec.stand_in else {}
    return ScoreFrame(screening.scores, about, screening.notes, report, screening.embedded)


def _chosen(prompts: PromptSet, wanted: Sequence[str], labels: Manifest | None) -> PromptSet:
    """The prompts of some findings; of `common` ones, those that the labels have too, where there are any.

    Raises:
        CasesError: for a finding that has none.
    """
    names = [finding.name for finding in prompts.findings]
    chosen = chosen_findings(wanted, names, f"the prompts {prompts.name}")
    if labels is not None and wants_common(wanted):
        check_not_common(labels.findings, "the labels")
        matched = match_names(chosen, labels.findings, "prompts")
        chosen = tuple(name for name, column in zip(chosen, matched, strict=True) if column is not None) or chosen
    kept = [finding for finding in prompts.findings if finding.name in chosen]
    shown = shown_names(wanted, [finding.name for finding in kept])
    return replace(
        prompts, findings=tuple(replace(finding, name=name) for finding, name in zip(kept, shown, strict=True))
    )


def prompts_of(prompts: PromptSource) -> tuple[PromptSet, bool]:
    """A prompt set of whatever is given, and whether it was questions in words.

    Raises:
        PromptError: for what is neither.
    """
    if isinstance(prompts, PromptSet):
        return prompts, False
    if isinstance(prompts, Mapping):
        if not prompts:
            raise PromptError("`prompts` is empty; name a finding with its prompts")
        return PromptSet("in memory", tuple(_finding(name, pair) for name, pair in prompts.items())), False
    if isinstance(prompts, Path):
        return load_prompt_set(str(prompts)), False
    if isinstance(prompts, str):
        if prompts in prompt_set_names() or prompts.lower().endswith((".yaml", ".yml")):
            return load_prompt_set(prompts), False
        if near := difflib.get_close_matches(prompts, prompt_set_names(), n=1, cutoff=0.75):
            # As a question it would get scores, and mean nothing.
            raise PromptError(
                f"`prompts` {prompts!r}: no set of this name; did you mean {near[0]}? A question is [...]"
            )
        return prompts_of_questions([prompts]), True
    questions = list(prompts) if isinstance(prompts, Iterable) else [prompts]
    if not questions or not all(isinstance(question, str) for question in questions):
        raise PromptError("`prompts` is a set's name, a file, a question or a list of them, or a dict of findings")
    return prompts_of_questions(questions), True


def _finding(name: str, pair: Any) -> Finding:
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not all(isinstance(part, list | tuple) for part in pair):
        raise PromptError(f"`prompts` {name}: a pair of lists, (positive prompts, negative prompts), not {pair!r}")
    positive, negative = (tuple(map(str, part)) for part in pair)
    try:
        check_entry(name, positive, negative)
    except pydantic.ValidationError as error:
        raise PromptError(f"`prompts` {name}: {'; '.join(map(format_fault, error.errors()))}") from None
    return Finding(name, positive, negative)
