"""Radiograph models of the Hub by `hf:` and `timm:`, each in its own layout: tiny and random, with its kinds of files.

XrayCLIP, XraySigLIP, RAD-DINO-MAIRA-2 and DINOv3 are settings of classes that transformers has; what is proven is that
a folder like theirs loads with no network, reads their words, prepares their pixels and says their licence.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_cli
from peer_numbers import pictures, thinned
from PIL import Image

from cxr_embed import load_encoder, open_store
from cxr_embed.encoders import encoder_card
from cxr_embed.encoders.licences import licence_beside, words_on_licence
from cxr_embed.encoders.seen import words_on
from cxr_embed.errors import EncoderError
from cxr_embed.store.layout import Row
from cxr_embed.store.writer import StoreWriter

torch = pytest.importorskip("torch", reason="the torch encoders need torch: pip install 'cxr-embed[torch]'")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'cxr-embed[torch]'")
timm = pytest.importorskip("timm", reason="needs timm: pip install 'cxr-embed[torch]'")

from tiny_checkpoints import WORDS, loud, save_processor  # noqa: E402

GOLDEN = json.loads(Path(__file__).with_name("peer_goldens.json").read_text())["hub"]
CLIP_MEAN, CLIP_DEVIATION = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
BY_NAME = {
    "clip": "StanfordAIMI/XrayCLIP__vit-b-16__laion2b-s34b-b88k",
    "siglip": "StanfordAIMI/XraySigLIP__vit-l-16-siglip-384__webli",
    "maira": "microsoft/rad-dino-maira-2",
    "dinov3": "facebook/dinov3-vits16-pretrain-lvd1689m",
}


def save_clip_words(folder: Path) -> None:
    """CLIP's tokenizer as XrayCLIP's repositories have it: `vocab.json` and `merges.txt`, no `tokenizer.json`."""
    tokenizer = pytest.importorskip("open_clip.tokenizer", reason="CLIP's words: pip install 'cxr-embed[torch]'")
    merges = gzip.decompress(Path(tokenizer.default_bpe()).read_bytes()).decode().split("\n")[1:48895]
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    words = {names.get(word, word): at for word, at in tokenizer.SimpleTokenizer().encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(words))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    special = {
        "bos_token": "<|startoftext|>",
        **dict.fromkeys(("eos_token", "pad_token", "unk_token"), "<|endoftext|>"),
    }
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {**special, "tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def save_siglip_words(folder: Path) -> None:
    """SigLIP's tokenizer as XraySigLIP's repositories have it, `spiece.model`, of a few words."""
    pieces = pytest.importorskip("sentencepiece", reason="SigLIP's words: pip install 'cxr-embed[torch]'")
    model = io.BytesIO()
    pieces.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS)] * 50 + WORDS * 20),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2},
    )
    (folder / "spiece.model").write_bytes(model.getvalue())
    special = {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {**special, "tokenizer_class": "SiglipTokenizer", "model_max_length": 64, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def save_clip(folder: Path) -> None:
    # As OpenCLIP's LAION models are: gelu. Settings of that time call the end of a text 2.
    vision = {**SMALL, "image_size": 224, "patch_size": 56, "hidden_act": "gelu"}
    text = {**SMALL, "hidden_act": "gelu", "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=24)
    loud(transformers.CLIPModel(config)).save_pretrained(folder)
    crop = {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "do_convert_rgb": True}
    means = {"image_mean": CLIP_MEAN, "image_std": CLIP_DEVIATION}
    save_processor(folder, 224, "CLIPImageProcessor", size={"shortest_edge": 224}, resample=3, **crop, **means)
    save_clip_words(folder)


def save_siglip(folder: Path) -> None:
    vision, text = {**SMALL, "image_size": 384, "patch_size": 96}, {**SMALL, "vocab_size": 64, "projection_size": 32}
    text |= {"max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config=vision))
    model.logit_bias.data.fill_(-7.0)
    loud(model).save_pretrained(folder)
    save_processor(folder, 384, "SiglipImageProcessor", resample=3)
    save_siglip_words(folder)


def save_maira(folder: Path) -> None:
    small = {name: value for name, value in SMALL.items() if name != "intermediate_size"}
    loud(transformers.Dinov2Model(transformers.Dinov2Config(**small, image_size=518, patch_size=74))).save_pretrained(
        folder
    )
    crop = {"do_center_crop": True, "crop_size": {"height": 518, "width": 518}}
    means = {"image_mean": [0.5307] * 3, "image_std": [0.2583] * 3}
    save_processor(folder, 518, "BitImageProcessor", size={"shortest_edge": 518}, resample=3, **crop, **means)


def save_dinov3(folder: Path) -> None:
    config = transformers.DINOv3ViTConfig(**SMALL, image_size=224, patch_size=56, num_register_tokens=4)
    loud(transformers.DINOv3ViTModel(config)).save_pretrained(folder)
    means = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    save_processor(folder, 224, "DINOv3ViTImageProcessorFast", **means)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each kind, named as its kind alone."""
    found = {}
    for kind, save in (("clip", save_clip), ("siglip", save_siglip), ("maira", save_maira), ("dinov3", save_dinov3)):
        found[kind] = tmp_path_factory.mktemp("hub") / kind
        found[kind].mkdir()
        save(found[kind])
    return found


