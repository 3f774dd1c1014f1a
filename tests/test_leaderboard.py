"""The leaderboard's page and tables: who is marked, what is escaped, what is missing, and what a reader cannot miss."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_report_page import browser

from cxr_embed.reporting import ReportError
from cxr_embed.reporting.leaderboard import COLUMNS, write_leaderboard
from cxr_embed.reporting.leaderboard.forest import scale_of
from cxr_embed.reporting.leaderboard.records import MEAN, Row, rows_of
from cxr_embed.reporting.leaderboard.verdicts import verdicts

HOSTILE = "<script>alert('x')</script>|\"&$%_^~\\ `a` *b* [c](javascript:d) {e} =1+1"
_NUMBERS = (
    "shots", "value", "low", "high", "n", "positives", "patients", "difference", "difference_low", "difference_high",
    "p", "p_holm",
)  # fmt: skip


def made(**values: Any) -> dict[str, Any]:
    """A row of results; what is not said is blank."""
    row: dict[str, Any] = {name: None if name in _NUMBERS else "" for name in COLUMNS}
    given = {"data": "NIH", "task": "probe", "figure": "auroc", "finding": MEAN, "status": "done", **values}
    if given.get("value") is not None and "low" not in given:
        given |= {"low": given["value"] - 0.03, "high": given["value"] + 0.02}
    return {**row, **given}


def compared(encoder: str, value: float, apart: float | None, p: float | None, **more: Any) -> dict[str, Any]:
    """A row that is compared with `base`."""
    ends = {} if apart is None else {"difference_low": apart - 0.02, "difference_high": apart + 0.02}
    return made(encoder=encoder, value=value, reference="base", difference=apart, p=p, p_holm=p, **ends, **more)


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.table({name: [row[name] for row in rows] for name in COLUMNS})


def records(*rows: dict[str, Any]) -> list[Row]:
    return rows_of(table_of(list(rows)))


BASE = made(encoder="base", value=0.7, reference="base")


class Page(HTMLParser):
    """Tables by their caption, as rows of text; and every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._rows: list[list[str]] = []
        self._into: list[str] | None = None
        self._caption = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th", "caption"):
            self._into = []

    def handle_data(self, data: str) -> None:
        if self._into is not None:
            self._into.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._rows[-1].append(" ".join("".join(self._into or ()).split()))
        elif tag == "caption":
            self._caption = "".join(self._into or ())
        elif tag == "table":
            self.tables.setdefault(self._caption, self._rows)
        if tag in ("td", "th", "caption"):
            self._into = None


def written(
    folder: Path, rows: list[dict[str, Any]], about: dict[str, Any] | None = None
) -> tuple[Page, dict[str, str]]:
    """The page, and all files as text by suffix."""
    files = write_leaderboard(table_of(rows), about or {}, folder)
    assert [path.name for path in files] == [f"leaderboard.{suffix}" for suffix in ("html", "md", "tex", "csv")]
    texts = {path.suffix[1:]: path.read_text(encoding="utf-8") for path in files}
    return Page(texts["html"]), texts


