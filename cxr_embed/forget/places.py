"""What lies under some paths: stores, indexes, probes, heat maps, and all other files."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cxr_embed.errors import CxrEmbedError
from cxr_embed.explanation.record import HEADER as MAPS_JSON
from cxr_embed.forget.heat_maps import is_map_or_overlay
from cxr_embed.index.faiss.layout import HEADER as INDEX_JSON
from cxr_embed.index.faiss.map_file import MAP
from cxr_embed.io.files import sweep
from cxr_embed.marks import MARKS, marks_path
from cxr_embed.probe.probe_folder import PROBE_JSON
from cxr_embed.store.forgotten import FORGOTTEN
from cxr_embed.store.layout import HEADER as STORE_JSON
from cxr_embed.store.layout import INCOMING, LOCK, SHARDS, WRITERS
from cxr_embed.store.prompts import PROMPTS
from cxr_embed.thumbnails import HEADER as THUMBNAILS_JSON
from cxr_embed.thumbnails import is_thumbnails, thumbnails_path
from cxr_embed.thumbnails.folder import FOLDER
from cxr_embed.thumbnails.folder import LOCK as THUMBNAILS_LOCK

_GENERATION = re.compile(r"generation-[0-9a-f]{12}")
_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{32}\.partial")


@dataclass(kw_only=True)
class FoundPaths:
    """What was found.

    Attributes:
        stores, indexes, probes, maps: their folders.
        milvus: files of the embedded Milvus.
        thumbnails: folders of thumbnails; those of an index, too, that lie beside it.
        marks: files of readers' marks; those of an index, too, that lie beside it.
        files: all other files.
        problems: what nobody can look into, in sentences.
    """

    stores: list[Path] = field(default_factory=list)
    indexes: list[Path] = field(default_factory=list)
    probes: list[Path] = field(default_factory=list)
    maps: list[Path] = field(default_factory=list)
    thumbnails: list[Path] = field(default_factory=list)
    milvus: list[Path] = field(default_factory=list)
    marks: list[Path] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def find_places(paths: Sequence[Path]) -> FoundPaths:
    """Walks the paths; links to folders are not followed, but those to a store, an index or the like are reported.

    Raises:
        CxrEmbedError: for a path where nothing is.
    """
    places = FoundPaths()
    for path in paths:
        if not path.exists():
            raise CxrEmbedError(f"{path}: no such file or folder")
        if path.is_file():
            _kind_of_file(path, places).append(path)
        elif path.suffix == ".db":
            places.milvus.append(path)
        else:
            _walk(path, places)
    places.marks += [path for index in places.indexes if (path := marks_path(index)).is_file()]
    places.thumbnails += [path for index in places.indexes if is_thumbnails(path := thumbnails_path(index))]
    for found in (places.stores, places.indexes, places.probes, places.maps, places.milvus, places.files):
        found[:] = sorted(dict.fromkeys(found))  # paths may lie in one another
    for found in (places.marks, places.thumbnails):
        found[:] = sorted({Path(os.path.realpath(path)): path for path in found}.values())
    return places


def sweep_partials(places: FoundPaths) -> None:
    """Deletes what killed writers have left of other files."""
    for path in [path for path in places.files if (_PARTIAL.fullmatch(path.name))]:
        match = _PARTIAL.fullmatch(path.name)
        assert match is not None
        sweep(path.with_name(match[1]), path.parent)
        if not path.exists():
            places.files.remove(path)


def _walk(root: Path, places: FoundPaths) -> None:
    def unreadable(error: OSError) -> None:
        places.problems.append(f"{error.filename}: cannot be read ({error.strerror})")

    for name, folders, files in os.walk(root, onerror=unreadable):
        folder, own = Path(name), set()
        if STORE_JSON in files or (SHARDS in folders and (LOCK in files or WRITERS in folders)):
            places.stores.append(folder)
            own = {STORE_JSON, LOCK, PROMPTS, FORGOTTEN}
            folders[:] = [each for each in folders if each not in (SHARDS, INCOMING, WRITERS)]
        elif INDEX_JSON in files:
            places.indexes.append(folder)
            own = {INDEX_JSON, LOCK, FORGOTTEN}
            folders[:] = [each for each in folders if not _GENERATION.fullmatch(each)]
        elif PROBE_JSON in files:
            places.probes.append(folder)
            own = {PROBE_JSON, LOCK, *(each for each in files if each.endswith(".safetensors"))}
        elif MAPS_JSON in files:
            places.maps.append(folder)
            own = {MAPS_JSON}
        elif THUMBNAILS_JSON in files:
            places.thumbnails.append(folder)
            own = {THUMBNAILS_JSON, THUMBNAILS_LOCK}
            folders[:] = [each for each in folders if not FOLDER.fullmatch(each)]
        elif left := [each for each in folders if _GENERATION.fullmatch(each)]:
            places.problems.append(f"{folder / left[0]}: left by a build of an index that was killed; delete it")
            folders[:] = [each for each in folders if each not in left]
        places.problems += [
            f"{link}: a link to a store, an index, a probe, maps or thumbnails, not followed; name {link.resolve()}"
            for link in map(folder.joinpath, folders)
            if link.is_symlink() and _outside(link, root)
        ]
        places.milvus += [folder / each for each in (*folders, *files) if each.endswith(".db")]
        folders[:] = [each for each in folders if not each.endswith(".db")]
        places.marks += [folder / each for each in files if each.endswith(MARKS)]
        own |= {each for each in files if each.endswith((".db", MARKS, MAP))}
        places.problems += [
            f"{folder / each}: a map of cases whose index is not here; delete it"
            for each in files
            if each.endswith(MAP) and not (folder / each.removesuffix(MAP) / INDEX_JSON).is_file()
        ]
        others = [folder / each for each in files if each not in own]
        places.files += [path for path in others if not is_map_or_overlay(path)]


def _kind_of_file(path: Path, places: FoundPaths) -> list[Path]:
    if path.name.endswith(MARKS):
        return places.marks
    return places.milvus if path.suffix == ".db" else places.files


def _outside(link: Path, root: Path) -> bool:
    """Whether a link leads to a folder of ours that this walk does not come to."""
    target = link.resolve()
    headers = (STORE_JSON, INDEX_JSON, PROBE_JSON, MAPS_JSON, THUMBNAILS_JSON)
    ours = any((target / each).is_file() for each in headers)
    return ours and not target.is_relative_to(root.resolve())
