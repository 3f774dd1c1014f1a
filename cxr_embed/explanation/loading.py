"""The encoder of what is to be explained, with the map that its features are means of where it has one."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

from cxr_embed.encoders import CheckedEncoder, encoder_card, load_encoder
from cxr_embed.encoders.registry import is_own
from cxr_embed.errors import EncoderError, MapError
from cxr_embed.explanation.cam import MAP
from cxr_embed.images import is_cropped, prepared_like
from cxr_embed.types import EncoderSpec


def encoder_of(
    spec: EncoderSpec,
    output: str,
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    whose: str = "the probe",
    untrained: bool = False,
) -> CheckedEncoder:
    """The encoder that made the vectors that a probe learned from, or that an index holds.

    Args:
        spec: of those vectors.
        output: that the probe reads, or the index holds.
        weights, device: as `load_encoder` takes them.
        whose: vectors these are, for messages.
        untrained: whether the weights are others on purpose: all else is to be the same.

    Raises:
        EncoderError: where it cannot be loaded.
        MapError: where what is here is another one; both are named.
    """
    if is_cropped(spec):
        raise MapError(f"{whose} has vectors of regions (`crop`): maps are of whole pictures")
    card = None if is_own(spec.name) else encoder_card(spec.name)
    if card is not None and card.has_weights and not spec.weights:
        raise MapError(f"{whose}'s vectors of {spec.name} were imported: no model here is known to be theirs")
    choices: list[tuple[str, ...] | None] = [None]
    if card is not None and card.has_choice:
        choices = [tuple(spec.outputs)]
        has_map = MAP in (*card.outputs, *card.on_request) and MAP not in spec.outputs
        if has_map and output not in spec.grids:
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
            found = replace(encoder.spec, outputs=stored)
            if replace(found, weights=spec.weights if untrained else found.weights).fingerprint == spec.fingerprint:
                return encoder
    raise MapError(
        f"{whose} has vectors of {spec.name} [{spec.fingerprint[:12]}], the encoder here is another one: other "
        "weights, pixels or code; name the right weights with `weights`"
    )


def encoder_with_map(
    name: str, *, weights: str | os.PathLike[str] | None = None, device: str = "auto"
) -> CheckedEncoder:
    """An encoder by its name, with the map that its features are means of where it has one.

    Raises:
        EncoderError: where it cannot be loaded.
    """
    card = None if is_own(name) else encoder_card(name)
    if card is not None and MAP in (*card.outputs, *card.on_request):
        outputs = tuple(dict.fromkeys((*(card.default_outputs or card.outputs), MAP)))
        with contextlib.suppress(EncoderError):  # of a family, a model that has no map
            return load_encoder(name, weights=weights, device=device, precision="float32", outputs=outputs)
    return load_encoder(name, weights=weights, device=device, precision="float32")
