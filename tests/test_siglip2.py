"""SigLIP 2: found by its tokenizer, its words in lower case; kept prompts of earlier releases are not mixed in."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_cli

from cxr_embed import build_index, load_encoder, open_index, open_store, screen
from cxr_embed.encoders.checkpoint import Checkpoint
from cxr_embed.errors import EncoderError
from cxr_embed.index.queries import QueryBuilder, QueryEncoders
from cxr_embed.pipeline.embedding import embed
from cxr_embed.store import Store, add_prompts, read_prompts
from cxr_embed.store.layout import HEADER, Header
from cxr_embed.types import EncoderSpec, TextRule

torch = pytest.importorskip("torch", reason="the torch encoders need torch: pip install 'cxr-embed[torch]'")
transformers = pytest.importorskip("transformers", reason="needs transformers: pip install 'cxr-embed[torch]'")

from tiny_checkpoints import save_dual, save_gemma_tokenizer, save_siglip2  # noqa: E402

MIXED = ["Large pleural effusion", "NO Pneumothorax", "a chest radiograph of a normal heart", "ÉPANCHEMENT"]
PAIRS = {"effusion": (["Large pleural effusion"], ["no pleural effusion"])}


@pytest.fixture(scope="module")
def siglip2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("siglip2")
    save_siglip2(folder)
    return folder


@pytest.fixture
def store(siglip2: Path, tmp_path: Path, make_images: Callable[..., Path]) -> Path:
    path = tmp_path / "store"
    embed(make_images(4), encoder="hf:tiny", weights=siglip2, store=path, device="cpu", workers=1)
    return path


def as_transformers_has_it(folder: Path, prompts: list[str]) -> np.ndarray:
    """Its own tokenizer class for SigLIP 2 on the folder's vocabulary, padded to 64 as its own processor does."""
    inner = folder / "tokenizer.json"
    tokenizer = transformers.models.siglip2.Siglip2Tokenizer.from_pretrained(folder, tokenizer_file=str(inner))
    processor = transformers.Siglip2Processor.text_kwargs
    tokens = tokenizer(prompts, return_tensors="pt", **processor)["input_ids"]
    assert tokens.shape == (len(prompts), 64)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        vectors: np.ndarray = model.get_text_features(input_ids=tokens).pooler_output.numpy()
    return vectors


def test_prompts_equal_transformers_own_siglip2(siglip2: Path) -> None:
    assert json.loads((siglip2 / "config.json").read_text())["model_type"] == "siglip"
    encoder: Any = load_encoder("hf:tiny", weights=siglip2, device="cpu")
    assert encoder.spec.text.words == "lower"
    found = encoder.embed_text(MIXED)
    np.testing.assert_allclose(found, as_transformers_has_it(siglip2, MIXED), atol=1e-5, rtol=0)
    np.testing.assert_array_equal(found, encoder.embed_text([prompt.lower() for prompt in MIXED]))
    one, two, three = encoder.embed_text(["Large", "large", "LARGE"])
    np.testing.assert_array_equal(one, two)
    np.testing.assert_array_equal(two, three)
    assert np.abs(found[0] - found[1]).max() > 1e-3
    # As typed it would be another vector: the test tokenizer has tokens of capitals.
    encoder.encoder._model = replace(encoder.encoder._model, text=replace(encoder.spec.text, words="as typed"))
    assert np.abs(encoder.embed_text(["Large"])[0] - two).max() > 1e-3


