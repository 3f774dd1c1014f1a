"""The detector as a camera: where a point of the patient lands, and which plane a pixel looks at.

A patient's axes, in mm: x to the patient's left (the image's right), y down from the top of the lungs, z forward from
the middle of the chest.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.interpolate import CubicSpline

from cxr_embed.phantom.physics import BEAMS, Beam, View


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One exposure's geometry.

    Attributes:
        size: pixels on a side.
        field: mm on a side of the detector.
        center: x and y where the central ray meets the patient's middle plane.
        half_depth: of the patient: from the middle plane to the skin.
        tilt: of the tube in radians; above 0 what lies in front moves up (a lordotic view).
        yaw: of the patient in radians; above 0 what lies in front moves to the image's left.
    """

    size: int
    field: float
    center: tuple[float, float]
    half_depth: float
    view: View
    tilt: float
    yaw: float = 0.0

    @property
    def beam(self) -> Beam:
        """How this view is exposed."""
        return BEAMS[self.view]

    @property
    def pixel(self) -> float:
        """Side of a pixel on the detector."""
        return self.field / self.size

    def magnification(self, z: np.ndarray | float) -> np.ndarray:
        """How much larger a thing at depth z is on the detector: distance over distance less its own."""
        front = z if self.view == "AP" else -np.asarray(z)
        return np.asarray(self.beam.distance / (self.beam.distance - (self.half_depth + self.beam.gap + front)))

    def axes(self, z: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """x `(1, S)` and y `(S, 1)` of the pixels in the plane at depth z, float32."""
        offset = (np.arange(self.size, dtype=np.float32) + 0.5 - self.size / 2) * (self.pixel / self.magnification(z))
        x, y = self.center[0] + offset + z * math.tan(self.yaw), self.center[1] + offset + z * math.tan(self.tilt)
        return x[None, :].astype(np.float32), y[:, None].astype(np.float32)

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`(N, 3)` points to rows, columns (`(N,)`, in pixels) and magnifications."""
        large = self.magnification(points[:, 2])
        down = points[:, 1] - self.center[1] - points[:, 2] * math.tan(self.tilt)
        rows = down * large / self.pixel + self.size / 2 - 0.5
        aside = points[:, 0] - self.center[0] - points[:, 2] * math.tan(self.yaw)
        columns = aside * large / self.pixel + self.size / 2 - 0.5
        return rows, columns, large

    def splat(self, points: np.ndarray, volumes: np.ndarray, blur: float = 0.0) -> np.ndarray:
        """Path lengths through many small pieces of matter.

        Args:
            points: `(N, 3)` where the pieces are; closer together than a pixel, or than `blur`.
            volumes: `(N,)` cubic mm of each.
            blur: mm over which each piece is spread.

        Returns:
            `(S, S)` float32: mm along the ray to each pixel.
        """
        # Half of the memory is half of the time here; a float32 tells a hundredth of a pixel.
        rows, columns, large = self.project(points.astype(np.float32))
        lengths = volumes.astype(np.float32) * (large / self.pixel) ** 2
        last = self.size - 1
        lengths *= (rows >= 0) & (columns >= 0) & (rows < last) & (columns < last)
        top = np.clip(rows, 0, last - 1).astype(np.int32)
        left = np.clip(columns, 0, last - 1).astype(np.int32)
        lower, right = lengths * (rows - top), columns - left
        upper, at = lengths - lower, top * self.size + left
        flat = np.zeros(self.size**2)
        corners = (upper * (1 - right), 0), (upper * right, 1), (lower * (1 - right), self.size)
        for weights, step in (*corners, (lower * right, self.size + 1)):
            flat[step:] += np.bincount(at, weights, self.size**2)[: self.size**2 - step]
        image = flat.astype(np.float32).reshape(self.size, self.size)
        if blur:
            image = ndimage.gaussian_filter(image, blur / self.pixel, truncate=2.5)
        return image


# What a ray meets in a cylinder of radius 1, from one edge to the other.
CYLINDER = 2 * np.sqrt(1 - np.linspace(-0.94, 0.94, 9) ** 2)


def ellipsoid(
    x: np.ndarray, y: np.ndarray, center: tuple[float, float], radii: tuple[float, float], depth: float
) -> np.ndarray:
    """Path lengths through an ellipsoid: `depth` along the ray through its centre, 0 outside."""
    inside = 1 - ((x - center[0]) / radii[0]) ** 2 - ((y - center[1]) / radii[1]) ** 2
    return depth * np.sqrt(np.maximum(inside, 0))


def spline(path: np.ndarray, count: int) -> np.ndarray:
    """A smooth curve through corners: `(K, 3)` to `(count, 3)`."""
    curve: np.ndarray = CubicSpline(np.linspace(0, 1, len(path)), path)(np.linspace(0, 1, count))
    return curve


def ribbon(path: np.ndarray, radius: np.ndarray | float, face: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A broad thing along a path, as pieces for `Frame.splat`; what counts is what the detector sees of it.

    Args:
        path: `(K, 3)` corners of the middle line.
        radius: half of its breadth, one or `(K,)`.
        face: `(M,)` mm of matter along a ray, from one edge to the other.

    Returns:
        `(N, 3)` points and `(N,)` volumes.
    """
    points, radii, length = _walk(path, radius, 1.5)
    run = np.gradient(points, axis=0)
    across = np.stack([-run[:, 1], run[:, 0], np.zeros(len(run))], axis=1)
    across /= np.linalg.norm(across, axis=1, keepdims=True) + 1e-9
    spread = points[:, None, :] + across[:, None, :] * (np.linspace(-1, 1, len(face))[:, None] * radii[:, None, None])
    volumes = face * (2 * length / len(face)) * radii[:, None]
    return spread.reshape(-1, 3), volumes.ravel()


def tube(path: np.ndarray, radius: np.ndarray | float, step: float) -> tuple[np.ndarray, np.ndarray]:
    """A solid tube along a path, as pieces for `Frame.splat`.

    Args:
        path: `(K, 3)` corners of the middle line.
        radius: of the tube, one or `(K,)`.
        step: at most so far apart are the pieces.

    Returns:
        `(N, 3)` points and `(N,)` volumes.
    """
    points, radii, length = _walk(path, radius, step)
    return points, math.pi * radii**2 * length


def _walk(path: np.ndarray, radius: np.ndarray | float, step: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Points along a path, the radius at each, and the length that each stands for."""
    lengths = np.linalg.norm(np.diff(path, axis=0), axis=1)
    along = np.concatenate([[0.0], np.cumsum(lengths)])
    count = max(2, int(along[-1] / step) + 1)
    at = np.linspace(0, along[-1], count)
    points = np.stack([np.interp(at, along, path[:, k]) for k in range(3)], axis=1)
    return points, np.interp(at, along, np.broadcast_to(radius, along.shape)), float(along[-1]) / count
