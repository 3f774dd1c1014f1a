"""What gathers between the lungs and the chest wall: fluid and air."""

from __future__ import annotations

import numpy as np

from cxr_embed.phantom.cage import Cage
from cxr_embed.phantom.findings import PhantomFinding
from cxr_embed.phantom.frame import Frame
from cxr_embed.phantom.thorax import Chest

_IN_LUNG = 4.0  # mm of lung along a ray from which on the change is counted as seen


def _sides(finding: PhantomFinding) -> tuple[int, ...]:
    return {"left": (1,), "right": (-1,), "both": (-1, 1)}[finding.side]


def _step(signed: np.ndarray, soft: float) -> np.ndarray:
    """0 to 1 over some `soft` mm around 0."""
    rising: np.ndarray = np.clip(signed / (4 * soft) + 0.5, 0, 1)
    rising *= rising * (3 - 2 * rising)
    return rising


def effusion(chest: Chest, frame: Frame, cage: Cage, finding: PhantomFinding) -> np.ndarray:
    """Fluid: upright a meniscus that climbs the chest wall; half sitting, a veil behind the lung as well.

    The smallest one hides the costophrenic angle alone (some 200 ml, PA), the largest reaches the upper lung.
    """
    x, y = frame.axes()
    across = np.abs(x)
    seen = np.zeros(chest.lungs.shape, dtype=bool)
    angle = float(cage.dome(np.array(cage.anatomy.width)))
    top = angle - (50 + 120 * finding.severity)
    wall = cage.outer(y).astype(np.float32)
    climb = 38 * (1 - np.exp(-np.maximum(wall - across, 0) / 26))
    share = _step(y - top - climb, 3.0)
    if frame.view == "AP":
        layer = (0.2 + 0.35 * finding.severity) * np.clip((y - top + 80) / 110, 0, 1)
        share = np.maximum(share, layer)
    for side in _sides(finding):
        here = share * (x * side > 0)
        seen |= (here > 0.5 if frame.view == "PA" else here > 0.3) & (chest.lungs > _IN_LUNG)
        chest.aerated *= 1 - here
        chest.vessels *= 1 - here
    return seen


def pneumothorax(chest: Chest, frame: Frame, cage: Cage, finding: PhantomFinding) -> np.ndarray:
    """Air: the lung has sunk away from the wall, most at the top; beyond its edge, a fine line, are not vessels."""
    (side,) = _sides(finding)
    x, y = frame.axes()
    gap = 14 + 52 * finding.severity
    local = gap * np.interp(y / cage.bottom, (0, 0.5, 1.0), (1.0, 0.8, 0.45))
    edge = np.maximum(cage.outer(y - 1.15 * local) - 0.8 * local, 0).astype(np.float32)
    beyond = x * side - edge
    share = _step(beyond, 0.5) * (x * side > 0)
    free = chest.aerated * share
    chest.gas += free
    chest.aerated -= free
    chest.vessels *= 1 - share
    # What is left of the lung holds the same tissue in less room, and its edge is seen lengthwise.
    lung = 1 - share
    chest.aerated *= 1 - 0.18 * finding.severity * lung * (x * side > 0)
    line = np.exp(-((beyond / 0.9) ** 2)) * (x * side > 0)
    chest.gas -= np.minimum(chest.gas, 7 * line * (chest.lungs > 12))
    return (share > 0.5) & (chest.lungs > _IN_LUNG)
