"""Near-duplicates: pairs against brute force, thresholds that hold, real re-exports, the clean manifest."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import run_cli
from index_world import make_index
from PIL import Image

from cxr_embed import open_store, read_manifest
from cxr_embed.errors import CaseIndexError
from cxr_embed.index import CaseIndex
from cxr_embed.index.faiss import pairs
from cxr_embed.index.faiss.build import build_index
from cxr_embed.index.faiss.duplicates import find_duplicates, group
from cxr_embed.index.faiss.pairs import Pairs, find_pairs, scale_of
from cxr_embed.manifest import read_companion
from cxr_embed.pipeline.embedding import embed


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def spread(count: int, seed: int, inside: int = 16, width: int = 32) -> np.ndarray:
    """Unit vectors in 32 dimensions that fill 16 of them, as an encoder's do not fill all of theirs."""
    rng = np.random.default_rng(seed)
    return unit(rng.normal(size=(count, inside)) @ rng.normal(size=(inside, width)) * 0.2 + 1)


def copies_of(vectors: np.ndarray, by: float, seed: int = 7) -> np.ndarray:
    """Each vector moved a little."""
    return unit(vectors + by * np.random.default_rng(seed).normal(size=vectors.shape) / np.sqrt(vectors.shape[1]))


def strings(values: list[str]) -> np.ndarray:
    return np.array(values, dtype=np.str_)


@pytest.mark.parametrize("block", [2048, 7])
@pytest.mark.parametrize("exact_up_to", [100_000, 0])
def test_pairs_are_brute_force(block: int, exact_up_to: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_BLOCK", block)
    monkeypatch.setattr(pairs, "EXACT_UP_TO", exact_up_to)
    monkeypatch.setattr(pairs, "_CELLS_LOOKED_AT", 1 << 10)
    vectors = unit(np.random.default_rng(0).normal(size=(60, 4)))
    vectors[50] = vectors[3]
    contents = strings([f"f{number % 55}" for number in range(60)])
    found = find_pairs(vectors, contents, 0.9)
    told = {(int(a), int(b)): bool(same) for a, b, same in zip(found.first, found.second, found.same_file, strict=True)}
    plain = {
        (a, b): bool(contents[a] == contents[b])
        for b in range(60)
        for a in range(b)
        if contents[a] == contents[b] or np.dot(vectors[a], vectors[b]) >= 0.9
    }
    assert told == plain
    assert len(found) == len(plain)
    assert (np.diff(found.similarity) <= 0).all()
    assert found.similarity.max() == 1


def test_without_a_threshold_only_the_same_file_counts() -> None:
    vectors = unit(np.ones((4, 3)))
    found = find_pairs(vectors, strings(["a", "", "a", ""]), None)
    assert (found.first.tolist(), found.second.tolist()) == ([0], [2])


def test_too_many_pairs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "_MOST_PAIRS", 10)
    with pytest.raises(CaseIndexError, match="raise `threshold`"):
        find_pairs(unit(np.ones((6, 3))), strings(list("abcdef")), 0.5)


def test_an_estimated_threshold_lets_few_strangers_through() -> None:
    false, found = 0, 0
    for seed in range(20):
        vectors = spread(600, seed)
        scale = scale_of(vectors, strings([""] * 600))
        assert scale.threshold is not None
        assert scale.quantiles[-1] < 1
        false += len(find_pairs(vectors, strings([""] * 600), scale.threshold))
        copies = copies_of(vectors[:50], 0.02)
        found += int((np.vecdot(vectors[:50], copies) >= scale.threshold).sum())
    # A tenth of a pair is expected each time: 2 in all.
    assert false <= 8
    assert found == 20 * 50


@pytest.mark.parametrize("share", [0.02, 0.3])
@pytest.mark.parametrize("times", [1, 3])
def test_copies_under_other_patients_do_not_move_the_threshold(share: float, times: int) -> None:
    vectors = spread(600, 3)
    clean = scale_of(vectors, strings([""] * 600))
    moved = [copies_of(vectors[: int(600 * share)], 0.02, seed) for seed in range(times)]
    both = np.concatenate([vectors, *moved])
    found = scale_of(both, strings([""] * len(both)))
    assert clean.threshold is not None
    assert found.threshold is not None
    # As a distance: more images have nearer strangers, and so a somewhat smaller one.
    assert 0.7 < (1 - found.threshold) / (1 - clean.threshold) < 1.2


