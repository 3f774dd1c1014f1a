"""PadChest: 16-bit PNG files in numbered folders or in one, and a packed table with lists in its cells."""

from __future__ import annotations

from pathlib import Path

from lookalikes import Cells, Row, named, picture, table

HEADER = [
    "",
    "ImageID",
    "ImageDir",
    "StudyDate_DICOM",
    "StudyID",
    "PatientID",
    "PatientBirth",
    "PatientSex_DICOM",
    "ViewPosition_DICOM",
    "Projection",
    "MethodProjection",
    "Pediatric",
    "Modality_DICOM",
    "Manufacturer_DICOM",
    "PhotometricInterpretation_DICOM",
    "PixelRepresentation_DICOM",
    "PixelAspectRatio_DICOM",
    "SpatialResolution_DICOM",
    "BitsStored_DICOM",
    "WindowCenter_DICOM",
    "WindowWidth_DICOM",
    "Rows_DICOM",
    "Columns_DICOM",
    "XRayTubeCurrent_DICOM",
    "Exposure_DICOM",
    "ExposureInuAs_DICOM",
    "ExposureTime",
    "RelativeXRayExposure_DICOM",
    "ReportID",
    "Report",
    "MethodLabel",
    "Labels",
    "Localizations",
    "LabelsLocalizationsBySentence",
    "labelCUIS",
    "LocalizationsCUIS",
]

# Name, folder, date, born, sex, projection, method, labels as published; date, age, view as they have to come out; the
# findings that are there by name, those that these imply besides, and whether the others are known to be absent.
IMAGES = [
    (
        "1_a.png",
        "0",
        "20140915",
        "1930.0",
        "M",
        "PA",
        "Physician",
        "['normal']",
        "2014-09-15",
        "84",
        "PA",
        [],
        [],
        True,
    ),
    (
        *("2_b.png", "1", "20150102", "1930.0", "M", "L", "RNN_model"),
        *("['loculated pleural effusion', ' cardiomegaly', 'unchanged', '']", "2015-01-02", "85", "L"),
        *(["loculated pleural effusion", "cardiomegaly"], ["pleural effusion"], True),
    ),
    (
        *("3_c.png", "2", "20091231", "2009", "F", "AP_horizontal", "Physician", "['air bronchogram', 'goiter']"),
        *("2009-12-31", "0", "AP_horizontal", ["air bronchogram", "goiter"]),
        *(
            [
                "consolidation",
                "alveolar pattern",
                "infiltrates",
                "superior mediastinal enlargement",
                "mediastinal enlargement",
            ],
            True,
        ),
    ),
    (
        *("4_d.png", "54", "20100101", "", "", "AP", "RNN_model", "['calcified granuloma', 'COPD signs']"),
        *("2010-01-01", "", "AP", ["calcified granuloma", "COPD signs"], ["calcified densities", "granuloma"], True),
    ),
    (
        "5_e.png",
        "3",
        "20100101",
        "1950.0",
        "F",
        "COSTAL",
        "Physician",
        "['exclude']",
        "2010-01-01",
        "60",
        "COSTAL",
        [],
        [],
        False,
    ),
    (
        *("6_f.png", "3", "20100101", "1950.0", "F", "EXCLUDE", "Physician", "['suboptimal study', 'pneumonia']"),
        *("2010-01-01", "60", "", [], [], False),
    ),
    (
        "7_g.png",
        "3",
        "20100101",
        "1950.0",
        "O",
        "UNK",
        "Physician",
        "['unchanged']",
        "2010-01-01",
        "60",
        "",
        [],
        [],
        False,
    ),
    ("8_h.png", "3", "20100101", "1950.0", "F", "PA", "RNN_model", "", "2010-01-01", "60", "PA", [], [], False),
    ("9_i.png", "3", "20100101", "1950.0", "F", "PA", "RNN_model", "[]", "2010-01-01", "60", "PA", [], [], False),
]


def write(root: Path, *, flat: bool = False) -> Path:
    """The data set."""
    rows = []
    for number, (name, folder, date, born, sex, view, method, labels, *_) in enumerate(IMAGES):
        picture(root / ("images" if flat else folder) / name, bits=16)
        row = dict.fromkeys(HEADER, "") | {
            "": str(number),
            "ImageID": name,
            "ImageDir": folder,
            "StudyDate_DICOM": date,
            "StudyID": f"{number}99",
            "PatientID": patient_of(number),
            "PatientBirth": born,
            "PatientSex_DICOM": sex,
            "ViewPosition_DICOM": "POSTEROANTERIOR",
            "Projection": view,
            "MethodProjection": "Manual review of DICOM fields",
            "Pediatric": "No",
            "Report": 'made up , with a comma and "quotes" .',
            "MethodLabel": method,
            "Labels": labels,
            "Localizations": "['loc right', 'loc basal']",
        }
        rows.append(list(row.values()))
    table(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv.gz", HEADER, rows)
    return root


def patient_of(number: int) -> str:
    """Longer than a number of 64 bits, as published; two images each."""
    return f"83986048869429433163798823568146{number // 2:04d}"


def expected(names: list[str], *, flat: bool = False, tree: bool = True) -> Cells:
    """The cells of a scan."""
    cells: Cells = {}
    for number, image in enumerate(IMAGES):
        name, folder, _, _, sex, _, method, _, date, age, view, there, implied, known = image
        labels: Row = named(names, [*there, *(implied if tree else [])], "0" if known else "")
        cells[f"{'images' if flat else folder}/{name}"] = {
            "image_id": name.removesuffix(".png"),
            "patient_id": f"padchest-{patient_of(number)}",
            "study_id": f"{number}99",
            "study_date": date,
            "view": view,
            "age": age,
            "sex": sex,
            "label_method": method,
            **labels,
        }
    return cells
