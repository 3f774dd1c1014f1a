"""The case browser over loopback: results of a filtered search, readers at once, a DICOM to its neighbours.

python benchmarks/serve.py [--cases N] [--readers N] [--seconds S] [--radiograph FILE]

The server is `cxr-embed serve` in a process of its own, on an index of made-up vectors of `mini`; the phantom that is
dropped is a DICOM of 2,000 x 2,500 pixels, new bytes each time. Chromium, where it is here, is timed too.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa
from common import Line, machine, median, seconds
from PIL import Image

from cxr_embed import open_store
from cxr_embed.encoders import load_encoder
from cxr_embed.index.faiss.build import build_index
from cxr_embed.manifest import Manifest
from cxr_embed.phantom import render_study, sample_studies
from cxr_embed.phantom.dicom import dicom_bytes
from cxr_embed.store import Row, StoreWriter
from cxr_embed.thumbnails import thumbnails_path
from cxr_embed.types import counted
from cxr_embed.web.keeping import make_thumbnails

CASES, READERS, SECONDS, ROUNDS = 100_000, 50, 60.0, 15
PICTURES, AT_ONCE = 24, 6  # of a page, and requests that a browser has on their way
# Milliseconds from the start of a page to the first frame that has anything of it.
PAINTED = """() => new Promise((done) => {
  const look = (entries) => entries.forEach((each) => each.name === "first-contentful-paint" && done(each.startTime));
  new PerformanceObserver((list) => look(list.getEntries())).observe({ type: "paint", buffered: true });
})"""
FILTERS = {"view": "PA", "sex": "F", "finding": "Effusion", "one_per_patient": "true"}


def run(work: Path) -> list[Line]:
    """All of it, at the size of the goals."""
    return measure(work, CASES, READERS, SECONDS, None)


def measure(work: Path, cases: int, readers: int, lasting: float, radiograph: Path | None) -> list[Line]:
    """Builds the index, starts the server, asks it."""
    index = make_index(work, cases)
    data = radiograph.read_bytes() if radiograph is not None else make_dicom()
    with served(index) as port:
        lines = [first_results(port, cases), dropping(port, data)]
        lines += in_chromium(port, cases, data)
        lines.append(at_once(port, cases, readers, lasting))
    return [*lines, *small_pictures(work / "pictures", data)]


def small_pictures(work: Path, data: bytes) -> list[Line]:
    """The small pictures of a page's cases, of a server that has shown none yet: decoded, and from the disk."""
    files = {f"i{number}": data + number.to_bytes(2, "little") * 8 for number in range(PICTURES)}
    work.mkdir()
    spec = load_encoder("mini").spec
    rng = np.random.default_rng(0)
    with StoreWriter(work / "store", spec) as writer:
        for image_id, file in files.items():
            (work / f"{image_id}.dcm").write_bytes(file)
            vectors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in spec.outputs.items()}
            writer.add_vector(Row(image_id=image_id, patient_id="", content=hashlib.sha256(file).digest()), vectors)
        writer.flush("made up")
    manifest = work / "manifest.csv"
    manifest.write_text("image_id,path\n" + "".join(f"{image_id},{image_id}.dcm\n" for image_id in files))
    build_index(open_store(work / "store"), work / "index", output="contrastive")

    def show() -> float:
        with served(work / "index", "--manifest", str(manifest)) as port, ThreadPoolExecutor(AT_ONCE) as browser:
            return seconds(lambda: list(browser.map(lambda name: ask(port, f"/api/picture?case={name}"), files)))

    decoded = [show() for _ in range(3)]
    making = seconds(lambda: make_thumbnails(work / "index", manifest, None, None))
    kept = [show() for _ in range(3)]
    size = sum(path.stat().st_size for path in thumbnails_path(work / "index").rglob("*.webp")) / PICTURES
    what = f"small pictures of {PICTURES} DICOM files of {len(data) / 1e6:.0f} MB, never shown before"
    return [
        Line(what, "-", milliseconds(decoded)),
        Line(f"{what}, with thumbnails on disk ({size / 1000:.0f} kB each)", "-", milliseconds(kept)),
        Line(f"making those {PICTURES} thumbnails", "-", f"{making:.1f} s"),
    ]


