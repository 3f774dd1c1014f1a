"""A test picture, and what encoders gave for it where that was measured: does one do here what it did there?

A vector is kept as its sketch: 64 signed sums of its values. The distance of two sketches is near that of the vectors
(Achlioptas, 2003, doi 10.1016/S0022-0000(03)00025-4), whatever their length.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.types import CxrImage, EncoderSpec

GOLDEN = Path(__file__).with_name("golden.json")
SUMS = 64
ALLOWED = {"float32": 1e-3, "bf16": 0.07}  # of the vector's length; a cosine of 0.998 is 0.063


def picture() -> CxrImage:
    """A chest as a child would draw it: `(320, 260)` of 12 bits, by whole numbers alone, so that no bit can differ."""
    y, x = np.mgrid[:320, :260].astype(np.int64)

    def ellipse(top: int, left: int, high: int, wide: int) -> np.ndarray:
        inside: np.ndarray = ((y - top) * wide) ** 2 + ((x - left) * high) ** 2 < (high * wide) ** 2
        return inside

    body = np.where(ellipse(190, 130, 210, 125), 2400, 150)
    lungs = ellipse(150, 72, 105, 42) | ellipse(150, 190, 105, 40)
    ribs = np.abs((y + np.abs(x - 130) // 3) % 44 - 22) * 25
    grain = (x * 7919 + y * 104729 + x * y * 31) % 97
    heart = ellipse(205, 145, 48, 52) & ~ellipse(150, 72, 105, 30)
    pixels = np.where(lungs, 600 + ribs, body) + grain
    pixels = np.where(heart, 2800 + grain, pixels)
    pixels[12:30, 8:40] = 4095  # a marker
    return CxrImage(pixels=pixels.astype(np.uint16), bits=12, content_id="", source="png")


def sketch(vector: np.ndarray) -> np.ndarray:
    """A vector, or tokens or a map as one, to `(64,)` float32: sums, whose signs follow from its length alone."""
    values = np.asarray(vector, np.float64).ravel()
    stream = hashlib.shake_256(b"cxr-embed").digest(-(-SUMS * len(values) // 8))
    bits = np.unpackbits(np.frombuffer(stream, np.uint8))[: SUMS * len(values)].reshape(SUMS, len(values))
    sums: np.ndarray = ((2.0 * bits - 1) @ values / np.sqrt(SUMS)).astype(np.float32)
    return sums


@cache
def golden() -> dict[str, dict[str, Any]]:
    """What was measured: fingerprint to `name`, and `sketches` by output."""
    known: dict[str, dict[str, Any]] = json.loads(GOLDEN.read_text())
    return known


def compared(spec: EncoderSpec, vectors: dict[str, np.ndarray], precision: str) -> dict[str, dict[str, Any]]:
    """How far the test picture's vectors are from those that were measured.

    Args:
        spec: the encoder's.
        vectors: output to the picture's vector.
        precision: in which they were computed.

    Returns:
        By output: `sketch`; `apart`, relative to the golden vector's length, None where none is known; `allowed`.
    """
    known = golden().get(spec.fingerprint, {}).get("sketches", {})
    found: dict[str, dict[str, Any]] = {}
    for output, vector in vectors.items():
        sums, apart = sketch(vector), None
        if output in known:
            want = np.asarray(known[output], np.float32)
            apart = float(np.linalg.norm(sums - want) / np.linalg.norm(want))
        found[output] = {
            "sketch": [float(f"{value:.6g}") for value in sums],
            "apart": apart,
            "allowed": ALLOWED[precision],
        }
    return found
