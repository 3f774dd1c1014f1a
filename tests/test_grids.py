"""Maps and patches: the library's own tensors, where their cells lie on the picture, and as tokens of a store."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_cli

import cxr_embed as cx
from cxr_embed.api.search import build_index, open_index
from cxr_embed.cli.embed_progress import SizeFirst
from cxr_embed.encoders import ENCODERS
from cxr_embed.encoders.networks import densenet121, resnet50
from cxr_embed.encoders.weights import random_weights, save_weights
from cxr_embed.errors import CaseIndexError, EncoderError
from cxr_embed.grids import Grid, middle
from cxr_embed.pipeline.embedding import embed, plan_embedding
from cxr_embed.pipeline.summary import EmbedSummary
from cxr_embed.probe.features import ProbeError, StoreSource, read_pooled
from cxr_embed.store import Store
from cxr_embed.types import CxrImage, EncoderSpec

TALL, WIDE = (300, 200), (210, 330)


def picture(pixels: np.ndarray) -> CxrImage:
    return CxrImage(pixels=pixels, bits=8, content_id="", source="png")


def marked(size: tuple[int, int], grid: Grid, shape: tuple[int, ...], cell: tuple[int, int]) -> np.ndarray:
    """A dark picture that is bright in the middle of one cell."""
    top, left, bottom, right = grid.on(*size)
    rows, columns = shape[:2]
    pixels = np.zeros(size, np.uint8)
    down, across = (bottom - top) / rows, (right - left) / columns
    y, x = top + (cell[0] + 0.5) * down, left + (cell[1] + 0.5) * across
    box = [round(edge) for edge in (y - 0.25 * down, y + 0.25 * down, x - 0.25 * across, x + 0.25 * across)]
    assert box[0] >= 0 and box[2] >= 0 and box[1] <= size[0] and box[3] <= size[1]  # noqa: PT018
    assert box[0] < box[1]
    assert box[2] < box[3]
    pixels[box[0] : box[1], box[2] : box[3]] = 255
    return pixels


def assert_in_its_cell(see: Callable[[np.ndarray], np.ndarray], grid: Grid, shape: tuple[int, ...], step: int) -> None:
    """What is bright in a cell's place on the picture is bright in that cell of the input `(C, S, S)`."""
    for size in (TALL, WIDE):
        dark = see(np.zeros(size, np.uint8))
        for cell in ((shape[0] // 2, shape[1] // 2), (shape[0] // 2 - 1, shape[1] // 2)):
            light = np.abs(see(marked(size, grid, shape, cell)).astype(np.float64) - dark).sum(axis=0)
            rows, columns = (slice(step * number, step * (number + 1)) for number in cell)
            assert light[rows, columns].sum() > 0.97 * light.sum(), (size, cell)


def test_a_grid_lies_where_its_fit_says() -> None:
    assert Grid("whole").on(300, 200) == (0, 0, 300, 200)
    assert Grid("inside").on(300, 200) == (50, 0, 250, 200)
    assert Grid("around").on(300, 200) == (0, -50, 300, 250)
    assert Grid("inside", middle(0.5)).on(300, 200) == (100, 50, 200, 150)
    assert Grid("inside").words == "the square in the picture's middle, as wide as its shorter side"
    assert (
        Grid("whole", (0, 0, 0.5, 1)).words
        == "of the whole picture, 0% to 50% from the top and 0% to 100% from the left"
    )
    spec = EncoderSpec("x", revision="1", preprocessing="", outputs={"map": (2, 2, 3)}, grids={"map": Grid("inside")})
    assert EncoderSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    bare = replace(spec, grids={})
    assert bare.fingerprint == spec.fingerprint  # it follows from the pixels, which are in it
    assert "grids" not in bare.to_json()


@pytest.fixture(scope="module")
def densenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "densenet.safetensors"
    save_weights(path, random_weights(densenet121, 0), "random numbers (seed 0): not a trained model")
    return path


@pytest.fixture(scope="module")
def torchvisions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """torchvision's DenseNet-121, and its tensors as `chexnet` reads them."""
    torch = pytest.importorskip("torch", reason="the peer")
    torchvision = pytest.importorskip("torchvision", reason="the peer")
    torch.manual_seed(0)
    model = torchvision.models.densenet121(weights=None).eval()
    path = tmp_path_factory.mktemp("weights") / "chexnet.safetensors"
    state = {name: value.numpy() for name, value in model.state_dict().items() if value.ndim}
    save_weights(path, state, "random numbers: not a trained model")
    return model, path


def load(name: str, weights: Path, outputs: list[str], **options: Any) -> Any:
    return cx.load_encoder(name, weights=weights, outputs=outputs, device="cpu", precision="float32", **options)


def test_densenets_map_is_torchvisions_and_its_mean_the_features(torchvisions: tuple[Any, Path]) -> None:
    import torch

    model, path = torchvisions
    encoder = load("chexnet", path, ["map", "features"])
    assert encoder.spec.outputs == {"features": (1024,), "map": (7, 7, 1024)}
    noise = np.random.default_rng(0).standard_normal((2, 3, 224, 224)).astype(np.float32)
    with torch.inference_mode():
        theirs = torch.relu(model.features(torch.from_numpy(noise))).permute(0, 2, 3, 1).numpy()
    found = encoder.embed(noise)
    np.testing.assert_allclose(found["map"], theirs, atol=1e-4 * theirs.max(), rtol=0)
    alone = load("chexnet", path, ["features"]).embed(noise)["features"]
    np.testing.assert_allclose(found["map"].mean(axis=(1, 2)), alone, atol=1e-4 * alone.max(), rtol=0)
    np.testing.assert_allclose(found["features"], alone, atol=1e-4 * alone.max(), rtol=0)


@pytest.mark.soak
def test_resnets_map_has_the_features_as_its_mean(tmp_path: Path) -> None:
    save_weights(tmp_path / "r.safetensors", random_weights(resnet50, 0), "random numbers: not a trained model")
    noise = np.random.default_rng(0).uniform(-1024, 1024, (1, 1, 512, 512)).astype(np.float32)
    found = load("resnet50", tmp_path / "r.safetensors", ["features", "map"]).embed(noise)
    alone = load("resnet50", tmp_path / "r.safetensors", ["features"]).embed(noise)["features"]
    assert found["map"].shape == (1, 16, 16, 2048)
    np.testing.assert_allclose(found["map"].mean(axis=(1, 2)), alone, atol=1e-4 * np.abs(alone).max(), rtol=0)


@pytest.mark.parametrize("name", ["densenet121", "chexnet"])
def test_a_map_lies_where_the_pixels_are_taken(name: str, densenet: Path, request: pytest.FixtureRequest) -> None:
    path = densenet if name == "densenet121" else request.getfixturevalue("torchvisions")[1]
    encoder = load(name, path, ["map"])
    grid, shape = encoder.spec.grids["map"], encoder.spec.outputs["map"]
    assert_in_its_cell(lambda pixels: encoder.preprocess(picture(pixels)), grid, shape, 32)


def test_nothing_of_it_is_stored_unless_asked_for(densenet: Path) -> None:
    for card in ENCODERS.values():
        grids = {output for output, shape in card.outputs.items() if len(shape) == 3} | set(card.on_request)
        assert not grids & set(card.default_outputs or card.outputs), card.name
    assert load("densenet121", densenet, ["features"]).spec.grids == {}
    plain = cx.load_encoder("densenet121", weights=densenet, device="cpu", precision="float32").spec
    assert plain.outputs == {"features": (1024,)}


# Encoders of torch


@pytest.fixture(scope="module")
def tiny() -> Any:
    pytest.importorskip("torch", reason="the torch encoders need torch: pip install 'cxr-embed[torch]'")
    pytest.importorskip("transformers", reason="needs transformers: pip install 'cxr-embed[torch]'")
    import tiny_checkpoints

    return tiny_checkpoints


SIDES = {"image_size": 64, "patch_size": 16}


def make_checkpoint(tiny: Any, folder: Path, kind: str) -> int:
    """A checkpoint of 4 x 4 patches, saved with its processor; how many tokens stand before them."""
    import transformers as t

    if kind in ("clip", "siglip"):
        tiny.save_dual(folder, kind, **SIDES)
        return int(kind == "clip")
    whole = {**tiny.VISION, **SIDES}
    small = {key: value for key, value in whole.items() if key != "intermediate_size"}
    made, before = {
        "clip_vision_model": (lambda: t.CLIPVisionModel(t.CLIPVisionConfig(**whole)), 1),
        "siglip_vision_model": (lambda: t.SiglipVisionModel(t.SiglipVisionConfig(**whole)), 0),
        "dinov2": (lambda: t.Dinov2Model(t.Dinov2Config(**small)), 1),
        "dinov2_with_registers": (
            lambda: t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**small, num_register_tokens=3)),
            4,
        ),
        "dinov3_vit": (lambda: t.DINOv3ViTModel(t.DINOv3ViTConfig(**whole, num_register_tokens=2)), 3),
        "vit": (lambda: t.ViTModel(t.ViTConfig(**whole)), 1),
        "deit": (lambda: t.DeiTModel(t.DeiTConfig(**whole)), 2),
    }[kind]
    tiny.loud(made()).save_pretrained(folder)
    tiny.save_processor(folder, 64)
    return before


