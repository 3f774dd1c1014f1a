"""A map over its picture, as a PNG: the picture in grey, evidence in colour, its region outlined, words below."""

from __future__ import annotations

import io
import json
import textwrap
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from scipy import ndimage

MAX_SIDE, MIN_SIDE = 1024, 384  # pixels of the picture's longer side in the overlay
_MOST = 0.75  # opacity of the highest value
_BAR, _GAP, _LABELS = 14, 10, 78  # pixels: width of the colour bar, around it, of its labels
_SIZE, _LINE = 13, 18  # pixels: of letters, of a line
_SHORTEST, _NARROWEST = 40, 320  # pixels: of the colour bar, of a line of words
_PAPER, _INK, _SOFT, _EDGE = (255, 255, 255), (34, 34, 34), (96, 96, 96), (0, 230, 255)


def draw_overlay(
    pixels: np.ndarray, values: np.ndarray, region: np.ndarray, unit: str, lines: Sequence[str], image_id: str
) -> bytes:
    """The file's bytes.

    Args:
        pixels: `(H, W)`, brighter = denser.
        values: `(H, W)` float32, the map at each pixel; below 0 it stays transparent.
        region: `(H, W)` bool, outlined.
        unit: of the values.
        lines: below the picture, the first one in ink.
        image_id: for the file's metadata, so that `forget` finds it; it is not drawn.
    """
    from PIL import Image, ImageDraw
    from PIL.PngImagePlugin import PngInfo

    size = shown_size(pixels.shape[0], pixels.shape[1])
    highest = float(values.max())
    mixed = mixed_picture(pixels, values, region, size)
    length = min(max(size[1] - 60, _SHORTEST), 240)  # of the colour bar; its words stand below it
    width = max(size[0] + 2 * _GAP + _BAR + _LABELS, _NARROWEST)
    height = max(size[1], _GAP + length + 8 + 2 * _LINE)
    letters = max(40, int(width / (0.56 * _SIZE)))
    wrapped = [(part, number == 0) for number, line in enumerate(lines) for part in textwrap.wrap(line, letters)]
    canvas = Image.new("RGB", (width, height + _LINE * len(wrapped) + 2 * _GAP), _PAPER)
    canvas.paste(Image.fromarray(mixed), (0, 0))
    draw = ImageDraw.Draw(canvas)
    if highest > 0:
        bar = np.rot90(colour_bar(length, _BAR))
        left, top = size[0] + _GAP, _GAP
        canvas.paste(Image.fromarray(bar), (left, top))
        beside = left + _BAR + 6
        for at, word in ((top - 2, f"{highest:.2g}"), (top + len(bar) - _SIZE, "0"), (top + len(bar) + 8, unit)):
            draw.text((beside if word != unit else left, at), word, fill=_INK, font=_font())
        draw.text((left, top + len(bar) + 8 + _LINE), "a cell", fill=_INK, font=_font())
    for number, (line, first) in enumerate(wrapped):
        place = (_GAP, height + _GAP + number * _LINE)
        draw.text(place, line, fill=_INK if first else _SOFT, font=_font())
    about = PngInfo()
    about.add_itxt("cxr_embed image_id", json.dumps([image_id], ensure_ascii=False))
    file = io.BytesIO()
    canvas.save(file, "PNG", pnginfo=about, compress_level=4)
    return file.getvalue()


def colour_bar(width: int, height: int) -> np.ndarray:
    """The colours from 0, left, to a map's highest value: `(height, width, 3)` uint8."""
    ramp = np.repeat(np.linspace(0, 1, width)[None], height, axis=0)
    return _mixed(np.full(ramp.shape, 110, np.uint8), ramp)


