"""The map in a real browser: drawn, coloured, pointed at, gone around, and by keys alone."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from index_world import make_index
from serve_world import HOSTILE, make_hostile, make_phantoms, serve
from test_serve_browser import Watched, chromium  # noqa: F401  (a fixture)

from cxr_embed.index import CaseIndex
from cxr_embed.index.faiss.projection import principal_components
from cxr_embed.marks import ReaderMarks, file, marks_path

SOFTWARE = ("GPU stall due to ReadPixels", "Automatic fallback to software WebGL")  # said of a machine without a card
# Numbers of pixels of each colour that the canvas shows.
SHOWN = """() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => {
  const canvas = document.getElementById("points");
  const flat = document.createElement("canvas");
  Object.assign(flat, { width: canvas.width, height: canvas.height });
  const context = flat.getContext("2d");
  context.drawImage(canvas, 0, 0);
  const { data } = context.getImageData(0, 0, flat.width, flat.height);
  const found = {};
  for (let at = 0; at < data.length; at += 4) {
    if (data[at + 3] < 128) continue;
    const name = [data[at], data[at + 1], data[at + 2]].map((each) => Math.round(each / 16)).join();
    found[name] = (found[name] ?? 0) + 1;
  }
  done(found);
})))"""
CARD = """;WebGL2RenderingContext.prototype.getParameter = ((own) => function (name) {
  return name === 0x9246 || name === this.RENDERER ? "a card" : own.call(this, name);
})(WebGL2RenderingContext.prototype.getParameter)"""
CURSOR = "document.querySelector('#lasso path').getAttribute('d')"
KEPT = (
    "HTMLCanvasElement.prototype.getContext = "
    "((own) => function (kind, given) {{ return {}; }})(HTMLCanvasElement.prototype.getContext)"
)
SHADED = KEPT.format("own.call(this, kind, { ...given, preserveDrawingBuffer: true })") + CARD
UNSHADED = KEPT.format("kind.startsWith('webgl') ? null : own.call(this, kind, given)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("mapped"))


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "_FLUSH", "OFF")
        with serve(folder / "index", manifest=folder / "cases" / "manifest.csv", prompts="phantom8") as made:
            yield made


@pytest.fixture
def looking(chromium: Any, address: str) -> Iterator[Watched]:  # noqa: F811
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    made = Watched(context.new_page(), address)
    made.page.add_init_script(SHADED)
    yield made
    stored = made.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie].join()")
    context.close()
    assert made.elsewhere == []
    assert silent(made) == []
    assert stored == "0,0,"


def silent(made: Watched) -> list[str]:
    return [line for line in made.said if not any(each in line for each in SOFTWARE)]


def shaded(made: Watched) -> bool:
    return bool(made.page.evaluate("!!document.getElementById('points').getContext('webgl2')"))


def drawn(made: Watched, query: str = "") -> None:
    made.open(f"/map{query}")
    made.page.wait_for_selector("#mapped[data-drawn]")


def spots(made: Watched, index: Path) -> np.ndarray:
    """`(N, 2)`: where each case is on the screen, before anything was moved."""
    box = made.page.evaluate(
        "(({ x, y }, plane) => [x + plane.clientLeft, y + plane.clientTop, plane.clientWidth, plane.clientHeight])"
        "(document.getElementById('plane').getBoundingClientRect(), document.getElementById('plane'))"
    )
    places = principal_components(CaseIndex(index).vectors).astype(float)
    low, high = places.min(axis=0), places.max(axis=0)
    scale = 0.94 * min(box[2] / (high[0] - low[0]), box[3] / (high[1] - low[1]))
    middle = (low + high) / 2
    return np.array([box[0] + box[2] / 2, box[1] + box[3] / 2]) + (places - middle) * [scale, -scale]


def go_around(made: Watched, corners: list[tuple[float, float]]) -> None:
    mouse = made.page.mouse
    mouse.move(*corners[0])
    mouse.down()
    for corner in corners[1:]:
        mouse.move(*corner, steps=4)
    mouse.up()


def ids(folder: Path) -> list[str]:
    return [str(each) for each in CaseIndex(folder / "index").ids]


def test_a_lasso_by_mouse_puts_cases_on_a_list_and_takes_them_along(
    looking: Watched, folder: Path, tmp_path: Path
) -> None:
    drawn(looking)
    places, names = spots(looking, folder / "index"), ids(folder)
    left = float(np.median(places[:, 0]))
    low, high = places.min(axis=0) - 8, places.max(axis=0) + 8
    wanted = {name for name, place in zip(names, places, strict=True) if place[0] < left}
    looking.page.click("[data-do=lasso]")
    go_around(looking, [(low[0], low[1]), (left, low[1]), (left, high[1]), (low[0], high[1])])
    looking.page.wait_for_selector("#cards .card")
    assert looking.page.inner_text("#count") == f"{len(wanted)} chosen"
    assert (
        set(looking.page.locator("#cards .card").evaluate_all("all => all.map((each) => each.dataset.case)")) == wanted
    )
    looking.page.fill("#mark-list", HOSTILE)
    looking.page.click("[data-do=list]")
    looking.page.wait_for_selector("#cards .marks li")
    marks = ReaderMarks(marks_path(folder / "index"), "reader")
    assert {case.image_id for case, made in marks.every() if made.lists == (HOSTILE,)} == wanted
    with looking.page.expect_download() as waiting:
        looking.page.click("[data-do=csv]")
    waiting.value.save_as(tmp_path / "ids.csv")
    assert {row[0] for row in csv.reader((tmp_path / "ids.csv").open())} == wanted | {"image_id"}
    looking.page.click("#marked-last button:has-text('Undo')")
    looking.page.wait_for_selector("#cards .marks li", state="detached")
    assert marks.every() == []
    looking.page.check("#cards .card:nth-child(1) .versus input")
    looking.page.check("#cards .card:nth-child(2) .versus input")
    looking.page.click("#compare button")
    looking.page.wait_for_url("**/compare?id=*&id=*")
    looking.page.go_back()
    looking.page.wait_for_selector("#mapped[data-drawn]")


def test_colours_are_those_of_the_legend_and_can_be_taken_away(looking: Watched, folder: Path) -> None:
    drawn(looking)
    assert shaded(looking)
    assert list(looking.page.evaluate(SHOWN)) == ["0,7,11"]  # one colour
    looking.page.select_option("#colour", label="view")
    looking.page.wait_for_selector("#legend li")
    looking.page.wait_for_url("**by=column&name=view")
    entries = looking.page.locator("#legend li").all_inner_texts()
    views = CaseIndex(folder / "index").table["view"].to_pylist()
    assert {each.split()[0]: int(each.split()[1]) for each in entries} == {
        view: views.count(view) for view in set(views)
    }
    both = looking.page.evaluate(SHOWN)
    assert len(both) == len(entries)
    looking.page.uncheck("#legend li:nth-child(1) input")
    assert len(looking.page.evaluate(SHOWN)) == len(entries) - 1
    looking.page.fill("#where", "view = PA")
    looking.page.press("#where", "Enter")
    looking.page.wait_for_selector(f"#passing:has-text('{views.count('PA')} of {len(views)} cases')")
    looking.page.fill("#where", "path = x")
    looking.page.press("#where", "Enter")
    looking.page.wait_for_selector("#fault:has-text('no column')")
    looking.said[:] = [line for line in looking.said if "400" not in line]
    drawn(looking, "?by=prompts&name=Effusion&where=view+%3D+PA")
    assert looking.page.locator("#legend .ends span").count() == 2
    assert f"{views.count('PA')} of" in looking.page.inner_text("#passing")


def test_a_point_that_is_pointed_at_shows_its_picture(looking: Watched, folder: Path) -> None:
    drawn(looking)
    places, names = spots(looking, folder / "index"), ids(folder)
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1) + np.eye(len(places)) * 1e9
    row = int(apart.min(axis=1).argmax())
    looking.page.mouse.move(*(places[row] + 2))
    looking.page.wait_for_selector("#tip:not([hidden])")
    assert looking.page.inner_text("#tip .what").split("\n")[0] == names[row]
    assert looking.page.evaluate("document.querySelector('#tip img').decode().then(() => true)")
    looking.page.mouse.down()
    looking.page.mouse.up()
    looking.page.wait_for_selector(f"#cards .card[data-case='{names[row]}']")


def test_all_of_it_by_keys(looking: Watched, folder: Path) -> None:
    drawn(looking)
    names, keys = ids(folder), looking.page.keyboard
    looking.page.focus("#plane")
    keys.press("v")
    looking.page.wait_for_selector(f"#count:has-text('{len(names)} chosen')")
    keys.press("Escape")
    looking.page.wait_for_selector("#chosen", state="hidden")
    keys.press("Shift+ArrowRight")
    looking.page.wait_for_function("() => document.getElementById('spoken').textContent")
    first = looking.page.inner_text("#spoken").split(",")[0]
    keys.press("Shift+ArrowLeft")
    looking.page.wait_for_function(
        "(before) => !document.getElementById('spoken').textContent.startsWith(`${before},`)", arg=first
    )
    second = looking.page.inner_text("#spoken").split(",")[0]
    assert {first, second} <= set(names)
    keys.press("Enter")
    looking.page.wait_for_selector(f"#cards .card[data-case='{second}']")
    keys.press("l")
    looking.page.wait_for_selector("#cards .marks li")
    keys.press("f")
    looking.page.evaluate(SHOWN)
    places = [looking.page.evaluate(CURSOR)]
    for key in ("+", "ArrowLeft", "ArrowUp", "-", "f"):
        keys.press(key)
        looking.page.evaluate(SHOWN)  # after two frames
        places.append(looking.page.evaluate(CURSOR))
    assert len(set(places)) == 5
    assert places[0] == places[-1]
    keys.press("z")
    looking.page.wait_for_selector("#cards .marks li", state="detached")


def test_without_webgl_the_same_points_are_drawn(chromium: Any, address: str) -> None:  # noqa: F811
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    made = Watched(context.new_page(), address)
    made.page.add_init_script(UNSHADED)
    drawn(made, "?by=column&name=view")
    assert not shaded(made)
    assert len(made.page.evaluate(SHOWN)) >= 2
    assert silent(made) == []
    context.close()


def test_hostile_texts_do_not_run(chromium: Any, tmp_path: Path) -> None:  # noqa: F811
    with serve(make_hostile(tmp_path) / "index") as address:
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        made = Watched(context.new_page(), address)
        drawn(made, "?by=column&name=site")
        assert any("<script>" in each for each in made.page.locator("#legend li").all_inner_texts())
        made.page.select_option("#colour", label=f"Effusion{HOSTILE}")
        made.page.wait_for_selector("#legend li:has-text('yes')")
        made.page.focus("#plane")
        made.page.keyboard.press("v")
        made.page.wait_for_selector("#cards .card")
        made.page.keyboard.press("Shift+ArrowRight")
        made.page.wait_for_selector("#tip:not([hidden])")
        assert "<script>" in made.page.inner_text("#cards")
        assert silent(made) == made.elsewhere == []
        context.close()


def test_an_index_that_is_built_again_under_an_open_page_is_said_so(chromium: Any, tmp_path: Path) -> None:  # noqa: F811
    with serve(make_hostile(tmp_path) / "index") as address:
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        made = Watched(context.new_page(), address)
        drawn(made)
        made.page.focus("#plane")
        made.page.keyboard.press("v")
        made.page.wait_for_selector("#cards .card")
        make_hostile(tmp_path, 24, 1)
        made.page.click("[data-do=list]")
        made.page.wait_for_selector("#fault a")
        assert "built again" in made.page.inner_text("#fault")
        assert made.page.locator("#chosen").is_hidden()
        assert not marks_path(tmp_path / "index").exists()
        made.page.click("#fault a")
        made.page.wait_for_selector("#mapped[data-drawn]")
        assert made.page.get_attribute("#mapped", "data-cases") == "24"
        context.close()


def test_many_points_are_chosen_and_found_as_a_plain_look_at_all_finds_them(chromium: Any, tmp_path: Path) -> None:  # noqa: F811
    values = np.random.default_rng(0).standard_normal((3000, 2)).astype(np.float32)
    index = make_index(tmp_path, np.concatenate([values, np.ones((3000, 1), np.float32)], axis=1))
    with serve(index.path) as address:
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        made = Watched(context.new_page(), address)
        drawn(made)
        places = spots(made, index.path)
        low, high = places.min(axis=0), places.max(axis=0)
        middle, size = (low + high) / 2, (high - low) / 5
        corners = [(0, -1), (0.25, 0.25), (1, 0.5), (0, 0.6), (-1, 1), (-0.3, 0)]  # a star, not convex
        star = [(round(middle[0] + x * size[0]), round(middle[1] + y * size[1])) for x, y in corners]
        made.page.keyboard.down("Shift")
        go_around(made, star)
        made.page.keyboard.up("Shift")
        made.page.wait_for_selector("#cards .card")
        chosen = int(made.page.inner_text("#count").split()[0].replace(",", ""))
        from matplotlib.path import Path as Outline

        inner, outer = (int(Outline(star).contains_points(places, radius=r).sum()) for r in (-1.5, 1.5))
        assert min(inner, outer) <= chosen <= max(inner, outer)
        assert chosen > 50
        context.close()
    shutil.rmtree(tmp_path)
