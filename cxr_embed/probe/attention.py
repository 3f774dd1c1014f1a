"""A linear probe over tokens that learns, for each finding, which of them to look at. Training needs torch."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np

from cxr_embed.choices import Balance
from cxr_embed.probe.base import Probe, all_vectors
from cxr_embed.probe.features import ArraySource, ProbeError, Standard, VectorSource
from cxr_embed.probe.linear import LinearProbe
from cxr_embed.probe.selection import C_GRID, FOLDS, make_columns

_CHUNK = 512  # images whose tokens are float32 at one time
_STEPS = 500
_FLAT = 0.01  # of a finding's coefficients: a gradient under it is as good as none


class AttentionProbe(Probe):
    """Each finding weighs an image's tokens by a softmax of their products with a query, then is linear in their mean.

    Training starts from the linear probe of the mean token, whose `C_` it keeps, and lowers the same objective,
    queries penalised like coefficients. Using it needs no torch.

    Args:
        width: dimensions of a token; `fit` takes it from its array.
        C, Cs, folds, balance, seed: as `LinearProbe` takes them.

    After `fit` it has, besides what all probes have:

    Attributes:
        coef_, query_: `(F, width)` float64, of standardised tokens.
        intercept_, C_: `(F,)`.
    """

    kind: ClassVar[str] = "attention"

    def __init__(
        self,
        width: int | None = None,
        *,
        C: float | Literal["auto"] = "auto",
        Cs: tuple[float, ...] = C_GRID,
        folds: int = FOLDS,
        balance: Balance = "none",
        seed: int = 0,
    ) -> None:
        self.width = width
        self.C = C
        self.Cs = Cs
        self.folds = folds
        self.balance = balance
        self.seed = seed

    coef_: np.ndarray
    query_: np.ndarray
    intercept_: np.ndarray
    C_: np.ndarray

    def fit(self, X: np.ndarray, Y: np.ndarray, groups: np.ndarray | None = None) -> Self:
        """As all probes, of tokens `(N, ..., width)`."""
        self.width = np.shape(X)[-1]
        return super().fit(X, Y, groups)

    @property
    def pooling(self) -> str:
        """Tokens come in a row, and their width says where one ends."""
        return "flatten"

    def _learn(
        self, source: VectorSource, standard: Standard, labels: np.ndarray, patients: np.ndarray, learned: np.ndarray
    ) -> None:
        width = self.width
        if width is None or source.width % width or source.width == width:
            raise ProbeError(f"attention needs several tokens an image, not one vector of {source.width:,} dimensions")
        plain = Standard(np.zeros(source.width), np.ones(source.width))
        tokens = all_vectors(source, plain, np.float16).reshape(source.count, -1, width)
        linear = LinearProbe(self.C, Cs=self.Cs, folds=self.folds, balance=self.balance, seed=self.seed)
        linear.fit_source(ArraySource(tokens, "mean"), labels, patients)
        repeats = source.width // width
        # Tokens in the mean's standard form: their mean is the vector that the linear probe knows.
        self.mean_, self.scale_ = np.tile(linear.mean_, repeats), np.tile(linear.scale_, repeats)
        self.coef_, self.query_ = linear.coef_, np.where(learned[:, None], 0.0, np.nan) * linear.coef_
        self.intercept_, self.C_ = linear.intercept_, linear.C_
        signs = np.where(np.isnan(labels), 0, 2 * np.nan_to_num(labels) - 1)[:, learned].astype(np.int8)
        columns = make_columns(signs, self.C_[learned], self.balance)
        weight = np.where(signs > 0, columns.positive, columns.negative) * columns.C * np.abs(signs)
        start = [value[learned] for value in (self.coef_, self.query_, self.intercept_)]
        found, flat = _train(tokens, Standard(linear.mean_, linear.scale_), signs, weight, columns.gamma, start)
        self.coef_[learned], self.query_[learned], self.intercept_[learned] = found
        self.unconverged_ = dict(linear.unconverged_)
        for number in np.flatnonzero(learned)[~flat].tolist():
            self.unconverged_[number] = f"its attention still changed after {_STEPS} steps; give a smaller `C`"

    def _logits(self, vectors: np.ndarray) -> np.ndarray:
        tokens = vectors.reshape(len(vectors), -1, self.width or 1)  # (B, T, D)
        looks = tokens @ self.query_.T / np.sqrt(tokens.shape[-1])  # (B, T, F)
        looks = np.exp(looks - looks.max(axis=1, keepdims=True))
        shares = looks / looks.sum(axis=1, keepdims=True)
        return np.asarray((shares * (tokens @ self.coef_.T)).sum(axis=1) + self.intercept_)

    def tensors(self) -> dict[str, np.ndarray]:
        """What was learned, as arrays."""
        own = {"coef": self.coef_, "query": self.query_, "intercept": self.intercept_, "strengths": self.C_}
        return {**super().tensors(), **own}

    def restore(self, tensors: dict[str, np.ndarray]) -> Self:
        """The inverse of `tensors`."""
        self.coef_, self.query_ = tensors["coef"], tensors["query"]
        self.intercept_, self.C_ = tensors["intercept"], tensors["strengths"]
        return super().restore(tensors)


def _train(
    tokens: np.ndarray, standard: Standard, signs: np.ndarray, weight: np.ndarray, gamma: float, start: list[np.ndarray]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Coefficients, queries and intercepts from a start, by L-BFGS over all images; `(F,)` bool what it solved."""
    try:
        import torch
    except ImportError:
        raise ProbeError("an attention pool is learned with torch: pip install 'cxr-embed[torch]'") from None
    values = [torch.tensor(value, dtype=torch.float32) for value in start]
    # A query of zero is a saddle: looking away from all tokens alike. Starting to look where the finding is leaves it.
    values[1] = values[1] + 0.01 * values[0]
    for value in values:
        value.requires_grad_()
    optimizer = torch.optim.LBFGS(values, max_iter=_STEPS, history_size=12, line_search_fn="strong_wolfe")

    def closure() -> Any:
        optimizer.zero_grad()
        coefficients, queries, level = values
        total = 0.5 * (coefficients**2).sum() + 0.5 * (queries**2).sum()
        total.backward()
        result = total.detach()
        for first in range(0, len(tokens), _CHUNK):
            rows = slice(first, first + _CHUNK)
            part = torch.from_numpy(standard(tokens[rows].reshape(-1, tokens.shape[-1])))
            part = part.reshape(-1, *tokens.shape[1:])  # (B, T, D)
            shares = torch.softmax(part @ queries.T / tokens.shape[-1] ** 0.5, dim=1)  # (B, T, F)
            logit = (shares * (part @ coefficients.T)).sum(dim=1) + level
            sign = torch.from_numpy(signs[rows].astype(np.float32))
            value = torch.nn.functional.softplus(-sign * logit)
            if gamma:
                value = value * torch.sigmoid(-sign * logit) ** gamma
            more = (torch.from_numpy(weight[rows].astype(np.float32)) * value).sum()
            more.backward()
            result = result + more.detach()
        return result

    optimizer.step(closure)
    closure()
    slopes = np.concatenate([value.grad.numpy() for value in values[:2]], axis=1)
    found = [value.detach().numpy().astype(np.float64) for value in values]
    lengths = np.linalg.norm(np.concatenate(found[:2], axis=1), axis=1)
    return found, np.linalg.norm(slopes, axis=1) <= _FLAT * lengths