# Who is best


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # Above the reference, and nobody else is.
        ((BASE, compared("a", 0.8, 0.1, 0.01)), {"base": "reference", "a": "best"}),
        # Two above: no test between them.
        (
            (BASE, compared("a", 0.8, 0.1, 0.01), compared("b", 0.79, 0.09, 0.01)),
            {"base": "reference", "a": "above", "b": "above"},
        ),
        # One above, one not clearly different from the reference: undecided between these two.
        (
            (BASE, compared("a", 0.8, 0.1, 0.01), compared("b", 0.72, 0.02, 0.4)),
            {"base": "reference", "a": "above", "b": "same"},
        ),
        # Above > reference > below decides it.
        (
            (BASE, compared("a", 0.8, 0.1, 0.01), compared("b", 0.6, -0.1, 0.01)),
            {"base": "reference", "a": "best", "b": "below"},
        ),
        # The reference is best where all others are below it.
        ((BASE, compared("a", 0.6, -0.1, 0.049)), {"base": "best", "a": "below"}),
        ((BASE, compared("a", 0.6, -0.1, 0.05)), {"base": "reference", "a": "same"}),
        # The highest figure alone is nothing; nor is p without a difference.
        ((BASE, compared("a", 0.9, 0.2, None)), {"base": "reference", "a": ""}),
        ((BASE, compared("a", 0.9, None, 0.01)), {"base": "reference", "a": ""}),
        # The reference's own row need not name it.
        ((made(encoder="base", value=0.7), compared("a", 0.6, -0.1, 0.01)), {"base": "best", "a": "below"}),
        # A difference from nobody is none.
        ((made(encoder="base", value=0.7), {**compared("a", 0.8, 0.1, 0.01), "reference": ""}), {"base": "", "a": ""}),
        # One encoder, and none that is compared.
        ((BASE,), {"base": "reference"}),
        ((made(encoder="a", value=0.9), made(encoder="b", value=0.1)), {"a": "", "b": ""}),
        # Failed, or without a figure.
        (
            (BASE, made(encoder="a", status="failed", reason="x"), compared("b", 0.8, 0.1, 0.01)),
            {"base": "reference", "a": "", "b": "best"},
        ),
        ((BASE, compared("a", float("nan"), 0.1, 0.01)), {"base": "reference", "a": ""}),
        # Who learned from the data is not best, and keeps nobody from it.
        (
            (BASE, compared("a", 0.9, 0.2, 0.01, saw_data="learned from it"), compared("b", 0.8, 0.1, 0.01)),
            {"base": "reference", "a": "above", "b": "best"},
        ),
        (
            (BASE, compared("a", 0.9, 0.2, 0.01, stand_in="random numbers")),
            {"base": "reference", "a": "above"},
        ),
    ],
)
def test_best_is_who_paired_tests_say(rows: tuple[dict[str, Any], ...], expected: dict[str, str]) -> None:
    assert verdicts(records(*rows)) == expected
    assert verdicts(records(*reversed(rows))) == expected


def test_shortcuts_and_speed_are_never_ranked(tmp_path: Path) -> None:
    for task, figure in (("shortcuts", "auroc"), ("speed", "images_per_second"), ("new task", "auroc")):
        rows = [{**BASE, "task": task, "figure": figure}, compared("a", 0.99, 0.2, 0.001, task=task, figure=figure)]
        assert set(verdicts(records(*rows)).values()) == {""}
        page, texts = written(tmp_path / task, rows)
        assert "best" not in " ".join(itertools.chain(*page.tables["At a glance"]))
        assert ">best<" not in texts["html"]
        assert "textbf" not in texts["tex"]


@settings(deadline=None, max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([-0.1, 0.0, 0.1, None]), st.sampled_from([0.001, 0.5, None]), st.booleans(), st.booleans()
        ),
        max_size=6,
    )
)
def test_at_most_one_is_best_and_tests_bear_it_out(others: list[tuple[float | None, float | None, bool, bool]]) -> None:
    rows = [BASE]
    for number, (apart, p, saw, stands) in enumerate(others):
        marks = {"saw_data": "yes" if saw else "", "stand_in": "yes" if stands else ""}
        rows.append(compared(f"e{number}", 0.7 + (apart or 0), apart, p, **marks))
    found = verdicts(records(*rows))
    best = [name for name, mark in found.items() if mark == "best"]
    assert len(best) <= 1
    clear = {
        f"e{n}": (apart > 0) - (apart < 0)
        for n, (apart, p, saw, stands) in enumerate(others)
        if apart is not None and p == 0.001 and not saw and not stands
    }
    fair = {f"e{n}" for n, (_, _, saw, stands) in enumerate(others) if not saw and not stands}
    expected = None
    ups = [name for name, way in clear.items() if way > 0]
    if len(ups) == 1 and all(clear.get(name) == -1 for name in fair - set(ups)):
        expected = ups[0]
    elif not ups and fair and all(clear.get(name) == -1 for name in fair):
        expected = "base"
    assert best == ([expected] if expected else [])


# The page


