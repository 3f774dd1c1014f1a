"""The few-label protocol: draws by patient and nested, one test part, the verbs as a user types them."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import content, run_cli
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t, ttest_rel
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from typer.testing import CliRunner

from cxr_embed import open_store
from cxr_embed.cases import CasesError
from cxr_embed.cli import app
from cxr_embed.manifest import read_labels
from cxr_embed.present.latex import escape
from cxr_embed.probe.curve import Curve, CurveEncoder, run_curve
from cxr_embed.probe.curve_summary import _spread, differences, summarise, to_csv, to_json, undefined_sizes
from cxr_embed.probe.latex import to_latex
from cxr_embed.probe.shots import draw_order, draw_patients, hashes, patients_for_test, patients_of
from cxr_embed.reporting.collect import _read_curve
from cxr_embed.reporting.context_tables import few_label_tables
from cxr_embed.reporting.few_label_plot import few_label_plot, few_labels_figure
from cxr_embed.store import Row, StoreWriter
from cxr_embed.types import EncoderSpec

COUNT = 120
CLEAR = EncoderSpec(name="clear", revision="1", preprocessing="none", outputs={"features": (8,)})
DIM = EncoderSpec(name="dim", revision="1", preprocessing="none", outputs={"features": (8,), "tokens": (3, 8)})
HEADER = "image_id,patient_id,split,Mass,Edema,Hernia"


def truth(number: int) -> tuple[int, int, int]:
    """Mass, Edema and Hernia of an image."""
    return int(number % 3 == 0), int(number % 4 == 1), int(number in (3, 6, 9))


def make_store(path: Path, spec: EncoderSpec, noise: float, seed: int = 0, count: int = COUNT) -> Path:
    rng = np.random.default_rng(seed)
    with StoreWriter(path, spec) as writer:
        for number in range(count):
            mean = np.r_[2 * np.array(truth(number)), np.zeros(5)]
            vectors = {name: mean + noise * rng.standard_normal(shape) for name, shape in spec.outputs.items()}
            writer.add_vector(
                Row(image_id=f"i{number}", patient_id=f"p{number // 2}", content=content(number)), vectors
            )
        writer.flush("toy engine")
    return path


def write_labels(path: Path, header: str = HEADER, count: int = COUNT) -> Path:
    """Two images a patient; every fifth patient is test."""
    columns = header.split(",")
    lines = [header]
    for n in range(count):
        mass, edema, hernia = truth(n)
        row = {
            "image_id": f"i{n}",
            "patient_id": f"p{n // 2}",
            "split": "test" if n // 2 % 5 == 2 else "train",
            "Mass": mass,
            "Edema": edema,
            "Hernia": hernia,
        }
        lines.append(",".join(str(row[name]) for name in columns))
    path.write_text("\n".join(lines) + "\n")
    return path


def curve_of(tmp_path: Path, **options: object) -> Curve:
    encoders = [
        CurveEncoder("clear", open_store(make_store(tmp_path / "clear", CLEAR, 1.0)), "features"),
        CurveEncoder("dim", open_store(make_store(tmp_path / "dim", DIM, 4.0, 1)), "features"),
    ]
    labels = read_labels(write_labels(tmp_path / "labels.csv"))
    return run_curve(encoders, labels, **{"shots": (1, 2, 8, 40, None), "seeds": range(4), **options})  # type: ignore[arg-type]


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(5, 80), st.integers(1, 5), st.integers(0, 5))
def test_draws_are_by_patient_and_nested(numpy_seed: int, count: int, images: int, seed: int) -> None:
    rng = np.random.default_rng(numpy_seed)
    labels = rng.choice([0.0, 1.0, np.nan], count, p=[0.5, 0.3, 0.2])
    patients = rng.integers(0, max(1, count // images), count)
    image_keys, patient_keys = hashes(np.arange(count).astype(str)), hashes(patients.astype(str))
    order = draw_order(image_keys, patient_keys, labels, "Mass", seed)
    most = max((size for size in range(count) if not order.lacking(size)), default=0)
    earlier: set[int] = set()
    for size in range(1, most + 1):
        rows = order.shots(size)
        positive, negative = rows[:size], rows[size:]
        assert len(set(rows.tolist())) == 2 * size
        assert earlier <= set(rows.tolist())
        assert (labels[positive] == 1).all()
        assert (labels[negative] == 0).all()
        assert not set(patients[positive]) & set(patients[negative])
        several = max(np.unique(patients[rows], return_counts=True)[1]) > 1
        assert several == order.repeats(size)
        earlier = set(rows.tolist())


@given(st.integers(0, 2**32 - 1), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_a_draw_hangs_on_no_order_of_rows(numpy_seed: int, seed: int) -> None:
    rng = np.random.default_rng(numpy_seed)
    ids = np.array([f"i{n}" for n in range(60)])
    patients = np.array([f"p{n // 3}" for n in range(60)])
    labels = rng.choice([0.0, 1.0, np.nan], 60)
    order = draw_order(hashes(ids), hashes(patients), labels, "Mass", seed)
    turned = rng.permutation(60)
    other = draw_order(hashes(ids[turned]), hashes(patients[turned]), labels[turned], "Mass", seed)
    assert ids[order.positive].tolist() == ids[turned][other.positive].tolist()
    assert ids[order.negative].tolist() == ids[turned][other.negative].tolist()


def test_seeds_and_findings_draw_differently_and_always_the_same() -> None:
    ids = np.array([f"i{n}" for n in range(40)])
    labels = np.arange(40) % 2 * 1.0

    def first(finding: str, seed: int) -> list[str]:
        order = draw_order(hashes(ids), hashes(ids), labels, finding, seed)
        return ids[order.shots(3)].tolist()

    # Written down: another machine or release must draw these.
    assert first("Mass", 0) == ["i7", "i33", "i5", "i30", "i8", "i36"]
    assert first("Mass", 0) != first("Mass", 1) != first("Edema", 1)


def test_the_test_part_holds_whole_patients() -> None:
    patients = np.array([f"p{n // 3}" for n in range(3000)])
    away = patients_for_test(patients, 0.3, 0)
    assert 0.25 < away.mean() < 0.35
    assert not set(patients[away]) & set(patients[~away])


def test_results_are_those_of_scikit_learn_on_the_saved_ids(tmp_path: Path) -> None:
    found = curve_of(tmp_path)
    told = to_json(found, {})
    store = open_store(tmp_path / "clear")
    train = found.train.ids
    vectors = store.read(train).vectors.astype(np.float64)
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0)
    test = (store.read(told["test_ids"]).vectors.astype(np.float64) - mean) / scale
    drawn = {(draw["finding"], draw["seed"]): draw for draw in told["draws"]}
    checked = 0
    for row in told["results"]:
        if row["encoder"] != "clear" or row["auroc"] is None or row["shots"] == "all":
            continue
        draw, size = drawn[row["finding"], row["seed"]], row["shots"]
        ids = draw["positive"][:size] + draw["negative"][:size]
        model = LogisticRegression(C=row["strength"], tol=1e-9, max_iter=10_000)
        model.fit((store.read(ids).vectors.astype(np.float64) - mean) / scale, [1] * size + [0] * size)
        number = found.findings.index(row["finding"])
        want = roc_auc_score(found.test.labels[:, number], model.decision_function(test))
        assert row["auroc"] == pytest.approx(want, abs=0.002)
        checked += 1
    assert checked == 4 * 2 * 3  # seeds, findings, sizes that are possible


def test_what_has_too_few_positives_is_undefined_and_in_no_mean(tmp_path: Path) -> None:
    found = curve_of(tmp_path)
    rows = {(row["encoder"], row["finding"], row["shots"]): row for row in summarise(found)}
    hernia = rows["clear", "Hernia", 8]
    assert hernia["mean"] is None
    assert hernia["undefined"].startswith("3 positive images (")
    learned = {(one.positives, one.negatives) for one in found.results if (one.finding, one.shots) == ("Hernia", 8)}
    assert learned == {(0, 0)}
    assert rows["clear", None, 40]["mean"] is None
    assert rows["clear", None, 8]["findings_in_mean"] == 2
    want = np.mean([rows["clear", name, 8]["mean"] for name in ("Mass", "Edema")])
    assert rows["clear", None, 8]["mean"] == pytest.approx(want)
    assert "in the test part" in rows["clear", "Hernia", None]["undefined"]


def test_encoders_get_the_same_draws_and_paired_differences(tmp_path: Path) -> None:
    found = curve_of(tmp_path)
    aurocs = {(r.encoder, r.finding, r.shots, r.seed): r.auroc.value for r in found.results}
    for row in differences(found):
        if row["finding"] is None or row["mean"] is None:
            continue
        seeds = (None,) if row["shots"] is None else range(4)
        pairs = [aurocs["dim", row["finding"], row["shots"], seed] for seed in seeds]
        less = [aurocs["clear", row["finding"], row["shots"], seed] for seed in seeds]
        assert row["mean"] == pytest.approx(np.mean(np.subtract(pairs, less)))
        if row["shots"] == 8:
            assert row["sd"] == pytest.approx(np.std(np.subtract(pairs, less), ddof=1))
    alone = run_curve(
        [CurveEncoder("dim", open_store(tmp_path / "dim"), "features")],
        read_labels(tmp_path / "labels.csv"),
        shots=(1, 2, 8, 40, None),
        seeds=range(4),
    )
    assert [r for r in found.results if r.encoder == "dim"] == list(alone.results)


def test_more_labels_help(tmp_path: Path) -> None:
    rows = {
        row["shots"]: row
        for row in summarise(curve_of(tmp_path))
        if (row["encoder"], row["finding"]) == ("clear", "Mass")
    }
    assert rows[None]["mean"] > 0.7


def test_without_a_split_patients_are_set_aside(tmp_path: Path) -> None:
    store = open_store(make_store(tmp_path / "store", CLEAR, 1.0))
    labels = read_labels(write_labels(tmp_path / "labels.csv", "image_id,patient_id,Mass,Edema"))
    found = run_curve([CurveEncoder("clear", store, "features")], labels, shots=(2,), seeds=range(2))
    assert "the labels have no column split: 30% of the patients" in found.notes[0]
    assert len(found.train) + len(found.test) == COUNT
    assert not set(found.train.patients) & set(found.test.patients)
    # The same ones in every release, or curves would be of other patients.
    chosen = "2 5 6 10 14 18 21 22 25 26 28 37 38 41 43 48 52 53 54 55 57 59".split()  # noqa: SIM905
    assert set(found.test.patients.tolist()) == {f"p{number}" for number in chosen}


def test_a_test_image_that_was_learned_from_under_another_id_is_told(tmp_path: Path) -> None:
    def notes(name: str, copies: dict[int, int]) -> list[str]:
        rng = np.random.default_rng(0)
        with StoreWriter(tmp_path / name, CLEAR) as writer:
            for number in range(COUNT):
                same = content(copies.get(number, number))
                row = Row(image_id=f"i{number}", patient_id=f"p{number // 2}", content=same)
                writer.add_vector(row, {"features": rng.standard_normal(8)})
            writer.flush("toy engine")
        labels = read_labels(write_labels(tmp_path / "labels.csv"))
        encoder = CurveEncoder("clear", open_store(tmp_path / name), "features")
        return [note for note in run_curve([encoder], labels, shots=(1,), seeds=range(1)).notes if "same file" in note]

    # Patients 2, 7, 12, ... are the test part: images 4, 5, 14, 15, ...
    assert notes("none", {1: 0, 5: 4}) == []
    assert notes("two", {14: 0, 25: 3}) == [
        "2 test images are the same file as a training image, under another id: i14"
    ]


def test_a_patient_on_both_sides_is_refused(tmp_path: Path) -> None:
    # The labels name no patients, so that only the store knows.
    store = open_store(make_store(tmp_path / "store", CLEAR, 1.0))
    path = tmp_path / "labels.csv"
    lines = [f"i{n},{'test' if n % 2 else 'train'},{truth(n)[0]}" for n in range(COUNT)]
    path.write_text("\n".join(["image_id,split,Mass", *lines]) + "\n")
    with pytest.raises(CasesError, match=r"60 patients are in the training part and in the test part \(p0, p1, p10"):
        run_curve([CurveEncoder("clear", store, "features")], read_labels(path), shots=(1,), seeds=range(1))


def test_encoders_are_compared_on_what_all_have(tmp_path: Path) -> None:
    encoders = [
        CurveEncoder("clear", open_store(make_store(tmp_path / "a", CLEAR, 1.0)), "features"),
        CurveEncoder("dim", open_store(make_store(tmp_path / "b", DIM, 1.0, count=90)), "features"),
    ]
    labels = read_labels(write_labels(tmp_path / "labels.csv"))
    found = run_curve(encoders, labels, shots=(2,), seeds=range(2))
    assert len(found.train) + len(found.test) == 90
    assert any("that every store has" in note for note in found.notes)
    assert any("labelled ids have no vector" in note for note in found.notes)


def test_the_table_has_a_row_for_each_probe(tmp_path: Path) -> None:
    found = curve_of(tmp_path)
    rows = list(csv.DictReader(to_csv(found).splitlines()))
    assert len(rows) == 2 * 3 * (4 * 4 + 1)
    assert {row["shots"] for row in rows} == {"1", "2", "8", "40", "all"}
    assert all((row["auroc"] == "") == (row["undefined"] != "") for row in rows)


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two stores and labels, in which commands are typed."""
    folder = tmp_path_factory.mktemp("typed")
    make_store(folder / "clear", CLEAR, 1.0)
    make_store(folder / "dim", DIM, 4.0, 1)
    write_labels(folder / "labels.csv")
    return folder


