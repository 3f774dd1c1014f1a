"""`monai:FOLDER`: classifiers of users' own MONAI bundles, the features before their last layer and its answers.

Checked against MONAI 1.6 (Apache-2.0). What a bundle's folder says is read as data: see `monai_bundle`, `monai_pixels`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders.chexnet import RECIPE as IMAGENET_RECIPE
from cxr_embed.encoders.chexnet import SHORTER, SIDE, imagenet_pixels
from cxr_embed.encoders.conversion import all_matching
from cxr_embed.encoders.digests import remembered_sha256
from cxr_embed.encoders.marked import MarkedNetwork, mark_network
from cxr_embed.encoders.monai_bundle import Bundle
from cxr_embed.encoders.monai_pixels import bundle_pixels
from cxr_embed.encoders.resample import crop_and_resize
from cxr_embed.encoders.torch_runner import TorchRunner, as_encoder_error, require_finite, try_out
from cxr_embed.errors import EncoderError
from cxr_embed.grids import Grid, middle
from cxr_embed.io.digests import json_digest
from cxr_embed.types import ClassRule, CxrImage, EncoderSpec, Precision

_SIDE = 224
_GREY_RECIPE = (
    f"grey; 0..max to -1..1; centre crop to the shorter side; resize to {_SIDE} (order 1, Gaussian anti-aliasing, "
    "zeros outside); equal channels"
)


class MonaiEncoder:
    """One bundle. MONAI and the network load with the first batch, so that decoding needs neither."""

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        threads: int | None = None,
        outputs: Sequence[str] = ("features",),
        pixels: str = "bundle",
    ) -> None:
        folder = Path(weights if weights is not None else name.removeprefix("monai:"))
        if not folder.is_dir():
            raise EncoderError(f"{folder}: no such folder; give monai:FOLDER, or name the bundle's with `weights`")
        self._bundle = bundle = Bundle(folder)
        network, file = bundle.network, bundle.weights_file
        self.files = (file, bundle.config_file)
        self._width = int(bundle.tensors[f"{network.head}.weight"].shape[1])
        self._preprocess, recipe = self._pixels(pixels)
        self._frame = {"imagenet": Grid("inside", middle(SIDE / SHORTER)), "grey": Grid("inside")}.get(pixels)
        self._softmax = "scores" in outputs and bundle.activation == "softmax"
        names = bundle.classes if "scores" in outputs else ()
        shapes = {"features": (self._width,), "scores": (len(names),)}
        self._device, self._precision, self._threads = device, precision, threads
        version = bundle.metadata.get("version")
        note = folder / "SOURCE"  # a folder that is not its maker's says what it is
        said = f": {note.read_text().strip()}" if note.is_file() else f", version {version}" if version else ""
        self._source = f"MONAI bundle {folder.resolve().name}{said}"
        self._spec = EncoderSpec(
            name=f"monai:{folder.resolve().name}",
            revision="1",
            preprocessing=recipe,
            outputs={output: shapes[output] for output in outputs},
            weights=json_digest(
                {
                    "file": remembered_sha256(file),
                    "network": [network.name, dict(network.arguments)],
                    **({"answers": [bundle.activation, list(names)]} if names else {}),
                }
            ),
            weights_source=self._source,
            classes=ClassRule("scores", names) if names else None,
        )

    def _pixels(self, recipe: str) -> tuple[Callable[[CxrImage], np.ndarray], str]:
        channels = self._bundle.network.channels
        if recipe == "imagenet":
            if channels != 3:
                raise EncoderError(f"`pixels` imagenet has 3 channels, the network takes {channels}")
            return imagenet_pixels, IMAGENET_RECIPE
        if recipe == "grey":
            return lambda image: _grey(image, channels), _GREY_RECIPE
        config = self._bundle.config
        found = bundle_pixels(config.get("preprocessing"), channels, f"{self._bundle.config_file}: preprocessing")
        return found, found.recipe

    @property
    def spec(self) -> EncoderSpec:
        """What this encoder computes."""
        return self._spec

    @property
    def engine(self) -> str:
        """Framework, version, precision and device. The network is loaded and tried out for it."""
        return self._tried_runner.name

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """`(C, A, B)` float32, by the bundle's own transforms or the recipe that was named."""
        return self._preprocess(image)

    def embed(self, batch: np.ndarray | Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """`(B, C, A, B')` float32 to `{"features": (B, D) float32}`, and `scores`, `(B, classes)` logits."""
        self._tried_runner  # noqa: B018 (loads)
        features = require_finite(self._embed(np.asarray(batch)), self._source)
        found = {"features": features}
        if "scores" in self._spec.outputs:
            found["scores"] = self._answers(features)
        return {output: found[output] for output in self._spec.outputs}

    def marked(self) -> MarkedNetwork:
        """The network with its last cells.

        Raises:
            EncoderError: where they are not found, or nobody knows where they lie: a bundle's own transforms may turn
                pictures and cut them.
        """
        if self._frame is None:
            raise EncoderError(f"{self._source}: what part of the picture its own transforms keep is not known")
        self._tried_runner  # noqa: B018 (loads)
        example = self.preprocess(CxrImage(pixels=np.eye(96, dtype=np.uint8), bits=8, content_id="", source="png"))
        return mark_network(
            self._model, self._named, example[None], self._frame, device=self._device, source=self._source
        )

    @staticmethod
    def _named(model: Any, pixels: Any) -> dict[str, Any]:
        return {"features": model(pixels)}

    def _answers(self, features: np.ndarray) -> np.ndarray:
        """Logits of each class by itself, whose sigmoid is what the bundle's activation gives."""
        head, tensors = self._bundle.network.head, self._bundle.tensors
        values: np.ndarray = features @ tensors[f"{head}.weight"].astype(np.float32).T
        if f"{head}.bias" in tensors:
            values = values + tensors[f"{head}.bias"].astype(np.float32)
        if not self._softmax:
            return values
        count = values.shape[1]
        others = np.stack([np.delete(values, number, axis=1) for number in range(count)], axis=1)  # (B, C, C - 1)
        top = others.max(axis=2)
        return np.asarray(values - top - np.log(np.exp(others - top[:, :, None]).sum(axis=2)))

    @cached_property
    def _runner(self) -> TorchRunner:
        return TorchRunner(self._device, self._precision, self._threads)

    @cached_property
    def _tried_runner(self) -> TorchRunner:
        try_out(self._embed, self.preprocess, self._width, self._source)
        return self._runner

    @cached_property
    def _model(self) -> Any:
        """The network without its last layer, every tensor of it from the file.

        Raises:
            EncoderError: where MONAI cannot make it, or the file has not exactly its tensors.
        """
        import torch
        from monai.networks import nets

        network = self._bundle.network
        own = {"pretrained": False} if network.name == "EfficientNetBN" else {}  # there the default would download
        with as_encoder_error(f"{self._bundle.config_file}: MONAI cannot make {network.name} of its network_def"):
            model = getattr(nets, network.name)(**network.arguments, **own)
        shapes = {
            name: tuple(values.shape)
            for name, values in model.state_dict().items()
            if not name.endswith("num_batches_tracked")
        }
        tensors = all_matching(self._bundle.weights_file, f"MONAI's {network.name}", self._bundle.tensors, shapes)
        model.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()}, strict=False)
        around, _, last = network.head.rpartition(".")
        setattr(model.get_submodule(around), last, torch.nn.Identity())
        return self._runner.place(model)

    def _embed(self, batch: np.ndarray) -> np.ndarray:
        return self._runner.run(self._model, batch)


def _grey(image: CxrImage, channels: int) -> np.ndarray:
    grey = crop_and_resize(image.pixels, image.max_value, _SIDE) / np.float32(1024)
    return np.stack([grey] * channels)


make = MonaiEncoder
