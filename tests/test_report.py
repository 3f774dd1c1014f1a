"""The report: its page, Markdown and CSV say what its JSON says, load nothing, and let no name do harm."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import helpers
import numpy as np
import pytest

from cxr_embed.errors import ManifestError
from cxr_embed.manifest import read_labels
from cxr_embed.present.numbers import PAGE
from cxr_embed.present.tables import markdown_text
from cxr_embed.probe import LinearProbe
from cxr_embed.probe.curve import CurveEncoder, run_curve
from cxr_embed.probe.curve_summary import write_curve
from cxr_embed.probe.labelled import labelled_cases
from cxr_embed.probe.persistence import make_trained, save_probe
from cxr_embed.reporting import Inputs, ReportError, collect, write_report
from cxr_embed.reporting.cards import origins, seen_in_training, without_places
from cxr_embed.reporting.context_tables import _listed
from cxr_embed.reporting.curves import thin
from cxr_embed.store import open_store
from cxr_embed.types import EncoderSpec

CREATED = "2026-01-02T03:04:05+00:00"
HOSTILE = "<script>alert(1)</script>|*$x_{"
SPEC = EncoderSpec(
    name="toy",
    revision="1",
    preprocessing="none",
    outputs={"features": (6,)},
    weights_source="/home/someone/weights/best.safetensors",
)


class Folder:
    """Labels, scores, a store, a probe and a curve of 60 patients with two images each."""

    def __init__(self, root: Path, findings: tuple[str, ...] = ("Effusion", "Mass"), **columns: list[str]) -> None:
        rng = np.random.default_rng(0)
        self.root, self.findings, count = root, findings, 120
        self.ids = [f"i{n}" for n in range(count)]
        self.truth = (rng.random((count, len(findings))) < 0.4).astype(int)
        view = rng.integers(0, 2, count)
        table = {
            "image_id": self.ids,
            "patient_id": [f"p{n // 2}" for n in range(count)],
            "age": [str(20 + n // 2) for n in range(count)],
            "sex": ["F" if n // 2 % 2 else "M" for n in range(count)],
            "view": ["PA" if value else "AP" for value in view],
            "split": [("train", "val", "test")[n // 2 % 3] for n in range(count)],
            **columns,
            **{name: [str(value) for value in self.truth[:, f]] for f, name in enumerate(findings)},
        }
        self.labels = self.write("labels.csv", table)
        self.scores = self.score("first", 0.8)
        self.view = view

    def write(self, name: str, table: dict[str, list[str]]) -> Path:
        path = self.root / name
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(table)
            writer.writerows(zip(*table.values(), strict=True))
        return path

    def score(self, name: str, strength: float, scale: Callable[[np.ndarray], np.ndarray] | None = None) -> Path:
        noise = np.random.default_rng(len(name)).random(self.truth.shape)
        values = strength * self.truth * 0.5 + noise * 0.5
        values = scale(values) if scale is not None else values
        columns = {finding: [str(value) for value in values[:, f]] for f, finding in enumerate(self.findings)}
        return self.write(f"{name}.csv", {"image_id": self.ids, **columns})

    def store(self, name: str = "vectors", spec: EncoderSpec = SPEC) -> Path:
        rng = np.random.default_rng(1)
        found = rng.standard_normal((len(self.ids), 6))
        found[:, 0] += 3 * self.view
        with helpers.StoreWriter(self.root / name, spec) as writer:
            for n in range(len(self.ids)):
                writer.add_vector(helpers.row(n), {"features": found[n]})
            writer.flush("toy engine")
        return self.root / name

    def report(self, **more: Any) -> dict[str, Any]:
        settings = {"scores": (self.scores,), "labels": self.labels, "split": "test", "bootstraps": 60, **more}
        return collect(Inputs(**{"created": CREATED, **settings}))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def full(folder: Folder) -> dict[str, Any]:
    """A report with everything in it."""
    store = open_store(folder.store())
    labels = read_labels(folder.labels)
    cases = labelled_cases(store, labels, split="train")
    probe = LinearProbe(0.01).fit(store.read(cases.ids).vectors, cases.labels, cases.patients)
    trained = make_trained(
        probe, store, "features", cases, (folder.labels.name, "0" * 64), split="train", uncertain="unknown"
    )
    save_probe(folder.root / "probe", trained)
    encoders = [CurveEncoder("one", store, "features"), CurveEncoder("two", store, "features")]
    curve = run_curve(encoders, labels, shots=[1, 4, 64, None], seeds=[0, 1])
    write_curve(folder.root / "curve", curve, {})
    return folder.report(
        scores=(folder.scores, folder.score("second", 0.3)),
        stores=(store.path,),
        probes=(folder.root / "probe",),
        curve=folder.root / "curve" / "curve.json",
        thresholds_split="val",
        prevalence=0.1,
    )


class Page(HTMLParser):
    """Tables, loads, ids and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._caption, self._open = "", ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "caption":
            self._caption = ""
        if tag == "tr" and self._caption:
            self.tables[self._caption].append([])
        if tag in ("th", "td"):
            self.tables[self._caption][-1].append("")
        self._open = tag if tag in ("caption", "th", "td") else self._open

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self._open == "caption":
            self._caption += data
            self.tables[self._caption] = []
        elif self._open:
            self.tables[self._caption][-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._open = "" if tag == self._open else self._open


def read(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def test_page_and_json_say_the_same(full: dict[str, Any], tmp_path: Path) -> None:
    files = write_report(tmp_path / "out" / "r.html", full)
    assert [path.name for path in files] == ["r.html", "r.json", "r.md", "r.csv"]
    body = json.loads(files[1].read_text(encoding="utf-8"))
    assert body == json.loads(json.dumps(full))
    page = read(files[0])
    for scores in body["scores"]:
        head, *rows, mean = page.tables[f"{scores['name']}: ranking"]
        assert head[:3] == ["finding", "AUROC", "95% interval"]
        assert head[-3:] == ["cases", "positive", "patients"]
        for row, f in zip(rows, scores["evaluation"]["findings"], strict=True):
            shown = f"{f['auroc_low']:.3f} to {f['auroc_high']:.3f}"
            assert row[:3] == [f["finding"], f"{f['auroc']:.3f}", shown]
            assert row[-3:] == [str(f["n"]), str(f["positives"]), str(f["patients"])]
        assert mean[1] == f"{scores['evaluation']['mean_auroc']:.3f}"
    told = " ".join(page.text)
    assert all(text in told for text in (*body["summary"], *body["warnings"]))
    assert f"AUROC {body['shortcuts'][0]['kinds'][0]['auroc']:.2f}" in told
    assert page.tables["Encoder toy"][1][1] == body["encoders"][0]["fingerprint"]
    assert "best.safetensors" in told
    assert "someone" not in files[0].read_text(encoding="utf-8") + files[1].read_text(encoding="utf-8")


def test_every_part_is_there(full: dict[str, Any], tmp_path: Path) -> None:
    page = read(write_report(tmp_path / "r.html", full)[0])
    ids = [attributes["id"] for _, attributes in page.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    parts = ["data", "ranking", "comparison", "published", "thresholds", "probabilities", "few", "groups", "shortcuts"]
    assert links == [f"#{part}" for part in [*parts, "card"]]
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert sum(tag == "svg" for tag, _ in page.tags) == sum(tag == "figure" for tag, _ in page.tags) == 7
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    for figure, name in (("ranking-roc", "auroc"), ("ranking-pr", "average_precision")):
        drawn = text[text.index(f'<figure id="{figure}">') :].split("</figure>")[0]
        for scores in full["scores"]:
            for f in scores["evaluation"]["findings"]:
                assert f">{f[name]:.2f}</text>" in drawn
                assert f">{f['finding']}</text>" in drawn
    used = [a["href"] for tag, a in page.tags if tag == "use"]
    assert used
    assert {target.removeprefix("#") for target in used if target} <= set(ids)


def test_the_page_loads_nothing(full: dict[str, Any], tmp_path: Path) -> None:
    path = write_report(tmp_path / "r.html", full)[0]
    page = read(path)
    assert not {"script", "link", "img", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("href", "src", "xlink:href", "srcset", "action"):
                assert str(value).startswith("#")
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"url\((?!#)|@import|https?://", text)
    assert "default-src 'none'" in text


def test_equal_inputs_give_equal_files(folder: Folder, tmp_path: Path) -> None:
    made = [write_report(tmp_path / name / "r.html", folder.report()) for name in ("a", "b")]
    assert [path.read_bytes() for path in made[0]] == [path.read_bytes() for path in made[1]]
    assert CREATED in made[0][1].read_text()


def test_markdown_and_csv_say_the_same(full: dict[str, Any], tmp_path: Path) -> None:
    _, _, markdown, table = write_report(tmp_path / "r.html", full)
    rows = list(csv.DictReader(io.StringIO(table.read_text(encoding="utf-8"))))
    for scores in full["scores"]:
        for f in scores["evaluation"]["findings"]:
            for figure in ("auroc", "average_precision", "sensitivity", "ppv", "brier"):
                (row,) = [
                    r
                    for r in rows
                    if (r["part"], r["scores"], r["finding"], r["figure"])
                    == ("finding", scores["name"], f["finding"], figure)
                ]
                assert float(row["value"]) == f[figure]
                assert float(row["low"]) == f[f"{figure}_low"]
    assert {row["part"] for row in rows} == {
        "data", "finding", "mean", "group", "group difference", "difference", "shortcut", "few labels",
    }  # fmt: skip
    lines = markdown.read_text(encoding="utf-8").splitlines()
    f = full["scores"][0]["evaluation"]["findings"][0]
    assert any(line.startswith(f"| {f['finding']} | {f['auroc']:.3f} | {f['auroc_low']:.3f} to ") for line in lines)
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines]
    for number_of, line in enumerate(lines):
        if line.startswith("|---") or line.startswith("|---:"):
            assert widths[number_of - 1] == widths[number_of] == widths[number_of + 1]


def test_undefined_findings_are_shown_with_their_reason(tmp_path: Path) -> None:
    folder = Folder(tmp_path, ("Effusion", "Hernia"))
    text = folder.labels.read_text().splitlines()
    none = [text[0], *(line[: line.rindex(",")] + ",0" for line in text[1:])]
    folder.labels.write_text("\n".join(none) + "\n")
    made = folder.report()
    page = read(write_report(tmp_path / "r.html", made)[0])
    row = next(row for row in page.tables["first: ranking"] if row[0] == "Hernia")
    assert row[1:5] == ["undefined", "", "undefined", ""]
    told = " ".join(page.text)
    assert "Hernia: AUROC, average precision: all 40 labels are negative." in told
    assert page.tables["first: ranking"][-1][0] == "mean of 1 of 2"
    assert "Hernia" not in made["scores"][0]["curves"]
    assert made["scores"][0]["evaluation"]["findings"][1]["auroc"] is None
    assert any("no AUROC, and no part in the mean: Hernia" in text for text in made["warnings"])


def test_findings_that_lack_a_figure_for_one_reason_are_told_together(folder: Folder, tmp_path: Path) -> None:
    made = folder.report(threshold=2.0, prevalence=0.1)
    told = " ".join(read(write_report(tmp_path / "r.html", made)[0]).text)
    assert "Left out: PPV: nothing is flagged, or everything" in told
    for f in made["scores"][0]["evaluation"]["findings"]:
        f["ppv"], f["ppv_low"], f["ppv_high"] = 0.5, None, None
        f["undefined"]["ppv"] = "no interval: a single patient shows no spread"
    told = " ".join(read(write_report(tmp_path / "r.html", made)[0]).text)
    names = ", ".join(folder.findings)
    assert f"{names}: PPV: no interval: a single patient shows no spread." in told


def test_means_over_different_findings_do_not_compare(folder: Folder) -> None:
    second = folder.score("second", 0.3)
    alone = folder.root / "alone.csv"
    alone.write_text("\n".join(line.rsplit(",", 1)[0] for line in second.read_text().splitlines()) + "\n")
    sentence = "These means are over different findings and do not compare; the differences below do."
    assert sentence in folder.report(scores=(folder.scores, alone))["summary"]
    assert sentence not in folder.report(scores=(folder.scores, second))["summary"]


def test_a_difference_without_an_interval_is_no_winner(folder: Folder) -> None:
    made = folder.report(scores=(folder.scores, folder.score("second", 0.3)), bootstraps=0)
    (told,) = [text for text in made["summary"] if text.startswith("first and second: ")]
    assert "differs by +0." in told
    assert told.endswith("; no interval: no draws were made.")
    assert "higher" not in told


def test_hostile_names_do_nothing(tmp_path: Path) -> None:
    folder = Folder(tmp_path, ("Effusion", HOSTILE), site=["<b>one</b>" if n % 4 < 2 else "&two;" for n in range(120)])
    made = folder.report(stores=(folder.store(),), title="<img src=x onerror=alert(1)>")
    page_file, _, markdown, _ = write_report(tmp_path / "r.html", made)
    page = read(page_file)
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert any(row[0] == HOSTILE for row in page.tables["first: ranking"])
    told = [row[2] for row in page.tables["Probes of view, sex and site"]]
    assert {"<b>one</b> from &two;", "&two; from <b>one</b>"} & set(told)
    assert "<b>one" not in page_file.read_text(encoding="utf-8")
    assert "<script" not in page_file.read_text(encoding="utf-8")
    assert "<script" not in markdown.read_text(encoding="utf-8").replace("\\<", "")
    assert page_file.read_text(encoding="utf-8").count("alert(1)") >= 3


def test_scores_that_are_no_probabilities(folder: Folder, tmp_path: Path) -> None:
    folder.scores = folder.score("logits", 0.8, lambda values: 10 * values - 3)
    made = folder.report()
    page = read(write_report(tmp_path / "r.html", made)[0])
    told = " ".join(page.text)
    assert "The scores are not probabilities" in told
    assert "No threshold was chosen or stated" in told
    assert any("Brier" in text for text in made["warnings"])
    calibrated = folder.report(thresholds_split="val", calibrate="platt")
    page = read(write_report(tmp_path / "c.html", calibrated)[0])
    assert "made probabilities by platt" in " ".join(page.text)
    brier = calibrated["scores"][0]["evaluation"]["findings"][0]["brier"]
    assert any(f"{brier:.3f}" in row for row in [page.tables["logits: probabilities"][1]])


def test_shortcuts_are_found_on_other_patients(folder: Folder) -> None:
    store = folder.store()
    view, sex = folder.report(stores=(store,))["shortcuts"]
    assert (view["attribute"], sex["attribute"]) == ("view", "sex")
    assert view["kinds"][0]["auroc"] > 0.9
    assert sex["kinds"][0]["auroc_low"] < 0.5
    assert not view["halved"]
    assert view["kinds"][0]["n"] == 40
    halved = folder.report(stores=(store,), split=None)["shortcuts"][0]
    assert halved["halved"]
    assert halved["kinds"][0]["learned"] + halved["kinds"][0]["n"] == 120


def test_three_sites_are_told_one_from_the_others(tmp_path: Path) -> None:
    folder = Folder(tmp_path, site=["abc"[n // 2 % 9 // 3] for n in range(120)])
    record = next(r for r in folder.report(stores=(folder.store(),))["shortcuts"] if r["attribute"] == "site")
    assert [kind["from"] for kind in record["kinds"]] == ["the others"] * len(record["kinds"])
    assert len(record["kinds"]) in (0, 3)


def test_an_attribute_without_enough_patients_says_so(tmp_path: Path) -> None:
    folder = Folder(tmp_path, site=["a" if n < 116 else "b" for n in range(120)])
    made = folder.report(stores=(folder.store(),))
    record = next(r for r in made["shortcuts"] if r["attribute"] == "site")
    assert record["kinds"] == []
    assert "fewer than two kinds of site" in record["reason"]
    page = read(write_report(tmp_path / "r.html", made)[0])
    assert record["reason"] in " ".join(page.text)


def test_columns_that_make_no_groups_are_told(tmp_path: Path) -> None:
    folder = Folder(tmp_path, site=[f"s{n // 2}" for n in range(120)], age=[str(41 + n % 3) for n in range(120)])
    made = folder.report(split=None)
    assert {group["attribute"] for group in made["scores"][0]["evaluation"]["groups"]} == {"sex", "view"}
    told = [text for text in made["warnings"] if text.startswith("no groups")]
    assert len(told) == 2
    assert "all cases are 40-59" in told[0]
    assert "make no groups" in told[1]
    assert folder.report(by=())["scores"][0]["evaluation"]["groups"] == []


def test_few_label_reasons_are_said_once() -> None:
    same = " in the training part, 64 needed"
    assert _listed(64, [("Mass", f"9 positive images{same}"), ("Nodule", f"8 positive images{same}")]) == [
        "64: undefined for some (in the training part, 64 needed). Mass: 9 positive images; Nodule: 8 positive images."
    ]
    assert _listed(64, [("Mass", f"9 positive images{same}")]) == [
        f"64: undefined for some. Mass: 9 positive images{same}."
    ]
    assert _listed(64, []) == []


def test_an_encoder_that_saw_the_test_data_is_told_first(tmp_path: Path) -> None:
    folder = Folder(tmp_path, source=["NIH ChestX-ray14"] * 120)
    spec = EncoderSpec(
        name="densenet121-rsna",
        revision="1",
        preprocessing="none",
        outputs={"features": (6,)},
        weights="0" * 64,
        weights_source="published",
    )
    made = folder.report(stores=(folder.store("seen", spec),))
    assert made["data"]["origins"] == ["NIH"]
    assert made["warnings"][0].startswith(
        "densenet121-rsna was trained on RSNA pneumonia, and these images come from NIH"
    )
    clean = EncoderSpec(
        name="densenet121-chex", revision="1", preprocessing="none", outputs={"features": (6,)}, weights="1" * 64
    )
    assert not any("trained" in text for text in folder.report(stores=(folder.store("clean", clean),))["warnings"])


def test_a_probe_that_saw_the_test_patients_is_told_first(full: dict[str, Any], folder: Folder) -> None:
    assert not any("learned from" in text for text in full["warnings"])
    made = folder.report(probes=(folder.root / "probe",), split="train")
    assert made["warnings"][0].startswith("20 of the tested patients are among those that the probe probe learned from")


def test_a_patient_in_two_splits_is_refused(folder: Folder) -> None:
    folder.labels.write_text(folder.labels.read_text().replace("i1,p0,20,M,", "i1,p1,20,M,", 1))
    with pytest.raises(ManifestError, match="two splits"):
        folder.report()


def test_bad_inputs_are_named(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(ReportError, match=r"ends in \.html"):
        write_report(tmp_path / "r.pdf", {})
    with pytest.raises(ReportError, match="one to 5 score files, not of 6"):
        folder.report(scores=(folder.scores,) * 6)
    with pytest.raises(ReportError, match="could not tell them apart"):
        folder.report(scores=(folder.scores,) * 2)
    with pytest.raises(ReportError, match=r"not the curve\.json"):
        folder.report(curve=folder.labels)
    with pytest.raises(ReportError, match="has no output 'other'"):
        folder.report(stores=(folder.store(),), output="other")


def test_score_files_of_one_name_are_told_by_their_folders(folder: Folder) -> None:
    paths = []
    for name in ("one", "two"):
        (folder.root / name).mkdir()
        paths.append(
            folder.scores.rename(folder.root / name / "scores.csv") if not paths else folder.root / name / "scores.csv"
        )
    paths[1].write_bytes(paths[0].read_bytes())
    made = folder.report(scores=tuple(paths))
    assert [scores["name"] for scores in made["scores"]] == ["one/scores", "two/scores"]
    assert made["comparisons"][0]["mean_auroc"]["difference"]["value"] == 0


def test_the_verb(folder: Folder) -> None:
    store, out = folder.store(), folder.root / "out" / "r.html"
    common = [
        "report",
        str(folder.scores),
        str(folder.labels),
        "--split",
        "test",
        "--store",
        str(store),
        "--out",
        str(out),
    ]
    done = helpers.run_cli(*common, "--bootstraps", "50", "--created", CREATED, "--thresholds-split", "val")
    assert done.returncode == 0, done.stderr
    assert "For research; not a medical device." in done.stdout
    assert "the page; beside it r.json, r.md, r.csv" in done.stdout
    body = json.loads(out.with_suffix(".json").read_text())
    assert body["created"] == CREATED
    assert str(folder.root) not in out.read_text() + out.with_suffix(".json").read_text()
    done = helpers.run_cli(*common, "--bootstraps", "50", "--json")
    assert json.loads(done.stdout)["summary"] == body["summary"]
    done = helpers.run_cli(*common[:-1], str(folder.labels.with_suffix(".html")))
    assert done.returncode == 1
    assert "would replace what it is made of" in done.stderr
    done = helpers.run_cli(*common[:-1], str(folder.root / "r.txt"))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "ends in .html" in done.stderr


def test_real_radiographs_and_two_encoders(real_data: Path, tmp_path: Path) -> None:
    manifest = real_data / "nih" / "manifest.csv"
    stores, scores = {}, {}
    for name, options in {"hog": ["--encoder", "hog"], "mean": ["--encoder", "helpers:make_mean"]}.items():
        stores[name] = tmp_path / name
        done = helpers.run_cli(
            "embed", str(manifest), *options, "--store", str(stores[name]), cwd=Path(__file__).parent
        )
        assert done.returncode == 0, done.stderr
        for verb in (
            ["train", str(stores[name]), str(manifest), "--extra", "No Finding", "--out", str(tmp_path / f"p-{name}")],
            ["predict", str(tmp_path / f"p-{name}"), str(stores[name]), "--out", str(tmp_path / f"{name}.csv")],
        ):
            done = helpers.run_cli("probe", *verb)
            assert done.returncode == 0, done.stderr
        scores[name] = tmp_path / f"{name}.csv"
    out = tmp_path / "r.html"
    done = helpers.run_cli(
        "report", str(scores["hog"]), str(manifest), "--extra", "No Finding", "--split", "test", "--against",
        str(scores["mean"]), "--store", str(stores["hog"]), "--store", str(stores["mean"]), "--probe",
        str(tmp_path / "p-hog"), "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    body = json.loads(out.with_suffix(".json").read_text())
    hog, mean = (found["evaluation"] for found in body["scores"])
    assert hog["findings_in_mean"] == mean["findings_in_mean"] == 14
    assert 0.68 < hog["mean_auroc"] < 0.73
    assert mean["mean_auroc"] < hog["mean_auroc"]
    told = {(r["encoder"], r["attribute"]): r["kinds"][0]["auroc"] for r in body["shortcuts"]}
    assert told["hog", "view"] > 0.95
    assert len(read(out).tables["hog: ranking"]) == 16
    assert body["data"]["origins"] == ["NIH"]


def test_numbers_as_people_read_them() -> None:
    assert [PAGE.number(value) for value in (-0.0001, -0.1, None)] == ["0.000", "−0.100", "–"]
    assert PAGE.number(0.12345, 4) == "0.1235"
    assert (PAGE.signed(0.1), PAGE.signed(-0.1), PAGE.signed(None)) == ("+0.100", "−0.100", "–")
    assert (PAGE.p(0.0001), PAGE.p(0.5), PAGE.p(None)) == ("<0.001", "0.500", "–")
    assert markdown_text("a|b_c\n<d>") == r"a\|b\_c \<d\>"


def test_places_of_a_machine_are_cut_to_names() -> None:
    assert without_places("read from /home/me/weights/best.pt, twice") == "read from best.pt, twice"
    assert without_places(r"C:\Users\me\best.pt") == "best.pt"
    assert (
        without_places("Mass/Nodule 3/4, see https://example.org/a/b") == "Mass/Nodule 3/4, see https://example.org/a/b"
    )


def test_data_sets_are_known_by_their_names(folder: Folder) -> None:
    labels = read_labels(folder.labels)
    assert origins(labels, "labels.csv") == []
    assert origins(labels, "nih_test.csv") == ["NIH"]
    assert origins(labels, "furnished.csv") == []
    assert seen_in_training("PadChest, NIH, RSNA", ["NIH", "CheXpert"]) == ["NIH"]
    assert seen_in_training("MIMIC-CXR (CheXpert labels)", ["PadChest"]) == []


def test_thin_curves_keep_their_ends() -> None:
    x = np.linspace(0, 1, 5000)
    points = thin(x, x**2)
    assert len(points) <= 100
    assert (points[0], points[-1]) == ([0.0, 0.0], [1.0, 1.0])
    assert np.abs(np.interp(x, *np.array(points).T) - x**2).max() < 1e-3
    assert thin(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == [[0.0, 0.0], [1.0, 1.0]]
