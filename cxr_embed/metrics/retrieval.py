"""Figures that say how good nearest neighbours are. Arrays in, numbers out, one for each query.

A query that has no such figure gets NaN: fewer than k neighbours, or nothing to find.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from cxr_embed.metrics.intervals import Estimate, Scale, draws, from_draws


def precision_at(hits: np.ndarray, k: int) -> np.ndarray:
    """`(Q,)` float64: the part of the k nearest that are relevant.

    Args:
        hits: `(Q, K)`, K at least k, nearest first: 1 relevant, 0 not, NaN where there is no neighbour.
        k: at least 1.
    """
    return np.asarray(hits[:, :k].mean(axis=1, dtype=np.float64))


def ndcg_at(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """`(Q,)` float64: gains of the k nearest, discounted by the logarithm of their rank, over those of the best order.

    Järvelin and Kekäläinen (2002), with gains of 1 and 0.

    Args:
        hits, k: as in `precision_at`.
        relevant: `(Q,)` relevant cases that there are for each query.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((hits[:, :k] @ _discounts(k)) / _best(relevant, k))


def recall_at(hits: np.ndarray, relevant: np.ndarray, k: int) -> np.ndarray:
    """`(Q,)` float64: the part of what is relevant that is among the k nearest; arguments as in `ndcg_at`."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(hits[:, :k].sum(axis=1, dtype=np.float64) / np.where(relevant > 0, relevant, np.nan))


def chance(relevant: np.ndarray, cases: np.ndarray, k: int) -> dict[str, np.ndarray]:
    """What each figure would be on average if the neighbours were drawn blindly: `precision`, `ndcg`, `recall`.

    Args:
        relevant, cases: `(Q,)` relevant and all cases that there are for each query.
        k: as in `precision_at`.
    """
    enough = cases >= k
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(enough, relevant / cases, np.nan)
        return {
            "precision": precision,
            "ndcg": precision * _discounts(k).sum() / _best(relevant, k),
            "recall": np.where(enough & (relevant > 0), k / cases, np.nan),
        }


def votes(hits: np.ndarray, similarity: np.ndarray) -> np.ndarray:
    """`(Q,)` float64: the neighbours' share of positives, each weighted by its similarity; NaN without a neighbour.

    A neighbour of no or negative similarity has no vote; where none has one, all have the same.

    Args:
        hits: `(Q, K)` in {0, 1}, NaN where there is no neighbour.
        similarity: `(Q, K)`.
    """
    here = ~np.isnan(hits)
    weights = np.where(here, np.maximum(np.nan_to_num(similarity), 0), 0).astype(np.float64)
    weights = np.where(weights.sum(axis=1, keepdims=True) > 0, weights, here)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((weights * np.nan_to_num(hits)).sum(axis=1) / weights.sum(axis=1))


def means_by_patient(
    values: Sequence[np.ndarray], patients: Sequence[np.ndarray], scale: Scale, bootstraps: int, seed: Sequence[int]
) -> list[Estimate]:
    """Means over queries, and over several sets of them where there are, with their intervals by patient.

    Patients are drawn again with all of their queries, the same in every set. What is searched stays as it is.

    Args:
        values: for each set, `(Q, M)`: M figures of its queries; NaN has no part in a mean.
        patients: for each set, `(Q,)` numbers of whose query it is.
        scale: of the figures, as `from_draws` takes it.
        bootstraps, seed: of the draws.

    Returns:
        M estimates; one is not defined where a set has no query with it, and has no interval where a set has those of a
        single patient.
    """
    known, joint = np.unique(np.concatenate([np.empty(0, np.int64), *patients]), return_inverse=True)
    edges = np.cumsum([len(owners) for owners in patients])[:-1]
    sums, counts = [], []
    for part, owners in zip(values, np.split(joint, edges), strict=True):
        defined = ~np.isnan(part)
        by_patient = csr_array(
            (np.ones(len(owners)), (owners, np.arange(len(owners)))), shape=(len(known), len(owners))
        )
        sums.append((by_patient @ np.where(defined, part, 0)).T)
        counts.append((by_patient @ defined.astype(np.float64)).T)
    if not len(known):
        return [Estimate(None, reason="no query")] * (values[0].shape[1] if values else 0)
    total, queries = np.stack(sums), np.stack(counts)  # (S, M, P)
    flat, number = total.shape[:2], total.shape[2]
    # Sparse: most patients ask for few findings, and a dense product would wait for the threads of BLAS.
    rows = csr_array(total.reshape(-1, number)), csr_array(queries.reshape(-1, number))
    drawn = [np.empty((total.shape[1], 0))]
    for weights in draws(_strata(queries.sum(axis=1)), bootstraps, seed, len(known)):
        with np.errstate(invalid="ignore"):
            drawn.append(((rows[0] @ weights) / (rows[1] @ weights)).reshape(*flat, -1).mean(axis=0))
    every = np.concatenate(drawn, axis=1)
    with np.errstate(invalid="ignore"):
        means = (total.sum(axis=2) / queries.sum(axis=2)).mean(axis=0)
    units, fewest = (queries.sum(axis=0) > 0).sum(axis=1), (queries > 0).sum(axis=2).min(axis=0)
    return [
        from_draws(float(mean), part, int(count), scale, int(least))
        for mean, part, count, least in zip(means, every, units, fewest, strict=True)
    ]


def _strata(queries: np.ndarray) -> np.ndarray:
    """`(P,)`: patients by the rarest set that they have a query in, so that a draw seldom leaves a set empty."""
    order = np.argsort((queries > 0).sum(axis=1), kind="stable")
    here = queries[order] > 0  # (S, P)
    return np.asarray(np.where(here.any(axis=0), order[np.argmax(here, axis=0)], -1))


def _discounts(k: int) -> np.ndarray:
    return np.asarray(1 / np.log2(np.arange(2, k + 2)))


def _best(relevant: np.ndarray, k: int) -> np.ndarray:
    """`(Q,)` discounted gains of the best order; NaN where nothing is relevant."""
    sums = np.append(np.nan, np.cumsum(_discounts(k)))
    return np.asarray(sums[np.minimum(relevant, k).astype(np.int64)])
