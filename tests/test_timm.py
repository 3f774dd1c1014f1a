"""timm's backbones: our vectors against timm's own, on its small test models with random weights."""

from __future__ import annotations

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
from cxr_embed.errors import EncoderError, StoreError
from cxr_embed.pipeline.embedding import embed
from cxr_embed.types import CxrImage

torch = pytest.importorskip("torch", reason="the torch encoders need torch: pip install 'cxr-embed[torch]'")
timm = pytest.importorskip("timm", reason="needs timm: pip install 'cxr-embed[torch]'")


def save_weights(path: Path, name: str, seed: int = 0, **changes: Any) -> Path:
    """timm's own initialisation, classifier included, as its checkpoints have it."""
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    save_file({**timm.create_model(name).state_dict(), **changes}, path)
    return path


@pytest.fixture(scope="session")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_weights(tmp_path_factory.mktemp("timm") / "resnet.safetensors", "test_resnet")


@pytest.fixture
def images(chest: Callable[..., np.ndarray]) -> list[CxrImage]:
    """8 bits, of other sizes than the model's."""
    return [
        CxrImage(pixels=(chest(seed, 170 + 9 * seed) >> 4).astype(np.uint8), bits=8, content_id="", source="png")
        for seed in range(3)
    ]


def direct(name: str, weights: Path, images: list[CxrImage]) -> np.ndarray:
    """The way of timm's documentation."""
    from PIL import Image
    from safetensors.torch import load_file

    model = timm.create_model(name, pretrained=False).eval()
    model.load_state_dict(load_file(weights))
    model.reset_classifier(0)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)
    pixels = torch.stack([transform(Image.fromarray(image.pixels).convert("RGB")) for image in images])
    with torch.no_grad():
        vectors: np.ndarray = model(pixels).numpy()
    return vectors


def ours(encoder: Any, images: list[CxrImage]) -> np.ndarray:
    vectors: np.ndarray = encoder.embed(np.stack([encoder.preprocess(image) for image in images]))["features"]
    return vectors


@pytest.mark.parametrize(
    ("name", "width", "side"),
    [
        ("test_resnet", 96, 160),
        ("test_efficientnet.r160_in1k", 256, 160),
        ("test_vit", 64, 160),
        ("mobilenetv3_small_050", 1024, 224),  # wider after pooling than before
        ("convnext_atto", 320, 224),
        ("maxvit_rmlp_pico_rw_256", 256, 256),  # convolutions and attention in turn
        ("mobilevit_xxs", 320, 256),
    ],
)
def test_vectors_equal_timms(name: str, width: int, side: int, tmp_path: Path, images: list[CxrImage]) -> None:
    weights = save_weights(tmp_path / "model.safetensors", name)
    encoder: Any = load_encoder(f"timm:{name}", weights=weights, device="cpu")
    assert encoder.spec.outputs == {"features": (width,)}
    assert encoder.preprocess(images[0]).shape == (3, side, side)
    vectors = ours(encoder, images)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, direct(name, weights, images), atol=1e-5, rtol=1e-4)
    assert np.ptp(vectors, axis=0).max() > 1e-5


def test_fingerprint_follows_weights_and_pixels(resnet: Path, tmp_path: Path) -> None:
    spec = load_encoder("timm:test_resnet", weights=resnet).spec
    assert '"interpolation":"bilinear"' in spec.preprocessing
    shutil.copy(resnet, tmp_path / "copy.safetensors")
    assert load_encoder("timm:test_resnet", weights=tmp_path / "copy.safetensors").spec.fingerprint == spec.fingerprint
    other = save_weights(tmp_path / "other.safetensors", "test_resnet", seed=1)
    assert load_encoder("timm:test_resnet", weights=other).spec.weights != spec.weights


def test_a_run_stores_timms_vectors(resnet: Path, tmp_path: Path, make_images: Callable[..., Path]) -> None:
    from PIL import Image

    manifest, store = make_images(4), tmp_path / "store"
    options: dict[str, Any] = {"store": store, "device": "cpu", "dtype": "float32", "workers": 1}
    summary = embed(manifest, encoder="timm:test_resnet", weights=resnet, **options)
    assert (summary.embedded, summary.failed) == (4, [])
    opened = open_store(store)
    arrays = [np.asarray(Image.open(manifest.parent / f"{name}.png")) for name in opened.ids]
    want = direct(
        "test_resnet", resnet, [CxrImage(pixels=array, bits=8, content_id="", source="png") for array in arrays]
    )
    np.testing.assert_allclose(opened.read(opened.ids, "features").vectors, want, atol=1e-5, rtol=1e-4)
    with pytest.raises(StoreError, match="holds vectors of timm:test_resnet"):
        embed(manifest, encoder="hog", store=store)


def test_unusable_weights_are_refused(resnet: Path, tmp_path: Path) -> None:
    def refused(match: str, weights: Path, name: str = "timm:test_resnet") -> None:
        with pytest.raises(EncoderError, match=match):
            load_encoder(name, weights=weights).engine  # noqa: B018

    refused("no such file; `weights` of timm:test_resnet is a safetensors file", tmp_path)
    pickle = tmp_path / "model.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), pickle)
    refused(r"model\.pth: not a safetensors file .*; pickles are not opened", pickle)
    refused("of timm's test_vit, 78 tensors are missing, the first cls_token", resnet, "timm:test_vit")
    deeper = save_weights(tmp_path / "deeper.safetensors", "resnet34")
    refused("of timm's resnet18, .* tensors are not its own, the first layer1.2", deeper, "timm:resnet18")
    wide = save_weights(tmp_path / "wide.safetensors", "test_resnet", **{"bn1.bias": torch.zeros(5)})
    refused("wide.safetensors: its tensors are not those of timm's test_resnet", wide)
    nan = torch.full_like(timm.create_model("test_resnet").state_dict()["bn1.bias"], torch.nan)
    refused("not finite", save_weights(tmp_path / "nan.safetensors", "test_resnet", **{"bn1.bias": nan}))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("timm:resnet19", "timm has no model resnet19; did you mean resnet18"),
        ("timm:resnet18.imagenet", "timm has no weights resnet18.imagenet; of resnet18 there are resnet18.a1_in1k"),
        ("timm:hf-hub:org/model", "timm has no model hf-hub:org/model"),
    ],
)
def test_unknown_names_are_refused(name: str, told: str, resnet: Path) -> None:
    with pytest.raises(EncoderError, match=told):
        load_encoder(name, weights=resnet)


def test_the_hubs_cache_is_used_offline(resnet: Path, tmp_path: Path) -> None:
    commit = "0123456789abcdef0123456789abcdef01234567"
    model = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (model / "snapshots" / commit).mkdir(parents=True)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text(commit)
    shutil.copy(resnet, model / "snapshots" / commit / "model.safetensors")
    script = """
import socket
def refuse(*arguments, **options):
    raise AssertionError("the network was used")
socket.getaddrinfo = refuse
from cxr_embed import load_encoder
for name in ["timm:test_resnet", "timm:test_vit"]:
    try:
        print(load_encoder(name).spec.weights_source)
    except Exception as error:
        print(type(error).__name__, error)
"""
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    lines = told.stdout.splitlines()
    assert lines[0] == f"timm/test_resnet.r160_in1k@{commit}", told.stderr[-800:]
    assert lines[1].startswith("EncoderError timm/test_vit.r160_in1k is not in the Hub's cache and HF_HUB_OFFLINE is")
