"""BioViL-T (Bannur et al., 2023, arXiv 2301.04558): one radiograph at a time, and CXR-BERT's words.

Its image weights are published as a pickle, which `weights convert` makes a safetensors file of; its text weights as
safetensors with code beside them, which is never run.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders.checkpoint import CONFIG, Checkpoint, local_checkpoint, terms_of
from cxr_embed.encoders.conversion import Converted, all_matching, network_tensors, tensors_of
from cxr_embed.encoders.digests import remembered_sha256
from cxr_embed.encoders.dual import DualEncoder, filled, shapes_of, tensors_in
from cxr_embed.encoders.hub import HubModel, cached_folder, hub_folder, local_folder
from cxr_embed.encoders.pixels import centre_of
from cxr_embed.encoders.registry import encoder_card
from cxr_embed.encoders.shared import SHARED
from cxr_embed.encoders.torch_runner import as_encoder_error
from cxr_embed.encoders.weights import noted_source, weights_path
from cxr_embed.errors import EncoderError
from cxr_embed.grids import Grid, middle
from cxr_embed.io.digests import json_digest
from cxr_embed.types import CxrImage, EncoderSpec, Precision, TextRule

PUBLISHED = "biovil_t_image_model_proj_size_128.pt"
# Of the Hub's page of the file.
_KNOWN = {
    "b2399d73dc2a68b9f3a1950e864ae0ecd24093fb07aa459d7e65807ebdc0fb77": f"microsoft/BiomedVLP-BioViL-T, {PUBLISHED}"
}
SHORTER, SIDE = 512, 448
CELLS, FEATURES, WIDTH = 14, 512, 128  # of the map on a side, of its channels, of the space of words
_IMAGE, _TEXT = "BioViL-T's image tower", "CXR-BERT"
_CLASSIFIER = "encoder.encoder.fc."  # ImageNet's, behind the ResNet; nothing reads it
_STEM = "encoder.missing_previous_emb"  # no other network has it
_POOLER = "encoder.vit_pooler."  # for pairs of images
_UNUSED_TEXT = ("cls.predictions.", "bert.pooler.", "bert.embeddings.position_ids")
_WORDS = "vocab.txt"
_BERT = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
)


def convert_biovil_t(path: Path, sha256: str | None) -> Converted:
    """The published image weights as they are named, the pooler for pairs of images included.

    Args:
        path: the published file.
        sha256: what its publisher says of it.

    Raises:
        EncoderError: where it cannot be read, has another digest, or is not a whole image tower of BioViL-T.
    """
    published, source = tensors_of(path, sha256, _KNOWN)
    tensors = network_tensors(published, _STEM, path, _IMAGE)
    found = {name: values for name, values in tensors.items() if not name.startswith(_CLASSIFIER)}
    return Converted(all_matching(path, _IMAGE, found, {**shapes_of(_image_tower()), **_pooler_shapes()}), source)


def _pooler_shapes() -> dict[str, tuple[int, ...]]:
    """Of the transformer that compares an image with a previous one: three blocks of width 256."""
    wide, shapes = 256, {"type_embed": (2, 1, 256), "norm_post.weight": (256,), "norm_post.bias": (256,)}
    for block in range(3):
        at = f"blocks.{block}"
        for part in ("norm1", "norm2"):
            shapes |= {f"{at}.{part}.weight": (wide,), f"{at}.{part}.bias": (wide,)}
        for part in ("attn.proj_q", "attn.proj_k", "attn.proj_v", "attn.proj", "mlp.fc1", "mlp.fc2"):
            shapes[f"{at}.{part}.weight"] = (wide, wide)
        for part in ("attn.proj", "mlp.fc1", "mlp.fc2"):
            shapes[f"{at}.{part}.bias"] = (wide,)
    return {_POOLER + name: shape for name, shape in shapes.items()}


def stretched(pixels: np.ndarray) -> np.ndarray:
    """`(H, W)` whole numbers to uint8: the lowest to 0, the highest to 255, fractions cut off; a flat picture to 0."""
    lowest, highest = int(pixels.min()), int(pixels.max())
    levels = np.arange(highest - lowest + 1, dtype=np.float64)
    if highest > lowest:
        levels = levels / levels[-1] * 255
    eight: np.ndarray = levels.astype(np.uint8)[pixels - pixels.dtype.type(lowest)]
    return eight


class BiovilTEncoder(DualEncoder):
    """A folder as it is published, the converted image weights in it or in the weights folder."""

    _map_layer = "encoder.encoder"  # the ResNet's: `features` do not see the projected map, which is the last

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        threads: int | None = None,
        outputs: Sequence[str] = ("features", "image"),
    ) -> None:
        self._text = _text_checkpoint(name, weights)
        self._image_file = _image_file(name, self._text.folder)
        self._bert = _bert_settings(self._text)
        image_source = noted_source(self._image_file) or self._image_file.name
        widths = {"features": FEATURES, "image": WIDTH}
        shapes = {**{output: (width,) for output, width in widths.items()}, SHARED: (CELLS, CELLS, WIDTH)}
        beside = [self._text.folder / part for part in (CONFIG, _WORDS)]
        spec = EncoderSpec(
            name=name,
            revision="1",
            preprocessing=(
                f"lowest to highest as 0..255, cut off; shorter side to {SHORTER} (Pillow, bilinear); centre "
                f"{SIDE} x {SIDE}; three equal channels of 0 to 1; no previous image"
            ),
            outputs={output: shapes[output] for output in outputs},
            weights=json_digest({"image": remembered_sha256(self._image_file), "text": self._text.digest}),
            weights_source=f"{image_source}; text: {self._text.source}",
            text=TextRule("image", "cosine") if "image" in outputs else None,
            licence=terms_of(name, self._text),
            grids={SHARED: Grid("inside", middle(SIDE / SHORTER))} if SHARED in outputs else {},
        )
        super().__init__(
            spec,
            tower_outputs=widths,
            vocabulary=self._bert["vocab_size"],
            limit=self._bert["max_position_embeddings"],
            files=[self._image_file, *self._text.weight_files, *beside],
            device=device,
            precision=precision,
            threads=threads,
        )

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """`(1, 448, 448)` uint8; the tower makes 0 to 1 of it."""
        return centre_of(stretched(image.pixels), SHORTER, SIDE, "bilinear")[None]

    @property
    def means(self) -> dict[str, str]:
        """`image` is the mean of `shared`."""
        return {"image": SHARED}

    @property
    def spaces(self) -> dict[str, str]:
        """So `shared` lies in its space."""
        return {SHARED: "image"}

    def _outputs(self, tower: Any, pixels: Any) -> dict[str, Any]:
        if SHARED not in self._spec.outputs:
            return super()._outputs(tower, pixels)
        both, shared = tower.maps(pixels)
        means = {"features": both.float().mean((2, 3)), "image": shared.float().mean((2, 3))}
        return {**means, SHARED: shared.permute(0, 2, 3, 1)}

    @property
    def frame(self) -> Grid:
        """Where the model's input lies on the picture."""
        return Grid("inside", middle(SIDE / SHORTER))

    def load_image_tower(self) -> Any:
        """With all of its tensors from the converted file."""
        tensors = tensors_in([self._image_file], lambda name: not name.startswith(_POOLER))
        return filled(_image_tower(), tensors, self._image_file, _IMAGE)

    def load_text_tower(self) -> Any:
        """With all of its tensors from the folder."""
        from cxr_embed.encoders.biovil_t_towers import TextTower

        with as_encoder_error(f"{self._text.source}: its config.json describes no BERT"):
            tower = TextTower(self._bert)
        tensors = tensors_in(self._text.weight_files, lambda name: not name.startswith(_UNUSED_TEXT))
        return filled(tower, tensors, self._text.weight_files[0], _TEXT)

    def load_tokenizer(self) -> Any:
        """BERT's, by the folder's vocabulary; capitals mean nothing to it."""
        from transformers import BertTokenizer

        return BertTokenizer(vocab=str(self._text.folder / _WORDS), do_lower_case=True)

    def read_as(self, prompt: str) -> str:
        """Without what ends a sentence, as its authors embed prompts.

        Raises:
            EncoderError: where it has a token that is no word, e.g. `[CLS]`.
        """
        found = re.search(r"\[(?:CLS|SEP|PAD|UNK)\]", prompt)
        if found:
            raise EncoderError(f"the prompt {prompt[:40]!r} has {found[0]}, which is no word to {self._spec.name}")
        return prompt.rstrip("!?.")