def test_padding_stands_on_the_right_whatever_the_settings_leave_out(siglip2: Path, tmp_path: Path) -> None:
    shutil.copytree(siglip2, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["padding_side"]  # Gemma's own side is the left
    path.write_text(json.dumps(settings))
    folders = (siglip2, tmp_path)
    one, two = (load_encoder("hf:tiny", weights=folder, device="cpu").embed_text(MIXED) for folder in folders)
    np.testing.assert_allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("positions", [12, 64])
def test_long_prompts_keep_their_end(tmp_path: Path, positions: int) -> None:
    save_siglip2(tmp_path, positions=positions)
    encoder: Any = load_encoder("hf:tiny", weights=tmp_path, device="cpu")
    prompt = "Large " * 40
    with pytest.raises(EncoderError, match=f"reads {positions}; shorten it"):
        encoder.embed_text([prompt])
    tokens = encoder.encoder._tokens([prompt], True)[0]
    assert (len(tokens), tokens[-1]) == (positions, 1)  # `sticky`: the end stays where a prompt is cut


@pytest.mark.parametrize(
    ("settings", "is_gemma"),
    [
        ({"tokenizer_class": "GemmaTokenizer"}, True),
        ({"tokenizer_class": "GemmaTokenizerFast"}, True),
        ({"tokenizer_class": "Siglip2Tokenizer"}, True),
        ({"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "<eos>"}, False),
        ({"pad_token": "<pad>", "eos_token": {"content": "<eos>"}, "bos_token": {"content": "<bos>"}}, True),
        ({"tokenizer_class": "SiglipTokenizer", "pad_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>"}, False),
        ({"tokenizer_class": "CLIPTokenizer", "bos_token": "<|startoftext|>"}, False),
        ({"tokenizer_class": ["GemmaTokenizer"], "pad_token": 3}, False),
        ({}, False),
        (None, False),
    ],
)
def test_the_tokenizer_tells_not_the_name(tmp_path: Path, settings: dict[str, Any] | None, is_gemma: bool) -> None:
    folder = tmp_path / "siglip2-base"
    folder.mkdir()
    if settings is not None:
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert Checkpoint(folder, "x").has_gemma_tokenizer is is_gemma


def test_tokens_of_another_file_tell_too(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    tokens = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(tokens))
    assert Checkpoint(tmp_path, "x").has_gemma_tokenizer


def test_siglip_1_and_clip_stay_as_they_are(tmp_path: Path) -> None:
    for kind, words in (("siglip", "as typed"), ("clip", "")):
        save_dual(tmp_path / kind, kind)
        assert load_encoder("hf:tiny", weights=tmp_path / kind).spec.text.words == words  # type: ignore[union-attr]
    # A CLIP with Gemma's tokenizer is no SigLIP 2.
    save_gemma_tokenizer(tmp_path / "clip")
    assert load_encoder("hf:tiny", weights=tmp_path / "clip").spec.text.words == ""  # type: ignore[union-attr]


def test_unreadable_tokenizer_settings_are_one_line(tmp_path: Path) -> None:
    save_siglip2(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(EncoderError, match=r"tokenizer_config\.json: not readable as JSON") as caught:
        load_encoder("hf:tiny", weights=tmp_path)
    assert "\n" not in str(caught.value)


def test_the_text_rule_goes_through_its_record() -> None:
    spec = EncoderSpec("hf:x", revision="1", preprocessing="", outputs={"image": (4,)}, weights="0" * 64)
    for words in ("", "as typed", "lower"):
        rule = TextRule("image", "siglip", 2.0, -1.0, words)  # type: ignore[arg-type]
        made = replace(spec, text=rule)
        assert EncoderSpec.from_json(json.loads(json.dumps(made.to_json()))) == made
        assert ("words" in made.to_json()["text"]) is bool(words)  # records of earlier releases keep their bytes
        assert made.fingerprint == spec.fingerprint  # image vectors do not depend on it


def of_an_earlier_release(store: Path) -> None:
    """Rewrites the store's header as a release wrote it that knew of no capitals."""
    header = Header.read(store)
    assert header.spec.text is not None
    spec = replace(header.spec, text=replace(header.spec.text, words=""))
    (store / HEADER).write_bytes(replace(header, spec=spec).to_bytes())


def keep_with_capitals(store: Path) -> np.ndarray:
    """Puts what an earlier release would have kept into the store."""
    vectors = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    prompts = ["Large pleural effusion", "no pleural effusion", "Imported Prompt"]
    sources = ["embedded by hf:tiny, torch 2", "embedded by hf:tiny, torch 2", "imported from p.npz"]
    add_prompts(store, prompts, vectors, sources)
    return vectors


def test_kept_capitals_are_left_out_and_embedded_anew(store: Path, siglip2: Path) -> None:
    kept = keep_with_capitals(store)
    opened = open_store(store)
    found = read_prompts(opened)
    assert found.prompts == ("no pleural effusion", "Imported Prompt")  # lower case was right, imports are not ours
    assert found.left_out == ("Large pleural effusion",)
    np.testing.assert_array_equal(found.vectors, kept[1:])
    told = run_cli("store", "info", str(store))
    assert "2 (and 1 with capitals, of an earlier release: hf:tiny reads lower case)" in " ".join(told.stdout.split())
    made = screen(opened, PAIRS, weights=siglip2, device="cpu")
    assert made.embedded == 1
    assert any("'Large pleural effusion', embedded anew: an earlier release" in note for note in made.notes)
    after = read_prompts(opened)
    at = after.prompts.index("Large pleural effusion")
    encoder = load_encoder("hf:tiny", weights=siglip2, device="cpu")
    np.testing.assert_allclose(after.vectors[at], encoder.embed_text(["large pleural effusion"])[0], atol=1e-6)
    assert after.sources[at].endswith("; read in lower case")
    assert after.left_out == ()
    again = screen(opened, PAIRS)  # needs no model now
    assert (again.embedded, [note for note in again.notes if "capitals" in note]) == (0, [])


def test_a_store_of_an_earlier_release(store: Path, siglip2: Path) -> None:
    of_an_earlier_release(store)
    keep_with_capitals(store)
    opened: Store = open_store(store)
    assert read_prompts(opened).left_out == ()  # nobody knows yet
    made = screen(opened, PAIRS)
    assert made.embedded == 0
    assert any("may have been embedded with its capitals" in note for note in made.notes)
    more = {"effusion": (PAIRS["effusion"][0], ["normal"])}
    made = screen(opened, more, weights=siglip2, device="cpu")
    assert made.embedded == 2  # the new one, and the one of which the model knows better
    assert any("embedded anew" in note for note in made.notes)
    found = screen(opened, PAIRS)
    assert not [note for note in found.notes if "capitals" in note]


def test_an_index_of_an_earlier_release(store: Path, siglip2: Path, tmp_path: Path) -> None:
    of_an_earlier_release(store)
    keep_with_capitals(store)
    build_index(store, path=tmp_path / "index", output="image", progress=lambda *_: None)
    index = open_index(tmp_path / "index")
    typed, lower = "Large pleural effusion", "large pleural effusion"
    found = index.search(text=typed, weights=siglip2, device="cpu")
    assert any("may have been embedded with its capitals" in note for note in found.notes)
    builder = QueryBuilder(index.index, QueryEncoders(siglip2, "cpu"))
    one, two = builder.of_texts([typed, lower])
    np.testing.assert_array_equal(one.vector, two.vector)
