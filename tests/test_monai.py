"""MONAI bundles: made by MONAI's own export, its network and transforms as the peer; what would run is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from map_worlds import gradient_map

from cxr_embed import load_encoder
from cxr_embed.encoders.check import check_encoder
from cxr_embed.encoders.monai_bundle import NETWORKS, Bundle
from cxr_embed.encoders.monai_pixels import bundle_pixels
from cxr_embed.errors import EncoderError, MapError
from cxr_embed.types import ClassRule, CxrImage

torch = pytest.importorskip("torch", reason="bundles need torch: pip install 'cxr-embed[monai]'")
monai = pytest.importorskip("monai", reason="bundles need MONAI: pip install 'cxr-embed[monai]'")

NETWORK = {
    "_target_": "DenseNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 3,
    "init_features": 8,
    "growth_rate": 4,
    "block_config": [2, 2],
    "norm": ["batch", {"eps": 1e-4}],
}
LOAD = [{"_target_": "LoadImaged", "keys": "image"}, {"_target_": "EnsureChannelFirstd", "keys": ["image"]}]
RESIZE = {"_target_": "Resized", "keys": "image", "spatial_size": [48, 40], "mode": "bilinear"}
STEPS = [*LOAD, RESIZE, {"_target_": "ScaleIntensityd", "keys": "image"}]
NAMES = {"0": "Effusion", "1": "Mass", "2": "Edema"}
METADATA = {"version": "1.2", "network_data_format": {"inputs": {}, "outputs": {"pred": {"channel_def": NAMES}}}}


def config(**changed: Any) -> dict[str, Any]:
    """As `init_bundle` has it, expressions and all, with what is read here filled in."""
    from monai.bundle.scripts import DEFAULT_INFERENCE

    sigmoid = {"_target_": "Activationsd", "keys": "pred", "sigmoid": True}
    ours = {
        "network_def": NETWORK,
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [*STEPS, {"_target_": "EnsureTyped", "keys": "image", "device": "@device"}],
        },
        "postprocessing": {"_target_": "Compose", "transforms": [sigmoid]},
    }
    return {**DEFAULT_INFERENCE, **ours, **changed}


@pytest.fixture(scope="module")
def network() -> Any:
    from monai.networks.nets import DenseNet

    torch.manual_seed(0)
    arguments = {key: value for key, value in NETWORK.items() if key != "_target_"}
    model = DenseNet(**arguments)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model.eval()


@pytest.fixture(scope="module")
def bundle(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from monai.bundle import init_bundle

    folder = tmp_path_factory.mktemp("bundles") / "mine"
    init_bundle(folder, network=network, metadata_str=METADATA, inference_str=config())
    return folder


@pytest.fixture
def changed(bundle: Path, tmp_path: Path) -> Callable[..., Path]:
    """A copy of the bundle whose configuration is another."""
    import shutil

    def make(**values: Any) -> Path:
        shutil.rmtree(tmp_path / "copy", ignore_errors=True)
        shutil.copytree(bundle, tmp_path / "copy")
        (tmp_path / "copy" / "configs" / "inference.json").write_text(json.dumps(config(**values)))
        return tmp_path / "copy"

    return make


def images() -> list[CxrImage]:
    """Radiographs of one size each; smooth, so that they differ after a resize too."""
    from PIL import Image

    rng, made = np.random.default_rng(0), []
    for width, height in ((70, 90), (120, 64), (40, 48)):
        noise = Image.fromarray(rng.integers(0, 256, (9, 7)).astype(np.uint8))
        pixels = np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC))
        made.append(CxrImage(pixels=pixels, bits=8, content_id="", source="png"))
    return made


def by_monai(steps: list[dict[str, Any]], image: CxrImage, folder: Path) -> np.ndarray:
    """What MONAI's own transforms make of the picture's file."""
    from monai import transforms
    from PIL import Image

    Image.fromarray(image.pixels).save(folder / "x.png")
    data: Any = {"image": str(folder / "x.png")}
    for step in steps:
        arguments = {key: value for key, value in step.items() if key != "_target_"}
        data = getattr(transforms, step["_target_"])(**arguments)(data)
    found: np.ndarray = data["image"].numpy()
    return found


def test_a_bundle_gives_monais_features_and_answers(bundle: Path, network: Any, tmp_path: Path) -> None:
    encoder = load_encoder(f"monai:{bundle}", device="cpu", outputs=["features", "scores"])
    assert encoder.spec.name == "monai:mine"
    assert encoder.spec.weights_source == "MONAI bundle mine, version 1.2"
    assert encoder.spec.classes == ClassRule("scores", ("Effusion", "Mass", "Edema"))
    pixels = np.stack([encoder.preprocess(image) for image in images()])
    theirs = np.stack([by_monai(STEPS, image, tmp_path) for image in images()])
    assert theirs.shape == (3, 1, 48, 40)
    np.testing.assert_allclose(pixels, theirs, atol=1e-3)
    with torch.inference_mode():
        tensors = torch.from_numpy(theirs)
        features = torch.relu(network.features(tensors)).mean(dim=(2, 3)).numpy()
        answers = network(tensors).numpy()
    ours = encoder.embed(pixels)
    np.testing.assert_allclose(ours["features"], features, atol=1e-4 * np.abs(features).max())
    np.testing.assert_allclose(ours["scores"], answers, atol=1e-4 * np.abs(answers).max())
    assert np.ptp(features, axis=0).max() > 1e-3
    plain = load_encoder("monai:any name", weights=bundle, device="cpu").spec
    assert (plain.name, plain.outputs) == ("monai:mine", {"features": (16,)})
    assert plain.weights != encoder.spec.weights
    checked = check_encoder(f"monai:{bundle}", images(), device="cpu")
    assert checked["ok"], checked["problems"]
    assert {file["file"] for file in checked["files"]} == {"models/model.pt", "configs/inference.json"}


NORMAL = {"_target_": "NormalizeIntensityd", "keys": "image"}
RANGE = {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 20, "a_max": 200}


@pytest.mark.parametrize(
    "steps",
    [
        [*LOAD, {**RESIZE, "mode": "area"}],
        [*LOAD, {key: value for key, value in RESIZE.items() if key != "mode"}],
        [*LOAD, {**RESIZE, "mode": "bicubic", "align_corners": True}],
        [{"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True, "reverse_indexing": False}, RESIZE],
        [*STEPS[:3], {"_target_": "ScaleIntensityd", "keys": "image", "minv": -1.0, "maxv": 1.0}],
        [*STEPS[:3], {**RANGE, "b_min": 0.0, "b_max": 1.0, "clip": True}],
        [*STEPS[:3], RANGE],
        [*STEPS[:3], NORMAL],
        [*STEPS[:3], {**NORMAL, "subtrahend": 100, "divisor": 50}],
        [
            *STEPS,
            {"_target_": "RepeatChanneld", "keys": "image", "repeats": 3},
            {**NORMAL, "subtrahend": [0.4, 0.5, 0.6], "divisor": [0.2, 0.3, 0.4], "channel_wise": True},
        ],
        [*STEPS, {**NORMAL, "channel_wise": True}, {"_target_": "ToTensord", "keys": "image"}],
    ],
)
def test_transforms_are_monais(steps: list[dict[str, Any]], tmp_path: Path) -> None:
    channels = 3 if "RepeatChanneld" in str(steps) else 1
    ours = bundle_pixels({"_target_": "Compose", "transforms": steps}, channels, "here")
    for image in images():
        theirs = by_monai(steps, image, tmp_path)
        np.testing.assert_allclose(ours(image), theirs, atol=1e-3 * max(1, np.abs(theirs).max()))
    blank = CxrImage(pixels=np.full((50, 60), 7, np.uint8), bits=8, content_id="", source="png")
    np.testing.assert_allclose(ours(blank), by_monai(steps, blank, tmp_path), atol=1e-3)


def test_answers_of_a_softmax(changed: Callable[..., Path], network: Any) -> None:
    post = {"transforms": [{"_target_": "monai.transforms.Activationsd", "keys": "pred", "softmax": True}]}
    folder = changed(postprocessing=post)
    encoder = load_encoder(f"monai:{folder}", device="cpu", outputs=["scores"])
    pixels = np.stack([encoder.preprocess(image) for image in images()])
    with torch.inference_mode():
        theirs = torch.softmax(network(torch.from_numpy(pixels)), dim=1).numpy()
    np.testing.assert_allclose(1 / (1 + np.exp(-encoder.embed(pixels)["scores"])), theirs, atol=1e-5)
    folder = changed(postprocessing="$None")
    with pytest.raises(EncoderError, match="no `outputs` scores: its postprocessing has no Activations"):
        load_encoder(f"monai:{folder}", outputs=["scores"])
    folder = changed()
    (folder / "configs" / "metadata.json").write_text("{}")
    with pytest.raises(EncoderError, match=r"does not name its 3 classes"):
        load_encoder(f"monai:{folder}", outputs=["scores"])
    assert load_encoder(f"monai:{folder}", device="cpu").spec.outputs == {"features": (16,)}


@pytest.mark.parametrize(
    ("network_def", "said"),
    [
        ({"_target_": "os.system", "command": "touch ran"}, "network_def: os.system is none of the networks"),
        ({"_target_": "subprocess.DenseNet"}, "network_def: subprocess.DenseNet is none of the networks"),
        ({"_target_": "UNet", "spatial_dims": 2}, "network_def: UNet is none of the networks"),
        ({**NETWORK, "_target_": "$os.system('touch ran')"}, r"_target_: .* is an expression"),
        ({**NETWORK, "out_channels": "$__import__('os').mkdir('ran')"}, "out_channels: .* is an expression"),
        ({**NETWORK, "in_channels": "@channels"}, "in_channels: '@channels' is a reference"),
        ({**NETWORK, "norm": ["batch", {"eps": "%other.json::eps"}]}, "norm: .* is a macro"),
        ({**NETWORK, "act": {"_target_": "os.system", "command": "touch ran"}}, "act: '_target_' would make an object"),
        ({**NETWORK, "_disabled_": "$__import__('os').mkdir('ran')"}, "_disabled_: only `_target_` and plain"),
        ({**NETWORK, "_requires_": ["$1"]}, "_requires_: only"),
        ({**NETWORK, "pretrained": True}, "pretrained: is not false"),
        ({**NETWORK, "spatial_dims": 3}, "spatial_dims: is not 2"),
        ({**NETWORK, "in_channels": 4}, "gives no 4 channels of a grey picture"),
        ("@network", "does not name a network"),
        (None, "does not name a network"),
    ],
)
def test_what_would_run_is_refused_by_name(
    network_def: Any, said: str, changed: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EncoderError, match=said) as caught:
        load_encoder(f"monai:{changed(network_def=network_def)}", device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (
            [*STEPS, {"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x"}],
            "transform 4: Lambdad is not known",
        ),
        ([{"_target_": "os.system", "command": "x"}], "transform 0: os.system is not known here"),
        ([*STEPS, {"_target_": "evil.ToTensord"}], "evil.ToTensord is not known"),
        ([*LOAD, {**RESIZE, "spatial_size": "@size"}], "Resized, spatial_size: '@size' is a reference"),
        ([*LOAD, {**RESIZE, "spatial_size": [-1, 40]}], r"Resized with .* is not known here"),
        ([*LOAD, {**RESIZE, "anti_aliasing": True}], r"Resized with .* is not known here"),
        ([*LOAD, {**RESIZE, "mode": "trilinear"}], r"Resized with .* is not known here"),
        ([*STEPS, {**NORMAL, "nonzero": True}], r"NormalizeIntensityd with .* is not known here"),
        ([*STEPS, {**NORMAL, "dtype": "$torch.float16"}], "dtype: .* is an expression"),
        ([*STEPS, {**NORMAL, "divisor": [1.0, 2.0], "channel_wise": True}], "does not run"),
        ([*STEPS, {"_target_": "ScaleIntensityd", "factor": 2.0}], r"ScaleIntensityd with .* is not known here"),
        ([*STEPS, {**RANGE, "a_max": 20}], r"ScaleIntensityRanged with .* is not known here"),
        (LOAD, "no Resize gives all pictures one size"),
        ("$x", "is not a Compose of transforms"),
    ],
)
def test_unknown_preprocessing_needs_a_recipe(steps: Any, said: str, changed: Callable[..., Path]) -> None:
    folder = changed(preprocessing={"_target_": "Compose", "transforms": steps})
    with pytest.raises(EncoderError, match=said) as caught:
        load_encoder(f"monai:{folder}", device="cpu")
    assert "\n" not in str(caught.value)
    encoder = load_encoder(f"monai:{folder}", device="cpu", pixels="grey")
    assert encoder.preprocess(images()[0]).shape == (1, 224, 224)
    with pytest.raises(EncoderError, match="`pixels` imagenet has 3 channels, the network takes 1"):
        load_encoder(f"monai:{folder}", device="cpu", pixels="imagenet")


class Bomb:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("ran",))


def test_weights_are_read_whole_and_nothing_in_them_runs(
    changed: Callable[..., Path], network: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder, state = changed(), network.state_dict()
    digest = load_encoder(f"monai:{folder}", device="cpu").spec.weights
    pickle = folder / "models" / "model.pt"

    def refused(value: Any, match: str) -> None:
        torch.save(value, pickle)
        with pytest.raises(EncoderError, match=match):
            load_encoder(f"monai:{folder}", device="cpu").embed(np.zeros((1, 1, 48, 40), np.float32))

    torch.save({"model": state, "callback": Bomb()}, pickle)
    assert load_encoder(f"monai:{folder}", device="cpu").spec.weights != digest
    refused(Bomb(), "has no class_layers.out.weight of a DenseNet")
    refused(dict(list(state.items())[20:]), "tensors of MONAI's DenseNet are here; missing are")
    refused({**state, "gate.weight": torch.ones(2)}, "1 tensor is not MONAI's DenseNet's: gate.weight")
    pickle.write_bytes(b"junk")
    with pytest.raises(EncoderError, match="not a weights file that torch can read"):
        load_encoder(f"monai:{folder}", device="cpu")
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), pickle)
    with pytest.raises(EncoderError, match="a TorchScript program"):
        load_encoder(f"monai:{folder}", device="cpu")
    from safetensors.torch import save_file

    save_file(dict(state), folder / "models" / "model.safetensors")  # taken before the pickle
    load_encoder(f"monai:{folder}", device="cpu").embed(np.zeros((1, 1, 48, 40), np.float32))
    assert not (tmp_path / "ran").exists()


def test_what_is_not_whole_is_named(changed: Callable[..., Path], tmp_path: Path) -> None:
    folder = changed()
    (folder / "models" / "model.pt").unlink()
    with pytest.raises(EncoderError, match=r"models/model.safetensors or model.pt is missing"):
        load_encoder(f"monai:{folder}")
    import yaml

    (folder / "configs" / "inference.json").unlink()
    with pytest.raises(EncoderError, match=r"configs/inference.json or .* is missing"):
        load_encoder(f"monai:{folder}")
    with pytest.raises(EncoderError, match="nowhere: no such folder"):
        load_encoder(f"monai:{tmp_path / 'nowhere'}")
    written = folder / "configs" / "inference.yaml"
    written.write_text(yaml.safe_dump({"network_def": NETWORK}))
    assert Bundle(folder).network.head == "class_layers.out"
    written.write_text("network_def: !!python/object/apply:os.mkdir [ran]")
    with pytest.raises(EncoderError, match=r"inference.yaml: not readable as YAML"):
        Bundle(folder).network  # noqa: B018


def test_the_networks_are_monais() -> None:
    from monai.networks import nets

    assert [name for name in NETWORKS if not hasattr(nets, name)] == []
    examples: dict[str, dict[str, Any]] = {
        "resnet10": {"spatial_dims": 2},
        "SEResNet50": {"spatial_dims": 2, "in_channels": 3, "num_classes": 2},
        "EfficientNetBN": {"model_name": "efficientnet-b0", "pretrained": False},
    }
    for name, arguments in examples.items():
        with torch.device("meta"):
            model = getattr(nets, name)(**arguments)
        assert isinstance(model.get_submodule(NETWORKS[name]), torch.nn.Linear)


def test_it_has_maps_by_gradients_where_its_pixels_are_known(bundle: Path) -> None:
    pytest.importorskip("captum")
    words, found = gradient_map(load_encoder(f"monai:{bundle}", device="cpu", precision="float32", pixels="grey"))
    assert "as it is pooled" in words
    assert np.ptp(found) > 0
    with pytest.raises(MapError, match="what part of the picture its own transforms keep is not known"):
        gradient_map(load_encoder(f"monai:{bundle}", device="cpu", precision="float32"))
