"""The compare page in a real browser: what is drawn, and what mouse, fingers and keys do to it."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serve_world import serve
from test_serve_browser import CONTRAST, Watched, chromium  # noqa: F401  (a fixture)
from test_serve_compare import made_up, ramp

# Without a graphics card the browser reads what WebGL drew back into memory, and says so.
SOFTWARE = "GPU stall due to ReadPixels"
MISSING = "404 (Not Found)"  # c5's file
# Shaders are for graphics cards: this machine's processor is taken for one.
A_CARD = """
const known = WebGL2RenderingContext.prototype.getParameter;
WebGL2RenderingContext.prototype.getParameter = function (name) {
  return name === 0x9246 ? "a graphics card" : known.call(this, name);
};
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = made_up(tmp_path_factory.mktemp("compared"))
    (folder / "c5.png").unlink()
    with serve(folder / "index", manifest=folder / "manifest.csv") as made:
        yield made


def visit(chromium: Any, address: str, script: str = "", **options: Any) -> Iterator[Watched]:  # noqa: F811
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, **options)
    if script:
        context.add_init_script(script)
    made = Watched(context.new_page(), address)
    yield made
    stored = made.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie].join()")
    context.close()
    assert made.elsewhere == []
    assert [line for line in made.said if SOFTWARE not in line and MISSING not in line] == []
    assert stored == "0,0,"


@pytest.fixture
def watched(chromium: Any, address: str) -> Iterator[Watched]:  # noqa: F811
    yield from visit(chromium, address)


@pytest.fixture
def touched(chromium: Any, address: str) -> Iterator[Watched]:  # noqa: F811
    yield from visit(chromium, address, has_touch=True)


@pytest.fixture
def shaded(chromium: Any, address: str) -> Iterator[Watched]:  # noqa: F811
    yield from visit(chromium, address, A_CARD)


def opened(watched: Watched, path: str = "/compare?id=c0&id=c2") -> Any:
    """The page, once its pictures are drawn."""
    watched.open(path)
    watched.page.wait_for_selector(".stage[data-pixels]:not(.ready):not(.none)", state="detached")
    settle(watched.page)
    return watched.page


def settle(page: Any) -> None:
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def reads(page: Any) -> list[tuple[int, int, int]]:
    """Width, level and per cent of each picture."""
    settle(page)
    windows, sizes = page.locator(".sw").all_inner_texts(), page.locator(".se").all_inner_texts()
    found = [re.findall(r"\d+", f"{window} {size}") for window, size in zip(windows, sizes, strict=True)]
    return [(int(width), int(level), int(size)) for width, level, size in found]


def drawn(page: Any, number: int = 0) -> np.ndarray:
    """`(H, W)` uint8, what a picture's place shows."""
    settle(page)
    shot = page.locator(".stage").nth(number).screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("L"))


def middle(page: Any, number: int = 0) -> tuple[float, float]:
    box = page.locator(".stage").nth(number).bounding_box()
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def drag(page: Any, across: int, down: int, number: int = 0, button: str = "left") -> None:
    x, y = middle(page, number)
    page.mouse.move(x, y)
    page.mouse.down(button=button)
    page.mouse.move(x + across, y + down, steps=4)
    page.mouse.up(button=button)


def expected(across: int, number: int = 0) -> np.ndarray:
    """`(across,)`, the greys of a line through a whole ramp so many pixels of the screen wide."""
    row = ramp(number)[0].astype(float)
    low, high = np.percentile(row, (0.5, 99.5), method="inverted_cdf")
    at = (np.arange(across) + 0.5) / across * len(row) - 0.5
    return np.clip((np.interp(at, np.arange(len(row)), row) - low) / (high - low), 0, 1) * 255


