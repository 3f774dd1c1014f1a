"""Pictures that are no upright frontal chest radiographs, drawn by a program: what the check learns to tell apart."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SIDE = 160
_Y, _X = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
_KINDS = 10


def draw(chests: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """`(count, SIDE, SIDE)` float32 in 0..1.

    Args:
        chests: `(N, SIDE, SIDE)` float32 in 0..1: some are turned, inverted, cut up or enlarged.
        count: of the pictures.
        rng: draws.
    """
    pictures = [_one(chests[rng.integers(len(chests))], int(rng.integers(_KINDS)), rng) for _ in range(count)]
    return np.stack(pictures).astype(np.float32)


def _one(chest: np.ndarray, kind: int, rng: np.random.Generator) -> np.ndarray:
    if kind == 0:
        picture = np.rot90(chest, rng.integers(1, 4))
    elif kind == 1:
        picture = 1 - chest
    elif kind == 2:
        picture = _shuffled(chest, (2, 4, 5, 8)[rng.integers(4)], rng)
    elif kind == 3:
        picture = _enlarged(chest, rng)
    elif kind == 4:
        picture = _cloud(rng)
    elif kind == 5:
        picture = _unit(sum(rng.uniform(-1, 1) * _ellipse(rng) for _ in range(rng.integers(1, 9))) + 0 * _X)
    elif kind == 6:
        picture = _slice(rng)
    elif kind == 7:
        angle = rng.uniform(0, 2 * np.pi)
        slope = np.cos(angle) * _X + np.sin(angle) * _Y + rng.uniform(0, 0.5) * (_X**2 + _Y**2)
        picture = _unit(slope) * (rng.random() < 0.75)
    elif kind == 8:
        picture = _section(rng)
    else:
        picture = _lines(rng)
    return ndimage.gaussian_filter(picture, rng.uniform(0, 3)) if rng.random() < 0.3 else picture


def _unit(values: np.ndarray) -> np.ndarray:
    result: np.ndarray = (values - values.min()) / (np.ptp(values) or 1)
    return result


def _shuffled(chest: np.ndarray, parts: int, rng: np.random.Generator) -> np.ndarray:
    width = SIDE // parts
    tiles = chest.reshape(parts, width, parts, width).swapaxes(1, 2).reshape(-1, width, width)
    tiles = tiles[rng.permutation(parts * parts)]
    return tiles.reshape(parts, parts, width, width).swapaxes(1, 2).reshape(SIDE, SIDE)


def _enlarged(chest: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A small piece of a radiograph, as large as the whole."""
    side = int(rng.integers(30, 60))
    top, left = rng.integers(0, SIDE - side, 2)
    piece = ndimage.zoom(chest[top : top + side, left : left + side], SIDE / side, order=1)[:SIDE, :SIDE]
    return np.rot90(piece, rng.integers(0, 4))


def _cloud(rng: np.random.Generator) -> np.ndarray:
    """Noise whose spectrum falls as a power of the frequency: from grain to the clouds that photographs resemble."""
    frequency = np.fft.fftfreq(SIDE)
    power = 0 if rng.random() < 0.25 else rng.uniform(0, 2.2)
    falls = (np.hypot(frequency[:, None], frequency) + 1 / SIDE) ** -power
    return _unit(np.fft.ifft2(np.fft.fft2(rng.standard_normal((SIDE, SIDE))) * falls).real)


def _ellipse(rng: np.random.Generator) -> np.ndarray:
    angle, (x, y), (a, b) = rng.uniform(0, np.pi), rng.uniform(-0.7, 0.7, 2), rng.uniform(0.05, 0.8, 2)
    along = (_X - x) * np.cos(angle) + (_Y - y) * np.sin(angle)
    across = -(_X - x) * np.sin(angle) + (_Y - y) * np.cos(angle)
    return ((along / a) ** 2 + (across / b) ** 2 < 1).astype(float)


def _slice(rng: np.random.Generator) -> np.ndarray:
    """A body with organs on air, as a section of CT or MR shows it."""
    body = (_X / rng.uniform(0.6, 1)) ** 2 + ((_Y - rng.uniform(-0.1, 0.1)) / rng.uniform(0.45, 0.9)) ** 2 < 1
    organs = sum(rng.uniform(-0.5, 0.5) * _ellipse(rng) for _ in range(rng.integers(1, 8)))
    return _unit(body * (0.5 + organs) + rng.uniform(0, 0.1) * rng.standard_normal(_X.shape))


def _section(rng: np.random.Generator) -> np.ndarray:
    """A chest cut across: two dark lungs, a heart and a spine in a body with air all around it."""
    wide, deep = rng.uniform(0.65, 1.0), rng.uniform(0.45, 0.85)
    across, down = _X / wide, (_Y - rng.uniform(-0.1, 0.1)) / deep
    picture = np.where(across**2 + down**2 < 1, rng.uniform(0.4, 0.8), 0.0)
    apart, tall, air = rng.uniform(0.38, 0.55), rng.uniform(0.45, 0.75), rng.uniform(0, 0.25)
    for side in (-1, 1):
        lung = ((across - side * apart) / rng.uniform(0.25, 0.4)) ** 2 + (down / tall) ** 2 < 1
        picture = np.where(lung, air, picture)
    heart = ((across - rng.uniform(0, 0.25)) / 0.3) ** 2 + ((down + 0.15) / 0.35) ** 2 < 1
    picture = np.where(heart & (rng.random() < 0.7), rng.uniform(0.5, 0.9), picture)
    spine = (across / 0.15) ** 2 + ((down - 0.6) / 0.2) ** 2 < 1
    picture = np.where(spine, rng.uniform(0.7, 1.0), picture)
    return _unit(picture + rng.uniform(0, 0.1) * rng.standard_normal(_X.shape))


def _lines(rng: np.random.Generator) -> np.ndarray:
    """Lines of broken strokes on paper: a page of text from afar, dark on bright or bright on dark."""
    page = np.zeros((SIDE, SIDE))
    for top in range(rng.integers(2, 12), SIDE - 4, rng.integers(5, 14)):
        page[top : top + rng.integers(1, 4), rng.integers(0, 30) : rng.integers(60, SIDE)] = 1
    page *= rng.random((SIDE, SIDE)) < rng.uniform(0.4, 1)
    return 1 - page if rng.random() < 0.5 else page
