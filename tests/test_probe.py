"""Probes: equal to scikit-learn, one finding at a time; masks, folds, files; another encoder is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import filelock
import numpy as np
import pytest
from helpers import content
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from cxr_embed import open_store
from cxr_embed.cases import CasesError, check_apart
from cxr_embed.choices import Balance
from cxr_embed.errors import CxrEmbedError
from cxr_embed.manifest import read_labels
from cxr_embed.probe import KNNProbe, LinearProbe, MLPProbe, ProbeError
from cxr_embed.probe import features as vectors_module
from cxr_embed.probe import linear as linear_module
from cxr_embed.probe import smooth as smooth_module
from cxr_embed.probe.attention import AttentionProbe
from cxr_embed.probe.base import Probe
from cxr_embed.probe.cholesky import solve_in_place
from cxr_embed.probe.features import ArraySource, Matrix, StoreSource, fit_standard, pool_vectors
from cxr_embed.probe.kernel import Columns, solve_kernel
from cxr_embed.probe.labelled import labelled_cases
from cxr_embed.probe.loss import loss, probability
from cxr_embed.probe.newton import InMemory, Solution, solve_newton
from cxr_embed.probe.persistence import _read_body, load_probe, make_trained, save_probe
from cxr_embed.probe.selection import C_GRID, FIXED_C, deal_folds, make_columns, one_sided
from cxr_embed.probe.smooth import Curvature, solve_smooth
from cxr_embed.store import Row, StoreWriter
from cxr_embed.types import EncoderSpec

# scikit-learn's, where a tight tolerance meets rounding.
pytestmark = pytest.mark.filterwarnings("ignore:.*[Ll]ine.[Ss]earch")
SPEC = EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"features": (6,), "tokens": (4, 5)})
OTHER = EncoderSpec(name="other", revision="1", preprocessing="none", outputs={"features": (6,), "tokens": (4, 5)})


def make_cases(count: int, width: int = 20, findings: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Vectors far from standard form, and labels that hang on them, a fifth unknown."""
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((count, width)) * rng.uniform(0.1, 5, width) + 3).astype(np.float32)
    logits = (vectors - 3) @ rng.standard_normal((width, findings))
    labels = (logits + 3 * rng.standard_normal((count, findings)) > 0).astype(np.float32)
    labels[rng.random(labels.shape) < 0.2] = np.nan
    labels[:2] = [[1] * findings, [0] * findings]
    return vectors, labels


def plain(vectors: np.ndarray, labels: np.ndarray, **options: object) -> LogisticRegression:
    """One finding by scikit-learn, tightly converged, on the images where it is known."""
    known = ~np.isnan(labels)
    standard = StandardScaler().fit(vectors.astype(np.float64))
    settings = {"tol": 1e-10, "max_iter": 10_000, "solver": "newton-cg", **options}
    return LogisticRegression(**settings).fit(standard.transform(vectors)[known], labels[known])


# Few cases are solved by their products, many in passes; with fewer cases than dimensions in the directions they span.
@pytest.mark.parametrize(("count", "width"), [(40, 60), (150, 300), (300, 20), (900, 20), (700, 800)])
@pytest.mark.parametrize("C", [1e-3, 1.0])
def test_coefficients_equal_scikit_learn(count: int, width: int, C: float) -> None:
    vectors, labels = make_cases(count, width)
    probe = LinearProbe(C).fit(vectors, labels)
    for number, column in enumerate(labels.T):
        model = plain(vectors, column, C=C)
        np.testing.assert_allclose(probe.coef_[number], model.coef_[0], atol=1e-4)
        np.testing.assert_allclose(probe.intercept_[number], model.intercept_[0], atol=1e-4)


@pytest.mark.parametrize("count", [60, 800])
def test_balanced_equals_scikit_learn(count: int) -> None:
    vectors, labels = make_cases(count, 30)
    probe = LinearProbe(0.1, balance="balanced").fit(vectors, labels)
    for number, column in enumerate(labels.T):
        model = plain(vectors, column, C=0.1, class_weight="balanced")
        np.testing.assert_allclose(probe.coef_[number], model.coef_[0], atol=1e-4)


@pytest.mark.parametrize("count", [60, 800])
def test_scores_equal_a_tight_solution(count: int) -> None:
    vectors, labels = make_cases(count, 100)
    others, _ = make_cases(50, 100, seed=1)
    probe = LinearProbe(0.3).fit(vectors, labels)
    standard = StandardScaler().fit(vectors.astype(np.float64))
    for number, column in enumerate(labels.T):
        want = plain(vectors, column, C=0.3).decision_function(standard.transform(others))
        np.testing.assert_allclose(probe.decision_function(others)[:, number], want, atol=1e-5 if count == 60 else 1e-3)


def test_focal_loss_is_at_a_minimum() -> None:
    vectors, labels = make_cases(200, 10)
    probe = LinearProbe(0.5, balance="focal").fit(vectors, labels)
    standard = StandardScaler().fit_transform(vectors.astype(np.float64))
    for number, column in enumerate(labels.T):
        known = ~np.isnan(column)
        sign = 2 * column[known] - 1

        def objective(weights: np.ndarray, sign: np.ndarray = sign, known: np.ndarray = known) -> float:
            p = 1 / (1 + np.exp(-sign * (standard[known] @ weights[:-1] + weights[-1])))
            return float(0.5 * (-((1 - p) ** 2) * np.log(p)).sum() + weights[:-1] @ weights[:-1] / 2)

        best = np.r_[probe.coef_[number], probe.intercept_[number]]
        for way in np.eye(len(best)):
            slope = (objective(best + 1e-5 * way) - objective(best - 1e-5 * way)) / 2e-5
            assert abs(slope) < 1e-4


@given(st.floats(-30, 30), st.sampled_from([0.0, 1.0, 2.0]))
def test_slopes_are_those_of_the_loss(margin: float, gamma: float) -> None:
    step = 1e-6
    values = loss(np.array([margin - step, margin, margin + step]), gamma)
    assert abs((values.value[2] - values.value[0]) / (2 * step) - values.slope[1]) < 1e-6
    true = (values.slope[2] - values.slope[0]) / (2 * step)
    assert values.curvature[1] > 0
    assert abs(max(true, 0) - values.curvature[1]) < 1e-5 + 0.06 * (gamma > 0)


