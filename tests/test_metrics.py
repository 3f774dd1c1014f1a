"""Figures: equal to scikit-learn's and SciPy's, to loops that are obviously right, and undefined where they must be."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from cxr_embed.metrics import (
    auroc,
    operating_point,
    per_thousand,
    rank_agreement,
    threshold_for_flag_rate,
    threshold_for_sensitivity,
)
from cxr_embed.metrics.spread import collapsed, collapsed_by

# Few distinct values, so that ties are common.
CASES = st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=1, max_size=30).map(
    lambda rows: (np.array([row[0] for row in rows]), np.array([row[1] / 7 for row in rows], np.float32))
)


@given(CASES)
def test_auroc_is_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = case
    figure = auroc(labels, scores)
    if len(set(labels.tolist())) < 2:
        assert figure.value is None
        assert figure.reason
    else:
        assert figure.value == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_auroc_counts_pairs_and_half_of_ties() -> None:
    assert auroc(np.array([1, 0, 0]), np.array([2.0, 1.0, 2.0])).value == 0.75
    assert auroc(np.array([1, 1, 0]), np.array([1.0, 2.0, 3.0])).value == 0.0


@pytest.mark.parametrize(
    ("labels", "reason"),
    [([], "no image has a label"), ([1, 1], "all 2 labels are positive"), ([0], "the only label is negative")],
)
def test_undefined_says_why(labels: list[int], reason: str) -> None:
    figure = auroc(np.array(labels), np.zeros(len(labels)))
    assert (figure.value, figure.reason) == (None, reason)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=3, max_size=20))
def test_rank_agreement_is_spearmans(pairs: list[tuple[int, int]]) -> None:
    first, second = np.array(pairs).T
    assume(np.ptp(first) > 0 and np.ptp(second) > 0)
    assert rank_agreement(first, second).value == pytest.approx(spearmanr(first, second).statistic, abs=1e-12)


def test_rank_agreement_is_undefined_for_constants_and_few_images() -> None:
    assert rank_agreement(np.ones(5), np.arange(5)).reason == "all scores are the same"
    assert rank_agreement(np.arange(2), np.arange(2)).value is None


@given(CASES, st.floats(0.01, 1))
def test_a_threshold_for_a_sensitivity_reaches_it_and_is_the_highest(
    case: tuple[np.ndarray, np.ndarray], target: float
) -> None:
    labels, scores = case
    threshold = threshold_for_sensitivity(labels, scores, target)
    if not labels.any():
        assert threshold is None
        return
    assert threshold is not None
    point = operating_point(labels, scores, threshold)
    assert point.sensitivity is not None
    assert point.sensitivity >= target - 1e-9
    flagged = scores[(labels == 1) & (scores >= threshold)]
    # One step further would lose the lowest positive that is flagged, and those that tie with it.
    assert (scores[labels == 1] > flagged.min()).mean() < target + 1e-9


@given(CASES, st.floats(0.0, 1))
def test_a_threshold_for_a_flag_rate_keeps_it_and_is_the_lowest(
    case: tuple[np.ndarray, np.ndarray], rate: float
) -> None:
    labels, scores = case
    threshold = threshold_for_flag_rate(scores, rate)
    assert operating_point(labels, scores, threshold).flag_rate <= rate + 1e-9
    lower = scores[scores < threshold]
    if len(lower):
        assert (scores >= lower.max()).mean() > rate


@given(CASES, st.floats(0.05, 1))
def test_thresholds_survive_float32_and_a_files_digits(case: tuple[np.ndarray, np.ndarray], rate: float) -> None:
    labels, scores = case
    read_back = np.array([float(str(score)) for score in scores])
    for threshold in (threshold_for_flag_rate(scores, rate), threshold_for_sensitivity(labels, scores, rate)):
        if threshold is not None:
            flagged = scores.astype(np.float64) >= threshold
            np.testing.assert_array_equal(read_back >= threshold, flagged)
            np.testing.assert_array_equal(scores >= np.float32(threshold), flagged)


def test_an_operating_point_counts() -> None:
    labels, scores = np.array([1, 1, 0, 0, 0]), np.array([0.9, 0.2, 0.8, 0.1, 0.0])
    point = operating_point(labels, scores, 0.5)
    assert (point.flag_rate, point.sensitivity, point.specificity) == (0.4, 0.5, pytest.approx(2 / 3))
    assert operating_point(labels[:2], scores[:2], 0.5).specificity is None
    assert operating_point(labels[2:], scores[2:], 0.5).sensitivity is None


def test_a_score_at_the_threshold_is_flagged() -> None:
    point = operating_point(np.array([1, 1, 0, 0]), np.array([0.5, 0.4, 0.5, 0.4], np.float32), 0.5)
    assert (point.threshold, point.flag_rate, point.sensitivity, point.specificity) == (0.5, 0.5, 0.5, 0.5)


@pytest.mark.parametrize(
    "lower", [1.0, np.nextafter(1.0, 2.0), -1.0, 0.0, -np.nextafter(0.0, 1.0), np.finfo(np.float64).max / 2]
)
def test_no_number_lies_between_neighbours_and_the_upper_one_is_the_threshold(lower: float) -> None:
    """Halfway between two neighbouring numbers rounds to either; rounded down it would flag both."""
    upper = np.nextafter(lower, np.inf)
    scores = np.array([lower, upper])
    assert threshold_for_sensitivity(np.array([0, 1]), scores, 1.0) == upper
    assert threshold_for_flag_rate(scores, 0.5) == upper


def test_a_threshold_lies_halfway_between_two_scores() -> None:
    labels, scores = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.6, 0.9])
    assert threshold_for_sensitivity(labels, scores, 1.0) == pytest.approx(0.4)
    assert threshold_for_sensitivity(labels, scores, 0.5) == pytest.approx(0.75)
    # The two largest numbers: their sum is not one.
    largest = np.array([0.5, 1.0]) * np.finfo(np.float64).max
    assert threshold_for_flag_rate(largest, 0.5) == pytest.approx(0.75 * largest[1])


def test_beyond_the_largest_float32_a_threshold_is_still_finite() -> None:
    largest = float(np.finfo(np.float32).max)
    assert threshold_for_flag_rate(np.array([largest, largest]), 0.5) == np.nextafter(largest, np.inf)


def test_counts_per_thousand() -> None:
    # 20 of 1,000 have it: 18 found, 2 missed; of 980 without, a tenth is flagged.
    assert per_thousand(0.9, 0.9, 0.02) == pytest.approx((18 + 98, 2))
    assert per_thousand(1.0, 0.0, 0.3) == pytest.approx((1000, 0))


@pytest.mark.parametrize(
    ("around", "told"),
    [
        (0.0, "vectors are equal:"),
        (0.8e-6, "vectors are equal:"),
        (1.2e-6, "nearly equal (they differ by 1e-06 of their length)"),
        (0.9e-3, "nearly equal (they differ by 9e-04 of their length)"),
        (1.1e-3, ""),
        (1.0, ""),
    ],
)
def test_vectors_are_all_but_equal_below_what_a_number_rounds_off(around: float, told: str) -> None:
    """Two vectors `(1, around)` and `(1, -around)`: the part of their length by which they differ, by hand."""
    for length in (1.0, 1e4, 1e-4):
        found = collapsed(length * np.array([[1.0, around], [1.0, -around]]))
        assert told in found
        assert bool(found) == bool(told)
    assert collapsed(np.ones((1, 2))) == collapsed_by(1, np.ones(2), np.zeros(2)) == ""


def test_the_first_and_the_last_of_many_vectors_are_looked_at() -> None:
    class Recorded(np.ndarray):
        looked: ClassVar[list[int]] = []

        def __getitem__(self, rows: object) -> object:
            if isinstance(rows, np.ndarray):
                self.looked[:] = rows.tolist()
            return super().__getitem__(rows)  # type: ignore[index]

    assert "all 5,000 vectors are equal" in collapsed(np.ones((5000, 2)).view(Recorded))
    assert (len(Recorded.looked), Recorded.looked[0], Recorded.looked[-1]) == (4096, 0, 4999)
    assert "all 4,096 vectors are equal" in collapsed(np.ones((4096, 2)).view(Recorded))
    assert Recorded.looked == list(range(4096))
