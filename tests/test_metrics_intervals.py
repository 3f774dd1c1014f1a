"""Figures for many draws at once equal plain ones, case by case; intervals and tests equal what their authors wrote."""

from __future__ import annotations

import math

import numpy as np
import pytest
from clustered import SETTINGS, Setting, coverage, difference_coverage
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import rankdata
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import average_precision_score, brier_score_loss, f1_score, roc_auc_score

from cxr_embed.metrics import (
    NO_SPREAD,
    Calibration,
    Estimate,
    Flags,
    Ranking,
    between,
    calibrate,
    carried,
    delong,
    delong_difference,
    delong_interval,
    draws,
    error_from_draws,
    from_draws,
    holm,
    mixed,
    p_value,
    ppv,
    rarest_strata,
    reliability,
    spread_of,
    strata_of,
    threshold_by_f1,
    threshold_by_youden,
    threshold_for_specificity,
)

# Positive, score, patient and how often the patient was drawn; few values, so that ties and empty draws are common.
CASES = st.lists(st.tuples(st.booleans(), st.integers(0, 5), st.integers(0, 4)), min_size=2, max_size=40).map(
    lambda rows: tuple(np.array(column) for column in zip(*rows, strict=True))
)
WEIGHTS = st.lists(st.integers(0, 3), min_size=5, max_size=5).map(np.array)


def repeated(weights: np.ndarray, patients: np.ndarray, *columns: np.ndarray) -> list[np.ndarray]:
    """The cases as often as their patient was drawn: what weights stand for."""
    return [np.repeat(column, weights[patients]) for column in columns]


@given(CASES, WEIGHTS)
def test_weighted_ranking_is_scikit_learns_on_repeated_cases(
    cases: tuple[np.ndarray, ...], weights: np.ndarray
) -> None:
    positive, scores, patients = cases
    scores = scores / 7
    ranking = Ranking(positive, scores, patients, 5)
    aurocs, precisions = (of(weights[:, None].astype(np.float64)) for of in (ranking.aurocs, ranking.precisions))
    often, told = repeated(weights, patients, positive, scores)
    if len(set(often.tolist())) < 2:
        assert np.isnan(aurocs[0])
        return
    assert aurocs[0] == pytest.approx(roc_auc_score(often, told), abs=1e-12)
    assert precisions[0] == pytest.approx(average_precision_score(often, told), abs=1e-12)


@given(CASES, st.randoms(use_true_random=False))
def test_ranking_does_not_hang_on_the_order_of_cases(cases: tuple[np.ndarray, ...], random: object) -> None:
    positive, scores, patients = cases
    order = list(range(len(scores)))
    random.shuffle(order)  # type: ignore[attr-defined]
    weights = np.random.default_rng(0).integers(0, 3, (5, 4)).astype(np.float64)
    first = Ranking(positive, scores.astype(float), patients, 5)
    second = Ranking(positive[order], scores[order].astype(float), patients[order], 5)
    np.testing.assert_array_equal(first.aurocs(weights), second.aurocs(weights))
    np.testing.assert_array_equal(first.precisions(weights), second.precisions(weights))


@given(CASES, WEIGHTS)
def test_weighted_flags_are_counts_of_repeated_cases(cases: tuple[np.ndarray, ...], weights: np.ndarray) -> None:
    positive, scores, patients = cases
    flagged = scores >= 3
    found = Flags(positive, flagged, patients, 5).figures(weights[:, None].astype(np.float64), 0.1, 0.2)
    often, told = repeated(weights, patients, positive, flagged)
    if not often.any() or often.all():
        return
    sensitivity, specificity = told[often].mean(), (~told[~often]).mean()
    assert found["sensitivity"][0] == pytest.approx(sensitivity)
    assert found["specificity"][0] == pytest.approx(specificity)
    assert found["f1"][0] == pytest.approx(f1_score(often, told, zero_division=0))
    # Of 1,000 cases 100 have it: Bayes by counting.
    hits, alarms = 100 * sensitivity, 900 * (1 - specificity)
    if hits + alarms:
        assert found["ppv"][0] == pytest.approx(hits / (hits + alarms))
    else:
        assert np.isnan(found["ppv"][0])
    if hits + alarms < 1000:
        assert found["npv"][0] == pytest.approx(900 * specificity / (1000 - hits - alarms))
    assert found["net_benefit"][0] == pytest.approx(hits / 1000 - alarms / 1000 * 0.2 / 0.8)


