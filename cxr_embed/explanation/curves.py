"""Insertion and deletion: how a score changes while a map's pixels are hidden, or shown, from the highest value on.

Petsiuk et al., 2018 (RISE), arXiv 1806.07421. No marks of people are needed: it is asked whether the map's highest
pixels are those that this encoder's score hangs on. What is hidden looks as in `hiding`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cxr_embed.choices import Fill
from cxr_embed.explanation.hiding import Hidden
from cxr_embed.types import CxrImage

STEPS = 16
FRACTIONS = tuple(step / STEPS for step in range(STEPS + 1))
DELETION, INSERTION = "deletion", "insertion"
CURVES = (DELETION, INSERTION)
AN_ORDER, ENDS = (
    2 * (STEPS - 1),
    2,
)  # pictures: of one order of pixels, and of all of them: the whole and the hidden one
_BATCH = 10  # pictures held at once
Scores = Callable[[Sequence[CxrImage]], np.ndarray]  # B pictures to (B, T)


@dataclass(frozen=True)
class Ends:
    """The scores `(T,)` of a picture, and of the same with all of it hidden."""

    whole: np.ndarray
    hidden: np.ndarray


def ranks_of(values: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """`(H, W)` int64: 0 where a map `(H, W)` is highest. Equal values come in an order that is drawn by the seed."""
    mixed = np.random.default_rng(seed).permutation(values.size)
    ranks = np.empty(values.size, np.int64)
    ranks[mixed[np.argsort(-values.ravel()[mixed], kind="stable")]] = np.arange(values.size)
    return ranks.reshape(values.shape)


def ends_of(scores: Scores, image: CxrImage, hidden: Hidden) -> Ends:
    """Both ends of every curve."""
    found = scores([image, hidden.without(np.ones(image.pixels.shape, bool))])
    return Ends(found[0], found[1])


def curves_of(scores: Scores, hidden: Hidden, ends: Ends, ranks: np.ndarray) -> np.ndarray:
    """The curves of one order of pixels.

    Args:
        scores: embeds pictures and reads the T scores off.
        hidden: the picture.
        ends: of `ends_of`.
        ranks: of `ranks_of`.

    Returns:
        `(2, 17, T)` float64: the scores while the first of the pixels are hidden, and while they are shown, by
        `FRACTIONS` of the pixels.
    """
    found = np.concatenate([scores(part) for part in _batches(hidden, ranks)])  # (30, T)
    deleted, inserted = found[0::2], found[1::2]
    return np.stack(
        [
            np.concatenate([ends.whole[None], deleted, ends.hidden[None]]),
            np.concatenate([ends.hidden[None], inserted, ends.whole[None]]),
        ]
    )


def areas_under(curves: np.ndarray) -> np.ndarray:
    """`(..., 17)` scores by `FRACTIONS` to `(...)` areas: the mean score, by trapezoids."""
    return np.asarray(np.trapezoid(curves, FRACTIONS, axis=-1))


def _batches(hidden: Hidden, ranks: np.ndarray) -> Iterator[list[CxrImage]]:
    """The pictures between the ends, deleted and inserted in turn."""
    batch = []
    for fraction in FRACTIONS[1:-1]:
        first = ranks < round(fraction * ranks.size)
        batch += [hidden.without(first), hidden.without(~first)]
        if len(batch) >= _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def fill_of(word: object) -> Fill:
    """What the maps' folder says of how it hid their regions; a blurred picture where it says nothing."""
    return "grey" if word == "grey" else "blur"
