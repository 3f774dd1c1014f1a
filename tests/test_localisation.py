"""Figures of one heat map against plain references: loops over pixels and pairs."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from cxr_embed.explanation.choosing import FOLDS, chosen_on_others, folds_of
from cxr_embed.explanation.placing import placed
from cxr_embed.metrics.localisation import (
    energy_inside,
    iou,
    ious_above,
    normalised,
    otsu_mask,
    pixel_auroc,
    pointing_hit,
)

SIDES = st.tuples(st.integers(1, 9), st.integers(1, 9))
GREYS = st.integers(0, 12).map(float)


@st.composite
def maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """A map of few values, so that there are ties, and a mask of at least one pixel."""
    shape = draw(SIDES)
    values = draw(arrays(np.float32, shape, elements=GREYS))
    mask = draw(arrays(np.bool_, shape))
    mask[draw(st.integers(0, shape[0] - 1)), draw(st.integers(0, shape[1] - 1))] = True
    return values, mask


@given(maps(), st.lists(st.sampled_from([0.1, 0.25, 0.5, 0.9]), min_size=1, max_size=3))
@settings(max_examples=60, deadline=None)
def test_figures_are_those_of_loops_over_pixels(drawn: tuple[np.ndarray, np.ndarray], thresholds: list[float]) -> None:
    values, mask = drawn
    low, high = float(values.min()), float(values.max())
    plain = [[(float(v) - low) / (high - low) if high > low else 0.0 for v in row] for row in values]
    pixels = [(plain[r][c], bool(mask[r, c])) for r in range(len(plain)) for c in range(len(plain[0]))]
    unit = normalised(values)
    assert np.allclose(unit, plain, atol=1e-7)

    first = max(range(len(pixels)), key=lambda n: (pixels[n][0], -n))
    assert pointing_hit(unit, mask) == pixels[first][1]

    total = sum(value for value, _ in pixels)
    inside = sum(value for value, here in pixels if here)
    assert math.isclose(energy_inside(unit, mask), inside / total if total else 0, abs_tol=1e-6)

    pairs = [(a, b) for a, inner in pixels if inner for b, other in pixels if not other]
    if pairs:
        above = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs) / len(pairs)
        assert math.isclose(pixel_auroc(unit, mask), above, abs_tol=1e-9)
    else:
        assert math.isnan(pixel_auroc(unit, mask))

    for threshold, found in zip(thresholds, ious_above(unit, mask, thresholds), strict=True):
        both = sum(value > np.float32(threshold) and here for value, here in pixels)
        either = sum(value > np.float32(threshold) or here for value, here in pixels)
        assert math.isclose(found, both / either)
        assert math.isclose(iou(unit > threshold, mask), both / either)


def test_the_area_by_pixel_of_many_values_is_that_of_ranks() -> None:
    from cxr_embed.metrics import auroc

    rng = np.random.default_rng(1)
    values, mask = normalised(rng.random((80, 90), np.float32) ** 2), rng.random((80, 90)) < 0.2
    exact = auroc(mask.ravel(), values.ravel()).value
    assert pixel_auroc(values, mask) == pytest.approx(exact, abs=2e-5)


@given(arrays(np.float32, SIDES, elements=st.floats(0, 1, width=32)))
@settings(max_examples=40, deadline=None)
def test_otsu_takes_the_grey_that_sets_the_classes_furthest_apart(values: np.ndarray) -> None:
    unit = normalised(values)
    greys = [int(np.float32(255) * value) for value in unit.ravel()]
    spreads: dict[int, Fraction] = {}
    for cut in range(256):
        low = [grey for grey in greys if grey <= cut]
        high = [grey for grey in greys if grey > cut]
        if low and high:
            apart = Fraction(sum(low), len(low)) - Fraction(sum(high), len(high))
            spreads[cut] = apart**2 * len(low) * len(high)
    best = [cut for cut, spread in spreads.items() if spread == max(spreads.values())]
    assume(len({sum(grey > cut for grey in greys) for cut in best}) <= 1)  # rounding decides between equal ones
    level = best[0] if best else None
    above = np.array([level is not None and grey > level for grey in greys]).reshape(unit.shape)
    rows, columns = above.shape

    def around(r: int, c: int, step: int) -> list[tuple[int, int]]:
        near = [(r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if 0 < abs(i) + abs(j) <= step]
        return [(i, j) for i, j in near if 0 <= i < rows and 0 <= j < columns]

    alone = [(r, c) for r, c in np.argwhere(above) if not any(above[i, j] for i, j in around(r, c, 2))]
    for r, c in alone:
        above[r, c] = False
    # What the outside cannot reach is a hole.
    outside = {(r, c) for r, c in np.argwhere(~above) if r in (0, rows - 1) or c in (0, columns - 1)}
    while more := {n for p in outside for n in around(*p, 1) if not above[n]} - outside:
        outside |= more
    expected = np.array([[(r, c) not in outside for c in range(columns)] for r in range(rows)])
    assert (otsu_mask(unit) == expected).all()


@pytest.mark.parametrize(
    ("grid", "shape"), [((7, 7), (50, 64)), ((12, 16), (48, 64)), ((40, 30), (21, 13)), ((1, 1), (5, 4))]
)
def test_a_map_over_the_whole_picture_is_interpolated_as_by_torch(
    grid: tuple[int, int], shape: tuple[int, int]
) -> None:
    torch = pytest.importorskip("torch")
    values = np.random.default_rng(2).standard_normal(grid).astype(np.float32)
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size=shape, mode="bilinear", align_corners=False
    )
    laid = placed(values, (0, 0, shape[1], shape[0]), shape)
    assert laid.dtype == np.float32
    assert np.abs(laid - whole[0, 0].numpy()).max() < 1e-5


def test_a_map_of_a_part_stands_in_its_place_and_claims_nothing_elsewhere() -> None:
    grid = np.array([[1, 2], [3, 5]], np.float32)
    laid = placed(grid, (4, 2, 6, 8), (12, 16))
    part = placed(grid, (0, 0, 6, 8), (8, 6))
    assert np.allclose(laid[2:10, 4:10], part)
    laid[2:10, 4:10] = 1
    assert (laid == 1).all()
    # Padded by 8 columns on both sides: the middle of a map of the padded square.
    wide = placed(np.arange(16, dtype=np.float32)[None].repeat(4, 0), (-8, 0, 32, 32), (32, 16))
    assert np.allclose(
        wide, placed(np.arange(16, dtype=np.float32)[None].repeat(4, 0), (0, 0, 32, 32), (32, 32))[:, 8:24]
    )


@given(
    arrays(np.float64, st.tuples(st.integers(1, 12), st.just(4)), elements=st.floats(0, 1)),
    st.integers(0, 3),
    st.data(),
)
@settings(max_examples=40, deadline=None)
def test_a_threshold_is_the_best_of_other_patients(ious: np.ndarray, seed: int, data: st.DataObject) -> None:
    owners = np.array(data.draw(st.lists(st.integers(0, 6), min_size=len(ious), max_size=len(ious))))
    folds = folds_of(owners, seed)
    patients = set(owners.tolist())
    assert len(set(folds.tolist())) == min(FOLDS, len(patients))
    assert all(len(set(folds[owners == patient].tolist())) == 1 for patient in patients)
    found, thresholds = chosen_on_others(ious, folds, [0.2, 0.4, 0.6, 0.8])
    for row in range(len(ious)):
        others = [ious[n] for n in range(len(ious)) if folds[n] != folds[row]]
        if not others:
            assert np.isnan(found[row])
            assert thresholds == []
            continue
        means = np.mean(others, axis=0)
        assert found[row] == ious[row, int(np.argmax(means))]


def test_a_patients_own_maps_do_not_choose_their_threshold() -> None:
    ious, owners = np.random.default_rng(3).random((10, 5)), np.arange(10) // 2
    folds, steps = folds_of(owners, 0), [0.1, 0.2, 0.3, 0.4, 0.5]
    _, before = chosen_on_others(ious, folds, steps)
    changed = ious.copy()
    changed[folds == 2, 4] = 9
    _, after = chosen_on_others(changed, folds, steps)
    assert after[2] == before[2]
    assert after != before
