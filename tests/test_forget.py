"""A withdrawn consent: nothing of a patient is left, nothing comes back, nobody else loses anything."""

from __future__ import annotations

import csv
import errno
import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import MeanEncoder, run_cli
from hypothesis import given, settings
from hypothesis import strategies as st
from map_worlds import record, write_folder
from test_equal_vectors import without_checksums

from cxr_embed import CaseIndex, LinearProbe, open_store
from cxr_embed.cli.forget import _print
from cxr_embed.errors import CxrEmbedError, StoreError
from cxr_embed.explanation.record import read_maps
from cxr_embed.forget import forget
from cxr_embed.imports import import_vectors, open_npz
from cxr_embed.index.faiss.build import add_cases, build_index
from cxr_embed.index.faiss.verify import verify_index
from cxr_embed.io.digests import keyed_hash
from cxr_embed.manifest import read_labels
from cxr_embed.pipeline.embedding import embed
from cxr_embed.probe.persistence import LabelRecord, TrainedProbe, save_probe
from cxr_embed.store import Row, StoreWriter, forgotten, layout, rewrite, verify_store
from cxr_embed.store.export import export_npz, export_store
from cxr_embed.store.forgotten import Forgotten, gather_forgotten, list_beside, save_beside
from cxr_embed.store.rewrite import take_out
from cxr_embed.store.verify import upgrade_store
from cxr_embed.types import EncoderSpec, Stamp

SPEC = EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"features": (6,), "tokens": (3, 2)})
KEY = b"0123456789abcdef of a hospital"
COUNT, PATIENTS = 24, 8


def name(number: int) -> str:
    return f"scan-{chr(97 + number % 26)}x{number:03d}"


def owner(number: int) -> str:
    return f"person-{chr(97 + number % PATIENTS)}"


def content(number: int) -> bytes:
    return hashlib.sha256(f"file {number}".encode()).digest()


def vectors(number: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(number)
    return {"features": rng.standard_normal(6), "tokens": rng.standard_normal((3, 2))}


def row(number: int, patient: str | None = None, **more: object) -> Row:
    return Row(
        image_id=name(number),
        patient_id=owner(number) if patient is None else patient,
        content=content(number),
        stamp=Stamp(1, 2, 3),
        **more,
    )  # type: ignore[arg-type]


def fill(path: Path) -> Path:
    """Shards of eight images, then one with a second name, a failure and a file that nobody could read."""
    with StoreWriter(path, SPEC) as writer:
        for number in range(COUNT):
            writer.add_vector(row(number), vectors(number))
            if writer.pending == 8:
                writer.flush("toy engine")
        writer.add_row(Row(image_id="second-name-of-3", patient_id=owner(4), content=content(3)))
        writer.add_row(
            Row(
                image_id="broken-of-3",
                patient_id=owner(3),
                content=content(91),
                error_kind="empty",
                error="the file is empty",
            )
        )
        writer.add_row(
            Row(image_id="broken-of-4", patient_id=owner(4), content=None, error_kind="missing", error="no such file")
        )
        writer.flush("toy engine")
        writer.add_vector(row(30, owner(5)), vectors(30))
        writer.flush("toy engine")
    return path


def write_table(path: Path, *columns: str) -> Path:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["image_id", *columns])
        for number in range(COUNT):
            known = {"patient_id": owner(number), "path": f"x/{number}.png", "Effusion": number % 2, "score": 0.5}
            writer.writerow([name(number), *(known[column] for column in columns)])
    return path


@dataclass
class World:
    root: Path
    key: Path

    def forget(self, *patients: str, **options: object):  # type: ignore[no-untyped-def]
        return forget([self.root], patients=patients, key_file=self.key, **options)  # type: ignore[arg-type]


@pytest.fixture
def world(tmp_path: Path) -> World:
    root, key = tmp_path / "project", tmp_path / "key"
    root.mkdir()
    key.write_bytes(KEY + b"\n")
    fill(root / "store")
    write_table(root / "manifest.csv", "patient_id", "path", "Effusion")
    write_table(root / "scores.csv", "score")
    store = open_store(root / "store")
    build_index(store, root / "index", manifest=read_labels(root / "manifest.csv"))
    build_index(store, root / "every" / "index", output="tokens", pool="tokens")
    export_store(store, root / "vectors.parquet")
    return World(root, key)


