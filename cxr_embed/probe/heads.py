"""Probes that are not linear: a small network, and the nearest neighbours. The interface is `LinearProbe`'s."""

from __future__ import annotations

import warnings
from typing import ClassVar, Self

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from cxr_embed.probe.base import Probe, all_vectors
from cxr_embed.probe.features import ProbeError, Standard, VectorSource

_ROUNDING = 1e-6  # a cosine in a product of matrices is off by less


class MLPProbe(Probe):
    """One hidden layer a finding (scikit-learn's `MLPClassifier`), on the images where it is known.

    Args:
        hidden: units of the layer.
        decay: scikit-learn's alpha, the penalty on squared weights.
        epochs: the most passes over the images.
        pool: of token vectors: `mean`, `max` or `flatten`.
        seed: of the first weights and of the batches.

    After `fit` it has, besides what all probes have:

    Attributes:
        layers_: the weights of each layer, `(F, D, hidden)`, `(F, hidden)`, `(F, hidden)` and `(F,)`, float32.
    """

    kind: ClassVar[str] = "mlp"

    def __init__(
        self, *, hidden: int = 64, decay: float = 1.0, epochs: int = 50, pool: str = "mean", seed: int = 0
    ) -> None:
        self.hidden = hidden
        self.decay = decay
        self.epochs = epochs
        self.pool = pool
        self.seed = seed

    layers_: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

    def _learn(
        self, source: VectorSource, standard: Standard, labels: np.ndarray, patients: np.ndarray, learned: np.ndarray
    ) -> None:
        from sklearn.neural_network import MLPClassifier  # half a second that other probes need not wait

        vectors = all_vectors(source, standard)
        findings = len(learned)
        shapes = ((source.width, self.hidden), (self.hidden,), (self.hidden,), ())
        layers = tuple(np.full((findings, *shape), np.nan, np.float32) for shape in shapes)
        for number in np.flatnonzero(learned).tolist():
            known = ~np.isnan(labels[:, number])
            network = MLPClassifier(
                (self.hidden,), alpha=self.decay, max_iter=self.epochs, random_state=self.seed, shuffle=True
            )
            with warnings.catch_warnings():
                # Said by `fit`, of all findings at once.
                warnings.simplefilter("ignore", ConvergenceWarning)
                network.fit(vectors[known], labels[known, number])
            if network.n_iter_ >= self.epochs:
                self.unconverged_[number] = f"its {self.epochs} epochs ended while the loss still fell"
            for layer, value in zip(
                layers,
                (network.coefs_[0], network.intercepts_[0], network.coefs_[1][:, 0], network.intercepts_[1][0]),
                strict=True,
            ):
                layer[number] = value
        self.layers_ = (layers[0], layers[1], layers[2], layers[3])

    def _logits(self, vectors: np.ndarray) -> np.ndarray:
        first, first_bias, last, last_bias = self.layers_
        hidden = np.maximum(np.einsum("bd,cdh->bch", vectors, first, optimize=True) + first_bias, 0)
        return np.asarray(np.einsum("bch,ch->bc", hidden, last) + last_bias)

    def tensors(self) -> dict[str, np.ndarray]:
        """What was learned, as arrays."""
        return {**super().tensors(), **{f"layer{number}": layer for number, layer in enumerate(self.layers_)}}

    def restore(self, tensors: dict[str, np.ndarray]) -> Self:
        """The inverse of `tensors`."""
        self.layers_ = (tensors["layer0"], tensors["layer1"], tensors["layer2"], tensors["layer3"])
        return super().restore(tensors)


class KNNProbe(Probe):
    """The part of positives among the labelled images that are most alike, by the cosine of standardised vectors.

    The part is (positives + 1/2) / (neighbours + 1), so that it has a finite logit. Of images that are equally alike,
    where not all are among the neighbours, each counts in part.

    Args:
        neighbors: how many to look at; all that are labelled, where they are fewer.
        pool: of token vectors: `mean`, `max` or `flatten`.

    After `fit` it has, besides what all probes have:

    Attributes:
        vectors_: `(N, D)` float32, of length 1.
        labels_: `(N, F)` float32 of 1, 0 and NaN.
    """

    kind: ClassVar[str] = "knn"

    def __init__(self, *, neighbors: int = 25, pool: str = "mean") -> None:
        self.neighbors = neighbors
        self.pool = pool

    vectors_: np.ndarray
    labels_: np.ndarray

    def _learn(
        self, source: VectorSource, standard: Standard, labels: np.ndarray, patients: np.ndarray, learned: np.ndarray
    ) -> None:
        if not (isinstance(self.neighbors, int | np.integer) and self.neighbors > 0):
            raise ProbeError(f"neighbors is a whole number above 0, not {self.neighbors!r}")
        self.vectors_ = _directions(all_vectors(source, standard))
        self.labels_ = np.where(learned, labels, np.nan).astype(np.float32)

    def _logits(self, vectors: np.ndarray) -> np.ndarray:
        alike = _directions(vectors.astype(np.float32)) @ self.vectors_.T  # (B, N)
        result = np.full((len(vectors), self.labels_.shape[1]), np.nan)
        nearest: dict[bytes, np.ndarray] = {}
        for number, labels in enumerate(self.labels_.T):
            known = np.flatnonzero(~np.isnan(labels))
            if not len(known):
                continue
            key, count = known.tobytes(), min(self.neighbors, len(known))
            if key not in nearest:
                nearest[key] = _shares(alike[:, known], count)
            part = (nearest[key] @ labels[known].astype(np.float64) + 0.5) / (count + 1)
            result[:, number] = np.log(part / (1 - part))
        return result

    def tensors(self) -> dict[str, np.ndarray]:
        """What was learned, as arrays."""
        return {**super().tensors(), "vectors": self.vectors_, "labels": self.labels_}

    def restore(self, tensors: dict[str, np.ndarray]) -> Self:
        """The inverse of `tensors`."""
        self.vectors_, self.labels_ = tensors["vectors"], tensors["labels"]
        return super().restore(tensors)


def _shares(alike: np.ndarray, count: int) -> np.ndarray:
    """`(B, N)` what each image counts for as one of the `count` most alike: 1, 0, or among equals what is left."""
    least = -np.partition(-alike, count - 1, axis=1)[:, count - 1, None]
    nearer, equal = alike > least + _ROUNDING, np.abs(alike - least) <= _ROUNDING
    left = (count - nearer.sum(axis=1, keepdims=True)) / equal.sum(axis=1, keepdims=True)
    return np.asarray(np.where(nearer, 1, equal * left))


def _directions(vectors: np.ndarray) -> np.ndarray:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(lengths > 0, lengths, 1))
