"""The door that every encoder passes: what it answers is what was requested, or an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cxr_embed.errors import EncoderError
from cxr_embed.types import CxrImage, Encoder, EncoderSpec

if TYPE_CHECKING:
    from cxr_embed.encoders.marked import MarkedNetwork

# What any vocabulary that reads prompts on chest radiographs has words, parts or letters for.
_WORDS = ("no", "normal", "heart", "chest", "effusion")


class CheckedEncoder:
    """An encoder whose every answer is checked: a row an input, the declared shapes, no NaN.

    Attributes:
        encoder: the encoder itself.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder: Any = encoder.encoder if isinstance(encoder, CheckedEncoder) else encoder
        self._has_words = False

    @property
    def spec(self) -> EncoderSpec:
        """What the encoder computes."""
        spec: EncoderSpec = self.encoder.spec
        return spec

    @property
    def engine(self) -> str:
        """What it runs on."""
        return str(self.encoder.engine)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of this run of it, in sentences."""
        return tuple(getattr(self.encoder, "notes", ()))

    @property
    def files(self) -> tuple[Path, ...]:
        """What it was read from: weights and whatever else makes the vectors."""
        return tuple(getattr(self.encoder, "files", ()))

    @property
    def pinned(self) -> tuple[str, ...]:
        """SHA-256 of published files that are known here: of its own, or of those that its own were made from."""
        return tuple(getattr(self.encoder, "pinned", ()))

    @property
    def maxima(self) -> int:
        """Of the channels of its `map`, how many, the last ones, are in `features` by their maximum; others by mean."""
        return int(getattr(self.encoder, "maxima", 0))

    @property
    def projections(self) -> Mapping[str, tuple[np.ndarray, np.ndarray]]:
        """Outputs that are the direction of `weight @ features + bias`: weight `(D, F)` and bias `(D,)` of each."""
        found: Mapping[str, tuple[np.ndarray, np.ndarray]] = getattr(self.encoder, "projections", {})
        return found

    @property
    def means(self) -> Mapping[str, str]:
        """Outputs that are the mean of a grid's cells, by the grid's name, beside `features` and `map`."""
        return dict(getattr(self.encoder, "means", {}))

    @property
    def spaces(self) -> Mapping[str, str]:
        """Grids that it has or can be asked for whose cells lie in the space of another output, by its name."""
        return dict(getattr(self.encoder, "spaces", {}))

    @property
    def input_form(self) -> str:
        """In which form it takes inputs best by now: blank at first.

        An encoder may find out while it runs that more can be prepared for it. Whoever runs `preprocess` in another
        process hands the word on to the encoder there.
        """
        return str(getattr(self.encoder, "input_form", ""))

    @input_form.setter
    def input_form(self, form: str) -> None:
        if form != self.input_form:
            self.encoder.input_form = form

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """One image to one model input."""
        given: np.ndarray = self.encoder.preprocess(image)
        return given

    def embed(self, batch: np.ndarray | Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """B model inputs to `{output: (B, *shape) float32}`.

        Raises:
            EncoderError: also where the answer has other rows or shapes, or values that are not finite.
        """
        shapes = {output: (len(batch), *shape) for output, shape in self.spec.outputs.items()}
        if len(batch) == 0:
            return {output: np.empty(shape, np.float32) for output, shape in shapes.items()}
        found: Any = self.encoder.embed(batch)
        if not isinstance(found, Mapping):
            raise EncoderError(f"{self.spec.name} gave {type(found).__name__}, expected a dict of its outputs")
        for output in shapes:
            if output not in found:
                given = ", ".join(map(str, found)) or "none"
                raise EncoderError(f"{self.spec.name} gave no output {output}; it gave {given}")
        return {output: _checked(f"output {output}", found[output], shape) for output, shape in shapes.items()}

    def embed_text(self, prompts: Sequence[str], *, cut: bool = False) -> np.ndarray:
        """P prompts to `(P, D)` float32; with `cut`, the beginning of a prompt that is longer than the model reads.

        Raises:
            EncoderError: also where the encoder embeds no prompts, or the answer is not one finite row a prompt.
        """
        if not hasattr(self.encoder, "embed_text"):
            raise EncoderError(f"{self.spec.name} embeds no prompts; `cxr-embed encoders` says which do")
        text = self.spec.text
        beside = self.spec.outputs.get(text.output) if text is not None else None  # none where it was not chosen
        if beside is not None and not isinstance(prompts, str) and len(prompts) == 0:
            return np.empty((0, beside[-1]), np.float32)
        self._require_words()
        # An encoder that never cuts need not know the word.
        found = _numbers("the text side", self.encoder.embed_text(prompts, **({"cut": True} if cut else {})))
        if found.ndim == 2 and len(found) == len(prompts) and not np.isfinite(found).all():
            bad = prompts[int(np.flatnonzero(~np.isfinite(found).all(axis=1))[0])]
            raise EncoderError(f"the model returned values that are not finite for the prompt {bad!r}")
        return _checked("the text side", found, (len(prompts), beside[-1] if beside else found.shape[-1]))

    def _require_words(self) -> None:
        """Asks the text side for some of its own words, once, before it embeds any.

        A tokenizer whose vocabulary is missing is made without a word by the libraries, and reads every prompt alike.

        Raises:
            EncoderError: where it knows fewer than two of them apart.
        """
        if self._has_words or self.spec.text is None or not hasattr(self.encoder, "word_ids"):
            return
        known = {tuple(self.encoder.word_ids(word)) for word in _WORDS} - {()}
        if len(known) < 2:
            raise EncoderError(
                f"the text side of {self.spec.name} does not know its own words ({', '.join(_WORDS)}): its vocabulary "
                "is missing; put its tokenizer's files beside the weights"
            )
        self._has_words = True

    def unknown_words(self, prompt: str) -> tuple[str, ...]:
        """The prompt's words that the encoder never learned; none where it has no vocabulary of its own."""
        return tuple(self.encoder.unknown_words(prompt)) if hasattr(self.encoder, "unknown_words") else ()

    def marked(self) -> MarkedNetwork:
        """Its network on torch, with its last cells.

        Raises:
            EncoderError: where torch does not run it, or they are not found.
        """
        if not hasattr(self.encoder, "marked"):
            raise EncoderError(f"{self.spec.name} is not a network of torch here")
        found: MarkedNetwork = self.encoder.marked()
        return found

    def close(self) -> None:
        """Lets go of what the encoder holds beside memory (a process); the next call starts it again."""
        if hasattr(self.encoder, "close"):
            self.encoder.close()


