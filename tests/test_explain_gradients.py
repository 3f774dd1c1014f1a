"""Maps by gradients: captum's own, of the cells that are said, the same as exact ones where these can be had."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_embed.encoders import CheckedEncoder, image_tower, load_encoder
from cxr_embed.errors import MapError
from cxr_embed.explanation import gradcam
from cxr_embed.explanation.answers import answers_of
from cxr_embed.explanation.cam import Cam
from cxr_embed.explanation.gradcam import GradCam
from cxr_embed.explanation.hiding import Hiding
from cxr_embed.explanation.methods import method_of
from cxr_embed.explanation.targets import Targets, of_case, of_probe, of_prompts, of_vectors
from cxr_embed.probe import KNNProbe, LinearProbe, MLPProbe
from cxr_embed.probe.attention import AttentionProbe
from cxr_embed.probe.base import Probe
from cxr_embed.types import CxrImage

torch = pytest.importorskip("torch")
pytest.importorskip("captum", reason="needs captum: pip install 'cxr-embed[explain]'")
timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore:not fully trained")
RNG = np.random.default_rng(5)


def picture(height: int = 96, width: int = 120) -> CxrImage:
    pixels = np.kron(RNG.integers(0, 256, (height // 8, width // 8)), np.ones((8, 8))).astype(np.uint8)
    return CxrImage(pixels=pixels, bits=8, content_id="", source="png")


PICTURES = [picture() for _ in range(12)]


def probed(vectors: np.ndarray, probe: Probe, output: str = "features") -> Targets:
    """Two findings, learned from some vectors."""
    labels = np.stack([np.arange(len(vectors)) % 2, np.arange(len(vectors)) // 3 % 2], axis=1)
    probe.fit(vectors, labels)
    trained: Any = type("Trained", (), {"findings": ("a", "b"), "undefined": {}, "probe": probe, "output": output})
    return of_probe(trained, ())


def maps_of(method: Any, encoder: CheckedEncoder, targets: Targets, image: CxrImage) -> np.ndarray:
    answer = {output: found[0] for output, found in answers_of(encoder, [image]).items()}
    whole = targets.values(answer[targets.output][None])[0]
    grids, _ = method.maps(image, answer, whole, lambda _: None)
    return np.asarray(grids)


def timm_encoder(name: str, folder: Path, **options: Any) -> CheckedEncoder:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    file = folder / f"{name}.safetensors"
    if not file.exists():
        save_file(timm.create_model(name).state_dict(), file)
    return load_encoder(f"timm:{name}", weights=file, precision="float32", **options)


@pytest.fixture(scope="module", autouse=True)
def by_torch() -> Iterator[None]:
    """Towers are run by torch: their translation for OpenVINO takes longer than all that is tested here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(image_tower, "available_precisions", lambda _: ())
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def mini() -> CheckedEncoder:
    return load_encoder("mini", precision="float32", outputs=["features", "contrastive", "map"])


def test_values_of_tensors_are_the_targets_own(mini: CheckedEncoder) -> None:
    grids = RNG.standard_normal((12, 3, 4, 6)).astype(np.float32)
    cases = [
        (grids[:, 0, 0], probed(grids[:, 0, 0], LinearProbe(1.0))),
        (grids[:, 0, 0], probed(grids[:, 0, 0], MLPProbe(hidden=5, epochs=20, decay=0.01))),
        (grids, probed(grids, AttentionProbe(C=1.0), "map")),
        *((grids, probed(grids, LinearProbe(1.0, pool=pool), "map")) for pool in ("mean", "max", "flatten")),
    ]
    answer = answers_of(mini, PICTURES[:2])
    cases.append((answer["contrastive"], of_prompts(mini, ["pleural effusion", "normal"])))
    cases.append((answer["contrastive"], of_case(mini, "x", answers_of(mini, PICTURES[2:3]))))
    for vectors, targets in cases:
        assert targets.tensor_values is not None
        found = targets.tensor_values(torch.from_numpy(vectors).double()).numpy()
        assert found == pytest.approx(targets.values(vectors), rel=1e-5, abs=1e-6)


def test_of_a_linear_probe_on_means_it_is_cam_but_for_a_constant(folder: Path) -> None:
    encoder = timm_encoder("test_resnet", folder, outputs=["features", "map"])
    targets = probed(answers_of(encoder, PICTURES)["features"], LinearProbe(1.0))
    method, exact = (kind.of(encoder, targets, Hiding()) for kind in (GradCam, Cam))
    assert method.words == "gradcam, layer layer4 (5 x 5 cells), as it is pooled"
    found, known = (maps_of(each, encoder, targets, PICTURES[0]) for each in (method, exact))
    apart = found - known
    assert np.ptp(known, axis=(1, 2)).min() > 0
    assert np.ptp(apart, axis=(1, 2)) == pytest.approx([0, 0], abs=float(1e-4 * np.abs(known).max()))


