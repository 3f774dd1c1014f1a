"""Are heat maps where the findings are? Maps and marks to figures with intervals by patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxr_embed.cases.findings import chosen_findings, match_names
from cxr_embed.errors import MapError
from cxr_embed.explanation.choosing import GIVEN, OTHER_PATIENTS, OTSU, chosen_ious
from cxr_embed.explanation.measuring import Measured, measure
from cxr_embed.explanation.places import Places
from cxr_embed.explanation.record import MapFolder, MapRecord
from cxr_embed.explanation.result import FIGURES, ImagePlace, MapEvaluation, PlaceFigures
from cxr_embed.metrics import Estimate
from cxr_embed.metrics.intervals import Scale
from cxr_embed.metrics.retrieval import means_by_patient
from cxr_embed.types import counted

THRESHOLDS = tuple(round(0.1 * step, 1) for step in range(1, 10))
_FEW = 20  # patients
_MARKS, _REACH = 10, 0.6  # marks of which none goes further than this part of the picture's sides are odd
_UNDEFINED = {
    "iou": "its threshold is chosen on other patients, and there are none",
    "auroc": "all of each picture is marked",
}
Threshold = str | float | Mapping[str, float]


def evaluate_places(
    maps: MapFolder,
    places: Places,
    *,
    untrained: MapFolder | None = None,
    findings: Sequence[str] = (),
    threshold: Threshold = OTHER_PATIENTS,
    bootstraps: int = 1000,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> MapEvaluation:
    """Holds heat maps against what people marked, beside maps that know nothing of the picture.

    Args:
        maps: the maps.
        places: the marks.
        untrained: the same maps with the encoder's weights drawn at random.
        findings: that are looked at; all that have maps and marks by default.
        threshold: of the IoU. `other-patients`: of 0.1, 0.2, ... 0.9 the one that is best on patients in other folds;
            `otsu`: each map's own; a number for all, or one a finding.
        bootstraps, seed: of the intervals; the seed is that of the random maps and the folds too.
        progress: called with a word, what is done and how much there is.

    Raises:
        MapError, CasesError: for maps and marks that do not go together.
    """
    names, places, notes = _chosen(maps, places, findings)
    rule, own = _rule(threshold, names)
    records = [each for each in maps.maps if each.finding in names]
    marked = [each for each in records if (each.image_id, each.finding) in places.marks]
    if not marked:
        raise MapError(_nothing(maps, places, names))
    steps = (*THRESHOLDS, *sorted({*own.values()} - {*THRESHOLDS}))
    measured = measure(
        maps, marked, places, untrained, thresholds=steps, otsu=rule == OTSU, seed=seed, progress=progress
    )
    if not measured.records:
        raise MapError(f"{places.source}: the masks of {_listed(names)} are empty in all images that have maps")
    run = _run(measured, names, rule, own, steps, bootstraps, seed)
    without_map = {*places.marks} - {(e.image_id, e.finding) for e in records}
    return MapEvaluation(
        about=maps.about,
        places=places.source,
        findings=tuple(run.figures(name, [rows]) for name, rows in run.rows.items()),
        mean=run.figures("mean of findings", list(run.rows.values())),
        pooled=run.figures("all pooled", [np.ones(len(measured.records), bool)]),
        rule=rule,
        thresholds=THRESHOLDS,
        images=run.images(),
        bootstraps=bootstraps,
        seed=seed,
        notes=(*notes, *run.notes(len(records) - len(measured.records), len(without_map))),
    )


def _chosen(maps: MapFolder, places: Places, findings: Sequence[str]) -> tuple[list[str], Places, list[str]]:
    """Findings that are looked at, their marks under the maps' names, and what is left out or matched."""
    mapped = list(dict.fromkeys(each.finding for each in maps.maps))
    wanted = chosen_findings(findings, mapped, str(maps.root))
    matched = dict(zip(wanted, match_names(wanted, places.findings, "maps"), strict=True))
    missing = [name for name in wanted if matched[name] is None]
    if missing and (findings or len(missing) == len(wanted)):
        of = _listed(missing if findings else mapped)
        raise MapError(f"{places.source}: marks of {_listed(places.findings)}; the maps are of {of}")
    marks = {name: mark for name, mark in matched.items() if mark is not None}
    unmapped = [mark for mark in places.findings if mark not in marks.values()]
    notes = [f"nobody marked {_listed(missing)}: these maps take no part"] if missing else []
    notes += [f"no maps of {_listed(unmapped)}, which are marked"] if unmapped and not findings else []
    other = [f"{mark} = {name}" for name, mark in marks.items() if mark != name]
    notes += [f"marks matched by a like name or the vocabulary of findings: {', '.join(other)}"] if other else []
    under = {
        (image, name): places.marks[image, mark]
        for name, mark in marks.items()
        for image, finding in places.marks
        if finding == mark
    }
    return list(marks), replace(places, marks=under), notes


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:8]) or "none"
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def _nothing(maps: MapFolder, places: Places, names: Sequence[str]) -> str:
    """Why no map has a mark."""
    marked = {image for image, _ in places.marks}
    images = {each.image_id for each in maps.maps}
    if not marked & images:
        pair = next(iter(sorted(marked))), next(iter(sorted(images)))
        return f"{places.source}: no image in common with {maps.root}: {pair[0]!r} there, {pair[1]!r} here"
    return f"{places.source}: no mark of {_listed(names)} in the images that have maps of them"


