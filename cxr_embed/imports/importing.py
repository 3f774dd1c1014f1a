"""A source into a store: checked as a whole, then written, what is new only."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cxr_embed.choices import Dtype
from cxr_embed.errors import CxrEmbedError, StoreError
from cxr_embed.imports.sources import LONGEST_ID, ImportSource, Shape, Vector
from cxr_embed.imports.spec import expected_shape, imported_spec
from cxr_embed.io.digests import sha256_hex
from cxr_embed.manifest import CONTROL, Manifest
from cxr_embed.manifest.patterns import match_bounded
from cxr_embed.store.layout import HEADER, Header, Row
from cxr_embed.store.writer import StoreWriter, describe
from cxr_embed.types import EncoderSpec

Progress = Callable[[str, int, int | None], None]
_TELL_EVERY = 64  # vectors between two calls of `progress`


@dataclass(kw_only=True)
class ImportSummary:
    """What an import did.

    Attributes:
        images: in the source.
        added, replaced, unchanged: of these; `replaced` had another vector, or another patient, in the store.
        forgotten: images that stay out, since `forget` took them, their patient or their vector out.
        stored: images in the store now.
        shape: of one image's vector.
        dtype: of the stored vectors; `cast_from` is the file's, where it differs.
        without_patient: images of the source whose patient is unknown.
        without_labels: images of the source that the table of labels does not have; None without such a table.
        labels_without_vector: images of that table that the store does not have now.
        zero_vectors: images of the source whose vector is zero, as the store holds it.
    """

    images: int = 0
    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    forgotten: int = 0
    stored: int = 0
    shape: Shape = ()
    dtype: Dtype = "float32"
    cast_from: str | None = None
    without_patient: int = 0
    without_labels: int | None = None
    labels_without_vector: int | None = None
    zero_vectors: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _CheckedSource:
    """A source that was read once, from its first byte to its last."""

    shape: Shape
    file_dtype: np.dtype
    dtype: Dtype
    contents: dict[str, bytes] = field(default_factory=dict)
    patients: dict[str, str] = field(default_factory=dict)
    zero: list[str] = field(default_factory=list)


def import_vectors(
    source: ImportSource,
    encoder: str,
    output: str,
    store: str | os.PathLike[str],
    *,
    labels: Manifest | None = None,
    patient_pattern: str | None = None,
    dtype: Dtype | None = None,
    key_file: Path | None = None,
    progress: Progress | None = None,
) -> ImportSummary:
    """Puts precomputed vectors into a store.

    Rows are keyed by a content id made of the vector itself (SHA-256 of its bytes), for there is no image file to
    hash: importing again adds only what is new, and a changed vector of an image replaces the old one. Images that
    have the same vector share it.

    Args:
        source: what `open_npz`, `open_npy`, `open_npy_folder` or `open_tfrecord` gave.
        encoder: a name of the encoder table, or any other name; then vectors are taken as the file has them.
        output: which of the encoder's outputs the vectors are.
        store: the store's folder; made where it is missing.
        labels: a table of patients by image id; its ids are compared with the source's.
        patient_pattern: regular expression searched in the image id; its first group is the patient's id, taken as it
            stands there. The source and `labels` come first.
        dtype: of a new store's vectors; the file's by default, float64 as float32.
        key_file: the key of the patient ids, where patients were forgotten; the user's own by default.
        progress: called now and then with what is done (`checking`, `writing`), vectors done and their number.

    Returns:
        What was done. An unknown patient is blank in the store; it never replaces a known one.

    Raises:
        CxrEmbedError: for anything wrong in the source. Nothing has then been written.
        StoreError: where the store holds other vectors, or cannot be written.
    """
    pattern = _compile(patient_pattern)
    shape = expected_shape(encoder, output)
    if shape is not None:
        _check_store(Path(store), imported_spec(encoder, output, shape, ""), dtype)
    checked = _check(source, shape, dtype, progress)
    known = _table_patients(labels)
    for image_id, patient in checked.patients.items():
        checked.patients[image_id] = patient or known.get(image_id, "") or _search(pattern, image_id)
    from cxr_embed.version import __version__

    digest = source.digest()
    spec = imported_spec(encoder, output, checked.shape, f"imported from {source.name} (SHA-256 {digest})")
    summary = ImportSummary(images=len(checked.contents), shape=checked.shape, dtype=checked.dtype)
    if checked.file_dtype != checked.dtype:
        summary.cast_from = str(checked.file_dtype)
    with StoreWriter(store, spec, dtype=checked.dtype, software=__version__, key_file=key_file) as writer:
        summary.forgotten = _leave_out(checked, writer)
        vectors = _reported(source.read(shape), "writing", len(checked.contents), progress)
        _write(vectors, checked, writer, f"imported from {source.name} (SHA-256 {digest[:16]})", summary)
        _sum_up(summary, checked, writer, labels)
    return summary


def _sum_up(summary: ImportSummary, checked: _CheckedSource, writer: StoreWriter, labels: Manifest | None) -> None:
    """Counts what the store and the table of labels have of each other."""
    summary.stored = len(writer.index)
    summary.zero_vectors = checked.zero
    summary.without_patient = sum(not patient for patient in checked.patients.values())
    if labels is not None:
        table = set(labels.ids.tolist())
        summary.without_labels = len(checked.contents.keys() - table)
        summary.labels_without_vector = len(table - writer.index.latest.keys())


def _leave_out(checked: _CheckedSource, writer: StoreWriter) -> int:
    """Drops the images that were forgotten, and counts them."""
    out = [
        image_id
        for image_id, content in checked.contents.items()
        if writer.forgotten.covers(checked.patients[image_id], image_id, content)
    ]
    for image_id in out:
        del checked.contents[image_id], checked.patients[image_id]
    return len(out)


def content_id(array: np.ndarray) -> bytes:
    """The content id of an imported vector: SHA-256 of its bytes (little-endian, in C order) after a word of our own.

    The word keeps it apart from the SHA-256 of any image file.
    """
    values = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()
    return bytes.fromhex(sha256_hex(b"cxr_embed imported vector\n" + values))


def _check(source: ImportSource, shape: Shape | None, dtype: Dtype | None, progress: Progress | None) -> _CheckedSource:
    """Reads all of a source: its ids, and the content id of every vector in the store's dtype."""
    checked: _CheckedSource | None = None
    for vector in _reported(source.read(shape), "checking", source.count, progress):
        image_id, array = vector.image_id, vector.array
        if checked is None:
            chosen: Dtype = dtype or ("float16" if array.dtype.itemsize == 2 else "float32")
            checked = _CheckedSource(shape=array.shape, file_dtype=array.dtype.newbyteorder("="), dtype=chosen)
        if fault := _id_fault(image_id):
            raise CxrEmbedError(f"{vector.where[:300]}: the id {fault}")
        if image_id in checked.contents:
            raise CxrEmbedError(f"{vector.where}: the id stands twice; which of the vectors is the right one?")
        if array.shape != checked.shape:
            raise CxrEmbedError(f"{vector.where}: shape {array.shape}, the first vector has {checked.shape}")
        if dtype is None and array.dtype.itemsize > 2 and checked.dtype == "float16":
            raise CxrEmbedError(f"{vector.where}: {array.dtype}, the first vector is float16; choose one with `dtype`")
        stored = _stored(vector, checked.dtype)
        if not stored.any():
            checked.zero.append(image_id)
        checked.contents[image_id] = content_id(stored)
        checked.patients[image_id] = vector.patient_id.strip()
    if checked is None:
        raise CxrEmbedError(f"{source.paths[0]}: holds no vectors")
    return checked


