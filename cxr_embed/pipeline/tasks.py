"""The images of a manifest, as a run takes them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from cxr_embed.manifest import Manifest


@dataclass(frozen=True)
class Task:
    """An image of the manifest, with the path to open."""

    image_id: str
    patient_id: str
    path: str


def task_chunks(manifest: Manifest, limit: int | None) -> Iterator[list[Task]]:
    """The manifest's first `limit` images, a thousand at a time."""
    root = str(manifest.root)
    rows = itertools.islice(manifest.rows(), limit)
    while chunk := list(itertools.islice(rows, 1024)):
        yield [Task(image_id, patient, f"{root}/{path}") for image_id, path, patient in chunk]
