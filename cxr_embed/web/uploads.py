"""Radiographs that a reader dropped on the page: in memory for a while, never on disk, without their names."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from cxr_embed.types import CxrImage
from cxr_embed.web.decoder import preview
from cxr_embed.web.decoding import Decoders
from cxr_embed.web.pictures import SIDES

MOST_BYTES = 96 << 20  # of a file that is taken
BODY_SECONDS = 60.0  # in which it must have arrived
KEPT_SECONDS = 1800.0  # after it was last looked at
_ROOM = 384 << 20  # bytes of pixels that are kept
NAME = "your picture"  # in answers: a file's own name may be a person's


@dataclass(frozen=True)
class Upload:
    """A radiograph that somebody dropped.

    Attributes:
        image: decoded.
        small: a JPEG of it.
    """

    image: CxrImage
    small: bytes

    @cached_property
    def large(self) -> bytes:
        """A larger JPEG, made when it is first asked for: neighbours can be seen without."""
        return preview(self.image, SIDES["large"])


class Uploads:
    """Uploads by their tokens.

    Args:
        decoders: that decode them.
        now: seconds of a clock that only goes on.
    """

    def __init__(self, decoders: Decoders, now: Callable[[], float] = time.monotonic) -> None:
        self._decoders, self._now = decoders, now
        self._kept: dict[str, tuple[Upload, float]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, data: bytes) -> str:
        """Decodes a file and keeps what came out.

        Args:
            data: the whole file; it is let go of.

        Returns:
            The token by which it is found for a while; nobody can guess it.

        Raises:
            ImageError: for what is not a radiograph.
        """
        made = self._decoders.decode(data, (SIDES["small"],), pixels=True, colour="refuse")
        assert made.image is not None
        upload = Upload(made.image, made.previews[0])
        token = secrets.token_urlsafe(16)
        with self._lock:
            self._kept[token] = upload, self._now()
            self._make_room()
        return token

    def get(self, token: str) -> Upload | None:
        """The upload; None where it is gone."""
        with self._lock:
            self._make_room()
            if (found := self._kept.get(token)) is None:
                return None
            self._kept[token] = found[0], self._now()
            return found[0]

    def _make_room(self) -> None:
        """Lets go of what nobody looked at, then of the oldest."""
        oldest_first = sorted(self._kept, key=lambda token: self._kept[token][1])
        held = sum(upload.image.pixels.nbytes for upload, _ in self._kept.values())
        for token in oldest_first:
            upload, seen = self._kept[token]
            if self._now() - seen <= KEPT_SECONDS and (held <= _ROOM or len(self._kept) == 1):
                break
            held -= upload.image.pixels.nbytes
            del self._kept[token]
