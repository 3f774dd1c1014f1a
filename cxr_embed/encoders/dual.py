"""What encoders with an image tower and a text tower on torch do alike. Each tower loads with what first needs it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders.checkpoint import tensor_shapes
from cxr_embed.encoders.conversion import all_matching
from cxr_embed.encoders.image_tower import ImageTower, TowerEncoder
from cxr_embed.encoders.torch_runner import (
    TorchRunner,
    as_encoder_error,
    require_finite,
    require_sentences,
    require_tokens,
)
from cxr_embed.encoders.transformers_loading import quiet, word_ids
from cxr_embed.errors import EncoderError
from cxr_embed.types import CxrImage, EncoderSpec, Precision, counted

_COUNTERS = "num_batches_tracked"  # of batch normalisation, which nothing reads after training
_PROMPTS_AT_ONCE = 64


class DualEncoder(TowerEncoder):
    """Pixels and prompts in one space. A kind of it says how pixels are made and loads towers and tokenizer.

    Args:
        spec: what it computes.
        tower_outputs: the outputs that the image tower gives side by side, in its order, with their widths.
        vocabulary: the tokens that the text tower knows.
        limit: the tokens that it reads at once.
        files: what its vectors depend on.
        device, precision, threads: as `load_encoder` resolves them.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        *,
        tower_outputs: Mapping[str, int],
        vocabulary: int,
        limit: int,
        files: Sequence[Path],
        device: str,
        precision: Precision,
        threads: int | None,
    ) -> None:
        self._spec, self._tower_outputs = spec, tower_outputs
        self._vocabulary, self._limit = vocabulary, limit
        self._device, self._precision, self._threads = device, precision, threads
        self.files = tuple(files)

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """One image to one model input."""
        raise NotImplementedError

    def load_image_tower(self) -> Any:
        """A module: pixels to `(B, D)`, the outputs side by side."""
        raise NotImplementedError

    def load_text_tower(self) -> Any:
        """A module: ids and mask, `(P, L)` int64 each, to `(P, D)`."""
        raise NotImplementedError

    def load_tokenizer(self) -> Any:
        """One of transformers' tokenizers."""
        raise NotImplementedError

    def read_as(self, prompt: str) -> str:
        """A prompt as the text tower learned to read it."""
        return prompt

    def embed_text(self, prompts: Sequence[str], *, cut: bool = False) -> np.ndarray:
        """P prompts to `(P, D)` float32; with `cut`, of the first tokens of one that has too many.

        Raises:
            EncoderError: for an empty prompt, or one of more tokens than are read, unless it may be cut.
        """
        sentences = [self.read_as(prompt) for prompt in require_sentences(prompts)]
        tokens = self._tokens(require_sentences(sentences), cut)
        parts = [
            self._embed_tokens(tokens[at : at + _PROMPTS_AT_ONCE]) for at in range(0, len(tokens), _PROMPTS_AT_ONCE)
        ]
        return require_finite(np.concatenate(parts), self._source)

    def word_ids(self, word: str) -> tuple[int, ...]:
        """The ids of a word alone; none where the tokenizer does not know it."""
        return word_ids(self._tokenizer, word)

    @property
    def _source(self) -> str:
        return self._spec.weights_source

    @cached_property
    def _runner(self) -> TorchRunner:
        return TorchRunner(self._device, self._precision, self._threads)

    def make_tower(self) -> ImageTower:
        """The image tower."""
        main, width = next(iter(self._tower_outputs.items()))
        return ImageTower(
            self._spec,
            load=self.load_image_tower,
            outputs=self._outputs,
            preprocess=self.preprocess,
            main=main,
            width=width,
            packages=("timm", "transformers"),
            device=self._device,
            precision=self._precision,
            threads=self._threads,
        )

    def _outputs(self, tower: Any, pixels: Any) -> dict[str, Any]:
        """Tensors: inputs to the vectors by their names, each `(B, D)`."""
        widths = list(self._tower_outputs.values())
        return dict(zip(self._tower_outputs, tower(pixels).split(widths, dim=1), strict=True))

    @cached_property
    def _text_tower(self) -> Any:
        return self._runner.place(self.load_text_tower())

    @cached_property
    def _tokenizer(self) -> Any:
        with quiet(), as_encoder_error(f"{self._source}: its tokenizer cannot be made"):
            tokenizer = self.load_tokenizer()
        if len(tokenizer) > self._vocabulary:
            raise EncoderError(
                f"{self._source}: its tokenizer knows {counted(len(tokenizer), 'token')}, its text tower "
                f"{self._vocabulary:,}; they belong to two models"
            )
        return tokenizer

    def _tokens(self, prompts: list[str], cut: bool) -> list[list[int]]:
        with quiet():
            shorter = {"truncation": True, "max_length": self._limit} if cut else {}
            tokens: list[list[int]] = self._tokenizer(prompts, **shorter)["input_ids"]
            require_tokens(prompts, tokens, self._tokenizer("")["input_ids"])
        for prompt, ids in zip(prompts, tokens, strict=True):
            if len(ids) > self._limit:
                raise EncoderError(
                    f"the prompt {prompt[:40]!r}... has {counted(len(ids), 'token')}, {self._spec.name} reads "
                    f"{self._limit}; shorten it, or have zeroshot cut it (`cut_prompts`)"
                )
        return tokens

    def _embed_tokens(self, tokens: list[list[int]]) -> np.ndarray:
        """Padded to the longest of them; what is padded is masked."""
        padded = self._tokenizer.pad({"input_ids": tokens}, padding_side="right")
        arrays = [np.asarray(padded[name], dtype=np.int64) for name in ("input_ids", "attention_mask")]
        return self._runner.run(self._text_tower, *arrays)


def tensors_in(files: Sequence[Path], kept: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """Tensors of safetensors files by their names, float32 whatever they are kept in.

    Args:
        files: their names differ.
        kept: which names are wanted; the others are not read.

    Raises:
        EncoderError: where a file is not a safetensors file.
    """
    from safetensors import safe_open

    found: dict[str, np.ndarray] = {}
    for path in files:
        names = [name for name in tensor_shapes(path) if kept(name)]
        with safe_open(path, framework="pt") as file:
            found |= {name: file.get_tensor(name).float().numpy() for name in names}
    return found


def shapes_of(tower: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of what a module learned."""
    state: Mapping[str, Any] = tower.state_dict()
    return {name: tuple(values.shape) for name, values in state.items() if not name.endswith(_COUNTERS)}


def filled(tower: Any, tensors: Mapping[str, np.ndarray], path: Path, title: str) -> Any:
    """The module with every one of its tensors from a file.

    Args:
        tower: on any device, torch's `meta` among them.
        tensors: by the module's names.
        path, title: the file and what should be in it, for messages.

    Raises:
        EncoderError: where tensors are missing, too many, of another shape, or not finite.
    """
    import torch

    matched = all_matching(path, title, tensors, shapes_of(tower))
    state = {name: torch.from_numpy(values) for name, values in matched.items()}
    state |= {name: torch.tensor(0) for name in tower.state_dict() if name.endswith(_COUNTERS)}
    tower.load_state_dict(state, assign=True)
    return tower