def test_unknown_labels_change_nothing() -> None:
    vectors, labels = make_cases(120)
    hidden = labels.copy()
    hidden[:, 1] = np.nan
    hidden[:60, 1] = labels[:60, 1]
    probe = LinearProbe(0.1).fit(vectors, hidden)
    np.testing.assert_allclose(probe.coef_[[0, 2]], LinearProbe(0.1).fit(vectors, labels).coef_[[0, 2]], atol=1e-7)
    np.testing.assert_allclose(probe.coef_[1], plain(vectors, hidden[:, 1], C=0.1).coef_[0], atol=1e-5)


def test_C_is_the_best_of_a_plain_cross_validation() -> None:
    vectors, labels = make_cases(90, 40, findings=2)
    patients = np.arange(90) // 2
    probe = LinearProbe(seed=3).fit(vectors, labels, patients)
    standard = StandardScaler().fit_transform(vectors.astype(np.float64))
    for number, column in enumerate(labels.T):
        fold = deal_folds(column, patients, 5, 3)
        assert fold is not None
        losses = []
        for C in C_GRID:
            total = 0.0
            for part in range(5):
                train, held = (fold >= 0) & (fold != part), fold == part
                model = LogisticRegression(C=C, tol=1e-10, max_iter=10_000, solver="newton-cg")
                model.fit(standard[train], column[train])
                p = model.predict_proba(standard[held])[:, 1]
                total -= np.log(np.where(column[held] == 1, p, 1 - p)).sum()
            losses.append(total)
        assert probe.C_[number] == C_GRID[int(np.argmin(losses))]
    assert probe.chosen_.all()
    counts = [[(column == 1).sum(), (column == 0).sum(), np.isnan(column).sum()] for column in labels.T]
    assert probe.counts_.tolist() == counts
    assert min(map(min, counts)) > 0


@pytest.mark.parametrize("balance", ["none", "balanced"])
def test_a_balanced_C_weighs_held_out_cases_as_it_weighs_those_it_learns_from(balance: Balance) -> None:
    """One in five is positive. Weights of the other kind would choose another C, as would another intercept."""
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((100, 10)).astype(np.float32)
    logits = vectors @ rng.standard_normal(10) + 4 * rng.standard_normal(100)
    labels, patients = (logits > np.quantile(logits, 0.8)).astype(float), np.arange(100) // 2
    probe = LinearProbe(seed=3, balance=balance).fit(vectors, labels[:, None], patients)
    weighted = "balanced" if balance == "balanced" else None
    standard, fold = StandardScaler().fit_transform(vectors.astype(np.float64)), deal_folds(labels, patients, 5, 3)
    losses = []
    for C in C_GRID:
        total = 0.0
        for part in range(5):
            train, held = fold != part, fold == part
            model = LogisticRegression(C=C, tol=1e-10, max_iter=10_000, solver="newton-cg", class_weight=weighted)
            p = model.fit(standard[train], labels[train]).predict_proba(standard[held])[:, 1]
            counts = (labels[train].sum(), (1 - labels[train]).sum()) if weighted else (train.sum() / 2,) * 2
            weights = train.sum() / 2 / np.where(labels[held] == 1, *counts)
            total -= weights @ np.log(np.where(labels[held] == 1, p, 1 - p))
        losses.append(total)
    assert probe.C_[0] == C_GRID[int(np.argmin(losses))]


def test_both_solvers_choose_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels = make_cases(200, 30)
    few = LinearProbe().fit(vectors, labels)
    monkeypatch.setattr(linear_module, "KERNEL_CASES", 10)
    many = LinearProbe().fit(vectors, labels)
    np.testing.assert_array_equal(few.C_, many.C_)
    np.testing.assert_allclose(few.coef_, many.coef_, atol=1e-4)


def test_too_few_patients_to_choose_get_the_fixed_C() -> None:
    vectors, labels = make_cases(40)
    probe = LinearProbe().fit(vectors, labels, np.arange(40) // 10)
    assert (probe.C_ == FIXED_C).all()
    assert (LinearProbe(folds=100).fit(vectors, labels).C_ == FIXED_C).all()  # the most that may be asked for
    assert not probe.chosen_.any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(20, 120), st.integers(1, 4))
