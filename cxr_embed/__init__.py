"""Embed chest radiographs once, then do everything else on the cached vectors. For research, not a medical device."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from cxr_embed.telemetry import opt_out

if TYPE_CHECKING:
    from cxr_embed.encoders import load_encoder
    from cxr_embed.errors import CxrEmbedError
    from cxr_embed.evaluation import evaluate
    from cxr_embed.index import CaseIndex
    from cxr_embed.manifest import read_manifest
    from cxr_embed.pipeline.embedding import embed
    from cxr_embed.probe import LinearProbe
    from cxr_embed.store import open_store

opt_out()

try:
    __version__ = version("cxr-embed")
except PackageNotFoundError:  # run from a checkout that was not installed
    __version__ = "0+unknown"

__all__ = [
    "CaseIndex",
    "CxrEmbedError",
    "LinearProbe",
    "embed",
    "evaluate",
    "load_encoder",
    "open_store",
    "read_manifest",
]

_HOME = {
    "CaseIndex": "cxr_embed.index",
    "CxrEmbedError": "cxr_embed.errors",
    "LinearProbe": "cxr_embed.probe",
    "embed": "cxr_embed.pipeline.embedding",
    "evaluate": "cxr_embed.evaluation",
    "load_encoder": "cxr_embed.encoders",
    "open_store": "cxr_embed.store",
    "read_manifest": "cxr_embed.manifest",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: a machine that only reads vectors pays for nothing else.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
