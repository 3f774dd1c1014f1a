"""The Screen page in a real browser: the slider by mouse and keys, wrong cases first, export, marks, hostile names."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from serve_world import HOSTILE, make_phantoms, serve
from test_serve_browser import CONTRAST, SECONDS, Watched, chromium  # noqa: F401  (a fixture)
from test_serve_screen import make_hostile_screen

from cxr_embed import train_probe
from cxr_embed.marks import file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = make_phantoms(tmp_path_factory.mktemp("screened"), 60)
    train_probe(made / "store", made / "cases" / "manifest.csv", findings=["Effusion"]).save(made / "probe")
    return made


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file, "_FLUSH", "OFF")
        options = {"manifest": folder / "cases" / "manifest.csv", "store": folder / "store", "probe": folder / "probe"}
        with serve(folder / "index", **options, prompts="phantom8") as made:
            yield made


NODULE = "/screen?finding=Nodule&by=prompts&threshold=flag-rate%3D0.2"


def opened(chromium: Any, address: str, path: str, **options: Any) -> tuple[Any, Watched]:  # noqa: F811
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, **options)
    made = Watched(context.new_page(), address)
    made.open(path)
    made.page.wait_for_function("() => document.getElementById('auroc').textContent.includes(' to ')", timeout=SECONDS)
    return context, made


def flagged(page: Any) -> int:
    return int(page.inner_text("[data-figure=flagged]"))


def test_the_slider_by_keys_alone(chromium: Any, address: str) -> None:  # noqa: F811
    context, made = opened(chromium, address, NODULE)
    page, whole = made.page, list[str]()
    page.on("request", lambda sent: whole.append(sent.resource_type) if "/screen?" in sent.url else None)
    before, interval = flagged(page), page.inner_text("[data-interval=sensitivity]")
    assert before == 12
    page.focus("#slider")
    for _ in range(6):
        page.keyboard.press("ArrowLeft")
    assert flagged(page) == 18
    assert "18 flagged" in page.get_attribute("#slider", "aria-valuetext")
    threshold = page.input_value("#threshold")
    page.wait_for_function("old => document.location.search.includes(`threshold=${old}`)", arg=threshold)
    page.wait_for_function(
        "old => ![old, ''].includes(document.querySelector('[data-interval=sensitivity]').textContent)", arg=interval
    )
    assert "document" not in whole
    page.keyboard.press("End")
    assert flagged(page) == 0
    page.keyboard.press("Home")
    assert flagged(page) == 60
    page.wait_for_function("() => document.querySelector('[data-figure=sensitivity]').textContent === '1.000'")
    page.wait_for_function("() => document.querySelectorAll('[data-verdict=missed]').length === 0")
    assert page.get_attribute("#roc .dot", "cx") == "100"
    page.reload(timeout=SECONDS)  # the address has it
    page.wait_for_selector("#slider:not([disabled])")
    assert flagged(page) == 60
    assert page.evaluate("document.getElementById('slider').value") == "0"
    assert made.said == made.elsewhere == []
    context.close()


def test_a_threshold_that_is_typed_and_a_prevalence(chromium: Any, address: str) -> None:  # noqa: F811
    context, made = opened(chromium, address, NODULE)
    page = made.page
    page.fill("#prevalence", "0.01")
    page.keyboard.press("Tab")
    page.wait_for_selector("[data-interval=ppv]:visible")
    page.wait_for_function("() => / to /.test(document.querySelector('[data-interval=missed_per_1000]').textContent)")
    missed = float(page.inner_text("[data-figure=missed_per_1000]"))
    sensitivity = float(page.inner_text("[data-figure=sensitivity]"))
    assert missed == pytest.approx(10 * (1 - sensitivity), abs=0.06)
    page.fill("#threshold", "-100")
    page.keyboard.press("Tab")
    page.wait_for_function("() => document.querySelector('[data-figure=flagged]').textContent === '60'")
    page.wait_for_function("() => document.location.search.includes('prevalence=0.01')")
    page.click(".rules a:has-text('youden')")
    page.wait_for_selector("#rule:has-text('Youden')")
    assert page.input_value("#prevalence") == "0.01"
    page.fill("#threshold", "flag-rate=0.5")
    page.keyboard.press("Enter")
    page.wait_for_selector("#rule:has-text('50%')")
    page.fill("#threshold", "often")
    page.keyboard.press("Enter")
    page.wait_for_selector(".fault:has-text('Threshold is youden')")
    assert [line for line in made.said if "400" not in line] == made.elsewhere == []
    context.close()


def test_wrong_cases_first_and_the_list_as_a_table(chromium: Any, address: str, tmp_path: Path) -> None:  # noqa: F811
    context, made = opened(chromium, address, NODULE)
    page = made.page
    verdicts = page.eval_on_selector_all(".card", "cards => cards.map(card => card.dataset.verdict)")
    wrong = [each for each in verdicts if each in ("missed", "false alarm")]
    assert wrong
    assert verdicts[: len(wrong)] == wrong == sorted(wrong, key=["missed", "false alarm"].index)
    page.click(".which:text-is('false alarms')")
    page.wait_for_selector("[aria-current]:text-is('false alarms')")
    shown = page.eval_on_selector_all(".card", "cards => cards.map(card => card.dataset.case)")
    with page.expect_download() as download:
        page.click("a[download]")
    download.value.save_as(tmp_path / "cases.csv")
    with open(tmp_path / "cases.csv", newline="") as opened_file:
        rows = list(csv.DictReader(opened_file))
    assert [row["image_id"] for row in rows] == shown
    assert {row["verdict"] for row in rows} == {"false alarm"}
    page.click(".which:text-is('all')")
    page.click("a[rel=next]")
    page.wait_for_selector(".turn:has-text('2 of 3')")
    assert parse_qs(urlsplit(page.url).query)["page"] == ["2"]
    assert made.said == made.elsewhere == []
    context.close()


def test_cards_by_keys_and_marks_of_this_finding(chromium: Any, address: str) -> None:  # noqa: F811
    context, made = opened(chromium, address, NODULE)
    page = made.page
    assert page.input_value("#mark-finding") == "Nodule"
    page.focus(".card:nth-child(1) a.picture")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("y")
    page.wait_for_selector(".card:nth-child(2) .marks li.yes:has-text('Nodule')")
    page.keyboard.press("Enter")
    page.wait_for_selector("#large[open]")
    assert "&for=prompt%3ANodule" in str(page.get_attribute("#large a.explain", "href"))
    page.keyboard.press("Escape")
    page.focus("#slider")
    page.keyboard.press("ArrowLeft")  # the list comes anew, and marks work in it
    page.wait_for_function(
        "() => document.location.search.includes('threshold=0') || document.location.search.includes('threshold=-')"
    )
    page.wait_for_selector("#results:not(.waiting)")
    page.focus(".card:nth-child(1) a.picture")
    page.keyboard.press("z")
    page.wait_for_selector(".marks li.yes", state="detached")
    assert made.said == made.elsewhere == []
    context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_can_be_read_and_fits(chromium: Any, address: str, scheme: str) -> None:  # noqa: F811
    for width in (1280, 390):
        context = chromium.new_context(viewport={"width": width, "height": 800}, color_scheme=scheme)
        made = Watched(context.new_page(), address)
        for path in (NODULE, "/screen?by=probe&prevalence=0.02", "/screen?threshold=often"):
            made.open(path)
            assert made.page.evaluate(CONTRAST) == [], (path, scheme)
            assert made.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, width)
        unnamed = "input:not([type=hidden]):not([aria-label])"
        names = made.page.eval_on_selector_all(unnamed, "found => found.filter(each => !each.labels.length).length")
        assert names == 0
        context.close()


def test_hostile_names_do_not_run(chromium: Any, tmp_path: Path) -> None:  # noqa: F811
    made_at = make_hostile_screen(tmp_path)
    with serve(made_at / "index", store=made_at / "store", probe=made_at / "probe") as address:
        context, made = opened(chromium, address, "/screen")
        assert f"Effusion{HOSTILE}" in made.page.inner_text(".panel h2")
        made.page.focus("#slider")
        made.page.keyboard.press("ArrowLeft")
        made.page.wait_for_function("() => document.location.search.includes('threshold=0')")
        made.page.fill("#ask [name=where]", f"site = '{HOSTILE}'")
        made.page.click("#ask button")
        made.page.wait_for_selector(".count:has-text('20 of 20')")
        assert made.said == made.elsewhere == []
        context.close()