def several(findings: tuple[str, ...] = ("Mass", "Edema")) -> list[dict[str, Any]]:
    """Three encoders, two data sets, all tasks, with gaps."""
    rows = []
    for data in ("NIH", "phantoms"):
        for number, name in enumerate(("base", "good", "mini")):
            marks = {"saw_data": "learned from these images", "stand_in": "mini stands in"} if name == "mini" else {}
            own: dict[str, Any] = {"data": data, "encoder": name, "report": f"cells/{data}/{name}/report.html", **marks}
            level = 0.6 + 0.1 * number
            tested = (
                {"reference": "base", "difference": 0.1 * number, "p_holm": 0.001} if number else {"reference": "base"}
            )
            tested |= {"difference_low": 0.02, "difference_high": 0.3} if number else {}
            for task, sizes in (("probe", (None,)), ("curve", (4, 64)), ("prompts", (None,)), ("neighbours", (None,))):
                if task == "prompts" and name == "base":
                    rows.append(
                        made(**own, task=task, finding="", figure="", status="not applicable", reason="no words")
                    )
                    continue
                if task == "neighbours" and name == "good":
                    rows.append(made(**own, task=task, finding="", figure="", status="failed", reason="disk <full>"))
                    continue
                figure = "precision@10" if task == "neighbours" else "auroc"
                for size, finding in itertools.product(sizes, (*findings, MEAN)):
                    counts = {"n": 352, "patients": 287, "positives": None if finding == MEAN else 40}
                    rows.append(
                        made(
                            **own,
                            **tested,
                            **counts,
                            task=task,
                            finding=finding,
                            shots=size,
                            figure=figure,
                            value=level,
                        )
                    )
            for kind, value in (("sex M", level + 0.05), ("view PA", 0.1)):
                rows.append(made(**own, task="shortcuts", finding=kind, value=value, n=352, positives=100))
            rows.append(
                made(**own, task="speed", finding="", figure="images_per_second", value=31.4, output="cpu: X", n=64)
            )
            rows[-1] |= {"low": None, "high": None}
    return rows


ABOUT = {
    "title": "A benchmark",
    "created": "2026-11-29T15:10:09+00:00",
    "software": "0.3",
    "protocol": ["Patients of the test part are in no other part."],
    "warnings": ["All is made up."],
    "data": {"NIH": {"about": "352 images.", "recipe": "nih-chestxray14", "split": "test"}},
}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, dict[str, str]]:
    return written(tmp_path_factory.mktemp("board"), several(), ABOUT)


def test_the_page_asks_no_host_for_anything(page: tuple[Page, dict[str, str]]) -> None:
    found, texts = page
    assert not re.search(r"https?:|url\(|@import|//[a-z]+\.", texts["html"])
    assert not {tag for tag, _ in found.tags} & {"img", "link", "iframe", "object", "base", "form", "use", "image"}
    links = [values["href"] or "" for tag, values in found.tags if "href" in values]
    assert all(link.startswith(("#", "cells/", "leaderboard.")) for link in links)
    assert all("src" not in values for _, values in found.tags)


