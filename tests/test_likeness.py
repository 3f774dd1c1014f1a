"""'Does not look like a chest radiograph': the check itself, and that runs, stores and their readers tell it."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import SPEC, fill, make_mean, row, run_cli, vectors
from PIL import Image, ImageDraw

from cxr_embed import load_encoder, open_store, read_manifest
from cxr_embed.errors import CxrEmbedError
from cxr_embed.images import likeness, looks_like_chest, read_image
from cxr_embed.phantom import render_study, sample_studies
from cxr_embed.pipeline.embedding import embed
from cxr_embed.store import StoreWriter, layout, verify_store


def plain_thumbnail(pixels: np.ndarray, max_value: int) -> np.ndarray:
    """Block by block."""
    side = min(pixels.shape)
    top, left = (pixels.shape[0] - side) // 2, (pixels.shape[1] - side) // 2
    square = pixels[top : top + side, left : left + side] / max_value
    step = max(1, side // 128)
    square = square[::step, ::step]
    edges = [number * len(square) // 32 for number in range(33)]
    blocks = [slice(*pair) for pair in itertools.pairwise(edges)]
    means = np.array([[square[down, across].mean() for across in blocks] for down in blocks])
    return ((means - means.mean()) / max(means.std(), 0.025)).ravel()


@pytest.mark.parametrize("shape", [(32, 32), (33, 47), (160, 160), (511, 300), (1100, 2000)])
def test_thumbnails_are_means_of_blocks(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(1).integers(0, 4096, shape).astype(np.uint16)
    np.testing.assert_allclose(likeness.thumbnail(pixels, 4095), plain_thumbnail(pixels, 4095), atol=2e-4)


def page() -> np.ndarray:
    picture = Image.new("L", (400, 500), 255)
    pen = ImageDraw.Draw(picture)
    for line in range(20, 480, 16):
        pen.text((20, line), "the quick brown fox jumps over the lazy dog and back again", fill=0)
    return np.asarray(picture)


def photographs() -> dict[str, np.ndarray]:
    """Grey pictures that come with scikit-image."""
    from skimage import color, data

    names = ("camera", "coins", "page", "text", "brick", "grass", "gravel", "moon")
    grey = {name: getattr(data, name)() for name in names}
    for name in ("astronaut", "coffee"):
        grey[name] = (color.rgb2gray(getattr(data, name)()) * 255).astype(np.uint8)
    return grey


def test_what_is_no_radiograph_is_seen() -> None:
    level = np.tile(np.linspace(0, 255, 200).astype(np.uint8), (200, 1))
    noise = np.random.default_rng(0).integers(0, 256, (300, 300)).astype(np.uint8)
    others = {"blank": np.zeros((300, 300), np.uint8), "level": level, "noise": noise, "page": page()}
    passed = [name for name, pixels in {**photographs(), **others}.items() if looks_like_chest(pixels, 255)]
    assert passed == []


def test_pictures_smaller_than_the_thumbnail_are_none() -> None:
    assert not looks_like_chest(np.ones((31, 400), np.uint8), 255)


def test_chests_pass_upright_only() -> None:
    phantoms = [render_study(study, 256).pixels for study in sample_studies(40, seed=31_337)]
    assert np.mean([looks_like_chest(pixels, 4095) for pixels in phantoms]) >= 0.9
    for turned in (lambda p: p[::-1], np.rot90, lambda p: 4095 - p):
        assert np.mean([looks_like_chest(turned(pixels), 4095) for pixels in phantoms]) <= 0.1


def test_real_radiographs_pass(real_data: Path) -> None:
    rows = list(csv.DictReader((real_data / "nih" / "manifest.csv").open()))
    images = [read_image(real_data / "nih" / row["path"]) for row in rows if row["split"] == "train"][::5]
    assert np.mean([looks_like_chest(image.pixels, image.max_value) for image in images]) >= 0.98


# Runs and stores


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A manifest of two phantoms, a page, and the page again under another name."""
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number, study in enumerate(sample_studies(2, seed=5)):
        Image.fromarray((render_study(study, 128).pixels >> 4).astype(np.uint8)).save(folder / f"c{number}.png")
    for name in ("p", "q"):
        Image.fromarray(page()).save(folder / f"{name}.png")
    rows = [f"{name},{name}.png,{name}" for name in ("c0", "p", "c1", "q")]
    (folder / "manifest.csv").write_text("\n".join(["image_id,path,patient_id", *rows]) + "\n")
    return folder / "manifest.csv"


