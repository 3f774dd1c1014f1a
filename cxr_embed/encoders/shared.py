"""`shared`: patches in the space of the image's vector, by the encoder's own weights, each read as if it stood alone.

An attention that has one patch to look at gives that patch's value, whatever queries and keys are. So the last
attention on the way to the vector is given each patch by itself, and all that follows it stays as it is: where the
vector is the class token, that is the last block, normalisation and projection (MaskCLIP: Zhou et al., 2022, arXiv
2112.01071), else the attention that pools. What is pooled by the mean needs no such step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cxr_embed.encoders.patches import Patches

SHARED = "shared"


def given_to(block: Any, run: Callable[[], Any]) -> tuple[Any, Any]:
    """What a function gives, and what a module is given while it runs: tensors of torch."""
    seen: list[Any] = []
    hook = block.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    try:
        answer = run()
    finally:
        hook.remove()
    return answer, seen[0]


def alone(patches: Any, read: Callable[[Any], Any], copies: int = 1) -> Any:
    """Each patch read by itself.

    Args:
        patches: a tensor `(B, H, W, D)`.
        read: sequences of tokens `(N, copies, D)` to vectors `(N, E)`.
        copies: how often the patch stands in its sequence, for a head that leaves the first tokens out.

    Returns:
        `(B, H, W, E)`.
    """
    _, rows, columns, width = patches.shape
    found = read(patches.reshape(-1, 1, width).expand(-1, copies, -1))
    return found.reshape(-1, rows, columns, found.shape[-1])


def of_clip(model: Any, run: Callable[[], Any], cells: Patches, source: str) -> tuple[Any, Any]:
    """Of transformers' CLIP.

    Args:
        model: `CLIPModel`.
        run: its image side.
        cells: which of its tokens are patches.
        source: for messages.

    Returns:
        What `run` gives, and `(B, H, W, D)`.
    """
    vision = model.vision_model
    last = vision.encoder.layers[-1]
    answer, tokens = given_to(last, run)

    def read(token: Any) -> Any:
        return model.visual_projection(vision.post_layernorm(last(token, None)[:, 0]))

    return answer, alone(cells.of(tokens, source), read)


def of_siglip(model: Any, run: Callable[[], Any], cells: Patches, source: str) -> tuple[Any, Any]:
    """Of transformers' SigLIP, likewise."""
    answer = run()
    return answer, alone(cells.of(answer.last_hidden_state, source), model.vision_model.head)
