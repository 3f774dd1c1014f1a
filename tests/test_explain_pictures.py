"""Maps in a report and in a montage: which cases are shown, what stands under them, and that likeness is exact."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image
from typer.testing import CliRunner

import cxr_embed as cx
from cxr_embed.api.inputs import labels_of
from cxr_embed.api.search import SimilarCases
from cxr_embed.cli import app
from cxr_embed.encoders import load_encoder
from cxr_embed.errors import CxrEmbedError
from cxr_embed.evaluation import read_scores
from cxr_embed.evaluation.scored import ScoredCases, join_scores
from cxr_embed.explanation.answers import answers_of
from cxr_embed.explanation.hiding import Hiding
from cxr_embed.explanation.loading import encoder_with_grid
from cxr_embed.explanation.methods import method_of
from cxr_embed.explanation.targets import of_vectors
from cxr_embed.images import read_image
from cxr_embed.index.faiss.vectors import pooled, unit
from cxr_embed.phantom import write_phantoms
from cxr_embed.reporting.examples import KINDS, Example, Explain, explained
from cxr_embed.reporting.inputs import ReportError
from cxr_embed.store import Row, StoreWriter

FINDINGS = ["Cardiomegaly", "Effusion"]
THRESHOLD = 0.3


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 phantoms, their vectors by mini, a probe, its scores, and indexes: of mini's two outputs, and of hog."""
    root = tmp_path_factory.mktemp("pictures")
    write_phantoms(root / "cases", 24, seed=3, size=96)
    store(root, "mini")
    store(root, "hog")
    probe = cx.train_probe(root / "mini", root / "cases/manifest.csv", findings=FINDINGS)
    probe.save(root / "probe")
    write_scores(root / "scores.parquet", probe.predict(root / "mini").to_arrow())
    for name, output in (("mini", "contrastive"), ("mini", "features"), ("hog", None)):
        cx.build_index(root / name, root / "cases/manifest.csv", path=root / f"by-{output or name}", output=output)
    return root


def store(root: Path, name: str) -> None:
    """The vectors of all phantoms, float32, without a run's processes."""
    encoder = load_encoder(name, precision="float32")
    images = {path.stem: read_image(path) for path in files(root)}
    answer = answers_of(encoder, list(images.values()))
    with StoreWriter(root / name, encoder.spec, dtype="float32") as writer:
        for number, (image_id, image) in enumerate(images.items()):
            row = Row(
                image_id=image_id, patient_id=image_id.rpartition("-")[0], content=bytes.fromhex(image.content_id)
            )
            writer.add_vector(row, {output: found[number] for output, found in answer.items()})
        writer.flush("here")


def files(root: Path) -> list[Path]:
    with open(root / "cases/manifest.csv", newline="") as file:
        return [root / "cases" / row["path"] for row in csv.DictReader(file)]


def write_scores(path: Path, table: pa.Table) -> None:
    """Scores that do not say whom the probe learned from: these phantoms are few."""
    pyarrow.parquet.write_table(table.drop_columns(["learned_from"]), path)


@pytest.mark.parametrize("output", ["contrastive", "features", "map"])
def test_a_map_of_likeness_sums_to_the_cosine(world: Path, output: str) -> None:
    encoder = encoder_with_grid("mini")
    images = [read_image(path) for path in files(world)[:4]]
    answers = answers_of(encoder, images)
    vectors = pooled(answers[output], encoder.spec.outputs[output])
    targets = of_vectors(encoder, output, 3 * vectors[1:], ["a", "b", "c"])
    cosines = (unit(vectors[:1]) @ unit(vectors[1:]).T)[0]
    assert targets.values(answers[output][:1])[0] == pytest.approx(cosines, abs=1e-6)
    method = method_of("auto", encoder, targets, Hiding())
    assert method.name == "cam"
    answer = {name: found[0] for name, found in answers.items()}
    grids, _ = method.maps(images[0], answer, cosines, print)
    assert grids.shape == (3, 28, 28)
    lacking: Any = 0.0
    if output == "contrastive":  # its bias stands nowhere in the picture
        assert method.intercept is None
        weight, bias = encoder.projections[output]
        length = np.linalg.norm(weight @ answer["features"] + bias)
        lacking = unit(vectors[1:]) @ bias / length
        assert np.abs(lacking).max() > 1e-3
    else:
        assert method.intercept is not None
        assert not method.intercept.any()
    assert grids.sum(axis=(1, 2)) + lacking == pytest.approx(cosines, abs=1e-5)


