"""Heat maps: `explain --maps-only` against `embed` of the same images, and `occlusion` of one; whole commands."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from common import Line, fresh, in_turn, median, repeated_originals, seconds

from cxr_embed import train_probe
from cxr_embed.cli.encoders import random as make_random_weights

IMAGES = 1000
LEARNED = 40


def run(work: Path) -> list[Line]:
    """`cam` of DenseNet-121 with random weights, and `occlusion` of `mini`, 14 x 14 squares."""
    manifest = repeated_originals(work / "originals", IMAGES)
    weights, few = work / "random.safetensors", work / "few"
    make_random_weights("densenet121", weights)
    environment = {**os.environ, "XDG_CACHE_HOME": str(work / "cache")}

    def command(*words: object) -> float:
        line = [sys.executable, "-m", "cxr_embed", *map(str, words)]
        return seconds(lambda: subprocess.run(line, check=True, capture_output=True, env=environment))

    encoder = ("--weights", weights, "--encoder", "densenet121")
    command("embed", manifest, *encoder, "--store", few, "--limit", LEARNED, "--precision", "float32")
    labels = {"image_id": [f"{number:05d}" for number in range(LEARNED)], "a": [n // 2 % 2 for n in range(LEARNED)]}
    train_probe(few, labels).save(work / "probe")

    def embed(precision: str) -> float:
        return command("embed", manifest, *encoder, "--store", fresh(work / "store"), "--precision", precision)

    def explain() -> float:
        words = ("--manifest", manifest, "--probe", work / "probe", "--weights", weights, "--maps-only")
        return command("explain", *words, "--out", fresh(work / "maps"))

    figures = in_turn(3, embed=lambda: embed("float32"), explain=explain, usual=lambda: embed("auto"))
    took = {name: median(values) for name, values in figures.items()}
    picture, one = manifest.parent / "00000.png", work / "one"
    squares = ("--prompt", "pleural effusion", "--method", "occlusion", "--out")
    command("explain", picture, *squares, fresh(one))
    alone = median(in_turn(5, one=lambda: command("explain", picture, *squares, fresh(one)))["one"])
    return [
        Line(
            f"`cam` of {IMAGES:,} images, DenseNet-121, against embedding them in float32",
            "at most 1.3x the time",
            f"{took['explain'] / took['embed']:.2f}x ({took['explain']:.1f} and {took['embed']:.1f} s; embedding them "
            f"as usual, in this CPU's fastest arithmetic, {took['usual']:.1f} s)",
        ),
        Line("`occlusion`, 14 x 14 squares, `mini`, one image, start included", "2 s", f"{alone:.2f} s"),
    ]