GONE = [number for number in range(COUNT) if number % PATIENTS == 3]
NAMES = [*map(name, GONE), "second-name-of-3", "broken-of-3"]


def needles(world: World) -> list[bytes]:
    """Ids, digests and vectors of the patient, in every form in which a file may hold them."""
    store = open_store(world.root / "store")
    found = [text.encode() for text in (*NAMES, owner(3))] + [text.encode("utf-32-le") for text in (*NAMES, owner(3))]
    for number in (*GONE, 91):
        found += [content(number), content(number).hex().encode(), content(number).hex().upper().encode()]
    for output in SPEC.outputs:
        for vector in store.read([name(number) for number in GONE], output).vectors:
            found += [vector.tobytes(), vector.astype(np.float32).tobytes()]
    for index in (CaseIndex(world.root / "index"), CaseIndex(world.root / "every" / "index")):
        for number in GONE:
            found += [index.vectors[index.rows_of([name(number)])[0]].tobytes()]
    found += [tokens.tobytes() for tokens in index.tokens[index.rows_of([name(number) for number in GONE])]]
    return found


def holding(root: Path, wanted: list[bytes]) -> list[str]:
    """Files that hold any of it; packed ones are looked into."""
    held = []
    for path in (path for path in root.rglob("*") if path.is_file()):
        data = path.read_bytes() + str(path.relative_to(root)).encode()
        if path.suffix == ".gz":
            data += gzip.decompress(path.read_bytes())
        if path.suffix == ".parquet":
            data += repr(pq.read_table(path).to_pydict()).encode()
        if any(each in data for each in wanted):
            held.append(str(path.relative_to(root)))
    return sorted(held)


def others_of(store: Path) -> dict[str, bytes]:
    opened = open_store(store)
    kept = [each for each in opened.ids.tolist() if each not in NAMES]
    return dict(zip(kept, (vector.tobytes() for vector in opened.read(kept, "tokens").vectors), strict=True))


def test_no_byte_of_the_patient_is_left_and_nobody_else_loses_anything(world: World) -> None:
    wanted, before = needles(world), others_of(world.root / "store")
    assert len(holding(world.root, wanted)) >= 10
    kept = {path: path.read_bytes() for path in (world.root / "store" / "shards").glob("00000004*/*.npy")}
    result = world.forget(owner(3), delete_rows=True)
    assert result.left == []
    assert result.problems == []
    assert holding(world.root, wanted) == []
    assert result.images == len(NAMES)
    assert result.copies == 1
    assert [(store["images"], store["vectors"], store["shards"]) for store in result.stores] == [(5, 3, 4)]
    assert verify_store(world.root / "store") == []
    assert verify_index(world.root / "index") == []
    assert others_of(world.root / "store") == before
    assert len(open_store(world.root / "store")) == len(before)
    assert [failure.image_id for failure in open_store(world.root / "store").failures] == ["broken-of-4"]
    assert not (world.root / "store" / "unread.json").exists()
    # What holds nobody of the patient's keeps its bytes; only the number of images that it states is another.
    assert [path.read_bytes() for path in (world.root / "store" / "shards").glob("00000004*/*.npy")] == [*kept.values()]
    assert len(read_labels(world.root / "manifest.csv")) == COUNT - 3
    again = world.forget(owner(3))
    assert (again.images, again.left, again.problems) == (0, [], [])


