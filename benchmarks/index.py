"""An index of a million cases against raw FAISS: build, open, search alone and filtered; a case more, a case less."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
from common import Line, in_turn, median, seconds

from cxr_embed import CaseIndex, open_store
from cxr_embed.index import Query, Rules
from cxr_embed.index.faiss import kinds
from cxr_embed.index.faiss.build import add_cases, build_index, remove_cases
from cxr_embed.index.faiss.layout import CANDIDATES
from cxr_embed.index.faiss.vectors import unit
from cxr_embed.manifest import Manifest
from cxr_embed.store import Row, StoreWriter
from cxr_embed.types import EncoderSpec

COUNT, WIDTH, QUERIES, K = 1_000_000, 128, 200, 10
SPEC = EncoderSpec(name="synthetic", revision="1", preprocessing="random numbers", outputs={"features": (WIDTH,)})


def make_cases(count: int, seed: int) -> np.ndarray:
    """Vectors `(N, WIDTH)` float32 of 2,000 kinds of chests, patients of three images about each."""
    world, rng = np.random.default_rng(42), np.random.default_rng(seed)
    centres = world.standard_normal((2000, WIDTH), dtype=np.float32)
    patients = -(-count // 3)
    owner = centres[rng.integers(0, len(centres), patients)]
    owner += 0.6 * rng.standard_normal((patients, WIDTH), dtype=np.float32)
    return np.repeat(owner, 3, axis=0)[:count] + 0.3 * rng.standard_normal((count, WIDTH), dtype=np.float32)


def make_manifest(count: int) -> Manifest:
    """Three images a patient; `Hernia` on one case of a hundred."""
    rng = np.random.default_rng(1)
    columns = {
        "image_id": [f"image{number:07d}" for number in range(count)],
        "path": [f"{number:07d}.png" for number in range(count)],
        "patient_id": [f"p{number // 3}" for number in range(count)],
        "study_date": np.array(["2018-03-01", "2019-07-15", "2021-01-31"])[rng.integers(0, 3, count)].tolist(),
        "view": np.array(["PA", "AP", "LL"])[rng.integers(0, 3, count)].tolist(),
        "age": rng.integers(0, 95, count).astype("U2").tolist(),
        "sex": np.array(["M", "F"])[rng.integers(0, 2, count)].tolist(),
        "Effusion": (rng.random(count) < 0.12).astype(int).astype("U1").tolist(),
        "Hernia": (rng.random(count) < 0.01).astype(int).astype("U1").tolist(),
    }
    return Manifest(pa.table(columns), Path(), ("Effusion", "Hernia"))


def fill(path: Path, vectors: np.ndarray, first: int = 0) -> Path:
    """A store of the vectors."""
    with StoreWriter(path, SPEC) as writer:
        for number, vector in enumerate(vectors, start=first):
            writer.add_vector(
                Row(image_id=f"image{number:07d}", patient_id=f"p{number // 3}", content=number.to_bytes(32, "big")),
                {"features": vector},
            )
            if writer.full:
                writer.flush("synthetic")
        writer.flush("synthetic")
    return path


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Part of the true neighbours `(Q, k)` that were found."""
    return float(
        np.mean([len(set(mine) & set(true)) for mine, true in zip(found, truth, strict=True)]) / truth.shape[1]
    )


