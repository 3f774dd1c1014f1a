"""Pictures of cases: made when a page shows them, kept in memory, never on disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cxr_embed.errors import ImageError
from cxr_embed.images import read_bytes
from cxr_embed.io.files import stays_below
from cxr_embed.manifest import leaves_root
from cxr_embed.types import CxrImage
from cxr_embed.web.decoding import Decoders
from cxr_embed.web.lru import Recent
from cxr_embed.web.state import Generation

SIDES: Mapping[str, int] = {"small": 320, "large": 1400}  # pixels of the longer side
_PREVIEWS, _PIXELS = 128 << 20, 192 << 20  # bytes that are kept
_MOST_FILE = 256 << 20  # bytes of a file that is read for a page


class NoPicture(Exception):
    """A case whose picture cannot be shown; the message says why, without its path."""


@dataclass
class Pictures:
    """Where the radiographs are, and those that were shown last.

    Attributes:
        root: the folder that the paths are relative to; no file outside of it is read, through no link either.
        paths: image id to path; none where no manifest was named.
        decoders: that decode them.
    """

    root: Path
    paths: Mapping[str, str]
    decoders: Decoders
    _previews: Recent[bytes] = field(default_factory=lambda: Recent(_PREVIEWS, len))
    _pixels: Recent[CxrImage] = field(default_factory=lambda: Recent(_PIXELS, lambda image: image.pixels.nbytes))

    def __post_init__(self) -> None:
        self._below = stays_below(self.root)

    def preview(self, generation: Generation, image_id: str, size: str) -> bytes:
        """A JPEG of a case.

        Args:
            generation: of the index, whose case it is.
            image_id: of the case.
            size: one of `SIDES`.

        Raises:
            CaseIndexError: for a case that is not in the index.
            NoPicture: where there is nothing to show.
        """
        content = self._content(generation, image_id)
        if (kept := self._previews.get((content, image_id, size))) is not None:
            return kept
        try:
            made = self.decoders.decode(self._read(image_id), (SIDES[size],))
        except ImageError as error:
            raise NoPicture(f"no picture: {error.kind}") from None
        self._check(content, made.content)
        self._previews.put((content, image_id, size), made.previews[0])
        return made.previews[0]

    def radiograph(self, generation: Generation, image_id: str) -> CxrImage:
        """The radiograph of a case, with all of its bits. Arguments and errors as in `preview`."""
        content = self._content(generation, image_id)
        if (kept := self._pixels.get((content, image_id))) is not None:
            return kept
        try:
            made = self.decoders.decode(self._read(image_id), pixels=True)
        except ImageError as error:
            raise NoPicture(f"no picture: {error.kind}") from None
        self._check(content, made.content)
        assert made.image is not None
        self._pixels.put((content, image_id), made.image)
        return made.image

    @staticmethod
    def _content(generation: Generation, image_id: str) -> str:
        (case,) = generation.index.cases(generation.index.rows_of([image_id]), ["content"])
        return case["content"].hex() if case["content"] else ""

    @staticmethod
    def _check(embedded: str, found: str) -> None:
        if embedded and embedded != found:
            raise NoPicture("another file than was embedded")

    def _read(self, image_id: str) -> bytes:
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
        if file.is_file() and file.stat().st_size > _MOST_FILE:
            raise NoPicture("no picture: too-large")
        return read_bytes(file)
