"""`--part 3/16`: one process's part of a manifest, so that any scheduler can run all of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cxr_embed.errors import CxrEmbedError
from cxr_embed.io.files import write_whole
from cxr_embed.io.times import utc_now
from cxr_embed.manifest import Manifest
from cxr_embed.pipeline.summary import EmbedSummary
from cxr_embed.regions import is_region_id, picture_of
from cxr_embed.store.layout import WRITERS

_ENDED = re.compile(r"part-(\d+)-of-(\d+)\.json")
_TASK, _FIRST, _COUNT = (f"SLURM_ARRAY_TASK_{word}" for word in ("ID", "MIN", "COUNT"))


@dataclass(frozen=True)
class Part:
    """A part of a manifest: `number` from 1 to `of`."""

    number: int
    of: int

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str, environment: Mapping[str, str] = os.environ) -> Part:
        """`3/16`, or `env`: of a Slurm array's task, its number in the array of their count.

        Raises:
            CxrEmbedError: for anything else.
        """
        if text == "env":
            return cls._of_slurm(environment)
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text)
        if match is None:
            raise CxrEmbedError(f"`part` is a number of so many, such as 3/16, or env, not {text!r}")
        number, of = int(match[1]), int(match[2])
        if not 1 <= number <= of:
            raise CxrEmbedError(f"`part` {text}: parts of {of} go from 1 to {of}")
        return cls(number, of)

    @classmethod
    def _of_slurm(cls, environment: Mapping[str, str]) -> Part:
        values = []
        for name in (_TASK, _FIRST, _COUNT):
            text = environment.get(name, "")
            if not re.fullmatch(r"[0-9]{1,9}", text):
                what = f"is {text!r}, not a number" if text else "is not set"
                raise CxrEmbedError(f"`part` env: {name} {what}; run it as a Slurm array (`sbatch --array=1-16`)")
            values.append(int(text))
        task, first, count = values
        if not 1 <= task - first + 1 <= count:
            raise CxrEmbedError(
                f"`part` env: task {task} is not one of {count} from {first} on: an array with gaps or steps; use "
                f"--array=1-{count}"
            )
        return cls(task - first + 1, count)


def part_of(image_id: str, of: int) -> int:
    """The part that an image belongs to: SHA-256 of its id in UTF-8, its first 8 bytes as a number, modulo, plus 1.

    A region, `7#2`, belongs to its picture's part, so that one process reads the file.
    """
    named = picture_of(image_id) if is_region_id(image_id) else image_id
    digest = hashlib.sha256(named.encode(errors="surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") % of + 1


def only_part(manifest: Manifest, part: Part, limit: int | None) -> Manifest:
    """The rows of a part among the first `limit`, in their order."""
    ids = manifest.ids[:limit].tolist()
    mine = np.array([part_of(image_id, part.of) == part.number for image_id in ids], bool)
    table = manifest.table.slice(0, len(ids)).take(np.flatnonzero(mine))
    return replace(manifest, table=table)


def note_end(root: Path, part: Part, summary: EmbedSummary) -> None:
    """Leaves a record of a part's run in the store, which `store status` counts the parts by.

    Raises:
        OSError: where it cannot be written.
    """
    body = {"part": part.number, "of": part.of, "ended": utc_now(), "images": summary.images}
    body |= {"failed": len(summary.failed), "interrupted": summary.interrupted}
    write_whole(root / WRITERS / f"part-{part.number}-of-{part.of}.json", json.dumps(body).encode())


def ended_parts(root: Path) -> dict[int, tuple[str, set[int]]]:
    """By the number of parts: when the last one's run ended, and the parts of which one has."""
    found: dict[int, tuple[str, set[int]]] = {}
    try:
        names = os.listdir(root / WRITERS)
    except OSError:
        return {}
    for name in names:
        if match := _ENDED.fullmatch(name):
            try:
                ended = str(json.loads((root / WRITERS / name).read_bytes())["ended"])
            except (OSError, ValueError, KeyError, TypeError):
                continue
            number, of = int(match[1]), int(match[2])
            last, parts = found.get(of, ("", set()))
            found[of] = (max(last, ended), parts | {number})
    return found
