"""Bone: ribs, clavicles, scapulae, arms and spine, as many small pieces of cortical bone in space."""

from __future__ import annotations

import math

import numpy as np

from cxr_embed.phantom.cage import Cage
from cxr_embed.phantom.frame import Frame, ribbon, spline
from cxr_embed.phantom.physics import View

Pieces = tuple[np.ndarray, np.ndarray]
_RIBS = 10  # pairs that a chest radiograph shows well
_RIB_HEIGHT = 12.0
# Cortical bone that a ray meets in a rib: two walls of about 1 mm and trabeculae; more along its borders.
_RIB_FACE, _RIB_BORDER = 3.3, 5.6


def bones(frame: Frame, cage: Cage, rng: np.random.Generator) -> np.ndarray:
    """`(S, S)` float32: mm of cortical bone along each ray."""
    own = np.random.default_rng(cage.anatomy.tree)
    pieces = [ribs(cage, own, frame.pixel), spine(cage, frame.pixel)]
    for side in (-1.0, 1.0):
        pieces += [clavicle(cage, side, frame.view), *scapula(cage, side, frame.view, rng), humerus(cage, side)]
    return frame.splat(*_joined(pieces), 1.1) * cage.anatomy.bone


def _joined(pieces: list[Pieces]) -> Pieces:
    points, volumes = zip(*pieces, strict=True)
    return np.concatenate(points), np.concatenate(volumes)


def ribs(cage: Cage, rng: np.random.Generator, pixel: float) -> Pieces:
    """All ribs: bands on an inclined ellipse, from the spine around to where cartilage begins."""
    anatomy = cage.anatomy
    # Pieces two pixels apart leave no trace: they are spread over more than that.
    along = np.linspace(0, 1, int(180 / pixel))
    height = np.linspace(-1, 1, max(6, int(_RIB_HEIGHT / (1.8 * pixel))))
    points, volumes = [], []
    for number in range(1, _RIBS + 1):
        head = -16.0 + (number - 1) * 0.1 * anatomy.height + rng.normal(0, 0.8)
        drop = float(np.interp(number, (1, 3, 6, 10), (44, 86, 128, 130))) * (anatomy.height / 235)
        start_width = float(cage.outer(np.array(max(6.0, head + 0.2 * drop))))
        end = math.radians(float(np.interp(number, (1, 5, 8, 10), (140, 146, 138, 115))))
        start = math.asin(min(0.9, 22.0 / start_width))
        angle = start + (end - start) * along
        level = head + drop * (0.45 * angle / math.pi + 0.55 * (1 - np.cos(angle)) / 2)
        # Ribs lie on the lungs' outer wall, so at the side they run down along it.
        wide = cage.outer(np.maximum(level, 2.0)) + 3
        deep = cage.half_depth(np.maximum(level, 2.0)) + 5
        middle = np.stack([wide * np.sin(angle), level, -deep * np.cos(angle)], axis=1)
        outward = np.stack([np.sin(angle), np.zeros_like(angle), -np.cos(angle)], axis=1)
        upward = np.cross(outward, np.gradient(middle, axis=0))
        upward /= np.linalg.norm(upward, axis=1, keepdims=True)
        length = float(np.linalg.norm(np.diff(middle, axis=0), axis=1).sum()) / len(along)
        # The front end fades into cartilage.
        face = np.where(np.abs(height) > 0.7, _RIB_BORDER, _RIB_FACE)[None, :] * np.clip((1 - along) * 8, 0, 1)[:, None]
        size = _RIB_HEIGHT * float(np.interp(number, (1, 2, 10), (1.1, 1.0, 0.95))) * (0.85 + 0.3 * along)
        for side in (-1.0, 1.0):
            band = middle[:, None, :] + upward[:, None, :] * (height * size[:, None] / 2)[:, :, None]
            for wall in (-2.2, 2.2):
                points.append(((band + wall * outward[:, None, :]) * (side, 1, 1)).reshape(-1, 3))
                volumes.append((face * (length * size[:, None] / len(height) / 2)).ravel())
    return _joined(list(zip(points, volumes, strict=True)))


def _shell(path: np.ndarray, radius: float, wall: float) -> Pieces:
    """A hollow bone along a path: its walls are seen edge on at both sides, and face on between."""
    return ribbon(path, radius, np.where(np.abs(np.linspace(-1, 1, 9)) > 0.7, 3.0, 1.6) * wall)


