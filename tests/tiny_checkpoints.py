"""Tiny checkpoints with random weights in transformers' own formats: for tests and tours, never for results.

python tests/tiny_checkpoints.py FOLDER        a SigLIP checkpoint, with a tokenizer of a few words
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers

WORDS = [
    "no",
    "small",
    "large",
    "pleural",
    "effusion",
    "pneumothorax",
    "a",
    "chest",
    "radiograph",
    "of",
    "normal",
    "heart",
]
PROMPTS = ["no pleural effusion", "a chest radiograph of a large pneumothorax", "normal"]
TEXT = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 20,
    "max_position_embeddings": 12,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 16,
}


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of whole words, `<s> words </s>`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    vocabulary = {word: at for at, word in enumerate(["<s>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="</s>"
    ).save_pretrained(folder)


def save_gemma_tokenizer(folder: Path, kind: str = "GemmaTokenizer") -> int:
    """A tokenizer of Gemma's kind as SigLIP 2's checkpoints have it, of a few words and all letters; its vocabulary.

    Words with a capital are words of their own, as in the published one.
    """
    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *map(chr, (*range(97, 123), *range(65, 91)))]
    merges: list[tuple[str, str]] = []
    for word in [*WORDS, "Large", "Pneumothorax", "NO"]:
        for at in range(1, len(word)):
            merges.append((word[:at], word[at]))
            tokens.append(word[: at + 1])
    names = {token: at for at, token in enumerate(dict.fromkeys(tokens))}
    made = transformers.GemmaTokenizer(
        vocab=names,
        merges=list(dict.fromkeys(merges)),
        add_bos_token=False,
        add_eos_token=True,
        padding_side="right",
        model_max_length=64,
    )
    made.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": kind}))
    return len(names)


def save_siglip2(folder: Path, kind: str = "GemmaTokenizer", positions: int = 64) -> None:
    """A SigLIP 2 checkpoint of one picture size: SigLIP's classes and `model_type`, Gemma's tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = save_gemma_tokenizer(folder, kind)
    words = {**TEXT, "vocab_size": vocabulary, "max_position_embeddings": positions, "projection_size": 16}
    words |= {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config=words, vision_config=VISION))
    model.logit_scale.data.fill_(2.0)
    model.logit_bias.data.fill_(-7.0)
    loud(model).save_pretrained(folder)
    save_processor(folder, VISION["image_size"])


def save_processor(folder: Path, side: int, kind: str = "ViTImageProcessor", **settings: Any) -> None:
    values = {
        "image_processor_type": kind,
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 2,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps({**values, **settings}))


def loud(model: Any, seed: int = 0) -> Any:
    """The model with weights so large that every input shows in its vectors."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model


def save_dual(folder: Path, kind: str, dtype: str = "float32", positions: int = 12, **vision: Any) -> None:
    """A CLIP or SigLIP checkpoint: model, tokenizer and image processor."""
    settings, words = {**VISION, **vision}, {**TEXT, "max_position_embeddings": positions}
    if kind == "clip":
        config = transformers.CLIPConfig(text_config=words, vision_config=settings, projection_dim=8)
        model = transformers.CLIPModel(config)
    else:
        text = {**words, "projection_size": settings["hidden_size"]}
        config = transformers.SiglipConfig(text_config=text, vision_config=settings)
        model = transformers.SiglipModel(config)
        model.logit_scale.data.fill_(2.0)
        model.logit_bias.data.fill_(-7.0)
    loud(model).to(getattr(torch, dtype)).save_pretrained(folder)
    save_tokenizer(folder)
    save_processor(folder, settings["image_size"])


if __name__ == "__main__":
    save_dual(Path(sys.argv[1]), "siglip", positions=64)
    told = "a tiny SigLIP checkpoint of random numbers; not a trained model"
    (Path(sys.argv[1]) / "SOURCE").write_text(told)
    print(f"{sys.argv[1]}: {told}")
