"""Insertion and deletion curves of a folder's maps, beside maps that know nothing, with intervals by patient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cxr_embed.choices import Fill
from cxr_embed.errors import MapError
from cxr_embed.explanation.curve_result import CurveEvaluation, CurveFigures, ImageCurves, curves_named
from cxr_embed.explanation.curves import (
    AN_ORDER,
    CURVES,
    ENDS,
    Scores,
    areas_under,
    curves_of,
    ends_of,
    fill_of,
    ranks_of,
)
from cxr_embed.explanation.evaluating import few_patients, without_patients
from cxr_embed.explanation.hiding import Hidden
from cxr_embed.explanation.making import Case, read_cases, time_of
from cxr_embed.explanation.measuring import baseline_of, bell, noise
from cxr_embed.explanation.placing import placed
from cxr_embed.explanation.record import MapFolder, MapRecord
from cxr_embed.explanation.result import CENTRE, MAP, RANDOM, UNTRAINED
from cxr_embed.io.digests import sha256_hex
from cxr_embed.metrics import Estimate
from cxr_embed.metrics.intervals import Scale
from cxr_embed.metrics.retrieval import means_by_patient
from cxr_embed.types import CxrImage, counted

OF_ALL = ""  # in the place of a finding: of random maps that serve all findings of an image


@dataclass(frozen=True, kw_only=True)
class CurveRun:
    """What is measured, and how.

    Attributes:
        maps: the maps.
        untrained: the same maps with the encoder's weights drawn at random; None without.
        records: of the maps that take part, by image.
        names: of the findings, in the order of the scores.
        scores: embeds pictures and reads the scores `(B, T)` off.
        score: what they are, in a word.
        bootstraps, seed: of the intervals; the seed is that of random maps and of the order of equal values too.
    """

    maps: MapFolder
    untrained: MapFolder | None
    records: Mapping[str, Sequence[MapRecord]]
    names: Sequence[str]
    scores: Scores
    score: str
    bootstraps: int
    seed: int

    @property
    def fill(self) -> Fill:
        """What hides pixels: as the maps' folder has it."""
        return fill_of(self.maps.about.get("fill"))

    @property
    def sources(self) -> tuple[str, ...]:
        """The map, and what it is held against."""
        return (MAP, CENTRE, RANDOM, *([UNTRAINED] if self.untrained is not None else []))

    @property
    def pictures(self) -> int:
        """How many pictures the encoder sees."""
        own = 1 if self.untrained is None else 2
        return sum(ENDS + AN_ORDER * (2 + own * len(records)) for records in self.records.values())


@dataclass
class _Found:
    """Curves `(S, 2, 17)` of each map, and what went wrong."""

    records: list[MapRecord] = field(default_factory=list)
    curves: list[np.ndarray] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    flat: int = 0


def evaluate_curves_of(
    run: CurveRun,
    cases: Sequence[Case],
    root: Path,
    *,
    announce: Callable[[str], object],
    progress: Callable[[str, int, int], object],
    notes: Sequence[str] = (),
) -> CurveEvaluation:
    """Measures every map of `run.records`.

    Args:
        run: what is measured.
        cases: the images of these maps.
        root: the folder that their paths are below.
        announce: called with what it will cost, before it begins.
        progress: called with a word, the pictures embedded and how many there are.
        notes: of the choice of maps.

    Raises:
        MapError: for maps that cannot be read, an untrained map that is missing, or where no image can be read.
    """
    found, seen, announced = _Found(), 0, False

    def scores(pictures: Sequence[CxrImage]) -> np.ndarray:
        nonlocal seen
        seen += len(pictures)
        progress("curves", min(seen, run.pictures), run.pictures)
        return run.scores(pictures)

    for batch in read_cases(cases, root, lambda case, image: (case, image)):
        for case, image in batch:
            records = run.records[case.image_id]
            if why := _unfit(records, image):
                found.failed[case.image_id] = why
            elif isinstance(image, CxrImage):
                if not announced:
                    announce(f"insertion and deletion embed {time_of(run.scores, image, run.pictures)}")
                    announced = True
                found.records += records
                found.curves += _curves(run, scores, image, records, found)
    if not found.records:
        raise MapError(f"no picture of these maps can be used: {next(iter(found.failed.values()))}")
    return _evaluation(run, found, notes)