def test_train_and_predict_as_typed(typed: Path) -> None:
    done = run_cli("probe", "train", "clear", "labels.csv", "--out", "probe", cwd=typed)
    assert done.returncode == 0, done.stderr
    assert "linear probe of 3 findings, from 96 images of 48 patients; clear, features" in done.stdout
    done = run_cli(
        "probe", "predict", "probe", "clear", "--out", "s.csv", "--labels", "labels.csv", "--split", "test", cwd=typed
    )
    assert done.returncode == 0, done.stderr
    assert "note" not in done.stdout
    with open(typed / "s.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image_id", "learned_from", "Mass", "Edema", "Hernia"]
    assert {row["learned_from"] for row in rows} == {"0"}
    assert [row["image_id"] for row in rows] == [f"i{n}" for n in range(COUNT) if n // 2 % 5 == 2]
    labels = [truth(int(row["image_id"][1:]))[0] for row in rows]
    assert roc_auc_score(labels, [float(row["Mass"]) for row in rows]) > 0.8
    body = json.loads((typed / "probe" / "probe.json").read_text())
    assert body["labels"]["split"] == "train"
    assert body["labels"]["counts"]["Hernia"] == {"positive": 3, "negative": 93, "unknown": 0}
    done = run_cli("probe", "predict", "probe", "clear", "--out", "all.csv", cwd=typed)
    assert "96 of 120 images are of patients that the probe learned from (i0 is the first)" in done.stdout


def test_thresholds_are_chosen_on_a_split_of_their_own_and_kept(typed: Path) -> None:
    with open(typed / "labels.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if int(row["image_id"][1:]) // 2 % 5 in (3, 4):
            row["split"] = "validate"
    with open(typed / "three.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    train = ["probe", "train", "clear", "three.csv", "--out", "kept"]
    chosen = [*train, "--finding", "Mass", "--thresholds-split", "validate", "--threshold", "sensitivity=0.8"]
    done = run_cli(*chosen, cwd=typed)
    assert done.returncode == 0, done.stderr
    threshold = json.loads((typed / "kept" / "probe.json").read_text())["thresholds"]["Mass"]
    assert f"{threshold:.4f}" in done.stdout
    run_cli("probe", "predict", "kept", "clear", "--out", "kept.csv", cwd=typed)
    with open(typed / "kept.csv", newline="") as file:
        scores = {row["image_id"]: float(row["Mass"]) for row in csv.DictReader(file)}
    positives = [row["image_id"] for row in rows if row["split"] == "validate" and row["Mass"] == "1"]
    found = sum(scores[image_id] >= threshold for image_id in positives)
    assert found / len(positives) >= 0.8
    # What they were chosen on is no test of them.
    done = run_cli("probe", "evaluate", "kept", "clear", "three.csv", "--split", "validate", cwd=typed)
    assert done.returncode == 1
    assert "24 patients of these 48 images are among those that the probe's thresholds were chosen on" in done.stderr
    done = run_cli("probe", "evaluate", "kept", "clear", "three.csv", "--bootstraps", "20", cwd=typed)
    assert "thresholds: sensitivity of at least 0.8 in the split validate, kept in the probe" in done.stdout
    told = json.loads(run_cli("probe", "evaluate", "kept", "clear", "three.csv", "--json", cwd=typed).stdout)
    tested = [row["image_id"] for row in rows if row["split"] == "test" and row["Mass"] == "1"]
    expected = sum(scores[image_id] >= threshold for image_id in tested) / len(tested)
    assert told["findings"][0]["sensitivity"] == pytest.approx(expected)
    done = run_cli(*train, "--threshold", "youden", cwd=typed)
    assert (done.returncode, "name them with --thresholds-split" in done.stderr) == (2, True)
    done = run_cli(*train, "--thresholds-split", "train", cwd=typed)
    assert (done.returncode, "among those that the probe learned from" in done.stderr) == (1, True)


def test_what_did_not_converge_is_told_as_typed(typed: Path) -> None:
    train = ("probe", "train", "clear", "labels.csv", "--out", "weak", "-C", "1e300")
    done = run_cli(*train, cwd=typed)
    assert done.returncode == 0, done.stderr
    assert "is too large to solve; give a smaller one" in done.stdout
    assert "note: not fully trained: " in done.stdout
    assert json.loads((typed / "weak" / "probe.json").read_text())["unconverged"]
    done = run_cli("probe", "predict", "weak", "clear", "--out", "weak.csv", cwd=typed)
    assert "note: not fully trained: " in done.stdout


@pytest.mark.parametrize("kind", ["mlp", "knn"])
def test_other_kinds_as_typed(typed: Path, kind: str) -> None:
    done = run_cli(
        "probe", "train", "dim", "labels.csv", "--out", kind, "--kind", kind, "--output", "tokens", "--pool", "max",
        "--finding", "Mass", "--json", cwd=typed,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["kind"], told["output"], told["findings"]) == (kind, "tokens", ["Mass"])
    assert run_cli("probe", "predict", kind, "dim", "--out", f"{kind}.parquet", cwd=typed).returncode == 0


def test_findings_that_were_not_learned_get_no_column(typed: Path) -> None:
    lines = ["image_id,Mass,Nodule", *(f"i{n},{truth(n)[0]},0" for n in range(COUNT))]
    (typed / "one.csv").write_text("\n".join(lines) + "\n")
    done = run_cli("probe", "train", "clear", "one.csv", "--out", "one", cwd=typed)
    assert "Nodule is left out: all 120 labels are negative" in done.stdout
    assert "the probe learned from all of them" in done.stdout
    done = run_cli("probe", "predict", "one", "clear", "--out", "one-scores.csv", cwd=typed)
    assert "Nodule has no scores: all 120 labels are negative" in done.stdout
    assert (typed / "one-scores.csv").read_text().startswith("image_id,learned_from,Mass\n")


def test_curve_as_typed(typed: Path) -> None:
    command = ["probe", "curve", "clear", "labels.csv", "--store", "dim", "--shots", "1,8,all", "--seeds", "3"]
    done = run_cli(*command, "--out", "curve", cwd=typed)
    assert done.returncode == 0, done.stderr
    assert "dim clear 8" in " ".join(done.stdout.split())
    assert "p: paired t-test over the draws, with Holm's correction for 2 comparisons" in done.stdout
    assert "2 of 3" in done.stdout
    first = json.loads((typed / "curve" / "curve.json").read_text())
    assert len(first["draws"]) == 3 * 3
    assert [encoder["name"] for encoder in first["encoders"]] == ["clear", "dim"]
    again = run_cli(*command, "--out", "again", "--json", cwd=typed)
    assert json.loads(again.stdout)["summary"] == first["summary"]
    assert (typed / "again" / "curve.csv").read_bytes() == (typed / "curve" / "curve.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (
            ["train", "clear", "labels.csv", "--out", "x", "--kind", "forest"],
            "'forest' is not one of 'linear'",
        ),
        (
            ["train", "clear", "labels.csv", "--out", "x", "--kind", "knn", "--balance", "focal"],
            "are for --kind linear",
        ),
        (["train", "clear", "labels.csv", "--out", "x", "--output", "maps"], "has no output 'maps'; it has features"),
        (["train", "clear", "labels.csv", "--out", "x", "--split", "val"], "the splits are: test, train"),
        (["train", "clear", "labels.csv", "--out", "x", "--strength", "0"], "-C is a number above 0"),
        (
            ["train", "clear", "labels.csv", "--out", "x", "--finding", "Nodule"],
            "no finding Nodule; the findings are: Mass",
        ),
        (["train", "clear", "labels.csv", "--out", "clear"], "this command reads it, and would write over it"),
        (["predict", "clear", "clear", "--out", "x.csv"], "no probe here"),
        (["predict", "clear", "clear", "--out", "x.txt"], ".csv or .parquet"),
        (["curve", "clear", "labels.csv", "--out", "x", "--shots", "4,many"], "--shots is a list such as"),
        (["curve", "clear", "labels.csv", "--out", "x", "--store", "clear"], "is given twice"),
        (["curve", "clear", "labels.csv", "--out", "x", "--test", "val"], "the splits are: test, train"),
    ],
)
def test_mistakes_end_in_one_line(typed: Path, arguments: list[str], told: str) -> None:
    done = run_cli("probe", *arguments, cwd=typed)
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert done.stderr.startswith(("error: ", "note: --strength is -C now"))
    assert done.stderr.count("\n") <= 2
    assert not (typed / "x").exists()


def test_another_encoder_is_refused_as_typed(typed: Path) -> None:
    assert run_cli("probe", "train", "clear", "labels.csv", "--out", "mine", cwd=typed).returncode == 0
    done = run_cli("probe", "predict", "mine", "dim", "--out", "x.csv", cwd=typed)
    assert done.returncode == 1
    assert f"clear [{CLEAR.fingerprint[:12]}]" in done.stderr
    assert f"dim [{DIM.fingerprint[:12]}]" in done.stderr


def test_real_radiographs(real_data: Path, tmp_path: Path) -> None:
    manifest = str(real_data / "nih" / "manifest.csv")
    extra = ["--extra", "No Finding"]
    assert run_cli("embed", manifest, "--store", "hog", "--encoder", "hog", *extra, cwd=tmp_path).returncode == 0
    assert run_cli("probe", "train", "hog", manifest, "--out", "probe", *extra, cwd=tmp_path).returncode == 0
    done = run_cli(
        "probe", "predict", "probe", "hog", "--out", "s.csv", "--labels", manifest, "--split", "test", *extra,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    labels = read_labels(manifest, extra=["No Finding"])
    truth = dict(zip(labels.ids.tolist(), labels.labels().values, strict=True))
    with open(tmp_path / "s.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 352
    found = [
        roc_auc_score([truth[row["image_id"]][number] for row in rows], [float(row[name]) for row in rows])
        for number, name in enumerate(labels.findings)
    ]
    assert 0.67 < np.mean(found) < 0.72
    done = run_cli(
        "probe", "curve", "hog", manifest, "--out", "curve", "--shots", "1,16,all", "--seeds", "2", *extra, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "trained on 835 images, tested on 352 images" in done.stdout


def fractions_of(tmp_path: Path, **options: object) -> Curve:
    encoders = [
        CurveEncoder(name, open_store(make_store(tmp_path / name, spec, noise, number)), "features")
        for number, (name, spec, noise) in enumerate((("clear", CLEAR, 1.0), ("dim", DIM, 4.0), ("worst", CLEAR, 9.0)))
    ]
    labels = read_labels(write_labels(tmp_path / "labels.csv"))
    return run_curve(encoders, labels, **{"fractions": (0.001, 0.25, 0.5, 1.0), "seeds": range(5), **options})  # type: ignore[arg-type]


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.integers(0, 5))
def test_parts_of_the_patients_are_nested_and_whole(numpy_seed: int, count: int, seed: int) -> None:
    rng = np.random.default_rng(numpy_seed)
    patients = np.array([f"p{number}" for number in rng.integers(0, 20, count)])
    order = draw_patients(hashes(patients), seed)
    known = len(np.unique(patients))
    assert {order[patients == name].tolist()[0] for name in np.unique(patients)} == set(range(known))
    for name in np.unique(patients):
        assert len(set(order[patients == name].tolist())) == 1
    shuffled = rng.permutation(count)
    np.testing.assert_array_equal(draw_patients(hashes(patients[shuffled]), seed), order[shuffled])
    counts = [patients_of(part, known) for part in (0.01, 0.1, 0.5, 1)]
    assert counts == sorted(counts)
    assert counts[-1] == known


def test_a_share_of_the_patients_trains_all_findings_at_once(tmp_path: Path) -> None:
    found = fractions_of(tmp_path)
    told = to_json(found, {})
    store = open_store(tmp_path / "clear")
    train, test = found.train, found.test
    draw = next(draw for draw in told["draws"] if draw["seed"] == 3)
    ids = draw["images"][: draw["images_of"]["0.5"]]
    patients = set(train.patients[np.isin(train.ids, ids)].tolist())
    assert len(patients) == round(0.5 * len(set(train.patients.tolist())))
    assert sorted(ids) == sorted(train.ids[np.isin(train.patients, list(patients))].tolist())
    # By scikit-learn, with the strength that was chosen, standardised by the whole training part.
    row = next(
        r
        for r in told["results"]
        if (r["encoder"], r["finding"], r["seed"], r["fraction"]) == ("clear", "Mass", 3, 0.5)
    )
    vectors = store.read(train.ids, "features").vectors.astype(float)
    mean, scale = vectors.mean(axis=0), vectors.std(axis=0)
    chosen = np.isin(train.ids, ids)
    column = train.names.index("Mass")
    model = LogisticRegression(C=row["strength"], tol=1e-10, max_iter=10_000)
    model.fit((vectors[chosen] - mean) / scale, train.labels[chosen, column])
    scores = model.decision_function((store.read(test.ids, "features").vectors.astype(float) - mean) / scale)
    assert row["auroc"] == pytest.approx(roc_auc_score(test.labels[:, column], scores), abs=2e-3)
    assert row["positives"] == int(train.labels[chosen, column].sum())


def test_shares_of_too_few_patients_say_so(tmp_path: Path) -> None:
    found = fractions_of(tmp_path, fractions=(0.001, 0.02, 1.0))
    told = undefined_sizes(found)
    assert told[0].startswith("0.1% of the patients, 3 undefined: Mass: 0.001 of 48 patients in the training part is")
    assert "in a draw of 1 patient, all 2 labels are negative" in told[1]
    rows = {(row["finding"], row["shots"]): row for row in summarise(found) if row["encoder"] == "clear"}
    assert rows[None, 0.001]["mean"] is None
    assert rows[None, None]["mean"] > 0.8


def test_every_pair_is_tested_over_the_draws(tmp_path: Path) -> None:
    found = fractions_of(tmp_path)
    aurocs = {(r.encoder, r.finding, r.shots, r.seed): r.auroc.value for r in found.results}
    rows = differences(found)
    assert {(row["encoder"], row["minus"]) for row in rows} == {("dim", "clear"), ("worst", "clear"), ("worst", "dim")}
    tested = [row for row in rows if row["finding"] == "Mass" and row["shots"] in (0.25, 0.5)]
    assert len(tested) == 6
    for row in tested:
        one, other = (
            [aurocs[row[side], "Mass", row["shots"], seed] for seed in range(5)] for side in ("encoder", "minus")
        )
        test = ttest_rel(one, other)
        assert row["p"] == pytest.approx(test.pvalue)
        assert (row["ci_low"], row["ci_high"]) == pytest.approx(tuple(test.confidence_interval()))
    means = sorted(row["p"] for row in rows if row["finding"] is None and row["p"] is not None)
    smallest = next(row for row in rows if row["finding"] is None and row["p"] == means[0])
    assert smallest["p_holm"] == pytest.approx(min(1, means[0] * len(means)))
    assert all(row["p"] is None for row in rows if row["shots"] is None)


def test_an_interval_of_means_is_students(tmp_path: Path) -> None:
    found = fractions_of(tmp_path)
    values = [r.auroc.value for r in found.results if (r.encoder, r.finding, r.shots) == ("dim", "Mass", 0.5)]
    row = next(r for r in summarise(found) if (r["encoder"], r["finding"], r["shots"]) == ("dim", "Mass", 0.5))
    wanted = t.interval(0.95, 4, np.mean(values), np.std(values, ddof=1) / np.sqrt(5))
    assert (row["ci_low"], row["ci_high"]) == pytest.approx((max(wanted[0], 0), min(wanted[1], 1)))


def test_an_interval_ends_where_its_figure_does() -> None:
    """Two draws: 12.706 standard errors, which are half of their difference."""
    high = _spread(np.array([0.9, 1.0]), [])
    assert (high["mean"], high["ci_low"], high["ci_high"]) == (0.95, pytest.approx(0.95 - 0.6353, abs=1e-4), 1.0)
    low = np.array([0.0, 0.1])
    assert (_spread(low, [])["ci_low"], _spread(low, [])["ci_high"]) == (0.0, pytest.approx(0.6853, abs=1e-4))
    assert _spread(low, [], least=-1.0)["ci_low"] == pytest.approx(0.05 - 0.6353, abs=1e-4)  # of a difference


def test_tables_for_a_paper_are_escaped(tmp_path: Path) -> None:
    odd = r"50%_of $x$ {a} & b#c~d^e\f"
    found = fractions_of(tmp_path)
    text = to_latex(found)
    assert "\\toprule" in text
    assert "0.1\\% & 25\\% & 50\\% & 100\\%" in text
    assert text.count("{") == text.count("}")
    assert "clear & -- & 0." in text
    assert "Holm's correction for 6 comparisons" in text
    assert text.count("b_c stands in") == 0
    assert to_latex(found, ["b_c stands in"]).count(r"b\_c stands in.}") == 2  # both captions
    told = escape(odd)
    assert told == (r"50\%\_of \$x\$ \{a\} \& b\#c\textasciitilde{}d\textasciicircum{}e\textbackslash{}f")
    for line in text.splitlines():
        if line.endswith("\\\\") and "multicolumn" not in line:
            assert line.replace("\\&", "").count("&") == 4, line


def test_a_table_for_a_paper_has_the_figures_of_each_finding(tmp_path: Path) -> None:
    found = fractions_of(tmp_path, fractions=(1.0,), findings=["Mass", "Edema"])
    text = to_latex(found)
    means = {(row["encoder"], row["finding"]): row["mean"] for row in summarise(found)}
    for finding in ("Mass", "Edema"):
        block = "".join(f"    \\quad {name} & {means[name, finding]:.3f} \\\\\n" for name in ("clear", "dim", "worst"))
        assert f"\\multicolumn{{2}}{{l}}{{{finding}}} \\\\\n{block}" in text
    assert f"dim $-$ clear & ${means['dim', None] - means['clear', None]:+.3f}$" in text
    alone = replace(found, encoders=("clear",), results=tuple(r for r in found.results if r.encoder == "clear"))
    assert f"    Edema & {means['clear', 'Edema']:.3f} \\\\\n" in to_latex(alone)


def test_one_draw_has_no_p_and_no_bars(tmp_path: Path) -> None:
    found = fractions_of(tmp_path, fractions=(0.5,), seeds=range(1))
    text = to_latex(found)
    assert "Holm" not in text
    assert "$p$: needs two draws" in text
    assert "Mean AUROC over findings, by part of the training patients: one draw." in text
    (tmp_path / "two").mkdir()
    two = to_latex(fractions_of(tmp_path / "two", fractions=(0.5,), seeds=range(2), findings=["Mass"]))
    assert "AUROC of each finding, by part of the training patients: mean of 2 draws (95\\% interval" in two
    undefined = "--: undefined in some draw, for want of positives or negatives."
    assert (undefined in text, undefined in two) == (True, False)  # Hernia is in no test image
    few_labels_figure(to_json(found, {}), tmp_path / "c.svg")
    drawn = (tmp_path / "c.svg").read_text()
    assert "one draw" in drawn
    assert "deviation" not in drawn


def test_files_for_a_paper_name_stand_ins_and_hold_every_encoder(tmp_path: Path) -> None:
    toy = replace(CLEAR, weights_source="made here; a demonstration")
    store, labels = str(make_store(tmp_path / "a", toy, 2.0, 0)), str(write_labels(tmp_path / "labels.csv"))
    files = ["--figure", str(tmp_path / "c.svg"), "--latex", str(tmp_path / "c.tex"), "--out", str(tmp_path / "curve")]
    done = run_cli("probe", "curve", store, labels, "--seeds", "2", "--fraction", "0.5", *files)
    assert done.returncode == 0, done.stderr
    for file in ("c.svg", "c.tex", "curve/curve.json"):
        assert "clear is a demonstration and stands in for" in (tmp_path / file).read_text(), file
    many = [word for number in range(5) for word in ("--store", f"{store}{number}")]
    refused = run_cli("probe", "curve", store, labels, *many, *files)
    assert refused.returncode == 2
    assert "a figure shows up to 5 encoders, not 6" in refused.stderr


@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_the_curve_is_drawn_by_its_suffix(tmp_path: Path, suffix: str) -> None:
    told = to_json(fractions_of(tmp_path, fractions=(0.25, 1.0), seeds=range(2)), {})
    path = tmp_path / f"curve.{suffix}"
    few_labels_figure(told, path)
    data = path.read_bytes()
    assert {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix] == data[
        : {"pdf": 4, "png": 4, "svg": 5}[suffix]
    ]
    if suffix == "svg":
        assert b"25%" in data
        assert b"part of the training patients" in data
    few_labels_figure(told, path)
    assert path.read_bytes() == data


def test_the_verb_takes_parts_of_the_patients(tmp_path: Path) -> None:
    stores = [
        str(make_store(tmp_path / name, spec, 2.0, n)) for n, (name, spec) in enumerate((("a", CLEAR), ("b", DIM)))
    ]
    labels, out = str(write_labels(tmp_path / "labels.csv")), tmp_path / "curve"
    files = ["--figure", str(tmp_path / "c.pdf"), "--latex", str(tmp_path / "c.tex"), "--out", str(out)]
    verb = ["probe", "curve", stores[0], labels, "--store", stores[1], "--seeds", "3"]
    done = run_cli(*verb, "--fraction", "0.5,0.001,1", *files)
    assert done.returncode == 0, done.stderr
    assert "p: paired t-test over the draws, with Holm's correction for 1 comparison" in done.stdout
    assert "0.1%" in done.stdout
    assert "is less than one" in done.stdout
    assert (tmp_path / "c.tex").read_text().startswith("% \\usepackage{booktabs}")
    told = json.loads((out / "curve.json").read_text())
    assert told["protocol"]["fractions"] == [0.001, 0.5, 1.0]
    with open(out / "curve.csv", newline="") as file:
        assert {row["fraction"] for row in csv.DictReader(file)} == {"0.001", "0.5", "1.0"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--fraction", "0"], "--fraction is a list of parts of 1"),
        (["--fraction", "1.5"], "--fraction is a list of parts of 1"),
        (["--fraction", "nan"], "--fraction is a list of parts of 1"),
        (["--fraction", "1%"], "--fraction is a list of parts of 1"),
        (["--fraction", "0.5", "--shots", "2"], "not both"),
        (["--figure", "c.jpg"], "give another name"),
        (["--latex", "c.txt"], "give another --latex"),
    ],
)
def test_options_of_a_curve_that_cannot_be(tmp_path: Path, words: list[str], told: str) -> None:
    done = CliRunner().invoke(app, ["probe", "curve", "store", str(write_labels(tmp_path / "labels.csv")), *words])
    assert done.exit_code
    assert told in done.stderr + str(done.exception)


def test_a_report_reads_curves_of_patients_and_those_of_earlier_releases(tmp_path: Path) -> None:
    told = to_json(fractions_of(tmp_path, fractions=(0.25, 1.0), seeds=range(2)), {})
    (tmp_path / "curve.json").write_text(json.dumps(told))
    read = _read_curve(tmp_path / "curve.json")
    means, *_ = few_label_tables(read)
    assert [row[1] for row in means.rows if row[0] == "clear"] == ["25%", "100%"]
    assert means.heads[1] == "training patients"
    assert "95% interval" in few_label_plot(read, []).caption
    old_folder = tmp_path / "old"
    old_folder.mkdir()
    old = to_json(curve_of(old_folder, shots=(2, None), seeds=range(2)), {})
    new = ("ci_low", "ci_high", "p", "p_holm")
    for name in ("summary", "differences"):
        old[name] = [{key: value for key, value in row.items() if key not in new} for row in old[name]]
    assert "standard deviation" in few_label_plot(old, []).caption
    assert few_label_tables(old)[0].heads[1] == "labels a side"
