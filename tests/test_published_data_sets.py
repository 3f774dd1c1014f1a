"""Recipes of published data sets: look-alikes, every cell of what a scan gives, and bad inputs."""

from __future__ import annotations

import csv
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import run_cli
from hypothesis import given, settings
from hypothesis import strategies as st
from lookalikes import Cells, Row, brax, challenges, chexpert, mimic, nih, openi, padchest, picture, vindr

from cxr_embed.datasets import ScanResult, load_recipe, scan
from cxr_embed.datasets.guess import guess_recipe, which_recipe
from cxr_embed.datasets.table_formats import header_of
from cxr_embed.errors import ManifestError
from cxr_embed.manifest import read_manifest, write_manifest

KEY = b"k" * 32  # ids that are public stay as they are, whatever the key


def scanned(root: Path, recipe: str, labels: str | None = None) -> ScanResult:
    return scan(root, load_recipe(recipe), patient_key=KEY, labelled_by=labels)


def cells(result: ScanResult) -> Cells:
    columns = {name: values for name, values in result.columns.items() if name != "path"}
    rows = zip(*columns.values(), strict=True)
    return {path: dict(zip(columns, row, strict=True)) for path, row in zip(result.columns["path"], rows, strict=True)}


def differing(found: Cells, expected: Cells) -> list[tuple[str, str, object, object]]:
    """Path, column, cell, and what it has to be."""
    paths = sorted(found.keys() | expected.keys())
    pairs = [(path, found.get(path, {}), expected.get(path, {})) for path in paths]
    return [
        (path, column, ours.get(column), theirs.get(column))
        for path, ours, theirs in pairs
        for column in sorted(ours.keys() | theirs.keys())
        if ours.get(column) != theirs.get(column)
    ]


def boxes(result: ScanResult) -> list[Row]:
    return [dict(zip(result.boxes, row, strict=True)) for row in zip(*result.boxes.values(), strict=True)]


def check(root: Path, recipe: str, expected: Cells, labels: str | None = None) -> ScanResult:
    """Every cell is as expected, nothing is left out, and what is written is a manifest of the same findings."""
    result = scanned(root, recipe, labels)
    assert differing(cells(result), expected) == []
    assert result.problems == []
    assert result.skipped == []
    assert result.not_found == 0
    out = root.parent / "manifest.csv"
    write_manifest(out, result.columns)
    made = read_manifest(out, root=root, extra=result.not_findings)
    assert list(made.findings) == load_recipe(recipe).findings(result.labels)
    out.unlink()
    return result


def check_boxes(result: ScanResult, expected: list[Row]) -> None:
    """The same boxes, those of an image in their order, the images in the manifest's."""
    order = result.columns["image_id"]
    assert boxes(result) == sorted(expected, key=lambda row: order.index(row["image_id"]))


def findings_of(recipe: str, labels: str | None = None) -> list[str]:
    layout = load_recipe(recipe)
    return layout.findings(layout.chosen_labels(labels))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "data"


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


# CheXpert


@pytest.mark.parametrize("layout", [chexpert.BATCHES, chexpert.SMALL, chexpert.INSIDE], ids=["full", "small", "inside"])
@pytest.mark.parametrize("test", ["test_labels.csv", "groundtruth.csv", ""])
def test_chexpert(root: Path, layout: dict[str, str], test: str) -> None:
    chexpert.write(
        root, layout, test=test, published="CheXpert-v1.0-small" if layout is chexpert.SMALL else "CheXpert-v1.0"
    )
    result = check(root, "chexpert", chexpert.expected(layout, test=bool(test)))
    assert result.unlisted == (len(chexpert.TEST) if test == "groundtruth.csv" else 0)


NOBODY = {study: dict.fromkeys(labels, "") for study, labels in chexpert.CHEXBERT.items()}


@pytest.mark.parametrize(
    ("labels", "published"),
    [("chexbert", chexpert.CHEXBERT), ("visualchexbert", chexpert.VISUAL), ("radiologists", NOBODY)],
)
def test_chexpert_labels_of_others_leave_the_radiologists_their_parts(
    root: Path, labels: str, published: dict[str, Row]
) -> None:
    chexpert.write(root, chexpert.BATCHES)
    check(root, "chexpert", chexpert.expected(chexpert.BATCHES, labels=published), labels)


def test_chexpert_labels_whose_table_is_not_there(root: Path) -> None:
    chexpert.write(root, chexpert.SMALL)
    (root / "train_cheXbert.csv").unlink()
    with pytest.raises(ManifestError, match=r"missing \(chexbert: train_cheXbert.csv or "):
        scanned(root, "chexpert", "chexbert")
    assert len(scanned(root, "chexpert")) == len(chexpert.IMAGES) + len(chexpert.TEST)


def test_chexpert_half_a_download_counts_what_is_in_no_table(root: Path) -> None:
    chexpert.write(root, chexpert.SMALL, test="")
    (root / "CheXpert-v1.0-small" / "train.csv").unlink()
    result = scanned(root, "chexpert")
    train = [path for path, row in cells(result).items() if row["split"] == "train"]
    assert result.unlisted == len(train) == len(chexpert.IMAGES) - 1
    assert {cells(result)[path]["Edema"] for path in train} == {""}


