"""The map that is kept of an index, `INDEX.map.arrow`: beside its folder, for its owner alone.

It has a position for each row of the index's vectors, and no ids. Its key is the digest of the vectors' file: where the
index was built again of the same vectors it still holds, and where a case came or went it is deleted before the index
changes, so that no position outlives its case.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from cxr_embed.errors import CaseIndexError
from cxr_embed.io.digests import sha256_hex
from cxr_embed.io.files import written_aside

MAP = ".map.arrow"  # ends the name of the file
FORMAT, VERSION = "cxr_embed.map", 1
# Stands wherever a map of the collection is shown.
MAP_WARNING = (
    "A map is for finding cases to look at. Distances between points, sizes of groups and gaps between them mean "
    "little, least of all by UMAP, which draws groups where there are none and another map with another seed. It is "
    "not for diagnosis, and not evidence."
)


@dataclass(frozen=True, kw_only=True)
class KeptMap:
    """A map that was learned.

    Attributes:
        positions: `(N, 2)` float32 in the order of the index's rows, finite.
        key: SHA-256 of the index's `vectors.npy`.
        seed: of the draws.
        fitted: cases that it was learned from; the others were placed among them.
        neighbours: of each case that UMAP looked at.
        created: UTC, ISO 8601.
        made_by: the package and its version.
    """

    positions: np.ndarray
    key: str
    seed: int
    fitted: int
    neighbours: int
    created: str
    made_by: str


def map_path(index: str | os.PathLike[str]) -> Path:
    """Where the map of an index is, whether there is one or not; of a link, where it leads to."""
    whole = Path(os.path.realpath(index))  # `.` has no name of its own
    return whole.with_name(f"{whole.name}{MAP}")


def write_map(path: Path, made: KeptMap) -> None:
    """Writes the file by a rename; its owner alone may read it.

    Raises:
        CaseIndexError: where it cannot be written.
    """
    columns = {name: pa.array(made.positions[:, at]) for at, name in enumerate("xy")}
    about = {name: str(getattr(made, name)) for name in _ABOUT}
    about |= {"format": FORMAT, "version": str(VERSION), "digest": _digest(made.positions)}
    table = pa.table(columns).replace_schema_metadata(about)
    try:
        with written_aside(path) as partial:
            partial.chmod(0o600)
            with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table)
    except OSError as error:
        raise CaseIndexError(f"{path}: cannot be written ({error.strerror or error})") from None


def read_map(path: Path) -> KeptMap | None:
    """The map in a file; None where there is none.

    Raises:
        CaseIndexError: where it cannot be read, is damaged, or of another version.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise CaseIndexError(f"{path}: cannot be read ({error.strerror})") from None
    damaged = CaseIndexError(f"{path}: damaged, or not a map; `cxr-embed index map` makes it again")
    try:
        table = pa.ipc.open_file(pa.BufferReader(data)).read_all()
        about = {name.decode(): value.decode() for name, value in (table.schema.metadata or {}).items()}
        if about["format"] != FORMAT:
            raise damaged
        if about["version"] != str(VERSION):
            raise CaseIndexError(f"{path}: format version {about['version'][:9]}; this release reads {VERSION}")
        positions = np.stack([table[name].to_numpy() for name in "xy"], axis=1)
        made = KeptMap(
            positions=positions,
            key=about["key"],
            seed=int(about["seed"]),
            fitted=int(about["fitted"]),
            neighbours=int(about["neighbours"]),
            created=about["created"],
            made_by=about["made_by"],
        )
    except (pa.ArrowException, OSError, ValueError, KeyError):  # ArrowInvalid is a ValueError
        raise damaged from None
    if positions.dtype != np.float32 or _digest(positions) != about.get("digest"):
        raise damaged
    return made


def drop_other(index: str | os.PathLike[str], key: str) -> bool:
    """Deletes a map that is of other vectors, or damaged; gives whether it did."""
    path = map_path(index)
    try:
        made = read_map(path)
        if made is None or made.key == key:
            return False
    except CaseIndexError:
        pass
    path.unlink(missing_ok=True)
    return True


_ABOUT = ("key", "seed", "fitted", "neighbours", "created", "made_by")


def _digest(positions: np.ndarray) -> str:
    return sha256_hex(np.ascontiguousarray(positions, "<f4").tobytes())
