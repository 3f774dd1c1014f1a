"""What `targets` computes of an encoder's answer, once more in torch, so that it has gradients."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from cxr_embed.probe.base import Probe

# Vectors of an output, `(B, *shape)` float64 on any device, to values `(B, T)`.
TensorValues = Callable[[Any], Any]


def probe_values(probe: Probe, rows: list[int]) -> TensorValues | None:
    """The logits of a probe's findings `rows`; None where they have no gradient."""
    from cxr_embed.probe import LinearProbe, MLPProbe
    from cxr_embed.probe.attention import AttentionProbe

    if not isinstance(probe, LinearProbe | MLPProbe | AttentionProbe):
        return None

    def values(vectors: Any) -> Any:
        learned = [_like(part, vectors) for part in (probe.mean_, probe.scale_)]
        standard = (_pooled(vectors, probe.pooling) - learned[0]) / learned[1]
        if isinstance(probe, MLPProbe):
            first, bias, last, level = (_like(layer[rows], vectors) for layer in probe.layers_)
            hidden = (standard[:, None, None] @ first).squeeze(2) + bias  # (B, T, hidden)
            return (hidden.relu() * last).sum(dim=2) + level
        coefficients, level = _like(probe.coef_[rows], vectors), _like(probe.intercept_[rows], vectors)
        if isinstance(probe, LinearProbe):
            return standard @ coefficients.T + level
        tokens = standard.unflatten(1, (-1, int(probe.width or 1)))  # (B, N, D)
        shares = (tokens @ _like(probe.query_[rows], vectors).T / tokens.shape[2] ** 0.5).softmax(dim=1)
        return (shares * (tokens @ coefficients.T)).sum(dim=1) + level

    return values


def largest_cosine(directions: np.ndarray) -> TensorValues:
    """The largest cosine of an image's vectors with each of some directions `(T, D)` of length 1."""

    def values(vectors: Any) -> Any:
        tokens = vectors.flatten(1, -2) if vectors.ndim > 2 else vectors[:, None]  # (B, N, D)
        return (_unit(tokens) @ _like(directions, vectors).T).amax(dim=1)

    return values


def cosine_of_mean(directions: np.ndarray) -> TensorValues:
    """The cosines of the mean of an image's vectors with directions `(T, D)` of length 1."""

    def values(vectors: Any) -> Any:
        return _unit(_pooled(vectors, "mean")) @ _like(directions, vectors).T

    return values


def _pooled(vectors: Any, pool: str) -> Any:
    if vectors.ndim <= 2 or pool == "flatten":
        return vectors.flatten(1)
    tokens = vectors.flatten(1, -2)
    return tokens.amax(dim=1) if pool == "max" else tokens.mean(dim=1)


def _unit(vectors: Any) -> Any:
    return vectors / vectors.norm(dim=-1, keepdim=True)


def _like(array: np.ndarray, vectors: Any) -> Any:
    import torch

    return torch.as_tensor(np.asarray(array), dtype=vectors.dtype, device=vectors.device)
