"""How far a run is: shown here, and in the store for others (`store status`)."""

from __future__ import annotations

import time

from cxr_embed.pipeline.parts import Part
from cxr_embed.pipeline.summary import EmbedSummary, Progress
from cxr_embed.store.writer import StoreWriter


class Announced:
    """Has others see how far a run is, and shows it here."""

    def __init__(self, progress: Progress | None, writer: StoreWriter, part: Part | None) -> None:
        self._progress, self._writer, self._part = progress, writer, part
        self._since: float | None = None

    def __call__(self, summary: EmbedSummary) -> None:
        worked = summary.done - summary.unchanged - summary.forgotten
        if worked and self._since is None:
            self._since = time.monotonic()
        seconds = time.monotonic() - self._since if self._since is not None else 0.0
        self._writer.presence.say(
            part=str(self._part or ""),
            engine=summary.engine,
            images=summary.images,
            done=summary.done,
            embedded=summary.embedded,
            failed=len(summary.failed),
            rate=round(worked / seconds, 2) if seconds > 1 else 0.0,
        )
        if self._progress is not None:
            self._progress(summary)
