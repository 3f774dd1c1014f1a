"""open_clip's own models and tokenizers made from a checkpoint's folder: no network, no code from it, nothing random.

open_clip can load a folder itself, but then asks the Hub for a text tower that the settings name, takes any argument
for a tokenizer (also that code may be run), and fits tables of another length by interpolation. So the settings are
read here, and only its classes are taken.
"""

from __future__ import annotations

import contextlib
import copy
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders.checkpoint import read_json
from cxr_embed.encoders.conversion import require_tensors
from cxr_embed.encoders.open_clip_folder import SETTINGS, TOWER_SETTINGS, OpenClipCheckpoint
from cxr_embed.encoders.timm_settings import nearest
from cxr_embed.encoders.torch_runner import as_encoder_error, require_tokens
from cxr_embed.encoders.transformers_loading import quiet, word_ids
from cxr_embed.errors import EncoderError
from cxr_embed.types import counted

# The shape of the text towers that checkpoints name without bringing their settings along: BERT's base, with a
# vocabulary of its own (Gu et al., 2020, arXiv 2007.15779).
_BIOMEDBERT = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "pad_token_id": 0,
}
_KNOWN_TOWERS = {
    f"microsoft/BiomedNLP-{name}-base-uncased-abstract{text}": _BIOMEDBERT
    for name in ("BiomedBERT", "PubMedBERT")
    for text in ("", "-fulltext")
}
_PARTLY = 0.9  # a tokenizer with fewer of the text tower's tokens is a part of the one that it was trained with
# What a tokenizer may be given beside its files. Others could let code in, or draw at random.
_CLEANED = ("canonicalize", "lower", "whitespace")
_MODES = (None, "", "clips")


def model_shapes(checkpoint: OpenClipCheckpoint) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of the model that the settings describe. Takes no memory for them.

    Raises:
        EncoderError: where open_clip, timm or transformers cannot make it.
    """
    return {name: tuple(values.shape) for name, values in empty_model(checkpoint).state_dict().items()}


def empty_model(checkpoint: OpenClipCheckpoint) -> Any:
    """The model that the settings describe, on torch's `meta`, without numbers; raises as `model_shapes`."""
    import torch

    with torch.device("meta"):
        return _made(checkpoint)


