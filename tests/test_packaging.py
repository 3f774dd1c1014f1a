"""The wheel: complete, and at home outside the checkout."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

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


# An empty environment


def needed(name: str) -> set[str]:
    """A distribution and all that it needs here without extras, by their normalised names."""
    found: set[str] = set()
    wanted = [name]
    while wanted:
        name = canonicalize_name(wanted.pop())
        if name in found:
            continue
        found.add(name)
        needs = map(Requirement, distribution(name).requires or ())
        wanted += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
    return found


@pytest.fixture(scope="module")
def installed(unpacked: Path) -> Path:
    """The programs of an environment that has the wheel and what it says that it needs; no index is asked.

    Packages are links to those that the tests run with: they are some hundreds of megabytes.
    """
    home = unpacked.parent / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home], check=True)
    site = home / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    for name in needed("cxr-embed") - {"cxr-embed"}:
        package = distribution(name)
        for top in {file.parts[0] for file in package.files or () if file.parts[0] not in ("..", "__pycache__")}:
            if not (site / top).exists():
                (site / top).symlink_to(Path(str(package.locate_file(top))))
    pip = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "--disable-pip-version-check"]
    (wheel,) = unpacked.parent.glob("*.whl")
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)], check=True)
    checked = subprocess.run([*pip, "check"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    return home / "bin"


def alone(program: Path, *arguments: str, cwd: Path) -> str:
    """What a program of the environment prints, with nothing of this one's in its way."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run([program, *arguments], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_runs_with_what_it_says_that_it_needs(installed: Path, tmp_path: Path) -> None:
    where = alone(installed / "python", "-c", "import cxr_embed; print(cxr_embed.__file__)", cwd=tmp_path)
    assert Path(where.strip()).is_relative_to(installed.parent)
    assert "Usage: cxr-embed" in alone(installed / "cxr-embed", "--help", cwd=tmp_path)
    alone(installed / "cxr-embed", "phantom", "p", "--count", "4", "--size", "64", cwd=tmp_path)
    alone(installed / "cxr-embed", "embed", "p/manifest.csv", "--store", "s", "--device", "cpu", cwd=tmp_path)
    alone(installed / "cxr-embed", "index", "build", "s", "--out", "i", cwd=tmp_path)
    assert "phantom-" in alone(installed / "cxr-embed", "search", "i", "--text", "effusion", cwd=tmp_path)


@pytest.mark.soak
def test_the_wheel_runs_the_demo(installed: Path, tmp_path: Path) -> None:
    printed = alone(installed / "cxr-embed", "demo", "--out", "d", "--count", "280", cwd=tmp_path)
    assert "Everything is in d/phantoms" in printed
    assert (tmp_path / "d" / "phantoms" / "report.html").is_file()


# What tells of the project


def test_version_changelog_and_citation_agree() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    released = re.search(rf"^## {re.escape(version)} - (\d{{4}}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert released, f"CHANGELOG.md has no section of {version}"
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert (citation["version"], citation["date-released"]) == (version, released[1])
    assert citation["license"] == "Apache-2.0"
    assert {"message", "title", "authors"} <= set(citation)
