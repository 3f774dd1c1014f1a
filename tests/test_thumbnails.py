"""Thumbnails on disk: what is kept, for whom, and that it goes again."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from helpers import run_cli
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_dicom import dicom

from cxr_embed import CaseIndex
from cxr_embed.errors import ThumbnailError
from cxr_embed.images import decode_image
from cxr_embed.index.faiss.build import remove_cases
from cxr_embed.thumbnails import (
    SIDE,
    Thumbnails,
    drop_thumbnails,
    sound_thumbnails,
    thumbnail_key,
    thumbnails_path,
)
from cxr_embed.web.decoder import preview
from cxr_embed.web.decoding import Decoders
from cxr_embed.web.keeping import make_thumbnails
from cxr_embed.web.pictures import NoPicture, Pictures, read_places
from cxr_embed.web.state import open_generation

CASES = 8
BURNT_IN = ("i0", "i1", "i2")  # headers that say it, each in its own way
CONTENT = bytes(range(32))
KEY = thumbnail_key(CONTENT)


def picture(number: int, side: int = 400) -> np.ndarray:
    rng = np.random.default_rng(number)
    ramp = np.linspace(0, 3000, side)[:, None] * np.linspace(0.4, 1, side)
    return (ramp + rng.integers(0, 900, (side, side))).astype(np.uint16)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DICOM files of 12 bits, a manifest, a store and an index without thumbnails."""
    world = tmp_path_factory.mktemp("thumbnails")
    (world / "images").mkdir()
    said = {"i0": {"BurnedInAnnotation": "YES"}, "i1": {"RecognizableVisualFeatures": "YES"}}
    said |= {"i2": {"BurnedInAnnotation": "Y"}, "i3": {"BurnedInAnnotation": "NO"}}
    rows = ["image_id,path,patient_id"]
    for number in range(CASES):
        name = f"i{number}"
        data = dicom(picture(number), 12, **said.get(name, {}))
        (world / "images" / f"{name}.dcm").write_bytes(data)
        rows.append(f"{name},images/{name}.dcm,p{number // 2}")
    (world / "manifest.csv").write_text("\n".join(rows) + "\n")
    for words in (
        ["embed", "manifest.csv", "--encoder", "hog", "--store", "store"],
        ["index", "build", "store", "--manifest", "manifest.csv", "--out", "index"],
    ):
        done = run_cli(*words, cwd=world)
        assert done.returncode == 0, done.stderr
    return world


@pytest.fixture
def world(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "w")
    return tmp_path / "w"


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    made = Decoders(1)
    yield made
    made.close()


def shown(world: Path, decoders: Decoders, thumbnails: Thumbnails | None) -> Pictures:
    return Pictures(
        *read_places(CaseIndex(world / "index"), world / "manifest.csv", None), decoders, thumbnails=thumbnails
    )


def keep_all(world: Path) -> Thumbnails:
    make_thumbnails(world / "index", world / "manifest.csv", None, None)
    return Thumbnails(thumbnails_path(world / "index"))


def key_of(world: Path, image_id: str) -> str:
    return thumbnail_key(hashlib.sha256((world / "images" / f"{image_id}.dcm").read_bytes()).digest())


def kept(world: Path, folder: Path | None = None) -> set[str]:
    """The cases that have a file in a folder, by its name alone."""
    names = {path.name for path in (folder or thumbnails_path(world / "index")).rglob("*.webp")}
    return {f"i{n}" for n in range(CASES) if f"{key_of(world, f'i{n}')}.webp" in names}


# What is kept


