"""Prompts to token ids as ELIXR was trained with: BERT's uncased word pieces."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders.hub import HubModel, hub_folder
from cxr_embed.errors import EncoderError

TOKENS = 128
TOKENIZER = HubModel(
    "google-bert/bert-base-uncased",
    "86b5e0934494bd15c9632b12f734a8a67f723594",
    ("tokenizer.json", "tokenizer_config.json", "vocab.txt"),
    required=("tokenizer.json",),
)
_SEPARATOR = 102  # [SEP] of the 30,522-entry vocabulary
# What the right vocabulary makes of a prompt: a tokenizer that was loaded wrongly gives unknown tokens, silently.
_GOLDEN = ("no pneumothorax", [101, 2053, 1052, 2638, 2819, 29288, 2527, 2595, _SEPARATOR])


def load_tokenizer(folder: Path | None) -> Any:
    """`transformers`' fast BERT tokenizer, from the model's folder (or its `bert-base-uncased`), else from the Hub.

    Raises:
        EncoderError: where transformers is missing, or the vocabulary is not the model's.
    """
    try:
        from transformers import BertTokenizerFast
    except ImportError:
        raise EncoderError("prompts need transformers: pip install 'cxr-embed[cxr-foundation]'") from None
    candidates = [] if folder is None else [folder / "bert-base-uncased", folder]
    here = [path for path in candidates if (path / "tokenizer.json").is_file()]
    source = here[0] if here else hub_folder(TOKENIZER)
    tokenizer = BertTokenizerFast.from_pretrained(source, local_files_only=True)
    prompt, expected = _GOLDEN
    if tokenizer(prompt)["input_ids"] != expected:
        raise EncoderError(f"{source}: not the vocabulary of bert-base-uncased; download {TOKENIZER.repo} again")
    return tokenizer


def tokenize(tokenizer: Any, prompts: Sequence[str], *, cut: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Token ids `(P, 128)` int32 and paddings `(P, 128)` float32, 1.0 = padding, as the model was trained with.

    Word pieces of the case-folded text after [CLS]; the closing [SEP] is set to 0 and counts as padding.

    Args:
        tokenizer: from `load_tokenizer`.
        prompts: the texts.
        cut: take the first 126 word pieces of a longer prompt, as Google's preprocessing does.

    Raises:
        EncoderError: for an empty prompt, or, unless it may be cut, one of more than 126 word pieces.
    """
    ids = np.zeros((len(prompts), TOKENS), np.int32)
    paddings = np.ones((len(prompts), TOKENS), np.float32)
    for row, prompt in enumerate(prompts):
        found = tokenizer(folded(prompt), split_special_tokens=True)["input_ids"]
        if len(found) <= 2:
            raise EncoderError(f"prompt {row + 1} is empty ({prompt!r})")
        if len(found) > TOKENS and not cut:
            raise EncoderError(
                f"prompt {row + 1} has {len(found) - 2} word pieces, the model reads {TOKENS - 2}; "
                f"shorten {prompt[:60]!r}, or have zeroshot cut it (`cut_prompts`)"
            )
        found = [*found[: TOKENS - 1], found[-1]] if len(found) > TOKENS else found
        ids[row, : len(found)] = [0 if token == _SEPARATOR else token for token in found]
        paddings[row, : len(found)] = [1.0 if token == _SEPARATOR else 0.0 for token in found]
    return ids, paddings


def folded(text: str) -> str:
    """The text as tensorflow-text's BERT tokenizer lower-cases it: Unicode's NFKC_Casefold ('ß' is 'ss').

    Control characters are spaces.
    """
    text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in text)
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