def _text_checkpoint(name: str, weights: str | Path | None) -> Checkpoint:
    model = encoder_card(name).hub
    assert isinstance(model, HubModel)
    if weights is not None:
        folder = local_folder(Path(weights), model)
        return local_checkpoint(folder)
    folder = cached_folder(model) or hub_folder(model)
    return Checkpoint(folder, f"{model.repo}@{folder.name}")


def _image_file(name: str, folder: Path) -> Path:
    """The converted image weights: in the folder, else where `weights convert` writes them.

    Raises:
        EncoderError: where they are in neither, with the command that makes them.
    """
    places = [(folder / PUBLISHED).with_suffix(".safetensors"), weights_path(name)]
    for path in places:
        if path.is_file():
            return path
    beside = folder / PUBLISHED
    pickle = str(beside) if beside.is_file() else PUBLISHED
    raise EncoderError(
        f"no image weights for {name} here ({places[1]}); of {PUBLISHED}, which lies beside its text weights on the "
        f"Hub, make them with\n  cxr-embed weights convert {name} {pickle}"
    )


def _bert_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """What the text tower is built by.

    Raises:
        EncoderError: where settings are missing, or words would lie in another space than images.
    """
    config = checkpoint.config
    missing = [key for key in _BERT if key not in config]
    if missing or config.get("projection_size") != WIDTH:
        what = f"has no {missing[0]}" if missing else f"projects words to {config.get('projection_size')}, not {WIDTH}"
        raise EncoderError(f"{checkpoint.source} is not BioViL-T's text tower: its config.json {what}")
    return {key: config[key] for key in _BERT}


def _image_tower() -> Any:
    import torch

    from cxr_embed.encoders.biovil_t_towers import ImageTower

    with torch.device("meta"):
        return ImageTower()


make = BiovilTEncoder
