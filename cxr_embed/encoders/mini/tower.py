"""The image tower of `mini`: a small residual network (He et al., 2016) of dense 3 x 3 convolutions.

Names of the weights are those of the training's modules, `examples/train_mini/network.py`.
"""

from __future__ import annotations

from typing import Any

from cxr_embed.encoders.networks import Ops

STAGES = 4
MEANS, MAXIMA = 192, 64  # of the last stage, of the fine map
FEATURES = MEANS + MAXIMA
CELLS = 28  # of the fine map, on a side; the last stage's are four times as wide


def tower(ops: Ops, x: Any) -> Any:
    """`(B, 1, S, S)` standardised pixels to `(B, 256)` features.

    Means of the last stage see what is large; maxima of a fine map, where coarse stages are enlarged and added to finer
    ones (Lin et al., 2017), see what is small or thin.
    """
    last, fine = _stages(ops, x)
    return ops.concat(ops.mean(last), ops.highest(fine))


def tower_map(ops: Ops, x: Any) -> Any:
    """`(B, 1, S, S)` to what the features are means and maxima of, `(B, 256, 28, 28)`: the last stage enlarged."""
    last, fine = _stages(ops, x)
    return ops.concat(ops.double(ops.double(last)), fine)


def _stages(ops: Ops, x: Any) -> tuple[Any, Any]:
    """The last stage `(B, 192, 7, 7)` and the fine map `(B, 64, 28, 28)`."""
    stages = []
    for conv, norm in ((0, 1), (3, 4)):
        x = ops.relu(ops.norm(ops.conv(x, f"stem.{conv}.weight", stride=2, pad=1), f"stem.{norm}"))
    for stage in range(STAGES):
        stride, prefix = (2 if stage else 1), f"stages.{stage}"
        y = ops.relu(ops.norm(ops.conv(x, f"{prefix}.residual.0.weight", stride=stride, pad=1), f"{prefix}.residual.1"))
        y = ops.norm(ops.conv(y, f"{prefix}.residual.3.weight", pad=1), f"{prefix}.residual.4")
        if stage:
            x = ops.norm(ops.conv(x, f"{prefix}.shortcut.0.weight", stride=stride), f"{prefix}.shortcut.1")
        x = ops.relu(ops.add(y, x))
        stages.append(x)
    fine = ops.conv(stages[-1], "narrow.2.weight")
    for stage in (2, 1):
        fine = ops.add(ops.double(fine), ops.conv(stages[stage], f"narrow.{stage - 1}.weight"))
    fine = ops.relu(ops.norm(fine, "joined"))
    fine = ops.relu(ops.norm(ops.conv(fine, "fine.0.weight", pad=1), "fine.1"))
    return x, fine
