"""`explain evaluate`: heat maps against boxes and masks, beside maps that know nothing of the picture."""

from __future__ import annotations

import json
import math
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from map_worlds import SHAPE, boxes_at, peaked, record, write_boxes, write_chexlocalize, write_folder
from PIL import Image
from typer.testing import CliRunner

import cxr_embed
from cxr_embed.cli import app
from cxr_embed.errors import CxrEmbedError, MapError
from cxr_embed.explanation.places import read_places
from cxr_embed.explanation.record import HEADER, read_maps
from cxr_embed.types import RESEARCH

GOLDEN = json.loads((Path(__file__).parent / "golden_chexlocalize.json").read_text())
COUNT = 30


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`Nodule` is found by its maps, `Mass` is not; one patient has two images. And maps of an untrained encoder."""
    root = tmp_path_factory.mktemp("maps")
    rng, boxes = np.random.default_rng(5), boxes_at(COUNT)
    ids = [f"i{number}" for number in range(COUNT)]
    patients = [f"p{max(number, 1)}" for number in range(COUNT)]
    found = [(record(n, ids[n], "Nodule", patient_id=patients[n]), peaked(boxes[n])) for n in range(COUNT)]
    found += [(record(COUNT + n, ids[n], "Mass", patient_id=patients[n]), rng.random((5, 7))) for n in range(COUNT)]
    write_folder(root / "maps", found)
    write_folder(root / "untrained", [(each, rng.random((3, 4))) for each, _ in found])
    rows = [(ids[n], finding, *boxes[n]) for n in range(COUNT) for finding in ("Nodule", "Mass")]
    write_boxes(root / "boxes.csv", rows)
    return root


@pytest.fixture(scope="module")
def report(world: Path) -> cxr_embed.api.maps.MapEvaluationResult:
    return cxr_embed.evaluate_maps(world / "maps", world / "boxes.csv", untrained=world / "untrained", bootstraps=200)


def test_what_is_found_is_told_from_what_is_not(report: cxr_embed.api.maps.MapEvaluationResult) -> None:
    nodule, mass = report.findings
    assert (nodule.name, nodule.images, nodule.patients) == ("Nodule", COUNT, COUNT - 1)
    assert nodule.figures["map"]["hit_rate"].value == 1
    assert nodule.figures["map"]["auroc"].value > 0.98
    assert all(nodule.above(figure) for figure in ("hit_rate", "iou", "mean_iou", "energy", "auroc"))
    assert not mass.above("hit_rate")
    assert mass.figures["map"]["auroc"].low < 0.5 < mass.figures["map"]["auroc"].high
    assert nodule.area == pytest.approx(120 / (48 * 64))
    # The bell points at the centre of every picture.
    centres = [x <= 31 < x + 12 and y <= 23 < y + 10 for x, y in ((b[0], b[1]) for b in boxes_at(COUNT))]
    assert nodule.figures["centre"]["hit_rate"].value == pytest.approx(np.mean(centres))
    for figure, value in nodule.figures["map"].items():
        apart = nodule.differences["centre"][figure].value
        assert apart == pytest.approx(value.value - nodule.figures["centre"][figure].value)
        assert report.mean.figures["map"][figure].value == pytest.approx(
            (value.value + mass.figures["map"][figure].value) / 2
        )
    assert report.pooled.images == 2 * COUNT
    assert report.pooled.patients == COUNT - 1


def test_figures_are_means_over_images_with_the_houses_intervals(
    report: cxr_embed.api.maps.MapEvaluationResult,
) -> None:
    from cxr_embed.metrics.retrieval import means_by_patient

    rows = [row for row in report.by_image().to_pylist() if row["finding"] == "Nodule"]
    owners = np.unique([row["patient_id"] for row in rows], return_inverse=True)[1]
    for figure in ("mean_iou", "energy", "auroc"):
        values = np.array([row[figure] for row in rows])
        expected = means_by_patient([values[:, None]], [owners], "part", 200, [0])[0]
        found = report.findings[0].figures["map"][figure]
        assert found.value == pytest.approx(values.mean())
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_map_is_as_wide_as_its_patients_are_many(tmp_path: Path) -> None:
    """Forty copies of one patient's image show no spread."""
    box = boxes_at(1)[0]
    write_folder(tmp_path / "maps", [(record(n, f"i{n}", "Mass", patient_id="p"), peaked(box)) for n in range(40)])
    write_boxes(tmp_path / "b.csv", [(f"i{n}", "Mass", *box) for n in range(40)])
    found = cxr_embed.evaluate_maps(tmp_path / "maps", tmp_path / "b.csv", bootstraps=50).findings[0]
    assert found.figures["map"]["auroc"].low is None
    assert found.figures["map"]["iou"].value is None  # no other patient to choose a threshold on
    assert "other patients" in found.figures["map"]["iou"].reason


