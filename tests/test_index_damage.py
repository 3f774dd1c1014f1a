"""A changed byte of an index's arrays: an answer that it would alter is an error that names the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from index_world import make_index, make_store
from numpy.lib.format import read_array_header_1_0, read_magic

from cxr_embed import CaseIndex, open_store
from cxr_embed.errors import CaseIndexError
from cxr_embed.index import Query
from cxr_embed.index.faiss.build import add_cases, build_index, remove_cases
from cxr_embed.index.faiss.duplicates import find_duplicates
from cxr_embed.index.faiss.layout import CANDIDATES, CHECKSUMS, HEADER, TOKENS, VECTORS, IndexRecord
from cxr_embed.index.faiss.verify import verify_index
from cxr_embed.retrieval.evaluating import evaluate_retrieval
from cxr_embed.store import Row, StoreWriter
from cxr_embed.types import EncoderSpec

CHANGED = r"{}: the vector of c{} has changed since it was written; restore it, or build the index again"


def flip(file: Path, row: int, rows: int) -> None:
    """Changes the highest bit of a row's first number."""
    with open(file, "rb") as opened:
        read_magic(opened)
        read_array_header_1_0(opened)
        start = opened.tell()
    data = bytearray(file.read_bytes())
    width = (len(data) - start) // rows
    data[start + row * width + np.load(file, mmap_mode="r").dtype.itemsize - 1] ^= 0x80
    file.write_bytes(data)


def without_checksums(root: Path) -> None:
    """Makes an index look as an earlier release wrote it."""
    record = IndexRecord.read(root)
    files = {name: entry for name, entry in record.files.items() if name != CHECKSUMS}
    (root / record.generation / CHECKSUMS).unlink()
    (root / HEADER).write_bytes(replace(record, files=files).to_bytes())


@pytest.mark.parametrize("kind", ["flat", "hnsw"])
def test_a_changed_vector_is_neither_ranked_nor_copied(tmp_path: Path, kind: str) -> None:
    values = np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32)
    root = make_index(tmp_path, values, kind=kind).path
    flip(CaseIndex(root).folder / VECTORS, 7, 300)
    told = CHANGED.format(VECTORS, 7)
    for look in (
        lambda: CaseIndex(root).search([Query(values[7])], 3),
        lambda: CaseIndex(root).query_of("c7"),
        lambda: CaseIndex(root).vectors,
        lambda: find_duplicates(CaseIndex(root), np.full(300, ""), np.full(300, "")),
        lambda: remove_cases(root, ["c9"]),
        lambda: add_cases(root, open_store(make_store(tmp_path / "more", values[:3], ["p"] * 3, 900))),
    ):
        with pytest.raises(CaseIndexError, match=told):
            look()
    if kind == "flat":  # a graph may never come to the row: what it finds is then what was written
        with pytest.raises(CaseIndexError, match=told):
            CaseIndex(root).search([Query(-values[7])], 3)
    assert [damage.where for damage in verify_index(root)] == [VECTORS]


def test_a_changed_graph_is_never_written_anew(tmp_path: Path) -> None:
    root = make_index(
        tmp_path, np.random.default_rng(0).standard_normal((300, 16)).astype(np.float32), kind="hnsw"
    ).path
    file = CaseIndex(root).folder / CANDIDATES
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(CaseIndexError, match=f"{CANDIDATES}: damaged"):
        remove_cases(root, ["c9"])
    assert len(CaseIndex(root)) == 300


def token_index(path: Path) -> Path:
    """Six cases of three tokens."""
    spec = EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"tokens": (3, 8)})
    rng = np.random.default_rng(0)
    with StoreWriter(path / "store", spec) as writer:
        for number in range(6):
            writer.add_vector(
                Row(image_id=f"c{number}", patient_id="", content=bytes([number] * 32)),
                {"tokens": rng.standard_normal((3, 8))},
            )
        writer.flush("toy engine")
    build_index(open_store(path / "store"), path / "index", pool="tokens")
    return path / "index"


def test_changed_tokens_and_means(tmp_path: Path) -> None:
    root = token_index(tmp_path)
    query = Query(np.ones(8, np.float32))
    before = CaseIndex(root).search([query], 3)
    folder = CaseIndex(root).folder
    flip(folder / VECTORS, 2, 6)
    after = CaseIndex(root).search([query], 3)  # no search with words looks at means
    assert after.ids.tolist() == before.ids.tolist()
    with pytest.raises(CaseIndexError, match=CHANGED.format(VECTORS, 2)):
        _ = CaseIndex(root).vectors
    flip(folder / TOKENS, 4, 6)
    with pytest.raises(CaseIndexError, match=CHANGED.format(TOKENS, 4)):
        CaseIndex(root).search([query], 3)
    with pytest.raises(CaseIndexError, match=CHANGED.format(TOKENS, 4)):
        CaseIndex(root).query_of("c4")


def test_damaged_checksums_are_named(tmp_path: Path) -> None:
    root = make_index(tmp_path, np.eye(4, dtype=np.float32)).path
    flip(CaseIndex(root).folder / CHECKSUMS, 0, 1)
    with pytest.raises(CaseIndexError, match=rf"{CHECKSUMS}: damaged"):
        CaseIndex(root)


def test_an_evaluation_of_changed_vectors_ends(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal((60, 8)).astype(np.float32)
    columns = {"Effusion": ["1", "0"] * 30}
    root = make_index(tmp_path, values, [f"p{number // 2}" for number in range(60)], columns).path
    evaluate_retrieval([CaseIndex(root)], bootstraps=10)
    flip(CaseIndex(root).folder / VECTORS, 50, 60)
    with pytest.raises(CaseIndexError, match=CHANGED.format(VECTORS, 50)):
        evaluate_retrieval([CaseIndex(root)], bootstraps=10)
