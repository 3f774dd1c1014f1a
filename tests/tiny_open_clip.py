"""Tiny checkpoints of random numbers in open_clip's layout: for tests, never for results."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from tiny_checkpoints import WORDS, loud, save_gemma_tokenizer, save_tokenizer

BIOMEDBERT = "microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
VISION = {"image_size": 64, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16}
TEXT = {"width": 32, "heads": 2, "layers": 1}
PIXELS = {"mean": [0.48, 0.45, 0.40], "std": [0.26, 0.27, 0.28]}
BERT = {
    "model_type": "bert",
    "vocab_size": 5 + len(WORDS),
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 300,
}


def settings_of(kind: str, vocabulary: int = 0) -> dict[str, Any]:
    """An `open_clip_config.json`: `clip`, `bert` (BiomedCLIP's kind), `siglip` (SigLIP 2's) or `pe` (PE-Core's)."""
    if kind == "clip":
        model: dict[str, Any] = {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}
        pixels: dict[str, Any] = PIXELS
    elif kind == "bert":
        tower = {"hf_model_name": BIOMEDBERT, "hf_tokenizer_name": BIOMEDBERT, "context_length": 256}
        tower |= {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}
        image = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
        model = {"embed_dim": 512, "vision_cfg": image, "text_cfg": tower}
        pixels = PIXELS
    elif kind == "siglip":
        text = {**TEXT, "context_length": 24, "vocab_size": vocabulary, "hf_tokenizer_name": "timm/some-SigLIP2"}
        text |= {"tokenizer_kwargs": {"clean": "canonicalize"}, "no_causal_mask": True, "pool_type": "last"}
        text |= {"proj_bias": True, "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"}}
        model = {"embed_dim": 24, "init_logit_bias": -10, "custom_text": True, "vision_cfg": VISION, "text_cfg": text}
        pixels = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}
    else:
        image = {"timm_model_name": "vit_pe_core_tiny_patch16_384", "timm_pool": "map", "timm_proj": None}
        text = {**TEXT, "context_length": 32}
        model = {"embed_dim": 24, "custom_text": True, "vision_cfg": {**image, "image_size": 384}, "text_cfg": text}
        pixels = {"mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bilinear", "resize_mode": "squash"}
    return {"model_cfg": copy.deepcopy(model), "preprocess_cfg": pixels}


def save_wordpieces(folder: Path) -> None:
    """A BERT tokenizer of a few words, as BiomedCLIP's folder has it."""
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))


def save_open_clip(folder: Path, kind: str, **changes: Any) -> None:
    """Settings, tokenizer and weights; `changes` are made to the settings' `model_cfg`."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = 0
    if kind == "bert":
        save_wordpieces(folder)
        (folder / "config.json").write_text(json.dumps(BERT))
    elif kind == "siglip":
        vocabulary = save_gemma_tokenizer(folder)
    settings = settings_of(kind, vocabulary)
    settings["model_cfg"].update(changes)
    save_made(folder, settings)


def save_tower(folder: Path, tower: str) -> None:
    """A checkpoint whose text tower is another one of transformers' than BERT."""
    save_tokenizer(folder)
    shape = {"vocab_size": 3 + len(WORDS), "pad_token_id": 1, "max_position_embeddings": 90}
    one = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    if tower == "mt5":
        one = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    elif tower == "m2m_100":
        one = {"d_model": 32, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 32}
        one |= {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32}
    (folder / "config.json").write_text(json.dumps({"model_type": tower, **shape, **one}))
    pooler = "cls_pooler" if tower == "m2m_100" else "mean_pooler"
    text = {"hf_model_name": tower, "hf_tokenizer_name": tower, "hf_proj_type": "linear", "hf_pooler_type": pooler}
    model = {"embed_dim": 24, "vision_cfg": VISION, "text_cfg": text}
    save_made(folder, {"model_cfg": model, "preprocess_cfg": PIXELS})


def save_made(folder: Path, settings: dict[str, Any]) -> None:
    """Settings, and weights of the model that open_clip makes of them."""
    (folder / "open_clip_config.json").write_text(json.dumps(settings))
    model = loud(made(folder))
    model.logit_scale.data.fill_(3.0)
    save_file(
        {name: values.contiguous() for name, values in model.state_dict().items()},
        folder / "open_clip_model.safetensors",
    )


def made(folder: Path) -> Any:
    """A model by open_clip's own function, with numbers at random."""
    return open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False, **text_here(folder))


def text_here(folder: Path) -> dict[str, Any]:
    """What keeps open_clip's own loader from asking the Hub for a text tower."""
    text = json.loads((folder / "open_clip_config.json").read_text())["model_cfg"]["text_cfg"]
    if "hf_model_name" not in text:
        return {}
    return {"text_cfg": {**text, "hf_model_name": str(folder), "hf_model_pretrained": False}}


def as_open_clip_has_it(folder: Path, pictures: list[Any], prompts: list[str]) -> tuple[Any, Any, Any, Any]:
    """Pixels, image vectors, prompt vectors and logits as open_clip's own functions give them."""
    model, preprocess = open_clip.create_model_from_pretrained(f"local-dir:{folder}", **text_here(folder))
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    pixels = torch.stack([preprocess(picture) for picture in pictures])
    with torch.no_grad():
        tokens = tokenizer(prompts)
        logits = model.eval().get_logits(pixels, tokens)[0]
        return pixels.numpy(), model.encode_image(pixels).numpy(), model.encode_text(tokens).numpy(), logits.numpy()
