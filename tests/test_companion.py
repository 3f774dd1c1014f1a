"""A manifest's companion: what is declared once holds for every verb; what is damaged or of another table is said."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from helpers import fill, run_cli
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import cxr_embed as cx
from cxr_embed.api.places import places_of
from cxr_embed.cases import CasesError, Side, join
from cxr_embed.errors import ManifestError
from cxr_embed.evaluation import evaluate
from cxr_embed.manifest import (
    Companion,
    check_new_companion,
    companion_path,
    describe_manifest,
    kept_fresh,
    labels_of_table,
    moved,
    read_companion,
    read_labels,
    read_manifest,
    relative_root,
    root_of,
    write_companion,
    write_new_manifest,
)
from cxr_embed.probe.persistence import LabelRecord
from cxr_embed.types import Labels

HEAD = "image_id,path,patient_id,device,Effusion,Mass\n"
ROWS = "i0,a.png,p0,north,1,\ni1,b.png,p1,south,,0\ni2,c.png,p2,south,,\ni3,d.png,p3,north,-1,1\n"
SAYS = Companion(recipe="made-up", not_findings=("device",), blank="negative", blank_words="not mentioned")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    path = tmp_path / "set" / "nih.csv"
    path.parent.mkdir()
    path.write_text(HEAD + ROWS)
    return path


def change(path: Path, **values: Any) -> None:
    companion = companion_path(path)
    companion.write_text(json.dumps({**json.loads(companion.read_text()), **values}))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nih.csv", "nih.json"),
        ("nih.csv.gz", "nih.json"),
        ("NIH.CSV.GZ", "NIH.json"),
        ("nih.v2.parquet", "nih.v2.json"),
        ("manifest", "manifest.json"),
        ("a.b/labels.txt", "a.b/labels.json"),
    ],
)
def test_it_has_the_manifest_s_name(name: str, expected: str) -> None:
    assert companion_path(name) == Path(expected)


def test_what_is_written_is_what_is_read(manifest: Path) -> None:
    said = Companion(
        recipe="r",
        title="Ä data set",
        not_findings=("device",),
        blank="negative",
        blank_words="not mentioned",
        uncertain_words="perhaps",
        root="../else",
        boxes="nih.boxes.csv",
        terms="research\nonly",
        licence="CC0",
        source="https://example.org",
        citation="Somebody, 1999",
        labels="votes",
        alternatives=("any", "counts"),
    )
    assert write_companion(manifest, said) == manifest.with_name("nih.json")
    found, notes = read_companion(manifest)
    assert found is not None
    assert (found.facts(), notes) == (said.facts(), ())
    assert (found.manifest, len(found.sha256)) == ("nih.csv", 64)
    assert found.written.startswith("20")
    assert found.tool.startswith("cxr-embed ")
    before = companion_path(manifest).read_bytes()
    write_companion(manifest, said)
    assert companion_path(manifest).read_bytes() == before, "the same again changes nothing"
    assert sorted(os.listdir(manifest.parent)) == ["nih.csv", "nih.json"]


def test_nobody_has_to_name_a_column_again(manifest: Path) -> None:
    with pytest.raises(ManifestError, match="finding device is not 0, 1"):
        read_manifest(manifest)
    write_companion(manifest, SAYS)
    for read in (read_manifest, read_labels):
        table = read(manifest)
        assert table.findings == ("Effusion", "Mass")
        assert table.column("device").tolist() == ["north", "south", "south", "north"]
        assert (table.blank, table.notes) == ("negative", ())
        np.testing.assert_array_equal(table.labels().values, [[1, 0], [0, 0], [0, 0], [np.nan, 1]])
        np.testing.assert_array_equal(table.labels("positive").values[3], [1, 1])
        np.testing.assert_array_equal(table.labels(blank="unknown").values[1], [np.nan, 0])
    assert read_manifest(manifest, extra=["Mass"]).findings == ("Effusion",), "what is named adds to what is declared"
    assert read_manifest(manifest, extra=["device"]).findings == ("Effusion", "Mass")


def test_the_folder_of_the_radiographs(manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = tmp_path / "images"
    images.mkdir()
    root = relative_root(images, manifest)
    assert root == "../images"
    write_companion(manifest, Companion(not_findings=("device",), root=root))
    assert read_manifest(manifest).root.resolve() == images
    assert read_manifest(manifest, root=tmp_path).root == tmp_path, "what is named wins"
    assert places_of(manifest).root.resolve() == images  # type: ignore[attr-defined]
    # Both folders move together, and a link to the manifest's folder is as good as it.
    (tmp_path / "new").mkdir()
    os.rename(images, tmp_path / "new" / "images")
    os.rename(manifest.parent, tmp_path / "new" / "set")
    (tmp_path / "link").symlink_to(tmp_path / "new" / "set")
    assert read_manifest(tmp_path / "link" / "nih.csv").root.resolve() == tmp_path / "new" / "images"
    monkeypatch.chdir(tmp_path / "new" / "set")
    assert read_manifest("nih.csv").root == Path("../images")
    os.rename(tmp_path / "new" / "images", tmp_path / "new" / "gone")
    with pytest.raises(ManifestError, match=r"images: no such folder, and nih\.json says .* are there; give `root`"):
        read_manifest("nih.csv")
    assert len(read_labels("nih.csv")) == 4, "labels need no pictures"
    assert relative_root(tmp_path / "new" / "set", "nih.csv") is None


def test_a_manifest_that_was_changed_is_said(manifest: Path) -> None:
    write_companion(manifest, SAYS)
    manifest.write_text(HEAD + ROWS + "i4,e.png,p4,north,1,1\n")
    table = read_manifest(manifest)
    assert len(table) == 5
    assert table.blank == "negative", "it still holds; only the user can say otherwise"
    assert "nih.csv has changed since nih.json was written for it (20" in table.notes[0]
    cases = join(table, Side(np.array(["i0"]), "s.csv", "score"), columns=["Effusion"])
    assert table.notes[0] in cases.notes
    write_companion(manifest, SAYS)
    assert read_manifest(manifest).notes == ()


def test_a_companion_of_another_table_is_not_used(manifest: Path) -> None:
    write_companion(manifest, SAYS)
    packed = manifest.with_name("nih.csv.gz")
    packed.write_bytes(gzip.compress((HEAD.replace("device,", "") + "i0,a.png,p0,1,\n").encode()))
    table = read_manifest(packed)
    assert table.companion is None
    assert table.notes == ("nih.json is the companion of nih.csv: what it says is not used for nih.csv.gz",)
    packed.write_bytes(manifest.read_bytes())  # not packed at all, but the very same bytes
    assert read_companion(packed)[0] is not None
    packed.unlink()
    os.rename(manifest, manifest.with_name("mine.csv"))
    os.rename(companion_path(manifest), manifest.with_name("mine.json"))
    assert read_manifest(manifest.with_name("mine.csv")).notes == (), "both may have another name"


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"blank": "positive"}, "blank is not unknown or negative"),
        ({"blank": None}, "blank is not unknown or negative"),
        ({"blank": ["unknown"]}, "blank is not unknown or negative"),
        ({"not_findings": "device"}, "not_findings is not a list of names"),
        ({"not_findings": ["device", 1]}, "not_findings is not a list of names"),
        ({"not_findings": [""]}, "not_findings is not a list of names"),
        ({"root": 1}, "root is not text"),
        ({"root": "a\0b"}, "root is not text"),
        ({"title": None}, "title is not text"),
        ({"blanks": "negative"}, "'blanks' is unknown"),
        ({"version": 0}, "version 0"),
        ({"version": True}, "version True"),
        ({"version": "1"}, "version '1'"),
        ({"version": None}, "version None"),
    ],
)
def test_a_damaged_companion_is_an_error_of_one_line(manifest: Path, values: dict[str, Any], fault: str) -> None:
    write_companion(manifest, SAYS)
    change(manifest, **values)
    with pytest.raises(ManifestError) as caught:
        read_manifest(manifest)
    assert str(caught.value) == (
        f"{companion_path(manifest)}: a manifest's companion, damaged ({fault}); "
        "restore it, or remove it and scan again"
    )


def test_of_a_newer_release(manifest: Path) -> None:
    write_companion(manifest, SAYS)
    change(manifest, version=2, something={"new": 1})
    with pytest.raises(ManifestError, match=r"companion of version 2, this release reads 1; update cxr-embed$"):
        read_labels(manifest)


@pytest.mark.parametrize("left", [b"", b"\0" * 40, b"\n", b'{"format": "cxr_embed.manifest", "versi'])
def test_an_interrupted_copy(manifest: Path, left: bytes) -> None:
    companion_path(manifest).write_bytes(left)
    with pytest.raises(ManifestError, match=r"a manifest's companion, damaged \(not JSON\)"):
        read_manifest(manifest, extra=["device"])


@settings(max_examples=60)
@given(data=st.data())
def test_no_part_of_it_passes_for_another_file(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("cut") / "nih.csv"
    path.write_text(HEAD + ROWS)
    write_companion(path, SAYS)
    whole = companion_path(path).read_bytes()
    end = data.draw(st.integers(40, len(whole) - 3))
    companion_path(path).write_bytes(whole[:end])
    with pytest.raises(ManifestError, match="damaged"):
        read_manifest(path)


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", "3", '"cxr_embed"', '{"format": "cxr_embed.curve", "version": 1}', "[" * 100_000, "no JSON", "\x89"],
)
def test_any_other_json_is_left_alone(manifest: Path, text: str) -> None:
    other = companion_path(manifest)
    other.write_text(text)
    assert read_manifest(manifest, extra=["device"]).companion is None
    with pytest.raises(ManifestError, match=r"nih\.json: there already, which is not a manifest's companion; give"):
        write_companion(manifest, SAYS)
    with pytest.raises(ManifestError, match="which is not a manifest's companion"):
        write_companion(manifest, SAYS, replaces=True)
    assert other.read_text() == text
    other.unlink()
    other.mkdir()
    assert read_manifest(manifest, extra=["device"]).companion is None
    with pytest.raises(ManifestError, match="which is not a manifest's companion"):
        check_new_companion(manifest, SAYS)


def test_a_huge_json_is_not_read(manifest: Path) -> None:
    with open(companion_path(manifest), "wb") as file:
        file.truncate(1 << 34)
    assert read_manifest(manifest, extra=["device"]).companion is None


def test_a_column_that_the_manifest_lacks(manifest: Path) -> None:
    write_companion(manifest, Companion(not_findings=("device", "weight", "height")))
    with pytest.raises(ManifestError) as caught:
        read_manifest(manifest)
    assert caught.value.problems == (
        "nih.json, not_findings weight: the manifest has no such column",
        "nih.json, not_findings height: the manifest has no such column",
    )


def test_it_never_replaces_what_says_something_else(manifest: Path) -> None:
    write_companion(manifest, SAYS)
    with pytest.raises(
        ManifestError, match=r"nih\.json: there already, and it says something else \(blank, root\); give"
    ):
        write_companion(
            manifest, Companion(**{**SAYS.facts(), "blank": "unknown", "root": "x", "not_findings": ("device",)})
        )
    write_companion(manifest, Companion(not_findings=("device",)), replaces=True)
    assert read_manifest(manifest).blank == "unknown"


def test_what_we_change_ourselves_keeps_its_companion(manifest: Path) -> None:
    write_companion(manifest, SAYS)
    with kept_fresh(manifest):
        manifest.write_text(HEAD + ROWS[: ROWS.index("i3")])
    assert read_manifest(manifest).notes == ()
    manifest.write_text(HEAD + ROWS)
    with kept_fresh(manifest):
        manifest.write_text(HEAD + "i0,a.png,p0,north,1,\n")
    assert read_manifest(manifest).notes != (), "what did not fit before does not after"
    companion_path(manifest).write_text("")
    with kept_fresh(manifest):
        pass
    companion_path(manifest).unlink()
    with kept_fresh(manifest):
        pass
    assert not companion_path(manifest).exists()


def test_a_copy_elsewhere_means_the_same_files(manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    known = Companion(not_findings=("device",), root="../images", boxes="nih.boxes.csv")
    copy = tmp_path / "a" / "b" / "copy.csv"
    copy.parent.mkdir(parents=True)
    made = moved(known, manifest, copy)
    assert (made.root, made.boxes, made.not_findings) == ("../../images", "../../set/nih.boxes.csv", ("device",))
    assert root_of(made, copy).resolve() == tmp_path / "images"
    assert moved(None, manifest, manifest.with_name("copy.csv")) == Companion()
    assert moved(None, manifest, copy).root == "../../set"


def test_a_manifest_that_was_made_by_hand(manifest: Path, tmp_path: Path) -> None:
    done = run_cli("manifest", "describe", str(manifest), "--blank", "negative")
    assert (done.returncode, "finding device is not 0, 1" in done.stderr) == (1, True)
    assert not companion_path(manifest).exists()
    (tmp_path / "films").mkdir()
    arguments = ["--extra", "device", "--blank", "negative", "--root", str(tmp_path / "films")]
    done = run_cli("manifest", "describe", str(manifest), *arguments)
    assert (done.returncode, f"{companion_path(manifest)} says:" in done.stdout) == (0, True), done.stderr
    table = read_manifest(manifest)
    assert (table.findings, table.blank, table.root.resolve()) == (("Effusion", "Mass"), "negative", tmp_path / "films")
    manifest.write_text((HEAD + ROWS).replace("device", "machine").replace("Mass", "room"))
    with pytest.raises(ManifestError, match="not_findings device: the manifest has no such column"):
        read_manifest(manifest)
    shown = json.loads(run_cli("manifest", "describe", str(manifest), "--extra", "machine", "--json").stdout)
    assert (shown["not_findings"], shown["blank"], shown["root"]) == (["machine"], "negative", "../films")
    assert read_manifest(manifest).notes == ()
    assert describe_manifest(manifest, extra=["room"], blank="unknown").findings == ("Effusion",)
    with pytest.raises(ManifestError, match=r"none: no such folder \(`root`\)"):
        describe_manifest(manifest, root=tmp_path / "none")
    with pytest.raises(ManifestError, match="`extra` nobody: the manifest has no such column"):
        describe_manifest(manifest, extra=["nobody"])
    packed = manifest.with_name("nih.csv.gz")
    packed.write_bytes(gzip.compress(b"image_id,X\ni0,1\n"))
    with pytest.raises(ManifestError, match=r"is the companion of nih\.csv: .*; rename one of the tables"):
        describe_manifest(packed)
    companion_path(manifest).write_text("{}")
    with pytest.raises(ManifestError, match="which is not a manifest's companion"):
        describe_manifest(manifest, extra=["machine"])


CELL = st.sampled_from(["0", "1", "", "-1"])


@settings(max_examples=100)
@given(
    rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6),
    declared=st.sampled_from(["unknown", "negative"]),
    said=st.sampled_from([None, "unknown", "negative"]),
    uncertain=st.sampled_from(["unknown", "positive", "negative"]),
)
def test_labels_are_those_of_a_plain_loop(
    rows: list[tuple[str, str]], declared: Any, said: Any, uncertain: Any
) -> None:
    names = [f"i{n}" for n in range(len(rows))]
    table = pa.table({"image_id": names, "X": [row[0] for row in rows], "Y": [row[1] for row in rows]})
    labels = cx.manifest.Manifest(table, Path(), ("X", "Y"), Companion(blank=declared))
    blank = {"unknown": np.nan, "negative": 0.0}[said or declared]
    minus = {"unknown": np.nan, "positive": 1.0, "negative": 0.0}[uncertain]
    numbers = {"0": 0.0, "1": 1.0, "": blank, "-1": minus}
    expected = [[numbers[cell] for cell in row] for row in rows]
    np.testing.assert_array_equal(labels.labels(uncertain, said).values, expected)
    cases = join(labels, Side(np.array(names), "v", "vector"), columns=["X", "Y"], uncertain=uncertain, blank=said)
    np.testing.assert_array_equal(cases.labels, expected)
    assert cases.blank == (said or declared)
    note = next((note for note in cases.notes if "(`blank`)" in note), "")
    blanks = sum(row.count("") for row in rows)
    assert bool(note) == (cases.blank == "negative" and blanks > 0)
    if note:
        assert note.startswith(f"{blanks} blank label")
        bare = sum(row == ("", "") for row in rows)
        assert f"{bare} image" in note if bare else "no label at all" not in note


def test_labels_in_memory_have_no_blanks() -> None:
    labels = Labels(np.array(["a"]), ("X",), np.array([[np.nan]], np.float32))
    side = Side(np.array(["a"]), "scores", "score")
    assert join(labels, side, columns=["X"], blank="unknown").blank == "unknown"
    with pytest.raises(CasesError, match=r"`blank`: labels in memory have no blanks, NaN is unknown; write 0"):
        join(labels, side, columns=["X"], blank="negative")
    with pytest.raises(ManifestError, match="`blank` is one of unknown, negative, not 'positive'"):
        labels_of_table(pa.table({"image_id": ["a"], "X": ["1"]})).labels(blank="positive")  # type: ignore[arg-type]


def test_a_probe_of_an_earlier_release_has_unknown_blanks() -> None:
    earlier = {"file": "l.csv", "sha256": "", "split": None, "uncertain": "unknown", "images": 1, "patients": 1}
    assert LabelRecord(**earlier, counts={}).blank == "unknown"  # type: ignore[arg-type]


def many(folder: Path, count: int = 40) -> Path:
    """Labels of which half are blank, a companion that says that these are negative, and scores."""
    rows = [f"i{n},p{n // 2},{'test' if n % 4 > 1 else 'train'},{'1' if n % 2 else ''}" for n in range(count)]
    path = folder / "labels.csv"
    path.write_text("image_id,patient_id,split,Effusion\n" + "\n".join(rows) + "\n")
    write_companion(path, Companion(blank="negative"))
    scores = [f"i{n},{(n % 2) / 2 + (n % 7) / 14:.3f}" for n in range(count)]
    (folder / "scores.csv").write_text("image_id,Effusion\n" + "\n".join(scores) + "\n")
    return path


def test_figures_say_what_blank_counted_as(tmp_path: Path) -> None:
    labels = many(tmp_path)
    found = evaluate(tmp_path / "scores.csv", labels, bootstraps=0)
    assert (found.to_json()["blank"], found.findings[0].n) == ("negative", 40)
    assert any("20 blank labels count as negative (`blank`)" in warning for warning in found.warnings)
    other = evaluate(tmp_path / "scores.csv", labels, blank="unknown", bootstraps=0)
    assert (other.to_json()["blank"], other.findings[0].n) == ("unknown", 20)
    done = run_cli("evaluate", str(tmp_path / "scores.csv"), str(labels), "--bootstraps", "0", "--json")
    assert json.loads(done.stdout)["blank"] == "negative"
    done = run_cli("evaluate", str(tmp_path / "scores.csv"), str(labels), "--blank", "unknown", "--json")
    assert json.loads(done.stdout)["blank"] == "unknown"
    done = run_cli("evaluate", str(tmp_path / "scores.csv"), str(labels), "--blank", "positive")
    assert done.returncode == 2
    table = read_labels(labels)
    assert (
        cx.compare(tmp_path / "scores.csv", tmp_path / "scores.csv", table, bootstraps=0).to_json()["blank"]
        == "negative"
    )


def test_a_report_says_it(tmp_path: Path) -> None:
    labels = many(tmp_path)
    out = tmp_path / "report.html"
    arguments = [
        "report",
        str(tmp_path / "scores.csv"),
        str(labels),
        "--bootstraps",
        "0",
        "--out",
        str(out),
    ]
    done = run_cli(*arguments)
    assert done.returncode == 0, done.stderr
    page = out.read_text()
    assert "Blank labels count as negative." in page
    assert "20 blank labels count as negative" in page
    done = run_cli(*arguments, "--blank", "unknown")
    assert "Blank labels count as negative." not in out.read_text()
    # And of labels that are open already, which a report writes aside.
    cx.report(tmp_path / "scores.csv", read_labels(labels), out=out, bootstraps=0)
    assert "20 blank labels count as negative" in out.read_text()


def test_probes_curves_and_indexes_read_it(tmp_path: Path) -> None:
    labels = many(tmp_path)
    fill(tmp_path / "store", range(40))
    store = cx.open_store(tmp_path / "store")
    probe = cx.train_probe(store, labels, C=1.0)
    assert probe.trained.labels.blank == "negative"
    assert probe.trained.labels.counts["Effusion"] == {"positive": 10, "negative": 10, "unknown": 0}
    probe.save(tmp_path / "probe")
    assert json.loads((tmp_path / "probe" / "probe.json").read_text())["labels"]["blank"] == "negative"
    assert cx.load_probe(tmp_path / "probe").trained.labels.blank == "negative"
    assert any("blank labels count as negative" in note for note in probe.notes)
    with pytest.raises(cx.CxrEmbedError):
        cx.train_probe(store, labels, C=1.0, blank="unknown").evaluate(store, labels, blank="unknown", split="nowhere")
    curve = cx.few_label_curve(store, labels, shots=[1], seeds=1)
    assert curve.to_json()["labels"]["blank"] == "negative"
    index = cx.build_index(store, labels, path=tmp_path / "index", output="features")
    assert index.index.table["Effusion"].to_pylist().count(0) == 20
    assert "blank labels are kept as negative, as the manifest's companion says" in index.notes
    companion_path(labels).unlink()
    index = cx.build_index(store, labels, path=tmp_path / "other", output="features")
    assert index.index.table["Effusion"].null_count == 20


def test_embed_needs_no_root(tmp_path: Path) -> None:
    for name in ("a", "b"):
        pixels = np.random.default_rng(0).integers(0, 256, (80, 80)).astype(np.uint8)
        (tmp_path / "films").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(tmp_path / "films" / f"{name}.png")
    out = tmp_path / "made" / "m.csv"
    done = run_cli("manifest", "scan", str(tmp_path / "films"), "--out", str(out), "--keep-patient-id")
    assert done.returncode == 0, done.stderr
    assert run_cli("embed", str(out), "--encoder", "hog", "--store", str(tmp_path / "s")).returncode == 0
    again = run_cli("manifest", "scan", str(tmp_path / "films"), "--out", str(out), "--keep-patient-id")
    assert again.returncode == 0, again.stderr
    shown = run_cli("manifest", "validate", str(out))
    assert "../films" in shown.stdout
    out.write_text(out.read_text() + "\n")
    shown = run_cli("manifest", "validate", str(out))
    assert (shown.returncode, "has changed since" in shown.stderr) == (0, True)
    embedded = run_cli("embed", str(out), "--encoder", "hog", "--store", str(tmp_path / "s"))
    assert "note: m.csv has changed since m.json was written" in embedded.stdout + embedded.stderr
    found = json.loads(run_cli("manifest", "validate", str(out), "--json").stdout)
    assert (found["companion"]["root"], len(found["notes"])) == ("../films", 1)
    companion_path(out).write_text("{}")
    refused = run_cli("manifest", "scan", str(tmp_path / "films"), "--out", str(out), "--keep-patient-id")
    assert (refused.returncode, "which is not a manifest's companion" in refused.stderr) == (1, True)


def test_a_scan_whose_companion_cannot_be_written_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "films").mkdir()
    Image.fromarray(np.full((80, 80), 9, np.uint8)).save(tmp_path / "films" / "a.png")
    (tmp_path / "m.json").write_text('{"mine": 1}')
    done = run_cli("manifest", "scan", str(tmp_path / "films"), "--out", str(tmp_path / "m.csv"), "--keep-patient-id")
    assert done.returncode == 1
    assert sorted(os.listdir(tmp_path)) == ["films", "m.json"]
    write_new_manifest(tmp_path / "n.csv", {"image_id": ["a"]})
