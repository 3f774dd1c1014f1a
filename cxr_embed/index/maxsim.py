"""Max-sim, exactly: float16 tokens against float32 queries, a block at a time, wherever the tokens lie."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from cxr_embed.telemetry import import_openvino

# Values that the engine takes at once: 1 MiB of float16, 2 MiB of float32, stay in the processor's cache.
_BLOCK_VALUES = 1 << 19


class MaxSim:
    """How well images match queries: the mean, over a query's vectors, of the largest cosine with the image's tokens.

    With one vector, a text's, that is ELIXR's rule (Xu et al., 2023, arXiv 2308.01317); with a vector for each token
    it is the late interaction of ColBERT (Khattab and Zaharia, 2020), as a mean. The queries are an input of the
    graph, unlike in `zeroshot.Cosines`: to compile a graph takes ten times as long as a search.

    Args:
        shape: of one image's tokens, `(T, D)`.
        queries: compared at once, `Q`.
        length: vectors of each, `L`.
    """

    def __init__(self, shape: tuple[int, int], queries: int = 1, length: int = 1) -> None:
        openvino = import_openvino()
        ops = openvino.opset13

        tokens, width = shape
        self._size = max(1, _BLOCK_VALUES // (tokens * width))
        self._block = np.ones((self._size, tokens, width), np.float16)
        self._queries = np.empty((queries * length, width), np.float32)
        given = ops.parameter(self._block.shape, np.float16)
        words = ops.parameter(self._queries.shape, np.float32)
        vectors = ops.convert(given, "f32")  # (B, T, D)
        lengths = ops.reduce_l2(vectors, ops.constant(np.array([2])), True)
        cosines = ops.divide(ops.matmul(vectors, words, False, True), lengths)  # (B, T, Q * L)
        similarity = ops.reduce_max(cosines, ops.constant(np.array([1])), False)
        if length > 1:
            each = ops.reshape(similarity, ops.constant(np.array([self._size, queries, length])), False)
            similarity = ops.reduce_mean(each, ops.constant(np.array([2])), False)  # (B, Q)
        compiled = openvino.Core().compile_model(
            openvino.Model([similarity], [given, words]), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        self._request: Any = compiled.create_infer_request()
        self._request.set_input_tensor(0, openvino.Tensor(self._block, shared_memory=True))
        self._request.set_input_tensor(1, openvino.Tensor(self._queries, shared_memory=True))
        self._lock = threading.Lock()

    def __call__(self, tokens: np.ndarray, queries: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
        """`(M, Q)` float32; a row's value does not depend on the others.

        Args:
            tokens: `(N, T, D)` float16, none of them zero.
            queries: `(Q, L, D)` unit vectors.
            rows: `(M,)` of the tokens; None for all.
        """
        count = len(tokens) if rows is None else len(rows)
        result = np.empty((count, len(queries)), np.float32)
        with self._lock:
            self._queries[:] = queries.reshape(self._queries.shape)
            for start in range(0, count, self._size):
                used = min(self._size, count - start)
                # What an earlier block left behind its end is computed too, and not looked at.
                if rows is None:
                    self._block[:used] = tokens[start : start + used]
                else:
                    # `clip` is what writes straight into the block; the rows are known to be there.
                    np.take(tokens, rows[start : start + used], axis=0, out=self._block[:used], mode="clip")
                self._request.infer()
                result[start : start + used] = self._request.get_output_tensor(0).data[:used]
        return result
