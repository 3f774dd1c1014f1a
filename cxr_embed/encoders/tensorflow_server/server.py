"""The TensorFlow side of `cxr-foundation`: a program of its own that needs Python, numpy, tensorflow and
tensorflow-text, nothing else.

    python server.py SOCKET_DESCRIPTOR MEMORY_DESCRIPTOR

It may be run by another environment's interpreter, so it imports nothing of this package but the files beside it;
where it has OpenVINO and no GPU, the network inside the image tower is given to that.
Requests and answers are JSON over the socket; arrays lie in the shared memory, at the offsets that the messages name.
It ends when the other end of the socket closes.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import platform
import select
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from runners import OpenVinoNetwork, TensorFlowNetwork
from saved_models import ELIXR_C, FEATURES, QFORMER, SIDE, TOKENS, Graph, Signature, Unfit, network

# Our names of the image outputs.
FROM_QFORMER = {"contrastive": "all_contrastive_img_emb", "general": "img_emb"}
# Which package registers an op that TensorFlow itself does not know.
OP_PACKAGES = {"SentencepieceOp": "tensorflow-text"}


class Server:
    """Both models, ready."""

    def __init__(self, request: dict[str, Any]) -> None:
        self.tf = tf = load_tensorflow(request)
        graphs = {name: Graph(request[name]) for name in ("elixr_c", "qformer")}
        needed = {name: graph.unregistered() for name, graph in graphs.items()}
        text, trouble = load_tensorflow_text(tf)
        for name, graph in graphs.items():
            if unknown := graph.unregistered():
                raise Unfit(f"{request[name]}: {_register(unknown, trouble)}")
        self.device = "gpu" if tf.config.list_logical_devices("GPU") else "cpu"
        self.at_once = request["at_once"][self.device]
        self.elixr_c = Signature(tf, request["elixr_c"], ELIXR_C, unknown_batch=1)
        self.notes: list[str] = []
        self.networks, openvino = self._load_networks(request["threads"])
        self.qformer_device = self.device
        self.qformer = self._load_qformer(request["qformer"])
        self.outputs = tuple(request["outputs"])
        signature = [tf.TensorSpec([None], tf.string)]
        graph = tf.function(lambda examples: self.elixr_c(input_example=examples)["feature_maps_0"], signature)
        self.features_graph = graph.get_concrete_function()  # built now, not with the first batch
        self.tokens_graph: Any = None
        self.text_graph: Any = None
        self.beside = ThreadPoolExecutor(1)  # the Q-Former runs here while the network has the next pictures
        self.engine = f"tensorflow {tf.__version__} float32 {self.device}"
        self.depth = graphs["elixr_c"].depth
        parts = {"elixr_c": (self.elixr_c, self.device), "qformer": (self.qformer, self.qformer_device)}
        self.facts = {
            "versions": {
                "python": platform.python_version(),
                "numpy": np.__version__,
                "tensorflow": tf.__version__,
                "tensorflow-text": text or f"none: {trouble}",
                "openvino": openvino,
            },
            "decode_depth": self.depth,
            "takes_batches": bool(self.networks),
            "models": {
                name: {**part.describe(), "device": device, "ops_to_register": needed[name]}
                for name, (part, device) in parts.items()
            },
        }

    def _load_networks(self, threads: int | None) -> tuple[dict[str, Any], str]:
        """Whoever can run the network inside ELIXR-C, by name, the fastest first; OpenVINO's version or why not."""
        pruned = network(self.elixr_c.model)
        if pruned is None or self.device == "gpu":
            found = [TensorFlowNetwork(self.tf, pruned)] if pruned is not None else []
            return {each.name: each for each in found}, "not used here"
        slow = TensorFlowNetwork(self.tf, pruned)
        try:
            fast = OpenVinoNetwork(self.tf, pruned, threads, self.at_once)
        except Exception as error:  # it says in many ways that it does not take a graph; TensorFlow takes it
            return {slow.name: slow}, f"not used: {(str(error).splitlines() or [type(error).__name__])[0][:160]}"
        return {fast.name: fast, slow.name: slow}, fast.name.split()[-1]

    def _load_qformer(self, folder: str) -> Signature:
        """The Q-Former on the GPU; on the CPU where CUDA refuses it, as it did a sibling export."""
        with contextlib.ExitStack() as devices:
            loaded = Signature(self.tf, folder, QFORMER)
            if self.device == "cpu":
                return loaded
            try:
                self._try(loaded)
                return loaded
            except Exception as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
                self.notes.append(f"the Q-Former runs on the CPU: the GPU refused it ({reason})")
            self.qformer_device = "cpu"
            devices.enter_context(self.tf.device("/CPU:0"))
            return Signature(self.tf, folder, QFORMER)

    def _try(self, qformer: Signature) -> None:
        tf = self.tf
        rows = qformer.batch or 1
        given = {name: tf.zeros([rows, *shape], dtype) for name, (shape, dtype) in QFORMER["inputs"].items()}
        qformer.call(**given)

    def _on_qformers_device(self) -> Any:
        return self.tf.device("/CPU:0") if self.qformer_device != self.device else contextlib.nullcontext()

    def images(self, files: list[bytes]) -> dict[str, np.ndarray]:
        """PNG files by the signature: to the outputs, `(B, ...)` float32 each."""
        return self.finish(self.features(files))

    def features(self, files: list[bytes]) -> Any:
        """PNG files by the signature: `(B, 8, 8, 1376)`."""
        found = self.features_graph(self.tf.constant([self.example(file) for file in files]))
        return self.tf.ensure_shape(found, [len(files), *FEATURES])

    def batched(self, pictures: np.ndarray, by: str) -> Iterator[Any]:
        """Prepared pictures `(B, 1280, 1280)` float32 by a network itself: `(b, 8, 8, 1376)`, some at a time."""
        # A process that took the place of one that died may have had no room for OpenVINO.
        run = self.networks.get(by) or list(self.networks.values())[-1]
        for start in range(0, len(pictures), self.at_once):
            yield run(pictures[start : start + self.at_once])

    def pictures(self, pictures: np.ndarray, by: str) -> dict[str, np.ndarray]:
        """Prepared pictures to the outputs, as `images`. The Q-Former's calls overlap with the network's next batch."""
        parts = [self.beside.submit(self.finish, features) for features in self.batched(pictures, by)]
        found = [part.result() for part in parts]
        return {name: np.concatenate([part[name] for part in found]) for name in self.outputs}

    def compare(self, files: list[bytes], pictures: np.ndarray, allowed: float) -> dict[str, Any]:
        """How far the signature and a network lie apart, over the largest value; and the seconds that each took.

        The network is the first that lies no farther than is allowed, or else the last.
        """
        start = time.perf_counter()
        single = self.features(files).numpy()
        by_signature = time.perf_counter() - start
        largest = float(np.abs(single).max()) or 1.0
        found: dict[str, Any] = {}
        for last, name in enumerate(self.networks, 1 - len(self.networks)):
            start = time.perf_counter()
            try:
                batch = np.concatenate([part.numpy() for part in self.batched(pictures, name)])
            except Exception:
                if last == 0:
                    raise
                continue
            by_network = time.perf_counter() - start
            seconds = [by_signature / len(files), by_network / len(files)]
            found = {"apart": float(np.abs(single - batch).max()) / largest, "seconds": seconds, "by": name}
            if found["apart"] <= allowed:  # NaN on both sides is not proof: the comparison is false
                break
        return found

    def example(self, png: bytes) -> bytes:
        """A serialized `tf.train.Example`, as ELIXR-C takes it."""
        train = self.tf.train
        values = {"image/encoded": png, "image/format": b"png"}
        features = {name: train.Feature(bytes_list=train.BytesList(value=[value])) for name, value in values.items()}
        serialized: bytes = train.Example(features=train.Features(feature=features)).SerializeToString()
        return serialized

    def finish(self, features: Any) -> dict[str, np.ndarray]:
        """`(B, 8, 8, 1376)` to the outputs that are requested."""
        wanted = {"elixr_c": features.numpy()} if "elixr_c" in self.outputs else {}
        if set(self.outputs) & set(FROM_QFORMER):
            with self._on_qformers_device():
                if self.tokens_graph is None:
                    signature = [self.tf.TensorSpec([None, *FEATURES], self.tf.float32)]
                    self.tokens_graph = self.tf.function(self.tokens, signature)
                wanted |= {name: value.numpy() for name, value in self.tokens_graph(features).items()}
        return wanted

    def tokens(self, features: Any) -> dict[str, Any]:
        """The Q-Former's image outputs that are requested, as a graph."""
        tf = self.tf
        blank = tf.zeros([tf.shape(features)[0], 1, TOKENS])
        found = self.qformer(image_feature=features, ids=tf.cast(blank, tf.int32), paddings=blank)
        return {name: found[theirs] for name, theirs in FROM_QFORMER.items() if name in self.outputs}

    def prompts(self, ids: np.ndarray, paddings: np.ndarray) -> dict[str, np.ndarray]:
        """`(P, 128)` token ids and paddings to `(P, 128)` float32."""
        with self._on_qformers_device():
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
    """TensorFlow, on the device that is requested, taking GPU memory only as it is used."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError:
        raise Unfit(
            f"{sys.executable} has no tensorflow: pip install 'cxr-embed[cxr-foundation]', "
            "or name an interpreter that has it and tensorflow-text in CXR_EMBED_TF_PYTHON"
        ) from None
    if request["threads"]:
        tf.config.threading.set_intra_op_parallelism_threads(request["threads"])
    # TensorFloat-32 keeps 10 of 23 bits: vectors of a GPU and of a CPU, of a batch and of one, would differ by 1e-3.
    tf.config.experimental.enable_tensor_float_32_execution(False)
    gpus = tf.config.list_physical_devices("GPU") if request["device"] != "cpu" else []
    if request["device"] == "cuda" and not gpus:
        raise Unfit("tensorflow sees no GPU here; use `device='cpu'`, or check `nvidia-smi` and tensorflow[and-cuda]")
    tf.config.set_visible_devices(gpus, "GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    return tf


def load_tensorflow_text(tf: Any) -> tuple[str, str]:
    """Registers tensorflow-text's ops, without which ELIXR-C does not load.

    Returns:
        Its version, or else blank and what to do.
    """
    from importlib.metadata import PackageNotFoundError, version

    minor = ".".join(tf.__version__.split(".")[:2])
    install = f"`{sys.executable} -m pip install 'tensorflow-text=={minor}.*'`"
    try:
        found = version("tensorflow-text")
    except PackageNotFoundError:
        return "", _no_wheel() or f"install it: {install}"
    if found.split(".")[:2] != minor.split("."):
        return "", f"tensorflow-text {found} does not fit tensorflow {tf.__version__}: {install}"
    try:
        import tensorflow_text  # noqa: F401
    except Exception as error:  # a library that does not fit fails in many ways
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        return "", f"tensorflow-text {found} cannot be imported ({reason}): {install}"
    return found, ""


def _no_wheel() -> str:
    """Where tensorflow-text cannot be installed: what to do; blank elsewhere."""
    system, machine = platform.system(), platform.machine()
    if sys.version_info < (3, 14) and (system == "Linux" or (system, machine) == ("Darwin", "arm64")):
        return ""
    return (
        f"there is no tensorflow-text for {system} {machine} with Python {platform.python_version()}; embed on Linux, "
        "or on macOS with Apple silicon, with Python 3.11 to 3.13, and take the store from there"
    )


def _register(unknown: list[str], trouble: str) -> str:
    """Says which package registers some ops, and what keeps it from doing so."""
    ops = ", ".join(unknown)
    if trouble and {OP_PACKAGES.get(op) for op in unknown} == {"tensorflow-text"}:
        return f"its graph has an op of tensorflow-text ({ops}); {trouble}"
    return f"its graph has ops that neither tensorflow nor tensorflow-text knows: {ops}; is this another model?"


def answer(server: Server, memory: mmap.mmap, request: dict[str, Any]) -> dict[str, Any]:
    """Runs a request whose arrays lie in the memory, and leaves the results there after them."""
    facts: dict[str, Any] = {}
    results: dict[str, np.ndarray] = {}
    files = [memory[start : start + size] for start, size in request.get("files", ())]
    count, start = request.get("pictures", (0, 0))
    pictures = np.frombuffer(memory, np.float32, count * SIDE * SIDE, start).reshape(count, SIDE, SIDE)
    if request["do"] == "images":
        results = server.images(files)
    elif request["do"] == "pictures":
        results = server.pictures(pictures, request["by"])
    elif request["do"] == "compare":
        facts = server.compare(files, pictures, request["allowed"])
    else:
        rows = request["prompts"]
        ids = np.frombuffer(memory, np.int32, rows * TOKENS).reshape(rows, TOKENS)
        paddings = np.frombuffer(memory, np.float32, rows * TOKENS, ids.nbytes).reshape(rows, TOKENS)
        results = server.prompts(ids, paddings)
    places, at = {}, request["results"]
    for name, array in results.items():
        data = np.ascontiguousarray(array, np.float32)
        if at + data.nbytes > len(memory):
            raise Unfit(f"output {name} has shape {list(data.shape)}, more than was expected")
        memory[at : at + data.nbytes] = data.tobytes()
        places[name] = [at, list(data.shape)]
        at += data.nbytes
    return {**facts, "results": places}


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
                    reply: dict[str, Any] = {"engine": server.engine, "notes": server.notes, "facts": server.facts}
                else:
                    size = os.fstat(descriptor).st_size
                    if memory is None or len(memory) != size:
                        memory = mmap.mmap(descriptor, size)
                    assert server is not None
                    reply = answer(server, memory, request)
            except Unfit as error:
                reply = {"unfit": str(error)}
            except Exception as error:  # whatever TensorFlow raises is passed on, in its own words
                kind = type(error).__name__
                memory_gone = kind == "ResourceExhaustedError" or isinstance(error, MemoryError)
                line = next((line for line in str(error).splitlines() if line.strip()), "")[:300]
                reply = {"error": f"{'out of memory: ' if memory_gone else ''}{kind}: {line}"}
            connection.send_bytes(json.dumps(reply).encode())
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # nobody is left to serve


if __name__ == "__main__":
    main()
