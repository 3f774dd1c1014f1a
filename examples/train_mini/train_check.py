"""Trains the check 'does not look like a chest radiograph' on the train split of a folder and on phantoms.

python examples/train_mini/train_check.py nih --phantoms phantoms --out likeness.safetensors

The threshold is chosen by cross-validation by patient: one in two hundred real radiographs is flagged.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path

import not_chests
import numpy as np
from cases import Cases, joined, load_cases
from safetensors.numpy import save_file
from scipy import ndimage
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GroupKFold
from sklearn.neural_network import MLPClassifier

from cxr_embed.images.likeness import thumbnail

VARIANTS = 4  # of each radiograph: turned a little, moved, brighter or darker, some of them mirrored
HIDDEN = 32
FALSE_ALARMS = 0.005
FOLDS = 3


def varied(chest: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A radiograph `(S, S)` in 0..1 as another exposure of the same patient might show it."""
    angle, scale = np.deg2rad(rng.uniform(-8, 8)), rng.uniform(0.85, 1.15)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / scale
    middle = (np.array(chest.shape) - 1) / 2
    shift = middle - turn @ (middle + rng.uniform(-10, 10, 2))
    moved = ndimage.affine_transform(chest, turn, shift, order=1, mode="nearest")
    bright: np.ndarray = np.clip(moved, 0, 1) ** rng.uniform(0.6, 1.6)
    return bright[:, ::-1] if rng.random() < 0.1 else bright


def fit(chests: np.ndarray, seed: int) -> MLPClassifier:
    """A network that tells `chests (N, S, S)` in 0..1 from drawn pictures."""
    rng = np.random.default_rng(seed)
    good = [thumbnail(varied(chest, rng), 1) for chest in chests for _ in range(VARIANTS)]
    bad = [thumbnail(picture, 1) for picture in not_chests.draw(chests, 2 * len(good), rng)]
    model = MLPClassifier((HIDDEN,), alpha=0.03, learning_rate_init=2e-3, max_iter=20, batch_size=128, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it stops early on purpose
        return model.fit(np.stack(good + bad), np.arange(len(good) + len(bad)) < len(good))


def logits(model: MLPClassifier, pictures: np.ndarray) -> np.ndarray:
    """`(N,)` from `(N, S, S)` in 0..1, by the network's own matrices: probabilities would round to 1."""
    hidden = np.maximum(np.stack([thumbnail(p, 1) for p in pictures]) @ model.coefs_[0] + model.intercepts_[0], 0)
    return (hidden @ model.coefs_[1] + model.intercepts_[1]).ravel()


def cross_validated(real: Cases, others: np.ndarray) -> np.ndarray:
    """Logits of the real radiographs, each from a network that never saw its patient."""
    pixels, result = real.pixels / np.float32(255), np.empty(len(real))
    for fold, (known, asked) in enumerate(GroupKFold(FOLDS).split(real.ids, groups=real.patients)):
        model = fit(np.concatenate([pixels[known], others]), fold)
        result[asked] = logits(model, pixels[asked])
        drawn = not_chests.draw(pixels[asked], 500, np.random.default_rng(fold))
        print(f"fold {fold}: {np.mean(logits(model, drawn) > 0):.1%} of drawn pictures pass at 0", flush=True)
    return result


def main() -> None:
    """Chooses the threshold, trains on everything, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="with a manifest.csv; only rows of its train split are used")
    parser.add_argument("--phantoms", type=Path, required=True)
    parser.add_argument("--count", type=int, default=400, help="phantoms that are used")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    real, phantoms = (load_cases(folder, "train", not_chests.SIDE) for folder in (options.folder, options.phantoms))
    phantoms = phantoms.take(np.arange(min(options.count, len(phantoms))))
    scores = cross_validated(real, phantoms.pixels / np.float32(255))
    threshold = float(np.quantile(scores, FALSE_ALARMS))
    print(f"threshold {threshold:.2f}: {np.mean(scores <= threshold):.2%} of radiographs left out are flagged")
    model = fit(joined([real, phantoms]).pixels / np.float32(255), FOLDS)
    tensors = {
        "hidden.weight": model.coefs_[0].T.astype(np.float16),
        "hidden.bias": model.intercepts_[0].astype(np.float32),
        "out.weight": model.coefs_[1].ravel().astype(np.float32),
        "out.bias": model.intercepts_[1].astype(np.float32),
        "threshold": np.array([threshold], np.float32),
    }
    aside = options.out.with_name(options.out.name + ".part")
    save_file({name: np.ascontiguousarray(values) for name, values in tensors.items()}, aside)
    aside.chmod(0o644)
    aside.replace(options.out)


if __name__ == "__main__":
    main()
