"""A folder to a manifest: recipes, the folder scan, patient ids and their key."""

from __future__ import annotations

import csv
import importlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import synthetic_chests
from PIL import Image

from cxr_embed.datasets import ScanResult, load_recipe, recipe_names
from cxr_embed.datasets import scan as run
from cxr_embed.errors import ImageError, ManifestError
from cxr_embed.manifest import check_columns, read_manifest, write_manifest
from cxr_embed.store.keys import patient_key

datasets_scan = importlib.import_module("cxr_embed.datasets.scan")  # the attribute `scan` is the function
KEY = b"k" * 32
UID = "1.2.840.113619.2.5.1762583153.215519.978957063.78"


def png(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((64, 64), shade, np.uint8)).save(path, format="png")
    return path


def dicom(path: Path, patient: str = "P-1", study: int = 0, **tags: object) -> Path:
    """A small synthetic DICOM radiograph, with other tags where they are given."""
    import pydicom

    path.parent.mkdir(parents=True, exist_ok=True)
    synthetic_chests.write_dicom(path, np.zeros((64, 64), np.uint16), patient, study)
    if tags:
        dataset = pydicom.dcmread(path)
        for name, value in tags.items():
            setattr(dataset, name, value)
        dataset.save_as(path)
    return path


def scan(root: Path, key: bytes | None = KEY, recipe: str = "folder", pattern: str | None = None) -> ScanResult:
    return run(root, load_recipe(recipe), patient_key=key, patient_pattern=pattern)


def by_path(result: ScanResult, column: str) -> dict[str, str]:
    return dict(zip(result.columns["path"], result.columns[column], strict=True))


# Folder scan


def test_dicom_tags_fill_the_columns(tmp_path: Path) -> None:
    dicom(tmp_path / "a" / "one.dcm", "MRN 77", 3)
    png(tmp_path / "b.png")
    result = scan(tmp_path)
    assert result.columns["path"] == ["a/one.dcm", "b.png"]
    assert result.columns["image_id"] == ["a/one", "b"]
    assert by_path(result, "view") == {"a/one.dcm": "PA", "b.png": ""}
    assert by_path(result, "study_date") == {"a/one.dcm": "2024-04-15", "b.png": ""}
    assert by_path(result, "age") == {"a/one.dcm": "43", "b.png": ""}
    assert by_path(result, "sex") == {"a/one.dcm": "O", "b.png": ""}
    assert by_path(result, "patient_id")["b.png"] == "unknown-b"
    assert result.without_patient == 1
    write_manifest(tmp_path / "m.csv", result.columns)
    assert len(read_manifest(tmp_path / "m.csv")) == 2
    assert "MRN" not in (tmp_path / "m.csv").read_text()
    assert "SYNTHETIC" not in (tmp_path / "m.csv").read_text()


@pytest.mark.filterwarnings("ignore:.*:UserWarning:pydicom")
def test_only_listed_fields_leave_a_header(tmp_path: Path) -> None:
    dicom(tmp_path / "a.dcm", "MRN77", ViewPosition="SMITH JOHN", PatientSex="Nobody", PatientAge="old", StudyDate="")
    columns = scan(tmp_path).columns
    assert [columns[name] for name in ("view", "sex", "age", "study_date")] == [[""]] * 4


def test_the_patient_hash_depends_on_patient_and_key_only(tmp_path: Path) -> None:
    dicom(tmp_path / "x" / "a.dcm", "P-1", 0)
    dicom(tmp_path / "x" / "b.dcm", "P-1", 1)
    dicom(tmp_path / "x" / "c.dcm", "P-2", 0)
    dicom(tmp_path / "y" / "z.dcm", "P-1", 5)
    first, second = scan(tmp_path / "x").columns["patient_id"], scan(tmp_path / "y").columns["patient_id"]
    assert first[0] == first[1] == second[0] != first[2]
    assert scan(tmp_path / "x", b"q" * 32).columns["patient_id"][0] != first[0]
    assert scan(tmp_path / "x", None).columns["patient_id"] == ["P-1", "P-1", "P-2"]


