"""From which size on Milvus pays: the embedded one against `CaseIndex`, on the same cases.

python benchmarks/milvus.py [CASES ...]

The embedded Milvus is one process in Python, not a cluster: it shows what the way through a server costs, and that
answers are the same; it says nothing of how fast many machines are.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import Line, fresh, machine, median, seconds

from cxr_embed.index import CaseIndex, Query
from cxr_embed.index.faiss.build import build_index
from cxr_embed.index.milvus.push import push
from cxr_embed.index.milvus.search import MilvusIndex
from cxr_embed.manifest import Manifest, read_manifest
from cxr_embed.store import Row, Store, StoreWriter, open_store
from cxr_embed.types import EncoderSpec

WIDTH, QUERIES, SITES = 128, 15, 100
NARROW = "site = s7 and age > 40"  # some 0.6% of the cases


def cases(folder: Path, count: int) -> tuple[Store, Manifest]:
    """A store of clustered vectors, two images a patient, and its manifest."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((max(1, count // 100), WIDTH))
    spec = EncoderSpec(name="clustered", revision="1", preprocessing="none", outputs={"features": (WIDTH,)})
    with StoreWriter(folder / "store", spec) as writer:
        for number in range(count):
            vector = centres[rng.integers(len(centres))] + 0.5 * rng.standard_normal(WIDTH)
            writer.add_vector(
                Row(image_id=f"i{number}", patient_id=f"p{number // 2}", content=number.to_bytes(32, "big")),
                {"features": vector},
            )
            if writer.full:
                writer.flush("clustered")
        writer.flush("clustered")
    lines = ["image_id,path,patient_id,age,site"]
    ages, sites = rng.integers(0, 100, count), rng.integers(0, SITES, count)
    lines += [f"i{n},{n}.png,p{n // 2},{ages[n]},s{sites[n]}" for n in range(count)]
    (folder / "manifest.csv").write_text("\n".join(lines) + "\n")
    return open_store(folder / "store"), read_manifest(folder / "manifest.csv")


def run(folder: Path, sizes: tuple[int, ...] = (10_000, 100_000)) -> list[Line]:
    """Building, one query, one with a narrow filter, and whether the answers agree; a line for each size."""
    return [_measured(fresh(folder / str(count)), count) for count in sizes]


def _measured(folder: Path, count: int) -> Line:
    folder.mkdir()
    store, manifest = cases(folder, count)
    built = seconds(lambda: build_index(store, folder / "index", manifest=manifest))
    before = _memory()
    pushed = seconds(lambda: push(store, manifest, str(folder / "cases.db"), "cases"))
    index, other = CaseIndex(folder / "index"), MilvusIndex(str(folder / "cases.db"), "cases")
    queries = [index.query_of(f"i{number}") for number in range(0, count, count // QUERIES)]
    near = [set(index.search(query, 10).ids[0]) & set(other.search(query, 10).ids[0]) for query in queries]
    equal = [
        (index.search(query, 10, where=NARROW).ids == other.search(query, 10, where=NARROW).ids).all()
        for query in queries
    ]

    def each(search: Callable[..., object], **options: str) -> str:
        def ask(query: Query) -> float:
            return seconds(lambda: search(query, 10, **options))

        return f"{1000 * median([ask(query) for query in queries]):.2f}"

    return Line(
        f"{count:,} x {WIDTH}: CaseIndex ({index.record.kind.name}) and embedded Milvus ({other.kind})",
        "filtered answers equal",
        f"filled in {built:.1f} and {pushed:.1f} s; a query {each(index.search)} and {each(other.search)} ms; "
        f"filtered {each(index.search, where=NARROW)} and {each(other.search, where=NARROW)} ms; "
        f"{sum(map(len, near)) / 10 / len(queries):.1%} of neighbours in common, {np.mean(equal):.0%} of filtered "
        f"answers equal; Milvus's memory {_memory() - before:,} MB at most",
    )


def _memory() -> int:
    """The most memory that this process has had, in MB."""
    scale = 1 if sys.platform == "darwin" else 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale // 1_000_000


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="cxr-embed-benchmark-") as name:
        chosen = tuple(int(word) for word in sys.argv[1:]) or (10_000, 100_000)
        for line in run(Path(name), chosen):
            print(f"{line.what}: {line.measured}")
    print(machine())
