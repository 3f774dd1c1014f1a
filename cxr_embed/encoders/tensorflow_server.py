"""The TensorFlow side of `cxr-foundation`: a program of its own that needs Python, numpy and tensorflow, nothing else.

    python tensorflow_server.py SOCKET_DESCRIPTOR MEMORY_DESCRIPTOR

It may be run by another environment's interpreter, so it imports nothing of this package. Requests and answers are
JSON over the socket; arrays lie in the shared memory, at the offsets that the messages name. It ends when the other
end of the socket closes.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

TOKENS = 128
FEATURES = (8, 8, 1376)
# Signature inputs and outputs of the two SavedModels, without the batch axis: what the published ones have.
ELIXR_C = {"inputs": {"input_example": ((), "string")}, "outputs": {"feature_maps_0": (FEATURES, "float32")}}
QFORMER = {
    "inputs": {
        "image_feature": (FEATURES, "float32"),
        "ids": ((1, TOKENS), "int32"),
        "paddings": ((1, TOKENS), "float32"),
    },
    "outputs": {
        "all_contrastive_img_emb": ((32, 128), "float32"),
        "img_emb": ((32, 768), "float32"),
        "contrastive_txt_emb": ((128,), "float32"),
    },
}
# Our names of the image outputs.
FROM_QFORMER = {"contrastive": "all_contrastive_img_emb", "general": "img_emb"}


class Unfit(Exception):
    """The models or the machine are not what was asked for."""


class Signature:
    """One SavedModel's `serving_default`, checked, and driven at whatever batch size it was exported with."""

    def __init__(self, tf: Any, folder: str, expected: dict[str, Any]) -> None:
        self.tf = tf
        try:
            self.model = tf.saved_model.load(folder)
        except Exception as error:
            told = (str(error).splitlines() or [""])[0][:300]
            raise Unfit(
                f"{folder}: not a SavedModel that TensorFlow can load ({told}); half a download? get it again"
            ) from None
        names = list(self.model.signatures)
        if "serving_default" not in names:
            raise Unfit(f"{folder}: no signature serving_default; it has {', '.join(names) or 'none'}")
        self.call = self.model.signatures["serving_default"]
        inputs = self.call.structured_input_signature[1]
        self.batch = self._check(folder, "input", inputs, expected["inputs"])
        self._check(folder, "output", self.call.structured_outputs, expected["outputs"])

    @staticmethod
    def _check(folder: str, what: str, found: dict[str, Any], expected: dict[str, Any]) -> int | None:
        """Compares names, dtypes and shapes; returns the batch size that is fixed in the graph, or None."""
        if (what == "input" and set(found) != set(expected)) or not set(expected) <= set(found):
            raise Unfit(f"{folder}: {what}s {', '.join(sorted(found))}; expected {', '.join(sorted(expected))}")
        batches = set()
        for name, (shape, dtype) in expected.items():
            spec = found[name]
            have = spec.shape.as_list() if spec.shape.rank is not None else None
            told = f"{folder}: {what} {name} is {spec.dtype.name} {have}; expected {dtype} {[None, *shape]}"
            if spec.dtype.name != dtype:
                raise Unfit(told)
            if have is None:  # an unknown shape: any batch may do, the first call will tell
                continue
            if len(have) != 1 + len(shape) or any(h not in (None, s) for h, s in zip(have[1:], shape)):  # noqa: B905
                raise Unfit(told)
            batches.add(have[0])
        fixed = batches - {None}
        if len(fixed) > 1:
            raise Unfit(f"{folder}: {what}s of different batch sizes {sorted(fixed)}")
        return fixed.pop() if fixed else None

    def __call__(self, **inputs: Any) -> dict[str, Any]:
        """Runs `(B, ...)` tensors inside a graph. A graph of a fixed batch is looped over there, not in Python."""
        tf, size = self.tf, self.batch
        if size is None:
            return dict(self.call(**inputs))
        count = tf.shape(next(iter(inputs.values())))[0]
        missing = -count % size
        blocks = {}
        for name, value in inputs.items():
            # A short last block repeats its first row; the surplus is cut off below.
            padded = tf.concat([value, tf.repeat(value[:1], missing, axis=0)], 0)
            blocks[name] = tf.reshape(padded, tf.concat([[-1, size], tf.shape(value)[1:]], 0))
            blocks[name].set_shape([None, size, *value.shape[1:]])
        kinds = {name: tf.TensorSpec(None, spec.dtype) for name, spec in self.call.structured_outputs.items()}
        results = tf.map_fn(lambda block: dict(self.call(**block)), blocks, fn_output_signature=kinds)
        return {
            name: tf.reshape(value, tf.concat([[-1], tf.shape(value)[2:]], 0))[:count]
            for name, value in results.items()
        }


class Server:
    """Both models, ready."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.tf = tf = load_tensorflow(request)
        self.elixr_c = Signature(tf, request["elixr_c"], ELIXR_C)
        self.qformer = Signature(tf, request["qformer"], QFORMER)
        gpus = tf.config.list_logical_devices("GPU")
        self.engine = f"tensorflow {tf.__version__} float32 {'gpu' if gpus else 'cpu'}"
        self.outputs = tuple(request["outputs"])
        signature = [tf.TensorSpec([None], tf.string)]
        graph = tf.function(lambda examples: self.graph(examples, self.outputs), input_signature=signature)
        self.image_graph = graph.get_concrete_function()  # built now, not with the first batch
        self.text_graph: Any = None

    def images(self, files: list[bytes]) -> dict[str, np.ndarray]:
        """PNG files to the outputs, `(B, ...)` float32 each."""
        examples = self.tf.constant([self.example(file) for file in files])
        return {name: value.numpy() for name, value in self.image_graph(examples).items()}

    def example(self, png: bytes) -> bytes:
        """A serialized `tf.train.Example`, as ELIXR-C takes it."""
        train = self.tf.train
        values = {"image/encoded": png, "image/format": b"png"}
        features = {name: train.Feature(bytes_list=train.BytesList(value=[value])) for name, value in values.items()}
        serialized: bytes = train.Example(features=train.Features(feature=features)).SerializeToString()
        return serialized

    def graph(self, examples: Any, outputs: tuple[str, ...]) -> dict[str, Any]:
        """The whole way from serialized examples to vectors as one graph."""
        tf = self.tf
        features = self.elixr_c(input_example=examples)["feature_maps_0"]
        wanted = {"elixr_c": features} if "elixr_c" in outputs else {}
        if set(outputs) & set(FROM_QFORMER):
            blank = tf.zeros([tf.shape(examples)[0], 1, TOKENS])
            found = self.qformer(
                image_feature=tf.ensure_shape(features, [None, *FEATURES]), ids=tf.cast(blank, tf.int32), paddings=blank
            )
            wanted |= {name: found[theirs] for name, theirs in FROM_QFORMER.items() if name in outputs}
        return wanted

    def prompts(self, ids: np.ndarray, paddings: np.ndarray) -> dict[str, np.ndarray]:
        """`(P, 128)` token ids and paddings to `(P, 128)` float32."""
        if self.text_graph is None:
            self.text_graph = self.tf.function(
                lambda **inputs: self.qformer(**inputs)["contrastive_txt_emb"], reduce_retracing=True
            )
        features = np.zeros((len(ids), *FEATURES), np.float32)
        found = self.text_graph(
            image_feature=self.tf.constant(features),
            ids=self.tf.constant(ids[:, None]),
            paddings=self.tf.constant(paddings[:, None]),
        )
        return {"text": found.numpy()}


def load_tensorflow(request: dict[str, Any]) -> Any:
    """TensorFlow, on the device that is asked for, taking GPU memory only as it is used."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError:
        raise Unfit(
            f"{sys.executable} has no tensorflow: pip install 'cxr-embed[cxr-foundation]', "
            "or name an interpreter that has it in CXR_EMBED_TF_PYTHON"
        ) from None
    if request["threads"]:
        tf.config.threading.set_intra_op_parallelism_threads(request["threads"])
    gpus = tf.config.list_physical_devices("GPU") if request["device"] != "cpu" else []
    if request["device"] == "cuda" and not gpus:
        raise Unfit("tensorflow sees no GPU here; use --device cpu, or check `nvidia-smi` and tensorflow[and-cuda]")
    tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    return tf


def answer(server: Server, memory: mmap.mmap, request: dict[str, Any]) -> dict[str, Any]:
    """Runs a request whose arrays lie in the memory, and leaves the results there after them."""
    if request["do"] == "images":
        files = [memory[start : start + size] for start, size in request["files"]]
        results = server.images(files)
    else:
        count = request["prompts"]
        ids = np.frombuffer(memory, np.int32, count * TOKENS).reshape(count, TOKENS)
        paddings = np.frombuffer(memory, np.float32, count * TOKENS, ids.nbytes).reshape(count, TOKENS)
        results = server.prompts(ids, paddings)
    places, at = {}, request["results"]
    for name, array in results.items():
        data = np.ascontiguousarray(array, np.float32)
        if at + data.nbytes > len(memory):
            raise Unfit(f"output {name} has shape {list(data.shape)}, more than was expected")
        memory[at : at + data.nbytes] = data.tobytes()
        places[name] = [at, list(data.shape)]
        at += data.nbytes
    return {"results": places}


def _end_with_peer(descriptor: int) -> None:
    """As `processes.end_with_peer`, which this program cannot import."""
    poll = select.poll()
    poll.register(descriptor, 0)
    poll.poll()
    os._exit(1)


def main() -> None:
    """Serves until the socket closes."""
    connection = Connection(int(sys.argv[1]))
    threading.Thread(target=_end_with_peer, args=(connection.fileno(),), daemon=True).start()
    descriptor = int(sys.argv[2])
    memory: mmap.mmap | None = None
    server: Server | None = None
    try:
        while True:
            request = json.loads(connection.recv_bytes())
            try:
                if request["do"] == "load":
                    server = Server(request)
                    told: dict[str, Any] = {"engine": server.engine}
                else:
                    size = os.fstat(descriptor).st_size
                    if memory is None or len(memory) != size:
                        memory = mmap.mmap(descriptor, size)
                    assert server is not None
                    told = answer(server, memory, request)
            except Unfit as error:
                told = {"unfit": str(error)}
            except Exception as error:  # whatever TensorFlow raises is told, in its own words
                kind = type(error).__name__
                memory_gone = kind == "ResourceExhaustedError" or isinstance(error, MemoryError)
                line = next((line for line in str(error).splitlines() if line.strip()), "")[:300]
                told = {"error": f"{'out of memory: ' if memory_gone else ''}{kind}: {line}"}
            connection.send_bytes(json.dumps(told).encode())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # nobody is left to serve


if __name__ == "__main__":
    main()
