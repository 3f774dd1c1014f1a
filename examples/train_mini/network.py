"""The image tower in torch: a small residual network, made so that two CPU cores can train it.

Every convolution is a dense 3 x 3 with 32 channels or more, which CPUs run near their peak; depthwise ones they do not.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

WIDTHS = (32, 64, 128, 256)  # the last one is the width of the features


def _convolution(inputs: int, outputs: int, stride: int = 1, kernel: int = 3) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut (He et al., 2016)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        first = _convolution(inputs, outputs, stride)
        self.residual = nn.Sequential(*first, nn.ReLU(inplace=True), *_convolution(outputs, outputs))
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Sequential(*([] if same else _convolution(inputs, outputs, stride, kernel=1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, inputs, H, W)` to `(B, outputs, H / stride, W / stride)`."""
        return torch.relu(self.residual(x) + self.shortcut(x))


class Tower(nn.Module):
    """`(B, 1, S, S)` standardised pixels to `(B, 256)` features: means over the picture of the last stage."""

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        stem = [*_convolution(1, 16, 2), nn.ReLU(inplace=True), *_convolution(16, widths[0], 2), nn.ReLU(inplace=True)]
        stages = [Block(widths[max(n - 1, 0)], width, 2 if n else 1) for n, width in enumerate(widths)]
        self.stem, self.stages = nn.Sequential(*stem), nn.Sequential(*stages)

    def maps(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, 256, S / 32, S / 32)` before the mean."""
        maps: torch.Tensor = self.stages(self.stem(x))
        return maps

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, 1, S, S)` to `(B, 256)`."""
        return self.maps(x).mean(dim=(2, 3))


class Model(nn.Module):
    """A tower with linear heads: one logit a finding, and the traits (see `Cases`)."""

    def __init__(self, findings: int, tower: Tower | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.tower = tower or Tower()
        self.dropout = nn.Dropout(dropout)
        self.findings = nn.Linear(WIDTHS[-1], findings)
        self.traits = nn.Linear(WIDTHS[-1], 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """`(B, 1, S, S)` to logits `(B, C)` and `(B, 3)`."""
        features = self.dropout(self.tower(x).float())
        return self.findings(features), self.traits(features)
