"""One map after another against its mask, beside a bell at the centre, random numbers, an untrained encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from cxr_embed.errors import MapError
from cxr_embed.explanation.places import Places
from cxr_embed.explanation.placing import placed
from cxr_embed.explanation.record import MapFolder, MapRecord
from cxr_embed.explanation.result import CENTRE, MAP, RANDOM, UNTRAINED
from cxr_embed.io.digests import sha256_hex
from cxr_embed.metrics.localisation import (
    energy_inside,
    iou,
    ious_above,
    normalised,
    otsu_mask,
    pixel_auroc,
    pointing_hit,
)

_BELL = 4  # sides of the picture are so many standard deviations


@dataclass(frozen=True, kw_only=True)
class Measured:
    """N maps whose finding is marked, and S sources: the map, and what it is held against.

    Attributes:
        records: of the maps.
        sources: their names.
        area: `(N,)` parts of the pictures that are marked.
        hit, energy, auroc: `(S, N)`.
        ious: `(S, N, T)` above each threshold.
        otsu: `(S, N)` IoU by Otsu's threshold; NaN where it was not asked for.
        flat: maps that have one value everywhere.
        reach: how far marks go, of all: the last marked row and column, as a part of the picture's sides.
    """

    records: Sequence[MapRecord]
    sources: tuple[str, ...]
    area: np.ndarray
    hit: np.ndarray
    energy: np.ndarray
    auroc: np.ndarray
    ious: np.ndarray
    otsu: np.ndarray
    flat: int
    reach: float


def measure(
    maps: MapFolder,
    records: Sequence[MapRecord],
    places: Places,
    untrained: MapFolder | None,
    *,
    thresholds: Sequence[float],
    otsu: bool,
    seed: int,
    progress: Callable[[str, int, int], None] | None,
) -> Measured:
    """Looks at every map of `records` whose finding is marked in its image.

    Raises:
        MapError: for maps that cannot be read, marks that do not fit, or an untrained map that is missing.
    """
    others = {(each.image_id, each.finding): each for each in untrained.maps} if untrained is not None else {}
    sources = (MAP, CENTRE, RANDOM, *([UNTRAINED] if untrained is not None else []))
    kept, areas, found, flat, reach = [], [], [], 0, 0.0
    for number, record in enumerate(records):
        if progress is not None:
            progress("maps", number, len(records))
        mask = places.mask(record.image_id, record.finding, record.shape)
        if not mask.any():
            continue
        grid = maps.load(record)
        flat += int(np.ptp(grid) == 0)
        random = noise(grid.shape, record.image_id, record.finding, seed)
        laid = [placed(grid, *_over(record)), None, placed(random, *_over(record))]
        if untrained is not None:
            laid.append(baseline_of(untrained, others.get((record.image_id, record.finding)), record))
        ends = (int(np.flatnonzero(mask.any(axis=axis))[-1]) + 1 for axis in (1, 0))
        reach = max(reach, *(end / side for end, side in zip(ends, record.shape, strict=True)))
        kept.append(record)
        areas.append(mask.mean())
        found.append(
            [_figures(bell(record.shape) if v is None else normalised(v), mask, thresholds, otsu) for v in laid]
        )
    values = np.array(found, np.float64).reshape(len(kept), len(sources), 4 + len(thresholds)).transpose(1, 0, 2)
    return Measured(
        records=kept,
        sources=sources,
        area=np.array(areas, np.float64),
        hit=values[..., 0],
        energy=values[..., 1],
        auroc=values[..., 2],
        otsu=values[..., 3],
        ious=values[..., 4:],
        flat=flat,
        reach=reach,
    )


def _figures(values: np.ndarray, mask: np.ndarray, thresholds: Sequence[float], otsu: bool) -> list[float]:
    by_otsu = iou(otsu_mask(values), mask) if otsu else float("nan")
    figures = [pointing_hit(values, mask), energy_inside(values, mask), pixel_auroc(values, mask), by_otsu]
    return [*figures, *ious_above(values, mask, thresholds).tolist()]


def _over(record: MapRecord) -> tuple[tuple[float, float, float, float], tuple[int, int]]:
    return record.area, record.shape


def noise(shape: tuple[int, ...], image_id: str, finding: str, seed: int) -> np.ndarray:
    """Random numbers on a map's own grid: the same for a map whatever others are looked at."""
    named = int(sha256_hex(f"{image_id}\0{finding}".encode())[:16], 16)
    return np.random.default_rng([seed, named]).random(shape, np.float32)


@lru_cache(maxsize=4)
def bell(shape: tuple[int, int]) -> np.ndarray:
    """`shape` float32, normalised: highest at the centre."""
    down, across = (((np.arange(side) + 0.5) / side - 0.5) * _BELL for side in shape)
    return normalised(np.exp(-(down[:, None] ** 2 + across**2) / 2).astype(np.float32))


def baseline_of(folder: MapFolder, other: MapRecord | None, record: MapRecord) -> np.ndarray:
    """The same map of an encoder that knows nothing, laid over the picture.

    Raises:
        MapError: where there is none, or it is of another picture.
    """
    what = f"{folder.root}: no map of {record.finding} in {record.image_id}"
    if other is None:
        raise MapError(f"{what}; make the same maps with `explain --random-weights`")
    if other.shape != record.shape:
        raise MapError(f"{what} of {record.width} x {record.height} pixels; explain the same pictures")
    return placed(folder.load(other), other.area, other.shape)
