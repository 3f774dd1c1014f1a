"""Findings of two tables matched by name."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Sequence

from cxr_embed.errors import ManifestError


def match_names(asked: Sequence[str], labels: Sequence[str], asker: str) -> tuple[str | None, ...]:
    """The labels' column for each finding that is asked for, None where there is none.

    It is the column of its name; where there is none, the one that differs in case, spaces, hyphens or underscores
    only, so that `Pleural_Thickening` finds `Pleural Thickening`.

    Args:
        asked: findings of prompts or scores.
        labels: the labels' findings.
        asker: whose the asked findings are, for messages: `prompts`.

    Raises:
        ManifestError: where two columns are equally like a finding.
    """
    alike: dict[str, list[str]] = {}
    for name in labels:
        alike.setdefault(_plain(name), []).append(name)
    result: list[str | None] = []
    for finding in asked:
        near = alike.get(_plain(finding), [])
        if finding not in labels and len(near) > 1:
            raise ManifestError(f"the labels have {' and '.join(near)}: which is the {asker}' {finding}? Rename one")
        result.append(finding if finding in labels else near[0] if near else None)
    return tuple(result)


def nearest(asked: Sequence[str], labels: Sequence[str]) -> str:
    """Pairs of names that are nearly alike, in words, for a message; empty where there are none."""
    plain = {_plain(name): name for name in labels}
    pairs = []
    for name in asked:
        near = difflib.get_close_matches(_plain(name), plain, n=1)
        if near:
            pairs.append(f"'{name}' is near '{plain[near[0]]}'")
    return "; ".join(pairs[:3])


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).casefold()
