"""Heat maps: exact where they say so, at the picture's own place, checked by hiding, refused in one line."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import row
from PIL import Image
from typer.testing import CliRunner

import cxr_embed as cx
from cxr_embed.api.explain import Explanation
from cxr_embed.cli import app
from cxr_embed.encoders import CheckedEncoder, load_encoder
from cxr_embed.encoders.networks import densenet121
from cxr_embed.encoders.weights import random_weights, save_weights
from cxr_embed.errors import CxrEmbedError, MapError
from cxr_embed.explanation.cam import cam_maps, layer_of
from cxr_embed.explanation.hiding import Hidden
from cxr_embed.explanation.occlusion import occlusion_maps, pictures_an_image
from cxr_embed.explanation.overlay import draw_overlay, shown_size
from cxr_embed.explanation.record import read_maps
from cxr_embed.explanation.targets import Linear, of_probe
from cxr_embed.phantom import write_phantoms
from cxr_embed.probe import LinearProbe
from cxr_embed.store import Store, StoreWriter, open_store
from cxr_embed.types import CxrImage

FINDINGS = ["Cardiomegaly", "Effusion"]
RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 phantoms, their vectors by mini, and probes: linear, and of nearest neighbours."""
    root = tmp_path_factory.mktemp("world")
    write_phantoms(root / "cases", 24, seed=3, size=96)
    store = stored(root / "store", files(root, 24), load_encoder("mini", precision="float32"))
    for kind in ("linear", "knn"):
        cx.train_probe(store, root / "cases/manifest.csv", findings=FINDINGS, kind=kind).save(root / kind)  # type: ignore[arg-type]
    return root


def stored(path: Path, images: Sequence[Path], encoder: CheckedEncoder) -> Store:
    """The vectors of images, float32, without a run's processes."""
    answer = encoder.embed(np.stack([encoder.preprocess(read(image)) for image in images]))
    with StoreWriter(path, encoder.spec, dtype="float32") as writer:
        for number, image in enumerate(images):
            vectors = {output: found[number] for output, found in answer.items()}
            writer.add_vector(
                replace(row(number), image_id=image.stem, patient_id=image.stem.rpartition("-")[0]), vectors
            )
        writer.flush("here")
    return open_store(path)


def files(world: Path, count: int) -> list[Path]:
    with open(world / "cases/manifest.csv", newline="") as file:
        return [world / "cases" / row["path"] for row in csv.DictReader(file)][:count]


def sums_are_logits(made: Explanation) -> None:
    """Of every map, against the value that the record has, which the probe itself computed."""
    for record in made.folder.maps:
        found = made.folder.load(record).sum(dtype=np.float64) + record.more["intercept"]
        assert found == pytest.approx(record.more["value"], rel=1e-5)
        assert record.score == pytest.approx(1 / (1 + np.exp(-record.more["value"])))


def test_a_map_of_mini_sums_to_the_probe_s_logit(world: Path, tmp_path: Path) -> None:
    images = files(world, 6)
    made = cx.explain(images, probe=world / "linear", out=tmp_path / "out")
    assert len(made) == 12
    assert made.folder.about["method"] == "cam"
    sums_are_logits(made)
    probe = cx.load_probe(world / "linear").trained.probe
    logits = probe.decision_function(cx.embed_images(images, output="features", precision="float32"))
    values = np.array([record.more["value"] for record in made.folder.maps]).reshape(6, 2)
    assert values == pytest.approx(logits, rel=1e-4, abs=1e-4)
    assert {made.folder.load(record).shape for record in made.folder.maps} == {(28, 28)}


def test_mini_s_map_is_what_its_features_are_of(world: Path) -> None:
    encoder = load_encoder("mini", precision="float32", outputs=["features", "contrastive", "map"])
    plain = load_encoder("mini", precision="float32")
    batch = np.stack([encoder.preprocess(read(path)) for path in files(world, 2)])
    found, own = encoder.embed(batch), plain.embed(batch)
    assert found["features"] == pytest.approx(own["features"], abs=1e-5)
    assert found["contrastive"] == pytest.approx(own["contrastive"], abs=1e-5)
    assert encoder.maxima == 64
    assert found["map"][..., -64:].max(axis=(1, 2)) == pytest.approx(found["features"][:, -64:])


