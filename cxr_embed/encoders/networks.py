"""The networks themselves, written once over a handful of operations, so that every engine runs the same definition.

Names of the weights are those of torchvision's and TorchXRayVision's state dicts.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

DENSE_BLOCKS = (6, 12, 24, 16)  # DenseNet-121: Huang et al., 2017, table 1
RESIDUAL_BLOCKS = (3, 4, 6, 3)  # ResNet-50: He et al., 2016, table 1
STRIDE = 32  # pixels of a side that both make one cell of


class Ops(Protocol):
    """What an engine must offer. Tensors are `(B, C, H, W)`; weights are looked up by name."""

    def conv(self, x: Any, weight: str, stride: int = 1, pad: int = 0) -> Any:
        """Convolution without bias."""

    def norm(self, x: Any, prefix: str) -> Any:
        """Batch normalisation with the stored statistics."""

    def relu(self, x: Any) -> Any:
        """max(x, 0)."""

    def max_pool(self, x: Any) -> Any:
        """3 x 3, stride 2, padding 1."""

    def halve(self, x: Any) -> Any:
        """Mean of 2 x 2 blocks."""

    def concat(self, x: Any, y: Any) -> Any:
        """Along the channels."""

    def add(self, x: Any, y: Any) -> Any:
        """Elementwise."""

    def double(self, x: Any) -> Any:
        """Every value to a block of 2 x 2."""

    def mean(self, x: Any) -> Any:
        """Global average pool: `(B, C, H, W)` to `(B, C)`."""

    def highest(self, x: Any) -> Any:
        """Global maximum: `(B, C, H, W)` to `(B, C)`."""


Network = Callable[[Ops, Any], Any]


def densenet121(ops: Ops, x: Any) -> Any:
    """DenseNet-121 without its classifier: `(B, C, 224, 224)` to `(B, 1024)`."""
    return ops.mean(densenet121_map(ops, x))


def densenet121_map(ops: Ops, x: Any) -> Any:
    """DenseNet-121 up to its last activation: `(B, C, 224, 224)` to `(B, 1024, 7, 7)`."""
    x = ops.conv(x, "features.conv0.weight", stride=2, pad=3)
    x = ops.max_pool(ops.relu(ops.norm(x, "features.norm0")))
    for block, layers in enumerate(DENSE_BLOCKS, start=1):
        for layer in range(1, layers + 1):
            prefix = f"features.denseblock{block}.denselayer{layer}"
            y = ops.conv(ops.relu(ops.norm(x, f"{prefix}.norm1")), f"{prefix}.conv1.weight")
            y = ops.conv(ops.relu(ops.norm(y, f"{prefix}.norm2")), f"{prefix}.conv2.weight", pad=1)
            x = ops.concat(x, y)
        if block < len(DENSE_BLOCKS):
            prefix = f"features.transition{block}"
            x = ops.halve(ops.conv(ops.relu(ops.norm(x, f"{prefix}.norm")), f"{prefix}.conv.weight"))
    return ops.relu(ops.norm(x, "features.norm5"))


def resnet50(ops: Ops, x: Any) -> Any:
    """ResNet-50 without its classifier: `(B, 1, 512, 512)` to `(B, 2048)`."""
    return ops.mean(resnet50_map(ops, x))


def resnet50_map(ops: Ops, x: Any) -> Any:
    """ResNet-50 up to its last activation: `(B, 1, 512, 512)` to `(B, 2048, 16, 16)`.

    The stride is in the 3 x 3 convolution.
    """
    x = ops.max_pool(ops.relu(ops.norm(ops.conv(x, "conv1.weight", stride=2, pad=3), "bn1")))
    for stage, blocks in enumerate(RESIDUAL_BLOCKS, start=1):
        for block in range(blocks):
            prefix = f"layer{stage}.{block}"
            stride = 2 if stage > 1 and block == 0 else 1
            y = ops.relu(ops.norm(ops.conv(x, f"{prefix}.conv1.weight"), f"{prefix}.bn1"))
            y = ops.relu(ops.norm(ops.conv(y, f"{prefix}.conv2.weight", stride=stride, pad=1), f"{prefix}.bn2"))
            y = ops.norm(ops.conv(y, f"{prefix}.conv3.weight"), f"{prefix}.bn3")
            if block == 0:
                x = ops.norm(ops.conv(x, f"{prefix}.downsample.0.weight", stride=stride), f"{prefix}.downsample.1")
            x = ops.relu(ops.add(x, y))
    return x


# A network to the same without its mean.
MAPS: dict[Network, Network] = {densenet121: densenet121_map, resnet50: resnet50_map}


class ShapeOps:
    """Runs a network on channel counts alone, and so lists the weights that it needs, with their shapes."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    def conv(self, x: int, weight: str, stride: int = 1, pad: int = 0) -> int:
        out, kernel = _conv_shape(weight, x, pad)
        self.shapes[weight] = (out, x, kernel, kernel)
        return out

    def norm(self, x: int, prefix: str) -> int:
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.shapes[f"{prefix}.{name}"] = (x,)
        return x

    def same(self, x: int) -> int:
        return x

    relu = max_pool = halve = double = mean = highest = same

    def concat(self, x: int, y: int) -> int:
        return x + y

    def add(self, x: int, y: int) -> int:
        return x


def _conv_shape(weight: str, channels: int, pad: int) -> tuple[int, int]:
    """Output channels and kernel size of a convolution, from its place in the network."""
    kernel = 2 * pad + 1
    if weight.startswith("features."):
        if weight == "features.conv0.weight":
            return 64, kernel
        if "transition" in weight:
            return channels // 2, kernel
        return (32 if weight.endswith("conv2.weight") else 128), kernel
    if weight == "conv1.weight":
        return 64, kernel
    width = 64 * 2 ** (int(weight[len("layer")]) - 1)
    wide = weight.endswith(("conv3.weight", "downsample.0.weight"))
    return (4 * width if wide else width), kernel


def weight_shapes(network: Network, channels: int = 1) -> dict[str, tuple[int, ...]]:
    """Every weight that the network reads, by name, for pictures of so many channels."""
    ops = ShapeOps()
    network(ops, channels)
    return ops.shapes
