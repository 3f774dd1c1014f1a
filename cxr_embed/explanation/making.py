"""Maps of images, one after the other: made, checked by hiding what they point at, drawn and written."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.choices import Fill
from cxr_embed.encoders import CheckedEncoder
from cxr_embed.errors import ImageError
from cxr_embed.explanation.answers import answers_of
from cxr_embed.explanation.hiding import Hidden
from cxr_embed.explanation.measured import NOT_MEASURED
from cxr_embed.explanation.methods import Method
from cxr_embed.explanation.overlay import draw_overlay
from cxr_embed.explanation.placing import placed
from cxr_embed.explanation.record import MAPS, MapRecord
from cxr_embed.explanation.targets import Targets
from cxr_embed.images import looks_like_chest, read_image
from cxr_embed.io.files import stays_below
from cxr_embed.manifest import leaves_root
from cxr_embed.types import RESEARCH, CxrImage
from cxr_embed.version import __version__

OVERLAYS = "overlays"
REGION = 0.5  # of the map's highest value: what is outlined, and hidden to see whether the score falls
_BATCH, _READERS = 8, 2
_TIMED = 16  # pictures, to say how long a run will take


@dataclass(frozen=True)
class Case:
    """An image to explain: its id, file and patient."""

    image_id: str
    path: Path
    patient_id: str = ""


@dataclass(frozen=True)
class Made:
    """What came of a run: records, images that cannot be read with the reason, and what a user should know."""

    records: list[MapRecord]
    failed: list[tuple[Case, str]]
    notes: list[str]


@dataclass(frozen=True)
class Claim:
    """The region that a map points at, and the values without it and with as much hidden elsewhere.

    Attributes:
        region: `(H, W)` bool; nowhere where nothing in the picture speaks for the value.
        without, elsewhere: the values; None where the region is nowhere.
    """

    region: np.ndarray
    without: float | None
    elsewhere: float | None


@dataclass(frozen=True, kw_only=True)
class Explainer:
    """What is explained, and how.

    Attributes:
        encoder: loaded.
        targets: of its answers.
        method: of the maps.
        fill: what hides the region of a map.
        measured: finding to how well such maps hit it, in words.
    """

    encoder: CheckedEncoder
    targets: Targets
    method: Method
    fill: Fill
    measured: Mapping[str, str] = field(default_factory=dict)

    @property
    def about(self) -> dict[str, Any]:
        """How the maps are made, for `explain.json`."""
        spec = self.encoder.spec
        return {
            "encoder": spec.name,
            "fingerprint": spec.fingerprint,
            "engine": self.encoder.engine,
            "method": self.method.name,
            "layer": self.method.layer,
            "words": self.method.words,
            "output": self.targets.output,
            "unit": self.targets.unit,
            "region": REGION,
            "fill": self.fill,
            "measured": dict(self.measured),
            "line": f"{spec.name}: {self.method.words}; {'see each map' if self.measured else NOT_MEASURED}",
            "spec": spec.to_json(),
            "stand_in": spec.stand_in,
            "version": __version__,
            "note": RESEARCH,
        }

    def values(self, images: Sequence[CxrImage]) -> np.ndarray:
        """The targets' values of some pictures, `(B, T)`."""
        return self.targets.values(answers_of(self.encoder, images)[self.targets.output])

    def claim(self, image: CxrImage, target: int, values: np.ndarray) -> Claim:
        """What a map claims, checked: the values without the region that it points at.

        Args:
            image: the picture.
            target: number of the map's target.
            values: `(H, W)`, the map at each pixel.
        """
        highest = float(values.max())
        region = values >= REGION * highest if highest > 0 else np.zeros(values.shape, bool)
        if not region.any():
            return Claim(region, None, None)
        inside, elsewhere = (float(found[target]) for found in self.without(image, region))
        return Claim(region, inside, elsewhere)

    def line(self, target: int, value: float, claim: Claim) -> str:
        """What a map says of a value, in words."""
        targets = self.targets
        line = f"{targets.shown[target]}: {targets.unit} {value:.3f}"
        if targets.unit == "log odds":
            line += f" (probability {targets.scores(np.array(value)):.3f})"
        if claim.without is None or claim.elsewhere is None:
            return f"{line}; nothing in the picture speaks for it"
        without, elsewhere = f"{claim.without:.3f} without the outlined region", f"{claim.elsewhere:.3f}"
        return f"{line}; {without}, {elsewhere} with as much hidden elsewhere"

    def below(self, target: int) -> str:
        """Method, layer and how well such maps hit the finding, for the line under a map."""
        return f"{self.method.words}; {self.measured.get(self.targets.names[target], NOT_MEASURED)}"

    def without(self, image: CxrImage, region: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The values `(T,)` of a picture whose region is hidden, and their mean where as much is hidden elsewhere.

        Elsewhere is the region moved by half the picture: to the side, down, and both.
        """
        hidden, (height, width) = Hidden(image, self.fill), image.pixels.shape
        moves = ((0, width // 2), (height // 2, 0), (height // 2, width // 2))
        elsewhere = [np.roll(region, move, axis=(0, 1)) & ~region for move in moves]
        values = self.values([hidden.without(mask) for mask in (region, *elsewhere)])
        return values[0], values[1:].mean(axis=0)


def read_cases(cases: Sequence[Case], root: Path) -> Iterator[list[tuple[Case, CxrImage | str]]]:
    """The images, in order and in batches; of one that cannot be read, why."""
    below = stays_below(root)

    def read(case: Case) -> tuple[Case, CxrImage | str]:
        if leaves_root(str(case.path)) or not below(root / case.path):
            return case, f"{case.path}: leaves the folder {root} (`root`)"
        try:
            return case, read_image(root / case.path)
        except ImageError as error:
            return case, f"{root / case.path}: {error}"

    with ThreadPoolExecutor(_READERS) as pool:
        for start in range(0, len(cases), _BATCH):
            yield list(pool.map(read, cases[start : start + _BATCH]))


def explain_cases(
    explainer: Explainer,
    cases: Sequence[Case],
    root: Path,
    folder: Path,
    *,
    checks: bool,
    announce: Callable[[str], object],
    progress: Callable[[str, int, int], object],
) -> Made:
    """Makes and writes the maps of images, batch by batch.

    Args:
        explainer, folder, checks: see `explain_image`.
        cases: the images.
        root: the folder that their paths are below.
        announce: called with what `occlusion` will cost, before it begins.
        progress: called with a word, the pictures embedded, and how many there are.
    """
    made = Made([], [], [])
    squares = explainer.method.pictures
    total, seen = len(cases) * squares, 0

    def done(pictures: int) -> None:
        nonlocal seen
        seen += pictures
        progress("explaining", min(seen, total), total)

    announced = squares == 1
    for batch in read_cases(cases, root):
        sound = [(case, image) for case, image in batch if isinstance(image, CxrImage)]
        made.failed.extend((case, image) for case, image in batch if isinstance(image, str))
        if not sound:
            continue
        if not announced:
            announce(cost_of(explainer, sound[0][1], len(cases)))
            announced = True
        answers = answers_of(explainer.encoder, [image for _, image in sound])
        for number, (case, image) in enumerate(sound):
            answer = {output: found[number] for output, found in answers.items()}
            done(1)
            first = len(made.records)
            made.records.extend(
                explain_image(explainer, case, image, answer, folder, first=first, checks=checks, done=done)
            )
            if not looks_like_chest(image.pixels, image.max_value):
                made.notes.append(f"{case.image_id} does not look like a chest radiograph")
    return made


def cost_of(explainer: Explainer, image: CxrImage, images: int) -> str:
    """What a method that embeds many pictures an image will take, in words; a few pictures are embedded to know it."""
    name, pictures = explainer.method.name, explainer.method.pictures
    long = time_of(explainer.values, image, pictures * images)
    return f"{name} embeds {pictures:,} pictures an image: {long}, checks and drawing not counted"


def time_of(values: Callable[[Sequence[CxrImage]], np.ndarray], image: CxrImage, pictures: int) -> str:
    """How long it takes to embed so many pictures, in words, by some that are embedded now."""
    values([image])  # the model is loaded, the engine compiled
    values([image] * _TIMED)
    begun = time.perf_counter()
    values([image] * _TIMED)
    each = (time.perf_counter() - begun) / _TIMED
    seconds = pictures * each
    long = f"{seconds / 3600:,.1f} h" if seconds > 7200 else f"{seconds / 60:,.0f} min"
    long = f"{seconds:,.1f} s" if seconds < 10 else f"{seconds:,.0f} s" if seconds < 120 else long
    return f"{pictures:,} in all, about {long} at the {1 / each:,.0f} pictures/s measured now"


def explain_image(
    explainer: Explainer,
    case: Case,
    image: CxrImage,
    answer: Mapping[str, np.ndarray],
    folder: Path,
    *,
    first: int,
    checks: bool,
    done: Callable[[int], object],
) -> list[MapRecord]:
    """Makes and writes the maps of one image.

    Args:
        explainer: how.
        case, image, answer: which, and what the encoder answers of it.
        folder: where `maps/` and `overlays/` are.
        first: number of its first map.
        checks: whether scores without the region are computed and overlays drawn.
        done: see `Method.maps`.

    Returns:
        A record a target.
    """
    targets = explainer.targets
    whole = targets.values(answer[targets.output][None])[0]
    grids, area = explainer.method.maps(image, answer, whole, done)
    shape = image.pixels.shape[0], image.pixels.shape[1]
    records = []
    made = zip(targets.names, whole, grids.astype(np.float32), strict=True)
    for number, (name, value, grid) in enumerate(made, first):
        file = f"{MAPS}/{number}.npy"
        data = io.BytesIO()
        np.save(data, grid)
        (folder / file).write_bytes(data.getvalue())
        more: dict[str, Any] = {"value": float(value)}
        if (intercept := explainer.method.intercept) is not None:
            more["intercept"] = float(intercept[number - first])
        if checks:
            place = folder / OVERLAYS / f"{number}.png"
            more |= _checked(explainer, case, image, number - first, float(value), placed(grid, area, shape), place)
        records.append(
            MapRecord(
                image_id=case.image_id,
                patient_id=case.patient_id,
                finding=name,
                score=float(targets.scores(value)),
                map=file,
                area=area,
                height=shape[0],
                width=shape[1],
                more=more,
            )
        )
    return records


def _checked(
    explainer: Explainer, case: Case, image: CxrImage, target: int, value: float, values: np.ndarray, path: Path
) -> dict[str, Any]:
    """The score without the region, and the overlay, drawn; what the record says of both.

    `values` `(H, W)` is the map at each pixel, `value` the target's of the whole picture.
    """
    claim, below = explainer.claim(image, target, values), explainer.below(target)
    stand_in = explainer.encoder.spec.stand_in
    lines = [explainer.line(target, value, claim), f"{explainer.encoder.spec.name}: {below}"]
    lines += [*([stand_in] if stand_in else []), RESEARCH]
    path.write_bytes(draw_overlay(image.pixels, values, claim.region, explainer.targets.unit, lines, case.image_id))
    return {
        "region_part": float(claim.region.mean()),
        "without_region": claim.without,
        "without_elsewhere": claim.elsewhere,
        "overlay": f"{OVERLAYS}/{path.name}",
        "line": below,
        "note": RESEARCH,
    }
