"""How strong to regularise: cross-validation by patient, for each finding by itself."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from cxr_embed.choices import Balance
from cxr_embed.probe.kernel import Columns
from cxr_embed.probe.loss import loss
from cxr_embed.probe.newton import Solution
from cxr_embed.types import counted

BALANCES: tuple[Balance, ...] = ("none", "balanced", "focal")
# scikit-learn's C, on standardised vectors of some hundred to thousand dimensions, from 'only the means count' on.
C_GRID = tuple(float(f"{value:.3g}") for value in np.logspace(-6, 1, 12))
FIXED_C = 1e-3  # where there are too few patients to choose by
GAMMA = 2.0  # of focal loss, as its authors recommend
FOLDS = 5


class Solver(Protocol):
    """What solves problems over some vectors."""

    def solve(self, columns: Columns) -> Solution:
        """Coefficients, intercepts, and what is solved."""
        ...

    def path(self, columns: Columns, Cs: tuple[float, ...]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Logits of every case `(N, K)` at each C, in turn, and `(K,)` bool what is solved.

        The columns' own C is not looked at.
        """
        ...


def make_columns(signs: np.ndarray, C: np.ndarray, balance: Balance) -> Columns:
    """Problems of signs `(N, K)`; `balanced` gives both sides the same weight, as scikit-learn does."""
    positives, negatives = (np.count_nonzero(signs == side, axis=0) for side in (1, -1))
    known = (positives + negatives) / 2
    gamma = GAMMA if balance == "focal" else 0.0
    if balance == "balanced":
        return Columns(signs, known / positives, known / negatives, C, gamma)
    even = np.ones(signs.shape[1])
    return Columns(signs, even, even, C, gamma)


def one_sided(labels: np.ndarray) -> str:
    """Why labels `(N,)` of 1, 0 and NaN teach nothing; empty where both kinds are there."""
    known = labels[~np.isnan(labels)]
    if not len(known):
        return "all labels are missing"
    if (known == known[0]).all():
        every = f"all {counted(len(known), 'label')} are" if len(known) > 1 else "the only label is"
        return f"{every} {'positive' if known[0] == 1 else 'negative'}"
    return ""


def deal_folds(labels: np.ndarray, patients: np.ndarray, folds: int, seed: int) -> np.ndarray | None:
    """Folds of one finding, each patient in one, positives dealt evenly.

    Args:
        labels: `(N,)` of 1, 0 and NaN.
        patients: `(N,)` whole numbers, the same for images of one patient.
        folds: how many.
        seed: of the shuffle.

    Returns:
        `(N,)` int8, -1 where the label is unknown; None where positives or negatives have fewer patients than folds.
    """
    known = np.flatnonzero(~np.isnan(labels))
    people, code = np.unique(patients[known], return_inverse=True)
    positive = np.zeros(len(people), bool)
    positive[code[labels[known] == 1]] = True
    if min(np.count_nonzero(positive), np.count_nonzero(~positive)) < folds:
        return None
    shuffled = np.random.default_rng(seed).permutation(len(people))
    order = shuffled[np.argsort(~positive[shuffled], kind="stable")]
    fold = np.empty(len(people), np.int8)
    fold[order] = np.arange(len(order)) % folds
    result = np.full(len(labels), -1, np.int8)
    result[known] = fold[code]
    return result


def choose_C(
    solver: Solver,
    labels: np.ndarray,
    patients: np.ndarray,
    *,
    balance: Balance,
    Cs: tuple[float, ...] = C_GRID,
    folds: int = FOLDS,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """The C of each finding whose mean loss on held-out patients is smallest; the smallest one, if several are.

    Args:
        solver: of the vectors.
        labels: `(N, F)` of 1, 0 and NaN; each finding has both.
        patients: `(N,)` whole numbers.
        balance: as the probe's.
        Cs: rising.
        folds, seed: of the cross-validation.

    Returns:
        `(F,)` Cs, `(F,)` bool whether they were chosen, and for each finding which Cs were left out
        because they could not be solved, in words. `FIXED_C` stands where there are too few patients for the
        folds, or no C could be solved.
    """
    dealt = [deal_folds(labels[:, number], patients, folds, seed) for number in range(labels.shape[1])]
    tried = [number for number, fold in enumerate(dealt) if fold is not None]
    result = np.full(labels.shape[1], FIXED_C)
    chosen = np.zeros(labels.shape[1], bool)
    if not tried:
        return result, chosen, [""] * len(dealt)
    signs = np.where(np.isnan(labels), 0, 2 * np.nan_to_num(labels) - 1).astype(np.int8)
    parts = [(number, fold) for number in tried for fold in range(folds)]
    held = [np.flatnonzero(dealt[number] == fold) for number, fold in parts]
    train = np.stack([signs[:, number] for number, _ in parts], axis=1)
    for column, rows in enumerate(held):
        train[rows, column] = 0
    columns = make_columns(train, np.ones(len(parts)), balance)
    losses = np.zeros((len(Cs), labels.shape[1]))
    for row, (logit, solved) in enumerate(solver.path(columns, Cs)):
        for column, (number, _) in enumerate(parts):
            sign = signs[held[column], number]
            weight = np.where(sign > 0, columns.positive[column], columns.negative[column])
            held_out = loss((sign * logit[held[column], column]).astype(np.float64), columns.gamma)
            losses[row, number] += weight @ held_out.value if solved[column] else np.inf
    chosen[tried] = np.isfinite(losses[:, tried]).any(axis=0)
    result[chosen] = np.asarray(Cs)[losses.argmin(axis=0)][chosen]
    lost = [[f"{Cs[row]:.3g}" for row in np.flatnonzero(~np.isfinite(column))] for column in losses.T]
    return (
        result,
        chosen,
        [f"left out of the choice of `C`, too large to solve: {', '.join(each)}" if each else "" for each in lost],
    )
