"""The images of a manifest, as a run takes them: pictures, or regions of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cxr_embed.choices import Colour
from cxr_embed.errors import TRANSIENT_FAULTS
from cxr_embed.io.addresses import joined
from cxr_embed.manifest import Manifest
from cxr_embed.pipeline.messages import Fault
from cxr_embed.regions import picture_of
from cxr_embed.store.forgotten import Forgotten
from cxr_embed.store.image_index import ImageIndex
from cxr_embed.types import Stamp


@dataclass(frozen=True)
class Task:
    """An image of the manifest, with the path to open.

    Attributes:
        box: of a region, in its one spelling; blank for a whole picture.
    """

    image_id: str
    patient_id: str
    path: str
    box: str = ""


def task_chunks(manifest: Manifest, limit: int | None) -> Iterator[list[Task]]:
    """The manifest's first `limit` images, a thousand at a time."""
    root = str(manifest.root)
    boxes = manifest.boxes.tolist() if manifest.has_regions else itertools.repeat("")
    rows = itertools.islice(zip(manifest.rows(), boxes, strict=False), limit)
    while chunk := list(itertools.islice(rows, 1024)):
        yield [Task(image_id, patient, joined(root, path), box) for (image_id, path, patient), box in chunk]


def left_of(tasks: Sequence[Task], forgotten: Forgotten) -> list[Task]:
    """The tasks without those that are to stay out; of a region, its picture may be what was forgotten."""
    if not forgotten:
        return list(tasks)

    def stays_out(task: Task) -> bool:
        names = (task.image_id, picture_of(task.image_id)) if task.box else (task.image_id,)
        return any(forgotten.covers(task.patient_id, name) for name in names)

    return [task for task in tasks if not stays_out(task)]


def unchanged_tasks(index: ImageIndex, tasks: Sequence[Task], stamps: list[Stamp]) -> list[bool]:
    """Which of the images are as the store last recorded them."""
    return index.unchanged(
        [task.image_id for task in tasks], [task.patient_id for task in tasks], stamps, [task.box for task in tasks]
    )


def remembered_fault(
    index: ImageIndex, image_id: str, content: bytes | None, software: str, colour: Colour
) -> Fault | None:
    """Why the image's content failed before, where trying again would be no use."""
    if image_id not in index.broken:
        return None
    known = index.find_image(image_id)
    if known is None or known.error_kind is None or known.error_kind in TRANSIENT_FAULTS:
        return None
    if known.error_kind == "colour" and colour != "refuse":
        return None
    if known.software != software or (content is not None and content != known.content):
        return None
    return Fault(known.error_kind, known.error or "")
