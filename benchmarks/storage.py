"""The store and the run around it: second runs, flat memory, opening and gathering a million vectors."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import numpy as np
from common import Line, fresh, in_turn, median, repeated_originals, seconds

from cxr_embed import embed, open_store
from cxr_embed.cli.encoders import random as make_random_weights
from cxr_embed.store import Row, Store, StoreWriter
from cxr_embed.types import CxrImage, EncoderSpec

HERE = Path(__file__).parent


class Mean64:
    """A synthetic encoder: 64 means of the picture. It costs nothing, so that the pipeline itself is measured."""

    engine = "numpy float32 cpu"
    spec = EncoderSpec(name="mean64", revision="1", preprocessing="means of 8 x 8 fields", outputs={"means": (64,)})

    def preprocess(self, image: CxrImage) -> np.ndarray:
        """`(64,)` float32."""
        side = min(image.pixels.shape) // 8 * 8
        fields = image.pixels[:side, :side].reshape(8, side // 8, 8, side // 8)
        return fields.mean(axis=(1, 3), dtype=np.float32).ravel()

    def embed(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        """The means themselves."""
        return {"means": batch}


def make_mean64(name: str, **options: object) -> Mean64:
    """What `--encoder storage:make_mean64` calls."""
    del name, options
    return Mean64()


def tiny_png(number: int) -> bytes:
    """A 64 x 64 grey PNG that differs for each number."""
    rows = b"".join(b"\0" + number.to_bytes(4, "big") * 16 for _ in range(64))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 64, 64, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def second_run(work: Path, images: int = 480) -> list[Line]:
    """First and second run over the same files, and proof that the second opens none of them."""
    manifest = repeated_originals(work / "rerun", images)
    weights = work / "rerun.safetensors"
    make_random_weights("densenet121", weights)
    store = work / "rerun-store"
    time.sleep(2.5)  # files as young as this are re-read on purpose

    def run() -> float:
        return seconds(lambda: embed(manifest, encoder="densenet121", weights=weights, store=store))

    def first() -> float:
        fresh(store)
        return run()

    figures = in_turn(3, first=first, second=run)
    before, after = median(figures["first"]), median(figures["second"])
    return [
        Line(
            f"second run over {images} unchanged 1024 x 1024 PNG files; it opens none",
            "50x",
            f"{before / after:.0f}x ({before:.1f} s, then {after:.3f} s)",
        )
    ]


def memory(work: Path) -> list[Line]:
    """Peak memory of the whole process tree, 5,000 against 100,000 rows."""
    sizes = (5_000, 100_000)
    folder = work / "tiny"
    folder.mkdir()
    for number in range(max(sizes)):
        if number % 1000 == 0:
            (folder / f"{number // 1000:03d}").mkdir()
        (folder / f"{number // 1000:03d}" / f"{number:06d}.png").write_bytes(tiny_png(number))
    peaks = {}
    for size in sizes:
        rows = [f"image{n:06d},{n // 1000:03d}/{n:06d}.png,patient{n // 2:06d},{n % 2}" for n in range(size)]
        manifest = folder / f"manifest-{size}.csv"
        manifest.write_text("image_id,path,patient_id,Effusion\n" + "\n".join(rows) + "\n")
        peaks[size] = peak_memory(manifest, fresh(work / f"memory-{size}"))
    ratio = peaks[sizes[1]] / peaks[sizes[0]]
    told = " against ".join(f"{peaks[size] / 1e6:.0f} MB" for size in reversed(sizes))
    return [Line("peak memory, all processes, 100,000 rows against 5,000", "1.3x", f"{ratio:.2f}x ({told})")]


def peak_memory(manifest: Path, store: Path) -> int:
    """Highest sum of resident sets of `cxr-embed embed` and its workers, in bytes."""
    import psutil

    command = ["embed", str(manifest), "--encoder", "storage:make_mean64", "--store", str(store), "--json"]
    call = f"import sys; sys.path.insert(0, {str(HERE)!r}); from cxr_embed.cli import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    process = subprocess.Popen([sys.executable, "-c", call, *command], stdout=subprocess.PIPE, env=environment)
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        parent = psutil.Process(process.pid)
        while not done.wait(0.02):
            total = 0
            try:
                for each in [parent, *parent.children(recursive=True)]:
                    try:
                        total += each.memory_info().rss
                    except psutil.Error:
                        continue
            except psutil.Error:
                return
            peak = max(peak, total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    output, _ = process.communicate()
    done.set()
    watcher.join()
    summary = json.loads(output)
    assert process.returncode == 0, summary
    return peak


def random_store(path: Path, count: int, width: int) -> Store:
    """A store of `count` random vectors, three images a patient."""
    spec = EncoderSpec(name="synthetic", revision="1", preprocessing="random numbers", outputs={"features": (width,)})
    block = np.random.default_rng(0).standard_normal((4096, width)).astype(np.float16)
    with StoreWriter(fresh(path), spec) as writer:
        for number in range(count):
            content = number.to_bytes(32, "big")
            writer.add_vector(
                Row(image_id=f"image{number:07d}", patient_id=f"p{number // 3}", content=content),
                {"features": block[number % 4096]},
            )
            if writer.full:
                writer.flush("synthetic")
        writer.flush("synthetic")
    return open_store(path)


def random_ids(rng: np.random.Generator, count: int) -> list[str]:
    """1,024 ids of `random_store`."""
    return [f"image{number:07d}" for number in rng.integers(0, count, 1024)]


def million(work: Path, count: int = 1_000_000, width: int = 1024) -> list[Line]:
    """Opening a store of a million vectors and gathering 1,024 random rows by id."""
    store, rng = random_store(work / "million", count, width), np.random.default_rng(0)
    first = seconds(lambda: store.read([f"image{0:07d}"]))

    def opening() -> float:
        return seconds(lambda: len(open_store(store.path)))

    def gathering() -> float:
        ids = random_ids(rng, count)
        return min(seconds(lambda: store.read(ids)) for _ in range(2))

    figures = in_turn(9, opening=opening, gathering=gathering)
    return [
        Line(
            f"opening a store of {count:,} x {width} float16; nothing is copied",
            "50 ms",
            f"{1e3 * median(figures['opening']):.1f} ms (the first look-up by id then takes {first:.1f} s, once)",
        ),
        Line("gathering 1,024 random rows of it by id, warm", "5 ms", f"{1e3 * median(figures['gathering']):.1f} ms"),
    ]


def checks(work: Path, count: int = 200_000, width: int = 1024) -> list[Line]:
    """What it costs to hold vectors against their checksums, gathered and in a first pass over an open store."""
    checked, rng = random_store(work / "checks", count, width), np.random.default_rng(0)
    unchecked = open_store(checked.path)
    nothing: dict[int, np.ndarray | None] = dict.fromkeys(range(unchecked.shards))  # as of an earlier release
    unchecked._checksums = nothing

    def gather(store: Store) -> float:
        ids = random_ids(rng, count)
        return min(seconds(lambda: store.read(ids)) for _ in range(2))

    def stream(store: Store) -> float:
        store._streamed.clear()  # a first pass each time

        def look() -> None:
            for _, _, vectors in store.mapped():
                vectors.astype(np.float32).sum()

        return seconds(look)

    for store in (checked, unchecked):
        gather(store)
        stream(store)
    rows = in_turn(60, checked=lambda: gather(checked), unchecked=lambda: gather(unchecked))
    passes = in_turn(15, checked=lambda: stream(checked), unchecked=lambda: stream(unchecked))
    return [
        Line(what, goal, f"{price - 1:.0%} more ({1e3 * plain:.1f} ms, then {1e3 * plain * price:.1f} ms)")
        for what, goal, found in (
            (f"gathering 1,024 of {count:,} x {width} float16, each held against its checksum", "30% more", rows),
            ("a first pass over them, each block cast and summed, held against checksums", "10% more", passes),
        )
        for plain, price in [(median(found["unchecked"]), median(found["checked"]) / median(found["unchecked"]))]
    ]


def install(work: Path) -> list[Line]:
    """`pip install` of the core into an empty environment: time and size."""
    environment = fresh(work / "environment")
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)

    def size() -> int:
        return sum(p.stat().st_size for p in environment.rglob("*") if p.is_file() and not p.is_symlink())

    empty = size()
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    elapsed = seconds(lambda: subprocess.run([*pip, str(HERE.parent)], check=True))
    return [
        Line(
            "pip install of the core in an empty environment",
            "45 s, 1 GB",
            f"{elapsed:.0f} s, {(size() - empty) / 1e9:.2f} GB",
        )
    ]
