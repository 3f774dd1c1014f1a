"""The process that makes heat maps: a long one holds up no search, and one that takes too long is ended with it."""

from __future__ import annotations

import sys
import warnings
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from cxr_embed.errors import CxrEmbedError, UnknownWordsWarning
from cxr_embed.io.processes import end_with_peer
from cxr_embed.web import wire

if TYPE_CHECKING:
    from cxr_embed.choices import ExplainMethod
    from cxr_embed.encoders import CheckedEncoder
    from cxr_embed.explanation.single import SingleMap
    from cxr_embed.explanation.targets import Targets
    from cxr_embed.types import CxrImage, EncoderSpec

_ENCODERS = 2  # that are kept: with its map, and with its patches


def image_head(image: CxrImage) -> dict[str, Any]:
    """What is sent of a radiograph beside its pixels; nothing of its header."""
    height, width = image.pixels.shape
    depth = image.pixels.dtype.itemsize
    return {"height": height, "width": width, "depth": depth, "bits": image.bits, "source": image.source}


def image_of(head: dict[str, Any], pixels: memoryview) -> CxrImage:
    """The radiograph of `image_head` and its pixels, little endian."""
    from cxr_embed.types import CxrImage

    kind = np.uint8 if head["depth"] == 1 else np.dtype("<u2")
    shaped = np.frombuffer(pixels, kind).reshape(head["height"], head["width"])
    return CxrImage(pixels=shaped, bits=head["bits"], content_id="", source=head["source"])


class Desk:
    """What the process has open.

    Args:
        head: `spec` and `output` of the index; `probe`, JSON values, or None; `weights` and `device`.
        numbers: of the probe.
    """

    def __init__(self, head: dict[str, Any], numbers: memoryview) -> None:
        from cxr_embed.probe.persistence import unpacked_probe
        from cxr_embed.types import EncoderSpec

        self._spec, self._output = EncoderSpec.from_json(head["spec"]), str(head["output"])
        self._probe = unpacked_probe(head["probe"], bytes(numbers)) if head["probe"] is not None else None
        self._weights, self._device = head["weights"], head["device"]
        self._kept: dict[tuple[str, bool], CheckedEncoder] = {}

    def answer(self, head: dict[str, Any], parts: list[memoryview]) -> tuple[dict[str, Any], list[bytes | memoryview]]:
        """One map.

        Args:
            head: `kind` (`probe`, `words` or `like`), `names` (a finding, prompts, or the other case), `method`, and
                `images`, as `image_head` has them: the picture and, for likeness, the other one.
            parts: their pixels.

        Returns:
            What is said of the map; the grid, and its two PNGs.
        """
        from cxr_embed.explanation.single import single_map

        images = [image_of(each, part) for each, part in zip(head["images"], parts, strict=True)]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            encoder, targets = self._targets(head["kind"], head["names"], head["method"], images)
            made = single_map(encoder, targets, images[0], head["method"])
        notes = [str(each.message) for each in caught if issubclass(each.category, UnknownWordsWarning)]
        return _said(made, targets.names[0], list(dict.fromkeys(notes)))

    def _targets(
        self, kind: str, names: list[str], method: ExplainMethod, images: list[CxrImage]
    ) -> tuple[CheckedEncoder, Targets]:
        from cxr_embed.explanation.answers import answers_of
        from cxr_embed.explanation.targets import of_probe, of_prompts, of_vectors
        from cxr_embed.index.faiss.vectors import pooled

        if kind == "probe":
            assert self._probe is not None
            return self._loaded(self._probe.spec, self._probe.output, method), of_probe(self._probe, names)
        encoder = self._of_index(method, words=kind == "words")
        if kind == "like":
            vectors = answers_of(encoder, [images[1]], (self._output,))[self._output]
            mean = pooled(vectors, encoder.spec.outputs[self._output])
            return encoder, of_vectors(encoder, self._output, mean, (f"like {names[0]}",))
        targets = of_prompts(encoder, names)
        if len(names) > 1:  # of a finding's prompts, the one that is nearest to the picture
            values = targets.values(answers_of(encoder, images[:1], (targets.output,))[targets.output])[0]
            targets = of_prompts(encoder, [names[int(values.argmax())]])
        return encoder, targets

    def _of_index(self, method: ExplainMethod, words: bool) -> CheckedEncoder:
        """With the grid that the method reads: for words and `auto` the patches, where there is no map."""
        from cxr_embed.explanation.cam import MAP

        encoder = self._loaded(self._spec, self._output, method)
        if words and method == "auto" and MAP not in encoder.spec.outputs:
            return self._loaded(self._spec, self._output, "patch")
        return encoder

    def _loaded(self, spec: EncoderSpec, output: str, method: ExplainMethod) -> CheckedEncoder:
        from cxr_embed.explanation.loading import encoder_of

        key = output, method == "patch"
        if key not in self._kept:
            if len(self._kept) == _ENCODERS:
                self._kept.pop(next(iter(self._kept))).close()
            self._kept[key] = encoder_of(
                spec, output, method, weights=self._weights, device=self._device, whose="the index"
            )
        return self._kept[key]


def _said(made: SingleMap, name: str, notes: list[str]) -> tuple[dict[str, Any], list[bytes | memoryview]]:
    about = {key: made.about[key] for key in ("encoder", "fingerprint", "method", "layer", "words", "output", "unit")}
    head = {
        "about": {**about, "region": made.about["region"], "stand_in": made.about["stand_in"]},
        "name": name,
        "shape": list(made.shape),
        "grid": list(made.grid.shape),
        "area": list(made.area),
        "value": made.value,
        "score": made.score,
        "intercept": made.intercept,
        "sum": float(made.grid.sum(dtype=np.float64)),
        "highest": float(made.grid.max()),
        "region_part": float(made.claim.region.mean()),
        "without_region": made.claim.without,
        "without_elsewhere": made.claim.elsewhere,
        "line": made.line,
        "refused": list(made.refused),
        "notes": notes,
    }
    return head, [made.grid.astype("<f4").tobytes(), *made.pictures()]


def main() -> None:
    """Answers the server at the other end of the socket whose descriptor is the first argument, until it closes."""
    connection = Connection(int(sys.argv[1]))
    end_with_peer(connection.fileno())
    try:
        wire.send(connection, {"ready": True})
        head, parts = wire.receive(connection)
        desk: Desk | None = None
        while True:
            message, pixels = wire.receive(connection)
            try:
                desk = desk or Desk(head, parts[0])
                reply = desk.answer(message, pixels)
            except CxrEmbedError as error:
                reply = {"fault": str(error)}, []
            except Exception as error:
                reply = {"fault": f"the map cannot be made ({type(error).__name__})"}, []
            wire.send(connection, *cast("Any", reply))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the server is gone
