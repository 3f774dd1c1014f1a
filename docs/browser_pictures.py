"""The pictures of docs/browser.md, anew: `python docs/browser_pictures.py` (needs Chromium and the extra dev).

Phantoms are drawn, embedded and served; each page is photographed as a reader sees it. Look at them afterwards.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

CHROMIUM = "/usr/bin/chromium"
IMAGES = Path(__file__).with_name("images")
WIDE, PHONE = (1280, 860), (390, 860)
GAP = 16
SEARCH = "/?case=phantom-0-0&words=large+pleural+effusion&view=PA"
COMPARE = "/compare?id=phantom-0-0&id=phantom-0-1"
SCREEN = "/screen?finding=Nodule&by=probe&threshold=youden&prevalence=0.02"
MAP = "/map?by=column&name=view"
EXPLAIN = "/explain?case=phantom-10-0&for=probe:Effusion"
ALIKE = "/explain?case=phantom-10-0&for=like:phantom-10-1"


def run(*words: str) -> None:
    """A command of ours."""
    subprocess.run([sys.executable, "-m", "cxr_embed", *words], check=True, stdout=subprocess.DEVNULL)


def made(folder: Path) -> list[str]:
    """The words that serve what is made in the folder."""
    cases, store, index, probe = (str(folder / name) for name in ("cases", "store", "index", "probe"))
    manifest = f"{cases}/manifest.csv"
    run("phantom", cases, "--count", "300", "--size", "512", "--format", "dicom")
    run("embed", manifest, "--store", store)
    run("index", "build", store, "--manifest", manifest, "--output", "contrastive", "--out", index)
    run("probe", "train", store, manifest, "--out", probe)
    return ["serve", index, "--manifest", manifest, "--store", store, "--probe", probe, "--prompts", "phantom8"]


def lasso(page: Any) -> None:
    """Chooses some points of the map, and points at one of them."""
    page.wait_for_function("() => document.getElementById('state').textContent === ''")
    box = page.locator("#plane").bounding_box()
    across, down = box["width"], box["height"]
    page.keyboard.down("Shift")
    for number, (x, y) in enumerate([(0.3, 0.25), (0.7, 0.25), (0.7, 0.6), (0.3, 0.6), (0.3, 0.25)]):
        page.mouse.move(box["x"] + x * across, box["y"] + y * down, steps=6)
        if number == 0:
            page.mouse.down()
    page.mouse.up()
    page.keyboard.up("Shift")
    page.locator("#cards .card").first.wait_for()
    page.focus("#plane")
    page.keyboard.press("Shift+ArrowRight")
    page.locator("#tip:not([hidden]) img:not([hidden])").wait_for()


def shot(browser: Any, address: str, size: tuple[int, int], scheme: str, act: Any = None) -> Image.Image:
    """A page as it is seen in a window of a size."""
    page = browser.new_page(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page.goto(address)
    page.wait_for_load_state("networkidle")
    if act is not None:
        act(page)
        page.wait_for_load_state("networkidle")
    taken = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    page.close()
    return taken


def beside(*pictures: Image.Image) -> Image.Image:
    """Pictures of one height from left to right, with grey between them."""
    width = sum(each.width for each in pictures) + GAP * (len(pictures) - 1)
    whole, left = Image.new("RGB", (width, pictures[0].height), "#8a8f94"), 0
    for each in pictures:
        whole.paste(each, (left, 0))
        left += each.width + GAP
    return whole


def to_results(page: Any) -> None:
    """Past the form."""
    page.evaluate("() => document.querySelector('.side').nextElementSibling.scrollIntoView()")


def main() -> None:
    """Makes them all."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        words = [sys.executable, "-m", "cxr_embed", *made(Path(folder)), "--port", "0"]
        server = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            assert server.stdout is not None
            root = next(line for line in server.stdout if line.startswith("http")).strip().rstrip("/")
            pictures = {
                f"browser-{scheme}": beside(
                    shot(browser, root + SEARCH, WIDE, scheme), shot(browser, root + SEARCH, PHONE, scheme, to_results)
                )
                for scheme in ("light", "dark")
            }
            pictures["compare"] = shot(browser, root + COMPARE, WIDE, "dark")
            pictures["screen"] = shot(browser, root + SCREEN, WIDE, "light")
            pictures["map"] = shot(browser, root + MAP, WIDE, "light", lasso)
            pictures["explain"] = beside(
                shot(browser, root + EXPLAIN, WIDE, "light"), shot(browser, root + ALIKE, PHONE, "dark", to_results)
            )
        finally:
            browser.close()
            server.terminate()
            server.wait()
    for name, picture in pictures.items():
        picture.save(IMAGES / f"{name}.jpg", quality=72, optimize=True)
        print(f"{name}.jpg: {picture.width} x {picture.height}, {(IMAGES / f'{name}.jpg').stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