def test_images_of_one_patient_are_no_strangers() -> None:
    vectors = spread(300, 4)
    both = np.concatenate([vectors, copies_of(vectors, 0.1)])
    owners = strings([f"p{number % 300}" for number in range(600)])
    assert scale_of(both, owners).quantiles == pytest.approx(scale_of(vectors, owners[:300]).quantiles, abs=0.003)
    assert scale_of(both, owners).quantiles[-1] < np.vecdot(both[:300], both[300:]).max()


def test_few_images_tell_no_threshold() -> None:
    assert scale_of(spread(150, 0), strings([""] * 150)).threshold is None
    assert scale_of(spread(1, 0), strings([""])).quantiles == ()
    assert scale_of(unit(np.ones((300, 4))), strings([""] * 300)).threshold is None


def test_groups_across_splits_and_patients_come_first_and_keep_what_is_tested() -> None:
    linked = [(0, 1, 0.99), (2, 3, 0.97), (4, 5, 0.96), (5, 6, 0.98), (7, 8, 1.0)]
    found = Pairs(
        np.array([a for a, _, _ in linked]),
        np.array([b for _, b, _ in linked]),
        np.array([s for _, _, s in linked], np.float32),
        np.array([s == 1.0 for _, _, s in linked]),
    )
    patients = strings(["p0", "p0", "p1", "p2", "p3", "p4", "p3", "p5", "p5"])
    splits = strings(["train", "train", "validate", "validate", "train", "validate", "test", "train", "train"])
    groups = group(found, patients, splits, np.arange(9))
    assert [one.rows for one in groups] == [(4, 5, 6), (2, 3), (7, 8), (0, 1)]
    assert [one.kept for one in groups] == [6, 2, 7, 0]
    assert groups[0].similarity == pytest.approx(0.96)
    assert groups[0].splits == ("train", "validate", "test")
    assert groups[0].patients == ("p3", "p4")
    assert [one.same_file for one in groups] == [False, False, True, False]
    # The manifest's order says which is first.
    assert [one.kept for one in group(found, patients, splits, np.arange(9)[::-1])] == [6, 3, 8, 1]


@pytest.fixture
def leaking(tmp_path: Path) -> CaseIndex:
    """300 images of 150 patients; image 10 of p5 (train) is image 211 of p105 (test), but for a little."""
    vectors = spread(300, 5)
    vectors[211] = copies_of(vectors[10:11], 0.01)[0]
    patients = [f"p{number // 2}" for number in range(300)]
    columns = {"split": ["train" if number < 200 else "test" for number in range(300)], "Mass": ["0"] * 300}
    return make_index(tmp_path, vectors, patients, columns)


def manifest_of(index: CaseIndex, path: Path, extra: str = "") -> Path:
    ids = index.table["image_id"].to_pylist()
    columns = {"image_id": ids, "path": [f"{image_id}.png" for image_id in ids]}  # an index keeps no paths
    columns |= {name: index.table[name].to_pylist() for name in ("patient_id", "split", "Mass")}
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n" + extra)
    return path


def test_leakage_is_found_and_more_of_it_is_told(leaking: CaseIndex) -> None:
    splits = strings(leaking.table["split"].to_pylist())
    found = find_duplicates(leaking, leaking.patient_ids, splits)
    assert found.rule == "estimated"
    (one,) = found.groups
    assert (one.rows, one.kept) == ((10, 211), 211)
    assert (one.splits, one.patients) == (("train", "test"), ("p5", "p105"))
    # Image 11 is no copy, but of the same person as image 211.
    assert any(note.startswith("1 more image is of patients") for note in found.notes)


