"""The house: imports go down its floors, modules stay short, nothing names a place on one machine."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "cxr_embed"

# CONTRIBUTING.md explains the floors. A part may import parts on lower floors only.
FLOORS = {
    "errors": 0,
    "files": 0,
    "processes": 0,
    "telemetry": 0,
    "types": 0,
    "encoders": 1,
    "images": 1,
    "manifest": 1,
    "metrics": 1,
    "phantom": 1,
    "prompts": 1,
    "store": 1,
    "datasets": 2,
    "evaluation": 2,
    "imports": 2,
    "index": 2,
    "pipeline": 2,
    "probe": 2,
    "zeroshot": 2,
    "forget": 3,
    "report": 3,
    "retrieval": 3,
    "screening": 3,
    "cli": 4,
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
            assert (node.end_lineno or node.lineno) - node.lineno <= 80, node.name


def test_no_file_names_a_place_on_one_machine() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    places = re.compile("|".join(["/" + "work/", "/" + "root/", "/" + "tmp/env"]))
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix in (".py", ".md", ".toml", ".yaml", "", ".sh"):
            assert not places.search(path.read_text()), name
