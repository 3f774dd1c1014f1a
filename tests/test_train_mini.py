"""The image side of mini's training: parts against plain references, and one small run from images to a tower."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training mini needs torch: pip install 'cxr-embed[torch]'")

FOLDER = Path(__file__).parents[1] / "examples" / "train_mini"
sys.path.insert(0, str(FOLDER))

from augment import distorted, standardised  # noqa: E402
from cases import Cases, joined, load_cases  # noqa: E402
from network import Tower  # noqa: E402
from pretrain import TEMPERATURE, contrast  # noqa: E402
from recipes import load_tower, save_tower  # noqa: E402
from train import loss_of  # noqa: E402

from cxr_embed.encoders.engines import make_engine  # noqa: E402
from cxr_embed.encoders.mini.pixels import SIDE, standardise  # noqa: E402
from cxr_embed.encoders.mini.tower import tower as graph  # noqa: E402


def cases_of(count: int, findings: tuple[str, ...], seed: int = 0) -> Cases:
    rng = np.random.default_rng(seed)
    return Cases(
        ids=np.array([f"{seed}-{number}" for number in range(count)]),
        pixels=rng.integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8),
        labels=rng.integers(0, 2, (count, len(findings))).astype(np.float32),
        traits=np.zeros((count, 3), np.float32),
        patients=np.array([f"p{number // 2}" for number in range(count)]),
        findings=findings,
    )


def test_training_and_runtime_see_the_same_pixels() -> None:
    pixels = cases_of(3, ("Mass",)).pixels
    pixels[2] = 7  # blank
    seen = standardised(torch.from_numpy(pixels[:, None]).float() / 255).numpy()
    np.testing.assert_allclose(seen[:, 0], standardise(pixels.astype(np.float32) / 127.5 - 1), atol=2e-5)


def test_undistorted_at_strength_zero() -> None:
    pixels = torch.from_numpy(cases_of(4, ("Mass",)).pixels)
    still = distorted(pixels, 0.0, False, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(still, standardised(pixels[:, None].float().div(255).clamp(min=1e-3)), atol=1e-4)


def test_mirrors_half_and_depends_on_the_generator_alone() -> None:
    pixels = torch.from_numpy(np.repeat(cases_of(1, ("Mass",)).pixels, 64, axis=0))
    first, again = (distorted(pixels, 0.0, True, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, again)
    plain = standardised(pixels[:1, None].float() / 255)
    kept = [bool((image - plain[0]).abs().max() < 0.1) for image in first]
    mirrored = [bool((image - plain[0].flip(-1)).abs().max() < 0.1) for image in first]
    assert all(a != b for a, b in zip(kept, mirrored, strict=True))
    assert 16 < sum(mirrored) < 48


def test_joined_leaves_unknown_what_a_part_does_not_tell() -> None:
    both = joined([cases_of(3, ("Mass", "Edema")), cases_of(2, ("Edema", "Nodule"), seed=1)])
    assert both.findings == ("Mass", "Edema", "Nodule")
    assert np.isnan(both.labels).tolist() == [[False, False, True]] * 3 + [[True, False, False]] * 2
    assert len(both.take(np.array([0, 4])).ids) == 2


def test_unknown_labels_and_traits_cost_nothing() -> None:
    answer = (torch.tensor([[2.0, -50.0]]), torch.tensor([[50.0, -50.0, 50.0]]))
    labels, traits = torch.tensor([[1.0, torch.nan]]), torch.full((1, 3), torch.nan)
    assert float(loss_of(answer, labels, traits, 0.2)) == pytest.approx(np.log1p(np.exp(-2.0)))


def test_contrast_against_a_plain_reference() -> None:
    projected, patients = np.random.default_rng(0).normal(size=(6, 4)), np.array([0, 1, 1, 0, 1, 1])
    unit = projected / np.linalg.norm(projected, axis=1, keepdims=True)
    losses = []
    for at in range(6):
        weights = np.exp(unit @ unit[at] / TEMPERATURE)
        others = [row for row in range(6) if row != at]
        alike = [row for row in others if patients[row] == patients[at]]
        losses.append(-np.mean([np.log(weights[row] / weights[others].sum()) for row in alike]))
    got = contrast(torch.from_numpy(projected), torch.from_numpy(patients))
    assert float(got) == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_tower_runs_in_the_core_as_in_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    trained = Tower().train()
    x = torch.randn(4, 1, SIDE, SIDE)
    trained(x)  # moves the statistics of the norms off 0 and 1
    save_tower(trained, tmp_path / "tower.safetensors")
    kept = load_tower(tmp_path / "tower.safetensors").eval()
    weights = {name: value.numpy() for name, value in kept.state_dict().items() if value.is_floating_point()}
    engine = make_engine(graph, weights, side=SIDE, device="cpu", precision="float32", threads=1)
    with torch.inference_mode():
        np.testing.assert_allclose(engine(x.numpy()), kept(x).numpy(), rtol=1e-3, atol=1e-3)


def test_a_run_writes_a_tower_and_its_features(make_images: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_images(34).parent
    out, features = tmp_path / "tower.safetensors", tmp_path / "features.npz"
    words = f"--recipe teach --threads 1 --out {out} --features {features}"
    subprocess.run([sys.executable, FOLDER / "train_image.py", folder, *words.split()], check=True)
    told, cases = np.load(features), load_cases(folder, "train")
    assert told["ids"].tolist() == cases.ids.tolist()
    with torch.inference_mode():
        x = standardised(torch.from_numpy(cases.pixels[:, None]).float() / 255)
        again = load_tower(out).eval()(x).numpy()
    np.testing.assert_allclose(told["features"], again, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(("recipe", "told"), [("phantoms", "--start FILE"), ("contrast", "a batch of 64 at least")])
def test_a_recipe_says_what_it_needs(make_images: Callable[..., Path], tmp_path: Path, recipe: str, told: str) -> None:
    command = [sys.executable, FOLDER / "train_image.py", make_images(34).parent, "--recipe", recipe]
    ended = subprocess.run([*command, "--out", tmp_path / "x"], capture_output=True, text=True)
    assert ended.returncode == 1
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr
