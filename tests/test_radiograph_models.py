"""CheXzero, EVA-X and Ark+: our vectors and pixels against those of their authors' own code, on the same numbers.

`peer_goldens.json` holds what that code answers: their repositories, at the commits named there, with the timm of their
time, were given `peer_numbers.numbers` as weights, under the names that a published checkpoint has, and
`peer_numbers.pictures`. Networks are theirs, but shallower or narrower where the published one is large. Here the same
numbers go the way of a user: a pickle, `weights convert`, the encoder.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from map_worlds import gradient_map
from peer_numbers import numbers, picture, pictures, thinned

from cxr_embed import load_encoder
from cxr_embed.encoders import ENCODERS, ark, chexzero, eva_x
from cxr_embed.encoders.converters import convert_weights
from cxr_embed.encoders.seen import words_on
from cxr_embed.encoders.weights import save_weights
from cxr_embed.errors import EncoderError
from cxr_embed.types import CxrImage, EncoderSpec

torch = pytest.importorskip("torch", reason="conversion needs torch: pip install 'cxr-embed[torch]'")
pytest.importorskip("timm", reason="needs timm: pip install 'cxr-embed[torch]'")
pytest.importorskip("transformers", reason="needs transformers: pip install 'cxr-embed[torch]'")

GOLDEN = json.loads(Path(__file__).with_name("peer_goldens.json").read_text())
EVA_X = tuple(GOLDEN["eva_x"]["models"])
# The architectures as they are published, before this module makes them smaller.
PUBLISHED = {
    (chexzero, "VISION"): dict(chexzero.VISION),
    (chexzero, "TEXT"): dict(chexzero.TEXT),
    (eva_x, "ARCHITECTURES"): {name: dict(each) for name, each in eva_x.ARCHITECTURES.items()},
    (ark, "ARCHITECTURE"): dict(ark.ARCHITECTURE),
    (ark, "PROJECTED"): ark.PROJECTED,
}


@pytest.fixture(scope="module", autouse=True)
def small_networks() -> Iterator[None]:
    """The architectures of the golden outputs."""
    with pytest.MonkeyPatch.context() as patch:
        small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
        patch.setattr(chexzero, "VISION", {**small, "patch_size": 32})
        patch.setattr(chexzero, "TEXT", small)
        for name, model in GOLDEN["eva_x"]["models"].items():
            patch.setitem(eva_x.ARCHITECTURES, name, {**eva_x.ARCHITECTURES[name], "depth": model["depth"]})
        swin = {"img_size": 192, "window_size": 3, "embed_dim": 24, "depths": (2,) * 4, "num_heads": (1, 2, 4, 8)}
        patch.setattr(ark, "ARCHITECTURE", swin)
        patch.setattr(ark, "PROJECTED", 40)
        yield


def tensors(shapes: dict[str, Any], seed: int) -> dict[str, Any]:
    return {name: torch.from_numpy(values) for name, values in numbers(shapes, seed).items()}


def published(name: str) -> Any:
    """What the published checkpoint of an encoder holds, with our numbers."""
    if name == "chexzero":
        return tensors(GOLDEN["chexzero"]["shapes"], 1)
    if name == "ark-plus":
        golden = GOLDEN["ark"]
        fixed = {key: torch.zeros(shape) for key, shape in golden["fixed"].items()}
        teacher, student = ({**tensors(golden["shapes"], seed), **fixed} for seed in (3, 4))
        beside = {"epoch": 50, "lossMIN": np.float64(0.1), "optimizer": {"state": {0: torch.zeros(2)}}}
        return {"teacher": wrapped(teacher), "state_dict": wrapped(student), **beside}
    return {"module": {**tensors(GOLDEN["eva_x"]["models"][name]["shapes"], 2), "rope.freqs_cos": torch.ones(196, 64)}}


def wrapped(state: dict[str, Any]) -> dict[str, Any]:
    """As a network behind `DataParallel` names its tensors."""
    return {f"module.{name}": values for name, values in state.items()}


NAMES = ("chexzero", *EVA_X, "ark-plus")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each encoder's converted file."""
    folder, found = tmp_path_factory.mktemp("weights"), {}
    for name in NAMES:
        torch.save(published(name), folder / f"{name}.pt")
        converted = convert_weights(name, folder / f"{name}.pt")
        found[name] = folder / f"{name}.safetensors"
        save_weights(found[name], converted.tensors, converted.source, converted.notes)
    return found


def load(name: str, files: dict[str, Path], **options: Any) -> Any:
    return load_encoder(name, weights=files[name], device="cpu", precision="float32", **options)


