"""Engines: the same network run by OpenVINO on a CPU or by torch on a GPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from cxr_embed.encoders.networks import Network
from cxr_embed.errors import EncoderError
from cxr_embed.telemetry import import_openvino
from cxr_embed.types import Precision

BATCH_NORM_EPSILON = 1e-5  # torch.nn.BatchNorm2d's default, which both families keep


class Engine(Protocol):
    """A network with its weights, ready to run."""

    name: str

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """`(B, C, S, S)` float32 to what the network gives, float32: `(B, D)`, or a map `(B, D, H, W)`."""


def available_precisions(device: str) -> tuple[Precision, ...]:
    """The arithmetic that runs natively on `cpu` or `cuda` here, the fastest first.

    `cuda` where no GPU is here, as for work on other machines: what each of them can.
    """
    if device == "cuda":
        if importlib.util.find_spec("torch") is None:
            return ("float32",)
        import torch

        native = torch.cuda.is_available() and torch.cuda.is_bf16_supported()
        return ("bf16", "float32") if native else ("float32",)
    native = import_openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return ("bf16", "float32") if "BF16" in native else ("float32",)


def openvino_name(precision: Precision) -> str:
    """The name of OpenVINO on a CPU as an engine."""
    return f"openvino {import_openvino().__version__.split('-')[0]} {precision} cpu"


def cpu_settings(precision: Precision, threads: int | None) -> dict[str, Any]:
    """What a network is compiled with."""
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        "NUM_STREAMS": 1,
        # Several workers would all be pinned to the same first cores.
        "ENABLE_CPU_PINNING": False,
    }
    return settings if threads is None else {**settings, "INFERENCE_NUM_THREADS": threads}


class OpenVinoOps:
    """Builds an OpenVINO graph from the weights, so that a CPU needs no torch."""

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        self.ops: Any = import_openvino().opset13
        self.weights = weights

    def conv(self, x: Any, weight: str, stride: int = 1, pad: int = 0) -> Any:
        kernel = self.ops.constant(self.weights[weight])
        return self.ops.convolution(x, kernel, [stride, stride], [pad, pad], [pad, pad], [1, 1])

    def norm(self, x: Any, prefix: str) -> Any:
        w = self.weights
        scale = w[f"{prefix}.weight"] / np.sqrt(w[f"{prefix}.running_var"] + BATCH_NORM_EPSILON)
        shift = w[f"{prefix}.bias"] - w[f"{prefix}.running_mean"] * scale
        as_map = (1, -1, 1, 1)
        scaled = self.ops.multiply(x, self.ops.constant(scale.reshape(as_map)))
        return self.ops.add(scaled, self.ops.constant(shift.reshape(as_map)))

    def relu(self, x: Any) -> Any:
        return self.ops.relu(x)

    def max_pool(self, x: Any) -> Any:
        return self.ops.max_pool(x, [2, 2], [1, 1], [1, 1], [1, 1], [3, 3]).output(0)

    def halve(self, x: Any) -> Any:
        return self.ops.avg_pool(x, [2, 2], [0, 0], [0, 0], [2, 2], exclude_pad=True)

    def concat(self, x: Any, y: Any) -> Any:
        return self.ops.concat([x, y], axis=1)

    def add(self, x: Any, y: Any) -> Any:
        return self.ops.add(x, y)

    def double(self, x: Any) -> Any:
        scales, axes = np.array([2, 2], np.float32), np.array([2, 3])
        return self.ops.interpolate(
            x, scales, "nearest", "scales", coordinate_transformation_mode="asymmetric", nearest_mode="floor", axes=axes
        )

    def mean(self, x: Any) -> Any:
        return self.ops.reduce_mean(x, np.array([2, 3]), keep_dims=False)

    def highest(self, x: Any) -> Any:
        return self.ops.reduce_max(x, np.array([2, 3]), keep_dims=False)


class OpenVinoEngine:
    """A compiled OpenVINO model. The batch size is part of the compiled shape; a smaller batch is padded to it."""

    def __init__(
        self,
        network: Network,
        weights: Mapping[str, np.ndarray],
        side: int,
        precision: Precision,
        threads: int | None,
        channels: int = 1,
    ) -> None:
        openvino = import_openvino()
        self.name = openvino_name(precision)
        self._core = openvino.Core()
        parameter = openvino.opset13.parameter([1, channels, side, side], dtype=np.float32)
        self._model = openvino.Model([network(OpenVinoOps(weights), parameter)], [parameter])
        self._shape = [channels, side, side]
        self._settings = cpu_settings(precision, threads)
        self._request: Any = None
        self._size = 0

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        try:
            return self._infer(batch)
        except RuntimeError as error:
            if "alloc" not in str(error).lower():  # std::bad_alloc, Failed to allocate, ...
                raise
            # A smaller batch must not be padded to the size that was too large.
            self._request, self._size = None, 0
            raise MemoryError(f"not enough memory for a batch of {len(batch)}") from None

    def _infer(self, batch: np.ndarray) -> np.ndarray:
        if len(batch) > self._size:
            self._model.reshape([len(batch), *self._shape])
            self._request = self._core.compile_model(self._model, "CPU", self._settings).create_infer_request()
            self._size = len(batch)
        padding = self._size - len(batch)
        full = np.concatenate([batch, np.zeros((padding, *batch.shape[1:]), np.float32)]) if padding else batch
        return np.array(self._request.infer({0: full})[0][: len(batch)], dtype=np.float32)


class TorchOps:
    """The same operations in torch, weights on the device."""

    def __init__(self, weights: Mapping[str, Any]) -> None:
        import torch.nn.functional as functional

        self.f: Any = functional
        self.weights = weights

    def conv(self, x: Any, weight: str, stride: int = 1, pad: int = 0) -> Any:
        return self.f.conv2d(x, self.weights[weight], stride=stride, padding=pad)

    def norm(self, x: Any, prefix: str) -> Any:
        w = self.weights
        statistics = w[f"{prefix}.running_mean"], w[f"{prefix}.running_var"]
        return self.f.batch_norm(
            x, *statistics, w[f"{prefix}.weight"], w[f"{prefix}.bias"], training=False, eps=BATCH_NORM_EPSILON
        )

    def relu(self, x: Any) -> Any:
        return self.f.relu_(x)

    def max_pool(self, x: Any) -> Any:
        return self.f.max_pool2d(x, 3, 2, 1)

    def halve(self, x: Any) -> Any:
        return self.f.avg_pool2d(x, 2, 2)

    def concat(self, x: Any, y: Any) -> Any:
        import torch

        return torch.cat([x, y], 1)

    def add(self, x: Any, y: Any) -> Any:
        return x + y

    def double(self, x: Any) -> Any:
        return self.f.interpolate(x, scale_factor=2)

    def mean(self, x: Any) -> Any:
        return x.float().mean(dim=(2, 3))

    def highest(self, x: Any) -> Any:
        return x.float().amax(dim=(2, 3))


class TorchEngine:
    """Torch, channels last, in bf16 or float32, on `cuda` (or on `cpu`, for comparison)."""

    def __init__(self, network: Network, weights: Mapping[str, np.ndarray], precision: Precision, device: str) -> None:
        import torch

        self._torch = torch
        self._network, self._device = network, device
        self._dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
        self.name = f"torch {torch.__version__} {precision} {name}"
        tensors = {}
        for key, value in weights.items():
            tensor = torch.from_numpy(value).to(device)
            if tensor.ndim == 4:
                tensor = tensor.to(self._dtype, memory_format=torch.channels_last)
            tensors[key] = tensor  # batch-norm statistics stay float32; torch mixes the two natively
        self._ops = TorchOps(tensors)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        torch = self._torch
        # By default a GPU computes float32 convolutions with ten bits of mantissa (TF32).
        exact = torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
        with torch.inference_mode(), exact:
            x = torch.from_numpy(batch).to(self._device, non_blocking=True)
            x = x.to(self._dtype, memory_format=torch.channels_last)
            return np.asarray(self._network(self._ops, x).float().cpu().numpy(), dtype=np.float32)


def with_mean(channels_first: np.ndarray) -> dict[str, np.ndarray]:
    """A network's map `(B, D, H, W)` as outputs: `map` `(B, H, W, D)`, and `features` `(B, D)`, its mean."""
    return {"features": channels_first.mean(axis=(2, 3)), "map": np.moveaxis(channels_first, 1, -1)}


def make_engine(
    network: Network,
    weights: Mapping[str, np.ndarray],
    *,
    side: int,
    device: str,
    precision: Precision,
    threads: int | None,
    channels: int = 1,
) -> Engine:
    """The engine for a device, of pictures of one side and number of channels.

    Raises:
        EncoderError: where the precision is not native on the device.
    """
    possible = available_precisions(device)
    if precision not in possible:
        raise EncoderError(
            f"this {device} has no native {precision}; use `precision` {possible[0]} (a store holds one precision only)"
        )
    if device == "cuda":
        return TorchEngine(network, weights, precision, device)
    return OpenVinoEngine(network, weights, side, precision, threads, channels)
