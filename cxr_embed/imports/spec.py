"""What a store of imported vectors says about their encoder."""

from __future__ import annotations

import re

from cxr_embed.encoders.card import EncoderCard
from cxr_embed.encoders.registry import ENCODERS, encoder_card, is_own
from cxr_embed.errors import CxrEmbedError, EncoderError
from cxr_embed.imports.sources import Shape
from cxr_embed.manifest import CONTROL
from cxr_embed.types import EncoderSpec, TextRule

REVISION = "imported"
PIXELS = "imported: the pixel recipe is whatever made the file"
# How every encoder of the table that has text names the output that lies in one space with its prompts.
_WITH_PROMPTS = ("contrastive", "image")
_FILE_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}")


def table_card(encoder: str) -> EncoderCard | None:
    """The encoder's row; None for a name of the user's own.

    Raises:
        CxrEmbedError: for a name that cannot stand in a message.
    """
    if not encoder.strip() or CONTROL.search(encoder):
        raise CxrEmbedError(f"`encoder` {encoder!r} is not a name")
    if is_own(encoder):
        return None
    try:
        return encoder_card(encoder)
    except EncoderError:
        return None


def expected_shape(encoder: str, output: str) -> Shape | None:
    """The shape of one image's vector, as the encoder table says; None where only the file can say.

    Raises:
        CxrEmbedError: for an output that the encoder does not have.
    """
    card = table_card(encoder)
    if not _FILE_NAME.fullmatch(output):
        raise CxrEmbedError(f"`output` {output!r} is not a name; use letters, digits, points, hyphens and underscores")
    if card is None or not card.outputs:
        return None
    if output not in card.outputs:
        known = ", ".join(f"{name} ({' x '.join(map(str, shape))})" for name, shape in card.outputs.items())
        raise CxrEmbedError(f"{encoder} has no output {output!r}; it has {known}")
    return card.outputs[output] or None


def imported_spec(encoder: str, output: str, shape: Shape, source: str) -> EncoderSpec:
    """The spec of imported vectors.

    It has no weights' digest, and revision and recipe say that nobody here saw the vectors being made: so it never has
    the fingerprint of vectors that were embedded here, and the two never share a store. Vectors that lie in one space
    with prompts get a rule to compare them by: `elixr` for tokens `(T, D)`, `clip` with scale 1 for `(D,)`, because
    the model's own scale is not in the file.

    Args:
        encoder: a name of the encoder table, or another one.
        output: which of its outputs the vectors are.
        shape: of one image's vector.
        source: the file and its digest, for people.
    """
    card, text = table_card(encoder), None
    if card is not None and card.text and output in _WITH_PROMPTS:
        text = TextRule(output, "elixr" if len(shape) == 2 else "clip")
    return EncoderSpec(
        name=encoder, revision=REVISION, preprocessing=PIXELS, outputs={output: shape}, weights_source=source, text=text
    )


def unknown_name(encoder: str) -> str:
    """A remark on a name that is not in the table, with the nearest that is; blank for a known one."""
    if table_card(encoder) is not None:
        return ""
    known = ", ".join(name for name in ENCODERS if name.casefold()[:4] == encoder.casefold()[:4])
    near = f" (it has {known})" if known else ""
    return f"{encoder} is not in the encoder table{near}: vectors are taken as the file has them, without prompts"