def test_it_is_captum_s_of_the_same_densenet(folder: Path) -> None:
    from captum.attr import LayerGradCam
    from torchvision.models import densenet121 as theirs

    from cxr_embed.encoders.networks import densenet121
    from cxr_embed.encoders.weights import random_weights, save_weights

    weights = random_weights(densenet121, 0)
    save_weights(folder / "d.safetensors", weights, "random numbers (seed 0): not a trained model")
    encoder = load_encoder(
        "densenet121", weights=folder / "d.safetensors", precision="float32", outputs=["features", "map"]
    )
    targets = of_vectors(encoder, "features", answers_of(encoder, PICTURES[1:3])["features"], ("a", "b"))
    method = GradCam.of(encoder, targets, Hiding())
    assert method.words == "gradcam, layer map (7 x 7 cells), after the last activation"

    class Whole(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.features = theirs(weights=None).features
            self.features.conv0 = torch.nn.Conv2d(1, 64, 7, 2, 3, bias=False)
            state = {name.removeprefix("features."): torch.from_numpy(value) for name, value in weights.items()}
            assert not self.features.load_state_dict(state, strict=False).unexpected_keys
            self.last = torch.nn.ReLU()

        def forward(self, pixels: Any) -> Any:
            assert targets.tensor_values is not None
            return targets.tensor_values(self.last(self.features(pixels)).mean((2, 3)).double())

    model = Whole().eval()
    pixels = torch.from_numpy(encoder.preprocess(PICTURES[0])[None])
    found = maps_of(method, encoder, targets, PICTURES[0])
    for number in range(2):
        known = LayerGradCam(model, model.last).attribute(pixels, target=number)[0, 0].detach().numpy()
        assert np.abs(found[number] - known).max() < 1e-4 * np.abs(known).max()


def test_of_a_transformer_it_is_of_the_patches_before_the_last_block(folder: Path) -> None:
    encoder = timm_encoder("test_vit", folder)
    targets = of_case(encoder, "x", answers_of(encoder, PICTURES[1:2]))
    method = GradCam.of(encoder, targets, Hiding())
    assert method.words == "gradcam, layer blocks.5 (10 x 10 cells), the patches that go into it"
    found = maps_of(method, encoder, targets, PICTURES[0])
    # The same by hand: the blocks before the last one, the last one, the class token.
    model = timm.create_model("test_vit", num_classes=0).eval()
    from safetensors.torch import load_file

    model.load_state_dict(load_file(folder / "test_vit.safetensors"), strict=False)
    seen: list[Any] = []
    model.blocks[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0].requires_grad_()) or args)
    value = targets.tensor_values(model(torch.from_numpy(encoder.preprocess(PICTURES[0])[None])).double())  # type: ignore[misc]
    (slope,) = torch.autograd.grad(value.sum(), seen)
    tokens, slope = seen[0][0, 1:], slope[0, 1:]  # (100, D)
    known = (tokens * slope.mean(0)).sum(1).reshape(10, 10).detach().numpy()
    assert found[0] == pytest.approx(known, abs=float(1e-4 * np.abs(known).max()))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_convnext", "layer stages (5 x 5 cells), as it is pooled"),
        ("test_efficientnet", "layer bn2 (5 x 5 cells), as it is pooled"),
        ("test_vit3", "the patches that go into it"),
    ],
)
def test_layers_of_timm_s_networks(name: str, words: str, folder: Path) -> None:
    encoder = timm_encoder(name, folder)
    targets = of_case(encoder, "x", answers_of(encoder, PICTURES[1:2]))
    method = GradCam.of(encoder, targets, Hiding())
    assert words in method.words
    found = maps_of(method, encoder, targets, PICTURES[0])  # raises where its value is not the encoder's
    assert np.ptp(found) > 0


def clip(folder: Path) -> None:
    from tiny_checkpoints import save_dual

    save_dual(folder, "clip", image_size=64, num_hidden_layers=2)


def siglip(folder: Path) -> None:
    from tiny_checkpoints import save_dual

    save_dual(folder, "siglip", image_size=64, num_hidden_layers=2)


def dinov2(folder: Path) -> None:
    import transformers
    from tiny_checkpoints import VISION, loud, save_processor

    config = transformers.Dinov2WithRegistersConfig(**{**VISION, "num_register_tokens": 3, "image_size": 64})
    loud(transformers.Dinov2WithRegistersModel(config)).save_pretrained(folder)
    save_processor(folder, 64)


