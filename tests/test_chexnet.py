"""CheXNet's checkpoints: torchvision's DenseNet-121 as the peer, on the same random weights and pixels."""

from __future__ import annotations

import json
import os
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_cli

from cxr_embed import load_encoder
from cxr_embed.encoders import ENCODERS
from cxr_embed.encoders.chexnet import NIH_CLASSES
from cxr_embed.encoders.converters import convert_weights
from cxr_embed.encoders.seen import words_on
from cxr_embed.encoders.weights import class_names, save_weights
from cxr_embed.errors import EncoderError
from cxr_embed.types import ClassRule, CxrImage

torch = pytest.importorskip("torch", reason="conversion needs torch: pip install 'cxr-embed[torch]'")
torchvision = pytest.importorskip("torchvision", reason="the peer: pip install 'cxr-embed[torch]'")


@pytest.fixture(scope="module")
def peer() -> Any:
    """CheXNet's network with numbers that know nothing, its statistics near those of real ones."""
    torch.manual_seed(0)
    model = torchvision.models.densenet121(weights=None)
    model.classifier = torch.nn.Sequential(torch.nn.Linear(1024, 14), torch.nn.Sigmoid())
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.8, 1.2)
            module.weight.data.uniform_(0.8, 1.2)
    return model.eval()


def old_state(peer: Any) -> OrderedDict[str, Any]:
    """As the reimplementation's checkpoint has it: early names, two modules around, no counters."""
    state = OrderedDict()
    for name, values in peer.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            for part in ("norm1", "norm2", "conv1", "conv2"):
                if "denselayer" in name:
                    name = name.replace(f".{part}.", f".{part[:-1]}.{part[-1]}.")
            state[f"module.densenet121.{name}"] = values
    assert "module.densenet121.features.denseblock1.denselayer1.norm.1.weight" in state
    return state


def save(path: Path, value: Any, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def checkpoint(peer: Any) -> dict[str, Any]:
    moments = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}
    return {"epoch": 4, "state_dict": old_state(peer), "best_loss": np.float64(0.1), "optimizer": moments}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_gives_torchvisions_features(
    peer: Any, zipped: bool, tmp_path: Path, chest: Callable[..., np.ndarray]
) -> None:
    path = save(tmp_path / "model.pth.tar", checkpoint(peer), _use_new_zipfile_serialization=zipped)
    out = tmp_path / "chexnet.safetensors"
    done = run_cli("weights", "convert", "chexnet", str(path), "--out", str(out))
    assert done.returncode == 0, done.stderr
    assert "606 tensors for chexnet" in done.stdout
    both = ["features", "scores"]
    encoder = load_encoder("chexnet", weights=out, device="cpu", precision="float32", outputs=both)
    assert encoder.spec.weights_source.startswith("model.pth.tar (SHA-256 ")
    assert "digest unknown" in encoder.spec.weights_source
    images = [
        CxrImage(pixels=(chest(seed, 250 + 31 * seed) >> 4).astype(np.uint8), bits=8, content_id="", source="png")
        for seed in range(2)
    ]
    images.append(CxrImage(pixels=images[0].pixels[:200], bits=8, content_id="", source="png"))
    pixels = np.stack([encoder.preprocess(image) for image in images])
    np.testing.assert_allclose(pixels, by_torchvision(images), atol=1e-5)
    with torch.no_grad():
        maps = torch.relu(peer.features(torch.from_numpy(pixels)))
        answers = peer.classifier(maps.mean(dim=(2, 3))).numpy()
    theirs = maps.mean(dim=(2, 3)).numpy()
    ours = encoder.embed(pixels)
    np.testing.assert_allclose(ours["features"], theirs, atol=1e-4 * np.abs(theirs).max())
    assert np.ptp(theirs, axis=0).max() > 1e-3
    assert encoder.spec.classes == ClassRule("scores", NIH_CLASSES)
    np.testing.assert_allclose(1 / (1 + np.exp(-ours["scores"])), answers, atol=1e-4)
    assert np.ptp(answers) > 0.05


def by_torchvision(images: list[CxrImage]) -> np.ndarray:
    from PIL import Image
    from torchvision import transforms as t

    normal = t.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    way = t.Compose([t.Resize(256), t.CenterCrop(224), t.ToTensor(), normal])
    found: np.ndarray = torch.stack([way(Image.fromarray(image.pixels).convert("RGB")) for image in images]).numpy()
    return found


def test_the_classifier_is_kept_with_what_is_known_of_it(peer: Any, tmp_path: Path) -> None:
    converted = convert_weights("chexnet", save(tmp_path / "a.pth", checkpoint(peer)))
    np.testing.assert_array_equal(converted.tensors["classifier.weight"], peer.classifier[0].weight.detach().numpy())
    assert converted.notes["head"] == "sigmoid"
    assert json.loads(converted.notes["classes"]) == list(NIH_CLASSES)
    save_weights(tmp_path / "a.safetensors", converted.tensors, converted.source, converted.notes)
    spec = load_encoder("chexnet", weights=tmp_path / "a.safetensors").spec
    assert (spec.outputs, spec.classes) == ({"features": (1024,)}, None)
    answering = load_encoder("chexnet", weights=tmp_path / "a.safetensors", outputs=["scores"]).spec
    assert answering.outputs == {"scores": (14,)}
    assert answering.weights != spec.weights  # another classifier is another model


