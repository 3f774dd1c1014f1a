"""Are heat maps where the findings are: maps and marks to figures."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cxr_embed.api.inputs import Progress, StrPath, progress_or_bar
from cxr_embed.api.tabular import Tabular
from cxr_embed.arguments import checked_arguments
from cxr_embed.errors import ManifestError, MapError
from cxr_embed.explanation.chexlocalize import has_pickled_maps, read_pickled_maps
from cxr_embed.explanation.choosing import OTHER_PATIENTS, OTSU
from cxr_embed.explanation.curve_result import CurveFigures
from cxr_embed.explanation.evaluating import Threshold, evaluate_places
from cxr_embed.explanation.places import picture_shape, read_places
from cxr_embed.explanation.record import HEADER, MapFolder, read_maps
from cxr_embed.explanation.result import FIGURES, MAP, MapEvaluation, PlaceFigures
from cxr_embed.manifest.rows import read_rows
from cxr_embed.present.numbers import PLAIN


class MapEvaluationResult(MapEvaluation, Tabular):
    """An evaluation of heat maps that prints well and gives tables."""

    def __repr__(self) -> str:
        lines = []
        for part in self._parts():
            at = part.figures
            others = ", ".join(f"{name} {PLAIN.number(at[name]['hit_rate'].value)}" for name in at if name != MAP)
            lines.append(f"{part.name}: hit rate {PLAIN.estimate(at[MAP]['hit_rate'])}; {others}")
        return self._as_text(lines)

    def to_arrow(self) -> pa.Table:
        """A row for each finding (`mean of findings` and `all pooled` last), map and figure.

        Columns: `finding`, `images`, `patients`, `map` (`map`, `centre`, `random`, `untrained`), `figure`, `value`,
        `low`, `high`, and how far the map is above this one: `map_minus`, `map_minus_low`, `map_minus_high`.
        """
        return pa.Table.from_pylist(table_rows(self._parts(), "figure", "value"))

    def by_image(self) -> pa.Table:
        """A row for each map: `image_id`, `patient_id`, `finding`, `area` (part that is marked), and its figures."""
        columns: dict[str, list[Any]] = {
            name: [getattr(each, name) for each in self.images]
            for name in ("image_id", "patient_id", "finding", "area")
        }
        columns |= {name: [each.figures[MAP][name] for each in self.images] for name in FIGURES}
        return pa.table(columns)

    def _parts(self) -> list[PlaceFigures]:
        return [*self.findings, self.mean, self.pooled]

    def _remarks(self) -> Sequence[str]:
        return self.notes


@checked_arguments
def evaluate_maps(
    maps: StrPath,
    places: StrPath,
    *,
    untrained: StrPath | None = None,
    findings: Sequence[str] | None = None,
    threshold: float | Mapping[str, float] | StrPath = OTHER_PATIENTS,
    min_score: float | None = None,
    drawn_on: tuple[int, int] | None = None,
    bootstraps: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> MapEvaluationResult:
    """Says whether heat maps are where the findings are: against boxes, outlines or masks that people drew.

    Figures are means over images that show a finding, with 95% intervals by patient, beside three maps that know
    nothing of the picture: a bell at its centre, random numbers, and, where given, the same encoder untrained.

    Args:
        maps: a folder that `explain` wrote, or one of CheXlocalize's pickles (`*_map.pkl`), of which only arrays are
            built.
        places: a table of boxes (`image_id`, `finding`, `x`, `y`, `width`, `height`, perhaps `mask` and `score`; or
            corners), a JSON file of COCO's or CheXlocalize's, or a folder of masks `FINDING/IMAGE_ID.png`. In pixels
            of the pictures that were explained, or of `drawn_on`.
        untrained: a folder of the same maps with the encoder's weights drawn at random (Adebayo et al., 2018), as
            `explain` makes them with `random_weights`.
        findings: that are looked at; all that have both by default.
        threshold: above which part of its highest value a map marks the finding, for the IoU. `other-patients`: the
            best of 0.1, 0.2, ... 0.9 on patients in other folds; `otsu`: each map's own, as CheXlocalize has it; a
            number; a number a finding, or a CSV of `finding` (or `task`) and `threshold`.
        min_score: boxes of a detector that count: those that it scored at least so high.
        drawn_on: width and height of the pictures that the marks were drawn on, if not those that were explained.
        bootstraps: draws of patients for the intervals.
        seed: of the draws, the folds and the random maps.
        progress: called with a word, what is done and how much there is.

    Raises:
        MapError, CasesError: for maps and marks that are damaged or do not go together.
    """
    found = evaluate_places(
        folder_of(Path(maps)),
        read_places(Path(places), min_score, picture_shape(drawn_on)),
        untrained=folder_of(Path(untrained), beside=True) if untrained is not None else None,
        findings=findings or (),
        threshold=_threshold(threshold),
        bootstraps=bootstraps,
        seed=seed,
        progress=progress_or_bar(progress),
    )
    return MapEvaluationResult(**vars(found))


def table_rows(parts: Sequence[PlaceFigures | CurveFigures], what: str, value: str) -> list[dict[str, Any]]:
    """A row for each part, map and figure, with how far the map is above that one.

    Args:
        parts: findings, and means over them.
        what, value: names of the columns for a figure's name and for its value.
    """
    rows: list[dict[str, Any]] = []
    for part in parts:
        for source, figures in part.figures.items():
            for name, found in figures.items():
                row: dict[str, Any] = {"finding": part.name, "images": part.images, "patients": part.patients}
                row |= {"map": source, what: name, value: found.value, "low": found.low, "high": found.high}
                minus = part.differences.get(source, {}).get(name)
                ends = (None, None, None) if minus is None else (minus.value, minus.low, minus.high)
                rows.append(row | dict(zip(("map_minus", "map_minus_low", "map_minus_high"), ends, strict=True)))
    return rows


def folder_of(path: Path, *, beside: bool = False) -> MapFolder:
    """A folder with heat maps, of ours or of CheXlocalize's; arguments and errors as of `read_maps`."""
    if not (path / HEADER).exists() and path.is_dir() and has_pickled_maps(path):
        return read_pickled_maps(path)
    found = read_maps(path, beside=beside)
    if not found.maps:
        raise MapError(f"{path}: no heat maps are left here; `cxr-embed explain` makes them")
    return found


def _threshold(given: float | Mapping[str, float] | StrPath) -> Threshold:
    """A word, a number or numbers by finding; a path is read."""
    if not isinstance(given, str | os.PathLike) or given in (OTHER_PATIENTS, OTSU):
        return given if not isinstance(given, os.PathLike) else os.fspath(given)
    path = Path(given)
    try:
        rows, problems = read_rows(path, f"neither {OTHER_PATIENTS}, {OTSU} or a number nor a file of thresholds")
    except ManifestError as error:
        raise MapError(f"`threshold` {error}") from None
    name = "finding" if rows.has("finding") else "task"
    if problems or not rows.has(name, "threshold"):
        raise MapError(f"{path}: {problems[0] if problems else 'no columns finding and threshold'}")
    try:
        values = [float(cell) for cell in rows.table["threshold"].to_pylist()]
    except ValueError as error:
        raise MapError(f"{path}: a threshold that is not a number ({error})") from None
    return dict(zip(rows.table[name].to_pylist(), values, strict=True))
