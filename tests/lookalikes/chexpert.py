"""CheXpert, as it is unpacked in four folders, in one, and small; the test part by image and by study."""

from __future__ import annotations

from pathlib import Path

from lookalikes import CHEXPERT, Cells, Row, findings, picture, plain, table

BATCHES = {
    "train": "CheXpert-v1.0 batch 2 (train 1)",
    "valid": "CheXpert-v1.0 batch 1 (validate & csv)/valid",
    "tables": "CheXpert-v1.0 batch 1 (validate & csv)",
    "test": "test",
    "test tables": ".",
}
SMALL = {
    "train": "CheXpert-v1.0-small/train",
    "valid": "CheXpert-v1.0-small/valid",
    "tables": "CheXpert-v1.0-small",
    "test": "CheXpert/test",
    "test tables": "CheXpert",
}
INSIDE = {"train": "train", "valid": "valid", "tables": ".", "test": "test", "test tables": "."}

HEADER = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", *CHEXPERT]
# Part, image; sex, age, frontal or lateral, AP or PA as published; sex, view as they have to come out.
IMAGES = [
    ("train", "patient90001/study1/view1_frontal", "Female", "68", "Frontal", "AP", "F", "AP"),
    ("train", "patient90001/study2/view1_frontal", "Female", "69", "Frontal", "PA", "F", "PA"),
    ("train", "patient90001/study2/view2_lateral", "Female", "69", "Lateral", "", "F", "LATERAL"),
    ("train", "patient90002/study1/view1_frontal", "Unknown", "0", "Frontal", "AP", "", "AP"),
    ("train", "patient90003/study11/view1_frontal", "Male", "90", "Frontal", "LL", "M", "LL"),
    ("valid", "patient97001/study1/view1_frontal", "Male", "73", "Frontal", "AP", "M", "AP"),
]
TEST = [
    ("test", "patient98001/study1/view1_frontal", ""),
    ("test", "patient98001/study1/view2_lateral", "LATERAL"),
    ("test", "patient98002/study1/view1_frontal", ""),
]
LABELS = {
    "patient90001/study1": findings(CHEXPERT, Cardiomegaly="0.0", Lung_Opacity="1.0", Edema="-1.0", Pneumothorax="0.0"),
    "patient90001/study2": findings(CHEXPERT, No_Finding="1.0", Support_Devices="1.0"),
    "patient90002/study1": findings(CHEXPERT),
    "patient90003/study11": findings(CHEXPERT, Fracture="1.0", Pleural_Other="-1.0"),
    "patient97001/study1": findings(CHEXPERT, "0.0", Enlarged_Cardiomediastinum="1.0", Cardiomegaly="1.0"),
    "patient98001/study1": findings(CHEXPERT, "0", Lung_Opacity="1", Support_Devices="1"),
    "patient98002/study1": findings(CHEXPERT, "0", No_Finding="1"),
}
CHEXBERT = {
    "patient90001/study1": findings(CHEXPERT, Cardiomegaly="1.0", Edema="0.0"),
    "patient90001/study2": findings(CHEXPERT, No_Finding="1.0"),
    "patient90002/study1": findings(CHEXPERT, Pneumonia="-1.0"),
    "patient90003/study11": findings(CHEXPERT, Fracture="1.0"),
}
VISUAL = {study: findings(CHEXPERT, "0.0", Edema="1.0") for study in CHEXBERT}


def study_of(image: str) -> str:
    """`patient90001/study1` of `patient90001/study1/view1_frontal`."""
    return image.rpartition("/")[0]


def write(
    root: Path, layout: dict[str, str], *, test: str = "test_labels.csv", published: str = "CheXpert-v1.0"
) -> Path:
    """The data set; the test part's labels by image (`test_labels.csv`), by study (`groundtruth.csv`) or not at all."""
    for part, image, *_ in [*IMAGES, *(TEST if test else [])]:
        picture(root / layout[part] / f"{image}.jpg")
    for part in ("train", "valid"):
        rows = [
            [f"{published}/{part}/{image}.jpg", *known, *LABELS[study_of(image)].values()]
            for where, image, *known, _, _ in IMAGES
            if where == part
        ]
        table(root / layout["tables"] / f"{part}.csv", HEADER, rows)
    # These two have `No Finding` last, and the full size's paths.
    last = [*CHEXPERT[1:], CHEXPERT[0]]
    for name, labels in {"train_cheXbert.csv": CHEXBERT, "train_visualCheXbert.csv": VISUAL}.items():
        rows = [
            [f"CheXpert-v1.0/train/{image}.jpg", *known, *(labels[study_of(image)][finding] for finding in last)]
            for part, image, *known, _, _ in IMAGES
            if part == "train"
        ]
        table(root / name, [*HEADER[:5], *last], rows)
    tables = root / layout["test tables"]
    if test == "test_labels.csv":
        rows = [[f"test/{image}.jpg", *LABELS[study_of(image)].values()] for _, image, _ in TEST]
        table(tables / test, ["Path", *CHEXPERT], rows)
    elif test:
        studies = dict.fromkeys(study_of(image) for _, image, _ in TEST)
        rows = [[f"CheXpert-v1.0/test/{study}", *LABELS[study].values()] for study in studies]
        table(tables / test, ["Study", *CHEXPERT], rows)
    return root


def expected(layout: dict[str, str], *, test: bool = True, labels: dict[str, Row] | None = None) -> Cells:
    """The cells of a scan, with other labels for the training part where they are given."""
    cells: Cells = {}
    parts = [(part, image, age, sex, view) for part, image, _, age, _, _, sex, view in IMAGES]
    parts += [(part, image, "", "", view) for part, image, view in (TEST if test else [])]
    for part, image, age, sex, view in parts:
        folder = "" if layout[part] == "." else f"{layout[part]}/"
        chosen = labels[study_of(image)] if labels and part == "train" else LABELS[study_of(image)]
        cells[f"{folder}{image}.jpg"] = {
            "image_id": image,
            "patient_id": f"chexpert-{image.partition('/')[0]}",
            "study_id": study_of(image),
            "view": view,
            "age": age,
            "sex": sex,
            "split": part,
            **plain(chosen),
        }
    return cells
