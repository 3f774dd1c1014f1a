"""The picture of a search: what is in it, what stands in the place of a missing radiograph, where it may be written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import run_cli
from PIL import Image

from cxr_embed import open_store, read_manifest
from cxr_embed.errors import CaseIndexError
from cxr_embed.images import read_image
from cxr_embed.index.faiss.build import build_index
from cxr_embed.index.queries import Examples
from cxr_embed.phantom import render_study, sample_studies
from cxr_embed.pipeline.embedding import embed
from cxr_embed.reporting.montage import check_montage, draw_search, write_montage
from cxr_embed.reporting.panels import Panel, Places, case_panel, describe_case


@pytest.fixture
def radiographs(tmp_path: Path) -> Path:
    """A folder with a manifest of six pictures, each of another brightness."""
    rng = np.random.default_rng(0)
    lines = ["image_id,path,patient_id,age,sex,view,Effusion"]
    for number in range(6):
        pixels = rng.integers(0, 40 * (number + 1), (96, 96), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"i{number}.png")
        lines.append(f"i{number},i{number}.png,p{number},5{number},F,PA,{number % 2}")
    (tmp_path / "manifest.csv").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.fixture
def index(radiographs: Path) -> Path:
    manifest = read_manifest(radiographs / "manifest.csv")
    embed(manifest, encoder="hog", store=radiographs / "store", workers=1)
    build_index(open_store(radiographs / "store"), radiographs / "index", manifest=manifest)
    return radiographs / "index"


def test_a_search_is_drawn(index: Path, radiographs: Path) -> None:
    picture = radiographs / "out.png"
    wanted = ["--image-id", "i0", "--montage", str(picture), "--manifest", str(radiographs / "manifest.csv")]
    done = run_cli("search", str(index), *wanted, "-k", "3")
    assert done.returncode == 0, done.stderr
    assert f"{picture}: 3 cases" in done.stdout
    three = np.asarray(Image.open(picture).convert("L"))
    run_cli("search", str(index), *wanted, "-k", "5")
    five = np.asarray(Image.open(picture).convert("L"))
    assert five.shape[1] == three.shape[1] * 6 / 4  # the query and its neighbours side by side
    assert len(np.unique(three)) > 100  # the radiographs are in it
    assert not list(radiographs.glob(".out*"))
    first = picture.read_bytes()
    run_cli("search", str(index), *wanted, "-k", "5")
    assert picture.read_bytes() == first


def test_what_is_known_is_told_below() -> None:
    case = {"image_id": "a", "patient_id": "p", "study_date": "2020-01-02", "view": "PA", "age": 61.0, "sex": None}
    case |= {"Effusion": 1, "Mass": 0, "Edema": None, "path": "a.png"}
    assert describe_case(case) == ["a", "patient p", "2020-01-02 · PA · 61 years", "Effusion"]
    assert describe_case({"image_id": "b"}) == ["b"]
    assert describe_case({"image_id": "c", "study_date": 1, "age": 1, "Mass": 1}) == ["c", "day 1 · 1 year", "Mass"]
    uid = "1.2.840.113619.2.30.1.1762295590.1623.978668949.886.7"
    many = dict.fromkeys(
        ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Infiltration", "Nodule", "Pneumothorax"), 1
    )
    lines = describe_case({"image_id": uid, "patient_id": uid, **many})
    assert lines[:2] == ["\N{HORIZONTAL ELLIPSIS}" + uid[-27:], "patient \N{HORIZONTAL ELLIPSIS}" + uid[-21:]]
    assert len(lines) == 4
    assert lines[-1].endswith("\N{HORIZONTAL ELLIPSIS}")
    strange = describe_case({"image_id": "c", "looks": "not like a chest radiograph", **many})
    assert strange[:2] == ["c", "not like a chest radiograph"]
    assert len(strange) == 3  # what is said beside it still fits


def test_no_line_runs_into_the_next_panel(tmp_path: Path) -> None:
    """Digits, as in hashed and in DICOM's own ids, are broad; the margin between two panels stays white."""
    digits = {"image_id": "0" * 64, "patient_id": "0" * 64, "study_date": "2020-01-02", "view": "PA", "sex": "M"}
    panel = Panel("not like", tuple(describe_case({**digits, "age": 61.0, "Pleural Effusion": 1})), np.eye(96))
    write_montage(tmp_path / "m.png", [panel], [panel, panel], rules="", notes=[])
    pixels = np.asarray(Image.open(tmp_path / "m.png").convert("L"))
    across = pixels.shape[1] // 3
    assert (pixels[across:, :] < 128).any()
    for edge in (across, 2 * across, 3 * across):
        assert (pixels[:, edge - 3 : edge] == 255).all()


