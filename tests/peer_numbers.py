"""Weights and pictures that peers and we are given alike: numbers of a seed, named as a published checkpoint has them.

Golden outputs in `peer_goldens.json` were made from them by the authors' own code (`test_radiograph_models.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from cxr_embed.types import CxrImage


def numbers(shapes: Mapping[str, Iterable[int]], seed: int) -> dict[str, np.ndarray]:
    """Uniform numbers under names: matrices scaled by their inputs, norms' weights near 1, the rest near 0.

    In the order of the names, so that the order of a state dict changes nothing.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for name in sorted(shapes):
        shape = tuple(shapes[name])
        values = 2 * rng.random(shape) - 1
        if name.endswith("logit_scale"):
            values = np.asarray(2 + values / 10)
        elif len(shape) > 1 and not name.endswith(("embed", "embedding", "token", "table")):
            values *= np.sqrt(3 / np.prod(shape[1:]))
        else:
            values = values / 5 + (1 if name.endswith(".weight") and len(shape) == 1 else 0)
        found[name] = values.astype(np.float32)
    return found


def picture(height: int, width: int) -> np.ndarray:
    """`(H, W)` uint8: slopes, waves and a fine pattern, by whole numbers and one cosine."""
    rows, columns = np.mgrid[:height, :width]
    waves = 60 * np.cos(rows / 17) * np.cos(columns / 23)
    grey = 40 + 120 * rows / height + 50 * (columns / width) + waves + (rows * 7 + columns * 13) % 11
    return np.clip(np.floor(grey + 0.5), 0, 255).astype(np.uint8)


def pictures() -> list[CxrImage]:
    """An upright picture and a lying one, larger and smaller than what models take."""
    return [CxrImage(pixels=picture(*shape), bits=8, content_id="", source="png") for shape in ((611, 503), (300, 420))]


def thinned(pixels: np.ndarray) -> list[list[float]]:
    """8 x 8 of the first channel's pixels, for a record: corners, centre and between."""
    rows, columns = (np.linspace(0, length - 1, 8).astype(int) for length in pixels.shape[-2:])
    chosen: np.ndarray = pixels.reshape(-1, *pixels.shape[-2:])[0][np.ix_(rows, columns)]
    return [[round(float(value), 5) for value in row] for row in chosen]
