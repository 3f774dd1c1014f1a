"""Small data sets with the file names, columns and ways of writing of published ones; ids, cells and pictures are made
up. Each module writes one, and says which cells a scan has to give, by path."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import synthetic_chests
from PIL import Image

Row = dict[str, str]
Cells = dict[str, Row]  # path to column to cell

CHEXPERT = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)


def picture(path: Path, bits: int = 8) -> Path:
    """A small grey picture, in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), 1 << (bits - 1), np.uint16 if bits == 16 else np.uint8)).save(path)
    return path


def dicom(path: Path, **tags: str) -> Path:
    """A small DICOM radiograph; no patient's id, unless it is among the tags."""
    import pydicom

    path.parent.mkdir(parents=True, exist_ok=True)
    synthetic_chests.write_dicom(path, np.zeros((64, 64), np.uint16), "", 0)
    dataset = pydicom.dcmread(path)
    for name in ("PatientName", "PatientBirthDate", "StudyDate", "ViewPosition", "PatientAge", "PatientSex"):
        if name in dataset:
            del dataset[name]
    for name, value in tags.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


def table(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> Path:
    """A CSV, packed where its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def findings(names: Iterable[str], rest: str = "", **cells: str) -> Row:
    """Every finding's cell: those that are given (`Lung_Opacity` is `Lung Opacity`), and the rest."""
    given = {name.replace("_", " "): value for name, value in cells.items()}
    row = {name: given.pop(name, rest) for name in names}
    assert not given, given
    return row


def named(names: Iterable[str], there: Iterable[str], rest: str = "0") -> Row:
    """Every finding's cell: 1 where it is there."""
    return {name: "1" if name in set(there) else rest for name in names}


def plain(labels: Mapping[str, str]) -> Row:
    """Labels as a manifest has them: 1.0 is 1."""
    return {name: value.removesuffix(".0") for name, value in labels.items()}
