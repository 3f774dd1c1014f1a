"""Evaluation: joined by id, equal to plain figures, honest about what is not defined; the verb as typed."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import fill, run_cli, vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

import cxr_embed
from cxr_embed.cases import CasesError, match_names
from cxr_embed.errors import CxrEmbedError, ManifestError
from cxr_embed.evaluation import ScoresError, compare, evaluate, read_scores
from cxr_embed.evaluation.thresholds import ThresholdRule
from cxr_embed.metrics import delong_difference, threshold_by_youden
from cxr_embed.types import Labels
from cxr_embed.zeroshot import Scores

NAMES = ("Effusion", "Mass", "Pleural_Thickening")
IMAGES = 240


def write(path: Path, rows: list[list[Any]]) -> Path:
    """A CSV, compressed where its name says so."""
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "wt", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    return path


@pytest.fixture
def tables(tmp_path: Path) -> tuple[Path, Path]:
    """Scores and labels of 240 images of 100 patients, in splits by patient, with sex, age and view."""
    rng = np.random.default_rng(0)
    patients = np.sort(rng.integers(0, 100, IMAGES))
    labels = rng.random((IMAGES, 3)) < (0.3, 0.2, 0.25)
    scores = 1 / (1 + np.exp(-(labels * 1.5 + rng.normal(size=(IMAGES, 3)) - 2)))
    score_rows: list[list[Any]] = [["image_id", *NAMES]]
    label_rows: list[list[Any]] = [["image_id", "patient_id", "split", "sex", "age", "view", *NAMES]]
    for n in range(IMAGES):
        score_rows.append([f"i{n}", *(f"{value:.6f}" for value in scores[n])])
        patient = int(patients[n])
        split = "test" if patient % 2 else "validate"
        facts = [f"p{patient}", split, "FM"[patient % 3 == 0], 20 + patient % 70, ("PA", "AP")[n % 2]]
        label_rows.append([f"i{n}", *facts, *labels[n].astype(int)])
    return write(tmp_path / "scores.csv", score_rows), write(tmp_path / "labels.csv", label_rows)


def columns(path: Path) -> dict[str, np.ndarray]:
    """A table's columns; numbers where all are."""
    with open(path, newline="") as file:
        rows = list(csv.reader(file))
    found = {}
    for name, values in zip(rows[0], zip(*rows[1:], strict=True), strict=True):
        try:
            found[name] = np.array([float(value) for value in values])
        except ValueError:
            found[name] = np.array(values)
    return found


def test_figures_are_scikit_learns(tables: tuple[Path, Path]) -> None:
    scores, labels = (columns(path) for path in tables)
    found = evaluate(*tables, bootstraps=100)
    assert [finding.name for finding in found.findings] == list(NAMES)
    for finding in found.findings:
        figures = finding.figures
        assert figures["auroc"].value == roc_auc_score(labels[finding.name], scores[finding.name])
        assert figures["average_precision"].value == average_precision_score(labels[finding.name], scores[finding.name])
        assert figures["brier"].value == pytest.approx(np.mean((labels[finding.name] - scores[finding.name]) ** 2))
        assert figures["auroc"].low < figures["auroc"].value < figures["auroc"].high
        assert (finding.n, finding.positives) == (IMAGES, labels[finding.name].sum())
        assert finding.auroc_interval == "bootstrap over patients"
    assert found.mean_auroc.value == pytest.approx(np.mean([f.figures["auroc"].value for f in found.findings]))
    assert found.mean_auroc.low < found.mean_auroc.value < found.mean_auroc.high
    assert found.patients == len(set(labels["patient_id"]))


