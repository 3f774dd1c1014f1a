"""CheXNet (Rajpurkar et al., 2017): DenseNet-121 on pixels as ImageNet's models take them, trained on NIH labels.

Its authors gave out no weights. What goes around are checkpoints of reimplementations in PyTorch, `model.pth.tar` and
the like: torchvision's DenseNet-121 inside other modules, with names of early torchvision (`norm.1`), and a sigmoid
behind the last layer. Any other DenseNet-121 of torchvision's will do, whatever it was trained on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cxr_embed.encoders.conversion import Converted, all_matching, network_tensors, tensors_of
from cxr_embed.encoders.engines import Engine, make_engine, with_mean
from cxr_embed.encoders.networks import STRIDE, densenet121, densenet121_map, weight_shapes
from cxr_embed.encoders.pixels import IMAGENET_DEVIATION, IMAGENET_MEAN, as_uint8, centre_of, normalised
from cxr_embed.encoders.weights import class_names, digest, load_head, load_weights, weights_path
from cxr_embed.errors import EncoderError
from cxr_embed.grids import Grid, middle
from cxr_embed.types import ClassRule, CxrImage, EncoderSpec, Precision, counted

SIDE, SHORTER = 224, 256
WIDTH = 1024
RECIPE = (
    f"grey as 8 bits, 0..max to 0..255, half up; shorter side to {SHORTER} (Pillow, bilinear); centre {SIDE} x {SIDE}; "
    "three equal channels, ImageNet's mean and deviation"
)
# The order of the NIH's own list of labels, in which the reimplementations train.
NIH_CLASSES = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
_STEM = "features.conv0.weight"
_NETWORK = "torchvision's DenseNet-121"


def convert_chexnet(path: Path, sha256: str | None, classes: Sequence[str] | None = None) -> Converted:
    """A checkpoint's tensors under torchvision's names, its classifier included.

    The notes say what is known of the classifier: `head`, `sigmoid` where the checkpoint has a module behind the last
    layer, else `linear`; and `classes`, a JSON list of names: those given, or CheXNet's where there are 14 behind a
    sigmoid.

    Args:
        path: the checkpoint.
        sha256: what its publisher says of it.
        classes: what its classifier answers on, each class by itself.

    Raises:
        EncoderError: where it cannot be read, has another digest, is not a whole DenseNet-121, or has not so many
            classes.
    """
    tensors, source = tensors_of(path, sha256, {})
    found = torchvision_names(tensors, path)
    form = "sigmoid" if "classifier.0.weight" in found else "linear"
    found = {re.sub(r"^classifier\.0\.", "classifier.", name): values for name, values in found.items()}
    shapes = weight_shapes(densenet121, channels=3)
    notes = {}
    bias = found.get("classifier.bias")
    names = list(classes) if classes else None
    if names is not None and (bias is None or bias.size != len(names) or len(set(names)) < len(names)):
        has = counted(bias.size, "class", "classes") if bias is not None else "no classifier"
        raise EncoderError(f"{path}: has {has}; `classes` names {len(set(names))}, each once and in its order")
    if "classifier.weight" in found or bias is not None:
        count = bias.size if bias is not None else 0
        shapes = {**shapes, "classifier.weight": (count, WIDTH), "classifier.bias": (count,)}
        notes["head"] = form
        if names is None and form == "sigmoid" and count == len(NIH_CLASSES):
            names = list(NIH_CLASSES)
        if names is not None:
            notes["classes"] = json.dumps(names)
    return Converted(all_matching(path, _NETWORK, found, shapes), source, notes)


def torchvision_names(tensors: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """The network's tensors by torchvision's names of today: without the modules around it, `norm.1` as `norm1`.

    Args:
        tensors: of the whole checkpoint, by dotted names.
        path: for messages.

    Raises:
        EncoderError: where no DenseNet begins in it, or several do.
    """
    found = network_tensors(tensors, _STEM, path, _NETWORK)
    return {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name): found[name] for name in found}


def imagenet_pixels(image: CxrImage) -> np.ndarray:
    """`(3, 224, 224)` float32, as torchvision's `Resize(256)`, `CenterCrop(224)`, `Normalize` make it."""
    grey = as_uint8(image.pixels, image.max_value)
    return normalised(centre_of(grey, SHORTER, SIDE, "bilinear"), IMAGENET_MEAN, IMAGENET_DEVIATION)


class ChexnetEncoder:
    """One checkpoint. The engine starts with the first batch, so decoding alone stays light."""

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None = None,
        device: str = "cpu",
        precision: Precision = "float32",
        threads: int | None = None,
        outputs: Sequence[str] = ("features",),
    ) -> None:
        path = Path(weights) if weights else weights_path(name)
        if weights is None and not path.is_file():
            raise EncoderError(
                f"no weights for {name} here ({path}); of a checkpoint of yours, make them with\n"
                f"  cxr-embed weights convert {name} model.pth.tar   (or name a safetensors file with `weights`)"
            )
        self.files = (path,)
        self._weights, source = load_weights(path, densenet121, channels=3)
        shapes: dict[str, tuple[int, ...]] = {"features": (WIDTH,), "map": (SIDE // STRIDE, SIDE // STRIDE, WIDTH)}
        names: tuple[str, ...] = ()
        self._head: tuple[np.ndarray, np.ndarray] | None = None
        identity = self._weights
        if "scores" in outputs:
            names = class_names(path)
            shapes["scores"] = (len(names),)
            head = load_head(path, {"classifier.weight": (len(names), WIDTH), "classifier.bias": (len(names),)})
            self._head = head["classifier.weight"], head["classifier.bias"]
            identity = {**identity, **head}
        self._device, self._precision, self._threads = device, precision, threads
        self._engine: Engine | None = None
        self._spec = EncoderSpec(
            name=name,
            revision="1",
            preprocessing=RECIPE,
            outputs={output: shapes[output] for output in outputs},
            weights=digest(identity),
            weights_source=source,
            classes=ClassRule("scores", names) if names else None,
            grids={"map": Grid("inside", middle(SIDE / SHORTER))} if "map" in outputs else {},
        )

    @property
    def spec(self) -> EncoderSpec:
        """What this encoder computes."""
        return self._spec

    @property
    def engine(self) -> str:
        """Engine, version, precision and device."""
        return self._start().name

    def _start(self) -> Engine:
        if self._engine is None:
            self._engine = make_engine(
                densenet121_map if "map" in self._spec.outputs else densenet121,
                self._weights,
                side=SIDE,
                device=self._device,
                precision=self._precision,
                threads=self._threads,
                channels=3,
            )
        return self._engine

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """`(3, 224, 224)` float32, as torchvision's `Resize(256)`, `CenterCrop(224)`, `Normalize` make it."""
        return imagenet_pixels(image)

    def embed(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """`(B, 3, 224, 224)` float32 to `{"features": (B, 1024) float32}`.

        Where wanted `scores`, `(B, C)` logits, and `map`, `(B, 7, 7, 1024)`.
        """
        answer = self._start()(np.ascontiguousarray(batch, dtype=np.float32))
        found = with_mean(answer) if "map" in self._spec.outputs else {"features": answer}
        if self._head is not None:
            weight, bias = self._head
            found["scores"] = found["features"] @ weight.T + bias
        return {output: found[output] for output in self._spec.outputs}


make = ChexnetEncoder
