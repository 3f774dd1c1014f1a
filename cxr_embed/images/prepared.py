"""An encoder whose pictures are cut or prepared first; that is part of what its vectors are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from cxr_embed.errors import EncoderError
from cxr_embed.images.prepare import PREPARATIONS, prepare_image
from cxr_embed.regions import CROPPED, RULE, Box
from cxr_embed.types import CxrImage, Encoder, EncoderSpec

_MARK = "; prepared: "


class PreparedEncoder:
    """An encoder behind a preparation. Whatever is not about pictures goes to the encoder itself.

    Args:
        encoder: the encoder.
        prepare: a name in `images.PREPARATIONS`, or None.
        cropped: whether it is given regions, which `crop_image` cuts out before.
    """

    def __init__(self, encoder: Encoder, prepare: str | None, cropped: bool) -> None:
        object.__setattr__(self, "_encoder", encoder)
        object.__setattr__(self, "_prepare", prepare)
        object.__setattr__(self, "_cropped", cropped)

    @property
    def spec(self) -> EncoderSpec:
        """What the encoder computes, the preparation in its preprocessing and so in its fingerprint."""
        spec: EncoderSpec = self._encoder.spec
        described = spec.preprocessing + (f"{CROPPED}{RULE}" if self._cropped else "")
        if self._prepare is not None:
            described += f"{_MARK}{self._prepare} ({PREPARATIONS[self._prepare].words})"
        return replace(spec, preprocessing=described)

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """One image, prepared, to one model input."""
        given: np.ndarray = self._encoder.preprocess(prepare_image(image, self._prepare))
        return given

    def __getattr__(self, name: str) -> Any:
        return getattr(object.__getattribute__(self, "_encoder"), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._encoder, name, value)


def prepared_encoder(encoder: Encoder, prepare: str | None, cropped: bool = False) -> Encoder:
    """The encoder, behind a preparation where one is named, or of regions.

    Raises:
        EncoderError: for a preparation that is not known.
    """
    if prepare is None and not cropped:
        return encoder
    if prepare is not None and prepare not in PREPARATIONS:
        raise EncoderError(f"`prepare` is {' or '.join(PREPARATIONS)}, not {prepare!r}")
    return PreparedEncoder(encoder, prepare, cropped)


def prepared_like(encoder: Encoder, spec: EncoderSpec) -> Encoder:
    """The encoder, prepared as the one was that made vectors of a spec."""
    return prepared_encoder(encoder, preparation_of(spec), is_cropped(spec))


def is_cropped(spec: EncoderSpec) -> bool:
    """Whether vectors of this spec are of regions."""
    return CROPPED in spec.preprocessing


def crop_image(image: CxrImage, box: Box) -> CxrImage:
    """The region of a box, of the file's own values, by `regions.RULE`.

    Raises:
        ImageError: `outside`, for a box that is not inside the picture.
    """
    rows, columns = box.cut((image.pixels.shape[0], image.pixels.shape[1]))
    return replace(image, pixels=np.ascontiguousarray(image.pixels[rows, columns]))


def preparation_of(spec: EncoderSpec) -> str | None:
    """Which preparation vectors of this spec went through."""
    _, mark, words = spec.preprocessing.rpartition(_MARK)
    return words.split(" ", 1)[0] if mark else None