def own_names(names: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """A checkpoint's names to the model's, without what they may have around them.

    A training's checkpoint has its network in `state_dict`, each name after `module.`; older ones hold the positions of
    BERT's tokens, which are counted now.

    Args:
        names: of the checkpoint.
        wanted: of the model.
    """
    container = "state_dict." if any(name.startswith("state_dict.") for name in names) else ""
    found = {name: name.removeprefix(container) for name in names if name.startswith(container)}
    module = "module." if found and all(short.startswith("module.") for short in found.values()) else ""
    found = {name: short.removeprefix(module) for name, short in found.items()}
    counted_now = {short for short in found.values() if short.endswith(".embeddings.position_ids")} - set(wanted)
    return {name: short for name, short in found.items() if short not in counted_now}


def load_model(checkpoint: OpenClipCheckpoint) -> Any:
    """The checkpoint's model in float32, every tensor of it from the file.

    Raises:
        EncoderError: where it cannot be made, or the file holds other tensors than its own.
    """
    from safetensors.torch import load_file

    wanted = model_shapes(checkpoint)
    names = own_names(list(checkpoint.shapes), list(wanted))
    found = {short: checkpoint.shapes[name] for name, short in names.items()}
    single = {short for short, shape in found.items() if _is_scale(short) and shape in ((), (1,))}
    found |= {short: wanted[short] for short in single & set(wanted)}
    require_tensors(f"{checkpoint.source}: {checkpoint.weight_files[0].name}", "the model", found, wanted)
    model = _made(checkpoint)
    tensors = load_file(checkpoint.weight_files[0])
    model.load_state_dict({short: tensors[name].reshape(wanted[short]) for name, short in names.items()})
    return model


def _is_scale(name: str) -> bool:
    """Whether a tensor is one number, which some releases kept as an array of one."""
    return name in ("logit_scale", "logit_bias")


def _made(checkpoint: OpenClipCheckpoint) -> Any:
    import open_clip

    settings = copy.deepcopy(checkpoint.model_settings)
    vision, text = settings["vision_cfg"], settings["text_cfg"]
    _require_known(checkpoint, vision, text)
    # Their own pretrained weights would be downloaded, to be replaced by the checkpoint's.
    vision["timm_model_pretrained"] = text["hf_model_pretrained"] = False
    custom = settings.pop("custom_text", False) or bool(text.get("hf_model_name"))
    kind = open_clip.CustomTextCLIP if custom else open_clip.CLIP
    with quiet(), _tower_folder(checkpoint, text), as_encoder_error(f"{checkpoint.source}: open_clip cannot make it"):
        return kind(**settings)


def _require_known(checkpoint: OpenClipCheckpoint, vision: dict[str, Any], text: dict[str, Any]) -> None:
    """Raises EncoderError for towers that are not in the libraries, with the names that are most like theirs."""
    image = vision.get("timm_model_name")
    if image:
        import timm

        architecture = str(image).partition(".")[0]
        if not timm.is_model(architecture):
            raise EncoderError(
                f"{checkpoint.source}: {SETTINGS} names the image tower {image}, which timm does not have; "
                f"{nearest(architecture, timm.list_models())}"
            )
    if text.get("hf_model_name"):
        from open_clip.hf_configs import arch_dict

        kind = str(_tower_settings(checkpoint, text["hf_model_name"]).get("model_type"))
        if kind not in arch_dict:
            raise EncoderError(
                f"{checkpoint.source}: {TOWER_SETTINGS} is of a text tower that open_clip does not run "
                f"(model_type {kind}); {nearest(kind, list(arch_dict))}"
            )


def _tower_settings(checkpoint: OpenClipCheckpoint, name: str) -> dict[str, Any]:
    """The settings of a text tower of transformers': from the folder, or as they are known here by its name."""
    path = checkpoint.folder / TOWER_SETTINGS
    settings = read_json(path) if path.is_file() else {}
    if "model_type" in settings or name not in _KNOWN_TOWERS:
        if not settings:
            raise EncoderError(
                f"{checkpoint.source} has no {TOWER_SETTINGS}: put that of its text tower, {name}, beside the weights"
            )
        return settings
    return _KNOWN_TOWERS[name]


@contextlib.contextmanager
def _tower_folder(checkpoint: OpenClipCheckpoint, text: dict[str, Any]) -> Iterator[None]:
    """Inside, a text tower of transformers' is made from a folder that holds its settings alone.

    Neither a name of the Hub is left in the settings, nor the name of code (`auto_map`).
    """
    if not text.get("hf_model_name"):
        yield
        return
    settings = {**_tower_settings(checkpoint, text["hf_model_name"])}
    settings.pop("auto_map", None)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, TOWER_SETTINGS).write_text(json.dumps(settings))
        text["hf_model_name"] = folder
        yield


