"""`timm:NAME`: timm's backbones without their classifier, each with the pixels of its own pretrained settings."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders.checked import chosen_words
from cxr_embed.encoders.checkpoint import WEIGHTS, tensor_shapes
from cxr_embed.encoders.digests import remembered_sha256
from cxr_embed.encoders.hub import HubModel, cached_folder, hub_folder
from cxr_embed.encoders.image_tower import ImageTower, TowerEncoder
from cxr_embed.encoders.kept import remembered
from cxr_embed.encoders.licences import words_on_licence
from cxr_embed.encoders.patches import PATCHES, Map, Patches, timm_cells, timm_frame
from cxr_embed.encoders.pixels import as_uint8
from cxr_embed.encoders.plain_pixels import Pixels, plain_pixels, timm_recipe
from cxr_embed.encoders.registry import encoder_card
from cxr_embed.encoders.timm_settings import known_settings
from cxr_embed.encoders.timm_weights import KNOWN
from cxr_embed.encoders.torch_runner import as_encoder_error
from cxr_embed.encoders.weights import noted_source, weights_path
from cxr_embed.errors import EncoderError
from cxr_embed.grids import Grid
from cxr_embed.io.digests import canonical_json
from cxr_embed.types import CxrImage, EncoderSpec, Precision, counted


class TimmEncoder(TowerEncoder):
    """One backbone. The weights load with the first batch.

    `features`, `(B, D)`, are what the network gives without its classifier. Where wanted, also what timm's
    `forward_features` gives, `(B, H, W, D)`: the `map` of a network that has one, the `patches` of a transformer
    without its other tokens, normalised where the model does that before it pools.
    """

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        threads: int | None = None,
        outputs: Sequence[str] | None = None,
    ) -> None:
        self._name = name.removeprefix("timm:")
        # What follows from timm's version is asked once, so that a run of a network in the cache need not import it.
        known = remembered({"timm": self._name}, ("timm", "torch"), self._ask_timm)
        self._settings, self._width = known["settings"], int(known["width"])
        self._data = {key: tuple(value) if isinstance(value, list) else value for key, value in known["pixels"].items()}
        self._file, source = _weights_file(self._name, self._settings, weights)
        self.files, self.pinned = (self._file,), tuple(KNOWN)
        tensor_shapes(self._file)  # fails early where it is not a safetensors file
        self._source = source
        self._device, self._precision, self._threads = device, precision, threads
        shapes: dict[str, tuple[int, ...]] = {"features": (self._width,)}
        cells = self._find_cells() if set(outputs or ()) - set(shapes) else None
        if cells is not None:
            shapes[cells.output] = cells.shape
        chosen = chosen_words("outputs", ("features",) if outputs is None else outputs, tuple(shapes), name)
        self._cells = cells if cells is not None and cells.output in chosen else None
        self._spec = EncoderSpec(
            name=name,
            revision="1",
            preprocessing=(
                "grey as 8 bits, 0..max to 0..255, half up; three equal channels; "
                f"timm's evaluation transform: {canonical_json(self._data).decode()}"
            ),
            outputs={output: shapes[output] for output in chosen},
            weights=remembered_sha256(self._file),
            weights_source=source,
            licence=encoder_card(name).terms or words_on_licence(str(self._settings.get("license") or "")),
            grids={self._cells.output: self._cells.grid} if self._cells is not None else {},
        )

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """`(3, H, W)` float32, resized, cropped and normalised as timm does it for the model."""
        return self._pixels(as_uint8(image.pixels, image.max_value))

    @property
    def frame(self) -> Grid:
        """Where the model's input lies on the picture."""
        return timm_frame(self._data)

    def _ask_timm(self) -> dict[str, Any]:
        """timm's settings of the model, of its pixels (size, interpolation, mean, deviation, crop), and its width.

        The width is that of a model without numbers, which costs nothing to run.
        """
        settings = known_settings(self._name)  # first: its errors name the nearest models
        import timm
        import torch
        from timm.data import resolve_data_config

        pixels: dict[str, Any] = resolve_data_config(pretrained_cfg=settings)
        with torch.device("meta"), torch.inference_mode(), as_encoder_error(f"timm cannot make {self._name}"):
            model = timm.create_model(self._name, num_classes=0).eval()
            shape = model(torch.empty(1, *pixels["input_size"])).shape
        if len(shape) != 2:
            raise EncoderError(f"timm:{self._name} gives {tuple(shape[1:])} for an image, not one vector")
        return {"settings": settings, "pixels": pixels, "width": int(shape[1])}

    @cached_property
    def _pixels(self) -> Pixels:
        """Grey 8 bits to the model's input: timm's transform, or the same without timm."""
        recipe = partial(timm_recipe, self._data)
        return plain_pixels({"timm": self._data}, ("timm",), recipe, self._timm_pixels) or self._timm_pixels

    def _timm_pixels(self, grey: np.ndarray) -> np.ndarray:
        from PIL import Image

        return np.asarray(self._transform(Image.fromarray(grey).convert("RGB")).numpy(), dtype=np.float32)

    @cached_property
    def _transform(self) -> Any:
        import torch
        from timm.data import create_transform

        if self._threads is not None:
            torch.set_num_threads(self._threads)  # decoding processes normalise with torch, one core each
        return create_transform(**self._data, is_training=False)

    @cached_property
    def spaces(self) -> dict[str, str]:
        """A transformer's patches, where its features are one of its tokens or their mean and nothing follows."""
        model = self._empty
        parts = [getattr(model, name, None) for name in ("global_pool", "num_prefix_tokens", "fc_norm", "attn_pool")]
        pool, before, after, attention = parts
        plain = pool in ("token", "avg") and before is not None and attention is None
        return {PATCHES: "features"} if plain and type(after).__name__ == "Identity" else {}

    @cached_property
    def _empty(self) -> Any:
        """The model without numbers."""
        import timm
        import torch

        with torch.device("meta"), as_encoder_error(f"timm cannot make {self._name}"):
            return timm.create_model(self._name, num_classes=0).eval()

    def _find_cells(self) -> Patches | Map | None:
        """The model's map or patches; None where it has neither."""
        import torch

        with torch.device("meta"), torch.inference_mode(), as_encoder_error(f"timm cannot make {self._name}"):
            found = self._empty.forward_features(torch.empty(1, *self._data["input_size"]))
        return timm_cells(self._empty, found, self._data)

    def make_tower(self) -> ImageTower:
        """The image tower."""
        return ImageTower(
            self._spec,
            load=self._load,
            outputs=self._outputs,
            preprocess=self.preprocess,
            main="features",
            width=self._width,
            packages=("timm",),
            device=self._device,
            precision=self._precision,
            threads=self._threads,
        )

    def _load(self) -> Any:
        """The backbone, every tensor of it from the file.

        Raises:
            EncoderError: where the file holds another architecture's tensors.
        """
        import timm
        from safetensors.torch import load_file

        model = timm.create_model(self._name, num_classes=0)
        tensors: dict[str, Any] = load_file(self._file)
        # timm's names for its own weights of other times and for weights of others, by architecture.
        renamed = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
        with as_encoder_error(f"{self._source}: its tensors are not those of timm's {self._name}"):
            if renamed is not None:
                tensors = renamed(tensors, model)
            found = model.load_state_dict(tensors, strict=False)
        heads = self._settings.get("classifier") or ()
        prefixes = tuple(f"{head}." for head in ([heads] if isinstance(heads, str) else heads))
        foreign = [key for key in found.unexpected_keys if not key.startswith(prefixes)]
        for keys, what in ((found.missing_keys, "missing"), (foreign, "not its own")):
            if keys:
                raise EncoderError(
                    f"{self._source}: of timm's {self._name}, "
                    f"{counted(len(keys), 'tensor is', 'tensors are')} {what}, the first {keys[0]}; "
                    "these are another architecture's weights"
                )
        return model

    def _outputs(self, model: Any, pixels: Any) -> dict[str, Any]:
        """Tensors: `(B, 3, H, W)` to the vectors `(B, D)`, and to the map or the patches where they are wanted."""
        if self._cells is None:
            return {"features": model(pixels)}
        found = model.forward_features(pixels)
        return {"features": model.forward_head(found), self._cells.output: self._cells.of(found, self._source)}


def _weights_file(name: str, settings: dict[str, Any], weights: str | Path | None) -> tuple[Path, str]:
    """The weights' file, and where it came from: the file that is named, one converted here, or timm's on the Hub.

    Raises:
        EncoderError: where it cannot be had.
    """
    if weights is not None:
        path = Path(weights)
        if not path.is_file():
            raise EncoderError(f"{path}: no such file; `weights` of timm:{name} is a safetensors file")
        return path, noted_source(path) or path.name
    converted = weights_path(f"timm:{name}")
    if converted.is_file():
        return converted, noted_source(converted) or converted.name
    repo, _, commit = str(settings.get("hf_hub_id") or "").partition("@")
    file = settings.get("hf_hub_filename") or WEIGHTS
    if not repo or not file.endswith(".safetensors"):
        raise EncoderError(f"timm:{name} has no safetensors weights on the Hub; name a file with `weights`")
    model = HubModel(repo, commit or "main", (file,), required=(file,))
    folder = cached_folder(model) or hub_folder(model)
    return folder / file, f"{repo}@{folder.name}"


make = TimmEncoder
