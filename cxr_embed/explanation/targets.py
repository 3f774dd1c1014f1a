"""What is explained: a probe's findings, prompts, or likeness to another case, as numbers of an encoder's answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cxr_embed.encoders import CheckedEncoder
from cxr_embed.errors import MapError
from cxr_embed.index.faiss.vectors import pooled, unit
from cxr_embed.probe import LinearProbe
from cxr_embed.probe.loss import probability
from cxr_embed.probe.persistence import TrainedProbe

Unit = Literal["log odds", "cosine"]


@dataclass(frozen=True)
class Linear:
    """Values that are linear in a vector: `weights @ (x - mean) + intercept`.

    Attributes:
        weights: `(T, D)` float64.
        mean: `(D,)` float64, of the vectors that the probe learned from.
        intercept: `(T,)` float64.
        pool: how the grid's vectors become x, where the probe reads a grid: `mean`, `max` or `flatten`.
    """

    weights: np.ndarray
    mean: np.ndarray
    intercept: np.ndarray
    pool: str


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What an encoder's answer is asked for.

    Attributes:
        names: the T findings, prompts, or the case.
        shown: the same, as they may stand on a picture: a file's name may say whose it is.
        output: of the encoder.
        unit: of the values.
        values: vectors of the output, `(B, *shape)` float32, to `(B, T)` float64.
        linear: the same values, where they are linear in the vector.
        why: they are not, in words; blank where they are.
    """

    names: tuple[str, ...]
    shown: tuple[str, ...]
    output: str
    unit: Unit
    values: Callable[[np.ndarray], np.ndarray]
    linear: Linear | None = None
    why: str = ""

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Values as scores are shown: of log odds the probability."""
        return probability(values) if self.unit == "log odds" else values


def of_probe(trained: TrainedProbe, findings: Sequence[str]) -> Targets:
    """Findings of a probe, all that it learned by default; their values are its logits.

    Raises:
        MapError: for a finding that it lacks, or could not learn.
    """
    known = [name for name in trained.findings if name not in trained.undefined]
    chosen = list(dict.fromkeys(findings)) or known
    for name in chosen:
        if name in trained.undefined:
            raise MapError(f"the probe has no scores for {name!r}: {trained.undefined[name]}")
        if name not in known:
            raise MapError(f"the probe has no finding {name!r}; it has {', '.join(known)}")
    rows, probe = [trained.findings.index(name) for name in chosen], trained.probe
    linear, why = None, f"the probe is {probe.kind}, not linear"
    if isinstance(probe, LinearProbe):
        linear, why = Linear(probe.coef_[rows] / probe.scale_, probe.mean_, probe.intercept_[rows], probe.pooling), ""
    return Targets(
        names=tuple(chosen),
        shown=tuple(chosen),
        output=trained.output,
        unit="log odds",
        values=lambda vectors: probe.decision_function(vectors)[:, rows],
        linear=linear,
        why=why,
    )


def of_prompts(encoder: CheckedEncoder, prompts: Sequence[str]) -> Targets:
    """Prompts; their values are the largest cosine with the image's vectors.

    Raises:
        EncoderError: for an encoder without words, or a prompt that it does not read.
    """
    words = encoder.embed_text(prompts)
    text = encoder.spec.text
    if text is None or text.output not in encoder.spec.outputs:
        raise MapError(f"{encoder.spec.name} says no output that its prompts are compared with")
    directions = unit(words)

    def values(vectors: np.ndarray) -> np.ndarray:
        tokens = unit(vectors.reshape(len(vectors), -1, vectors.shape[-1]))
        return np.asarray((tokens @ directions.T).max(axis=1), np.float64)

    return Targets(
        names=tuple(prompts),
        shown=tuple(prompts),
        output=text.output,
        unit="cosine",
        values=values,
        why="a cosine is not linear in the map",
    )


def of_case(encoder: CheckedEncoder, name: str, answer: Mapping[str, np.ndarray]) -> Targets:
    """Likeness to a case; its value is the cosine that a search ranks by.

    Args:
        encoder: which embedded it.
        name: of the case.
        answer: the encoder's, of that one image.
    """
    output = encoder.spec.search_output
    shape = encoder.spec.outputs[output]
    direction = unit(pooled(answer[output], shape))[0]

    def values(vectors: np.ndarray) -> np.ndarray:
        return np.asarray(unit(pooled(vectors, shape)) @ direction, np.float64)[:, None]

    return Targets(
        names=(f"like {name}",),
        shown=("Likeness to another case",),
        output=output,
        unit="cosine",
        values=values,
        why="a cosine is not linear in the map",
    )
