"""The report's page on a telephone and on paper: AUROC is seen first, and no page is nearly empty."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_report import Folder, read

from cxr_embed.reporting import write_report

EIGHT = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Enlarged_Cardiomediastinum",
    "Pleural_Thickening", "Pneumothorax",
)  # fmt: skip
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "chrome-headless-shell")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight findings, two score files, thresholds, probabilities and three kinds of groups."""
    folder = Folder(tmp_path_factory.mktemp("page"), EIGHT)
    scores = (folder.scores, folder.score("second", 0.3))
    store = folder.store()
    made = folder.report(
        scores=scores, stores=(store,), thresholds_split="val", prevalence=0.1, calibrate="platt",
        by=("sex", "age", "view"), bootstraps=20,
    )  # fmt: skip
    return write_report(folder.root / "report.html", made)[0]


def test_figures_come_before_what_they_were_counted_on(page: Path) -> None:
    tables = read(page).tables
    assert tables["first: ranking"][0][:3] == ["finding", "AUROC", "95% interval"]
    assert tables["first: AUROC by sex, compared with F"][0][2] == "AUROC"
    assert tables["first: probabilities"][0][1] == "Brier score"
    assert tables["AUROC of first minus second"][0][1:5] == ["first", "second", "difference", "95% interval"]
    assert tables["Probes of view, sex and site"][0][3] == "AUROC"
    for caption, (head, *rows) in tables.items():
        if caption != "Positives of each finding":  # it has heads above its heads
            assert all(len(row) == len(head) for row in rows), caption
    text = page.read_text(encoding="utf-8")
    ranking = text[text.index('<section id="ranking">') :]
    assert ranking.index("<table") < ranking.index("<figure")


def test_long_names_may_be_broken_after_an_underscore_only(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert '<th scope="row">Enlarged_<wbr>Cardiomediastinum</th>' in text
    assert "overflow-wrap" not in re.search(r"tbody th {[^}]*}", text)[0]  # type: ignore[index]


def test_the_rules_for_small_screens_and_for_paper(page: Path) -> None:
    style = page.read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    small, _, paper = style.partition("@media (max-width: 40rem)")[2].partition("@media print")
    assert "table { min-width: 0; }" in small
    assert "position: sticky" in small
    # A page is 264 mm high inside its margins: a figure and its section's head have room on one.
    height = re.search(r"figure svg { max-height: (\d+)mm; }", paper)
    assert height is not None
    assert int(height[1]) <= 200
    # Whatever may be longer than a page is allowed to break.
    assert "table:not(.long, .facts) { break-inside: avoid; }" in paper
    for table in re.findall(r"<table.*?</table>", page.read_text(encoding="utf-8"), re.DOTALL):
        assert table.count("<tr") <= 14 or 'class="long"' in table or 'class="facts"' in table


def browser(*arguments: str, folder: Path) -> bytes:
    """What a headless browser prints; the test is skipped where there is none."""
    found = os.environ.get("CXR_EMBED_BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("no Chromium here; CXR_EMBED_BROWSER names one")
    words = [found, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}", *arguments]
    return subprocess.run(words, capture_output=True, check=True, timeout=120).stdout


def test_auroc_is_seen_at_390_pixels(page: Path, tmp_path: Path) -> None:
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    measure = """<script>
    const right = e => Math.ceil(e.getBoundingClientRect().right);
    const cells = [...document.querySelectorAll("#ranking table")].flatMap(t =>
        [...t.rows].flatMap(r => [r.cells[0], r.cells[1], r.cells[2]]));
    document.title = [innerWidth, document.documentElement.scrollWidth, Math.max(...cells.map(right))].join(" ");
    </script></body>"""
    (tmp_path / "p.html").write_text(text.replace("</body>", measure), encoding="utf-8")
    told = browser("--window-size=390,844", "--dump-dom", (tmp_path / "p.html").as_uri(), folder=tmp_path).decode()
    title = re.search(r"<title>(\d+) (\d+) (\d+)</title>", told)
    assert title is not None
    width, needed, right = map(int, title.groups())
    if width != 390:
        pytest.skip(f"this browser's smallest window has {width} pixels; CXR_EMBED_BROWSER names a headless shell")
    assert needed <= 390
    assert right <= 390


def test_eight_findings_are_printed_on_less_than_15_pages(page: Path, tmp_path: Path) -> None:
    pdf = tmp_path / "r.pdf"
    browser("--no-pdf-header-footer", f"--print-to-pdf={pdf}", page.as_uri(), folder=tmp_path)
    assert 1 < len(re.findall(rb"/Type\s*/Page\b(?!s)", pdf.read_bytes())) < 15
