"""Checkpoints of transformers: our vectors against its own models, on tiny checkpoints with random weights."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_embed import load_encoder, open_store
from cxr_embed.encoders import load_text_encoder
from cxr_embed.encoders.pixels import as_uint8, pad_to_square, tf_resize
from cxr_embed.errors import EncoderError, StoreError
from cxr_embed.pipeline.embedding import embed
from cxr_embed.types import CxrImage

torch = pytest.importorskip("torch", reason="the torch encoders need torch: pip install 'cxr-embed[torch]'")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'cxr-embed[torch]'")

from tiny_checkpoints import PROMPTS, TEXT, VISION, loud, save_dual, save_processor  # noqa: E402


@pytest.fixture(scope="session")
def make_dual(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`make_dual("clip" or "siglip", vision settings, dtype=...)`: a dual encoder's folder."""

    def make(kind: str, dtype: str = "float32", **vision: Any) -> Path:
        folder = tmp_path_factory.mktemp(kind)
        save_dual(folder, kind, dtype, **vision)
        return folder

    return make


@pytest.fixture(scope="session")
def clip(make_dual: Callable[..., Path]) -> Path:
    return make_dual("clip")


@pytest.fixture(scope="session")
def siglip(make_dual: Callable[..., Path]) -> Path:
    return make_dual("siglip")


@pytest.fixture(scope="session")
def medsiglip(make_dual: Callable[..., Path]) -> Path:
    """As wide as the published model and for pictures as large, but of one thin layer."""
    return make_dual("siglip", hidden_size=1152, image_size=448, patch_size=32)


@pytest.fixture
def images(chest: Callable[..., np.ndarray]) -> list[CxrImage]:
    return [CxrImage(pixels=chest(seed, 64 + 8 * seed), bits=12, content_id="", source="png") for seed in range(3)]


def direct_pixels(folder: Path, images: list[CxrImage]) -> Any:
    """What transformers' processor makes of the pictures."""
    from PIL import Image

    processor = transformers.AutoImageProcessor.from_pretrained(folder, backend="pil")
    pictures = [Image.fromarray(as_uint8(image.pixels, image.max_value)).convert("RGB") for image in images]
    return processor(images=pictures, return_tensors="pt")["pixel_values"]


def direct_images(folder: Path, pixels: Any) -> np.ndarray:
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        vectors: np.ndarray = model.get_image_features(pixel_values=pixels).pooler_output.numpy()
    return vectors


def ours(encoder: Any, images: list[CxrImage]) -> np.ndarray:
    batch = np.stack([encoder.preprocess(image) for image in images])
    vectors: np.ndarray = encoder.embed(batch)[next(iter(encoder.spec.outputs))]
    return vectors


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_dual_encoders_equal_transformers(kind: str, request: pytest.FixtureRequest, images: list[CxrImage]) -> None:
    folder: Path = request.getfixturevalue(kind)
    encoder: Any = load_encoder("hf:tiny", weights=folder)
    vectors = ours(encoder, images)
    np.testing.assert_allclose(vectors, direct_images(folder, direct_pixels(folder, images)), atol=1e-5, rtol=0)
    assert vectors.dtype == np.float32
    assert vectors.shape == (3, *encoder.spec.outputs["image"])
    assert np.ptp(vectors, axis=0).max() > 1e-3  # different chests, different vectors
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    padding = {"padding": "max_length", "max_length": 12} if kind == "siglip" else {"padding": True}
    tokens = tokenizer(PROMPTS, return_tensors="pt", **padding)
    tokens = {name: tokens[name] for name in (["input_ids"] if kind == "siglip" else ["input_ids", "attention_mask"])}
    with torch.no_grad():
        want = model.get_text_features(**tokens).pooler_output.numpy()
        logits = model(pixel_values=direct_pixels(folder, images), **tokens).logits_per_image.numpy()
    prompts = encoder.embed_text(PROMPTS)
    np.testing.assert_allclose(prompts, want, atol=1e-5, rtol=0)
    assert np.ptp(prompts, axis=0).max() > 1e-3
    np.testing.assert_allclose(encoder.embed_text(PROMPTS[:1]), prompts[:1], atol=1e-5)  # padding changes nothing
    assert encoder.embed_text([]).shape == (0, prompts.shape[1])
    rule = encoder.spec.text
    assert (rule.output, rule.kind) == ("image", kind)
    unit = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (vectors, prompts)]
    np.testing.assert_allclose(unit[0] @ unit[1].T * rule.scale + rule.bias, logits, atol=1e-4)
    assert rule.bias == (-7 if kind == "siglip" else 0)