# MIMIC-CXR-JPG


@pytest.mark.parametrize("version", ["2.0.0", "2.1.0"])
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("labels", ["chexpert", "negbio"])
def test_mimic(root: Path, version: str, packed: bool, labels: str) -> None:
    mimic.write(root, version=version, packed=packed)
    check(root, "mimic-cxr-jpg", mimic.expected(version=version, labels=labels), labels)


def test_mimic_radiologists_alone(root: Path) -> None:
    check(mimic.write(root), "mimic-cxr-jpg", mimic.expected(labels="radiologists"), "radiologists")
    (root / "mimic-cxr-2.1.0-test-set-labeled.csv").unlink()
    with pytest.raises(ManifestError, match=r"missing \(radiologists: mimic-cxr-2\.\*-test-set-labeled\.csv or "):
        scanned(root, "mimic-cxr-jpg", "radiologists")


def test_mimic_one_table_of_labels_is_enough(root: Path) -> None:
    mimic.write(root)
    (root / "mimic-cxr-2.0.0-negbio.csv.gz").unlink()
    check(root, "mimic-cxr-jpg", mimic.expected())
    with pytest.raises(ManifestError, match="negbio: mimic-cxr-2"):
        scanned(root, "mimic-cxr-jpg", "negbio")


def test_mimic_files_without_their_tree(root: Path) -> None:
    """A study is found by the table: images that were copied into one folder keep their labels."""
    mimic.write(root)
    for path in sorted((root / "files").rglob("*.jpg")):
        path.rename(root / path.name)
    expected = {path.rpartition("/")[2]: row for path, row in mimic.expected().items()}
    check(root, "mimic-cxr-jpg", expected)


def test_mimic_a_part_of_the_images(root: Path) -> None:
    mimic.write(root)
    shutil.rmtree(root / "files" / "p19" / "p19999901")
    result = scanned(root, "mimic-cxr-jpg")
    assert cells(result) == {path: row for path, row in mimic.expected().items() if "19999901" not in path}
    assert result.not_found == 3


# PadChest


@pytest.mark.parametrize("flat", [False, True], ids=["folders", "flat"])
@pytest.mark.parametrize("labels", ["tree", "as-written"])
def test_padchest(root: Path, flat: bool, labels: str) -> None:
    padchest.write(root, flat=flat)
    expected = padchest.expected(findings_of("padchest"), flat=flat, tree=labels == "tree")
    check(root, "padchest", expected, labels)


def terms() -> st.SearchStrategy[list[str]]:
    names = findings_of("padchest")
    return st.lists(st.sampled_from([*names, "unchanged", "exclude", "suboptimal study"]), max_size=6)


@given(st.lists(terms(), min_size=1, max_size=4), st.booleans())
@settings(max_examples=25)
def test_padchest_whatever_a_cell_lists(listed: list[list[str]], json_list: bool) -> None:
    named = load_recipe("padchest").labels["tree"].named
    assert named is not None

    def above(term: str) -> set[str]:
        return {term}.union(*(above(kind) for kind in named.tree.get(term, ())))

    first, images = padchest.IMAGES[0], []
    for number, some in enumerate(listed):
        there = set(some) - {"unchanged"}
        known = bool(there) and there.isdisjoint({"exclude", "suboptimal study"})
        implied = sorted(set[str]().union(*map(above, there))) if known else []
        cell = json.dumps(some) if json_list else repr(some)
        images.append((f"{number}.png", *first[1:7], cell, *first[8:11], [], implied, known))
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(padchest, "IMAGES", images)
        padchest.write(Path(folder))
        expected = padchest.expected(list(named.names))
        assert differing(cells(scanned(Path(folder), "padchest")), expected) == []


def test_padchest_s_tree_has_no_loop_and_no_term_of_its_own() -> None:
    named = load_recipe("padchest").labels["tree"].named
    assert named is not None
    assert len(named.names) == len(set(named.names)) == 193 - 4
    for finding in named.names:
        implied = named.implied([finding])
        assert finding in implied <= set(named.names)
    assert named.implied(["supra aortic elongation"]) == {
        "supra aortic elongation",
        "aortic elongation",
        "superior mediastinal enlargement",
        "mediastinal enlargement",
    }


# VinDr-CXR


@pytest.mark.parametrize("how", ["majority", "any", "counts"])
@pytest.mark.parametrize("suffix", ["dicom", "dcm", "png"])
def test_vindr(root: Path, suffix: str, how: str) -> None:
    vindr.write(root, suffix=suffix, annotations="annotations" if suffix == "dicom" else ".")
    result = check(root, "vindr-cxr", vindr.expected(suffix=suffix, how=how), how)
    check_boxes(result, vindr.boxes())
    assert result.without_patient == len(vindr.IMAGES)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from([f"R{number}" for number in range(1, 6)]),
            st.lists(st.sampled_from(vindr.FINDINGS), max_size=3, unique=True),
            min_size=1,
        ),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from(["majority", "any", "counts"]),
)
@settings(max_examples=25)
def test_vindr_readers_however_many_and_whatever_they_say(readers: list[dict[str, list[str]]], how: str) -> None:
    images = [(number, "train", "", "", "", "", said) for number, said in enumerate(readers)]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(vindr, "IMAGES", images)
        vindr.write(Path(folder), suffix="png")
        shutil.rmtree(Path(folder) / "test", ignore_errors=True)
        assert differing(cells(scanned(Path(folder), "vindr-cxr", how)), vindr.expected(suffix="png", how=how)) == []


