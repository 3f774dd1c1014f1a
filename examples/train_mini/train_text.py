"""Trains mini's text tower and the head that brings image features into its space.

python examples/train_mini/train_text.py nih --phantoms phantoms --image image.safetensors --reader reader.safetensors \
    --out mini.safetensors

Of the real radiographs, only the train split is used. The reader, which knows no radiograph, is made where its file is
missing. What is written is the whole bundle of both towers.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from augment import standardised
from cases import Cases, load_cases
from network import Tower
from recipes import load_tower
from safetensors.torch import load_file, save_file
from sentences import Sentence, Sentences
from text_model import Head, Meaning, TextTower
from torch import Tensor, nn
from truth import Truth, truth_of

from cxr_embed.metrics import auroc
from cxr_embed.prompts import Finding, load_prompt_set

RATE = 3e-3
READER_STEPS = 2500
BATCH = 128  # sentences a step
ONE_SIDED = 0.1  # weight of a sentence that is true, or untrue, of all radiographs of a folder
BANK = 6000  # sentences that the alignment draws its batches from


@dataclass(frozen=True)
class Domain:
    """One folder's radiographs: features `(N, F)`, what is known of them, patients `(N,)`."""

    name: str
    features: np.ndarray
    truth: Truth
    patients: np.ndarray

    def take(self, rows: np.ndarray) -> Domain:
        """Those radiographs only."""
        return Domain(self.name, self.features[rows], self.truth.take(rows), self.patients[rows])


@dataclass(frozen=True)
class Settings:
    """The alignment's schedule.

    `noise` and `dropout` are of the image features, whose deviation is 1. `order` is the weight of the loss that keeps
    text vectors as far apart as their meanings: without it all that is ill falls together, as it does in the images.
    """

    steps: int = 1000
    rate: float = 1e-2
    decay: float = 0.1
    noise: float = 0.05
    dropout: float = 0.05
    order: float = 4.0
    seed: int = 0


@dataclass(frozen=True)
class Reader:
    """The text tower, and what reads its vectors back."""

    tower: TextTower
    meaning: Meaning

    def vectors(self, prompts: Sequence[str]) -> np.ndarray:
        """`(P, WIDTH)`."""
        self.tower.eval()
        with torch.inference_mode():
            parts = [self.tower(prompts[at : at + 256]) for at in range(0, len(prompts), 256)]
            return torch.cat(parts).numpy()

    def right(self, held_out: bool, count: int = 2000) -> float:
        """Part of `count` new sentences of which every claim is read rightly, and no other."""
        rng, sentences = np.random.default_rng(7), Sentences(held_out)
        batch = [sentences.draw(rng) for _ in range(count)]
        with torch.inference_mode():
            states = self.meaning(torch.from_numpy(self.vectors([s.text for s in batch])))[0].argmax(1)
        wanted = self.meaning.targets(batch)[0]
        return float(((states == wanted) | (wanted == -100)).all(1).float().mean())


@dataclass(frozen=True)
class Aligned:
    """A reader and a head in one space; `moments` are the features' mean and deviation `(2, F)`."""

    reader: Reader
    head: Head
    moments: np.ndarray

    def texts(self, prompts: Sequence[str]) -> np.ndarray:
        """`(P, WIDTH)` of unit length."""
        with torch.inference_mode():
            return nn.functional.normalize(
                self.head.text(torch.from_numpy(self.reader.vectors(prompts))), dim=1
            ).numpy()

    def images(self, features: np.ndarray) -> np.ndarray:
        """`(N, WIDTH)` of unit length."""
        scaled = torch.from_numpy((features - self.moments[0]) / self.moments[1]).float()
        with torch.inference_mode():
            return nn.functional.normalize(self.head.image(scaled), dim=1).numpy()

    def scores(self, images: np.ndarray, finding: Finding) -> np.ndarray:
        """Zero-shot softmax scores `(N,)`, the mean over the finding's pairs of prompts."""
        positive, negative = (images @ self.texts(prompts).T for prompts in (finding.positive, finding.negative))
        gaps = positive[:, :, None] - negative[:, None, :]
        scale = float(self.head.log_scale.detach().exp())
        result: np.ndarray = (1 / (1 + np.exp(-scale * gaps))).mean(axis=(1, 2))
        return result


