"""Report-style sentences with what they mean, drawn from the words of `words.yaml`.

python sentences.py [--count 20] [--seed 0] [--held-out]
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cxr_embed.encoders.mini.text import MARKS, split_words

WORDS = Path(__file__).with_name("words.yaml")
SLOT = re.compile(r"\{[nm]\}")
_CHOICE = re.compile(r"\(([^()]*)\)")
_TWO_SENTENCES = 0.15
_SIZED, _SIDED = 0.35, 0.35


@dataclass(frozen=True)
class Claim:
    """One statement.

    Attributes:
        findings: columns of the truth. Present means one of them, absent means none.
        present: which of the two is stated.
        size: `small`, `moderate`, `large`, or empty where it is not stated.
        side: `left`, `right`, `both`, or empty.
    """

    findings: tuple[str, ...]
    present: bool
    size: str = ""
    side: str = ""


@dataclass(frozen=True)
class Sentence:
    """A text, and all that it claims at once."""

    text: str
    claims: tuple[Claim, ...]


class Sentences:
    """Draws sentences.

    Args:
        held_out: draw only sentences with a word or template that `words.yaml` holds out; else only ones without.
    """

    def __init__(self, held_out: bool = False, path: Path = WORDS) -> None:
        self._held_out = held_out
        self._words: dict[str, Any] = yaml.safe_load(path.read_text())
        self._used = False  # whether the sentence at hand has a held-out part

    @cached_property
    def columns(self) -> tuple[str, ...]:
        """The columns of the truth that the words speak of, sorted."""
        return tuple(sorted({name for group in self._words["groups"] for name in group["any"]}))

    def draw(self, rng: np.random.Generator) -> Sentence:
        """One sentence, or two in one."""
        while True:
            self._used = False
            first = self._one(rng)
            if rng.random() < _TWO_SENTENCES:
                used, second = self._used, self._one(rng)
                if _names(first) & _names(second):
                    # The second is dropped. Its held-out parts don't make the first one held out; training draws again.
                    self._used = used if self._held_out else self._used
                else:
                    link = (". ", ", ", " and ", "; ")[rng.integers(4)]
                    first = Sentence(first.text + link + second.text, first.claims + second.claims)
            if self._used == self._held_out:
                return first

    def vocabulary(self) -> tuple[str, ...]:
        """Every word and mark that training can draw, sorted."""
        texts: list[str] = []

        def collect(value: Any) -> None:
            if isinstance(value, str):
                texts.append(re.sub(r"~[^|)]*", " ", value))
            elif isinstance(value, dict):
                for key, part in value.items():
                    if key != "any":
                        collect(part)
            elif isinstance(value, list):
                for part in value:
                    collect(part)

        collect(self._words)
        # A choice inside a word, as in `nodul(e|es)`, makes whole words only once it is taken.
        whole = {word for text in texts for one in _all_choices(text) for word in split_words(SLOT.sub(" ", one))}
        return tuple(sorted(whole | set(MARKS)))

    def _one(self, rng: np.random.Generator) -> Sentence:
        groups, kind = self._words["groups"], rng.random()
        group, other = (groups[number] for number in rng.choice(len(groups), 2, replace=False))
        own = [
            (text, present) for present in (True, False) for text in group.get("present" if present else "absent", ())
        ]
        has_nouns = "nouns" in group
        if own and (not has_nouns or kind < 0.3):
            text, present = own[rng.integers(len(own))]
            return Sentence(self._text(text, rng), (self._claim(group, present),))
        if not has_nouns:
            return self._one(rng)
        paired = kind > 0.85 and "nouns" in other and not set(group["any"]) & set(other["any"])
        if kind < 0.65:
            name, signs = ("positive", (True,)) if kind < 0.48 else ("negative", (False,))
        elif not paired:
            name, signs = "negative", (False,)
        else:
            name, signs = (
                ("mixed", (True, False)),
                ("negative_pair", (False, False)),
                ("positive_pair", (True, True)),
            )[rng.integers(3)]
        text, claims = self._text(self._pick(self._words[name], rng), rng), []
        for slot, part, present in zip(("{n}", "{m}"), (group, other), signs, strict=False):
            phrase, claim = self._phrase(part, present, rng)
            text = text.replace(slot, phrase)
            claims.append(claim)
        return Sentence(text, tuple(claims))

    def _phrase(self, group: dict[str, Any], present: bool, rng: np.random.Generator) -> tuple[str, Claim]:
        """A group's noun, with size and side where it is claimed to be present."""
        noun = self._text(self._pick(group["nouns"], rng), rng)
        size = side = ""
        if present and group.get("sided") and rng.random() < _SIDED:
            side = ("left", "right", "both")[rng.integers(3)]
            used, placed = self._used, []
            for kind in ("sides", "places"):
                self._used = used
                placed.append((self._text(self._pick(self._words[kind][side], rng), rng), self._used))
            before = rng.random() < 0.6
            words, self._used = placed[0 if before else 1]  # what the other one held out does not count
            noun = f"{words} {noun}" if before else f"{noun} {words}"
        if present and group.get("sized") and rng.random() < _SIZED:
            size = ("small", "moderate", "large")[rng.integers(3)]
            noun = f"{self._text(self._pick(self._words['sizes'][size], rng), rng)} {noun}"
        return noun, self._claim(group, present, size, side)

    @staticmethod
    def _claim(group: dict[str, Any], present: bool, size: str = "", side: str = "") -> Claim:
        return Claim(tuple(group["any"]), present, size, side)

    def _pick(self, options: list[str], rng: np.random.Generator) -> str:
        known = [text for text in options if self._held_out or not text.startswith("~")]
        return known[rng.integers(len(known))]

    def _text(self, pattern: str, rng: np.random.Generator) -> str:
        """A pattern with every choice taken."""
        if pattern.startswith("~"):
            self._used, pattern = True, pattern[1:]

        def choose(match: re.Match[str]) -> str:
            options = [part for part in match[1].split("|") if self._held_out or not part.startswith("~")]
            chosen = options[rng.integers(len(options))]
            self._used |= chosen.startswith("~")
            return chosen.removeprefix("~")

        return _CHOICE.sub(choose, pattern)


def _all_choices(pattern: str) -> list[str]:
    match = _CHOICE.search(pattern)
    if match is None:
        return [pattern]
    return [
        text
        for part in match[1].split("|")
        for text in _all_choices(pattern[: match.start()] + part + pattern[match.end() :])
    ]


def _names(sentence: Sentence) -> set[str]:
    return {name for claim in sentence.claims for name in claim.findings}


def main() -> None:
    """Prints sentences and their meaning."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="sentences that training never draws")
    options = parser.parse_args()
    rng, sentences = np.random.default_rng(options.seed), Sentences(options.held_out)
    for _ in range(options.count):
        sentence = sentences.draw(rng)
        claims = [
            f"{'+' if claim.present else '-'}{'|'.join(claim.findings)} {claim.size} {claim.side}".strip()
            for claim in sentence.claims
        ]
        print(f"{sentence.text:70} {'; '.join(claims)}")


if __name__ == "__main__":
    main()
