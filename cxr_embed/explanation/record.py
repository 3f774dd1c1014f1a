"""The folder of heat maps that `explain` writes and `explain evaluate` reads.

Layout::

    explain.json    how the maps were made, and one entry a map (an image and a finding)
    maps/<n>.npy    (rows, columns) float32, higher where there is more evidence; the grid is the method's own

An entry says which part of the picture its grid covers, so that maps of any grid can be laid over the picture.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from contextvars import Context, copy_context
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from cxr_embed.errors import MapError
from cxr_embed.io.files import load_npy, write_whole
from cxr_embed.types import EncoderSpec

FORMAT, VERSION = "cxr_embed.maps", 1
HEADER, MAPS = "explain.json", "maps"
_FILE = re.compile(rf"{MAPS}/[0-9]+\.npy")


@dataclass(frozen=True, kw_only=True)
class MapRecord:
    """One heat map: an image and a finding.

    Attributes:
        image_id: of the image.
        patient_id: of the manifest; blank where nobody said.
        finding: what is explained: a finding's name, a prompt, or the image that this one is like.
        score: what the whole picture scored; None where nothing was.
        map: file below the folder, `maps/<n>.npy`.
        area: part of the picture that the grid covers: left edge, upper edge, width and height in pixels of the
            picture as stored. May reach beyond the picture, where it was padded, or leave some of it out.
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        more: further JSON values of the writer, by name.
    """

    image_id: str
    patient_id: str
    finding: str
    score: float | None
    map: str
    area: tuple[float, float, float, float]
    height: int
    width: int
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the picture."""
        return self.height, self.width


@dataclass(frozen=True)
class MapFolder:
    """`explain.json`, read.

    Attributes:
        root: the folder.
        about: how the maps were made, as JSON values: `encoder`, `method`, `layer`, `spec` (the encoder's, as
            `EncoderSpec.to_json` has it) and whatever else the writer says.
        maps: the entries, in the writer's order.
    """

    root: Path
    about: Mapping[str, Any]
    maps: tuple[MapRecord, ...]

    def load(self, record: MapRecord) -> np.ndarray:
        """The map of an entry.

        Returns:
            `(rows, columns)` float32, finite.

        Raises:
            MapError: naming the file, where it is missing, damaged, or not such an array.
        """
        path = self.root / record.map
        try:
            values = load_npy(path)
        except OSError as error:
            raise MapError(f"{path}: cannot be read ({error.strerror})") from None
        except ValueError as error:
            raise MapError(f"{path}: not a heat map ({error})") from None
        if values.ndim != 2 or 0 in values.shape or values.dtype != np.float32:
            raise MapError(f"{path}: not a heat map: {values.dtype} {values.shape}, expected float32 (rows, columns)")
        if not np.isfinite(values).all():
            raise MapError(f"{path}: a heat map with values that are not finite")
        return values


def write_maps(root: Path, about: Mapping[str, Any], maps: Sequence[MapRecord]) -> None:
    """Writes `explain.json`, last: the maps' files are there already.

    Args:
        root: the folder.
        about: how the maps were made, as in `MapFolder`.
        maps: the entries.

    Raises:
        OSError: where it cannot be written.
    """
    body = {"format": FORMAT, "version": VERSION, "about": dict(about), "maps": [asdict(each) for each in maps]}
    write_whole(root / HEADER, json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def read_maps(root: Path, *, beside: bool = False) -> MapFolder:
    """Reads `explain.json`; the maps' files are opened when they are asked for.

    Args:
        root: the folder.
        beside: others are held against these: weights that stand in for a trained model's are as they should be.

    Raises:
        MapError: where it is missing, of another format or version, or damaged.
    """
    path = root / HEADER
    body = _header(root, path)
    about, entries = body.get("about"), body.get("maps")
    if not isinstance(about, dict) or not isinstance(entries, list):
        raise MapError(f"{path}: damaged; make the maps again")
    if about.get("spec") is not None:
        try:
            # Notes weights that stand in for a trained model's; nothing is noted in an empty context.
            (Context() if beside else copy_context()).run(EncoderSpec.from_json, about["spec"])
        except (TypeError, ValueError, KeyError, AttributeError):
            raise MapError(f"{path}: damaged, the encoder's `spec` cannot be read; make the maps again") from None
    maps = tuple(_entry(path, number, entry) for number, entry in enumerate(entries))
    seen: set[tuple[str, str]] = set()
    for each in maps:
        if (each.image_id, each.finding) in seen:
            raise MapError(f"{path}: two maps of {each.finding!r} in {each.image_id}; keep one")
        seen.add((each.image_id, each.finding))
    return MapFolder(root, about, maps)


def _header(root: Path, path: Path) -> dict[str, Any]:
    """The JSON object of `explain.json`, of a version that is read here."""
    try:
        body = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        raise MapError(f"{root}: no heat maps here ({HEADER} is missing); `cxr-embed explain` makes them") from None
    except OSError as error:
        raise MapError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise MapError(f"{path}: damaged, not JSON; make the maps again") from None
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise MapError(f"{path}: not heat maps of this project; `cxr-embed explain` makes them")
    if body.get("version") != VERSION:
        raise MapError(f"{path}: format version {body.get('version')!r}; this release reads {VERSION}")
    return body


def _entry(path: Path, number: int, entry: Any) -> MapRecord:
    """One entry, looked at: the file may come from anybody."""
    try:
        record = MapRecord(**{**entry, "area": tuple(float(edge) for edge in entry["area"])})
        texts = (record.image_id, record.patient_id, record.finding, record.map)
        sound = all(isinstance(text, str) for text in texts) and record.image_id != "" and record.finding != ""
        sound &= type(record.height) is int and type(record.width) is int and min(record.shape) > 0
        sound &= record.height * record.width <= 1 << 28
        sound &= len(record.area) == 4 and all(map(math.isfinite, record.area)) and min(record.area[2:]) > 0
        sound &= record.score is None or (type(record.score) in (int, float) and math.isfinite(record.score))
        sound &= isinstance(record.more, dict)
    except (TypeError, ValueError, KeyError, OverflowError):
        sound = False
    if not sound:
        raise MapError(f"{path}: entry {number} of its maps is damaged; make the maps again")
    if not _FILE.fullmatch(record.map):
        raise MapError(f"{path}: entry {number} of its maps names {record.map[:60]!r}, not a file of {MAPS}/")
    return record
