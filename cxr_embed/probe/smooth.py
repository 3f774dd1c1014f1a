"""Logistic regression of many cases: all problems in one pass over the vectors, a few dozen passes.

L-BFGS (Nocedal, 1980) on every problem at once, each with its own step. It starts from an inverse Hessian that is
nearly right: that of the vectors' products, taken from a sample, times the problem's mean curvature. So the number of
passes hardly depends on how much the vectors' dimensions have in common. A problem that is done leaves the passes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np

from cxr_embed.probe.kernel import Columns
from cxr_embed.probe.loss import loss
from cxr_embed.probe.vectors import ArraySource, Matrix, Standard

_PASSES, _MEMORY = 1000, 12
_SAMPLE_PER_DIMENSION, _SAMPLE_VALUES = 24, 1 << 26
WIDEST = 4096  # dimensions, or cases, whose products are worth taking apart
_SHRINK = (0.25,) * 8  # of a step that does not bring a problem down
_DECREASE, _SLOPE, _NOISE = 1e-4, 0.9, 1e-6  # of the line search: Armijo, Wolfe, and what float32 sums are good for


@dataclass(frozen=True)
class Solution:
    """Coefficients `(D, K)` and intercepts `(K,)` float64, and the objective of each problem `(K,)`."""

    coefficients: np.ndarray
    intercept: np.ndarray
    objective: np.ndarray


class Curvature:
    """The mean products of standardised vectors, in the directions in which they do not mix.

    Args:
        matrix: the vectors.
        seed: of the sample.
        own: `(D, 1)` mean squares of dimensions that do not mix as they are; nothing is sampled then.
    """

    def __init__(self, matrix: Matrix, seed: int = 0, own: np.ndarray | None = None) -> None:
        self._directions: np.ndarray | None = None
        self._values = np.ones((1, 1)) if own is None else own
        if own is not None:
            return
        if matrix.width > WIDEST and matrix.count > WIDEST:
            return
        most = min(_SAMPLE_PER_DIMENSION * matrix.width, max(WIDEST, _SAMPLE_VALUES // matrix.width))
        rows = np.arange(matrix.count)
        if matrix.count > most:
            rows = np.sort(np.random.default_rng(seed).choice(matrix.count, most, replace=False))
        sample = matrix.rows(rows)
        if len(rows) >= matrix.width:
            values, self._directions = np.linalg.eigh(sample.T @ sample)
        else:
            values, left = np.linalg.eigh(sample @ sample.T)
            kept = values > 1e-5 * values[-1]
            values = values[kept]
            self._directions = sample.T @ (left[:, kept] / np.sqrt(values))  # (D, M)
        self._values = np.maximum(values, 0)[:, None] / len(rows)

    def solve(self, gradient: np.ndarray, curvature: np.ndarray) -> np.ndarray:
        """Newton's step, nearly: gradients `(D + 1, K)` over curvatures summed over cases `(K,)`."""
        result = np.empty_like(gradient)
        result[-1] = gradient[-1] / curvature
        if self._directions is None:
            result[:-1] = gradient[:-1] / (1 + self._values * curvature)
            return result
        own = self._directions.T @ gradient[:-1].astype(np.float32)
        shrunk = self._directions @ (own * (1 / (1 + self._values * curvature) - 1).astype(np.float32))
        result[:-1] = gradient[:-1] + shrunk
        return result


def in_own_directions(matrix: Matrix) -> tuple[Matrix, Curvature, np.ndarray]:
    """Fewer cases than dimensions, in as many dimensions as they span.

    Returns:
        The cases `(N, M)` in directions that do not mix, their curvature, and those directions `(D, M)` float64.
    """
    vectors = matrix.rows(np.arange(matrix.count)).astype(np.float64)
    values, left = np.linalg.eigh(vectors @ vectors.T)
    kept = values > 1e-12 * values[-1]
    lengths = np.sqrt(values[kept])
    own = ArraySource(left[:, kept] * lengths, "mean")
    plain = Standard(np.zeros(own.width), np.ones(own.width))
    curvature = Curvature(matrix, own=values[kept][:, None] / matrix.count)
    return Matrix(own, plain), curvature, vectors.T @ (left[:, kept] / lengths)


def solve_smooth(
    matrix: Matrix,
    columns: Columns,
    curvature: Curvature,
    *,
    tolerance: float = 1e-5,
    start: Solution | None = None,
) -> Solution:
    """Solves every problem to `tolerance`.

    Args:
        matrix: the vectors.
        columns: the problems; each has a positive and a negative case.
        curvature: of the vectors.
        tolerance: on the largest change of a coefficient in the next step, beside the largest coefficient or 1.
        start: where to start; coefficients of zero by default.
    """
    problems = columns.sign.shape[1]
    weights = np.zeros((matrix.width + 1, problems))
    if start is None:
        counts = [np.count_nonzero(columns.sign == side, axis=0) for side in (1, -1)]
        weights[-1] = np.log(counts[0] * columns.positive) - np.log(counts[1] * columns.negative)
    else:
        weights[:-1], weights[-1] = start.coefficients, start.intercept
    run = _Run(matrix, columns, curvature, weights)
    for _ in range(_PASSES):
        run.step(tolerance)
        if not len(run.now):
            break
    return Solution(run.weights[:-1], run.weights[-1], run.value)


