"""`LinearProbe`: logistic regression of all findings at once, as exact as scikit-learn's and faster."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal, Self

import numpy as np

from cxr_embed.choices import Balance
from cxr_embed.probe.base import Probe, all_vectors
from cxr_embed.probe.features import Matrix, ProbeError, Standard, VectorSource
from cxr_embed.probe.kernel import Columns, solve_kernel
from cxr_embed.probe.newton import InMemory, Solution, solve_newton
from cxr_embed.probe.selection import BALANCES, C_GRID, FOLDS, choose_C, make_columns
from cxr_embed.probe.smooth import WIDEST, Curvature, in_own_directions, logits, own_directions, solve_smooth

KERNEL_CASES = 640  # up to here the cases' products are solved, and beyond the dimensions' own
_MOST_FOLDS = 100  # they are numbered in one byte
_PATH_TOLERANCE = 1e-2  # enough to see which C is best


class KernelSolver:
    """Few cases: standardised vectors `(N, D)` float64, solved by their products.

    What they leave, under very weak regularisation, is solved in the directions that the cases span.
    """

    def __init__(self, vectors: np.ndarray) -> None:
        self._vectors = vectors
        self.kernel: np.ndarray = vectors @ vectors.T

    def solve(self, columns: Columns) -> Solution:
        """Coefficients, intercepts, and what is solved."""
        alpha, intercept, solved = solve_kernel(self.kernel, columns)
        coefficients = self._vectors.T @ alpha
        left = np.flatnonzero(~solved)
        if len(left):
            own, directions = own_directions(self.kernel, self._vectors)
            found = solve_newton(InMemory(own), columns.pick(left))
            coefficients[:, left] = directions @ found.coefficients
            intercept[left], solved[left] = found.intercept, found.solved
        return Solution(coefficients, intercept, solved)

    def path(self, columns: Columns, Cs: tuple[float, ...]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Logits `(N, K)` at each C, and `(K,)` bool what is solved."""
        problems, steps = columns.sign.shape[1], len(Cs)
        every = columns.pick(np.tile(np.arange(problems), steps))
        wanted = Columns(every.sign, every.positive, every.negative, np.repeat(np.array(Cs), problems), every.gamma)
        alpha, intercept, solved = solve_kernel(self.kernel, wanted)
        logits = self.kernel @ alpha + intercept
        left = np.flatnonzero(~solved)
        if len(left):
            own, _ = own_directions(self.kernel, self._vectors)
            found = solve_newton(InMemory(own), wanted.pick(left))
            logits[:, left], solved[left] = own @ found.coefficients + found.intercept, found.solved
        for step in range(steps):
            part = slice(step * problems, (step + 1) * problems)
            yield logits[:, part], solved[part]


