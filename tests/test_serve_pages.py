"""What holds for every page of the case browser, in a real one: to read, to reach by keyboard, light, and silent."""

from __future__ import annotations

import io
import json
import urllib.request
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serve_world import make_phantoms, samples, serve
from test_serve_browser import CONTRAST, Watched, chromium  # noqa: F401  (a fixture)

from cxr_embed.types import RESEARCH
from cxr_embed.web.pages import PAGES

ROWS = [page.path for page in PAGES]
SIZES = ((1280, 900), (390, 844))
DATA = ("/api/picture", "/api/pixels")  # thumbnails and radiographs; everything else is the page
SOFTWARE = ("GPU stall due to ReadPixels", "Automatic fallback to software WebGL")  # said of a machine without a card
# Every control that can be seen and used.
CONTROLS = """
() => [...document.querySelectorAll("a[href], button, input, select, textarea, summary, [tabindex='0']")].filter(
  (each) => !each.disabled && each.type !== "hidden" && each.tabIndex >= 0
    && each.checkVisibility({ contentVisibilityAuto: true, visibilityProperty: true }))
"""
# Numbers them, and gives those whose tabindex changes the order.
NUMBERED = f"""() => ({CONTROLS})().map((each, number) => {{
  each.dataset.number = number;
  each.dataset.group = each.type === "radio" ? `radio ${{each.name}}` : number;
  return each.tabIndex > 0 ? each.outerHTML : "";
}}).filter(Boolean)"""
# Of the control that has the focus: its number, and the contrast of the ring that shows it with what is beside it.
FOCUSED = """
() => {
  const element = document.activeElement;
  const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = (from) => {
    for (let each = from; each; each = each.parentElement) {
      const [r, g, b, a = 1] = numbers(getComputedStyle(each).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const opacity = (from) => {
    let all = 1;
    for (let each = from; each; each = each.parentElement) all *= Number(getComputedStyle(each).opacity);
    return all;
  };
  const ratio = (colour, beside) => {
    const [high, low] = [light(numbers(colour)), light(behind(beside))].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  // A box to tick that is drawn by what follows it, or a file's field by what is around it, has the ring there.
  const parents = [element.parentElement, element.parentElement?.parentElement];
  let [best, inner] = [0, null];
  for (const each of [element, element.nextElementSibling, ...parents].filter(Boolean)) {
    const { outlineStyle, outlineWidth, outlineColor, outlineOffset } = getComputedStyle(each);
    if (outlineStyle === "none" || parseFloat(outlineWidth) < 2 || opacity(each) < 0.9) continue;
    const inside = parseFloat(outlineOffset) < 0;
    if (inside && each === element) inner = outlineColor;
    best = Math.max(best, ratio(outlineColor, inside ? each : each.parentElement));
  }
  const over = getComputedStyle(element, "::after");
  if (!best && over.content !== "none" && parseFloat(over.borderTopWidth) >= 2) {
    inner = over.borderTopColor;
    best = ratio(inner, element);
  }
  // What lies inside may be painted over: of such a ring, where it is, and its colour.
  const { x, y, width, height } = element.getBoundingClientRect();
  const ring = inner && { colour: numbers(inner).slice(0, 3), clip: { x, y, width, height } };
  return [element.dataset.group ?? "", best, element.outerHTML.slice(0, 200), ring];
}
"""
# Fields and buttons whose edge, or plane, is under 3:1 beside what they stand on.
EDGES = """
() => {
  const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const plane = (from) => {
    for (let each = from; each; each = each.parentElement) {
      const [r, g, b, a = 1] = numbers(getComputedStyle(each).backgroundColor);
      if (a === 1) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const ratio = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  return [...document.querySelectorAll("input, select, textarea")].filter((each) => {
    const style = getComputedStyle(each);
    const own = ["checkbox", "radio", "range", "file", "hidden"].includes(each.type); // the browser draws these
    if (own || each.disabled || !each.checkVisibility() || Number(style.opacity) < 0.9) return false;
    const under = plane(each.parentElement);
    const edged = parseFloat(style.borderTopWidth) > 0 && ratio(numbers(style.borderTopColor), under) >= 3;
    return !edged && ratio(plane(each), under) < 3;
  }).map((each) => each.outerHTML.slice(0, 200));
}
"""
# What a program that reads pages aloud stumbles over.
SPOKEN = """
() => {
  const ids = [...document.querySelectorAll("[id]")].map((each) => each.id);
  return [
    ...ids.filter((id, at) => ids.indexOf(id) !== at).map((id) => `twice the id ${id}`),
    ...[...document.querySelectorAll("img:not([alt])")].map((each) => `no alt: ${each.outerHTML}`),
    ...[...document.querySelectorAll("[aria-labelledby], [aria-describedby]")]
      .flatMap((each) => [each.getAttribute("aria-labelledby"), each.getAttribute("aria-describedby")])
      .filter(Boolean).flatMap((names) => names.split(" ")).filter((id) => !ids.includes(id)).map((id) => `no ${id}`),
    ...(document.querySelectorAll("h1").length === 1 ? [] : ["not one h1"]),
    ...(document.querySelectorAll("main").length === 1 ? [] : ["not one main"]),
    ...(document.documentElement.lang && document.title ? [] : ["no language, or no title"]),
  ];
}
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = make_phantoms(tmp_path_factory.mktemp("every"), 8)
    with serve(folder / "index", manifest=folder / "cases" / "manifest.csv", prompts="phantom8") as made:
        for marking in (
            {"do": "yes", "finding": "Effusion"},
            {"do": "list", "list": "for Monday"},
            {"do": "note", "note": "small"},
        ):
            body = json.dumps({"case": ids(made)[:2], **marking}).encode()
            headers = {"content-type": "application/json"}
            urllib.request.urlopen(urllib.request.Request(f"{made}/api/marks", body, headers)).read()
        yield made


def ids(address: str) -> list[str]:
    cases = json.load(urllib.request.urlopen(f"{address}/api/search"))["cases"]
    return [case["image_id"] for case in cases]


def visits(chromium: Any, address: str, path: str, size: tuple[int, int], scheme: str) -> Iterator[Watched]:  # noqa: F811
    """The sample addresses of a page, one after the other; after each, what no page may do is looked for."""
    for sample in samples(path, ids(address)):
        context = chromium.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
        made = Watched(context.new_page(), address)
        weights: dict[str, int] = {}
        made.page.on("response", lambda answer, weights=weights: weigh(answer, weights))
        status = made.page.goto(address + sample).status
        made.page.wait_for_load_state("networkidle")
        yield made
        stored = made.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie].join()")
        databases = made.page.evaluate("indexedDB.databases().then((all) => all.length)")
        context.close()
        assert made.elsewhere == [], sample
        own = [f"status of {status}"] if status >= 400 else []  # the browser tells of a page that says what is wrong
        assert [line for line in made.said if not any(each in line for each in (*SOFTWARE, *own))] == [], sample
        assert (stored, databases) == ("0,0,", 0), sample
        assert 10_000 < sum(weights.values()) < 500_000, (sample, weights)


def weigh(answer: Any, weights: dict[str, int]) -> None:
    if not any(kind in answer.url for kind in DATA):
        weights[answer.url] = len(answer.body())


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", ROWS)
def test_a_page_can_be_read_and_fits(chromium: Any, address: str, path: str, scheme: str) -> None:  # noqa: F811
    for size in SIZES:
        for made in visits(chromium, address, path, size, scheme):
            page = made.page
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (page.url, size)
            assert page.evaluate(CONTRAST) == [], (page.url, size)
            assert page.evaluate(EDGES) == [], (page.url, size)
            assert page.evaluate(SPOKEN) == [], page.url
            assert page.locator(f"footer:has-text('{RESEARCH}')").is_visible(), page.url


@pytest.mark.parametrize(("size", "scheme"), [(SIZES[0], "light"), (SIZES[1], "dark")])
@pytest.mark.parametrize("path", ROWS)
def test_all_controls_are_named_and_reached_by_keys(
    chromium: Any,  # noqa: F811
    address: str,
    path: str,
    size: tuple[int, int],
    scheme: str,
) -> None:
    for made in visits(chromium, address, path, size, scheme):
        page = made.page
        assert unnamed(page) == [], page.url
        assert page.evaluate(NUMBERED) == [], page.url
        wanted = set(page.evaluate(f"() => ({CONTROLS})().map((each) => each.dataset.group)"))
        assert len(wanted) > 4, page.url
        rings: dict[str, float] = {}
        markup: dict[str, str] = {}
        for _ in range(4 * len(wanted) + 20):  # a date's field has several stops
            page.keyboard.press("Tab")
            group, ring, markup[group], inner = page.evaluate(FOCUSED)
            if inner and not is_drawn(page, **inner):
                ring = 0.0
            if len(rings) > 1 and group == next(iter(rings)):
                break  # once around
            if group:
                rings[group] = max(ring, rings.get(group, 0))
        assert wanted - rings.keys() == set(), (page.url, wanted - rings.keys())
        assert [markup[group] for group, ring in rings.items() if ring < 3] == [], page.url


def is_drawn(page: Any, colour: list[int], clip: dict[str, float]) -> bool:
    """Whether a ring of a colour runs along the inside of a rectangle, as far as that is in the window."""
    size = page.viewport_size
    left, top = max(0, clip["x"]), max(0, clip["y"])
    right, end = min(size["width"], clip["x"] + clip["width"]), min(size["height"], clip["y"] + clip["height"])
    seen = {"x": left, "y": top, "width": right - left, "height": end - top}
    shot = np.asarray(Image.open(io.BytesIO(page.screenshot(clip=seen))).convert("RGB")).astype(int)
    near = (np.abs(shot - colour).max(axis=2) < 24)[1:-1, 1:-1]
    sides = [near[:3].any(axis=0), near[-3:].any(axis=0), near[:, :3].any(axis=1), near[:, -3:].any(axis=1)]
    return sum(bool(side.mean() > 0.8) for side in sides) >= 3  # the window may end before the fourth


def unnamed(page: Any) -> list[str]:
    """Roles of controls that a program which reads a page aloud could not name."""
    nodes = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    found = []
    for node in nodes:
        focusable = any(each["name"] == "focusable" and each["value"]["value"] for each in node.get("properties", []))
        if node["ignored"] or not focusable or node["role"]["value"] in ("RootWebArea", "main", "generic"):
            continue
        if not str(node.get("name", {}).get("value", "")).strip():
            found.append(node["role"]["value"])
    return found
