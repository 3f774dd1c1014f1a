"""`embed`: what is new in a manifest goes through the encoder and into the store."""

from __future__ import annotations

import itertools
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from cxr_embed.choices import Colour, Dtype, EmbedEngine
from cxr_embed.encoders import CheckedEncoder, as_precision, load_encoder, resolve_precision
from cxr_embed.encoders.registry import ENCODERS
from cxr_embed.errors import CxrEmbedError, EncoderError, ManifestError, RemoteError, StoreError
from cxr_embed.images import decoders, prepared_encoder
from cxr_embed.io.addresses import address_of, shown_address
from cxr_embed.manifest import Manifest, read_manifest
from cxr_embed.pipeline.announced import Announced
from cxr_embed.pipeline.devices import resolve_devices
from cxr_embed.pipeline.messages import Setup
from cxr_embed.pipeline.parts import Part, note_end, only_part
from cxr_embed.pipeline.ray_run import OnRay, on_ray, work_on_ray
from cxr_embed.pipeline.session import Session
from cxr_embed.pipeline.stamps import Stamps
from cxr_embed.pipeline.stop import StopSignals
from cxr_embed.pipeline.summary import EmbedSummary, Progress, notebook_progress
from cxr_embed.pipeline.tasks import left_of, task_chunks, unchanged_tasks
from cxr_embed.store.forgotten import gather_forgotten
from cxr_embed.store.layout import HEADER, Header, bytes_an_image
from cxr_embed.store.reader import Store
from cxr_embed.store.writer import StoreWriter
from cxr_embed.types import Encoder, Precision, counted, is_lateral

