"""Pixels as open_clip's checkpoints were trained on them, from their `preprocess_cfg`: Pillow and numpy alone.

open_clip's own transform (`open_clip.transform.image_transform_v2`) is made of torchvision's, and decoding workers load
no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_embed.errors import EncoderError
from cxr_embed.grids import Fit, Grid
from cxr_embed.io.digests import canonical_json

_INTERPOLATIONS = ("bicubic", "bilinear", "random")  # `random` is of the training; bicubic where a model is used
_RESIZES = ("shortest", "longest", "squash")


@dataclass(frozen=True, kw_only=True)
class PixelRecipe:
    """How a picture becomes a model's input.

    Attributes:
        height, width: of the input.
        mean, deviation: of red, green and blue, on the scale of 0 to 1.
        interpolation: `bicubic` or `bilinear`, Pillow's.
        resize: `shortest` (the shorter side fits, the centre is cut out), `longest` (the longer side fits, the rest is
            filled) or `squash` (both sides fit, whatever the shape).
        fill: the 8-bit level around a picture whose longer side fits.
    """

    height: int
    width: int
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    interpolation: str
    resize: str
    fill: int

    @property
    def words(self) -> str:
        """The recipe for an encoder's spec."""
        settings = {
            "size": [self.height, self.width],
            "mean": list(self.mean),
            "std": list(self.deviation),
            "interpolation": self.interpolation,
            "resize_mode": self.resize,
            "fill_color": self.fill,
        }
        return (
            "grey as 8 bits, 0..max to 0..255, half up; three equal channels; "
            f"open_clip's evaluation transform (on Pillow): {canonical_json(settings).decode()}"
        )

    def resized(self, grey: np.ndarray) -> np.ndarray:
        """`(H, W)` uint8 to `(height, width)` uint8. Pillow resizes three equal channels alike, so one does."""
        from PIL import Image

        bilinear = self.interpolation == "bilinear" and not self._is_cubic_anyway
        how = Image.Resampling.BILINEAR if bilinear else Image.Resampling.BICUBIC
        size = self._size(*grey.shape)
        picture = Image.fromarray(grey)
        fitted = np.asarray(picture if picture.size == size else picture.resize(size, how))
        return fitted if self.resize == "squash" else self._centre(fitted)

    @property
    def frame(self) -> Grid:
        """Where the resized picture lies on the picture.

        Raises:
            EncoderError: for a size that is not square, of which a part depends on the picture's shape.
        """
        if self.resize != "squash" and self.height != self.width:
            raise EncoderError(f"what part of the picture {self.height} x {self.width} pixels show is not known")
        fits: dict[str, Fit] = {"squash": "whole", "shortest": "inside"}
        return Grid(fits.get(self.resize, "around"))

    @property
    def _is_cubic_anyway(self) -> bool:
        """open_clip's transform of an input that is not square knows one interpolation."""
        return self.resize == "shortest" and self.height != self.width

    def _size(self, height: int, width: int) -> tuple[int, int]:
        """Of the resized picture, `(width, height)`, with torchvision's roundings."""
        if self.resize == "squash":
            return self.width, self.height
        if self.resize == "shortest" and self.height == self.width:
            side, shorter, longer = self.width, min(height, width), max(height, width)
            other = int(side * longer / shorter)
            return (side, other) if width <= height else (other, side)
        ratios = height / self.height, width / self.width
        ratio = max(ratios) if self.resize == "longest" else min(ratios)
        return max(round(width / ratio), 1), max(round(height / ratio), 1)

    def _centre(self, pixels: np.ndarray) -> np.ndarray:
        """`(H, W)` to `(height, width)`: what is too long is cut, what is too short is filled, on both sides."""
        around = []
        for length, wanted in zip(pixels.shape, (self.height, self.width), strict=True):
            short = max(wanted - length, 0)
            around.append((short // 2, (short + 1) // 2))
        padded = np.pad(pixels, around, constant_values=self.fill)
        top, left = round((padded.shape[0] - self.height) / 2), round((padded.shape[1] - self.width) / 2)
        cut: np.ndarray = np.ascontiguousarray(padded[top : top + self.height, left : left + self.width])
        return cut


def pixel_recipe(settings: Mapping[str, Any], image_size: Any, where: str) -> PixelRecipe:
    """The recipe in a checkpoint's `preprocess_cfg`, with open_clip's defaults for what it may leave out.

    Args:
        settings: the `preprocess_cfg`.
        image_size: of the image tower, which open_clip takes whatever `size` the settings name.
        where: the file, for messages.

    Raises:
        EncoderError: where mean or deviation is missing, for which open_clip would take those of other models; or a
            value is not known.
    """
    said = {name: value for name, value in settings.items() if value is not None}
    sides = image_size if isinstance(image_size, list) else [image_size, image_size]
    if len(sides) != 2 or not all(type(side) is int and side > 0 for side in sides):
        raise EncoderError(f"{where}: `image_size` is {image_size!r}, not a side in pixels or two")
    for name in ("mean", "std"):
        if name not in said:
            raise EncoderError(f"{where}: `preprocess_cfg` has no {name}, so its pixels are not known")
    for name, value, known in (
        ("mode", said.get("mode", "RGB"), ("RGB",)),
        ("interpolation", said.get("interpolation", "bicubic"), _INTERPOLATIONS),
        ("resize_mode", said.get("resize_mode", "shortest"), _RESIZES),
    ):
        if value not in known:
            raise EncoderError(f"{where}: {name} is {value!r}; known are {', '.join(known)}")
    fill = said.get("fill_color", 0)
    if type(fill) is not int or not 0 <= fill <= 255:
        raise EncoderError(f"{where}: fill_color is {fill!r}, not a level of 0 to 255")
    interpolation = said.get("interpolation", "bicubic")
    return PixelRecipe(
        height=sides[0],
        width=sides[1],
        mean=_three(said["mean"], "mean", where),
        deviation=_three(said["std"], "std", where),
        interpolation="bicubic" if interpolation == "random" else interpolation,
        resize=said.get("resize_mode", "shortest"),
        fill=fill,
    )


def _three(value: Any, name: str, where: str) -> tuple[float, ...]:
    """One number a channel."""
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3 or not all(type(number) in (int, float) for number in values):
        raise EncoderError(f"{where}: {name} is {value!r}, not a number a channel")
    if name == "std" and not all(number > 0 for number in values):
        raise EncoderError(f"{where}: {name} is {value!r}, not a deviation above 0")
    return tuple(float(number) for number in values)