@pytest.mark.parametrize("way", ["watched", "shaded"])
def test_all_bits_are_windowed(request: pytest.FixtureRequest, way: str) -> None:
    page = opened(request.getfixturevalue(way))
    kind = page.evaluate("Boolean(document.querySelector('canvas').getContext('webgl2'))")
    assert kind is (way == "shaded")
    shown = drawn(page)
    height, width = shown.shape
    across = round(height * 120 / 160)
    row = shown[height // 2, round((width - across) / 2) : round((width + across) / 2)].astype(float)
    wanted = expected(len(row))
    inside = slice(8, -8)
    assert np.abs(row - wanted)[inside].max() <= 3
    page.locator(".stage").first.focus()
    page.keyboard.press("i")
    turned = drawn(page)[height // 2, round((width - across) / 2) : round((width + across) / 2)]
    assert np.abs(turned - (255 - wanted))[inside].max() <= 3
    assert page.locator("[data-do=invert]").get_attribute("aria-pressed") == "true"


def test_the_mouse_windows_both_or_one(watched: Watched) -> None:
    page = opened(watched)
    before = reads(page)
    drag(page, 80, 0)
    wider = reads(page)
    assert [now[0] > was[0] * 1.1 for now, was in zip(wider, before, strict=True)] == [True, True]
    assert [now[1] for now in wider] == [was[1] for was in before]
    page.click("[data-do=linkwindow]")
    drag(page, 0, -80)
    brighter = reads(page)
    assert brighter[0][1] < wider[0][1]
    assert brighter[1] == wider[1]
    page.click("[data-do=linkwindow]")
    page.click("[data-do=reset]")
    assert reads(page) == before


def test_the_mouse_zooms_and_moves(watched: Watched) -> None:
    page = opened(watched)
    before = reads(page)
    page.mouse.move(*middle(page, 1))
    page.mouse.wheel(0, -400)
    page.wait_for_timeout(100)
    zoomed = reads(page)
    assert zoomed[0][2] == zoomed[1][2] > before[0][2] * 1.5
    values = page.locator(".ne").nth(1)
    still = values.inner_text()
    drag(page, 0, 60, button="right")
    assert reads(page) == zoomed
    page.mouse.move(*middle(page, 1))
    assert values.inner_text() != still  # the other one moved too: another pixel is under the same place
    page.mouse.dblclick(*middle(page))
    assert reads(page) == before
    page.click("[data-do=one]")
    assert [each[2] for each in reads(page)] == [100, 100]
    page.click("[data-do=linkview]")
    page.click("[data-do=in]")
    assert [each[2] for each in reads(page)] == [125, 100]


def test_everything_by_keys(watched: Watched) -> None:
    watched.open("/")
    page = watched.page
    for number in (0, 1):
        page.locator(".versus input").nth(number).focus()
        page.keyboard.press("Space")
    page.focus("#compare button")
    page.keyboard.press("Enter")
    page.wait_for_url("**/compare?id=c0&id=c1")
    page.wait_for_selector(".stage.ready >> nth=1")
    before = reads(page)
    page.keyboard.press("Tab")  # the way in is the usual one
    assert page.evaluate("document.activeElement.className") == "skip"
    page.locator(".stage").nth(1).focus()
    for key, changed in (("+", 2), ("Shift+ArrowRight", 0), ("Shift+ArrowUp", 1)):
        page.keyboard.press(key)
        assert [now[changed] != was[changed] for now, was in zip(reads(page), before, strict=True)] == [True, True]
    shown = drawn(page)
    page.keyboard.press("ArrowRight")
    assert not np.array_equal(drawn(page), shown)
    page.keyboard.press("r")
    assert reads(page) == before
    page.keyboard.press("l")
    page.keyboard.press("1")
    assert [each[2] for each in reads(page)] == [before[0][2], 100]
    assert page.locator("[data-do=linkview]").get_attribute("aria-pressed") == "false"


def test_two_fingers_zoom_and_one_windows(touched: Watched) -> None:
    page = opened(touched)
    before = reads(page)
    touch = page.context.new_cdp_session(page)
    x, y = middle(page)

    def fingers(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": across, "y": down, "id": number} for number, (across, down) in enumerate(places)]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    fingers("touchStart", (x - 40, y), (x + 40, y))
    for step in (60, 80, 100):
        fingers("touchMove", (x - step, y), (x + step, y))
    fingers("touchEnd")
    zoomed = reads(page)
    assert zoomed[0][2] == zoomed[1][2] > before[0][2] * 2
    assert [each[:2] for each in zoomed] == [each[:2] for each in before]
    fingers("touchStart", (x, y))
    fingers("touchMove", (x + 60, y))
    fingers("touchEnd")
    assert [now[0] > was[0] for now, was in zip(reads(page), zoomed, strict=True)] == [True, True]


def test_a_study_of_the_time_line_is_put_beside(watched: Watched) -> None:
    page = opened(watched, "/compare?id=c0")
    page.click("a.study[aria-label='Show c4']")
    page.wait_for_url("**/compare?id=c0&id=c4#**")
    page.wait_for_selector(".stage.ready >> nth=1")
    assert page.locator(".study.on").count() == 2
    page.click("[aria-label='Close A']")
    page.wait_for_url("**/compare?id=c4#**")


def test_what_was_set_goes_along_to_the_next_study(watched: Watched) -> None:
    page = opened(watched, "/compare?id=c0")
    for key in ("+", "+", "Shift+ArrowRight", "Shift+ArrowUp", "ArrowLeft", "i"):
        page.locator(".stage").first.focus()
        page.keyboard.press(key)
    (before,) = reads(page)
    box = page.locator(".stage").bounding_box()
    page.focus("a.study[aria-label='Show c4']")
    page.keyboard.press("Enter")
    page.wait_for_selector(".stage.ready >> nth=1")
    kept, beside = reads(page)
    smaller = page.locator(".stage").first.bounding_box()
    by = min(smaller["width"] / 120, smaller["height"] / 160) / min(box["width"] / 120, box["height"] / 160)
    assert kept[:2] == before[:2]
    assert kept[2] == beside[2] == pytest.approx(before[2] * by, abs=1)
    assert beside[:2] == pytest.approx((before[0], before[1] + 400), abs=1)  # the same, beside its own usual window
    assert page.locator(".sw:has-text('inverted')").count() == 2
    page.click("[data-do=linkwindow]")
    page.click("[aria-label='Close B']")
    page.wait_for_selector(".studies .on >> nth=1", state="detached")
    page.wait_for_selector(".stage.ready")
    assert reads(page) == [before]
    assert page.locator("[data-do=linkwindow]").count() == 0
    page.click("[data-do=reset]")
    assert reads(page)[0][2] < before[2]


@pytest.mark.parametrize("after", ["other=1,2", "other=x,NaN,1e999,0,0,0", "other=9,-9,1e9,1e9,-1e9,7&linked=%3Cb%3E"])
def test_no_address_can_break_the_page(watched: Watched, after: str) -> None:
    page = opened(watched, f"/compare?id=c0&id=c2#{after}")
    width, level, size = reads(page)[0]
    assert 1 <= width <= 2 * 65535
    assert 0 <= level <= 65535
    assert 1 <= size <= 3200


def test_words_where_there_is_no_picture(watched: Watched) -> None:
    page = opened(watched, "/compare?id=c5&id=nobody&id=c0")
    assert page.locator(".why").all_inner_texts()[:2] == ["no picture: missing", "not in the index"]
    assert page.locator(".stage.ready").count() == 1
    page.click("[data-do=invert]")
    settle(page)
    assert "inverted" in page.locator(".sw").nth(1).inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_and_fit(chromium: Any, address: str, scheme: str) -> None:  # noqa: F811
    for width in (1280, 390):
        context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        made = Watched(context.new_page(), address)
        for path in ("/compare?id=c0&id=c1&id=c2&id=nobody", "/compare", "/compare?id=a&id=b&id=c&id=d&id=e"):
            page = opened(made, path)
            if page.locator(".keys").count():
                page.click(".keys summary")
            assert page.evaluate(CONTRAST) == [], (path, scheme)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
        context.close()