def test_vindr_without_boxes(root: Path) -> None:
    vindr.write(root, suffix="png")
    for path in (root / "annotations").glob("annotations_*.csv"):
        path.unlink()
    assert check(root, "vindr-cxr", vindr.expected(suffix="png")).boxes == {}


@pytest.mark.parametrize("how", ["majority", "any", "counts"])
@pytest.mark.parametrize("suffix", ["dicom", "png"])
def test_vindr_of_kaggle(root: Path, suffix: str, how: str) -> None:
    vindr.write_kaggle(root, suffix=suffix)
    result = check(root, "vindr-cxr-kaggle", vindr.expected_kaggle(suffix=suffix, how=how), how)
    train = {
        image
        for image, row in zip(result.columns["image_id"], cells(result).values(), strict=True)
        if row["split"] == "train"
    }
    check_boxes(result, [box for box in vindr.boxes() if box["image_id"] in train])
    assert result.unlisted == 2


# BRAX


@pytest.mark.parametrize("suffix", ["png", "dcm"])
def test_brax(root: Path, suffix: str) -> None:
    check(brax.write(root, suffix=suffix), "brax", brax.expected(suffix=suffix))


def test_brax_in_both_formats_is_taken_once(root: Path) -> None:
    brax.write(root, suffix="png")
    brax.write(root, suffix="dcm")
    result = scanned(root, "brax")
    assert cells(result) == brax.expected(suffix="dcm")
    assert {reason for _, reason in result.skipped} == {"a second file of its name"}
    assert len(result.skipped) == len(brax.IMAGES)


# NIH ChestX-ray14


@pytest.mark.parametrize("edition", ["2017_v2020", "2017"])
def test_nih(root: Path, edition: str) -> None:
    result = check(nih.write(root, edition=edition), "nih-chestxray14", nih.expected(edition=edition))
    check_boxes(result, nih.boxes())
    (root / "BBox_List_2017.csv").unlink()
    assert scanned(root, "nih-chestxray14").boxes == {}


@pytest.mark.parametrize("folder", ["images", "sample/images", "."])
def test_nih_sample(root: Path, folder: str) -> None:
    nih.write_sample(root, folder=folder)
    expected = nih.expected(sample=folder)
    if folder == ".":
        expected = {path.removeprefix("./"): row for path, row in expected.items()}
    assert check(root, "nih-chestxray14-sample", expected).boxes == {}


def test_nih_sample_that_holds_itself_twice(root: Path) -> None:
    """As Kaggle packs it: `sample/` has another `sample/` with the same table and images."""
    nih.write_sample(root)
    nih.write_sample(root / "sample")
    result = scanned(root, "nih-chestxray14-sample")
    assert cells(result) == nih.expected(sample="images")
    assert {reason for _, reason in result.skipped} == {"a second file of its name"}


# Open-i


@pytest.mark.parametrize("reports", ["ecgen-radiology", "NLMCXR_reports/ecgen-radiology"])
def test_open_i(root: Path, reports: str) -> None:
    check(openi.write(root, reports=reports), "open-i", openi.expected(findings_of("open-i")))


# The look-alikes that others made: three to six rows each.

SHARED = {
    "chexpert": ("chexpert", 6),
    "mimic-cxr-jpg": ("mimic", 4),
    "padchest": ("padchest", 4),
    "vindr-cxr": ("vindr", 3),
    "nih-chestxray14-sample": ("nih_sample", 4),
}


@pytest.mark.parametrize("recipe", SHARED)
def test_look_alikes_that_others_made(real_data: Path, recipe: str) -> None:
    name, count = SHARED[recipe]
    folder = real_data / "cases" / "datasets" / name
    if not folder.is_dir():
        pytest.skip(f"no {folder.name} among the shared cases here")
    result = scanned(folder, recipe)
    assert len(result) == count
    assert result.problems == []
    assert result.skipped == []
    assert result.unlisted == result.not_found == 0
    rows = cells(result)
    known = {path: {column: row[column] for column in SHARED_CELLS[recipe][path]} for path, row in rows.items()}
    assert differing(known, SHARED_CELLS[recipe]) == []
    for path, row in rows.items():  # every other cell is blank, but for findings that are known to be absent
        rest = {value for column, value in row.items() if column not in SHARED_CELLS[recipe][path]}
        assert rest <= SHARED_REST.get(recipe, {}).get(path, {""}), path
    if recipe == "vindr-cxr":
        assert boxes(result) == SHARED_BOXES