@pytest.mark.parametrize(
    "kind",
    [
        *("clip", "siglip", "clip_vision_model", "siglip_vision_model"),
        *("dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "deit"),
    ],
)
def test_patches_are_the_librarys_hidden_states(kind: str, tiny: Any, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModel

    before = make_checkpoint(tiny, tmp_path, kind)
    encoder = load("hf:tiny", tmp_path, ["patches", "image" if kind in ("clip", "siglip") else "pooled"])
    vector, patches = encoder.spec.outputs
    assert (patches, encoder.spec.outputs["patches"]) == ("patches", (4, 4, 16))
    assert encoder.spec.grids == {"patches": Grid("whole")}
    batch = np.random.default_rng(0).standard_normal((2, 3, 64, 64)).astype(np.float32)
    model = AutoModel.from_pretrained(tmp_path, dtype=torch.float32).eval()
    seeing = model.vision_model if kind in ("clip", "siglip") else model
    with torch.no_grad():
        theirs = seeing(pixel_values=torch.from_numpy(batch)).last_hidden_state.numpy()
    found = encoder.embed(batch)
    assert theirs.shape[1] == before + 16
    np.testing.assert_allclose(found["patches"].reshape(2, 16, 16), theirs[:, before:], atol=1e-4, rtol=0)
    assert np.ptp(found["patches"], axis=(1, 2)).max() > 1e-2
    if kind in ("clip", "siglip"):
        assert load("hf:tiny", tmp_path, ["patches"]).embed_text(["small"]).shape == (1, *encoder.spec.outputs["image"])
    alone = load("hf:tiny", tmp_path, [vector])
    np.testing.assert_allclose(alone.embed(batch)[vector], found[vector], atol=1e-5, rtol=0)
    assert cx.load_encoder("hf:tiny", weights=tmp_path).spec == alone.spec  # what was not asked for is as it was


def test_each_patch_is_of_its_own_place(tiny: Any, tmp_path: Path) -> None:
    """Without attention, a patch knows its own place alone."""
    import transformers as t

    small = {key: value for key, value in {**tiny.VISION, **SIDES}.items() if key != "intermediate_size"}
    model = tiny.loud(t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**small, num_register_tokens=3)))
    silenced = [value.data.zero_() for name, value in model.named_parameters() if "attention.o_proj" in name]
    assert silenced
    model.save_pretrained(tmp_path)
    crop = {"do_center_crop": True, "crop_size": {"height": 64, "width": 64}}
    tiny.save_processor(tmp_path, 64, "BitImageProcessor", size={"shortest_edge": 80}, **crop)
    encoder = load("hf:tiny", tmp_path, ["patches"])
    grid = encoder.spec.grids["patches"]
    assert grid == Grid("inside", middle(0.8))
    for size in (TALL, WIDE):
        shots = [np.zeros(size, np.uint8), *(marked(size, grid, (4, 4), cell) for cell in ((0, 1), (3, 2)))]
        found = encoder.embed(np.stack([encoder.preprocess(picture(shot)) for shot in shots]))["patches"]
        changed = np.abs(found[1:] - found[0]).max(axis=-1)
        assert [np.unravel_index(each.argmax(), (4, 4)) for each in changed] == [(0, 1), (3, 2)]
        assert (np.sort(changed.reshape(2, -1))[:, -2] < 0.05 * changed.max(axis=(1, 2))).all()