def _rule(threshold: Threshold, names: Sequence[str]) -> tuple[str, dict[str, float]]:
    """How the threshold is chosen, and the known one of each finding."""
    if isinstance(threshold, str):
        if threshold not in (OTHER_PATIENTS, OTSU):
            raise MapError(f"`threshold` is {OTHER_PATIENTS}, {OTSU}, a number or one a finding, not {threshold!r}")
        return threshold, {}
    given = dict(threshold) if isinstance(threshold, Mapping) else dict.fromkeys(names, threshold)
    if missing := [name for name in names if name not in given]:
        raise MapError(f"`threshold` has none for {_listed(missing)}")
    own = {name: float(given[name]) for name in names}
    if not all(0 <= value < 1 for value in own.values()):
        raise MapError("`threshold` is a part of the map's highest value, from 0 to below 1")
    return GIVEN, own


@dataclass(frozen=True, kw_only=True)
class _Run:
    measured: Measured
    owners: np.ndarray  # (N,) numbers of patients
    rows: Mapping[str, np.ndarray]  # (N,) bool by finding
    values: np.ndarray  # (S, N, F) every figure
    taken: Mapping[str, Sequence[tuple[float, ...]]]  # thresholds of each source, by finding
    bootstraps: int
    seed: int

    def figures(self, name: str, parts: Sequence[np.ndarray]) -> PlaceFigures:
        """Means over some maps, or over several sets of them."""
        sources, every = self.measured.sources, np.any(parts, axis=0)
        minus = self.values[:1] - self.values[1:]
        grid = self.measured.ious[..., : len(THRESHOLDS)]
        return PlaceFigures(
            name=name,
            images=int(every.sum()),
            patients=len(np.unique(self.owners[every])),
            area=float(np.mean([self.measured.area[part].mean() for part in parts])),
            figures=self._means(sources, self.values, parts, "part"),
            differences=self._means(sources[1:], minus, parts, "difference"),
            thresholds={s: self.taken[name][n] for n, s in enumerate(sources)} if name in self.taken else {},
            by_threshold={
                source: np.mean([grid[n, part].mean(axis=0) for part in parts], axis=0)
                for n, source in enumerate(sources)
            },
        )

    def _means(
        self, sources: Sequence[str], values: np.ndarray, parts: Sequence[np.ndarray], scale: Scale
    ) -> dict[str, dict[str, Estimate]]:
        """Means of `values` `(S, N, F)` by source and figure. A set without a figure has no part in its mean."""
        found: dict[str, dict[str, Estimate]] = {source: {} for source in sources}
        for number, name in enumerate(FIGURES):
            column = values[..., number].T  # (N, S)
            kept = [part for part in parts if not np.isnan(column[part]).all()]
            means = [Estimate(None, reason=_UNDEFINED.get(name, "not defined"))] * len(sources)
            if kept:
                owners = [self.owners[part] for part in kept]
                means = means_by_patient([column[part] for part in kept], owners, scale, self.bootstraps, [self.seed])
            for source, mean in zip(sources, means, strict=True):
                found[source][name] = mean
        return found

    def images(self) -> tuple[ImagePlace, ...]:
        """The figures of each map."""
        return tuple(
            ImagePlace(
                image_id=record.image_id,
                patient_id=record.patient_id,
                finding=record.finding,
                area=float(self.measured.area[row]),
                figures={
                    source: dict(zip(FIGURES, self.values[n, row].tolist(), strict=True))
                    for n, source in enumerate(self.measured.sources)
                },
            )
            for row, record in enumerate(self.measured.records)
        )

    def notes(self, unmarked: int, without_map: int) -> list[str]:
        """What limits the figures."""
        notes = []
        if unmarked:
            have = counted(unmarked, "map is", "maps are")
            notes.append(f"{have} of images in which nobody marked the finding, and left out")
        if without_map:
            notes.append(f"{counted(without_map, 'marked image has', 'marked images have')} no map of the finding")
        if self.measured.flat:
            notes.append(f"{counted(self.measured.flat, 'map has', 'maps have')} one value everywhere: no hit, IoU 0")
        if len(self.measured.records) >= _MARKS and self.measured.reach < _REACH:
            notes.append(
                "all marks are in the upper left of their pictures: were they drawn on smaller ones? See `drawn_on`"
            )
        return [*notes, *without_patients(self.measured.records), *few_patients(self.rows, self.owners)]