_WITH_A_NAME = ("weights", "device", "precision", "outputs", "pixels", "prepare", "workers")
_BY_DEFAULT = (None, "auto", "auto", None, None, None, "auto")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run would do, from file stamps alone: nothing is read.

    Attributes:
        bytes_ahead: of vectors, if no two files are the same.
    """

    images: int
    unchanged: int
    to_read: int
    missing: int
    forgotten: int = 0
    bytes_ahead: int = 0


def embed(
    manifest: Manifest | str | os.PathLike[str],
    encoder: str | Encoder,
    store: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] | None = None,
    device: str = "auto",
    precision: str = "auto",
    outputs: Sequence[str] | None = None,
    pixels: str | None = None,
    prepare: str | None = None,
    colour: Colour = "refuse",
    follow_links: bool = False,
    dtype: Dtype | None = None,
    batch_size: int | Literal["auto"] = "auto",
    workers: int | Literal["auto"] = "auto",
    limit: int | None = None,
    part: str | None = None,
    key_file: Path | None = None,
    engine: EmbedEngine = "local",
    address: str | None = None,
    actors: int | None = None,
    progress: Progress | None = None,
) -> EmbedSummary:
    """Embeds every radiograph of a manifest that the store does not hold yet.

    A file is known by its content: what was embedded under another name or in another run is not embedded again. One
    broken file never stops the run. Ctrl-C and SIGTERM finish the files in hand and return; a second one ends at once.

    Args:
        manifest: a `Manifest` or the path of one.
        encoder: a name in the encoder table, or `package.module:function`: it is loaded by worker processes, one a
            core. Or an `Encoder` object, which runs in this process: slower, but it may be made on the spot.
        store: the store's folder; made where it is missing.
        weights: a safetensors file or a checkpoint's folder.
        device: as for `load_encoder`, or GPUs such as `cuda:0,cuda:1`, each with an engine.
        precision: as for `load_encoder`; `auto` keeps an existing store's.
        outputs, pixels: which of the encoder's outputs to store, which of its pixel recipes to use.
        prepare: what is done to a picture before the encoder sees it, `stretch`; its vectors are another encoder's.
        colour: `grey` reads pictures in colour by their luma instead of refusing them.
        follow_links: also read files that lie outside the manifest's root and are reached through a link.
        dtype: `float16` (a new store's default) or `float32`.
        batch_size, workers: images the encoder takes at once; processes, on a GPU those that decode. `auto` chooses.
        limit: look at the first so many rows only.
        part: of these, only one part of so many, `3/16` or `env`; others may be at the store at the same time.
        key_file: the key of the patient ids, where patients were forgotten; the user's own by default.
        engine: `ray` for workers on the machines of a Ray cluster.
        address: of that cluster's head, or `auto`; None starts Ray on this machine, for this run alone.
        actors: workers on Ray; one a device by default.
        progress: called now and then with the summary so far; in a notebook, a bar by default.

    Returns:
        What was done; failures are in it, not raised.

    Raises:
        ManifestError, EncoderError: the manifest is unusable; the encoder cannot be loaded.
        StoreError: the store is locked, full, damaged or another encoder's, or the key of who was forgotten is missing.
    """
    started = time.perf_counter()
    mine = Part.parse(part) if part is not None else None
    table = _manifest(manifest, batch_size, workers, limit)
    ray = on_ray(encoder, engine, address, actors, device, part)
    stamps = Stamps()
    _check_files(table, limit, stamps)
    if mine is not None:
        table, limit = only_part(table, mine, limit), None
    options = (weights, device, precision, outputs, pixels, prepare)
    far = ray is not None and ray.address is not None
    chosen = _choose(encoder, Path(store), *options, workers=workers, cropped=table.has_regions, far=far)
    setup = replace(chosen.setup, colour=colour, root=None if follow_links else str(table.root))
    with StopSignals() as stop, chosen.writer(store, dtype, key_file) as writer:
        software = f"{_version()}; {decoders()}"
        shown = Announced(progress or notebook_progress(), writer, mine)
        run = Session(table, writer, limit, shown, stop, software, colour=colour, stamps=stamps)
        run.summary.part = str(mine or "")
        run.summary.bytes_ahead = _bytes_ahead(run, writer)
        run.summary.bytes_free = shutil.disk_usage(writer.path).free
        _work(run, chosen, setup, batch_size, workers, ray, key_file)
        if mine is not None:
            with suppress(OSError):  # only `store status` reads it
                note_end(writer.path, mine, run.summary)
    _look_back(run, store, chosen.loaded.spec.name)
    run.summary.seconds = time.perf_counter() - started
    return run.summary


@dataclass(frozen=True)
class _Chosen:
    """The encoder of a run.

    Attributes:
        loaded: as far as its spec and `preprocess` need it; as a whole where it is an object.
        here: whether it is an object, which runs in this process.
        setup: for the workers.
    """

    loaded: CheckedEncoder
    here: bool
    setup: Setup

    def writer(self, store: str | os.PathLike[str], dtype: Dtype | None, key_file: Path | None) -> StoreWriter:
        """Opens the store for this encoder's vectors."""
        precision = as_precision(self.setup.precision)
        return StoreWriter(
            store,
            self.loaded.spec,
            dtype=dtype,
            precision=precision,
            software=_version(),
            key_file=key_file,
            at="embed",
        )


def _choose(
    encoder: str | Encoder,
    store: Path,
    weights: str | os.PathLike[str] | None,
    device: str,
    precision: str,
    outputs: Sequence[str] | None,
    pixels: str | None,
    prepare: str | None,
    *,
    workers: int | Literal["auto"],
    cropped: bool,
    far: bool,
) -> _Chosen:
    """The encoder by its name, or the object itself, with which `_WITH_A_NAME` stay as they are by default."""
    if not isinstance(encoder, str):
        if (weights, device, precision, outputs, pixels, prepare, workers) != _BY_DEFAULT:
            raise EncoderError(f"{', '.join(_WITH_A_NAME)} go with an encoder's name, not with an object")
        loaded = CheckedEncoder(prepared_encoder(encoder, None, cropped))
        arithmetic = "bf16" if "bf16" in loaded.engine.split() else "float32"
        spec = loaded.spec
        setup = Setup(kind="whole", encoder=spec.name, fingerprint=spec.fingerprint, device="cpu", precision=arithmetic)
        return _Chosen(loaded, True, setup)
    loaded = _spec_encoder(encoder, weights, precision, outputs, pixels, prepare=prepare, cropped=cropped)
    kind, gpus = resolve_devices(device, encoder, far=far)
    setup = Setup(
        kind="whole",
        encoder=encoder,
        fingerprint=loaded.spec.fingerprint,
        weights=str(weights) if weights is not None else None,
        precision=_precision(encoder, precision, kind, store),
        device=kind,
        gpus=gpus,
        outputs=tuple(outputs) if outputs is not None else None,
        pixels=pixels,
        prepare=prepare,
        cropped=cropped,
    )
    return _Chosen(loaded, False, setup)


def _bytes_ahead(run: Session, writer: StoreWriter) -> int:
    """Of the vectors of all images that the store does not know by their ids."""
    new = sum(image_id not in writer.index.latest for image_id in run.manifest.ids[: run.limit].tolist())
    return new * bytes_an_image(writer.header.spec, writer.header.dtype)


def _look_back(run: Session, store: str | os.PathLike[str], encoder: str) -> None:
    """Puts into the summary what only a whole run knows."""
    _note_lateral(run, encoder)
    _note_equal(run, store)
    outside = sum(failure.kind == "outside" for failure in run.summary.failed)
    if outside:
        are = counted(outside, "box is not inside its picture", "boxes are not inside their pictures")
        run.summary.notes.append(f"{are}: drawn on pictures of another size? Say so with `drawn_on`")


def _note_lateral(run: Session, encoder: str) -> None:
    """Lateral views: those by their headers, and those by the manifest."""
    table, summary = run.manifest, run.summary
    views = table.column("view")[: run.limit]
    listed = {str(image_id) for image_id, view in zip(table.ids, views, strict=False) if is_lateral(str(view))}
    if found := sorted(listed.union(summary.odd_files.get("lateral", ()))):
        summary.odd_files["lateral"] = found
        if (card := ENCODERS.get(encoder)) is not None and card.frontal:
            summary.notes.append(
                f"{encoder} was trained on frontal views; what its vectors of lateral ones are worth is unknown"
            )


def _note_equal(run: Session, store: str | os.PathLike[str]) -> None:
    """Puts images of this run whose vectors equal another's into the summary."""
    try:
        groups = Store(store).equal_vectors() if run.new else []
    except StoreError as error:  # an older shard's; what was embedded is in the store, and is counted
        run.summary.notes.append(f"equal vectors could not be looked for: {error}; see `cxr-embed store verify`")
    else:
        run.summary.equal_vectors = [group for group in groups if not run.new.isdisjoint(group)]


def _work(
    run: Session,
    chosen: _Chosen,
    setup: Setup,
    batch_size: int | Literal["auto"],
    workers: int | Literal["auto"],
    ray: OnRay | None,
    key_file: Path | None,
) -> None:
    """Embeds what is new, and publishes what was done, also when the encoder gives up on the way."""
    tasks = run.tasks()
    first = next(tasks, None)
    try:
        if first is not None and chosen.here:
            run.work_here(itertools.chain([first], tasks), chosen.loaded, setup, batch_size)
        elif first is not None and ray is not None:
            work_on_ray(run, itertools.chain([first], tasks), setup, batch_size, workers, ray, key_file)
        elif first is not None:
            run.work(itertools.chain([first], tasks), chosen.loaded, setup, batch_size, workers)
    except EncoderError:
        run.finish()
        raise
    run.finish()
    run.summary.stored = len(run.writer.index)


def plan_embedding(
    manifest: Manifest | str | os.PathLike[str],
    *,
    encoder: str,
    store: str | os.PathLike[str],
    weights: str | os.PathLike[str] | None = None,
    outputs: Sequence[str] | None = None,
    pixels: str | None = None,
    prepare: str | None = None,
    dtype: Dtype | None = None,
    limit: int | None = None,
    part: str | None = None,
    key_file: Path | None = None,
) -> Plan:
    """What `embed` would do, by file stamps; neither files nor the store are touched.

    Raises:
        ManifestError, EncoderError, StoreError: as `embed`.
    """
    table = _manifest(manifest, "auto", "auto", limit)
    if part is not None:
        table, limit = only_part(table, Part.parse(part), limit), None
    cropped = table.has_regions
    spec = _spec_encoder(encoder, weights, "auto", outputs, pixels, prepare=prepare, cropped=cropped).spec
    index, held = None, dtype or "float16"
    if (Path(store) / HEADER).exists():
        opened = Store(store)
        if opened.spec.fingerprint != spec.fingerprint:
            raise StoreError(f"{store} holds vectors of another encoder ({opened.spec.name}); give another `store`")
        index, held = opened.index, opened.header.dtype
    images = unchanged = missing = out = 0
    looked = Stamps()
    forgotten = gather_forgotten(Path(store), key_file=key_file)
    for every in task_chunks(table, limit):
        tasks = left_of(every, forgotten)
        out += len(every) - len(tasks)
        stamps = looked.of([task.path for task in tasks])
        known = unchanged_tasks(index, tasks, stamps) if index is not None else [False] * len(tasks)
        images += len(every)
        unchanged += sum(known)
        missing += sum(_missing([task.path for task, same in zip(tasks, known, strict=True) if not same], looked))
    to_read = images - unchanged - missing - out
    return Plan(
        images=images,
        unchanged=unchanged,
        to_read=to_read,
        missing=missing,
        forgotten=out,
        bytes_ahead=to_read * bytes_an_image(spec, held),
    )


def _manifest(manifest: Manifest | str | os.PathLike[str], batch_size: Any, workers: Any, limit: Any) -> Manifest:
    for name, value in (("batch_size", batch_size), ("workers", workers), ("limit", limit)):
        if value is not None and value != "auto" and (not isinstance(value, int) or value < 1):
            raise CxrEmbedError(f"{name} must be 1 or more, not {value!r}")
    if not isinstance(manifest, Manifest | str | os.PathLike):
        raise ManifestError(
            f"manifest is a Manifest or the path of one, not {type(manifest).__name__}; "
            "`cxr-embed manifest scan FOLDER --out FILE` makes one of a folder of images"
        )
    return manifest if isinstance(manifest, Manifest) else read_manifest(manifest)


def _missing(paths: Sequence[str], stamps: Stamps) -> list[bool]:
    """Which of some files are not there.

    Raises:
        ManifestError: where a server does not say.
    """
    there = _objects_there(paths, stamps)
    return [not (there[path] if path in there else os.path.exists(path)) for path in paths]


def _objects_there(paths: Sequence[str], stamps: Stamps) -> dict[str, bool]:
    """Whether they are there, of the objects among some paths.

    Raises:
        ManifestError: where a server does not say.
    """
    objects = [path for path in paths if address_of(path) is not None]
    try:
        return dict(zip(objects, stamps.there(objects), strict=True))
    except RemoteError as error:
        raise ManifestError(f"{shown_address(objects[0])}: {error}; nothing was done") from None


def _check_files(table: Manifest, limit: int | None, stamps: Stamps) -> None:
    """Refuses a manifest of which no file is there, before a store is made for it: the root is another folder.

    Raises:
        ManifestError: with the first paths in full; for a server that does not answer, or refuses.
    """
    tried: list[str] = []
    for tasks in task_chunks(table, limit):
        objects = _objects_there([task.path for task in tasks], stamps)
        if any(objects.values()) or any(os.path.lexists(task.path) for task in tasks if task.path not in objects):
            return
        tried += [address_of(task.path) or os.path.abspath(task.path) for task in tasks[: 3 - len(tried)]]
    if tried:
        shown = "".join(f"\n  {path}" for path in tried)
        raise ManifestError(f"none of the manifest's files is there; give `root`, the folder of its paths{shown}")


def _spec_encoder(
    encoder: str,
    weights: str | os.PathLike[str] | None,
    precision: str,
    outputs: Sequence[str] | None,
    pixels: str | None,
    *,
    prepare: str | None,
    cropped: bool,
) -> CheckedEncoder:
    """The encoder as far as its spec and `preprocess` need it: no engine is started, no GPU is looked for."""
    plain = precision if precision in ("bf16", "float32") else "float32"
    loaded = load_encoder(encoder, weights=weights, device="cpu", precision=plain, outputs=outputs, pixels=pixels)
    return CheckedEncoder(prepared_encoder(loaded.encoder, prepare, cropped))


def _precision(name: str, precision: str, device: str, store: Path) -> Precision:
    """The arithmetic of the run: the given one, else the store's, else the fastest that is native."""
    if precision != "auto":
        return as_precision(precision)
    if (store / HEADER).exists():
        return Header.read(store).precision
    return resolve_precision(precision, name, device)


def _version() -> str:
    from cxr_embed.version import __version__

    return __version__
