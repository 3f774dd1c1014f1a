"""Eight public data sets by their recipes, RSNA's challenge to TBX11K: every cell of a look-alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from helpers import run_cli
from hypothesis import given, settings
from hypothesis import strategies as st
from lookalikes import challenges, films, tuberculosis
from lookalikes.challenges import COVIDX_UUID, RSNA, SIIM
from lookalikes.files import picture, text
from PIL import Image, ImageDraw

from cxr_embed.datasets import ScanResult, guess_recipe, load_recipe, scan
from cxr_embed.datasets.boxes import _of_outline, _of_runs, read_mask
from cxr_embed.datasets.recipe_parts import Outlines, Runs
from cxr_embed.errors import ManifestError
from cxr_embed.manifest import read_manifest

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR AS")  # RSNA writes ages so

MAKERS: dict[str, Callable[..., None]] = {
    "rsna-pneumonia": challenges.rsna,
    "siim-pneumothorax": challenges.siim,
    "covidx": challenges.covidx,
    "shenzhen": tuberculosis.shenzhen,
    "montgomery": tuberculosis.montgomery,
    "tbx11k": tuberculosis.tbx11k,
    "jsrt": films.jsrt,
    "chestx-det": films.chestx_det,
}


def scanned(root: Path, recipe: str, labels: str | None = None) -> ScanResult:
    # With a key, as the command line has one where ids are to be hashed: these are public.
    return scan(root, load_recipe(recipe), patient_key=b"k" * 32, labelled_by=labels)


def table(columns: Mapping[str, list[str]]) -> list[list[str]]:
    """A header and rows, the rows sorted."""
    return [list(columns), *sorted(map(list, zip(*columns.values(), strict=True)))]


def cells(written: str, **names: str) -> list[list[str]]:
    """A table as it is written in a test, ` | ` between cells; `{x}` stands for a long name."""
    lines = [line.strip() for line in written.strip().splitlines()]
    header, *rows = [[cell.strip().format(**names) for cell in line.split("|")] for line in lines]
    return [header, *sorted(rows)]


def clean(result: ScanResult, without_patient: int = 0, not_found: int = 0) -> bool:
    """Whether a scan had nothing else to tell."""
    told = (result.problems, result.skipped, result.unmatched, result.without_patient, result.not_found)
    return told == ([], [], None, without_patient, not_found)


def refused(root: Path, recipe: str, labels: str | None = None) -> str:
    with pytest.raises(ManifestError) as caught:
        scanned(root, recipe, labels)
    return str(caught.value).replace(f"{root}/", "").replace(str(root), "HERE")


# RSNA Pneumonia Detection Challenge

RSNA_IDS = {f"r{n}": own for n, own in enumerate(RSNA, 1)}


def test_rsna(tmp_path: Path) -> None:
    challenges.rsna(tmp_path)
    result = scanned(tmp_path, "rsna-pneumonia")
    # The age 155 is no age. Images of the test part have no label.
    assert table(result.columns) == cells(
        """
        image_id | path                          | patient_id | view | age | sex | split | Pneumonia
        {r1}     | stage_2_train_images/{r1}.dcm | {r1}       | PA   | 51  | F   | train | 1
        {r2}     | stage_2_train_images/{r2}.dcm | {r2}       | AP   | 4   | M   | train | 1
        {r3}     | stage_2_train_images/{r3}.dcm | {r3}       | PA   |     | F   | train | 0
        {r4}     | stage_2_train_images/{r4}.dcm | {r4}       | AP   | 38  | M   | train | 0
        {r5}     | stage_2_test_images/{r5}.dcm  | {r5}       | PA   | 60  | F   | test  |
        {r6}     | stage_2_test_images/{r6}.dcm  | {r6}       | PA   | 60  | F   | test  |
        """,
        **RSNA_IDS,
    )
    assert table(result.boxes) == cells(
        """
        image_id | finding   | x     | y   | width | height
        {r1}     | Pneumonia | 264   | 152 | 213   | 379
        {r1}     | Pneumonia | 562   | 152 | 256   | 453
        {r2}     | Pneumonia | 562.5 | 410 | 100   | 90
        """,
        **RSNA_IDS,
    )
    assert clean(result)


def test_rsna_by_classes(tmp_path: Path) -> None:
    challenges.rsna(tmp_path)
    result = scanned(tmp_path, "rsna-pneumonia", "classes")
    assert list(result.columns)[-3:] == ["Lung Opacity", "No Lung Opacity / Not Normal", "Normal"]
    rows = dict(zip(result.columns["image_id"], zip(*list(result.columns.values())[-3:], strict=True), strict=True))
    found = [("1", "0", "0"), ("1", "0", "0"), ("0", "1", "0"), ("0", "0", "1"), ("", "", ""), ("", "", "")]
    assert [rows[own] for own in RSNA[:6]] == found


def test_rsna_patients_are_nihs_where_its_list_is_there(tmp_path: Path) -> None:
    challenges.rsna(tmp_path)
    challenges.rsna_to_nih(tmp_path)
    result = scanned(tmp_path, "rsna-pneumonia")
    patients = dict(zip(result.columns["image_id"], result.columns["patient_id"], strict=True))
    assert [patients[own] for own in RSNA[:6]] == ["nih-7", "nih-12", RSNA[2], RSNA[3], "nih-7", RSNA[5]]
    assert result.problems == ["a patient is in two splits: nih-7 in test, train"]


def test_rsna_tables_that_are_not_as_published(tmp_path: Path) -> None:
    challenges.rsna(tmp_path)
    labels = tmp_path / "stage_2_train_labels.csv"
    published = labels.read_text()
    text(labels, published + f"{RSNA[2]},1,2,3,4,1\n")
    twice = f"\n  {RSNA[2]} stands twice, with different values"
    assert refused(tmp_path, "rsna-pneumonia").endswith(f"not as the recipe rsna-pneumonia expects it{twice}")
    text(labels, published.replace("Target", "label").replace("height", "h"))
    said = refused(tmp_path, "rsna-pneumonia")
    assert said.endswith("\n  no column 'Target' and none 'height' in stage_2_train_labels.csv: another version?")
    text(labels, published + f"{RSNA[5]},,,,,2\n")
    assert "Pneumonia is '2', not 1, 0, -1 or blank" in refused(tmp_path, "rsna-pneumonia")
    text(labels, published.replace("213.0", "wide"))
    problem = f"stage_2_train_images/{RSNA[0]}.dcm: a box with 'wide' for a number"
    assert scanned(tmp_path, "rsna-pneumonia").problems == [problem]


def test_half_of_rsna(tmp_path: Path) -> None:
    challenges.rsna(tmp_path)
    (tmp_path / "stage_2_detailed_class_info.csv").unlink()
    assert clean(scanned(tmp_path, "rsna-pneumonia"))  # its table is of the other labels
    assert "(classes: stage_2_detailed_class_info.csv" in refused(tmp_path, "rsna-pneumonia", "classes")
    shutil.rmtree(tmp_path / "stage_2_train_images")
    assert scanned(tmp_path, "rsna-pneumonia").not_found == 4
    (tmp_path / "stage_2_train_labels.csv").unlink()
    said = refused(tmp_path, "rsna-pneumonia")
    assert said.startswith("HERE: 2 of the 4 tables of RSNA Pneumonia Detection Challenge are missing (labels: ")
    assert "; boxes: stage_2_train_labels.csv" in said
    assert said.endswith("half a download, or another data set?")


# SIIM-ACR Pneumothorax Segmentation

SIIM_IDS = {f"s{n}": own for n, own in enumerate(SIIM, 1)}
SIIM_TRAIN = """
    image_id | path | patient_id | study_id | view | age | sex | split | Pneumothorax
    {s1}     | dicom-images-train/{s1}.1/{s1}.2/{s1}.dcm  | A          | {s1}.1   | PA   | 45  | F   | train | 1
    {s2}     | dicom-images-train/{s2}.1/{s2}.2/{s2}.dcm  | A          | {s2}.1   | AP   | 46  | F   | train | 0
    {s3}     | dicom-images-train/{s3}.1/{s3}.2/{s3}.dcm  | B          | {s3}.1   | PA   | 9   | M   | train | 1
    {s4}     | dicom-images-train/{s4}.1/{s4}.2/{s4}.dcm  | C          | {s4}.1   | AP   | 70  | M   | train |
    """
SIIM_BOXES = [
    (SIIM[0], "200", "100", "4", "40"),
    (SIIM[0], "600", "700", "50", "200"),
    (SIIM[2], "1020", "1000", "4", "24"),
]


@pytest.mark.parametrize("stage", [1, 2])
def test_siim(tmp_path: Path, stage: int) -> None:
    challenges.siim(tmp_path, stage)
    result = scanned(tmp_path, "siim-pneumothorax")
    tests = """
    {s5}     | dicom-images-test/{s5}.1/{s5}.2/{s5}.dcm | D4 | {s5}.1 | PA | 30 | F | test | {negative}
    {s6}     | dicom-images-test/{s6}.1/{s6}.2/{s6}.dcm | D5 | {s6}.1 | PA | 30 | F | test |
    """
    tests += "ID_0000made | stage_2_images/ID_0000made.dcm | E | | AP | 88 | M | test |" if stage == 2 else ""
    expected = cells(SIIM_TRAIN.strip() + tests, negative="0" if stage == 2 else "", **SIIM_IDS)
    assert table(result.columns) == expected
    boxes = result.boxes
    assert list(boxes) == ["image_id", "finding", "x", "y", "width", "height", "mask"]
    assert set(boxes["finding"]) == {"Pneumothorax"}
    found = list(zip(*(boxes[name] for name in ("image_id", "x", "y", "width", "height")), strict=True))
    assert sorted(found) == sorted(SIIM_BOXES)
    masks = {row[:3]: read_mask(mask) for row, mask in zip(found, boxes["mask"], strict=True)}
    for row, mask in zip(SIIM_BOXES, challenges.siim_masks(), strict=True):
        np.testing.assert_array_equal(masks[row[:3]], mask)
    assert clean(result)


def test_siim_runs_that_do_not_fit(tmp_path: Path) -> None:
    challenges.siim(tmp_path)
    table_file = tmp_path / "train-rle.csv"
    published = table_file.read_text()
    path = f"dicom-images-train/{SIIM[3]}.1/{SIIM[3]}.2/{SIIM[3]}.dcm"
    for runs, why in (
        ("10 20 5", "run lengths that do not fit 1024 x 1024 pixels"),
        ("1048570 7", "run lengths that do not fit 1024 x 1024 pixels"),
        ("10 -2", "run lengths that do not fit 1024 x 1024 pixels"),
        ("10 x", "run lengths with '10 x'"),
    ):
        text(table_file, f"{published}{SIIM[3]},{runs}\n")
        assert scanned(tmp_path, "siim-pneumothorax").problems == [f"{path}: {why}"]
    # an image that has none and one: what is outlined is there
    text(table_file, f"{published}{SIIM[3]},-1\n{SIIM[3]},0 1\n")
    result = scanned(tmp_path, "siim-pneumothorax")
    assert result.columns["Pneumothorax"][result.columns["image_id"].index(SIIM[3])] == "1"
    text(table_file, published.replace("EncodedPixels", "mask"))
    assert "no column 'EncodedPixels' in train-rle.csv" in refused(tmp_path, "siim-pneumothorax")
    table_file.unlink()
    assert refused(tmp_path, "siim-pneumothorax").startswith("HERE: no stage_2_train.csv or train-rle.csv or ")


# COVIDx

COVIDX = """
    image_id            | path                           | patient_id        | split | origin     | COVID-19
    Severe-000          | train/Severe-000.png           | covidx-5          | train | cohen      | 0
    COVID(12)           | train/COVID(12).png            | covidx-COVID 12   | train | sirm       | 1
    COVID (13)          | train/COVID (13).png           | covidx-COVID 13   | train | sirm       | 1
    {uuid}              | train/{uuid}.png               | {uuid}            | train | rsna       | 0
    A000801_1           | train/A000801_1.png            | covidx-A000801    | train | stonybrook | 1
    A000801_2           | train/A000801_2.jpeg           | covidx-A000801    | train | stonybrook | 1
    MIDRC-RICORD-1C-000 | test/MIDRC-RICORD-1C-000.png   | covidx-419639-001 | test  | ricord     | 1
    """
COVIDX_VAL = "sub-S0803_ses-E1 | val/sub-S0803_ses-E1.png | covidx-S0803 | val | bimcv | 1"


@pytest.mark.parametrize("version", ["CXR-2", "CXR-4", "9A"])
def test_covidx(tmp_path: Path, version: str) -> None:
    challenges.covidx(tmp_path, version)
    result = scanned(tmp_path, "covidx")
    assert table(result.columns) == cells(COVIDX + (COVIDX_VAL if version == "CXR-4" else ""), uuid=COVIDX_UUID)
    assert clean(result)
    assert result.boxes == {}


def test_covidx_classes(tmp_path: Path) -> None:
    challenges.covidx(tmp_path / "9A", "9A")
    result = scanned(tmp_path / "9A", "covidx", "classes")
    assert list(result.columns)[-3:] == ["normal", "pneumonia", "COVID-19"]
    rows = dict(zip(result.columns["image_id"], zip(*list(result.columns.values())[-3:], strict=True), strict=True))
    covid = dict.fromkeys(["COVID(12)", "COVID (13)", "A000801_1", "A000801_2", "MIDRC-RICORD-1C-000"], ("0", "0", "1"))
    assert rows == {"Severe-000": ("1", "0", "0"), COVIDX_UUID: ("0", "1", "0"), **covid}
    challenges.covidx(tmp_path / "4", "CXR-4")
    assert "the recipe does not know the finding 'positive'" in refused(tmp_path / "4", "covidx", "classes")


def test_covidx_without_sources(tmp_path: Path) -> None:
    """The first two versions."""
    text(tmp_path / "train_COVIDx2.txt", "5 a b.png normal\n6 c.jpg COVID-19\n")
    picture(tmp_path / "train/a b.png")
    picture(tmp_path / "train/c.jpg")
    result = scanned(tmp_path, "covidx")
    assert table(result.columns) == cells(
        """
        image_id | path          | patient_id | split | origin | COVID-19
        a b      | train/a b.png | covidx-5   | train |        | 0
        c        | train/c.jpg   | covidx-6   | train |        | 1
        """
    )


def test_covidx_lists_that_are_not_as_published(tmp_path: Path) -> None:
    challenges.covidx(tmp_path)
    published = (tmp_path / "test.txt").read_text()
    again = "\n  Severe-000.png stands twice, with different values"
    text(tmp_path / "test.txt", published + "5 Severe-000.png positive cohen\n")  # another label
    assert refused(tmp_path, "covidx").endswith(again)
    text(tmp_path / "test.txt", published + "5 Severe-000.png negative cohen\n")  # another part
    assert refused(tmp_path, "covidx").endswith(again)
    text(tmp_path / "test.txt", published + "5 other.png negative cohen\n")
    picture(tmp_path / "test/other.png")
    assert scanned(tmp_path, "covidx").problems == ["a patient is in two splits: covidx-5 in test, train"]
    (tmp_path / "test.txt").unlink()
    result = scanned(tmp_path, "covidx")
    assert dict(result.skipped) == dict.fromkeys(
        ["test/MIDRC-RICORD-1C-000.png", "test/other.png"], "not in the data set's table"
    )
    for part in ("train", "val"):
        text(tmp_path / f"{part}.txt", "the first line\nof somebody's notes\n")
    said = refused(tmp_path, "covidx")
    assert "no radiograph found" in said
    assert guess_recipe(tmp_path) is None  # a file that is called train.txt is no data set
    for part in ("train", "val"):
        (tmp_path / f"{part}.txt").unlink()
    assert refused(tmp_path, "covidx").startswith("HERE: no train.txt or val.txt or test.txt or ")


# Shenzhen and Montgomery

SHENZHEN = """
    image_id      | path                      | patient_id  | view | age | sex | reading | Tuberculosis
    CHNCXR_9001_0 | CXR_png/CHNCXR_9001_0.png | CHNCXR_9001 | PA | 45 | M | normal | 0
    CHNCXR_9002_0 | CXR_png/CHNCXR_9002_0.png | CHNCXR_9002 | PA | 28 | F | normal | 0
    CHNCXR_9003_1 | CXR_png/CHNCXR_9003_1.png | CHNCXR_9003 | PA | 32 | F | PTB in the right upper field, old focus | 1
    CHNCXR_9004_1 | CXR_png/CHNCXR_9004_1.png | CHNCXR_9004 | PA | 1  | M | STB | 1
    CHNCXR_9005_1 | CXR_png/CHNCXR_9005_1.png | CHNCXR_9005 | PA | 0  | F | PTB in both upper fields | 1
    CHNCXR_9006_1 | CXR_png/CHNCXR_9006_1.png | CHNCXR_9006 | PA | 51 | M | bilateral secondary PTB | 1
    CHNCXR_9007_0 | CXR_png/CHNCXR_9007_0.png | CHNCXR_9007 | PA |    |   |        | 0
    CHNCXR_9008_0 | CXR_png/CHNCXR_9008_0.png | CHNCXR_9008 | PA |    |   |        | 0
    """


@pytest.mark.parametrize("layout", ["ClinicalReadings", ""])
def test_shenzhen(tmp_path: Path, layout: str) -> None:
    tuberculosis.shenzhen(tmp_path, layout)
    result = scanned(tmp_path, "shenzhen")
    assert table(result.columns) == cells(SHENZHEN)
    assert clean(result)  # no mask is a radiograph, nor worth a word
    assert result.boxes == {}


def test_shenzhen_in_a_folder_and_without_readings(tmp_path: Path) -> None:
    tuberculosis.shenzhen(tmp_path / "ChinaSet_AllFiles")
    inside = [[cell.replace("CXR_png/", "ChinaSet_AllFiles/CXR_png/") for cell in row] for row in cells(SHENZHEN)]
    assert table(scanned(tmp_path, "shenzhen").columns) == inside
    shutil.rmtree(tmp_path / "ChinaSet_AllFiles/ClinicalReadings")
    blank = [inside[0], *([*row[:4], "", "", "", row[-1]] for row in inside[1:])]
    assert table(scanned(tmp_path, "shenzhen").columns) == blank


def test_montgomery(tmp_path: Path) -> None:
    tuberculosis.montgomery(tmp_path)
    result = scanned(tmp_path, "montgomery")
    path = "MontgomerySet/CXR_png"
    assert table(result.columns) == cells(
        """
        image_id      | path                     | patient_id  | view | age | sex | reading | Tuberculosis
        MCUCXR_9001_0 | {at}/MCUCXR_9001_0.png | MCUCXR_9001 | PA | 27 | F | normal | 0
        MCUCXR_9002_0 | {at}/MCUCXR_9002_0.png | MCUCXR_9002 | PA | 0  | M | normal | 0
        MCUCXR_9003_1 | {at}/MCUCXR_9003_1.png | MCUCXR_9003 | PA | 70 | O | Large infiltrate. Rule out TB. | 1
        MCUCXR_9004_1 | {at}/MCUCXR_9004_1.png | MCUCXR_9004 | PA |    |   |        | 1
        """,
        at=path,
    )
    assert clean(result)
    assert not any("Mask" in path for path in result.columns["path"])


# TBX11K


@pytest.mark.parametrize("together", [True, False])
def test_tbx11k(tmp_path: Path, together: bool) -> None:
    tuberculosis.tbx11k(tmp_path, together)
    result = scanned(tmp_path, "tbx11k")
    assert table(result.columns) == cells(
        """
        image_id                        | path                                     | patient_id                            | split | Tuberculosis | Sick & Non-TB
        health/h9001                    | imgs/health/h9001.png                    | unknown-health/h9001                  | train | 0 | 0
        health/h9002                    | imgs/health/h9002.png                    | unknown-health/h9002                  | val   | 0 | 0
        sick/s9001                      | imgs/sick/s9001.png                      | unknown-sick/s9001                    | train | 0 | 1
        tb/tb9001                       | imgs/tb/tb9001.png                       | unknown-tb/tb9001                     | train | 1 | 0
        tb/tb9002                       | imgs/tb/tb9002.png                       | unknown-tb/tb9002                     | train | 1 | 0
        tb/tb9003                       | imgs/tb/tb9003.png                       | unknown-tb/tb9003                     | val   | 1 | 0
        test/test_9001                  | imgs/test/test_9001.png                  | unknown-test/test_9001                | test  |   |
        extra/da+db/train/n91           | imgs/extra/da+db/train/n91.png           | unknown-extra/da+db/train/n91         | train | 0 |
        extra/da+db/test/px91           | imgs/extra/da+db/test/px91.jpg           | unknown-extra/da+db/test/px91         | test  | 1 |
        extra/mc+shenzhen/CHNCXR_9003_1 | imgs/extra/mc+shenzhen/CHNCXR_9003_1.png | CHNCXR_9003                           | val   | 1 |
        extra/mc+shenzhen/MCUCXR_9001_0 | imgs/extra/mc+shenzhen/MCUCXR_9001_0.png | MCUCXR_9001                           | test  | 0 |
        """  # noqa: E501
    )
    assert table(result.boxes) == cells(
        """
        image_id  | finding                       | x        | y     | width | height
        tb/tb9001 | ActiveTuberculosis            | 381.8125 | 126.5 | 40.25 | 44.5
        tb/tb9001 | ObsoletePulmonaryTuberculosis | 10       | 20    | 30.5  | 40
        tb/tb9003 | ObsoletePulmonaryTuberculosis | 307.3    | 62.05 | 135.5 | 146.6
        tb/tb9003 | ObsoletePulmonaryTuberculosis | 144.1    | 52.9  | 126.1 | 116.2
        """
    )
    assert clean(result, without_patient=9)


def test_tbx11k_by_regions(tmp_path: Path) -> None:
    tuberculosis.tbx11k(tmp_path)
    result = scanned(tmp_path, "tbx11k", "regions")
    assert list(result.columns)[-3:] == ["ActiveTuberculosis", "ObsoletePulmonaryTuberculosis", "PulmonaryTuberculosis"]
    rows = dict(zip(result.columns["image_id"], zip(*list(result.columns.values())[-3:], strict=True), strict=True))
    none = dict.fromkeys(["health/h9001", "health/h9002", "sick/s9001", "tb/tb9002"], ("0", "0", "0"))
    other = ["extra/da+db/test/px91", "extra/da+db/train/n91", "extra/mc+shenzhen/CHNCXR_9003_1"]
    other += ["extra/mc+shenzhen/MCUCXR_9001_0", "test/test_9001"]
    nobody = dict.fromkeys(other, ("", "", ""))
    assert rows == {"tb/tb9001": ("1", "1", "0"), "tb/tb9003": ("0", "1", "0"), **none, **nobody}


def test_half_of_tbx11k_and_lists_that_overlap(tmp_path: Path) -> None:
    tuberculosis.tbx11k(tmp_path)
    text(tmp_path / "lists/all_val.txt", "health/h9002.png\nhealth/h9001.png\n")
    assert "1 of its files is in another list too, first h9001.png" in refused(tmp_path, "tbx11k")
    (tmp_path / "lists/all_val.txt").unlink()
    assert refused(tmp_path, "tbx11k") == "HERE: the list lists/all_val.txt is missing; TBX11K comes with it"
    text(tmp_path / "lists/all_val.txt", "health/h9002.png\n")
    shutil.rmtree(tmp_path / "annotations")
    assert refused(tmp_path, "tbx11k").startswith("HERE: no annotations/json/TBX11K_trainval.json or ")


# JSRT


@pytest.mark.parametrize("ends", ["\r", "\r\n", "\n"])
def test_jsrt(tmp_path: Path, ends: str) -> None:
    films.jsrt(tmp_path, ends)
    result = scanned(tmp_path, "jsrt")
    assert table(result.columns) == cells(
        """
        image_id | path                      | patient_id       | age | sex | nodule_subtlety | nodule_size_mm | nodule_x | nodule_y | nodule_diagnosis                    | Nodule
        JPCLN901 | All247images/JPCLN901.IMG | unknown-JPCLN901 | 53  | M   | 5 | 15 | 1634 | 692  | l.upper lobe lung cancer            | 1
        JPCLN902 | All247images/JPCLN902.IMG | unknown-JPCLN902 |     | F   | 1 | 30 | 614  | 1090 | r.lower lobe (S6) inflammatory mass | 1
        JPCLN903 | All247images/JPCLN903.IMG | unknown-JPCLN903 | 7   | F   | 3 | 8  | 1303 | 447  | l.upper lobe(S1+2) tuberculoma      | 1
        JPCNN901 | All247images/JPCNN901.IMG | unknown-JPCNN901 | 62  | M   |   |    |      |      |                                     | 0
        JPCNN902 | All247images/JPCNN902.IMG | unknown-JPCNN902 | 8   | F   |   |    |      |      |                                     | 0
        """  # noqa: E501
    )
    assert clean(result, without_patient=5)
    malignant = scanned(tmp_path, "jsrt", "malignancy").columns
    assert dict(zip(malignant["image_id"], malignant["Malignant Nodule"], strict=True)) == {
        "JPCLN901": "1",
        **dict.fromkeys(["JPCLN902", "JPCLN903", "JPCNN901", "JPCNN902"], "0"),
    }


def test_half_of_jsrt(tmp_path: Path) -> None:
    films.jsrt(tmp_path)
    film = tmp_path / "All247images" / "JPCLN902.IMG"
    with open(film, "r+b") as file:
        file.truncate(100_000)
    (tmp_path / "All247images" / "JPCLN903.IMG").unlink()
    (tmp_path / "All247images" / "notes.IMG").write_bytes(bytes(2 * 2048 * 2048))
    result = scanned(tmp_path, "jsrt")
    assert result.not_found == 2
    assert [(path, why.split(";")[0]) for path, why in result.skipped] == [
        ("All247images/JPCLN902.IMG", "the raw image ends early, after 100,000 bytes"),
        ("All247images/notes.IMG", "its path does not match the recipe's image_id"),
    ]
    shutil.rmtree(tmp_path / "Clinical_Information")
    said = refused(tmp_path, "jsrt")
    assert said.startswith("HERE: 2 of the 2 tables of JSRT Digital Image Database are missing (nodules: CLNDAT_EN.")
    assert "; others: CNNDAT_EN." in said


# ChestX-Det


def test_chestx_det(tmp_path: Path) -> None:
    films.chestx_det(tmp_path)
    result = scanned(tmp_path, "chestx-det")
    findings = list(result.columns)[4:]
    assert ",".join(findings) == (
        "Atelectasis,Calcification,Cardiomegaly,Consolidation,Diffuse Nodule,Effusion,Emphysema,Fibrosis,Fracture,"
        "Mass,Nodule,Pleural Thickening,Pneumothorax"
    )
    found = {"90002": {"Effusion", "Diffuse Nodule"}, "80001": {"Pleural Thickening"}}
    rows = [
        [own, f"{part}_data/{own}.png", f"unknown-{own}", part, *(str(int(f in found.get(own, ()))) for f in findings)]
        for own, part in (("80001", "test"), ("80002", "test"), ("90001", "train"), ("90002", "train"))
    ]
    assert table(result.columns) == [["image_id", "path", "patient_id", "split", *findings], *rows]
    masks = [read_mask(mask) for mask in result.boxes.pop("mask")]
    assert table(result.boxes) == cells(
        """
        image_id | finding            | x   | y   | width | height
        80001    | Pleural Thickening | 5   | 6   | 2     | 2
        90002    | Diffuse Nodule     | 0   | 0   | 1021  | 1023
        90002    | Effusion           | 10  | 20  | 20    | 25
        90002    | Effusion           | 799 | 666 | 138   | 95
        """
    )
    assert clean(result, without_patient=4)
    # In the order of the images: each pixel of a rectangle, lines and corners too; a triangle's three sides.
    expected = np.zeros((4, 1024, 1024), bool)
    expected[0, 6:9, 5:8] = expected[1, 666:762, 799:938] = expected[3, :, :1022] = True
    np.testing.assert_array_equal(np.stack(masks)[[0, 1, 3]], expected[[0, 1, 3]])
    for y in range(20, 46):
        right = 10 + 20 * (45 - y) / 25
        assert masks[2][y, 10 : int(right) + 1].all()
        assert not masks[2][y, int(right) + 2 :].any()
    assert masks[2].sum() == masks[2][20:46, 10:31].sum()


@pytest.mark.parametrize(
    ("outlines", "why"),
    [
        ([[[1, 2], [3, 4]]], "an outline that is no list of three points or more: '[[1, 2], [3, 4]]'"),
        ([[[1, 2], [3, 4], [5]]], "an outline that is no list of three points or more: '[[1, 2], [3, 4], [5]]'"),
        ([[[1, 2], [3, 4], [1024, 4]]], "an outline that does not fit 1024 x 1024 pixels"),
        ([[[1, 2], [3, -4], [5, 4]]], "an outline that does not fit 1024 x 1024 pixels"),
        ([[[1, 2], [3, "x"], [5, 4]]], "a box with 'x' for a number"),
        ([films.TRIANGLE, films.TRIANGLE], "2 outlines and 1 box in one row"),
    ],
)
def test_outlines_that_are_none(tmp_path: Path, outlines: list[object], why: str) -> None:
    films.chestx_det(tmp_path)
    rows = [{"file_name": "80001.png", "syms": ["Mass"], "boxes": [[5, 6, 7, 8]], "polygons": outlines}]
    text(tmp_path / "ChestX_Det_test.json", json.dumps(rows))
    assert scanned(tmp_path, "chestx-det").problems == [f"test_data/80001.png: {why}"]


def test_chestx_det_that_is_not_as_published(tmp_path: Path) -> None:
    films.chestx_det(tmp_path)
    path = tmp_path / "ChestX_Det_train.json"
    rows = json.loads(path.read_text())
    text(path, json.dumps([*rows, {**rows[0], "syms": ["Broken Rib"], "file_name": "90003.png"}]))
    assert "the recipe does not know the finding 'Broken Rib'" in refused(tmp_path, "chestx-det")
    rows[1]["boxes"] = rows[1]["boxes"][:2]
    text(path, json.dumps(rows))
    problem = "train_data/90002.png: 3 findings and 2 boxes in one row"
    assert scanned(tmp_path, "chestx-det").problems == [problem]
    text(path, json.dumps([{"image": row["file_name"], "labels": row["syms"]} for row in rows]))
    (tmp_path / "ChestX_Det_test.json").unlink()
    said = refused(tmp_path, "chestx-det")
    columns = "no column 'file_name' and none 'syms' and none 'boxes' and none 'polygons' in ChestX_Det_train.json"
    assert said.endswith(f"\n  {columns}: another version?")
    text(path, json.dumps(rows)[:-10])
    assert refused(tmp_path, "chestx-det").startswith("ChestX_Det_train.json: cannot be read as a table (")


# All of them

INSIDE = {("tbx11k", "shenzhen"), ("tbx11k", "montgomery")}  # TBX11K has their images among its own


@pytest.mark.parametrize("name", MAKERS)
def test_a_folder_is_recognised_and_is_not_another_data_set(tmp_path: Path, name: str) -> None:
    MAKERS[name](tmp_path)
    guess = guess_recipe(tmp_path)
    assert guess is not None
    assert guess.recipe.name == name
    for other in MAKERS:
        if other != name and (name, other) not in INSIDE:
            said = refused(tmp_path, other)
            assert len(said.splitlines()) <= 2
            assert ("missing" in said or "is there; " in said) == (f"it is {guess.recipe.title}: `recipe=" in said)
            assert "it is " in said or "no radiograph found" in said


@pytest.mark.parametrize("name", MAKERS)
def test_a_recipe_says_where_it_is_from(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.source.startswith("http")
    assert all([recipe.licence, recipe.terms, recipe.citation, recipe.blank, recipe.public_ids])
    assert all(labels.about for labels in recipe.labels.values())


@pytest.mark.parametrize("name", MAKERS)
def test_one_command_writes_a_manifest_that_reads(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "data"
    MAKERS[name](folder)
    done = run_cli("manifest", "scan", str(folder), "--recipe", name, "--out", str(folder / "m.csv"))
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(f"terms of {load_recipe(name).title}: ") == 1
    manifest = read_manifest(folder / "m.csv")
    assert len(manifest) == len(scanned(folder, name))
    assert (folder / "m.boxes.csv").exists() == bool(scanned(folder, name).boxes)


# Run lengths


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_relative_runs_give_the_mask_that_a_loop_paints(rows: int, columns: int, data: st.DataObject) -> None:
    pixels = data.draw(st.lists(st.booleans(), min_size=rows * columns, max_size=rows * columns))
    mask = np.array(pixels).reshape(columns, rows).T
    runs = challenges.relative_runs(mask)
    found = list(_of_runs(runs or "-1", Runs(column="runs", rows=rows, columns=columns)))
    if not mask.any():
        assert found == []
        return
    painted, at = np.zeros(rows * columns, bool), 0
    numbers = [int(number) for number in runs.split()]
    for passed, marked in zip(numbers[::2], numbers[1::2], strict=True):
        painted[at + passed : at + passed + marked] = True
        at += passed + marked
    np.testing.assert_array_equal(read_mask(found[0]["mask"]), painted.reshape(columns, rows).T)
    np.testing.assert_array_equal(read_mask(found[0]["mask"]), mask)
    left, upper, width, height = (int(found[0][name]) for name in ("x", "y", "width", "height"))
    inside = np.zeros_like(mask)
    inside[upper : upper + height, left : left + width] = True
    assert not (mask & ~inside).any()
    edges = [mask[upper], mask[upper + height - 1], mask[:, left], mask[:, left + width - 1]]
    assert all(edge.any() for edge in edges)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 11), st.integers(0, 8)), min_size=3, max_size=8))
def test_an_outline_is_drawn_alike_wherever_it_lies(points: list[tuple[int, int]]) -> None:
    """The whole picture's polygon as Pillow draws it, though only what is around it is drawn."""
    picture = Image.new("L", (12, 9))
    ImageDraw.Draw(picture).polygon(points, fill=1, outline=1)
    mask = read_mask(_of_outline(json.dumps(points), Outlines(column="polygons", rows=9, columns=12)))
    np.testing.assert_array_equal(mask, np.asarray(picture, bool))
    assert all(mask[y, x] for x, y in points)
