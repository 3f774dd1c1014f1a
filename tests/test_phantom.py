"""Phantoms: the same seed gives the same chest, and what the truth says is what the pixels show."""

from __future__ import annotations

import csv
import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from helpers import run_cli
from PIL import Image
from pydicom import dcmread

from cxr_embed.errors import CxrEmbedError
from cxr_embed.images import read_image
from cxr_embed.manifest import read_manifest
from cxr_embed.phantom import (
    DEVICES,
    FINDINGS,
    Phantom,
    PhantomFinding,
    Study,
    render,
    render_study,
    sample_finding,
    sample_patient,
    sample_studies,
    write_phantoms,
)
from cxr_embed.phantom import writing as files
from cxr_embed.phantom.findings import FOCAL
from cxr_embed.phantom.physics import BEAMS, enlarge, expose, shrink
from cxr_embed.phantom.writing import boxes

SIZE = 128


def some(name: str, severity: float = 0.6, seed: int = 4) -> PhantomFinding:
    """A finding of a given severity."""
    return dataclasses.replace(sample_finding(name, np.random.default_rng(seed)), severity=severity)


def width(mask: np.ndarray) -> int:
    """Columns from the first to the last one that a mask touches."""
    columns = np.flatnonzero(mask.any(axis=0))
    return int(columns[-1] - columns[0] + 1)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def measured_ctr(phantom: Phantom) -> float:
    """The heart's width over the inner chest's, both read from the masks as a reader would."""
    return width(phantom.heart) / width(phantom.lungs)


# one phantom


def test_same_seeds_give_the_same_pixels_and_others_do_not() -> None:
    finding = some("Edema")
    first, again = (render(sample_patient(3), [finding], "AP", size=SIZE, seed=8) for _ in range(2))
    assert np.array_equal(first.pixels, again.pixels)
    assert np.array_equal(first.masks["Edema"], again.masks["Edema"])
    for other in (
        render(sample_patient(4), [finding], "AP", size=SIZE, seed=8),
        render(sample_patient(3), [finding], "AP", size=SIZE, seed=9),
        render(sample_patient(3), [finding], "PA", size=SIZE, seed=8),
    ):
        assert not np.array_equal(first.pixels, other.pixels)


@pytest.mark.parametrize("size", [64, 100, 256])
def test_pixels_are_12_bits_and_use_them(size: int) -> None:
    phantom = render(sample_patient(1), size=size)
    assert phantom.pixels.shape == (size, size)
    assert phantom.pixels.dtype == np.uint16
    assert phantom.pixels.max() <= 4095
    assert np.percentile(phantom.pixels, 97) > 3000
    assert np.percentile(phantom.pixels, 2) < 400


@pytest.mark.parametrize("view", ["PA", "AP"])
@pytest.mark.parametrize("seed", range(3))
def test_lungs_are_dark_and_the_heart_is_bright(view: str, seed: int) -> None:
    phantom = render(sample_patient(seed), (), view, size=SIZE, seed=seed)  # type: ignore[arg-type]
    only_lungs = phantom.lungs & ~phantom.heart
    assert 0.12 < only_lungs.mean() < 0.5
    assert phantom.pixels[only_lungs].mean() + 800 < phantom.pixels[phantom.heart].mean()


def test_the_same_patient_keeps_an_anatomy_from_study_to_study() -> None:
    def outline(patient: int, seed: int) -> float:
        return measured_ctr(render(sample_patient(patient), size=SIZE, seed=seed))

    own = [outline(5, seed) for seed in range(4)]
    others = [outline(patient, 0) for patient in range(12)]
    assert np.std(own) < 0.5 * np.std(others)


# findings


@pytest.mark.parametrize("view", ["PA", "AP"])
@pytest.mark.parametrize("name", FINDINGS)
def test_a_finding_shows_where_its_mask_is_and_hardly_elsewhere(name: str, view: str) -> None:
    finding = some(name)
    patient = sample_patient(11)
    clean = render(patient, (), view, size=SIZE, seed=2)  # type: ignore[arg-type]
    ill = render(patient, [finding], view, size=SIZE, seed=2)  # type: ignore[arg-type]
    mask = ill.masks[name]
    change = np.abs(ill.pixels.astype(float) - clean.pixels)
    assert mask.any()
    assert change[mask].mean() > 60
    assert change[mask].mean() > 4 * change[~mask].mean()


