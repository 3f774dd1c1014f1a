"""The threshold above which a map is said to mark a finding: known before, or chosen on other patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

OTHER_PATIENTS, OTSU, GIVEN = "other-patients", "otsu", "given"
FOLDS = 5


def folds_of(owners: np.ndarray, seed: int) -> np.ndarray:
    """`(N,)` the fold of each map, so that a patient is in one; as many folds as patients where these are fewer.

    Args:
        owners: `(N,)` numbers of patients.
        seed: of the order of patients.
    """
    patients, places = np.unique(owners, return_inverse=True)
    order = np.random.default_rng([seed, 1]).permutation(len(patients))
    return np.asarray((order % min(FOLDS, max(len(patients), 1)))[places])


def chosen_on_others(ious: np.ndarray, folds: np.ndarray, steps: Sequence[float]) -> tuple[np.ndarray, list[float]]:
    """The IoU of each map above the threshold that is best, on average, for the maps in other folds.

    Args:
        ious: `(N, T)` of one finding's maps.
        folds: `(N,)` of `folds_of`.
        steps: the T thresholds; of equally good ones the first.

    Returns:
        `(N,)` IoUs, NaN where there is no other fold; and a threshold for each fold.
    """
    found, thresholds = np.full(len(folds), np.nan), []
    for fold in np.unique(folds):
        here = folds == fold
        if here.all():
            break
        best = int(ious[~here].mean(axis=0).argmax())
        found[here] = ious[here, best]
        thresholds.append(float(steps[best]))
    return found, thresholds


def chosen_ious(
    ious: np.ndarray,
    otsu: np.ndarray,
    rows: Mapping[str, np.ndarray],
    owners: np.ndarray,
    *,
    rule: str,
    own: Mapping[str, float],
    steps: Sequence[float],
    grid: int,
    seed: int,
) -> tuple[np.ndarray, dict[str, list[tuple[float, ...]]]]:
    """The IoU of every map by its threshold.

    Args:
        ious: `(S, N, T)` above each threshold, of S sources.
        otsu: `(S, N)` by Otsu's.
        rows: `(N,)` bool by finding.
        owners: `(N,)` numbers of patients.
        rule: `other-patients`, `otsu` or `given`.
        own: the given thresholds by finding.
        steps: the T thresholds, of which the first `grid` are chosen among.
        seed: of the folds.

    Returns:
        `(S, N)` IoUs, and by finding the thresholds of each source.
    """
    if rule == OTSU:
        return otsu, {name: [()] * len(ious) for name in rows}
    found = np.full(ious.shape[:2], np.nan)
    taken: dict[str, list[tuple[float, ...]]] = {}
    for name, here in rows.items():
        taken[name] = []
        for source, values in enumerate(ious):
            if rule == GIVEN:
                found[source, here] = values[here, list(steps).index(own[name])]
                thresholds = [own[name]]
            else:
                folds = folds_of(owners[here], seed)
                found[source, here], thresholds = chosen_on_others(values[here, :grid], folds, steps)
            taken[name].append(tuple(thresholds))
    return found, taken
