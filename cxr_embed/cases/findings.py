"""Findings of two tables matched by name."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence

from cxr_embed.cases.errors import CasesError


def chosen_findings(wanted: Sequence[str] | None, labels: Sequence[str], source: str) -> tuple[str, ...]:
    """The labels' columns of the findings that a user names, each once; all of them where none is named.

    Raises:
        CasesError: for a finding that the labels do not have.
    """
    if not wanted:
        return tuple(labels)
    matched = match_names(wanted, labels, "`findings`")
    missing = [name for name, column in zip(wanted, matched, strict=True) if column is None]
    if missing:
        near = nearest(missing, labels)
        raise CasesError(
            f"{source}: no finding {', '.join(missing)}; the findings are: {', '.join(labels) or 'none'}"
            + (f" ({near})" if near else "")
        )
    return tuple(dict.fromkeys(column for column in matched if column is not None))


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
    renamed = [f"{name} = {column}" for column, name in pairs if column != name]
    notes = [f"labels matched by a like name: {', '.join(renamed)}"] if renamed else []
    return tuple(columns), tuple(name for _, name in pairs), notes


def match_names(wanted: Sequence[str], labels: Sequence[str], of: str) -> tuple[str | None, ...]:
    """The labels' column for each finding that is wanted, None where there is none.

    It is the column of its name; where there is none, the one that differs in case, spaces, hyphens or underscores
    only, so that `Pleural_Thickening` finds `Pleural Thickening`.

    Args:
        wanted: findings of prompts or scores.
        labels: the labels' findings.
        of: whose these are, for messages: `prompts`.

    Raises:
        CasesError: where two columns are equally like a finding.
    """
    alike: dict[str, list[str]] = {}
    for name in labels:
        alike.setdefault(_plain(name), []).append(name)
    result: list[str | None] = []
    for finding in wanted:
        near = alike.get(_plain(finding), [])
        if finding not in labels and len(near) > 1:
            raise CasesError(f"the labels have {' and '.join(near)}: which is the {of}' {finding}? Rename one")
        result.append(finding if finding in labels else near[0] if near else None)
    return tuple(result)


def nearest(wanted: Sequence[str], labels: Sequence[str]) -> str:
    """Pairs of names that are nearly alike, in words, for a message; empty where there are none."""
    plain = {_plain(name): name for name in labels}
    pairs = []
    for name in wanted:
        near = difflib.get_close_matches(_plain(name), plain, n=1)
        if near:
            pairs.append(f"'{name}' is near '{plain[near[0]]}'")
    return "; ".join(pairs[:3])


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).casefold()
