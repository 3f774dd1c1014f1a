"""The case browser on real radiographs: one reader's way through it, from a dropped DICOM to marks that are undone."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serve_world import HOSTILE, serve
from test_dicom import SECRETS, planted
from test_serve_browser import Watched, chromium  # noqa: F401  (a fixture)
from test_serve_compare_browser import SOFTWARE, drag, drawn, reads, settle
from typer.testing import CliRunner

from cxr_embed import open_index
from cxr_embed.cli import app
from cxr_embed.marks import file

CASES = 16


@pytest.fixture(scope="module")
def folder(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of the first real cases, and their index."""
    made = tmp_path_factory.mktemp("real")
    with open(real_data / "nih" / "manifest.csv", newline="") as given, open(made / "m.csv", "w", newline="") as taken:
        rows = csv.reader(given)
        csv.writer(taken).writerows(row for row, _ in zip(rows, range(CASES + 1), strict=False))
    manifest, store, index = (str(made / name) for name in ("m.csv", "store", "index"))
    for words in (
        ["embed", manifest, "--root", str(real_data / "nih"), "--store", store],
        ["index", "build", store, "--manifest", manifest, "--output", "contrastive", "--out", index],
    ):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
    return made


@pytest.fixture(scope="module")
def address(folder: Path, real_data: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "_FLUSH", "OFF")
        with serve(folder / "index", manifest=folder / "m.csv", root=real_data / "nih") as made:
            yield made


@pytest.fixture
def watched(chromium: Any, address: str) -> Iterator[Watched]:  # noqa: F811
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    made = Watched(context.new_page(), address)
    yield made
    stored = made.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie].join()")
    context.close()
    assert made.elsewhere == []
    assert [line for line in made.said if SOFTWARE not in line] == []
    assert stored == "0,0,"


def shown(watched: Watched) -> list[str]:
    """The cases of the page, once there are results."""
    watched.page.wait_for_selector(".near")
    return list(watched.page.evaluate("[...document.querySelectorAll('.card')].map((card) => card.dataset.case)"))


def test_a_reader_s_way_through(watched: Watched, folder: Path, real_data: Path) -> None:
    dropped = real_data / "dicom" / "siim-mono2-jpeg.dcm"
    if not dropped.is_file():
        pytest.skip("no real DICOM here")
    index = open_index(folder / "index")
    page = watched.page
    watched.open("/")
    page.set_input_files("#file", dropped)
    page.wait_for_url("**/?upload=*")
    assert shown(watched) == index.search(image=dropped, k=24).ids
    page.check("input[name=view][value=PA]", force=True)
    page.wait_for_selector(".chips:has-text('view: PA')")
    filtered = shown(watched)
    assert filtered == index.search(image=dropped, k=24, where="view = PA").ids
    assert page.evaluate("document.querySelector('.card img').decode().then(() => true)")

    page.check(f".card[data-case='{filtered[0]}'] .versus input")
    page.click("#compare button")
    page.wait_for_selector(".stage.ready >> nth=1")
    settle(page)
    assert page.locator(".pane .id").first.get_attribute("title") == "your picture"
    before, picture = reads(page), drawn(page)
    assert picture.std() > 10  # a radiograph, not a plane
    drag(page, 60, -40)
    assert [now[0] > was[0] for now, was in zip(reads(page), before, strict=True)] == [True, True]
    assert np.abs(drawn(page).astype(int) - picture).mean() > 1
    page.keyboard.press("r")
    assert reads(page) == before

    watched.open("/?words=cardiomegaly&view=PA")
    named = shown(watched)
    assert named == index.search(text="cardiomegaly", k=24, where="view = PA").ids
    page.fill("#mark-finding", "Cardiomegaly")
    page.focus(f".card[data-case='{named[1]}'] a.picture")
    page.keyboard.press("y")
    page.wait_for_selector(f".card[data-case='{named[1]}'] .marks li.yes")
    watched.open("/marks")
    assert page.locator(".card").count() == 1
    page.keyboard.press("z")
    page.wait_for_selector(".empty")


def test_a_hostile_header_runs_nothing_and_is_nowhere(watched: Watched, tmp_path: Path) -> None:
    tags = dict.fromkeys(("PatientName", "StudyDescription", "ImageComments", "SeriesDescription"), HOSTILE)
    (tmp_path / f"{SECRETS['PatientName']}.dcm").write_bytes(
        planted(ViewPosition="<IMG SRC=X ONERROR=ALERT(1)>"[:16], PatientSex="<b>", **tags)
    )
    page = watched.page
    watched.open("/")
    page.set_input_files("#file", next(tmp_path.iterdir()))
    page.wait_for_url("**/?upload=*")
    shown(watched)
    token = page.url.partition("upload=")[2]
    for path in (f"/?upload={token}", f"/compare?upload={token}"):
        watched.open(path)
        page.wait_for_load_state("networkidle")
        everything = page.content() + page.url + page.evaluate("document.body.innerText")
        assert [secret for secret in [*SECRETS.values(), "alert", "ALERT"] if secret in everything] == []
        assert page.locator("main b:text-is('<b>'), img[src='x']").count() == 0