def run(work: Path, count: int = COUNT) -> list[Line]:
    """All of it, in one process."""
    store, manifest = fill(work / "store", make_cases(count, 0)), make_manifest(count)
    vectors = unit(open_store(store).read().vectors)
    kind = kinds.choose(count, WIDTH)
    sample = np.sort(np.random.default_rng(0).choice(count, 40 * kinds.lists(count), replace=False))

    def plain(training: np.ndarray) -> faiss.Index:
        made = faiss.index_factory(WIDTH, kind.factory, faiss.METRIC_INNER_PRODUCT)
        made.train(training)
        made.add(vectors)
        return made

    # FAISS itself learns from up to 256 cases a list; we from 40, so both are told.
    usual = seconds(lambda: plain(vectors))
    built_in = in_turn(
        2,
        theirs=lambda: seconds(lambda: plain(vectors[sample])),
        ours=lambda: seconds(lambda: build_index(open_store(store), work / "index", manifest=manifest)),
    )
    theirs, ours = median(built_in["theirs"]), median(built_in["ours"])
    opening = [seconds(lambda: CaseIndex(work / "index").similar.faiss) for _ in range(5)]
    index = CaseIndex(work / "index")
    raw = faiss.read_index(str(index.folder / CANDIDATES))
    kinds.set_effort(raw, index.record.kind)
    what = f"{count:,} x {WIDTH}"
    built = (
        f"{ours / usual:.2f}x ({ours:.0f} s from a store and a manifest, {usual:.0f} s; {kind.factory}); "
        f"{ours / theirs:.2f}x with our training sample ({theirs:.0f} s)"
    )
    return [
        Line(f"build an index of {what}, against raw FAISS", "1.1x", built),
        Line(f"open an index of {count:,} cases, FAISS included", "0.5 s", f"{median(opening):.2f} s"),
        *searches(index, raw, vectors, what),
        *changes(work, count),
    ]


def searches(index: CaseIndex, raw: faiss.Index, vectors: np.ndarray, what: str) -> list[Line]:
    """One query at a time, beside raw FAISS with the same lists and beside its flat index; filtered."""
    queries = unit(make_cases(QUERIES, 7))
    asked = [Query(query, str(number)) for number, query in enumerate(queries)]
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(vectors)
    truth = faiss.knn(queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)[1]

    def each(search: Callable[[int], object], some: range) -> float:
        return median([seconds(partial(search, number)) for number in some]) * 1000

    def joined(number: int, **filters: str) -> None:
        rows, _ = index.search_rows([asked[number]], K, rules=Rules(), **filters)
        index.cases(rows[0])

    for number in range(20):
        joined(number)
    figures = in_turn(
        5,
        ours=lambda: each(joined, range(QUERIES)),
        raw=lambda: each(lambda number: raw.search(queries[number : number + 1], K), range(QUERIES)),
        flat=lambda: each(lambda number: flat.search(queries[number : number + 1], K), range(0, QUERIES, 10)),
    )
    mine, theirs, all_of_them = (median(figures[name]) for name in ("ours", "raw", "flat"))
    found = index.search_rows(asked, K)[0]
    lines = [
        Line(
            f"{what}, 10 nearest, one query at a time, case table joined",
            "recall 0.98; 100x flat; raw FAISS + 0.2 ms",
            f"recall {recall(found, truth):.3f}; {all_of_them / mine:.0f}x (flat {all_of_them:.1f} ms, {mine:.3f} ms); "
            f"raw FAISS {theirs:.3f} ms + {mine - theirs:.3f} ms",
        )
    ]
    for name, where, goal in (
        ("a filter that 1% of cases pass", "Hernia = 1", "recall 1.0, 20 ms"),
        ("a filter that 22% pass", "view = PA and age between 20 and 80", "recall 0.98"),
    ):
        passing = index.passing(where, None)
        assert passing is not None
        rows = np.flatnonzero(passing)
        near = rows[faiss.knn(queries, vectors[rows], K, metric=faiss.METRIC_INNER_PRODUCT)[1]]
        filtered = index.search_rows(asked, K, where=where)[0]
        taken = median([each(partial(joined, where=where), range(0, QUERIES, 4)) for _ in range(3)])
        told = f"recall {recall(filtered, near):.3f}, {taken:.1f} ms"
        lines.append(Line(f"the same with {name} ({len(rows):,} cases)", goal, told))
    return lines


def changes(work: Path, count: int) -> list[Line]:
    """A thousand cases more, and one less."""
    fill(work / "store", make_cases(1000, 3), first=count)
    more = seconds(lambda: add_cases(work / "index", open_store(work / "store")))
    less = seconds(lambda: remove_cases(work / "index", ["image0000007"]))
    told = f"{more:.0f} s, {less:.0f} s, recall measured anew in both"
    return [Line(f"add 1,000 cases to {count:,}; remove one", "no rebuild", told)]
