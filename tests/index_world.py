"""Small indexes made of arrays, and the search that is obviously right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cxr_embed import open_store
from cxr_embed.index import CaseIndex
from cxr_embed.index.faiss import vectors
from cxr_embed.index.faiss.build import build_index
from cxr_embed.manifest import Manifest
from cxr_embed.store import Row, StoreWriter
from cxr_embed.types import EncoderSpec

DESCRIBED = ("image_id", "path", "patient_id", "study_date", "view", "age", "sex", "split", "site")


def toy_spec(width: int) -> EncoderSpec:
    """The encoder of vectors that are made up."""
    return EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"features": (width,)})


def make_store(path: Path, values: np.ndarray, patients: Sequence[str], first: int = 0) -> Path:
    """A float32 store of vectors `(N, D)`; ids are `c0`, `c1`, ..."""
    with StoreWriter(path, toy_spec(values.shape[1]), dtype="float32") as writer:
        for number, (vector, patient) in enumerate(zip(values, patients, strict=True), start=first):
            writer.add_vector(
                Row(image_id=f"c{number}", patient_id=patient, content=number.to_bytes(32, "big")), {"features": vector}
            )
        writer.flush("toy engine")
    return path


def make_manifest(
    count: int, patients: Sequence[str], columns: Mapping[str, Sequence[str]], first: int = 0
) -> Manifest:
    """The cases `c0`, `c1`, ... of `make_store`, with columns of text."""
    ids = [f"c{number}" for number in range(first, first + count)]
    paths = [f"{image_id}.png" for image_id in ids]
    table = pa.table({"image_id": ids, "path": paths, "patient_id": list(patients), **columns})
    table = table.cast(pa.schema([(name, pa.string()) for name in table.column_names]))
    return Manifest(table, Path(), tuple(name for name in columns if name not in DESCRIBED))


def make_index(
    path: Path,
    values: np.ndarray,
    patients: Sequence[str] | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
    **options: Any,
) -> CaseIndex:
    """An index of vectors `(N, D)`; every case is a patient of its own unless given one."""
    owners = [f"p{number}" for number in range(len(values))] if patients is None else patients
    store = make_store(path / "store", values, owners)
    manifest = make_manifest(len(values), owners, columns or {})
    build_index(open_store(store), path / "index", manifest=manifest, **options)
    return CaseIndex(path / "index")


def thorough(index: CaseIndex) -> CaseIndex:
    """An index that asks FAISS however few its cases are, and whose lists are all looked into."""
    similar = index.similar
    assert isinstance(similar, vectors.PooledVectors)
    similar.kind = replace(similar.kind, effort=1 << 12)
    similar.exact_below = 1
    return index


@dataclass(frozen=True)
class Asked:
    """A search, for `brute_force`."""

    vector: np.ndarray
    k: int
    images: tuple[str, ...] = ()
    patients: tuple[str, ...] = ()
    exclude_same_patient: bool = False
    only_same_patient: bool = False
    one_per_patient: bool = False


def brute_force(index: CaseIndex, asked: Asked, passing: Sequence[bool]) -> list[str]:
    """The ids that a search must give: every case looked at in turn."""
    query = vectors.unit(asked.vector)
    scored = []
    for row, (image_id, patient) in enumerate(zip(index.ids.tolist(), index.patient_ids.tolist(), strict=True)):
        same = patient in asked.patients
        if not passing[row] or image_id in asked.images:
            continue
        if asked.exclude_same_patient and (same or not patient):
            continue
        if asked.only_same_patient and not same:
            continue
        scored.append((-float(np.dot(index.vectors[row], query)), row, image_id, patient or f"unknown {row}"))
    found, seen = [], set()
    for _, _, image_id, patient in sorted(scored):
        if asked.one_per_patient and patient in seen:
            continue
        seen.add(patient)
        found.append(image_id)
    return found[: asked.k]
