"""Several writers of one store: two parts against one process, and opening a store of many shards.

    python benchmarks/writers.py parts --images 60 --rounds 5
    python benchmarks/writers.py opening --shards 2000 --rows 1000

`parts` embeds the same PNGs by densenet121 (random weights): one process of one thread, and two `--part` processes of
one thread each, in turn; the figure is the median of the pairs. `opening` makes a store of many shards, two of which
have one number as two writers leave them, and opens it in new processes, before and after `store compact`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from cxr_embed.store import Row, StoreWriter, layout
from cxr_embed.store.compact import compact_store
from cxr_embed.types import EncoderSpec, Stamp

SPEC = EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"features": (2,)})
ONE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "LOKY_MAX_CPU_COUNT": "1"}
OPEN = """
import sys, time
import cxr_embed.store
import numpy, pyarrow
began, worked = time.perf_counter(), time.process_time()
store = cxr_embed.store.open_store(sys.argv[1])
count = len(store)
opened, worked = time.perf_counter() - began, time.process_time() - worked
ids = store.ids
print(count, opened, worked, time.perf_counter() - began)
"""


def parts(images: int, rounds: int, work: Path) -> None:
    rng = np.random.default_rng(0)
    lines = ["image_id,path,patient_id"]
    for number in range(images):
        Image.fromarray(rng.integers(0, 256, (512, 512), dtype=np.uint8)).save(work / f"{number}.png")
        lines.append(f"image-{number},{number}.png,p{number}")
    (work / "m.csv").write_text("\n".join(lines) + "\n")
    weights = work / "random.safetensors"
    command = [sys.executable, "-m", "cxr_embed"]
    subprocess.run(
        [*command, "weights", "random", "densenet121", "--out", str(weights)], check=True, stdout=subprocess.DEVNULL
    )
    words = ["--encoder", "densenet121", "--weights", str(weights), "--workers", "1", "--device", "cpu"]
    ratios = []
    for number in range(rounds):
        seconds = []
        for which in ([None], ["1/2", "2/2"]):
            store = work / f"s{number}-{len(which)}"
            began = time.perf_counter()
            runs = [
                subprocess.Popen(
                    [*command, "embed", str(work / "m.csv"), "--store", str(store), *words]
                    + (["--part", part] if part else []),
                    env={**os.environ, **ONE},
                    stdout=subprocess.DEVNULL,
                )
                for part in which
            ]
            assert all(run.wait() == 0 for run in runs)
            seconds.append(time.perf_counter() - began)
        ratios.append(seconds[0] / seconds[1])
        print(f"one {seconds[0]:.1f} s, two parts {seconds[1]:.1f} s: {ratios[-1]:.2f}x; load {os.getloadavg()[0]:.1f}")
    print(f"median {statistics.median(ratios):.2f}x of {rounds}")


def opening(shards: int, rows: int, work: Path) -> None:
    root = work / "s"
    StoreWriter(root, SPEC).close()
    layout.sync = lambda _: None  # type: ignore[assignment]
    for shard in range(shards):
        made = [
            Row(
                image_id=f"image-{number:09d}",
                patient_id=f"patient-{number // 3:08d}",
                content=np.random.default_rng(number).bytes(32),
                stamp=Stamp(1, 2, 3),
            )
            for number in range(shard * rows, (shard + 1) * rows)
        ]
        values = {"features": np.ones((rows, 2), np.float16)}
        folder, digest = layout.write_shard(
            root, made, values, fingerprint=SPEC.fingerprint, live=(shard + 1) * rows, engine="toy", created=""
        )
        layout.publish_shard(root, folder, digest, shard)
    show("of one writer", root)
    last = layout.shard_paths(root)[-1]
    last.rename(last.with_name(f"{shards - 2:08d}{last.name[8:]}"))  # as two writers at one moment
    show("of two writers", root)
    began = time.perf_counter()
    done = compact_store(root)
    print(f"compact: {time.perf_counter() - began:.1f} s, {done.before:,} to {done.after:,} shards")
    show("compacted", root)


def show(what: str, root: Path) -> None:
    """Median of five processes: open_store and len; the same and all ids."""
    found = []
    for _ in range(5):
        done = subprocess.run([sys.executable, "-c", OPEN, str(root)], check=True, capture_output=True, text=True)
        found.append([float(word) for word in done.stdout.split()])
    count, opened, worked, ids = (statistics.median(column) for column in zip(*found, strict=True))
    print(
        f"{what}: {count:,.0f} images, opened in {opened * 1e3:,.1f} ms ({worked * 1e3:,.1f} ms of processors), "
        f"with all ids {ids * 1e3:,.0f} ms; load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["parts", "opening"])
    parser.add_argument("--images", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shards", type=int, default=2000)
    parser.add_argument("--rows", type=int, default=1000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "parts":
            parts(given.images, given.rounds, Path(folder))
        else:
            opening(given.shards, given.rows, Path(folder))


if __name__ == "__main__":
    main()
