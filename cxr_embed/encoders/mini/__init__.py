"""`mini`: a small image and text encoder that comes with the package. A demonstration, not a clinical tool.

MODEL_CARD.md beside this file says what it was trained on, what it can do and what it can't.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cxr_embed.encoders.engines import Engine, make_engine
from cxr_embed.encoders.mini.bundle import PATH, SHA256, load_bundle
from cxr_embed.encoders.mini.pixels import RECIPE, SIDE, shrink, standardise
from cxr_embed.encoders.mini.text import TextTower
from cxr_embed.encoders.mini.tower import CELLS, FEATURES, MAXIMA, MEANS, tower, tower_map
from cxr_embed.errors import UnknownWordsWarning
from cxr_embed.grids import Grid
from cxr_embed.types import CxrImage, EncoderSpec, Precision, TextRule


class MiniEncoder:
    """Both towers. The image engine starts with the first batch; prompts need none."""

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        threads: int | None = None,
        outputs: Sequence[str] = ("features", "contrastive"),
    ) -> None:
        self._bundle = load_bundle(weights)
        self.files, self.pinned = (Path(weights) if weights else PATH,), (SHA256,)
        self._text = TextTower(self._bundle.vocabulary, self._bundle.text)
        self._device, self._precision, self._threads = device, precision, threads
        self._engine: Engine | None = None
        head = self._bundle.head
        shapes = {"features": (FEATURES,), "contrastive": (len(head["bias"]),), "map": (CELLS, CELLS, FEATURES)}
        self._spec = EncoderSpec(
            name=name,
            revision="1",
            preprocessing=RECIPE,
            outputs={output: shapes[output] for output in outputs},
            weights=self._bundle.sha256,
            weights_source=self._bundle.source,
            text=TextRule("contrastive", "siglip", float(head["scale"][0]), float(head["offset"][0])),
            grids={"map": Grid("inside")} if "map" in outputs else {},
        )

    @property
    def maxima(self) -> int:
        """So many channels of `map`, the last ones, are in `features` by their maximum; the others by their mean."""
        return MAXIMA

    @property
    def projections(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """`contrastive` is the direction of `weight @ features + bias`."""
        return {"contrastive": (self._bundle.head["weight"], self._bundle.head["bias"])}

    @property
    def spec(self) -> EncoderSpec:
        """What this encoder computes."""
        return self._spec

    @property
    def engine(self) -> str:
        """Engine, version, precision and device."""
        return self._start().name

    def _start(self) -> Engine:
        if self._engine is None:
            self._engine = make_engine(
                tower_map if "map" in self._spec.outputs else tower,
                self._bundle.image,
                side=SIDE,
                device=self._device,
                precision=self._precision,
                threads=self._threads,
            )
        return self._engine

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """`(1, 224, 224)` float32 of mean 0 and deviation 1."""
        return standardise(shrink(image))[None]

    def embed(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """`(B, 1, 224, 224)` float32 to `features (B, 256)` and `contrastive (B, D)`, the latter of unit length.

        Where wanted, also `map`, `(B, 28, 28, 256)`, of which the features are 192 means and 64 maxima.
        """
        answer = self._start()(np.ascontiguousarray(batch, dtype=np.float32))
        features, vectors = answer, {}
        if "map" in self._spec.outputs:
            means, maxima = answer[:, :MEANS].mean(axis=(2, 3)), answer[:, MEANS:].max(axis=(2, 3))
            features, vectors["map"] = np.concatenate([means, maxima], axis=1), np.moveaxis(answer, 1, -1)
        head = self._bundle.head
        aligned = features @ head["weight"].T + head["bias"]
        aligned /= np.linalg.norm(aligned, axis=1, keepdims=True)
        vectors |= {"features": features, "contrastive": aligned}
        return {output: vectors[output] for output in self._spec.outputs}

    def embed_text(self, prompts: Sequence[str], *, cut: bool = False) -> np.ndarray:
        """P prompts to `(P, D)` float32 of unit length; with `cut`, of the first words of one that has too many.

        Warns:
            UnknownWordsWarning: for words that training never saw; they are read by their spelling.

        Raises:
            EncoderError: for a prompt without words, or with too many.
        """
        vectors = self._text(prompts, cut)
        unknown = dict.fromkeys(word for prompt in prompts for word in self.unknown_words(prompt))
        if unknown:
            named = ", ".join(repr(word if len(word) <= 40 else word[:40] + "...") for word in unknown)
            warning = f"{self._spec.name} never learned {named}: it guesses by spelling, so don't rely on these prompts"
            warnings.warn(warning, UnknownWordsWarning, stacklevel=3)
        return vectors

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        """The prompt's words that training never saw, each once."""
        return self._text.unknown_words(prompt)

    def word_ids(self, word: str) -> tuple[int, ...]:
        """The vocabulary's row of a word; none where training never saw it."""
        return self._text.word_ids(word)


make = MiniEncoder