class SmoothSolver:
    """Many cases: a matrix of standardised vectors, solved in passes over them."""

    def __init__(self, matrix: Matrix, tolerance: float, seed: int) -> None:
        self._matrix, self._tolerance = matrix, tolerance
        self._directions: np.ndarray | None = None
        if matrix.count < matrix.width and matrix.count <= WIDEST:
            self._matrix, self._curvature, self._directions = in_own_directions(matrix)
        else:
            self._curvature = Curvature(matrix, seed)

    def solve(self, columns: Columns) -> Solution:
        """Coefficients, intercepts, and what is solved."""
        found = solve_smooth(self._matrix, columns, self._curvature, tolerance=self._tolerance)
        if self._directions is not None:
            return Solution(self._directions @ found.coefficients, found.intercept, found.solved)
        return found

    def path(self, columns: Columns, Cs: tuple[float, ...]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Logits `(N, K)` at each C, and `(K,)` bool what is solved; each starts where the last one ended."""
        found: Solution | None = None
        for C in Cs:
            same = np.full(columns.sign.shape[1], C)
            wanted = Columns(columns.sign, columns.positive, columns.negative, same, columns.gamma)
            found = solve_smooth(self._matrix, wanted, self._curvature, tolerance=_PATH_TOLERANCE, start=found)
            yield logits(self._matrix, found.coefficients, found.intercept), found.solved


class LinearProbe(Probe):
    """Multi-label logistic regression on cached vectors; each finding learns from the images where it is known.

    The objective is scikit-learn's: `C` times the summed loss plus half the squared coefficients, the
    intercept free, on vectors that are standardised first.

    Args:
        C: inverse regularisation, one for all findings, or `auto`: chosen for each by cross-validation over patients.
        Cs: what `auto` chooses from, rising.
        folds: of the cross-validation.
        balance: `none`; `balanced`, positives and negatives weigh the same; `focal`, easy cases count less.
        pool: of token vectors: `mean`, `max` or `flatten`.
        tolerance: on the coefficients, with many cases; few are solved to rounding.
        seed: of the folds.

    After `fit` it has, besides what all probes have:

    Attributes:
        coef_: `(F, D)` float64, of standardised vectors.
        intercept_: `(F,)`.
        C_: `(F,)`.
        chosen_: `(F,)` bool, whether cross-validation chose the C; else it was given, or too few patients
            were there to choose by.
    """

    kind: ClassVar[str] = "linear"

    def __init__(
        self,
        C: float | Literal["auto"] = "auto",
        *,
        Cs: tuple[float, ...] = C_GRID,
        folds: int = FOLDS,
        balance: Balance = "none",
        pool: str = "mean",
        tolerance: float = 1e-5,
        seed: int = 0,
    ) -> None:
        self.C = C
        self.Cs = Cs
        self.folds = folds
        self.balance = balance
        self.pool = pool
        self.tolerance = tolerance
        self.seed = seed

    coef_: np.ndarray
    intercept_: np.ndarray
    C_: np.ndarray
    chosen_: np.ndarray

    def _learn(
        self, source: VectorSource, standard: Standard, labels: np.ndarray, patients: np.ndarray, learned: np.ndarray
    ) -> None:
        check_balance(self.balance)
        if self.C != "auto" and not _positive(self.C):
            raise ProbeError(f"`C` is 'auto' or a number above 0, not {self.C!r}")
        if not self.Cs or not all(map(_positive, self.Cs)) or sorted(self.Cs) != [*self.Cs]:
            raise ProbeError(f"`Cs` are numbers above 0, rising, not {self.Cs!r}")
        if not (isinstance(self.folds, int | np.integer) and 2 <= self.folds <= _MOST_FOLDS):
            raise ProbeError(f"folds is a whole number from 2 to {_MOST_FOLDS}, not {self.folds!r}")
        if not _positive(self.tolerance):
            raise ProbeError(f"tolerance is a number above 0, not {self.tolerance!r}")
        solver: KernelSolver | SmoothSolver
        if source.count <= KERNEL_CASES:
            solver = KernelSolver(all_vectors(source, standard, np.float64))
        else:
            solver = SmoothSolver(Matrix(source, standard), self.tolerance, self.seed)
        known = labels[:, learned]
        if self.C == "auto":
            Cs, chosen, failed = choose_C(
                solver,
                known,
                patients,
                balance=self.balance,
                Cs=tuple(self.Cs),
                folds=self.folds,
                seed=self.seed,
            )
        else:
            Cs, chosen = np.full(known.shape[1], float(self.C)), np.zeros(known.shape[1], bool)
            failed = [""] * known.shape[1]
        signs = np.where(np.isnan(known), 0, 2 * np.nan_to_num(known) - 1).astype(np.int8)
        found = solver.solve(make_columns(signs, Cs, self.balance))
        for place, number in enumerate(np.flatnonzero(learned).tolist()):
            if not found.solved[place]:
                self.unconverged_[number] = f"C = {Cs[place]:.3g} is too large to solve; give a smaller one"
            elif failed[place]:
                self.unconverged_[number] = failed[place]
        findings = len(learned)
        self.coef_ = np.full((findings, source.width), np.nan)
        self.intercept_, self.C_ = np.full(findings, np.nan), np.full(findings, np.nan)
        self.chosen_ = np.zeros(findings, bool)
        self.coef_[learned], self.intercept_[learned] = found.coefficients.T, found.intercept
        self.C_[learned], self.chosen_[learned] = Cs, chosen

    def _logits(self, vectors: np.ndarray) -> np.ndarray:
        return np.asarray(vectors @ self.coef_.T + self.intercept_)

    def tensors(self) -> dict[str, np.ndarray]:
        """What was learned, as arrays."""
        own = {"coef": self.coef_, "intercept": self.intercept_, "strengths": self.C_, "chosen": self.chosen_}
        return {**super().tensors(), **own}

    def restore(self, tensors: dict[str, np.ndarray]) -> Self:
        """The inverse of `tensors`."""
        self.coef_, self.intercept_ = tensors["coef"], tensors["intercept"]
        self.C_, self.chosen_ = tensors["strengths"], tensors["chosen"]
        return super().restore(tensors)


def _positive(value: object) -> bool:
    return isinstance(value, int | float | np.number) and bool(np.isfinite(value)) and bool(value > 0)


def check_balance(balance: str) -> None:
    """Refuses another word than those of `Balance`."""
    if balance not in BALANCES:
        raise ProbeError(f"balance is {', '.join(BALANCES)}, not {balance!r}")
