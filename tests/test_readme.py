"""The README's commands run as printed, on the real radiographs, and print what it shows."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"(?:<!-- needs: (.*?) -->\n)?```console\n(.*?)```", re.DOTALL)
# What differs from run to run: numbers that are measured, digests, the arithmetic that the processor has.
VARIES = re.compile(r"\[[0-9a-f]{12}\]|\b[0-9a-f]{16,64}\b|[-+−]?\d[\d.,:T+-]*(cu\d+|cpu\b)?|\b(bf16|float32)\b")
# What the installed extras change in the table of encoders.
INSTALLED = re.compile(r"  (yes|no) +(none|here|no|named) *$")


def normal(text: str) -> list[str]:
    lines = [
        INSTALLED.sub(r"  # \2", line) for line in text.splitlines() if not line.startswith("What is not installed")
    ]
    return [" ".join(VARIES.sub("#", line).split()) for line in lines if line.strip()]


def commands(extras: bool = False) -> list[tuple[str, str]]:
    """Each command of the README with the output under it: those of the core, or those that need more packages."""
    found = []
    for needs, block in BLOCK.findall((ROOT / "README.md").read_text()):
        if bool(needs) is not extras:
            continue
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def needed() -> set[str]:
    """The modules that the README's blocks say they need."""
    return {name for needs, _ in BLOCK.findall((ROOT / "README.md").read_text()) for name in needs.split()}


def run_as_printed(shown_commands: list[tuple[str, str]], real_data: Path, tmp_path: Path) -> None:
    """Runs commands one after the other beside the real data, and compares what they print."""
    checkout = tmp_path / "cxr-embed"
    checkout.mkdir()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "data").symlink_to(real_data.resolve())
    for name in ("examples", "tests"):
        (checkout / name).symlink_to(ROOT / name)
    bin_folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "100"}
    for command, shown in shown_commands:
        words = shlex.split(command)
        if words[0] in ("export", "unset"):
            name, _, value = words[1].partition("=")
            environment[name] = value
            continue
        done = subprocess.run(
            words, cwd=checkout, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        assert normal(done.stdout) == normal(shown), command


def test_the_readme_has_commands() -> None:
    assert len(commands()) >= 8
    assert len(commands(extras=True)) >= 8


def test_the_commands_run_as_printed(real_data: Path, tmp_path: Path) -> None:
    run_as_printed(commands(), real_data, tmp_path)


def test_the_commands_that_need_more_packages_run_as_printed(real_data: Path, tmp_path: Path) -> None:
    missing = sorted(name for name in needed() if importlib.util.find_spec(name) is None)
    if missing:
        pytest.skip(f"needs {', '.join(missing)}: make test EXTRAS=dev,peers,cxr-foundation")
    run_as_printed(commands(extras=True), real_data, tmp_path)


def test_the_example_of_the_python_api_runs(make_images, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    manifest = make_images(12)
    command = [sys.executable, str(ROOT / "examples" / "python_api.py"), str(manifest), str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "12 radiographs, findings: Effusion" in done.stdout
    assert "12 embedded, 0 unchanged, 0 failed" in done.stdout
    assert "most alike of different patients" in done.stdout
