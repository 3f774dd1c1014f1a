"""What findings of heart and lungs do to the maps of a chest, and where they are seen."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cxr_embed.phantom.cage import Cage
from cxr_embed.phantom.devices import device
from cxr_embed.phantom.findings import PhantomFinding
from cxr_embed.phantom.frame import Frame, spline, tube
from cxr_embed.phantom.physics import enlarge
from cxr_embed.phantom.pleura import effusion, pneumothorax
from cxr_embed.phantom.thorax import Chest
from cxr_embed.phantom.vessels import hilum

_CALCIUM = 0.14  # of a nodule is mineral, as in many granulomas: they would be hard to see without
_IN_LUNG = 6.0  # mm of lung along a ray from which on a lesion there is counted as seen


def apply_finding(chest: Chest, frame: Frame, cage: Cage, finding: PhantomFinding) -> np.ndarray:
    """Puts a finding into a chest.

    Returns:
        `(S, S)` bool: where it is seen.
    """
    put = _PUT[finding.name]
    return put(chest, frame, cage, finding)


def _cardiomegaly(chest: Chest, _frame: Frame, _cage: Cage, _finding: PhantomFinding) -> np.ndarray:
    """The cage was made with a large heart already; what is seen of it is its silhouette."""
    return chest.heart.copy()


def _focal(chest: Chest, frame: Frame, cage: Cage, finding: PhantomFinding) -> np.ndarray:
    """A nodule or mass: a lobulated ball of soft tissue; a mass is rougher and has spicules."""
    rng = np.random.default_rng(finding.seed)
    depth = rng.uniform(-0.45, 0.45) * cage.anatomy.depth
    center_x, center_y = cage.place(1 if finding.side == "left" else -1, finding.across, finding.down)
    x, y = frame.axes(depth)
    dx, dy = x - center_x, y - center_y
    angle = np.arctan2(dy, dx)
    rough = 0.06 if finding.name == "Nodule" else 0.12
    outline = np.ones_like(angle)
    for wave in range(2, 6):
        outline += rough / wave**0.5 * rng.normal() * np.cos(wave * angle + rng.uniform(0, 2 * np.pi))
    if finding.name == "Mass":
        outline += 0.05 * np.cos(rng.integers(11, 17) * angle + rng.uniform(0, 2 * np.pi))
    radius = finding.diameter_mm / 2
    inside = 1 - (dx * dx + dy * dy) / (radius * outline) ** 2
    chord = np.minimum(2 * radius * np.sqrt(np.maximum(inside, 0)), chest.aerated)
    chest.aerated -= chord
    if finding.name == "Nodule":
        chest.bone += _CALCIUM * chord
    return (inside > 0) & (chest.lungs > _IN_LUNG)


def clouds(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """`(S, S)`: smooth noise of about unit variance, `cells` bumps across."""
    return enlarge(rng.standard_normal((cells, cells)).astype(np.float32), size) * 1.5


def _consolidation(chest: Chest, frame: Frame, cage: Cage, finding: PhantomFinding) -> np.ndarray:
    """Airspace filled with fluid: dense, patchy at its edge, with bronchi that still hold air."""
    rng = np.random.default_rng(finding.seed)
    side = 1 if finding.side == "left" else -1
    center = cage.place(side, finding.across, finding.down)
    x, y = frame.axes()
    radii = 30 + 34 * finding.severity, 24 + 30 * finding.severity
    inside = 1 - ((x - center[0]) / radii[0]) ** 2 - ((y - center[1]) / radii[1]) ** 2
    inside = inside + 0.35 * clouds(rng, frame.size, 14) + 0.14 * clouds(rng, frame.size, 44)
    share = np.clip(inside / 0.95, 0, 1) * (x * side > 0) * (0.55 + 0.3 * finding.severity)
    filled = chest.aerated * share
    chest.aerated -= filled
    start = hilum(cage, side)
    tubes = []
    for _ in range(5):
        end = np.array([*center, start[2]]) + rng.normal(0, 0.6, 3) * (*radii, 10)
        bend = (start + end) / 2 + rng.normal(0, 6, 3)
        tubes.append(tube(spline(np.stack([start, bend, end]), 24), np.linspace(2.6, 1.3, 24), frame.pixel / 2))
    points, volumes = (np.concatenate(parts) for parts in zip(*tubes, strict=True))
    chest.gas += np.minimum(frame.splat(points, volumes, 0.9), 6) * np.minimum(share * 1.5, 1)
    return (share > 0.25) & (chest.lungs > _IN_LUNG)


def _edema(chest: Chest, frame: Frame, cage: Cage, finding: PhantomFinding) -> np.ndarray:
    """Fluid around the hila of both lungs, wide vessels, and septal (Kerley B) lines at the lower ribs."""
    rng = np.random.default_rng(finding.seed)
    x, y = frame.axes()
    haze = np.zeros_like(chest.lungs)
    for side in (-1, 1):
        at = hilum(cage, side)
        far = ((np.abs(x) - abs(at[0]) - 12) / 52) ** 2 + ((y - at[1] - 22) / 72) ** 2
        haze += np.exp(-far) * (x * side > 0)
    haze = haze + 0.25 * np.clip(y / cage.bottom - 0.4, 0, 0.6)
    haze *= 1 + 0.2 * clouds(rng, frame.size, 24) + 0.12 * clouds(rng, frame.size, 64)
    share = np.clip(haze, 0, 1.1) * (0.2 + 0.36 * finding.severity)
    chest.aerated *= 1 - share
    chest.vessels *= 1.3 + 0.5 * finding.severity
    lines = []
    for side in (-1, 1):
        for _ in range(8):
            down = rng.uniform(0.72, 1.02) * cage.bottom
            edge = float(cage.outer(np.array(down))) - 3
            path = np.array([(side * (edge - rng.uniform(10, 20)), down + rng.normal(0, 1), 0), (side * edge, down, 0)])
            lines.append(tube(path, 0.9, frame.pixel / 2))
    points, volumes = (np.concatenate(parts) for parts in zip(*lines, strict=True))
    septa = np.minimum(frame.splat(points, volumes * 3, 0.5), chest.aerated)
    chest.aerated -= septa * np.clip(finding.severity * 2, 0.3, 1)
    return (haze > 0.35) & (chest.lungs > _IN_LUNG)


_PUT: dict[str, Callable[[Chest, Frame, Cage, PhantomFinding], np.ndarray]] = {
    "Cardiomegaly": _cardiomegaly,
    "Effusion": effusion,
    "Pneumothorax": pneumothorax,
    "Nodule": _focal,
    "Mass": _focal,
    "Consolidation": _consolidation,
    "Edema": _edema,
    "Support Devices": device,
}
