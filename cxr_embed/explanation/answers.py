"""An encoder's answers of pictures that are changed as they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cxr_embed.encoders import CheckedEncoder
from cxr_embed.types import CxrImage

_BATCH = 8


def answers_of(encoder: CheckedEncoder, images: Sequence[CxrImage]) -> dict[str, np.ndarray]:
    """An encoder's answer of some pictures, batch by batch."""
    parts = []
    for start in range(0, len(images), _BATCH):
        inputs = [encoder.preprocess(image) for image in images[start : start + _BATCH]]
        alike = len({(given.shape, given.dtype) for given in inputs}) == 1
        parts.append(encoder.embed(np.stack(inputs) if alike else inputs))
    return {output: np.concatenate([part[output] for part in parts]) for output in parts[0]}
