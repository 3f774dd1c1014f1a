"""`cxr-embed manifest ...` as a user meets it: output, exit status, errors without tracebacks."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import synthetic_chests
from helpers import run_cli
from PIL import Image

from cxr_embed.cli import main
from cxr_embed.datasets import recipe_names
from cxr_embed.manifest import read_manifest


@dataclass
class Outcome:
    status: int
    out: str
    err: str

    @property
    def json(self) -> dict[str, object]:
        value: dict[str, object] = json.loads(self.out)
        return value


Run = Callable[..., Outcome]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process; any other exception than SystemExit would be a traceback."""

    def call(*words: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["cxr-embed", "manifest", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        captured = capsys.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    return call


def refused(outcome: Outcome, part: str, lines: int = 2) -> None:
    assert outcome.status == 1
    assert outcome.err.startswith("error: ")
    assert part in outcome.err
    assert len(outcome.err.splitlines()) <= lines
    assert outcome.out == ""


@pytest.fixture
def chests(tmp_path: Path) -> Path:
    """Two studies of each of three patients; the last patient's are DICOM files."""
    folder = tmp_path / "my chests"
    folder.mkdir()
    for number in range(6):
        pixels = np.full((64, 64), number, np.uint16)
        name = folder / f"P{number // 2}_{number % 2}"
        if number >= 4:
            synthetic_chests.write_dicom(name.with_suffix(".dcm"), pixels, f"P{number // 2}", number)
        else:
            Image.fromarray(pixels.astype(np.uint8)).save(name.with_suffix(".png"))
    return folder


# scan


def test_scan_then_validate(run: Run, chests: Path) -> None:
    outcome = run("scan", chests, "--out", chests / "manifest.csv")
    assert outcome.status == 0
    assert "manifest.csv: 6 images of 5 patients" in outcome.out
    key = Path(os.environ["HOME"]) / ".config" / "cxr-embed" / "patient-id.key"
    assert f"hashed with the key in {key}" in outcome.out
    assert "--root" not in outcome.out
    assert "the patient of 4 images is unknown" in outcome.err
    assert "P2" not in read_manifest(chests / "manifest.csv").column("patient_id").tolist()
    again = run("validate", chests / "manifest.csv")
    assert (again.status, again.err) == (0, "")
    assert "6 images of 5 patients, 0 findings" in again.out


def test_scan_without_out_writes_nothing(run: Run, chests: Path, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    outcome = run("scan", chests)
    assert outcome.status == 0
    first, last = outcome.out.splitlines()
    assert first == f"{chests}: 6 images of 5 patients"
    assert last == "nothing written; `--out FILE` writes the manifest"
    assert sorted(tmp_path.rglob("*")) == before
    assert not (Path(os.environ["HOME"]) / ".config").exists(), "no key is made where no id is kept"


@pytest.mark.parametrize("name", ["manifest.csv", "manifest.parquet"])
def test_scan_again_leaves_the_same_manifest_alone(run: Run, chests: Path, name: str) -> None:
    out = chests / name
    assert run("scan", chests, "--out", out).status == 0
    before = out.read_bytes(), out.stat().st_ino
    outcome = run("scan", chests, "--out", out)
    assert outcome.status == 0
    assert "6 images of 5 patients" in outcome.out
    assert (out.read_bytes(), out.stat().st_ino) == before, "it is not even written anew"


def test_scan_never_replaces_another_file(run: Run, chests: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.csv"
    what_to_do = "give another --out, or remove the file first"
    for text in ("", "\x00\xff", "notes, kept\nby someone,\n", '"'):
        out.write_text(text)
        # Before the scan, which may take long: of this folder it could only say that it is not there.
        outcome = run("scan", tmp_path / "absent", "--out", out)
        refused(outcome, f"{out}: there already")
        assert what_to_do in outcome.err
        assert out.read_text() == text
    out.unlink()
    assert run("scan", chests, "--out", out).status == 0
    before = out.read_bytes()
    (chests / "P0_0.png").unlink()
    outcome = run("scan", chests, "--out", out)
    refused(outcome, f"{out}: there already, with other rows than this manifest has; {what_to_do}")
    assert out.read_bytes() == before
    out.unlink()
    out.symlink_to(tmp_path / "nowhere.csv")
    refused(run("scan", chests, "--out", out), f"{out}: there already")
    assert out.is_symlink()


def test_scan_with_a_pattern_and_clear_ids(run: Run, chests: Path, tmp_path: Path) -> None:
    pattern = ("--patient-pattern", "(P[0-9])_")
    outcome = run("scan", chests, *pattern, "--keep-patient-id", "--out", tmp_path / "clear.csv")
    assert (outcome.status, outcome.err) == (0, "")
    assert "hashed" not in outcome.out
    table = read_manifest(tmp_path / "clear.csv", root=chests)
    assert table.column("patient_id").tolist() == ["P0", "P0", "P1", "P1", "P2", "P2"]
    assert not (Path(os.environ["HOME"]) / ".config").exists(), "no key is made where none is needed"
    hashed = run("scan", chests, *pattern, "--out", tmp_path / "hashed.csv")
    assert "6 images of 3 patients" in hashed.out
    rows = [line.split(",") for line in (tmp_path / "hashed.csv").read_text().splitlines()]
    assert not any(patient in row[0] + row[2] for row in rows for patient in ("P0", "P1", "P2"))


def test_scan_writes_elsewhere_with_a_hint(run: Run, chests: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "made.parquet"
    outcome = run("scan", chests, "--out", out)
    assert outcome.status == 0
    assert f"paths are relative to {chests}, as {out.with_suffix('.json')} says" in outcome.out
    assert len(read_manifest(out)) == 6
    assert run("validate", out, "--root", chests).status == 0
    assert run("validate", out).status == 0
    out.with_suffix(".json").unlink()
    assert run("validate", out).status == 1


def test_scan_json(run: Run, chests: Path) -> None:
    (chests / "notes.txt").write_text("x")
    (chests / "bad\nname.png").write_text("x")
    outcome = run("scan", chests, "--json")
    assert (outcome.status, outcome.err) == (0, "")
    written = run("scan", chests, "--json", "--out", chests / "manifest.csv")
    assert (written.status, written.err) == (0, "")
    paths = {"manifest": str(chests / "manifest.csv"), "companion": str(chests / "manifest.json")}
    assert written.json == {**outcome.json, **paths}
    assert outcome.json == {
        "manifest": None,
        "companion": None,
        "root": str(chests),
        "images": 6,
        "patients": 5,
        "lateral_views": 0,
        "without_patient": 4,
        "not_found": 0,
        "unlisted": 0,
        "others": {},
        "linked_away": [],
        "recipe": "folder",
        "labelled_by": None,
        "not_findings": [],
        "boxes": 0,
        "unmatched": None,
        "skipped": [
            {"path": "bad\nname.png", "reason": "its name holds a control character, or a space at its end"},
            {"path": "notes.txt", "reason": "no PNG, JPEG, TIFF or DICOM file"},
        ],
        "problems": [],
    }


def test_scan_with_a_key_file(run: Run, chests: Path, tmp_path: Path) -> None:
    key = tmp_path / "hospital.key"
    refused(run("scan", chests, "--key-file", key), "No such file or directory")
    key.write_text("short")
    refused(run("scan", chests, "--key-file", key), "at least 16 characters")
    hashes = []
    for number, secret in enumerate(("a" * 32, "b" * 32, "a" * 32)):
        key.write_text(secret + "\n")
        out = tmp_path / f"{number}.csv"
        assert run("scan", chests, "--key-file", key, "--out", out).status == 0
        hashes.append(read_manifest(out, root=chests).column("patient_id")[-1])
    assert hashes[0] == hashes[2] != hashes[1]
    refused(run("scan", chests, "--key-file", key, "--keep-patient-id"), "give one of them")


def test_scan_mistakes(run: Run, chests: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    file = tmp_path / "file"
    file.write_text("x")
    refused(run("scan", tmp_path / "absent"), "no such folder")
    refused(run("scan", file), "a file, not a folder")
    refused(run("scan", tmp_path / "empty"), "no radiograph found")
    refused(run("scan", chests, "--patient-pattern", "("), "not a regular expression")
    refused(run("scan", chests, "--patient-pattern", "P"), "needs one group")
    refused(run("scan", chests, "--recipe", "chexprt"), "is it chexpert?")
    refused(run("scan", chests, "--recipe", "nih-chestxray14"), "half a download, or another data set?")
    for out in (file / "m.csv", "/proc/m.csv", ".", "/", tmp_path / "m.xlsx"):
        refused(run("scan", chests, "--out", out), "another --out")
    outcome = run("scan", chests, "--out", chests)
    assert (outcome.status, "another --out" in outcome.err) == (2, True)
    # A name that cannot be written is told before the scan, which may take long.
    refused(run("scan", tmp_path / "empty", "--out", "m.xlsx"), "another --out")
    assert not (chests / "manifest.csv").exists()
    (tmp_path / "mine.yaml").write_text("images: []\ncolumns: {}\nsurprise: 1\n")
    outcome = run("scan", chests, "--recipe", tmp_path / "mine.yaml")
    refused(outcome, "not a recipe", lines=9)
    assert all(f"  {name}: " in outcome.err for name in ("name", "title", "licence", "images", "surprise"))


def test_scan_of_a_set_that_contradicts_itself_writes_it_and_fails(run: Run, tmp_path: Path) -> None:
    names = ["a.png", "b.png"]
    for name in names:
        Image.fromarray(np.zeros((64, 64), np.uint8)).save(tmp_path / name)
    columns = (
        "Image Index",
        "Finding Labels",
        "Follow-up #",
        "Patient ID",
        "Patient Age",
        "Patient Gender",
        "View Position",
    )
    rows = [",".join(columns), *(f"{name},Mass,0,1,50,M,PA" for name in names)]
    (tmp_path / "Data_Entry_2017.csv").write_text("\n".join(rows))
    (tmp_path / "test_list.txt").write_text("a.png\n")
    (tmp_path / "train_val_list.txt").write_text("b.png\n")
    out = ("--out", tmp_path / "manifest.csv")
    outcome = run("scan", tmp_path, "--recipe", "nih-chestxray14", *out)
    assert outcome.status == 1
    assert outcome.err.startswith("problem: a patient is in two splits: nih-1 in test, train\n")
    assert "2 images of 1 patient\n" in outcome.out
    assert "hashed" not in outcome.out, "published ids stay, and no key is made for them"
    assert not (Path(os.environ["HOME"]) / ".config").exists()
    as_json = run("scan", tmp_path, "--recipe", "nih-chestxray14", "--json", *out)
    assert as_json.status == 1
    assert as_json.json["problems"] == ["a patient is in two splits: nih-1 in test, train"]
    assert run("validate", tmp_path / "manifest.csv").status == 1


# validate


def test_validate_real(run: Run, real_data: Path) -> None:
    outcome = run("validate", real_data / "nih" / "manifest.csv", "--json")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.json["images"] == 1187
    assert outcome.json["patients"] == 959
    assert len(outcome.json["findings"]) == 15  # type: ignore[arg-type]
    assert outcome.json["problems"] == []


def test_validate_names_every_problem(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("image_id,patient_id,split,scanner\na,p,train,GE\na,p,test,GE\n")
    outcome = run("validate", path)
    refused(outcome, f"{path}: 4 problems", lines=5)
    for part in ("column path is missing", "image_id is not unique", "two splits", "name it with --extra"):
        assert part in outcome.err
    as_json = run("validate", path, "--json", "--extra", "scanner")
    assert (as_json.status, as_json.err) == (1, "")
    assert len(as_json.json["problems"]) == 3  # type: ignore[arg-type]
    assert set(as_json.json) == {"images", "patients", "findings", "problems", "recipe", "convert"}


def test_validate_missing_files(run: Run, make_images: Callable[..., Path], tmp_path: Path) -> None:
    path = make_images(8)
    assert run("validate", path).status == 0
    for number in range(7):
        (path.parent / f"i{number}.png").unlink()
    outcome = run("validate", path)
    assert outcome.status == 1
    assert "7 of 8 files are missing" in outcome.err
    assert "i4.png, ..." in outcome.err
    assert "findings: Effusion (-1 and blank count as unknown)" in outcome.out
    as_json = run("validate", path, "--json")
    assert as_json.status == 1
    assert "7 of 8 files are missing" in str(as_json.json["problems"])
    assert "no such folder" in run("validate", path, "--root", tmp_path / "absent").err


@pytest.mark.parametrize("name", ["absent.csv", "folder", "rubbish.csv", "rubbish.parquet", "empty.csv"])
def test_validate_what_is_no_manifest(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    for rubbish in ("rubbish.csv", "rubbish.parquet"):
        (tmp_path / rubbish).write_bytes(b"\x89PNG\r\n\x1a\n\0\xff\xfe")
    (tmp_path / "empty.csv").touch()
    refused(run("validate", tmp_path / name), name)
    as_json = run("validate", tmp_path / name, "--json")
    assert as_json.status == 1
    assert len(as_json.json["problems"]) == 1  # type: ignore[arg-type]


# recipes, help


def test_recipes(run: Run) -> None:
    outcome = run("recipes")
    assert outcome.status == 0
    assert [line.split()[0] for line in outcome.out.splitlines()] == recipe_names()
    listed = json.loads(run("recipes", "--json").out)
    assert [entry["name"] for entry in listed] == recipe_names()
    assert "CVPR 2017" in {entry["name"]: entry["citation"] for entry in listed}["nih-chestxray14"]


@pytest.mark.parametrize("verb", ["scan", "validate", "recipes"])
def test_help_has_an_example(run: Run, verb: str) -> None:
    outcome = run(verb, "--help")
    assert outcome.status == 0
    assert f"cxr-embed manifest {verb}" in " ".join(outcome.out.split("Example:")[1].split())
    assert "--json" in outcome.out


def test_wrong_words_are_a_usage_error(run: Run, chests: Path) -> None:
    for words in (("scan",), ("scan", chests, "--nope"), ("validate",), ("fly",)):
        outcome = run(*words)
        assert outcome.status == 2
        assert "Traceback" not in outcome.err


def test_names_that_are_not_ascii_in_a_plain_locale(chests: Path) -> None:
    (chests / "P0_0.png").rename(chests / "胸部.png")
    words = [sys.executable, "-m", "cxr_embed", "manifest"]
    environment = {**os.environ, "LC_ALL": "C"}
    out = ["--out", chests / "manifest.csv"]
    scanned = subprocess.run([*words, "scan", chests, *out], capture_output=True, env=environment, check=False)
    assert b"Traceback" not in scanned.stderr
    assert scanned.returncode == 0
    (chests / "胸部.png").unlink()
    validated = subprocess.run(
        [*words, "validate", chests / "manifest.csv"], capture_output=True, env=environment, check=False
    )
    assert b"Traceback" not in validated.stderr
    assert validated.returncode == 1
    assert b"1 of 6 files are missing" in validated.stderr


def test_a_table_with_labels_is_not_replaced(run: Run, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((70, 70), np.uint8)).save(tmp_path / "a.png")
    manifest = tmp_path / "manifest.csv"
    command = ["scan", str(tmp_path), "--out", manifest]
    assert run(*command).status == 0
    labelled = manifest.read_text().replace("sex", "sex,Effusion").replace("\n", ",\n").replace("Effusion,", "Effusion")
    manifest.write_text(labelled)
    done = run(*command)
    assert done.status == 1
    assert "there already, with other columns (Effusion) than this manifest has" in done.err
    assert manifest.read_text() == labelled


def test_a_wrong_root_is_told_at_once_and_leaves_no_store(
    make_images: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = make_images(5)
    (tmp_path / "elsewhere").mkdir()
    other = tmp_path / "elsewhere"
    words = ["embed", str(path), "--encoder", "hog", "--store", str(tmp_path / "s"), "--root", str(other)]
    monkeypatch.setattr(sys, "argv", ["cxr-embed", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    err = capsys.readouterr().err
    assert ended.value.code == 1
    assert "none of the manifest's files is there; give --root" in err
    assert [line.strip() for line in err.splitlines()[1:]] == [str(other / f"i{n}.png") for n in range(3)]
    assert not (tmp_path / "s").exists()
    # One that is there is enough, wherever it stands.
    shutil.copy(path.parent / "i4.png", tmp_path / "elsewhere" / "i4.png")
    with pytest.raises(SystemExit):
        main()
    assert "1 embedded" in capsys.readouterr().out


def test_links_that_lead_out_of_the_root_are_named(run: Run, make_images: Callable[..., Path], tmp_path: Path) -> None:
    path = make_images(4)
    outside = tmp_path / "outside"
    outside.mkdir()
    for number in (1, 2):
        (path.parent / f"i{number}.png").rename(outside / f"i{number}.png")
    (path.parent / "i1.png").symlink_to(outside / "i1.png")
    (path.parent / "deep").symlink_to(outside)
    (path.parent / "i3.png").rename(path.parent / "kept.png")
    (path.parent / "i3.png").symlink_to("kept.png")
    path.write_text(path.read_text().replace("i2.png", "deep/i2.png"))
    outcome = run("validate", path)
    assert outcome.status == 0
    assert f"warning: 2 paths of 4 lead out of {path.parent} through a link (first i1.png)" in outcome.err
    assert run("validate", path, "--json").json["linked_away"] == ["i1.png", "deep/i2.png"]
    scanned = run("scan", path.parent, "--out", tmp_path / "scanned.csv", "--json").json
    assert scanned["linked_away"] == ["deep/i1.png", "deep/i2.png", "i1.png"]
    # The root may be a link itself.
    (tmp_path / "linked").symlink_to(path.parent)
    (path.parent / "i1.png").unlink()
    (outside / "i1.png").rename(path.parent / "i1.png")
    assert run("validate", path, "--root", tmp_path / "linked", "--json").json["linked_away"] == ["deep/i2.png"]


def test_a_damaged_companion_is_named_and_a_manifest_is_no_publisher_s_table(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        "image_id,path,patient_id,Cardiomegaly,Edema,Pneumonia,Pneumothorax,Consolidation\n1,1.png,a,1,0,0,0,2\n"
    )
    assert "own table" not in run_cli("manifest", "validate", str(path)).stderr  # a 2 is all that is wrong
    (tmp_path / "a.json").write_text('{"format": "cxr_embed.manifest", ')
    ran = run_cli("manifest", "validate", str(path))
    assert (ran.returncode, ran.stderr.count("\n")) == (1, 1)
    assert "a.json: a manifest's companion, damaged (not JSON)" in ran.stderr


def test_a_finding_that_is_misspelled_gets_the_nearest_name() -> None:
    assert (
        "efusion: not in the vocabulary of findings (did you mean Effusion?)"
        in run_cli("manifest", "findings", "efusion").stderr
    )
