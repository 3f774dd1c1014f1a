"""Trains the image tower on the train split of a folder, and writes it with the features that it gives.

python examples/train_mini/train_image.py phantoms --every-split --recipe teach --out taught.safetensors
python examples/train_mini/train_image.py nih --recipe long --start taught.safetensors --phantoms phantoms \
    --out image.safetensors --features features.npz
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from cases import load_cases
from recipes import RECIPES, fit, save_tower
from train import answers


def main() -> None:
    """Reads, trains, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with a manifest.csv; only rows of its train split are used")
    parser.add_argument("--every-split", action="store_true", help="all rows: of phantoms that test nothing")
    parser.add_argument("--recipe", choices=RECIPES, required=True)
    parser.add_argument("--phantoms", type=Path, help="a folder as `cxr-embed phantom` makes it")
    parser.add_argument("--start", type=Path, help="a tower to go on from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="the tower, as safetensors")
    parser.add_argument("--features", type=Path, help="ids (N,) and features (N, 256) of the images, as npz")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = load_cases(options.folder, None if options.every_split else "train")
    phantoms = load_cases(options.phantoms) if options.phantoms else None
    model = fit(RECIPES[options.recipe], cases, options.seed, phantoms, options.start)
    save_tower(model.tower, options.out)
    if options.features:
        np.savez(options.features, ids=cases.ids, features=answers(model, cases)[0])


if __name__ == "__main__":
    main()
