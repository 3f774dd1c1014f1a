"""Cross-validation by patient of one recipe, on the train split alone: what RESULTS.md was written from.

python examples/train_mini/compare.py nih --recipe mirrored --folds 0 1 2 --log results.jsonl

Every line of the log is one fold: AUROC, the mean of the findings with 40 positives or more, of the model's own head
and of a linear probe that learned from the tower's features on the other folds.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from cases import Cases, load_cases
from recipes import RECIPES, fit
from sklearn.model_selection import GroupKFold
from train import answers

from cxr_embed.metrics import auroc
from cxr_embed.probe import LinearProbe

FOLDS = 3
ENOUGH = 40  # positives in the train split; the test split then has some fifteen


def scored(cases: Cases, logits: np.ndarray, findings: list[str]) -> dict[str, float]:
    """AUROC by finding; `logits` has a column a finding of `cases`."""
    columns = [cases.findings.index(name) for name in findings]
    return {
        name: float(auroc(cases.labels[:, column], logits[:, column]).value)
        for name, column in zip(findings, columns, strict=True)
    }


def share_of(cases: Cases, share: float, seed: int) -> Cases:
    """The cases of a random share of the patients."""
    patients = np.unique(cases.patients)
    kept = np.random.default_rng(seed).permutation(patients)[: round(share * len(patients))]
    return cases.take(np.isin(cases.patients, kept))


def main() -> None:
    """One line a fold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--recipe", choices=RECIPES, required=True)
    parser.add_argument("--folds", type=int, nargs="+", default=list(range(FOLDS)))
    parser.add_argument("--share", type=float, default=1.0, help="of the training patients of a fold")
    parser.add_argument("--phantoms", type=Path)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--features", type=Path, help="a folder: of each fold, what the text side's comparison needs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases = load_cases(options.folder, "train")
    phantoms = load_cases(options.phantoms) if options.phantoms else None
    findings = [
        name
        for name, count in zip(cases.findings, np.nansum(cases.labels, axis=0), strict=True)
        if count >= ENOUGH and name != "No Finding"
    ]
    parts = list(GroupKFold(FOLDS, shuffle=True, random_state=0).split(cases.ids, groups=cases.patients))
    for fold in options.folds:
        known, asked = cases.take(parts[fold][0]), cases.take(parts[fold][1])
        known, began = share_of(known, options.share, options.seed), time.process_time()
        model = fit(RECIPES[options.recipe], known, options.seed, phantoms, options.start)
        spent = time.process_time() - began
        (learned, _), (features, logits) = answers(model, known), answers(model, asked)
        if options.features:
            name = f"{options.recipe}-{fold}-{options.seed}.npz"
            both = {"learned": learned, "learned_ids": known.ids, "features": features, "ids": asked.ids}
            np.savez(options.features / name, logits=logits, **both)
        probe = LinearProbe().fit(learned, known.labels, known.patients)
        by_probe = scored(asked, probe.decision_function(features), findings)
        by_head = scored(asked, logits, findings)
        line = {
            "recipe": options.recipe,
            "fold": fold,
            "share": options.share,
            "seed": options.seed,
            "images": len(known),
            "cpu_seconds": round(spent),
            "head": round(float(np.mean(list(by_head.values()))), 4),
            "probe": round(float(np.mean(list(by_probe.values()))), 4),
            "findings": {name: round(value, 3) for name, value in by_probe.items()},
        }
        print(json.dumps(line), flush=True)
        with options.log.open("a") as file:
            file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
