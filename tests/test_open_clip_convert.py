"""open_clip's pickles to folders that can be loaded; checkpoints of the Hub's cache; a run from images to scores."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from cxr_embed import load_encoder, open_store, screen
from cxr_embed.encoders import ENCODERS, hub, open_clip_folder, open_clip_weights
from cxr_embed.encoders.conversion import save_converted
from cxr_embed.encoders.converters import convert_weights
from cxr_embed.encoders.weights import read_pickle
from cxr_embed.errors import EncoderError
from cxr_embed.io.digests import file_sha256
from cxr_embed.pipeline.embedding import embed

torch = pytest.importorskip("torch", reason="conversion needs torch: pip install 'cxr-embed[torch]'")
open_clip = pytest.importorskip("open_clip", reason="needs open_clip: pip install 'cxr-embed[torch]'")
huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs huggingface-hub: an extra brings it")

from huggingface_hub import constants  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from tiny_open_clip import as_open_clip_has_it, save_open_clip  # noqa: E402

PROMPTS = ["no pleural effusion", "a large pneumothorax"]
WEIGHTS, PICKLE = "open_clip_model.safetensors", "open_clip_pytorch_model.bin"


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The Hub's cache, empty; nobody is called."""

    def refuse(*given: Any, **options: Any) -> None:
        raise OSError(f"no network: {given[:2]} {options}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(hub, "unreachable", lambda: "no network")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as BiomedCLIP's publishers have it, and settings of its text tower, which is tiny here."""
    folder = tmp_path_factory.mktemp("published")
    save_open_clip(folder, "bert")
    tensors = load_file(folder / WEIGHTS)
    # What checkpoints of that time hold, and transformers counts by now.
    tensors["text.transformer.embeddings.position_ids"] = torch.arange(300)[None]
    torch.save(tensors, folder / PICKLE)
    (folder / WEIGHTS).rename(folder / "kept")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    return folder


@pytest.fixture
def pinned(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny pickle in the place of the published one."""
    for module in (open_clip_folder, open_clip_weights):
        monkeypatch.setattr(module, "BIOMEDCLIP_SHA256", file_sha256(published / PICKLE))


def in_cache(cache: Path, folder: Path, repo: str, revision: str, branch: str = "") -> Path:
    """A folder's files in the Hub's cache, as a download leaves them."""
    base = cache / f"models--{repo.replace('/', '--')}"
    snapshot = base / "snapshots" / revision
    shutil.copytree(folder, snapshot)
    if branch:
        (base / "refs").mkdir()
        (base / "refs" / branch).write_text(revision)
    return snapshot


@pytest.mark.usefixtures("pinned")
def test_biomedclip_from_its_pickle(published: Path) -> None:
    from PIL import Image

    with pytest.raises(EncoderError, match=rf"holds pickled weights only \({PICKLE}\).*not opened; run\n.*biomedclip"):
        load_encoder("biomedclip", weights=published)
    done = CliRunner().invoke(app(), ["weights", "convert", "biomedclip", str(published / PICKLE)])
    assert done.exit_code == 0, done.output
    assert (
        "for biomedclip\nsource: microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224@9f341de (SHA-256 "
        in done.output
    )
    assert ENCODERS["biomedclip"].weights_here
    encoder = load_encoder("biomedclip", device="cpu")  # no folder is named any more
    assert encoder.spec.weights_source.startswith("microsoft/BiomedCLIP-PubMedBERT_256")
    folder = encoder.encoder._checkpoint.folder
    assert sorted(path.name for path in folder.iterdir()) == sorted(
        ["README.md", "config.json", "open_clip_config.json", WEIGHTS, "tokenizer_config.json", "vocab.txt"]
    )
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (170, 200), np.uint8)).convert("RGB")
    # open_clip reads the pickle itself.
    _, vectors, prompts, _ = as_open_clip_has_it(published, [picture], PROMPTS)
    np.testing.assert_allclose(encoder.embed_text(PROMPTS), prompts, atol=1e-5)
    batch = encoder.encoder._recipe.resized(np.asarray(picture)[:, :, 0])[None, None]
    np.testing.assert_allclose(encoder.embed(batch)["image"], vectors, atol=1e-5)


def app() -> Any:
    from cxr_embed.cli import app

    return app


def test_another_file_is_not_biomedclip(published: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"SHA-256 is \w{64}, expected 52cc993c5c5f.*; not opened"):
        convert_weights("biomedclip", published / PICKLE, file_sha256(published / PICKLE))
    converted = convert_weights("open_clip:org/mine", published / PICKLE)
    assert "digest unknown: compared with no publisher's" in converted.source
    with pytest.raises(EncoderError, match="expected 00"):
        convert_weights("open_clip:org/mine", published / PICKLE, "0" * 64)
    folder = save_converted("open_clip:org/mine", converted, tmp_path / "mine")
    spec = load_encoder("open_clip:org/mine", weights=folder).spec
    assert "digest unknown" in spec.weights_source
    assert spec.licence == "CC-BY-NC-4.0 binds: for non-commercial use only"  # its card came along
    with pytest.raises(EncoderError, match="of open_clip:org/mine a folder is written"):
        save_converted("open_clip:org/mine", converted, tmp_path / "mine.safetensors")
    default = save_converted("open_clip:org/mine", converted)
    assert default.name == "open_clip-org--mine"
    assert load_encoder("open_clip:org/mine").spec == load_encoder("open_clip:org/mine", weights=folder).spec


def test_a_training_s_checkpoint(published: Path, tmp_path: Path) -> None:
    shutil.copytree(published, tmp_path, dirs_exist_ok=True)
    state = load_file(published / "kept")
    state["logit_scale"] = state["logit_scale"][None]
    training = {"epoch": 3, "state_dict": {f"module.{name}": values for name, values in state.items()}}
    training["optimizer"] = {"state": {0: {"exp_avg": torch.ones(3)}}}
    torch.save(training, tmp_path / "epoch_3.pt")
    converted = convert_weights("open_clip:org/mine", tmp_path / "epoch_3.pt")
    assert set(converted.tensors) == set(state)
    assert converted.tensors["logit_scale"].shape == ()
    save_converted("open_clip:org/mine", converted, tmp_path)  # beside the pickle, where its own files lie
    assert load_encoder("open_clip:org/mine", weights=tmp_path, device="cpu").engine
    half = dict(list(state.items())[::2])
    torch.save(half, tmp_path / "half.pt")
    with pytest.raises(
        EncoderError, match=r"(\d+) of the (\d+) tensors of the model are here; missing are .* and \d+ more"
    ):
        convert_weights("open_clip:org/mine", tmp_path / "half.pt")
    (tmp_path / "vocab.txt").unlink()
    with pytest.raises(EncoderError, match=r"has no tokenizer.json, nor vocab.txt"):
        convert_weights("open_clip:org/mine", tmp_path / "epoch_3.pt")
    (tmp_path / "open_clip_config.json").unlink()
    with pytest.raises(EncoderError, match=r"open_clip_config.json is missing, which says what model epoch_3.pt is"):
        convert_weights("open_clip:org/mine", tmp_path / "epoch_3.pt")


class Bomb:
    def __reduce__(self) -> Any:
        return (os.mkdir, ("ran",))


def test_nothing_in_a_pickle_runs(published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(published, tmp_path / "folder")
    monkeypatch.chdir(tmp_path)
    state = load_file(published / "kept")
    for value, fits in (
        (Bomb(), False),
        ({"state_dict": Bomb()}, False),
        ({**state, "visual.trunk.pos_embed": Bomb()}, False),
        ({"state_dict": state, "callback": Bomb()}, True),
    ):
        torch.save(value, tmp_path / "folder" / PICKLE)
        with pytest.raises(EncoderError, match="holds pickled weights only"):
            load_encoder("open_clip:org/mine", weights=tmp_path / "folder")
        if fits:
            assert set(convert_weights("open_clip:org/mine", tmp_path / "folder" / PICKLE).tensors) == set(state)
        else:
            with pytest.raises(EncoderError, match=r"of the model are here|not a weights file"):
                convert_weights("open_clip:org/mine", tmp_path / "folder" / PICKLE)
    assert not (tmp_path / "ran").exists()


def _endless(doubled: bool) -> dict[str, Any]:
    """A dictionary that holds itself, or one of forty floors with two doors each to the one below."""
    inner: dict[str, Any] = {}
    if not doubled:
        inner["again"] = inner
    for _ in range(40 * doubled):
        inner = {"a": inner, "b": inner}
    return inner


@pytest.mark.parametrize("doubled", [False, True])
def test_a_pickle_without_an_end_is_a_line(doubled: bool, tmp_path: Path) -> None:
    torch.save(_endless(doubled), tmp_path / "x.pt")
    with pytest.raises(EncoderError, match=r"not a weights file that torch can read \((Recursion|Value)Error\)"):
        read_pickle(tmp_path / "x.pt")


def test_odd_tensors_of_a_pickle(tmp_path: Path) -> None:
    torch.save({"w": torch.full((2,), 1.5, dtype=torch.bfloat16)}, tmp_path / "x.pt")
    found = read_pickle(tmp_path / "x.pt")["w"]
    assert (found.dtype, found.tolist()) == (np.float32, [1.5, 1.5])
    torch.save({"w": torch.ones(2, dtype=torch.complex64).conj()}, tmp_path / "x.pt")
    with pytest.raises(EncoderError, match="not a weights file that torch can read"):
        read_pickle(tmp_path / "x.pt")


@pytest.mark.parametrize("name", ["chexzero", "eva-x-tiny", "ark-plus", "biovil-t", "biomedclip", "open_clip:a/b"])
def test_a_missing_package_is_named(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(EncoderError, match=r".* needs .*torch.*pip install 'cxr-embed\[torch\]'"):
        convert_weights(name, tmp_path / "x.pt")


def test_two_checkpoints_never_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXR_EMBED_WEIGHTS", str(tmp_path / "weights"))
    for kind in ("siglip", "clip"):
        save_open_clip(tmp_path / kind, kind)
        torch.save(load_file(tmp_path / kind / WEIGHTS), tmp_path / kind / "epoch.pt")
        (tmp_path / kind / WEIGHTS).unlink()
    first = convert_weights("open_clip:a/b-c", tmp_path / "siglip" / "epoch.pt")
    folder = save_converted("open_clip:a/b-c", first)
    with pytest.raises(EncoderError, match="a-b/c is not in the Hub's cache"):
        load_encoder("open_clip:a-b/c")
    assert save_converted("open_clip:a/b-c", first) == folder  # the same again is no fault
    before = sorted(path.name for path in folder.iterdir())
    with pytest.raises(EncoderError, match=r"holds tokenizer.json, which is not of this checkpoint"):
        save_converted("open_clip:a/b-c", convert_weights("open_clip:a/b-c", tmp_path / "clip" / "epoch.pt"))
    assert sorted(path.name for path in folder.iterdir()) == before
    assert load_encoder("open_clip:a/b-c").spec.text is not None


def test_checkpoints_of_the_hub_s_cache(published: Path, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match=r"org/clip is not in the Hub's cache and the Hub cannot be reached"):
        load_encoder("open_clip:org/clip")
    save_open_clip(tmp_path / "clip", "clip")
    commit = "a" * 40
    in_cache(cache, tmp_path / "clip", "org/clip", commit, "main")
    encoder = load_encoder("open_clip:org/clip", device="cpu")
    assert encoder.spec.weights_source == f"org/clip@{commit}"
    assert encoder.embed_text(PROMPTS).shape == (2, 24)
    assert load_encoder(f"open_clip:org/clip@{commit}").spec.weights == encoder.spec.weights
    with pytest.raises(EncoderError, match="give open_clip:ORG/NAME as on the Hub, or a folder with `weights`"):
        load_encoder("open_clip:ViT-B-16")
    with pytest.raises(EncoderError, match="is a commit of 40 hexadecimal digits"):
        load_encoder("open_clip:org/clip@v1")
    model = open_clip_folder.BIOMEDCLIP
    snapshot = in_cache(cache, published, model.repo, model.revision)
    with pytest.raises(
        EncoderError, match=r"the Hub's cache holds biomedclip as a pickle.*\n  cxr-embed weights"
    ) as why:
        load_encoder("biomedclip")
    assert str(why.value).endswith(f"weights convert biomedclip {snapshot / PICKLE}")


@pytest.mark.soak
def test_from_images_to_scores(tmp_path: Path, make_images: Callable[..., Path]) -> None:
    save_open_clip(tmp_path / "clip", "clip")
    weights, store = tmp_path / "clip", tmp_path / "store"
    embed(make_images(4), encoder="open_clip:tiny", weights=weights, store=store, device="cpu", workers=1)
    assert open_store(store).spec == load_encoder("open_clip:tiny", weights=weights).spec
    pairs = {"effusion": (["large pleural effusion"], ["no pleural effusion"])}
    screened = screen(open_store(store), pairs, weights=weights, device="cpu")
    assert screened.embedded == 2


@pytest.mark.soak
def test_pe_core_equals_open_clip_s_own(tmp_path: Path) -> None:
    """PE-Core's own image tower, with rotary positions and attention pooling, on random numbers."""
    from PIL import Image

    save_open_clip(tmp_path, "pe")
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (400, 300), np.uint8)).convert("RGB") for _ in range(2)]
    pixels, vectors, prompts, _ = as_open_clip_has_it(tmp_path, pictures, PROMPTS)
    encoder = load_encoder("open_clip:tiny", weights=tmp_path, device="cpu")
    batch = np.stack([encoder.encoder._recipe.resized(np.asarray(picture)[:, :, 0])[None] for picture in pictures])
    np.testing.assert_array_equal(encoder.encoder.normalised(torch.from_numpy(batch)).numpy(), pixels)
    np.testing.assert_allclose(encoder.embed(batch)["image"], vectors, atol=1e-4 * np.abs(vectors).max())
    np.testing.assert_allclose(encoder.embed_text(PROMPTS), prompts, atol=1e-4)