def test_what_is_left_out(tmp_path: Path) -> None:
    png(tmp_path / "keep" / "a.png")
    dicom(tmp_path / "IM0001")
    shutil.copy(tmp_path / "IM0001", tmp_path / "DICOMDIR")
    png(tmp_path / ".hidden.png")
    png(tmp_path / ".git" / "b.png")
    png(tmp_path / "store" / "c.png")
    (tmp_path / "store" / "store.json").write_text("{}")
    for name, data in {"notes.txt": b"hello", "empty": b"", "x.pdf": b"%PDF-1.4", "fake.png": b"no picture"}.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    result = scan(tmp_path)
    assert result.columns["path"] == ["IM0001", "keep/a.png"]
    reasons = dict(result.skipped)
    assert set(reasons) == {"notes.txt", "empty", "x.pdf", "fake.png", "gone.png", "pipe.png"}
    assert reasons["pipe.png"] == "not a regular file"
    assert "No such file" in reasons["gone.png"]


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.104.1"}, "of the class Encapsulated PDF Storage, not an image"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.5"}, "of the class RT Plan Storage, not an image"),
        ({"SOPClassUID": "1.2.840.10008.1.3.10"}, "of the class Media Storage Directory Storage, not an image"),
        ({"SOPClassUID": "", "Modality": "RTPLAN"}, "a treatment plan"),
        ({"Rows": None}, "without an image"),
    ],
)
def test_dicom_files_that_are_no_images_are_left_out(tmp_path: Path, tags: dict[str, str | None], reason: str) -> None:
    import pydicom

    dicom(tmp_path / "image.dcm")
    path = dicom(tmp_path / "other.dcm")
    dataset = pydicom.dcmread(path)
    for name, value in tags.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    dataset.save_as(path)
    result = scan(tmp_path)
    assert result.columns["path"] == ["image.dcm"]
    ((name, told),) = result.skipped
    assert (name, reason in told) == ("other.dcm", True), told


def test_a_damaged_header_does_not_end_the_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dicom(tmp_path / "a.dcm")
    dicom(tmp_path / "b.dcm")
    read = datasets_scan.read_dicom_header

    def damaged(path: Path, key: bytes | None) -> object:
        if path.name == "a.dcm":
            raise ImageError("corrupt", "the DICOM header is damaged (ValueError)")
        return read(path, key)

    monkeypatch.setattr(datasets_scan, "read_dicom_header", damaged)
    result = scan(tmp_path)
    assert result.columns["path"] == ["b.dcm"]
    assert result.skipped == [("a.dcm", "the DICOM header is damaged (ValueError)")]
    (tmp_path / "c.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 400)
    assert "b.dcm" in scan(tmp_path).columns["path"]


def test_one_stem_with_several_suffixes(tmp_path: Path) -> None:
    png(tmp_path / "a.png")
    before = by_path(scan(tmp_path), "image_id")
    assert before == {"a.png": "a"}
    dicom(tmp_path / "a.dcm")
    png(tmp_path / "a.dcm.png")
    result = by_path(scan(tmp_path), "image_id")
    assert len(set(result.values())) == 3
    # The short id may vanish, but never pass to another image.
    assert [path for path, image_id in result.items() if image_id == "a"] in ([], ["a.png"])
    assert scan(tmp_path).problems == []


def test_image_ids_carry_a_uid_only_where_ids_are_kept(tmp_path: Path) -> None:
    short = "2.25.329800735698586629295641978511506172918"
    dicom(tmp_path / UID / short / f"{UID}.1.dcm")
    dicom(tmp_path / f"{UID}.2.dcm")
    png(tmp_path / f"{UID}.2.png")  # the same stem: the long id that tells them apart must not carry it either
    png(tmp_path / f"CR.{short}.png")
    result = scan(tmp_path)
    ids = result.columns["image_id"]
    assert len(set(ids)) == 4
    assert all(image_id.startswith("img-") and "." not in image_id for image_id in ids)
    assert scan(tmp_path).columns["image_id"] == ids
    assert not any(UID in patient or short in patient for patient in result.columns["patient_id"])
    kept = by_path(scan(tmp_path, None), "image_id")
    assert kept[f"CR.{short}.png"] == f"CR.{short}"
    assert kept[f"{UID}/{short}/{UID}.1.dcm"] == f"{UID}/{short}/{UID}.1"


def test_image_ids_never_carry_a_hashed_patient(tmp_path: Path) -> None:
    dicom(tmp_path / "MRN77" / "MRN77_1.dcm", "MRN77")
    png(tmp_path / "MRN77" / "MRN77_1.png")
    dicom(tmp_path / "IMG_0001.dcm", "1")
    clear = by_path(scan(tmp_path, None), "image_id")
    assert clear["MRN77/MRN77_1.dcm"] == "MRN77/MRN77_1.dcm"
    hashed = by_path(scan(tmp_path, KEY, pattern="(MRN[0-9]+)/"), "image_id")
    assert not any("MRN77" in image_id for image_id in hashed.values())
    assert len(set(hashed.values())) == 3
    assert hashed["IMG_0001.dcm"] == "IMG_0001"


def test_a_long_patient_id_is_found_inside_words_and_in_any_letters(tmp_path: Path) -> None:
    for name in ("P4711007.dcm", "mrn4711007/IM2.dcm", "IM4711007x.dcm"):
        dicom(tmp_path / name, "4711007")
    dicom(tmp_path / "abcd-12" / "1.dcm", "ABCD-12")
    ids = scan(tmp_path, KEY).columns["image_id"]
    assert len(set(ids)) == 4
    assert not any("4711007" in image_id or "abcd-12" in image_id.lower() for image_id in ids)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Meier^Änne", ["MEIER_x/a.dcm", "a\u0308nne.dcm", "b/meier-1.dcm"]),
        ("Yamada^Tarou=山田^太郎", ["Tarou Yamada.dcm", "山田/b.dcm"]),
    ],
)
def test_image_ids_never_carry_the_name_in_the_header(tmp_path: Path, name: str, told: list[str]) -> None:
    other = ["c/Meierhof.dcm", "plain.dcm"]
    for path in (*told, *other):
        dicom(tmp_path / path, SpecificCharacterSet="ISO_IR 192", PatientName=name)
    ids = by_path(scan(tmp_path, KEY), "image_id")
    assert len(set(ids.values())) == len(told) + len(other)
    assert all(ids[path].startswith("img-") for path in told)
    assert [ids[path] for path in other] == ["c/Meierhof", "plain"]
    clear = by_path(scan(tmp_path, None), "image_id")
    assert [clear[path] for path in told] == [path.removesuffix(".dcm") for path in told]


