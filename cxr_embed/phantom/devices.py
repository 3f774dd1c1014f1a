"""Support devices: tubes, lines and a pacemaker, where they are meant to lie."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cxr_embed.phantom.cage import Cage
from cxr_embed.phantom.findings import PhantomFinding
from cxr_embed.phantom.frame import Frame, spline, tube
from cxr_embed.phantom.thorax import CARINA, Chest

Path = tuple[np.ndarray, float]  # corners in mm, and a radius


def device(chest: Chest, frame: Frame, cage: Cage, finding: PhantomFinding) -> np.ndarray:
    """Lays a device into a chest and says where it is seen."""
    rng = np.random.default_rng(finding.seed)
    side = 1 if finding.side == "left" else -1
    paths = {
        "endotracheal tube": _endotracheal,
        "central venous catheter": _central_line,
        "pacemaker": _pacemaker,
        "enteric tube": _enteric,
        "chest tube": _chest_tube,
    }[finding.kind](cage, side, rng)
    pieces = [tube(spline(corners, 80), radius, frame.pixel / 2) for corners, radius in paths]
    points, volumes = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    metal = np.minimum(frame.splat(points, volumes, 0.6), 6.0)
    if finding.kind == "pacemaker":
        metal += _generator(frame, cage, rng)
    chest.metal += metal
    seen: np.ndarray = ndimage.maximum_filter(metal, 3) > 0.08
    return seen


def _endotracheal(cage: Cage, _: int, rng: np.random.Generator) -> list[Path]:
    """Its tip 2 to 5 cm above the carina; both walls and the opaque stripe."""
    tip = CARINA * cage.heart_height - rng.uniform(20, 50)
    walls = [
        (np.array([(at, -130.0, 4), (at, -40, 0), (at, tip, -5)]), radius) for at, radius in ((-4, 0.25), (4, 0.25))
    ]
    return [*walls, (np.array([(1.5, -130.0, 4), (1.5, -40, 0), (1.5, tip, -5)]), 0.75)]


def _central_line(cage: Cage, side: int, rng: np.random.Generator) -> list[Path]:
    """From the jugular or subclavian vein to where the superior vena cava meets the atrium."""
    tip = (-24.0, (0.42 + rng.uniform(-0.06, 0.08)) * cage.heart_height, 15)
    if rng.random() < 0.5:
        start = [(side * 42.0, -110.0, 25), (side * 36, -45, 25), (side * 26, 5, 25)]
    else:
        start = [(side * 115.0, 62.0, 45), (side * 95, 18, 40), (side * 40, 24, 30)]
    middle = [(-8.0, 38.0, 25)] if side > 0 else []
    return [(np.array([*start, *middle, (-26, 0.26 * cage.heart_height, 20), tip]), 0.7)]


def _pacemaker(cage: Cage, _: int, rng: np.random.Generator) -> list[Path]:
    """Leads from the generator through the subclavian vein to the right ventricle and atrium."""
    left, right = cage.heart_reach
    low = cage.heart_height * rng.uniform(0.84, 0.92)
    shared = [(98.0, 62.0, 70), (80, 26, 60), (34, 26, 30), (-16, 46, 20), (-26, 0.36 * cage.heart_height, 15)]
    ventricle = [*shared, (-0.5 * right, 0.74 * cage.heart_height, 20), (0.1 * left, low, 30), (0.55 * left, low, 35)]
    atrium = [*shared, (-0.72 * right, 0.66 * cage.heart_height, 25), (-0.5 * right, 0.56 * cage.heart_height, 35)]
    return [(np.array(ventricle), 0.55), (np.array(atrium), 0.55)]


def _generator(frame: Frame, cage: Cage, rng: np.random.Generator) -> np.ndarray:
    """mm of metal of a box of some 5 x 4 cm under the left clavicle; thinner where the battery is not."""
    x, y = frame.axes(cage.anatomy.depth)
    across, down = (x - 100 - rng.normal(0, 4)) / 23, (y - 62 - rng.normal(0, 5)) / 20
    edge = 1 - np.maximum(np.abs(across), np.abs(down)) ** 4 * 0.5 - (across**2 + down**2) ** 2 * 0.25
    box: np.ndarray = np.clip(edge * 6, 0, 1) * np.where(down < -0.25, 1.2, 3.0)
    return box


def _enteric(cage: Cage, _: int, rng: np.random.Generator) -> list[Path]:
    """Down the gullet into the stomach."""
    level = cage.bottom + cage.anatomy.left_dome
    corners = [
        (3.0, -130.0, 0),
        (2, -20, -15),
        (6, 0.5 * level, -25),
        (14, level, -15),
        (58 + rng.normal(0, 8), level + 52, 0),
    ]
    return [(np.array(corners), 0.7)]


def _chest_tube(cage: Cage, side: int, rng: np.random.Generator) -> list[Path]:
    """Through the lower ribs and up towards the top of the lung; walls and an opaque stripe."""
    low = 0.72 * cage.bottom
    wall = cage.anatomy.width + 24 + cage.anatomy.fat
    top = cage.place(side, rng.uniform(0.45, 0.8), rng.uniform(0.14, 0.3))
    corners = [(side * wall, low + 10, 0), (side * 0.93 * cage.anatomy.width, low - 8, 0)]
    corners += [(side * 0.78 * cage.anatomy.width, 0.5 * (low + top[1]), -30), (*top, -20)]
    middle = np.array(corners)
    aside = np.array((3.0, 0, 0))
    return [(middle - aside, 0.3), (middle + aside, 0.3), (middle, 0.55)]
