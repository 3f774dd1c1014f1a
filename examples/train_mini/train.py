"""Supervised training of the image tower: noisy labels with mixup, phantoms' places, averaged weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from augment import distorted, standardised
from cases import Cases, joined
from network import Model, Tower
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

COVERED = 0.08  # of a cell: enough to count as marked, and as little as a thin line covers


@dataclass(frozen=True)
class Plan:
    """What one training run does.

    Attributes:
        epochs: passes over the cases.
        rate: highest learning rate.
        decay: of the weights (AdamW).
        batch: images a step.
        mixup: of the Beta distribution that mixing shares are drawn from (Zhang et al., 2018); 0 mixes nothing.
            The second set, phantoms, has true labels and is never mixed.
        strength: of the distortions.
        flip: whether mirrored images count as the same.
        traits: weight of the loss of view, sex and age.
        places: weight of the loss of what phantoms mark.
        dropout: of the features before the heads.
        average: decay of the averaged weights, the ones that are kept.
        beside: images of the second set that join every batch.
    """

    epochs: int = 40
    rate: float = 2e-3
    decay: float = 0.05
    batch: int = 32
    mixup: float = 0.4
    strength: float = 1.0
    flip: bool = False
    traits: float = 0.2
    places: float = 2.0
    dropout: float = 0.2
    average: float = 0.99
    beside: int = 16


def loss_of(
    findings: torch.Tensor, others: torch.Tensor, labels: torch.Tensor, traits: torch.Tensor, weight: float
) -> torch.Tensor:
    """Cross-entropy of the known findings, and `weight` times that of view and sex and the square error of age."""
    known = ~labels.isnan()
    entropy = functional.binary_cross_entropy_with_logits(findings, labels.nan_to_num(), reduction="none")
    loss = (entropy * known).sum() / known.sum().clamp(min=1)
    seen = ~traits.isnan()
    told = traits.nan_to_num()
    binary = functional.binary_cross_entropy_with_logits(others[:, :2], told[:, :2], reduction="none")
    square = (others[:, 2:] - told[:, 2:]).square() * 0.25
    side = (torch.cat([binary, square], dim=1) * seen).sum() / seen.sum().clamp(min=1)
    return loss + weight * side


def loss_of_places(logits: torch.Tensor, covered: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of cells `(B, C, G, G)`, where a cell that a finding covers weighs as much as eight."""
    there = (covered > COVERED).float()
    entropy = functional.binary_cross_entropy_with_logits(logits, there, reduction="none")
    return (entropy * (1 + 7 * there)).mean()


def train(cases: Cases, plan: Plan, seed: int, start: Tower | None = None, beside: Cases | None = None) -> Model:
    """Trains on all the cases, in bfloat16, and returns the averaged model, in evaluation mode.

    Args:
        cases: at least one batch of them.
        plan: see there.
        seed: of the weights, the order and the distortions.
        start: a tower to go on from; it is changed.
        beside: a second set, of which `plan.beside` random images join every batch; it is never mixed with the first.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    both = joined([cases, beside]) if beside else cases
    model = Model(len(both.findings), start, plan.dropout).to(memory_format=torch.channels_last)
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(plan.average), use_buffers=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.rate, weight_decay=plan.decay)
    steps = plan.epochs * (len(cases) // plan.batch)
    schedule = warmed_cosine(optimizer, steps)
    pixels, places, placed = (torch.from_numpy(x) for x in (both.pixels, both.places, both.placed))
    labels, traits = torch.from_numpy(both.labels), torch.from_numpy(both.traits)
    draw = np.random.default_rng(seed)
    for _ in range(plan.epochs):
        for rows in torch.randperm(len(cases), generator=generator).split(plan.batch):
            if len(rows) < plan.batch:
                continue
            if beside:
                second = torch.randint(len(cases), len(both), (plan.beside,), generator=generator)
                rows = torch.cat([rows, second])
            x, covered = distorted(pixels[rows], places[rows], plan.strength, plan.flip, generator)
            y, t, known = labels[rows], traits[rows], placed[rows]
            if plan.mixup:
                share = float(draw.beta(plan.mixup, plan.mixup))
                x, y, t = (_mixed(part, plan.batch, share) for part in (x, y, t))
            with torch.autocast("cpu", torch.bfloat16):
                findings, others, cells = model(x.contiguous(memory_format=torch.channels_last))
            loss = loss_of(findings, others, y, t, plan.traits)
            if known.any():
                loss = loss + plan.places * loss_of_places(cells[known], covered[known])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            averaged.update_parameters(model)
    kept: Model = averaged.module
    return kept.eval()


def _mixed(values: torch.Tensor, count: int, share: float) -> torch.Tensor:
    """The first `count` mixed with their neighbours; the others as they are."""
    first = values[:count]
    return torch.cat([share * first + (1 - share) * first.roll(1, 0), values[count:]])


def warmed_cosine(optimizer: torch.optim.Optimizer, steps: int) -> torch.optim.lr_scheduler.LambdaLR:
    """The rate rises over a twentieth of the steps, then falls to 0 along a cosine."""
    return torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, 20 * (step + 1) / steps) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )


@torch.inference_mode()
def answers(model: Model, cases: Cases) -> tuple[np.ndarray, np.ndarray]:
    """Features `(N, 256)` and the logits of the findings `(N, C)`, both float32, of undistorted images."""
    features, logits = [], []
    for pixels in torch.from_numpy(cases.pixels).split(64):
        x = standardised(pixels[:, None].float() / 255).contiguous(memory_format=torch.channels_last)
        told = model.tower(x)
        features.append(told.numpy())
        logits.append(model.findings(told).numpy())
    return np.concatenate(features), np.concatenate(logits)