def test_published_figures_to_all_their_digits(real_data: Path) -> None:
    folder = real_data / "peer-tables"
    if not folder.is_dir():
        pytest.skip("the real data here has no peer-tables")
    done = run_cli(
        "evaluate",
        str(folder / "chexnet-scores.csv.gz"),
        str(folder / "nih-labels.csv.gz"),
        "--json",
        "--bootstraps",
        "20",
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    with open(folder / "published-auroc.csv", newline="") as file:
        published = {row["label"]: row["auc"] for row in csv.DictReader(file)}
    assert {finding["finding"]: repr(finding["auroc"]) for finding in found["findings"]} == published
    assert found["findings_in_mean"] == 14
    assert found["patients"] == 6187
    assert found["intervals"]["clustered_by_patient"]
    for finding in found["findings"]:
        assert finding["auroc_low"] < finding["auroc"] < finding["auroc_high"]


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_rows_and_columns_changes_nothing(tmp_path_factory: pytest.TempPathFactory, random: Any) -> None:
    folder = tmp_path_factory.mktemp("order")
    rng = np.random.default_rng(0)
    score_rows = [[f"i{n}", *rng.random(2).tolist()] for n in range(60)]
    label_rows = [[f"i{n}", f"p{n // 3}", n % 2, n % 5 // 4] for n in range(60)]
    first = evaluate(
        write(folder / "s.csv", [["image_id", "Mass", "Edema"], *score_rows]),
        write(folder / "l.csv", [["image_id", "patient_id", "Mass", "Edema"], *label_rows]),
        bootstraps=40,
    )
    random.shuffle(score_rows)
    random.shuffle(label_rows)
    swapped = [[row[2], row[0], row[1]] for row in score_rows]
    other = [[row[3], row[2], row[1], row[0]] for row in label_rows]
    second = evaluate(
        write(folder / "s2.csv.gz", [["Edema", "image_id", "Mass"], *swapped]),
        write(folder / "l2.csv", [["Edema", "Mass", "patient_id", "image_id"], *other]),
        bootstraps=40,
    )
    assert {f.name: f for f in first.findings} == {f.name: f for f in second.findings}


def test_a_finding_does_not_hang_on_the_others(tables: tuple[Path, Path], tmp_path: Path) -> None:
    scores = columns(tables[0])
    alone = write(tmp_path / "alone.csv", [["image_id", "Mass"], *zip(scores["image_id"], scores["Mass"], strict=True)])
    assert evaluate(alone, tables[1], bootstraps=50).findings[0] == evaluate(*tables, bootstraps=50).finding("Mass")


def test_a_rare_finding_does_not_lose_the_interval_of_the_mean(tmp_path: Path) -> None:
    """Two patients have it: one draw of all patients in seven would miss both, and the mean would not be defined."""
    rng = np.random.default_rng(0)
    label_rows = [[f"i{n}", f"p{n}", int(n % 3 == 0), int(n in (5, 6))] for n in range(100)]
    labels = write(tmp_path / "l.csv", [["image_id", "patient_id", "A", "B"], *label_rows])
    score_rows = [[row[0], row[2] + rng.normal(), row[3] + rng.normal()] for row in label_rows]
    found = evaluate(write(tmp_path / "s.csv", [["image_id", "A", "B"], *score_rows]), labels, bootstraps=300)
    assert found.covered == 2
    assert found.mean_auroc.low < found.mean_auroc.value < found.mean_auroc.high


def test_a_finding_of_one_patient_leaves_the_mean_without_an_interval(tmp_path: Path) -> None:
    """It would be the same in every draw, and the mean's interval too narrow."""
    rng = np.random.default_rng(0)
    label_rows = [[f"i{n}", f"p{n}", int(n % 3 == 0), int(n == 5)] for n in range(100)]
    labels = write(tmp_path / "l.csv", [["image_id", "patient_id", "A", "B"], *label_rows])
    files = []
    for name in ("s.csv", "t.csv"):
        rows = [[row[0], row[2] + rng.normal(), row[3] + rng.normal()] for row in label_rows]
        files.append(write(tmp_path / name, [["image_id", "A", "B"], *rows]))
    found = evaluate(files[0], labels, bootstraps=50)
    assert (found.covered, found.mean_auroc.low) == (2, None)
    assert "a finding of a single patient" in found.mean_auroc.reason
    apart = compare(*files, labels, bootstraps=50).mean_auroc
    assert (apart.difference.low, apart.p) == (None, None)


def test_parquet_and_values_in_memory_are_the_same(tables: tuple[Path, Path], tmp_path: Path) -> None:
    plain = evaluate(*tables, bootstraps=50)
    scores, labels = (columns(path) for path in tables)
    pq.write_table(pa.table(scores), tmp_path / "scores.parquet")
    assert evaluate(tmp_path / "scores.parquet", tables[1], bootstraps=50).findings == plain.findings
    values = np.stack([scores[name] for name in NAMES], axis=1)
    truth = np.stack([labels[name] for name in NAMES], axis=1).astype(np.float32)
    memory = cxr_embed.evaluate(
        Scores(ids=scores["image_id"][::-1], names=NAMES, values=values[::-1], kind="softmax"),
        Labels(labels["image_id"], NAMES, truth),
        patients=dict(zip(labels["image_id"].tolist(), labels["patient_id"].tolist(), strict=True)),
        bootstraps=50,
    )
    assert memory.findings == plain.findings


def test_json_has_the_names_that_scripts_rely_on(tables: tuple[Path, Path]) -> None:
    found = evaluate(*tables, bootstraps=20, threshold=0.3, prevalence=0.05, by=("sex",)).to_json()
    json.dumps(found, allow_nan=False)
    assert {"findings", "mean_auroc", "findings_in_mean", "warnings"} <= set(found)
    first = found["findings"][0]
    for name in ("auroc", "average_precision", "sensitivity", "specificity", "f1", "ppv", "npv", "net_benefit"):
        assert first[f"{name}_low"] <= first[name] <= first[f"{name}_high"], name
    assert {"finding", "n", "positives", "brier", "calibration_error", "undefined"} <= set(first)
    assert sum(part["n"] for part in first["reliability"]) == first["n"]


def test_patients_come_from_either_file(tmp_path: Path) -> None:
    labels = write(tmp_path / "l.csv", [["image_id", "Mass"], *[[f"i{n}", n % 3 == 0] for n in range(40)]])
    labels.write_text(labels.read_text().replace("True", "1").replace("False", "0"))
    rows = [[f"i{n}", f"p{n // 4}", n * 7 % 11] for n in range(40)]
    clustered = evaluate(write(tmp_path / "s.csv", [["image_id", "patient_id", "Mass"], *rows]), labels, bootstraps=50)
    assert (clustered.patients, clustered.findings[0].patients) == (10, 10)
    alone = evaluate(
        write(tmp_path / "s2.csv", [["image_id", "Mass"], *[[row[0], row[2]] for row in rows]]), labels, bootstraps=50
    )
    assert alone.patients is None
    assert alone.findings[0].auroc_interval == "DeLong"
    assert any("no patient_id in either file" in warning for warning in alone.warnings)
    both = write(
        tmp_path / "l2.csv",
        [["image_id", "patient_id", "Mass"], *[[f"i{n}", f"p{n // 4 + (n == 39)}", n % 3 // 2] for n in range(40)]],
    )
    with pytest.raises(
        CasesError, match=r"1 image has one patient in .* and another in the scores, such as i39: p10 and p9"
    ):
        evaluate(tmp_path / "s.csv", both)


def test_undefined_has_a_reason_and_no_part_in_the_mean(tmp_path: Path) -> None:
    rows = [[f"i{n}", f"p{n}", n % 2, 0, 1, "", n < 3] for n in range(30)]
    labels = write(tmp_path / "l.csv", [["image_id", "patient_id", "A", "B", "C", "D", "E"], *rows])
    labels.write_text(labels.read_text().replace("True", "1").replace("False", "0"))
    scores = write(
        tmp_path / "s.csv", [["image_id", *"ABCDE"], *[[f"i{n}", *[n * 5 % 7 - 3.5] * 5] for n in range(30)]]
    )
    found = evaluate(scores, labels, bootstraps=50, threshold=0)
    told = {f.name: (f.figures["auroc"].value, f.figures["auroc"].reason) for f in found.findings}
    assert told["B"] == (None, "all 30 labels are negative")
    assert told["C"] == (None, "all 30 labels are positive")
    assert told["D"] == (None, "no image has a label")
    assert found.covered == 2
    assert found.mean_auroc.value == pytest.approx((told["A"][0] + told["E"][0]) / 2)
    # A specificity needs negatives only, and there are 30.
    assert found.finding("B").figures["specificity"].value is not None
    assert found.finding("B").figures["sensitivity"].value is None
    assert found.finding("B").figures["brier"].reason.startswith("the scores are not probabilities")
    text = " | ".join(found.warnings)
    assert "no AUROC, and no part in the mean: B (all 30 labels are negative); C" in text
    assert "fewer than 10 positives, too few to judge by: E (3)" in text
    assert "scores are not all in 0..1: Brier score" in text
    assert "enriched prevalence? Many cases are positive: A (50%)" in text
    assert found.to_json()["findings"][1]["auroc"] is None


def test_one_positive_patient_has_no_interval(tmp_path: Path) -> None:
    labels = write(
        tmp_path / "l.csv", [["image_id", "patient_id", "A"], *[[f"i{n}", f"p{n // 2}", int(n < 2)] for n in range(20)]]
    )
    scores = write(tmp_path / "s.csv", [["image_id", "A"], *[[f"i{n}", (n * 3 + 5) % 8] for n in range(20)]])
    figure = evaluate(scores, labels, bootstraps=50).findings[0].figures["auroc"]
    assert figure.value is not None
    assert (figure.low, figure.reason) == (None, "no interval: a single patient shows no spread")


def test_what_does_not_fit_is_told(tables: tuple[Path, Path], tmp_path: Path) -> None:
    scores, labels = tables
    text = scores.read_text().replace("Pleural_Thickening", "pleural thickening").replace("i239,", "other,")
    renamed = tmp_path / "renamed.csv"
    renamed.write_text(text.replace("Mass", "Something"))
    found = evaluate(renamed, labels, bootstraps=10)
    assert found.images == IMAGES - 1
    assert [(f.name, f.label) for f in found.findings] == [
        ("Effusion", "Effusion"),
        ("pleural thickening", "Pleural_Thickening"),
    ]
    text = " | ".join(found.warnings)
    assert "1 labelled id has no score (i239)" in text
    assert "1 scored id has no label (other)" in text
    assert "scores without labels, left out: Something" in text
    assert "labels without scores, left out: Mass" in text
    assert "matched by a like name: pleural thickening = Pleural_Thickening" in text


@pytest.mark.parametrize(
    ("scores", "labels", "said"),
    [
        ("image_id,A\ni1,0.5\ni1,0.6\n", "image_id,A\ni1,1\n", "image_id is not unique: 'i1' in line 3"),
        (
            "image_id,A\ni1,nan\ni2,inf\ni3,\n",
            "image_id,A\ni1,1\n",
            "A is not a finite number: 'nan' in line 2, 'inf' in",
        ),
        ("image_id,A\ni1,high\n", "image_id,A\ni1,1\n", "A is not a finite number: 'high' in line 2"),
        ("image_id,A\nx1,0.5\n", "image_id,A\ni1,1\n", "no image_id in common: 'x1' in the scores, 'i1' in the labels"),
        ("image_id,Edemma\ni1,0.5\n", "image_id,Edema\ni1,1\n", "'Edemma' is near 'Edema'"),
        (
            "image_id,A\ni1,0.5\n",
            "image_id,Zebra\ni1,1\n",
            "no finding in common: A in the scores, Zebra in the labels",
        ),
        ("image_id,A\ni1,0.5\n", "image_id,A\ni1,\n", "every label of the 1 image with scores is unknown"),
        ("image_id,A\ni1,0.5\n", "image_id,A\ni1,2\n", "finding A is not 0, 1, -1 or blank"),
        ("image_id,A\ni1,0.5\n", "image_id,A\ni1,1\ni1,0\n", "image_id is not unique"),
        ("name,A\ni1,0.5\n", "image_id,A\ni1,1\n", "column image_id is missing"),
        ("image_id,A\n", "image_id,A\ni1,1\n", "the table has no rows"),
        ("image_id,a b,A-B\ni1,0.5,1\n", "image_id,a_b\ni1,1\n", "a b and A-B are both for the label a_b"),
        ("image_id,patient_id,A\ni1,,0.5\n", "image_id,A\ni1,1\n", "patient_id is blank"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, scores: str, labels: str, said: str) -> None:
    for name, text in (("s.csv", scores), ("l.csv", labels)):
        (tmp_path / name).write_text(text)
    with pytest.raises(CxrEmbedError) as caught:
        evaluate(tmp_path / "s.csv", tmp_path / "l.csv")
    assert said in str(caught.value)


def test_values_in_memory_are_checked_too() -> None:
    labels = Labels(np.array(["a", "b"]), ("A",), np.array([[1], [0]], np.float32))
    ids = np.array(["a", "b"])
    with pytest.raises(ScoresError, match="A is not a finite number: nan for b"):
        evaluate(Scores(ids=ids, names=("A",), values=np.array([[1], [np.nan]]), kind="margin"), labels)
    with pytest.raises(ScoresError, match="scores: image ids stand twice: a"):
        evaluate(Scores(ids=np.array(["a", "a"]), names=("A",), values=np.ones((2, 1)), kind="margin"), labels)
    with pytest.raises(ScoresError, match=r"scores have the shape \(2, 2\)"):
        evaluate(Scores(ids=ids, names=("A",), values=np.ones((2, 2)), kind="margin"), labels)
    good = Scores(ids=ids, names=("A",), values=np.array([[1.0], [0.0]]), kind="margin")
    with pytest.raises(CasesError, match="neither 0, 1 nor unknown"):
        evaluate(good, Labels(ids, ("A",), np.array([[3], [0]], np.float32)))
    with pytest.raises(CasesError, match="no patient is given for b"):
        evaluate(good, labels, patients={"a": "p"})
    with pytest.raises(CasesError, match="have no splits"):
        evaluate(good, labels, split="test")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"threshold": "youden"}, "`threshold` youden is chosen on cases that are not tested"),
        ({"calibrate": "platt"}, "`calibrate` platt is chosen on cases that are not tested"),
        ({"threshold": "best", "split": "test", "thresholds_split": "validate"}, "`threshold` is youden, f1,"),
        ({"threshold": "sensitivity=2", "split": "test", "thresholds_split": "validate"}, "`threshold` is youden, f1,"),
        ({"threshold": "nan"}, "`threshold` is youden, f1,"),
        ({"calibrate": "beta"}, "`calibrate` is platt or isotonic"),
        ({"thresholds_split": "validate"}, "images are tested and in the validation part"),
        ({"split": "nowhere"}, "no image is in the split 'nowhere'; the splits are: test, validate"),
        ({"by": ("site",)}, "`by` site: the labels have no such column; they have patient_id, split, sex, age, view"),
        ({"by": ("patient_id",)}, "make no groups"),
        ({"by": ("split",), "split": "test"}, "all cases are test"),
        ({"prevalence": {"Nodule": 0.1}}, "`prevalence` Nodule=0.1: no such finding"),
        ({"prevalence": 2.0}, "`prevalence` is a part of 1"),
        ({"bootstraps": -1}, "`bootstraps` is a count"),
    ],
)
def test_options_that_do_not_fit_are_named(tables: tuple[Path, Path], options: dict[str, Any], said: str) -> None:
    with pytest.raises(CxrEmbedError) as caught:
        evaluate(*tables, **{"bootstraps": 10, **options})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("words", "rule"),
    [
        ("flag-rate=1e-05", ThresholdRule("flag rate", 1e-05)),
        ("sensitivity=0.9", ThresholdRule("sensitivity", 0.9)),
        ("f1", ThresholdRule("f1")),
        (0.5, ThresholdRule("stated", 0.5)),
    ],
)
def test_words_for_a_threshold(words: str | float, rule: ThresholdRule) -> None:
    assert ThresholdRule.parse(words) == rule
    with pytest.raises(ScoresError, match="`threshold` is youden, f1"):
        ThresholdRule.parse(f"{rule.kind}=nan")


def test_thresholds_hang_on_the_validation_part_alone(tables: tuple[Path, Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"split": "test", "thresholds_split": "validate", "bootstraps": 20}
    found = evaluate(*tables, **options, calibrate="platt")
    scores, labels = (columns(path) for path in tables)
    validation = labels["split"] == "validate"
    for finding in found.findings:
        expected = threshold_by_youden(labels[finding.name][validation], scores[finding.name][validation])
        assert finding.threshold == pytest.approx(expected)
        assert finding.threshold_rule == "Youden's index in the validation part"
    # Other labels of the test cases change what is found, not what was chosen.
    with open(tables[1], newline="") as file:
        rows = list(csv.reader(file))
    turned = [row if row[2] != "test" else [*row[:6], *(str(1 - int(value)) for value in row[6:])] for row in rows[1:]]
    other = evaluate(tables[0], write(tmp_path / "turned.csv", [rows[0], *turned]), **options, calibrate="platt")
    for one, two in zip(found.findings, other.findings, strict=True):
        assert (one.threshold, one.calibrator) == (two.threshold, two.calibrator)
        assert one.figures["auroc"].value == pytest.approx(1 - two.figures["auroc"].value)


@pytest.mark.parametrize(("rule", "figure"), [("sensitivity=0.9", "sensitivity"), ("specificity=0.8", "specificity")])
def test_a_target_is_met_on_the_part_that_it_is_chosen_on(
    tables: tuple[Path, Path], tmp_path: Path, rule: str, figure: str
) -> None:
    target = float(rule.partition("=")[2])
    # The validation part once more under other ids and patients, as the test part.
    with open(tables[1], newline="") as file:
        rows = list(csv.reader(file))
    again = [[f"t{row[0]}", f"t{row[1]}", "again", *row[3:]] for row in rows[1:] if row[2] == "validate"]
    with open(tables[0], newline="") as file:
        scored = list(csv.reader(file))
    labels = write(tmp_path / "l.csv", [*rows, *again])
    scores = write(tmp_path / "s.csv", [*scored, *[[f"t{row[0]}", *row[1:]] for row in scored[1:]]])
    found = evaluate(scores, labels, split="again", thresholds_split="validate", threshold=rule, bootstraps=20)
    for finding in found.findings:
        assert finding.figures[figure].value >= target
        assert finding.figures[figure].value < target + 0.1
        assert finding.threshold_rule == f"{figure} of at least {target:g} in the validation part"


def test_margins_become_probabilities_by_calibration(tables: tuple[Path, Path], tmp_path: Path) -> None:
    with open(tables[0], newline="") as file:
        rows = list(csv.reader(file))
    margins = [[row[0], *(f"{100 * float(value) - 70:.4f}" for value in row[1:])] for row in rows[1:]]
    scores = write(tmp_path / "margins.csv", [rows[0], *margins])
    options: dict[str, Any] = {"split": "test", "thresholds_split": "validate", "bootstraps": 20}
    plain = evaluate(scores, tables[1], **options)
    assert plain.findings[0].figures["brier"].value is None
    assert not plain.findings[0].reliability
    for kind in ("platt", "isotonic"):
        found = evaluate(scores, tables[1], **options, calibrate=kind)
        for finding, before in zip(found.findings, plain.findings, strict=True):
            assert 0 < finding.figures["brier"].value < 0.25
            assert finding.figures["net_benefit"].value is not None
            assert finding.reliability
            # Ranking is that of the scores themselves, whatever ties a calibration makes.
            assert finding.figures["auroc"] == before.figures["auroc"]
            assert finding.figures["sensitivity"] == before.figures["sensitivity"]


def test_a_patient_on_both_sides_is_named(tables: tuple[Path, Path], tmp_path: Path) -> None:
    with open(tables[1], newline="") as file:
        rows = list(csv.reader(file))
    # No split column: a manifest would refuse it before.
    first, rest = rows[1:121], rows[121:]
    shared = [*rest[0][:1], first[0][1], *rest[0][2:]]
    labels = write(tmp_path / "l.csv", [row[:2] + row[3:] for row in [rows[0], *first, shared, *rest[1:]]])
    with open(tables[0], newline="") as file:
        scored = list(csv.reader(file))
    test = write(tmp_path / "test.csv", scored[:121])
    validation = write(tmp_path / "validation.csv", [scored[0], *scored[121:]])
    with pytest.raises(CasesError, match=rf"1 patient is tested and in the validation part \({first[0][1]}\)"):
        evaluate(test, labels, thresholds_from=validation, bootstraps=10)


def test_thresholds_that_were_known_before(tables: tuple[Path, Path]) -> None:
    found = evaluate(*tables, threshold={"Mass": 0.2}, bootstraps=20)
    scores, labels = (columns(path) for path in tables)
    mass = found.finding("Mass")
    assert (mass.threshold, mass.threshold_rule) == (0.2, "stated, not chosen")
    assert mass.figures["sensitivity"].value == pytest.approx((scores["Mass"][labels["Mass"] == 1] >= 0.2).mean())
    assert found.finding("Effusion").threshold is None
    assert "no threshold" in found.finding("Effusion").figures["f1"].reason


def test_enriched_prevalence_is_told(tables: tuple[Path, Path]) -> None:
    found = evaluate(*tables, threshold=0.3, prevalence={"Mass": 0.01, "Effusion": 0.25}, bootstraps=20)
    (told,) = [warning for warning in found.warnings if warning.startswith("enriched prevalence:")]
    assert "Mass" in told
    assert "1.0% stated" in told
    assert "Effusion" not in told
    mass = found.finding("Mass").figures
    hits = 0.01 * mass["sensitivity"].value
    alarms = 0.99 * (1 - mass["specificity"].value)
    assert mass["ppv"].value == pytest.approx(hits / (hits + alarms))
    assert found.finding("Pleural_Thickening").figures["ppv"].reason == "no prevalence is stated"


def test_groups_are_their_cases_and_no_others(tables: tuple[Path, Path]) -> None:
    found = evaluate(*tables, by=("sex", "age", "view"), threshold=0.3, bootstraps=100)
    scores, labels = (columns(path) for path in tables)
    bands = {"18-39": (18, 40), "40-59": (40, 60), "60-79": (60, 80), "80 and over": (80, 200)}
    for group in found.groups:
        here = (
            labels[group.attribute] == group.group
            if group.attribute != "age"
            else np.logical_and(labels["age"] >= bands[group.group][0], labels["age"] < bands[group.group][1])
        )
        truth, scored = labels[group.finding][here], scores[group.finding][here]
        assert (group.n, group.positives) == (here.sum(), truth.sum())
        assert group.figures["auroc"].value == roc_auc_score(truth, scored)
        if group.group == group.reference:
            assert not group.differences
            continue
        (reference,) = [
            other
            for other in found.groups
            if (other.finding, other.attribute, other.group) == (group.finding, group.attribute, group.reference)
        ]
        difference = group.differences["auroc"]
        assert difference.value == pytest.approx(group.figures["auroc"].value - reference.figures["auroc"].value)
        assert difference.low < difference.value < difference.high
        # Independent halves vary as the sum of their variances does; groups that share patients do not.
        if group.attribute == "sex":
            widths = [
                from_ends.high - from_ends.low for from_ends in (group.figures["auroc"], reference.figures["auroc"])
            ]
            assert difference.high - difference.low == pytest.approx(np.hypot(*widths), rel=0.3)
    assert {g.group for g in found.groups if g.attribute == "age"} == set(bands)
    assert len(found.groups) == 3 * (2 + 4 + 2)


def test_equal_scores_do_not_differ_and_order_turns_the_sign(tables: tuple[Path, Path], tmp_path: Path) -> None:
    same = compare(tables[0], tables[0], tables[1], bootstraps=50)
    assert same.mean_auroc.difference.value == 0
    assert same.mean_auroc.p == 1
    assert all(finding.auroc.p_holm == 1 for finding in same.findings)
    with open(tables[0], newline="") as file:
        rows = list(csv.reader(file))
    rng = np.random.default_rng(1)
    noisy = [[row[0], *(f"{float(value) + rng.normal() / 10:.6f}" for value in row[1:])] for row in rows[1:]]
    other = write(tmp_path / "noisy.csv", [rows[0], *noisy])
    one, two = (
        compare(tables[0], other, tables[1], bootstraps=200),
        compare(other, tables[0], tables[1], bootstraps=200),
    )
    for a, b in zip(one.findings, two.findings, strict=True):
        assert a.auroc.difference.value == pytest.approx(-b.auroc.difference.value)
        assert a.auroc.difference.low == pytest.approx(-b.auroc.difference.high)
        assert a.auroc.p == pytest.approx(b.auroc.p)
        assert a.auroc.p_holm >= a.auroc.p
        assert a.auroc.first == evaluate(tables[0], tables[1], bootstraps=0).finding(a.name).figures["auroc"].value
        assert a.test == "bootstrap over patients"
    assert one.mean_auroc.difference.value == pytest.approx(np.mean([f.auroc.difference.value for f in one.findings]))
    json.dumps(one.to_json(), allow_nan=False)


def test_independent_cases_are_compared_by_delong(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(80) < 0.4
    scored = rng.normal(size=(2, 80)) + truth
    labels = write(
        tmp_path / "l.csv",
        [["image_id", "patient_id", "A"], *[[f"i{n:02}", f"p{n}", int(truth[n])] for n in range(80)]],
    )
    files = [
        write(tmp_path / f"{k}.csv", [["image_id", "A"], *[[f"i{n:02}", repr(float(row[n]))] for n in range(80)]])
        for k, row in enumerate(scored)
    ]
    (found,) = compare(*files, labels, bootstraps=50).findings
    estimate, p = delong_difference(truth, *scored)
    assert found.test == "DeLong"
    assert found.auroc.difference == estimate
    assert found.auroc.p == p


def test_only_what_both_have_is_compared(tables: tuple[Path, Path], tmp_path: Path) -> None:
    with open(tables[0], newline="") as file:
        rows = list(csv.reader(file))
    fewer = write(tmp_path / "fewer.csv", [[row[0], row[2], row[1]] for row in rows[:200]])
    found = compare(tables[0], fewer, tables[1], bootstraps=20)
    assert found.images == 199
    assert [finding.name for finding in found.findings] == ["Effusion", "Mass"]
    assert all(finding.auroc.difference.value == 0 for finding in found.findings)
    text = " | ".join(found.warnings)
    assert "images that only one of the scores has are left out: 41 of first, 0 of second" in text
    assert "findings that only one of the scores has are left out: Pleural_Thickening" in text
    apart = write(tmp_path / "apart.csv", [rows[0], *rows[200:]])
    with pytest.raises(ScoresError, match="no image with a label in common"):
        compare(fewer, apart, tables[1])


def test_names_are_matched_but_not_guessed() -> None:
    assert match_names(("Pleural thickening", "Mass"), ("mass", "Pleural_Thickening"), "scores") == (
        "Pleural_Thickening",
        "mass",
    )
    assert match_names(("Infiltration",), ("Lung Opacity",), "scores") == (None,)
    with pytest.raises(ManifestError, match="which is the scores' a b"):
        match_names(("a b",), ("a_b", "A-b"), "scores")


def lines_of(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_the_verb_prints_tables_that_fit(
    tables: tuple[Path, Path], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    call = ["evaluate", *map(str, tables), "--split", "test", "--thresholds-split", "validate", "--by", "sex,age"]
    done = run_cli(*call, "--prevalence", "0.05", "--calibrate", "platt", "--bootstraps", "50")
    assert done.returncode == 0, done.stderr
    lines = lines_of(done.stdout)
    head = lines[0].split()
    assert head[:3] == ["finding", "n", "positive"]
    assert ("Brier" in head) is (width == 120)
    assert any(line.startswith("mean of 3 of 3") for line in lines)
    for name in (*NAMES, "  F", "  18-39"):
        assert any(line.startswith(name) for line in lines), name
    in_tables = [line for line in lines if not line.startswith(("thresholds:", "intervals:", "note:", str(tables[0])))]
    assert max(map(len, in_tables)) <= width
    assert "thresholds: Youden's index in the validation part" in lines
    assert any(line.startswith("intervals: 50 draws of ") for line in lines)
    assert lines[-1] == "For research; not a medical device."


def test_the_verb_prints_json_and_the_same_each_time(tables: tuple[Path, Path]) -> None:
    call = ["evaluate", *map(str, tables), "--json", "--bootstraps", "50", "--seed", "3"]
    first, second = run_cli(*call), run_cli(*call)
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    found = json.loads(first.stdout)
    assert found["findings"][0]["finding"] == "Effusion"
    assert found["intervals"]["seed"] == 3
    assert run_cli(*call[:-1], "4").stdout != first.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            ["--prevalence", "Nodule=0.1"],
            "error: --prevalence Nodule=0.1: no such finding",
        ),
        (["--prevalence", "high"], "error: --prevalence is a part of 1"),
        (
            ["--uncertain", "maybe"],
            "'maybe' is not one of 'unknown', 'positive', 'negative'",
        ),
        (["--threshold", "youden"], "error: --threshold youden is chosen on cases that are not tested"),
        (["--by", "sex,site"], "error: --by site: the labels have no such column"),
        (["--thresholds-from", "nowhere.csv"], "error: nowhere.csv: no such file"),
    ],
)
def test_mistakes_end_in_a_line(tables: tuple[Path, Path], change: list[str], said: str) -> None:
    done = run_cli("evaluate", *map(str, tables), "--bootstraps", "10", *change)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert done.stderr.count("\n") <= 2
    assert "Traceback" not in done.stderr


def test_uncertain_and_blank_labels_are_left_out(tmp_path: Path) -> None:
    values = ["1", "0", "-1", ""] * 10
    labels = write(tmp_path / "l.csv", [["image_id", "A"], *[[f"i{n}", value] for n, value in enumerate(values)]])
    scores = write(tmp_path / "s.csv", [["image_id", "A"], *[[f"i{n}", f"+{n % 9}.5e-1"] for n in range(40)]])
    found = evaluate(scores, labels, bootstraps=0)
    assert (found.findings[0].n, found.findings[0].positives) == (20, 10)
    assert any(warning.startswith("10 labels are uncertain (-1)") for warning in found.warnings)
    assert evaluate(scores, labels, bootstraps=0, uncertain="positive").findings[0].positives == 20
    assert evaluate(scores, labels, bootstraps=0, uncertain="negative").findings[0].n == 30


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A folder with a store of toy vectors, labels that its first number decides nearly, and a probe of the half."""
    fill(tmp_path / "store", range(120), shard=60)
    rows = []
    for n in range(120):
        split = "train" if n // 2 % 2 else "test"
        rows.append([f"i{n}", f"p{n // 2}", split, "FM"[n // 4 % 2], int(vectors(n)["features"][0] + n % 3 / 4 > 0.3)])
    write(tmp_path / "labels.csv", [["image_id", "patient_id", "split", "sex", "Mass"], *rows])
    done = run_cli("probe", "train", "store", "labels.csv", "--out", "probe", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_probe_evaluate_is_predict_and_evaluate(trained: Path) -> None:
    call = ["--split", "test", "--bootstraps", "50", "--by", "sex", "--json"]
    done = run_cli("probe", "evaluate", "probe", "store", "labels.csv", *call[2:], cwd=trained)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    predict = ["probe", "predict", "probe", "store", "--out", "scores.csv", "--labels", "labels.csv", "--split", "test"]
    assert run_cli(*predict, cwd=trained).returncode == 0
    apart = json.loads(run_cli("evaluate", "scores.csv", "labels.csv", *call, cwd=trained).stdout)
    assert found["split"] == "test"
    assert found["mean_auroc"] == apart["mean_auroc"] > 0.8
    for one, two in zip(found["findings"] + found["groups"], apart["findings"] + apart["groups"], strict=True):
        for name in ("n", "positives", "patients", "auroc", "auroc_low", "average_precision_high"):
            assert one[name] == two[name], name
        assert one["brier"] == pytest.approx(two["brier"])


def test_probe_evaluate_refuses_patients_that_it_learned_from(trained: Path) -> None:
    for options in (["--split", "train"], ["--split", "test", "--thresholds-split", "train"]):
        done = run_cli("probe", "evaluate", "probe", "store", "labels.csv", *options, cwd=trained)
        assert done.returncode == 1
        assert "30 patients of these" in done.stderr
        assert "are among those that the probe learned from (p1, p11, p13)" in done.stderr


def test_probe_compare_prints_differences(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    predict = ["probe", "predict", "probe", "store", "--labels", "labels.csv", "--split", "test", "--out"]
    assert run_cli(*predict, "scores.csv", cwd=trained).returncode == 0
    with open(trained / "scores.csv", newline="") as file:
        rows = list(csv.reader(file))
    column = rows[0].index("Mass")
    rng = np.random.default_rng(0)
    write(trained / "noise.csv", [["image_id", "Mass"], *[[row[0], rng.normal()] for row in rows[1:]]])
    done = run_cli("probe", "compare", "scores.csv", "noise.csv", "labels.csv", "--bootstraps", "100", cwd=trained)
    assert done.returncode == 0, done.stderr
    lines = lines_of(done.stdout)
    assert lines[0].split() == ["finding", "positive", "first", "second", "AUROC", "difference", "(95%)", "p", "(Holm)"]
    assert lines[1].startswith("Mass ")
    assert lines[1].endswith("<0.001")
    assert len(lines[1]) <= 80
    as_json = ["--bootstraps", "100", "--json"]
    found = json.loads(
        run_cli("probe", "compare", "scores.csv", "noise.csv", "labels.csv", *as_json, cwd=trained).stdout
    )
    with open(trained / "labels.csv", newline="") as file:
        truth = {row["image_id"]: int(row["Mass"]) for row in csv.DictReader(file)}
    expected = roc_auc_score([truth[row[0]] for row in rows[1:]], [float(row[column]) for row in rows[1:]])
    (finding,) = found["findings"]
    assert finding["auroc"]["first"] == expected
    assert finding["auroc"]["difference"]["value"] == pytest.approx(expected - finding["auroc"]["second"])
    assert found["findings_in_mean"] == 1


def test_a_probe_is_not_its_scores(tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "probe.json").write_text("{}")
    with pytest.raises(ScoresError, match="a probe, and scores are asked for; `cxr-embed probe predict "):
        read_scores(tmp_path / "p")


def test_one_is_told_as_one(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("image_id,Mass\na,0.1\nb,0.9\nc,0.5\n")
    (tmp_path / "l.csv").write_text("image_id,patient_id,Mass\na,p,0\nb,q,1\nd,r,1\n")
    warnings = evaluate(tmp_path / "s.csv", tmp_path / "l.csv", bootstraps=0).warnings
    assert "1 labelled id has no score (d) and is left out" in warnings
    assert "1 scored id has no label (c) and is left out" in warnings
