"""Thumbnails of every case of an index at once, with the decoders that a server has; what is there already stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cxr_embed.index import CaseIndex
from cxr_embed.thumbnails import Thumbnails, is_thumbnails, thumbnails_path
from cxr_embed.types import counted
from cxr_embed.web.decoding import Decoders
from cxr_embed.web.pictures import NoPicture, Pictures, read_places
from cxr_embed.web.state import open_generation

Progress = Callable[[str, int, int], None]
_AT_ONCE = 1024  # cases that are handed to the decoders
_WHY = {
    "identifying": "the header says that the picture shows who it is",
    "unknown": "the index does not know the file",
}


@dataclass(frozen=True, kw_only=True)
class MadeThumbnails:
    """What came of it.

    Attributes:
        path: the folder.
        made: thumbnails that were made now.
        there: that were there.
        left_out: why cases have none, and how many.
        fault: why the rest was not made; blank where all was.
    """

    path: Path
    made: int
    there: int
    left_out: dict[str, int]
    fault: str

    @property
    def notes(self) -> list[str]:
        """What the user should know, in sentences."""
        why = "".join(f"; {counted(number, 'case')} without: {reason}" for reason, number in self.left_out.items())
        notes = [f"thumbnails beside the index: {self.made:,} made, {self.there:,} there already{why}"]
        return [*notes, self.fault] if self.fault else notes

    def to_json(self) -> dict[str, object]:
        """What `index build --json` prints."""
        return {**vars(self), "path": str(self.path)}


def make_thumbnails(index: Path, manifest: Path, root: Path | None, progress: Progress | None) -> MadeThumbnails:
    """Makes what is missing in the folder beside an index. Killed, it goes on where it was when it is run again.

    Args:
        index: the index's folder.
        manifest, root: where the radiographs are, see `read_places`.
        progress: called with a word for the step, what is done and how much there is.

    Raises:
        ThumbnailError: where the folder cannot be made, or is another's.
        ManifestError, CaseIndexError: for radiographs or an index that cannot be read.
    """
    generation = open_generation(index)
    places = read_places(generation.index, manifest, root)
    said = list[str]()
    thumbnails = Thumbnails.make(thumbnails_path(index), said.append)
    made, left_out = Counter[str](), Counter[str]()

    with several_decoders() as (decoders, threads):
        pictures = Pictures(*places, decoders, thumbnails=thumbnails)

        def keep(image_id: str) -> tuple[str, str]:
            if thumbnails.fault:
                return "not kept", ""
            try:
                return pictures.keep(generation, image_id), ""
            except NoPicture as why:
                return "left out", str(why)

        ids = generation.index.ids.tolist()
        for start in range(0, len(ids), _AT_ONCE):
            for number, (outcome, why) in enumerate(threads.map(keep, ids[start : start + _AT_ONCE]), start + 1):
                made[outcome] += 1
                left_out.update([why or _WHY[outcome]] if why or outcome in _WHY else [])
                if progress is not None:
                    progress("making thumbnails", number, len(ids))
            if thumbnails.fault or not generation.is_current():
                break
    if not thumbnails.fault and not generation.is_current():
        said.append("the index was written anew while thumbnails were made: build once more for the rest")
    return MadeThumbnails(
        path=thumbnails.path,
        made=made["kept"],
        there=made["there"],
        left_out=dict(left_out.most_common()),
        fault=said[0] if said else "",
    )


@contextmanager
def inlined_pictures(
    index: CaseIndex, manifest: Path, root: Path | None, left_out: dict[str, int]
) -> Iterator[Callable[[str], bytes | None]]:
    """Small pictures for a file of cases: from the thumbnails beside the index, where there are some, else made now.

    Args:
        index: the cases.
        manifest, root: where the radiographs are, see `read_places`.
        left_out: is filled with why cases have none, and how many.

    Raises:
        ManifestError, ThumbnailError: for radiographs or thumbnails that cannot be read.
    """
    generation = open_generation(index.path)
    beside = thumbnails_path(index.path)
    thumbnails = Thumbnails(beside) if is_thumbnails(beside) else None
    decoders = Decoders(1)
    pictures = Pictures(*read_places(index, manifest, root), decoders, thumbnails=thumbnails)

    def picture(image_id: str) -> bytes | None:
        try:
            made = pictures.outgoing(generation, image_id)
        except NoPicture as why:
            left_out[str(why)] = left_out.get(str(why), 0) + 1
            return None
        if made is None:
            left_out[_WHY["identifying"]] = left_out.get(_WHY["identifying"], 0) + 1
        return made

    try:
        yield picture
    finally:
        decoders.close()


@contextmanager
def several_decoders() -> Iterator[tuple[Decoders, ThreadPoolExecutor]]:
    """Decoders, one a core, and as many threads that ask them; all are gone at the end."""
    from joblib import cpu_count

    decoders = Decoders(cpu_count())
    threads = ThreadPoolExecutor(cpu_count())
    try:
        yield decoders, threads
    finally:
        threads.shutdown(cancel_futures=True)
        decoders.close()
