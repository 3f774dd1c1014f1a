"""The case browser in a real one: Debian's Chromium, without a window."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from serve_world import make_hostile, make_phantoms, serve

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
if CHROMIUM is None:
    pytest.skip("no Chromium here: apt-get install chromium", allow_module_level=True)

ROOT = Path(__file__).parents[1]
SECONDS = 120_000  # milliseconds that a page may take beside other work; no test is about them
# Every text that can be seen, whose contrast with what lies behind it is under WCAG's AA.
CONTRAST = """
() => {
  const channel = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const behind = (element) => {
    const layers = [];
    for (let each = element; each; each = each.parentElement) {
      const [r, g, b, a = 1] = numbers(getComputedStyle(each).backgroundColor);
      if (a > 0) layers.push([r, g, b, a]);
      if (a === 1) break;
    }
    let below = [255, 255, 255];
    for (const [r, g, b, a] of layers.reverse()) below = [r, g, b].map((v, i) => v * a + below[i] * (1 - a));
    return below;
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const words = [...element.childNodes].filter((node) => node.nodeType === 3 && node.data.trim());
    const style = getComputedStyle(element);
    if (!words.length || style.visibility === "hidden" || !element.getClientRects().length) continue;
    const [one, other] = [light(numbers(style.color)), light(behind(element))].sort((a, b) => b - a);
    const ratio = (one + 0.05) / (other + 0.05);
    if (ratio < 4.5) faint.push(`${element.className || element.tagName}: ${ratio.toFixed(2)}`);
  }
  return faint;
}
"""


@dataclass
class Watched:
    """A page, and what was seen of it.

    Attributes:
        page: of playwright.
        base: address of the server.
        elsewhere: requests to other places.
        said: what the console and dialogs said.
    """

    page: Any
    base: str
    elsewhere: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(SECONDS)
        self.page.on("request", self._request)
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.base, "blob:", "data:")):
            self.elsewhere.append(request.url)

    def open(self, address: str) -> None:
        self.page.goto(self.base + address)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_phantoms(tmp_path_factory.mktemp("browsed"))


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with serve(folder / "index", manifest=folder / "cases" / "manifest.csv") as made:
        yield made


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=SECONDS)
        yield browser
        browser.close()


@pytest.fixture
def watched(chromium: Any, address: str) -> Iterator[Watched]:
    """A page of a fresh browser; whatever else it does, it asks no other host, and its console has nothing to say."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    made = Watched(context.new_page(), address)
    yield made
    stored = made.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie].join()")
    context.close()
    assert made.elsewhere == []
    assert made.said == []
    assert stored == "0,0,"


def first(folder: Path) -> dict[str, str]:
    with open(folder / "cases" / "manifest.csv", newline="") as file:
        return next(csv.DictReader(file))


def test_a_picture_is_dropped_and_its_neighbours_seen(watched: Watched, folder: Path) -> None:
    watched.open("/")
    watched.page.set_input_files("#file", folder / "cases" / first(folder)["path"])
    watched.page.wait_for_url("**/?upload=*")
    watched.page.wait_for_selector(".near")
    assert "your picture" in watched.page.inner_text(".examples")
    assert watched.page.evaluate("document.querySelector('.card img').decode().then(() => true)")
    watched.page.click(".card a.picture")
    assert watched.page.evaluate("document.querySelector('dialog img').decode().then(() => true)")
    watched.page.keyboard.press("Escape")
    assert not watched.page.evaluate("document.querySelector('dialog').open")


def test_a_file_that_is_not_a_picture_is_said_so(watched: Watched, tmp_path: Path) -> None:
    watched.open("/")
    (tmp_path / "a.dcm").write_bytes(b"no picture")
    watched.page.set_input_files("#file", tmp_path / "a.dcm")
    watched.page.wait_for_selector("#say:has-text('no image')")
    assert [line for line in watched.said if "400" not in line] == []
    watched.said.clear()


def test_filters_change_the_cases_and_the_address(watched: Watched) -> None:
    watched.open("/?words=effusion")
    watched.page.evaluate("window.same = true")
    before = watched.page.inner_text(".count")
    watched.page.check("input[name=view][value=PA]")
    watched.page.wait_for_url("**view=PA**")
    watched.page.wait_for_selector(".chips >> text=view: PA")
    assert watched.page.inner_text(".count") != before
    assert watched.page.evaluate("window.same"), "the page was loaded anew"
    assert "words=effusion" in watched.page.url
    watched.page.click(".chips a")
    watched.page.wait_for_url("**/?words=effusion")
    assert watched.page.inner_text(".count") == before
    watched.page.go_back()
    watched.page.wait_for_selector(".chips >> text=view: PA")


