"""Marks in a real browser: by mouse and by keys, undone, and the same in a second tab."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serve_world import HOSTILE, make_hostile, serve
from test_serve_browser import CONTRAST, Watched, chromium  # noqa: F401  (a fixture)

from cxr_embed.marks import file, marks_path


@pytest.fixture(scope="module")
def marked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "_FLUSH", "OFF")
        folder = make_hostile(tmp_path_factory.mktemp("marked"))
        with serve(folder / "index") as address:
            yield folder, address


def tab(context: Any, address: str) -> Watched:
    made = Watched(context.new_page(), address)
    made.open("/")
    return made


def test_marks_by_keys_and_clicks_in_two_tabs(chromium: Any, marked: tuple[Path, str]) -> None:  # noqa: F811
    folder, address = marked
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    one, two = tab(context, address), tab(context, address)
    keys = one.page.keyboard
    one.page.fill("#mark-finding", "Effusion")
    one.page.focus(".card:nth-child(2) a.picture")
    keys.press("y")
    one.page.wait_for_selector(".card:nth-child(2) .marks li.yes")
    keys.press("u")  # the picture has the focus still
    one.page.wait_for_selector(".card:nth-child(2) .marks li.unsure")
    keys.press("z")
    one.page.wait_for_selector(".card:nth-child(2) .marks li.yes")
    keys.press("Shift+Z")
    one.page.wait_for_selector(".card:nth-child(2) .marks li.unsure")
    two.page.fill("#mark-list", HOSTILE)
    two.page.click(".card:nth-child(2) .set button:has-text('list')")
    two.page.wait_for_selector(".card:nth-child(2) .marks li.unsure")  # the other tab's mark came along
    assert HOSTILE in two.page.inner_text(".card:nth-child(2) .marks")
    keys.press("t")
    one.page.wait_for_selector("#note[open]")
    keys.type("small, as in n, m and y")  # letters of a note are no keys
    one.page.click("#note button.main")
    one.page.wait_for_selector(".card:nth-child(2) .noted:has-text('small, as in n, m and y')")
    one.page.click(".card:nth-child(2) li.unsure button")
    one.page.wait_for_selector(".card:nth-child(2) li.unsure", state="detached")
    one.page.click("#marked-last button:has-text('Undo')")
    one.page.wait_for_selector(".card:nth-child(2) li.unsure")
    one.page.fill("#mark-finding", "path")
    one.page.click(".card:nth-child(1) .set button:has-text('yes')")
    one.page.wait_for_selector("#mark-say:has-text('means something else')")
    assert [line for line in one.said if "400" not in line] == two.said == []
    assert one.elsewhere == two.elsewhere == []
    assert one.page.evaluate("[localStorage.length, sessionStorage.length, document.cookie].join()") == "0,0,"
    context.close()
    assert marks_path(folder / "index").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_of_marks_can_be_read_and_fits(chromium: Any, marked: tuple[Path, str], scheme: str) -> None:  # noqa: F811
    for width in (1280, 390):
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        made = tab(context, marked[1])
        if not made.page.query_selector(".marks li"):
            made.page.fill("#mark-finding", "Effusion")
            for number, label in enumerate(("yes", "no", "unsure"), start=1):
                made.page.click(f".card:nth-child({number}) .set button:text-is('{label}')")
                made.page.wait_for_selector(f".card:nth-child({number}) li.{label}")
        for address in ("/", "/marks", "/marks?finding=Effusion"):
            made.open(address)
            assert made.page.evaluate(CONTRAST) == [], (address, scheme)
            assert made.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (address, width)
        before = made.page.inner_text(".count")
        made.page.click(".card .marks li button")
        # The page is loaded anew: there is a moment without a count.
        count = "document.querySelector('.count')?.innerText"
        made.page.wait_for_function(f"before => ![undefined, before].includes({count})", arg=before)
        made.page.wait_for_load_state("load")
        made.page.keyboard.press("z")
        made.page.wait_for_function(f"before => {count} === before", arg=before)
        assert made.said == made.elsewhere == []
        context.close()
