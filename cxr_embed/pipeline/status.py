"""How far a store is with a manifest, and who is at work on it."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxr_embed.manifest import Manifest
from cxr_embed.pipeline.parts import ended_parts, part_of
from cxr_embed.store.forgotten import gather_forgotten
from cxr_embed.store.presence import Seen, look
from cxr_embed.store.reader import Store


@dataclass(frozen=True, kw_only=True)
class PartsStatus:
    """The parts of a run.

    Attributes:
        of: how many there are.
        done: those of which no image is missing.
        at_work: those that a living process is at.
        missing: the others: never begun, or stopped.
    """

    of: int
    done: list[int]
    at_work: list[int]
    missing: list[int]


@dataclass(frozen=True, kw_only=True)
class StoreStatus:
    """How far a store is.

    Attributes:
        images: of the manifest.
        embedded: of those, with a vector.
        failed: without one for a known reason, by its kind.
        forgotten: of those, who are to stay out.
        missing: the rest: nobody has tried them yet.
        writers: who is at the store.
        parts: where runs with `part` were here.
    """

    images: int
    embedded: int
    failed: dict[str, int]
    forgotten: int
    missing: int
    writers: list[Seen] = field(default_factory=list)
    parts: PartsStatus | None = None

    @property
    def rate(self) -> float:
        """Images a second of all who are at work."""
        return sum(float(seen.body.get("rate", 0)) for seen in self.writers)

    @property
    def seconds_left(self) -> float | None:
        """Until nothing is missing, at this rate; None where nobody can say."""
        return self.missing / self.rate if self.rate > 0 else None

    def to_json(self) -> dict[str, Any]:
        """What `store status --json` prints."""
        left = self.seconds_left
        return {
            "images": self.images,
            "embedded": self.embedded,
            "failed": self.failed,
            "forgotten": self.forgotten,
            "missing": self.missing,
            "writers": [{**seen.body, "seconds_since_heard": round(seen.age, 1)} for seen in self.writers],
            "parts": vars(self.parts) if self.parts is not None else None,
            "images_per_second": round(self.rate, 2),
            "seconds_left": round(left, 1) if left is not None else None,
        }


def store_status(path: str | os.PathLike[str], manifest: Manifest, key_file: Path | None = None) -> StoreStatus:
    """Counts by ids, from what the store says: no file is looked at, and nothing is written.

    Args:
        path: the store.
        manifest: what is to be in it.
        key_file: the key of the patient ids, where patients were forgotten; the user's own by default.

    Raises:
        StoreError: where there is no store or it is damaged, or the key is missing.
    """
    root = Path(path)
    writers = [seen for seen in look(root) if seen.alive]  # first: what they publish meanwhile is counted
    index, forgotten = Store(root).index, gather_forgotten(root, key_file=key_file)
    failed: Counter[str] = Counter()
    embedded = out = 0
    missing: list[str] = []
    for image_id, _, patient in manifest.rows():
        if image_id in index.latest and image_id not in index.broken:
            embedded += 1
        elif image_id in index.failures:
            failed[index.failures[image_id][0]] += 1
        elif forgotten and forgotten.covers(patient, image_id):
            out += 1
        else:
            missing.append(image_id)
    return StoreStatus(
        images=len(manifest),
        embedded=embedded,
        failed=dict(sorted(failed.items())),
        forgotten=out,
        missing=len(missing),
        writers=writers,
        parts=_parts(root, writers, missing),
    )


def _parts(root: Path, writers: list[Seen], missing: list[str]) -> PartsStatus | None:
    """The parts of the runs that are at work, else of those that ended last."""
    running = [tuple(map(int, part.split("/"))) for seen in writers if (part := str(seen.body.get("part") or ""))]
    ended = ended_parts(root)
    if not running and not ended:
        return None
    of = running[-1][1] if running else max(ended, key=lambda of: ended[of][0])
    left = {part_of(image_id, of) for image_id in missing}
    at_work = {number for number, count in running if count == of}
    every = set(range(1, of + 1))
    return PartsStatus(
        of=of, done=sorted(every - left - at_work), at_work=sorted(at_work), missing=sorted(left - at_work)
    )
