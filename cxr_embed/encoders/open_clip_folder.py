"""A checkpoint's folder in open_clip's layout, read without a framework: settings, tensor shapes, identity.

`open_clip_config.json` has all that the model is, pixels included; a tokenizer's files, and a text tower's own
`config.json`, lie beside it. Nothing is looked for elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from cxr_embed.encoders.checkpoint import (
    PICKLES,
    TOKENIZER_FILES,
    Checkpoint,
    local_checkpoint,
    named_on_hub,
    own_note,
    read_json,
    tokenizers_of_releases,
)
from cxr_embed.encoders.hub import HubModel, cached_folder, hub_folder, local_folder
from cxr_embed.encoders.licences import papers_in
from cxr_embed.encoders.open_clip_pixels import PixelRecipe, pixel_recipe
from cxr_embed.encoders.weights import converted_folder, noted_source
from cxr_embed.errors import EncoderError

SETTINGS = "open_clip_config.json"
WEIGHTS = "open_clip_model.safetensors"
PICKLE = "open_clip_pytorch_model.bin"
TOWER_SETTINGS = "config.json"
_WEIGHTS = (WEIGHTS, "open_clip_pytorch_model.safetensors")
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
# xlm-roberta's tokenizer is in a file that transformers' own layouts here don't have.
_TOKENIZER_FILES = (*TOKENIZER_FILES, "sentencepiece.bpe.model")
_PAPERS = ("README.md", "LICENSE*")  # the head of the first and the second say what binds
# Without a pickle: what is downloaded can be read at once.
_FILES = (SETTINGS, *_WEIGHTS, TOWER_SETTINGS, *_TOKENIZER_FILES, *_PAPERS)
_CONTEXT = 77  # open_clip's, where the settings leave it out
_SIDE = 224  # open_clip's too

BIOMEDCLIP = HubModel(
    "microsoft/BiomedCLIP-PubMedBERT_256-vit_base_patch16_224",
    "9f341de24bfb00180f1b847274256e9b65a3a32e",
    _FILES,
    required=(SETTINGS,),
)
# Of its pickle at that revision, as several users state it independently (783,705,670 bytes). A wrong pin can only
# refuse a file.
BIOMEDCLIP_SHA256 = "52cc993c5c5ff962bd0c60931874bc001e7e9b41666a385530f4a036294576be"


@dataclass(frozen=True)
class OpenClipCheckpoint(Checkpoint):
    """A checkpoint in open_clip's layout.

    Attributes:
        name: of the encoder.
    """

    name: str

    @cached_property
    def config(self) -> dict[str, Any]:
        """The settings of model and pixels."""
        return read_json(self.folder / SETTINGS)

    @cached_property
    def model_settings(self) -> dict[str, Any]:
        """open_clip's `model_cfg`: `embed_dim`, `vision_cfg`, `text_cfg` and what else it has.

        Raises:
            EncoderError: where one of them is missing, or it is a model that is not run here.
        """
        settings = self._part(self.config, "model_cfg")
        if not isinstance(settings.get("embed_dim"), int):
            raise EncoderError(f"{self.source}: {SETTINGS} does not say how wide its vectors are (`embed_dim`)")
        for part in ("vision_cfg", "text_cfg"):
            self._part(settings, part)
        if "multimodal_cfg" in settings:
            raise EncoderError(f"{self.source} is a CoCa model, which writes captions too; these are not run here")
        return settings

    @cached_property
    def recipe(self) -> PixelRecipe:
        """How its pixels are made."""
        image_size = self.model_settings["vision_cfg"].get("image_size", _SIDE)
        return pixel_recipe(self._part(self.config, "preprocess_cfg"), image_size, f"{self.source}: {SETTINGS}")

    @cached_property
    def context(self) -> int:
        """How many tokens its text tower reads."""
        length = self.model_settings["text_cfg"].get("context_length", _CONTEXT)
        if type(length) is not int or length < 4:
            raise EncoderError(f"{self.source}: {SETTINGS} has a `context_length` of {length!r}")
        return length

    @cached_property
    def weight_files(self) -> list[Path]:
        """The safetensors file.

        Raises:
            EncoderError: where there is none; with the command that makes one, where there is a pickle.
        """
        paths = [self.folder / name for name in _WEIGHTS if (self.folder / name).is_file()]
        if paths:
            return paths[:1]
        pickles = sorted(path for pattern in PICKLES for path in self.folder.glob(pattern))
        if pickles:
            raise EncoderError(
                f"{self.source} holds pickled weights only ({pickles[0].name}), which can run code and are not "
                f"opened; run\n  cxr-embed weights convert {self.name} {pickles[0]}"
            )
        raise EncoderError(
            f"{self.source}: {WEIGHTS} is missing; get it, or {PICKLE} for `cxr-embed weights convert {self.name}`"
        )

    @cached_property
    def companions(self) -> list[Path]:
        """All of its other files that decide on vectors, if given the pixels.

        A tower of transformers' is made by `config.json`, and its tokenizer's class is looked for there too.
        """
        text = self.model_settings["text_cfg"]
        tower = [TOWER_SETTINGS] if text.get("hf_model_name") or text.get("hf_tokenizer_name") else []
        names = [SETTINGS, *tower, *_TOKENIZER_FILES]
        files = [self.folder / name for name in names if (self.folder / name).is_file()]
        return [*files, *tokenizers_of_releases(self.folder)]

    @property
    def papers(self) -> list[Path]:
        """Its model card and licence."""
        return papers_in(self.folder)

    @cached_property
    def files(self) -> tuple[Path, ...]:
        """Weights, settings and tokenizer: what makes image and prompt vectors, given pixels."""
        return (*self.weight_files, *self.companions)

    @property
    def reads_with_transformers(self) -> bool:
        """Whether its tokenizer is one of transformers'; else it is CLIP's own, which open_clip has with its words.

        Raises:
            EncoderError: where its vocabulary is missing: transformers would make a tokenizer that knows no word.
        """
        text = self.model_settings["text_cfg"]
        tokenizer, tower = text.get("hf_tokenizer_name"), text.get("hf_model_name")
        if tower and not tokenizer:
            raise EncoderError(f"{self.source}: {SETTINGS} names a text tower, {tower}, and no `hf_tokenizer_name`")
        if tokenizer and not any((self.folder / name).is_file() for name in _VOCABULARIES):
            raise EncoderError(
                f"{self.source} has no {_VOCABULARIES[0]}, nor {', '.join(_VOCABULARIES[1:-1])} or "
                f"{_VOCABULARIES[-1]}; its text tower knows no word without; put the files of {tokenizer}'s tokenizer "
                "beside the weights"
            )
        return bool(tokenizer)

    def _part(self, settings: dict[str, Any], name: str) -> dict[str, Any]:
        part = settings.get(name)
        if not isinstance(part, dict):
            raise EncoderError(f"{self.source}: {SETTINGS} has no `{name}`; download it again")
        return part


def find_open_clip(name: str, weights: str | Path | None) -> OpenClipCheckpoint:
    """The checkpoint of an encoder: the folder that is named, else one converted here, else the Hub's.

    What the Hub's cache holds whole is taken without asking the Hub.

    Args:
        name: `biomedclip` or `open_clip:ORG/NAME[@COMMIT]`.
        weights: a folder.

    Raises:
        EncoderError: where it cannot be had, or is not whole.
    """
    checkpoint = _named(name, weights) or _converted(name) or _on_hub(name)
    checkpoint.model_settings, checkpoint.recipe, checkpoint.context  # noqa: B018 (fail early where they are not there)
    checkpoint.reads_with_transformers, checkpoint.weight_files  # noqa: B018
    return checkpoint


def _named(name: str, weights: str | Path | None) -> OpenClipCheckpoint | None:
    if weights is None:
        return None
    if Path(weights).is_file():
        raise EncoderError(f"{weights}: not a folder; `weights` of {name} is one that holds {SETTINGS} and {WEIGHTS}")
    folder = local_folder(Path(weights), HubModel(name.removeprefix("open_clip:"), "main", required=(SETTINGS,)))
    source = local_checkpoint(folder).source if own_note(folder) else _noted(folder) or folder.resolve().name
    return OpenClipCheckpoint(folder, source, name)


def _converted(name: str) -> OpenClipCheckpoint | None:
    folder = converted_folder(name)
    return OpenClipCheckpoint(folder, _noted(folder) or folder.name, name) if (folder / SETTINGS).is_file() else None


def _noted(folder: Path) -> str:
    """Where the weights of a folder came from by their own note, which `weights convert` writes; blank without."""
    return next((noted_source(folder / file) for file in _WEIGHTS if (folder / file).is_file()), "")


def _on_hub(name: str) -> OpenClipCheckpoint:
    if name == "biomedclip":
        raise EncoderError(_where_biomedclip_is())
    model = named_on_hub(name, _FILES, (SETTINGS,))
    here = cached_folder(model)
    folder = here if here is not None and _is_whole(here) else hub_folder(model)
    return OpenClipCheckpoint(folder, f"{model.repo}@{folder.name}", name)


def _is_whole(folder: Path) -> bool:
    """Whether a cached folder holds all that can be needed. It may hold less after a killed download."""
    checkpoint = OpenClipCheckpoint(folder, folder.name, "")
    try:
        checkpoint.weight_files, checkpoint.reads_with_transformers  # noqa: B018
    except EncoderError:
        return False
    return True


def _where_biomedclip_is() -> str:
    cached = cached_folder(BIOMEDCLIP)
    if cached is not None and (cached / PICKLE).is_file():
        return (
            "the Hub's cache holds biomedclip as a pickle, which can run code and is not opened; run\n"
            f"  cxr-embed weights convert biomedclip {cached / PICKLE}"
        )
    return (
        f"no weights for biomedclip here ({converted_folder('biomedclip')}). Download the files of "
        f"https://huggingface.co/{BIOMEDCLIP.repo} into one folder and run\n"
        f"  cxr-embed weights convert biomedclip FOLDER/{PICKLE}"
    )
