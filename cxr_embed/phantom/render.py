"""A patient, findings and a view to a radiograph with its truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from cxr_embed.phantom import marks
from cxr_embed.phantom.cage import HEART_DEPTH, Cage
from cxr_embed.phantom.findings import PhantomFinding
from cxr_embed.phantom.frame import Frame
from cxr_embed.phantom.lesions import apply_finding, clouds
from cxr_embed.phantom.patient import Patient
from cxr_embed.phantom.physics import MAX_VALUE, DisplayCurve, View, develop, expose
from cxr_embed.phantom.skeleton import bones
from cxr_embed.phantom.thorax import Chest, airways, body, cavity, heart, stomach
from cxr_embed.phantom.vessels import vessels


@dataclass(frozen=True, kw_only=True)
class Phantom:
    """One synthetic radiograph and what is true of it.

    Attributes:
        pixels: `(S, S)` uint16 over 12 bits, brighter = denser.
        masks: name of each finding to `(S, S)` bool: where it is seen.
        findings: that it was made with.
        view: of the exposure.
        heart: `(S, S)` bool, the heart's silhouette.
        lungs: `(S, S)` bool, the lungs as they were before any finding.
        ctr: cardiothoracic ratio as this radiograph shows it, magnification included.
        pixel_mm: side of a pixel at the detector.
    """

    pixels: np.ndarray
    masks: dict[str, np.ndarray]
    findings: tuple[PhantomFinding, ...]
    view: View
    heart: np.ndarray
    lungs: np.ndarray
    ctr: float
    pixel_mm: float


@dataclass(frozen=True, kw_only=True)
class Pose:
    """How the patient stood or lay, and how the image was taken and shown."""

    inspiration: float
    field: float
    center: tuple[float, float]
    tilt: float
    yaw: float
    angle: float
    arm: float
    curve: DisplayCurve


def sample_pose(patient: Patient, view: View, rng: np.random.Generator) -> Pose:
    """A pose as the view brings it about.

    PA: upright, a deep breath, the detector as large as the chest. AP: at the bedside, half sitting, a shallower
    breath, less care with the tube.
    """
    anatomy = patient.anatomy
    upright = view == "PA"
    inspiration = rng.uniform(0.9, 1.0) if upright else rng.uniform(0.76, 0.93)
    field = 2 * (anatomy.width + 24 + anatomy.fat) * rng.uniform(1.08, 1.24)
    tall = anatomy.height * inspiration
    center = (rng.normal(0, 5 if upright else 9), 0.5 * tall + rng.normal(12, 9))
    return Pose(
        inspiration=inspiration,
        field=float(np.clip(field, 330, 460)),
        center=center,
        tilt=math.radians(rng.normal(0, 1.5) if upright else rng.normal(2.5, 2.5)),
        yaw=math.radians(rng.normal(0, 1.5 if upright else 4.0)),
        angle=rng.normal(0, 0.8 if upright else 2.0),
        arm=rng.uniform(30, 90) if upright else rng.uniform(0, 25),
        curve=DisplayCurve(
            low=rng.uniform(-0.65, -0.3),
            high=rng.uniform(0.1, 0.4),
            steepness=rng.uniform(3.0, 4.6) if upright else rng.uniform(2.6, 4.2),
            detail=rng.uniform(0.1, 0.5),
        ),
    )


def render(
    patient: Patient, findings: Sequence[PhantomFinding] = (), view: View = "PA", *, size: int = 512, seed: int = 0
) -> Phantom:
    """Takes a radiograph of a patient.

    The same arguments give the same pixels. Another list of findings with the same seed gives the same pose and the
    same noise, so that the images differ by the findings alone.

    Args:
        patient: see `sample_patient`.
        findings: see `sample_finding`; at most one of each name.
        view: `PA` or `AP`.
        size: pixels on a side, at least 64.
        seed: of the pose, the noise and the vendor's curve.
    """
    rng = np.random.default_rng((2, seed))
    pose = sample_pose(patient, view, rng)
    half_depth = patient.anatomy.depth + 20 + 0.75 * patient.anatomy.fat
    frame = Frame(
        size=size, field=pose.field, center=pose.center, half_depth=half_depth, view=view, tilt=pose.tilt, yaw=pose.yaw
    )
    enlarged = float(frame.magnification(HEART_DEPTH) / frame.magnification(0.0))
    large = next((finding for finding in findings if finding.name == "Cardiomegaly"), None)
    # The label is about the image, so a magnified heart must not become a large one, nor the other way round.
    normal = min(patient.anatomy.ctr * enlarged, 0.53)
    ctr = 0.57 + 0.11 * large.severity if large else normal
    cage = Cage(patient.anatomy, pose.inspiration, ctr / enlarged)
    chest = _build(frame, cage, pose, np.random.default_rng((3, seed)))
    # No finding may dim the rest of the image, a large heart neither: what is shown is chosen from a chest without it.
    plain = replace(cage, ctr=normal / enlarged)
    usual = _build(frame, plain, pose, np.random.default_rng((3, seed))) if large else chest
    base = usual.attenuation(frame.beam)
    low, high = _shown_range(base, usual.lungs, frame)
    masks = {finding.name: apply_finding(chest, frame, cage, finding) for finding in findings}
    attenuation = chest.attenuation(frame.beam) if masks else base
    turn = _Turn(pose.angle, size)
    reading = expose(turn(attenuation), frame.beam, frame.pixel, rng)
    span = high - low
    curve = DisplayCurve(
        low + pose.curve.low * span, high + pose.curve.high * span, pose.curve.steepness, pose.curve.detail
    )
    shown = marks.finish(develop(reading, curve, frame.pixel), rng)
    return Phantom(
        pixels=np.rint(shown * MAX_VALUE).astype(np.uint16),
        masks={name: turn.mask(mask) for name, mask in masks.items()},
        findings=tuple(findings),
        view=view,
        heart=turn.mask(chest.heart),
        lungs=turn.mask(chest.lungs > 8),
        ctr=ctr,
        pixel_mm=frame.pixel,
    )


def _build(frame: Frame, cage: Cage, pose: Pose, rng: np.random.Generator) -> Chest:
    """A chest without findings."""
    path, silhouette = heart(frame, cage)
    texture = np.random.default_rng(cage.anatomy.tree)
    x, y = frame.axes()
    lungs = np.maximum(cavity(cage, x, y) - path, 0)
    return Chest(
        body=body(frame, cage, pose.arm),
        lungs=lungs,
        aerated=lungs * (1 - 0.012 * clouds(texture, frame.size, 48) - 0.016 * clouds(texture, frame.size, 110)),
        gas=airways(frame, cage) + stomach(frame, cage, rng),
        vessels=vessels(frame, cage) * np.clip(lungs / 25, 0, 1),
        bone=bones(frame, cage, rng),
        metal=np.zeros_like(lungs),
        heart=silhouette,
    )


def _shown_range(attenuation: np.ndarray, lungs: np.ndarray, frame: Frame) -> tuple[float, float]:
    """What a vendor's software looks for: the readings of the lungs and of the densest part of the trunk."""
    step = max(1, attenuation.shape[0] // 64)
    values = expose(attenuation[::step, ::step], frame.beam, frame.pixel * step)
    return (
        float(np.percentile(values[lungs[::step, ::step] > 60], 25)),
        float(np.percentile(values, 92)),
    )


class _Turn:
    """Turns maps by a few degrees: the patient or the detector hung askew."""

    def __init__(self, degrees: float, size: int) -> None:
        angle = math.radians(degrees)
        self.size = size
        middle = (size - 1) / 2
        offset = np.arange(size, dtype=np.float32) - middle
        rows = math.cos(angle) * offset[:, None] - math.sin(angle) * offset[None, :] + middle
        columns = math.sin(angle) * offset[:, None] + math.cos(angle) * offset[None, :] + middle
        rows, columns = np.clip(rows, 0, size - 1.001), np.clip(columns, 0, size - 1.001)
        top, left = rows.astype(np.int32), columns.astype(np.int32)
        self.corners = top, left, rows - top.astype(np.float32), columns - left.astype(np.float32)

    def __call__(self, image: np.ndarray) -> np.ndarray:
        top, left, down, right = self.corners
        flat, size = image.ravel(), self.size
        at = top * size + left
        upper = flat[at] + (flat[at + 1] - flat[at]) * right
        lower = flat[at + size] + (flat[at + size + 1] - flat[at + size]) * right
        turned: np.ndarray = upper + (lower - upper) * down
        return turned

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """The same for `(S, S)` bool."""
        top, left, down, right = self.corners
        turned: np.ndarray = mask.ravel()[(top + (down > 0.5)) * self.size + left + (right > 0.5)]
        return turned
