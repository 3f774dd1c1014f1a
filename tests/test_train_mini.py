"""The image side of mini's training: parts against plain references, and one small run from images to a tower."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training mini needs torch: pip install 'cxr-embed[torch]'")

FOLDER = Path(__file__).parents[1] / "examples" / "train_mini"
sys.path.insert(0, str(FOLDER))

from augment import distorted, standardised  # noqa: E402
from cases import CELLS, MARKED, Cases, joined, load_cases  # noqa: E402
from network import Model, Tower  # noqa: E402
from pretrain import TEMPERATURE, contrast  # noqa: E402
from recipes import load_tower, save_tower  # noqa: E402
from train import COVERED, Plan, loss_of, loss_of_places, train  # noqa: E402

from cxr_embed.encoders.engines import make_engine  # noqa: E402
from cxr_embed.encoders.mini.pixels import SIDE, standardise  # noqa: E402
from cxr_embed.encoders.mini.tower import tower as graph  # noqa: E402
from cxr_embed.phantom import render_study, write_phantoms  # noqa: E402


def cases_of(count: int, findings: tuple[str, ...], seed: int = 0) -> Cases:
    rng = np.random.default_rng(seed)
    return Cases(
        ids=np.array([f"{seed}-{number}" for number in range(count)]),
        pixels=rng.integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8),
        labels=rng.integers(0, 2, (count, len(findings))).astype(np.float32),
        traits=np.zeros((count, 3), np.float32),
        patients=np.array([f"p{number // 2}" for number in range(count)]),
        places=rng.integers(0, 256, (count, len(MARKED), CELLS, CELLS), dtype=np.uint8),
        placed=np.ones(count, bool),
        findings=findings,
    )


def test_training_and_runtime_see_the_same_pixels() -> None:
    pixels = cases_of(3, ("Mass",)).pixels
    pixels[2] = 7  # blank
    seen = standardised(torch.from_numpy(pixels[:, None]).float() / 255).numpy()
    np.testing.assert_allclose(seen[:, 0], standardise(pixels.astype(np.float32) / 127.5 - 1), atol=2e-5)


def test_undistorted_at_strength_zero() -> None:
    cases = cases_of(4, ("Mass",))
    pixels, places = torch.from_numpy(cases.pixels), torch.from_numpy(cases.places)
    still, there = distorted(pixels, places, 0.0, False, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(there, places.float() / 255, atol=1e-4)
    np.testing.assert_allclose(still, standardised(pixels[:, None].float().div(255).clamp(min=1e-3)), atol=1e-4)


def test_mirrors_half_and_depends_on_the_generator_alone() -> None:
    cases = cases_of(1, ("Mass",)).take(np.zeros(64, int))
    pixels, places = torch.from_numpy(cases.pixels), torch.from_numpy(cases.places)
    (first, there), (again, _) = (distorted(pixels, places, 0.0, True, torch.Generator().manual_seed(3)) for _ in "ab")
    assert torch.equal(first, again)
    plain = standardised(pixels[:1, None].float() / 255)
    kept = [bool((image - plain[0]).abs().max() < 0.1) for image in first]
    mirrored = [bool((image - plain[0].flip(-1)).abs().max() < 0.1) for image in first]
    assert all(a != b for a, b in zip(kept, mirrored, strict=True))
    as_places = [bool((one - places[0].flip(-1) / 255).abs().max() < 0.01) for one in there]
    assert as_places == mirrored  # places go where the pixels go
    assert 16 < sum(mirrored) < 48


def test_joined_leaves_unknown_what_a_part_does_not_tell() -> None:
    both = joined([cases_of(3, ("Mass", "Edema")), cases_of(2, ("Edema", "Nodule"), seed=1)])
    assert both.findings == ("Mass", "Edema", "Nodule")
    assert np.isnan(both.labels).tolist() == [[False, False, True]] * 3 + [[True, False, False]] * 2
    assert len(both.take(np.array([0, 4])).ids) == 2


def test_unknown_labels_and_traits_cost_nothing() -> None:
    findings, others = torch.tensor([[2.0, -50.0]]), torch.tensor([[50.0, -50.0, 50.0]])
    labels, traits = torch.tensor([[1.0, torch.nan]]), torch.full((1, 3), torch.nan)
    assert float(loss_of(findings, others, labels, traits, 0.2)) == pytest.approx(np.log1p(np.exp(-2.0)))


def test_places_are_learned_where_they_are_known() -> None:
    """The right cells cost less than none, none less than wrong ones; a folder without masks has no such loss."""
    covered = torch.zeros(1, 1, 4, 4)
    covered[0, 0, 1, 2] = 2 * COVERED
    logits = [torch.full((1, 1, 4, 4), -4.0) for _ in range(3)]
    logits[0][0, 0, 1, 2], logits[2][0, 0, 3, 0] = 4.0, 4.0
    right, nothing, wrong = (float(loss_of_places(one, covered)) for one in logits)
    assert right < nothing < wrong
    assert right == pytest.approx(np.log1p(np.exp(-4.0)) * (15 + 8) / 16, rel=1e-5)


def test_only_a_folder_with_masks_teaches_places() -> None:
    marked = cases_of(32, MARKED)
    torch.manual_seed(0)
    untouched = Model(len(MARKED)).places.bias
    taught, plain = (
        train(replace(marked, placed=np.full(32, placed)), Plan(epochs=1, mixup=0.0), 0) for placed in (True, False)
    )
    assert torch.equal(plain.places.bias, untouched)
    assert not torch.equal(taught.places.bias, untouched)


def test_places_are_read_from_masks(tmp_path: Path) -> None:
    studies = write_phantoms(tmp_path / "phantoms", 6, seed=3, size=256, masks=True)
    cases = load_cases(tmp_path / "phantoms")
    assert cases.placed.all()
    for study, places in zip(studies, cases.places, strict=True):
        masks = render_study(study, 256).masks
        for number, finding in enumerate(MARKED):
            share = masks[finding].mean() if finding in masks else 0
            assert places[number].mean() / 255 == pytest.approx(share, abs=0.005)
    shutil.rmtree(tmp_path / "phantoms" / "masks")
    assert not load_cases(tmp_path / "phantoms").placed.any()


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
