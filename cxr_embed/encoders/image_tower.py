"""The door of every image tower that torch knows: on a GPU torch runs it, on a CPU OpenVINO where that was proven.

Torch is imported where it is needed: not where a proven network lies in the cache.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from cxr_embed.encoders.engines import available_precisions
from cxr_embed.encoders.marked import MarkedNetwork, mark_network
from cxr_embed.encoders.torch_runner import TorchRunner, require_finite, try_out
from cxr_embed.encoders.traced import KeptNetwork, Traced, agreement, disagreement, too_large, trace
from cxr_embed.errors import EncoderError
from cxr_embed.grids import Grid
from cxr_embed.types import CxrImage, EncoderSpec, Precision

if TYPE_CHECKING:
    from collections.abc import Mapping


class _Engine(Protocol):
    name: str

    def __call__(self, batch: np.ndarray) -> Mapping[str, np.ndarray]: ...


class _Torch:
    """The tower run by torch."""

    def __init__(self, tower: ImageTower, precision: Precision) -> None:
        self._runner = TorchRunner(tower.device, precision, tower.threads)
        self.module = self._runner.place(tower.load())
        self._outputs = tower.outputs
        self.name = self._runner.name

    def __call__(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
        return self._runner.run_named(lambda pixels: self._outputs(self.module, pixels), batch)


class ImageTower:
    """One image tower, ready with the first batch.

    Args:
        spec: of its encoder: its fingerprint names the network in the cache.
        load: gives torch's module, every tensor of it the checkpoint's.
        outputs: the module and pixels `(B, ...)` as `preprocess` gives them, a tensor, to tensors by their names.
        preprocess: the encoder's.
        main: the output whose width is known, and that is tried out before a run.
        width: the same.
        packages: of the library that makes the module, whose versions it may change with.
        device, precision, threads: as for `load_encoder`, but `cpu` or `cuda`.

    Attributes:
        notes: what a user should know of how it runs, in sentences.
    """

    def __init__(
        self,
        spec: EncoderSpec,
        *,
        load: Callable[[], Any],
        outputs: Callable[[Any, Any], dict[str, Any]],
        preprocess: Callable[[CxrImage], np.ndarray],
        main: str,
        width: int,
        packages: Sequence[str],
        device: str,
        precision: Precision,
        threads: int | None,
    ) -> None:
        self.spec, self.load, self.outputs = spec, load, outputs
        self.device, self.precision, self.threads = device, precision, threads
        self.notes: tuple[str, ...] = ()
        self._preprocess, self._main, self._width = preprocess, main, width
        self._packages = packages

    @property
    def engine(self) -> str:
        """Framework, version, precision and device. The tower is loaded for it."""
        return self._ready.name

    def __call__(self, batch: np.ndarray) -> Mapping[str, np.ndarray]:
        """`(B, ...)` as `preprocess` gives it to `{output: (B, *shape) float32}`."""
        ready = self._ready
        if isinstance(ready, Traced) and batch.shape[1:] != ready.shape:  # a processor that keeps a picture's sides
            return self._torch(batch)
        return ready(batch)

    def marked(self, frame: Grid, layer: str | None) -> MarkedNetwork:
        """The tower on torch, with its last cells, or a layer's; `frame` is where its input lies on the picture."""
        example = self._preprocess(_pictures()[2])[None]
        module, source = self._torch.module, self.spec.weights_source
        return mark_network(module, self.outputs, example, frame, device=self.device, source=source, layer=layer)

    @cached_property
    def _ready(self) -> _Engine:
        if self.device != "cpu":
            return self._torch
        try:
            if self.precision not in available_precisions("cpu"):
                raise _NotByOpenVino(f"this CPU has no native {self.precision}")
            return self._by_openvino()
        except _NotByOpenVino as refusal:
            if "_torch" in self.__dict__ and self.precision != "float32":
                del self.__dict__["_torch"]
            self._note(f"{self.spec.name} is run by torch, not by OpenVINO: {refusal}")
            return self._torch

    @cached_property
    def _torch(self) -> _Torch:
        return self._tried(self.precision)

    def _tried(self, precision: Precision) -> _Torch:
        found = _Torch(self, precision)
        try_out(lambda batch: found(batch)[self._main], self._preprocess, self._width, self.spec.weights_source)
        return found

    def _by_openvino(self) -> Traced:
        """The network from the cache, or made now; believed for its agreement with torch.

        Raises:
            _NotByOpenVino: where it is neither.
        """
        kept = KeptNetwork(self.spec, self._packages)
        if kept.refused:
            raise _NotByOpenVino(kept.refused)
        model = kept.read()
        if model is None:
            return self._made(kept)
        figure = kept.proven(self.precision)
        network = self._compiled(model) if figure is None or not disagreement(figure, self.precision) else None
        if figure is None and network is not None:
            example = kept.example()
            if example is None:
                return self._made(kept)
            figure = self._prove(kept, network, *example)
        return self._believed(network, figure)

    def _made(self, kept: KeptNetwork) -> Traced:
        """Traces torch's module, compares the two, and keeps what is found."""
        start = time.perf_counter()
        exact = self._tried("float32")
        weights = sum(tensor.numel() * tensor.element_size() for tensor in exact.module.state_dict().values())
        if too_large(weights):
            raise _NotByOpenVino("there is too little memory to translate its network")
        inputs = np.stack([self._preprocess(picture) for picture in _pictures()])
        found = exact(inputs)
        answers = {name: found[name] for name in self.spec.outputs}
        try:
            model = trace(exact.module, self.outputs, kept.outputs, inputs[:2])
            network = self._compiled(model)
            figure = agreement(network(inputs), answers, self.precision)
        except Exception as error:  # a framework fails in many ways
            if isinstance(error, MemoryError) or "alloc" in str(error).lower():  # the next run may have more
                raise _NotByOpenVino("there is too little memory to translate its network") from None
            reason = f"its network cannot be translated ({_first_line(error.__cause__ or error)})"
            with contextlib.suppress(OSError):
                kept.refuse(reason)
            raise _NotByOpenVino(reason) from None
        took = f"{self.spec.name}: its network was translated for OpenVINO in {time.perf_counter() - start:.1f} s"
        try:
            kept.write(model, inputs, answers)
            kept.note_proof(self.precision, figure)
            self._note(f"{took}; later runs find it in the cache")
        except (OSError, RuntimeError) as error:  # OpenVINO writes as well
            self._note(f"{took}, and could not be kept: {_first_line(error)}")
        return self._believed(network, figure)

    def _compiled(self, model: Any) -> Traced:
        try:
            return Traced(model, tuple(self.spec.outputs), self.precision, self.threads)
        except RuntimeError as error:
            raise _NotByOpenVino(f"its network cannot be compiled ({_first_line(error)})") from None

    def _prove(
        self, kept: KeptNetwork, network: Traced, inputs: np.ndarray, answers: Mapping[str, np.ndarray]
    ) -> float:
        """The agreement of a network of the cache with torch's kept answers, in this precision on this CPU."""
        try:
            figure = agreement(network(inputs), answers, self.precision)
        except (RuntimeError, MemoryError) as error:
            raise _NotByOpenVino(f"its network fails ({_first_line(error)})") from None
        with contextlib.suppress(OSError):
            kept.note_proof(self.precision, figure)
        return figure

    def _believed(self, network: Traced | None, figure: float | None) -> Traced:
        reason = disagreement(float("nan") if figure is None else figure, self.precision)
        if reason or network is None:
            raise _NotByOpenVino(reason)
        return network

    def _note(self, sentence: str) -> None:
        self.notes = (*self.notes, sentence)


