"""Preprocessing of MONAI bundles: transforms of a list of known ones, each as MONAI 1.6 computes it, without MONAI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_embed.encoders.monai_bundle import require_plain
from cxr_embed.encoders.pixels import as_uint8
from cxr_embed.errors import EncoderError
from cxr_embed.io.digests import canonical_json
from cxr_embed.types import CxrImage

_ANY = object()  # an argument that changes nothing here
# Transform to its arguments: the default, and what else may be said.
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "LoadImage": {"image_only": _ANY, "ensure_channel_first": _ANY, "reader": None, "reverse_indexing": True},
    "EnsureChannelFirst": {"channel_dim": None, "strict_check": _ANY},
    "EnsureType": {"data_type": _ANY, "device": _ANY, "track_meta": _ANY},
    "ToTensor": {"device": _ANY, "track_meta": _ANY},
    "RepeatChannel": {"repeats": 1},
    "Resize": {"spatial_size": None, "mode": "area", "align_corners": None, "size_mode": "all", "anti_aliasing": False},
    "ScaleIntensity": {"minv": 0.0, "maxv": 1.0, "channel_wise": False, "factor": None},
    "ScaleIntensityRange": {"a_min": None, "a_max": None, "b_min": None, "b_max": None, "clip": False},
    "NormalizeIntensity": {"subtrahend": None, "divisor": None, "nonzero": False, "channel_wise": False},
}
_MODES = ("area", "bilinear", "bicubic")
_EIGHT_BITS = "grey as 8 bits, 0..max to 0..255, half up"


@dataclass(frozen=True)
class Step:
    """A transform with all of its arguments that matter."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Pixels:
    """A bundle's preprocessing.

    Attributes:
        steps: one after the other.
        channels: equal ones, before the first step that looks at them.
        transposed: whether columns come first, as MONAI's readers have them.
    """

    steps: tuple[Step, ...]
    channels: int
    transposed: bool

    @property
    def recipe(self) -> str:
        """The same in words."""
        steps = canonical_json([[step.name, dict(step.arguments)] for step in self.steps]).decode()
        turned = "; columns first" if self.transposed else ""
        return f"{_EIGHT_BITS}; {self.channels} equal channels{turned}; MONAI's transforms: {steps}"

    def __call__(self, image: CxrImage) -> np.ndarray:
        """`(C, A, B)` float32."""
        grey = as_uint8(image.pixels, image.max_value).astype(np.float32)
        pixels = np.stack([grey.T if self.transposed else grey] * self.channels)
        for step in self.steps:
            pixels = _APPLY[step.name](pixels, **step.arguments)
        return np.ascontiguousarray(pixels, dtype=np.float32)


def bundle_pixels(value: Any, channels: int, where: str) -> Pixels:
    """The preprocessing of a configuration.

    Args:
        value: its `preprocessing`.
        channels: of the network's pictures.
        where: for messages.

    Raises:
        EncoderError: where it is not a list of known transforms with plain arguments, or leaves pictures of any size.
    """
    transforms = value.get("transforms") if isinstance(value, dict) else None
    if not isinstance(transforms, list) or str(value.get("_target_")).rpartition(".")[2] != "Compose":
        raise EncoderError(f"{where}: is not a Compose of transforms; name a recipe with `pixels`")
    read = [_read(step, f"{where}, transform {number}") for number, step in enumerate(transforms)]
    transposed = all(step.arguments.get("reverse_indexing", True) for step in read)
    steps = tuple(step for step in read if step.name in _APPLY)
    repeats = int(np.prod([step.arguments["repeats"] for step in steps if step.name == "RepeatChannel"]))
    if not any(step.name == "Resize" for step in steps):
        raise EncoderError(f"{where}: no Resize gives all pictures one size; name a recipe with `pixels`")
    first, rest = divmod(channels, repeats)
    if rest or first not in (1, 3):
        raise EncoderError(f"{where}: gives no {channels} channels of a grey picture; name a recipe with `pixels`")
    pixels = Pixels(steps, first, transposed)
    ramp = CxrImage(pixels=np.arange(80, dtype=np.uint8).reshape(8, 10), bits=8, content_id="", source="png")
    try:
        shape = pixels(ramp).shape
    except ValueError as error:
        raise EncoderError(f"{where}: does not run ({error}); name a recipe with `pixels`") from None
    if shape[0] != channels:
        raise EncoderError(f"{where}: gives {shape[0]} channels, the network takes {channels}")
    return pixels