def without_patients(records: Sequence[MapRecord]) -> list[str]:
    """A note on images whose patient nobody named; none where there is no such image."""
    lacking = len({each.image_id for each in records if not each.patient_id})
    if not lacking:
        return []
    stands = counted(lacking, "image has", "images have")
    return [f"{stands} no patient_id: each stands for a patient of its own, and intervals may be too narrow"]


def few_patients(rows: Mapping[str, np.ndarray], owners: np.ndarray) -> list[str]:
    """A note on findings of few patients; none where there is no such finding.

    Args:
        rows: `(N,)` bool by finding.
        owners: `(N,)` numbers of patients.
    """
    few = [f"{name} ({count})" for name, here in rows.items() if (count := len(np.unique(owners[here]))) < _FEW]
    return [f"fewer than {_FEW} patients: {_listed(few)}"] if few else []


def _run(
    measured: Measured,
    names: Sequence[str],
    rule: str,
    own: Mapping[str, float],
    steps: Sequence[float],
    bootstraps: int,
    seed: int,
) -> _Run:
    # A patient that nobody named is the image's own.
    owners = np.unique([e.patient_id or f"\0{e.image_id}" for e in measured.records], return_inverse=True)[1]
    of = np.array([each.finding for each in measured.records])
    rows = {name: of == name for name in names if (of == name).any()}
    iou, taken = chosen_ious(
        measured.ious,
        measured.otsu,
        rows,
        owners,
        rule=rule,
        own=own,
        steps=steps,
        grid=len(THRESHOLDS),
        seed=seed,
    )
    mean_iou = measured.ious[..., : len(THRESHOLDS)].mean(axis=2)
    values = np.stack([measured.hit, iou, mean_iou, measured.energy, measured.auroc], axis=2)
    return _Run(
        measured=measured, owners=owners, rows=rows, values=values, taken=taken, bootstraps=bootstraps, seed=seed
    )
