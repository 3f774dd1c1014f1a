"""Logistic regression of few cases and many dimensions, any number of problems at once.

The solution lies in the span of the cases, so that Newton's method works on one number a case: with K the products of
the standardised vectors, coefficients are X' alpha and logits K alpha + intercept. Each step solves the system
I + W^(1/2) K W^(1/2), which is well conditioned however strong or weak the regularisation is (the same form as in
Rasmussen and Williams, 2006, section 3.4), with one more unknown for the intercept, which is not regularised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack

from cxr_embed.probe.loss import Loss, loss
from cxr_embed.probe.vectors import in_threads, single_threaded

_STEPS, _HALVINGS = 100, 40
# Of a logit's last step, beside the largest logit. What Newton's next step would change is near its square, and where
# systems are float32, a hundredth of it.
_TOLERANCE, _SINGLE_TOLERANCE = 1e-4, 1e-5
_LOOP_FROM = 96  # cases from which Cholesky one by one beats a batch of LU
_BATCH_VALUES = 1 << 18  # of the systems of a batch: 2 MiB stay in a core's cache
_SINGLE_STEPS = 12  # Newton's steps with float32 systems; few problems are so ill conditioned that they need more


@dataclass(frozen=True)
class Columns:
    """Problems over the same cases, one a column.

    Attributes:
        sign: `(N, K)` int8: 1 positive, -1 negative, 0 no part of the problem.
        positive, negative: `(K,)` what a positive and a negative case count for.
        strength: `(K,)`, scikit-learn's C: the weight of the loss beside half the squared coefficients.
        gamma: of focal loss; 0 is the logistic loss.
    """

    sign: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    strength: np.ndarray
    gamma: float = 0.0

    def pick(self, chosen: np.ndarray) -> Columns:
        """Some of the columns."""
        return Columns(
            self.sign[:, chosen], self.positive[chosen], self.negative[chosen], self.strength[chosen], self.gamma
        )


def solve_kernel(kernel: np.ndarray, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Solves every problem to rounding.

    Args:
        kernel: `(N, N)` float64 products of the standardised vectors.
        columns: the problems; each has a positive and a negative case.

    Returns:
        `alpha` `(N, K)` and `intercept` `(K,)`, float64.
    """
    alpha, intercept = np.zeros(columns.sign.shape), np.zeros(columns.sign.shape[1])
    sizes = np.count_nonzero(columns.sign, axis=0)
    small = np.flatnonzero(sizes < _LOOP_FROM)

    def batch(chosen: np.ndarray) -> None:
        part = columns.pick(chosen)
        # Problems of nearly one size; the smaller ones are filled up with cases of no weight.
        rows = np.argsort(part.sign == 0, axis=0, kind="stable")[: sizes[chosen].max()].T  # (P, M)
        found, intercept[chosen] = _solve_batch(kernel, rows, part)
        alpha[rows.T, chosen[None, :]] = found.T

    for _ in in_threads(batch, _batches(small[np.argsort(sizes[small], kind="stable")], sizes)):
        pass

    def follow(chosen: np.ndarray) -> None:
        rows = np.flatnonzero(columns.sign[:, chosen[0]])
        path = _Path(kernel[np.ix_(rows, rows)], columns, rows, chosen[0])
        for column in chosen:
            alpha[rows, column], intercept[column] = path.solve(float(columns.strength[column]))

    # Systems this small gain nothing from more cores, and lose much on a machine that others use too.
    with single_threaded():
        for chosen in _paths(columns, np.flatnonzero(sizes >= _LOOP_FROM)):
            follow(chosen)
    return alpha, intercept


