"""What an evaluation of heat maps by insertion and deletion found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_embed.explanation.curves import CURVES, DELETION, FRACTIONS, INSERTION
from cxr_embed.explanation.result import estimates_json, intervals_json
from cxr_embed.metrics import Estimate

AREAS = {
    INSERTION: "area under it while pixels are shown, the highest first; more is better",
    DELETION: "area under it while pixels are hidden, the highest first; less is better",
}


@dataclass(frozen=True, kw_only=True)
class CurveFigures:
    """Figures of some images' maps.

    Attributes:
        name: the finding.
        images, patients: that take part.
        figures: by map (`map`, `centre`, `random`, perhaps `untrained`) and curve (`deletion`, `insertion`): the mean
            area under it, with its interval by patient.
        differences: of `map` from each of the others, by curve; every draw of patients serves both.
        curves: `(17,)` mean scores by `FRACTIONS`, by map and curve.
    """

    name: str
    images: int
    patients: int
    figures: Mapping[str, Mapping[str, Estimate]]
    differences: Mapping[str, Mapping[str, Estimate]]
    curves: Mapping[str, Mapping[str, np.ndarray]]

    def better(self, curve: str) -> bool:
        """Whether the map is better than each that it is held against, 0 outside the difference's interval."""
        found = [values[curve] for values in self.differences.values()]
        if curve == DELETION:
            return all(difference.high is not None and difference.high < 0 for difference in found)
        return all(difference.low is not None and difference.low > 0 for difference in found)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "finding": self.name,
            "images": self.images,
            "patients": self.patients,
            "figures": estimates_json(self.figures),
            "map_minus": estimates_json(self.differences),
            "curves": {
                name: {curve: values.tolist() for curve, values in of.items()} for name, of in self.curves.items()
            },
        }


@dataclass(frozen=True, kw_only=True)
class ImageCurves:
    """The areas of one map.

    Attributes:
        image_id, patient_id, finding: of the map.
        areas: by map and curve, as in `CurveFigures`.
    """

    image_id: str
    patient_id: str
    finding: str
    areas: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True, kw_only=True)
class CurveEvaluation:
    """Heat maps against the score that they explain.

    Attributes:
        about: how the maps were made, in their writer's words.
        score: what the curves are of: `probability`, or `cosine`.
        fill: what pixels are hidden by.
        findings: in the maps' order.
        mean: over the findings.
        pooled: over all images of all findings.
        images: the areas of each map.
        bootstraps, seed: of the intervals.
        failed: image to the reason why it takes no part.
        notes: what limits it, in words.
    """

    about: Mapping[str, Any]
    score: str
    fill: str
    findings: tuple[CurveFigures, ...]
    mean: CurveFigures
    pooled: CurveFigures
    images: tuple[ImageCurves, ...]
    bootstraps: int
    seed: int
    failed: Mapping[str, str]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; scripts rely on these names."""
        return {
            "about": dict(self.about),
            "score": self.score,
            "fill": self.fill,
            "fractions": list(FRACTIONS),
            "findings": [finding.to_json() for finding in self.findings],
            "mean": self.mean.to_json(),
            "pooled": self.pooled.to_json(),
            "intervals": intervals_json(self.bootstraps, self.seed),
            "failed": dict(self.failed),
            "notes": list(self.notes),
        }


def curves_named(values: np.ndarray) -> dict[str, np.ndarray]:
    """`(2, ...)` by the curves' names."""
    return dict(zip(CURVES, values, strict=True))