def test_a_picture_that_is_not_square_keeps_its_words_in_line(tmp_path: Path) -> None:
    rows = []
    for shape in ((96, 96), (60, 96), (96, 60)):
        panel = Panel("1   0.912", ("below",), np.ones(shape))
        write_montage(tmp_path / "m.png", [panel], [], rules="", notes=[])
        dark = (np.asarray(Image.open(tmp_path / "m.png").convert("L")) < 100)[:, :100].any(axis=1)
        rows.append(np.flatnonzero(dark)[-10:].tolist())
    assert rows[0] == rows[1] == rows[2]


@pytest.mark.filterwarnings("error")
def test_the_last_lines_are_whole_and_any_letter_is_drawn(tmp_path: Path) -> None:
    panel = Panel("\u80ba $x$ \\frac", ("$\\nonsense{$",), why="$_$")

    def rows(rules: str) -> int:
        write_montage(tmp_path / "m.png", [panel], [panel], rules=rules, notes=["For research"])
        return int(np.asarray(Image.open(tmp_path / "m.png")).shape[0])

    assert rows("view = PA " * 40) > rows("view = PA")
    pixels = np.asarray(Image.open(tmp_path / "m.png").convert("L"))
    assert (pixels[:, -4:] == 255).all()  # nothing runs off the page


@pytest.mark.parametrize(
    ("case", "why"),
    [
        ({"image_id": "other"}, "no path is known"),
        ({"image_id": "blank"}, "no path is known"),
        ({"image_id": "gone"}, "no picture: missing"),
        ({"image_id": "above"}, "its path leaves the folder"),
        ({"image_id": "root"}, "its path leaves the folder"),
        ({"image_id": "i1", "content": bytes(32)}, "another file than was embedded"),
    ],
)
def test_what_cannot_be_shown_is_said(radiographs: Path, case: dict[str, Any], why: str) -> None:
    paths = {"blank": "", "gone": "gone.png", "above": "../i1.png", "root": "/etc/hostname", "i1": "i1.png"}
    panel = case_panel(case, Places(radiographs, paths), "1", [])
    assert panel.pixels is None
    assert panel.why == why


def test_a_link_out_of_the_folder_shows_what_was_embedded_alone(radiographs: Path, tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "a.png").symlink_to(radiographs / "i1.png")
    places = Places(inside, {"a": "a.png"})
    assert case_panel({"image_id": "a"}, places, "1", []).why == "its path leaves the folder through a link"
    content = bytes.fromhex(read_image(radiographs / "i1.png").content_id)
    assert case_panel({"image_id": "a", "content": content}, places, "1", []).pixels is not None
    assert case_panel({"image_id": "a", "content": bytes(32)}, places, "1", []).pixels is None


def test_the_file_that_was_embedded_is_shown(radiographs: Path) -> None:
    image = read_image(radiographs / "i1.png")
    case = {"image_id": "i1", "content": bytes.fromhex(image.content_id)}
    panel = case_panel(case, Places(radiographs, {"i1": "i1.png"}), "1", [])
    assert panel.pixels is not None
    np.testing.assert_array_equal(panel.pixels, image.pixels)


