"""Logistic regression of few cases and many dimensions, any number of problems at once.

The solution lies in the span of the cases, so that Newton's method works on one number a case: with K the products of
the standardised vectors, coefficients are X' alpha and logits K alpha + intercept. Each step solves the system
I + W^(1/2) K W^(1/2), which is well conditioned unless the regularisation is very weak (the same form as in
Rasmussen and Williams, 2006, section 3.4), with one more unknown for the intercept, which is not regularised.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cxr_embed.probe.cholesky import solve_in_place
from cxr_embed.probe.features import in_threads
from cxr_embed.probe.loss import loss

_STEPS, _HALVINGS = 100, 40
# Of a logit's last step, beside the largest logit. What Newton's next step would change is near its square, and where
# systems are float32, near a hundredth of it.
_TOLERANCE, _SINGLE_TOLERANCE = 1e-4, 1e-5
_BATCH_VALUES = 1 << 18  # of the systems of a batch: 1 MiB of float32 stays in a core's cache
_SINGLE_STEPS = 12  # Newton's steps with float32 systems; few problems are so ill conditioned that they need more
_STEEPEST = 1e10  # sum of a system's eigenvalues; beyond, float64 has too few digits for its step
_LOOP_FROM = 32  # cases from which one system after the other beats one call for all
_GROWTH = 0.6  # between Cs, logits grow by nearly the last growth to this power; it saved most steps


@dataclass(frozen=True)
class Columns:
    """Problems over the same cases, one a column.

    Attributes:
        sign: `(N, K)` int8: 1 positive, -1 negative, 0 no part of the problem.
        positive, negative: `(K,)` what a positive and a negative case count for.
        C: `(K,)` inverse regularisation, scikit-learn's: the loss's weight beside half the squared coefficients.
        gamma: of focal loss; 0 is the logistic loss.
    """

    sign: np.ndarray
    positive: np.ndarray
    negative: np.ndarray
    C: np.ndarray
    gamma: float = 0.0

    def pick(self, chosen: np.ndarray) -> Columns:
        """Some of the columns."""
        return Columns(self.sign[:, chosen], self.positive[chosen], self.negative[chosen], self.C[chosen], self.gamma)


def solve_kernel(kernel: np.ndarray, columns: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solves every problem to rounding, except some of very weak regularisation.

    Args:
        kernel: `(N, N)` float64 products of the standardised vectors.
        columns: the problems; each has a positive and a negative case.

    Returns:
        `alpha` `(N, K)` and `intercept` `(K,)`, float64, and `(K,)` bool which problems are solved.
    """
    alpha, intercept = np.zeros(columns.sign.shape), np.zeros(columns.sign.shape[1])
    solved = np.zeros(columns.sign.shape[1], bool)
    paths = _paths(columns)
    sizes = np.array([np.count_nonzero(columns.sign[:, path[0]]) for path in paths])

    def follow(chosen: np.ndarray) -> None:
        group = [paths[number] for number in chosen]
        first = np.array([path[0] for path in group])
        # Problems of nearly one size; the smaller ones are filled up with cases of no weight.
        rows = np.argsort(columns.sign[:, first] == 0, axis=0, kind="stable")[: sizes[chosen].max()].T  # (P, M)
        batch = _Batch(kernel, rows, columns.pick(first))
        for step in range(max(map(len, group))):
            now = np.array([number for number, path in enumerate(group) if step < len(path)])
            wanted = np.array([group[number][step] for number in now])
            # What is not a number is not a step down, and not solved.
            with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
                solved[wanted] = batch.solve(now, columns.C[wanted])
            alpha[rows[now].T, wanted[None, :]], intercept[wanted] = batch.alpha[now].T, batch.level[now]

    for _ in in_threads(follow, _batches(np.argsort(sizes, kind="stable"), sizes)):
        pass
    return alpha, intercept, solved