def make_index(work: Path, count: int) -> Path:
    """An index of `count` made-up vectors with the columns of a manifest, three images a patient."""
    spec = load_encoder("mini").spec
    rng = np.random.default_rng(0)
    (width,) = spec.outputs["contrastive"]
    centres = rng.standard_normal((2000, width), dtype=np.float32)
    with StoreWriter(work / "store", spec) as writer:
        for number in range(count):
            vector = centres[number // 3 % 2000] + 0.5 * rng.standard_normal(width, dtype=np.float32)
            row = Row(image_id=f"i{number:06d}", patient_id=f"p{number // 3}", content=number.to_bytes(32, "big"))
            features = np.zeros(spec.outputs["features"], np.float32)
            writer.add_vector(row, {"features": features, "contrastive": vector})
            if writer.full:
                writer.flush("made up")
        writer.flush("made up")
    days = rng.integers(0, 3000, count)
    columns = {
        "image_id": [f"i{number:06d}" for number in range(count)],
        "path": [f"{number:06d}.png" for number in range(count)],
        "patient_id": [f"p{number // 3}" for number in range(count)],
        "study_date": [str(np.datetime64("2015-01-01") + int(day)) for day in days],
        "view": np.array(["PA", "AP", "LL"])[rng.integers(0, 3, count)].tolist(),
        "age": rng.integers(0, 95, count).astype("U2").tolist(),
        "sex": np.array(["M", "F"])[rng.integers(0, 2, count)].tolist(),
        "split": np.array(["train", "test"])[rng.integers(0, 2, count)].tolist(),
        "Effusion": (rng.random(count) < 0.12).astype(int).astype("U1").tolist(),
        "Hernia": (rng.random(count) < 0.01).astype(int).astype("U1").tolist(),
    }
    manifest = Manifest(pa.table(columns), Path(), ("Effusion", "Hernia"))
    build_index(open_store(work / "store"), work / "index", output="contrastive", manifest=manifest)
    return work / "index"


def make_dicom() -> bytes:
    """A phantom of 2,000 x 2,500 pixels as a DICOM without compression, 10 MB."""
    study = sample_studies(1)[0]
    drawn = render_study(study, 512)
    large = Image.fromarray(drawn.pixels.astype(np.float32)).resize((2000, 2500), Image.Resampling.BICUBIC)
    pixels = np.clip(np.asarray(large), 0, drawn.pixels.max()).astype(drawn.pixels.dtype)
    return dicom_bytes(study, replace(drawn, pixels=pixels))


@contextlib.contextmanager
def served(index: Path, *options: str) -> Iterator[int]:
    """The port of a server in a process of its own."""
    command = [sys.executable, "-m", "cxr_embed", "serve", str(index), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield int(process.stdout.readline().strip().rstrip("/").rpartition(":")[2])
        finally:
            process.terminate()


def ask(
    port: int, address: str, body: bytes | None = None, connection: http.client.HTTPConnection | None = None
) -> bytes:
    """What the server answers, whole; anything but success ends the benchmark."""
    used = connection or http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    used.request("POST" if body is not None else "GET", address, body)
    answer = used.getresponse()
    data = answer.read()
    if answer.status >= 300:
        raise RuntimeError(f"{address}: {answer.status}")
    return data


def question(number: int, cases: int) -> str:
    """A search with filters, of another case and other ages each time: what the server keeps of the last is no help."""
    ages = {"age_from": number * 31 % 45, "age_to": 55 + number * 17 % 40}
    return "/?" + urlencode({"case": f"i{number * 7919 % cases:06d}", **FILTERS, **ages})


def first_results(port: int, cases: int) -> Line:
    """The page of a filtered search from nothing: a connection, the answer, its last byte."""
    ask(port, question(0, cases))
    taken = [seconds(lambda n=number: ask(port, question(n, cases))) for number in range(1, ROUNDS + 1)]  # type: ignore[misc]
    return Line(f"search page, {cases:,} cases, five filters, the whole of its HTML", "300 ms", milliseconds(taken))


def dropping(port: int, data: bytes) -> Line:
    """A DICOM that was never seen, to the page of its neighbours."""

    def drop(number: int) -> None:
        sent = json.loads(ask(port, "/api/upload", data + number.to_bytes(2, "little") * 8))
        page = ask(port, sent["address"])
        assert b'class="near"' in page

    drop(0)
    taken = [seconds(lambda n=number: drop(n)) for number in range(1, ROUNDS + 1)]  # type: ignore[misc]
    return Line(f"a DICOM of {len(data) / 1e6:.0f} MB to the page of its neighbours", "700 ms", milliseconds(taken))


def in_chromium(port: int, cases: int, data: bytes) -> list[Line]:
    """The same two in a browser, to the first frame that shows results; none where there is no Chromium."""
    found = shutil.which("chromium")
    if found is None or find_spec("playwright") is None:
        return []
    from playwright.sync_api import sync_playwright

    paints, drops = list[float](), list[float]()
    with sync_playwright() as started, tempfile.TemporaryDirectory() as folder:
        browser = started.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        for number in range(ROUNDS + 1):
            page.goto(f"http://127.0.0.1:{port}{question(number + 100, cases)}")
            page.wait_for_selector(".near")
            paints.append(page.evaluate(PAINTED) / 1000)
        for number in range(ROUNDS + 1):
            file = Path(folder) / f"{number}.dcm"
            file.write_bytes(data + (1000 + number).to_bytes(2, "little") * 8)
            page.goto(f"http://127.0.0.1:{port}/")
            begun = time.perf_counter()
            page.set_input_files("#file", file)
            page.wait_for_url("**upload=*", wait_until="commit")
            page.wait_for_selector(".near")
            drops.append(time.perf_counter() - begun)
        browser.close()
    return [
        Line("the same page in Chromium, to its first contentful paint", "300 ms", milliseconds(paints[1:])),
        Line("the same DICOM in Chromium, to its neighbours on the page", "700 ms", milliseconds(drops[1:])),
    ]


def at_once(port: int, cases: int, readers: int, lasting: float) -> Line:
    """Readers who ask for one filtered search after the other, each over a connection of its own."""
    taken, errors = list[float](), list[str]()
    end = time.monotonic() + lasting

    def read(reader: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        number = reader
        while time.monotonic() < end:
            number += readers
            try:
                taken.append(seconds(lambda n=number: ask(port, question(n, cases), connection=connection)))  # type: ignore[misc]
            except (OSError, RuntimeError, http.client.HTTPException) as error:
                errors.append(str(error))
                connection.close()

    threads = [threading.Thread(target=read, args=(reader,)) for reader in range(readers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if not taken:
        raise SystemExit(f"no answer at all: {errors[:1]}")
    worst, nineteenth = max(taken), float(np.quantile(taken, 0.95))
    return Line(
        f"{readers} readers at once for {lasting:.0f} s, {cases:,} cases, five filters",
        "no error, p95 1 s",
        f"{len(taken):,} pages, {counted(len(errors), 'error')}, p50 {median(taken):.2f}, p95 {nineteenth:.2f}, "
        f"longest {worst:.2f} s",
    )


def milliseconds(taken: list[float]) -> str:
    """The middle and the longest."""
    return f"{1000 * median(taken):.0f} ms (longest of {len(taken)}: {1000 * max(taken):.0f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--readers", type=int, default=READERS)
    parser.add_argument("--seconds", type=float, default=SECONDS)
    parser.add_argument("--radiograph", type=Path, help="instead of the phantom")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cxr-embed-benchmark-") as name:
        for line in measure(Path(name), given.cases, given.readers, given.seconds, given.radiograph):
            print(f"{line.what}: {line.measured} (goal: {line.goal})")
    print(machine())
