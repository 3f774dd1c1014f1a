"""Path lengths through what is soft or air: body, lungs, heart and mediastinum, airways, gas in the abdomen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cxr_embed.phantom.cage import HEART_DEPTH, Cage
from cxr_embed.phantom.frame import CYLINDER, Frame, ellipsoid, ribbon
from cxr_embed.phantom.physics import FAT_SHARE, LUNG_DENSITY, Beam

CARINA = 0.27  # of the lungs' height: the fifth thoracic vertebra


@dataclass(kw_only=True)
class Chest:
    """Maps of one exposure, `(S, S)` float32, mm of soft tissue along the ray unless said otherwise.

    Findings change `aerated`, `gas`, `vessels` and `metal`; the rest stays.

    Attributes:
        body: all that lies within the skin, lungs and gas counted as if they were soft tissue.
        lungs: path through the lungs before any finding.
        aerated: path through lung that still holds air in healthy measure.
        gas: path through air without lung: airways, stomach, pneumothorax.
        vessels: path through the vessels within the lungs.
        bone: path through cortical bone.
        metal: path through a device.
        heart: `(S, S)` bool, its silhouette.
    """

    body: np.ndarray
    lungs: np.ndarray
    aerated: np.ndarray
    gas: np.ndarray
    vessels: np.ndarray
    bone: np.ndarray
    metal: np.ndarray
    heart: np.ndarray

    def attenuation(self, beam: Beam) -> np.ndarray:
        """`(S, S)` float32: what each primary ray loses (Beer-Lambert), in units of its natural logarithm."""
        spared = (1 - LUNG_DENSITY) * np.maximum(self.aerated - self.vessels, 0) + self.gas
        soft = np.maximum(self.body - spared, 0)
        total: np.ndarray = beam.soft * soft + beam.bone * self.bone + beam.metal * self.metal
        return total


def body(frame: Frame, cage: Cage, arm: float) -> np.ndarray:
    """Trunk, shoulders, neck and arms, as if all were soft tissue.

    Args:
        frame: of the exposure.
        cage: of the patient.
        arm: mm that the elbows are held out from the trunk.
    """
    anatomy = cage.anatomy
    x, y = frame.axes()
    across = np.abs(x)
    wall = anatomy.width + 24 + anatomy.fat
    shoulder = max(anatomy.width + 48 + 0.7 * anatomy.fat, wall)
    heights = (-140, -75, -45, -22, 10, 60, 120, 220, 420)
    widths = (56, 58, 84, 0.72 * shoulder, 0.95 * shoulder, shoulder, wall, wall, wall - 6)
    depth = anatomy.depth + 20 + 0.75 * anatomy.fat
    depths = (54, 56, 60, 0.68 * depth, 0.8 * depth, 0.92 * depth, depth, depth, depth + 5)
    half_width, half_depth = np.interp(y, heights, widths), np.interp(y, heights, depths)
    ratio = across / half_width.astype(np.float32)
    inside = np.maximum(1 - ratio * ratio * ratio, 0)
    trunk = 2 * half_depth.astype(np.float32) * np.sqrt(inside)
    # An arm is a cylinder from the shoulder to the elbow.
    top, bottom = (shoulder - 30, 15.0), (wall + 35 + arm, 330.0)
    run, drop = bottom[0] - top[0], bottom[1] - top[1]
    beside = ((across - top[0]) * drop - (y - top[1]) * run) / math.hypot(run, drop)
    radius = 40 + 0.5 * anatomy.fat
    arms = 2 * np.sqrt(np.maximum(radius**2 - beside**2, 0)) * np.clip((y + 25) / 40, 0, 1)
    whole = np.maximum(trunk, arms)
    if anatomy.breast:
        x, y = frame.axes(anatomy.depth + 20)
        radius = anatomy.breast
        center = (0.58 * anatomy.width, 0.72 * anatomy.height + 0.2 * radius)
        whole += _breast(np.abs(x) - center[0], y - center[1], radius)
    whole -= (1 - FAT_SHARE) * np.minimum(whole, 2.4 * anatomy.fat)
    return np.asarray(whole, dtype=np.float32)


def _breast(x: np.ndarray, y: np.ndarray, radius: float) -> np.ndarray:
    """Path through a breast about its centre: it hangs, so its lower edge is sharp and its upper one is not."""
    above = np.maximum(-y / (2.4 * radius), 0)
    inside = np.maximum(1 - (x / (1.15 * radius)) ** 2 - np.maximum(y / (0.8 * radius), 0) ** 2, 0)
    path: np.ndarray = np.sqrt(inside) * np.maximum(1 - above, 0) ** 2
    path *= 0.4 * radius * FAT_SHARE
    return path


def cavity(cage: Cage, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Path through both halves of the chest down to the diaphragm, mediastinum left out but for the heart."""
    across = np.abs(x)
    ratio = across / cage.outer(y).astype(np.float32)
    path: np.ndarray = 2 * cage.half_depth(y).astype(np.float32) * np.sqrt(np.maximum(1 - ratio * ratio * ratio, 0))
    edge = np.clip((across - cage.inner(y).astype(np.float32) + 6) / 26, 0, 1)
    path *= edge * edge * (3 - 2 * edge)
    # Lung reaches down behind the dome: the ray leaves it where it meets the dome's curve.
    shape = np.interp(across / cage.anatomy.width, (0.2, 0.5, 1.0), (12, 48, 22))
    below = np.clip((y - cage.dome(x).astype(np.float32)) / shape.astype(np.float32), 0, 1)
    path *= 1 - np.sqrt(below * (2 - below))
    return path