@pytest.mark.parametrize("given", ["person-d", "4711"])
def test_the_hospitals_own_id_is_known_by_the_key(tmp_path: Path, given: str) -> None:
    key = tmp_path / "key"
    key.write_bytes(KEY)
    stored = given if given == "person-d" else "nih-" + keyed_hash(given, KEY)
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.add_vector(row(1, stored), vectors(1))
        writer.add_vector(row(2, "other"), vectors(2))
        writer.flush("toy engine")
    result = forget([tmp_path / "s"], patients=[given], key_file=key)
    assert open_store(tmp_path / "s").ids.tolist() == [name(2)]
    assert stored not in (tmp_path / "s" / "forgotten.json").read_text()
    assert result.left == []
    with StoreWriter(tmp_path / "new", SPEC, key_file=key) as writer:
        assert writer.forgotten.has_patient(stored)
        assert writer.forgotten.has_patient(keyed_hash(given, KEY))
        assert not writer.forgotten.has_patient("other")
        with pytest.raises(StoreError, match="is to stay out"):
            writer.add_vector(row(1, stored), vectors(1))
        with pytest.raises(StoreError, match="is to stay out"):
            writer.add_row(Row(image_id="another-name", patient_id="somebody", content=content(1)))


def test_an_id_is_meant_however_its_letters_are_written(tmp_path: Path) -> None:
    """Accents may stand apart, as some file systems write them, and whoever names a hash means the id behind it."""
    root, key = tmp_path / "project", tmp_path / "key"
    key.write_bytes(KEY)
    composed, apart, number = "Müller-4711", "Mu\u0308ller-4711", "0815-2024"
    patients = [each for word in (composed, apart, number) for each in (word, keyed_hash(word, KEY))] + ["x"]

    def fill_with(path: Path, ids: Sequence[int]) -> None:
        with StoreWriter(path, SPEC, key_file=key) as writer:
            for at in ids:
                if not writer.forgotten.covers(patients[at], name(at)):
                    writer.add_vector(row(at, patients[at]), vectors(at))
            writer.flush("toy engine")

    for word, kept in (
        (composed, {number, keyed_hash(number, KEY), "x"}),
        (apart, {number, keyed_hash(number, KEY), "x"}),
        (keyed_hash(number, KEY), {composed, apart, keyed_hash(composed, KEY), keyed_hash(apart, KEY), "x"}),
    ):
        fill_with(root / "store", range(len(patients)))
        (root / "notes.txt").write_text(f"asked of {composed} in June and of {apart} in July, and of {number} never")
        found = forget([root], patients=[word], key_file=key)
        assert set(open_store(root / "store").patient_ids.tolist()) == kept
        assert [file["mentions"] for file in found.files] == ([2] if word in (composed, apart) else [1])
        fill_with(tmp_path / "later", range(len(patients)))
        assert set(open_store(tmp_path / "later").patient_ids.tolist()) == kept
        shutil.rmtree(root)
        shutil.rmtree(tmp_path / "later")
        list_beside(key).unlink()


def test_an_image_alone(world: World) -> None:
    result = world.forget(images=[name(3)])
    left = open_store(world.root / "store").ids.tolist()
    assert name(3) not in left
    assert "second-name-of-3" not in left  # the same file
    assert {name(11), name(19)} <= set(left)
    assert sorted(Path(file["path"]).name for file in result.files) == ["manifest.csv", "scores.csv", "vectors.parquet"]
    assert all(file["mentions"] - file["deleted"] >= 1 for file in result.files)
    assert len(result.left) == 3


