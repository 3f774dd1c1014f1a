"""Patients: a body that stays the same from study to study, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Sex = Literal["M", "F"]
Habitus = Literal["slim", "average", "large"]


@dataclass(frozen=True, kw_only=True)
class Anatomy:
    """Sizes of a chest in mm, at full inspiration.

    On radiographs the inner chest of adults is 28 to 30 cm wide in men and 25 to 27 cm in women (Obikili and Okoye,
    2006). Height, depth and the rest were chosen so that phantoms stand beside real radiographs without being noticed
    for their proportions.

    Attributes:
        width: half of the inner chest's width.
        height: top of the lungs to the right dome of the diaphragm.
        depth: half of the inner chest's depth.
        fat: under the skin.
        breast: radius of a breast; 0 for none.
        ctr: cardiothoracic ratio in truth, without magnification; normal is under 0.5 (Danzer, 1919).
        taper: how early the chest narrows upwards: 2.2 a cone, 3.2 a barrel.
        heart_shape: share of the heart's width that lies left of the midline.
        aorta: how much the aortic arch stands out, 1 = a young adult's; it unfolds with age.
        bone: mineral against a young adult's.
        spine_bend: sideways, in mm at the middle.
        left_dome: how much lower the left dome lies.
        tree: seed of vessels and of all that is fine.
    """

    width: float
    height: float
    depth: float
    fat: float
    breast: float
    ctr: float
    taper: float
    heart_shape: float
    aorta: float
    bone: float
    spine_bend: float
    left_dome: float
    tree: int


@dataclass(frozen=True)
class Patient:
    """A person who was never born.

    Attributes:
        patient_id: `phantom-` and the seed.
        age: years at the first study.
    """

    patient_id: str
    age: int
    sex: Sex
    habitus: Habitus
    anatomy: Anatomy


def sample_patient(seed: int) -> Patient:
    """The patient with this seed; the same one each time."""
    # The 1 keeps these numbers apart from those of a study with the same seed.
    rng = np.random.default_rng((1, seed))
    sex: Sex = "F" if rng.random() < 0.5 else "M"
    age = int(rng.integers(20, 90))
    habitus: Habitus = ("slim", "average", "large")[int(rng.choice(3, p=(0.25, 0.5, 0.25)))]
    tall = rng.normal(1, 0.05)
    width = (145 if sex == "M" else 131) * tall * rng.normal(1, 0.035)
    fat = {"slim": 8.0, "average": 18.0, "large": 36.0}[habitus] * rng.uniform(0.8, 1.25)
    anatomy = Anatomy(
        width=width,
        height=(238 if sex == "M" else 222) * tall * rng.normal(1, 0.05),
        depth=width * rng.uniform(0.54, 0.64),
        fat=fat,
        breast=(rng.uniform(42, 60) + 0.5 * fat) if sex == "F" else 0.0,
        ctr=rng.uniform(0.39, 0.48),
        taper=rng.uniform(2.1, 3.2),
        heart_shape=rng.uniform(0.62, 0.72),
        aorta=1 + 0.4 * max(0.0, (age - 45) / 40) * rng.uniform(0.4, 1.4),
        bone=float(np.clip(1.05 - 0.006 * max(0, age - 40) * (1.3 if sex == "F" else 1.0), 0.7, 1.1)),
        spine_bend=rng.normal(0, 3.0),
        left_dome=rng.normal(12, 5),
        tree=int(rng.integers(2**31)),
    )
    return Patient(f"phantom-{seed}", age, sex, habitus, anatomy)
