"""BioViL-T's two towers on torch, their tensors under the published names.

The image tower is a ResNet-50 (timm's) with a 1 x 1 convolution to 256 channels; beside these stand 256 more, which are
what has changed since a previous image, or one learned vector where there is none (Bannur et al., 2023, arXiv
2301.04558, section 3.1). Here there is none. Two more 1 x 1 convolutions lead to the space that is shared with words;
an image is the mean over its 14 x 14 places. The text tower is CXR-BERT: BERT and a projection of its first token.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import nn
from transformers import BertConfig, BertModel

MAP, SHARED = 256, 128  # channels of an image's map, and of the space that images and words share


class ImageTower(nn.Module):  # type: ignore[misc]
    """Grey pixels `(B, 1, 448, 448)` of 0..255 to `(B, 640)`: the mean of the map's 512 channels, then the 128."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.encoder.encoder = timm.create_model("resnet50", num_classes=0, global_pool="")
        self.encoder.backbone_to_vit = nn.Conv2d(2048, MAP, 1, bias=False)
        self.encoder.missing_previous_emb = nn.Parameter(torch.empty(1, MAP, 1, 1))
        self.projector = nn.Module()
        self.projector.model = nn.Sequential(
            nn.Conv2d(2 * MAP, SHARED, 1, bias=False), nn.BatchNorm2d(SHARED), nn.ReLU(), nn.Conv2d(SHARED, SHARED, 1)
        )

    def maps(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The map `(B, 512, 14, 14)`, and the same in the space that is shared with words, `(B, 128, 14, 14)`."""
        parts: Any = self.encoder
        seen = parts.backbone_to_vit(parts.encoder((pixels.float() / 255).expand(-1, 3, -1, -1)))  # (B, 256, 14, 14)
        both = torch.cat([seen, parts.missing_previous_emb.expand_as(seen)], dim=1)  # (B, 512, 14, 14)
        return both, self.projector.model(both)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        both, shared = self.maps(pixels)
        return torch.cat([both.float().mean((2, 3)), shared.float().mean((2, 3))], dim=1)


class TextTower(nn.Module):  # type: ignore[misc]
    """Ids and mask `(P, L)` to `(P, 128)`."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.bert = BertModel(BertConfig(**config), add_pooling_layer=False)
        self.cls_projection_head = nn.Module()
        self.cls_projection_head.dense_to_hidden = nn.Linear(config["hidden_size"], SHARED)
        self.cls_projection_head.LayerNorm = nn.LayerNorm(SHARED, eps=1e-12)
        self.cls_projection_head.dense_to_output = nn.Linear(SHARED, SHARED)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        first = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state[:, 0]
        head: Any = self.cls_projection_head
        projected: torch.Tensor = head.dense_to_output(head.LayerNorm(nn.functional.gelu(head.dense_to_hidden(first))))
        return projected
