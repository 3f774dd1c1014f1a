"""Checkpoints in transformers' layout: `medsiglip-448`, `rad-dino`, and any CLIP, SigLIP or vision model of the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cxr_embed.encoders.checked import chosen_words
from cxr_embed.encoders.checkpoint import Checkpoint, find_checkpoint, scale_of, terms_of
from cxr_embed.encoders.image_tower import ImageTower, TowerEncoder
from cxr_embed.encoders.patches import PATCHES, Patches, checkpoint_patches, processor_frame
from cxr_embed.encoders.pixels import as_uint8, pad_to_square, tf_resize
from cxr_embed.encoders.plain_pixels import Pixels, Recipe, plain_pixels, processor_recipe
from cxr_embed.encoders.registry import encoder_card
from cxr_embed.encoders.shared import SHARED, of_clip, of_siglip
from cxr_embed.encoders.torch_runner import (
    TorchRunner,
    as_encoder_error,
    require_finite,
    require_sentences,
    require_tokens,
)
from cxr_embed.encoders.transformers_loading import (
    class_width,
    load_image_processor,
    load_model,
    load_tokenizer,
    quiet,
    word_ids,
)
from cxr_embed.errors import EncoderError
from cxr_embed.grids import Grid
from cxr_embed.io.digests import canonical_json
from cxr_embed.types import CxrImage, EncoderSpec, Precision, TextRule, counted

# Where a dual encoder's tensors say how wide its vectors are, and how many tokens it reads.
_IMAGE_WIDTH = {"clip": "visual_projection.weight", "siglip": "vision_model.head.mlp.fc2.weight"}
# Model types whose vector is the class token of their normalised tokens, in one space with the patches beside it.
_CLASS_TOKEN = ("dinov2", "dinov2_with_registers", "dinov3_vit")
_POSITIONS = "text_model.embeddings.position_embedding.weight"
_PROMPTS_AT_ONCE = 64

_EIGHT_BITS = "grey as 8 bits, 0..max to 0..255, half up"
_TF_RESIZE = (
    "resize to {side} x {side} as tf.image.resize (bilinear, half-pixel centres, no antialiasing), fractions cut off; "
    "to [-1, 1]; three equal channels"
)


@dataclass(frozen=True)
class _Model:
    """What a checkpoint's settings and headers say about it. `text` is None for a model that only sees."""

    output: str
    width: int
    text: TextRule | None = None


def _describe(checkpoint: Checkpoint) -> _Model:
    """The model in a checkpoint, as far as it is known without loading it.

    Raises:
        EncoderError: where it is none that this module runs.
    """
    config = checkpoint.config
    model_type = str(config.get("model_type"))
    if model_type in ("clip", "siglip"):
        kind: Literal["clip", "siglip"] = "clip" if model_type == "clip" else "siglip"
        scale = checkpoint.scalar("logit_scale")
        absent = {_IMAGE_WIDTH[kind], _POSITIONS} - set(checkpoint.shapes)
        if scale is None or absent:
            what = sorted(absent)[0] if absent else "logit_scale"
            raise EncoderError(f"{checkpoint.source} is not a whole {kind} model: {what} is not among its tensors")
        rule = TextRule(
            "image",
            kind,
            scale_of(scale, checkpoint.source),
            checkpoint.scalar("logit_bias") or 0.0,
            _words(checkpoint, kind),
        )
        return _Model("image", checkpoint.shapes[_IMAGE_WIDTH[kind]][0], rule)
    if "text_config" in config or "vision_config" in config:
        raise EncoderError(
            f"{checkpoint.source} is a {model_type} model; of models with text only clip and siglip are run here"
        )
    checkpoint.image_settings  # noqa: B018 (a model without them sees nothing)
    sizes = config.get("hidden_sizes")
    last = sizes[-1] if isinstance(sizes, list) and sizes else None
    width = config.get("hidden_size") or config.get("hidden_dim") or last or class_width(checkpoint)
    if not isinstance(width, int):
        raise EncoderError(f"{checkpoint.source} ({model_type}): its settings do not say how wide its vectors are")
    return _Model("pooled", width)


