"""Whatever an encoder answers has as many rows as it was asked for, of the declared shapes, or is an error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from helpers import MeanEncoder

from cxr_embed import load_encoder
from cxr_embed.encoders import CheckedEncoder
from cxr_embed.errors import EncoderError
from cxr_embed.pipeline.embedding import embed
from cxr_embed.types import EncoderSpec, TextRule

Wrong = Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
WRONG: dict[str, tuple[Wrong, str]] = {
    "one row": (
        lambda found: {**found, "means": found["means"][:1]},
        r"output means has shape \(1, 16\), expected \(5,",
    ),
    "a row more": (
        lambda found: {**found, "peak": np.ones((6, 1))},
        r"output peak has shape \(6, 1\), expected \(5, 1\)",
    ),
    "another width": (lambda found: {**found, "means": found["means"][:, :3]}, r"shape \(5, 3\), expected \(5, 16\)"),
    "no output": (lambda found: {"means": found["means"]}, "gave no output peak; it gave means"),
    "no dict": (lambda found: found["means"], "mean gave ndarray, expected a dict of its outputs"),  # type: ignore[dict-item, return-value]
    "complex": (lambda found: {**found, "peak": found["peak"] + 1j}, "output peak is complex64, expected float32"),
    "text": (lambda found: {**found, "peak": np.full((5, 1), "a")}, "output peak is <U1, expected float32"),
    "objects": (lambda found: {**found, "peak": found["peak"].astype(object)}, "output peak is object, expected"),
    "too large": (lambda found: {**found, "peak": found["peak"] + np.float64(1e300)}, "output peak is not finite"),
    "NaN": (lambda found: {**found, "peak": found["peak"] * np.nan}, "output peak is not finite"),
}


class Wrongly(MeanEncoder):
    """The plain encoder, with its answers changed."""

    def __init__(self, change: Wrong) -> None:
        self.change = change

    def embed(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return self.change(super().embed(batch))


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_answer_is_an_error(name: str) -> None:
    change, words = WRONG[name]
    with pytest.raises(EncoderError, match=words):
        CheckedEncoder(Wrongly(change)).embed(np.ones((5, 4, 4), np.float32))


def test_a_right_answer_passes() -> None:
    found = CheckedEncoder(Wrongly(lambda found: found)).embed(np.ones((5, 4, 4), np.float32))
    assert {name: array.shape for name, array in found.items()} == {"means": (5, 16), "peak": (5, 1)}


def test_answers_are_float32_and_nothing_else() -> None:
    change: Wrong = lambda found: {"means": found["means"].astype(int), "peak": found["peak"].tolist(), "x": found}  # type: ignore[dict-item]  # noqa: E731
    found = CheckedEncoder(Wrongly(change)).embed(np.ones((5, 4, 4), np.float32))
    assert {name: array.dtype for name, array in found.items()} == {"means": np.float32, "peak": np.float32}


def test_nothing_asked_is_nothing_answered() -> None:
    for encoder in (load_encoder("mini"), load_encoder("hog"), CheckedEncoder(MeanEncoder())):
        found = encoder.embed([])
        assert {name: array.shape for name, array in found.items()} == {
            name: (0, *shape) for name, shape in encoder.spec.outputs.items()
        }
    assert load_encoder("mini").embed_text([]).shape == (0, 64)
    assert CheckedEncoder(Talker(np.ones((1, 16)))).embed_text([]).shape == (0, 16)


def test_every_encoder_passes_the_door(make_images: Callable[..., Path], tmp_path: Path) -> None:
    assert isinstance(load_encoder("hog"), CheckedEncoder)
    assert isinstance(load_encoder("mini"), CheckedEncoder)
    assert isinstance(load_encoder("helpers:make_mean"), CheckedEncoder)
    # An object that `embed` is given passes it too; what fails as a batch is tried image by image.
    summary = embed(make_images(4), Wrongly(WRONG["NaN"][0]), tmp_path / "nan")
    assert [failure.kind for failure in summary.failed] == ["encoder"] * 4
    summary = embed(make_images(4), Wrongly(WRONG["one row"][0]), tmp_path / "one")
    assert (summary.embedded, summary.failed) == (4, [])


class Talker(MeanEncoder):
    """An encoder with a text side that gives what it is told to."""

    spec = EncoderSpec(
        name="talker",
        revision="1",
        preprocessing="none",
        outputs={"means": (16,), "peak": (1,)},
        text=TextRule("means", "clip"),
    )

    def __init__(self, vectors: np.ndarray) -> None:
        self.vectors = vectors

    def embed_text(self, prompts: Sequence[str]) -> np.ndarray:
        return self.vectors


@pytest.mark.parametrize(
    ("vectors", "words"),
    [
        (np.ones((1, 16)), r"the text side has shape \(1, 16\), expected \(2, 16\)"),
        (np.ones((2, 15)), r"the text side has shape \(2, 15\), expected \(2, 16\)"),
        (np.array([1.0, np.nan]), r"the text side has shape \(2,\), expected \(2, 16\)"),
        (np.ones((2, 16)) * 1j, "the text side is complex128, expected float32"),
        (np.array([[1.0] * 16, [np.nan] * 16]), "values that are not finite for the prompt 'b'"),
    ],
)
def test_wrong_prompt_vectors_are_an_error(vectors: np.ndarray, words: str) -> None:
    with pytest.raises(EncoderError, match=words):
        CheckedEncoder(Talker(vectors)).embed_text(["a", "b"])


class Reader(Talker):
    """A text side with a tokenizer, which tells what it was asked."""

    def __init__(self, words: dict[str, tuple[int, ...]]) -> None:
        super().__init__(np.ones((1, 16)))
        self.words = words
        self.heard: list[str] = []

    def word_ids(self, word: str) -> tuple[int, ...]:
        self.heard.append(word)
        return self.words.get(word, ())


@pytest.mark.parametrize("words", [{}, {"heart": (3,)}, dict.fromkeys(["no", "heart", "chest"], (3, 3))])
def test_a_text_side_that_knows_no_word_is_refused(words: dict[str, tuple[int, ...]]) -> None:
    for _ in range(2):
        with pytest.raises(EncoderError, match=r"the text side of talker does not know its own words \(no, normal"):
            CheckedEncoder(Reader(words)).embed_text(["a"])


def test_a_text_side_is_asked_once() -> None:
    reader = Reader({"heart": (3,), "chest": (4, 5)})
    encoder = CheckedEncoder(reader)
    np.testing.assert_array_equal(encoder.embed_text(["a"]), encoder.embed_text(["a"]))
    assert sorted(reader.heard) == sorted(set(reader.heard))


def test_an_encoder_without_words_says_so() -> None:
    with pytest.raises(EncoderError, match="mean embeds no prompts"):
        CheckedEncoder(MeanEncoder()).embed_text(["a"])
    assert CheckedEncoder(MeanEncoder()).unknown_words("a") == ()


def test_long_prompts_are_cut_on_request() -> None:
    mini = load_encoder("mini", device="cpu")
    with pytest.raises(EncoderError, match=r"shorten it, or have zeroshot cut it \(`cut_prompts`\)"):
        mini.embed_text(["lung " * 200])
    cut, whole = mini.embed_text(["effusion " + "lung " * 200, "effusion " + "lung " * 47], cut=True)
    np.testing.assert_array_equal(cut, whole)


def test_probes_learn_from_the_general_tokens_by_default() -> None:
    both = EncoderSpec(
        name="cxr-foundation", revision="1", preprocessing="", outputs={"contrastive": (32, 128), "general": (32, 768)}
    )
    assert both.probe_output == "general"
    assert (
        EncoderSpec(
            name="cxr-foundation", revision="1", preprocessing="", outputs={"contrastive": (32, 128)}
        ).probe_output
        == "contrastive"
    )
    assert MeanEncoder.spec.probe_output == "means"