def test_index_build_keeps_small_pictures_for_the_owner_alone(world: Path) -> None:
    words = ["index", "build", "store", "--manifest", "manifest.csv", "--out", "index", "--thumbnails", "--json"]
    done = run_cli(*words, cwd=world)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)["thumbnails"]
    assert (said["made"], said["there"]) == (CASES - len(BURNT_IN), 0)
    assert said["left_out"] == {"the header says that the picture shows who it is": len(BURNT_IN)}
    assert kept(world) == {f"i{number}" for number in range(3, CASES)}
    folder = thumbnails_path(world / "index")
    for path in (folder, *folder.rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    again = json.loads(run_cli(*words, cwd=world).stdout)["thumbnails"]
    assert (again["made"], again["there"]) == (0, CASES - len(BURNT_IN))


def test_a_thumbnail_is_the_preview_of_the_radiograph(world: Path) -> None:
    thumbnails = keep_all(world)
    webp = thumbnails.get(key_of(world, "i5"))
    assert webp is not None
    shown = Image.open(io.BytesIO(webp))
    assert (shown.format, shown.size) == ("WEBP", (SIDE, SIDE))
    image = decode_image((world / "images/i5.dcm").read_bytes())
    plain = np.asarray(Image.open(io.BytesIO(preview(image, SIDE))).convert("L"), float)
    assert np.abs(np.asarray(shown.convert("L"), float) - plain).mean() < 6


@pytest.mark.parametrize(("name", "expected"), [(name, name in BURNT_IN) for name in ("i0", "i1", "i2", "i3", "i4")])
def test_only_the_decoder_knows_of_burnt_in_text(world: Path, name: str, expected: bool) -> None:
    image = decode_image((world / "images" / f"{name}.dcm").read_bytes())
    assert image.identifying is expected
    assert set(vars(image.fields)) == {"modality", "view", "study_date", "age", "sex"}


def test_what_is_burnt_in_is_shown_and_never_kept(world: Path, decoders: Decoders) -> None:
    pictures = shown(world, decoders, Thumbnails.make(world / "elsewhere"))
    now = open_generation(world / "index")
    for name in (*BURNT_IN, "i4"):
        assert pictures.preview(now, name, "small")
        pictures.preview(now, name, "large")
        pictures.radiograph(now, name)
    assert kept(world, world / "elsewhere") == {"i4"}


def test_a_kept_one_is_shown_without_its_radiograph_being_decoded(
    world: Path, decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    thumbnails = keep_all(world)
    monkeypatch.setattr(decoders, "decode", lambda *_, **__: pytest.fail("decoded"))
    pictures = shown(world, decoders, thumbnails)
    assert pictures.preview(open_generation(world / "index"), "i4", "small") == thumbnails.get(key_of(world, "i4"))


# Files that change, damage, full disks


def test_a_changed_file_never_shows_the_old_one(world: Path, decoders: Decoders) -> None:
    thumbnails, file = keep_all(world), world / "images/i4.dcm"
    before = file.stat()
    file.write_bytes(dicom(picture(99), 12))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))  # whoever replaced it kept its time
    pictures, now = shown(world, decoders, thumbnails), open_generation(world / "index")
    with pytest.raises(NoPicture, match="another file"):
        pictures.preview(now, "i4", "small")
    file.unlink()
    with pytest.raises(NoPicture, match="missing"):
        pictures.preview(now, "i4", "small")


def test_a_touched_file_is_read_once_more(world: Path, decoders: Decoders) -> None:
    thumbnails, now = keep_all(world), open_generation(world / "index")
    os.utime(world / "images/i4.dcm")
    assert shown(world, decoders, thumbnails).keep(now, "i4") == "kept"
    assert shown(world, decoders, thumbnails).keep(now, "i4") == "there"


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other", "link", "pipe"])
def test_a_damaged_one_is_made_anew(world: Path, decoders: Decoders, damage: str) -> None:
    thumbnails, now = keep_all(world), open_generation(world / "index")
    sound = thumbnails.get(key_of(world, "i4"))
    file = next(thumbnails.path.rglob(f"{key_of(world, 'i4')}.webp"))
    other = next(thumbnails.path.rglob(f"{key_of(world, 'i5')}.webp"))
    data = bytearray(file.read_bytes())
    if damage in ("link", "pipe"):
        file.unlink()
        file.symlink_to(other) if damage == "link" else os.mkfifo(file)
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes({"flip": data, "cut": data[:50], "empty": b"", "other": other.read_bytes()}[damage])
    assert thumbnails.get(key_of(world, "i4")) is None
    pictures = shown(world, decoders, thumbnails)
    assert pictures.preview(now, "i4", "small") == sound
    if damage != "pipe":  # which nobody's file replaces
        assert thumbnails.get(key_of(world, "i4")) == sound
        assert thumbnails.get(key_of(world, "i5")) == other.read_bytes()[:-32]


