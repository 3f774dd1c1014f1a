"""The encoders as a list: what each is for, and what it still needs here. All of it is read from their rows."""

from __future__ import annotations

from typing import Any

from cxr_embed.encoders.card import EncoderCard
from cxr_embed.encoders.registry import ENCODERS
from cxr_embed.types import DEMONSTRATES

SCORES = "scores"  # the output that holds a model's own answers
_MAPS = ("map", "patches", "shared")  # outputs that hold one vector a place
# Prompts to compare images with, findings that it answers by itself, a vector a place, a vector an image.
TASKS = ("words", "classes", "maps", "vectors")


def tasks_of(card: EncoderCard) -> list[str]:
    """What an encoder can do, in the order of `TASKS`."""
    can = {"words": card.text, "classes": SCORES in card.outputs, "maps": bool(maps_of(card)), "vectors": True}
    return [task for task in TASKS if can[task]]


def maps_of(card: EncoderCard) -> list[str]:
    """The outputs that have a vector for each place of the picture, also those that only some checkpoints have."""
    own = [output for output, shape in card.outputs.items() if output in _MAPS or len(shape) == 3]
    return [*own, *(output for output in card.on_request if output in _MAPS)]


def needs_of(card: EncoderCard) -> list[str]:
    """What is not on this machine: packages by the extra that brings them, weights, or a checkpoint's name."""
    needs = []
    if not card.installed:
        needs.append(f"extra {card.extra}" if card.extra else "packages")
    if card.is_family:
        needs.append("a checkpoint")
    elif card.weights_here is False:
        needs.append("weights")
    return needs


def install_command(card: EncoderCard) -> str:
    """What installs the packages that an encoder needs."""
    return f"pip install 'cxr-embed[{card.extra}]'" if card.extra else "pip install cxr-embed"


def encoder_rows() -> list[dict[str, Any]]:
    """The table of encoders as plain JSON values, by task: those with words first."""
    rows = [_row(card) for card in ENCODERS.values()]
    return sorted(rows, key=lambda row: TASKS.index(row["tasks"][0]))


def _row(card: EncoderCard) -> dict[str, Any]:
    scores = card.outputs.get(SCORES)
    return {
        "name": card.name,
        "tasks": tasks_of(card),
        "outputs": {name: list(shape) for name, shape in card.outputs.items()},
        "default_outputs": list(card.default_outputs or card.outputs),
        "classes": None if scores is None else (scores[0] if scores else "its own"),
        "maps": maps_of(card),
        "pixels": list(card.pixels),
        "text": card.text,
        "licence": card.licence,
        "gated": card.gated,
        "installed": card.installed,
        "install": install_command(card),
        "has_weights": card.has_weights,
        "weights_here": card.weights_here,
        "needs": needs_of(card),
        "trained_on": card.trained_on,
        "stand_in": DEMONSTRATES.format(card.name) if card.bundled else "",
    }
