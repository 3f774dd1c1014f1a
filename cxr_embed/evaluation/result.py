"""What an evaluation found, as records to be read and written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cxr_embed.choices import Blank
from cxr_embed.errors import CxrEmbedError
from cxr_embed.evaluation.measure import flatten, reasons
from cxr_embed.metrics import Calibrator, Estimate, ReliabilityBin


@dataclass(frozen=True, kw_only=True)
class FindingResult:
    """One finding's figures.

    Attributes:
        name: as the scores name it.
        label: as the labels name it.
        n, positives: cases whose label is known, and of which it is 1.
        patients: of these cases; None where no patient is known.
        stated_prevalence: that predictive values and net benefit are for; None where not stated.
        threshold: cases with this score or more are flagged.
        threshold_rule: how it was chosen, in words.
        figures: by name (`measure.FIGURES`): each with its interval, or the reason why there is none.
        auroc_interval: `bootstrap over patients` or `DeLong`.
        reliability: bins of probability; empty where scores are not probabilities.
        calibrator: what made probabilities of the scores; None where they were taken as they are.
    """

    name: str
    label: str
    n: int
    positives: int
    patients: int | None
    stated_prevalence: float | None
    threshold: float | None
    threshold_rule: str
    figures: Mapping[str, Estimate]
    auroc_interval: str
    reliability: tuple[ReliabilityBin, ...]
    calibrator: Calibrator | None

    @property
    def prevalence(self) -> float | None:
        """Part of the cases with the finding."""
        return self.positives / self.n if self.n else None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; what is not defined is null, with its reason under `undefined`."""
        return {
            "finding": self.name,
            "label": self.label,
            "n": self.n,
            "positives": self.positives,
            "patients": self.patients,
            "prevalence": self.prevalence,
            "stated_prevalence": self.stated_prevalence,
            **flatten(self.figures),
            "auroc_interval": self.auroc_interval,
            "threshold": self.threshold,
            "threshold_rule": self.threshold_rule or None,
            "undefined": reasons(self.figures),
            "calibration": self.calibrator.to_json() if self.calibrator is not None else None,
            "reliability": [asdict(part) for part in self.reliability],
        }


@dataclass(frozen=True, kw_only=True)
class GroupResult:
    """One finding's figures in one group of the cases.

    Attributes:
        finding: its name.
        attribute, group: such as `sex` and `F`.
        reference: the group that this one is compared with, the largest; itself, for that one.
        n, positives, patients: as in `FindingResult`.
        figures: as in `FindingResult`.
        differences: figures of this group minus the reference's, with intervals; empty for the reference itself.
    """

    finding: str
    attribute: str
    group: str
    reference: str
    n: int
    positives: int
    patients: int | None
    figures: Mapping[str, Estimate]
    differences: Mapping[str, Estimate]

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "finding": self.finding,
            "attribute": self.attribute,
            "group": self.group,
            "reference": self.reference,
            "n": self.n,
            "positives": self.positives,
            "patients": self.patients,
            **flatten(self.figures),
            "undefined": reasons(self.figures),
            "differences": {name: asdict(value) for name, value in self.differences.items()},
        }


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures of all findings.

    Attributes:
        findings: in the order of the scores.
        mean_auroc: over the findings whose AUROC is defined, with its interval by patient.
        covered: how many these are.
        images: with a score and a label.
        patients: of these; None where no patient is known.
        bootstraps, seed: of the intervals.
        blank: what a blank label counted as.
        groups: figures by group, where groups were asked for.
        warnings: what limits the figures, in words.
    """

    findings: tuple[FindingResult, ...]
    mean_auroc: Estimate
    covered: int
    images: int
    patients: int | None
    bootstraps: int
    seed: int
    blank: Blank = "unknown"
    groups: tuple[GroupResult, ...]
    warnings: tuple[str, ...]

    def finding(self, name: str) -> FindingResult:
        """The figures of one finding.

        Raises:
            CxrEmbedError: for a finding that was not evaluated.
        """
        for found in self.findings:
            if found.name == name:
                return found
        raise CxrEmbedError(f"`name` is one of {', '.join(found.name for found in self.findings)}, not {name!r}")

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; scripts rely on these names."""
        return {
            "images": self.images,
            "patients": self.patients,
            "findings": [finding.to_json() for finding in self.findings],
            "mean_auroc": self.mean_auroc.value,
            "mean_auroc_low": self.mean_auroc.low,
            "mean_auroc_high": self.mean_auroc.high,
            "findings_in_mean": self.covered,
            "blank": self.blank,
            "groups": [group.to_json() for group in self.groups],
            "intervals": {
                "level": 0.95,
                "clustered_by_patient": self.patients is not None,
                "bootstraps": self.bootstraps,
                "seed": self.seed,
            },
            "warnings": list(self.warnings),
        }
