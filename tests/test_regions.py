"""Boxes as images of their own: joined with a manifest, embedded, searched, forgotten; never mixed with pictures."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import MeanEncoder
from PIL import Image
from typer.testing import CliRunner

import cxr_embed as cx
from cxr_embed.cli import app
from cxr_embed.encoders import load_encoder
from cxr_embed.errors import CxrEmbedError, ImageError
from cxr_embed.explanation.loading import encoder_of
from cxr_embed.images import crop_image, is_cropped, preparation_of, prepared_encoder, read_image
from cxr_embed.index.faiss.duplicates import find_duplicates
from cxr_embed.manifest import Manifest
from cxr_embed.phantom import write_phantoms
from cxr_embed.pipeline.embedding import plan_embedding
from cxr_embed.regions import LEAST, MARGIN, Box, are_regions, region_content
from cxr_embed.store import open_store, verify_store

SIDE = 128
REAL = Path(os.environ.get("CXR_EMBED_REAL_DATA", Path(__file__).parents[2] / "shared/data")) / "nih"


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return f"{result.output}{result.exception or ''}"


def table(path: Path, rows: Sequence[Sequence[object]], header: str = "image_id,finding,x,y,width,height") -> Path:
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def picture(seed: int) -> np.ndarray:
    """Noise that is smooth enough to have places."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8), np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures of five patients, their manifest, and boxes: two in each of the first eight."""
    root = tmp_path_factory.mktemp("world")
    (root / "images").mkdir()
    rows, boxes = [], []
    for number in range(10):
        Image.fromarray(picture(number)).save(root / f"images/i{number}.png")
        split = "train" if number < 6 else "test"
        rows.append([f"i{number}", f"images/i{number}.png", f"p{number // 2}", split, int(number < 8), number % 2, 1])
        if number < 8:
            boxes += [[f"i{number}", "Nodule", 10, 12, 30, 30], [f"i{number}", "Effusion", 60 + number, 70, 24, 40]]
    table(root / "manifest.csv", rows, "image_id,path,patient_id,split,Nodule,Pleural Effusion,Fibrosis")
    table(root / "boxes.csv", boxes)
    return root


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("cxr_embed.pipeline.session.RACY_NS", 0)  # files are new
    shutil.copytree(made, tmp_path / "w")
    return tmp_path / "w"


def embedded(world: Path, name: str = "store", **options: object) -> cx.api.embed.EmbeddedStore:  # type: ignore[name-defined]
    found = cx.crop_manifest(world / "manifest.csv", world / "boxes.csv", out=world / "regions.csv", **options)  # type: ignore[arg-type]
    return cx.embed(found.manifest, MeanEncoder(), world / name)


def test_boxes_become_rows_with_what_is_known_of_their_images(world: Path) -> None:
    found = cx.crop_manifest(world / "manifest.csv", world / "boxes.csv", out=world / "regions.csv")
    assert len(found) == 16
    assert found.pictures == 8
    assert "16 regions of 8 images: Nodule 8, Pleural Effusion 8" in repr(found)
    assert any("Effusion = Pleural Effusion" in note for note in found.notes)
    read = cx.read_manifest(world / "regions.csv")
    assert read.has_regions
    assert read.findings == ("Nodule", "Pleural Effusion")
    rows = {row["image_id"]: row for row in read.table.to_pylist()}
    assert list(rows)[:3] == ["i0#1", "i0#2", "i1#1"]
    assert rows["i3#2"] | {} == {
        "image_id": "i3#2",
        "path": "images/i3.png",
        "patient_id": "p1",
        "split": "train",
        "box": "63,70,24,40",
        "Nodule": "0",
        "Pleural Effusion": "1",
    }
    again = cx.crop_manifest(found.manifest.root / "manifest.csv", world / "boxes.csv", out=world / "regions.csv")
    assert again.manifest.table.equals(found.manifest.table)


