"""Cohorts: patients with one to three studies, whose findings come, change and go."""

from __future__ import annotations

import datetime
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from cxr_embed.phantom.findings import FINDINGS, FOCAL, PhantomFinding, Side, changed, sample_finding
from cxr_embed.phantom.patient import Patient, sample_patient
from cxr_embed.phantom.physics import View
from cxr_embed.phantom.render import Phantom, render

_STUDIES = (0.5, 0.3, 0.2)  # share of patients with one, two and three studies
_STAYS = 0.6  # of findings are still there in the next study
_TEST = 0.3  # of patients


@dataclass(frozen=True, kw_only=True)
class Study:
    """One radiograph to be: all that `render` needs and a manifest has.

    Attributes:
        date: ISO, YYYY-MM-DD.
        age: years at the study.
        split: `train` or `test`; the same in all studies of a patient.
        seed: of the pose and the noise.
    """

    image_id: str
    patient: Patient
    date: str
    age: int
    view: View
    split: str
    findings: tuple[PhantomFinding, ...]
    seed: int


def sample_studies(count: int, seed: int = 0, *, prevalence: float = 0.15, confounding: float = 0.0) -> list[Study]:
    """A cohort of `count` studies; the first ones of a larger cohort with the same seed are the same.

    By chance alone, unless chosen otherwise: each finding is there with the same probability, whatever the others, the
    view, age and sex are.

    Args:
        count: studies in all.
        seed: of the cohort.
        prevalence: of each finding, in first and in later studies alike.
        confounding: how much being ill decides the view, as bedside images do in a hospital. 0: not at all; 1: every
            study with a finding is AP, every other one PA.
    """
    studies: list[Study] = []
    number = 0
    while len(studies) < count:
        studies += _patient_studies(seed * 1_000_000 + number, prevalence, confounding)
        number += 1
    return studies[:count]


def render_study(study: Study, size: int = 512) -> Phantom:
    """The radiograph of a study."""
    return render(study.patient, study.findings, study.view, size=size, seed=study.seed)


def _patient_studies(seed: int, prevalence: float, confounding: float) -> list[Study]:
    # The 4 keeps these numbers apart from those that the patient's body is drawn from.
    rng = np.random.default_rng((4, seed))
    patient = sample_patient(seed)
    split = "test" if rng.random() < _TEST else "train"
    start = datetime.date(2015, 1, 1) + datetime.timedelta(days=int(rng.integers(8 * 365)))
    date, findings = start, dict[str, PhantomFinding]()
    studies = []
    # What comes balances what goes, so that later studies are as ill as first ones.
    comes = prevalence * (1 - _STAYS) / max(1 - prevalence, 1e-9)
    for number in range(1 + int(rng.choice(len(_STUDIES), p=_STUDIES))):
        if number:
            date += datetime.timedelta(days=int(rng.integers(2, 400)))
        findings = _next(findings, comes if number else prevalence, rng)
        view: View = "PA" if rng.random() < 0.5 + (-0.5 if findings else 0.5) * confounding else "AP"
        years = int((date - start).days / 365.25)
        shown = tuple(findings[name] for name in FINDINGS if name in findings)
        image_id, study_seed = f"{patient.patient_id}-{number}", int(rng.integers(2**31))
        studies.append(
            Study(
                image_id=image_id,
                patient=patient,
                date=date.isoformat(),
                age=patient.age + years,
                view=view,
                split=split,
                findings=shown,
                seed=study_seed,
            )
        )
    return studies


def _next(before: dict[str, PhantomFinding], comes: float, rng: np.random.Generator) -> dict[str, PhantomFinding]:
    """The findings of a patient's next study."""
    after = {}
    for name in FINDINGS:
        if name in before and rng.random() < _STAYS:
            after[name] = changed(before[name], rng)
        elif name not in before and rng.random() < comes:
            after[name] = _apart(sample_finding(name, rng), [*before.values(), *after.values()])
    return after


def _apart(finding: PhantomFinding, others: Iterable[PhantomFinding]) -> PhantomFinding:
    """Keeps what is seen in a lung and the air or fluid that would hide it on different sides, where it can."""
    groups = FOCAL, ("Effusion", "Pneumothorax")
    for own, other in (groups, groups[::-1]):
        taken = {one.side for one in others if one.name in other}
        if finding.name in own and finding.side in taken and finding.side != "both":
            free: Side = "left" if finding.side == "right" else "right"
            return finding if free in taken else replace(finding, side=free)
    return finding
