"""The vessels of the lungs: two trees that fork from the hila outwards, the same ones in every study of a patient."""

from __future__ import annotations

import math

import numpy as np

from cxr_embed.phantom.cage import Cage
from cxr_embed.phantom.frame import CYLINDER, Frame, ribbon

_STEMS = 11  # branches that leave a hilum
_FORKS = 6
_LENGTH, _SHORTER = 40.0, 0.8
# Radii shrink by the cube root of 1/2 at a fork (Murray, 1926): the work of flow is least.
_RADIUS, _THINNER = 3.0, 0.5 ** (1 / 3)
HILUM = 0.44  # of the heart's height


def hilum(cage: Cage, side: int) -> np.ndarray:
    """`(3,)`: where the vessels enter a lung; the left one lies higher."""
    return np.array((side * 36.0, HILUM * cage.heart_height - (8.0 if side > 0 else 0.0), -5.0))


def vessels(frame: Frame, cage: Cage) -> np.ndarray:
    """`(S, S)` float32: mm of blood along each ray within the lungs."""
    rng = np.random.default_rng(cage.anatomy.tree)
    trees = [_tree(cage, side, rng) for side in (-1, 1)]
    image = np.zeros((frame.size, frame.size), dtype=np.float32)
    pieces = _trunks(cage)
    for levels in (slice(0, 2), slice(2, 4), slice(4, None)):
        branches = [branch for tree in trees for branch in tree[levels]]
        pieces += [_pieces(start, end, radius, frame.pixel) for start, end, radius in branches]
        points, volumes = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
        image += frame.splat(points, volumes, max(0.45 * branches[0][2], 0.55 * frame.pixel))
        pieces = []
    return image


def _trunks(cage: Cage) -> list[tuple[np.ndarray, np.ndarray]]:
    """The pulmonary arteries where they leave the mediastinum; the right one's lower branch is longer."""
    right = hilum(cage, -1) + np.array([(14.0, -14, 0), (-4, -2, -3), (-14, 48, -10)])
    left = hilum(cage, 1) + np.array([(-14.0, -8, 5), (4, -10, -3), (12, 24, -15)])
    return [ribbon(right, np.array([8.0, 7.5, 4]), 6.5 * CYLINDER), ribbon(left, np.array([8.0, 8, 4]), 7 * CYLINDER)]


Level = tuple[np.ndarray, np.ndarray, float]


def _tree(cage: Cage, side: int, rng: np.random.Generator) -> list[Level]:
    """Each level's starts and ends, `(N, 3)`, and their radius."""
    angles = np.linspace(-1.35, 1.3, _STEMS) + rng.normal(0, 0.1, _STEMS)
    scale = cage.anatomy.width / 140
    heading = np.stack([side * np.cos(angles), np.sin(angles) * 1.1, rng.normal(0, 0.45, _STEMS)], axis=1)
    start = hilum(cage, side) + heading * 6
    levels: list[Level] = []
    length, radius = _LENGTH * scale, _RADIUS
    for _ in range(_FORKS + 1):
        heading = heading / np.linalg.norm(heading, axis=1, keepdims=True)
        end = start + heading * (length * rng.uniform(0.7, 1.3, (len(start), 1)))
        levels.append((start, end, radius))
        turn = rng.normal(0, 0.12, (2, len(start), 3)) + _sideways(heading, rng)
        heading = (heading[None] + turn).reshape(-1, 3)
        start = np.concatenate([end, end])
        length, radius = length * _SHORTER, radius * _THINNER
    return levels


def _sideways(heading: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`(2, N, 3)`: two opposite turns of some 30 degrees at right angles to each heading."""
    any_way = np.cross(heading, rng.standard_normal(heading.shape))
    any_way /= np.linalg.norm(any_way, axis=1, keepdims=True) + 1e-9
    return np.stack([any_way, -any_way]) * rng.uniform(0.35, 0.65, (1, len(heading), 1))


def _pieces(start: np.ndarray, end: np.ndarray, radius: float, pixel: float) -> tuple[np.ndarray, np.ndarray]:
    """Straight vessels as pieces for `Frame.splat`."""
    lengths = np.linalg.norm(end - start, axis=1)
    count = max(4, int(lengths.max() / (1.3 * pixel)))
    share = (np.arange(count) + 0.5) / count
    points = start[:, None, :] + (end - start)[:, None, :] * share[None, :, None]
    volumes = np.repeat(math.pi * radius**2 * lengths / count, count)
    return points.reshape(-1, 3), volumes
