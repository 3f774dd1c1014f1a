"""What is explained: a probe's findings, prompts, or likeness to another case, as numbers of an encoder's answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from cxr_embed.encoders import CheckedEncoder
from cxr_embed.errors import MapError
from cxr_embed.explanation.tensors import TensorValues, cosine_of_mean, largest_cosine, probe_values
from cxr_embed.index.faiss.vectors import pooled, unit

if TYPE_CHECKING:
    from cxr_embed.probe.persistence import TrainedProbe

Unit = Literal["log odds", "cosine"]


@dataclass(frozen=True)
class Length:
    """What a cosine is divided by: the length of the image's own vector, `weight @ x + bias`.

    Attributes:
        output: of the encoder, that x is.
        weight, bias: `(D, F)` and `(D,)` float64; None where the vector is x itself.
    """

    output: str
    weight: np.ndarray | None = None
    bias: np.ndarray | None = None

    def of(self, vector: np.ndarray) -> float:
        """Of an image whose x is `vector`, `(F,)`."""
        wide = vector.astype(np.float64)
        if self.weight is not None and self.bias is not None:
            wide = self.weight @ wide + self.bias
        return float(np.linalg.norm(wide))


@dataclass(frozen=True)
class Linear:
    """Values that are linear in a vector: `weights @ (x - mean) + intercept`, divided by a length where there is one.

    Attributes:
        weights: `(T, D)` float64.
        mean: `(D,)` float64, of the vectors that the probe learned from.
        intercept: `(T,)` float64.
        pool: how the grid's vectors become x, where x is made of a grid: `mean`, `max` or `flatten`.
        length: of a cosine; None for values that are linear as they are.
    """

    weights: np.ndarray
    mean: np.ndarray
    intercept: np.ndarray
    pool: str
    length: Length | None = None

    def at(self, vector: np.ndarray) -> Linear:
        """The values of an image whose x is `vector`, `(D,)`: its length is a number."""
        if self.length is None:
            return self
        size = max(self.length.of(vector), 1e-12)
        return replace(self, weights=self.weights / size, intercept=self.intercept / size, length=None)


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
        tensor_values: `values` of tensors, where they have a gradient.
    """

    names: tuple[str, ...]
    shown: tuple[str, ...]
    output: str
    unit: Unit
    values: Callable[[np.ndarray], np.ndarray]
    linear: Linear | None = None
    why: str = ""
    tensor_values: TensorValues | None = None

    def scores(self, values: np.ndarray) -> np.ndarray:
        """Values as scores are shown: of log odds the probability."""
        if self.unit != "log odds":
            return values
        from cxr_embed.probe.loss import probability  # what has no probe waits for no scikit-learn

        return probability(values)


def of_probe(trained: TrainedProbe, findings: Sequence[str]) -> Targets:
    """Findings of a probe, all that it learned by default; their values are its logits.

    Raises:
        MapError: for a finding that it lacks, or could not learn.
    """
    from cxr_embed.probe import LinearProbe

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
        tensor_values=probe_values(probe, rows),
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
        linear=_cosines(encoder, text.output, directions) if len(encoder.spec.outputs[text.output]) == 1 else None,
        why="the largest of several cosines is not linear",
        tensor_values=largest_cosine(directions),
    )


def of_case(encoder: CheckedEncoder, name: str, answer: Mapping[str, np.ndarray]) -> Targets:
    """Likeness to a case; its value is the cosine that a search ranks by.

    Args:
        encoder: which embedded it.
        name: of the case.
        answer: the encoder's, of that one image.
    """
    output = encoder.spec.search_output
    vectors = pooled(answer[output], encoder.spec.outputs[output])
    return of_vectors(encoder, output, vectors, (f"like {name}",))


def of_vectors(encoder: CheckedEncoder, output: str, vectors: np.ndarray, names: Sequence[str]) -> Targets:
    """Likeness to vectors; its values are the cosines with the image's own, which is pooled by mean where it has many.

    With the length of the image's own vector a cosine is linear in that vector.

    Args:
        encoder: which embedded them.
        output: that they are of.
        vectors: `(T, D)` of any length.
        names: of the T cases.
    """
    shape = encoder.spec.outputs[output]
    directions = unit(vectors)

    def values(found: np.ndarray) -> np.ndarray:
        return np.asarray(unit(pooled(found, shape)) @ directions.T, np.float64)

    return Targets(
        names=tuple(names),
        shown=("Likeness to another case",) * len(directions),
        output=output,
        unit="cosine",
        values=values,
        linear=_cosines(encoder, output, directions),
        tensor_values=cosine_of_mean(directions),
    )


def _cosines(encoder: CheckedEncoder, output: str, directions: np.ndarray) -> Linear:
    """Cosines of an output's vector, or the mean of its vectors, with directions `(T, D)` of unit length."""
    weights = directions.astype(np.float64)  # (T, D)
    intercept, length = np.zeros(len(weights)), Length(output)
    if output in encoder.projections:
        weight, bias = (array.astype(np.float64) for array in encoder.projections[output])
        weights, intercept, length = weights @ weight, weights @ bias, Length("features", weight, bias)
    return Linear(weights, np.zeros(weights.shape[1]), intercept, "mean", length)
