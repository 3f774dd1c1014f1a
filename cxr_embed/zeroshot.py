"""Zero-shot scores: how much nearer an image lies to a finding's words than to its denial. Arrays in, arrays out.

A finding's prompts make pairs, each positive with each negative. A pair has one score, and the finding's score is the
mean over its pairs (`scores`), or the score of one pair of vectors, the means of the normalised ones (`vectors`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.special import expit

from cxr_embed.choices import Ensemble, ScoreKind
from cxr_embed.prompts import Finding, PromptError
from cxr_embed.telemetry import import_openvino
from cxr_embed.types import TextRule

# What each rule's authors compare by. ELIXR: positive minus negative. CLIP and SigLIP: softmax of the two logits, as
# MedSigLIP's published results do.
DEFAULT_SCORE: dict[str, ScoreKind] = {"elixr": "margin", "clip": "softmax", "siglip": "softmax", "cosine": "margin"}
# Values that an engine takes at once: 4 MiB of float16, 8 MiB of float32, stay in the processor's cache.
_BLOCK_VALUES = 1 << 21


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Scores by image: `values[i, f]` is how much `ids[i]` looks like `names[f]`.

    Attributes:
        ids: `(N,)` strings.
        names: the `F` findings.
        values: `(N, F)` float32. A `margin` is a difference of logits; `softmax` and `sigmoid` lie in 0..1, yet
            neither is the probability of a finding. `probability` is a probe's.
        kind: what they are.
        learned_from: `(N,)` bool, the images of patients that a probe learned from; None for scores of no probe.
        stand_in: whether the weights of the vectors behind them stand in for a trained model's.
    """

    ids: np.ndarray
    names: tuple[str, ...]
    values: np.ndarray
    kind: ScoreKind | Literal["probability"]
    learned_from: np.ndarray | None = None
    stand_in: bool = False