def test_nothing_runs_but_its_own_script(page: tuple[Page, dict[str, str]]) -> None:
    found, texts = page
    (script,) = re.findall(r"<script>(.*?)</script>", texts["html"], re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = next(v["content"] for tag, v in found.tags if tag == "meta" and v.get("http-equiv"))
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert not [name for _, values in found.tags for name in values if name.startswith("on")]


def test_what_a_reader_cannot_miss(page: tuple[Page, dict[str, str]]) -> None:
    _, texts = page
    for text in (texts["html"], texts["md"]):
        assert "For research; not a medical device." in text
        top = text[: text.index("At a glance")]
        for words in (
            "All is made up.", "mini stands in", "mini on NIH: learned from these images. Its figures there may be",
            "2 cells failed", "Patients of the test part", "A benchmark",
        ):  # fmt: skip
            assert words in top, words
    assert "2026-11-29 15:10 UTC · cxr-embed 0.3" in texts["html"]


def test_the_table_at_a_glance(page: tuple[Page, dict[str, str]]) -> None:
    found, _ = page
    above, heads, *rows = found.tables["At a glance"]
    assert above == ["", "Full probe", "Few labels", "Prompts", "Neighbours", "Shortcuts", "Speed"]
    assert heads == [
        "encoder", "AUROC", "AUROC, 4 labelled", "AUROC, 64 labelled", "AUROC", "precision at 10", "leaks most, AUROC",
        "cpu",
    ]  # fmt: skip
    # Sorted by the first task; badges beside the name; why a figure is missing where it would stand.
    assert [row[0] for row in rows] == ["mini saw this data stand-in", "good", "base"]
    assert [row[1] for row in rows] == [
        "0.800 ▲ 0.770 to 0.820",
        "0.700 best 0.670 to 0.720",
        "0.600 ref. 0.570 to 0.620",
    ]
    assert [row[4] for row in rows] == ["0.800 ▲ 0.770 to 0.820", "0.700 ▲ 0.670 to 0.720", "n/a"]
    assert rows[1][5] == "failed"
    # 0.1 is told as well as 0.9, and better than 0.65.
    assert rows[2][6] == "0.100 view PA, 0.070 to 0.120"
    assert rows[2][7] == "31.4"


def test_means_tests_and_links(page: tuple[Page, dict[str, str]]) -> None:
    found, texts = page
    heads, *rows = found.tables["Means over findings"]
    assert heads == ["encoder", "AUROC", "minus base", "p, Holm", "findings", "cases", "patients", "report"]
    assert rows[1] == [
        "good", "0.700 best 0.670 to 0.720", "+0.100 +0.020 to +0.300", "0.001", "2", "352", "287", "report",
    ]  # fmt: skip
    assert 'href="cells/NIH/good/report.html"' in texts["html"]
    assert found.tables["Not there, and why"] == [
        ["encoder", "task", "what", "why"],
        ["base", "Prompts", "not applicable", "no words"],
        ["good", "Neighbours", "failed", "disk <full>"],
    ]
    each = found.tables["Each finding: AUROC"]
    assert each[0] == ["finding", "base", "good", "mini", "positive"]
    assert each[1][:3] == ["Mass", "0.600 ref. 0.570 to 0.620", "0.700 best 0.670 to 0.720"]


def test_a_forest_plot_for_each_data_set_and_task(page: tuple[Page, dict[str, str]]) -> None:
    _, texts = page
    plots = re.findall(r'<figure class="forest".*?</figure>', texts["html"], re.DOTALL)
    assert len(plots) == 2 * 5
    probe = plots[0]
    names = re.findall(r"<bdi>(.*?)</bdi>", probe)
    assert names == ["base", "good", "mini", "Mass", "Edema"]
    assert probe.count('class="interval"') == 3 + 2 * 3
    assert probe.count("<title>good: 0.700 (0.670 to 0.720)</title>") == 3
    for place in re.findall(r'(?:x|x1|x2)="(-?[\d.]+)%"', texts["html"]):
        assert 0 <= float(place) <= 100


def test_published_figures_stand_beside_those_of_the_same_data_set_only(page: tuple[Page, dict[str, str]]) -> None:
    found, texts = page
    heads, *rows = found.tables["AUROC, ours and published"]
    assert heads[1:4] == ["base, full probe", "good, full probe", "mini, full probe"]
    assert "CheXNet (paper)" in heads
    assert [row[0] for row in rows] == ["Mass", "Edema", "mean of 2 of 2"]
    tests = {row[0]: row for row in found.tables["What each was tested on"]}
    assert tests["good, full probe"][2:] == ["your labels, split test", "352", "287"]
    assert tests["reproduce-chexnet"][3:] == ["22,433", "6,187"]
    assert texts["html"].count("AUROC, ours and published") == 1, "phantoms have no published figures"


def test_published_figures_need_a_known_data_set(tmp_path: Path) -> None:
    for about in ({}, {"data": {"NIH": {"recipe": "our-hospital"}}}, {**ABOUT, "published": False}):
        page, _ = written(tmp_path, several(), about)
        assert "AUROC, ours and published" not in page.tables


def test_markdown_and_latex_say_the_same(page: tuple[Page, dict[str, str]]) -> None:
    _, texts = page
    assert "| good | 0.700 (0.670 to 0.720) best |" in texts["md"]
    assert "mini \\[saw this data, stand-in\\]" in texts["md"]
    assert "disk \\<full\\>" in texts["md"]
    tex = texts["tex"]
    assert "good & \\textbf{0.700} (0.670--0.720) &" in tex
    assert "mini$^{\\dagger\\ddagger}$" in tex
    assert "good $-$ base & $+0.100$ ($+0.020$, $+0.300$) &" in tex
    assert tex.count("\\begin{table}") == tex.count("\\end{table}") == 2
    widths = {line.count("&") for line in tex.splitlines() if line.rstrip().endswith("\\\\")}
    assert widths == {7}
    for line in texts["md"].splitlines():
        assert not line.startswith("|") or line.endswith("|")


def test_the_csv_has_every_row_as_it_was_given(page: tuple[Page, dict[str, str]]) -> None:
    _, texts = page
    rows = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == len(several())
    for row, expected in zip(rows, several(), strict=True):
        for name in COLUMNS:
            assert row[name] == ("" if expected[name] is None else str(expected[name])), name


def test_a_benchmark_s_own_words_become_sentences(tmp_path: Path) -> None:
    about = {
        "title": "Bench", "plan": "plan.yaml", "protocol": 1, "reference": "base", "seed": 3, "bootstraps": 1000,
        "software": "0.3.0", "count_no_finding": True, "notes": ["nih, good: no report: disk full"],
        "tasks": {
            "probe": {"balance": "none", "pool": None},
            "curve": {"shots": [4, "all"], "seeds": 5},
            "prompts": {"prompts": {"NIH": "nih14", "phantoms": "phantom8"}},
        },
        "data": {
            "NIH": {
                "recipe": "nih-chestxray14", "split": "the manifest's column split", "findings": ["Mass"],
                "train": {"images": 835, "patients": 671}, "test": {"images": 1, "patients": 1},
            }
        },
        "encoders": {
            "good": {
                "encoder": "timm:x", "weights": "x.safetensors", "trained_on": "photographs", "licence": "MIT",
                "fingerprint": "0123456789abcdef" * 4, "saw": [], "stand_in": "", "absent": "",
            },
            "mini": {"encoder": "mini"},
        },
    }  # fmt: skip
    page, texts = written(tmp_path, several(), about)
    for text in (
        "Plan: plan.yaml.", "Every encoder is compared with base on the same test images",
        "patients are drawn again 1,000 times, from seed 3.", "No Finding", "Few labels: shots 4, all; seeds 5.",
        "Full probe: balance none.", "Prompts: prompts nih14 for NIH, phantom8 for phantoms.",
        "Learned from 835 images of 671 patients, tested on 1 image of 1 patient. Split: the manifest",
        "nih, good: no report: disk full", "cxr-embed 0.3.0",
    ):  # fmt: skip
        assert text in texts["html"], text
        assert text.replace("_", "\\_") in texts["md"] or text == "cxr-embed 0.3.0", text
    assert page.tables["What they are"][1:] == [
        ["good", "timm:x", "x.safetensors", "photographs", "MIT", "0123456789ab"],
        ["mini", "mini", "–", "–", "–", "–"],
    ]
    tests = {row[0]: row for row in page.tables["What each was tested on"]}
    assert tests["good, full probe"][2] == "your labels, split test"


def test_the_benchmark_writes_what_the_leaderboard_reads() -> None:
    results = pytest.importorskip("cxr_embed.benchmark.results")
    assert tuple(results.SCHEMA.names) == COLUMNS


def test_neighbours_are_judged_by_what_is_tested(tmp_path: Path) -> None:
    """The vote has a test, precision has none; what chance would give is said beside it."""
    rows = []
    for name, value in (("base", 0.6), ("good", 0.8)):
        own: dict[str, Any] = {"encoder": name, "task": "neighbours", "reference": "base"}
        apart = {"difference": 0.2, "difference_low": 0.1, "difference_high": 0.3, "p_holm": 0.001}
        rows += [made(**own, figure="precision@10", value=value / 2), made(**own, figure="chance@10", value=0.123)]
        rows.append(made(**own, value=value, **(apart if name == "good" else {})))
    page, texts = written(tmp_path, rows)
    assert page.tables["At a glance"][1] == ["encoder", "AUROC"]
    assert page.tables["At a glance"][2] == ["good", "0.800 best 0.770 to 0.820"]
    assert "Precision by chance, at 10: 0.123." in texts["html"]
    assert not any("chance" in cell for row in page.tables["Means over findings"] for cell in row)


def test_all_labels_of_a_curve_do_not_stand_for_it(tmp_path: Path) -> None:
    rows = [
        made(encoder="a", task="curve", shots=size, value=value) for size, value in ((64, 0.7), (4, 0.6), (None, 0.8))
    ]
    page, texts = written(tmp_path, rows)
    assert page.tables["At a glance"][1] == ["encoder", "AUROC, 4 labelled", "AUROC, 64 labelled"]
    assert [row[1] for row in page.tables["Means over findings"]] == [
        "labels",
        "4 labelled",
        "64 labelled",
        "all labels",
    ]
    assert re.findall(r'class="name"><bdi>(.*?)</bdi>', texts["html"]) == ["all labels", "4 labelled"]
    alone = [made(encoder="a", task="curve", shots=None, value=0.8)]
    assert written(tmp_path, alone)[0].tables["At a glance"][1] == ["encoder", "AUROC, all labels"]


# Odd results


def test_hostile_names_are_words(tmp_path: Path) -> None:
    rows = []
    for name in (HOSTILE, f"{HOSTILE} two"):
        words = {"data": HOSTILE, "encoder": name, "reference": HOSTILE, "saw_data": HOSTILE, "stand_in": HOSTILE}
        rows += [made(**words, finding=n, value=0.7, report="javascript:alert(1)") for n in (HOSTILE, MEAN)]
        rows.append(made(data=HOSTILE, encoder=name, task=HOSTILE, status="failed", reason=HOSTILE, finding=""))
    about = {"title": HOSTILE, "protocol": [HOSTILE], "warnings": [HOSTILE], "data": {HOSTILE: {"about": HOSTILE}}}
    page, texts = written(tmp_path, rows, about)
    assert sum(tag == "script" for tag, _ in page.tags) == 1
    assert "<script>alert" not in texts["html"]
    links = [values["href"] or "" for tag, values in page.tags if tag == "a"]
    assert not any(link.lower().startswith("javascript:") for link in links)
    assert page.tables["At a glance"][2][0].startswith(HOSTILE.split("`")[0].strip())
    assert "<script>" not in re.sub(r"\\.", "", texts["md"])
    for line in texts["md"].splitlines():
        bare = re.sub(r"\\.", "", line)
        assert "[c](" not in bare
        assert bare.count("|") == 0 or bare.startswith("|")
    for line in texts["tex"].splitlines()[1:]:
        assert not re.search(r"(?<!\\)[%#~]", line)
    cells = next(itertools.islice(csv.reader(io.StringIO(texts["csv"])), 1, None))
    assert cells[0] == HOSTILE


def test_spreadsheets_take_nothing_for_a_formula(tmp_path: Path) -> None:
    _, texts = written(tmp_path, [made(encoder="=HYPERLINK(1)", value=0.5)])
    assert "'=HYPERLINK(1)" in texts["csv"]


@pytest.mark.parametrize("report", ["/etc/passwd", "\\\\host\\share", "", "//host/x"])
def test_reports_elsewhere_are_no_links(tmp_path: Path, report: str) -> None:
    page, _ = written(tmp_path, [made(encoder="a", value=0.5, report=report)])
    assert not [v for tag, v in page.tags if tag == "a" and not (v["href"] or "").startswith(("#", "leaderboard."))]


def test_reports_with_spaces_are_links(tmp_path: Path) -> None:
    page, _ = written(tmp_path, [made(encoder="a", value=0.5, report="cells/a b/c:d/report.html")])
    assert "cells/a%20b/c%3Ad/report.html" in [v.get("href") for _, v in page.tags]


def test_figures_that_are_not_there(tmp_path: Path) -> None:
    rows = [
        made(encoder="a", value=float("nan"), low=float("nan"), high=float("inf"), n=3, reason="no positive case"),
        made(encoder="a", finding="Mass", value=None, reason="one class only"),
        made(encoder="b", value=0.5, low=None, high=None),
        made(encoder="b", finding="Mass", value=0.5, low=None, high=None),
    ]
    page, texts = written(tmp_path, rows)
    assert [row[1] for row in page.tables["At a glance"][2:]] == ["0.500", "–"]
    assert "Mass: one class only (a)." in texts["html"]
    assert "nan" not in texts["html"].replace("nance", "").lower()
    assert "nan" not in texts["csv"].lower()


def test_nothing_was_done(tmp_path: Path) -> None:
    rows = [made(encoder=name, status="failed", reason="no store", finding="", figure="") for name in "ab"]
    page, texts = written(tmp_path, rows)
    assert [row[1] for row in page.tables["At a glance"][2:]] == ["failed", "failed"]
    assert "<figure" not in texts["html"]
    assert "Full probe, AUROC: no figure." in texts["html"]


def test_one_encoder_and_no_reference(tmp_path: Path) -> None:
    page, texts = written(tmp_path, [made(encoder="a", value=0.7), made(encoder="a", finding="Mass", value=0.7)])
    assert "a, 0.700 (0.670 to 0.720), the only one: nothing to compare." in texts["html"]
    assert "No reference was named" in texts["html"]
    assert page.tables["Means over findings"][0] == ["encoder", "AUROC", "findings", "cases", "patients", "report"]
    assert 'class="sortable' not in texts["html"]
    assert "\\midrule\n    \\midrule" not in texts["tex"]


def test_forty_findings_and_thirty_encoders(tmp_path: Path) -> None:
    rows = [
        made(encoder=f"e{number}", finding=finding, value=0.5 + number / 100)
        for number in range(30)
        for finding in (*(f"finding {n}" for n in range(40)), MEAN)
    ]
    page, texts = written(tmp_path, rows)
    assert len(page.tables["Each finding: AUROC"]) == 41
    signs = re.findall(r'<svg class="sign (e\d)".*?>(<svg x="7".*?</svg>)', texts["html"])
    assert len(set(signs)) == 30, "no two encoders look alike"


def test_means_over_other_findings_are_said_not_to_compare(tmp_path: Path) -> None:
    rows = [
        made(encoder="a", value=0.7), made(encoder="a", finding="Mass", value=0.7),
        made(encoder="b", value=0.7), made(encoder="b", finding="Edema", value=0.7),
    ]  # fmt: skip
    assert "do not compare" in written(tmp_path, rows)[1]["html"]
    rows[3]["finding"] = "Mass"
    assert "do not compare" not in written(tmp_path, rows)[1]["html"]


@pytest.mark.parametrize(("counted", "covered"), [(False, "1"), (True, "2")])
def test_no_finding_is_counted_only_where_the_mean_is_over_it(tmp_path: Path, counted: bool, covered: str) -> None:
    rows = [made(encoder="a", finding=name, value=0.7) for name in ("Mass", "No Finding", MEAN)]
    page, _ = written(tmp_path, rows, {"count_no_finding": counted})
    heads, row = page.tables["Means over findings"]
    assert row[heads.index("findings")] == covered


def test_a_device_that_is_not_here_is_said_once(tmp_path: Path) -> None:
    speed: dict[str, Any] = {"task": "speed", "finding": "", "figure": "images_per_second"}
    rows = [
        made(encoder="a", **speed, output="cpu: X, batches of 8", value=31.4, low=None, high=None),
        made(encoder="a", **speed, output="cuda", value=None, reason="no GPU here"),
    ]
    page, texts = written(tmp_path, rows)
    assert page.tables["At a glance"][1:] == [["encoder", "cpu"], ["a", "31.4"]]
    assert [row[1:3] for row in page.tables["Images a second"][1:]] == [["cpu: X, batches of 8", "31.4"], ["cuda", "–"]]
    assert "<li>cuda: no GPU here.</li>" in texts["html"]
    assert written(tmp_path, rows[1:])[0].tables["At a glance"][1:] == [["encoder", "cuda"], ["a", "–"]]


def test_the_same_results_give_the_same_files(tmp_path: Path) -> None:
    one, other = (written(tmp_path / name, several(), ABOUT)[1] for name in "ab")
    assert one == other


def test_bad_results_are_refused_in_words(tmp_path: Path) -> None:
    whole = table_of(several())
    with pytest.raises(ReportError, match="no column p_holm, report; they need data, encoder"):
        write_leaderboard(whole.drop_columns(["report", "p_holm"]), {}, tmp_path)
    with pytest.raises(ReportError, match="no result"):
        write_leaderboard(whole.slice(0, 0), {}, tmp_path)
    with pytest.raises(ReportError, match=r"two rows of NIH, a, probe, \(mean\), auroc"):
        write_leaderboard(table_of([made(encoder="a", value=0.5)] * 2), {}, tmp_path)
    with pytest.raises(ReportError, match="another kind"):
        write_leaderboard(table_of([made(encoder="a", value="high", low=None, high=None)]), {}, tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ReportError, match="cannot be written to"):
        write_leaderboard(whole, {}, tmp_path / "file")
    assert not list(tmp_path.glob("leaderboard*"))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.sampled_from([None, 0.5]))
