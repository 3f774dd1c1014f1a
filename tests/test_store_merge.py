"""Stores of one encoder as one: every image once, contradictions refused, and nobody who was forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import SPEC, content, fill, row, run_cli, vectors
from hypothesis import given
from hypothesis import strategies as st

from cxr_embed import open_store
from cxr_embed.errors import StoreError
from cxr_embed.forget import forget
from cxr_embed.store import StoreWriter, add_prompts, read_prompts, verify_store
from cxr_embed.store.layout import shard_paths
from cxr_embed.store.merge import merge_stores
from cxr_embed.types import TextRule


def check(path: Path, numbers: set[int]) -> None:
    store = open_store(path)
    assert set(store.ids.tolist()) == {f"i{number}" for number in numbers}
    for number in numbers:
        for output in SPEC.outputs:
            want = vectors(number)[output].astype(store.header.dtype)
            np.testing.assert_array_equal(store.read([f"i{number}"], output).vectors[0], want)
    patients = dict(zip(store.ids.tolist(), store.patient_ids.tolist(), strict=True))
    assert all(patients[f"i{number}"] == f"p{number // 2}" for number in numbers)
    assert verify_store(path) == []


def test_each_image_counts_once(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(25))
    fill(tmp_path / "b", range(20, 40))
    merged = merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert (merged.images, merged.vectors, merged.same, merged.failures, merged.left_out) == (40, 40, 5, 0, 0)
    check(tmp_path / "c", set(range(40)))
    check(tmp_path / "a", set(range(25)))


@given(st.lists(st.sets(st.integers(0, 15)), min_size=2, max_size=4))
def test_the_union_of_any(tmp_path_factory: pytest.TempPathFactory, parts: list[set[int]]) -> None:
    folder = tmp_path_factory.mktemp("union")
    for number, part in enumerate(parts):
        with StoreWriter(folder / str(number), SPEC) as writer:
            for each in sorted(part):
                writer.add_vector(row(each), vectors(each))
            writer.flush("toy engine")
    merge_stores([folder / str(number) for number in range(len(parts))], folder / "all")
    check(folder / "all", set().union(*parts))


def test_stamps_engines_failures_and_looks_come_along(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "a", SPEC) as writer:
        writer.add_vector(replace(row(1), unlike_chest=True), vectors(1))
        writer.add_row(replace(row(2), content=content(1)))  # the same file under another name
        writer.add_row(replace(row(3), error_kind="corrupt", error="broken"))
        writer.add_row(replace(row(4), content=None, error_kind="missing", error="away"))
        writer.flush("one engine")
    with StoreWriter(tmp_path / "b", SPEC) as writer:
        writer.add_vector(row(4), vectors(4))  # was away for the other
        writer.flush("another engine")
    merged = merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert (merged.images, merged.vectors, merged.failures) == (3, 2, 1)
    store = open_store(tmp_path / "c")
    assert store.engines == {"one engine": 1, "another engine": 1}
    assert dict(zip(store.ids.tolist(), store.unlike_chest.tolist(), strict=True)) == {
        "i1": True,
        "i2": True,
        "i4": False,
    }
    assert [(failure.image_id, failure.kind) for failure in store.failures] == [("i3", "corrupt")]
    known = store.index.find_image("i1")
    assert known is not None
    assert known.stamp == row(1).stamp
    assert verify_store(tmp_path / "c") == []


def test_what_contradicts_is_named_and_refused(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(4))
    with StoreWriter(tmp_path / "b", SPEC) as writer:
        writer.add_vector(replace(row(1), content=content(99)), vectors(99))
        writer.add_vector(row(2, patient="else"), vectors(2))
        writer.flush("toy engine")
    with pytest.raises(StoreError, match="2 ids of images are not one image: i1 is another file") as caught:
        merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert "i2 is another patient's" in str(caught.value)
    assert not (tmp_path / "c").exists()


def test_who_has_no_patient_gets_the_one_that_is_known(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "a", SPEC) as writer:
        writer.add_vector(replace(row(1), patient_id=""), vectors(1))
        writer.flush("toy engine")
    fill(tmp_path / "b", range(2))
    merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    check(tmp_path / "c", {0, 1})


def test_other_encoders_and_dtypes_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(4))
    fill(tmp_path / "other", range(4), spec=replace(SPEC, revision="2"))
    fill(tmp_path / "wide", range(4), dtype="float32")
    fill(tmp_path / "fast", range(4), precision="bf16")
    for name, words in (
        ("other", "only stores of one encoder"),
        ("wide", "dtype is float32"),
        ("fast", "precision is"),
    ):
        done = run_cli("store", "merge", str(tmp_path / "a"), str(tmp_path / name), "--out", str(tmp_path / "c"))
        assert done.returncode == 1
        assert words in done.stderr
        assert str(tmp_path / name) in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not (tmp_path / "c").exists()
    for stores in ([tmp_path / "a"], [tmp_path / "a", tmp_path / "a"]):
        with pytest.raises(StoreError, match="two different stores"):
            merge_stores(stores, tmp_path / "c")
    with pytest.raises(StoreError, match="no store here"):
        merge_stores([tmp_path / "a", tmp_path / "none"], tmp_path / "c")
    fill(tmp_path / "more", range(4, 6))
    with pytest.raises(StoreError, match="not an empty folder"):
        merge_stores([tmp_path / "a", tmp_path / "more"], tmp_path / "wide")


def test_who_was_forgotten_in_one_stays_out(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    fill(tmp_path / "a", range(10))
    fill(tmp_path / "b", range(20))
    forget([tmp_path / "a"], patients=["p3"], key_file=key)
    (tmp_path / "key.forgotten.json").unlink()  # the list in the store alone says so
    with pytest.raises(StoreError, match="give `key_file`"):
        merge_stores([tmp_path / "b", tmp_path / "a"], tmp_path / "c")
    merged = merge_stores([tmp_path / "b", tmp_path / "a"], tmp_path / "c", key_file=key)
    assert merged.left_out == 2
    check(tmp_path / "c", set(range(20)) - {6, 7})
    with pytest.raises(StoreError, match="stay out"):
        fill(tmp_path / "c", range(6, 7), key_file=key)


def test_who_was_forgotten_stays_out_where_a_store_does_not_know_whose_the_image_is(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"k" * 32)
    fill(tmp_path / "a", range(7))
    forget([tmp_path / "a"], patients=["p3"], key_file=key)  # has i6, and has not seen i7
    with StoreWriter(tmp_path / "b", SPEC) as writer:
        writer.add_vector(replace(row(7), patient_id=""), vectors(7))
        writer.flush("toy engine")
    (tmp_path / "key.forgotten.json").unlink()
    fill(tmp_path / "c", range(6, 8))
    merged = merge_stores([tmp_path / name for name in "abc"], tmp_path / "d", key_file=key)
    assert merged.left_out == 2
    check(tmp_path / "d", set(range(6)))


def test_damage_ends_it_and_leaves_nothing(tmp_path: Path) -> None:
    fill(tmp_path / "a", range(10))
    fill(tmp_path / "b", range(10, 20))
    file = shard_paths(tmp_path / "b")[0] / "tokens.npy"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StoreError, match=r"tokens\.npy: damaged"):
        merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_prompts_are_joined(tmp_path: Path) -> None:
    spec = replace(SPEC, text=TextRule(output="features", kind="clip"))
    for name, prompts in (("a", ["effusion", "oedema"]), ("b", ["oedema", "nodule"])):
        fill(tmp_path / name, range(3), spec=spec)
        add_prompts(tmp_path / name, prompts, np.full((2, 4), 1 + (name == "b")), f"by {name}")
    merge_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    found = read_prompts(open_store(tmp_path / "c"))
    assert dict(zip(found.prompts, found.sources, strict=True)) == {
        "effusion": "by a",
        "oedema": "by a",
        "nodule": "by b",
    }
