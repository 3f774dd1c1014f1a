"""Checkpoints of open_clip: our vectors against its own functions, from a folder, with no network and an empty home."""

from __future__ import annotations

import json
import math
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cxr_embed import load_encoder
from cxr_embed.encoders import ENCODERS, load_text_encoder
from cxr_embed.encoders.pixels import as_uint8
from cxr_embed.errors import EncoderError
from cxr_embed.types import CxrImage

torch = pytest.importorskip("torch", reason="the torch encoders need torch: pip install 'cxr-embed[torch]'")
open_clip = pytest.importorskip("open_clip", reason="needs open_clip: pip install 'cxr-embed[torch]'")

from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_checkpoints import save_dual  # noqa: E402
from tiny_open_clip import as_open_clip_has_it, save_open_clip, save_tower  # noqa: E402

PROMPTS = ["no pleural effusion", "A chest radiograph of a LARGE pneumothorax", "normal heart"]
SETTINGS, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is called, and no name is looked up."""

    def refuse(*given: Any, **options: Any) -> None:
        raise AssertionError(f"the network was used: {given[:2]} {options}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """`checkpoints("clip", "bert" or "siglip")`: its folder, made once."""
    made: dict[str, Path] = {}

    def get(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("open_clip") / kind
            save_open_clip(made[kind], kind)
        return made[kind]

    return get


@pytest.fixture
def copied(checkpoints: Callable[[str], Path], tmp_path: Path) -> Callable[[str], Path]:
    """A copy of a checkpoint's folder, to be spoiled."""
    return lambda kind: Path(shutil.copytree(checkpoints(kind), tmp_path / kind))


@pytest.fixture
def images(chest: Callable[..., np.ndarray]) -> list[CxrImage]:
    deep = [CxrImage(pixels=chest(seed, 180 + 8 * seed), bits=12, content_id="", source="png") for seed in range(3)]
    wide = CxrImage(pixels=(chest(3, 190)[:120] >> 4).astype(np.uint8), bits=8, content_id="", source="png")
    return [*deep, wide, CxrImage(pixels=deep[0].pixels[:, :90], bits=12, content_id="", source="png")]


def load_and_try(name: str, folder: Path, prompts: bool) -> None:
    encoder = load_encoder(name, weights=folder, device="cpu")
    encoder.embed_text(PROMPTS) if prompts else encoder.engine


def refused(match: str, name: str, folder: Path, prompts: bool = False) -> str:
    """What loading and trying out a folder ends in: one line."""
    with pytest.raises(EncoderError, match=match) as caught:
        load_and_try(name, folder, prompts)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def change(folder: Path, part: str = "model_cfg", **values: Any) -> None:
    """Changes settings; `text_cfg__x` is one of a tower's."""
    path = folder / SETTINGS
    settings = json.loads(path.read_text())
    for name, value in values.items():
        *towers, last = name.split("__")
        where = settings[part]
        for tower in towers:
            where = where[tower]
        where[last] = value
    path.write_text(json.dumps(settings))


@pytest.mark.parametrize("kind", ["clip", "bert", "siglip"])
def test_vectors_equal_open_clip_s_own(kind: str, checkpoints: Callable[[str], Path], images: list[CxrImage]) -> None:
    from PIL import Image

    folder = checkpoints(kind)
    encoder = load_encoder("biomedclip" if kind == "bert" else "open_clip:tiny", weights=folder, device="cpu")
    pictures = [Image.fromarray(as_uint8(image.pixels, image.max_value)).convert("RGB") for image in images]
    pixels, vectors, prompts, logits = as_open_clip_has_it(folder, pictures, PROMPTS)
    batch = np.stack([encoder.preprocess(image) for image in images])
    assert (batch.dtype, batch.shape) == (np.uint8, (5, 1, *pixels.shape[2:]))
    np.testing.assert_array_equal(encoder.encoder.normalised(torch.from_numpy(batch)).numpy(), pixels)
    found = encoder.embed(batch)["image"]
    assert found.shape == (5, *encoder.spec.outputs["image"])
    np.testing.assert_allclose(found, vectors, atol=1e-5, rtol=0)
    assert np.ptp(vectors, axis=0).max() > 1e-2
    words = encoder.embed_text(PROMPTS)
    np.testing.assert_allclose(words, prompts, atol=1e-5, rtol=0)
    assert np.ptp(prompts, axis=0).max() > 1e-2
    rule = encoder.spec.text
    assert rule is not None
    assert (rule.output, rule.kind, rule.bias) == ("image", *(("siglip", -10) if kind == "siglip" else ("clip", 0)))
    unit = [array / np.linalg.norm(array, axis=1, keepdims=True) for array in (found, words)]
    np.testing.assert_allclose(unit[0] @ unit[1].T * rule.scale + rule.bias, logits, atol=1e-3)
    assert load_text_encoder(encoder.spec, weights=folder).spec == encoder.spec