def test_words_and_missing_files_have_a_place(radiographs: Path) -> None:
    picture = radiographs / "words.pdf"
    unlike = Examples(files=[radiographs / "nowhere.png"])
    like = Examples(texts=["enlarged heart"])
    draw_search(picture, Places(radiographs, {}), like, unlike, {}, [], "", ["For research"])
    assert picture.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("name", ["out.jpg", "out", "nowhere/out.png"])
def test_a_place_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(CaseIndexError, match="montage"):
        check_montage(tmp_path / name)


def test_the_manifest_and_its_folder_are_asked_for(index: Path, radiographs: Path) -> None:
    done = run_cli("search", str(index), "--image-id", "i0", "--montage", "out.png")
    assert done.returncode == 2
    assert "--manifest" in done.stderr
    wanted = ("--montage", "out.png", "--manifest", str(radiographs / "manifest.csv"), "--root", str(index / "nowhere"))
    done = run_cli("search", str(index), "--image-id", "i0", *wanted)
    assert done.returncode == 2
    assert "no such folder" in done.stderr


def test_what_is_no_radiograph_is_told(radiographs: Path) -> None:
    """Pictures of noise are none: the cases say so, and so does a query."""
    (study,) = sample_studies(1, seed=5)
    Image.fromarray((render_study(study, 96).pixels >> 4).astype(np.uint8)).save(radiographs / "i5.png")
    for words in (
        ("embed", "manifest.csv", "--encoder", "hog", "--store", "s"),
        ("index", "build", "s", "--manifest", "manifest.csv", "--out", "i"),
    ):
        assert run_cli(*words, cwd=radiographs).returncode == 0
    done = run_cli("search", "i", "--image", "i0.png", "-k", "2", "--json", cwd=radiographs)
    told = json.loads(done.stdout)
    assert told["query"]["notes"][0] == "i0.png does not look like a chest radiograph: its neighbours mean little"
    assert "not like a chest radiograph" in [case["looks"] for case in told["neighbors"]]
    case = next(iter(open_store(radiographs / "s").ids[open_store(radiographs / "s").unlike_chest]))
    told = json.loads(run_cli("search", "i", "--image-id", case, "-k", "2", "--json", cwd=radiographs).stdout)
    assert told["query"]["notes"] == [f"{case} does not look like a chest radiograph: its neighbours mean little"]
    plain = run_cli("search", "i", "--image", "i0.png", "-k", "2", "--where", "looks is not known", cwd=radiographs)
    strange = int(open_store(radiographs / "s").unlike_chest.sum())
    assert strange > 3
    assert strange < 6
    assert f"{6 - strange:,} of 6 pass the filters" in plain.stdout
    assert "note: i0.png does not look like a chest radiograph" in plain.stdout
    done = run_cli("index", "duplicates", "i", "--threshold", "0.001", "--json", cwd=radiographs)
    told = json.loads(done.stdout)
    alike = {image["image_id"] for group in told["groups"] for image in group["images"]}
    unlike = alike & set(open_store(radiographs / "s").ids[open_store(radiographs / "s").unlike_chest].tolist())
    assert len(unlike) > 1
    assert f"{len(unlike)} of these images do not look like a chest radiograph" in "\n".join(told["notes"])
    heights = []
    chest = next(iter(open_store(radiographs / "s").ids[~open_store(radiographs / "s").unlike_chest]))
    for example in (("--image-id", chest), ("--image", "i0.png")):
        montage = ("--montage", "m.png", "--manifest", "manifest.csv")
        drawn = run_cli("search", "i", *example, "-k", "2", *montage, cwd=radiographs)
        assert drawn.returncode == 0, drawn.stderr
        heights.append(Image.open(radiographs / "m.png").size[1])
    assert heights[0] < heights[1]  # the picture says so too
