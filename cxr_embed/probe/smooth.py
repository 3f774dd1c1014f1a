"""Logistic regression of many cases: all problems in one pass over the vectors, a few dozen passes.

L-BFGS (Nocedal, 1980) on every problem at once, each with its own step. It starts from an inverse Hessian that is
nearly right: that of the vectors' products, taken from a sample, times the problem's mean curvature. So the number of
passes hardly depends on how much the vectors' dimensions have in common. A problem that is done leaves the passes.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from cxr_embed.probe.features import ArraySource, Matrix, Standard
from cxr_embed.probe.kernel import Columns
from cxr_embed.probe.loss import loss
from cxr_embed.probe.newton import Solution, first_weights, solve_newton

_PASSES, _MEMORY = 1000, 12
_MORE_PASSES = 200  # in float64, of what float32 does not solve
_SAMPLE_PER_DIMENSION, _SAMPLE_VALUES = 24, 1 << 26
WIDEST = 4096  # dimensions, or cases, whose products are worth taking apart
_SHRINK = (0.25,) * 8  # of a step that does not bring a problem down
_DECREASE, _SLOPE = 1e-4, 0.9  # of the line search: Armijo and Wolfe
_NOISE = {np.float32: 1e-6, np.float64: 1e-14}  # what sums are good for
_FLATTEST = 1e-7  # of the largest mean product: what float32 tells from zero


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
        self._values = np.maximum(values, _FLATTEST * values[-1])[:, None] / len(rows)
        self._directions = self._directions.astype(np.float64)

    def solve(self, gradient: np.ndarray, curvature: np.ndarray) -> np.ndarray:
        """Newton's step, nearly: gradients `(D + 1, K)` over curvatures summed over cases `(K,)`."""
        result = np.empty_like(gradient)
        result[-1] = gradient[-1] / curvature
        if self._directions is None:
            result[:-1] = gradient[:-1] / (1 + self._values * curvature)
            return result
        # In float64, and where the directions are all there are without a difference: beside a strong curvature what
        # is left of a gradient is the last digits of float32.
        own = self._directions.T @ gradient[:-1]
        if self._directions.shape[0] == self._directions.shape[1]:
            result[:-1] = self._directions @ (own / (1 + self._values * curvature))
        else:
            result[:-1] = gradient[:-1] + self._directions @ (own / (1 + self._values * curvature) - own)
        return result


def in_own_directions(matrix: Matrix) -> tuple[Matrix, Curvature, np.ndarray]:
    """Fewer cases than dimensions, in as many dimensions as they span.

    Returns:
        The cases `(N, M)` in directions that do not mix, their curvature, and those directions `(D, M)` float64.
    """
    vectors = matrix.rows(np.arange(matrix.count)).astype(np.float64)
    own, directions = own_directions(vectors @ vectors.T, vectors)
    curvature = Curvature(matrix, own=np.einsum("nm,nm->m", own, own)[:, None] / matrix.count)
    plain = Standard(np.zeros(own.shape[1]), np.ones(own.shape[1]))
    return Matrix(ArraySource(own, "mean"), plain), curvature, directions