def _checked(what: str, given: Any, shape: tuple[int, ...]) -> np.ndarray:
    """An answer as float32, of that shape and finite."""
    array = _numbers(what, given)
    if array.shape != shape:
        raise EncoderError(f"{what} has shape {array.shape}, expected {shape}")
    if not np.isfinite(array).all():
        raise EncoderError(f"{what} is not finite")
    return array


def _numbers(what: str, given: Any) -> np.ndarray:
    array = np.asarray(given)
    if array.dtype.kind in "cOSUMm":  # text, times, complex numbers: a cast would make something else of them
        raise EncoderError(f"{what} is {array.dtype}, expected float32")
    with np.errstate(over="ignore"):  # what float32 cannot hold is not finite
        return array.astype(np.float32, copy=False)


def chosen_words(option: str, given: Sequence[str], known: Sequence[str], name: str) -> tuple[str, ...]:
    """The given words in the order of the known ones: the order in which they were given changes nothing.

    Raises:
        EncoderError: for none, one that is not known, or one that is given twice.
    """
    if not given or not set(given) <= set(known) or len(set(given)) != len(given):
        raise EncoderError(f"`{option}` of {name}: {', '.join(given) or 'nothing'}; there are {', '.join(known)}")
    return tuple(word for word in known if word in given)