def _read(value: Any, where: str) -> Step:
    target = value.get("_target_") if isinstance(value, dict) else None
    module, _, called = str(target).rpartition(".")
    name = called.removesuffix("d") if called.removesuffix("d") in _ARGUMENTS else called
    ours = module in ("", "monai.transforms") or module.startswith("monai.transforms.")
    if not isinstance(value, dict) or name not in _ARGUMENTS or not ours:
        raise EncoderError(
            f"{where}: {target} is not known here ({', '.join(_ARGUMENTS)} are); name a recipe with `pixels`"
        )
    known, found = _ARGUMENTS[name], {}
    for key, argument in value.items():
        if key in ("_target_", "_desc_", "keys"):
            continue
        if known.get(key) is not _ANY:
            require_plain(argument, f"{where}, {called}, {key}")
        if key not in known:
            raise EncoderError(f"{where}: {called}'s {key} is not known here; name a recipe with `pixels`")
        found[key] = argument
    arguments = {key: found.get(key, default) for key, default in known.items() if default is not _ANY}
    check = _CHECKS.get(name)
    try:
        right = check is None or check(arguments)
    except (KeyError, TypeError, ValueError):
        right = False
    if not right:
        raise EncoderError(f"{where}: {called} with {dict(found)} is not known here; name a recipe with `pixels`")
    return Step(name, arguments)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _sides(value: Any) -> bool:
    whole = isinstance(value, list) and len(value) == 2 and all(type(side) is int for side in value)
    return whole and all(0 < side <= 4096 for side in value)


def _normal(given: Mapping[str, Any]) -> bool:
    values = [given[key] for key in ("subtrahend", "divisor") if given[key] is not None]
    wise = given["channel_wise"]
    fits = all(isinstance(v, list) and all(map(_number, v)) if wise else _number(v) for v in values)
    return fits and given["nonzero"] is False and isinstance(wise, bool)


_CHECKS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "LoadImage": lambda given: given["reader"] in (None, "PILReader") and isinstance(given["reverse_indexing"], bool),
    "EnsureChannelFirst": lambda given: given["channel_dim"] in (None, "no_channel"),
    "RepeatChannel": lambda given: given["repeats"] in (1, 3),
    "Resize": lambda given: (
        _sides(given["spatial_size"])
        and given["mode"] in _MODES
        and given["align_corners"] in (None, True, False)
        and (given["mode"] != "area" or given["align_corners"] is None)
        and (given["size_mode"], given["anti_aliasing"]) == ("all", False)
    ),
    "ScaleIntensity": lambda given: (
        _number(given["minv"]) and _number(given["maxv"]) and given["factor"] is None and given["channel_wise"] is False
    ),
    "ScaleIntensityRange": lambda given: (
        _number(given["a_min"])
        and _number(given["a_max"])
        and given["a_min"] != given["a_max"]
        and all(given[edge] is None or _number(given[edge]) for edge in ("b_min", "b_max"))
        and isinstance(given["clip"], bool)
    ),
    "NormalizeIntensity": _normal,
}


def _resize(
    pixels: np.ndarray, *, spatial_size: list[int], mode: str, align_corners: bool | None, **_: Any
) -> np.ndarray:
    import torch

    if list(pixels.shape[1:]) == spatial_size:
        return pixels
    tensor = torch.from_numpy(np.ascontiguousarray(pixels, dtype=np.float32))[None]
    size = tuple(spatial_size)
    resized = torch.nn.functional.interpolate(tensor, size=size, mode=mode, align_corners=align_corners)
    return np.asarray(resized[0].numpy())


def _scale(pixels: np.ndarray, *, minv: float, maxv: float, **_: Any) -> np.ndarray:
    low, high = pixels.min(), pixels.max()
    if low == high:
        return pixels * np.float32(minv)
    scaled: np.ndarray = (pixels - low) / (high - low) * np.float32(maxv - minv) + np.float32(minv)
    return scaled


def _range(
    pixels: np.ndarray, *, a_min: float, a_max: float, b_min: float | None, b_max: float | None, clip: bool
) -> np.ndarray:
    scaled = (pixels - np.float32(a_min)) / np.float32(a_max - a_min)
    if b_min is not None and b_max is not None:
        scaled = scaled * np.float32(b_max - b_min) + np.float32(b_min)
    return np.clip(scaled, b_min, b_max) if clip and (b_min, b_max) != (None, None) else scaled


def _normalize(pixels: np.ndarray, *, subtrahend: Any, divisor: Any, channel_wise: bool, **_: Any) -> np.ndarray:
    def one(part: np.ndarray, sub: float | None, div: float | None) -> np.ndarray:
        mean = part.mean(dtype=np.float64) if sub is None else sub
        deviation = part.std(dtype=np.float64) if div is None else div
        return (part - np.float32(mean)) / np.float32(deviation or 1)

    if not channel_wise:
        return one(pixels, subtrahend, divisor)
    subs, divs = subtrahend or [None] * len(pixels), divisor or [None] * len(pixels)
    return np.stack([one(part, sub, div) for part, sub, div in zip(pixels, subs, divs, strict=True)])


def _repeat(pixels: np.ndarray, *, repeats: int) -> np.ndarray:
    return np.repeat(pixels, repeats, axis=0)


_APPLY: dict[str, Callable[..., np.ndarray]] = {
    "RepeatChannel": _repeat,
    "Resize": _resize,
    "ScaleIntensity": _scale,
    "ScaleIntensityRange": _range,
    "NormalizeIntensity": _normalize,
}
