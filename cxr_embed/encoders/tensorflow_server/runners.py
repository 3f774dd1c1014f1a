"""Who runs the network that lies inside ELIXR-C: TensorFlow, or on a CPU OpenVINO, which fuses its layers."""

from __future__ import annotations

import os
import sys
import tempfile
from typing import Any

import numpy as np
from saved_models import CELLS, FEATURES, FIELD, SIDE

# A protobuf ends at 2 GiB; and the weights are there six times at most while they go from one library to the other.
LARGEST_BYTES, COPIES = 2 << 30, 6


class TensorFlowNetwork:
    """The network as it was cut out of the graph.

    Args:
        tf: TensorFlow.
        pruned: prepared pictures `(B, 1280, 1280, 3)` to maps `(B, 40, 40, 1376)`.
    """

    def __init__(self, tf: Any, pruned: Any) -> None:
        self.tf, self.pruned = tf, pruned
        self.name = f"tensorflow {tf.__version__}"

    def __call__(self, pictures: np.ndarray) -> Any:
        """Prepared pictures, `(B, 1280, 1280)` float32, to features `(B, 8, 8, 1376)`."""
        tf = self.tf
        (cells,) = self.pruned(tf.repeat(tf.constant(pictures)[..., None], 3, axis=3))
        cells = tf.ensure_shape(cells, [len(pictures), CELLS, CELLS, FEATURES[-1]])
        return tf.nn.avg_pool2d(cells, FIELD, FIELD, "VALID")


class OpenVinoNetwork:
    """The same network with its variables made constants, run by OpenVINO on the CPU in float32.

    Args:
        tf: TensorFlow.
        pruned: as `TensorFlowNetwork`.
        threads: of the CPU; None for all.
        at_once: pictures.

    Raises:
        Exception: of many kinds, where OpenVINO is not installed or does not take this graph.
    """

    def __init__(self, tf: Any, pruned: Any, threads: int | None, at_once: int) -> None:
        from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

        openvino = import_openvino()
        self.tf, self.at_once = tf, at_once
        self.name = f"openvino {openvino.__version__.split('-')[0]}"
        size, free = _weights(pruned), _free_memory()
        if size > LARGEST_BYTES or COPIES * size > free:
            raise MemoryError(f"the network's weights are {size:,} bytes, {free:,.0f} bytes of memory are free")
        core, ops = openvino.Core(), openvino.opset13
        # One channel goes in and the means of 5 x 5 come out, so that little is copied between the libraries.
        given = ops.parameter([at_once, SIDE, SIDE, 1], np.float32)
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "network.pb")
            with open(file, "wb") as stream:
                stream.write(convert_variables_to_constants_v2(pruned).graph.as_graph_def().SerializeToString())
            inner = core.read_model(file)
            inner.reshape([at_once, SIDE, SIDE, 3])
            for reader in inner.inputs[0].get_target_inputs():
                reader.replace_source_output(ops.broadcast(given, np.array([at_once, SIDE, SIDE, 3])).output(0))
            blocks = np.array([at_once, CELLS // FIELD, FIELD, CELLS // FIELD, FIELD, FEATURES[-1]])
            cells = ops.reshape(inner.get_results()[0].input_value(0), blocks, special_zero=False)
            whole = openvino.Model([ops.reduce_mean(cells, np.array([2, 4]))], [given])
            settings = {"NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32", "ENABLE_CPU_PINNING": False}
            if threads:
                settings["INFERENCE_NUM_THREADS"] = threads
            self.request = core.compile_model(whole, "CPU", settings).create_infer_request()

    def __call__(self, pictures: np.ndarray) -> Any:
        """As `TensorFlowNetwork`."""
        missing = self.at_once - len(pictures)
        given = np.concatenate([pictures, np.zeros((missing, SIDE, SIDE), np.float32)]) if missing else pictures
        return self.tf.constant(self.request.infer({0: given[..., None]})[0][: len(pictures)])


def _weights(pruned: Any) -> int:
    """Bytes of the variables that a graph reads."""
    kinds = ("VariableV2", "Variable", "VarHandleOp")
    held = [operation for operation in pruned.graph.get_operations() if operation.type in kinds]
    shapes = [[dim.size for dim in operation.get_attr("shape").dim] for operation in held]
    return sum(4 * int(np.prod(shape)) for shape in shapes)


def _free_memory() -> float:
    """Bytes that the machine can give without swapping; endless where it does not say."""
    try:
        with open("/proc/meminfo") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return float("inf")


def import_openvino() -> Any:
    """As `telemetry.import_openvino`, which this program cannot import."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino
