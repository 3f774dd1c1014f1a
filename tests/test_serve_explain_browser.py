"""The page of heat maps in a real browser: opacity, keys, why two are alike, hostile names, two tabs."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serve_world import HOSTILE, serve
from test_serve_browser import CONTRAST, Watched, chromium  # noqa: F401  (a fixture)
from test_serve_explain import make_explained, named

REFUSED = "400 (Bad Request)"  # what a page says in a sentence, the console says too


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = make_explained(tmp_path_factory.mktemp("explained"))
    with serve(folder / "index", **named(folder), prompts="phantom8") as made:
        yield made


@pytest.fixture
def watched(chromium: Any, address: str) -> Iterator[Watched]:  # noqa: F811
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    made = Watched(context.new_page(), address)
    yield made
    stored = made.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie].join()")
    context.close()
    assert made.elsewhere == []
    assert [line for line in made.said if REFUSED not in line] == []
    assert stored == "0,0,"


def first_cases(watched: Watched, count: int = 2) -> list[str]:
    watched.open("/")
    cards = watched.page.locator(".card")
    return [str(cards.nth(number).get_attribute("data-case")) for number in range(count)]


def opened(watched: Watched, path: str) -> Any:
    watched.open(path)
    watched.page.wait_for_selector("[data-made][aria-busy=true]", state="detached")
    watched.page.wait_for_load_state("networkidle")  # the layers are pictures
    return watched.page


def opacities(page: Any, layer: str = "heat") -> list[float]:
    every = f"[...document.querySelectorAll('.maps .{layer}')]"
    found: list[float] = page.evaluate(f"{every}.map((each) => Number(getComputedStyle(each).opacity))")
    return found


def pixels(page: Any) -> np.ndarray:
    """`(H, W, 3)`, what the first map's place shows."""
    shot = page.locator("svg").first.screenshot()
    return np.asarray(Image.open(io.BytesIO(shot)).convert("RGB")).astype(int)


def test_opacity_and_keys(watched: Watched) -> None:
    (case,) = first_cases(watched, 1)
    page = opened(watched, f"/explain?case={case}&for=probe:Effusion")
    assert "auto: cam is the first method" in page.inner_text(".said")
    assert opacities(page) == [1]
    drawn = pixels(page)
    page.focus("#opacity")
    page.keyboard.press("Home")
    assert opacities(page) == [0]
    assert opacities(page, "outline") == [1]
    assert np.abs(pixels(page) - drawn).max() > 50
    page.keyboard.press("]")
    assert opacities(page) == [pytest.approx(0.1)]
    page.keyboard.press("End")
    page.keyboard.press("h")
    page.keyboard.press("o")
    assert opacities(page) == opacities(page, "outline") == [0]
    assert page.locator("[data-do=heat]").get_attribute("aria-pressed") == "false"
    page.keyboard.press("h")
    page.keyboard.press("o")
    assert np.abs(pixels(page) - drawn).mean() < 0.5


def test_the_form_by_keys_alone(watched: Watched) -> None:
    (case,) = first_cases(watched, 1)
    watched.open("/explain")
    page = watched.page
    page.focus("input[name=case]")
    page.keyboard.type(case)
    page.focus("input[name=words]")
    page.keyboard.type("pleural effusion")
    assert page.locator("input[value=words]").is_checked()  # what is written in is what is meant
    page.keyboard.press("h")  # a letter, not a key
    page.keyboard.press("Backspace")
    page.keyboard.press("Enter")
    page.wait_for_url(f"**/explain?case={case}&for=words%3Apleural+effusion&method=auto")
    page.wait_for_selector(".said")
    assert "pleural effusion: cosine" in page.inner_text(".value")


def test_why_two_are_alike_on_both_and_in_two_tabs(watched: Watched) -> None:
    one, other = first_cases(watched)
    second = watched.page.context.new_page()
    path = f"/explain?case={one}&for=like:{other}"
    second.goto(watched.base + path)
    page = opened(watched, path)
    second.wait_for_selector(".said >> nth=1", timeout=120_000)
    for each in (page, second):
        assert each.locator("svg image.heat").count() == 2
        assert [text.split("\n")[0].split(" ")[0] for text in each.locator(".said h2").all_inner_texts()] == [
            one,
            other,
        ]
    values = [text.split("cosine ")[1].split(";")[0] for text in page.locator(".value").all_inner_texts()]
    assert values[0] == values[1]
    page.keyboard.press("h")
    assert opacities(page) == [0, 0]
    second.close()


def test_a_picture_of_a_search_is_opened_here(watched: Watched) -> None:
    (case,) = first_cases(watched, 1)
    page = watched.page
    page.locator("a[data-large]").first.click()
    page.click("#large a.explain")
    page.wait_for_url(f"**/explain?case={case}")
    assert page.input_value("input[name=case]") == case
    watched.open(f"/compare?id={case}")
    page.click(".head a.explain")
    page.wait_for_url(f"**/explain?case={case}")


def test_hostile_words_are_words(watched: Watched) -> None:
    (case,) = first_cases(watched, 1)
    watched.open("/explain")
    page = watched.page
    page.fill("input[name=case]", case)
    page.fill("input[name=words]", HOSTILE)
    page.click("button.main")
    page.wait_for_selector(".said, .fault")
    assert HOSTILE in page.inner_text(".map")
    page = opened(watched, f"/explain?case={case}&for=like:%3Cimg%20src=x%20onerror=alert(1)%3E")
    assert page.locator("img[src=x]").count() == 0
    assert page.locator(".fault").count() == 2


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_and_fit(chromium: Any, address: str, scheme: str) -> None:  # noqa: F811
    for width in (1280, 390):
        context = chromium.new_context(viewport={"width": width, "height": 844}, color_scheme=scheme)
        made = Watched(context.new_page(), address)
        one, other = first_cases(made)
        for path in ("/explain", f"/explain?case={one}&for=probe:Effusion", f"/explain?case={one}&for=like:{other}"):
            page = opened(made, path)
            assert page.evaluate(CONTRAST) == [], (path, scheme)
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
        context.close()