def _batches(order: np.ndarray, sizes: np.ndarray) -> Iterator[np.ndarray]:
    start = 0
    while start < len(order):
        stop = start + max(1, _BATCH_VALUES // int(sizes[order[start]]) ** 2)
        yield order[start:stop]
        start = stop


def _paths(columns: Columns) -> list[np.ndarray]:
    """Groups of columns that differ in their C only, weakest loss first; of very few cases, each by itself."""
    groups: dict[tuple[bytes, float, float], list[int]] = {}
    for column in np.argsort(columns.C, kind="stable").tolist():
        key = (columns.sign[:, column].tobytes(), float(columns.positive[column]), float(columns.negative[column]))
        groups.setdefault(key, []).append(column)
    paths: list[np.ndarray] = []
    for group in groups.values():
        few = np.count_nonzero(columns.sign[:, group[0]]) < _LOOP_FROM
        paths += np.array_split(group, len(group) if few else 1)
    return paths


class _Batch:
    """P problems of M cases at rising Cs, in step; each solution is where the next one starts.

    Attributes:
        alpha: `(P, M)`, level `(P,)`, logit `(P, M)`: where each problem is.
    """

    def __init__(self, kernel: np.ndarray, rows: np.ndarray, columns: Columns) -> None:
        self._kernel = kernel[rows[:, :, None], rows[:, None, :]]  # (P, M, M)
        self._single = self._kernel.astype(np.float32)
        self._own = np.einsum("pii->pi", self._kernel).copy()
        self._sign = np.take_along_axis(columns.sign.T, rows, axis=1).astype(np.float64)
        self._weight = np.where(self._sign > 0, columns.positive[:, None], columns.negative[:, None])
        self._weight[self._sign == 0] = 0
        self._gamma = columns.gamma
        sums = [(self._weight * (self._sign == side)).sum(axis=1) for side in (1, -1)]
        self._first = np.log(sums[0] / sums[1])
        self.alpha, self.level = np.zeros(rows.shape), self._first.copy()
        self.logit = np.repeat(self.level[:, None], rows.shape[1], axis=1)
        self._C = np.zeros(len(rows))
        self._size, self._growth = np.zeros(len(rows)), np.full(len(rows), np.inf)

    def solve(self, now: np.ndarray, C: np.ndarray) -> np.ndarray:
        """Takes the problems `now` to these Cs, which are no smaller than their last ones: which are solved."""
        started = self._C[now] > 0
        if started.any():
            self._start(now[started], C[started])
        self._C[now] = C
        weight = self._weight * self._C[:, None]
        solved, wide = np.zeros(len(self.level), bool), np.zeros(len(self.level), bool)
        going = now
        for number in range(_STEPS):
            if number == _SINGLE_STEPS or self._sign.shape[1] < _LOOP_FROM:
                wide[:] = True
            stuck, steep, small = np.zeros((3, len(going)), bool)
            for single in (True, False):
                part = np.flatnonzero(wide[going] != single)
                if not len(part):
                    continue
                moved, stuck[part], steep[part] = self._step(going[part], weight[going[part]], single)
                tolerance = _SINGLE_TOLERANCE if single else _TOLERANCE
                most = tolerance * np.maximum(1, np.abs(self.logit[going[part]]).max(axis=1))
                small[part] = moved <= most
            solved[going[small & ~steep]] = True
            # A way down that float32 does not show may be there in float64.
            lost = (stuck & wide[going]) | (small & steep)
            wide[going[stuck]] = True
            going = going[~(solved[going] | lost)]
            if not len(going):
                break
        self._restart(now[~solved[now]])
        size = np.sqrt(np.einsum("pi,pi->p", self.alpha[now], self.logit[now] - self.level[now, None]))
        self._growth[now] = np.divide(size, self._size[now], out=np.full(len(now), np.inf), where=self._size[now] > 0)
        self._size[now] = size
        return np.asarray(solved[now])

    def _restart(self, lost: np.ndarray) -> None:
        """Takes problems that were not solved back to where they began."""
        self.alpha[lost], self.level[lost] = 0, self._first[lost]
        self.logit[lost] = self._first[lost, None]

    def _start(self, now: np.ndarray, C: np.ndarray) -> None:
        """A guess: under strong regularisation alpha grows like `C`, under weak one less and less."""
        growth = np.minimum(C / self._C[now], self._growth[now])[:, None] ** _GROWTH
        level = self.level[now, None]
        self.alpha[now] *= growth
        self.logit[now] = (self.logit[now] - level) * growth + level

    def _step(self, now: np.ndarray, weight: np.ndarray, single: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Newton's step, halved until the objective falls.

        Returns:
            The largest change of a logit in the whole step of each problem `(P,)`; `(P,)` bool whether no part of it
            lowers the objective, and whether the system was too ill conditioned to believe the step.
        """
        sign, alpha, level, logit = self._sign[now], self.alpha[now], self.level[now], self.logit[now]
        here = loss(sign * logit, self._gamma)
        left = -(weight * sign * here.slope + alpha)
        bend = weight * here.curvature
        step, rise = self._direction(now, np.sqrt(bend), left, alpha, single)
        if sign.shape[1] < _LOOP_FROM:
            change = _product(self._kernel[now], step)
        else:  # without a copy of the matrices of the problems that are still going
            change = np.stack([self._kernel[number] @ each for number, each in zip(now, step, strict=True)])
        change += rise[:, None]
        before = _objective(weight, here.value, alpha, logit - level[:, None])
        part = np.ones(len(now))
        for _ in range(_HALVINGS):
            share = part[:, None]
            a, b, z = alpha + share * step, level + part * rise, logit + share * change
            after = _objective(weight, loss(sign * z, self._gamma).value, a, z - b[:, None])
            risen = ~(after <= before + 1e-12 * np.abs(before))
            if not risen.any():
                break
            part[risen] /= 2
        a[risen], b[risen], z[risen] = alpha[risen], level[risen], logit[risen]
        self.alpha[now], self.level[now], self.logit[now] = a, b, z
        steep = ~(np.einsum("pi,pi->p", bend, self._own[now]) <= _STEEPEST)
        return np.abs(change).max(axis=1), risen, steep

    def _direction(
        self, now: np.ndarray, root: np.ndarray, left: np.ndarray, alpha: np.ndarray, single: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Newton's step of alpha and level. Its rounding is mended by the next step: what is left is float64."""
        dtype = np.float32 if single else np.float64
        narrow, system = root.astype(dtype), (self._single if single else self._kernel)[now]
        sides = np.stack([narrow * _product(system, left.astype(dtype)), narrow], axis=1)
        system = _plus_one(system, narrow)
        if single:
            solved = sides.copy()
            failed = solve_in_place(system, solved)
            if len(failed):
                system = _plus_one(self._kernel[now[failed]], root[failed])
                solved = solved.astype(np.float64)
                solved[failed] = _solve(system, sides[failed])
        else:
            solved = _solve(system, sides)
        free, ones = left - root * solved[:, 0], root * solved[:, 1]
        rise = (free.sum(axis=1) + alpha.sum(axis=1)) / ones.sum(axis=1)
        return free - ones * rise[:, None], rise


def _objective(weight: np.ndarray, value: np.ndarray, alpha: np.ndarray, rest: np.ndarray) -> np.ndarray:
    return np.asarray((weight * value).sum(axis=1) + 0.5 * np.einsum("pi,pi->p", alpha, rest))


def _plus_one(system: np.ndarray, root: np.ndarray) -> np.ndarray:
    """I + W^(1/2) K W^(1/2) in place of K `(P, M, M)`."""
    system *= root[:, :, None]
    system *= root[:, None, :]
    diagonal = np.arange(system.shape[1])
    system[:, diagonal, diagonal] += 1
    return system


def _solve(systems: np.ndarray, sides: np.ndarray) -> np.ndarray:
    """Solutions `(P, R, M)` of `(P, M, M)` for sides `(P, R, M)`, in float64; NaN for a system that is singular."""
    columns = sides.transpose(0, 2, 1)
    try:
        return np.linalg.solve(systems, columns).transpose(0, 2, 1)
    except np.linalg.LinAlgError:
        if len(systems) == 1:
            return np.full(sides.shape, np.nan)
        return np.concatenate([_solve(systems[[number]], sides[[number]]) for number in range(len(systems))])


def _product(matrices: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """`(P, M, M)` times `(P, M)`."""
    return np.asarray((matrices @ vectors[:, :, None])[:, :, 0])
