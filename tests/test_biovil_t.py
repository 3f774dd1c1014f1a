"""BioViL-T: pixels, image and text vectors against its authors' own code; its files, whole, broken and hostile."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import row
from map_worlds import gradient_map
from typer.testing import CliRunner

from cxr_embed import load_encoder
from cxr_embed.cli import app
from cxr_embed.encoders import ENCODERS
from cxr_embed.encoders.biovil_t import convert_biovil_t, stretched
from cxr_embed.encoders.converters import convert_weights
from cxr_embed.encoders.seen import words_on
from cxr_embed.encoders.weights import save_weights
from cxr_embed.errors import EncoderError
from cxr_embed.screening import screen
from cxr_embed.store import StoreWriter

torch = pytest.importorskip("torch", reason="the torch encoders need torch: pip install 'cxr-embed[torch]'")
pytest.importorskip("torchvision", reason="names the published tensors: pip install 'cxr-embed[torch]'")
pytest.importorskip("transformers", reason="needs transformers: pip install 'cxr-embed[torch]'")
pytest.importorskip("timm", reason="needs timm: pip install 'cxr-embed[torch]'")

from dual_worlds import GOLDEN, PROMPTS, biovil_t_state, images, save_cxr_bert  # noqa: E402

PUBLISHED = "biovil_t_image_model_proj_size_128.pt"
WANT = {name: np.array(values) for name, values in GOLDEN["biovil-t"].items()}


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    return biovil_t_state()


@pytest.fixture(scope="module")
def folder(state: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published folder in small, its image weights converted where they lie."""
    path = tmp_path_factory.mktemp("biovil-t")
    save_cxr_bert(path)
    torch.save(state, path / PUBLISHED)
    image = path / PUBLISHED
    arguments = ["weights", "convert", "biovil-t", str(image), "--out", str(image.with_suffix(".safetensors"))]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    return path


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Any:
    return load_encoder("biovil-t", weights=folder, device="cpu", precision="float32")


def test_pixels_are_its_authors(encoder: Any) -> None:
    pixels = np.stack([encoder.preprocess(image) for image in images()])
    assert (pixels.shape, pixels.dtype) == ((2, 1, 448, 448), np.uint8)
    np.testing.assert_allclose(pixels[:, 0, 7::62, 11::62].reshape(2, -1) / 255, WANT["pixels"], atol=1e-3)


def test_levels_are_stretched_and_cut_off() -> None:
    assert stretched(np.array([[100, 101, 102, 103]], np.uint16)).tolist() == [[0, 85, 170, 255]]
    assert stretched(np.array([[7, 9, 11]], np.uint8)).tolist() == [[0, 127, 255]]  # 127.5
    every = np.arange(256, dtype=np.uint8)[None]
    assert stretched(every).tolist() == every.tolist()
    assert not stretched(np.full((3, 3), 9, np.uint8)).any()


def test_image_vectors_are_its_authors(encoder: Any) -> None:
    found = encoder.embed(np.stack([encoder.preprocess(image) for image in images()]))
    assert encoder.spec.outputs == {"features": (512,), "image": (128,)}
    for output in ("features", "image"):
        largest = np.abs(WANT[output]).max()
        np.testing.assert_allclose(found[output], WANT[output], atol=1e-4 * min(1, largest), rtol=1e-4)
        assert np.ptp(WANT[output], axis=0).max() > 0.05 * largest  # the pictures differ
    # The second half stands for a previous image, which there is not: one vector for all of them.
    assert np.ptp(found["features"][:, 256:], axis=0).max() == 0 < np.abs(found["features"][:, 256:]).min()


def test_text_vectors_are_its_authors(encoder: Any) -> None:
    found = encoder.embed_text(PROMPTS)
    np.testing.assert_allclose(found, WANT["text"], atol=1e-4)
    # Capitals and what ends a sentence change nothing, the company of longer prompts neither.
    alone = encoder.embed_text(["no PLEURAL effusion?!"])[0]
    np.testing.assert_allclose(alone, found[0], atol=1e-5)
    assert np.abs(found[0] - found[1]).max() > 0.1
    assert encoder.embed_text([]).shape == (0, 128)


def test_prompts_that_it_cannot_read(encoder: Any) -> None:
    with pytest.raises(EncoderError, match=r"30 tokens, biovil-t reads 24; shorten it"):
        encoder.embed_text(["heart " * 28])
    assert encoder.embed_text(["heart " * 28], cut=True).shape == (1, 128)
    with pytest.raises(EncoderError, match=r"has \[SEP\], which is no word to biovil-t"):
        encoder.embed_text(["heart [SEP] size"])
    with pytest.raises(EncoderError, match="a prompt is a sentence"):
        encoder.embed_text(["?!"])


