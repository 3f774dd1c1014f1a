"""One vocabulary of findings: the file itself, names matched by it, and `common`."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from helpers import fill, run_cli

import cxr_embed as cx
from cxr_embed.cases import CasesError, chosen_findings, common_findings, match_names, shown_names, vocabulary
from cxr_embed.cases.common_findings import plain_name
from cxr_embed.cases.vocabulary_file import parse_vocabulary
from cxr_embed.datasets import load_recipe, recipe_names
from cxr_embed.prompts import load_prompt_set, prompt_set_names
from cxr_embed.reporting.published import published_for

NIH = (
    *("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia"),
    *("Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax"),
)
CHEXPERT = (
    *("No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema"),
    *("Consolidation", "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture"),
    "Support Devices",
)
VINDR = (
    *("Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation"),
    *("Edema", "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst"),
    *("Mediastinal shift", "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax"),
    *("Pulmonary fibrosis", "Rib fracture", "Other lesion", "COPD", "Lung tumor", "Pneumonia", "Tuberculosis"),
    *("Other diseases", "No finding"),
)
CHESTX_DET = (
    *("Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "Diffuse Nodule", "Effusion", "Emphysema"),
    *("Fibrosis", "Fracture", "Mass", "Nodule", "Pleural Thickening", "Pneumothorax"),
)
TORCHXRAYVISION = (
    *("Atelectasis", "Consolidation", "Infiltration", "Pneumothorax", "Edema", "Emphysema", "Fibrosis", "Effusion"),
    *("Pneumonia", "Pleural_Thickening", "Cardiomegaly", "Nodule", "Mass", "Hernia", "Lung Lesion", "Fracture"),
    *("Lung Opacity", "Enlarged Cardiomediastinum"),
)
LISTS = {
    "nih-chestxray14": NIH,
    "chexpert": CHEXPERT,
    "mimic-cxr-jpg": CHEXPERT,
    "brax": CHEXPERT,
    "vindr-cxr": VINDR,
    "chestx-det": CHESTX_DET,
    "torchxrayvision": TORCHXRAYVISION,
}
APART = [
    ("Lung Opacity", "Infiltration", "Consolidation", "infiltrates", "Opacity", "Airspace opacity"),
    ("Enlarged Cardiomediastinum", "Cardiomegaly", "mediastinal enlargement"),
    ("Lung Lesion", "Nodule", "Mass", "Nodule/Mass", "Diffuse Nodule", "pulmonary mass", "multiple nodules"),
    ("No Finding", "normal"),
    ("Pleural Thickening", "Pleural Other"),
    ("Hernia", "hiatal hernia"),
    ("Tuberculosis", "ActiveTuberculosis", "ObsoletePulmonaryTuberculosis"),
    ("Pulmonary fibrosis", "ILD", "interstitial pattern"),
    ("Emphysema", "subcutaneous emphysema"),
    ("Aortic enlargement", "aortic elongation", "aortic aneurysm"),
]
# Of PadChest's published tree of terms.
PADCHEST = {
    "pleural effusion": "C2073625",
    "cardiomegaly": "C0018800",
    "consolidation": "C0521530",
    "atelectasis": "C0004144",
    "pneumothorax": "C2073565",
    "pulmonary edema": "C0034063",
    "normal": "C0205307",
    "hiatal hernia": "C3489393",
    "mass": "C2603353",
}


@pytest.mark.parametrize("data_set", LISTS)
def test_each_published_name_of_a_list_is_there_once(data_set: str) -> None:
    found = [vocabulary().find(name) for name in LISTS[data_set]]
    assert None not in found
    assert len({finding.name for finding in found if finding}) == len(found)
    for name, finding in zip(LISTS[data_set], found, strict=True):
        assert finding is not None
        assert name in finding.names[data_set]


def test_a_name_stands_for_one_finding_only() -> None:
    """A plain loop over pairs."""
    for one, other in itertools.combinations(vocabulary().findings, 2):
        assert not {plain_name(n) for n in one.all_names()} & {plain_name(n) for n in other.all_names()}
        assert not one.cui or one.cui != other.cui
    assert all(vocabulary().sources[of] for finding in vocabulary().findings for of in finding.names)
    assert all(finding.names.get("padchest") for finding in vocabulary().findings if finding.cui)


@pytest.mark.parametrize("names", APART, ids=lambda names: names[0])
def test_what_is_not_equal_stays_apart(names: tuple[str, ...]) -> None:
    common = [vocabulary().common_name(name) for name in names]
    assert len(set(common)) == len(names)
    for one, other in itertools.permutations(names, 2):
        assert match_names((one,), (other,), "scores") == (None,)


def test_the_concepts_are_those_of_padchest_s_tree() -> None:
    for name, cui in PADCHEST.items():
        found = vocabulary().find(name)
        assert found is not None
        assert found.cui == cui


def test_prompt_sets_speak_of_findings_that_are_there() -> None:
    for name in prompt_set_names():
        unknown = [f.name for f in load_prompt_set(name).findings if vocabulary().find(f.name) is None]
        assert not unknown, name


def test_no_recipe_has_two_names_of_one_finding() -> None:
    """Else its manifest could not be merged with any."""
    for recipe in map(load_recipe, recipe_names()):
        for labels in recipe.labels:
            findings = recipe.findings(labels)
            assert len({vocabulary().common_name(name) for name in findings}) == len(findings), recipe.name


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[]", "v.yaml: : Input should be"),
        ("sources: {}\nfindings: {}", "v.yaml: findings: "),
        ("sources: {a: x}\nfindings: {M: {names: {}}}", "v.yaml: findings.M.names: "),
        ("sources: {a: x}\nfindings: {M: {names: {a: M}, also: N}}", "v.yaml: findings.M.also: "),
        ("sources: {a: x}\nfindings: {M: {names: {b: M}}}", "v.yaml: M: no source of b is named"),
        ("sources: {a: x}\nfindings: {M: {cui: '18', names: {a: M}}}", "v.yaml: findings.M.cui: "),
        (
            "sources: {a: x}\nfindings: {M: {names: {a: [m, K]}}, N: {names: {a: k}}}",
            "k stands for two findings, M and N",
        ),
        (
            "sources: {a: x}\nfindings: {M: {names: {a: O}}, N_1: {names: {a: n 1}}, n-1: {names: {a: P}}}",
            "two findings",
        ),
        (
            "sources: {a: x}\nfindings: {M: {cui: C0000001, names: {a: O}}, N: {cui: C0000001, names: {a: P}}}",
            "C0000001 stands for two findings, M and N",
        ),
        ("sources: {a: x}\nfindings: {M: {names: {a: O}}, M: {names: {a: P}}}", "M stands twice"),
        ("sources: {a: x}\nfindings: {M: {names: {a: ' O'}}}", "without space around it"),
        ("a: [", "v.yaml: not YAML text"),
        ("\xff", "v.yaml: "),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_a_line(text: str, problem: str) -> None:
    with pytest.raises(CasesError) as error:
        parse_vocabulary(text.encode("latin-1"), "v.yaml")
    assert problem in str(error.value)
    assert "\n" not in str(error.value)


def test_names_are_matched_by_what_they_mean_where_no_name_is_alike() -> None:
    assert match_names(("Effusion",), ("Pleural Effusion",), "scores") == ("Pleural Effusion",)
    assert match_names(("Effusion",), ("Pleural Effusion", "Effusion"), "scores") == ("Effusion",)
    assert match_names(("pleural effusion",), ("Effusion", "Pleural_Effusion"), "x") == ("Pleural_Effusion",)
    assert match_names(("ILD", "Zebra"), ("Lung Diseases, Interstitial", "zebra stripe"), "x") == (
        "Lung Diseases, Interstitial",
        None,
    )


def test_two_columns_of_one_finding_are_refused() -> None:
    with pytest.raises(
        CasesError, match="have Pulmonary fibrosis and pulmonary_fibrosis: which is the scores' Fibrosis"
    ):
        match_names(("Fibrosis",), ("Pulmonary fibrosis", "pulmonary_fibrosis"), "scores")
    with pytest.raises(
        CasesError, match="Effusion and pleural effusion are both for the label Pleural Effusion; rename"
    ):
        common_findings(["Effusion", "pleural effusion"], ["Pleural Effusion"], "the scores", "the labels")
    with pytest.raises(CasesError, match="x: Effusion and Pleural Effusion are both the finding Pleural Effusion"):
        chosen_findings(["common"], ["Effusion", "Pleural Effusion"], "x")


def test_the_note_names_how_names_were_matched() -> None:
    given, labels = ["Effusion", "mass", "Edema"], ["Pleural Effusion", "Mass", "Edema"]
    columns, names, notes = common_findings(given, labels, "the scores", "the labels")
    assert (columns, names) == (("Pleural Effusion", "Mass", "Edema"), ("Effusion", "mass", "Edema"))
    assert notes == [
        "labels matched by a like name: mass = Mass",
        "labels matched by the vocabulary of findings: Effusion = Pleural Effusion",
    ]


def test_common_is_the_vocabulary_s_findings_without_those_of_absence() -> None:
    labels = ("No Finding", "Effusion", "Zebra", "ILD")
    assert chosen_findings(["common"], labels, "x") == ("Effusion", "ILD")
    assert shown_names(["common"], ("Effusion", "ILD")) == ("Pleural Effusion", "Interstitial Lung Disease")
    assert shown_names(["Effusion"], ("Effusion",)) == shown_names(None, ("Effusion",)) == ("Effusion",)
    with pytest.raises(
        CasesError, match=r"x: no finding is in the vocabulary of findings \(Zebra\); name some instead"
    ):
        chosen_findings(["common"], ["Zebra"], "x")
    with pytest.raises(CasesError, match="`findings` common means all findings of the vocabulary: name it alone"):
        chosen_findings(["common", "Effusion"], labels, "x")
    with pytest.raises(CasesError, match="x: a finding is named common, and `findings` common means those of the voc"):
        chosen_findings(["common"], ["common", "Effusion"], "x")


def test_published_figures_are_found_by_another_name() -> None:
    found = published_for(["Pleural Effusion", "Zebra"])
    assert found is not None
    assert found["results"][0]["auroc"] == {
        "Pleural Effusion": published_for(["Effusion"])["results"][0]["auroc"]["Effusion"]
    }  # type: ignore[index]


@pytest.fixture
def two_names(tmp_path: Path) -> Path:
    """A store, labels as CheXpert names them, and scores as the NIH does."""
    fill(tmp_path / "store", range(24))
    rows = [
        f"i{n},p{n // 2},{'train' if n < 12 else 'test'},{n // 2 % 2},{n // 3 % 2},{n % 2},{n // 4 % 2}"
        for n in range(24)
    ]
    head = "image_id,patient_id,split,Pleural Effusion,Mass,No Finding,Zebra"
    (tmp_path / "labels.csv").write_text("\n".join([head, *rows]) + "\n")
    scores = [f"i{n},0.{n * 7 % 24:02},0.{n * 5 % 24:02},0.{n:02},0.5{n:02}" for n in range(24)]
    (tmp_path / "scores.csv").write_text("\n".join(["image_id,Effusion,mass,No Finding,Zebra", *scores]) + "\n")
    return tmp_path


def test_common_gives_the_same_figures_under_common_names(two_names: Path) -> None:
    scores, labels = two_names / "scores.csv", two_names / "labels.csv"
    plain = cx.evaluate(scores, labels, findings=["Effusion", "mass"], bootstraps=20)
    common = cx.evaluate(scores, labels, findings="common", bootstraps=20, prevalence={"Pleural Effusion": 0.1})
    assert [f.name for f in common.findings] == ["Pleural Effusion", "Mass"]
    assert [f.label for f in common.findings] == ["Pleural Effusion", "Mass"]
    assert [f.figures["auroc"].value for f in common.findings] == [f.figures["auroc"].value for f in plain.findings]
    assert any("vocabulary of findings: Effusion = Pleural Effusion" in text for text in common.warnings)
    with pytest.raises(
        cx.CxrEmbedError, match=r"`prevalence` Effusion=0\.1: no such finding; the findings are Pleural"
    ):
        cx.evaluate(scores, labels, findings="common", bootstraps=20, prevalence={"Effusion": 0.1})
    compared = cx.compare(scores, scores, labels, findings="common", bootstraps=20)
    assert [f.name for f in compared.findings] == ["Pleural Effusion", "Mass"]
    report = cx.report(scores, labels, out=two_names / "r.html", findings="common", bootstraps=20)
    body = json.loads(report.files[0].with_suffix(".json").read_text())
    assert [f["finding"] for f in body["scores"][0]["evaluation"]["findings"]] == ["Pleural Effusion", "Mass"]


def test_a_probe_of_common_findings_is_tested_on_other_names(two_names: Path) -> None:
    probe = cx.train_probe(two_names / "store", two_names / "labels.csv", findings="common", thresholds_split=None)
    assert probe.findings == ("Pleural Effusion", "Mass")
    text = (two_names / "labels.csv").read_text().replace("Pleural Effusion,Mass", "Effusion,mass")
    (two_names / "nih.csv").write_text(text)
    other = cx.train_probe(two_names / "store", two_names / "nih.csv", findings="common")
    assert other.findings == probe.findings
    found = probe.evaluate(two_names / "store", two_names / "nih.csv", split="test", bootstraps=20)
    assert [(f.name, f.label) for f in found.findings] == [("Pleural Effusion", "Effusion"), ("Mass", "mass")]
    again = other.evaluate(two_names / "store", two_names / "nih.csv", split="test", findings="common", bootstraps=20)
    assert [f.figures["auroc"].value for f in again.findings] == [f.figures["auroc"].value for f in found.findings]


def test_kept_thresholds_follow_their_findings_to_common_names(two_names: Path) -> None:
    rows = (two_names / "labels.csv").read_text().replace("Pleural Effusion,Mass", "Effusion,mass").splitlines()
    rows[9:] = [row.replace("train", "validate") for row in rows[9:]]  # from image 8, patient 4
    (two_names / "nih.csv").write_text("\n".join(rows) + "\n")
    probe = cx.train_probe(
        two_names / "store", two_names / "nih.csv", findings=["Effusion"], split="train", thresholds_split="validate"
    )
    plain = probe.evaluate(two_names / "store", two_names / "nih.csv", split="test", bootstraps=20)
    common = probe.evaluate(two_names / "store", two_names / "nih.csv", split="test", findings="common", bootstraps=20)
    assert [f.name for f in common.findings] == ["Pleural Effusion"]
    assert [f.threshold for f in common.findings] == [f.threshold for f in plain.findings] != [None]


def test_a_finding_that_is_named_common_is_answered(two_names: Path) -> None:
    text = (two_names / "labels.csv").read_text().replace(",Zebra", ",common", 1)
    (two_names / "odd.csv").write_text(text)
    scores, odd = two_names / "scores.csv", two_names / "odd.csv"
    uses = [
        lambda: cx.evaluate(scores, odd, findings="common", bootstraps=5),
        lambda: cx.train_probe(two_names / "store", odd, findings="common"),
        lambda: cx.compare(scores, scores, odd, findings="common", bootstraps=5),
    ]
    for use in uses:
        with pytest.raises(CasesError, match="a finding is named common, and `findings` common means those of the"):
            use()
    assert cx.train_probe(two_names / "store", odd).findings[-1] == "common"
    result = run_cli("evaluate", str(scores), str(odd), "--finding", "common")
    assert result.returncode == 1
    assert "a finding is named common, and --finding common means those of the vocabulary; rename it" in result.stderr


def test_the_command_line_takes_common(two_names: Path) -> None:
    files = [str(two_names / name) for name in ("scores.csv", "labels.csv")]
    result = run_cli("evaluate", *files, "--finding", "common", "--bootstraps", "5", "--json")
    assert result.returncode == 0, result.stderr
    assert [f["finding"] for f in json.loads(result.stdout)["findings"]] == ["Pleural Effusion", "Mass"]
    assert np.isfinite(json.loads(result.stdout)["mean_auroc"])


def test_the_vocabulary_is_listed() -> None:
    every = run_cli("manifest", "findings", "--json")
    assert [f["name"] for f in json.loads(every.stdout)["findings"]] == [f.name for f in vocabulary().findings]
    one = run_cli("manifest", "findings", "effusion", "ILD")
    assert one.stdout.startswith("Pleural Effusion (UMLS C2073625)\n  nih-chestxray14")
    assert "Interstitial Lung Disease\n" in one.stdout
    none = run_cli("manifest", "findings", "Zebra", "ILD")
    assert (none.returncode, none.stderr) == (
        1,
        "error: Zebra: not in the vocabulary of findings; what it does not have stays itself\n",
    )


def test_prompts_of_common_findings_are_those_that_the_labels_have_too() -> None:
    from cxr_embed.api.screen import _chosen
    from cxr_embed.manifest import labels_of_table

    prompts = load_prompt_set("nih14")
    alone = _chosen(prompts, ["common"], None)
    assert [f.name for f in alone.findings] == [vocabulary().common_name(name) for name in NIH]
    assert [f.positive for f in alone.findings] == [f.positive for f in prompts.findings]
    labels = labels_of_table(pa.table({"image_id": ["a"], "pleural effusion": ["1"], "Zebra": ["1"], "mass": ["0"]}))
    assert [f.name for f in _chosen(prompts, ["common"], labels).findings] == ["Pleural Effusion", "Mass"]
    assert [f.name for f in _chosen(prompts, ["pleural effusion"], labels).findings] == ["Effusion"]


def test_searches_and_curves_speak_common_names(two_names: Path) -> None:
    index = cx.build_index(two_names / "store", two_names / "labels.csv", path=two_names / "index")
    found = cx.evaluate_index(index, labels=two_names / "labels.csv", findings="common", k=[2], bootstraps=5)
    assert [f.name for f in found.indexes[0].findings] == ["Pleural Effusion", "Mass"]
    curve = cx.few_label_curve([two_names / "store"], two_names / "labels.csv", findings="common", shots=[1], seeds=2)
    assert {result.finding for result in curve.curve.results} == {"Pleural Effusion", "Mass"}


def test_thresholds_of_other_scores_are_found_by_what_a_finding_means(two_names: Path) -> None:
    scores, labels = two_names / "scores.csv", two_names / "labels.csv"
    other = two_names / "other.csv"
    other.write_text(scores.read_text().replace("Effusion", "pleural effusion").replace("mass", "MASS"))
    parts = {"split": "test", "thresholds_split": "train", "bootstraps": 5}
    plain = cx.evaluate(scores, labels, findings=["Effusion", "mass"], **parts)
    mixed = cx.evaluate(scores, labels, findings=["Effusion", "mass"], thresholds_from=other, **parts)
    assert [f.threshold for f in mixed.findings] == [f.threshold for f in plain.findings]
    assert None not in [f.threshold for f in mixed.findings]
