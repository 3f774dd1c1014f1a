"""Heat maps of odd input: deep, inverted, narrow and flat pictures, ids of any letters, vectors of other programs."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_dicom import dicom
from test_explain import stored
from test_explain_curves import BLOCK, ENCODER, SIDES

import cxr_embed as cx
from cxr_embed.encoders import load_encoder
from cxr_embed.errors import MapError, StoreError
from cxr_embed.store.forgotten import Forgotten, save_beside

RNG = np.random.default_rng(4)


def bright_at(top: int, left: int, share: int = 1) -> np.ndarray:
    """A picture of `SIDES`, or of multiples of them, with one bright block."""
    pixels = RNG.integers(0, 50, (SIDES[0] * share, SIDES[1] * share))
    pixels[top : top + BLOCK, left : left + BLOCK] = 230
    return pixels


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of the encoder that sees the brightest block."""
    root = tmp_path_factory.mktemp("odd")
    files = []
    for number in range(12):
        pixels = bright_at(0, 8 * number) if number % 2 else RNG.integers(0, 50, SIDES)
        files.append(root / f"i{number}.png")
        Image.fromarray(pixels.astype(np.uint8)).save(files[-1])
    store = stored(root / "store", files, load_encoder(ENCODER))
    return cx.train_probe(store, {"image_id": store.ids.tolist(), "Block": [n % 2 for n in range(12)]})


@pytest.mark.parametrize("inverted", [False, True])
def test_a_deep_dicom_file_has_its_map_where_its_evidence_is(probe: Any, tmp_path: Path, inverted: bool) -> None:
    pixels = (bright_at(40, 72) * 16).astype(np.uint16)
    kind = "MONOCHROME1" if inverted else "MONOCHROME2"
    stored_pixels = 4095 - pixels if inverted else pixels
    (tmp_path / "d.dcm").write_bytes(dicom(stored_pixels, 12, PhotometricInterpretation=kind))
    made = cx.explain([tmp_path / "d.dcm"], probe=probe, cells=8, out=tmp_path / "out")
    (record,) = made.folder.maps
    found = made.folder.load(record)
    assert np.unravel_index(found.argmax(), found.shape) == (5, 6)  # of cells of 8 x 12 pixels
    assert record.more["without_region"] < record.more["value"]
    assert (tmp_path / "out" / record.more["overlay"]).is_file()


def test_a_flat_picture_has_a_map_that_claims_nothing(probe: Any, tmp_path: Path) -> None:
    Image.new("L", SIDES[::-1], 90).save(tmp_path / "flat.png")
    made = cx.explain([tmp_path / "flat.png"], probe=probe, cells=4, out=tmp_path / "out")
    (record,) = made.folder.maps
    assert not made.folder.load(record).any()
    assert (record.more["region_part"], record.more["without_region"]) == (0, None)
    found = cx.evaluate_curves(tmp_path / "out", [tmp_path / "flat.png"], probe=probe, bootstraps=5)
    assert "1 map has one value everywhere: its pixels come in a random order" in found.notes
    curve = found.findings[0].curves["map"]
    assert np.ptp([curve["deletion"], curve["insertion"]]) < 1e-6


def test_narrow_pictures_and_ids_of_any_letters(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    ids = ["Fall 7, Bild „a“", "b/../c", "=1+1", "ä%20\u202e", 'd"e', "-x"]
    shapes = [(64, 1600), (1600, 64), (64, 64), (65, 127), (3000, 70), (90, 64)]
    lines = ["image_id,path,patient_id"]
    for number, (image_id, shape) in enumerate(zip(ids, shapes, strict=True)):
        Image.fromarray(RNG.integers(0, 255, shape).astype(np.uint8)).save(tmp_path / f"images/{number}.png")
        quoted = image_id.replace('"', '""')
        lines.append(f'"{quoted}",{number}.png,p{number}')
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options: dict[str, Any] = {"manifest": tmp_path / "manifest.csv", "root": tmp_path / "images"}
    made = cx.explain(like=ids[2], encoder="hog", cells=4, out=tmp_path / "out", **options)
    assert [record.image_id for record in made.folder.maps] == ids
    assert {record.map for record in made.folder.maps} == {f"maps/{number}.npy" for number in range(6)}
    assert sorted(path.name for path in (tmp_path / "out/overlays").iterdir()) == [f"{n}.png" for n in range(6)]
    found = cx.evaluate_curves(tmp_path / "out", [ids[1], ids[5]], like=ids[2], bootstraps=5, **options)
    assert [each.image_id for each in found.images] == [ids[1], ids[5]]


def test_vectors_of_another_program_have_no_model_to_ask(probe: Any, tmp_path: Path) -> None:
    spec = replace(probe.trained.spec, name="mini", weights="")
    imported = replace(probe, trained=replace(probe.trained, spec=spec))
    Image.new("L", SIDES).save(tmp_path / "i.png")
    with pytest.raises(
        MapError, match="the probe's vectors of mini were imported: no model here is known to be theirs"
    ):
        cx.explain([tmp_path / "i.png"], probe=imported, out=tmp_path / "out")


def test_whoever_is_forgotten_gets_no_map(probe: Any, tmp_path: Path) -> None:
    """By the list beside the key: by patient, and by file under whatever id."""
    key = tmp_path / "hospital.key"
    key.write_bytes(b"0123456789abcdef of a hospital")
    lines = ["image_id,path,patient_id"]
    for number in range(3):
        Image.fromarray(bright_at(0, 8 * number).astype(np.uint8)).save(tmp_path / f"i{number}.png")
        lines.append(f"i{number},i{number}.png,p{number}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    given = {"probe": probe, "manifest": tmp_path / "manifest.csv", "cells": 4, "maps_only": True, "key_file": key}
    assert len(cx.explain(**given, out=tmp_path / "all")) == 3
    gone = Forgotten(key.read_bytes())
    gone.add_patient("p0")
    gone.add_content(hashlib.sha256((tmp_path / "i1.png").read_bytes()).digest())
    save_beside(gone, key)
    made = cx.explain(**given, out=tmp_path / "some")
    assert [record.image_id for record in made.folder.maps] == ["i2"]
    assert "2 images are of forgotten patients or files: not explained" in made.notes
    with pytest.raises(MapError, match="all of these images are of forgotten"):
        cx.explain(["i0", "i1"], **given, out=tmp_path / "none")
    assert not (tmp_path / "none").exists()
    alike = {**given, "probe": None, "encoder": ENCODER}
    for like in ("i0", tmp_path / "i1.png"):
        with pytest.raises(MapError, match=r"of a forgotten patient or file \(`like`\)"):
            cx.explain(["i2"], **alike, like=like, out=tmp_path / "none")
    other = tmp_path / "other.key"
    other.write_bytes(b"fedcba9876543210 of another one")
    (tmp_path / "other.key.forgotten.json").write_bytes((tmp_path / "hospital.key.forgotten.json").read_bytes())
    with pytest.raises(StoreError, match="this is another key"):
        cx.explain(**{**given, "key_file": other}, out=tmp_path / "none")
