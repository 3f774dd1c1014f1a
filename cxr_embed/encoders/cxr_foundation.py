"""google/cxr-foundation (ELIXR v2; Xu et al., 2023, arXiv 2308.01317): images and prompts in one space.

Facts from its public model card, notebooks and serving container (github.com/Google-Health/cxr-foundation, Apache-2.0).
The weights are Google's, under the Health AI Developer Foundations terms.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders.digests import folder_digest
from cxr_embed.encoders.hub import HubModel, cached_folder, hub_folder, local_folder, named_folder
from cxr_embed.encoders.table import encoder_card
from cxr_embed.encoders.tensorflow_process import TensorFlowProcess
from cxr_embed.errors import EncoderError
from cxr_embed.types import CxrImage, EncoderSpec, Precision, TextRule

FOLDER_VARIABLE = "CXR_FOUNDATION_DIR"
ELIXR_C, QFORMER = "elixr-c-v2-pooled", "pax-elixr-b-text"
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
_RECIPES = {
    "notebook": (
        "notebook recipe: grey; 8 bit: minus the minimum, as 8-bit PNG; deeper: minus the minimum, "
        "maximum to 65535, as 16-bit PNG; the model resizes"
    ),
    "serving": (
        "serving recipe: grey; 8 bit: values kept, in a 16-bit PNG; deeper: minimum to 0 and maximum to 65535, "
        "as 16-bit PNG; the model resizes"
    ),
}


class CxrFoundationEncoder:
    """Both towers, in a TensorFlow process that starts with the first batch or prompt."""

    def __init__(
        self,
        name: str,
        *,
        weights: Path | None = None,
        device: str = "auto",
        precision: Precision = "float32",
        threads: int | None = None,
        outputs: Sequence[str] = ("contrastive", "general"),
        pixels: str = "notebook",
    ) -> None:
        if precision != "float32":
            raise EncoderError(f"{name} computes in float32, as it was published; leave out --precision")
        card = encoder_card(name)
        assert card.hub is not None
        named = named_folder(weights, FOLDER_VARIABLE)
        self._folder = models_folder(named, card.hub)
        self._named = named is not None
        towers = (self._folder / ELIXR_C, self._folder / QFORMER)
        shapes = {output: card.outputs[output] for output in outputs}
        self._process = TensorFlowProcess(*towers, device, threads, shapes)
        self._pixels = pixels
        files = [path for tower in towers for path in tower.rglob("*") if path.is_file()]
        note = self._folder / "SOURCE"  # a folder that is not Google's says what it is
        source = f"{card.hub.repo}@{card.hub.revision[:12]}" if named is None else f"{card.hub.repo}, a local folder"
        self._spec = EncoderSpec(
            name=name,
            revision="1",
            preprocessing=_RECIPES[pixels],
            outputs=shapes,
            weights=folder_digest(self._folder, files),
            weights_source=note.read_text().strip() if note.is_file() else source,
            text=TextRule("contrastive", "elixr") if "contrastive" in outputs else None,
        )

    @property
    def spec(self) -> EncoderSpec:
        """What this encoder computes."""
        return self._spec

    @property
    def engine(self) -> str:
        """TensorFlow's version and device."""
        return self._process.engine

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """A PNG file of the pixel recipe, `(bytes,)` uint8."""
        recipe = notebook_pixels if self._pixels == "notebook" else serving_pixels
        return png(recipe(image.pixels))

    def embed(self, batch: np.ndarray | Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """B PNG files to `{output: (B, *shape) float32}`."""
        return self._process.images(batch)  # type: ignore[arg-type]

    def embed_text(self, prompts: Sequence[str]) -> np.ndarray:
        """`(P, 128)` float32: `contrastive_txt_emb` of each prompt.

        Raises:
            EncoderError: for an empty prompt, one of more than 126 word pieces, or a model that returns NaN.
        """
        vectors = self._process.prompts(*tokenize(self._tokenizer, prompts))
        if not np.isfinite(vectors).all():
            bad = prompts[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
            raise EncoderError(f"the model returned values that are not finite for the prompt {bad!r}")
        return vectors

    def close(self) -> None:
        """Ends the TensorFlow process; the next call starts another."""
        self._process.close()

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self._folder if self._named else None)


def models_folder(named: Path | None, hub: HubModel) -> Path:
    """The folder that holds both SavedModels: the one that was named, the Hub's cache, or a download.

    What the cache holds whole is used without asking the network.

    Raises:
        EncoderError: where there is none, or only half of it.
    """
    if named is not None:
        folder = local_folder(named, hub)
    else:
        cached = cached_folder(hub)
        whole = cached is not None and not any(unfinished(cached / tower, True) for tower in (ELIXR_C, QFORMER))
        folder = cached if cached is not None and whole else hub_folder(hub)
    for tower in (ELIXR_C, QFORMER):
        missing = unfinished(folder / tower, False)
        if missing:
            raise EncoderError(f"{folder / tower}: {missing} is missing (half a download?); download {hub.repo} again")
    return folder


def unfinished(folder: Path, strict: bool) -> str:
    """What a SavedModel's folder lacks of its variables, in words; empty where it is whole.

    Args:
        folder: the SavedModel.
        strict: a folder without any variables is unfinished too.
    """
    variables = folder / "variables"
    shards = sorted(variables.glob("variables.data-*-of-*"))
    if not shards and not (variables / "variables.index").is_file():
        return "variables" if strict else ""
    if not (variables / "variables.index").is_file():
        return "variables/variables.index"
    count = int(shards[0].name.rpartition("-")[2]) if shards else 1
    return "" if len(shards) == count else f"a part of variables/variables.data ({len(shards)} of {count} are there)"


def notebook_pixels(pixels: np.ndarray) -> np.ndarray:
    """The notebooks' recipe: `(H, W)` uint8 stays 8 bit and starts at 0; uint16 is stretched to 0..65535.

    Float32 arithmetic and truncation are the notebooks' own.
    """
    if pixels.dtype == np.uint8:
        result: np.ndarray = pixels - pixels.min()
        return result
    shifted = pixels.astype(np.float32)
    shifted -= shifted.min()
    highest = shifted.max()
    if highest > 0:
        shifted *= 65535 / highest
    return shifted.astype(np.uint16)


def serving_pixels(pixels: np.ndarray) -> np.ndarray:
    """The serving container's recipe: uint8 values are kept, in 16 bits; uint16 is stretched to 0..65535."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.uint16)
    low, high = int(pixels.min()), int(pixels.max())
    if low == high:
        return np.zeros_like(pixels)
    stretched: np.ndarray = np.interp(pixels, (low, high), (0, 65535)).astype(np.uint16)
    return stretched


def png(pixels: np.ndarray) -> np.ndarray:
    """`(H, W)` uint8 or uint16 to a grey PNG file, `(bytes,)` uint8.

    Uncompressed: it never leaves this machine's memory, and compressing takes longer than decoding a radiograph.
    """
    from imagecodecs import PNG, png_encode

    return np.frombuffer(png_encode(np.ascontiguousarray(pixels), level=0, filter=PNG.FILTER.NONE), np.uint8)


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


def tokenize(tokenizer: Any, prompts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Token ids `(P, 128)` int32 and paddings `(P, 128)` float32, 1.0 = padding, as the model was trained with.

    Lower-cased word pieces after [CLS]; the closing [SEP] is set to 0 and counts as padding.

    Raises:
        EncoderError: for an empty prompt, or one of more than 126 word pieces.
    """
    ids = np.zeros((len(prompts), TOKENS), np.int32)
    paddings = np.ones((len(prompts), TOKENS), np.float32)
    for row, prompt in enumerate(prompts):
        text = "".join(" " if unicodedata.category(c) == "Cc" else c for c in unicodedata.normalize("NFKC", prompt))
        found = tokenizer(text, split_special_tokens=True)["input_ids"]
        if len(found) <= 2:
            raise EncoderError(f"prompt {row + 1} is empty ({prompt!r})")
        if len(found) > TOKENS:
            raise EncoderError(
                f"prompt {row + 1} has {len(found) - 2} word pieces, the model reads {TOKENS - 2}; "
                f"shorten {prompt[:60]!r}"
            )
        ids[row, : len(found)] = [0 if token == _SEPARATOR else token for token in found]
        paddings[row, : len(found)] = [1.0 if token == _SEPARATOR else 0.0 for token in found]
    return ids, paddings


make = CxrFoundationEncoder
