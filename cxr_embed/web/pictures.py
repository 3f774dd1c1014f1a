"""Pictures of cases: made when a page shows them and kept in memory; small ones on disk, where that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

from cxr_embed.errors import ImageError, ManifestError
from cxr_embed.images import read_bytes
from cxr_embed.index import CaseIndex
from cxr_embed.index.case_table import BOX, CONTENT
from cxr_embed.io.files import stays_below
from cxr_embed.manifest import leaves_root, read_paths, read_root
from cxr_embed.regions import is_box
from cxr_embed.thumbnails import SIDE, Thumbnails, thumbnail_key
from cxr_embed.types import CxrImage
from cxr_embed.web.decoding import Decoded, Decoders
from cxr_embed.web.lru import Recent
from cxr_embed.web.state import Generation

SMALL = "small"
SIDES: Mapping[str, int] = {SMALL: SIDE, "large": 1400}  # pixels of the longer side
_PREVIEWS, _PIXELS = 128 << 20, 192 << 20  # bytes that are kept
_MOST_FILE = 256 << 20  # bytes of a file that is read for a page
Outcome = Literal["kept", "there", "identifying", "unknown", "not kept"]


class NoPicture(Exception):
    """A case whose picture cannot be shown; the message says why, without its path."""


class _Case(NamedTuple):
    """What a case's picture is made of.

    Attributes:
        image_id: of the case.
        content: SHA-256 of its file, 64 hexadecimal digits; blank where it is not known.
        box: of a region; blank for a whole picture.
        key: of its thumbnail; blank as `content`.
    """

    image_id: str
    content: str
    box: str
    key: str


@dataclass(kw_only=True)
class Pictures:
    """Where the radiographs are, and those that were shown last.

    Attributes:
        root: the folder that the paths are relative to; no file outside of it is read, through no link either.
        paths: image id to path; none where no manifest was named.
        decoders: that decode them.
        thumbnails: where small pictures are kept; None where none is to be on disk.
    """

    root: Path = field(kw_only=False)
    paths: Mapping[str, str] = field(kw_only=False)
    decoders: Decoders = field(kw_only=False)
    thumbnails: Thumbnails | None = None
    _previews: Recent[bytes] = field(default_factory=lambda: Recent(_PREVIEWS, len))
    _pixels: Recent[CxrImage] = field(default_factory=lambda: Recent(_PIXELS, lambda image: image.pixels.nbytes))

    def __post_init__(self) -> None:
        self._below = stays_below(self.root)

    def preview(self, generation: Generation, image_id: str, size: str) -> bytes:
        """A picture of a case, of a region what is cut out: a JPEG, or WebP for a small one that is kept on disk.

        Args:
            generation: of the index, whose case it is.
            image_id: of the case.
            size: one of `SIDES`.

        Raises:
            CaseIndexError: for a case that is not in the index.
            NoPicture: where there is nothing to show.
        """
        case = self._case(generation, image_id)
        if (kept := self._previews.get((case, size))) is not None:
            return kept
        if size == SMALL and self.thumbnails is not None and case.key:
            made, _ = self._thumbnail(self.thumbnails, generation, case)
        else:
            made = self._decoded(case, size).previews[0]
        self._previews.put((case, size), made)
        return made

    def keep(self, generation: Generation, image_id: str) -> Outcome:
        """Makes a case's thumbnail where there is none that is sound and of its file as it is now.

        Returns:
            What came of it; `unknown` where the index does not know the file that was embedded.

        Raises:
            CaseIndexError, NoPicture: as `preview`.
        """
        case = self._case(generation, image_id)
        if self.thumbnails is None or not case.key:
            return "unknown"
        return self._thumbnail(self.thumbnails, generation, case)[1]

    def outgoing(self, generation: Generation, image_id: str) -> bytes | None:
        """A case's small picture for a file; None where its header says that the picture shows who it is.

        Raises:
            CaseIndexError, NoPicture: as `preview`.
        """
        case = self._case(generation, image_id)
        if self.thumbnails is not None and case.key:
            kept, outcome = self._thumbnail(self.thumbnails, generation, case)
            return None if outcome == "identifying" else kept
        made = self._decoded(case, SMALL)
        return None if made.identifying else made.previews[0]

    def radiograph(self, generation: Generation, image_id: str) -> CxrImage:
        """The radiograph of a case, with all of its bits. Arguments and errors as in `preview`."""
        case = self._case(generation, image_id)
        if (kept := self._pixels.get((case.content, image_id))) is not None:
            return kept
        made = self._decoded(case)
        assert made.image is not None
        self._pixels.put((case.content, image_id), made.image)
        return made.image

    def _thumbnail(self, thumbnails: Thumbnails, generation: Generation, case: _Case) -> tuple[bytes, Outcome]:
        """A small picture from the disk, or one that is made and kept there, and what came of that."""
        stamp = _stamp(self._file(case.image_id))
        if stamp and (kept := thumbnails.get(case.key, stamp)) is not None:
            return kept, "there"
        made = self._decoded(case, SMALL, "WEBP")
        if made.identifying:
            return made.previews[0], "identifying"
        kept_now = thumbnails.keep(case.key, made.previews[0], stamp, generation.is_current)
        return made.previews[0], "kept" if kept_now else "not kept"

    def _decoded(self, case: _Case, size: str = "", coding: Literal["JPEG", "WEBP"] = "JPEG") -> Decoded:
        """A case's preview of a size, or its pixels where none is named.

        Raises:
            NoPicture: where it cannot be decoded, or is another file than was embedded.
        """
        try:
            data = _read(self._file(case.image_id))
            sides = (SIDES[size],) if size else ()
            made = self.decoders.decode(data, sides, pixels=not size, box=case.box if size else "", coding=coding)
        except ImageError as error:
            raise NoPicture(f"no picture: {error.kind}") from None
        if case.content and case.content != made.content:
            raise NoPicture("another file than was embedded")
        return made

    @staticmethod
    def _case(generation: Generation, image_id: str) -> _Case:
        columns = [CONTENT, *(name for name in (BOX,) if name in generation.index.columns)]
        (case,) = generation.index.cases(generation.index.rows_of([image_id]), columns)
        content, box = case[CONTENT], str(case.get(BOX) or "")
        return _Case(
            image_id, content.hex() if content else "", box if is_box(box) else "", thumbnail_key(content, box)
        )

    def _file(self, image_id: str) -> Path:
        path = self.paths.get(image_id)
        if not self.paths:
            raise NoPicture("no manifest, so no pictures")
        if not path:
            raise NoPicture("the manifest has no path")
        if leaves_root(path):
            raise NoPicture("its path leaves the folder")
        file = self.root / path
        if not self._below(file):
            raise NoPicture("its path leaves the folder through a link")
        return file


def read_places(index: CaseIndex, manifest: Path, root: Path | None) -> tuple[Path, Mapping[str, str]]:
    """Where the radiographs of an index are, by a manifest: their folder, and each image id's path.

    Args:
        index: the cases.
        manifest: which says it.
        root: folder of the radiographs, if not the manifest's own.

    Raises:
        ManifestError: where the manifest or the folder cannot be read, or it is another index's.
    """
    paths = read_paths(manifest)
    root = root if root is not None else read_root(manifest)
    if not root.is_dir():
        raise ManifestError(f"{root}: no such folder of radiographs; name it with `root`")
    known = set(index.ids.tolist())
    if known and not known & paths.keys():
        raise ManifestError(f"{manifest}: not the manifest of {index.path}: it has none of its cases")
    return root.absolute(), paths


def _read(file: Path) -> bytes:
    if file.is_file() and file.stat().st_size > _MOST_FILE:
        raise NoPicture("no picture: too-large")
    return read_bytes(file)


def _stamp(file: Path) -> int:
    """When a file was written, moved or replaced the last time, in ns since the epoch; 0 where there is none."""
    try:
        status = file.stat()
    except (OSError, ValueError):
        return 0
    return max(status.st_mtime_ns, status.st_ctime_ns)
