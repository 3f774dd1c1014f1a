"""Published figures: each with its test, of the right data set, and never of another one."""

from __future__ import annotations

import csv
import importlib.resources
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from test_report import Folder

from cxr_embed.cases import match_names
from cxr_embed.manifest import Companion, write_companion
from cxr_embed.reporting.collect import _published
from cxr_embed.reporting.figure_tables import published_table, published_tests_table
from cxr_embed.reporting.plots import _PUBLISHED
from cxr_embed.reporting.published import UNKNOWN, published_for

NIH = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
FILE = yaml.safe_load(importlib.resources.files("cxr_embed.reporting").joinpath("published.yaml").read_text())
RESULTS = [(known["data"], result) for known in FILE for result in known["results"]]


@pytest.mark.parametrize(
    "result", [result for _, result in RESULTS], ids=[f"{data}: {r['name']}" for data, r in RESULTS]
)
def test_every_figure_says_where_it_is_from(result: dict[str, object]) -> None:
    assert set(result) == {"name", "source", "read", "kind", "split", "images", "patients", "auroc"}
    assert result["kind"] in ("trained end to end", "linear probe", "zero-shot")
    assert result["split"]
    assert re.search(r"arXiv:\d{4}\.\d{5}|CVPR|Nat Biomed Eng|github\.com", str(result["source"])), "a citation"
    assert re.search(r"https://|its file of AUROCs", str(result["read"])), "where the numbers were read"
    for size in ("images", "patients"):
        assert result[size] is None or isinstance(result[size], int)
    auroc = result["auroc"]
    assert isinstance(auroc, dict)
    assert all(0.5 < value < 1 and isinstance(name, str) for name, value in auroc.items())


def test_names_of_data_sets_and_results_are_single() -> None:
    names = [name for known in FILE for name in {name.casefold() for name in (known["data"], *known["names"])}]
    assert len(names) == len(set(names))
    for known in FILE:
        results = [result["name"] for result in known["results"]]
        assert len(results) == len(set(results)) <= len(_PUBLISHED), "each needs a sign of its own"


def test_means_are_those_that_the_sources_print() -> None:
    """A slip of a digit would move them."""

    def mean(data: str, name: str) -> float:
        return float(np.mean(list(next(r for d, r in RESULTS if (d, r["name"]) == (data, name))["auroc"].values())))

    nih = "NIH ChestX-ray14"
    assert [round(mean(nih, name), 3) for name in ("CheXNet (paper)", "reproduce-chexnet")] == [0.841, 0.838]
    assert [round(mean("CheXpert", name), 3) for name in ("ELIXR", "MedSigLIP")] == [0.824, 0.844]


def test_of_labels_that_are_not_known_the_figures_say_so() -> None:
    found = published_for(("Pleural Thickening", "Mass", "Other"))
    assert found is not None
    assert (found["data"], found["known"]) == ("NIH ChestX-ray14", False)
    assert [result["auroc"] for result in found["results"][:2]] == [
        {"Pleural Thickening": 0.8062, "Mass": 0.8676},
        {"Pleural Thickening": 0.7889, "Mass": 0.8377},
    ]
    assert found["caveat"].startswith(UNKNOWN)
    assert "test sets differ" in found["caveat"]
    assert published_for(("Other",)) is None
    assert published_for(()) is None


@pytest.mark.parametrize("name", ["nih-chestxray14", "NIH", "nih chestx-ray14", "ChestX-ray14"])
def test_of_a_known_data_set_only_its_own(name: str) -> None:
    found = published_for(NIH, name)
    assert found is not None
    assert found["known"]
    assert UNKNOWN not in found["caveat"]
    assert [r["name"] for r in found["results"]] == [
        "CheXNet (paper)", "reproduce-chexnet", "Wang et al. 2017", "TorchXRayVision",
    ]  # fmt: skip
    assert [r["digits"] for r in found["results"]] == [4, 4, 3, 2]
    assert found["results"][1]["test"] == "its own split: 22,433 images of 6,187 patients"


@pytest.mark.parametrize("name", ["vindr-cxr", "brax", "phantoms", "our-hospital", "NIH and CheXpert", "nih-other"])
def test_of_another_known_data_set_none(name: str) -> None:
    assert published_for(NIH, name) is None


