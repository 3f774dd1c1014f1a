"""The text tower and the text-aligned head in torch, for training; `cxr_embed.encoders.mini` runs them in NumPy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sentences import Claim, Sentence
from torch import Tensor, nn

from cxr_embed.encoders.mini.text import DILATIONS, MAX_WORDS, PARTS, split_words, word_parts

EMBEDDED, HIDDEN, WIDTH = 64, 96, 64
UNKNOWN_SHARE = 0.1  # of the words that training hides, so that the parts of a word learn to stand for it
SIZES, SIDES = ("small", "moderate", "large"), ("left", "right", "both")


class TextTower(nn.Module):
    """Prompts to `(P, WIDTH)`, not normalised."""

    def __init__(self, vocabulary: Sequence[str]) -> None:
        super().__init__()
        self.rows = {word: row for row, word in enumerate(vocabulary)}
        self.words = nn.Embedding(len(vocabulary), EMBEDDED)
        self.parts = nn.EmbeddingBag(PARTS, EMBEDDED, mode="mean")
        for number, distance in enumerate(DILATIONS):
            width = HIDDEN if number else EMBEDDED
            self.add_module(f"conv{number}", nn.Conv1d(width, HIDDEN, 3, padding=distance, dilation=distance))
        self.out = nn.Linear(2 * HIDDEN, WIDTH)

    def forward(self, prompts: Sequence[str], rng: np.random.Generator | None = None) -> Tensor:
        """With `rng`, words are hidden at random: training."""
        split = [split_words(prompt)[:MAX_WORDS] for prompt in prompts]
        longest = max(map(len, split))
        rows, places, parts, starts = [], [], [], []
        for number, words in enumerate(split):
            for at, word in enumerate(words):
                row = self.rows.get(word)
                if row is None or (rng is not None and rng.random() < UNKNOWN_SHARE):
                    starts.append(len(parts))
                    parts += word_parts(word)
                    rows.append(-len(starts))
                else:
                    rows.append(row)
                places.append((number, at))
        index = torch.tensor(rows)
        vectors = self.words(index.clamp(min=0))  # (words, E)
        if starts:
            guessed = self.parts(torch.tensor(parts), torch.tensor(starts))
            vectors = torch.where((index < 0)[:, None], guessed[(-index - 1).clamp(min=0)], vectors)
        where = torch.tensor(places).T
        x = torch.zeros(len(split), longest, EMBEDDED).index_put((where[0], where[1]), vectors).transpose(1, 2)
        there = torch.zeros(len(split), 1, longest).index_put(
            (where[0], torch.zeros_like(where[0]), where[1]), torch.ones(len(rows))
        )
        for number in range(len(DILATIONS)):
            y = torch.relu(getattr(self, f"conv{number}")(x)) * there
            x = y if number == 0 else x + y
        highest = x.masked_fill(there == 0, -torch.inf).amax(2)
        return self.out(torch.cat([highest, x.sum(2) / there.sum(2)], 1))


class Meaning(nn.Module):
    """Reads a text vector back: per column present, absent or unspoken of; size; side. For training only."""

    def __init__(self, columns: Sequence[str]) -> None:
        super().__init__()
        self.columns = {name: number for number, name in enumerate(columns)}
        self.states = nn.Linear(WIDTH, 3 * len(columns))
        self.size = nn.Linear(WIDTH, 1 + len(SIZES))
        self.side = nn.Linear(WIDTH, 1 + len(SIDES))

    def targets(self, sentences: Sequence[Sentence]) -> tuple[Tensor, Tensor, Tensor]:
        """States `(S, C)`: 0 unspoken, 1 present, 2 absent, -100 open (one of several); sizes and sides `(S,)`."""
        states = torch.zeros(len(sentences), len(self.columns), dtype=torch.long)
        sizes, sides = (torch.full((len(sentences),), -100) for _ in range(2))
        for number, sentence in enumerate(sentences):
            for claim in sentence.claims:
                for name in claim.findings:
                    state = 2 if not claim.present else 1 if len(claim.findings) == 1 else -100
                    states[number, self.columns[name]] = state
            if len(sentence.claims) == 1:
                sizes[number], sides[number] = _detail(sentence.claims[0])
        return states, sizes, sides

    def forward(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`(S, WIDTH)` to logits `(S, 3, C)`, `(S, 4)` and `(S, 4)`."""
        return self.states(vectors).unflatten(1, (3, -1)), self.size(vectors), self.side(vectors)


def _detail(claim: Claim) -> tuple[int, int]:
    return (
        1 + SIZES.index(claim.size) if claim.size else 0,
        1 + SIDES.index(claim.side) if claim.side else 0,
    )


class Head(nn.Module):
    """Brings image features and text vectors into one space, with the logit's scale and bias."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.image = nn.Linear(features, WIDTH)
        self.text = nn.Linear(WIDTH, WIDTH)
        nn.init.eye_(self.text.weight)
        self.log_scale = nn.Parameter(torch.tensor(2.0))
        self.bias = nn.Parameter(torch.tensor(0.0))

    def forward(self, features: Tensor, texts: Tensor) -> Tensor:
        """`(N, F)` and `(S, WIDTH)` to logits `(S, N)`."""
        images, sentences = (nn.functional.normalize(x, dim=1) for x in (self.image(features), self.text(texts)))
        return self.log_scale.exp() * sentences @ images.T + self.bias
