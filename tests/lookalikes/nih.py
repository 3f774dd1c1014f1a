"""NIH ChestX-ray14 in its two editions with lists and boxes, and the sample of it."""

from __future__ import annotations

from pathlib import Path

from lookalikes import Cells, Row, named, picture, table

FINDINGS = [
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Effusion",
    "Emphysema",
    "Fibrosis",
    "Hernia",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pleural_Thickening",
    "Pneumonia",
    "Pneumothorax",
    "No Finding",
]
# The header of the table has names with a comma in them: a cell too many.
HEADER = [
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
]
HEADER += ["OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]"]
SAMPLE = [*HEADER[:7], "OriginalImageWidth", "OriginalImageHeight"]
SAMPLE += ["OriginalImagePixelSpacing_x", "OriginalImagePixelSpacing_y"]

# Image, folder, findings, follow-up, patient, age by both editions and as it has to come out, sex, view, part.
IMAGES = [
    ("90000001_000", "images_001", "Cardiomegaly|Effusion", "0", "90001", "058Y", "58", "58", "M", "PA", "train"),
    ("90000001_001", "images_001", "No Finding", "1", "90001", "059Y", "59", "59", "M", "AP", "train"),
    (
        "90000002_000",
        "images_002",
        "Infiltration|Mass|Pleural_Thickening",
        "0",
        "90002",
        "007Y",
        "7",
        "7",
        "F",
        "PA",
        "test",
    ),
    ("90000003_000", "images_012", "Hernia", "0", "90003", "414Y", "414", "", "F", "PA", "test"),
    ("90000004_000", "images_012", "No Finding", "0", "90004", "001D", "0", "0", "M", "AP", ""),
]
BOXES = [
    ("90000002_000", "Infiltrate", ["225.084745762712", "547.019216763771", "86.7796610169491", "79.1864406779661"]),
    ("90000002_000", "Mass", ["686", "131.5", "185.5", "313.5"]),
    ("90000001_000", "Cardiomegaly", ["0", "0", "1023", "1023"]),
]


def write(root: Path, *, edition: str = "2017_v2020", boxes: bool = True) -> Path:
    """The whole data set."""
    rows = []
    for name, folder, findings, follow_up, patient, old, new, _, sex, view, _ in IMAGES:
        picture(root / folder / "images" / f"{name}.png")
        known = [f"{name}.png", findings, follow_up, patient, old if edition == "2017" else new, sex, view]
        rows.append([*known, "2500", "2048", "0.168", "0.168", *([""] if edition == "2017" else [])])
    header = [*HEADER, *([""] if edition == "2017" else [])]
    # As published: brackets with commas, without quotes.
    table(root / f"Data_Entry_{edition}.csv", header, rows)
    for part, name in {"test": "test_list.txt", "train": "train_val_list.txt"}.items():
        (root / name).write_text("".join(f"{image[0]}.png\n" for image in IMAGES if image[-1] == part))
    if boxes:
        lines = [f"{name}.png,{finding},{','.join(box)},,,\n" for name, finding, box in BOXES]
        (root / "BBox_List_2017.csv").write_text("Image Index,Finding Label,Bbox [x,y,w,h],,,\n" + "".join(lines))
    return root


def write_sample(root: Path, *, folder: str = "images") -> Path:
    """The sample: one table, ages as the first edition has them."""
    rows = []
    for name, _, findings, follow_up, patient, old, _, _, sex, view, _ in IMAGES:
        picture(root / folder / f"{name}.png")
        rows.append(
            [f"{name}.png", findings, follow_up, patient, f"{old:0>4}", sex, view, "2500", "2048", "0.168", "0.168"]
        )
    table(root / "sample_labels.csv", SAMPLE, rows)
    return root


def expected(*, edition: str = "2017_v2020", sample: str = "") -> Cells:
    """The cells of a scan: ages in days are blank in the first edition and in the sample."""
    cells: Cells = {}
    for name, folder, findings, follow_up, patient, old, _, age, sex, view, part in IMAGES:
        first = bool(sample) or edition == "2017"
        cells[f"{sample or f'{folder}/images'}/{name}.png"] = {
            "image_id": name,
            "patient_id": f"nih-{patient}",
            "view": view,
            "age": "" if first and not old.endswith("Y") else age,
            "sex": sex,
            "follow_up": follow_up,
            **({} if sample else {"split": part}),
            **named(FINDINGS, findings.split("|")),
        }
    return cells


def boxes() -> list[Row]:
    """The table of boxes, by image in the order of their paths, with the labels' spelling of the finding."""
    spelled = {"Infiltrate": "Infiltration"}
    sides = ("x", "y", "width", "height")
    order = [image[0] for image in IMAGES]
    return [
        {"image_id": name, "finding": spelled.get(finding, finding), **dict(zip(sides, box, strict=True))}
        for name, finding, box in sorted(BOXES, key=lambda each: order.index(each[0]))
    ]