def agree(ours: np.ndarray, golden: Any, every: int = 1) -> None:
    """To 1e-4 of the largest value, and images that differ do so by far more."""
    want = np.array(golden)
    np.testing.assert_allclose(ours[:, ::every], want, rtol=0, atol=1e-4 * np.abs(want).max())
    assert np.ptp(want, axis=0).max() > 0.1


def batch(encoder: Any) -> np.ndarray:
    return np.stack([encoder.preprocess(image) for image in pictures()])


def test_chexzero_is_its_authors(files: dict[str, Path]) -> None:
    golden, encoder = GOLDEN["chexzero"], load("chexzero", files)
    pixels = batch(encoder)
    assert (pixels.shape, pixels.dtype) == ((2, 3, 224, 224), np.float32)
    np.testing.assert_allclose([thinned(each) for each in pixels], golden["pixels"], atol=1e-3)
    images, prompts = encoder.embed(pixels)["image"], encoder.embed_text(golden["prompts"])
    agree(images, golden["image"], golden["every"])
    agree(prompts, golden["text"], golden["every"])
    rule = encoder.spec.text
    unit = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (images, prompts)]
    np.testing.assert_allclose(unit[0] @ unit[1].T * rule.scale + rule.bias, golden["logits"], atol=1e-4)
    assert (rule.output, rule.kind, encoder.spec.outputs) == ("image", "clip", {"image": (512,)})


def test_chexzeros_pixels_are_torchs_resize(files: dict[str, Path]) -> None:
    """Every pixel of the resize, not only those that are recorded; and pictures of odd shapes and depths."""
    encoder = load("chexzero", files)
    for shape in ((611, 503), (320, 320), (57, 900), (1, 700)):
        grey = picture(*shape)
        deep = CxrImage(pixels=grey.astype(np.uint16) * 257, bits=16, content_id="", source="png")
        found = encoder.preprocess(CxrImage(pixels=grey, bits=8, content_id="", source="png"))
        np.testing.assert_array_equal(encoder.preprocess(deep), found)
        square = torch.from_numpy(padded(grey)[None, None])
        resized = torch.nn.functional.interpolate((square - 101.48761) / 83.43944, (224, 224), mode="bicubic")
        np.testing.assert_allclose(found, np.repeat(resized[0].numpy(), 3, axis=0), atol=1e-4)


def padded(grey: np.ndarray) -> np.ndarray:
    from PIL import Image, ImageOps

    height, width = grey.shape
    longest = max(height, width)
    size = (max(int(width * (320 / longest)), 1), max(int(height * (320 / longest)), 1))
    small = Image.fromarray(grey).resize(size, Image.Resampling.LANCZOS)
    left, top = (320 - size[0]) // 2, (320 - size[1]) // 2
    framed = ImageOps.expand(small, (left, top, 320 - size[0] - left, 320 - size[1] - top))
    return np.asarray(framed, dtype=np.float32)


def test_chexzeros_words_are_clips(files: dict[str, Path]) -> None:
    encoder, golden = load("chexzero", files), GOLDEN["chexzero"]
    for prompt, ids in zip(golden["prompts"], golden["tokens"], strict=True):
        tokens = encoder.encoder._tokens(prompt, cut=False)
        assert len(tokens) == 77
        assert [token for token in tokens if token] == ids
    long = "no " * 100
    with pytest.raises(EncoderError, match="has 102 tokens, chexzero reads 77") as told:
        encoder.embed_text([long])
    assert "\n" not in str(told.value)
    np.testing.assert_array_equal(encoder.embed_text([long], cut=True), encoder.embed_text(["no " * 75]))
    with pytest.raises(EncoderError, match="a prompt is a sentence"):
        encoder.embed_text([" "])
    np.testing.assert_allclose(
        encoder.embed_text(["Edema"] * 70)[-1], encoder.embed_text(["edema"])[0], atol=1e-5
    )  # more than one batch; capitals mean nothing
    assert encoder.embed_text([]).shape == (0, 512)


@pytest.mark.parametrize("name", EVA_X)
def test_eva_x_is_its_authors(name: str, files: dict[str, Path]) -> None:
    golden, encoder = GOLDEN["eva_x"], load(name, files)
    pixels = batch(encoder)
    np.testing.assert_allclose([thinned(each) for each in pixels], golden["pixels"], atol=1e-3)
    features = encoder.embed(pixels)["features"]
    agree(features, golden["models"][name]["features"], golden["every"])
    assert encoder.spec.outputs == ENCODERS[name].outputs
    assert encoder.spec.text is None