def test_likeness_in_a_folder_of_maps_is_exact_too(world: Path, tmp_path: Path) -> None:
    first, second = files(world)[:2]
    made = cx.explain([first], like=second, out=tmp_path / "out", maps_only=True)
    assert made.folder.about["words"] == "cam, layer map (28 x 28 cells)"
    vectors = cx.embed_images([first, second], output="contrastive", precision="float32")
    assert made.folder.maps[0].more["value"] == pytest.approx(float(vectors[0] @ vectors[1]), abs=1e-4)


def search(world: Path, index: str = "by-contrastive", k: int = 3, **like: Any) -> SimilarCases:
    return cx.open_index(world / index).search(k=k, **(like or {"image_id": files(world)[0].stem}))


def words_of(figure: Any) -> list[list[str]]:
    return [[text.get_text() for text in axes.texts] for axes in figure.axes]


@pytest.mark.parametrize("index", ["by-contrastive", "by-features"])
def test_a_montage_shows_what_made_two_cases_alike_on_both(world: Path, tmp_path: Path, index: str) -> None:
    found = search(world, index)
    figure = found.plot(world / "cases/manifest.csv", path=tmp_path / "m.png", explain=True)
    shown = words_of(figure)
    maps = [words for words in shown if any("cam, layer map" in text for text in words)]
    assert len(maps) == 6  # of the query and of the case, three times
    for number, case in enumerate(found.cases):
        # Of either side the same cosine, which is the search's.
        both = [words[0] for words in maps if words[0] == f"{case['similarity']:.3f}"]
        assert len(both) >= 2, (number, case["similarity"], [words[0] for words in maps])
    for words in maps:
        checked, method, measured = words[1].split("\n")
        assert re.fullmatch(r"hidden -?\d\.\d{3}, elsewhere -?\d\.\d{3}", checked)
        assert (method, measured) == ("cam, layer map (28 x 28 cells)", "not measured")
    assert ["what of the query\nis like each case", "0", "highest"] in shown
    assert ["what of each case\nis like the query", "0", "highest"] in shown
    below = figure.texts[0].get_text()
    assert "cam, layer map (28 x 28 cells); not measured." in below
    assert "stands in for a foundation model" in below
    assert "not a medical device" in below
    plain = search(world, index).plot(world / "cases/manifest.csv", path=tmp_path / "plain.png")
    pixels, before = (
        np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int) for name in ("m.png", "plain.png")
    )
    assert figure.get_size_inches()[1] > 2.5 * plain.get_size_inches()[1]
    coloured = np.ptp(pixels, axis=-1) > 40
    across, down = pixels.shape[1] // 4, before.shape[0]
    assert not coloured[: down - 200, across:].any()  # the first row is as it was
    for column in (1, 2, 3):
        assert coloured[down:, column * across : (column + 1) * across].mean() > 0.005
    listed = json.loads(Image.open(tmp_path / "m.png").text["cxr_embed image_id"])  # type: ignore[attr-defined]
    assert listed == [files(world)[0].stem, *found.ids]


def test_words_have_maps_of_the_cases_alone_and_others_by_occlusion(world: Path, tmp_path: Path) -> None:
    manifest = world / "cases/manifest.csv"
    shown = words_of(search(world, text="cardiomegaly", k=2).plot(manifest, explain=True))
    assert sum(any("cam, layer map" in text for text in words) for words in shown) == 2
    assert not any("what of the query" in text for words in shown for text in words)
    picture, lines = tmp_path / "h.pdf", ["search", str(world / "by-hog"), "--image", str(files(world)[1]), "-k", "1"]
    done = CliRunner().invoke(app, [*lines, "--montage", str(picture), "--manifest", str(manifest), "--explain"])
    assert done.exit_code == 0, done.output
    assert "occlusion embeds 146 pictures an image: 292 in all" in done.stderr
    assert picture.stat().st_size > 10_000