def _id_fault(image_id: str) -> str:
    """What keeps a text from being an id; blank for nothing."""
    if not image_id.strip():
        return "is blank"
    if CONTROL.search(image_id) or image_id.encode(errors="ignore").decode() != image_id:
        return "holds control characters, or what is not text"
    return f"is longer than {LONGEST_ID:,} characters" if len(image_id) > LONGEST_ID else ""


def _stored(vector: Vector, dtype: Dtype) -> np.ndarray:
    """The vector in the store's dtype.

    Raises:
        CxrEmbedError: where it is not finite.
    """
    with np.errstate(over="ignore"):
        array = vector.array.astype(dtype)
    if not np.isfinite(array).all():
        if np.isfinite(vector.array).all():
            raise CxrEmbedError(f"{vector.where}: too large for {dtype}; use `dtype='float32'`")
        raise CxrEmbedError(f"{vector.where}: has NaN or infinite values")
    return array


def _write(
    vectors: Iterator[Vector], checked: _CheckedSource, writer: StoreWriter, engine: str, summary: ImportSummary
) -> None:
    """Reads a checked source again and stores what the store does not hold as it is."""
    output = next(iter(writer.header.spec.outputs))
    index = writer.index
    live = (image_id for image_id in index.latest if image_id not in index.broken)
    before = dict(zip(live, zip(index.column("content"), index.column("patient_id"), strict=True), strict=True))
    todo: set[str] = set()
    for image_id, content in checked.contents.items():
        old = before.get(image_id, (b"", ""))
        patient = checked.patients[image_id] = checked.patients[image_id] or old[1]
        if old == (content, patient):
            summary.unchanged += 1
        else:
            todo.add(image_id)
            summary.added, summary.replaced = summary.added + (not old[0]), summary.replaced + bool(old[0])
    if not todo:
        return
    new: set[bytes] = set()
    for vector in vectors:
        image_id = vector.image_id
        if image_id not in todo:
            continue
        array = _stored(vector, checked.dtype)
        content = content_id(array)
        if content != checked.contents[image_id]:
            raise CxrEmbedError(f"{vector.where}: changed while it was imported; run it again")
        row = Row(image_id=image_id, patient_id=checked.patients[image_id], content=content)
        if content in new or index.find_content(content) is not None:
            writer.add_row(row)
        else:
            writer.add_vector(row, {output: array})
            new.add(content)
        if writer.full:
            writer.flush(engine)
    writer.flush(engine)


