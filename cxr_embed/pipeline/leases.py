"""Which images of a run are with which worker far away, and which come back because it died or fell silent."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from cxr_embed.pipeline.tasks import Task


class Leases:
    """The images of a run, handed out a few at a time; an image stays out until somebody says what became of it.

    Args:
        tasks: the images, in their order; taken as they are handed out.
    """

    def __init__(self, tasks: Iterator[Task]) -> None:
        self._new = enumerate(tasks)
        self._out: dict[int, dict[int, Task]] = {}  # holder to key to image
        self._holder: dict[int, int] = {}  # of each key that is out
        self._back: dict[int, Task] = {}  # that came back, in their order
        self._exhausted = False

    def take(self, holder: int, images: int) -> tuple[list[tuple[int, Task]], bool]:
        """The next images for a holder, by their keys, and whether some of them were another's before.

        First those that came back: what somebody else began may lie in the store by now.
        """
        taken = list(itertools.islice(self._back.items(), images))
        for key, _ in taken:
            del self._back[key]
        again = bool(taken)
        if not again and not self._exhausted:
            taken = list(itertools.islice(self._new, images))
            self._exhausted = len(taken) < images
        self._out.setdefault(holder, {}).update(taken)
        self._holder.update((key, holder) for key, _ in taken)
        return taken, again

    def settle(self, key: int) -> Task | None:
        """The image, which nobody needs to look at any more; None where somebody has said so before."""
        if (task := self._back.pop(key, None)) is not None:
            return task
        holder = self._holder.pop(key, None)
        return self._out[holder].pop(key) if holder is not None else None

    def take_back(self, holder: int) -> int:
        """Takes all that a holder has away from it. Returns the number of images."""
        images = self._out.pop(holder, {})
        for key in images:
            del self._holder[key]
        self._back.update(images)
        return len(images)

    def held_by(self, holder: int) -> int:
        """Images that a holder has."""
        return len(self._out.get(holder, ()))

    @property
    def waiting(self) -> bool:
        """Whether there may be images that nobody has."""
        return bool(self._back) or not self._exhausted

    @property
    def open(self) -> bool:
        """Whether there are, or may be, images that are not settled."""
        return self.waiting or bool(self._holder)
