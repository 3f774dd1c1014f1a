"""The encoder of what is to be explained, with the map that its features are means of where it has one."""

from __future__ import annotations

import os
from dataclasses import replace

from cxr_embed.encoders import CheckedEncoder, encoder_card, load_encoder
from cxr_embed.encoders.registry import is_own
from cxr_embed.errors import EncoderError, MapError
from cxr_embed.explanation.cam import MAP
from cxr_embed.images import is_cropped, prepared_like
from cxr_embed.types import EncoderSpec


def encoder_of(
    spec: EncoderSpec, output: str, *, weights: str | os.PathLike[str] | None = None, device: str = "auto"
) -> CheckedEncoder:
    """The encoder that made the vectors that a probe learned from.

    Args:
        spec: of those vectors.
        output: that the probe reads.
        weights, device: as `load_encoder` takes them.

    Raises:
        EncoderError: where it cannot be loaded.
        MapError: where what is here is another one; both are named.
    """
    card = None if is_own(spec.name) else encoder_card(spec.name)
    if card is not None and card.has_weights and not spec.weights:
        raise MapError(f"the probe's vectors of {spec.name} were imported: no model here is known to be theirs")
    if is_cropped(spec):
        raise MapError("the probe learned from regions (`crop`): explain one that learned from whole pictures")
    choices: list[tuple[str, ...] | None] = [None]
    if card is not None and card.has_choice:
        choices = [tuple(spec.outputs)]
        if output == "features" and MAP in (*card.outputs, *card.on_request) and MAP not in spec.outputs:
            choices.insert(0, (*spec.outputs, MAP))
    for outputs in choices:
        for pixels in (card.pixels if card is not None else ()) or (None,):
            try:
                loaded = load_encoder(
                    spec.name, weights=weights, device=device, precision="float32", outputs=outputs, pixels=pixels
                )
            except EncoderError:
                if outputs is choices[-1]:
                    raise
                break  # of a family, a model that has no map
            encoder = CheckedEncoder(prepared_like(loaded.encoder, spec))
            stored = {name: shape for name, shape in encoder.spec.outputs.items() if name in spec.outputs}
            if replace(encoder.spec, outputs=stored).fingerprint == spec.fingerprint:
                return encoder
    raise MapError(
        f"the probe reads vectors of {spec.name} [{spec.fingerprint[:12]}], the encoder here is another one: other "
        "weights, pixels or code; name the right weights with `weights`"
    )
