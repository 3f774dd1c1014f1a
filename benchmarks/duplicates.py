"""Near-duplicates: how many re-exports of 200 real radiographs `hog` finds, how many strangers it takes for copies.

And how long all pairs of a large index take, and which of them near cells miss.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pydicom
from common import Line, real_data, seconds
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from cxr_embed import embed, open_store
from cxr_embed.index.faiss import pairs
from cxr_embed.index.faiss.pairs import find_pairs, scale_of
from cxr_embed.index.faiss.vectors import unit

IMAGES = 200
LARGE, COPIES = 100_000, 2_000
# What no threshold for re-exports should be judged by: other pictures of the same radiograph.
OTHER_PICTURES = ("gamma 0.7", "window", "2% cropped", "mirrored")


def dicom(path: Path, pixels: np.ndarray, bits: int, photometric: str) -> None:
    """Pixels as a DICOM file."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = ComputedRadiographyImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID, data.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    data.Modality, data.PhotometricInterpretation, data.SamplesPerPixel = "CR", photometric, 1
    data.Rows, data.Columns = pixels.shape
    data.BitsAllocated = 16 if bits > 8 else 8
    data.BitsStored, data.HighBit, data.PixelRepresentation = bits, bits - 1, 0
    data.PixelData = pixels.tobytes()
    pydicom.dcmwrite(path, data, enforce_file_format=True)


def reexports(image: Image.Image, stem: Path) -> Iterator[tuple[str, Path]]:
    """One radiograph (8 bits) saved again in every way: its name, and the file."""
    pixels = np.asarray(image)
    low, high = np.percentile(pixels, (5, 95))
    pictures = {
        "PNG": image,
        "PNG, 16 bits": Image.fromarray(pixels.astype(np.uint16) * 257),
        **{f"{side} px": image.resize((side, side), Image.Resampling.BICUBIC) for side in (1024, 256, 224, 128)},
        "gamma 0.7": Image.fromarray(np.round(255 * (pixels / 255) ** 0.7).astype(np.uint8)),
        "window": Image.fromarray((np.clip((pixels - low) / max(high - low, 1), 0, 1) * 255).astype(np.uint8)),
        "2% cropped": image.crop(
            (image.width // 50, image.height // 50, image.width * 49 // 50, image.height * 49 // 50)
        ),
        "mirrored": Image.fromarray(pixels[:, ::-1].copy()),
    }
    for way, picture in pictures.items():
        path = stem.with_name(f"{stem.name}_{re.sub(r'[^0-9a-zA-Z]+', '_', way)}.png")
        picture.save(path, compress_level=1)
        yield way, path
    for quality in (95, 75, 50, 25):
        path = stem.with_name(f"{stem.name}_{quality}.jpg")
        image.save(path, quality=quality)
        yield f"JPEG {quality}", path
    path = stem.with_name(f"{stem.name}_small.jpg")
    image.resize((224, 224), Image.Resampling.LANCZOS).save(path, quality=60)
    yield "224 px, JPEG 60", path
    dicom(stem.with_name(f"{stem.name}_8.dcm"), pixels, 8, "MONOCHROME2")
    yield "DICOM, 8 bits", stem.with_name(f"{stem.name}_8.dcm")
    inverted = (4095 - np.round(pixels / 255 * 4095)).astype(np.uint16)
    dicom(stem.with_name(f"{stem.name}_12.dcm"), inverted, 12, "MONOCHROME1")
    yield "DICOM, 12 bits, inverted", stem.with_name(f"{stem.name}_12.dcm")


def measured(work: Path) -> dict[str, np.ndarray]:
    """Cosines of each way of saving again with the original, under `""` the threshold; prints the distributions."""
    folder = real_data() / "nih"
    with open(folder / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ["image_id,path,patient_id"]
    chosen = np.random.default_rng(0).choice(len(rows), IMAGES, replace=False)
    for number in chosen.tolist():
        for way, path in reexports(Image.open(folder / rows[number]["path"]), work / str(number)):
            lines.append(f'"{rows[number]["image_id"]}@{way}",{path.name},x')
    (work / "again.csv").write_text("\n".join(lines) + "\n")
    embed(folder / "manifest.csv", "hog", work / "store")
    embed(work / "again.csv", "hog", work / "again")
    store, again = open_store(work / "store"), open_store(work / "again")
    vectors, copies = unit(store.read().vectors), unit(again.read().vectors)
    scale = scale_of(vectors, store.patient_ids)
    found = find_pairs(vectors, store.content_ids, scale.threshold)
    cosines: dict[str, np.ndarray] = {"": np.array([scale.threshold]), "false": found.similarity[~found.same_file]}
    ways = np.array([image_id.split("@")[1] for image_id in again.ids.tolist()])
    originals = unit(store.read([image_id.split("@")[0] for image_id in again.ids.tolist()]).vectors)
    alike = np.vecdot(copies, originals)
    print(f"nearest of another patient (median, 90%, 99%, highest): {np.round(scale.quantiles, 4).tolist()}")
    print(f"threshold {scale.threshold:.4f}")
    for way in dict.fromkeys(ways.tolist()):
        cosines[way] = alike[ways == way]
        lowest, few, middle = np.quantile(cosines[way], (0, 0.05, 0.5))
        hit = (cosines[way] >= scale.threshold).mean()
        print(f"{way:26} lowest {lowest:.4f}  5% {few:.4f}  median {middle:.4f}  found {hit:.1%}", flush=True)
    return cosines


def large() -> tuple[float, float, float]:
    """Seconds of all pairs and of near cells for 100,000 x 128, and the part of the copies that near cells find."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(500, 128))
    vectors = unit(centres[rng.integers(0, 500, LARGE)] + rng.normal(size=(LARGE, 128)))
    vectors[:COPIES] = unit(vectors[-COPIES:] + 0.2 * rng.normal(size=(COPIES, 128)) / np.sqrt(128))
    contents = np.arange(LARGE).astype(np.str_)
    found = []
    taken = [seconds(lambda: found.append(find_pairs(vectors, contents, 0.95)))]
    pairs.EXACT_UP_TO = 0
    taken.append(seconds(lambda: found.append(find_pairs(vectors, contents, 0.95))))
    assert len(found[0]) >= COPIES
    return taken[0], taken[1], len(found[1]) / len(found[0])


def run(work: Path) -> list[Line]:
    """Re-exports and strangers at the threshold that the index gives itself; time."""
    cosines = measured(work)
    threshold = float(cosines.pop("")[0])
    false = len(cosines.pop("false"))
    named = np.concatenate([values for way, values in cosines.items() if way not in OTHER_PICTURES])
    exact, cells, part = large()
    return [
        Line(
            f"`hog`: copies of {IMAGES} real radiographs saved again in {len(cosines) - len(OTHER_PICTURES)} ways",
            "all found, no stranger",
            f"{(named >= threshold).mean():.1%} found at {threshold:.3f}; {false} false pairs of 703,891",
        ),
        Line(
            f"all pairs of {LARGE:,} x 128; by near cells",
            "the same pairs",
            f"{exact:.0f} s; {cells:.0f} s, {part:.1%} of the pairs",
        ),
    ]
