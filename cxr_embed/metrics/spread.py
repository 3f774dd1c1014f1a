"""Whether vectors tell images apart at all: those of a broken encoder or preparation are all but equal."""

from __future__ import annotations

import numpy as np

_NEARLY = 1e-3  # of their length: what float16 rounds off
_EQUAL = 1e-6  # what float32 does
_SAMPLE = 4096


def collapsed(vectors: np.ndarray) -> str:
    """A sentence where vectors `(N, ...)` are all equal or nearly so; empty otherwise.

    Of more than 4,096 vectors as many are looked at, evenly spaced; an array may be mapped from a file.
    """
    rows = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), _SAMPLE)).astype(np.int64))
    if len(rows) < 2:
        return ""
    sample = np.asarray(vectors[rows], np.float64).reshape(len(rows), -1)
    return collapsed_by(len(vectors), sample.mean(axis=0), sample.var(axis=0))


def collapsed_by(count: int, mean: np.ndarray, variance: np.ndarray) -> str:
    """As `collapsed`, of what is known of `count` vectors: means and variances `(D,)` of their dimensions."""
    around, length = float(np.sqrt(variance.sum())), float(np.sqrt((mean**2).sum() + variance.sum()))
    if count < 2 or not around <= _NEARLY * length:
        return ""
    how = f"nearly equal (they differ by {around / length:.0e} of their length)"
    return (
        f"all {count:,} vectors are {'equal' if around <= _EQUAL * length else how}: they tell no image from another; "
        "look for what broke the pictures or the encoder"
    )
