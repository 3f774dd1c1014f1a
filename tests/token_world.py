"""Images of many tokens as an encoder might make them, texts that lie far from all of them, and brute force."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors `(..., D)` of length 1."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


@dataclass
class TokenWorld:
    """Tokens of one image are alike: they share its style, and each has its place's offset and one finding.

    Findings are as frequent as words are (1, 1/2, 1/3, ...), so that k-means knows the rare ones badly. A text is a
    finding on the other side of a gap between the modalities (Liang et al., 2022, arXiv 2203.02053): its cosines with
    all tokens are low, and the nearest of them are not near.

    Attributes:
        length, width: `T` and `D`.
        structure: False makes tokens and texts that have nothing in common.
        seed: of all draws.
    """

    length: int = 32
    width: int = 128
    structure: bool = True
    seed: int = 0
    findings: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)
        self._gap, self._places = self._directions(1), self._directions(self.length)
        self.findings, self._styles = self._directions(500), self._directions(300)
        frequency = 1 / np.arange(1, len(self.findings) + 1)
        self._frequency = frequency / frequency.sum()

    def images(self, count: int) -> np.ndarray:
        """`(count, T, D)` float16 tokens of length 1."""
        rng, shape = self._rng, (count, self.length)
        noise = self._noise((*shape, self.width))
        if not self.structure:
            return unit(noise).astype(np.float16)
        style = unit(self._styles[rng.integers(0, len(self._styles), count)] + 0.8 * self._noise((count, self.width)))
        shown = rng.choice(len(self.findings), (count, 4), p=self._frequency)
        strength = rng.uniform(0.3, 1, (count, 4))
        pick = rng.integers(0, 4, shape)
        found = np.take_along_axis(strength, pick, 1)[..., None] * self.findings[np.take_along_axis(shown, pick, 1)]
        tokens = 0.6 * self._gap + 0.5 * self._places + 0.7 * style[:, None] + found + 0.6 * noise
        return unit(tokens).astype(np.float16)

    def texts(self, count: int) -> np.ndarray:
        """`(count, D)` float32 of length 1."""
        noise = self._noise((count, self.width))
        if not self.structure:
            return unit(noise)
        asked = self.findings[self._rng.integers(0, len(self.findings), count)]
        return unit(0.8 * asked - 0.6 * self._gap + 0.5 * noise).astype(np.float32)

    def _directions(self, count: int) -> np.ndarray:
        return unit(self._rng.standard_normal((count, self.width), dtype=np.float32))

    def _noise(self, shape: tuple[int, ...]) -> np.ndarray:
        return self._rng.standard_normal(shape, dtype=np.float32) / np.float32(np.sqrt(self.width))


def brute_force(tokens: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Max-sim of images `(N, T, D)` with texts `(Q, D)` or images `(Q, T, D)`, in float64: `(N, Q)`."""
    wide, asked = unit(tokens.astype(np.float64)), unit(queries.astype(np.float64))
    if asked.ndim == 2:
        asked = asked[:, None]
    return np.stack([(wide @ query.T).max(axis=1).mean(axis=1) for query in asked], axis=1)
