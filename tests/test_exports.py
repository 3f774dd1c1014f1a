"""Exports in Google's layout: the inverse of imports, down to the bytes."""

from __future__ import annotations

import csv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers import fill, run_cli
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cxr_embed import open_store
from cxr_embed.errors import StoreError
from cxr_embed.imports import import_prompts, import_vectors, open_npz
from cxr_embed.store import StoreWriter, add_prompts, read_prompts, verify_store
from cxr_embed.store.export import export_npz, export_prompts
from cxr_embed.types import EncoderSpec, TextRule

TEXT = EncoderSpec(
    name="dual", revision="1", preprocessing="none", outputs={"image": (4,)}, text=TextRule("image", "clip")
)


def test_export_is_the_inverse_of_import_on_the_real_ids(real_data: Path, tmp_path: Path) -> None:
    with open(real_data / "nih" / "manifest.csv", newline="") as file:
        ids = [row["image_id"] for row in csv.DictReader(file)]
    rng = np.random.default_rng(0)
    given_vectors = {image_id: rng.standard_normal(4096).astype(np.float32) for image_id in ids}
    np.savez(tmp_path / "google.npz", **given_vectors)
    for source, store, target in (("google.npz", "s", "out.npz"), ("out.npz", "t", "again.npz")):
        command = ["import", "npz", source, "--encoder", "cxr-foundation", "--output", "contrastive", "--store", store]
        assert run_cli(*command, cwd=tmp_path).returncode == 0
        done = run_cli("store", "export", store, target, "--format", "npz-by-image", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{target}: {len(ids):,} images\n", "")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert file.files == ids
        for image_id in ids:
            assert file[image_id].dtype == np.float32
            assert file[image_id].tobytes() == given_vectors[image_id].tobytes()
    assert (tmp_path / "out.npz").read_bytes() == (tmp_path / "again.npz").read_bytes()


IDS = st.text(st.characters(blacklist_categories=["Cs", "Cc"]), min_size=1, max_size=30).filter(
    lambda text: text.strip()
)
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


@settings(max_examples=100, deadline=None)
@given(vectors=st.dictionaries(IDS, st.lists(FLOATS, min_size=3, max_size=3), min_size=1, max_size=8))
@example(
    vectors={key: [1.0, 2.0, -0.0] for key in ("a/b", "/a", "../a", "a\\b", "C:/a", "x.npy", "x.npy.npy", ".", "..")}
)
@example(
    vectors={key: [1.0, 2.0, 3.0] for key in ("file", "é", "e\u0301", " a ", "a ", "日本", "𝄞", "a\u2028b", "a" * 1000)}
)
def test_any_id_and_any_number_come_back(
    tmp_path_factory: pytest.TempPathFactory, vectors: dict[str, list[float]]
) -> None:
    folder = tmp_path_factory.mktemp("any")
    # Where one id is another's with .npy at its end, the export refuses; see the test below.
    vectors = {key: value for key, value in vectors.items() if key.removesuffix(".npy") == key or key == "x.npy"}
    with zipfile.ZipFile(folder / "in.npz", "w") as archive:
        for key, value in vectors.items():
            with archive.open(f"{key}.npy", "w") as file:
                np.lib.format.write_array(file, np.array(value, np.float32))
    import_vectors(open_npz(folder / "in.npz"), "mine", "features", folder / "s")
    export_npz(open_store(folder / "s"), folder / "out.npz")
    with np.load(folder / "out.npz", allow_pickle=False) as file:
        assert file.files == list(vectors)
        for key, value in vectors.items():
            assert file[key].tobytes() == np.array(value, np.float32).tobytes()
    import_vectors(open_npz(folder / "out.npz"), "mine", "features", folder / "t")
    export_npz(open_store(folder / "t"), folder / "again.npz")
    assert (folder / "out.npz").read_bytes() == (folder / "again.npz").read_bytes()
    assert verify_store(folder / "t") == []


def test_ids_that_numpy_would_mix_up_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "in.npz", "w") as archive:
        for key in ("x", "x.npy"):
            with archive.open(f"{key}.npy", "w") as file:
                np.lib.format.write_array(file, np.full(3, len(key), np.float32))
    with np.load(tmp_path / "in.npz") as mixed:
        assert mixed["x.npy"].tolist() == [1, 1, 1]  # the vector of x
    import_vectors(open_npz(tmp_path / "in.npz"), "mine", "features", tmp_path / "s")
    assert open_store(tmp_path / "s").read(["x.npy"]).vectors.tolist() == [[5, 5, 5]]
    with pytest.raises(StoreError, match=r"'x\.npy' and 'x' are one key to numpy\.load"):
        export_npz(open_store(tmp_path / "s"), tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_outputs_and_a_float16_store(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(2500), shard=1000)
    store = open_store(tmp_path / "s")
    told: list[tuple[int, int]] = []
    assert export_npz(store, tmp_path / "out.npz", "tokens", lambda done, total: told.append((done, total))) == 2500
    assert told[-1] == (2500, 2500)
    whole = store.read(output="tokens").vectors
    with np.load(tmp_path / "out.npz", allow_pickle=False) as file:
        assert file.files == store.ids.tolist()
        assert file["i7"].shape == (6,)
        got = np.stack([file[image_id] for image_id in file.files])
    assert got.dtype == np.float32
    np.testing.assert_array_equal(got, whole.reshape(2500, 6).astype(np.float32))
    export_npz(store, tmp_path / "first.npz")
    with np.load(tmp_path / "first.npz", allow_pickle=False) as file:
        assert file["i7"].shape == (4,)


def test_prompts_come_back(tmp_path: Path) -> None:
    texts = ["small pneumothorax", "no pneumothorax", "mass/nodule", "Größe: 3 mm"]
    values = np.random.default_rng(0).standard_normal((4, 4)).astype(np.float32)
    for name in ("s", "t"):
        StoreWriter(tmp_path / name, TEXT).close()
    add_prompts(tmp_path / "s", texts, values, "embedded by a test")
    done = run_cli("store", "export", "s", "prompts.npz", "--format", "npz-by-prompt", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "prompts.npz: 4 prompts\n")
    with np.load(tmp_path / "prompts.npz", allow_pickle=False) as file:
        assert {text: file[text].tobytes() for text in file.files} == {
            text: value.tobytes() for text, value in zip(texts, values, strict=True)
        }
    assert import_prompts(tmp_path / "prompts.npz", "dual", tmp_path / "t") == (4, 4)
    held = read_prompts(open_store(tmp_path / "t"))
    assert held.prompts == tuple(texts)
    assert held.vectors.tobytes() == values.tobytes()


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    fill(tmp_path / "toy", range(3))
    StoreWriter(tmp_path / "dual", TEXT).close()
    toy, dual = open_store(tmp_path / "toy"), open_store(tmp_path / "dual")
    with pytest.raises(StoreError, match=r"this export ends in \.npz"):
        export_npz(toy, tmp_path / "out.npy")
    with pytest.raises(StoreError, match="no output 'general'; it has features, tokens"):
        export_npz(toy, tmp_path / "out.npz", "general")
    with pytest.raises(StoreError, match="no image in it has a vector"):
        export_npz(dual, tmp_path / "out.npz")
    with pytest.raises(StoreError, match="holds no prompts"):
        export_prompts(dual, tmp_path / "out.npz")
    with pytest.raises(StoreError, match="which no prompt can be compared with"):
        export_prompts(toy, tmp_path / "out.npz")
    with pytest.raises(StoreError, match="cannot be written"):
        export_npz(toy, tmp_path / "no" / "such" / "folder.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(StoreError, match="cannot be written"):
        export_npz(toy, tmp_path / "folder.npz")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dual", "folder.npz", "toy"]


def test_a_failed_export_leaves_the_old_file(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(30))
    export_npz(open_store(tmp_path / "s"), tmp_path / "out.npz")
    before = (tmp_path / "out.npz").read_bytes()
    shard = sorted((tmp_path / "s" / "shards").iterdir())[2]
    (shard / "features.npy").write_bytes(b"damaged")
    done = run_cli("store", "export", "s", "out.npz", "--format", "npz-by-image", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert shard.name in done.stderr
    assert (tmp_path / "out.npz").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.npz", "s"]


def test_earlier_spellings_work_and_say_so(tmp_path: Path) -> None:
    fill(tmp_path / "s", range(3))
    assert run_cli("store", "export", "s", "now.npz", "--format", "npz-by-image", cwd=tmp_path).returncode == 0
    done = run_cli("export", "npz", "s", "then.npz", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "then.npz: 3 images\n")
    assert done.stderr == "note: `export npz` is `store export --format npz-by-image` now, and goes in 0.4\n"
    assert (tmp_path / "then.npz").read_bytes() == (tmp_path / "now.npz").read_bytes()