def _chexpert(image: str, **more: str) -> tuple[str, Row]:
    part, patient, study, name = image.split("/")
    row = {"patient_id": f"chexpert-{patient}", "study_id": f"{patient}/{study}", "view": "AP", "age": "68", "sex": "F"}
    row |= {"split": part, "image_id": f"{patient}/{study}/{name}"}
    if part == "train":
        row |= {"Cardiomegaly": "0", "Lung Opacity": "1", "Edema": "-1", "Pneumothorax": "0", "Support Devices": "1"}
    return f"CheXpert-v1.0-small/{image}.jpg", row | {name.replace("_", " "): value for name, value in more.items()}


def _mimic(path: str, view: str, split: str, **labels: str) -> tuple[str, Row]:
    _, patient, study, name = path.split("/")
    row = {"image_id": name, "patient_id": f"mimic-{patient[1:]}", "study_id": study[1:], "view": view}
    row |= {"study_date": "2180-05-06", "split": split}
    return f"files/{path}.jpg", row | {name.replace("_", " "): value for name, value in labels.items()}


def _padchest(path: str, patient: int, view: str, **labels: str) -> tuple[str, Row]:
    number, name = path.split("/")
    row = {"image_id": name, "patient_id": f"padchest-8398604886942923316379882356814609{patient}", "age": "84"}
    row |= {"study_id": f"{number}99".zfill(3), "study_date": "2014-09-15", "view": view, "sex": "M"}
    row |= {"label_method": "Physician"}
    return f"{path}.png", row | {name.replace("_", " "): value for name, value in labels.items()}


def _nih(image: str, patient: str) -> tuple[str, Row]:
    row = {"image_id": image, "patient_id": f"nih-{patient}", "view": "PA", "age": "60", "sex": "M", "follow_up": "0"}
    return f"images/{image}.png", row | {"Effusion": "1"}


def _vindr(image: str, **labels: str) -> tuple[str, Row]:
    row = {"image_id": image, "patient_id": f"unknown-{image}", "split": "train", "Aortic enlargement": "0"}
    row |= {"Atelectasis": "0", "Cardiomegaly": "0", "No finding": "0"}
    return f"train/{image}.png", row | {name.replace("_", " "): value for name, value in labels.items()}


SHARED_CELLS: dict[str, Cells] = {
    "chexpert": dict(
        [
            _chexpert("train/patient00001/study1/view1_frontal"),
            _chexpert("train/patient00002/study1/view1_frontal"),
            _chexpert("train/patient00002/study2/view1_frontal"),
            _chexpert("train/patient00002/study1/view2_lateral", view="LATERAL"),
            _chexpert("train/patient00003/study1/view1_frontal", sex=""),
            _chexpert(
                "valid/patient64541/study1/view1_frontal",
                **{
                    "age": "73",
                    "sex": "M",
                    "Enlarged_Cardiomediastinum": "1",
                    "Cardiomegaly": "1",
                    "Lung_Opacity": "1",
                },
            ),
        ]
    ),
    "mimic-cxr-jpg": dict(
        [
            _mimic(
                "p10/p10999901/s59999101/00abc000-00abc001-00abc002-00abc003-00abc004", "PA", "train", No_Finding="1"
            ),
            _mimic(
                "p10/p10999901/s59999101/00abc007-00abc008-00abc009-00abc00a-00abc00b",
                "LATERAL",
                "train",
                No_Finding="1",
            ),
            _mimic("p10/p10999901/s59999102/00abc00e-00abc00f-00abc010-00abc011-00abc012", "", "train", Edema="-1"),
            _mimic(
                "p10/p10999902/s59999103/00abc015-00abc016-00abc017-00abc018-00abc019",
                *("AP", "validate"),
                **{"Atelectasis": "1", "Cardiomegaly": "0"},
            ),
        ]
    ),
    "padchest": dict(
        [
            _padchest("0/20536686640136348236148679891455886468_k6ga29", 87, "PA"),
            _padchest(
                "1/135803415504923515076821959678074435083_fzis7b", 88, "L", pleural_effusion="1", cardiomegaly="1"
            ),
            _padchest("2/a_b", 89, "AP_horizontal"),
            _padchest("3/c_d", 90, "PA"),
        ]
    ),
    "vindr-cxr": dict(
        [
            _vindr("50a418190bc3fb1ef1633bf9678929b3", No_finding="1"),
            _vindr("21a10246a5ec7af151081d0cd6d65dc9", Cardiomegaly="1"),
            _vindr("9a5094b2563a1ef3ff50dc5c7ff71345"),
        ]
    ),
    "nih-chestxray14-sample": dict(
        [_nih("00000001_000", "0"), _nih("00000001_001", "1"), _nih("00000002_000", "2"), _nih("00000003_000", "3")]
    ),
}
SHARED_REST = {
    "chexpert": {"CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg": {"0"}},
    "padchest": {
        "0/20536686640136348236148679891455886468_k6ga29.png": {"0"},
        "1/135803415504923515076821959678074435083_fzis7b.png": {"0"},
    },
    "nih-chestxray14-sample": {f"images/{name}.png": {"0"} for name in ("00000001_000", "00000001_001")}
    | {f"images/{name}.png": {"0"} for name in ("00000002_000", "00000003_000")},
}
SHARED_BOXES = [
    {"image_id": image, "finding": finding, "x": x, "y": y, "width": width, "height": height, "reader": reader}
    for image, finding, x, y, width, height, reader in [
        ("21a10246a5ec7af151081d0cd6d65dc9", "Cardiomegaly", "691", "1375", "962", "456", "R8"),
        ("21a10246a5ec7af151081d0cd6d65dc9", "Aortic enlargement", "1", "2", "2", "2", "R9"),
        ("21a10246a5ec7af151081d0cd6d65dc9", "Cardiomegaly", "1", "2", "2", "2", "R10"),
        ("9a5094b2563a1ef3ff50dc5c7ff71345", "Pulmonary fibrosis", "1", "2", "2", "2", "R9"),
    ]
]