def _words(checkpoint: Checkpoint, kind: str) -> Literal["", "as typed", "lower"]:
    """How prompts are spelled for the checkpoint.

    SigLIP 2's checkpoints of one picture size call themselves `siglip`, like those of SigLIP 1, so the tokenizer tells
    them apart. Gemma's minds capitals, and the model learned from captions in lower case (Big Vision's SigLIP 2
    notebook, https://github.com/google-research/big_vision/issues/166).
    """
    if kind != "siglip":
        return ""
    return "lower" if checkpoint.has_gemma_tokenizer else "as typed"


def lower_case(prompt: str) -> str:
    """A prompt in lower case letter by letter, as the tokenizers library has it: Python's own looks at neighbours."""
    return "".join(letter.lower() for letter in prompt)


class TransformersEncoder(TowerEncoder):
    """One checkpoint. Image and text models load with the first batch and the first prompt, each without the other."""

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        threads: int | None = None,
        pixels: str | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self._checkpoint = find_checkpoint(name, weights)
        self._source = self._checkpoint.source
        self.files = self._checkpoint.files
        self._model = _describe(self._checkpoint)
        self._pixels = pixels or "processor"
        self._device, self._precision, self._threads = device, precision, threads
        shapes: dict[str, tuple[int, ...]] = {self._model.output: (self._model.width,)}
        self._require(name, shapes)
        wanted = (self._model.output,) if outputs is None else outputs
        grids = (PATCHES, SHARED) if self._model.text is not None else (PATCHES,)
        chosen = chosen_words("outputs", wanted, (self._model.output, *grids), name)
        self._grids = tuple(output for output in grids if output in chosen)
        self._patches = self._find_patches() if self._grids else None
        if self._patches is not None:
            rows, columns, _ = self._patches.shape
            known = {PATCHES: self._patches.shape, SHARED: (rows, columns, self._model.width)}
            shapes |= {output: known[output] for output in self._grids}
            self._require(name, shapes)
        self._spec = EncoderSpec(
            name=name,
            revision="1",
            preprocessing=self._recipe(),
            outputs={output: shapes[output] for output in chosen},
            weights=self._checkpoint.digest,
            weights_source=self._source,
            text=self._model.text,
            licence=terms_of(name, self._checkpoint),
            grids=dict.fromkeys(self._grids, self._patches.grid) if self._patches is not None else {},
        )

    @property
    def spaces(self) -> dict[str, str]:
        """`shared`, made so; and a DINO's patches, which are normalised beside the class token that is its vector."""
        if self._model.text is not None:
            return {SHARED: self._model.output}
        return {PATCHES: self._model.output} if self._checkpoint.config.get("model_type") in _CLASS_TOKEN else {}

    def _require(self, name: str, shapes: dict[str, tuple[int, ...]]) -> None:
        """Refuses outputs that are not those of the encoder that the table has by this name."""
        published = encoder_card(name).outputs
        if published and any(published.get(output) != shape for output, shape in shapes.items()):
            raise EncoderError(f"{self._source} is not {name}: it gives {shapes}, not {published}; run it as hf:NAME")

    def _find_patches(self) -> Patches:
        """The patches of the model on its pixels.

        Raises:
            EncoderError: where it has none, or nobody knows where they lie.
        """
        pixels = self._input_size if self._pixels == "processor" else (self._side, self._side)
        return checkpoint_patches(self._checkpoint, pixels, self.frame)

    @property
    def frame(self) -> Grid:
        """Where the model's input lies on the picture; raises EncoderError where its processor does not say it."""
        if self._pixels == "processor":
            return processor_frame(self._processor, self._input_size, self._source)
        return Grid("around" if self._pixels == "pad" else "whole")

    @cached_property
    def _input_size(self) -> tuple[int, int]:
        """Height and width of what the processor gives of a picture."""
        given = self.preprocess(CxrImage(pixels=np.zeros((64, 80), np.uint8), bits=8, content_id="", source="png"))
        return given.shape[1], given.shape[2]

    def _recipe(self) -> str:
        if self._pixels == "processor":
            settings = canonical_json(self._checkpoint.image_settings).decode()
            return f"{_EIGHT_BITS}; three equal channels; transformers' image processor (PIL where it can): {settings}"
        around = "zeros around it to a square; " if self._pixels == "pad" else ""
        return f"{_EIGHT_BITS}; {around}{_TF_RESIZE.format(side=self._side)}"

    @cached_property
    def _side(self) -> int:
        side = self._checkpoint.config.get("vision_config", {}).get("image_size")
        if not isinstance(side, int):
            raise EncoderError(f"{self._source}: its config.json does not say the side of its pictures")
        return side

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """`(3, S, S)` float32 from the checkpoint's processor; `(1, S, S)` uint8 by the other recipes."""
        grey = as_uint8(image.pixels, image.max_value)
        if self._pixels == "processor":
            return self._processed(grey)
        square = pad_to_square(grey) if self._pixels == "pad" else grey
        # Cut, not rounded: Google's notebook and Big Vision cast to uint8.
        return tf_resize(square, self._side).astype(np.uint8)[None]

    @cached_property
    def _processed(self) -> Pixels:
        """Grey 8 bits to the model's input: transformers' image processor, or the same without transformers."""
        what = {"transformers": self._checkpoint.image_settings, "config": self._checkpoint.config}

        def recipe() -> Recipe | None:
            return processor_recipe(self._processor)

        return plain_pixels(what, ("transformers",), recipe, self._by_processor) or self._by_processor

    def _by_processor(self, grey: np.ndarray) -> np.ndarray:
        from PIL import Image

        rgb = Image.fromarray(grey).convert("RGB")
        with as_encoder_error(f"{self._source}: its image processor fails"):
            values = self._processor(images=rgb, return_tensors="np")["pixel_values"]
        return np.ascontiguousarray(np.asarray(values)[0], dtype=np.float32)

    def embed(self, batch: np.ndarray | Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """`(B, C, S, S)` as `preprocess` gives it to `{"image" or "pooled": (B, D) float32}`.

        Where wanted, also `patches`, `(B, H, W, D)`: `last_hidden_state` without the other tokens. SigLIP, DINOv2,
        DINOv3, ViT and DeiT normalise it; CLIP does not, and its projection to the space of words is not applied. And
        `shared`, `(B, H, W, D)`: the patches in that space.
        """
        if not isinstance(batch, np.ndarray):
            raise EncoderError(
                f"{self._source}: its image processor gives pictures of several sizes; "
                "set a fixed size, or a crop, in its preprocessor_config.json"
            )
        return super().embed(batch)

    def embed_text(self, prompts: Sequence[str], *, cut: bool = False) -> np.ndarray:
        """P prompts to `(P, D)` float32; with `cut`, of the first tokens of one that has too many.

        Raises:
            EncoderError: for a checkpoint without text, an empty prompt, or one of more tokens than it reads, unless
                it may be cut.
        """
        if self._model.text is None:
            raise EncoderError(f"{self._spec.name} embeds no prompts: its checkpoint has no text side")
        sentences = require_sentences(prompts)
        if not sentences:
            return np.empty((0, self._model.width), np.float32)
        tokens = self._tokens(sentences, cut)
        starts = range(0, len(tokens), _PROMPTS_AT_ONCE)
        parts = [self._embed_tokens(tokens[at : at + _PROMPTS_AT_ONCE]) for at in starts]
        return require_finite(np.concatenate(parts), self._source)

    def word_ids(self, word: str) -> tuple[int, ...]:
        """The ids of a word alone; none where the tokenizer does not know it."""
        return word_ids(self._tokenizer, word)

    @property
    def _lower(self) -> bool:
        return self._model.text is not None and self._model.text.words == "lower"

    @cached_property
    def _processor(self) -> Any:
        return load_image_processor(self._checkpoint)

    @cached_property
    def _tokenizer(self) -> Any:
        return load_tokenizer(self._checkpoint)

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
            main=self._model.output,
            width=self._model.width,
            packages=("transformers",),
            device=self._device,
            precision=self._precision,
            threads=self._threads,
        )

    def _load_image_model(self) -> Any:
        model = load_model(self._checkpoint)
        if self._model.text is not None:
            model.text_model = None  # half of the weights need not be on the device
        elif getattr(model, "main_input_name", "") != "pixel_values":
            raise EncoderError(f"{self._source} is not a vision model but a {type(model).__name__}")
        return model

    @cached_property
    def _text_model(self) -> Any:
        model = load_model(self._checkpoint)
        model.vision_model = None
        return self._runner.place(model)

    @cached_property
    def _levels(self) -> Any:
        """What 8 bits are to the model, `(256,)`: looked up, since OpenVINO would round a division otherwise."""
        import torch

        return torch.arange(256, dtype=torch.float32) / 127.5 - 1

    def _outputs(self, model: Any, pixels: Any) -> dict[str, Any]:
        """Tensors: `(B, C, S, S)` to the vectors `(B, D)`, and to the patches where they are wanted."""
        if pixels.shape[1] == 1:
            pixels = self._levels.to(pixels.device)[pixels.long()].expand(-1, 3, -1, -1)
        run = partial(model.get_image_features if self._model.text is not None else model, pixel_values=pixels)
        found, cells = {}, self._patches
        if cells is not None and SHARED in self._grids:
            shared = of_clip if self._kind == "clip" else of_siglip
            output, found[SHARED] = shared(model, run, cells, self._source)
        else:
            output = run()
        found[self._model.output] = self._vectors(output)
        if cells is not None and PATCHES in self._grids:
            found[PATCHES] = cells.of(output.last_hidden_state, self._source)
        return found

    @property
    def _kind(self) -> str:
        return self._model.text.kind if self._model.text is not None else ""

    def _vectors(self, output: Any) -> Any:
        """Tensors: what the model gave to `(B, D)`."""
        pooled = getattr(output, "pooler_output", None)
        if pooled is not None:
            return pooled.flatten(1)
        if any(name.endswith(("cls_token", "class_embedding")) for name in self._checkpoint.shapes):
            return output.last_hidden_state[:, 0]
        raise EncoderError(f"{self._source} has neither a pooled output nor a class token")

    def _tokens(self, prompts: list[str], cut: bool) -> list[list[int]]:
        limit = self._checkpoint.shapes[_POSITIONS][0]
        words = [lower_case(prompt) for prompt in prompts] if self._lower else prompts
        with quiet():  # the tokenizer knows which of its own tokens must stay at the end
            shorter = {"truncation": True, "max_length": limit} if cut else {}
            tokens: list[list[int]] = self._tokenizer(words, **shorter)["input_ids"]
            require_tokens(prompts, tokens, self._tokenizer("")["input_ids"])
        for prompt, ids in zip(prompts, tokens, strict=True):
            if len(ids) > limit:
                raise EncoderError(
                    f"the prompt {prompt[:40]!r}... has {counted(len(ids), 'token')}, {self._spec.name} reads {limit}; "
                    "shorten it, or have zeroshot cut it (`cut_prompts`)"
                )
        return tokens

    def _embed_tokens(self, tokens: list[list[int]]) -> np.ndarray:
        """SigLIP was trained on prompts padded to its full length and without a mask, CLIP with one."""
        full = self._model.text is not None and self._model.text.kind == "siglip"
        padding = {"padding": "max_length", "max_length": self._checkpoint.shapes[_POSITIONS][0]} if full else {}
        # SigLIP's vector is the last position's; Gemma pads on the left unless its settings say otherwise.
        padding |= {"padding_side": "right"} if self._lower else {}
        with as_encoder_error(f"{self._source}: its prompts cannot be padded"):
            padded = self._tokenizer.pad({"input_ids": tokens}, **padding)
        names = ["input_ids"] if full else ["input_ids", "attention_mask"]
        arrays = [np.asarray(padded[name], dtype=np.int64) for name in names]
        model = self._text_model
        return self._runner.run(
            lambda *tensors: model.get_text_features(**dict(zip(names, tensors, strict=True))).pooler_output, *arrays
        )


make = TransformersEncoder