def grey_picture(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Pixels `(H, W)` in 8 bits, `size` wide and high."""
    from PIL import Image

    how = Image.Resampling.BOX if size[0] < pixels.shape[1] else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(_grey(pixels)).resize(size, how))


def mixed_picture(
    pixels: np.ndarray, values: np.ndarray, region: np.ndarray, size: tuple[int, int], edge: int = 2
) -> np.ndarray:
    """The picture in grey, the map in colour over it and its region outlined: `(size[1], size[0], 3)` uint8.

    Args:
        pixels, values, region: as `draw_overlay` takes them.
        size: width and height.
        edge: pixels, of the outline.
    """
    share, marked = _resized(values, region, size)
    mixed = _mixed(grey_picture(pixels, size), share)
    mixed[_outline(marked, edge)] = _EDGE
    return mixed


def layers(
    values: np.ndarray, region: np.ndarray, size: tuple[int, int], edge: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """What `mixed_picture` lays over the picture, by itself: the colours and the outline, `(h, w, 4)` uint8 each.

    Args:
        values, region, size, edge: as `mixed_picture` takes them.
    """
    share, marked = _resized(values, region, size)
    colours, opacity = _colours_of(share)
    heat = np.concatenate([colours, 255 * opacity], axis=-1).round().astype(np.uint8)
    outline = np.zeros_like(heat)
    outline[_outline(marked, edge)] = (*_EDGE, 255)
    return heat, outline


def size_within(side: int, shape: Sequence[int]) -> tuple[int, int]:
    """Width and height of a picture of `shape` whose longer side is `side`."""
    factor = side / max(shape[:2])
    return max(1, round(shape[1] * factor)), max(1, round(shape[0] * factor))


def shown_size(height: int, width: int) -> tuple[int, int]:
    """Width and height in the overlay: the picture's own scale, unless that is very large or very small."""
    longer = max(height, width)
    factor = MAX_SIDE / longer if longer > MAX_SIDE else max(1, -(-MIN_SIDE // longer))
    return max(1, round(width * factor)), max(1, round(height * factor))


def _grey(pixels: np.ndarray) -> np.ndarray:
    """8 bits, from the darkest to the brightest of most pixels."""
    low, high = np.percentile(pixels[::4, ::4], (0.5, 99.5))
    return np.asarray(np.clip((pixels - low) * (255 / max(high - low, 1)), 0, 255), np.uint8)


def _mixed(grey: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Grey `(H, W)` with colours over it, `share` `(H, W)` of the highest value: `(H, W, 3)` uint8."""
    colours, opacity = _colours_of(share)
    return np.asarray(grey[..., None] * (1 - opacity) + colours * opacity, np.uint8)


def _colours_of(share: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The colours of shares of the highest value `(H, W)`, `(H, W, 3)`, and how opaque they are, `(H, W, 1)`."""
    return _colours()[np.asarray(share * 255, np.uint8)], (_MOST * np.clip(1.25 * share - 0.05, 0, 1))[..., None]


def _resized(values: np.ndarray, region: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Shares of a map's highest value, and its region, in a picture of `size`, width and height."""
    from PIL import Image

    heat = np.asarray(Image.fromarray(values.astype(np.float32)).resize(size, Image.Resampling.BILINEAR))
    marked = np.asarray(Image.fromarray(region.astype(np.uint8)).resize(size, Image.Resampling.NEAREST)) > 0
    highest = float(values.max())
    return (np.clip(heat / highest, 0, 1) if highest > 0 else np.zeros_like(heat)), marked


def _outline(region: np.ndarray, edge: int) -> np.ndarray:
    """The region's edge, `edge` pixels wide, inside it."""
    if not region.any():
        return region
    return np.asarray(region & ~ndimage.binary_erosion(region, iterations=edge, border_value=1))


@cache
def _colours() -> np.ndarray:
    """`(256, 3)` float32: Matplotlib's inferno without its darkest part, which grey pictures hold themselves."""
    from matplotlib import colormaps

    return np.asarray(colormaps["inferno"](np.linspace(0.3, 1, 256))[:, :3] * 255, np.float32)


@cache
def _font() -> Any:
    """The letters that Matplotlib brings along: they have accents, Greek and Cyrillic too."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", _SIZE)