@pytest.mark.parametrize("tower", ["roberta", "xlm-roberta", "mt5", "m2m_100"])
def test_other_text_towers_of_transformers(tower: str, tmp_path: Path) -> None:
    from PIL import Image

    save_tower(tmp_path, tower)
    picture = Image.fromarray(np.eye(70, dtype=np.uint8) * 255).convert("RGB")
    _, _, prompts, _ = as_open_clip_has_it(tmp_path, [picture], PROMPTS)
    found = load_encoder("open_clip:tiny", weights=tmp_path, device="cpu").embed_text(PROMPTS)
    np.testing.assert_allclose(found, prompts, atol=1e-5, rtol=0)
    assert np.ptp(prompts, axis=0).max() > 1e-2


def test_what_the_spec_says(checkpoints: Callable[[str], Path]) -> None:
    bert, siglip = (load_encoder("open_clip:x", weights=checkpoints(kind), device="cpu") for kind in ("bert", "siglip"))
    assert "open_clip's evaluation transform" in bert.spec.preprocessing
    assert '"resize_mode":"shortest","size":[160,160]' in bert.spec.preprocessing
    assert '"resize_mode":"squash"' in siglip.spec.preprocessing
    assert (bert.spec.revision, bert.spec.weights_source) == ("1", "bert")
    assert bert.spec.fingerprint != siglip.spec.fingerprint
    one, two = siglip.embed_text(["Large effusion.", "large effusion"])  # SigLIP 2 reads neither capitals nor marks
    np.testing.assert_array_equal(one, two)
    card = ENCODERS["biomedclip"]
    outputs = {"image": (512,), "shared": (14, 14, 512)}
    assert (card.licence, card.outputs, card.weights_here, card.default_outputs) == ("MIT", outputs, False, ("image",))
    assert "PubMed Central" in card.trained_on


