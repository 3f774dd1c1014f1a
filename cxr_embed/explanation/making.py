"""Maps of images, one after the other: made, checked by hiding what they point at, drawn and written."""

from __future__ import annotations

import io
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from cxr_embed.encoders import CheckedEncoder
from cxr_embed.errors import ImageError
from cxr_embed.explanation.answers import BATCH, ahead, answers_of_inputs, threads
from cxr_embed.explanation.explainer import Explainer
from cxr_embed.explanation.overlay import draw_overlay
from cxr_embed.explanation.placing import placed
from cxr_embed.explanation.record import MAPS, MapRecord
from cxr_embed.images import looks_like_chest, read_image
from cxr_embed.io.files import stays_below
from cxr_embed.manifest import leaves_root
from cxr_embed.store.forgotten import Forgotten
from cxr_embed.types import RESEARCH, CxrImage

OVERLAYS = "overlays"
_CHECKED, _MANY = 4, 1000  # pictures with a part hidden, a map; above so many they are announced
_DRAWN = 16  # overlays that may wait for a thread, with their pictures
_R = TypeVar("_R")


@dataclass(frozen=True)
class Case:
    """An image to explain: its id, file and patient."""

    image_id: str
    path: Path
    patient_id: str = ""


@dataclass(frozen=True)
class Made:
    """What came of a run.

    Attributes:
        records: of the maps.
        failed: images that cannot be read, with the reason.
        notes: what a user should know.
        left_out: images of forgotten patients or files.
    """

    records: list[MapRecord]
    failed: list[tuple[Case, str]]
    notes: list[str]
    left_out: list[Case]


@dataclass(frozen=True)
class Read:
    """An image that was read: the picture, the encoder's input, and whether it looks like a chest radiograph."""

    case: Case
    image: CxrImage
    given: np.ndarray
    like_chest: bool


def read_cases(
    cases: Sequence[Case], root: Path, then: Callable[[Case, CxrImage], _R]
) -> Iterator[list[_R | tuple[Case, str]]]:
    """The images, in order and in batches, read ahead in threads; of one that cannot be read, why.

    Args:
        cases: the images.
        root: the folder that their paths are below.
        then: what is made of each there.
    """
    below = stays_below(root)

    def read(case: Case) -> _R | tuple[Case, str]:
        if leaves_root(str(case.path)) or not below(root / case.path):
            return case, f"{case.path}: leaves the folder {root} (`root`)"
        try:
            image = read_image(root / case.path)
        except ImageError as error:
            return case, f"{root / case.path}: {error}"
        return then(case, image)

    found = ahead(read, cases, 2 * BATCH)
    while batch := list(itertools.islice(found, BATCH)):
        yield batch


def explain_cases(
    explainer: Explainer,
    cases: Sequence[Case],
    root: Path,
    folder: Path,
    *,
    checks: bool,
    forgotten: Forgotten,
    announce: Callable[[str], object],
    progress: Callable[[str, int, int], object],
) -> Made:
    """Makes and writes the maps of images, batch by batch.

    Args:
        explainer: how.
        cases: the images.
        root: the folder that their paths are below.
        folder: where `maps/` and `overlays/` are.
        checks: whether scores without the region are computed and overlays drawn.
        forgotten: whose images are left out.
        announce: called with what `occlusion`, or many checks, will cost, before it begins.
        progress: called with a word, the pictures embedded, and how many there are.
    """
    made = Made([], [], [], [])
    squares = explainer.method.pictures
    total, seen = len(cases) * squares, 0

    def done(pictures: int) -> None:
        nonlocal seen
        seen += pictures
        progress("explaining", min(seen, total), total)

    def prepared(case: Case, image: CxrImage) -> Read | Case:
        if forgotten.covers(case.patient_id, case.image_id, bytes.fromhex(image.content_id)):
            return case
        given = explainer.encoder.preprocess(image)
        return Read(case, image, given, looks_like_chest(image.pixels, image.max_value))

    hidden = _CHECKED * len(cases) * len(explainer.targets.names)
    if checks and hidden > _MANY:
        announce(f"to check the maps, up to {hidden:,} pictures with a part hidden are embedded (not by `maps_only`)")
    announced = squares == 1
    with Drawing() as drawing:
        for batch in read_cases(cases, root, prepared):
            made.failed.extend(each for each in batch if isinstance(each, tuple))
            made.left_out.extend(each for each in batch if isinstance(each, Case))
            sound = [each for each in batch if isinstance(each, Read)]
            if sound and not announced:
                announce(cost_of(explainer, sound[0].image, len(cases)))
                announced = True
            for each, answer in _answered(explainer.encoder, sound):
                done(1)
                maps = explain_image(explainer, each, answer, folder, first=len(made.records), done=done)
                plain = [record for record, _ in maps]
                made.records.extend(_checked(explainer, each.image, maps, folder, drawing) if checks else plain)
                if not each.like_chest:
                    made.notes.append(f"{each.case.image_id} does not look like a chest radiograph")
    return made


