"""Probes: classifiers of findings on cached vectors. Arrays in, arrays out; neither torch nor tensorflow is needed."""

from cxr_embed.probe.features import ProbeError
from cxr_embed.probe.heads import KNNProbe, MLPProbe
from cxr_embed.probe.linear import LinearProbe

__all__ = ["KNNProbe", "LinearProbe", "MLPProbe", "ProbeError"]