def test_flags_without_a_prevalence_have_no_predictive_values() -> None:
    flags = Flags(np.array([True, False, False]), np.array([True, True, False]), np.arange(3), 3)
    found = flags.figures(np.ones((3, 1)), None, 0.5)
    assert set(found) == {"sensitivity", "specificity", "f1", "net_benefit"}
    assert found["net_benefit"][0] == pytest.approx(1 / 3 - 1 / 3)
    assert "net_benefit" not in flags.figures(np.ones((3, 1)), None, 1.0)


def plain_calibration_error(positive: np.ndarray, probabilities: np.ndarray) -> float:
    """Bin by bin, in the words of the documentation."""
    total = 0.0
    for number in range(10):
        inside = [p for p in range(len(positive)) if number <= 10 * probabilities[p] < number + 1]
        inside += [p for p in range(len(positive)) if number == 9 and probabilities[p] == 1]
        if inside:
            total += len(inside) * abs(np.mean(probabilities[inside]) - np.mean(positive[inside]))
    return total / len(positive)


@given(CASES, WEIGHTS)
def test_weighted_calibration_is_that_of_repeated_cases(cases: tuple[np.ndarray, ...], weights: np.ndarray) -> None:
    positive, scores, patients = cases
    probabilities = scores / 5
    brier, error = Calibration(positive, probabilities, patients, 5).both(weights[:, None].astype(np.float64))
    often, told = repeated(weights, patients, positive, probabilities)
    if not len(often):
        assert np.isnan(brier[0])
        return
    assert brier[0] == pytest.approx(brier_score_loss(often, told, labels=[False, True]))
    assert error[0] == pytest.approx(plain_calibration_error(often, told), abs=1e-12)


def test_draws_keep_the_size_of_strata_and_their_seed() -> None:
    strata = np.array([0] * 30 + [1] * 5 + [-1] * 3)
    weights = np.concatenate(list(draws(strata, 700, 1, rows=1000)), axis=1)
    assert weights.shape == (38, 700)
    assert (weights[:30].sum(axis=0) == 30).all()
    assert (weights[30:35].sum(axis=0) == 5).all()
    assert (weights[35:] == 0).all()
    again = np.concatenate(list(draws(strata, 700, 1, rows=1000)), axis=1)
    np.testing.assert_array_equal(weights, again)
    assert (weights != np.concatenate(list(draws(strata, 700, 2, rows=1000)), axis=1)).any()
    # Each of n is drawn n times with chance 1 / n: Poisson-like, with mean 1 and variance 1 - 1 / n.
    assert weights[:30].mean() == 1
    assert weights[:30].var() == pytest.approx(1 - 1 / 30, abs=0.03)


def test_a_bootstrap_is_a_loop_over_drawn_patients() -> None:
    rng = np.random.default_rng(0)
    patients = rng.integers(0, 40, 120)
    positive, scores = rng.random(120) < 0.3, rng.integers(0, 30, 120) / 30
    strata = strata_of(positive, np.ones(120, bool), patients)
    ranking = Ranking(positive, scores, patients, 40)
    for weights in draws(strata, 50, 3):
        loop = []
        for column in weights.T.astype(int):
            drawn = [patient for patient in range(40) for _ in range(column[patient])]
            rows = np.concatenate([np.flatnonzero(patients == patient) for patient in drawn])
            loop.append(roc_auc_score(positive[rows], scores[rows]))
        np.testing.assert_allclose(ranking.aurocs(weights), loop, atol=1e-12)


def test_strata() -> None:
    patients = np.array([0, 0, 1, 2, 3])
    positive, known = np.array([False, True, False, True, False]), np.array([True, True, True, False, True])
    assert strata_of(positive, known, patients).tolist() == [1, 0, -1, 0]
    both = np.array([[1, 1], [1, 0], [1, 0], [0, 0], [0, 0]], bool)
    # The second finding is the rarer one; who has none is a stratum of its own.
    assert rarest_strata(both, np.array([0, 0, 1, 2, 3])).tolist() == [1, 0, 2, 2]


