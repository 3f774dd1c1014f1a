"""Findings: what is wrong, where and how much; drawn from a seed and the same in every study until they change."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

Side = Literal["left", "right", "both", ""]

# Named as in the prompt sets of this package (NIH ChestX-ray14; Support Devices: CheXpert).
FINDINGS = ("Cardiomegaly", "Effusion", "Pneumothorax", "Nodule", "Mass", "Consolidation", "Edema", "Support Devices")
FOCAL = ("Nodule", "Mass", "Consolidation")
DEVICES = ("endotracheal tube", "central venous catheter", "pacemaker", "enteric tube", "chest tube")


@dataclass(frozen=True, kw_only=True)
class PhantomFinding:
    """One finding.

    Attributes:
        name: one of `FINDINGS`.
        side: the patient's; blank where it has none.
        severity: 0 (just seen) to 1.
        across: place of a focal finding in its lung, 0 at the mediastinum to 1 at the ribs.
        down: the same, 0 at the top to 1 at the diaphragm.
        kind: of a support device: one of `DEVICES`; blank for other findings.
        seed: of its outline.
    """

    name: str
    side: Side
    severity: float
    across: float = 0.5
    down: float = 0.5
    kind: str = ""
    seed: int = 0

    @property
    def grade(self) -> str:
        """Severity in a word: `mild`, `moderate` or `severe`; a device has none."""
        if self.name == "Support Devices":
            return ""
        return ("mild", "moderate", "severe")[min(2, int(self.severity * 3))]

    @property
    def zone(self) -> str:
        """Where in the lung a focal finding is: `upper`, `middle` or `lower`; blank for others."""
        if self.name not in FOCAL:
            return ""
        return "upper" if self.down < 0.38 else "middle" if self.down < 0.66 else "lower"

    @property
    def diameter_mm(self) -> float:
        """Of a nodule or mass, in truth; a nodule has at most 3 cm (Hansell et al., 2008). 0 for others."""
        spans = {"Nodule": (18.0, 30.0), "Mass": (33.0, 80.0)}
        low, high = spans.get(self.name, (0.0, 0.0))
        return low + (high - low) * self.severity


def sample_finding(name: str, rng: np.random.Generator) -> PhantomFinding:
    """A finding of this name with a side, a severity and a place.

    Raises:
        ValueError: for a name that is not in `FINDINGS`.
    """
    if name not in FINDINGS:
        raise ValueError(f"{name!r} is not a finding of a phantom; there are {', '.join(FINDINGS)}")
    severity, seed = float(rng.random()), int(rng.integers(2**31))
    side: Side = "left" if rng.random() < 0.5 else "right"
    across, down = float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.15, 0.85))
    kind = DEVICES[int(rng.integers(len(DEVICES)))]
    if name == "Support Devices":
        return PhantomFinding(name=name, side=_device_side(kind, side), severity=severity, kind=kind, seed=seed)
    if name == "Cardiomegaly":
        return PhantomFinding(name=name, side="", severity=severity, seed=seed)
    if name == "Edema" or (name == "Effusion" and rng.random() < 0.3):
        return PhantomFinding(name=name, side="both", severity=severity, seed=seed)
    if name in ("Effusion", "Pneumothorax"):
        return PhantomFinding(name=name, side=side, severity=severity, seed=seed)
    return PhantomFinding(name=name, side=side, severity=severity, across=across, down=down, seed=seed)


def _device_side(kind: str, side: Side) -> Side:
    """Tubes in the midline have no side; a pacemaker mostly lies on the left, here always."""
    fixed: dict[str, Side] = {"endotracheal tube": "", "enteric tube": "", "pacemaker": "left"}
    return fixed.get(kind, side)


def changed(finding: PhantomFinding, rng: np.random.Generator) -> PhantomFinding:
    """The same finding at a later study: its severity has moved, its place has not."""
    return replace(finding, severity=float(np.clip(finding.severity + rng.normal(0, 0.2), 0, 1)))