def clavicle(cage: Cage, side: float, view: View) -> Pieces:
    """An S from the sternum to the shoulder; it lies before the lungs, so a lordotic tube lifts it over them."""
    reach = cage.anatomy.width + 22
    front = 0.72 * cage.anatomy.depth
    lift = 6.0 if view == "PA" else 16.0  # arms at the bedside hang less forward than hands on hips
    corners = [(0.09, 40, 1.0), (0.3, 33, 1.1), (0.55, 16, 0.75), (0.8, -lift, 0.2), (1.0, -lift, 0.1)]
    path = np.array([(side * reach * a, y, front * z) for a, y, z in corners])
    return _shell(spline(path, 60), 5.5, 3.0)


def scapula(cage: Cage, side: float, view: View, rng: np.random.Generator) -> list[Pieces]:
    """A thin blade with thick borders: turned off the lungs for a PA view, over them at the bedside."""
    width = cage.anatomy.width
    shift = 14.0 if view == "PA" else -16.0
    shift += rng.normal(0, 5)
    back = -cage.anatomy.depth * 0.9
    socket = np.array((width + 28 + 0.3 * shift, 22.0, back * 0.3))
    upper = np.array((0.78 * width + shift, 4.0, back))
    lower = np.array((0.93 * width + shift, 148.0, back))
    inner = np.array((0.74 * width + shift, 50.0, back))
    tip = np.array((width + 20, -12.0, back * 0.1))
    mirror = np.array((side, 1, 1))
    weights = rng.dirichlet((1, 1, 1), 3000)
    blade = weights @ np.stack([socket, upper, lower])
    edges = [
        _shell(np.stack([socket, lower]) * mirror, 3.5, 2.0),
        _shell(np.stack([upper, inner, lower]) * mirror, 1.5, 1.4),
        _shell(np.stack([inner, tip]) * mirror, 4.0, 1.8),
        _shell(np.stack([upper, socket]) * mirror, 2.0, 0.7),
    ]
    area = 0.5 * float(np.linalg.norm(np.cross(upper - socket, lower - socket)))
    return [(blade * mirror, np.full(len(blade), area * 1.8 / len(blade))), *edges]


def humerus(cage: Cage, side: float) -> Pieces:
    """Head and shaft of the upper arm's bone."""
    shoulder = cage.anatomy.width + 44
    path = np.array([(side * shoulder, 22.0, 0), (side * (shoulder + 14), 60.0, 0), (side * (shoulder + 45), 250.0, 0)])
    shaft, shaft_volumes = _shell(path, 11.0, 2.2)
    grid = np.linspace(-1, 1, 41)
    u, v = (a.ravel() for a in np.meshgrid(grid, grid))
    inside = u * u + v * v < 1
    u, v = u[inside], v[inside]
    head = np.stack([side * shoulder + 23 * u, 18 + 23 * v, np.zeros(len(u))], axis=1)
    # Trabecular bone: about a fifth of its volume is mineralised.
    volumes = np.sqrt(1 - u * u - v * v) * 46 * 0.2 * (23 * 0.05) ** 2
    return np.concatenate([shaft, head]), np.concatenate([shaft_volumes, volumes])


def spine(cage: Cage, pixel: float) -> Pieces:
    """Vertebral bodies with their end plates, pedicles and spinous processes, from the neck to the loin."""
    anatomy = cage.anatomy
    pitch = 0.1 * anatomy.height
    parts: list[Pieces] = []
    step = max(1.0, 1.5 * pixel)
    for number in range(-4, 17):
        center = -16.0 + number * pitch
        half = float(np.interp(number, (-4, 0, 16), (11, 14, 21)))
        x, y = np.meshgrid(np.arange(-half, half + step, step), np.arange(-0.5 * pitch, 0.5 * pitch, step))
        x, y = x.ravel(), y.ravel()
        bend = anatomy.spine_bend * np.sin(np.pi * np.clip((center + y) / anatomy.height, -0.2, 1.2))
        disc = np.abs(y) > 0.42 * pitch
        plate = (np.abs(y) > 0.34 * pitch) & ~disc
        waist = half * (0.86 + 0.14 * (2 * y / pitch) ** 2)
        depth = 4.5 + 2.5 * plate + 3.5 * (np.abs(x) > waist - 2.0)
        depth = np.where(disc, 3.0, depth) * (np.abs(x) <= waist)
        for at in (-0.62, 0.62):
            ring = np.hypot((x - at * half) / 3.2, (y + 0.12 * pitch) / 5.0)
            depth += 3.5 * np.exp(-((ring - 1) ** 2) * 6)
        thorn = np.hypot(x / 3.0, (y - 0.25 * pitch) / 6.0)
        depth += 4.0 * np.exp(-(thorn**2))
        place = np.stack([x + bend, center + y, np.full(len(x), -0.55 * anatomy.depth)], axis=1)
        parts.append((place, depth * step * step))
    return _joined(parts)
