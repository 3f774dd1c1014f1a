"""Which converter an encoder has: `weights convert`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cxr_embed.encoders.conversion import Converted
from cxr_embed.encoders.registry import encoder_card
from cxr_embed.encoders.weights import convert
from cxr_embed.errors import EncoderError


def convert_weights(
    encoder: str, path: Path, sha256: str | None = None, classes: Sequence[str] | None = None
) -> Converted:
    """An encoder's tensors from a file as its publisher gives it out, without running any code that the file holds.

    Args:
        encoder: its name.
        path: the file.
        sha256: what the publisher says of it.
        classes: what a checkpoint's classifier answers on, for an encoder whose checkpoints do not say it.

    Raises:
        EncoderError: for an encoder without a converter, a digest that differs, or other tensors than the encoder's.
    """
    if encoder == "chexnet":
        from cxr_embed.encoders.chexnet import convert_chexnet

        return convert_chexnet(path, sha256, classes)
    if classes:
        raise EncoderError(f"leave out `classes` for {encoder}; the checkpoints of chexnet have them")
    if encoder.startswith("timm:"):
        from cxr_embed.encoders.timm_weights import convert_timm

        return convert_timm(encoder.removeprefix("timm:"), path, sha256)
    if encoder in ("chexzero", "ark-plus", "biovil-t", "biomedclip") or encoder.startswith(("eva-x-", "open_clip:")):
        _require_packages(encoder)
    if encoder == "biomedclip" or encoder.startswith("open_clip:"):
        from cxr_embed.encoders.open_clip_weights import convert_open_clip

        return convert_open_clip(encoder, path, sha256)
    if encoder == "chexzero":
        from cxr_embed.encoders.chexzero import convert_chexzero

        return convert_chexzero(path, sha256)
    if encoder.startswith("eva-x-"):
        from cxr_embed.encoders.eva_x import convert_eva_x

        return convert_eva_x(encoder, path, sha256)
    if encoder == "ark-plus":
        from cxr_embed.encoders.ark import convert_ark

        return convert_ark(path, sha256)
    if encoder == "biovil-t":
        from cxr_embed.encoders.biovil_t import convert_biovil_t

        return convert_biovil_t(path, sha256)
    from cxr_embed.encoders.torchxrayvision import head_shapes, published_weights

    published, network = published_weights(encoder)
    tensors = convert(published, network, path, sha256, head_shapes(encoder))
    return Converted(tensors, f"{published.url} (SHA-256 {published.sha256 or sha256})")


def _require_packages(encoder: str) -> None:
    card = encoder_card(encoder)
    if card.missing:
        raise EncoderError(
            f"{encoder} needs {', '.join(card.missing)}, which is not installed: pip install 'cxr-embed[{card.extra}]'"
        )