def _answered(encoder: CheckedEncoder, images: Sequence[Read]) -> Iterator[tuple[Read, dict[str, np.ndarray]]]:
    """Each image with the encoder's answer of it; they are embedded together."""
    if images:
        answers = answers_of_inputs(encoder, [each.given for each in images])
        for number, each in enumerate(images):
            yield each, {output: found[number] for output, found in answers.items()}


def cost_of(explainer: Explainer, image: CxrImage, images: int) -> str:
    """What a method that embeds many pictures an image will take, in words; a few pictures are embedded to know it."""
    name, pictures = explainer.method.name, explainer.method.pictures
    long = time_of(explainer.values, image, pictures * images)
    return f"{name} embeds {pictures:,} pictures an image: {long}, checks and drawing not counted"


def time_of(values: Callable[[Sequence[CxrImage]], np.ndarray], image: CxrImage, pictures: int) -> str:
    """How long it takes to embed so many pictures, in words, by some that are embedded now."""
    values([image] * BATCH)  # the model is loaded, the engine compiled
    begun = time.perf_counter()
    values([image] * BATCH)
    each = (time.perf_counter() - begun) / BATCH
    seconds = pictures * each
    long = f"{seconds / 3600:,.1f} h" if seconds > 7200 else f"{seconds / 60:,.0f} min"
    long = f"{seconds:,.1f} s" if seconds < 10 else f"{seconds:,.0f} s" if seconds < 120 else long
    return f"{pictures:,} in all, about {long} at the {1 / each:,.0f} pictures/s measured now"


def explain_image(
    explainer: Explainer,
    read: Read,
    answer: Mapping[str, np.ndarray],
    folder: Path,
    *,
    first: int,
    done: Callable[[int], object],
) -> list[tuple[MapRecord, np.ndarray]]:
    """Makes and writes the maps of one image.

    Args:
        explainer: how.
        read, answer: which, and what the encoder answers of it.
        folder: where `maps/` is.
        first: number of its first map.
        done: see `Method.maps`.

    Returns:
        A record a target, and its map.
    """
    targets, case, image = explainer.targets, read.case, read.image
    whole, grids, area = explainer.maps(image, answer, done)
    made = []
    for number, (name, value, grid) in enumerate(zip(targets.names, whole, grids, strict=True)):
        file = f"{MAPS}/{first + number}.npy"
        data = io.BytesIO()
        np.save(data, grid)
        (folder / file).write_bytes(data.getvalue())
        more: dict[str, Any] = {"value": float(value)}
        if (intercept := explainer.method.intercept) is not None:
            more["intercept"] = float(intercept[number])
        record = MapRecord(
            image_id=case.image_id,
            patient_id=case.patient_id,
            finding=name,
            score=float(targets.scores(value)),
            map=file,
            area=area,
            height=image.pixels.shape[0],
            width=image.pixels.shape[1],
            more=more,
        )
        made.append((record, grid))
    return made


class Drawing:
    """Overlays that are drawn in threads, a few at a time."""

    def __init__(self) -> None:
        self._waiting: deque[Future[None]] = deque()

    def add(self, draw: Callable[[], None]) -> None:
        """Draws one soon; waits where many are waiting."""
        self._waiting.append(threads().submit(draw))
        while len(self._waiting) > _DRAWN:
            self._waiting.popleft().result()

    def __enter__(self) -> Drawing:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        """Waits for all; raises what one of them raised."""
        while self._waiting:
            self._waiting.popleft().result()


def _checked(
    explainer: Explainer,
    image: CxrImage,
    maps: Sequence[tuple[MapRecord, np.ndarray]],
    folder: Path,
    drawing: Drawing,
) -> list[MapRecord]:
    """The records of one image, each with its scores without the region; the overlays are drawn."""
    claims = explainer.claims(
        image, ((number, placed(grid, record.area, record.shape)) for number, (record, grid) in enumerate(maps))
    )
    stand_in, result = explainer.encoder.spec.stand_in, []
    for number, ((record, grid), claim) in enumerate(zip(maps, claims, strict=True)):
        below = explainer.below(number)
        lines = [explainer.line(number, record.more["value"], claim), f"{explainer.encoder.spec.name}: {below}"]
        lines += [*([stand_in] if stand_in else []), RESEARCH]
        place = f"{OVERLAYS}/{Path(record.map).stem}.png"
        drawing.add(partial(_draw, folder / place, image, grid, record, claim.region, explainer.targets.unit, lines))
        more = {
            **record.more,
            "region_part": float(claim.region.mean()),
            "without_region": claim.without,
            "without_elsewhere": claim.elsewhere,
            "overlay": place,
            "line": below,
            "note": RESEARCH,
        }
        result.append(replace(record, more=more))
    return result


def _draw(
    path: Path,
    image: CxrImage,
    grid: np.ndarray,
    record: MapRecord,
    region: np.ndarray,
    unit: str,
    lines: Sequence[str],
) -> None:
    values = placed(grid, record.area, record.shape)
    path.write_bytes(draw_overlay(image.pixels, values, region, unit, lines, record.image_id))