def test_thresholds_by_rule(world: Path) -> None:
    given = cxr_embed.evaluate_maps(world / "maps", world / "boxes.csv", threshold=0.45, bootstraps=0)
    by_name = cxr_embed.evaluate_maps(
        world / "maps", world / "boxes.csv", threshold={"Nodule": 0.5, "Mass": 0.25}, bootstraps=0
    )
    nodule = by_name.findings[0]
    assert nodule.figures["map"]["iou"].value == pytest.approx(nodule.by_threshold["map"][4])
    assert nodule.thresholds["map"] == (0.5,)
    assert given.findings[0].thresholds["map"] == (0.45,)
    curve = given.findings[0].by_threshold["map"]
    assert len(curve) == 9
    assert given.findings[0].figures["map"]["mean_iou"].value == pytest.approx(curve.mean())
    chosen = cxr_embed.evaluate_maps(world / "maps", world / "boxes.csv", bootstraps=0).findings[0]
    assert len(chosen.thresholds["map"]) == 5
    assert chosen.figures["map"]["iou"].value <= max(curve) + 0.05


def test_random_maps_hang_on_no_other_map(world: Path) -> None:
    both = cxr_embed.evaluate_maps(world / "maps", world / "boxes.csv", bootstraps=0)
    one = cxr_embed.evaluate_maps(world / "maps", world / "boxes.csv", findings=["Mass"], bootstraps=0)
    other = cxr_embed.evaluate_maps(world / "maps", world / "boxes.csv", findings=["Mass"], bootstraps=0, seed=1)
    auroc = [each.figures["random"]["auroc"].value for each in (both.findings[1], one.findings[0], other.findings[0])]
    assert auroc[0] == auroc[1] != auroc[2]


def test_the_command_line_shows_it_and_says_what_it_is_for(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(world)
    monkeypatch.setenv("COLUMNS", "100")
    words = ["explain", "evaluate", "maps", "boxes.csv", "--untrained", "untrained", "--bootstraps", "50"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 0, done.output
    assert max(map(len, done.output.splitlines())) <= 100
    assert done.output.rstrip().endswith(RESEARCH)
    for word in ("pointing game", "IoU", "energy inside", "AUROC by pixel", "untrained (95%)", "toy, cam, last"):
        assert word in done.output
    assert "intervals apart: Nodule\n" in done.output
    assert "not so: Mass" in done.output
    done = CliRunner().invoke(app, [*words, "--json", "--threshold", "0.5"])
    found = json.loads(done.stdout)
    assert found["note"] == RESEARCH
    assert [each["finding"] for each in found["findings"]] == ["Nodule", "Mass"]
    assert found["findings"][0]["figures"]["map"]["hit_rate"]["value"] == 1
    assert found["findings"][0]["map_minus"]["untrained"]["hit_rate"]["low"] > 0.5
    assert found["threshold"] == "given"
    printed = cxr_embed.evaluate_maps("maps", "boxes.csv", bootstraps=20)
    assert repr(printed).endswith(RESEARCH)
    assert RESEARCH in printed._repr_html_()
    assert printed.to_arrow().num_rows == 4 * 3 * 5


def test_stand_in_weights_are_named(world: Path, tmp_path: Path) -> None:
    spec = cxr_embed.load_encoder("hog").spec.to_json() | {
        "weights_source": "random numbers (seed 0): not a trained model"
    }
    body = json.loads((world / "maps" / HEADER).read_text())
    body["about"]["spec"] = spec
    (tmp_path / HEADER).write_text(json.dumps(body))
    os.symlink(world / "maps" / "maps", tmp_path / "maps")
    words = ["explain", "evaluate", str(tmp_path), str(world / "boxes.csv"), "--bootstraps", "0"]
    assert "not a trained model" in CliRunner().invoke(app, words).output


def _same_marks(first: Path, second: Path, min_score: float | None = None) -> None:
    one, two = read_places(first), read_places(second, min_score)
    assert one.marks.keys() == two.marks.keys()
    for image, finding in one.marks:
        assert (one.mask(image, finding, SHAPE) == two.mask(image, finding, SHAPE)).all()


def test_every_format_marks_the_same_pixels(tmp_path: Path) -> None:
    rows = [(f"i{n}", "Mass", *box) for n, box in enumerate(boxes_at(4))]
    plain = write_boxes(tmp_path / "boxes.csv", rows)
    corners = [f"{i},{f},R1,{x},{y},{x + w},{y + h}" for i, f, x, y, w, h in rows]
    nothing = ["i9,No finding,R1,,,,"]
    (tmp_path / "vindr.csv").write_text(
        "\n".join(["image_id,class_name,rad_id,x_min,y_min,x_max,y_max", *corners, *nothing]) + "\n"
    )
    _same_marks(plain, tmp_path / "vindr.csv")
    (tmp_path / "masks" / "Mass").mkdir(parents=True)
    runs = ["image_id,finding,x,y,width,height,mask"]
    entries: dict[str, dict[str, object]] = {}
    for image, finding, x, y, width, height in rows:
        mask = np.zeros(SHAPE, np.uint8)
        mask[y : y + height, x : x + width] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / finding / f"{image}.png")
        flat = (mask.T.ravel() > 0).astype(int)
        edges = np.flatnonzero(np.diff(flat, prepend=0, append=0))
        counts = np.diff(edges, prepend=0, append=flat.size).tolist()
        runs.append(f"{image},{finding},,,,,{SHAPE[0]} x {SHAPE[1]}: {' '.join(map(str, counts))}")
        entries[image] = {finding: {"size": list(SHAPE), "counts": counts}}
    (tmp_path / "runs.csv").write_text("\n".join(runs) + "\n")
    (tmp_path / "runs.json").write_text(json.dumps(entries))
    for other in ("masks", "runs.csv", "runs.json"):
        _same_marks(plain, tmp_path / other)
    annotations = [{"image_id": n, "category_id": 3, "bbox": list(row[2:]), "score": 0.9} for n, row in enumerate(rows)]
    annotations.append({"image_id": 0, "category_id": 3, "bbox": [0, 0, 40, 40], "score": 0.2})
    coco = {
        "images": [{"id": n, "file_name": f"images/{row[0]}.png"} for n, row in enumerate(rows)],
        "categories": [{"id": 3, "name": "Mass"}],
        "annotations": annotations,
    }
    (tmp_path / "coco.json").write_text(json.dumps(coco))
    _same_marks(plain, tmp_path / "coco.json", 0.5)
    named = [{**each, "image_id": rows[each["image_id"]][0], "category": "Mass"} for each in annotations]
    (tmp_path / "detected.json").write_text(json.dumps(named))
    _same_marks(plain, tmp_path / "detected.json", 0.5)
    scored = [f"{','.join(map(str, row))},0.7" for row in rows]
    (tmp_path / "detected.csv").write_text(
        "\n".join(["image_id,finding,x,y,width,height,score", *scored, "i0,Mass,0,0,40,40,0.1"]) + "\n"
    )
    _same_marks(plain, tmp_path / "detected.csv", 0.5)


def test_a_pixel_is_in_a_box_that_holds_its_centre(tmp_path: Path) -> None:
    rows = [("a", "Mass", 2.4, 1.6, 3.2, 2), ("b", "Mass", 5.6, 5.6, 0.3, 0.3), ("c", "Mass", -0.5, 40.2, 64.9, 8.3)]
    places = read_places(write_boxes(tmp_path / "b.csv", rows))
    marked = np.argwhere(places.mask("a", "Mass", SHAPE))
    assert (marked.min(0).tolist(), marked.max(0).tolist()) == ([2, 2], [3, 5])
    assert places.mask("b", "Mass", SHAPE).sum() == 1
    assert places.mask("c", "Mass", SHAPE).sum() == 64 * 8


def test_marks_of_pictures_of_another_size(tmp_path: Path) -> None:
    rows = [(f"i{n}", "Mass", *box) for n, box in enumerate(boxes_at(4))]
    plain = write_boxes(tmp_path / "plain.csv", rows)
    double = write_boxes(tmp_path / "double.csv", [(*row[:2], *(2 * edge for edge in row[2:])) for row in rows])
    (tmp_path / "masks" / "Mass").mkdir(parents=True)
    large = (2 * SHAPE[0], 2 * SHAPE[1])
    for image, _, x, y, width, height in rows:
        mask = np.zeros(large, np.uint8)
        mask[2 * y : 2 * (y + height), 2 * x : 2 * (x + width)] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / "Mass" / f"{image}.png")
    known = read_places(plain)
    for path in (double, tmp_path / "masks"):
        other = read_places(path, drawn_on=large)
        assert all((known.mask(*key, SHAPE) == other.mask(*key, SHAPE)).all() for key in known.marks)


