"""`shared` of open_clip's image towers, its own transformer and timm's: see `cxr_embed.encoders.shared`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from cxr_embed.encoders.open_clip_pixels import PixelRecipe
from cxr_embed.encoders.patches import Patches, covered
from cxr_embed.encoders.shared import alone, given_to
from cxr_embed.errors import EncoderError


def cells_of(visual: Any, recipe: PixelRecipe, source: str) -> Patches:
    """The patches among an image tower's tokens.

    Args:
        visual: the tower, without numbers.
        recipe: of its pixels.
        source: for messages.

    Raises:
        EncoderError: for a tower that pools otherwise than by a class token, an attention or the mean.
    """
    trunk = getattr(visual, "trunk", None)
    if trunk is None:
        known = getattr(visual, "pool_type", "") == "tok" and getattr(visual, "attn_pool", None) is None
        embedding, before, width = visual, 1, visual.conv1.out_channels if known else 0
    else:
        known = hasattr(trunk, "blocks") and hasattr(trunk, "num_prefix_tokens")
        known = known and (getattr(trunk, "attn_pool", None) is not None or trunk.global_pool in ("token", "avg"))
        embedding, before = getattr(trunk, "patch_embed", None), getattr(trunk, "num_prefix_tokens", 0)
        width = trunk.num_features
    cells, patch = (getattr(embedding, name, None) for name in ("grid_size", "patch_size"))
    if not known or not cells or not patch:
        raise EncoderError(f"`outputs` shared: {source}: it is not known how its image tower pools its patches")
    return Patches((*cells, width), before, covered(recipe.frame, (recipe.height, recipe.width), cells, patch))


def vectors_of(visual: Any, pixels: Any, cells: Patches, source: str) -> tuple[Any, Any]:
    """Tensors: `(B, 3, S, S)` to the vectors `(B, D)` and to `shared`, `(B, H, W, D)`."""
    trunk = getattr(visual, "trunk", None)
    if trunk is None:
        last = visual.transformer.resblocks[-1]
        vectors, tokens = given_to(last, partial(visual, pixels))
        return vectors, _read(tokens, cells, source, lambda token: visual._pool(last(token))[0] @ visual.proj)

    def head(tokens: Any) -> Any:
        return visual.head(trunk.forward_head(tokens))

    if getattr(trunk, "attn_pool", None) is None and trunk.global_pool == "token":
        last = trunk.blocks[-1]
        found, tokens = given_to(last, partial(trunk.forward_features, pixels))
        return head(found), _read(tokens, cells, source, lambda token: head(trunk.norm(last(token))))
    found = trunk.forward_features(pixels)
    return head(found), _read(found, cells, source, head)


def _read(tokens: Any, cells: Patches, source: str, read: Callable[[Any], Any]) -> Any:
    """Heads leave the other tokens out, or take the first: so each patch stands in the place of them too."""
    return alone(cells.of(tokens, source), read, cells.before + 1)
