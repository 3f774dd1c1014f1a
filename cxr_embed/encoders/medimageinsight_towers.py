"""MedImageInsight's two towers on torch, of timm's DaViT and torch's own transformer.

The image tower is timm's DaViT as Florence-2 has it (3 x 3 convolutions between its stages, channel attention scaled
by the number of tokens, windows of 12). The text tower looks both ways, at what is not padding, and is read at the end
of the words; its tensors go by other names in torch.
"""

from __future__ import annotations

import re

import timm
import torch
from timm.models.davit import checkpoint_filter_fn
from torch import nn
from transformers.activations import QuickGELUActivation

from cxr_embed.encoders.medimageinsight_settings import Settings

_FLORENCE = "vision_tower."  # the prefix under which timm knows names of this kind
_BLOCK = {
    "attn.in_proj_weight": "self_attn.in_proj_weight",
    "attn.in_proj_bias": "self_attn.in_proj_bias",
    "attn.out_proj.": "self_attn.out_proj.",
    "ln_1.": "norm1.",
    "ln_2.": "norm2.",
    "mlp.c_fc.": "linear1.",
    "mlp.c_proj.": "linear2.",
}


class ImageTower(nn.Module):  # type: ignore[misc]
    """Grey pixels `(B, 1, S, S)` of 0..255 to `(B, D)`."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.davit = timm.create_model(
            "davit_huge_fl",
            num_classes=0,
            depths=settings.depths,
            embed_dims=settings.widths,
            num_heads=settings.heads,
            window_size=settings.window,
        )
        self.image_projection = nn.Parameter(torch.empty(settings.widths[-1], settings.shared))
        self.settings = settings

    def pixels(self, grey: torch.Tensor) -> torch.Tensor:
        """`(B, 1, S, S)` of 0..255 to three normalised channels."""
        mean, deviation = (
            torch.tensor(values, dtype=torch.float32, device=grey.device)[:, None, None]
            for values in (self.settings.mean, self.settings.deviation)
        )
        return (grey.float() / 255 - mean) / deviation

    def map(self, grey: torch.Tensor) -> torch.Tensor:
        """The last map, `(B, C, S / 32, S / 32)`."""
        found: torch.Tensor = self.davit.forward_features(self.pixels(grey))
        return found

    def read(self, found: torch.Tensor) -> torch.Tensor:
        """A map `(B, C, H, W)` to the vectors `(B, D)`: its mean, normalised and projected."""
        features: torch.Tensor = self.davit.forward_head(found)
        return features @ self.image_projection

    def forward(self, grey: torch.Tensor) -> torch.Tensor:
        return self.read(self.map(grey))

    def names(self, published: list[str]) -> dict[str, str]:
        """The published names to this module's; timm knows them as Florence-2's."""
        stems = {name: name.removeprefix("image_encoder.") for name in published}
        given = {_FLORENCE + re.sub(r"^norms\.", "head.norm.", stem): name for name, stem in stems.items()}
        known: dict[str, str] = checkpoint_filter_fn(given, self.davit)
        return {name: f"davit.{own}" for own, name in known.items() if name.startswith("image_encoder.")}


class TextTower(nn.Module):  # type: ignore[misc]
    """Ids and mask `(P, L)` to `(P, D)`."""

    def __init__(self, settings: Settings, vocabulary: int) -> None:
        super().__init__()
        width = settings.text_width
        layer = nn.TransformerEncoderLayer(
            width,
            settings.text_heads,
            4 * width,
            dropout=0.0,
            activation=QuickGELUActivation(),
            layer_norm_eps=1e-12,
            batch_first=True,
            norm_first=True,
        )
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(settings.context, width))
        self.blocks = nn.TransformerEncoder(
            layer, settings.text_layers, norm=nn.LayerNorm(width, eps=1e-12), enable_nested_tensor=False
        )
        self.lang_projection = nn.Parameter(torch.empty(width, settings.shared))

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        words = self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]]
        read = self.blocks(words, src_key_padding_mask=mask == 0)  # (P, L, D)
        ends = mask.sum(dim=1) - 1
        last: torch.Tensor = read[torch.arange(len(ids), device=ids.device), ends]
        return last @ self.lang_projection

    @staticmethod
    def names(published: list[str]) -> dict[str, str]:
        """The published names to this module's."""
        return {name: _text_name(name) for name in published}


def _text_name(name: str) -> str:
    own = name.removeprefix("lang_encoder.").replace("ln_final.", "blocks.norm.")
    if not own.startswith("resblocks."):
        return own
    own = own.replace("resblocks.", "blocks.layers.", 1)
    for theirs, ours in _BLOCK.items():
        own = own.replace(f".{theirs}", f".{ours}")
    return own
