"""The ways to train the image tower that were compared, by name; RESULTS.md says what each gave."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from cases import Cases
from network import Model, Tower
from pretrain import BATCH, pretrain
from safetensors.torch import load_file, save_file
from train import Plan, train


@dataclass(frozen=True)
class Recipe:
    """How a tower is trained on labelled radiographs.

    Attributes:
        plan: of the supervised part.
        contrast: epochs of self-supervision before it.
        start: whether it goes on from a tower that phantoms taught.
        beside: whether phantoms join every batch.
    """

    plan: Plan
    contrast: int = 0
    start: bool = False
    beside: bool = False


RECIPES = {
    "plain": Recipe(Plan(epochs=30)),
    "mirrored": Recipe(Plan(epochs=30, flip=True)),
    "mirrored-twice-as-long": Recipe(Plan(epochs=60, flip=True)),
    "contrast": Recipe(Plan(epochs=30, flip=True), contrast=15),
    "phantoms": Recipe(Plan(epochs=30, flip=True), start=True, beside=True),
    "long": Recipe(Plan(epochs=60, flip=True), start=True, beside=True),
    # Made of phantoms alone: the start of others. Their labels are true and their patients many, so nothing is mixed.
    "teach": Recipe(Plan(epochs=8, flip=True, mixup=0.0)),
}


def fit(recipe: Recipe, cases: Cases, seed: int, phantoms: Cases | None = None, start: Path | None = None) -> Model:
    """Trains as the recipe says.

    Args:
        cases: labelled radiographs.
        phantoms: what a recipe with `beside` needs.
        start: a tower's file, which a recipe with `start` needs.
    """
    tower, batch = None, BATCH if recipe.contrast else recipe.plan.batch
    if len(cases) < batch:
        raise SystemExit(f"{len(cases)} radiographs to learn from; this recipe takes a batch of {batch} at least")
    if recipe.contrast:
        tower = pretrain(cases, recipe.contrast, seed)
    elif recipe.start:
        if start is None:
            raise SystemExit("this recipe goes on from a tower that phantoms taught: --start FILE")
        tower = load_tower(start)
    if recipe.beside and phantoms is None:
        raise SystemExit("this recipe learns from phantoms too: --phantoms FOLDER")
    return train(cases, recipe.plan, seed, tower, phantoms if recipe.beside else None)


def save_tower(tower: Tower, path: Path) -> None:
    """Weights in half precision, statistics and shifts in single: half the size, and the features move by 0.1 %."""
    state = {name: value for name, value in tower.state_dict().items() if value.is_floating_point()}
    small = {name: value.half() if value.ndim == 4 else value for name, value in state.items()}
    aside = path.with_name(path.name + ".part")
    save_file({name: value.contiguous() for name, value in small.items()}, aside)
    aside.replace(path)


def load_tower(path: Path) -> Tower:
    """A tower from such a file, in training mode."""
    tower = Tower()
    state = {name: value.float() for name, value in load_file(path).items()}
    counts = {name: value for name, value in tower.state_dict().items() if not value.is_floating_point()}
    tower.load_state_dict(state | counts)
    return tower.to(memory_format=torch.channels_last)