def heart(frame: Frame, cage: Cage) -> tuple[np.ndarray, np.ndarray]:
    """Path through heart and great vessels, and the heart's silhouette (bool)."""
    x, y = frame.axes(HEART_DEPTH)
    left, right = cage.borders(y)
    middle, half = (left + right) / 2, (left - right) / 2
    across = (x - middle.astype(np.float32)) / half.astype(np.float32)
    down = y / cage.heart_height
    depth = np.interp(down, (0.0, 0.3, 0.5, 0.75, 1.1), (114, 124, 146, 178, 182)) * (cage.anatomy.depth / 85)
    path = depth.astype(np.float32) * np.sqrt(np.maximum(1 - across * across, 0))
    level = cage.top_of_dome(x) + 14
    return path, (np.abs(across) < 1) & (down > 0.4) & (y < level)


def airways(frame: Frame, cage: Cage) -> np.ndarray:
    """Path through the air of the trachea and the main bronchi."""
    fork = CARINA * cage.heart_height
    trachea = np.array([(0, -110.0, 5), (0, 0, -5), (-2, fork, -15)])
    right = np.array([(-2, fork, -15), (-20, fork + 22, -18), (-36, fork + 52, -20)])
    left = np.array([(-2, fork, -15), (25, fork + 28, -20), (44, fork + 46, -22)])
    thin = np.array([7.0, 6.5, 4.0])
    pieces = [ribbon(trachea, 8.5, 8 * CYLINDER), ribbon(right, thin, 6 * CYLINDER), ribbon(left, thin, 5.5 * CYLINDER)]
    points, volumes = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return frame.splat(points, volumes, 1.6)


def stomach(frame: Frame, cage: Cage, rng: np.random.Generator) -> np.ndarray:
    """Path through the gas under the left dome and in the colon; none in some patients."""
    x, y = frame.axes()
    level = cage.bottom + cage.anatomy.left_dome
    gas = np.zeros((frame.size, frame.size), dtype=np.float32)
    for _ in range(int(rng.integers(0, 4))):
        wide = rng.uniform(10, 30)
        center = (rng.uniform(0.3, 0.75) * cage.anatomy.width, level + rng.uniform(14, 32) + 0.5 * wide)
        bubble = ellipsoid(x, y, center, (wide, wide * rng.uniform(0.4, 0.7)), wide)
        gas = np.maximum(gas, bubble)
    return gas
