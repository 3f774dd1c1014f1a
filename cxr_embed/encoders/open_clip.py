"""Checkpoints in open_clip's layout: `biomedclip`, and any CLIP or SigLIP of `open_clip:ORG/NAME` (PE-Core too)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_embed.encoders.checked import chosen_words
from cxr_embed.encoders.checkpoint import scale_of, terms_of
from cxr_embed.encoders.image_tower import ImageTower, TowerEncoder
from cxr_embed.encoders.open_clip_folder import BIOMEDCLIP_SHA256, find_open_clip
from cxr_embed.encoders.pixels import as_uint8
from cxr_embed.encoders.registry import encoder_card
from cxr_embed.encoders.shared import SHARED
from cxr_embed.encoders.torch_runner import TorchRunner, as_encoder_error, require_finite, require_sentences
from cxr_embed.errors import EncoderError
from cxr_embed.grids import Grid
from cxr_embed.types import CxrImage, EncoderSpec, Precision, TextRule, counted

if TYPE_CHECKING:
    from cxr_embed.encoders.open_clip_towers import Prompts
    from cxr_embed.encoders.patches import Patches

_OUTPUT = "image"
_PROMPTS_AT_ONCE = 64
_BIOMEDCLIP_READS = 256


class OpenClipEncoder(TowerEncoder):
    """One checkpoint. Image and text towers load with the first batch and the first prompt, each without the other.

    `image`, `(B, D)`, is what open_clip's `encode_image` gives. Where wanted, also `shared`, `(B, H, W, D)`: patches in
    that space.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        threads: int | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self._checkpoint = find_open_clip(name, weights)
        self._source = self._checkpoint.source
        self.pinned = (BIOMEDCLIP_SHA256,)
        self._recipe = self._checkpoint.recipe
        self._width: int = self._checkpoint.model_settings["embed_dim"]
        self._device, self._precision, self._threads = device, precision, threads
        chosen = chosen_words("outputs", (_OUTPUT,) if outputs is None else outputs, (_OUTPUT, SHARED), name)
        self._cells = self._find_cells() if SHARED in chosen else None
        shapes: dict[str, tuple[int, ...]] = {_OUTPUT: (self._width,)}
        if self._cells is not None:
            shapes[SHARED] = (*self._cells.shape[:2], self._width)
        published = encoder_card(name).outputs
        differ = any(published.get(output) != shape for output, shape in shapes.items())
        if published and (differ or self._checkpoint.context != _BIOMEDCLIP_READS):
            raise EncoderError(
                f"{self._source} is not {name}: its vectors have {counted(self._width, 'number')} and its prompts "
                f"{counted(self._checkpoint.context, 'token')}; run it as open_clip:NAME"
            )
        self._spec = EncoderSpec(
            name=name,
            revision="1",
            preprocessing=self._recipe.words,
            outputs={output: shapes[output] for output in chosen},
            weights=self._checkpoint.digest,
            weights_source=self._source,
            text=self._text_rule(),
            licence=terms_of(name, self._checkpoint),
            grids={SHARED: self._cells.grid} if self._cells is not None else {},
        )

    @property
    def spaces(self) -> dict[str, str]:
        """`shared` lies in the space of `image`."""
        return {SHARED: _OUTPUT}

    def _find_cells(self) -> Patches:
        from cxr_embed.encoders.open_clip_shared import cells_of
        from cxr_embed.encoders.open_clip_towers import empty_model

        return cells_of(empty_model(self._checkpoint).visual, self._recipe, self._source)

    def _text_rule(self) -> TextRule:
        """How images and prompts are compared: a SigLIP's logits have a bias."""
        scale, bias = self._number("logit_scale"), self._number("logit_bias")
        if scale is None:
            raise EncoderError(f"{self._source} is not a whole model: logit_scale is not among its tensors")
        if bias is None:
            return TextRule(_OUTPUT, "clip", scale_of(scale, self._source))
        return TextRule(_OUTPUT, "siglip", scale_of(scale, self._source), bias, "as typed")

    def _number(self, name: str) -> float | None:
        """A tensor of one number, whatever stands around its name; None where there is none."""
        full = next((other for other in self._checkpoint.shapes if f".{other}".endswith(f".{name}")), name)
        if math.prod(self._checkpoint.shapes.get(full, (1,))) != 1:
            raise EncoderError(f"{self._source}: {full} is not one number")
        return self._checkpoint.scalar(full)

    @property
    def files(self) -> list[Path]:
        """What its vectors come from."""
        return list(self._checkpoint.files)

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """`(1, H, W)` uint8: resized and cut; the model makes three channels of it and normalises them."""
        return self._recipe.resized(as_uint8(image.pixels, image.max_value))[None]

    @property
    def frame(self) -> Grid:
        """Where the model's input lies on the picture."""
        return self._recipe.frame

    def embed_text(self, prompts: Sequence[str], *, cut: bool = False) -> np.ndarray:
        """P prompts to `(P, D)` float32, as `encode_text` gives them; with `cut`, of the first tokens of a long one.

        Raises:
            EncoderError: for an empty prompt, or one of more tokens than it reads, unless it may be cut.
        """
        sentences = require_sentences(prompts)
        if not sentences:
            return np.empty((0, self._width), np.float32)
        tokens = self._prompts(sentences, cut, self._spec.name)
        starts = range(0, len(tokens), _PROMPTS_AT_ONCE)
        model = self._text_model
        with as_encoder_error(f"{self._source}: its text tower fails"):
            parts = [self._runner.run(model.encode_text, tokens[at : at + _PROMPTS_AT_ONCE]) for at in starts]
        return require_finite(np.concatenate(parts), self._source)

    def word_ids(self, word: str) -> tuple[int, ...]:
        """The ids of a word alone; none where the tokenizer does not know it."""
        return self._prompts.word_ids(word)

    @cached_property
    def _runner(self) -> TorchRunner:
        return TorchRunner(self._device, self._precision, self._threads)

    def make_tower(self) -> ImageTower:
        """The image tower."""
        return ImageTower(
            self._spec,
            load=self._load_image_model,
            outputs=self._outputs,
            preprocess=self.preprocess,
            main=_OUTPUT,
            width=self._width,
            packages=("open_clip_torch", "timm", "transformers"),
            device=self._device,
            precision=self._precision,
            threads=self._threads,
        )

    def _load_image_model(self) -> Any:
        from cxr_embed.encoders.open_clip_towers import load_model

        return load_model(self._checkpoint).visual

    @cached_property
    def _text_model(self) -> Any:
        from cxr_embed.encoders.open_clip_towers import load_model

        model = load_model(self._checkpoint)
        model.visual = None  # half of the weights need not be on the device
        return self._runner.place(model)

    @cached_property
    def _prompts(self) -> Prompts:
        from cxr_embed.encoders.open_clip_towers import Prompts

        model = self._text_model
        prompts = Prompts(self._checkpoint, model.vocab_size)
        fills = getattr(getattr(getattr(model, "text", None), "config", None), "pad_token_id", None)
        if fills is not None and prompts.padding != fills:  # the tower leaves out what is padding by its own id
            raise EncoderError(
                f"{self._source}: its tokenizer pads with {prompts.padding}, its text tower knows {fills} as padding: "
                "another model's tokenizer"
            )
        return prompts

    def _outputs(self, model: Any, pixels: Any) -> dict[str, Any]:
        """Tensors: `(B, 1, H, W)` uint8 to the vectors `(B, D)`, and to `shared` where it is wanted."""
        if self._cells is None:
            return {_OUTPUT: model(self.normalised(pixels))}
        from cxr_embed.encoders.open_clip_shared import vectors_of

        vectors, shared = vectors_of(model, self.normalised(pixels), self._cells, self._source)
        return {_OUTPUT: vectors, SHARED: shared}

    def normalised(self, pixels: Any) -> Any:
        """Tensors: `(B, 1, H, W)` uint8 to `(B, 3, H, W)` float32."""
        import torch

        mean, deviation = (
            torch.tensor(values, dtype=torch.float32, device=pixels.device)[:, None, None]
            for values in (self._recipe.mean, self._recipe.deviation)
        )
        return (pixels.float() / 255 - mean) / deviation  # (B, 1, H, W) by (3, 1, 1)


make = OpenClipEncoder