def test_a_label_is_known_only_where_somebody_looked(world: Path) -> None:
    marks = [
        ["i0", "Nodule", 0, 0, 20, 20],
        ["i0", "Effusion", 10, 10, 30, 30],  # overlaps
        ["i0", "Nodule", 80, 80, 20, 20],
        ["i0", "Edema", 0, 0, 20, 20],  # like the first
        ["i0", "Edema", 0, 0, 20, 20],  # twice
        ["i1", "Effusion", 5, 5, 30, 30],  # the image shows a nodule, nobody says where
        ["i8", "Effusion", 5, 5, 30, 30],  # it shows none
    ]
    found = cx.crop_manifest(world / "manifest.csv", table(world / "b.csv", marks))
    values = {
        row["image_id"]: (row["Nodule"], row["Pleural Effusion"], row["Edema"]) for row in found.to_arrow().to_pylist()
    }
    assert values == {
        "i0#1": ("1", "", "1"),
        "i0#2": ("", "1", ""),
        "i0#3": ("1", "0", "0"),
        "i1#1": ("", "1", "0"),
        "i8#1": ("0", "1", "0"),
    }
    assert any("1 box is drawn twice" in note for note in found.notes)


def test_a_region_is_a_square_around_its_box_inside_the_picture() -> None:
    side = 40 * (1 + 2 * MARGIN)
    rows, columns = Box(100, 200, 40, 20).cut((500, 400))
    assert (rows.start, rows.stop) == (round(210 - side / 2), round(210 + side / 2))
    assert (columns.start, columns.stop) == (round(120 - side / 2), round(120 + side / 2))
    for box in ((0, 0, 3, 3), (397, 497, 3, 3), (0, 480, 400, 20), (10, 20, 390, 470), (0, 0, 400, 500)):
        rows, columns = Box(*box).cut((500, 400))
        high, wide = rows.stop - rows.start, columns.stop - columns.start
        assert 0 <= rows.start <= box[1] < box[1] + box[3] <= rows.stop <= 500
        assert 0 <= columns.start <= box[0] < box[0] + box[2] <= columns.stop <= 400
        assert (high == wide) == (max(box[2:]) <= 400)
        assert min(high, wide) >= LEAST * 400
    scaled = Box(100, 200, 40, 20, (400, 500)).cut((1000, 800))
    assert [(s.start // 2, s.stop // 2) for s in scaled] == [(180, 240), (90, 150)] or MARGIN != 0.25
    with pytest.raises(ImageError, match="not inside the picture of 400 x 500 pixels"):
        Box(380, 10, 40, 20).cut((500, 400))


@pytest.mark.parametrize(
    "text", ["1,2,3", "1,2,3,0", "1,2,-3,4", "a,b,c,d", "", "1,2,3,4 of 10", "1,2,3,4 of 0x9", "nan,1,1,1"]
)
def test_what_is_no_box_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="box"):
        Box.parse(text)


def test_a_box_has_one_text() -> None:
    for text in ("1.0, 2,3.50,4", "1,2,3.5,4", "1.0001,2,3.5,4.0"):
        assert str(Box.parse(text)) == "1,2,3.5,4"
    assert str(Box.parse("1,2,3,4of1024X512")) == "1,2,3,4 of 1024x512" == str(Box.parse("1,2,3,4 of 1024x512"))


def test_vectors_are_of_the_cut_picture_and_of_another_encoder(world: Path) -> None:
    store = embedded(world)
    assert len(store) == 16
    assert not store.summary.failed
    assert not verify_store(store.path)
    assert store.patient_ids.tolist()[:4] == ["p0", "p0", "p0", "p0"]
    whole = cx.embed(world / "manifest.csv", MeanEncoder(), world / "whole")
    assert is_cropped(store.spec)
    assert not is_cropped(whole.spec)
    assert whole.spec == MeanEncoder.spec  # as it always was
    both = prepared_encoder(MeanEncoder(), "stretch", cropped=True).spec
    assert preparation_of(both) == "stretch"
    assert is_cropped(both)
    assert len({store.spec.fingerprint, whole.spec.fingerprint, both.fingerprint}) == 3
    part = crop_image(read_image(world / "images/i3.png"), Box(63, 70, 24, 40))
    expected = MeanEncoder().preprocess(part).ravel()
    np.testing.assert_allclose(store.read(["i3#2"], "means").vectors[0], expected, rtol=1e-3)
    with pytest.raises(CxrEmbedError, match=r"vectors of mean \(regions\) .* not of mean \[.* another `store`"):
        cx.embed(world / "manifest.csv", MeanEncoder(), world / "store")
    with pytest.raises(CxrEmbedError, match="another `store`"):
        cx.embed(cx.read_manifest(world / "regions.csv"), MeanEncoder(), world / "whole")


def test_bits_stay_until_the_encoder(world: Path) -> None:
    values = (picture(3).astype(np.uint16) << 4) + 9
    Image.fromarray(values).save(world / "deep.png")
    image = read_image(world / "deep.png")
    part = crop_image(image, Box(63, 70, 24, 40))
    rows, columns = Box(63, 70, 24, 40).cut((SIDE, SIDE))
    assert part.bits == image.bits == 16
    np.testing.assert_array_equal(part.pixels, values[rows, columns])


def test_only_boxes_that_changed_are_embedded_again(world: Path) -> None:
    first = embedded(world)
    assert embedded(world).summary.unchanged == 16
    text = (world / "boxes.csv").read_text().replace("i0,Nodule,10,12,30,30", "i0,Nodule,11,12,30,30")
    (world / "boxes.csv").write_text(text)
    moved = cx.crop_manifest(world / "manifest.csv", world / "boxes.csv").manifest
    second = cx.embed(moved, MeanEncoder(), first.path)
    assert (second.summary.unchanged, second.summary.embedded) == (15, 1)
    assert not verify_store(first.path)
    # A box before the others: numbers move on, vectors are known by file and box.
    table(
        world / "b.csv",
        [["i0", "Edema", 1, 1, 50, 50], ["i0", "Nodule", 11, 12, 30, 30], ["i0", "Effusion", 60, 70, 24, 40]],
    )
    third = cx.embed(cx.crop_manifest(world / "manifest.csv", world / "b.csv").manifest, MeanEncoder(), first.path)
    assert (third.summary.reused, third.summary.embedded) == (2, 1)
    kept = dict(zip(second.ids.tolist(), second.content_ids.tolist(), strict=True))
    now = dict(zip(third.ids.tolist(), third.content_ids.tolist(), strict=True))
    assert now["i0#2"] == kept["i0#1"]
    assert now["i0#3"] == kept["i0#2"]


def test_content_is_the_file_and_the_box() -> None:
    one = region_content(b"\1" * 32, "1,2,3,4")
    assert len({one, region_content(b"\2" * 32, "1,2,3,4"), region_content(b"\1" * 32, "1,2,3,5"), b"\1" * 32}) == 4


def test_the_command_of_the_issue_then_a_search_for_a_region(world: Path) -> None:
    boxes = ["--crop", "boxes", "--boxes", world / "boxes.csv"]
    embed = [
        "embed",
        world / "manifest.csv",
        *boxes,
        "--store",
        world / "v/regions",
        "--encoder",
        "hog",
        "--workers",
        "1",
    ]
    planned = json.loads(run(*embed, "--dry-run", "--json"))
    assert planned["images"] == planned["to_read"] == 16
    assert not (world / "v").exists()
    said = run(*embed)
    assert "regions.csv: 16 regions of 8 images" in said
    assert "16 embedded" in said
    assert "16 unchanged" in run(*embed)
    run("embed", world / "manifest.csv", "--store", world / "v/whole", "--encoder", "hog", "--workers", "1")
    assert "another" in run(*embed[:-5], world / "v/whole", *embed[-4:], code=1)
    assert not (world / "v/whole.csv").exists()
    regions = world / "v/regions.csv"
    run("index", "build", world / "v/regions", "--manifest", regions, "--out", world / "index")
    asked = ["search", world / "index", "--image", world / "images/i3.png", "-k", "3"]
    found = json.loads(run(*asked, "--box", "63,70,24,40", "--exclude-same-patient", "--json"))
    assert found["query"]["patients"] == ["p1"]
    assert len(found["neighbors"]) == 3
    assert all(case["patient_id"] != "p1" and case["box"] for case in found["neighbors"])
    assert "is indexed, as i3#1, i3#2" in " ".join(found["query"]["notes"])
    same = run(
        "search",
        world / "index",
        "--image",
        shutil.copy(world / "images/i3.png", world / "x.png"),
        "--box",
        "63,70,24,40",
    )
    assert "i3#" not in same.split("note")[0].split("\n", 1)[1]
    assert "compared as a whole with parts" in run(*asked)
    montage = ["--montage", world / "m.png", "--manifest", regions]
    run(*asked, "--box", "63,70,24,40", *montage)
    with Image.open(world / "m.png") as drawn:
        assert "#" in drawn.info["cxr_embed image_id"]
    by_id = json.loads(run("search", world / "index", "--image-id", "i3#2", "--json"))
    assert not {"i3#1", "i3#2"} & {case["image_id"] for case in by_id["neighbors"]}


def test_a_part_may_be_compared_with_whole_pictures(world: Path) -> None:
    store = cx.embed(world / "manifest.csv", load_encoder("hog"), world / "whole")
    index = cx.build_index(store, world / "manifest.csv", path=world / "index")
    found = index.search(image=world / "images/i3.png", box=(63, 70, 24, 40), k=2)
    assert any("compared with whole pictures" in note for note in found.notes)
    for box, files, why in (
        ("1,2,3", ["images/i3.png"], "is not a box"),
        ("100,2,300,4", ["images/i3.png"], "not inside the picture of 128 x 128"),
        ("1,2,3,4", ["images/i3.png", "images/i4.png"], "a part of one `image`"),
        ("1,2,3,4", [], "a part of one `image`"),
    ):
        with pytest.raises(CxrEmbedError, match=why):
            index.search(image=[world / file for file in files], image_id="i1", box=box)


def test_boxes_that_cannot_be_cut_out_are_named(world: Path) -> None:
    rows = [["i0", "Nodule", 100, 100, 60, 60], ["i1", "Nodule", 5, 5, 3, 3], ["i2", "Nodule", "", "", "", ""]]
    rows += [["stranger", "Nodule", 1, 1, 30, 30], ["i4", "Nodule", 0, 0, 128, 128]]
    found = cx.crop_manifest(world / "manifest.csv", table(world / "b.csv", rows))
    assert found.manifest.ids.tolist() == ["i0#1", "i1#1", "i4#1"]
    notes = " ".join(found.notes)
    assert "1 image of" in notes
    assert "left out (stranger)" in notes
    assert "1 box is under 8 pixels" in notes
    store = cx.embed(found.manifest, MeanEncoder(), world / "store")
    failure = store.summary.failed[0]
    assert (failure.image_id, failure.kind) == ("i0#1", "outside")
    assert "drawn on another?" in failure.reason
    assert any("1 box is not inside its picture" in note and "`drawn_on`" in note for note in store.summary.notes)
    assert len(store) == 2
    assert not verify_store(store.path)
    assert cx.embed(found.manifest, MeanEncoder(), world / "store").summary.unchanged == 2
    drawn = cx.crop_manifest(world / "manifest.csv", world / "b.csv", drawn_on=(256, 256)).manifest
    assert cx.embed(drawn, MeanEncoder(), world / "store").summary.embedded == 3


@pytest.mark.parametrize(
    ("rows", "options", "why"),
    [
        ([["x", "Nodule", 1, 1, 9, 9]], {}, "none of its 1 image is in the manifest"),
        ([["i0", "Nodule", "", "", "", ""]], {}, "no box and no mask"),
        ([["i0", "Nodule", 1, 1, 0, 9]], {}, "a box of 0 x 9 pixels"),
        ([["i0", "Nodule", 1, "b", 4, 9]], {}, "'b' is not a number"),
        ([["i0", "split", 1, 1, 9, 9]], {}, "the name of a column that is not a finding"),
        ([["i0", "Nodule", 1, 1, 9, 9]], {"min_score": 0.5}, "no box has a score"),
        ([["i0", "Nodule", 1, 1, 9, 9]], {"drawn_on": (0, 5)}, "`drawn_on` is the width and height"),
    ],
)
def test_boxes_that_are_none_are_refused_in_a_line(
    world: Path, rows: list[list[object]], options: dict[str, object], why: str
) -> None:
    with pytest.raises(CxrEmbedError, match=why) as error:
        cx.crop_manifest(world / "manifest.csv", table(world / "b.csv", rows), **options)  # type: ignore[arg-type]
    assert str(error.value).count("\n") < 2


def test_the_command_line_says_what_is_missing(world: Path) -> None:
    embed = ["embed", world / "manifest.csv", "--store", world / "s", "--encoder", "hog"]
    assert "--crop boxes needs --boxes" in run(*embed, "--crop", "boxes", code=2)
    assert "go with --crop boxes" in run(*embed, "--boxes", world / "boxes.csv", code=2)
    assert "no such file" in run(*embed, "--crop", "boxes", "--boxes", world / "no.csv", code=1)
    (world / "s.csv").write_text("a,b\n1,2\n")
    assert "there already" in run(*embed, "--crop", "boxes", "--boxes", world / "boxes.csv", code=1)
    assert (world / "s.csv").read_text() == "a,b\n1,2\n"
    assert not (world / "s").exists()


def test_a_detector_s_boxes_and_masks(world: Path) -> None:
    rows = [["i0", "Nodule", 1, 1, 30, 30, 0.9], ["i0", "Nodule", 50, 50, 30, 30, 0.2]]
    scored = table(world / "d.csv", rows, "image_id,finding,x,y,width,height,score")
    assert cx.crop_manifest(world / "manifest.csv", scored, min_score=0.5).manifest.boxes.tolist() == ["1,1,30,30"]
    coco = [{"image_id": "i1.png", "category": "Nodule", "bbox": [4, 5, 20, 21], "score": 0.8}]
    (world / "coco.json").write_text(json.dumps(coco))
    assert cx.crop_manifest(world / "manifest.csv", world / "coco.json").manifest.boxes.tolist() == ["4,5,20,21"]
    mask = np.zeros((64, 64), np.uint8)
    mask[10:20, 30:50] = 255
    (world / "masks/Nodule").mkdir(parents=True)
    Image.fromarray(mask).save(world / "masks/Nodule/i2.png")
    assert cx.crop_manifest(world / "manifest.csv", world / "masks").manifest.boxes.tolist() == ["30,10,20,10 of 64x64"]
    outlines = [{"image_id": "i3", "category": "Nodule", "bbox": [1, 2, 3, 4], "segmentation": [[8, 9, 40, 9, 40, 29]]}]
    (world / "coco.json").write_text(json.dumps(outlines))
    assert cx.crop_manifest(world / "manifest.csv", world / "coco.json").manifest.boxes.tolist() == ["8,9,32,20"]


def test_ids_with_a_number_sign_are_images_of_their_own(world: Path) -> None:
    text = (world / "manifest.csv").read_text().replace("i1,", "i0#3,").replace("i2,", "i0#7,")
    (world / "manifest.csv").write_text(text)
    assert not cx.read_manifest(world / "manifest.csv").has_regions
    whole = cx.embed(world / "manifest.csv", MeanEncoder(), world / "whole")
    assert {"i0", "i0#3"} <= set(whole.ids.tolist())
    boxes = table(world / "b.csv", [["i0#3", "Nodule", 1, 1, 30, 30], ["i0", "Nodule", 1, 1, 40, 40]])
    store = cx.embed(cx.crop_manifest(world / "manifest.csv", boxes).manifest, MeanEncoder(), world / "store")
    assert sorted(store.ids.tolist()) == ["i0#1", "i0#3#1"]
    forgotten(world, "--image-id", "i0")
    assert open_store(world / "store").ids.tolist() == ["i0#3#1"]
    left = open_store(world / "whole").ids.tolist()
    assert "i0" not in left
    assert "i0#3" in left
    assert "i0#7" in left


def test_an_image_named_like_a_region_is_refused(world: Path) -> None:
    text = (world / "manifest.csv").read_text().replace("i1,", "i0#2,")
    (world / "manifest.csv").write_text(text)
    with pytest.raises(CxrEmbedError, match="the image i0#2 has the name of a region of i0"):
        cx.crop_manifest(world / "manifest.csv", world / "boxes.csv")


def forgotten(world: Path, *arguments: object) -> dict[str, object]:
    key = world.parent / "key"
    key.write_bytes(b"7" * 64 + b"\n")
    result = CliRunner().invoke(app, list(map(str, ["forget", world, *arguments, "--key-file", key, "--json"])))
    assert result.exit_code in (0, 1), result.output
    found: dict[str, object] = json.loads(result.output[result.output.index("{") :])
    return found


@pytest.mark.parametrize("known_as", ["regions alone", "whole pictures too", "the patient"])
def test_forget_reaches_the_regions_of_an_image(world: Path, known_as: str) -> None:
    embedded(world)
    table(world / "scores.csv", [["i3#1", 0.2], ["i4#1", 0.3]], "image_id,Nodule")
    cx.build_index(world / "store", world / "regions.csv", path=world / "index")
    if known_as == "whole pictures too":
        cx.embed(world / "manifest.csv", MeanEncoder(), world / "whole")
    whom = ["--patient", "p1"] if known_as == "the patient" else ["--image-id", "i3"]
    said = forgotten(world, *whom, "--delete-rows")
    gone = {"i2", "i3"} if known_as == "the patient" else {"i3"}
    assert not said["problems"]
    assert said["copies"] == 0
    for ids in (open_store(world / "store").ids, cx.CaseIndex(world / "index").ids):
        assert {each.split("#")[0] for each in ids.tolist()} == {f"i{n}" for n in range(8)} - gone
    for name in ("regions.csv", "scores.csv", "manifest.csv", "boxes.csv"):
        with open(world / name, newline="") as file:
            assert not {row["image_id"].split("#")[0] for row in csv.DictReader(file)} & gone, name
    if known_as == "whole pictures too":
        assert "i3" not in open_store(world / "whole").ids.tolist()
    assert not verify_store(world / "store")
    assert cx.read_manifest(world / "regions.csv").companion is not None
    # They stay out, under new numbers and boxes too, and the file under another name.
    shutil.copy(world / "images/i3.png", world / "images/again.png")
    rows = [["i3", "images/i3.png", "p1", 1], ["i9", "images/again.png", "p4", 1], ["i5", "images/i5.png", "p2", 1]]
    table(world / "new.csv", rows, "image_id,path,patient_id,Nodule")
    boxes = table(world / "b.csv", [[f"i{n}", "Nodule", 1, k, 30, 30] for n in (3, 9, 5) for k in (1, 2, 3)])
    cropped, key = cx.crop_manifest(world / "new.csv", boxes).manifest, world.parent / "key"
    again = cx.embed(cropped, MeanEncoder(), world / "store", key_file=key)
    assert again.summary.embedded == 3
    assert again.summary.forgotten == 6
    plan = plan_embedding(cropped, encoder="hog", store=world / "new", key_file=key)
    # The list beside the key knows of the image, and of the patient; a file that is not read yet may be the same.
    assert plan.forgotten == 3


def test_one_region_can_be_forgotten_alone(world: Path) -> None:
    embedded(world)
    forgotten(world, "--image-id", "i3#1")
    left = open_store(world / "store").ids.tolist()
    assert "i3#1" not in left
    assert "i3#2" in left
    assert len(left) == 15
    assert not verify_store(world / "store")


def test_regions_of_a_picture_are_no_copies_and_no_independent_cases(world: Path) -> None:
    (world / "images/i9.png").write_bytes((world / "images/i0.png").read_bytes())
    rows = [[f"i{n}", "Nodule", x, 12, 40, 40] for n in (0, 9, 4) for x in (10, 11)]
    found = cx.crop_manifest(world / "manifest.csv", table(world / "b.csv", rows)).manifest
    store = cx.embed(found, MeanEncoder(), world / "store")
    index = cx.build_index(store, found, path=world / "index").index
    assert isinstance(index, cx.CaseIndex)
    groups = find_duplicates(index, index.patient_ids, np.array([""] * 6), 0.99999).groups
    names = [{str(index.ids[row]) for row in group.rows} for group in groups]
    assert {"i0#1", "i9#1"} in names or {"i0#1", "i9#1", "i0#2", "i9#2"} in names
    assert not any(name <= {"i4#1", "i4#2"} for name in names)
    evaluated = cx.evaluate_index(index.path, found, k=[1])
    assert "Nodule" in repr(evaluated)


def test_a_manifest_with_a_column_box_of_its_own_still_opens(world: Path) -> None:
    text = (world / "manifest.csv").read_text().splitlines()
    (world / "m.csv").write_text("\n".join([text[0] + ",box", *(line + ",shelf 7" for line in text[1:])]) + "\n")
    read = cx.read_manifest(world / "m.csv")
    assert not read.has_regions
    assert set(read.boxes.tolist()) == {""}
    bad = (
        text[0] + ",box\n" + text[1].replace("i0,", "i0#1,") + ',"1,2,3,4"\n' + text[2].replace("i1,", "i1#1,") + ",\n"
    )
    (world / "m.csv").write_text(bad)
    with pytest.raises(CxrEmbedError, match="box is not x,y,width,height in pixels: '' in line 3"):
        cx.read_manifest(world / "m.csv")
    assert are_regions(["a#1"], [""])
    assert not are_regions(["a"], ["b"])


def test_an_index_says_where_the_manifest_has_other_boxes(world: Path) -> None:
    store = embedded(world)
    text = (world / "boxes.csv").read_text().replace("i0,Nodule,10,12,30,30", "i0,Nodule,40,12,30,30")
    (world / "boxes.csv").write_text(text)
    moved = cx.crop_manifest(world / "manifest.csv", world / "boxes.csv").manifest
    built = cx.build_index(store, moved, path=world / "index")
    assert any("1 region has another box in the manifest" in note for note in built.notes)
    first = built.index.cases(built.index.rows_of(["i0#1"]))[0]
    assert first["box"] == "10,12,30,30"  # what was cut out
    assert isinstance(moved, Manifest)


def test_a_store_of_whole_pictures_is_written_as_before(world: Path) -> None:
    import pyarrow as pa

    from cxr_embed.store.layout import REGION_SCHEMA, ROW_SCHEMA

    cx.embed(world / "manifest.csv", MeanEncoder(), world / "whole")
    embedded(world)
    for name, schema in (("whole", ROW_SCHEMA), ("store", REGION_SCHEMA)):
        (rows,) = (world / name).glob("shards/*/rows.arrow")
        with pa.memory_map(str(rows)) as source:
            assert pa.ipc.open_file(source).schema == schema
    out = world / "v.parquet"
    run("store", "export", world / "store", out)
    assert pq.read_table(out)["image_id"].to_pylist()[0] == "i0#1"


def test_masks_of_phantoms_give_the_boxes_of_their_table(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "cases", 5, seed=2, size=96, masks=True)
    by_table = cx.crop_manifest(tmp_path / "cases/manifest.csv", tmp_path / "cases/truth.csv").to_arrow().to_pylist()
    by_mask = cx.crop_manifest(tmp_path / "cases/manifest.csv", tmp_path / "cases/masks").to_arrow().to_pylist()
    assert by_table
    assert {row["image_id"].split("#")[0] for row in by_mask} == {row["image_id"].split("#")[0] for row in by_table}
    assert all(row["box"].endswith(" of 96x96") for row in by_mask)
    assert {row["patient_id"] for row in by_mask} == {row["patient_id"] for row in by_table}


@pytest.mark.skipif(not REAL.exists(), reason=f"no radiographs in {REAL}")
def test_real_boxes_are_found_where_they_were_drawn(tmp_path: Path) -> None:
    with open(REAL / "boxes.csv", newline="") as file:
        rows = [list(row.values()) for row in csv.DictReader(file) if row["finding"] in ("Nodule", "Mass")]
    boxes = table(tmp_path / "boxes.csv", rows)
    found = cx.crop_manifest(REAL / "manifest.csv", boxes, drawn_on=(1024, 1024))
    assert found.manifest.root == REAL
    store = cx.embed(found.manifest, MeanEncoder(), tmp_path / "store")
    assert len(store) == len(found) == len(rows)
    assert not store.summary.unlike_chest  # the whole picture is looked at, not the part
    for image_id, box in zip(found.manifest.ids.tolist(), found.manifest.boxes.tolist(), strict=True):
        whole = read_image(REAL / f"images/{image_id.split('#')[0]}.jpg")
        small = Box.parse(box.removesuffix(" of 1024x1024"))
        half = Box(small.x / 2, small.y / 2, small.width / 2, small.height / 2)  # the files are of 512 pixels
        expected = MeanEncoder().preprocess(crop_image(whole, half)).ravel()
        np.testing.assert_allclose(store.read([image_id], "means").vectors[0], expected, rtol=2e-3)
    unsaid = cx.embed(cx.crop_manifest(REAL / "manifest.csv", boxes).manifest, MeanEncoder(), tmp_path / "other")
    assert {failure.kind for failure in unsaid.summary.failed} == {"outside"}
    assert any("drawn on pictures of another size" in note for note in unsaid.summary.notes)


def test_regions_of_two_data_sets_are_one_manifest(world: Path, tmp_path: Path) -> None:
    (tmp_path / "other/images").mkdir(parents=True)
    Image.fromarray(picture(50)).save(tmp_path / "other/images/i0.png")
    table(tmp_path / "other/manifest.csv", [["i0", "images/i0.png", "q0", 1]], "image_id,path,patient_id,Nodule")
    boxes = table(tmp_path / "other/boxes.csv", [["i0", "Nodule", 10, 10, 30, 30]])
    both = [
        cx.crop_manifest(world / "manifest.csv", world / "boxes.csv").manifest,
        cx.crop_manifest(tmp_path / "other/manifest.csv", boxes).manifest,
    ]
    merged = cx.merge_manifests(both, source=["a", "b"], image_ids="prefix").manifest
    assert merged.has_regions
    assert merged.ids.tolist()[::16] == ["a/i0#1", "b/i0#1"]
    assert cx.embed(merged, MeanEncoder(), tmp_path / "store").summary.embedded == 17


def test_heat_maps_are_of_whole_pictures() -> None:
    spec = prepared_encoder(MeanEncoder(), None, cropped=True).spec
    with pytest.raises(CxrEmbedError, match="vectors of regions"):
        encoder_of(spec, "means")