class _Run:
    """The state of all problems; `now` are those that are not done. Arrays are `(D + 1, K)`, intercepts last."""

    def __init__(self, matrix: Matrix, columns: Columns, curvature: Curvature, weights: np.ndarray) -> None:
        self._matrix, self._columns, self._curvature = matrix, columns, curvature
        self.weights = weights
        self.now = np.arange(weights.shape[1])
        self.value, self._gradient, self._bend = evaluate(matrix, columns, weights)
        self._past: deque[tuple[np.ndarray, np.ndarray, np.ndarray]] = deque(maxlen=_MEMORY)

    def step(self, tolerance: float) -> None:
        """One step of every problem that is not done."""
        direction = -self._inverse(self._gradient[:, self.now])
        slope = np.einsum("dk,dk->k", self._gradient[:, self.now], direction)
        size = np.minimum(np.abs(self.weights[:-1, self.now]).max(axis=0), 1)
        busy = (np.abs(direction).max(axis=0) > tolerance * size) & (slope < 0)
        if not busy.all():
            self._keep(busy)
            direction, slope = direction[:, busy], slope[busy]
            if not len(self.now):
                return
        part, moved = self._search(direction, slope)
        value, gradient, bend = moved
        step, change = part * direction, gradient - self._gradient[:, self.now]
        along = np.einsum("dk,dk->k", step, change)
        sound = along > 1e-10 * np.einsum("dk,dk->k", change, change) / np.maximum(self._bend[self.now], 1)
        self._past.append((step, change, np.where(sound, 1 / np.where(sound, along, 1), 0)))
        self.weights[:, self.now] += step
        self.value[self.now], self._gradient[:, self.now], self._bend[self.now] = value, gradient, bend
        if (part == 0).any():
            self._keep(part > 0)

    def _search(
        self, direction: np.ndarray, slope: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Parts of the direction that bring each problem down, 0 where float32 sees none; and what is there."""
        here, before = self.weights[:, self.now], self.value[self.now]
        part = np.ones(len(self.now))
        told = evaluate(self._matrix, self._columns.pick(self.now), here + direction)
        for shrink in (*_SHRINK, 0.0):
            end = np.einsum("dk,dk->k", told[1], direction)
            lower = told[0] <= before + _DECREASE * part * slope
            level = (np.abs(end) <= _SLOPE * np.abs(slope)) & (told[0] <= before + _NOISE * np.abs(before))
            again = np.flatnonzero(~(lower | level) & (part > 0))
            if not len(again):
                break
            part[again] *= shrink
            columns = self._columns.pick(self.now[again])
            more = evaluate(self._matrix, columns, (here + part * direction)[:, again])
            told[0][again], told[1][:, again], told[2][again] = more
        return part, told

    def _inverse(self, gradient: np.ndarray) -> np.ndarray:
        """The two loops of L-BFGS."""
        result, parts = gradient.copy(), []
        for step, change, scale in reversed(self._past):
            part = scale * np.einsum("dk,dk->k", step, result)
            parts.append(part)
            result -= part * change
        result = self._curvature.solve(result, self._bend[self.now])
        for (step, change, scale), part in zip(self._past, reversed(parts), strict=True):
            result += step * (part - scale * np.einsum("dk,dk->k", change, result))
        return result

    def _keep(self, busy: np.ndarray) -> None:
        self.now = self.now[busy]
        past = [(step[:, busy], change[:, busy], scale[busy]) for step, change, scale in self._past]
        self._past = deque(past, maxlen=_MEMORY)


def evaluate(matrix: Matrix, columns: Columns, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objective `(K,)`, gradient `(D + 1, K)` and summed curvature `(K,)` of all problems, in one pass.

    Products are float32; sums over blocks are float64.
    """
    coefficients = np.ascontiguousarray(weights[:-1], np.float32)
    level = weights[-1].astype(np.float32)
    positive, negative = ((side * columns.strength).astype(np.float32) for side in (columns.positive, columns.negative))

    def part(rows: slice | np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        sign = columns.sign[rows].astype(np.float32)
        weight = np.where(sign > 0, positive, negative) * np.abs(sign)
        told = loss((vectors @ coefficients + level) * sign, columns.gamma)
        pull = weight * sign * told.slope
        value = (weight * told.value).sum(axis=0, dtype=np.float64)
        bend = (weight * told.curvature).sum(axis=0, dtype=np.float64)
        return value, pull.T @ vectors, pull.sum(axis=0, dtype=np.float64), bend

    value = 0.5 * np.einsum("dk,dk->k", weights[:-1], weights[:-1])
    gradient, bend = weights.copy(), np.zeros(len(level))
    gradient[-1] = 0
    for more_value, pull, level_pull, more_bend in matrix.map(part):
        value += more_value
        gradient[:-1] += pull.T
        gradient[-1] += level_pull
        bend += more_bend
    return value, gradient, np.maximum(bend, 1e-12)


def logits(matrix: Matrix, coefficients: np.ndarray, intercept: np.ndarray) -> np.ndarray:
    """`(N, K)` float32 of coefficients `(D, K)` over standardised vectors."""
    narrow = np.ascontiguousarray(coefficients, np.float32)
    result = np.empty((matrix.count, narrow.shape[1]), np.float32)

    def part(rows: slice | np.ndarray, vectors: np.ndarray) -> None:
        result[rows] = vectors @ narrow + intercept.astype(np.float32)

    for _ in matrix.map(part):
        pass
    return result
