"""Damaged files by the hundred: each is an `ImageError` or a picture, never a crash, never a hang."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from helpers import IN_CI
from PIL import Image
from pydicom import uid
from test_dicom import dicom

from cxr_embed.errors import ImageError
from cxr_embed.images import decode_image
from cxr_embed.types import CxrImage


def pillow(pixels: np.ndarray, kind: str, **options: object) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


@pytest.fixture(scope="module")
def seeds(chest: Callable[..., np.ndarray]) -> dict[str, bytes]:
    """One small whole file of each kind, by a name with its suffix."""
    p12 = chest(5, 96)
    p8, p16 = (p12 >> 4).astype(np.uint8), p12 * 16
    run_length = pydicom.dcmread(io.BytesIO(dicom(p12, 12)))
    run_length.compress(uid.RLELossless)
    run_length.save_as(rle := io.BytesIO())
    jpeg2000 = imagecodecs.jpeg2k_encode(p12, level=0, reversible=True, codecformat="j2k", bitspersample=12)
    return {
        "8.png": pillow(p8, "PNG"),
        "16.png": pillow(p16, "PNG"),
        "a.jpg": pillow(p8, "JPEG", quality=90),
        "progressive.jpg": pillow(p8, "JPEG", progressive=True),
        "8.tif": pillow(p8, "TIFF"),
        "lzw.tif": pillow(p8, "TIFF", compression="tiff_lzw"),
        "deflate.tif": pillow(p16, "TIFF", compression="tiff_adobe_deflate"),
        "explicit.dcm": dicom(p12, 12, WindowCenter=2048, WindowWidth=4096),
        "implicit.dcm": dicom(p12, 12, uid.ImplicitVRLittleEndian),
        "deflated.dcm": dicom(p12, 12, uid.DeflatedExplicitVRLittleEndian),
        "rle.dcm": rle.getvalue(),
        "jpeg.dcm": dicom(p8, 8, uid.JPEGBaseline8Bit, imagecodecs.jpeg8_encode(p8, level=90)),
        "lossless.dcm": dicom(p12, 12, uid.JPEGLosslessSV1, imagecodecs.ljpeg_encode(p12, bitspersample=12)),
        "ls.dcm": dicom(p12, 12, uid.JPEGLSLossless, imagecodecs.jpegls_encode(p12)),
        "2000.dcm": dicom(p12, 12, uid.JPEG2000Lossless, jpeg2000),
    }


def mutate(data: bytes, rng: np.random.Generator) -> tuple[str, bytes]:
    """A random kind of damage."""
    bad = bytearray(data)
    at = int(rng.integers(0, len(bad)))
    match int(rng.integers(0, 7)):
        case 0:
            return "cut", bytes(bad[:at])
        case 1:
            for _ in range(int(rng.integers(1, 30))):
                bad[int(rng.integers(0, len(bad)))] = int(rng.integers(0, 256))
            return "bytes", bytes(bad)
        case 2:
            for _ in range(int(rng.integers(1, 6))):
                bad[int(rng.integers(0, min(len(bad), 700)))] = int(rng.integers(0, 256))
            return "header", bytes(bad)
        case 3:
            del bad[at : at + int(rng.integers(1, 200))]
            return "gap", bytes(bad)
        case 4:
            bad[at:at] = rng.bytes(int(rng.integers(1, 100)))
            return "insert", bytes(bad)
        case 5:
            bad[at:] = rng.bytes(len(bad) - at)
            return "tail", bytes(bad)
        case _:
            return "garbage", data[:8] + rng.bytes(len(data) - 8) if rng.random() < 0.5 else rng.bytes(len(data))


def mutated(seeds: dict[str, bytes], count: int, first: int = 0) -> Iterator[tuple[str, str, bytes]]:
    """`count` damaged files as name, kind of damage and contents."""
    names = list(seeds)
    for number in range(first, first + count):
        rng = np.random.default_rng(number)
        name = names[number % len(names)]
        kind, data = mutate(seeds[name], rng)
        yield name, kind, data


def outcome(data: bytes, suffix: str = "") -> str:
    """The kind of the error, or `ok` for a picture that is well formed."""
    try:
        image = decode_image(data, suffix)
    except ImageError as error:
        return error.kind
    assert_well_formed(image)
    return "ok"


def assert_well_formed(image: CxrImage) -> None:
    assert image.pixels.ndim == 2
    assert min(image.pixels.shape) >= 64
    assert image.pixels.dtype == (np.uint8 if image.bits <= 8 else np.uint16)
    assert image.pixels.max() <= image.max_value


def test_the_seeds_are_whole(seeds: dict[str, bytes]) -> None:
    assert {outcome(data, f".{name.rsplit('.')[-1]}") for name, data in seeds.items()} == {"ok"}


def test_200_mutated_files(seeds: dict[str, bytes]) -> None:
    outcomes = {}
    for number, (name, kind, data) in enumerate(mutated(seeds, 200)):
        result = outcome(data)
        outcomes[number, name, kind] = result
        if kind in ("cut", "garbage"):
            cut_end = kind == "cut" and len(seeds[name]) - len(data) <= 16  # an end marker's checksum or padding
            assert result != "ok" or cut_end, f"mutation {number} of {name} ({kind}) gave a picture"
        assert result not in ("no-decoder", "missing", "unreadable"), "damage was taken for a fault of the machine"
    failed = [result for result in outcomes.values() if result != "ok"]
    assert len(failed) > 100
    assert {"truncated", "corrupt", "not-an-image"} <= set(failed)


@pytest.mark.soak
def test_20000_mutated_files(seeds: dict[str, bytes]) -> None:
    for name, kind, data in mutated(seeds, 4_000 if IN_CI else 20_000, first=1000):
        result = outcome(data)
        assert kind != "garbage" or result != "ok", name
        assert result not in ("no-decoder", "missing", "unreadable"), name


def test_every_cut_is_noticed(seeds: dict[str, bytes]) -> None:
    for name, data in seeds.items():
        for cut in np.linspace(0, len(data) - 17, 40).astype(int):
            result = outcome(data[:cut])
            assert result in ("truncated", "corrupt", "not-an-image"), f"{name} cut to {cut} of {len(data)}: {result}"


def test_most_cuts_are_called_so(seeds: dict[str, bytes]) -> None:
    # In the middle of its pixels every format can tell that bytes are missing.
    for name, data in seeds.items():
        assert outcome(data[: int(len(data) * 0.8)]) == "truncated", name


def end_to_end(folder: Path, seeds: dict[str, bytes], count: int) -> None:
    """All failures are recorded, each by its reason; good files between them get their vectors."""
    from cxr_embed.pipeline.embedding import embed
    from cxr_embed.store.reader import Store

    rows, expected = [], {}
    good = {f"good{number}": (name, data) for number, (name, data) in enumerate(seeds.items())}
    bad = {f"bad{number}": (name, data) for number, (name, _, data) in enumerate(mutated(seeds, count))}
    for image_id, (name, data) in (good | bad).items():
        path = f"{image_id}.{name.rsplit('.')[-1]}"
        (folder / path).write_bytes(data)
        rows.append((image_id, path, image_id))
        expected[image_id] = outcome(data, Path(path).suffix) if data else "empty"
    with open(folder / "manifest.csv", "w", newline="") as file:
        csv.writer(file).writerows([("image_id", "path", "patient_id"), *rows])
    summary = embed(folder / "manifest.csv", encoder="hog", store=folder / "store", workers=2)
    failed = {failure.image_id: failure.kind for failure in summary.failed}
    assert failed == {image_id: kind for image_id, kind in expected.items() if kind != "ok"}
    store = Store(folder / "store")
    assert {failure.image_id: failure.kind for failure in store.failures} == failed
    assert len(store) == len(rows) - len(failed)
    again = embed(folder / "manifest.csv", encoder="hog", store=folder / "store", workers=2)
    assert again.embedded == 0
    assert {failure.image_id: failure.kind for failure in again.failed} == failed


def test_a_run_over_200_mutated_files(tmp_path: Path, seeds: dict[str, bytes]) -> None:
    end_to_end(tmp_path, seeds, 200)