def test_no_patient_is_in_two_folds(seed: int, count: int, images: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.choice([0.0, 1.0, np.nan], count)
    patients = rng.integers(0, max(2, count // images), count)
    fold = deal_folds(labels, patients, 3, seed)
    if fold is None:
        return
    assert ((fold == -1) == np.isnan(labels)).all()
    for patient in np.unique(patients):
        assert len(set(fold[patients == patient].tolist()) - {-1}) <= 1
    for part in range(3):
        assert (labels[fold == part] == 1).any()


def test_labels_that_teach_nothing_say_why() -> None:
    told = [one_sided(np.array(labels)) for labels in ([], [np.nan], [1.0, np.nan], [0.0, 0.0], [0.0, 1.0])]
    missing = "all labels are missing"
    assert told == [missing, missing, "the only label is positive", "all 2 labels are negative", ""]


def test_folds_are_dealt_like_cards_positive_patients_first() -> None:
    """Once more as a loop; a seed's folds stay, or the same call would choose another C in the next release."""
    rng = np.random.default_rng(5)
    labels, patients = rng.choice([1.0, 0.0, np.nan], 90, p=[0.2, 0.6, 0.2]), rng.integers(0, 50, 90)
    known = sorted(set(patients[~np.isnan(labels)].tolist()))
    ill = set(patients[labels == 1].tolist())
    shuffled = [known[place] for place in np.random.default_rng(7).permutation(len(known))]
    dealt = [one for one in shuffled if one in ill] + [one for one in shuffled if one not in ill]
    expected = [
        -1 if np.isnan(label) else dealt.index(patient) % 4 for label, patient in zip(labels, patients, strict=True)
    ]
    assert deal_folds(labels, patients, 4, 7).tolist() == expected


@pytest.mark.parametrize("rare", [1.0, 0.0])
def test_each_fold_needs_a_patient_of_each_kind(rare: float) -> None:
    patients = np.repeat(np.arange(10), 2)
    labels = np.full(20, 1 - rare)
    # Patients 0, 2 and 4 are of the rarer kind: a positive patient has any positive image, a negative one has none.
    labels[[0, 5, 8] if rare else [0, 1, 4, 5, 8, 9]] = rare
    fold = deal_folds(labels, patients, 3, 0)
    assert fold is not None
    assert {fold[0], fold[4], fold[8]} == {0, 1, 2}
    assert set(fold[np.isin(patients, [1, 3, 5, 6, 7, 8, 9])].tolist()) == {0, 1, 2}
    assert deal_folds(labels, patients, 4, 0) is None
    # Without a known label a patient is of neither kind.
    labels[[8, 9]] = np.nan
    assert deal_folds(labels, patients, 3, 0) is None
    assert deal_folds(labels, patients, 2, 0) is not None


def test_a_stream_equals_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, labels = make_cases(3000, 30)
    vectors = vectors.astype(np.float16)
    dense = LinearProbe(0.1).fit(vectors, labels)
    monkeypatch.setattr(vectors_module, "_DENSE_BYTES", 0)
    np.testing.assert_allclose(LinearProbe(0.1).fit(vectors, labels).coef_, dense.coef_, atol=1e-6)


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_standard_form_is_numpy_s(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = (rng.standard_normal((2500, 4)) * [1, 100, 1e-3, 0] + [0, 1000, 5, 7]).astype(np.float32)
    standard = fit_standard(ArraySource(vectors, "mean"))
    np.testing.assert_allclose(standard.mean, vectors.mean(axis=0, dtype=np.float64), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(standard.scale[:3], vectors.std(axis=0, dtype=np.float64)[:3], rtol=1e-3)
    assert standard.scale[3] == 1


@pytest.mark.parametrize("count", [12, 60])
@pytest.mark.parametrize("balance", ["none", "focal"])
def test_few_cases_are_solved_where_they_lie(count: int, balance: Balance) -> None:
    """By its own steps, with no other solver to help out: the derivative by each coefficient and intercept is 0."""
    vectors, labels = make_cases(count, 40, findings=2, seed=4)
    standard = StandardScaler().fit_transform(vectors.astype(np.float64))
    signs = np.where(np.isnan(labels), 0, 2 * np.nan_to_num(labels) - 1).astype(np.int8)
    Cs = np.array([1e-4, 1e-2, 1.0, 1e2, 1e4])
    columns = make_columns(np.repeat(signs, len(Cs), axis=1), np.tile(Cs, 2), balance)
    alpha, intercept, solved = solve_kernel(standard @ standard.T, columns)
    assert solved.all()
    logits = standard @ standard.T @ alpha + intercept
    pull = -columns.C * columns.sign * loss(columns.sign * logits, columns.gamma).slope
    largest = np.abs(pull).max(axis=0)
    np.testing.assert_allclose(alpha / largest, pull / largest, atol=2e-4)
    np.testing.assert_allclose(pull.sum(axis=0) / largest, 0, atol=1e-3)


@pytest.mark.parametrize("balance", ["none", "balanced", "focal"])
def test_newtons_method_needs_no_good_start(balance: Balance) -> None:
    """As far as float64 goes, from zero and from far away: whole steps would leave the objective's valley."""
    vectors, labels = make_cases(80, 6, findings=2, seed=4)
    standard = StandardScaler().fit_transform(vectors.astype(np.float64))
    signs = np.where(np.isnan(labels), 0, 2 * np.nan_to_num(labels) - 1).astype(np.int8)
    columns = make_columns(np.repeat(signs, 3, axis=1), np.tile([1e-2, 1.0, 1e5], 2), balance)
    found = solve_newton(InMemory(standard), columns)
    rng = np.random.default_rng(0)
    far = Solution(5 * rng.standard_normal((6, 6)), 5 * rng.standard_normal(6), np.zeros(6, bool))
    for one in (found, solve_newton(InMemory(standard), columns, far)):
        assert one.solved.all()
        np.testing.assert_allclose(one.coefficients, found.coefficients, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(one.intercept, found.intercept, rtol=1e-6, atol=1e-9)
    side = np.where(columns.sign > 0, columns.positive, columns.negative)
    margin = columns.sign * (standard @ found.coefficients + found.intercept)
    pull = -columns.C * side * columns.sign * loss(margin, columns.gamma).slope
    np.testing.assert_allclose(standard.T @ pull, found.coefficients, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(pull.sum(axis=0), 0, atol=1e-7)


@pytest.mark.parametrize("balance", ["none", "balanced", "focal"])
def test_many_cases_are_solved_in_a_few_passes(monkeypatch: pytest.MonkeyPatch, balance: Balance) -> None:
    """By its own steps: 24 passes over the vectors do for correlated dimensions, and Newton's method isn't asked."""

    def asked(*_: object) -> Solution:
        raise AssertionError("left to Newton's method")

    vectors, labels = make_cases(600, 20, seed=4)
    vectors[:, 1] = vectors[:, 0] + 0.1 * vectors[:, 1]
    source = ArraySource(vectors, "mean")
    standard = fit_standard(source)
    signs = np.where(np.isnan(labels), 0, 2 * np.nan_to_num(labels) - 1).astype(np.int8)
    columns = make_columns(np.repeat(signs, 3, axis=1), np.tile([1e-3, 0.1, 10.0], 3), balance)
    wanted = solve_newton(InMemory(standard(vectors).astype(np.float64)), columns)
    monkeypatch.setattr(smooth_module, "solve_newton", asked)
    monkeypatch.setattr(smooth_module, "_PASSES", 24)
    monkeypatch.setattr(smooth_module, "_MORE_PASSES", 0)
    matrix = Matrix(source, standard)
    found = solve_smooth(matrix, columns, Curvature(matrix))
    monkeypatch.setattr(smooth_module, "_PASSES", 100)
    rng = np.random.default_rng(0)
    within = 2e-4 * np.abs(wanted.coefficients).max()
    np.testing.assert_allclose(found.coefficients, wanted.coefficients, atol=within)
    np.testing.assert_allclose(found.intercept, wanted.intercept, atol=1e-3)
    # From far away, where a whole step leads nowhere.
    far = Solution(300 * rng.standard_normal((20, 3)), 300 * rng.standard_normal(3), np.zeros(3, bool))
    weak = np.flatnonzero(columns.C == 10)
    found = solve_smooth(matrix, columns.pick(weak), Curvature(matrix), start=far)
    np.testing.assert_allclose(found.coefficients, wanted.coefficients[:, weak], atol=within)


def test_what_few_cases_leave_unsolved_is_newtons(monkeypatch: pytest.MonkeyPatch) -> None:
    """Logits of the cross-validation are the same, whoever found them."""
    vectors, labels = make_cases(40, 60, findings=2, seed=4)
    columns = make_columns((2 * np.nan_to_num(labels) - 1).astype(np.int8), np.ones(2), "none")
    solver, Cs = linear_module.KernelSolver(vectors.astype(np.float64)), (1e-4, 1e-3, 1e-2)
    wanted = list(solver.path(columns, Cs))

    def half(kernel: np.ndarray, columns: Columns) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        alpha, intercept, solved = solve_kernel(kernel, columns)
        lost = np.arange(len(solved)) % 2 == 1
        return np.where(lost, 7.0, alpha), np.where(lost, 7.0, intercept), solved & ~lost

    monkeypatch.setattr(linear_module, "solve_kernel", half)
    for (logits, solved), (want, _) in zip(solver.path(columns, Cs), wanted, strict=True):
        assert solved.all()
        np.testing.assert_allclose(logits, want, atol=1e-3 * np.abs(want).max())


def test_many_small_systems_are_solved_as_numpy_does() -> None:
    rng = np.random.default_rng(0)
    parts = rng.standard_normal((5, 7, 7))
    systems = (parts @ parts.transpose(0, 2, 1) + np.eye(7)).astype(np.float32)
    systems[2, 3, 3] = -1  # not positive definite: told, and of no harm to the others
    sides = rng.standard_normal((5, 3, 7)).astype(np.float32)
    expected = np.linalg.solve(systems.astype(np.float64), sides.transpose(0, 2, 1).astype(np.float64))
    found = sides.copy()
    assert solve_in_place(systems.copy(), found).tolist() == [2]
    for place in (0, 1, 3, 4):
        np.testing.assert_allclose(found[place], expected[place].T, rtol=1e-3, atol=1e-4)
    for wrong in ((systems.astype(np.float64), sides), (systems, sides.astype(np.float64))):
        with pytest.raises(TypeError, match="are float32"):
            solve_in_place(*wrong)
    for wrong in ((systems.transpose(0, 2, 1), sides), (systems, sides[:, :, ::-1])):
        with pytest.raises(ValueError, match="in C order"):
            solve_in_place(*wrong)
    for wrong in ((systems[:, :, :6].copy(), sides), (systems, sides[:4]), (systems, sides[:, :, :6].copy())):
        with pytest.raises(ValueError, match="don't fit"):
            solve_in_place(*wrong)


@pytest.mark.parametrize(("mean", "least"), [(0.0, 1e-12), (1.0, 1e-6), (-1e-3, 1e-9), (1e-9, 1e-12)])
def test_a_dimension_is_constant_below_what_a_number_rounds_off(mean: float, least: float) -> None:
    def scale(deviation: float) -> float:
        vectors = mean + deviation * np.array([[1.0], [-1.0]])
        return float(fit_standard(ArraySource(vectors.astype(np.float32), "mean")).scale[0])

    assert scale(0.7 * least) == 1.0
    assert scale(1.4 * least) == pytest.approx(1.4 * least, rel=0.1)


def test_pools_of_tokens() -> None:
    tokens = np.random.default_rng(0).standard_normal((3, 2, 4, 5)).astype(np.float32)
    flat = tokens.reshape(3, 8, 5)
    np.testing.assert_allclose(pool_vectors(tokens, "mean"), flat.mean(axis=1), rtol=1e-5)
    np.testing.assert_array_equal(pool_vectors(tokens, "max"), flat.max(axis=1))
    np.testing.assert_array_equal(pool_vectors(tokens, "flatten"), tokens.reshape(3, -1))
    with pytest.raises(ProbeError, match="pool is mean, max, flatten"):
        pool_vectors(tokens, "median")


@pytest.mark.parametrize("probe", [LinearProbe(0.1), MLPProbe(hidden=3, epochs=5), KNNProbe(neighbors=7)])
def test_scikit_learn_s_habits(probe: Probe) -> None:
    vectors, labels = make_cases(60)
    copy = clone(probe).set_params(pool="max")
    assert copy.get_params() == {**probe.get_params(), "pool": "max"}
    with pytest.raises(ProbeError, match="not trained"):
        copy.decision_function(vectors)
    assert copy.fit(vectors, labels) is copy
    logits, chances = copy.decision_function(vectors), copy.predict_proba(vectors)
    assert chances.shape == labels.shape
    np.testing.assert_allclose(chances, 1 / (1 + np.exp(-logits)))
    with pytest.raises(ProbeError, match="19 dimensions, the probe's have 20"):
        copy.decision_function(vectors[:, :19])


def test_neighbours_are_those_of_scikit_learn() -> None:
    vectors, labels = make_cases(80)
    others, _ = make_cases(30, seed=1)
    probe = KNNProbe(neighbors=5).fit(vectors, labels)
    scaler = StandardScaler().fit(vectors.astype(np.float64))
    for number, column in enumerate(labels.T):
        known = np.flatnonzero(~np.isnan(column))
        search = NearestNeighbors(n_neighbors=5, metric="cosine").fit(scaler.transform(vectors)[known])
        near = known[search.kneighbors(scaler.transform(others), return_distance=False)]
        want = (column[near].sum(axis=1) + 0.5) / 6
        np.testing.assert_allclose(probe.predict_proba(others)[:, number], want, rtol=1e-6)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_network_is_scikit_learns() -> None:
    vectors, labels = make_cases(80)
    others, _ = make_cases(30, seed=1)
    probe = MLPProbe(hidden=5, decay=0.3, epochs=40, seed=2).fit(vectors, labels)
    standard = fit_standard(ArraySource(vectors, "mean"))
    for number, column in enumerate(labels.T):
        known = ~np.isnan(column)
        network = MLPClassifier((5,), alpha=0.3, max_iter=40, random_state=2)
        want = network.fit(standard(vectors)[known], column[known]).predict_proba(standard(others))[:, 1]
        np.testing.assert_allclose(probe.predict_proba(others)[:, number], want, rtol=1e-4)


def test_probes_that_are_asked_for_nothing_else_are_those_of_earlier_releases() -> None:
    assert KNNProbe().get_params() == {"neighbors": 25, "pool": "mean"}
    assert MLPProbe().get_params() == {"hidden": 64, "decay": 1.0, "epochs": 50, "pool": "mean", "seed": 0}
    linear = {"C": "auto", "Cs": C_GRID, "folds": 5, "balance": "none", "pool": "mean", "tolerance": 1e-5, "seed": 0}
    assert LinearProbe().get_params() == linear
    assert (len(C_GRID), C_GRID[0], C_GRID[-1], FIXED_C) == (12, 1e-6, 10.0, 1e-3)


@pytest.mark.parametrize("probe", [LinearProbe(), MLPProbe(epochs=3), KNNProbe()])
def test_a_finding_of_one_kind_is_undefined_with_the_reason(probe: Probe) -> None:
    vectors, labels = make_cases(50, findings=4)
    labels[:, 1], labels[:, 2] = 0, np.nan
    probe.fit(vectors, labels)
    assert probe.undefined_ == {1: "all 50 labels are negative", 2: "all labels are missing"}
    chances = probe.predict_proba(vectors)
    assert np.isnan(chances[:, 1:3]).all()
    assert np.isfinite(chances[:, [0, 3]]).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda x, y: (x, np.full_like(y, np.nan)), "no finding can be learned: all labels are missing"),
        (lambda x, y: (x, np.where(np.isnan(y), 2, y)), "1, 0 or NaN .unknown., not 2"),
        (lambda x, y: (x, y[:-1]), "49, 3.*50 vectors"),
        (lambda x, y: (np.where(np.arange(50)[:, None] == 7, np.nan, x), y), "not finite in rows 7"),
        (lambda x, y: (x.astype(int), y), "floats, not int64"),
        (lambda x, y: (x[:0], y[:0]), "no finding can be learned"),
        (lambda x, y: (x, np.full(y.shape, "yes")), "1, 0 or NaN .unknown., not words"),
    ],
)
def test_what_cannot_be_learned_is_named(change: object, told: str) -> None:
    with pytest.raises(ProbeError, match=told):
        LinearProbe().fit(*change(*make_cases(50)))  # type: ignore[operator]


@pytest.mark.parametrize(
    ("probe", "told"),
    [
        (LinearProbe(0.0), "`C` is 'auto' or a number above 0"),
        (LinearProbe(balance="equal"), "balance is none, balanced, focal"),  # type: ignore[arg-type]
        (LinearProbe(pool="middle"), "pool is mean"),
        (LinearProbe("strong"), "`C` is 'auto' or a number above 0"),  # type: ignore[arg-type]
        (LinearProbe(folds=1), "folds is a whole number from 2"),
        (LinearProbe(folds=101), "folds is a whole number from 2 to 100, not 101"),
        (LinearProbe(Cs=()), "`Cs` are numbers above 0, rising"),
        (LinearProbe(Cs=(1.0, 0.1)), "`Cs` are numbers above 0, rising"),
        (LinearProbe(tolerance=0.0), "tolerance is a number above 0"),
        (KNNProbe(neighbors=0), "neighbors is a whole number above 0"),
    ],
)
def test_settings_that_make_no_sense(probe: Probe, told: str) -> None:
    with pytest.raises(ProbeError, match=told):
        probe.fit(*make_cases(50))


@pytest.mark.parametrize("probe", [LinearProbe(1.0), MLPProbe(epochs=2), KNNProbe()])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_have_no_probability(probe: Probe, bad: float) -> None:
    vectors, labels = make_cases(50)
    probe.fit(vectors, labels)
    vectors[7, 1] = bad
    with pytest.raises(ProbeError, match="not finite in rows 7"):
        probe.predict_proba(vectors)


def test_nothing_is_printed_or_warned() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LinearProbe(10.0).fit(*make_cases(30, 200))


# Few cases by their products, many in passes, fewer than dimensions in their own directions; separable and not.
@pytest.mark.parametrize(("count", "width"), [(300, 20), (60, 200), (900, 32), (900, 300), (700, 800)])
@pytest.mark.parametrize("C", [1e3, 3e5, 1e6, 1e9])
@pytest.mark.parametrize("balance", ["none", "balanced", "focal"])
def test_weak_regularisation_is_solved_too(count: int, width: int, C: float, balance: Balance) -> None:
    vectors, labels = make_cases(count, width, findings=1)
    probe = LinearProbe(C, balance=balance).fit(vectors, labels)
    assert probe.unconverged_ == {}
    known = ~np.isnan(labels[:, 0])
    # The slope is that of the vectors that the solver saw.
    standard = ((vectors[known] - probe.mean_) / probe.scale_).astype(np.float32 if count > 640 else np.float64)
    sign = 2 * labels[known, 0].astype(np.float64) - 1
    side = {1: 1.0, -1: 1.0}
    if balance == "balanced":
        side = {kind: len(sign) / 2 / np.count_nonzero(sign == kind) for kind in (1, -1)}
    weight = C * np.where(sign > 0, side[1], side[-1])
    coefficients, level = probe.coef_[0], probe.intercept_[0]
    told = loss((standard @ coefficients + level) * sign, 2.0 if balance == "focal" else 0.0)
    slope = np.r_[coefficients + standard.T @ (weight * sign * told.slope), (weight * sign * told.slope).sum()]
    wide = np.c_[standard, np.ones(len(sign))].astype(np.float64)
    bend = (wide.T * (weight * told.curvature)) @ wide + np.diag(np.r_[np.ones(width), 0])
    step = np.linalg.solve(bend, slope)
    assert np.abs(step).max() < 1e-3 * np.abs(coefficients).max()


def test_weak_regularisation_among_those_to_choose_from() -> None:
    vectors, labels = make_cases(900, 40, findings=2)
    probe = LinearProbe(Cs=(1e6, 1e9)).fit(vectors, labels)
    assert probe.chosen_.all()
    assert set(probe.C_) == {1e6}
    assert probe.unconverged_ == {}


@pytest.mark.parametrize("count", [60, 900])
def test_what_no_solver_reaches_is_named(count: int) -> None:
    vectors, labels = make_cases(count, 30, findings=2)
    labels[:, 1] = vectors[:, 1] > np.median(vectors[:, 1])
    with pytest.warns(ConvergenceWarning, match=r"finding 1: C = 1e\+300 is too large"):
        probe = LinearProbe(1e300).fit(vectors, labels)
    assert 1 in probe.unconverged_
    with pytest.warns(
        ConvergenceWarning, match=r"finding 1: left out of the choice of `C`, too large to solve: 1e\+300"
    ):
        probe = LinearProbe(Cs=(1e-3, 1e300)).fit(vectors, labels)
    assert probe.C_[1] == 1e-3


@pytest.mark.parametrize("noise", [0.0, 1e-5])
@pytest.mark.parametrize("count", [60, 900])
def test_vectors_that_are_all_alike_are_told(count: int, noise: float) -> None:
    rng = np.random.default_rng(0)
    vectors = (3 + noise * rng.standard_normal((count, 8))).astype(np.float32)
    with pytest.warns(UserWarning, match=f"all {count} vectors are {'nearly ' if noise else ''}equal"):
        LinearProbe(0.1).fit(vectors, np.arange(count) % 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LinearProbe(0.1).fit(vectors + 0.1 * rng.standard_normal((count, 8)), np.arange(count) % 2)


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_neighbours_that_are_equally_alike_count_in_part(order: str) -> None:
    # Two kinds of vectors, 10 of each; 4 of the first and 7 of the second show the finding.
    vectors = np.repeat(np.eye(2, 3, dtype=np.float32), 10, axis=0)
    labels = np.r_[np.arange(10) < 4, np.arange(10) < 7].astype(float)
    if order == "falling":
        vectors, labels = vectors[::-1], labels[::-1]
    told = KNNProbe(neighbors=5).fit(vectors, labels).predict_proba(np.eye(2, 3, dtype=np.float32))[:, 0]
    np.testing.assert_allclose(told, [(5 * 0.4 + 0.5) / 6, (5 * 0.7 + 0.5) / 6])


def test_an_epoch_too_few_is_told() -> None:
    with pytest.warns(ConvergenceWarning, match="finding 0: its 2 epochs ended while the loss still fell"):
        MLPProbe(epochs=2).fit(*make_cases(30))


@pytest.mark.parametrize("C", [1e-3, 0.1, 1.0, 1e9])
def test_attention_is_at_a_minimum_or_says_so(C: float) -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((200, 4, 6))
    labels = (rng.random(200) < 0.5).astype(np.float64)
    tokens[np.arange(200), rng.integers(0, 4, 200), 0] += 3 * labels
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe = AttentionProbe(C=C).fit(tokens, labels)
    assert (C == 1e9) == (0 in probe.unconverged_)
    if probe.unconverged_:
        return

    def objective(coefficients: np.ndarray, query: np.ndarray) -> float:
        probe.coef_, probe.query_ = coefficients[None], query[None]
        margin = probe.decision_function(tokens)[:, 0] * (2 * labels - 1)
        return float(C * np.logaddexp(0, -margin).sum() + (coefficients**2).sum() / 2 + (query**2).sum() / 2)

    best = probe.coef_[0].copy(), probe.query_[0].copy()
    size = float(np.linalg.norm(np.r_[best]))
    for way in np.eye(6):
        for moves in ((way, 0 * way), (0 * way, way)):
            ends = [objective(best[0] + sign * moves[0] * 1e-5, best[1] + sign * moves[1] * 1e-5) for sign in (1, -1)]
            assert abs(ends[0] - ends[1]) / 2e-5 < 0.02 * size


def test_attention_finds_the_token_that_tells() -> None:
    pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    tokens = rng.standard_normal((400, 6, 8)).astype(np.float32)
    labels = (rng.random(400) < 0.5).astype(np.float32)
    # A mark that says where to look, on one token of each image; beside it the finding, drowned in the mean.
    where = rng.integers(0, 6, 400)
    tokens[np.arange(400), where, 0] += 6
    tokens[np.arange(400), where, 1] += 2 * (2 * labels - 1)
    attention = AttentionProbe(C=1.0).fit(tokens[:300], labels[:300])
    mean = LinearProbe(1.0).fit(tokens[:300], labels[:300])
    right = ((attention.predict_proba(tokens[300:])[:, 0] > 0.5) == labels[300:]).mean()
    assert right > ((mean.predict_proba(tokens[300:])[:, 0] > 0.5) == labels[300:]).mean() + 0.05
    with pytest.raises(ProbeError, match="several tokens"):
        AttentionProbe().fit(tokens[:, 0], labels)


def test_attention_without_torch_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    tokens = np.random.default_rng(0).standard_normal((40, 3, 4)).astype(np.float32)
    with pytest.raises(ProbeError, match=r"pip install 'cxr-embed\[torch\]'"):
        AttentionProbe(C=1.0).fit(tokens, np.arange(40) % 2)


def make_store(path: Path, count: int = 60, spec: EncoderSpec = SPEC) -> Path:
    rng = np.random.default_rng(0)
    with StoreWriter(path, spec) as writer:
        for number in range(count):
            shift = 2.0 * (number % 3 == 0)
            vectors = {name: rng.standard_normal(shape) + shift for name, shape in spec.outputs.items()}
            writer.add_vector(
                Row(image_id=f"i{number}", patient_id=f"p{number // 2}", content=content(number)), vectors
            )
            if writer.pending == 17:
                writer.flush("toy engine")
        writer.flush("toy engine")
    return path


def write_labels(path: Path, count: int = 60, first: int = 0) -> Path:
    """Mass on every third image; Edema on every fifth, unknown on every fourth; Hernia on none; a third is test."""
    lines = ["image_id,patient_id,split,Mass,Edema,Hernia"]
    for n in range(first, first + count):
        edema = "" if n % 4 == 0 else int(n % 5 == 0)
        lines.append(f"i{n},p{n // 2},{'test' if n // 2 % 3 == 0 else 'train'},{int(n % 3 == 0)},{edema},0")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("kind", [LinearProbe, MLPProbe, KNNProbe, AttentionProbe])
def test_a_saved_probe_predicts_the_same(tmp_path: Path, kind: type[Probe]) -> None:
    if kind is AttentionProbe:
        pytest.importorskip("torch")
    store = open_store(make_store(tmp_path / "store"))
    labels = write_labels(tmp_path / "labels.csv")
    cases = labelled_cases(store, read_labels(labels), split="train")
    probe = AttentionProbe(5) if kind is AttentionProbe else kind()
    source = StoreSource(store, cases.ids, "tokens", probe.pooling)
    probe.fit_source(source, cases.labels, cases.patients)
    trained = make_trained(probe, store, "tokens", cases, (labels.name, "0" * 64), split="train", uncertain="unknown")
    save_probe(tmp_path / "probe", trained)
    loaded = load_probe(tmp_path / "probe")
    np.testing.assert_array_equal(loaded.predict(store), trained.predict(store))
    some = store.ids[[7, 3, 7]]
    np.testing.assert_array_equal(loaded.predict(store, some), trained.predict(store)[[7, 3, 7]])
    vectors = store.read(store.ids, "tokens").vectors
    np.testing.assert_allclose(loaded.predict(store), probe.predict_proba(vectors), atol=1e-6)
    assert loaded.describe() == trained.describe()
    assert loaded.undefined == {"Hernia": f"all {len(cases)} labels are negative"}
    assert loaded.labels.counts["Edema"]["unknown"] == int(np.isnan(cases.labels[:, 1]).sum())
    assert loaded.seen(np.array(["p1", "p0"]), np.array(["new", "other"])).tolist() == [True, False]
    assert sorted(p.suffix for p in (tmp_path / "probe").iterdir()) == [".json", ".lock", ".safetensors"]
    save_probe(tmp_path / "probe", trained)
    assert load_probe(tmp_path / "probe").created == trained.created


def test_another_encoder_is_refused_by_both_names(tmp_path: Path) -> None:
    store = open_store(make_store(tmp_path / "store"))
    labels = write_labels(tmp_path / "labels.csv")
    cases = labelled_cases(store, read_labels(labels))
    probe = LinearProbe(1.0).fit_source(StoreSource(store, cases.ids, "features", "mean"), cases.labels)
    trained = make_trained(probe, store, "features", cases, (labels.name, "0" * 64), split=None, uncertain="unknown")
    other = open_store(make_store(tmp_path / "other", spec=OTHER))
    told = rf"toy \[{SPEC.fingerprint[:12]}\].*other \[{OTHER.fingerprint[:12]}\]"
    with pytest.raises(ProbeError, match=told):
        trained.predict(other)


def test_damaged_probes_are_named(tmp_path: Path) -> None:
    store = open_store(make_store(tmp_path / "store"))
    labels = write_labels(tmp_path / "labels.csv")
    cases = labelled_cases(store, read_labels(labels))
    probe = LinearProbe(1.0).fit_source(StoreSource(store, cases.ids, "features", "mean"), cases.labels)
    folder = tmp_path / "probe"
    save_probe(
        folder,
        make_trained(probe, store, "features", cases, (labels.name, "0" * 64), split=None, uncertain="unknown"),
    )
    text = (folder / "probe.json").read_text()
    with pytest.raises(ProbeError, match="no probe here"):
        load_probe(tmp_path)
    for change, told in (
        (lambda body: body.update(version=99), "format version 99, .* train it again"),
        (lambda body: body.update(format="x"), "not a probe"),
        (lambda body: body.pop("output"), "damaged"),
        # Of an earlier release, which kept no digest.
        (lambda body: (body.pop("digest"), body["encoder"]["spec"].update(revision="9")), "fingerprint does not match"),
    ):
        body = json.loads(text)
        change(body)
        (folder / "probe.json").write_text(json.dumps(body))
        with pytest.raises(ProbeError, match=told):
            load_probe(folder)
    (folder / "probe.json").write_text(text)
    numbers = next(folder.glob("*.safetensors"))
    numbers.write_bytes(numbers.read_bytes()[:-1] + b"x")
    with pytest.raises(ProbeError, match="digest does not match"):
        load_probe(folder)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    with pytest.raises(ProbeError, match="other files in it"):
        save_probe(
            tmp_path / "full",
            make_trained(probe, store, "features", cases, (labels.name, "0" * 64), split=None, uncertain=""),
        )


def test_a_probes_folder_has_one_writer_and_keeps_other_peoples_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxr_embed.probe.probe_folder.WAIT", 0)
    store = open_store(make_store(tmp_path / "store"))
    labels = write_labels(tmp_path / "labels.csv")
    cases = labelled_cases(store, read_labels(labels))
    folder, trained = tmp_path / "probe", []
    for C in (1.0, 2.0):
        probe = LinearProbe(C).fit_source(StoreSource(store, cases.ids, "features", "mean"), cases.labels)
        trained.append(
            make_trained(probe, store, "features", cases, (labels.name, "0" * 64), split=None, uncertain="unknown")
        )
    save_probe(tmp_path / "new", trained[0])
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700  # it names the patients that it learned from
    folder.mkdir()
    # A writer that was killed before there was a probe: its files are in nobody's way.
    (folder / f".probe.json.{'0' * 32}.partial").write_text("half")
    save_probe(folder, trained[0])
    first = next(folder.glob("*.safetensors"))
    (folder / "theirs.safetensors").write_bytes(b"weights")
    (folder / "0123456789abcdef.safetensors").write_bytes(b"named as ours, by chance")
    old = (folder / "probe.json").read_bytes()
    stale = [_read_body(folder)]
    with filelock.FileLock(folder / "writer.lock"), pytest.raises(ProbeError, match="another process is writing"):
        save_probe(folder, trained[1])
    assert load_probe(folder).describe() == trained[0].describe()
    save_probe(folder, trained[1])
    assert load_probe(folder).describe() == trained[1].describe()
    assert not first.exists()
    assert (folder / "probe.json").read_bytes() != old
    with monkeypatch.context() as patch:  # a reader who had read the old JSON when its numbers went
        read = _read_body
        patch.setattr("cxr_embed.probe.persistence._read_body", lambda path: stale.pop() if stale else read(path))
        assert load_probe(folder).describe() == trained[1].describe()
    assert stale == []
    assert trained[1].labels.file == labels.name
    names = {path.name for path in folder.iterdir()}
    assert {"theirs.safetensors", "0123456789abcdef.safetensors"} < names
    assert len(names) == 5
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "probe.json").write_text('{"moon": "lander"}')
    with pytest.raises(ProbeError, match="other files in it"):
        save_probe(tmp_path / "other", trained[0])


def test_joins_are_by_id_and_name_what_is_left_out(tmp_path: Path) -> None:
    store = open_store(make_store(tmp_path / "store"))
    labels = read_labels(write_labels(tmp_path / "labels.csv", 60, first=10))
    cases = labelled_cases(store, labels, findings=["Edema", "Mass"])
    assert cases.ids.tolist() == [f"i{n}" for n in range(10, 60)]
    assert cases.labels[:, 1].tolist() == [float(n % 3 == 0) for n in range(10, 60)]
    assert cases.patients.tolist() == [f"p{n // 2}" for n in range(10, 60)]
    assert cases.notes[0] == "10 labelled ids have no vector (i60, i61, i62, ...) and are left out"
    assert cases.notes[1] == "10 stored ids have no label (i0, i1, i2, ...)"


@pytest.mark.parametrize(
    ("header", "row", "told"),
    [
        ("image_id,Mass", "x{n},1", "no image_id in common: 'i0' in the store, 'x0' in the labels"),
        ("image_id,Mass", "i{n},", "every label of the 60 images with vectors is unknown"),
        (
            "image_id,patient_id,Mass",
            "i{n},q{n},1",
            "one patient in the labels and another in the store, such as i0: q0 and p0",
        ),
        ("image_id,patient_id", "i{n},p{n}", "no finding"),
    ],
)
def test_labels_that_cannot_be_used(tmp_path: Path, header: str, row: str, told: str) -> None:
    store = open_store(make_store(tmp_path / "store"))
    path = tmp_path / "labels.csv"
    path.write_text("\n".join([header, *(row.format(n=n) for n in range(60))]) + "\n")
    with pytest.raises(CxrEmbedError, match=told):
        labelled_cases(store, read_labels(path))


def test_splits_and_findings_that_are_not_there(tmp_path: Path) -> None:
    store = open_store(make_store(tmp_path / "store"))
    labels = read_labels(write_labels(tmp_path / "labels.csv"))
    with pytest.raises(CasesError, match="the splits are: test, train"):
        labelled_cases(store, labels, split="val")
    with pytest.raises(CasesError, match="no finding Nodule; the findings are: Mass, Edema, Hernia"):
        labelled_cases(store, labels, findings=["Mass", "Nodule"])
    train = labelled_cases(store, labels, split="train")
    with pytest.raises(CasesError, match=r"2 images are learned from and tested \(i2, i3\)"):
        check_apart(train, train.keep(train.patients == "p1"), ("learned from", "tested"))
    others = replace(train, ids=np.char.add("other ", train.ids))
    with pytest.raises(CasesError, match=r"1 patient is learned from and tested \(p1\)"):
        check_apart(train, others.keep(train.patients == "p1"), ("learned from", "tested"))


def test_a_matrix_gives_rows_in_memory_and_streamed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    store = open_store(make_store(tmp_path / "store"))
    wanted = store.ids[::-1][:40]
    source = StoreSource(store, wanted, "features", "mean")
    standard = fit_standard(source)
    want = standard(store.read(wanted).vectors)
    dense = Matrix(source, standard).rows(np.arange(40))
    monkeypatch.setattr(vectors_module, "_DENSE_BYTES", 0)
    np.testing.assert_array_equal(dense, want)
    np.testing.assert_array_equal(Matrix(source, standard).rows(np.array([3, 30])), want[[3, 30]])


def test_images_without_a_patient_are_patients_of_their_own(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", SPEC) as writer:
        for number in range(6):
            vectors = {name: np.full(shape, number) for name, shape in SPEC.outputs.items()}
            writer.add_vector(Row(image_id=f"i{number}", patient_id="", content=content(number)), vectors)
        writer.flush("toy engine")
    path = tmp_path / "labels.csv"
    path.write_text("image_id,Mass\n" + "".join(f"i{n},{n % 2}\n" for n in range(6)))
    cases = labelled_cases(open_store(tmp_path / "store"), read_labels(path))
    assert len(set(cases.patients.tolist())) == 6
    assert "6 images have no patient_id; each counts as a patient of its own: i0, i1, i2" in cases.notes[0]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_can_train_too() -> None:
    code = (
        "import os, signal, numpy as np\n"
        "from cxr_embed import LinearProbe\n"
        "x, y = np.random.default_rng(0).standard_normal((900, 5)), np.arange(900) % 2\n"
        "LinearProbe(1.0).fit(x, y)\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    signal.alarm(60)\n"  # a wait for threads that are not there would never end
        "    LinearProbe(1.0).fit(x, y)\n"
        "    os._exit(0)\n"
        "raise SystemExit(os.waitpid(child, 0)[1])\n"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_probabilities_of_large_logits() -> None:
    assert probability(np.array([-1e4, 0.0, 1e4])).tolist() == [0.0, 0.5, 1.0]
    assert np.isnan(probability(np.array([np.nan]))[0])