def test_marks_that_may_be_of_smaller_pictures_are_noted(world: Path, tmp_path: Path) -> None:
    rows = [(f"i{n}", "Mass", *(edge / 2 for edge in box)) for n, box in enumerate(boxes_at(COUNT))]
    boxes = write_boxes(tmp_path / "b.csv", rows)
    words = [str(world / "maps"), str(boxes), "--finding", "Mass", "--bootstraps", "0"]
    odd = CliRunner().invoke(app, ["explain", "evaluate", *words])
    right = CliRunner().invoke(app, ["explain", "evaluate", *words, "--drawn-on", "32x24"])
    assert "upper left of their pictures" in odd.output
    assert "upper left" not in right.output
    _refused([*words, "--drawn-on", "32"], "such as 1024x1024, not '32'")


def test_coco_outlines_and_run_lengths_in_text(tmp_path: Path) -> None:
    outline = [[10, 5, 20, 5, 20, 15, 10, 15]]
    body = {
        "images": [{"id": 1, "file_name": "i.png"}],
        "categories": [{"id": 1, "name": "Mass"}],
        "annotations": [{"image_id": 1, "category_id": 1, "bbox": [10, 5, 11, 11], "segmentation": outline}],
    }
    (tmp_path / "c.json").write_text(json.dumps(body))
    marked = read_places(tmp_path / "c.json").mask("i", "Mass", SHAPE)
    assert marked[5:16, 10:21].all()
    assert marked.sum() == 121


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    return write_chexlocalize(tmp_path_factory.mktemp("twin"))


@pytest.mark.parametrize("rule", ["otsu", "given"])
def test_figures_are_those_of_chexlocalizes_own_code(twin: Path, rule: str) -> None:
    """Its `annotation_to_segmentation.py`, `heatmap_to_segmentation.py` and `eval.py` were run on the same files."""
    found = cxr_embed.evaluate_maps(
        twin / "maps",
        twin / "annotations.json",
        threshold="otsu" if rule == "otsu" else twin / "thresholds.csv",
        bootstraps=0,
    )
    rows = {f"{row['image_id']} {row['finding']}": row for row in found.by_image().to_pylist()}
    assert {name: row["iou"] for name, row in rows.items()} == pytest.approx(GOLDEN[f"iou {rule}"], abs=1e-6)
    assert {name: row["hit_rate"] for name, row in rows.items()} == GOLDEN["hit_rate"]
    for finding in found.findings:
        theirs = [value for name, value in GOLDEN[f"iou {rule}"].items() if name.endswith(f"frontal {finding.name}")]
        assert finding.figures["map"]["iou"].value == pytest.approx(np.mean(theirs), abs=1e-6)


