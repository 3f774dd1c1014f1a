"""Plain pieces that several test files use."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import cache
from pathlib import Path

import numpy as np
from launcher import Launcher

from cxr_embed.store import Row, StoreWriter, writer
from cxr_embed.types import CxrImage, EncoderSpec, Stamp

# Where CI runs, the long tests do a part of what they do by hand.
IN_CI = bool(os.environ.get("CI"))

SPEC = EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"features": (4,), "tokens": (3, 2)})


def vectors(number: int) -> dict[str, np.ndarray]:
    """What the toy encoder gives for image `number`."""
    rng = np.random.default_rng(number)
    return {"features": rng.standard_normal(4), "tokens": rng.standard_normal((3, 2))}


def content(number: int) -> bytes:
    """A content id for image `number`."""
    return number.to_bytes(32, "big")


def row(number: int, patient: str | None = None) -> Row:
    """The row of image `number`."""
    return Row(
        image_id=f"i{number}",
        patient_id=patient or f"p{number // 2}",
        content=content(number),
        stamp=Stamp(1, 2, 3 + number),
    )


def fill(path: Path, numbers: range, shard: int = 10, spec: EncoderSpec = SPEC, **options: object) -> None:
    """Adds images to a store, a shard every `shard` rows."""
    with StoreWriter(path, spec, **options) as writer:  # type: ignore[arg-type]
        for number in numbers:
            writer.add_vector(row(number), vectors(number))
            if writer.pending == shard:
                writer.flush("toy engine")
        writer.flush("toy engine")


@cache
def shared_launcher() -> Launcher:
    """The one of this process, started when it is first needed."""
    return Launcher(os.environ)


def run_cli(
    *arguments: str, cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """The command line as a user runs it, in a process of its own: a fork where that is the same (`launcher`)."""
    environment = os.environ if env is None else env
    if sys.platform == "linux" and shared_launcher().can_fork(environment):
        return shared_launcher().run(arguments, cwd, environment)
    command = [sys.executable, "-m", "cxr_embed", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=env, stdin=subprocess.DEVNULL)


class MeanEncoder:
    """A fast encoder of our own, reached as `helpers:make_mean`: 16 means of the picture, and its brightest value."""

    engine = "numpy float32 cpu"
    spec = EncoderSpec(
        name="mean", revision="1", preprocessing="means of 4 x 4 fields", outputs={"means": (16,), "peak": (1,)}
    )

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """`(4, 4)` float32 means."""
        side = min(image.pixels.shape) // 4 * 4
        fields = image.pixels[:side, :side].reshape(4, side // 4, 4, side // 4)
        means: np.ndarray = fields.mean(axis=(1, 3), dtype=np.float64).astype(np.float32)
        return means

    def embed(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Flattened means and their maximum."""
        flat = batch.reshape(len(batch), -1)
        return {"means": flat, "peak": flat.max(axis=1, keepdims=True)}


def make_mean(name: str, **options: object) -> MeanEncoder:
    """Makes the encoder that tests run in worker processes."""
    del name, options
    return MeanEncoder()


class StuckEncoder(MeanEncoder):
    """Never gets done with a batch, and says when it has begun."""

    def embed(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """Waits."""
        print("at it", flush=True)
        threading.Event().wait()
        return super().embed(batch)


def make_stuck(name: str, **options: object) -> StuckEncoder:
    """Makes the encoder of workers whose run is killed."""
    del name, options
    return StuckEncoder()


class SlowEncoder(MeanEncoder):
    """Takes its time, so that its run can be killed."""

    def embed(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """A hundredth of a second an image."""
        threading.Event().wait(0.01 * len(batch))
        return super().embed(batch)


def make_slow(name: str, **options: object) -> SlowEncoder:
    """Makes an encoder whose process publishes every few rows, as far as it writes."""
    del name, options
    writer.SHARD_ROWS = 8
    return SlowEncoder()


class UnfitEncoder(MeanEncoder):
    """Gives what is not a number."""

    spec = EncoderSpec(name="unfit", revision="1", preprocessing="none", outputs={"means": (16,)})

    def embed(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """NaN."""
        return {"means": np.full((len(batch), 16), np.nan, np.float32)}


def make_unfit(name: str, **options: object) -> UnfitEncoder:
    """Makes the encoder of cells that fail."""
    del name, options
    return UnfitEncoder()


class PickyEncoder(MeanEncoder):
    """Cannot read some of the images."""

    spec = EncoderSpec(name="picky", revision="1", preprocessing="none", outputs={"means": (16,), "peak": (1,)})

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """Means, of images whose content begins with a digit."""
        if not image.content_id[0].isdigit():
            raise ValueError("not for me")
        return super().preprocess(image)


def make_picky(name: str, **options: object) -> PickyEncoder:
    """Makes the encoder of stores that lack images."""
    del name, options
    return PickyEncoder()
