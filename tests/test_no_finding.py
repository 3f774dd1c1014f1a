"""'No Finding' has no part in means over findings unless that is asked for; every mean says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest
from helpers import run_cli
from index_world import make_index

from cxr_embed.evaluation import compare, evaluate
from cxr_embed.manifest import read_labels
from cxr_embed.probe.curve import CurveEncoder, run_curve
from cxr_embed.probe.curve_summary import differences, summarise
from cxr_embed.retrieval import evaluate_retrieval
from cxr_embed.store import open_store
from cxr_embed.types import Labels, in_means, left_out_of_means
from cxr_embed.zeroshot import Scores

NAMES = ("Mass", "No Finding", "Edema")
TOLD = "'No Finding' says that findings are absent: no part in the mean (`count_no_finding`)"
TYPED = TOLD.replace("`count_no_finding`", "--count-no-finding")


def world(count: int = 80) -> tuple[Scores, Scores, Labels]:
    rng = np.random.default_rng(0)
    ids = np.array([f"c{number}" for number in range(count)])
    labels = (rng.random((count, 3)) < 0.4).astype(np.float32)
    made = [
        Scores(ids=ids, names=NAMES, values=labels * [1, 3, 0.5] + rng.normal(size=labels.shape), kind="margin")
        for _ in range(2)
    ]
    return made[0], made[1], Labels(ids, NAMES, labels)


@pytest.mark.parametrize("name", ["No Finding", "no_finding", "NoFinding", "No findings", "NO-FINDING"])
def test_every_spelling(name: str) -> None:
    assert in_means(["Mass", name]) == [True, False]
    assert in_means(["Mass", name], True) == [True, True]
    assert in_means([name]) == [True]
    assert left_out_of_means([name]) == []


def test_names_that_are_findings() -> None:
    assert in_means(["Finding", "No Mass", "Nodule finding", "", "14"]) == [True] * 5


def test_an_evaluation_and_a_comparison() -> None:
    first, second, labels = world()
    found = evaluate(first, labels, bootstraps=50)
    aurocs = {finding.name: finding.figures["auroc"].value for finding in found.findings}
    assert set(aurocs) == set(NAMES)
    assert found.covered == 2
    assert found.mean_auroc.value == pytest.approx(np.mean([aurocs["Mass"], aurocs["Edema"]]))
    assert TOLD in found.warnings
    asked = evaluate(first, labels, bootstraps=50, count_no_finding=True)
    assert (asked.covered, asked.mean_auroc.value) == (3, pytest.approx(np.mean(list(aurocs.values()))))
    assert TOLD not in asked.warnings
    apart = compare(first, second, labels, bootstraps=50)
    kept = [f.auroc.difference.value for f in apart.findings if f.name != "No Finding"]
    assert (apart.covered, apart.mean_auroc.difference.value) == (2, pytest.approx(np.mean(kept)))
    assert TOLD in apart.warnings
    # Interval and p are as though it were not there.
    chosen = [0, 2]
    alone = compare(
        *(
            Scores(ids=s.ids, names=("Mass", "Edema"), values=s.values[:, chosen], kind="margin")
            for s in (first, second)
        ),
        Labels(labels.ids, ("Mass", "Edema"), labels.values[:, chosen]),
        bootstraps=50,
    )
    assert alone.mean_auroc == apart.mean_auroc


def test_retrieval_and_a_curve(tmp_path: Path) -> None:
    first, _, labels = world()
    columns = {name: labels.values[:, number].astype(int).astype(str).tolist() for number, name in enumerate(NAMES)}
    index = make_index(tmp_path, first.values.astype(np.float32), columns=columns)
    report = evaluate_retrieval([index, index], ks=(3,), bootstraps=20)
    (one, _), (apart,) = report.indexes, report.differences
    by_name = {finding.name: finding for finding in one.findings}
    assert one.covered[""] == one.votes_covered == 2
    parts = [by_name[name].figures.precision[0].figure.value for name in ("Mass", "Edema")]
    assert one.mean.precision[0].figure.value == pytest.approx(np.mean(parts))
    assert apart.votes is not None
    assert apart.votes.covered == 2
    assert TOLD in report.notes
    assert evaluate_retrieval([index], ks=(3,), bootstraps=0, count_no_finding=True).indexes[0].covered[""] == 3
    rows = ["image_id,patient_id,split," + ",".join(NAMES)]
    for number, row in enumerate(labels.values.astype(int).tolist()):
        rows.append(f"c{number},p{number},{'test' if number % 3 == 0 else 'train'}," + ",".join(map(str, row)))
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    encoders = [CurveEncoder(name, open_store(tmp_path / "store"), "features") for name in ("a", "b")]
    for counted in (False, True):
        curve = run_curve(
            encoders, read_labels(tmp_path / "labels.csv"), shots=(2, None), seeds=(0,), count_no_finding=counted
        )
        means = [row["findings_in_mean"] for row in (*summarise(curve), *differences(curve)) if row["finding"] is None]
        assert set(means) == {2 + counted}
        assert (TOLD in curve.notes) != counted


def test_the_verbs(tmp_path: Path) -> None:
    first, second, labels = world()
    for name, made in (("a", first), ("b", second), ("labels", labels)):
        columns = {"image_id": made.ids.tolist(), **{n: made.values[:, number] for number, n in enumerate(NAMES)}}
        pacsv.write_csv(pa.table(columns), tmp_path / f"{name}.csv")
    draws = ("--bootstraps", "20")
    for verb in (("evaluate", "a.csv"), ("probe", "compare", "a.csv", "b.csv")):
        plain = run_cli(*verb, "labels.csv", *draws, cwd=tmp_path)
        assert f"note: {TYPED}" in plain.stdout
        assert "mean of 2 of 3" in plain.stdout
        asked = run_cli(*verb, "labels.csv", *draws, "--count-no-finding", cwd=tmp_path)
        assert TYPED not in asked.stdout
        assert "mean of 3 of 3" in asked.stdout
    done = run_cli(
        "report", "a.csv", "labels.csv", "--against", "b.csv", "--out", "r.html", *draws, "--json", cwd=tmp_path
    )
    assert any("No Finding" in told for told in json.loads(done.stdout)["warnings"])
    body = json.loads((tmp_path / "r.json").read_text())
    assert body["scores"][0]["evaluation"]["findings_in_mean"] == body["comparisons"][0]["findings_in_mean"] == 2
