"""Embed chest radiographs once, then do everything else on the cached vectors. For research, not a medical device."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cxr_embed.telemetry import opt_out
from cxr_embed.version import __version__ as __version__

if TYPE_CHECKING:
    from cxr_embed.api.ask import ask
    from cxr_embed.api.convert import convert_manifest
    from cxr_embed.api.crop import crop_manifest
    from cxr_embed.api.curve import few_label_curve
    from cxr_embed.api.embed import embed, embed_images
    from cxr_embed.api.evaluate import compare, evaluate
    from cxr_embed.api.explain import explain
    from cxr_embed.api.index_evaluation import evaluate_index
    from cxr_embed.api.map_curves import evaluate_curves
    from cxr_embed.api.maps import evaluate_maps
    from cxr_embed.api.marks import export_marks
    from cxr_embed.api.merge import merge_manifests
    from cxr_embed.api.own_scores import scores
    from cxr_embed.api.probe import load_probe, train_probe
    from cxr_embed.api.report import report
    from cxr_embed.api.scan import scan_folder
    from cxr_embed.api.screen import screen
    from cxr_embed.api.search import build_index, open_index
    from cxr_embed.benchmark import bench
    from cxr_embed.encoders import load_encoder
    from cxr_embed.errors import CxrEmbedError
    from cxr_embed.index import CaseIndex
    from cxr_embed.manifest import read_manifest
    from cxr_embed.probe import LinearProbe
    from cxr_embed.store import open_store

opt_out()

_HOME = {
    "CaseIndex": "cxr_embed.index",
    "CxrEmbedError": "cxr_embed.errors",
    "LinearProbe": "cxr_embed.probe",
    "ask": "cxr_embed.api.ask",
    "bench": "cxr_embed.benchmark",
    "build_index": "cxr_embed.api.search",
    "compare": "cxr_embed.api.evaluate",
    "convert_manifest": "cxr_embed.api.convert",
    "crop_manifest": "cxr_embed.api.crop",
    "embed": "cxr_embed.api.embed",
    "embed_images": "cxr_embed.api.embed",
    "evaluate_index": "cxr_embed.api.index_evaluation",
    "evaluate": "cxr_embed.api.evaluate",
    "evaluate_curves": "cxr_embed.api.map_curves",
    "evaluate_maps": "cxr_embed.api.maps",
    "explain": "cxr_embed.api.explain",
    "export_marks": "cxr_embed.api.marks",
    "few_label_curve": "cxr_embed.api.curve",
    "load_encoder": "cxr_embed.encoders",
    "load_probe": "cxr_embed.api.probe",
    "merge_manifests": "cxr_embed.api.merge",
    "open_index": "cxr_embed.api.search",
    "open_store": "cxr_embed.store",
    "read_manifest": "cxr_embed.manifest",
    "report": "cxr_embed.api.report",
    "scan_folder": "cxr_embed.api.scan",
    "scores": "cxr_embed.api.own_scores",
    "screen": "cxr_embed.api.screen",
    "train_probe": "cxr_embed.api.probe",
}

__all__ = [
    "CaseIndex",
    "CxrEmbedError",
    "LinearProbe",
    "ask",
    "bench",
    "build_index",
    "compare",
    "convert_manifest",
    "crop_manifest",
    "embed",
    "embed_images",
    "evaluate",
    "evaluate_curves",
    "evaluate_index",
    "evaluate_maps",
    "explain",
    "export_marks",
    "few_label_curve",
    "load_encoder",
    "load_probe",
    "merge_manifests",
    "open_index",
    "open_store",
    "read_manifest",
    "report",
    "scan_folder",
    "scores",
    "screen",
    "train_probe",
]


def __getattr__(name: str) -> Any:
    # Imported on first use: a machine that only reads vectors pays for nothing else.
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