def load(kind: str, folder: Path) -> Any:
    return load_encoder(f"hf:{BY_NAME[kind]}", weights=folder, device="cpu", precision="float32")


def by_pillow(kind: str) -> np.ndarray:
    """The pixels of each kind's settings, written out."""
    found = []
    for image in pictures():
        grey = Image.fromarray(image.pixels)
        side = {"clip": 224, "siglip": 384, "maira": 518, "dinov3": 224}[kind]
        size = (side, side)
        if kind in ("clip", "maira"):  # the shorter side, then the centre
            least = min(grey.size)
            size = (side * grey.width // least, side * grey.height // least)
        resample = Image.Resampling.BILINEAR if kind == "dinov3" else Image.Resampling.BICUBIC
        resized = np.asarray(grey.resize(size, resample), dtype=np.float64) / 255
        top, left = (resized.shape[0] - side) // 2, (resized.shape[1] - side) // 2
        means, deviations = {
            "clip": (CLIP_MEAN, CLIP_DEVIATION),
            "siglip": ([0.5] * 3, [0.5] * 3),
            "maira": ([0.5307] * 3, [0.2583] * 3),
            "dinov3": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        }[kind]
        crop = resized[top : top + side, left : left + side]
        found.append([(crop - mean) / deviation for mean, deviation in zip(means, deviations, strict=True)])
    return np.array(found)


@pytest.mark.parametrize("kind", list(BY_NAME))
def test_pixels_and_vectors(kind: str, folders: dict[str, Path]) -> None:
    encoder = load(kind, folders[kind])
    pixels = np.stack([encoder.preprocess(image) for image in pictures()])
    # DINOv3's processor resizes by torchvision alone, in whole levels that may differ from Pillow's by one.
    level = 1.01 / 255 / 0.224 if kind == "dinov3" else 1e-3
    np.testing.assert_allclose(pixels, by_pillow(kind), atol=level)
    np.testing.assert_allclose([thinned(each) for each in pixels], GOLDEN[kind], atol=1e-3)
    model = transformers.AutoModel.from_pretrained(folders[kind]).eval()
    with torch.no_grad():
        given = {"pixel_values": torch.from_numpy(pixels)}
        want = model.get_image_features(**given) if kind in ("clip", "siglip") else model(**given)
    vectors = encoder.embed(pixels)[next(iter(encoder.spec.outputs))]
    np.testing.assert_allclose(vectors, want.pooler_output.numpy(), rtol=0, atol=1e-4)
    assert np.ptp(vectors, axis=0).max() > 1e-2


def test_words_of_clips_own_files(folders: dict[str, Path]) -> None:
    """Without `tokenizer.json` a tokenizer may be built that knows no word: CLIP's ids tell."""
    encoder = load("clip", folders["clip"])
    ids = encoder.encoder._tokens(["No pleural effusion."], cut=False)[0]
    assert ids == [49406, 871, 926, 33948, 1490, 9364, 269, 49407]
    one, other = encoder.embed_text(["No pleural effusion.", "pneumothorax"])
    assert np.abs(one - other).max() > 1e-2
    model = transformers.AutoModel.from_pretrained(folders["clip"]).eval()
    with torch.no_grad():
        want = model.get_text_features(input_ids=torch.tensor([ids])).pooler_output.numpy()
    np.testing.assert_allclose(one, want[0], atol=1e-5)
    rule = encoder.spec.text
    assert (rule.kind, rule.bias, rule.words) == ("clip", 0.0, "")


def test_words_of_siglips_own_files(folders: dict[str, Path]) -> None:
    encoder = load("siglip", folders["siglip"])
    ids = encoder.encoder._tokens(["No pleural effusion"], cut=False)[0]
    assert len(set(ids)) == 4  # three words and the end, none unknown
    assert 2 not in ids
    one, other = encoder.embed_text(["No pleural effusion", "normal heart"])
    assert np.abs(one - other).max() > 1e-2
    model = transformers.AutoModel.from_pretrained(folders["siglip"]).eval()
    with torch.no_grad():
        want = model.get_text_features(input_ids=torch.tensor([ids + [1] * (64 - len(ids))])).pooler_output.numpy()
    np.testing.assert_allclose(one, want[0], atol=1e-5)
    assert (encoder.spec.text.kind, encoder.spec.text.words) == ("siglip", "as typed")


def test_what_is_known_by_name() -> None:
    assert encoder_card("hf:StanfordAIMI/XraySigLIP__vit-b-16-siglip-512__webli").licence == "CC-BY-NC-4.0"
    maira = encoder_card("hf:microsoft/rad-dino-maira-2@" + "0" * 40)
    assert maira.licence == "MSRLA"
    assert "without labels" in words_on(maira.saw, "padchest")
    for name in ("hf:facebook/dinov3-vits16-pretrain-lvd1689m", "timm:vit_small_patch16_dinov3.lvd1689m"):
        assert encoder_card(name).licence == "DINOv3 License"
    assert not encoder_card("hf:google/siglip2-base-patch16-224").terms
    for name in ("hf:microsoft/rad-dino", "hf:me/my-model", "timm:convnext_atto"):
        assert (encoder_card(name).licence, encoder_card(name).terms) == ("its own", "")
    assert encoder_card("rad-dino").licence == "MIT"


CARDS = {
    "license: mit": "",
    "license: cc-by-nc-4.0": "CC-BY-NC-4.0 binds: for non-commercial use only",
    "license: CC-BY-NC-SA-4.0": "CC-BY-NC-SA-4.0 binds: for non-commercial use only",
    "license: other\nlicense_name: mit": "",
    "license: other\nlicense_name: msrla": "for research only",
    "license: other\nlicense_name: dinov3-license": "DINOv3 License binds",
    "license: other": "its licence (other) binds",
    "license: gemma": "its licence (gemma) binds",
    "license: [mit, cc-by-nc-4.0]": "CC-BY-NC-4.0 binds",
    "tags: [x]": "",
    "license: [": "its licence (other) binds",
    f"license: {'[' * 400}": "its licence (other) binds",
    "license: *far": "its licence (other) binds",
    "license: {name: mit}": "its licence (other) binds",
    "license:\tcc-by-nc-4.0": "CC-BY-NC-4.0 binds",
    "license: mit\ndate: 2024-99-99": "",
    f"data: {'x' * 20000}\nlicense: cc-by-nc-4.0": "CC-BY-NC-4.0 binds",
    "license:\n- mit\n- cc-by-nc-4.0": "CC-BY-NC-4.0 binds",
    "license: CC BY-NC 4.0": "CC-BY-NC-4.0 binds",
    "license: Apache License, Version 2.0": "",
    "license: MIT License": "",
    "- a\n- list": "",
}


@pytest.mark.parametrize("card", list(CARDS))
def test_a_folders_card_says_what_binds(card: str, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(f"---\n{card}\n---\n# A model\nlicense: cc-by-nc-4.0\n")
    found = licence_beside(tmp_path)
    assert (CARDS[card] in found) if CARDS[card] else found == ""
    assert "\n" not in found
    (tmp_path / "README.md").rename(tmp_path / "Readme.md")
    (tmp_path / "Readme.md").write_bytes(b"\xef\xbb\xbf" + f"---\r\n{card}\r\n---\r\n".encode())
    assert licence_beside(tmp_path) == found


def test_a_licence_file_says_it_where_there_is_no_card(tmp_path: Path) -> None:
    assert licence_beside(tmp_path) == ""
    texts = {
        "MIT License\n\nPermission is hereby granted, free of charge, ...": "",
        "Apache License\nVersion 2.0": "",
        "# Attribution-NonCommercial 4.0\n...": "Attribution-NonCommercial 4.0 binds: for non-commercial use only",
        "Own\nNon-commercial use only; code of others under the MIT License": "a part of its licence file binds",
        "GNU General Public License\n... only noncommercially": "its licence (GNU General Public License)",
        "Attribution 4.0 International\n": "",
        "Model Terms\nof a company": "its licence (Model Terms) binds",
    }
    for text, said in texts.items():
        (tmp_path / "LICENSE").write_text(text)
        found = licence_beside(tmp_path)
        assert found.startswith(said) if said else found == ""
    (tmp_path / "README.md").write_text("---\nlicense: other\n---\n")
    assert licence_beside(tmp_path).startswith("its licence (Model Terms)")
    (tmp_path / "LICENSE").rename(tmp_path / "Licence.txt")
    assert licence_beside(tmp_path).startswith("its licence (Model Terms)")
    assert (
        words_on_licence("x\x1b[31m\n") == "its licence (x[31m) binds to terms of its own; read them before you use it"
    )


def test_a_copy_under_any_name_keeps_its_licence(folders: dict[str, Path], tmp_path: Path) -> None:
    """By the folder's card, by the folder's name, or by the name that a user gives."""
    plain = load_encoder("hf:me/mine", weights=folders["maira"]).spec
    assert plain.licence == ""
    shutil.copytree(folders["maira"], tmp_path / "rad-dino-maira-2")
    named = load_encoder("hf:me/mine", weights=tmp_path / "rad-dino-maira-2").spec
    assert "MSRLA" in named.licence
    assert load("maira", folders["maira"]).spec.licence == named.licence
    shutil.copytree(folders["maira"], tmp_path / "copy")
    (tmp_path / "copy" / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    carded = load_encoder("hf:me/mine", weights=tmp_path / "copy").spec
    assert "CC-BY-NC-4.0" in carded.licence
    assert carded.fingerprint == plain.fingerprint == named.fingerprint  # vectors do not depend on it


def run_verb(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    from cxr_embed.cli import main

    monkeypatch.setattr(sys, "argv", ["cxr-embed", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)


def test_every_run_says_the_licence_once(
    folders: dict[str, Path],
    tmp_path: Path,
    make_images: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """On stderr: when the model is to run, and whenever its vectors are read."""
    name, folder = f"hf:{BY_NAME['siglip']}", str(folders["siglip"])
    said = f"licence: {name}: CC-BY-NC-4.0 binds: for non-commercial use only\n"
    with StoreWriter(tmp_path / "store", load("siglip", folders["siglip"]).spec, dtype="float32") as writer:
        writer.add_vector(Row(image_id="a", patient_id="p", content=bytes(32)), {"image": np.ones(32, np.float32)})
        writer.flush("a test")
    manifest = str(make_images(2))
    run = ["--encoder", name, "--weights", folder, "--store", str(tmp_path / "new")]
    capsys.readouterr()
    for verb in (
        ["encoders", "check", name, "--weights", folder, "--count", "2", "--json"],
        ["embed", manifest, *run, "--dry-run"],
        ["store", "info", str(tmp_path / "store")],
    ):
        run_verb(monkeypatch, *verb)
        told = capsys.readouterr()
        assert told.err.count(said) == 1, verb
        assert "licence:" not in told.out


@pytest.mark.soak
def test_a_real_run_says_the_licence(
    folders: dict[str, Path], tmp_path: Path, make_images: Callable[..., Path]
) -> None:
    name, store = f"hf:{BY_NAME['clip']}", tmp_path / "store"
    given = ["--encoder", name, "--weights", str(folders["clip"]), "--store", str(store), "--workers", "1"]
    done = run_cli("embed", str(make_images(2)), *given)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("licence: ") == 1
    assert "CC-BY-NC-4.0" in open_store(store).spec.licence


def test_a_gated_model_offline_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        EncoderError, match=r"dinov3-vits16.* is not in the Hub's cache and HF_HUB_OFFLINE is set"
    ) as told:
        load_encoder(f"hf:{BY_NAME['dinov3']}")
    assert "\n" not in str(told.value)


def test_timms_own_word_on_a_licence(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({"x": np.ones(1, np.float32)}, tmp_path / "x.safetensors")
    spec = load_encoder("timm:vit_small_patch16_dinov3.lvd1689m", weights=tmp_path / "x.safetensors").spec
    assert "DINOv3 License" in spec.licence
    assert spec.outputs == {"features": (384,)}
    assert load_encoder("timm:convnext_atto", weights=tmp_path / "x.safetensors").spec.licence == ""
    spec = load_encoder("timm:convnextv2_atto.fcmae_ft_in1k", weights=tmp_path / "x.safetensors").spec
    assert "CC-BY-NC-4.0" in spec.licence


@pytest.mark.soak
@pytest.mark.parametrize(
    ("name", "width"), [("vit_small_patch16_dinov3.lvd1689m", 384), ("vit_base_patch16_siglip_224.v2_webli", 768)]
)
def test_dinov3_and_siglip2_by_timm(name: str, width: int, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False).eval()
    save_file(model.state_dict(), tmp_path / "x.safetensors")
    encoder: Any = load_encoder(f"timm:{name}", weights=tmp_path / "x.safetensors", device="cpu", threads=1)
    assert encoder.spec.outputs == {"features": (width,)}
    pixels = np.stack([encoder.preprocess(image) for image in pictures()])
    with torch.no_grad():
        want = model(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(encoder.embed(pixels)["features"], want, atol=1e-4 * np.abs(want).max())