def test_a_licence_that_binds_is_said(copied: Callable[[str], Path]) -> None:
    folder = copied("clip")
    (folder / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    licence = load_encoder("open_clip:own", weights=folder).spec.licence
    assert licence == "CC-BY-NC-4.0 binds: for non-commercial use only"


@pytest.mark.parametrize("kind", ["clip", "bert", "siglip"])
def test_long_prompts_are_refused_or_cut(kind: str, checkpoints: Callable[[str], Path]) -> None:
    encoder = load_encoder("open_clip:x", weights=checkpoints(kind), device="cpu")
    limit = encoder.encoder._checkpoint.context
    long = " ".join(["large pleural effusion"] * 100)
    with pytest.raises(EncoderError, match=rf"'large pleural .* tokens, open_clip:x reads {limit}; shorten it"):
        encoder.embed_text([long])
    cut = encoder.embed_text([long, long + " no"], cut=True)
    np.testing.assert_array_equal(cut[0], cut[1])
    for bad, match in ((" ", "a prompt is a sentence"), (3, "a prompt is a sentence")):
        with pytest.raises(EncoderError, match=match):
            encoder.embed_text([bad])  # type: ignore[list-item]
    assert encoder.embed_text([]).shape == (0, *encoder.spec.outputs["image"])


def test_a_folder_elsewhere_is_the_same_encoder(copied: Callable[[str], Path], checkpoints: Any) -> None:
    ours = copied("bert")
    spec = load_encoder("open_clip:x", weights=ours, device="cpu").spec
    assert spec.weights == load_encoder("open_clip:x", weights=checkpoints("bert"), device="cpu").spec.weights
    for name in ("config.json", "vocab.txt", SETTINGS):  # each decides on vectors
        text = (ours / name).read_text()
        (ours / name).write_text(text + " ")
        assert load_encoder("open_clip:x", weights=ours, device="cpu").spec.weights != spec.weights
        (ours / name).write_text(text)
    (ours / "SOURCE").write_text("not a trained model")
    assert load_encoder("open_clip:x", weights=ours).spec.stand_in


def test_the_text_tower_needs_no_settings_where_they_are_known(copied: Callable[[str], Path]) -> None:
    from cxr_embed.encoders.open_clip_folder import OpenClipCheckpoint
    from cxr_embed.encoders.open_clip_towers import model_shapes

    folder = copied("bert")
    (folder / "config.json").unlink()
    shapes = model_shapes(OpenClipCheckpoint(folder, "x", "biomedclip"))
    assert shapes["text.transformer.embeddings.word_embeddings.weight"] == (30522, 768)
    assert len([name for name in shapes if name.endswith("output.dense.weight")]) == 24
    change(folder, text_cfg__hf_model_name="org/another-bert")
    refused("bert has no config.json: put that of its text tower, org/another-bert, beside", "open_clip:x", folder)


# Missing and damaged files


@pytest.mark.parametrize(
    ("kind", "file", "match"),
    [
        ("clip", SETTINGS, rf"clip: {SETTINGS} is missing"),
        ("clip", WEIGHTS, rf"clip: {WEIGHTS} is missing; get it, or open_clip_pytorch_model.bin for"),
        (
            "bert",
            "vocab.txt",
            r"bert has no tokenizer.json, nor vocab.txt, .*knows no word without; put the files of mic",
        ),
        ("siglip", "tokenizer.json", r"siglip has no tokenizer.json"),
    ],
)
def test_a_missing_file_is_named(kind: str, file: str, match: str, copied: Callable[[str], Path]) -> None:
    folder = copied(kind)
    (folder / file).unlink()
    refused(match, "open_clip:x", folder)


@pytest.mark.parametrize(
    ("kind", "changes", "match"),
    [
        (
            "bert",
            {"vision_cfg__timm_model_name": "vit_base_patch16_223"},
            "not have; did you mean vit_base_patch16_224",
        ),
        (
            "bert",
            {"vision_cfg__timm_model_name": "hf-hub:org/evil"},
            "names the image tower hf-hub:org/evil, which timm",
        ),
        ("bert", {"text_cfg__hf_tokenizer_name": None}, "names a text tower, .* and no `hf_tokenizer_name`"),
        ("bert", {"text_cfg__hf_pooler_type": "nothing"}, "open_clip cannot make it"),
        ("clip", {"vision_cfg__width": 48}, r"tensors have another shape than the model's, the first \S+: \(32,"),
        ("clip", {"text_cfg__layers": 5}, r"\d+ of the \d+ tensors of the model are here; missing are .* and \d+ more"),
        ("clip", {"vision_cfg__layers": 0}, "12 tensors are not the model's: visual.transformer"),
        ("clip", {"embed_dim": "wide"}, "does not say how wide its vectors are"),
        ("clip", {"text_cfg": None}, "has no `text_cfg`"),
        ("clip", {"text_cfg__context_length": 0}, "`context_length` of 0"),
        ("clip", {"text_cfg__context_length": 40}, r"1 tensor has another shape .* positional_embedding: \(77, 32\)"),
        ("clip", {"multimodal_cfg": {}}, "is a CoCa model"),
        ("clip", {"flavour": 1}, "open_clip cannot make it .*flavour"),
        ("clip", {"vision_cfg__image_size": "64"}, "`image_size` is '64'"),
        ("clip", {"vision_cfg__image_size": 96}, "positional_embedding"),  # open_clip would interpolate in silence
        ("clip", {"init_logit_bias": -10}, "31 of the 32|missing are logit_bias"),  # and make a bias of zero
    ],
)
def test_settings_that_do_not_fit(
    kind: str, changes: dict[str, Any], match: str, copied: Callable[[str], Path]
) -> None:
    folder = copied(kind)
    change(folder, **changes)
    refused(match, "open_clip:x", folder)


@pytest.mark.parametrize(
    ("values", "match"),
    [
        ({"mean": None}, "`preprocess_cfg` has no mean, so its pixels are not known"),
        ({"std": [0.2, 0.0, 0.2]}, "not a deviation above 0"),
        ({"mean": [0.5]}, "not a number a channel"),
        ({"interpolation": "lanczos"}, "interpolation is 'lanczos'; known are bicubic"),
        ({"resize_mode": "pad"}, "resize_mode is 'pad'; known are shortest, longest, squash"),
        ({"mode": "L"}, "mode is 'L'"),
        ({"fill_color": 300}, "fill_color is 300"),
    ],
)
def test_pixels_that_are_not_known(values: dict[str, Any], match: str, copied: Callable[[str], Path]) -> None:
    folder = copied("clip")
    change(folder, "preprocess_cfg", **values)
    refused(match, "open_clip:x", folder)


def test_partly_fitting_weights_are_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("clip")
    tensors = load_file(folder / WEIGHTS)
    half = dict(list(tensors.items())[::2])
    save_file({**half, "logit_scale": tensors["logit_scale"]}, folder / WEIGHTS)
    said = refused(r"\d+ of the \d+ tensors of the model are here; missing are", "open_clip:x", folder)
    assert said.split("missing are ")[1].count(",") == 3
    save_file({**tensors, "logit_scale": torch.tensor([3.0])}, folder / WEIGHTS)  # as some releases kept it
    scale = load_encoder("open_clip:x", weights=folder, device="cpu")
    assert scale.spec.text is not None
    assert scale.spec.text.scale == pytest.approx(math.exp(3))
    assert scale.engine
    assert scale.embed_text(PROMPTS).shape == (3, 24)
    save_file({**tensors, "visual.proj": torch.full((32, 24), torch.inf)}, folder / WEIGHTS)
    refused("not finite", "open_clip:x", folder)
    save_file({name: values for name, values in tensors.items() if name != "logit_scale"}, folder / WEIGHTS)
    refused("not a whole model: logit_scale is not", "open_clip:x", folder)
    (folder / WEIGHTS).write_bytes(b"junk")
    refused("not a safetensors file", "open_clip:x", folder)


def test_biomedclip_is_known_by_its_shape(copied: Callable[[str], Path]) -> None:
    refused(
        "clip is not biomedclip: its vectors have 24 numbers and its prompts 77 tokens", "biomedclip", copied("clip")
    )
    folder = copied("bert")
    change(folder, text_cfg__context_length=77)
    refused("bert is not biomedclip", "biomedclip", folder)
    refused("not a folder", "biomedclip", folder / WEIGHTS)
    with pytest.raises(
        EncoderError, match=r"no weights for biomedclip here .*Download the files of .*BiomedCLIP"
    ) as why:
        load_encoder("biomedclip")
    assert str(why.value).endswith("cxr-embed weights convert biomedclip FOLDER/open_clip_pytorch_model.bin")


# Words


def test_every_text_side_is_asked_for_its_words() -> None:
    import importlib

    for card in ENCODERS.values():
        if card.text:
            made = importlib.import_module(card.module).make
            assert hasattr(made, "word_ids"), card.name


@pytest.mark.parametrize(
    "kind", ["BertTokenizer", "RobertaTokenizer", "CLIPTokenizer", "GemmaTokenizer", "T5Tokenizer"]
)
def test_a_tokenizer_without_words_is_refused(kind: str, tmp_path: Path) -> None:
    """transformers makes each of them in silence."""
    folder = tmp_path / "hub"
    save_dual(folder, "clip")
    for file in ("tokenizer.json", "special_tokens_map.json"):
        (folder / file).unlink(missing_ok=True)
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind}))
    refused(r"text side of hf:x does not know its own words \(no, normal, .*tokenizer's files", "hf:x", folder, True)
    images_only = load_encoder("hf:x", weights=folder, device="cpu")
    assert images_only.engine  # images need no words


