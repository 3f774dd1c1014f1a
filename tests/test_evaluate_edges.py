"""Evaluation where figures are 0 or 1, scores huge or all alike, a calibration not to be had: no false certainty."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from cxr_embed.evaluation import Evaluation, ScoresError, compare, evaluate
from cxr_embed.metrics import NO_SPREAD, Estimate, calibrate, threshold_for_sensitivity, threshold_for_specificity
from cxr_embed.present.numbers import PLAIN
from cxr_embed.reporting.figure_tables import figure_cells
from cxr_embed.types import Labels
from cxr_embed.zeroshot import Scores

COUNT = 60
IDS = np.array([f"i{n:02}" for n in range(COUNT)])
POSITIVE = (np.arange(COUNT) % 5 == 0).astype(np.float32)
PATIENTS = {image_id: f"p{n // 2}" for n, image_id in enumerate(IDS.tolist())}


def judged(values: Sequence[float] | np.ndarray, **options: object) -> Evaluation:
    """One finding's scores against 12 positives of 60."""
    scores = Scores(ids=IDS, names=("Mass",), values=np.asarray(values, np.float64)[:, None], kind="margin")
    labels = Labels(IDS, ("Mass",), POSITIVE[:, None])
    return evaluate(scores, labels, **{"patients": PATIENTS, "bootstraps": 200, **options})  # type: ignore[arg-type]


def test_scores_the_wrong_way_round_are_told_even_when_all_are() -> None:
    found = judged(-POSITIVE)
    assert found.findings[0].figures["auroc"].value == 0
    assert "AUROC under 0.5, negatives score higher: Mass (0.000)" in found.warnings


def test_scores_that_are_all_alike_have_no_interval_and_are_told() -> None:
    found = judged(np.full(COUNT, 0.5))
    figure = found.findings[0].figures["auroc"]
    assert (figure.value, figure.low, figure.reason) == (0.5, None, NO_SPREAD)
    assert "every case has the same score: Mass" in found.warnings


@pytest.mark.parametrize(
    ("figure", "shown"),
    [
        ((0.818, 0.807, 0.828), "0.818 (0.807-0.828)"),
        ((0.0002, 0.0001, 0.0004), "0.0002 (0.0001-0.0004)"),
        ((0.0002, 0.0, 0.0006), "0.000 (0.000-0.001)"),
        ((0.00002, None, None), "0.00002"),
        ((0.0, 0.0, 0.0), "0.000 (0.000-0.000)"),
        ((1e-17, -1e-16, 1e-16), "0.000 (0.000-0.000)"),
    ],
)
def test_a_small_figure_is_told_from_zero(figure: tuple[float, float | None, float | None], shown: str) -> None:
    assert PLAIN.estimate(Estimate(*figure)) == shown
    of_page = figure_cells(dict(zip(("f", "f_low", "f_high"), figure, strict=True)), "f")
    assert " ".join(filter(None, of_page)) == shown.replace("(", "").replace(")", "").replace("-", " to ")


def test_a_perfect_ranking_is_not_certain() -> None:
    figures = judged(POSITIVE + np.linspace(0, 0.5, COUNT)).findings[0].figures
    for name in ("auroc", "average_precision"):
        assert figures[name].value == pytest.approx(1)
        # No 12 positives show more than that.
        assert figures[name].low < 0.8


def test_predictive_values_know_that_nobody_flagged_is_no_certainty() -> None:
    rng = np.random.default_rng(0)
    scores = np.where(POSITIVE == 1, rng.random(COUNT), 0.4 * rng.random(COUNT))
    figures = judged(scores, threshold=0.45, prevalence=0.02).findings[0].figures
    assert figures["specificity"].value == figures["ppv"].value == 1
    # 24 patients without it: up to 14% of alarms, at 2% of cases.
    assert figures["ppv"].low < 0.15
    assert figures["net_benefit"].low < 0 < figures["net_benefit"].value
    none = judged(scores, threshold=2.0, prevalence=0.1).findings[0].figures
    assert none["npv"].value == pytest.approx(0.9)
    assert none["npv"].low < 0.89 < 0.91 < none["npv"].high
    assert none["ppv"].reason == "nothing is flagged, or everything"
    assert none["net_benefit"].reason == "the threshold is not a probability under 1"


