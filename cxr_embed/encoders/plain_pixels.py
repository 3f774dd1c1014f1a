"""Pixels of timm and transformers without them: resize, crop and a table of values, where they are equal to the bit.

Each library needs seconds to be imported, in every decoding process. A recipe is taken from its own settings, compared
with what it gives on some pictures, and kept; one that differs anywhere, or that has another step, is not used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cxr_embed.encoders.kept import remembered

Recipe = Mapping[str, Any]
Pixels = Callable[[np.ndarray], np.ndarray]
_LIBRARIES = ("pillow", "numpy", "torch", "torchvision")
# Heights and widths whose halves and ratios are rounded in different ways.
_SIZES = ((96, 80), (131, 200), (317, 202), (64, 64), (100, 401))


def plain_pixels(
    what: Mapping[str, Any], packages: Sequence[str], recipe: Callable[[], Recipe | None], theirs: Pixels
) -> PlainPixels | None:
    """A library's pixels without the library; None where they would not be the same.

    Args:
        what: names the library's settings: JSON values.
        packages: whose versions the pixels follow from.
        recipe: of the settings; None where they have steps that are not known here.
        theirs: the library's own way, grey `(H, W)` uint8 to `(3, H, W)` float32.
    """

    def find() -> dict[str, Any]:
        found = recipe()
        return {"recipe": found if found is not None and _equal(PlainPixels(found), theirs) else None}

    kept = remembered({"pixels": what}, (*_LIBRARIES, *packages), find)["recipe"]
    return PlainPixels(kept) if kept is not None else None


class PlainPixels:
    """Grey pictures to a model's input.

    Args:
        recipe: `resize`: the shorter side, or height and width; `filter`: Pillow's number of it; `crop`: height and
            width of the centre; `rounds`: whether half a pixel goes to the even one, else down; `scale`: by which, or
            `scale_by`: through which 8 bits become numbers; `mean` and `deviation` of three channels.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        grey = np.arange(256)
        if "scale" in recipe:  # transformers multiplies in float64
            values = (grey.astype(np.float64) * recipe["scale"]).astype(np.float32)
        else:  # torch divides in float32
            values = grey.astype(np.float32) / np.float32(recipe["scale_by"])
        mean, deviation = (np.array(recipe[name], np.float32)[:, None] for name in ("mean", "deviation"))
        self._table = (values - mean) / deviation  # (3, 256)

    def __call__(self, grey: np.ndarray) -> np.ndarray:
        """`(H, W)` uint8 to `(3, H, W)` float32."""
        from PIL import Image

        height, width = grey.shape
        sides = self._recipe["resize"]
        if len(sides) == 1:
            shorter = min(height, width)
            sides = [int(sides[0] * side / shorter) if side > shorter else sides[0] for side in (height, width)]
        if (height, width) != tuple(sides):
            grey = np.asarray(Image.fromarray(grey).resize((sides[1], sides[0]), self._recipe["filter"]))
        rows, columns = (
            _middle(side, kept, self._recipe["rounds"])
            for side, kept in zip(grey.shape, self._recipe["crop"], strict=True)
        )
        return np.stack([values[grey[rows, columns]] for values in self._table])


def _middle(side: int, kept: int, rounds: bool) -> slice:
    first = round((side - kept) / 2) if rounds else (side - kept) // 2
    return slice(first, first + kept)


def _equal(ours: Pixels, theirs: Pixels) -> bool:
    """Whether both give the same bits of pictures of several sizes."""
    random = np.random.default_rng(0)
    for height, width in _SIZES:
        noise = random.integers(0, 256, (-(-height // 4), -(-width // 4)), np.uint8)
        grey = noise.repeat(4, axis=0).repeat(4, axis=1)[:height, :width]
        grey = np.ascontiguousarray(np.where(random.random(grey.shape) < 0.5, grey, np.arange(width, dtype=np.uint8)))
        if not np.array_equal(ours(grey), theirs(grey)):
            return False
    return True


def timm_recipe(settings: Mapping[str, Any]) -> Recipe | None:
    """The recipe of `timm.data.resolve_data_config`'s settings; None where it has other steps."""
    channels, height, width = settings["input_size"]
    filters = {"bilinear": 2, "bicubic": 3, "lanczos": 1}
    mode = settings.get("crop_mode") or "center"
    share = settings.get("crop_pct") or 0.875
    if channels != 3 or height != width or share > 1 or settings.get("crop_border_pixels"):
        return None
    if mode not in ("center", "squash") or settings["interpolation"] not in filters:
        return None
    resized = math.floor(height / share)
    return {
        "resize": [resized] if mode == "center" else [resized, resized],
        "filter": filters[settings["interpolation"]],
        "crop": [height, width],
        "rounds": True,
        "scale_by": 255,
        "mean": list(settings["mean"]),
        "deviation": list(settings["std"]),
    }


def processor_recipe(processor: Any) -> Recipe | None:
    """The recipe of transformers' image processor; None where it has other steps."""
    size = {name: value for name, value in dict(getattr(processor, "size", None) or {}).items() if value}
    needed = [bool(getattr(processor, name, False)) for name in ("do_resize", "do_rescale", "do_normalize")]
    if not all(needed) or getattr(processor, "do_pad", False):
        return None
    crop = {name: value for name, value in dict(getattr(processor, "crop_size", None) or {}).items() if value}
    crops = bool(getattr(processor, "do_center_crop", False))
    if set(size) == {"height", "width"}:
        resize = [size["height"], size["width"]]
    elif set(size) == {"shortest_edge"} and crops:
        resize = [size["shortest_edge"]]
    else:
        return None
    kept = [crop["height"], crop["width"]] if crops and set(crop) >= {"height", "width"} else resize
    if len(kept) != 2 or max(kept) > min(resize):
        return None
    return {
        "resize": resize,
        "filter": int(processor.resample),
        "crop": kept,
        "rounds": False,
        "scale": float(processor.rescale_factor),
        "mean": [float(value) for value in processor.image_mean],
        "deviation": [float(value) for value in processor.image_std],
    }
