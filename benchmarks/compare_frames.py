"""Frames a second of windowing on the compare page, in the headless Chromium of this machine.

`python benchmarks/compare_frames.py`: four pictures of noise, 2,000 x 2,500 pixels of 16 bits. A key that windows is
pressed for each frame. `frames`: those that the browser showed in five seconds, 60 a second at most. `processor`: what
they cost, in all of the browser's processes. `moved`: frames with a key that moves the pictures. `drawn`: milliseconds
until the pixels of the frame could be read back, which a reader need not wait for.
"""

from __future__ import annotations

import shutil
import socket
import statistics
import sys
import tempfile
import threading
from pathlib import Path

import numpy as np
import psutil
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from cxr_embed.web.app import make_app  # noqa: E402
from cxr_embed.web.security import Access, names_of  # noqa: E402
from cxr_embed.web.serving import open_site, server_of  # noqa: E402

# Presses an arrow once a frame; with Shift it windows.
FRAMES = """([seconds, shiftKey]) => new Promise((done) => {
  const stage = document.querySelector(".stage.ready");
  stage.focus();
  const key = (name) => stage.dispatchEvent(new KeyboardEvent("keydown", { key: name, shiftKey, bubbles: true }));
  const times = [];
  const began = performance.now();
  const frame = (now) => {
    times.push(now);
    if (now - began > seconds * 1000) return done(times);
    key(times.length % 40 < 20 ? "ArrowRight" : "ArrowLeft");
    requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
})"""
# The same, and waits for each picture's pixels.
DRAWN = """async (count) => {
  const stage = document.querySelector(".stage.ready");
  const drawn = [...document.querySelectorAll("canvas")].map((canvas) => canvas.getContext("webgl2")).filter(Boolean);
  const took = [];
  for (let at = 0; at < count; at++) {
    const key = at % 40 < 20 ? "ArrowRight" : "ArrowLeft";
    stage.dispatchEvent(new KeyboardEvent("keydown", { key, shiftKey: true, bubbles: true }));
    await new Promise((done) => requestAnimationFrame(() => {
      const began = performance.now();
      const pixel = new Uint8Array(4);
      for (const gl of drawn) gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);
      took.push(performance.now() - began);
      done();
    }));
  }
  return took;
}"""


def noise(seed: int) -> np.ndarray:
    """`(2500, 2000)` uint16."""
    return np.random.default_rng(seed).integers(0, 65536, (2500, 2000), dtype=np.uint16)


def main() -> None:
    """Prints a line for each number of pictures and size on the screen."""
    from test_serve_compare import made_up

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made_up(folder, ("2020-01-01",) * 4, draw=lambda number: noise(number))
        site = open_site(folder / "index", manifest=folder / "manifest.csv")
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            access = Access(names=names_of("127.0.0.1", []), port=port)
            server = server_of(make_app(site, access, lambda _: None))
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
            thread.start()
            try:
                measure(f"http://127.0.0.1:{port}")
            finally:
                server.should_exit = True
                thread.join()
                site.pictures.decoders.close()


def processor() -> float:
    """Milliseconds of processor time of all processes that this one started."""
    times = [each.cpu_times() for each in psutil.Process().children(recursive=True)]
    return 1000 * sum(each.user + each.system for each in times)


def measure(address: str) -> None:
    """Opens the page with one, two and four pictures, fitted and pixel by pixel."""
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        print(f"Chromium {browser.version}")
        for way, sides, count in (
            ("fit", (1280, 900), 1),
            ("fit", (1280, 900), 2),
            ("fit", (1280, 900), 4),
            ("1:1", (1280, 900), 2),
            ("fit", (2000, 2800), 1),
        ):
            context = browser.new_context(viewport={"width": sides[0], "height": sides[1]})
            page = context.new_page()
            page.set_default_timeout(300_000)
            page.goto(f"{address}/compare?" + "&".join(f"id=c{number}" for number in range(count)))
            page.wait_for_selector(".stage:not(.ready)", state="detached")
            page.wait_for_timeout(1000)
            if way == "1:1":
                page.click("[data-do=one]")
            before = processor()
            times = np.diff(page.evaluate(FRAMES, [5, True]))
            spent = (processor() - before) / len(times)
            shaded = page.evaluate("!!document.querySelector('canvas').getContext('webgl2')")
            sized = page.evaluate("(({ width, height }) => `${width} x ${height}`)(document.querySelector('canvas'))")
            line = f"{count} x {sized}, {way}, {'WebGL' if shaded else 'canvas'}: "
            line += f"{1000 / times.mean():.1f} frames/s (the slowest {times.max():.0f} ms)"
            line += f"; processor {spent:.1f} ms a frame"
            line += f"; moved: {1000 / np.diff(page.evaluate(FRAMES, [5, False])).mean():.1f} frames/s"
            if shaded:
                line += f"; drawn in {statistics.median(page.evaluate(DRAWN, 60)):.1f} ms (median)"
            print(line, flush=True)
            context.close()
        browser.close()


if __name__ == "__main__":
    main()