def test_classes_that_a_checkpoint_does_not_name_are_given(tmp_path: Path) -> None:
    path = save(tmp_path / "two.pth", torchvision.models.densenet121(num_classes=2).state_dict())
    out = tmp_path / "two.safetensors"
    bare = convert_weights("chexnet", path)
    save_weights(out, bare.tensors, bare.source, bare.notes)
    with pytest.raises(EncoderError, match=r"nothing says what its classifier answers, .* --classes NAME,NAME"):
        load_encoder("chexnet", weights=out, outputs=["scores"])
    done = run_cli("weights", "convert", "chexnet", str(path), "--out", str(out), "--classes", "Effusion, Pneumonia")
    assert done.returncode == 0, done.stderr
    spec = load_encoder("chexnet", weights=out, outputs=["scores"]).spec
    assert spec.classes == ClassRule("scores", ("Effusion", "Pneumonia"))
    for names in (["Effusion"], ["Mass", "Mass"]):
        with pytest.raises(EncoderError, match=r"has 2 classes; `classes` names 1, each once"):
            convert_weights("chexnet", path, classes=names)
    with pytest.raises(EncoderError, match=r"leave out `classes` for densenet121; the checkpoints of chexnet have"):
        convert_weights("densenet121", path, classes=["a"])
    stem = {"features.conv0.weight": torch.ones(1)}
    with pytest.raises(EncoderError, match=r"has no classifier; `classes` names 1"):
        convert_weights("chexnet", save(tmp_path / "bare.pth", stem), classes=["a"])
    for note in ("Effusion", "[]", '["a", "a"]', '["a", ""]', "[1]", "{}"):
        save_weights(tmp_path / "n.safetensors", {"a": np.ones(1, np.float32)}, "x", {"classes": note})
        with pytest.raises(EncoderError, match=r"its note `classes` is not a list of names that differ"):
            class_names(tmp_path / "n.safetensors")


@pytest.mark.parametrize("classes", [1, 5, 14, 1000])
def test_any_densenet121_of_torchvision(classes: int, tmp_path: Path) -> None:
    state = torchvision.models.densenet121(num_classes=classes).state_dict()
    converted = convert_weights("chexnet", save(tmp_path / "plain.pth", state))
    assert len(converted.tensors) == 606
    assert converted.tensors["classifier.weight"].shape == (classes, 1024)
    assert converted.notes == {"head": "linear"}  # 14 classes alone do not say which
    bare = {name: values for name, values in state.items() if not name.startswith("classifier")}
    assert convert_weights("chexnet", save(tmp_path / "bare.pth", bare)).notes == {}
    given = convert_weights("chexnet", tmp_path / "plain.pth", converted.source.split()[2][:64])
    assert "digest unknown" not in given.source


def test_files_that_are_not_whole_are_refused_in_a_line(peer: Any, tmp_path: Path) -> None:
    state = old_state(peer)

    def refused(match: str, value: Any, **options: Any) -> None:
        with pytest.raises(EncoderError, match=match) as told:
            convert_weights("chexnet", save(tmp_path / "x.pth", value), **options)
        assert "\n" not in str(told.value)

    def changed(name: str, values: Any) -> dict[str, Any]:
        return {**state, f"module.densenet121.{name}": values}

    half = dict(list(state.items())[: len(state) // 2])
    refused(
        r"303 of the 604 tensors of torchvision's DenseNet-121 are here; missing are (\S+, ){2}\S+ and 298 more", half
    )
    refused("another shape .* features.norm0.bias: .5,., expected .64,.", changed("features.norm0.bias", torch.ones(5)))
    refused("another shape .* classifier.weight", changed("classifier.0.weight", torch.ones(14, 512)))
    refused("1 tensor is not .*: module.gate.weight", {**state, "module.gate.weight": torch.ones(2)})
    refused("not finite", changed("features.norm0.bias", torch.full((64,), torch.inf)))
    refused("there is no features.conv0.weight", {"fc.weight": torch.ones(2)})
    refused("2 networks have a features.conv0.weight", {**state, "teacher.features.conv0.weight": torch.ones(2)})
    refused("DenseNet-121", torchvision.models.densenet169(num_classes=14).state_dict())
    refused("SHA-256 is .*, expected 00.*not opened", state, sha256="0" * 64)
    (tmp_path / "junk.pth.tar").write_bytes(b"junk")
    with pytest.raises(EncoderError, match="not a weights file that torch can read"):
        convert_weights("chexnet", tmp_path / "junk.pth.tar")
    save_weights(tmp_path / "grey.safetensors", {"features.conv0.weight": np.ones((64, 1, 7, 7), np.float32)}, "grey")
    with pytest.raises(EncoderError, match="603 of 604 tensors are missing"):
        load_encoder("chexnet", weights=tmp_path / "grey.safetensors")


def test_missing_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_EMBED_WEIGHTS", str(tmp_path))
    with pytest.raises(EncoderError, match=r"no weights for chexnet here .*\n.*weights convert chexnet model.pth.tar"):
        load_encoder("chexnet")


class Bomb:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("ran",))


def test_nothing_in_a_checkpoint_runs(peer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    planted = {**checkpoint(peer), "callback": Bomb()}
    assert len(convert_weights("chexnet", save(tmp_path / "planted.pth.tar", planted)).tensors) == 606
    for value in (
        Bomb(),
        {"state_dict": Bomb()},
        {**old_state(peer), "module.densenet121.features.conv0.weight": Bomb()},
    ):
        with pytest.raises(EncoderError):
            convert_weights("chexnet", save(tmp_path / "bomb.pth", value))
    program = torch.jit.script(torch.nn.Linear(2, 2))
    torch.jit.save(program, tmp_path / "program.pth")
    with pytest.raises(EncoderError, match="a TorchScript program"):
        convert_weights("chexnet", tmp_path / "program.pth")
    assert not (tmp_path / "ran").exists()


def test_results_on_nih_are_marked() -> None:
    assert words_on(ENCODERS["chexnet"].saw, "nih-chestxray14").startswith("learned from its images with their labels")
    assert "NIH" in words_on(ENCODERS["chexnet"].saw, "rsna-pneumonia")
