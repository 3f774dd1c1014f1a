"""The Screen page and its JSON: figures as `evaluate` has them, wrong cases first, the list as a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from index_world import make_store, toy_spec
from serve_world import HOSTILE, SECRET, Visitor, close, make_phantoms, visitor

from cxr_embed import evaluate, load_probe, open_store, screen, train_probe
from cxr_embed.evaluation.measure import Sample, measure, measure_flags
from cxr_embed.index.faiss.build import build_index
from cxr_embed.manifest import Manifest
from cxr_embed.metrics import Estimate, per_thousand, per_thousand_spread, threshold_for_flag_rate, thresholds_by_flags


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_phantoms(tmp_path_factory.mktemp("screened"), 160)
    labels, store = made / "cases" / "manifest.csv", made / "store"
    some = ["Effusion", "Cardiomegaly", "Edema"]
    options: dict[str, Any] = {"findings": some, "thresholds_split": "test", "split": "train"}
    train_probe(store, labels, **options).save(made / "probe")
    return made


@pytest.fixture(scope="module")
def screener(folder: Path) -> Iterator[Visitor]:
    made = visitor(
        folder,
        manifest=folder / "cases" / "manifest.csv",
        store=folder / "store",
        probe=folder / "probe",
        prompts="phantom8",
    )
    yield made
    close([made])


def make_hostile_screen(folder: Path, count: int = 40) -> Path:
    """An index of texts that are HTML, and a probe of a finding whose name is."""
    rng = np.random.default_rng(0)
    finding = f"Effusion{HOSTILE}"
    values = rng.standard_normal((count, 6)).astype(np.float32)
    ill = values[:, 0] + rng.standard_normal(count) > 0
    patients = [f"p{number}" for number in range(count)]
    store = make_store(folder / "store", values, patients)
    ids = [f"c{number}" for number in range(count)]
    columns = {
        "image_id": ids,
        "path": [f"{name}.png" for name in ids],
        "patient_id": patients,
        "site": ["A", HOSTILE] * (count // 2),
        "patient_name": [SECRET] * count,
        "split": ["train", "test"] * (count // 2),
        finding: ["1" if each else "0" for each in ill],
    }
    table = pa.table({name: pa.array(of, pa.string()) for name, of in columns.items()})
    labels = Manifest(table, Path(), (finding,))
    build_index(open_store(store), folder / "index", manifest=labels)
    train_probe(store, labels).save(folder / "probe")
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    folder = make_hostile_screen(tmp_path_factory.mktemp("hostile"))
    made = visitor(folder, store=folder / "store", probe=folder / "probe")
    yield made
    close([made])


def asked(made: Visitor, path: str = "", **question: Any) -> Any:
    answer = made.client.get(f"/api/screen{path}", params=question)
    assert answer.status_code == 200, answer.text
    return answer.json()


def table_of(made: Visitor, **question: Any) -> list[dict[str, str]]:
    answer = made.client.get("/api/screen/cases.csv", params=question)
    assert answer.status_code == 200, answer.text
    assert "attachment" in answer.headers["content-disposition"]
    return list(csv.DictReader(io.StringIO(answer.text)))


# Figures


@pytest.mark.parametrize("threshold", ["0.3", "kept", "youden"])
def test_figures_of_a_probe_are_those_of_evaluate(screener: Visitor, folder: Path, threshold: str) -> None:
    """With the cases that the probe learned from left out, as `evaluate` leaves them out."""
    for finding in ("Effusion", "Cardiomegaly"):
        question = {"finding": finding, "by": "probe", "threshold": threshold, "prevalence": 0.05}
        found = asked(screener, **question)
        at = found["point"]["threshold"]
        frame = load_probe(folder / "probe").predict(folder / "store")
        made = evaluate(frame, folder / "cases" / "manifest.csv", threshold={finding: at}, prevalence=0.05)
        result = made.finding(finding)
        assert (result.n, result.positives) == tuple(
            asked(screener, "/curve", finding=finding, by="probe")[name] for name in ("labelled", "positives")
        )
        for name in ("sensitivity", "specificity", "ppv", "npv"):
            figure = result.figures[name]
            shown = [found["figures"][key] for key in (name, f"{name}_low", f"{name}_high")]
            assert shown == pytest.approx([figure.value, figure.low, figure.high], nan_ok=True), name
        auroc = asked(screener, "/auroc", finding=finding, by="probe")
        wanted = result.figures["auroc"]
        assert [auroc["auroc"], auroc["auroc_low"], auroc["auroc_high"]] == [wanted.value, wanted.low, wanted.high]
        assert any("that the probe learned from" in note for note in found["notes"])
        if threshold == "kept":
            assert at == load_probe(folder / "probe").trained.thresholds[finding]
            assert found["rule"] == "kept in the probe"
            assert any("threshold was chosen on" in note for note in found["notes"])


def test_figures_of_prompts_are_those_of_screen(screener: Visitor, folder: Path) -> None:
    labels = folder / "cases" / "manifest.csv"
    report = screen(folder / "store", "phantom8", labels=labels, threshold="sensitivity=0.9", prevalence=0.02).report
    assert report is not None
    for each in report.findings:
        point = asked(screener, "/point", finding=each.name, by="prompts", threshold="sensitivity=0.9", prevalence=0.02)
        assert each.point is not None
        for name in ("sensitivity", "specificity"):
            assert point[name] == getattr(each.point, name)
        for name in ("flags_per_1000", "missed_per_1000"):
            assert point[name] == pytest.approx(getattr(each, name))


def test_a_condition_counts_for_everything(screener: Visitor) -> None:
    question = {"finding": "Effusion", "by": "prompts", "where": "view = PA", "threshold": "0"}
    found, rows = asked(screener, **question), table_of(screener, **question)
    assert {row["view"] for row in rows} == {"PA"}
    assert found["point"]["cases"] == len(rows) < 160
    scores = np.array([float(row["score"]) for row in rows])
    labels = np.array([row["label"] == "1" for row in rows])
    assert found["point"]["flagged"] == int((scores >= 0).sum())
    assert found["point"]["sensitivity"] == float((scores[labels] >= 0).mean())
    none = asked(screener, **{**question, "where": "view = PA and view = AP"})
    assert (none["listed"], none["point"]["flags_per_1000"]) == (0, None)
    again = asked(screener, "/curve", **{**question, "where": "view = PA and view = AP"})
    assert (again["thresholds"], again["roc"]) == ([], [])


@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=60), st.integers(5, 900))
def test_steps_of_a_slider_flag_what_they_say(scores: list[float], most: int) -> None:
    values = np.array(scores, np.float32)
    thresholds, flagged = thresholds_by_flags(values, most)
    assert (flagged[0], flagged[-1]) == (0, len(values))
    assert len(thresholds) <= most + 1
    assert (np.diff(thresholds) < 0).all()
    np.testing.assert_array_equal((values[None].astype(float) >= thresholds[:, None]).sum(axis=1), flagged)
    if most >= 2 * len(values):
        assert set(flagged.tolist()) == {0, *np.cumsum(np.unique(values, return_counts=True)[1][::-1]).tolist()}
        for threshold, number in zip(thresholds.tolist()[1:], flagged.tolist()[1:], strict=True):
            # `flag-rate` takes the next float32 below the lowest score, as the slider does.
            assert threshold == threshold_for_flag_rate(values, number / len(values))


def test_no_scores_have_no_steps() -> None:
    thresholds, flagged = thresholds_by_flags(np.empty(0))
    assert len(thresholds) == len(flagged) == 0


@given(st.integers(0, 2**16), st.floats(-1.5, 1.5), st.sampled_from([None, 0.02]))
def test_flags_alone_have_the_intervals_of_all_figures(seed: int, threshold: float, prevalence: float | None) -> None:
    rng = np.random.default_rng(seed)
    positive, patients = rng.random(24) < 0.4, rng.integers(0, 15, 24)
    sample = Sample(
        positive=positive,
        scores=rng.standard_normal(24) + positive,
        patients=patients,
        count=15,
        threshold=threshold,
        prevalence=prevalence,
    )
    whole, _ = measure(sample, 40, (seed,))
    for name, figure in measure_flags(sample, 40, (seed,)).items():
        assert figure == whole[name], name


@given(st.floats(0.01, 0.99), st.floats(0.01, 0.99), st.floats(0.001, 0.999))
def test_counts_per_1000_have_the_intervals_of_their_parts(one: float, other: float, prevalence: float) -> None:
    parts = Estimate(one, one / 2, (1 + one) / 2), Estimate(other, other / 3, (2 + other) / 3)
    flags, missed = per_thousand_spread(*parts, prevalence)
    assert (flags.value, missed.value) == pytest.approx(per_thousand(one, other, prevalence))
    # Only the sensitivity decides what is missed, the wrong way round.
    assert (missed.low, missed.high) == pytest.approx(
        (1000 * prevalence * (1 - (1 + one) / 2), 1000 * prevalence * (1 - one / 2))
    )
    assert flags.low is not None
    assert flags.high is not None
    widest = (
        per_thousand(one / 2, (2 + other) / 3, prevalence)[0],
        per_thousand((1 + one) / 2, other / 3, prevalence)[0],
    )
    assert widest[0] - 1e-9 <= flags.low <= flags.value <= flags.high <= widest[1] + 1e-9
    nothing = per_thousand_spread(Estimate(None, reason="no positives"), parts[1], prevalence)
    assert nothing[0].reason == nothing[1].reason == "no positives"


# The list


def test_wrong_cases_come_first(screener: Visitor) -> None:
    question = {"finding": "Nodule", "by": "prompts", "threshold": "youden"}
    at = asked(screener, "/point", **question)["threshold"]
    rows = table_of(screener, **question)
    order = ["missed", "false alarm", "rest"]
    kinds = [row["verdict"] if row["verdict"] in order else "rest" for row in rows]
    assert kinds == sorted(kinds, key=order.index)
    assert {"missed", "false alarm", "found", "passed"} == {row["verdict"] for row in rows}
    for row in rows:
        flagged, ill = float(row["score"]) >= at, row["label"] == "1"
        words = {(True, True): "found", (True, False): "false alarm", (False, True): "missed", (False, False): "passed"}
        assert row["verdict"] == words[flagged, ill]
        assert row["flagged"] == str(int(flagged))
    missed = [float(row["score"]) for row in rows if row["verdict"] == "missed"]
    alarms = [float(row["score"]) for row in rows if row["verdict"] == "false alarm"]
    assert missed == sorted(missed)
    assert alarms == sorted(alarms, reverse=True)
    by_score = [float(row["score"]) for row in table_of(screener, **question, order="score")]
    assert by_score == sorted(by_score, reverse=True)
    assert len(by_score) == len(rows) == 160
    for only, wanted in (("missed", len(missed)), ("false alarm", len(alarms))):
        assert (
            len(table_of(screener, **question, only=only)) == asked(screener, **question, only=only)["listed"] == wanted
        )


def test_cases_that_the_probe_learned_from_are_neither_right_nor_wrong(screener: Visitor, folder: Path) -> None:
    rows = table_of(screener, finding="Effusion", by="probe", threshold="0.5")
    taught = load_probe(folder / "probe").trained.patients.tolist()
    for row in rows:
        assert (row["learned_from"] == "1") == (row["patient_id"] in taught)
        assert (row["verdict"] in ("flagged", "not flagged")) == (row["learned_from"] == "1")


def test_pages_of_the_list_are_all_of_it(screener: Visitor) -> None:
    question = {"finding": "Edema", "by": "prompts", "order": "score"}
    pages = [asked(screener, **question, page=number)["cases"] for number in range(1, 9)]
    assert [len(page) for page in pages] == [24] * 6 + [16, 0]
    paged = [case["image_id"] for page in pages for case in page]
    assert paged == [row["image_id"] for row in table_of(screener, **question)]


def test_the_page_says_what_the_json_says(screener: Visitor) -> None:
    address = "/screen?finding=Effusion&by=probe&threshold=0.4&prevalence=0.02&where=view+%3D+PA"
    page = screener.client.get(address).text
    assert 'value="0.4"' in page
    assert 'value="0.02"' in page
    assert "view = PA" in page
    assert "research" in page
    part = screener.client.get(address, headers={"x-part-of-a-page": "1"}).text
    assert "<html" not in part
    assert part.count('class="card"') == page.count('class="card"') == 24
    assert len(part) < len(page)
    first = screener.client.get("/screen").text  # the first finding of the probe, at the threshold that it keeps
    assert "kept in the probe" in first


@pytest.mark.parametrize(
    ("question", "status", "words"),
    [
        ({"finding": "Nothing"}, 400, "No scores of Nothing"),
        ({"by": "prompts", "threshold": "kept"}, 400, "Threshold kept: the probe keeps none"),
        ({"threshold": "often"}, 400, "Threshold is youden"),
        ({"threshold": "nan"}, 400, "Threshold is youden"),
        ({"threshold": "youden", "where": "view = PA and view = AP"}, 400, "no case that counts here has one"),
        ({"by": "prompts", "where": "view = PA and view = AP"}, 400, "No case that passes the condition has a score"),
        ({"where": "path = x"}, 400, "no column"),
        ({"where": "view ="}, 400, "stops too early"),
        ({"prevalence": "1"}, 422, "prevalence"),
        ({"prevalence": "nan"}, 422, "prevalence"),
        ({"page": "0"}, 422, "page"),
        ({"only": "x"}, 422, "only"),
    ],
)
def test_what_cannot_be_answered_is_said(screener: Visitor, question: dict[str, str], status: int, words: str) -> None:
    answer = screener.client.get("/api/screen", params=question)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text
    assert screener.client.get("/screen", params=question).status_code == status


def test_without_scores_the_page_says_how_to_have_them(folder: Path) -> None:
    made = visitor(folder)
    page = made.client.get("/screen")
    assert page.status_code == 200
    assert "--probe PROBE" in page.text
    assert made.client.get("/api/screen").status_code == 400
    close([made])


def test_without_labels_there_are_flags_alone(folder: Path, tmp_path: Path) -> None:
    build_index(open_store(folder / "store"), tmp_path / "index", output="contrastive")
    made = visitor(tmp_path, prompts="phantom8")
    found = asked(made, finding="Effusion")
    assert found["point"]["flagged"] == 16
    assert found["point"]["flags_per_1000"] == pytest.approx(100)
    assert found["point"]["missed_per_1000"] is None
    assert found["figures"]["sensitivity"] is None
    assert {case["verdict"] for case in found["cases"]} == {"flagged", "not flagged"}
    assert any("no labels of it" in note for note in found["notes"])
    assert asked(made, "/auroc", finding="Effusion")["auroc"] is None
    page = made.client.get("/screen?finding=Effusion").text
    assert "false alarms" not in page
    close([made])


def test_hostile_names_stay_text(hostile: Visitor) -> None:
    finding = f"Effusion{HOSTILE}"
    for address in ("/screen", "/screen?threshold=0.5"):
        page = hostile.client.get(address, params={"finding": finding}).text
        assert "<script>alert" not in page
        assert SECRET not in page
    rows = table_of(hostile, finding=finding)
    assert {row["finding"] for row in rows} == {finding}
    assert SECRET not in hostile.client.get("/api/screen/cases.csv").text
    assert hostile.client.get("/api/screen", params={"where": "patient_name = x"}).status_code == 400
    odd = hostile.client.get("/screen", params={"finding": HOSTILE, "threshold": HOSTILE, "where": HOSTILE})
    assert odd.status_code == 400
    assert "<script>alert" not in odd.text


def test_a_table_has_no_formulas(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)
    store = make_store(tmp_path / "store", values, ["=1+1"] * 6 + ["@x"] * 6)
    ids = [f"c{number}" for number in range(12)]
    columns = {"image_id": ids, "path": ids, "patient_id": ["=1+1"] * 6 + ["@x"] * 6, "=cmd": ["0", "1"] * 6}
    labels = Manifest(pa.table(columns), Path(), ("=cmd",))
    build_index(open_store(store), tmp_path / "index", manifest=labels)
    train_probe(store, labels).save(tmp_path / "probe")
    made = visitor(tmp_path, store=tmp_path / "store", probe=tmp_path / "probe")
    for row in table_of(made):
        assert row["finding"] == "'=cmd"
        assert row["patient_id"] in ("'=1+1", "'@x")
    close([made])
    assert toy_spec(4).text is None


def test_a_rebuilt_index_is_screened_anew(folder: Path, tmp_path: Path) -> None:
    store = open_store(folder / "store")
    build_index(store, tmp_path / "index", output="contrastive")
    made = visitor(tmp_path, prompts="phantom8")
    before = asked(made, finding="Effusion")
    assert before["figures"]["sensitivity"] is None
    from cxr_embed.manifest import read_manifest

    build_index(
        store, tmp_path / "index", manifest=read_manifest(folder / "cases" / "manifest.csv"), output="contrastive"
    )
    after = asked(made, finding="Effusion")
    assert after["generation"] != before["generation"]
    assert after["figures"]["sensitivity"] is not None
    close([made])
