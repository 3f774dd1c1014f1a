"""Trains mini's text tower and the head that brings image features into its space.

python -m examples.train_mini.train_text NIH_FOLDER=NIH_FEATURES.npz [PHANTOM_FOLDER=FEATURES.npz] --out text.safetensors

A features file holds `ids (N,)` and `features (N, F)` of the folder's images, from the image tower. With `--folds`, only
a cross-validation by patient is printed: zero-shot AUROC on radiographs left out, with the built-in prompts.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch import Tensor, nn

from cxr_embed.metrics import auroc
from cxr_embed.prompts import Finding, load_prompt_set
from examples.train_mini.cases import Cases
from examples.train_mini.sentences import Sentences
from examples.train_mini.text_model import WIDTH, Head, Meaning, TextTower
from examples.train_mini.truth import Truth

BATCH = 192  # sentences a step; each meets all radiographs


@dataclass(frozen=True)
class Domain:
    """One folder's radiographs: features `(N, F)`, what is known of them, patients `(N,)`."""

    name: str
    features: np.ndarray
    truth: Truth
    patients: np.ndarray

    def take(self, rows: np.ndarray) -> Domain:
        t = self.truth
        sizes, sides = (None if part is None else part[rows] for part in (t.sizes, t.sides))
        return Domain(
            self.name, self.features[rows], Truth(t.columns, t.values[rows], sizes, sides), self.patients[rows]
        )


@dataclass(frozen=True)
class Settings:
    """The schedule. `noise` and `dropout` are of the image features, whose deviation is 1."""

    steps: int = 1500
    rate: float = 2e-3
    decay: float = 0.05
    noise: float = 0.5
    dropout: float = 0.3
    hidden: int = 0
    mixup: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Trained:
    """Tower, reader, head, and the features' mean and deviation `(2, F)`."""

    tower: TextTower
    meaning: Meaning
    head: Head
    moments: np.ndarray

    def texts(self, prompts: list[str]) -> np.ndarray:
        """`(P, WIDTH)` of unit length."""
        self.tower.eval()
        with torch.inference_mode():
            return nn.functional.normalize(self.tower(prompts), dim=1).numpy()

    def images(self, features: np.ndarray) -> np.ndarray:
        """`(N, WIDTH)` of unit length."""
        self.head.eval()
        scaled = torch.from_numpy((features - self.moments[0]) / self.moments[1]).float()
        with torch.inference_mode():
            return nn.functional.normalize(self.head.project(scaled), dim=1).numpy()

    def scores(self, images: np.ndarray, finding: Finding) -> np.ndarray:
        """Zero-shot softmax scores `(N,)`, the mean over the finding's pairs of prompts."""
        positive, negative = (images @ self.texts(list(p)).T for p in (finding.positive, finding.negative))
        gap = positive[:, :, None] - negative[:, None, :]
        return 1 / (1 + np.exp(-float(self.head.log_scale.detach().exp()) * gap)).mean(axis=(1, 2))


def train(domains: list[Domain], settings: Settings) -> Trained:
    """Towers and head from scratch, on all radiographs given."""
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    sentences = Sentences()
    every = np.concatenate([domain.features for domain in domains])
    moments = np.stack([every.mean(axis=0), every.std(axis=0) + 1e-4]).astype(np.float32)
    features = [torch.from_numpy((domain.features - moments[0]) / moments[1]).float() for domain in domains]
    tower, meaning = TextTower(sentences.vocabulary()), Meaning(sentences.columns)
    head = Head(every.shape[1], settings.hidden)
    groups = [
        {"params": [*tower.parameters(), *meaning.parameters()], "weight_decay": 1e-3},
        {"params": head.project.parameters(), "weight_decay": settings.decay},
        {"params": [head.log_scale, head.bias], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=settings.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, total_steps=settings.steps, pct_start=0.1)
    for _ in range(settings.steps):
        batch = [sentences.draw(rng) for _ in range(BATCH)]
        vectors = tower([sentence.text for sentence in batch], rng)
        loss = _reading_loss(meaning(vectors), meaning.targets(batch))
        for domain, known in zip(domains, features, strict=True):
            match, weights = domain.truth.match(batch)
            seen = nn.functional.dropout(known + settings.noise * torch.randn_like(known), settings.dropout)
            loss = loss + _matching_loss(head(seen, vectors), match, weights)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return Trained(tower, meaning, head, moments)


def _reading_loss(logits: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> Tensor:
    states = nn.functional.cross_entropy(logits[0], targets[0])
    return states + 0.1 * sum(nn.functional.cross_entropy(a, b) for a, b in zip(logits[1:], targets[1:], strict=True))


def _matching_loss(logits: Tensor, match: np.ndarray, weights: np.ndarray) -> Tensor:
    """Sigmoid loss over known pairs; true and untrue pairs of a sentence weigh the same."""
    known, true = ~np.isnan(match), np.nan_to_num(match)
    total = [np.maximum((known * weights * side).sum(axis=1, keepdims=True), 1e-6) for side in (true, 1 - true)]
    balanced = known * weights * np.where(true > 0, 1 / total[0], 1 / total[1]) / len(match)
    losses = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(true), reduction="none")
    return (losses * torch.from_numpy(balanced.astype(np.float32))).sum()


def zero_shot(trained: Trained, domain: Domain) -> dict[str, float]:
    """AUROC by finding with the built-in prompts, of findings with two positives and two negatives at least."""
    asked = {finding.name: finding for finding in load_prompt_set("nih14").findings}
    views = {finding.name: finding for finding in load_prompt_set("quality").findings}
    asked |= {"AP": views["View AP"], "Support Device": load_prompt_set("chexpert13").findings[-1]}
    images, result = trained.images(domain.features), {}
    for name, finding in asked.items():
        labels = domain.truth.values[:, domain.truth.columns.index(name)]
        known = ~np.isnan(labels)
        if min((labels[known] == 1).sum(), (labels[known] == 0).sum()) >= 2:
            result[name] = auroc(labels[known], trained.scores(images, finding)[known]).value
    return result


def reading(trained: Trained, held_out: bool, count: int = 2000) -> float:
    """Part of `count` sentences of which every column is read rightly."""
    rng, sentences = np.random.default_rng(7), Sentences(held_out)
    batch = [sentences.draw(rng) for _ in range(count)]
    with torch.inference_mode():
        states = trained.meaning(trained.tower([sentence.text for sentence in batch]))[0].argmax(1)
    wanted = trained.meaning.targets(batch)[0]
    return float(((states == wanted) | (wanted == -100)).all(1).float().mean())
