"""`embed --engine ray`: one actor against plain `embed`, and two nodes against one.

    python benchmarks/ray_embed.py overhead --images 20000 --rounds 3
    python benchmarks/ray_embed.py nodes --images 1000 --rounds 3

Both embed the same PNGs, in turn, and compare the seconds of the run's own work: a run over a fifth as many other
files is taken off each, so that starting Ray, or Python, is left out; all actors are at work well within it.
`overhead` is hog with one worker. `nodes` is densenet121 (random weights, one thread an actor) on a cluster of one
node and of two, each a raylet on loopback. The figure is the median of the pairs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from ray_nodes import RayNodes

COMMAND = [sys.executable, "-m", "cxr_embed"]
ONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1"}


def pictures(folder: Path, count: int, side: int) -> Path:
    """Distinct files and their manifest."""
    folder.mkdir()
    rng = np.random.default_rng(count)
    lines = ["image_id,path,patient_id"]
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (side, side), dtype=np.uint8)).save(folder / f"{number}.png")
        lines.append(f"image-{number},{number}.png,p{number}")
    (folder / "m.csv").write_text("\n".join(lines) + "\n")
    return folder / "m.csv"


def seconds(few: Path, many: Path, store: Path, words: list[str], environment: dict[str, str]) -> float:
    """Of a run over many files, less those of a run over a few: of four fifths of the many."""
    took = []
    for which, manifest in (("few", few), ("many", many)):
        began = time.perf_counter()
        subprocess.run(
            [*COMMAND, "embed", str(manifest), "--store", f"{store}-{which}", "--workers", "1", *words],
            env={**os.environ, **environment, **ONE},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        took.append(time.perf_counter() - began)
    return took[1] - took[0]


def overhead(images: int, rounds: int, work: Path) -> None:
    few, many = pictures(work / "few", images // 5, 224), pictures(work / "many", images, 224)
    ratios = []
    for number in range(rounds):
        plain = seconds(few, many, work / f"plain{number}", ["--encoder", "hog"], {})
        on_ray = seconds(few, many, work / f"ray{number}", ["--encoder", "hog", "--engine", "ray", "--actors", "1"], {})
        ratios.append(on_ray / plain)
        show(f"plain {plain:.1f} s, one actor {on_ray:.1f} s: {ratios[-1]:.3f}")
    print(f"median {statistics.median(ratios):.3f} of {rounds}, {images:,} files")


def nodes(images: int, rounds: int, work: Path) -> None:
    few, many = pictures(work / "few", images // 5, 512), pictures(work / "many", images, 512)
    weights = work / "random.safetensors"
    subprocess.run(
        [*COMMAND, "weights", "random", "densenet121", "--out", str(weights)], check=True, stdout=subprocess.DEVNULL
    )
    words = ["--encoder", "densenet121", "--weights", str(weights), "--device", "cpu", "--engine", "ray"]
    ratios = []
    with RayNodes(1) as one, RayNodes(2) as two:
        for number in range(rounds):
            took = [
                seconds(few, many, work / f"{name}{number}", [*words, "--address", at.address], at.environment)
                for name, at in (("one", one), ("two", two))
            ]
            ratios.append(took[0] / took[1])
            show(f"one node {took[0]:.1f} s, two {took[1]:.1f} s: {ratios[-1]:.2f}x")
    print(f"median {statistics.median(ratios):.2f}x of {rounds}, {images:,} files")


def show(line: str) -> None:
    print(f"{line}; load {os.getloadavg()[0]:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "nodes"])
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        {"overhead": overhead, "nodes": nodes}[given.what](given.images, given.rounds, Path(folder))


if __name__ == "__main__":
    main()