def any_name_goes(folder: Path) -> bool:
    """Whether the file system takes names that are not UTF-8; macOS's does not."""
    try:
        os.stat(os.fsencode(folder) + b"/\xff")
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def test_names_that_a_manifest_cannot_hold(tmp_path: Path) -> None:
    png(tmp_path / "good.png")
    names = [b"new\nline.png", b"c:evil.png", b"trailing.png ", b"bad\xff.png", b"dir\xfe/a.png"]
    for name in names[: 5 if any_name_goes(tmp_path) else 3]:
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        shutil.copy(tmp_path / "good.png", path)
    result = scan(tmp_path)
    assert result.columns["path"] == ["good.png"]
    assert len(result.skipped) == (5 if any_name_goes(tmp_path) else 3)
    for path, reason in result.skipped:
        path.encode()
        assert "name" in reason
    assert result.problems == []


def test_links_to_folders(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    png(root / "real" / "a.png")
    png(outside / "b.png")
    png(root / ".cache" / "c.png")
    (root / "real" / "up").symlink_to(root)
    (root / "aaa").symlink_to(root / "real")
    (root / "far").symlink_to(outside)
    (outside / "back").symlink_to(root)
    (root / "cached").symlink_to(root / ".cache")
    (root / "self").symlink_to(root / "self")
    # Each image once, by its real place where that is below the root.
    assert scan(root).columns["path"] == ["cached/c.png", "far/b.png", "real/a.png"]


def test_many_folders_that_link_to_each_other(tmp_path: Path) -> None:
    folders = [tmp_path / f"d{number}" for number in range(12)]
    for folder in folders:
        png(folder / "a.png")
    for folder in folders:
        for other in folders:
            (folder / f"to-{other.name}").symlink_to(other)
    assert len(scan(tmp_path)) == 12


def test_a_folder_that_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    png(tmp_path / "a.png")
    png(tmp_path / "locked" / "b.png")
    scandir = os.scandir

    def refuse(path: str | os.PathLike[str]) -> object:
        if os.fspath(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", os.fspath(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    result = scan(tmp_path)
    assert result.columns["path"] == ["a.png"]
    assert result.skipped == [("locked", "the folder cannot be read (Permission denied)")]


def test_folders_without_radiographs(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no radiograph found; .* no file is here$"):
        scan(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ManifestError, match=r"no radiograph found \(the first of 1 skipped: notes.txt: no PNG"):
        scan(tmp_path)
    with pytest.raises(ManifestError, match="no such folder"):
        scan(tmp_path / "absent")
    with pytest.raises(ManifestError, match="a file, not a folder"):
        scan(tmp_path / "notes.txt")


def test_patient_pattern(tmp_path: Path) -> None:
    png(tmp_path / "patient7" / "a.png")
    png(tmp_path / "patient7" / "b.png")
    png(tmp_path / "other" / "c.png")
    dicom(tmp_path / "d.dcm", "7")
    result = scan(tmp_path, None, pattern=r"patient(\d+)")
    assert by_path(result, "patient_id") == {
        "d.dcm": "7",
        "other/c.png": "unknown-other/c",
        "patient7/a.png": "7",
        "patient7/b.png": "7",
    }
    assert result.without_patient == 1
    hashed = by_path(scan(tmp_path, KEY, pattern=r"patient(\d+)"), "patient_id")
    # From a path or from a header, one patient is one hash.
    assert hashed["patient7/a.png"] == hashed["patient7/b.png"] == hashed["d.dcm"] != "7"
    # A group that took no part, or took nothing, tells no patient.
    for pattern in (r"x(\d+)?|patient", r"patient(z*)"):
        assert scan(tmp_path, KEY, pattern=pattern).without_patient == 3
    with pytest.raises(ManifestError, match="not a regular expression"):
        scan(tmp_path, pattern="(")
    with pytest.raises(ManifestError, match="needs one group"):
        scan(tmp_path, pattern=r"patient\d+")


def test_real_dicom_files(real_data: Path, tmp_path: Path) -> None:
    for path in (real_data / "dicom").glob("*.dcm"):
        (tmp_path / path.name).symlink_to(path)
    result = scan(tmp_path)
    assert {"mono1.dcm", "siim-mono2-jpeg.dcm"} <= set(result.columns["path"])
    assert result.problems == []


# The key


def test_the_key_is_made_once_for_this_user_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    key, path = patient_key(None)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.is_relative_to(os.environ["HOME"])
    assert len(key) == 64
    assert patient_key(None) == (key, path)
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    other, other_path = patient_key(None)
    assert other != key
    assert other_path.is_relative_to(tmp_path)


def test_two_scans_that_make_the_key_at_once_share_it(monkeypatch: pytest.MonkeyPatch) -> None:
    link, others = os.link, []

    def late(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", link)
        others.append(patient_key(None)[0])
        link(source, target)

    monkeypatch.setattr(os, "link", late)
    assert patient_key(None)[0] == others[0]


def test_key_files(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(ManifestError, match="give `key_file`"):
        patient_key(path)
    assert not path.exists(), "a key is never made where the user names one"
    for short in (b"", b"short\n", b" " * 64):
        path.write_bytes(short)
        with pytest.raises(ManifestError, match="at least 16"):
            patient_key(path)
    path.write_bytes(b"0123456789abcdef\n")
    assert patient_key(path) == (b"0123456789abcdef", path)
    with pytest.raises(ManifestError, match="give `key_file`"):
        patient_key(tmp_path)


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless(_: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    with pytest.raises(ManifestError, match="give `key_file`"):
        patient_key(None)


# NIH ChestX-ray14, as published

NIH_HEADER = [
    "Image Index",
    "Finding Labels",
    "Follow-up #",
    "Patient ID",
    "Patient Age",
    "Patient Gender",
    "View Position",
    "OriginalImage[Width",
    "Height]",
    "OriginalImagePixelSpacing[x",
    "y]",
]


def nih_folder(root: Path, rows: list[dict[str, str]], findings: list[str], **options: str) -> Path:
    """The official table and lists with the values of a manifest's rows."""
    with open(root / options.get("table", "Data_Entry_2017_v2020.csv"), "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(NIH_HEADER)
        for row in rows:
            told = [name for name in findings if row[name] == "1"]
            patient = row["patient_id"].removeprefix("nih-")
            age = options.get("age", "{}").format(row["age"])
            known = [f"{row['image_id']}.png", "|".join(told), row["follow_up"], patient, age, row["sex"], row["view"]]
            writer.writerow([*known, "2500", "2048", "0.168", "0.168"])
    for split, name in {"test": "test_list.txt", "train": "train_val_list.txt"}.items():
        names = [f"{row['image_id']}.png" for row in rows if row["split"] == split]
        (root / name).write_text("".join(f"{name}\n" for name in names))
    return root


def nih_rows(count: int = 3) -> tuple[list[dict[str, str]], list[str]]:
    recipe = load_recipe("nih-chestxray14")
    findings = recipe.findings(recipe.chosen_labels(None))
    assert findings
    rows = []
    for number in range(count):
        row = {
            "image_id": f"0000000{number}_000",
            "patient_id": f"nih-{number}",
            "follow_up": "0",
            "age": str(7 + 46 * number),
        }
        row |= {"sex": "MF"[number % 2], "view": "PA", "split": ["test", "train", ""][number % 3]}
        row |= {name: str(int(number == place)) for place, name in enumerate(findings)}
        rows.append(row)
    return rows, findings


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    rows, findings = nih_rows()
    for row in rows:
        png(tmp_path / "images" / f"{row['image_id']}.png")
    return nih_folder(tmp_path, rows, findings)


@pytest.mark.parametrize("options", [{}, {"table": "Data_Entry_2017.csv", "age": "{:0>3}Y"}], ids=["2020", "2017"])
def test_nih_agrees_with_the_real_manifest(real_data: Path, tmp_path: Path, options: dict[str, str]) -> None:
    real = read_manifest(real_data / "nih" / "manifest.csv")
    rows = real.table.to_pylist()
    nih_folder(tmp_path, rows, list(real.findings), **options)
    originals = sorted((real_data / "nih" / "originals").glob("*.png"))
    for number, path in enumerate(originals):
        folder = tmp_path / f"images_{1 + number % 2:03d}" / "images"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).symlink_to(path)
    result = scan(tmp_path, recipe="nih-chestxray14")
    assert len(result) == len(originals) == 40
    assert result.not_found == len(real) - 40
    assert result.problems == []
    assert result.without_patient == 0
    write_manifest(tmp_path / "manifest.csv", result.columns)
    made = read_manifest(tmp_path / "manifest.csv")
    assert made.findings == real.findings
    by_id = {row["image_id"]: row for row in rows}
    for row in made.table.to_pylist():
        expected = {**by_id[row["image_id"]], "path": row["path"]}
        assert row == expected
        assert (tmp_path / row["path"]).is_file()


def test_nih_image_in_no_list_and_files_that_are_not_of_it(nih: Path) -> None:
    png(nih / "images" / "stranger.png")
    png(nih / "copy" / "00000001_000.png")
    png(nih / "images" / "00000001_000.jpg")
    result = scan(nih, recipe="nih-chestxray14")
    assert by_path(result, "split") == {
        "copy/00000001_000.png": "train",
        "images/00000000_000.png": "test",
        "images/00000002_000.png": "",
    }
    assert dict(result.skipped) == {
        "images/00000001_000.png": "a second file of its name",
        "images/stranger.png": "not in the data set's table",
    }
    assert result.not_found == 0


def test_nih_ages(nih: Path) -> None:
    table = nih / "Data_Entry_2017_v2020.csv"
    old = table.read_text()
    spellings = {
        "058Y": "58",
        "58": "58",
        "007": "7",
        "000Y": "0",
        "130Y": "130",
        "414Y": "",
        "013M": "",
        "x": "",
        "": "",
    }
    for published, expected in spellings.items():
        table.write_text(old.replace(",53,", f",{published},"))
        result = scan(nih, recipe="nih-chestxray14")
        assert by_path(result, "age")["images/00000001_000.png"] == expected
        assert result.problems == []


def test_nih_blank_labels_are_unknown_not_negative(nih: Path) -> None:
    table = nih / "Data_Entry_2017_v2020.csv"
    table.write_text(table.read_text().replace("Cardiomegaly", ""))
    columns = scan(nih, recipe="nih-chestxray14").columns
    assert {columns[name][1] for name in nih_rows()[1]} == {""}
    assert [columns[name][0] for name in nih_rows()[1]] == ["1"] + ["0"] * 14


def edit(name: str, old: str, new: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        text = (root / name).read_text()
        assert old in text
        (root / name).write_text(text.replace(old, new))

    return change


TABLE = "Data_Entry_2017_v2020.csv"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (
            lambda root: (root / TABLE).unlink(),
            "1 of the 2 tables of NIH ChestX-ray14 is missing (images: Data_Entry_2017_v2020.csv or Data_Entry_2017",
        ),
        (
            lambda root: (root / "test_list.txt").unlink(),
            "the list test_list.txt is missing; NIH ChestX-ray14 comes with it",
        ),
        (lambda root: (root / "test_list.txt").write_bytes(b"\xff\xfe"), "not UTF-8"),
        (lambda root: (root / TABLE).write_bytes(b"\xff\xfa" * 99), "cannot be read as a table"),
        (lambda root: (root / TABLE).write_bytes(b""), "no column 'Image Index' and none 'Patient ID'"),
        (
            edit(TABLE, "Cardiomegaly", "Cardiomegaly|Hiccups|Yawning"),
            "the recipe does not know the finding 'Hiccups'\n",
        ),
        (edit(TABLE, "Finding Labels", "Labels"), "no column 'Finding Labels'"),
        (edit(TABLE, "00000002_000", "00000001_000"), "00000001_000.png stands twice, with different values"),
        (edit("test_list.txt", "00000000_000.png", "00000001_000.png"), "1 of its files is in another list too"),
        (lambda root: shutil.rmtree(root / "images"), "no radiograph found"),
    ],
)
def test_nih_files_that_are_not_as_published(nih: Path, change: Callable[[Path], None], part: str) -> None:
    change(nih)
    with pytest.raises(ManifestError) as caught:
        scan(nih, recipe="nih-chestxray14")
    assert part in str(caught.value)
    if "Hiccups" in part:
        assert "'Yawning'" in str(caught.value)


def test_nih_table_with_short_rows_and_a_bom(nih: Path) -> None:
    table = nih / TABLE
    whole = b"\xef\xbb\xbf" + table.read_bytes()
    table.write_bytes(whole + b"\n\n")
    assert len(scan(nih, recipe="nih-chestxray14")) == 3
    table.write_bytes(whole + b"00000009_000.png\n\n")
    with pytest.raises(ManifestError, match=r"line 5 has another number of values \(1\) than the header"):
        scan(nih, recipe="nih-chestxray14")


def test_a_patient_in_both_lists_is_a_problem(nih: Path) -> None:
    edit(TABLE, ",0,1,53,", ",0,0,53,")(nih)
    assert scan(nih, recipe="nih-chestxray14").problems == ["a patient is in two splits: nih-0 in test, train"]


# Recipes

MINIMAL = """
name: mine
title: Mine
licence: none
images: ["**/*.png"]
columns:
  image_id: {path: '(.*)[.]png'}
  patient_id: {path: '([^/]*)/.*'}
"""


def recipe_file(tmp_path: Path, text: str | bytes) -> str:
    path = tmp_path / "mine.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return str(path)


def test_the_recipes_that_come_along() -> None:
    assert {"folder", "nih-chestxray14"} <= set(recipe_names())
    for name in recipe_names():
        recipe = load_recipe(name)
        assert recipe.name == name
        assert recipe.title
        assert recipe.licence


def test_words_of_a_recipe_are_read_as_they_stand(tmp_path: Path) -> None:
    text = MINIMAL + "  No: {table: [Yes]}\ntable: {files: [a.csv], file_name: 1}\n"
    recipe = load_recipe(recipe_file(tmp_path, text))
    assert recipe.columns["No"][0].table == ["Yes"]
    assert recipe.tables["table"].key.column == "1"
    with pytest.raises(ManifestError, match="image_id stands twice"):
        load_recipe(recipe_file(tmp_path, MINIMAL + "  image_id: {path: '(.*)'}\n"))


def test_a_recipe_of_the_users_own(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for name in ("train/p1/a.png", "train/p1/b/c.png", "test/p2/a.png", "test/d.png"):
        png(root / name)
    extra = "  split: {path: '(train|test)/.*'}\n  site: {path: '(train)/.*', prefix: s-}\n"
    text = MINIMAL.replace("'([^/]*)/.*'", "'[^/]*/(p[0-9]+)/.*', prefix: x-") + extra
    result = scan(root, None, recipe=recipe_file(tmp_path, text))
    assert result.columns["path"] == ["test/d.png", "test/p2/a.png", "train/p1/a.png", "train/p1/b/c.png"]
    assert result.columns["patient_id"] == ["unknown-test/d", "x-p2", "x-p1", "x-p1"]
    assert result.columns["split"] == ["test", "test", "train", "train"]
    assert result.columns["site"] == ["", "", "s-train", "s-train"]
    assert check_columns(result.columns) == []


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("**/*.png", ["a.png", "p/b.png", "p/q/c.png"]),
        ("*.png", ["a.png"]),
        ("p/*.png", ["p/b.png"]),
        ("p/**", ["p/b.png", "p/q/c.png"]),
        ("p/**/*.png", ["p/b.png", "p/q/c.png"]),
        ("**/q/*.png", ["p/q/c.png"]),
        ("?/?.png", ["p/b.png"]),
        ("**/[b].png", []),
    ],
)
def test_image_patterns(tmp_path: Path, pattern: str, expected: list[str]) -> None:
    for name in ("a.png", "p/b.png", "p/q/c.png"):
        png(tmp_path / "data" / name)
    path = recipe_file(tmp_path, MINIMAL.replace("**/*.png", pattern))
    if expected:
        assert scan(tmp_path / "data", recipe=path).columns["path"] == expected
    else:
        with pytest.raises(ManifestError, match=r"no radiograph found; mine reads .*, and here are \*\.png$"):
            scan(tmp_path / "data", recipe=path)


FAULTS = {
    "images: ['**/*.png']": ("images: []", "images"),
    "title: Mine": ("titel: Mine", "titel"),
    "licence: none": ("licence: [1]", "licence"),
    "{path: '(.*)[.]png'}": ("{path: '(.*'}", "not a regular expression"),
    "{path: '([^/]*)/.*'}": ("{path: 'x', dicom: age}", "needs one group"),
}


def test_every_fault_of_a_recipe_is_told(tmp_path: Path) -> None:
    text = MINIMAL.replace('"', "'")
    for old, (new, _) in FAULTS.items():
        assert old in text
        text = text.replace(old, new)
    with pytest.raises(ManifestError) as caught:
        load_recipe(recipe_file(tmp_path, text))
    for _, part in FAULTS.values():
        assert sum(part in problem for problem in caught.value.problems) == 1
    assert not any("Value error" in problem or "pydantic" in problem for problem in caught.value.problems)


@pytest.mark.parametrize(
    ("addition", "part"),
    [
        ("  age: {}\n", "exactly one of path, dicom and table"),
        ("  age: {path: '(a)', dicom: age}\n", "exactly one of path, dicom and table"),
        ("  age: {dicom: name}\n", "columns.age.0.dicom"),
        ("  age: {table: [Age]}\n", "no table is named"),
        ("  path: {path: '(.*)'}\n", "columns twice: path"),
        ("  Path: {path: '(.*)'}\n", "columns twice: path"),
        ("  split: {path: '(.*)'}\nsplit: {a: b}\n", "columns twice: split"),
        ("  ' x': {path: '(.*)'}\n", "plain name"),
        ("table: {files: [../secret.csv], file_name: A}\n", "stay below"),
        ("table: {files: [/etc/passwd], file_name: A}\n", "stay below"),
        ("table: {files: [], file_name: A}\n", "table.files"),
        ("split: {test: ../t.txt}\n", "stay below"),
        ("findings: {table: [A], separator: '', names: [F]}\n", "labels.published.named.separator"),
        (
            "table: {files: [a], file_name: A}\nfindings: {table: [A], separator: x, names: [F, f]}\n",
            "columns twice: f",
        ),
    ],
)
def test_faults_of_a_recipe(tmp_path: Path, addition: str, part: str) -> None:
    load_recipe(recipe_file(tmp_path, MINIMAL))
    with pytest.raises(ManifestError) as caught:
        load_recipe(recipe_file(tmp_path, MINIMAL + addition))
    assert part in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"- a\n",
        b"a: [",
        b"\xff\xfe\0",
        b"a: 2020-13-45",
        b"\0",
        b"[" * 5000,
        b"a: *b",
        b"!!python/object:os.system x",
    ],
)
def test_files_that_are_no_recipe(tmp_path: Path, text: bytes) -> None:
    with pytest.raises(ManifestError, match=r"not YAML|not a recipe") as caught:
        load_recipe(recipe_file(tmp_path, text))
    assert len(str(caught.value).splitlines()) <= 7


def test_unknown_recipes(tmp_path: Path) -> None:
    for name in ("nih", "../folder", str(tmp_path / "absent.yaml"), str(tmp_path)):
        with pytest.raises(ManifestError, match=r"there are .*folder, .*nih-chestxray14, .*or give a \.yaml file"):
            load_recipe(name)
