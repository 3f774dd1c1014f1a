"""`store status`: what is embedded, failed and missing, and who is at work."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import SPEC, fill, row, run_cli, vectors

from cxr_embed import read_manifest
from cxr_embed.pipeline.embedding import embed
from cxr_embed.pipeline.parts import part_of
from cxr_embed.pipeline.status import store_status
from cxr_embed.store import Row, StoreWriter

HERE = Path(__file__).parent
MEAN = "helpers:make_mean"
Make = Callable[..., Path]


@pytest.fixture(autouse=True)
def _reachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)


def manifest_of(path: Path, count: int) -> Path:
    lines = ["image_id,path,patient_id", *(f"i{n},{n}.png,p{n // 2}" for n in range(count))]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_what_is_embedded_failed_and_missing(tmp_path: Path) -> None:
    manifest, root = manifest_of(tmp_path / "m.csv", 20), tmp_path / "s"
    fill(root, range(10))
    with StoreWriter(root, SPEC) as writer:
        for image, content, kind in (("i12", b"x" * 32, "corrupt"), ("i13", None, "missing"), ("i1", None, "missing")):
            writer.add_row(Row(image_id=image, patient_id="p", content=content, error_kind=kind, error="no"))
        writer.add_vector(row(77), vectors(77))  # not of the manifest
        writer.flush("toy")
    done = run_cli("store", "status", str(root), "--manifest", str(manifest), "--json")
    body = json.loads(done.stdout)
    assert (body["images"], body["embedded"], body["missing"]) == (20, 10, 8)
    assert body["failed"] == {"corrupt": 1, "missing": 1}
    assert body["writers"] == []
    assert body["parts"] is body["seconds_left"] is None
    text = run_cli("store", "status", str(root), "--manifest", str(manifest)).stdout
    assert "10 (50%)" in text
    assert "2 (corrupt 1, missing 1)" in text
    assert "nobody" in text


def test_who_is_at_work_how_fast_and_how_long_yet(tmp_path: Path) -> None:
    manifest, root = read_manifest(manifest_of(tmp_path / "m.csv", 40)), tmp_path / "s"
    fill(root, range(10))
    with StoreWriter(root, SPEC, at="embed") as one, StoreWriter(root, SPEC, at="embed") as two:
        one.presence.say(part="1/4", images=10, done=3, rate=1.5)
        two.presence.say(part="3/4", images=11, done=5, rate=0.5)
        one.presence.renew()
        two.presence.renew()
        found = store_status(root, manifest)
        assert {seen.body["part"] for seen in found.writers} == {"1/4", "3/4"}
        assert found.rate == 2.0
        assert found.seconds_left == 15.0
        assert found.parts is not None
        assert (found.parts.of, found.parts.at_work, found.parts.missing) == (4, [1, 3], [2, 4])
        shown = run_cli("store", "status", str(root), "--manifest", str(tmp_path / "m.csv")).stdout
        assert "part 3/4: 5 of 11, 0.5 images/s" in " ".join(shown.split())
        assert "2.0 images/s, about 15 s left" in shown
    assert store_status(root, manifest).writers == []


def test_a_missing_part_is_named(make_images: Make, tmp_path: Path) -> None:
    manifest, root = make_images(30), tmp_path / "s"
    for number in (1, 3):
        embed(manifest, encoder=MEAN, store=root, part=f"{number}/3")
    parts = store_status(root, read_manifest(manifest)).parts
    assert parts is not None
    assert (parts.of, parts.done, parts.at_work, parts.missing) == (3, [1, 3], [], [2])
    shown = run_cli("store", "status", str(root), "--manifest", str(manifest)).stdout
    assert "of 3: 2 done; 1 missing (2)" in shown
    left = sum(part_of(image_id, 3) == 2 for image_id in read_manifest(manifest).ids.tolist())
    assert store_status(root, read_manifest(manifest)).missing == left
    (root / "writers" / "part-9-of-9.json").write_bytes(b"\xff torn")  # counts for nothing
    embed(manifest, encoder=MEAN, store=root, part="2/3")
    done = run_cli("store", "status", str(root), "--manifest", str(manifest), "--watch", "--json")
    (line,) = done.stdout.splitlines()  # nothing is missing: it does not look again
    assert json.loads(line)["parts"] == {"of": 3, "done": [1, 2, 3], "at_work": [], "missing": []}


def test_wrong_use_is_a_line(tmp_path: Path) -> None:
    manifest = manifest_of(tmp_path / "m.csv", 3)
    for place in (tmp_path / "nothing", manifest):
        done = run_cli("store", "status", str(place), "--manifest", str(manifest))
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1


def test_looking_changes_nothing(tmp_path: Path) -> None:
    manifest = read_manifest(manifest_of(tmp_path / "m.csv", 3))
    fill(tmp_path / "s", range(2))
    before = {str(path): path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")}
    store_status(tmp_path / "s", manifest)
    assert {str(path): path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*")} == before
