"""Scores of a probe know whom it learned from, and no judge takes those for a test."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from helpers import run_cli
from index_world import make_store
from sklearn.metrics import roc_auc_score

import cxr_embed as cx
from cxr_embed import open_store
from cxr_embed.api.probe import FindingsProbe
from cxr_embed.evaluation import ScoresError, compare, evaluate, read_scores
from cxr_embed.probe.persistence import load_probe, save_probe
from cxr_embed.types import Labels
from cxr_embed.zeroshot import Scores

COUNT = 160


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of noise with a trace of the finding, labels with splits, and a probe that learned its part by heart."""
    folder = tmp_path_factory.mktemp("learned")
    rng = np.random.default_rng(0)
    labels, patients = rng.random(COUNT) < 0.5, [f"p{number // 2}" for number in range(COUNT)]
    vectors = rng.normal(size=(COUNT, 100)).astype(np.float32)
    vectors[:, 0] += labels
    make_store(folder / "store", vectors, patients)
    rows = ["image_id,patient_id,split,Mass"]
    for number in range(COUNT):
        split = ("train", "train", "test", "validate")[number // 2 % 4]
        rows.append(f"c{number},{patients[number]},{split},{int(labels[number])}")
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    for name, strength in (("probe", "1"), ("other", "0.001")):
        done = run_cli("probe", "train", "store", "labels.csv", "--out", name, "-C", strength, cwd=folder)
        assert done.returncode == 0, done.stderr
        done = run_cli("probe", "predict", name, "store", "--out", f"{name}.csv", cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def plain_auroc(folder: Path, splits: tuple[str, ...]) -> float:
    labels = {row["image_id"]: row for row in rows_of(folder / "labels.csv")}
    rows = [row for row in rows_of(folder / "probe.csv") if labels[row["image_id"]]["split"] in splits]
    return float(roc_auc_score([int(labels[r["image_id"]]["Mass"]) for r in rows], [float(r["Mass"]) for r in rows]))


def test_the_file_marks_whom_the_probe_learned_from(typed: Path) -> None:
    labels = {row["image_id"]: row["split"] for row in rows_of(typed / "labels.csv")}
    rows = rows_of(typed / "probe.csv")
    assert list(rows[0]) == ["image_id", "learned_from", "Mass"]
    assert all((row["learned_from"] == "1") == (labels[row["image_id"]] == "train") for row in rows)
    done = run_cli("probe", "predict", "probe", "store", "--out", "probe.parquet", cwd=typed)
    assert "80 of 160 images are of patients that the probe learned from (c0 is the first): marked" in done.stdout
    table = pq.read_table(typed / "probe.parquet")
    assert table["learned_from"].to_pylist() == [int(row["learned_from"]) for row in rows]
    for name in ("probe.csv", "probe.parquet"):
        read = read_scores(typed / name)
        assert read.names == ("Mass",)
        assert read.learned is not None
        assert read.learned.tolist() == [row["learned_from"] == "1" for row in rows]


@pytest.mark.parametrize("name", ["probe.csv", "copy.csv", "pandas.csv"])
def test_an_evaluation_without_a_split_leaves_them_out(typed: Path, name: str) -> None:
    # A copy in another place knows as much, and so do other rows in another order.
    shutil.copyfile(typed / "probe.csv", typed / "copy.csv")
    table = pacsv.read_csv(typed / "probe.csv")
    pacsv.write_csv(table.take(np.arange(COUNT)[::-1]), typed / "pandas.csv")
    done = run_cli("evaluate", name, "labels.csv", "--bootstraps", "20", "--json", cwd=typed)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    value = told["mean_auroc"]
    assert value == pytest.approx(plain_auroc(typed, ("test", "validate")))
    assert value < plain_auroc(typed, ("train", "test", "validate")) - 0.1
    assert (
        f"80 images of {name} are of patients that the probe learned from (c0, c1, c10, ...), and left out"
        in (told["warnings"])
    )
    assert "no --split is named: evaluated are the images of test (40), validate (40)" in told["warnings"]
    in_python = evaluate(typed / name, typed / "labels.csv", bootstraps=20)
    assert in_python.mean_auroc.value == pytest.approx(value)
    assert len(in_python.warnings) == len(told["warnings"])


def test_the_learned_split_is_refused(typed: Path) -> None:
    done = run_cli("evaluate", "probe.csv", "labels.csv", "--split", "train", cwd=typed)
    assert done.returncode == 1
    assert done.stderr == (
        "error: probe.csv: the probe learned from the patients of all 80 images with labels in the split train: no "
        "test of it; give labels of others, or another --split\n"
    )
    done = run_cli("report", "probe.csv", "labels.csv", "--split", "train", "--out", "r.html", cwd=typed)
    assert done.returncode == 1
    assert "the probe learned from the patients of all 80 images" in done.stderr


def test_a_comparison_and_a_report_leave_them_out(typed: Path) -> None:
    found = compare(typed / "probe.csv", typed / "other.csv", typed / "labels.csv", bootstraps=20)
    same = compare(typed / "probe.csv", typed / "other.csv", typed / "labels.csv", bootstraps=20, split="test")
    assert found.images == 80
    assert same.images == 40
    assert sum("that the probe learned from" in warning for warning in found.warnings) == 2
    assert not any("learned from" in warning for warning in same.warnings)
    done = run_cli(
        *("probe", "compare", "probe.csv", "other.csv", "labels.csv", "--bootstraps", "20", "--json"), cwd=typed
    )
    assert json.loads(done.stdout)["images"] == 80
    done = run_cli("report", "probe.csv", "labels.csv", "--out", "r.html", "--bootstraps", "20", cwd=typed)
    assert done.returncode == 0, done.stderr
    body = json.loads((typed / "r.json").read_text())
    assert body["scores"][0]["evaluation"]["mean_auroc"] == pytest.approx(plain_auroc(typed, ("test", "validate")))
    assert any("80 images of probe.csv are of patients that the probe learned from" in w for w in body["warnings"])


def test_a_store_that_knows_no_patients_knows_the_images(typed: Path) -> None:
    # Imported without patients: the labels alone name them, and `predict` is not shown the labels.
    vectors = open_store(typed / "store")
    make_store(typed / "nobody", vectors.read(vectors.ids).vectors, [""] * COUNT)
    for verb in (
        ("train", "nobody", "labels.csv", "--out", "nobodys"),
        ("predict", "nobodys", "nobody", "--out", "n.csv"),
    ):
        done = run_cli("probe", *verb, cwd=typed)
        assert done.returncode == 0, done.stderr
    marked = [row["image_id"] for row in rows_of(typed / "n.csv") if row["learned_from"] == "1"]
    labels = rows_of(typed / "labels.csv")
    assert set(marked) == {row["image_id"] for row in labels if row["split"] == "train"}
    # A probe of an earlier release does not know them: its scores say nothing rather than something wrong.
    probe = load_probe(typed / "nobodys")
    save_probe(typed / "earlier", replace(probe, images=np.empty(0, np.str_)))
    done = run_cli("probe", "predict", "earlier", "nobody", "--out", "e.csv", cwd=typed)
    assert "whom this probe learned from is not known here" in done.stdout
    assert list(rows_of(typed / "e.csv")[0]) == ["image_id", "Mass"]


def without_patients(typed: Path, folder: Path, patients: list[str]) -> tuple[Path, Path]:
    """The store with other patients, and labels that name none."""
    vectors = open_store(typed / "store")
    make_store(folder / "store", vectors.read(vectors.ids).vectors, patients)
    pacsv.write_csv(pacsv.read_csv(typed / "labels.csv").drop_columns(["patient_id"]), folder / "labels.csv")
    return folder / "store", folder / "labels.csv"


def test_patients_that_only_the_store_knows_count_where_it_lacks_one(typed: Path, tmp_path: Path) -> None:
    store, labels = without_patients(typed, tmp_path, ["" if n == 4 else f"p{n // 2}" for n in range(COUNT)])
    found = cx.train_probe(store, labels, C=1.0).evaluate(store, labels, bootstraps=0)
    assert (found.images, found.patients) == (40, 21)  # c4 is one of its own, beside c5 of p2
    assert not any("no patient_id in either file" in warning for warning in found.warnings)


def test_a_report_names_images_whose_patients_nobody_knows(typed: Path, tmp_path: Path) -> None:
    store, labels = without_patients(typed, tmp_path, [""] * COUNT)
    probe = cx.train_probe(store, labels, C=1.0)
    unmarked = probe.predict(store).to_arrow().drop_columns(["learned_from"])
    made = cx.report(unmarked, labels, probes=[probe], split="train", out=tmp_path / "r.html", bootstraps=0)
    assert "(c0, c1, c10, ...): figures of these scores are no test of it" in made.warnings[0]


def test_an_evaluation_of_stand_in_weights_says_so(typed: Path) -> None:
    trained = load_probe(typed / "probe")
    probe = FindingsProbe(replace(trained, spec=replace(trained.spec, weights_source="random numbers")))
    found = probe.evaluate(typed / "store", typed / "labels.csv", bootstraps=0)
    assert "scores: scores of stand-in weights; their figures mean nothing" in found.warnings


def test_equal_inputs_in_memory_give_equal_reports(typed: Path, tmp_path: Path) -> None:
    scores = cx.load_probe(typed / "probe").predict(typed / "store")
    texts = []
    for name in ("one", "two"):
        made = cx.report(scores, typed / "labels.csv", out=tmp_path / name / "r.html", bootstraps=0, created="today")
        assert any("80 images of scores.parquet are of patients" in warning for warning in made.warnings)
        texts.append((tmp_path / name / "r.json").read_text())
    assert texts[0] == texts[1]


def test_thresholds_are_not_chosen_on_them(typed: Path) -> None:
    validation = evaluate(
        typed / "probe.csv", typed / "labels.csv", split="test", thresholds_split="validate", bootstraps=0
    )
    assert not any("learned from" in warning for warning in validation.warnings)
    with pytest.raises(ScoresError, match="learned from the patients of all 80 images"):
        evaluate(typed / "probe.csv", typed / "labels.csv", split="test", thresholds_split="train", bootstraps=0)


def test_other_images_of_their_patients_are_left_out_too() -> None:
    ids = np.array([f"i{number}" for number in range(6)])
    scores = Scores(
        ids=ids,
        names=("Mass",),
        values=np.arange(6.0)[:, None],
        kind="probability",
        learned_from=np.array([True, *[False] * 5]),
    )
    labels = Labels(ids, ("Mass",), np.array([0, 1, 0, 1, 0, 1], np.float32)[:, None])
    owners = dict(zip(ids.tolist(), ["a", "a", "b", "b", "c", "c"], strict=True))
    assert evaluate(scores, labels, patients=owners, bootstraps=0).images == 4
    assert evaluate(scores, labels, bootstraps=0).images == 5


@pytest.mark.parametrize("bad", ["2", "yes", "", "0.5"])
def test_a_mark_that_is_none_is_refused(bad: str, tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text(f"image_id,learned_from,Mass\na,1,0.5\nb,{bad},0.5\n")
    with pytest.raises(ScoresError, match="learned_from is 1 where a probe learned"):
        read_scores(tmp_path / "s.csv")


def test_scores_of_other_programs_are_judged_whole(typed: Path) -> None:
    table = pacsv.read_csv(typed / "probe.csv").drop_columns(["learned_from"])
    pacsv.write_csv(table, typed / "plain.csv")
    found = evaluate(typed / "plain.csv", typed / "labels.csv", bootstraps=20)
    assert found.images == COUNT
    assert found.mean_auroc.value == pytest.approx(plain_auroc(typed, ("train", "test", "validate")))
    assert "no `split` is named: evaluated are the images of test (40), train (80), validate (40)" in found.warnings
