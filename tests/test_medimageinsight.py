"""MedImageInsight: pixels, image and text vectors against its authors' own code; its files, whole, broken, hostile."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from helpers import row
from map_worlds import gradient_map
from typer.testing import CliRunner

from cxr_embed import load_encoder
from cxr_embed.cli import app
from cxr_embed.encoders import ENCODERS
from cxr_embed.encoders.medimageinsight import WEIGHTS, WORDS
from cxr_embed.encoders.seen import words_on
from cxr_embed.errors import EncoderError
from cxr_embed.store import StoreWriter

torch = pytest.importorskip("torch", reason="the torch encoders need torch: pip install 'cxr-embed[torch]'")
pytest.importorskip("transformers", reason="needs transformers: pip install 'cxr-embed[torch]'")
pytest.importorskip("timm", reason="needs timm: pip install 'cxr-embed[torch]'")

from dual_worlds import GOLDEN, MEDIMAGEINSIGHT, PROMPTS, images, save_medimageinsight  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

WANT = {name: np.array(values) for name, values in GOLDEN["medimageinsight"].items()}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("medimageinsight") / "2024.09.27"
    path.mkdir()
    save_medimageinsight(path)
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Any:
    return load_encoder("medimageinsight", weights=folder, device="cpu", precision="float32")


def test_pixels_are_its_authors(encoder: Any) -> None:
    pixels = np.stack([encoder.preprocess(image) for image in images()])
    assert (pixels.shape, pixels.dtype) == ((2, 1, 96, 96), np.uint8)
    mean, deviation = (
        np.array(MEDIMAGEINSIGHT["IMAGE_ENCODER"][key])[:, None, None] for key in ("IMAGE_MEAN", "IMAGE_STD")
    )
    prepared = (pixels / 255 - mean) / deviation
    np.testing.assert_allclose(prepared[:, :, 5::12, 7::12].reshape(2, -1), WANT["pixels"], atol=1e-3)


def test_image_vectors_are_its_authors(encoder: Any) -> None:
    found = encoder.embed(np.stack([encoder.preprocess(image) for image in images()]))["image"]
    np.testing.assert_allclose(found, WANT["image"], atol=1e-4)
    assert np.ptp(found, axis=0).max() > 0.5


def test_text_vectors_are_its_authors(encoder: Any) -> None:
    prompts = [prompt.rstrip(".") for prompt in PROMPTS]
    found = encoder.embed_text(prompts)
    np.testing.assert_allclose(found, WANT["text"], atol=1e-4)
    np.testing.assert_allclose(encoder.embed_text([prompts[0].upper()])[0], found[0], atol=1e-5)  # alone, in capitals
    with pytest.raises(EncoderError, match="22 tokens, medimageinsight reads 16"):
        encoder.embed_text(["heart " * 20])
    long, longer = encoder.embed_text(["heart " * 20, "heart " * 30], cut=True)
    np.testing.assert_allclose(long, longer, atol=1e-5)


def test_screening_with_words_from_the_command_line(
    folder: Path, encoder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    found = encoder.embed(np.stack([encoder.preprocess(image) for image in images()]))["image"]
    with StoreWriter(tmp_path / "store", encoder.spec) as writer:
        for number in range(2):
            writer.add_vector(row(number), {"image": found[number]})
        writer.flush("toy engine")
    asked = tmp_path / "asked.yaml"
    asked.write_text("findings:\n  Effusion:\n    positive: [large effusion]\n    negative: [no effusion]\n")
    # The folder around the release's is what the publisher's copy is.
    arguments = ["zeroshot", str(tmp_path / "store"), "--prompts", str(asked), "--weights", str(folder.parent)]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "scores.csv")])
    assert done.exit_code == 0, done.output
    assert "softmax of medimageinsight" in done.output
    words = encoder.embed_text(["large effusion", "no effusion"])
    image, word = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (found, words))
    cosines = encoder.spec.text.scale * image @ word.T
    want = 1 / (1 + np.exp(cosines[:, 1] - cosines[:, 0]))
    rows = [line.split(",") for line in (tmp_path / "scores.csv").read_text().splitlines()]
    column = rows[0].index("Effusion")
    np.testing.assert_allclose([float(line[column]) for line in rows[1:]], want, atol=2e-3)  # kept as float16


def test_names_of_earlier_checkpoints_are_understood(folder: Path, tmp_path: Path, encoder: Any) -> None:
    early = {"image_encoder.": "visual.", "lang_encoder.": "text."}
    early |= {"image_projection": "vision_projection", "lang_projection": "text_projection"}
    tensors = {}
    for name, values in load_file(folder / WEIGHTS).items():
        start = next((now for now in early if name.startswith(now)), "")
        tensors[early.get(start, "") + name.removeprefix(start)] = values
    part = with_weights(folder, tmp_path / "early", tensors)
    found = load_encoder("medimageinsight", weights=part, device="cpu")
    pixels = np.stack([encoder.preprocess(image) for image in images()])
    np.testing.assert_array_equal(found.embed(pixels)["image"], encoder.embed(pixels)["image"])
    np.testing.assert_array_equal(found.embed_text(["heart"]), encoder.embed_text(["heart"]))


def with_weights(folder: Path, to: Path, tensors: dict[str, Any]) -> Path:
    shutil.copytree(folder, to)
    save_file(tensors, to / WEIGHTS)
    return to


def test_weights_that_are_not_whole_are_refused_in_a_line(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    pixels = np.zeros((1, 1, 96, 96), np.uint8)
    names = [name for name in tensors if name != "logit_scale"]
    half = {name: values for name, values in tensors.items() if name not in names[::2]}
    wide = {**tensors, "image_projection": torch.ones(64, 32), "lang_projection": torch.ones(32, 32)}
    deep = {**tensors, "lang_encoder.gate": torch.ones(2), "image_encoder.gate": torch.ones(2)}
    for number, (changed, match) in enumerate(
        [
            (half, r"\d+ of the \d+ tensors of MedImageInsight's {} tower are here; missing are (\S+, ){{2}}\S+ and"),
            (wide, r"1 tensor has another shape than MedImageInsight's {} tower's"),
            (deep, r"1 tensor is not MedImageInsight's {} tower's: (davit\.)?gate"),
        ]
    ):
        encoder: Any = load_encoder(
            "medimageinsight", weights=with_weights(folder, tmp_path / str(number), changed), device="cpu"
        )
        with pytest.raises(EncoderError, match=match.format("image")) as told:
            encoder.embed(pixels)
        assert "\n" not in str(told.value)
        with pytest.raises(EncoderError, match=match.format("text")):
            encoder.embed_text(["heart"])
    part = with_weights(folder, tmp_path / "bare", {name: tensors[name] for name in names})
    with pytest.raises(EncoderError, match="has no logit_scale"):
        load_encoder("medimageinsight", weights=part)


@pytest.mark.parametrize("name", ["config.yaml", WEIGHTS, f"{WORDS}/vocab.json", f"{WORDS}/merges.txt"])
def test_what_is_missing_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    shutil.copytree(folder, tmp_path / "part")
    (tmp_path / "part" / name).unlink()
    with pytest.raises(EncoderError, match=f"{name} is missing"):
        load_encoder("medimageinsight", weights=tmp_path / "part")
    with pytest.raises(EncoderError, match="no such folder"):
        load_encoder("medimageinsight", weights=tmp_path / "nowhere")


def test_a_vocabulary_without_words_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "part")
    (tmp_path / "part" / WORDS / "vocab.json").write_text('{"<|startoftext|>": 0, "<|endoftext|>": 1}')
    (tmp_path / "part" / WORDS / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(EncoderError, match="does not know its own words"):
        load_encoder("medimageinsight", weights=tmp_path / "part", device="cpu").embed_text(["heart"])


@pytest.mark.parametrize(
    ("keys", "value", "match"),
    [
        (("LANG_ENCODER", "AUTOGRESSIVE"), True, "AUTOGRESSIVE is True, MedImageInsight's is False"),
        (("IMAGE_ENCODER", "NAME"), "coswin", "NAME is 'coswin'"),
        (("IMAGE_ENCODER", "IMAGE_SIZE"), [96, 64], "not square"),
        (("IMAGE_ENCODER", "SPEC", "NUM_GROUPS"), [1, 1, 1, 1], "of another kind"),
        (("IMAGE_ENCODER", "SPEC", "DEPTHS"), "deep", "not MedImageInsight's settings"),
        (("IMAGE_ENCODER", "SPEC", "NUM_HEADS"), None, "has no IMAGE_ENCODER.SPEC.NUM_HEADS"),
        (("UNICL_MODEL", "DIM_PROJECTION"), None, "has no UNICL_MODEL.DIM_PROJECTION"),
    ],
)
def test_settings_of_other_kinds_are_refused(
    folder: Path, tmp_path: Path, keys: tuple[str, ...], value: Any, match: str
) -> None:
    settings = json.loads(json.dumps(MEDIMAGEINSIGHT))
    *around, last = keys
    place = settings
    for key in around:
        place = place[key]
    place[last] = value
    if value is None:
        del place[last]
    shutil.copytree(folder, tmp_path / "part")
    (tmp_path / "part" / "config.yaml").write_text(yaml.safe_dump(settings))
    with pytest.raises(EncoderError, match=match) as told:
        load_encoder("medimageinsight", weights=tmp_path / "part")
    assert "\n" not in str(told.value)


class Bomb:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("ran",))


def test_nothing_in_it_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / "part")
    config = tmp_path / "part" / "config.yaml"
    config.write_text(config.read_text() + "EXTRA: !!python/object/apply:os.mkdir ['ran']\n")
    with pytest.raises(EncoderError, match="not readable as YAML") as told:
        load_encoder("medimageinsight", weights=tmp_path / "part")
    assert "\n" not in str(told.value)
    shutil.copy(folder / "config.yaml", config)
    torch.save({"image_projection": Bomb()}, tmp_path / "part" / WEIGHTS)
    with pytest.raises(EncoderError, match=r"not a safetensors file .*pickles are not opened"):
        load_encoder("medimageinsight", weights=tmp_path / "part")
    assert not (tmp_path / "ran").exists()


def test_settings_are_part_of_its_identity(folder: Path, tmp_path: Path, encoder: Any) -> None:
    settings = json.loads(json.dumps(MEDIMAGEINSIGHT))
    settings["IMAGE_ENCODER"]["SPEC"]["WINDOW_SIZE"] = 6
    shutil.copytree(folder, tmp_path / "other")
    (tmp_path / "other" / "config.yaml").write_text(yaml.safe_dump(settings))
    assert load_encoder("medimageinsight", weights=tmp_path / "other").spec.fingerprint != encoder.spec.fingerprint
    shutil.copytree(folder, tmp_path / "copy")
    assert load_encoder("medimageinsight", weights=tmp_path / "copy").spec.fingerprint == encoder.spec.fingerprint


def test_the_hubs_cache_is_enough(folder: Path, encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cxr_embed.encoders.medimageinsight.cached_folder", lambda _: folder.parent)
    spec = load_encoder("medimageinsight", device="cpu").spec
    assert spec.weights_source == f"lion-ai/MedImageInsights@{folder.parent.name}"
    assert spec.fingerprint == encoder.spec.fingerprint


def test_results_on_its_data_are_marked() -> None:
    saw = ENCODERS["medimageinsight"].saw
    assert all(words_on(saw, data) for data in ("mimic-cxr-jpg", "nih-chestxray14", "chexpert", "rsna-pneumonia"))


def test_it_has_maps_by_gradients(encoder: Any) -> None:
    pytest.importorskip("captum")
    words, found = gradient_map(encoder)
    assert words == "gradcam, layer davit.stages (3 x 3 cells), as it is pooled"
    assert np.ptp(found) > 0