# Bad inputs

WRITERS: dict[str, Callable[[Path], object]] = {
    "chexpert": lambda root: chexpert.write(root, chexpert.SMALL),
    "mimic-cxr-jpg": mimic.write,
    "padchest": padchest.write,
    "vindr-cxr": vindr.write,
    "vindr-cxr-kaggle": vindr.write_kaggle,
    "brax": brax.write,
    "nih-chestxray14": nih.write,
    "nih-chestxray14-sample": nih.write_sample,
    "open-i": openi.write,
}
TABLES = {
    "chexpert": "CheXpert-v1.0-small/train.csv",
    "mimic-cxr-jpg": "mimic-cxr-2.0.0-metadata.csv.gz",
    "padchest": "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz",
    "vindr-cxr": "annotations/image_labels_train.csv",
    "vindr-cxr-kaggle": "train.csv",
    "brax": "master_spreadsheet_update.csv",
    "nih-chestxray14": "Data_Entry_2017_v2020.csv",
    "nih-chestxray14-sample": "sample_labels.csv",
}


@pytest.mark.parametrize("recipe", WRITERS)
@pytest.mark.parametrize("other", WRITERS)
def test_a_folder_of_another_data_set(root: Path, recipe: str, other: str) -> None:
    """One line and what to do; never the other's images with blank cells."""
    if recipe == other:
        pytest.skip("the same")
    WRITERS[other](root)
    if (recipe, other) == ("vindr-cxr-kaggle", "vindr-cxr"):
        pytest.skip("VinDr's folder has no train.csv")
    with pytest.raises(ManifestError) as caught:
        scanned(root, recipe)
    text = str(caught.value)
    assert len(text.splitlines()) <= 12
    assert any(part in text for part in ("missing", "comes with it", "no radiograph found", "another version"))


@pytest.mark.parametrize(
    ("recipe", "gone", "part"),
    [
        (
            "mimic-cxr-jpg",
            ["mimic-cxr-2.0.0-split.csv.gz"],
            r"1 of the 5 tables of MIMIC-CXR-JPG is missing \(split: mimic",
        ),
        (
            "mimic-cxr-jpg",
            ["mimic-cxr-2.0.0-metadata.csv.gz", "mimic-cxr-2.0.0-chexpert.csv.gz"],
            r"2 of the 5 tables of MIMIC-CXR-JPG are missing \(metadata: mimic[^;]*; chexpert: mimic[^;]*\); half a",
        ),
        ("padchest", [TABLES["padchest"]], "no PADCHEST_chest_x_ray_images_labels_160K"),
        (
            "brax",
            [TABLES["brax"]],
            "no master_spreadsheet_update.csv or master_spreadsheet.csv is there; BRAX comes with it",
        ),
        (
            "vindr-cxr",
            ["annotations"],
            r"1 of the 2 tables of VinDr-CXR is missing \(labels: annotations/image_labels_t",
        ),
        ("vindr-cxr-kaggle", ["train.csv"], "no train.csv is there"),
        (
            "nih-chestxray14",
            ["train_val_list.txt"],
            "the list train_val_list.txt is missing; NIH ChestX-ray14 comes with it",
        ),
        ("nih-chestxray14", [TABLES["nih-chestxray14"]], "1 of the 2 tables of NIH ChestX-ray14 is missing"),
        ("nih-chestxray14-sample", ["sample_labels.csv"], "no sample_labels.csv or sample/sample_labels.csv is there"),
        ("open-i", ["ecgen-radiology"], r"no ecgen-radiology/\*\.xml or "),
        (
            "chexpert",
            ["CheXpert-v1.0-small/train.csv", "CheXpert-v1.0-small/valid.csv", "CheXpert/test_labels.csv"],
            r"1 of the 4 tables of CheXpert is missing \(images: train.csv or ",
        ),
    ],
)
def test_half_a_download_names_what_is_missing(root: Path, recipe: str, gone: list[str], part: str) -> None:
    WRITERS[recipe](root)
    for name in gone:
        shutil.rmtree(root / name) if (root / name).is_dir() else (root / name).unlink()
    with pytest.raises(ManifestError, match=part) as caught:
        scanned(root, recipe)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("recipe", "table", "column", "part"),
    [
        ("chexpert", "CheXpert-v1.0-small/{}.csv", "Path", "no column 'Path'"),
        ("vindr-cxr-kaggle", "train.csv", "class_name", "no column 'class_name'"),
        ("brax", "master_spreadsheet_update.csv", "Lung Lesion", "no column 'Lung Lesion'"),
        ("brax", "master_spreadsheet_update.csv", "PngPath", "no column 'PngPath'"),
        ("nih-chestxray14", "Data_Entry_2017_v2020.csv", "Finding Labels", "no column 'Finding Labels'"),
        ("nih-chestxray14", "BBox_List_2017.csv", "Finding Label,", "no column 'Finding Label'"),
        ("nih-chestxray14-sample", "sample_labels.csv", "Patient Age", "no column 'Patient Age'"),
    ],
)
def test_a_table_of_another_version_names_its_columns(
    root: Path, recipe: str, table: str, column: str, part: str
) -> None:
    WRITERS[recipe](root)
    for name in {table.format("train"), table.format("valid")}:
        edit(root / name, column, f"Renamed{column[1:]}")
    if recipe == "chexpert":
        edit(root / "CheXpert" / "test_labels.csv", "Path", "File")
    with pytest.raises(ManifestError) as caught:
        scanned(root, recipe)
    assert part in str(caught.value)
    assert "another version?" in str(caught.value)


