"""What timm knows of a model by its name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any

from cxr_embed.errors import EncoderError


def known_settings(name: str) -> dict[str, Any]:
    """timm's settings for a model and its pretrained weights.

    Raises:
        EncoderError: for a name that timm does not know, with the nearest ones.
    """
    import timm

    architecture, _, tag = name.partition(".")
    if timm.is_model(architecture):
        settings = timm.get_pretrained_cfg(name, allow_unregistered=False) if _is_tag(architecture, tag) else None
        if settings is not None:
            return dict(settings.to_dict())
        known = timm.list_models(f"{architecture}.*", pretrained=True)
        raise EncoderError(f"timm has no weights {name}; of {architecture} there are {', '.join(known) or 'none'}")
    raise EncoderError(f"timm has no model {architecture}; {nearest(architecture, timm.list_models())}")


def nearest(name: str, known: Sequence[str]) -> str:
    """The known names that are most like another, as a question."""
    near = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(sorted(known)[:5])}, ..."


def _is_tag(architecture: str, tag: str) -> bool:
    import timm

    return not tag or f"{architecture}.{tag}" in timm.list_models(f"{architecture}.*", pretrained=True)