@pytest.fixture(scope="module")
def medsiglip(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("medsiglip")
    tiny.save_dual(folder, "siglip", hidden_size=1152, image_size=448, patch_size=14)
    return folder


@pytest.mark.parametrize(("recipe", "fit"), [("published", "whole"), ("processor", "whole"), ("pad", "around")])
def test_medsiglips_patches_lie_where_its_recipes_put_them(recipe: str, fit: str, medsiglip: Path) -> None:
    encoder = load("medsiglip-448", medsiglip, ["patches"], pixels=recipe)
    grid = encoder.spec.grids["patches"]
    assert (grid.fit, encoder.spec.outputs) == (fit, {"patches": (32, 32, 1152)})
    assert_in_its_cell(lambda pixels: encoder.preprocess(picture(pixels)), grid, (32, 32), 14)


def test_patches_that_leave_pixels_over(tiny: Any, tmp_path: Path) -> None:
    tiny.save_dual(tmp_path, "siglip", image_size=90, patch_size=28)
    encoder = load("hf:tiny", tmp_path, ["patches", "image"])
    grid = encoder.spec.grids["patches"]
    assert grid.box == pytest.approx((0, 0, 84 / 90, 84 / 90))
    assert_in_its_cell(lambda pixels: encoder.preprocess(picture(pixels)), grid, (3, 3), 28)
    assert encoder.embed(np.zeros((1, 3, 90, 90), np.float32))["patches"].shape == (1, 3, 3, 16)


def test_rad_dino_has_37_by_37_patches(tiny: Any, tmp_path: Path) -> None:
    import transformers as t

    config = t.Dinov2Config(hidden_size=768, num_hidden_layers=1, num_attention_heads=2, mlp_ratio=1, image_size=518)
    t.Dinov2Model(config).save_pretrained(tmp_path)
    crop = {"do_center_crop": True, "crop_size": {"height": 518, "width": 518}}
    tiny.save_processor(tmp_path, 518, "BitImageProcessor", size={"shortest_edge": 518}, **crop)
    spec = load("rad-dino", tmp_path, ["pooled", "patches"]).spec
    assert spec.outputs == {"pooled": (768,), "patches": (37, 37, 768)} == ENCODERS["rad-dino"].outputs
    assert spec.grids == {"patches": Grid("inside")}


def save_timm(path: Path, name: str) -> Path:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model(name).state_dict(), path)
    return path


