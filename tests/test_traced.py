"""Torch's image towers by OpenVINO on a CPU: the same vectors, kept in the cache, believed where they are equal."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_embed import load_encoder
from cxr_embed.encoders import image_tower, resolve_device
from cxr_embed.encoders.engines import available_precisions
from cxr_embed.encoders.image_tower import ImageTower
from cxr_embed.encoders.plain_pixels import PlainPixels, plain_pixels, processor_recipe, timm_recipe
from cxr_embed.encoders.traced import KeptNetwork, agreement, disagreement
from cxr_embed.errors import StoreError
from cxr_embed.store.writer import StoreWriter
from cxr_embed.types import CxrImage, EncoderSpec

torch = pytest.importorskip("torch", reason="the torch encoders need torch: pip install 'cxr-embed[torch]'")
timm = pytest.importorskip("timm", reason="needs timm: pip install 'cxr-embed[torch]'")

MODELS = ("test_vit", "test_resnet")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of two small models, and a cache in which both were traced."""
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("traced")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        for name in MODELS:
            torch.manual_seed(0)
            save_file(timm.create_model(name).state_dict(), folder / f"{name}.safetensors")
            encoder = load(folder, name)
            assert encoder.engine.startswith("openvino")
            assert encoder.notes[0].startswith(f"timm:{name}: its network was translated for OpenVINO in ")
    return folder


