"""How well maps of encoders that come with the package were found to hit: the figures of docs/heat-maps.md."""

from __future__ import annotations

from dataclasses import dataclass

from cxr_embed.encoders.mini.bundle import SHA256
from cxr_embed.types import EncoderSpec


@dataclass(frozen=True, kw_only=True)
class Known:
    """What was measured of a method's maps.

    Attributes:
        encoder: its name.
        weights: its digest; blank for an encoder without weights.
        method: of the maps.
        explained: `probe` or `prompt`.
        words: the pointing game, in sentences.
    """

    encoder: str
    weights: str
    method: str
    explained: str
    words: tuple[str, ...]


_PATIENTS = "On patients (19 boxes of the NIH): in {}, as at the picture's centre 21% (8 to 46%): no better."
KNOWN = (
    Known(
        encoder="mini",
        weights=SHA256,
        method="cam",
        explained="probe",
        words=(
            "On 600 phantoms, another probe: highest point in the finding in 86% (83 to 88%), mean of eight findings; "
            "a bell at the centre reaches 13%. Nodule 57% and Support Devices 62% are missed most; Cardiomegaly is no "
            "better than the bell.",
            _PATIENTS.format("21% (3 to 70%)"),
        ),
    ),
    Known(
        encoder="mini",
        weights=SHA256,
        method="cam",
        explained="prompt",
        words=(
            "On 200 phantoms, one prompt a finding: highest point in the finding in 90% (86 to 93%), mean of eight "
            "findings; a bell at the centre reaches 13%.",
            "On patients: not measured.",
        ),
    ),
    Known(
        encoder="mini",
        weights=SHA256,
        method="occlusion",
        explained="prompt",
        words=(
            "On 48 phantoms: highest point in the finding in 50% (36 to 63%), mean of eight findings; cam reaches 88%.",
            "On patients: not measured.",
        ),
    ),
    Known(
        encoder="hog",
        weights="",
        method="occlusion",
        explained="probe",
        words=(_PATIENTS.format("21% (7 to 49%)"),),
    ),
)


def known_worth(spec: EncoderSpec, method: str, explained: str) -> tuple[str, ...]:
    """What was measured of such maps, in sentences; none where nothing was."""
    for each in KNOWN:
        same = (each.encoder, each.weights or spec.weights) == (spec.name, spec.weights)
        if same and (each.method, each.explained) == (method, explained):
            return each.words
    return ()