@pytest.mark.parametrize(
    ("name", "output", "shape", "before"),
    [
        ("test_resnet", "map", (5, 5, 96), None),
        ("test_mambaout", "map", (5, 5, 64), None),  # channels last
        ("mobilenetv3_small_050", "map", (7, 7, 288), None),
        ("test_vit", "patches", (10, 10, 64), 1),
        ("test_vit_relpos", "patches", (10, 10, 96), 0),
    ],
)
def test_timms_cells_are_its_forward_features(
    name: str, output: str, shape: tuple[int, ...], before: int | None, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    timm = pytest.importorskip("timm", reason="needs timm: pip install 'cxr-embed[torch]'")
    from safetensors.torch import load_file

    path = save_timm(tmp_path / "m.safetensors", name)
    encoder = load(f"timm:{name}", path, ["features", output])
    assert encoder.spec.outputs[output] == shape
    side = encoder.preprocess(picture(np.zeros((90, 80), np.uint8))).shape[-1]
    batch = np.random.default_rng(0).standard_normal((2, 3, side, side)).astype(np.float32)
    model = timm.create_model(name).eval()
    model.load_state_dict(load_file(path))
    with torch.no_grad():
        theirs = model.forward_features(torch.from_numpy(batch)).numpy()
        vectors = model.reset_classifier(0) or model(torch.from_numpy(batch)).numpy()
    if before is not None:
        theirs = theirs[:, before:].reshape(2, *shape)
    elif theirs.shape[1:] != shape:
        theirs = np.moveaxis(theirs, 1, -1)
    found = encoder.embed(batch)
    np.testing.assert_allclose(found[output], theirs, atol=1e-4 * np.abs(theirs).max(), rtol=0)
    np.testing.assert_allclose(found["features"], vectors, atol=1e-4 * np.abs(vectors).max(), rtol=0)
    if name == "test_resnet":
        np.testing.assert_allclose(found["map"].mean(axis=(1, 2)), found["features"], atol=1e-5)
    grid = encoder.spec.grids[output]
    assert_in_its_cell(lambda pixels: encoder.preprocess(picture(pixels)), grid, shape, side // shape[0])


@pytest.mark.parametrize(
    ("mode", "fit"), [("squash", "whole"), ("border", "around"), ("center", "inside"), (None, "inside")]
)
def test_timms_crops_are_known(mode: str | None, fit: str) -> None:
    data = pytest.importorskip("timm.data", reason="needs timm: pip install 'cxr-embed[torch]'")
    from PIL import Image

    from cxr_embed.encoders.patches import timm_frame

    settings: dict[str, Any] = {
        **{"input_size": (3, 160, 160), "interpolation": "bilinear", "crop_pct": 0.8, "crop_mode": mode},
        **{"mean": (0.5,) * 3, "std": (0.5,) * 3},
    }
    grid, see = timm_frame(settings), data.create_transform(**settings, is_training=False)
    assert (grid.fit, grid.box) == (fit, pytest.approx(middle(0.8)))

    def pixels(shot: np.ndarray) -> np.ndarray:
        return np.asarray(see(Image.fromarray(shot).convert("RGB")))

    assert_in_its_cell(pixels, grid, (5, 5), 32)
    for wrong in ({"crop_mode": "other"}, {"input_size": (3, 160, 128)}, {"crop_border_pixels": 3}):
        with pytest.raises(EncoderError, match="what part of the picture timm keeps is not known"):
            timm_frame({**settings, **wrong})


def test_what_has_none_says_so_in_one_line(tiny: Any, tmp_path: Path) -> None:
    import transformers as t

    config = t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    (tmp_path / "resnet").mkdir()
    t.ResNetModel(config).save_pretrained(tmp_path / "resnet")
    tiny.save_processor(tmp_path / "resnet", 32)
    make_checkpoint(tiny, tmp_path / "vit", "vit")
    tiny.save_processor(tmp_path / "vit", 64, do_resize=False, do_center_crop=True, crop_size=64)
    mixer = save_timm(tmp_path / "mixer.safetensors", "test_resnet")
    cases = [
        ("hf:x", tmp_path / "resnet", ["patches"], "`outputs` patches: resnet is a resnet model; known of clip,"),
        (
            "hf:x",
            tmp_path / "vit",
            ["patches"],
            "vit: its image processor does not say what part of the picture it keeps",
        ),
        ("hf:x", tmp_path / "vit", ["map"], "`outputs` of hf:x: map; there are pooled, patches"),
        ("timm:test_resnet", mixer, ["patches"], "`outputs` of timm:test_resnet: patches; there are features, map"),
        ("hog", None, ["map"], "hog has one kind of vector; leave out `outputs`"),
        ("mini", None, ["patches"], "`outputs` of mini: patches; there are features, contrastive, map"),
    ]
    for name, weights, outputs, told in cases:
        with pytest.raises(EncoderError) as caught:
            cx.load_encoder(name, weights=weights, outputs=outputs, device="cpu")
        assert told in str(caught.value)
        assert "\n" not in str(caught.value)


# A store of patches


@pytest.fixture(scope="module")
def siglip(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("siglip")
    make_checkpoint(tiny, folder, "siglip")
    return folder


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 pictures of noise; in every other one a bright patch, somewhere."""
    from PIL import Image

    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    lines = ["image_id,path,patient_id,split,Nodule"]
    for number in range(40):
        pixels = rng.integers(0, 60, (128, 128)).astype(np.uint8)
        if number % 2:
            row, column = (32 * rng.integers(0, 4, 2)).tolist()
            pixels[row : row + 32, column : column + 32] += 180
        Image.fromarray(pixels).save(folder / f"i{number}.png")
        lines.append(f"i{number},i{number}.png,p{number},{'test' if number >= 24 else 'train'},{number % 2}")
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder / "m.csv"


@pytest.fixture(scope="module")
def store(siglip: Path, manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Store:
    path = tmp_path_factory.mktemp("store") / "s"
    seen: list[EmbedSummary] = []
    encoder = load("hf:tiny", siglip, ["image", "patches"])
    embed(manifest, encoder, path, progress=lambda summary: seen.append(replace(summary)))
    assert seen[0].bytes_ahead == 40 * 2 * (16 + 4 * 4 * 16)  # known before the first vector is stored
    assert seen[0].bytes_free > seen[0].bytes_ahead
    return cx.open_store(path)


def test_patches_are_stored_in_float16(store: Store, siglip: Path, manifest: Path) -> None:
    assert store.spec.outputs == {"image": (16,), "patches": (4, 4, 16)}
    assert store.spec.grids == {"patches": Grid("whole")}
    held = store.read(["i3", "i8"], "patches").vectors
    assert (held.dtype, held.shape) == (np.float16, (2, 4, 4, 16))
    files = [manifest.parent / name for name in ("i3.png", "i8.png")]
    with pytest.warns(UserWarning, match="does not look like a chest"):
        direct = cx.embed_images(files, "hf:tiny", weights=siglip, device="cpu", output="patches")
    np.testing.assert_allclose(held, direct, rtol=1e-3, atol=1e-3)
    told = run_cli("store", "info", str(store.path)).stdout
    assert "image 16, patches 4 x 4 x 16, float16" in told
    assert "patches: row by row over the whole picture" in " ".join(told.split())


@pytest.mark.parametrize("pool", ["mean", "max", "flatten", "attention"])
def test_a_probe_learns_from_patches(pool: str, store: Store, manifest: Path, tmp_path: Path) -> None:
    probe = cx.train_probe(store, manifest, output="patches", pool=pool)
    assert probe.trained.output == "patches"
    probe.save(tmp_path / "p")
    found = cx.load_probe(tmp_path / "p").evaluate(store, manifest, bootstraps=0)
    assert found.findings[0].figures["auroc"].value > 0.9


def test_pooled_patches_are_read_once_and_a_few_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    everything = store.read(output="patches").vectors.astype(np.float32)
    opened, reads = Store(store.path), []
    streamed = opened.mapped
    monkeypatch.setattr(opened, "mapped", lambda output: reads.append(output) or streamed(output))
    monkeypatch.setattr("cxr_embed.store.reader._STREAMED_VALUES", 5 * 256)
    monkeypatch.setattr("cxr_embed.probe.features._BLOCK_VALUES", 3 * 256)
    for pool, want in (("mean", everything.mean(axis=(1, 2))), ("max", everything.max(axis=(1, 2)))):
        source, reads[:] = StoreSource(opened, opened.ids, "patches", pool), []
        for _ in range(3):
            found, largest = np.full((40, 16), np.nan, np.float32), 0
            for rows, vectors in source.blocks():
                found[rows], largest = vectors, max(largest, len(vectors))
            np.testing.assert_allclose(found, want, rtol=1e-6)
        assert reads == ["patches"]
        monkeypatch.setattr("cxr_embed.probe.features._KEPT_BYTES", 0)
        source, reads[:] = StoreSource(opened, opened.ids, "patches", pool), []
        sizes = [len(vectors) for _ in range(2) for _, vectors in source.blocks()]
        assert (max(sizes), sum(sizes), reads) == (5, 80, ["patches"] * 2)
        monkeypatch.undo()
        monkeypatch.setattr(opened, "mapped", lambda output: reads.append(output) or streamed(output))
        monkeypatch.setattr("cxr_embed.probe.features._BLOCK_VALUES", 3 * 256)
        monkeypatch.setattr("cxr_embed.store.reader._STREAMED_VALUES", 5 * 256)
        ids = opened.ids[[7, 3, 3, 39]]
        np.testing.assert_allclose(read_pooled(opened, ids, "patches", pool), want[[7, 3, 3, 39]], rtol=1e-6)
    monkeypatch.setattr("cxr_embed.store.reader._STREAMED_VALUES", 256)
    batches = list(Store(store.path).batches(output="patches"))
    assert [len(batch) for batch in batches] == [16, 16, 8]
    np.testing.assert_array_equal(np.concatenate([batch.vectors for batch in batches]), everything)


def test_what_does_not_fit_into_memory_is_said(store: Store, manifest: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxr_embed.probe.base.available_memory", lambda: 10_000)
    cx.train_probe(store, manifest, output="image")
    with pytest.raises(ProbeError, match=r"keeps all its vectors in memory: 24 of 256 numbers are .* take `pool` mean"):
        cx.train_probe(store, manifest, output="patches", pool="attention")


def nearest(tokens: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Max-sim of a query's cells `(H, W, D)` with those of every image, by the formula."""
    wide = [each.reshape(-1, 16).astype(np.float64) for each in (*tokens, query)]
    *cases, asked = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in wide]
    return np.array([(asked @ case.T).max(axis=1).mean() for case in cases])


def test_an_index_takes_patches_as_tokens(store: Store, siglip: Path, manifest: Path, tmp_path: Path) -> None:
    index = build_index(store, manifest, path=tmp_path / "tokens", output="patches", pool="tokens").index
    assert (index.record.shape, index.pool, len(index)) == ((16, 16), "tokens", 40)
    cells = store.read(index.ids, "patches").vectors
    truth = nearest(cells, cells[5])
    order = [name for name in index.ids[np.argsort(-truth)].tolist() if name != "i5"]
    found = index.search(index.query_of("i5"), 4)
    assert found.ids[0].tolist() == order[:4]
    np.testing.assert_allclose(found.similarity[0], np.sort(truth)[::-1][1:5], atol=2e-3)
    whole = index.search(cells[5][None].astype(np.float32), 5)  # as `embed_images` gives it
    assert whole.ids[0].tolist() == ["i5", *order[:4]]
    answer = open_index(tmp_path / "tokens").search(image=manifest.parent / "i5.png", k=4, weights=siglip)
    assert answer.ids == order[:4]
    with pytest.raises(CaseIndexError, match=r"shape \(4, 4, 8\), the cases' have"):
        index.search(cells[:1, :, :, :8].astype(np.float32), 1)
    with pytest.raises(CaseIndexError, match="words cannot be compared with the output patches"):
        open_index(tmp_path / "tokens").search(text="small pneumothorax", weights=siglip)


def test_an_index_makes_one_vector_of_patches_unless_told(store: Store, tmp_path: Path) -> None:
    index = build_index(store, path=tmp_path / "mean", output="patches").index
    assert (index.pool, index.record.shape) == ("mean", (16,))
    means = store.read(index.ids, "patches").vectors.mean(axis=(1, 2), dtype=np.float32)
    np.testing.assert_allclose(index.vectors, means / np.linalg.norm(means, axis=1, keepdims=True), atol=1e-5)
    assert build_index(store, path=tmp_path / "image").index.output == "image"


class Loud:
    """An encoder whose map float16 cannot hold, of some pictures."""

    spec = EncoderSpec("loud", revision="1", preprocessing="", outputs={"map": (2, 2, 3)}, grids={"map": Grid("whole")})
    engine = "toy float32"

    def preprocess(self, image: CxrImage) -> np.ndarray:
        return np.float32(image.pixels.max()).reshape(1)

    def embed(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"map": np.broadcast_to(1000 * np.asarray(batch)[:, :, None, None], (len(batch), 2, 2, 3))}


def test_what_float16_cannot_hold_is_refused(manifest: Path, tmp_path: Path) -> None:
    summary = embed(manifest, Loud(), tmp_path / "half", limit=4)
    assert (summary.embedded, [failure.image_id for failure in summary.failed]) == (2, ["i1", "i3"])
    told = "output map is not finite in float16: its largest value is 2.39e+05; use `dtype` float32, in another `store`"
    assert summary.failed[0].reason == told
    assert np.isfinite(cx.open_store(tmp_path / "half").read(output="map").vectors).all()
    assert embed(manifest, Loud(), tmp_path / "single", limit=4, dtype="float32").failed == []


def test_a_run_says_first_what_it_will_write(densenet: Path, manifest: Path, tmp_path: Path) -> None:
    plan = plan_embedding(
        manifest, encoder="densenet121", store=tmp_path / "s", weights=densenet, outputs=["features", "map"]
    )
    assert (plan.to_read, plan.bytes_ahead) == (40, 40 * 2 * (1024 + 7 * 7 * 1024))
    single = {"outputs": ["map"], "dtype": "float32"}
    plan = plan_embedding(manifest, encoder="densenet121", store=tmp_path / "s", weights=densenet, **single)  # type: ignore[arg-type]
    assert plan.bytes_ahead == 40 * 4 * 7 * 7 * 1024
    large = EmbedSummary(bytes_ahead=210_000_000_000, bytes_free=800_000_000_000)
    assert large.size_ahead == "about 210.0 GB of vectors; 800.0 GB are free"
    assert EmbedSummary(bytes_ahead=2_000_000, bytes_free=10**9).size_ahead == ""
    small = EmbedSummary(bytes_ahead=2_000_000, bytes_free=10**6)
    assert (
        small.size_ahead == "about 2.0 MB of vectors; 1.0 MB are free, too little: it will stop when the disk is full"
    )
    said: list[str] = []
    say = SizeFirst(said.append)
    for summary in (large, large, small):
        say(summary)
    assert said == [large.size_ahead]


def test_the_command_line_takes_maps_and_patches(densenet: Path, manifest: Path, store: Store, tmp_path: Path) -> None:
    def run(*arguments: object) -> str:
        done = run_cli(*map(str, arguments), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    what = [manifest, "--encoder", "densenet121", "--weights", densenet, "--store", "s", "--outputs", "map,features"]
    assert "40 to read (about 4.1 MB of vectors)" in run("embed", *what, "--dry-run")
    run("embed", *what, "--device", "cpu", "--precision", "float32", "--workers", "1", "--limit", "4")
    opened = cx.open_store(tmp_path / "s")
    assert list(opened.spec.outputs) == ["features", "map"]
    cells = opened.read(output="map").vectors.astype(np.float32)
    features = opened.read(output="features").vectors.astype(np.float32)
    np.testing.assert_allclose(cells.mean(axis=(1, 2)), features, rtol=2e-3, atol=2e-3 * features.max())
    patches = ["--output", "patches", "--pool"]
    assert "hf:tiny, patches" in run("probe", "train", store.path, manifest, *patches, "max", "--out", "p")
    assert "40 cases" in run("index", "build", store.path, *patches, "tokens", "--out", "i")
    found = json.loads(run("search", "i", "--image-id", "i3", "-k", "2", "--json"))["neighbors"]
    assert len(found) == 2
    assert all(case["image_id"] != "i3" for case in found)
