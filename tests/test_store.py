"""The store: what goes in comes out, by id; damage is found and named; wrong use is refused."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import SPEC, content, fill, row, run_cli, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_embed import open_store
from cxr_embed.errors import StoreError
from cxr_embed.store import Row, StoreWriter, verify_store
from cxr_embed.store.export import export_store
from cxr_embed.store.layout import ROW_SCHEMA
from cxr_embed.store.presence import alone
from cxr_embed.types import EncoderSpec


def expected(numbers: list[int], output: str, dtype: str = "float16") -> np.ndarray:
    return np.stack([vectors(number)[output] for number in numbers]).astype(dtype)


def test_vectors_come_back_by_id_in_any_order(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(35))
    store = open_store(tmp_path / "s")
    assert len(store) == 35
    assert store.shards == 4
    assert store.ids.tolist() == [f"i{n}" for n in range(35)]
    assert store.patient_ids.tolist() == [f"p{n // 2}" for n in range(35)]
    order = [34, 0, 17, 17, 9, 10]
    for output in SPEC.outputs:
        embeddings = store.read([f"i{n}" for n in order], output=output)
        assert embeddings.ids.tolist() == [f"i{n}" for n in order]
        np.testing.assert_array_equal(embeddings.vectors, expected(order, output))
    whole = store.read()
    np.testing.assert_array_equal(whole.vectors, expected(list(range(35)), "features"))
    assert whole.spec.fingerprint == SPEC.fingerprint
    assert verify_store(tmp_path / "s") == []


def test_float32_is_exact_and_batches_join_to_the_whole(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(25), dtype="float32")
    store = open_store(tmp_path / "s")
    parts = list(store.batches(size=7, output="tokens"))
    assert [len(part) for part in parts] == [7, 7, 7, 4]
    joined = np.concatenate([part.vectors for part in parts])
    np.testing.assert_array_equal(joined, expected(list(range(25)), "tokens", "float32"))
    assert np.concatenate([part.ids for part in parts]).tolist() == store.ids.tolist()


def test_an_empty_store_is_a_store(tmp_path: Path) -> None:
    StoreWriter(tmp_path / "s", SPEC).close()
    store = open_store(tmp_path / "s")
    assert len(store) == 0
    assert store.read().vectors.shape == (0, 4)
    assert store.patient_ids.shape == store.content_ids.shape == (0,)
    assert list(store.batches()) == []
    assert verify_store(tmp_path / "s") == []
    with pytest.raises(StoreError, match="no vector for 1 of 1 ids: i0"):
        store.read(["i0"])


def test_known_content_needs_no_vector_of_its_own(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(5))
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        assert writer.index.find_content(content(3)) is not None
        assert writer.index.find_content(content(99)) is None
        writer.add_row(Row(image_id="copy", patient_id="p9", content=content(3)))
        writer.flush("")
    store = open_store(tmp_path / "s")
    assert len(store) == 6
    np.testing.assert_array_equal(store.read(["copy"]).vectors, expected([3], "features"))
    assert store.patient_ids[-1] == "p9"
    assert store.describe()["vectors"] == 5


def test_new_content_of_an_image_replaces_its_vector(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(5))
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.add_vector(Row(image_id="i2", patient_id="p1", content=content(77)), vectors(77))
        writer.flush("toy engine")
    store = open_store(tmp_path / "s")
    assert len(store) == 5
    np.testing.assert_array_equal(store.read(["i2", "i3"]).vectors, expected([77, 3], "features"))


def test_a_missing_file_keeps_its_vector_and_a_broken_one_loses_it(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(4))
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.add_row(
            Row(image_id="i1", patient_id="p0", content=None, error_kind="missing", error="the file does not exist")
        )
        writer.add_row(
            Row(image_id="i2", patient_id="p1", content=content(50), error_kind="truncated", error="ends early")
        )
        writer.add_row(
            Row(image_id="i9", patient_id="p4", content=content(51), error_kind="empty", error="the file is empty")
        )
        writer.flush("")
    store = open_store(tmp_path / "s")
    assert store.ids.tolist() == ["i0", "i1", "i3"]
    assert len(store) == 3
    assert [(f.image_id, f.kind) for f in store.failures] == [("i1", "missing"), ("i2", "truncated"), ("i9", "empty")]
    assert verify_store(tmp_path / "s") == []
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.add_vector(row(2), vectors(2))
        writer.add_row(row(1))
        writer.flush("toy engine")
    again = open_store(tmp_path / "s")
    assert sorted(again.ids.tolist()) == ["i0", "i1", "i2", "i3"]
    assert [f.image_id for f in again.failures] == ["i9"]
    assert verify_store(tmp_path / "s") == []


OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["vector", "copy", "missing", "broken", "flush"]), st.integers(0, 5), st.integers(0, 5)),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(operations=OPERATIONS)
def test_any_sequence_of_rows_agrees_with_a_plain_dictionary(
    tmp_path_factory: pytest.TempPathFactory, operations: list[tuple[str, int, int]]
) -> None:
    """The fold of shards against the obvious implementation: one dictionary that is changed step by step."""
    path = tmp_path_factory.mktemp("fold") / "s"
    state: dict[str, int] = {}
    failed: dict[str, str] = {}
    known: set[int] = set()
    with StoreWriter(path, SPEC) as writer:
        touched: set[int] = set()
        for what, image, number in operations:
            if image in touched or what == "flush":  # a run settles an image once
                writer.flush("toy")
                touched.clear()
            if what == "flush":
                continue
            touched.add(image)
            name = f"i{image}"
            if what == "missing":
                writer.add_row(Row(image_id=name, patient_id="p", content=None, error_kind="missing", error="gone"))
                failed[name] = "missing"
            elif what == "broken":
                writer.add_row(
                    Row(image_id=name, patient_id="p", content=content(100 + number), error_kind="corrupt", error="bad")
                )
                state.pop(name, None)
                failed[name] = "corrupt"
            else:
                if what == "vector" and number not in known:
                    writer.add_vector(Row(image_id=name, patient_id="p", content=content(number)), vectors(number))
                    known.add(number)
                elif number in known:
                    writer.add_row(Row(image_id=name, patient_id="p", content=content(number)))
                else:
                    continue
                state[name] = number
                failed.pop(name, None)
        writer.flush("toy")
    store = open_store(path)
    assert len(store) == len(state)
    assert {f.image_id: f.kind for f in store.failures} == failed
    embeddings = store.read()
    assert sorted(embeddings.ids.tolist()) == sorted(state)
    for image_id, vector in zip(embeddings.ids.tolist(), embeddings.vectors, strict=True):
        np.testing.assert_array_equal(vector, vectors(state[image_id])["features"].astype(np.float16))
    assert verify_store(path) == []


def test_another_encoder_cannot_mix_in(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(3))
    other = EncoderSpec(name="toy", revision="2", preprocessing="none", outputs=SPEC.outputs)
    with pytest.raises(StoreError, match=r"holds vectors of toy \[\w{12}\], not of toy"):
        StoreWriter(tmp_path / "s", other)
    for option, match in (({"dtype": "float32"}, "`dtype` float16"), ({"precision": "bf16"}, "`precision` float32")):
        with pytest.raises(StoreError, match=match):
            StoreWriter(tmp_path / "s", SPEC, **option)  # type: ignore[arg-type]
    fill(tmp_path / "s", range(3, 5))
    assert len(open_store(tmp_path / "s")) == 5


@pytest.mark.parametrize("option", [{"dtype": "float64"}, {"dtype": "half"}, {"precision": "fp8"}])
def test_unknown_kinds_of_numbers_make_no_store(tmp_path: Path, option: dict[str, str]) -> None:
    with pytest.raises(StoreError, match=r" or .*, not "):
        StoreWriter(tmp_path / "s", SPEC, **option)  # type: ignore[arg-type]
    assert not (tmp_path / "s").exists()


def test_every_part_of_a_spec_but_its_note_is_in_the_fingerprint() -> None:
    base = EncoderSpec(
        name="toy",
        revision="1",
        preprocessing="none",
        outputs={"a": (4,), "b": (2, 2)},
        weights="00",
        weights_source="here",
    )
    changed = [
        EncoderSpec(name="toz", revision="1", preprocessing="none", outputs={"a": (4,), "b": (2, 2)}, weights="00"),
        EncoderSpec(name="toy", revision="2", preprocessing="none", outputs={"a": (4,), "b": (2, 2)}, weights="00"),
        EncoderSpec(name="toy", revision="1", preprocessing="crop", outputs={"a": (4,), "b": (2, 2)}, weights="00"),
        EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"a": (5,), "b": (2, 2)}, weights="00"),
        EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"b": (2, 2), "a": (4,)}, weights="00"),
        EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"a": (4,), "b": (2, 2)}, weights="01"),
    ]
    assert len({spec.fingerprint for spec in [base, *changed]}) == len(changed) + 1
    assert (
        EncoderSpec(
            name="toy", revision="1", preprocessing="none", outputs=base.outputs, weights="00", weights_source="there"
        ).fingerprint
        == base.fingerprint
    )
    assert EncoderSpec.from_json(json.loads(json.dumps(base.to_json()))) == base


def test_wrong_vectors_are_refused(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        with pytest.raises(StoreError, match=r"features has shape \(5,\), the store holds \(4,\)"):
            writer.add_vector(row(0), {**vectors(0), "features": np.zeros(5)})
        with pytest.raises(StoreError, match="not finite"):
            writer.add_vector(row(0), {**vectors(0), "features": np.array([1, 2, np.nan, 0])})
        with pytest.raises(StoreError, match="not finite in float16"):
            writer.add_vector(row(0), {**vectors(0), "features": np.array([1, 2, 1e6, 0])})
        assert writer.pending == 0


@pytest.mark.parametrize("bad", ["output", "ids"])
def test_unknown_names_are_named(tmp_path: Path, bad: str) -> None:
    fill(tmp_path / "s", range(3))
    store = open_store(tmp_path / "s")
    if bad == "output":
        with pytest.raises(StoreError, match="no output 'general'; it has features, tokens"):
            store.read(output="general")
    else:
        with pytest.raises(StoreError, match=r"no vector for 7 of 8 ids: x0, x1, x2, x3, x4, \.\.\."):
            store.read(["i0", *(f"x{n}" for n in range(7))])


def test_no_store_here(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no store here"):
        open_store(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="a folder with other files"):
        StoreWriter(tmp_path, SPEC)
    with pytest.raises(StoreError, match="cannot be written"):
        StoreWriter(tmp_path / "file" / "s", SPEC)


def every_file(path: Path) -> list[Path]:
    return sorted(p for p in path.rglob("*") if p.is_file() and p.name != "writer.lock")


def test_a_flipped_bit_anywhere_is_found_and_named(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(30))
    rng = np.random.default_rng(0)
    files = every_file(tmp_path / "s")
    assert len(files) == 1 + 3 * 5
    for file in files:
        data = file.read_bytes()
        for at in {0, len(data) - 1, *rng.integers(0, len(data), 6).tolist()}:
            damaged = bytearray(data)
            damaged[at] ^= 1 << int(rng.integers(8))
            file.write_bytes(bytes(damaged))
            if file.name == "store.json":
                with pytest.raises(StoreError, match=r"store\.json"):
                    verify_store(tmp_path / "s")
            else:
                found = verify_store(tmp_path / "s")
                assert {damage.where for damage in found} == {file.parent.name}, (file, at)
        file.write_bytes(data)
    assert verify_store(tmp_path / "s") == []


@pytest.mark.parametrize("opening", [lambda path: open_store(path).ids, lambda path: StoreWriter(path, SPEC).close()])
def test_damaged_rows_are_never_used(tmp_path: Path, opening: Callable[[Path], object]) -> None:
    fill(tmp_path / "s", range(10))
    (rows,) = (tmp_path / "s" / "shards").glob("*/rows.arrow")
    data = rows.read_bytes()
    # Ten offsets of the ids, then the ids: the first would end the process, the second would go unseen.
    ids = data.index(b"i0i1i2i3")
    for at in (ids - 30, ids + 5):
        damaged = bytearray(data)
        damaged[at] ^= 1
        rows.write_bytes(bytes(damaged))
        with pytest.raises(StoreError, match=rf"{rows.parent.name}: rows\.arrow is damaged"):
            opening(tmp_path / "s")
    rows.write_bytes(data)
    opening(tmp_path / "s")


def test_what_cannot_be_read_is_named_too(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(30))
    victim = sorted((tmp_path / "s" / "shards").iterdir())[1] / "features.npy"
    victim.unlink()
    victim.mkdir()
    found = verify_store(tmp_path / "s")
    assert [(fault.where, fault.what) for fault in found] == [
        (victim.parent.name, "features.npy cannot be read (Is a directory)")
    ]
    shutil.rmtree(tmp_path / "s" / "shards")
    with pytest.raises(StoreError, match="the folder shards is missing"):
        verify_store(tmp_path / "s")
    (tmp_path / "s" / "shards").touch()
    for use in (verify_store, lambda path: len(open_store(path))):
        with pytest.raises(StoreError, match="cannot be read"):
            use(tmp_path / "s")


@pytest.mark.parametrize("how", ["cut", "remove", "remove-shard", "swap", "stranger"])
def test_lost_and_misplaced_files_are_found(tmp_path: Path, how: str) -> None:
    fill(tmp_path / "s", range(30))
    shards = sorted((tmp_path / "s" / "shards").iterdir())
    victim = shards[1]
    if how == "cut":
        os.truncate(victim / "features.npy", 100)
    elif how == "remove":
        (victim / "rows.arrow").unlink()
    elif how == "remove-shard":
        shutil.rmtree(victim)
    elif how == "swap":
        shutil.copy(shards[0] / "features.npy", victim / "features.npy")
    else:
        (victim / "notes.txt").write_text("x")
    found = verify_store(tmp_path / "s")
    assert found
    assert all(damage.where.startswith("00000001") for damage in found)
    if how in ("cut", "remove", "remove-shard"):
        with pytest.raises(StoreError, match="00000001" if how != "remove-shard" else "no vector"):
            open_store(tmp_path / "s").read([f"i{n}" for n in range(30)])


def test_verify_and_info_on_the_command_line(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(30))
    done = run_cli("store", "verify", str(tmp_path / "s"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "sound; 30 images in 3 shards" in done.stdout
    info = json.loads(run_cli("store", "info", str(tmp_path / "s"), "--json").stdout)
    assert (info["images"], info["vectors"], info["shards"], info["dtype"]) == (30, 30, 3, "float16")
    assert info["engines"] == {"toy engine": 30}
    shard = sorted((tmp_path / "s" / "shards").iterdir())[2]
    data = bytearray((shard / "tokens.npy").read_bytes())
    data[-3] ^= 4
    (shard / "tokens.npy").write_bytes(bytes(data))
    done = run_cli("store", "verify", str(tmp_path / "s"))
    assert done.returncode == 1
    assert shard.name in done.stderr
    assert "tokens.npy: checksum differs" in done.stderr
    told = json.loads(run_cli("store", "verify", str(tmp_path / "s"), "--json").stdout)
    assert told["sound"] is False
    assert told["damage"][0]["where"] == shard.name


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(3))
    header = tmp_path / "s" / "store.json"
    header.write_text(header.read_text().replace('"version": 1', '"version": 2'))
    with pytest.raises(StoreError, match="format version 2; this release reads 1"):
        open_store(tmp_path / "s")


def test_a_reader_keeps_its_view_while_a_writer_goes_on(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(10))
    store = open_store(tmp_path / "s")
    fill(tmp_path / "s", range(10, 20))
    assert len(store) == 10
    assert store.read().vectors.shape == (10, 4)
    assert len(open_store(tmp_path / "s")) == 20


HOLD = """
import sys
sys.path.insert(0, sys.argv[2])
from helpers import SPEC
from cxr_embed.store import StoreWriter
writer = StoreWriter(sys.argv[1], SPEC)
print("held", flush=True)
sys.stdin.read()
"""


def test_a_second_writer_comes_in_what_is_alone_waits_and_a_dead_writer_keeps_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path / "s"), str(Path(__file__).parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(
                StoreError, match=rf"another process is writing to this store \(a writer, process {holder.pid}"
            ),
            alone(tmp_path / "s", "a test"),
        ):
            pass
        assert len(open_store(tmp_path / "s")) == 0  # readers are free
        fill(tmp_path / "s", range(3, 5))
        holder.kill()
        holder.wait()
    with alone(tmp_path / "s", "a test"):
        assert len(list((tmp_path / "s" / "writers").iterdir())) == 1
    fill(tmp_path / "s", range(3))
    assert len(open_store(tmp_path / "s")) == 5
    assert list((tmp_path / "s" / "writers").iterdir()) == []


def test_leftovers_of_a_killed_writer_are_cleared(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(3))
    leftover = tmp_path / "s" / "incoming" / "dead"
    leftover.mkdir(parents=True)
    (leftover / "features.npy").write_bytes(b"half")
    assert verify_store(tmp_path / "s") == []
    fill(tmp_path / "s", range(3, 6))
    assert not leftover.exists()
    assert len(open_store(tmp_path / "s")) == 6


@pytest.mark.parametrize("suffix", [".npz", ".parquet"])
@pytest.mark.parametrize("output", ["features", "tokens"])
def test_exports_hold_the_same_vectors(tmp_path: Path, suffix: str, output: str) -> None:
    fill(tmp_path / "s", range(25))
    target = tmp_path / f"out{suffix}"
    assert export_store(open_store(tmp_path / "s"), target, output) == 25
    want = expected(list(range(25)), output)
    if suffix == ".npz":
        with np.load(target, allow_pickle=False) as file:
            np.testing.assert_array_equal(file["vectors"], want)
            assert file["image_id"].tolist() == [f"i{n}" for n in range(25)]
            assert file["patient_id"].tolist() == [f"p{n // 2}" for n in range(25)]
    else:
        table = pq.read_table(target)
        assert table["image_id"].to_pylist() == [f"i{n}" for n in range(25)]
        got = np.array(table["vector"].to_pylist(), dtype=np.float16).reshape(want.shape)
        np.testing.assert_array_equal(got, want)
        assert table.schema.metadata[b"shape"] == str(list(want.shape[1:])).encode()


def test_export_refuses_what_it_cannot_write(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(3))
    store = open_store(tmp_path / "s")
    with pytest.raises(StoreError, match=r"exports end in \.parquet or \.npz"):
        export_store(store, tmp_path / "out.csv")
    with pytest.raises(StoreError, match="cannot be written"):
        export_store(store, tmp_path / "no" / "such" / "folder.npz")
    with pytest.raises(StoreError, match=r"cannot be written \(Not a directory\)"):
        export_store(store, tmp_path / "s" / "store.json" / "out.npz")
    with pytest.raises(StoreError, match="no output"):
        export_store(store, tmp_path / "out.parquet", "general")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["s"]


def test_a_store_can_be_moved(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(12))
    shutil.move(tmp_path / "s", tmp_path / "elsewhere")
    assert len(open_store(tmp_path / "elsewhere").read()) == 12
    data = b"".join(file.read_bytes() for file in every_file(tmp_path / "elsewhere"))
    assert str(tmp_path).encode() not in data


def test_rows_are_described_as_in_every_store_there_is() -> None:
    """With another schema, stores of earlier releases would be refused as damaged."""
    whole = ["image_id", "patient_id", "size", "mtime_ns", "ctime_ns"]
    assert [name for name in ROW_SCHEMA.names if not ROW_SCHEMA.field(name).nullable] == whole
    assert {str(kind): [field.name for field in ROW_SCHEMA if field.type == kind] for kind in ROW_SCHEMA.types} == {
        "string": ["image_id", "patient_id", "error_kind", "error", "software"],
        "fixed_size_binary[32]": ["content"],
        "int64": ["size", "mtime_ns", "ctime_ns"],
        "bool": ["unlike_chest"],
    }
