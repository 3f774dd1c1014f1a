"""Imported vectors: what the file holds is what the store holds, and nothing of a bad file gets in."""

from __future__ import annotations

import csv
import gzip
import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path
from unittest.mock import Mock

import google_crc32c
import numpy as np
import pytest
from helpers import fill, run_cli
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_embed import open_store
from cxr_embed.encoders import load_text_encoder
from cxr_embed.errors import CxrEmbedError, EncoderError, StoreError
from cxr_embed.imports import import_prompts, import_vectors, open_npy, open_npy_folder, open_npz, open_tfrecord
from cxr_embed.imports.tfrecord import read_records
from cxr_embed.manifest import read_labels
from cxr_embed.store import Row, StoreWriter, read_prompts, verify_store
from cxr_embed.store.export import export_store
from cxr_embed.types import TextRule

CXR = ("--encoder", "cxr-foundation", "--output", "contrastive")
SIZE = 32 * 128


def tokens(number: int, size: int = SIZE) -> np.ndarray:
    """The flat float32 vector of image `number`."""
    return np.random.default_rng(number).standard_normal(size).astype(np.float32)


def save_google(path: Path, ids: list[str], size: int = SIZE, first: int = 0) -> Path:
    """An archive as Google publishes it: one flat array an image."""
    np.savez(path, **{image_id: tokens(number, size) for number, image_id in enumerate(ids, first)})
    return path


def bring(path: Path, store: Path, encoder: str = "cxr-foundation", output: str = "contrastive", **options: object):  # type: ignore[no-untyped-def]
    """Imports an `.npz` archive."""
    return import_vectors(open_npz(path), encoder, output, store, **options)  # type: ignore[arg-type]


# --- TFRecord files, written here byte by byte: the reader is not checked against itself.


def varint(value: int) -> bytes:
    parts = []
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(data)) + data


def feature(name: str, value: bytes) -> bytes:
    return field(1, field(1, name.encode()) + field(2, value))


def floats(values: np.ndarray, packed: bool = True) -> bytes:
    raw = values.astype("<f4")
    if packed:
        return field(2, field(1, raw.tobytes()))
    return field(2, b"".join(varint(1 << 3 | 5) + value.tobytes() for value in raw))


def example(image_id: str | None, values: np.ndarray, packed: bool = True) -> bytes:
    extra = feature("image/format", field(1, field(1, b"png"))) + feature("view", field(3, field(1, varint(2))))
    name = feature("image/id", field(1, field(1, image_id.encode()))) if image_id is not None else b""
    return field(1, extra + name + feature("embedding", floats(values, packed)))


def record(data: bytes) -> bytes:
    def masked(part: bytes) -> bytes:
        crc = google_crc32c.value(part)
        return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)

    length = struct.pack("<Q", len(data))
    return length + masked(length) + data + masked(data)


# --- npz


