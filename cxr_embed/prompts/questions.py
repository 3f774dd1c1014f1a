"""Questions asked without a prompt file: each is a finding with one prompt, and its denial."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pydantic

from cxr_embed.prompts import (
    Finding,
    PromptError,
    PromptSet,
    check_entry,
    format_fault,
    load_prompt_set,
    prompt_set_names,
)

_ARTICLE = re.compile(r"(a|an|the)\s+", re.IGNORECASE)
_DENIES = re.compile(r"(no|without)\s+", re.IGNORECASE)


def denial_of(words: str) -> str:
    """What a question is compared with: `no pneumothorax` for `pneumothorax`, and the other way round."""
    denies = _DENIES.match(words)
    if denies:
        return words[denies.end() :]
    article = _ARTICLE.match(words)
    return f"no {words[article.end() :] if article else words}"


def prompts_of_questions(questions: Sequence[str], against: Sequence[str] = ()) -> PromptSet:
    """A prompt set of questions, each with its words against its denial.

    Args:
        questions: words, which name the finding too; or `NAME=WORDS`, where the labels name it otherwise.
        against: what to compare each question with, in their order, instead of `denial_of`; empty for that.

    Raises:
        PromptError: for no question, words that are blank or no prompt, another number of `against`, or two findings of
            one name.
    """
    if not questions:
        raise PromptError("`questions` is an empty list; name one, such as 'pneumothorax'")
    if against and len(against) != len(questions):
        raise PromptError(
            f"`against` is given once for each `ask`, {len(questions)} times, or not at all; not {len(against)} times"
        )
    findings = []
    for number, question in enumerate(questions):
        before, named, after = question.partition("=")
        words = (after if named else before).strip()
        name = before.strip() if named else words
        denial = against[number].strip() if against else denial_of(words)
        if against and not denial:
            raise PromptError(f"`against` of `ask` {question!r} is blank; leave it out to compare with its denial")
        if not words or not name:
            raise PromptError(f"`ask` is words such as 'pneumothorax', or NAME=WORDS, not {question!r}")
        try:
            check_entry(name, [words], [denial])
        except pydantic.ValidationError as error:
            raise PromptError(f"`ask` {question!r}: {'; '.join(map(format_fault, error.errors()))}") from None
        findings.append(Finding(name, (words,), (denial,)))
    names = [finding.name.casefold() for finding in findings]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise PromptError(f"`ask` {twice} is given twice; name one of them otherwise: `ask` NAME=WORDS")
    return PromptSet("; ".join(format_pair(finding) for finding in findings), tuple(findings))


def format_pair(finding: Finding) -> str:
    """A question's two prompts, as they are named in reports."""
    return f"'{finding.positive[0]}' / '{finding.negative[0]}'"


def sets_with(finding: Finding) -> list[str]:
    """The sets of the package that have a finding of this name, or this very prompt: they ask with more words."""
    words = {finding.name.casefold(), finding.positive[0].casefold()}
    return [
        name
        for name in prompt_set_names()
        if any(words & {known.name.casefold(), *map(str.casefold, known.positive)} for known in _findings(name))
    ]


def _findings(name: str) -> tuple[Finding, ...]:
    return load_prompt_set(name).findings