def test_unequal_tests_of_one_data_set_stay_apart() -> None:
    found = published_for(("Atelectasis", "Support Devices", "Hernia"), "chexpert")
    assert found is not None
    assert found["data"] == "CheXpert"
    sizes = {r["name"]: (r["images"], r["patients"], r["kind"]) for r in found["results"]}
    assert sizes["CheXpert (paper)"] == (None, 200, "trained end to end")
    assert sizes["CheXzero"] == (500, None, "zero-shot")
    assert sizes["MedSigLIP"] == (518, None, "zero-shot")
    assert all("Hernia" not in r["auroc"] for r in found["results"])
    assert [r["name"] for r in found["results"] if "Support Devices" not in r["auroc"]] == [
        "CheXpert (paper)",
        "TorchXRayVision",
    ]


def test_what_labels_give_away_is_known_unless_it_is_the_nihs() -> None:
    unknown = published_for(NIH)
    for companion in (None, Companion(), Companion(recipe="folder")):
        assert _published(NIH, [], companion) == unknown
        assert _published(NIH, ["NIH"], companion) == unknown, "RSNA's and SIIM's images are the NIH's too"
        assert _published(NIH, ["phantoms"], companion) is None
        assert _published(NIH, ["NIH", "CheXpert"], companion) is None
    mimic = _published(NIH, ["MIMIC"], None)
    assert mimic is not None
    assert mimic["data"] == "MIMIC-CXR"


def test_the_recipe_of_a_manifest_s_companion_says_which_data_set_it_is(tmp_path: Path) -> None:
    for recipe in ("rsna-pneumonia", "nih-chestxray14", "vindr-cxr"):
        assert _published(NIH, ["NIH"], Companion(recipe=recipe)) == published_for(NIH, recipe)
    folder = Folder(tmp_path, ("Pneumonia", "Mass"))
    unknown = folder.report(bootstraps=20)["published"]
    assert (unknown["data"], unknown["known"]) == ("NIH ChestX-ray14", False)
    write_companion(folder.labels, Companion(recipe="rsna-pneumonia"))
    known = folder.report(bootstraps=20)["published"]
    assert (known["data"], known["known"]) == ("RSNA Pneumonia", True)


def test_recipes_of_the_names_exist() -> None:
    """A recipe that is renamed would lose its figures in silence."""
    recipes = {path.stem for path in (Path(__file__).parents[1] / "data_manifests").glob("*.yaml")}
    for known in FILE:
        assert recipes & set(known["names"]), known["data"]


def test_no_finding_means_two_published_ones() -> None:
    """By the vocabulary a name may mean another; two of one data set may not be meant by one."""
    for known in FILE:
        for result in known["results"]:
            for name in (*NIH, "Pleural Effusion", "Lung Opacity", "pulmonary edema", "No Finding", "fluid overload"):
                match_names([name], tuple(result["auroc"]), "scores")


def test_figures_are_those_of_the_peers_scores(real_data: Path) -> None:
    with open(real_data / "peer-tables" / "published-auroc.csv", newline="") as file:
        peers = {row["label"]: float(row["auc"]) for row in csv.DictReader(file)}
    found = published_for(tuple(peers))
    assert found is not None
    assert {name: round(value, 4) for name, value in peers.items()} == found["results"][1]["auroc"]


def test_a_report_has_every_test_beside_its_own(tmp_path: Path) -> None:
    report = Folder(tmp_path, ("Atelectasis", "Mass", "Other")).report(bootstraps=20)
    published = report["published"]
    table = published_table(report["scores"], published)
    assert table.heads[2:] == ("CheXNet (paper)", "reproduce-chexnet", "Wang et al. 2017", "TorchXRayVision")
    assert [row[2:] for row in table.rows[:2]] == [
        ("0.8094", "0.8180", "0.716", "0.76"),
        ("0.8676", "0.8377", "0.706", "0.80"),
    ]
    assert table.rows[2][0] == "mean of 2 of 2"
    tests = published_tests_table(report["scores"], published, "test")
    own, *others = tests.rows
    assert own[:3] == ("first", "yours", "your labels, split test")
    assert own[3] == str(report["scores"][0]["evaluation"]["images"])
    assert [row[3:] for row in others] == [("–", "–"), ("22,433", "6,187"), ("–", "–"), ("–", "–")]
    assert sum("Read in:" in note for note in tests.notes) == 4
