"""The files that look-alikes are made of."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import numpy as np
import pydicom
import synthetic_chests
from PIL import Image


@functools.cache
def _picture(kind: str) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.full((64, 64), 100, np.uint8)).save(out, format=kind)
    return out.getvalue()


def picture(path: Path) -> None:
    """A small PNG or JPEG, by its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_picture("PNG" if path.suffix.lower() == ".png" else "JPEG"))


def dicom(path: Path, patient: str, view: str, age: str, sex: str) -> None:
    """A small DICOM file with the header fields that the challenges left in theirs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    synthetic_chests.write_dicom(path, np.zeros((64, 64), np.uint16), patient, 0)
    dataset = pydicom.dcmread(path)
    dataset.ViewPosition, dataset.PatientAge, dataset.PatientSex = view, age, sex
    dataset.StudyDate = "19010101"  # what they put into every file
    dataset.save_as(path)


def text(path: Path, content: str, encoding: str = "utf-8") -> None:
    """A text file, its line ends as they are given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(encoding))
