"""EVA-X (Yao et al., 2025, doi 10.1038/s41746-025-02032-z): timm's `Eva`, learned from radiographs without labels.

Weights and code: https://github.com/hustvl/EVA-X (MIT).

The vector is what its authors' `eva_x.py` hands to a classifier: the mean of the patches' tokens, normalised by the
layer that stood last in pre-training. Pixels are those of its evaluation on NIH ChestX-ray14.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders.conversion import Converted, all_matching, network_tensors, tensors_of
from cxr_embed.encoders.converted import ConvertedEncoder, state_shapes
from cxr_embed.encoders.pixels import as_uint8, centre_of, normalised
from cxr_embed.errors import EncoderError
from cxr_embed.grids import Grid, middle
from cxr_embed.types import CxrImage, Precision

SIDE, SHORTER = 224, 256
_MEAN, _DEVIATION = (0.49185243,) * 3, (0.28509309,) * 3
# Arguments of timm's `Eva`; the base model alone has separate tensors for query, key and value, and scaled layers.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "eva-x-tiny": {"embed_dim": 192, "num_heads": 3, "depth": 12},
    "eva-x-small": {"embed_dim": 384, "num_heads": 6, "depth": 12},
    "eva-x-base": {"embed_dim": 768, "num_heads": 12, "depth": 12, "qkv_fused": False, "scale_mlp": True},
}
# Of the files on the Hub, as its pages show them (MapleF/eva_x).
_KNOWN = {
    "f82d6fc450a83ac7c4d32fa9f0d6459ea7a53fd08e47fdef0cb12ce35c97174d": "eva_x_tiny_patch16_merged520k_mim.pt",
    "135d70a6988b5aacfe4848e1c2a0d524b2c076536fcaccdce88b636d302316c2": "eva_x_small_patch16_merged520k_mim.pt",
    "35dc7012c1a49cba01f5a31a8d777db39258078c85cfad3f3c9a41deb172e1b4": "eva_x_base_patch16_merged520k_mim.pt",
}
# What pre-training leaves behind, and what a model makes anew.
_UNUSED = ("mask_token", "lm_head.", "head.", "rope.")
_STEM = "patch_embed.proj.weight"


def make_eva_x(name: str) -> Any:
    """timm's `Eva` for an EVA-X, without a classifier and with random weights."""
    from timm.models.eva import Eva

    return Eva(
        img_size=SIDE,
        patch_size=16,
        mlp_ratio=4 * 2 / 3,
        swiglu_mlp=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(SIDE // 16, SIDE // 16),
        num_classes=0,
        **ARCHITECTURES[name],
    )


def convert_eva_x(name: str, path: Path, sha256: str | None) -> Converted:
    """A pre-trained EVA-X under timm's names.

    Args:
        name: `eva-x-tiny`, `eva-x-small` or `eva-x-base`.
        path: the published file.
        sha256: what the publisher says of it.

    Raises:
        EncoderError: where it cannot be read, has another digest, or is not the whole of that EVA-X.
    """
    network = _network(name)
    tensors, source = tensors_of(path, sha256, {digest: f"MapleF/eva_x, {file}" for digest, file in _KNOWN.items()})
    found = network_tensors(tensors, _STEM, path, network)
    import torch
    from timm.models.eva import checkpoint_filter_fn

    with torch.device("meta"):
        model = make_eva_x(name)
    shapes = state_shapes(model)
    # timm would resize both for a model of other patches: here they are another model's.
    for key in (_STEM, "pos_embed"):
        if key in found and found[key].shape != shapes[key]:
            raise EncoderError(
                f"{path}: {key} has shape {found[key].shape}, {network} has {shapes[key]}; these are another network's "
                "weights, or another size's"
            )
    renamed = checkpoint_filter_fn({key: torch.from_numpy(values) for key, values in found.items()}, model)
    kept = {key: values.numpy() for key, values in renamed.items() if not key.startswith(_UNUSED)}
    return Converted(all_matching(path, network, kept, shapes), source)


def _network(name: str) -> str:
    return f"EVA-X-{name.removeprefix('eva-x-').capitalize()}"


class EvaXEncoder(ConvertedEncoder):
    """One EVA-X."""

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        threads: int | None = None,
    ) -> None:
        self.network, self.pinned = _network(name), tuple(_KNOWN)
        self.published = f"eva_x_{name.removeprefix('eva-x-')}_patch16_merged520k_mim.pt"
        super().__init__(name, weights=weights, device=device, precision=precision, threads=threads)
        self.describe(
            "1",
            f"grey as 8 bits, 0..max to 0..255, half up; shorter side to {SHORTER} (Pillow, bicubic); centre "
            f"{SIDE} x {SIDE}; three equal channels, less 0.49185243, by 0.28509309",
            {"features": (ARCHITECTURES[name]["embed_dim"],)},
        )

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """`(3, 224, 224)` float32, as torchvision's `Resize(256)`, `CenterCrop(224)`, `Normalize` make it."""
        grey = as_uint8(image.pixels, image.max_value)
        return normalised(centre_of(grey, SHORTER, SIDE, "bicubic"), _MEAN, _DEVIATION)

    @property
    def frame(self) -> Grid:
        """Where the model's input lies on the picture."""
        return Grid("inside", middle(SIDE / SHORTER))

    def make_model(self) -> Any:
        """timm's `Eva`."""
        return make_eva_x(self._name)

    def features(self, model: Any, pixels: Any) -> Any:
        """Tensors: `(B, 3, 224, 224)` to `(B, D)`."""
        return model(pixels)


make = EvaXEncoder