def plain_delong(positive: np.ndarray, scores: np.ndarray) -> tuple[list[float], np.ndarray]:
    """Every positive with every negative, as DeLong, DeLong and Clarke-Pearson wrote it."""

    def psi(x: float, y: float) -> float:
        return 1.0 if x > y else 0.5 if x == y else 0.0

    aurocs, of_positives, of_negatives = [], [], []
    for row in scores:
        pairs = np.array([[psi(x, y) for y in row[~positive]] for x in row[positive]])
        aurocs.append(pairs.mean())
        of_positives.append(pairs.mean(axis=1))
        of_negatives.append(pairs.mean(axis=0))
    m, n, k = positive.sum(), (~positive).sum(), len(scores)
    covariance = np.empty((k, k))
    for r in range(k):
        for s in range(k):
            s10 = sum((a - aurocs[r]) * (b - aurocs[s]) for a, b in zip(of_positives[r], of_positives[s], strict=True))
            s01 = sum((a - aurocs[r]) * (b - aurocs[s]) for a, b in zip(of_negatives[r], of_negatives[s], strict=True))
            covariance[r, s] = s10 / (m - 1) / m + s01 / (n - 1) / n
    return aurocs, covariance


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=8),
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=8),
)
def test_delong_is_every_positive_with_every_negative(
    positives: list[tuple[int, int]], negatives: list[tuple[int, int]]
) -> None:
    positive = np.array([True] * len(positives) + [False] * len(negatives))
    scores = np.array(positives + negatives, float).T
    aurocs, covariance = delong(positive, scores)
    plain = plain_delong(positive, scores)
    np.testing.assert_allclose(aurocs, plain[0], atol=1e-12)
    np.testing.assert_allclose(covariance, plain[1], atol=1e-12)
    difference, p = delong_difference(positive, *scores)
    assert difference.value == pytest.approx(plain[0][0] - plain[0][1], abs=1e-12)
    variance = plain[1][0, 0] + plain[1][1, 1] - 2 * plain[1][0, 1]
    if variance > 1e-9 and abs(difference.value) > 1e-9:
        assert p == pytest.approx(math.erfc(abs(difference.value) / math.sqrt(2 * variance)))
        ends = (difference.value + sign * 1.959964 * math.sqrt(variance) for sign in (-1, 1))
        assert (difference.low, difference.high) == pytest.approx(np.clip(list(ends), -1, 1), abs=1e-6)


def test_delong_on_the_ratings_of_hanley_and_mcneil() -> None:
    """Five ratings of 109 CT images (Hanley and McNeil, 1982, table I): 0.893; by DeLong 0.0307, as Stata's manual."""
    normal, abnormal = np.repeat(np.arange(5.0), [33, 6, 6, 11, 2]), np.repeat(np.arange(5.0), [3, 2, 2, 11, 33])
    positive, scores = np.arange(109) >= 58, np.concatenate([normal, abnormal])
    (area,), ((variance,),) = delong(positive, scores)
    assert area == pytest.approx(0.8932, abs=5e-5)
    assert math.sqrt(variance) == pytest.approx(0.0307, abs=5e-5)
    # Student's t of the 51 abnormal ones less one, 2.00856, on the logit's scale: 2.1240 -+ 2.00856 * 0.0307 / 0.0954.
    found = delong_interval(positive, scores, float(area))
    assert (found.low, found.high) == (pytest.approx(0.8142, abs=2e-4), pytest.approx(0.9410, abs=2e-4))


def test_delongs_interval_has_the_rarer_kinds_degrees_of_freedom() -> None:
    # By hand: positives lie above 1, 1 and 4/5 of the negatives, negatives below 1, 1, 1, 1 and 2/3 of the positives.
    # Variances 1/75 and 1/45, over 3 and 5 cases: 1/225 each. AUROC 14/15, its logit log(14), slope there 225/14.
    scores = np.array([3.0, 4, 1.5, 1, 2, 0, -1, 0.5])
    width = 4.302653 * math.sqrt(2 / 225) * 225 / 14  # Student's t, 0.975, 2 degrees
    ends = [1 / (1 + math.exp(-(math.log(14) + side * width))) for side in (-1, 1)]
    for kind, sign in ((np.arange(8) < 3, 1), (np.arange(8) >= 3, -1)):  # three positives, or three negatives
        found = delong_interval(kind, sign * scores, 14 / 15)
        assert (found.value, found.low, found.high) == pytest.approx((14 / 15, *ends), abs=1e-6)