def test_a_full_disk_is_said_once_and_the_picture_is_shown(
    world: Path, decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = list[str]()
    thumbnails = Thumbnails.make(world / "elsewhere", said.append)
    Thumbnails.make(thumbnails_path(world / "index"))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cxr_embed.thumbnails.folder.os.replace", full)
    pictures, now = shown(world, decoders, thumbnails), open_generation(world / "index")
    for name in ("i4", "i5"):
        assert pictures.preview(now, name, "small").startswith(b"RIFF")
    assert said == [f"thumbnails are not kept: {world / 'elsewhere'} cannot be written (No space left on device)"]
    assert not [path for path in (world / "elsewhere").rglob("*") if path.suffix in (".webp", ".partial")]
    made = make_thumbnails(world / "index", world / "manifest.csv", None, None)
    assert made.made == 0
    assert "No space left" in made.fault


@settings(max_examples=30, deadline=None)
@given(st.binary(max_size=400), st.integers(0, 10_000), st.integers(0, 255))
def test_no_changed_byte_passes(tmp_path_factory: pytest.TempPathFactory, data: bytes, where: int, change: int) -> None:
    folder = Thumbnails.make(tmp_path_factory.mktemp("t") / "t")
    assert folder.keep(KEY, data, 5)
    (file,) = folder.path.rglob("*.webp")
    stored = bytearray(file.read_bytes())
    assert folder.get(KEY, 5) == data
    assert folder.get(KEY, 6) is None
    stored[where % len(stored)] ^= change
    file.write_bytes(stored)
    assert folder.get(KEY) == (data if change == 0 else None)


def test_killed_while_making_it_goes_on(world: Path) -> None:
    words = ["index", "build", "store", "--manifest", "manifest.csv", "--out", "index", "--thumbnails"]
    command = [sys.executable, "-m", "cxr_embed", *words]
    running = subprocess.Popen(command, cwd=world, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and not kept(world):
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    folder = thumbnails_path(world / "index")
    some = sound_thumbnails(folder)
    assert some[0] >= 1
    assert some[1] == 0
    left = folder / key_of(world, "i3")[:2] / f".{key_of(world, 'i3')}.webp.{'0' * 32}.partial"
    left.parent.mkdir(exist_ok=True)
    left.write_bytes(b"half")
    (folder / key_of(world, "i3")[:2] / f"{key_of(world, 'i3')}.webp").unlink(missing_ok=True)
    done = run_cli(*words, cwd=world)
    assert done.returncode == 0, done.stderr
    assert kept(world) == {f"i{number}" for number in range(3, CASES)}
    assert not list(folder.rglob("*.partial"))


def test_two_writers_of_one_folder(tmp_path: Path) -> None:
    folders = [Thumbnails.make(tmp_path / "t") for _ in range(2)]
    keys = [thumbnail_key(hashlib.sha256(bytes([n])).digest()) for n in range(40)]
    data = {key: key.encode() * 50 for key in keys}

    def write(folder: Thumbnails) -> None:
        for key in keys:
            assert folder.keep(key, data[key], 1)

    threads = [Thread(target=write, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sound_thumbnails(tmp_path / "t") == (40, 0)
    assert all(folders[0].get(key) == data[key] for key in keys)


def test_the_server_sends_the_one_beside_the_index(world: Path) -> None:
    testclient = pytest.importorskip("serve_world", reason="needs cxr-embed[web]")
    thumbnails = keep_all(world)
    visitor = testclient.visitor(world, manifest=world / "manifest.csv")
    try:
        sent = visitor.client.get("/api/picture", params={"case": "i4"})
        assert sent.content == thumbnails.get(key_of(world, "i4"))
        assert sent.headers["content-type"] == "image/webp"
        large = visitor.client.get("/api/picture", params={"case": "i4", "size": "large"})
        assert large.headers["content-type"] == "image/jpeg"
    finally:
        testclient.close([visitor])


def test_regions_are_shown_and_kept_as_what_is_cut_out(world: Path, decoders: Decoders) -> None:
    boxes = "image_id,finding,x,y,width,height\ni3,Nodule,300,300,60,60\ni3,Nodule,20,30,60,60\n"
    (world / "boxes.csv").write_text(boxes)
    for words in (
        ["embed", "manifest.csv", "--encoder", "hog", "--crop", "boxes", "--boxes", "boxes.csv", "--store", "regions"],
        ["index", "build", "regions", "--manifest", "regions.csv", "--out", "index", "--thumbnails", "--root", "."],
    ):
        done = run_cli(*words, cwd=world)
        assert done.returncode == 0, done.stderr
    folder = Thumbnails(thumbnails_path(world / "index"))
    assert sound_thumbnails(folder.path) == (2, 0)
    pictures = Pictures(*read_places(CaseIndex(world / "index"), world / "regions.csv", world), decoders)
    now = open_generation(world / "index")
    lower, upper = (Image.open(io.BytesIO(pictures.preview(now, f"i3#{n}", "large"))).convert("L") for n in (1, 2))
    assert lower.size == upper.size == (90, 90)
    assert np.asarray(lower).mean() > np.asarray(upper).mean() + 50  # the phantom is brighter below
    remove_cases(world / "index", ["i3#1"])
    assert sound_thumbnails(folder.path) == (1, 0)
    (world / "key").write_bytes(b"k" * 32)
    forgot = run_cli("forget", "--image-id", "i3#2", "index", "--key-file", "key", cwd=world)
    assert "1 thumbnail gone" in forgot.stdout, forgot.stdout + forgot.stderr
    assert sound_thumbnails(folder.path) == (0, 0)


# Taking them out


def test_index_remove_takes_them_out(world: Path) -> None:
    keep_all(world)
    shutil.copytree(thumbnails_path(world / "index"), world / "elsewhere")
    done = run_cli("index", "remove", "index", "--patient", "p2", "--thumbnails", "elsewhere", cwd=world)
    assert done.returncode == 0, done.stderr
    assert kept(world) == kept(world, world / "elsewhere") == {"i3", "i6", "i7"}


def test_a_file_that_another_case_has_too_stays(world: Path) -> None:
    keep_all(world)
    shutil.copyfile(world / "images/i6.dcm", world / "images/twin.dcm")
    table = (world / "manifest.csv").read_text() + "twin,images/twin.dcm,p9\n"
    (world / "manifest.csv").write_text(table)
    for words in (
        ["embed", "manifest.csv", "--encoder", "hog", "--store", "store"],
        ["index", "add", "index", "store"],
    ):
        assert run_cli(*words, cwd=world).returncode == 0
    remove_cases(world / "index", ["i6"])
    assert "i6" in kept(world)
    remove_cases(world / "index", ["twin"])
    assert "i6" not in kept(world)


def test_an_index_of_fewer_cases_keeps_no_others(world: Path) -> None:
    keep_all(world)
    few = (world / "manifest.csv").read_text().splitlines()[:6]
    (world / "few.csv").write_text("\n".join(few) + "\n")
    assert run_cli("index", "build", "store", "--manifest", "few.csv", "--out", "index", cwd=world).returncode == 0
    assert kept(world) == {"i3", "i4"}


def test_a_case_that_left_the_index_is_not_kept_by_a_server_that_still_shows_it(
    world: Path, decoders: Decoders
) -> None:
    thumbnails = keep_all(world)
    before = open_generation(world / "index")
    pictures = shown(world, decoders, thumbnails)
    remove_cases(world / "index", ["i4"])
    assert pictures.preview(before, "i4", "small")
    assert "i4" not in kept(world)


def test_forget_takes_them_out_of_every_folder(world: Path) -> None:
    keep_all(world)
    shutil.copytree(thumbnails_path(world / "index"), world / "elsewhere")
    (world / "elsewhere" / "zz").mkdir()  # not ours
    words = ["forget", "--patient", "p2", "store", "index", "elsewhere", "--key-file", "key"]
    (world / "key").write_bytes(b"k" * 32)
    counted = json.loads(run_cli(*words, "--dry-run", "--json", cwd=world).stdout)
    assert [each["thumbnails"] for each in counted["thumbnails"]] == [2, 2]
    assert "i4" in kept(world)
    done = run_cli(*words, cwd=world)
    assert done.returncode == 0, done.stderr
    assert "2 thumbnails gone" in done.stdout
    assert kept(world) == kept(world, world / "elsewhere") == {"i3", "i6", "i7"}


def test_what_a_killed_writer_left_of_somebody_goes_too(tmp_path: Path) -> None:
    folder = Thumbnails.make(tmp_path / "t")
    folder.keep(KEY, b"x", 1)
    half = tmp_path / "t" / KEY[:2] / f".{KEY}.webp.{'a' * 32}.partial"
    half.write_bytes(b"half a picture")
    foreign = tmp_path / "t" / KEY[:2] / "notes.txt"
    foreign.write_text("mine")
    assert drop_thumbnails(tmp_path / "t", lambda key: key == KEY) == 1
    assert not half.exists()
    assert foreign.read_text() == "mine"


# Bad input


def test_folders_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/cat.jpg").write_bytes(b"cat")
    with pytest.raises(ThumbnailError, match="other files in it"):
        Thumbnails.make(tmp_path / "photos")
    with pytest.raises(ThumbnailError, match="cannot be written"):
        Thumbnails.make(tmp_path / "photos/cat.jpg")
    with pytest.raises(ThumbnailError, match="no thumbnails here"):
        Thumbnails(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda body: body | {"version": 2}, "format version 2; this release reads 1"),
        (lambda body: body | {"format": "other"}, "not of thumbnails of this project"),
        (lambda body: body | {"side": 640}, "damaged; delete the folder"),
        (lambda body: {name: value for name, value in body.items() if name != "digest"}, "damaged; delete the folder"),
        (lambda _: [], "damaged; delete the folder"),
        (lambda _: None, "damaged; delete the folder"),
    ],
)
def test_headers_of_others_are_refused(tmp_path: Path, change: object, said: str) -> None:
    Thumbnails.make(tmp_path / "t")
    header = tmp_path / "t/thumbnails.json"
    header.write_text(json.dumps(change(json.loads(header.read_text()))))  # type: ignore[operator]
    with pytest.raises(ThumbnailError, match=said):
        Thumbnails(tmp_path / "t")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["index", "build", "store", "--out", "i", "--thumbnails"], "--thumbnails needs --manifest"),
        (["index", "build", "store", "--out", "i", "--root", "images"], "--root is for --thumbnails"),
        (["serve", "index", "--thumbnails", "t"], "--thumbnails needs --manifest"),
        (["serve", "index", "--manifest", "manifest.csv", "--thumbnails", "images"], "other files in it"),
        (["index", "remove", "index", "i3", "--thumbnails", "images"], "no thumbnails here"),
    ],
)
def test_the_command_line_says_what_is_wrong(made: Path, words: list[str], said: str) -> None:
    done = run_cli(*words, cwd=made)
    assert done.returncode != 0
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 2


def test_verify_counts_them(world: Path) -> None:
    folder = keep_all(world).path
    next(folder.rglob("*.webp")).write_bytes(b"broken")
    done = run_cli("index", "verify", "index", "--json", cwd=world)
    assert done.returncode == 0
    assert json.loads(done.stdout)["thumbnails"] == {"sound": 4, "damaged": 1}
    assert "4 sound, 1 damaged: made anew when they are shown" in run_cli("index", "verify", "index", cwd=world).stdout


def test_a_region_has_a_thumbnail_of_its_own() -> None:
    whole, left, right = (thumbnail_key(CONTENT, box) for box in (None, "1,2,30,40", "5,2,30,40"))
    assert len({whole, left, right}) == 3
    assert left.startswith(f"{CONTENT.hex()}-")
    assert thumbnail_key(CONTENT, "not a box") == whole == CONTENT.hex()
    assert thumbnail_key(None, "1,2,30,40") == ""
