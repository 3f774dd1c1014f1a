"""cxr-foundation's stand-ins, driven as published scripts drive the model (one image a call) and as `embed` does.

python benchmarks/foundation.py published MODELS MANIFEST COUNT OUT.npz    (what the benchmark runs as the other side)
python benchmarks/foundation.py model MODELS MANIFEST COUNT                (the models alone, on prepared pictures)
python benchmarks/foundation.py prepare                                    (one radiograph, ours and TensorFlow's)
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from common import Line, fresh, in_turn, median, real_data, seconds

if TYPE_CHECKING:
    from cxr_embed.pipeline.summary import EmbedSummary

HERE = Path(__file__).parent
IMAGES = 1000
HEAVY_IMAGES = 128  # the first some fifty wait decoded for the model: what comes after them shows the rate


def published(models: Path, manifest: Path, count: int, out: Path) -> None:
    """The published way: pixel lists into a PNG writer, one call a model an image, results to the host each time."""
    import io

    import png
    import tensorflow as tf
    import tensorflow_text  # noqa: F401 - without it the image tower does not load
    from PIL import Image

    from cxr_embed import read_manifest

    elixr_c = tf.saved_model.load(str(models / "elixr-c-v2-pooled")).signatures["serving_default"]
    qformer = tf.saved_model.load(str(models / "pax-elixr-b-text")).signatures["serving_default"]
    table = read_manifest(manifest)
    vectors: dict[str, np.ndarray] = {}

    def one(path: Path) -> np.ndarray:
        pixels = np.asarray(Image.open(path).convert("L")).astype(np.float32)
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
        result: np.ndarray = found["all_contrastive_img_emb"].numpy()[0]
        return result

    rows = list(table.rows())[:count]
    one(table.root / rows[0][1])  # TensorFlow prepares itself with the first call
    start = time.perf_counter()
    for image_id, path, _ in rows:
        vectors[image_id] = one(table.root / path)
    print(time.perf_counter() - start)
    np.savez(out, **vectors)  # type: ignore[arg-type]


def model_alone(models: Path, manifest: Path, count: int) -> None:
    """The network and the Q-Former in batches of 16 on pictures that lie prepared in memory: seconds for all."""
    sys.path.insert(0, str(HERE.parent / "cxr_embed" / "encoders" / "tensorflow_server"))
    from PIL import Image
    from server import Server

    from cxr_embed import read_manifest
    from cxr_embed.encoders.cxr_foundation.pixels import notebook_pixels, prepared

    elixr_c, qformer = str(models / "elixr-c-v2-pooled"), str(models / "pax-elixr-b-text")
    request = {"elixr_c": elixr_c, "qformer": qformer, "device": "auto", "threads": None}
    server = Server({**request, "outputs": ["contrastive"], "at_once": {"gpu": 8, "cpu": 1}})
    table = read_manifest(manifest)
    pictures = np.stack(
        [
            prepared(notebook_pixels(np.asarray(Image.open(table.root / path).convert("L"))), server.depth)
            for _, path, _ in list(table.rows())[:count]
        ]
    )
    by = next(iter(server.networks))  # the fastest
    server.pictures(pictures[:2], by)
    start = time.perf_counter()
    for at in range(0, count, 16):
        server.pictures(pictures[at : at + 16], by)
    print(time.perf_counter() - start)


def prepare() -> None:
    """One radiograph of 2,500 x 3,000 and 16 bits: our preparation, and TensorFlow's operations, in turn."""
    import tensorflow as tf

    from cxr_embed.encoders.cxr_foundation.pixels import png, prepared

    pixels = np.random.default_rng(0).integers(0, 65536, (2500, 3000)).astype(np.uint16)
    file, held = tf.constant(png(pixels).tobytes()), tf.constant(pixels[None, ..., None])

    @tf.function
    def resized(image: Any) -> Any:
        return tf.compat.v1.image.resize_bilinear(image, [1280, 1280])

    @tf.function
    def stretched(picture: Any) -> Any:
        low, high = tf.reduce_min(picture), tf.reduce_max(picture)
        return (picture - low) / (high - low)

    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: prepared(pixels, 16),
        "decode_and_resize": lambda: resized(tf.io.decode_png(file, channels=1, dtype=tf.uint16)[None]).numpy(),
        "resize_and_stretch": lambda: stretched(resized(held)).numpy(),
    }
    for way in ways.values():
        way()
    print(json.dumps({name: median(times) for name, times in in_turn(15, **_timed(ways)).items()}))


def _timed(ways: dict[str, Callable[[], Any]]) -> dict[str, Callable[[], float]]:
    return {name: (lambda way=way: seconds(way)) for name, way in ways.items()}  # type: ignore[misc]