def test_a_scale_holds_what_it_shows(values: list[float], chance: float | None) -> None:
    rows = records(*(made(encoder=f"e{n}", value=v, low=v, high=v) for n, v in enumerate(values)))
    scale = scale_of(rows, chance)
    assert scale is not None
    assert scale.low <= min(values) + 1e-9
    assert max(values) <= scale.high + 1e-9
    assert 2 <= len(scale.ticks) <= 9
    assert all(0 <= scale.place(tick) <= 100 for tick in scale.ticks)


# In a browser


def test_columns_sort_and_gaps_stay_last(page: tuple[Page, dict[str, str]], tmp_path: Path) -> None:
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page[1]["html"])
    clicks = """<script>
    const table = document.querySelector("#d1-glance table"), heads = table.tHead.rows[1].cells, seen = [];
    const names = () => [...table.tBodies[0].rows].map(row => row.cells[0].querySelector("bdi").textContent).join(" ");
    for (const column of [1, 1, 4, 4, 0, 0]) {
      heads[column].querySelector("button").click();
      seen.push(names() + " " + heads[column].getAttribute("aria-sort"));
    }
    document.title = seen.join("; ");
    </script></body>"""
    (tmp_path / "p.html").write_text(text.replace("</body>", clicks), encoding="utf-8")
    shown = browser("--dump-dom", (tmp_path / "p.html").as_uri(), folder=tmp_path).decode()
    title = re.search(r"<title>(.*?)</title>", shown)
    assert title is not None
    assert title[1].split("; ") == [
        "mini good base descending", "base good mini ascending",
        "mini good base descending", "good mini base ascending",
        "base good mini ascending", "mini good base descending",
    ]  # fmt: skip


