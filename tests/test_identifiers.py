"""What a header says of a person or an order never comes into an image id, however a path spells it."""

from __future__ import annotations

import re
from pathlib import Path

import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.sequence import Sequence
from test_datasets import KEY, by_path, dicom, png, scan

from cxr_embed.datasets import scan as run
from cxr_embed.datasets.recipe import Recipe
from cxr_embed.images.identifiers import Identifiers, read_identifiers, revealing_parts

TAGS = {
    "SpecificCharacterSet": "ISO_IR 192",
    "PatientName": "Müller-Groß^Ana María",
    "PatientBirthDate": "19700312",
    "AccessionNumber": "ACC-0098765",
    "OtherPatientIDs": ["PX4451", "77-31-22"],
    "ReferringPhysicianName": "O'Brien^Søren",
    "StudyID": "ST771",
    "AdmissionID": "ADM4410",
    "StudyInstanceUID": "1.2.840.113619.2.5.1762583153",
}


def header(path: Path) -> Path:
    dicom(path, "MRN 0012345", **TAGS)
    dataset = pydicom.dcmread(path)
    item = pydicom.Dataset()
    item.RequestedProcedureID, item.RequestingPhysician = "RP5567", "Kowalska^Łucja"
    dataset.RequestAttributesSequence = Sequence([item])
    dataset.save_as(path)
    return path


TELLING = [
    "mueller/a.dcm",
    "MULLER/a.dcm",
    "Müller-Groß/a.dcm",
    "gross_ana/a.dcm",
    "AnaMaria.dcm",
    "ana-maria.dcm",
    "anamaria.dcm",
    "1970-03-12/a.dcm",
    "12031970.dcm",
    "x19700312y.dcm",
    "12-Mar-1970/a.dcm",
    "March 12, 1970/a.dcm",
    "3.12.70.dcm",
    "1970/03/12/a.dcm",
    "ACC0098765.dcm",
    "acc_00 98765/a.dcm",
    "98765.dcm",
    "px-4451/a.dcm",
    "77_31_22/a.dcm",
    "obrien/a.dcm",
    "soren_o_brien.dcm",
    "st771/a.dcm",
    "ADM-4410.dcm",
    "1_2_840_113619_2_5_1762583153.dcm",
    "MRN-0012345.dcm",
    "mrn0012345/a.dcm",
    "pat12345/a.dcm",
    "rp.5567.dcm",
    "Lucja Kowalska.dcm",
]


@pytest.mark.parametrize("path", TELLING)
def test_a_path_that_tells_gets_a_neutral_id(tmp_path: Path, path: str) -> None:
    header(tmp_path / "set" / path)
    (image_id,) = scan(tmp_path / "set").columns["image_id"]
    assert image_id.startswith("img-")
    assert scan(tmp_path / "set", None).columns["image_id"] == [path.removesuffix(".dcm")]


@pytest.mark.parametrize("path", ["study1/IM0001.dcm", "chest/PA_2.dcm", "anatomy/marian.dcm"])
def test_a_path_that_tells_nothing_stays_readable(tmp_path: Path, path: str) -> None:
    header(tmp_path / path)
    assert scan(tmp_path).columns["image_id"] == [path.removesuffix(".dcm")]


def test_a_header_speaks_for_the_other_files_of_its_folder_and_name(tmp_path: Path) -> None:
    header(tmp_path / "ward" / "Mueller" / "x.dcm")
    png(tmp_path / "ward" / "Mueller" / "deep" / "photo.png")
    header(tmp_path / "MRN0012345.dcm")
    png(tmp_path / "MRN0012345.png", 1)
    png(tmp_path / "ward" / "other.png", 2)
    ids = by_path(scan(tmp_path), "image_id")
    assert [path for path, image_id in ids.items() if not image_id.startswith("img-")] == ["ward/other.png"]
    assert len(set(ids.values())) == 5


def of_paths(image_id: str) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "mine",
            "title": "Mine",
            "licence": "mine",
            "images": ["**/*.png", "**/*.dcm"],
            "columns": {"image_id": {"path": image_id}, "patient_id": {"path": r"patient(\w+)/.*", "prefix": "p-"}},
        }
    )


def test_a_patient_whom_a_recipe_takes_from_the_path_is_hashed(tmp_path: Path) -> None:
    png(tmp_path / "patient7" / "a.png")
    png(tmp_path / "patient7" / "b.png", 1)
    header(tmp_path / "patient00012" / "c.dcm")  # its header is looked at, though no column comes from it
    result = run(tmp_path, of_paths(r"(.*)\.\w+"), patient_key=KEY)
    assert len(set(result.columns["patient_id"])) == 2
    assert all(re.fullmatch("p-[0-9a-f]{16}", patient) for patient in result.columns["patient_id"])
    assert all(image_id.startswith("img-") for image_id in result.columns["image_id"])
    kept = run(tmp_path, of_paths(r"(.*)\.\w+"), patient_key=None)
    assert kept.columns["patient_id"] == ["p-00012", "p-7", "p-7"]
    assert kept.columns["image_id"] == ["patient00012/c", "patient7/a", "patient7/b"]
    assert kept.neutral == 0


def test_identifiers_do_not_print_themselves(tmp_path: Path) -> None:
    assert "Anna" not in repr(Identifiers(names={"Anna"}, ids={"Anna"}))
    assert not any(value in repr(read_identifiers(header(tmp_path / "a.dcm"))) for value in ("1234", "ller", "1970"))


def test_the_shortest_part_of_a_path_that_tells() -> None:
    found = Identifiers(ids={"12-345678"})
    assert revealing_parts("a/b.dcm", found) == 0
    assert revealing_parts("12345678/b/c.dcm", found) == 1
    assert revealing_parts("a/12/345678/c.dcm", found) == 3
    assert revealing_parts("a/b/x12_345678.dcm", found) == 3


@given(st.from_regex(r"[A-Z]{0,3}[0-9]{5,9}", fullmatch=True), st.data())
def test_an_id_is_found_however_it_is_taken_apart(identifier: str, data: st.DataObject) -> None:
    cuts = [data.draw(st.sampled_from(["", "-", "_", " ", ".", "/"])) for _ in identifier]
    spelled = "".join(cut + letter for cut, letter in zip(cuts, identifier, strict=True))
    before, after = data.draw(st.sampled_from(["", "x", "ward/", "im-"])), data.draw(st.sampled_from(["", "_1", "/a"]))
    text = before + data.draw(st.sampled_from([spelled, spelled.lower(), spelled.upper()])) + after
    assert Identifiers(ids={identifier}).in_text(text)