def test_all_of_it_by_keyboard(watched: Watched) -> None:
    watched.open("/")
    keys = watched.page.keyboard
    keys.press("Tab")
    assert watched.page.evaluate("document.activeElement.className") == "skip"
    keys.press("/")
    keys.type("effusion")
    keys.press("Enter")
    watched.page.wait_for_url("**words=effusion**")
    watched.page.wait_for_selector(".near")
    watched.page.focus(".card a.picture")
    keys.press("ArrowRight")
    chosen = watched.page.evaluate("document.activeElement.closest('.card').dataset.case")
    assert chosen == watched.page.evaluate("document.querySelectorAll('.card')[1].dataset.case")
    keys.press("Enter")
    assert watched.page.evaluate("document.getElementById('large').open")
    keys.press("Escape")
    keys.press("m")
    watched.page.wait_for_url(f"**case={chosen}**")
    assert chosen in watched.page.inner_text(".examples")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_and_fit(chromium: Any, address: str, folder: Path, scheme: str) -> None:
    question = f"/?case={first(folder)['image_id']}&not_words=zzqx&view=PA&view=AP&words=effusion"
    for width in (1280, 390):
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page = Watched(context.new_page(), address)
        for path in (question, "/endpoints", "/?where=x", "/nothing"):
            page.open(path)
            assert page.page.evaluate(CONTRAST) == [], (path, scheme)
            assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
        context.close()


def test_a_page_is_light(chromium: Any, address: str) -> None:
    context = chromium.new_context()
    page, sizes = context.new_page(), list[int]()

    def add(response: Any) -> None:
        if "/api/picture" not in response.url:
            sizes.append(len(response.body()))

    page.on("response", add)
    page.goto(address + "/?words=effusion", timeout=SECONDS)
    context.close()
    assert 10_000 < sum(sizes) < 500_000


def test_hostile_texts_do_not_run(chromium: Any, tmp_path: Path) -> None:
    with serve(make_hostile(tmp_path) / "index") as address:
        context = chromium.new_context()
        made = Watched(context.new_page(), address)
        made.open("/?case=c1")
        made.page.click(".tick:has-text('script')")
        made.page.wait_for_selector(".chips")
        assert "<script>" in made.page.inner_text(".chips")
        made.page.click(".patient a")
        context.close()
        assert made.said == []
        assert made.elsewhere == []


def test_an_open_page_goes_on_when_the_index_is_built_again(chromium: Any, tmp_path: Path) -> None:
    with serve(make_hostile(tmp_path, 12, 0) / "index") as address:
        context = chromium.new_context()
        one, two = (Watched(context.new_page(), address) for _ in range(2))
        one.open("/")
        two.open("/?case=c1")
        make_hostile(tmp_path, 24, 1)
        for each in (one, two):
            each.page.check("input[name=view][value=PA]")
            each.page.wait_for_selector(".count:has-text('of 8 cases')")
        context.close()


@pytest.mark.soak
def test_sigterm_finishes_what_is_on_its_way(folder: Path) -> None:
    words = ["serve", str(folder / "index"), "--manifest", str(folder / "cases" / "manifest.csv"), "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    with subprocess.Popen(
        [sys.executable, "-m", "cxr_embed", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline().decode() for _ in range(3)]
        address = lines[1].strip()
        body = (folder / "cases" / first(folder)["path"]).read_bytes()
        with socket.create_connection(("127.0.0.1", int(address.rstrip("/").rpartition(":")[2]))) as slow:
            host = address.removeprefix("http://").rstrip("/")
            slow.sendall(f"POST /api/upload HTTP/1.1\r\nhost: {host}\r\ncontent-length: {len(body)}\r\n\r\n".encode())
            slow.sendall(body[:10])
            urllib.request.urlopen(address + "api/index").read()  # by now the other one is being read
            process.send_signal(signal.SIGTERM)
            slow.sendall(body[10:])
            assert slow.recv(1 << 16).startswith(b"HTTP/1.1 201")
        _, err = process.communicate()
    assert process.returncode == 0, err
    assert b"Traceback" not in err
