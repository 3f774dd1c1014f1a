"""The stores of a benchmark: which encoder's vectors they hold is known without opening the encoder again."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cxr_embed.benchmark.plan import EncoderPlan
from cxr_embed.encoders import encoder_card, load_encoder
from cxr_embed.encoders.hub import HubModel, cached_folder
from cxr_embed.encoders.registry import is_own
from cxr_embed.encoders.weights import weights_path
from cxr_embed.errors import TRANSIENT_FAULTS, CxrEmbedError, EncoderError
from cxr_embed.io.digests import json_digest
from cxr_embed.io.files import write_whole
from cxr_embed.manifest import Manifest
from cxr_embed.pipeline.embedding import embed
from cxr_embed.pipeline.summary import EmbedSummary
from cxr_embed.pipeline.tasks import left_of, task_chunks, unchanged_tasks
from cxr_embed.pipeline.worker import file_stamp
from cxr_embed.store import Store, open_store
from cxr_embed.store.forgotten import gather_forgotten
from cxr_embed.store.layout import HEADER
from cxr_embed.types import EncoderSpec, counted
from cxr_embed.version import __version__

RANDOM = "random"
_STEPS = re.compile(r"[^A-Za-z0-9.+-]+")


@dataclass(frozen=True, kw_only=True)
class BenchEncoder:
    """An encoder of a plan.

    Attributes:
        name: in the results.
        encoder: as `embed` takes it; blank for a model of which there are scores alone.
        plan: what the plan says of it.
        weights: the file that the plan names, or the one of random numbers.
        folder: that the plan's paths are relative to.
        absent: why it is left out; blank where it is not.
    """

    name: str
    encoder: str
    plan: EncoderPlan
    weights: Path | None
    folder: Path
    absent: str = ""

    def request(self) -> str:
        """64 hexadecimal digits of all that decides which vectors it gives; nothing is opened."""
        plan, files = self.plan, []
        named = self.weights
        if named is None and self.encoder and not is_own(self.encoder):
            card = encoder_card(self.encoder)
            hub = card.hub if not card.is_family else _family_hub(self.encoder)
            named = weights_path(self.encoder)
            if hub is not None and not named.is_file():
                named = cached_folder(hub)
        files += _stamps(named)
        if is_own(self.encoder):
            files += _stamps(_module_file(self.encoder.partition(":")[0]))
        return json_digest(
            [__version__, self.encoder, files, plan.outputs, plan.pixels, plan.prepare, plan.precision, plan.dtype]
        )


def _module_file(name: str) -> Path | None:
    """The file of a user's module; None where it is not found, of which whoever loads it says more."""
    try:
        module = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None
    return Path(module.origin) if module is not None and module.origin else None


def _family_hub(name: str) -> HubModel | None:
    prefix, _, rest = name.partition(":")
    return HubModel(rest, "main") if prefix == "hf" else None


def _stamps(path: Path | None) -> list[list[Any]]:
    """What the file system says of a file, or of all files of a folder."""
    if path is None or not path.exists():
        return []
    files = sorted(found for found in path.rglob("*") if found.is_file()) if path.is_dir() else [path]
    # The time of the last change as well: another file of the same size may bring its own time of writing along.
    known = [(file, file_stamp(str(file))) for file in files]
    return [[str(file.resolve()), stamp.size, stamp.mtime_ns, stamp.ctime_ns] for file, stamp in known]


def random_file(encoder: str, out: Path, seed: int) -> Path:
    """A file of random weights, made where it is not there yet.

    Raises:
        EncoderError: for an encoder whose shapes are not known.
    """
    from cxr_embed.encoders.torchxrayvision import head_shapes, published_weights
    from cxr_embed.encoders.weights import random_weights, save_weights

    _, network = published_weights(encoder)
    path = out / "weights" / f"{encoder}-random-{seed}.safetensors"
    if not path.is_file():
        save_weights(
            path,
            random_weights(network, seed, head_shapes(encoder)),
            f"random numbers (seed {seed}): not a trained model",
        )
    return path


