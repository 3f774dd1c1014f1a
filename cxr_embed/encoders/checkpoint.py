"""A checkpoint's folder in transformers' layout, read without a framework: settings, tensor shapes, identity.

Safetensors only: a pickle is never opened, and no code that lies beside the weights is ever run.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cxr_embed.encoders.digests import folder_digest
from cxr_embed.encoders.hub import CHECKPOINT_FILES, HubModel, cached_folder, hub_folder, local_folder
from cxr_embed.encoders.licences import licence_beside
from cxr_embed.encoders.registry import ENCODERS, encoder_card
from cxr_embed.encoders.repositories import known_facts
from cxr_embed.errors import EncoderError

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
IMAGE_SETTINGS = "preprocessor_config.json"
ALL_SETTINGS = "processor_config.json"  # transformers 5 writes an image processor's settings into this one
TOKENIZER_SETTINGS = "tokenizer_config.json"
TOKENIZER_FILES = (
    TOKENIZER_SETTINGS,
    "tokenizer.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
)
# What sets Gemma's tokenizer apart from that of SigLIP 1 (T5's sentences, whose end and padding are both `</s>`).
_GEMMA_CLASSES = ("GemmaTokenizer", "GemmaTokenizerFast", "Siglip2Tokenizer", "Siglip2TokenizerFast")
_GEMMA_TOKENS = {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"}
_LARGEST_SCALE = 50.0  # CLIP stops at 4.6, the logarithm of 100
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk.

    Attributes:
        folder: where its files lie.
        source: where they came from, for people: `ORG/NAME@COMMIT`, or the folder's name.
    """

    folder: Path
    source: str

    @cached_property
    def config(self) -> dict[str, Any]:
        """The model's settings."""
        return read_json(self.folder / CONFIG)

    @cached_property
    def image_settings(self) -> dict[str, Any]:
        """The image processor's settings.

        Raises:
            EncoderError: where there are none.
        """
        if (self.folder / IMAGE_SETTINGS).is_file():
            return read_json(self.folder / IMAGE_SETTINGS)
        if (self.folder / ALL_SETTINGS).is_file():
            settings = read_json(self.folder / ALL_SETTINGS).get("image_processor")
            if isinstance(settings, dict):
                return settings
        raise EncoderError(
            f"{self.source} has no {IMAGE_SETTINGS}, so no one knows its pixels; "
            f"is it a vision model? (model_type {self.config.get('model_type')})"
        )

    @cached_property
    def weight_files(self) -> list[Path]:
        """The safetensors files.

        Raises:
            EncoderError: where there are pickles only, or a part is missing.
        """
        names = [WEIGHTS]
        if not (self.folder / WEIGHTS).is_file() and (self.folder / INDEX).is_file():
            index = read_json(self.folder / INDEX).get("weight_map")
            names = sorted({str(name) for name in index.values()}) if isinstance(index, dict) else []
            if any(Path(name).name != name for name in names):
                raise EncoderError(f"{self.source}: {INDEX} names files outside its folder; download it again")
        paths = [self.folder / name for name in names]
        missing = [path.name for path in paths if not path.is_file()]
        if paths and not missing:
            return paths
        if missing == [WEIGHTS] and any(list(self.folder.glob(pattern)) for pattern in PICKLES):
            raise EncoderError(
                f"{self.source} holds pickled weights only, which can run code and are not opened; "
                "take a checkpoint that has model.safetensors"
            )
        what = missing[0] if missing else INDEX
        raise EncoderError(f"{self.source}: {what} is missing (half a download?); download it again")

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of all tensors, from the files' headers."""
        return {name: shape for path in self.weight_files for name, shape in tensor_shapes(path).items()}

    @cached_property
    def has_gemma_tokenizer(self) -> bool:
        """Whether its tokenizer is Gemma's: by its class, or by its special tokens where the class is a general one.

        Raises:
            EncoderError: where the tokenizer's settings cannot be read.
        """
        paths = [self.folder / name for name in (TOKENIZER_SETTINGS, "special_tokens_map.json")]
        files = [read_json(path) for path in paths if path.is_file()]
        if any(file.get("tokenizer_class") in _GEMMA_CLASSES for file in files):
            return True
        tokens = {name: value for file in files for name, value in file.items() if name in _GEMMA_TOKENS}
        # A token is a string, or a mapping that has it as `content`.
        plain = {name: value.get("content") if isinstance(value, dict) else value for name, value in tokens.items()}
        return plain == _GEMMA_TOKENS

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """Weights, model settings and tokenizer: what makes image and prompt vectors, given pixels."""
        beside = (self.folder / name for name in (CONFIG, *TOKENIZER_FILES))
        return (*self.weight_files, *(path for path in beside if path.is_file()), *tokenizers_of_releases(self.folder))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over `files`."""
        return folder_digest(self.folder, self.files)

    def scalar(self, name: str) -> float | None:
        """The value of a tensor that holds one number; None where there is no such tensor."""
        if name not in self.shapes:
            return None
        return number_in(next(path for path in self.weight_files if name in tensor_shapes(path)), name)


def find_checkpoint(name: str, weights: str | Path | None) -> Checkpoint:
    """The checkpoint of an encoder: the folder that is named, else the Hub's cache, else a download.

    What the cache holds whole is taken without asking the Hub, so that a run's processes agree and work offline.

    Args:
        name: a name in the encoder table, or `hf:ORG/NAME[@COMMIT]`; without a commit, the newest one, or the one
            that was the newest when it was cached.
        weights: a folder.

    Raises:
        EncoderError: where it cannot be had.
    """
    card = ENCODERS.get(name)
    model = card.hub if card is not None and card.hub is not None else None
    if weights is not None:
        folder = local_folder(Path(weights), model or HubModel(name.removeprefix("hf:"), "main"))
        checkpoint = local_checkpoint(folder)
    else:
        model = model or named_on_hub(name)
        here = cached_folder(model)
        folder = here if here is not None and _is_whole(here) else hub_folder(model)
        checkpoint = Checkpoint(folder, f"{model.repo}@{folder.name}")
    if (folder / "adapter_config.json").is_file():
        raise EncoderError(f"{checkpoint.source} is an adapter to another model; merge the two and save the result")
    checkpoint.weight_files  # noqa: B018 (fails early where there are none)
    return checkpoint


def terms_of(name: str, checkpoint: Checkpoint) -> str:
    """What the licence of a checkpoint binds a user to, in a line; blank where none is known to.

    By the encoder's name, by the folder's, by the card or the licence file in the folder.

    Args:
        name: a name in the encoder table, or `hf:ORG/NAME[@COMMIT]`.
        checkpoint: its checkpoint.
    """
    by_folder = known_facts(checkpoint.folder.resolve().name).get("terms")
    return encoder_card(name).terms or by_folder or licence_beside(checkpoint.folder)


def local_checkpoint(folder: Path) -> Checkpoint:
    """A folder of the user's. One that is not its publisher's says what it is in a file `SOURCE`."""
    note, named = own_note(folder), folder.resolve().name
    return Checkpoint(folder, f"{named}: {note}" if note else named)


def tokenizers_of_releases(folder: Path) -> list[Path]:
    """What takes the place of `tokenizer.json` from some release of transformers on (`tokenizer.4.0.0.json`)."""
    return sorted(folder.glob("tokenizer.*.json"))


def own_note(folder: Path) -> str:
    """What a folder says of itself in a file `SOURCE`; blank without."""
    path = folder / "SOURCE"
    return path.read_text("utf-8", errors="replace").strip() if path.is_file() else ""


def named_on_hub(
    name: str, patterns: tuple[str, ...] = CHECKPOINT_FILES, required: tuple[str, ...] = (CONFIG,)
) -> HubModel:
    """The model that `PREFIX:ORG/NAME[@COMMIT]` names, and the files of it that are wanted.

    Raises:
        EncoderError: for another form, or a branch or a tag in the place of a commit.
    """
    prefix, _, rest = name.partition(":")
    repo, at, commit = rest.partition("@")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
        raise EncoderError(f"{name}: give {prefix}:ORG/NAME as on the Hub, or a folder with `weights`")
    if at and not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise EncoderError(f"{name}: what follows @ is a commit of 40 hexadecimal digits, not a branch or a tag")
    return HubModel(repo, commit or "main", patterns, required)


def _is_whole(folder: Path) -> bool:
    """Whether a cached folder holds all that can be needed. It may hold less after a killed download."""
    checkpoint = Checkpoint(folder, folder.name)
    try:
        checkpoint.weight_files  # noqa: B018
        checkpoint.image_settings  # noqa: B018
    except EncoderError:
        return False
    return "text_config" not in checkpoint.config or (folder / TOKENIZER_SETTINGS).is_file()


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a safetensors file.

    Raises:
        EncoderError: where it is none.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            names = list(file.keys())
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except FileNotFoundError:
        raise EncoderError(f"{path}: no such weights file") from None
    except (SafetensorError, OSError) as error:
        raise EncoderError(f"{path}: not a safetensors file ({error}); pickles are not opened") from None


def number_in(path: Path, name: str) -> float:
    """The value of a tensor of one number in a safetensors file that has it.

    Raises:
        EncoderError: where it is not finite.
    """
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        known = file.get_slice(name).get_dtype() != "BF16"  # which numpy has not
    with safe_open(path, framework="numpy" if known else "pt") as file:
        value = float(file.get_tensor(name).reshape(()))
    if not math.isfinite(value):
        raise EncoderError(f"{path}: {name} is {value}; the file is damaged")
    return value


def scale_of(logarithm: float, where: str) -> float:
    """What cosines are multiplied by, from the logarithm that checkpoints hold (`logit_scale`).

    Args:
        logarithm: the number.
        where: the file, for messages.

    Raises:
        EncoderError: where nothing can be multiplied by it.
    """
    if not logarithm < _LARGEST_SCALE:  # also where it is not a number
        raise EncoderError(f"{where}: logit_scale is {logarithm:g}, the logarithm of no scale; the file is damaged")
    return math.exp(logarithm)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        EncoderError: where the file holds something else.
    """
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise EncoderError(f"{path}: not readable as JSON ({error}); download it again") from None
    if not isinstance(value, dict):
        raise EncoderError(f"{path}: not a JSON object; download it again")
    return value