def test_google_layout_on_the_real_ids(real_data: Path, tmp_path: Path) -> None:
    manifest = real_data / "nih" / "manifest.csv"
    with open(manifest, newline="") as file:
        rows = list(csv.DictReader(file))
    ids = [row["image_id"] for row in rows]
    path = save_google(tmp_path / "google.npz", ids)
    command = ["import", "npz", str(path), *CXR, "--store", "cxr"]
    done = run_cli(*command, "--labels", str(manifest), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{len(ids):,} images: {len(ids):,} new, 0 unchanged; 32 x 128, float32" in done.stdout
    assert "zeroshot --labels" in done.stdout
    store = open_store(tmp_path / "cxr")
    assert store.ids.tolist() == ids
    assert store.patient_ids.tolist() == [row["patient_id"] for row in rows]
    assert store.spec.text == TextRule("contrastive", "elixr")
    assert store.spec.weights == ""
    for number in (0, 500, len(ids) - 1):
        np.testing.assert_array_equal(store.read([ids[number]]).vectors[0], tokens(number).reshape(32, 128))
    assert run_cli("store", "verify", "cxr", cwd=tmp_path).returncode == 0
    info = run_cli("store", "info", "cxr", cwd=tmp_path).stdout
    assert "imported from google.npz (SHA-256" in info
    assert "computed, not learned" not in info
    again = json.loads(run_cli(*command, "--json", cwd=tmp_path).stdout)
    assert (again["added"], again["unchanged"], again["without_patient"]) == (0, len(ids), 0)
    assert open_store(tmp_path / "cxr").shards == store.shards


@pytest.mark.parametrize("shape", [(SIZE,), (32, 128), (1, 32, 128), (1, SIZE)])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
def test_layouts_of_an_array(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    want = tokens(1).astype("f2").astype(dtype)
    np.savez(tmp_path / "a.npz", x=want.reshape(shape), y=np.asfortranarray(tokens(2).astype(dtype).reshape(32, 128)))
    summary = bring(tmp_path / "a.npz", tmp_path / "s")
    store = open_store(tmp_path / "s")
    assert store.header.dtype == ("float16" if dtype == "<f2" else "float32")
    assert summary.cast_from == ("float64" if dtype == "<f8" else None)
    np.testing.assert_array_equal(store.read(["x"]).vectors[0], want.reshape(32, 128))
    np.testing.assert_array_equal(store.read(["y"]).vectors[0], tokens(2).astype(dtype).reshape(32, 128))


def test_compressed_archives_and_exports_of_a_store(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "c.npz", **{f"i{n}": tokens(n) for n in range(5)})
    bring(tmp_path / "c.npz", tmp_path / "s", patient_pattern="i(.)")
    store = open_store(tmp_path / "s")
    export_store(store, tmp_path / "own.npz")
    summary = bring(tmp_path / "own.npz", tmp_path / "t")
    other = open_store(tmp_path / "t")
    assert (summary.added, summary.without_patient) == (5, 0)
    assert other.ids.tolist() == store.ids.tolist()
    assert other.patient_ids.tolist() == list("01234")
    np.testing.assert_array_equal(other.read().vectors, store.read().vectors)
    assert other.content_ids.tolist() == store.content_ids.tolist()


@pytest.mark.parametrize(
    ("encoder", "output", "size", "shape", "text"),
    [
        ("cxr-foundation", "general", 32 * 768, (32, 768), None),
        ("medsiglip-448", "image", 1152, (1152,), TextRule("image", "clip")),
        ("rad-dino", "pooled", 768, (768,), None),
        ("hf:some/clip", "image", 512, (512,), TextRule("image", "clip")),
        ("timm:resnet18", "features", 512, (512,), None),
        ("cxr-foundation-v1", "pooled", 1376, (1376,), None),
        ("package.module:make", "features", 7, (7,), None),
    ],
)
def test_encoders_of_the_table_and_others(
    tmp_path: Path, encoder: str, output: str, size: int, shape: tuple[int, ...], text: TextRule | None
) -> None:
    save_google(tmp_path / "a.npz", ["x", "y"], size)
    bring(tmp_path / "a.npz", tmp_path / "s", encoder, output)
    spec = open_store(tmp_path / "s").spec
    assert (spec.name, dict(spec.outputs), spec.text) == (encoder, {output: shape}, text)
    assert verify_store(tmp_path / "s") == []


def test_only_what_is_new_or_changed_is_written(tmp_path: Path) -> None:
    store = tmp_path / "s"
    bring(save_google(tmp_path / "a.npz", ["a", "b", "c"]), store)
    arrays = {"a": tokens(0), "b": tokens(77), "d": tokens(9), "twin": tokens(9)}
    np.savez(tmp_path / "b.npz", **arrays)
    summary = bring(tmp_path / "b.npz", store)
    assert (summary.images, summary.added, summary.replaced, summary.unchanged, summary.stored) == (4, 2, 1, 1, 5)
    opened = open_store(store)
    assert opened.describe()["vectors"] == 5  # a, b, c; the new b; d, which its twin shares
    for image_id, number in {"a": 0, "b": 77, "c": 2, "d": 9, "twin": 9}.items():
        np.testing.assert_array_equal(opened.read([image_id]).vectors[0].ravel(), tokens(number))
    assert list(opened.engines) == [
        f"imported from {name}.npz (SHA-256 {digest})" for name, digest in digests(tmp_path)
    ]
    assert verify_store(store) == []


def digests(folder: Path) -> list[tuple[str, str]]:
    import hashlib

    return [(name, hashlib.sha256((folder / f"{name}.npz").read_bytes()).hexdigest()[:16]) for name in "ab"]


def test_patients_come_from_labels_then_from_the_pattern_and_are_never_guessed(tmp_path: Path) -> None:
    path = save_google(tmp_path / "a.npz", ["01_0", "01_1", "02_0", "odd"])
    table = tmp_path / "labels.csv"
    table.write_text("image_id,patient_id,Effusion\n01_0,kim,1\nnowhere,lee,0\n")
    labels = read_labels(table)
    summary = bring(path, tmp_path / "s", labels=labels, patient_pattern=r"^(\d+)_")
    assert open_store(tmp_path / "s").patient_ids.tolist() == ["kim", "01", "02", ""]
    assert (summary.without_patient, summary.without_labels, summary.labels_without_vector) == (1, 3, 1)
    # What is known stays, what becomes known is written; the vectors are not written again.
    summary = bring(path, tmp_path / "s", patient_pattern="(odd)")
    assert open_store(tmp_path / "s").patient_ids.tolist() == ["kim", "01", "02", "odd"]
    assert (summary.replaced, summary.unchanged, summary.without_patient) == (1, 3, 0)
    assert open_store(tmp_path / "s").describe()["vectors"] == 4


def test_the_summary_says_what_is_not_known(tmp_path: Path) -> None:
    save_google(tmp_path / "a.npz", ["x"], 10)
    command = ["import", "npz", "a.npz", "--encoder", "cxr-foundatoin", "--output", "general", "--store", "s"]
    done = run_cli(*command, cwd=tmp_path)
    assert done.returncode == 0
    assert "the patient of 1 image is unknown (stored as blank)" in done.stderr
    assert "cxr-foundatoin is not in the encoder table (it has cxr-foundation)" in done.stderr
    assert json.loads(run_cli("store", "info", "s", "--json", cwd=tmp_path).stdout)["patients"] == 0


def test_imported_and_embedded_vectors_never_mix(tmp_path: Path) -> None:
    path = save_google(tmp_path / "a.npz", ["x"])
    bring(path, tmp_path / "s")
    imported = open_store(tmp_path / "s").spec
    with pytest.raises(EncoderError, match="imported"):
        load_text_encoder(imported)
    from cxr_embed.types import EncoderSpec

    embedded = EncoderSpec(
        name="cxr-foundation",
        revision="1",
        preprocessing="notebook",
        outputs=imported.outputs,
        weights="00" * 32,
        weights_source="here",
        text=imported.text,
    )
    with pytest.raises(StoreError, match=r"holds vectors of cxr-foundation \[\w+\], not of cxr-foundation"):
        StoreWriter(tmp_path / "s", embedded)
    StoreWriter(tmp_path / "e", embedded).close()
    with pytest.raises(StoreError, match=r"holds contrastive of cxr-foundation \[\w+\], not imported contrastive"):
        bring(path, tmp_path / "e")
    fill(tmp_path / "toy", range(3))
    with pytest.raises(StoreError, match="holds features, tokens of toy"):
        bring(path, tmp_path / "toy")
    with pytest.raises(StoreError, match="holds float32 vectors; use `dtype` float32"):
        bring(path, tmp_path / "s", dtype="float16")


def test_a_smaller_dtype_is_a_choice(tmp_path: Path) -> None:
    path = save_google(tmp_path / "a.npz", ["x"])
    assert bring(path, tmp_path / "s", dtype="float16").cast_from == "float32"
    np.testing.assert_array_equal(open_store(tmp_path / "s").read().vectors[0].ravel(), tokens(0).astype(np.float16))
    np.savez(tmp_path / "large.npz", x=np.full(SIZE, 1e6, np.float32))
    with pytest.raises(CxrEmbedError, match=r"'x': too large for float16; use `dtype=.float32.`"):
        bring(tmp_path / "large.npz", tmp_path / "t", dtype="float16")


def member(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array)
    return file.getvalue()


def save_members(path: Path, members: list[tuple[str, bytes]], packing: int = zipfile.ZIP_STORED) -> None:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in members:
            archive.writestr(name, data)


def bad_archives() -> dict[str, tuple[list[tuple[str, bytes]], str]]:
    good = member(tokens(0))
    with_nan = tokens(1)
    with_nan[7] = np.nan
    declared = good.replace(b"(4096,)", b"(4095,)")
    own = [("image_id.npy", member(np.array(["a", "b"]))), ("vectors.npy", member(np.stack([tokens(0), tokens(1)])))]
    bomb = member(np.zeros(50_000_000, np.float32))
    objects = io.BytesIO()
    np.save(objects, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return {
        "objects": ([("a.npy", good), ("b.npy", objects.getvalue())], "'b': holds Python objects"),
        "size": ([("a.npy", good), ("b.npy", member(tokens(0)[:-1]))], r"'b': shape \(4095,\), expected 32 x 128 \(or"),
        "turned": ([("a.npy", member(tokens(0).reshape(128, 32)))], r"'a': shape \(128, 32\), expected 32 x 128"),
        "nan": ([("a.npy", good), ("b.npy", member(with_nan))], "'b': has NaN or infinite values"),
        "infinite": ([("a.npy", member(np.full(SIZE, np.inf, np.float32)))], "'a': has NaN or infinite values"),
        "integers": ([("a.npy", member(np.ones(SIZE, np.int64)))], "'a': holds int64, not floating-point"),
        "text": ([("a.npy", member(np.array(["x"] * 9)))], "'a': holds <U1, not floating-point"),
        "no-array": ([("a.npy", good), ("b.npy", b"hello")], "'b': damaged, or no array"),
        "stranger": ([("a.npy", good), ("notes.txt", b"hello")], "'notes.txt' is not an array"),
        "cut": ([("a.npy", good[:-4])], "'a': not as many bytes as shape"),
        "lies": ([("a.npy", declared)], "'a': not as many bytes as shape"),
        "bomb": ([("a.npy", good), ("b.npy", bomb)], r"'b': shape \(50000000,\), expected 32 x 128"),
        "bomb-of-zeros": ([("a.npy", good), ("b.npy", bytes(50 << 20))], "'b': damaged, or no array"),
        "wide": ([("a.npy", member(tokens(0, 32 * 768)))], r"'a': shape \(24576,\), expected 32 x 128"),
        "blank": ([(".npy", good)], "the id is blank"),
        "long": ([("a" * 1025 + ".npy", good)], "the id is longer than 1,024 characters"),
        "control": ([("a\nb.npy", good)], "the id holds control characters"),
        "mixed": ([("a.npy", member(tokens(0).astype("f2"))), ("b.npy", good)], "'b': float32, the first .* float16"),
        "empty": ([], "the archive is empty"),
        "own-twice": ([("image_id.npy", member(np.array(["a", "a"]))), own[1]], "'a': the id stands twice"),
        "own-fewer": ([("image_id.npy", member(np.array(["a"]))), own[1]], r"image_id: <U1 \(1,\), expected 2 strings"),
        "own-numbers": (
            [("image_id.npy", member(np.arange(2))), own[1]],
            r"image_id: int64 \(2,\), expected 2 strings",
        ),
        "own-cut": ([own[0], ("vectors.npy", own[1][1][:-1])], "vectors: not as many bytes"),
        "own-none": ([own[0], ("vectors.npy", member(np.float32(3)))], r"vectors: shape \(\), order C; expected"),
        "own-size": ([own[0], ("vectors.npy", member(np.ones((2, 5), "f4")))], r"'a': shape \(5,\), expected 32"),
        "own-nobody": (
            [("image_id.npy", member(np.array([], "U1"))), ("vectors.npy", member(np.ones((0, 4096), "f4")))],
            "holds no vectors",
        ),
    }


@pytest.mark.parametrize("case", bad_archives())
def test_a_bad_archive_is_named_and_nothing_is_written(tmp_path: Path, case: str) -> None:
    members, words = bad_archives()[case]
    save_members(tmp_path / "a.npz", members, zipfile.ZIP_DEFLATED if case.startswith("bomb") else zipfile.ZIP_STORED)
    with pytest.raises(CxrEmbedError, match=words) as caught:
        bring(tmp_path / "a.npz", tmp_path / "s")
    assert str(caught.value).count("\n") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz"]


def test_a_bad_archive_leaves_a_store_as_it_was(tmp_path: Path) -> None:
    bring(save_google(tmp_path / "a.npz", ["a", "b"]), tmp_path / "s")
    before = {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()}
    np.savez(tmp_path / "b.npz", a=tokens(5), c=tokens(6), d=np.full(SIZE, np.nan, np.float32))
    with pytest.raises(CxrEmbedError, match="'d': has NaN"):
        bring(tmp_path / "b.npz", tmp_path / "s")
    assert {path: path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file()} == before


def test_the_same_key_twice_in_an_archive(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Duplicate name"):
        save_members(tmp_path / "a.npz", [("x.npy", member(tokens(0))), ("x.npy", member(tokens(1)))])
    with pytest.raises(CxrEmbedError, match="'x' stands there twice"):
        bring(tmp_path / "a.npz", tmp_path / "s")


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return open, (str(tmp_path / "sprung"), "w")  # type: ignore[return-value]

    array = np.empty(1, dtype=object)
    array[0] = Trap()
    np.savez(tmp_path / "a.npz", x=array)
    np.save(tmp_path / "a.npy", array)
    (tmp_path / "raw.npz").write_bytes(pickle.dumps(Trap()))
    (tmp_path / "ids.txt").write_text("x\n")
    (tmp_path / "sprung").unlink(missing_ok=True)
    with pytest.raises(CxrEmbedError, match="Python objects"):
        bring(tmp_path / "a.npz", tmp_path / "s")
    with pytest.raises(CxrEmbedError, match="Python objects"):
        open_npy(tmp_path / "a.npy", tmp_path / "ids.txt")
    with pytest.raises(CxrEmbedError, match=r"not an \.npz archive"):
        open_npz(tmp_path / "raw.npz")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["npz", "nowhere.npz", *CXR, "--store", "s"], "nowhere.npz: cannot be read (No such file"),
        (["npz", "empty.npz", *CXR, "--store", "s"], "empty.npz: the file is empty"),
        (["npz", "cut.npz", *CXR, "--store", "s"], "cut.npz: not an .npz archive, or cut short"),
        (["npz", "folder", *CXR, "--store", "s"], "folder: a folder, not a file"),
        (
            ["npz", "a.npz", "--encoder", "cxr-foundation", "--output", "tokens", "--store", "s"],
            "contrastive (32 x 128)",
        ),
        (["npz", "a.npz", "--encoder", "mine", "--output", "../up", "--store", "s"], "'../up' is not a name"),
        (["npz", "a.npz", *CXR, "--store", "file"], "file: cannot be written"),
        (
            ["npz", "a.npz", *CXR, "--store", "s", "--patient-pattern", "("],
            "--patient-pattern is not a regular expression",
        ),
        (["npz", "a.npz", *CXR, "--store", "s", "--patient-pattern", "a"], "--patient-pattern needs one group"),
        (["npz", "a.npz", *CXR, "--store", "s", "--labels", "no.csv"], "no.csv: no such file"),
        (["npy", "cut.npz", "--ids", "ids.txt", *CXR, "--store", "s"], "cut.npz: no .npy array"),
        (["tfrecord", "folder", *CXR, "--store", "s"], "folder: no file in this folder ends in .tfrecord"),
        (["prompts", "a.npz", "--encoder", "cxr-foundation", "--store", "s"], "no store here"),
    ],
    ids=lambda value: "" if isinstance(value, list) else value[:40],
)
def test_mistakes_on_the_command_line(tmp_path: Path, command: list[str], words: str) -> None:
    save_google(tmp_path / "a.npz", ["x"])
    (tmp_path / "empty.npz").touch()
    (tmp_path / "cut.npz").write_bytes((tmp_path / "a.npz").read_bytes()[:-30])
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("a file where a folder is meant")
    (tmp_path / "ids.txt").write_text("x\n")
    done = run_cli("import", *command, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") <= 2
    assert done.stdout == ""
    assert not (tmp_path / "s").exists()


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_damaged_archives_end_in_one_kind_of_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    packing = data.draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED]))
    members = [(f"{n}.npy", member(tokens(n, 4))) for n in range(2)]
    if data.draw(st.booleans()):
        own = {"image_id": np.array(["a", "b"]), "vectors": np.stack([tokens(0, 4), tokens(1, 4)])}
        members = [(f"{name}.npy", member(array)) for name, array in own.items()]
    save_members(folder / "a.npz", members, packing)
    raw = bytearray((folder / "a.npz").read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a.npz").write_bytes(raw[: data.draw(st.integers(1, len(raw)))] if data.draw(st.booleans()) else raw)
    try:
        bring(folder / "a.npz", folder / "s", "mine", "features")
    except CxrEmbedError:
        assert not (folder / "s").exists()
    else:
        vectors = {tuple(vector) for vector in open_store(folder / "s").read().vectors.tolist()}
        assert vectors <= {tuple(tokens(n, 4).tolist()) for n in range(2)}


# --- npy


def test_npy_with_ids_in_text_or_a_table(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.stack([tokens(n, 768) for n in range(4)]))
    (tmp_path / "ids.txt").write_text("a\nb/1\nü\nd\n", encoding="utf-8")
    (tmp_path / "ids.csv").write_text('image_id,note,patient_id\na,"x, y",p1\nb/1,,p1\nü,,\nd,,p2\n', encoding="utf-8")
    (tmp_path / "excel.csv").write_text("sep=;\nimage_id;patient_id\na;p1\nb/1;p1\nü;\nd;p2\n", encoding="utf-16")
    import_vectors(open_npy(tmp_path / "v.npy", tmp_path / "excel.csv"), "rad-dino", "pooled", tmp_path / "excel")
    assert open_store(tmp_path / "excel").patient_ids.tolist() == ["p1", "p1", "", "p2"]
    options = ["--encoder", "rad-dino", "--output", "pooled", "--json"]
    for ids, patients in (("ids.txt", ["", "", "", ""]), ("ids.csv", ["p1", "p1", "", "p2"])):
        done = run_cli("import", "npy", "v.npy", "--ids", ids, *options, "--store", f"s-{ids}", cwd=tmp_path)
        assert done.returncode == 0
        assert json.loads(done.stdout)["without_patient"] == patients.count("")
        store = open_store(tmp_path / f"s-{ids}")
        assert store.ids.tolist() == ["a", "b/1", "ü", "d"]
        assert store.patient_ids.tolist() == patients
        np.testing.assert_array_equal(store.read().vectors, np.load(tmp_path / "v.npy"))


@pytest.mark.parametrize(
    ("ids", "array", "words"),
    [
        ("a\nb\n", np.ones((3, 768), "f4"), "has 3 vectors, .* has 2 ids"),
        ("a\nb\na\n", np.ones((3, 768), "f4"), r"'a' \(row 2\): the id stands twice"),
        ("a\n\nc\n", np.ones((3, 768), "f4"), "no id in row 2 of 3"),
        ("a\n", np.ones((1, 767), "f4"), r"'a' \(row 0\): shape \(767,\), expected 768 numbers"),
        ("a\n", np.ones(768, "f4"), r"shape \(768,\); expected \(N, ...\)"),
        ("a\n", np.full((1, 768), np.nan), r"'a' \(row 0\): has NaN or infinite"),
        ("a\n", np.ones((1, 768), "i4"), r"'a' \(row 0\): holds int32"),
        ("\xff", np.ones((1, 768), "f4"), "not a list of ids in UTF-8"),
    ],
)
def test_bad_arrays_and_ids(tmp_path: Path, ids: str, array: np.ndarray, words: str) -> None:
    np.save(tmp_path / "v.npy", array)
    (tmp_path / "ids.txt").write_bytes(ids.encode("latin-1"))
    with pytest.raises(CxrEmbedError, match=words):
        import_vectors(open_npy(tmp_path / "v.npy", tmp_path / "ids.txt"), "rad-dino", "pooled", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_a_folder_of_npy_files_one_an_image(tmp_path: Path) -> None:
    folder = tmp_path / "features"
    (folder / "p1").mkdir(parents=True)
    (folder / ".cache").mkdir()
    vectors = {"a": tokens(0, 768), "p1/b.c": tokens(1, 768)[None], "p1/\u00fc": tokens(2, 768)[None]}
    vectors["a"] = vectors["a"][None]
    for name, vector in vectors.items():
        np.save(folder / f"{name}.npy", vector)
    for name in (".hidden.npy", ".cache/x.npy", "notes.txt"):
        (folder / name).write_text("no array")
    options = ["--encoder", "rad-dino", "--output", "pooled", "--store", "s", "--patient-pattern", "(p1)/"]
    done = run_cli("import", "npy", "features", *options, cwd=tmp_path)
    assert done.returncode == 0
    assert "features: 3 images: 3 new, 0 unchanged; 768, float32" in done.stdout
    store = open_store(tmp_path / "s")
    assert store.ids.tolist() == list(vectors)
    assert store.patient_ids.tolist() == ["", "p1", "p1"]
    np.testing.assert_array_equal(store.read().vectors, np.concatenate(list(vectors.values())))
    np.save(folder / "p1/b.c.npy", tokens(5, 768)[None])
    again = import_vectors(open_npy_folder(folder), "rad-dino", "pooled", tmp_path / "s")
    assert (again.unchanged, again.replaced) == (2, 1)


def test_bad_files_of_a_folder_are_named_and_nothing_is_written(tmp_path: Path) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    with pytest.raises(CxrEmbedError, match=r"f: no \.npy file in this folder"):
        open_npy_folder(folder)
    for number in range(4):
        np.save(folder / f"{number}.npy", tokens(number, 8))
    (folder / "cut.npy").write_bytes((folder / "0.npy").read_bytes()[:-1])
    (folder / "empty.npy").touch()
    np.save(folder / "half.npy", tokens(1, 8).astype(np.float16))
    np.save(folder / "long.npy", tokens(1, 9))
    np.save(folder / "pickle.npy", np.array([{}]), allow_pickle=True)
    np.save(folder / "zz.npy", tokens(1, 9))
    with pytest.raises(CxrEmbedError) as caught:
        open_npy_folder(folder)
    told = str(caught.value)
    assert "6 of 10 files cannot be imported: cut.npy: no .npy array, or cut short" in told
    assert (
        "empty.npy: the file is empty; half.npy: (8,) float16, while 4 files have (8,) float32; long.npy: (9,)" in told
    )
    assert told.endswith("pickle.npy: holds Python objects (a pickle), which are never loaded; and 1 more")
    for name in ("cut", "empty", "half", "long", "pickle", "zz"):
        (folder / f"{name}.npy").unlink()
    np.save(folder / "3.npy", np.full(8, np.nan, np.float32))
    with pytest.raises(CxrEmbedError, match=r"3\.npy: has NaN or infinite values"):
        import_vectors(open_npy_folder(folder), "mine", "features", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_zero_vectors_are_told(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.array([[0, 0], [1, 0], [1e-9, 0]]))
    (tmp_path / "ids.txt").write_text("a\nb\nc\n")
    command = ["import", "npy", "v.npy", "--ids", "ids.txt", "--encoder", "mine", "--output", "features"]
    done = run_cli(*command, "--store", "s", "--dtype", "float16", cwd=tmp_path)
    assert done.returncode == 0
    assert "note: the vector of 2 images is zero: they have no direction (a, c); imported all the same" in done.stderr
    told = json.loads(run_cli(*command, "--store", "t", "--json", cwd=tmp_path).stdout)
    assert told["zero_vectors"] == ["a"]


@pytest.mark.parametrize(("file", "ids"), [("v.npy", []), ("folder", ["--ids", "ids.txt"])])
def test_ids_go_with_one_array(tmp_path: Path, file: str, ids: list[str]) -> None:
    (tmp_path / "folder").mkdir()
    options = ["--encoder", "mine", "--output", "features", "--store", "s"]
    done = run_cli("import", "npy", file, *ids, *options, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--ids" in done.stderr


def test_a_cut_array_and_a_table_without_ids(tmp_path: Path) -> None:
    np.save(tmp_path / "v.npy", np.ones((3, 768), "f4"))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "v.npy").read_bytes()[:-1])
    (tmp_path / "ids.csv").write_text("id,patient\na,b\n")
    with pytest.raises(CxrEmbedError, match=r"no \.npy array, or cut short"):
        open_npy(tmp_path / "cut.npy", tmp_path / "ids.csv")
    with pytest.raises(CxrEmbedError, match="no column image_id; it has id, patient"):
        open_npy(tmp_path / "v.npy", tmp_path / "ids.csv")


# --- TFRecord


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_tfrecord_files_and_folders(tmp_path: Path, packed: bool, zipped: bool) -> None:
    ids = ["gs://bucket/nih/00000001_000.png", "1.2.840.113619", "plain"]
    data = b"".join(record(example(image_id, tokens(n), packed)) for n, image_id in enumerate(ids))
    (tmp_path / "in" / "p10").mkdir(parents=True)
    name = "some.tfrecord.gz" if zipped else "some.tfrecord"
    (tmp_path / "in" / name).write_bytes(gzip.compress(data) if zipped else data)
    (tmp_path / "in" / "p10" / "alone.tfrecord").write_bytes(record(example(None, tokens(3), packed)))
    (tmp_path / "in" / "index.html").write_text("not for us")
    done = run_cli("import", "tfrecord", "in", *CXR, "--store", "s", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    store = open_store(tmp_path / "s")
    numbers = {"00000001_000": 0, "1.2.840.113619": 1, "plain": 2, "alone": 3}
    assert set(store.ids.tolist()) == set(numbers)
    for image_id, number in numbers.items():
        np.testing.assert_array_equal(store.read([image_id]).vectors[0].ravel(), tokens(number))
    assert any("and 1 more" in engine for engine in store.engines)


def test_a_record_as_long_as_a_gzip_file_begins_is_no_gzip_file(tmp_path: Path) -> None:
    filler = field(9, bytes(0x8B1F - 4))
    data = record(filler)
    assert data[:2] == b"\x1f\x8b"
    (tmp_path / "a.tfrecord").write_bytes(data)
    assert list(read_records(tmp_path / "a.tfrecord")) == [filler]


def bad_records() -> dict[str, tuple[bytes, str]]:
    good = record(example("a", tokens(0)))
    flipped = bytearray(good + record(example("b", tokens(1))))
    flipped[len(good) + 700] ^= 1
    return {
        "cut": (good + good[:-9], r"record 2: the file ends in it, 16,\d+ of 16,\d+ bytes are there"),
        "cut-header": (good + good[:7], "record 2: the file ends in its header"),
        "flipped": (bytes(flipped), "record 2: its checksum differs, its bytes have changed"),
        "other-file": (b"image_id,a,b,c,d\n", "record 1: its header's checksum differs; .* or no TFRecord file"),
        "long": (record_header(1 << 40) + b"x", "record 1: declares 1,099,511,627,776 bytes"),
        "gzip-cut": (gzip.compress(good)[:-12], "record 1: the gzip data is damaged or cut short"),
        "twice": (good + good, r"record 2 \('a'\): the id stands twice"),
        "nameless": (good + record(example(None, tokens(1))), "2 records, one of them without 'image/id'"),
        "short": (record(example("a", tokens(0)[:9])), r"record 1 \('a'\): shape \(9,\), expected 32 x 128"),
        "no-floats": (record(field(1, feature("image/id", field(1, field(1, b"a"))))), "no floats 'embedding'"),
        "no-example": (record(b"\x0a\xff\xff"), "record 1: no tf.train.Example"),
        "nan": (record(example("a", tokens(0) * np.float32("nan"))), "has NaN or infinite values"),
    }


def record_header(length: int) -> bytes:
    packed = struct.pack("<Q", length)
    crc = google_crc32c.value(packed)
    return packed + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


@pytest.mark.parametrize("case", bad_records())
def test_a_bad_record_is_named_and_nothing_is_written(tmp_path: Path, case: str) -> None:
    data, words = bad_records()[case]
    path = tmp_path / "a.tfrecord"
    path.write_bytes(data)
    with pytest.raises(CxrEmbedError, match=words) as caught:
        import_vectors(open_tfrecord([path]), "cxr-foundation", "contrastive", tmp_path / "s")
    assert str(caught.value).startswith(str(path))
    assert not (tmp_path / "s").exists()


def test_every_flipped_bit_of_a_record_is_found(tmp_path: Path) -> None:
    data = record(example("a", tokens(0, 4)))
    path = tmp_path / "a.tfrecord"
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(CxrEmbedError, match="record 1"):
            list(read_records(path))


@settings(max_examples=200, deadline=None)
@given(message=st.binary(max_size=200) | st.binary(max_size=40).map(lambda data: field(1, feature("embedding", data))))
def test_any_bytes_with_a_right_checksum_end_in_one_kind_of_error(
    tmp_path_factory: pytest.TempPathFactory, message: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "a.tfrecord"
    path.write_bytes(record(message))
    try:
        found = list(open_tfrecord([path]).read(None))
    except CxrEmbedError:
        return
    assert [vector.array.dtype for vector in found] == [np.dtype(np.float32)]


WRITE_WITH_TENSORFLOW = """
import sys
import numpy as np
import tensorflow as tf

for kind, name in (("", "plain.tfrecord"), ("GZIP", "packed.tfrecord.gz")):
    with tf.io.TFRecordWriter(name, kind) as writer:
        for number in range(3):
            values = np.random.default_rng(number).standard_normal(4096).astype(np.float32)
            features = {
                "image/id": tf.train.Feature(bytes_list=tf.train.BytesList(value=[f"gs://b/{kind}{number}.png".encode()])),
                "image/format": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"png"])),
                "embedding": tf.train.Feature(float_list=tf.train.FloatList(value=values)),
            }
            writer.write(tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString())
"""


def test_files_that_tensorflow_wrote(tmp_path: Path) -> None:
    if find_spec("tensorflow") is None:
        pytest.skip("needs tensorflow: pip install 'cxr-embed[cxr-foundation]'")
    subprocess.run([sys.executable, "-c", WRITE_WITH_TENSORFLOW], cwd=tmp_path, check=True, capture_output=True)
    paths = [tmp_path / "plain.tfrecord", tmp_path / "packed.tfrecord.gz"]
    import_vectors(open_tfrecord(paths), "cxr-foundation", "contrastive", tmp_path / "s")
    store = open_store(tmp_path / "s")
    assert store.ids.tolist() == ["0", "1", "2", "GZIP0", "GZIP1", "GZIP2"]
    for image_id in store.ids.tolist():
        np.testing.assert_array_equal(store.read([image_id]).vectors[0].ravel(), tokens(int(image_id[-1])))


# --- prompts


def test_prompts_come_in_and_belong_to_the_store_s_encoder(tmp_path: Path) -> None:
    bring(save_google(tmp_path / "a.npz", ["x"]), tmp_path / "s")
    texts = ["small pneumothorax", "no pneumothorax", "mass/nodule, 3 mm"]
    path = save_google(tmp_path / "prompts.npz", texts, 128)
    command = ["import", "prompts", "prompts.npz", "--encoder", "cxr-foundation", "--store", "s", "--json"]
    for _ in range(2):
        done = run_cli(*command, cwd=tmp_path)
        assert json.loads(done.stdout) == {"prompts": 3, "stored": 3}
    held = read_prompts(open_store(tmp_path / "s"))
    assert held.prompts == tuple(texts)
    np.testing.assert_array_equal(held.vectors, np.stack([tokens(n, 128) for n in range(3)]))
    assert all("imported from prompts.npz (SHA-256" in source for source in held.sources)
    with pytest.raises(
        StoreError, match=r"holds vectors of cxr-foundation \[\w+\], the prompts are said to be of medsig"
    ):
        import_prompts(path, "medsiglip-448", tmp_path / "s")
    with pytest.raises(CxrEmbedError, match=r"'wide': shape \(4096,\), expected 128 numbers"):
        import_prompts(save_google(tmp_path / "wide.npz", ["wide"]), "cxr-foundation", tmp_path / "s")
    assert verify_store(tmp_path / "s") == []


def test_prompts_need_a_store_with_text(tmp_path: Path) -> None:
    bring(save_google(tmp_path / "a.npz", ["x"], 32 * 768), tmp_path / "s", output="general")
    path = save_google(tmp_path / "prompts.npz", ["mass"], 768)
    with pytest.raises(StoreError, match="which no prompt can be compared with"):
        import_prompts(path, "cxr-foundation", tmp_path / "s")


def test_zero_shot_without_any_model(real_data: Path, tmp_path: Path) -> None:
    """Google's vectors and Google's prompts in, scores out: the largest cosine over the tokens, positive - negative."""
    with open(real_data / "nih" / "manifest.csv", newline="") as file:
        ids = [row["image_id"] for row in csv.DictReader(file)][:50]
    save_google(tmp_path / "images.npz", ids)
    save_google(tmp_path / "prompts.npz", ["small pneumothorax", "no pneumothorax"], 128, first=1000)
    (tmp_path / "ask.yaml").write_text(
        "findings: {Pneumothorax: {positive: [small pneumothorax], negative: [no pneumothorax]}}"
    )
    for command in (
        ["import", "npz", "images.npz", *CXR, "--store", "s"],
        ["import", "prompts", "prompts.npz", "--encoder", "cxr-foundation", "--store", "s"],
        ["zeroshot", "s", "--prompts", "ask.yaml", "--out", "scores.csv"],
    ):
        done = run_cli(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    with open(tmp_path / "scores.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["image_id"] for row in rows] == ids
    positive, negative = (tokens(number, 128) / np.linalg.norm(tokens(number, 128)) for number in (1000, 1001))
    for number, row in enumerate(rows):
        image = tokens(number).reshape(32, 128)
        image /= np.linalg.norm(image, axis=1, keepdims=True)
        assert float(row["Pneumothorax"]) == pytest.approx(
            (image @ positive).max() - (image @ negative).max(), abs=1e-5
        )


# --- the store side


def test_a_killed_import_goes_on_where_it_was(tmp_path: Path) -> None:
    """What a first run published before it died is not written again."""
    path = save_google(tmp_path / "a.npz", [f"i{n}" for n in range(6)])
    bring(save_google(tmp_path / "part.npz", ["i0", "i1", "i2"]), tmp_path / "s")
    shards = open_store(tmp_path / "s").shards
    with StoreWriter(tmp_path / "s", open_store(tmp_path / "s").spec) as writer:
        writer.add_row(Row(image_id="i3", patient_id="", content=b"\1" * 32))  # buffered, never published
    summary = bring(path, tmp_path / "s")
    assert (summary.added, summary.unchanged) == (3, 3)
    assert open_store(tmp_path / "s").shards == shards + 1
    assert verify_store(tmp_path / "s") == []


def test_a_file_that_changes_while_it_is_imported(tmp_path: Path) -> None:
    path = save_google(tmp_path / "a.npz", ["x", "y"])

    def swap(doing: str, done: int, total: int | None) -> None:
        if (doing, done, total) == ("checking", 2, 2):
            save_google(path, ["x", "y"], first=5)

    with pytest.raises(CxrEmbedError, match="changed while it was imported; run it again"):
        bring(path, tmp_path / "s", progress=swap)


def test_ctrl_c_says_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from cxr_embed.cli import app

    monkeypatch.setattr("cxr_embed.imports.import_vectors", Mock(side_effect=KeyboardInterrupt))
    path = save_google(tmp_path / "a.npz", ["x"])
    done = CliRunner().invoke(app, ["import", "npz", str(path), *CXR, "--store", str(tmp_path / "s")])
    assert done.exit_code == 130
    assert "what was stored is safe; run the same command to go on" in done.output
