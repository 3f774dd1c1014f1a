"""What all probes share: scikit-learn's habits, checks of what comes in, pooling and standardisation."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

from cxr_embed.io.memory import available_memory
from cxr_embed.probe.features import (
    ArraySource,
    ProbeError,
    Standard,
    VectorSource,
    check_finite,
    fit_standard,
    in_threads,
)
from cxr_embed.probe.loss import probability
from cxr_embed.probe.selection import one_sided
from cxr_embed.types import counted

_NAMED = 5


class Probe(BaseEstimator):  # type: ignore[misc]
    """Vectors to probabilities of findings.

    A finding whose known labels are all alike, or all missing, cannot be learned: it is in `undefined_`, with the
    reason, and its predictions are NaN.

    After `fit` it has:

    Attributes:
        mean_, scale_: `(D,)`, what pooled vectors are standardised by.
        shape_: of one image's vectors before pooling.
        undefined_: number of a finding to the reason why it could not be learned.
        alike_: a sentence where the vectors were all but equal; empty otherwise.
        unconverged_: number of a finding to what its solver did not reach; empty where all was solved.
        counts_: `(F, 3)` positive, negative and unknown labels.
    """

    kind: ClassVar[str]
    pool: str
    mean_: np.ndarray
    scale_: np.ndarray
    undefined_: dict[int, str]
    alike_: str
    unconverged_: dict[int, str]
    counts_: np.ndarray

    def fit(self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None = None) -> Self:
        """Learns findings from vectors.

        Args:
            X: `(N, D)` vectors, or `(N, ..., D)` tokens, float16 to float64; an array that is mapped from a file is
                read in blocks.
            Y: `(N, F)` or `(N,)` of 1, 0 and NaN = unknown.
            groups: `(N,)` patients, so that none is on both sides of the cross-validation; each row its own by
                default.

        Raises:
            ProbeError: for shapes that do not fit, other labels, vectors that are not finite, or nothing to learn.

        Warns:
            UserWarning: for vectors that are all but equal.
            ConvergenceWarning: scikit-learn's, naming the findings whose solver did not come to its end.
        """
        X = np.asanyarray(X)
        if X.ndim < 2 or X.dtype.kind != "f":
            raise ProbeError(f"X is (N, D) or (N, T, D) of floats, not {X.dtype} {X.shape}")
        self.fit_source(ArraySource(X, self.pooling), Y, groups)
        if self.alike_:
            warnings.warn(self.alike_, UserWarning, stacklevel=2)
        if self.unconverged_:
            reasons = "; ".join(f"finding {number}: {reason}" for number, reason in self.unconverged_.items())
            warnings.warn(f"not fully trained: {reasons}", ConvergenceWarning, stacklevel=2)
        return self

    def fit_source(
        self, source: VectorSource, Y: np.ndarray, groups: np.ndarray | None = None, standard: Standard | None = None
    ) -> Self:
        """As `fit`, of pooled vectors that are read block by block; what did not converge is in `unconverged_` only.

        `standard` is what vectors are standardised by, where that is not their own means and deviations.
        """
        labels = check_labels(Y, source.count)
        patients = np.arange(len(labels))
        if groups is not None:
            if len(groups) != len(labels):
                raise ProbeError(f"groups has {counted(len(groups), 'row')}, Y has {len(labels):,}")
            patients = np.unique(np.asarray(groups), return_inverse=True)[1]
        reasons = [one_sided(column) for column in labels.T]
        self.undefined_ = {number: reason for number, reason in enumerate(reasons) if reason}
        if len(self.undefined_) == labels.shape[1]:
            raise ProbeError(f"no finding can be learned: {'; '.join(dict.fromkeys(reasons))}")
        self.counts_ = np.stack([(labels == 1).sum(0), (labels == 0).sum(0), np.isnan(labels).sum(0)], axis=1)
        standard = fit_standard(source) if standard is None else standard
        self.mean_, self.scale_, self.alike_ = standard.mean, standard.scale, standard.alike
        learned = np.array([not reason for reason in reasons])
        self.unconverged_ = {}
        self._learn(source, standard, labels, patients, learned)
        return self

    def decision_function(self, X: np.ndarray) -> np.ndarray:
        """Logits `(N, F)` float64 of vectors as `fit` takes them; NaN for findings that could not be learned.

        Raises:
            ProbeError: where the probe is not fitted, or vectors have another width or are not finite.
        """
        return self.decision_source(ArraySource(np.asanyarray(X), self.pooling))

    def decision_source(self, source: VectorSource) -> np.ndarray:
        """As `decision_function`, of pooled vectors that are read block by block."""
        if not hasattr(self, "mean_"):
            raise ProbeError("this probe is not trained yet: fit it, or load one")
        if source.width != len(self.mean_):
            raise ProbeError(f"these vectors have {source.width:,} dimensions, the probe's have {len(self.mean_):,}")
        standard = Standard(self.mean_, self.scale_)
        result = np.full((source.count, len(self.counts_)), np.nan)

        def part(block: tuple[slice | np.ndarray, np.ndarray]) -> None:
            vectors = standard(block[1], np.float64)
            # Not the logits: neighbours of what is not a number are some images or other.
            check_finite(block[0], vectors, source.count)
            result[block[0]] = self._logits(vectors)

        for _ in in_threads(part, source.blocks()):
            pass
        return result

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        """Probabilities `(N, F)` of the findings; as `decision_function`."""
        return probability(self.decision_function(X))

    def tensors(self) -> dict[str, np.ndarray]:
        """What was learned, as arrays; `restore` takes them."""
        return {"mean": self.mean_, "scale": self.scale_, "counts": self.counts_.astype(np.int64)}

    def restore(self, tensors: dict[str, np.ndarray]) -> Self:
        """Takes what `tensors` of a probe with the same settings gave."""
        self.mean_, self.scale_, self.counts_ = tensors["mean"], tensors["scale"], tensors["counts"]
        return self

    @property
    def pooling(self) -> str:
        """How its vectors are pooled."""
        return self.pool

    def _learn(
        self, source: VectorSource, standard: Standard, labels: np.ndarray, patients: np.ndarray, learned: np.ndarray
    ) -> None:
        """Learns the findings `learned` `(F,)` bool from labels `(N, F)`."""
        raise NotImplementedError

    def _logits(self, vectors: np.ndarray) -> np.ndarray:
        """Standardised vectors `(B, D)` float64 to logits `(B, F)`."""
        raise NotImplementedError


def check_labels(labels: Any, count: int) -> np.ndarray:
    """Labels as `(N, F)` float32.

    Raises:
        ProbeError: for another number of rows, or values other than 1, 0 and NaN.
    """
    try:
        values = np.asarray(labels, np.float32)
    except (TypeError, ValueError):
        raise ProbeError("labels are 1, 0 or NaN (unknown), not words") from None
    values = values[:, None] if values.ndim == 1 else values
    if values.ndim != 2 or len(values) != count:
        raise ProbeError(f"labels are of shape {values.shape}, and there is a row for each of {count:,} vectors")
    wrong = values[~(np.isnan(values) | (values == 0) | (values == 1))]
    if len(wrong):
        named = ", ".join(f"{value:g}" for value in np.unique(wrong)[:_NAMED])
        raise ProbeError(f"labels are 1, 0 or NaN (unknown), not {named}")
    return values


def all_vectors(source: VectorSource, standard: Standard, dtype: type[np.floating] = np.float32) -> np.ndarray:
    """All vectors in their standard form, `(N, D)`.

    Raises:
        ProbeError: where they do not fit into memory.
    """
    needed, free = source.count * source.width * np.dtype(dtype).itemsize, available_memory()
    if free is not None and needed > free:
        raise ProbeError(
            f"this probe keeps all its vectors in memory: {source.count:,} of {source.width:,} numbers are "
            f"{needed / 1e9:,.1f} GB, and {free / 1e9:,.1f} GB are free; take `pool` mean or max, or fewer `shots`"
        )
    result = np.empty((source.count, source.width), dtype)
    for rows, vectors in source.blocks():
        result[rows] = standard(vectors, dtype)
    return result