@pytest.fixture
def cache(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that cache, which is the test's own."""
    shutil.copytree(world / "cache", tmp_path / "cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cxr-embed" / "networks"


@pytest.fixture
def traced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grows with every network that is traced."""
    seen: list[str] = []
    real = image_tower.trace

    def counted(*words: Any) -> Any:
        seen.append("traced")
        return real(*words)

    monkeypatch.setattr(image_tower, "trace", counted)
    return seen


def load(folder: Path, name: str = "test_vit", **options: Any) -> Any:
    weights = options.pop("weights", folder / f"{name}.safetensors")
    return load_encoder(f"timm:{name}", weights=weights, device="cpu", threads=1, **options)


def pictures(encoder: Any, count: int) -> np.ndarray:
    random = np.random.default_rng(5)
    sizes = [(90 + 7 * at, 100) for at in range(count)]
    images = [
        CxrImage(pixels=random.integers(0, 256, size, np.uint8), bits=8, content_id="", source="png") for size in sizes
    ]
    return np.stack([encoder.preprocess(image) for image in images])


def by_torch(folder: Path, name: str, batch: np.ndarray) -> np.ndarray:
    from safetensors.torch import load_file

    model = timm.create_model(name).eval()
    model.load_state_dict(load_file(folder / f"{name}.safetensors"))
    model.reset_classifier(0)
    with torch.no_grad():
        found: np.ndarray = model(torch.from_numpy(batch)).numpy()
    return found


def records(cache: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(cache.glob("*.json"))]


@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", MODELS)
def test_vectors_equal_torchs_in_batches_of_any_size(name: str, world: Path, traced: list[str]) -> None:
    encoder = load(world, name)
    batch = pictures(encoder, 5)
    right = by_torch(world, name, batch)
    for count in (5, 1, 3):
        found = encoder.embed(batch[:count])["features"]
        assert np.abs(found - right[:count]).max() < 1e-4 * np.abs(right).max()
    assert encoder.engine.startswith("openvino")
    assert (traced, encoder.notes) == ([], ())


@pytest.mark.usefixtures("cache")
def test_a_run_of_a_kept_network_imports_neither_torch_nor_timm(world: Path) -> None:
    program = (
        "import sys, numpy as np\n"
        "from cxr_embed import load_encoder\n"
        "from cxr_embed.types import CxrImage\n"
        "encoder = load_encoder('timm:test_vit', weights=sys.argv[1], threads=1, device='cpu')\n"
        "pixels = np.arange(9600, dtype=np.uint8).reshape(96, 100)\n"
        "image = CxrImage(pixels=pixels, bits=8, content_id='', source='png')\n"
        "assert encoder.embed(encoder.preprocess(image)[None])['features'].shape == (1, 64)\n"
        "print(encoder.engine.split()[0], *{'torch', 'timm', 'openvino_telemetry'} & set(sys.modules))\n"
    )
    # `device`: on a machine with a GPU's driver torch is asked for it.
    command = [sys.executable, "-c", program, str(world / "test_vit.safetensors")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["openvino"], done.stderr


@pytest.mark.parametrize("kind", [".bin", ".xml", ".npz", ".json"])
def test_a_damaged_network_is_made_anew(kind: str, world: Path, cache: Path, traced: list[str]) -> None:
    for path in cache.glob(f"*{kind}"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    encoder = load(world)
    batch = pictures(encoder, 2)
    right = by_torch(world, "test_vit", batch)
    assert np.abs(encoder.embed(batch)["features"] - right).max() < 1e-4 * np.abs(right).max()
    assert traced == ["traced"]
    assert load(world).engine.startswith("openvino")
    assert traced == ["traced"]


def test_a_network_that_lacks_a_file_is_made_anew(world: Path, cache: Path, traced: list[str]) -> None:
    for path in cache.glob("*.bin"):
        path.unlink()
    assert load(world).engine.startswith("openvino")
    assert traced == ["traced"]


@pytest.mark.usefixtures("cache")
def test_other_weights_and_other_versions_are_other_networks(
    world: Path, traced: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(1)
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "other.safetensors")
    other, first = load(world, weights=tmp_path / "other.safetensors"), load(world)
    batch = pictures(first, 1)
    assert not np.allclose(other.embed(batch)["features"], first.embed(batch)["features"], rtol=1e-2)
    assert traced == ["traced"]
    monkeypatch.setattr("cxr_embed.encoders.traced.versions", lambda _: {"openvino": "another"})
    assert load(world).engine.startswith("openvino")
    assert traced == ["traced", "traced"]


def test_bf16_is_proven_by_torchs_kept_answers(world: Path, cache: Path, traced: list[str]) -> None:
    encoder = load(world, precision="bf16")
    batch = pictures(encoder, 3)
    found, right = encoder.embed(batch)["features"], by_torch(world, "test_vit", batch)
    cosine = (found * right).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(right, axis=1)
    assert cosine.min() > 0.998
    assert traced == []
    if "bf16" in available_precisions("cpu"):
        assert " bf16 cpu" in encoder.engine
        assert encoder.engine.startswith("openvino")
        assert any(
            sorted(name.split()[0] for name in record["proofs"]) == ["bf16", "float32"] for record in records(cache)
        )
    else:
        assert encoder.engine.startswith("torch")
        assert "no native bf16" in encoder.notes[0]


def test_what_cannot_be_kept_runs_all_the_same(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cxr-embed").write_text("a file in the place of the folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    encoder = load(world)
    assert encoder.engine.startswith("openvino")
    assert "could not be kept" in encoder.notes[0]


def test_what_cannot_be_traced_is_run_by_torch_and_not_tried_again(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tries: list[int] = []

    def fails(*_: Any) -> Any:
        tries.append(1)
        raise RuntimeError("an operation\nthat nobody knows")

    monkeypatch.setattr(image_tower, "trace", fails)
    for _ in range(2):
        encoder = load(world)
        batch = pictures(encoder, 2)
        right = by_torch(world, "test_vit", batch)
        assert np.abs(encoder.embed(batch)["features"] - right).max() < 1e-5 * np.abs(right).max()
        assert encoder.engine.startswith("torch")
        assert encoder.notes == (
            "timm:test_vit is run by torch, not by OpenVINO: its network cannot be translated (an operation)",
        )
    assert len(tries) == 1


class Tiny:
    """A tower of one layer, around which a function may do what it likes."""

    def __init__(self, function: Callable[[Any], Any], precision: Any = "float32") -> None:
        self.spec = EncoderSpec("tiny", revision="1", preprocessing=function.__name__, outputs={"features": (4,)})
        self.tower = ImageTower(
            self.spec,
            load=self.load,
            outputs=lambda module, pixels: {"features": function(module(pixels.flatten(1)))},
            preprocess=self.preprocess,
            main="features",
            width=4,
            packages=(),
            device="cpu",
            precision=precision,
            threads=1,
        )

    def preprocess(self, image: CxrImage) -> np.ndarray:
        return image.pixels[None, :8, :8].astype(np.float32) / 255

    def load(self) -> Any:
        torch.manual_seed(0)
        return torch.nn.Linear(64, 4)


def by_its_mean(found: Any) -> Any:
    return (
        found if float(found.mean()) > 1e9 else found * float(found.sum())
    )  # numbers that a trace takes for constants


def as_it_is(found: Any) -> Any:
    return found


def test_a_network_whose_answers_differ_is_run_by_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for _ in range(2):
        tower = Tiny(by_its_mean).tower
        assert tower.engine.startswith("torch")
        assert "from torch's, 1e-04 is allowed" in tower.notes[-1]


def test_several_outputs_by_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tiny = Tiny(as_it_is)
    spec = replace(tiny.spec, outputs={"cells": (2, 2), "features": (4,)})

    def outputs(module: Any, pixels: Any) -> dict[str, Any]:
        found = module(pixels.flatten(1))
        return {"features": found, "unwanted": found, "cells": 2 * found.reshape(-1, 2, 2)}

    options: dict[str, Any] = {"load": tiny.load, "outputs": outputs, "preprocess": tiny.preprocess, "packages": ()}
    for _ in range(2):
        tower = ImageTower(spec, main="features", width=4, device="cpu", precision="float32", threads=1, **options)
        batch = np.random.default_rng(0).random((3, 1, 8, 8), np.float32)
        found = tower(batch)
        assert tower.engine.startswith("openvino")
        assert list(found) == ["cells", "features"]
        right = tiny.load()(torch.from_numpy(batch).flatten(1)).detach().numpy()
        assert np.allclose(found["features"], right, atol=1e-5)
        assert np.allclose(found["cells"], 2 * right.reshape(3, 2, 2), atol=1e-5)


def test_pictures_of_another_size_go_to_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tower = Tiny(as_it_is).tower
    assert tower.engine.startswith("openvino")
    batch = np.random.default_rng(0).random((2, 1, 4, 16), np.float32)
    assert np.allclose(tower(batch)["features"], tower(batch.reshape(2, 1, 8, 8))["features"], atol=1e-5)


def test_two_processes_may_keep_the_same_network(world: Path, cache: Path) -> None:
    spec = Tiny(as_it_is).spec
    first, second = KeptNetwork(spec, ()), KeptNetwork(spec, ())
    encoder = load(world)
    kept = KeptNetwork(encoder.spec, ("timm",))
    model, (inputs, answers) = kept.read(), kept.example() or (np.empty(0), {})
    first.write(model, inputs, answers)
    second.write(model, inputs, answers)
    second.note_proof("float32", 0.0)
    found = KeptNetwork(spec, ())
    assert found.read() is not None
    assert found.proven("float32") == 0.0
    assert not list(cache.glob("*.partial"))
    first.refuse("another reason")
    assert KeptNetwork(spec, ()).refused == "another reason"


def test_agreement() -> None:
    right = {"features": np.array([[1.0, -2.0], [0.5, 0.0]], np.float32)}
    assert agreement({"features": right["features"] + np.float32(1e-3)}, right, "float32") == pytest.approx(
        5e-4, rel=1e-3
    )
    assert agreement(right, right, "bf16") == pytest.approx(1)
    assert agreement({"features": -right["features"]}, right, "bf16") == pytest.approx(-1)
    for wrong in (np.full((2, 2), np.inf, np.float32), np.zeros((2, 3), np.float32)):
        for precision in ("float32", "bf16"):
            figure = agreement({"features": wrong}, right, precision)  # type: ignore[arg-type]
            assert "not finite" in disagreement(figure, precision)  # type: ignore[arg-type]
    assert not disagreement(9e-5, "float32")
    assert disagreement(2e-4, "float32") == "its answers are 2e-04 from torch's, 1e-04 is allowed"
    assert not disagreement(0.9981, "bf16")
    assert disagreement(0.997, "bf16") == "its answers have a cosine of 0.997 with torch's, 0.998 is required"


@pytest.mark.usefixtures("cache")
def test_a_store_goes_on_in_its_own_precision(world: Path, tmp_path: Path) -> None:
    spec = load(world).spec
    assert load(world, precision="bf16").spec.fingerprint == spec.fingerprint
    with StoreWriter(tmp_path / "store", spec, precision="float32"):
        pass
    with pytest.raises(StoreError, match="float32"), StoreWriter(tmp_path / "store", spec, precision="bf16"):
        pass


@pytest.mark.usefixtures("world")
def test_openvino_reports_nothing_of_a_translation() -> None:
    from openvino.tools.ovc import convert_impl

    assert convert_impl.tm.__name__ == "openvino.tools.ovc.telemetry_stub"


@pytest.mark.parametrize(
    "changes",
    [
        {"interpolation": "bicubic", "crop_pct": 0.9},
        {"interpolation": "bilinear", "crop_pct": 0.875, "input_size": (3, 97, 97)},
        {"interpolation": "lanczos", "crop_mode": "squash", "crop_pct": 1.0},
    ],
)
def test_plain_pixels_are_timms_to_the_bit(changes: dict[str, Any]) -> None:
    from PIL import Image

    settings = {
        **{"input_size": (3, 64, 64), "crop_mode": "center", "crop_pct": 0.9},
        **{"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), **changes},
    }
    transform = timm.data.create_transform(**settings, is_training=False)

    def theirs(grey: np.ndarray) -> np.ndarray:
        found: np.ndarray = transform(Image.fromarray(grey).convert("RGB")).numpy()
        return found

    ours = plain_pixels({"test": repr(settings)}, ("timm",), lambda: timm_recipe(settings), theirs)
    assert ours is not None
    grey = np.random.default_rng(3).integers(0, 256, (211, 174), np.uint8)
    assert np.array_equal(ours(grey), theirs(grey))


def test_pixels_with_steps_that_are_not_known_are_the_librarys() -> None:
    known = {"input_size": (3, 64, 64), "interpolation": "bicubic", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert timm_recipe(known) is not None
    for changes in (
        {"crop_mode": "border"},
        {"crop_pct": 1.1},
        {"input_size": (3, 64, 32)},
        {"interpolation": "random"},
    ):
        assert timm_recipe({**known, **changes}) is None
    other = plain_pixels(
        {"test": "differs"}, (), lambda: timm_recipe(known), lambda _: np.zeros((3, 64, 64), np.float32)
    )
    assert other is None


@pytest.mark.parametrize(
    "kind", ["BitImageProcessor", "CLIPImageProcessor", "SiglipImageProcessor", "ViTImageProcessor"]
)
def test_plain_pixels_are_the_processors_to_the_bit(kind: str) -> None:
    transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'cxr-embed[torch]'")
    from PIL import Image

    size = {"height": 32, "width": 32} if kind[:2] in ("Si", "Vi") else {"shortest_edge": 35}
    maker = getattr(transformers, f"{kind}Pil", None) or getattr(transformers, kind)
    processor = maker(size=size, crop_size={"height": 30, "width": 30}, image_mean=[0.53] * 3, image_std=[0.24] * 3)
    recipe = processor_recipe(processor)
    assert recipe is not None
    for shape in ((211, 174), (33, 80), (64, 64)):
        grey = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
        right = processor(images=Image.fromarray(grey).convert("RGB"), return_tensors="np")["pixel_values"][0]
        assert np.array_equal(PlainPixels(recipe)(grey), right)


def test_without_a_gpus_driver_torch_is_not_asked_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr("cxr_embed.encoders.ctypes.CDLL", absent)
    monkeypatch.setattr("cxr_embed.encoders.os.path.exists", lambda _: False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delitem(sys.modules, "torch")
    assert resolve_device("auto", "timm:test_vit") == "cpu"
    assert "torch" not in sys.modules


def test_facts_that_are_damaged_are_asked_for_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cxr_embed.encoders.kept import remembered

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    asked: list[int] = []

    def find() -> dict[str, Any]:
        asked.append(1)
        return {"width": 4}

    for _ in range(2):
        assert remembered({"a": 1}, (), find) == {"width": 4}
    assert len(asked) == 1
    (path,) = (tmp_path / "cxr-embed" / "facts").iterdir()
    path.write_text(path.read_text().replace('"width": 4', '"width": 5'))
    assert remembered({"a": 1}, (), find) == {"width": 4}
    assert len(asked) == 2
