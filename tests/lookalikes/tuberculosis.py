"""Look-alikes of the Shenzhen and Montgomery sets and of TBX11K."""

from __future__ import annotations

import json
from pathlib import Path

from lookalikes.files import picture, text

SHENZHEN_READINGS = {
    "CHNCXR_9001_0": "male 45yrs\nnormal\n",
    "CHNCXR_9002_0": "Female, 28yrs\r\nnormal\r\n",
    "CHNCXR_9003_1": "femal 32yrs\n\nPTB in the right upper field,\nold focus\n",
    "CHNCXR_9004_1": "male 16month\nSTB",
    "CHNCXR_9005_1": "female  64days  \nPTB in both upper fields",
    "CHNCXR_9006_1": "male 51 yrs\nbilateral secondary PTB",
    "CHNCXR_9007_0": "normal",
}


def shenzhen(root: Path, layout: str = "ClinicalReadings") -> None:
    """`layout` is where the readings lie: `ClinicalReadings`, `` (beside the images) or `none`."""
    for name in [*SHENZHEN_READINGS, "CHNCXR_9008_0"]:  # the last has no reading
        picture(root / "CXR_png" / f"{name}.png")
    for name, reading in SHENZHEN_READINGS.items():
        if layout != "none":
            text(root / (layout or "CXR_png") / f"{name}.txt", reading)
    # What is no radiograph: outlines of lungs and findings, made later by others.
    picture(root / "mask" / "CHNCXR_9001_0_mask.png")
    picture(root / "masks" / "CHNCXR_9001_0.png")
    picture(root / "Annotations-2" / "masks" / "CHNCXR_9003_1_Linear_Density_1.png")
    text(root / "NLM-ChinaCXRSet-ReadMe.docx", "PK")


MONTGOMERY_READINGS = {
    "MCUCXR_9001_0": "Patient's Sex: F \nPatient's Age: 027Y\nnormal\n",
    "MCUCXR_9002_0": "Patient's Sex: M\r\nPatient's Age: 009M\r\nnormal \r\n",
    "MCUCXR_9003_1": "Patient's Sex: O\nPatient's Age: 070Y\nLarge infiltrate. \n\nRule out TB.\n",
}


def montgomery(root: Path) -> None:
    """Images with their two masks each, which have the images' names, and readings."""
    for name in [*MONTGOMERY_READINGS, "MCUCXR_9004_1"]:
        for folder in ("CXR_png", "ManualMask/leftMask", "ManualMask/rightMask"):
            picture(root / "MontgomerySet" / folder / f"{name}.png")
    for name, reading in MONTGOMERY_READINGS.items():
        text(root / "MontgomerySet" / "ClinicalReadings" / f"{name}.txt", reading)
    text(root / "MontgomerySet" / "NLM-MontgomeryCXRSet-ReadMe.pdf", "%PDF")


TBX_PARTS = {
    "train": ["health/h9001.png", "sick/s9001.png", "tb/tb9001.png", "tb/tb9002.png", "extra/da+db/train/n91.png"],
    "val": ["health/h9002.png", "tb/tb9003.png", "extra/mc+shenzhen/CHNCXR_9003_1.png"],
    "test": ["test/test_9001.png", "extra/da+db/test/px91.jpg", "extra/mc+shenzhen/MCUCXR_9001_0.png"],
}
_TBX_BOXES = [
    ("tb/tb9001.png", 1, [381.8125, 126.5, 40.25, 44.5]),
    ("tb/tb9001.png", 2, [10, 20.0, 30.5, 40]),
    ("tb/tb9003.png", 2, [307.3, 62.05, 135.5, 146.6]),
    ("tb/tb9003.png", 2, [144.1, 52.9, 126.1, 116.2]),
]


def tbx11k(root: Path, together: bool = True) -> None:
    """Parts, lists and annotations; `together` also in one file, as the publisher has them."""
    for part, names in TBX_PARTS.items():
        for name in names:
            picture(root / "imgs" / name)
        text(root / "lists" / f"all_{part}.txt", "\n".join(names) + "\n")
        text(root / "lists" / f"TBX11K_{part}.txt", "\n".join(n for n in names if not n.startswith("extra")) + "\n")
    own = {part: [n for n in names if not n.startswith("extra")] for part, names in TBX_PARTS.items()}
    _coco(root / "annotations/json/TBX11K_train.json", own["train"])
    _coco(root / "annotations/json/TBX11K_val.json", own["val"])
    _coco(root / "annotations/json/all_test.json", TBX_PARTS["test"], boxes=False)
    if together:
        _coco(root / "annotations/json/TBX11K_trainval.json", own["train"] + own["val"])


def _coco(path: Path, names: list[str], boxes: bool = True) -> None:
    kinds = ("ActiveTuberculosis", "ObsoletePulmonaryTuberculosis", "PulmonaryTuberculosis")
    images = [
        {"id": n, "file_name": name, "width": 512, "height": 512, "date_captured": "2020-01-01 00:00:00", "license": 1}
        for n, name in enumerate(names, 1)
    ]
    ids = {image["file_name"]: image["id"] for image in images}
    annotations = [
        {"id": n, "image_id": ids[name], "category_id": kind, "iscrowd": 0, "area": 1, "bbox": box}
        for n, (name, kind, box) in enumerate(_TBX_BOXES, 1)
        if boxes and name in ids
    ]
    categories = [{"id": n, "name": kind, "supercategory": "Tuberculosis"} for n, kind in enumerate(kinds, 1)]
    text(path, json.dumps({"categories": categories, "images": images, "annotations": annotations}))
