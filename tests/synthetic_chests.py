"""Draws a few plain synthetic chests as PNG and DICOM files, for tests that need files and no findings.

They are drawings, made to be recognised as a chest and nothing more: no finding in them means anything.

    python tests/synthetic_chests.py FOLDER --count 24
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image


def ellipse(y: np.ndarray, x: np.ndarray, center: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
    """`(S, S)` from 1 inside to 0 outside, with a soft edge."""
    distance = ((y - center[0]) / radii[0]) ** 2 + ((x - center[1]) / radii[1]) ** 2
    soft: np.ndarray = 1 / (1 + np.exp(np.clip((distance - 1) * 12, -50, 50)))
    return soft


def chest(seed: int, side: int = 512) -> np.ndarray:
    """One frontal chest, `(side, side)` uint16 over 12 bits, brighter = denser."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    wide = rng.uniform(0.92, 1.06)
    body = ellipse(y, x, (0.62, 0.5), (0.62, 0.47 * wide))
    shoulders = ellipse(y, x, (0.34, 0.5), (0.22, 0.56 * wide))
    density = 0.62 * np.maximum(body, shoulders)
    neck = ellipse(y, x, (0.05, 0.5), (0.2, 0.12))
    density = np.maximum(density, 0.55 * neck)
    lift = rng.uniform(-0.02, 0.03)
    lungs = np.zeros_like(y)
    for mid, width, bottom in ((0.31, 0.145, 0.80), (0.69, 0.135, 0.83)):
        lung = ellipse(y, x, (0.5, 0.5 + (mid - 0.5) * wide), (0.36, width * wide))
        dome = ellipse(y, x, (bottom + 0.12 - lift, mid), (0.16, 0.2))
        lungs = np.maximum(lungs, lung * (1 - dome))
    density -= 0.42 * lungs
    # Vessels fan out from the hila and thin towards the edge.
    noise = rng.standard_normal((side // 8, side // 8))
    texture = np.asarray(Image.fromarray(noise.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC))
    hila = sum(ellipse(y, x, (0.46, c), (0.2, 0.12)) for c in (0.38, 0.62))
    density += lungs * (0.018 * texture + 0.09 * hila)
    # The heart lies in front of the spine, mostly to the image's right.
    size = rng.uniform(0.9, 1.2)
    heart = ellipse(y, x, (0.66, 0.545), (0.17 * size, 0.135 * size))
    density += 0.34 * heart * (0.4 + 0.6 * lungs)
    spine = np.exp(-(((x - 0.5) / 0.035) ** 2)) * (0.75 + 0.25 * np.cos(y * 2 * np.pi * 17))
    density += 0.12 * spine * np.maximum(body, neck)
    for rib in range(9):
        top = 0.17 + 0.068 * rib
        arc = top + 0.9 * (np.abs(x - 0.5) - 0.12) ** 2 * (1.5 - rib * 0.08) + 0.12 * np.abs(x - 0.5)
        band = np.exp(-(((y - arc) / 0.011) ** 2)) * (np.abs(x - 0.5) > 0.05)
        density += 0.055 * band * ellipse(y, x, (0.5, 0.5), (0.42, 0.36 * wide))
    for side_of in (-1, 1):
        line = 0.2 - 0.16 * np.abs(x - 0.5)
        bone = np.exp(-(((y - line) / 0.014) ** 2)) * ((x - 0.5) * side_of > 0.04) * (np.abs(x - 0.5) < 0.36)
        density += 0.08 * bone
    density += rng.normal(0, 0.008, density.shape)
    low = 0.06
    return np.rint(np.clip((density + low) / (1 + low), 0, 1) * 4095).astype(np.uint16)


def write_dicom(path: Path, pixels: np.ndarray, patient: str, study: int) -> None:
    """A minimal DX image, explicit little endian, with a window."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian, generate_uid

    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[patient, str(study)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    dataset.SOPClassUID, dataset.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    dataset.Modality, dataset.ViewPosition = "DX", "PA"
    dataset.PatientID, dataset.PatientName, dataset.PatientSex = patient, "SYNTHETIC^CHEST", "O"
    dataset.PatientAge, dataset.StudyDate = f"{40 + study:03d}Y", f"20240{1 + study % 9}15"
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.WindowCenter, dataset.WindowWidth = "2048", "4096"
    dataset.PixelData = pixels.astype("<u2").tobytes()
    dataset.save_as(path, enforce_file_format=True)


def main() -> None:
    """Writes the files: two studies a patient, every third patient as DICOM."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=24)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for number in range(options.count):
        patient, study = f"synthetic-{number // 2:03d}", number % 2
        pixels = chest(number)
        name = options.folder / f"{patient}_{study}"
        if number // 2 % 3 == 2:
            write_dicom(name.with_suffix(".dcm"), pixels, patient, study)
        else:
            Image.fromarray((pixels >> 4).astype(np.uint8)).save(name.with_suffix(".png"))
    print(f"{options.folder}: {options.count} synthetic chests of {-(-options.count // 2)} patients")


if __name__ == "__main__":
    main()
