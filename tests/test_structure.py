"""The house: imports go down its floors, modules stay short, nothing names a place on one machine."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cxr_embed"

# CONTRIBUTING.md explains the floors. A part may import parts on lower floors only.
FLOORS = {
    "choices": 0,
    "arguments": 0,
    "errors": -2,
    "grids": -1,
    "io": -1,
    "notebook": 0,
    "regions": 0,
    "telemetry": 0,
    "types": 0,
    "version": 0,
    "encoders": 1,
    "images": 1,
    "manifest": 1,
    "metrics": 1,
    "phantom": 1,
    "present": 1,
    "prompts": 1,
    "store": 1,
    "thumbnails": 1,
    "cases": 2,
    "datasets": 2,
    "imports": 2,
    "index": 2,
    "marks": 2,
    "pipeline": 2,
    "zeroshot": 2,
    "evaluation": 3,
    "explanation": 4,
    "probe": 3,
    "reporting": 4,
    "retrieval": 4,
    "screening": 4,
    "api": 5,
    "forget": 5,
    "benchmark": 6,
    "web": 7,
    "cli": 8,
}
MODULES = sorted(path for path in PACKAGE.rglob("*.py"))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    parts = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "cxr_embed" else [f"cxr_embed.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        parts |= {name.split(".")[1] for name in names if name.startswith("cxr_embed.")}
    return parts


def test_every_part_has_a_floor() -> None:
    assert {part_of(path) for path in MODULES} - {"__init__", "__main__"} == set(FLOORS)


def test_the_floors_are_those_that_contributors_read() -> None:
    rows = re.findall(r"^\| (-?\d) \| (.*?) \|", (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    shown = {part: int(floor) for floor, parts in rows for part in re.findall(r"`(\w+)(?:/|\.py)`", parts)}
    assert shown == FLOORS


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    part = part_of(path)
    if part in ("__init__", "__main__"):
        return
    for other in imported_parts(path) - {part, "__version__"}:
        assert FLOORS[other] < FLOORS[part], f"{part} (floor {FLOORS[part]}) imports {other}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_modules_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 410
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert lines_of(node) <= 60 or own_lines_of(node) <= 45, node.name


def lines_of(function: ast.FunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno


def own_lines_of(function: ast.FunctionDef) -> int:
    """Lines of its statements: a function of many options is long by its signature and docstring alone."""
    first = function.body[1 if ast.get_docstring(function) and len(function.body) > 1 else 0]
    return (function.end_lineno or first.lineno) - first.lineno + 1


def fields_of(record: ast.ClassDef) -> list[str]:
    fields = [node for node in record.body if isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.dump(node)]
    return [ast.unparse(field.target) for field in fields]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_records_of_more_than_five_fields_are_keyword_only(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ClassDef) or len(fields_of(node)) <= 5:
            continue
        made = [ast.unparse(decorator) for decorator in node.decorator_list]
        tuples = [ast.unparse(base) for base in node.bases if ast.unparse(base).endswith("NamedTuple")]
        assert not tuples, f"{node.name}: a tuple of many fields"
        assert all("kw_only=True" in call for call in made if call.startswith("dataclass")), node.name


_ADJECTIVES = "(?:new|other|more|test|word|of these|of its) "
_NOUNS = (
    "images|patients|cases|findings|prompts|rows|files|vectors|pairs|draws|columns|tensors|ids|labels|stores|shards|words"
    "|tokens|queries|positives|negatives|indexes|bytes|strings|floats|records|folders|tables|groups|probes|names"
)
_AFTER_A_NUMBER = re.compile(rf"^ (?:{_ADJECTIVES})?(?:{_NOUNS})\b(?!/)")
# Never 1, or words; `counted` knows of the rest. `N of M images` is right for every N.
_NO_COUNT = re.compile(
    r"_?[A-Z][A-Z_]*|speed|have|header\.dtype|numbers|math\.prod.*|count|k|size|free|file\['bytes'\]"
)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_one_is_no_plural(path: Path) -> None:
    """A number before a noun comes from `counted`, so that nobody reads of 1 images."""
    for node in ast.walk(ast.parse(path.read_text())):
        values = node.values if isinstance(node, ast.JoinedStr) else []
        for number, (value, after) in enumerate(itertools.pairwise(values)):
            if not isinstance(value, ast.FormattedValue) or not isinstance(after, ast.Constant):
                continue
            before = values[number - 1] if number else None
            if isinstance(before, ast.Constant) and before.value.endswith(("of ", "than ", "the ")):
                continue
            what = ast.unparse(value.value)
            if _AFTER_A_NUMBER.match(after.value) and not _NO_COUNT.fullmatch(what):
                raise AssertionError(f"{path.name}:{value.lineno}: {{{what}}}{after.value[:20]!r}: see `types.counted`")


def test_no_file_names_a_place_on_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    places = re.compile("|".join(["/" + "work/", "/" + "root/", "/" + "tmp/env"]))
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".yaml", "", ".sh"):
            assert not places.search(path.read_text()), name
