"""BRAX 1.1.0: a tree of PNG files, the same of DICOM files, one table."""

from __future__ import annotations

from pathlib import Path

from lookalikes import CHEXPERT, Cells, dicom, findings, picture, plain, table

# The table has these two the other way round than CheXpert's.
FINDINGS = [*CHEXPERT[:3], "Lung Lesion", "Lung Opacity", *CHEXPERT[5:]]
HEADER = [
    "",
    "DicomPath",
    "PngPath",
    "PatientID",
    "PatientSex",
    "PatientAge",
    "AccessionNumber",
    "StudyDate",
    *FINDINGS,
]
HEADER += ["ViewPosition", "Rows", "Columns", "Manufacturer"]

# Where it lies below images/ or Anonymized_DICOMs/; patient, sex, age, study, date, view as published; age and date as
# they have to come out; labels.
IMAGES = [
    (
        *("id_aaaa-01/Study_77.1/Series_5.1/image-9.1", "aaaa-01", "M", "60", "11111", "20080115", "PA", "60"),
        *("2008-01-15", findings(FINDINGS, No_Finding="1.0")),
    ),
    (
        *("id_aaaa-01/Study_77.1/Series_5.2/image-9.1", "aaaa-01", "M", "60", "11111", "20080115", "LL", "60"),
        *("2008-01-15", findings(FINDINGS, No_Finding="1.0")),
    ),
    (
        *("id_bbbb-02/Study_78.1/Series_6.1/image-9.3", "bbbb-02", "F", "85 or more", "22222", "20101231", "AP", "85"),
        *("2010-12-31", findings(FINDINGS, Lung_Opacity="1.0", Lung_Lesion="0.0", Edema="-1.0")),
    ),
    (
        *("id_cccc-03/Study_79.1/Series_7.1/image-9.4", "cccc-03", "O", "", "33333", "20101231", "", ""),
        *("2010-12-31", findings(FINDINGS)),
    ),
]


def write(root: Path, *, suffix: str = "png") -> Path:
    """The data set, as `png` or `dcm`."""
    rows = []
    for number, (place, patient, sex, age, study, date, view, _, _, labels) in enumerate(IMAGES):
        if suffix == "png":
            picture(root / "images" / f"{place}.png")
        else:
            dicom(root / "Anonymized_DICOMs" / f"{place}.dcm", PatientID=patient, PatientAge="001Y", PatientSex="F")
        row = [str(number), f"Anonymized_DICOMs/{place}.dcm", f"images/{place}.png", patient, sex, age, study, date]
        rows.append([*row, *labels.values(), view, "2500", "2048", "1"])
    table(root / "master_spreadsheet_update.csv", HEADER, rows)
    return root


def expected(*, suffix: str = "png") -> Cells:
    """The cells of a scan: a DICOM header's are not taken, where the table has its own."""
    folder = "images" if suffix == "png" else "Anonymized_DICOMs"
    return {
        f"{folder}/{place}.{suffix}": {
            "image_id": place,
            "patient_id": f"brax-{patient}",
            "study_id": study,
            "study_date": date,
            "view": view,
            "age": age,
            "sex": sex,
            **plain(labels),
        }
        for place, patient, sex, _, study, _, view, age, date, labels in IMAGES
    }