def test_the_verb_writes_a_manifest_without_copies(leaking: CaseIndex, tmp_path: Path) -> None:
    manifest = manifest_of(leaking, tmp_path / "m.csv", "unseen,u.png,p5,train,1\n")
    out = tmp_path / "clean" / "c.csv"
    arguments = ["index", "duplicates", str(leaking.path), "--manifest", str(manifest), "--out", str(out)]
    done = run_cli(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["across_splits"], told["across_patients"], told["removed"]) == (1, 1, ["c10"])
    assert told["groups"][0]["images"][1]["kept"]
    with open(manifest, newline="") as before, open(out, newline="") as after:
        rows, kept = list(csv.reader(before)), list(csv.reader(after))
    assert kept == [row for row in rows if row[0] != "c10"]
    done = run_cli(*arguments)
    assert done.returncode == 0, done.stderr
    assert "alike" in done.stdout
    assert "1 group of 2 images, 1 across splits, 1 across patients" in done.stdout
    assert f"{out}: 300 of 301 rows" in done.stdout
    assert "1 row of the manifest are not in the index" in done.stdout
    assert read_companion(out)[0].root == "..", "its paths lead to the same files"  # type: ignore[union-attr]
    assert done.stdout.splitlines()[-1] == "For research; not a medical device."


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--threshold", "1.5"], "--threshold is a cosine"),
        (["--threshold", "nan"], "--threshold is a cosine"),
        (["--out", "c.csv"], "say which with --manifest"),
        (["--manifest", "m.csv", "--out", "./m.csv"], "this command reads it"),
        (["--manifest", "m.csv", "--out", "c.txt"], "ends in .csv or .parquet"),
        (["--manifest", "other.csv", "--out", "c.csv"], "has none of the index's images"),
        (["--manifest", "missing.csv"], "missing.csv: no such file"),
    ],
)
def test_the_verb_refuses(leaking: CaseIndex, tmp_path: Path, options: list[str], told: str) -> None:
    manifest_of(leaking, tmp_path / "m.csv")
    (tmp_path / "other.csv").write_text("image_id,path\nx,x.png\n")
    done = run_cli("index", "duplicates", str(leaking.path), *options, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "c.csv").exists()


def test_a_small_index_says_what_it_cannot_tell(tmp_path: Path) -> None:
    vectors = spread(20, 0)
    vectors[4] = copies_of(vectors[3:4], 0.001)[0]
    index = make_index(tmp_path, vectors)
    blank = strings([""] * 20)
    found = find_duplicates(index, index.patient_ids, blank)
    assert (found.rule, found.threshold, found.groups) == ("none", None, ())
    assert any("give `threshold`" in note for note in found.notes)
    done = run_cli("index", "duplicates", str(index.path))
    assert done.returncode == 0, done.stderr
    assert "no split is known" in done.stdout
    assert f"{index.path}: 20 images; no copies" in done.stdout
    assert [one.rows for one in find_duplicates(index, index.patient_ids, blank, 0.9999).groups] == [(3, 4)]
    index.record = replace(index.record, spec=replace(index.spec, name="hog"))
    assert find_duplicates(index, index.patient_ids, blank).threshold == 0.95


def reexports(source: Path, folder: Path, name: str) -> Iterator[tuple[str, str]]:
    """A radiograph saved again in other ways: ids and files."""
    image = Image.open(source)
    pixels = np.asarray(image)
    small = image.resize((256, 256), Image.Resampling.BICUBIC)
    made = {"half.png": small, "again.png": image, "deep.png": Image.fromarray(pixels.astype(np.uint16) * 257)}
    for file, picture in made.items():
        picture.save(folder / f"{name}_{file}")
        yield f"{name}_{file}", f"{name}_{file}"
    for quality in (50, 75):
        image.save(folder / f"{name}_{quality}.jpg", quality=quality)
        yield f"{name}_{quality}", f"{name}_{quality}.jpg"


def test_real_reexports_are_found_and_no_other_radiograph(real_data: Path, tmp_path: Path) -> None:
    with open(real_data / "nih" / "manifest.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    lines = ["image_id,path,patient_id"]
    for number, row in enumerate(rows):
        (tmp_path / f"{row['image_id']}.jpg").symlink_to((real_data / "nih" / row["path"]).resolve())
        lines.append(f"{row['image_id']},{row['image_id']}.jpg,{row['patient_id']}")
        if number % 60 == 0:
            made = reexports(real_data / "nih" / row["path"], tmp_path, f"r{number}")
            lines += [f"{image_id},{path},stolen-{number}" for image_id, path in made]
    (tmp_path / "m.csv").write_text("\n".join(lines) + "\n")
    embed(tmp_path / "m.csv", "hog", tmp_path / "store", follow_links=True)
    build_index(open_store(tmp_path / "store"), tmp_path / "index", manifest=read_manifest(tmp_path / "m.csv"))
    index = CaseIndex(tmp_path / "index")
    found = find_duplicates(index, index.patient_ids, strings([""] * len(index)))
    assert found.threshold == pytest.approx(0.95, abs=0.005)
    groups = {frozenset(index.ids[list(one.rows)].tolist()): one for one in found.groups}
    twins = groups.pop(frozenset({"00002658_001", "00002658_002"}))
    assert twins.same_file
    expected = {
        frozenset({row["image_id"], *(f"r{number}_{way}" for way in ("half.png", "again.png", "deep.png", "50", "75"))})
        for number, row in enumerate(rows)
        if number % 60 == 0
    }
    assert set(groups) == expected
