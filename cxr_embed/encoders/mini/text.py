"""The text tower of `mini`: words to a vector, in NumPy. It reads a prompt in a tenth of a millisecond.

Word vectors, three residual convolutions of width 3 along the sentence (at distances 1, 2 and 4, so that a `no` reaches
words up to seven away), the maximum and the mean over the words, and one matrix.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping, Sequence

import numpy as np

from cxr_embed.errors import EncoderError
from cxr_embed.types import counted

MAX_WORDS = 48
DILATIONS = (1, 2, 4)
NUMBER = "#"
PARTS = 2048  # rows of the table of word parts
_WORD = re.compile(r"[^\W\d_]+|[0-9]+(?:[.,][0-9]+)*|[.,;:]")  # words of any script: an unknown one must be reported
_ENGLISH = re.compile(f"[a-z{NUMBER}]")
MARKS = ".,;:"


def split_words(prompt: str) -> list[str]:
    """A prompt's words, in small letters: letters only, a number as `#`, and the marks that part clauses."""
    words = _WORD.findall(prompt.lower())
    return [NUMBER if word[0].isdigit() else word for word in words]


def word_parts(word: str) -> list[int]:
    """Rows of the part table for a word that is not in the vocabulary: its runs of three letters, ends marked.

    As in fastText (Bojanowski et al., 2017), so that a misspelled or inflected word stands near the known one.
    """
    marked = f"<{word}>"
    return [zlib.crc32(marked[at : at + 3].encode()) % PARTS for at in range(len(marked) - 2)]


class TextTower:
    """Prompts to vectors.

    Args:
        vocabulary: the words of the rows of `words.weight`, in order.
        weights: float32 arrays by name: `words.weight (V, E)`, `parts.weight (PARTS, E)`, `conv{n}.weight (H, E or H,
            3)`, `conv{n}.bias (H,)`, `out.weight (D, 2H)`, `out.bias (D,)`.
    """

    def __init__(self, vocabulary: Sequence[str], weights: Mapping[str, np.ndarray]) -> None:
        self._rows = {word: row for row, word in enumerate(vocabulary)}
        self._weights = weights

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        """The prompt's words that training never saw, each once. They are read by their letters: a guess."""
        words = dict.fromkeys(split_words(prompt))
        return tuple(word for word in words if word not in self._rows and word not in MARKS)

    def word_ids(self, word: str) -> tuple[int, ...]:
        """The vocabulary's row of a word; none where training never saw it."""
        return () if word not in self._rows else (self._rows[word],)

    def __call__(self, prompts: Sequence[str], cut: bool = False) -> np.ndarray:
        """P prompts to `(P, D)` float32 of unit length; with `cut`, of the first words of one that has too many.

        Raises:
            EncoderError: for a prompt without words, or with more than `MAX_WORDS`.
        """
        if isinstance(prompts, str):
            raise EncoderError("prompts are a list of sentences, not one")
        width = len(self._weights["out.bias"])
        vectors = [self._one(prompt, cut) for prompt in prompts]
        return np.stack(vectors) if vectors else np.empty((0, width), np.float32)

    def _one(self, prompt: str, cut: bool) -> np.ndarray:
        words = split_words(prompt) if isinstance(prompt, str) else []
        if not any(map(_ENGLISH.search, words)):
            raise EncoderError(f"a prompt is a sentence in English letters, not {prompt!r}")
        words = words[:MAX_WORDS] if cut else words
        if len(words) > MAX_WORDS:
            raise EncoderError(
                f"the prompt {prompt[:40]!r}... has {counted(len(words), 'word')}, mini reads {MAX_WORDS}; "
                "shorten it, or have zeroshot cut it (`cut_prompts`)"
            )
        w = self._weights
        x = np.stack([self._word(word) for word in words])  # (L, E)
        for number, distance in enumerate(DILATIONS):
            padded = np.pad(x, ((distance, distance), (0, 0)))
            taps = [padded[tap * distance : tap * distance + len(x)] for tap in range(3)]
            y = sum(tap @ w[f"conv{number}.weight"][:, :, at].T for at, tap in enumerate(taps))
            y = np.maximum(y + w[f"conv{number}.bias"], 0)  # (L, H)
            x = y if number == 0 else x + y
        pooled = np.concatenate([x.max(axis=0), x.mean(axis=0)])  # (2H,)
        vector = w["out.weight"] @ pooled + w["out.bias"]
        result: np.ndarray = (vector / np.linalg.norm(vector)).astype(np.float32)
        return result

    def _word(self, word: str) -> np.ndarray:
        row = self._rows.get(word)
        if row is not None:
            return np.asarray(self._weights["words.weight"][row])
        return np.asarray(self._weights["parts.weight"][word_parts(word)].mean(axis=0))
