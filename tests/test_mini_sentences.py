"""The sentences that mini's text tower learned: what they mean, what is held out, what they are true of."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

TRAINING = Path(__file__).parents[1] / "examples" / "train_mini"


@pytest.fixture(autouse=True)
def _training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The training scripts can be imported by their names."""
    monkeypatch.syspath_prepend(str(TRAINING))


def drawn(count: int, held_out: bool = False, seed: int = 0) -> list:
    from sentences import Sentences

    rng, sentences = np.random.default_rng(seed), Sentences(held_out)
    return [sentences.draw(rng) for _ in range(count)]


def test_the_same_seed_draws_the_same() -> None:
    assert drawn(50) == drawn(50)
    assert drawn(50) != drawn(50, seed=1)


def test_no_sentence_shows_the_grammar() -> None:
    for sentence in drawn(2000) + drawn(2000, held_out=True):
        assert not re.search(r"[(){}|~]|  ", sentence.text), sentence.text
        assert 1 <= len(sentence.claims) <= 4


def test_held_out_sentences_are_never_drawn_for_training() -> None:
    known = {sentence.text for sentence in drawn(5000)}
    assert not known & {sentence.text for sentence in drawn(2000, held_out=True)}


def test_the_vocabulary_holds_every_word_that_training_draws() -> None:
    from sentences import Sentences

    from cxr_embed.encoders.mini.text import split_words

    vocabulary = set(Sentences().vocabulary())
    assert {word for sentence in drawn(5000) for word in split_words(sentence.text)} <= vocabulary


def test_the_package_has_the_vocabulary_of_these_words() -> None:
    from sentences import Sentences

    from cxr_embed.encoders.mini.bundle import load_bundle

    assert load_bundle().vocabulary == Sentences().vocabulary()


def test_denials_deny() -> None:
    denials = re.compile(r"^(no|without|negative for|free of|absence of|neither)\b")
    plain = [s for s in drawn(4000) if denials.match(s.text) and len(s.claims) == 1]
    assert len(plain) > 200
    assert not any(claim.present for sentence in plain for claim in sentence.claims)


def test_sides_and_sizes_are_those_of_the_words() -> None:
    for sentence in drawn(3000):
        claim = sentence.claims[0]
        if len(sentence.claims) > 1:
            continue
        if claim.side in ("left", "right"):
            assert claim.side in sentence.text
        if claim.size == "moderate":
            assert "moderate" in sentence.text or "medium" in sentence.text


def test_claims_against_labels() -> None:
    from sentences import Claim, Sentence
    from truth import WEAK, Truth

    columns = ("Effusion", "Mass", "Nodule")
    values = np.array([[1, 0, 0], [0, np.nan, 1], [np.nan, 0, np.nan]], np.float32)
    sides = np.array([["left", "", ""], ["", "", ""], ["", "", ""]])
    truth = Truth(columns, values, np.full((3, 3), ""), sides)
    effusion, lesion = Claim(("Effusion",), True), Claim(("Mass", "Nodule"), True)
    asked = {
        "effusion": ((effusion,), [1, 0, np.nan]),
        "no effusion": ((Claim(("Effusion",), False),), [0, 1, np.nan]),
        "a lesion": ((lesion,), [0, 1, np.nan]),
        "no lesion": ((Claim(("Mass", "Nodule"), False),), [1, 0, np.nan]),
        "both": ((effusion, lesion), [0, 0, np.nan]),
        "on the left": ((Claim(("Effusion",), True, side="left"),), [1, 0, np.nan]),
        "on the right": ((Claim(("Effusion",), True, side="right"),), [0, 0, np.nan]),
        "large": ((Claim(("Effusion",), True, size="large"),), [1, 0, np.nan]),
    }
    match, weights = truth.match([Sentence(text, claims) for text, (claims, _) in asked.items()])
    np.testing.assert_array_equal(match, np.array([expected for _, expected in asked.values()], np.float32))
    assert weights[0, 0] == 1
    assert weights[-1, 0] == WEAK


def test_the_truth_of_a_table() -> None:
    from cases import Cases
    from truth import truth_of

    cases = Cases(
        ids=np.array(["a", "b"]),
        pixels=np.zeros((2, 4, 4), np.uint8),
        labels=np.array([[1, 0], [0, 1]], np.float32),
        traits=np.array([[1, 0, 0], [0, 0, 0]], np.float32),
        patients=np.array(["p", "q"]),
        places=np.zeros((2, 8, 1, 1), np.uint8),
        placed=np.zeros(2, bool),
        findings=("Effusion", "No Finding"),
    )
    columns = ("AP", "Abnormal", "Effusion", "Lateral", "Mass", "PA", "Support Devices")
    expected = [[1, 1, 1, 0, np.nan, 0, np.nan], [0, 0, 0, 0, 0, 1, np.nan]]
    np.testing.assert_array_equal(truth_of(cases, columns).values, np.array(expected, np.float32))
