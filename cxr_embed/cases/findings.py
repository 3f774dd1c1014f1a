"""Findings of two tables matched by name: the same name, a like one, or another published one of the same finding."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from cxr_embed.cases.common_findings import plain_name
from cxr_embed.cases.errors import CasesError
from cxr_embed.cases.vocabulary import COMMON, vocabulary


def chosen_findings(wanted: Sequence[str] | None, labels: Sequence[str], source: str) -> tuple[str, ...]:
    """The labels' columns of the findings that a user names, each once; all of them where none is named.

    `common` alone stands for those that the vocabulary of findings has; `shown_names` gives their common names.

    Raises:
        CasesError: for a finding that the labels do not have, or `common` where it could mean two things.
    """
    if not wanted:
        return tuple(labels)
    if wants_common(wanted):
        return _of_the_vocabulary(labels, source)
    matched = match_names(wanted, labels, "`findings`")
    missing = [name for name, column in zip(wanted, matched, strict=True) if column is None]
    if missing:
        near = nearest(missing, labels)
        raise CasesError(
            f"{source}: no finding {', '.join(missing)}; the findings are: {', '.join(labels) or 'none'}"
            + (f" ({near})" if near else "")
        )
    return tuple(dict.fromkeys(column for column in matched if column is not None))


def wants_common(wanted: Sequence[str] | None) -> bool:
    """Whether a user asks for the findings of the vocabulary, under its names.

    Raises:
        CasesError: where others are named beside them.
    """
    if wanted is None or COMMON not in wanted:
        return False
    if len(wanted) > 1:
        raise CasesError(f"`findings` {COMMON} means all findings of the vocabulary: name it alone, or name findings")
    return True


def shown_names(wanted: Sequence[str] | None, names: Sequence[str]) -> tuple[str, ...]:
    """What findings are called in results: their common names where a user asks for those, else their own."""
    return tuple(map(vocabulary().common_name, names)) if wants_common(wanted) else tuple(names)


def _of_the_vocabulary(labels: Sequence[str], source: str) -> tuple[str, ...]:
    check_not_common(labels, source)
    known = {name: found for name in labels if (found := vocabulary().find(name)) is not None and not found.absence}
    if not known:
        raise CasesError(
            f"{source}: no finding is in the vocabulary of findings ({', '.join(labels) or 'none'}); name some instead"
        )
    owners: dict[str, str] = {}
    for name, found in known.items():
        if (other := owners.setdefault(found.name, name)) != name:
            raise CasesError(f"{source}: {other} and {name} are both the finding {found.name}; rename or leave out one")
    return tuple(known)


def check_not_common(labels: Sequence[str], source: str) -> None:
    """Refuses a finding that is itself called `common` where the word is asked for: it could mean either.

    Raises:
        CasesError: saying so.
    """
    if COMMON in labels:
        raise CasesError(
            f"{source}: a finding is named {COMMON}, and `findings` {COMMON} means those of the vocabulary; rename it"
        )


def common_findings(
    given: Sequence[str], labels: Sequence[str], of: str, source: str
) -> tuple[tuple[str, ...], tuple[str, ...], list[str]]:
    """The labels' columns and the given names of the findings that both have, and what to know of the match.

    Args:
        given: findings of scores or prompts.
        labels: the labels' findings.
        of: whose the given ones are, for messages: `the scores`.
        source: of the labels, for messages.

    Raises:
        CasesError: where they have no finding in common, or two are the same column.
    """
    matched = match_names(given, labels, of.removeprefix("the "))
    pairs = [(column, name) for column, name in zip(matched, given, strict=True) if column is not None]
    if not pairs:
        raise CasesError(
            f"{of} and {source} have no finding in common: {', '.join(given) or 'none'} in {of}, "
            f"{', '.join(labels) or 'none'} in the labels; {nearest(given, labels) or 'name them alike'}"
        )
    columns = [column for column, _ in pairs]
    twice = [column for column in columns if columns.count(column) > 1]
    if twice:
        both = " and ".join(name for column, name in pairs if column == twice[0])
        raise CasesError(f"{of}: {both} are both for the label {twice[0]}; rename one")
    return tuple(columns), tuple(name for _, name in pairs), _match_notes(pairs)


def _match_notes(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """What to know of columns and names that are not the same: which are alike, and which mean the same."""
    spelled = [f"{name} = {column}" for column, name in pairs if column != name and _alike(column, name)]
    meant = [f"{name} = {column}" for column, name in pairs if not _alike(column, name)]
    notes = [f"labels matched by a like name: {', '.join(spelled)}"] if spelled else []
    return notes + ([f"labels matched by the vocabulary of findings: {', '.join(meant)}"] if meant else [])


def _alike(one: str, other: str) -> bool:
    return plain_name(one) == plain_name(other)


def match_names(wanted: Sequence[str], labels: Sequence[str], of: str) -> tuple[str | None, ...]:
    """The labels' column for each finding that is wanted, None where there is none.

    It is the column of its name; where there is none, the one that differs in case, spaces, hyphens or underscores
    only, so that `Pleural_Thickening` finds `Pleural Thickening`; and where there is none either, the one that means
    the same by the vocabulary of findings, so that `Effusion` finds `Pleural Effusion`.

    Args:
        wanted: findings of prompts or scores.
        labels: the labels' findings.
        of: whose these are, for messages: `prompts`.

    Raises:
        CasesError: where two columns are equally like a finding, or mean it.
    """
    alike: dict[str, list[str]] = {}
    for name in labels:
        alike.setdefault(plain_name(name), []).append(name)
    result: list[str | None] = []
    for finding in wanted:
        near = [finding] if finding in labels else alike.get(plain_name(finding)) or _meaning(finding, labels)
        if len(near) > 1:
            raise CasesError(f"the labels have {' and '.join(near)}: which is the {of}' {finding}? Rename one")
        result.append(near[0] if near else None)
    return tuple(result)


def _meaning(finding: str, labels: Sequence[str]) -> list[str]:
    """The labels that mean a finding by the vocabulary."""
    found = vocabulary().find(finding)
    return [] if found is None else [name for name in labels if vocabulary().find(name) is found]


def nearest(wanted: Sequence[str], labels: Sequence[str]) -> str:
    """Pairs of names that are nearly alike, in words, for a message; empty where there are none."""
    plain = {plain_name(name): name for name in labels}
    pairs = []
    for name in wanted:
        near = difflib.get_close_matches(plain_name(name), plain, n=1)
        if near:
            pairs.append(f"'{name}' is near '{plain[near[0]]}'")
    return "; ".join(pairs[:3])
