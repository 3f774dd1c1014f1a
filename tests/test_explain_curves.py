"""Insertion, deletion and untrained maps: whether a score hangs on what its map shows, beside what knows nothing."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from map_worlds import record, write_folder
from PIL import Image
from test_explain import stored
from typer.testing import CliRunner

import cxr_embed as cx
from cxr_embed.cli import app
from cxr_embed.encoders import load_encoder
from cxr_embed.encoders.redrawn import save_redrawn
from cxr_embed.errors import CxrEmbedError, EncoderError
from cxr_embed.explanation.curves import FRACTIONS, areas_under, curves_of, ends_of, ranks_of
from cxr_embed.explanation.hiding import Hidden
from cxr_embed.explanation.record import HEADER
from cxr_embed.types import CxrImage, EncoderSpec

SIDES, BLOCK, COUNT = (64, 96), 8, 24
AREA = {"height": 64, "width": 96, "area": (0.0, 0.0, 96.0, 64.0)}
RNG = np.random.default_rng(1)
ENCODER = f"{__name__}:brightest"
SPEC = EncoderSpec(name=ENCODER, revision="1", preprocessing="none", outputs={"features": (1,)})


class _Brightest:
    """An encoder whose vector is the brightness of the brightest block of a picture."""

    spec, engine = SPEC, "numpy"

    def preprocess(self, image: CxrImage) -> np.ndarray:
        return image.pixels.astype(np.float32)

    def embed(self, batch: Any) -> dict[str, np.ndarray]:
        rows, columns = (side // BLOCK for side in SIDES)
        blocks = [each.reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3)).max() for each in batch]
        return {"features": np.array(blocks, np.float32)[:, None] / 255}


def brightest() -> _Brightest:
    return _Brightest()


def pictures(root: Path) -> list[tuple[int, int]]:
    """Pictures of noise with one bright block each, and where it is."""
    places, lines = [], ["image_id,path,patient_id,Block"]
    for number in range(COUNT):
        top, left = (BLOCK * int(RNG.integers(0, side // BLOCK)) for side in SIDES)
        pixels = RNG.integers(0, 50, SIDES).astype(np.uint8)
        pixels[top : top + BLOCK, left : left + BLOCK] = 230 if number % 4 else 60
        Image.fromarray(pixels).save(root / f"i{number}.png")
        places.append((top, left))
        lines.append(f"i{number},i{number}.png,p{number // 2},{int(number % 4 > 0)}")
    (root / "manifest.csv").write_text("\n".join(lines) + "\n")
    return places


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures, a probe, maps that point at the block and maps that point elsewhere."""
    root = tmp_path_factory.mktemp("curves")
    places = pictures(root)
    files = [root / f"i{number}.png" for number in range(COUNT)]
    encoder = load_encoder(ENCODER)
    store = stored(root / "store", files, encoder)
    probe = cx.train_probe(store, {"image_id": store.ids.tolist(), "Block": [int(n % 4 > 0) for n in range(COUNT)]})
    probe.save(root / "probe")
    right, wrong = [], []
    for number, (top, left) in enumerate(places):
        grid = np.zeros((SIDES[0] // BLOCK, SIDES[1] // BLOCK))
        grid[top // BLOCK, left // BLOCK] = 1
        entry = record(number, f"i{number}", "Block", patient_id=f"p{number // 2}", **AREA)
        right.append((entry, grid))
        wrong.append((entry, RNG.random(grid.shape)))
    write_folder(root / "maps", right)
    write_folder(root / "untrained", wrong)
    return root


def files_of(root: Path) -> list[Path]:
    return [root / f"i{number}.png" for number in range(COUNT)]


def test_the_highest_values_come_first_and_equal_ones_in_a_drawn_order() -> None:
    values = np.array([[0.0, 3.0, 1.0], [2.0, -1.0, 5.0]], np.float32)
    assert ranks_of(values, [0]).tolist() == [[4, 1, 3], [2, 5, 0]]
    flat = np.zeros((20, 30), np.float32)
    first, again, other = (ranks_of(flat, [seed]) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()
    assert sorted(first.ravel().tolist()) == list(range(600))
    assert (first[:10] < 300).mean() == pytest.approx(0.5, abs=0.1)  # not the upper rows first


def test_curves_are_the_scores_of_pictures_that_are_hidden_and_shown() -> None:
    pixels = np.zeros((8, 16), np.uint8)
    pixels[:, :4] = 200
    image = CxrImage(pixels=pixels, bits=8, content_id="", source="png")
    hidden, seen = Hidden(image, "grey"), []

    def scores(pictures: Sequence[CxrImage]) -> np.ndarray:
        seen.extend(pictures)
        return np.array([[each.pixels[:, :4].mean(), each.pixels.mean()] for each in pictures])

    ranks = ranks_of(np.tile(np.arange(16, 0, -1, dtype=np.float32), (8, 1)), [0])  # from the left on
    ends = ends_of(scores, image, hidden)
    deletion, inserted = curves_of(scores, hidden, ends, ranks)
    assert len(seen) == 32
    # A step is a column: four of them hold all of the first score; what hides is the mean, 50.
    assert deletion[:, 0].tolist() == [200, 162.5, 125, 87.5, *[50] * 13]
    assert inserted[:, 0].tolist() == [50, 87.5, 125, 162.5, *[200] * 13]
    assert areas_under(deletion[:, 0]) == pytest.approx((200 / 2 + 162.5 + 125 + 87.5 + 12 * 50 + 25) / 16)
    assert len(FRACTIONS) == 17


def test_a_map_of_what_counts_is_told_from_one_that_points_elsewhere(world: Path) -> None:
    lines: list[str] = []
    seen: list[tuple[Any, ...]] = []
    found = cx.evaluate_curves(
        world / "maps",
        files_of(world),
        probe=world / "probe",
        untrained=world / "untrained",
        bootstraps=200,
        announce=lines.append,
        progress=lambda *words: seen.append(words),
    )
    (block,) = found.findings
    assert block.better("insertion")
    assert block.better("deletion")
    assert block.figures["map"]["deletion"].value < block.figures["random"]["deletion"].value
    assert (block.images, block.patients) == (COUNT, COUNT // 2)
    assert block.curves["map"]["deletion"][0] == pytest.approx(block.curves["random"]["insertion"][-1])
    promised = COUNT * (2 + 4 * 30)
    assert seen[-1] == ("curves", promised, promised)
    assert lines[0].startswith(f"insertion and deletion embed {promised:,} in all, about ")
    swapped = cx.evaluate_curves(
        world / "untrained", files_of(world), probe=world / "probe", untrained=world / "maps", bootstraps=200
    )
    assert not swapped.findings[0].better("insertion")
    assert swapped.findings[0].figures["untrained"]["insertion"].value == block.figures["map"]["insertion"].value
    rows = found.by_image().to_pylist()
    assert block.figures["map"]["insertion"].value == pytest.approx(np.mean([row["insertion"] for row in rows]))
    assert {row["map"] for row in found.to_arrow().to_pylist()} == {"map", "centre", "random", "untrained"}


def test_the_verb_takes_a_manifest_and_a_part_of_its_images(world: Path) -> None:
    words = ["explain", "curves", str(world / "maps"), "--manifest", str(world / "manifest.csv")]
    words += ["--probe", str(world / "probe"), "--sample", "6", "--bootstraps", "20"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.exception
    assert "insertion better than by any other order: " in shown.stdout
    assert "6 maps, " in shown.stdout
    assert "6 of 24 images, drawn by the seed" in shown.stdout
    assert "not a medical device" in shown.stdout
    assert "insertion and deletion embed 552 in all" in shown.stderr
    body = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    (finding,) = body["findings"]
    assert body["score"] == "probability"
    assert len(finding["curves"]["map"]["deletion"]) == len(body["fractions"]) == 17
    assert finding["map_minus"]["random"]["insertion"]["low"] is not None


def test_pictures_that_do_not_fit_take_no_part_and_are_named(world: Path, tmp_path: Path) -> None:
    Image.new("L", (70, 80)).save(tmp_path / "i0.png")
    (tmp_path / "i1.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"0" * 40)
    for path in files_of(world)[2:4]:
        shutil.copy(path, tmp_path)
    given = [tmp_path / path.name for path in files_of(world)[:4]]
    found = cx.evaluate_curves(world / "maps", given, probe=world / "probe", bootstraps=10)
    assert set(found.failed) == {"i0", "i1"}
    assert found.failed["i0"].startswith("70 x 80 pixels, its map is of 96 x 64")
    assert found.pooled.images == 2
    assert "20 images have maps and no picture here: left out" in found.notes


def test_prompts_and_likeness_are_scored_as_they_were_explained(world: Path, tmp_path: Path) -> None:
    files = files_of(world)[:2]
    cx.explain(files, prompt="edema", out=tmp_path / "words", cells=4, maps_only=True)
    found = cx.evaluate_curves(tmp_path / "words", files, bootstraps=10)
    assert (found.score, found.findings[0].name) == ("cosine", "edema")
    cx.explain(files, like=files[0], encoder="hog", out=tmp_path / "like", cells=4, maps_only=True)
    with pytest.raises(CxrEmbedError, match="these maps explain likeness to a case; name it with `like`"):
        cx.evaluate_curves(tmp_path / "like", files)
    with pytest.raises(CxrEmbedError, match="the maps are of 'like i0', the score is of 'like i1'"):
        cx.evaluate_curves(tmp_path / "like", files, like=files[1])
    alike = cx.evaluate_curves(tmp_path / "like", files, like=files[0], bootstraps=10)
    assert alike.findings[0].curves["map"]["deletion"][0] == pytest.approx(np.mean([1, load_cosine(files)]), abs=1e-6)


def load_cosine(files: list[Path]) -> float:
    first, second = cx.embed_images(files, encoder="hog", output="features").astype(np.float64)
    return float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "these maps explain a probe's findings; name it with `probe`"),
        ({"probe": "probe", "like": "i0.png"}, "these maps explain a probe's findings; leave out `like`"),
        ({"probe": "probe", "findings": "Gout"}, "Gout"),
        ({"probe": "probe", "sample": 0}, "`sample` is a number of images, not 0"),
        ({"probe": "probe", "images": ["x0.png"]}, "has maps of 'i0', and none of 'x0'"),
        ({"probe": "probe", "untrained": "store"}, "no heat maps here"),
        ({"probe": "probe", "maps": "empty"}, "no heat maps are left here"),
        ({"probe": "probe", "untrained": "few"}, "no map of Block in i1"),
        ({"probe": "probe", "maps": "other"}, "the maps are of mini, the scores are of"),
    ],
)
def test_what_does_not_go_together_is_said_in_a_line(
    world: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], message: str
) -> None:
    monkeypatch.chdir(world)
    shutil.copy("i0.png", "x0.png")
    entry, grid = record(0, "i0", "Block", **AREA), np.eye(3)
    write_folder(world / "few", [(entry, grid)])
    write_folder(world / "other", [(entry, grid)])
    write_folder(world / "empty", [])
    body = json.loads((world / "other" / HEADER).read_text())
    body["about"]["spec"] = load_encoder("mini").spec.to_json()
    (world / "other" / HEADER).write_text(json.dumps(body))
    images, maps = options.pop("images", ["i0.png", "i1.png"]), options.pop("maps", "maps")
    with pytest.raises(CxrEmbedError, match=message) as caught:
        cx.evaluate_curves(maps, images, **options)
    assert "\n" not in str(caught.value)


def test_an_untrained_encoder_s_maps_are_others_and_say_so(world: Path, tmp_path: Path) -> None:
    files = files_of(world)[:6]
    encoder = load_encoder("mini", precision="float32")
    store = stored(tmp_path / "store", files, encoder)
    labels = {"image_id": store.ids.tolist(), "Block": [0, 1, 1, 1, 0, 1]}
    cx.train_probe(store, labels).save(tmp_path / "probe")
    made = cx.explain(files, probe=tmp_path / "probe", out=tmp_path / "maps", maps_only=True)
    words = ["explain", *map(str, files), "--probe", str(tmp_path / "probe"), "--random-weights", "--out"]
    shown = CliRunner().invoke(app, [*words, str(tmp_path / "untrained")])
    assert shown.exit_code == 0, shown.exception
    assert "random numbers (seed 0) in the shapes of mini: not a trained model" in shown.output
    other = cx.explain(files, probe=tmp_path / "probe", out=tmp_path / "again", maps_only=True, random_weights=True)
    assert "stand-in weights" in other.folder.about["stand_in"]
    assert other.folder.about["fingerprint"] != made.folder.about["fingerprint"]
    assert other.folder.about["method"] == made.folder.about["method"] == "cam"
    for one, two in zip(made.folder.maps, other.folder.maps, strict=True):
        trained, drawn = made.folder.load(one).ravel(), other.folder.load(two).ravel()
        assert np.ptp(drawn) > 0
        assert abs(np.corrcoef(trained, drawn)[0, 1]) < 0.9
    # Beside trained maps they are as they should be, and no reason to doubt these.
    boxes = tmp_path / "boxes.csv"
    boxes.write_text("image_id,finding,x,y,width,height\n" + "".join(f"i{n},Block,8,8,20,20\n" for n in range(6)))
    judged = ["explain", "evaluate", str(tmp_path / "maps"), str(boxes), "--bootstraps", "10"]
    beside = CliRunner().invoke(app, [*judged, "--untrained", str(tmp_path / "untrained")])
    assert beside.exit_code == 0, beside.exception
    assert "random numbers (seed" not in beside.output
    with pytest.raises(CxrEmbedError, match="the maps are of mini with other weights"):
        cx.evaluate_curves(tmp_path / "untrained", files, probe=tmp_path / "probe")


def drawn_again(name: str, weights: Path, out: Path) -> tuple[Any, Any]:
    """What an encoder answers of a picture with its own weights and with random ones, by the command."""
    made = CliRunner().invoke(app, ["weights", "random", name, "--weights", str(weights), "--out", str(out)])
    assert made.exit_code == 0, made.exception
    place = out if out.exists() else out.with_suffix("")
    image = CxrImage(pixels=RNG.integers(0, 255, (64, 64)).astype(np.uint8), bits=8, content_id="", source="png")
    found = []
    for path in (weights, place):
        encoder = load_encoder(name, weights=path, precision="float32")
        found.append((encoder.spec, encoder.embed(encoder.preprocess(image)[None])))
    (own, before), (other, after) = found
    assert other.untrained
    assert "random numbers (seed 0)" in other.stand_in
    assert replace(other, weights=own.weights).fingerprint == own.fingerprint
    return before, after


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="needs timm: pip install 'cxr-embed[torch]'")
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit"])
def test_weights_are_drawn_in_the_shapes_of_others(name: str, tmp_path: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    save_file(timm.create_model(name).state_dict(), tmp_path / "own.safetensors")
    before, after = drawn_again(f"timm:{name}", tmp_path / "own.safetensors", tmp_path / "drawn.safetensors")
    assert np.isfinite(after["features"]).all()
    assert after["features"].std() > 1e-6
    assert abs(np.corrcoef(before["features"][0], after["features"][0])[0, 1]) < 0.9


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="needs transformers")
def test_of_a_folder_words_and_settings_stay(tmp_path: Path) -> None:
    from tiny_checkpoints import save_dual

    (tmp_path / "tiny").mkdir()
    save_dual(tmp_path / "tiny", "siglip")
    before, after = drawn_again("hf:tiny/siglip", tmp_path / "tiny", tmp_path / "drawn.safetensors")
    assert {name: found.shape for name, found in before.items()} == {name: found.shape for name, found in after.items()}
    assert (tmp_path / "drawn" / "SOURCE").read_text().startswith("random numbers")


def test_what_has_no_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EncoderError, match="no weights of hog can be drawn at random"):
        save_redrawn("hog", None, tmp_path / "x.safetensors", 0)
