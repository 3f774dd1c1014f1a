"""Shared fixtures: real data where it is, synthetic chests, a home of its own for every test."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import synthetic_chests
from hypothesis import HealthCheck, settings
from PIL import Image

from cxr_embed.cli import terminal

ROOT = Path(__file__).parents[1]

# No clock decides: an example that takes 30 ms alone took over hypothesis's 200 ms beside other work, and passed when
# it was tried again, which is a failure too. Where CI runs, the examples are the same each time.
settings.register_profile(
    "house", deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=bool(os.environ.get("CI"))
)
settings.load_profile("house")


def real_data_folder() -> Path | None:
    """The folder of real radiographs, or None where this machine has none."""
    folder = Path(os.environ.get("CXR_EMBED_REAL_DATA") or ROOT.parent / "shared" / "data")
    return folder if (folder / "nih" / "manifest.csv").is_file() else None


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real radiographs; skips where there are none."""
    folder = real_data_folder()
    if folder is None:
        pytest.skip("no real radiographs here: set CXR_EMBED_REAL_DATA to a folder that has nih/manifest.csv")
    return folder


@pytest.fixture(scope="session")
def _kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What encoders found out and keep in the cache: it is known by its digests, so that all tests may share it."""
    folder = tmp_path_factory.mktemp("kept")
    for name in ("facts", "networks"):
        (folder / name).mkdir()
    return folder


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, _kept: Path) -> None:
    """No test reads or writes the user's own keys, caches or weights."""
    home = tmp_path_factory.mktemp("home")
    (home / ".cache" / "cxr-embed").mkdir(parents=True)
    for folder in _kept.iterdir():
        (home / ".cache" / "cxr-embed" / folder.name).symlink_to(folder)
    monkeypatch.setenv("HOME", str(home))
    for name in ("XDG_CONFIG_HOME", "XDG_CACHE_HOME", "CXR_EMBED_WEIGHTS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(autouse=True)
def _no_running_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb that a test runs in this process leaves its flags' names behind: they are that test's alone."""
    monkeypatch.setattr(terminal, "_flags", {})


@pytest.fixture(scope="session")
def chest() -> Callable[..., np.ndarray]:
    """`chest(seed, side)`: a synthetic radiograph, uint16 over 12 bits."""
    return synthetic_chests.chest


@pytest.fixture
def make_images(tmp_path: Path) -> Callable[..., Path]:
    """`make_images(count, side=96)`: a folder with a manifest of small distinct PNG files; two a patient."""

    def make(count: int, side: int = 96, name: str = "images", first: int = 0) -> Path:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        lines = ["image_id,path,patient_id,split,Effusion"]
        for number in range(first, first + count):
            pixels = np.random.default_rng(number).integers(0, 256, (side, side), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"i{number}.png")
            lines.append(f"i{number},i{number}.png,p{number // 2},train,{number % 2}")
        manifest = folder / "manifest.csv"
        manifest.write_text("\n".join(lines) + "\n")
        return manifest

    return make
