"""Changes to a radiograph that leave its labels as they are, a batch at a time."""

from __future__ import annotations

import math

import torch
from torch.nn import functional


def standardised(pixels: torch.Tensor) -> torch.Tensor:
    """`(B, 1, S, S)` of 0..1 to mean 0 and deviation 1 each, as the runtime does from -1..1."""
    deviation, mean = torch.std_mean(pixels, dim=(2, 3), keepdim=True, correction=0)
    return (pixels - mean) / deviation.clamp(min=0.025)


def distorted(
    pixels: torch.Tensor, places: torch.Tensor, strength: float, flip: bool, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Random turns, scales, shifts, tone curves, and a rectangle that is blanked out; standardised.

    Args:
        pixels: `(B, S, S)` uint8.
        places: `(B, C, G, G)` uint8, which go where the pixels go.
        strength: 1 turns by up to 10 degrees, scales by up to 15 %, shifts by up to 8 % of the side.
        flip: whether half of them are mirrored (left and right then mean nothing).
        generator: of all that is random here.

    Returns:
        `(B, 1, S, S)` float32, and the places as float32 from 0 to 1.
    """
    count = len(pixels)

    def uniform(limit: float) -> torch.Tensor:
        return (torch.rand(count, generator=generator) * 2 - 1) * limit * strength

    angle, scale, aspect = uniform(math.radians(10)), 1 + uniform(0.15), 1 + uniform(0.08)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0) if flip else torch.ones(count)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    first = torch.stack([cosine * aspect * mirror, -sine, uniform(0.16)], dim=1)
    second = torch.stack([sine * aspect * mirror, cosine, uniform(0.16)], dim=1)
    x, turn = pixels[:, None].float() / 255, torch.stack([first, second], dim=1)
    grid = functional.affine_grid(turn, list(x.shape), align_corners=False)
    x = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
    coarse = functional.affine_grid(turn, list(places.shape), align_corners=False)
    moved = functional.grid_sample(places.float() / 255, coarse, align_corners=False)
    gamma = torch.exp(uniform(0.4))[:, None, None, None]
    x = standardised(x.clamp(min=1e-3).pow(gamma))
    return _blanked(x, 0.25 * strength, generator), moved


def _blanked(x: torch.Tensor, limit: float, generator: torch.Generator) -> torch.Tensor:
    """Sets one rectangle an image, sides up to `limit` of the image's, to the mean, 0."""
    count, side = len(x), x.shape[-1]
    corner = torch.rand(count, 2, generator=generator) * side
    extent = torch.rand(count, 2, generator=generator) * limit * side
    places = torch.arange(side)
    inside = (places >= corner[..., None]) & (places < (corner + extent)[..., None])  # (B, 2, S)
    hole = inside[:, 0, :, None] & inside[:, 1, None, :]  # (B, S, S)
    return x.masked_fill(hole[:, None], 0)
