"""The documentation: links lead somewhere, the command line's page is of today, the site asks no host for anything."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SOURCES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
ASKS = re.compile(
    r"(?:fetch|import|importScripts|WebSocket|EventSource|sendBeacon)\(\s*[\"'`]((?:https?:|wss?:|//)[^\"'`]*)"
)
OTHERS = {"--help", "--no-index", "--find-links", "--extras", "--numbers"}  # of pip and of our scripts
OTHERS |= {"--x", "--y", "--image", "--vector"}  # of embedding-atlas
OTHERS |= {"--array", "--gres", "--wrap"}  # of Slurm
OTHERS |= {"--head", "--node-ip-address", "--port", "--include-dashboard"}  # of `ray start`
# Options whose value is of another kind on another verb, and why.
OF_TWO_KINDS = {
    "--against": "words to compare a question with; scores to compare scores with",
    "--explain": "a montage with maps; how many cases a report shows with maps",
    "--shots": "one number; several, for a curve",
    "--thumbnails": "whether they are kept beside an index; where a server keeps them",
    "--threshold": "a rule or a number; a similarity",
    "-k": "how many; several, for figures at each",
}


def headings(page: Path) -> set[str]:
    """The anchors that a page's headings get."""
    lines = re.findall(r"^#+ (.*)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: page.name)
def test_links_between_sources_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        parts = urlsplit(link)
        if parts.scheme:
            continue
        target = page.parent / parts.path if parts.path else page
        assert target.exists(), link
        assert not parts.fragment or parts.fragment in headings(target), link


@pytest.mark.parametrize("page", SOURCES, ids=lambda page: page.name)
def test_files_that_a_page_names_are_there(page: Path) -> None:
    for name in re.findall(
        r"`((?:benchmarks|cxr_embed|data_manifests|docs|examples|tests)/[\w./-]*)`", page.read_text()
    ):
        assert (ROOT / name).exists() or (ROOT / f"{name}.py").exists() or name == "docs/_build", name


def test_each_dependency_has_its_reason() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needs = [*project["dependencies"], *(need for extra in project["optional-dependencies"].values() for need in extra)]
    names = {re.match(r"[\w-]+", need)[0] for need in needs} - {"cxr-embed"}  # type: ignore[index]
    told = set(re.findall(r"[\w-]+", (DOCS / "dependencies.md").read_text()))
    assert names <= told


def test_the_readme_is_a_first_page() -> None:
    assert (ROOT / "README.md").read_text().count("\n") <= 150


@pytest.fixture(scope="module")
def command_line() -> ModuleType:
    spec = importlib.util.spec_from_file_location("command_line", DOCS / "command_line.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_command_line_is_todays(command_line: ModuleType) -> None:
    assert (DOCS / "command-line.md").read_text() == command_line.page(), "make docs writes it anew"


def base(value: str) -> str:
    """The kind of an option's value without its limits; a choice among words is text."""
    kind = value.split(", ")[0]
    return kind if kind in ("", "path", "integer", "number") else "text"


def test_an_option_has_one_kind_of_value(command_line: ModuleType) -> None:
    shared = command_line.shared_options(command_line.verbs())
    assert len(shared) > 20
    several = {name for name, kinds in shared.items() if len(set(map(base, kinds))) > 1}
    assert several == set(OF_TWO_KINDS)


@pytest.mark.parametrize(
    "page", [page for page in SOURCES if page.name != "command-line.md"], ids=lambda page: page.name
)
def test_options_and_verbs_that_a_page_names_are_todays(page: Path, command_line: ModuleType) -> None:
    verbs = command_line.verbs()
    known = {spelling for verb in verbs for option in verb.options for spelling in option.spellings} | OTHERS
    code = re.findall(r"`[^`\n]+`", page.read_text()) + FENCE.findall(page.read_text())
    assert {option for text in code for option in re.findall(r"(?<![\w-])--[a-z][a-z0-9-]*", text)} <= known
    names = {verb.name for verb in verbs} | {verb.name.rpartition(" ")[0] for verb in verbs}
    named = {match for text in code for match in re.findall(r"^[`$]? ?(cxr-embed [a-z]+)", text, re.MULTILINE)}
    assert named <= names


class _Page(HTMLParser):
    """What a page of the site has: anchors, links, and what a browser loads by itself."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        told = {name: value for name, value in attributes if value is not None}
        self.anchors |= {told[name] for name in ("id", "name") if name in told}
        self.loaded |= {told[name] for name in ("src", "srcset", "poster", "data") if name in told}
        self.loaded |= set(_in_styles(told.get("style", "")))
        if tag == "link" and told.get("rel") not in ("index", "search", "next", "prev", "canonical"):
            self.loaded.add(told.get("href", ""))
        elif "href" in told:
            self.links.add(told["href"])


def _in_styles(text: str) -> list[str]:
    """What a style sheet loads."""
    found = re.findall(r"url\(\s*(\"[^\"]*\"|'[^']*'|[^)]*?)\s*\)|@import\s+(\"[^\"]*\"|'[^']*')", text)
    return [(first or second).strip("\"'") for first, second in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does: every warning is an error, such as a link or picture that is not there."""
    missing = [name for name in ("sphinx", "furo", "myst_parser") if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: make test EXTRAS=dev,docs")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(folder / "trees")]
    done = subprocess.run([*command, str(DOCS), str(folder / "html")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return folder / "html"


def test_links_of_the_site_lead_somewhere(site: Path) -> None:
    pages = {path.resolve(): _Page(path.read_text()) for path in site.rglob("*.html")}
    assert len(pages) > len(list(DOCS.glob("*.md")))
    for path, page in pages.items():
        for link in page.links | page.loaded:
            parts = urlsplit(link)
            if parts.scheme or link.startswith("//"):
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name}: {link}"
            if parts.fragment and target in pages:
                assert parts.fragment in pages[target].anchors, f"{path.name}: {link}"


def test_the_site_asks_no_host_for_anything(site: Path) -> None:
    loaded = []
    for path in site.rglob("*.html"):
        text = path.read_text()
        inside = re.findall(r"<style[^>]*>(.*?)</style>", text, re.DOTALL)
        loaded += [*_Page(text).loaded, *(each for style in inside for each in _in_styles(style))]
    for path in site.rglob("*.css"):
        loaded += _in_styles(path.read_text())
    for path in site.rglob("*.js"):
        loaded += ASKS.findall(path.read_text())
    assert len(loaded) > 100
    assert not [each for each in loaded if urlsplit(each).scheme not in ("", "data") or urlsplit(each).netloc]


def test_the_reader_of_pages_sees_what_is_loaded() -> None:
    page = _Page(
        '<link rel="stylesheet" href="https://a/x.css"><script src="//b/x.js"></script><a href="https://c">c</a>'
        '<p style="background: url(https://d/x.png)" id="here">'
    )
    assert page.loaded == {"https://a/x.css", "//b/x.js", "https://d/x.png"}
    assert (page.links, page.anchors) == ({"https://c"}, {"here"})
    assert _in_styles("@import 'https://e/x.css'; a { src: url('f.woff2') }") == ["https://e/x.css", "f.woff2"]


def test_the_python_reference_has_every_public_name() -> None:
    import cxr_embed

    shown = re.findall(r"^\.\. auto\w+:: (\w+)$", (DOCS / "python-reference.md").read_text(), re.MULTILINE)
    assert sorted(shown) == sorted(cxr_embed.__all__)
