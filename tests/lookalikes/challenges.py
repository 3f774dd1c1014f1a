"""Look-alikes of RSNA's and SIIM's challenges, and of COVIDx."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lookalikes.files import dicom, picture, text

# Made-up ids in the shape of the published ones.
RSNA = [f"{n:08x}-0000-4000-8000-00000000000{n}" for n in range(1, 8)]
SIIM = [f"1.2.276.0.7230010.3.1.4.8323329.{n}.1517875000.{n}00000" for n in range(1, 8)]
COVIDX_UUID = "0badc0de-0000-4000-8000-000000000001"


def rsna(root: Path) -> None:
    """Four training images (two boxes, one box, none, none) and two of the test part; ages as the headers have them."""
    headers = [("PA", "51", "F"), ("AP", "4", "M"), ("PA", "155", "F"), ("AP", "38", "M"), ("PA", "60", "F")]
    for own, (view, age, sex) in zip(RSNA[:4], headers, strict=False):
        dicom(root / "stage_2_train_images" / f"{own}.dcm", own, view, age, sex)
    for own in RSNA[4:6]:
        dicom(root / "stage_2_test_images" / f"{own}.dcm", own, *headers[4])
    rows = ["patientId,x,y,width,height,Target"]
    rows += [f"{RSNA[0]},264.0,152.0,213.0,379.0,1", f"{RSNA[2]},,,,,0", f"{RSNA[1]},562.5,410.0,100.0,90.0,1"]
    rows += [f"{RSNA[0]},562.0,152.0,256.0,453.0,1", f"{RSNA[3]},,,,,0"]
    text(root / "stage_2_train_labels.csv", "\n".join(rows) + "\n")
    rows = ["patientId,class", f"{RSNA[0]},Lung Opacity", f"{RSNA[2]},No Lung Opacity / Not Normal"]
    rows += [f"{RSNA[1]},Lung Opacity", f"{RSNA[0]},Lung Opacity", f"{RSNA[3]},Normal"]
    text(root / "stage_2_detailed_class_info.csv", "\n".join(rows) + "\n")
    text(root / "stage_2_sample_submission.csv", f"patientId,PredictionString\n{RSNA[4]},0.5 0 0 100 100\n")


def rsna_to_nih(root: Path) -> None:
    """RSNA's list of NIH's names: two images of one patient, on different sides of the challenge's split."""
    names = {RSNA[0]: "00000007_000.png", RSNA[1]: "00000012_003.png", RSNA[4]: "00000007_001.png"}
    rows = [
        {"StudyInstanceUID": "1.2.3", "SOPInstanceUID": "1.2.3.4", "subset_img_id": own, "img_id": name}
        for own, name in names.items()
    ]
    text(root / "pneumonia-challenge-dataset-mappings_2018.json", json.dumps(rows))


def siim_masks() -> list[np.ndarray]:
    """Three masks of 1024 x 1024: two of one image, one that touches the last pixel; not symmetric."""
    masks = [np.zeros((1024, 1024), bool) for _ in range(3)]
    masks[0][100:140, 200:203] = True
    masks[0][120:122, 203] = True
    masks[1][700:900, 600:650] = True
    masks[1][700:705, 600] = False
    masks[2][1000:, 1020:] = True
    return masks


def relative_runs(mask: np.ndarray) -> str:
    """Pixels to pass and pixels to mark, down the columns: one pixel after the other, as plainly as it goes."""
    runs: list[int] = []
    passed = marked = 0
    for column in range(mask.shape[1]):
        if not mask[:, column].any() and not marked:
            passed += mask.shape[0]
            continue
        for pixel in mask[:, column].tolist():
            if pixel:
                marked += 1
            elif marked:
                runs += [passed, marked]
                passed, marked = 1, 0
            else:
                passed += 1
    return " ".join(map(str, [*runs, passed, marked] if marked else runs))


def siim(root: Path, stage: int = 1) -> None:
    """Images with two masks, with one, with none and without a row; one of stage 1's test part."""
    people = [("A", "PA", "45", "F"), ("A", "AP", "46", "F"), ("B", "PA", "9", "M"), ("C", "AP", "70", "M")]
    for n, person in enumerate(people):
        dicom(root / "dicom-images-train" / f"{SIIM[n]}.1" / f"{SIIM[n]}.2" / f"{SIIM[n]}.dcm", *person)
    for n in (4, 5):
        dicom(root / "dicom-images-test" / f"{SIIM[n]}.1" / f"{SIIM[n]}.2" / f"{SIIM[n]}.dcm", f"D{n}", "PA", "30", "F")
    runs = [relative_runs(mask) for mask in siim_masks()]
    header, gap = ("ImageId, EncodedPixels", " ") if stage == 1 else ("ImageId,EncodedPixels", "")
    cells = [(SIIM[0], runs[0]), (SIIM[1], "-1"), (SIIM[0], runs[1]), (SIIM[2], runs[2])]
    if stage == 2:
        cells.append((SIIM[4], "-1"))
        dicom(root / "stage_2_images" / "ID_0000made.dcm", "E", "AP", "88", "M")
    rows = [header, *(f"{own},{gap}{runs}" for own, runs in cells)]
    text(root / ("train-rle.csv" if stage == 1 else "stage_2_train.csv"), "\n".join(rows) + "\n")


def covidx(root: Path, version: str = "CXR-4") -> None:
    """The lists of CXR-4, of CXR-2 (no val) and of version 9A (three classes), with their images."""
    three = version == "9A"
    negative, positive = ("normal", "COVID-19") if three else ("negative", "positive")
    train = [
        f"5 Severe-000.png {negative} cohen",
        f"COVID 12 COVID(12).png {positive} sirm",
        f"COVID 13 COVID (13).png {positive} sirm",
        f"{COVIDX_UUID} {COVIDX_UUID}.png {'pneumonia' if three else 'negative'} rsna",
        f"A000801 A000801_1.png {positive} stonybrook",
        f"A000801 A000801_2.jpeg {positive} stonybrook",
    ]
    parts = {"train": train, "test": [f"419639-001 MIDRC-RICORD-1C-000.png {positive} ricord"]}
    if version == "CXR-4":
        parts["val"] = [f"S0803 sub-S0803_ses-E1.png {positive} bimcv"]
    for part, lines in parts.items():
        name = f"{part}_COVIDx9A.txt" if three else f"{part}.txt"
        text(root / name, "\n".join(lines) + "\n")
        for line in lines:
            words = line.split(" ")[2:-2] if line.startswith("COVID ") else line.split(" ")[1:-2]
            picture(root / part / " ".join(words))
