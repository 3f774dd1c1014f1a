"""cxr-foundation's stand-in, driven as published scripts drive the model (one image a call) and as `embed` does.

python benchmarks/foundation.py published MODELS MANIFEST COUNT OUT.npz    (what the benchmark runs as the other side)
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from common import Line, fresh, in_turn, median, real_data

if TYPE_CHECKING:
    from cxr_embed.pipeline.summary import EmbedSummary

HERE = Path(__file__).parent
IMAGES = 1000


def published(models: Path, manifest: Path, count: int, out: Path) -> None:
    """The published way: pixel lists into a PNG writer, one call a model an image, results to the host each time."""
    import io

    import png
    import tensorflow as tf
    from PIL import Image

    from cxr_embed import read_manifest

    elixr_c = tf.saved_model.load(str(models / "elixr-c-v2-pooled")).signatures["serving_default"]
    qformer = tf.saved_model.load(str(models / "pax-elixr-b-text")).signatures["serving_default"]
    table = read_manifest(manifest)
    vectors: dict[str, np.ndarray] = {}
    start = time.perf_counter()
    for image_id, path, _ in list(table.rows())[:count]:
        pixels = np.asarray(Image.open(table.root / path).convert("L")).astype(np.float32)
        pixels = (pixels - pixels.min()).astype(np.uint8)
        encoded = io.BytesIO()
        png.Writer(pixels.shape[1], pixels.shape[0], greyscale=True, bitdepth=8).write(encoded, pixels.tolist())
        example = tf.train.Example()
        example.features.feature["image/encoded"].bytes_list.value.append(encoded.getvalue())
        example.features.feature["image/format"].bytes_list.value.append(b"png")
        features = elixr_c(input_example=tf.constant([example.SerializeToString()]))["feature_maps_0"].numpy()
        found = qformer(
            image_feature=features.tolist(),
            ids=np.zeros((1, 1, 128), np.int32).tolist(),
            paddings=np.zeros((1, 1, 128), np.float32).tolist(),
        )
        vectors[image_id] = found["all_contrastive_img_emb"].numpy()[0]
    print(time.perf_counter() - start)
    np.savez(out, **vectors)  # type: ignore[arg-type]


def run(work: Path) -> list[Line]:
    """Both ways over the same radiographs, from the moment that the models are loaded, and with the start included."""
    from cxr_embed import embed, open_store

    manifest = real_data() / "nih" / "manifest.csv"
    build = [sys.executable, str(HERE.parent / "tests" / "standin.py"), str(work / "standin"), "batch-1"]
    subprocess.run(build, check=True, stderr=subprocess.DEVNULL)
    models = work / "standin" / "batch-1"
    theirs, ours = work / "published.npz", work / "foundation"
    command = [sys.executable, str(HERE / "foundation.py"), "published", *map(str, (models, manifest, IMAGES, theirs))]
    whole: dict[str, list[float]] = {"theirs": [], "ours": []}

    def loop() -> float:
        start = time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        whole["theirs"].append(time.perf_counter() - start)
        return float(done.stdout)

    def run_ours() -> float:
        fresh(ours)
        loaded: list[float] = []

        def watch(summary: EmbedSummary) -> None:
            if summary.engine and not loaded:
                loaded.append(time.perf_counter())

        start = time.perf_counter()
        options = {"weights": models, "limit": IMAGES, "dtype": "float32", "progress": watch}
        options["outputs"] = ["contrastive"]  # the loop keeps no other
        embed(manifest, "cxr-foundation", ours, **options)  # type: ignore[arg-type]
        end = time.perf_counter()
        whole["ours"].append(end - start)
        return end - loaded[0]

    figures = in_turn(3, theirs=loop, ours=run_ours)
    slow, fast = median(figures["theirs"]), median(figures["ours"])
    slow_whole, fast_whole = median(whole["theirs"]), median(whole["ours"])
    store = open_store(ours)
    with np.load(theirs) as found:
        apart = max(float(abs(store.read([name]).vectors[0] - found[name]).max()) for name in found.files)
    return [
        Line(
            f"driving cxr-foundation's stand-in, Q-Former fixed to batch 1, {IMAGES:,} radiographs, against the "
            "published loop (one image a call, PNG from pixel lists), equal vectors",
            "10x",
            f"{slow / fast:.1f}x ({slow:.0f} s, then {fast:.1f} s; at most {apart:.1e} apart; with the start of "
            f"TensorFlow {slow_whole / fast_whole:.1f}x, {slow_whole:.0f} s and {fast_whole:.1f} s)",
        )
    ]


if __name__ == "__main__":
    published(*map(Path, sys.argv[2:4]), int(sys.argv[4]), Path(sys.argv[5]))