@pytest.mark.parametrize("view", ["PA", "AP"])
@pytest.mark.parametrize("name", FINDINGS)
def test_a_finding_does_not_dim_what_lies_apart(name: str, view: str) -> None:
    # Above the shoulders nothing of it is seen, nor is what it scatters.
    apart = np.zeros((SIZE, SIZE), dtype=bool)
    apart[:12, 12:24] = apart[:12, -24:-12] = True
    for seed in range(3):
        clean = render(sample_patient(seed), (), view, size=SIZE, seed=seed)  # type: ignore[arg-type]
        ill = render(sample_patient(seed), [some(name)], view, size=SIZE, seed=seed)  # type: ignore[arg-type]
        assert abs(ill.pixels[apart].mean() - clean.pixels[apart].mean()) < 1  # of 4095


@pytest.mark.parametrize("name", ["Effusion", "Pneumothorax", "Nodule", "Mass", "Consolidation"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_side_is_the_patients(name: str, side: str) -> None:
    finding = dataclasses.replace(some(name), side=side)
    columns = np.nonzero(render(sample_patient(2), [finding], size=SIZE).masks[name])[1]
    assert (columns.mean() > SIZE / 2) == (side == "left")


@pytest.mark.parametrize(("name", "brighter"), [("Pneumothorax", False), ("Mass", True), ("Effusion", True)])
def test_air_is_darker_than_lung_and_fluid_brighter(name: str, brighter: bool) -> None:
    clean = render(sample_patient(6), size=SIZE)
    ill = render(sample_patient(6), [some(name)], size=SIZE)
    change = (ill.pixels.astype(float) - clean.pixels)[ill.masks[name]].mean()
    assert (change > 0) == brighter


@pytest.mark.parametrize("name", ["Effusion", "Pneumothorax", "Nodule", "Mass", "Consolidation", "Cardiomegaly"])
def test_a_more_severe_finding_covers_more(name: str) -> None:
    areas = [render(sample_patient(9), [some(name, s)], size=SIZE).masks[name].sum() for s in (0.05, 0.5, 0.95)]
    assert areas[0] < areas[1] < areas[2]


@pytest.mark.parametrize("view", ["PA", "AP"])
@pytest.mark.parametrize("seed", range(4))
def test_the_cardiothoracic_ratio_is_what_the_masks_show(view: str, seed: int) -> None:
    patient = sample_patient(seed)
    normal = render(patient, (), view, size=256, seed=seed)  # type: ignore[arg-type]
    large = render(patient, [some("Cardiomegaly", 0.1 + 0.2 * seed)], view, size=256, seed=seed)  # type: ignore[arg-type]
    for phantom in (normal, large):
        assert measured_ctr(phantom) == pytest.approx(phantom.ctr, abs=0.025)
    assert normal.ctr < 0.55 < large.ctr


@pytest.mark.parametrize(("name", "low", "high"), [("Nodule", 5, 30), ("Mass", 30, 90)])
def test_a_nodule_has_at_most_3_cm_and_a_mass_more(name: str, low: float, high: float) -> None:
    for severity in (0.0, 0.5, 1.0):
        finding = dataclasses.replace(some(name, severity), across=0.5, down=0.4)
        assert low <= finding.diameter_mm <= high
        phantom = render(sample_patient(2), [finding], size=SIZE)
        across = width(phantom.masks[name]) * phantom.pixel_mm
        # The detector shows it enlarged, by some 10%, and its outline is not a circle.
        assert finding.diameter_mm * 0.8 < across < finding.diameter_mm * 1.5


@pytest.mark.parametrize("kind", DEVICES)
def test_every_device_is_seen_in_both_views(kind: str) -> None:
    finding = dataclasses.replace(some("Support Devices"), kind=kind, side="left")
    for view in ("PA", "AP"):
        clean = render(sample_patient(7), (), view, size=SIZE)  # type: ignore[arg-type]
        ill = render(sample_patient(7), [finding], view, size=SIZE)  # type: ignore[arg-type]
        mask = ill.masks["Support Devices"]
        assert mask.sum() > 30
        assert (ill.pixels.astype(float) - clean.pixels)[mask].mean() > 40


def test_an_unknown_finding_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'Hernia' is not a finding of a phantom; there are Cardiomegaly"):
        sample_finding("Hernia", np.random.default_rng(0))


# physics


def test_rays_follow_beer_and_lambert_where_nothing_scatters() -> None:
    beam = dataclasses.replace(BEAMS["PA"], scatter=0.0)
    thick = np.linspace(0, 5, 64, dtype=np.float32)[None, :].repeat(64, axis=0)
    assert expose(thick, beam, 1.0) == pytest.approx(thick, abs=1e-4)


def test_scatter_veils_what_is_dense_most() -> None:
    thick = np.full((128, 128), 1.5, np.float32)
    thick[:, 64:] = 4.0
    lost = thick - expose(thick, BEAMS["AP"], 3.0)
    assert (lost >= 0).all()
    assert lost[64, 96] > 2 * lost[64, 16]


def test_noise_falls_with_the_number_of_quanta() -> None:
    thick = np.full((128, 128), 2.0, np.float32)
    few, many = (
        expose(thick, dataclasses.replace(BEAMS["PA"], scatter=0.0, quanta=quanta), 0.5, np.random.default_rng(0)).std()
        for quanta in (1e5, 4e5)
    )
    expected = 1 / np.sqrt(1e5 * 0.25 * np.exp(-2))
    assert few == pytest.approx(expected, rel=0.05)
    assert few == pytest.approx(2 * many, rel=0.05)


@pytest.mark.parametrize("size", [64, 100, 130])
def test_a_smooth_image_survives_being_made_small(size: int) -> None:
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    smooth = np.sin(3 * x) + np.cos(2 * y)
    assert enlarge(shrink(smooth, 1), size) == pytest.approx(smooth, abs=1e-5)
    assert np.abs(enlarge(shrink(smooth, 4), size) - smooth).mean() < 0.06


# cohorts


def test_findings_go_with_nothing_but_chance() -> None:
    studies = sample_studies(3000, seed=1)
    table = np.array([[f in {g.name for g in s.findings} for f in FINDINGS] for s in studies], dtype=float)
    traits = np.array([[s.view == "PA", s.patient.sex == "M", s.age, s.split == "test"] for s in studies], dtype=float)
    between = np.corrcoef(np.hstack([table, traits]).T)[: len(FINDINGS)]
    between[:, : len(FINDINGS)][np.eye(len(FINDINGS), dtype=bool)] = 0
    assert np.abs(between).max() < 0.1
    assert table.mean(axis=0) == pytest.approx(0.15, abs=0.035)


@pytest.mark.parametrize(("confounding", "expected"), [(0.0, 0.5), (0.6, 0.8), (1.0, 1.0)])
def test_the_view_goes_with_findings_where_it_is_told_to(confounding: float, expected: float) -> None:
    studies = sample_studies(1500, seed=4, confounding=confounding)
    ill = np.array([bool(study.findings) for study in studies])
    bedside = np.array([study.view == "AP" for study in studies])
    assert bedside[ill].mean() == pytest.approx(expected, abs=0.05)
    assert bedside[~ill].mean() == pytest.approx(1 - expected, abs=0.07)


def test_a_patient_has_one_split_and_studies_in_order() -> None:
    studies = sample_studies(400, seed=5)
    patients: dict[str, list[object]] = {}
    for study in studies:
        patients.setdefault(study.patient.patient_id, []).append(study)
    assert max(len(group) for group in patients.values()) == 3
    for group in patients.values():
        assert len({s.split for s in group}) == 1  # type: ignore[attr-defined]
        dates = [s.date for s in group]  # type: ignore[attr-defined]
        assert dates == sorted(set(dates))
    assert {s.split for s in studies} == {"train", "test"}


def test_a_longer_cohort_starts_like_a_shorter_one() -> None:
    assert sample_studies(30, seed=2)[:11] == sample_studies(11, seed=2)
    assert sample_studies(5, seed=2)[0] != sample_studies(5, seed=3)[0]


def test_prevalence_is_taken() -> None:
    assert not any(study.findings for study in sample_studies(50, 3, prevalence=0.0))
    assert all(len(study.findings) == len(FINDINGS) for study in sample_studies(5, 3, prevalence=1.0)[:1])


def test_what_is_labelled_in_a_cohort_can_be_seen() -> None:
    shown = []
    for study in sample_studies(60, seed=21):
        phantom = render_study(study, 128)
        shown += [phantom.masks[finding.name].sum() > 12 for finding in study.findings]
    assert len(shown) > 40
    assert np.mean(shown) > 0.95


def test_lungs_with_air_or_fluid_around_them_have_no_lesion_where_the_other_lung_is_free() -> None:
    hidden, met = 0, 0
    for study in sample_studies(2000, seed=2):
        focal = [f.side for f in study.findings if f.name in FOCAL]
        around = [f.side for f in study.findings if f.name in ("Effusion", "Pneumothorax") and f.side != "both"]
        if len(focal) == len(around) == 1:
            hidden, met = hidden + (focal == around), met + 1
    assert met > 50
    assert hidden == 0


# files


def test_png_and_dicom_hold_the_same_ranking(tmp_path: Path) -> None:
    studies = write_phantoms(tmp_path / "png", 3, seed=7, size=96)
    write_phantoms(tmp_path / "dicom", 3, seed=7, size=96, format="dicom")
    for study in studies:
        png = read_image(tmp_path / "png" / "images" / f"{study.image_id}.png")
        dicom = read_image(tmp_path / "dicom" / "images" / f"{study.image_id}.dcm")
        drawn = render_study(study, 96).pixels
        assert np.array_equal(png.pixels, drawn >> 4)
        order = np.argsort(drawn, axis=None, kind="stable")
        assert (np.diff(dicom.pixels.ravel()[order].astype(int)) >= 0).all()
        assert len(np.unique(dicom.pixels)) == len(np.unique(drawn))
        assert (dicom.fields.view, dicom.fields.sex, dicom.fields.age) == (study.view, study.patient.sex, study.age)
        assert dicom.fields.study_date == study.date


def test_dicom_files_have_what_their_class_asks_for(tmp_path: Path) -> None:
    standard = pytest.importorskip("highdicom._standard_utils", reason="this highdicom has no tables of the standard")
    (study,) = write_phantoms(tmp_path / "p", 1, size=64, format="dicom")
    dataset = dcmread(tmp_path / "p" / "images" / f"{study.image_id}.dcm")
    modules = standard.get_iod_module_map()[standard.get_sop_class_iod_map()[dataset.SOPClassUID]]
    asked = {
        (attribute["keyword"], attribute["type"])
        for module in modules
        if module["usage"] == "M"
        for attribute in standard.get_module_attribute_map()[module["key"]]
        if attribute["type"] in ("1", "2") and not attribute["path"]
    }
    assert len(asked) > 30
    assert [name for name, _ in asked if name not in dataset] == []
    assert [name for name, kind in asked if kind == "1" and dataset[name].is_empty] == []


def test_manifest_and_truth_agree_with_the_studies(tmp_path: Path) -> None:
    studies = write_phantoms(tmp_path / "p", 24, seed=1, size=96)
    manifest = read_manifest(tmp_path / "p" / "manifest.csv")
    assert manifest.findings == FINDINGS
    assert manifest.ids.tolist() == [study.image_id for study in studies]
    values = manifest.labels().values
    with open(tmp_path / "p" / "truth.csv", newline="") as file:
        truth = list(csv.DictReader(file))
    named = {(row["image_id"], row["finding"]) for row in truth}
    labelled = {
        (image, name)
        for image, row in zip(manifest.ids.tolist(), values, strict=True)
        for name, value in zip(FINDINGS, row, strict=True)
        if value
    }
    assert named == labelled
    for row in truth:
        x, y, wide, high = (int(row[key]) for key in ("x", "y", "width", "height"))
        assert 0 <= x < x + wide <= 96
        assert 0 <= y < y + high <= 96
        assert (row["grade"] == "") == (row["finding"] == "Support Devices")
        assert (row["finding"] == "Cardiomegaly") == bool(row["ctr"])
        assert (row["finding"] in ("Nodule", "Mass")) == bool(row["diameter_mm"])


@pytest.mark.parametrize("format", ["png", "dicom"])
def test_masks_are_those_that_the_phantoms_were_made_with(tmp_path: Path, format: Literal["png", "dicom"]) -> None:
    first, again, plain = (tmp_path / name for name in ("first", "again", "plain"))
    studies = write_phantoms(first, 8, seed=6, size=96, format=format, masks=True)
    write_phantoms(again, 8, seed=6, size=96, format=format, masks=True)
    write_phantoms(plain, 8, seed=6, size=96, format=format)
    expected = {}
    for study in studies:
        for name, mask in render_study(study, 96).masks.items():
            expected[f"masks/{name}/{study.image_id}.png"] = mask
    # One file for each finding that an image has, and no other.
    assert {str(path.relative_to(first)) for path in (first / "masks").rglob("*.png")} == set(expected)
    for name, mask in expected.items():
        image = Image.open(first / name)
        assert image.mode == "L"
        assert np.array_equal(np.asarray(image), mask * 255)
    assert contents(first) == contents(again)
    assert {name: data for name, data in contents(first).items() if not name.startswith("masks")} == contents(plain)


def test_a_mask_with_no_pixel_is_written_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unseen(study: Study, size: int) -> Phantom:
        phantom = render_study(study, size)
        return dataclasses.replace(phantom, masks={name: mask & False for name, mask in phantom.masks.items()})

    monkeypatch.setattr(files, "render_study", unseen)
    studies = write_phantoms(tmp_path / "p", 8, seed=6, size=64, masks=True)
    written = list((tmp_path / "p" / "masks").rglob("*.png"))
    assert len(written) == sum(len(study.findings) for study in studies) > 0
    assert not any(np.asarray(Image.open(path)).any() for path in written)


def test_boxes_hold_a_mask_and_leave_specks_out() -> None:
    mask = np.zeros((40, 40), dtype=bool)
    mask[5:15, 4:10] = mask[20:30, 25:37] = mask[39, 0] = True
    assert list(boxes(mask, "both")) == [("right", (4, 5, 6, 10)), ("left", (25, 20, 12, 10))]
    assert list(boxes(mask, "left")) == [("left", (4, 5, 33, 25))]
    assert list(boxes(np.zeros((8, 8), dtype=bool), "")) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(CxrEmbedError, match="not an empty folder; name a new one"):
        write_phantoms(tmp_path / "mine", 1, size=64)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_an_empty_folder_stays_the_one_that_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mounted").mkdir()
    (tmp_path / "link").symlink_to("mounted")
    before = (tmp_path / "mounted").stat().st_ino
    write_phantoms(tmp_path / "link", 2, size=64)
    assert (tmp_path / "mounted").stat().st_ino == before
    assert sorted(path.name for path in (tmp_path / "mounted").iterdir()) == ["images", "manifest.csv", "truth.csv"]
    # Who stands in the folder finds the images there.
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write_phantoms(".", 2, size=64)
    assert contents(Path()) == contents(tmp_path / "mounted")


@pytest.mark.parametrize("there", [False, True])
def test_a_run_that_ends_early_leaves_nothing(tmp_path: Path, there: bool) -> None:
    def stop(_: int) -> None:
        raise KeyboardInterrupt

    if there:
        (tmp_path / "p").mkdir()

    with pytest.raises(KeyboardInterrupt):
        write_phantoms(tmp_path / "p", 3, size=64, progress=stop, masks=True)
    assert list(tmp_path.rglob("*")) == [tmp_path / "p"] * there


# the verb


def test_the_verb_writes_a_data_set_that_validates(tmp_path: Path) -> None:
    told = run_cli("phantom", "p", "--count", "6", "--size", "64", "--seed", "2", "--json", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    summary = json.loads(told.stdout)
    assert summary["images"] == 6
    assert set(summary["findings"]) == set(FINDINGS)
    checked = run_cli("manifest", "validate", "p/manifest.csv", "--json", cwd=tmp_path)
    assert json.loads(checked.stdout) == {
        "images": 6,
        "patients": summary["patients"],
        "findings": list(FINDINGS),
        "lateral_views": 0,
        "problems": [],
        "linked_away": [],
        "companion": None,
        "notes": [],
    }
    again = run_cli("phantom", "p", "--count", "6", cwd=tmp_path)
    assert again.returncode == 1
    assert again.stderr == "error: p: not an empty folder; name a new one\n"


def test_the_verb_names_the_folder_of_masks(tmp_path: Path) -> None:
    told = run_cli("phantom", "p", "--count", "3", "--size", "64", "--masks", cwd=tmp_path)
    assert told.returncode == 0, told.stderr
    assert "p/masks shows it pixel by pixel: FINDING/IMAGE_ID.png" in told.stdout
    # This phantom has no finding: the folder that is named is there all the same.
    told = run_cli("phantom", "q", "--count", "1", "--seed", "1", "--size", "64", "--masks", "--json", cwd=tmp_path)
    assert not any(json.loads(told.stdout)["findings"].values())
    assert json.loads(told.stdout)["masks"] == "q/masks"
    assert list((tmp_path / "q" / "masks").iterdir()) == []


def test_a_job_that_its_batch_system_ends_leaves_nothing(tmp_path: Path) -> None:
    ended = (
        "import os, signal\n"
        "from cxr_embed.cli import main\n"
        "from cxr_embed.phantom import writing\n"
        "writing.render_study = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        "main()\n"
    )
    command = [sys.executable, "-c", ended, "phantom", "p", "--count", "6", "--size", "64"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 128 + signal.SIGTERM
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_verb_refuses_a_size_that_no_reader_takes(tmp_path: Path) -> None:
    refused = run_cli("phantom", "p", "--size", "32", cwd=tmp_path)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert not (tmp_path / "p").exists()
