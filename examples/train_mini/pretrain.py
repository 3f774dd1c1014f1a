"""Self-supervision: two distortions of a radiograph, and other radiographs of its patient, shall look alike."""

from __future__ import annotations

import numpy as np
import torch
from augment import distorted
from cases import Cases
from network import FEATURES, Tower
from torch import nn
from torch.nn import functional
from train import warmed_cosine

BATCH = 64
TEMPERATURE = 0.2
PROJECTED = 128


def contrast(projected: torch.Tensor, patients: torch.Tensor) -> torch.Tensor:
    """SimCLR's loss (Chen et al., 2020) with every pair of one patient as a positive (Khosla et al., 2020).

    Args:
        projected: `(2 B, D)`, the two views one after the other.
        patients: `(2 B,)` int64.
    """
    unit = functional.normalize(projected.float(), dim=1)
    itself = torch.eye(len(unit), dtype=torch.bool)
    logits = (unit @ unit.T / TEMPERATURE).masked_fill(itself, -torch.inf)
    alike = (patients[:, None] == patients) & ~itself
    shares = logits.log_softmax(dim=1).masked_fill(~alike, 0).sum(dim=1) / alike.sum(dim=1)
    return -shares.mean()


def pretrain(cases: Cases, epochs: int, seed: int, rate: float = 2e-3) -> Tower:
    """A tower that was trained without labels, in training mode."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    tower = Tower().to(memory_format=torch.channels_last)
    projector = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.ReLU(), nn.Linear(FEATURES, PROJECTED))
    optimizer = torch.optim.AdamW([*tower.parameters(), *projector.parameters()], lr=rate, weight_decay=0.05)
    steps = epochs * (len(cases) // BATCH)
    schedule = warmed_cosine(optimizer, steps)
    pixels, places = torch.from_numpy(cases.pixels), torch.from_numpy(cases.places)
    patients = torch.from_numpy(np.unique(cases.patients, return_inverse=True)[1])
    for _ in range(epochs):
        for rows in torch.randperm(len(cases), generator=generator).split(BATCH):
            if len(rows) < BATCH:
                continue
            twice = rows.repeat(2)
            x, _ = distorted(pixels[twice], places[twice], 1.5, True, generator)
            with torch.autocast("cpu", torch.bfloat16):
                projected = projector(tower(x.contiguous(memory_format=torch.channels_last)))
            loss = contrast(projected, patients[twice])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return tower
