"""Ark+ (Ma et al., 2025): timm's Swin-L on pictures of 768, learned from the labels of six public data sets.

Its authors hand the weights out on request, under Arizona State University's licence: for non-commercial research only.
Code: https://github.com/jlianglab/Ark, `Ark_Plus`. The published checkpoint is a training's; the teacher in it is the
model. `projected` is what its authors keep as embeddings (1376), `features` the network's own vector before it (1536).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders.conversion import Converted, all_matching, network_tensors, tensors_of
from cxr_embed.encoders.converted import ConvertedEncoder, state_shapes
from cxr_embed.encoders.pixels import IMAGENET_DEVIATION, IMAGENET_MEAN, as_uint8, normalised
from cxr_embed.grids import Grid
from cxr_embed.types import CxrImage, Precision

# Arguments of timm's `SwinTransformer`, and the projector's width.
ARCHITECTURE: dict[str, Any] = {
    "img_size": 768,
    "window_size": 12,
    "embed_dim": 192,
    "depths": (2, 2, 18, 2),
    "num_heads": (6, 12, 24, 48),
}
PROJECTED = 1376
_NETWORK = "Ark+ (Swin-L, 768, window 12, projector)"
_STEM = "patch_embed.proj.weight"
# Buffers that a model makes anew, and the classifiers of pre-training.
_UNUSED = re.compile(r"relative_position_index$|attn_mask$|^omni_heads\.|^head\.")


def make_ark() -> Any:
    """timm's Swin with the projector beside it, random."""
    import torch
    from timm.models.swin_transformer import SwinTransformer

    model = SwinTransformer(patch_size=4, num_classes=0, **ARCHITECTURE)
    model.projector = torch.nn.Linear(model.num_features, PROJECTED)
    return model


def convert_ark(path: Path, sha256: str | None) -> Converted:
    """The teacher of a published checkpoint under timm's names, projector included.

    Args:
        path: the checkpoint, `Ark6_swinLarge768_ep50.pth.tar`.
        sha256: what its publisher says of it.

    Raises:
        EncoderError: where it cannot be read, has another digest, or is not a whole Ark+.
    """
    tensors, source = tensors_of(path, sha256, {})
    # The student beside it is the same network, and not the one that is meant.
    teacher = {name: values for name, values in tensors.items() if name.startswith("teacher.")}
    found = network_tensors(teacher or tensors, _STEM, path, _NETWORK)
    import torch

    # timm of the checkpoint's time reduces at a stage's end, today's at the next one's start.
    old = "layers.0.downsample.reduction.weight" in found
    kept = {
        re.sub(r"^layers\.(\d+)\.downsample", lambda at: f"layers.{int(at[1]) + old}.downsample", name): values
        for name, values in found.items()
        if not _UNUSED.search(name)
    }
    with torch.device("meta"):
        shapes = state_shapes(make_ark())
    return Converted(all_matching(path, _NETWORK, kept, shapes), source)


class ArkEncoder(ConvertedEncoder):
    """Ark+."""

    network = _NETWORK
    published = "Ark6_swinLarge768_ep50.pth.tar"

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        threads: int | None = None,
        outputs: Sequence[str] = ("projected",),
    ) -> None:
        super().__init__(name, weights=weights, device=device, precision=precision, threads=threads)
        self._side = ARCHITECTURE["img_size"]
        width = ARCHITECTURE["embed_dim"] * 2 ** (len(ARCHITECTURE["depths"]) - 1)
        shapes: dict[str, tuple[int, ...]] = {"projected": (PROJECTED,), "features": (width,)}
        self.describe(
            "1",
            f"grey as 8 bits, 0..max to 0..255, half up; to {self._side} x {self._side} whatever its shape (Pillow, "
            "bicubic); three equal channels, ImageNet's mean and deviation",
            {output: shapes[output] for output in outputs},
        )

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """`(3, S, S)` float32, as its authors' notebook makes embeddings: squeezed to a square."""
        from PIL import Image

        grey = Image.fromarray(as_uint8(image.pixels, image.max_value))
        square = grey.resize((self._side, self._side), Image.Resampling.BICUBIC)
        return normalised(np.asarray(square), IMAGENET_MEAN, IMAGENET_DEVIATION)

    @property
    def frame(self) -> Grid:
        """Where the model's input lies on the picture."""
        return Grid("whole")

    def make_model(self) -> Any:
        """Swin and projector."""
        return make_ark()

    def features(self, model: Any, pixels: Any) -> Any:
        """Tensors: `(B, 3, S, S)` to the wanted outputs, one behind the other."""
        import torch

        own = model(pixels)
        found = {"features": own, "projected": model.projector(own)}
        return torch.cat([found[output] for output in self._spec.outputs], dim=1)


make = ArkEncoder