def _unfit(records: Sequence[MapRecord], image: CxrImage | str) -> str:
    """Why an image takes no part; blank where it does."""
    if isinstance(image, str):
        return image
    rows, columns = image.pixels.shape
    other = next((each for each in records if each.shape != (rows, columns)), None)
    if other is None:
        return ""
    return f"{columns} x {rows} pixels, its map is of {other.width} x {other.height}; name the pictures that it is of"


def _curves(
    run: CurveRun, scores: Scores, image: CxrImage, records: Sequence[MapRecord], found: _Found
) -> Iterator[np.ndarray]:
    """`(S, 2, 17)` of each map of an image."""
    hidden = Hidden(image, run.fill)
    ends = ends_of(scores, image, hidden)
    named = int(sha256_hex(records[0].image_id.encode())[:16], 16)

    def of(values: np.ndarray) -> np.ndarray:
        return curves_of(scores, hidden, ends, ranks_of(values, [run.seed, named]))

    first = run.maps.load(records[0])
    centre = of(bell(records[0].shape))
    chance = of(placed(noise(first.shape, records[0].image_id, OF_ALL, run.seed), records[0].area, records[0].shape))
    beside = {(each.image_id, each.finding): each for each in run.untrained.maps} if run.untrained is not None else {}
    for record in records:
        grid = first if record is records[0] else run.maps.load(record)
        found.flat += int(np.ptp(grid) == 0)
        orders = [of(placed(grid, record.area, record.shape)), centre, chance]
        if run.untrained is not None:
            other = beside.get((record.image_id, record.finding))
            orders.append(of(baseline_of(run.untrained, other, record)))
        yield np.stack(orders)[..., run.names.index(record.finding)]


def _evaluation(run: CurveRun, found: _Found, notes: Sequence[str]) -> CurveEvaluation:
    curves = np.stack(found.curves)  # (N, S, 2, 17)
    areas = areas_under(curves)  # (N, S, 2)
    of = np.array([each.finding for each in found.records])
    # A patient that nobody named is the image's own.
    owners = np.unique([e.patient_id or f"\0{e.image_id}" for e in found.records], return_inverse=True)[1]
    rows = {name: of == name for name in run.names if (of == name).any()}
    every = np.ones(len(of), bool)

    def figures(name: str, parts: Sequence[np.ndarray]) -> CurveFigures:
        return _figures(run, name, parts, curves, areas, owners)

    flat = [f"{counted(found.flat, 'map has', 'maps have')} one value everywhere: its pixels come in a random order"]
    limits = [*(flat if found.flat else []), *without_patients(found.records), *few_patients(rows, owners)]
    return CurveEvaluation(
        about=run.maps.about,
        score=run.score,
        fill=run.fill,
        findings=tuple(figures(name, [part]) for name, part in rows.items()),
        mean=figures("mean of findings", list(rows.values())),
        pooled=figures("all pooled", [every]),
        images=tuple(
            ImageCurves(
                image_id=record.image_id,
                patient_id=record.patient_id,
                finding=record.finding,
                areas={
                    source: dict(zip(CURVES, values.tolist(), strict=True))
                    for source, values in zip(run.sources, area, strict=True)
                },
            )
            for record, area in zip(found.records, areas, strict=True)
        ),
        bootstraps=run.bootstraps,
        seed=run.seed,
        failed=found.failed,
        notes=(*notes, *limits),
    )


def _figures(
    run: CurveRun, name: str, parts: Sequence[np.ndarray], curves: np.ndarray, areas: np.ndarray, owners: np.ndarray
) -> CurveFigures:
    """Means over some maps, or over several sets of them."""
    every, parted = np.any(parts, axis=0), run.score == "probability"

    def means(values: np.ndarray, scale: Scale) -> dict[str, dict[str, Estimate]]:
        """Of `values` `(N, S, 2)`, by source and curve."""
        flat = [values[part].reshape(int(part.sum()), -1) for part in parts]
        found = means_by_patient(flat, [owners[part] for part in parts], scale, run.bootstraps, [run.seed])
        pairs = [dict(zip(CURVES, found[n : n + 2], strict=True)) for n in range(0, len(found), 2)]
        return dict(zip(run.sources[-len(pairs) :], pairs, strict=True))

    shown = np.mean([curves[part].mean(axis=0) for part in parts], axis=0)  # (S, 2, 17)
    return CurveFigures(
        name=name,
        images=int(every.sum()),
        patients=len(np.unique(owners[every])),
        figures=means(areas, "part" if parted else "plain"),
        differences=means(areas[:, :1] - areas[:, 1:], "difference" if parted else "plain"),
        curves={source: curves_named(values) for source, values in zip(run.sources, shown, strict=True)},
    )