@pytest.mark.parametrize(
    ("recipe", "old", "new"),
    [
        (
            "chexpert",
            "patient90001/study1/view1_frontal.jpg,Female,68",
            "patient90001/study2/view1_frontal.jpg,Female,68",
        ),
        ("brax", "Series_5.2/image-9.1.png", "Series_5.1/image-9.1.png"),
        ("nih-chestxray14", "90000002_000.png", "90000001_000.png"),
        ("nih-chestxray14-sample", "90000002_000.png", "90000001_000.png"),
    ],
)
def test_an_id_twice_with_different_values(root: Path, recipe: str, old: str, new: str) -> None:
    WRITERS[recipe](root)
    edit(root / TABLES[recipe], old, new)
    with pytest.raises(ManifestError, match="stands twice, with different values"):
        scanned(root, recipe)


def test_a_row_that_stands_twice_and_agrees_is_one(root: Path) -> None:
    brax.write(root)
    path = root / TABLES["brax"]
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, lines[-1].replace("3,", "4,", 1)]) + "\n")
    check(root, "brax", brax.expected())


def test_a_patient_in_two_official_splits_is_a_problem(root: Path) -> None:
    nih.write(root)
    edit(root / TABLES["nih-chestxray14"], ",0,90002,", ",0,90001,")
    assert scanned(root, "nih-chestxray14").problems == ["a patient is in two splits: nih-90001 in test, train"]
    result = run_cli("manifest", "scan", str(root), "--recipe", "nih-chestxray14", "--out", str(root.parent / "m.csv"))
    assert result.returncode == 1
    assert "nih-90001 in test, train" in result.stderr


def test_an_image_in_two_official_lists(root: Path) -> None:
    nih.write(root)
    with (root / "test_list.txt").open("a") as file:
        file.write("90000001_000.png\n")
    with pytest.raises(ManifestError, match="1 of its files is in another list too"):
        scanned(root, "nih-chestxray14")


@pytest.mark.parametrize(
    ("recipe", "old", "new", "part"),
    [
        ("chexpert", ",-1.0,", ",maybe,", "is 'maybe', not 1, 0, -1 or blank"),
        ("brax", ",-1.0,", ",2.0,", "Edema is '2.0', not 1, 0, -1 or blank"),
        ("nih-chestxray14", "Hernia", "Hiccups", "the recipe does not know the finding 'Hiccups'"),
    ],
)
def test_labels_that_are_none(root: Path, recipe: str, old: str, new: str, part: str) -> None:
    WRITERS[recipe](root)
    edit(root / TABLES[recipe], old, new)
    with pytest.raises(ManifestError) as caught:
        scanned(root, recipe)
    assert part in str(caught.value)