@dataclass(frozen=True)
class Stores:
    """The stores of a benchmark.

    Attributes:
        out: its folder.
    """

    out: Path

    def spec(self, encoder: BenchEncoder) -> EncoderSpec:
        """What an encoder computes: as was written down when its vectors were made, else by opening it.

        Raises:
            EncoderError: where it cannot be loaded.
        """
        record = self._record(encoder)
        if record.get("request") == encoder.request():
            return EncoderSpec.from_json(record["spec"])
        plan = encoder.plan
        loaded = load_encoder(
            encoder.encoder, weights=encoder.weights, device="cpu", outputs=plan.outputs, pixels=plan.pixels
        )
        try:
            from cxr_embed.images import prepared_encoder

            spec = prepared_encoder(loaded.encoder, plan.prepare).spec
        finally:
            loaded.close()
        self._note(encoder, spec)
        return spec

    def path(self, encoder: BenchEncoder, data: str) -> Path:
        """The folder of the vectors of a data set."""
        plan = encoder.plan
        kept = json_digest([self.spec(encoder).fingerprint, plan.precision, plan.dtype])[:12]
        return self.out / "vectors" / folder_name(data) / f"{folder_name(encoder.name)}-{kept}"

    def is_complete(self, encoder: BenchEncoder, data: str, table: Manifest) -> bool:
        """Whether every file is as the store knows it, by its stamp; nothing is read and no encoder opened."""
        path = self.path(encoder, data)
        if not (path / HEADER).is_file():
            return False
        index, forgotten = Store(path).index, gather_forgotten(path)
        for every in task_chunks(table, None):
            tasks = left_of(every, forgotten)
            same = unchanged_tasks(index, tasks, [file_stamp(task.path) for task in tasks])
            for task, unchanged in zip(tasks, same, strict=True):
                kind = index.failures.get(task.image_id, ("", ""))[0]
                gone = kind == "missing" and not os.path.lexists(task.path)
                if not gone and (not unchanged or kind in TRANSIENT_FAULTS):
                    return False
        return True

    def embed(
        self, encoder: BenchEncoder, data: str, table: Manifest, progress: Callable[[EmbedSummary], None] | None
    ) -> EmbedSummary:
        """Embeds what is not embedded yet.

        Raises:
            CxrEmbedError: as `cxr_embed.embed`; KeyboardInterrupt where a signal ended it.
        """
        plan, path = encoder.plan, self.path(encoder, data)
        path.parent.mkdir(parents=True, exist_ok=True)
        summary = embed(
            table,
            encoder.encoder,
            path,
            weights=encoder.weights,
            device=plan.device,
            precision=plan.precision,
            outputs=plan.outputs,
            pixels=plan.pixels,
            prepare=plan.prepare,
            dtype=plan.dtype,
            batch_size=plan.batch_size,
            workers=plan.workers,
            progress=progress,
        )
        if summary.interrupted:
            raise KeyboardInterrupt
        if not summary.stored:
            why = f": {summary.failed[0].reason}" if summary.failed else ""
            raise EncoderError(f"none of {counted(summary.images, 'image')} could be embedded{why}")
        return summary

    def open(self, encoder: BenchEncoder, data: str) -> Store:
        """The vectors of a data set.

        Raises:
            StoreError: where they are not there, or damaged.
        """
        return open_store(self.path(encoder, data))

    def _record(self, encoder: BenchEncoder) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(self._record_path(encoder).read_text())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) and isinstance(found.get("spec"), dict) else {}

    def _note(self, encoder: BenchEncoder, spec: EncoderSpec) -> None:
        path = self._record_path(encoder)
        path.parent.mkdir(parents=True, exist_ok=True)
        body = {"request": encoder.request(), "spec": spec.to_json()}
        write_whole(path, json.dumps(body, indent=1, ensure_ascii=False).encode() + b"\n")

    def _record_path(self, encoder: BenchEncoder) -> Path:
        return self.out / "encoders" / f"{folder_name(encoder.name)}.json"


def folder_name(name: str) -> str:
    """A name of the plan as a folder's; names that differ stay different."""
    plain = _STEPS.sub("-", name)
    return plain if plain == name else f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def reason_of(error: Exception) -> str:
    """Why something failed, in a line."""
    text = str(error) if isinstance(error, CxrEmbedError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())
