"""Grids of vectors as outputs: which tokens of a model are patches, which tensor is a map, where both lie."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from cxr_embed.encoders.checkpoint import Checkpoint
from cxr_embed.errors import EncoderError
from cxr_embed.grids import Grid, middle, within

PATCHES, MAP = "patches", "map"
# Model types whose `last_hidden_state` is known: other tokens first, then the patches row by row.
_KNOWN = (
    *("clip", "clip_vision_model", "siglip", "siglip_vision_model"),
    *("dinov2", "dinov2_with_registers", "dinov3_vit", "vit", "deit"),
)
_KERNELS = ("patch_embedding.weight", "patch_embeddings.projection.weight", "patch_embeddings.weight")
_SINGLE = ("cls_token", "class_embedding", "distillation_token")


@dataclass(frozen=True)
class Patches:
    """The patches among a transformer's tokens.

    Attributes:
        shape: `(H, W, D)`.
        before: class token, registers and the like, which stand before them.
        grid: where they lie on the picture.
    """

    shape: tuple[int, int, int]
    before: int
    grid: Grid
    output: ClassVar[str] = PATCHES

    def of(self, tokens: Any, source: str) -> Any:
        """All tokens `(B, before + H * W, D)` to `(B, H, W, D)`, tensors.

        Raises:
            EncoderError: where they are others than announced.
        """
        rows, columns, width = self.shape
        if tuple(tokens.shape[1:]) != (self.before + rows * columns, width):
            raise EncoderError(
                f"{source} gives tokens of shape {tuple(tokens.shape[1:])}, its settings announce {rows} x {columns} "
                f"patches of {width} behind {self.before} others; leave `patches` out"
            )
        return tokens[:, self.before :].reshape(-1, rows, columns, width)


@dataclass(frozen=True)
class Map:
    """The last map of a convolutional network.

    Attributes:
        shape: `(H, W, D)`.
        channels_last: whether the network has its channels there too.
        grid: where its cells lie on the picture.
    """

    shape: tuple[int, int, int]
    channels_last: bool
    grid: Grid
    output: ClassVar[str] = MAP

    def of(self, found: Any, source: str) -> Any:
        """`(B, D, H, W)`, or as the network has it, to `(B, H, W, D)`, tensors; raises as `Patches.of` does."""
        placed = found if self.channels_last else found.permute(0, 2, 3, 1)
        if tuple(placed.shape[1:]) != self.shape:
            raise EncoderError(f"{source} gives a map of {tuple(placed.shape[1:])}, not {self.shape}; leave `map` out")
        return placed


def checkpoint_patches(checkpoint: Checkpoint, pixels: tuple[int, int], frame: Grid) -> Patches:
    """The patches of a checkpoint in transformers' layout, from its tensors' shapes.

    Args:
        checkpoint: of a model that sees.
        pixels: height and width of its input.
        frame: where that input lies on the picture.

    Raises:
        EncoderError: for models whose patches are not known here.
    """
    model_type = checkpoint.config.get("model_type")
    if model_type not in _KNOWN:
        raise EncoderError(
            f"`outputs` patches: {checkpoint.source} is a {model_type} model; known of {', '.join(_KNOWN)}"
        )
    seeing = {name: shape for name, shape in checkpoint.shapes.items() if not name.startswith("text_model.")}
    kernels = [shape for name, shape in seeing.items() if name.endswith(_KERNELS) and len(shape) == 4]
    if len(kernels) != 1:
        raise EncoderError(f"`outputs` patches: {checkpoint.source} has {len(kernels)} patch embeddings, not one")
    width, _, down, across = kernels[0]
    before = sum(name.endswith(_SINGLE) for name in seeing)
    before += sum(shape[-2] for name, shape in seeing.items() if name.endswith("register_tokens"))
    cells = pixels[0] // down, pixels[1] // across
    return Patches((*cells, width), before, covered(frame, pixels, cells, (down, across)))


def timm_cells(model: Any, found: Any, settings: dict[str, Any]) -> Patches | Map | None:
    """The patches or the map in what a timm model's `forward_features` gives; None where it is neither.

    Args:
        model: the model.
        found: what it gave for one picture, a tensor.
        settings: of its pixels, see `timm_frame`.

    Raises:
        EncoderError: where nobody knows where they lie on the picture.
    """
    shape, width = tuple(getattr(found, "shape", ())), getattr(model, "num_features", None)
    last = getattr(model, "output_fmt", "NCHW") == "NHWC"
    if len(shape) == 4 and shape[3 if last else 1] == width:
        rows, columns = shape[1:3] if last else shape[2:4]
        return Map((rows, columns, width), last, timm_frame(settings))
    embedding, before = getattr(model, "patch_embed", None), getattr(model, "num_prefix_tokens", None)
    cells, patch = (getattr(embedding, name, None) for name in ("grid_size", "patch_size"))
    if len(shape) != 3 or before is None or not cells or not patch:
        return None
    if shape[1:] != (before + math.prod(cells), width):
        return None
    return Patches((*cells, width), before, covered(timm_frame(settings), settings["input_size"][1:], cells, patch))


def covered(frame: Grid, pixels: Sequence[int], cells: Sequence[int], patch: Sequence[int]) -> Grid:
    """What whole patches cover of an input: pixels that are left over lie at the bottom and at the right."""
    sides = zip(pixels, cells, patch, strict=True)
    down, across = (count * step / size if size // step == count else 1.0 for size, count, step in sides)
    return Grid(frame.fit, within(frame.box, down, across))


def processor_frame(processor: Any, pixels: tuple[int, int], source: str) -> Grid:
    """Where a model's input of transformers' image processor lies on the picture.

    Args:
        processor: with every setting that it uses as an attribute.
        pixels: height and width of what it gives.
        source: for messages.

    Raises:
        EncoderError: where its settings do not say it.
    """
    size = dict(getattr(processor, "size", None) or {})
    height, width, shorter = (size.get(name) for name in ("height", "width", "shortest_edge"))
    bounded = any(value for name, value in size.items() if name not in ("height", "width", "shortest_edge"))
    crops = bool(getattr(processor, "do_center_crop", None))
    if getattr(processor, "do_resize", None) and not bounded and not getattr(processor, "do_pad", None):
        if height and width and (crops or pixels == (height, width)):
            return Grid("whole", middle(pixels[0] / height, pixels[1] / width))
        if shorter and crops:
            return Grid("inside", middle(pixels[0] / shorter, pixels[1] / shorter))
    raise EncoderError(
        f"`outputs` patches: {source}: its image processor does not say what part of the picture it keeps"
    )


def timm_frame(settings: dict[str, Any]) -> Grid:
    """Where a model's input of timm's evaluation transform lies on the picture.

    Args:
        settings: of `timm.data.resolve_data_config`.

    Raises:
        EncoderError: for transforms of which it is not known here.
    """
    _, height, width = settings["input_size"]
    mode = settings.get("crop_mode") or "center"
    fits = {"squash": "whole", "border": "around", "center": "inside"}
    if height != width or settings.get("crop_border_pixels") or mode not in fits:
        raise EncoderError(
            f"`outputs`: what part of the picture timm keeps is not known for {height} x {width}, {mode}"
        )
    return Grid(fits[mode], middle(height / math.floor(height / settings["crop_pct"])))  # type: ignore[arg-type]