def test_its_segmentations_are_read_as_its_annotations_are(twin: Path, tmp_path: Path) -> None:
    body: dict[str, dict[str, object]] = {}
    for name, entry in GOLDEN["segmentations"].items():
        body.setdefault(name.split(" ")[0], {})[name.split(" ")[1]] = entry
    (tmp_path / "s.json").write_text(json.dumps(body))
    drawn, coded = read_places(twin / "annotations.json"), read_places(tmp_path / "s.json")
    full = 0
    for image, finding in coded.marks:
        shape = tuple(GOLDEN["segmentations"][f"{image} {finding}"]["size"])
        mask = coded.mask(image, finding, shape)
        full += mask.any()
        assert (mask == (drawn.mask(image, finding, shape) if (image, finding) in drawn.marks else False)).all()
    assert full >= 2


def test_a_pickle_builds_arrays_and_nothing_else(twin: Path, tmp_path: Path) -> None:
    import torch

    path = next((twin / "maps").glob("*Edema_map.pkl"))
    known = {"map": torch.rand(1, 1, 4, 4), "prob": 0.5, "task": "Edema", "cxr_dims": (8, 8)}
    places = str(twin / "annotations.json")

    class Harm:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, (f"touch {tmp_path / 'ran'}",)

    class Beyond:
        def __reduce__(self) -> tuple[object, ...]:
            return torch._utils._rebuild_tensor_v2, (known["map"]._typed_storage(), 0, (9, 9), (1 << 20, 1), False, {})

    bad = {"harm": (Harm(), "asks for"), "beyond": (Beyond(), "not a heat map"), "words": ("text", "not a heat map")}
    for name, (value, why) in bad.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / path.name).write_bytes(pickle.dumps({**known, "map": value}))
        with pytest.raises(MapError, match=why):
            cxr_embed.evaluate_maps(tmp_path / name, places)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / path.name).write_bytes(path.read_bytes()[:-900])
    with pytest.raises(MapError, match="not a heat map of CheXlocalize"):
        cxr_embed.evaluate_maps(tmp_path / "cut", places)
    assert not (tmp_path / "ran").exists()


BAD = {
    "scale": ("i0,Mass,600,300,200,90", "boxes of another scale"),
    "negative": ("i0,Mass,-5,3,20,9", "not inside the picture of 64 x 48"),
    "empty box": ("i0,Mass,5,3,0,9", "a box of 0 x 9 pixels"),
    "words": ("i0,Mass,left,3,4,9", "'left' is not a number"),
    "endless": ("i0,Mass,nan,3,4,9", "not a number"),
    "other images": ("other,Mass,5,3,20,9", "no image in common"),
    "other finding": ("i0,Hernia,5,3,20,9", "marks of Hernia; the maps are of Nodule, Mass"),
    "no box": ("i0,Mass,,,,", "no box and no mask"),
}


@pytest.mark.parametrize("kind", BAD)
def test_boxes_that_do_not_fit_are_refused_in_one_line(world: Path, tmp_path: Path, kind: str) -> None:
    row, why = BAD[kind]
    (tmp_path / "b.csv").write_text(f"image_id,finding,x,y,width,height\n{row}\n")
    _refused([str(world / "maps"), str(tmp_path / "b.csv")], why)


def _refused(words: list[str], why: str) -> None:
    done = CliRunner().invoke(app, ["explain", "evaluate", *words])
    message = str(done.exception) if isinstance(done.exception, CxrEmbedError) else done.output
    assert done.exit_code, done.output
    assert why in message
    assert len(message.strip().splitlines()) == 1


def test_other_bad_input_is_refused_in_one_line(world: Path, tmp_path: Path) -> None:
    maps, boxes = str(world / "maps"), str(world / "boxes.csv")
    (tmp_path / "masks" / "Mass").mkdir(parents=True)
    Image.fromarray(np.ones((20, 20), np.uint8)).save(tmp_path / "masks" / "Mass" / "i0.png")
    _refused([maps, str(tmp_path / "masks")], "the mask has 20 x 20 pixels, the picture 64 x 48")
    Image.fromarray(np.zeros(SHAPE, np.uint8)).save(tmp_path / "masks" / "Mass" / "i0.png")
    _refused([maps, str(tmp_path / "masks")], "are empty")
    (tmp_path / "masks" / "Mass" / "i0.png").write_text("no picture")
    _refused([maps, str(tmp_path / "masks")], "no mask")
    _refused([maps, boxes, "--finding", "Hernia"], "no finding Hernia; the findings are: Nodule, Mass")
    _refused([maps, boxes, "--min-score", "0.5"], "no box has a score")
    _refused([maps, boxes, "--threshold", "1.5"], "from 0 to below 1")
    _refused([maps, boxes, "--threshold", "youden"], "youden: neither other-patients, otsu or a number")
    _refused([maps, str(tmp_path / "none.csv")], "no such file or folder")
    _refused([str(tmp_path / "none"), boxes], "no heat maps here")
    (tmp_path / "list.json").write_text('[{"image_id": 4, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]')
    _refused([maps, str(tmp_path / "list.json")], "are not named")
    (tmp_path / "odd.json").write_text("[1, {")
    _refused([maps, str(tmp_path / "odd.json")], "not JSON")
    few = write_folder(tmp_path / "few", [(record(0, "i0", "Mass"), np.ones((2, 2)))])
    _refused([maps, boxes, "--untrained", str(few)], "no map of Nodule in i0; make the same maps")


