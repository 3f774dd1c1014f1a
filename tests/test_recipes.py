"""What a recipe can say: tables, keys, sources, labels, votes, boxes; and which data set a folder is."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cxr_embed.datasets import ScanResult, guess_recipe, load_recipe, read_mask, scan, which_recipe
from cxr_embed.datasets.boxes import mask_text
from cxr_embed.datasets.image_rows import mapped, years_between
from cxr_embed.datasets.recipe_parts import TableFile
from cxr_embed.datasets.table_formats import records, written_list
from cxr_embed.errors import CxrEmbedError, ManifestError
from cxr_embed.manifest import read_manifest

BASE: dict[str, Any] = {
    "name": "mine",
    "title": "Mine",
    "licence": "none",
    "images": ["**/*.png"],
    "columns": {"image_id": {"path": r"(?:.*/)?([^/]+)\.png"}, "patient_id": {"path": r"(?:.*/)?(p\d+).*"}},
    "public_ids": True,
}


def pictures(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((8, 8), np.uint8)).save(path)
    return root


def table(path: Path, *rows: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "\n".join(rows) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def read(root: Path, tmp_path: Path, labelled_by: Any = None, **parts: Any) -> ScanResult:
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({**BASE, **parts}, sort_keys=False))
    return scan(root, load_recipe(str(file)), patient_key=None, labelled_by=labelled_by)


def column(result: ScanResult, name: str) -> dict[str, str]:
    return dict(zip(result.columns["image_id"], result.columns[name], strict=True))


LABELS = {"a": {"in": "a", "columns": ["Mass"]}, "b": {"in": "b", "columns": ["Mass"]}}


# Tables


def test_tables_by_image_study_and_patient(tmp_path: Path) -> None:
    root = pictures(tmp_path / "d", "p1/s1/x.png", "p1/s2/y.png", "p2/s3/z.png")
    table(root / "images.csv.gz", "id,study,when", "x,s1,20200131", "y,s2,20200201", "z,s3,")
    table(root / "studies.csv", "study;Mass", "s1;1.0", "s2;-1.0")
    table(root / "people.tsv", "who\tsex", "p1\tFemale", "p2\tmale")
    result = read(
        root,
        tmp_path,
        keys={
            "image": {"path": r"(?:.*/)?([^/]+)\.png"},
            "study": {"table": ["study"]},
            "patient": {"path": r"(p\d+)/.*"},
        },
        tables={
            "images": {"files": ["images.csv*"], "key": "id"},
            "studies": {"files": ["studies.csv"], "key": "study", "by": "study"},
            "people": {"files": ["people.tsv"], "key": "who", "by": "patient"},
        },
        columns={**BASE["columns"], "study_date": {"table": "when"}, "sex": {"table": "sex"}},
        labels={"reports": {"in": "studies", "columns": ["Mass"]}},
    )
    assert column(result, "Mass") == {"x": "1", "y": "-1", "z": ""}
    assert column(result, "sex") == {"x": "F", "y": "F", "z": "M"}
    assert column(result, "study_date") == {"x": "2020-01-31", "y": "2020-02-01", "z": ""}


def test_a_table_without_a_header_and_tables_of_all_files(tmp_path: Path) -> None:
    root = pictures(tmp_path / "d", "p1.png", "p2.png", "p3.png")
    table(root / "train.txt", "7 p1.png yes", "7  p2.png no")
    table(root / "test.txt", "8 p3.png yes")
    result = read(
        root,
        tmp_path,
        tables={
            "list": {
                "files": ["train.txt", "test.txt"],
                "all": True,
                "key": "file",
                "header": ["who", "file", "label"],
                "separator": " ",
            }
        },
        columns={**BASE["columns"], "split": {"table": "@file", "map": {"train.txt": "train", "test.txt": "test"}}},
        labels={"one": {"each": {"Mass": {"table": "label"}}}},
    )
    assert column(result, "split") == {"p1": "train", "p2": "train", "p3": "test"}
    assert column(result, "Mass") == {"p1": "1", "p2": "0", "p3": "1"}


def test_missing_tables_are_all_named_and_those_of_other_labels_are_not_needed(tmp_path: Path) -> None:
    root = pictures(tmp_path / "d", "p1.png")
    tables = {name: {"files": [f"{name}.csv"], "key": "id"} for name in ("list", "dates", "a", "b")}
    keys = {"image": {"path": r"(.*)\.png"}}
    parts: dict[str, Any] = {"tables": tables, "labels": LABELS, "keys": keys}
    with pytest.raises(ManifestError) as caught:
        read(root, tmp_path, **parts)
    assert "3 of the 4 tables of Mine are missing (list: list.csv; dates: dates.csv; a: a.csv)" in str(caught.value)
    for name in ("list", "dates", "b"):
        table(root / f"{name}.csv", "id,Mass", "p1,1")
    assert column(read(root, tmp_path, "b", **parts), "Mass") == {"p1": "1"}
    with pytest.raises(ManifestError, match="the recipe mine has no labels 'c'; there are: a, b"):
        read(root, tmp_path, "c", **parts)


def test_official_labels_win_on_their_part_alone(tmp_path: Path) -> None:
    root = pictures(tmp_path / "d", "p1.png", "p2.png", "p3.png")
    table(root / "list.csv", "id,split", "p1,train", "p2,test", "p3,test")
    table(root / "a.csv", "id,Mass", "p1,0", "p2,0", "p3,0")
    table(root / "b.csv", "id,Mass", "p1,1", "p2,1")
    parts: dict[str, Any] = {
        "keys": {"image": {"path": r"(.*)\.png"}},
        "tables": {name: {"files": [f"{name}.csv"], "key": "id"} for name in ("list", "a", "b")},
        "columns": {**BASE["columns"], "split": {"table": "split"}},
        "labels": LABELS,
    }
    assert column(read(root, tmp_path, **parts), "Mass") == {"p1": "0", "p2": "0", "p3": "0"}
    parts["official"] = {"labels": "b", "split": "test"}
    assert column(read(root, tmp_path, **parts), "Mass") == {"p1": "0", "p2": "1", "p3": "0"}


def test_a_key_that_matches_nothing_is_shown_beside_the_nearest(tmp_path: Path) -> None:
    root = pictures(tmp_path / "d", "p1/a.png", "p2/b.png")
    table(root / "list.csv", "Path", "small/p1/a.png", "small/p2/b.png")
    with pytest.raises(ManifestError) as caught:
        read(root, tmp_path, tables={"list": {"files": ["list.csv"], "key": "Path"}})
    assert "p1/a.png was looked up in list.csv as 'a.png'; the nearest there is 'small/p1/a.png'" in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "part"),
    [
        (["id,Mass", "p1,maybe"], "Mass is 'maybe', not 1, 0, -1 or blank"),
        (["id,Mass", "p1,1", "p1,0"], "p1 stands twice, with different values"),
        (["id,Mess", "p1,1"], "no column 'Mass' in list.csv: another version?"),
        (["ID,Mess", "p1,1"], "no column 'id' and none 'Mass' in list.csv"),
    ],
)
def test_a_table_that_is_not_as_expected(tmp_path: Path, rows: list[str], part: str) -> None:
    root = pictures(tmp_path / "d", "p1.png")
    table(root / "list.csv", *rows)
    with pytest.raises(ManifestError) as caught:
        read(
            root,
            tmp_path,
            keys={"image": {"path": r"(.*)\.png"}},
            tables={"list": {"files": ["list.csv"], "key": "id"}},
            labels={"one": {"columns": ["Mass"]}},
        )
    assert part in str(caught.value)


# Formats


def spec(**parts: object) -> TableFile:
    return TableFile.model_validate({"files": ["x"], "key": "id", **parts})


def test_xml_and_its_traps(tmp_path: Path) -> None:
    path = tmp_path / "1.xml"
    path.write_text(
        "<r><m><major>Heart/large</major><major> Lung </major></m>"
        "<img id='A'/><img id='B'><cap>two\n lines</cap></img></r>"
    )
    fields = {"id": "@id", "major": "/m/major", "caption": "cap"}
    rows = list(records(path, spec(format="xml", rows="img", fields=fields), {"id", "@key"}))
    assert [row["id"] for row in rows] == ["A", "B"]
    assert {row["major"] for row in rows} == {"Heart/large|Lung"}
    assert [row["caption"] for row in rows] == ["", "two lines"]
    assert rows[0]["@key"] == "1"
    path.write_text("<!DOCTYPE r [<!ENTITY a 'b'>]><r>&a;</r>")
    with pytest.raises(Exception, match="entities of its own"):
        list(records(path, spec(format="xml", fields=fields), set()))
    path.write_text("<r><m></r>")
    with pytest.raises(Exception, match="not XML"):
        list(records(path, spec(format="xml", fields=fields), set()))


def test_coco_and_json(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    coco = {
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "b.png"}],
        "categories": [{"id": 7, "name": "Mass"}],
        "annotations": [{"image_id": 1, "category_id": 7, "bbox": [1, 2, 3.5, 4]}],
    }
    path.write_text(json.dumps(coco))
    rows = list(records(path, spec(format="coco"), set()))
    assert rows[0] == {"file_name": "a.png", "category": "Mass", "x": "1", "y": "2", "width": "3.5", "height": "4"}
    assert rows[1]["category"] == rows[1]["x"] == ""
    path.write_text(json.dumps({"d": {"rows": {"k1": {"id": "a"}, "k2": {"id": None}}}}))
    assert list(records(path, spec(format="json", rows="d.rows"), {"id", "@key"})) == [
        {"id": "a", "@key": "k1"},
        {"id": "", "@key": "k2"},
    ]
    for wrong in ({"images": 3}, {**coco, "annotations": [{"image_id": 1}]}, [1]):
        path.write_text(json.dumps(wrong))
        with pytest.raises(Exception, match="no COCO file"):
            list(records(path, spec(format="coco"), set()))


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8"), max_size=12), max_size=6))
def test_written_lists_read_back(items: list[str]) -> None:
    plain = [item.strip() for item in items]
    assert written_list(json.dumps(items)) == plain
    assert written_list(repr(items)) == plain


@given(st.text(max_size=60))
def test_a_cell_that_is_no_list_never_runs(cell: str) -> None:
    try:
        found = written_list(cell)
    except ValueError:
        return
    assert isinstance(found, list)


@pytest.mark.parametrize("cell", ["__import__('os').getcwd()", "{'a': 1}", "[" * 5000, "3", "'a'", "[1" + "+1" * 9000])
def test_hostile_lists(cell: str) -> None:
    with pytest.raises(ValueError, match="list"):
        written_list(cell)


# Values


def test_maps_and_years() -> None:
    assert mapped("Lateral", {"Lateral": "LATERAL", "*": ""}) == "LATERAL"
    assert mapped("AP", {"Lateral": "LATERAL", "*": ""}) == ""
    assert mapped("AP", {"Lateral": "LATERAL"}) == "AP"
    assert mapped("", {"*": "x"}) == ""
    assert mapped("", {"": "x"}) == "x"
    assert years_between("1930.0", "20140915") == "84"
    assert years_between("", "20140915") == years_between("2015", "2014") == years_between("1700", "2014") == ""


@given(
    st.lists(st.tuples(st.sampled_from(["r1", "r2", "r3", "r4"]), st.sampled_from(["0", "1", ""])), max_size=4),
    st.sampled_from(["majority", "any", "counts"]),
)
def test_votes_against_a_plain_count(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], rule: str
) -> None:
    tmp_path = tmp_path_factory.mktemp("votes")
    root = pictures(tmp_path / "d", "p1.png")
    table(root / "list.csv", "id", "p1")
    table(root / "votes.csv", "id,reader,Mass", *(f"p1,{reader},{value}" for reader, value in rows))
    result = read(
        root,
        tmp_path,
        keys={"image": {"path": r"(.*)\.png"}},
        tables={
            "list": {"files": ["list.csv"], "key": "id"},
            "votes": {"files": ["votes.csv"], "key": "id", "repeats": "keep"},
        },
        labels={"readers": {"in": "votes", "columns": ["Mass"], "votes": rule}},
    )
    known = [value for _, value in rows if value]
    yes = known.count("1")
    expected = "" if not known else str(int(yes > 0 if rule == "any" else yes / len(known) > 0.5))
    assert column(result, "Mass") == {"p1": expected}
    if rule == "counts":
        assert column(result, "Mass votes") == {"p1": f"{yes}/{len(known)}" if known else ""}
        assert result.not_findings == ["Mass votes"]


def test_names_trees_and_names_by_which_nobody_knows(tmp_path: Path) -> None:
    root = pictures(tmp_path / "d", *(f"p{n}.png" for n in range(5)))
    cells = ["['pneumonia ', 'nodule']", "['normal']", "['exclude', 'nodule']", "", "['bacterial']"]
    file = io.StringIO()
    csv.writer(file).writerows([["id", "said"], *([f"p{n}", cell] for n, cell in enumerate(cells))])
    (root / "list.csv").write_text(file.getvalue())
    named: dict[str, Any] = {
        "table": "said",
        "list": True,
        "names": ["Pneumonia", "Nodule", "Bacterial"],
        "same_as": {"pneumonia": "Pneumonia", "nodule": "Nodule", "bacterial": "Bacterial"},
        "negative": ["normal"],
        "unknown": ["exclude"],
        "tree": {"Bacterial": "Pneumonia"},
    }
    parts: dict[str, Any] = {
        "keys": {"image": {"path": r"(.*)\.png"}},
        "tables": {"list": {"files": ["list.csv"], "key": "id"}},
        "labels": {"one": {"named": named}},
    }
    result = read(root, tmp_path, **parts)
    assert list(column(result, "Pneumonia").values()) == ["1", "0", "", "", "1"]
    assert list(column(result, "Nodule").values()) == ["1", "0", "", "", "0"]
    assert list(column(result, "Bacterial").values()) == ["0", "0", "", "", "1"]
    named["tree"] = {"Bacterial": "Pneumonia", "Pneumonia": "Bacterial"}
    with pytest.raises(ManifestError, match="a kind of itself"):
        read(root, tmp_path, **parts)


# Boxes


@given(st.integers(1, 12), st.integers(1, 12), st.randoms())
def test_masks_read_back(rows: int, columns: int, random: Any) -> None:
    rng = np.random.default_rng(random.getrandbits(32))
    mask = rng.random((rows, columns)) < 0.4
    counts, value, run = [], False, 0
    for pixel in mask.T.ravel():
        if pixel != value:
            counts.append(run)
            value, run = bool(pixel), 0
        run += 1
    counts.append(run)
    np.testing.assert_array_equal(read_mask(mask_text(np.array(counts), rows, columns)), mask)


@pytest.mark.parametrize("text", ["", "3 x 3: 4", "3 x 3: 1 -2 10", "99999 x 99999: 9999800001", "3 x 3: a"])
def test_texts_that_are_no_mask(text: str) -> None:
    with pytest.raises(ValueError, match="run lengths"):
        read_mask(text)


def boxes_of(tmp_path: Path, rows: list[str], **parts: Any) -> ScanResult:
    root = pictures(tmp_path / "d", "p1.png", "p2.png")
    table(root / "list.csv", "id", "p1", "p2")
    table(root / "boxes.csv", *rows)
    return read(
        root,
        tmp_path,
        keys={"image": {"path": r"(.*)\.png"}},
        tables={
            "list": {"files": ["list.csv"], "key": "id"},
            "boxes": {"files": ["boxes.csv"], "key": "id", "repeats": "keep"},
        },
        boxes={"in": "boxes", "finding": {"table": "what", "map": {"opacity": "Lung Opacity"}}, **parts},
    )


def test_boxes_by_corners_by_size_and_by_runs(tmp_path: Path) -> None:
    rows = ["id,what,a,b,c,d", "p1,opacity,1.5,2,11.5,32", "p1,Mass,0,0,1,1", "p2,No finding,,,,"]
    made = boxes_of(tmp_path, rows, corners=["a", "b", "c", "d"]).boxes
    assert made == {
        "image_id": ["p1", "p1"],
        "finding": ["Lung Opacity", "Mass"],
        "x": ["1.5", "0"],
        "y": ["2", "0"],
        "width": ["10", "1"],
        "height": ["30", "1"],
    }
    made = boxes_of(tmp_path, rows, size=["a", "b", "c", "d"]).boxes
    assert made["width"] == ["11.5", "1"]
    made = boxes_of(
        tmp_path, ["id,what,r", "p1,Mass,3 2 2 2", "p2,Mass,-1"], runs={"column": "r", "rows": 4, "columns": 3}
    ).boxes
    # Down the columns: pixels 3, 4 and 7, 8 of 4 x 3.
    assert made["mask"] == ["4 x 3: 3 2 2 2 3"]
    assert [made[name] for name in ("x", "y", "width", "height")] == [["0"], ["0"], ["3"], ["4"]]
    assert read_mask(made["mask"][0]).T.ravel().nonzero()[0].tolist() == [3, 4, 7, 8]


def test_boxes_that_cannot_be_are_problems_of_the_scan(tmp_path: Path) -> None:
    made = boxes_of(tmp_path, ["id,what,a,b,c,d", "p1,Mass,9,9,1,1"], corners=["a", "b", "c", "d"])
    assert made.problems == ["p1.png: a box of -8 x -8 pixels"]
    made = boxes_of(tmp_path, ["id,what,a,b,c,d", "p1,Mass,9,x,1,1"], corners=["a", "b", "c", "d"])
    assert made.problems == ["p1.png: a box with 'x' for a number"]
    made = boxes_of(tmp_path, ["id,what,r", "p1,Mass,9 9"], runs={"column": "r", "rows": 4, "columns": 3})
    assert made.problems == ["p1.png: run lengths that do not fit 4 x 3 pixels"]


# Which data set it is


NIH_HEADER = "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position"


def test_a_folder_is_recognised_by_its_tables(tmp_path: Path) -> None:
    assert guess_recipe(pictures(tmp_path, "p1.png")) is None
    table(tmp_path / "Data_Entry_2017_v2020.csv", NIH_HEADER)
    guess = guess_recipe(tmp_path)
    assert guess is not None
    assert guess.recipe.name == "nih-chestxray14"
    assert guess.files == ("Data_Entry_2017_v2020.csv",)


def test_a_recipe_of_another_data_set_names_the_one_that_fits(tmp_path: Path) -> None:
    pictures(tmp_path / "d", "p1.png")
    table(tmp_path / "d" / "Data_Entry_2017_v2020.csv", NIH_HEADER)
    with pytest.raises(CxrEmbedError, match="it is NIH ChestX-ray14: `recipe='nih-chestxray14'`"):
        read(tmp_path / "d", tmp_path, tables={"list": {"files": ["list.csv"], "key": "id"}})


def test_a_table_alone_is_recognised() -> None:
    assert which_recipe(NIH_HEADER.split(","), "labels.csv") == "nih-chestxray14"
    assert which_recipe(["image_id", "path", "patient_id", "Mass"], "manifest.csv") is None


def test_nothing_is_written_on_a_guess(tmp_path: Path) -> None:
    from cxr_embed import scan_folder

    table(pictures(tmp_path, "p1.png") / "Data_Entry_2017_v2020.csv", NIH_HEADER)
    with pytest.raises(ManifestError, match="give `recipe='nih-chestxray14'` to read it by its own tables"):
        scan_folder(tmp_path, out=tmp_path / "m.csv")
    scanned = scan_folder(tmp_path, recipe="folder", out=tmp_path / "m.csv", keep_patient_id=True)
    assert len(scanned) == len(scanned.manifest) == 1
    # In memory it is known to be of the same data set as when it is read from the file.
    there, read_back = scanned.manifest.companion, read_manifest(tmp_path / "m.csv").companion
    assert there is not None
    assert read_back is not None
    assert (there.recipe, there.not_findings) == (read_back.recipe, read_back.not_findings) == ("folder", ())
    assert "p1" in repr(scanned.to_pandas())


def test_the_recipe_on_the_page_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text()
    file = tmp_path / "clinic.yaml"
    file.write_text(page.split("```yaml\n")[1].split("```")[0])
    root = pictures(tmp_path / "d", "p1/a.png", "p1/b.png", "masks/a.png")
    table(
        root / "list.csv", "image_file,patient,study,Projection,Position,StudyDate,Birth,Sex", "a,7,s1,PA,,2014,1930,F"
    )
    table(root / "reports.csv", "accession,Cardiomegaly,Effusion", "s1,1.0,")
    result = scan(root, load_recipe(str(file)), patient_key=None)
    assert {name: values[0] for name, values in result.columns.items()} == {
        "image_id": "a",
        "path": "p1/a.png",
        "patient_id": "7",
        "study_id": "s1",
        "view": "PA",
        "age": "84",
        "sex": "F",
        "Cardiomegaly": "1",
        "Effusion": "",
    }
    assert [path for path, _ in result.skipped] == ["p1/b.png"]


def test_rows_of_one_image_that_label_it_differently_are_a_problem(tmp_path: Path) -> None:
    root = pictures(tmp_path / "d", "p1.png", "p2.png", "p3.png")
    table(root / "list.csv", "id,runs", "p1,3 2", "p1,-1", "p2,3 2", "p2,5 5", "p3,-1")
    result = read(
        root,
        tmp_path,
        keys={"image": {"path": r"(.*)\.png"}},
        tables={"list": {"files": ["list.csv"], "key": "id", "repeats": "keep"}},
        labels={"masks": {"columns": {"Mass": "runs"}, "map": {"-1": "0", "*": "1"}}},
    )
    assert column(result, "Mass") == {"p1": "1", "p2": "1", "p3": "0"}
    assert result.problems == ["p1.png: Mass is 0 in one row and 1 in another"]