def vision_model(kind: str) -> Any:
    small = {key: value for key, value in VISION.items() if key != "intermediate_size"}
    if kind == "dinov2":
        return transformers.Dinov2Model(transformers.Dinov2Config(**small))
    if kind == "vit":
        return transformers.ViTModel(transformers.ViTConfig(**VISION))
    if kind == "vit-classifier":
        return transformers.ViTForImageClassification(transformers.ViTConfig(**VISION))
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
    return transformers.ResNetModel(config)


@pytest.mark.parametrize(("kind", "width"), [("dinov2", 16), ("vit", 16), ("vit-classifier", 16), ("resnet", 12)])
def test_vision_models_equal_transformers(kind: str, width: int, tmp_path: Path, images: list[CxrImage]) -> None:
    loud(vision_model(kind)).save_pretrained(tmp_path)
    save_processor(tmp_path, 32)
    encoder: Any = load_encoder("hf:tiny", weights=tmp_path)
    assert encoder.spec.outputs == {"pooled": (width,)}
    assert encoder.spec.text is None
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        output = model(pixel_values=direct_pixels(tmp_path, images))
    # A classifier has no pooler: transformers would fill one with random numbers.
    want = output.last_hidden_state[:, 0] if kind == "vit-classifier" else output.pooler_output.flatten(1)
    np.testing.assert_allclose(ours(encoder, images), want.numpy(), atol=1e-5, rtol=0)
    with pytest.raises(EncoderError, match="no text side"):
        encoder.embed_text(PROMPTS)


def test_rad_dino_is_its_processor_and_pooled_output(tmp_path: Path, chest: Callable[..., np.ndarray]) -> None:
    config = transformers.Dinov2Config(
        hidden_size=768, num_hidden_layers=1, num_attention_heads=12, mlp_ratio=1, image_size=518, patch_size=14
    )
    loud(transformers.Dinov2Model(config)).save_pretrained(tmp_path)
    crop = {"do_center_crop": True, "crop_size": {"height": 518, "width": 518}}
    save_processor(tmp_path, 518, "BitImageProcessor", size={"shortest_edge": 518}, resample=3, **crop)
    encoder: Any = load_encoder("rad-dino", weights=tmp_path)
    assert '"shortest_edge":518' in encoder.spec.preprocessing
    image = CxrImage(pixels=chest(1, 600)[:, :550], bits=12, content_id="", source="png")
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        want = model(pixel_values=direct_pixels(tmp_path, [image])).pooler_output.numpy()
    np.testing.assert_allclose(ours(encoder, [image]), want, atol=1e-4, rtol=0)


def test_medsiglip_recipes(medsiglip: Path, chest: Callable[..., np.ndarray]) -> None:
    from PIL import Image

    encoders: dict[str, Any] = {
        pixels: load_encoder("medsiglip-448", weights=medsiglip, pixels=pixels)
        for pixels in ("published", "processor", "pad")
    }
    default = load_encoder("medsiglip-448", weights=medsiglip).spec
    assert default.fingerprint == encoders["published"].spec.fingerprint
    assert len({encoder.spec.fingerprint for encoder in encoders.values()}) == 3
    assert len({encoder.spec.model for encoder in encoders.values()}) == 1  # one text model for all of them
    assert default.text is not None
    assert default.text.scale == pytest.approx(math.exp(2))
    assert default.text.bias == -7
    image = CxrImage(pixels=chest(2, 520)[:, :401], bits=12, content_id="", source="png")
    eight = as_uint8(image.pixels, image.max_value)
    # The notebook's way: resized, cast to uint8, then through the processor, which finds nothing left to resize.
    for pixels, start in (("published", eight), ("pad", pad_to_square(eight))):
        resized = tf_resize(start, 448).astype(np.uint8)
        picture = CxrImage(pixels=resized, bits=8, content_id="", source="png")
        assert np.array_equal(encoders[pixels].preprocess(image), resized[None])
        want = direct_images(medsiglip, direct_pixels(medsiglip, [picture]))
        np.testing.assert_allclose(ours(encoders[pixels], [image]), want, atol=1e-4 * abs(want).max(), rtol=0)
    want = direct_images(medsiglip, direct_pixels(medsiglip, [image]))
    np.testing.assert_allclose(ours(encoders["processor"], [image]), want, atol=1e-4 * abs(want).max(), rtol=0)
    assert np.abs(ours(encoders["published"], [image]) - want).max() > 1e-4
    assert Image.fromarray(resized).resize((448, 448), 2).tobytes() == resized.tobytes()


