"""An encoder whose pictures are prepared first; the preparation is part of what its vectors are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cxr_embed.errors import EncoderError
from cxr_embed.images.prepare import PREPARATIONS, prepare_image
from cxr_embed.types import CxrImage, Encoder, EncoderSpec

_MARK = "; prepared: "


class PreparedEncoder:
    """An encoder behind a preparation. Whatever is not about pictures goes to the encoder itself.

    Args:
        encoder: the encoder.
        prepare: a name in `images.PREPARATIONS`.
    """

    def __init__(self, encoder: Encoder, prepare: str) -> None:
        object.__setattr__(self, "_encoder", encoder)
        object.__setattr__(self, "_prepare", prepare)

    @property
    def spec(self) -> EncoderSpec:
        """What the encoder computes, the preparation in its preprocessing and so in its fingerprint."""
        spec: EncoderSpec = self._encoder.spec
        described = f"{spec.preprocessing}{_MARK}{self._prepare} ({PREPARATIONS[self._prepare].words})"
        return replace(spec, preprocessing=described)

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """One image, prepared, to one model input."""
        given: np.ndarray = self._encoder.preprocess(prepare_image(image, self._prepare))
        return given

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_encoder"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._encoder, name, value)


def prepared_encoder(encoder: Encoder, prepare: str | None) -> Encoder:
    """The encoder, behind a preparation where one is named.

    Raises:
        EncoderError: for a preparation that is not known.
    """
    if prepare is None:
        return encoder
    if prepare not in PREPARATIONS:
        raise EncoderError(f"`prepare` is {' or '.join(PREPARATIONS)}, not {prepare!r}")
    return PreparedEncoder(encoder, prepare)


def preparation_of(spec: EncoderSpec) -> str | None:
    """Which preparation vectors of this spec went through."""
    _, mark, words = spec.preprocessing.rpartition(_MARK)
    return words.split(" ", 1)[0] if mark else None