def test_delongs_interval_keeps_inside_and_says_what_it_cannot_know() -> None:
    positive = np.array([True, True, True, False, False, False])
    near = delong_interval(positive, np.array([3.0, 4, 1.5, 1, 2, 0]), 8 / 9)
    assert 0 < near.low < 8 / 9 < near.high < 1
    # Three of three positives above all negatives: exact binomial, 0.025 to the power of a third.
    assert delong_interval(positive, np.array([3.0, 4, 5, 1, 2, 0]), 1.0) == Estimate(
        1.0, pytest.approx(0.025 ** (1 / 3)), 1.0
    )
    alone = delong_interval(positive[2:], np.array([3.0, 1, 2, 0]), 1.0)
    assert (alone.low, alone.reason) == (None, "no interval: a single case of a kind shows no spread")


def test_draws_to_intervals() -> None:
    drawn = np.random.default_rng(0).normal(0.8, 0.05, 4000)
    part = from_draws(0.8, drawn, 1000)
    assert part.low == pytest.approx(0.685, abs=0.01)
    assert part.high == pytest.approx(0.882, abs=0.01)
    even = from_draws(0.8, drawn, 1000, "plain")
    assert (even.high - even.low) / 2 == pytest.approx(1.96 * 0.05, rel=0.05)
    # Few patients: Student's t of their number, and a wider interval.
    few = from_draws(0.8, drawn, 3, "plain")
    assert (few.high - few.low) / 2 == pytest.approx(4.303 * 0.05 * math.sqrt(3 / 2), rel=0.05)
    assert from_draws(0.8, drawn * 10, 3, "difference").high == 1.0
    assert from_draws(-0.8, drawn * 10, 3, "difference").low == -1.0
    moved = np.abs(np.random.default_rng(0).normal(0.02, 0.005, 4000))
    error = error_from_draws(0.01, moved, moved, 100)
    assert (error.low, error.high) == (0, pytest.approx(0.02, abs=0.002))
    # 0.1 is more than chance moves: by 0.028 in 19 of 20 draws.
    assert error_from_draws(0.1, 0.1 + moved, moved, 100).low == pytest.approx(0.1 - 0.028, abs=0.002)


def test_draws_that_cannot_make_an_interval_say_why() -> None:
    assert from_draws(None, np.ones(9), 9) == Estimate(None, reason="not defined")
    assert from_draws(float("nan"), np.ones(9), 9).value is None
    assert "single patient" in from_draws(0.5, np.ones(9), 1).reason
    assert "no draws" in from_draws(0.5, np.empty(0), 9).reason
    lost = from_draws(0.5, np.array([0.5, np.nan, 0.4, np.nan]), 9)
    assert (lost.value, lost.low, lost.reason) == (0.5, None, "no interval: not defined in 2 of 4 draws of patients")
    # Rounding is no spread: neither at 1, as for an average precision of 1 - 1e-16, nor between.
    assert from_draws(1 - 2e-16, np.full(9, 1 - 2e-16), 20).low == pytest.approx(0.025 ** (1 / 20))
    for scale in ("part", "difference", "plain"):
        assert from_draws(0.5, np.full(9, 0.5), 20, scale) == Estimate(0.5, reason=NO_SPREAD)
    assert "one draw" in from_draws(0.5, np.ones(1), 20).reason
    still = np.zeros(1000)
    perfect = error_from_draws(0.0, still, still, 20)
    assert (perfect.low, perfect.high) == (0.0, pytest.approx(1 - 0.025 ** (1 / 20)))
    moved = np.random.default_rng(0).random(1000)
    near = error_from_draws(1e-4, 1e-4 + 1e-5 * moved, 1e-5 * moved, 20)
    assert (near.value, near.low, near.high, near.reason) == (1e-4, None, None, NO_SPREAD)
    # Rare findings of many patients: narrow for a good reason.
    assert error_from_draws(0.01, 0.01 + 1e-3 * moved, 1e-3 * moved, 20, 20_000).low is not None
    assert "no draws" in error_from_draws(0.5, np.empty(0), np.empty(0), 20).reason
    assert from_draws(0.0, np.zeros(9), 20) == Estimate(0.0, 0.0, pytest.approx(1 - 0.025 ** (1 / 20)))