def test_a_part_of_a_picture_is_explained_on_that_part(world: Path) -> None:
    found = search(world, image=files(world)[0], box="10,10,60,60", k=2)
    shown = words_of(found.plot(world / "cases/manifest.csv", explain=True))
    maps = [words[0] for words in shown if any("cam, layer map" in text for text in words)]
    # Of either side the cosine that the search ranked by: the query's is that of the part.
    assert sorted(maps) == sorted(2 * [f"{case['similarity']:.3f}" for case in found.cases])


def test_a_picture_that_is_missing_is_said_in_the_place_of_its_map(world: Path) -> None:
    found = search(world)
    table = cx.read_manifest(world / "cases/manifest.csv").table
    kept = pa.compute.not_equal(table["image_id"], found.ids[0])
    shown = words_of(
        found.plot(replace(cx.read_manifest(world / "cases/manifest.csv"), table=table.filter(kept)), explain=True)
    )
    assert sum("no path is known" in text for words in shown for text in words) == 2  # the case, and its map
    assert sum(any("cam, layer map" in text for text in words) for words in shown) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image-id", "FIRST", "--explain"], "--explain needs --montage"),
        (["--image-id", "FIRST", "--explain", "--montage", "m.png"], "--montage needs --manifest"),
    ],
)
def test_a_search_that_cannot_be_explained_is_refused(world: Path, words: list[str], message: str) -> None:
    words = [files(world)[0].stem if word == "FIRST" else word for word in words]
    done = CliRunner().invoke(app, ["search", str(world / "by-hog"), *words])
    assert done.exit_code == 2
    assert message in done.stderr


