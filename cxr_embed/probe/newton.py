"""Logistic regression by Newton's method in float64, one problem after the other: for what the fast solvers leave.

Under weak regularisation the objective is so flat in some directions and so steep in others that float32 sees no way
down. Each step here solves the whole system of `(D + 1)` unknowns (Boyd and Vandenberghe, 2004, section 9.5), and is
halved until the objective falls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve

from cxr_embed.probe.kernel import Columns
from cxr_embed.probe.loss import loss

_STEPS, _HALVINGS = 200, 50
_TOLERANCE, _ROUNDED = (
    1e-7,
    1e-3,
)  # of a step beside the largest coefficient or 1: to stop at; to take at the last digit
_NOISE = 1e-12  # of the objective, in float64

T = TypeVar("T")


@dataclass(frozen=True)
class Solution:
    """Coefficients `(D, K)` and intercepts `(K,)` float64, and `(K,)` bool whether each problem is solved."""

    coefficients: np.ndarray
    intercept: np.ndarray
    solved: np.ndarray


class Blocks(Protocol):
    """Standardised vectors that are read in blocks."""

    @property
    def width(self) -> int:
        """Dimensions."""
        ...

    def map(self, work: Callable[[slice | np.ndarray, np.ndarray], T]) -> Iterator[T]:
        """`work(rows, vectors (B, width))` of each block."""
        ...


@dataclass(frozen=True)
class InMemory:
    """Vectors `(N, D)` float64 as one block."""

    vectors: np.ndarray

    @property
    def width(self) -> int:
        """Dimensions."""
        return int(self.vectors.shape[1])

    def map(self, work: Callable[[slice | np.ndarray, np.ndarray], T]) -> Iterator[T]:
        """`work` of the one block."""
        yield work(slice(None), self.vectors)


def solve_newton(blocks: Blocks, columns: Columns, start: Solution | None = None) -> Solution:
    """Solves every problem as far as float64 goes.

    Args:
        blocks: the vectors; a step takes memory for `(D + 1)` squared numbers.
        columns: the problems; each has a positive and a negative case.
        start: where to start; coefficients of zero by default.

    Returns:
        The solutions. A problem that even float64 does not solve is where its objective was lowest, and not `solved`.
    """
    problems = columns.sign.shape[1]
    weights = first_weights(blocks.width, columns)
    if start is not None:
        weights[:-1], weights[-1] = start.coefficients, start.intercept
    solved = np.zeros(problems, bool)
    for number in range(problems):
        one = columns.pick(np.array([number]))
        weights[:, number], solved[number] = _solve_one(blocks, one, weights[:, number])
    return Solution(weights[:-1], weights[-1], solved)


def first_weights(width: int, columns: Columns) -> np.ndarray:
    """`(D + 1, K)`: coefficients of zero over the intercept that is best for them."""
    weights = np.zeros((width + 1, columns.sign.shape[1]))
    counts = [np.count_nonzero(columns.sign == side, axis=0) for side in (1, -1)]
    weights[-1] = np.log(counts[0] * columns.positive) - np.log(counts[1] * columns.negative)
    return weights


@np.errstate(over="ignore", invalid="ignore")  # what is not a number is not a step down, and the end
def _solve_one(blocks: Blocks, columns: Columns, weights: np.ndarray) -> tuple[np.ndarray, bool]:
    value = _value(blocks, columns, weights)
    for _ in range(_STEPS):
        gradient, system = _derivatives(blocks, columns, weights)
        try:
            step = -cho_solve(cho_factor(system, lower=True, overwrite_a=True), gradient)
        except (LinAlgError, ValueError):  # not positive definite any more, or not finite
            return weights, False
        largest, size = float(np.abs(step).max()), min(float(np.abs(weights[:-1]).max()), 1.0)
        if largest <= _TOLERANCE * size:
            return weights + step, True
        part = 1.0
        for _ in range(_HALVINGS):
            after = _value(blocks, columns, weights + part * step)
            if after <= value + _NOISE * abs(value):
                break
            part /= 2
        else:
            return weights, largest <= _ROUNDED * size
        weights, value = weights + part * step, after
    return weights, False


def _value(blocks: Blocks, columns: Columns, weights: np.ndarray) -> float:
    @np.errstate(over="ignore", invalid="ignore")
    def part(rows: slice | np.ndarray, vectors: np.ndarray) -> float:
        sign, weight = _of(columns, rows)
        return float(
            weight @ loss((vectors.astype(np.float64) @ weights[:-1] + weights[-1]) * sign, columns.gamma).value
        )

    return 0.5 * float(weights[:-1] @ weights[:-1]) + sum(blocks.map(part))


def _derivatives(blocks: Blocks, columns: Columns, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Gradient `(D + 1,)` and curvature `(D + 1, D + 1)` of the objective."""

    @np.errstate(over="ignore", invalid="ignore")
    def part(rows: slice | np.ndarray, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        sign, weight = _of(columns, rows)
        wide = np.concatenate([vectors, np.ones((len(vectors), 1))], axis=1, dtype=np.float64)
        losses = loss((wide @ weights) * sign, columns.gamma)
        return wide.T @ (weight * sign * losses.slope), (wide.T * (weight * losses.curvature)) @ wide

    gradient, system = weights.copy(), np.eye(len(weights))
    gradient[-1] = system[-1, -1] = 0
    for pull, bend in blocks.map(part):
        gradient += pull
        system += bend
    return gradient, system


def _of(columns: Columns, rows: slice | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Signs and weights of some rows, of the one problem."""
    sign = columns.sign[rows, 0].astype(np.float64)
    side = np.where(sign > 0, columns.positive[0], columns.negative[0])
    return sign, side * columns.C[0] * np.abs(sign)
