"""What the two SavedModels are: their files' graphs, their signatures, the network inside ELIXR-C."""

from __future__ import annotations

from typing import Any

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
# Inside ELIXR-C's graph: the prepared picture as the network takes it, and its last map before the means of 5 x 5.
# Behind that map the graph reshapes to a batch of one; up to it, it takes batches. Public scripts feed and fetch these.
PICTURE, MAP = "EfficientNet/grayscale_to_rgb:0", "EfficientNet/dropout/Identity:0"
SIDE, CELLS, FIELD = 1280, 40, 5


# Bits of a decoded picture by TensorFlow's number of the dtype: uint8 (the default, which may be left out), uint16.
_DECODERS = ("DecodePng", "DecodeImage")
_BITS = {0: 8, 4: 8, 17: 16}


class Unfit(Exception):
    """The models or the machine are not what was requested."""


class Graph:
    """What a SavedModel's file says of its graph, before TensorFlow loads it."""

    def __init__(self, folder: str) -> None:
        from google.protobuf.message import DecodeError
        from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

        parsed = SavedModel()
        try:
            with open(f"{folder}/saved_model.pb", "rb") as file:
                parsed.ParseFromString(file.read())
        except OSError as error:
            raise Unfit(f"{folder}/saved_model.pb: cannot be read ({error.strerror})") from None
        except DecodeError:
            raise Unfit(f"{folder}/saved_model.pb is cut off or damaged (half a download?); get it again") from None
        graphs = [meta.graph_def for meta in parsed.meta_graphs]
        nodes = [node for graph in graphs for node in graph.node]
        nodes += [node for graph in graphs for function in graph.library.function for node in function.node_def]
        own = {function.signature.name for graph in graphs for function in graph.library.function}
        self.ops = {node.op for node in nodes} - own
        dtypes = [{node.attr["dtype"].type for node in nodes if node.op == op} for op in _DECODERS]
        found = next(filter(None, dtypes), set())
        # To how many bits it decodes a picture; None where that is not plain.
        self.depth: int | None = _BITS.get(found.pop()) if len(found) == 1 else None

    def unregistered(self) -> list[str]:
        """The ops that TensorFlow does not know by now."""
        from tensorflow.python.framework import op_def_registry

        return sorted(op for op in self.ops if op_def_registry.get(op) is None)


class Signature:
    """One SavedModel's `serving_default`, checked, and driven at whatever batch size it was exported with.

    Args:
        tf: TensorFlow.
        folder: of the SavedModel.
        expected: its inputs and outputs.
        unknown_batch: the batch that is taken where neither inputs nor outputs say one; None for any.
    """

    def __init__(self, tf: Any, folder: str, expected: dict[str, Any], unknown_batch: int | None = None) -> None:
        self.tf = tf
        try:
            self.model = tf.saved_model.load(folder)
        except Exception as error:
            reason = (str(error).splitlines() or [""])[0][:300]
            # TensorFlow's words for a file that ends too early or whose checksum differs.
            half = isinstance(error, (tf.errors.DataLossError, tf.errors.OutOfRangeError))
            hint = "half a download? get it again" if half else "`cxr-embed encoders check` says what is in it"
            raise Unfit(f"{folder}: not a SavedModel that TensorFlow can load ({reason}); {hint}") from None
        names = list(self.model.signatures)
        if "serving_default" not in names:
            raise Unfit(f"{folder}: no signature serving_default; it has {', '.join(names) or 'none'}")
        self.call = self.model.signatures["serving_default"]
        self.inputs = self.call.structured_input_signature[1]
        self.expected = expected
        self.input_batch = self._check(folder, "input", self.inputs, expected["inputs"])
        self.output_batch = self._check(folder, "output", self.call.structured_outputs, expected["outputs"])
        # A graph may take any batch and still give one row (a constant reshape stands behind the published network).
        self.batch = self.input_batch or self.output_batch or unknown_batch

    @staticmethod
    def _check(folder: str, what: str, found: dict[str, Any], expected: dict[str, Any]) -> int | None:
        """Compares names, dtypes and shapes; returns the batch size that is fixed in the graph, or None."""
        if (what == "input" and set(found) != set(expected)) or not set(expected) <= set(found):
            raise Unfit(f"{folder}: {what}s {', '.join(sorted(found))}; expected {', '.join(sorted(expected))}")
        batches = set()
        for name, (shape, dtype) in expected.items():
            spec = found[name]
            have = _shape(spec)
            problem = f"{folder}: {what} {name} is {spec.dtype.name} {have}; expected {dtype} {[None, *shape]}"
            if spec.dtype.name != dtype:
                raise Unfit(problem)
            if have is None:  # an unknown shape: any batch may do, the first call will show
                continue
            if len(have) != 1 + len(shape) or any(h not in (None, s) for h, s in zip(have[1:], shape)):  # noqa: B905
                raise Unfit(problem)
            batches.add(have[0])
        fixed = {batch for batch in batches if batch is not None}
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
        outputs = self.expected["outputs"]  # there may be others, of any shape
        kinds = {name: tf.TensorSpec(None, dtype) for name, (_, dtype) in outputs.items()}

        def run(block: dict[str, Any]) -> dict[str, Any]:
            found = self.call(**block)
            return {name: found[name] for name in outputs}

        results = tf.map_fn(run, blocks, fn_output_signature=kinds)
        return {
            name: tf.reshape(value, tf.concat([[-1], tf.shape(value)[2:]], 0))[:count]
            for name, value in results.items()
        }

    def describe(self) -> dict[str, Any]:
        """Inputs and outputs with dtypes and shapes, and which batch they take."""
        found = {"inputs": self.inputs, "outputs": self.call.structured_outputs}
        facts: dict[str, Any] = {
            what: {name: f"{spec.dtype.name} {_shape(spec)}" for name, spec in sorted(specs.items())}
            for what, specs in found.items()
        }
        return {**facts, "input_batch": self.input_batch, "output_batch": self.output_batch, "driven_by": self.batch}


def _shape(spec: Any) -> list[int | None] | None:
    shape: list[int | None] | None = spec.shape.as_list() if spec.shape.rank is not None else None
    return shape


def network(model: Any) -> Any:
    """The published network between its prepared picture and its last map; None where the graph has no such tensors."""
    if not hasattr(model, "prune"):
        return None
    try:
        pruned = model.prune(feeds=[PICTURE], fetches=[MAP])
    except (
        Exception
    ):  # no such tensors, or the map hangs on more than that picture: TensorFlow has several words for it
        return None
    (given, *_), (found, *_) = pruned.inputs, pruned.outputs
    shapes = [(_shape(tensor) or [None] * 4)[1:] for tensor in (given, found)]
    expected = [[SIDE, SIDE, 3], [CELLS, CELLS, FEATURES[-1]]]
    fits = all(h in (None, s) for have, want in zip(shapes, expected) for h, s in zip(have, want))  # noqa: B905
    return pruned if fits and {given.dtype.name, found.dtype.name} == {"float32"} else None