@pytest.mark.parametrize("change", ["version", "area", "file", "twice", "shape", "nan", "cut", "format", "spec"])
def test_a_damaged_folder_of_maps_is_named(tmp_path: Path, change: str) -> None:
    root = write_folder(
        tmp_path / "m", [(record(0, "i0", "Mass"), np.ones((2, 2))), (record(1, "i1", "Mass"), np.eye(2))]
    )
    boxes = write_boxes(tmp_path / "b.csv", [("i0", "Mass", 1, 1, 5, 5)])
    body = json.loads((root / HEADER).read_text())
    first = body["maps"][0]
    changes = {
        "version": lambda: body.update(version=9),
        "format": lambda: body.update(format="other"),
        "area": lambda: first.update(area=[0, 0, math.inf, 1]),
        "file": lambda: first.update(map="../secret.npy"),
        "twice": lambda: body["maps"].append(first),
        "spec": lambda: body["about"].update(spec={"name": 3}),
        "shape": lambda: np.save(root / first["map"], np.ones((2, 2, 2), np.float32)),
        "nan": lambda: np.save(root / first["map"], np.full((2, 2), np.nan, np.float32)),
        "cut": lambda: (root / first["map"]).write_bytes(b"\x93NUMPY"),
    }
    changes[change]()
    (root / HEADER).write_text(json.dumps(body))
    with pytest.raises(MapError) as error:
        cxr_embed.evaluate_maps(root, boxes)
    assert str(root) in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_marks_are_matched_by_the_vocabulary_of_findings(tmp_path: Path) -> None:
    box = boxes_at(1)[0]
    root = write_folder(tmp_path / "m", [(record(n, f"i{n}", "Effusion"), peaked(box)) for n in range(3)])
    boxes = write_boxes(tmp_path / "b.csv", [(f"i{n}", "Pleural effusion", *box) for n in range(3)])
    found = cxr_embed.evaluate_maps(root, boxes, bootstraps=0)
    assert [each.name for each in found.findings] == ["Effusion"]
    assert found.pooled.images == 3
    assert "Pleural effusion = Effusion" in "\n".join(found.notes)


def test_notes_say_what_has_no_part(tmp_path: Path) -> None:
    maps = [(record(n, f"i{n}", "Mass", patient_id="" if n else "p"), peaked(boxes_at(1)[0])) for n in range(3)]
    maps += [(record(3, "i0", "Hernia"), np.eye(3)), (record(4, "i4", "Mass"), np.ones((2, 2)))]
    root = write_folder(tmp_path / "m", maps)
    box = boxes_at(1)[0]
    rows = [(f"i{n}", "Mass", *box) for n in (0, 1, 4, 7)] + [("i0", "Fracture", *box)]
    notes = "\n".join(cxr_embed.evaluate_maps(root, write_boxes(tmp_path / "b.csv", rows), bootstraps=10).notes)
    for part in (
        "nobody marked Hernia",
        "no maps of Fracture",
        "1 map is of images in which nobody marked",
        "1 marked image has no map",
        "1 map has one value everywhere",
        "1 image has no patient_id",
        "fewer than 20 patients: Mass (3)",
    ):
        assert part in notes
    assert read_maps(root).about["encoder"] == "toy"
