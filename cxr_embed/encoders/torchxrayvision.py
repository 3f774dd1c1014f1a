"""TorchXRayVision's feature extractors (Cohen et al., 2022): DenseNet-121 at 224, ResNet-50 at 512.

Their classifiers' own answers are the output `scores`, as logits; `map` is what the features are the mean of.

Pixels and features are those of its documented loop: scale to [-1024, 1024], centre crop to the shorter side, resize,
network, global average pool. Networks and weights: https://github.com/mlmed/torchxrayvision (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cxr_embed.encoders.engines import Engine, make_engine, with_mean
from cxr_embed.encoders.networks import MAPS, STRIDE, Network, densenet121, resnet50
from cxr_embed.encoders.torchxrayvision_classes import FINDINGS, OPERATING_POINTS
from cxr_embed.encoders.weights import PublishedWeights, digest, load_head, load_weights, weights_path
from cxr_embed.errors import EncoderError
from cxr_embed.grids import Grid
from cxr_embed.types import ClassRule, CxrImage, EncoderSpec, Precision

_RELEASE = "https://github.com/mlmed/torchxrayvision/releases/download/v1/"
_TAIL = "-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"


@dataclass(frozen=True)
class _Family:
    network: Network
    side: int
    width: int
    head: str


_DENSENET = _Family(densenet121, 224, 1024, "classifier")
_RESNET = _Family(resnet50, 512, 2048, "fc")

# Digests of the release files. "all", "pc", "mimic_ch" and "rsna" are those of the organisation's own copies on the
# Hub (LFS pointers); "all", "pc" and "mimic_ch" are stated independently by users of the release, "chex" by one user.
# A wrong pin can only refuse a file. For the others no digest was found: the user states one.
WEIGHTS: dict[str, tuple[_Family, PublishedWeights]] = {
    "densenet121": (
        _DENSENET,
        PublishedWeights(
            f"{_RELEASE}nih-pc-chex-mimic_ch-google-openi-kaggle{_TAIL}",
            "56524913dd16a906422e8d8b66a7a5c46be1d82eb7ac012d8103776f1aa68899",
        ),
    ),
    "densenet121-nih": (_DENSENET, PublishedWeights(f"{_RELEASE}nih{_TAIL}", None)),
    "densenet121-pc": (
        _DENSENET,
        PublishedWeights(f"{_RELEASE}pc{_TAIL}", "a9148ef62ae4e7a31a9bed8cef22811f39681cd61e4390398936efc6280af521"),
    ),
    "densenet121-chex": (
        _DENSENET,
        PublishedWeights(f"{_RELEASE}chex{_TAIL}", "1a914ae802170187a4852e594708206c12468eeeefd66aa4e8e26141649d61a4"),
    ),
    "densenet121-rsna": (
        _DENSENET,
        PublishedWeights(
            f"{_RELEASE}kaggle{_TAIL}", "906a59f48cf09638b745d66848a6c6f9d741368c66244717a81207329d140268"
        ),
    ),
    "densenet121-mimic_nb": (_DENSENET, PublishedWeights(f"{_RELEASE}mimic_nb{_TAIL}", None)),
    "densenet121-mimic_ch": (
        _DENSENET,
        PublishedWeights(
            f"{_RELEASE}mimic_ch{_TAIL}", "23b13a04459684ffa41247d068207a7657b4e1b4dec2b02431f5026bd75b1189"
        ),
    ),
    "resnet50": (
        _RESNET,
        PublishedWeights(f"{_RELEASE}pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt", None),
    ),
}


def published_weights(name: str) -> tuple[PublishedWeights, Network]:
    """What is known of an encoder's published weights, and its network.

    Raises:
        EncoderError: for an encoder that is not of this family.
    """
    if name not in WEIGHTS:
        raise EncoderError(f"{name} has no weights to convert or fill; of this family are {', '.join(WEIGHTS)}")
    family, published = WEIGHTS[name]
    return published, family.network


def head_shapes(name: str) -> dict[str, tuple[int, ...]]:
    """The tensors of an encoder's classifier, with their shapes; of all 18 rows, whichever of them were trained.

    Raises:
        EncoderError: for an encoder that is not of this family.
    """
    published_weights(name)
    family = WEIGHTS[name][0]
    return {f"{family.head}.weight": (len(FINDINGS), family.width), f"{family.head}.bias": (len(FINDINGS),)}


class TorchXRayVisionEncoder:
    """One set of weights of the family. The engine starts with the first batch, so decoding alone stays light."""

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
        self._family, published = WEIGHTS[name]
        path = Path(weights) if weights else weights_path(name)
        if weights is None and not path.is_file():
            raise EncoderError(
                f"no weights for {name} here ({path}). Download {published.url} and run\n"
                f"  cxr-embed weights convert {name} FILE.pt        (or name a safetensors file with `weights`)"
            )
        self.files, self.pinned = (path,), (published.sha256,) if published.sha256 else ()
        self._weights, source = load_weights(path, self._family.network)
        points = OPERATING_POINTS[name]
        self._head: tuple[np.ndarray, np.ndarray] | None = None
        identity = self._weights
        if "scores" in outputs:
            head = load_head(path, head_shapes(name))
            rows = [FINDINGS.index(finding) for finding in points]
            self._head = head[f"{self._family.head}.weight"][rows], head[f"{self._family.head}.bias"][rows]
            identity = {**identity, **head}
        cells = self._family.side // STRIDE
        shapes = {
            "features": (self._family.width,),
            "scores": (len(points),),
            "map": (cells, cells, self._family.width),
        }
        self._device, self._precision, self._threads = device, precision, threads
        self._engine: Engine | None = None
        self._spec = EncoderSpec(
            name=name,
            revision="1",
            preprocessing=(
                f"grey; 0..max to -1024..1024; centre crop to the shorter side; resize to {self._family.side} "
                "(order 1, Gaussian anti-aliasing, zeros outside)"
            ),
            outputs={output: shapes[output] for output in outputs},
            weights=digest(identity),
            weights_source=source,
            classes=ClassRule("scores", tuple(points), tuple(points.values())) if self._head is not None else None,
            grids={"map": Grid("inside")} if "map" in outputs else {},
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
            network = self._family.network
            self._engine = make_engine(
                MAPS[network] if "map" in self._spec.outputs else network,
                self._weights,
                side=self._family.side,
                device=self._device,
                precision=self._precision,
                threads=self._threads,
            )
        return self._engine

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """`(1, S, S)` float32 in [-1024, 1024]."""
        from cxr_embed.encoders.resample import crop_and_resize

        return crop_and_resize(image.pixels, image.max_value, self._family.side)[None]

    def embed(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """`(B, 1, S, S)` float32 to `{"features": (B, D) float32}`.

        Where wanted, also `scores`, `(B, C)` logits, and `map`, `(B, S / 32, S / 32, D)`.
        """
        answer = self._start()(np.ascontiguousarray(batch, dtype=np.float32))
        found = with_mean(answer) if "map" in self._spec.outputs else {"features": answer}
        if self._head is not None:
            weight, bias = self._head
            found["scores"] = found["features"] @ weight.T + bias
        return {output: found[output] for output in self._spec.outputs}


make = TorchXRayVisionEncoder
