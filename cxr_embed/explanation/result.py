"""What an evaluation of heat maps found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_embed.metrics import Estimate

FIGURES = {
    "hit_rate": "pointing game",
    "iou": "IoU",
    "mean_iou": "mean IoU over thresholds",
    "energy": "energy inside",
    "auroc": "AUROC by pixel",
}
MAP, CENTRE, RANDOM, UNTRAINED = "map", "centre", "random", "untrained"
BASELINES = {
    CENTRE: "a bell at the picture's centre",
    RANDOM: "a map of random numbers",
    UNTRAINED: "the encoder's weights drawn at random",
}


@dataclass(frozen=True, kw_only=True)
class PlaceFigures:
    """Figures of some images' maps.

    Attributes:
        name: the finding.
        images: that show it, have a map of it, and somebody marked it in.
        patients: of them.
        area: part of the picture that is marked, on average.
        figures: by map (`map`, `centre`, `random`, perhaps `untrained`) and figure (`hit_rate`, `iou`, `mean_iou`,
            `energy`, `auroc`): the mean over images, with its interval by patient.
        differences: of `map` from each of the others, by figure; every draw of patients serves both.
        thresholds: that were taken for `iou`, by map, one a fold of patients; none for Otsu's.
        by_threshold: `(T,)` means of the IoU above each of `MapEvaluation.thresholds`, by map.
    """

    name: str
    images: int
    patients: int
    area: float
    figures: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Mapping[str, Estimate]]
    thresholds: Mapping[str, tuple[float, ...]]
    by_threshold: Mapping[str, np.ndarray]

    def above(self, figure: str) -> bool:
        """Whether the map is above every baseline, the intervals of both apart."""
        own = self.figures[MAP][figure].low
        highs = [values[figure].high for name, values in self.figures.items() if name != MAP]
        return own is not None and all(high is not None and own > high for high in highs)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "finding": self.name,
            "images": self.images,
            "patients": self.patients,
            "area": self.area,
            "figures": estimates_json(self.figures),
            "map_minus": estimates_json(self.differences),
            "thresholds": {name: list(values) for name, values in self.thresholds.items()},
            "iou_by_threshold": {name: values.tolist() for name, values in self.by_threshold.items()},
        }


@dataclass(frozen=True, kw_only=True)
class ImagePlace:
    """The figures of one map: an image and a finding that is marked in it.

    Attributes:
        image_id, patient_id, finding: of the map.
        area: part of the picture that is marked.
        figures: by map and figure, as in `PlaceFigures`; not a number where there is none.
    """

    image_id: str
    patient_id: str
    finding: str
    area: float
    figures: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class MapEvaluation:
    """Heat maps against what people marked.

    Attributes:
        about: how the maps were made, in their writer's words.
        places: where the marks were read.
        findings: in the maps' order.
        mean: over the findings.
        pooled: over all images of all findings.
        rule: how the threshold of `iou` was chosen.
        thresholds: that `mean_iou` is the mean over.
        images: the figures of each map.
        bootstraps, seed: of the intervals.
        notes: what limits it, in words.
    """

    about: Mapping[str, Any]
    places: str
    findings: tuple[PlaceFigures, ...]
    mean: PlaceFigures
    pooled: PlaceFigures
    rule: str
    thresholds: tuple[float, ...]
    images: tuple[ImagePlace, ...]
    bootstraps: int
    seed: int
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; scripts rely on these names."""
        return {
            "about": dict(self.about),
            "places": self.places,
            "findings": [finding.to_json() for finding in self.findings],
            "mean": self.mean.to_json(),
            "pooled": self.pooled.to_json(),
            "threshold": self.rule,
            "thresholds": list(self.thresholds),
            "intervals": intervals_json(self.bootstraps, self.seed),
            "notes": list(self.notes),
        }


def intervals_json(bootstraps: int, seed: int) -> dict[str, Any]:
    """What intervals hold, as plain JSON values."""
    return {"level": 0.95, "clustered_by_patient": True, "bootstraps": bootstraps, "seed": seed}


def estimates_json(figures: Mapping[str, Mapping[str, Estimate]]) -> dict[str, Any]:
    """Figures by map and name, as plain JSON values."""
    return {
        name: {figure: _estimate_json(value) for figure, value in values.items()} for name, values in figures.items()
    }


def _estimate_json(figure: Estimate) -> dict[str, Any]:
    found: dict[str, Any] = {"value": figure.value, "low": figure.low, "high": figure.high}
    return {**found, "reason": figure.reason} if figure.reason else found
