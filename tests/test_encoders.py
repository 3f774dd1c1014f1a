"""Encoders: pixels against scikit-image, networks against torch, weights, the table."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_cli
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_embed import load_encoder
from cxr_embed.encoders import ENCODERS
from cxr_embed.encoders import load_encoder as load
from cxr_embed.encoders.engines import OpenVinoEngine
from cxr_embed.encoders.networks import densenet121, resnet50, weight_shapes
from cxr_embed.encoders.resample import center_square, crop_and_resize, resize_matrix
from cxr_embed.encoders.weights import digest, load_weights, random_weights, save_weights
from cxr_embed.errors import EncoderError
from cxr_embed.types import CxrImage, EncoderSpec, TextRule


def skimage_way(pixels: np.ndarray, max_value: int, target: int) -> np.ndarray:
    """The recipe written down plainly: scale, centre crop, `skimage.transform.resize`."""
    from skimage.transform import resize

    scaled = (2 * (pixels.astype(np.float32) / max_value) - 1.0) * 1024
    height, width = scaled.shape
    side = min(height, width)
    top, left = height // 2 - side // 2, width // 2 - side // 2
    square = scaled[None, top : top + side, left : left + side]
    return resize(square, (1, target, target), mode="constant", preserve_range=True).astype(np.float32)[0]


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(64, 700),
    width=st.integers(64, 700),
    target=st.sampled_from([128, 224, 512]),
    deep=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_pixels_equal_skimage_for_any_size(height: int, width: int, target: int, deep: bool, seed: int) -> None:
    max_value = 65535 if deep else 255
    pixels = np.random.default_rng(seed).integers(0, max_value + 1, (height, width))
    pixels = pixels.astype(np.uint16 if deep else np.uint8)
    want = skimage_way(pixels, max_value, target)
    np.testing.assert_allclose(crop_and_resize(pixels, max_value, target), want, atol=1e-3, rtol=0)


@pytest.mark.parametrize("side", [64, 223, 224, 225, 447, 448, 1024, 2991])
def test_boundary_sizes(side: int) -> None:
    pixels = np.random.default_rng(side).integers(0, 256, (side, side), dtype=np.uint8)
    np.testing.assert_allclose(crop_and_resize(pixels, 255, 224), skimage_way(pixels, 255, 224), atol=1e-3, rtol=0)
    inner = np.asarray(resize_matrix(side, 224).sum(axis=1)).ravel()[40:-40]
    np.testing.assert_allclose(inner, 1, atol=1e-5)


def test_odd_rests_are_cut_as_by_torchxrayvision() -> None:
    pixels = np.arange(5 * 8).reshape(5, 8)
    assert center_square(pixels)[0].tolist() == [2, 3, 4, 5, 6]
    assert center_square(pixels.T)[:, 0].tolist() == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(("network", "values"), [(densenet121, 1024), (resnet50, 2048)])
def test_networks_have_their_published_size(network, values: int) -> None:  # type: ignore[no-untyped-def]
    shapes = weight_shapes(network)
    learned = sum(int(np.prod(shape)) for name, shape in shapes.items() if "running" not in name)
    # TorchXRayVision's 18 classes, and torchvision's 1,000 classes and three input channels, less what is not here.
    published = {1024: 6_966_034 - 18 * 1025, 2048: 25_557_032 - 1000 * 2049 - 2 * 64 * 7 * 7}[values]
    assert learned == published


@pytest.fixture(scope="session")
def random_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_weights(path, random_weights(densenet121, 0), "random numbers (seed 0): not a trained model")
    return path


def test_densenet_on_the_core_alone(random_file: Path, chest) -> None:  # type: ignore[no-untyped-def]
    encoder = load_encoder("densenet121", weights=random_file, device="cpu", precision="float32")
    images = [CxrImage(pixels=chest(seed, 256), bits=12, content_id="", source="png") for seed in range(5)]
    batch = np.stack([encoder.preprocess(image) for image in images])
    assert batch.shape == (5, 1, 224, 224)
    together = encoder.embed(batch)["features"]
    assert together.shape == (5, 1024)
    assert together.dtype == np.float32
    alone = np.concatenate([encoder.embed(batch[i : i + 1])["features"] for i in range(5)])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    assert np.ptp(together, axis=0).max() > 0.01  # different chests, different vectors
    assert encoder.engine.startswith("openvino")
    assert "not a trained model" in encoder.spec.weights_source


class _Tight:
    """OpenVINO on a machine whose memory holds a batch of `room`."""

    def __init__(self, core: Any, room: int) -> None:
        self.core, self.room = core, room

    def compile_model(self, model: Any, *options: Any) -> Any:
        if model.inputs[0].shape[0] > self.room:
            raise RuntimeError("Exception from core.cpp:117: Failed to allocate 295436288 bytes of memory")
        return self.core.compile_model(model, *options)


@pytest.mark.parametrize("first", [0, 1, 4])
def test_a_smaller_batch_goes_on_where_memory_ran_out(first: int) -> None:
    engine = OpenVinoEngine(lambda ops, x: ops.mean(x), {}, 8, "float32", 1)  # type: ignore[arg-type,return-value]
    engine._core = _Tight(engine._core, 4)
    batch = np.random.default_rng(0).random((9, 1, 8, 8), np.float32)
    means = batch.mean(axis=(2, 3))
    if first:
        np.testing.assert_allclose(engine(batch[:first]), means[:first], rtol=1e-5)
    with pytest.raises(MemoryError, match="batch of 9"):
        engine(batch)
    for size in (4, 3, 1):
        np.testing.assert_allclose(engine(batch[:size]), means[:size], rtol=1e-5)


def test_weights_are_known_by_their_values(tmp_path: Path, random_file: Path) -> None:
    weights, source = load_weights(random_file, densenet121)
    assert source.startswith("random")
    copy = tmp_path / "copy.safetensors"
    save_weights(copy, dict(reversed(weights.items())), "another note")
    one = load_encoder("densenet121", weights=random_file, precision="float32").spec
    two = load_encoder("densenet121", weights=copy, precision="float32").spec
    assert one.fingerprint == two.fingerprint
    weights["features.conv0.weight"][0, 0, 0, 0] += 1e-3
    assert digest(weights) != one.weights
    assert random_weights(densenet121, 1)["features.conv0.weight"].shape == (64, 1, 7, 7)
    assert digest(random_weights(densenet121, 1)) != digest(random_weights(densenet121, 0))


def test_unusable_weights_are_refused(tmp_path: Path, random_file: Path) -> None:
    weights, _ = load_weights(random_file, densenet121)
    cases: list[tuple[str, object, str]] = []
    missing = dict(weights)
    del missing["features.norm5.bias"]
    cases.append(("missing", missing, "1 of 604 tensors are missing, the first features.norm5.bias"))
    cases.append(("shape", {**weights, "features.norm5.bias": np.zeros(3, np.float32)}, r"has shape \(3,\), expected"))
    nan = {**weights, "features.norm5.bias": np.full(1024, np.nan, np.float32)}
    cases.append(("nan", nan, "not finite"))
    cases.append(("other", random_weights(resnet50, 0), "another network's weights"))
    for name, tensors, match in cases:
        save_weights(tmp_path / f"{name}.safetensors", tensors, "")  # type: ignore[arg-type]
        with pytest.raises(EncoderError, match=match):
            load_encoder("densenet121", weights=tmp_path / f"{name}.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"\x80\x04junk" * 10)
    with pytest.raises(EncoderError, match="not a safetensors file"):
        load_encoder("densenet121", weights=tmp_path / "junk.safetensors")
    with pytest.raises(EncoderError, match="no such weights file"):
        load_encoder("densenet121", weights=tmp_path / "none.safetensors")


def test_weights_are_found_in_the_weights_folder(
    tmp_path: Path, random_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(EncoderError, match=r"no weights for densenet121 here .*\n.*weights convert densenet121"):
        load_encoder("densenet121")
    monkeypatch.setenv("CXR_EMBED_WEIGHTS", str(tmp_path))
    (tmp_path / "densenet121.safetensors").write_bytes(random_file.read_bytes())
    assert ENCODERS["densenet121"].weights_here is True
    assert load_encoder("densenet121", precision="float32").spec.outputs == {"features": (1024,)}


def test_hog_is_skimages(chest) -> None:  # type: ignore[no-untyped-def]
    from skimage.feature import hog

    encoder = load("hog")
    image = CxrImage(pixels=chest(1, 300), bits=12, content_id="", source="png")
    vector = encoder.embed(encoder.preprocess(image)[None])["features"]
    assert vector.shape == (1, *encoder.spec.outputs["features"])
    small = skimage_way(image.pixels, 4095, 128)
    want = hog(small, orientations=9, pixels_per_cell=(16, 16), cells_per_block=(2, 2), block_norm="L2-Hys")
    np.testing.assert_allclose(vector[0], want, atol=1e-4)


def test_a_missing_package_is_told(monkeypatch: pytest.MonkeyPatch, random_file: Path) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest)
    )
    with pytest.raises(EncoderError, match=r"a GPU needs torch: pip install 'cxr-embed\[torch\]'"):
        load_encoder("densenet121", weights=random_file, device="cuda")
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(EncoderError, match="hog needs skimage"):
        load_encoder("hog")


def test_the_table_on_the_command_line() -> None:
    done = run_cli("encoders", "--json")
    rows = {row["name"]: row for row in json.loads(done.stdout)}
    assert rows["hog"]["weights_here"] is None
    assert rows["densenet121"]["weights_here"] is False
    assert rows["densenet121"]["outputs"] == {"features": [1024], "scores": [18], "map": [7, 7, 1024]}
    assert rows["resnet50"]["outputs"] == {"features": [2048], "scores": [16], "map": [16, 16, 2048]}
    assert rows["densenet121"]["installed"] is rows["hog"]["installed"] is True  # the core runs them
    assert all(row["licence"] for row in rows.values())
    assert rows["cxr-foundation"]["gated"] is rows["medsiglip-448"]["gated"] is True
    assert rows["cxr-foundation"]["default_outputs"] == ["contrastive", "general"]
    plain = run_cli("encoders")
    assert all(name in plain.stdout for name in rows)
    assert plain.returncode == 0


def test_random_weights_on_the_command_line_say_what_they_are(tmp_path: Path) -> None:
    target = tmp_path / "r.safetensors"
    done = run_cli("weights", "random", "densenet121", "--out", str(target), "--seed", "5")
    assert done.returncode == 0
    assert "not a trained model" in done.stdout
    _, source = load_weights(target, densenet121)
    assert source == "random numbers (seed 5): not a trained model"
    done = run_cli("weights", "random", "hog", "--out", str(target))
    assert done.returncode == 1
    assert "no weights of hog can be drawn at random" in done.stderr


def test_convert_refuses_a_file_that_it_does_not_know(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pt"
    bad.write_bytes(b"anything")
    done = run_cli("weights", "convert", "densenet121", str(bad))
    assert done.returncode == 1
    assert "SHA-256 is" in done.stderr
    assert "not opened" in done.stderr
    done = run_cli("weights", "convert", "densenet121-nih", str(bad))
    assert "give it as --sha256" in done.stderr
    done = run_cli("weights", "convert", "densenet121", str(tmp_path / "none.pt"))
    assert "cannot be read" in done.stderr
    assert "github.com/mlmed/torchxrayvision" in done.stderr


IMPORTS = """
import sys
import cxr_embed
cxr_embed.open_store, cxr_embed.read_manifest, cxr_embed.embed, cxr_embed.load_encoder
from cxr_embed import cli
heavy = {"torch", "tensorflow", "faiss", "openvino", "skimage", "sklearn", "pydicom", "matplotlib", "scipy"}
print(sorted(heavy & set(sys.modules)))
"""


def test_importing_the_package_loads_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_an_index_takes_the_words_output_where_it_is_kept() -> None:
    rule = TextRule("words", "clip")
    both = EncoderSpec(
        name="toy", revision="1", preprocessing="none", outputs={"features": (8,), "words": (4,)}, text=rule
    )
    assert both.search_output == "words"
    assert (
        EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"features": (8,)}, text=rule).search_output
        == "features"
    )
    assert (
        EncoderSpec(
            name="toy", revision="1", preprocessing="none", outputs={"f": (8,), "words": (3, 4)}, text=rule
        ).search_output
        == "f"
    )
    assert EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"f": (8,)}).search_output == "f"
