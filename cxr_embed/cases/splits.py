"""The splits of a table of labels, and parts that share nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cxr_embed.cases.errors import CasesError
from cxr_embed.cases.ids import some
from cxr_embed.types import counted

if TYPE_CHECKING:
    from cxr_embed.cases.joining import Cases


def in_split(splits: np.ndarray, split: str | None, source: str) -> np.ndarray:
    """`(N,)` bool: the rows of a split; all of them for None.

    Args:
        splits: `(N,)` strings, blank where a row is in none.
        split: the one that is wanted.
        source: of the splits, for the message.

    Raises:
        CasesError: for a split that is not there.
    """
    if split is None:
        return np.ones(len(splits), bool)
    inside = np.asarray(splits == split)
    if not inside.any():
        known = ", ".join(sorted(set(splits.tolist()) - {""})) or "none"
        raise CasesError(f"{source}: no image is in the split {split!r}; the splits are: {known}")
    return inside


def check_apart(one: Cases, other: Cases, parts: tuple[str, str]) -> None:
    """Refuses an image or a patient that two parts share.

    Args:
        one, other: both parts.
        parts: their names, for the message: `tested`, `in the validation part`.

    Raises:
        CasesError: naming the first few.
    """
    both, what = np.intersect1d(one.ids, other.ids), "image"
    if not len(both) and one.clustered and other.clustered:
        both, what = np.intersect1d(one.patients, other.patients), "patient"
    if len(both):
        raise CasesError(
            f"{counted(len(both), f'{what} is', f'{what}s are')} {parts[0]} and {parts[1]} ({some(both)}); "
            "give each patient one split, and name two different ones"
        )
