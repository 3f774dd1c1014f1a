"""The outlines that everything else is hung on: chest wall, mediastinum, diaphragm, borders of the heart."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.interpolate import PchipInterpolator

from cxr_embed.phantom.patient import Anatomy

APEX = 52.0  # mm from the midline to the top of a lung
HEART_DEPTH = 25.0  # mm that the heart's widest part lies before the middle plane
# Borders as a radiograph shows them, from top to bottom: share of the lungs' height, mm from the midline. Left: the
# subclavian artery, the aortic arch, the pulmonary trunk. Right: the superior vena cava.
_VESSELS_LEFT = (
    (-0.5, 18),
    (-0.1, 22),
    (0.1, 26),
    (0.19, 31),
    (0.25, 34),
    (0.3, 34),
    (0.36, 30),
    (0.43, 34),
    (0.5, 37),
)
_VESSELS_RIGHT = ((-0.5, 16), (-0.1, 19), (0.1, 23), (0.3, 27), (0.5, 28), (0.7, 24))
# The heart's own borders: share of the height, share of its greatest distance from the midline. Left: the ventricle;
# right: the atrium.
_HEART_LEFT = (
    (0.4, 0.2),
    (0.48, 0.46),
    (0.57, 0.7),
    (0.67, 0.88),
    (0.77, 0.98),
    (0.84, 1.0),
    (0.96, 0.98),
    (1.15, 0.9),
)
_HEART_RIGHT = (
    (0.4, 0.4),
    (0.47, 0.72),
    (0.55, 0.92),
    (0.65, 1.0),
    (0.76, 0.99),
    (0.88, 0.88),
    (1.0, 0.75),
    (1.2, 0.5),
)


@dataclass(frozen=True)
class Cage:
    """A chest at one breath.

    Attributes:
        anatomy: of the patient.
        inspiration: height of the lungs against full inspiration.
        ctr: cardiothoracic ratio in truth, without magnification.
    """

    anatomy: Anatomy
    inspiration: float
    ctr: float

    @property
    def bottom(self) -> float:
        """y of the right dome's top."""
        return self.anatomy.height * self.inspiration

    @property
    def heart_height(self) -> float:
        """The height that the mediastinum stretches over: it gives way to half of a shallow breath."""
        return (self.anatomy.height + self.bottom) / 2

    def outer(self, y: np.ndarray) -> np.ndarray:
        """Half of the inner chest's width at y; a dome at the top, 0 above it."""
        down = np.clip(y / self.anatomy.height, 0, 1)
        width = APEX + (self.anatomy.width - APEX) * np.sqrt(1 - (1 - down) ** self.anatomy.taper)
        return np.where(y > 0, width, 1e-3)

    def inner(self, y: np.ndarray) -> np.ndarray:
        """Where a lung ends towards the midline, heart and vessels aside."""
        core = 17.0
        top = np.clip(y / 22.0, 0, 1)
        return core + (APEX - core) * (1 - np.sqrt(1 - (1 - top) ** 2))

    def half_depth(self, y: np.ndarray) -> np.ndarray:
        """Half of the inner chest's depth at y."""
        down = np.clip(y / (0.55 * self.anatomy.height), 0, 1)
        return self.anatomy.depth * (0.3 + 0.7 * np.sqrt(1 - (1 - down) ** 2))

    def top_of_dome(self, x: np.ndarray) -> np.ndarray:
        """y that the diaphragm reaches on the side of x."""
        return self.bottom + self.anatomy.left_dome * np.clip(x / 30 + 0.5, 0, 1)

    def dome(self, x: np.ndarray) -> np.ndarray:
        """y of the diaphragm's top at x: two domes, steep towards the ribs."""
        across = np.abs(x) / self.anatomy.width
        lateral = np.clip((across - 0.52) / 0.48, 0, 1)
        medial = np.clip((0.52 - across) / 0.52, 0, 1)
        drop: np.ndarray = 55 * (1 - np.sqrt(1 - lateral**2)) + 6 * (1 - np.sqrt(1 - medial**2))
        drop += self.top_of_dome(x)
        return drop

    @cached_property
    def heart_reach(self) -> tuple[float, float]:
        """The heart's greatest distance left and right of the midline."""
        width = 2 * self.anatomy.width * self.ctr
        return width * self.anatomy.heart_shape, width * (1 - self.anatomy.heart_shape)

    def borders(self, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """x of the left and right border of heart and vessels at y; left is positive."""
        down = y / self.heart_height
        left, right = self.heart_reach
        arch = self.anatomy.aorta
        trunk = tuple((at, mm * (1 + (arch - 1) * float(0.15 < at < 0.33))) for at, mm in _VESSELS_LEFT)
        left_border = np.maximum(_curve(trunk, down), left * _curve(_HEART_LEFT, down))
        right_border = np.maximum(_curve(_VESSELS_RIGHT, down), right * _curve(_HEART_RIGHT, down))
        return left_border, -right_border

    def place(self, side: int, across: float, down: float) -> tuple[float, float]:
        """x and y of a place in a lung.

        Args:
            side: 1 for the patient's left, -1 for the right.
            across: 0 at the mediastinum, 1 at the ribs.
            down: 0 at the top, 1 at the diaphragm.
        """
        y = np.array(down * (self.bottom - 12.0) + 8.0)
        left, right = self.borders(y)
        near = max(float(self.inner(y)), float(left if side > 0 else -right))
        far = float(self.outer(y))
        return side * (near + across * (far - near)), float(y)


def _curve(corners: tuple[tuple[float, float], ...], at: np.ndarray) -> np.ndarray:
    """A smooth line through corners that does not overshoot, level beyond its ends."""
    places, values = zip(*corners, strict=True)
    smooth: np.ndarray = PchipInterpolator(places, values)(np.clip(at, places[0], places[-1]))
    return smooth
