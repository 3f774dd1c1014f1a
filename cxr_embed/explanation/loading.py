"""The encoder of what is to be explained, with the grid that the method reads where it has one."""

from __future__ import annotations

import contextlib
import os
from dataclasses import replace

from cxr_embed.choices import ExplainMethod
from cxr_embed.encoders import CheckedEncoder, encoder_card, load_encoder
from cxr_embed.encoders.patches import PATCHES
from cxr_embed.encoders.registry import is_own
from cxr_embed.encoders.shared import SHARED
from cxr_embed.errors import EncoderError, MapError
from cxr_embed.explanation.cam import MAP
from cxr_embed.images import is_cropped, prepared_like
from cxr_embed.types import EncoderSpec

# What methods read beside the vector that prompts and cases are compared with.
_READ: dict[ExplainMethod, tuple[str, ...]] = {
    "auto": (MAP, SHARED),
    "cam": (MAP, SHARED),
    "patch": (SHARED, PATCHES),
    "gradcam": (MAP,),
    "occlusion": (),
}


def encoder_of(
    spec: EncoderSpec,
    output: str,
    method: ExplainMethod = "auto",
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
        method: of the maps.
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
        wanted = (SHARED, PATCHES) if method == "patch" else () if output in spec.grids else (MAP,)
        beside = [grid for grid in wanted if grid in (*card.outputs, *card.on_request) and grid not in spec.outputs]
        choices = [*((*spec.outputs, grid) for grid in beside), *choices]
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


def encoder_with_grid(
    name: str, method: ExplainMethod = "auto", *, weights: str | os.PathLike[str] | None = None, device: str = "auto"
) -> CheckedEncoder:
    """An encoder by its name, for prompts or likeness, with the grid that the method reads where it has one.

    Args:
        name: see `load_encoder`.
        method: of the maps.
        weights, device: as `load_encoder` takes them.

    Raises:
        EncoderError: where it cannot be loaded.
    """

    def loaded(outputs: tuple[str, ...] | None) -> CheckedEncoder:
        return load_encoder(name, weights=weights, device=device, precision="float32", outputs=outputs)

    card = None if is_own(name) else encoder_card(name)
    grids = [grid for grid in _READ[method] if card is not None and grid in (*card.outputs, *card.on_request)]
    own = tuple(card.default_outputs or card.outputs) if card is not None else ()
    if grids and not own:  # of a family: the checkpoint knows
        own = tuple(loaded(None).spec.outputs)
    for grid in grids:
        with contextlib.suppress(EncoderError):  # of a family, a model that has no such grid
            return loaded((*own, grid))
    return loaded(None)