def test_screening_with_words(folder: Path, encoder: Any, tmp_path: Path) -> None:
    found = encoder.embed(np.stack([encoder.preprocess(image) for image in images()]))
    with StoreWriter(tmp_path / "store", encoder.spec) as writer:
        for number in range(2):
            writer.add_vector(row(number), {output: vectors[number] for output, vectors in found.items()})
        writer.flush("toy engine")
    asked = tmp_path / "asked.yaml"
    asked.write_text("findings:\n  Effusion:\n    positive: [large effusion]\n    negative: [no effusion]\n")
    scores = screen(tmp_path / "store", str(asked), weights=folder)[0].scores
    words = encoder.embed_text(["large effusion", "no effusion"])
    image, word = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (found["image"], words))
    cosines = image @ word.T
    np.testing.assert_allclose(scores.values[:, 0], cosines[:, 0] - cosines[:, 1], atol=2e-3)  # kept as float16
    assert scores.kind == "margin"
    assert "not a trained model" in encoder.spec.stand_in


def test_what_is_missing_is_named(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("config.json", "model.safetensors", "vocab.txt"):
        part = copy_of(folder, tmp_path / name)
        (part / name).unlink()
        with pytest.raises(EncoderError, match=f"{name} is missing"):
            load_encoder("biovil-t", weights=part)
    part = copy_of(folder, tmp_path / "image")
    image = (part / PUBLISHED).with_suffix(".safetensors")
    kept = image.resolve()
    image.unlink()
    with pytest.raises(EncoderError, match=rf"no image weights .*\n  cxr-embed weights convert biovil-t .*{PUBLISHED}"):
        load_encoder("biovil-t", weights=part)
    # Where `weights convert` writes by default, they are found too.
    monkeypatch.setenv("CXR_EMBED_WEIGHTS", str(tmp_path))
    (tmp_path / "biovil-t.safetensors").symlink_to(kept)
    assert (
        load_encoder("biovil-t", weights=part).spec.fingerprint
        == load_encoder("biovil-t", weights=folder).spec.fingerprint
    )
    with pytest.raises(EncoderError, match="no such folder"):
        load_encoder("biovil-t", weights=tmp_path / "nowhere")


def test_the_hubs_cache_is_enough_beside_what_was_converted(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXR_EMBED_WEIGHTS", str(tmp_path))
    cached = copy_of(folder, tmp_path / "692f09e9")
    (cached / PUBLISHED).with_suffix(".safetensors").unlink()
    for module in ("biovil_t", "card"):
        monkeypatch.setattr(f"cxr_embed.encoders.{module}.cached_folder", lambda _: cached)
    assert ENCODERS["biovil-t"].weights_here is False
    with pytest.raises(EncoderError, match="no image weights for biovil-t"):
        load_encoder("biovil-t")
    (tmp_path / "biovil-t.safetensors").symlink_to((folder / PUBLISHED).with_suffix(".safetensors"))
    assert ENCODERS["biovil-t"].weights_here is True
    assert load_encoder("biovil-t").spec.weights_source.endswith("text: microsoft/BiomedVLP-BioViL-T@692f09e9")


def copy_of(folder: Path, to: Path) -> Path:
    """The folder by links, so that a part of it can be taken away or written anew."""
    to.mkdir()
    for path in folder.iterdir():
        (to / path.name).symlink_to(path)
    return to


def rewritten(folder: Path, to: Path, name: str, text: str) -> Path:
    part = copy_of(folder, to)
    (part / name).unlink()
    (part / name).write_text(text)
    return part


def test_text_towers_of_other_kinds_are_refused(folder: Path, tmp_path: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    for number, (change, match) in enumerate(
        [
            ({"projection_size": 512}, "projects words to 512, not 128"),
            ({"hidden_size": 48}, "tensors have another shape than CXR-BERT's"),
            ({"num_hidden_layers": 3}, r"43 of the 59 tensors of CXR-BERT are here; missing are (\S+, ){2}\S+ and 13"),
            ({"hidden_act": "no such"}, "describes no BERT"),
            ({"vocab_size": 20}, "knows 23 tokens, its text tower 20"),
        ]
    ):
        part = rewritten(folder, tmp_path / str(number), "config.json", json.dumps({**config, **change}))
        with pytest.raises(EncoderError, match=match) as told:
            load_encoder("biovil-t", weights=part).embed_text(["heart"])
        assert "\n" not in str(told.value)
    part = rewritten(folder, tmp_path / "words", "vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n")
    with pytest.raises(EncoderError, match="does not know its own words"):
        load_encoder("biovil-t", weights=part).embed_text(["heart"])
    del config["hidden_act"]
    part = rewritten(folder, tmp_path / "x", "config.json", json.dumps(config))
    with pytest.raises(EncoderError, match="has no hidden_act"):
        load_encoder("biovil-t", weights=part)


def test_image_weights_that_are_not_whole_are_refused_in_a_line(state: dict[str, Any], tmp_path: Path) -> None:
    def refused(match: str, value: Any, **options: Any) -> None:
        torch.save(value, tmp_path / "x.pt")
        with pytest.raises(EncoderError, match=match) as told:
            convert_weights("biovil-t", tmp_path / "x.pt", **options)
        assert "\n" not in str(told.value)

    small = {name: values for name, values in state.items() if values.numel() < 1 << 16}
    refused(r"\d+ of the 316 tensors of BioViL-T's image tower are here; missing are (\S+, ){2}\S+ and \d+ more", small)
    refused("SHA-256 is .*, expected 00.*not opened", small, sha256="0" * 64)
    name = "projector.model.0.weight"
    for match, changed in [
        (rf"1 tensor has another shape .*{name}: \(128, 256, 1, 1\), expected", {name: state[name][:, :256]}),
        ("1 tensor is not .*: classifier.weight", {"classifier.weight": torch.ones(2)}),
        ("not finite", {name: torch.full_like(state[name], torch.nan)}),
    ]:
        light = {key: torch.zeros(()).expand(values.shape) for key, values in state.items()}  # no numbers on disk
        refused(match, {**light, **changed})


def test_the_published_digest_is_known(tmp_path: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    light = {key: torch.zeros(()).expand(values.shape) for key, values in state.items()}
    torch.save(light, tmp_path / "x.pt")
    assert "digest unknown" in convert_biovil_t(tmp_path / "x.pt", None).source
    digest = "b2399d73dc2a68b9f3a1950e864ae0ecd24093fb07aa459d7e65807ebdc0fb77"
    monkeypatch.setattr("cxr_embed.encoders.conversion.file_sha256", lambda _: digest)
    source = convert_biovil_t(tmp_path / "x.pt", None).source
    assert source == f"microsoft/BiomedVLP-BioViL-T, {PUBLISHED} (SHA-256 {digest})"


class Bomb:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("ran",))


def test_nothing_in_it_runs(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for value in (Bomb(), {"state_dict": Bomb()}, {"projector.model.0.weight": Bomb()}):
        torch.save(value, tmp_path / "bomb.pt")
        with pytest.raises(EncoderError):
            convert_weights("biovil-t", tmp_path / "bomb.pt")
    # A folder's own code and what names it (`auto_map`) are left alone, and so is a pickle in the place of safetensors.
    encoder = load_encoder("biovil-t", weights=folder, device="cpu")
    encoder.embed_text(["heart"])
    part = copy_of(folder, tmp_path / "pickled")
    (part / "model.safetensors").unlink()
    torch.save({"bert": Bomb()}, part / "model.safetensors")
    with pytest.raises(EncoderError, match="not a safetensors file"):
        load_encoder("biovil-t", weights=part).embed_text(["heart"])
    assert not (tmp_path / "ran").exists()
    assert not (folder / "ran").exists()


def test_results_on_mimic_are_marked() -> None:
    saw = ENCODERS["biovil-t"].saw
    assert words_on(saw, "mimic-cxr-jpg").startswith("learned from its images with their reports")
    assert words_on(saw, "nih-chestxray14") == ""


def test_half_of_the_tensors_is_never_run(folder: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    part = copy_of(folder, tmp_path / "half")
    image = (part / PUBLISHED).with_suffix(".safetensors")
    tensors = load_file(image)
    image.unlink()
    save_weights(image, dict(list(tensors.items())[::2]), "half of it")
    encoder = load_encoder("biovil-t", weights=part, device="cpu")
    with pytest.raises(EncoderError, match=r"\d+ of the 274 tensors of BioViL-T's image tower are here"):
        encoder.embed(encoder.preprocess(images()[0])[None])


@pytest.mark.parametrize("output", ["features", "image"])
def test_it_has_maps_by_gradients(output: str, encoder: Any) -> None:
    pytest.importorskip("captum")
    words, found = gradient_map(encoder, output)
    assert words == "gradcam, layer encoder.encoder (14 x 14 cells), as it is pooled"
    assert np.ptp(found) > 0
