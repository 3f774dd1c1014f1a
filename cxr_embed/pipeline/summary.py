"""What a run did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from cxr_embed.notebook import notebook_bar
from cxr_embed.present.numbers import format_bytes
from cxr_embed.store.reader import Failure
from cxr_embed.types import ImageNote, counted

_SHOWN = 5  # failures that are shown
_MUCH = 10**9  # bytes of vectors that a run says before it writes them


@dataclass(kw_only=True, repr=False)
class EmbedSummary:
    """What a run did.

    Attributes:
        images: rows of the manifest that were looked at.
        unchanged: files that are as the store knows them.
        reused: files that are new or touched but whose content was embedded before.
        embedded: contents that went through the encoder.
        failed: images without a vector, now or from an earlier run, with the reasons.
        unlike_chest: images embedded, or new and known by content, that do not look like chest radiographs.
        odd_files: by what is odd about them (see `images.NOTES`), the images embedded whose files are odd.
        seconds: wall time.
        engine: what computed the vectors; empty where nothing was.
        batch_size: the one that was used in the end.
        interrupted: whether a signal ended the run early.
        forgotten: images that stay out, since `forget` took them, their patient or their file out.
        stored: images with a vector in the store, once the run ended.
        bytes_ahead, bytes_free: of vectors, about as many as the run will write, and those that the store's disk has
            left, as the run began.
        equal_vectors: ids of images whose files differ and whose vectors are the same, a list each; those with an image
            of this run in them.
        notes: what else a user should know, in sentences.
        part: of the manifest, such as `3/16`; blank for all of it.
        underway: images that are done elsewhere and not yet in the store, while the run lasts.
    """

    images: int = 0
    unchanged: int = 0
    reused: int = 0
    embedded: int = 0
    failed: list[Failure] = field(default_factory=list)
    unlike_chest: list[str] = field(default_factory=list)
    odd_files: dict[ImageNote, list[str]] = field(default_factory=dict)
    seconds: float = 0.0
    engine: str = ""
    batch_size: int = 0
    interrupted: bool = False
    forgotten: int = 0
    stored: int = 0
    bytes_ahead: int = 0
    bytes_free: int = 0
    equal_vectors: list[list[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    part: str = ""
    underway: int = 0

    @property
    def done(self) -> int:
        """Images that are settled."""
        return self.underway + self.unchanged + self.reused + self.embedded + self.forgotten + len(self.failed)

    @property
    def counts(self) -> str:
        """What became of the images, in a line."""
        rate = f" ({self.embedded / self.seconds:,.1f} images/s)" if self.embedded else ""
        parts = [f"{self.embedded:,} embedded", f"{self.unchanged:,} unchanged"]
        parts += [f"{self.reused:,} known by content"] if self.reused else []
        parts += [f"{self.forgotten:,} forgotten"] if self.forgotten else []
        parts += [f"{len(self.failed):,} failed"] if self.failed else []
        part = f"part {self.part}: " if self.part else ""
        return f"{part}{counted(self.images, 'image')}: {', '.join(parts)} in {self.seconds:,.1f} s{rate}"

    @property
    def size_ahead(self) -> str:
        """How much the run will write, in a line; blank for little where there is room for it."""
        if self.bytes_ahead <= min(_MUCH, self.bytes_free):
            return ""
        room = "" if self.bytes_ahead < self.bytes_free else ", too little: it will stop when the disk is full"
        return f"about {format_bytes(self.bytes_ahead)} of vectors; {format_bytes(self.bytes_free)} are free{room}"

    def __repr__(self) -> str:
        lines = [self.counts, *([f"engine: {self.engine}"] if self.engine else [])]
        lines += [f"failed: {failure.image_id} [{failure.kind}] {failure.reason}" for failure in self.failed[:_SHOWN]]
        lines += [f"failed: {len(self.failed) - _SHOWN:,} more; `.failed` has all"] if len(self.failed) > _SHOWN else []
        unlike = counted(len(self.unlike_chest), "image does", "images do")
        lines += [f"note: {unlike} not look like a chest radiograph (`.unlike_chest`)"] if self.unlike_chest else []
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_json(self) -> dict[str, Any]:
        """What `embed --json` prints."""
        return {
            "images": self.images,
            "unchanged": self.unchanged,
            "reused": self.reused,
            "embedded": self.embedded,
            "failed": [vars(failure) for failure in self.failed],
            "unlike_chest": sorted(self.unlike_chest),
            "odd_files": {note: sorted(ids) for note, ids in sorted(self.odd_files.items())},
            "seconds": round(self.seconds, 3),
            "images_per_second": round(self.embedded / self.seconds, 1) if self.seconds else 0.0,
            "engine": self.engine,
            "batch_size": self.batch_size,
            "interrupted": self.interrupted,
            "forgotten": self.forgotten,
            "stored": self.stored,
            "bytes_ahead": self.bytes_ahead,
            "bytes_free": self.bytes_free,
            "equal_vectors": self.equal_vectors,
            "notes": list(self.notes),
            **({"part": self.part} if self.part else {}),
        }


Progress = Callable[[EmbedSummary], None]


def notebook_progress() -> Progress | None:
    """A bar in the notebook's cell; None outside notebooks."""
    show = notebook_bar("images")
    return (lambda summary: show("embedding", summary.done, summary.images)) if show is not None else None
