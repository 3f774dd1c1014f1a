"""Images scored against words, without labels."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pydantic

from cxr_embed.api.inputs import StrPath, Table, labels_of, store_of
from cxr_embed.api.scores import ScoreFrame
from cxr_embed.manifest import Manifest
from cxr_embed.prompts import (
    Finding,
    PromptError,
    PromptSet,
    check_entry,
    fault_told,
    load_prompt_set,
    prompt_set_names,
)
from cxr_embed.prompts.questions import prompts_of_questions
from cxr_embed.screening import screen as run
from cxr_embed.store import Store

Pair = tuple[Sequence[str], Sequence[str]]
PromptSource = PromptSet | Mapping[str, Pair] | Sequence[str] | str | Path


def screen(
    store: Store | StrPath,
    prompts: PromptSource,
    *,
    labels: Manifest | StrPath | Table | None = None,
    extra: Sequence[str] = (),
    **options: Any,
) -> ScoreFrame:
    """Scores every image of a store against prompts. The images are not read, nor is the image model loaded.

    A score is no probability, and 0.5 is no threshold.

    Args:
        store: an open store, or its folder.
        prompts: a dict of finding to (positive prompts, negative prompts); the name of a set of the package; a prompt
            file (.yaml); or a question in words, such as `pneumothorax`, or a list of them: each is compared with its
            denial by `margin`.
        labels: a table of `image_id` and findings, for `ScoreFrame.report`.
        extra: columns of the labels that are not findings.
        options: as `cxr_embed.screening.screen` takes them: split, uncertain, goal, prevalence, score, ensemble,
            weights, device, cut_prompts, count_no_finding, progress.

    Raises:
        PromptError, ManifestError, StoreError, EncoderError: for what cannot be used, before anything is scored.
    """
    opened = store_of(store)
    asked, by_question = prompts_of(prompts)
    if by_question:
        options = {"score": "margin", **options}
    table = labels_of(labels, extra) if labels is not None else None
    screening, report = run(opened, asked, labels=table, **options)
    about = {"encoder": opened.spec.name, "fingerprint": opened.spec.fingerprint, "prompts": asked.name}
    about |= {"prompts_digest": asked.digest, "ensemble": str(options.get("ensemble", "scores"))}
    about |= {"stand_in": opened.spec.stand_in} if opened.spec.stand_in else {}
    return ScoreFrame(screening.scores, about, screening.notes, report if table is not None else None)


def prompts_of(prompts: PromptSource) -> tuple[PromptSet, bool]:
    """A prompt set of whatever is given, and whether it was questions in words.

    Raises:
        PromptError: for what is neither.
    """
    if isinstance(prompts, PromptSet):
        return prompts, False
    if isinstance(prompts, Mapping):
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
    return prompts_of_questions(list(prompts)), True


def _finding(name: str, pair: Any) -> Finding:
    if isinstance(pair, str) or len(pair) != 2 or any(isinstance(part, str) for part in pair):
        raise PromptError(f"`prompts` {name}: a pair of lists, (positive prompts, negative prompts), not {pair!r}")
    positive, negative = (tuple(map(str, part)) for part in pair)
    try:
        check_entry(name, positive, negative)
    except pydantic.ValidationError as error:
        raise PromptError(f"`prompts` {name}: {'; '.join(map(fault_told, error.errors()))}") from None
    return Finding(name, positive, negative)
