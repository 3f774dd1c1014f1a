"""VinDr-CXR as PhysioNet has it (DICOM, radiologists' rows, a consensus for the test part), and as Kaggle has it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from lookalikes import Cells, Row, dicom, named, picture, table

FINDINGS = [
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
    "COPD",
    "Lung tumor",
    "Pneumonia",
    "Tuberculosis",
    "Other diseases",
    "No finding",
]
KAGGLE = [
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "No finding",
]


def image_id(number: int) -> str:
    """32 hexadecimal digits, as published."""
    return hashlib.md5(f"made up {number}".encode()).hexdigest()


# Image, part, age and sex of its header and as they have to come out, radiologist to what he names.
IMAGES: list[tuple[int, str, str, str, str, str, dict[str, list[str]]]] = [
    (0, "train", "053Y", "M", "53", "M", {"R8": ["No finding"], "R9": ["No finding"], "R10": ["No finding"]}),
    (
        *(1, "train", "", "F", "", "F"),
        {"R8": ["Cardiomegaly", "Other diseases"], "R9": ["Aortic enlargement"], "R10": ["Cardiomegaly"]},
    ),
    (2, "train", "007M", "O", "0", "O", {"R1": ["ILD", "COPD"], "R2": ["ILD", "COPD"], "R17": ["No finding"]}),
    (3, "test", "080Y", "", "80", "", {"": ["Nodule/Mass", "Other diseases"]}),
    (4, "test", "", "", "", "", {"": ["No finding"]}),
]
# Image, radiologist, finding, corners as published; left, upper edge, width and height as they have to come out.
BOXES = [
    (1, "R8", "Cardiomegaly", ["691.0", "1375.0", "1653.0", "1831.0"], ["691", "1375", "962", "456"]),
    (1, "R9", "Aortic enlargement", ["1052.25", "715.5", "1299.75", "966"], ["1052.25", "715.5", "247.5", "250.5"]),
    (1, "R10", "Cardiomegaly", ["0", "0", "1", "2"], ["0", "0", "1", "2"]),
    (2, "R1", "ILD", ["10", "20", "30", "40"], ["10", "20", "20", "20"]),
    (2, "R1", "ILD", ["110", "20", "130", "40"], ["110", "20", "20", "20"]),
    (2, "R2", "ILD", ["12", "20", "30", "44"], ["12", "20", "18", "24"]),
    (3, "", "Nodule/Mass", ["5", "6", "7", "8"], ["5", "6", "2", "2"]),
]


def _files(root: Path, suffix: str) -> None:
    for number, part, age, sex, *_ in IMAGES:
        path = root / part / f"{image_id(number)}.{suffix}"
        if suffix in ("dicom", "dcm"):
            tags = {"PatientAge": age, "PatientSex": sex}
            dicom(path, **{name: value for name, value in tags.items() if value})
        else:
            picture(path)


def write(root: Path, *, suffix: str = "dicom", annotations: str = "annotations") -> Path:
    """PhysioNet's data set."""
    _files(root, suffix)
    for part in ("train", "test"):
        reader = ["rad_id"] if part == "train" else []
        rows = []
        for number, where, *_, readers in IMAGES:
            for name, there in readers.items() if where == part else ():
                rows.append([image_id(number), *([name] if reader else []), *named(FINDINGS, there).values()])
        # The test part's table writes this one in the singular.
        findings = [*FINDINGS[:-2], "Other diseases" if reader else "Other disease", "No finding"]
        table(root / annotations / f"image_labels_{part}.csv", ["image_id", *reader, *findings], rows)
        rows = []
        for number, where, *_, readers in IMAGES:
            for name, there in readers.items() if where == part else ():
                mine = [box for box in BOXES if box[:2] == (number, name)]
                first = [image_id(number), *([name] if reader else [])]
                rows += [[*first, finding, *corners] for _, _, finding, corners, _ in mine]
                rows += [[*first, "No finding", "", "", "", ""]] if there == ["No finding"] else []
        header = ["image_id", *reader, "class_name", "x_min", "y_min", "x_max", "y_max"]
        table(root / annotations / f"annotations_{part}.csv", header, rows)
    return root


def votes(readers: dict[str, list[str]], finding: str) -> tuple[int, int]:
    """How many say that a finding is there, and how many there are."""
    return sum(finding in there for there in readers.values()), len(readers)


def labels_of(readers: dict[str, list[str]], how: str, findings: list[str]) -> Row:
    """Readers' labels to one, by plain counting."""
    counts = {finding: votes(readers, finding) for finding in findings}
    row = {name: str(int(yes > 0 if how == "any" else yes > all_ / 2)) for name, (yes, all_) in counts.items()}
    return row | ({f"{name} votes": f"{yes}/{all_}" for name, (yes, all_) in counts.items()} if how == "counts" else {})


def expected(*, suffix: str = "dicom", how: str = "majority") -> Cells:
    """The cells of a scan of PhysioNet's."""
    header = suffix in ("dicom", "dcm")
    return {
        f"{part}/{image_id(number)}.{suffix}": {
            "image_id": image_id(number),
            "patient_id": f"unknown-{image_id(number)}",
            "view": "",
            "age": age if header else "",
            "sex": sex if header else "",
            "split": part,
            **labels_of(readers, how, FINDINGS),
        }
        for number, part, _, _, age, sex, readers in IMAGES
    }


def boxes() -> list[Row]:
    """The table of boxes, by image."""
    sides = ("x", "y", "width", "height")
    return [
        {"image_id": image_id(number), "finding": finding, **dict(zip(sides, box, strict=True)), "reader": reader}
        for number, reader, finding, _, box in BOXES
    ]


def write_kaggle(root: Path, *, suffix: str = "dicom") -> Path:
    """Kaggle's: boxes alone, and no labels of the test part."""
    _files(root, suffix)
    rows = []
    for number, part, *_, readers in IMAGES:
        for reader, there in readers.items() if part == "train" else ():
            for finding in (name for name in there if name in KAGGLE):
                mine = [corners for *key, corners, _ in BOXES if key == [number, reader, finding]]
                first = [image_id(number), finding, str(KAGGLE.index(finding)), reader]
                rows += [[*first, *corners] for corners in mine or [["", "", "", ""]]]
    table(
        root / "train.csv", ["image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max"], rows
    )
    return root


def expected_kaggle(*, suffix: str = "dicom", how: str = "majority") -> Cells:
    """The cells of a scan of Kaggle's: blank labels on the test part."""
    header = suffix in ("dicom", "dcm")
    cells = {}
    for number, part, _, _, age, sex, readers in IMAGES:
        labels = labels_of(readers, how, KAGGLE)
        cells[f"{part}/{image_id(number)}.{suffix}"] = {
            "image_id": image_id(number),
            "patient_id": f"unknown-{image_id(number)}",
            "view": "",
            "age": age if header else "",
            "sex": sex if header else "",
            "split": part,
            **(labels if part == "train" else dict.fromkeys(labels, "")),
        }
    return cells
