"""The commands of the README and of the pages of docs/ run as printed, on real radiographs, and print what is shown."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import console_blocks
import pytest

ROOT = Path(__file__).parents[1]


def run_as_printed(extras: bool, real_data: Path, tmp_path: Path) -> None:
    for each, printed in console_blocks.run(extras, real_data, tmp_path):
        told = f"{each.page.name}: $ {each.command}"
        assert console_blocks.agrees(each, printed), (
            f"{told}\n{printed}\n(python tests/console_blocks.py prints it anew)"
        )


def test_the_pages_have_commands() -> None:
    assert len(list(console_blocks.shown(extras=False))) >= 30
    assert len(list(console_blocks.shown(extras=True))) >= 8
    assert sum(not each.output for each in console_blocks.shown(extras=False)) <= 8, "commands without their output"


def test_the_commands_run_as_printed(real_data: Path, tmp_path: Path) -> None:
    run_as_printed(False, real_data, tmp_path)


@pytest.mark.soak  # each verb and encoder has tests of its own; this one takes minutes for a page's sake
def test_the_commands_that_need_more_packages_run_as_printed(real_data: Path, tmp_path: Path) -> None:
    if missing := console_blocks.missing_modules():
        pytest.skip(f"needs {', '.join(missing)}: make soak EXTRAS=dev,peers,cxr-foundation")
    run_as_printed(True, real_data, tmp_path)


def test_the_example_of_the_python_api_runs(make_images, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    manifest = make_images(12)
    command = [sys.executable, str(ROOT / "examples" / "python_api.py"), str(manifest), str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "12 radiographs, findings: Effusion" in done.stdout
    assert "12 embedded, 0 unchanged, 0 failed" in done.stdout
    assert "most alike of different patients" in done.stdout
