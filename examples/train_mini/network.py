"""The image tower in torch: a small residual network, made so that two CPU cores can train it.

Every convolution is a dense 3 x 3 with 32 channels or more, which CPUs run near their peak; depthwise ones they do not.
What is large is read from means of the last stage; what is small or thin would drown in them and is read from maxima
of a fine map, which phantoms teach with their masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from cases import MARKED
from torch import nn
from torch.nn import functional

WIDTHS = (32, 64, 128, 192)
FINE = 64  # channels of the fine map, at an eighth of the picture's side
FEATURES = WIDTHS[-1] + FINE


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
    """`(B, 1, S, S)` standardised pixels to `(B, 256)` features: means of the last stage, maxima of the fine map."""

    def __init__(self, widths: Sequence[int] = WIDTHS) -> None:
        super().__init__()
        stem = [*_convolution(1, 16, 2), nn.ReLU(inplace=True), *_convolution(16, widths[0], 2), nn.ReLU(inplace=True)]
        stages = [Block(widths[max(n - 1, 0)], width, 2 if n else 1) for n, width in enumerate(widths)]
        self.stem, self.stages = nn.Sequential(*stem), nn.Sequential(*stages)
        self.narrow = nn.ModuleList(nn.Conv2d(width, FINE, 1, bias=False) for width in widths[1:])
        self.joined = nn.BatchNorm2d(FINE)
        self.fine = nn.Sequential(*_convolution(FINE, FINE), nn.ReLU(inplace=True))

    def maps(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The last stage `(B, 192, S / 32, S / 32)` and the fine map `(B, 64, S / 8, S / 8)`, which sees all stages.

        The latter is a pyramid (Lin et al., 2017): coarse maps are enlarged and added to finer ones.
        """
        x, stages = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            stages.append(x)
        first, second, third = (narrow(x) for narrow, x in zip(self.narrow, stages[1:], strict=True))
        y = first + functional.interpolate(second + functional.interpolate(third, scale_factor=2), scale_factor=2)
        return x, self.fine(torch.relu(self.joined(y)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`(B, 1, S, S)` to `(B, 256)`."""
        return pooled(*self.maps(x))


def pooled(coarse: torch.Tensor, fine: torch.Tensor) -> torch.Tensor:
    """The features `(B, 256)` of both maps."""
    return torch.cat([coarse.float().mean(dim=(2, 3)), fine.float().amax(dim=(2, 3))], dim=1)


class Model(nn.Module):
    """A tower with linear heads: logits of findings, of traits, and of the places of what phantoms mark."""

    def __init__(self, findings: int, tower: Tower | None = None, dropout: float = 0.0) -> None:
        super().__init__()
        self.tower = tower or Tower()
        self.dropout = nn.Dropout(dropout)
        self.findings = nn.Linear(FEATURES, findings)
        self.traits = nn.Linear(FEATURES, 3)
        self.places = nn.Conv2d(FINE, len(MARKED), 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """`(B, 1, S, S)` to logits `(B, C)`, `(B, 3)` and `(B, MARKED, S / 8, S / 8)`."""
        coarse, fine = self.tower.maps(x)
        features = self.dropout(pooled(coarse, fine))
        return self.findings(features), self.traits(features), self.places(fine).float()
