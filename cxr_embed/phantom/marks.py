"""What the room leaves on an image: the collimator's edge and the side marker. Neither goes with view or findings."""

from __future__ import annotations

import numpy as np

_LETTERS = {
    "L": ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
    "R": ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
}


def finish(shown: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Puts a marker of lead beside a shoulder and, in four of ten images, the edge of the collimator.

    Args:
        shown: `(S, S)` from 0 to 1; changed in place.
        rng: of the room.
    """
    size = shown.shape[0]
    letter = "L" if rng.random() < 0.6 else "R"
    dot = max(1, round(size * rng.uniform(0.005, 0.008)))
    glyph = np.kron(np.array([[int(c) for c in row] for row in _LETTERS[letter]]), np.ones((dot, dot)))
    top = int(size * rng.uniform(0.05, 0.16))
    # The marker stands on the patient's side that it names; the patient's left is the image's right.
    inset = int(size * rng.uniform(0.04, 0.08))
    left = size - inset - glyph.shape[1] if letter == "L" else inset
    field = shown[top : top + glyph.shape[0], left : left + glyph.shape[1]]
    field[...] = np.maximum(field, glyph * rng.uniform(0.85, 1.0))
    if rng.random() < 0.4:
        first, last = rng.uniform(0, 0.035, 2), rng.uniform(0.965, 1, 2)
        rows, columns = (slice(int(size * a), int(size * b)) for a, b in zip(first, last, strict=True))
        inside = np.zeros(shown.shape, dtype=bool)
        inside[rows, columns] = True
        shown[~inside] = 0.0
    return shown
