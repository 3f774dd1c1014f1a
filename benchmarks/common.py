"""What the benchmarks share: data, peers' loops, interleaved timing, a table."""

from __future__ import annotations

import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Line:
    """One row of the table: what, its goal, what was measured."""

    what: str
    goal: str
    measured: str


def real_data() -> Path:
    """The folder of real radiographs.

    Raises:
        SystemExit: where there is none.
    """
    folder = Path(os.environ.get("CXR_EMBED_REAL_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "nih" / "manifest.csv").is_file():
        raise SystemExit("no real radiographs here: set CXR_EMBED_REAL_DATA to a folder that has nih/manifest.csv")
    return folder


def repeated_originals(folder: Path, count: int) -> Path:
    """`count` files of the 1024 x 1024 originals and their manifest.

    A byte behind the end of a PNG is no part of the picture but makes every copy another content, so that nothing is
    saved by knowing a file already.
    """
    originals = sorted((real_data() / "nih" / "originals").glob("*.png"))
    folder.mkdir(parents=True)
    lines = ["image_id,path,patient_id"]
    for number in range(count):
        name = f"{number:05d}.png"
        data = originals[number % len(originals)].read_bytes()
        (folder / name).write_bytes(data + number.to_bytes(4, "little"))
        lines.append(f"{number:05d},{name},p{number}")
    manifest = folder / "manifest.csv"
    manifest.write_text("\n".join(lines) + "\n")
    return manifest


def in_turn(rounds: int, **runs: Callable[[], float]) -> dict[str, list[float]]:
    """Calls every run once a round, in turn, so that a drifting machine slows all alike; each returns its figure."""
    figures: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            figures[name].append(run())
    return figures


def median(values: list[float]) -> float:
    """The middle value."""
    return statistics.median(values)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def fresh(folder: Path) -> Path:
    """The folder's path with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def machine() -> str:
    """Processor, cores, memory and versions, for the line under a table."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = lines[0] if lines else model
    flags = info.read_text() if info.is_file() else ""
    native = [name for name in ("amx_bf16", "avx512_bf16", "avx2") if name in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    cores = len(os.sched_getaffinity(0))
    return f"{model} ({', '.join(native)}), {cores} cores, {memory:.0f} GiB, Python {platform.python_version()}"
