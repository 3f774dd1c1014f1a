"""Networks of torch for OpenVINO: traced once, kept in the cache with torch's answers, and believed for these alone.

What is kept is a network's graph and weights (`.xml`, `.bin`), some pictures with what torch answered to them
(`.npz`), and a record with a digest of each. A file that is not what was written is made anew.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.encoders.engines import cpu_settings, openvino_name
from cxr_embed.encoders.kept import cache_folder, read_record, versions, write_record
from cxr_embed.errors import EncoderError
from cxr_embed.io.digests import file_sha256, json_digest, short_digest
from cxr_embed.io.files import ODD_HEADER, partial_of, sync
from cxr_embed.telemetry import import_openvino
from cxr_embed.types import EncoderSpec, Precision

# How far answers may lie from torch's float32, over their largest value; and the least cosine with them.
APART, COSINE = 1e-4, 0.998
_NETWORKS = "networks"
_FILES = (".xml", ".bin", ".npz")
_INPUTS = "inputs"
_PACKAGES = ("openvino", "torch")
# Two halves of a batch on half of the cores each wait less for each other than all cores within one picture: ViT-B/16
# was 1.2 times as fast in float32 and 1.3 times in bf16, on 2 cores.
_STREAMS = 2
# Weights are there as often while a network is traced: in torch, in the graph, compiled, and on their way to the disk.
_COPIES = 4


class Traced:
    """A network compiled for this machine's CPU. It takes the parts of a batch side by side.

    Args:
        model: OpenVINO's, of one input and an output for each name.
        outputs: their names, in order.
        precision, threads: as for `load_encoder`.
    """

    def __init__(self, model: Any, outputs: Sequence[str], precision: Precision, threads: int | None) -> None:
        from joblib import cpu_count

        core = import_openvino().Core()
        self.name = openvino_name(precision)
        self._outputs = tuple(outputs)
        self.shape = tuple(side.get_length() for side in list(model.inputs[0].partial_shape)[1:])
        streams = min(_STREAMS, threads or cpu_count())
        settings = {**cpu_settings(precision, threads), "NUM_STREAMS": streams}
        compiled = core.compile_model(model, "CPU", settings)
        self._requests = [compiled.create_infer_request() for _ in range(streams)]

    def __call__(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """`(B, *shape)` to `{output: (B, ...) float32}`.

        Raises:
            MemoryError: where there is too little for so many.
        """
        parts = np.array_split(np.ascontiguousarray(batch), max(1, min(len(self._requests), len(batch))))
        running, failures = self._requests[: len(parts)], []
        for request, part in zip(running, parts, strict=True):
            request.start_async({0: part})
        for request in running:  # all of them: one that still runs cannot be asked again
            try:
                request.wait()
            except RuntimeError as error:
                failures.append(error)
        if failures:
            if "alloc" not in str(failures[0]).lower():  # std::bad_alloc, Failed to allocate, ...
                raise failures[0]
            raise MemoryError(f"not enough memory for a batch of {len(batch)}") from None
        return {
            name: np.concatenate([np.asarray(request.get_output_tensor(at).data, np.float32) for request in running])
            for at, name in enumerate(self._outputs)
        }


def agreement(found: Mapping[str, np.ndarray], answers: Mapping[str, np.ndarray], precision: Precision) -> float:
    """How well answers agree with torch's.

    Returns:
        For float32 the largest difference over the largest value; for bf16 the least cosine of two vectors. NaN where
        shapes differ, or a value is not finite.
    """
    worst = []
    for name, right in answers.items():
        ours = found[name]
        if ours.shape != right.shape or not np.isfinite(ours).all():
            return float("nan")
        if precision == "float32":
            worst.append(float(np.abs(ours - right).max() / max(float(np.abs(right).max()), 1e-30)))
        else:
            lengths = np.linalg.norm(ours, axis=-1) * np.linalg.norm(right, axis=-1)
            worst.append(float(((ours * right).sum(axis=-1) / np.maximum(lengths, 1e-30)).min()))
    return max(worst) if precision == "float32" else min(worst)


def disagreement(figure: float, precision: Precision) -> str:
    """Why answers that agree as much are not believed; blank where they are."""
    if math.isnan(figure):
        return "its answers are not finite, or of other shapes"
    if precision == "float32":
        return "" if figure <= APART else f"its answers are {figure:.0e} from torch's, {APART:.0e} is allowed"
    return "" if figure >= COSINE else f"its answers have a cosine of {figure:.3f} with torch's, {COSINE} is required"


def trace(
    module: Any, function: Callable[[Any, Any], dict[str, Any]], outputs: Sequence[str], example: np.ndarray
) -> Any:
    """OpenVINO's model of a function of torch, for batches of any size.

    Args:
        module: torch's, which the function is given.
        function: the module and pixels `(B, *shape)` to tensors by the names of outputs.
        outputs: of which the model has these, in order.
        example: a batch of two or more.

    Raises:
        Exception: of many kinds, where the function cannot be traced, or has operations that OpenVINO does not know.
    """
    import torch

    openvino = import_openvino()
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    class Tower(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = module.requires_grad_(False)

        def forward(self, pixels: Any) -> Any:
            found = function(self.inner, pixels)
            return tuple(found[name].float() for name in outputs)

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Without `check_trace` torch runs the network once, not thrice: our own comparison follows.
        decoder = TorchScriptPythonDecoder(
            Tower().eval(), example_input=torch.from_numpy(example), trace_kwargs={"check_trace": False}
        )
        model = openvino.convert_model(decoder)
    if len(model.inputs) != 1 or len(model.outputs) != len(outputs):
        raise EncoderError(f"{len(model.inputs)} inputs and {len(model.outputs)} outputs")
    kind = openvino.Type(example.dtype)
    if model.inputs[0].element_type != kind:
        model.inputs[0].get_node().set_element_type(kind)
        model.validate_nodes_and_infer_types()
    model.reshape([-1, *example.shape[1:]])
    return model


class KeptNetwork:
    """The place of one encoder's network in the cache.

    Attributes:
        refused: why the network is not run by OpenVINO, as an earlier run found; blank where it may be.
    """

    def __init__(self, spec: EncoderSpec, packages: Sequence[str]) -> None:
        self.outputs = tuple(spec.outputs)
        self._key = {"fingerprint": spec.fingerprint, "versions": versions((*_PACKAGES, *packages))}
        self._folder = cache_folder() / _NETWORKS
        self._name = json_digest(self._key)[:32]
        record = read_record(self._record_file) or {}
        self._record: dict[str, Any] = record if record.get("key") == self._key else {}

    @property
    def _record_file(self) -> Path:
        return self._folder / f"{self._name}.json"

    @property
    def refused(self) -> str:
        return str(self._record.get("refused", ""))

    def read(self) -> Any:
        """OpenVINO's model; None where it is not here, or not what was written."""
        if "files" not in self._record:
            return None
        try:
            if any(file_sha256(self._file(kind)) != self._record["files"][kind] for kind in _FILES):
                return None
            return import_openvino().Core().read_model(self._file(".xml"), self._file(".bin"))
        except (OSError, RuntimeError, KeyError):
            return None

    def example(self) -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
        """The pictures of the network's proof, and torch's answers to them."""
        try:
            with np.load(self._file(".npz"), allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
                return found.pop(_INPUTS), found
        except (OSError, ValueError, KeyError, *ODD_HEADER):
            return None

    def proven(self, precision: Precision) -> float | None:
        """The agreement that was measured on a CPU like this one; None where none was."""
        figure = self._record.get("proofs", {}).get(_arithmetic(precision))
        return None if figure is None else float(figure)

    def write(self, model: Any, inputs: np.ndarray, answers: Mapping[str, np.ndarray]) -> None:
        """Keeps a network, with pictures and torch's answers to them.

        Raises:
            OSError: where it cannot be written.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        with partial_of(self._folder / self._name, folder=True) as partial:
            # By default the weights would be halved to float16.
            import_openvino().save_model(model, partial / "network.xml", compress_to_fp16=False)
            np.savez(partial / "network.npz", **{_INPUTS: inputs}, **answers)  # type: ignore[arg-type]
            digests = {kind: file_sha256(partial / f"network{kind}") for kind in _FILES}
            before = self._record.get("stem")
            # Files of another process that writes the same network now have another stem, or the same bytes.
            stem = f"{self._name}-{short_digest(''.join(digests.values()).encode())}"
            for kind in _FILES:
                sync(partial / f"network{kind}")
                os.replace(partial / f"network{kind}", self._folder / f"{stem}{kind}")
            sync(self._folder)
        self._put({"stem": stem, "files": digests, "proofs": {}})
        if before not in (None, stem):
            for kind in _FILES:
                (self._folder / f"{before}{kind}").unlink(missing_ok=True)

    def note_proof(self, precision: Precision, figure: float) -> None:
        """Keeps how well the network agreed on this CPU; raises as `write`."""
        proofs = {**self._record.get("proofs", {}), _arithmetic(precision): figure}
        self._put({**self._record, "proofs": proofs})

    def refuse(self, reason: str) -> None:
        """Keeps why there is no network, so that the next run need not try; raises as `write`."""
        self._put({"refused": reason})

    def _put(self, record: Mapping[str, Any]) -> None:
        body = {"key": self._key, **{name: value for name, value in record.items() if name not in ("key", "digest")}}
        write_record(self._record_file, body)
        self._record = body

    def _file(self, kind: str) -> Path:
        return self._folder / f"{self._record['stem']}{kind}"


def _arithmetic(precision: Precision) -> str:
    """A precision on this kind of CPU: another may have other instructions for it."""
    return f"{precision} {import_openvino().Core().get_property('CPU', 'FULL_DEVICE_NAME')}"


def too_large(model_bytes: int) -> bool:
    """Whether there is too little memory to trace weights of so many bytes."""
    try:
        with open("/proc/meminfo") as file:
            free = next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return False
    return _COPIES * model_bytes > free