def test_groups_that_both_reach_the_end_may_differ_all_the_same(tmp_path: Path) -> None:
    lines = [f"{image_id},p{n // 2},{'FMM'[n // 2 % 3]},{POSITIVE[n]:.0f}" for n, image_id in enumerate(IDS.tolist())]
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(["image_id,patient_id,sex,Mass", *lines]))
    scores = Scores(ids=IDS, names=("Mass",), values=(POSITIVE + np.linspace(0, 0.5, COUNT))[:, None], kind="margin")
    options = {"threshold": 0.9, "prevalence": 0.1, "bootstraps": 200}
    found = evaluate(scores, labels, by=("sex", "sex"), **options)  # type: ignore[arg-type]
    assert [group.group for group in found.groups] == ["F", "M"]
    for name in ("auroc", "average_precision", "sensitivity", "specificity", "f1", "ppv", "npv"):
        apart = found.groups[0].differences[name]
        assert apart.value == pytest.approx(0)
        assert apart.low < -0.03 < 0.03 < apart.high, name


def test_what_could_not_be_calibrated_has_no_probabilities() -> None:
    rng = np.random.default_rng(0)
    values = rng.random((COUNT, 2))
    truth = np.stack([POSITIVE, np.where(np.arange(COUNT) < 30, 0, POSITIVE)], axis=1)
    names = ("Mass", "Edema")
    validation, test = slice(0, 30), slice(30, COUNT)
    found = evaluate(
        Scores(ids=IDS[test], names=names, values=values[test], kind="margin"),
        Labels(IDS, names, truth),
        patients=PATIENTS,
        thresholds_from=Scores(ids=IDS[validation], names=names, values=values[validation], kind="margin"),
        calibrate="platt",
        bootstraps=50,
    )
    assert found.finding("Mass").figures["brier"].value is not None
    edema = found.finding("Edema")
    assert (edema.figures["brier"].value, edema.reliability) == (None, ())
    assert edema.figures["brier"].reason == "in the validation part all 30 labels are negative"
    assert "no threshold: Edema (in the validation part all 30 labels are negative)" in found.warnings
    assert "no probabilities: Edema (in the validation part all 30 labels are negative)" in found.warnings


@pytest.mark.parametrize("size", [1e300, 1e-300, -1e300])
def test_huge_and_tiny_scores_are_numbers_like_others(size: float) -> None:
    scores = np.random.default_rng(0).normal(size=COUNT) + POSITIVE
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        large, plain = (calibrate(POSITIVE, scores * scale, "platt") for scale in (abs(size), 1.0))
        # A finding's scale is no matter: the same probabilities.
        np.testing.assert_allclose(large(scores * abs(size)), plain(scores), rtol=1e-5)
        for of in (threshold_for_sensitivity, threshold_for_specificity):
            for target in (0.5, 1.0):
                assert np.isfinite(of(POSITIVE, scores * size, target))
        told = judged(scores * size, threshold=0.0).to_json()
    json.loads(json.dumps(told, allow_nan=False))


def test_the_same_ranking_does_not_differ_and_two_perfect_ones_are_not_told_apart() -> None:
    truth, ids = Labels(IDS, ("Mass",), POSITIVE[:, None]), IDS

    def scored(values: np.ndarray) -> Scores:
        return Scores(ids=ids, names=("Mass",), values=values[:, None], kind="margin")

    values = np.random.default_rng(0).normal(size=COUNT)
    for patients in (PATIENTS, None):
        same = compare(scored(values), scored(values * 3), truth, patients=patients, bootstraps=100)
        found = same.findings[0].auroc
        assert (found.difference.low, found.difference.high, found.p) == (0, 0, 1)
        one, other = (scored(POSITIVE + np.random.default_rng(seed).random(COUNT) / 2) for seed in (1, 2))
        apart = compare(one, other, truth, patients=patients, bootstraps=100).findings[0].auroc
        assert (apart.difference.value, apart.difference.low, apart.p) == (0, None, None)
        assert apart.difference.reason == NO_SPREAD


@pytest.mark.parametrize("stated", [0.0, 1.0])
def test_a_prevalence_is_a_part(stated: float) -> None:
    with pytest.raises(ScoresError, match="neither 0 nor 1"):
        judged(np.linspace(0, 1, COUNT), prevalence=stated)