class Prompts:
    """Prompts to token ids, with open_clip's own tokenizers.

    Args:
        checkpoint: whose text tower reads them.
        vocabulary: how many tokens the text tower knows.

    Raises:
        EncoderError: where the tokenizer is missing, asks for more than its files, or is another model's.
    """

    def __init__(self, checkpoint: OpenClipCheckpoint, vocabulary: int) -> None:
        from open_clip import tokenizer

        self._source, self._context, self._vocabulary = checkpoint.source, checkpoint.context, vocabulary
        text = checkpoint.model_settings["text_cfg"]
        options = {**(text.get("tokenizer_kwargs") or {})}
        mode = text.get("tokenizer_mode")
        self._inner: Any = None
        self._added = 3 if mode == "clips" else 2  # tokens that open_clip puts around a prompt's own
        if checkpoint.reads_with_transformers:
            _require_options(checkpoint, options, mode, ("clean", "strip_sep_token", "language"))
            with quiet(), as_encoder_error(f"{self._source}: its tokenizer cannot be made"):
                options |= {"local_files_only": True, "trust_remote_code": False}
                self._tokenizer = tokenizer.HFTokenizer(
                    str(checkpoint.folder), context_length=self._context, tokenizer_mode=mode, **options
                )
            self._inner = self._tokenizer.tokenizer
            self._added = 3 if mode == "clips" else 0
            known = len(self._inner)
        else:
            _require_options(checkpoint, options, mode, ("clean", "additional_special_tokens"))
            with as_encoder_error(f"{self._source}: its tokenizer cannot be made"):
                self._tokenizer = tokenizer.SimpleTokenizer(context_length=self._context, **options)
            known = self._tokenizer.vocab_size
        if known < _PARTLY * vocabulary:
            raise EncoderError(
                f"{self._source}: its tokenizer has {counted(known, 'token')}, its text tower {vocabulary:,}: a part, "
                "or another model's; put its own tokenizer's files beside the weights"
            )

    @property
    def padding(self) -> int | None:
        """The id that fills up a prompt, of a tokenizer of transformers'."""
        return None if self._inner is None else self._inner.pad_token_id

    def word_ids(self, word: str) -> tuple[int, ...]:
        """The ids of a word alone; none where it is not known."""
        if self._inner is None:
            return tuple(self._tokenizer.encode(word))
        return word_ids(self._inner, word)

    def __call__(self, prompts: Sequence[str], cut: bool, name: str) -> np.ndarray:
        """P prompts to `(P, L)` int64, L = what the text tower reads.

        Raises:
            EncoderError: for a prompt of more tokens, unless it may be cut; and for tokens that the tower has not.
        """
        with quiet(), as_encoder_error(f"{self._source}: its tokenizer fails"):
            ids = [self._ids(prompt) for prompt in prompts]
            require_tokens(prompts, ids, self._ids(""))
            tokens: np.ndarray = self._tokenizer(list(prompts)).numpy()
        for prompt, own in zip(prompts, ids, strict=True):
            length = len(own) + self._added
            if length > self._context and not cut:
                raise EncoderError(
                    f"the prompt {prompt[:40]!r}... has {counted(length, 'token')}, {name} reads {self._context}; "
                    "shorten it, or have zeroshot cut it (`cut_prompts`)"
                )
        if tokens.max(initial=0) >= self._vocabulary:
            raise EncoderError(f"{self._source}: its tokenizer has tokens that its text tower has not: another model's")
        return tokens

    def _ids(self, prompt: str) -> list[int]:
        """A prompt's tokens before any is cut off, without those that open_clip itself puts around it."""
        if self._inner is None:
            found: list[int] = self._tokenizer.encode(prompt)
            return found
        cleaned = self._tokenizer.clean_fn(prompt)
        ids: list[int] = self._inner(cleaned, add_special_tokens=self._added == 0)["input_ids"]
        return ids


def _require_options(checkpoint: OpenClipCheckpoint, options: dict[str, Any], mode: Any, known: Sequence[str]) -> None:
    """Raises EncoderError where a checkpoint asks for a tokenizer that is more than its files."""
    foreign = sorted(set(options) - set(known))
    if foreign:
        raise EncoderError(
            f"{checkpoint.source}: {SETTINGS} gives its tokenizer {foreign[0]}, which is not run here; "
            f"known are {', '.join(known)}"
        )
    if options.get("clean", "lower") not in _CLEANED or mode not in _MODES:
        raise EncoderError(
            f"{checkpoint.source}: {SETTINGS} has a way of cleaning prompts or a mode that open_clip does not have "
            f"(clean {options.get('clean')!r}, tokenizer_mode {mode!r})"
        )
