"""Folders of heat maps: whose they hold, and the folder without somebody's maps and overlays."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from cxr_embed.errors import CxrEmbedError
from cxr_embed.explanation.record import HEADER, MAPS, MapRecord, read_maps, write_maps
from cxr_embed.forget.known import Case
from cxr_embed.forget.mentions import Marks

OVERLAYS = "overlays"
LIKE = "like "  # begins what is explained where it is the likeness to a case
_OURS = re.compile(rf"({MAPS}|{OVERLAYS})/[0-9]+\.(npy|png)")


def is_map_or_overlay(path: Path) -> bool:
    """Whether a file of a folder of maps is one of those that its `explain.json` lists."""
    return bool(_OURS.fullmatch(f"{path.parent.name}/{path.name}")) and (path.parent.parent / HEADER).is_file()


def cases_of_maps(root: Path) -> Iterator[Case]:
    """Each image of a folder of maps.

    Raises:
        MapError: where it is damaged.
    """
    for image_id, patient in dict.fromkeys((record.image_id, record.patient_id) for record in read_maps(root).maps):
        yield Case(image_id, patient, None)


def count_maps(root: Path, marks: Marks) -> int:
    """How many maps are of somebody's images, or of likeness to one of them.

    Raises:
        MapError: where the folder is damaged.
    """
    return sum(_goes(record, marks) for record in read_maps(root).maps)


def take_out_maps(root: Path, marks: Marks) -> int:
    """Deletes somebody's maps and overlays, then takes them out of `explain.json`: the next run ends a killed one.

    Returns:
        How many maps are gone.

    Raises:
        MapError: where the folder is damaged.
        CxrEmbedError: where it cannot be written.
    """
    folder = read_maps(root)
    going = [record for record in folder.maps if _goes(record, marks)]
    try:
        for record in going:
            for file in (record.map, *record.more.values()):
                if isinstance(file, str) and _OURS.fullmatch(file):
                    (root / file).unlink(missing_ok=True)
        if going:
            write_maps(root, folder.about, [record for record in folder.maps if record not in going])
    except OSError as error:
        raise CxrEmbedError(f"{root}: cannot be written ({error.strerror})") from None
    return len(going)


def _goes(record: MapRecord, marks: Marks) -> bool:
    case = record.finding.removeprefix(LIKE)
    return marks.is_case(record.patient_id, record.image_id) or (case != record.finding and marks.is_id(case))