def plain_resize(pixels: np.ndarray, side: int) -> np.ndarray:
    """Bilinear at half-pixel centres, edges repeated, one pixel at a time."""
    height, width = pixels.shape
    result = np.empty((side, side))
    for row in range(side):
        y = min(max((row + 0.5) * height / side - 0.5, 0), height - 1)
        for column in range(side):
            x = min(max((column + 0.5) * width / side - 0.5, 0), width - 1)
            top, left = int(y), int(x)
            bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
            down, across = y - top, x - left
            above = pixels[top, left] * (1 - across) + pixels[top, right] * across
            below = pixels[bottom, left] * (1 - across) + pixels[bottom, right] * across
            result[row, column] = above * (1 - down) + below * down
    return result


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (31, 33), (32, 32), (100, 64), (257, 190)])
def test_resize_is_the_plain_formula(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    resized = tf_resize(pixels, 32)
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, plain_resize(pixels.astype(float), 32), atol=2e-3)


def test_resize_is_tensorflows_to_the_bit() -> None:
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("tensorflow is not installed: pip install 'cxr-embed[cxr-foundation]'")
    script = """
import numpy as np, tensorflow as tf
from cxr_embed.encoders.pixels import tf_resize
for shape, side in [((64, 64), 448), ((1024, 1024), 448), ((1201, 997), 448), ((449, 447), 448), ((37, 500), 32)]:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    rgb = np.repeat(pixels[..., None], 3, -1)
    want = tf.image.resize(rgb, [side, side], method="bilinear", antialias=False).numpy()
    assert np.array_equal(want, np.repeat(tf_resize(pixels, side)[..., None], 3, -1)), shape
print("equal")
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert told.stdout.strip() == "equal", told.stderr[-800:]


def test_pixels_of_any_depth_become_eight_bits() -> None:
    assert as_uint8(np.array([[0, 1, 2, 4095, 4096]], np.uint16), 4095).tolist() == [[0, 0, 0, 255, 255]]
    assert as_uint8(np.array([[8, 9, 2047, 2048]], np.uint16), 4095).tolist() == [[0, 1, 127, 128]]
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert as_uint8(eight, 255) is eight
    assert as_uint8(np.array([[0, 257, 65535]], np.uint16), 65535).tolist() == [[0, 1, 255]]
    assert pad_to_square(np.ones((1, 4), np.uint8)).tolist() == [[0] * 4, [1] * 4, [0] * 4, [0] * 4]
    assert pad_to_square(np.ones((4, 1), np.uint8))[0].tolist() == [0, 1, 0, 0]


def test_fingerprint_follows_weights_and_processor(clip: Path, tmp_path: Path) -> None:
    def spec() -> Any:
        return load_encoder("hf:tiny", weights=tmp_path / "copy").spec

    shutil.copytree(clip, tmp_path / "copy")
    first = spec()
    assert first.fingerprint == load_encoder("hf:tiny", weights=clip).spec.fingerprint
    save_processor(tmp_path / "copy", 32, resample=3)
    second = spec()
    assert second.fingerprint != first.fingerprint
    assert second.model == first.model  # the prompts' vectors stay what they are
    model = transformers.AutoModel.from_pretrained(clip)
    loud(model, seed=1).save_pretrained(tmp_path / "copy")
    assert spec().weights != first.weights


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_weights_run_in_float32(
    dtype: str, make_dual: Callable[..., Path], images: list[CxrImage]
) -> None:
    folder = make_dual("siglip", dtype)
    encoder: Any = load_encoder("hf:tiny", weights=folder)
    assert encoder.spec.text.scale == pytest.approx(math.exp(2))
    want = direct_images(folder, direct_pixels(folder, images))
    np.testing.assert_allclose(ours(encoder, images), want, atol=1e-5, rtol=0)


def test_bf16_is_near(siglip: Path, images: list[CxrImage]) -> None:
    near: Any = load_encoder("hf:tiny", weights=siglip, device="cpu", precision="bf16", threads=1)
    exact: Any = load_encoder("hf:tiny", weights=siglip, device="cpu", precision="float32")
    assert near.engine.split()[-2:] == ["bf16", "cpu"]
    assert exact.engine.split()[-2:] == ["float32", "cpu"]
    one, two = ours(near, images), ours(exact, images)
    assert one.dtype == np.float32
    assert 0 < np.abs(one - two).max() < 0.05 * np.abs(two).max()


def test_a_run_stores_transformers_vectors(
    siglip: Path, tmp_path: Path, make_images: Callable[..., Path], medsiglip: Path
) -> None:
    from PIL import Image

    manifest, store = make_images(5), tmp_path / "store"
    summary = embed(manifest, encoder="hf:tiny", weights=siglip, store=store, device="cpu", dtype="float32", workers=1)
    assert (summary.embedded, summary.failed) == (5, [])
    opened = open_store(store)
    pixels = [np.asarray(Image.open(manifest.parent / f"{name}.png")) for name in opened.ids]
    want = direct_images(
        siglip, direct_pixels(siglip, [CxrImage(pixels=array, bits=8, content_id="", source="png") for array in pixels])
    )
    np.testing.assert_allclose(opened.read(opened.ids, "image").vectors, want, atol=1e-5, rtol=0)
    text = load_text_encoder(opened.spec, weights=siglip, device="cpu")
    assert text.embed_text(PROMPTS).shape == (3, 16)
    with pytest.raises(StoreError, match="holds vectors of hf:tiny"):
        embed(manifest, encoder="medsiglip-448", weights=medsiglip, store=store, device="cpu")
    with pytest.raises(EncoderError, match="name the right one with `weights`"):
        load_text_encoder(dataclasses.replace(opened.spec, weights="0" * 64), weights=siglip)


def hub_cache(home: Path, repo: str, commit: str, folder: Path) -> None:
    """A checkpoint as the Hub's client keeps it."""
    model = home / "hub" / f"models--{repo.replace('/', '--')}"
    shutil.copytree(folder, model / "snapshots" / commit)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)