def _reported(vectors: Iterator[Vector], doing: str, total: int | None, progress: Progress | None) -> Iterator[Vector]:
    number = 0
    for number, vector in enumerate(vectors, 1):
        yield vector
        if progress is not None and number % _TELL_EVERY == 0:
            progress(doing, number, total)
    if progress is not None:
        progress(doing, number, number)


def _check_store(store: Path, spec: EncoderSpec, dtype: Dtype | None) -> None:
    """Refuses a store of other vectors before a large file is read."""
    if not (store / HEADER).is_file():
        return
    header = Header.read(store)
    if header.spec.fingerprint != spec.fingerprint:
        raise StoreError(
            f"{store} holds {', '.join(header.spec.outputs)} of {describe(header.spec)}, not imported "
            f"{', '.join(spec.outputs)} of {describe(spec)}; give another `store`"
        )
    if dtype is not None and dtype != header.dtype:
        raise StoreError(f"{store} holds {header.dtype} vectors; use `dtype` {header.dtype}, or another `store`")


def _table_patients(labels: Manifest | None) -> dict[str, str]:
    if labels is None:
        return {}
    return dict(zip(labels.ids.tolist(), labels.column("patient_id").tolist(), strict=True))


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise CxrEmbedError(f"`patient_pattern` is not a regular expression: {error}") from None
    if compiled.groups < 1:
        raise CxrEmbedError("`patient_pattern` needs one group (...), which is the patient's id")
    return compiled


def _search(pattern: re.Pattern[str] | None, image_id: str) -> str:
    found = match_bounded(pattern, image_id) if pattern is not None else None
    return (found[1] or "").strip() if found else ""