def test_padchest_cells_that_say_nothing_known(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = padchest.IMAGES[0]
    monkeypatch.setattr(padchest, "IMAGES", [(*first[:7], "['hiccups', 'nodule']", *first[8:]), *padchest.IMAGES[1:]])
    padchest.write(root)
    result = scanned(root, "padchest")
    row = result.columns["path"].index(next(path for path in result.columns["path"] if path.endswith(first[0])))
    assert result.others == {"hiccups": 1}
    assert (result.columns["nodule"][row], result.columns["pneumonia"][row]) == ("1", "0")


def test_a_padchest_cell_that_is_not_a_list(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = padchest.IMAGES[0]
    monkeypatch.setattr(padchest, "IMAGES", [(*first[:7], "['a'", *first[8:]), *padchest.IMAGES[1:]])
    padchest.write(root)
    with pytest.raises(ManifestError, match="not a list"):
        scanned(root, "padchest")


@pytest.mark.parametrize(
    "text",
    ["", "<eCitation>", "<!DOCTYPE a [<!ENTITY b 'c'>]><a>&b;</a>", "\x00" * 40],
    ids=["empty", "cut", "entity", "nul"],
)
def test_open_i_reports_that_are_none(root: Path, text: str) -> None:
    openi.write(root)
    (root / "ecgen-radiology" / "2.xml").write_text(text)
    with pytest.raises(ManifestError, match=r"ecgen-radiology/2\.xml: cannot be read as a table"):
        scanned(root, "open-i")


def test_files_that_the_table_lacks_are_named_with_the_nearest(root: Path) -> None:
    mimic.write(root)
    picture(root / "files" / "p19" / "p19999901" / "s59999101" / f"{mimic.dicom_id(0)}x.jpg")
    result = scanned(root, "mimic-cxr-jpg")
    assert [reason for _, reason in result.skipped] == ["not in the data set's table"]
    assert result.unmatched is not None
    assert result.unmatched.nearest == mimic.dicom_id(0)


# A folder, or one of its tables, without a recipe's name


@pytest.mark.parametrize("recipe", WRITERS)
def test_a_folder_is_recognised(root: Path, recipe: str) -> None:
    WRITERS[recipe](root)
    guess = guess_recipe(root)
    assert guess is not None
    assert guess.recipe.name == recipe


@pytest.mark.parametrize("layout", [chexpert.BATCHES, chexpert.INSIDE], ids=["full", "inside"])
def test_chexpert_is_recognised_however_it_is_unpacked(root: Path, layout: dict[str, str]) -> None:
    guess = guess_recipe(chexpert.write(root, layout))
    assert guess is not None
    assert guess.recipe.name == "chexpert"


@pytest.mark.parametrize("recipe", TABLES)
def test_a_table_is_recognised_by_its_columns_and_by_its_name(root: Path, recipe: str) -> None:
    WRITERS[recipe](root)
    path = root / TABLES[recipe]
    header = header_of(path)
    assert which_recipe(header, path.name) == recipe
    # The sample's table has the columns of the whole.
    assert which_recipe(header, "table.csv") == recipe.removesuffix("-sample")


# What these recipes need of all recipes

OURS = """
name: ours
title: Ours
licence: none
images: ["*.png"]
columns: {image_id: {path: '(.*)[.]png'}, patient_id: {path: '(.).*'}}
tables: {list: {files: ["*.csv"], all: true, key: id, complete: false}}
"""


def ours(root: Path, more: str) -> str:
    root.mkdir(exist_ok=True)
    for name in ("a", "b"):
        picture(root / f"{name}.png")
    path = root / "ours.yaml"
    path.write_text(OURS + more)
    return str(path)


def test_a_table_may_lack_some_findings_but_not_all(root: Path) -> None:
    recipe = ours(root, "labels: {them: {in: list, columns: [Mass, Edema], partial: true}}\n")
    (root / "list.csv").write_text("id,Edema\na.png,1\nb.png,0\n")
    result = scanned(root, recipe)
    assert (result.columns["Mass"], result.columns["Edema"]) == (["", ""], ["1", "0"])
    (root / "list.csv").write_text("id,oedema\na.png,1\n")
    with pytest.raises(ManifestError, match=r"no column 'Mass' or 'Edema' in list\.csv: another version"):
        scanned(root, recipe)


def test_files_that_name_a_column_otherwise_are_stacked(root: Path) -> None:
    recipe = ours(root, "labels: {them: {in: list, columns: [Mass]}}\n")
    text = Path(recipe).read_text().replace("key: id,", "key: id, rename: {Masses: Mass, image: id},")
    Path(recipe).write_text(text)
    (root / "1.csv").write_text("id,Mass\na.png,1\n")
    (root / "2.csv").write_text("Masses;image\n0;b.png\n")
    assert scanned(root, recipe).columns["Mass"] == ["1", "0"]


def test_a_list_of_some_images_that_has_none_of_them_shows_the_nearest(root: Path) -> None:
    recipe = ours(root, "")
    (root / "list.csv").write_text("id\na.jpg\n")
    result = scanned(root, recipe)
    assert (len(result), result.unlisted, result.not_found) == (2, 2, 1)
    assert str(result.unmatched) == "a.png was looked up in list.csv as 'a.png'; the nearest there is 'a.jpg'"
    (root / "list.csv").write_text("id\na.png\n")
    result = scanned(root, recipe)
    assert (result.unlisted, result.unmatched) == (1, None)
    done = run_cli("manifest", "scan", str(root), "--recipe", recipe)
    assert "1 image is not in the table of images: what only that says is blank" in done.stderr


def test_parts_of_names_several_kinds_and_other_names(root: Path) -> None:
    named = "table: [found], in: list, separator: ';', part: '([^/]+)/.*', names: [x, y, z]"
    tree = "tree: {x: [y, z]}"
    (root.parent / "data").mkdir()
    (root / "list.csv").write_text("id,found\na.png,x/left; q/low\nb.png,q\n")
    recipe = ours(root, f"labels: {{them: {{named: {{{named}, others: pass, {tree}}}}}}}\n")
    result = scanned(root, recipe)
    assert [result.columns[name] for name in "xyz"] == [["1", "0"]] * 3
    with pytest.raises(ManifestError, match="the recipe does not know the finding 'q'"):
        scanned(root, ours(root, f"labels: {{them: {{named: {{{named}, {tree}}}}}}}\n"))
    loop = "tree: {x: [y, z], z: x}"
    with pytest.raises(ManifestError, match="tree: x is a kind of itself"):
        load_recipe(ours(root, f"labels: {{them: {{named: {{{named}, {loop}}}}}}}\n"))


def test_official_labels_that_are_not_there(root: Path) -> None:
    with pytest.raises(ManifestError, match="official: no labels are named us"):
        load_recipe(ours(root, "official: [{labels: us, split: test}]\n"))


# What a recipe says for people


@pytest.mark.parametrize("recipe", WRITERS)
def test_a_recipe_says_where_its_data_set_is_from_and_what_its_cells_mean(recipe: str) -> None:
    layout = load_recipe(recipe)
    assert layout.source.startswith("https://")
    assert layout.terms.endswith(".")
    assert layout.citation.endswith((".", "4", "7", "8")) or layout.citation.rpartition(" ")[2].startswith("https://")
    assert layout.blank
    assert all(source.about for source in layout.labels.values())
    values = {value for row in _expected_of(recipe).values() for value in row.values()}
    assert bool(layout.uncertain) == ("-1" in values)


def _expected_of(recipe: str) -> Cells:
    return {
        "chexpert": lambda: chexpert.expected(chexpert.SMALL),
        "mimic-cxr-jpg": mimic.expected,
        "brax": brax.expected,
    }.get(recipe, dict)()


@pytest.mark.parametrize("recipe", WRITERS)
def test_one_command_writes_a_manifest(root: Path, recipe: str) -> None:
    WRITERS[recipe](root)
    out = root.parent / "out.csv"
    done = run_cli("manifest", "scan", str(root), "--recipe", recipe, "--out", str(out))
    assert done.returncode == 0, done.stderr
    with out.open(newline="") as file:
        written = {row.pop("path"): row for row in csv.DictReader(file)}
    result = scanned(root, recipe)
    assert written == cells(result)
    terms = [line for line in done.stderr.splitlines() if line.startswith("terms of ")]
    assert len(terms) == 1
    assert load_recipe(recipe).terms in terms[0]
    # Its companion says which columns are no findings, and where the radiographs are: no option says it again.
    checked = run_cli("manifest", "validate", str(out), "--json")
    assert checked.returncode == 0, checked.stderr
    assert json.loads(checked.stdout)["findings"] == load_recipe(recipe).findings(result.labels)
    table = root.parent / "out.boxes.csv"
    assert table.is_file() == bool(result.boxes)
    if result.boxes:
        with table.open(newline="") as file:
            assert list(csv.DictReader(file)) == boxes(result)


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (lambda data: data[:-30], "a download that broke off"),
        (lambda data: data.replace(b"\n", b"\n,", 2).replace(b"\n,", b"\n", 1), "a separator in a cell without quotes"),
    ],
)
def test_a_row_that_is_cut_or_shifted_is_refused(root: Path, cut: Callable[[bytes], bytes], said: str) -> None:
    chexpert.write(root, chexpert.SMALL)
    path = root / "CheXpert-v1.0-small" / "train.csv"
    path.write_bytes(cut(path.read_bytes()))
    with pytest.raises(ManifestError, match=said) as error:
        scanned(root, "chexpert")
    assert "train.csv: cannot be read as a table" in str(error.value)


