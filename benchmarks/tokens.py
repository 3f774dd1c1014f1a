"""Search over tokens by max-sim: an index against blocks of NumPy, on images that are alike and on random ones."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from common import ROOT, Line, fresh, in_turn, median, seconds

from cxr_embed import CaseIndex, open_store
from cxr_embed.index import Query
from cxr_embed.index.faiss.build import build_index
from cxr_embed.index.faiss.vectors import unit
from cxr_embed.store import Row, StoreWriter
from cxr_embed.types import EncoderSpec, TextRule

IMAGES, SHAPE = 100_000, (32, 128)
TEXTS, PICTURES, NEAR = 100, 10, 10
SPEC = EncoderSpec(
    name="tokens",
    revision="1",
    preprocessing="none",
    outputs={"contrastive": SHAPE},
    text=TextRule("contrastive", "elixr"),
)
BLOCKS = (16, 64, 256, 1024)


def run(work: Path) -> list[Line]:
    """Speed and recall of both worlds."""
    return measure(work, "images alike, texts across a gap", True) + measure(work, "random tokens and texts", False)


def measure(work: Path, name: str, structure: bool) -> list[Line]:
    """Builds an index, searches it with words and images, and compares with brute force."""
    sys.path.append(str(ROOT / "tests"))
    from token_world import TokenWorld

    world = TokenWorld(*SHAPE, structure=structure)
    store = fresh(work / "store")
    with StoreWriter(store, SPEC) as writer:
        for first in range(0, IMAGES, 2000):
            for number, tokens in enumerate(world.images(2000), start=first):
                row = Row(image_id=f"i{number:06d}", patient_id=f"p{number}", content=number.to_bytes(32, "big"))
                writer.add_vector(row, {"contrastive": tokens.astype(np.float32)})
            writer.flush("numpy")
    texts, pictures = world.texts(TEXTS), unit(world.images(PICTURES))
    building = seconds(lambda: build_index(open_store(store), fresh(work / "index")))
    index = CaseIndex(work / "index")
    told = f"{building:.0f} s, {index.record.nbytes / 1e6:,.0f} MB, recall told {index.record.measured.recall:.3f}"
    task = f"max-sim over {IMAGES:,} x {SHAPE[0]} tokens of {SHAPE[1]}, {name}"
    lines = [Line(f"{task}: index built from its store", "-", told)]
    lines += against_brute_force(index, task, "text", texts[:, None], 5)
    # Random images have no neighbours to be found: an index that measures so compares every case.
    return lines + (against_brute_force(index, task, "image", pictures, 3) if structure else [])


def against_brute_force(index: CaseIndex, task: str, what: str, queries: np.ndarray, rounds: int) -> list[Line]:
    """Queries `(Q, L, D)` one at a time, by the index and by NumPy over its float16 file and over float32 in memory."""
    asked = [Query(query[0] if len(query) == 1 else query) for query in queries]
    wide = index.tokens.astype(np.float32)
    sizes = BLOCKS if len(queries[0]) == 1 else BLOCKS[-1:]

    def best(tokens: np.ndarray) -> int:
        return min(sizes, key=lambda size: seconds(lambda: brute_force(tokens, queries[0], size)))

    def searches() -> float:
        return median([seconds(lambda query=query: index.search(query, NEAR)) for query in asked])  # type: ignore[misc]

    def scan(tokens: np.ndarray) -> Callable[[], float]:
        size = best(tokens)
        return lambda: seconds(lambda: brute_force(tokens, queries[0], size))

    index.search(asked[0], NEAR)
    found = index.search(asked, NEAR)
    figures = in_turn(rounds, ours=searches, mapped=scan(index.tokens), memory=scan(wide))
    ours, mapped, memory = (median(figures[name]) for name in ("ours", "mapped", "memory"))
    hits = []
    for query, similarity in zip(queries, found.similarity, strict=True):
        least = np.partition(brute_force(wide, query, BLOCKS[-1]), -NEAR)[-NEAR]
        hits.append((similarity >= least - 1e-5).sum() / NEAR)
    speed = f"{mapped / ours:,.0f}x ({ours * 1000:.1f} ms against {mapped * 1000:,.0f} ms)"
    more = f"{memory / ours:,.0f}x against float32 tokens in memory ({memory * 1000:,.0f} ms)"
    goals = ("10x", "0.95") if what == "text" else ("-", "-")
    return [
        Line(f"{task}: one {what} at a time, against blocks of NumPy over the same file", goals[0], f"{speed}; {more}"),
        Line(f"{task}: recall@{NEAR} of {len(queries)} {what}s", goals[1], f"{np.mean(hits):.3f}"),
    ]


def brute_force(tokens: np.ndarray, query: np.ndarray, size: int) -> np.ndarray:
    """`(N,)`: max-sim of unit tokens with a query `(L, D)`, a block to float32, one product, the maximum."""
    result = np.empty(len(tokens), np.float32)
    for start in range(0, len(tokens), size):
        block = tokens[start : start + size].astype(np.float32, copy=False)
        products = (block.reshape(-1, block.shape[-1]) @ query.T).reshape(len(block), -1, len(query))
        result[start : start + size] = products.max(axis=1).mean(axis=1)
    return result
