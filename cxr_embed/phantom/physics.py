"""From path lengths to pixels: Beer-Lambert, scatter, quantum noise, the detector's curve.

All lengths are millimetres. Attenuation is dimensionless: the natural logarithm of what a ray loses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import ndimage

View = Literal["PA", "AP"]
BITS = 12  # what detectors for chest radiography store
MAX_VALUE = 2**BITS - 1

# Lung at full inspiration against soft tissue: 0.26 to 1.06 g/cm3 (ICRU Report 44).
LUNG_DENSITY = 0.26
# Fat attenuates less than muscle: 0.1974 * 0.95 to 0.2048 * 1.05 per cm at 60 keV (NIST, X-Ray Mass Attenuation).
FAT_SHARE = 0.87


@dataclass(frozen=True, kw_only=True)
class Beam:
    """How a view is exposed.

    Attributes:
        distance: source to detector. PA: 1.8 m at a wall stand; AP: about 1.1 m at a bedside.
        gap: between the skin and the detector: the stand's cover and grid; bedding and a cassette holder.
        soft: attenuation of soft tissue per mm, at the mean energy of a filtered 120 kVp (about 60 keV, with a grid) or
            90 kVp (about 50 keV) beam: 0.2048 and 0.2264 cm2/g (NIST) at 1.05 g/cm3.
        bone: the same for cortical bone less the soft tissue that it displaces: 0.3148 and 0.4242 cm2/g at 1.92 g/cm3.
        metal: the same for steel: 1.205 and 1.958 cm2/g of iron at 7.87 g/cm3. A stripe of barium is as a thin wire.
        scatter: scattered to primary quanta for each unit of attenuation. A grid takes most; bedside images have none.
            In the heart's shadow some 55% (PA) and 80% (AP) of what arrives is scatter; Niklason et al. (1981) measured
            over 50% with a grid and about 90% without in the mediastinum.
        quanta: quanta a square mm at the detector with nothing in the way. 1.3 uGy behind a patient and some 3e4 quanta
            per square mm and uGy (IEC 62220-1, RQA 5), and 40 times as many without the patient; half of
            it at the bedside, where tubes are weaker.
    """

    distance: float
    gap: float
    soft: float
    bone: float
    metal: float
    scatter: float
    quanta: float


BEAMS: dict[View, Beam] = {
    "PA": Beam(distance=1800.0, gap=25.0, soft=0.02150, bone=0.03894, metal=0.93, scatter=0.16, quanta=1.5e6),
    "AP": Beam(distance=1100.0, gap=45.0, soft=0.02377, bone=0.05768, metal=1.52, scatter=0.42, quanta=7e5),
}


def expose(attenuation: np.ndarray, beam: Beam, pixel: float, rng: np.random.Generator | None = None) -> np.ndarray:
    """What the detector reads: minus the logarithm of the quanta that arrive, 0 where nothing is in the way.

    Args:
        attenuation: `(S, S)` float32 of the primary rays.
        beam: of the view.
        pixel: side of a pixel.
        rng: of the noise; None for the reading that is to be expected.

    Returns:
        `(S, S)` float32.
    """
    primary = np.exp(-attenuation)
    # Rays are scattered in proportion to what they meet and land some centimetres away: a smooth veil, made small.
    step = max(1, attenuation.shape[0] // 64)
    born = shrink(primary * np.minimum(attenuation, 4.0), step)
    spread = 35.0 / (pixel * step)
    veil = enlarge(ndimage.gaussian_filter(born, spread, truncate=2.5), attenuation.shape[0])
    arrived = primary + beam.scatter * veil
    # More than a thousand quanta reach each pixel, so Poisson noise is normal noise of the same variance.
    if rng is not None:
        noise = rng.standard_normal(arrived.shape, dtype=np.float32)
        arrived += noise * np.sqrt(arrived / (beam.quanta * pixel * pixel))
    reading: np.ndarray = -np.log(np.maximum(arrived, 1e-5))
    return reading


@dataclass(frozen=True)
class DisplayCurve:
    """How a vendor shows an exposure.

    Attributes:
        low: the reading (see `expose`) that is shown darkest: open air and the most aerated lung.
        high: the reading that is shown brightest: the abdomen.
        steepness: of the sigmoid between them; film's curve had the same shape.
        detail: how much finer structures are raised above the slow changes, as multi-scale processing does.
    """

    low: float
    high: float
    steepness: float
    detail: float


def develop(reading: np.ndarray, curve: DisplayCurve, pixel: float) -> np.ndarray:
    """A detector's reading to `(S, S)` float32 from 0 (dark) to 1 (bright)."""
    step = max(1, reading.shape[0] // 64)
    slow = enlarge(
        ndimage.gaussian_filter(shrink(reading, step), 18.0 / (pixel * step), truncate=2.5), reading.shape[0]
    )
    raised = reading + curve.detail * (reading - slow)
    middle, width = (curve.low + curve.high) / 2, curve.high - curve.low
    shown = 1 / (1 + np.exp(-curve.steepness * (raised - middle) / width))
    dark = 1 / (1 + np.exp(curve.steepness / 2))
    stretched: np.ndarray = np.clip((shown - dark) / (1 - 2 * dark), 0, 1)
    return stretched


def shrink(image: np.ndarray, step: int) -> np.ndarray:
    """Means of `step` x `step` fields; what does not fill a field is left out."""
    side = image.shape[0] // step
    fields = image[: side * step, : side * step].reshape(side, step, side, step)
    means: np.ndarray = fields.mean(axis=(1, 3), dtype=np.float32)
    return means


def enlarge(image: np.ndarray, size: int) -> np.ndarray:
    """A smooth image `(s, s)` to `(size, size)`, linearly between the centres of its pixels."""
    side = image.shape[0]
    at = np.clip((np.arange(size, dtype=np.float32) + 0.5) * (side / size) - 0.5, 0, side - 1)
    first = np.minimum(at.astype(np.int64), side - 2)
    share = (at - first).astype(np.float32)
    tall = image[first] * (1 - share)[:, None] + image[first + 1] * share[:, None]  # (size, s)
    large: np.ndarray = np.take(tall, first, 1) * (1 - share) + np.take(tall, first + 1, 1) * share
    return large
