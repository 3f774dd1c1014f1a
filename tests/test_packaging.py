"""The wheel: complete, and at home outside the checkout."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built wheel, unpacked."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = target.glob("cxr_embed-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target / "site")
    return target / "site"


def test_it_carries_its_data_and_types(unpacked: Path) -> None:
    files = {path.relative_to(unpacked).as_posix() for path in unpacked.rglob("*") if path.is_file()}
    assert "cxr_embed/py.typed" in files
    recipes = {f"cxr_embed/data_manifests/{path.name}" for path in (ROOT / "data_manifests").glob("*.yaml")}
    assert len(recipes) >= 2
    assert recipes <= files
    assert {"cxr_embed/encoders/mini/mini.safetensors", "cxr_embed/images/likeness.safetensors"} <= files
    assert any(name.endswith("licenses/LICENSE") for name in files)
    assert not [name for name in files if name.split("/")[0] in ("tests", "benchmarks", "examples", "shared")]


def test_it_works_outside_the_checkout(unpacked: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(sys.executable, "-c", "import cxr_embed; print(cxr_embed.__file__)").startswith(str(unpacked))
    assert "NIH ChestX-ray14" in run(sys.executable, "-m", "cxr_embed", "manifest", "recipes")
    run(sys.executable, str(ROOT / "tests" / "synthetic_chests.py"), "chests", "--count", "4")
    run(sys.executable, "-m", "cxr_embed", "manifest", "scan", "chests", "--out", "chests/manifest.csv")
    run(sys.executable, "-m", "cxr_embed", "embed", "chests/manifest.csv", "--encoder", "hog", "--store", "hog")
    assert "4 images" in run(sys.executable, "-m", "cxr_embed", "store", "verify", "hog")