def test_ark_is_its_authors(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    golden, encoder = GOLDEN["ark"], load("ark-plus", files, outputs=("features", "projected"))
    pixels = batch(encoder)
    np.testing.assert_allclose([thinned(each) for each in pixels], golden["pixels"], atol=1e-3)
    found = encoder.embed(pixels)
    agree(found["projected"], golden["projected"])
    agree(found["features"], golden["features"])
    one = load("ark-plus", files)
    assert one.spec.outputs == {"projected": (40,)}
    np.testing.assert_allclose(one.embed(pixels)["projected"], found["projected"], atol=1e-5)
    monkeypatch.setitem(ark.ARCHITECTURE, "img_size", 768)
    published_size = [thinned(load("ark-plus", files).preprocess(image)) for image in pictures()]
    np.testing.assert_allclose(published_size, golden["pixels_768"], atol=1e-3)


def test_networks_have_the_published_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors and numbers in all of the authors' own classes, made as they make them, classifiers left out."""
    for (module, name), value in PUBLISHED.items():
        monkeypatch.setattr(module, name, value)
    with torch.device("meta"):
        made = {"chexzero": chexzero.make_clip(), **{name: eva_x.make_eva_x(name) for name in EVA_X}}
        made["ark-plus"] = ark.make_ark()
    shapes = {name: [np.prod(each.shape, dtype=int) for each in made[name].state_dict().values()] for name in made}
    assert {name: (len(sizes), sum(sizes)) for name, sizes in shapes.items()} == {
        "chexzero": (302 + 24 * 4, 151_277_313),  # query, key and value apart in each of 24 layers
        "eva-x-tiny": (162, 5_525_184),
        "eva-x-small": (162, 21_667_200),
        "eva-x-base": (234, 85_850_880),
        "ark-plus": (329, 197_313_428),
    }
    assert ENCODERS["ark-plus"].outputs == {"projected": (1376,), "features": (made["ark-plus"].num_features,)}


def test_arks_licence_and_what_is_known_of_the_files(files: dict[str, Path]) -> None:
    for name in NAMES:
        spec = load(name, files).spec
        assert spec.weights_source.startswith(f"{name}.pt (SHA-256 ")
        assert "digest unknown" in spec.weights_source
        assert EncoderSpec.from_json(spec.to_json()) == spec
        assert ("licence" in spec.to_json()) is (name == "ark-plus")  # the others' ask for a notice alone
    assert "non-commercial research only" in load("ark-plus", files).spec.licence
    assert words_on(ENCODERS["ark-plus"].saw, "siim-pneumothorax")  # NIH's pictures
    assert words_on(ENCODERS["eva-x-small"].saw, "chexpert")
    assert words_on(ENCODERS["chexzero"].saw, "mimic-cxr-jpg")
    assert not words_on(ENCODERS["chexzero"].saw, "chexpert")


def test_a_known_digest_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from cxr_embed.io.digests import file_sha256

    path = tmp_path / "x.pt"
    torch.save(published("eva-x-small"), path)
    monkeypatch.setitem(eva_x._KNOWN, file_sha256(path), "eva_x_small_patch16_merged520k_mim.pt")
    source = convert_weights("eva-x-small", path).source
    assert source == f"MapleF/eva_x, eva_x_small_patch16_merged520k_mim.pt (SHA-256 {file_sha256(path)})"


def network(name: str) -> tuple[dict[str, Any], Any]:
    """The tensors of the network itself, and how to put them back."""
    whole = published(name)
    if name == "ark-plus":
        return whole["teacher"], lambda state: {**whole, "teacher": state}
    return (whole["module"], lambda state: {"module": state}) if name in EVA_X else (whole, lambda state: state)


@pytest.mark.parametrize("name", ["chexzero", "eva-x-small", "eva-x-base", "ark-plus"])
def test_files_that_are_not_whole_are_refused_in_a_line(name: str, tmp_path: Path) -> None:
    state, put = network(name)

    def refused(match: str, changed: dict[str, Any], **options: Any) -> None:
        torch.save(put(changed), tmp_path / "x.pt")
        with pytest.raises(EncoderError, match=match) as told:
            convert_weights(name, tmp_path / "x.pt", **options)
        assert "\n" not in str(told.value)

    stem = next(key for key in state if key.endswith(("patch_embed.proj.weight", "visual.conv1.weight")))
    half = {key: state[key] for key in [stem, *[key for key in list(state)[::2] if key != stem]]}
    refused(r"\d+ of the \d+ tensors of .* are here; missing are (\S+, ){2}\S+ and \d+ more", half)
    refused("there is no .*, with which", {key: state[key] for key in state if key != stem})
    last = next(key for key in reversed(state) if key.endswith("proj.weight") and "patch" not in key)
    refused("another shape", {**state, last: state[last][:, :-1]})
    refused("another", {**state, stem: state[stem][:-1]})
    refused("not finite", {**state, last: torch.full_like(state[last], torch.nan)})
    prefix = stem.removesuffix("patch_embed.proj.weight").removesuffix("visual.conv1.weight")
    refused("1 tensor is not .*gate", {**state, f"{prefix}gate.weight": torch.ones(2)})
    refused("SHA-256 is .*, expected 00.*not opened", state, sha256="0" * 64)


def test_another_sizes_weights_are_refused(files: dict[str, Path], tmp_path: Path) -> None:
    torch.save(published("eva-x-tiny"), tmp_path / "x.pt")
    with pytest.raises(EncoderError, match=r"patch_embed.proj.weight has shape \(192, .*EVA-X-Small has \(384, "):
        convert_weights("eva-x-small", tmp_path / "x.pt")
    state = published("eva-x-small")["module"]  # EVA-02's of patches of 14, which timm would resize in silence
    state["patch_embed.proj.weight"] = torch.ones(384, 3, 14, 14)
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(EncoderError, match="another network's weights"):
        convert_weights("eva-x-small", tmp_path / "x.pt")
    for name, other in (("eva-x-base", "eva-x-small"), ("ark-plus", "eva-x-tiny")):
        with pytest.raises(EncoderError, match=r"another network's weights|another shape"):
            load(name, {name: files[other]}).engine  # noqa: B018 (loads)
    with pytest.raises(EncoderError, match="has no logit_scale"):
        load("chexzero", {"chexzero": files["ark-plus"]})
    with pytest.raises(EncoderError, match="no encoder is named 'eva-x-huge'; did you mean eva-x-"):
        convert_weights("eva-x-huge", tmp_path / "x.pt")


class Bomb:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("ran",))