def own_directions(kernel: np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cases `(N, M)` in the directions that they span, which do not mix, and those directions `(D, M)`; float64.

    Args:
        kernel: `(N, N)` products of the vectors.
        vectors: `(N, D)`.
    """
    values, left = np.linalg.eigh(kernel)
    kept = values > 1e-12 * values[-1]
    lengths = np.sqrt(values[kept])
    return left[:, kept] * lengths, vectors.T @ (left[:, kept] / lengths)


def solve_smooth(
    matrix: Matrix,
    columns: Columns,
    curvature: Curvature,
    *,
    tolerance: float = 1e-5,
    start: Solution | None = None,
) -> Solution:
    """Solves every problem to `tolerance`: in float32, then in float64 what float32 leaves, at last by Newton's method.

    Args:
        matrix: the vectors.
        columns: the problems; each has a positive and a negative case.
        curvature: of the vectors.
        tolerance: on the largest change of a coefficient in the next step, beside the largest coefficient or 1.
        start: where to start; coefficients of zero by default.
    """
    weights = first_weights(matrix.width, columns)
    if start is not None:
        weights[:-1], weights[-1] = start.coefficients, start.intercept
    solved = np.zeros(weights.shape[1], bool)
    for dtype, passes in ((np.float32, _PASSES), (np.float64, _MORE_PASSES)):
        left = np.flatnonzero(~solved)
        if not len(left):
            break
        run = _Descent(matrix, columns.pick(left), curvature, weights[:, left], dtype)
        for _ in range(passes):
            run.step(tolerance)
            if not len(run.now):
                break
        weights[:, left], solved[left] = run.weights, run.solved
    left = np.flatnonzero(~solved)
    if len(left) and matrix.width <= WIDEST:
        found = solve_newton(matrix, columns.pick(left), Solution(weights[:-1, left], weights[-1, left], solved[left]))
        weights[:-1, left], weights[-1, left], solved[left] = found.coefficients, found.intercept, found.solved
    return Solution(weights[:-1], weights[-1], solved)


class _Descent:
    """The state of all problems; `now` are those that go on: not `solved`, and not given up.

    Arrays are `(D + 1, K)`, intercepts last. Products have the `dtype`.
    """

    def __init__(
        self,
        matrix: Matrix,
        columns: Columns,
        curvature: Curvature,
        weights: np.ndarray,
        dtype: type[np.float32 | np.float64],
    ) -> None:
        self._matrix, self._columns, self._curvature, self._dtype = matrix, columns, curvature, dtype
        self.weights = weights
        self.now = np.arange(weights.shape[1])
        self.solved = np.zeros(weights.shape[1], bool)
        self.value, self._gradient, self._bend = evaluate(matrix, columns, weights, dtype)
        self._past: deque[tuple[np.ndarray, np.ndarray, np.ndarray]] = deque(maxlen=_MEMORY)

    @np.errstate(over="ignore", invalid="ignore")
    def step(self, tolerance: float) -> None:
        """One step of every problem that is not done."""
        direction = -self._inverse(self._gradient[:, self.now])
        slope = np.einsum("dk,dk->k", self._gradient[:, self.now], direction)
        size = np.minimum(np.abs(self.weights[:-1, self.now]).max(axis=0), 1)
        done = np.abs(direction).max(axis=0) <= tolerance * size
        self.solved[self.now[done]] = True
        busy = ~done & (slope < 0)
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
        """Parts of the direction that bring each problem down, 0 where the sums show none; and what is there."""
        here, before = self.weights[:, self.now], self.value[self.now]
        part, noise = np.ones(len(self.now)), _NOISE[self._dtype]
        there = evaluate(self._matrix, self._columns.pick(self.now), here + direction, self._dtype)
        for shrink in (*_SHRINK, 0.0):
            end = np.einsum("dk,dk->k", there[1], direction)
            lower = there[0] <= before + _DECREASE * part * slope
            level = (np.abs(end) <= _SLOPE * np.abs(slope)) & (there[0] <= before + noise * np.abs(before))
            again = np.flatnonzero(~(lower | level) & (part > 0))
            if not len(again):
                break
            part[again] *= shrink
            columns = self._columns.pick(self.now[again])
            more = evaluate(self._matrix, columns, (here + part * direction)[:, again], self._dtype)
            there[0][again], there[1][:, again], there[2][again] = more
        return part, there

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


@np.errstate(over="ignore", invalid="ignore")  # what is not a number is not a step down, and left to the next solver
def evaluate(
    matrix: Matrix, columns: Columns, weights: np.ndarray, dtype: type[np.float32 | np.float64] = np.float32
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Objective `(K,)`, gradient `(D + 1, K)` and summed curvature `(K,)` of all problems, in one pass.

    Products have the dtype; sums over blocks are float64.
    """
    coefficients = np.ascontiguousarray(weights[:-1], dtype)
    level = weights[-1].astype(dtype)
    positive, negative = ((side * columns.C).astype(dtype) for side in (columns.positive, columns.negative))

    @np.errstate(over="ignore", invalid="ignore")
    def part(rows: slice | np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        vectors = vectors.astype(dtype, copy=False)
        sign: np.ndarray = columns.sign[rows].astype(dtype)
        weight = np.where(sign > 0, positive, negative) * np.abs(sign)
        losses = loss((vectors @ coefficients + level) * sign, columns.gamma)
        pull = weight * sign * losses.slope
        value = (weight * losses.value).sum(axis=0, dtype=np.float64)
        bend = (weight * losses.curvature).sum(axis=0, dtype=np.float64)
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
