"""The map page of the case browser at a million points, in the headless Chromium of this machine.

`python benchmarks/map_frames.py [--cases N]`: an index of made-up vectors, served in a process of its own. `first
draw`: from the beginning of the visit until the points can be read back from the screen's buffer, once with the
principal components still to be made and then without. `a pan's frame`: an arrow key is pressed for each frame, for
five seconds; where a frame takes long, the page draws a sample of the points until it rests. `all of them`: until the
pixels of a frame with every point can be read back. Memory: what the browser says of its JavaScript heap and of the
memory outside of it, and what its processes hold.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from common import machine
from playwright.sync_api import sync_playwright
from serve import served

from cxr_embed import open_store
from cxr_embed.index.faiss.build import build_index
from cxr_embed.manifest import Manifest
from cxr_embed.store import Row, StoreWriter
from cxr_embed.types import EncoderSpec

WIDTH = 32
READ = """() => new Promise((done) => requestAnimationFrame(() => setTimeout(() => {
  const gl = document.getElementById("points").getContext("webgl2");
  if (gl) gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
  done(performance.now());
})))"""
# The page leaves WebGL alone where a processor would play the card; this has it taken all the same.
WEBGL = """WebGL2RenderingContext.prototype.getParameter = ((own) => function (name) {
  return name === 0x9246 || name === this.RENDERER ? "a card" : own.call(this, name);
})(WebGL2RenderingContext.prototype.getParameter)"""
# Presses an arrow once a frame; gives the times between frames.
PAN = """(seconds) => new Promise((done) => {
  const plane = document.getElementById("plane");
  const key = (name) => plane.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true }));
  const times = [];
  const began = performance.now();
  const frame = (now) => {
    times.push(now);
    if (now - began > seconds * 1000) return done(times);
    key(times.length % 20 < 10 ? "ArrowRight" : "ArrowLeft");
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
})"""
# One frame of every point, until its pixels are there.
WHOLE = """async (count) => {
  const gl = document.getElementById("points").getContext("webgl2");
  const took = [];
  for (let at = 0; at < count; at++) {
    await new Promise((done) => setTimeout(done, 400));
    took.push(await new Promise((done) => requestAnimationFrame(() => {
      const began = performance.now();
      gl.clear(gl.COLOR_BUFFER_BIT);
      gl.drawArrays(gl.POINTS, 0, Number(document.getElementById("mapped").dataset.cases));
      gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, new Uint8Array(4));
      done(performance.now() - began);
    })));
  }
  return took;
}"""


def make_index(work: Path, count: int) -> Path:
    """Vectors around 40 centres, with a view, a source and a finding."""
    rng = np.random.default_rng(0)
    spec = EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"features": (WIDTH,)})
    centres = 2 * rng.standard_normal((40, WIDTH), dtype=np.float32)
    with StoreWriter(work / "store", spec) as writer:
        for number in range(count):
            vector = centres[number % 40] + rng.standard_normal(WIDTH, dtype=np.float32)
            writer.add_vector(
                Row(image_id=f"i{number:07d}", patient_id=f"p{number // 3}", content=number.to_bytes(32, "big")),
                {"features": vector},
            )
            if writer.full:
                writer.flush("made up")
        writer.flush("made up")
    columns = {
        "image_id": [f"i{number:07d}" for number in range(count)],
        "path": [f"{number}.png" for number in range(count)],
        "patient_id": [f"p{number // 3}" for number in range(count)],
        "view": np.array(["PA", "AP", "LL"])[rng.integers(0, 3, count)].tolist(),
        "source": np.array(["A", "B", "C", "D", "E"])[np.arange(count) * 5 // count].tolist(),
        "Effusion": (rng.random(count) < 0.12).astype(int).astype("U1").tolist(),
    }
    manifest = Manifest(pa.table(columns), Path(), ("Effusion",))
    build_index(open_store(work / "store"), work / "index", manifest=manifest, kind="flat")
    shutil.rmtree(work / "store")
    return work / "index"


def first_draw(page: Any, address: str) -> float:
    """Seconds from the beginning of a visit until its points are drawn."""
    page.goto(address)
    page.wait_for_selector("#mapped[data-drawn]")
    return float(page.evaluate(READ)) / 1000


def memory(context: Any, page: Any) -> str:
    """What the browser says, and what its processes hold."""
    session = context.new_cdp_session(page)
    session.send("HeapProfiler.collectGarbage")
    used = session.send("Runtime.getHeapUsage")
    outside = used.get("backingStorageSize", 0) + used.get("embedderHeapUsedSize", 0)
    held = {}
    for each in psutil.Process().children(recursive=True):
        words = " ".join(each.cmdline())
        kind = next((kind for kind in ("renderer", "gpu-process") if f"--type={kind}" in words), "")
        if kind:
            full = each.memory_full_info()
            held[kind] = max(held.get(kind, 0), full.uss)
    parts = ", ".join(f"{kind} {size / 1e6:.0f} MB" for kind, size in held.items())
    heap = f"JavaScript heap {used['usedSize'] / 1e6:.0f} MB, buffers and page {outside / 1e6:.0f} MB"
    return f"{heap}; of the processes' own: {parts}"


def measure(port: int, cases: int) -> None:
    """Prints a line for each figure, as the page draws by itself, and by WebGL whatever the machine has."""
    address = f"http://127.0.0.1:{port}/map?by=column&name=view"
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        print(f"Chromium {browser.version}, {cases:,} points, load {os.getloadavg()[0]:.1f}", flush=True)
        for script, made in (("", "to be made"), (WEBGL, "made")):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            if script:
                context.add_init_script(script)
            look(context, address, made)
            context.close()
        print(f"load at the end {os.getloadavg()[0]:.1f}", flush=True)
        browser.close()


def look(context: Any, address: str, made: str) -> None:
    """The figures of one way of drawing."""
    page = context.new_page()
    page.set_default_timeout(600_000)
    first = first_draw(page, address)
    shaded = page.evaluate("!!document.getElementById('points').getContext('webgl2')")
    print(f"by {'WebGL' if shaded else 'the processor'}", flush=True)
    print(f"  first visit, components {made}: {first:.1f} s", flush=True)
    again = [first_draw(page, address) for _ in range(5)]
    print(f"  first draw: {statistics.median(again):.1f} s (longest of 5: {max(again):.1f}), goal 3", flush=True)
    print(f"  memory: {memory(context, page)}, goal 500", flush=True)
    times = np.diff(page.evaluate(PAN, 5))[1:]
    late = f"95th percentile {np.quantile(times, 0.95):.0f}, longest {times.max():.0f}"
    print(f"  a pan's frame: {np.median(times):.0f} ms (median of {len(times)}; {late}), goal 200", flush=True)
    if shaded:
        whole = page.evaluate(WHOLE, 9)
        print(f"  all of them: {statistics.median(whole):.0f} ms (longest {max(whole):.0f})", flush=True)


def main() -> None:
    """Builds the index, serves and visits it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=1_000_000)
    parser.add_argument("--index", type=Path, help="one that is there, instead of a made-up one")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cxr-embed-benchmark-") as name:
        began = time.perf_counter()
        index = given.index or make_index(Path(name), given.cases)
        print(f"an index in {time.perf_counter() - began:.0f} s", file=sys.stderr)
        with served(index) as port:
            measure(port, given.cases)
    print(machine())


if __name__ == "__main__":
    main()
