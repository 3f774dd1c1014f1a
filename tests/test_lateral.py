"""Lateral views are told by headers and by the column `view`: in manifests, runs, searches and montages."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_cli
from index_world import make_index
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from test_dicom import dicom

from cxr_embed.images import read_dicom_header, read_image
from cxr_embed.pipeline.embedding import embed
from cxr_embed.reporting.panels import describe_case
from cxr_embed.types import is_lateral


@pytest.mark.parametrize(
    "view", ["L", "LL", "rl", "LAT", "LLAT", "Lateral", "XTABLE LATERAL", "CHEST_LAT", "left lateral"]
)
def test_lateral(view: str) -> None:
    assert is_lateral(view)


@pytest.mark.parametrize(
    "view", ["", "PA", "AP", "AP AXIAL", "LLD", "AP LLD", "left lateral decubitus", "LAO", "Bilateral", "Laterality L",
             "CHEST PORTABLE", "Dr. Latham"],
)  # fmt: skip
def test_not_lateral(view: str) -> None:
    assert not is_lateral(view)


def code(meaning: str) -> Sequence:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", meaning
    return Sequence([item])


@pytest.mark.parametrize(
    ("fields", "view"),
    [
        ({"ViewPosition": "LL"}, "LL"),
        ({"SeriesDescription": "Chest lat. MEIER ANNA"}, "LATERAL"),
        ({"ProtocolName": "THORAX LATERAL"}, "LATERAL"),
        ({"AcquisitionDeviceProcessingDescription": "CHEST,LAT"}, "LATERAL"),
        ({"ViewCodeSequence": code("left lateral")}, "LATERAL"),
        ({"ViewPosition": "PA", "SeriesDescription": "LATERAL"}, "PA"),  # the field that is meant for it counts
        ({"SeriesDescription": "Chest PA and lateral"}, ""),  # a study of two views
        ({"SeriesDescription": "left lateral decubitus"}, ""),
        ({"ViewCodeSequence": code("postero-anterior")}, ""),
        ({"SeriesDescription": "CHEST MEIER ANNA"}, ""),
    ],
)
def test_what_a_header_tells(fields: dict[str, Any], view: str, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4096, (96, 96), dtype=np.uint16)
    (tmp_path / "a.dcm").write_bytes(dicom(pixels, 12, **fields))
    assert read_dicom_header(tmp_path / "a.dcm", None)[0].view == view
    image = read_image(tmp_path / "a.dcm")
    assert image.fields.view == view
    assert ("lateral" in image.notes) == is_lateral(view)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images: a lateral by its header, one by the manifest, and a frontal."""
    rng = np.random.default_rng(1)
    lines = ["image_id,path,patient_id,view"]
    for name, header, view in (("a", "LATERAL", ""), ("b", "", "Lateral"), ("c", "", "PA")):
        pixels = rng.integers(0, 4096, (96, 96), dtype=np.uint16)
        (tmp_path / f"{name}.dcm").write_bytes(dicom(pixels, 12, ViewPosition=header, PatientID=name))
        lines.append(f"{name},{name}.dcm,{name},{view}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


def test_a_run_says_what_its_encoder_never_saw(folder: Path) -> None:
    made = embed(folder / "manifest.csv", "mini", folder / "mini", workers=1)
    assert made.odd_files["lateral"] == ["a", "b"]
    assert any(note.startswith("mini was trained on frontal views") for note in made.notes)
    made = embed(folder / "manifest.csv", "hog", folder / "hog", workers=1)
    assert made.odd_files["lateral"] == ["a", "b"]
    assert not any("frontal" in note for note in made.notes)


def test_manifests_say_it(folder: Path) -> None:
    done = run_cli("manifest", "validate", "manifest.csv", cwd=folder)
    assert done.returncode == 0
    assert "note: 1 lateral view: mini and cxr-foundation were trained on frontal ones" in done.stderr
    assert (
        json.loads(run_cli("manifest", "validate", "manifest.csv", "--json", cwd=folder).stdout)["lateral_views"] == 1
    )
    done = run_cli("manifest", "scan", ".", "--out", "scanned.csv", "--json", cwd=folder)
    assert json.loads(done.stdout)["lateral_views"] == 1


def test_search_and_montage_say_it(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((4, 6))
    make_index(tmp_path, values, columns={"view": ["PA", "LATERAL", "LL", ""]})
    done = run_cli("search", str(tmp_path / "index"), "--image-id", "c0", "-k", "3")
    assert "note: 2 lateral views among these cases (" in done.stdout
    lines = describe_case({"image_id": "c1", "view": "LATERAL", "age": 48.0})
    assert "LATERAL \N{MIDDLE DOT} 48 years" in lines