def test_a_vocabulary_that_is_another_s_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("bert")
    words = (folder / "vocab.txt").read_text()
    (folder / "vocab.txt").write_text("".join(words.splitlines(keepends=True)[:8]))
    refused("its tokenizer has 8 tokens, its text tower 17: a part, or another", "open_clip:x", folder, True)
    (folder / "vocab.txt").write_text(words + "lung\nleft\n")
    encoder = load_encoder("open_clip:x", weights=folder, device="cpu")
    encoder.embed_text(PROMPTS)
    with pytest.raises(EncoderError, match="tokens that its text tower has not"):
        encoder.embed_text(["left lung"])
    others = [*words.splitlines()[:5], *(f"x{number}" for number in range(12))]
    (folder / "vocab.txt").write_text("\n".join(others))
    refused("the text side of open_clip:x does not know its own words", "open_clip:x", folder, True)
    (folder / "vocab.txt").write_text("[UNK]\n" + words.replace("[UNK]\n", ""))
    refused("pads with 1, its text tower knows 0 as padding", "open_clip:x", folder, True)


# Code that somebody planted


def test_nothing_that_a_checkpoint_brings_is_run(copied: Callable[[str], Path], tmp_path: Path) -> None:
    folder, mark = copied("bert"), tmp_path / "ran"
    code = f"open({str(mark)!r}, 'w').write('ran')\nclass Evil: pass\n"
    for module in ("evil.py", "modeling_evil.py", "tokenization_evil.py", "configuration_evil.py"):
        (folder / module).write_text(code)
    parts = {"AutoConfig": "configuration_evil.Evil", "AutoModel": "modeling_evil.Evil"}
    parts["AutoTokenizer"] = ["tokenization_evil.Evil", None]  # type: ignore[assignment]
    for file in ("config.json", "tokenizer_config.json"):
        settings = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps({**settings, "auto_map": parts}))
    encoder = load_encoder("open_clip:x", weights=folder, device="cpu")
    assert encoder.engine
    assert encoder.embed_text(PROMPTS).shape == (3, 512)
    (folder / "config.json").write_text(json.dumps({"model_type": "bertt", "auto_map": parts}))
    refused(r"model_type bertt\); did you mean bert", "open_clip:x", folder)
    shutil.copy(tmp_path / "bert" / "config.json", folder / "evil.json")
    for options, match in (
        ({"trust_remote_code": True}, "gives its tokenizer trust_remote_code, which is not run here"),
        ({"reduction_mask": "syntax"}, "gives its tokenizer reduction_mask"),
        ({"clean": "evil"}, "a way of cleaning prompts"),
    ):
        again = copied("siglip") if not (tmp_path / "siglip").exists() else tmp_path / "siglip"
        change(again, text_cfg__tokenizer_kwargs=options)
        refused(match, "open_clip:x", again, True)
    assert not mark.exists()