def test_a_map_of_densenet_sums_to_the_probe_s_logit(world: Path, tmp_path: Path) -> None:
    weights = tmp_path / "d.safetensors"
    save_weights(weights, random_weights(densenet121, 0), "random numbers (seed 0): not a trained model")
    encoder = load_encoder("densenet121", weights=weights, precision="float32")
    store = stored(tmp_path / "store", files(world, 6), encoder)
    labels = {"image_id": store.ids.tolist(), "Effusion": [0, 1, 0, 1, 0, 1]}
    probe = cx.train_probe(store, labels)
    made = cx.explain(files(world, 2), probe=probe, weights=weights, maps_only=True, out=tmp_path / "out")
    assert (made.folder.about["method"], made.folder.about["layer"]) == ("cam", "map")
    assert made.folder.load(made.folder.maps[0]).shape == (7, 7)
    assert not (tmp_path / "out/overlays").exists()
    sums_are_logits(made)


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm: pip install 'cxr-embed[torch]'")
def test_of_timm_s_networks_only_those_that_end_in_a_mean_are_exact(world: Path, tmp_path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    for name, exact in (("test_resnet", True), ("test_convnext", False)):
        torch.manual_seed(0)
        save_file(timm.create_model(name).state_dict(), tmp_path / f"{name}.safetensors")
        options: dict[str, Any] = {"weights": tmp_path / f"{name}.safetensors"}
        images = files(world, 6)
        encoder = load_encoder(f"timm:{name}", precision="float32", **options)
        batch = np.stack([encoder.preprocess(read(path)) for path in images])
        vectors = encoder.embed(batch)["features"]
        probe = LinearProbe(1.0).fit(vectors, np.array([0, 1, 0, 1, 0, 1]))
        linear = Linear(probe.coef_ / probe.scale_, probe.mean_, probe.intercept_, "mean")
        both = load_encoder(f"timm:{name}", precision="float32", outputs=["features", "map"], **options)
        answer = both.embed(batch[:1])
        if not exact:  # it normalises after the mean
            with pytest.raises(MapError, match="not means of the map"):
                cam_maps(linear, answer["map"][0], 0, answer["features"][0])
            labels = {"image_id": [path.stem for path in images], "Effusion": [0, 1, 0, 1, 0, 1]}
            trained = cx.train_probe(stored(tmp_path / "store", images, encoder), labels)
            made = cx.explain(images[:1], probe=trained, out=tmp_path / "out", cells=4, maps_only=True, **options)
            assert made.folder.about["method"] != "cam"
            with pytest.raises(MapError, match="not means of the map"):
                cx.explain(images[:1], probe=trained, method="cam", out=tmp_path / "no", **options)
            continue
        found = cam_maps(linear, answer["map"][0], 0, answer["features"][0]).sum() + probe.intercept_[0]
        assert found == pytest.approx(probe.decision_function(vectors[:1])[0, 0], rel=1e-5)


@pytest.mark.parametrize("pool", ["mean", "max", "flatten"])
def test_a_probe_on_a_grid_has_its_shares_in_its_cells(pool: str) -> None:
    grids = RNG.standard_normal((20, 4, 5, 6)).astype(np.float32)
    probe = LinearProbe(1.0, pool=pool).fit(grids, np.arange(20) % 2)
    linear = Linear(probe.coef_ / probe.scale_, probe.mean_, probe.intercept_, pool)
    for grid in grids[:3]:
        found = cam_maps(linear, grid)
        assert found.shape == (1, 4, 5)
        assert found.sum() + probe.intercept_[0] == pytest.approx(probe.decision_function(grid[None])[0, 0], rel=1e-5)


def test_means_lie_over_their_map_and_a_maximum_at_its_place() -> None:
    grid = np.zeros((28, 28, 3), np.float32)
    grid[5, 20, 0], grid[22, 4, 2] = 784, 3
    linear = Linear(np.array([[1.0, 0, 0], [0, 0, 1.0]]), np.array([0.25, 0, 1.0]), np.zeros(2), "mean")
    mean, maximum = cam_maps(linear, grid, 1, np.array([1, 0, 3], np.float32))
    assert mean[5, 20] == pytest.approx(1 - 0.25 / 784)
    assert mean[0, 0] == pytest.approx(-0.25 / 784)
    assert np.unravel_index(maximum.argmax(), maximum.shape) == (22, 4)
    assert maximum.sum() == pytest.approx(2)
    assert maximum[22, 4] < 0.1 < maximum[18:27, 0:9].sum()  # spread over the cells around it, nothing lost


class _Patch:
    """An encoder whose vector is the brightness of a part of the picture, above a third from the left."""

    spec = load_encoder("hog").spec
    engine = "numpy"

    def __init__(self) -> None:
        self.spec = replace(type(self).spec, name="patch", outputs={"features": (1,)})
        self.seen = 0

    def preprocess(self, image: CxrImage) -> np.ndarray:
        return image.pixels.astype(np.float32)

    def embed(self, batch: Any) -> dict[str, np.ndarray]:
        self.seen += len(batch)
        return {"features": np.stack([each[24:36, 72:84].mean(keepdims=True)[0] for each in batch])}


@pytest.mark.parametrize("fill", ["blur", "grey"])
def test_occlusion_finds_what_matters(fill: Any) -> None:
    pixels = RNG.integers(0, 60, (84, 168)).astype(np.uint8)
    pixels[24:36, 72:84] = 250
    encoder = _Patch()
    image = CxrImage(pixels=pixels, bits=8, content_id="", source="png")

    def values(images: Sequence[CxrImage]) -> np.ndarray:
        return encoder.embed([encoder.preprocess(each) for each in images])["features"].astype(np.float64)

    whole, counted = values([image])[0], []
    (found,) = occlusion_maps(values, image, whole, 14, fill, counted.append)
    assert np.unravel_index(found.argmax(), found.shape) == (4, 6)  # cells of 6 x 12 pixels: rows 4 and 5, column 6
    assert found[4:6, 6].sum() > 0.8 * found.sum() > 0
    assert encoder.seen == sum(counted) + 1 == pictures_an_image(14) == 146


def test_what_is_hidden_looks_like_the_picture_from_afar() -> None:
    ramp = np.tile(np.linspace(0, 4000, 140), (70, 1)).astype(np.uint16)
    ramp[30:40, 60:70] += 90  # a thing of some pixels
    image = CxrImage(pixels=ramp, bits=12, content_id="", source="dicom")
    mask = np.zeros(ramp.shape, bool)
    mask[20:50, 50:80] = True
    blurred = Hidden(image, "blur").without(mask).pixels
    assert (blurred[~mask] == ramp[~mask]).all()
    assert blurred.dtype == np.uint16
    smooth = np.tile(np.linspace(0, 4000, 140), (70, 1))[mask]
    assert np.abs(blurred[mask] - smooth).max() < 120
    grey = Hidden(image, "grey").without(mask).pixels
    assert set(grey[mask].tolist()) == {round(float(ramp.mean()))}


def test_an_overlay_has_its_colours_where_the_map_is() -> None:
    pixels = np.tile(np.linspace(0, 255, 400).astype(np.uint8), (500, 1))
    values = np.full((500, 400), -1, np.float32)
    values[100:150, 300:350] = 2
    data = draw_overlay(pixels, values, values > 0, "log odds", ["Nodule: 1", "mini: cam"], "case/7")
    picture = Image.open(io.BytesIO(data))
    assert json.loads(picture.text["cxr_embed image_id"]) == ["case/7"]  # type: ignore[attr-defined]
    shown = np.asarray(picture).astype(int)
    assert shown.shape[0] > 500 < shown.shape[0]
    inside, outside = shown[125, 325], shown[400, 100]
    assert inside[0] > inside[2] + 60  # warm
    assert outside[0] == outside[1] == outside[2]  # grey
    coloured = np.ptp(shown[:500, :400], axis=-1) > 0
    assert coloured[100:150, 300:350].all()
    assert not coloured[:90].any()
    assert not coloured[:, :290].any()


@pytest.mark.parametrize("shape", [(64, 3000), (3000, 64), (64, 64), (65, 1500)])
def test_an_overlay_of_any_sides_has_room_for_its_words(shape: tuple[int, int]) -> None:
    pixels = RNG.integers(0, 255, shape).astype(np.uint8)
    values = np.zeros(shape, np.float32)
    values[20:30, 20:30] = 1
    data = draw_overlay(pixels, values, values > 0, "log odds", ["Nodule: log odds 1.000", "x" * 30], "i")
    picture = Image.open(io.BytesIO(data))
    assert picture.width >= 320
    assert picture.height >= 130
    beside = np.asarray(picture)[:100, shown_size(*shape)[0] :].astype(int)
    assert np.ptp(beside, axis=-1).max() > 60  # the colour bar


def test_what_a_map_points_at_is_hidden_and_the_value_falls(world: Path, tmp_path: Path) -> None:
    made = cx.explain(files(world, 8), probe=world / "linear", findings="Effusion", out=tmp_path / "out")
    found = made.to_arrow().to_pylist()
    falls = [row["value"] - row["without_region"] for row in found if row["without_region"] is not None]
    others = [row["value"] - row["without_elsewhere"] for row in found if row["without_region"] is not None]
    assert len(falls) > 4
    assert np.mean(falls) > np.mean(others)
    for record in made.folder.maps:
        assert (tmp_path / "out" / record.more["overlay"]).is_file()
        assert record.more["line"] == "cam, layer map (28 x 28 cells); not measured"
        assert "not a medical device" in record.more["note"]


def test_a_prompt_s_map_and_the_head_s_bias_are_its_cosine(world: Path, tmp_path: Path) -> None:
    (image,), prompts = files(world, 1), ["large pleural effusion", "cardiomegaly"]
    made = cx.explain([image], prompt=prompts, out=tmp_path / "out", maps_only=True)
    assert made.folder.about["words"] == "cam, layer map (28 x 28 cells)"
    encoder = load_encoder("mini", precision="float32")
    weight, bias = encoder.projections["contrastive"]
    features = encoder.embed(encoder.preprocess(read(image))[None])["features"][0]
    without = encoder.embed_text(prompts) @ bias / np.linalg.norm(weight @ features + bias)
    for record, lacking in zip(made.folder.maps, without, strict=True):
        found = made.folder.load(record).sum(dtype=np.float64) + lacking
        assert found == pytest.approx(record.more["value"], abs=1e-5)


def test_words_and_cases_by_occlusion(world: Path, tmp_path: Path) -> None:
    (image, other), lines = files(world, 2), []
    squares: dict[str, Any] = {"method": "occlusion", "cells": 4}
    words = "large pleural effusion"
    made = cx.explain([image], prompt=words, out=tmp_path / "words", announce=lines.append, **squares)
    assert made.folder.about["words"] == "occlusion, 4 x 4 squares of the picture, hidden by blur"
    assert lines[0].startswith("occlusion embeds 13 pictures an image: 13 in all, about ")
    record = made.folder.maps[0]
    with_words = load_encoder("mini", precision="float32")
    answer = with_words.embed(with_words.preprocess(read(image))[None])["contrastive"][0]
    assert record.score == pytest.approx(float(answer @ with_words.embed_text([words])[0]), abs=1e-5)
    alike = cx.explain([image], like=image, out=tmp_path / "like", encoder="hog", **squares)
    assert alike.folder.maps[0].score == pytest.approx(1, abs=1e-6)
    manifest, ids = world / "cases/manifest.csv", [other.stem]
    by_id = cx.explain(ids, manifest=manifest, like=image.stem, out=tmp_path / "id", maps_only=True, **squares)
    assert (by_id.folder.maps[0].image_id, by_id.folder.maps[0].finding) == (other.stem, f"like {image.stem}")
    assert by_id.folder.maps[0].patient_id


def test_a_measured_figure_stands_under_the_maps_that_it_is_of(world: Path, tmp_path: Path) -> None:
    plain = cx.explain(files(world, 1), probe=world / "linear", out=tmp_path / "plain", maps_only=True)
    hit = {"value": 0.86, "low": 0.75, "high": 0.94}
    row = {"finding": "Effusion", "images": 57, "figures": {"map": {"hit_rate": hit}}}
    about = dict(plain.folder.about)
    (tmp_path / "m.json").write_text(json.dumps({"about": about, "findings": [row]}))
    made = cx.explain(files(world, 1), probe=world / "linear", out=tmp_path / "out", measured=tmp_path / "m.json")
    lines = {record.finding: record.more["line"] for record in made.folder.maps}
    assert lines["Effusion"].endswith("; measured: highest point in the marked place in 86% (75 to 94%) of 57")
    assert lines["Cardiomegaly"].endswith("; not measured")
    (tmp_path / "m.json").write_text(json.dumps({"about": {**about, "fingerprint": "0"}, "findings": [row]}))
    with pytest.raises(MapError, match="measured on maps of mini"):
        cx.explain(files(world, 1), probe=world / "linear", out=tmp_path / "no", measured=tmp_path / "m.json")
    assert not (tmp_path / "no").exists()


def test_the_verb_goes_on_after_a_broken_image(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    (tmp_path / "good.png").write_bytes(files(world, 1)[0].read_bytes())
    words = ["explain", "broken.png", "good.png", "--probe", str(world / "linear"), "--finding", "Effusion"]
    done = CliRunner().invoke(app, [*words, "--out", "out"])
    assert done.exit_code == 1
    assert "failed: broken: " in done.stderr
    assert "mini: cam, layer map (28 x 28 cells); not measured" in done.stdout
    assert "not a medical device" in done.stdout
    assert [record.image_id for record in read_maps(tmp_path / "out").maps] == ["good"]
    again = CliRunner().invoke(app, [*words, "--out", "out"])
    assert "not an empty folder" in str(again.exception)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "one of a `probe`"),
        ({"probe": "linear", "prompt": "edema"}, "one of a `probe`"),
        ({"prompt": "edema", "findings": "Effusion"}, "`findings` are a probe's"),
        ({"probe": "linear", "findings": "Gout"}, "no finding 'Gout'; it has Cardiomegaly, Effusion"),
        ({"probe": "linear", "encoder": "hog"}, "reads vectors of mini, not of hog"),
        ({"probe": "knn", "method": "cam"}, "the probe is knn, not linear; use `method='occlusion'`"),
        ({"prompt": "edema", "method": "patch"}, "mini has no patches in one space with contrastive; use"),
        ({"prompt": "edema", "encoder": "hog"}, "hog embeds no prompts"),
        ({"prompt": "edema", "cells": 7}, "an even number from 4 to 64, not 7"),
        ({"like": "nobody"}, "nobody: neither a file nor an image"),
        ({"probe": "linear", "images": ["gone.png"]}, "gone.png: no such file"),
        ({"probe": "linear", "images": ["gone"], "manifest": "cases/manifest.csv"}, "no image 'gone'"),
        ({"probe": "linear", "images": ["linear/probe.json"]}, "no PNG, JPEG, TIFF or DICOM"),
        ({"probe": "linear", "measured": "linear/probe.json"}, "not what `explain evaluate --json` prints"),
    ],
)
def test_what_cannot_be_explained_is_said_in_a_line(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(world)
    images = options.pop("images", [files(world, 1)[0]])
    with pytest.raises(CxrEmbedError, match=message.replace("(", r"\(")) as caught:
        cx.explain(images, out=tmp_path / "out", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_probe_of_other_weights_is_refused(world: Path, tmp_path: Path) -> None:
    opened = cx.load_probe(world / "linear")
    other = replace(opened, trained=replace(opened.trained, spec=replace(opened.trained.spec, weights="0" * 64)))
    with pytest.raises(MapError, match="the encoder here is another one"):
        cx.explain(files(world, 1), probe=other, out=tmp_path / "out")


def test_features_that_are_no_means_are_not_taken_for_some() -> None:
    spec = replace(CheckedEncoder(load_encoder("hog").encoder).spec)
    probe = LinearProbe(1.0).fit(RNG.standard_normal((8, 3)), np.arange(8) % 2)
    trained: Any = type("T", (), {"findings": ("a",), "undefined": {}, "probe": probe, "output": "features"})
    with pytest.raises(MapError, match="features of hog is not known to be a mean of a map"):
        layer_of(of_probe(trained, ()), spec)


def read(path: Path) -> CxrImage:
    from cxr_embed.images import read_image

    return read_image(path)
