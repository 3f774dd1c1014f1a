"""The splits of a table of labels."""

from __future__ import annotations

import numpy as np

from cxr_embed.cases.errors import CasesError


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