@pytest.mark.parametrize(("kind", "prompt"), [("clip", "\0"), ("bert", "\u200b"), ("siglip", "?! ...")])
def test_a_prompt_of_which_nothing_is_left_is_refused(
    kind: str, prompt: str, checkpoints: Callable[[str], Path]
) -> None:
    encoder = load_encoder("open_clip:x", weights=checkpoints(kind), device="cpu")
    with pytest.raises(EncoderError, match="has no word that can be read"):
        encoder.embed_text(["no effusion", prompt])


def test_a_scale_that_is_no_number_is_refused(copied: Callable[[str], Path]) -> None:
    folder = copied("siglip")
    file = folder / "open_clip_model.safetensors"
    tensors = load_file(file)
    for name, value, match in (
        ("logit_scale", 1000.0, "logit_scale is 1000, the logarithm of no scale"),
        ("logit_scale", float("nan"), "logit_scale is nan"),
        ("logit_bias", float("inf"), "logit_bias is inf"),
    ):
        save_file({**tensors, name: torch.tensor(value)}, file)
        refused(match, "open_clip:x", folder)


def test_whatever_decides_upon_the_tokenizer_is_part_of_the_identity(copied: Callable[[str], Path]) -> None:
    """Where its own settings name no class, transformers asks `config.json`; and it takes a later release's file."""
    folder = copied("siglip")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    del settings["tokenizer_class"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    seen = set()
    for file, text in (
        ("config.json", "{}"),
        ("config.json", '{"model_type": "clip"}'),
        ("tokenizer.4.0.0.json", "{}"),
    ):
        (folder / file).write_text(text)
        seen.add(load_encoder("open_clip:x", weights=folder).spec.fingerprint)
    assert len(seen) == 3


def test_odd_files_are_a_line(copied: Callable[[str], Path]) -> None:
    folder = copied("clip")
    (folder / "SOURCE").write_bytes(b"made\xff by a test")
    assert load_encoder("open_clip:x", weights=folder).spec.weights_source == f"{folder.name}: made\ufffd by a test"
    (folder / SETTINGS).write_text("[" * 100_000)
    refused("not readable as JSON", "open_clip:x", folder)
