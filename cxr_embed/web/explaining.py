"""Heat maps for pages: made in a process of their own, a few at a time, those of last time kept in memory."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np

from cxr_embed.choices import ExplainMethod
from cxr_embed.errors import CxrEmbedError, MapError
from cxr_embed.explanation.measured import Measured
from cxr_embed.io.digests import json_digest
from cxr_embed.probe.persistence import packed_probe
from cxr_embed.types import CxrImage
from cxr_embed.web.explainer import image_head
from cxr_embed.web.lru import Recent
from cxr_embed.web.state import State
from cxr_embed.web.workers import Message, Worker, WorkerEnded

SECONDS = 120.0  # of one map, the encoder's loading among them
WAITING = 4  # readers who wait for a map, or have theirs made; more are sent away
_PATIENCE = 60.0  # seconds until it is one's turn
_KEPT = 64 << 20  # bytes of maps
_PROGRAM = "cxr_embed.web.explainer"


class Busy(CxrEmbedError):
    """Other maps are being made."""


@dataclass(frozen=True)
class MadeMap:
    """A map as the process made it.

    Attributes:
        said: of it, JSON values.
        grid: float32, little endian, row by row.
        heat, outline: PNGs to lay over the picture.
    """

    said: dict[str, Any]
    grid: bytes
    heat: bytes
    outline: bytes


@dataclass(frozen=True)
class Wanted:
    """What a map is to show.

    Attributes:
        kind: `probe`, `words` or `like`.
        names: a finding; prompts, of which the nearest to the picture is taken; or the other case.
        method: of the map.
        images: the picture and, for likeness, the other one.
    """

    kind: str
    names: tuple[str, ...]
    method: ExplainMethod
    images: tuple[CxrImage, ...]

    def key(self) -> str:
        """Another one for every other map."""
        return json_digest([self.kind, self.names, self.method, [image.content_id for image in self.images]])


class Explanations:
    """Makes maps.

    Args:
        state: what the maps are of: the index, its encoder, the probe.
        measured: how well such maps were found to hit, by whoever started the server.
        seconds: that a map may take.
        waiting: readers who may wait.
        patience: seconds until they are sent away.
    """

    def __init__(
        self,
        state: State,
        *,
        measured: Measured | None = None,
        seconds: float = SECONDS,
        waiting: int = WAITING,
        patience: float = _PATIENCE,
    ) -> None:
        self._state, self._seconds, self._patience, self.measured = state, seconds, patience, measured
        self._worker = Worker(_PROGRAM, "explaining", self._greeting)
        self._line, self._turn = threading.BoundedSemaphore(waiting), threading.Lock()
        self._recent: Recent[MadeMap] = Recent(
            _KEPT, lambda made: len(made.grid) + len(made.heat) + len(made.outline) + 4096
        )
        self._opened = ""

    def of(self, wanted: Wanted) -> MadeMap:
        """The map, made now or kept.

        Raises:
            Busy: where too many others wait.
            MapError: where it cannot be made, or takes too long.
        """
        key = f"{self._spec()} {wanted.key()}"
        if (kept := self._recent.get(key)) is not None:
            return kept
        if not self._line.acquire(blocking=False):
            raise Busy("the server is busy with other heat maps; try again in a minute")
        try:
            if not self._turn.acquire(timeout=self._patience):
                raise Busy("the server is busy with another heat map; try again in a minute")
            try:
                return self._recent.get(key) or self._made(wanted, key)
            finally:
                self._turn.release()
        finally:
            self._line.release()

    def close(self) -> None:
        """Ends the process."""
        self._worker.stop()

    def _made(self, wanted: Wanted, key: str) -> MadeMap:
        if self._opened != self._spec():  # the index was built again, of another encoder or output
            self._worker.stop()
            self._opened = self._spec()
        head = {
            "kind": wanted.kind,
            "names": list(wanted.names),
            "method": wanted.method,
            "images": [image_head(image) for image in wanted.images],
        }
        pixels = [image.pixels.astype(image.pixels.dtype.newbyteorder("<")).tobytes() for image in wanted.images]
        try:
            said, parts = self._worker.ask(head, pixels, self._seconds)
        except WorkerEnded as error:
            raise MapError(f"there is no map: {error}; on the command line, explain has no limit of time") from None
        if "fault" in said:
            raise MapError(str(said["fault"]))
        if len(parts) != 3 or len(parts[0]) != 4 * math.prod(said["grid"]):
            raise MapError("there is no map: the process did not answer in order")
        made = MadeMap(said, *(bytes(part) for part in parts))
        self._recent.put(key, made)
        return made

    def _spec(self) -> str:
        index = self._state.current().index
        return f"{index.spec.fingerprint} {index.output}"

    def _greeting(self) -> Message:
        index, probe, encoders = self._state.current().index, self._state.probe, self._state.encoders
        body, numbers = packed_probe(probe) if probe is not None else (None, b"")
        weights = str(encoders.weights) if encoders.weights is not None else None
        head = {"spec": index.spec.to_json(), "output": index.output, "probe": body}
        return {**head, "weights": weights, "device": encoders.device}, [numbers]


def checks_of(said: dict[str, Any]) -> tuple[bool | None, str]:
    """Whether a map's sum is the value, as far as float32 goes, and the same in words; None where it need not be."""
    about = said["about"]
    if about["method"] != "cam":
        return None, "not exact: the map's sum is not the value"
    total = said["sum"] + (said["intercept"] or 0.0)
    if said["intercept"] is None:
        rest = said["value"] - total
        return None, f"exact but for a bias of {rest:.4f}, which stands nowhere in the picture; the sum is {total:.4f}"
    same = bool(np.isclose(total, said["value"], rtol=1e-5, atol=1e-5))
    parts = f"{said['sum']:.4f} + intercept {said['intercept']:.4f} = {total:.4f}"
    unit = f"{about['unit']} {said['value']:.4f}"
    return same, f"{'exact' if same else 'not exact'}: the map's sum {parts}, the {unit}"
