"""`hog`: histograms of oriented gradients (Dalal and Triggs, 2005). No weights: the floor for every learned encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cxr_embed.encoders.resample import crop_and_resize
from cxr_embed.errors import EncoderError
from cxr_embed.types import CxrImage, EncoderSpec, Precision

SIDE = 128
CELL = 16
ORIENTATIONS = 9
BLOCK = 2
_BLOCKS = SIDE // CELL - BLOCK + 1
WIDTH = _BLOCKS**2 * BLOCK**2 * ORIENTATIONS


class HogEncoder:
    """scikit-image's HOG of the centre-cropped radiograph at 128 x 128."""

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        threads: int | None = None,
    ) -> None:
        if weights is not None:
            raise EncoderError("hog is computed, not learned: it takes no `weights`")
        if device == "cuda":
            raise EncoderError("hog runs on the CPU only; leave out `device='cuda'`")
        if precision != "float32":
            raise EncoderError("hog is computed in float32; leave out `precision`")
        self._spec = EncoderSpec(
            name=name,
            revision="1",
            preprocessing=(
                f"grey; 0..max to -1024..1024; centre crop to the shorter side; resize to {SIDE} "
                "(order 1, Gaussian anti-aliasing, zeros outside)"
            ),
            outputs={"features": (WIDTH,)},
        )

    @property
    def spec(self) -> EncoderSpec:
        """What this encoder computes."""
        return self._spec

    @property
    def engine(self) -> str:
        """Library and version."""
        from importlib.metadata import version

        return f"scikit-image {version('scikit-image')} float32 cpu"

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """`(128, 128)` float32."""
        return crop_and_resize(image.pixels, image.max_value, SIDE)

    def embed(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """`(B, 128, 128)` to `{"features": (B, 1764) float32}`, each block L2-Hys normalised."""
        from skimage.feature import hog

        vectors = [
            hog(
                image,
                orientations=ORIENTATIONS,
                pixels_per_cell=(CELL, CELL),
                cells_per_block=(BLOCK, BLOCK),
                block_norm="L2-Hys",
            )
            for image in batch
        ]
        return {"features": np.asarray(vectors, dtype=np.float32)}


make = HogEncoder