def in_a_process(script: str, **variables: str) -> str:
    """What the script prints. The Hub's client reads its variables when it is imported."""
    environment = {**os.environ, **variables}
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert told.returncode == 0, told.stderr[-800:]
    return told.stdout.strip()


def test_the_hubs_cache_is_used_offline(clip: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    hub_cache(tmp_path, "org/tiny", commit, clip)
    hub_cache(tmp_path, "microsoft/rad-dino", "110cbc18d5133582e320b43d53bf5c44e410c936", clip)
    script = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("the network was used")
socket.getaddrinfo = refuse
from cxr_embed import load_encoder
from cxr_embed.encoders import ENCODERS
for name in sys.argv[1:] or ["hf:org/tiny", "hf:org/tiny@0123456789abcdef0123456789abcdef01234567"]:
    print(load_encoder(name).spec.weights_source)
print(ENCODERS["rad-dino"].weights_here, ENCODERS["medsiglip-448"].weights_here)
for name in ["hf:org/other", "hf:org/tiny@" + "1" * 40, "medsiglip-448", "rad-dino", "hf:tiny", "hf:org/tiny@main"]:
    try:
        load_encoder(name)
    except Exception as error:
        print(type(error).__name__, error)
"""
    lines = in_a_process(script, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1").splitlines()
    assert lines[:3] == [f"org/tiny@{commit}", f"org/tiny@{commit}", "True False"]
    assert lines[3].startswith("EncoderError org/other is not in the Hub's cache and HF_HUB_OFFLINE is set; unset it")
    assert lines[4].startswith("EncoderError org/tiny is not in the Hub's cache")
    assert lines[5].startswith("EncoderError google/medsiglip-448 is not in the Hub's cache")
    assert "is not rad-dino: it gives {'image': (8,)}" in lines[6]
    assert lines[7] == "EncoderError hf:tiny: give hf:ORG/NAME as on the Hub, or a folder with `weights`"
    assert "not a branch or a tag" in lines[8]


def test_decoding_the_published_recipe_needs_no_framework(medsiglip: Path) -> None:
    script = f"""
import sys
import numpy as np
from cxr_embed.encoders.transformers import make
from cxr_embed.types import CxrImage
encoder = make("medsiglip-448", weights={str(medsiglip)!r}, pixels="published")
encoder.spec.fingerprint
print(encoder.preprocess(CxrImage(pixels=np.zeros((9, 9), np.uint8), bits=8, content_id="", source="png")).shape)
print([name for name in ("torch", "transformers", "tensorflow", "huggingface_hub") if name in sys.modules])
"""
    assert in_a_process(script).splitlines() == ["(1, 448, 448)", "[]"]


@pytest.mark.parametrize(
    ("prompts", "told"),
    [
        (["normal", " "], "a prompt is a sentence, not ' '"),
        ([""], "a prompt is a sentence, not ''"),
        ([None], "a prompt is a sentence, not None"),
        ("normal", "prompts are a list of sentences, not one"),
        (["normal", "no effusion " * 6], r"has 14 tokens, hf:tiny reads 12; shorten it"),
    ],
)
def test_bad_prompts_are_refused(prompts: Any, told: str, siglip: Path) -> None:
    encoder: Any = load_encoder("hf:tiny", weights=siglip)
    with pytest.raises(EncoderError, match=told):
        encoder.embed_text(prompts)


def test_long_prompts_are_cut_on_request(siglip: Path) -> None:
    encoder: Any = load_encoder("hf:tiny", weights=siglip)
    cut, whole = encoder.embed_text(["no effusion " * 6, "no effusion " * 5], cut=True)
    np.testing.assert_array_equal(cut, whole)


def test_each_side_does_without_the_other(clip: Path, tmp_path: Path, images: list[CxrImage]) -> None:
    blind, mute = tmp_path / "blind", tmp_path / "mute"
    for folder in (blind, mute):
        shutil.copytree(clip, folder)
    save_processor(blind, 32, "NoSuchImageProcessor")
    encoder: Any = load_encoder("hf:tiny", weights=blind)
    assert encoder.embed_text(PROMPTS).shape == (3, 8)
    with pytest.raises(EncoderError, match="blind: its image processor cannot be made"):
        encoder.preprocess(images[0])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (mute / name).unlink()
    encoder = load_encoder("hf:tiny", weights=mute)
    assert ours(encoder, images).shape == (3, 8)
    with pytest.raises(EncoderError, match=r"mute has no tokenizer_config\.json; put its tokenizer's files beside"):
        encoder.embed_text(PROMPTS)
    (mute / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}))
    (mute / "tokenizer.json").write_text("{")
    with pytest.raises(EncoderError, match="mute: its tokenizer cannot be made"):
        load_encoder("hf:tiny", weights=mute).embed_text(PROMPTS)  # type: ignore[attr-defined]


def change(folder: Path, name: str, **values: Any) -> None:
    settings = json.loads((folder / name).read_text())
    settings.update(values)
    (folder / name).write_text(json.dumps(settings))


def pickles_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def half_a_download(folder: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")


def outside(folder: Path) -> None:
    index = {"weight_map": {"a": "../clip/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()


def cut_short(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def without_projection(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, folder / "model.safetensors")


def not_json(folder: Path) -> None:
    (folder / "config.json").write_text("<html>")


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (pickles_only, "holds pickled weights only, which can run code and are not opened"),
        (half_a_download, r"model-00002-of-00002\.safetensors is missing \(half a download\?\)"),
        (outside, r"model\.safetensors\.index\.json names files outside its folder"),
        (cut_short, "not a safetensors file"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "is an adapter to another model; merge"),
        (without_projection, r"is not a whole clip model: visual_projection\.weight is not among its tensors"),
        (not_json, r"config\.json: not readable as JSON"),
        (lambda folder: (folder / "config.json").unlink(), r"config\.json is missing"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"model\.safetensors is missing"),
        (lambda folder: change(folder, "config.json", model_type="llava"), "is a llava model; of models with text"),
        (lambda folder: (folder / "preprocessor_config.json").unlink(), r"has no preprocessor_config\.json"),
        (shutil.rmtree, "no such folder"),
    ],
)
def test_unusable_checkpoints_are_refused_at_once(
    damage: Callable[[Path], object], told: str, clip: Path, tmp_path: Path
) -> None:
    shutil.copytree(clip, tmp_path / "copy")
    damage(tmp_path / "copy")
    with pytest.raises(EncoderError, match=told):
        load_encoder("hf:tiny", weights=tmp_path / "copy")


def test_a_language_model_is_refused(tmp_path: Path) -> None:
    small = {key: TEXT[key] for key in ("hidden_size", "intermediate_size", "num_hidden_layers", "vocab_size")}
    transformers.BertModel(transformers.BertConfig(num_attention_heads=2, **small)).save_pretrained(tmp_path)
    with pytest.raises(EncoderError, match=r"is it a vision model\? \(model_type bert\)"):
        load_encoder("hf:tiny", weights=tmp_path)
    save_processor(tmp_path, 32)
    with pytest.raises(EncoderError, match="is not a vision model but a BertModel"):
        load_encoder("hf:tiny", weights=tmp_path).engine  # noqa: B018


def test_what_a_model_does_wrong_is_said_before_a_run(
    tmp_path: Path, clip: Path, make_images: Callable[..., Path]
) -> None:
    from safetensors.torch import load_file, save_file

    def engine(folder: Path) -> str:
        return str(load_encoder("hf:tiny", weights=folder).engine)

    folders = {name: tmp_path / name for name in ("nan", "few", "large", "sizes", "foreign", "random")}
    for name in ("nan", "few", "large", "sizes", "foreign"):
        shutil.copytree(clip, folders[name])
    tensors = load_file(clip / "model.safetensors")
    tensors["visual_projection.weight"][0, 0] = torch.nan
    save_file(tensors, folders["nan"] / "model.safetensors")
    with pytest.raises(EncoderError, match="nan gives vectors that are not finite"):
        engine(folders["nan"])
    del tensors["vision_model.post_layernorm.weight"]
    save_file(tensors, folders["few"] / "model.safetensors")
    with pytest.raises(EncoderError, match=r"few: 1 tensor is missing, the first vision_model\.post_layernorm"):
        engine(folders["few"])
    save_processor(folders["large"], 48)
    with pytest.raises(EncoderError, match="large does not run on the pixels of its own processor"):
        engine(folders["large"])
    with pytest.raises(EncoderError, match="does not run on the pixels of its own processor"):
        embed(make_images(2), encoder="hf:tiny", weights=folders["large"], store=tmp_path / "s", device="cpu")
    save_processor(folders["sizes"], 32, "CLIPImageProcessor", size={"shortest_edge": 32}, do_center_crop=False)
    encoder: Any = load_encoder("hf:tiny", weights=folders["sizes"])
    pictures = [
        encoder.preprocess(CxrImage(pixels=np.zeros((40, side), np.uint8), bits=8, content_id="", source="png"))
        for side in (40, 60)
    ]
    with pytest.raises(EncoderError, match="gives pictures of several sizes"):
        encoder.embed(pictures)
    change(folders["foreign"], "config.json", model_type="no_such_model", hidden_size=8)
    change(folders["foreign"], "config.json", auto_map={"AutoModel": "evil.Model"})
    with pytest.raises(EncoderError, match="foreign is a no_such_model model; of models with text"):
        engine(folders["foreign"])
    # Of four patches it would keep the same one for both pictures in one case of four.
    config = transformers.ViTMAEConfig(
        **VISION | {"patch_size": 4}, decoder_hidden_size=16, decoder_num_attention_heads=2
    )
    loud(transformers.ViTMAEModel(config)).save_pretrained(folders["random"])
    save_processor(folders["random"], 32)
    with pytest.raises(EncoderError, match="gives one picture two vectors: it draws at random"):
        engine(folders["random"])


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    loud(vision_model("vit")).save_pretrained(tmp_path)
    save_processor(tmp_path, 32)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    change(tmp_path, "config.json", model_type="own", auto_map={"AutoModel": "evil.M", "AutoConfig": "evil.C"})
    with pytest.raises(EncoderError, match="cannot be loaded"):
        load_encoder("hf:tiny", weights=tmp_path).engine  # noqa: B018
    assert not (tmp_path / "ran").exists()


def test_another_model_is_not_medsiglip(siglip: Path) -> None:
    with pytest.raises(EncoderError, match=r"is not medsiglip-448: it gives \{'image': \(16,\)\}"):
        load_encoder("medsiglip-448", weights=siglip)


def test_out_of_memory_keeps_its_words(
    clip: Path, images: list[CxrImage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pipeline halves a batch by them."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # no network is kept there: torch runs the model

    def full(*arguments: Any, **options: Any) -> Any:
        del arguments, options
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(transformers.CLIPModel, "get_image_features", full)
    encoder: Any = load_encoder("hf:tiny", weights=clip)
    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        ours(encoder, images)