def open_clip(folder: Path) -> None:
    from tiny_open_clip import save_open_clip

    save_open_clip(folder, "clip")


@pytest.mark.parametrize(
    ("save", "name", "layer"),
    [
        (clip, "hf:a/clip", "layers.1 (4 x 4 cells)"),
        (siglip, "hf:a/siglip", "layers.1 (4 x 4 cells)"),
        (dinov2, "hf:a/dino", ".0 (4 x 4 cells)"),
        (open_clip, "open_clip:a/clip", "resblocks.0 (4 x 4 cells)"),
    ],
)
def test_layers_of_checkpoints(save: Callable[[Path], None], name: str, layer: str, tmp_path: Path) -> None:
    for package in ("transformers", "open_clip"):
        pytest.importorskip(package)
    save(tmp_path)
    encoder = load_encoder(name, weights=tmp_path, precision="float32")
    targets = of_case(encoder, "x", answers_of(encoder, PICTURES[1:2]))
    method = GradCam.of(encoder, targets, Hiding())
    assert f"{layer}, the patches that go into it" in method.words
    assert np.ptp(maps_of(method, encoder, targets, PICTURES[0])) > 0


def test_of_a_probe_on_patches_the_patches_are_the_layer(folder: Path) -> None:
    encoder = timm_encoder("test_vit", folder, outputs=["patches"])
    grids = answers_of(encoder, PICTURES)["patches"]
    targets = probed(grids, AttentionProbe(C=1.0), "patches")
    method = GradCam.of(encoder, targets, Hiding())
    assert method.words == "gradcam, layer patches (10 x 10 cells)"
    found = maps_of(method, encoder, targets, PICTURES[0])
    cells = torch.from_numpy(grids[:1]).double().requires_grad_()
    targets.tensor_values(cells)[0, 0].backward()  # type: ignore[misc]
    known = (cells.detach() * cells.grad.mean((1, 2))).sum(3)[0].numpy()
    assert found[0] == pytest.approx(known, rel=1e-4, abs=float(1e-5 * np.abs(known).max()))


def test_prompts_and_cases_of_mini_have_maps(mini: CheckedEncoder) -> None:
    targets = of_prompts(mini, ["pleural effusion", "pneumothorax"])
    method = method_of("gradcam", mini, targets, Hiding())
    found = maps_of(method, mini, targets, PICTURES[0])  # raises where its value is not the encoder's
    assert found.shape == (2, 28, 28)
    assert np.ptp(found, axis=(1, 2)).min() > 0
    assert np.abs(found[0] - found[1]).max() > 1e-6


def test_where_there_is_none_a_line_says_so(mini: CheckedEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    hog = load_encoder("hog")
    with pytest.raises(MapError, match=r"^`method` gradcam: hog is not a network of torch here; use .*occlusion"):
        GradCam.of(hog, of_case(hog, "x", answers_of(hog, PICTURES[:1])), Hiding())
    neighbours = probed(answers_of(mini, PICTURES)["features"], KNNProbe(neighbors=3))
    with pytest.raises(MapError, match=r"the probe is knn, not linear, and has no gradient; use .*occlusion"):
        GradCam.of(mini, neighbours, Hiding())
    known = importlib.util.find_spec
    monkeypatch.setattr(gradcam.importlib.util, "find_spec", lambda name: None if name == "captum" else known(name))
    with pytest.raises(MapError, match=r"gradcam needs captum, .*pip install 'cxr-embed\[explain\]'"):
        GradCam.of(mini, of_prompts(mini, ["effusion"]), Hiding())


def test_another_value_than_the_encoder_s_is_refused(mini: CheckedEncoder) -> None:
    targets = of_prompts(mini, ["pleural effusion"])
    answer = {output: found[0] for output, found in answers_of(mini, PICTURES[:1]).items()}
    answer["map"] = -answer["map"]
    whole = targets.values(answer["contrastive"][None])[0]
    with pytest.raises(MapError, match="is another than the encoder's"):
        GradCam.of(mini, targets, Hiding()).maps(PICTURES[0], answer, whole, lambda _: None)


def test_where_the_vector_is_no_mean_auto_takes_gradients(folder: Path) -> None:
    encoder = timm_encoder("test_convnext", folder, outputs=["features", "map"])  # it normalises after the mean
    targets = probed(answers_of(encoder, PICTURES[:6])["features"], LinearProbe(1.0))
    with pytest.raises(MapError, match="not means of the map"):
        method_of("cam", encoder, targets, Hiding())
    assert method_of("auto", encoder, targets, Hiding()).words.startswith("gradcam, layer stages (5 x 5 cells)")
