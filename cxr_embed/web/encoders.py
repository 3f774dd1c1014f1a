"""The encoders of a server: loaded once, one call at a time, and what they answered last is not asked for again."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cxr_embed.encoders import CheckedEncoder
from cxr_embed.index.queries import QueryEncoders
from cxr_embed.io.digests import sha256_hex
from cxr_embed.types import EncoderSpec
from cxr_embed.web.lru import Recent

_KEPT = 64 << 20  # bytes of answers


class RememberingEncoder(CheckedEncoder):
    """An encoder that many threads may call, and that knows what it answered last."""

    def __init__(self, encoder: CheckedEncoder) -> None:
        super().__init__(encoder)
        self._lock = threading.Lock()
        self._vectors: Recent[dict[str, np.ndarray]] = Recent(_KEPT, lambda kept: sum(v.nbytes for v in kept.values()))
        self._words: Recent[tuple[np.ndarray, list[Warning]]] = Recent(_KEPT, lambda kept: kept[0].nbytes)

    def preprocess(self, image: object) -> np.ndarray:
        """See `CheckedEncoder.preprocess`."""
        with self._lock:
            return super().preprocess(image)  # type: ignore[arg-type]

    def embed(self, batch: np.ndarray | Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """See `CheckedEncoder.embed`."""
        key = tuple(
            (array.shape, sha256_hex(np.ascontiguousarray(array).tobytes())) for array in map(np.asarray, batch)
        )
        with self._lock:
            found = self._vectors.get(key)
            if found is None:
                found = super().embed(batch)
                self._vectors.put(key, found)
            return found

    def embed_text(self, prompts: Sequence[str], *, cut: bool = False) -> np.ndarray:
        """See `CheckedEncoder.embed_text`; its warnings are given each time."""
        with self._lock:
            key = (*prompts, cut)
            found = self._words.get(key)
            if found is None:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("always")
                    vectors = super().embed_text(prompts, cut=cut)
                found = vectors, [each.message for each in caught if isinstance(each.message, Warning)]
                self._words.put(key, found)
        for each in found[1]:
            warnings.warn(each, stacklevel=2)
        return found[0]


@dataclass
class ServerEncoders(QueryEncoders):
    """`QueryEncoders` for many threads."""

    def __post_init__(self) -> None:
        self._loading = threading.Lock()

    def of_images(self, spec: EncoderSpec) -> CheckedEncoder:
        """See `QueryEncoders.of_images`."""
        with self._loading:
            return self._remembering("images", spec, super().of_images(spec))

    def of_texts(self, spec: EncoderSpec) -> CheckedEncoder:
        """See `QueryEncoders.of_texts`."""
        with self._loading:
            return self._remembering("texts", spec, super().of_texts(spec))

    def _remembering(self, side: str, spec: EncoderSpec, encoder: CheckedEncoder) -> CheckedEncoder:
        if not isinstance(encoder, RememberingEncoder):
            encoder = RememberingEncoder(encoder)
            self._kept[side, spec.fingerprint] = encoder
        return encoder