def test_an_encoder_that_is_another_one_is_named(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = search(world)
    other = replace(found.index.record, spec=replace(found.index.spec, weights="0" * 64))
    monkeypatch.setattr(found.index, "record", other)
    with pytest.raises(CxrEmbedError, match=r"the index has vectors of mini .* the encoder here is another one"):
        found.plot(world / "cases/manifest.csv", explain=True)
    tokens: Any = type("T", (), {"index": type("I", (), {"pool": "tokens"})})
    from cxr_embed.api.alike import check_alike

    with pytest.raises(CxrEmbedError, match="token with token"):
        check_alike(tokens)


def scored(
    ids: Sequence[str], patients: Sequence[str], labels: Sequence[float], scores: Sequence[float]
) -> ScoredCases:
    table = pa.table({"image_id": ids, "patient_id": patients, "A": list(map(str, labels))})
    return join_scores(read_scores(pa.table({"image_id": ids, "A": list(map(str, scores))})), labels_of(table))


def test_the_cases_are_those_that_the_page_says() -> None:
    rng = np.random.default_rng(0)
    ids = [f"i{number:02d}" for number in range(60)]
    patients = [f"p{number // 3}" for number in range(60)]
    labels, scores = rng.integers(0, 2, 60), rng.random(60).round(3)
    cases = scored(ids, patients, labels.tolist(), scores.tolist())
    drawn: list[Example] = []

    def draw(examples: Sequence[Example]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        drawn.extend(examples)
        return [{} for _ in examples], {"notes": []}

    records = [{"finding": "A", "threshold": 0.5}]
    made = explained(cases, records, Explain(4, ["A"], {}, draw))
    for kind, group in zip(KINDS, made["groups"], strict=True):
        sign = 1 if kind == "false negatives" else -1
        fits = {
            "true positives": (labels == 1) & (scores >= 0.5),
            "false positives": (labels == 0) & (scores >= 0.5),
            "false negatives": (labels == 1) & (scores < 0.5),
        }[kind]
        best: dict[str, tuple[float, str]] = {}
        for row in np.flatnonzero(fits):
            mine = (sign * scores[row], ids[row])
            best[patients[row]] = min(best.get(patients[row], mine), mine)
        assert group["cases"] == fits.sum()
        assert [case["image_id"] for case in group["examples"]] == [
            image_id for _, image_id in sorted(best.values())[:4]
        ]
    assert len(drawn) == 12
    own = explained(cases, [{"finding": "A", "threshold": None}], Explain(1, ["A"], {"A": 0.9}, draw))
    assert own["groups"][0]["threshold"] == 0.9
    with pytest.raises(ReportError, match="A: no threshold"):
        explained(cases, [{"finding": "A", "threshold": None}], Explain(1, ["A"], {}, draw))
    with pytest.raises(ReportError, match="A: the probe has no such finding"):
        explained(cases, records, Explain(1, ["B"], {}, draw))


def report(world: Path, out: Path, scores: Path | None = None, **more: Any) -> dict[str, Any]:
    options = {"probes": [world / "probe"], "explain": 2, "threshold": THRESHOLD, "bootstraps": 5, **more}
    cx.report(scores or world / "scores.parquet", world / "cases/manifest.csv", out=out, **options)
    body: dict[str, Any] = json.loads(out.with_suffix(".json").read_text())
    return body


def test_a_report_shows_cases_with_their_maps(world: Path, tmp_path: Path) -> None:
    made = report(world, tmp_path / "r.html")["explained"]
    assert [(group["finding"], group["kind"]) for group in made["groups"]] == [(f, k) for f in FINDINGS for k in KINDS]
    cases = [case for group in made["groups"] for case in group["examples"]]
    assert len(cases) > 5
    for case in cases:
        assert case["below"] == "cam, layer map (28 x 28 cells); not measured"
        assert case["probe_score"] == pytest.approx(case["score"], abs=1e-3)
        assert 1 / (1 + np.exp(-case["log_odds"])) == pytest.approx(case["probe_score"], abs=1e-6)
        assert not {"mixed", "plain"} & case.keys()  # radiographs are in the page alone
    page = (tmp_path / "r.html").read_text()
    pictures = re.findall(r'<img [^>]*src="data:image/webp;base64,([^"]+)"', page)
    assert len(pictures) == page.count("<img") == 2 * len(cases)
    mixed, plain = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")).astype(int) for data in pictures[:2]
    )
    assert mixed.shape == plain.shape == (320, 320, 3)
    assert (np.ptp(mixed, axis=-1) > 40).any()
    assert np.ptp(plain, axis=-1).max() < 8
    assert "img-src data:" in page
    assert not re.search(r"https?://|<script|url\((?!#)", page)
    assert page.count("cam, layer map (28 x 28 cells); not measured") == len(cases)
    section = page[page.index('<section id="maps">') :].split("</section>")[0]
    assert "not a medical device" in section
    assert "stands in for a foundation model" in section
    assert all(f"image {case['image_id']}<" in section for case in cases)  # so that `forget` finds the page
    assert ".png" not in section
    assert str(world) not in page
    first = cases[0]
    text = (tmp_path / "r.md").read_text()
    assert first["image_id"] in text[text.index("Examples with heat maps") :]
    with open(tmp_path / "r.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["part"] == "explained"]
    assert {row["figure"] for row in rows} == {"score", "log_odds", "without_region", "without_elsewhere"}
    assert len(rows) == 4 * len(cases)


def test_without_it_a_report_holds_no_picture(world: Path, tmp_path: Path) -> None:
    made = report(world, tmp_path / "r.html", explain=None, probes=[])
    assert made["explained"] is None
    assert "<img" not in (tmp_path / "r.html").read_text()


def test_a_measured_figure_stands_under_the_maps_of_a_report(world: Path, tmp_path: Path) -> None:
    made = report(world, tmp_path / "a.html", explain=1)["explained"]
    hit = {"value": 0.86, "low": 0.75, "high": 0.94}
    row = {"finding": "Effusion", "images": 57, "figures": {"map": {"hit_rate": hit}}}
    about = {name: made[name] for name in ("encoder", "fingerprint", "words")}
    (tmp_path / "m.json").write_text(json.dumps({"about": about, "findings": [row]}))
    groups = report(world, tmp_path / "b.html", explain=1, measured=tmp_path / "m.json")["explained"]["groups"]
    lines = {group["finding"]: case["below"] for group in groups for case in group["examples"]}
    assert lines["Effusion"].endswith("measured: highest point in the marked place in 86% (75 to 94%) of 57")
    assert lines["Cardiomegaly"].endswith("; not measured")


def test_scores_that_are_not_the_probe_s_are_said_or_refused(world: Path, tmp_path: Path) -> None:
    table = pyarrow.parquet.read_table(world / "scores.parquet").replace_schema_metadata(None)
    values = {name: table[name].to_numpy().copy() for name in FINDINGS}
    top = int(np.argmax(values["Effusion"]))
    values["Effusion"][top] = min(1.0, values["Effusion"][top] + 0.05)

    def scores_as(**columns: np.ndarray) -> Path:
        path = tmp_path / "other.csv"
        with open(path, "w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image_id", *columns])
            writer.writerows(zip(table["image_id"].to_pylist(), *columns.values(), strict=True))
        return path

    made = report(world, tmp_path / "r.html", scores_as(**values))["explained"]
    assert any("not those that the probe gives here" in note for note in made["notes"])
    said = [case["differs"] for group in made["groups"] for case in group["examples"] if case["differs"]]
    assert said
    assert all("the probe gives" in words for words in said)
    shuffled = {name: column[::-1] * 0.5 + 0.4 for name, column in values.items()}
    with pytest.raises(ReportError, match="the scores are not this probe's") as caught:
        report(world, tmp_path / "no.html", scores_as(**shuffled))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "no.html").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"explain": 0}, "`explain` is the number of cases of a kind, at least 1, not 0"),
        ({"probes": []}, "`explain` needs `probes`"),
        ({"threshold": None}, "`explain` needs a threshold"),
        ({"root": "nowhere"}, r"none of \d+ radiographs can be shown \(no picture: missing\); name the `root`"),
        ({"measured": "probe/probe.json"}, "not what `explain evaluate --json` prints"),
        ({"manifest": "scores.csv"}, "path"),
    ],
)
def test_a_report_that_cannot_be_explained_is_refused_in_a_line(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(world)
    pyarrow.csv.write_csv(pyarrow.parquet.read_table("scores.parquet"), "scores.csv")
    with pytest.raises(CxrEmbedError, match=message):
        report(world, tmp_path / "r.html", **options)
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({"fingerprint": "0" * 64, "encoder": "hog"}, r"scores of hog \[0{12}\], and the probe reads mini"),
        ({"score": "sigmoid"}, "scores of prompts"),
    ],
)
def test_a_score_file_that_names_another_encoder_is_refused(
    world: Path, tmp_path: Path, about: dict[str, str], message: str
) -> None:
    table = pyarrow.parquet.read_table(world / "scores.parquet").replace_schema_metadata(about)
    pyarrow.parquet.write_table(table, tmp_path / "other.parquet")
    with pytest.raises(ReportError, match=message):
        report(world, tmp_path / "r.html", tmp_path / "other.parquet")


def test_the_verb_makes_the_page(world: Path, tmp_path: Path) -> None:
    words = [
        "report",
        str(world / "scores.parquet"),
        str(world / "cases/manifest.csv"),
        "--probe",
        str(world / "probe"),
    ]
    words += ["--explain", "1", "--threshold", str(THRESHOLD), "--bootstraps", "5", "--finding", "Effusion"]
    done = CliRunner().invoke(app, [*words, "--out", str(tmp_path / "r.html")])
    assert done.exit_code == 0, done.output
    page = (tmp_path / "r.html").read_text()
    assert 2 <= page.count("<img") <= 6
    assert re.search("<b>(true positive|false positive|false negative), score ", page)  # one a kind: each says its own
