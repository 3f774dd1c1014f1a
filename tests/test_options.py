"""One name for one option: what verbs share is spelled, typed and explained alike, and stands where it makes sense."""

from __future__ import annotations

import functools
from collections import defaultdict
from typing import Any

import pytest
import typer

from cxr_embed.cli import app
from cxr_embed.cli.options import prevalences

# Every verb whose input has it takes it.
WHERE = {
    "--finding": {
        *("evaluate", "report", "scores", "zeroshot", "index evaluate"),
        *("explain", "explain curves", "explain evaluate"),
        *("probe train", "probe curve", "probe evaluate", "probe compare"),
    },
    "--split": {
        *("evaluate", "report", "zeroshot"),
        *("probe train", "probe predict", "probe evaluate", "probe compare"),
    },
    "--by": {"evaluate", "report", "probe evaluate"},
    "--threshold": {"evaluate", "report", "zeroshot", "probe train", "probe evaluate"},
    "--prevalence": {"evaluate", "report", "zeroshot", "probe evaluate"},
    "--thresholds-split": {"evaluate", "report", "probe train", "probe evaluate"},
    "--calibrate": {"evaluate", "report", "probe evaluate"},
    "--bootstraps": {
        *("evaluate", "report", "zeroshot", "index evaluate", "explain curves", "explain evaluate"),
        *("probe evaluate", "probe compare"),
    },
}
# What means the same to all verbs is explained in the same words.
ALIKE = {
    *("--bootstraps", "--calibrate", "--count-no-finding", "--device", "--engine", "--extra", "--follow-links"),
    *("--blank", "--json", "--prevalence", "--thresholds-split", "--uncertain"),
}
# Once, or several times; a number, or several; how many, or whether; what an encoder's vectors can be made into there;
# whether small pictures are kept beside an index, or where a server keeps them.
OWN_TYPES = {"--explain", "--store", "--patient", "-k", "--output", "--pool", "--probe", "--shots"}
OWN_TYPES |= {"--against", "--thumbnails"}
# One word, two things: what a probe is, and what an index is; a likeness, a part of a map's highest value and a score.
NAMESAKES = {
    *(("--kind", "index build"), ("--threshold", "index duplicates"), ("--threshold", "explain evaluate")),
    *(("--format", "phantom"), ("--engine", "embed")),
}


@functools.cache
def options() -> dict[str, dict[str, Any]]:
    """Each option, by its verbs."""
    found: dict[str, dict[str, Any]] = defaultdict(dict)

    def walk(command: Any, path: tuple[str, ...]) -> None:
        for name, inner in getattr(command, "commands", {}).items():
            if not inner.hidden:
                walk(inner, (*path, name))
        if not hasattr(command, "commands"):
            for param in command.params:
                if param.param_type_name == "option" and not param.hidden:
                    found[param.opts[0]][" ".join(path)] = param

    walk(typer.main.get_command(app), ())
    return found


@pytest.mark.parametrize("option", WHERE)
def test_an_option_stands_wherever_it_makes_sense(option: str) -> None:
    verbs = {verb for verb in options()[option] if (option, verb) not in NAMESAKES}
    assert verbs == WHERE[option]


def test_one_name_has_one_type() -> None:
    for option, verbs in options().items():
        types = {repr(param.bare_type()) for verb, param in verbs.items() if (option, verb) not in NAMESAKES}
        assert len(types) == 1 or option in OWN_TYPES, (option, types)


@pytest.mark.parametrize("option", sorted(ALIKE))
def test_one_meaning_has_one_explanation(option: str) -> None:
    verbs = options()[option].items()
    assert len({param.help for verb, param in verbs if (option, verb) not in NAMESAKES}) == 1


def test_every_verb_that_a_program_would_read_prints_json() -> None:
    every = {verb for verbs in options().values() for verb in verbs}
    silent = every - set(options()["--json"])
    assert silent <= {"demo", "serve", "weights convert", "weights random", ""}, silent


@pytest.mark.parametrize(
    ("words", "rates"),
    [
        (None, None),
        (["0.02"], 0.02),
        (["Mass=0.1"], {"Mass": 0.1}),
        (["0.02", "Mass=0.1"], {"*": 0.02, "Mass": 0.1}),
        (["Mass=0.1", "0.02"], 0.02),
        (["Mass=0.1", "Mass=0.3"], {"Mass": 0.3}),
    ],
)
def test_a_later_prevalence_wins(words: list[str] | None, rates: object) -> None:
    assert prevalences(words) == rates