def test_a_telephone_shows_all_of_it(page: tuple[Page, dict[str, str]], tmp_path: Path) -> None:
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page[1]["html"])
    measure = """<script>
    const right = e => Math.ceil(e.getBoundingClientRect().right);
    const seen = [...document.querySelectorAll("p, li, figure *, h1, h2, h3, .wide td:nth-child(2)")];
    document.title = [innerWidth, document.documentElement.scrollWidth, Math.max(...seen.map(right))].join(" ");
    </script></body>"""
    (tmp_path / "p.html").write_text(text.replace("</body>", measure), encoding="utf-8")
    shown = browser("--window-size=390,844", "--dump-dom", (tmp_path / "p.html").as_uri(), folder=tmp_path).decode()
    title = re.search(r"<title>(\d+) (\d+) (\d+)</title>", shown)
    assert title is not None
    width, needed, right = map(int, title.groups())
    if width != 390:
        pytest.skip(f"this browser's smallest window has {width} pixels; CXR_EMBED_BROWSER names a headless shell")
    assert needed <= 390
    assert right <= 392


def test_the_script_runs_under_the_page_s_own_policy(page: tuple[Page, dict[str, str]], tmp_path: Path) -> None:
    (tmp_path / "p.html").write_text(page[1]["html"], encoding="utf-8")
    shown = browser("--dump-dom", (tmp_path / "p.html").as_uri(), folder=tmp_path).decode()
    assert shown.count('<button type="button"') > 10