def test_a_patient_who_was_corrected_and_a_file_that_was_replaced(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(KEY)
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        for number, patient in ((1, "wrong-one"), (2, "wrong-one"), (3, "other")):
            writer.add_vector(row(number, patient), vectors(number))
        writer.flush("toy engine")
        writer.add_row(row(1, "right-one"))  # was taken for the other's once
        writer.add_vector(
            Row(image_id=name(2), patient_id="wrong-one", content=content(9)), vectors(9)
        )  # the file was made anew
        writer.flush("toy engine")
    result = forget([tmp_path / "s"], patients=["wrong-one"], key_file=key)
    store = open_store(tmp_path / "s")
    assert sorted(store.ids.tolist()) == [name(1), name(3)]
    assert dict(zip(store.ids, store.patient_ids, strict=True)) == {name(1): "right-one", name(3): "other"}
    np.testing.assert_array_equal(store.read([name(1)]).vectors[0], vectors(1)["features"].astype(np.float16))
    assert verify_store(tmp_path / "s") == []
    assert holding(tmp_path / "s", [b"wrong-one", content(2), content(9), name(2).encode()]) == []
    assert result.stores[0]["vectors"] == 2


def test_equal_vectors_do_not_make_equal_people(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(KEY)
    np.savez(tmp_path / "v.npz", **{f"{who}-{n}": np.ones(4, np.float32) * (n or 1) for who in "ab" for n in (0, 1, 2)})
    pattern = {"encoder": "own", "output": "out", "store": tmp_path / "s", "patient_pattern": r"(\w)-", "key_file": key}
    import_vectors(open_npz(tmp_path / "v.npz"), **pattern)  # type: ignore[arg-type]
    forget([tmp_path / "s"], patients=["a"], key_file=key)
    store = open_store(tmp_path / "s")
    assert sorted(store.ids.tolist()) == ["b-0", "b-1", "b-2"]
    np.testing.assert_array_equal(store.read(["b-0", "b-1", "b-2"]).vectors[:, 0], [1, 1, 2])
    assert verify_store(tmp_path / "s") == []
    summary = import_vectors(open_npz(tmp_path / "v.npz"), **pattern)  # type: ignore[arg-type]
    assert (summary.forgotten, summary.unchanged, summary.added) == (3, 3, 0)


def test_the_file_stays_out_under_a_new_name_and_the_patient_with_a_new_file(make_images, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    manifest, key = make_images(8), tmp_path / "key"
    key.write_bytes(KEY)
    embed(manifest, MeanEncoder(), tmp_path / "s")
    forget([tmp_path / "s"], patients=["p2"], key_file=key)
    assert len(open_store(tmp_path / "s")) == 6
    lines = manifest.read_text().splitlines()
    folder = manifest.parent
    (folder / "copy.png").write_bytes((folder / "i4.png").read_bytes())
    (folder / "i5.png").write_bytes((folder / "i6.png").read_bytes() + b"another file")
    manifest.write_text("\n".join([*lines, "renamed,copy.png,somebody,train,0"]) + "\n")
    for store in ("s", "fresh"):  # the list in the store, and the one beside the key
        summary = embed(manifest, MeanEncoder(), tmp_path / store, key_file=key)
        assert summary.forgotten == 3
        assert summary.done == summary.images == 9
        assert set(open_store(tmp_path / store).ids.tolist()) == {"i0", "i1", "i2", "i3", "i6", "i7"}
        assert holding(tmp_path / store, [b"renamed", b"p2"]) == []
    with pytest.raises(StoreError, match=r"only the key .* the key .* is missing: give `key_file`"):
        embed(manifest, MeanEncoder(), tmp_path / "s")
    (tmp_path / "other-key").write_bytes(b"another key, of another hospital")
    with pytest.raises(StoreError, match=r"this is another key: give `key_file`"):
        embed(manifest, MeanEncoder(), tmp_path / "s", key_file=tmp_path / "other-key")


def test_copies_of_stores_do_not_bring_anybody_back(world: World, tmp_path: Path) -> None:
    backup = fill(tmp_path / "backup")
    export_npz(open_store(backup), tmp_path / "google.npz", "features")
    world.forget(owner(3), delete_rows=True)
    labels = read_labels(world.root / "manifest.csv")
    with pytest.raises(StoreError, match="give `key_file`"):
        add_cases(world.root / "index", open_store(backup))
    added = add_cases(world.root / "index", open_store(backup), key_file=world.key)
    assert "of forgotten patients or files: not indexed" in " ".join(added.notes)
    assert not set(CaseIndex(world.root / "index").ids.tolist()) & set(NAMES)
    built = build_index(open_store(backup), tmp_path / "new", manifest=labels, key_file=world.key)
    assert built.record.cases == COUNT - 3
    with pytest.raises(StoreError, match="give `key_file`"):  # the list went along
        add_cases(tmp_path / "new", open_store(backup))
    renamed = dict(np.load(tmp_path / "google.npz"))
    np.savez(tmp_path / "renamed.npz", **{f"new-{key}": value for key, value in renamed.items()})
    for file, stay_out in (("google.npz", 4), ("renamed.npz", 3)):
        made = import_vectors(open_npz(tmp_path / file), "own", "out", tmp_path / file[:4], key_file=world.key)
        assert made.forgotten >= stay_out - 1
        assert made.added == made.images - made.forgotten
        assert not set(open_store(tmp_path / file[:4]).ids.tolist()) & {*NAMES, *(f"new-{each}" for each in NAMES)}


_kinds = st.sampled_from(["vector", "broken", "away"])
_rows = st.tuples(st.integers(0, 4), st.integers(0, 2), st.integers(0, 5), _kinds)  # image, patient, file
# A run writes an image once; a file is a radiograph or none.
_shards = st.lists(st.lists(_rows, max_size=5, unique_by=lambda row: row[0]), max_size=4)


@settings(max_examples=15, deadline=None)
@given(shards=_shards, by_content=st.booleans())
def test_what_is_left_is_what_was_there_without_the_patient(shards: list[list[Any]], by_content: bool) -> None:
    """Against the plain fold of all rows, whatever images shared, became or were taken for before."""
    known: dict[str, tuple[str, int | None, str]] = {}
    with TemporaryDirectory() as folder:
        root = Path(folder) / "s"
        with StoreWriter(root, SPEC) as writer:
            embedded: set[int] = set()
            for rows in shards:
                for image, patient, number, kind in rows:
                    away, file = kind == "away", number + 10 * (kind == "broken")
                    fault = {} if kind == "vector" else {"error_kind": "missing", "error": "no such file"}
                    made = Row(
                        image_id=f"image-{image}",
                        patient_id=f"patient-{patient}",
                        content=None if away else content(file),
                        **fault,
                    )  # type: ignore[arg-type]
                    if kind == "vector" and file not in embedded:
                        writer.add_vector(made, vectors(file))
                        embedded.add(file)
                    else:
                        writer.add_row(made)
                    if not away or made.image_id not in known:
                        known[made.image_id] = (made.patient_id, None if away else file, kind)
                writer.flush("toy engine")
        files = {content(file) for patient, file, _ in known.values() if patient == "patient-0" and file is not None}
        files = files if by_content else set()
        acquired = layout_files(root)
        done = take_out(root, lambda patient, _, file: patient == "patient-0" or file in files)
        left = {
            image_id: (patient, file)
            for image_id, (patient, file, kind) in known.items()
            if kind == "vector" and patient != "patient-0" and content(file or 0) not in files
        }
        store = open_store(root)
        assert set(store.ids.tolist()) == set(left)
        for image_id, patient in zip(store.ids.tolist(), store.patient_ids.tolist(), strict=True):
            assert patient == left[image_id][0]
            wanted = vectors(left[image_id][1] or 0)["tokens"].astype(np.float16)
            np.testing.assert_array_equal(store.read([image_id], "tokens").vectors[0], wanted)
        assert verify_store(root) == []
        assert holding(root, [b"patient-0", *files]) == []
        if not done.shards:
            assert layout_files(root) == acquired


def layout_files(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("upgraded", [True, False])
def test_stores_of_earlier_releases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, upgraded: bool) -> None:
    key = tmp_path / "key"
    key.write_bytes(KEY)
    with monkeypatch.context() as older:
        older.setattr(layout, "ROW_SCHEMA", layout.OLDER_ROW_SCHEMA)
        with StoreWriter(tmp_path / "s", SPEC) as writer:
            for number in range(6):
                writer.add_vector(row(number), vectors(number))
                if number % 2:
                    writer.flush("toy engine")
    without_checksums(tmp_path / "s")
    if upgraded:
        assert upgrade_store(tmp_path / "s") == 3
    before = open_store(tmp_path / "s").read().vectors
    forget([tmp_path / "s"], patients=[owner(3)], key_file=key)
    store = open_store(tmp_path / "s")
    np.testing.assert_array_equal(store.read().vectors, before[[0, 1, 2, 4, 5]])
    assert store.unchecked == (0 if upgraded else 4)  # the shard that held the patient has them within
    assert len(list((tmp_path / "s").glob("checksums/*"))) == (2 if upgraded else 0)
    assert verify_store(tmp_path / "s") == []
    assert holding(tmp_path / "s", [name(3).encode(), content(3), owner(3).encode()]) == []


def test_what_is_damaged_is_named_and_the_others_are_done(world: World) -> None:
    fill(world.root / "second")
    (file,) = (world.root / "second" / "shards").glob("00000001*/features.npy")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    (world.root / "cases.db").mkdir()
    result = world.forget(owner(3), delete_rows=True)
    assert [store["images"] for store in result.stores] == [5]
    assert len(result.problems) >= 2
    assert any(
        ("second" in problem and "has changed" in problem) or "changed" in problem for problem in result.problems
    )
    assert any("cases.db: a file of Milvus, not looked into" in problem for problem in result.problems)
    assert not set(open_store(world.root / "store").ids.tolist()) & set(NAMES)
    assert result.to_json()["complete"] is False


def test_links_to_stores_elsewhere_are_told(world: World) -> None:
    inside, elsewhere = world.root / "project", world.root / "elsewhere"
    inside.mkdir()
    fill(inside / "store")
    elsewhere.mkdir()
    for place in ("store", "index"):
        (world.root / place).rename(elsewhere / place)
        (inside / f"their-{place}").symlink_to(elsewhere / place)
    (inside / "again").symlink_to(inside / "store")
    result = forget([inside], patients=[owner(3)], key_file=world.key)
    assert sorted(result.problems) == [
        f"{inside / f'their-{place}'}: a link to a store, an index, a probe, maps or thumbnails, not followed; "
        f"name {elsewhere / place}"
        for place in ("index", "store")
    ]
    assert forget([inside / "their-store", elsewhere], patients=[owner(3)], key_file=world.key).problems == []
    assert not set(NAMES) & set(open_store(elsewhere / "store").ids.tolist())


def test_a_full_disk_is_told_with_its_place(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(rewrite, "write_shard", full)
        result = forget([world.root / "store"], patients=[owner(3)], key_file=world.key)
    assert result.problems == [f"{world.root / 'store'}: cannot be read or written (No space left on device)"]
    _print(result)
    told = capsys.readouterr()
    assert told.err.endswith("see to what was not done, and run the same again\n")
    assert "nothing else" not in told.out
    assert verify_store(world.root / "store") == []
    assert world.forget(owner(3)).problems == []


def test_a_store_that_somebody_writes_to_is_left_to_the_next_run(world: World) -> None:
    with StoreWriter(world.root / "store", SPEC):
        busy = world.forget(owner(3), delete_rows=True)
        assert any("another process is writing to this store" in problem for problem in busy.problems)
    assert world.forget(owner(3)).problems == []
    assert not set(open_store(world.root / "store").ids.tolist()) & set(NAMES)


def test_two_at_once_both_stay_in_the_list_beside_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key, (first, second) = tmp_path / "key", (Forgotten(KEY), Forgotten(KEY))
    Forgotten(KEY).save(list_beside(key))
    first.add_patient("p1")
    second.add_patient("p2")
    other, read = Thread(target=save_beside, args=(second, key)), forgotten._read

    def read_and_be_overtaken(*args: Any) -> set[str]:
        found = read(*args)
        if not other.ident:
            other.start()
            other.join(timeout=0.2)  # it has written by then, unless it waits
        return found

    monkeypatch.setattr(forgotten, "_read", read_and_be_overtaken)
    save_beside(first, key)
    other.join()
    assert read(list_beside(key), first) == first.hashes | second.hashes


def test_a_list_that_is_damaged_lets_nobody_in(world: World) -> None:
    world.forget(owner(3))
    file = world.root / "store" / "forgotten.json"
    body = json.loads(file.read_bytes())
    body["hashes"].pop()
    file.write_text(json.dumps(body))
    with pytest.raises(StoreError, match=r"forgotten\.json: damaged; restore it from a copy"):
        StoreWriter(world.root / "store", SPEC, key_file=world.key)


def test_readers_that_are_open_keep_what_they_have(world: World) -> None:
    store, index = open_store(world.root / "store"), CaseIndex(world.root / "index")
    before, found = store.read().vectors.copy(), index.vectors[3].copy()
    world.forget(owner(3))
    np.testing.assert_array_equal(store.read().vectors, before)
    np.testing.assert_array_equal(index.vectors[3], found)
    assert set(open_store(world.root / "store").ids.tolist()) == set(store.ids.tolist()) - set(NAMES)
    with pytest.raises(StoreError, match="was written anew since it was opened: open it again"):
        store.read(output="tokens")  # which nobody had mapped
    store = open_store(world.root / "store")
    assert len(store.ids)
    assert store._vectors(0, "features").any()
    world.forget(owner(4))
    with pytest.raises(StoreError, match=r"checksums\.npy .* was written anew since it was opened: open it again"):
        store.read()


def test_a_reader_that_comes_while_shards_are_replaced_sees_the_old_ones_or_the_new_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = fill(tmp_path / "store")
    states: list[tuple[set[str], list[str]]] = []

    def look() -> None:
        state = layout.unread_shards(store), sorted(path.name for path in (store / layout.SHARDS).iterdir())
        if state not in states[-1:]:
            states.append(state)

    def watch(module: Any, name: str) -> None:
        step = getattr(module, name)

        def watched(*args: Any, **options: Any) -> Any:
            done = step(*args, **options)
            look()
            return done

        monkeypatch.setattr(module, name, watched)

    for module, name in ((rewrite, "write_whole"), (os, "rename"), (shutil, "rmtree"), (Path, "unlink")):
        watch(module, name)
    look()
    take_out(store, lambda *case: case[0] == owner(3))
    assert len(states) > 10
    old, new = states[0][1], states[-1][1]
    # Four looks, each at the same moment as the one before or at any later one; then nothing changes any more.
    moments: list[int] = []

    def now() -> tuple[set[str], list[str]]:
        return states[moments.pop(0) if len(moments) > 1 else moments[0]]

    monkeypatch.setattr(layout, "unread_shards", lambda _: now()[0])
    monkeypatch.setattr(os, "listdir", lambda _: now()[1])
    for looks in combinations_with_replacement(range(len(states)), 4):
        moments[:] = looks
        assert [path.name for path in layout.shard_paths(store)] in (old, new), looks


def test_ids_that_are_nowhere_change_nothing(world: World) -> None:
    def files() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in world.root.parent.rglob("*") if path.is_file()}

    (world.root / f".scores.csv.{'0' * 32}.partial").touch()  # of a killed writer
    before = files()
    with pytest.raises(CxrEmbedError, match=r"nothing under these paths knows person-z; nothing was done.*another"):
        world.forget(owner(3), "person-z")
    with pytest.raises(CxrEmbedError, match="is not an id"):
        world.forget("")
    dry = world.forget(owner(3), dry_run=True)
    assert (dry.stores[0]["images"], dry.indexes[0]["cases"]) == (5, 4)
    assert {name: data for name, data in files().items() if not name.endswith("writer.lock")} == {
        name: data for name, data in before.items() if not name.endswith("writer.lock")
    }


def train_probe(path: Path, numbers: list[int]) -> None:
    probe = LinearProbe(C=1.0).fit(np.eye(2, 6, dtype=np.float32), np.array([[0.0], [1.0]]))
    names, patients = np.array([name(n) for n in numbers]), np.array([owner(n) for n in numbers])
    record = LabelRecord(
        file="manifest.csv", sha256="0" * 64, split=None, uncertain="unknown", images=2, patients=2, counts={}
    )
    trained = TrainedProbe(
        probe=probe,
        spec=SPEC,
        output="features",
        findings=("Effusion",),
        labels=record,
        patients=patients,
        images=names,
    )
    save_probe(path, trained)


def test_probes_texts_arrays_and_pictures_are_named(world: World) -> None:
    root = world.root
    train_probe(root / "probe", [3, 4])
    train_probe(root / "innocent", [5, 6])
    for file, image_id in (("curve", name(11)), ("other", name(12))):
        (root / f"{file}.json").write_text(json.dumps({"draws": [["x", image_id]]}))
        np.savez(root / f"{file}.npz", **{image_id: np.zeros(2)})
        (root / f"{file}.html").write_text(f"<td>{image_id}</td>")
    (root / f"{name(19)}.png").write_bytes(b"a radiograph")
    written = {"probe", "curve.json", "curve.npz", "curve.html", f"{name(19)}.png"}
    result = world.forget(owner(3), delete_rows=True)
    named = {Path(path).relative_to(world.root).as_posix() for path in result.left}
    assert named == written
    assert [probe["learned"] for probe in result.probes] == ["yes"]
    again = world.forget(owner(3), delete_rows=True)  # stores know nothing any more; the hashes do
    assert {Path(path).relative_to(world.root).as_posix() for path in again.left} == named


def test_heat_maps_and_overlays_of_the_patient_are_gone_and_others_stay(world: World) -> None:
    why, other = world.root / "why", name(1)
    going = [(name(3), owner(3), "Effusion"), (name(11), owner(3), "Nodule"), (other, owner(1), f"like {name(3)}")]
    staying = [(other, owner(1), "Effusion"), (name(2), owner(2), f"like {other}"), (name(3), "somebody-else", "Mass")]
    entries = []
    (why / "overlays").mkdir(parents=True)
    for number, (image_id, patient, finding) in enumerate([*going, *staying]):
        (why / f"overlays/{number}.png").write_bytes(image_id.encode())
        more = {"overlay": f"overlays/{number}.png", "line": "cam", "odd": "../store/store.json"}
        entry = record(number, image_id, finding, patient_id=patient, more=more)
        entries.append((entry, np.full((2, 3), number)))
    write_folder(why, entries)
    (why / "overlays/note.txt").write_text(f"{name(3)} looks odd")
    tried = world.forget(owner(3), dry_run=True)
    assert tried.maps == [{"path": str(why), "maps": 3}]
    assert len(read_maps(why).maps) == 6
    done = world.forget(owner(3), delete_rows=True)
    assert done.maps == [{"path": str(why), "maps": 3}]
    assert done.left == [str(why / "overlays/note.txt")]
    kept = read_maps(why)
    assert [(e.image_id, e.patient_id, e.finding) for e in kept.maps] == staying
    assert [int(kept.load(each)[0, 0]) for each in kept.maps] == [3, 4, 5]
    left = {path.relative_to(why).as_posix() for path in why.rglob("*") if path.suffix in (".npy", ".png")}
    assert left == {f"{part}/{n}.{kind}" for part, kind in (("maps", "npy"), ("overlays", "png")) for n in (3, 4, 5)}
    assert (world.root / "store/store.json").is_file()


def test_whom_heat_maps_alone_know_is_found_there(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(KEY + b"\n")
    entries = [(record(n, f"image-{n}", "Mass", patient_id=f"patient-{n}"), np.eye(2)) for n in (0, 1)]
    write_folder(tmp_path / "maps", entries)
    done = forget([tmp_path / "maps"], patients=["patient-1"], key_file=tmp_path / "key")
    assert (done.maps[0]["maps"], done.left) == (1, [])
    assert [entry.image_id for entry in read_maps(tmp_path / "maps").maps] == ["image-0"]
    done = forget([tmp_path / "maps"], images=["image-0"], key_file=tmp_path / "key")
    assert read_maps(tmp_path / "maps").maps == ()


def test_the_command_line(world: World) -> None:
    options = ("--key-file", str(world.key), str(world.root))
    told = run_cli("forget", "--patient", owner(3), *options)
    assert told.returncode == 1
    assert "scores.csv: 3 rows" in told.stdout
    assert "3 places named above still know of the patient" in told.stderr
    done = run_cli("forget", "--patient", owner(3), "--delete-rows", "--json", *options)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["complete"] is True
    unknown = run_cli("forget", "--patient", "nobody-here", *options)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert unknown.stderr.startswith("error: nothing under these paths knows nobody-here")


def test_a_folder_is_no_key(tmp_path: Path) -> None:
    for key in (Path("."), Path("/"), tmp_path):
        with pytest.raises(StoreError, match=r"no key for the patient ids \(Is a directory\); give `key_file`"):
            gather_forgotten(tmp_path, key_file=key)
