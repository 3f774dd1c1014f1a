"""transformers' own classes made from a checkpoint's folder: no network, no code from it, no tensor left random."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from cxr_embed.encoders.checkpoint import TOKENIZER_SETTINGS, Checkpoint
from cxr_embed.encoders.torch_runner import as_encoder_error
from cxr_embed.errors import EncoderError
from cxr_embed.types import counted

_OWN_FILES_ONLY: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}


def load_model(checkpoint: Checkpoint) -> Any:
    """The checkpoint's model in float32. One that was trained without a pooler has none.

    Raises:
        EncoderError: where transformers does not know it, or where tensors are missing that it would make up.
    """
    import torch
    from transformers import AutoModel

    with quiet(), as_encoder_error(f"{checkpoint.source} cannot be loaded"):
        model, info = AutoModel.from_pretrained(
            checkpoint.folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **_OWN_FILES_ONLY
        )
    missing = sorted(info["missing_keys"])
    if missing and all(name.startswith("pooler.") for name in missing):
        model.pooler = None
    elif missing:
        raise EncoderError(
            f"{checkpoint.source}: {counted(len(missing), 'tensor is', 'tensors are')} missing, the first "
            f"{missing[0]}; "
            "it is half a download, or another model's"
        )
    return model


def load_image_processor(checkpoint: Checkpoint) -> Any:
    """The checkpoint's image processor, on PIL where transformers has it so: decoding processes share no GPU.

    Raises:
        EncoderError: where it cannot be made.
    """
    from transformers import AutoImageProcessor

    with quiet(), as_encoder_error(f"{checkpoint.source}: its image processor cannot be made"):
        return AutoImageProcessor.from_pretrained(checkpoint.folder, backend="pil", **_OWN_FILES_ONLY)


def load_tokenizer(checkpoint: Checkpoint) -> Any:
    """The checkpoint's tokenizer.

    Raises:
        EncoderError: where there is none, or where it needs a package that is not here.
    """
    from transformers import AutoTokenizer

    if not (checkpoint.folder / TOKENIZER_SETTINGS).is_file():
        raise EncoderError(
            f"{checkpoint.source} has no {TOKENIZER_SETTINGS}; put its tokenizer's files beside the weights"
        )
    with quiet(), as_encoder_error(f"{checkpoint.source}: its tokenizer cannot be made"):
        return AutoTokenizer.from_pretrained(checkpoint.folder, **_OWN_FILES_ONLY)


def word_ids(tokenizer: Any, word: str) -> tuple[int, ...]:
    """The ids of a word alone in a tokenizer of transformers'; none where part of it is not known."""
    ids = tokenizer(word, add_special_tokens=False)["input_ids"]
    return () if tokenizer.unk_token_id in ids else tuple(ids)


def class_width(checkpoint: Checkpoint) -> int | None:
    """The width of a model's hidden states by its class's defaults, for settings that leave it out.

    Raises:
        EncoderError: where transformers does not know the model.
    """
    from transformers import AutoConfig

    with quiet(), as_encoder_error(f"{checkpoint.source} is not a model that transformers knows"):
        config = AutoConfig.from_pretrained(checkpoint.folder, **_OWN_FILES_ONLY)
        width = getattr(config, "hidden_size", None)
    return width if isinstance(width, int) else None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' progress bars and reports: what matters in them is checked and said here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
