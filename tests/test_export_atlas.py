"""`export atlas`: what the file holds, what it never does, and that the real program shows it."""

from __future__ import annotations

import contextlib
import csv
import importlib.util
import io
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import run_cli
from index_world import make_index, make_manifest, make_store
from PIL import Image

from cxr_embed import CaseIndex, open_store
from cxr_embed.errors import CaseIndexError
from cxr_embed.index.atlas import export_atlas
from cxr_embed.index.faiss.build import build_index
from cxr_embed.index.faiss.map_file import KeptMap, map_path, write_map
from cxr_embed.manifest import Manifest

CASES = 24
PROGRAM = os.environ.get("CXR_EMBED_ATLAS") or shutil.which("embedding-atlas")
CHROMIUM = shutil.which("chromium")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("atlas")
    contrastive = ["--manifest", "cases/manifest.csv", "--output", "contrastive"]
    for words in (
        ["phantom", "cases", "--count", str(CASES), "--size", "128"],
        ["embed", "cases/manifest.csv", "--store", "store"],
        ["index", "build", "store", *contrastive, "--out", "index"],
        ["export", "atlas", "index", "a.parquet", "--thumbnails", "--manifest", "cases/manifest.csv", "--vectors"],
        ["export", "atlas", "index", "plain.parquet", "--neighbors", "0"],
    ):
        done = run_cli(*words, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


def test_the_schema_is_the_one_that_the_program_reads(world: Path) -> None:
    schema = pq.read_schema(world / "a.parquet")
    assert schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    neighbors = schema.field("neighbors").type
    assert pa.types.is_int64(neighbors.field("ids").type.value_type)
    assert pa.types.is_float32(neighbors.field("distances").type.value_type)
    assert schema.field("projection_x").type == schema.field("projection_y").type == pa.float32()
    assert pa.types.is_float32(schema.field("vector").type.value_type)
    assert not any(pa.types.is_dictionary(field.type) or pa.types.is_date(field.type) for field in schema)
    assert schema.names[:2] == ["image", "image_id"]
    plain = pq.read_schema(world / "plain.parquet").names
    assert not {"image", "neighbors", "vector"} & set(plain)
    assert b"demonstration" in schema.metadata[b"stand_in"]


def test_rows_are_the_cases(world: Path) -> None:
    index, rows = CaseIndex(world / "index"), pq.read_table(world / "a.parquet").to_pylist()
    assert [row["image_id"] for row in rows] == index.ids.tolist()
    assert np.allclose([row["vector"] for row in rows], index.vectors)
    with open(world / "cases/manifest.csv", newline="") as file:
        manifest = {row["image_id"]: row for row in csv.DictReader(file)}
    for row in rows:
        known = manifest[row["image_id"]]
        assert row["study_date"] == known["study_date"]
        assert (row["view"], row["sex"]) == (known["view"], known["sex"])
        assert row["Effusion"] == int(known["Effusion"])


def test_neighbors_are_the_nearest_other_cases(world: Path) -> None:
    index, rows = CaseIndex(world / "index"), pq.read_table(world / "a.parquet").to_pylist()
    alike = index.vectors @ index.vectors.T
    np.fill_diagonal(alike, -2)
    for number, row in enumerate(rows):
        near = row["neighbors"]["ids"]
        assert number not in near
        assert np.allclose(alike[number, near], -np.sort(-alike[number])[:10], atol=1e-5)
        assert np.allclose(row["neighbors"]["distances"], np.maximum(0, 1 - alike[number, near]), atol=1e-5)


def test_pictures_are_small_and_have_no_path(world: Path) -> None:
    for row in pq.read_table(world / "a.parquet").to_pylist():
        assert row["image"]["path"] is None
        assert max(Image.open(io.BytesIO(row["image"]["bytes"])).size) == 128


def test_nothing_else_leaves_the_index(tmp_path: Path) -> None:
    secret = "Doe^Jane"
    columns = {"patient_name": [secret] * 4, "view": ["PA", "AP"] * 2, "Effusion": ["0", "1", "-1", ""]}
    owners = ["a", "a", "b", "b"]
    store = make_store(tmp_path / "store", np.eye(4, 6, dtype=np.float32), owners)
    table = make_manifest(4, owners, columns).table
    build_index(open_store(store), tmp_path / "index", manifest=Manifest(table, Path(), ("Effusion",)))
    done = run_cli("export", "atlas", str(tmp_path / "index"), str(tmp_path / "a.parquet"), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["columns"] == ["image_id", "patient_id", "view", "Effusion"]
    written = pq.read_table(tmp_path / "a.parquet")
    assert "patient_name" not in written.column_names
    assert secret.encode() not in (tmp_path / "a.parquet").read_bytes()
    assert written["Effusion"].to_pylist() == [0, 1, None, None]


def test_the_map_is_the_one_that_was_learned_else_by_components(world: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "index", tmp_path / "index")
    index = CaseIndex(tmp_path / "index")

    def positions() -> np.ndarray:
        export_atlas(index, tmp_path / "b.parquet", ["image_id"])
        table = pq.read_table(tmp_path / "b.parquet")
        return np.stack([table[name].to_numpy() for name in ("projection_x", "projection_y")], 1)

    centred = index.vectors - index.vectors.astype(float).mean(0)
    left, size, _ = np.linalg.svd(centred, full_matrices=False)
    assert np.allclose(np.abs(positions()), np.abs(left[:, :2] * size[:2]), atol=1e-5)
    drawn = np.random.default_rng(0).random((CASES, 2)).astype(np.float32)
    learned = KeptMap(
        positions=drawn,
        key=index.record.vectors_digest,
        seed=0,
        fitted=CASES,
        neighbours=15,
        created="2026-11-30T00:00:00+00:00",
        made_by="a test",
    )
    write_map(map_path(index.path), learned)
    assert np.array_equal(positions(), drawn)
    write_map(map_path(index.path), replace(learned, key="of other vectors"))
    assert not np.array_equal(positions(), drawn)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["index", "a.csv"], "ends in .parquet"),
        (["index", "nowhere/a.parquet"], "is not a folder"),
        (["nowhere", "a.parquet"], "no index here"),
        (["index", "b.parquet", "--thumbnails"], "--thumbnails needs --manifest"),
        (["index", "b.parquet", "--manifest", "cases/manifest.csv"], "are for --thumbnails"),
        (["index", "b.parquet", "--thumbnails", "--manifest", "none.csv"], "none.csv"),
    ],
)
def test_what_is_wrong_is_said(world: Path, words: list[str], said: str) -> None:
    done = run_cli("export", "atlas", *words, cwd=world)
    assert done.returncode != 0
    assert said in done.stderr
    assert not (world / "b.parquet").exists()


