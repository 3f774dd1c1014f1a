"""Data sets merged: against a plain loop over rows, and what would mix up people, tests or findings."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from helpers import run_cli
from hypothesis import given, settings
from hypothesis import strategies as st

import cxr_embed as cx
from cxr_embed.cases import vocabulary
from cxr_embed.cases.overlaps import find_overlaps
from cxr_embed.errors import ManifestError
from cxr_embed.manifest import Companion, read_manifest, write_companion


def data_set(folder: Path, rows: list[dict[str, str]], contents: dict[str, bytes] | None = None) -> Path:
    """A manifest, and a file an image: its name is its content unless `contents` has another."""
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        path = folder / row["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((contents or {}).get(row["image_id"], f"{folder.name} {row['image_id']}".encode()))
    with open(folder / f"{folder.name}.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return folder / f"{folder.name}.csv"


def row(image: str, patient: str, **more: str) -> dict[str, str]:
    return {"image_id": image, "path": f"images/{image}.png", "patient_id": patient, **more}


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    first = data_set(
        tmp_path / "nih",
        [
            row("a", "n1", split="train", Effusion="1", Hernia="0", view="PA"),
            row("b", "n2", split="test", Effusion="0", Hernia="1", view="AP"),
        ],
    )
    second = data_set(
        tmp_path / "deep" / "chex",
        [
            row("c", "c1", split="train", **{"Pleural Effusion": "-1", "Zebra": "1", "Lung Opacity": ""}),
            row("d", "c2", split="valid", **{"Pleural Effusion": "", "Zebra": "0", "Lung Opacity": "1"}),
        ],
    )
    return first, second


def test_two_data_sets_are_one_table(two: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "all" / "both.csv"
    made = cx.merge_manifests(two, out=out)
    read = read_manifest(out)
    assert read.root.resolve() == tmp_path.resolve()
    assert read.findings == ("Pleural Effusion", "Hernia", "Zebra", "Lung Opacity")
    assert [list(each.values()) for each in read.table.to_pylist()] == [
        ["a", "nih/images/a.png", "n1", "nih", "PA", "train", "1", "0", "", ""],
        ["b", "nih/images/b.png", "n2", "nih", "AP", "test", "0", "1", "", ""],
        ["c", "deep/chex/images/c.png", "c1", "chex", "", "train", "-1", "", "1", ""],
        ["d", "deep/chex/images/d.png", "c2", "chex", "", "valid", "", "", "0", "1"],
    ]
    assert all((read.root / path).is_file() for _, path, _ in read.rows())
    assert made.images == {"nih": 2, "chex": 2}
    assert list(made.notes) == [
        "renamed in nih: Effusion = Pleural Effusion",
        "not labelled in nih, and blank there: Zebra, Lung Opacity",
        "not labelled in chex, and blank there: Hernia",
        "the splits of nih are: test, train; the splits of chex are: train, valid",
    ]
    assert "4 images of 4 patients: nih 2, chex 2" in repr(made)
    before = out.read_bytes()
    cx.merge_manifests(two, out=out)
    assert out.read_bytes() == before


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_merge_is_that_of_a_plain_loop(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("merge")
    names = ["Effusion", "Pleural Effusion", "mass", "Mass", "Zebra", "zebra"]
    cell = st.sampled_from(["0", "1", "", "-1"])
    files, expected = [], []
    columns: list[list[str]] = []
    for number, name in enumerate(("one", "two", "three")[: data.draw(st.integers(2, 3))]):
        own = data.draw(st.lists(st.sampled_from(names), unique_by=vocabulary().common_name, max_size=3))
        own = [each for each in own if [other.lower() for other in own].count(each.lower()) == 1]
        rows = [row(f"{name}{n}", f"p{number}{n}", **{f: data.draw(cell) for f in own}) for n in range(2)]
        files.append(data_set(folder / name, rows))
        columns.append(own)
        expected += [(name, each) for each in rows]
    made = cx.merge_manifests(files).manifest
    found = [dict(each) for each in made.table.to_pylist()]
    called: dict[str, str] = {}
    for own in columns:
        for each in own:
            known = vocabulary().find(each)
            called.setdefault(known.name if known else each.lower(), known.name if known else each)
    assert list(made.findings) == list(called.values())
    for (name, own_row), each in zip(expected, found, strict=True):
        assert (each["source"], each["image_id"]) == (name, own_row["image_id"])
        for key, finding in called.items():
            value = [v for n, v in own_row.items() if key in (n.lower(), vocabulary().common_name(n))]
            assert each[finding] == (value[0] if value else "")


def test_common_keeps_what_all_label_and_the_vocabulary_knows(two: tuple[Path, Path]) -> None:
    made = cx.merge_manifests(two, common=True)
    assert made.manifest.findings == ("Pleural Effusion",)
    alone = data_set(two[0].parent.parent / "z", [row("z", "z1", Zebra="1", Hernia="0")])
    with pytest.raises(ManifestError, match="no finding is labelled by every data set: z has Zebra, Hernia; chex has"):
        cx.merge_manifests([alone, two[1]], common=True)


def test_names_that_mean_different_things_warn(tmp_path: Path) -> None:
    one = data_set(tmp_path / "nih", [row("a", "n", **{"No Finding": "1", "Infiltration": "0"})])
    other = data_set(tmp_path / "vin", [row("b", "v", **{"No finding": "1", "Lung Opacity": "0"})])
    made = cx.merge_manifests([one, other])
    assert made.manifest.findings == ("No Finding", "Infiltration", "Lung Opacity")
    assert any(note.startswith("No Finding: says that none of its own data set's list") for note in made.notes)


def test_ids_of_two_images_are_refused_or_named_apart(tmp_path: Path) -> None:
    one = data_set(tmp_path / "one", [row("1", "p"), row("2", "q")])
    other = data_set(tmp_path / "two", [row("1", "r"), row("3", "s")])
    with pytest.raises(
        ManifestError, match="1 image_id is in two data sets: 1; `image_ids='prefix'` puts the data set"
    ):
        cx.merge_manifests([one, other])
    made = cx.merge_manifests([one, other], image_ids="prefix")
    assert made.manifest.ids.tolist() == ["one/1", "one/2", "two/1", "two/3"]


def test_patients_of_two_data_sets_are_decided_upon(tmp_path: Path) -> None:
    one = data_set(tmp_path / "one", [row("1", "p", split="train"), row("2", "q", split="test")])
    other = data_set(tmp_path / "two", [row("3", "p", split="train"), row("4", "q", split="train")])
    with pytest.raises(ManifestError, match="2 patient_ids are in two data sets: p, q; are they the same people"):
        cx.merge_manifests([one, other])
    apart = cx.merge_manifests([one, other], patients="prefix").manifest
    assert apart.column("patient_id").tolist() == ["one/p", "one/q", "two/p", "two/q"]
    with pytest.raises(ManifestError, match="a patient is in two splits: q in test, train"):
        cx.merge_manifests([one, other], patients="same")
    assert len(cx.merge_manifests([one, other], patients="same", drop="split")) == 4


def test_an_image_of_two_data_sets_is_never_there_twice(tmp_path: Path) -> None:
    same = {"x": b"the same picture", "1": b"the same picture"}
    one = data_set(
        tmp_path / "one", [row("1", "p", split="test", Mass="1"), row("2", "q", split="train", Mass="0")], same
    )
    rows = [row("x", "P-17", split="test", Mass="0"), row("y", "P-17", split="test", Mass="1")]
    other = data_set(tmp_path / "two", rows, same)
    with pytest.raises(
        ManifestError, match=r"1 image is in two data sets, by the bytes: 1 \(one\) and x \(two\); `overl"
    ):
        cx.merge_manifests([one, other])
    made = cx.merge_manifests([one, other], overlap="first")
    assert made.manifest.ids.tolist() == ["1", "2", "y"]
    assert made.manifest.column("patient_id").tolist() == ["p", "q", "p"]
    assert made.manifest.column("Mass").tolist() == ["1", "0", "1"]
    assert "1 image of two is an image of a data set before it, and left out" in made.notes
    assert "of two 1 patient has an image of a data set before it, and the id from there" in made.notes
    unchecked = cx.merge_manifests([one, other], check_content=False)
    assert len(unchecked) == 4
    assert "whether data sets have images in common was not looked at" in unchecked.notes
    data_set(tmp_path / "two", [{**each, "split": "train"} for each in rows], same)
    for overlap in ("refuse", "first"):
        with pytest.raises(
            ManifestError, match=r"1 image is in two splits, of two data sets: 1 \(one, test\) and x \(two"
        ):
            cx.merge_manifests([one, other], overlap=overlap)
    assert len(cx.merge_manifests([one, other], overlap="first", drop=["split"])) == 3


def test_a_patient_that_images_put_into_two_splits_is_refused(tmp_path: Path) -> None:
    same = {"x": b"same", "1": b"same"}
    one = data_set(tmp_path / "one", [row("1", "p", split="test")], same)
    other = data_set(tmp_path / "two", [row("x", "q", split="test"), row("y", "r", split="train")], same)
    assert len(cx.merge_manifests([one, other], overlap="first")) == 2
    other = data_set(tmp_path / "two", [row("x", "q", split=""), row("y", "q", split="train")], same)
    with pytest.raises(ManifestError, match="a patient is in two splits: p in test, train"):
        cx.merge_manifests([one, other], overlap="first")


def test_a_patient_with_images_of_two_is_refused(tmp_path: Path) -> None:
    same = {"1": b"1", "2": b"2", "x": b"1", "y": b"2"}
    one = data_set(tmp_path / "one", [row("1", "p"), row("2", "q")], same)
    other = data_set(tmp_path / "two", [row("x", "r"), row("y", "r")], same)
    with pytest.raises(ManifestError, match="patient r of two has images of two patients of other data sets, p and q"):
        cx.merge_manifests([one, other], overlap="first")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([b"a", b"b", b"cc", b"c" * 9000, b"c" * 9000 + b"d"]), max_size=4),
        min_size=2,
        max_size=3,
    )
)
def test_overlaps_are_those_of_a_plain_comparison(
    tmp_path_factory: pytest.TempPathFactory, contents: list[list[bytes]]
) -> None:
    contents = [own or [b"z"] for own in contents]
    folder = tmp_path_factory.mktemp("overlaps")
    opened = []
    for number, own in enumerate(contents):
        rows = [row(f"{number}{n}", f"p{number}{n}") for n in range(len(own))]
        opened.append(
            read_manifest(data_set(folder / f"s{number}", rows, {f"{number}{n}": c for n, c in enumerate(own)}))
        )
    found = find_overlaps(opened)
    wanted = set()
    for content in {each for own in contents for each in own}:
        places = tuple((n, r) for n, own in enumerate(contents) for r, each in enumerate(own) if each == content)
        if len({n for n, _ in places}) > 1:
            wanted.add(places)
    assert set(found.groups) == wanted
    assert found.unread == (0,) * len(contents)


def test_files_that_are_missing_are_said(two: tuple[Path, Path]) -> None:
    (two[0].parent / "images" / "a.png").unlink()
    notes = cx.merge_manifests(two).notes
    assert "of nih 1 file that cannot be read is not compared with others" in notes


@pytest.mark.parametrize(
    ("first", "second", "how", "problem"),
    [
        (
            {"study_date": "2020-01-31"},
            {"study_date": "17"},
            {},
            "study_date is a date in one, and a number of days in two",
        ),
        (
            {"Effusion": "1", "pleural effusion": "0"},
            {},
            {},
            "one: Effusion and pleural effusion are both Pleural Effusion",
        ),
        ({"Mass": "1"}, {"mass": "big"}, {"extra": ["mass"]}, "mass is a finding, and in two it is none"),
        ({}, {}, {"drop": ["Zebra"]}, "`drop` Zebra: no manifest has such a column"),
        ({}, {}, {"drop": ["path"]}, "`drop` path: must stay"),
        ({}, {}, {"extra": ["Zebra"]}, "`extra` Zebra: no manifest has such a column"),
        ({}, {}, {"source": ["x"]}, "`source` names 1, and 2 are merged"),
        ({}, {}, {"source": ["x", "X"]}, "two data sets have one name, or one has none; name each with `source`"),
        ({}, {}, {"root": "/nowhere"}, "not below /nowhere"),
        ({}, {}, {"overlap": "second"}, "`overlap` is refuse, first, not 'second'"),
    ],
)
def test_what_cannot_be_one_table_is_refused(
    tmp_path: Path, first: dict, second: dict, how: dict, problem: str
) -> None:
    one, other = (
        data_set(tmp_path / name, [row(name, f"p{name}", **more)]) for name, more in (("one", first), ("two", second))
    )
    with pytest.raises(cx.CxrEmbedError) as error:
        cx.merge_manifests([one, other], **how)
    assert problem.replace(" or ", ", ") in str(error.value).replace(" or ", ", ")
    assert "\n" not in str(error.value)


def test_dates_of_two_kinds_can_be_left_out(tmp_path: Path) -> None:
    one = data_set(tmp_path / "one", [row("a", "p", study_date="2020-01-31")])
    other = data_set(tmp_path / "two", [row("b", "q", study_date="17")])
    assert "study_date" not in cx.merge_manifests([one, other], drop=["study_date"]).manifest.table.column_names


def test_companions_are_followed_and_one_is_written(two: tuple[Path, Path], tmp_path: Path) -> None:
    write_companion(two[0], Companion(recipe="nih-chestxray14", blank_words="nobody knows", terms="cite them"))
    write_companion(two[1], Companion(recipe="chexpert", blank="negative", licence="theirs"))
    out = tmp_path / "both.parquet"
    made = cx.merge_manifests(two, out=out)
    read = read_manifest(out)
    assert made.images == {"nih-chestxray14": 2, "chexpert": 2}
    assert read.blank == "unknown"
    assert read.column("Pleural Effusion").tolist() == ["1", "0", "-1", "0"]
    assert read.column("Lung Opacity").tolist() == ["", "", "0", "1"]
    assert read.companion is not None
    assert read.companion.blank_words == "nih-chestxray14: nobody knows"
    assert read.companion.licence == "chexpert: theirs"
    assert "a blank label of chexpert counts as negative, as its companion says, and is 0 here" in made.notes
    third = data_set(tmp_path / "third", [row("e", "e1", Notes="x")])
    again = cx.merge_manifests([out, third], out=tmp_path / "three.csv", extra=["Notes"], check_content=False)
    read = read_manifest(tmp_path / "three.csv")
    assert read.column("source").tolist() == ["nih-chestxray14"] * 2 + ["chexpert"] * 2 + ["third"]
    assert read.findings == again.manifest.findings
    assert read.companion is not None
    assert read.companion.not_findings == ("Notes",)


def test_the_verb(two: tuple[Path, Path], tmp_path: Path) -> None:
    out = tmp_path / "both.csv"
    files = list(map(str, two))
    result = run_cli("manifest", "merge", *files, "--out", str(out), "--common", "--source", "A", "--source", "B")
    assert result.returncode == 0, result.stderr
    assert "4 images of 4 patients: A 2, B 2\nfindings: Pleural Effusion\n" in result.stdout
    assert "note: renamed in A: Effusion = Pleural Effusion" in result.stderr
    assert read_manifest(out).column("source").tolist() == ["A", "A", "B", "B"]
    as_json = run_cli("manifest", "merge", *files, "--json")
    assert json.loads(as_json.stdout)["sources"] == {"nih": 2, "chex": 2}
    assert run_cli("manifest", "merge", *files, "--out", files[0]).returncode == 2
    one = run_cli("manifest", "merge", files[0])
    assert (one.returncode, one.stderr) == (1, "error: MANIFESTS are two or more to merge\n")
    twice = run_cli("manifest", "merge", files[0], files[0])
    assert "two data sets have one name, or one has none; name each with --source" in twice.stderr
    same = run_cli("manifest", "merge", files[0], files[0], "--source", "A", "--source", "B")
    assert (
        "2 images are in two data sets, by the bytes: a (A) and a (B); b (A) and b (B); --overlap first" in same.stderr
    )


def test_data_sets_of_one_collection_are_named(two: tuple[Path, Path]) -> None:
    """RSNA's DICOM files are radiographs of the NIH's, written anew: their bytes differ."""
    made = cx.merge_manifests(two, source=["nih-chestxray14-sample", "rsna-pneumonia"])
    assert made.notes[-1].startswith(
        "nih-chestxray14-sample and rsna-pneumonia are made of the radiographs of nih-chest"
    )
    assert not any("made of the radiographs" in note for note in cx.merge_manifests(two).notes)
