"""What encoders of torch have in common whose published pickle `weights convert` makes one safetensors file of."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders.checkpoint import tensor_shapes
from cxr_embed.encoders.conversion import all_matching
from cxr_embed.encoders.digests import remembered_sha256
from cxr_embed.encoders.dual import tensors_in
from cxr_embed.encoders.image_tower import ImageTower, TowerEncoder
from cxr_embed.encoders.registry import encoder_card
from cxr_embed.encoders.torch_runner import TorchRunner
from cxr_embed.encoders.weights import noted_source, weights_path
from cxr_embed.errors import EncoderError
from cxr_embed.grids import Grid
from cxr_embed.types import CxrImage, EncoderSpec, Precision, TextRule


class ConvertedEncoder(TowerEncoder):
    """One file of weights. The model loads with the first batch, so that decoding needs neither it nor torch.

    A subclass says what its network is called (`network`) and what its published file (`published`), and has
    `preprocess`, `make_model` and `features`.
    """

    network: str
    published: str
    pinned: tuple[str, ...] = ()  # SHA-256 of published files

    def __init__(
        self,
        name: str,
        *,
        weights: str | Path | None,
        device: str,
        precision: Precision,
        threads: int | None,
    ) -> None:
        self._path = Path(weights) if weights else weights_path(name)
        if weights is None and not self._path.is_file():
            raise EncoderError(
                f"no weights for {name} here ({self._path}); of the published file, make them with\n"
                f"  cxr-embed weights convert {name} {self.published}   (or name a safetensors file with `weights`)"
            )
        self._header = tensor_shapes(self._path)  # fails early where it is not a safetensors file
        self._name, self._source = name, noted_source(self._path) or self._path.name
        self._device, self._precision, self._threads = device, precision, threads

    def describe(
        self,
        revision: str,
        preprocessing: str,
        outputs: dict[str, tuple[int, ...]],
        text: TextRule | None = None,
        grids: dict[str, Grid] | None = None,
    ) -> None:
        """Sets the spec, with what the weights and the encoder's row say."""
        self._spec = EncoderSpec(
            name=self._name,
            revision=revision,
            preprocessing=preprocessing,
            outputs=outputs,
            weights=remembered_sha256(self._path),
            weights_source=self._source,
            text=text,
            licence=encoder_card(self._name).terms,
            grids=grids or {},
        )

    def make_model(self) -> Any:
        """The network without weights.

        Raises:
            NotImplementedError: in this class.
        """
        raise NotImplementedError

    def features(self, model: Any, pixels: Any) -> Any:
        """Tensors: a batch as `preprocess` gives it to `(B, D)`, all outputs one behind the other.

        Raises:
            NotImplementedError: in this class.
        """
        raise NotImplementedError

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """One image to one model input, float32.

        Raises:
            NotImplementedError: in this class.
        """
        raise NotImplementedError

    @property
    def files(self) -> tuple[Path, ...]:
        """The file of the weights."""
        return (self._path,)

    @cached_property
    def runner(self) -> TorchRunner:
        """Device and precision."""
        return TorchRunner(self._device, self._precision, self._threads)

    @cached_property
    def model(self) -> Any:
        """The network with every tensor of the file, on the device."""
        return self.runner.place(self._load())

    @property
    def main(self) -> tuple[str, int]:
        """The output that is tried out before a run, and its width."""
        output, (width,) = next(iter(self._spec.outputs.items()))
        return output, width

    def make_tower(self) -> ImageTower:
        """The image tower."""
        main, width = self.main
        return ImageTower(
            self._spec,
            load=self._load,
            outputs=self._outputs,
            preprocess=self.preprocess,
            main=main,
            width=width,
            packages=("timm", "transformers"),
            device=self._device,
            precision=self._precision,
            threads=self._threads,
        )

    def _load(self) -> Any:
        """The network with every tensor of the file.

        Raises:
            EncoderError: where the file holds more, less, or another network's.
        """
        import torch

        model = self.make_model()
        shapes = state_shapes(model)
        tensors = all_matching(self._path, self.network, tensors_in([self._path], lambda _: True), shapes)
        model.load_state_dict({name: torch.from_numpy(values) for name, values in tensors.items()}, strict=False)
        return model

    def _outputs(self, model: Any, pixels: Any) -> dict[str, Any]:
        """Tensors: a batch to the vectors by their names, each `(B, D)`."""
        widths = [shape[0] for shape in self._spec.outputs.values()]
        return dict(zip(self._spec.outputs, self.features(model, pixels).split(widths, dim=1), strict=True))


def state_shapes(model: Any) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all that a module keeps."""
    return {name: tuple(values.shape) for name, values in model.state_dict().items()}