def test_intervals_made_of_others() -> None:
    # Newcombe's hybrid of two Wilson intervals, 56/70 and 48/80 (Newcombe, 1998: 0.0524 to 0.3339).
    one, other = Estimate(0.8, 0.6918, 0.8777), Estimate(0.6, 0.4905, 0.7001)
    apart = between(one, other)
    assert (apart.value, apart.low, apart.high) == pytest.approx((0.2, 0.0526, 0.3342), abs=1e-3)
    assert between(one, Estimate(None, reason="no case")) == Estimate(None, reason="no case")
    assert between(one, Estimate(0.5, reason="single")) == Estimate(pytest.approx(0.3), reason="single")
    # Nobody of 24 negatives flagged: at 2% the predictive value is 1, and might be a tenth.
    parts = Estimate(0.67, 0.2, 0.9), Estimate(1.0, 0.025 ** (1 / 24), 1.0)
    found = carried(1.0, parts, lambda one, other: float(ppv(one, other, 0.02)))
    assert found.low == pytest.approx(0.02 * 0.67 / (0.02 * 0.67 + 0.98 * (1 - 0.025 ** (1 / 24))))
    assert found.high == 1.0
    assert carried(1.0, (Estimate(1.0, reason="single"),), float) == Estimate(1.0, reason="single")


def test_mixed_draws_have_as_many_positive_patients_as_chance_gives() -> None:
    strata = np.array([1] * 20 + [0] * 180 + [-1] * 5)
    weights = np.concatenate(list(draws(strata, 4000, 0)), axis=1)
    mix = mixed(weights, strata, np.random.default_rng(0))
    assert mix.sum(axis=0) == pytest.approx(np.full(4000, 200))
    positives = mix[:20].sum(axis=0)
    assert positives.mean() == pytest.approx(20, abs=0.3)
    assert positives.std() == pytest.approx(math.sqrt(200 * 0.1 * 0.9), rel=0.05)
    # Of a single positive patient none is lost, and one kind alone has no part that could vary.
    rare = np.array([1] + [0] * 30)
    assert (mixed(np.ones((31, 500)), rare, np.random.default_rng(0))[0] >= 1).all()
    np.testing.assert_array_equal(mixed(weights[:20], strata[:20], np.random.default_rng(0)), weights[:20])


def test_bins_that_moved() -> None:
    positive, probabilities = np.array([True, False, False]), np.array([0.9, 0.1, 0.3])
    calibration = Calibration(positive, probabilities, np.arange(3), 3)
    assert calibration.moved(np.ones((3, 1)))[0] == pytest.approx(0)
    # Without the last: gaps of -0.1 and 0.1 by 2 instead of -0.1, 0.1 and 0.3 by 3.
    away = abs(-0.1 / 2 + 0.1 / 3) + abs(0.1 / 2 - 0.1 / 3) + 0.3 / 3
    assert calibration.moved(np.array([[1.0], [1.0], [0.0]]))[0] == pytest.approx(away)


def test_scores_without_spread_have_no_interval() -> None:
    positive = np.array([True, True, False, False, False])
    alike = np.full(5, 0.5)
    assert delong_interval(positive, alike, 0.5) == Estimate(0.5, reason=NO_SPREAD)
    assert delong_difference(positive, alike, alike * 2) == (Estimate(0.0, 0.0, 0.0), 1.0)
    # 1 and 1 by different scores: these cases cannot tell which is better, and not that neither is.
    apart = delong_difference(positive, np.array([3.0, 4, 1, 2, 0]), np.array([4.0, 3, 0, 2, 1]))
    assert apart == (Estimate(0.0, reason=NO_SPREAD), None)


def test_a_difference_on_a_single_positive_has_a_value_and_no_interval() -> None:
    positive = np.array([True, False, False, False])
    # Above two of three negatives, and level with one of them and above none.
    found, p = delong_difference(positive, np.array([2.0, 0, 1, 3]), np.array([1.0, 1, 2, 3]))
    assert (found.value, found.low, p) == (pytest.approx(2 / 3 - 1 / 6), None, None)
    assert found.reason == "no interval: a single case of a kind shows no spread"


def test_holm_is_the_textbooks() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.5, 0.9]) == [None, 1.0, 1.0]
    assert p_value(0.0, 0.1) == 1.0
    assert p_value(0.1, 0.0) is None
    assert p_value(1.96, 1.0) == pytest.approx(0.05, abs=1e-4)
    assert p_value(2.776, 1.0, 5) == pytest.approx(0.05, abs=1e-4)  # Student's t, four degrees
    assert spread_of(np.array([0.0, 2.0]), 2) == pytest.approx(math.sqrt(2))