def _run(*words: object) -> str:
    command = [sys.executable, str(HERE / "foundation.py"), *map(str, words)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout


def _embed(models: Path, manifest: Path, store: Path, count: int) -> dict[str, float]:
    """Seconds of `embed`: the whole run and from the loaded model on; images a second between first and last answer."""
    from cxr_embed import embed

    fresh(store)
    loaded: list[float] = []
    answers: list[tuple[float, int]] = []

    def watch(summary: EmbedSummary) -> None:
        if summary.engine and not loaded:
            loaded.append(time.perf_counter())
        if summary.embedded and (not answers or summary.embedded > answers[-1][1]):
            answers.append((time.perf_counter(), summary.embedded))

    start = time.perf_counter()
    options: dict[str, Any] = {"weights": models, "limit": count, "dtype": "float32", "progress": watch}
    options["outputs"] = ["contrastive"]  # the published loop keeps no other
    embed(manifest, "cxr-foundation", store, **options)
    end = time.perf_counter()
    (first, before), (last, after) = answers[0], answers[-1]
    rate = (after - before) / (last - first) if last > first else float("nan")  # a model that costs nothing: one answer
    return {"whole": end - start, "loaded": end - loaded[0], "rate": rate}


def _apart(store: Path, found_file: Path) -> float:
    """How far the store's vectors lie from the loop's, over the largest value."""
    from cxr_embed import open_store

    opened = open_store(store)
    with np.load(found_file) as found:
        largest = max(float(abs(found[name]).max()) for name in found.files)
        return max(float(abs(opened.read([name]).vectors[0] - found[name]).max()) for name in found.files) / largest


def _build(work: Path, variant: str) -> Path:
    build = [sys.executable, str(HERE.parent / "tests" / "standin.py"), str(work / "standin"), variant]
    subprocess.run(build, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return work / "standin" / variant


def driving(work: Path) -> Line:
    """A model that costs nothing: what remains is the driving, from the moment that the models are loaded."""
    manifest, models = real_data() / "nih" / "manifest.csv", _build(work, "batch-1")
    theirs, ours = work / "published.npz", work / "foundation"
    whole: dict[str, list[float]] = {"theirs": [], "ours": []}

    def loop() -> float:
        start = time.perf_counter()
        found = float(_run("published", models, manifest, IMAGES, theirs))
        whole["theirs"].append(time.perf_counter() - start)
        return found

    def run_ours() -> float:
        found = _embed(models, manifest, ours, IMAGES)
        whole["ours"].append(found["whole"])
        return found["loaded"]

    figures = in_turn(3, theirs=loop, ours=run_ours)
    slow, fast = median(figures["theirs"]), median(figures["ours"])
    slow_whole, fast_whole = median(whole["theirs"]), median(whole["ours"])
    return Line(
        f"driving cxr-foundation's stand-in, Q-Former fixed to batch 1, {IMAGES:,} radiographs, against the "
        "published loop (one image a call, PNG from pixel lists), equal vectors",
        "10x",
        f"{slow / fast:.1f}x ({slow:.0f} s, then {fast:.1f} s; {_apart(ours, theirs):.0e} apart; with the start of "
        f"TensorFlow {slow_whole / fast_whole:.1f}x, {slow_whole:.0f} s and {fast_whole:.1f} s)",
    )


def heavy(work: Path) -> list[Line]:
    """A random EfficientNet-B0 at 1280 in the published graph's style: 1024 x 1024 files, Q-Former included."""
    from common import repeated_originals

    models, manifest = _build(work, "heavy"), repeated_originals(work / "files", HEAVY_IMAGES)
    theirs, ours = work / "heavy.npz", work / "heavy"
    rates: list[float] = []

    def run_ours() -> float:
        found = _embed(models, manifest, ours, HEAVY_IMAGES)
        rates.append(found["rate"])
        return found["loaded"]

    figures = in_turn(
        3,
        theirs=lambda: float(_run("published", models, manifest, HEAVY_IMAGES, theirs)),
        ours=run_ours,
        alone=lambda: float(_run("model", models, manifest, HEAVY_IMAGES)),
    )
    slow, fast, alone = (HEAVY_IMAGES / median(figures[name]) for name in ("theirs", "ours", "alone"))
    rate = statistics.median(rates)
    return [
        Line(
            f"heavier stand-in (random EfficientNet-B0 at 1280), {HEAVY_IMAGES} radiographs of 1024 x 1024, against "
            "the published loop, Q-Former and the first images' both ways included",
            "1.5x",
            f"{fast / slow:.2f}x ({slow:.2f} and {fast:.2f} images/s; {_apart(ours, theirs):.0e} apart)",
        ),
        Line(
            "the same between its first and last answer, against the model alone on prepared pictures in memory",
            "90%",
            f"{100 * rate / alone:.0f}% ({rate:.2f} and {alone:.2f} images/s)",
        ),
    ]


def run(work: Path) -> list[Line]:
    """The driving, the heavier model, the preparation."""
    lines = [driving(work), *heavy(work)]
    found = {name: 1000 * value for name, value in json.loads(_run("prepare")).items()}
    return [
        *lines,
        Line(
            "preparing one 2,500 x 3,000 radiograph of 16 bits, against TensorFlow's decode_png and resize_bilinear",
            "1x",
            f"{found['decode_and_resize'] / found['ours']:.1f}x ({found['ours']:.1f} ms and "
            f"{found['decode_and_resize']:.1f} ms; its resize_bilinear and min-max alone, without the file, "
            f"{found['resize_and_stretch']:.1f} ms)",
        ),
    ]


if __name__ == "__main__":
    {
        "published": lambda *words: published(Path(words[0]), Path(words[1]), int(words[2]), Path(words[3])),
        "model": lambda *words: model_alone(Path(words[0]), Path(words[1]), int(words[2])),
        "prepare": prepare,
    }[sys.argv[1]](*sys.argv[2:])