def test_a_column_of_one_of_our_names_is_refused(tmp_path: Path) -> None:
    index = make_index(tmp_path, np.eye(3, 4, dtype=np.float32), columns={"neighbors": ["0", "1", "1"]})
    with pytest.raises(CaseIndexError, match="the column neighbors has the name"):
        export_atlas(index, tmp_path / "a.parquet", ["image_id", "neighbors"])


@pytest.mark.skipif(PROGRAM is None, reason="embedding-atlas is not installed, nor named by $CXR_EMBED_ATLAS")
@pytest.mark.skipif(CHROMIUM is None or importlib.util.find_spec("playwright") is None, reason="no Chromium here")
def test_the_real_program_shows_ids_and_pictures(world: Path) -> None:
    from playwright.sync_api import sync_playwright

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--x", "projection_x", "--y", "projection_y", "--neighbors", "neighbors"]
    command = [str(PROGRAM), "a.parquet", *options, "--port", str(port), "--no-auto-port", "--host", "127.0.0.1"]
    with open(world / "log", "w") as log, sync_playwright() as started:
        running = subprocess.Popen(command, cwd=world, stdout=log, stderr=log)
        try:
            end = time.monotonic() + 120
            while running.poll() is None and time.monotonic() < end:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).close()
                    break
                time.sleep(0.2)
            assert running.poll() is None, (world / "log").read_text()[-2000:]
            browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{port}/")
            page.get_by_text("phantom-0-0").first.wait_for(timeout=60_000)
            pictures = "[...document.images].filter(i => i.src.startsWith('data:image/') && i.naturalWidth === 128)"
            page.wait_for_function(f"{pictures}.length >= 3", timeout=60_000)
            browser.close()
        finally:
            running.terminate()
            running.wait()