class TowerEncoder:
    """What encoders with an image tower do alike. A kind of it sets `_spec`, and has `preprocess` and `make_tower`."""

    _spec: EncoderSpec
    _map_layer: str | None = None  # whose map its vectors are of, where that is not the tower's last

    @property
    def spec(self) -> EncoderSpec:
        """What this encoder computes."""
        return self._spec

    @property
    def engine(self) -> str:
        """Framework, version, precision and device. The image tower is loaded and tried out for it."""
        return self._tower.engine

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how it runs."""
        return self._tower.notes

    def make_tower(self) -> ImageTower:
        """The tower, which loads nothing yet."""
        raise NotImplementedError

    @property
    def frame(self) -> Grid:
        """Where the model's input lies on the picture.

        Raises:
            EncoderError: where nobody knows.
        """
        raise EncoderError(f"{self._spec.name}: what part of the picture it sees is not known here")

    def marked(self) -> MarkedNetwork:
        """The tower on torch, with its last cells; raises EncoderError where they are not found."""
        return self._tower.marked(self.frame, self._map_layer)

    def embed(self, batch: np.ndarray | Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """Inputs as `preprocess` gives them to `{output: (B, *shape) float32}`."""
        found = self._tower(np.asarray(batch))
        return {output: require_finite(found[output], self._spec.weights_source) for output in self._spec.outputs}

    @cached_property
    def _tower(self) -> ImageTower:
        return self.make_tower()


class _NotByOpenVino(Exception):
    """Why torch is to run the tower."""


def _first_line(error: BaseException) -> str:
    lines = (line.strip() for line in str(error).splitlines())
    return next((line for line in lines if line), type(error).__name__)[:160]


def _pictures() -> list[CxrImage]:
    """Pictures that differ: a ramp, blocks of noise, and both at once."""
    side = 96
    ramp = np.arange(side * side).reshape(side, side) * 255 // (side * side)
    noise = np.random.default_rng(0).integers(0, 256, (side // 8, side // 8)).repeat(8, axis=0).repeat(8, axis=1)
    kinds = (ramp, noise, (ramp.T + noise) // 2)
    return [CxrImage(pixels=kind.astype(np.uint8), bits=8, content_id="", source="png") for kind in kinds]
