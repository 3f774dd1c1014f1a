"""The README's commands run as printed, on the real radiographs, and print what it shows."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
# What differs from run to run: numbers that are measured, digests, the arithmetic that the processor has.
VARIES = re.compile(r"\[[0-9a-f]{12}\]|\d[\d.,:T+-]*|\b(bf16|float32)\b")


def normal(text: str) -> list[str]:
    return [" ".join(VARIES.sub("#", line).split()) for line in text.splitlines() if line.strip()]


def commands() -> list[tuple[str, str]]:
    """Each command of the README with the output that is printed under it."""
    found = []
    for block in BLOCK.findall((ROOT / "README.md").read_text()):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = part.partition("\n")
            found.append((command, output))
    return found


def test_the_readme_has_commands() -> None:
    assert len(commands()) >= 8


def test_the_commands_run_as_printed(real_data: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "cxr-embed"
    checkout.mkdir()
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared" / "data").symlink_to(real_data.resolve())
    (checkout / "examples").symlink_to(ROOT / "examples")
    bin_folder = str(Path(sys.executable).parent)
    environment = {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "80"}
    for command, shown in commands():
        done = subprocess.run(
            shlex.split(command),
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        assert normal(done.stdout) == normal(shown), command


def test_the_example_of_the_python_api_runs(make_images, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    manifest = make_images(12)
    command = [sys.executable, str(ROOT / "examples" / "python_api.py"), str(manifest), str(tmp_path / "store")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "12 radiographs, findings: Effusion" in done.stdout
    assert "12 embedded, 0 unchanged, 0 failed" in done.stdout
    assert "most alike of different patients" in done.stdout


@pytest.mark.parametrize("own", [False, True])
def test_the_tour(tmp_path: Path, own: bool) -> None:
    command = [sys.executable, str(ROOT / "examples" / "demo.py"), "--out", str(tmp_path / "demo")]
    if own:
        images = tmp_path / "my images"
        subprocess.run(
            [sys.executable, str(ROOT / "examples" / "synthetic_chests.py"), str(images), "--count", "4"], check=True
        )
        (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
        command += ["--images", str(images)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert ("sound; 4 images" if own else "sound; 24 images") in done.stdout, done.stdout + done.stderr
    assert done.returncode == (1 if own else 0)  # a broken file among one's own is told in the status
    assert "Traceback" not in done.stderr
    assert "$ cxr-embed embed" in done.stdout
