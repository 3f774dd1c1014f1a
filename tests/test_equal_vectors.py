"""Images of different files with one vector are found and told: an encoder that sees nothing gives no error."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import SPEC, MeanEncoder, content, fill, row, run_cli, vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_embed import open_store
from cxr_embed.io.digests import short_digest
from cxr_embed.pipeline.embedding import embed
from cxr_embed.store import Row, StoreWriter
from cxr_embed.store.layout import CHECKSUMS, ShardInfo, row_checksums
from cxr_embed.types import EncoderSpec, Stamp

Make = Callable[..., Path]


class Blind(MeanEncoder):
    """An encoder that gives the same vector whatever it is shown."""

    def embed(self, batch: np.ndarray) -> dict[str, np.ndarray]:
        return {"means": np.ones((len(batch), 16), np.float32), "peak": np.ones((len(batch), 1), np.float32)}


def make_blind(name: str, **options: object) -> Blind:
    """Made by worker processes as `test_equal_vectors:make_blind`."""
    del name, options
    return Blind()


def test_a_run_tells_of_an_encoder_that_sees_nothing(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(6)
    summary = embed(manifest, Blind(), tmp_path / "s")
    assert sorted(summary.equal_vectors[0]) == [f"i{n}" for n in range(6)]
    assert summary.to_json()["equal_vectors"] == summary.equal_vectors
    again = embed(manifest, Blind(), tmp_path / "s")
    assert (again.embedded, again.equal_vectors) == (0, [])  # told once; `store info` tells it always
    assert embed(manifest, MeanEncoder(), tmp_path / "t").equal_vectors == []
    done = run_cli("store", "info", str(tmp_path / "s"))
    assert (
        "equal        6 images share 1 vector though their files differ (i0 = i1 = i2 = i3 = i4 = ...)" in done.stdout
    )
    assert "equal" not in run_cli("store", "info", str(tmp_path / "t")).stdout
    assert json.loads(run_cli("store", "info", str(tmp_path / "s"), "--json").stdout)["equal_vectors"]


def test_the_command_tells_it(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(3)
    done = run_cli(
        "embed", str(manifest), "--encoder", "test_equal_vectors:make_blind", "--store", str(tmp_path / "s"),
        cwd=Path(__file__).parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (
        "note: 3 images share 1 vector though their files differ (i0 = i1 = i2): copies saved anew, or" in done.stdout
    )


def test_a_damaged_shard_does_not_swallow_the_summary(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(6)
    embed(manifest, MeanEncoder(), tmp_path / "s", limit=3)
    file = next((tmp_path / "s" / "shards").glob(f"*/{CHECKSUMS}"))
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    summary = embed(manifest, MeanEncoder(), tmp_path / "s")
    assert (summary.embedded, summary.equal_vectors) == (3, [])
    (note,) = summary.notes
    assert note.startswith("equal vectors could not be looked for: ")
    assert f"{CHECKSUMS} is damaged" in note


def test_copies_of_one_file_are_no_news(make_images: Make, tmp_path: Path) -> None:
    manifest = make_images(4)
    shutil.copy(manifest.parent / "i1.png", manifest.parent / "i2.png")
    assert embed(manifest, MeanEncoder(), tmp_path / "s").equal_vectors == []


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.integers(1, 7))
def test_groups_are_those_of_a_plain_search(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[int], shard: int
) -> None:
    path = tmp_path_factory.mktemp("s") / "s"
    with StoreWriter(path, SPEC) as writer:
        for number, kind in enumerate(kinds):
            if kind == 5 and number:  # another image of an earlier file
                writer.add_row(
                    Row(image_id=f"i{number}", patient_id="p", content=content(0), stamp=Stamp(1, 2, number))
                )
                continue
            writer.add_vector(row(number), vectors(kind) if number else vectors(99))
            if writer.pending >= shard:
                writer.flush("toy engine")
        writer.flush("toy engine")
    store = open_store(path)
    held = {name: store.read(output=name).vectors for name in SPEC.outputs}
    keys = [b"".join(array[at].tobytes() for array in held.values()) for at in range(len(store))]
    plain: dict[bytes, list[int]] = {}
    for at, key in enumerate(keys):
        plain.setdefault(key, []).append(at)
    files = store.content_ids
    expected = {frozenset(store.ids[group]) for group in plain.values() if len(set(files[group])) > 1}
    assert {frozenset(group) for group in store.equal_vectors()} == expected


def test_equal_checksums_of_different_vectors_are_no_equal_vectors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cxr_embed.store.layout.row_checksums", lambda array: np.zeros(len(array), np.uint32))
    monkeypatch.setattr("cxr_embed.store.reader.changed_rows", lambda *_: np.empty(0, np.intp))
    fill(tmp_path / "s", range(6))
    assert open_store(tmp_path / "s").equal_vectors() == []


def without_checksums(path: Path) -> None:
    """Makes a store look as an earlier release wrote it."""
    for shard in sorted((path / "shards").iterdir()):
        info = ShardInfo.read(shard)
        (shard / CHECKSUMS).unlink()
        body = json.loads((shard / "shard.json").read_bytes())
        del body["files"][CHECKSUMS]
        data = json.dumps(body, sort_keys=True, separators=(",", ":")).encode() + b"\n"
        (shard / "shard.json").write_bytes(data)
        shard.rename(shard.with_name(f"{shard.name[:8]}-{short_digest(data)}"))
        assert info.vectors


def test_stores_of_earlier_releases_open_and_say_what_was_not_looked_at(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(10))
    without_checksums(tmp_path / "s")
    with StoreWriter(tmp_path / "s", SPEC) as writer:
        writer.add_vector(row(10), vectors(3))
        writer.flush("toy engine")
    store = open_store(tmp_path / "s")
    np.testing.assert_array_equal(store.read(["i3"]).vectors, store.read(["i10"]).vectors)
    assert (store.unchecked, store.equal_vectors()) == (10, [])
    done = run_cli("store", "info", str(tmp_path / "s"))
    assert "equal        not looked for among 10 vectors of an earlier release" in done.stdout
    assert run_cli("store", "verify", str(tmp_path / "s")).returncode == 0


def test_one_flipped_bit_never_leaves_the_store(tmp_path: Path) -> None:
    spec = EncoderSpec(name="toy", revision="1", preprocessing="none", outputs={"features": (64,)})
    with StoreWriter(tmp_path / "s", spec) as writer:
        for number in range(20):
            writer.add_vector(row(number), {"features": np.random.default_rng(number).standard_normal(64)})
        writer.flush("toy engine")
    file = next((tmp_path / "s" / "shards").glob("*/features.npy"))
    data = bytearray(file.read_bytes())
    data[-64 * 2 * 7 + 1] ^= 0x40  # in the vector of the 14th image
    file.write_bytes(data)
    store = open_store(tmp_path / "s")
    assert len(store.read([f"i{n}" for n in range(13)])) == 13
    from cxr_embed.errors import StoreError

    for ids in (["i13"], ["i2", "i13", "i4"], None):
        with pytest.raises(StoreError, match=r"features.npy: the vector of i13 has changed since it was written"):
            store.read(ids)
    with pytest.raises(StoreError, match="i13 has changed"):
        list(store.batches(4))
    for _ in range(2):  # a block that was found to be changed is not taken for a checked one
        with pytest.raises(StoreError, match="i13 has changed"):
            list(store.mapped())


def test_checksums_are_of_the_bytes_that_are_stored() -> None:
    from google_crc32c import value

    array = np.random.default_rng(0).standard_normal((5, 3, 2)).astype(np.float16)
    assert row_checksums(array).tolist() == [value(vector.tobytes()) for vector in array]