def test_a_run_tells_them_and_the_store_keeps_it(mixed: Path, tmp_path: Path) -> None:
    done = run_cli("embed", str(mixed), "--store", "s", "--encoder", "hog", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "note: 2 images do not look like chest radiographs (p, q); embedded all the same" in done.stdout
    store = open_store(tmp_path / "s")
    assert dict(zip(store.ids.tolist(), store.unlike_chest.tolist(), strict=True)) == {
        "c0": False,
        "p": True,
        "c1": False,
        "q": True,
    }
    assert verify_store(tmp_path / "s") == []
    told = run_cli("store", "info", "s", cwd=tmp_path)
    assert "not a chest  2 by the look of them: " in told.stdout
    assert sorted(json.loads(run_cli("store", "info", "s", "--json", cwd=tmp_path).stdout)["unlike_chest"]) == [
        "p",
        "q",
    ]
    again = run_cli("embed", str(mixed), "--store", "s", "--encoder", "hog", "--json", cwd=tmp_path)
    assert json.loads(again.stdout)["unlike_chest"] == []  # nor of files so fresh that they are read again
    Image.fromarray(page()).save(mixed.with_name("r.png"))
    with mixed.open("a") as file:
        file.write("r,r.png,r\n")
    later = run_cli("embed", str(mixed), "--store", "s", "--encoder", "hog", "--json", cwd=tmp_path)
    assert json.loads(later.stdout)["unlike_chest"] == ["r"]  # a copy that comes later is told too


def test_an_encoder_of_your_own_is_looked_after_too(mixed: Path, tmp_path: Path) -> None:
    summary = embed(mixed, make_mean("mean"), tmp_path / "s")
    assert sorted(summary.unlike_chest) == ["p", "q"]
    assert summary.to_json()["unlike_chest"] == ["p", "q"]
    one = mixed.with_name("one.csv")
    one.write_text("image_id,path,patient_id\np,p.png,p\n")
    told = run_cli("embed", str(one), "--store", "t", "--encoder", "hog", cwd=tmp_path).stdout
    assert "note: 1 image does not look like a chest radiograph (p); embedded all the same" in told


def test_stores_from_before_the_check_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as older:
        older.setattr(layout, "ROW_SCHEMA", layout.OLDER_ROW_SCHEMA)
        fill(tmp_path / "s", range(3), shard=3)
    store = open_store(tmp_path / "s")
    assert not store.unlike_chest.any()
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        unlike = layout.Row(**{**vars(row(3)), "unlike_chest": True})
        writer.add_vector(unlike, vectors(3))
        writer.flush("toy engine")
    store = open_store(tmp_path / "s")
    assert store.ids[store.unlike_chest].tolist() == ["i3"]
    assert verify_store(tmp_path / "s") == []


def test_a_damaged_installation_blames_no_radiograph(
    make_images: Callable[[int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged = tmp_path / "likeness.safetensors"
    monkeypatch.setattr(likeness, "WEIGHTS", damaged)
    likeness.check_weights.cache_clear()
    manifest = read_manifest(make_images(2))
    for content in (None, b"not safetensors"):
        if content is not None:
            damaged.write_bytes(content)
        with pytest.raises(CxrEmbedError, match=r"likeness.safetensors of cxr-embed is damaged .* install it again"):
            embed(manifest, encoder=load_encoder("hog"), store=tmp_path / "store")
    likeness.check_weights.cache_clear()