class Cosines:
    """Largest cosine between an image's vectors and each prompt, on all cores, in float32.

    Conversion, product, norm and maximum are one graph of OpenVINO, which reads the vectors where they lie: in a mapped
    file, say. `benchmarks/zeroshot.py` compares it with blocks of NumPy.

    Args:
        prompts: `(P, D)` float32, of any length but zero.
        shape: of one image's vectors, `(D,)` or `(T, D)`; the last axis is the prompts'.
        dtype: of the images' vectors, float16 or float32.
    """

    def __init__(self, prompts: np.ndarray, shape: tuple[int, ...], dtype: str) -> None:
        openvino = import_openvino()
        ops = openvino.opset13

        tokens, width = math.prod(shape[:-1]), shape[-1]
        self._shape = (max(1, _BLOCK_VALUES // (tokens * width)), tokens, width)
        self._dtype = np.dtype(dtype)
        directions = prompts / np.linalg.norm(prompts, axis=1, keepdims=True)
        given = ops.parameter(self._shape, self._dtype.type)
        vectors = ops.convert(given, "f32")  # (B, T, D)
        products = ops.matmul(vectors, ops.constant(np.ascontiguousarray(directions.T, np.float32)), False, False)
        lengths = ops.reduce_l2(vectors, ops.constant(np.array([2])), True)
        largest = ops.reduce_max(ops.divide(products, lengths), ops.constant(np.array([1])), False)  # (B, P)
        model = openvino.Model([largest, lengths], [given])
        compiled = openvino.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        self._request = compiled.create_infer_request()
        self._tensor = openvino.Tensor
        self._prompts = len(prompts)

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors `(N, *shape)` to `(N, P)` float32.

        An image's row is NaN where one of its vectors has no direction: it is zero, or not finite.
        """
        count, size = len(vectors), self._shape[0]
        result = np.empty((count, self._prompts), np.float32)
        vectors = vectors.reshape(count, *self._shape[1:])
        for start in range(0, count, size):
            block = vectors[start : start + size]
            used = len(block)
            if used < size:
                # The graph's size is fixed, which makes it half as fast again; ones fill the last block.
                block = np.concatenate([block, np.ones((size - used, *self._shape[1:]), self._dtype)])
            block = np.require(block, self._dtype, ["C", "W"])
            self._request.set_input_tensor(self._tensor(block, shared_memory=True))
            self._request.infer()
            cosines, lengths = (self._request.get_output_tensor(n).data[:used] for n in (0, 1))
            sound = (np.isfinite(lengths) & (lengths > 0)).all(axis=(1, 2))
            result[start : start + used] = np.where(sound[:, None], cosines, np.nan)
        return result


class Scorer:
    """Cosines with prompts to scores of findings.

    Args:
        findings: whose prompts are compared.
        vectors: prompt to its `(D,)` float32 vector, for every prompt of the findings.
        rule: the encoder's.
        score: `margin`, positive minus negative logit; `softmax`, of the two logits, the positive's part; `sigmoid`,
            of the positive logit alone. None is the rule's own: `DEFAULT_SCORE`.
        ensemble: what is averaged over a finding's prompts: `scores` of pairs, or normalised `vectors`.

    Raises:
        PromptError: for findings without a negative prompt where the score needs one, prompts whose mean is not a
            vector, or unknown words.
    """

    def __init__(
        self,
        findings: Sequence[Finding],
        vectors: Mapping[str, np.ndarray],
        rule: TextRule,
        score: ScoreKind | None = None,
        ensemble: Ensemble = "scores",
    ) -> None:
        self.kind: ScoreKind = score or DEFAULT_SCORE[rule.kind]
        for option, word, known in (
            ("`score`", self.kind, get_args(ScoreKind)),
            ("`ensemble`", ensemble, get_args(Ensemble)),
        ):
            if word not in known:
                raise PromptError(f"{option} is {', '.join(known)}, not {word!r}")
        lacking = [finding.name for finding in findings if not finding.negative]
        if lacking and self.kind != "sigmoid":
            raise PromptError(
                f"`score` {self.kind} compares with a denial, and these findings have no negative prompt: "
                f"{', '.join(lacking)}; add one each, e.g. 'no ...', or use `score='sigmoid'`"
            )
        self.findings, self.rule = tuple(findings), rule
        prompts = dict.fromkeys(p for finding in findings for p in (*finding.positive, *finding.negative))
        self._column = {prompt: number for number, prompt in enumerate(prompts)}
        rows = [np.asarray(vectors[prompt], np.float32) for prompt in prompts]
        self._ensemble: list[tuple[int, int]] = []
        if ensemble == "vectors":
            for finding in findings:
                # Without a denial the positive stands in its place; no score looks at it then.
                self._ensemble.append((len(rows), len(rows) + 1))
                rows += [
                    _mean_direction(finding.name, [vectors[prompt] for prompt in texts])
                    for texts in (finding.positive, finding.negative or finding.positive)
                ]
        self.matrix: np.ndarray = np.stack(rows)

    def scores(self, cosines: np.ndarray) -> np.ndarray:
        """Cosines with the rows of `matrix`, `(N, P)`, to scores `(N, F)` float32."""
        result = np.empty((len(cosines), len(self.findings)), np.float32)
        for number in range(len(self.findings)):
            if self._ensemble:
                positive, negative = self._ensemble[number]
                result[:, number] = self._score(cosines[:, positive], cosines[:, negative])
            else:
                result[:, number] = self.pair_scores(cosines, number).mean(axis=1)
        return result

    def pairs(self, number: int) -> list[tuple[str, str | None]]:
        """The prompt pairs of a finding; without the denial where the score does not look at it."""
        finding = self.findings[number]
        if self.kind == "sigmoid":
            return [(positive, None) for positive in finding.positive]
        return [(positive, negative) for positive in finding.positive for negative in finding.negative]

    def pair_scores(self, cosines: np.ndarray, number: int) -> np.ndarray:
        """The scores of each of a finding's pairs by itself: `(N, P)` to `(N, pairs)`."""
        pairs = self.pairs(number)
        positive = [self._column[pair[0]] for pair in pairs]
        negative = [self._column[pair[1] or pair[0]] for pair in pairs]
        return self._score(cosines[:, positive], cosines[:, negative])

    def _score(self, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
        scale, bias = np.float32(self.rule.scale), np.float32(self.rule.bias)
        if self.kind == "sigmoid":
            value: np.ndarray = expit(scale * positive + bias)
        else:
            # The bias stands in both logits.
            value = scale * (positive - negative)
            value = expit(value) if self.kind == "softmax" else value
        return value


def _mean_direction(finding: str, vectors: Sequence[np.ndarray]) -> np.ndarray:
    units = [vector / np.linalg.norm(vector) for vector in np.asarray(vectors, np.float32)]
    mean: np.ndarray = np.mean(units, axis=0)
    if not np.linalg.norm(mean) > 1e-6:
        raise PromptError(f"{finding}: its prompts' vectors cancel each other; use `ensemble='scores'`")
    return mean