LABELLED = st.lists(st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=2, max_size=30).map(
    lambda rows: (np.array([row[0] for row in rows]), np.array([row[1] / 7 for row in rows], np.float32))
)


def all_thresholds(scores: np.ndarray) -> list[float]:
    values = sorted(set(scores.astype(float).tolist()))
    return [*values, values[-1] + 1]


@given(LABELLED)
def test_best_thresholds_are_the_best_of_all(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = case
    if len(set(labels.tolist())) < 2:
        assert threshold_by_youden(labels, scores) is None
        assert threshold_by_f1(labels, scores) is None
        return

    def youden(threshold: float) -> float:
        flagged = scores.astype(float) >= threshold
        return flagged[labels == 1].mean() + (~flagged[labels == 0]).mean() - 1

    def f1(threshold: float) -> float:
        flagged = scores.astype(float) >= threshold
        return 2 * (flagged & (labels == 1)).sum() / (flagged.sum() + labels.sum())

    for chosen, merit in ((threshold_by_youden(labels, scores), youden), (threshold_by_f1(labels, scores), f1)):
        # Youden's index of flagging nobody is 0, which flagging everybody has too.
        assert merit(chosen) == pytest.approx(max(merit(threshold) for threshold in all_thresholds(scores)))


@given(LABELLED, st.floats(0, 1))
def test_a_threshold_for_a_specificity_reaches_it_and_is_the_lowest(
    case: tuple[np.ndarray, np.ndarray], target: float
) -> None:
    labels, scores = case
    threshold = threshold_for_specificity(labels, scores, target)
    if labels.all():
        assert threshold is None
        return
    negatives = scores[labels == 0].astype(float)
    assert (negatives < threshold).mean() >= target - 1e-9
    lower = [value for value in all_thresholds(scores) if value < threshold]
    if lower:
        assert (negatives < max(lower)).mean() < target + 1e-9


def test_platt_finds_the_curve_that_made_the_labels() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(50, 20, 40_000)
    labels = rng.random(40_000) < 1 / (1 + np.exp(-(0.1 * scores - 7)))
    found = calibrate(labels, scores, "platt")
    assert found is not None
    assert found.scores == (pytest.approx(0.1, rel=0.05), pytest.approx(-7, rel=0.05))
    assert found(np.array([70.0]))[0] == pytest.approx(0.5, abs=0.02)


def test_platt_neither_makes_a_step_nor_turns_the_ranking_round() -> None:
    apart = calibrate(np.array([0, 0, 1, 1]), np.array([0.0, 1, 2, 3]), "platt")
    assert apart is not None
    # Platt's targets are 3/4 and 1/4 here; no finite curve would do for 1 and 0.
    assert 0.05 < apart(np.array([0.0]))[0] < 0.5 < apart(np.array([3.0]))[0] < 0.95
    reverse = calibrate(np.array([1, 1, 0, 0]), np.array([0.0, 1, 2, 3]), "platt")
    assert reverse is not None
    np.testing.assert_allclose(reverse(np.array([-9.0, 9.0])), 0.5)
    constant = calibrate(np.array([1, 0, 0, 0]), np.ones(4), "platt")
    assert constant is not None
    assert constant(np.ones(1))[0] == pytest.approx(0.25)


def test_platts_targets_worked_by_hand() -> None:
    """Of two scores alone the curve goes through both means of the targets: (2 + 1) / (2 + 2) and 1 / (4 + 2)."""
    labels, scores = np.array([1, 1, 0, 0, 0, 0]), np.array([1.0, 1, 0, 0, 0, 0])
    for offset in (0.0, -3e6):  # where the scores lie is no matter
        found = calibrate(labels, scores + offset, "platt")
        assert found is not None
        np.testing.assert_allclose(found(offset + np.array([0.0, 1.0])), [1 / 6, 3 / 4], atol=1e-6)


@given(LABELLED)
def test_isotonic_is_scikit_learns_and_never_falls(case: tuple[np.ndarray, np.ndarray]) -> None:
    labels, scores = case
    found = calibrate(labels, scores, "isotonic")
    if len(set(labels.tolist())) < 2:
        assert found is None
        return
    assert found is not None
    asked = np.linspace(-1, 1, 21)
    plain = IsotonicRegression(out_of_bounds="clip").fit(scores.astype(float), labels).predict(asked)
    np.testing.assert_allclose(found(asked), plain, atol=1e-9)
    assert (np.diff(found(asked)) >= -1e-12).all()


def test_reliability_counts_bins_and_takes_patients_for_cases() -> None:
    positive = np.array([True, False, True, True, False])
    bins = reliability(positive, np.array([0.05, 0.05, 0.95, 1.0, 0.31]), np.array([0, 1, 2, 2, 3]))
    assert [(b.low, b.high, b.n, b.positives) for b in bins] == [(0, 0.1, 2, 1), (0.3, 0.4, 1, 0), (0.9, 1.0, 2, 2)]
    assert (bins[0].promised, bins[0].seen) == (pytest.approx(0.05), 0.5)
    # Wilson's interval of one of one, since both images are of one patient.
    assert (bins[2].seen_low, bins[2].seen_high) == (pytest.approx(0.2065, abs=1e-4), 1.0)


@pytest.mark.parametrize(
    ("positives", "cases", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_as_published(positives: int, cases: int, low: float, high: float) -> None:
    """Table I of Newcombe, 1998 (Statistics in Medicine 17: 857-872), method 3."""
    labels = np.arange(cases) < positives
    (found,) = reliability(labels, np.full(cases, 0.5), np.arange(cases))
    assert (found.seen_low, found.seen_high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))


def test_a_draw_ranks_as_often_as_it_must() -> None:
    """The whole figure, once more by ranks: Hanley and McNeil's form with half of ties."""
    rng = np.random.default_rng(5)
    positive, scores = rng.random(500) < 0.2, rng.integers(0, 50, 500) / 50
    ranks, count = rankdata(scores), int(positive.sum())
    expected = (ranks[positive].sum() - count * (count + 1) / 2) / (count * (500 - count))
    found = Ranking(positive, scores, np.arange(500), 500).aurocs(np.ones((500, 1)))
    assert found[0] == pytest.approx(expected, abs=1e-14)


@pytest.mark.soak
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_intervals_by_patient_hold_the_truth(setting: Setting) -> None:
    found = coverage(setting, 1000, 400)
    # Of 1,000 data sets: two standard errors of a counted 95% are 1.4%.
    assert 0.93 <= found["auroc"] <= 0.97, found
    held, rejected = difference_coverage(setting, 1000, 400)
    assert 0.93 <= held <= 0.98
    assert rejected <= 0.07


@pytest.mark.soak
@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_intervals_of_the_other_figures_hold_the_truth(setting: Setting) -> None:
    found = coverage(setting, 500, 400)
    for name in ("sensitivity", "specificity", "f1", "ppv", "npv", "brier"):
        assert 0.92 <= found[name] <= 0.99, (name, found)
    # Average precision is too large on few cases (27 positive patients), and its interval with it.
    assert found["average_precision"] >= 0.90
    assert found["net_benefit"] >= 0.90
    # The probabilities are perfect: the error's interval has to begin at 0.
    assert found["calibration_error"] >= 0.92


@pytest.mark.soak
def test_intervals_of_delong_hold_the_truth() -> None:
    setting = Setting(800, 1.0, 0.10, 1.2, 0.5)
    assert 0.93 <= coverage(setting, 1000, 100)["auroc"] <= 0.97
    held, rejected = difference_coverage(setting, 1000, 0)
    assert 0.93 <= held <= 0.97
    assert 0.03 <= rejected <= 0.07


def test_intervals_that_forgot_patients_would_be_too_narrow() -> None:
    """Four images of a patient that are all alike tell no more than one; the interval must know."""
    rng = np.random.default_rng(0)
    positive, scores = rng.random(200) < 0.3, rng.normal(size=200)
    once = [Ranking(positive, scores, np.arange(200), 200).aurocs(w) for w in draws(positive.astype(int), 400, 0)]
    four = np.repeat(np.arange(200), 4)
    clustered = Ranking(positive[four], scores[four], four, 200)
    both = [clustered.aurocs(w) for w in draws(positive.astype(int), 400, 0)]
    np.testing.assert_allclose(np.concatenate(both), np.concatenate(once), atol=1e-12)