def learn_to_read(steps: int, seed: int = 0) -> Reader:
    """The text tower, from sentences and their meaning alone: no radiograph is needed."""
    torch.manual_seed(seed)
    rng, sentences = np.random.default_rng(seed), Sentences()
    reader = Reader(TextTower(sentences.vocabulary()), Meaning(sentences.columns))
    parameters = [*reader.tower.parameters(), *reader.meaning.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=RATE, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        batch = [sentences.draw(rng) for _ in range(BATCH)]
        vectors = reader.tower([sentence.text for sentence in batch], rng)
        said = torch.from_numpy(meanings_of(batch, sentences.columns))
        loss = _reading_loss(reader.meaning(vectors), reader.meaning.targets(batch))
        loss = loss + _order_loss(nn.functional.normalize(vectors, dim=1), said)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return reader


def align(domains: Sequence[Domain], reader: Reader, settings: Settings) -> Aligned:
    """A head that brings the reader's vectors and image features together; the reader stays as it is."""
    torch.manual_seed(settings.seed)
    rng, sentences = np.random.default_rng(settings.seed), Sentences()
    bank = [sentences.draw(rng) for _ in range(BANK)]
    texts = torch.from_numpy(reader.vectors([sentence.text for sentence in bank]))
    every = np.concatenate([domain.features for domain in domains])
    moments = np.stack([every.mean(axis=0), every.std(axis=0) + 1e-4]).astype(np.float32)
    features = [torch.from_numpy((domain.features - moments[0]) / moments[1]).float() for domain in domains]
    head = Head(every.shape[1])
    groups = [
        {"params": head.image.parameters(), "weight_decay": settings.decay},
        {"params": [*head.text.parameters(), head.log_scale, head.bias], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=settings.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, total_steps=settings.steps, pct_start=0.1)
    meanings = torch.from_numpy(meanings_of(bank, sentences.columns))
    for _ in range(settings.steps):
        rows = rng.choice(BANK, BATCH, replace=False)
        batch, told = [bank[row] for row in rows], nn.functional.normalize(head.text(texts[rows]), dim=1)
        loss = settings.order * _order_loss(told, meanings[rows])
        for domain, known in zip(domains, features, strict=True):
            seen = nn.functional.dropout(known + settings.noise * torch.randn_like(known), settings.dropout)
            loss = loss + _matching_loss(head(seen, texts[rows]), *domain.truth.match(batch))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    return Aligned(reader, head.eval(), moments)


def meanings_of(batch: Sequence[Sentence], columns: Sequence[str]) -> np.ndarray:
    """`(S, C)` float32 of unit length: what each sentence says is present (positive) and absent (negative)."""
    said = np.zeros((len(batch), len(columns)), np.float32)
    for number, sentence in enumerate(batch):
        for claim in sentence.claims:
            for name in claim.findings:
                said[number, columns.index(name)] = 1 if claim.present else -1
    result: np.ndarray = said / np.linalg.norm(said, axis=1, keepdims=True)
    return result


def _order_loss(texts: Tensor, said: Tensor) -> Tensor:
    """Square error of the cosines of texts `(S, WIDTH)` against those of their meanings `(S, C)`, all of unit length.

    Pairs that speak of the same findings, which are few, weigh as much as all others.
    """
    alike = said @ said.T
    weights = (alike != 0) / (alike != 0).sum() + (alike == 0) / (alike == 0).sum()
    return (weights * (texts @ texts.T - alike).square()).sum()


def _reading_loss(logits: tuple[Tensor, ...], targets: tuple[Tensor, ...]) -> Tensor:
    states = nn.functional.cross_entropy(logits[0], targets[0])
    return states + 0.1 * sum(nn.functional.cross_entropy(a, b) for a, b in zip(logits[1:], targets[1:], strict=True))


def _matching_loss(logits: Tensor, match: np.ndarray, weights: np.ndarray) -> Tensor:
    """Sigmoid loss over known pairs; true and untrue pairs of a sentence weigh the same."""
    known, true = ~np.isnan(match), np.nan_to_num(match)
    total = [(known * weights * side).sum(axis=1, keepdims=True) for side in (true, 1 - true)]
    share = np.where((total[0] > 0) & (total[1] > 0), 1, ONE_SIDED) / len(match)
    balanced = known * weights * share / np.maximum(np.where(true > 0, *total), 1e-6)
    losses = nn.functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(true), reduction="none")
    return (losses * torch.from_numpy(balanced.astype(np.float32))).sum()


def zero_shot(aligned: Aligned, domain: Domain) -> dict[str, float]:
    """AUROC by finding with the built-in prompts, of findings with two positives and two negatives at least."""
    asked = {finding.name: finding for finding in load_prompt_set("nih14").findings}
    views = {finding.name: finding for finding in load_prompt_set("quality").findings}
    asked |= {"AP": views["View AP"], "Support Devices": load_prompt_set("chexpert13").findings[-1]}
    images, result = aligned.images(domain.features), {}
    for name, finding in asked.items():
        labels = domain.truth.values[:, domain.truth.columns.index(name)]
        known = ~np.isnan(labels)
        if min((labels[known] == 1).sum(), (labels[known] == 0).sum()) >= 2:
            result[name] = auroc(labels[known], aligned.scores(images, finding)[known]).value
    return result


def read_domain(folder: Path, split: str | None, image: Path) -> Domain:
    """A folder's radiographs with the features that a tower gives."""
    cases = load_cases(folder, split)
    details = folder / "truth.csv"
    truth = truth_of(cases, Sentences().columns, details if details.is_file() else None)
    return Domain(folder.name, features_of(load_tower(image), cases), truth, cases.patients)


def features_of(tower: Tower, cases: Cases) -> np.ndarray:
    """`(N, F)` float32."""
    with torch.inference_mode():
        parts = torch.from_numpy(cases.pixels).split(64)
        return torch.cat([tower.eval()(standardised(part[:, None].float() / 255)) for part in parts]).numpy()


def load_reader(path: Path, steps: int) -> Reader:
    """The reader in a file; it is made first where there is none."""
    sentences = Sentences()
    reader = Reader(TextTower(sentences.vocabulary()), Meaning(sentences.columns))
    modules = nn.ModuleDict({"tower": reader.tower, "meaning": reader.meaning})
    if path.is_file():
        modules.load_state_dict(load_file(path))
        return reader
    reader = learn_to_read(steps)
    save_file(nn.ModuleDict({"tower": reader.tower, "meaning": reader.meaning}).state_dict(), path)
    return reader


def write_bundle(path: Path, image: Path, aligned: Aligned, source: str) -> None:
    """Both towers as `cxr_embed.encoders.mini` reads them: half precision, moments and text matrices folded in."""
    tower, head, moments = aligned.reader.tower, aligned.head, torch.from_numpy(aligned.moments)
    with torch.no_grad():
        weight = head.image.weight / moments[1]
        numbers = {
            "head.weight": weight,
            "head.bias": head.image.bias - weight @ moments[0],
            "head.scale": head.log_scale.exp().reshape(1),
            "head.offset": head.bias.reshape(1),
            "text.out.weight": head.text.weight @ tower.out.weight,
            "text.out.bias": head.text.weight @ tower.out.bias + head.text.bias,
        }
    numbers |= {f"text.{name}": value for name, value in tower.state_dict().items() if not name.startswith("out.")}
    tensors = {name: value.detach().contiguous() for name, value in numbers.items()}
    halves = {name: value.half() if value.ndim > 1 else value for name, value in tensors.items()}
    halves |= {f"image.{name}": value for name, value in load_file(image).items()}
    about = {"format": "cxr_embed.mini 1", "source": source, "vocabulary": json.dumps(list(tower.rows))}
    aside = path.with_name(path.name + ".part")
    save_file(halves, aside, metadata=about)
    aside.chmod(0o644)  # safetensors writes files that only their owner reads
    aside.replace(path)


def main() -> None:
    """Reads, aligns, writes, and prints what the bundle can do on its own training data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with a manifest.csv, as the NIH recipe makes it")
    parser.add_argument("--phantoms", type=Path, required=True, help="a folder as `cxr-embed phantom` makes it")
    parser.add_argument("--image", type=Path, required=True, help="the image tower, from train_image.py")
    parser.add_argument("--reader", type=Path, required=True, help="the text tower before it knows any image")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reader = load_reader(options.reader, READER_STEPS)
    print(f"sentences read rightly: {reader.right(False):.3f}; with held-out words: {reader.right(True):.3f}")
    domains = [
        read_domain(folder, split, options.image)
        for folder, split in ((options.folder, "train"), (options.phantoms, None))
    ]
    aligned = align(domains, reader, Settings())
    for domain in domains:
        print(domain.name, {name: round(value, 3) for name, value in zero_shot(aligned, domain).items()})
    counts = " and ".join(f"{len(domain.features):,} of {domain.name}" for domain in domains)
    write_bundle(options.out, options.image, aligned, f"trained by examples/train_mini on {counts}; a demonstration")
    print(f"{options.out}: SHA-256 {hashlib.sha256(options.out.read_bytes()).hexdigest()}")


if __name__ == "__main__":
    main()