@pytest.mark.parametrize("name", ["chexzero", "eva-x-tiny", "ark-plus"])
def test_nothing_in_a_checkpoint_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    state, put = network(name)
    stem = next(key for key in state if key.endswith(("patch_embed.proj.weight", "visual.conv1.weight")))
    torch.save(put({**state, stem: Bomb()}), tmp_path / "x.pt")
    with pytest.raises(EncoderError, match=r"there is no .*, with which") as told:
        convert_weights(name, tmp_path / "x.pt")
    assert "\n" not in str(told.value)
    torch.save(put({**state, "callback": Bomb()}), tmp_path / "x.pt")
    assert convert_weights(name, tmp_path / "x.pt").tensors
    torch.save({"state_dict": Bomb()}, tmp_path / "x.pt")
    with pytest.raises(EncoderError, match="there is no"):
        convert_weights(name, tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()


def test_weights_of_bfloat16_are_read(files: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(files["chexzero"])
    halved = {name: values.to(torch.bfloat16) for name, values in tensors.items()}
    save_file(halved, tmp_path / "x.safetensors")
    encoder = load("chexzero", {"chexzero": tmp_path / "x.safetensors"})
    assert encoder.spec.text is not None
    assert encoder.spec.text.scale == pytest.approx(float(halved["logit_scale"].float().exp()))
    whole = load("chexzero", files)
    ours, theirs = (each.embed(batch(whole))["image"] for each in (encoder, whole))
    assert np.abs(ours - theirs).max() < 0.1 * np.abs(theirs).max()
    save_file({**tensors, "logit_scale": torch.tensor(float("nan"))}, tmp_path / "x.safetensors")
    with pytest.raises(EncoderError, match="logit_scale is nan; the file is damaged"):
        load("chexzero", {"chexzero": tmp_path / "x.safetensors"})


def test_missing_weights_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_EMBED_WEIGHTS", str(tmp_path))
    for name in NAMES:
        with pytest.raises(EncoderError, match=rf"no weights for {name} here .*\n.*weights convert {name} "):
            load_encoder(name)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("chexzero", "layers.1 (7 x 7 cells), the patches that go into it"),
        (EVA_X[0], "(14 x 14 cells), the patches that go into it"),
        (EVA_X[-1], "(14 x 14 cells), the patches that go into it"),
        ("ark-plus", "layer norm (6 x 6 cells), as it is pooled"),
    ],
)
def test_they_have_maps_by_gradients(name: str, layer: str, files: dict[str, Path]) -> None:
    pytest.importorskip("captum")
    words, found = gradient_map(load(name, files))
    assert layer in words
    assert np.ptp(found) > 0
