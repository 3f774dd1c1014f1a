"""ROC and precision-recall curves as points, few enough for a page."""

from __future__ import annotations

import numpy as np

from cxr_embed.evaluation import ScoredCases

POINTS = 100


def curves_of(cases: ScoredCases) -> dict[str, dict[str, list[list[float]]]]:
    """Points of every finding that has both classes.

    Returns:
        Finding to `roc`, pairs of false and true positive rate from (0, 0) to (1, 1), and `precision_recall`, pairs of
        recall and precision from the highest threshold on.
    """
    from sklearn.metrics import precision_recall_curve

    found = {}
    for number, name in enumerate(cases.names):
        known = ~np.isnan(cases.labels[:, number])
        labels, scores = cases.labels[known, number], cases.scores[known, number]
        if len(np.unique(labels)) < 2:
            continue
        precision, recall, _ = precision_recall_curve(labels, scores, drop_intermediate=True)
        # scikit-learn's last point, recall 0 at precision 1, is no threshold's.
        reached = slice(-2, None, -1)
        found[name] = {"roc": roc_of(labels, scores), "precision_recall": thin(recall[reached], precision[reached])}
    return found


def roc_of(labels: np.ndarray, scores: np.ndarray) -> list[list[float]]:
    """Pairs of false and true positive rate of `(N,)` labels of both classes and their scores, few enough to draw."""
    from sklearn.metrics import roc_curve

    false, true, _ = roc_curve(labels, scores)
    return thin(false, true)


def thin(x: np.ndarray, y: np.ndarray, points: int = POINTS) -> list[list[float]]:
    """At most so many of the points `(N,)`, evenly along the curve, with both ends; four digits are plenty to draw."""
    if len(x) > points:
        way = np.concatenate([[0.0], np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y)))])
        chosen = np.unique(np.searchsorted(way, np.linspace(0, way[-1], points)).clip(0, len(x) - 1))
        x, y = x[chosen], y[chosen]
    points_of: list[list[float]] = np.column_stack([x, y]).round(4).tolist()
    return points_of