def _batches(order: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
    start = 0
    while start < len(order):
        stop = start + max(1, _BATCH_VALUES // int(sizes[order[start]]) ** 2)
        yield order[start:stop]
        start = stop


def _paths(columns: Columns, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """Groups of columns that differ in their strength only, weakest loss first."""
    groups: dict[tuple[bytes, float, float], list[int]] = {}
    for column in chosen[np.argsort(columns.strength[chosen], kind="stable")].tolist():
        key = (columns.sign[:, column].tobytes(), float(columns.positive[column]), float(columns.negative[column]))
        groups.setdefault(key, []).append(column)
    return map(np.array, groups.values())


class _Path:
    """One problem at rising strengths; each solution is where the next one starts."""

    def __init__(self, kernel: np.ndarray, columns: Columns, rows: np.ndarray, column: int) -> None:
        self._kernel, self._single = kernel, kernel.astype(np.float32)
        self._system = np.empty(kernel.shape, np.float32)
        self._sign = columns.sign[rows, column].astype(np.float64)
        self._weight = np.where(self._sign > 0, columns.positive[column], columns.negative[column])
        self._gamma = columns.gamma
        self._strength = 0.0
        sums = [self._weight[self._sign == side].sum() for side in (1, -1)]
        self._alpha = np.zeros(len(rows))
        self._level = float(np.log(sums[0] / sums[1]))
        self._logit = np.full(len(rows), self._level)

    def solve(self, strength: float) -> tuple[np.ndarray, float]:
        """Alpha and intercept at this strength, which is no smaller than the last one."""
        if self._strength:
            # Under strong regularisation alpha grows like the strength; under weak one less. Half way, in logarithms.
            growth = np.sqrt(strength / self._strength)
            self._logit = (self._logit - self._level) * growth + self._level
            self._alpha = self._alpha * growth
        self._strength = strength
        weight = strength * self._weight
        for number in range(_STEPS):
            here = loss(self._sign * self._logit, self._gamma)
            step = self._direction(weight, here, number < _SINGLE_STEPS)
            moved = self._walk(weight, here, *step)
            if moved <= _SINGLE_TOLERANCE * max(1.0, float(np.abs(self._logit).max())):
                break
        return self._alpha, self._level

    def _direction(self, weight: np.ndarray, here: Loss, single: bool) -> tuple[np.ndarray, float]:
        """Newton's step of alpha and intercept. Its rounding is mended by the next step: what is left is float64."""
        root = np.sqrt(weight * here.curvature)
        left = -(weight * self._sign * here.slope + self._alpha)
        right = np.stack([root * (self._kernel @ left), root], axis=1)
        failed = 1
        if single:
            narrow = root.astype(np.float32)
            np.multiply(self._single, narrow, out=self._system)
            self._system *= narrow[:, None]
            self._system.ravel()[:: len(root) + 1] += 1
            # Symmetric, so its transpose is the order that LAPACK wants.
            _, solved, failed = lapack.sposv(
                self._system.T, right.astype(np.float32), lower=1, overwrite_a=1, overwrite_b=1
            )
        if failed:
            system = root[:, None] * self._kernel * root
            system.ravel()[:: len(root) + 1] += 1
            solved = np.linalg.solve(system, right)
        free, ones = left - root * solved[:, 0], root * solved[:, 1]
        level = float((free.sum() + self._alpha.sum()) / ones.sum())
        return free - ones * level, level

    def _walk(self, weight: np.ndarray, here: Loss, alpha: np.ndarray, level: float) -> float:
        """Takes the step, halved until the objective falls; the largest change of a logit."""
        logit = self._kernel @ alpha + level
        before = weight @ here.value + 0.5 * self._alpha @ (self._logit - self._level)
        part = 1.0
        for _ in range(_HALVINGS):
            a, b, z = self._alpha + part * alpha, self._level + part * level, self._logit + part * logit
            after = weight @ loss(self._sign * z, self._gamma).value + 0.5 * a @ (z - b)
            if after <= before + 1e-12 * abs(before):
                break
            part /= 2
        self._alpha, self._level, self._logit = a, b, z
        return part * float(np.abs(logit).max())


def _solve_batch(kernel: np.ndarray, rows: np.ndarray, columns: Columns) -> tuple[np.ndarray, np.ndarray]:
    """Problems over the cases `rows` `(P, M)`: alpha `(P, M)` and intercept `(P,)`."""
    sign = np.take_along_axis(columns.sign.T, rows, axis=1).astype(np.float64)
    weight = np.where(sign > 0, columns.positive[:, None], columns.negative[:, None]) * columns.strength[:, None]
    weight[sign == 0] = 0
    products = kernel[rows[:, :, None], rows[:, None, :]]  # (P, M, M)
    sums = [(weight * (sign == side)).sum(1) for side in (1, -1)]
    alpha, level = np.zeros(rows.shape), np.log(sums[0] / sums[1])
    logit = np.repeat(level[:, None], rows.shape[1], axis=1)
    now = np.arange(len(rows))
    for _ in range(_STEPS):
        some = products[now] if len(now) < len(rows) else products
        told = _batch_step(some, (alpha[now], level[now], logit[now]), sign[now], weight[now], columns.gamma)
        moved = np.abs(told[2] - logit[now]).max(axis=1)
        alpha[now], level[now], logit[now] = told
        now = now[moved > _TOLERANCE * np.maximum(1, np.abs(told[2]).max(axis=1))]
        if not len(now):
            break
    return alpha, level


def _batch_step(
    products: np.ndarray,
    here: tuple[np.ndarray, np.ndarray, np.ndarray],
    sign: np.ndarray,
    weight: np.ndarray,
    gamma: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Newton's step from alpha, level and logit, halved until the objective falls: the next ones."""
    alpha, level, logit = here
    told = loss(sign * logit, gamma)
    curvature = weight * told.curvature
    root = np.sqrt(curvature)
    target = curvature * (logit - level[:, None]) - weight * sign * told.slope
    system = root[:, :, None] * products * root[:, None, :]
    diagonal = np.arange(system.shape[1])
    system[:, diagonal, diagonal] += 1
    right = np.stack([root * _product(products, target), root], axis=2)
    solved = np.linalg.solve(system, right)
    free, ones = target - root * solved[:, :, 0], root * solved[:, :, 1]
    change = free.sum(1) / ones.sum(1)  # of the level
    aim = free - ones * change[:, None]
    aim_logit = _product(products, aim) + (level + change)[:, None]

    def objective(a: np.ndarray, b: np.ndarray, z: np.ndarray) -> np.ndarray:
        value = (weight * loss(sign * z, gamma).value).sum(1) + 0.5 * np.einsum("pi,pi->p", a, z - b[:, None])
        return np.asarray(value)

    before, part = objective(alpha, level, logit), np.ones(len(level))
    result = (aim, level + change, aim_logit)
    for _ in range(_HALVINGS):
        risen = objective(*result) > before + 1e-12 * np.abs(before)
        if not risen.any():
            break
        part[risen] /= 2
        result = (
            alpha + part[:, None] * (aim - alpha),
            level + part * change,
            logit + part[:, None] * (aim_logit - logit),
        )
    return result


def _product(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """`(P, M, M)` times `(P, M)`."""
    return np.asarray((matrices @ vectors[:, :, None])[:, :, 0])
