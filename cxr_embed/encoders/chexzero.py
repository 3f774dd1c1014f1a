"""CheXzero (Tiu et al., 2022, doi 10.1038/s41551-022-00936-9): CLIP's ViT-B/32, learned on from reports of MIMIC-CXR.

Weights and code: https://github.com/rajpurkarlab/CheXzero (MIT). Pixels are those of its evaluation, step by step: a
Lanczos resize of the longer side to 320 and zeros around it, their mean and deviation, then torch's bicubic resize of
the numbers to 224, without antialiasing, as the torchvision of its requirements (0.11) has it. Its published figures
are means over ten checkpoints; one of them is an encoder here. Its words are CLIP's, from the vocabulary that
open_clip brings along.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders.checkpoint import number_in, scale_of
from cxr_embed.encoders.conversion import Converted, all_matching, network_tensors, tensors_of
from cxr_embed.encoders.converted import ConvertedEncoder, state_shapes
from cxr_embed.encoders.patches import Patches
from cxr_embed.encoders.pixels import as_uint8
from cxr_embed.encoders.shared import SHARED, of_clip
from cxr_embed.encoders.torch_runner import require_finite, require_tokens
from cxr_embed.errors import EncoderError
from cxr_embed.grids import Grid
from cxr_embed.types import CxrImage, Precision, TextRule, counted

SIDE, PADDED = 224, 320
_MEAN, _DEVIATION = np.float32(101.48761), np.float32(83.43944)  # on the scale of 0 to 255
WIDTH = 512
# What sets its ViT-B/32 and text transformer apart, as transformers' `CLIPConfig` has it.
VISION: dict[str, Any] = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 32}
TEXT: dict[str, Any] = {"hidden_size": 512, "num_hidden_layers": 12, "num_attention_heads": 8}
TOKENS, VOCABULARY = 77, 49408
_START, _END = VOCABULARY - 2, VOCABULARY - 1
_NETWORK = "CheXzero's CLIP ViT-B/32"
_STEM = "visual.conv1.weight"
_PROMPTS_AT_ONCE = 64
_BLOCK = {
    "attn.out_proj": "self_attn.out_proj",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_EDGES = {
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "logit_scale": "logit_scale",
}
# Transposed: OpenAI multiplies from the right.
_PROJECTIONS = {"visual.proj": "visual_projection.weight", "text_projection": "text_projection.weight"}
_NUMBERS = ("input_resolution", "context_length", "vocab_size")  # settings that OpenAI's files hold beside tensors


def make_clip() -> Any:
    """transformers' CLIP of CheXzero's sizes, with random weights."""
    from transformers import CLIPConfig, CLIPModel

    vision = {**VISION, "intermediate_size": 4 * VISION["hidden_size"], "image_size": SIDE}
    text = {**TEXT, "intermediate_size": 4 * TEXT["hidden_size"]}
    text |= {"vocab_size": VOCABULARY, "max_position_embeddings": TOKENS}
    text |= {"bos_token_id": _START, "eos_token_id": _END, "pad_token_id": 0}
    act = {"hidden_act": "quick_gelu", "projection_dim": WIDTH}
    return CLIPModel(CLIPConfig(vision_config=vision | act, text_config=text | act, projection_dim=WIDTH))


def convert_chexzero(path: Path, sha256: str | None) -> Converted:
    """A checkpoint of CheXzero under transformers' names.

    Args:
        path: the published file, `best_64_5e-05_original_22000_0.864.pt` or a sibling.
        sha256: what its publisher says of it.

    Raises:
        EncoderError: where it cannot be read, has another digest, or is not a whole CLIP ViT-B/32.
    """
    tensors, source = tensors_of(path, sha256, {})
    found = network_tensors(tensors, _STEM, path, _NETWORK)
    import torch

    with torch.device("meta"):
        shapes = state_shapes(make_clip())
    names = transformers_names({name: found[name] for name in found if name not in _NUMBERS})
    return Converted(all_matching(path, _NETWORK, names, shapes), source)


def transformers_names(tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """OpenAI's tensors under transformers' names; what is not one of them keeps its name.

    Args:
        tensors: by OpenAI's names.
    """
    found: dict[str, np.ndarray] = {}
    for name, values in tensors.items():
        match = re.fullmatch(r"(visual\.)?transformer\.resblocks\.(\d+)\.(.+)", name)
        if match is None:
            known = _PROJECTIONS.get(name)
            found[known or _EDGES.get(name, name)] = values.T if known and values.ndim == 2 else values
            continue
        layer = f"{'vision' if match[1] else 'text'}_model.encoder.layers.{match[2]}"
        part, _, kind = match[3].rpartition(".")
        if match[3] in ("attn.in_proj_weight", "attn.in_proj_bias") and len(values) % 3 == 0:
            for letter, third in zip("qkv", np.split(values, 3), strict=True):
                found[f"{layer}.self_attn.{letter}_proj.{match[3].rpartition('_')[2]}"] = third
        elif part in _BLOCK:
            found[f"{layer}.{_BLOCK[part]}.{kind}"] = values
        else:
            found[name] = values
    return found


@lru_cache(maxsize=1)
def _bicubic() -> np.ndarray:
    """`(224, 320)` weights of torch's bicubic resize of one axis: half-pixel centres, four taps, edges repeated.

    The kernel is Keys' with a = -0.75.
    """
    matrix = np.zeros((SIDE, PADDED))
    for row in range(SIDE):
        centre = (row + 0.5) * PADDED / SIDE - 0.5
        first = math.floor(centre) - 1
        for tap in range(first, first + 4):
            matrix[row, min(max(tap, 0), PADDED - 1)] += _keys(abs(centre - tap))
    return matrix.astype(np.float32)


def _keys(distance: float, a: float = -0.75) -> float:
    if distance <= 1:
        return ((a + 2) * distance - (a + 3)) * distance * distance + 1
    return ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a


class ChexzeroEncoder(ConvertedEncoder):
    """One checkpoint."""

    network = _NETWORK
    published = "best_64_5e-05_original_22000_0.864.pt"

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        threads: int | None = None,
        outputs: Sequence[str] = ("image",),
    ) -> None:
        super().__init__(name, weights=weights, device=device, precision=precision, threads=threads)
        cells = SIDE // VISION["patch_size"]
        self._cells = Patches((cells, cells, VISION["hidden_size"]), 1, Grid("around"))
        shapes: dict[str, tuple[int, ...]] = {"image": (WIDTH,), SHARED: (cells, cells, WIDTH)}
        self.describe(
            "1",
            f"grey as 8 bits, 0..max to 0..255, half up; longer side to {PADDED} (Pillow, Lanczos), zeros around it to "
            f"a square; less {_MEAN}, by {_DEVIATION}; to {SIDE} x {SIDE} (bicubic, a = -0.75, half-pixel centres, no "
            "antialiasing); three equal channels",
            {output: shapes[output] for output in outputs},
            TextRule("image", "clip", scale_of(self._logit_scale(), str(self._path))),
            {SHARED: self._cells.grid} if SHARED in outputs else None,
        )

    @property
    def spaces(self) -> dict[str, str]:
        """`shared` lies in the space of `image`."""
        return {SHARED: "image"}

    def _logit_scale(self) -> float:
        if self._header.get("logit_scale") != ():
            raise EncoderError(
                f"{self._path}: has no logit_scale, so it is not {_NETWORK}; `cxr-embed weights convert {self._name}` "
                "makes a file that is"
            )
        return number_in(self._path, "logit_scale")

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """`(3, 224, 224)` float32."""
        from PIL import Image

        grey = Image.fromarray(as_uint8(image.pixels, image.max_value))
        ratio = PADDED / max(grey.size)
        # Cut, not rounded, as they do; a strip of less than a pixel is one.
        width, height = (max(int(length * ratio), 1) for length in grey.size)
        square = np.zeros((PADDED, PADDED), np.float32)
        top, left = (PADDED - height) // 2, (PADDED - width) // 2
        square[top : top + height, left : left + width] = np.asarray(
            grey.resize((width, height), Image.Resampling.LANCZOS)
        )
        small = _bicubic() @ ((square - _MEAN) / _DEVIATION) @ _bicubic().T
        return np.repeat(small[None], 3, axis=0)

    @property
    def frame(self) -> Grid:
        """Where the model's input lies on the picture."""
        return Grid("around")

    def make_model(self) -> Any:
        """transformers' CLIP."""
        return make_clip()

    def features(self, model: Any, pixels: Any) -> Any:
        """Tensors: `(B, 3, 224, 224)` to `(B, 512)`."""
        return model.get_image_features(pixel_values=pixels).pooler_output

    @property
    def main(self) -> tuple[str, int]:
        """`image`, also where patches alone are wanted."""
        return "image", WIDTH

    def _outputs(self, model: Any, pixels: Any) -> dict[str, Any]:
        if SHARED not in self._spec.outputs:
            return super()._outputs(model, pixels)
        run = partial(model.get_image_features, pixel_values=pixels)
        output, shared = of_clip(model, run, self._cells, self._source)
        return {"image": output.pooler_output, SHARED: shared}

    def embed_text(self, prompts: Sequence[str], *, cut: bool = False) -> np.ndarray:
        """P prompts to `(P, 512)` float32; with `cut`, of the first 77 tokens of one that has more.

        Raises:
            EncoderError: for an empty prompt, or one of more than 77 tokens unless it may be cut.
        """
        if isinstance(prompts, str):
            raise EncoderError("prompts are a list of sentences, not one")
        tokens = [self._tokens(prompt, cut) for prompt in prompts]
        parts = [np.empty((0, WIDTH), np.float32)]
        for at in range(0, len(tokens), _PROMPTS_AT_ONCE):
            batch = np.array(tokens[at : at + _PROMPTS_AT_ONCE])
            parts.append(self.runner.run(self._read, batch))
        return require_finite(np.concatenate(parts), self._source)

    def word_ids(self, word: str) -> tuple[int, ...]:
        """The ids of a word alone."""
        return tuple(self._tokenizer.encode(word))

    def _read(self, tokens: Any) -> Any:
        """Tensors: `(P, 77)` ids to `(P, 512)`. What stands behind the end changes nothing: attention looks back."""
        return self.model.get_text_features(input_ids=tokens).pooler_output

    def _tokens(self, prompt: str, cut: bool) -> list[int]:
        """77 ids: the start, the words, the end, zeros."""
        if not isinstance(prompt, str) or not prompt.strip():
            raise EncoderError(f"a prompt is a sentence, not {prompt!r}")
        words: list[int] = self._tokenizer.encode(prompt)
        require_tokens([prompt], [words], [])
        if len(words) + 2 > TOKENS:
            if not cut:
                raise EncoderError(
                    f"the prompt {prompt[:40]!r}... has {counted(len(words) + 2, 'token')}, {self._name} reads "
                    f"{TOKENS}; shorten it, or have zeroshot cut it (`cut_prompts`)"
                )
            words = words[: TOKENS - 2]
        return [_START, *words, _END, *[0] * (TOKENS - 2 - len(words))]

    @cached_property
    def _tokenizer(self) -> Any:
        """CLIP's, its vocabulary from open_clip's own files."""
        from open_clip.tokenizer import SimpleTokenizer

        return SimpleTokenizer()


make = ChexzeroEncoder