@pytest.mark.parametrize(("up", "down"), [("inner", ""), ("files/mimic/..", ""), ("", "files"), ("", "files/p19")])
def test_a_folder_that_is_one_or_two_levels_off_is_told_where_the_tables_are(
    tmp_path: Path, up: str, down: str
) -> None:
    (tmp_path / "outer" / up.removesuffix("/..")).mkdir(parents=True, exist_ok=True)
    own = mimic.write((tmp_path / "outer" / up).resolve())
    given = own / down if down else tmp_path / "outer"
    with pytest.raises(ManifestError, match=f"its tables are in {own}: give that folder"):
        scanned(given, "mimic-cxr-jpg")
    ran = run_cli("manifest", "scan", str(given))
    assert ran.returncode == 0
    assert f"note: {own} is MIMIC-CXR-JPG, by mimic-cxr-2.0.0-metadata.csv.gz" in ran.stderr
    assert "scan that folder with --recipe mimic-cxr-jpg for its labels" in ran.stderr


def test_a_clinic_s_folder_is_near_nothing(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "b" / "c" / "1.png")
    challenges.rsna(tmp_path / "a" / "rsna")  # a neighbour is not the folder above
    ran = run_cli("manifest", "scan", str(tmp_path / "a" / "b"))
    assert (ran.returncode, "note:" in ran.stderr) == (0, False)


def test_suffixes_that_a_recipe_does_not_read_are_named(root: Path) -> None:
    nih.write(root)
    for path in list(root.rglob("*.png")):
        path.rename(path.with_suffix(".PNG"))
    with pytest.raises(ManifestError, match=r"nih-chestxray14 reads \*\*/\*\.png, and here are \*\.PNG, \*\."):
        scanned(root, "nih-chestxray14")
