"""What MedImageInsight's `config.yaml` says of its towers and its pixels."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cxr_embed.encoders.torch_runner import as_encoder_error
from cxr_embed.errors import EncoderError

# What the towers here cannot do otherwise.
_FIXED: dict[tuple[str, ...], Any] = {
    ("IMAGE_ENCODER", "NAME"): "davit_v1",
    ("IMAGE_ENCODER", "SPEC", "PATCH_SIZE"): [7, 3, 3, 3],
    ("IMAGE_ENCODER", "SPEC", "PATCH_STRIDE"): [4, 2, 2, 2],
    ("IMAGE_ENCODER", "SPEC", "PATCH_PADDING"): [3, 1, 1, 1],
    ("IMAGE_ENCODER", "SPEC", "PATCH_PRENORM"): [False, True, True, True],
    ("LANG_ENCODER", "NAME"): "transformer",
    ("LANG_ENCODER", "TOKENIZER"): "clip",
    ("LANG_ENCODER", "AUTOGRESSIVE"): False,  # as it is spelled
    ("AUG", "INTERPOLATION"): "bicubic",
    ("TEST", "CENTER_CROP"): False,
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What `config.yaml` says.

    Attributes:
        side: of a picture.
        mean, deviation: of red, green and blue, on the scale of 0 to 1.
        depths, widths, heads: of the image tower's stages.
        window: the side of its windows.
        context, text_width, text_heads, text_layers: of the text tower.
        shared: the width of the space of both.
    """

    side: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    heads: tuple[int, ...]
    window: int
    context: int
    text_width: int
    text_heads: int
    text_layers: int
    shared: int


def read_settings(path: Path) -> Settings:
    """The settings of a folder.

    Raises:
        EncoderError: where the file is not readable, lacks a setting, or describes another kind of network.
    """
    try:
        given = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise EncoderError(f"{path}: not readable as YAML ({reason}); download it again") from None

    def at(*keys: str) -> Any:
        value = given
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                raise EncoderError(f"{path}: has no {'.'.join(keys)}; is it MedImageInsight's?")
            value = value[key]
        return value

    for keys, known in _FIXED.items():
        if at(*keys) != known:
            raise EncoderError(
                f"{path}: {'.'.join(keys)} is {reprlib.repr(at(*keys))[:80]}, MedImageInsight's is {known!r}"
            )
    image, spec, text = at("IMAGE_ENCODER"), at("IMAGE_ENCODER", "SPEC"), at("LANG_ENCODER")
    side, heads = at("IMAGE_ENCODER", "IMAGE_SIZE"), at("IMAGE_ENCODER", "SPEC", "NUM_HEADS")
    with as_encoder_error(f"{path}: not MedImageInsight's settings"):
        if side[0] != side[1] or heads != spec["NUM_GROUPS"] or spec.get("STANDPARAM", True) is not True:
            raise EncoderError(f"{path}: pictures that are not square, or stages of another kind")
        return Settings(
            side=int(side[0]),
            mean=_three(image["IMAGE_MEAN"]),
            deviation=_three(image["IMAGE_STD"]),
            depths=tuple(map(int, spec["DEPTHS"])),
            widths=tuple(map(int, spec["DIM_EMBED"])),
            heads=tuple(map(int, heads)),
            window=int(spec["WINDOW_SIZE"]),
            context=int(text["CONTEXT_LENGTH"]),
            text_width=int(text["WIDTH"]),
            text_heads=int(text["HEADS"]),
            text_layers=int(text["LAYERS"]),
            shared=int(at("UNICL_MODEL", "DIM_PROJECTION")),
        )


def _three(values: Any) -> tuple[float, ...]:
    red, green, blue = map(float, values)
    return red, green, blue
